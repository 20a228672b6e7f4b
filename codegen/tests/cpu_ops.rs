//! Every operation on every dtype, in lanes and alone, against the definitions in `ir`, bit for bit.

mod support;

use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::build::Builder;
use birkhoff_ir::kernel::{Access, ForKind, Func, Index, Inst, Var, math};
use birkhoff_ir::scalar::{self, Scalar, ScalarClass, ScalarOp};
use support::{Array, Image, assert_same, samples};

const COMPUTE: [DType; 5] = [DType::F64, DType::F32, DType::I64, DType::I32, DType::Bool];

/// `out[i] = f(in_0[i], in_1[i], ..)` for `i` in `0..N`, `N` a run-time size.
fn map_kernel(
    inputs: &[DType],
    output: DType,
    kind: ForKind,
    f: impl Fn(&mut Builder, &[Var]) -> Var,
) -> Func {
    let mut b = Builder::new("map", vec!["N".into()]);
    let n = Dim::sym("N");
    let mems: Vec<_> = inputs
        .iter()
        .enumerate()
        .map(|(idx, dtype)| b.param(format!("in{idx}"), *dtype, vec![n.clone()], Access::Read))
        .collect();
    let out = b.param("out", output, vec![n.clone()], Access::Write);
    b.for_range("i", 0, n, kind, |b, i| {
        let args: Vec<Var> = mems.iter().map(|mem| b.load(*mem, vec![Index::var(i)])).collect();
        let value = f(b, &args);
        b.store(out, vec![Index::var(i)], value);
    });
    b.finish()
}

fn kinds() -> Vec<ForKind> {
    let widths = [2, 4, 8, 16, 64].map(|width| ForKind::Lanes { width });
    [vec![ForKind::Seq], widths.to_vec()].concat()
}

/// Runs the map over samples of all lengths from 0 to 17, and compares with `expect` element by element.
fn check_map(
    inputs: &[DType],
    output: DType,
    what: &str,
    f: impl Fn(&mut Builder, &[Var]) -> Var,
    expect: impl Fn(&[Scalar]) -> Scalar,
) {
    for kind in kinds() {
        let func = map_kernel(inputs, output, kind, &f);
        for image in support::compile(&func) {
            for len in [0, 1, 3, 5, 8, 15, 16, 17, 400] {
                check_len(&image, &func, len, &format!("{what} by {}, {kind:?}", image.maker()), &expect);
            }
        }
    }
}

/// Runs a map over `len` samples, and compares with `expect`.
fn check_len(image: &Image, func: &Func, len: usize, what: &str, expect: &impl Fn(&[Scalar]) -> Scalar) {
    let dtypes = func.params.iter().map(|param| param.dtype);
    let (n_inputs, output) = (func.params.len() - 1, func.params[func.params.len() - 1].dtype);
    let mut arrays: Vec<Array> = dtypes
        .take(n_inputs)
        .enumerate()
        .map(|(idx, dtype)| Array::new(dtype, &samples(dtype, len, 7 + idx as u64 + len as u64)))
        .collect();
    arrays.push(Array::garbage(output, len));
    support::run_image(image, func, &[("N", len as i64)], &mut arrays, None);
    let found = arrays[n_inputs].values();
    for (elem, found) in found.iter().enumerate() {
        let args: Vec<Scalar> = arrays[..n_inputs].iter().map(|array| array.get(elem)).collect();
        let expected = expect(&args);
        assert!(
            support::same(*found, expected),
            "{what}, {elem} of {len}: {args:?} gives {found:?}, expected {expected:?}"
        );
    }
}

fn check_op(op: ScalarOp, dtype: DType) {
    let mut inputs = vec![dtype; op.arity()];
    if op == ScalarOp::Select {
        inputs[0] = DType::Bool;
    }
    let Ok(output) = op.infer(&inputs) else { return };
    let expansion = if output == dtype { math::expand(op, dtype) } else { None };
    check_map(
        &inputs,
        output,
        &format!("{op} of {dtype}"),
        |b, args| b.scalar(op, args),
        |args| match expansion {
            Some(expansion) => math::eval(expansion, args),
            None => scalar::eval(op, dtype, args),
        },
    );
}

#[test]
fn every_op_on_every_dtype_is_its_definition() {
    for op in ScalarOp::ALL {
        for dtype in COMPUTE {
            check_op(*op, dtype);
        }
    }
}

#[test]
fn every_transcendental_has_an_expansion() {
    for op in ScalarOp::ALL.iter().filter(|op| op.class() == ScalarClass::Float) {
        let base = [ScalarOp::Floor, ScalarOp::Sqrt].contains(op);
        for dtype in [DType::F32, DType::F64] {
            assert_eq!(math::expand(*op, dtype).is_none(), base, "{op} of {dtype}");
        }
    }
}

