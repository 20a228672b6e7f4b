//! What the kernel evaluator promises beyond results: the order of reductions, rounding, poison, bounds and counts, each
//! against numbers worked out here.

use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::eval::{Array, Memory, run};
use birkhoff_ir::kernel::traffic::{Traffic, predict};
use birkhoff_ir::kernel::{Func, text, verify};
use birkhoff_ir::scalar::Scalar;

fn kernel(source: &str) -> Func {
    let parsed = text::parse(source).unwrap();
    verify::verify_parsed(&parsed).unwrap();
    parsed.func
}

fn sizes(values: &[(&str, i64)]) -> SizeEnv {
    values.iter().map(|(name, value)| ((*name).into(), *value)).collect()
}

fn f32s(values: &[f64]) -> Array {
    Array::from_f64s(DType::F32, &[values.len() as i64], values).unwrap()
}

fn out(len: i64) -> Array {
    Array::uninit(DType::F32, &[len]).unwrap()
}

const SUM: &str = "kernel @sum(
  x: read f32[N],
  y: write f32[1],
) sizes N {
  reg acc: f32[1]
  decl acc
  %zero = const f32 0.5
  store acc[0] = %zero
  lanes i in 0..N width 8 {
    %x = load x[i]
    accum add acc[0], %x
  }
  %sum = load acc[0]
  store y[0] = %sum
}";

/// The order that the module's text of `kernel` prescribes, in plain Rust.
fn lane_sum(x: &[f32]) -> f32 {
    let chunks = x.len() / 8;
    let mut partial = [-0.0f32; 8];
    for chunk in 0..chunks {
        (0..8).for_each(|lane| partial[lane] += x[chunk * 8 + lane]);
    }
    for half in [4, 2, 1] {
        (0..half).for_each(|lane| partial[lane] += partial[lane + half]);
    }
    let total = 0.5 + partial[0];
    x[chunks * 8..].iter().fold(total, |total, x| total + x)
}

#[test]
fn a_lane_reduction_adds_in_the_prescribed_order() {
    let x: Vec<f64> = (0..29)
        .map(|idx| f64::from(((idx * 37 % 29) as f32).exp2() * if idx % 2 == 0 { 1.0 } else { -1.1 }))
        .collect();
    let narrow: Vec<f32> = x.iter().map(|x| *x as f32).collect();
    let mut memory = Memory::new(vec![f32s(&x), out(1)]);
    run(&kernel(SUM), &sizes(&[("N", 29)]), &mut memory).unwrap();
    let found = memory.arrays[1].to_f64s().unwrap()[0];
    assert_eq!(found, f64::from(lane_sum(&narrow)));
    // The order matters for these numbers: the test would see another one.
    assert_ne!(found, f64::from(narrow.iter().fold(0.5, |sum, x| sum + x)));
}

#[test]
fn negative_zeros_stay_negative_through_a_lane_reduction() {
    let source = SUM.replace("const f32 0.5", "const f32 -0.0");
    let mut memory = Memory::new(vec![f32s(&[-0.0; 8]), out(1)]);
    run(&kernel(&source), &sizes(&[("N", 8)]), &mut memory).unwrap();
    assert_eq!(memory.arrays[1].to_f64s().unwrap()[0].to_bits(), (-0.0f64).to_bits());
}

#[test]
fn a_nan_wins_a_max_over_lanes() {
    let source = SUM.replace("accum add", "accum max");
    let mut x = vec![1.0; 11];
    x[3] = f64::NAN;
    let mut memory = Memory::new(vec![f32s(&x), out(1)]);
    run(&kernel(&source), &sizes(&[("N", 11)]), &mut memory).unwrap();
    assert!(memory.arrays[1].to_f64s().unwrap()[0].is_nan());
}

#[test]
fn a_chunk_runs_statement_by_statement() {
    // Each lane stores, then loads what its neighbour stored: only the last lane of the chunk reads an old value.
    let func = kernel(
        "kernel @shift(
  x: read f32[8],
  y: write f32[8],
) {
  local s: f32[9]
  %old = const f32 -1.0
  for i in 0..9 {
    store s[i] = %old
  }
  lanes i in 0..8 width 4 {
    %x = load x[i]
    store s[i] = %x
    %next = load s[i+1]
    store y[i] = %next
  }
}",
    );
    let x: Vec<f64> = (0..8).map(f64::from).collect();
    let mut memory = Memory::new(vec![f32s(&x), out(8)]);
    run(&func, &sizes(&[]), &mut memory).unwrap();
    assert_eq!(memory.arrays[1].to_f64s().unwrap(), [1.0, 2.0, 3.0, -1.0, 5.0, 6.0, 7.0, -1.0]);
}

