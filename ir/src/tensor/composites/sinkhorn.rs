//! Sinkhorn normalisation in its three forms, as loops whose body is one iteration.

use super::{Expanded, call, norms, single};
use crate::scalar::{Scalar, ScalarOp};
use crate::tensor::build::Built;
use crate::tensor::{Attr, Domain, Op, OpKind, TensorType, ValueId, build::Builder};

/// See the op `sinkhorn`.
pub fn sinkhorn(b: &mut Builder<'_>, args: &[ValueId], op: &Op) -> Expanded {
    let m = args[0];
    let ty = b.ty(m).clone();
    let rank = ty.rank();
    if rank < 2 || ty.shape[rank - 1] != ty.shape[rank - 2] || !ty.dtype.is_float() {
        return Err(format!("expected square matrices [..,n,n] of floats, found {ty}"));
    }
    if op.int(b.module, "iters")? < 0 {
        return Err("`iters` must not be negative".into());
    }
    let z = scaled(b, m, op)?;
    match op.word("form") {
        "log" => single(log_form(b, z, op)),
        "softmax" => single(softmax_form(b, z, op)),
        _ => single(exp_form(b, z, op)),
    }
}

/// `m / tau`.
fn scaled(b: &mut Builder<'_>, m: ValueId, op: &Op) -> Built {
    if op.float(b.module, "tau")? == 1.0 {
        return Ok(m);
    }
    let dtype = b.ty(m).dtype;
    let tau = b.scalar_attr(dtype, op, "tau")?;
    b.div(m, tau)
}

/// The axis that `word` sums over: rows have sums over the last axis.
fn sum_axis(rank: usize, word: &str) -> usize {
    if word == "rows" { rank - 1 } else { rank - 2 }
}

/// `x / (sum over axis + eps)`.
fn normalise(b: &mut Builder<'_>, x: ValueId, axis: usize, op: &Op) -> Built {
    let sum = b.reduce(OpKind::ReduceSum, x, &[axis])?;
    let sum = if op.float(b.module, "eps")? == 0.0 {
        sum
    } else {
        let dtype = b.ty(x).dtype;
        let eps = b.scalar_attr(dtype, op, "eps")?;
        b.add(sum, eps)?
    };
    let extent = b.dim(x, axis);
    let sum = b.insert_axis(sum, axis, extent)?;
    b.div(x, sum)
}

/// A loop that normalises along `axes`, one after the other, `trip` times.
fn normalise_loop(b: &mut Builder<'_>, x: ValueId, axes: [usize; 2], trip: Attr, op: &Op) -> Built {
    let ty = b.ty(x).clone();
    let body = b.nested("sinkhorn_step", |inner| {
        let mut value = inner.input("a", ty, Domain::Uniform { lo: 0.1, hi: 1.0 })?;
        for axis in axes {
            value = normalise(inner, value, axis, op)?;
        }
        inner.output("a", value)
    })?;
    Ok(b.loop_op(body, trip, &[x], &[], &[])?[0])
}

fn exp_form(b: &mut Builder<'_>, z: ValueId, op: &Op) -> Built {
    let rank = b.ty(z).rank();
    let (rows, columns) = (rank - 1, rank - 2);
    let max = match op.word("shift") {
        "columns" => Some(b.reduce_keep(OpKind::ReduceMax, z, columns)?),
        "rows" => Some(b.reduce_keep(OpKind::ReduceMax, z, rows)?),
        "matrix" => {
            let shape = b.ty(z).shape.clone();
            let max = b.reduce(OpKind::ReduceMax, z, &[columns, rows])?;
            let axes: Vec<usize> = (0..columns).collect();
            Some(b.broadcast(max, shape, &axes)?)
        }
        _ => None,
    };
    let centred = match max {
        None => z,
        Some(max) => {
            let stop = op.flag(b.module, "stop_shift")? || cancels(b, op)?;
            let max = if stop { b.apply(OpKind::StopGradient, vec![], &[max])? } else { max };
            b.sub(z, max)?
        }
    };
    let start = b.unary(ScalarOp::Exp, centred)?;
    let axes = if op.word("first") == "rows" { [rows, columns] } else { [columns, rows] };
    normalise_loop(b, start, axes, iters(op, 0, b)?, op)
}

