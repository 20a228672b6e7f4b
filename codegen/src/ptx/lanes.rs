//! Lane loops over the threads of a block.
//!
//! In: a loop over lanes. Out: code in which a lane of a chunk is a thread. A loop whose iterations never meet is shared out
//! among the threads, its remaining iterations like the others. A loop with reductions, or in which lanes read what others
//! write, is run by all threads together, chunk by chunk, with barriers where lanes meet; its remaining iterations run
//! one by one, as the kernel IR orders them. `reduce` combines what lanes have summed.

use super::LaneMode;
use super::build::{Builder, IntCompare, Ssa};
use super::emit::{Emitter, Val};
use super::hazard::{Access, LaneFacts, Threads, meet_each_other};
use super::reduce::Reduction;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::lanes::LaneScope;
use birkhoff_ir::kernel::{For, Index, Inst, Stmt, Var};
use birkhoff_ir::scalar::Scalar;

/// Threads of a warp.
pub(super) const WARP: u32 = 32;

/// Most statements that the remaining iterations of a loop are written out for, if registers do not call for it.
const MAX_UNROLLED: i64 = 64;

/// The number of statements in `block`, at any depth.
fn statements(block: &[Stmt]) -> i64 {
    let count = |stmt: &Stmt| match stmt {
        Stmt::For(inner) => 1 + statements(&inner.body),
        Stmt::Stage(_, body) => statements(body),
        _ => 1,
    };
    block.iter().map(count).sum()
}

/// The lane loop around.
pub(super) struct Lanes<'a, 'c, 'm> {
    /// The loop.
    pub(super) inner: &'a For,
    pub(super) width: u32,
    /// The first value of the chunk, where chunks are unrolled.
    pub(super) base: Option<i64>,
    /// Which threads store: those that are lanes, where others compute along.
    pub(super) guard: Option<Ssa<'c, 'm>>,
    pub(super) reductions: Vec<Reduction>,
}

/// How a lane loop is mapped.
pub(super) struct LanePlan {
    pub(super) facts: LaneFacts,
    /// All threads run the chunks together; otherwise each thread runs its own iterations.
    together: bool,
    /// Threads that are no lanes skip the loop.
    whole: bool,
    /// They skip the chunks of a loop that all run together, and have its sums from the others.
    skips_chunks: bool,
}

/// `index` with the variables that `known` knows replaced.
pub(super) fn resolve(index: &Index, known: impl Fn(Var) -> Option<i64>) -> Index {
    let mut resolved = Index { terms: vec![], offset: index.offset.clone() };
    for (var, coeff) in &index.terms {
        match known(*var) {
            Some(value) => resolved.offset = resolved.offset.add(&coeff.mul(&Dim::constant(value))),
            None => resolved.terms.push((*var, coeff.clone())),
        }
    }
    resolved
}

impl<'a, 'c, 'm> Emitter<'a, 'c, 'm> {
    /// How a lane loop is mapped; `scope` is that before the loop.
    pub(super) fn lane_plan(&self, inner: &'a For, width: u32, scope: &LaneScope) -> LanePlan {
        let mut facts = self.lane_facts(inner, width, scope);
        let meets = meet_each_other(&facts.accesses);
        let mut together = facts.has_reductions || facts.writes_uniform_regs || meets;
        let whole = !together && !facts.writes_lane_arrays;
        // Sums of more than a warp of lanes go through shared memory, from where every thread has them.
        let skips_chunks = facts.has_reductions
            && !(facts.writes_uniform_regs || meets || facts.writes_lane_arrays)
            && width > WARP
            && width < self.limits.threads;
        if width < self.limits.threads && !whole && !skips_chunks {
            // Threads beyond the lanes compute along: their loads are not shared out.
            for access in facts.accesses.iter_mut().filter(|access| !access.writes) {
                access.threads = Threads::All;
            }
            together |= meet_each_other(&facts.accesses);
        }
        LanePlan { facts, together, whole, skips_chunks }
    }

    /// Emits a loop over lanes.
    pub(super) fn lane_loop(&mut self, inner: &'a For, width: u32) -> Result<(), Diagnostic> {
        if self.lanes.is_some() {
            return Err(self.broken("lane loops are nested"));
        }
        if !width.is_power_of_two() {
            return Err(self.unsupported("threads need a lane width that is a power of two"));
        }
        let scope = self.scope.clone();
        let plan = self.lane_plan(inner, width, &scope);
        let mode = if plan.together { LaneMode::Together } else { LaneMode::Apart };
        let known = self.lane_modes.entry(inner.var).or_insert(mode);
        if *known != mode {
            *known = LaneMode::Mixed;
        }
        let (start, end) = (self.index(&inner.start)?, self.index(&inner.end)?);
        let chunks = self.unrolled_chunks(&plan, start, end)?;
        self.scope.enter(inner.var, width);
        let is_narrow = width < self.limits.threads;
        let guard = is_narrow.then(|| {
            let n_lanes = self.b.i64(i64::from(width));
            self.b.cmpi(IntCompare::Slt, self.thread, n_lanes)
        });
        let inside = if plan.whole { None } else { guard };
        self.lanes = Some(Lanes { inner, width, base: None, guard: inside, reductions: vec![] });
        let result = if plan.together {
            self.lanes_together(
                inner,
                (start, end),
                chunks,
                guard.filter(|_| plan.skips_chunks),
                &plan.facts.accesses,
            )
        } else {
            self.meet(&plan.facts.accesses);
            let pending = self.pending.take();
            let result = match guard.filter(|_| plan.whole) {
                Some(guard) => Builder::conditional(
                    self,
                    |this| &mut this.b,
                    guard,
                    |this| this.lanes_apart(inner, (start, end), chunks),
                ),
                None => self.lanes_apart(inner, (start, end), chunks),
            };
            self.pending = pending;
            result
        };
        self.lanes = None;
        self.scope.leave();
        self.unbind(inner.var);
        result
    }

