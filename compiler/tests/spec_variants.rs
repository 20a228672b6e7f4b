//! Variants of stacks that no golden file covers, in the evaluator against loops written here: static and unconstrained
//! matrices, mixtures of permutations, orthostochastic matrices, projections per stream, branches, depth, ends of the stack.

use birkhoff_compiler::spec::parse;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::bind::{Bindings, bind};
use birkhoff_ir::tensor::eval::{Tensor, eval};
use std::collections::BTreeMap;

const T: usize = 3;
const N: usize = 2;
const C: usize = 5;

const HEAD: &str = r#"
[dims]
n = 2
C = 5
L = 3
K = 2
F = 4
T = { run = [1, 64], default = 3 }

[dtypes]
storage = "f64"

[stack.s]
streams = "x"
tokens = "T"
n = "n"
width = "C"
"#;

/// Tensors by name.
type Named = BTreeMap<String, Vec<f64>>;

/// Runs the first function of the spec on numbers that depend on each input's name only; returns inputs and outputs.
fn run(tables: &str) -> (Named, Named) {
    let source = format!("{HEAD}{tables}");
    let module = parse(&source).unwrap_or_else(|errors| panic!("{}", errors.render("variant.toml", &source)));
    let bound = bind(&module, &Bindings::default()).expect("all dims have values");
    let (id, func) = bound.exported().next().expect("a function");
    let sizes = SizeEnv::from([("T".into(), T as i64)]);
    let (mut inputs, mut tensors) = (Named::new(), vec![]);
    for (input, value) in func.inputs.iter().zip(func.input_values()) {
        let shape: Vec<usize> =
            func.ty(value).shape.iter().map(|dim| dim.eval(&sizes).expect("a size") as usize).collect();
        let mut state =
            input.name.bytes().fold(7u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let numbers: Vec<f64> = (0..shape.iter().product())
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
            })
            .collect();
        tensors.push(Tensor::from_f64s(DType::F64, shape, &numbers).expect("a tensor"));
        inputs.insert(input.name.to_string(), numbers);
    }
    let results = eval(&bound, id, &sizes, &tensors).expect("an evaluation");
    let named =
        func.outputs.iter().zip(results).map(|(out, tensor)| (out.name.to_string(), tensor.to_f64s()));
    (inputs, named.collect())
}

