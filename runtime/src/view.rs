//! Typed dense arrays in memory that belongs to somebody else; nothing is copied.
//!
//! In: slices, bytes or raw pointers with a shape. Out: [`View`] (read) and [`ViewMut`] (written), row-major and dense.
//! Lengths, element types and alignment are checked when a view is made, so that a call need not.

use crate::element::Element;
use crate::memory::n_elems;
use birkhoff_ir::diag::{Diagnostic, Span};
use birkhoff_ir::dtype::DType;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// A dense row-major array that is read.
#[derive(Clone)]
pub struct View<'a> {
    start: NonNull<u8>,
    dtype: DType,
    shape: Vec<i64>,
    n_elems: u64,
    memory: PhantomData<&'a [u8]>,
}

/// A dense row-major array that is written.
pub struct ViewMut<'a> {
    start: NonNull<u8>,
    dtype: DType,
    shape: Vec<i64>,
    n_elems: u64,
    memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: a view is a shared reference to elements that are themselves `Sync`.
unsafe impl Send for View<'_> {}
// SAFETY: see above.
unsafe impl Sync for View<'_> {}
// SAFETY: a mutable view is a unique reference to elements that are themselves `Send`.
unsafe impl Send for ViewMut<'_> {}
// SAFETY: `&ViewMut` gives no access to the elements but through `as_slice`, which reads.
unsafe impl Sync for ViewMut<'_> {}

impl<'a> View<'a> {
    /// The elements of `data` under `shape`.
    ///
    /// Errors: a shape that does not have as many elements as `data`.
    pub fn of<E: Element>(data: &'a [E], shape: &[i64]) -> Result<View<'a>, Diagnostic> {
        let n_elems = check_len(data.len(), shape)?;
        let start = NonNull::from(data).cast();
        Ok(View { start, dtype: E::DTYPE, shape: shape.to_vec(), n_elems, memory: PhantomData })
    }

    /// The bytes `data` as elements of `dtype` in the machine's byte order.
    ///
    /// Errors: a length that does not fit the shape, bytes that are not aligned to the element type (copy them then), or a
    /// bool that is neither 0 nor 1.
    pub fn from_bytes(data: &'a [u8], dtype: DType, shape: &[i64]) -> Result<View<'a>, Diagnostic> {
        let n_elems = n_elems(shape).map_err(input_error)?;
        let needed = n_elems.checked_mul(dtype.size_bytes());
        if needed != Some(data.len() as u64) {
            let message = format!(
                "{dtype}{shape:?} has {n_elems} elements of {} bytes, found {} bytes",
                dtype.size_bytes(),
                data.len()
            );
            return Err(input_error(message));
        }
        if dtype == DType::Bool && data.iter().any(|byte| *byte > 1) {
            return Err(input_error("a bool must be stored as 0 or 1".to_string()));
        }
        let start = NonNull::from(data).cast();
        check_aligned(start, dtype)?;
        Ok(View { start, dtype, shape: shape.to_vec(), n_elems, memory: PhantomData })
    }

    /// Memory that somebody else keeps, such as another language's array.
    ///
    /// Errors: a null or unaligned pointer, a shape whose size overflows.
    ///
    /// # Safety
    ///
    /// For the lifetime `'a` the memory holds that many initialised elements, and nobody writes them.
    pub unsafe fn from_raw(start: *const u8, dtype: DType, shape: &[i64]) -> Result<View<'a>, Diagnostic> {
        let (start, n_elems) = check_raw(start.cast_mut(), dtype, shape)?;
        Ok(View { start, dtype, shape: shape.to_vec(), n_elems, memory: PhantomData })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// Number of elements.
    pub fn n_elems(&self) -> u64 {
        self.n_elems
    }

    /// All elements, in row-major order.
    ///
    /// Errors: another element type.
    pub fn as_slice<E: Element>(&self) -> Result<&'a [E], Diagnostic> {
        check_dtype::<E>(self.dtype)?;
        // SAFETY: the constructors checked length, type and alignment, and the memory outlives `'a`.
        Ok(unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.n_elems as usize) })
    }

    /// All elements as bytes, in the machine's order.
    pub fn bytes(&self) -> &'a [u8] {
        let size_bytes = self.n_elems * self.dtype.size_bytes();
        // SAFETY: as in `as_slice`; every element type is made of initialised bytes.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), size_bytes as usize) }
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl<'a> ViewMut<'a> {
    /// The elements of `data` under `shape`.
    ///
    /// Errors: a shape that does not have as many elements as `data`.
    pub fn of<E: Element>(data: &'a mut [E], shape: &[i64]) -> Result<ViewMut<'a>, Diagnostic> {
        let n_elems = check_len(data.len(), shape)?;
        let start = NonNull::from(data).cast();
        Ok(ViewMut { start, dtype: E::DTYPE, shape: shape.to_vec(), n_elems, memory: PhantomData })
    }

    /// Memory that somebody else keeps, such as another language's array.
    ///
    /// Errors: a null or unaligned pointer, a shape whose size overflows.
    ///
    /// # Safety
    ///
    /// For the lifetime `'a` the memory holds that many initialised elements, and nobody else reads or writes them.
    pub unsafe fn from_raw(start: *mut u8, dtype: DType, shape: &[i64]) -> Result<ViewMut<'a>, Diagnostic> {
        let (start, n_elems) = check_raw(start, dtype, shape)?;
        Ok(ViewMut { start, dtype, shape: shape.to_vec(), n_elems, memory: PhantomData })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// Number of elements.
    pub fn n_elems(&self) -> u64 {
        self.n_elems
    }

    /// The same memory, mutably, for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        ViewMut {
            start: self.start,
            dtype: self.dtype,
            shape: self.shape.clone(),
            n_elems: self.n_elems,
            memory: PhantomData,
        }
    }

    /// The same memory, to read.
    pub fn view(&self) -> View<'_> {
        View {
            start: self.start,
            dtype: self.dtype,
            shape: self.shape.clone(),
            n_elems: self.n_elems,
            memory: PhantomData,
        }
    }

    /// All elements, in row-major order.
    ///
    /// Errors: another element type.
    pub fn as_mut_slice<E: Element>(&mut self) -> Result<&mut [E], Diagnostic> {
        check_dtype::<E>(self.dtype)?;
        // SAFETY: the constructors checked length, type and alignment, and `&mut self` is unique.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.n_elems as usize) })
    }

    /// Writes all elements; `data` holds them in the machine's byte order.
    ///
    /// Errors: a length that does not fit, or a bool that is neither 0 nor 1.
    pub(crate) fn copy_from_bytes(&mut self, data: &[u8]) -> Result<(), Diagnostic> {
        let size_bytes = self.n_elems * self.dtype.size_bytes();
        if data.len() as u64 != size_bytes {
            return Err(input_error(format!("an array of {size_bytes} bytes is given {}", data.len())));
        }
        if self.dtype == DType::Bool && data.iter().any(|byte| *byte > 1) {
            return Err(input_error("a bool must be stored as 0 or 1".to_string()));
        }
        // SAFETY: the constructors checked the size, `&mut self` is unique, and every byte pattern is an element but for bools,
        // which were looked at.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), size_bytes as usize) };
        bytes.copy_from_slice(data);
        Ok(())
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View {}{:?}", self.dtype, self.shape)
    }
}

