//! Derivatives of the ops that are not elementwise.
//!
//! In: an op with its operands, results and the operands' tangents. Out: the results' tangents, linear in those.

use super::{Derivative, Site, Tangents, scalar};
use crate::scalar::ScalarOp;
use crate::tensor::build::{Builder, Built};
use crate::tensor::{Op, OpKind, ValueId};

type Pushed = Result<Tangents, String>;

impl OpKind {
    /// Its derivative.
    pub fn derivative(self) -> Derivative {
        match self {
            OpKind::Scalar(op) => scalar::derivative(op),
            other => other.row().map_or(Derivative::Zero("it has no row"), |row| row.derivative),
        }
    }
}

/// The tangent of the first operand.
fn first(site: &Site<'_>) -> Result<ValueId, String> {
    site.tangents[0].ok_or_else(|| format!("the first operand of `{}` has no tangent", site.op.kind.name()))
}

/// Of ops that are linear in their only float operand, the first: the same op of its tangent.
pub fn linear(b: &mut Builder<'_>, site: &Site<'_>) -> Pushed {
    let mut args = site.args.to_vec();
    match site.tangents[0] {
        Some(tangent) => args[0] = tangent,
        None => return Ok(vec![None]),
    }
    Ok(vec![Some(b.op1(site.op.clone(), &args)?)])
}

/// `convert`: the tangent converted; none from or to integers.
pub fn convert(b: &mut Builder<'_>, site: &Site<'_>) -> Pushed {
    if !b.ty(site.results[0]).dtype.is_float() || !b.ty(site.args[0]).dtype.is_float() {
        return Ok(vec![None]);
    }
    linear(b, site)
}

/// Ops that are linear in all operands together: the same op of all tangents.
pub fn linear_in_all(b: &mut Builder<'_>, site: &Site<'_>) -> Pushed {
    let mut args = vec![];
    for (arg, tangent) in site.args.iter().zip(site.tangents) {
        args.push(match tangent {
            Some(tangent) => *tangent,
            None => {
                let ty = b.ty(*arg).clone();
                super::zeros(b, &ty)?
            }
        });
    }
    Ok(vec![Some(b.op1(site.op.clone(), &args)?)])
}

/// `contract`: a sum with the tangent in the place of each operand in turn.
pub fn contract(b: &mut Builder<'_>, site: &Site<'_>) -> Pushed {
    let mut total = None;
    for (place, tangent) in site.tangents.iter().enumerate() {
        let Some(tangent) = tangent else { continue };
        let mut args = site.args.to_vec();
        args[place] = *tangent;
        let term = b.op1(site.op.clone(), &args)?;
        total = Some(match total {
            None => term,
            Some(sum) => b.add(sum, term)?,
        });
    }
    Ok(vec![total])
}

/// The reduced axes of the op.
fn axes(op: &Op) -> Vec<usize> {
    op.axes("axes").iter().map(|axis| *axis as usize).collect()
}

/// A reduced value repeated along the axes that the reduction of `x` took away.
fn repeat(b: &mut Builder<'_>, reduced: ValueId, x: ValueId, reduced_axes: &[usize]) -> Built {
    let shape = b.ty(x).shape.clone();
    let kept: Vec<usize> = (0..shape.len()).filter(|axis| !reduced_axes.contains(axis)).collect();
    b.broadcast(reduced, shape, &kept)
}

/// `reduce_max`, `reduce_min`: the mean of the tangents where the extremum is attained.
pub fn extremum(b: &mut Builder<'_>, site: &Site<'_>) -> Pushed {
    let (x, t) = (site.args[0], first(site)?);
    if !b.ty(x).dtype.is_float() {
        return Ok(vec![None]);
    }
    let axes = axes(site.op);
    let extremum = repeat(b, site.results[0], x, &axes)?;
    let is_attained = b.elementwise(ScalarOp::Eq, &[x, extremum])?;
    let dtype = b.ty(x).dtype;
    let mask = b.convert(is_attained, dtype)?;
    let count = b.sum(mask, &axes)?;
    let masked = b.mul(t, mask)?;
    let sum = b.sum(masked, &axes)?;
    Ok(vec![Some(b.div(sum, count)?)])
}

/// `reduce_prod`: each tangent times the product of the other elements, which division gives unless one is zero.
pub fn product(b: &mut Builder<'_>, site: &Site<'_>) -> Pushed {
    let (x, t) = (site.args[0], first(site)?);
    let axes = axes(site.op);
    let zero = b.float_like(x, 0.0)?;
    let one = b.float_like(x, 1.0)?;
    let is_zero = b.elementwise(ScalarOp::Eq, &[x, zero])?;
    let safe = b.select(is_zero, one, x)?;
    let product = b.reduce(OpKind::ReduceProd, safe, &axes)?;
    let product = repeat(b, product, x, &axes)?;
    let ones = b.select(is_zero, one, zero)?;
    let zeros = b.sum(ones, &axes)?;
    let zeros = repeat(b, zeros, x, &axes)?;
    let others = b.div(product, safe)?;
    let none_zero = b.elementwise(ScalarOp::Eq, &[zeros, zero])?;
    let one_zero = b.elementwise(ScalarOp::Eq, &[zeros, one])?;
    let is_only_zero = b.elementwise(ScalarOp::And, &[is_zero, one_zero])?;
    let at_zero = b.select(is_only_zero, product, zero)?;
    let factor = b.select(none_zero, others, at_zero)?;
    let term = b.mul(t, factor)?;
    Ok(vec![Some(b.sum(term, &axes)?)])
}