fn assert_near(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (idx, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!((got - expected).abs() < 1e-12, "element {idx} is {got}, expected {expected}");
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `out[t,o,c] = sum_i res(t,o,i) x[t,i,c] + post(t,o) y[t,c]`.
fn mixed(
    x: &[f64],
    y: &[f64],
    res: impl Fn(usize, usize, usize) -> f64,
    post: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let mut out = vec![];
    for t in 0..T {
        for o in 0..N {
            for c in 0..C {
                let sum: f64 = (0..N).map(|i| res(t, o, i) * x[(t * N + i) * C + c]).sum();
                out.push(sum + post(t, o) * y[t * C + c]);
            }
        }
    }
    out
}

const STATIC_PRE: &str = r#"
pre = { static = true, bias = "b_pre", activation = "none" }
post = { static = true, bias = "b_post", activation = "tanh", multiplier = 3 }
branch = { input = "y" }
"#;

const LAYER: &str = "\n[fn.f]\nstack = \"s\"\npart = \"layer\"\noutputs = [\"res\", \"h\", \"out\"]\n";

#[test]
fn static_matrix_read_by_sources() {
    let (i, o) = run(&format!(
        "{STATIC_PRE}[stack.s.res]\nstatic = true\nbias = \"H\"\norientation = \"source_rows\"\nunconstrained = true\n{LAYER}"
    ));
    let h: Vec<f64> = (0..T * C)
        .map(|place| (0..N).map(|s| i["b_pre"][s] * i["x"][(place / C * N + s) * C + place % C]).sum())
        .collect();
    assert_near(&o["h"], &h);
    let out = mixed(&i["x"], &i["y"], |_, o, s| i["H"][s * N + o], |_, o| 3.0 * i["b_post"][o].tanh());
    assert_near(&o["out"], &out);
}

#[test]
fn mixture_of_permutations() {
    let (i, o) = run(&format!(
        "projection = {{ layout = \"out_in\" }}\n{STATIC_PRE}[stack.s.res]\nweight = \"w\"\nbias = \"b\"\norientation = \"target_rows\"\n\
         birkhoff = {{ permutations = \"p\", terms = \"K\" }}\n{LAYER}"
    ));
    let weights = |t: usize| {
        let logits: Vec<f64> = (0..2)
            .map(|k| {
                i["b"][k] + (0..N * C).map(|e| i["w"][k * N * C + e] * i["x"][t * N * C + e]).sum::<f64>()
            })
            .collect();
        let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
        logits.into_iter().map(|logit| logit.exp() / total).collect::<Vec<f64>>()
    };
    let res =
        |t: usize, o: usize, s: usize| (0..2).map(|k| weights(t)[k] * i["p"][(k * N + o) * N + s]).sum();
    assert_near(&o["out"], &mixed(&i["x"], &i["y"], res, |_, o| 3.0 * i["b_post"][o].tanh()));
}

#[test]
fn squares_of_an_orthogonal_matrix_are_doubly_stochastic() {
    let (_, o) = run(&format!(
        "{STATIC_PRE}[stack.s.res]\nstatic = true\nbias = \"w\"\norientation = \"target_rows\"\n\
         orthostochastic = {{ iters = 40 }}\n{LAYER}"
    ));
    let res = &o["res"];
    assert_near(&[res[0] + res[1], res[2] + res[3], res[0] + res[2], res[1] + res[3]], &[1.0; 4]);
    assert!(res.iter().all(|value| *value >= 0.0));
}

#[test]
fn each_stream_projected_alone() {
    let (i, o) = run("norm = { per = \"stream\", eps = 0.25, weight = \"g\" }\n\
         projection = { per = \"stream\", layout = \"in_out\", weight = \"w\", columns = [\"post\", \"res\", \"pre\"], scale = \"a\", bias = \"b\" }\n\
         pre = { activation = \"sigmoid\", eps = 0.125 }\npost = { activation = \"none\" }\nbranch = { input = \"y\" }\n\
         [stack.s.res]\norientation = \"source_rows\"\nunconstrained = true\n\
         [fn.f]\nstack = \"s\"\npart = \"layer\"\noutputs = [\"pre\", \"post\", \"res\", \"out\"]\n");
    // Columns: post, res (2), pre.
    let logit = |t: usize, s: usize, column: usize, scale: usize| {
        let x = &i["x"][(t * N + s) * C..][..C];
        let root = (x.iter().map(|value| value * value).sum::<f64>() / C as f64 + 0.25).sqrt();
        let raw: f64 = (0..C).map(|k| x[k] / root * i["g"][k] * i["w"][k * 4 + column]).sum();
        i["a"][scale] * raw + i["b"][s * 4 + column]
    };
    let each = |column: usize, scale: usize| -> Vec<f64> {
        (0..T * N).map(|place| logit(place / N, place % N, column, scale)).collect()
    };
    assert_near(&o["post"], &each(0, 0));
    let pre: Vec<f64> = each(3, 2).into_iter().map(|value| sigmoid(value) + 0.125).collect();
    assert_near(&o["pre"], &pre);
    let out = mixed(&i["x"], &i["y"], |t, o, s| logit(t, s, 1 + o, 1), |t, o| logit(t, o, 0, 0));
    assert_near(&o["out"], &out);
}

#[test]
fn branches_normalise_and_map() {
    let (i, o) = run(
        "pre = { static = true, bias = \"b_pre\", activation = \"none\" }\npost = { static = true, bias = \"b_post\", activation = \"none\" }\n\
         [stack.s.branch]\nnorm = { kind = \"layer\", eps = 0.5, weight = \"g\", bias = \"c\" }\n\
         mlp = { hidden = \"F\", up = \"up\", down = \"down\", layout = \"out_in\", activation = \"relu\", up_bias = \"ub\", down_bias = \"db\" }\n\
         [stack.s.res]\nstatic = true\nbias = \"H\"\norientation = \"target_rows\"\nunconstrained = true\n\
         [fn.f]\nstack = \"s\"\npart = \"layer\"\noutputs = [\"h\", \"y\"]\n",
    );
    let mut y = vec![];
    for h in o["h"].chunks(C) {
        let mean = h.iter().sum::<f64>() / C as f64;
        let var = h.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / C as f64;
        let normal: Vec<f64> =
            (0..C).map(|k| (h[k] - mean) / (var + 0.5).sqrt() * i["g"][k] + i["c"][k]).collect();
        let hidden: Vec<f64> = (0..4)
            .map(|f| ((0..C).map(|k| i["up"][f * C + k] * normal[k]).sum::<f64>() + i["ub"][f]).max(0.0))
            .collect();
        y.extend((0..C).map(|c| (0..4).map(|f| i["down"][c * 4 + f] * hidden[f]).sum::<f64>() + i["db"][c]));
    }
    assert_near(&o["y"], &y);
}

#[test]
fn depth_of_source_rows_with_both_ends() {
    let (i, o) = run("layers = \"L\"\nexpand = \"hidden\"\nreduce = \"mean\"\n\
         pre = { static = true, bias = \"b_pre\", activation = \"none\" }\npost = { static = true, bias = \"b_post\", activation = \"none\" }\n\
         branch = { input = \"y\" }\n\
         [stack.s.res]\nstatic = true\nbias = \"H\"\norientation = \"source_rows\"\nunconstrained = true\n\
         [fn.f]\nstack = \"s\"\npart = \"stack\"\noutputs = [\"out\", \"reduced\", \"prod\", \"row_gain\", \"col_gain\", \"h\"]\n");
    let mut x: Vec<f64> = (0..T * N * C).map(|place| i["hidden"][place / (N * C) * C + place % C]).collect();
    let mut prod = [1.0, 0.0, 0.0, 1.0];
    let mut hs = vec![];
    for l in 0..3 {
        let matrix = &i["H"][l * 4..][..4];
        let pre = &i["b_pre"][l * N..][..N];
        hs.extend(
            (0..T * C)
                .map(|place| (0..N).map(|s| pre[s] * x[(place / C * N + s) * C + place % C]).sum::<f64>()),
        );
        x = mixed(
            &x,
            &i["y"][l * T * C..][..T * C],
            |_, o, s| matrix[s * N + o],
            |_, o| i["b_post"][l * N + o],
        );
        let before = prod;
        for o in 0..N {
            for j in 0..N {
                prod[o * N + j] = (0..N).map(|s| matrix[s * N + o] * before[s * N + j]).sum();
            }
        }
    }
    assert_near(&o["out"], &x);
    assert_near(&o["h"], &hs);
    assert_near(&o["prod"], &prod);
    let reduced: Vec<f64> = (0..T * C)
        .map(|place| (0..N).map(|s| x[(place / C * N + s) * C + place % C]).sum::<f64>() / N as f64)
        .collect();
    assert_near(&o["reduced"], &reduced);
    assert_near(&o["row_gain"], &[(prod[0] + prod[1]).abs().max((prod[2] + prod[3]).abs())]);
    assert_near(&o["col_gain"], &[(prod[0] + prod[2]).abs().max((prod[1] + prod[3]).abs())]);
}

#[test]
fn boundary_is_post_then_pre() {
    let tables = "norm = { eps = 1e-6 }\nprojection = { layout = \"in_out\", weight = \"phi\" }\n\
         pre = { bias = \"b_pre\", activation = \"sigmoid\" }\npost = { activation = \"sigmoid\" }\nbranch = { input = \"y\" }\n\
         [stack.s.res]\norientation = \"target_rows\"\nsinkhorn = { form = \"exp\", first = \"rows\", iters = 3, eps = 0.5 }\n";
    let (i, o) = run(&format!(
        "{tables}[fn.f]\nstack = \"s\"\npart = \"boundary\"\ninputs = {{ comb = \"res\" }}\noutputs = [\"out\", \"h\", \"pre\"]\n"
    ));
    let out = mixed(&i["x"], &i["y"], |t, o, s| i["comb"][(t * N + o) * N + s], |t, o| i["post"][t * N + o]);
    assert_near(&o["out"], &out);
    let mut h = vec![];
    for t in 0..T {
        let x = &out[t * N * C..][..N * C];
        let root = (x.iter().map(|value| value * value).sum::<f64>() / (N * C) as f64 + 1e-6).sqrt();
        let columns = 2 * N + N * N;
        let pre: Vec<f64> = (0..N)
            .map(|s| {
                let raw: f64 = (0..N * C).map(|k| x[k] / root * i["phi"][k * columns + s]).sum();
                sigmoid(raw + i["b_pre"][s])
            })
            .collect();
        assert_near(&o["pre"][t * N..][..N], &pre);
        h.extend((0..C).map(|c| (0..N).map(|s| pre[s] * x[s * C + c]).sum::<f64>()));
    }
    assert_near(&o["h"], &h);
}
