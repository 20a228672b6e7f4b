//! Elements of parameters, shared memory and registers.
//!
//! In: a memory and one index per axis. Out: loads and stores with 64-bit addresses. A value that all threads have is written by
//! the first alone; per-lane elements by their lanes. bf16 and f16 are widened and rounded by conversions of the machine.

use super::build::{Builder, Ssa};
use super::emit::Emitter;
use super::hazard::Access;
use super::layout::{ALIGN_BYTES, Home};
use super::regs::Slot;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{self, Index, Mem, Var};

impl<'a, 'c, 'm> Emitter<'a, 'c, 'm> {
    /// Runs `emit` in the threads where `guard` holds.
    pub(super) fn guarded(
        &mut self,
        guard: Option<Ssa<'c, 'm>>,
        emit: impl FnOnce(&mut Self) -> Result<(), Diagnostic>,
    ) -> Result<(), Diagnostic> {
        match guard {
            None => emit(self),
            Some(guard) => Builder::guarded(self, |this| &mut this.b, guard, emit),
        }
    }

    /// Loads an element, widened.
    pub(super) fn read(&mut self, mem: Mem, index: &'a [Index]) -> Result<Ssa<'c, 'm>, Diagnostic> {
        if let Some(slot) = self.slot(mem, index)? {
            return self.read_register(&slot);
        }
        self.meet_at(mem, index, &[(false, false)]);
        let place = self.address(mem, &self.linear(mem, index))?;
        Ok(self.load_element(mem, place))
    }

    /// Stores an element, rounded.
    pub(super) fn write(
        &mut self,
        mem: Mem,
        index: &'a [Index],
        value: Ssa<'c, 'm>,
    ) -> Result<(), Diagnostic> {
        if let Some(slot) = self.slot(mem, index)? {
            return self.write_register(&slot, value);
        }
        self.meet_at(mem, index, &[(true, false)]);
        let guard = self.writers(index);
        self.guarded(guard, |this| {
            let place = this.address(mem, &this.linear(mem, index))?;
            this.store_element(mem, place, value);
            Ok(())
        })
    }

    /// Replaces an element by what `change` makes of it.
    pub(super) fn update(
        &mut self,
        mem: Mem,
        index: &[Index],
        change: impl FnOnce(&mut Self, Ssa<'c, 'm>) -> Result<Ssa<'c, 'm>, Diagnostic>,
    ) -> Result<(), Diagnostic> {
        if let Some(slot) = self.slot(mem, index)? {
            let before = self.read_register(&slot)?;
            let after = change(self, before)?;
            return self.write_register(&slot, after);
        }
        self.meet_at(mem, index, &[(false, true), (true, true)]);
        let guard = self.writers(index);
        self.guarded(guard, |this| {
            let place = this.address(mem, &this.linear(mem, index))?;
            let before = this.load_element(mem, place);
            let after = change(this, before)?;
            this.store_element(mem, place, after);
            Ok(())
        })
    }

    /// Which threads write an element: its lanes, or the first.
    pub(super) fn writers(&self, index: &[Index]) -> Option<Ssa<'c, 'm>> {
        match &self.lanes {
            Some(lanes) if self.scope.any_varies(index) => lanes.guard,
            _ => Some(self.is_first),
        }
    }

    /// Lets threads meet before accesses of an element, if they must; each is whether it writes, and whether it is an update.
    pub(super) fn meet_at(&mut self, mem: Mem, index: &[Index], kinds: &[(bool, bool)]) {
        if self.pending.is_none() {
            return;
        }
        let lane = self.lanes.as_ref().map(|lanes| (lanes.inner, lanes.width));
        let is_narrow = lane.is_some_and(|(_, width)| width < self.limits.threads);
        let mut accesses: Vec<Access> = vec![];
        for kind in kinds {
            let Some(mut access) = self.access(mem, index, *kind, &self.scope, lane) else { return };
            // Threads beyond the lanes compute along with them.
            if is_narrow && kind == &(false, false) {
                access.threads = super::hazard::Threads::All;
            }
            accesses.push(access);
        }
        self.meet(&accesses);
    }

    // ---- addresses --------------------------------------------------------------------------------------------------

    /// How many elements behind the first of a memory an element is.
    pub(super) fn linear(&self, mem: Mem, index: &[Index]) -> Index {
        let mut linear = Index::default();
        let mut stride = Dim::constant(1);
        for (index, extent) in index.iter().zip(self.func.mem_shape(mem)).rev() {
            linear = linear.add(&index.scale(&stride));
            stride = stride.mul(extent);
        }
        linear
    }

    /// The address of the element at `linear`, and what it is known to be a multiple of, in bytes.
    pub(super) fn address(&mut self, mem: Mem, linear: &Index) -> Result<(Ssa<'c, 'm>, u64), Diagnostic> {
        let dtype = self.func.mem_dtype(mem);
        let align = self.align_bytes(mem, linear);
        let base = self.base(mem)?;
        let ty = self.b.storage_type(dtype);
        // What varies and what is constant apart: neighbours share the former, and the latter is part of an instruction.
        let (place, skipped) = self.index_parts(linear)?;
        let base = place.map_or(base, |place| self.b.offset(base, ty, place));
        Ok((self.b.offset_by(base, ty, skipped), align))
    }

