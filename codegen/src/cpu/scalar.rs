//! Scalar operations, one arm each, on scalars and native vectors.
//!
//! In: an operation and its operands. Out: instructions; transcendentals are written out as [`kernel::math`] defines them.
//! Assumes dtypes as [`ScalarOp::infer`] gives them. Integer operations never trap.

use super::emit::Emitter;
use super::value::{Val, chunk_type, n_chunks, scalar_type, vector_type};
use crate::facts::scalar_bits;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{Inst, Var, math};
use birkhoff_ir::scalar::{self, Scalar, ScalarClass, ScalarOp};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{InstBuilder, Type, Value, types};

impl Emitter<'_, '_> {
    /// An instruction that touches no memory; `args` are its operands with their dtypes.
    pub(super) fn pure_inst(
        &mut self,
        dtype: DType,
        inst: &Inst,
        args: &[(Val, DType)],
    ) -> Result<Val, Diagnostic> {
        match inst {
            Inst::Const(value) => Ok(Val::Const(*value)),
            Inst::Scalar(op, _) => self.scalar_op(*op, dtype, args),
            Inst::Fma(..) => self.fma(dtype, args),
            Inst::Convert(_) => self.convert(&args[0].0, args[0].1, dtype),
            Inst::Bitcast(_) => self.cast_bits(&args[0].0, args[0].1, dtype),
            Inst::Round(half, _) => self.zip(DType::F32, &args[..1], |emitter, _, chunk| {
                let bits = emitter.narrow_half(*half, chunk[0]);
                Ok(emitter.widen_half(*half, bits))
            }),
            Inst::Index(_) | Inst::Load(..) => Err(self.broken("an instruction stands where it may not")),
        }
    }

    /// `a * b + c`, rounded once.
    pub(super) fn fma(&mut self, dtype: DType, args: &[(Val, DType)]) -> Result<Val, Diagnostic> {
        self.zip(dtype, args, |emitter, _, chunk| {
            if dtype.is_float() {
                // On x86-64 Cranelift's result takes the register of the first factor. The younger one dies sooner as a
                // rule; the older would have to be copied.
                let (a, b) = (chunk[0].max(chunk[1]), chunk[0].min(chunk[1]));
                return Ok(emitter.b.ins().fma(a, b, chunk[2]));
            }
            let product = emitter.b.ins().imul(chunk[0], chunk[1]);
            Ok(emitter.b.ins().iadd(product, chunk[2]))
        })
    }

    /// A scalar operation with a result of `dtype`.
    pub(super) fn scalar_op(
        &mut self,
        op: ScalarOp,
        dtype: DType,
        args: &[(Val, DType)],
    ) -> Result<Val, Diagnostic> {
        let operand = args[args.len() - 1].1;
        let exact = matches!(op, ScalarOp::Neg | ScalarOp::Abs);
        if (exact || !operand.is_float())
            && let Some(consts) = all_const(args)
        {
            return Ok(Val::Const(scalar::eval(op, operand, &consts)));
        }
        match op.class() {
            ScalarClass::Select => return self.select(dtype, args),
            ScalarClass::Logic => return self.logic(op, args),
            ScalarClass::Compare => return self.compare(op, operand, args),
            ScalarClass::Numeric | ScalarClass::Float | ScalarClass::Int => {}
        }
        if let Some(expansion) = math::expand(op, dtype) {
            return self.expansion(expansion, args);
        }
        match (op, &args.get(1)) {
            (ScalarOp::Max | ScalarOp::Min, Some(_)) if dtype.is_float() => self.float_bound(op, dtype, args),
            (ScalarOp::Shl | ScalarOp::Shr, Some((amount, _))) if !amount.per_lane() => {
                let amount = self.as_scalar(amount, dtype)?;
                self.zip(dtype, &args[..1], |emitter, _, chunk| Ok(emitter.shift(op, chunk[0], amount)))
            }
            _ => self.zip(dtype, args, |emitter, ty, chunk| emitter.raw_op(op, dtype, ty, chunk)),
        }
    }

