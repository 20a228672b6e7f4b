//! Helpers of several test files: running IR text on numbers.

use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::Module;
use birkhoff_ir::tensor::bind::{Bindings, bind};
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_ir::tensor::text::parse;

/// The module of a source that is right.
pub fn module(source: &str) -> Module {
    parse(source).unwrap_or_else(|errors| panic!("{}", errors.render("source", source)))
}

/// An f64 tensor.
pub fn f64s(shape: &[usize], values: &[f64]) -> Tensor {
    Tensor::from_f64s(DType::F64, shape.to_vec(), values).unwrap()
}

/// The outputs of the last function of `module` after binding, with run-time sizes `sizes`.
pub fn run(module: &Module, sizes: &[(&str, i64)], inputs: &[Tensor]) -> Vec<Tensor> {
    let bound = bind(module, &Bindings::default()).unwrap();
    let sizes: SizeEnv = sizes.iter().map(|(name, value)| ((*name).into(), *value)).collect();
    let id = birkhoff_ir::tensor::FuncId(bound.funcs.len() as u32 - 1);
    eval(&bound, id, &sizes, inputs).unwrap_or_else(|error| panic!("{}", error.message))
}

/// The single output of a function whose signature is `(inputs) -> (o: result)` and whose body is `body`.
pub fn compute(signature: &str, result: &str, body: &str, inputs: &[Tensor]) -> Tensor {
    let source = format!("fn @f({signature}) -> (o: {result}) {{\n{body}\nreturn o = o\n}}");
    run(&module(&source), &[], inputs).remove(0)
}

/// Errors if any element differs by more than `tolerance` relative to the larger of 1 and the expectation.
pub fn assert_close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (idx, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = (found - expected).abs() <= tolerance * expected.abs().max(1.0) || found == expected;
        assert!(
            close || (found.is_nan() && expected.is_nan()),
            "element {idx}: {found} instead of {expected}"
        );
    }
}
