//! The expansions against exact values.
//!
//! f32: samples of all bit patterns against `libm` in f64. f64: `data/math_f64.txt`, computed with mpmath at 60 digits; a line
//! holds the op, the bits of its arguments, the bits of the correctly rounded result, and what that lacks to the exact
//! value in thousandths of its last place.

use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::math::{self, Expansion};
use birkhoff_ir::scalar::{Scalar, ScalarOp};

fn expansion(op: ScalarOp, dtype: DType) -> &'static Expansion {
    math::expand(op, dtype).unwrap()
}

fn call(expansion: &Expansion, args: &[f64]) -> f64 {
    let args: Vec<Scalar> = args.iter().copied().map(Scalar::Float).collect();
    math::eval(expansion, &args).as_f64()
}

/// The value of the last place of an f32 near `exact`.
fn ulp_f32(exact: f64) -> f64 {
    let exponent = ((exact.abs().to_bits() >> 52) as i32 - 1023).clamp(-126, 127);
    2f64.powi(exponent - 23)
}

/// The error in ulps of an f32 result.
fn error_f32(found: f64, exact: f64) -> f64 {
    let limit = 2f64.powi(128);
    let found = if found.is_infinite() { limit.copysign(found) } else { found };
    let exact = if exact.abs() > limit { limit.copysign(exact) } else { exact };
    match (found.is_nan(), exact.is_nan()) {
        (true, true) => 0.0,
        (false, false) => (found - exact).abs() / ulp_f32(exact),
        _ => f64::INFINITY,
    }
}

fn reference(op: ScalarOp) -> fn(f64) -> f64 {
    match op {
        ScalarOp::Recip => |x| 1.0 / x,
        ScalarOp::Rsqrt => |x| 1.0 / x.sqrt(),
        ScalarOp::Exp => libm::exp,
        ScalarOp::Expm1 => libm::expm1,
        ScalarOp::Log => libm::log,
        ScalarOp::Log1p => libm::log1p,
        ScalarOp::Sin => libm::sin,
        ScalarOp::Cos => libm::cos,
        ScalarOp::Tan => libm::tan,
        ScalarOp::Atan => libm::atan,
        ScalarOp::Sinh => libm::sinh,
        ScalarOp::Cosh => libm::cosh,
        ScalarOp::Tanh => libm::tanh,
        ScalarOp::Asinh => libm::asinh,
        ScalarOp::Atanh => libm::atanh,
        ScalarOp::Erf => libm::erf,
        _ => unreachable!("{op} has no reference here"),
    }
}

const UNARY: [ScalarOp; 16] = [
    ScalarOp::Recip,
    ScalarOp::Rsqrt,
    ScalarOp::Exp,
    ScalarOp::Expm1,
    ScalarOp::Log,
    ScalarOp::Log1p,
    ScalarOp::Sin,
    ScalarOp::Cos,
    ScalarOp::Tan,
    ScalarOp::Atan,
    ScalarOp::Sinh,
    ScalarOp::Cosh,
    ScalarOp::Tanh,
    ScalarOp::Asinh,
    ScalarOp::Atanh,
    ScalarOp::Erf,
];

/// The largest error over every `stride`-th bit pattern, and where.
fn worst_f32(op: ScalarOp, stride: usize) -> (f64, f32) {
    let (expansion, reference) = (expansion(op, DType::F32), reference(op));
    let reduced = matches!(op, ScalarOp::Sin | ScalarOp::Cos | ScalarOp::Tan);
    let mut worst = (0.0, 0.0);
    for bits in (0..=u32::MAX).step_by(stride) {
        let x = f32::from_bits(bits);
        if reduced && x.abs() > math::reduction_limit(DType::F32) as f32 && x.is_finite() {
            continue;
        }
        let error = error_f32(call(expansion, &[f64::from(x)]), reference(f64::from(x)));
        if error > worst.0 || error.is_nan() {
            worst = (error, x);
        }
    }
    worst
}

#[test]
fn f32_functions_keep_their_bounds() {
    for op in UNARY {
        let (error, x) = worst_f32(op, 16381);
        let bound = math::ulp_bound(op, DType::F32).unwrap();
        println!("{op} f32: {error:.3} ulp at {x:e}, bound {bound}");
        assert!(error <= bound, "{op}({x:e}) is {error} ulp off, the bound is {bound}");
    }
}

