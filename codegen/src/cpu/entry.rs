//! The C entries of a program: the bytes of its workspace, and the walk over its plan.
//!
//! In: a plan and the compiled kernels. Out: Cranelift IR of `int32_t run(inputs.., outputs.., sizes.., workspace)` and
//! `size_t workspace_bytes(sizes..)`. The workspace holds the slots of temporaries, each at 64-byte alignment, then the
//! scratch memory of one kernel. Runs on one thread.

use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::{Dim, Sym};
use birkhoff_ir::kernel::abi::SCRATCH_ALIGN_BYTES;
use birkhoff_ir::kernel::{Func, Space};
use birkhoff_ir::plan::{Arg, BufferId, BufferKind, Program, Step};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, Block, FuncRef, Function, InstBuilder, MemFlagsData, Signature, StackSlotData, StackSlotKind,
    Value, types,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use cranelift_module::{FuncId, Module};
use std::collections::BTreeMap;

/// One of the two entries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Runs the program.
    Run,
    /// The bytes of the workspace.
    Workspace,
}

/// What a run returns.
pub(super) const STATUS: [(i64, &str); 4] = [
    (0, "done"),
    (1, "a size is out of its bounds"),
    (2, "the workspace is null although it is needed"),
    (3, "the workspace is not aligned to 64 bytes"),
];

/// The symbols of a program.
pub(super) struct Symbols {
    pub(super) run: String,
    pub(super) workspace: String,
    /// One per kernel, in order.
    pub(super) kernels: Vec<String>,
}

impl Symbols {
    pub(super) fn new(program: &Program) -> Symbols {
        let name = &program.name;
        Symbols {
            run: format!("birkhoff_{name}"),
            workspace: format!("birkhoff_{name}_workspace_bytes"),
            kernels: program
                .kernels
                .iter()
                .map(|kernel| format!("birkhoff_{name}_{}", kernel.name))
                .collect(),
        }
    }

    pub(super) fn entry(&self, which: Entry) -> &str {
        if which == Entry::Run { &self.run } else { &self.workspace }
    }
}

/// Inputs and outputs in signature order.
pub(super) fn caller_buffers(program: &Program) -> Vec<BufferId> {
    let mut ids = program.buffers_where(|kind| kind == BufferKind::Input);
    ids.extend(program.buffers_where(|kind| kind == BufferKind::Output));
    ids
}

pub(super) fn signature(which: Entry, program: &Program, isa: &dyn TargetIsa) -> Signature {
    let mut signature = Signature::new(isa.default_call_conv());
    let word = AbiParam::new(types::I64);
    let n_params = match which {
        Entry::Run => caller_buffers(program).len() + program.sizes.len() + 1,
        Entry::Workspace => program.sizes.len(),
    };
    signature.params = vec![word; n_params];
    signature.returns = vec![if which == Entry::Run { AbiParam::new(types::I32) } else { word }];
    signature
}

/// Emits an entry into `out`, whose signature is set.
///
/// Errors: a size without a value, which a verified plan does not have.
pub(super) fn emit(
    which: Entry,
    program: &Program,
    kernels: &[FuncId],
    module: &mut impl Module,
    out: &mut Function,
    scratch: &mut FunctionBuilderContext,
) -> Result<(), Diagnostic> {
    let callees = match which {
        Entry::Run => kernels.iter().map(|id| module.declare_func_in_func(*id, out)).collect(),
        Entry::Workspace => vec![],
    };
    let mut b = FunctionBuilder::new(out, scratch);
    let block = b.create_block();
    b.append_block_params_for_function_params(block);
    b.switch_to_block(block);
    b.seal_block(block);
    let args = b.block_params(block).to_vec();
    let mut walk = Walk { program, b, callees, env: BTreeMap::new(), pointers: vec![], scratch: None };
    match which {
        Entry::Workspace => {
            walk.bind_sizes(&args);
            let layout = walk.layout()?;
            walk.b.ins().return_(&[layout.total]);
        }
        Entry::Run => walk.run(&args)?,
    }
    walk.b.finalize(module.isa().frontend_config());
    Ok(())
}

struct Walk<'p, 'b> {
    program: &'p Program,
    b: FunctionBuilder<'b>,
    callees: Vec<FuncRef>,
    /// Sizes and loop counters.
    env: BTreeMap<Sym, Value>,
    /// The memory of each buffer; swaps change it.
    pointers: Vec<Variable>,
    scratch: Option<Value>,
}

/// Bytes from the start of the workspace.
struct Layout {
    slots: Vec<Value>,
    scratch: Value,
    total: Value,
}

