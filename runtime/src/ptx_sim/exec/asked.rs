//! What warps load: the distinct elements of one instruction that the threads of a warp run together.
//!
//! In: the loads of global memory of each thread, in the order of the thread. Out: bytes. Threads run one after the other here,
//! so what belongs together is found by counting: the k-th load of an instruction since the threads of the warp last met at a
//! barrier. That is what hardware does where a warp does not diverge, and what it should do where it does.

use super::WARP;
use std::collections::{HashMap, HashSet};

/// The loads of one warp since its threads last met.
#[derive(Default)]
pub(super) struct Asked {
    /// How often each thread of the warp has run an instruction.
    n_runs: HashMap<(usize, u32), u32>,
    /// Instruction, how often it had run, and address.
    loads: HashSet<(u32, u32, u64)>,
}

impl Asked {
    /// The threads of a warp have met, or another warp runs.
    pub(super) fn meet(&mut self) {
        self.n_runs.clear();
        self.loads.clear();
    }

    /// Notes that `thread` loads from `address` by the instruction `place`; true if its warp has not done that yet.
    pub(super) fn is_new(&mut self, thread: usize, place: u32, address: u64) -> bool {
        let run = self.n_runs.entry((thread % WARP, place)).or_insert(0);
        *run += 1;
        self.loads.insert((place, *run, address))
    }
}