/// Every value of two hundred thousand in a row where functions are used most.
#[test]
fn f32_functions_keep_their_bounds_near_one() {
    for op in UNARY {
        let (expansion, reference) = (expansion(op, DType::F32), reference(op));
        let bound = math::ulp_bound(op, DType::F32).unwrap();
        for idx in 0..200_000 {
            let x = (idx as f32 - 100_000.0) * 1e-4;
            let error = error_f32(call(expansion, &[f64::from(x)]), reference(f64::from(x)));
            assert!(error <= bound, "{op}({x:e}) is {error} ulp off, the bound is {bound}");
        }
    }
}

#[test]
fn f32_pow_and_atan2_keep_their_bounds() {
    for (op, reference) in [(ScalarOp::Pow, libm::pow as fn(f64, f64) -> f64), (ScalarOp::Atan2, libm::atan2)]
    {
        let bound = math::ulp_bound(op, DType::F32).unwrap();
        let expansion = expansion(op, DType::F32);
        let mut state = 1u64;
        let mut worst = (0.0, 0.0, 0.0);
        for round in 0..400_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (a, b) = match round % 3 {
                0 => (f32::from_bits((state >> 32) as u32), f32::from_bits(state as u32)),
                1 => (
                    (state >> 40) as f32 * 2f32.powi(-22),
                    (state as u32 >> 8) as f32 * 2f32.powi(-19) - 16.0,
                ),
                _ => (
                    f32::from_bits((state >> 33) as u32),
                    ((state as u32 >> 8) as f32 * 2f32.powi(-22) - 2.0),
                ),
            };
            let exact = reference(f64::from(a), f64::from(b));
            let error = error_f32(call(expansion, &[f64::from(a), f64::from(b)]), exact);
            if error > worst.0 || error.is_nan() {
                worst = (error, a, b);
            }
        }
        println!("{op} f32: {worst:?}, bound {bound}");
        assert!(worst.0 <= bound, "{op} is {worst:?} ulp off, the bound is {bound}");
    }
}

#[test]
fn f64_functions_keep_their_bounds() {
    let data = include_str!("data/math_f64.txt");
    let mut worst: std::collections::BTreeMap<ScalarOp, (f64, Vec<f64>)> = Default::default();
    for line in data.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let op = ScalarOp::from_name(fields[0]).unwrap();
        let bits: Vec<u64> =
            fields[1..fields.len() - 1].iter().map(|f| u64::from_str_radix(f, 16).unwrap()).collect();
        let args: Vec<f64> = bits[..op.arity()].iter().copied().map(f64::from_bits).collect();
        let rest = fields[fields.len() - 1].parse::<f64>().unwrap() / 1000.0;
        let found = call(expansion(op, DType::F64), &args);
        // Between floats of one sign the bits count last places.
        let exact = bits[op.arity()];
        let steps = found.to_bits() as i128 - exact as i128;
        let up = if f64::from_bits(exact) < 0.0 { -rest } else { rest };
        let error = (steps as f64 - up).abs();
        let entry = worst.entry(op).or_insert((0.0, vec![]));
        if error > entry.0 {
            *entry = (error, args);
        }
    }
    for (op, (error, args)) in &worst {
        println!("{op} f64: {error:.3} ulp at {args:?}, bound {}", math::ulp_bound(*op, DType::F64).unwrap());
    }
    assert_eq!(worst.len(), UNARY.len() + 2);
    for (op, (error, args)) in worst {
        let bound = math::ulp_bound(op, DType::F64).unwrap();
        assert!(error <= bound, "{op}({args:?}) is {error} ulp off, the bound is {bound}");
    }
}

#[test]
fn sine_and_cosine_stay_bounded_for_all_arguments() {
    for dtype in [DType::F32, DType::F64] {
        for op in [ScalarOp::Sin, ScalarOp::Cos] {
            let mut x = 1.0f64;
            while x < if dtype == DType::F32 { 3e38 } else { 1e308 } {
                let value = call(expansion(op, dtype), &[dtype.round(x)]);
                assert!(value.abs() <= 1.0, "{op}({x}) of {dtype} is {value}");
                x *= 1.0007;
            }
        }
    }
}

