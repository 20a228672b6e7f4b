//! A plan at given sizes: every extent, byte count, tile count and offset as a number.
//!
//! In: a plan that [`check`] accepts, and a value for every run-time size. Out: a [`Resolved`] plan. Nothing that a call does
//! later can overflow or leave its buffer, except offsets that depend on loop counters, which are checked as they occur.

use crate::memory::n_elems;
use birkhoff_ir::diag::{Diagnostic, Span};
use birkhoff_ir::dim::{Dim, DimError, SizeEnv, Sym};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{self, Access, abi};
use birkhoff_ir::plan::contract::{ContractSizes, has_library};
use birkhoff_ir::plan::rows::{self, Blocks, Cut, Side};
use birkhoff_ir::plan::{self, BufferKind, Program};

/// A plan in numbers.
pub(crate) struct Resolved {
    /// The sizes it was resolved for.
    pub sizes: SizeEnv,
    /// Extents of every buffer.
    pub shapes: Vec<Vec<i64>>,
    /// Size of every buffer.
    pub buffer_bytes: Vec<u64>,
    /// Size of every slot.
    pub slot_bytes: Vec<u64>,
    /// Scratch memory per thread: the most that any kernel takes.
    pub scratch_bytes: u64,
    /// Per kernel of the plan.
    pub kernels: Vec<Kernel>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// A kernel at given sizes.
pub(crate) struct Kernel {
    /// Its run-time sizes, in call order.
    pub sizes: Vec<i64>,
    /// Tiles of its grid.
    pub n_tiles: i64,
    /// Bytes of all its parameters together.
    pub param_bytes: u64,
}

/// One step at given sizes.
pub(crate) enum Step {
    /// Runs all tiles of a kernel.
    Launch {
        /// Position of the kernel.
        kernel: usize,
        /// One per parameter.
        args: Vec<Arg>,
    },
    /// Matrix products by the library.
    Contract(Contract),
    /// Runs all parts for some rows, and for others.
    Rows {
        /// Position of the group in the plan.
        group: usize,
        /// Rows in all.
        n_rows: i64,
        /// Rows of a block.
        block: i64,
        /// What happens to the rows of a block, in order.
        parts: Vec<Part>,
    },
    /// Runs the body a number of times.
    Loop {
        /// The counter's name.
        var: Sym,
        /// Number of iterations.
        trip: Number,
        /// The steps of an iteration.
        body: Vec<Step>,
        /// Pairs of buffers that exchange their memory after each iteration.
        swaps: Vec<(usize, usize)>,
    },
    /// Runs the body if the bool in a buffer is false.
    Unless {
        /// The buffer.
        flag: usize,
        /// The steps.
        body: Vec<Step>,
    },
}

/// A step that can run for some rows.
pub(crate) enum Part {
    /// Tiles of a kernel.
    Launch {
        /// Position of the kernel.
        kernel: usize,
        /// One per parameter.
        args: Vec<Arg>,
        /// Rows of so many tiles.
        rows: i64,
        /// Tiles for so many rows.
        tiles: i64,
    },
    /// A part of matrix products, along one axis of the results.
    Contract(Box<Contract>, Side),
}

/// Matrix products at given sizes.
pub(crate) struct Contract {
    /// Position in the plan's contractions.
    pub contract: usize,
    /// The element type of all three.
    pub dtype: DType,
    /// Extents and strides.
    pub sizes: ContractSizes,
    /// Both factors and the result.
    pub args: [Arg; 3],
}

/// A buffer from an offset on, as a kernel's parameter.
pub(crate) struct Arg {
    /// Position of the buffer.
    pub buffer: usize,
    /// Bytes to skip.
    pub offset_bytes: Number,
    /// Bytes that the kernel may touch from there.
    pub needed_bytes: u64,
}

/// A number, or one that depends on loop counters.
pub(crate) enum Number {
    /// Known for the call.
    Const(i64),
    /// A polynomial in loop counters.
    Counted(Dim),
}

impl Number {
    fn new(dim: &Dim, sizes: &SizeEnv) -> Result<Number, DimError> {
        match dim.syms().iter().all(|sym| sizes.contains_key(sym)) {
            true => dim.eval(sizes).map(Number::Const),
            false => Ok(Number::Counted(dim.subst(sizes))),
        }
    }

