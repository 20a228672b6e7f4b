//! Decoded programs: an array of instructions whose operands are slots.
//!
//! A slot is one 64-bit cell of a thread's register file. Registers, constants, addresses of variables and special registers
//! all have slots, so an instruction reads each operand in the same way, whatever it was in the text. What the launch or the
//! thread decides is filled in when a thread starts ([`SlotInit`]).

use super::lex::At;
use super::num::convert::Cvt;
use super::num::float::{Compare, Float1, Float2, FloatTy, Mods, Property};
use super::num::int::{Int1, Int2, Int3, IntTy, Permute};

pub(super) type Slot = u32;

/// No guard, or a label that is resolved later.
pub(super) const NONE: u32 = u32::MAX;

/// The slot of `_`: written and never read.
pub(super) const SINK: Slot = 0;

/// The most sources that an instruction has: an address and a vector of four.
pub(super) const MAX_SOURCES: usize = 5;

#[derive(Clone, Debug)]
pub(super) struct Inst {
    pub(super) op: Op,
    /// The predicate that must hold, or [`NONE`].
    pub(super) guard: Slot,
    pub(super) guard_negated: bool,
    pub(super) n_sources: u8,
    pub(super) dst: [Slot; 4],
    pub(super) src: [Slot; MAX_SOURCES],
    /// The instruction's place: an index into [`Program::places`].
    pub(super) place: u32,
}

/// What an instruction does with its operands `a`, `b`, `c`, ... and its results.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Copy,
    /// `n` parts of `bytes` bytes each become one value.
    Pack {
        n: u8,
        bytes: u8,
    },
    Unpack {
        n: u8,
        bytes: u8,
    },
    Int1(Int1, IntTy),
    Int2(Int2, IntTy),
    Int3(Int3, IntTy),
    Divide {
        ty: IntTy,
        remainder: bool,
    },
    Bfi(IntTy),
    Prmt(Permute),
    Lop3(u8),
    Shf {
        left: bool,
        wraps: bool,
    },
    Float1(Float1, FloatTy, Mods),
    Float2(Float2, FloatTy, Mods),
    Fma(FloatTy, Mods),
    Testp(Property, FloatTy),
    Setp(Test),
    /// `set`: all ones, or 1.0 where the flag says so.
    Set(Test, bool),
    /// `a` if the predicate `c` holds, else `b`.
    Select,
    Cvt(Cvt),
    Load(Access),
    Store(Access),
    Atomic(Access, AtomicOp),
    /// From the generic address or to it.
    Cvta {
        space: Space,
        to_space: bool,
    },
    Branch(u32),
    /// To the target with the number `a` in a table.
    BranchTable(u32),
    Call(u32),
    Return,
    Exit,
    Trap,
    Barrier {
        aligned: bool,
        has_count: bool,
    },
    Warp(WarpOp),
    Nop,
}

/// A comparison with the value that it is combined with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Test {
    pub(super) compare: Compare,
    pub(super) ty: TestTy,
    pub(super) combine: Combine,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum TestTy {
    Int(IntTy),
    Float(FloatTy, bool),
}

/// What a comparison's result is combined with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Combine {
    Nothing,
    And,
    Or,
    Xor,
}

/// State spaces as loads and stores name them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Space {
    Generic,
    Global,
    Shared,
    Const,
    Local,
    /// The parameters of the entry.
    Param,
    /// The parameters of functions, which are memory of the thread.
    Frame,
}

/// A load, a store or an atomic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) space: Space,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub(super) bytes: u8,
    pub(super) n_elements: u8,
    /// Loaded integers are extended by their sign to the register's width.
    pub(super) signed_to: Option<u8>,
    /// `.nc`: the kernel promises not to write this memory.
    pub(super) read_only: bool,
    pub(super) offset: i64,
}

impl Access {
    pub(super) fn total_bytes(&self) -> u64 {
        u64::from(self.bytes) * u64::from(self.n_elements)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AtomicOp {
    /// An integer operation, `Int2::Xor` and the like.
    Int(Int2, IntTy),
    Float(Float2, FloatTy),
    Exchange,
    /// Stores `c` where `b` is found.
    CompareAndSwap,
    /// Up to `b`, then zero.
    Increment,
    /// Down from `b`.
    Decrement,
}

/// Operations for which the lanes of a warp wait for each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WarpOp {
    Sync,
    Shuffle(Shuffle),
    Vote(Vote),
    ActiveMask,
    /// `redux.sync`.
    Reduce(Int2, IntTy),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// What a slot holds when a thread starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum SlotInit {
    /// Nothing: reading it is an error.
    Undefined,
    Constant(u64),
    /// A special register.
    Special(Special),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Special {
    Tid(u8),
    NTid(u8),
    CtaId(u8),
    NCtaId(u8),
    LaneId,
    WarpId,
    NWarpId,
    /// Lanes equal to, below, up to, above, or from this one on.
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    DynamicSharedBytes,
    /// The address of open `.extern .shared` arrays.
    DynamicSharedBase,
}

#[derive(Clone, Debug)]
pub(super) struct SlotInfo {
    pub(super) name: String,
    pub(super) init: SlotInit,
}

/// A variable in the memory of the block, of the thread, or among the parameters.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) address: u64,
    pub(super) size_bytes: u64,
}

/// A module-scope array in global or constant memory.
#[derive(Clone, Debug)]
pub(super) struct StaticArray {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    pub(super) is_const: bool,
}

/// A parameter of an entry.
#[derive(Clone, Debug)]
pub(super) struct Param {
    pub(super) name: String,
    pub(super) offset: u32,
    pub(super) size_bytes: u32,
}

/// A call: values copied in, the target, values copied back.
#[derive(Clone, Debug, Default)]
pub(super) struct CallSite {
    pub(super) target: u32,
    /// Slots whose contents are lost when the callee starts anew.
    pub(super) callee_slots: (Slot, Slot),
    pub(super) copy_in: Vec<Transfer>,
    pub(super) copy_back: Vec<Transfer>,
}

/// An argument or a result on its way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transfer {
    Slot { from: Slot, to: Slot },
    Frame { from: u32, to: u32, size_bytes: u32 },
}

/// One entry with all that it calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) code: Vec<Inst>,
    pub(super) places: Vec<At>,
    pub(super) slots: Vec<SlotInfo>,
    pub(super) params: Vec<Param>,
    pub(super) param_bytes: u32,
    pub(super) shared: Vec<Place>,
    /// Shared memory as declared, without the simulator's gaps.
    pub(super) shared_declared_bytes: u64,
    /// Where open shared arrays begin.
    pub(super) dynamic_shared_base: u64,
    pub(super) private: Vec<Place>,
    pub(super) private_bytes: u64,
    pub(super) tables: Vec<Vec<u32>>,
    pub(super) calls: Vec<CallSite>,
    /// The smallest global and shared accesses, in bytes: what the shadows tell apart.
    pub(super) global_granule: u32,
    pub(super) shared_granule: u32,
    pub(super) has_global_atomics: bool,
    pub(super) exact_threads: Option<[u32; 3]>,
    pub(super) max_threads: Option<u64>,
}

impl Program {
    /// Whether threads may meet in memory without a fault, so that the order in which they run may show.
    pub(super) fn has_atomics(&self) -> bool {
        self.code.iter().any(|inst| matches!(inst.op, Op::Atomic(..)))
    }
}
