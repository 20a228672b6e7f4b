//! Lane loops and lane reductions.
//!
//! In: a loop over lanes and the values of its bounds. Out: its full chunks as native vectors, the combining of its
//! reductions by halves, then the remaining iterations one by one, exactly as the kernel IR orders them. A loop over
//! the lane axis of a register array is unrolled, because registers have no addresses.

use super::address::Place;
use super::emit::Emitter;
use super::regs::Slot;
use super::value::{Val, chunk_lanes, chunk_type, n_chunks};
use crate::facts::{collect_defined, collect_lane_indexed, scalar_bits};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{AccumOp, Block, For, ForKind, Index, LocalId, Mem, Stmt, Var};
use birkhoff_ir::scalar::Scalar;
use cranelift_codegen::ir::{InstBuilder, Value};
use cranelift_frontend::Variable;
use std::collections::{BTreeSet, HashMap};

/// The lane loop around.
pub(super) struct Lanes {
    /// The loop variable.
    pub(super) var: Var,
    /// Lanes in a chunk.
    pub(super) width: u32,
    /// The loop variable in the first lane of the chunk.
    pub(super) base: Val,
    /// Number of loops around the body.
    pub(super) depth: u32,
    reductions: HashMap<Target, Reduction>,
}

/// What an access touches, with all indices resolved.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Target {
    /// Memory.
    Memory(Place),
    /// Registers.
    Register(LocalId, Slot),
}

/// Partial results of a reduction over lanes.
#[derive(Clone)]
struct Reduction {
    order: usize,
    op: AccumOp,
    dtype: DType,
    partials: Vec<Variable>,
}

