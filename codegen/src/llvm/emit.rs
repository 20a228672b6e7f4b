//! One kernel as LLVM IR.
//!
//! In: a verified [`kernel::Func`], and the function that `function` has made for it. Out: its body, which walks its tiles.
//! Every decision (order, lanes, unrolling) stands in the kernel; this only names instructions. What is invariant is not
//! hoisted and what is equal is not shared here: LLVM's passes do both, and every memory is a pointer of its own to them.

use super::address::Place;
use super::build::{Builder, IntCompare, Label, Ssa};
use super::host::Host;
use super::lanes::Lanes;
use super::regs::RegArray;
use super::value::Val;
use crate::facts::needing_memory;
use crate::size::{Linear, Size, local_bytes};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::{Dim, Sym};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{self, For, ForKind, Inst, Local, LocalId, Mem, ParamId, Space, Stmt, Var};
use birkhoff_ir::scalar::Scalar;
use inkwell::llvm_sys::prelude::LLVMValueRef;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Alignment of register arrays that are memory after all.
const STACK_ALIGN_BYTES: u32 = 64;

/// A bound variable: its value, and how many loops are around the place that binds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound<'c> {
    pub(super) val: Val<'c>,
    pub(super) depth: u32,
}

/// The arguments of a kernel's function.
pub(super) struct Arguments<'c> {
    /// The function.
    pub(super) function: LLVMValueRef,
    /// One pointer per parameter.
    pub(super) params: Vec<Ssa<'c>>,
    /// One integer per run-time size.
    pub(super) sizes: Vec<Ssa<'c>>,
    /// One pointer per local that is tile memory, in order.
    pub(super) tile_memory: Vec<Ssa<'c>>,
    /// The tiles to run.
    pub(super) tiles: (Ssa<'c>, Ssa<'c>),
}

/// The state of emitting one kernel.
pub(super) struct Emitter<'a, 'c> {
    pub(super) func: &'a kernel::Func,
    pub(super) b: &'a Builder<'c>,
    pub(super) host: &'a Host,
    pub(super) function: LLVMValueRef,
    /// Runs once per call, before the first tile: registers and sizes.
    start: Label<'c>,
    pub(super) dims: FxHashMap<Dim, Ssa<'c>>,
    pub(super) sizes: BTreeMap<Sym, Ssa<'c>>,
    /// What every variable is bound to.
    pub(super) values: Vec<Option<Bound<'c>>>,
    /// Number of loops around.
    pub(super) depth: u32,
    /// Addresses known in the loops around, innermost last.
    pub(super) addresses: Vec<FxHashMap<Place<'c>, Ssa<'c>>>,
    /// The lane loop around, while its full chunks are emitted.
    pub(super) lanes: Option<Lanes<'c>>,
    pub(super) regs: Vec<Option<Rc<RegArray<'c>>>>,
    pub(super) linears: FxHashMap<(usize, Mem), Rc<Linear>>,
    pub(super) params: Vec<Ssa<'c>>,
    locals: Vec<Option<Ssa<'c>>>,
    /// Parameters that are written around the caches by what is being emitted.
    pub(super) streams: Vec<ParamId>,
    /// Whether anything was.
    pub(super) has_streamed: bool,
    /// Register arrays that have to be addressed after all.
    in_memory: BTreeSet<LocalId>,
}

/// Emits the body of `func`.
///
/// Errors: what this back end cannot do, or a kernel that does not verify.
pub(super) fn emit<'c>(
    func: &kernel::Func,
    b: &Builder<'c>,
    host: &Host,
    arguments: Arguments<'c>,
) -> Result<(), Diagnostic> {
    let function = arguments.function;
    let (start, first) = (b.label(function), b.label(function));
    b.go_to(start);
    b.jump(first);
    b.go_to(first);
    let mut emitter = Emitter {
        func,
        b,
        host,
        function,
        start,
        dims: FxHashMap::default(),
        sizes: func.sizes.iter().cloned().zip(arguments.sizes).collect(),
        values: vec![None; func.vars.len()],
        depth: 0,
        addresses: vec![FxHashMap::default()],
        lanes: None,
        regs: vec![None; func.locals.len()],
        linears: FxHashMap::default(),
        params: arguments.params,
        locals: vec![],
        streams: vec![],
        has_streamed: false,
        in_memory: needing_memory(func),
    };
    emitter.place_locals(arguments.tile_memory);
    let (first, last) = arguments.tiles;
    emitter.counted_loop(Val::Uniform(first), Val::Uniform(last), 1, |emitter, tile| {
        emitter.bind_grid(tile)?;
        emitter.block(&func.body)
    })?;
    emitter.close_streams();
    b.ret();
    Ok(())
}

