//! One kernel as Cranelift IR.
//!
//! In: a verified [`kernel::Func`]. Out: a function with the calling convention of [`birkhoff_ir::kernel::abi`], which walks
//! its tiles itself. Every decision (order, lanes, unrolling) stands in the kernel; this only names instructions.
//! Cranelift's own optimiser stays off: it would hoist every constant and undo the order of instructions, and it takes
//! a third of the compile time. What it would gain is done here: see `address`, `cache` and `value`.

use super::cache::Cache;
use super::lanes::Lanes;
use super::regs::RegArray;
use super::value::Val;
use crate::facts::needing_memory;
use crate::size::{Linear, Size, local_bytes};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::{Dim, Sym};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::abi::SCRATCH_ALIGN_BYTES;
use birkhoff_ir::kernel::{self, Access, For, ForKind, Inst, Local, LocalId, Mem, ParamId, Space, Stmt, Var};
use birkhoff_ir::scalar::Scalar;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, AliasRegionData, Block, BlockArg, Function, GlobalValue, InstBuilder, MemFlagsData, Signature,
    StackSlotData, StackSlotKind, Value, types,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A bound variable: its value, and how many loops are around the place that binds it.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub(super) val: Val,
    pub(super) depth: u32,
}

/// The state of emitting one kernel.
pub(super) struct Emitter<'a, 'b> {
    pub(super) func: &'a kernel::Func,
    pub(super) b: FunctionBuilder<'b>,
    /// Runs once per call, before the first tile: sizes.
    pub(super) const_block: Block,
    /// Vector constants of the kernel, each once, and where they are at run time.
    pub(super) table: Vec<[u8; 16]>,
    pub(super) table_rows: FxHashMap<[u8; 16], usize>,
    pub(super) table_pointer: Value,
    pub(super) dims: FxHashMap<Dim, Value>,
    pub(super) sizes: BTreeMap<Sym, Value>,
    /// What every variable is bound to.
    pub(super) values: Vec<Option<Bound>>,
    /// For each loop around, outermost first: the block that runs once before it.
    pub(super) loops: Vec<Block>,
    /// Number of loops around each block.
    pub(super) block_depths: FxHashMap<Block, u32>,
    /// The lane loop around, while its full chunks are emitted.
    pub(super) lanes: Option<Lanes>,
    pub(super) regs: Vec<Option<Rc<RegArray>>>,
    pub(super) linears: FxHashMap<(usize, Mem), Rc<Linear>>,
    pub(super) cache: Cache,
    params: Vec<Value>,
    locals: Vec<Option<Value>>,
    /// Register arrays that have to be addressed after all.
    in_memory: BTreeSet<LocalId>,
    param_flags: Vec<MemFlagsData>,
    local_flags: Vec<MemFlagsData>,
    /// Versions of the memories that the kernel writes; see [`super::cache`].
    versions: FxHashMap<Mem, u64>,
    next_version: u64,
}

/// The signature of [`kernel::abi::KernelFn`].
pub(super) fn signature(isa: &dyn TargetIsa) -> Signature {
    let mut signature = Signature::new(isa.default_call_conv());
    signature.params = vec![AbiParam::new(types::I64); 5];
    signature
}

