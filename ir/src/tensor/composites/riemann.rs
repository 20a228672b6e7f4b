//! Riemannian maps of the kappa-stereographic model (docs/MATHEMATICS.md 20 to 22; Bachmann, Becigneul and Ganea 2020).
//!
//! Points are `[.., d]`; the curvature `k` has the shape of the leading axes or of the first of them.

use super::norms::positive_or_one;
use super::{Expanded, single};
use crate::scalar::ScalarOp;
use crate::tensor::build::Built;
use crate::tensor::{Op, OpKind, ValueId, build::Builder};

/// Coefficients of `tan(t)/t` in `t^2` (the series of tan; Abramowitz and Stegun 4.3.67).
const TAN_SERIES: [f64; 6] = [1.0, 1.0 / 3.0, 2.0 / 15.0, 17.0 / 315.0, 62.0 / 2835.0, 1382.0 / 155_925.0];
/// Coefficients of `atan(t)/t` in `t^2`.
const ATAN_SERIES: [f64; 7] = [1.0, -1.0 / 3.0, 1.0 / 5.0, -1.0 / 7.0, 1.0 / 9.0, -1.0 / 11.0, 1.0 / 13.0];
/// Below this `|k| x^2` the series is used: there f32 loses the derivative in `k` otherwise.
const SERIES_BOUND: f64 = 1e-2;

/// `sum coeffs[i] z^i` by Horner's rule.
pub fn polynomial(b: &mut Builder<'_>, z: ValueId, coeffs: &[f64]) -> Built {
    let mut coeffs = coeffs.iter().rev();
    let mut value = b.float_like(z, coeffs.next().copied().unwrap_or(0.0))?;
    for coeff in coeffs {
        let product = b.mul(value, z)?;
        value = b.add_const(product, *coeff)?;
    }
    Ok(value)
}

/// See the op `tan_k`.
pub fn tan_k(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    single(trig(b, args[0], args[1], &TAN_SERIES, ScalarOp::Tanh, ScalarOp::Tan))
}

/// See the op `atan_k`.
pub fn atan_k(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    single(trig(b, args[0], args[1], &ATAN_SERIES, ScalarOp::Atanh, ScalarOp::Atan))
}

/// `hyperbolic(s x)/s` for `k < 0`, `circular(s x)/s` for `k > 0` with `s = sqrt(|k|)`, `x series(k x^2)` near 0.
fn trig(
    b: &mut Builder<'_>,
    x: ValueId,
    k: ValueId,
    series: &[f64],
    hyperbolic: ScalarOp,
    circular: ScalarOp,
) -> Built {
    let square = b.mul(x, x)?;
    let z = b.mul(k, square)?;
    let sum = polynomial(b, z, series)?;
    let near = b.mul(x, sum)?;
    let size = b.unary(ScalarOp::Abs, z)?;
    let bound = b.float_like(x, SERIES_BOUND)?;
    let small = b.lt(size, bound)?;
    let zero = b.float_like(x, 0.0)?;
    let negative = b.lt(k, zero)?;
    // Each branch sees a curvature and an argument that are harmless to it where it is not the one that counts.
    let one = b.float_like(x, 1.0)?;
    let k_size = b.unary(ScalarOp::Abs, k)?;
    let safe_size = b.select(small, one, k_size)?;
    let root = b.unary(ScalarOp::Sqrt, safe_size)?;
    let arg = b.mul(root, x)?;
    let arg = b.select(small, zero, arg)?;
    let hyper_arg = b.select(negative, arg, zero)?;
    let circle_arg = b.select(negative, zero, arg)?;
    let hyper = b.unary(hyperbolic, hyper_arg)?;
    let circle = b.unary(circular, circle_arg)?;
    let far = b.select(negative, hyper, circle)?;
    let far = b.div(far, root)?;
    b.select(small, near, far)
}

/// `<x, y>` along the last axis.
fn dot(b: &mut Builder<'_>, x: ValueId, y: ValueId) -> Built {
    let product = b.mul(x, y)?;
    let axis = b.ty(product).rank() - 1;
    b.sum(product, &[axis])
}

/// `factor * x` with one factor per point.
fn scale(b: &mut Builder<'_>, factor: ValueId, x: ValueId) -> Built {
    let axis = b.ty(x).rank() - 1;
    let extent = b.dim(x, axis);
    let factor = b.insert_axis(factor, axis, extent)?;
    b.mul(factor, x)
}

