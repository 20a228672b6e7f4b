//! Loops of exponential sums as products with a kept kernel: which are found, that they mean the same within the range, and that
//! they know where they do not.

use birkhoff_compiler::expand::{differentiate, expand};
use birkhoff_compiler::lower::lower;
use birkhoff_compiler::scaling::scaled;
use birkhoff_compiler::schedule::Target;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::eval::Array;
use birkhoff_ir::plan::guard::guarded;
use birkhoff_ir::plan::{self, Program, eval::run};
use birkhoff_ir::scalar::Scalar;
use birkhoff_ir::tensor::bind::{Bindings, bind};
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_ir::tensor::{FuncId, Module, OpKind, text};

/// Transport between clouds, the potentials in units of eps; `{}` is what the loop hands on and takes.
const TRANSPORT: &str = "
dim N in 1..=1000 default 12
dim M in 1..=1000 default 9
fn @step(%u: f64[N], %v: f64[M], %k: f64[N,M]) -> (u: f64[N], v: f64[M]) {
  a = 0.5 - log_sum_exp(k + v, axis=1)
  b = 0.25 - log_sum_exp(k + reshape(a, shape=[N,1]), axis=0)
  return u = a, v = b
}
export fn @main(%u: f64[N], %v: f64[M], %k: f64[N,M]) -> (p: f64[N,M]) {
  f, g = loop(u, v, k, body=@step, trip=7, carry=2)
  return p = exp(k + reshape(f, shape=[N,1]) + g)
}";

/// The same by hand: the shift is a maximum that nothing marks as one, and the potentials are divided by eps in every step.
const BY_HAND: &str = "
dim N in 1..=1000 default 12
dim M in 1..=1000 default 9
fn @step(%g: f64[M], %c: f64[N,M], %eps: f64[]) -> (g: f64[M]) {
  x = (g - c) / eps
  m = reduce_max(x, axes=[1])
  e = exp(x - broadcast(m, shape=[N,M], axes=[0]))
  f = eps * (0.5 - (log(reduce_sum(e, axes=[1])) + m))
  y = (reshape(f, shape=[N,1]) - c) / eps
  h = reduce_max(y, axes=[0])
  s = reduce_sum(exp(y - h), axes=[0])
  return g = eps * (0.25 - log(s) - h)
}
export fn @main(%g: f64[M], %c: f64[N,M], %eps: f64[]) -> (g: f64[M]) {
  last = loop(g, c, eps, body=@step, trip=5, carry=1)
  return g = last
}";

fn module(source: &str) -> (Module, FuncId) {
    let module = text::parse(source).unwrap_or_else(|why| panic!("{}", why.render("test.bir", source)));
    let bound = bind(&module, &Bindings::default()).expect("binds");
    let (func, _) = bound.exported().last().expect("one function is exported");
    (bound, func)
}

fn within_range(source: &str) -> Option<(Module, FuncId)> {
    let (module, func) = module(source);
    let found = scaled(&module, func).unwrap_or_else(|why| panic!("{why}"));
    for found in &found {
        birkhoff_ir::tensor::verify::verify(&found.module)
            .unwrap_or_else(|why| panic!("{why}\n{}", text::print(&found.module)));
    }
    found.into_iter().next().map(|found| (found.module, found.func))
}

fn sizes() -> SizeEnv {
    [("N".into(), 12), ("M".into(), 9)].into()
}

/// Numbers between -1 and 1 times `scale`, without a period.
fn numbers(shape: &[usize], scale: f64, seed: f64) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|i| scale * (1.7 * i as f64 + seed).sin()).collect();
    Tensor::from_f64s(DType::F64, shape.to_vec(), &values).expect("shape and values agree")
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_f64s()
}

/// The largest difference, relative to the largest number.
fn difference(one: &Tensor, other: &Tensor) -> f64 {
    let (one, other) = (values(one), values(other));
    let largest = one.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
    let apart = one.iter().zip(&other).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, |most: f64, value| if value.is_nan() { f64::NAN } else { most.max(value) }) / largest
}

