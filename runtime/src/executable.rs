//! Calling a plan on this machine's processor.
//!
//! In: a plan and its kernels' entry points; per call, the caller's arrays. Out: the output arrays written. Assumes that the
//! image belongs to the plan ([`KernelImage`]'s promise); everything else is checked before the first kernel runs.

use crate::buffer::Buffer;
use crate::image::KernelImage;
use crate::launch::{Call, Launched};
use crate::pool::Pool;
use crate::resolve::{Resolved, check, resolve};
use crate::view::{View, ViewMut};
use crate::workspace::Workspaces;
use birkhoff_ir::diag::{Diagnostic, Diagnostics, Span};
use birkhoff_ir::dim::{SizeEnv, Sym};
use birkhoff_ir::kernel::abi::KernelFn;
use birkhoff_ir::plan::{self, BufferKind, Program};
use birkhoff_ir::tensor::TensorType;
use birkhoff_ir::tensor::bind::solve_sizes;
use std::sync::{Arc, Mutex, PoisonError};

/// How many resolved plans an executable remembers.
const REMEMBERED_PLANS: usize = 8;

/// A plan with its machine code, ready to be called any number of times, from any number of threads.
pub struct Executable {
    program: Program,
    image: Arc<dyn KernelImage>,
    entries: Vec<KernelFn>,
    pool: Pool,
    plans: Mutex<Vec<RememberedPlan>>,
    workspaces: Workspaces,
}

struct RememberedPlan {
    input_shapes: Vec<Vec<i64>>,
    given: SizeEnv,
    resolved: Arc<Resolved>,
}

/// The memory a call takes beyond the caller's inputs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Bytes of the inputs.
    pub input_bytes: u64,
    /// Bytes of the outputs.
    pub output_bytes: u64,
    /// Bytes of the slots that temporaries share: what the plan says.
    pub temp_bytes: u64,
    /// Bytes of tile-local memory, of all threads together.
    pub scratch_bytes: u64,
}

impl Memory {
    /// Everything together.
    pub fn peak_bytes(&self) -> u64 {
        [self.output_bytes, self.temp_bytes, self.scratch_bytes]
            .into_iter()
            .fold(self.input_bytes, u64::saturating_add)
    }
}

/// What a call did.
#[derive(Clone, PartialEq, Debug)]
pub struct CallReport {
    /// The run-time sizes of the call.
    pub sizes: SizeEnv,
    /// The memory it took; the sums of what was allocated, which are what the plan says.
    pub memory: Memory,
    /// Kernels launched and contractions done.
    pub n_launches: u64,
}

impl Executable {
    /// Joins a plan, the machine code of its kernels, and threads to run on.
    ///
    /// Errors: a plan that breaks its own promises, or a kernel without code.
    pub fn new(program: Program, image: Arc<dyn KernelImage>, pool: Pool) -> Result<Executable, Diagnostics> {
        let mut errors = check(&program);
        let mut entries = Vec::with_capacity(program.kernels.len());
        for (idx, func) in program.kernels.iter().enumerate() {
            match image.entry(idx) {
                Some(entry) => entries.push(entry),
                None => errors.push(Diagnostic::verify(format!("the kernel `{}` has no code", func.name))),
            }
        }
        let plans = Mutex::default();
        let workspaces = Workspaces::default();
        Diagnostics(errors).into_result(Executable { program, image, entries, pool, plans, workspaces })
    }

    /// The plan.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The kernels' code.
    pub fn image(&self) -> &Arc<dyn KernelImage> {
        &self.image
    }

    /// The threads it runs on.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The same code on other threads; the code is shared.
    ///
    /// Errors: none that [`Executable::new`] did not have.
    pub fn on_pool(&self, pool: Pool) -> Result<Executable, Diagnostics> {
        Executable::new(self.program.clone(), self.image.clone(), pool)
    }

    /// The run-time sizes that inputs of these shapes have, beside those in `given`.
    ///
    /// Errors: shapes that contradict each other or `given`, a size that nothing says, or one out of its bounds.
    pub fn sizes(&self, input_shapes: &[Vec<i64>], given: &SizeEnv) -> Result<SizeEnv, Diagnostics> {
        Ok(self.resolved(input_shapes, given)?.sizes.clone())
    }

    /// The memory that a call with inputs of these shapes takes.
    ///
    /// Errors: as [`Executable::sizes`], and sizes that overflow.
    pub fn memory(&self, input_shapes: &[Vec<i64>], given: &SizeEnv) -> Result<Memory, Diagnostics> {
        Ok(self.memory_of(&*self.resolved(input_shapes, given)?))
    }

