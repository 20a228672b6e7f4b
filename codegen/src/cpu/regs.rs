//! Register arrays: every element is an SSA variable, so nothing spills by construction.
//!
//! In: declarations and constant indices. Out: Cranelift variables, whole vectors where the array has a lane axis or is
//! declared inside a lane loop. Assumes that `unroll` loops around an access are unrolled.

use super::emit::Emitter;
use super::lanes::Target;
use super::value::{Val, chunk_lanes, chunk_type, n_chunks, scalar_type};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{Index, LocalId, Mem};
use cranelift_codegen::ir::Value;
use cranelift_frontend::Variable;
use std::rc::Rc;

/// A register array in scope.
pub(super) struct RegArray {
    dtype: DType,
    /// One list per element (over all axes but the lane axis).
    vars: Vec<Vec<Variable>>,
    shape: RegShape,
}

#[derive(Clone, Copy, PartialEq)]
enum RegShape {
    /// One scalar per element.
    Scalars,
    /// One value per lane of the loop around.
    PerLane,
    /// Chunks of `width` along the lane axis.
    LaneAxis { width: u32 },
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

impl Emitter<'_, '_> {
    /// Starts the life of a register array: fresh variables, zero so that no loop carries older values.
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
        let (shape, types) = match (local.lane_axis, &self.lanes) {
            (Some((axis, width)), None) => {
                let Some(len) = extents.get(axis as usize).copied() else {
                    return Err(self.broken("a register array lacks its lane axis"));
                };
                if len % i64::from(width) != 0 {
                    return Err(
                        self.broken("the lane axis of a register array is not a multiple of its width")
                    );
                }
                let chunks = (len / i64::from(width)) as usize * n_chunks(dtype, width);
                (RegShape::LaneAxis { width }, vec![chunk_type(dtype, width); chunks])
            }
            (Some(_), Some(_)) => {
                return Err(self.broken("a register array with a lane axis is declared inside a lane loop"));
            }
            (None, Some(lanes)) => {
                let width = lanes.width;
                (RegShape::PerLane, vec![chunk_type(dtype, width); n_chunks(dtype, width)])
            }
            (None, None) => (RegShape::Scalars, vec![scalar_type(dtype)]),
        };
        let mut vars = vec![];
        for _ in 0..n_elems {
            let mut elem = vec![];
            for ty in &types {
                let zero = self.bits_const(*ty, 0);
                let var = self.b.declare_var(*ty);
                self.b.def_var(var, zero);
                elem.push(var);
            }
            vars.push(elem);
        }
        self.regs[id.0 as usize] = Some(Rc::new(RegArray { dtype, vars, shape }));
        Ok(())
    }

    /// What an access of `mem` at `index` touches.
    pub(super) fn target(&mut self, mem: Mem, index: &[Index]) -> Result<Target, Diagnostic> {
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
                    lanes.base.clone()
                }
                Some(_) => {
                    return Err(self.broken("a register array is indexed by a multiple of the lane variable"));
                }
                None => self.lookup(*var)?.val.clone(),
            };
            let Val::Const(value) = val else { return Err(constant(self)) };
            position += coeff * value.as_i64();
        }
        Ok((position, by_lane))
    }

    /// Reads what `target` names.
    pub(super) fn load_target(&mut self, target: &Target) -> Result<Val, Diagnostic> {
        match target {
            Target::Memory(place) => self.load_place(place),
            Target::Register(id, slot) => self.read_reg(*id, *slot),
        }
    }

    /// Writes what `target` names.
    pub(super) fn store_target(&mut self, target: &Target, val: &Val) -> Result<(), Diagnostic> {
        match target {
            Target::Memory(place) => self.store_place(place, val),
            Target::Register(id, slot) => self.write_reg(*id, *slot, val),
        }
    }

    fn reg(&self, id: LocalId) -> Result<Rc<RegArray>, Diagnostic> {
        match &self.regs[id.0 as usize] {
            Some(array) => Ok(array.clone()),
            None => Err(self.broken("a register array is used before it is declared")),
        }
    }

    fn use_all(&mut self, vars: &[Variable]) -> Vec<Value> {
        vars.iter().map(|var| self.b.use_var(*var)).collect()
    }

    fn read_reg(&mut self, id: LocalId, slot: Slot) -> Result<Val, Diagnostic> {
        let array = self.reg(id)?;
        let vars = &array.vars[slot.elem];
        match array.shape {
            RegShape::Scalars => Ok(Val::Uniform(self.b.use_var(vars[0]))),
            RegShape::PerLane if self.lanes.is_some() => Ok(Val::Lanes(self.use_all(vars))),
            RegShape::PerLane => {
                Err(self.broken("a register array is used outside the loop that declares it"))
            }
            RegShape::LaneAxis { width } if slot.by_lane => {
                let range = self.chunk_range(array.dtype, slot.position, width)?;
                Ok(Val::Lanes(self.use_all(&vars[range])))
            }
            RegShape::LaneAxis { width } => {
                let (var, lane) = lane_position(array.dtype, slot.position, width);
                let value = self.b.use_var(vars[var]);
                Ok(Val::Uniform(match lane {
                    Some(lane) => self.extract(array.dtype, value, lane),
                    None => value,
                }))
            }
        }
    }

    fn write_reg(&mut self, id: LocalId, slot: Slot, val: &Val) -> Result<(), Diagnostic> {
        let array = self.reg(id)?;
        let vars = &array.vars[slot.elem];
        let (vars, values) = match array.shape {
            RegShape::Scalars => (vec![vars[0]], vec![self.as_scalar(val, array.dtype)?]),
            RegShape::PerLane if self.lanes.is_some() => (vars.clone(), self.as_lanes(val, array.dtype)?),
            RegShape::PerLane => {
                return Err(self.broken("a register array is used outside the loop that declares it"));
            }
            RegShape::LaneAxis { width } if slot.by_lane => {
                let range = self.chunk_range(array.dtype, slot.position, width)?;
                (vars[range].to_vec(), self.as_lanes(val, array.dtype)?)
            }
            RegShape::LaneAxis { width } => {
                let (var, lane) = lane_position(array.dtype, slot.position, width);
                let mut value = self.as_scalar(val, array.dtype)?;
                if let Some(lane) = lane {
                    let chunk = self.b.use_var(vars[var]);
                    value = self.insert(array.dtype, chunk, lane, value);
                }
                (vec![vars[var]], vec![value])
            }
        };
        for (var, value) in vars.into_iter().zip(values) {
            self.b.def_var(var, value);
        }
        Ok(())
    }

    /// The variables of the chunk that starts at `position`.
    fn chunk_range(
        &self,
        dtype: DType,
        position: i64,
        width: u32,
    ) -> Result<std::ops::Range<usize>, Diagnostic> {
        let step = i64::from(width);
        if position % step != 0 || self.width() != width {
            return Err(self.broken("a lane loop does not fit the chunks of the register array it indexes"));
        }
        let first = (position / step) as usize * n_chunks(dtype, width);
        Ok(first..first + n_chunks(dtype, width))
    }
}

/// The variable that holds a position of the lane axis, and its lane there (none in a scalar).
fn lane_position(dtype: DType, position: i64, width: u32) -> (usize, Option<u32>) {
    let per_chunk = i64::from(chunk_lanes(dtype, width));
    let lane = (per_chunk > 1).then_some((position % per_chunk) as u32);
    ((position / per_chunk) as usize, lane)
}
