//! What tells whether scaled sums stayed in range: the least of each, or a truth value of loops inside.

use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use birkhoff_ir::tensor::build::{Builder, Built};
use birkhoff_ir::tensor::{OpKind, TensorType, ValueId};

/// The least that a scaled sum may be. Its terms are products of two exponentials of at most 1, so what underflow takes away is at
/// most the number of terms times the least positive number: 2^-149 in f32, 2^-1074 in f64. Against this bound that is
/// nothing, even for 2^60 terms.
fn bound(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 2f64.powi(-512),
        _ => 2f64.powi(-64),
    }
}

/// The state before the first iteration.
pub fn start(b: &mut Builder<'_>, ty: &TensorType) -> Built {
    let value = match ty.dtype {
        DType::Bool => Scalar::Bool(true),
        _ => Scalar::Float(f64::INFINITY),
    };
    let start = b.scalar(ty.dtype, value)?;
    if ty.rank() == 0 { Ok(start) } else { b.broadcast(start, ty.shape.clone(), &[]) }
}

/// Whether the state says that everything stayed in range: false for NaN too.
pub fn flag(b: &mut Builder<'_>, state: ValueId) -> Built {
    let ty = b.ty(state).clone();
    if ty.dtype == DType::Bool {
        return Ok(state);
    }
    let axes: Vec<usize> = (0..ty.rank()).collect();
    let least = if axes.is_empty() { state } else { b.reduce(OpKind::ReduceMin, state, &axes)? };
    let bound = b.scalar(ty.dtype, Scalar::Float(bound(ty.dtype)))?;
    b.elementwise(ScalarOp::Le, &[bound, least])
}
