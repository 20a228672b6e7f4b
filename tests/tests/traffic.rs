//! Bytes: what the schedule predicts, what the kernel evaluator counts, and what is compulsory.

use birkhoff::{Options, Spec, Stage, lower};
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::kernel::eval::Array;
use birkhoff_ir::plan::{BufferKind, Program, Step, eval, traffic};
use birkhoff_tests::golden::folder;

fn program(spec: &Spec) -> Program {
    let stages = lower(spec, &Options::default(), Stage::Plan, &mut |_| ());
    stages.unwrap_or_else(|error| panic!("{error}")).program.expect("a plan was made")
}

/// Runs the plan in the kernel evaluator and holds the counted bytes against the predicted ones, kernel by kernel.
fn assert_predicted(program: &Program, sizes: &SizeEnv) {
    let inputs: Vec<Array> = program
        .buffers
        .iter()
        .filter(|buffer| buffer.kind == BufferKind::Input)
        .map(|buffer| {
            let shape: Vec<i64> = buffer.shape.iter().map(|dim| dim.eval(sizes).expect("sized")).collect();
            let len = shape.iter().product::<i64>();
            let values: Vec<f64> = (0..len).map(|idx| 0.25 + (idx * 37 % 101) as f64 / 101.0).collect();
            Array::from_f64s(buffer.dtype, &shape, &values).expect("fits")
        })
        .collect();
    let counted = eval::run(program, sizes, &inputs).unwrap_or_else(|error| panic!("{}", error.message));
    let predicted = traffic::predict(program, sizes).unwrap_or_else(|error| panic!("{}", error.message));
    for (kernel, found) in &counted.launches {
        let expected = &predicted[*kernel as usize].per_launch;
        assert_eq!(found, expected, "{}", program.kernels[*kernel as usize].name);
    }
    let predicted =
        traffic::predict_contracts(program, sizes).unwrap_or_else(|error| panic!("{}", error.message));
    for (contract, found) in &counted.contracts {
        assert_eq!(*found, predicted[*contract].per_launch, "contraction {contract}");
    }
}

fn layer() -> Spec {
    Spec::load(folder("../examples").join("mhc_layer.toml")).expect("the example is there")
}

#[test]
fn the_layer_moves_what_is_compulsory() {
    let program = program(&layer());
    assert_eq!(program.kernels.len(), 1, "the layer is one kernel");
    let (n, width, n_tokens) = (4u64, 2560u64, 16u64);
    let sizes = SizeEnv::from([("T".into(), n_tokens as i64)]);
    let moved = &traffic::predict(&program, &sizes).expect("predicted")[0].per_launch;
    let edge = |name: &str| {
        let param = moved.param(name).unwrap_or_else(|| panic!("the kernel touches {name}"));
        param.edge_read + param.edge_written
    };
    let streams: u64 = ["x", "y", "h", "out"].into_iter().map(edge).sum();
    assert_eq!(streams, n_tokens * (2 * n * width + 2 * width) * 4);
    let parameters: u64 =
        ["phi", "a_pre", "a_post", "a_res", "b_pre", "b_post", "b_res"].into_iter().map(edge).sum();
    assert_eq!(parameters, 4 * (n * width * (n * n + 2 * n) + 3 + 2 * n + n * n));
    assert_eq!(moved.edge_bytes(), streams + parameters, "nothing else is touched");
    // Each output element is stored once.
    for name in ["h", "out"] {
        let param = moved.param(name).expect("an output");
        assert_eq!(param.issued_written, param.edge_written, "{name}");
    }
    assert_predicted(&program, &sizes);
}

/// In a stack of layers around branches that large products compute, the end of a layer and the beginning of the next are one
/// kernel, found from the plain loop of layers: a token's streams and the branch's result are read once, the next streams and
/// the next input of the branch written once, and beside them go the coefficients of post and res.
#[test]
fn a_boundary_between_layers_reads_and_writes_every_stream_once() {
    let spec = Spec::load(folder("../examples").join("mhc_stack.toml")).expect("the example is there");
    let program = program(&spec.dim("layers", 3));
    let body = program.steps.iter().find_map(|step| match step {
        Step::Loop { body, .. } => Some(body),
        _ => None,
    });
    let per_token = |kernel: u32| {
        let bytes = |n_tokens: i64| {
            let sizes = SizeEnv::from([("T".into(), n_tokens)]);
            traffic::predict(&program, &sizes).expect("predicted")[kernel as usize].per_launch.edge_bytes()
        };
        bytes(65) - bytes(64)
    };
    let (n, width) = (4u64, 256u64);
    let kernels: Vec<u64> = body
        .expect("layers are a loop of the plan")
        .iter()
        .filter_map(|step| match step {
            Step::Launch { kernel, .. } => Some(per_token(*kernel)),
            _ => None,
        })
        .collect();
    let hidden = 1024;
    // The branch's activation between its two products, then the boundary.
    assert_eq!(kernels, [4 * 2 * hidden, 4 * (2 * (n + 1) * width + 2 * (n + n * n))]);
    assert_predicted(&program, &SizeEnv::from([("T".into(), 5)]));
}

#[test]
fn predictions_hold_for_other_kernels_and_tails() {
    for (name, dims, sizes) in [
        ("mhc_paper.toml", vec![("n", 3), ("C", 33)], vec![("T", 19)]),
        ("mhc_tile.toml", vec![("n", 4), ("C", 64)], vec![("T", 9)]),
        ("mhc_tile_bf16.toml", vec![("n", 4), ("C", 64)], vec![("T", 5)]),
        ("sinkhorn_paper.toml", vec![("n", 4)], vec![("B", 531)]),
        ("sinkhorn_log.toml", vec![("n", 4)], vec![("B", 7)]),
        ("mhc_paper_stack.toml", vec![("layers", 3), ("n", 4), ("C", 100)], vec![("T", 9)]),
    ] {
        let mut spec = Spec::load(folder("specs").join(name)).expect("the spec is there");
        for (dim, value) in dims {
            spec = spec.dim(dim, value);
        }
        let sizes: SizeEnv = sizes.into_iter().map(|(name, value)| (name.into(), value)).collect();
        assert_predicted(&program(&spec), &sizes);
    }
}

/// A layer written in primitives alone becomes the very kernels of the one written with composites.
#[test]
fn primitives_and_composites_become_the_same_kernels() {
    let spec = Spec::load(folder("specs").join("mhc_paper.toml"))
        .expect("the spec is there")
        .dim("n", 4)
        .dim("C", 100);
    let stages = lower(&spec, &Options::default(), Stage::Tensor, &mut |_| ())
        .unwrap_or_else(|error| panic!("{error}"));
    let (module, func) = stages.tensor.expect("a module");
    let (flat, id) = birkhoff_compiler::expand::expand(&module, func).expect("expands");
    assert!(flat.func(id).nodes.iter().all(|node| !node.op.kind.is_composite()));
    let (with, without) = (program(&spec), program(&Spec::from_module(flat)));
    assert_eq!(with.kernels.len(), without.kernels.len());
    assert_eq!(
        birkhoff_ir::plan::text::print(&with),
        birkhoff_ir::plan::text::print(&without),
        "the plans differ"
    );
}
