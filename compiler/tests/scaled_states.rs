//! States that are a matrix times weights: which are found, that the loop means the same with weights, derivatives included,
//! and that it knows where it does not.

use birkhoff_compiler::expand::differentiate;
use birkhoff_compiler::scaling::scaled;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::Scalar;
use birkhoff_ir::tensor::bind::{Bindings, bind};
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_ir::tensor::{FuncId, Module, OpKind, text};

const DIMS: &str = "dim B in 1..=100 default 3\ndim N in 1..=64 default 5\ndim M in 1..=64 default 4\n";

/// Bodies of loops with the state `s`, the extents of that, and whether its range is known from the matrix alone.
const LOOPS: [(&str, &str, bool); 10] = [
    // Rows, then columns, batched; a constant beside the sums.
    (
        "B,N,N",
        "d = reduce_sum(s, axes=[2]) + 1e-3
         p = s / reshape(d, shape=[B,N,1])
         e = 1e-3 + reduce_sum(p, axes=[1])
         return s = p / reshape(e, shape=[B,1,N])",
        true,
    ),
    // Columns, then rows, as products with reciprocals.
    (
        "B,N,N",
        "p = s * recip(broadcast(reduce_sum(s, axes=[1]), shape=[B,N,N], axes=[0,2]))
         r = contract(p, spec=\"bij->bi\", dtype=f64)
         return s = p * broadcast(recip(r), shape=[B,N,N], axes=[0,1])",
        true,
    ),
    // Rows are divided twice; the matrices lie in the outer axes.
    (
        "N,N,B",
        "d = reduce_sum(s, axes=[1]) + 0.125
         p = s / broadcast(d, shape=[N,N,B], axes=[0,2])
         e = reduce_sum(transpose(p, axes=[1,0,2]), axes=[1]) + 0.125
         q = p / broadcast(e, shape=[N,N,B], axes=[1,2])
         f = reduce_sum(q, axes=[1]) + 0.125
         return s = q / broadcast(f, shape=[N,N,B], axes=[0,2])",
        true,
    ),
    // Not square, so that weights grow from iteration to iteration.
    (
        "N,M",
        "p = s / reshape(reduce_sum(s, axes=[1]), shape=[N,1])
         return s = p / reduce_sum(p, axes=[0])",
        false,
    ),
    // Another constant for columns.
    (
        "N,N",
        "p = s / reshape(reduce_sum(s, axes=[1]) + 0.1, shape=[N,1])
         return s = p / (reduce_sum(p, axes=[0]) + 0.2)",
        false,
    ),
    // Given sums, and a damped step.
    (
        "N,M",
        "r = reduce_sum(s, axes=[1])
         p = s * reshape(sqrt(0.5 / r), shape=[N,1])
         c = reduce_sum(p, axes=[0])
         return s = 0.9 * p * (iota(shape=[M], axis=0, dtype=f64) + 1.0) / c",
        false,
    ),
    // Rows alone.
    ("N,M", "return s = s / reshape(reduce_sum(s, axes=[1]) + 0.5, shape=[N,1])", false),
    // The whole.
    ("N,M", "return s = 3.0 * s / broadcast(reduce_sum(s, axes=[0,1]), shape=[N,M], axes=[])", false),
    // Three directions.
    (
        "N,M,B",
        "p = s / broadcast(reduce_sum(s, axes=[1,2]) + 1e-6, shape=[N,M,B], axes=[0])
         q = p / broadcast(reduce_sum(p, axes=[0,2]) + 1e-6, shape=[N,M,B], axes=[1])
         return s = q / broadcast(reduce_sum(q, axes=[0,1]) + 1e-6, shape=[N,M,B], axes=[2])",
        false,
    ),
    // Pairs of directions: weights have two axes each.
    (
        "N,M,B",
        "p = s / broadcast(reduce_sum(s, axes=[2]) + 1e-6, shape=[N,M,B], axes=[0,1])
         q = p / broadcast(reduce_sum(p, axes=[0]) + 1e-6, shape=[N,M,B], axes=[1,2])
         return s = q / broadcast(reduce_sum(q, axes=[1]) + 1e-6, shape=[N,M,B], axes=[0,2])",
        false,
    ),
];

/// A function of the loop, and one of its gradients.
fn source(extents: &str, body: &str, trip: usize) -> String {
    format!(
        "{DIMS}fn @step(%s: f64[{extents}]) -> (s: f64[{extents}]) {{
  {body}
}}
fn @inner(%k: f64[{extents}]) -> (s: f64[{extents}]) {{
  s = loop(k, body=@step, trip={trip}, carry=1)
  return s = s
}}
fn @along(%k: f64[{extents}], %g: f64[{extents}]) -> (s: f64[{extents}], gk: f64[{extents}]) {{
  s, gk = vjp(k, g, body=@inner, wrt=[0], of=[0])
  return s = s, gk = gk
}}
export fn @main(%k: f64[{extents}], %g: f64[{extents}], %t: f64[{extents}]) ->
    (s: f64[{extents}], gk: f64[{extents}], ds: f64[{extents}], dgk: f64[{extents}]) {{
  s, gk, ds, dgk = jvp(k, g, t, body=@along, wrt=[0])
  return s = s, gk = gk, ds = ds, dgk = dgk
}}"
    )
}

