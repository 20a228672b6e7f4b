//! What a compiled program consists of, to be written beside its PTX.

use super::traffic::{Moved, predict};
use super::{Image, Options};
use crate::table;
pub use crate::table::{AxisEntry, BufferEntry, SizeEntry};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::kernel::{Access, Func};
use birkhoff_ir::plan::{Program, Step};
use serde::Serialize;
use std::collections::BTreeMap;

/// The manifest of one program. Sizes and shapes are polynomials of the run-time sizes, as in IR text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Manifest {
    /// Version of the compiler that made it.
    pub birkhoff: String,
    /// The function's name.
    pub program: String,
    /// The architecture.
    pub arch: String,
    /// Run-time sizes in signature order.
    pub sizes: Vec<SizeEntry>,
    /// All arrays: inputs, outputs, temporaries.
    pub buffers: Vec<BufferEntry>,
    /// Bytes of each slot of temporaries: the largest of these.
    pub slots: Vec<Vec<String>>,
    /// All kernels, in the order of the plan's table.
    pub kernels: Vec<KernelEntry>,
    /// What happens, in order.
    pub steps: Vec<StepEntry>,
    /// The values of the run-time sizes for which bytes are told.
    pub bytes_at: BTreeMap<String, i64>,
}

/// One kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KernelEntry {
    /// Its name in the plan.
    pub name: String,
    /// Its entry in the PTX.
    pub entry: String,
    /// Parameters in order: pointers to global memory, sizes as 64-bit integers, the workspace.
    pub params: Vec<ParamEntry>,
    /// Batch axes, outermost first.
    pub grid: Vec<AxisEntry>,
    /// Blocks: the product of these, each `ceil(extent / tile)`; fewer, from 1 on, do as well. All along x.
    pub blocks: String,
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Static shared memory of a block, in bytes.
    pub shared_bytes: u64,
    /// Bytes of the workspace that each block needs: the sum of these, each rounded up to a multiple of 16.
    pub workspace_bytes: Vec<String>,
    /// Bytes that one launch moves.
    pub bytes: ByteEntry,
}

/// A parameter of an entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ParamEntry {
    /// Its name.
    pub name: String,
    /// `pointer`, `size`, or `workspace`: a pointer to the memory of all blocks, whose contents do not matter.
    pub kind: String,
    /// Storage type; `i64` for a size.
    pub dtype: String,
    /// Extents of an array.
    pub shape: Vec<String>,
    /// `read`, `write` or `read_write`.
    pub access: String,
    /// What the address is a multiple of.
    pub align_bytes: u64,
}

/// Bytes of global memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ByteEntry {
    /// Each element once.
    pub edge: u64,
    /// What blocks load and store: an element that several threads of a block load by one instruction counts once.
    pub issued: u64,
    /// Of these kinds, those of the workspace, which caches may hold.
    pub workspace: u64,
}

/// One step of the plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum StepEntry {
    /// Launches a kernel.
    Launch {
        /// Position in the table of kernels.
        kernel: u32,
        /// For each array parameter, its buffer and the elements to skip.
        args: Vec<ArgEntry>,
    },
    /// Runs `body` `trip` times.
    Loop {
        /// The counter, from 0, which occurs in offsets.
        var: String,
        /// Number of iterations.
        trip: String,
        /// Its steps.
        body: Vec<StepEntry>,
        /// Pairs of buffers that exchange their memory after every iteration.
        swaps: Vec<[u32; 2]>,
    },
    /// Runs `body` if the bool in a buffer is false; the host reads it.
    Unless {
        /// Position in the table of buffers.
        flag: u32,
        /// Its steps.
        body: Vec<StepEntry>,
    },
}

/// An argument of a launch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ArgEntry {
    /// Position in the table of buffers.
    pub buffer: u32,
    /// Elements to skip.
    pub offset: String,
}

