//! Scalar operations, conversions and shuffles of values.
//!
//! In: operations on compute types. Out: operations of arith and LLVM intrinsics that NVPTX selects: transcendental functions are
//! written out as `kernel::math` defines them, so that none of LLVM's reaches the back end, and floats are never contracted.

use super::build::{FloatCompare, IntCompare, Ssa};
use super::emit::{Emitter, Val};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{Inst, math};
use birkhoff_ir::scalar::{self, Scalar, ScalarOp};

impl<'c, 'm> Emitter<'_, 'c, 'm> {
    /// `op` on values of `dtype` (of a selection: that of its data).
    ///
    /// Errors: an operation that this back end lacks.
    pub(super) fn scalar_op(
        &mut self,
        op: ScalarOp,
        dtype: DType,
        args: &[Val<'c, 'm>],
    ) -> Result<Val<'c, 'm>, Diagnostic> {
        let constants: Option<Vec<Scalar>> = args
            .iter()
            .map(|arg| match arg {
                Val::Const(value) => Some(*value),
                Val::Ssa(_) => None,
            })
            .collect();
        let expansion = if dtype.is_float() { math::expand(op, dtype) } else { None };
        if let (Some(constants), None) = (constants, expansion) {
            return Ok(Val::Const(scalar::eval(op, dtype, &constants)));
        }
        if let Some(expansion) = expansion {
            return self.expanded(expansion, args);
        }
        if op == ScalarOp::Select {
            return Ok(self.choose(dtype, args));
        }
        let args: Vec<Ssa<'c, 'm>> = args.iter().map(|arg| self.ssa(*arg, dtype)).collect();
        let value = match dtype {
            DType::Bool => self.bool_op(op, &args),
            _ if dtype.is_float() => self.float_op(op, dtype, &args),
            _ => self.int_op(op, dtype, &args),
        };
        match value {
            Some(value) => Ok(Val::Ssa(value)),
            None => Err(self.unsupported(&format!("`{op}` on {dtype}"))),
        }
    }

    fn choose(&mut self, dtype: DType, args: &[Val<'c, 'm>]) -> Val<'c, 'm> {
        if let Val::Const(flag) = args[0] {
            return args[if flag.as_bool() { 1 } else { 2 }];
        }
        let flag = self.ssa(args[0], DType::Bool);
        let (on, off) = (self.ssa(args[1], dtype), self.ssa(args[2], dtype));
        Val::Ssa(self.b.select(flag, on, off))
    }

    /// Writes out a transcendental function.
    fn expanded(
        &mut self,
        expansion: &math::Expansion,
        args: &[Val<'c, 'm>],
    ) -> Result<Val<'c, 'm>, Diagnostic> {
        let mut vals: Vec<(Val<'c, 'm>, DType)> = args.iter().map(|arg| (*arg, expansion.operand)).collect();
        for (dtype, inst) in &expansion.insts {
            let val = match inst {
                Inst::Const(value) => Val::Const(*value),
                Inst::Scalar(op, args) => {
                    let operand = args.last().map_or(*dtype, |arg| vals[arg.0 as usize].1);
                    let args: Vec<Val<'c, 'm>> = args.iter().map(|arg| vals[arg.0 as usize].0).collect();
                    self.scalar_op(*op, operand, &args)?
                }
                Inst::Fma(a, b, c) => {
                    let args = [a, b, c].map(|arg| vals[arg.0 as usize].0);
                    let args = args.map(|arg| self.ssa(arg, *dtype));
                    Val::Ssa(self.b.same("llvm.intr.fma", &args))
                }
                Inst::Convert(arg) => {
                    let (val, from) = vals[arg.0 as usize];
                    self.convert(val, from, *dtype)
                }
                Inst::Bitcast(arg) => {
                    let (val, from) = vals[arg.0 as usize];
                    let value = self.ssa(val, from);
                    Val::Ssa(self.cast_bits(value, from, *dtype))
                }
                Inst::Index(_) | Inst::Round(..) | Inst::Load(..) => {
                    return Err(self.broken("an expansion holds what is no arithmetic"));
                }
            };
            vals.push((val, *dtype));
        }
        match vals.get(expansion.result.0 as usize) {
            Some((val, _)) => Ok(*val),
            None => Err(self.broken("an expansion lacks its result")),
        }
    }

    fn float_op(&mut self, op: ScalarOp, dtype: DType, args: &[Ssa<'c, 'm>]) -> Option<Ssa<'c, 'm>> {
        let name = match op {
            ScalarOp::Neg => "arith.negf",
            // MLIR would make calls of libdevice of its own operations for these.
            ScalarOp::Abs => return Some(self.b.intrinsic("llvm.fabs", args)),
            ScalarOp::Floor => return Some(self.b.intrinsic("llvm.floor", args)),
            ScalarOp::Sqrt => return Some(self.b.intrinsic("llvm.sqrt", args)),
            ScalarOp::Add => "arith.addf",
            ScalarOp::Sub => "arith.subf",
            ScalarOp::Mul => "arith.mulf",
            ScalarOp::Div => "arith.divf",
            // The machine has these for f32 only.
            ScalarOp::Max | ScalarOp::Min if dtype == DType::F64 => return Some(self.double_bound(op, args)),
            ScalarOp::Max => "llvm.intr.maximum",
            ScalarOp::Min => "llvm.intr.minimum",
            ScalarOp::Eq => return Some(self.b.cmpf(FloatCompare::Eq, args[0], args[1])),
            ScalarOp::Ne => return Some(self.b.cmpf(FloatCompare::Ne, args[0], args[1])),
            ScalarOp::Lt => return Some(self.b.cmpf(FloatCompare::Lt, args[0], args[1])),
            ScalarOp::Le => return Some(self.b.cmpf(FloatCompare::Le, args[0], args[1])),
            _ => return None,
        };
        Some(self.b.same(name, args))
    }

    /// The larger or smaller of two f64: NaN wins, and -0 is below 0.
    fn double_bound(&mut self, op: ScalarOp, args: &[Ssa<'c, 'm>]) -> Ssa<'c, 'm> {
        let (a, b) = (args[0], args[1]);
        let is_max = op == ScalarOp::Max;
        let (small, large) = if is_max { (b, a) } else { (a, b) };
        let take_a = self.b.cmpf(FloatCompare::Lt, small, large);
        let bound = self.b.select(take_a, a, b);
        // Equal values differ in their bits if they are zeros only: the sign bits decide, together.
        let (bits_a, bits_b) =
            (self.cast_bits(a, DType::F64, DType::I64), self.cast_bits(b, DType::F64, DType::I64));
        let joined = self.b.same(if is_max { "arith.andi" } else { "arith.ori" }, &[bits_a, bits_b]);
        let joined = self.cast_bits(joined, DType::I64, DType::F64);
        let equal = self.b.cmpf(FloatCompare::Eq, a, b);
        let bound = self.b.select(equal, joined, bound);
        let sum = self.b.same("arith.addf", &[a, b]);
        let is_nan = self.b.cmpf(FloatCompare::Unordered, a, b);
        self.b.select(is_nan, sum, bound)
    }

    fn int_op(&mut self, op: ScalarOp, dtype: DType, args: &[Ssa<'c, 'm>]) -> Option<Ssa<'c, 'm>> {
        let bits = dtype.size_bytes() as u32 * 8;
        let name = match op {
            ScalarOp::Neg => {
                let zero = self.b.int_const(bits, 0);
                return Some(self.b.sub(zero, args[0]));
            }
            ScalarOp::Abs => {
                let zero = self.b.int_const(bits, 0);
                let negated = self.b.sub(zero, args[0]);
                let negative = self.b.cmpi(IntCompare::Slt, args[0], zero);
                return Some(self.b.select(negative, negated, args[0]));
            }
            ScalarOp::Sign => {
                let (one, minus) = (self.b.int_const(bits, 1), self.b.int_const(bits, -1));
                let low = self.b.same("arith.minsi", &[args[0], one]);
                return Some(self.b.same("arith.maxsi", &[low, minus]));
            }
            ScalarOp::Add => "arith.addi",
            ScalarOp::Sub => "arith.subi",
            ScalarOp::Mul => "arith.muli",
            ScalarOp::Max => "arith.maxsi",
            ScalarOp::Min => "arith.minsi",
            ScalarOp::BitAnd => "arith.andi",
            ScalarOp::BitOr => "arith.ori",
            ScalarOp::BitXor => "arith.xori",
            ScalarOp::Shl | ScalarOp::Shr => {
                let mask = self.b.int_const(bits, i64::from(bits) - 1);
                let amount = self.b.and(args[1], mask);
                let name = if op == ScalarOp::Shl { "arith.shli" } else { "arith.shrui" };
                return Some(self.b.same(name, &[args[0], amount]));
            }
            ScalarOp::Div | ScalarOp::Rem => return Some(self.divide(op, bits, args[0], args[1])),
            ScalarOp::Eq => return Some(self.b.cmpi(IntCompare::Eq, args[0], args[1])),
            ScalarOp::Ne => return Some(self.b.cmpi(IntCompare::Ne, args[0], args[1])),
            ScalarOp::Lt => return Some(self.b.cmpi(IntCompare::Slt, args[0], args[1])),
            ScalarOp::Le => return Some(self.b.cmpi(IntCompare::Sle, args[0], args[1])),
            _ => return None,
        };
        Some(self.b.same(name, args))
    }

    /// Division that gives 0 for a zero divisor and wraps for the one overflow.
    fn divide(&mut self, op: ScalarOp, bits: u32, a: Ssa<'c, 'm>, b: Ssa<'c, 'm>) -> Ssa<'c, 'm> {
        let (zero, one) = (self.b.int_const(bits, 0), self.b.int_const(bits, 1));
        let minus = self.b.int_const(bits, -1);
        let by_zero = self.b.cmpi(IntCompare::Eq, b, zero);
        let by_minus = self.b.cmpi(IntCompare::Eq, b, minus);
        let either = self.b.same("arith.ori", &[by_zero, by_minus]);
        let divisor = self.b.select(either, one, b);
        if op == ScalarOp::Rem {
            // Division by 1 in place of 0 and -1 leaves the remainder 0, as it should.
            return self.b.same("arith.remsi", &[a, divisor]);
        }
        let quotient = self.b.same("arith.divsi", &[a, divisor]);
        let negated = self.b.sub(zero, a);
        let quotient = self.b.select(by_minus, negated, quotient);
        self.b.select(by_zero, zero, quotient)
    }

    fn bool_op(&mut self, op: ScalarOp, args: &[Ssa<'c, 'm>]) -> Option<Ssa<'c, 'm>> {
        Some(match op {
            ScalarOp::And => self.b.and(args[0], args[1]),
            ScalarOp::Or => self.b.same("arith.ori", args),
            ScalarOp::Not => {
                let one = self.b.int_const(1, 1);
                self.b.same("arith.xori", &[args[0], one])
            }
            ScalarOp::Eq => self.b.cmpi(IntCompare::Eq, args[0], args[1]),
            ScalarOp::Ne => self.b.cmpi(IntCompare::Ne, args[0], args[1]),
            ScalarOp::Lt => self.b.cmpi(IntCompare::Ult, args[0], args[1]),
            ScalarOp::Le => self.b.cmpi(IntCompare::Ule, args[0], args[1]),
            _ => return None,
        })
    }

    // ---- conversions ------------------------------------------------------------------------------------------------

    /// `val` of dtype `from` as `to`: see [`Scalar::convert`].
    pub(super) fn convert(&mut self, val: Val<'c, 'm>, from: DType, to: DType) -> Val<'c, 'm> {
        if from == to {
            return val;
        }
        let value = match val {
            Val::Const(value) => return Val::Const(value.convert(to)),
            Val::Ssa(value) => value,
        };
        let ty = self.b.compute_type(to);
        Val::Ssa(match (from, to) {
            (DType::F32 | DType::F64, DType::Bool) => {
                let zero = self.b.scalar(from, Scalar::Float(0.0));
                self.b.cmpf(FloatCompare::Ne, value, zero)
            }
            (_, DType::Bool) => {
                let zero = self.b.scalar(from, Scalar::Int(0));
                self.b.cmpi(IntCompare::Ne, value, zero)
            }
            (DType::F32, DType::F64) => self.b.op("arith.extf", &[value], ty),
            (DType::F64, DType::F32) => self.b.op("arith.truncf", &[value], ty),
            (DType::F32 | DType::F64, _) => self.float_to_int(value, from, to),
            // Through f64, as the definition goes: large integers are rounded twice.
            (DType::I64, DType::F32) => {
                let double = self.b.compute_type(DType::F64);
                let wide = self.b.op("arith.sitofp", &[value], double);
                self.b.op("arith.truncf", &[wide], ty)
            }
            (DType::Bool, _) if to.is_float() => self.b.op("arith.uitofp", &[value], ty),
            (DType::Bool, _) => self.b.op("arith.extui", &[value], ty),
            (DType::I64, DType::I32) => self.b.op("arith.trunci", &[value], ty),
            (DType::I32, DType::I64) => self.b.op("arith.extsi", &[value], ty),
            _ => self.b.op("arith.sitofp", &[value], ty),
        })
    }

    /// Truncates and saturates; NaN gives 0.
    fn float_to_int(&mut self, value: Ssa<'c, 'm>, from: DType, to: DType) -> Ssa<'c, 'm> {
        let (lowest, bound) = match to {
            DType::I32 => (i64::from(i32::MIN), 2f64.powi(31)),
            _ => (i64::MIN, 2f64.powi(63)),
        };
        let ty = self.b.compute_type(to);
        let (low, high) =
            (self.b.scalar(from, Scalar::Float(-bound)), self.b.scalar(from, Scalar::Float(bound)));
        let zero = self.b.scalar(from, Scalar::Float(0.0));
        let (above_low, below_high) =
            (self.b.cmpf(FloatCompare::Ge, value, low), self.b.cmpf(FloatCompare::Lt, value, high));
        let inside = self.b.and(above_low, below_high);
        let safe = self.b.select(inside, value, zero);
        let result = self.b.op("arith.fptosi", &[safe], ty);
        let (least, most) = (self.b.scalar(to, Scalar::Int(lowest)), self.b.scalar(to, Scalar::Int(!lowest)));
        let is_high = self.b.cmpf(FloatCompare::Ge, value, high);
        let is_low = self.b.cmpf(FloatCompare::Lt, value, low);
        let result = self.b.select(is_high, most, result);
        self.b.select(is_low, least, result)
    }

    /// The same bits as another type of equal width.
    pub(super) fn cast_bits(&mut self, value: Ssa<'c, 'm>, from: DType, to: DType) -> Ssa<'c, 'm> {
        if from == to {
            return value;
        }
        let ty = self.b.compute_type(to);
        self.b.op("arith.bitcast", &[value], ty)
    }

    // ---- other threads ----------------------------------------------------------------------------------------------

    /// The value of the thread of the warp whose number differs in the bits of `mask`.
    pub(super) fn shuffle_xor(&mut self, value: Ssa<'c, 'm>, dtype: DType, mask: i64) -> Ssa<'c, 'm> {
        self.by_words(value, dtype, |this, word| this.b.shuffle_xor(word, mask))
    }

    /// The value of the thread `from` of the warp.
    pub(super) fn shuffle_from(&mut self, value: Ssa<'c, 'm>, dtype: DType, from: i64) -> Ssa<'c, 'm> {
        self.by_words(value, dtype, |this, word| this.b.shuffle_from(word, from))
    }

    /// Shuffles move 32 bits: wider values go in two halves.
    fn by_words(
        &mut self,
        value: Ssa<'c, 'm>,
        dtype: DType,
        shuffle: impl Fn(&mut Self, Ssa<'c, 'm>) -> Ssa<'c, 'm>,
    ) -> Ssa<'c, 'm> {
        let (word, long) = (self.b.int(32), self.b.int(64));
        match dtype {
            DType::F32 | DType::I32 | DType::Bf16 | DType::F16 => shuffle(self, value),
            DType::Bool => {
                let wide = self.b.op("arith.extui", &[value], word);
                let moved = shuffle(self, wide);
                let flag = self.b.int(1);
                self.b.op("arith.trunci", &[moved], flag)
            }
            DType::F64 | DType::I64 => {
                let bits = self.cast_bits(value, dtype, DType::I64);
                let by = self.b.i64(32);
                let high = self.b.same("arith.shrui", &[bits, by]);
                let (low, high) =
                    (self.b.op("arith.trunci", &[bits], word), self.b.op("arith.trunci", &[high], word));
                let (low, high) = (shuffle(self, low), shuffle(self, high));
                let (low, high) =
                    (self.b.op("arith.extui", &[low], long), self.b.op("arith.extui", &[high], long));
                let high = self.b.same("arith.shli", &[high, by]);
                let bits = self.b.same("arith.ori", &[low, high]);
                self.cast_bits(bits, DType::I64, dtype)
            }
        }
    }
}