#[test]
fn arithmetic_rounds_as_its_types_say() {
    let func = kernel(
        "kernel @round(
  x: read bf16[2],
  y: write f32[4],
  z: write bf16[2],
) {
  %a = load x[0]
  %b = load x[1]
  %p = mul %a, %a
  %m = neg %p
  %f = fma %a, %a, %m
  store y[0] = %f
  %bits = bitcast i32 %a
  %n = convert f32 %bits
  store y[1] = %n
  %t = const f32 0.1
  %r = round f16 %t
  store y[2] = %r
  %i = const i32 2147483647
  %one = const i32 1
  %w = add %i, %one
  %wf = convert f32 %w
  store y[3] = %wf
  store z[0] = %t
  %big = const f32 3e38
  %huge = add %big, %big
  store z[1] = %huge
}",
    );
    let x = Array::from_f64s(DType::Bf16, &[2], &[1.0 + 1.0 / 128.0, 3.0]).unwrap();
    let mut memory = Memory::new(vec![x, out(4), Array::uninit(DType::Bf16, &[2]).unwrap()]);
    run(&func, &sizes(&[]), &mut memory).unwrap();
    let a = 1.0f32 + 1.0 / 128.0;
    let expected =
        [0.0f32, a.to_bits() as f32, half::f16::from_f32(0.1).to_f32(), i32::MIN as f32].map(f64::from);
    assert_eq!(memory.arrays[1].to_f64s().unwrap(), expected);
    let stored = [f64::from(half::bf16::from_f32(0.1)), f64::INFINITY];
    assert_eq!(memory.arrays[2].to_f64s().unwrap(), stored);
}

#[test]
fn fma_rounds_once() {
    let source = "kernel @fma(
  y: write f32[2],
) {
  %a = const f32 1.0000001
  %p = mul %a, %a
  %m = neg %p
  %f = fma %a, %a, %m
  store y[0] = %f
}";
    let mut memory = Memory::new(vec![out(2)]);
    run(&kernel(source), &sizes(&[]), &mut memory).unwrap();
    let a = 1.000_000_1_f32;
    let exact = f64::from(a) * f64::from(a) - f64::from(a * a);
    assert_ne!(exact, 0.0);
    assert_eq!(memory.arrays[0].get(0), Some(Scalar::Float(exact)));
    assert_eq!(memory.arrays[0].get(1), None);
}

fn message(source: &str, n: i64) -> String {
    let x: Vec<f64> = (0..8).map(f64::from).collect();
    let mut memory = Memory::new(vec![f32s(&x), out(8)]);
    run(&kernel(source), &sizes(&[("N", n)]), &mut memory).unwrap_err().message
}

#[test]
fn an_access_out_of_bounds_names_its_place() {
    let source = "kernel @far(
  x: read f32[8],
  y: write f32[8],
) sizes N {
  stage read {
    for i in 0..N {
      %x = load x[i*2]
      store y[i] = %x
    }
  }
}";
    assert_eq!(message(source, 6), "kernel @far, stage read: the index of axis 0 of `x` is 8, expected 0..8");
}

#[test]
fn poison_propagates_and_does_not_escape() {
    let head = "kernel @poison(
  x: read f32[8],
  y: write f32[8],
) sizes N {
  local s: f32[8]
  local k: i64[8]
  reg r: f32[1]
  %x = load x[0]\n";
    let stored = format!("{head}  %s = load s[3]\n  %t = mul %s, %x\n  store y[0] = %t\n}}");
    assert_eq!(
        message(&stored, 1),
        "kernel @poison: a value that was never initialised goes to `y`, element 0"
    );
    let index = format!("{head}  %k = load k[0]\n  store y[%k] = %x\n}}");
    assert_eq!(
        message(&index, 1),
        "kernel @poison: the index of axis 0 of `y` is an uninitialised or overflowing value, expected 0..8"
    );
    let bound = format!("{head}  %k = load k[0]\n  for i in 0..%k {{\n  }}\n}}");
    assert_eq!(message(&bound, 1), "kernel @poison: a loop bound was never initialised or overflows");
    let again = format!(
        "{head}  for i in 0..2 {{\n    decl r\n    lanes c in 0..i width 2 {{\n      accum add r[0], %x\n    }}
    for j in i..1 {{\n      store r[0] = %x\n    }}\n    %r = load r[0]\n    store y[i] = %r\n  }}\n}}"
    );
    assert_eq!(
        message(&again, 1),
        "kernel @poison: a value that was never initialised goes to `y`, element 1"
    );
    let unused = format!("{head}  %s = load s[3]\n  store y[0] = %x\n}}");
    let mut memory = Memory::new(vec![f32s(&[2.0; 8]), out(8)]);
    run(&kernel(&unused), &sizes(&[("N", 1)]), &mut memory).unwrap();
    assert_eq!(memory.arrays[1].get(0), Some(Scalar::Float(2.0)));
}

/// Edge and issued bytes (read, written) of `name`.
fn bytes(traffic: &Traffic, name: &str) -> [u64; 4] {
    let param = traffic.param(name).unwrap();
    [param.edge_read, param.edge_written, param.issued_read, param.issued_written]
}

