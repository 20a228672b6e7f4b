//! The same specs at many sizes: machine code against the tensor evaluator, and against itself on other numbers of threads.

use birkhoff::{Options, Pool, Spec, Target};
use birkhoff_tests::golden::folder;
use birkhoff_tests::runs::{self, native, outputs};

fn load(name: &str) -> Spec {
    Spec::load(folder("specs").join(name)).unwrap_or_else(|error| panic!("{error}"))
}

fn assert_close(spec: &Spec, n_tokens: i64, what: &str) {
    let on = |target: Target| outputs(spec, &Options { target, ..Options::default() }, &[("T", n_tokens)]);
    let eval = on(Target::Eval);
    for target in native() {
        runs::assert_close(&on(target), &eval, 1e-5, &format!("{what}, T = {n_tokens} on {target}"));
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
        outputs(&spec, &Options { target, pool: Some(pool), ..Options::default() }, &[("T", 1024)])
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
