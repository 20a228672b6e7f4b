//! One kernel as a function of the MLIR dialects scf, arith, nvvm and llvm.
//!
//! In: a verified [`kernel::Func`]. Out: an `llvm.func` in a `gpu.module`. One block of threads computes a tile after the other;
//! all threads run what is outside lane loops, and a lane of a chunk is a thread. See the module's text for the mapping.

use super::build::{Builder, IntCompare, Ssa};
use super::hazard::{Access, Pending};
use super::lanes::Lanes;
use super::layout::{ALIGN_BYTES, Layout};
use super::regs::RegArray;
use super::{LaneMode, Limits};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::{Dim, Sym, div_ceil};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::lanes::LaneScope;
use birkhoff_ir::kernel::{self, For, ForKind, Index, Inst, Stmt, Var};
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use std::collections::BTreeMap;

/// What a variable is: known now, or when the kernel runs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Val<'c, 'm> {
    /// A constant.
    Const(Scalar),
    /// An SSA value.
    Ssa(Ssa<'c, 'm>),
}

/// The state of emitting one kernel.
pub(super) struct Emitter<'a, 'c, 'm> {
    pub(super) func: &'a kernel::Func,
    pub(super) b: Builder<'c, 'm>,
    pub(super) layout: &'a Layout,
    pub(super) limits: Limits<'a>,
    /// The pointers of the parameters.
    pub(super) params: Vec<Ssa<'c, 'm>>,
    sizes: BTreeMap<Sym, Ssa<'c, 'm>>,
    /// The first byte of shared memory, if the kernel has any.
    pub(super) shared: Option<Ssa<'c, 'm>>,
    /// The first bytes of the arrays in the workspace.
    pub(super) workspace: Vec<Ssa<'c, 'm>>,
    /// This thread's number in the block.
    pub(super) thread: Ssa<'c, 'm>,
    /// True in the first thread.
    pub(super) is_first: Ssa<'c, 'm>,
    pub(super) values: Vec<Option<Val<'c, 'm>>>,
    pub(super) regs: Vec<Option<RegArray>>,
    /// What is per-lane at this point.
    pub(super) scope: LaneScope,
    /// The lane loop around, while its chunks are emitted.
    pub(super) lanes: Option<Lanes<'a, 'c, 'm>>,
    /// Accesses since the last barrier; `None` where control is not uniform, so that there can be no barrier.
    pub(super) pending: Option<Pending>,
    /// What a variable is at most, where that is known.
    most: BTreeMap<Var, i64>,
    /// How the lane loops so far were mapped.
    pub(super) lane_modes: BTreeMap<Var, LaneMode>,
}

/// The first block of the function and what stands in it.
pub(super) struct Entry<'c, 'm> {
    pub(super) builder: Builder<'c, 'm>,
    /// Pointers of the parameters, then run-time sizes.
    pub(super) args: Vec<Ssa<'c, 'm>>,
    /// The symbol of shared memory.
    pub(super) shared: Option<String>,
}

/// Emits the body of `func` into its entry block; gives how each lane loop is mapped.
///
/// Errors: what this back end cannot do.
pub(super) fn emit(
    func: &kernel::Func,
    layout: &Layout,
    limits: Limits<'_>,
    entry: Entry<'_, '_>,
) -> Result<BTreeMap<Var, LaneMode>, Diagnostic> {
    let Entry { mut builder, args, shared } = entry;
    let thread = builder.thread_id();
    let zero = builder.i64(0);
    let is_first = builder.cmpi(IntCompare::Eq, thread, zero);
    let shared = shared.map(|symbol| builder.address_of(&symbol));
    let (params, rest) = args.split_at(func.params.len());
    let (sizes, workspace) = rest.split_at(func.sizes.len());
    let mut emitter = Emitter {
        func,
        b: builder,
        layout,
        limits,
        params: params.to_vec(),
        sizes: func.sizes.iter().cloned().zip(sizes.iter().copied()).collect(),
        shared,
        workspace: vec![],
        thread,
        is_first,
        values: vec![None; func.vars.len()],
        regs: func.locals.iter().map(|_| None).collect(),
        scope: LaneScope::new(func),
        lanes: None,
        pending: Some(Pending::default()),
        most: BTreeMap::new(),
        lane_modes: BTreeMap::new(),
    };
    if let Some(workspace) = workspace.first() {
        emitter.place_workspace(*workspace);
    }
    emitter.tiles()?;
    emitter.b.end();
    Ok(emitter.lane_modes)
}

/// The sizes in a polynomial, and its constant.
pub(super) fn split_constant(dim: &Dim) -> (Dim, i64) {
    let constant = dim.terms().find(|(names, _)| names.is_empty()).map_or(0, |(_, coeff)| coeff);
    (dim.sub(&Dim::constant(constant)), constant)
}

