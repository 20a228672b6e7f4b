//! Elementwise composites: activations.

use super::{Expanded, single};
use crate::scalar::ScalarOp;
use crate::tensor::build::Built;
use crate::tensor::{Op, ValueId, build::Builder};

/// `1 / (1 + e^-x)`; where `e^-x` overflows the quotient is 0, as it should be.
pub fn sigmoid(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    single(sigmoid_of(b, args[0]))
}

fn sigmoid_of(b: &mut Builder<'_>, x: ValueId) -> Built {
    let minus = b.unary(ScalarOp::Neg, x)?;
    let exp = b.unary(ScalarOp::Exp, minus)?;
    let sum = b.add_const(exp, 1.0)?;
    b.unary(ScalarOp::Recip, sum)
}

/// `x sigmoid(x)`.
pub fn silu(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let gate = sigmoid_of(b, args[0])?;
    single(b.mul(args[0], gate))
}

/// `max(x, 0)`.
pub fn relu(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let zero = b.float_like(args[0], 0.0)?;
    single(b.max(args[0], zero))
}

/// `max(x, 0) + log1p(e^-|x|)`: the exponential never overflows.
pub fn softplus(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let zero = b.float_like(args[0], 0.0)?;
    let positive = b.max(args[0], zero)?;
    let size = b.unary(ScalarOp::Abs, args[0])?;
    let minus = b.unary(ScalarOp::Neg, size)?;
    let exp = b.unary(ScalarOp::Exp, minus)?;
    let rest = b.unary(ScalarOp::Log1p, exp)?;
    single(b.add(positive, rest))
}

/// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
pub fn gelu_tanh(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let x = args[0];
    let square = b.mul(x, x)?;
    let cubic = b.mul_const(square, 0.044715)?;
    let factor = b.add_const(cubic, 1.0)?;
    let scaled = b.mul_const(x, (2.0 / std::f64::consts::PI).sqrt())?;
    let inner = b.mul(scaled, factor)?;
    let tanh = b.unary(ScalarOp::Tanh, inner)?;
    let gate = b.add_const(tanh, 1.0)?;
    let half = b.mul_const(x, 0.5)?;
    single(b.mul(half, gate))
}

/// `x/2 (1 + erf(x / sqrt(2)))`.
pub fn gelu(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let x = args[0];
    let inner = b.mul_const(x, std::f64::consts::FRAC_1_SQRT_2)?;
    let erf = b.unary(ScalarOp::Erf, inner)?;
    let gate = b.add_const(erf, 1.0)?;
    let half = b.mul_const(x, 0.5)?;
    single(b.mul(half, gate))
}

/// `sin(x)/x`, by its series `1 - x^2/6 + x^4/120 - x^6/5040` where `x^2` is small.
pub fn sinc(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let x = args[0];
    let z = b.mul(x, x)?;
    let series =
        super::riemann::polynomial(b, z, &[1.0, -1.0 / 6.0, 1.0 / 120.0, -1.0 / 5040.0, 1.0 / 362_880.0])?;
    let bound = b.float_like(x, 1e-2)?;
    let small = b.lt(z, bound)?;
    let one = b.float_like(x, 1.0)?;
    let safe = b.select(small, one, x)?;
    let sine = b.unary(ScalarOp::Sin, safe)?;
    let quotient = b.div(sine, safe)?;
    single(b.select(small, series, quotient))
}
