//! The interpreter of expansions: the bits that every back end must compute.

use super::Expansion;
use crate::dtype::DType;
use crate::kernel::{Inst, Var};
use crate::scalar::{self, Scalar, ScalarOp};

/// The value of an expansion, exact in its dtypes: f32 arithmetic rounds to f32 at each step.
///
/// Panics if there are fewer arguments than the expansion has.
pub fn eval(expansion: &Expansion, args: &[Scalar]) -> Scalar {
    let arity = expansion.arity as usize;
    let mut bits: Vec<u64> = Vec::with_capacity(arity + expansion.insts.len());
    bits.extend(args[..arity].iter().map(|arg| encode(expansion.operand, *arg)));
    for (dtype, inst) in &expansion.insts {
        let value = step(expansion, &bits, *dtype, inst);
        bits.push(value);
    }
    let result = expansion.result.0 as usize;
    decode(dtype_of(expansion, expansion.result), bits[result])
}

fn dtype_of(expansion: &Expansion, var: Var) -> DType {
    match var.0.checked_sub(expansion.arity) {
        None => expansion.operand,
        Some(idx) => expansion.insts[idx as usize].0,
    }
}

fn encode(dtype: DType, value: Scalar) -> u64 {
    match dtype {
        DType::F64 => value.as_f64().to_bits(),
        DType::F32 | DType::Bf16 | DType::F16 => u64::from((value.as_f64() as f32).to_bits()),
        DType::I64 => value.as_i64() as u64,
        DType::I32 => u64::from(value.as_i64() as i32 as u32),
        DType::Bool => u64::from(value.as_bool()),
    }
}

fn decode(dtype: DType, bits: u64) -> Scalar {
    match dtype {
        DType::F64 => Scalar::Float(f64::from_bits(bits)),
        DType::F32 | DType::Bf16 | DType::F16 => Scalar::Float(f64::from(f32::from_bits(bits as u32))),
        DType::I64 => Scalar::Int(bits as i64),
        DType::I32 => Scalar::Int(i64::from(bits as u32 as i32)),
        DType::Bool => Scalar::Bool(bits != 0),
    }
}

fn step(expansion: &Expansion, bits: &[u64], dtype: DType, inst: &Inst) -> u64 {
    let get = |var: &Var| bits[var.0 as usize];
    match inst {
        Inst::Const(value) => encode(dtype, *value),
        Inst::Bitcast(a) => get(a),
        Inst::Convert(a) => encode(dtype, decode(dtype_of(expansion, *a), get(a)).convert(dtype)),
        Inst::Fma(a, b, c) if dtype == DType::F32 => {
            let [a, b, c] = [a, b, c].map(|var| f32::from_bits(get(var) as u32));
            u64::from(a.mul_add(b, c).to_bits())
        }
        Inst::Fma(a, b, c) => {
            let [a, b, c] = [a, b, c].map(|var| f64::from_bits(get(var)));
            a.mul_add(b, c).to_bits()
        }
        Inst::Scalar(op, args) => {
            let operand = dtype_of(expansion, args[args.len() - 1]);
            if *op == ScalarOp::Select {
                return if get(&args[0]) != 0 { get(&args[1]) } else { get(&args[2]) };
            }
            scalar_step(*op, operand, dtype, get(&args[0]), args.get(1).map_or(0, get))
        }
        Inst::Index(_) | Inst::Round(..) | Inst::Load(..) => {
            unreachable!("expansions have no such instruction")
        }
    }
}

/// The common operations on bits; the rest goes through the definition in `scalar`.
fn scalar_step(op: ScalarOp, operand: DType, dtype: DType, a: u64, b: u64) -> u64 {
    match (op, operand) {
        (ScalarOp::Neg, DType::F32) => a ^ 0x8000_0000,
        (ScalarOp::Neg, DType::F64) => a ^ (1 << 63),
        (ScalarOp::Abs, DType::F32) => a & 0x7fff_ffff,
        (ScalarOp::Abs, DType::F64) => a & !(1 << 63),
        (ScalarOp::Add, DType::F32) => {
            u64::from((f32::from_bits(a as u32) + f32::from_bits(b as u32)).to_bits())
        }
        (ScalarOp::Sub, DType::F32) => {
            u64::from((f32::from_bits(a as u32) - f32::from_bits(b as u32)).to_bits())
        }
        (ScalarOp::Mul, DType::F32) => {
            u64::from((f32::from_bits(a as u32) * f32::from_bits(b as u32)).to_bits())
        }
        (ScalarOp::Add, DType::F64) => (f64::from_bits(a) + f64::from_bits(b)).to_bits(),
        (ScalarOp::Sub, DType::F64) => (f64::from_bits(a) - f64::from_bits(b)).to_bits(),
        (ScalarOp::Mul, DType::F64) => (f64::from_bits(a) * f64::from_bits(b)).to_bits(),
        _ => {
            let args = [decode(operand, a), decode(operand, b)];
            encode(dtype, scalar::eval(op, operand, &args[..op.arity()]))
        }
    }
}