fn evaluated(found: &(Module, FuncId), inputs: &[Tensor]) -> Vec<Tensor> {
    eval(&found.0, found.1, &sizes(), inputs).unwrap_or_else(|why| panic!("{why:?}"))
}

fn is_in_range(results: &[Tensor]) -> bool {
    results.last().map(|flag| flag.get(0)) == Some(Scalar::Bool(true))
}

fn transport_inputs(scale: f64) -> Vec<Tensor> {
    vec![numbers(&[12], 1.0, 0.3), numbers(&[9], scale, 1.1), numbers(&[12, 9], scale, 2.0)]
}

#[test]
fn within_the_range_it_means_the_same() {
    let found = within_range(TRANSPORT).expect("the sums are found");
    let (original, inputs) = (module(TRANSPORT), transport_inputs(5.0));
    let (expected, results) = (evaluated(&original, &inputs), evaluated(&found, &inputs));
    assert!(is_in_range(&results));
    assert!(difference(&expected[0], &results[0]) < 1e-14);
}

#[test]
fn a_shift_that_nothing_marks_cancels() {
    let found = within_range(BY_HAND).expect("the sums are found");
    let eps = Tensor::from_f64s(DType::F64, vec![], &[0.3]).expect("a number");
    let inputs = vec![numbers(&[9], 1.0, 0.3), numbers(&[12, 9], 2.0, 2.0), eps];
    let (expected, results) = (evaluated(&module(BY_HAND), &inputs), evaluated(&found, &inputs));
    assert!(is_in_range(&results));
    assert!(difference(&expected[0], &results[0]) < 1e-14);
    // No iteration takes the maximum or the exponentials of a matrix that changes.
    let body = found.0.funcs.iter().find(|func| func.name.contains("scaled")).expect("a new body");
    let kept: Vec<bool> = {
        let mut kept: Vec<bool> =
            (0..body.values.len()).map(|value| value >= 2 && value < body.inputs.len()).collect();
        for node in &body.nodes {
            let same = node.args.iter().all(|arg| kept[arg.0 as usize]);
            node.results.iter().for_each(|result| kept[result.0 as usize] = same);
        }
        kept
    };
    for node in &body.nodes {
        let is_wide = node.args.iter().any(|arg| body.ty(*arg).rank() == 2);
        if is_wide && !kept[node.results[0].0 as usize] {
            assert_eq!(node.op.kind, OpKind::Contract, "{}", text::print(&found.0));
        }
    }
}

#[test]
fn outside_the_range_it_says_so() {
    let found = within_range(TRANSPORT).expect("the sums are found");
    // exp(-1400) is below the least positive f64, so sums of far columns vanish.
    let mut far = transport_inputs(5.0);
    let mut costs = values(&far[2]);
    costs.iter_mut().step_by(9).for_each(|cost| *cost -= 1400.0);
    far[2] = Tensor::from_f64s(DType::F64, vec![12, 9], &costs).expect("shape and values agree");
    assert!(!is_in_range(&evaluated(&found, &far)));
    for bad in [f64::NAN, f64::NEG_INFINITY] {
        let mut inputs = transport_inputs(5.0);
        let mut row = values(&inputs[2]);
        row[..9].iter_mut().for_each(|cost| *cost = bad);
        inputs[2] = Tensor::from_f64s(DType::F64, vec![12, 9], &row).expect("shape and values agree");
        assert!(!is_in_range(&evaluated(&found, &inputs)), "{bad}");
    }
}

