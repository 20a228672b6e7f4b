//! Powers: exponential of a product with a logarithm in two parts.
//!
//! A relative error in the logarithm becomes an absolute one in the exponent, which is up to 709; hence the second part,
//! and the exact products by fma (Dekker's two-sum and two-product).

use super::asm::{Asm, Value};
use super::basic::{exp, exponent_float, split_exponent};

/// A sum of two values, the second far smaller than the first.
type Pair = [Value; 2];

/// `a + b` exactly, if `|a| >= |b|` or `a` is 0.
fn fast_two_sum(asm: &mut Asm, a: Value, b: Value) -> Pair {
    let sum = asm.add(a, b);
    let taken = asm.sub(sum, a);
    [sum, asm.sub(b, taken)]
}

/// `a * b` exactly.
fn two_product(asm: &mut Asm, a: Value, b: Value) -> Pair {
    let product = asm.mul(a, b);
    let minus = asm.neg(product);
    [product, asm.fma(a, b, minus)]
}

/// The product of two pairs, to about twice the precision.
fn multiply(asm: &mut Asm, a: Pair, b: Pair) -> Pair {
    let [high, low] = two_product(asm, a[0], b[0]);
    let low = asm.fma(a[0], b[1], low);
    let low = asm.fma(a[1], b[0], low);
    fast_two_sum(asm, high, low)
}

/// The logarithm of a positive number in two parts: `k ln 2 + 2 s + s^3 (2/3 + ..)`, `s = (m - 1) / (m + 1)`.
fn log_pair(asm: &mut Asm, x: Value) -> Pair {
    let table = asm.table();
    let least = asm.c(table.least_normal);
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
    let (one, two) = (asm.c(1.0), asm.c(2.0));
    let f = asm.sub(m, one);
    // s to twice the precision: the quotient, and what it leaves of f.
    let below = asm.add(f, two);
    let lost = asm.sub(below, two);
    let lost = asm.sub(f, lost);
    let s = asm.div(f, below);
    let left = asm.fnma(s, below, f);
    let left = asm.fnma(s, lost, left);
    let s = [s, asm.div(left, below)];
    let z = multiply(asm, s, s);
    // Only the first coefficient of the series, 2/3, needs two parts.
    let first = table.two_thirds.map(|part| asm.c(part));
    let rest = asm.poly(z[0], table.atanh);
    let [high, low] = fast_two_sum(asm, first[0], rest);
    let low = asm.add(low, first[1]);
    let cube = multiply(asm, z, s);
    let series = multiply(asm, cube, [high, low]);
    let twice = s.map(|part| asm.add(part, part));
    let [high, low] = fast_two_sum(asm, twice[0], series[0]);
    let low_sum = asm.add(twice[1], series[1]);
    let low = asm.add(low, low_sum);
    // k ln 2 is exact in its first part and larger than the rest unless k is 0.
    let (ln2_high, ln2_low) = (asm.c(table.ln2[0]), asm.c(table.ln2[1]));
    let whole = asm.mul(k, ln2_high);
    let [high, carried] = fast_two_sum(asm, whole, high);
    let low = asm.add(low, carried);
    let low = asm.fma(k, ln2_low, low);
    fast_two_sum(asm, high, low)
}

/// `x^y` with the special cases of C99's pow.
pub(super) fn pow(asm: &mut Asm, x: Value, y: Value) -> Value {
    let a = asm.abs(x);
    let (zero, one, infinity) = (asm.c(0.0), asm.c(1.0), asm.c(f64::INFINITY));
    let [high, low] = log_pair(asm, a);
    // The pair of 0, infinity and NaN is that value's logarithm alone.
    let minus_infinity = asm.c(f64::NEG_INFINITY);
    let is_zero = asm.eq(a, zero);
    let is_finite = asm.lt(a, infinity);
    let high = asm.select(is_finite, high, a);
    let high = asm.select(is_zero, minus_infinity, high);
    // Beyond a bound the result is 0 or infinite anyway; held there, y has an exact product with the logarithm.
    let bound = asm.c(asm.table().exp_range[1] * 2.0);
    let product = asm.mul(y, high);
    let size = asm.abs(product);
    let within = asm.lt(size, bound);
    let minus = asm.neg(product);
    let error = asm.fma(y, high, minus);
    let error = asm.fma(y, low, error);
    let error = asm.select(within, error, zero);
    let value = exp(asm, product);
    let grown = asm.fma(value, error, value);
    let value_finite = asm.lt(value, infinity);
    let value = asm.select(value_finite, grown, value);
    signed_power(asm, [x, a, y], value, one)
}

/// Signs and special cases, from the power of the magnitude.
fn signed_power(asm: &mut Asm, [x, a, y]: [Value; 3], value: Value, one: Value) -> Value {
    let (zero, half, infinity, nan) = (asm.c(0.0), asm.c(0.5), asm.c(f64::INFINITY), asm.c(f64::NAN));
    let whole = asm.floor(y);
    let is_integer = asm.eq(whole, y);
    let halved = asm.mul(y, half);
    let half_whole = asm.floor(halved);
    let is_halved = asm.ne(half_whole, halved);
    let is_odd = asm.and(is_integer, is_halved);
    let sign = asm.sign_bit(x);
    let none = asm.ic(0);
    let sign = asm.int_select(is_odd, sign, none);
    let value = asm.flip(value, sign);
    // A negative finite base needs an integer exponent.
    let (negative, finite) = (asm.lt(x, zero), asm.lt(a, infinity));
    let negative = asm.and(negative, finite);
    let fractional = asm.ne(whole, y);
    let undefined = asm.and(negative, fractional);
    let value = asm.select(undefined, nan, value);
    // 1^y and x^0 are 1, even for NaN; so are (+-1)^(+-inf).
    let y_size = asm.abs(y);
    let (unit, endless) = (asm.eq(a, one), asm.eq(y_size, infinity));
    let unit = asm.and(unit, endless);
    let (base_one, no_power) = (asm.eq(x, one), asm.eq(y, zero));
    let is_one = asm.or(base_one, no_power);
    let is_one = asm.or(is_one, unit);
    asm.select(is_one, one, value)
}