fn module(source: &str) -> (Module, FuncId) {
    let module = text::parse(source).unwrap_or_else(|why| panic!("{}", why.render("test.bir", source)));
    let bound = bind(&module, &Bindings::default()).expect("binds");
    let (func, _) = bound.exported().last().expect("one function is exported");
    (bound, func)
}

fn with_weights(source: &str) -> Option<(Module, FuncId)> {
    let (module, func) = module(source);
    let found = scaled(&module, func).unwrap_or_else(|why| panic!("{why}\n{source}"));
    for found in &found {
        birkhoff_ir::tensor::verify::verify(&found.module)
            .unwrap_or_else(|why| panic!("{why}\n{}", text::print(&found.module)));
    }
    found.into_iter().next().map(|found| (found.module, found.func))
}

fn sizes() -> SizeEnv {
    [("B".into(), 3), ("N".into(), 5), ("M".into(), 4)].into()
}

fn shape(extents: &str) -> Vec<usize> {
    extents.split(',').map(|name| sizes()[name] as usize).collect()
}

/// Numbers of `lo .. hi`, without a period.
fn numbers(extents: &str, [lo, hi]: [f64; 2], seed: f64) -> Tensor {
    let shape = shape(extents);
    let count: usize = shape.iter().product();
    let part = |i: usize| 0.5 + 0.5 * (1.7 * i as f64 + seed).sin();
    let values: Vec<f64> = (0..count).map(|i| lo + (hi - lo) * part(i)).collect();
    Tensor::from_f64s(DType::F64, shape, &values).expect("shape and values agree")
}

fn inputs(extents: &str) -> Vec<Tensor> {
    vec![
        numbers(extents, [0.05, 1.0], 0.3),
        numbers(extents, [-1.0, 1.0], 1.1),
        numbers(extents, [-1.0, 1.0], 2.0),
    ]
}

fn evaluated((module, func): &(Module, FuncId), inputs: &[Tensor]) -> Vec<Tensor> {
    let (module, func) = differentiate(module, *func).expect("differentiates");
    eval(&module, func, &sizes(), inputs).unwrap_or_else(|why| panic!("{why:?}"))
}

fn is_in_range(results: &[Tensor]) -> bool {
    results.last().map(|flag| flag.get(0)) == Some(Scalar::Bool(true))
}

/// The largest difference, relative to the largest number.
fn difference(one: &Tensor, other: &Tensor) -> f64 {
    let (one, other) = (one.to_f64s(), other.to_f64s());
    let largest = one.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
    let apart = one.iter().zip(&other).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, |most: f64, value| if value.is_nan() { f64::NAN } else { most.max(value) }) / largest
}

/// The states of the loop that was written again, as ranks, and what of these watch.
fn states(module: &Module) -> (Vec<usize>, usize) {
    let nodes = module.funcs.iter().flat_map(|func| &func.nodes);
    let is_new = |id: FuncId| module.func(id).name.contains("_scaled");
    let op = nodes.map(|node| &node.op).find(|op| op.kind == OpKind::Loop && op.body().is_some_and(is_new));
    let op = op.expect("a loop was written again");
    let (carry, _) = op.loop_counts(module).expect("a loop");
    let body = module.func(op.body().expect("a loop has a body"));
    let ranks = body.values[..carry].iter().map(|value| value.ty.rank()).collect();
    (ranks, body.inputs[..carry].iter().filter(|input| input.name.starts_with("in_range")).count())
}

#[test]
fn loops_mean_the_same_with_their_derivatives_to_the_second() {
    for (extents, body, is_known) in LOOPS {
        let source = source(extents, body, 6);
        let found = with_weights(&source).unwrap_or_else(|| panic!("not found: {body}"));
        let (ranks, n_watches) = states(&found.0);
        assert!(ranks.iter().all(|rank| *rank < shape(extents).len()), "{ranks:?}: {body}");
        assert_eq!(n_watches == 0, is_known, "{body}");
        let inputs = inputs(extents);
        let (expected, results) = (evaluated(&module(&source), &inputs), evaluated(&found, &inputs));
        assert!(is_in_range(&results), "{body}");
        for (name, (one, other)) in ["s", "gk", "ds", "dgk"].iter().zip(expected.iter().zip(&results)) {
            let apart = difference(one, other);
            assert!(apart < 1e-11, "{name} is off by {apart:e}: {body}");
        }
    }
}

