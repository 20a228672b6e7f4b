//! Running a program: the machine, its blocks, warps and threads.
//!
//! A thread runs alone until it ends, or until it comes to an instruction for which it must wait for others. That is the
//! model of independent threads: nothing promises more, so a kernel that relies on the lock step of a warp is found out.
//! What threads may rely on (barriers, `bar.warp.sync`, shuffles) is in [`block`] and [`warp`].

mod asked;
pub(super) mod block;
mod fault;
mod frame;
mod shared;
mod thread;
mod traffic;
mod warp;

pub(super) use fault::Fault;

use super::code::{Program, SlotInit, Special};
use super::globals::Globals;
use super::launch::{Launch, Options};

/// The order in which the threads of a block run between two waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Forward,
    Reverse,
}

/// What all blocks of a launch share.
pub(super) struct Machine<'m> {
    pub(super) program: &'m Program,
    pub(super) launch: &'m Launch,
    pub(super) options: &'m Options,
    pub(super) globals: Globals<'m>,
    /// The bytes of the entry's parameters.
    pub(super) params: Vec<u8>,
    pub(super) order: Order,
    /// A fault is known already and looked at closely: threads go on after a load of shared memory that nothing has
    /// written, so that a store to it in the same interval is found to be a race.
    pub(super) looks_closely: bool,
}

pub(super) const WARP: usize = 32;

impl Machine<'_> {
    pub(super) fn n_threads(&self) -> usize {
        self.launch.block.iter().map(|extent| *extent as usize).product()
    }

    /// The position of a linear number in extents of which the first varies fastest.
    pub(super) fn unravel(linear: u64, extents: [u32; 3]) -> [u32; 3] {
        let [x, y, _] = extents.map(u64::from);
        let [x, y] = [x.max(1), y.max(1)];
        [(linear % x) as u32, (linear / x % y) as u32, (linear / (x * y)) as u32]
    }

    /// The value of a slot when thread `thread` of the block at `block` starts.
    pub(super) fn initial(&self, init: SlotInit, block: [u32; 3], thread: usize) -> Option<u64> {
        match init {
            SlotInit::Undefined => None,
            SlotInit::Constant(bits) => Some(bits),
            SlotInit::Special(special) => Some(self.special(special, block, thread)),
        }
    }

    fn special(&self, special: Special, block: [u32; 3], thread: usize) -> u64 {
        let lane = (thread % WARP) as u32;
        let bit = 1_u32 << lane;
        let value = match special {
            Special::Tid(axis) => Machine::unravel(thread as u64, self.launch.block)[usize::from(axis)],
            Special::NTid(axis) => self.launch.block[usize::from(axis)],
            Special::CtaId(axis) => block[usize::from(axis)],
            Special::NCtaId(axis) => self.launch.grid[usize::from(axis)],
            Special::LaneId => lane,
            Special::WarpId => (thread / WARP) as u32,
            Special::NWarpId => self.n_threads().div_ceil(WARP) as u32,
            Special::LaneMaskEq => bit,
            Special::LaneMaskLt => bit - 1,
            Special::LaneMaskLe => bit | (bit - 1),
            Special::LaneMaskGt => !(bit | (bit - 1)),
            Special::LaneMaskGe => !(bit - 1),
            Special::DynamicSharedBytes => self.launch.dynamic_shared_bytes,
            Special::DynamicSharedBase => return self.program.dynamic_shared_base,
        };
        u64::from(value)
    }
}