const INF: f64 = f64::INFINITY;
const NAN: f64 = f64::NAN;

/// `op(x)` for special arguments, the same in f32 and f64.
fn specials() -> Vec<(ScalarOp, Vec<f64>, f64)> {
    let half_pi = std::f64::consts::FRAC_PI_2;
    let pi = std::f64::consts::PI;
    let odd = [
        ScalarOp::Expm1,
        ScalarOp::Log1p,
        ScalarOp::Sin,
        ScalarOp::Tan,
        ScalarOp::Atan,
        ScalarOp::Sinh,
        ScalarOp::Tanh,
        ScalarOp::Asinh,
        ScalarOp::Atanh,
        ScalarOp::Erf,
        ScalarOp::Sign,
    ];
    let mut rows: Vec<(ScalarOp, Vec<f64>, f64)> = vec![];
    for op in odd {
        rows.push((op, vec![0.0], 0.0));
        rows.push((op, vec![-0.0], -0.0));
    }
    for op in UNARY {
        rows.push((op, vec![NAN], NAN));
    }
    rows.extend([
        (ScalarOp::Sign, vec![NAN], NAN),
        (ScalarOp::Sign, vec![-INF], -1.0),
        (ScalarOp::Sign, vec![1e-40], 1.0),
        (ScalarOp::Recip, vec![0.0], INF),
        (ScalarOp::Recip, vec![-0.0], -INF),
        (ScalarOp::Recip, vec![-INF], -0.0),
        (ScalarOp::Rsqrt, vec![0.0], INF),
        (ScalarOp::Rsqrt, vec![INF], 0.0),
        (ScalarOp::Rsqrt, vec![-1.0], NAN),
        (ScalarOp::Exp, vec![0.0], 1.0),
        (ScalarOp::Exp, vec![-0.0], 1.0),
        (ScalarOp::Exp, vec![INF], INF),
        (ScalarOp::Exp, vec![-INF], 0.0),
        (ScalarOp::Exp, vec![1e4], INF),
        (ScalarOp::Exp, vec![-1e4], 0.0),
        (ScalarOp::Expm1, vec![INF], INF),
        (ScalarOp::Expm1, vec![-INF], -1.0),
        (ScalarOp::Expm1, vec![-100.0], -1.0),
        (ScalarOp::Log, vec![0.0], -INF),
        (ScalarOp::Log, vec![-0.0], -INF),
        (ScalarOp::Log, vec![1.0], 0.0),
        (ScalarOp::Log, vec![INF], INF),
        (ScalarOp::Log, vec![-1.0], NAN),
        (ScalarOp::Log, vec![-INF], NAN),
        (ScalarOp::Log1p, vec![-1.0], -INF),
        (ScalarOp::Log1p, vec![-2.0], NAN),
        (ScalarOp::Log1p, vec![INF], INF),
        (ScalarOp::Log1p, vec![-INF], NAN),
        (ScalarOp::Sin, vec![INF], NAN),
        (ScalarOp::Cos, vec![INF], NAN),
        (ScalarOp::Tan, vec![-INF], NAN),
        (ScalarOp::Cos, vec![0.0], 1.0),
        (ScalarOp::Cos, vec![-0.0], 1.0),
        (ScalarOp::Atan, vec![INF], half_pi),
        (ScalarOp::Atan, vec![-INF], -half_pi),
        (ScalarOp::Sinh, vec![INF], INF),
        (ScalarOp::Sinh, vec![-INF], -INF),
        (ScalarOp::Sinh, vec![1e4], INF),
        (ScalarOp::Cosh, vec![0.0], 1.0),
        (ScalarOp::Cosh, vec![-INF], INF),
        (ScalarOp::Tanh, vec![INF], 1.0),
        (ScalarOp::Tanh, vec![-INF], -1.0),
        (ScalarOp::Tanh, vec![100.0], 1.0),
        (ScalarOp::Asinh, vec![INF], INF),
        (ScalarOp::Asinh, vec![-INF], -INF),
        (ScalarOp::Atanh, vec![1.0], INF),
        (ScalarOp::Atanh, vec![-1.0], -INF),
        (ScalarOp::Atanh, vec![2.0], NAN),
        (ScalarOp::Atanh, vec![-INF], NAN),
        (ScalarOp::Erf, vec![INF], 1.0),
        (ScalarOp::Erf, vec![-INF], -1.0),
        (ScalarOp::Atan2, vec![0.0, 1.0], 0.0),
        (ScalarOp::Atan2, vec![-0.0, 1.0], -0.0),
        (ScalarOp::Atan2, vec![0.0, -1.0], pi),
        (ScalarOp::Atan2, vec![-0.0, -1.0], -pi),
        (ScalarOp::Atan2, vec![0.0, 0.0], 0.0),
        (ScalarOp::Atan2, vec![0.0, -0.0], pi),
        (ScalarOp::Atan2, vec![-0.0, -0.0], -pi),
        (ScalarOp::Atan2, vec![1.0, 0.0], half_pi),
        (ScalarOp::Atan2, vec![-1.0, -0.0], -half_pi),
        (ScalarOp::Atan2, vec![INF, INF], pi / 4.0),
        (ScalarOp::Atan2, vec![INF, -INF], 3.0 * pi / 4.0),
        (ScalarOp::Atan2, vec![-INF, 1.0], -half_pi),
        (ScalarOp::Atan2, vec![1.0, INF], 0.0),
        (ScalarOp::Atan2, vec![1.0, -INF], pi),
        (ScalarOp::Atan2, vec![NAN, 1.0], NAN),
        (ScalarOp::Atan2, vec![1.0, NAN], NAN),
    ]);
    rows
}

