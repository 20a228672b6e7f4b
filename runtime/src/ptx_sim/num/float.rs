//! Floating-point instructions on `.f32` and `.f64`, and the choice of the format.
//!
//! In: bit patterns and the modifiers of the instruction. Out: bit patterns. NaN results are the canonical NaN. Approximate
//! instructions compute the exact function in double precision and round it to nearest: real devices may differ within the
//! error bound of the manual, so what depends on those last bits does not depend on the simulator.

use super::narrow;
use super::round::{BF16, F16, F32, F64, Format};

/// Number formats of instructions; the packed ones are two numbers in 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ptx_sim) enum FloatTy {
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
}

/// Modifiers of floating-point instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::ptx_sim) struct Mods {
    /// Subnormal operands and results become zeros of their sign.
    pub(in crate::ptx_sim) ftz: bool,
    /// Results are clamped to [0, 1], NaN to zero.
    pub(in crate::ptx_sim) sat: bool,
    /// Negative results become zero.
    pub(in crate::ptx_sim) relu: bool,
    /// A NaN operand of `min` and `max` makes the result NaN.
    pub(in crate::ptx_sim) nan: bool,
    /// `min` and `max` of the magnitudes, with the signs' exclusive or.
    pub(in crate::ptx_sim) xorsign_abs: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ptx_sim) enum Float1 {
    Abs,
    Neg,
    Rcp,
    Sqrt,
    Rsqrt,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ptx_sim) enum Float2 {
    Add,
    Sub,
    Mul,
    Div,
    /// `.approx`: zero where the divisor is above 2^126.
    DivApprox,
    Min,
    Max,
    /// The sign of the first operand on the second.
    Copysign,
}

impl FloatTy {
    /// The format of one number.
    #[inline(always)]
    pub(in crate::ptx_sim) fn format(self) -> Format {
        match self {
            FloatTy::F16 | FloatTy::F16x2 => F16,
            FloatTy::Bf16 | FloatTy::Bf16x2 => BF16,
            FloatTy::F32 => F32,
            FloatTy::F64 => F64,
        }
    }

    pub(in crate::ptx_sim) fn is_packed(self) -> bool {
        matches!(self, FloatTy::F16x2 | FloatTy::Bf16x2)
    }
}

#[inline(always)]
fn flush32(value: f32) -> f32 {
    if value.is_subnormal() { 0.0_f32.copysign(value) } else { value }
}

/// A result of `.f32`: flushed, clamped and with the canonical NaN.
#[inline(always)]
fn finish32(mods: Mods, value: f32) -> u64 {
    // Which NaN it is shows in the bits, which no rule about numbers simplifies.
    let is_nan = value.to_bits() & 0x7fff_ffff > 0x7f80_0000;
    let value = if mods.ftz { flush32(value) } else { value };
    let bits = if is_nan { 0x7fff_ffff } else { value.to_bits() };
    if mods.sat {
        return u64::from((saturate(f64::from(f32::from_bits(bits))) as f32).to_bits());
    }
    u64::from(bits)
}

/// [0, 1], with NaN to +0; so does -0, which is not above zero.
#[inline(always)]
pub(super) fn saturate(value: f64) -> f64 {
    if value > 0.0 { value.min(1.0) } else { 0.0 }
}

#[inline(always)]
fn finish64(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits & !F64.sign_bit() > F64.infinity() { F64.canonical_nan() } else { bits }
}

#[inline(always)]
fn operand32(mods: Mods, bits: u64) -> f32 {
    let value = f32::from_bits(bits as u32);
    if mods.ftz { flush32(value) } else { value }
}

/// Applies `f` to the one number or to both halves.
#[inline(always)]
fn halves(ty: FloatTy, operands: [u64; 3], f: impl Fn([u64; 3]) -> u64) -> u64 {
    if !ty.is_packed() {
        return f(operands);
    }
    let low = f(operands.map(|bits| bits & 0xffff));
    let high = f(operands.map(|bits| bits >> 16));
    low | (high << 16)
}