#[test]
fn it_goes_through_derivatives_and_loops_around() {
    let inner = TRANSPORT.replace("export fn @main", "fn @plan").replace("export ", "");
    let source = format!(
        "{inner}
fn @layer(%v: f64[M], %u: f64[N], %k: f64[N,M]) -> (v: f64[M]) {{
  f, g = loop(u, v, k, body=@step, trip=3, carry=2)
  return v = g * 0.5
}}
fn @loss(%u: f64[N], %v: f64[M], %k: f64[N,M]) -> (l: f64[]) {{
  w = loop(v, u, k, body=@layer, trip=2, carry=1)
  f, g = loop(u, w, k, body=@step, trip=4, carry=2)
  p = exp(k + reshape(f, shape=[N,1]) + g)
  return l = reduce_sum(sin(p), axes=[0,1])
}}
export fn @main(%u: f64[N], %v: f64[M], %k: f64[N,M]) -> (l: f64[], dv: f64[M], dk: f64[N,M]) {{
  l, dv, dk = vjp(u, v, k, 1.0, body=@loss, wrt=[1,2], of=[0])
  return l = l, dv = dv, dk = dk
}}"
    );
    let found = within_range(&source).expect("the sums are found");
    let (original, inputs) = (module(&source), transport_inputs(3.0));
    let open = |(module, func): &(Module, FuncId)| differentiate(module, *func).expect("differentiates");
    let (expected, results) = (evaluated(&open(&original), &inputs), evaluated(&open(&found), &inputs));
    assert!(is_in_range(&results));
    // Iterations forget where they began, so that cotangent is small beside what it is the difference of.
    for (one, other) in expected.iter().zip(&results) {
        assert!(difference(one, other) < 1e-9, "{:?}\n{:?}", values(one), values(other));
    }
}

#[test]
fn composites_are_looked_into() {
    for (line, is_found) in [
        ("o = sinkhorn(k, form=log, iters=5, eps=0.0)", true),
        ("o = softmax(k, axis=1)", false),
        ("f, o = ot_potentials(k, eps=0.1, iters=5)", true),
    ] {
        let outputs = if line.starts_with("f,") { "o: f64[9]" } else { "o: f64[9,9]" };
        let source = format!("export fn @main(%k: f64[9,9]) -> ({outputs}) {{\n  {line}\n  return o = o\n}}");
        assert_eq!(within_range(&source).is_some(), is_found, "{line}");
    }
}

#[test]
fn a_loop_whose_result_cancels_is_not_needed() {
    let inner = TRANSPORT.replace("export fn @main", "fn @plan").replace("export ", "");
    let source = format!(
        "{inner}
fn @outer(%v: f64[M], %u: f64[N], %k: f64[N,M]) -> (v: f64[M]) {{
  f, g = loop(u, v, k, body=@step, trip=2, carry=2)
  s = log_sum_exp(k + v, axis=1)
  r = (s + f) - f
  return v = 0.25 - log_sum_exp(k - reshape(r, shape=[N,1]), axis=0)
}}
export fn @main(%u: f64[N], %v: f64[M], %k: f64[N,M]) -> (v: f64[M]) {{
  w = loop(v, u, k, body=@outer, trip=3, carry=1)
  return v = w
}}"
    );
    let found = within_range(&source).expect("the sums are found");
    let (original, inputs) = (module(&source), transport_inputs(3.0));
    let (expected, results) = (evaluated(&original, &inputs), evaluated(&found, &inputs));
    assert!(is_in_range(&results));
    assert!(difference(&expected[0], &results[0]) < 1e-12);
}

#[test]
fn what_has_no_kept_matrix_or_no_weights_stays() {
    for step in [
        // The matrix is a state.
        "fn @step(%k: f64[N,M], %v: f64[M]) -> (k: f64[N,M]) {
           s = log_sum_exp(k + v, axis=1)
           return k = k - reshape(s, shape=[N,1])
         }",
        // Nothing in the sum changes.
        "fn @step(%k: f64[N,M], %v: f64[M]) -> (k: f64[N,M]) {
           return k = k + v
         }",
    ] {
        let source = format!(
            "dim N in 1..=1000 default 12\ndim M in 1..=1000 default 9\n{step}
             export fn @main(%k: f64[N,M], %v: f64[M]) -> (o: f64[N,M]) {{
               o = loop(k, v, body=@step, trip=3, carry=1)
               return o = o
             }}"
        );
        assert!(within_range(&source).is_none(), "{step}");
    }
}

