//! Plans as PTX on the simulated device, with what each launch did.
//!
//! In: a plan and its sizes. Out: its kernels, and counts of each launch. The plan is run by the runtime, as for users.

use birkhoff::{Buffer as Array, Cotangents, Gradient, Loops, Options, Spec, Stage, Target, lower};
use birkhoff_codegen::ptx::{self, Image};
use birkhoff_ir::diag::{Diagnostic, Span};
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::Func;
use birkhoff_ir::plan::{Buffer, BufferKind, Program};
use birkhoff_runtime::device::{DeviceImage, DeviceProgram, LaunchShape};
use birkhoff_runtime::ptx_sim::{self, Counts, Module, Orders, SimulatedDevice};
use birkhoff_runtime::{View, ViewMut};

/// The options of a simulated GPU.
pub fn options() -> Options {
    Options { target: Target::PtxSim, ..Options::default() }
}

/// The plan of the spec's function on a GPU; `None` if no target has kernels for it.
pub fn program(spec: &Spec) -> Option<Program> {
    lower(spec, &options(), Stage::Plan, &mut |_| ()).ok().and_then(|stages| stages.program)
}

/// The function with its values and its gradients with respect to all inputs that have some; `None` if there are none.
pub fn gradient(spec: &Spec) -> Option<Spec> {
    let program = program(spec)?;
    let inputs = program.buffers.iter().filter(|buffer| buffer.kind == BufferKind::Input);
    let wrt: Vec<String> =
        inputs.filter(|buffer| buffer.dtype.is_float()).map(|buffer| buffer.name.to_string()).collect();
    let gradient = Gradient { wrt, cotangents: Cotangents::All, values: true, loops: Loops::Auto };
    if gradient.wrt.is_empty() { None } else { spec.clone().differentiated(&gradient).ok() }
}

/// The kernels of a plan as PTX.
pub fn image(program: &Program) -> Image {
    ptx::compile_program(program, &ptx::Options::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// How the kernels of an image are launched.
struct Kernels(Image);

impl DeviceImage for Kernels {
    fn launch_shape(&self, idx: usize, kernel: &Func, sizes: &SizeEnv) -> Result<LaunchShape, Diagnostic> {
        let info = &self.0.kernels[idx];
        let size = info.launch_size(kernel, sizes);
        let size = size.map_err(|error| Diagnostic::input(Span::NONE, error.to_string()))?;
        let (entry, threads) = (info.entry.clone(), info.threads);
        Ok(LaunchShape { entry, blocks: size.blocks, threads, workspace_bytes: size.workspace_bytes })
    }
}

/// Runs a plan on inputs of small numbers, its kernels taken from the PTX `text`; gives kernel and counts of every launch.
///
/// Errors: what the simulated device finds.
pub fn run(
    program: &Program,
    sizes: &SizeEnv,
    image: &Image,
    text: &str,
) -> Result<Vec<(usize, Counts)>, String> {
    let module = Module::parse(text).map_err(|errors| format!("{errors}"))?;
    let options = ptx_sim::Options { block_loads: true, orders: Orders::Forward, ..Default::default() };
    let mut device = SimulatedDevice::new(&module, options);
    let shape = |buffer: &Buffer| -> Vec<i64> {
        buffer.shape.iter().map(|dim| dim.eval(sizes).expect("a size")).collect()
    };
    let of_kind = |kind: BufferKind| program.buffers.iter().filter(move |buffer| buffer.kind == kind);
    let filled = |buffer: &Buffer| {
        let shape = shape(buffer);
        let bytes = elements(buffer.dtype, shape.iter().product());
        Array::from_bytes(&bytes, buffer.dtype, &shape).expect("memory")
    };
    let given: Vec<Array> = of_kind(BufferKind::Input).map(filled).collect();
    let inputs: Vec<View<'_>> = given.iter().map(Array::view).collect();
    let empty = |buffer: &Buffer| Array::zeros(buffer.dtype, &shape(buffer)).expect("memory");
    let mut taken: Vec<Array> = of_kind(BufferKind::Output).map(empty).collect();
    let mut outputs: Vec<ViewMut<'_>> = taken.iter_mut().map(Array::view_mut).collect();
    let kernels = Box::new(Kernels(image.clone()));
    let plan = DeviceProgram::new(program.clone(), kernels).unwrap_or_else(|errors| panic!("{errors}"));
    plan.call_into(&mut device, &inputs, &mut outputs, sizes, false)
        .map_err(|errors| format!("{errors:?}"))?;
    let kernel = |entry: &str| image.kernels.iter().position(|info| info.entry == entry).expect("an entry");
    Ok(device.counts().iter().map(|(entry, counts)| (kernel(entry), *counts)).collect())
}

/// Small numbers, all of the same few: not so small that sums of them vanish, and no integer beyond the least size.
fn elements(dtype: DType, n_elems: i64) -> Vec<u8> {
    let value = |idx: i64| 0.125 + (idx * 37 % 101) as f64 / 404.0;
    let bytes = |idx: i64| match dtype {
        DType::F64 => value(idx).to_le_bytes().to_vec(),
        DType::F32 => (value(idx) as f32).to_le_bytes().to_vec(),
        // The upper half of an f32 is a bf16.
        DType::Bf16 => (value(idx) as f32).to_le_bytes()[2..].to_vec(),
        DType::F16 => 0x3400_u16.to_le_bytes().to_vec(),
        DType::I64 => 0_i64.to_le_bytes().to_vec(),
        DType::I32 => 0_i32.to_le_bytes().to_vec(),
        DType::Bool => vec![u8::from(idx % 2 == 0)],
    };
    (0..n_elems).flat_map(bytes).collect()
}
