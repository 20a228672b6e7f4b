//! Register arrays: every element is a register of each thread.
//!
//! In: declarations and constant indices. Out: single elements in memory that LLVM turns into SSA values, none of which is
//! ever addressed at run time. Of an array with a lane axis, a thread has its lane's part of every chunk.

use super::emit::{Emitter, Val};
use super::known::Register;
use super::lanes::WARP;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{Index, LocalId, Mem, Space};

/// Most registers of one array.
const MAX_ELEMS: i64 = 4096;

/// A register array in scope.
pub(super) struct RegArray {
    dtype: DType,
    /// One list per element over all axes but the lane axis; in it, one register per chunk.
    elems: Vec<Vec<Register>>,
}

/// One element of a register array.
pub(super) struct Slot {
    pub(super) register: Register,
    pub(super) dtype: DType,
    /// The one lane whose part is meant; without it, that of each thread.
    pub(super) lane: Option<i64>,
    /// Lanes in a chunk, if there is a lane axis.
    pub(super) width: u32,
}

impl<'c, 'm> Emitter<'_, 'c, 'm> {
    /// Starts the life of a register array: nothing of what it held before matters.
    pub(super) fn declare(&mut self, id: LocalId) -> Result<(), Diagnostic> {
        let local = &self.func.locals[id.0 as usize];
        let dtype = local.dtype.compute();
        let ty = self.b.compute_type(dtype);
        if self.regs[id.0 as usize].is_none() {
            let extents: Option<Vec<i64>> = local.shape.iter().map(|dim| dim.as_const()).collect();
            let Some(extents) = extents else {
                return Err(self.broken("a register array has a size that is not a constant"));
            };
            let (mut n_elems, mut n_chunks) = (1i64, 1);
            for (axis, extent) in extents.iter().enumerate() {
                match local.lane_axis {
                    Some((lane_axis, width)) if lane_axis as usize == axis => {
                        n_chunks = extent / i64::from(width)
                    }
                    _ => n_elems = n_elems.saturating_mul((*extent).max(0)),
                }
            }
            if n_elems.saturating_mul(n_chunks) > MAX_ELEMS {
                let name = &local.name;
                return Err(self.unsupported(&format!(
                    "the register array `{name}` has more than {MAX_ELEMS} registers"
                )));
            }
            let mut elems = vec![];
            for _ in 0..n_elems {
                elems.push((0..n_chunks).map(|_| self.b.register(ty)).collect());
            }
            self.regs[id.0 as usize] = Some(RegArray { dtype, elems });
        }
        let registers: Vec<Register> =
            self.regs[id.0 as usize].iter().flat_map(|array| array.elems.iter().flatten().copied()).collect();
        // Nothing is carried around loops from one life to the next.
        for register in registers {
            let nothing = self.b.undefined(ty);
            self.b.set_register(register, nothing);
        }
        Ok(())
    }

    /// The register behind an element, if it is in a register.
    ///
    /// Errors: an element that this mapping cannot reach.
    pub(super) fn slot(&mut self, mem: Mem, index: &[Index]) -> Result<Option<Slot>, Diagnostic> {
        let Mem::Local(id) = mem else { return Ok(None) };
        let local = &self.func.locals[id.0 as usize];
        if local.space != Space::Reg {
            return Ok(None);
        }
        let (mut elem, mut chunk, mut lane) = (0i64, 0i64, None);
        let width = local.lane_axis.map_or(1, |(_, width)| width);
        for (axis, (index, extent)) in index.iter().zip(&local.shape).enumerate() {
            let (position, by_lane) = self.constant_position(index)?;
            let extent = extent.as_const().unwrap_or(0);
            if position < 0 || position >= extent {
                return Err(self.broken(&format!("register array `{}` is indexed out of bounds", local.name)));
            }
            if local.lane_axis.is_some_and(|(lane_axis, _)| lane_axis as usize == axis) {
                chunk = position / i64::from(width);
                lane = (!by_lane).then_some(position % i64::from(width));
            } else if by_lane {
                return Err(self.broken("a register array is indexed by a lane variable off its lane axis"));
            } else {
                elem = elem * extent + position;
            }
        }
        if lane.is_some() && (width > WARP || self.pending.is_none()) {
            return Err(self.unsupported(&format!("single lanes of the register array `{}`", local.name)));
        }
        let Some(array) = &self.regs[id.0 as usize] else {
            return Err(self.broken("a register array is used before it is declared"));
        };
        let register = array.elems.get(elem as usize).and_then(|chunks| chunks.get(chunk as usize)).copied();
        match register {
            Some(register) => Ok(Some(Slot { register, dtype: array.dtype, lane, width })),
            None => Err(self.broken("a register array is indexed out of bounds")),
        }
    }

    /// The constant value of an index, that of its first lane if it counts lanes.
    fn constant_position(&mut self, index: &Index) -> Result<(i64, bool), Diagnostic> {
        let constant = |this: &Self| this.broken("a register array is indexed by what is not a constant");
        let mut position = index.offset.as_const().ok_or_else(|| constant(self))?;
        let mut by_lane = false;
        for (var, coeff) in &index.terms {
            let coeff = coeff.as_const().ok_or_else(|| constant(self))?;
            let lanes = self.lanes.as_ref().filter(|lanes| lanes.inner.var == *var);
            let value = match lanes {
                Some(lanes) if coeff == 1 => {
                    by_lane = true;
                    lanes.base.ok_or_else(|| constant(self))?
                }
                Some(_) => {
                    return Err(self.broken("a register array is indexed by a multiple of the lane variable"));
                }
                None => match self.lookup(*var)? {
                    Val::Const(value) => value.as_i64(),
                    Val::Ssa(_) => return Err(constant(self)),
                },
            };
            position += coeff * value;
        }
        Ok((position, by_lane))
    }
}
