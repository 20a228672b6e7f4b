//! Rows that the manifests of all back ends have.
//!
//! In: plans and kernels. Out: their sizes, buffers and grids as they are written. Sizes and shapes are polynomials of the
//! run-time sizes, as in IR text.

use birkhoff_ir::dim::Dim;
use birkhoff_ir::kernel::Func;
use birkhoff_ir::plan::{BufferKind, Program};
use serde::Serialize;

/// A run-time size.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SizeEntry {
    /// Its name.
    pub name: String,
    /// Smallest allowed value.
    pub min: i64,
    /// Largest allowed value.
    pub max: i64,
    /// Used where nothing else says.
    pub default: Option<i64>,
}

/// One array.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct BufferEntry {
    /// Its name.
    pub name: String,
    /// Storage type.
    pub dtype: String,
    /// Extents.
    pub shape: Vec<String>,
    /// `input`, `output` or `temp`.
    pub kind: String,
    /// The slot of a temporary.
    pub slot: Option<u32>,
}

/// A batch axis of a kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct AxisEntry {
    /// Its name.
    pub name: String,
    /// Positions along it.
    pub extent: String,
    /// Positions in a tile.
    pub tile: u32,
}

/// The run-time sizes of a plan.
pub(crate) fn sizes(program: &Program) -> Vec<SizeEntry> {
    let entry = |size: &birkhoff_ir::plan::SizeDecl| SizeEntry {
        name: size.name.to_string(),
        min: size.bounds.0,
        max: size.bounds.1,
        default: size.default,
    };
    program.sizes.iter().map(entry).collect()
}

/// The buffers of a plan, in order.
pub(crate) fn buffers(program: &Program) -> Vec<BufferEntry> {
    let entry = |buffer: &birkhoff_ir::plan::Buffer| {
        let (kind, slot) = match buffer.kind {
            BufferKind::Input => ("input", None),
            BufferKind::Output => ("output", None),
            BufferKind::Temp(slot) => ("temp", Some(slot)),
        };
        BufferEntry {
            name: buffer.name.to_string(),
            dtype: buffer.dtype.to_string(),
            shape: shape(&buffer.shape),
            kind: kind.to_string(),
            slot,
        }
    };
    program.buffers.iter().map(entry).collect()
}

/// The batch axes of a kernel.
pub(crate) fn axes(kernel: &Func) -> Vec<AxisEntry> {
    let entry = |axis: &birkhoff_ir::kernel::GridAxis| AxisEntry {
        name: axis.name.to_string(),
        extent: axis.extent.to_string(),
        tile: axis.tile,
    };
    kernel.grid.iter().map(entry).collect()
}

/// Extents as text.
pub(crate) fn shape(dims: &[Dim]) -> Vec<String> {
    dims.iter().map(Dim::to_string).collect()
}
