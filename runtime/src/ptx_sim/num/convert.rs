//! `cvt`: between integers and floating-point formats.
//!
//! In: a bit pattern of the source type. Out: one of the destination type. Conversions from floating point to integers
//! clamp, as the manual says; of a NaN they make zero, except from `.f64` or to 64 bits, where they make the sign bit.

use super::float::{FloatTy, saturate};
use super::int::{IntTy, sign_extend};
use super::round::{Format, Number, Round, from_int, round_shift};

/// One side of a conversion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ptx_sim) enum Side {
    Int(IntTy),
    Float(FloatTy),
}

/// A conversion with its modifiers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ptx_sim) struct Cvt {
    pub(in crate::ptx_sim) to: Side,
    pub(in crate::ptx_sim) from: Side,
    /// Of the result's last bit, or of the integer where `to_integral` is set or the result is an integer.
    pub(in crate::ptx_sim) round: Round,
    /// A floating-point result is rounded to an integer.
    pub(in crate::ptx_sim) to_integral: bool,
    pub(in crate::ptx_sim) ftz: bool,
    pub(in crate::ptx_sim) sat: bool,
    pub(in crate::ptx_sim) relu: bool,
    /// Width of the destination register, to which integers are extended.
    pub(in crate::ptx_sim) register_bits: u32,
}

pub(in crate::ptx_sim) fn cvt(op: Cvt, a: u64) -> u64 {
    match (op.from, op.to) {
        (Side::Int(from), Side::Int(to)) => int_to_int(op, from, to, a),
        (Side::Int(from), Side::Float(to)) => {
            let value = from.extend(a & from.mask());
            finish(op, to.format(), to.format().encode(from_int(value, from.is_signed), op.round))
        }
        (Side::Float(from), Side::Int(to)) => float_to_int(op, from, to, a),
        (Side::Float(from), Side::Float(to)) => float_to_float(op, from.format(), to.format(), a),
    }
}

fn widen(op: Cvt, to: IntTy, value: u64) -> u64 {
    let value = value & to.mask();
    let value = if to.is_signed { sign_extend(value, to.bits) } else { value };
    value & (u64::MAX >> (64 - op.register_bits))
}

fn int_to_int(op: Cvt, from: IntTy, to: IntTy, a: u64) -> u64 {
    let value = from.extend(a & from.mask());
    if !op.sat {
        return widen(op, to, value);
    }
    let exact = if from.is_signed { i128::from(value as i64) } else { i128::from(value) };
    widen(op, to, exact.clamp(lowest(to), highest(to)) as u64)
}

fn lowest(ty: IntTy) -> i128 {
    if ty.is_signed { -(1 << (ty.bits - 1)) } else { 0 }
}

fn highest(ty: IntTy) -> i128 {
    (1 << (ty.bits - u32::from(ty.is_signed))) - 1
}

fn float_to_int(op: Cvt, from: FloatTy, to: IntTy, a: u64) -> u64 {
    let format = from.format();
    let a = if op.ftz { format.flush(a) } else { a };
    let exact = match format.decode(a) {
        Number::Nan if from == FloatTy::F64 || to.bits == 64 => return widen(op, to, 1 << (to.bits - 1)),
        Number::Nan => 0,
        Number::Infinite { negative: true } => lowest(to),
        Number::Infinite { negative: false } => highest(to),
        Number::Finite { negative, magnitude, exponent } => {
            let magnitude = integral(negative, magnitude, exponent, op.round);
            if negative { -magnitude } else { magnitude }
        }
    };
    widen(op, to, exact.clamp(lowest(to), highest(to)) as u64)
}

/// `magnitude * 2^exponent` rounded to an integer; above 2^64 only its size counts.
fn integral(negative: bool, magnitude: u64, exponent: i32, round: Round) -> i128 {
    if exponent <= 0 {
        return i128::from(round_shift(negative, magnitude, -exponent, round));
    }
    if magnitude == 0 { 0 } else { i128::from(magnitude) << exponent.min(60) }
}

fn float_to_float(op: Cvt, from: Format, to: Format, a: u64) -> u64 {
    let a = if op.ftz { from.flush(a) } else { a };
    let number = match (from.decode(a), op.to_integral) {
        // From 2^52 on everything is an integer already.
        (Number::Finite { negative, magnitude, exponent }, true) if exponent < 0 => {
            let magnitude = round_shift(negative, magnitude, -exponent, op.round);
            Number::Finite { negative, magnitude, exponent: 0 }
        }
        (number, _) => number,
    };
    let round = if op.to_integral { Round::Rn } else { op.round };
    let bits = to.encode(number, round);
    // Without rounding the pattern passes through; that keeps the payload of a NaN from being invented.
    finish(op, to, bits)
}

fn finish(op: Cvt, to: Format, bits: u64) -> u64 {
    let bits = if op.ftz && to.bits == 32 { to.flush(bits) } else { bits };
    if op.sat {
        return super::round::from_f64(to, saturate(super::round::to_f64(to, bits)));
    }
    let negative = bits & to.sign_bit() != 0 && !to.is_nan(bits);
    if op.relu && negative { 0 } else { bits }
}
