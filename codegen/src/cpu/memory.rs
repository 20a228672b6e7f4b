//! Loads and stores of one element, of neighbouring lanes, and of scattered lanes.
//!
//! In: a place and a value of the compute type. Out: Cranelift memory instructions and, for bf16, f16 and bool, the
//! conversion from and to the storage type. Assumes elements aligned to their size, no more.

use super::address::Place;
use super::cache::Key;
use super::emit::Emitter;
use super::value::{Val, chunk_lanes, n_chunks, scalar_type, vector_type};
use crate::size::Size;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, Type, Value, types};

/// The type of an element in memory.
fn storage_type(dtype: DType) -> Type {
    match dtype {
        DType::Bf16 | DType::F16 => types::I16,
        other => scalar_type(other),
    }
}

impl Emitter<'_, '_> {
    /// Reads a place, widened to the compute type.
    pub(super) fn load_place(&mut self, place: &Place) -> Result<Val, Diagnostic> {
        let uniform = place.uniform();
        let key = Key::Load(place.clone(), self.version(place.mem), if uniform { 1 } else { self.width() });
        if let Some(found) = self.cache.get(&key) {
            return Ok(if uniform { Val::Uniform(found[0]) } else { Val::Lanes(found.clone()) });
        }
        let dtype = self.func.mem_dtype(place.mem);
        let flags = self.flags(place.mem);
        let val = if uniform {
            let (base, offset) = self.address(place);
            let value = self.load_scalar(dtype, flags, base, offset);
            if matches!(dtype, DType::F32 | DType::F64) {
                // Right behind its load, and if nothing else reads that, it is one instruction. If it is not used, it is none.
                self.splat(vector_type(dtype), value);
            }
            Val::Uniform(value)
        } else if self.neighbours(place, dtype) {
            let (base, offset) = self.address(place);
            Val::Lanes(self.load_vectors(dtype, flags, base, offset))
        } else {
            let addresses = self.lane_addresses(place);
            self.load_lanes(dtype, flags, &addresses)
        };
        if let Val::Uniform(value) = &val {
            self.cache.insert(key, vec![*value]);
        } else if let Val::Lanes(chunks) = &val {
            self.cache.insert(key, chunks.clone());
        }
        Ok(val)
    }

    /// Writes a place, narrowed to the storage type.
    pub(super) fn store_place(&mut self, place: &Place, val: &Val) -> Result<(), Diagnostic> {
        let dtype = self.func.mem_dtype(place.mem);
        let flags = self.flags(place.mem);
        if place.uniform() {
            let value = self.as_scalar(val, dtype.compute())?;
            let (base, offset) = self.address(place);
            self.store_scalar(dtype, flags, base, offset, value);
        } else if self.neighbours(place, dtype) {
            let chunks = self.as_lanes(val, dtype.compute())?;
            let (base, offset) = self.address(place);
            self.store_vectors(dtype, flags, base, offset, &chunks);
        } else {
            let elems = self.split(val, dtype.compute())?;
            let addresses = self.lane_addresses(place);
            for ((base, offset), elem) in addresses.into_iter().zip(elems) {
                self.store_scalar(dtype, flags, base, offset, elem);
            }
        }
        self.touch(place.mem);
        Ok(())
    }

    /// True if the lanes are neighbours in memory and fill native vectors.
    fn neighbours(&self, place: &Place, dtype: DType) -> bool {
        place.lane_terms.is_empty()
            && place.lane_stride == Size::Known(dtype.size_bytes() as i64)
            && chunk_lanes(dtype.compute(), self.width()) > 1
    }

    fn load_scalar(&mut self, dtype: DType, flags: MemFlagsData, base: Value, offset: i32) -> Value {
        let value = self.b.ins().load(storage_type(dtype), flags, base, offset);
        if !matches!(dtype, DType::Bf16 | DType::F16) {
            return value;
        }
        let bits = self.b.ins().uextend(types::I32, value);
        self.widen_half(dtype, bits)
    }

    fn load_vectors(&mut self, dtype: DType, flags: MemFlagsData, base: Value, offset: i32) -> Vec<Value> {
        let count = n_chunks(dtype.compute(), self.width()) as i32;
        let step = (chunk_lanes(dtype.compute(), self.width()) as u64 * dtype.size_bytes()) as i32;
        let mut chunks = vec![];
        for chunk in 0..count {
            let (base, offset) = self.advance(base, offset, chunk * step);
            chunks.push(match dtype {
                DType::Bf16 | DType::F16 => {
                    let bits = self.b.ins().uload16x4(flags, base, offset);
                    self.widen_half(dtype, bits)
                }
                DType::Bool => {
                    let bytes = self.b.ins().load(types::I32, flags, base, offset);
                    self.bytes_to_mask(bytes)
                }
                _ => self.b.ins().load(vector_type(dtype), flags, base, offset),
            });
        }
        chunks
    }

