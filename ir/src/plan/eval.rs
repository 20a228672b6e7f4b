//! Runs a whole plan with the kernel evaluator.
//!
//! In: a verified plan, sizes, one array per input. Out: one array per output, and the traffic of every launch and
//! contraction. A contraction adds its terms in order, in the element type, each product rounded. Temporaries
//! live in their slots: writing one that shares a slot ends the one that was there, and whoever reads that gets an error.

use super::traffic::contract_traffic;
use super::{Arg, Buffer, BufferId, BufferKind, Contract, Program, Step};
use crate::diag::Diagnostic;
use crate::dim::{Dim, SizeEnv};
use crate::dtype::DType;
use crate::kernel::Access;
use crate::kernel::eval::{Array, Binding, Memory, run as run_kernel};
use crate::kernel::traffic::Traffic;
use crate::scalar::Scalar;

/// What a run gives.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// One array per output, in signature order.
    pub outputs: Vec<Array>,
    /// In order: which kernel ran, and what it moved.
    pub launches: Vec<(u32, Traffic)>,
    /// In order: which contraction ran (a position in [`Program::contracts`]), and what it moved.
    pub contracts: Vec<(usize, Traffic)>,
}

/// The sizes of a run: `given`, completed by defaults.
///
/// Errors: a size that is neither given nor has a default, or is outside its bounds.
pub fn bind_sizes(program: &Program, given: &SizeEnv) -> Result<SizeEnv, Diagnostic> {
    let mut sizes = SizeEnv::new();
    for size in &program.sizes {
        let name = &size.name;
        let value = given.get(name).copied().or(size.default);
        let value = value.ok_or_else(|| input(format!("the size `{name}` has no value and no default")))?;
        let (first, last) = size.bounds;
        if value < first || value > last {
            return Err(input(format!("the size `{name}` is {value}, expected {first} to {last}")));
        }
        sizes.insert(name.clone(), value);
    }
    Ok(sizes)
}

/// Runs `program`, which must verify, on `inputs` in signature order.
///
/// Errors: those of [`bind_sizes`], an input of another type than declared, those of [`crate::kernel::eval::run`].
pub fn run(program: &Program, given: &SizeEnv, inputs: &[Array]) -> Result<Outcome, Diagnostic> {
    let sizes = bind_sizes(program, given)?;
    let mut machine = Machine::new(program, sizes, inputs)?;
    machine.steps(&program.steps)?;
    let outputs = program.buffers_where(|kind| kind == BufferKind::Output);
    let outputs = outputs.into_iter().map(|id| machine.memory.arrays[machine.home[id.0 as usize]].clone());
    Ok(Outcome { outputs: outputs.collect(), launches: machine.launches, contracts: machine.contracts })
}

fn input(message: String) -> Diagnostic {
    Diagnostic::input(Default::default(), message)
}

/// A copy of the array given for `buffer`, if it is of the type of `expected`.
fn checked(buffer: &Buffer, expected: &Array, found: Option<&Array>) -> Result<Array, Diagnostic> {
    let type_of = |array: &Array| format!("{}{:?}", array.dtype(), array.shape());
    match found {
        Some(array) if array.dtype() == expected.dtype() && array.shape() == expected.shape() => {
            Ok(array.clone())
        }
        _ => {
            let found = found.map_or("nothing".to_string(), type_of);
            Err(input(format!("the input `{}` is {}, found {found}", buffer.name, type_of(expected))))
        }
    }
}

struct Machine<'p> {
    program: &'p Program,
    sizes: SizeEnv,
    /// The caller's arrays first, then one per slot.
    memory: Memory,
    /// For each array: whose elements it holds.
    owner: Vec<Option<BufferId>>,
    /// For each buffer: its array. Swaps change it.
    home: Vec<usize>,
    launches: Vec<(u32, Traffic)>,
    contracts: Vec<(usize, Traffic)>,
    /// All contractions of the plan, to find positions.
    known: Vec<&'p Contract>,
}

impl<'p> Machine<'p> {
    fn new(program: &'p Program, sizes: SizeEnv, inputs: &[Array]) -> Result<Self, Diagnostic> {
        let n_callers = program.buffers_where(|kind| !matches!(kind, BufferKind::Temp(_))).len();
        let mut machine = Machine {
            program,
            sizes,
            memory: Memory::default(),
            owner: vec![],
            home: vec![],
            launches: vec![],
            contracts: vec![],
            known: program.contracts(),
        };
        let mut given = inputs.iter();
        for (idx, buffer) in program.buffers.iter().enumerate() {
            if let BufferKind::Temp(slot) = buffer.kind {
                machine.home.push(n_callers + slot as usize);
                continue;
            }
            let fresh = machine.fresh(BufferId(idx as u32))?;
            let array =
                if buffer.kind == BufferKind::Input { checked(buffer, &fresh, given.next())? } else { fresh };
            machine.home.push(machine.memory.arrays.len());
            machine.owner.push(Some(BufferId(idx as u32)));
            machine.memory.arrays.push(array);
        }
        for _ in &program.slots {
            machine.memory.arrays.push(Array::uninit(DType::Bool, &[0])?);
            machine.owner.push(None);
        }
        Ok(machine)
    }

