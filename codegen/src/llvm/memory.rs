//! Loads and stores of one element, of neighbouring lanes, and of scattered lanes.
//!
//! In: a place and a value of the compute type. Out: memory instructions and, for bf16, f16 and bool, the conversion from and
//! to the storage type. Assumes elements aligned to their size, no more.

use super::address::Place;
use super::build::{Cast, IntCompare, Ssa, Ty};
use super::emit::Emitter;
use super::streams::LINE_BYTES;
use super::value::Val;
use crate::size::Size;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::Mem;

/// Fewer scattered elements are accessed one by one.
const LEAST_SCATTERED: u32 = 8;

impl<'c> Emitter<'_, 'c> {
    /// The type of so many elements in memory.
    fn storage_type(&self, dtype: DType, lanes: u32) -> Ty<'c> {
        match dtype {
            DType::Bf16 | DType::F16 => self.b.vector(self.b.int(16), lanes),
            DType::Bool => self.b.vector(self.b.int(8), lanes),
            other => self.ty(other, lanes),
        }
    }

    /// Reads a place, widened to the compute type.
    pub(super) fn load_place(&mut self, place: &Place<'c>) -> Result<Val<'c>, Diagnostic> {
        let dtype = self.func.mem_dtype(place.mem);
        let align = dtype.size_bytes() as u32;
        let lanes = if place.uniform() { 1 } else { self.width() };
        let stored = if place.uniform() || self.neighbours(place, dtype) {
            let address = self.address(place)?;
            self.b.load(self.storage_type(dtype, lanes), address, align)
        } else if self.scatters(dtype) {
            let addresses = self.scattered_addresses(place)?;
            self.b.gather_load(self.storage_type(dtype, lanes), addresses, align)
        } else {
            let ty = self.storage_type(dtype, 1);
            let addresses = self.lane_addresses(place)?;
            let elems: Vec<Ssa<'c>> =
                addresses.into_iter().map(|address| self.b.load(ty, address, align)).collect();
            self.b.gather(&elems)
        };
        let value = self.widen(dtype, stored, lanes)?;
        Ok(if place.uniform() { Val::Uniform(value) } else { Val::Lanes(value) })
    }

    /// Writes a place, narrowed to the storage type.
    pub(super) fn store_place(&mut self, place: &Place<'c>, val: Val<'c>) -> Result<(), Diagnostic> {
        let dtype = self.func.mem_dtype(place.mem);
        let align = dtype.size_bytes() as u32;
        if place.uniform() {
            let value = self.as_scalar(val, dtype.compute())?;
            let stored = self.narrow(dtype, value, 1)?;
            let address = self.address(place)?;
            self.b.store(stored, address, align);
            return Ok(());
        }
        let width = self.width();
        let value = self.as_lanes(val, dtype.compute());
        let stored = self.narrow(dtype, value, width)?;
        if self.neighbours(place, dtype) {
            let address = self.address(place)?;
            match place.mem {
                Mem::Param(id) if self.streams.contains(&id) => {
                    self.b.store_around(stored, address, LINE_BYTES as u32);
                }
                _ => self.b.store(stored, address, align),
            }
            return Ok(());
        }
        if self.scatters(dtype) {
            let addresses = self.scattered_addresses(place)?;
            self.b.scatter_store(stored, addresses, align);
            return Ok(());
        }
        for (lane, address) in self.lane_addresses(place)?.into_iter().enumerate() {
            self.b.store(self.b.extract(stored, lane as u32), address, align);
        }
        Ok(())
    }

    /// True if the lanes are neighbours in memory.
    fn neighbours(&self, place: &Place<'c>, dtype: DType) -> bool {
        place.lane_terms.is_empty() && place.lane_stride == Size::Known(dtype.size_bytes() as i64)
    }

    /// True if scattered elements are accessed by one instruction.
    fn scatters(&self, dtype: DType) -> bool {
        self.host.has_scatter && self.width() >= LEAST_SCATTERED && dtype.size_bytes() >= 4
    }

    fn widen(&self, dtype: DType, stored: Ssa<'c>, lanes: u32) -> Result<Ssa<'c>, Diagnostic> {
        match dtype {
            DType::Bf16 | DType::F16 => self.widen_half(dtype, stored, lanes),
            DType::Bool => Ok(self.b.icmp(IntCompare::LLVMIntNE, stored, self.int_like(8, lanes, 0))),
            _ => Ok(stored),
        }
    }

    fn narrow(&self, dtype: DType, value: Ssa<'c>, lanes: u32) -> Result<Ssa<'c>, Diagnostic> {
        match dtype {
            DType::Bf16 | DType::F16 => self.narrow_half(dtype, value, lanes),
            DType::Bool => {
                let byte = self.b.vector(self.b.int(8), lanes);
                Ok(self.b.cast(Cast::LLVMZExt, value, byte))
            }
            _ => Ok(value),
        }
    }
}