#[test]
fn conversions_are_their_definition() {
    for from in COMPUTE {
        for to in COMPUTE {
            check_map(
                &[from],
                to,
                &format!("{from} to {to}"),
                |b, args| b.inst(to, Inst::Convert(args[0])),
                |args| args[0].convert(to),
            );
        }
    }
}

#[test]
fn bitcasts_keep_bits() {
    for (float, int) in [(DType::F32, DType::I32), (DType::F64, DType::I64)] {
        let bits = |value: Scalar| match float {
            DType::F32 => i64::from((value.as_f64() as f32).to_bits() as i32),
            _ => value.as_f64().to_bits() as i64,
        };
        let no_nan = |args: &[Scalar]| !args[0].as_f64().is_nan();
        check_map(
            &[float],
            int,
            "bitcast",
            |b, args| {
                let same = b.scalar(ScalarOp::Eq, &[args[0], args[0]]);
                let cast = b.inst(int, Inst::Bitcast(args[0]));
                let zero = b.constant(int, Scalar::Int(0));
                b.scalar(ScalarOp::Select, &[same, cast, zero])
            },
            |args| Scalar::Int(if no_nan(args) { bits(args[0]) } else { 0 }),
        );
    }
}

#[test]
fn fma_rounds_once() {
    check_map(
        &[DType::F32; 3],
        DType::F32,
        "fma",
        |b, args| b.fma(args[0], args[1], args[2]),
        |args| {
            let [a, b, c] = [0, 1, 2].map(|idx| args[idx].as_f64() as f32);
            Scalar::Float(f64::from(a.mul_add(b, c)))
        },
    );
    check_map(
        &[DType::F64; 3],
        DType::F64,
        "fma",
        |b, args| b.fma(args[0], args[1], args[2]),
        |args| Scalar::Float(args[0].as_f64().mul_add(args[1].as_f64(), args[2].as_f64())),
    );
}

#[test]
fn half_types_widen_and_narrow() {
    for half in [DType::Bf16, DType::F16] {
        check_map(&[half], DType::F32, "widen", |_, args| args[0], |args| args[0]);
        check_map(
            &[DType::F32],
            half,
            "narrow",
            |_, args| args[0],
            |args| Scalar::Float(half.round(args[0].as_f64())),
        );
        check_map(
            &[DType::F32],
            DType::F32,
            "round",
            |b, args| b.inst(DType::F32, Inst::Round(half, args[0])),
            |args| Scalar::Float(half.round(args[0].as_f64())),
        );
    }
}

#[test]
fn every_half_pattern_widens_and_every_rounding_step_narrows() {
    for half in [DType::Bf16, DType::F16] {
        let kind = ForKind::Lanes { width: 8 };
        let func = map_kernel(&[half], DType::F32, kind, |_, args| args[0]);
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let given = [Array { dtype: half, bytes }, Array::garbage(DType::F32, 1 << 16)];
        let expected = given[0].values();
        for image in support::compile(&func) {
            let mut arrays = given.clone();
            support::run_image(&image, &func, &[("N", 1 << 16)], &mut arrays, None);
            assert_same(&arrays[1].values(), &expected, &format!("widen by {}", image.maker()));
        }
        // Around every half value: itself, its neighbours in f32, and the midpoints to the next.
        let mut values = vec![];
        for pair in expected.windows(2) {
            let (a, b) = (pair[0].as_f64() as f32, pair[1].as_f64() as f32);
            let middle = ((f64::from(a) + f64::from(b)) / 2.0) as f32;
            for value in [a, a.next_up(), a.next_down(), middle, middle.next_up(), middle.next_down()] {
                values.push(f64::from(value));
            }
        }
        let len = values.len();
        let func = map_kernel(&[DType::F32], half, kind, |_, args| args[0]);
        let given = [Array::floats(DType::F32, values.iter().copied()), Array::garbage(half, len)];
        let expected: Vec<Scalar> = values.iter().map(|value| Scalar::Float(half.round(*value))).collect();
        for image in support::compile(&func) {
            let mut arrays = given.clone();
            support::run_image(&image, &func, &[("N", len as i64)], &mut arrays, None);
            assert_same(&arrays[1].values(), &expected, &format!("narrow by {}", image.maker()));
        }
    }
}

#[test]
fn bounds_by_constants_are_maxima_and_minima() {
    for op in [ScalarOp::Max, ScalarOp::Min] {
        for dtype in [DType::F32, DType::F64] {
            for bound in [0.0, -0.0, 1.5, -2.0, f64::INFINITY, f64::NAN] {
                for constant_first in [false, true] {
                    check_map(
                        &[dtype],
                        dtype,
                        &format!("{op} with {bound}"),
                        |b, args| {
                            let bound = b.constant(dtype, Scalar::Float(bound));
                            let pair = if constant_first { [bound, args[0]] } else { [args[0], bound] };
                            b.scalar(op, &pair)
                        },
                        |args| scalar::eval(op, dtype, &[args[0], Scalar::Float(bound)]),
                    );
                }
            }
        }
    }
}
