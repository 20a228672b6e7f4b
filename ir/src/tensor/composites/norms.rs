//! Reductions and norms.

use super::{Expanded, call, single};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::scalar::{Scalar, ScalarOp};
use crate::tensor::build::Built;
use crate::tensor::{Attr, Op, OpKind, ValueId, build::Builder};

/// The size `dim` as a scalar of `dtype`: a constant, or counted where it is known only at run time.
pub fn size_as_float(b: &mut Builder<'_>, dim: &Dim, dtype: DType) -> Built {
    match dim.as_const() {
        Some(value) => b.scalar(dtype, Scalar::Float(value as f64)),
        None => {
            // Counted in f64: f32 sums of ones stop growing at 2^24.
            let one = b.scalar(DType::F64, Scalar::Float(1.0))?;
            let ones = b.broadcast(one, vec![dim.clone()], &[])?;
            let count = b.sum(ones, &[0])?;
            b.convert(count, dtype)
        }
    }
}

/// Mean over axes.
pub fn mean(b: &mut Builder<'_>, args: &[ValueId], op: &Op) -> Expanded {
    let axes: Vec<usize> = op.axes("axes").iter().map(|axis| *axis as usize).collect();
    single(mean_of(b, args[0], &axes))
}

/// Mean of `x` over `axes`: the sum times the reciprocal of a known count, divided by one known only at run time.
pub fn mean_of(b: &mut Builder<'_>, x: ValueId, axes: &[usize]) -> Built {
    let count = axes.iter().fold(Dim::constant(1), |product, axis| product.mul(&b.dim(x, *axis)));
    let dtype = b.ty(x).dtype;
    let sum = b.sum(x, axes)?;
    let count = size_as_float(b, &count, dtype)?;
    b.div(sum, count)
}

/// `log sum e^x` over an axis. The maximum is a constant for derivatives: its parts cancel. Where it is infinite it is not
/// subtracted, so that `lse` of all `-inf` is `-inf` and not NaN.
pub fn log_sum_exp(b: &mut Builder<'_>, args: &[ValueId], op: &Op) -> Expanded {
    let axis = op.axis(b.module, b.ty(args[0]).rank())?;
    single(log_sum_exp_of(b, args[0], axis))
}

/// See [`log_sum_exp`].
pub fn log_sum_exp_of(b: &mut Builder<'_>, x: ValueId, axis: usize) -> Built {
    let max = b.reduce(OpKind::ReduceMax, x, &[axis])?;
    let max = b.apply(OpKind::StopGradient, vec![], &[max])?;
    let size = b.unary(ScalarOp::Abs, max)?;
    let infinite = b.float_like(x, f64::INFINITY)?;
    let is_infinite = b.elementwise(ScalarOp::Eq, &[size, infinite])?;
    let zero = b.float_like(x, 0.0)?;
    let shift = b.select(is_infinite, zero, max)?;
    let extent = b.dim(x, axis);
    let shift_all = b.insert_axis(shift, axis, extent)?;
    let centred = b.sub(x, shift_all)?;
    let exp = b.unary(ScalarOp::Exp, centred)?;
    let sum = b.sum(exp, &[axis])?;
    let log = b.unary(ScalarOp::Log, sum)?;
    b.add(log, shift)
}

/// Softmax along an axis.
pub fn softmax(b: &mut Builder<'_>, args: &[ValueId], op: &Op) -> Expanded {
    let axis = op.axis(b.module, b.ty(args[0]).rank())?;
    single(softmax_of(b, args[0], axis))
}

/// See [`softmax`]. The maximum is a constant for derivatives: it cancels.
pub fn softmax_of(b: &mut Builder<'_>, x: ValueId, axis: usize) -> Built {
    let max = b.reduce_keep(OpKind::ReduceMax, x, axis)?;
    let max = b.apply(OpKind::StopGradient, vec![], &[max])?;
    let centred = b.sub(x, max)?;
    let exp = b.unary(ScalarOp::Exp, centred)?;
    let sum = b.reduce_keep(OpKind::ReduceSum, exp, axis)?;
    b.div(exp, sum)
}

/// `x / sqrt(mean(x^2) + eps)` along the last axis.
pub fn rms_norm(b: &mut Builder<'_>, args: &[ValueId], op: &Op) -> Expanded {
    let x = args[0];
    let axis = last_axis(b, x)?;
    let square = b.mul(x, x)?;
    let mean = call(b, Op::new(OpKind::Mean, vec![Attr::Axes(vec![axis as u32])]), &[square])?;
    single(divide_by_root(b, x, mean, axis, op))
}

/// `(x - mean) / sqrt(var + eps)` along the last axis.
pub fn layer_norm(b: &mut Builder<'_>, args: &[ValueId], op: &Op) -> Expanded {
    let x = args[0];
    let axis = last_axis(b, x)?;
    let extent = b.dim(x, axis);
    let mean = mean_of(b, x, &[axis])?;
    let mean = b.insert_axis(mean, axis, extent)?;
    let centred = b.sub(x, mean)?;
    let square = b.mul(centred, centred)?;
    let var = mean_of(b, square, &[axis])?;
    single(divide_by_root(b, centred, var, axis, op))
}

fn divide_by_root(b: &mut Builder<'_>, x: ValueId, square: ValueId, axis: usize, op: &Op) -> Built {
    let dtype = b.ty(x).dtype;
    let eps = b.scalar_attr(dtype, op, "eps")?;
    let sum = b.add(square, eps)?;
    let root = b.unary(ScalarOp::Sqrt, sum)?;
    let extent = b.dim(x, axis);
    let root = b.insert_axis(root, axis, extent)?;
    b.div(x, root)
}

/// Euclidean norm along the last axis; its derivative at 0 is taken as 0.
pub fn norm(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let axis = last_axis(b, args[0])?;
    let square = b.mul(args[0], args[0])?;
    let sum = b.sum(square, &[axis])?;
    let (positive, safe) = positive_or_one(b, sum)?;
    let root = b.unary(ScalarOp::Sqrt, safe)?;
    let zero = b.float_like(sum, 0.0)?;
    // `0 < NaN` is false: let NaN through.
    let is_nan = b.elementwise(ScalarOp::Ne, &[sum, sum])?;
    let rest = b.select(is_nan, sum, zero)?;
    single(b.select(positive, root, rest))
}

/// `(x > 0, x where that holds and else 1)`.
pub fn positive_or_one(b: &mut Builder<'_>, x: ValueId) -> Result<(ValueId, ValueId), String> {
    let zero = b.float_like(x, 0.0)?;
    let positive = b.lt(zero, x)?;
    let one = b.float_like(x, 1.0)?;
    let safe = b.select(positive, x, one)?;
    Ok((positive, safe))
}

fn last_axis(b: &Builder<'_>, x: ValueId) -> Result<usize, String> {
    b.ty(x).rank().checked_sub(1).ok_or_else(|| format!("expected at least one axis, found {}", b.ty(x)))
}
