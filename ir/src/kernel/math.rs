//! Transcendental functions as straight-line programs of base instructions, written once for all back ends.

use super::{Inst, Var};
use crate::dtype::DType;
use crate::scalar::ScalarOp;

/// A straight-line program: `Var(0) .. Var(arity)` are the arguments, `Var(arity + i)` is the value of `insts[i]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Expansion {
    /// Number of arguments.
    pub arity: u32,
    /// Instructions with the dtype of their result. Only `Const`, `Scalar` of base operations, `Fma`, `Convert` and `Bitcast`.
    pub insts: Vec<(DType, Inst)>,
    /// The value of the whole.
    pub result: Var,
}

/// The expansion of `op` on operands of `dtype` (f32 or f64), or `None` if back ends emit the op directly.
pub fn expand(_op: ScalarOp, _dtype: DType) -> Option<&'static Expansion> {
    None
}