    /// The shapes of the outputs for inputs of these shapes.
    ///
    /// Errors: as [`Executable::memory`].
    pub fn output_shapes(
        &self,
        input_shapes: &[Vec<i64>],
        given: &SizeEnv,
    ) -> Result<Vec<Vec<i64>>, Diagnostics> {
        let resolved = self.resolved(input_shapes, given)?;
        let buffers = self.program.buffers.iter().zip(&resolved.shapes);
        let outputs = buffers.filter(|(buffer, _)| buffer.kind == BufferKind::Output);
        Ok(outputs.map(|(_, shape)| shape.clone()).collect())
    }

    /// Calls the function; outputs are allocated.
    ///
    /// Errors: as [`Executable::call_into`].
    pub fn call(
        &self,
        inputs: &[View<'_>],
        given: &SizeEnv,
    ) -> Result<(Vec<Buffer>, CallReport), Diagnostics> {
        let shapes: Vec<Vec<i64>> = inputs.iter().map(|view| view.shape().to_vec()).collect();
        self.check_inputs(inputs)?;
        let output_shapes = self.output_shapes(&shapes, given)?;
        let mut outputs = Vec::with_capacity(output_shapes.len());
        for (buffer, shape) in self.buffers(BufferKind::Output).zip(&output_shapes) {
            outputs.push(Buffer::zeros(buffer.dtype, shape)?);
        }
        let mut views: Vec<ViewMut<'_>> = outputs.iter_mut().map(Buffer::view_mut).collect();
        let report = self.call_into(inputs, &mut views, given)?;
        drop(views);
        Ok((outputs, report))
    }

    /// Calls the function; outputs are written into the caller's memory.
    ///
    /// Inputs and outputs come in the order of the signature; `given` are sizes beyond what the shapes say. A size that
    /// neither says is the plan's default.
    ///
    /// Errors: another number of arrays, an element type or shape that differs from the signature, sizes out of bounds,
    /// memory that is not there. Nothing is written then, unless a plan leaves its own buffers, which is a bug.
    pub fn call_into(
        &self,
        inputs: &[View<'_>],
        outputs: &mut [ViewMut<'_>],
        given: &SizeEnv,
    ) -> Result<CallReport, Diagnostics> {
        self.run(inputs, outputs, given, None)
    }

    /// [`Executable::call_into`], telling `trace` after every launch when it began and ended.
    ///
    /// Errors: as [`Executable::call_into`].
    pub fn call_traced(
        &self,
        inputs: &[View<'_>],
        outputs: &mut [ViewMut<'_>],
        given: &SizeEnv,
        trace: &mut dyn FnMut(Launched),
    ) -> Result<CallReport, Diagnostics> {
        self.run(inputs, outputs, given, Some(trace))
    }

    fn run(
        &self,
        inputs: &[View<'_>],
        outputs: &mut [ViewMut<'_>],
        given: &SizeEnv,
        trace: Option<&mut dyn FnMut(Launched)>,
    ) -> Result<CallReport, Diagnostics> {
        self.check_inputs(inputs)?;
        let shapes: Vec<Vec<i64>> = inputs.iter().map(|view| view.shape().to_vec()).collect();
        let resolved = self.resolved(&shapes, given)?;
        self.check_outputs(outputs, &resolved)?;
        let n_launches = self.workspaces.with(&resolved, self.pool.n_threads(), |workspace| {
            let mut starts: Vec<*mut u8> = inputs.iter().map(|view| view.start().as_ptr()).collect();
            starts.extend(outputs.iter().map(|view| view.start().as_ptr()));
            starts.extend(self.program.buffers.iter().filter_map(|buffer| match buffer.kind {
                BufferKind::Temp(slot) => Some(workspace.slots[slot as usize].start().as_ptr()),
                _ => None,
            }));
            // Shorter lived: what the call borrows lives only here.
            let trace = trace.map(|trace| -> &mut dyn FnMut(Launched) { trace });
            // SAFETY: `starts` has one pointer per buffer, in order, to the bytes that `resolved` gives each: checked above
            // for the caller's, and made so for the workspace's. The entries belong to the plan's kernels.
            unsafe {
                Call::new(&resolved, &self.entries, &self.pool, starts, &workspace.scratch, trace).run()
            }
        })?;
        Ok(CallReport { sizes: resolved.sizes.clone(), memory: self.memory_of(&resolved), n_launches })
    }

    /// Gives back the memory kept for further calls.
    pub fn release_memory(&self) {
        self.workspaces.clear();
    }

    fn buffers(&self, kind: BufferKind) -> impl Iterator<Item = &plan::Buffer> {
        self.program.buffers.iter().filter(move |buffer| buffer.kind == kind)
    }

    fn check_inputs(&self, inputs: &[View<'_>]) -> Result<(), Diagnostics> {
        let expected = self.buffers(BufferKind::Input).count();
        if expected != inputs.len() {
            return Err(input_error(format!("{expected} inputs are expected, found {}", inputs.len())).into());
        }
        let mut errors = Vec::new();
        for (buffer, view) in self.buffers(BufferKind::Input).zip(inputs) {
            if buffer.dtype != view.dtype() {
                let (name, ty) = (&buffer.name, TensorType::new(buffer.dtype, buffer.shape.clone()));
                errors.push(input_error(format!("the input `{name}` must be {ty}, found {}", view.dtype())));
            }
        }
        Diagnostics(errors).into_result(())
    }

    fn check_outputs(&self, outputs: &[ViewMut<'_>], resolved: &Resolved) -> Result<(), Diagnostics> {
        let first = self.buffers(BufferKind::Input).count();
        let expected = self.buffers(BufferKind::Output).count();
        if expected != outputs.len() {
            return Err(
                input_error(format!("{expected} outputs are expected, found {}", outputs.len())).into()
            );
        }
        let mut errors = Vec::new();
        for ((buffer, shape), view) in
            self.program.buffers.iter().zip(&resolved.shapes).skip(first).zip(outputs)
        {
            if buffer.dtype != view.dtype() || shape != view.shape() {
                let message = format!(
                    "the output `{}` is {}{shape:?}, the memory given for it is {}{:?}",
                    buffer.name,
                    buffer.dtype,
                    view.dtype(),
                    view.shape()
                );
                errors.push(input_error(message));
            }
        }
        Diagnostics(errors).into_result(())
    }

    /// The plan at the sizes of these shapes, from memory where they occurred before.
    fn resolved(&self, input_shapes: &[Vec<i64>], given: &SizeEnv) -> Result<Arc<Resolved>, Diagnostics> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let known = plans.iter().position(|plan| plan.input_shapes == input_shapes && plan.given == *given);
        if let Some(idx) = known {
            return Ok(plans[idx].resolved.clone());
        }
        // A call with new sizes must not hold up others; the worst that comes of it is that two calls resolve the same.
        drop(plans);
        let types: Vec<(Sym, TensorType)> = self
            .buffers(BufferKind::Input)
            .map(|buffer| (buffer.name.clone(), TensorType::new(buffer.dtype, buffer.shape.clone())))
            .collect();
        let mut sizes = solve_sizes(&types, input_shapes, given)?;
        for decl in &self.program.sizes {
            if let Some(default) = decl.default {
                sizes.entry(decl.name.clone()).or_insert(default);
            }
        }
        let resolved = Arc::new(resolve(&self.program, &sizes)?);
        // Sizes that came from a default were not held against the shapes yet.
        for (((name, ty), expected), found) in types.iter().zip(&resolved.shapes).zip(input_shapes) {
            if expected != found {
                let message =
                    format!("the input `{name}` is {ty}, of shape {expected:?} here, found {found:?}");
                return Err(input_error(message).into());
            }
        }
        plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.len() >= REMEMBERED_PLANS {
            plans.remove(0);
        }
        let (input_shapes, given) = (input_shapes.to_vec(), given.clone());
        plans.push(RememberedPlan { input_shapes, given, resolved: resolved.clone() });
        Ok(resolved)
    }

    fn memory_of(&self, resolved: &Resolved) -> Memory {
        let sum_of = |kind: BufferKind| {
            let sized = self.program.buffers.iter().zip(&resolved.buffer_bytes);
            sized
                .filter(|(buffer, _)| buffer.kind == kind)
                .fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes))
        };
        Memory {
            input_bytes: sum_of(BufferKind::Input),
            output_bytes: sum_of(BufferKind::Output),
            temp_bytes: resolved.slot_bytes.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes)),
            scratch_bytes: resolved.scratch_bytes.saturating_mul(self.pool.n_threads() as u64),
        }
    }
}

fn input_error(message: String) -> Diagnostic {
    Diagnostic::input(Span::NONE, message)
}
