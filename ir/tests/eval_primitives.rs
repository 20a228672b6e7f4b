//! Every primitive on small tensors whose results are worked out by hand or by plain loops.

mod common;

use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::FuncId;
use birkhoff_ir::tensor::eval::{Data, Tensor, eval};
use common::{assert_close, compute, f64s, module, run};

fn ints(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::new(DType::I64, shape.to_vec(), Data::Int(values.to_vec())).unwrap()
}

fn counting(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    f64s(shape, &(0..count).map(|idx| idx as f64).collect::<Vec<_>>())
}

#[test]
fn movement_ops_move_the_right_elements() {
    let x = counting(&[2, 3]);
    let one = |result, body| compute("x: f64[2,3]", result, body, std::slice::from_ref(&x)).to_f64s();
    assert_eq!(one("f64[3,2]", "o = transpose(x, [1,0])"), [0., 3., 1., 4., 2., 5.]);
    assert_eq!(one("f64[3,2]", "o = reshape(x, [3,2])"), [0., 1., 2., 3., 4., 5.]);
    assert_eq!(one("f64[2,2]", "o = x[1: 1..3]"), [1., 2., 4., 5.]);
    assert_eq!(one("f64[1,3]", "o = x[0: 1..2]"), [3., 4., 5.]);
    assert_eq!(one("f64[2,0]", "o = x[1: 3..3]"), []);
    let padded = one("f64[2,6]", "o = pad(x, 9.0, axis=1, low=1, high=2)");
    assert_eq!(padded, [9., 0., 1., 2., 9., 9., 9., 3., 4., 5., 9., 9.]);
    assert_eq!(one("f64[3,3]", "o = pad(x, 9, axis=0, low=1, high=0)")[..4], [9., 9., 9., 0.]);
    let joined = one("f64[2,4]", "o = concat(x, x[1: 0..1], axis=1)");
    assert_eq!(joined, [0., 1., 2., 0., 3., 4., 5., 3.]);
    assert_eq!(one("f64[3,3]", "o = concat(x, x[0: 0..1], axis=0)")[6..], [0., 1., 2.]);
    let repeated = one("f64[2,2,3]", "o = broadcast(x, shape=[2,2,3], axes=[0,2])");
    assert_eq!(repeated, [0., 1., 2., 0., 1., 2., 3., 4., 5., 3., 4., 5.]);
}

#[test]
fn gather_takes_rows_and_clamps() {
    let inputs = [counting(&[2, 3, 2]), ints(&[2, 2], &[2, 0, -5, 7])];
    let found = compute("x: f64[2,3,2], i: i64[2,2]", "f64[2,2,2,2]", "o = gather(x, i, axis=1)", &inputs);
    assert_eq!(found.to_f64s(), [4., 5., 0., 1., 0., 1., 4., 5., 10., 11., 6., 7., 6., 7., 10., 11.]);
}

#[test]
fn reductions_fold_their_axes() {
    let x = counting(&[2, 2, 3]);
    let one = |result, body| compute("x: f64[2,2,3]", result, body, std::slice::from_ref(&x)).to_f64s();
    assert_eq!(one("f64[2]", "o = reduce_sum(x, axes=[0,2])"), [24., 42.]);
    assert_eq!(one("f64[3]", "o = reduce_prod(x + 1, axes=[0,1])"), [1. * 4. * 7. * 10., 880., 1944.]);
    assert_eq!(one("f64[2,3]", "o = reduce_max(-x, axes=[1])"), [0., -1., -2., -6., -7., -8.]);
    assert_eq!(one("f64[]", "o = reduce_min(x - 5, axes=[0,1,2])"), [-5.]);
    assert_eq!(one("f64[2,2,3]", "o = reduce_sum(x, axes=[])"), x.to_f64s());
    assert_eq!(one("f64[2,2]", "o = reduce_max(x[2: 0..0], axes=[2])"), [f64::NEG_INFINITY; 4]);
    let with_nan = f64s(&[3], &[1.0, f64::NAN, 2.0]);
    assert!(compute("x: f64[3]", "f64[]", "o = reduce_max(x, axes=[0])", &[with_nan]).to_f64s()[0].is_nan());
    let whole = compute("x: i64[3]", "i64[]", "o = reduce_max(x, axes=[0])", &[ints(&[3], &[-3, -2, -9])]);
    assert_eq!(whole, ints(&[], &[-2]));
}

