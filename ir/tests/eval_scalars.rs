//! Every elementwise op on numbers, against the standard library or by hand; special values included.

mod common;

use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::{ScalarClass, ScalarOp};
use birkhoff_ir::tensor::eval::{Data, Tensor};
use common::{assert_close, compute, f64s};

/// Operands that every float op is tried on.
const POINTS: [f64; 9] = [-2.5, -1.0, -0.3, -0.0, 0.0, 0.4, 1.0, 1.7, 20.0];
const SPECIAL: [f64; 3] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];

/// The formula of a float op by the standard library; `None` for ops of other types.
fn formula(op: ScalarOp) -> Option<fn(f64, f64) -> f64> {
    Some(match op {
        ScalarOp::Neg => |a, _| 0.0f64.mul_add(0.0, -a),
        ScalarOp::Abs => |a, _| if a < 0.0 { -a } else { a },
        ScalarOp::Sign => |a, _| {
            if a > 0.0 {
                1.0
            } else if a < 0.0 {
                -1.0
            } else {
                a
            }
        },
        ScalarOp::Floor => |a, _| a.floor(),
        ScalarOp::Exp => |a, _| a.exp(),
        ScalarOp::Expm1 => |a, _| a.exp_m1(),
        ScalarOp::Log => |a, _| a.ln(),
        ScalarOp::Log1p => |a, _| a.ln_1p(),
        ScalarOp::Sqrt => |a, _| a.sqrt(),
        ScalarOp::Rsqrt => |a, _| a.sqrt().recip(),
        ScalarOp::Recip => |a, _| a.recip(),
        ScalarOp::Sin => |a, _| a.sin(),
        ScalarOp::Cos => |a, _| a.cos(),
        ScalarOp::Tan => |a, _| a.tan(),
        ScalarOp::Atan => |a, _| a.atan(),
        ScalarOp::Sinh => |a, _| a.sinh(),
        ScalarOp::Cosh => |a, _| a.cosh(),
        ScalarOp::Tanh => |a, _| a.tanh(),
        ScalarOp::Asinh => |a, _| a.asinh(),
        ScalarOp::Atanh => |a, _| if a.abs() > 1.0 { f64::NAN } else { a.atanh() },
        ScalarOp::Erf => |a, _| erf_series(a),
        ScalarOp::Add => |a, b| a + b,
        ScalarOp::Sub => |a, b| a - b,
        ScalarOp::Mul => |a, b| a * b,
        ScalarOp::Div => |a, b| a / b,
        ScalarOp::Max => |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) },
        ScalarOp::Min => |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) },
        ScalarOp::Pow => |a, b| a.powf(b),
        ScalarOp::Atan2 => |a, b| a.atan2(b),
        _ => return None,
    })
}

/// `erf x = 2/sqrt(pi) e^(-x^2) sum 2^k x^(2k+1) / (1 3 .. (2k+1))`, whose terms have one sign (Abramowitz and Stegun 7.1.6);
/// 1 far out.
fn erf_series(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum) = (x, x);
    for idx in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * idx + 1);
        sum += term;
    }
    sum * (-x * x).exp() * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn float_ops_agree_with_the_standard_library() {
    let mut covered = 0;
    for op in
        ScalarOp::ALL.iter().filter(|op| matches!(op.class(), ScalarClass::Numeric | ScalarClass::Float))
    {
        let formula = formula(*op).unwrap_or_else(|| panic!("`{op}` has no formula"));
        let values: Vec<f64> = POINTS.into_iter().chain(SPECIAL).collect();
        let pairs: Vec<(f64, f64)> = match op.arity() {
            1 => values.iter().map(|a| (*a, 0.0)).collect(),
            _ => values.iter().flat_map(|a| values.iter().map(|b| (*a, *b))).collect(),
        };
        let column = |pick: fn(&(f64, f64)) -> f64| {
            Tensor::from_f64s(DType::F64, vec![pairs.len()], &pairs.iter().map(pick).collect::<Vec<_>>())
                .unwrap()
        };
        let inputs = [column(|pair| pair.0), column(|pair| pair.1)];
        let len = pairs.len();
        let args = if op.arity() == 1 { "a" } else { "a, b" };
        let signature = format!("a: f64[{len}], b: f64[{len}]");
        let found = compute(&signature, &format!("f64[{len}]"), &format!("o = {op}({args})"), &inputs);
        let expected: Vec<f64> = pairs.iter().map(|(a, b)| formula(*a, *b)).collect();
        let shown: Vec<f64> = found.to_f64s();
        for ((a, b), (found, expected)) in pairs.iter().zip(shown.iter().zip(&expected)) {
            let same = (found - expected).abs() <= 4e-15 * expected.abs().max(1e-3);
            assert!(
                same || found == expected || (found.is_nan() && expected.is_nan()),
                "{op}({a}, {b}) = {found} instead of {expected}"
            );
        }
        covered += 1;
    }
    assert_eq!(covered, 29);
}

#[test]
fn signed_zeros_and_nan_follow_the_docs() {
    let one = |body: &str, a: f64| {
        let x = f64s(&[1], &[a]);
        compute("a: f64[1]", "f64[1]", body, &[x]).to_f64s()[0]
    };
    assert!(one("o = sign(a)", -0.0).is_sign_negative());
    assert!(one("o = neg(a)", 0.0).is_sign_negative());
    assert_eq!(one("o = rsqrt(a)", 0.0), f64::INFINITY);
    assert_eq!(one("o = log(a)", 0.0), f64::NEG_INFINITY);
    assert_eq!(one("o = atanh(a)", 1.0), f64::INFINITY);
    assert!(one("o = max(a, 1)", f64::NAN).is_nan());
    assert!(one("o = min(1, a)", f64::NAN).is_nan());
    // Near 0 these keep what `exp(a) - 1` and `log(1 + a)` lose.
    assert_close(&[one("o = expm1(a)", 1e-12)], &[1e-12 + 5e-25], 0.0);
    assert_close(&[one("o = log1p(a)", 1e-12)], &[1e-12 - 5e-25], 0.0);
}

