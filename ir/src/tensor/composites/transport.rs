//! Entropic optimal transport in the log domain (docs/MATHEMATICS.md 15, 16; Peyre and Cuturi 2019, section 4.4).

use super::{Expanded, contract, norms, single};
use crate::dtype::DType;
use crate::scalar::{Scalar, ScalarOp};
use crate::tensor::build::Built;
use crate::tensor::{Attr, Domain, Op, OpKind, TensorType, ValueId, build::Builder};

/// See the op `pairwise_cost`.
pub fn pairwise_cost(b: &mut Builder<'_>, args: &[ValueId], op: &Op) -> Expanded {
    let (x, y) = (args[0], args[1]);
    if b.ty(x).rank() != 2 || b.ty(y).rank() != 2 {
        return Err(format!("expected points [N,d] and [M,d], found {} and {}", b.ty(x), b.ty(y)));
    }
    match op.word("metric") {
        "cosine" => single(cosine_cost(b, x, y)),
        _ => single(euclidean_cost(b, x, y)),
    }
}

fn euclidean_cost(b: &mut Builder<'_>, x: ValueId, y: ValueId) -> Built {
    let (rows, columns) = (b.dim(x, 0), b.dim(y, 0));
    let cross = contract(b, "id,jd->ij", &[x, y])?;
    let x_square = b.mul(x, x)?;
    let x_norm = b.sum(x_square, &[1])?;
    let x_norm = b.insert_axis(x_norm, 1, columns)?;
    let y_square = b.mul(y, y)?;
    let y_norm = b.sum(y_square, &[1])?;
    let y_norm = b.insert_axis(y_norm, 0, rows)?;
    let norms = b.add(x_norm, y_norm)?;
    let cross = b.mul_const(cross, 2.0)?;
    let cost = b.sub(norms, cross)?;
    let zero = b.float_like(cost, 0.0)?;
    b.max(cost, zero)
}

fn cosine_cost(b: &mut Builder<'_>, x: ValueId, y: ValueId) -> Built {
    let x = unit(b, x)?;
    let y = unit(b, y)?;
    let cosine = contract(b, "id,jd->ij", &[x, y])?;
    let twice = b.mul_const(cosine, 2.0)?;
    let two = b.float_like(twice, 2.0)?;
    b.sub(two, twice)
}

/// Rows divided by their norm; a zero row stays zero.
fn unit(b: &mut Builder<'_>, x: ValueId) -> Built {
    let square = b.mul(x, x)?;
    let sum = b.sum(square, &[1])?;
    let (_, safe) = norms::positive_or_one(b, sum)?;
    let root = b.unary(ScalarOp::Sqrt, safe)?;
    let width = b.dim(x, 1);
    let root = b.insert_axis(root, 1, width)?;
    b.div(x, root)
}

/// See the op `ot_potentials`.
pub fn ot_potentials(b: &mut Builder<'_>, args: &[ValueId], op: &Op) -> Expanded {
    let cost = args[0];
    let ty = b.ty(cost).clone();
    if ty.rank() != 2 || !ty.dtype.is_float() {
        return Err(format!("expected costs [N,M] of floats, found {ty}"));
    }
    let (log_a, log_b) = match args.get(1..3) {
        Some(&[log_a, log_b]) => (log_a, log_b),
        _ => (uniform(b, &ty, 0)?, uniform(b, &ty, 1)?),
    };
    let (f_type, g_type) = (vector(&ty, 0), vector(&ty, 1));
    let zero = b.scalar(ty.dtype, Scalar::Float(0.0))?;
    let f_start = b.broadcast(zero, f_type.shape.clone(), &[])?;
    let g_start = b.broadcast(zero, g_type.shape.clone(), &[])?;
    let body = b.nested("ot_step", |inner| {
        inner.input("f", f_type.clone(), Domain::default())?;
        let g = inner.input("g", g_type.clone(), Domain::default())?;
        let cost = inner.input("cost", ty.clone(), Domain::Uniform { lo: 0.0, hi: 4.0 })?;
        let log_a = inner.input("log_a", f_type.clone(), Domain::default())?;
        let log_b = inner.input("log_b", g_type.clone(), Domain::default())?;
        let eps = inner.scalar_attr(ty.dtype, op, "eps")?;
        let f_next = half_step(inner, cost, g, log_a, eps, 1)?;
        let g_next = half_step(inner, cost, f_next, log_b, eps, 0)?;
        inner.output("f", f_next)?;
        inner.output("g", g_next)
    })?;
    let trip = match op.attr("iters") {
        Some(Attr::Int(value)) => Attr::Dim((*value).into()),
        Some(other) => other.clone(),
        None => return Err("`ot_potentials` needs `iters`".into()),
    };
    b.loop_op(body, trip, &[f_start, g_start], &[], &[cost, log_a, log_b])
}

/// The log of the uniform marginal along `axis` of the costs.
fn uniform(b: &mut Builder<'_>, cost: &TensorType, axis: usize) -> Built {
    let extent = cost.shape[axis].clone();
    let count = norms::size_as_float(b, &extent, DType::F64)?;
    let log = b.unary(ScalarOp::Log, count)?;
    let minus = b.unary(ScalarOp::Neg, log)?;
    let minus = b.convert(minus, cost.dtype)?;
    b.broadcast(minus, vec![extent], &[])
}

fn vector(cost: &TensorType, axis: usize) -> TensorType {
    TensorType::new(cost.dtype, vec![cost.shape[axis].clone()])
}

/// `eps (log marginal - lse over sum_axis of (other - c)/eps)`.
fn half_step(
    b: &mut Builder<'_>,
    cost: ValueId,
    other: ValueId,
    log_marginal: ValueId,
    eps: ValueId,
    sum_axis: usize,
) -> Built {
    let repeat_axis = 1 - sum_axis;
    let extent = b.dim(cost, repeat_axis);
    let other = b.insert_axis(other, repeat_axis, extent)?;
    let difference = b.sub(other, cost)?;
    let scaled = b.div(difference, eps)?;
    let lse = b.apply(OpKind::LogSumExp, vec![Attr::Int(sum_axis as i64)], &[scaled])?;
    let rest = b.sub(log_marginal, lse)?;
    b.mul(eps, rest)
}

/// See the op `barycentric_map`.
pub fn barycentric_map(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let (plan, y) = (args[0], args[1]);
    if b.ty(plan).rank() != 2 || b.ty(y).rank() != 2 {
        return Err(format!("expected a plan [N,M] and points [M,d], found {} and {}", b.ty(plan), b.ty(y)));
    }
    let mixed = contract(b, "ij,jd->id", &[plan, y])?;
    let mass = b.sum(plan, &[1])?;
    let width = b.dim(y, 1);
    let mass = b.insert_axis(mass, 1, width)?;
    single(b.div(mixed, mass))
}
