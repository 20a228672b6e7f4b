//! What blocks load: the distinct elements of one instruction that the threads of a block run together.
//!
//! In: the loads of global memory of each thread, in the order of the thread. Out: which of them are the first of their element.
//! The simulator need not run those together that a GPU would, so what belongs together is found by counting: the k-th load
//! of an instruction since the threads of the block last met at a barrier.

use std::collections::{HashMap, HashSet};

/// The loads of one block since its threads last met.
#[derive(Default)]
pub(super) struct Asked {
    /// How often each thread has run an instruction.
    n_runs: HashMap<(usize, u32), u32>,
    /// Instruction, how often it had run, and address.
    loads: HashSet<(u32, u32, u64)>,
}

impl Asked {
    /// The threads of the block have met, or another block runs.
    pub(super) fn meet(&mut self) {
        self.n_runs.clear();
        self.loads.clear();
    }

    /// Notes that `thread` loads from `address` by the instruction `place`; true if its block has not done that yet.
    pub(super) fn is_new(&mut self, thread: usize, place: u32, address: u64) -> bool {
        let run = self.n_runs.entry((thread, place)).or_insert(0);
        *run += 1;
        self.loads.insert((place, *run, address))
    }
}
