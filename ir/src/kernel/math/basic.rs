//! Functions built from one argument reduction and one polynomial.

use super::asm::{Asm, Value};

/// 1.5 times two to the fraction bits: adding it rounds to an integer, which then stands in the low bits.
fn magic(asm: &Asm) -> (f64, i64) {
    if asm.fraction_bits() == 23 {
        (12_582_912.0, 0x4b40_0000)
    } else {
        (6_755_399_441_055_744.0, 0x4338_0000_0000_0000)
    }
}

/// -1, 0 or 1 with the sign of the argument; zeros and NaN stay.
pub(super) fn sign(asm: &mut Asm, x: Value) -> Value {
    let one = asm.ic(asm.table().one_bits);
    let sign = asm.sign_bit(x);
    let unit = asm.ior(sign, one);
    let unit = asm.float(unit);
    let zero = asm.c(0.0);
    let (positive, negative) = (asm.lt(zero, x), asm.lt(x, zero));
    let nonzero = asm.or(positive, negative);
    asm.select(nonzero, unit, x)
}

pub(super) fn recip(asm: &mut Asm, x: Value) -> Value {
    let one = asm.c(1.0);
    asm.div(one, x)
}

pub(super) fn rsqrt(asm: &mut Asm, x: Value) -> Value {
    let root = asm.sqrt(x);
    recip(asm, root)
}

/// `x = n ln 2 + r`: gives `exp(r) - 1`, and an integer that is `n` plus the bits of the magic number.
pub(super) fn exp_parts(asm: &mut Asm, x: Value) -> (Value, Value) {
    let table = asm.table();
    let (number, _) = magic(asm);
    let (log2e, number) = (asm.c(std::f64::consts::LOG2_E), asm.c(number));
    let shifted = asm.fma(x, log2e, number);
    let minus = asm.c(-magic(asm).0);
    let n = asm.add(shifted, minus);
    let (high, low) = (asm.c(-table.ln2[0]), asm.c(-table.ln2[1]));
    let r = asm.fma(n, high, x);
    let r = asm.fma(n, low, r);
    let q = asm.poly(r, table.exp);
    let square = asm.mul(r, r);
    (asm.fma(square, q, r), asm.bits(shifted))
}

/// The integer `n + offset`, from what [`exp_parts`] gives.
pub(super) fn exponent(asm: &mut Asm, shifted_bits: Value, offset: i64) -> Value {
    let (_, bits) = magic(asm);
    let bias = asm.ic(offset - bits);
    asm.iadd(shifted_bits, bias)
}

/// The power of two is applied in two halves, so that the result may be denormal.
pub(super) fn exp(asm: &mut Asm, x: Value) -> Value {
    let [low, high] = asm.table().exp_range;
    let x = asm.clamp(x, low, high);
    let (fraction, shifted) = exp_parts(asm, x);
    let sum = exponent(asm, shifted, 2 * asm.bias());
    let first = asm.shr(sum, 1);
    let second = asm.isub(sum, first);
    let (first, second) = (asm.power_of_two(first), asm.power_of_two(second));
    let one = asm.c(1.0);
    let value = asm.add(fraction, one);
    let value = asm.mul(value, first);
    asm.mul(value, second)
}

/// `2 (h p + (h - 1/2))` with `h = 2^(n-1)`, which is finite wherever the result is.
pub(super) fn expm1(asm: &mut Asm, x: Value) -> Value {
    let table = asm.table();
    let clamped = asm.clamp(x, table.expm1_low, table.exp_range[1]);
    let (fraction, shifted) = exp_parts(asm, clamped);
    let biased = exponent(asm, shifted, asm.bias() - 1);
    let half_power = asm.power_of_two(biased);
    let half = asm.c(0.5);
    let rest = asm.sub(half_power, half);
    let value = asm.fma(half_power, fraction, rest);
    let value = asm.add(value, value);
    keep_tiny(asm, x, value)
}

/// `value`, but `x` itself where that is tiny: keeps the sign of zero and every bit of a denormal.
pub(super) fn keep_tiny(asm: &mut Asm, x: Value, value: Value) -> Value {
    let magnitude = asm.abs(x);
    let tiny = asm.c(asm.table().tiny);
    let is_tiny = asm.lt(magnitude, tiny);
    asm.select(is_tiny, x, value)
}

