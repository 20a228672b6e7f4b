//! Transcendental functions as straight-line programs of base instructions, written once for all back ends.
//!
//! In: an operation and a float dtype. Out: its [`Expansion`], in which only arithmetic, comparisons, selections, integer
//! bit operations and casts occur, so that vectors, PTX and the evaluator compute the same bits. [`ulp_bound`] says how far
//! the result is from the exact one. `basic` holds the functions built from one polynomial, `compound` those built from
//! others, `coefficients` the numbers.
//! Deliberately absent: branches and table look-ups.

mod asm;
mod basic;
mod bounds;
mod coefficients;
mod compound;
mod eval;
mod power;

pub use bounds::{reduction_limit, ulp_bound};
pub use eval::eval;

use super::{Inst, Var};
use crate::dtype::DType;
use crate::scalar::ScalarOp;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// A straight-line program: `Var(0) .. Var(arity)` are the arguments, `Var(arity + i)` is the value of `insts[i]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Expansion {
    /// Number of arguments.
    pub arity: u32,
    /// The dtype of all arguments.
    pub operand: DType,
    /// Instructions with the dtype of their result. Only `Const`, `Scalar` of base operations, `Fma`, `Convert` and `Bitcast`.
    pub insts: Vec<(DType, Inst)>,
    /// The value of the whole.
    pub result: Var,
}

/// The expansion of `op` on operands of `dtype` (f32 or f64), or `None` if back ends emit the op directly.
pub fn expand(op: ScalarOp, dtype: DType) -> Option<&'static Expansion> {
    static TABLE: OnceLock<BTreeMap<(ScalarOp, DType), Expansion>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table = BTreeMap::new();
        for dtype in [DType::F32, DType::F64] {
            for op in ScalarOp::ALL {
                if let Some(expansion) = build(*op, dtype) {
                    table.insert((*op, dtype), expansion);
                }
            }
        }
        table
    });
    table.get(&(op, dtype))
}

fn build(op: ScalarOp, dtype: DType) -> Option<Expansion> {
    let program: fn(&mut asm::Asm, asm::Value) -> asm::Value = match op {
        ScalarOp::Sign => basic::sign,
        ScalarOp::Rsqrt => basic::rsqrt,
        ScalarOp::Recip => basic::recip,
        ScalarOp::Exp => basic::exp,
        ScalarOp::Expm1 => basic::expm1,
        ScalarOp::Log => basic::log,
        ScalarOp::Log1p => basic::log1p,
        ScalarOp::Sin => basic::sin,
        ScalarOp::Cos => basic::cos,
        ScalarOp::Tan => basic::tan,
        ScalarOp::Atan => basic::atan,
        ScalarOp::Sinh => compound::sinh,
        ScalarOp::Cosh => compound::cosh,
        ScalarOp::Tanh => compound::tanh,
        ScalarOp::Asinh => compound::asinh,
        ScalarOp::Atanh => compound::atanh,
        ScalarOp::Erf => compound::erf,
        ScalarOp::Pow => return Some(asm::Asm::binary(dtype, power::pow)),
        ScalarOp::Atan2 => return Some(asm::Asm::binary(dtype, basic::atan2)),
        _ => return None,
    };
    Some(asm::Asm::unary(dtype, program))
}