#[test]
fn loops_nest_and_both_rewrites_share_a_function() {
    let source = format!(
        "{DIMS}fn @normalise(%s: f64[N,N]) -> (s: f64[N,N]) {{
  p = s / reshape(reduce_sum(s, axes=[1]) + 1e-6, shape=[N,1])
  return s = p / (reduce_sum(p, axes=[0]) + 1e-6)
}}
fn @transport(%f: f64[N], %g: f64[N], %k: f64[N,N]) -> (f: f64[N], g: f64[N]) {{
  a = 0.5 - log_sum_exp(k + g, axis=1)
  b = 0.25 - log_sum_exp(k + reshape(a, shape=[N,1]), axis=0)
  return f = a, g = b
}}
fn @layer(%x: f64[N,N]) -> (x: f64[N,N]) {{
  s = loop(exp(x), body=@normalise, trip=5, carry=1)
  f, g = loop(broadcast(reduce_sum(s, axes=[0]), shape=[N], axes=[0]), reduce_sum(s * x, axes=[0]), x, body=@transport, trip=4, carry=2)
  return x = sin(s + 0.1 * g) + 0.1 * reshape(f, shape=[N,1])
}}
fn @loss(%x: f64[N,N]) -> (l: f64[]) {{
  y = loop(x, body=@layer, trip=2, carry=1)
  s = loop(exp(y), body=@normalise, trip=3, carry=1)
  return l = reduce_sum(s * s * y, axes=[0,1])
}}
export fn @main(%x: f64[N,N]) -> (l: f64[], dx: f64[N,N]) {{
  l, dx = vjp(x, 1.0, body=@loss, wrt=[0], of=[0])
  return l = l, dx = dx
}}"
    );
    let original = module(&source);
    let found = scaled(&original.0, original.1).unwrap_or_else(|why| panic!("{why}"));
    let inputs = [numbers("N,N", [-2.0, 2.0], 0.3)];
    let expected = evaluated(&original, &inputs);
    // Both, only sums, only matrices.
    assert_eq!(found.iter().map(|scaled| scaled.saving.is_some()).collect::<Vec<_>>(), [true, false, true]);
    for scaled in found {
        birkhoff_ir::tensor::verify::verify(&scaled.module).unwrap_or_else(|why| panic!("{why}"));
        let results = evaluated(&(scaled.module, scaled.func), &inputs);
        assert_eq!(results.len(), 3);
        assert!(is_in_range(&results));
        for (one, other) in expected.iter().zip(&results) {
            assert!(difference(one, other) < 1e-10);
        }
    }
}

#[test]
fn what_a_matrix_is_read_as_decides() {
    for body in [
        // Something else than a sum.
        "m = reduce_max(s, axes=[1])\n return s = s / reshape(m, shape=[N,1])",
        // Nothing is summed.
        "return s = s * 0.5",
        // A factor with all axes.
        "r = reduce_sum(s, axes=[1])\n return s = exp(s) / reshape(r, shape=[N,1])",
        "r = reduce_sum(s * s, axes=[1])\n return s = s / reshape(r, shape=[N,1])",
        "r = reduce_sum(s, axes=[1])\n return s = s / reshape(r, shape=[N,1]) + 0.1",
        // The state comes out turned.
        "r = reduce_sum(s, axes=[1])\n return s = transpose(s / reshape(r, shape=[N,1]), axes=[1,0])",
        // It is no factor of what comes out.
        "r = reduce_sum(s, axes=[1])\n return s = broadcast(r, shape=[N,N], axes=[0])",
    ] {
        assert!(with_weights(&source("N,N", body, 3)).is_none(), "{body}");
    }
    // What a loop stacks has all axes.
    let stacks = format!(
        "{DIMS}fn @step(%s: f64[N,N]) -> (s: f64[N,N], all: f64[N,N]) {{
           p = s / reshape(reduce_sum(s, axes=[1]), shape=[N,1])
           return s = p, all = p
         }}
         export fn @main(%k: f64[N,N]) -> (s: f64[N,N], all: f64[4,N,N]) {{
           s, all = loop(k, body=@step, trip=4, carry=1)
           return s = s, all = all
         }}"
    );
    assert!(with_weights(&stacks).is_none());
}

