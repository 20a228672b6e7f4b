//! How a spec is compiled, and the stages on the way.

use crate::target::Target;
use birkhoff_compiler::eqsat::Math;
use birkhoff_runtime::Pool;

/// How a spec is compiled.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who runs the result.
    pub target: Target,
    /// The GPU architecture, such as `sm_90`; without this, the oldest that is supported, whose code newer GPUs run.
    pub arch: Option<String>,
    /// Which rewrites are allowed.
    pub math: Math,
    /// The threads it runs on; without this, a pool of its own with one thread per core.
    pub pool: Option<Pool>,
    /// Verify the IR after every pass; by default in debug builds.
    pub verify: bool,
    /// Keep the back end's texts for inspection.
    pub listings: bool,
    /// Let a library do large contractions, where the result runs in this process; else kernels do all.
    pub library_contractions: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            target: Target::Cpu,
            arch: None,
            math: Math::Default,
            pool: None,
            verify: cfg!(debug_assertions),
            listings: false,
            library_contractions: true,
        }
    }
}

/// A stage of compilation, in order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// The bound module.
    Tensor,
    /// The function with its derivatives written out.
    Grad,
    /// The module after equality saturation.
    Eqsat,
    /// What fused, and the bytes it moves.
    Schedule,
    /// The kernels.
    Kernel,
    /// The plan with its kernels.
    Plan,
    /// Cranelift IR.
    Clif,
    /// Assembly of this processor.
    Asm,
    /// MLIR, on the way to PTX.
    Mlir,
    /// LLVM IR.
    Llvm,
    /// PTX.
    Ptx,
}

impl Stage {
    /// Every stage.
    pub const ALL: [Stage; 11] = [
        Stage::Tensor,
        Stage::Grad,
        Stage::Eqsat,
        Stage::Schedule,
        Stage::Kernel,
        Stage::Plan,
        Stage::Clif,
        Stage::Asm,
        Stage::Mlir,
        Stage::Llvm,
        Stage::Ptx,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Tensor => "tensor",
            Stage::Grad => "grad",
            Stage::Eqsat => "eqsat",
            Stage::Schedule => "schedule",
            Stage::Kernel => "kernel",
            Stage::Plan => "plan",
            Stage::Clif => "clif",
            Stage::Asm => "asm",
            Stage::Mlir => "mlir",
            Stage::Llvm => "llvm",
            Stage::Ptx => "ptx",
        }
    }

    /// The stage of that name.
    pub fn from_name(name: &str) -> Option<Stage> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// True for the stages on the way from kernels to PTX.
    pub fn is_of_ptx(self) -> bool {
        matches!(self, Stage::Mlir | Stage::Llvm | Stage::Ptx)
    }

    /// What is being done to reach it, for a progress line.
    pub fn doing(self) -> &'static str {
        match self {
            Stage::Tensor => "binding",
            Stage::Grad => "differentiating",
            Stage::Eqsat => "saturating",
            Stage::Schedule | Stage::Kernel | Stage::Plan => "scheduling",
            Stage::Clif | Stage::Asm | Stage::Mlir | Stage::Llvm | Stage::Ptx => "emitting",
        }
    }
}
