//! Where threads must meet: accesses of a block that touch the same memory without a barrier between them.
//!
//! In: the accesses of statements, with the rule by which threads share out elements. Out: whether two of them can meet in
//! different threads. The rule is conservative: what is not known to stay in one thread is taken to meet.

use super::emit::Emitter;
use super::lanes::{WARP, resolve};
use birkhoff_ir::kernel::lanes::{AccumKind, LaneScope};
use birkhoff_ir::kernel::{
    Access as Declared, Block, For, ForKind, Index, Inst, LocalId, Mem, Space, Stmt, Var,
};
use std::collections::BTreeSet;

/// Which threads make an access.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Threads {
    /// All of them, the same element.
    All,
    /// The first alone.
    First,
    /// Each its own lanes, by any of these rules.
    Lanes(Vec<Share>),
}

/// A rule by which lanes share out elements: the thread follows from the index along an axis.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Share {
    axis: usize,
    width: u32,
    /// Neighbouring elements that a lane takes.
    neighbours: i64,
    /// The index along that axis, without the lane variable; nothing in it changes while a tile is computed. A constant in it
    /// counts lanes.
    rest: Index,
    /// The first value of the lane variable.
    start: Index,
}

/// One access of a statement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Access {
    pub(super) mem: Mem,
    pub(super) writes: bool,
    pub(super) threads: Threads,
}

/// Stands for the memory through which lane reductions go.
pub(super) const SCRATCH: Mem = Mem::Local(LocalId(u32::MAX));

/// What a lane reduction does there.
pub(super) fn scratch_accesses(width: u32) -> [Access; 2] {
    let share = Share { axis: 0, width, neighbours: 1, rest: Index::default(), start: Index::default() };
    [
        Access { mem: SCRATCH, writes: true, threads: Threads::Lanes(vec![share]) },
        Access { mem: SCRATCH, writes: false, threads: Threads::All },
    ]
}

/// Stands for the memory through which their results go back.
const RESULTS: Mem = Mem::Local(LocalId(u32::MAX - 1));

/// What lane reductions do there: some threads write, all read.
pub(super) fn result_accesses() -> [Access; 2] {
    [
        Access { mem: RESULTS, writes: true, threads: Threads::Lanes(vec![]) },
        Access { mem: RESULTS, writes: false, threads: Threads::All },
    ]
}

impl Access {
    fn meets(&self, other: &Access) -> bool {
        self.mem == other.mem && (self.writes || other.writes) && !self.same_thread(other)
    }

    fn same_thread(&self, other: &Access) -> bool {
        match (&self.threads, &other.threads) {
            (Threads::First, Threads::First) => true,
            (Threads::Lanes(a), Threads::Lanes(b)) => a.iter().any(|share| b.contains(share)),
            _ => false,
        }
    }
}

/// Accesses since the last barrier.
#[derive(Clone, Default, Debug)]
pub(super) struct Pending {
    accesses: Vec<Access>,
}

impl Pending {
    pub(super) fn conflicts(&self, others: &[Access]) -> bool {
        others.iter().any(|other| self.accesses.iter().any(|access| access.meets(other)))
    }

    pub(super) fn clear(&mut self) {
        self.accesses.clear();
    }

    pub(super) fn accesses(&self) -> &[Access] {
        &self.accesses
    }

    pub(super) fn extend(&mut self, accesses: &[Access]) {
        for access in accesses {
            if !self.accesses.contains(access) {
                self.accesses.push(access.clone());
            }
        }
    }
}

/// True if two of `accesses` (or one in two threads) can meet.
pub(super) fn meet_each_other(accesses: &[Access]) -> bool {
    accesses.iter().enumerate().any(|(idx, access)| accesses[idx..].iter().any(|other| access.meets(other)))
}

/// What the body of a lane loop does, as far as its mapping to threads depends on it.
#[derive(Default, Debug)]
pub(super) struct LaneFacts {
    pub(super) accesses: Vec<Access>,
    pub(super) has_reductions: bool,
    /// Writes registers that all threads have the same value of.
    pub(super) writes_uniform_regs: bool,
    /// Register arrays that it indexes by the lane on their lane axis.
    pub(super) lane_arrays: BTreeSet<LocalId>,
    pub(super) writes_lane_arrays: bool,
}

impl<'a> Emitter<'a, '_, '_> {
    /// All accesses that `block` makes, at any depth, that others could meet.
    pub(super) fn accesses(&self, block: &'a Block) -> Vec<Access> {
        let mut found = Pending::default();
        let mut scope = self.scope.clone();
        self.collect(block, &mut scope, &mut found);
        found.accesses
    }

    fn collect(&self, block: &'a Block, scope: &mut LaneScope, found: &mut Pending) {
        for stmt in block {
            match stmt {
                Stmt::For(inner) => match inner.kind {
                    ForKind::Lanes { width } => {
                        let plan = self.lane_plan(inner, width, scope);
                        found.extend(&plan.facts.accesses);
                        if plan.facts.has_reductions && width > WARP {
                            found.extend(&scratch_accesses(width));
                            found.extend(&result_accesses());
                        }
                    }
                    ForKind::Seq | ForKind::Unroll => self.collect(&inner.body, scope, found),
                },
                Stmt::Stage(_, body) => self.collect(body, scope, found),
                Stmt::Decl(id) => scope.declare(*id),
                Stmt::Let(var, inst) => {
                    self.of_stmt(stmt, scope, None, found);
                    scope.define(*var, inst);
                }
                Stmt::Store { .. } | Stmt::Accum { .. } => self.of_stmt(stmt, scope, None, found),
            }
        }
    }