    /// Applies `f` to the operands chunk by chunk, or once if all are uniform. All operands and the result have `dtype`.
    pub(super) fn zip(
        &mut self,
        dtype: DType,
        args: &[(Val, DType)],
        f: impl Fn(&mut Self, Type, &[Value]) -> Result<Value, Diagnostic>,
    ) -> Result<Val, Diagnostic> {
        if !args.iter().any(|(arg, _)| arg.per_lane()) {
            let mut values = vec![];
            for (arg, _) in args {
                values.push(self.as_scalar(arg, dtype)?);
            }
            return Ok(Val::Uniform(f(self, scalar_type(dtype), &values)?));
        }
        // Constants are fetched chunk by chunk, so that each becomes an operand of its instruction.
        let mut lanes = vec![];
        for (arg, _) in args {
            lanes.push(if matches!(arg, Val::Const(_)) { None } else { Some(self.as_lanes(arg, dtype)?) });
        }
        let width = self.width();
        let ty = chunk_type(dtype, width);
        let mut chunks = vec![];
        for idx in 0..n_chunks(dtype, width) {
            let mut values = vec![];
            for (lane, (arg, _)) in lanes.iter().zip(args) {
                values.push(match lane {
                    Some(lane) => lane[idx],
                    None => self.chunk_const(arg, dtype)?,
                });
            }
            chunks.push(f(self, ty, &values)?);
        }
        Ok(Val::Lanes(chunks))
    }

    fn expansion(&mut self, expansion: &math::Expansion, args: &[(Val, DType)]) -> Result<Val, Diagnostic> {
        let mut known = args.to_vec();
        for (dtype, inst) in &expansion.insts {
            let mut operands = vec![];
            for Var(operand) in inst.operands() {
                operands.push(known[operand as usize].clone());
            }
            let val = self.pure_inst(*dtype, inst, &operands)?;
            known.push((val, *dtype));
        }
        Ok(known[expansion.result.0 as usize].0.clone())
    }

    /// An operation on numbers, on one scalar or native vector of type `ty`.
    pub(super) fn raw_op(
        &mut self,
        op: ScalarOp,
        dtype: DType,
        ty: Type,
        args: &[Value],
    ) -> Result<Value, Diagnostic> {
        if dtype.is_float() { self.float_op(op, args) } else { self.int_op(op, ty, args) }
    }

    fn float_op(&mut self, op: ScalarOp, args: &[Value]) -> Result<Value, Diagnostic> {
        let ins = self.b.ins();
        Ok(match op {
            ScalarOp::Neg => ins.fneg(args[0]),
            ScalarOp::Abs => ins.fabs(args[0]),
            ScalarOp::Floor => ins.floor(args[0]),
            ScalarOp::Sqrt => ins.sqrt(args[0]),
            ScalarOp::Add => ins.fadd(args[0], args[1]),
            ScalarOp::Sub => ins.fsub(args[0], args[1]),
            ScalarOp::Mul => ins.fmul(args[0], args[1]),
            ScalarOp::Div => ins.fdiv(args[0], args[1]),
            ScalarOp::Max => ins.fmax(args[0], args[1]),
            ScalarOp::Min => ins.fmin(args[0], args[1]),
            _ => return Err(self.unsupported(&format!("`{op}` on floats"))),
        })
    }