/// The points of the operands brought to one shape, and the curvature per point.
fn points(b: &mut Builder<'_>, points: &[ValueId], k: ValueId) -> Result<(Vec<ValueId>, ValueId), String> {
    let first = points[0];
    let ty = b.ty(first).clone();
    if ty.rank() == 0 || points.iter().any(|point| *b.ty(*point) != ty) {
        let types: Vec<String> = points.iter().map(|point| b.ty(*point).to_string()).collect();
        return Err(format!("expected points [..,d] of one type, found {}", types.join(", ")));
    }
    let lead = &ty.shape[..ty.rank() - 1];
    let k_shape = b.ty(k).shape.clone();
    if lead == k_shape {
        return Ok((points.to_vec(), k));
    }
    if !lead.starts_with(&k_shape) {
        return Err(format!("the curvature must have the leading extents of {ty}, found {}", b.ty(k)));
    }
    let axes: Vec<usize> = (0..k_shape.len()).collect();
    let k = b.broadcast(k, lead.to_vec(), &axes)?;
    Ok((points.to_vec(), k))
}

/// See the op `conformal_factor`.
pub fn conformal_factor(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let (x, k) = points(b, &args[..1], args[1])?;
    single(lambda(b, x[0], k))
}

/// `2 / (1 + k |x|^2)`.
fn lambda(b: &mut Builder<'_>, x: ValueId, k: ValueId) -> Built {
    let square = dot(b, x, x)?;
    let product = b.mul(k, square)?;
    let sum = b.add_const(product, 1.0)?;
    let two = b.float_like(sum, 2.0)?;
    b.div(two, sum)
}

/// See the op `mobius_add`.
pub fn mobius_add(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let (xy, k) = points(b, &args[..2], args[2])?;
    single(mobius(b, xy[0], xy[1], k))
}

/// `[(1 - 2k<x,y> - k|y|^2) x + (1 + k|x|^2) y] / (1 - 2k<x,y> + k^2 |x|^2 |y|^2)`.
fn mobius(b: &mut Builder<'_>, x: ValueId, y: ValueId, k: ValueId) -> Built {
    let (xx, xy, yy) = (dot(b, x, x)?, dot(b, x, y)?, dot(b, y, y)?);
    let twice = b.mul_const(k, 2.0)?;
    let cross = b.mul(twice, xy)?;
    let one = b.float_like(k, 1.0)?;
    let base = b.sub(one, cross)?;
    let k_yy = b.mul(k, yy)?;
    let k_xx = b.mul(k, xx)?;
    let x_factor = b.sub(base, k_yy)?;
    let y_factor = b.add(one, k_xx)?;
    let product = b.mul(k_xx, k_yy)?;
    let denominator = b.add(base, product)?;
    let x_part = scale(b, x_factor, x)?;
    let y_part = scale(b, y_factor, y)?;
    let sum = b.add(x_part, y_part)?;
    let axis = b.ty(sum).rank() - 1;
    let extent = b.dim(sum, axis);
    let denominator = b.insert_axis(denominator, axis, extent)?;
    b.div(sum, denominator)
}

/// `-x (+) y = [(1 + k|x|^2) d + k|d|^2 x] / (1 + 2k<x,y> + k^2 |x|^2 |y|^2)` with `d = y - x`: the numerator of the Mobius sum
/// rearranged so that near points do not cancel, and equal ones give exactly 0.
fn difference(b: &mut Builder<'_>, x: ValueId, y: ValueId, k: ValueId) -> Built {
    let d = b.sub(y, x)?;
    let (xx, xy, yy, dd) = (dot(b, x, x)?, dot(b, x, y)?, dot(b, y, y)?, dot(b, d, d)?);
    let (k_xx, k_xy, k_yy) = (b.mul(k, xx)?, b.mul(k, xy)?, b.mul(k, yy)?);
    let d_factor = b.add_const(k_xx, 1.0)?;
    let x_factor = b.mul(k, dd)?;
    let twice = b.mul_const(k_xy, 2.0)?;
    let product = b.mul(k_xx, k_yy)?;
    let rest = b.add_const(twice, 1.0)?;
    let denominator = b.add(rest, product)?;
    let (d_part, x_part) = (scale(b, d_factor, d)?, scale(b, x_factor, x)?);
    let sum = b.add(d_part, x_part)?;
    let axis = b.ty(sum).rank() - 1;
    let extent = b.dim(sum, axis);
    let denominator = b.insert_axis(denominator, axis, extent)?;
    b.div(sum, denominator)
}

/// A Euclidean norm, whose derivative at 0 is 0.
struct Length {
    /// Whether it is above 0.
    positive: ValueId,
    /// The norm.
    norm: ValueId,
    /// The norm, or 1 where it is 0.
    divisor: ValueId,
}

/// The root of `square`. The norm is selected behind the root and not before it: a stand-in other than 0 could meet a pole of
/// what is computed from it, whose derivative would be infinite though nothing of it is selected.
fn length(b: &mut Builder<'_>, square: ValueId) -> Result<Length, String> {
    let (positive, safe) = positive_or_one(b, square)?;
    let divisor = b.unary(ScalarOp::Sqrt, safe)?;
    let zero = b.float_like(square, 0.0)?;
    let norm = b.select(positive, divisor, zero)?;
    Ok(Length { positive, norm, divisor })
}

