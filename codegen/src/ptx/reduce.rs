//! Lane reductions: a register of each thread for its part of a sum, and one result that all threads have.
//!
//! In: a lane loop with accumulations into what its lanes share. Out: code that combines the parts by halves, as the kernel IR says,
//! and adds the results to their targets. Within a warp parts move by shuffles, across warps through shared memory: there, some
//! threads take each sum, so that many sums are combined at the same time, and their results come back the same way.

use super::build::{IntCompare, Ssa};
use super::emit::{Emitter, Val};
use super::hazard::{result_accesses, scratch_accesses};
use super::known::Register;
use super::lanes::{WARP, resolve};
use super::layout::{ALIGN_BYTES, SCRATCH_BATCH};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::lanes::{AccumKind, LaneScope};
use birkhoff_ir::kernel::{AccumOp, Block, For, ForKind, Index, Mem, Stmt, Var};
use birkhoff_ir::scalar::{Scalar, ScalarOp};

/// So few sums are combined by every warp, which takes one barrier less.
const FEW_SUMS: usize = 2;

/// An element that lanes reduce into.
#[derive(Clone, PartialEq, Debug)]
struct Target {
    mem: Mem,
    /// With all constants in it resolved.
    index: Vec<Index>,
}

/// Partial results of a reduction over lanes: one register per thread.
#[derive(Clone)]
pub(super) struct Reduction {
    target: Target,
    pub(super) op: AccumOp,
    pub(super) dtype: DType,
    pub(super) partial: Register,
}