#[inline(always)]
pub(in crate::ptx_sim) fn float1(op: Float1, ty: FloatTy, mods: Mods, a: u64) -> u64 {
    match (op, ty) {
        (Float1::Abs | Float1::Neg, FloatTy::F32 | FloatTy::F64) => sign_op(op, ty.format(), mods, a),
        (Float1::Abs | Float1::Neg, _) => halves(ty, [a, 0, 0], |[a, ..]| sign_op(op, ty.format(), mods, a)),
        (_, FloatTy::F32) => {
            let value = function(op, f64::from(operand32(mods, a)));
            let exact = op == Float1::Sqrt;
            let value = if exact { operand32(mods, a).sqrt() } else { value as f32 };
            finish32(mods, value)
        }
        (_, FloatTy::F64) => finish64(function(op, f64::from_bits(a))),
        _ => halves(ty, [a, 0, 0], |[a, ..]| narrow::map(ty.format(), mods, a, |value| function(op, value))),
    }
}

/// `abs` and `neg` change the sign bit alone, of a NaN too.
#[inline(always)]
fn sign_op(op: Float1, format: Format, mods: Mods, a: u64) -> u64 {
    let a = if mods.ftz { format.flush(a) } else { a };
    if op == Float1::Abs { a & !format.sign_bit() } else { a ^ format.sign_bit() }
}

fn function(op: Float1, value: f64) -> f64 {
    match op {
        Float1::Abs => value.abs(),
        Float1::Neg => -value,
        Float1::Rcp => 1.0 / value,
        Float1::Sqrt => value.sqrt(),
        // Of -0 this is -Inf, as the manual says.
        Float1::Rsqrt => 1.0 / value.sqrt(),
        Float1::Ex2 => value.exp2(),
        Float1::Lg2 => value.log2(),
        Float1::Sin => value.sin(),
        Float1::Cos => value.cos(),
        Float1::Tanh => value.tanh(),
    }
}

#[inline(always)]
pub(in crate::ptx_sim) fn float2(op: Float2, ty: FloatTy, mods: Mods, a: u64, b: u64) -> u64 {
    match (op, ty) {
        (Float2::Min | Float2::Max, FloatTy::F32 | FloatTy::F64) => {
            extremum(op == Float2::Max, ty.format(), mods, a, b)
        }
        (Float2::Min | Float2::Max, _) => {
            halves(ty, [a, b, 0], |[a, b, _]| extremum(op == Float2::Max, ty.format(), mods, a, b))
        }
        (Float2::Copysign, _) => {
            let sign = ty.format().sign_bit();
            (a & sign) | (b & !sign)
        }
        (_, FloatTy::F32) => finish32(mods, binary32(op, operand32(mods, a), operand32(mods, b))),
        (_, FloatTy::F64) => finish64(binary64(op, f64::from_bits(a), f64::from_bits(b))),
        _ => halves(ty, [a, b, 0], |[a, b, _]| narrow::binary(op, ty.format(), mods, a, b)),
    }
}

#[inline(always)]
fn binary32(op: Float2, a: f32, b: f32) -> f32 {
    match op {
        Float2::Add => a + b,
        Float2::Sub => a - b,
        Float2::Mul => a * b,
        Float2::DivApprox if b.is_finite() && b.abs() > 2.0_f32.powi(126) => {
            if a.is_infinite() || a.is_nan() { f32::NAN } else { 0.0_f32.copysign(a) * 1.0_f32.copysign(b) }
        }
        _ => a / b,
    }
}

#[inline(always)]
pub(super) fn binary64(op: Float2, a: f64, b: f64) -> f64 {
    match op {
        Float2::Add => a + b,
        Float2::Sub => a - b,
        Float2::Mul => a * b,
        _ => a / b,
    }
}

