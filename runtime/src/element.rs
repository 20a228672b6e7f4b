//! The Rust types that stand for element types.

use birkhoff_ir::dtype::DType;

/// A Rust type whose memory is that of one element of [`Element::DTYPE`].
///
/// # Safety
///
/// The size of the type is `DTYPE.size_bytes()`, its alignment divides that size, and every bit pattern a kernel stores
/// for `DTYPE` is a value of the type. Types for which other bit patterns exist than values (bool) are checked where
/// foreign bytes come in.
pub unsafe trait Element: Copy + Send + Sync + 'static {
    /// The element type.
    const DTYPE: DType;
}

// SAFETY: for all of these, the Rust type is the machine's representation of the element type.
unsafe impl Element for f64 {
    const DTYPE: DType = DType::F64;
}
// SAFETY: see above.
unsafe impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
// SAFETY: `half::bf16` is a transparent wrapper of u16.
unsafe impl Element for half::bf16 {
    const DTYPE: DType = DType::Bf16;
}
// SAFETY: `half::f16` is a transparent wrapper of u16.
unsafe impl Element for half::f16 {
    const DTYPE: DType = DType::F16;
}
// SAFETY: see above.
unsafe impl Element for i64 {
    const DTYPE: DType = DType::I64;
}
// SAFETY: see above.
unsafe impl Element for i32 {
    const DTYPE: DType = DType::I32;
}
// SAFETY: one byte, 0 or 1, in Rust as in the IR; kernels store nothing else.
unsafe impl Element for bool {
    const DTYPE: DType = DType::Bool;
}
