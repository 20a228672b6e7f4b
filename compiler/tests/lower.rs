//! Lowering against the definition: every program here runs in the tensor evaluator and, compiled to a plan, in the kernel
//! evaluator; the plan verifies, and the results agree within the rounding that another order of sums brings.

mod plans;

use birkhoff_compiler::spec;
use birkhoff_ir::tensor::{DimKind, Module};
use plans::{check, check_text};

#[test]
fn elementwise_over_two_axes() {
    let source = "
dim T in 1..=1000 default 37
export fn @main(%x: f32[T,10], %b: f32[10]) -> (y: f32[T,10]) {
  y = tanh(x * 2.0 + b)
  return y = y
}";
    check_text(source, &[], &[("T", 37)]);
}

#[test]
fn row_softmax() {
    let source = "
dim T in 1..=1000 default 5
export fn @main(%x: f32[T,100]) -> (y: f32[T,100]) {
  y = softmax(x, axis=1)
  return y = y
}";
    check_text(source, &[], &[("T", 5)]);
}

#[test]
fn column_sums() {
    let source = "
dim T in 1..=1000 default 5
export fn @main(%x: f32[T,100]) -> (y: f32[100], z: f32[]) {
  y = reduce_sum(x, axes=[0])
  z = reduce_sum(x * x, axes=[0,1])
  return y = y, z = z
}";
    check_text(source, &[], &[("T", 9)]);
}

#[test]
fn matrix_product() {
    let source = "
dim T in 1..=1000 default 5
export fn @main(%x: f32[T,33], %w: f32[33,300]) -> (y: f32[T,300]) {
  y = contract(x, w, spec=\"tk,ko->to\", dtype=f32)
  z = tanh(y)
  return y = z
}";
    check_text(source, &[], &[("T", 9)]);
}

#[test]
fn gram_matrix() {
    let source = "
dim N in 1..=1000 default 5
export fn @main(%x: f32[N,7]) -> (g: f32[N,N]) {
  y = tanh(x)
  g = contract(y, y, spec=\"id,jd->ij\", dtype=f32)
  return g = g
}";
    check_text(source, &[], &[("N", 9)]);
}

#[test]
fn sinkhorn_over_a_batch() {
    let source = "
dim B in 1..=100000 default 5
dim n = 4
param iters = 20
export fn @main(%m: f32[B,n,n]) -> (h: f32[B,n,n]) {
  h = sinkhorn(m, iters=$iters)
  return h = h
}";
    for n in [1, 2, 3, 4, 8, 12] {
        for b in [1, 37] {
            check_text(source, &[("n", n)], &[("B", b)]);
        }
    }
}

#[test]
fn movement() {
    let source = "
dim T in 1..=1000 default 5
export fn @main(%x: f32[T,6], %z: f32[]) -> (a: f32[T,10], b: f32[T,12], c: f32[6,T], d: f32[T,3,2], e: f32[T,2]) {
  a = pad(x, z, axis=1, low=1, high=3)
  b = concat(x, x * 2.0, axis=1)
  c = transpose(x, axes=[1,0])
  d = reshape(x, [T,3,2])
  e = reduce_max(d, axes=[1])
  return a = a, b = b, c = c, d = d, e = e
}";
    check_text(source, &[], &[("T", 11)]);
}

#[test]
fn random_bits_and_iota() {
    let source = "
dim T in 1..=1000 default 5
export fn @main(%k: i32[2] ~ uniform(0.0, 1000.0)) -> (r: i32[T,3], i: f32[T,3]) {
  r = random_bits(k, shape=[T,3])
  i = iota(shape=[T,3], axis=0, dtype=f32)
  return r = r, i = i
}";
    check_text(source, &[], &[("T", 11)]);
}

/// Values for the compile-time dims of every spec, by name; 5 for others.
fn static_dims(module: &Module, overrides: &[(&str, i64)]) -> Vec<(String, i64)> {
    let defaults =
        [("n", 4), ("C", 33), ("layers", 3), ("streams", 3), ("proposals", 2), ("m", 7), ("h", 6), ("K", 3)];
    let value = |name: &str| {
        let of =
            |list: &[(&str, i64)]| list.iter().find(|(other, _)| *other == name).map(|(_, value)| *value);
        of(overrides).or_else(|| of(&defaults)).unwrap_or(5)
    };
    let free = module.dims.iter().filter(|decl| {
        matches!(decl.kind, DimKind::Static(None))
            || overrides.iter().any(|(name, _)| *name == decl.name.as_str())
    });
    free.map(|decl| (decl.name.to_string(), value(&decl.name))).collect()
}

fn check_spec(path: &str, overrides: &[(&str, i64)], extent: i64) {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let source = std::fs::read_to_string(format!("{root}/{path}")).expect("the spec is there");
    let module = spec::parse(&source).unwrap_or_else(|why| panic!("{}", why.render(path, &source)));
    let is_run_time = |decl: &&birkhoff_ir::tensor::DimDecl| matches!(decl.kind, DimKind::RunTime { .. });
    let run_time: Vec<(String, i64)> =
        module.dims.iter().filter(is_run_time).map(|decl| (decl.name.to_string(), extent)).collect();
    let run_time: Vec<(&str, i64)> = run_time.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let dims = static_dims(&module, overrides);
    let dims: Vec<(&str, i64)> = dims.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    println!("{path} {dims:?} {extent}");
    let tol = if path.contains("bf16") { 1e-2 } else { 2e-4 };
    check(&module, &dims, &run_time, tol);
}

/// Ops that no kernel computes yet; specs that use them are held back here and run in the tensor evaluator.
const WITHOUT_KERNEL: [&str; 2] = ["cayley", "hutchpp"];

#[test]
fn every_spec() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut paths: Vec<String> = vec![];
    for folder in ["examples", "tests/specs"] {
        for entry in std::fs::read_dir(format!("{root}/{folder}")).expect("the folder is there") {
            let name = entry.expect("readable").file_name().to_string_lossy().to_string();
            let stem = name.strip_suffix(".toml");
            if stem.is_some_and(|stem| !WITHOUT_KERNEL.contains(&stem)) {
                paths.push(format!("{folder}/{name}"));
            }
        }
    }
    paths.sort();
    for path in paths {
        let width: &[(&str, i64)] = if path.starts_with("examples") { &[("C", 20)] } else { &[] };
        check_spec(&path, width, 11);
    }
}

#[test]
fn layers_of_many_sizes() {
    for (n, width, extent) in [(1, 7, 5), (2, 32, 1), (3, 1, 9), (4, 64, 40), (8, 100, 3), (12, 10, 3)] {
        for path in ["tests/specs/mhc_paper.toml", "tests/specs/mhc_tile.toml"] {
            check_spec(path, &[("n", n), ("C", width)], extent);
        }
    }
}
