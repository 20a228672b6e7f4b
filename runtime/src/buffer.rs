//! Typed dense arrays that own their memory.

use crate::element::Element;
use crate::memory::{Block, n_elems};
use crate::view::{View, ViewMut};
use birkhoff_ir::diag::{Diagnostic, Span};
use birkhoff_ir::dtype::DType;

/// A dense row-major array in memory of its own, at 64-byte alignment.
pub struct Buffer {
    block: Block,
    dtype: DType,
    shape: Vec<i64>,
}

impl Buffer {
    /// An array of zeros (`false` for bool).
    ///
    /// Errors: a negative extent, a size that overflows, memory that is not there.
    pub fn zeros(dtype: DType, shape: &[i64]) -> Result<Buffer, Diagnostic> {
        let block = Block::zeroed(size_bytes(dtype, shape)?)?;
        Ok(Buffer { block, dtype, shape: shape.to_vec() })
    }

    /// An array that is about to be written as a whole; what was in its memory stays there until then.
    ///
    /// Errors: as [`Buffer::zeros`].
    ///
    /// # Safety
    /// Every element is written before anything reads it, with `false` or `true` where it is a bool.
    pub unsafe fn unwritten(dtype: DType, shape: &[i64]) -> Result<Buffer, Diagnostic> {
        let block = Block::unwritten(size_bytes(dtype, shape)?)?;
        Ok(Buffer { block, dtype, shape: shape.to_vec() })
    }

    /// A copy of `data` under `shape`.
    ///
    /// Errors: as [`Buffer::zeros`], and a shape that does not have as many elements as `data`.
    pub fn from_slice<E: Element>(data: &[E], shape: &[i64]) -> Result<Buffer, Diagnostic> {
        let view = View::of(data, shape)?;
        let mut buffer = Buffer::zeros(E::DTYPE, shape)?;
        buffer.bytes_mut().copy_from_slice(view.bytes());
        Ok(buffer)
    }

    /// A copy of bytes in the machine's order, which need not be aligned.
    ///
    /// Errors: as [`Buffer::zeros`], a length that does not fit the shape, or a bool that is neither 0 nor 1.
    pub fn from_bytes(data: &[u8], dtype: DType, shape: &[i64]) -> Result<Buffer, Diagnostic> {
        let mut buffer = Buffer::zeros(dtype, shape)?;
        if data.len() != buffer.block.size_bytes() {
            let message =
                format!("{dtype}{shape:?} takes {} bytes, found {}", buffer.block.size_bytes(), data.len());
            return Err(Diagnostic::input(Span::NONE, message));
        }
        if dtype == DType::Bool && data.iter().any(|byte| *byte > 1) {
            return Err(Diagnostic::input(Span::NONE, "a bool must be stored as 0 or 1"));
        }
        buffer.bytes_mut().copy_from_slice(data);
        Ok(buffer)
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// The array, to read.
    pub fn view(&self) -> View<'_> {
        // SAFETY: the block has room for the shape, is initialised, and is borrowed with `self`. It is never null and
        // aligned beyond any element type, so that this cannot fail; `zeros` checked the sizes.
        match unsafe { View::from_raw(self.block.start().as_ptr(), self.dtype, &self.shape) } {
            Ok(view) => view,
            Err(_) => unreachable!("a buffer's memory fits its shape"),
        }
    }

    /// The array, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        // SAFETY: as in `view`, and borrowed mutably.
        match unsafe { ViewMut::from_raw(self.block.start().as_ptr(), self.dtype, &self.shape) } {
            Ok(view) => view,
            Err(_) => unreachable!("a buffer's memory fits its shape"),
        }
    }

    /// All elements, in row-major order.
    ///
    /// Errors: another element type.
    pub fn as_slice<E: Element>(&self) -> Result<&[E], Diagnostic> {
        self.view().as_slice()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the block is initialised and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.block.start().as_ptr(), self.block.size_bytes()) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer {}{:?}", self.dtype, self.shape)
    }
}

/// The bytes of such an array. Errors: a negative extent, a size that overflows.
fn size_bytes(dtype: DType, shape: &[i64]) -> Result<u64, Diagnostic> {
    let refuse = |message: String| Diagnostic::input(Span::NONE, message);
    let size_bytes = n_elems(shape).map_err(refuse)?.checked_mul(dtype.size_bytes());
    size_bytes.ok_or_else(|| refuse(format!("the size in bytes of {dtype}{shape:?} does not fit 64 bits")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_keep_elements_and_alignment() {
        let buffer = Buffer::from_slice(&[1.0f64, -2.0], &[2]).unwrap();
        assert_eq!(buffer.as_slice::<f64>().unwrap(), [1.0, -2.0]);
        assert_eq!(buffer.view().bytes().as_ptr() as usize % 64, 0);
        let odd = [0u8, 1, 0, 0, 0, 2, 0, 0, 0];
        assert_eq!(
            Buffer::from_bytes(&odd[1..], DType::I32, &[2]).unwrap().as_slice::<i32>().unwrap(),
            [1, 2]
        );
        assert!(Buffer::from_bytes(&odd, DType::I32, &[2]).is_err());
        assert!(Buffer::from_bytes(&[3], DType::Bool, &[1]).is_err());
    }

    #[test]
    fn sizes_are_checked() {
        assert!(Buffer::zeros(DType::F32, &[i64::MAX]).is_err());
        assert!(Buffer::zeros(DType::F32, &[1 << 40, 1 << 40]).is_err());
        assert!(Buffer::zeros(DType::F32, &[-1]).is_err());
        assert_eq!(Buffer::zeros(DType::F32, &[0, 5]).unwrap().view().n_elems(), 0);
    }
}