/// The manifest of `program`, with bytes at `sizes`.
///
/// Errors: a size without a value, a contraction that a library would have to do (unsupported).
pub fn manifest(
    program: &Program,
    image: &Image,
    options: &Options,
    sizes: &SizeEnv,
) -> Result<Manifest, Diagnostic> {
    let kernels = program.kernels.iter().zip(&image.kernels);
    let kernels: Result<Vec<KernelEntry>, Diagnostic> =
        kernels.map(|(func, info)| Ok(kernel(func, info, &predict(func, info, sizes)?))).collect();
    Ok(Manifest {
        birkhoff: env!("CARGO_PKG_VERSION").to_string(),
        program: program.name.to_string(),
        arch: options.arch.name().to_string(),
        sizes: table::sizes(program),
        buffers: table::buffers(program),
        slots: program.slots.iter().map(|slot| table::shape(slot)).collect(),
        kernels: kernels?,
        steps: steps(&program.steps)?,
        bytes_at: sizes.iter().map(|(name, value)| (name.to_string(), *value)).collect(),
    })
}

fn kernel(func: &Func, info: &super::KernelInfo, moved: &Moved) -> KernelEntry {
    let arrays = func.params.iter().zip(&info.align_bytes).map(|(param, align_bytes)| ParamEntry {
        name: param.name.to_string(),
        kind: "pointer".to_string(),
        dtype: param.dtype.to_string(),
        shape: table::shape(&param.shape),
        access: match param.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::ReadWrite => "read_write",
        }
        .to_string(),
        align_bytes: *align_bytes,
    });
    let sizes = func.sizes.iter().map(|name| ParamEntry {
        name: name.to_string(),
        kind: "size".to_string(),
        dtype: "i64".to_string(),
        shape: vec![],
        access: "read".to_string(),
        align_bytes: 8,
    });
    let workspace = (!info.workspace.is_empty()).then(|| ParamEntry {
        name: "workspace".to_string(),
        kind: "workspace".to_string(),
        dtype: "bool".to_string(),
        shape: vec![],
        access: "read_write".to_string(),
        align_bytes: 16,
    });
    let blocks: Vec<String> =
        func.grid.iter().map(|axis| format!("ceil(({}) / {})", axis.extent, axis.tile)).collect();
    KernelEntry {
        name: func.name.to_string(),
        entry: info.entry.clone(),
        params: arrays.chain(sizes).chain(workspace).collect(),
        grid: table::axes(func),
        blocks: if blocks.is_empty() { "1".to_string() } else { blocks.join(" * ") },
        block: [info.threads, 1, 1],
        shared_bytes: info.shared_bytes,
        workspace_bytes: table::shape(&info.workspace),
        bytes: ByteEntry {
            edge: moved.params.edge_bytes(),
            issued: moved.params.issued_bytes(),
            workspace: moved.workspace_read.saturating_add(moved.workspace_written),
        },
    }
}

/// A plan for a GPU has no steps that a library of the host would have to do.
pub fn no_library() -> Diagnostic {
    Diagnostic::unsupported("on a GPU no library does the contractions of a plan")
        .help("schedule the function without library contractions")
}

fn steps(list: &[Step]) -> Result<Vec<StepEntry>, Diagnostic> {
    let mut entries = vec![];
    for step in list {
        entries.push(match step {
            Step::Launch { kernel, args } => StepEntry::Launch {
                kernel: *kernel,
                args: args
                    .iter()
                    .map(|arg| ArgEntry { buffer: arg.buffer.0, offset: arg.offset.to_string() })
                    .collect(),
            },
            Step::Loop { var, trip, body, swaps } => StepEntry::Loop {
                var: var.to_string(),
                trip: trip.to_string(),
                body: steps(body)?,
                swaps: swaps.iter().map(|(a, b)| [a.0, b.0]).collect(),
            },
            Step::Unless { flag, body } => StepEntry::Unless { flag: flag.0, body: steps(body)? },
            // A device runs step after step.
            Step::Rows { body, .. } => {
                entries.extend(steps(body)?);
                continue;
            }
            Step::Contract(_) => return Err(no_library()),
        });
    }
    Ok(entries)
}
