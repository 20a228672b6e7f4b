//! Derivatives of elementwise ops.
//!
//! In: an elementwise op, its operands, its result. Out: the tangent of the result, linear in those of the operands. Factors
//! are written in terms of the result where that spares work or range: `e^x` is its own derivative, that of `a/b` needs no
//! second division.

use super::{Derivative, Site, Tangents};
use crate::scalar::ScalarOp;
use crate::tensor::build::{Builder, Built};
use crate::tensor::{OpKind, ValueId};

/// The derivative of an elementwise op.
pub fn derivative(op: ScalarOp) -> Derivative {
    use ScalarOp as S;
    match op {
        S::Sign | S::Floor => Derivative::Zero("it is constant between its jumps"),
        S::Rem | S::BitAnd | S::BitOr | S::BitXor | S::Shl | S::Shr => {
            Derivative::Zero("it takes and gives integers")
        }
        S::Eq | S::Ne | S::Lt | S::Le | S::And | S::Or | S::Not => Derivative::Zero("it gives truth values"),
        _ => Derivative::Rule(rule),
    }
}

fn rule(b: &mut Builder<'_>, site: &Site<'_>) -> Result<Tangents, String> {
    let OpKind::Scalar(op) = site.op.kind else {
        return Err(format!("`{}` is not elementwise", site.op.kind.name()));
    };
    if !b.ty(site.results[0]).dtype.is_float() {
        return Ok(vec![None]);
    }
    let tangent = match site.args.len() {
        1 => match site.tangents[0] {
            Some(tangent) => Some(unary(b, op, site.args[0], site.results[0], tangent)?),
            None => None,
        },
        2 => binary(b, op, site)?,
        _ => select(b, site)?,
    };
    Ok(vec![tangent])
}

/// `t f'(x)` with `y = f(x)`.
fn unary(b: &mut Builder<'_>, op: ScalarOp, x: ValueId, y: ValueId, t: ValueId) -> Built {
    use ScalarOp as S;
    let one_plus_square = |b: &mut Builder<'_>, x: ValueId| {
        let square = b.mul(x, x)?;
        b.add_const(square, 1.0)
    };
    let one_minus_square = |b: &mut Builder<'_>, x: ValueId| {
        let square = b.mul(x, x)?;
        let one = b.float_like(x, 1.0)?;
        b.sub(one, square)
    };
    let factor = match op {
        S::Neg => return b.unary(S::Neg, t),
        S::Abs => b.unary(S::Sign, x)?,
        S::Exp => y,
        S::Expm1 => b.add_const(y, 1.0)?,
        S::Log => return b.div(t, x),
        S::Log1p => {
            let sum = b.add_const(x, 1.0)?;
            return b.div(t, sum);
        }
        S::Sqrt => {
            let twice = b.mul_const(y, 2.0)?;
            return b.div(t, twice);
        }
        S::Rsqrt => {
            let square = b.mul(y, y)?;
            let cube = b.mul(square, y)?;
            b.mul_const(cube, -0.5)?
        }
        S::Recip => {
            let square = b.mul(y, y)?;
            b.unary(S::Neg, square)?
        }
        S::Sin => b.unary(S::Cos, x)?,
        S::Cos => {
            let sine = b.unary(S::Sin, x)?;
            b.unary(S::Neg, sine)?
        }
        S::Tan => one_plus_square(b, y)?,
        S::Atan => {
            let sum = one_plus_square(b, x)?;
            return b.div(t, sum);
        }
        S::Sinh => b.unary(S::Cosh, x)?,
        S::Cosh => b.unary(S::Sinh, x)?,
        S::Tanh => one_minus_square(b, y)?,
        S::Asinh => {
            let sum = one_plus_square(b, x)?;
            let root = b.unary(S::Sqrt, sum)?;
            return b.div(t, root);
        }
        S::Atanh => {
            let rest = one_minus_square(b, x)?;
            return b.div(t, rest);
        }
        S::Erf => {
            let square = b.mul(x, x)?;
            let minus = b.unary(S::Neg, square)?;
            let bell = b.unary(S::Exp, minus)?;
            b.mul_const(bell, std::f64::consts::FRAC_2_SQRT_PI)?
        }
        other => return Err(format!("`{}` has no derivative rule", other.name())),
    };
    b.mul(t, factor)
}