#[test]
fn composites_are_looked_into() {
    for (line, is_known) in [
        ("sinkhorn(k, form=exp, iters=5, eps=1e-6)", true),
        ("sinkhorn(k, form=exp, first=rows, shift=matrix, iters=5, eps=0.0)", true),
        ("sinkhorn(k, form=softmax, iters=5, eps=1e-6)", true),
        ("sinkhorn(k, form=exp, iters=1000000, eps=1e-6)", true),
        // Rounding would add up too far.
        ("sinkhorn(k, form=exp, iters=1000000, eps=1e-6)", false),
    ] {
        let dtype = if line.contains("1000000") && !is_known { "f32" } else { "f64" };
        let source = format!(
            "export fn @main(%k: {dtype}[7,7]) -> (o: {dtype}[7,7]) {{\n  o = {line}\n  return o = o\n}}"
        );
        let (module, _) = with_weights(&source).unwrap_or_else(|| panic!("not found: {line}"));
        assert_eq!(states(&module).1 == 0, is_known, "{line}");
    }
}

#[test]
fn outside_the_range_it_says_so() {
    for (extents, body, is_known) in LOOPS {
        let source = source(extents, body, 4);
        let found = with_weights(&source).unwrap_or_else(|| panic!("not found: {body}"));
        for bad in [f64::NAN, f64::INFINITY, 1e-140, -1e-140, 1e120] {
            let mut inputs = inputs(extents);
            let mut matrix = inputs[0].to_f64s();
            matrix[2] = bad;
            inputs[0] = Tensor::from_f64s(DType::F64, shape(extents), &matrix).expect("they agree");
            assert!(!is_in_range(&evaluated(&found, &inputs)), "{bad}: {body}");
        }
        // A matrix of zeros and others keeps its zeros, if weights are watched.
        let mut inputs = inputs(extents);
        let mut matrix = inputs[0].to_f64s();
        matrix[1] = 0.0;
        inputs[0] = Tensor::from_f64s(DType::F64, shape(extents), &matrix).expect("they agree");
        let results = evaluated(&found, &inputs);
        assert_eq!(is_in_range(&results), !is_known, "{body}");
        if !is_known {
            assert!(difference(&evaluated(&module(&source), &inputs)[0], &results[0]) < 1e-13, "{body}");
        }
        // Nothing is left to divide by, unless a constant is.
        inputs[0] = numbers(extents, [0.0, 0.0], 0.0);
        let results = evaluated(&found, &inputs);
        assert!(!is_in_range(&results) || results[0].to_f64s().iter().all(|value| *value == 0.0), "{body}");
    }
}

#[test]
fn weights_that_grow_are_caught() {
    // Each iteration takes 4/5 from the weights of rows and gives it to those of columns.
    let (extents, body, _) = LOOPS[3];
    for (trip, expected) in [(450, true), (550, false)] {
        let found = with_weights(&source(extents, body, trip)).expect("the state is found");
        let results = evaluated(&found, &inputs(extents));
        // (5/4)^497 is 2^160, the bound of one of two.
        assert_eq!(is_in_range(&results), expected, "{trip}");
    }
}

#[test]
fn at_the_bounds_it_is_still_right() {
    // The range of f64 as that of f32, which is the narrower: entries of all sizes that are allowed, at random places.
    let (extents, n) = ("12,12", 12);
    let source = format!(
        "fn @step(%s: f32[{extents}]) -> (s: f32[{extents}]) {{
           p = s / reshape(reduce_sum(s, axes=[1]) + 1e-6, shape=[{n},1])
           return s = p / (reduce_sum(p, axes=[0]) + 1e-6)
         }}
         export fn @main(%k: f32[{extents}]) -> (s: f32[{extents}]) {{
           s = loop(k, body=@step, trip=200, carry=1)
           return s = s
         }}"
    );
    let found = with_weights(&source).expect("the state is found");
    assert_eq!(states(&found.0).1, 0);
    for seed in 0..20 {
        // Half of all entries are the least, the others the greatest.
        let entry = |i: usize| {
            let part = (1.7 * i as f64 + f64::from(seed)).sin() * (0.3 * i as f64).cos();
            if part > 0.0 { 256.0 } else { 2f64.powi(-20) }
        };
        let values: Vec<f64> = (0..n * n).map(entry).collect();
        let inputs = [Tensor::from_f64s(DType::F32, vec![n, n], &values).expect("shape and values agree")];
        let (expected, results) = (evaluated(&module(&source), &inputs), evaluated(&found, &inputs));
        assert!(is_in_range(&results));
        for (one, other) in expected[0].to_f64s().iter().zip(results[0].to_f64s()) {
            assert!((one - other).abs() <= 2e-3 * one.abs(), "{one:e} and {other:e}, seed {seed}");
        }
    }
}