    /// What the address of the element at `linear` is a multiple of.
    pub(super) fn align_bytes(&self, mem: Mem, linear: &Index) -> u64 {
        let size = self.func.mem_dtype(mem).size_bytes();
        let mut align = match mem {
            Mem::Param(id) => self.limits.align_bytes.get(id.0 as usize).copied().unwrap_or(size),
            Mem::Local(_) => ALIGN_BYTES,
        };
        // Tiles start at multiples of their size.
        let step = |var: &Var| {
            let axis = self.func.grid.iter().find(|axis| axis.base == *var);
            self.known(*var).or(axis.map(|axis| i64::from(axis.tile))).unwrap_or(1)
        };
        let is_multiple = |dim: &Dim, step: i64, align: u64| {
            let bytes = |coeff: i64| coeff.wrapping_mul(step).unsigned_abs().wrapping_mul(size);
            dim.terms().all(|(_, coeff)| bytes(coeff).is_multiple_of(align))
        };
        let holds = |align: u64| {
            linear.terms.iter().all(|(var, coeff)| is_multiple(coeff, step(var), align))
                && is_multiple(&linear.offset, 1, align)
        };
        while align > size && !holds(align) {
            align /= 2;
        }
        align.max(size)
    }

    /// The first byte of a memory.
    fn base(&mut self, mem: Mem) -> Result<Ssa<'c, 'm>, Diagnostic> {
        match mem {
            Mem::Param(id) => Ok(self.params[id.0 as usize]),
            Mem::Local(id) => match (self.layout.homes.get(id.0 as usize), self.shared) {
                (Some(Home::Shared(offset)), Some(shared)) => Ok(self.in_shared(shared, *offset)),
                (Some(Home::Workspace(idx)), _) if *idx < self.workspace.len() => Ok(self.workspace[*idx]),
                _ => Err(self.broken("tile memory has no place")),
            },
        }
    }

    fn in_shared(&mut self, shared: Ssa<'c, 'm>, offset: u64) -> Ssa<'c, 'm> {
        if offset == 0 {
            return shared;
        }
        let byte = self.b.int(8);
        self.b.offset_by(shared, byte, offset as i64)
    }

    /// The memory through which lane reductions go.
    pub(super) fn scratch(&mut self) -> Option<Ssa<'c, 'm>> {
        let (offset, shared) = (self.layout.scratch?, self.shared?);
        Some(self.in_shared(shared, offset))
    }

    // ---- elements ---------------------------------------------------------------------------------------------------

    fn load_element(&mut self, mem: Mem, (pointer, align): (Ssa<'c, 'm>, u64)) -> Ssa<'c, 'm> {
        let dtype = self.func.mem_dtype(mem);
        let ty = self.b.storage_type(dtype);
        let value = if self.is_constant(mem) {
            self.b.load_constant(ty, pointer, align)
        } else {
            self.b.load(ty, pointer, align)
        };
        self.widened(dtype, value)
    }

    /// True for a parameter that the kernel only reads: parameters do not overlap.
    fn is_constant(&self, mem: Mem) -> bool {
        let Mem::Param(id) = mem else { return false };
        self.func.params.get(id.0 as usize).is_some_and(|param| param.access == kernel::Access::Read)
    }

    /// An element as it is computed with.
    pub(super) fn widened(&mut self, dtype: DType, value: Ssa<'c, 'm>) -> Ssa<'c, 'm> {
        match dtype {
            DType::Bool => {
                let zero = self.b.int_const(8, 0);
                self.b.cmpi(super::build::IntCompare::Ne, value, zero)
            }
            DType::Bf16 | DType::F16 => {
                let float = self.b.compute_type(DType::F32);
                self.b.op("arith.extf", &[value], float)
            }
            _ => value,
        }
    }

    fn store_element(&mut self, mem: Mem, (pointer, align): (Ssa<'c, 'm>, u64), value: Ssa<'c, 'm>) {
        let value = self.narrowed(self.func.mem_dtype(mem), value);
        self.b.store(value, pointer, align);
    }

    /// A value as an element in memory.
    pub(super) fn narrowed(&mut self, dtype: DType, value: Ssa<'c, 'm>) -> Ssa<'c, 'm> {
        let ty = self.b.storage_type(dtype);
        match dtype {
            DType::Bool => self.b.op("arith.extui", &[value], ty),
            DType::Bf16 | DType::F16 => self.b.op("arith.truncf", &[value], ty),
            _ => value,
        }
    }

    /// An f32 rounded to the values of bf16 or f16.
    pub(super) fn round(&mut self, to: DType, value: Ssa<'c, 'm>) -> Ssa<'c, 'm> {
        if !matches!(to, DType::Bf16 | DType::F16) {
            return value;
        }
        let (narrow, wide) = (self.b.storage_type(to), self.b.compute_type(DType::F32));
        let value = self.b.op("arith.truncf", &[value], narrow);
        self.b.op("arith.extf", &[value], wide)
    }

    fn read_register(&mut self, slot: &Slot) -> Result<Ssa<'c, 'm>, Diagnostic> {
        let value = self.b.register_value(slot.register, slot.dtype);
        match slot.lane {
            None => Ok(value),
            // Every warp has a copy of the lanes.
            Some(lane) => Ok(self.shuffle_from(value, slot.dtype, lane)),
        }
    }

    fn write_register(&mut self, slot: &Slot, value: Ssa<'c, 'm>) -> Result<(), Diagnostic> {
        let value = match slot.lane {
            None => value,
            Some(lane) => {
                let mask = self.b.i64(i64::from(slot.width) - 1);
                let own = self.b.and(self.thread, mask);
                let lane = self.b.i64(lane);
                let is_own = self.b.cmpi(super::build::IntCompare::Eq, own, lane);
                let before = self.b.register_value(slot.register, slot.dtype);
                self.b.select(is_own, value, before)
            }
        };
        self.b.set_register(slot.register, value);
        Ok(())
    }
}
