//! What a function can be compiled for, and what is missing where it cannot.

use birkhoff_ir::diag::Diagnostic;
use std::fmt;

/// What a build with the back ends through LLVM takes.
const INSTALL: &str = "install LLVM and MLIR 19 (Debian and Ubuntu: apt-get install g++ llvm-19-dev libmlir-19-dev libclang1-19 \
     libclang-common-19-dev zlib1g-dev libzstd-dev) and build again with `cargo build --release --features ptx`";

/// Who runs a compiled function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum Target {
    /// The evaluator of the tensor IR: slow and obvious, the definition of every op.
    Eval,
    /// The evaluator of the kernel IR, on the scheduled kernels: slow, checks every access, counts bytes.
    KernelEval,
    /// Machine code of this processor, through Cranelift.
    #[default]
    Cpu,
    /// Machine code of this processor, through LLVM.
    CpuLlvm,
    /// PTX text; it compiles, nothing runs it.
    Ptx,
    /// PTX text, interpreted on this processor.
    PtxSim,
    /// PTX on a GPU.
    Cuda,
}

impl Target {
    /// Every target.
    pub const ALL: [Target; 7] = [
        Target::Eval,
        Target::KernelEval,
        Target::Cpu,
        Target::CpuLlvm,
        Target::Ptx,
        Target::PtxSim,
        Target::Cuda,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Target::Eval => "eval",
            Target::KernelEval => "kernel-eval",
            Target::Cpu => "cpu",
            Target::CpuLlvm => "cpu-llvm",
            Target::Ptx => "ptx",
            Target::PtxSim => "ptx-sim",
            Target::Cuda => "cuda",
        }
    }

    /// The target of that name.
    pub fn from_name(name: &str) -> Option<Target> {
        Target::ALL.into_iter().find(|target| target.name() == name)
    }

    /// True for targets that are machine code of this processor.
    pub fn is_native(self) -> bool {
        matches!(self, Target::Cpu | Target::CpuLlvm)
    }

    /// True for targets whose kernels run in blocks of threads.
    pub fn is_gpu(self) -> bool {
        matches!(self, Target::Ptx | Target::PtxSim | Target::Cuda)
    }

    /// `Ok` if this build and machine have what the target needs.
    ///
    /// Errors: what is missing, and which targets there are.
    pub fn check(self) -> Result<(), Diagnostic> {
        #[cfg(feature = "ptx")]
        if self == Target::Cuda {
            return birkhoff_runtime::device::cuda::Gpu::open(0).map(|_| ());
        }
        let Some(missing) = self.missing() else { return Ok(()) };
        let all = Target::ALL.into_iter();
        let present: Vec<&str> = all.filter(|target| target.missing().is_none()).map(Target::name).collect();
        let mut help = format!("the targets of this build are {}", present.join(", "));
        if matches!(self, Target::CpuLlvm) || self.is_gpu() {
            help += &format!("; for `{self}`, {INSTALL}");
        }
        Err(Diagnostic::device(format!(
            "the target `{self}` needs {missing}, which this build does not have"
        ))
        .help(help))
    }

    /// What this build lacks for the target.
    fn missing(self) -> Option<&'static str> {
        match self {
            Target::Eval | Target::KernelEval | Target::Cpu => None,
            Target::CpuLlvm | Target::Ptx | Target::PtxSim | Target::Cuda if cfg!(feature = "ptx") => None,
            Target::CpuLlvm => Some("the LLVM back end for this processor"),
            Target::Ptx => Some("the PTX back end (MLIR and LLVM)"),
            Target::PtxSim => Some("the PTX back end (MLIR and LLVM) and its simulator"),
            Target::Cuda => Some("the PTX back end (MLIR and LLVM)"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
