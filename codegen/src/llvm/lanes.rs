//! Lane loops and lane reductions.
//!
//! In: a loop over lanes and the values of its bounds. Out: its full chunks as vectors, the combining of its reductions by
//! halves, then the remaining iterations one by one, exactly as the kernel IR orders them. A loop over the lane axis of a
//! register array is unrolled, because registers have no addresses.

use super::address::Place;
use super::build::Ssa;
use super::emit::Emitter;
use super::regs::Slot;
use super::value::Val;
use crate::facts::{collect_defined, collect_lane_indexed};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{AccumOp, Block, For, ForKind, Index, LocalId, Mem, Stmt, Var};
use birkhoff_ir::scalar::Scalar;
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;
use std::rc::Rc;

/// The lane loop around.
pub(super) struct Lanes<'c> {
    /// The loop variable.
    pub(super) var: Var,
    /// Lanes in a chunk.
    pub(super) width: u32,
    /// The loop variable in the first lane of the chunk.
    pub(super) base: Val<'c>,
    /// Number of loops around the body.
    pub(super) depth: u32,
    reductions: Rc<Reductions<'c>>,
}

/// What an access touches, with all indices resolved.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Target<'c> {
    /// Memory.
    Memory(Place<'c>),
    /// Registers.
    Register(LocalId, Slot),
}

/// The reductions of a loop in program order, and where each is.
#[derive(Default)]
struct Reductions<'c> {
    list: Vec<(Target<'c>, Reduction<'c>)>,
    positions: FxHashMap<Target<'c>, usize>,
}

/// Partial results of a reduction over lanes.
#[derive(Clone, Copy)]
struct Reduction<'c> {
    op: AccumOp,
    dtype: DType,
    /// A register with one partial per lane.
    partials: Ssa<'c>,
}

/// What stays the same while the reductions of a loop are looked for.
struct Search<'s> {
    lane_loop: &'s For,
    /// Variables that change inside it.
    inside: BTreeSet<Var>,
}