impl<'a> Emitter<'a, '_> {
    /// Emits a loop over lanes.
    pub(super) fn lane_loop(
        &mut self,
        body: &'a For,
        start: Val,
        end: Val,
        width: u32,
    ) -> Result<(), Diagnostic> {
        if self.lanes.is_some() {
            return Err(self.broken("lane loops are nested"));
        }
        if width < 2 {
            return Err(self.broken("a lane loop has fewer than two lanes"));
        }
        let middle = self.split_range(&start, &end, width)?;
        let reductions = self.find_reductions(body, width)?;
        self.lanes = Some(Lanes {
            var: body.var,
            width,
            base: start.clone(),
            depth: self.depth(),
            reductions: reductions.clone(),
        });
        self.start_partials(&reductions);
        let unrolled = self.indexes_reg_axis(&body.body, body.var);
        let chunk = |emitter: &mut Self, base: Val| {
            let depth = emitter.depth();
            if let Some(lanes) = emitter.lanes.as_mut() {
                (lanes.base, lanes.depth) = (base, depth);
            }
            emitter.block(&body.body)
        };
        if unrolled {
            let (Val::Const(first), Val::Const(last)) = (&start, &middle) else {
                self.lanes = None;
                return Err(self.unsupported("a lane loop over a register array needs constant bounds"));
            };
            for base in (first.as_i64()..last.as_i64()).step_by(width as usize) {
                chunk(self, Val::Const(Scalar::Int(base)))?;
            }
        } else {
            self.counted_loop(start, middle.clone(), i64::from(width), chunk)?;
        }
        self.finish_reductions(&reductions)?;
        self.lanes = None;
        if unrolled {
            let (Val::Const(first), Val::Const(last)) = (&middle, &end) else { return Ok(()) };
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
    fn split_range(&mut self, start: &Val, end: &Val, width: u32) -> Result<Val, Diagnostic> {
        let width = i64::from(width);
        if let (Val::Const(start), Val::Const(end)) = (start, end) {
            let (start, end) = (start.as_i64(), end.as_i64());
            let len = end.saturating_sub(start).max(0);
            return Ok(Val::Const(Scalar::Int(start + (len - len % width))));
        }
        if !(width as u64).is_power_of_two() {
            return Err(self.broken("the width of a lane loop of unknown length is not a power of two"));
        }
        let known_start = matches!(start, Val::Const(Scalar::Int(0)));
        let start = self.as_scalar(start, DType::I64)?;
        let end = self.as_scalar(end, DType::I64)?;
        let (zero, mask) = (self.i64_const(0), self.i64_const(-width));
        let len = if known_start { end } else { self.b.ins().isub(end, start) };
        let len = self.b.ins().smax(len, zero);
        let full = self.b.ins().band(len, mask);
        Ok(Val::Uniform(if known_start { full } else { self.b.ins().iadd(start, full) }))
    }

    /// All accumulations of the body that reduce over lanes, with fresh variables for their partial results.
    fn find_reductions(
        &mut self,
        body: &'a For,
        width: u32,
    ) -> Result<HashMap<Target, Reduction>, Diagnostic> {
        let mut inside = BTreeSet::new();
        collect_defined(&body.body, &mut inside);
        let mut found = HashMap::new();
        let mut declared = BTreeSet::new();
        self.scan(body, &body.body, width, &inside, &mut declared, &mut found)?;
        Ok(found)
    }

    fn scan(
        &mut self,
        lane_loop: &For,
        block: &'a Block,
        width: u32,
        inside: &BTreeSet<Var>,
        declared: &mut BTreeSet<LocalId>,
        found: &mut HashMap<Target, Reduction>,
    ) -> Result<(), Diagnostic> {
        for stmt in block {
            match stmt {
                Stmt::Decl(local) => {
                    declared.insert(*local);
                }
                Stmt::Stage(_, body) => self.scan(lane_loop, body, width, inside, declared, found)?,
                Stmt::For(inner) if inner.kind == ForKind::Unroll => {
                    let bounds = (self.index_value(&inner.start)?, self.index_value(&inner.end)?);
                    let (Val::Const(start), Val::Const(end)) = bounds else {
                        return Err(self.broken("an unrolled loop has bounds that are not constants"));
                    };
                    for value in start.as_i64()..end.as_i64() {
                        self.bind(inner.var, Val::Const(Scalar::Int(value)));
                        self.scan(lane_loop, &inner.body, width, inside, declared, found)?;
                    }
                }
                Stmt::For(inner) => self.scan(lane_loop, &inner.body, width, inside, declared, found)?,
                Stmt::Accum { op, mem, index, .. } => {
                    let private = matches!(mem, Mem::Local(id) if declared.contains(id));
                    let by_lane = index.iter().any(|index| !index.coeff(lane_loop.var).is_const(0));
                    if private || by_lane {
                        continue;
                    }
                    if index.iter().flat_map(|index| &index.terms).any(|(var, _)| inside.contains(var)) {
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
        found: &mut HashMap<Target, Reduction>,
        target: Target,
        op: AccumOp,
        dtype: DType,
        width: u32,
    ) -> Result<(), Diagnostic> {
        if let Some(known) = found.get(&target) {
            let same = known.op.combine() == op.combine();
            return if same { Ok(()) } else { Err(self.broken("one target is reduced by two operations")) };
        }
        let dtype = dtype.compute();
        let ty = chunk_type(dtype, width);
        let partials = (0..n_chunks(dtype, width)).map(|_| self.b.declare_var(ty)).collect();
        let order = found.len();
        found.insert(target, Reduction { order, op, dtype, partials });
        Ok(())
    }

    fn start_partials(&mut self, reductions: &HashMap<Target, Reduction>) {
        for (_, reduction) in in_order(reductions) {
            let dtype = reduction.dtype;
            let bits = scalar_bits(dtype, reduction.op.identity(dtype));
            let identity = self.bits_const(chunk_type(dtype, self.width()), bits);
            for partial in &reduction.partials {
                self.b.def_var(*partial, identity);
            }
        }
    }

    /// Combines the partial results by halves and adds them to their targets.
    fn finish_reductions(&mut self, reductions: &HashMap<Target, Reduction>) -> Result<(), Diagnostic> {
        for (target, reduction) in in_order(reductions) {
            let (dtype, op) = (reduction.dtype, reduction.op.combine());
            let mut chunks: Vec<Value> =
                reduction.partials.iter().map(|partial| self.b.use_var(*partial)).collect();
            let per_chunk = chunk_lanes(dtype, self.width());
            let ty = chunk_type(dtype, self.width());
            while chunks.len() > 1 {
                let high = chunks.split_off(chunks.len() / 2);
                for (low, high) in chunks.iter_mut().zip(high) {
                    *low = self.raw_op(op, dtype, ty, &[*low, high])?;
                }
            }
            let mut total = chunks[0];
            if per_chunk == 4 {
                let picks = [8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15];
                let high = self.shuffle(ty, total, total, picks);
                total = self.raw_op(op, dtype, ty, &[total, high])?;
            }
            if per_chunk > 1 {
                let (low, high) = (self.extract(dtype, total, 0), self.extract(dtype, total, 1));
                total = self.raw_op(op, dtype, ty.lane_type(), &[low, high])?;
            }
            let lanes = self.lanes.take();
            let before = self.load_target(target)?;
            let before = self.as_scalar(&before, dtype)?;
            let after = self.raw_op(op, dtype, ty.lane_type(), &[before, total])?;
            self.store_target(target, &Val::Uniform(after))?;
            self.lanes = lanes;
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
            operands.push(self.lookup(*arg)?.val.clone());
        }
        let reduction = self.lanes.as_ref().and_then(|lanes| lanes.reductions.get(&target)).cloned();
        let Some(reduction) = reduction else {
            let before = self.load_target(&target)?;
            let after = self.accumulate(op, dtype, before, operands)?;
            return self.store_target(&target, &after);
        };
        let before = Val::Lanes(reduction.partials.iter().map(|partial| self.b.use_var(*partial)).collect());
        let after = self.accumulate(op, dtype, before, operands)?;
        let after = self.as_lanes(&after, dtype)?;
        for (partial, value) in reduction.partials.iter().zip(after) {
            self.b.def_var(*partial, value);
        }
        Ok(())
    }

    fn accumulate(
        &mut self,
        op: AccumOp,
        dtype: DType,
        before: Val,
        args: Vec<Val>,
    ) -> Result<Val, Diagnostic> {
        let args: Vec<(Val, DType)> = args.into_iter().map(|arg| (arg, dtype)).collect();
        if op == AccumOp::MulAdd {
            let all = [args, vec![(before, dtype)]].concat();
            return self.fma(dtype, &all);
        }
        let all = [vec![(before, dtype)], args].concat();
        self.scalar_op(op.combine(), dtype, &all)
    }

    /// True if registers are indexed by the lane variable on their lane axis.
    fn indexes_reg_axis(&self, block: &[Stmt], var: Var) -> bool {
        let mut locals = BTreeSet::new();
        collect_lane_indexed(self.func, block, var, &mut locals);
        locals.into_iter().any(|id| self.reg_local(Mem::Local(id)).is_some())
    }
}

/// Reductions in the order of the program, so that the machine code does not depend on a hash.
fn in_order(reductions: &HashMap<Target, Reduction>) -> Vec<(&Target, &Reduction)> {
    let mut sorted: Vec<(&Target, &Reduction)> = reductions.iter().collect();
    sorted.sort_by_key(|(_, reduction)| reduction.order);
    sorted
}
