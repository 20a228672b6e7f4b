//! What holds for every row of the op table: it has a sample, which prints, parses, verifies and runs.

use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::bind::{Bindings, bind};
use birkhoff_ir::tensor::build::Builder;
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_ir::tensor::random::random_input;
use birkhoff_ir::tensor::samples::sample;
use birkhoff_ir::tensor::text::{default_attr, parse, print};
use birkhoff_ir::tensor::{FuncId, Module, OpKind, verify};

fn samples() -> Vec<(OpKind, Module, FuncId)> {
    OpKind::all()
        .map(|kind| {
            let (module, id) = sample(kind).unwrap_or_else(|errors| panic!("{}: {errors}", kind.name()));
            (kind, module, id)
        })
        .collect()
}

/// The outputs of a sample for random inputs, all floats of `float`.
fn outputs(module: &Module, id: FuncId, float: DType) -> Vec<Tensor> {
    let bound = bind(module, &Bindings { float: Some(float), ..Bindings::default() }).unwrap();
    let sizes = SizeEnv::from([("T".into(), 5)]);
    let func = bound.func(id);
    let inputs: Vec<Tensor> = func
        .inputs
        .iter()
        .zip(func.input_values())
        .map(|(input, value)| {
            let ty = func.ty(value);
            let shape: Vec<usize> = ty.shape.iter().map(|dim| dim.eval(&sizes).unwrap() as usize).collect();
            random_input(3, &input.name, input.domain, ty.dtype, &shape).unwrap()
        })
        .collect();
    eval(&bound, id, &sizes, &inputs).unwrap_or_else(|error| panic!("{}", error.message))
}

#[test]
fn names_are_unique_and_defaults_are_of_their_kind() {
    let mut names: Vec<&str> = OpKind::all().map(OpKind::name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    for kind in OpKind::all() {
        assert_eq!(OpKind::from_name(kind.name()), Some(kind));
        for spec in kind.attrs() {
            assert_eq!(default_attr(spec).is_some(), spec.default.is_some(), "{} {}", kind.name(), spec.name);
        }
    }
}

#[test]
fn every_op_prints_and_parses() {
    for (kind, module, _) in samples() {
        let printed = print(&module);
        let parsed =
            parse(&printed).unwrap_or_else(|errors| panic!("{}", errors.render(kind.name(), &printed)));
        assert_eq!(print(&parsed), printed);
        verify(&parsed).unwrap_or_else(|errors| panic!("{}", errors.render(kind.name(), &printed)));
        let ops = |module: &Module| -> Vec<_> {
            module.funcs.iter().flat_map(|func| func.nodes.iter().map(|node| node.op.clone())).collect()
        };
        assert_eq!(ops(&parsed), ops(&module));
        assert_eq!(ops(&parsed).last().map(|op| op.kind), Some(kind));
    }
}

#[test]
fn every_op_runs_in_every_float() {
    for (kind, module, id) in samples() {
        let exact = outputs(&module, id, DType::F64);
        for float in [DType::F32, DType::Bf16, DType::F16] {
            let tolerance = match float {
                DType::F32 => 1e-4,
                DType::F16 => 0.05,
                _ => 0.3,
            };
            for (out, exact) in outputs(&module, id, float).iter().zip(&exact) {
                assert_eq!(out.shape(), exact.shape());
                // What depends on the bits of its operands has no limit as they become exact.
                if matches!(
                    kind.name(),
                    "floor" | "sign" | "eq" | "ne" | "lt" | "le" | "solve" | "qr" | "newton_schulz"
                ) {
                    continue;
                }
                for (found, expected) in out.to_f64s().iter().zip(exact.to_f64s()) {
                    let close = (found - expected).abs() <= tolerance * expected.abs().max(1.0);
                    assert!(close, "{} in {float}: {found} instead of {expected}", kind.name());
                }
            }
        }
    }
}

/// The expansion written out as a function of its own gives bit for bit what the op gives.
#[test]
fn composites_are_their_expansions() {
    for (kind, module, id) in samples().into_iter().filter(|(kind, _, _)| kind.is_composite()) {
        let func = module.func(id).clone();
        let node = func.nodes.last().cloned().unwrap();
        let mut expanded = Module { funcs: vec![], ..module.clone() };
        let mut shell = func.clone();
        shell.nodes.clear();
        shell.outputs.clear();
        shell.values.truncate(shell.inputs.len());
        let mut builder = Builder::resume(&mut expanded, shell);
        let results = builder.expand(&node.op, &node.args).unwrap();
        for (out, result) in func.outputs.iter().zip(results) {
            assert_eq!(builder.ty(result), func.ty(out.value), "{}", kind.name());
            builder.output(out.name.clone(), result).unwrap();
        }
        let expanded_id = builder.finish();
        verify(&expanded).unwrap_or_else(|errors| panic!("{}", errors.render(kind.name(), "")));
        let printed = print(&expanded);
        let parsed =
            parse(&printed).unwrap_or_else(|errors| panic!("{}", errors.render(kind.name(), &printed)));
        let (direct, written) = (outputs(&module, id, DType::F32), outputs(&parsed, expanded_id, DType::F32));
        let bits = |outs: &[Tensor]| outs.iter().map(Tensor::to_le_bytes).collect::<Vec<_>>();
        assert_eq!(bits(&direct), bits(&written), "{}", kind.name());
    }
}