impl<'a, 'c, 'm> Emitter<'a, 'c, 'm> {
    /// An error of the kernel at hand.
    pub(super) fn broken(&self, what: &str) -> Diagnostic {
        Diagnostic::verify(format!("kernel `{}`: {what}", self.func.name))
    }

    /// Something this back end cannot do.
    pub(super) fn unsupported(&self, what: &str) -> Diagnostic {
        super::unsupported(self.func, what)
    }

    /// Finds this block's part of the workspace, and the arrays in it.
    fn place_workspace(&mut self, all: Ssa<'c, 'm>) {
        let (byte, block) = (self.b.int(8), self.b.block_id());
        let mut offsets = vec![];
        let mut total = self.b.i64(0);
        for dim in &self.layout.workspace {
            offsets.push(total);
            let (bytes, zero) = (self.dim(dim), self.b.i64(0));
            let bytes = self.b.same("arith.maxsi", &[bytes, zero]);
            let (up, mask) = (self.b.i64(ALIGN_BYTES as i64 - 1), self.b.i64(-(ALIGN_BYTES as i64)));
            let padded = self.b.add(bytes, up);
            let padded = self.b.and(padded, mask);
            total = self.b.add(total, padded);
        }
        let skipped = self.b.mul(block, total);
        let own = self.b.offset(all, byte, skipped);
        self.workspace = offsets.into_iter().map(|offset| self.b.offset(own, byte, offset)).collect();
    }

    /// Walks the tiles of this block: its own, and every so many as there are blocks after that.
    fn tiles(&mut self) -> Result<(), Diagnostic> {
        let (first, step) = (self.b.block_id(), self.b.grid_size());
        let mut total = self.b.i64(1);
        for axis in &self.func.grid {
            let n_tiles = self.n_tiles(&axis.extent, i64::from(axis.tile));
            total = self.b.mul(total, n_tiles);
        }
        let func = self.func;
        let all = self.accesses(&func.body);
        self.repeated(&all, |this| {
            Builder::counted_loop(
                this,
                |this| &mut this.b,
                (first, total, step),
                |this, tile| {
                    this.bind_grid(tile);
                    this.block(&func.body)?;
                    this.close_repeated(&all);
                    Ok(())
                },
            )
        })
    }

    /// `ceil(extent / tile)`, 0 for an extent below 0.
    fn n_tiles(&mut self, extent: &Dim, tile: i64) -> Ssa<'c, 'm> {
        if let Some(extent) = extent.as_const() {
            let extent = extent.max(0);
            return self.b.i64(div_ceil(extent, tile));
        }
        let extent = self.dim(extent);
        let (up, tile) = (self.b.i64(tile - 1), self.b.i64(tile));
        let rounded = self.b.add(extent, up);
        self.b.same("arith.divui", &[rounded, tile])
    }

    /// Binds base and count of every batch axis for the tile number `tile`.
    fn bind_grid(&mut self, tile: Ssa<'c, 'm>) {
        let mut rest = tile;
        let func = self.func;
        for (idx, axis) in func.grid.iter().enumerate().rev() {
            let step = i64::from(axis.tile);
            let mut position = rest;
            if idx > 0 {
                let n_tiles = self.n_tiles(&axis.extent, step);
                position = self.b.same("arith.remui", &[rest, n_tiles]);
                rest = self.b.same("arith.divui", &[rest, n_tiles]);
            }
            let width = self.b.i64(step);
            let base = self.b.mul(position, width);
            let count = match axis.extent.as_const() {
                Some(extent) if extent % step == 0 => Val::Const(Scalar::Int(step)),
                _ => {
                    let extent = self.dim(&axis.extent);
                    let left = self.b.sub(extent, base);
                    Val::Ssa(self.b.same("arith.minsi", &[left, width]))
                }
            };
            self.bind(axis.base, Val::Ssa(base));
            self.bind(axis.count, count);
            self.most.insert(axis.count, step);
        }
    }

    // ---- variables and sizes ----------------------------------------------------------------------------------------

    pub(super) fn bind(&mut self, var: Var, val: Val<'c, 'm>) {
        if let Some(slot) = self.values.get_mut(var.0 as usize) {
            *slot = Some(val);
        }
    }

    /// What a variable is bound to.
    ///
    /// Errors: it is not bound.
    pub(super) fn lookup(&self, var: Var) -> Result<Val<'c, 'm>, Diagnostic> {
        let bound = self.values.get(var.0 as usize).copied().flatten();
        bound.ok_or_else(|| self.broken(&format!("variable {} is used before it is defined", var.0)))
    }

    /// The constant a variable is bound to, if it is one.
    pub(super) fn known(&self, var: Var) -> Option<i64> {
        match self.values.get(var.0 as usize).copied().flatten() {
            Some(Val::Const(value)) => Some(value.as_i64()),
            _ => None,
        }
    }