/// Bases and exponents whose powers C99 fixes.
const POW_CORNERS: [f64; 19] = [
    0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 0.3, -1.5, INF, -INF, NAN, 1e30, -1e30, 2e30, 33.0,
];

#[test]
fn special_values_are_exact() {
    for dtype in [DType::F32, DType::F64] {
        for (op, args, expected) in specials() {
            let args: Vec<f64> = args.iter().map(|arg| dtype.round(*arg)).collect();
            let expected = dtype.round(expected);
            let found = call(expansion(op, dtype), &args);
            let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
            assert!(same, "{op}{args:?} of {dtype} is {found:e}, expected {expected:e}");
        }
        for base in POW_CORNERS {
            for power in POW_CORNERS {
                let (base, power) = (dtype.round(base), dtype.round(power));
                let exact = libm::pow(base, power);
                let found = call(expansion(ScalarOp::Pow, dtype), &[base, power]);
                let rounded = dtype.round(exact);
                let close =
                    (found - rounded).abs() <= rounded.abs() * if dtype == DType::F32 { 2e-7 } else { 4e-16 };
                let same = found.to_bits() == rounded.to_bits() || (found.is_nan() && rounded.is_nan());
                let finite = rounded.is_finite() && rounded != 0.0;
                assert!(
                    same || (finite && close),
                    "pow({base}, {power}) of {dtype} is {found:e}, not {rounded:e}"
                );
            }
        }
    }
}

#[test]
fn denormals_are_kept() {
    for (op, slope) in
        [(ScalarOp::Expm1, 1.0), (ScalarOp::Log1p, 1.0), (ScalarOp::Sin, 1.0), (ScalarOp::Tan, 1.0)]
            .into_iter()
            .chain([
                (ScalarOp::Atan, 1.0),
                (ScalarOp::Sinh, 1.0),
                (ScalarOp::Tanh, 1.0),
                (ScalarOp::Asinh, 1.0),
            ])
            .chain([(ScalarOp::Atanh, 1.0)])
    {
        for steps in [1u32, 2, 3, 5, 1000, 8_388_607] {
            let x = f64::from(f32::from_bits(steps));
            assert_eq!(call(expansion(op, DType::F32), &[-x]), -x * slope, "{op} of f32 at {x:e}");
            let x = f64::from_bits(u64::from(steps));
            assert_eq!(call(expansion(op, DType::F64), &[-x]), -x * slope, "{op} of f64 at {x:e}");
        }
    }
}