/// See the op `exp_map`.
pub fn exp_map(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let (xv, k) = points(b, &args[..2], args[2])?;
    let (x, v) = (xv[0], xv[1]);
    let half = {
        let factor = lambda(b, x, k)?;
        b.mul_const(factor, 0.5)?
    };
    let square = dot(b, v, v)?;
    let Length { positive, norm, divisor } = length(b, square)?;
    let argument = b.mul(half, norm)?;
    let tangent = b.op1(Op::plain(OpKind::TanK), &[argument, k])?;
    let slope = b.div(tangent, divisor)?;
    // At v = 0 the quotient tends to lambda/2; the point is x.
    let factor = b.select(positive, slope, half)?;
    let step = scale(b, factor, v)?;
    single(mobius(b, x, step, k))
}

/// See the op `log_map`.
pub fn log_map(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let (xy, k) = points(b, &args[..2], args[2])?;
    let w = difference(b, xy[0], xy[1], k)?;
    let square = dot(b, w, w)?;
    let Length { positive, norm, divisor } = length(b, square)?;
    let arc = b.op1(Op::plain(OpKind::AtanK), &[norm, k])?;
    let slope = b.div(arc, divisor)?;
    let one = b.float_like(slope, 1.0)?;
    let slope = b.select(positive, slope, one)?;
    let factor = lambda(b, xy[0], k)?;
    let two = b.float_like(factor, 2.0)?;
    let inverse = b.div(two, factor)?;
    let factor = b.mul(inverse, slope)?;
    single(scale(b, factor, w))
}

/// See the op `dist`. The derivative at equal points is taken as 0.
pub fn dist(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let (xy, k) = points(b, &args[..2], args[2])?;
    let w = difference(b, xy[0], xy[1], k)?;
    let square = dot(b, w, w)?;
    let Length { positive, norm, .. } = length(b, square)?;
    let arc = b.op1(Op::plain(OpKind::AtanK), &[norm, k])?;
    let twice = b.mul_const(arc, 2.0)?;
    // 0 where the points are equal, NaN where they are not numbers.
    single(b.select(positive, twice, square))
}

/// See the op `transport`.
pub fn transport(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let (xyv, k) = points(b, &args[..3], args[3])?;
    let (x, y, v) = (xyv[0], xyv[1], xyv[2]);
    let minus = b.unary(ScalarOp::Neg, x)?;
    let turned = gyration(b, y, minus, v, k)?;
    let (from, to) = (lambda(b, x, k)?, lambda(b, y, k)?);
    let ratio = b.div(from, to)?;
    single(scale(b, ratio, turned))
}

/// `gyr[u,v] w = w + 2 (a u + b v)/d` with `a = -k^2 <u,w>|v|^2 - k <v,w> + 2 k^2 <u,v><v,w>`,
/// `b = -k^2 <v,w>|u|^2 + k <u,w>`, `d = 1 - 2k<u,v> + k^2 |u|^2|v|^2` (Ungar 2008, eq. 1.27, for curvature k).
fn gyration(b: &mut Builder<'_>, u: ValueId, v: ValueId, w: ValueId, k: ValueId) -> Built {
    let (uu, vv, uv) = (dot(b, u, u)?, dot(b, v, v)?, dot(b, u, v)?);
    let (uw, vw) = (dot(b, u, w)?, dot(b, v, w)?);
    let (k_uw, k_vw, k_uv) = (b.mul(k, uw)?, b.mul(k, vw)?, b.mul(k, uv)?);
    let (k_uu, k_vv) = (b.mul(k, uu)?, b.mul(k, vv)?);
    let first = b.mul(k_uw, k_vv)?;
    let third = b.mul(k_uv, k_vw)?;
    let third = b.mul_const(third, 2.0)?;
    let sum = b.add(first, k_vw)?;
    let u_factor = b.sub(third, sum)?;
    let fourth = b.mul(k_vw, k_uu)?;
    let v_factor = b.sub(k_uw, fourth)?;
    let twice = b.mul_const(k_uv, 2.0)?;
    let product = b.mul(k_uu, k_vv)?;
    let one = b.float_like(k, 1.0)?;
    let rest = b.sub(one, twice)?;
    let denominator = b.add(rest, product)?;
    let two = b.float_like(k, 2.0)?;
    let inverse = b.div(two, denominator)?;
    let (u_factor, v_factor) = (b.mul(u_factor, inverse)?, b.mul(v_factor, inverse)?);
    let (u_part, v_part) = (scale(b, u_factor, u)?, scale(b, v_factor, v)?);
    let change = b.add(u_part, v_part)?;
    b.add(w, change)
}