impl<'a, 'c, 'm> Emitter<'a, 'c, 'm> {
    /// All elements that the body reduces into, with a register each for the partial result.
    pub(super) fn find_reductions(&mut self, inner: &'a For) -> Result<Vec<Reduction>, Diagnostic> {
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
    pub(super) fn finish_reductions(
        &mut self,
        reductions: &[Reduction],
        width: u32,
    ) -> Result<(), Diagnostic> {
        let alike = |a: &Reduction, b: &Reduction| a.dtype == b.dtype && a.op.combine() == b.op.combine();
        let batch = if width > WARP { SCRATCH_BATCH } else { reductions.len().max(1) };
        for batch in reductions.chunk_by(alike).flat_map(|alike| alike.chunks(batch)) {
            let mut totals: Vec<Ssa<'c, 'm>> = vec![];
            for reduction in batch {
                totals.push(self.b.register_value(reduction.partial, reduction.dtype));
            }
            if width > WARP && batch.len() > FEW_SUMS {
                totals = self.by_shared_memory(batch, &totals, width)?;
            } else {
                if width > WARP {
                    self.across_warps(batch, &mut totals, width)?;
                }
                for (reduction, total) in batch.iter().zip(&mut totals) {
                    *total = self.by_shuffles(reduction, *total, width.min(WARP))?;
                }
            }
            for (reduction, total) in batch.iter().zip(totals) {
                self.add_total(reduction, total)?;
            }
        }
        Ok(())
    }

    /// Combines by halves over so many neighbouring threads of a warp, which all have the result then.
    fn by_shuffles(
        &mut self,
        reduction: &Reduction,
        mut total: Ssa<'c, 'm>,
        threads: u32,
    ) -> Result<Ssa<'c, 'm>, Diagnostic> {
        let (dtype, op) = (reduction.dtype, reduction.op.combine());
        let mut half = threads / 2;
        while half > 0 {
            let other = self.shuffle_xor(total, dtype, i64::from(half));
            total = self.combine(op, dtype, total, other)?;
            half /= 2;
        }
        Ok(total)
    }

    /// Combines the later half of `parts` with the earlier one, until one is left.
    fn by_halves(
        &mut self,
        reduction: &Reduction,
        mut parts: Vec<Ssa<'c, 'm>>,
    ) -> Result<Ssa<'c, 'm>, Diagnostic> {
        while parts.len() > 1 {
            let high = parts.split_off(parts.len() / 2);
            for (low, high) in parts.iter_mut().zip(high) {
                *low = self.combine(reduction.op.combine(), reduction.dtype, *low, high)?;
            }
        }
        parts.first().copied().ok_or_else(|| self.broken("a reduction has no parts"))
    }

    /// The memory through which reductions go, with the parts of `batch` in it: a row of lanes for each sum.
    fn share_parts(
        &mut self,
        batch: &[Reduction],
        parts: &[Ssa<'c, 'm>],
        width: u32,
    ) -> Result<Ssa<'c, 'm>, Diagnostic> {
        let Some(scratch) = self.scratch() else {
            return Err(self.broken("it has no memory for reductions"));
        };
        let [write, read] = scratch_accesses(width);
        self.meet(&[write]);
        let guard = (width < self.limits.threads).then(|| {
            let n_lanes = self.b.i64(i64::from(width));
            self.b.cmpi(IntCompare::Slt, self.thread, n_lanes)
        });
        let lane = self.lane(width);
        for (row, (reduction, part)) in batch.iter().zip(parts).enumerate() {
            let (ty, align) = (self.b.compute_type(reduction.dtype), reduction.dtype.size_bytes());
            let own = self.b.offset(scratch, ty, lane);
            let place = self.b.offset_by(own, ty, row as i64 * i64::from(width));
            let part = *part;
            self.guarded(guard, |this| {
                this.b.store(part, place, align);
                Ok(())
            })?;
        }
        self.meet(&[read]);
        Ok(scratch)
    }

    /// Combines by halves down to the lanes of one warp, which every warp then has.
    fn across_warps(
        &mut self,
        batch: &[Reduction],
        totals: &mut [Ssa<'c, 'm>],
        width: u32,
    ) -> Result<(), Diagnostic> {
        let scratch = self.share_parts(batch, totals, width)?;
        let mask = self.b.i64(i64::from(WARP) - 1);
        let in_warp = self.b.and(self.thread, mask);
        for (row, (reduction, total)) in batch.iter().zip(totals).enumerate() {
            let (ty, align) = (self.b.compute_type(reduction.dtype), reduction.dtype.size_bytes());
            let first = self.b.offset(scratch, ty, in_warp);
            let row = row as i64 * i64::from(width);
            let mut parts = vec![];
            for warp in 0..width / WARP {
                let place = self.b.offset_by(first, ty, row + i64::from(warp * WARP));
                parts.push(self.b.load(ty, place, align));
            }
            *total = self.by_halves(reduction, parts)?;
        }
        Ok(())
    }

    /// Combines sums of one kind, each in threads of its own.
    fn by_shared_memory(
        &mut self,
        batch: &[Reduction],
        parts: &[Ssa<'c, 'm>],
        width: u32,
    ) -> Result<Vec<Ssa<'c, 'm>>, Diagnostic> {
        let scratch = self.share_parts(batch, parts, width)?;
        let Some(reduction) = batch.first() else { return Ok(vec![]) };
        let (ty, align) = (self.b.compute_type(reduction.dtype), reduction.dtype.size_bytes());
        // Neighbouring threads of a warp for each sum; threads that are left over go along with the last.
        let each = (width / SCRATCH_BATCH as u32).min(WARP);
        let n_sums = batch.len() as i64;
        let (shift, mask) = (self.b.i64(i64::from(each.ilog2())), self.b.i64(i64::from(each) - 1));
        let (own, position) =
            (self.b.same("arith.shrui", &[self.thread, shift]), self.b.and(self.thread, mask));
        let last = self.b.i64(n_sums - 1);
        let sum = self.b.same("arith.minsi", &[own, last]);
        let n_lanes = self.b.i64(i64::from(width));
        let row = self.b.mul(sum, n_lanes);
        let first = self.b.add(row, position);
        let first = self.b.offset(scratch, ty, first);
        let mut own_parts = vec![];
        for part in 0..width / each {
            let place = self.b.offset_by(first, ty, i64::from(part * each));
            own_parts.push(self.b.load(ty, place, align));
        }
        let total = self.by_halves(reduction, own_parts)?;
        let total = self.by_shuffles(reduction, total, each)?;
        let [write, read] = result_accesses();
        self.meet(&[write]);
        let results = self.b.offset_by(scratch, self.b.int(8), self.layout.results_offset as i64);
        let zero = self.b.i64(0);
        let (is_one, is_first) =
            (self.b.cmpi(IntCompare::Sle, own, last), self.b.cmpi(IntCompare::Eq, position, zero));
        let guard = self.b.and(is_one, is_first);
        let place = self.b.offset(results, ty, sum);
        self.guarded(Some(guard), |this| {
            this.b.store(total, place, align);
            Ok(())
        })?;
        self.meet(&[read]);
        Ok(self.load_results(results, reduction.dtype, batch.len()))
    }

    /// Loads neighbouring values of shared memory that all threads have.
    fn load_results(&mut self, results: Ssa<'c, 'm>, dtype: DType, n_sums: usize) -> Vec<Ssa<'c, 'm>> {
        let ty = self.b.compute_type(dtype);
        let most = if dtype == DType::Bool { 1 } else { (ALIGN_BYTES / dtype.size_bytes()) as usize };
        let mut totals = vec![];
        while totals.len() < n_sums {
            let (start, left) = (totals.len(), n_sums - totals.len());
            let n_elems =
                std::iter::successors(Some(most), |n| Some(n / 2)).find(|n| *n <= left).unwrap_or(1);
            let place = self.b.offset_by(results, ty, start as i64);
            let align = dtype.size_bytes() * n_elems as u64;
            if n_elems == 1 {
                totals.push(self.b.load(ty, place, align));
                continue;
            }
            let vector = self.b.vector_type(dtype, n_elems);
            let loaded = self.b.load(vector, place, align);
            totals.extend((0..n_elems).map(|number| self.b.extract(loaded, ty, number as i64)));
        }
        totals
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