#[test]
fn sums_are_rounded_at_every_step() {
    let ones = Tensor::from_f64s(DType::F32, vec![3], &[16_777_216.0, 1.0, 1.0]).unwrap();
    let sum = compute("x: f32[3]", "f32[]", "o = sum(x, [0])", &[ones]);
    assert_eq!(sum.to_f64s(), [16_777_216.0]);
    // bf16 is summed in f32 and rounded once: 256 + 1 + 1 would stay 256 in bf16 alone.
    let ones = Tensor::from_f64s(DType::Bf16, vec![3], &[256.0, 1.0, 1.0]).unwrap();
    assert_eq!(compute("x: bf16[3]", "bf16[]", "o = sum(x, [0])", &[ones]).to_f64s(), [258.0]);
    // A product of f32 that needs more bits loses them before it is added.
    let x = Tensor::from_f64s(DType::F32, vec![2], &[1.0 + 2f64.powi(-12), -1.0]).unwrap();
    let y = Tensor::from_f64s(DType::F32, vec![2], &[1.0 + 2f64.powi(-12), 1.0]).unwrap();
    let dot = compute("x: f32[2], y: f32[2]", "f32[]", "o = einsum(\"k,k->\", x, y)", &[x, y]);
    assert_eq!(dot.to_f64s(), [2f64.powi(-11)]);
    let x = Tensor::from_f64s(DType::F32, vec![3], &[16_777_216.0, 1.0, 1.0]).unwrap();
    let total = compute("x: f32[3]", "f32[]", "o = einsum(\"k->\", x)", &[x]);
    assert_eq!(total.to_f64s(), [16_777_216.0]);
}

#[test]
fn contractions_agree_with_loops() {
    let (a, b) = (counting(&[2, 3, 4]), counting(&[3, 5]));
    let found =
        compute("a: f64[2,3,4], b: f64[3,5]", "f64[5,2]", "o = einsum(\"tkc,ko->ot\", a, b)", &[a, b]);
    let mut expected = vec![0.0; 10];
    for (t, k, c, o) in (0..2 * 3 * 4 * 5).map(|i| (i / 60, i / 20 % 3, i / 5 % 4, i % 5)) {
        expected[o * 2 + t] += ((t * 3 + k) * 4 + c) as f64 * (k * 5 + o) as f64;
    }
    assert_eq!(found.to_f64s(), expected);
    let x = f64s(&[2], &[3.0, 5.0]);
    let outer = compute("x: f64[2]", "f64[2,2]", "o = einsum(\"i,j,j->ij\", x, x, x)", &[x]);
    assert_eq!(outer.to_f64s(), [27., 75., 45., 125.]);
}

#[test]
fn storage_types_round_at_every_op() {
    let x = Tensor::from_f64s(DType::Bf16, vec![1], &[1.0]).unwrap();
    let sum =
        compute("x: bf16[1]", "bf16[1]", "o = (x + 0.001953125) + 0.001953125", std::slice::from_ref(&x));
    assert_eq!(sum.to_f64s(), [1.0]);
    let wide = compute("x: bf16[1]", "f32[1]", "o = convert(x, dtype=f32) + 0.001953125", &[x]);
    assert_eq!(wide.to_f64s(), [1.001953125]);
}

#[test]
fn conversions_saturate_and_wrap() {
    let x = f64s(&[4], &[3e9, -2.7, f64::NAN, f64::INFINITY]);
    let to = |dtype: &str| {
        let body = format!("o = convert(x, dtype={dtype})");
        compute("x: f64[4]", &format!("{dtype}[4]"), &body, std::slice::from_ref(&x))
    };
    assert_eq!(to("i32").data(), &Data::Int(vec![i64::from(i32::MAX), -2, 0, i64::from(i32::MAX)]));
    assert_eq!(to("bool").data(), &Data::Bool(vec![true; 4]));
    assert_eq!(to("f16").to_f64s()[0], f64::INFINITY);
    let wide = ints(&[2], &[1 << 32, i64::MAX]);
    let narrow = compute("x: i64[2]", "i32[2]", "o = convert(x, dtype=i32)", &[wide]);
    assert_eq!(narrow.data(), &Data::Int(vec![0, -1]));
}

#[test]
fn constants_count_and_select() {
    let grid = compute("", "i32[2,3]", "o = iota(shape=[2,3], axis=1, dtype=i32)", &[]);
    assert_eq!(grid.data(), &Data::Int(vec![0, 1, 2, 0, 1, 2]));
    let x = f64s(&[3], &[-1.0, 0.0, 2.0]);
    let found = compute("x: f64[3]", "f64[3]", "o = select(lt(x, 0), 10, stop_gradient(x))", &[x]);
    assert_eq!(found.to_f64s(), [10.0, 0.0, 2.0]);
}

#[test]
fn random_bits_are_threefry_words() {
    let key = Tensor::new(DType::I32, vec![2], Data::Int(vec![0, 0])).unwrap();
    let bits = compute("k: i32[2]", "i32[2,2]", "o = random_bits(k, shape=[2,2])", &[key]);
    // The published word of key 0 at counter 0 (Random123).
    assert_eq!(bits.get(0).as_i64(), 0x6b20_0159);
    let Data::Int(words) = bits.data() else { panic!() };
    assert!((1..4).all(|idx| words[idx] != words[0]));
}

const COUNTDOWN: &str = "\
dim T in 0..=100
fn @step(a: f64[2], x: f64[3], w: f64[]) -> (a: f64[2], y: f64[2], z: f64[]) {
  b = a * w + x[0: 0..2]
  return a = b, y = a, z = sum(x, [0])
}
fn @main(a: f64[2], x: f64[T,3], w: f64[]) -> (a: f64[2], y: f64[T,2], z: f64[T]) {
  b, y, z = loop(a, x, w) {body=@step, trip=T, carry=1, scan=1, reverse=REVERSE}
  return a = b, y = y, z = z
}";