/// The plan of both, which verifies and survives its text.
fn joint(source: &str) -> Program {
    let plan_of = |(module, func): (Module, FuncId)| {
        let (module, func) = expand(&module, func).expect("expands");
        lower(&module, func, &Target::default()).unwrap_or_else(|why| panic!("{why:?}"))
    };
    let fast = plan_of(within_range(source).expect("the sums are found"));
    let joint = guarded(fast, plan_of(module(source))).expect("one function");
    plan::verify::verify(&joint).unwrap_or_else(|why| panic!("{why}\n{}", plan::text::print(&joint)));
    let printed = plan::text::print(&joint);
    let parsed = plan::text::parse(&printed).unwrap_or_else(|why| panic!("{why:?}"));
    plan::verify::verify_parsed(&parsed).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(plan::text::print(&parsed.program), printed);
    joint
}

#[test]
fn the_plan_runs_the_original_where_it_must() {
    let joint = joint(TRANSPORT);
    let array = |tensor: &Tensor| {
        let shape: Vec<i64> = tensor.shape().iter().map(|extent| *extent as i64).collect();
        Array::from_f64s(tensor.dtype(), &shape, &tensor.to_f64s()).expect("an array")
    };
    let mut far = transport_inputs(5.0);
    let mut costs = values(&far[2]);
    costs.iter_mut().step_by(9).for_each(|cost| *cost -= 1400.0);
    far[2] = Tensor::from_f64s(DType::F64, vec![12, 9], &costs).expect("shape and values agree");
    for (inputs, goes_back) in [(transport_inputs(5.0), false), (far, true)] {
        let arrays: Vec<Array> = inputs.iter().map(array).collect();
        let ran = run(&joint, &sizes(), &arrays).unwrap_or_else(|why| panic!("{why:?}"));
        let expected = evaluated(&module(TRANSPORT), &inputs);
        let found = ran.outputs[0].to_f64s().expect("all was written");
        let found = Tensor::from_f64s(DType::F64, vec![12, 9], &found).expect("shape and values agree");
        assert!(difference(&expected[0], &found) < 1e-13, "goes back: {goes_back}");
        let predicted = plan::traffic::predict(&joint, &sizes()).expect("sizes are known");
        let n_launches: u64 = predicted.iter().map(|kernel| kernel.launches).sum();
        assert_eq!(ran.launches.len() as u64 > n_launches, goes_back);
    }
}

#[test]
fn bodies_may_be_deep() {
    // What a state gathers multiplies itself again and again; a potential goes through many steps.
    let squares: String = (0..60).map(|step| format!("  p{} = p{step} * p{step}\n", step + 1)).collect();
    let steps: String = (0..3000).map(|step| format!("  w{} = tanh(w{step}) * eps\n", step + 1)).collect();
    let source = format!(
        "dim N in 1..=1000 default 12\ndim M in 1..=1000 default 9
fn @step(%acc: f64[N,M], %v: f64[M], %k: f64[N,M], %eps: f64[]) -> (acc: f64[N,M], v: f64[M]) {{
  p0 = broadcast(v, shape=[N,M], axes=[1])
{squares}  w0 = log_sum_exp(k + v, axis=1)
{steps}  return acc = acc + p60, v = v - log_sum_exp(k + reshape(w3000, shape=[N,1]), axis=0)
}}
export fn @main(%acc: f64[N,M], %v: f64[M], %k: f64[N,M], %eps: f64[]) -> (acc: f64[N,M], v: f64[M]) {{
  s, w = loop(acc, v, k, eps, body=@step, trip=3, carry=2)
  return acc = s, v = w
}}"
    );
    let (found, func) = within_range(&source).expect("the sums are found");
    let options = birkhoff_compiler::eqsat::Options {
        limits: birkhoff_compiler::eqsat::Limits { iterations: 1, ..Default::default() },
        ..Default::default()
    };
    let edges = birkhoff_compiler::cost::Edges::default();
    birkhoff_compiler::eqsat::optimize(&found, func, &options, &edges)
        .unwrap_or_else(|why| panic!("{why:?}"));
}
