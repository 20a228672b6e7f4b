//! Compiles a function to a plan and compares the plan, run in the kernel evaluator, with the function itself, run in the
//! tensor evaluator.

#![allow(dead_code, reason = "every file of tests uses its part")]

use birkhoff_compiler::expand::expand;
use birkhoff_compiler::lower::lower;
use birkhoff_compiler::schedule::Target;
use birkhoff_ir::dim::{SizeEnv, Sym};
use birkhoff_ir::kernel::eval::Array;
use birkhoff_ir::plan;
use birkhoff_ir::scalar::Scalar;
use birkhoff_ir::tensor::bind::{Bindings, bind};
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_ir::tensor::random::random_input;
use birkhoff_ir::tensor::{Module, text};

/// Sizes by name.
pub fn sizes(values: &[(&str, i64)]) -> SizeEnv {
    values.iter().map(|(name, value)| (Sym::from(*name), *value)).collect()
}

/// Compiles the first exported function and compares both evaluators.
pub fn check(module: &Module, dims: &[(&str, i64)], run_time: &[(&str, i64)], tol: f64) -> plan::Program {
    check_on(&Target::default(), module, dims, run_time, tol)
}

/// [`check`] for a machine without a library for contractions, of a function in text.
pub fn check_kernels(source: &str, dims: &[(&str, i64)], run_time: &[(&str, i64)]) -> plan::Program {
    let module = text::parse(source).unwrap_or_else(|why| panic!("{}", why.render("test.bir", source)));
    let target = Target { library_contractions: false, ..Target::default() };
    check_on(&target, &module, dims, run_time, 2e-5)
}

fn check_on(
    target: &Target,
    module: &Module,
    dims: &[(&str, i64)],
    run_time: &[(&str, i64)],
    tol: f64,
) -> plan::Program {
    let bound = bind(module, &Bindings { dims: sizes(dims), ..Bindings::default() }).expect("binds");
    let (func, _) = bound.exported().next().expect("one function is exported");
    let (flat, id) = expand(&bound, func).expect("expands");
    let start = std::time::Instant::now();
    let program = lower(&flat, id, target).unwrap_or_else(|why| panic!("{}", why.message));
    println!("lowered in {:?}", start.elapsed());
    if std::env::var("SHOW_PLAN").is_ok() {
        println!("{}", plan::text::print(&program));
    }
    plan::verify::verify(&program).unwrap_or_else(|why| panic!("{why}\n{}", plan::text::print(&program)));
    let env = sizes(run_time);
    let source = flat.func(id);
    let mut tensors = vec![];
    for (idx, input) in source.inputs.iter().enumerate() {
        let ty = &source.values[idx].ty;
        let shape: Vec<usize> = ty.shape.iter().map(|dim| dim.eval(&env).expect("sized") as usize).collect();
        tensors.push(random_input(7, &input.name, input.domain, ty.dtype, &shape).expect("fits"));
    }
    let expected = eval(&flat, id, &env, &tensors).expect("evaluates");
    let arrays: Vec<Array> = tensors.iter().map(to_array).collect();
    let outcome = plan::eval::run(&program, &env, &arrays)
        .unwrap_or_else(|why| panic!("{}\n{}", why.message, plan::text::print(&program)));
    let predicted = plan::traffic::predict(&program, &env).unwrap_or_else(|why| panic!("{}", why.message));
    for (kernel, counted) in &outcome.launches {
        let moved = &predicted[*kernel as usize].per_launch;
        assert_eq!(moved.issued_bytes(), counted.issued_bytes(), "issued bytes of kernel {kernel}");
        assert!(moved.edge_bytes() >= counted.edge_bytes(), "edge bytes of kernel {kernel}");
    }
    let predicted = plan::traffic::predict_contracts(&program, &env).expect("predicts");
    for (contract, counted) in &outcome.contracts {
        assert_eq!(predicted[*contract].per_launch, *counted, "bytes of contraction {contract}");
    }
    for ((out, want), got) in source.outputs.iter().zip(&expected).zip(&outcome.outputs) {
        let got = got.to_f64s().unwrap_or_else(|| panic!("{} is not fully written", out.name));
        let want = want.to_f64s();
        let scale = want.iter().fold(1e-30f64, |max, value| max.max(value.abs()));
        assert_eq!(got.len(), want.len());
        for (idx, (got, want)) in got.iter().zip(&want).enumerate() {
            let close =
                (got - want).abs() <= tol * scale + 1e-6 || (got.is_nan() && want.is_nan()) || got == want;
            assert!(
                close,
                "{}[{idx}]: expected {want}, found {got}\n{}",
                out.name,
                plan::text::print(&program)
            );
        }
    }
    program
}

fn to_array(tensor: &Tensor) -> Array {
    let shape: Vec<i64> = tensor.shape().iter().map(|extent| *extent as i64).collect();
    let values: Vec<Scalar> = (0..tensor.len()).map(|idx| tensor.get(idx)).collect();
    Array::from_scalars(tensor.dtype(), &shape, &values).expect("fits")
}

/// Like [`check`], for a text of tensor IR.
pub fn check_text(source: &str, dims: &[(&str, i64)], run_time: &[(&str, i64)]) -> plan::Program {
    let module = text::parse(source).unwrap_or_else(|why| panic!("{}", why.render("test.bir", source)));
    // Sums of thousands of terms in f32, in two orders.
    let tol = if run_time.iter().any(|(_, size)| *size >= 300) { 2e-4 } else { 2e-5 };
    check(&module, dims, run_time, tol)
}