/// Whether the first normalisation divides the shift out, so that no derivative needs to follow it: without an eps, what is
/// the same along the axis that is summed first has no effect.
fn cancels(b: &Builder<'_>, op: &Op) -> Result<bool, String> {
    let is_uniform = op.word("shift") == op.word("first") || op.word("shift") == "matrix";
    Ok(is_uniform && op.float(b.module, "eps")? == 0.0 && op.int(b.module, "iters")? > 0)
}

fn softmax_form(b: &mut Builder<'_>, z: ValueId, op: &Op) -> Built {
    let rank = b.ty(z).rank();
    let (rows, columns) = (rank - 1, rank - 2);
    let (axis_a, axis_b) = if op.word("first") == "columns" { (rows, columns) } else { (columns, rows) };
    let soft = call(b, Op::new(OpKind::Softmax, vec![Attr::Int(axis_a as i64)]), &[z])?;
    let dtype = b.ty(z).dtype;
    let eps = b.scalar_attr(dtype, op, "eps")?;
    let start = b.add(soft, eps)?;
    let first = normalise(b, start, axis_b, op)?;
    normalise_loop(b, first, [axis_a, axis_b], iters(op, 1, b)?, op)
}

/// The trip count: `iters` less `skipped`, which were written out.
fn iters(op: &Op, skipped: i64, b: &Builder<'_>) -> Result<Attr, String> {
    match op.attr("iters") {
        Some(attr @ Attr::Param(_)) if skipped == 0 => Ok(attr.clone()),
        _ => Ok(Attr::Dim((op.int(b.module, "iters")? - skipped).max(0).into())),
    }
}

/// `e^(z + u + v)`: the matrix is never formed until the end, so no offset of the logits overflows.
fn log_form(b: &mut Builder<'_>, z: ValueId, op: &Op) -> Built {
    let ty = b.ty(z).clone();
    let rank = ty.rank();
    let first = if op.word("first") == "columns" { "columns" } else { "rows" };
    let second = if first == "rows" { "columns" } else { "rows" };
    let axes = [sum_axis(rank, first), sum_axis(rank, second)];
    let scale_type = TensorType::new(ty.dtype, ty.shape[..rank - 1].to_vec());
    let zero = b.scalar(ty.dtype, Scalar::Float(0.0))?;
    let zeros = b.broadcast(zero, scale_type.shape.clone(), &[])?;
    let body = b.nested("log_sinkhorn_step", |inner| {
        let u = inner.input("u", scale_type.clone(), Domain::default())?;
        let v = inner.input("v", scale_type.clone(), Domain::default())?;
        let z = inner.input("z", ty.clone(), Domain::default())?;
        let u_next = negative_lse(inner, z, v, axes[1], axes[0])?;
        let v_next = negative_lse(inner, z, u_next, axes[0], axes[1])?;
        inner.name(u, "u");
        inner.output("u", u_next)?;
        inner.output("v", v_next)
    })?;
    let scalings = b.loop_op(body, iters(op, 0, b)?, &[zeros, zeros], &[], &[z])?;
    let with_u = add_along(b, z, scalings[0], axes[0])?;
    let with_both = add_along(b, with_u, scalings[1], axes[1])?;
    b.unary(ScalarOp::Exp, with_both)
}

/// `-lse over sum_axis of (z + scaling repeated along repeat_axis)`.
fn negative_lse(
    b: &mut Builder<'_>,
    z: ValueId,
    scaling: ValueId,
    repeat_axis: usize,
    sum_axis: usize,
) -> Built {
    let sum = add_along(b, z, scaling, repeat_axis)?;
    let lse = norms::log_sum_exp_of(b, sum, sum_axis)?;
    b.unary(ScalarOp::Neg, lse)
}

/// `z` plus `scaling` repeated along `axis`.
fn add_along(b: &mut Builder<'_>, z: ValueId, scaling: ValueId, axis: usize) -> Built {
    let extent = b.dim(z, axis);
    let repeated = b.insert_axis(scaling, axis, extent)?;
    b.add(z, repeated)
}