    fn int_op(&mut self, op: ScalarOp, ty: Type, args: &[Value]) -> Result<Value, Diagnostic> {
        Ok(match op {
            ScalarOp::Neg => self.b.ins().ineg(args[0]),
            ScalarOp::Abs => self.b.ins().iabs(args[0]),
            ScalarOp::Sign => self.int_sign(ty, args[0]),
            ScalarOp::Add => self.b.ins().iadd(args[0], args[1]),
            ScalarOp::Sub => self.b.ins().isub(args[0], args[1]),
            ScalarOp::Mul => self.b.ins().imul(args[0], args[1]),
            ScalarOp::BitAnd => self.b.ins().band(args[0], args[1]),
            ScalarOp::BitOr => self.b.ins().bor(args[0], args[1]),
            ScalarOp::BitXor => self.b.ins().bxor(args[0], args[1]),
            ScalarOp::Max | ScalarOp::Min => {
                let (a, b) = if op == ScalarOp::Max { (args[0], args[1]) } else { (args[1], args[0]) };
                let larger = self.b.ins().icmp(IntCC::SignedGreaterThan, a, b);
                self.choose(larger, args[0], args[1])
            }
            ScalarOp::Div | ScalarOp::Rem | ScalarOp::Shl | ScalarOp::Shr if ty.is_vector() => {
                self.per_element(ty, args, |emitter, elems| emitter.int_op(op, ty.lane_type(), elems))?
            }
            ScalarOp::Div | ScalarOp::Rem => self.divide(op, ty, args[0], args[1]),
            ScalarOp::Shl | ScalarOp::Shr => self.shift(op, args[0], args[1]),
            _ => return Err(self.unsupported(&format!("`{op}` on integers"))),
        })
    }

    /// A shift; Cranelift takes the amount modulo the width of an element.
    fn shift(&mut self, op: ScalarOp, value: Value, amount: Value) -> Value {
        if op == ScalarOp::Shl { self.b.ins().ishl(value, amount) } else { self.b.ins().ushr(value, amount) }
    }

    fn int_sign(&mut self, ty: Type, value: Value) -> Value {
        let bits = ty.lane_bits();
        let last = self.bits_const(types::I32, u64::from(bits - 1));
        let negative = self.b.ins().sshr(value, last);
        let minus = self.b.ins().ineg(value);
        let positive = self.b.ins().ushr(minus, last);
        self.b.ins().bor(negative, positive)
    }

    /// Division that gives 0 for a zero divisor and wraps for the one overflow.
    fn divide(&mut self, op: ScalarOp, ty: Type, a: Value, b: Value) -> Value {
        let (zero, one, minus_one) = (
            self.bits_const(ty, 0),
            self.bits_const(ty, 1),
            self.bits_const(ty, u64::MAX >> (64 - ty.bits())),
        );
        let by_zero = self.b.ins().icmp(IntCC::Equal, b, zero);
        let by_minus_one = self.b.ins().icmp(IntCC::Equal, b, minus_one);
        let unsafe_divisor = self.b.ins().bor(by_zero, by_minus_one);
        let divisor = self.b.ins().select(unsafe_divisor, one, b);
        if op == ScalarOp::Rem {
            // Division by 1 in place of 0 and -1 leaves the remainder 0, as it should.
            return self.b.ins().srem(a, divisor);
        }
        let quotient = self.b.ins().sdiv(a, divisor);
        let negated = self.b.ins().ineg(a);
        let quotient = self.b.ins().select(by_minus_one, negated, quotient);
        self.b.ins().select(by_zero, zero, quotient)
    }

    fn per_element(
        &mut self,
        ty: Type,
        args: &[Value],
        f: impl Fn(&mut Self, &[Value]) -> Result<Value, Diagnostic>,
    ) -> Result<Value, Diagnostic> {
        let mut elems = vec![];
        for lane in 0..ty.lane_count() {
            let scalars: Vec<Value> =
                args.iter().map(|arg| self.b.ins().extractlane(*arg, lane as u8)).collect();
            elems.push(f(self, &scalars)?);
        }
        Ok(self.gather_vector(ty, &elems))
    }

