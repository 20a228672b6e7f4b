//! Nothing in a spec depends on the sizes of the golden files: other numbers of streams, widths and tokens bind, verify and
//! evaluate to finite numbers, and mixing matrices keep the sums that were normalised last.

use birkhoff_compiler::spec::parse;
use birkhoff_ir::dim::{SizeEnv, Sym};
use birkhoff_ir::tensor::bind::{Bindings, bind};
use birkhoff_ir::tensor::eval::eval;
use birkhoff_ir::tensor::random::random_input;
use birkhoff_ir::tensor::verify::verify;
use birkhoff_ir::tensor::{DimKind, Module};
use std::collections::BTreeMap;

fn spec(name: &str) -> Module {
    let path = format!("{}/../tests/specs/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(&path).expect("a spec");
    parse(&source).unwrap_or_else(|errors| panic!("{}", errors.render(&path, &source)))
}

/// The module with `n` streams of width `c`; other compile-time dims that have no size get 2.
fn sized(module: &Module, n: i64, c: i64) -> Module {
    let mut dims = SizeEnv::new();
    for decl in &module.dims {
        if let DimKind::Static(given) = decl.kind {
            let size = match decl.name.as_str() {
                "n" | "streams" => n,
                "C" | "d" => c,
                _ => given.unwrap_or(2),
            };
            dims.insert(decl.name.clone(), size);
        }
    }
    let bound = bind(module, &Bindings { dims, ..Bindings::default() }).expect("all dims have sizes");
    verify(&bound).expect("a bound module that verifies");
    bound
}

/// Outputs of the default function on random inputs; shapes and numbers.
fn run(module: &Module, run_time: i64) -> BTreeMap<String, (Vec<usize>, Vec<f64>)> {
    let sizes: SizeEnv = module.dims.iter().map(|decl| (Sym::clone(&decl.name), run_time)).collect();
    let (id, func) = module.exported().next().expect("a function");
    let mut inputs = vec![];
    for (input, value) in func.inputs.iter().zip(func.input_values()) {
        let ty = func.ty(value);
        let shape: Vec<usize> =
            ty.shape.iter().map(|dim| dim.eval(&sizes).expect("a size") as usize).collect();
        inputs.push(random_input(5, &input.name, input.domain, ty.dtype, &shape).expect("an input"));
    }
    let outputs = eval(module, id, &sizes, &inputs).expect("an evaluation");
    let named = func.outputs.iter().zip(outputs);
    named.map(|(out, tensor)| (out.name.to_string(), (tensor.shape().to_vec(), tensor.to_f64s()))).collect()
}

#[test]
fn layers_of_other_sizes() {
    let names = [
        "mhc_paper",
        "mhc_peers",
        "mhc_tile",
        "mhc_tile_bf16",
        "mhc_tile_head",
        "mhc_expand",
        "mhc_paper_stack",
        "lucid_mhc",
    ];
    for name in names {
        let module = spec(name);
        for n in [1, 2, 3, 8] {
            for c in [1, 32, 100, 2560] {
                let bound = sized(&module, n, c);
                for tokens in [1, 5] {
                    if n * c > 256 {
                        continue;
                    }
                    for (output, (_, numbers)) in run(&bound, tokens) {
                        let finite = numbers.iter().all(|number| number.is_finite());
                        assert!(finite, "{name} with n = {n}, C = {c}, T = {tokens}: {output}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_sums_normalised_last_are_one() {
    for (name, output, by_rows) in [
        ("sinkhorn_paper", "h", true),
        ("sinkhorn_rowmax", "h", true),
        ("sinkhorn_log", "h", false),
        ("mhc_paper", "res", true),
    ] {
        let module = spec(name);
        for n in [1usize, 2, 3, 4, 8] {
            let outputs = run(&sized(&module, n as i64, 4), 7);
            let (shape, numbers) = &outputs[output];
            assert_eq!(shape, &[7, n, n]);
            for (matrix, line) in (0..7 * n).map(|place| (place / n, place % n)) {
                let at = |along: usize| {
                    let (row, column) = if by_rows { (line, along) } else { (along, line) };
                    numbers[(matrix * n + row) * n + column]
                };
                let sum: f64 = (0..n).map(at).sum();
                assert!((sum - 1.0).abs() < 1e-6, "{name} with n = {n}: {sum}");
                assert!(n > 1 || sum == 1.0, "one stream mixes with exactly 1, {name} says {sum}");
            }
        }
    }
}
