//! Lane loops over the threads of a block, and lane reductions.
//!
//! In: a loop over lanes. Out: code in which a lane of a chunk is a thread. A loop whose iterations never meet is shared out
//! among the threads, its remaining iterations like the others. A loop with reductions, or in which lanes read what others
//! write, is run by all threads together, chunk by chunk, with barriers where lanes meet; its remaining iterations run
//! one by one, as the kernel IR orders them. Partials are combined by halves: those of different warps through shared memory,
//! those of one warp by shuffles, so that all threads end with the same bits.

use super::LaneMode;
use super::build::{Builder, IntCompare, Ssa};
use super::emit::{Emitter, Val};
use super::hazard::{Access, LaneFacts, Threads, meet_each_other, scratch_accesses};
use super::known::Register;
use super::layout::SCRATCH_BATCH;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::lanes::{AccumKind, LaneScope};
use birkhoff_ir::kernel::{AccumOp, Block, For, ForKind, Index, Inst, Mem, Stmt, Var};
use birkhoff_ir::scalar::{Scalar, ScalarOp};

/// Threads of a warp.
pub(super) const WARP: u32 = 32;

/// The lane loop around.
pub(super) struct Lanes<'a, 'c, 'm> {
    /// The loop.
    pub(super) inner: &'a For,
    pub(super) width: u32,
    /// The first value of the chunk, where chunks are unrolled.
    pub(super) base: Option<i64>,
    /// Which threads store: those that are lanes, where others compute along.
    pub(super) guard: Option<Ssa<'c, 'm>>,
    reductions: Vec<Reduction>,
}

/// An element that lanes reduce into.
#[derive(Clone, PartialEq, Debug)]
struct Target {
    mem: Mem,
    /// With all constants in it resolved.
    index: Vec<Index>,
}

