//! `check` finds what is wrong: derivatives that were tampered with, and derivatives of something else.

use birkhoff::check::{Check, Claim, Derivatives, Row, Test, Verdict, check, compare};
use birkhoff::ir::diag::Diagnostic;
use birkhoff::ir::dim::SizeEnv;
use birkhoff::ir::dtype::DType;
use birkhoff::ir::scalar::ScalarOp;
use birkhoff::ir::tensor::eval::{Tensor, eval};
use birkhoff::ir::tensor::random::random_input;
use birkhoff::ir::tensor::{Domain, FuncId, Module, Op, OpKind};
use birkhoff::{Loops, Options, Spec, Stage, Syntax, lower};

/// The function of a text in which all floats are f64.
fn bound(text: &str) -> (Module, FuncId) {
    let spec = Spec::parse(Syntax::Ir, "subject.bir", text).unwrap().float(DType::F64);
    lower(&spec, &Options::default(), Stage::Tensor, &mut |_| ()).unwrap().tensor.unwrap()
}

fn inputs(module: &Module, func: FuncId, seed: u64) -> Vec<Tensor> {
    let func = module.func(func);
    let one = |(input, value)| {
        let input: &birkhoff::ir::tensor::Input = input;
        let shape: Vec<usize> =
            func.ty(value).shape.iter().map(|dim| dim.as_const().unwrap() as usize).collect();
        random_input(seed, &input.name, input.domain, DType::F64, &shape).unwrap()
    };
    func.inputs.iter().zip(func.input_values()).map(one).collect()
}

/// Compares claimed derivatives with respect to all inputs with differences.
fn rows(module: &Module, func: FuncId, derivatives: &Derivatives) -> Vec<Row> {
    let (sizes, wrt) = (SizeEnv::new(), (0..module.func(func).inputs.len()).collect::<Vec<_>>());
    let claim = Claim { module, func, sizes: &sizes, wrt: &wrt, derivatives, seed: 5 };
    let mut points = |trial: u64| -> Result<_, Diagnostic> { Ok(Some(inputs(module, func, 10 + trial))) };
    compare(&claim, &mut points).unwrap().0
}

fn derivatives(module: &Module, func: FuncId) -> Derivatives {
    let wrt: Vec<usize> = (0..module.func(func).inputs.len()).collect();
    Derivatives::of(module, func, &wrt, &[Loops::Stash]).unwrap()
}

fn failures(rows: &[Row]) -> Vec<(&Test, &str)> {
    let failed = rows.iter().filter(|row| row.verdict == Verdict::Failed);
    failed.map(|row| (&row.test, row.name.as_str())).collect()
}

/// A projection by a loop with state, slices and constants.
const PROJECTION: &str = "
    fn @step(%m: f64[2,3], %scale: f64[3], %bias: f64[2]) -> (m: f64[2,3]) {
      %columns = reduce_sum(%m) {axes=[0]}
      %p = %m / broadcast(%columns * %scale) {shape=[2,3], axes=[1]}
      return m = %p + broadcast(tanh(%bias)) {shape=[2,3], axes=[0]}
    }
    export fn @f(%x: f64[2,3] ~ uniform(0.5, 2), %scales: f64[4,3] ~ uniform(0.5, 2),
                 %bias: f64[2] ~ uniform(0.2, 1)) -> (y: f64[2,3]) {
      %y = loop(%x, %scales, %bias) {body=@step, trip=4, carry=1, scan=1}
      return y = %y
    }";

#[test]
fn what_the_compiler_writes_passes() {
    let (module, func) = bound(PROJECTION);
    let rows = rows(&module, func, &derivatives(&module, func));
    assert!(rows.iter().all(|row| row.verdict == Verdict::Ok && row.n_compared > 0), "{rows:#?}");
    let tests: Vec<(String, &str)> = rows.iter().map(|row| (row.test.name(), row.name.as_str())).collect();
    let expected = [
        ("gradient", "x"),
        ("gradient", "scales"),
        ("gradient", "bias"),
        ("tangent", "y"),
        ("adjoint", "all"),
    ];
    assert_eq!(tests, expected.map(|(test, name)| (test.to_string(), name)));
}

