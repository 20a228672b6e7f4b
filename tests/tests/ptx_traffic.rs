//! Bytes on a GPU: what is predicted for each kernel against what the simulated device counts, and 128 bits at a time.
#![cfg(feature = "ptx")]

use birkhoff::{Spec, Syntax};
use birkhoff_codegen::ptx::traffic::predict;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::plan::Program;
use birkhoff_tests::device::{gradient, image, program, run};
use birkhoff_tests::golden::folder;

fn spec(path: &str) -> Spec {
    Spec::load(folder(path)).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs the plan and compares every launch with its prediction, to the byte; gives the edge bytes of the first kernel.
fn assert_predicted(program: &Program, sizes: &SizeEnv) -> u64 {
    let image = image(program);
    let launches = run(program, sizes, &image, &image.ptx);
    let launches = launches.unwrap_or_else(|error| panic!("{}: {error}", program.name));
    let mut wrong = vec![];
    for (kernel, counts) in &launches {
        let func = &program.kernels[*kernel];
        let moved = predict(func, &image.kernels[*kernel], sizes);
        let moved = moved.unwrap_or_else(|error| panic!("{error:?}"));
        let sum = |side: fn(&birkhoff_ir::kernel::traffic::ParamTraffic) -> u64| {
            moved.params.per_param.iter().map(side).sum::<u64>()
        };
        let expected = [
            sum(|param| param.issued_read) + moved.workspace_read,
            sum(|param| param.issued_written) + moved.workspace_written,
        ];
        let found = [counts.block_loaded_bytes, counts.stored_bytes];
        if expected != found {
            wrong.push(format!("{}: {found:?} bytes, predicted {expected:?}", func.name));
        }
        assert_eq!(counts.local_bytes, 0, "{}", func.name);
        if moved.workspace_written == 0 {
            let edge = [sum(|param| param.edge_read), sum(|param| param.edge_written)];
            let distinct = [counts.distinct_loaded_bytes, counts.distinct_stored_bytes];
            assert_eq!(edge, distinct, "{}: distinct bytes", func.name);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let first = &program.kernels[0];
    predict(first, &image.kernels[0], sizes).expect("a prediction").params.edge_bytes()
}

fn sizes(tokens: i64) -> SizeEnv {
    SizeEnv::from([("T".into(), tokens)])
}

#[test]
fn the_layer_issues_what_is_predicted() {
    let (n, width, n_tokens) = (4u64, 2560u64, 11u64);
    let layer = program(&spec("../examples/mhc_layer.toml")).expect("a plan");
    assert_eq!(layer.kernels.len(), 1);
    let streams = n_tokens * (2 * n * width + 2 * width);
    let parameters = n * width * (n * n + 2 * n) + 3 + 2 * n + n * n;
    assert_eq!(assert_predicted(&layer, &sizes(n_tokens as i64)), 4 * (streams + parameters));
}

/// The layer with its streams in bf16.
fn bf16() -> Spec {
    let path = folder("../examples/mhc_layer.toml");
    let text = std::fs::read_to_string(&path).expect("the example");
    let dtypes = "[dtypes]\nstorage = \"bf16\"\nweights = \"f32\"\ncompute = \"f32\"\n";
    let spec = Spec::parse(Syntax::Toml, "mhc_layer_bf16.toml", &format!("{text}\n{dtypes}"));
    spec.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_layer_in_bf16_issues_what_is_predicted() {
    let layer = program(&bf16()).expect("a plan");
    assert_predicted(&layer, &sizes(11));
}

#[test]
fn gradients_of_the_layer_issue_what_is_predicted() {
    let spec = spec("../examples/mhc_layer.toml").set("iters", 3);
    let gradient = program(&gradient(&spec).expect("gradients")).expect("a plan");
    assert_predicted(&gradient, &sizes(1));
}

#[test]
fn gradients_of_the_layer_in_bf16_issue_what_is_predicted() {
    let gradient = gradient(&bf16().set("iters", 3)).expect("gradients");
    let gradient = program(&gradient).expect("a plan");
    assert_predicted(&gradient, &sizes(1));
}

/// Loads and stores of streams in the layer take 16 bytes of a thread; where bf16 streams meet the sums of the projections, a
/// thread has registers for 8 bytes of them.
#[test]
fn the_layer_moves_128_bits_at_a_time() {
    // Scalars are single.
    for (name, most_narrow) in [("mhc_layer", 4), ("mhc_tilekernels", 20)] {
        let program = program(&spec(&format!("../examples/{name}.toml"))).expect("a plan");
        let image = image(&program);
        let accesses = |what: &str| image.ptx.lines().filter(|line| line.contains(what)).count();
        let wide = |what: &str| {
            let lines = image.ptx.lines().filter(|line| line.contains(what));
            lines
                .filter(|line| {
                    line.contains(".v4.f32") || line.contains(".v4.b32") || line.contains(".v4.u32")
                })
                .count()
        };
        let (stores, wide_stores) = (accesses("st.global"), wide("st.global"));
        let (loads, wide_loads) = (accesses("ld.global"), wide("ld.global"));
        assert_eq!(stores, wide_stores, "{}", program.name);
        assert!(loads - wide_loads <= most_narrow, "{}: {wide_loads} of {loads} loads", program.name);
        assert!(wide_loads > 40, "{}: {wide_loads} of {loads} loads", program.name);
    }
}
