//! How a compiled CPU kernel is called, shared by the back end that emits it and the runtime that calls it.

use super::{Func, GridAxis, Mem, Space};
use crate::dim::{Dim, DimError, SizeEnv, div_ceil};

/// Every tile-local array starts at a multiple of this, and so does the scratch memory itself.
pub const SCRATCH_ALIGN_BYTES: u64 = 64;

/// A compiled kernel: runs the tiles `first_tile .. last_tile` (row-major over the grid axes, the last fastest).
///
/// `params` holds one pointer per parameter, in order; `sizes` one value per run-time size, in order; `scratch` has at
/// least [`scratch_bytes`] bytes at [`SCRATCH_ALIGN_BYTES`] alignment, used by this call alone. Parameters are aligned to
/// their element type, no more.
pub type KernelFn = unsafe extern "C" fn(
    params: *const *mut u8,
    sizes: *const i64,
    first_tile: i64,
    last_tile: i64,
    scratch: *mut u8,
);

/// The offset of each local in scratch memory, in bytes (`None` for registers), and the total.
///
/// Each `Tile` local takes its size rounded up to [`SCRATCH_ALIGN_BYTES`], in the order of [`Func::locals`].
///
/// Errors: a size without a value, or one that overflows.
pub fn scratch_layout(func: &Func, sizes: &SizeEnv) -> Result<(Vec<Option<u64>>, u64), DimError> {
    let mut offset = 0u64;
    let mut offsets = Vec::with_capacity(func.locals.len());
    for (idx, local) in func.locals.iter().enumerate() {
        if local.space == Space::Reg {
            offsets.push(None);
            continue;
        }
        offsets.push(Some(offset));
        let elems = n_elems(func.mem_shape(Mem::Local(super::LocalId(idx as u32))));
        let bytes = elems.mul(&Dim::constant(local.dtype.size_bytes() as i64));
        let bytes = bytes.eval(sizes)?.max(0) as u64;
        let padded = bytes.checked_next_multiple_of(SCRATCH_ALIGN_BYTES);
        offset = padded.and_then(|padded| offset.checked_add(padded)).ok_or(DimError::Overflow(elems))?;
    }
    Ok((offsets, offset))
}

/// Bytes of scratch memory that one call needs.
///
/// Errors: as [`scratch_layout`].
pub fn scratch_bytes(func: &Func, sizes: &SizeEnv) -> Result<u64, DimError> {
    scratch_layout(func, sizes).map(|(_, total)| total)
}

/// Number of tiles along one axis of a grid.
///
/// Errors: a size without a value, or an extent that overflows.
pub fn axis_tiles(axis: &GridAxis, sizes: &SizeEnv) -> Result<i64, DimError> {
    let (extent, tile) = (axis.extent.eval(sizes)?.max(0), i64::from(axis.tile.max(1)));
    Ok(div_ceil(extent, tile))
}

/// Number of tiles of the grid: the product over the axes of `ceil(extent / tile)`; 1 without axes.
///
/// Errors: a size without a value, or a product that overflows.
pub fn n_tiles(func: &Func, sizes: &SizeEnv) -> Result<i64, DimError> {
    let mut total = 1i64;
    for axis in &func.grid {
        let tiles = axis_tiles(axis, sizes)?;
        total = total.checked_mul(tiles).ok_or_else(|| DimError::Overflow(axis.extent.clone()))?;
    }
    Ok(total)
}

fn n_elems(shape: &[Dim]) -> Dim {
    shape.iter().fold(Dim::constant(1), |product, dim| product.mul(dim))
}