#[inline(always)]
pub(in crate::ptx_sim) fn fma(ty: FloatTy, mods: Mods, a: u64, b: u64, c: u64) -> u64 {
    match ty {
        FloatTy::F32 => {
            let (a, b, c) = (operand32(mods, a), operand32(mods, b), operand32(mods, c));
            finish32(mods, a.mul_add(b, c))
        }
        FloatTy::F64 => {
            let (a, b, c) = (f64::from_bits(a), f64::from_bits(b), f64::from_bits(c));
            finish64(a.mul_add(b, c))
        }
        _ => halves(ty, [a, b, c], |operands| narrow::fma(ty.format(), mods, operands)),
    }
}

/// `min` and `max`: a NaN loses against a number unless `.NaN` stands there, and -0 is below +0.
#[inline(always)]
fn extremum(is_max: bool, format: Format, mods: Mods, a: u64, b: u64) -> u64 {
    let (a, b) = if mods.ftz { (format.flush(a), format.flush(b)) } else { (a, b) };
    let sign = format.sign_bit();
    let (a, b, flip) = if mods.xorsign_abs { (a & !sign, b & !sign, (a ^ b) & sign) } else { (a, b, 0) };
    let any_nan = format.is_nan(a) || format.is_nan(b);
    let both_nan = format.is_nan(a) && format.is_nan(b);
    if both_nan || (mods.nan && any_nan) {
        return format.canonical_nan();
    }
    let picks_a = format.is_nan(b) || (!format.is_nan(a) && (key(a, sign) > key(b, sign)) == is_max);
    (if picks_a { a } else { b }) ^ flip
}

/// The order of the bit patterns once negative ones are turned round.
#[inline(always)]
fn key(bits: u64, sign: u64) -> u64 {
    if bits & sign == 0 { bits | sign } else { !bits & (sign | (sign - 1)) }
}

/// Comparison operators; the unordered ones are also true if an operand is NaN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ptx_sim) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    /// Neither is NaN.
    Num,
    /// One is NaN.
    Nan,
}

/// Compares two values that are ordered by `order`, `None` if one is NaN.
#[inline(always)]
pub(in crate::ptx_sim) fn compare(op: Compare, order: Option<std::cmp::Ordering>) -> bool {
    let Some(order) = order else {
        return matches!(
            op,
            Compare::Equ
                | Compare::Neu
                | Compare::Ltu
                | Compare::Leu
                | Compare::Gtu
                | Compare::Geu
                | Compare::Nan
        );
    };
    match op {
        Compare::Eq | Compare::Equ => order.is_eq(),
        Compare::Ne | Compare::Neu => order.is_ne(),
        Compare::Lt | Compare::Ltu => order.is_lt(),
        Compare::Le | Compare::Leu => order.is_le(),
        Compare::Gt | Compare::Gtu => order.is_gt(),
        Compare::Ge | Compare::Geu => order.is_ge(),
        Compare::Num => true,
        Compare::Nan => false,
    }
}

/// The order of two numbers of one format.
#[inline(always)]
pub(in crate::ptx_sim) fn order(ty: FloatTy, ftz: bool, a: u64, b: u64) -> Option<std::cmp::Ordering> {
    let format = ty.format();
    let (a, b) = if ftz { (format.flush(a), format.flush(b)) } else { (a, b) };
    match ty {
        FloatTy::F32 => f32::from_bits(a as u32).partial_cmp(&f32::from_bits(b as u32)),
        FloatTy::F64 => f64::from_bits(a).partial_cmp(&f64::from_bits(b)),
        _ => narrow::value(format, a).partial_cmp(&narrow::value(format, b)),
    }
}

/// What `testp` asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::ptx_sim) enum Property {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

pub(in crate::ptx_sim) fn testp(property: Property, ty: FloatTy, bits: u64) -> bool {
    let format = ty.format();
    let exponent = bits & format.infinity();
    let magnitude = bits & (format.sign_bit() - 1);
    match property {
        Property::Finite => exponent != format.infinity(),
        Property::Infinite => magnitude == format.infinity(),
        Property::Number => !format.is_nan(bits),
        Property::NotANumber => format.is_nan(bits),
        Property::Normal => exponent != 0 && exponent != format.infinity(),
        Property::Subnormal => exponent == 0 && magnitude != 0,
    }
}