    /// The values of the loop variable that chunks are unrolled for, if registers are indexed by it: up to the end, or as far as
    /// the registers go if that is known only at run time.
    fn unrolled_chunks(
        &self,
        plan: &LanePlan,
        start: Val<'c, 'm>,
        end: Val<'c, 'm>,
    ) -> Result<Option<std::ops::Range<i64>>, Diagnostic> {
        let arrays = plan.facts.lane_arrays.iter().map(|id| &self.func.locals[id.0 as usize]);
        let extents = arrays.filter_map(|local| {
            let (axis, _) = local.lane_axis?;
            local.shape.get(axis as usize)?.as_const()
        });
        let Some(most) = extents.min() else { return Ok(None) };
        match (start, end) {
            (Val::Const(start), Val::Const(end)) => Ok(Some(start.as_i64()..end.as_i64().max(start.as_i64()))),
            (Val::Const(start), Val::Ssa(_)) if !plan.together => Ok(Some(start.as_i64()..most)),
            _ => Err(self.unsupported(
                "a reduction over lanes whose number is known only at run time, beside registers that they index",
            )),
        }
    }

    /// The number of this thread's lane; threads beyond the lanes go along with those.
    pub(super) fn lane(&mut self, width: u32) -> Ssa<'c, 'm> {
        if width >= self.limits.threads {
            return self.thread;
        }
        let mask = self.b.i64(i64::from(width) - 1);
        self.b.and(self.thread, mask)
    }

    fn set_chunk(&mut self, base: Option<i64>) {
        if let Some(lanes) = &mut self.lanes {
            lanes.base = base;
        }
    }

    /// Every thread runs its own iterations.
    fn lanes_apart(
        &mut self,
        inner: &'a For,
        (start, end): (Val<'c, 'm>, Val<'c, 'm>),
        chunks: Option<std::ops::Range<i64>>,
    ) -> Result<(), Diagnostic> {
        let width = self.lanes.as_ref().map_or(1, |lanes| lanes.width);
        let step = i64::from(width);
        let lane = self.lane(width);
        if let Some(range) = chunks {
            let known = if let Val::Const(end) = end { Some(end.as_i64()) } else { None };
            let end = self.ssa(end, DType::I64);
            for base in range.step_by(width as usize) {
                self.set_chunk(Some(base));
                let first = self.b.i64(base);
                let var = self.b.add(first, lane);
                self.bind(inner.var, Val::Ssa(var));
                if known.is_some_and(|end| base + step <= end) {
                    self.block(&inner.body)?;
                    continue;
                }
                let inside = self.b.cmpi(IntCompare::Slt, var, end);
                Builder::conditional(self, |this| &mut this.b, inside, |this| this.block(&inner.body))?;
            }
            return Ok(());
        }
        let single = match (start, end) {
            (Val::Const(start), Val::Const(end)) => Some(end.as_i64() - start.as_i64()),
            _ => None,
        };
        let (start, end) = (self.ssa(start, DType::I64), self.ssa(end, DType::I64));
        let first = self.b.add(start, lane);
        if single == Some(step) {
            self.bind(inner.var, Val::Ssa(first));
            return self.block(&inner.body);
        }
        let step = self.b.i64(step);
        Builder::counted_loop(
            self,
            |this| &mut this.b,
            (first, end, step),
            |this, var| {
                this.bind(inner.var, Val::Ssa(var));
                this.block(&inner.body)
            },
        )
    }

