//! Writing expansions: one method per base instruction, generic over f32 and f64.
//!
//! In: calls in order. Out: an [`Expansion`]. Equal constants are one instruction; nothing else is folded.

use super::Expansion;
use super::coefficients::{Coefficients, F32, F64};
use crate::dtype::DType;
use crate::kernel::{Inst, Var};
use crate::scalar::{Scalar, ScalarOp};

/// A value of the program.
pub(super) type Value = Var;

/// A program being written. `float` is its float type, `int` the integer of the same width.
pub(super) struct Asm {
    float: DType,
    int: DType,
    arity: u32,
    insts: Vec<(DType, Inst)>,
}

impl Asm {
    fn new(dtype: DType, arity: u32) -> Asm {
        let int = if dtype == DType::F32 { DType::I32 } else { DType::I64 };
        Asm { float: dtype, int, arity, insts: vec![] }
    }

    /// The expansion of a function of one argument.
    pub(super) fn unary(dtype: DType, program: fn(&mut Asm, Value) -> Value) -> Expansion {
        let mut asm = Asm::new(dtype, 1);
        let result = program(&mut asm, Var(0));
        Expansion { arity: 1, operand: dtype, insts: asm.insts, result }
    }

    /// The expansion of a function of two arguments.
    pub(super) fn binary(dtype: DType, program: fn(&mut Asm, Value, Value) -> Value) -> Expansion {
        let mut asm = Asm::new(dtype, 2);
        let result = program(&mut asm, Var(0), Var(1));
        Expansion { arity: 2, operand: dtype, insts: asm.insts, result }
    }