/// `a b` of matrices with equal leading axes, the first transposed if so.
fn matmul(b: &mut Builder<'_>, x: ValueId, y: ValueId, transpose_x: bool) -> Built {
    let lead: String = ('a'..='r').take(b.ty(x).rank().saturating_sub(2)).collect();
    let left = if transpose_x { "yx" } else { "xy" };
    let dtype = b.ty(x).dtype;
    b.contract_as(&format!("{lead}{left},{lead}yz->{lead}xz"), dtype, &[x, y])
}

/// `solve`: `a x = b` gives `a t_x = t_b - t_a x`.
pub fn solve(b: &mut Builder<'_>, site: &Site<'_>) -> Pushed {
    let product = match site.tangents[0] {
        Some(t) => Some(matmul(b, t, site.results[0], false)?),
        None => None,
    };
    let right = match (site.tangents[1], product) {
        (Some(t), Some(product)) => b.sub(t, product)?,
        (Some(t), None) => t,
        (None, Some(product)) => b.unary(ScalarOp::Neg, product)?,
        (None, None) => return Ok(vec![None]),
    };
    Ok(vec![Some(b.op1(site.op.clone(), &[site.args[0], right])?)])
}

/// `qr`: with `c = q^T t r^-1` and the skew matrix `w` that has the part of `c` below the diagonal,
/// `t_r = (c - w) r`, `t_q = t r^-1 - q (c - w)` (Walter and Lehmann 2018, section 4).
pub fn qr(b: &mut Builder<'_>, site: &Site<'_>) -> Pushed {
    let (q, r, t) = (site.results[0], site.results[1], first(site)?);
    // t r^-1, as the transpose of r^T x = t^T.
    let r_turned = b.transpose_last(r)?;
    let t_turned = b.transpose_last(t)?;
    let turned = b.op1(Op::plain(OpKind::Solve), &[r_turned, t_turned])?;
    let quotient = b.transpose_last(turned)?;
    let c = matmul(b, q, quotient, true)?;
    let below = below_diagonal(b, c)?;
    let above = b.transpose_last(below)?;
    let skew = b.sub(below, above)?;
    let rest = b.sub(c, skew)?;
    let t_r = matmul(b, rest, r, false)?;
    let inside = matmul(b, q, rest, false)?;
    let t_q = b.sub(quotient, inside)?;
    Ok(vec![Some(t_q), Some(t_r)])
}

/// The elements below the diagonal, zeros elsewhere.
fn below_diagonal(b: &mut Builder<'_>, x: ValueId) -> Built {
    let shape = b.ty(x).shape.clone();
    let rank = shape.len();
    let mut count = |axis: usize| b.iota(shape.clone(), axis);
    let (row, column) = (count(rank - 2)?, count(rank - 1)?);
    let is_below = b.lt(column, row)?;
    let zero = b.float_like(x, 0.0)?;
    b.select(is_below, x, zero)
}

// ---- composites whose own rule is safer or smaller than that of their expansion ---------------------------------------

/// `sigmoid`: `y (1 - y)`, which stays finite where `e^-x` overflows.
pub fn sigmoid(b: &mut Builder<'_>, site: &Site<'_>) -> Pushed {
    let (y, t) = (site.results[0], first(site)?);
    let one = b.float_like(y, 1.0)?;
    let rest = b.sub(one, y)?;
    let slope = b.mul(y, rest)?;
    Ok(vec![Some(b.mul(t, slope)?)])
}

/// `silu`: `s (1 + x (1 - s))` with `s = sigmoid(x)`.
pub fn silu(b: &mut Builder<'_>, site: &Site<'_>) -> Pushed {
    let (x, t) = (site.args[0], first(site)?);
    let gate = b.op1(Op::plain(OpKind::Sigmoid), &[x])?;
    let one = b.float_like(x, 1.0)?;
    let rest = b.sub(one, gate)?;
    let product = b.mul(x, rest)?;
    let sum = b.add_const(product, 1.0)?;
    let slope = b.mul(gate, sum)?;
    Ok(vec![Some(b.mul(t, slope)?)])
}

/// `relu`: 1 above 0, else 0.
pub fn relu(b: &mut Builder<'_>, site: &Site<'_>) -> Pushed {
    let (x, t) = (site.args[0], first(site)?);
    let zero = b.float_like(x, 0.0)?;
    let is_above = b.lt(zero, x)?;
    Ok(vec![Some(b.select(is_above, t, zero)?)])
}

/// `softplus`: `sigmoid(x)`.
pub fn softplus(b: &mut Builder<'_>, site: &Site<'_>) -> Pushed {
    let slope = b.op1(Op::plain(OpKind::Sigmoid), &[site.args[0]])?;
    Ok(vec![Some(b.mul(first(site)?, slope)?)])
}

/// `softmax`: `y (t - sum(y t))`.
pub fn softmax(b: &mut Builder<'_>, site: &Site<'_>) -> Pushed {
    let (y, t) = (site.results[0], first(site)?);
    let axis = site.op.axis(b.module, b.ty(y).rank())?;
    let product = b.mul(t, y)?;
    let sum = b.sum(product, &[axis])?;
    let sum = repeat(b, sum, y, &[axis])?;
    let centred = b.sub(t, sum)?;
    Ok(vec![Some(b.mul(centred, y)?)])
}