impl<'a, 'c> Emitter<'a, 'c> {
    /// Emits a loop over lanes.
    pub(super) fn lane_loop(
        &mut self,
        body: &'a For,
        start: Val<'c>,
        end: Val<'c>,
        width: u32,
    ) -> Result<(), Diagnostic> {
        if self.lanes.is_some() {
            return Err(self.broken("lane loops are nested"));
        }
        if width < 2 {
            return Err(self.broken("a lane loop has fewer than two lanes"));
        }
        let middle = self.split_range(start, end, width)?;
        let reductions = Rc::new(self.find_reductions(body, width)?);
        self.lanes = Some(Lanes {
            var: body.var,
            width,
            base: start,
            depth: self.depth,
            reductions: reductions.clone(),
        });
        self.start_partials(&reductions);
        let unrolled = self.indexes_reg_axis(&body.body, body.var);
        let chunk = |emitter: &mut Self, base: Val<'c>| {
            let depth = emitter.depth;
            if let Some(lanes) = emitter.lanes.as_mut() {
                (lanes.base, lanes.depth) = (base, depth);
            }
            emitter.block(&body.body)
        };
        if unrolled {
            let (Val::Const(first), Val::Const(last)) = (start, middle) else {
                self.lanes = None;
                return Err(self.unsupported("a lane loop over a register array needs constant bounds"));
            };
            for base in (first.as_i64()..last.as_i64()).step_by(width as usize) {
                chunk(self, Val::Const(Scalar::Int(base)))?;
            }
        } else {
            self.chunks(body, (start, middle, width), &chunk)?;
        }
        self.lanes = None;
        self.finish_reductions(&reductions, width)?;
        if unrolled {
            let (Val::Const(first), Val::Const(last)) = (middle, end) else { return Ok(()) };
            for value in first.as_i64()..last.as_i64() {
                self.bind(body.var, Val::Const(Scalar::Int(value)));
                self.block(&body.body)?;
            }
            return Ok(());
        }
        self.counted_loop(middle, end, 1, |emitter, var| {
            emitter.bind(body.var, var);
            emitter.block(&body.body)
        })
    }

    /// Where the full chunks end: `start + len - len % width`.
    fn split_range(&mut self, start: Val<'c>, end: Val<'c>, width: u32) -> Result<Val<'c>, Diagnostic> {
        let width = i64::from(width);
        if let (Val::Const(start), Val::Const(end)) = (start, end) {
            let (start, end) = (start.as_i64(), end.as_i64());
            let len = end.saturating_sub(start).max(0);
            return Ok(Val::Const(Scalar::Int(start + (len - len % width))));
        }
        if !(width as u64).is_power_of_two() {
            return Err(self.broken("the width of a lane loop of unknown length is not a power of two"));
        }
        let start = self.as_scalar(start, DType::I64)?;
        let end = self.as_scalar(end, DType::I64)?;
        let len = self.int_bound(true, self.b.sub(end, start), self.i64_const(0));
        let full = self.b.and(len, self.i64_const(-width));
        Ok(Val::Uniform(self.b.add(start, full)))
    }

    /// All accumulations of the body that reduce over lanes, with fresh registers for their partial results.
    fn find_reductions(&mut self, body: &'a For, width: u32) -> Result<Reductions<'c>, Diagnostic> {
        let mut search = Search { lane_loop: body, inside: BTreeSet::new() };
        collect_defined(&body.body, &mut search.inside);
        let mut found = Reductions::default();
        self.scan(&search, &body.body, width, &mut BTreeSet::new(), &mut found)?;
        Ok(found)
    }

    fn scan(
        &mut self,
        search: &Search<'_>,
        block: &'a Block,
        width: u32,
        declared: &mut BTreeSet<LocalId>,
        found: &mut Reductions<'c>,
    ) -> Result<(), Diagnostic> {
        for stmt in block {
            match stmt {
                Stmt::Decl(local) => {
                    declared.insert(*local);
                }
                Stmt::Stage(_, body) => self.scan(search, body, width, declared, found)?,
                Stmt::For(inner) if inner.kind == ForKind::Unroll => {
                    let bounds = (self.index_value(&inner.start)?, self.index_value(&inner.end)?);
                    let (Val::Const(start), Val::Const(end)) = bounds else {
                        return Err(self.broken("an unrolled loop has bounds that are not constants"));
                    };
                    for value in start.as_i64()..end.as_i64() {
                        self.bind(inner.var, Val::Const(Scalar::Int(value)));
                        self.scan(search, &inner.body, width, declared, found)?;
                    }
                }
                Stmt::For(inner) => self.scan(search, &inner.body, width, declared, found)?,
                Stmt::Accum { op, mem, index, .. } => {
                    let private = matches!(mem, Mem::Local(id) if declared.contains(id));
                    let by_lane = |index: &Index| !index.coeff(search.lane_loop.var).is_const(0);
                    if private || index.iter().any(by_lane) {
                        continue;
                    }
                    let mut vars = index.iter().flat_map(|index| &index.terms);
                    if vars.any(|(var, _)| search.inside.contains(var)) {
                        return Err(
                            self.unsupported("the target of a lane reduction changes within the lane loop")
                        );
                    }
                    let target = self.target(*mem, index)?;
                    self.add_reduction(found, target, *op, self.func.mem_dtype(*mem), width)?;
                }
                Stmt::Let(..) | Stmt::Store { .. } => {}
            }
        }
        Ok(())
    }

    fn add_reduction(
        &mut self,
        found: &mut Reductions<'c>,
        target: Target<'c>,
        op: AccumOp,
        dtype: DType,
        width: u32,
    ) -> Result<(), Diagnostic> {
        if let Some(known) = found.positions.get(&target) {
            let same = found.list[*known].1.op.combine() == op.combine();
            return if same { Ok(()) } else { Err(self.broken("one target is reduced by two operations")) };
        }
        let dtype = dtype.compute();
        let partials = self.register(dtype, width);
        found.positions.insert(target.clone(), found.list.len());
        found.list.push((target, Reduction { op, dtype, partials }));
        Ok(())
    }

    fn start_partials(&mut self, reductions: &Reductions<'c>) {
        for (_, reduction) in &reductions.list {
            let dtype = reduction.dtype;
            let identity = self.constant(dtype, reduction.op.identity(dtype), self.width());
            self.b.store(identity, reduction.partials, dtype.size_bytes() as u32);
        }
    }

    /// Combines the partial results by halves and adds them to their targets.
    fn finish_reductions(&mut self, reductions: &Reductions<'c>, width: u32) -> Result<(), Diagnostic> {
        for (target, reduction) in &reductions.list {
            let (dtype, op) = (reduction.dtype, reduction.op.combine());
            let align = dtype.size_bytes() as u32;
            let mut total = self.b.load(self.ty(dtype, width), reduction.partials, align);
            let mut half = width / 2;
            while half > 1 {
                let low = self.b.shuffle(total, total, 0..half);
                let high = self.b.shuffle(total, total, half..2 * half);
                total = self.number_op(op, dtype, half, &[low, high])?;
                half /= 2;
            }
            let total =
                self.number_op(op, dtype, 1, &[self.b.extract(total, 0), self.b.extract(total, 1)])?;
            let before = self.load_target(target)?;
            let before = self.as_scalar(before, dtype)?;
            let after = self.number_op(op, dtype, 1, &[before, total])?;
            self.store_target(target, Val::Uniform(after))?;
        }
        Ok(())
    }

    /// An update of a memory element: lane by lane, or of the partial results of a reduction.
    pub(super) fn accum(
        &mut self,
        op: AccumOp,
        mem: Mem,
        index: &'a [Index],
        args: &[Var],
    ) -> Result<(), Diagnostic> {
        let target = self.target(mem, index)?;
        let dtype = self.func.mem_dtype(mem).compute();
        let mut operands = vec![];
        for arg in args {
            operands.push((self.lookup(*arg)?.val, dtype));
        }
        let reductions = self.lanes.as_ref().map(|lanes| lanes.reductions.clone());
        let reduction = reductions.and_then(|reductions| {
            reductions.positions.get(&target).map(|position| reductions.list[*position].1)
        });
        let Some(reduction) = reduction else {
            let before = self.load_target(&target)?;
            let after = self.accumulate(op, dtype, before, operands)?;
            return self.store_target(&target, after);
        };
        let align = dtype.size_bytes() as u32;
        let before = self.b.load(self.ty(dtype, self.width()), reduction.partials, align);
        let after = self.accumulate(op, dtype, Val::Lanes(before), operands)?;
        self.b.store(self.as_lanes(after, dtype), reduction.partials, align);
        Ok(())
    }

    fn accumulate(
        &mut self,
        op: AccumOp,
        dtype: DType,
        before: Val<'c>,
        args: Vec<(Val<'c>, DType)>,
    ) -> Result<Val<'c>, Diagnostic> {
        if op == AccumOp::MulAdd {
            return self.fma(dtype, &[args, vec![(before, dtype)]].concat());
        }
        self.scalar_op(op.combine(), dtype, &[vec![(before, dtype)], args].concat())
    }

    /// True if registers are indexed by the lane variable on their lane axis.
    fn indexes_reg_axis(&self, block: &[Stmt], var: Var) -> bool {
        let mut locals = BTreeSet::new();
        collect_lane_indexed(self.func, block, var, &mut locals);
        locals.into_iter().any(|id| self.reg_local(Mem::Local(id)).is_some())
    }
}
