//! Functions run on inputs that are the same for every target.

use birkhoff::{Function, Inputs, Options, Spec, Target, compile};

/// An output: its name, its bytes, and its elements.
pub type Out = (String, Vec<u8>, Vec<f64>);

/// The targets of this build that are machine code of this processor.
pub fn native() -> Vec<Target> {
    Target::ALL.into_iter().filter(|target| target.is_native() && target.check().is_ok()).collect()
}

/// What `spec`, compiled for sizes that are not known yet, computes at these run-time `sizes`.
pub fn outputs(spec: &Spec, options: &Options, sizes: &[(&str, i64)]) -> Vec<Out> {
    outputs_of(&compile(spec, options).unwrap_or_else(|error| panic!("{error}")), spec, sizes)
}

/// What `function`, which is that of `spec`, computes at these run-time `sizes`.
pub fn outputs_of(function: &Function, spec: &Spec, sizes: &[(&str, i64)]) -> Vec<Out> {
    let sized = sizes.iter().fold(spec.clone(), |spec, (name, size)| spec.dim(name, *size));
    let eval = Options { target: Target::Eval, ..Options::default() };
    let drawn = compile(&sized, &eval).unwrap_or_else(|error| panic!("{error}"));
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

/// Asserts that outputs are `expected` up to `tolerance`, as a share of the largest element.
pub fn assert_close(found: &[Out], expected: &[Out], tolerance: f64, what: &str) {
    for ((name, _, found), (_, _, expected)) in found.iter().zip(expected) {
        let scale = expected.iter().fold(1e-12f64, |max, value| max.max(value.abs()));
        let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst <= tolerance * scale, "{what}: {name} is {worst} off, at a scale of {scale}");
    }
}