/// Emits `func` into `out`, whose signature is set; `table` is the address of its constants.
///
/// Returns those constants, which the caller puts there at 16-byte alignment.
/// Errors: what this back end cannot do, or a kernel that does not verify.
pub(super) fn emit(
    func: &kernel::Func,
    isa: &dyn TargetIsa,
    out: &mut Function,
    scratch: &mut FunctionBuilderContext,
    table: GlobalValue,
) -> Result<Vec<u8>, Diagnostic> {
    let mut b = FunctionBuilder::new(out, scratch);
    let entry = b.create_block();
    let const_block = b.create_block();
    b.append_block_params_for_function_params(entry);
    b.switch_to_block(entry);
    b.seal_block(entry);
    let args: Vec<Value> = b.block_params(entry).to_vec();
    let table_pointer = b.ins().symbol_value(types::I64, table);
    let mut emitter = Emitter {
        func,
        b,
        const_block,
        table: vec![],
        table_rows: FxHashMap::default(),
        table_pointer,
        dims: FxHashMap::default(),
        sizes: BTreeMap::new(),
        values: vec![None; func.vars.len()],
        loops: vec![],
        block_depths: FxHashMap::from_iter([(entry, 0), (const_block, 0)]),
        lanes: None,
        regs: vec![None; func.locals.len()],
        linears: FxHashMap::default(),
        cache: Cache::default(),
        params: vec![],
        locals: vec![],
        in_memory: needing_memory(func),
        param_flags: vec![],
        local_flags: vec![],
        versions: FxHashMap::default(),
        next_version: 1,
    };
    emitter.prologue(args[0], args[1]);
    let guard = emitter.b.create_block();
    emitter.block_depths.insert(guard, 0);
    emitter.b.ins().jump(const_block, &[]);
    emitter.b.switch_to_block(const_block);
    emitter.b.seal_block(const_block);
    emitter.b.ins().jump(guard, &[]);
    emitter.b.switch_to_block(guard);
    emitter.b.seal_block(guard);
    emitter.place_locals(args[4]);
    emitter.cache.open();
    emitter.counted_loop(Val::Uniform(args[2]), Val::Uniform(args[3]), 1, |emitter, tile| {
        emitter.bind_grid(&tile)?;
        emitter.block(&func.body)
    })?;
    emitter.b.ins().return_(&[]);
    emitter.b.finalize(isa.frontend_config());
    Ok(emitter.table.concat())
}

