//! Whole programs as machine code of this processor, against the evaluator of their kernels: the same bits.
//!
//! Every back end runs kernels that were scheduled for it, so that loops over lanes are as wide as its vectors. Large products
//! are kernels too: how a library orders their sums is its own.

use birkhoff::elements::scalars;
use birkhoff::ir::dim::SizeEnv;
use birkhoff::ir::kernel::eval::Array;
use birkhoff::ir::plan;
use birkhoff::{Inputs, Options, Spec, Target, compile};
use birkhoff_tests::golden::folder;

fn load(name: &str) -> Spec {
    Spec::load(folder("specs").join(format!("{name}.toml"))).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs a function on random inputs both ways, on every target of this build.
fn check(spec: &Spec, sizes: &[(&str, i64)], what: &str) {
    let native = Target::ALL.into_iter().filter(|target| target.is_native() && target.check().is_ok());
    let spec = sizes.iter().fold(spec.clone(), |spec, (name, size)| spec.dim(name, *size));
    for target in native {
        let options = Options { target, library_contractions: false, ..Options::default() };
        let function = compile(&spec, &options).unwrap_or_else(|error| panic!("{what}: {error}"));
        let program = function.program().expect("machine code has a plan");
        let random = function.random_inputs(5).unwrap_or_else(|error| panic!("{what}: {error}"));
        let names = function.signature().input_names();
        let pairs = names.iter().zip(&random);
        let inputs = pairs.fold(Inputs::new(), |inputs, (name, buffer)| inputs.view(name, buffer.view()));
        let outputs = function.call(&inputs).unwrap_or_else(|error| panic!("{what}: {error}"));
        let arrays: Vec<Array> = random
            .iter()
            .map(|buffer| {
                let view = buffer.view();
                let values: Vec<_> = scalars(&view).collect();
                Array::from_scalars(buffer.dtype(), buffer.shape(), &values).expect("an array of that shape")
            })
            .collect();
        let env: SizeEnv = outputs.report().sizes.clone();
        let expected = plan::eval::run(program, &env, &arrays).unwrap_or_else(|errors| panic!("{errors:?}"));
        for ((name, found), expected) in outputs.iter().zip(&expected.outputs) {
            let view = found.view();
            let found = scalars(&view).map(|value| value.as_f64().to_bits());
            let expected: Option<Vec<u64>> =
                expected.scalars().map(|value| value.map(|value| value.as_f64().to_bits())).collect();
            let expected = expected.expect("every element of an output is written");
            let wrong = found.zip(&expected).position(|(found, expected)| {
                let both_nan = f64::from_bits(found).is_nan() && f64::from_bits(*expected).is_nan();
                found != *expected && !both_nan
            });
            assert_eq!(wrong, None, "{what} on {target}: an element of `{name}` differs");
        }
    }
}

#[test]
fn layers_and_their_gradients_are_what_their_kernels_say() {
    for (n, width, n_tokens) in [(4, 48, 37), (3, 20, 70)] {
        let layer = load("mhc_paper").dim("n", n).dim("C", width);
        check(&layer, &[("T", n_tokens)], &format!("layer, n = {n}, C = {width}"));
    }
    let layer =
        Spec::load(folder("../examples").join("mhc_layer.toml")).unwrap_or_else(|error| panic!("{error}"));
    let layer = layer.dim("C", 40).vjp(&["x", "y", "phi", "b_res"]).unwrap_or_else(|error| panic!("{error}"));
    check(&layer, &[("T", 67)], "gradients of the layer");
}

#[test]
fn other_programs_are_what_their_kernels_say() {
    let programs: [(&str, &[(&str, i64)]); 7] = [
        ("sinkhorn_log", &[("n", 4), ("B", 70)]),
        ("sinkhorn_tile", &[("n", 3), ("B", 37)]),
        ("ot_t", &[("d", 5), ("N", 37), ("M", 50)]),
        ("realnvp", &[("layers", 2), ("half", 8), ("hidden", 20), ("B", 37)]),
        ("geo_softmax", &[("d", 8), ("N", 35)]),
        ("geo_attention", &[("d", 8), ("w", 5), ("N", 35)]),
        ("mmd2", &[("d", 6), ("N", 35), ("M", 40)]),
    ];
    for (name, sizes) in programs {
        check(&load(name), sizes, name);
    }
}
