//! Register arrays: every element is a register of its own.
//!
//! In: declarations and constant indices. Out: memory for single values that LLVM turns into SSA values, none of which is ever
//! addressed at run time: whole vectors where the array has a lane axis or is declared inside a lane loop. Assumes that
//! `unroll` loops around an access are unrolled.

use super::build::{Ssa, type_of};
use super::emit::Emitter;
use super::lanes::Target;
use super::value::Val;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{Index, LocalId, Mem};
use birkhoff_ir::scalar::Scalar;
use std::rc::Rc;

/// A register array in scope.
pub(super) struct RegArray<'c> {
    dtype: DType,
    /// One list per element (over all axes but the lane axis); in it, one register per chunk of the lane axis.
    registers: Vec<Vec<Ssa<'c>>>,
    shape: RegShape,
}

#[derive(Clone, Copy, PartialEq)]
enum RegShape {
    /// One scalar per element.
    Scalars,
    /// One value per lane of the loop around.
    PerLane { width: u32 },
    /// Chunks of `width` along the lane axis.
    LaneAxis { width: u32 },
}

impl RegShape {
    fn lanes(self) -> u32 {
        match self {
            RegShape::Scalars => 1,
            RegShape::PerLane { width } | RegShape::LaneAxis { width } => width,
        }
    }

    /// Lanes of what is kept: LLVM takes vectors whose length is no power of two apart wherever a loop carries them.
    fn kept_lanes(self) -> u32 {
        self.lanes().next_power_of_two()
    }
}

/// One element of a register array, or one chunk of its lane axis.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Slot {
    elem: usize,
    /// The position on the lane axis.
    position: i64,
    /// True if the lanes from that position on are meant, not that position alone.
    by_lane: bool,
}