#[test]
fn loops_carry_scan_and_stack() {
    let inputs = [f64s(&[2], &[1.0, 2.0]), counting(&[2, 3]), f64s(&[], &[10.0])];
    let forward = run(&module(&COUNTDOWN.replace("REVERSE", "false")), &[("T", 2)], &inputs);
    assert_eq!(forward[0].to_f64s(), [103.0, 214.0]);
    assert_eq!(forward[1].to_f64s(), [1.0, 2.0, 10.0, 21.0]);
    assert_eq!(forward[2].to_f64s(), [3.0, 12.0]);
    let backward = run(&module(&COUNTDOWN.replace("REVERSE", "true")), &[("T", 2)], &inputs);
    assert_eq!(backward[0].to_f64s(), [130.0, 241.0]);
    assert_eq!(backward[1].to_f64s(), [13.0, 24.0, 1.0, 2.0]);
    assert_eq!(backward[2].to_f64s(), [3.0, 12.0]);
    let none = [inputs[0].clone(), counting(&[0, 3]), inputs[2].clone()];
    let nothing = run(&module(&COUNTDOWN.replace("REVERSE", "false")), &[("T", 0)], &none);
    assert_eq!(nothing[0], inputs[0]);
    assert_eq!(nothing[1].shape(), [0, 2]);
}

#[test]
fn solve_and_qr_satisfy_their_equations() {
    // A zero in the first pivot's place needs a row exchange.
    let a = f64s(&[2, 3, 3], &[0., 2., 1., 1., 1., 0., 3., 0., 1., 4., 1., 0., 1., 3., 1., 0., 1., 2.]);
    let b = counting(&[2, 3, 2]);
    let signature = "a: f64[2,3,3], b: f64[2,3,2]";
    let back = "x = solve(a, b)\no = einsum(\"bij,bjk->bik\", a, x)";
    let found = compute(signature, "f64[2,3,2]", back, &[a, b.clone()]);
    assert_close(&found.to_f64s(), &b.to_f64s(), 1e-13);

    let m = f64s(&[4, 2], &[-1., 2., 3., 4., 0., -5., 2., 2.]);
    let product = "q, r = qr(m)\no = einsum(\"ij,jk->ik\", q, r)";
    assert_close(
        &compute("m: f64[4,2]", "f64[4,2]", product, std::slice::from_ref(&m)).to_f64s(),
        &m.to_f64s(),
        1e-14,
    );
    let gram = "q, r = qr(m)\no = einsum(\"ij,ik->jk\", q, q)";
    assert_close(
        &compute("m: f64[4,2]", "f64[2,2]", gram, std::slice::from_ref(&m)).to_f64s(),
        &[1., 0., 0., 1.],
        1e-14,
    );
    let r = compute("m: f64[4,2]", "f64[2,2]", "q, o = qr(m)", &[m]).to_f64s();
    assert!(r[0] > 0.0 && r[3] > 0.0 && r[2] == 0.0, "{r:?}");
    let zero = compute("m: f64[4,2]", "f64[2,2]", "q, o = qr(m)", &[f64s(&[4, 2], &[0.0; 8])]);
    assert_eq!(zero.to_f64s(), [0.0; 4]);
}

fn failure(source: &str, sizes: &[(&str, i64)], inputs: &[Tensor]) -> Diagnostic {
    let sizes: SizeEnv = sizes.iter().map(|(name, value)| ((*name).into(), *value)).collect();
    eval(&module(source), FuncId(0), &sizes, inputs).unwrap_err()
}

#[test]
fn what_cannot_be_held_or_does_not_fit_is_an_error() {
    let source = "dim T in 1..=2147483648\nfn @f(x: f32[]) -> (o: f32[T,T,64]) {\n  o = broadcast_to(x, [T,T,64])\n  return o = o\n}";
    let x = Tensor::from_f64s(DType::F32, vec![], &[1.0]).unwrap();
    let error = failure(source, &[("T", 1 << 20)], std::slice::from_ref(&x));
    assert!(error.message.contains("more than 1073741824 elements"), "{}", error.message);
    assert!(error.span.0.is_some());
    let error = failure(source, &[("T", i64::MAX / 2)], std::slice::from_ref(&x));
    assert!(error.message.contains("elements"), "{}", error.message);
    assert!(failure(source, &[], std::slice::from_ref(&x)).message.contains("the dim `T` has no value"));
    assert!(failure(source, &[("T", 2)], &[]).message.contains("takes 1 inputs, found 0"));
    let wrong = failure(source, &[("T", 2)], &[counting(&[2])]);
    assert_eq!(wrong.message, "the input `x` must be f32[] of shape [], found f64 of shape [2]");
    let cut = "dim T in 1..=9\nfn @f(x: f64[T]) -> (o: f64[3]) {\n  o = x[0: 0..3]\n  return o = o\n}";
    let error = failure(cut, &[("T", 2)], &[counting(&[2])]);
    assert_eq!(error.message, "`slice` in @f: 0..3 is not within 2 elements");
}
