//! Arithmetic on single elements, shared by the tensor IR (elementwise ops) and the kernel IR (instructions).
//!
//! [`eval`] is the definition of every operation, in f64 for floats and i64 for integers; rounding to the element
//! type is the caller's ([`crate::dtype::DType::round`]).

use crate::dtype::DType;
use std::fmt;

macro_rules! scalar_ops {
    ($($(#[doc = $doc:literal])+ $variant:ident $name:literal $arity:literal $class:ident;)+) => {
        /// An operation on single elements.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum ScalarOp { $($(#[doc = $doc])+ $variant,)+ }

        impl ScalarOp {
            /// Every operation, in the order of the table.
            pub const ALL: &'static [ScalarOp] = &[$(ScalarOp::$variant,)+];

            /// The name in IR text.
            pub fn name(self) -> &'static str {
                match self { $(ScalarOp::$variant => $name,)+ }
            }

            /// Number of operands.
            pub fn arity(self) -> usize {
                match self { $(ScalarOp::$variant => $arity,)+ }
            }

            /// What the operands and the result are.
            pub fn class(self) -> ScalarClass {
                match self { $(ScalarOp::$variant => ScalarClass::$class,)+ }
            }

            /// What it computes.
            pub fn doc(self) -> &'static str {
                match self { $(ScalarOp::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

/// The type rule of a scalar operation. In all but `Select` the operands have one dtype.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScalarClass {
    /// Floats or integers to the same dtype.
    Numeric,
    /// Floats to the same dtype.
    Float,
    /// Integers to the same dtype.
    Int,
    /// Numbers to bool.
    Compare,
    /// bool to bool.
    Logic,
    /// bool and two equal dtypes to that dtype.
    Select,
}

scalar_ops! {
    /// `-a`.
    Neg "neg" 1 Numeric;
    /// `|a|`.
    Abs "abs" 1 Numeric;
    /// -1, 0 or 1 with the sign of `a`; NaN stays NaN, and a zero keeps its sign.
    Sign "sign" 1 Numeric;
    /// Largest integer not above `a`.
    Floor "floor" 1 Float;
    /// `e^a`.
    Exp "exp" 1 Float;
    /// `e^a - 1`, accurate near 0.
    Expm1 "expm1" 1 Float;
    /// Natural logarithm; NaN below 0, -inf at 0.
    Log "log" 1 Float;
    /// `log(1 + a)`, accurate near 0.
    Log1p "log1p" 1 Float;
    /// Square root; NaN below 0.
    Sqrt "sqrt" 1 Float;
    /// `1/sqrt(a)`; +inf at 0.
    Rsqrt "rsqrt" 1 Float;
    /// `1/a`.
    Recip "recip" 1 Float;
    /// Sine of radians.
    Sin "sin" 1 Float;
    /// Cosine of radians.
    Cos "cos" 1 Float;
    /// Tangent of radians.
    Tan "tan" 1 Float;
    /// Arc tangent in radians.
    Atan "atan" 1 Float;
    /// Hyperbolic sine.
    Sinh "sinh" 1 Float;
    /// Hyperbolic cosine.
    Cosh "cosh" 1 Float;
    /// Hyperbolic tangent.
    Tanh "tanh" 1 Float;
    /// Inverse hyperbolic sine.
    Asinh "asinh" 1 Float;
    /// Inverse hyperbolic tangent; infinite at -1 and 1, NaN outside.
    Atanh "atanh" 1 Float;
    /// Error function.
    Erf "erf" 1 Float;
    /// `a + b`.
    Add "add" 2 Numeric;
    /// `a - b`.
    Sub "sub" 2 Numeric;
    /// `a * b`.
    Mul "mul" 2 Numeric;
    /// `a / b`; integers truncate towards zero, and division by zero gives 0.
    Div "div" 2 Numeric;
    /// The larger one, where -0 is below 0; NaN if either is.
    Max "max" 2 Numeric;
    /// The smaller one, where -0 is below 0; NaN if either is.
    Min "min" 2 Numeric;
    /// `a^b`.
    Pow "pow" 2 Float;
    /// Angle of the point `(b, a)` in radians.
    Atan2 "atan2" 2 Float;
    /// Remainder of integer division, with the sign of `a`; 0 when `b` is 0.
    Rem "rem" 2 Int;
    /// Bits of `a` and `b`.
    BitAnd "bit_and" 2 Int;
    /// Bits of `a` or `b`.
    BitOr "bit_or" 2 Int;
    /// Bits of either `a` or `b`.
    BitXor "bit_xor" 2 Int;
    /// `a` shifted left by `b` bits, modulo the width.
    Shl "shl" 2 Int;
    /// `a` shifted right by `b` bits, modulo the width, zeros coming in.
    Shr "shr" 2 Int;
    /// `a = b`.
    Eq "eq" 2 Compare;
    /// `a != b`.
    Ne "ne" 2 Compare;
    /// `a < b`.
    Lt "lt" 2 Compare;
    /// `a <= b`.
    Le "le" 2 Compare;
    /// Both.
    And "and" 2 Logic;
    /// Either.
    Or "or" 2 Logic;
    /// The other truth value.
    Not "not" 1 Logic;
    /// The second operand where the first is true, else the third.
    Select "select" 3 Select;
}

impl ScalarOp {
    /// The operation of that name.
    pub fn from_name(name: &str) -> Option<ScalarOp> {
        ScalarOp::ALL.iter().copied().find(|op| op.name() == name)
    }

    /// The dtype of the result, given those of the operands.
    ///
    /// Errors: the expectation that was not met.
    pub fn infer(self, operands: &[DType]) -> Result<DType, String> {
        let name = self.name();
        if operands.len() != self.arity() {
            return Err(format!("`{name}` takes {} operands, found {}", self.arity(), operands.len()));
        }
        let data = if self == ScalarOp::Select { &operands[1..] } else { operands };
        if data.iter().any(|dtype| *dtype != data[0]) {
            let found: Vec<&str> = data.iter().map(|dtype| dtype.name()).collect();
            return Err(format!(
                "the operands of `{name}` must have one dtype, found {}",
                found.join(" and ")
            ));
        }
        let dtype = data[0];
        let expect = |ok: bool, what: &str| {
            if ok { Ok(()) } else { Err(format!("`{name}` expects {what}, found {dtype}")) }
        };
        match self.class() {
            ScalarClass::Numeric => expect(dtype != DType::Bool, "numbers").map(|()| dtype),
            ScalarClass::Float => expect(dtype.is_float(), "floats").map(|()| dtype),
            ScalarClass::Int => expect(dtype.is_int(), "integers").map(|()| dtype),
            ScalarClass::Compare => Ok(DType::Bool),
            ScalarClass::Logic => expect(dtype == DType::Bool, "bool").map(|()| dtype),
            ScalarClass::Select if operands[0] == DType::Bool => Ok(dtype),
            ScalarClass::Select => Err(format!("`select` expects a bool condition, found {}", operands[0])),
        }
    }
}

impl fmt::Display for ScalarOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A single element outside memory.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Scalar {
    /// A float of any width, exact in f64.
    Float(f64),
    /// An integer of any width.
    Int(i64),
    /// A truth value.
    Bool(bool),
}

impl Scalar {
    /// The float; integers and truth values convert.
    pub fn as_f64(self) -> f64 {
        match self {
            Scalar::Float(value) => value,
            Scalar::Int(value) => value as f64,
            Scalar::Bool(value) => f64::from(u8::from(value)),
        }
    }

    /// The integer; floats truncate towards zero and saturate, NaN gives 0.
    pub fn as_i64(self) -> i64 {
        match self {
            Scalar::Float(value) => value as i64,
            Scalar::Int(value) => value,
            Scalar::Bool(value) => i64::from(value),
        }
    }

    /// The truth value; numbers are true unless 0.
    pub fn as_bool(self) -> bool {
        match self {
            Scalar::Float(value) => value != 0.0,
            Scalar::Int(value) => value != 0,
            Scalar::Bool(value) => value,
        }
    }

    /// The value converted to `dtype`: floats round to nearest even, floats to integers truncate and saturate, wide
    /// integers wrap.
    pub fn convert(self, dtype: DType) -> Scalar {
        match dtype {
            DType::F64 | DType::F32 | DType::Bf16 | DType::F16 => Scalar::Float(dtype.round(self.as_f64())),
            DType::I64 => Scalar::Int(self.as_i64()),
            DType::I32 => Scalar::Int(match self {
                Scalar::Float(value) => i64::from(value as i32),
                other => i64::from(other.as_i64() as i32),
            }),
            DType::Bool => Scalar::Bool(self.as_bool()),
        }
    }
}

/// Evaluates `op` on operands of `dtype` (of the data operands, for `select`), rounded to `dtype`.
///
/// This is the definition of the op. Panics if the operands do not fit the op: verified IR never does.
pub fn eval(op: ScalarOp, dtype: DType, args: &[Scalar]) -> Scalar {
    match op.class() {
        ScalarClass::Select => {
            if args[0].as_bool() {
                args[1]
            } else {
                args[2]
            }
        }
        ScalarClass::Logic => Scalar::Bool(eval_logic(op, args)),
        ScalarClass::Compare => Scalar::Bool(eval_compare(op, dtype, args)),
        ScalarClass::Int => Scalar::Int(eval_int(op, dtype, args)).convert(dtype),
        _ if dtype.is_int() => Scalar::Int(eval_int(op, dtype, args)).convert(dtype),
        _ => Scalar::Float(dtype.round(eval_float(op, args))),
    }
}

fn eval_logic(op: ScalarOp, args: &[Scalar]) -> bool {
    match op {
        ScalarOp::And => args[0].as_bool() && args[1].as_bool(),
        ScalarOp::Or => args[0].as_bool() || args[1].as_bool(),
        ScalarOp::Not => !args[0].as_bool(),
        _ => unreachable!("{op} is not a logic op"),
    }
}

fn eval_compare(op: ScalarOp, dtype: DType, args: &[Scalar]) -> bool {
    if dtype.is_float() {
        let (a, b) = (args[0].as_f64(), args[1].as_f64());
        match op {
            ScalarOp::Eq => a == b,
            ScalarOp::Ne => a != b,
            ScalarOp::Lt => a < b,
            ScalarOp::Le => a <= b,
            _ => unreachable!("{op} is not a comparison"),
        }
    } else {
        let (a, b) = (args[0].as_i64(), args[1].as_i64());
        match op {
            ScalarOp::Eq => a == b,
            ScalarOp::Ne => a != b,
            ScalarOp::Lt => a < b,
            ScalarOp::Le => a <= b,
            _ => unreachable!("{op} is not a comparison"),
        }
    }
}

fn eval_int(op: ScalarOp, dtype: DType, args: &[Scalar]) -> i64 {
    let a = args[0].as_i64();
    let b = args.get(1).map_or(0, |arg| arg.as_i64());
    match op {
        ScalarOp::Neg => a.wrapping_neg(),
        ScalarOp::Abs => a.wrapping_abs(),
        ScalarOp::Sign => a.signum(),
        ScalarOp::Add => a.wrapping_add(b),
        ScalarOp::Sub => a.wrapping_sub(b),
        ScalarOp::Mul => a.wrapping_mul(b),
        ScalarOp::Div if b == 0 => 0,
        ScalarOp::Div => a.wrapping_div(b),
        ScalarOp::Rem if b == 0 => 0,
        ScalarOp::Rem => a.wrapping_rem(b),
        ScalarOp::Max => a.max(b),
        ScalarOp::Min => a.min(b),
        ScalarOp::BitAnd => a & b,
        ScalarOp::BitOr => a | b,
        ScalarOp::BitXor => a ^ b,
        ScalarOp::Shl if dtype == DType::I32 => i64::from((a as i32).wrapping_shl(b as u32)),
        ScalarOp::Shl => a.wrapping_shl(b as u32),
        ScalarOp::Shr if dtype == DType::I32 => i64::from((a as u32).wrapping_shr(b as u32) as i32),
        ScalarOp::Shr => (a as u64).wrapping_shr(b as u32) as i64,
        _ => unreachable!("{op} is not an integer op"),
    }
}

fn eval_float(op: ScalarOp, args: &[Scalar]) -> f64 {
    let a = args[0].as_f64();
    let b = args.get(1).map_or(0.0, |arg| arg.as_f64());
    match op {
        ScalarOp::Neg => -a,
        ScalarOp::Abs => a.abs(),
        ScalarOp::Sign if a == 0.0 || a.is_nan() => a,
        ScalarOp::Sign => a.signum(),
        ScalarOp::Floor => a.floor(),
        ScalarOp::Exp => libm::exp(a),
        ScalarOp::Expm1 => libm::expm1(a),
        ScalarOp::Log => libm::log(a),
        ScalarOp::Log1p => libm::log1p(a),
        ScalarOp::Sqrt => a.sqrt(),
        ScalarOp::Rsqrt => 1.0 / a.sqrt(),
        ScalarOp::Recip => 1.0 / a,
        ScalarOp::Sin => libm::sin(a),
        ScalarOp::Cos => libm::cos(a),
        ScalarOp::Tan => libm::tan(a),
        ScalarOp::Atan => libm::atan(a),
        ScalarOp::Sinh => libm::sinh(a),
        ScalarOp::Cosh => libm::cosh(a),
        ScalarOp::Tanh => libm::tanh(a),
        ScalarOp::Asinh => libm::asinh(a),
        ScalarOp::Atanh => libm::atanh(a),
        ScalarOp::Erf => libm::erf(a),
        ScalarOp::Add => a + b,
        ScalarOp::Sub => a - b,
        ScalarOp::Mul => a * b,
        ScalarOp::Div => a / b,
        ScalarOp::Max if a.is_nan() || b.is_nan() => f64::NAN,
        ScalarOp::Max if a == b => {
            if a.is_sign_positive() {
                a
            } else {
                b
            }
        }
        ScalarOp::Max => a.max(b),
        ScalarOp::Min if a.is_nan() || b.is_nan() => f64::NAN,
        ScalarOp::Min if a == b => {
            if a.is_sign_negative() {
                a
            } else {
                b
            }
        }
        ScalarOp::Min => a.min(b),
        ScalarOp::Pow => libm::pow(a, b),
        ScalarOp::Atan2 => libm::atan2(a, b),
        _ => unreachable!("{op} is not a float op"),
    }
}
