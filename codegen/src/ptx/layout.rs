//! Where tile memory lies in shared memory.
//!
//! In: a kernel. Out: the offset of every tile-local array and of the memory for lane reductions, in bytes.

use super::lanes::WARP;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::kernel::{ForKind, Func, Space, Stmt};

/// Every array starts at a multiple of this: the widest access.
pub(super) const ALIGN_BYTES: u64 = 16;
/// Shared memory that every device gives a block without being asked for more.
pub const MAX_SHARED_BYTES: u64 = 48 * 1024;
/// Lane reductions that go through shared memory together.
pub(super) const SCRATCH_BATCH: usize = 8;

/// The shared memory of one kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    /// Of each local; `None` for registers.
    pub(super) offsets: Vec<Option<u64>>,
    /// Of the memory for lane reductions, if there are any across warps.
    pub(super) scratch: Option<u64>,
    /// Bytes of a partial result there.
    pub(super) scratch_elem_bytes: u64,
    /// Bytes in all.
    pub(super) total_bytes: u64,
}

/// Lays out the shared memory of `func`.
///
/// Errors: arrays whose size is known only at run time, or more than a block has.
pub(super) fn layout(func: &Func) -> Result<Layout, Diagnostic> {
    let mut total = 0u64;
    let mut offsets = vec![];
    for local in &func.locals {
        if local.space == Space::Reg {
            offsets.push(None);
            continue;
        }
        offsets.push(Some(total));
        let mut bytes = local.dtype.size_bytes();
        for dim in &local.shape {
            let Some(extent) = dim.as_const() else {
                let what = format!("tile memory of run-time size (`{}` has the extent {dim})", local.name);
                return Err(super::unsupported(func, &what));
            };
            bytes = bytes.saturating_mul(extent.max(0) as u64);
        }
        total = total.saturating_add(bytes.checked_next_multiple_of(ALIGN_BYTES).unwrap_or(u64::MAX));
    }
    let width = widest_lanes(&func.body, true);
    let scratch = (width > WARP).then_some(total);
    let targets = func.locals.iter().map(|local| local.dtype.compute().size_bytes());
    let scratch_elem_bytes = targets.max().unwrap_or(4).max(4);
    if scratch.is_some() {
        total = total.saturating_add(SCRATCH_BATCH as u64 * u64::from(width) * scratch_elem_bytes);
    }
    if total > MAX_SHARED_BYTES {
        let what =
            format!("a tile that keeps {total} bytes in shared memory, where a block has {MAX_SHARED_BYTES}");
        return Err(super::unsupported(func, &what));
    }
    Ok(Layout { offsets, scratch, scratch_elem_bytes, total_bytes: total })
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
