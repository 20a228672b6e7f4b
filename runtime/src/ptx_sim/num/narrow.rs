//! Arithmetic of `.f16` and `.bf16`.
//!
//! Every operation is done in double precision, where sums, quotients and roots of such numbers are precise enough to be
//! rounded a second time, and rounded to the format. A fused multiply-add is not, so its sum is rounded to odd first.

use super::float::{Float2, Mods, binary64, saturate};
use super::round::{Format, from_f64, to_f64};

/// The number as a double.
pub(super) fn value(format: Format, bits: u64) -> f64 {
    to_f64(format, bits)
}

fn operand(format: Format, mods: Mods, bits: u64) -> f64 {
    to_f64(format, if mods.ftz { format.flush(bits) } else { bits })
}

fn finish(format: Format, mods: Mods, value: f64) -> u64 {
    // `.sat` and `.relu` are monotonic and keep what is exact, so they may come before rounding.
    let value = if mods.sat { saturate(value) } else { value };
    let value = if mods.relu && value <= 0.0 { 0.0 } else { value };
    let bits = from_f64(format, value);
    if mods.ftz { format.flush(bits) } else { bits }
}

pub(super) fn map(format: Format, mods: Mods, a: u64, f: impl Fn(f64) -> f64) -> u64 {
    finish(format, mods, f(operand(format, mods, a)))
}

pub(super) fn binary(op: Float2, format: Format, mods: Mods, a: u64, b: u64) -> u64 {
    finish(format, mods, binary64(op, operand(format, mods, a), operand(format, mods, b)))
}

pub(super) fn fma(format: Format, mods: Mods, operands: [u64; 3]) -> u64 {
    let [a, b, c] = operands.map(|bits| operand(format, mods, bits));
    // The product has at most 22 bits, so it is exact.
    finish(format, mods, add_to_odd(a * b, c))
}

/// `a + b`, rounded to the neighbour with an odd last bit where it is not exact, so that rounding it again is as good as
/// rounding the exact sum (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).
fn add_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if !sum.is_finite() {
        return sum;
    }
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    let bits = sum.to_bits();
    if error == 0.0 || bits & 1 == 1 {
        return sum;
    }
    let away = (error > 0.0) == (sum > 0.0);
    f64::from_bits(if away { bits + 1 } else { bits - 1 })
}