    /// Adds a distance to an offset, or to the base if the offset would not fit.
    fn advance(&mut self, base: Value, offset: i32, distance: i32) -> (Value, i32) {
        match offset.checked_add(distance) {
            Some(offset) => (base, offset),
            None => {
                let distance = self.i64_const(i64::from(offset) + i64::from(distance));
                (self.b.ins().iadd(base, distance), 0)
            }
        }
    }

    fn load_lanes(&mut self, dtype: DType, flags: MemFlagsData, addresses: &[(Value, i32)]) -> Val {
        let mut elems = vec![];
        for (base, offset) in addresses {
            elems.push(self.b.ins().load(storage_type(dtype), flags, *base, *offset));
        }
        if !matches!(dtype, DType::Bf16 | DType::F16) {
            return self.join(elems, dtype);
        }
        let words: Vec<Value> =
            elems.into_iter().map(|elem| self.b.ins().uextend(types::I32, elem)).collect();
        let Val::Lanes(chunks) = self.join(words, DType::I32) else { return Val::Lanes(vec![]) };
        Val::Lanes(chunks.into_iter().map(|bits| self.widen_half(dtype, bits)).collect())
    }

    /// Four bytes, 0 or 1, to a mask of 32-bit elements.
    fn bytes_to_mask(&mut self, bytes: Value) -> Value {
        let vector = self.b.ins().scalar_to_vector(types::I32X4, bytes);
        let bytes = self.bitcast(types::I8X16, vector);
        let halves = self.b.ins().uwiden_low(bytes);
        let words = self.b.ins().uwiden_low(halves);
        let zero = self.bits_const(types::I32X4, 0);
        self.b.ins().icmp(IntCC::NotEqual, words, zero)
    }

    fn store_scalar(&mut self, dtype: DType, flags: MemFlagsData, base: Value, offset: i32, value: Value) {
        let mut value = value;
        if matches!(dtype, DType::Bf16 | DType::F16) {
            let bits = self.narrow_half(dtype, value);
            value = self.b.ins().ireduce(types::I16, bits);
        }
        self.b.ins().store(flags, value, base, offset);
    }

    fn store_vectors(
        &mut self,
        dtype: DType,
        flags: MemFlagsData,
        base: Value,
        offset: i32,
        chunks: &[Value],
    ) {
        let step = (chunk_lanes(dtype.compute(), self.width()) as u64 * dtype.size_bytes()) as i32;
        let half = matches!(dtype, DType::Bf16 | DType::F16);
        if !half && dtype != DType::Bool {
            for (idx, chunk) in chunks.iter().enumerate() {
                let (base, offset) = self.advance(base, offset, idx as i32 * step);
                self.b.ins().store(flags, *chunk, base, offset);
            }
            return;
        }
        // Two chunks of a narrow type share one vector; an odd one fills half of it.
        for (idx, pair) in chunks.chunks(2).enumerate() {
            let (base, offset) = self.advance(base, offset, 2 * idx as i32 * step);
            let low = if half { self.narrow_half(dtype, pair[0]) } else { pair[0] };
            let high = match pair.get(1) {
                Some(high) if half => self.narrow_half(dtype, *high),
                Some(high) => *high,
                None => low,
            };
            let mut packed =
                if half { self.b.ins().unarrow(low, high) } else { self.b.ins().snarrow(low, high) };
            if dtype == DType::Bool {
                let bytes = self.b.ins().snarrow(packed, packed);
                let ones = self.bits_const(types::I8X16, 1);
                packed = self.b.ins().band(bytes, ones);
            }
            let size_bytes = step * pair.len() as i32;
            if size_bytes == 16 {
                self.b.ins().store(flags, packed, base, offset);
                continue;
            }
            let lane_ty = if size_bytes == 8 { types::I64 } else { types::I32 };
            let vector = self.bitcast(lane_ty.by(128 / lane_ty.bits()).unwrap_or(types::I64X2), packed);
            let part = self.b.ins().extractlane(vector, 0u8);
            self.b.ins().store(flags, part, base, offset);
        }
    }
}