    fn dim(&self, dim: &Dim) -> Result<i64, Diagnostic> {
        dim.eval(&self.sizes).map_err(|error| input(format!("plan @{}: {error}", self.program.name)))
    }

    /// An array for `id` that nobody wrote to yet.
    fn fresh(&self, id: BufferId) -> Result<Array, Diagnostic> {
        let buffer = &self.program.buffers[id.0 as usize];
        let shape = buffer.shape.iter().map(|dim| self.dim(dim)).collect::<Result<Vec<i64>, _>>()?;
        Array::uninit(buffer.dtype, &shape)
    }

    fn steps(&mut self, steps: &'p [Step]) -> Result<(), Diagnostic> {
        for step in steps {
            match step {
                Step::Launch { kernel, args } => self.launch(*kernel, args)?,
                Step::Contract(contract) => self.contract(contract)?,
                Step::Loop { var, trip, body, swaps } => {
                    for count in 0..self.dim(trip)? {
                        self.sizes.insert(var.clone(), count);
                        self.steps(body)?;
                        swaps.iter().for_each(|(a, b)| self.swap(*a, *b));
                    }
                    self.sizes.remove(var);
                }
                Step::Rows { body, .. } => self.steps(body)?,
                Step::Unless { flag, body } => {
                    if !self.is_true(*flag)? {
                        self.steps(body)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The truth value in a buffer.
    fn is_true(&mut self, flag: BufferId) -> Result<bool, Diagnostic> {
        self.claim(flag, Access::Read)?;
        match self.memory.arrays[self.home[flag.0 as usize]].get(0) {
            Some(Scalar::Bool(value)) => Ok(value),
            found => {
                let name = &self.program.buffers[flag.0 as usize].name;
                let message = format!("`{name}` decides what runs, found {found:?} in it");
                Err(Diagnostic::verify(format!("plan @{}: {message}", self.program.name)))
            }
        }
    }

    fn swap(&mut self, a: BufferId, b: BufferId) {
        self.home.swap(a.0 as usize, b.0 as usize);
        for buffer in [a, b] {
            let owner = &mut self.owner[self.home[buffer.0 as usize]];
            *owner = owner.map(|owner| {
                if owner == a {
                    b
                } else if owner == b {
                    a
                } else {
                    owner
                }
            });
        }
    }

    fn launch(&mut self, kernel_idx: u32, args: &[Arg]) -> Result<(), Diagnostic> {
        let kernel = &self.program.kernels[kernel_idx as usize];
        let mut bindings = Vec::with_capacity(args.len());
        let mut uses = Vec::with_capacity(args.len());
        for (arg, param) in args.iter().zip(&kernel.params) {
            self.claim(arg.buffer, param.access)?;
            let name = &self.program.buffers[arg.buffer.0 as usize].name;
            let offset = self.dim(&arg.offset)?;
            let offset = usize::try_from(offset).map_err(|_| {
                Diagnostic::verify(format!("launch @{}: `{name}` from element {offset}", kernel.name))
            })?;
            let mut len = 1i64;
            for dim in &param.shape {
                len = len.saturating_mul(self.dim(dim)?);
            }
            let array = self.home[arg.buffer.0 as usize];
            bindings.push(Binding { array, offset });
            uses.push((array, offset..offset.saturating_add(len.max(0) as usize), param.access));
        }
        for (idx, (array, range, access)) in uses.iter().enumerate() {
            for (other_array, other_range, other_access) in &uses[..idx] {
                let overlap =
                    array == other_array && range.start < other_range.end && other_range.start < range.end;
                if overlap && (*access != Access::Read || *other_access != Access::Read) {
                    let name = &kernel.params[idx].name;
                    return Err(Diagnostic::verify(format!(
                        "launch @{}: `{name}` overlaps another parameter and one of them is written",
                        kernel.name
                    )));
                }
            }
        }
        self.memory.params = bindings;
        let traffic = run_kernel(kernel, &self.sizes, &mut self.memory)?;
        self.launches.push((kernel_idx, traffic));
        Ok(())
    }

    fn contract(&mut self, contract: &'p Contract) -> Result<(), Diagnostic> {
        let fault = |message: String| Diagnostic::verify(format!("a contraction: {message}"));
        let numbers = contract.sizes(&self.sizes)?;
        let mut first = [0usize; 3];
        let mut arrays = [0usize; 3];
        for (idx, operand) in contract.operands().into_iter().enumerate() {
            let arg = &operand.matrix.arg;
            self.claim(arg.buffer, operand.access)?;
            arrays[idx] = self.home[arg.buffer.0 as usize];
            let (offset, len) = (self.dim(&arg.offset)?, self.memory.arrays[arrays[idx]].len() as i64);
            let end = offset.checked_add(numbers.spans[idx]);
            if offset < 0 || end.is_none_or(|end| end > len) {
                let message =
                    format!("`{}` from element {offset} on leaves its {len} elements", operand.name);
                return Err(fault(message));
            }
            first[idx] = offset as usize;
        }
        for idx in 0..2 {
            let end = |idx: usize| first[idx] + numbers.spans[idx] as usize;
            if arrays[idx] == arrays[2] && first[idx] < end(2) && first[2] < end(idx) {
                return Err(fault("the result overlaps a factor".to_string()));
            }
        }
        let read = |idx: usize, extents: [i64; 3]| -> Result<Vec<f64>, Diagnostic> {
            let mut values = vec![];
            for place in places(first[idx], extents, numbers.strides[idx]) {
                let value = self.memory.arrays[arrays[idx]].get(place);
                let value =
                    value.ok_or_else(|| fault(format!("reads element {place}, which was never written")))?;
                values.push(value.as_f64());
            }
            Ok(values)
        };
        let (batch, m, n, k) = (numbers.batch, numbers.m, numbers.n, numbers.k);
        let a = read(0, [batch, m, k])?;
        let b = read(1, [batch, k, n])?;
        let compute = self.memory.arrays[arrays[2]].dtype().compute();
        let (n_terms, width) = (k as usize, n as usize);
        for (at, place) in places(first[2], [batch, m, n], numbers.strides[2]).enumerate() {
            let (row, col) = (at / width, at % width);
            let matrix = row / m as usize;
            let left = &a[row * n_terms..][..n_terms];
            let mut sum = 0.0;
            for (term, left) in left.iter().enumerate() {
                sum = compute.round(sum + compute.round(left * b[(matrix * n_terms + term) * width + col]));
            }
            self.memory.arrays[arrays[2]].set(place, Scalar::Float(sum));
        }
        let extents = [[batch, m, k], [batch, k, n], [batch, m, n]];
        let counts = [0, 1, 2].map(|idx| distinct(extents[idx], numbers.strides[idx], numbers.spans[idx]));
        let position = self.known.iter().position(|known| std::ptr::eq(*known, contract)).unwrap_or_default();
        self.contracts.push((position, contract_traffic(self.program, contract, counts)));
        Ok(())
    }

    /// Makes sure that the memory of `id` is its own.
    fn claim(&mut self, id: BufferId, access: Access) -> Result<(), Diagnostic> {
        let array = self.home[id.0 as usize];
        if self.owner[array] == Some(id) {
            return Ok(());
        }
        let buffer = &self.program.buffers[id.0 as usize];
        if access == Access::Read {
            let message = format!("`{}` is read, but its memory holds something else by now", buffer.name);
            return Err(Diagnostic::verify(format!("plan @{}: {message}", self.program.name)));
        }
        if let BufferKind::Temp(slot) = buffer.kind {
            let mut room = 0;
            for size in &self.program.slots[slot as usize] {
                room = room.max(self.dim(size)?);
            }
            let needed = self.dim(&buffer.size_bytes())?;
            if needed > room {
                let message = format!("`{}` takes {needed} bytes, its slot has {room}", buffer.name);
                return Err(Diagnostic::verify(format!("plan @{}: {message}", self.program.name)));
            }
        }
        self.memory.arrays[array] = self.fresh(id)?;
        self.owner[array] = Some(id);
        Ok(())
    }
}

/// The elements of a stack of matrices, in order.
fn places(first: usize, extents: [i64; 3], strides: [i64; 3]) -> impl Iterator<Item = usize> {
    let [batch, rows, cols] = extents;
    let [over_batch, over_rows, over_cols] = strides.map(|stride| stride as usize);
    (0..batch as usize).flat_map(move |p| {
        (0..rows as usize).flat_map(move |i| {
            (0..cols as usize).map(move |j| first + p * over_batch + i * over_rows + j * over_cols)
        })
    })
}

/// How many elements a stack of matrices has, where some may be in one place.
fn distinct(extents: [i64; 3], strides: [i64; 3], span: i64) -> u64 {
    let mut seen = vec![false; span as usize];
    places(0, extents, strides).for_each(|place| seen[place] = true);
    seen.into_iter().filter(|seen| *seen).count() as u64
}
