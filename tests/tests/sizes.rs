//! The same specs at many sizes: machine code against the tensor evaluator, and against itself on other numbers of threads.

use birkhoff::{Inputs, Options, Pool, Spec, Target, compile};
use birkhoff_tests::golden::folder;

fn load(name: &str) -> Spec {
    Spec::load(folder("specs").join(name)).unwrap_or_else(|error| panic!("{error}"))
}

fn outputs(spec: &Spec, options: &Options, n_tokens: i64) -> Vec<(String, Vec<u8>, Vec<f64>)> {
    let function = compile(spec, options).unwrap_or_else(|error| panic!("{error}"));
    let sized = spec.clone().dim("T", n_tokens);
    let drawn = compile(&sized, &Options { target: Target::Eval, ..options.clone() })
        .unwrap_or_else(|error| panic!("{error}"));
    let buffers = drawn.random_inputs(3).unwrap_or_else(|error| panic!("{error}"));
    let names = function.signature().input_names();
    let mut inputs = Inputs::new();
    for (name, buffer) in names.iter().zip(&buffers) {
        inputs = inputs.view(name, buffer.view());
    }
    let results = function.call(&inputs).unwrap_or_else(|error| panic!("{error}"));
    results
        .iter()
        .map(|(name, buffer)| {
            let view = buffer.view();
            let values = birkhoff::elements::scalars(&view).map(|scalar| scalar.as_f64()).collect();
            (name.to_string(), view.bytes().to_vec(), values)
        })
        .collect()
}

/// The targets of this build that are machine code of this processor.
fn native() -> Vec<Target> {
    Target::ALL.into_iter().filter(|target| target.is_native() && target.check().is_ok()).collect()
}

fn assert_close(spec: &Spec, n_tokens: i64, what: &str) {
    let eval = outputs(spec, &Options { target: Target::Eval, ..Options::default() }, n_tokens);
    for target in native() {
        let found = outputs(spec, &Options { target, ..Options::default() }, n_tokens);
        for ((name, _, found), (_, _, expected)) in found.iter().zip(&eval) {
            let scale = expected.iter().fold(1e-12f64, |max, value| max.max(value.abs()));
            let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(
                worst <= 1e-5 * scale,
                "{what}, T = {n_tokens} on {target}: {name} is {worst} off, at a scale of {scale}"
            );
        }
    }
}

#[test]
fn paper_and_tile_layers() {
    for n in [1, 2, 3, 4, 8] {
        for width in [1, 32, 100] {
            for n_tokens in [1, 37] {
                for name in ["mhc_paper.toml", "mhc_tile.toml", "mhc_tile_head.toml"] {
                    let spec = load(name).dim("n", n).dim("C", width);
                    assert_close(&spec, n_tokens, &format!("{name}, n = {n}, C = {width}"));
                }
            }
        }
    }
}

#[test]
fn wide_layer() {
    for (n, n_tokens) in [(4, 37), (3, 1)] {
        assert_close(
            &load("mhc_paper.toml").dim("n", n).dim("C", 2560),
            n_tokens,
            &format!("n = {n}, C = 2560"),
        );
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let spec = load("mhc_paper.toml").dim("n", 4).dim("C", 100);
    let on = |target: Target, threads: usize| {
        let pool = Pool::new(threads).expect("threads can be had");
        outputs(&spec, &Options { target, pool: Some(pool), ..Options::default() }, 1024)
    };
    for target in native() {
        let one = on(target, 1);
        for threads in [2, 3, 7] {
            for ((name, expected, _), (_, found, _)) in one.iter().zip(&on(target, threads)) {
                assert!(found == expected, "{name} differs on {threads} threads, {target}");
            }
        }
    }
}
