//! Kernels to PTX, through MLIR and LLVM.
//!
//! In: verified kernels. Out: the text of a PTX module with an entry per kernel, and how each is launched ([`KernelInfo`]).
//!
//! **Mapping.** A block of threads computes one tile, and further ones if the grid is smaller than the tiles are many; tiles are
//! numbered in 64 bits. The block has as many threads as the widest lane loop has lanes. A lane of a chunk is a thread; what is
//! outside lane loops is computed by all threads alike, and stored by the first. Register arrays are registers of each thread,
//! tile memory is shared memory, or where that is too small, a workspace in global memory. Threads meet at a barrier wherever one could touch what another has written, or write what
//! another has read, since the last barrier (`hazard.rs`), and nowhere else. Lane reductions combine by halves, across warps
//! through shared memory and within them by shuffles: results are those of the kernel evaluator to the bit.
//!
//! **Parameters** of an entry: pointers to global memory, one per parameter of the kernel and in its order, then run-time sizes
//! as 64-bit integers, then the workspace if the kernel needs one.
//!
//! `emit` walks statements, `lanes` maps lane loops, `reduce` combines what lanes have summed, `hazard` places barriers, `regs` and `memory` reach elements, `neighbours` several at once, `scalar` names
//! operations, `layout` lays out shared memory, `build` appends MLIR that is not `known` yet, `control` its regions, `translate` is the way from there to PTX.
//! Deliberately absent: decisions (order, widths, tiles and places stand in the kernel), libdevice, and LLVM's functions that
//! NVPTX cannot select: an operation that is not in `scalar` is refused before LLVM sees it.

mod build;
mod control;
mod emit;
mod hazard;
mod known;
mod lanes;
mod layout;
pub mod manifest;
mod memory;
mod module;
mod neighbours;
mod reduce;
mod regs;
mod scalar;
pub mod traffic;
mod translate;

pub use layout::MAX_SHARED_BYTES;
pub use module::{compile, compile_program};

use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::kernel::{Func, Var};
use std::collections::BTreeMap;
use std::time::Duration;

/// Most threads of a block.
pub const MAX_THREADS: u32 = 1024;

/// What the address of every buffer of a program is a multiple of: the widest access.
pub const BUFFER_ALIGN_BYTES: u64 = 16;

/// A GPU architecture, such as `sm_90`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arch(String);

impl Arch {
    /// The architectures that this back end is checked for.
    pub const NAMES: [&'static str; 4] = ["sm_80", "sm_86", "sm_89", "sm_90"];

    /// The architecture of that name.
    ///
    /// Errors: one that this back end does not know.
    pub fn new(name: &str) -> Result<Arch, Diagnostic> {
        if Arch::NAMES.contains(&name) {
            return Ok(Arch(name.to_string()));
        }
        let message = format!("the PTX back end does not know the architecture `{name}`");
        let known = Arch::NAMES.join(", ");
        Err(Diagnostic::unsupported(message)
            .help(format!("it knows {known}; newer GPUs run the PTX of sm_90")))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Default for Arch {
    fn default() -> Arch {
        Arch("sm_80".to_string())
    }
}

/// What to make.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// The architecture.
    pub arch: Arch,
    /// Keep the texts of MLIR and LLVM IR.
    pub listings: bool,
}

/// A module of compiled kernels.
#[derive(Clone, Debug)]
pub struct Image {
    /// The text of the module.
    pub ptx: String,
    /// One per kernel, in order.
    pub kernels: Vec<KernelInfo>,
    /// The modules of the kernels in MLIR, as they were built; empty unless [`Options::listings`] asked for it.
    pub mlir: String,
    /// The modules of the kernels in LLVM IR, optimised; empty unless [`Options::listings`] asked for it.
    pub llvm: String,
    /// What each step took, all kernels together: they compile at the same time, so it may be more than the time that passed.
    pub timings: Vec<(&'static str, Duration)>,
}

/// How a compiled kernel is launched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelInfo {
    /// The name of its entry.
    pub entry: String,
    /// Threads of a block, all along x.
    pub threads: u32,
    /// What the address of each array parameter has to be a multiple of, in bytes.
    pub align_bytes: Vec<u64>,
    /// Shared memory of a block, all static, in bytes.
    pub shared_bytes: u64,
    /// Bytes of the workspace that each block needs: the sum of these, each rounded up to a multiple of 16. If there are any, a
    /// pointer to the memory of all blocks together comes after the run-time sizes.
    pub workspace: Vec<Dim>,
    /// Extent and tile of each batch axis. There is a tile for each combination of `ceil(extent / tile)` along every axis, and
    /// any number of blocks along x from 1 on computes them all.
    pub grid: Vec<(Dim, u32)>,
    /// How each lane loop is mapped, by its variable.
    pub lane_loops: BTreeMap<Var, LaneMode>,
}

/// How threads run a lane loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LaneMode {
    /// The chunks together, then the remaining iterations one by one.
    Together,
    /// Each thread the iterations of its lane, the remaining ones among them.
    Apart,
    /// Now this, now that: an unrolled loop around it makes a difference.
    Mixed,
}

/// What one launch takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaunchSize {
    /// Blocks along x; 0 if there is nothing to compute.
    pub blocks: u32,
    /// Bytes of the workspace, whose contents do not matter.
    pub workspace_bytes: u64,
}

/// What emission may count on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Limits<'k> {
    /// Threads of a block.
    threads: u32,
    /// What the address of each parameter is a multiple of.
    align_bytes: &'k [u64],
}

fn unsupported(func: &Func, what: &str) -> Diagnostic {
    Diagnostic::unsupported(format!("the PTX back end cannot compile kernel `{}`: {what}", func.name))
}