impl<'p> Walk<'p, '_> {
    fn bind_sizes(&mut self, values: &[Value]) {
        for (size, value) in self.program.sizes.iter().zip(values) {
            self.env.insert(size.name.clone(), *value);
        }
    }

    fn constant(&mut self, value: i64) -> Value {
        self.b.ins().iconst(types::I64, value)
    }

    fn dim(&mut self, dim: &Dim) -> Result<Value, Diagnostic> {
        let mut sum = self.constant(0);
        for (names, coeff) in dim.terms() {
            let mut product = self.constant(coeff);
            for name in names {
                let Some(value) = self.env.get(name) else {
                    let program = &self.program.name;
                    return Err(Diagnostic::verify(format!(
                        "program `{program}`: the size `{name}` has no value"
                    )));
                };
                product = self.b.ins().imul(product, *value);
            }
            sum = self.b.ins().iadd(sum, product);
        }
        Ok(sum)
    }

    /// Bytes, at least 0, rounded up to the alignment.
    fn padded(&mut self, dim: &Dim) -> Result<Value, Diagnostic> {
        let bytes = self.dim(dim)?;
        let (zero, up) = (self.constant(0), self.constant(SCRATCH_ALIGN_BYTES as i64 - 1));
        let mask = self.constant(-(SCRATCH_ALIGN_BYTES as i64));
        let bytes = self.b.ins().smax(bytes, zero);
        let bytes = self.b.ins().iadd(bytes, up);
        Ok(self.b.ins().band(bytes, mask))
    }

    fn layout(&mut self) -> Result<Layout, Diagnostic> {
        let mut offset = self.constant(0);
        let mut slots = vec![];
        for uses in &self.program.slots {
            slots.push(offset);
            let mut largest = self.constant(0);
            for dim in uses {
                let bytes = self.padded(dim)?;
                largest = self.b.ins().smax(largest, bytes);
            }
            offset = self.b.ins().iadd(offset, largest);
        }
        let mut scratch_bytes = self.constant(0);
        for kernel in &self.program.kernels {
            let mut bytes = self.constant(0);
            for dim in tile_bytes(kernel) {
                let local = self.padded(&dim)?;
                bytes = self.b.ins().iadd(bytes, local);
            }
            scratch_bytes = self.b.ins().smax(scratch_bytes, bytes);
        }
        let total = self.b.ins().iadd(offset, scratch_bytes);
        Ok(Layout { slots, scratch: offset, total })
    }

    fn run(&mut self, args: &[Value]) -> Result<(), Diagnostic> {
        let callers = caller_buffers(self.program);
        let (buffers, rest) = args.split_at(callers.len());
        let (sizes, workspace) = rest.split_at(self.program.sizes.len());
        let workspace = workspace[0];
        self.bind_sizes(sizes);
        for (size, value) in self.program.sizes.iter().zip(sizes) {
            let (low, high) = (self.constant(size.bounds.0), self.constant(size.bounds.1));
            let below = self.b.ins().icmp(IntCC::SignedLessThan, *value, low);
            let above = self.b.ins().icmp(IntCC::SignedGreaterThan, *value, high);
            let outside = self.b.ins().bor(below, above);
            self.return_if(outside, 1);
        }
        let layout = self.layout()?;
        let zero = self.constant(0);
        let is_null = self.b.ins().icmp(IntCC::Equal, workspace, zero);
        let needed = self.b.ins().icmp(IntCC::NotEqual, layout.total, zero);
        let missing = self.b.ins().band(is_null, needed);
        self.return_if(missing, 2);
        let low_bits = self.constant(SCRATCH_ALIGN_BYTES as i64 - 1);
        let rest = self.b.ins().band(workspace, low_bits);
        let crooked = self.b.ins().icmp(IntCC::NotEqual, rest, zero);
        self.return_if(crooked, 3);
        self.scratch = Some(self.b.ins().iadd(workspace, layout.scratch));
        for (idx, buffer) in self.program.buffers.iter().enumerate() {
            let pointer = match buffer.kind {
                BufferKind::Temp(slot) => self.b.ins().iadd(workspace, layout.slots[slot as usize]),
                BufferKind::Input | BufferKind::Output => {
                    let position = callers.iter().position(|id| id.0 as usize == idx);
                    position.map_or(zero, |position| buffers[position])
                }
            };
            let var = self.b.declare_var(types::I64);
            self.b.def_var(var, pointer);
            self.pointers.push(var);
        }
        self.steps(&self.program.steps)?;
        let done = self.b.ins().iconst(types::I32, 0);
        self.b.ins().return_(&[done]);
        Ok(())
    }

    fn return_if(&mut self, flag: Value, status: i64) {
        let (leave, go_on) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(flag, leave, &[], go_on, &[]);
        self.enter(leave);
        let status = self.b.ins().iconst(types::I32, status);
        self.b.ins().return_(&[status]);
        self.enter(go_on);
    }

    fn enter(&mut self, block: Block) {
        self.b.switch_to_block(block);
        self.b.seal_block(block);
    }

    fn steps(&mut self, steps: &'p [Step]) -> Result<(), Diagnostic> {
        for step in steps {
            match step {
                Step::Launch { kernel, args } => self.launch(*kernel as usize, args)?,
                Step::Contract(_) => {
                    let message = "an object has no library for the contractions of its plan";
                    return Err(Diagnostic::unsupported(message).help(
                        "schedule the function without library contractions, or run the plan in process",
                    ));
                }
                Step::Loop { var, trip, body, swaps } => self.repeat(var, trip, body, swaps)?,
                Step::Rows { body, .. } => self.steps(body)?,
                Step::Unless { flag, body } => self.unless(*flag, body)?,
            }
        }
        Ok(())
    }

    fn unless(&mut self, flag: BufferId, body: &'p [Step]) -> Result<(), Diagnostic> {
        let pointer = self.b.use_var(self.pointers[flag.0 as usize]);
        let truth = self.b.ins().load(types::I8, MemFlagsData::trusted(), pointer, 0);
        let (inside, exit) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(truth, exit, &[], inside, &[]);
        self.enter(inside);
        self.steps(body)?;
        self.b.ins().jump(exit, &[]);
        self.enter(exit);
        Ok(())
    }

    fn repeat(
        &mut self,
        var: &Sym,
        trip: &Dim,
        body: &'p [Step],
        swaps: &[(BufferId, BufferId)],
    ) -> Result<(), Diagnostic> {
        let trip = self.dim(trip)?;
        let counter = self.b.declare_var(types::I64);
        let zero = self.constant(0);
        self.b.def_var(counter, zero);
        let (head, inside, exit) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().jump(head, &[]);
        self.b.switch_to_block(head);
        let count = self.b.use_var(counter);
        let again = self.b.ins().icmp(IntCC::SignedLessThan, count, trip);
        self.b.ins().brif(again, inside, &[], exit, &[]);
        self.enter(inside);
        let shadowed = self.env.insert(var.clone(), count);
        self.steps(body)?;
        for (a, b) in swaps {
            let (a, b) = (self.pointers[a.0 as usize], self.pointers[b.0 as usize]);
            let (at_a, at_b) = (self.b.use_var(a), self.b.use_var(b));
            self.b.def_var(a, at_b);
            self.b.def_var(b, at_a);
        }
        let one = self.constant(1);
        let next = self.b.ins().iadd(count, one);
        self.b.def_var(counter, next);
        self.b.ins().jump(head, &[]);
        self.b.seal_block(head);
        self.enter(exit);
        match shadowed {
            Some(value) => self.env.insert(var.clone(), value),
            None => self.env.remove(var),
        };
        Ok(())
    }

    fn launch(&mut self, kernel_idx: usize, args: &[Arg]) -> Result<(), Diagnostic> {
        let kernel = &self.program.kernels[kernel_idx];
        let mut params = vec![];
        for arg in args {
            let buffer = &self.program.buffers[arg.buffer.0 as usize];
            let mut pointer = self.b.use_var(self.pointers[arg.buffer.0 as usize]);
            if !arg.offset.is_const(0) {
                let size_bytes = Dim::constant(buffer.dtype.size_bytes() as i64);
                let distance = self.dim(&arg.offset.mul(&size_bytes))?;
                pointer = self.b.ins().iadd(pointer, distance);
            }
            params.push(pointer);
        }
        let mut sizes = vec![];
        for name in &kernel.sizes {
            sizes.push(self.dim(&Dim::sym(name.clone()))?);
        }
        let mut n_tiles = self.constant(1);
        for axis in &kernel.grid {
            let extent = self.dim(&axis.extent)?;
            let zero = self.constant(0);
            let extent = self.b.ins().smax(extent, zero);
            let (up, tile) = (self.constant(i64::from(axis.tile) - 1), self.constant(i64::from(axis.tile)));
            let rounded = self.b.ins().iadd(extent, up);
            let tiles = self.b.ins().udiv(rounded, tile);
            n_tiles = self.b.ins().imul(n_tiles, tiles);
        }
        let (params, sizes) = (self.array(&params), self.array(&sizes));
        let first = self.constant(0);
        let scratch = match self.scratch {
            Some(scratch) => scratch,
            None => first,
        };
        self.b.ins().call(self.callees[kernel_idx], &[params, sizes, first, n_tiles, scratch]);
        Ok(())
    }

    /// The address of these words on the stack.
    fn array(&mut self, words: &[Value]) -> Value {
        let bytes = 8 * words.len().max(1) as u32;
        let slot = self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 3));
        let address = self.b.ins().stack_addr(types::I64, slot, 0);
        for (idx, word) in words.iter().enumerate() {
            self.b.ins().store(MemFlagsData::trusted(), *word, address, 8 * idx as i32);
        }
        address
    }
}

/// Bytes of each tile-local array of a kernel, before padding.
pub(super) fn tile_bytes(kernel: &Func) -> Vec<Dim> {
    let tiles = kernel.locals.iter().filter(|local| local.space == Space::Tile);
    tiles
        .map(|local| {
            let size = Dim::constant(local.dtype.size_bytes() as i64);
            local.shape.iter().fold(size, |product, dim| product.mul(dim))
        })
        .collect()
}