/// A positive number as `2^k m`: the biased `k`, and `m` from sqrt(1/2) to sqrt(2).
pub(super) fn split_exponent(asm: &mut Asm, x: Value) -> (Value, Value) {
    let table = asm.table();
    let bits = asm.bits(x);
    let offset = asm.ic(table.one_bits - table.sqrt_half_bits);
    let moved = asm.iadd(bits, offset);
    let biased = asm.shr(moved, asm.fraction_bits());
    let mask = asm.ic((1 << asm.fraction_bits()) - 1);
    let fraction = asm.iand(moved, mask);
    let base = asm.ic(table.sqrt_half_bits);
    let m = asm.iadd(fraction, base);
    (biased, asm.float(m))
}

/// A biased exponent, less `extra`, as a float.
pub(super) fn exponent_float(asm: &mut Asm, biased: Value) -> Value {
    let (number, bits) = magic(asm);
    let offset = asm.ic(bits - asm.bias());
    let sum = asm.iadd(biased, offset);
    let sum = asm.float(sum);
    let minus = asm.c(-number);
    asm.add(sum, minus)
}

/// `k ln 2 + log(1 + f)`, `f` from sqrt(1/2) - 1 to sqrt(2) - 1.
fn log_sum(asm: &mut Asm, k: Value, f: Value) -> Value {
    let table = asm.table();
    let square = asm.mul(f, f);
    let half = asm.c(0.5);
    let rest = if asm.fraction_bits() == 23 {
        let p = asm.poly(f, table.log);
        let cube = asm.mul(square, f);
        let tail = asm.mul(cube, p);
        asm.fnma(half, square, tail)
    } else {
        let two = asm.c(2.0);
        let denominator = asm.add(f, two);
        let s = asm.div(f, denominator);
        let z = asm.mul(s, s);
        let p = asm.poly(z, table.log);
        let half_square = asm.mul(half, square);
        let sum = asm.fma(z, p, half_square);
        let minus = asm.neg(half_square);
        asm.fma(s, sum, minus)
    };
    let (high, low) = (asm.c(table.ln2[0]), asm.c(table.ln2[1]));
    let rest = asm.fma(k, low, rest);
    let sum = asm.add(f, rest);
    asm.fma(k, high, sum)
}

pub(super) fn log(asm: &mut Asm, x: Value) -> Value {
    let least = asm.c(asm.table().least_normal);
    let denormal = asm.lt(x, least);
    let steps = asm.fraction_bits() + 2;
    let scale = asm.c(2f64.powi(steps as i32));
    let scaled = asm.mul(x, scale);
    let normal = asm.select(denormal, scaled, x);
    let (biased, m) = split_exponent(asm, normal);
    let (steps, none) = (asm.ic(steps), asm.ic(0));
    let steps = asm.int_select(denormal, steps, none);
    let biased = asm.isub(biased, steps);
    let k = exponent_float(asm, biased);
    let minus_one = asm.c(-1.0);
    let f = asm.add(m, minus_one);
    let value = log_sum(asm, k, f);
    log_specials(asm, x, 0.0, value)
}

/// Below `pole` NaN, at it -inf, and infinities and NaN as they are.
///
/// The special values are put together from bits, which costs a vector unit less than selections.
fn log_specials(asm: &mut Asm, x: Value, pole: f64, value: Value) -> Value {
    let (pole, infinity) = (asm.c(pole), asm.c(f64::INFINITY));
    let (above, finite) = (asm.lt(pole, x), asm.lt(x, infinity));
    let regular = asm.and(above, finite);
    let (at, below) = (asm.eq(x, pole), asm.lt(x, pole));
    let (minus_infinity, ones, none) = (asm.c(f64::NEG_INFINITY), asm.ic(-1), asm.ic(0));
    let minus_infinity = asm.bits(minus_infinity);
    let at = asm.int_select(at, minus_infinity, none);
    let below = asm.int_select(below, ones, none);
    // All ones is a NaN; -inf has every bit of the zero and of the -1 that are poles.
    let bits = asm.bits(x);
    let special = asm.ior(bits, at);
    let special = asm.ior(special, below);
    let special = asm.float(special);
    asm.select(regular, value, special)
}

