//! The registers of all threads of a block.
//!
//! Values lie slot by slot, so that one instruction of many threads walks memory in order, and each byte of a value has a bit
//! that says whether it holds something. Cells let an instruction read and write the same slot without a copy.

use super::super::code::Slot;
use std::cell::Cell;
use std::ops::Range;

/// All bytes of a slot hold something.
pub(super) const DEFINED: u8 = 0xff;

/// Values of all slots of all threads, and which of their bytes are defined.
pub(super) struct Files {
    values: Vec<Cell<u64>>,
    defined: Vec<Cell<u8>>,
    /// Slots that are defined for every thread. May be `false` for one that is.
    whole: Vec<Cell<bool>>,
    n_threads: usize,
}

/// The lanes `lanes` as a range, if they are one; `lanes` is ascending.
#[inline(always)]
pub(super) fn span(lanes: &[u32]) -> Option<Range<usize>> {
    let (first, last) = (*lanes.first()? as usize, *lanes.last()? as usize);
    (last + 1 - first == lanes.len()).then_some(first..last + 1)
}

impl Files {
    pub(super) fn new(n_slots: usize, n_threads: usize) -> Files {
        Files {
            values: vec![Cell::new(0); n_slots * n_threads],
            defined: vec![Cell::new(0); n_slots * n_threads],
            whole: vec![Cell::new(false); n_slots],
            n_threads,
        }
    }

    /// The values of a slot, one per thread.
    #[inline(always)]
    pub(super) fn row(&self, slot: Slot) -> &[Cell<u64>] {
        let first = slot as usize * self.n_threads;
        &self.values[first..first + self.n_threads]
    }

    #[inline(always)]
    fn defined_row(&self, slot: Slot) -> &[Cell<u8>] {
        let first = slot as usize * self.n_threads;
        &self.defined[first..first + self.n_threads]
    }

    /// Fills a slot for all threads; without a value it becomes undefined.
    pub(super) fn fill(&self, slot: Slot, value: Option<u64>) {
        if let Some(value) = value {
            self.row(slot).iter().for_each(|cell| cell.set(value));
        }
        let defined = if value.is_some() { DEFINED } else { 0 };
        self.defined_row(slot).iter().for_each(|cell| cell.set(defined));
        self.whole[slot as usize].set(value.is_some());
    }

    /// Whether the slot is defined as a whole for all of `lanes`.
    #[inline(always)]
    pub(super) fn is_defined(&self, slot: Slot, lanes: &[u32]) -> bool {
        if self.whole[slot as usize].get() {
            return true;
        }
        let row = self.defined_row(slot);
        let together = match span(lanes) {
            Some(range) => row[range].iter().fold(DEFINED, |all, cell| all & cell.get()),
            None => lanes.iter().fold(DEFINED, |all, lane| all & row[*lane as usize].get()),
        };
        together == DEFINED
    }

    /// Notes that the slot now holds something for all of `lanes`.
    #[inline(always)]
    pub(super) fn define(&self, slot: Slot, lanes: &[u32]) {
        if self.whole[slot as usize].get() {
            return;
        }
        let row = self.defined_row(slot);
        match span(lanes) {
            Some(range) => row[range].iter().for_each(|cell| cell.set(DEFINED)),
            None => lanes.iter().for_each(|lane| row[*lane as usize].set(DEFINED)),
        }
        if lanes.len() == self.n_threads {
            self.whole[slot as usize].set(true);
        }
    }

    /// The registers of one thread.
    #[inline(always)]
    pub(super) fn of(&self, thread: usize) -> Registers<'_> {
        Registers { files: self, thread }
    }
}

/// The registers of one thread.
#[derive(Clone, Copy)]
pub(super) struct Registers<'f> {
    files: &'f Files,
    pub(super) thread: usize,
}

impl Registers<'_> {
    #[inline(always)]
    fn at(&self, slot: Slot) -> usize {
        slot as usize * self.files.n_threads + self.thread
    }

    #[inline(always)]
    pub(super) fn get(&self, slot: Slot) -> u64 {
        self.files.values[self.at(slot)].get()
    }

    #[inline(always)]
    pub(super) fn set(&self, slot: Slot, value: u64) {
        self.put(slot, value, DEFINED);
    }

    /// Which bytes of a slot hold something.
    #[inline(always)]
    pub(super) fn defined(&self, slot: Slot) -> u8 {
        self.files.defined[self.at(slot)].get()
    }

    /// Writes a slot of which only some bytes may hold something.
    #[inline(always)]
    pub(super) fn put(&self, slot: Slot, value: u64, defined: u8) {
        let at = self.at(slot);
        self.files.values[at].set(value);
        self.files.defined[at].set(defined);
        if defined != DEFINED {
            self.files.whole[slot as usize].set(false);
        }
    }

    /// Forgets what a slot holds.
    pub(super) fn forget(&self, slot: Slot) {
        self.put(slot, self.get(slot), 0);
    }
}
