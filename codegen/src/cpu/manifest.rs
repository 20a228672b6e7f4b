//! What a compiled program consists of, to be written beside its object.

use super::entry::{STATUS, Symbols, caller_buffers, tile_bytes};
use super::{header, isa};
use crate::table;
pub use crate::table::{AxisEntry, BufferEntry, SizeEntry};
use birkhoff_ir::kernel::abi::SCRATCH_ALIGN_BYTES;
use birkhoff_ir::kernel::{Access, Func};
use birkhoff_ir::plan::Program;
use cranelift_codegen::isa::TargetIsa;
use serde::Serialize;

/// The manifest of one program. Sizes and shapes are polynomials of the run-time sizes, as in IR text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Manifest {
    /// Version of the compiler that made it.
    pub birkhoff: String,
    /// The function's name.
    pub program: String,
    /// The machine, as a target triple.
    pub target: String,
    /// Processor features that the code needs, by Cranelift's names.
    pub features: Vec<String>,
    /// The C function that runs the program.
    pub entry: EntryPoint,
    /// Memory that a run needs.
    pub workspace: Workspace,
    /// Run-time sizes in signature order.
    pub sizes: Vec<SizeEntry>,
    /// All arrays: inputs, outputs, temporaries.
    pub buffers: Vec<BufferEntry>,
    /// All kernels, in the order of the plan's table.
    pub kernels: Vec<KernelEntry>,
}

/// The C function that runs the program.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct EntryPoint {
    /// Its symbol.
    pub symbol: String,
    /// Names of its parameters in order, as in the header.
    pub params: Vec<String>,
    /// What it returns.
    pub status: Vec<Status>,
}

/// A return value and its meaning.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Status {
    /// The value.
    pub value: i64,
    /// What it says.
    pub meaning: String,
}

/// Memory that a run needs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Workspace {
    /// The C function that gives its bytes.
    pub symbol: String,
    /// Its alignment.
    pub align_bytes: u64,
    /// Bytes of each slot: the largest of these, rounded up to the alignment.
    pub slots: Vec<Vec<String>>,
}

/// One kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KernelEntry {
    /// Its name.
    pub name: String,
    /// Its symbol, a function of `birkhoff_kernel` in the header.
    pub symbol: String,
    /// Run-time sizes in call order.
    pub sizes: Vec<String>,
    /// Parameters in call order.
    pub params: Vec<ParamEntry>,
    /// Batch axes, outermost first.
    pub grid: Vec<AxisEntry>,
    /// Scratch memory of a call: the sum of these bytes, each rounded up to the workspace's alignment.
    pub scratch_bytes: Vec<String>,
}

/// A parameter of a kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ParamEntry {
    /// Its name.
    pub name: String,
    /// Storage type.
    pub dtype: String,
    /// Extents.
    pub shape: Vec<String>,
    /// `read`, `write` or `read_write`.
    pub access: String,
}

/// The manifest of `program`.
pub(super) fn manifest(program: &Program, symbols: &Symbols, isa: &dyn TargetIsa) -> Manifest {
    let status = STATUS.map(|(value, meaning)| Status { value, meaning: meaning.to_string() });
    let kernels = program.kernels.iter().zip(&symbols.kernels);
    debug_assert_eq!(
        header::param_names(program).len(),
        caller_buffers(program).len() + program.sizes.len() + 1
    );
    Manifest {
        birkhoff: env!("CARGO_PKG_VERSION").to_string(),
        program: program.name.to_string(),
        target: isa.triple().to_string(),
        features: isa::features(isa),
        entry: EntryPoint {
            symbol: symbols.run.clone(),
            params: header::param_names(program),
            status: status.to_vec(),
        },
        workspace: Workspace {
            symbol: symbols.workspace.clone(),
            align_bytes: SCRATCH_ALIGN_BYTES,
            slots: program.slots.iter().map(|slot| table::shape(slot)).collect(),
        },
        sizes: table::sizes(program),
        buffers: table::buffers(program),
        kernels: kernels.map(|(kernel, symbol)| kernel_entry(kernel, symbol)).collect(),
    }
}

fn kernel_entry(kernel: &Func, symbol: &str) -> KernelEntry {
    let params = kernel.params.iter().map(|param| ParamEntry {
        name: param.name.to_string(),
        dtype: param.dtype.to_string(),
        shape: table::shape(&param.shape),
        access: match param.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::ReadWrite => "read_write",
        }
        .to_string(),
    });
    KernelEntry {
        name: kernel.name.to_string(),
        symbol: symbol.to_string(),
        sizes: kernel.sizes.iter().map(|name| name.to_string()).collect(),
        params: params.collect(),
        grid: table::axes(kernel),
        scratch_bytes: table::shape(&tile_bytes(kernel)),
    }
}
