//! Scalar operations, one arm each, on scalars and vectors alike.
//!
//! In: an operation and its operands. Out: instructions; transcendentals are written out as [`math`] defines them. Assumes
//! dtypes as [`ScalarOp::infer`] gives them. No flag allows LLVM to contract or reorder floats, and no operation is poison:
//! shifts are masked, divisors made harmless, conversions saturate.

use super::build::{Cast, FloatCompare, IntCompare, Ssa, type_of};
use super::emit::Emitter;
use super::value::Val;
use crate::facts::cast_const;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{Inst, Var, math};
use birkhoff_ir::scalar::{self, Scalar, ScalarClass, ScalarOp};

impl<'c> Emitter<'_, 'c> {
    /// An instruction that touches no memory; `args` are its operands with their dtypes.
    pub(super) fn pure_inst(
        &mut self,
        dtype: DType,
        inst: &Inst,
        args: &[(Val<'c>, DType)],
    ) -> Result<Val<'c>, Diagnostic> {
        match inst {
            Inst::Const(value) => Ok(Val::Const(*value)),
            Inst::Scalar(op, _) => self.scalar_op(*op, dtype, args),
            Inst::Fma(..) => self.fma(dtype, args),
            Inst::Convert(_) => self.convert(args[0].0, args[0].1, dtype),
            Inst::Bitcast(_) => self.cast_bits(args[0].0, args[0].1, dtype),
            Inst::Round(half, _) => self.zip(&args[..1], |emitter, lanes, values| {
                let bits = emitter.narrow_half(*half, values[0], lanes)?;
                emitter.widen_half(*half, bits, lanes)
            }),
            Inst::Index(_) | Inst::Load(..) => Err(self.broken("an instruction stands where it may not")),
        }
    }

    /// `a * b + c`, rounded once.
    pub(super) fn fma(&mut self, dtype: DType, args: &[(Val<'c>, DType)]) -> Result<Val<'c>, Diagnostic> {
        self.zip(args, |emitter, _, values| {
            let (a, b, c) = (values[0], values[1], values[2]);
            Ok(if dtype.is_float() {
                emitter.b.intrinsic(c"llvm.fma", &[type_of(a)], &[a, b, c])
            } else {
                emitter.b.add(emitter.b.mul(a, b), c)
            })
        })
    }

    /// A scalar operation with a result of `dtype`.
    pub(super) fn scalar_op(
        &mut self,
        op: ScalarOp,
        dtype: DType,
        args: &[(Val<'c>, DType)],
    ) -> Result<Val<'c>, Diagnostic> {
        let operand = args[args.len() - 1].1;
        let exact = matches!(op, ScalarOp::Neg | ScalarOp::Abs);
        if (exact || !operand.is_float())
            && let Some(consts) = all_const(args)
        {
            return Ok(Val::Const(scalar::eval(op, operand, &consts)));
        }
        match op.class() {
            ScalarClass::Select => return self.select(args),
            ScalarClass::Logic => {
                return self.zip(args, |emitter, _, values| {
                    Ok(match op {
                        ScalarOp::And => emitter.b.and(values[0], values[1]),
                        ScalarOp::Or => emitter.b.or(values[0], values[1]),
                        _ => emitter.b.not(values[0]),
                    })
                });
            }
            ScalarClass::Compare => {
                return self.zip(args, |emitter, _, values| Ok(emitter.compare(op, operand, values)));
            }
            ScalarClass::Numeric | ScalarClass::Float | ScalarClass::Int => {}
        }
        if let Some(expansion) = math::expand(op, dtype) {
            return self.expansion(expansion, args);
        }
        if matches!(op, ScalarOp::Max | ScalarOp::Min) && dtype.is_float() {
            return self.float_bound(op, args);
        }
        self.zip(args, |emitter, lanes, values| emitter.number_op(op, dtype, lanes, values))
    }

    /// Applies `f` to the operands in all lanes at once, or to single values if all are uniform; `f` is told how many lanes.
    pub(super) fn zip(
        &mut self,
        args: &[(Val<'c>, DType)],
        f: impl Fn(&mut Self, u32, &[Ssa<'c>]) -> Result<Ssa<'c>, Diagnostic>,
    ) -> Result<Val<'c>, Diagnostic> {
        if !args.iter().any(|(arg, _)| arg.per_lane()) {
            let values: Result<Vec<Ssa<'c>>, Diagnostic> =
                args.iter().map(|(arg, dtype)| self.as_scalar(*arg, *dtype)).collect();
            return Ok(Val::Uniform(f(self, 1, &values?)?));
        }
        let values: Vec<Ssa<'c>> = args.iter().map(|(arg, dtype)| self.as_lanes(*arg, *dtype)).collect();
        let width = self.width();
        Ok(Val::Lanes(f(self, width, &values)?))
    }

    fn expansion(
        &mut self,
        expansion: &math::Expansion,
        args: &[(Val<'c>, DType)],
    ) -> Result<Val<'c>, Diagnostic> {
        let mut known = args.to_vec();
        for (dtype, inst) in &expansion.insts {
            let operands: Vec<(Val<'c>, DType)> =
                inst.operands().into_iter().map(|Var(operand)| known[operand as usize]).collect();
            let val = self.pure_inst(*dtype, inst, &operands)?;
            known.push((val, *dtype));
        }
        Ok(known[expansion.result.0 as usize].0)
    }

    /// An operation on numbers.
    pub(super) fn number_op(
        &mut self,
        op: ScalarOp,
        dtype: DType,
        lanes: u32,
        args: &[Ssa<'c>],
    ) -> Result<Ssa<'c>, Diagnostic> {
        match op {
            ScalarOp::Max | ScalarOp::Min if dtype.is_float() => Ok(self.bound(op, dtype, lanes, args)),
            _ if dtype.is_float() => self.float_op(op, args),
            _ => self.int_op(op, dtype, lanes, args),
        }
    }

    fn float_op(&self, op: ScalarOp, args: &[Ssa<'c>]) -> Result<Ssa<'c>, Diagnostic> {
        let ty = [type_of(args[0])];
        Ok(match op {
            ScalarOp::Neg => self.b.fneg(args[0]),
            ScalarOp::Abs => self.b.intrinsic(c"llvm.fabs", &ty, args),
            ScalarOp::Floor => self.b.intrinsic(c"llvm.floor", &ty, args),
            ScalarOp::Sqrt => self.b.intrinsic(c"llvm.sqrt", &ty, args),
            ScalarOp::Add => self.b.fadd(args[0], args[1]),
            ScalarOp::Sub => self.b.fsub(args[0], args[1]),
            ScalarOp::Mul => self.b.fmul(args[0], args[1]),
            ScalarOp::Div => self.b.fdiv(args[0], args[1]),
            _ => return Err(self.unsupported(&format!("`{op}` on floats"))),
        })
    }

    fn int_op(
        &self,
        op: ScalarOp,
        dtype: DType,
        lanes: u32,
        args: &[Ssa<'c>],
    ) -> Result<Ssa<'c>, Diagnostic> {
        let bits = if dtype == DType::I64 { 64 } else { 32 };
        let number = |value: i64| self.int_like(bits, lanes, value as u64);
        Ok(match op {
            ScalarOp::Neg => self.b.neg(args[0]),
            ScalarOp::Abs => {
                let may_wrap = self.b.const_int(self.b.int(1), 0);
                self.b.intrinsic(c"llvm.abs", &[type_of(args[0])], &[args[0], may_wrap])
            }
            ScalarOp::Sign => {
                let at_most = self.int_bound(false, args[0], number(1));
                self.int_bound(true, at_most, number(-1))
            }
            ScalarOp::Add => self.b.add(args[0], args[1]),
            ScalarOp::Sub => self.b.sub(args[0], args[1]),
            ScalarOp::Mul => self.b.mul(args[0], args[1]),
            ScalarOp::BitAnd => self.b.and(args[0], args[1]),
            ScalarOp::BitOr => self.b.or(args[0], args[1]),
            ScalarOp::BitXor => self.b.xor(args[0], args[1]),
            ScalarOp::Max | ScalarOp::Min => self.int_bound(op == ScalarOp::Max, args[0], args[1]),
            ScalarOp::Div | ScalarOp::Rem => {
                self.divide(op, args[0], args[1], [number(0), number(1), number(-1)])
            }
            ScalarOp::Shl | ScalarOp::Shr => {
                let amount = self.b.and(args[1], number(i64::from(bits) - 1));
                if op == ScalarOp::Shl { self.b.shl(args[0], amount) } else { self.b.lshr(args[0], amount) }
            }
            _ => return Err(self.unsupported(&format!("`{op}` on integers"))),
        })
    }

    /// Division that gives 0 for a zero divisor and wraps for the one overflow; the numbers are 0, 1 and -1.
    fn divide(&self, op: ScalarOp, a: Ssa<'c>, b: Ssa<'c>, [zero, one, minus_one]: [Ssa<'c>; 3]) -> Ssa<'c> {
        // What nobody initialised may be any value, but must be the same one where it is tested and where it divides.
        let (a, b) = (self.b.freeze(a), self.b.freeze(b));
        let by_zero = self.b.icmp(IntCompare::LLVMIntEQ, b, zero);
        let by_minus_one = self.b.icmp(IntCompare::LLVMIntEQ, b, minus_one);
        let divisor = self.b.select(self.b.or(by_zero, by_minus_one), one, b);
        if op == ScalarOp::Rem {
            // Division by 1 in place of 0 and -1 leaves the remainder 0, as it should.
            return self.b.srem(a, divisor);
        }
        let quotient = self.b.select(by_minus_one, self.b.neg(a), self.b.sdiv(a, divisor));
        self.b.select(by_zero, zero, quotient)
    }

    /// Maximum or minimum of floats. A constant bound needs one instruction, a general one several.
    fn float_bound(&mut self, op: ScalarOp, args: &[(Val<'c>, DType)]) -> Result<Val<'c>, Diagnostic> {
        let bound = args.iter().enumerate().find_map(|(position, (arg, _))| match arg {
            Val::Const(value) => Some((position, value.as_f64())),
            _ => None,
        });
        // The compare below gives the operand where both are zeros: right unless the bound is the zero that wins.
        let simple = bound.filter(|(_, bound)| {
            let zero_wins = *bound == 0.0 && bound.is_sign_positive() == (op == ScalarOp::Max);
            !bound.is_nan() && !zero_wins
        });
        let Some((position, _)) = simple else {
            return self.zip(args, |emitter, lanes, values| Ok(emitter.bound(op, args[0].1, lanes, values)));
        };
        let pair = [args[position], args[1 - position]];
        self.zip(&pair, |emitter, _, values| {
            let (bound, value) = (values[0], values[1]);
            let (less, more) = if op == ScalarOp::Max { (value, bound) } else { (bound, value) };
            let take_bound = emitter.b.fcmp(FloatCompare::LLVMRealOLT, less, more);
            Ok(emitter.b.select(take_bound, bound, value))
        })
    }

    fn select(&mut self, args: &[(Val<'c>, DType)]) -> Result<Val<'c>, Diagnostic> {
        let flag = args[0].0;
        if let Val::Const(flag) = flag {
            return Ok(args[if flag.as_bool() { 1 } else { 2 }].0);
        }
        if let Val::Uniform(flag) = flag {
            return self
                .zip(&args[1..], |emitter, _, values| Ok(emitter.b.select(flag, values[0], values[1])));
        }
        self.zip(args, |emitter, _, values| Ok(emitter.b.select(values[0], values[1], values[2])))
    }

    /// A comparison; of bools as of 0 and 1.
    fn compare(&self, op: ScalarOp, dtype: DType, args: &[Ssa<'c>]) -> Ssa<'c> {
        let (float, mut int) = match op {
            ScalarOp::Eq => (FloatCompare::LLVMRealOEQ, IntCompare::LLVMIntEQ),
            ScalarOp::Ne => (FloatCompare::LLVMRealUNE, IntCompare::LLVMIntNE),
            ScalarOp::Lt => (FloatCompare::LLVMRealOLT, IntCompare::LLVMIntSLT),
            _ => (FloatCompare::LLVMRealOLE, IntCompare::LLVMIntSLE),
        };
        if dtype.is_float() {
            return self.b.fcmp(float, args[0], args[1]);
        }
        if dtype == DType::Bool {
            // One bit that is set would be -1.
            int = match int {
                IntCompare::LLVMIntSLT => IntCompare::LLVMIntULT,
                IntCompare::LLVMIntSLE => IntCompare::LLVMIntULE,
                other => other,
            };
        }
        self.b.icmp(int, args[0], args[1])
    }

    /// `val` of dtype `from` as `to`, as [`Scalar::convert`] defines it.
    fn convert(&mut self, val: Val<'c>, from: DType, to: DType) -> Result<Val<'c>, Diagnostic> {
        if from == to {
            return Ok(val);
        }
        if let Val::Const(value) = val {
            return Ok(Val::Const(value.convert(to)));
        }
        if to == DType::Bool {
            let zero = if from.is_float() { Scalar::Float(0.0) } else { Scalar::Int(0) };
            return self.scalar_op(ScalarOp::Ne, DType::Bool, &[(val, from), (Val::Const(zero), from)]);
        }
        self.zip(&[(val, from)], |emitter, lanes, values| {
            let (value, ty) = (values[0], emitter.ty(to, lanes));
            let cast = |how: Cast| emitter.b.cast(how, value, ty);
            Ok(match (from, to) {
                (DType::F32, DType::F64) => cast(Cast::LLVMFPExt),
                (DType::F64, DType::F32) => cast(Cast::LLVMFPTrunc),
                (DType::F32 | DType::F64, _) => {
                    emitter.b.intrinsic(c"llvm.fptosi.sat", &[ty, type_of(value)], &[value])
                }
                // Through f64, as the definition goes: large integers are rounded twice.
                (DType::I64, DType::F32) => {
                    let wide = emitter.b.cast(Cast::LLVMSIToFP, value, emitter.ty(DType::F64, lanes));
                    emitter.b.cast(Cast::LLVMFPTrunc, wide, ty)
                }
                (DType::I64, DType::I32) => cast(Cast::LLVMTrunc),
                (DType::I32, DType::I64) => cast(Cast::LLVMSExt),
                (DType::Bool, DType::I64 | DType::I32) => cast(Cast::LLVMZExt),
                (DType::Bool, _) => cast(Cast::LLVMUIToFP),
                _ => cast(Cast::LLVMSIToFP),
            })
        })
    }

    /// The same bits as another type of equal width.
    fn cast_bits(&mut self, val: Val<'c>, from: DType, to: DType) -> Result<Val<'c>, Diagnostic> {
        if from == to {
            return Ok(val);
        }
        if from.size_bytes() != to.size_bytes() {
            return Err(self.broken("a bitcast changes the width"));
        }
        if let Val::Const(value) = val {
            return Ok(Val::Const(cast_const(value, from, to)));
        }
        self.zip(&[(val, from)], |emitter, lanes, values| {
            Ok(emitter.bitcast(values[0], emitter.ty(to, lanes)))
        })
    }
}

fn all_const(args: &[(Val<'_>, DType)]) -> Option<Vec<Scalar>> {
    args.iter()
        .map(|(arg, _)| match arg {
            Val::Const(value) => Some(*value),
            _ => None,
        })
        .collect()
}
