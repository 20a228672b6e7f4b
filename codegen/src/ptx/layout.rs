//! Where tile memory lies: in shared memory, or in a workspace in global memory.
//!
//! In: a kernel. Out: a place for every tile-local array, and for the memory of lane reductions. Shared memory goes to the
//! smallest arrays first; what does not fit, or has a size that is known only at run time, gets a part of the workspace
//! for each block, which the caches hold.

use super::lanes::WARP;
use super::{KernelInfo, LaunchSize};
use birkhoff_ir::dim::{Dim, DimError, SizeEnv};
use birkhoff_ir::kernel::{ForKind, Func, Local, Space, Stmt, abi};

/// Every array starts at a multiple of this: the widest access.
pub(super) const ALIGN_BYTES: u64 = 16;
/// Shared memory that every device gives a block without being asked for more.
pub const MAX_SHARED_BYTES: u64 = 48 * 1024;
/// Most blocks of a kernel with a workspace: enough to fill the largest GPUs, and a bound on the memory it takes.
const MAX_WORKSPACE_BLOCKS: i64 = 1024;
/// Most blocks of any launch.
const MAX_BLOCKS: i64 = i32::MAX as i64;
/// Lane reductions that go through shared memory together.
pub(super) const SCRATCH_BATCH: usize = 8;

/// Where an array of a kernel lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Home {
    /// In registers.
    Registers,
    /// So many bytes into shared memory.
    Shared(u64),
    /// At that position of [`Layout::workspace`].
    Workspace(usize),
}

/// The memory of one kernel's blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    /// Of each local.
    pub(super) homes: Vec<Home>,
    /// Of the memory for lane reductions, if there are any across warps.
    pub(super) scratch: Option<u64>,
    /// How many bytes into that the results of reductions are.
    pub(super) results_offset: u64,
    /// Bytes of shared memory in all.
    pub(super) shared_bytes: u64,
    /// Bytes of each array in a block's part of the workspace; each starts at a multiple of [`ALIGN_BYTES`].
    pub(super) workspace: Vec<Dim>,
}

/// Lays out the memory of `func`.
pub(super) fn layout(func: &Func) -> Layout {
    let mut homes = vec![Home::Registers; func.locals.len()];
    let width = widest_lanes(&func.body, true);
    let targets = func.locals.iter().map(|local| local.dtype.compute().size_bytes());
    let scratch_elem_bytes = targets.max().unwrap_or(4).max(4);
    let scratch = (width > WARP).then_some(0);
    let results_offset = SCRATCH_BATCH as u64 * u64::from(width) * scratch_elem_bytes;
    let mut total = scratch.map_or(0, |_| results_offset + SCRATCH_BATCH as u64 * scratch_elem_bytes);
    let in_tile = func.locals.iter().enumerate().filter(|(_, local)| local.space == Space::Tile);
    let mut by_size: Vec<(u64, usize)> = vec![];
    let mut outside: Vec<usize> = vec![];
    for (idx, local) in in_tile {
        let bytes = local_bytes(local).as_const().and_then(|bytes| u64::try_from(bytes.max(0)).ok());
        // An empty array has a place as well.
        match bytes.and_then(|bytes| bytes.max(1).checked_next_multiple_of(ALIGN_BYTES)) {
            Some(bytes) => by_size.push((bytes, idx)),
            None => outside.push(idx),
        }
    }
    by_size.sort_unstable();
    for (bytes, idx) in by_size {
        if total.saturating_add(bytes) <= MAX_SHARED_BYTES {
            homes[idx] = Home::Shared(total);
            total += bytes;
        } else {
            outside.push(idx);
        }
    }
    outside.sort_unstable();
    let mut workspace = vec![];
    for idx in outside {
        homes[idx] = Home::Workspace(workspace.len());
        workspace.push(local_bytes(&func.locals[idx]));
    }
    Layout { homes, scratch, results_offset, shared_bytes: total, workspace }
}

fn local_bytes(local: &Local) -> Dim {
    let size = Dim::constant(local.dtype.size_bytes() as i64);
    local.shape.iter().fold(size, |product, dim| product.mul(dim))
}

impl KernelInfo {
    /// How many blocks to launch at `sizes`, and what workspace they need. No blocks: there is nothing to compute.
    ///
    /// Errors: a size without a value, or memory that no machine has.
    pub fn launch_size(&self, func: &Func, sizes: &SizeEnv) -> Result<LaunchSize, DimError> {
        let tiles = abi::n_tiles(func, sizes)?;
        if self.workspace.is_empty() {
            return Ok(LaunchSize { blocks: tiles.min(MAX_BLOCKS) as u32, workspace_bytes: 0 });
        }
        let blocks = tiles.min(MAX_WORKSPACE_BLOCKS);
        let mut bytes = 0u64;
        for dim in &self.workspace {
            let own = (dim.eval(sizes)?.max(0) as u64).checked_next_multiple_of(ALIGN_BYTES);
            let sum = own.and_then(|own| bytes.checked_add(own));
            bytes = sum.ok_or_else(|| DimError::Overflow(dim.clone()))?;
        }
        let all = bytes.checked_mul(blocks as u64);
        let workspace_bytes = all.ok_or_else(|| DimError::Overflow(self.workspace[0].clone()))?;
        Ok(LaunchSize { blocks: blocks as u32, workspace_bytes })
    }
}

/// The width of the widest lane loop in `block`, 1 if there is none; of those that accumulate, if so asked.
pub(super) fn widest_lanes(block: &[Stmt], accumulating: bool) -> u32 {
    let widths = block.iter().map(|stmt| match stmt {
        Stmt::For(inner) => match inner.kind {
            ForKind::Lanes { width } if !accumulating || accumulates(&inner.body) => width,
            _ => widest_lanes(&inner.body, accumulating),
        },
        Stmt::Stage(_, body) => widest_lanes(body, accumulating),
        _ => 1,
    });
    widths.max().unwrap_or(1)
}

fn accumulates(block: &[Stmt]) -> bool {
    block.iter().any(|stmt| match stmt {
        Stmt::Accum { .. } => true,
        Stmt::For(inner) => accumulates(&inner.body),
        Stmt::Stage(_, body) => accumulates(body),
        Stmt::Let(..) | Stmt::Store { .. } | Stmt::Decl(_) => false,
    })
}
