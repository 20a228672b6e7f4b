//! PTX on a device: a GPU, or the simulated one.
//!
//! In: a plan. Out: a function that can be called. The plan is run by the runtime, the same for both devices; here it meets the
//! PTX of its kernels, and the architecture is chosen that the GPU has.

use crate::options::Options;
use crate::pipeline::Stages;
use crate::ptx::emit;
use crate::target::Target;
use birkhoff_codegen::ptx::{Arch, Image};
use birkhoff_ir::diag::{Diagnostic, Diagnostics, Span};
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::kernel::Func;
use birkhoff_ir::plan::Program;
use birkhoff_runtime::device::cuda::{Gpu, GpuModule};
use birkhoff_runtime::device::{Device, DeviceImage, DeviceProgram, DeviceReport, LaunchShape};
use birkhoff_runtime::ptx_sim::{self, SimulatedDevice};
use birkhoff_runtime::{View, ViewMut};

/// How the kernels of a module are launched.
struct Kernels(Image);

impl DeviceImage for Kernels {
    fn launch_shape(
        &self,
        kernel_idx: usize,
        kernel: &Func,
        sizes: &SizeEnv,
    ) -> Result<LaunchShape, Diagnostic> {
        let info = self.0.kernels.get(kernel_idx).ok_or_else(|| {
            Diagnostic::verify(format!("the PTX module has no entry for the kernel `{}`", kernel.name))
        })?;
        let size = info.launch_size(kernel, sizes);
        let size = size.map_err(|error| Diagnostic::input(Span::NONE, error.to_string()))?;
        Ok(LaunchShape {
            entry: info.entry.clone(),
            blocks: size.blocks,
            threads: info.threads,
            workspace_bytes: size.workspace_bytes,
        })
    }
}

/// Where kernels are loaded.
enum Loaded {
    Simulated(ptx_sim::Module),
    Gpu(GpuModule),
}

/// A plan whose kernels are loaded on a device.
pub(crate) struct DeviceEngine {
    program: DeviceProgram,
    loaded: Loaded,
}

impl DeviceEngine {
    /// Compiles the kernels of `program` for the target of the options, a GPU or the simulated one, and loads them.
    ///
    /// Errors: no GPU (device), or an op that the back end lacks (unsupported).
    pub(crate) fn new(
        program: Program,
        options: &Options,
        stages: &mut Stages,
    ) -> Result<DeviceEngine, Diagnostics> {
        let (image, loaded) = if options.target == Target::Cuda {
            let gpu = Gpu::open(0)?;
            let arch = match &options.arch {
                Some(_) => options.arch.clone(),
                None => Some(arch_of(gpu.capability())?),
            };
            let image = emit(&program, &Options { arch, ..options.clone() }, stages)?;
            let module = gpu.load(&image.ptx)?;
            (image, Loaded::Gpu(module))
        } else {
            let image = emit(&program, options, stages)?;
            let module = ptx_sim::Module::parse(&image.ptx)?;
            (image, Loaded::Simulated(module))
        };
        Ok(DeviceEngine { program: DeviceProgram::new(program, Box::new(Kernels(image)))?, loaded })
    }

    /// The plan.
    pub(crate) fn program(&self) -> &Program {
        self.program.program()
    }

    /// Calls the function once; `is_timed` asks for the times of launches, which a GPU knows.
    ///
    /// Errors: what the device refuses, or a fault of a kernel.
    pub(crate) fn call_into(
        &self,
        inputs: &[View<'_>],
        outputs: &mut [ViewMut<'_>],
        sizes: &SizeEnv,
        is_timed: bool,
    ) -> Result<DeviceReport, Diagnostics> {
        let mut call =
            |device: &mut dyn Device| self.program.call_into(device, inputs, outputs, sizes, is_timed);
        match &self.loaded {
            Loaded::Simulated(module) => call(&mut SimulatedDevice::new(module, ptx_sim::Options::default())),
            Loaded::Gpu(module) => call(&mut module.session()?),
        }
    }
}

/// The newest architecture that is known and that a GPU of this compute capability runs.
///
/// Errors (device): an older GPU.
fn arch_of((major, minor): (u32, u32)) -> Result<String, Diagnostic> {
    let number = |name: &str| name.trim_start_matches("sm_").parse::<u32>().unwrap_or(u32::MAX);
    let own = 10 * major + minor;
    let runs = Arch::NAMES.into_iter().filter(|name| number(name) <= own);
    runs.max_by_key(|name| number(name)).map(str::to_string).ok_or_else(|| {
        let oldest = Arch::NAMES.into_iter().min_by_key(|name| number(name)).unwrap_or_default();
        Diagnostic::device(format!("the GPU has compute capability {major}.{minor}, which is too old")).help(
            format!("kernels are made for {oldest} and later; the target `ptx-sim` runs them without a GPU"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::arch_of;

    #[test]
    fn a_gpu_gets_the_newest_architecture_that_it_runs() {
        let chosen =
            [(8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (12, 1)].map(|it| arch_of(it).unwrap());
        assert_eq!(chosen, ["sm_80", "sm_86", "sm_86", "sm_89", "sm_90", "sm_90", "sm_90"]);
        assert!(arch_of((7, 5)).is_err());
    }
}
