//! Who runs a compiled function: machine code, a device, or one of the evaluators.
//!
//! In: inputs in signature order, sizes. Out: outputs written. The evaluators define what the machine code must do; here they
//! are made callable in the same way.

use crate::elements::{fill, scalars};
use crate::signature::Signature;
use birkhoff_codegen::cpu::{self, Listing};
#[cfg(feature = "ptx")]
use birkhoff_codegen::llvm;
use birkhoff_ir::diag::{Diagnostic, Diagnostics, Span};
use birkhoff_ir::dim::{SizeEnv, Sym};
use birkhoff_ir::kernel::abi::KernelFn;
use birkhoff_ir::kernel::eval::Array;
use birkhoff_ir::plan::{self, Program};
use birkhoff_ir::scalar::Scalar;
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_ir::tensor::{FuncId, Module, TensorType};
use birkhoff_runtime::{CallReport, Executable, KernelImage, Memory, View, ViewMut};

/// Who runs a compiled function.
pub(crate) enum Engine {
    /// The evaluator of tensor IR.
    Tensor(Module, FuncId),
    /// The evaluator of plans and kernels.
    Kernels(Program),
    /// Machine code in this process.
    Cpu(Executable),
    /// PTX on a GPU, or on the simulated device.
    #[cfg(feature = "ptx")]
    Device(crate::device::DeviceEngine),
}

/// Machine code of this processor, as the runtime wants it.
pub(crate) enum Code {
    /// Made by Cranelift.
    Cranelift(Box<cpu::Image>),
    /// Made by LLVM.
    #[cfg(feature = "ptx")]
    Llvm(llvm::Image),
}

// SAFETY: the image was compiled from the kernels of the program it is joined with, in their order; the back ends follow the
// kernel convention, kernels that verify stay within their parameters, and the code lives and is immutable as long as the
// image.
unsafe impl KernelImage for Code {
    fn entry(&self, kernel_idx: usize) -> Option<KernelFn> {
        match self {
            Code::Cranelift(image) => image.entry(kernel_idx),
            #[cfg(feature = "ptx")]
            Code::Llvm(image) => image.entry(kernel_idx),
        }
    }
}

impl Code {
    /// The texts of the kernels, in order, if they were asked for.
    pub(crate) fn listings(&self) -> &[Listing] {
        match self {
            Code::Cranelift(image) => image.listings(),
            #[cfg(feature = "ptx")]
            Code::Llvm(image) => image.listings(),
        }
    }
}