    /// The polynomials and constants of the float type.
    pub(super) fn table(&self) -> &'static Coefficients {
        if self.float == DType::F32 { &F32 } else { &F64 }
    }

    /// Bits of the significand that are stored: 23 or 52.
    pub(super) fn fraction_bits(&self) -> i64 {
        if self.float == DType::F32 { 23 } else { 52 }
    }

    /// The exponent bias: 127 or 1023.
    pub(super) fn bias(&self) -> i64 {
        if self.float == DType::F32 { 127 } else { 1023 }
    }

    fn push(&mut self, dtype: DType, inst: Inst) -> Value {
        self.insts.push((dtype, inst));
        Var(self.arity + self.insts.len() as u32 - 1)
    }

    fn constant(&mut self, dtype: DType, value: Scalar) -> Value {
        let bits = |scalar: Scalar| match scalar {
            Scalar::Float(value) => value.to_bits(),
            other => other.as_i64() as u64,
        };
        let known = self.insts.iter().position(
            |(other, inst)| matches!(inst, Inst::Const(known) if *other == dtype && bits(*known) == bits(value)),
        );
        match known {
            Some(position) => Var(self.arity + position as u32),
            None => self.push(dtype, Inst::Const(value)),
        }
    }

    /// A float constant, rounded to the float type.
    pub(super) fn c(&mut self, value: f64) -> Value {
        self.constant(self.float, Scalar::Float(self.float.round(value)))
    }

    /// An integer constant.
    pub(super) fn ic(&mut self, value: i64) -> Value {
        self.constant(self.int, Scalar::Int(value))
    }

    fn float_op(&mut self, op: ScalarOp, args: &[Value]) -> Value {
        self.push(self.float, Inst::Scalar(op, args.to_vec()))
    }

    fn int_op(&mut self, op: ScalarOp, args: &[Value]) -> Value {
        self.push(self.int, Inst::Scalar(op, args.to_vec()))
    }

    fn bool_op(&mut self, op: ScalarOp, args: &[Value]) -> Value {
        self.push(DType::Bool, Inst::Scalar(op, args.to_vec()))
    }

    pub(super) fn neg(&mut self, a: Value) -> Value {
        self.float_op(ScalarOp::Neg, &[a])
    }

    pub(super) fn abs(&mut self, a: Value) -> Value {
        self.float_op(ScalarOp::Abs, &[a])
    }

    pub(super) fn floor(&mut self, a: Value) -> Value {
        self.float_op(ScalarOp::Floor, &[a])
    }

    pub(super) fn sqrt(&mut self, a: Value) -> Value {
        self.float_op(ScalarOp::Sqrt, &[a])
    }

    pub(super) fn add(&mut self, a: Value, b: Value) -> Value {
        self.float_op(ScalarOp::Add, &[a, b])
    }

    pub(super) fn sub(&mut self, a: Value, b: Value) -> Value {
        self.float_op(ScalarOp::Sub, &[a, b])
    }

    pub(super) fn mul(&mut self, a: Value, b: Value) -> Value {
        self.float_op(ScalarOp::Mul, &[a, b])
    }

    pub(super) fn div(&mut self, a: Value, b: Value) -> Value {
        self.float_op(ScalarOp::Div, &[a, b])
    }

    /// `a * b + c`, rounded once.
    pub(super) fn fma(&mut self, a: Value, b: Value, c: Value) -> Value {
        self.push(self.float, Inst::Fma(a, b, c))
    }

    /// `c - a * b`, rounded once.
    pub(super) fn fnma(&mut self, a: Value, b: Value, c: Value) -> Value {
        let minus = self.neg(a);
        self.fma(minus, b, c)
    }

    /// `a` held between two constants; NaN stays NaN.
    pub(super) fn clamp(&mut self, a: Value, low: f64, high: f64) -> Value {
        let (low, high) = (self.c(low), self.c(high));
        let a = self.float_op(ScalarOp::Max, &[a, low]);
        self.float_op(ScalarOp::Min, &[a, high])
    }

    /// `min(a, high)`; NaN stays NaN.
    pub(super) fn min(&mut self, a: Value, high: f64) -> Value {
        let high = self.c(high);
        self.float_op(ScalarOp::Min, &[a, high])
    }

    pub(super) fn lt(&mut self, a: Value, b: Value) -> Value {
        self.bool_op(ScalarOp::Lt, &[a, b])
    }

    pub(super) fn eq(&mut self, a: Value, b: Value) -> Value {
        self.bool_op(ScalarOp::Eq, &[a, b])
    }

    pub(super) fn ne(&mut self, a: Value, b: Value) -> Value {
        self.bool_op(ScalarOp::Ne, &[a, b])
    }

    pub(super) fn and(&mut self, a: Value, b: Value) -> Value {
        self.bool_op(ScalarOp::And, &[a, b])
    }

    pub(super) fn or(&mut self, a: Value, b: Value) -> Value {
        self.bool_op(ScalarOp::Or, &[a, b])
    }

    /// `a` where `flag` holds, else `b`; floats.
    pub(super) fn select(&mut self, flag: Value, a: Value, b: Value) -> Value {
        self.float_op(ScalarOp::Select, &[flag, a, b])
    }

    /// `a` where `flag` holds, else `b`; integers.
    pub(super) fn int_select(&mut self, flag: Value, a: Value, b: Value) -> Value {
        self.int_op(ScalarOp::Select, &[flag, a, b])
    }

    /// The bits of a float.
    pub(super) fn bits(&mut self, a: Value) -> Value {
        self.push(self.int, Inst::Bitcast(a))
    }

    /// The float of these bits.
    pub(super) fn float(&mut self, a: Value) -> Value {
        self.push(self.float, Inst::Bitcast(a))
    }

    pub(super) fn iadd(&mut self, a: Value, b: Value) -> Value {
        self.int_op(ScalarOp::Add, &[a, b])
    }

    pub(super) fn isub(&mut self, a: Value, b: Value) -> Value {
        self.int_op(ScalarOp::Sub, &[a, b])
    }

    pub(super) fn iand(&mut self, a: Value, b: Value) -> Value {
        self.int_op(ScalarOp::BitAnd, &[a, b])
    }

    pub(super) fn ior(&mut self, a: Value, b: Value) -> Value {
        self.int_op(ScalarOp::BitOr, &[a, b])
    }

    pub(super) fn ixor(&mut self, a: Value, b: Value) -> Value {
        self.int_op(ScalarOp::BitXor, &[a, b])
    }

    pub(super) fn shl(&mut self, a: Value, bits: i64) -> Value {
        let bits = self.ic(bits);
        self.int_op(ScalarOp::Shl, &[a, bits])
    }

    pub(super) fn shr(&mut self, a: Value, bits: i64) -> Value {
        let bits = self.ic(bits);
        self.int_op(ScalarOp::Shr, &[a, bits])
    }

    /// The sign bit of a float, alone.
    pub(super) fn sign_bit(&mut self, a: Value) -> Value {
        let bits = self.bits(a);
        let mask = self.ic(if self.float == DType::F32 { i64::from(i32::MIN) } else { i64::MIN });
        self.iand(bits, mask)
    }

    /// `a` with its sign flipped where `sign` has the sign bit.
    pub(super) fn flip(&mut self, a: Value, sign: Value) -> Value {
        let bits = self.bits(a);
        let bits = self.ixor(bits, sign);
        self.float(bits)
    }

    /// `2^(biased - bias)`, for `biased` from 1 to twice the bias.
    pub(super) fn power_of_two(&mut self, biased: Value) -> Value {
        let bits = self.shl(biased, self.fraction_bits());
        self.float(bits)
    }

    /// `c[0] + c[1] x + ..` by Horner's rule.
    pub(super) fn poly(&mut self, x: Value, coeffs: &[f64]) -> Value {
        let mut sum = self.c(coeffs.last().copied().unwrap_or(0.0));
        for coeff in coeffs.iter().rev().skip(1) {
            let coeff = self.c(*coeff);
            sum = self.fma(sum, x, coeff);
        }
        sum
    }
}