fn binary(b: &mut Builder<'_>, op: ScalarOp, site: &Site<'_>) -> Result<Option<ValueId>, String> {
    use ScalarOp as S;
    let (x, y) = (site.args[0], site.args[1]);
    let (tx, ty) = (site.tangents[0], site.tangents[1]);
    let result = site.results[0];
    let found = match op {
        S::Add => return sum(b, tx, ty),
        S::Sub => match (tx, ty) {
            (Some(tx), Some(ty)) => b.sub(tx, ty)?,
            (Some(tx), None) => tx,
            (None, Some(ty)) => b.unary(S::Neg, ty)?,
            (None, None) => return Ok(None),
        },
        S::Mul => {
            let first = scaled(b, tx, y)?;
            let second = scaled(b, ty, x)?;
            return sum(b, first, second);
        }
        S::Div => {
            // (tx - (x/y) ty) / y
            let second = scaled(b, ty, result)?;
            let numerator = match (tx, second) {
                (Some(tx), Some(second)) => b.sub(tx, second)?,
                (Some(tx), None) => tx,
                (None, Some(second)) => b.unary(S::Neg, second)?,
                (None, None) => return Ok(None),
            };
            b.div(numerator, y)?
        }
        S::Max => {
            let is_second = b.lt(x, y)?;
            return choose(b, is_second, ty, tx);
        }
        S::Min => {
            let is_second = b.lt(y, x)?;
            return choose(b, is_second, ty, tx);
        }
        S::Pow => {
            let first = match tx {
                Some(tx) => Some(power_base(b, x, y, tx)?),
                None => None,
            };
            let second = match ty {
                Some(ty) => Some(power_exponent(b, x, result, ty)?),
                None => None,
            };
            return sum(b, first, second);
        }
        S::Atan2 => {
            // Angle of the point (y, x): (tx y - x ty) / (x^2 + y^2).
            let first = scaled(b, tx, y)?;
            let second = scaled(b, ty, x)?;
            let numerator = match (first, second) {
                (Some(first), Some(second)) => b.sub(first, second)?,
                (Some(first), None) => first,
                (None, Some(second)) => b.unary(S::Neg, second)?,
                (None, None) => return Ok(None),
            };
            let (xx, yy) = (b.mul(x, x)?, b.mul(y, y)?);
            let square = b.add(xx, yy)?;
            b.div(numerator, square)?
        }
        other => return Err(format!("`{}` has no derivative rule", other.name())),
    };
    Ok(Some(found))
}

/// `t y x^(y-1)`, 0 where `y` is 0.
fn power_base(b: &mut Builder<'_>, x: ValueId, y: ValueId, t: ValueId) -> Built {
    let zero = b.float_like(y, 0.0)?;
    let is_flat = b.elementwise(ScalarOp::Eq, &[y, zero])?;
    let less = b.add_const(y, -1.0)?;
    let power = b.elementwise(ScalarOp::Pow, &[x, less])?;
    let slope = b.mul(y, power)?;
    let slope = b.select(is_flat, zero, slope)?;
    b.mul(t, slope)
}

/// `t x^y log x`, 0 where `x` is 0 (the limit for positive exponents).
fn power_exponent(b: &mut Builder<'_>, x: ValueId, result: ValueId, t: ValueId) -> Built {
    let zero = b.float_like(x, 0.0)?;
    let one = b.float_like(x, 1.0)?;
    let is_zero = b.elementwise(ScalarOp::Eq, &[x, zero])?;
    let safe = b.select(is_zero, one, x)?;
    let log = b.unary(ScalarOp::Log, safe)?;
    let slope = b.mul(result, log)?;
    b.mul(t, slope)
}

fn select(b: &mut Builder<'_>, site: &Site<'_>) -> Result<Option<ValueId>, String> {
    choose(b, site.args[0], site.tangents[1], site.tangents[2])
}

/// `t * factor`.
fn scaled(b: &mut Builder<'_>, t: Option<ValueId>, factor: ValueId) -> Result<Option<ValueId>, String> {
    t.map(|t| b.mul(t, factor)).transpose()
}

fn sum(b: &mut Builder<'_>, x: Option<ValueId>, y: Option<ValueId>) -> Result<Option<ValueId>, String> {
    match (x, y) {
        (Some(x), Some(y)) => b.add(x, y).map(Some),
        (x, y) => Ok(x.or(y)),
    }
}

/// The first tangent where `condition` holds, else the second.
fn choose(
    b: &mut Builder<'_>,
    condition: ValueId,
    first: Option<ValueId>,
    second: Option<ValueId>,
) -> Result<Option<ValueId>, String> {
    let Some(like) = first.or(second) else { return Ok(None) };
    let zero = b.float_like(like, 0.0)?;
    b.select(condition, first.unwrap_or(zero), second.unwrap_or(zero)).map(Some)
}