/// Runs and predicts; the issued bytes must agree, the predicted edge bytes must bound the counted ones.
fn traffic(source: &str, n: i64, shapes: &[&[i64]]) -> (Traffic, Traffic) {
    let func = kernel(source);
    let fill = |shape: &&[i64]| {
        Array::from_f64s(DType::F32, shape, &vec![1.0; shape.iter().product::<i64>() as usize]).unwrap()
    };
    let mut memory = Memory::new(shapes.iter().map(fill).collect());
    let counted = run(&func, &sizes(&[("N", n)]), &mut memory).unwrap();
    let predicted = predict(&func, &sizes(&[("N", n)])).unwrap();
    for (found, expected) in predicted.per_param.iter().zip(&counted.per_param) {
        assert_eq!(
            (found.issued_read, found.issued_written),
            (expected.issued_read, expected.issued_written),
            "{}",
            found.name
        );
        assert!(
            found.edge_read >= expected.edge_read && found.edge_written >= expected.edge_written,
            "{}",
            found.name
        );
    }
    (counted, predicted)
}

#[test]
fn uniform_loads_count_once_a_chunk() {
    let source = "kernel @scale(
  x: read f32[N,13],
  w: read f32[N],
  y: read_write f32[N,13],
) sizes N {
  grid t over N tile 4 as t0, t_count
  for t in 0..t_count {
    lanes c in 0..13 width 4 {
      %x = load x[t0+t,c]
      %w = load w[t0+t]
      accum mul_add y[t0+t,c], %x, %w
    }
  }
}";
    let (counted, predicted) = traffic(source, 10, &[&[10, 13], &[10], &[10, 13]]);
    assert_eq!(counted, predicted);
    assert_eq!(bytes(&counted, "x"), [520, 0, 520, 0]);
    // Three chunks of four lanes and one remaining iteration.
    assert_eq!(bytes(&counted, "w"), [40, 0, 10 * 4 * 4, 0]);
    assert_eq!(bytes(&counted, "y"), [520, 520, 520, 520]);
}

#[test]
fn loops_steered_by_other_loops_are_counted() {
    let source = "kernel @triangle(
  x: read f32[N,N],
  y: write f32[N],
) sizes N {
  grid i over N tile 3 as i0, i_count
  reg acc: f32[1]
  for i in 0..i_count {
    decl acc
    %zero = const f32 0.0
    store acc[0] = %zero
    lanes j in 0..i0+i+1 width 4 {
      %x = load x[i0+i,j]
      accum add acc[0], %x
    }
    %half = const i64 2
    %row = index i0+i
    %n = div %row, %half
    for k in 0..%n {
      %d = load x[k,k]
      accum add acc[0], %d
    }
    %sum = load acc[0]
    store y[i0+i] = %sum
  }
}";
    let (counted, predicted) = traffic(source, 10, &[&[10, 10], &[10]]);
    // 55 below and on the diagonal, 0+0+1+1+..+4+4 more on it.
    assert_eq!(bytes(&counted, "x"), [220, 0, 4 * (55 + 20), 0]);
    assert_eq!(
        bytes(&predicted, "x")[0],
        300,
        "an upper bound: the box around a triangle, but no more than was issued"
    );
    assert_eq!(bytes(&predicted, "y"), bytes(&counted, "y"));
}

#[test]
fn partly_touched_parameters_have_exact_edges() {
    let source = "kernel @stripes(
  x: read f32[N,8],
  y: write f32[N,8],
) sizes N {
  grid t over N tile 4 as t0, t_count
  for t in 0..t_count {
    for c in 0..4 {
      %a = load x[t0+t,c*2]
      store y[t0+t,c] = %a
    }
    %b = load x[t0+t,0]
    store y[t0+t,7] = %b
  }
}";
    let (counted, predicted) = traffic(source, 6, &[&[6, 8], &[6, 8]]);
    assert_eq!(bytes(&counted, "x"), [6 * 4 * 4, 0, 6 * 5 * 4, 0]);
    assert_eq!(bytes(&counted, "y"), [0, 6 * 5 * 4, 0, 6 * 5 * 4]);
    assert_eq!(bytes(&predicted, "y"), bytes(&counted, "y"));
    // Column 0 is read twice, which strides do not show: counted twice in the bound.
    assert_eq!(bytes(&predicted, "x")[0], 6 * 5 * 4);
}

#[test]
fn a_bound_that_was_loaded_has_no_prediction() {
    let source = "kernel @ragged(
  n: read i64[1],
  y: write f32[8],
) {
  %n = load n[0]
  %z = const f32 0.0
  for i in 0..%n {
    store y[i] = %z
  }
}";
    let error = predict(&kernel(source), &sizes(&[])).unwrap_err();
    assert_eq!(
        error.message,
        "kernel @ragged: a loop bound depends on a loaded value, so its traffic has no prediction"
    );
}
