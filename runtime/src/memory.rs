//! Blocks of memory, aligned for vector loads.
//!
//! In: a size. Out: a block, zeroed unless asked otherwise, that starts at a multiple of [`ALIGN_BYTES`]. Memory that cannot be had is an error, never an
//! abort.

use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::kernel::abi::SCRATCH_ALIGN_BYTES;
use std::alloc::Layout;
use std::ptr::NonNull;

/// Alignment of every block: a cache line, and what kernels ask of their scratch memory.
pub(crate) const ALIGN_BYTES: usize = SCRATCH_ALIGN_BYTES as usize;

/// What the allocator itself aligns to without further ado.
const BASE_ALIGN_BYTES: usize = 16;

/// Memory that starts at a multiple of [`ALIGN_BYTES`]. Access is the owner's affair.
pub(crate) struct Block {
    /// What the allocator gave, with its layout; `None` for a block without bytes.
    base: Option<(NonNull<u8>, Layout)>,
    start: NonNull<u8>,
    size_bytes: usize,
}

// SAFETY: a block is plain memory that it owns alone; whoever writes through its pointer holds the owner mutably, or
// divides the block among threads.
unsafe impl Send for Block {}
// SAFETY: see above; `&Block` gives no access by itself.
unsafe impl Sync for Block {}

impl Block {
    /// A block of `size_bytes` zeros.
    ///
    /// Errors: a size beyond the address space, or memory that is not there.
    pub(crate) fn zeroed(size_bytes: u64) -> Result<Block, Diagnostic> {
        // SAFETY: the layout has a size above zero.
        Block::from_allocator(size_bytes, |layout| unsafe { std::alloc::alloc_zeroed(layout) })
    }

    /// A block of `size_bytes` that hold whatever was there.
    ///
    /// Errors: as [`Block::zeroed`].
    pub(crate) fn unwritten(size_bytes: u64) -> Result<Block, Diagnostic> {
        // SAFETY: the layout has a size above zero.
        Block::from_allocator(size_bytes, |layout| unsafe { std::alloc::alloc(layout) })
    }

    /// A block from `allocate`, which is never asked for nothing.
    fn from_allocator(
        size_bytes: u64,
        allocate: impl FnOnce(Layout) -> *mut u8,
    ) -> Result<Block, Diagnostic> {
        let too_much = || {
            Diagnostic::device(format!("{size_bytes} bytes of memory were asked for and are not available"))
                .help("use smaller sizes")
        };
        let size_bytes = usize::try_from(size_bytes).map_err(|_| too_much())?;
        if size_bytes == 0 {
            return Ok(Block { base: None, start: dangling(), size_bytes });
        }
        // The alignment is made by hand: with the allocator's natural alignment large blocks come as untouched zero
        // pages, with a larger one they would be cleared byte by byte.
        let padded = size_bytes.checked_add(ALIGN_BYTES).ok_or_else(too_much)?;
        let layout = Layout::from_size_align(padded, BASE_ALIGN_BYTES).map_err(|_| too_much())?;
        let base = NonNull::new(allocate(layout)).ok_or_else(too_much)?;
        let skip = base.as_ptr().align_offset(ALIGN_BYTES).min(ALIGN_BYTES);
        // SAFETY: `skip` is at most the padding.
        let start = unsafe { base.add(skip) };
        Ok(Block { base: Some((base, layout)), start, size_bytes })
    }

    /// The first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes from the first on.
    pub(crate) fn size_bytes(&self) -> usize {
        self.size_bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some((base, layout)) = self.base {
            // SAFETY: allocated with this layout and not freed before.
            unsafe { std::alloc::dealloc(base.as_ptr(), layout) }
        }
    }
}

/// An aligned pointer to no bytes.
pub(crate) fn dangling() -> NonNull<u8> {
    NonNull::without_provenance(std::num::NonZeroUsize::MIN.saturating_add(ALIGN_BYTES - 1))
}

/// The number of elements of `shape`.
///
/// Errors: a negative extent, or a product beyond `i64`.
pub(crate) fn n_elems(shape: &[i64]) -> Result<u64, String> {
    if let Some(extent) = shape.iter().find(|extent| **extent < 0) {
        return Err(format!("the extent {extent} of the shape {shape:?} is negative"));
    }
    // An extent of zero makes the product zero even where the others would overflow.
    if shape.contains(&0) {
        return Ok(0);
    }
    let product = shape.iter().try_fold(1i64, |product, extent| product.checked_mul(*extent));
    product
        .map(|product| product as u64)
        .ok_or_else(|| format!("the shape {shape:?} has more elements than fit 64 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_zeroed() {
        for size in [0, 1, 63, 64, 4097, 1 << 20] {
            let block = Block::zeroed(size).unwrap();
            assert_eq!(block.start().as_ptr() as usize % ALIGN_BYTES, 0);
            // SAFETY: the block has that many zeroed bytes.
            let bytes = unsafe { std::slice::from_raw_parts(block.start().as_ptr(), block.size_bytes()) };
            assert!(bytes.len() == size as usize && bytes.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn sizes_that_cannot_be_had_are_errors() {
        assert!(Block::zeroed(u64::MAX).is_err());
        assert!(Block::zeroed(i64::MAX as u64 - 8).is_err());
        assert!(n_elems(&[i64::MAX, 2]).is_err());
        assert!(n_elems(&[-1]).is_err());
        assert_eq!(n_elems(&[i64::MAX, 0, 4]), Ok(0));
        assert_eq!(n_elems(&[]), Ok(1));
    }
}
