//! Functions built from the exponential and the logarithm.

use super::asm::{Asm, Value};
use super::basic::{exp_parts, exponent, log1p};

/// `exp(a) / 2` for `a >= 0`, by way of a quarter, so that it overflows only where the half does.
fn half_exp(asm: &mut Asm, a: Value) -> Value {
    let a = asm.min(a, asm.table().cosh_high);
    let (fraction, shifted) = exp_parts(asm, a);
    let biased = exponent(asm, shifted, asm.bias() - 2);
    let quarter = asm.power_of_two(biased);
    let value = asm.fma(quarter, fraction, quarter);
    asm.add(value, value)
}

/// `(1/4) / (exp(a) / 2)`, which is `exp(-a) / 2`.
fn half_inverse(asm: &mut Asm, half_exp: Value) -> Value {
    let quarter = asm.c(0.25);
    asm.div(quarter, half_exp)
}

pub(super) fn sinh(asm: &mut Asm, x: Value) -> Value {
    let a = asm.abs(x);
    let z = asm.mul(a, a);
    let p = asm.poly(z, asm.table().sinh);
    let cube = asm.mul(a, z);
    let near = asm.fma(cube, p, a);
    let grown = half_exp(asm, a);
    let shrunk = half_inverse(asm, grown);
    let far = asm.sub(grown, shrunk);
    let one = asm.c(1.0);
    let is_near = asm.lt(a, one);
    let value = asm.select(is_near, near, far);
    let sign = asm.sign_bit(x);
    asm.flip(value, sign)
}

pub(super) fn cosh(asm: &mut Asm, x: Value) -> Value {
    let a = asm.abs(x);
    let grown = half_exp(asm, a);
    let shrunk = half_inverse(asm, grown);
    asm.add(grown, shrunk)
}

/// A polynomial up to 5/8; beyond, `1 - 2 / (exp(2 a) + 1)`.
pub(super) fn tanh(asm: &mut Asm, x: Value) -> Value {
    let a = asm.abs(x);
    let z = asm.mul(a, a);
    let p = asm.poly(z, asm.table().tanh);
    let cube = asm.mul(a, z);
    let near = asm.fma(cube, p, a);
    let held = asm.min(a, asm.table().tanh_high);
    let twice = asm.add(held, held);
    let (fraction, shifted) = exp_parts(asm, twice);
    let biased = exponent(asm, shifted, asm.bias());
    let power = asm.power_of_two(biased);
    let grown = asm.fma(power, fraction, power);
    let (one, two) = (asm.c(1.0), asm.c(2.0));
    let below = asm.add(grown, one);
    let rest = asm.div(two, below);
    let far = asm.sub(one, rest);
    let limit = asm.c(0.625);
    let is_near = asm.lt(a, limit);
    let value = asm.select(is_near, near, far);
    let sign = asm.sign_bit(x);
    asm.flip(value, sign)
}

/// `log(1 + a + a^2 / (1 + sqrt(1 + a^2)))`; far out `log(2 a)`.
pub(super) fn asinh(asm: &mut Asm, x: Value) -> Value {
    let a = asm.abs(x);
    let limit = asm.c(2f64.powi(asm.fraction_bits() as i32 + 3));
    let is_far = asm.lt(limit, a);
    let one = asm.c(1.0);
    let square = asm.mul(a, a);
    let root = asm.add(square, one);
    let root = asm.sqrt(root);
    let below = asm.add(root, one);
    let quotient = asm.div(square, below);
    let near = asm.add(a, quotient);
    let argument = asm.select(is_far, a, near);
    let value = log1p(asm, argument);
    let (ln2, zero) = (asm.c(std::f64::consts::LN_2), asm.c(0.0));
    let more = asm.select(is_far, ln2, zero);
    let value = asm.add(value, more);
    let sign = asm.sign_bit(x);
    asm.flip(value, sign)
}

/// `log(1 + 2 a / (1 - a)) / 2`.
pub(super) fn atanh(asm: &mut Asm, x: Value) -> Value {
    let a = asm.abs(x);
    let (one, half) = (asm.c(1.0), asm.c(0.5));
    let twice = asm.add(a, a);
    let below = asm.sub(one, a);
    let argument = asm.div(twice, below);
    let value = log1p(asm, argument);
    let value = asm.mul(half, value);
    let sign = asm.sign_bit(x);
    asm.flip(value, sign)
}

/// A polynomial up to 1; beyond, 1 less the exponential of a polynomial.
pub(super) fn erf(asm: &mut Asm, x: Value) -> Value {
    let table = asm.table();
    let a = asm.abs(x);
    let z = asm.mul(a, a);
    let p = asm.poly(z, table.erf);
    let near = asm.fma(a, p, a);
    let held = asm.clamp(a, 0.5, table.erfc_high);
    let center = asm.c(-table.erfc_center);
    let u = asm.add(held, center);
    let p = asm.poly(u, table.erfc);
    let minus = asm.neg(p);
    let (fraction, shifted) = exp_parts(asm, minus);
    let biased = exponent(asm, shifted, asm.bias());
    let power = asm.power_of_two(biased);
    let erfc = asm.fma(power, fraction, power);
    let one = asm.c(1.0);
    let far = asm.sub(one, erfc);
    let is_near = asm.lt(a, one);
    let value = asm.select(is_near, near, far);
    let sign = asm.sign_bit(x);
    asm.flip(value, sign)
}