    /// All threads run the chunks together, then the remaining iterations one by one.
    fn lanes_together(
        &mut self,
        inner: &'a For,
        (start, end): (Val<'c, 'm>, Val<'c, 'm>),
        chunks: Option<std::ops::Range<i64>>,
        guard: Option<Ssa<'c, 'm>>,
        accesses: &[Access],
    ) -> Result<(), Diagnostic> {
        let width = self.lanes.as_ref().map_or(1, |lanes| lanes.width);
        let step = i64::from(width);
        if let (Val::Const(first), Some(most)) = (start, self.most(&inner.end))
            && most.saturating_sub(first.as_i64()) < step
        {
            // There is no full chunk.
            let lanes = self.lanes.take();
            self.scope.leave();
            self.remaining(inner, (start, end), chunks.is_some())?;
            self.lanes = lanes;
            return Ok(());
        }
        let indexes_registers = chunks.is_some();
        let reductions = self.find_reductions(inner)?;
        for reduction in &reductions {
            let identity = self.b.scalar(reduction.dtype, reduction.op.identity(reduction.dtype));
            self.b.set_register(reduction.partial, identity);
        }
        if let Some(lanes) = &mut self.lanes {
            lanes.reductions = reductions.clone();
        }
        let middle = self.split_range(start, end, step);
        match guard {
            None => self.full_chunks(inner, (start, middle), chunks, accesses)?,
            Some(guard) => {
                self.meet(accesses);
                let pending = self.pending.take();
                let done = Builder::conditional(
                    self,
                    |this| &mut this.b,
                    guard,
                    |this| this.full_chunks(inner, (start, middle), chunks, accesses),
                );
                self.pending = pending;
                done?;
            }
        }
        let lanes = self.lanes.take();
        self.scope.leave();
        self.finish_reductions(&reductions, width)?;
        self.remaining(inner, (middle, end), indexes_registers)?;
        self.lanes = lanes;
        Ok(())
    }

    /// The chunks of a loop that all lanes run together.
    fn full_chunks(
        &mut self,
        inner: &'a For,
        (start, middle): (Val<'c, 'm>, Val<'c, 'm>),
        chunks: Option<std::ops::Range<i64>>,
        accesses: &[Access],
    ) -> Result<(), Diagnostic> {
        let width = self.lanes.as_ref().map_or(1, |lanes| lanes.width);
        let step = i64::from(width);
        let lane = self.lane(width);
        if let Some(range) = &chunks {
            let full = range.end - (range.end - range.start) % step;
            for base in (range.start..full).step_by(width as usize) {
                self.set_chunk(Some(base));
                let first = self.b.i64(base);
                let var = self.b.add(first, lane);
                self.bind(inner.var, Val::Ssa(var));
                self.block(&inner.body)?;
            }
            return Ok(());
        }
        let (first, last) = (self.ssa(start, DType::I64), self.ssa(middle, DType::I64));
        let step = self.b.i64(step);
        self.repeated(accesses, |this| {
            Builder::counted_loop(
                this,
                |this| &mut this.b,
                (first, last, step),
                |this, base| {
                    let var = this.b.add(base, lane);
                    this.bind(inner.var, Val::Ssa(var));
                    this.block(&inner.body)?;
                    this.close_repeated(accesses);
                    Ok(())
                },
            )
        })
    }

    /// Where the full chunks end: `start + len - len % width`.
    fn split_range(&mut self, start: Val<'c, 'm>, end: Val<'c, 'm>, step: i64) -> Val<'c, 'm> {
        if let (Val::Const(start), Val::Const(end)) = (start, end) {
            let (start, end) = (start.as_i64(), end.as_i64());
            let len = end.saturating_sub(start).max(0);
            return Val::Const(Scalar::Int(start + (len - len % step)));
        }
        let (start, end) = (self.ssa(start, DType::I64), self.ssa(end, DType::I64));
        let (zero, mask) = (self.b.i64(0), self.b.i64(-step));
        let len = self.b.sub(end, start);
        let len = self.b.same("arith.maxsi", &[len, zero]);
        let full = self.b.and(len, mask);
        Val::Ssa(self.b.add(start, full))
    }

    /// The iterations after the last full chunk, one by one, in all threads.
    fn remaining(
        &mut self,
        inner: &'a For,
        (start, end): (Val<'c, 'm>, Val<'c, 'm>),
        indexes_registers: bool,
    ) -> Result<(), Diagnostic> {
        // The loop variable is uniform from here on.
        self.scope.define(inner.var, &Inst::Const(Scalar::Int(0)));
        if let (Val::Const(start), Val::Const(end)) = (start, end) {
            let range = start.as_i64()..end.as_i64();
            let n_statements = range.end.saturating_sub(range.start).saturating_mul(statements(&inner.body));
            if n_statements <= MAX_UNROLLED || indexes_registers {
                for value in range {
                    self.bind(inner.var, Val::Const(Scalar::Int(value)));
                    self.block(&inner.body)?;
                }
                self.unbind(inner.var);
                return Ok(());
            }
        }
        let (start, end) = (self.ssa(start, DType::I64), self.ssa(end, DType::I64));
        let one = self.b.i64(1);
        self.unbind(inner.var);
        let all = self.accesses(&inner.body);
        self.repeated(&all, |this| {
            Builder::counted_loop(
                this,
                |this| &mut this.b,
                (start, end, one),
                |this, var| {
                    this.bind(inner.var, Val::Ssa(var));
                    this.block(&inner.body)?;
                    this.unbind(inner.var);
                    this.close_repeated(&all);
                    Ok(())
                },
            )
        })
    }
}