/// Partial results of a reduction over lanes: one register per thread.
#[derive(Clone)]
struct Reduction {
    target: Target,
    op: AccumOp,
    dtype: DType,
    partial: Register,
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
    fn lane(&mut self, width: u32) -> Ssa<'c, 'm> {
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
        self.remaining(inner, (middle, end))?;
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
    ) -> Result<(), Diagnostic> {
        // The loop variable is uniform from here on.
        self.scope.define(inner.var, &Inst::Const(Scalar::Int(0)));
        if let (Val::Const(start), Val::Const(end)) = (start, end) {
            let range = start.as_i64()..end.as_i64();
            if range.end.saturating_sub(range.start) <= 8 {
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

    // ---- reductions -------------------------------------------------------------------------------------------------

    /// All elements that the body reduces into, with a register each for the partial result.
    fn find_reductions(&mut self, inner: &'a For) -> Result<Vec<Reduction>, Diagnostic> {
        let mut found = vec![];
        let mut scope = self.scope.clone();
        self.scan(&inner.body, &mut scope, &mut found)?;
        Ok(found)
    }

    fn scan(
        &mut self,
        block: &'a Block,
        scope: &mut LaneScope,
        found: &mut Vec<Reduction>,
    ) -> Result<(), Diagnostic> {
        for stmt in block {
            match stmt {
                Stmt::Decl(id) => scope.declare(*id),
                Stmt::Stage(_, body) => self.scan(body, scope, found)?,
                Stmt::For(inner) if inner.kind == ForKind::Unroll => {
                    for value in self.constant_bounds(inner)? {
                        self.bind(inner.var, Val::Const(Scalar::Int(value)));
                        self.scan(&inner.body, scope, found)?;
                    }
                    self.unbind(inner.var);
                }
                Stmt::For(inner) => self.scan(&inner.body, scope, found)?,
                Stmt::Accum { op, mem, index, .. } if scope.accum_kind(*mem, index) == AccumKind::Reduce => {
                    let target = self.target(*mem, index);
                    let dtype = self.func.mem_dtype(*mem).compute();
                    match found.iter().find(|reduction| reduction.target == target) {
                        Some(known) if known.op.combine() != op.combine() => {
                            return Err(self.broken("one element is reduced by two operations"));
                        }
                        Some(_) => {}
                        None => {
                            let ty = self.b.compute_type(dtype);
                            let partial = self.b.register(ty);
                            found.push(Reduction { target, op: *op, dtype, partial });
                        }
                    }
                }
                Stmt::Let(var, inst) => scope.define(*var, inst),
                Stmt::Store { .. } | Stmt::Accum { .. } => {}
            }
        }
        Ok(())
    }

    fn target(&self, mem: Mem, index: &[Index]) -> Target {
        let index = index.iter().map(|index| resolve(index, |var| self.known(var))).collect();
        Target { mem, index }
    }

    /// Combines the partial results by halves and adds them to their targets.
    fn finish_reductions(&mut self, reductions: &[Reduction], width: u32) -> Result<(), Diagnostic> {
        let batch = if width > WARP { SCRATCH_BATCH } else { reductions.len().max(1) };
        for batch in reductions.chunks(batch) {
            let mut totals: Vec<Ssa<'c, 'm>> = vec![];
            for reduction in batch {
                totals.push(self.b.register_value(reduction.partial, reduction.dtype));
            }
            if width > WARP {
                self.across_warps(batch, &mut totals, width)?;
            }
            for (reduction, mut total) in batch.iter().zip(totals) {
                let (dtype, op) = (reduction.dtype, reduction.op.combine());
                let mut half = width.min(WARP) / 2;
                while half > 0 {
                    let other = self.shuffle_xor(total, dtype, i64::from(half));
                    total = self.combine(op, dtype, total, other)?;
                    half /= 2;
                }
                self.add_total(reduction, total)?;
            }
        }
        Ok(())
    }

    /// Combines by halves down to the lanes of one warp, which every warp then has.
    fn across_warps(
        &mut self,
        batch: &[Reduction],
        totals: &mut [Ssa<'c, 'm>],
        width: u32,
    ) -> Result<(), Diagnostic> {
        let Some(scratch) = self.scratch() else {
            return Err(self.broken("it has no memory for reductions"));
        };
        let [write, read] = scratch_accesses(width);
        self.meet(&[write]);
        let byte = self.b.int(8);
        let lane = self.lane(width);
        let elem_bytes = self.layout.scratch_elem_bytes as i64;
        let slot_bytes = self.b.i64(elem_bytes);
        let lane_bytes = self.b.mul(lane, slot_bytes);
        let row = |idx: usize, lane: u32| (idx as i64 * i64::from(width) + i64::from(lane)) * elem_bytes;
        let own = self.b.offset(scratch, byte, lane_bytes);
        for (idx, (reduction, total)) in batch.iter().zip(totals.iter()).enumerate() {
            let (offset, total) = (self.b.i64(row(idx, 0)), *total);
            let pointer = self.b.offset(own, byte, offset);
            let align = reduction.dtype.size_bytes();
            let guard = (width < self.limits.threads).then(|| {
                let n_lanes = self.b.i64(i64::from(width));
                self.b.cmpi(IntCompare::Slt, self.thread, n_lanes)
            });
            self.guarded(guard, |this| {
                this.b.store(total, pointer, align);
                Ok(())
            })?;
        }
        self.meet(&[read]);
        let mask = self.b.i64(i64::from(WARP) - 1);
        let in_warp = self.b.and(self.thread, mask);
        let in_warp = self.b.mul(in_warp, slot_bytes);
        let first = self.b.offset(scratch, byte, in_warp);
        for (idx, (reduction, total)) in batch.iter().zip(totals).enumerate() {
            let (dtype, op) = (reduction.dtype, reduction.op.combine());
            let ty = self.b.compute_type(dtype);
            let mut parts = vec![];
            for warp in 0..width / WARP {
                let offset = self.b.i64(row(idx, warp * WARP));
                let pointer = self.b.offset(first, byte, offset);
                parts.push(self.b.load(ty, pointer, dtype.size_bytes()));
            }
            while parts.len() > 1 {
                let high = parts.split_off(parts.len() / 2);
                for (low, high) in parts.iter_mut().zip(high) {
                    *low = self.combine(op, dtype, *low, high)?;
                }
            }
            *total = parts[0];
        }
        Ok(())
    }

    fn combine(
        &mut self,
        op: ScalarOp,
        dtype: DType,
        a: Ssa<'c, 'm>,
        b: Ssa<'c, 'm>,
    ) -> Result<Ssa<'c, 'm>, Diagnostic> {
        let value = self.scalar_op(op, dtype, &[Val::Ssa(a), Val::Ssa(b)])?;
        Ok(self.ssa(value, dtype))
    }

    fn add_total(&mut self, reduction: &Reduction, total: Ssa<'c, 'm>) -> Result<(), Diagnostic> {
        let (dtype, op) = (reduction.dtype, reduction.op.combine());
        self.update(reduction.target.mem, &reduction.target.index, |this, before| {
            this.combine(op, dtype, before, total)
        })
    }

    /// An update of an element, or of the partial result of a reduction.
    pub(super) fn accum(
        &mut self,
        op: AccumOp,
        mem: Mem,
        index: &'a [Index],
        args: &[Var],
    ) -> Result<(), Diagnostic> {
        let dtype = self.func.mem_dtype(mem).compute();
        let args = args.iter().map(|arg| self.var(*arg)).collect::<Result<Vec<_>, _>>()?;
        let accumulate = |this: &mut Self, before: Ssa<'c, 'm>| match (op, args.as_slice()) {
            (AccumOp::MulAdd, [a, b]) if dtype.is_float() => {
                Ok(this.b.same("llvm.intr.fma", &[*a, *b, before]))
            }
            (AccumOp::MulAdd, [a, b]) => {
                let product = this.b.mul(*a, *b);
                Ok(this.b.add(before, product))
            }
            (_, [a]) => this.combine(op.combine(), dtype, before, *a),
            _ => Err(this.broken("an accumulation has the wrong number of values")),
        };
        let is_reduction = self.lanes.is_some() && self.scope.accum_kind(mem, index) == AccumKind::Reduce;
        if !is_reduction {
            return self.update(mem, index, accumulate);
        }
        let target = self.target(mem, index);
        let found = self
            .lanes
            .as_ref()
            .and_then(|lanes| lanes.reductions.iter().find(|other| other.target == target));
        let Some(reduction) = found.cloned() else {
            return Err(self.broken("a lane reduction was not found before its loop"));
        };
        let before = self.b.register_value(reduction.partial, dtype);
        let after = accumulate(self, before)?;
        self.b.set_register(reduction.partial, after);
        Ok(())
    }
}
