//! What is known at the place where operations go: values that were computed before, and what registers hold.
//!
//! In: operations and registers as they come. Out: the value of an equal operation, where one is in sight, and which registers
//! have to be stored or loaded. A kernel is unrolled, so the same addresses, constants and registers come again and again: what
//! is never written down costs nothing on the way to PTX. Sight is that of structured control flow: what stands in a region is
//! seen in the regions inside it, and no longer after its end.

use super::build::Ssa;
use melior::ir::ValueLike;
use std::collections::HashMap;

/// A register of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Register(usize);

/// What tells an operation without effects: its name, type of its result, attributes and operands. MLIR has each type, attribute
/// and value once, so that their addresses tell them.
pub(super) type Key = (&'static str, Vec<usize>);

/// The address that tells a value.
pub(super) fn identity(value: Ssa<'_, '_>) -> usize {
    value.to_raw().ptr as usize
}

/// Where a register is kept between regions.
struct Cell<'c, 'm> {
    place: Ssa<'c, 'm>,
    /// What it holds, if that is in sight.
    held: Option<Ssa<'c, 'm>>,
    /// What it holds is not at its place yet.
    is_pending: bool,
}

/// A region that is being filled.
struct Region<'c, 'm> {
    /// Values that are seen in it alone.
    keys: Vec<Key>,
    /// What registers held before it.
    before: Vec<Option<Ssa<'c, 'm>>>,
    /// Registers that were set in it.
    set: Vec<Register>,
}

/// What is known.
#[derive(Default)]
pub(super) struct Known<'c, 'm> {
    /// Looked up alone: the order of a map of addresses says nothing.
    values: HashMap<Key, Ssa<'c, 'm>>,
    cells: Vec<Cell<'c, 'm>>,
    /// Registers whose values are not at their places yet.
    pending: Vec<Register>,
    regions: Vec<Region<'c, 'm>>,
}

impl<'c, 'm> Known<'c, 'm> {
    /// The value of an equal operation.
    pub(super) fn value(&self, key: &Key) -> Option<Ssa<'c, 'm>> {
        self.values.get(key).copied()
    }

    /// An operation has been appended in the region at hand.
    pub(super) fn add_value(&mut self, key: Key, value: Ssa<'c, 'm>) {
        if let Some(region) = self.regions.last_mut() {
            region.keys.push(key.clone());
        }
        self.values.insert(key, value);
    }

    /// An operation has been put where everything sees it.
    pub(super) fn add_global(&mut self, key: Key, value: Ssa<'c, 'm>) {
        self.values.insert(key, value);
    }

    /// A new register that is kept at `place`.
    pub(super) fn add_register(&mut self, place: Ssa<'c, 'm>) -> Register {
        self.cells.push(Cell { place, held: None, is_pending: false });
        Register(self.cells.len() - 1)
    }

    /// Where a register is kept.
    pub(super) fn place(&self, register: Register) -> Ssa<'c, 'm> {
        self.cells[register.0].place
    }

    /// What a register holds, if that is in sight.
    pub(super) fn held(&self, register: Register) -> Option<Ssa<'c, 'm>> {
        self.cells[register.0].held
    }

    /// A register was loaded from its place.
    pub(super) fn loaded(&mut self, register: Register, value: Ssa<'c, 'm>) {
        self.cells[register.0].held = Some(value);
    }

    /// A register holds `value` from here on.
    pub(super) fn set(&mut self, register: Register, value: Ssa<'c, 'm>) {
        let cell = &mut self.cells[register.0];
        cell.held = Some(value);
        if !cell.is_pending {
            cell.is_pending = true;
            self.pending.push(register);
            if let Some(region) = self.regions.last_mut() {
                region.set.push(register);
            }
        }
    }

    /// The values that have to be stored now, each with its place: a region begins or ends.
    pub(super) fn take_pending(&mut self) -> Vec<(Ssa<'c, 'm>, Ssa<'c, 'm>)> {
        let mut stores = vec![];
        for register in std::mem::take(&mut self.pending) {
            let cell = &mut self.cells[register.0];
            cell.is_pending = false;
            stores.extend(cell.held.map(|value| (value, cell.place)));
        }
        stores
    }

    /// A region begins. One that is run again and again may find in registers what it left there.
    pub(super) fn enter(&mut self, is_repeated: bool) {
        let before = self.cells.iter().map(|cell| cell.held).collect();
        if is_repeated {
            self.cells.iter_mut().for_each(|cell| cell.held = None);
        }
        self.regions.push(Region { keys: vec![], before, set: vec![] });
    }

    /// The region at hand ends: what was computed there, and what registers were set to, is out of sight.
    pub(super) fn leave(&mut self) {
        let Some(region) = self.regions.pop() else { return };
        for key in &region.keys {
            self.values.remove(key);
        }
        let before = region.before.into_iter().chain(std::iter::repeat(None));
        for (cell, before) in self.cells.iter_mut().zip(before) {
            cell.held = before;
        }
        for register in &region.set {
            self.cells[register.0].held = None;
        }
        if let Some(outer) = self.regions.last_mut() {
            outer.set.extend(region.set);
        }
    }
}