impl<'a> Emitter<'a, '_> {
    /// An error of the kernel at hand.
    pub(super) fn broken(&self, what: &str) -> Diagnostic {
        Diagnostic::verify(format!("kernel `{}`: {what}", self.func.name))
    }

    /// Something this back end cannot do.
    pub(super) fn unsupported(&self, what: &str) -> Diagnostic {
        Diagnostic::unsupported(format!(
            "the CPU back end cannot compile kernel `{}`: {what}",
            self.func.name
        ))
    }

    fn prologue(&mut self, params: Value, sizes: Value) {
        let table = MemFlagsData::trusted().with_readonly().with_can_move();
        for idx in 0..self.func.params.len() {
            let pointer = self.b.ins().load(types::I64, table, params, 8 * idx as i32);
            self.params.push(pointer);
        }
        for (idx, name) in self.func.sizes.iter().enumerate() {
            let size = self.b.ins().load(types::I64, table, sizes, 8 * idx as i32);
            self.sizes.insert(name.clone(), size);
        }
        // Every memory is an alias region of its own: that no two of them overlap is part of the kernel IR.
        for (idx, param) in self.func.params.iter().enumerate() {
            let mut flags = self.region(idx as u32, param.name.as_str());
            if param.access == Access::Read {
                flags = flags.with_readonly();
            }
            self.param_flags.push(flags);
        }
        for (idx, local) in self.func.locals.iter().enumerate() {
            let flags = self.region((self.func.params.len() + idx) as u32, local.name.as_str());
            self.local_flags.push(flags);
        }
    }

    fn region(&mut self, user_id: u32, name: &str) -> MemFlagsData {
        let data = AliasRegionData { user_id, description: name.to_string().into() };
        let region = self.b.func.dfg.alias_regions.insert(data);
        MemFlagsData::new().with_notrap().with_alias_region(Some(region))
    }

    /// Lays out tile memory as [`kernel::abi::scratch_layout`] does.
    fn place_locals(&mut self, scratch: Value) {
        let align = SCRATCH_ALIGN_BYTES as i64;
        let mut known = 0i64;
        let mut pointer = scratch;
        for (idx, local) in self.func.locals.iter().enumerate() {
            if local.space == Space::Reg {
                let slot = self.in_memory.contains(&LocalId(idx as u32)).then(|| self.stack_memory(local));
                self.locals.push(slot);
                continue;
            }
            let mut here = pointer;
            if known != 0 {
                let distance = self.i64_const(known);
                here = self.b.ins().iadd(pointer, distance);
            }
            self.locals.push(Some(here));
            match local_bytes(local) {
                Size::Known(bytes) => known += (bytes.max(0) + align - 1) / align * align,
                Size::Symbolic(dim) => {
                    let bytes = self.dim(&dim);
                    let zero = self.i64_const(0);
                    let bytes = self.b.ins().smax(bytes, zero);
                    let up = self.i64_const(align - 1);
                    let mask = self.i64_const(-align);
                    let padded = self.b.ins().iadd(bytes, up);
                    let padded = self.b.ins().band(padded, mask);
                    pointer = self.b.ins().iadd(here, padded);
                    known = 0;
                }
            }
        }
    }

    fn stack_memory(&mut self, local: &Local) -> Value {
        let Size::Known(bytes) = local_bytes(local) else { return self.i64_const(0) };
        let bytes = u32::try_from(bytes.max(0)).unwrap_or(u32::MAX);
        let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 6);
        let slot = self.b.create_sized_stack_slot(slot);
        self.b.ins().stack_addr(types::I64, slot, 0)
    }

    /// Binds base and count of every batch axis for the tile number `tile`.
    fn bind_grid(&mut self, tile: &Val) -> Result<(), Diagnostic> {
        let mut rest = self.as_scalar(tile, DType::I64)?;
        let grid = &self.func.grid;
        for (idx, axis) in grid.iter().enumerate().rev() {
            let extent = Size::of(&axis.extent);
            let step = i64::from(axis.tile);
            let mut position = rest;
            if idx > 0 {
                let n_tiles = self.n_tiles(&extent, step);
                let quotient = self.b.ins().udiv(rest, n_tiles);
                let product = self.b.ins().imul(quotient, n_tiles);
                position = self.b.ins().isub(rest, product);
                rest = quotient;
            }
            let base = self.scaled(position, &Size::Known(step), u32::MAX);
            let count = match extent {
                Size::Known(extent) if extent % step == 0 => Val::Const(Scalar::Int(step)),
                _ => {
                    let extent = self.size_value(&extent);
                    let left = self.b.ins().isub(extent, base);
                    let step = self.i64_const(step);
                    Val::Uniform(self.b.ins().smin(left, step))
                }
            };
            self.bind(axis.base, Val::Uniform(base));
            self.bind(axis.count, count);
        }
        Ok(())
    }

    fn n_tiles(&mut self, extent: &Size, step: i64) -> Value {
        match extent {
            Size::Known(extent) => {
                self.i64_const(extent.max(&0) / step + i64::from(extent.max(&0) % step != 0))
            }
            Size::Symbolic(dim) => {
                let extent = self.dim(dim);
                let up = self.i64_const(step - 1);
                let step = self.i64_const(step);
                let rounded = self.b.ins().iadd(extent, up);
                self.b.ins().udiv(rounded, step)
            }
        }
    }

    /// Number of loops around.
    pub(super) fn depth(&self) -> u32 {
        self.loops.len() as u32
    }

    /// Binds a variable in the scope at hand.
    pub(super) fn bind(&mut self, var: Var, val: Val) {
        let depth = self.depth();
        if let Some(slot) = self.values.get_mut(var.0 as usize) {
            *slot = Some(Bound { val, depth });
        }
    }

    /// What a variable is bound to.
    ///
    /// Errors: it is not bound.
    pub(super) fn lookup(&self, var: Var) -> Result<&Bound, Diagnostic> {
        let bound = self.values.get(var.0 as usize).and_then(Option::as_ref);
        bound.ok_or_else(|| self.broken(&format!("variable {} is used before it is defined", var.0)))
    }

    /// The first byte of a memory.
    pub(super) fn pointer(&mut self, mem: Mem) -> Value {
        match mem {
            Mem::Param(ParamId(id)) => self.params[id as usize],
            Mem::Local(LocalId(id)) => match self.locals[id as usize] {
                Some(pointer) => pointer,
                None => self.i64_const(0),
            },
        }
    }

    /// The flags of accesses to a memory.
    pub(super) fn flags(&self, mem: Mem) -> MemFlagsData {
        match mem {
            Mem::Param(ParamId(id)) => self.param_flags[id as usize],
            Mem::Local(LocalId(id)) => self.local_flags[id as usize],
        }
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

    /// The version of what a memory holds.
    pub(super) fn version(&self, mem: Mem) -> u64 {
        self.versions.get(&mem).copied().unwrap_or(0)
    }

    /// Notes a store to `mem`.
    pub(super) fn touch(&mut self, mem: Mem) {
        self.versions.insert(mem, self.next_version);
        self.next_version += 1;
    }

    /// Notes that code is entered or left that may run any number of times: all that can be written may have been.
    fn touch_all(&mut self) {
        let written = (0..self.func.params.len()).filter(|idx| self.func.params[*idx].access != Access::Read);
        for idx in written.collect::<Vec<_>>() {
            self.touch(Mem::Param(ParamId(idx as u32)));
        }
        for idx in 0..self.func.locals.len() {
            self.touch(Mem::Local(LocalId(idx as u32)));
        }
    }

    /// Emits statements in order.
    pub(super) fn block(&mut self, block: &'a [Stmt]) -> Result<(), Diagnostic> {
        for stmt in block {
            self.stmt(stmt)?;
        }
        Ok(())
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
                let val = self.lookup(*value)?.val.clone();
                let target = self.target(*mem, index)?;
                self.store_target(&target, &val)
            }
            Stmt::Accum { op, mem, index, args } => self.accum(*op, *mem, index, args),
            Stmt::For(body) => self.for_loop(body),
            Stmt::Stage(_, body) => self.block(body),
            Stmt::Decl(local) => self.declare_reg(*local),
        }
    }

    fn inst(&mut self, dtype: DType, inst: &'a Inst) -> Result<Val, Diagnostic> {
        match inst {
            Inst::Load(mem, index) => {
                let target = self.target(*mem, index)?;
                self.load_target(&target)
            }
            Inst::Index(index) => self.index_value(index),
            _ => {
                let mut args = vec![];
                for var in inst.operands() {
                    args.push((self.lookup(var)?.val.clone(), self.func.dtype(var)));
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

    /// A loop of `fill` over `start, start + step, .. < end`; straight-line code if it is known to run once.
    pub(super) fn counted_loop(
        &mut self,
        start: Val,
        end: Val,
        step: i64,
        fill: impl FnOnce(&mut Self, Val) -> Result<(), Diagnostic>,
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
        let start = self.as_scalar(&start, DType::I64)?;
        let end = self.as_scalar(&end, DType::I64)?;
        let (before, body, exit) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        let var = self.b.append_block_param(body, types::I64);
        let depth = self.depth();
        self.block_depths.extend([(before, depth), (body, depth + 1), (exit, depth)]);
        if sure {
            self.b.ins().jump(before, &[]);
        } else {
            let runs = self.b.ins().icmp(IntCC::SignedLessThan, start, end);
            self.b.ins().brif(runs, before, &[], exit, &[]);
        }
        // Invariants of the loop are written to the end of this block, behind the guard.
        self.b.switch_to_block(before);
        self.b.seal_block(before);
        self.b.ins().jump(body, &[BlockArg::Value(start)]);
        self.b.switch_to_block(body);
        self.cache.open();
        self.loops.push(before);
        self.touch_all();
        fill(self, Val::Uniform(var))?;
        self.loops.pop();
        self.cache.close();
        let step = self.i64_const(step);
        let next = self.b.ins().iadd(var, step);
        let again = self.b.ins().icmp(IntCC::SignedLessThan, next, end);
        self.b.ins().brif(again, body, &[BlockArg::Value(next)], exit, &[]);
        self.b.seal_block(body);
        self.b.switch_to_block(exit);
        self.b.seal_block(exit);
        self.touch_all();
        Ok(())
    }
}