impl<'c> Emitter<'_, 'c> {
    /// Starts the life of a register array: zeros, so that no loop carries older values.
    pub(super) fn declare_reg(&mut self, id: LocalId) -> Result<(), Diagnostic> {
        let Some((_, local)) = self.reg_local(Mem::Local(id)) else { return Ok(()) };
        let dtype = local.dtype.compute();
        let extents: Option<Vec<i64>> = local.shape.iter().map(|dim| dim.as_const()).collect();
        let Some(extents) = extents else {
            return Err(self.broken("a register array has a size that is not a constant"));
        };
        let mut n_elems = 1i64;
        for (axis, extent) in extents.iter().enumerate() {
            if local.lane_axis.is_none_or(|(lane_axis, _)| lane_axis as usize != axis) {
                n_elems = n_elems.saturating_mul((*extent).max(0));
            }
        }
        if n_elems > 1 << 16 {
            return Err(self.unsupported("a register array has more than 65536 elements"));
        }
        let (shape, n_chunks) = match (local.lane_axis, &self.lanes) {
            (Some((axis, width)), None) => {
                let Some(len) = extents.get(axis as usize).copied() else {
                    return Err(self.broken("a register array lacks its lane axis"));
                };
                if len % i64::from(width) != 0 {
                    return Err(
                        self.broken("the lane axis of a register array is not a multiple of its width")
                    );
                }
                (RegShape::LaneAxis { width }, (len / i64::from(width)) as usize)
            }
            (Some(_), Some(_)) => {
                return Err(self.broken("a register array with a lane axis is declared inside a lane loop"));
            }
            (None, Some(lanes)) => (RegShape::PerLane { width: lanes.width }, 1),
            (None, None) => (RegShape::Scalars, 1),
        };
        let known = self.regs[id.0 as usize].clone().filter(|array| array.shape == shape);
        let array = known.unwrap_or_else(|| {
            let element = |_| (0..n_chunks).map(|_| self.register(dtype, shape.kept_lanes())).collect();
            Rc::new(RegArray { dtype, registers: (0..n_elems).map(element).collect(), shape })
        });
        let zero = self.constant(dtype, Scalar::Int(0).convert(dtype), shape.kept_lanes());
        for register in array.registers.iter().flatten() {
            self.b.store(zero, *register, dtype.size_bytes() as u32);
        }
        self.regs[id.0 as usize] = Some(array);
        Ok(())
    }

    /// What an access of `mem` at `index` touches.
    pub(super) fn target(&mut self, mem: Mem, index: &[Index]) -> Result<Target<'c>, Diagnostic> {
        match self.reg_local(mem) {
            None => Ok(Target::Memory(self.place(mem, index)?)),
            Some((id, _)) => Ok(Target::Register(id, self.slot(id, index)?)),
        }
    }

    fn slot(&mut self, id: LocalId, index: &[Index]) -> Result<Slot, Diagnostic> {
        let local = &self.func.locals[id.0 as usize];
        let mut slot = Slot { elem: 0, position: 0, by_lane: false };
        for (axis, (index, extent)) in index.iter().zip(&local.shape).enumerate() {
            let (position, by_lane) = self.constant_position(index)?;
            let extent = extent.as_const().unwrap_or(0);
            if position < 0 || position >= extent {
                return Err(self.broken(&format!("register array `{}` is indexed out of bounds", local.name)));
            }
            if local.lane_axis.is_some_and(|(lane_axis, _)| lane_axis as usize == axis) {
                (slot.position, slot.by_lane) = (position, by_lane);
                continue;
            }
            if by_lane {
                return Err(self.broken("a register array is indexed by a lane variable off its lane axis"));
            }
            slot.elem = slot.elem * extent as usize + position as usize;
        }
        Ok(slot)
    }

    /// The constant value of an index, that of its first lane if it counts lanes.
    fn constant_position(&mut self, index: &Index) -> Result<(i64, bool), Diagnostic> {
        let constant =
            |emitter: &Self| emitter.broken("a register array is indexed by what is not a constant");
        let mut position = index.offset.as_const().ok_or_else(|| constant(self))?;
        let mut by_lane = false;
        for (var, coeff) in &index.terms {
            let coeff = coeff.as_const().ok_or_else(|| constant(self))?;
            let lanes = self.lanes.as_ref().filter(|lanes| lanes.var == *var);
            let val = match lanes {
                Some(lanes) if coeff == 1 => {
                    by_lane = true;
                    lanes.base
                }
                Some(_) => {
                    return Err(self.broken("a register array is indexed by a multiple of the lane variable"));
                }
                None => self.lookup(*var)?.val,
            };
            let Val::Const(value) = val else { return Err(constant(self)) };
            position += coeff * value.as_i64();
        }
        Ok((position, by_lane))
    }

    /// Reads what `target` names.
    pub(super) fn load_target(&mut self, target: &Target<'c>) -> Result<Val<'c>, Diagnostic> {
        match target {
            Target::Memory(place) => self.load_place(place),
            Target::Register(id, slot) => self.read_reg(*id, *slot),
        }
    }

    /// Writes what `target` names.
    pub(super) fn store_target(&mut self, target: &Target<'c>, val: Val<'c>) -> Result<(), Diagnostic> {
        match target {
            Target::Memory(place) => self.store_place(place, val),
            Target::Register(id, slot) => self.write_reg(*id, *slot, val),
        }
    }

    /// The register that holds a slot, and the lane in it if one alone is meant.
    fn reached(
        &self,
        id: LocalId,
        slot: Slot,
    ) -> Result<(Rc<RegArray<'c>>, Ssa<'c>, Option<u32>), Diagnostic> {
        let Some(array) = self.regs[id.0 as usize].clone() else {
            return Err(self.broken("a register array is used before it is declared"));
        };
        let width = i64::from(array.shape.lanes());
        let (mut chunk, mut lane) = (0, None);
        match array.shape {
            RegShape::Scalars => {}
            RegShape::PerLane { width } if self.width() != width => {
                return Err(self.broken("a register array is used outside the loop that declares it"));
            }
            RegShape::PerLane { .. } => {}
            RegShape::LaneAxis { .. } => {
                chunk = (slot.position / width) as usize;
                let within = slot.position % width;
                if !slot.by_lane {
                    lane = Some(within as u32);
                } else if within != 0 || i64::from(self.width()) != width {
                    return Err(
                        self.broken("a lane loop does not fit the chunks of the register array it indexes")
                    );
                }
            }
        }
        let register = array.registers.get(slot.elem).and_then(|chunks| chunks.get(chunk)).copied();
        let register = register.ok_or_else(|| self.broken("a register array is indexed out of bounds"))?;
        Ok((array, register, lane))
    }

    fn read_reg(&mut self, id: LocalId, slot: Slot) -> Result<Val<'c>, Diagnostic> {
        let (array, register, lane) = self.reached(id, slot)?;
        let (lanes, kept) = (array.shape.lanes(), array.shape.kept_lanes());
        let value = self.b.load(self.ty(array.dtype, kept), register, array.dtype.size_bytes() as u32);
        Ok(match lane {
            Some(lane) => Val::Uniform(self.b.extract(value, lane)),
            None if array.shape == RegShape::Scalars => Val::Uniform(value),
            None if kept == lanes => Val::Lanes(value),
            None => Val::Lanes(self.b.shuffle(value, value, 0..lanes)),
        })
    }

    fn write_reg(&mut self, id: LocalId, slot: Slot, val: Val<'c>) -> Result<(), Diagnostic> {
        let (array, register, lane) = self.reached(id, slot)?;
        let align = array.dtype.size_bytes() as u32;
        let (lanes, kept) = (array.shape.lanes(), array.shape.kept_lanes());
        let value = match lane {
            Some(lane) => {
                let elem = self.as_scalar(val, array.dtype)?;
                let chunk = self.b.load(self.ty(array.dtype, kept), register, align);
                self.b.insert(chunk, elem, lane)
            }
            None if array.shape == RegShape::Scalars => self.as_scalar(val, array.dtype)?,
            None if kept == lanes => self.as_lanes(val, array.dtype),
            None => {
                let value = self.as_lanes(val, array.dtype);
                let nothing = self.b.poison(type_of(value));
                self.b.shuffle(value, nothing, 0..kept)
            }
        };
        self.b.store(value, register, align);
        Ok(())
    }
}