/// The function with another elementwise op at one node; `None` where there is nothing to exchange.
fn mutant(module: &Module, func: usize, node: usize) -> Option<Module> {
    let exchanged = match module.funcs[func].nodes[node].op.kind {
        OpKind::Scalar(ScalarOp::Add) => ScalarOp::Sub,
        OpKind::Scalar(ScalarOp::Sub) => ScalarOp::Add,
        OpKind::Scalar(ScalarOp::Mul) => ScalarOp::Div,
        OpKind::Scalar(ScalarOp::Div) => ScalarOp::Mul,
        OpKind::Scalar(ScalarOp::Neg) => ScalarOp::Abs,
        _ => return None,
    };
    let mut module = module.clone();
    module.funcs[func].nodes[node].op = Op::scalar(exchanged);
    Some(module)
}

#[test]
fn every_wrong_sign_and_factor_in_a_transposed_loop_is_caught() {
    let (module, func) = bound(PROJECTION);
    let right = derivatives(&module, func);
    let (reverse, id) = &right.reverse[0];
    let mut at = inputs(&module, func, 3);
    at.push(random_input(3, "ct.y", Domain::default(), DType::F64, &[2, 3]).unwrap());
    let gradients = |module: &Module| eval(module, *id, &SizeEnv::new(), &at).unwrap();
    let expected = gradients(reverse);
    let mut n_caught = 0;
    for (func_idx, body) in reverse.funcs.iter().enumerate() {
        for node in 0..body.nodes.len() {
            let Some(wrong) = mutant(reverse, func_idx, node) else { continue };
            let same = |(one, other): (&Tensor, &Tensor)| {
                one.to_f64s().iter().zip(other.to_f64s()).all(|(one, other)| (one - other).abs() < 1e-12)
            };
            if gradients(&wrong).iter().zip(&expected).all(same) {
                continue;
            }
            let claimed = Derivatives { reverse: vec![(wrong, *id)], forward: right.forward.clone() };
            let rows = rows(&module, func, &claimed);
            let failed = failures(&rows);
            let place = format!("node {node} of @{}", body.name);
            assert!(failed.iter().any(|(test, _)| **test == Test::Reverse), "{place}: {rows:#?}");
            assert!(failed.contains(&(&Test::Adjoint, "all")), "{place}: {rows:#?}");
            assert!(!failed.iter().any(|(test, _)| **test == Test::Forward), "{place}: {rows:#?}");
            n_caught += 1;
        }
    }
    assert!(n_caught >= 8, "{n_caught}");
}

#[test]
fn the_worst_element_is_one_that_is_wrong() {
    // One of many elements: x[3,4] counts twice in what is differentiated.
    let text = |factor: &str| {
        format!(
            "export fn @f(%x: f64[6,7], %w: f64[6,7]) -> (y: f64[]) {{
               %a = slice(%x) {{axis=0, start=3, end=4}}
               %b = slice(%a) {{axis=1, start=4, end=5}}
               return y = reduce_sum(sin(%x) * %w) {{axes=[0,1]}} + {factor} * reduce_sum(%b) {{axes=[0,1]}}
             }}"
        )
    };
    let (module, func) = bound(&text("1.0"));
    let (other, id) = bound(&text("1.001"));
    let rows = rows(&module, func, &derivatives(&other, id));
    assert_eq!(failures(&rows), [(&Test::Reverse, "x"), (&Test::Forward, "y")]);
    let worst = rows[0].worst.as_ref().unwrap();
    assert!(worst.place == "x[3,4]" || worst.place == "along x", "{worst:?}");
    assert!(rows[0].n_compared >= 4);
}

#[test]
fn the_wrong_orientation_is_caught() {
    let text = |orientation: &str| {
        format!(
            "export fn @f(%h: f64[5,3,3] ~ uniform(0, 1), %x: f64[5,3,4]) -> (out: f64[5,3,4]) {{
               return out = stream_mix(%h, %x) {{orientation={orientation}}}
             }}"
        )
    };
    let (module, func) = bound(&text("target_rows"));
    let (other, id) = bound(&text("source_rows"));
    let rows = rows(&module, func, &derivatives(&other, id));
    assert_eq!(failures(&rows), [(&Test::Reverse, "h"), (&Test::Reverse, "x"), (&Test::Forward, "out")]);
}

