//! Single values: scalar operations, fma and conversions on the bits of [`super::memory`].

use super::memory::{from_bits, round_bits, to_bits};
use crate::dtype::DType;
use crate::kernel::math::Expansion;
use crate::kernel::{AccumOp, Inst, Var};
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

/// Runs a straight-line program on `args`; `values` is working space.
pub(super) fn expanded(expansion: &Expansion, arg_dtype: DType, args: &[u64], values: &mut Vec<u64>) -> u64 {
    values.clear();
    values.extend_from_slice(args);
    let arity = expansion.arity as usize;
    let dtype_of = |var: Var| match (var.0 as usize).checked_sub(arity) {
        None => arg_dtype,
        Some(pos) => expansion.insts.get(pos).map_or(arg_dtype, |(dtype, _)| *dtype),
    };
    for (dtype, inst) in &expansion.insts {
        let at = |var: &Var| values.get(var.0 as usize).copied().unwrap_or_default();
        let bits = match inst {
            Inst::Const(value) => to_bits(*dtype, *value),
            Inst::Scalar(op, operands) => {
                let mut bits = [0; 3];
                for (slot, var) in bits.iter_mut().zip(operands) {
                    *slot = at(var);
                }
                let last = operands.last().map_or(*dtype, |var| dtype_of(*var));
                scalar(*op, last, &bits[..operands.len().min(3)])
            }
            Inst::Fma(a, b, c) => fma(*dtype, at(a), at(b), at(c)),
            Inst::Convert(arg) => convert(dtype_of(*arg), *dtype, at(arg)),
            Inst::Bitcast(arg) => bitcast(*dtype, at(arg)),
            Inst::Round(to, arg) => round(*to, at(arg)),
            // Expansions hold no memory and no indices; `kernel::math` says so and its tests check it.
            Inst::Index(_) | Inst::Load(..) => 0,
        };
        values.push(bits);
    }
    values.get(expansion.result.0 as usize).copied().unwrap_or_default()
}