    /// The value, given the counters of the loops around.
    pub(crate) fn eval(&self, counters: &SizeEnv) -> Result<i64, Diagnostic> {
        match self {
            Number::Const(value) => Ok(*value),
            Number::Counted(dim) => dim.eval(counters).map_err(|error| Diagnostic::verify(error.to_string())),
        }
    }
}

impl Arg {
    /// The offset, given the counters of the loops around and the buffer's size.
    ///
    /// Errors: the parameter would leave the buffer.
    pub(crate) fn offset_bytes(&self, counters: &SizeEnv, buffer_bytes: u64) -> Result<u64, Diagnostic> {
        let offset = self.offset_bytes.eval(counters)?;
        let end = u64::try_from(offset).ok().and_then(|offset| offset.checked_add(self.needed_bytes));
        match end {
            Some(end) if end <= buffer_bytes => Ok(offset as u64),
            _ => Err(Diagnostic::verify(format!(
                "the plan passes {} bytes from byte {offset} on, of a buffer of {buffer_bytes} bytes",
                self.needed_bytes
            ))),
        }
    }
}

/// Checks what a plan promises regardless of sizes: positions exist, kinds and element types agree.
///
/// Errors: every promise that is broken; each is a bug of whoever made the plan.
pub(crate) fn check(program: &Program) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    let order = |kind: BufferKind| match kind {
        BufferKind::Input => 0,
        BufferKind::Output => 1,
        BufferKind::Temp(_) => 2,
    };
    if !program.buffers.is_sorted_by_key(|buffer| order(buffer.kind)) {
        errors.push("buffers must be ordered: inputs, outputs, temporaries".to_string());
    }
    for buffer in &program.buffers {
        if let BufferKind::Temp(slot) = buffer.kind
            && slot as usize >= program.slots.len()
        {
            errors.push(format!("the buffer `{}` is in slot {slot}, which does not exist", buffer.name));
        }
    }
    check_steps(program, &program.steps, &mut errors);
    errors
        .into_iter()
        .map(|message| Diagnostic::verify(format!("plan of `{}`: {message}", program.name)))
        .collect()
}

fn check_steps(program: &Program, steps: &[plan::Step], errors: &mut Vec<String>) {
    for step in steps {
        match step {
            plan::Step::Launch { kernel, args } => match program.kernels.get(*kernel as usize) {
                None => errors.push(format!("kernel {kernel} does not exist")),
                Some(func) => check_args(program, func, args, errors),
            },
            plan::Step::Contract(contract) => check_contract(program, contract, errors),
            plan::Step::Rows { body, .. } => check_steps(program, body, errors),
            plan::Step::Unless { flag, body } => {
                let is_flag = |buffer: &plan::Buffer| {
                    buffer.dtype == DType::Bool && buffer.n_elems() == Dim::constant(1)
                };
                if !program.buffer(*flag).is_some_and(is_flag) {
                    errors.push(format!("buffer {} decides what runs and is not one bool", flag.0));
                }
                check_steps(program, body, errors);
            }
            plan::Step::Loop { body, swaps, .. } => {
                check_steps(program, body, errors);
                for (a, b) in swaps {
                    let both = [a, b].map(|id| program.buffers.get(id.0 as usize));
                    match both {
                        [Some(a), Some(b)] if is_temp(a) && is_temp(b) => {}
                        _ => errors.push(format!("buffers {} and {} cannot be swapped", a.0, b.0)),
                    }
                }
            }
        }
    }
}

