//! How far the expansions are from the exact functions; the tests hold them to it.

use crate::dtype::DType;
use crate::scalar::ScalarOp;

/// The largest distance between an expansion's result and the exact value, in units of the exact value's last place.
///
/// For `Sin`, `Cos` and `Tan` it holds up to [`reduction_limit`]. `None` for operations without an expansion.
pub fn ulp_bound(op: ScalarOp, dtype: DType) -> Option<f64> {
    let (f32_bound, f64_bound) = match op {
        ScalarOp::Sign => (0.0, 0.0),
        ScalarOp::Recip => (0.5, 0.5),
        ScalarOp::Rsqrt => (1.5, 1.5),
        ScalarOp::Exp => (1.5, 1.5),
        ScalarOp::Expm1 => (2.0, 2.0),
        ScalarOp::Log => (1.5, 1.5),
        ScalarOp::Log1p => (1.5, 1.5),
        ScalarOp::Sin => (2.0, 2.0),
        ScalarOp::Cos => (2.0, 2.0),
        ScalarOp::Tan => (4.0, 4.0),
        ScalarOp::Atan => (2.0, 2.0),
        ScalarOp::Atan2 => (3.0, 3.0),
        ScalarOp::Sinh => (2.0, 2.0),
        ScalarOp::Cosh => (2.0, 2.0),
        ScalarOp::Tanh => (2.0, 2.0),
        ScalarOp::Asinh => (2.0, 2.0),
        ScalarOp::Atanh => (2.0, 2.0),
        ScalarOp::Erf => (2.0, 2.0),
        ScalarOp::Pow => (2.0, 2.0),
        _ => return None,
    };
    match dtype {
        DType::F32 => Some(f32_bound),
        DType::F64 => Some(f64_bound),
        _ => None,
    }
}

/// The largest magnitude of the argument of `Sin`, `Cos` and `Tan` up to which [`ulp_bound`] holds.
///
/// Beyond, the error grows with the argument; sine and cosine stay within -1 to 1.
pub fn reduction_limit(dtype: DType) -> f64 {
    if dtype == DType::F32 { 1e5 } else { 1e9 }
}