impl Engine {
    /// Runs the function once.
    pub(crate) fn call_into(
        &self,
        signature: &Signature,
        inputs: &[View<'_>],
        outputs: &mut [ViewMut<'_>],
        given: &SizeEnv,
    ) -> Result<CallReport, Diagnostics> {
        if let Engine::Cpu(executable) = self {
            return executable.call_into(inputs, outputs, given);
        }
        let shapes: Vec<Vec<i64>> = inputs.iter().map(|view| view.shape().to_vec()).collect();
        let sizes = signature.sizes_of(&shapes, given)?;
        check_types(signature, inputs, outputs, &sizes)?;
        #[cfg(feature = "ptx")]
        if let Engine::Device(engine) = self {
            let report = engine.call_into(inputs, outputs, &sizes, false)?;
            return Ok(CallReport { sizes, memory: report.memory, n_launches: report.n_launches });
        }
        let (results, n_launches) = match self {
            Engine::Kernels(program) => run_kernels(program, inputs, &sizes)?,
            Engine::Tensor(module, func) => (run_tensors(module, *func, inputs, &sizes)?, 0),
            Engine::Cpu(_) => (vec![], 0),
            #[cfg(feature = "ptx")]
            Engine::Device(_) => (vec![], 0),
        };
        for (view, values) in outputs.iter_mut().zip(results) {
            fill(view, values.into_iter())?;
        }
        let memory = array_memory(signature, &sizes)?;
        Ok(CallReport { sizes, memory, n_launches })
    }

    /// The memory that a call takes, told without calling it.
    pub(crate) fn memory(
        &self,
        signature: &Signature,
        inputs: &[View<'_>],
        given: &SizeEnv,
    ) -> Result<Memory, Diagnostics> {
        let shapes: Vec<Vec<i64>> = inputs.iter().map(|view| view.shape().to_vec()).collect();
        if let Engine::Cpu(executable) = self {
            return executable.memory(&shapes, given);
        }
        array_memory(signature, &signature.sizes_of(&shapes, given)?).map_err(Diagnostics::from)
    }

    /// The shapes of the outputs of a call.
    pub(crate) fn output_shapes(
        &self,
        signature: &Signature,
        inputs: &[View<'_>],
        given: &SizeEnv,
    ) -> Result<Vec<Vec<i64>>, Diagnostics> {
        let shapes: Vec<Vec<i64>> = inputs.iter().map(|view| view.shape().to_vec()).collect();
        if let Engine::Cpu(executable) = self {
            return executable.output_shapes(&shapes, given);
        }
        let sizes = signature.sizes_of(&shapes, given)?;
        let shapes = signature.outputs.iter().map(|(_, ty)| crate::signature::concrete(ty, &sizes));
        Ok(shapes.collect::<Result<_, Diagnostic>>()?)
    }
}

/// The memory of the arrays alone: evaluators have no plan for theirs.
fn array_memory(signature: &Signature, sizes: &SizeEnv) -> Result<Memory, Diagnostic> {
    let sum = |arrays: &[(Sym, TensorType)]| {
        arrays.iter().try_fold(0u64, |sum, (_, ty)| {
            let shape = crate::signature::concrete(ty, sizes)?;
            let bytes = shape
                .iter()
                .fold(ty.dtype.size_bytes(), |bytes, extent| bytes.saturating_mul((*extent).max(0) as u64));
            Ok::<u64, Diagnostic>(sum.saturating_add(bytes))
        })
    };
    let (input_bytes, output_bytes) = (sum(&signature.inputs)?, sum(&signature.outputs)?);
    Ok(Memory { input_bytes, output_bytes, temp_bytes: 0, scratch_bytes: 0 })
}

fn check_types(
    signature: &Signature,
    inputs: &[View<'_>],
    outputs: &[ViewMut<'_>],
    sizes: &SizeEnv,
) -> Result<(), Diagnostics> {
    let mut errors = Vec::new();
    for ((name, ty), view) in signature.inputs.iter().zip(inputs) {
        if view.dtype() != ty.dtype {
            let message = format!("the input `{name}` must be {ty}, found {}", view.dtype());
            errors.push(Diagnostic::input(Span::NONE, message));
        }
    }
    for ((name, ty), view) in signature.outputs.iter().zip(outputs) {
        let shape = crate::signature::concrete(ty, sizes)?;
        if view.dtype() != ty.dtype || view.shape() != shape {
            let message = format!(
                "the output `{name}` is {}{shape:?}, the memory given for it is {}{:?}",
                ty.dtype,
                view.dtype(),
                view.shape()
            );
            errors.push(Diagnostic::input(Span::NONE, message));
        }
    }
    Diagnostics(errors).into_result(())
}

type Results = Vec<Vec<Scalar>>;

fn run_kernels(
    program: &Program,
    inputs: &[View<'_>],
    sizes: &SizeEnv,
) -> Result<(Results, u64), Diagnostics> {
    let mut arrays = Vec::with_capacity(inputs.len());
    for view in inputs {
        let values: Vec<Scalar> = scalars(view).collect();
        arrays.push(Array::from_scalars(view.dtype(), view.shape(), &values)?);
    }
    let outcome = plan::eval::run(program, sizes, &arrays)?;
    let mut results = Vec::with_capacity(outcome.outputs.len());
    for array in &outcome.outputs {
        let values: Option<Vec<Scalar>> = array.scalars().collect();
        results.push(values.ok_or_else(|| {
            Diagnostic::verify(format!("the plan of `{}` left an output unwritten", program.name))
        })?);
    }
    Ok((results, (outcome.launches.len() + outcome.contracts.len()) as u64))
}

fn run_tensors(
    module: &Module,
    func: FuncId,
    inputs: &[View<'_>],
    sizes: &SizeEnv,
) -> Result<Results, Diagnostics> {
    let mut tensors = Vec::with_capacity(inputs.len());
    for view in inputs {
        let shape = view.shape().iter().map(|extent| *extent as usize).collect();
        let tensor = Tensor::from_scalars(view.dtype(), shape, scalars(view));
        tensors.push(tensor.map_err(|message| Diagnostic::input(Span::NONE, message))?);
    }
    let outputs = eval(module, func, sizes, &tensors)?;
    Ok(outputs.iter().map(|tensor| (0..tensor.len()).map(|idx| tensor.get(idx)).collect()).collect())
}