impl<'a, 'c> Emitter<'a, 'c> {
    /// An error of the kernel at hand.
    pub(super) fn broken(&self, what: &str) -> Diagnostic {
        Diagnostic::verify(format!("kernel `{}`: {what}", self.func.name))
    }

    /// Something this back end cannot do.
    pub(super) fn unsupported(&self, what: &str) -> Diagnostic {
        let name = &self.func.name;
        Diagnostic::unsupported(format!("the LLVM back end cannot compile kernel `{name}`: {what}"))
            .help("use `--target cpu`")
    }

    fn place_locals(&mut self, tile_memory: Vec<Ssa<'c>>) {
        let mut tile_memory = tile_memory.into_iter();
        for (idx, local) in self.func.locals.iter().enumerate() {
            let place = match local.space {
                Space::Tile => tile_memory.next(),
                Space::Reg if self.in_memory.contains(&LocalId(idx as u32)) => Some(self.stack_memory(local)),
                Space::Reg => None,
            };
            self.locals.push(place);
        }
    }

    fn stack_memory(&self, local: &Local) -> Ssa<'c> {
        let bytes = match local_bytes(local) {
            Size::Known(bytes) => bytes.max(0) as u64,
            Size::Symbolic(_) => 0,
        };
        self.b.at_end_of(self.start, || self.b.stack(self.b.bytes(bytes), STACK_ALIGN_BYTES))
    }

    /// A register: memory for one value, which LLVM makes an SSA value.
    pub(super) fn register(&self, dtype: DType, lanes: u32) -> Ssa<'c> {
        let ty = self.ty(dtype, lanes);
        self.b.at_end_of(self.start, || self.b.stack(ty, 8))
    }

    /// Writes something that runs once per call.
    pub(super) fn at_start<T>(&self, write: impl FnOnce() -> T) -> T {
        self.b.at_end_of(self.start, write)
    }

    /// Binds base and count of every batch axis for the tile number `tile`.
    fn bind_grid(&mut self, tile: Val<'c>) -> Result<(), Diagnostic> {
        let mut rest = self.as_scalar(tile, DType::I64)?;
        let grid = &self.func.grid;
        for (idx, axis) in grid.iter().enumerate().rev() {
            let extent = Size::of(&axis.extent);
            let step = i64::from(axis.tile);
            let mut position = rest;
            if idx > 0 {
                let n_tiles = self.n_tiles(&extent, step);
                let quotient = self.b.udiv(rest, n_tiles);
                position = self.b.sub(rest, self.b.mul(quotient, n_tiles));
                rest = quotient;
            }
            let base = self.scaled(position, &Size::Known(step));
            let count = match extent {
                Size::Known(extent) if extent % step == 0 => Val::Const(Scalar::Int(step)),
                _ => {
                    let left = self.b.sub(self.size_value(&extent), base);
                    Val::Uniform(self.int_bound(false, left, self.i64_const(step)))
                }
            };
            self.bind(axis.base, Val::Uniform(base));
            self.bind(axis.count, count);
        }
        Ok(())
    }

    fn n_tiles(&mut self, extent: &Size, step: i64) -> Ssa<'c> {
        match extent {
            Size::Known(extent) => {
                self.i64_const(extent.max(&0) / step + i64::from(extent.max(&0) % step != 0))
            }
            Size::Symbolic(dim) => {
                let rounded = self.b.add(self.dim(dim), self.i64_const(step - 1));
                self.b.udiv(rounded, self.i64_const(step))
            }
        }
    }

    /// Binds a variable in the scope at hand.
    pub(super) fn bind(&mut self, var: Var, val: Val<'c>) {
        let depth = self.depth;
        if let Some(slot) = self.values.get_mut(var.0 as usize) {
            *slot = Some(Bound { val, depth });
        }
    }

    /// What a variable is bound to.
    ///
    /// Errors: it is not bound.
    pub(super) fn lookup(&self, var: Var) -> Result<Bound<'c>, Diagnostic> {
        let bound = self.values.get(var.0 as usize).copied().flatten();
        bound.ok_or_else(|| self.broken(&format!("variable {} is used before it is defined", var.0)))
    }

    /// The first byte of a memory.
    ///
    /// Errors: it has none.
    pub(super) fn pointer(&self, mem: Mem) -> Result<Ssa<'c>, Diagnostic> {
        let found = match mem {
            Mem::Param(ParamId(id)) => self.params.get(id as usize).copied(),
            Mem::Local(LocalId(id)) => self.locals.get(id as usize).copied().flatten(),
        };
        found.ok_or_else(|| self.broken("an access names a memory that there is not"))
    }

    /// The register array behind a memory, if it is one.
    pub(super) fn reg_local(&self, mem: Mem) -> Option<(LocalId, &'a Local)> {
        match mem {
            Mem::Local(id) => {
                let local = &self.func.locals[id.0 as usize];
                (local.space == Space::Reg && !self.in_memory.contains(&id)).then_some((id, local))
            }
            Mem::Param(_) => None,
        }
    }

    /// Emits statements in order.
    pub(super) fn block(&mut self, block: &'a [Stmt]) -> Result<(), Diagnostic> {
        block.iter().try_for_each(|stmt| self.stmt(stmt))
    }

    fn stmt(&mut self, stmt: &'a Stmt) -> Result<(), Diagnostic> {
        match stmt {
            Stmt::Let(var, inst) => {
                let dtype = self.func.dtype(*var);
                let val = self.inst(dtype, inst)?;
                self.bind(*var, val);
                Ok(())
            }
            Stmt::Store { mem, index, value } => {
                let val = self.lookup(*value)?.val;
                let target = self.target(*mem, index)?;
                self.store_target(&target, val)
            }
            Stmt::Accum { op, mem, index, args } => self.accum(*op, *mem, index, args),
            Stmt::For(body) => self.for_loop(body),
            Stmt::Stage(_, body) => self.block(body),
            Stmt::Decl(local) => self.declare_reg(*local),
        }
    }

    fn inst(&mut self, dtype: DType, inst: &'a Inst) -> Result<Val<'c>, Diagnostic> {
        match inst {
            Inst::Load(mem, index) => {
                let target = self.target(*mem, index)?;
                self.load_target(&target)
            }
            Inst::Index(index) => self.index_value(index),
            _ => {
                let mut args = vec![];
                for var in inst.operands() {
                    args.push((self.lookup(var)?.val, self.func.dtype(var)));
                }
                self.pure_inst(dtype, inst, &args)
            }
        }
    }

    fn for_loop(&mut self, body: &'a For) -> Result<(), Diagnostic> {
        let start = self.index_value(&body.start)?;
        let end = self.index_value(&body.end)?;
        match body.kind {
            ForKind::Seq => self.counted_loop(start, end, 1, |emitter, var| {
                emitter.bind(body.var, var);
                emitter.block(&body.body)
            }),
            ForKind::Unroll => {
                let (Val::Const(start), Val::Const(end)) = (start, end) else {
                    return Err(self.broken("an unrolled loop has bounds that are not constants"));
                };
                for value in start.as_i64()..end.as_i64() {
                    self.bind(body.var, Val::Const(Scalar::Int(value)));
                    self.block(&body.body)?;
                }
                Ok(())
            }
            ForKind::Lanes { width } => self.lane_loop(body, start, end, width),
        }
    }

    /// A loop of `fill` over `start, start + step, .. < end`; straight-line code if it is known to run once. `end` is a
    /// multiple of `step` from `start`, or the step is 1.
    pub(super) fn counted_loop(
        &mut self,
        start: Val<'c>,
        end: Val<'c>,
        step: i64,
        fill: impl FnOnce(&mut Self, Val<'c>) -> Result<(), Diagnostic>,
    ) -> Result<(), Diagnostic> {
        let mut sure = false;
        if let (Val::Const(start), Val::Const(end)) = (&start, &end) {
            let (first, end) = (start.as_i64(), end.as_i64());
            if first >= end {
                return Ok(());
            }
            if first.saturating_add(step) >= end {
                return fill(self, Val::Const(*start));
            }
            sure = true;
        }
        let start = self.as_scalar(start, DType::I64)?;
        let end = self.as_scalar(end, DType::I64)?;
        let (before, body) = (self.b.label(self.function), self.b.label(self.function));
        let exit = self.b.label(self.function);
        if sure {
            self.b.jump(before);
        } else {
            self.b.branch(self.b.icmp(IntCompare::LLVMIntSLT, start, end), before, exit);
        }
        self.b.go_to(before);
        self.b.jump(body);
        self.b.go_to(body);
        let var = self.b.phi(self.b.int(64));
        self.b.incoming(var, start, before);
        self.depth += 1;
        self.addresses.push(FxHashMap::default());
        fill(self, Val::Uniform(var))?;
        self.addresses.pop();
        self.depth -= 1;
        let next = self.b.add_no_overflow(var, self.i64_const(step));
        self.b.incoming(var, next, self.b.here());
        self.b.branch(self.b.icmp(IntCompare::LLVMIntSLT, next, end), body, exit);
        self.b.go_to(exit);
        Ok(())
    }
}
