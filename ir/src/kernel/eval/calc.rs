//! Single values: scalar operations, fma and conversions on the bits of [`super::memory`].

use super::memory::{from_bits, round_bits, to_bits};
use crate::dtype::DType;
use crate::kernel::AccumOp;
use crate::kernel::math::{self, Expansion};
use crate::scalar::{Scalar, ScalarOp, eval};

/// `op` on operands of `dtype` (the data operands of `select`).
///
/// The common ones go straight to the machine: IEEE arithmetic rounds once, as the definition in f64 followed by a rounding
/// to f32 does (53 bits are more than twice 24 plus 2).
pub(super) fn scalar(op: ScalarOp, dtype: DType, args: &[u64]) -> u64 {
    match (dtype, op) {
        (DType::F32, ScalarOp::Add | ScalarOp::Sub | ScalarOp::Mul | ScalarOp::Div) => {
            let (a, b) = (f32::from_bits(args[0] as u32), f32::from_bits(args[1] as u32));
            let value = match op {
                ScalarOp::Add => a + b,
                ScalarOp::Sub => a - b,
                ScalarOp::Mul => a * b,
                _ => a / b,
            };
            u64::from(value.to_bits())
        }
        (DType::I64, ScalarOp::Add) => args[0].wrapping_add(args[1]),
        (DType::I64, ScalarOp::Mul) => args[0].wrapping_mul(args[1]),
        _ => general(op, dtype, args),
    }
}

fn general(op: ScalarOp, dtype: DType, args: &[u64]) -> u64 {
    let mut values = [Scalar::Int(0); 3];
    for (idx, bits) in args.iter().enumerate() {
        let is_condition = op == ScalarOp::Select && idx == 0;
        values[idx] = from_bits(if is_condition { DType::Bool } else { dtype }, *bits);
    }
    match eval(op, dtype, &values[..args.len()]) {
        Scalar::Bool(value) => u64::from(value),
        value => to_bits(dtype, value),
    }
}

/// `a * b + c`, rounded once; integers wrap.
pub(super) fn fma(dtype: DType, a: u64, b: u64, c: u64) -> u64 {
    match dtype {
        DType::F64 => f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits(),
        DType::F32 => {
            let (a, b, c) = (f32::from_bits(a as u32), f32::from_bits(b as u32), f32::from_bits(c as u32));
            u64::from(a.mul_add(b, c).to_bits())
        }
        _ => scalar(ScalarOp::Add, dtype, &[scalar(ScalarOp::Mul, dtype, &[a, b]), c]),
    }
}

/// The accumulator after one step.
pub(super) fn accum(op: AccumOp, dtype: DType, acc: u64, a: u64, b: u64) -> u64 {
    match op {
        AccumOp::MulAdd => fma(dtype, a, b, acc),
        _ => scalar(op.combine(), dtype, &[acc, a]),
    }
}

/// A value of type `from` as one of type `to`.
pub(super) fn convert(from: DType, to: DType, bits: u64) -> u64 {
    to_bits(to, from_bits(from, bits).convert(to))
}

/// The same bits read as `to`, a type of equal width.
pub(super) fn bitcast(to: DType, bits: u64) -> u64 {
    match to {
        DType::I32 => i64::from(bits as u32 as i32) as u64,
        DType::F32 => u64::from(bits as u32),
        _ => bits,
    }
}

/// An f32 rounded to the values of `to`.
pub(super) fn round(to: DType, bits: u64) -> u64 {
    round_bits(to, bits)
}

/// The value of a transcendental operation, by the program that defines it.
pub(super) fn expanded(expansion: &Expansion, args: &[u64]) -> u64 {
    let mut values = [Scalar::Float(0.0); 3];
    for (value, bits) in values.iter_mut().zip(args) {
        *value = from_bits(expansion.operand, *bits);
    }
    to_bits(expansion.operand, math::eval(expansion, &values[..args.len().min(3)]))
}