/// The gradient that two published kernels have: what normalises is taken for constant.
#[test]
fn normalisers_taken_for_constants_are_caught() {
    let text = |sum: &str| {
        format!(
            "fn @step(%m: f64[3,3]) -> (m: f64[3,3]) {{
               %columns = {sum}
               return m = %m / broadcast(%columns) {{shape=[3,3], axes=[1]}}
             }}
             export fn @f(%x: f64[3,3]) -> (y: f64[3,3]) {{
               return y = loop(exp(%x)) {{body=@step, trip=2, carry=1}}
             }}"
        )
    };
    let (module, func) = bound(&text("reduce_sum(%m) {axes=[0]}"));
    let (other, id) = bound(&text("stop_gradient(reduce_sum(%m) {axes=[0]})"));
    let wrong = rows(&module, func, &derivatives(&other, id));
    assert_eq!(failures(&wrong), [(&Test::Reverse, "x"), (&Test::Forward, "y")]);
    // Where the spec itself says so, it is what was asked for.
    let meant = rows(&other, id, &derivatives(&other, id));
    assert!(failures(&meant).is_empty(), "{meant:#?}");
    // And leaving it out is then what is wrong.
    let wrong = rows(&other, id, &derivatives(&module, func));
    assert!(!failures(&wrong).is_empty(), "{wrong:#?}");
}

#[test]
fn notes_tell_where_stop_gradient_matters() {
    let text = "
        export fn @scaled(%x: f32[4], %w: f32[4]) -> (y: f32[4]) { return y = %x * stop_gradient(%x) + %w }
        export fn @shifted(%x: f32[4]) -> (y: f32[]) {
          %max = stop_gradient(reduce_max(%x) {axes=[0]})
          return y = %max + log(reduce_sum(exp(%x - broadcast(%max) {shape=[4], axes=[]})) {axes=[0]})
        }";
    let spec = Spec::parse(Syntax::Ir, "stops.bir", text).unwrap();
    let report = check(&spec, &spec.functions(), None, &Check::default(), &mut |_| ()).unwrap();
    assert!(report.passes(), "{}", report.text());
    let notes: Vec<&[String]> = report.functions.iter().map(|function| function.notes.as_slice()).collect();
    let expected =
        "stop_gradient changes the derivative with respect to x; differences hold what it gives".to_string();
    assert_eq!(notes, [&[expected][..], &[][..]]);
}

#[test]
fn kinks_are_inconclusive_and_tried_again_elsewhere() {
    let (module, func) = bound("export fn @f(%x: f64[3]) -> (y: f64[3]) { return y = abs(%x) }");
    let derivatives = derivatives(&module, func);
    let sizes = SizeEnv::new();
    let claim = Claim { module: &module, func, sizes: &sizes, wrt: &[0], derivatives: &derivatives, seed: 5 };
    let point = |values: [f64; 3]| Tensor::from_f64s(DType::F64, vec![3], &values).unwrap();
    let kink = || Some(vec![point([0.0, 1.0, 2.0])]);
    let (rows, _) = compare(&claim, &mut |trial| Ok(kink().filter(|_| trial == 0))).unwrap();
    for row in rows.iter().filter(|row| row.test != Test::Adjoint) {
        assert_eq!(
            (row.verdict, row.why.as_str()),
            (Verdict::Inconclusive, "the slopes to both sides differ")
        );
    }
    let smooth = || Some(vec![point([-0.5, 1.0, 2.0])]);
    let mut n_points = 0;
    let (rows, _) = compare(&claim, &mut |trial| {
        n_points += 1;
        Ok(if trial < 2 { kink() } else { smooth() })
    })
    .unwrap();
    assert!(rows.iter().all(|row| row.verdict == Verdict::Ok), "{rows:#?}");
    assert_eq!(n_points, 3);
}

#[test]
fn derivatives_of_another_signature_are_refused() {
    let (module, func) = bound("export fn @f(%x: f64[3], %y: f64[3]) -> (z: f64[3]) { return z = %x * %y }");
    let sizes = SizeEnv::new();
    let one = Derivatives::of(&module, func, &[0], &[Loops::Stash]).unwrap();
    let claim = Claim { module: &module, func, sizes: &sizes, wrt: &[0, 1], derivatives: &one, seed: 5 };
    let at = inputs(&module, func, 1);
    let error = compare(&claim, &mut |_| Ok(Some(at.clone()))).unwrap_err();
    assert_eq!(error.message, "2 gradients are expected, the function gives 1");
}