    /// Maximum or minimum of floats. A constant bound needs one instruction, a general one nearly ten.
    fn float_bound(&mut self, op: ScalarOp, dtype: DType, args: &[(Val, DType)]) -> Result<Val, Diagnostic> {
        let constant = args.iter().position(|(arg, _)| matches!(arg, Val::Const(_)));
        let Some(position) = constant else {
            return self.zip(dtype, args, |emitter, _, chunk| emitter.float_op(op, chunk));
        };
        let Val::Const(bound) = args[position].0 else { unreachable!("position found a constant") };
        let bound = bound.as_f64();
        // The compare below gives the operand where both are zeros: right unless the bound is the zero that wins.
        let zero_wins = bound == 0.0 && bound.is_sign_positive() == (op == ScalarOp::Max);
        if bound.is_nan() || zero_wins {
            return self.zip(dtype, args, |emitter, _, chunk| emitter.float_op(op, chunk));
        }
        let pair = [args[position].clone(), args[1 - position].clone()];
        self.zip(dtype, &pair, |emitter, _, chunk| {
            let (bound, value) = (chunk[0], chunk[1]);
            let (less, more) = if op == ScalarOp::Max { (value, bound) } else { (bound, value) };
            let take_bound = emitter.b.ins().fcmp(FloatCC::LessThan, less, more);
            Ok(emitter.choose(take_bound, bound, value))
        })
    }

    fn select(&mut self, dtype: DType, args: &[(Val, DType)]) -> Result<Val, Diagnostic> {
        let (flag, data) = (&args[0].0, &args[1..]);
        if let Val::Const(flag) = flag {
            return Ok(data[usize::from(!flag.as_bool())].0.clone());
        }
        if dtype == DType::Bool {
            return self.select_bool(args);
        }
        if !flag.per_lane() {
            let flag = self.as_scalar(flag, DType::Bool)?;
            return self
                .zip(dtype, data, |emitter, _, chunk| Ok(emitter.b.ins().select(flag, chunk[0], chunk[1])));
        }
        let wide = vector_type(dtype).lane_bits() == 64;
        let masks = if wide { self.as_mask64(flag)? } else { self.as_lanes(flag, DType::Bool)? };
        let ty = chunk_type(dtype, self.width());
        if ty.is_vector() && is_zero(&data[1].0, dtype) {
            // One mask operation in place of a blend.
            let on = self.as_lanes(&data[0].0, dtype)?;
            let pairs: Vec<(Value, Value)> = masks.into_iter().zip(on).collect();
            return Ok(Val::Lanes(pairs.into_iter().map(|(mask, on)| self.masked(ty, mask, on)).collect()));
        }
        let on = self.as_lanes(&data[0].0, dtype)?;
        let off = self.as_lanes(&data[1].0, dtype)?;
        let mut chunks = vec![];
        for ((mask, on), off) in masks.into_iter().zip(on).zip(off) {
            chunks.push(self.choose(mask, on, off));
        }
        Ok(Val::Lanes(chunks))
    }

    /// `value` where the mask is set, else 0.
    fn masked(&mut self, ty: Type, mask: Value, value: Value) -> Value {
        let int = self.b.func.dfg.value_type(mask);
        let bits = self.bitcast(int, value);
        let bits = self.b.ins().band(mask, bits);
        self.bitcast(ty, bits)
    }

    /// `(flag and a) or (not flag and b)`.
    fn select_bool(&mut self, args: &[(Val, DType)]) -> Result<Val, Diagnostic> {
        let dtype = DType::Bool;
        let on = self.logic(ScalarOp::And, &[args[0].clone(), args[1].clone()])?;
        let not = self.logic(ScalarOp::Not, &args[..1])?;
        let off = self.logic(ScalarOp::And, &[(not, dtype), args[2].clone()])?;
        self.logic(ScalarOp::Or, &[(on, dtype), (off, dtype)])
    }