fn check_contract(program: &Program, contract: &plan::Contract, errors: &mut Vec<String>) {
    let buffers = contract.buffers().map(|id| program.buffers.get(id.0 as usize));
    let [Some(a), Some(b), Some(c)] = buffers else {
        errors.push("a contraction takes a buffer that does not exist".to_string());
        return;
    };
    if !has_library(c.dtype) || a.dtype != c.dtype || b.dtype != c.dtype {
        errors.push(format!("a contraction of {} and {} to {}", a.dtype, b.dtype, c.dtype));
    }
    if c.kind == BufferKind::Input {
        errors.push(format!("a contraction writes the input `{}`", c.name));
    }
}

fn is_temp(buffer: &plan::Buffer) -> bool {
    matches!(buffer.kind, BufferKind::Temp(_))
}

fn check_args(program: &Program, func: &kernel::Func, args: &[plan::Arg], errors: &mut Vec<String>) {
    if func.params.len() != args.len() {
        let (expected, found) = (func.params.len(), args.len());
        errors.push(format!("the kernel `{}` takes {expected} arguments, found {found}", func.name));
    }
    for (param, arg) in func.params.iter().zip(args) {
        let Some(buffer) = program.buffers.get(arg.buffer.0 as usize) else {
            errors.push(format!("buffer {} does not exist", arg.buffer.0));
            continue;
        };
        if buffer.dtype != param.dtype {
            errors.push(format!(
                "`{}` of the kernel `{}` is {}, the buffer `{}` is {}",
                param.name, func.name, param.dtype, buffer.name, buffer.dtype
            ));
        }
        if param.access != Access::Read && buffer.kind == BufferKind::Input {
            errors.push(format!("the kernel `{}` writes the input `{}`", func.name, buffer.name));
        }
    }
}

/// The plan in numbers.
///
/// Errors: a size that is missing or out of its bounds (the user's), and whatever overflows or does not fit.
pub(crate) fn resolve(program: &Program, sizes: &SizeEnv) -> Result<Resolved, Diagnostic> {
    check_bounds(program, sizes)?;
    let mut shapes = Vec::with_capacity(program.buffers.len());
    let mut buffer_bytes = Vec::with_capacity(program.buffers.len());
    for buffer in &program.buffers {
        let shape = eval_shape(&buffer.shape, sizes)?;
        buffer_bytes.push(size_bytes(&shape, buffer.dtype.size_bytes())?);
        shapes.push(shape);
    }
    let mut slot_bytes = Vec::with_capacity(program.slots.len());
    for slot in &program.slots {
        let sizes_of_users: Result<Vec<i64>, DimError> = slot.iter().map(|dim| dim.eval(sizes)).collect();
        let largest = sizes_of_users.map_err(overflow)?.into_iter().max().unwrap_or(0);
        slot_bytes.push(largest.max(0) as u64);
    }
    for (buffer, bytes) in program.buffers.iter().zip(&buffer_bytes) {
        if let BufferKind::Temp(slot) = buffer.kind
            && slot_bytes[slot as usize] < *bytes
        {
            let message = format!("the buffer `{}` of {bytes} bytes does not fit its slot", buffer.name);
            return Err(Diagnostic::verify(message));
        }
    }
    let mut kernels = Vec::with_capacity(program.kernels.len());
    let mut scratch_bytes = 0;
    for func in &program.kernels {
        let (kernel, scratch) = resolve_kernel(func, sizes)?;
        scratch_bytes = scratch_bytes.max(scratch);
        kernels.push(kernel);
    }
    let mut resolved = Resolved {
        sizes: sizes.clone(),
        shapes,
        buffer_bytes,
        slot_bytes,
        scratch_bytes,
        kernels,
        steps: vec![],
    };
    resolved.steps =
        Resolver { program, resolved: &resolved, n_contracts: 0, n_groups: 0 }.steps(&program.steps)?;
    Ok(resolved)
}

