//! Bytes: what the schedule predicts, what the kernel evaluator counts, and what is compulsory.

use birkhoff::{
    Backward, Cotangents, Gradient, Keep, Loops, Options, Spec, Stage, Syntax, compile_differentiable, lower,
};
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::kernel::eval::Array;
use birkhoff_ir::kernel::traffic::Traffic;
use birkhoff_ir::plan::{BufferKind, Program, Step, eval, traffic};
use birkhoff_tests::golden::folder;

fn program(spec: &Spec) -> Program {
    let stages = lower(spec, &Options::default(), Stage::Plan, &mut |_| ());
    stages.unwrap_or_else(|error| panic!("{error}")).program.expect("a plan was made")
}

/// Runs the plan in the kernel evaluator and holds the counted bytes against the predicted ones, kernel by kernel.
fn assert_predicted(program: &Program, sizes: &SizeEnv) {
    compare(program, sizes, &|found, expected, what| assert_eq!(found, expected, "{what}"));
}

/// The same where accesses of a kernel overlap in part, so that predicted edge bytes are an upper bound: of coefficients, and of
/// the slices of a stack that one iteration reads.
fn assert_bounded(program: &Program, sizes: &SizeEnv) {
    compare(program, sizes, &|found, expected, what| {
        assert_eq!(found.issued_bytes(), expected.issued_bytes(), "{what}");
        let (counted, bound) = (found.edge_bytes(), expected.edge_bytes());
        assert!(counted <= bound, "{what}: {counted}, at most {bound}");
    });
}