    fn logic(&mut self, op: ScalarOp, args: &[(Val, DType)]) -> Result<Val, Diagnostic> {
        if let Some(consts) = all_const(args) {
            return Ok(Val::Const(scalar::eval(op, DType::Bool, &consts)));
        }
        let wide = args.iter().any(|(arg, _)| matches!(arg, Val::Mask64(_)));
        if !wide {
            return self.zip(DType::Bool, args, |emitter, ty, chunk| Ok(emitter.mask_op(op, ty, chunk)));
        }
        let mut masks = vec![];
        for (arg, _) in args {
            masks.push(self.as_mask64(arg)?);
        }
        let n_masks = masks[0].len();
        let chunk = |idx: usize| masks.iter().map(|mask| mask[idx]).collect::<Vec<Value>>();
        let chunks = (0..n_masks).map(|idx| self.mask_op(op, types::I64X2, &chunk(idx))).collect();
        Ok(Val::Mask64(chunks))
    }

    fn mask_op(&mut self, op: ScalarOp, ty: Type, chunk: &[Value]) -> Value {
        match op {
            ScalarOp::And => self.b.ins().band(chunk[0], chunk[1]),
            ScalarOp::Or => self.b.ins().bor(chunk[0], chunk[1]),
            _ if ty.is_vector() => self.b.ins().bnot(chunk[0]),
            _ => {
                let one = self.bits_const(types::I8, 1);
                self.b.ins().bxor(chunk[0], one)
            }
        }
    }

    /// A comparison; of bools as of 0 and 1.
    fn compare(&mut self, op: ScalarOp, dtype: DType, args: &[(Val, DType)]) -> Result<Val, Diagnostic> {
        if dtype == DType::Bool {
            return self.compare_bool(op, args);
        }
        let result = self.zip(dtype, args, |emitter, _, chunk| Ok(emitter.raw_compare(op, dtype, chunk)))?;
        let wide = chunk_type(dtype, self.width()).lane_bits() == 64 && self.width() > 1;
        Ok(match result {
            Val::Lanes(masks) if wide => Val::Mask64(masks),
            other => other,
        })
    }

    fn raw_compare(&mut self, op: ScalarOp, dtype: DType, chunk: &[Value]) -> Value {
        let (float, int) = match op {
            ScalarOp::Eq => (FloatCC::Equal, IntCC::Equal),
            ScalarOp::Ne => (FloatCC::NotEqual, IntCC::NotEqual),
            ScalarOp::Lt => (FloatCC::LessThan, IntCC::SignedLessThan),
            _ => (FloatCC::LessThanOrEqual, IntCC::SignedLessThanOrEqual),
        };
        if dtype.is_float() {
            self.b.ins().fcmp(float, chunk[0], chunk[1])
        } else {
            self.b.ins().icmp(int, chunk[0], chunk[1])
        }
    }

    fn compare_bool(&mut self, op: ScalarOp, args: &[(Val, DType)]) -> Result<Val, Diagnostic> {
        let dtype = DType::Bool;
        let not_a = (self.logic(ScalarOp::Not, &args[..1])?, dtype);
        let not_b = (self.logic(ScalarOp::Not, &args[1..])?, dtype);
        let (a, b) = (args[0].clone(), args[1].clone());
        let less = (self.logic(ScalarOp::And, &[not_a.clone(), b.clone()])?, dtype);
        match op {
            ScalarOp::Lt => Ok(less.0),
            ScalarOp::Le => self.logic(ScalarOp::Or, &[not_a, b]),
            _ => {
                let more = (self.logic(ScalarOp::And, &[a, not_b])?, dtype);
                let differ = self.logic(ScalarOp::Or, &[less, more])?;
                if op == ScalarOp::Ne { Ok(differ) } else { self.logic(ScalarOp::Not, &[(differ, dtype)]) }
            }
        }
    }
}

/// True for a constant all of whose bits are 0.
fn is_zero(val: &Val, dtype: DType) -> bool {
    matches!(val, Val::Const(value) if scalar_bits(dtype, *value) == 0)
}

fn all_const(args: &[(Val, DType)]) -> Option<Vec<Scalar>> {
    args.iter()
        .map(|(arg, _)| match arg {
            Val::Const(value) => Some(*value),
            _ => None,
        })
        .collect()
}
