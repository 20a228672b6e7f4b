//! Products by a library and the work around them, for a block of rows after the other: where that happens, and that the numbers
//! are the evaluator's and the same bits on any number of threads.

use birkhoff::bench::{Bench, bench};
use birkhoff::ir::plan::Step;
use birkhoff::{Options, Pool, Spec, Syntax, Target, compile};
use birkhoff_tests::runs::{assert_close, native, outputs, outputs_of};

/// Two layers with a bias, and the gradients of everything.
const PERCEPTRON: &str = r#"
[dims]
T = { run = [1, 1048576], default = 8 }
d = 48
h = 80

[fn.layers]
export = false
inputs = { x = "f32[T,d]", w = "f32[h,d]", b = "f32[h]", v = "f32[h,d]" }
body = "y = mean(square(x + einsum(\"th,hd->td\", tanh(einsum(\"td,hd->th\", x, w) + b), v)), [0,1])"
outputs = ["y"]

[fn.main.inputs]
x = "f32[T,d]"
w = { type = "f32[h,d]", random = { normal = [0.0, 0.2] } }
b = "f32[h]"
v = { type = "f32[h,d]", random = { normal = [0.0, 0.2] } }

[fn.main]
body = "y, dx, dw, db, dv = vjp(x, w, b, v, 1.0, body=@layers, wrt=[0,1,2,3], of=[0])"
outputs = ["y", "dx", "dw", "db", "dv"]
"#;

/// Softmax attention of `heads` heads over 64 places.
const ATTENTION: &str = r#"
[dims]
heads = { run = [1, 65536], default = 8 }

[fn.main.inputs]
q = "f32[heads,64,32]"
k = "f32[heads,64,32]"
v = "f32[heads,64,32]"

[fn.main]
body = "y = einsum(\"bts,bsd->btd\", softmax(0.2 * einsum(\"btd,bsd->bts\", q, k), axis=2), v)"
outputs = ["y"]
"#;

fn spec(text: &str) -> Spec {
    Spec::parse(Syntax::Toml, "blocks.toml", text).unwrap_or_else(|error| panic!("{error}"))
}

/// Numbers of launches and contractions in each group of the plan.
fn groups(spec: &Spec) -> Vec<[usize; 2]> {
    let function = compile(spec, &Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let program = function.program().expect("a plan");
    let grouped = program.steps.iter().filter(|step| matches!(step, Step::Rows { .. }));
    grouped
        .map(|step| {
            let n_contracts = step.body().iter().filter(|step| matches!(step, Step::Contract(_))).count();
            [step.body().len() - n_contracts, n_contracts]
        })
        .collect()
}

#[test]
fn layers_and_heads_are_groups() {
    // Forwards both products with the activation between them; backwards both with its derivative and the sums for the bias.
    let found = groups(&spec(PERCEPTRON));
    assert_eq!(found.iter().map(|group| group[1]).sum::<usize>(), 4, "{found:?}");
    assert!(found.iter().all(|group| group[0] >= 1), "{found:?}");
    assert_eq!(groups(&spec(ATTENTION)), [[1, 2]], "scores, their softmax, and the mean of values");
}

#[test]
fn the_numbers_are_the_evaluators_whether_there_are_blocks_or_not() {
    for (text, size, counts) in
        [(PERCEPTRON, "T", [1, 37, 256, 1000, 1023].as_slice()), (ATTENTION, "heads", &[1, 3, 16, 33])]
    {
        let spec = spec(text);
        for target in native() {
            let function = compile(&spec, &Options { target, ..Options::default() }).expect("compiles");
            for count in counts {
                let eval = Options { target: Target::Eval, ..Options::default() };
                let expected = outputs(&spec, &eval, &[(size, *count)]);
                let found = outputs_of(&function, &spec, &[(size, *count)]);
                assert_close(&found, &expected, 2e-5, &format!("{size} = {count} on {target}"));
            }
        }
    }
}

#[test]
fn the_bits_are_the_same_on_any_number_of_threads() {
    for (text, sizes) in [(PERCEPTRON, ("T", 1000)), (ATTENTION, ("heads", 33))] {
        let spec = spec(text);
        let on = |threads: usize| {
            let pool = Some(Pool::new(threads).expect("threads"));
            outputs(&spec, &Options { pool, ..Options::default() }, &[sizes])
        };
        let one = on(1);
        for threads in [2, 3, 7] {
            for ((name, expected, _), (_, found, _)) in one.iter().zip(on(threads)) {
                assert!(*expected == found, "{name} differs on {threads} threads");
            }
        }
    }
}

#[test]
fn blocks_run_where_there_are_rows_enough() {
    for (size, has_blocks) in [(1024, true), (64, false)] {
        let spec = spec(PERCEPTRON).dim("T", size);
        let function = compile(&spec, &Options::default()).expect("compiles");
        let inputs = function.random_inputs(1).expect("inputs");
        let views: Vec<_> = inputs.iter().map(|buffer| buffer.view()).collect();
        let report = bench(&function, &views, &Bench { warmup: 0, runs: 1 }).expect("runs");
        let group = report.kernels.iter().find(|one| one.name.starts_with("rows_"));
        assert_eq!(group.is_some(), has_blocks, "T = {size}: {:?}", report.kernels);
        // Two operations for every product of two numbers, in four products around the layers and two for weights.
        let products = 2.0 * 6.0 * size as f64 * 48.0 * 80.0;
        assert!(report.total.flops > products, "contractions count");
    }
}