fn compare(program: &Program, sizes: &SizeEnv, holds: &dyn Fn(&Traffic, &Traffic, &str)) {
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
        holds(found, expected, &program.kernels[*kernel as usize].name);
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
    let program = program(&spec.dim("layers", 8));
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
        .flat_map(|step| std::iter::once(step).chain(step.body()))
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

/// Bytes per token that each kernel of the innermost loop bodies moves, in order, and outside of them.
fn bytes_per_token(program: &Program) -> (Vec<u64>, Vec<u64>) {
    fn launches(steps: &[Step], depth: usize, found: &mut Vec<(u32, usize)>) {
        for step in steps {
            match step {
                Step::Launch { kernel, .. } => found.push((*kernel, depth)),
                Step::Loop { body, .. } => launches(body, depth + 1, found),
                Step::Rows { body, .. } => launches(body, depth, found),
                Step::Unless { .. } | Step::Contract(_) => {}
            }
        }
    }
    let bytes = |n_tokens: i64| {
        let sizes = SizeEnv::from([("T".into(), n_tokens)]);
        traffic::predict(program, &sizes).expect("predicted")
    };
    let (many, few) = (bytes(65), bytes(64));
    let moved = |kernel: u32| {
        many[kernel as usize].per_launch.edge_bytes() - few[kernel as usize].per_launch.edge_bytes()
    };
    let mut found = vec![];
    launches(&program.steps, 0, &mut found);
    let at = |inside: bool| {
        found.iter().filter(|(_, depth)| (*depth > 0) == inside).map(|(kernel, _)| moved(*kernel)).collect()
    };
    (at(true), at(false))
}

/// What each of some kernels moves per token in units of a stream's elements: the slope over two widths, so that coefficients do
/// not count.
fn streams(narrow: &[u64], wide: &[u64], widths: [u64; 2]) -> Vec<u64> {
    assert_eq!(narrow.len(), wide.len(), "the same kernels at both widths");
    let unit = 4 * (widths[1] - widths[0]);
    narrow.iter().zip(wide).map(|(narrow, wide)| (wide - narrow) / unit).collect()
}

const WIDTHS: [u64; 2] = [512, 640];

/// The way back through a stack, differentiated with respect to the parameters of its mixing.
fn stack_backwards(width: u64, loops: Loops) -> Program {
    let wrt = ["phi", "a_pre", "a_post", "a_res", "b_pre", "b_post", "b_res"].map(String::from).to_vec();
    let gradient = Gradient { wrt, cotangents: Cotangents::All, values: true, loops };
    let spec = Spec::load(folder("../examples").join("mhc_stack.toml")).expect("the example is there");
    let spec = spec.dim("C", width as i64).dim("hidden", 2048).dim("layers", 6);
    program(&spec.differentiated(&gradient).expect("has gradients"))
}

/// The way back through the boundary of two layers is one kernel, found from the plain loop of layers: it reads the streams of both,
/// the cotangents of the streams and of the next branch's input, and this branch's result, and writes the cotangents of the
/// streams and of that result: 3n + 2 read, n + 1 written.
#[test]
fn the_way_back_through_a_boundary_reads_and_writes_every_stream_once() {
    let [narrow, wide] = WIDTHS.map(|width| stack_backwards(width, Loops::Stash));
    let found = streams(&bytes_per_token(&narrow).0, &bytes_per_token(&wide).0, WIDTHS);
    let n = 4;
    // Of the values: the activation between the products of the branch, whose width is the same here, and the boundary. Of the
    // gradients: copies of weights, the activation again, the boundary, sums of chunks, and the gradient of phi.
    assert_eq!(found, [0, 2 * n + 2, 0, 0, 0, 0, 4 * n + 3, 0, n], "{found:?}");
    assert_bounded(&narrow, &SizeEnv::from([("T".into(), 3)]));
}

/// States that are made again, a block of layers at a time, are made on chip: a result of a branch is read and the streams are
/// written, once for each layer; the streams at the beginning of a block are read once.
#[test]
fn layers_are_made_again_from_their_branches_alone() {
    let [narrow, wide] = WIDTHS.map(|width| stack_backwards(width, Loops::Rebuild));
    let found = streams(&bytes_per_token(&narrow).0, &bytes_per_token(&wide).0, WIDTHS);
    let (n, block) = (4, 3);
    assert!(found.contains(&(block * (1 + n) + n)), "{found:?}");
    assert_bounded(&narrow, &SizeEnv::from([("T".into(), 3)]));
}

/// The same in a spec of its own, with the next inputs of the branches: one read and n + 1 written.
#[test]
fn a_block_of_layers_around_given_branches_is_one_kernel() {
    let source = r#"
[dims]
n = 4
C = "input"
layers = 8
T = { run = [1, 65536], default = 1024 }

[fn.step.inputs]
x = "f32[T,n,C]"
y = "f32[T,C]"
pre = "f32[T,n]"
post = "f32[T,n]"
res = "f32[T,n,n]"

[fn.step]
export = false
body = """
next = stream_mix(res, x, post, y)
h = einsum("ti,tic->tc", pre, next)
"""
outputs = { x = "next", xs = "next", hs = "h" }

[fn.rebuild.inputs]
x = "f32[T,n,C]"
y = "f32[layers,T,C]"
pre = "f32[layers,T,n]"
post = "f32[layers,T,n]"
res = "f32[layers,T,n,n]"

[fn.rebuild]
body = "last, xs, hs = loop(x, y, pre, post, res, body=@step, trip=layers, carry=1, scan=4)"
outputs = ["xs", "hs"]
"#;
    let [narrow, wide] = WIDTHS.map(|width| {
        let spec = Spec::parse(Syntax::Toml, "rebuild.toml", source).expect("parses");
        bytes_per_token(&program(&spec.dim("C", width as i64))).1
    });
    let (n, layers) = (4, 8);
    assert_eq!(streams(&narrow, &wide, WIDTHS), [n + layers * (1 + n + 1)]);
}

/// Alone, the way back through a boundary is one kernel beside the copy of a parameter. Where the next streams are there they are
/// read, 3n + 2 in all; else they are made again from those of the layer before, and it is 2n + 2.
#[test]
fn a_boundary_alone_is_taken_back_in_one_kernel() {
    let n = 4;
    let boundary = |width: u64| {
        let text = std::fs::read_to_string(folder("../examples").join("mhc_layer.toml")).expect("is there");
        let part = "[fn.boundary]\nstack = \"mhc\"\npart = \"boundary\"\noutputs = [\"out\", \"h\", \"post\", \"res\"]\n";
        let spec = Spec::parse(Syntax::Toml, "boundary.toml", &format!("{text}\n{part}")).expect("parses");
        spec.function("boundary").dim("C", width as i64)
    };
    let wrt = ["x", "y", "res", "post"].map(String::from).to_vec();
    let alone = WIDTHS.map(|width| {
        let gradient = Gradient { wrt: wrt.clone(), cotangents: Cotangents::All, ..Gradient::default() };
        bytes_per_token(&program(&boundary(width).differentiated(&gradient).expect("has gradients"))).1
    });
    assert_eq!(streams(&alone[0], &alone[1], WIDTHS), [0, 3 * n + 3]);
    let options = Options::default();
    let kept = WIDTHS.map(|width| {
        let ask = Backward { wrt: wrt.clone(), keep: Keep::Stash, budget_bytes: None };
        let function = compile_differentiable(&boundary(width), &options, &ask).expect("compiles");
        let backward = function.backward().expect("compiles");
        bytes_per_token(backward.program().expect("a plan")).1
    });
    assert_eq!(streams(&kept[0], &kept[1], WIDTHS), [0, 4 * n + 3]);
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
