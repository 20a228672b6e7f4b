//! Large contractions: which of them become steps of the plan for a library, and that those mean the same.

mod plans;

use birkhoff_ir::plan::{Program, Step};
use birkhoff_ir::tensor::text;
use plans::{check, check_text};

fn contracts(program: &Program) -> usize {
    program.contracts().len()
}

#[test]
fn every_layout_of_a_product() {
    for (left, x) in [("tk", "T,32"), ("kt", "32,T")] {
        for (right, w) in [("ko", "32,64"), ("ok", "64,32")] {
            for (out, y) in [("to", "T,64"), ("ot", "64,T")] {
                let source = format!(
                    "
dim T in 1..=1000 default 40
export fn @main(%x: f32[{x}], %w: f32[{w}], %b: f32[{y}]) -> (y: f32[{y}]) {{
  y = contract(x, w, spec=\"{left},{right}->{out}\", dtype=f32)
  z = tanh(y + b)
  return y = z
}}"
                );
                let program = check_text(&source, &[], &[("T", 33)]);
                // What a library would turn for every block of rows is copied once.
                let n_kernels = if (right, out) == ("ok", "to") { 2 } else { 1 };
                let found = (contracts(&program), program.kernels.len());
                assert_eq!(found, (1, n_kernels), "{left},{right}->{out}");
            }
        }
    }
}

#[test]
fn a_batch_of_products_between_elementwise_work() {
    let source = "
dim B in 1..=100 default 3
export fn @main(%x: f64[B,48,32], %w: f64[40,B,32], %v: f64[32,48,40]) -> (y: f64[48,B,40], g: f64[32,40]) {
  e = exp(x)
  y = contract(e, w, spec=\"bmk,nbk->mbn\", dtype=f64)
  s = y * y
  h = contract(x, s, spec=\"bmk,mbn->kn\", dtype=f64)
  return y = y, g = h
}";
    let module = text::parse(source).unwrap_or_else(|why| panic!("{}", why.render("test.bir", source)));
    // The second sums over two axes that no factor has next to each other in the same order.
    let program = check(&module, &[], &[("B", 3)], 1e-12);
    assert_eq!(contracts(&program), 1);
}

#[test]
fn movement_becomes_strides() {
    let source = "
dim T in 1..=1000 default 40
export fn @main(%x: f32[T,2,64], %w: f32[32,128]) -> (y: f32[T,2,64], g: f32[64,32]) {
  a = reshape(x, shape=[T,128])
  h = slice(a, axis=1, start=32, end=96)
  v = reshape(transpose(w, axes=[1,0]), shape=[2,64,32])
  u = reshape(slice(v, axis=0, start=1, end=2), shape=[64,32])
  g = contract(h, u, spec=\"tk,ko->to\", dtype=f32)
  p = contract(g, w, spec=\"to,on->tn\", dtype=f32)
  q = contract(h, g, spec=\"tk,to->ko\", dtype=f32)
  return y = reshape(p, shape=[T,2,64]), g = q
}";
    let program = check_text(source, &[], &[("T", 37)]);
    assert_eq!(contracts(&program), 3);
    // What remains of movement is the slice across two axes of `x`, which is copied, the part of `w` that is read turned, and the
    // output.
    assert_eq!(program.kernels.len(), 3);
}

#[test]
fn small_and_skinny_products_stay_in_kernels() {
    for (m, n, k) in [(256, 24, 1024), (24, 256, 1024), (256, 256, 8), (64, 32, 64)] {
        let source = format!(
            "
export fn @main(%x: f32[{m},{k}], %w: f32[{k},{n}]) -> (y: f32[{m},{n}]) {{
  y = contract(x, w, spec=\"mk,kn->mn\", dtype=f32)
  return y = y
}}"
        );
        let program = check_text(&source, &[], &[]);
        assert_eq!(contracts(&program), 0, "{m} {n} {k}");
    }
}

#[test]
fn a_loop_with_large_products_is_one_of_the_plan() {
    let source = "
dim T in 1..=1000 default 40
fn @layer(%h: f64[T,64], %w: f64[64,64]) -> (h: f64[T,64], s: f64[T,64]) {
  y = contract(h, w, spec=\"tk,ok->to\", dtype=f64)
  z = tanh(y)
  return h = z, s = y
}
export fn @main(%x: f64[T,64], %ws: f64[4,64,64]) -> (y: f64[T,64], s: f64[4,T,64]) {
  y, s = loop(x, ws, body=@layer, trip=4, carry=1, scan=1)
  return y = y, s = s
}";
    let program = check_text(source, &[], &[("T", 35)]);
    assert_eq!(contracts(&program), 1);
    let is_contract = |step: &Step| matches!(step, Step::Contract(_));
    let has_contract = |step: &Step| {
        is_contract(step) || matches!(step, Step::Rows { body, .. } if body.iter().any(is_contract))
    };
    let in_loop = |step: &Step| matches!(step, Step::Loop { body, .. } if body.iter().any(has_contract));
    assert!(program.steps.iter().any(in_loop));
}

#[test]
fn a_stack_that_a_loop_leaves_shares_no_memory_with_its_iterations() {
    let source = "
dim T in 1..=1000 default 40
fn @layer(%w: f32[64,64], %x: f32[T,64]) -> (s: f32[T]) {
  y = contract(x, w, spec=\"tk,ok->to\", dtype=f32)
  z = contract(tanh(y), w, spec=\"tk,ok->to\", dtype=f32)
  s = reduce_sum(z * z, axes=[1])
  return s = s
}
export fn @main(%x: f32[T,64], %ws: f32[4,64,64]) -> (y: f32[T]) {
  s = loop(ws, x, body=@layer, trip=4, carry=0, scan=1)
  y = reduce_sum(exp(-s), axes=[0])
  return y = y
}";
    let program = check_text(source, &[], &[("T", 35)]);
    assert_eq!(contracts(&program), 2);
}
