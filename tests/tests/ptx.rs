//! PTX of whole programs: the same bits as the kernel evaluator on the simulated device, and one LLVM in the process.
#![cfg(feature = "ptx")]

use birkhoff::{Cotangents, Gradient, Inputs, Loops, Options, Spec, Target, compile, compile_ptx};
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::kernel::eval::Array;
use birkhoff_ir::plan;
use birkhoff_ir::scalar::Scalar;
use birkhoff_runtime::View;
use birkhoff_tests::golden::folder;
use std::collections::BTreeSet;
use std::path::PathBuf;

fn options() -> Options {
    Options { target: Target::PtxSim, ..Options::default() }
}

fn example(name: &str) -> Spec {
    let path = folder("../examples").join(name);
    Spec::load(&path).unwrap_or_else(|error| panic!("{error}"))
}

fn array(view: &View<'_>) -> Array {
    let values: Vec<Scalar> = birkhoff::elements::scalars(view).collect();
    Array::from_scalars(view.dtype(), view.shape(), &values).expect("the array has its shape")
}

fn bits(value: Scalar) -> u64 {
    match value {
        // Which NaN it is, is left open.
        Scalar::Float(value) if value.is_nan() => f64::NAN.to_bits(),
        Scalar::Float(value) => value.to_bits(),
        other => other.as_i64() as u64,
    }
}

/// Runs a function on the simulated device and its plan in the evaluator, on random inputs; all bits must agree.
fn same_bits(spec: &Spec, sizes: &[(&str, i64)]) {
    let spec = sizes.iter().fold(spec.clone(), |spec, (name, size)| spec.dim(name, *size));
    let function = compile(&spec, &options()).unwrap_or_else(|error| panic!("{error}"));
    let name = function.signature().name.clone();
    let random = function.random_inputs(7).unwrap_or_else(|error| panic!("{error}"));
    let named = function.signature().inputs.iter().zip(&random);
    let inputs = named.fold(Inputs::new(), |inputs, ((name, _), buffer)| inputs.view(name, buffer.view()));
    let outputs = function.call(&inputs).unwrap_or_else(|error| panic!("{name}: {error}"));
    let program = function.program().expect("a plan");
    let env: SizeEnv = outputs.report().sizes.clone();
    let arrays: Vec<Array> = random.iter().map(|buffer| array(&buffer.view())).collect();
    let expected =
        plan::eval::run(program, &env, &arrays).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    for ((output, buffer), expected) in outputs.iter().zip(&expected.outputs) {
        let view = buffer.view();
        let found = birkhoff::elements::scalars(&view);
        for (idx, (found, expected)) in found.zip(expected.scalars()).enumerate() {
            let expected = expected.unwrap_or_else(|| panic!("{name}: {output} has an unwritten element"));
            assert_eq!(
                bits(found),
                bits(expected),
                "{name}: element {idx} of {output} is {found:?}, expected {expected:?}"
            );
        }
    }
}

#[test]
fn the_layer_has_the_bits_of_the_evaluator() {
    let spec = example("mhc_layer.toml");
    for (n_tokens, n_channels) in [(1, 256), (13, 200)] {
        same_bits(&spec, &[("T", n_tokens), ("C", n_channels)]);
    }
}

#[test]
fn gradients_of_the_layer_have_the_bits_of_the_evaluator() {
    let spec = example("mhc_layer.toml").dim("C", 160);
    let wrt = ["x", "phi", "b_res"].map(str::to_string).to_vec();
    let gradient = Gradient { wrt, cotangents: Cotangents::All, values: true, loops: Loops::Auto };
    let spec = spec.differentiated(&gradient).unwrap_or_else(|error| panic!("{error}"));
    same_bits(&spec, &[("T", 11)]);
}

/// Two LLVMs in one process do not crash: they hang, somewhere, one day.
#[test]
fn one_llvm_is_in_the_process() {
    let spec = example("mhc_layer.toml").dim("C", 64);
    compile_ptx(&spec, &options(), &mut |_| ()).unwrap_or_else(|error| panic!("{error}"));
    let maps = std::fs::read_to_string("/proc/self/maps").expect("the mapped files of this process");
    let mapped = |part: &str| -> BTreeSet<PathBuf> {
        let paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
        let libraries = paths.filter(|path| path.rsplit('/').next().is_some_and(|name| name.contains(part)));
        libraries.map(|path| PathBuf::from(path).canonicalize().unwrap_or_default()).collect()
    };
    assert_eq!(mapped("libLLVM").len(), 1, "{:?}", mapped("libLLVM"));
    assert_eq!(mapped("libMLIR").len(), 1, "{:?}", mapped("libMLIR"));
    // An LLVM that is linked statically shows in the names within this program. The name is put together here, lest it be found
    // in this very test.
    let own = std::fs::read(std::env::current_exe().expect("this program")).expect("its bytes");
    let pass: Vec<u8> = b"lpmIrenibmoCtsnI".iter().rev().copied().collect();
    assert!(
        !own.windows(pass.len()).any(|window| window == pass),
        "LLVM's passes are linked into this program"
    );
}