    /// What an affine index is at most, if that is known.
    pub(super) fn most(&self, index: &Index) -> Option<i64> {
        let mut most = index.offset.as_const()?;
        for (var, coeff) in &index.terms {
            let coeff = coeff.as_const().filter(|coeff| *coeff >= 0)?;
            let value = self.known(*var).or_else(|| self.most.get(var).copied())?;
            most = most.checked_add(coeff.checked_mul(value)?)?;
        }
        Some(most)
    }

    /// The same of what an instruction computes.
    fn most_of(&self, inst: &Inst) -> Option<i64> {
        let of = |var: &Var| self.most(&Index::var(*var));
        match inst {
            Inst::Index(index) => self.most(index),
            Inst::Scalar(ScalarOp::Min, args) => args.iter().filter_map(of).min(),
            _ => None,
        }
    }

    pub(super) fn ssa(&mut self, val: Val<'c, 'm>, dtype: DType) -> Ssa<'c, 'm> {
        match val {
            Val::Const(value) => self.b.scalar(dtype, value),
            Val::Ssa(value) => value,
        }
    }

    /// The SSA value of a variable.
    pub(super) fn var(&mut self, var: Var) -> Result<Ssa<'c, 'm>, Diagnostic> {
        let val = self.lookup(var)?;
        Ok(self.ssa(val, self.func.dtype(var)))
    }

    /// The value of a polynomial of run-time sizes.
    pub(super) fn dim(&mut self, dim: &Dim) -> Ssa<'c, 'm> {
        let mut sum: Option<Ssa<'c, 'm>> = None;
        for (names, coeff) in dim.terms() {
            let mut product: Option<Ssa<'c, 'm>> = None;
            for name in names {
                let Some(size) = self.sizes.get(name).copied() else { continue };
                product = Some(product.map_or(size, |product| self.b.mul(product, size)));
            }
            let term = match product {
                None => self.b.i64(coeff),
                Some(product) if coeff == 1 => product,
                Some(product) => {
                    let coeff = self.b.i64(coeff);
                    self.b.mul(product, coeff)
                }
            };
            sum = Some(sum.map_or(term, |sum| self.b.add(sum, term)));
        }
        sum.unwrap_or_else(|| self.b.i64(0))
    }

    /// The value of an affine index.
    pub(super) fn index(&mut self, index: &Index) -> Result<Val<'c, 'm>, Diagnostic> {
        Ok(match self.index_parts(index)? {
            (None, value) => Val::Const(Scalar::Int(value)),
            (Some(sum), 0) => Val::Ssa(sum),
            (Some(sum), offset) => {
                let offset = self.b.i64(offset);
                Val::Ssa(self.b.add(sum, offset))
            }
        })
    }

    /// An affine index as a value, if any of it is not known now, and what is to be added to that.
    pub(super) fn index_parts(&mut self, index: &Index) -> Result<(Option<Ssa<'c, 'm>>, i64), Diagnostic> {
        let mut offset = index.offset.clone();
        let mut sum: Option<Ssa<'c, 'm>> = None;
        for (var, coeff) in &index.terms {
            match (self.lookup(*var)?, coeff.as_const()) {
                (Val::Const(value), _) => offset = offset.add(&coeff.mul(&Dim::constant(value.as_i64()))),
                (Val::Ssa(value), known) => {
                    let term = if known == Some(1) {
                        value
                    } else {
                        let coeff = self.dim(coeff);
                        self.b.mul(value, coeff)
                    };
                    sum = Some(sum.map_or(term, |sum| self.b.add(sum, term)));
                }
            }
        }
        let (sizes, constant) = split_constant(&offset);
        if !sizes.is_const(0) {
            let sizes = self.dim(&sizes);
            sum = Some(sum.map_or(sizes, |sum| self.b.add(sum, sizes)));
        }
        Ok((sum, constant))
    }

    // ---- statements -------------------------------------------------------------------------------------------------

    pub(super) fn block(&mut self, block: &'a [Stmt]) -> Result<(), Diagnostic> {
        let parts = self.neighbours(block);
        let result = block.iter().enumerate().try_for_each(|(idx, stmt)| match parts.get(&idx) {
            Some(part) => self.part(stmt, part),
            None => self.stmt(stmt),
        });
        // What is known of a variable holds in its scope only: accesses of code to come are judged by what is bound.
        for stmt in block {
            if let Stmt::Let(var, _) = stmt {
                self.unbind(*var);
            }
        }
        result
    }

    pub(super) fn unbind(&mut self, var: Var) {
        if let Some(slot) = self.values.get_mut(var.0 as usize) {
            *slot = None;
        }
    }