fn check_bounds(program: &Program, sizes: &SizeEnv) -> Result<(), Diagnostic> {
    for decl in &program.sizes {
        let Some(value) = sizes.get(&decl.name) else {
            let message = format!("the size `{}` has no value, and no input's shape says it", decl.name);
            return Err(Diagnostic::input(Span::NONE, message));
        };
        let (lo, hi) = decl.bounds;
        if *value < lo || *value > hi {
            let message = format!("the size `{}` must be in {lo}..={hi}, found {value}", decl.name);
            return Err(Diagnostic::input(Span::NONE, message));
        }
    }
    Ok(())
}

fn overflow(error: DimError) -> Diagnostic {
    Diagnostic::input(Span::NONE, error.to_string())
}

fn eval_shape(shape: &[Dim], sizes: &SizeEnv) -> Result<Vec<i64>, Diagnostic> {
    shape.iter().map(|dim| dim.eval(sizes)).collect::<Result<_, _>>().map_err(overflow)
}

fn size_bytes(shape: &[i64], elem_bytes: u64) -> Result<u64, Diagnostic> {
    let n_elems = n_elems(shape).map_err(|message| Diagnostic::input(Span::NONE, message))?;
    // Byte offsets are signed in plans and in machine code.
    let bytes = n_elems.checked_mul(elem_bytes).filter(|bytes| *bytes <= i64::MAX as u64);
    bytes.ok_or_else(|| {
        Diagnostic::input(Span::NONE, format!("an array of shape {shape:?} has more bytes than memory has"))
    })
}

fn resolve_kernel(func: &kernel::Func, sizes: &SizeEnv) -> Result<(Kernel, u64), Diagnostic> {
    let values: Result<Vec<i64>, Diagnostic> = func
        .sizes
        .iter()
        .map(|name| {
            let value = sizes.get(name).copied();
            value.ok_or_else(|| {
                Diagnostic::verify(format!("the kernel `{}` takes an unknown size `{name}`", func.name))
            })
        })
        .collect();
    let mut param_bytes = 0u64;
    for param in &func.params {
        let bytes = size_bytes(&eval_shape(&param.shape, sizes)?, param.dtype.size_bytes())?;
        param_bytes = param_bytes.saturating_add(bytes);
    }
    let n_tiles = abi::n_tiles(func, sizes).map_err(overflow)?;
    let scratch = abi::scratch_bytes(func, sizes).map_err(overflow)?;
    Ok((Kernel { sizes: values?, n_tiles, param_bytes }, scratch))
}

/// Turns steps into numbers, counting contractions and groups as they stand in the plan.
struct Resolver<'r> {
    program: &'r Program,
    resolved: &'r Resolved,
    n_contracts: usize,
    n_groups: usize,
}