impl std::fmt::Debug for ViewMut<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ViewMut {}{:?}", self.dtype, self.shape)
    }
}

fn input_error(message: String) -> Diagnostic {
    Diagnostic::input(Span::NONE, message)
}

fn check_len(len: usize, shape: &[i64]) -> Result<u64, Diagnostic> {
    let n_elems = n_elems(shape).map_err(input_error)?;
    if n_elems != len as u64 {
        return Err(input_error(format!("the shape {shape:?} has {n_elems} elements, found {len}")));
    }
    Ok(n_elems)
}

fn check_dtype<E: Element>(found: DType) -> Result<(), Diagnostic> {
    if E::DTYPE == found {
        return Ok(());
    }
    Err(input_error(format!("the elements are {found}, they were asked for as {}", E::DTYPE)))
}

fn check_aligned(start: NonNull<u8>, dtype: DType) -> Result<(), Diagnostic> {
    let align = dtype.size_bytes() as usize;
    if (start.as_ptr() as usize).is_multiple_of(align) {
        return Ok(());
    }
    Err(input_error(format!("memory of {dtype} elements must start at a multiple of {align} bytes"))
        .help("copy it into a `Buffer`"))
}

fn check_raw(start: *mut u8, dtype: DType, shape: &[i64]) -> Result<(NonNull<u8>, u64), Diagnostic> {
    let n_elems = n_elems(shape).map_err(input_error)?;
    let size_bytes = n_elems.checked_mul(dtype.size_bytes()).filter(|size| *size <= isize::MAX as u64);
    if size_bytes.is_none() {
        return Err(input_error(format!("{dtype}{shape:?} has more bytes than memory has")));
    }
    let start = NonNull::new(start).ok_or_else(|| input_error("the pointer is null".to_string()))?;
    check_aligned(start, dtype)?;
    Ok((start, n_elems))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_the_memory_itself() {
        let data = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let view = View::of(&data, &[2, 3]).unwrap();
        assert_eq!(view.as_slice::<f32>().unwrap().as_ptr(), data.as_ptr());
        assert!(view.as_slice::<i32>().is_err());
        assert!(View::of(&data, &[2, 2]).is_err());
        assert!(View::of(&data, &[-2, -3]).is_err());
        assert!(View::of(&data, &[i64::MAX, i64::MAX]).is_err());
    }

    #[test]
    fn bytes_are_checked() {
        let data = [1.0f32, 2.0, 3.0];
        let bytes = View::of(&data, &[3]).unwrap().bytes();
        assert_eq!(View::from_bytes(bytes, DType::F32, &[3]).unwrap().as_slice::<f32>().unwrap(), data);
        assert!(View::from_bytes(&bytes[1..9], DType::F32, &[2]).is_err());
        assert!(View::from_bytes(bytes, DType::F32, &[4]).is_err());
        assert!(View::from_bytes(&[0, 1, 2], DType::Bool, &[3]).is_err());
        assert_eq!(
            View::from_bytes(&[0, 1], DType::Bool, &[2]).unwrap().as_slice::<bool>().unwrap(),
            [false, true]
        );
    }

    #[test]
    fn raw_memory_is_checked() {
        let data = [1i64, 2];
        let start = data.as_ptr().cast::<u8>();
        // SAFETY: `data` holds two i64.
        assert!(unsafe { View::from_raw(start, DType::I64, &[2]) }.is_ok());
        // SAFETY: refused before any access.
        assert!(unsafe { View::from_raw(start.wrapping_add(1), DType::I64, &[1]) }.is_err());
        // SAFETY: refused before any access.
        assert!(unsafe { View::from_raw(std::ptr::null(), DType::I64, &[1]) }.is_err());
        // SAFETY: refused before any access.
        assert!(unsafe { View::from_raw(start, DType::I64, &[i64::MAX]) }.is_err());
    }
}