/// With `1 + x` near `2^k m`, `f = 2^-k (1 + x) - 1` is rounded once; nothing of `x` is lost.
pub(super) fn log1p(asm: &mut Asm, x: Value) -> Value {
    let one = asm.c(1.0);
    let sum = asm.add(x, one);
    let (biased, m) = split_exponent(asm, sum);
    let twice_bias = asm.ic(2 * asm.bias());
    let inverse = asm.isub(twice_bias, biased);
    let inverse = asm.power_of_two(inverse);
    let rest = asm.sub(inverse, one);
    let near = asm.fma(x, inverse, rest);
    let far = asm.sub(m, one);
    let limit = asm.c(2f64.powi(asm.fraction_bits() as i32));
    let is_near = asm.lt(sum, limit);
    let f = asm.select(is_near, near, far);
    let k = exponent_float(asm, biased);
    let value = log_sum(asm, k, f);
    let value = log_specials(asm, x, -1.0, value);
    keep_tiny(asm, x, value)
}

/// `a = n pi/2 + r` for `a >= 0`: sin(r), cos(r), and an integer with the low bits of `n`.
///
/// Cody and Waite's reduction with three parts of pi/2, exact products by fma. Where `n` outgrows it, `r` is held within
/// bounds, so that sine and cosine stay within -1 to 1.
fn sin_cos(asm: &mut Asm, a: Value) -> (Value, Value, Value) {
    let table = asm.table();
    let (number, _) = magic(asm);
    let (two_over_pi, number) = (asm.c(std::f64::consts::FRAC_2_PI), asm.c(number));
    let shifted = asm.fma(a, two_over_pi, number);
    let minus = asm.c(-magic(asm).0);
    let n = asm.add(shifted, minus);
    let mut r = a;
    for part in table.half_pi {
        let part = asm.c(-part);
        r = asm.fma(n, part, r);
    }
    let r = asm.clamp(r, -1.1, 1.1);
    let z = asm.mul(r, r);
    let p = asm.poly(z, table.sin);
    let cube = asm.mul(r, z);
    let sine = asm.fma(cube, p, r);
    let p = asm.poly(z, table.cos);
    let (minus_half, one) = (asm.c(-0.5), asm.c(1.0));
    let square = asm.mul(z, z);
    let cosine = asm.fma(z, minus_half, one);
    let cosine = asm.fma(square, p, cosine);
    (sine, cosine, asm.bits(shifted))
}

fn is_odd(asm: &mut Asm, n: Value) -> Value {
    let (one, zero) = (asm.ic(1), asm.ic(0));
    let low = asm.iand(n, one);
    asm.ne(low, zero)
}

/// Bit 1 of `n`, as a sign bit.
fn half_turn(asm: &mut Asm, n: Value) -> Value {
    let two = asm.ic(2);
    let bit = asm.iand(n, two);
    let width = if asm.fraction_bits() == 23 { 32 } else { 64 };
    asm.shl(bit, width - 2)
}

pub(super) fn sin(asm: &mut Asm, x: Value) -> Value {
    let a = asm.abs(x);
    let (sine, cosine, n) = sin_cos(asm, a);
    let odd = is_odd(asm, n);
    let value = asm.select(odd, cosine, sine);
    let sign = asm.sign_bit(x);
    let turn = half_turn(asm, n);
    let sign = asm.ixor(sign, turn);
    asm.flip(value, sign)
}

pub(super) fn cos(asm: &mut Asm, x: Value) -> Value {
    let a = asm.abs(x);
    let (sine, cosine, n) = sin_cos(asm, a);
    let odd = is_odd(asm, n);
    let value = asm.select(odd, sine, cosine);
    let one = asm.ic(1);
    let next = asm.iadd(n, one);
    let turn = half_turn(asm, next);
    asm.flip(value, turn)
}

pub(super) fn tan(asm: &mut Asm, x: Value) -> Value {
    let a = asm.abs(x);
    let (sine, cosine, n) = sin_cos(asm, a);
    let odd = is_odd(asm, n);
    let above = asm.select(odd, cosine, sine);
    let below = asm.select(odd, sine, cosine);
    let value = asm.div(above, below);
    let sign = asm.sign_bit(x);
    let doubled = asm.shl(n, 1);
    let turn = half_turn(asm, doubled);
    let sign = asm.ixor(sign, turn);
    asm.flip(value, sign)
}

/// tan(pi/8): up to there the polynomial serves, from there to 1 by way of pi/4.
const TAN_EIGHTH: f64 = std::f64::consts::SQRT_2 - 1.0;