    /// The accesses that one statement makes; `lane` is the lane loop around.
    pub(super) fn of_stmt(
        &self,
        stmt: &Stmt,
        scope: &LaneScope,
        lane: Option<(&For, u32)>,
        found: &mut Pending,
    ) {
        let (mem, index, reads, writes) = match stmt {
            Stmt::Let(_, Inst::Load(mem, index)) => (*mem, index, true, false),
            Stmt::Store { mem, index, .. } => (*mem, index, false, true),
            Stmt::Accum { mem, index, .. } => (*mem, index, true, true),
            _ => return,
        };
        for (_, writes) in [(reads, false), (writes, true)].into_iter().filter(|(happens, _)| *happens) {
            // A lane reduction touches its target when the loop is done, in the first thread.
            found.extend(self.access(mem, index, (writes, reads && writes), scope, lane).as_slice());
        }
    }

    /// The access of an element that others could meet; `is_update` where it is read and written.
    pub(super) fn access(
        &self,
        mem: Mem,
        index: &[Index],
        (writes, is_update): (bool, bool),
        scope: &LaneScope,
        lane: Option<(&For, u32)>,
    ) -> Option<Access> {
        if !self.can_be_met(mem) {
            return None;
        }
        let varies = lane.is_some() && scope.any_varies(index);
        let threads = match lane {
            Some((inner, width)) if varies => Threads::Lanes(self.shares(mem, inner, width, index)),
            // Every thread loads a value that all of them need; only the first writes one, or updates it.
            _ if writes || is_update => Threads::First,
            _ => Threads::All,
        };
        Some(Access { mem, writes, threads })
    }

    /// True for memory that several threads see and that the kernel writes.
    pub(super) fn can_be_met(&self, mem: Mem) -> bool {
        match mem {
            Mem::Param(id) => self.func.params[id.0 as usize].access != Declared::Read,
            Mem::Local(id) => self.func.locals[id.0 as usize].space == Space::Tile,
        }
    }

    /// The rules by which an access along lanes is shared out.
    fn shares(&self, mem: Mem, inner: &For, width: u32, index: &[Index]) -> Vec<Share> {
        // Shared memory outlives the tile; what tiles have in parameters is theirs alone.
        let is_param = matches!(mem, Mem::Param(_));
        let is_fixed = |index: &Index| index.terms.iter().all(|(var, _)| is_param && self.is_of_grid(*var));
        let start = resolve(&inner.start, |var| self.known(var));
        if !is_fixed(&start) {
            return vec![];
        }
        let mut shares = vec![];
        for (axis, index) in index.iter().enumerate() {
            let Some(neighbours) = index.coeff(inner.var).as_const().filter(|coeff| *coeff > 0) else {
                continue;
            };
            let mut rest = resolve(index, |var| if var == inner.var { Some(0) } else { self.known(var) });
            // Neighbours belong to one thread, and so do elements a multiple of the chunk apart.
            if let Some(offset) = rest.offset.as_const() {
                let chunk = neighbours.saturating_mul(i64::from(width));
                rest.offset = (offset.rem_euclid(chunk) / neighbours).into();
            }
            if is_fixed(&rest) {
                shares.push(Share { axis, width, neighbours, rest, start: start.clone() });
            }
        }
        shares
    }

    /// True for a variable that does not change while a tile is computed.
    fn is_of_grid(&self, var: Var) -> bool {
        self.func.grid.iter().any(|axis| axis.base == var || axis.count == var)
    }

    /// What the body of a lane loop does; `scope` is that before the loop.
    pub(super) fn lane_facts(&self, inner: &'a For, width: u32, scope: &LaneScope) -> LaneFacts {
        let mut scope = scope.clone();
        scope.enter(inner.var, width);
        let (mut facts, mut found) = (LaneFacts::default(), Pending::default());
        self.lane_facts_of(&inner.body, (inner, width), &mut scope, &mut facts, &mut found);
        facts.accesses = found.accesses;
        facts
    }

    fn lane_facts_of(
        &self,
        block: &'a Block,
        lane: (&'a For, u32),
        scope: &mut LaneScope,
        facts: &mut LaneFacts,
        found: &mut Pending,
    ) {
        for stmt in block {
            self.of_stmt(stmt, scope, Some(lane), found);
            match stmt {
                Stmt::Let(var, inst) => {
                    if let Inst::Load(Mem::Local(id), index) = inst
                        && self.by_lane(*id, index, lane.0.var)
                    {
                        facts.lane_arrays.insert(*id);
                    }
                    scope.define(*var, inst);
                }
                Stmt::Store { mem, index, .. } | Stmt::Accum { mem, index, .. } => {
                    let is_reduction = matches!(stmt, Stmt::Accum { .. })
                        && scope.accum_kind(*mem, index) == AccumKind::Reduce;
                    facts.has_reductions |= is_reduction;
                    if let Mem::Local(id) = mem
                        && self.func.locals[id.0 as usize].space == Space::Reg
                    {
                        if self.by_lane(*id, index, lane.0.var) {
                            facts.lane_arrays.insert(*id);
                            facts.writes_lane_arrays = true;
                        } else if !scope.is_private(*mem) {
                            facts.writes_uniform_regs = true;
                        }
                    }
                }
                Stmt::For(inner) => self.lane_facts_of(&inner.body, lane, scope, facts, found),
                Stmt::Stage(_, body) => self.lane_facts_of(body, lane, scope, facts, found),
                Stmt::Decl(id) => scope.declare(*id),
            }
        }
    }

    /// True if the lane axis of a register array is indexed by the lane variable.
    pub(super) fn by_lane(&self, id: LocalId, index: &[Index], lane: Var) -> bool {
        let Some((axis, _)) = self.func.locals[id.0 as usize].lane_axis else { return false };
        index.get(axis as usize).is_some_and(|index| !index.coeff(lane).is_const(0))
    }
}