#[test]
fn results_are_rounded_to_the_dtype() {
    let third = |dtype: DType| {
        let x = Tensor::from_f64s(dtype, vec![1], &[3.0]).unwrap();
        compute(&format!("a: {dtype}[1]"), &format!("{dtype}[1]"), "o = recip(a)", &[x]).to_f64s()[0]
    };
    assert_eq!(third(DType::F32), f64::from(1.0f32 / 3.0));
    assert_eq!(third(DType::Bf16), 0.333_984_375);
    assert_eq!(third(DType::F16), 0.333_251_953_125);
}

fn int_op(dtype: DType, op: &str, a: &[i64], b: &[i64]) -> Vec<i64> {
    let tensor = |values: &[i64]| Tensor::new(dtype, vec![values.len()], Data::Int(values.to_vec())).unwrap();
    let len = a.len();
    let args = if b.is_empty() { "a" } else { "a, b" };
    let other = if b.is_empty() { a } else { b };
    let signature = format!("a: {dtype}[{len}], b: {dtype}[{len}]");
    let inputs = [tensor(a), tensor(other)];
    let found = compute(&signature, &format!("{dtype}[{len}]"), &format!("o = {op}({args})"), &inputs);
    match found.data() {
        Data::Int(values) => values.clone(),
        _ => vec![],
    }
}

#[test]
fn integer_ops_wrap_and_never_trap() {
    let (lo, hi) = (i64::from(i32::MIN), i64::from(i32::MAX));
    let i32_op = |op, a: &[i64], b: &[i64]| int_op(DType::I32, op, a, b);
    assert_eq!(i32_op("add", &[hi, 3], &[1, 4]), [lo, 7]);
    assert_eq!(i32_op("sub", &[lo, 3], &[1, 4]), [hi, -1]);
    assert_eq!(i32_op("mul", &[1 << 20, -3], &[1 << 20, 4]), [0, -12]);
    assert_eq!(i32_op("div", &[7, -7, 7, lo], &[2, 2, 0, -1]), [3, -3, 0, lo]);
    assert_eq!(i32_op("rem", &[7, -7, 7, lo], &[2, 2, 0, -1]), [1, -1, 0, 0]);
    assert_eq!(i32_op("neg", &[lo, 5], &[]), [lo, -5]);
    assert_eq!(i32_op("abs", &[lo, -5], &[]), [lo, 5]);
    assert_eq!(i32_op("sign", &[-9, 0, 9], &[]), [-1, 0, 1]);
    assert_eq!(i32_op("max", &[-9, 4], &[3, -2]), [3, 4]);
    assert_eq!(i32_op("min", &[-9, 4], &[3, -2]), [-9, -2]);
    assert_eq!(i32_op("bit_and", &[12, -1], &[10, 5]), [8, 5]);
    assert_eq!(i32_op("bit_or", &[12, -8], &[10, 5]), [14, -3]);
    assert_eq!(i32_op("bit_xor", &[12, -1], &[10, 5]), [6, -6]);
    assert_eq!(i32_op("shl", &[1, 1, 3], &[31, 33, 4]), [lo, 2, 48]);
    assert_eq!(i32_op("shr", &[-1, -1, 48], &[31, 33, 4]), [1, hi, 3]);
    assert_eq!(int_op(DType::I64, "add", &[i64::MAX], &[1]), [i64::MIN]);
    assert_eq!(int_op(DType::I64, "shr", &[-1], &[63]), [1]);
    assert_eq!(int_op(DType::I64, "div", &[i64::MIN], &[-1]), [i64::MIN]);
}

#[test]
fn comparisons_and_logic() {
    let bools = |body: &str| {
        let a = f64s(&[4], &[1.0, 2.0, 2.0, f64::NAN]);
        let b = f64s(&[4], &[2.0, 2.0, 1.0, f64::NAN]);
        match compute("a: f64[4], b: f64[4]", "bool[4]", body, &[a, b]).data() {
            Data::Bool(values) => values.iter().map(|value| u8::from(*value)).collect::<Vec<_>>(),
            _ => vec![],
        }
    };
    assert_eq!(bools("o = eq(a, b)"), [0, 1, 0, 0]);
    assert_eq!(bools("o = ne(a, b)"), [1, 0, 1, 1]);
    assert_eq!(bools("o = lt(a, b)"), [1, 0, 0, 0]);
    assert_eq!(bools("o = le(a, b)"), [1, 1, 0, 0]);
    assert_eq!(bools("o = and(lt(a, b), ne(a, b))"), [1, 0, 0, 0]);
    assert_eq!(bools("o = or(lt(a, b), lt(b, a))"), [1, 0, 1, 0]);
    assert_eq!(bools("o = not(lt(a, b))"), [0, 1, 1, 1]);
    assert_eq!(bools("o = select(lt(a, b), eq(a, a), eq(a, b))"), [1, 1, 0, 0]);
    // Integers beyond 2^53 compare as integers.
    let big = Tensor::new(DType::I64, vec![1], Data::Int(vec![(1 << 53) + 1])).unwrap();
    let body = "o = eq(a, b)";
    let other = Tensor::new(DType::I64, vec![1], Data::Int(vec![1 << 53])).unwrap();
    assert_eq!(
        compute("a: i64[1], b: i64[1]", "bool[1]", body, &[big, other]).data(),
        &Data::Bool(vec![false])
    );
}