/// `base + atan(q)` for |q| up to tan(pi/8), `base` in two parts.
fn atan_near(asm: &mut Asm, q: Value, base: [Value; 2]) -> Value {
    let z = asm.mul(q, q);
    let p = asm.poly(z, asm.table().atan);
    let cube = asm.mul(q, z);
    let tail = asm.fma(cube, p, base[1]);
    let sum = asm.add(q, tail);
    asm.add(base[0], sum)
}

pub(super) fn atan(asm: &mut Asm, x: Value) -> Value {
    let table = asm.table();
    let a = asm.abs(x);
    let (low, high) = (asm.c(TAN_EIGHTH), asm.c(TAN_EIGHTH + 2.0));
    let (past_low, past_high) = (asm.lt(low, a), asm.lt(high, a));
    let (one, minus_one, zero) = (asm.c(1.0), asm.c(-1.0), asm.c(0.0));
    let (less, more) = (asm.sub(a, one), asm.add(a, one));
    let above = asm.select(past_low, less, a);
    let above = asm.select(past_high, minus_one, above);
    let below = asm.select(past_low, more, one);
    let below = asm.select(past_high, a, below);
    let q = asm.div(above, below);
    let base = [0, 1].map(|part| {
        let (quarter, half) = (asm.c(table.quarter_pi[part]), asm.c(table.half_pi[part]));
        let base = asm.select(past_low, quarter, zero);
        asm.select(past_high, half, base)
    });
    let value = atan_near(asm, q, base);
    let sign = asm.sign_bit(x);
    asm.flip(value, sign)
}

/// The angle of `(x, y)`: the quotient of the smaller by the larger, then reflections.
pub(super) fn atan2(asm: &mut Asm, y: Value, x: Value) -> Value {
    let table = asm.table();
    let (a, b) = (asm.abs(y), asm.abs(x));
    let steep = asm.lt(b, a);
    let small = asm.select(steep, b, a);
    let large = asm.select(steep, a, b);
    let (one, zero, infinity) = (asm.c(1.0), asm.c(0.0), asm.c(f64::INFINITY));
    let both_infinite = asm.eq(small, infinity);
    let small = asm.select(both_infinite, one, small);
    let large = asm.select(both_infinite, one, large);
    let at_origin = asm.eq(large, zero);
    let large = asm.select(at_origin, one, large);
    // Scaling keeps the sum below from overflowing, and the quotient's operands normal.
    let steps = asm.fraction_bits() as i32 + 4;
    let (down, up) = (asm.c(0.125), asm.c(2f64.powi(steps)));
    let (huge, little) = (asm.c(0.5 / table.least_normal), asm.c(table.least_normal * 2f64.powi(steps)));
    let (is_huge, is_little) = (asm.lt(huge, large), asm.lt(large, little));
    let scale = asm.select(is_little, up, one);
    let scale = asm.select(is_huge, down, scale);
    let (small, large) = (asm.mul(small, scale), asm.mul(large, scale));
    let low = asm.c(TAN_EIGHTH);
    let limit = asm.mul(low, large);
    let past_low = asm.lt(limit, small);
    let (less, more) = (asm.sub(small, large), asm.add(small, large));
    let above = asm.select(past_low, less, small);
    let below = asm.select(past_low, more, large);
    let q = asm.div(above, below);
    let base = table.quarter_pi.map(|part| {
        let quarter = asm.c(part);
        asm.select(past_low, quarter, zero)
    });
    let angle = atan_near(asm, q, base);
    let (x_sign, y_sign, none) = (asm.sign_bit(x), asm.sign_bit(y), asm.ic(0));
    let backwards = asm.ne(x_sign, none);
    // Measured from the axis it is nearest to: 0, pi/2 or pi, to either side.
    let [axis, axis_low] = [0, 1].map(|part| {
        let (half, whole) = (asm.c(table.half_pi[part]), asm.c(table.pi[part]));
        let axis = asm.select(backwards, whole, zero);
        asm.select(steep, half, axis)
    });
    let minus_zero = asm.c(-0.0);
    let minus = asm.sign_bit(minus_zero);
    let side = asm.int_select(steep, minus, none);
    let side = asm.ixor(side, x_sign);
    let angle = asm.flip(angle, side);
    let angle = asm.add(angle, axis_low);
    let angle = asm.add(axis, angle);
    asm.flip(angle, y_sign)
}