    fn stmt(&mut self, stmt: &'a Stmt) -> Result<(), Diagnostic> {
        match stmt {
            Stmt::Let(var, inst) => {
                let val = self.inst(*var, inst)?;
                if let Some(most) = self.most_of(inst) {
                    self.most.insert(*var, most);
                }
                self.scope.define(*var, inst);
                self.bind(*var, val);
                Ok(())
            }
            Stmt::Store { mem, index, value } => {
                let value = self.var(*value)?;
                self.write(*mem, index, value)
            }
            Stmt::Accum { op, mem, index, args } => self.accum(*op, *mem, index, args),
            Stmt::For(inner) => match inner.kind {
                ForKind::Unroll => self.unrolled(inner),
                ForKind::Seq => self.sequential(inner),
                ForKind::Lanes { width } => self.lane_loop(inner, width),
            },
            Stmt::Stage(_, body) => self.block(body),
            Stmt::Decl(id) => {
                self.scope.declare(*id);
                self.declare(*id)
            }
        }
    }

    fn inst(&mut self, var: Var, inst: &'a Inst) -> Result<Val<'c, 'm>, Diagnostic> {
        let dtype = self.func.dtype(var);
        match inst {
            Inst::Const(value) => Ok(Val::Const(*value)),
            Inst::Index(index) => self.index(index),
            Inst::Load(mem, index) => self.read(*mem, index).map(Val::Ssa),
            Inst::Scalar(op, args) => {
                let operand = args.last().map_or(dtype, |arg| self.func.dtype(*arg));
                let args = args.iter().map(|arg| self.lookup(*arg)).collect::<Result<Vec<_>, _>>()?;
                self.scalar_op(*op, operand, &args)
            }
            Inst::Fma(a, b, c) => {
                let args = [self.var(*a)?, self.var(*b)?, self.var(*c)?];
                Ok(Val::Ssa(self.b.same("llvm.intr.fma", &args)))
            }
            Inst::Convert(arg) => {
                let val = self.lookup(*arg)?;
                Ok(self.convert(val, self.func.dtype(*arg), dtype))
            }
            Inst::Bitcast(arg) => {
                let val = self.lookup(*arg)?;
                let value = self.ssa(val, self.func.dtype(*arg));
                Ok(Val::Ssa(self.cast_bits(value, self.func.dtype(*arg), dtype)))
            }
            Inst::Round(to, arg) => {
                let value = self.var(*arg)?;
                Ok(Val::Ssa(self.round(*to, value)))
            }
        }
    }

    /// The constant bounds of an unrolled loop.
    ///
    /// Errors: they are not constant.
    pub(super) fn constant_bounds(&mut self, inner: &For) -> Result<std::ops::Range<i64>, Diagnostic> {
        match (self.index(&inner.start)?, self.index(&inner.end)?) {
            (Val::Const(start), Val::Const(end)) => Ok(start.as_i64()..end.as_i64()),
            _ => Err(self.broken("an unrolled loop has bounds that are not constants")),
        }
    }

    fn unrolled(&mut self, inner: &'a For) -> Result<(), Diagnostic> {
        for value in self.constant_bounds(inner)? {
            self.bind(inner.var, Val::Const(Scalar::Int(value)));
            self.block(&inner.body)?;
        }
        self.unbind(inner.var);
        Ok(())
    }

    fn sequential(&mut self, inner: &'a For) -> Result<(), Diagnostic> {
        let (start, end) = (self.index(&inner.start)?, self.index(&inner.end)?);
        let (start, end) = (self.ssa(start, DType::I64), self.ssa(end, DType::I64));
        let one = self.b.i64(1);
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

    // ---- barriers ---------------------------------------------------------------------------------------------------

    /// Before `accesses` happen: a barrier, if they meet accesses of other threads since the last one.
    pub(super) fn meet(&mut self, accesses: &[Access]) {
        let Some(pending) = &mut self.pending else { return };
        if pending.conflicts(accesses) {
            self.b.barrier();
            pending.clear();
        }
        pending.extend(accesses);
    }

    /// Emits a loop whose body makes the accesses `all`, in any order and number.
    pub(super) fn repeated<T>(&mut self, all: &[Access], emit: impl FnOnce(&mut Self) -> T) -> T {
        let Some(mut before) = self.pending.take() else { return emit(self) };
        if before.conflicts(all) {
            self.b.barrier();
            before.clear();
        }
        self.pending = Some(Pending::default());
        let result = emit(self);
        if let Some(pending) = &mut self.pending {
            // The loop may run no iteration: what came before it still counts.
            pending.extend(before.accesses());
        }
        result
    }

    /// The end of the body of such a loop: a barrier, if the next iteration could meet this one.
    pub(super) fn close_repeated(&mut self, all: &[Access]) {
        let Some(pending) = &mut self.pending else { return };
        if pending.conflicts(all) {
            self.b.barrier();
            pending.clear();
        }
    }
}