impl Resolver<'_> {
    fn steps(&mut self, steps: &[plan::Step]) -> Result<Vec<Step>, Diagnostic> {
        let mut all = Vec::with_capacity(steps.len());
        for step in steps {
            match step {
                plan::Step::Launch { kernel, args } => {
                    all.push(Step::Launch { kernel: *kernel as usize, args: self.args(*kernel, args)? })
                }
                plan::Step::Contract(contract) => all.push(Step::Contract(self.contract(contract)?)),
                plan::Step::Unless { flag, body } => {
                    all.push(Step::Unless { flag: flag.0 as usize, body: self.steps(body)? })
                }
                plan::Step::Rows { rows, body } => self.rows(rows, body, &mut all)?,
                plan::Step::Loop { var, trip, body, swaps } => {
                    let swaps = self.swaps(swaps)?;
                    let trip = Number::new(trip, &self.resolved.sizes).map_err(overflow)?;
                    all.push(Step::Loop { var: var.clone(), trip, body: self.steps(body)?, swaps });
                }
            }
        }
        Ok(all)
    }

    fn args(&self, kernel: u32, args: &[plan::Arg]) -> Result<Vec<Arg>, Diagnostic> {
        let params = &self.program.kernels[kernel as usize].params;
        args.iter().zip(params).map(|(arg, param)| resolve_arg(arg, param, self.resolved)).collect()
    }

    fn swaps(&self, swaps: &[(plan::BufferId, plan::BufferId)]) -> Result<Vec<(usize, usize)>, Diagnostic> {
        let swaps: Vec<(usize, usize)> = swaps.iter().map(|(a, b)| (a.0 as usize, b.0 as usize)).collect();
        for (a, b) in &swaps {
            if self.resolved.buffer_bytes[*a] != self.resolved.buffer_bytes[*b] {
                let names = [a, b].map(|idx| self.program.buffers[*idx].name.to_string());
                let message = format!("the buffers `{}` are swapped and differ in size", names.join("`, `"));
                return Err(Diagnostic::verify(message));
            }
        }
        Ok(swaps)
    }

    /// A group as blocks of rows where that is the same at these sizes, else as the steps that it has.
    fn rows(&mut self, rows: &Dim, body: &[plan::Step], all: &mut Vec<Step>) -> Result<(), Diagnostic> {
        let group = self.n_groups;
        self.n_groups += 1;
        // Operands are held against their buffers before anything is computed with them.
        let steps = self.steps(body)?;
        let blocks = rows::blocks(self.program, rows, body, &self.resolved.sizes);
        let Some(Blocks { n_rows, block, rows }) = blocks else {
            all.extend(steps);
            return Ok(());
        };
        let mut parts = Vec::with_capacity(steps.len());
        for (step, cut) in steps.into_iter().zip(rows.cuts) {
            parts.push(match (step, cut) {
                (Step::Launch { kernel, args }, Cut::Tiles { rows, tiles }) => {
                    Part::Launch { kernel, args, rows, tiles }
                }
                (Step::Contract(contract), Cut::Product(side)) => Part::Contract(Box::new(contract), side),
                _ => return Err(Diagnostic::verify("a step of a group is cut as what it is not")),
            });
        }
        all.push(Step::Rows { group, n_rows, block, parts });
        Ok(())
    }

    fn contract(&mut self, contract: &plan::Contract) -> Result<Contract, Diagnostic> {
        let dtype = self.program.buffers[contract.c.arg.buffer.0 as usize].dtype;
        let sizes = contract.sizes(&self.resolved.sizes)?;
        let [a, b, c] = contract.operands();
        let arg = |operand: plan::contract::Operand<'_>, span: i64| {
            let needed_bytes = size_bytes(&[span], dtype.size_bytes())?;
            part(&operand.matrix.arg, dtype.size_bytes(), needed_bytes, self.resolved)
        };
        let args = [arg(a, sizes.spans[0])?, arg(b, sizes.spans[1])?, arg(c, sizes.spans[2])?];
        let number = self.n_contracts;
        self.n_contracts += 1;
        Ok(Contract { contract: number, dtype, sizes, args })
    }
}

fn resolve_arg(arg: &plan::Arg, param: &kernel::Param, resolved: &Resolved) -> Result<Arg, Diagnostic> {
    let elem_bytes = param.dtype.size_bytes();
    let needed_bytes = size_bytes(&eval_shape(&param.shape, &resolved.sizes)?, elem_bytes)?;
    part(arg, elem_bytes, needed_bytes, resolved)
}

/// A part of a buffer, checked to lie in it where that is known by now.
fn part(arg: &plan::Arg, elem_bytes: u64, needed_bytes: u64, resolved: &Resolved) -> Result<Arg, Diagnostic> {
    let offset_bytes = arg.offset.mul(&Dim::constant(elem_bytes as i64));
    let offset_bytes = Number::new(&offset_bytes, &resolved.sizes).map_err(overflow)?;
    let resolved_arg = Arg { buffer: arg.buffer.0 as usize, offset_bytes, needed_bytes };
    if let Number::Const(_) = resolved_arg.offset_bytes {
        resolved_arg.offset_bytes(&SizeEnv::new(), resolved.buffer_bytes[resolved_arg.buffer])?;
    }
    Ok(resolved_arg)
}
