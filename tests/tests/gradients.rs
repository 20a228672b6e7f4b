//! Gradients as users ask for them: against finite differences in f64 on the machine code, through loops and to second order,
//! the same bits for any number of threads, and code whose size does not depend on iteration counts.

use birkhoff::{Function, Inputs, Options, Pool, Spec, Syntax, compile};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::plan::text::print;
use birkhoff_ir::tensor::Domain;
use birkhoff_ir::tensor::random::random_input;

/// A weighted sum of projected matrices, whose gradient in `m` is a vjp with the cotangent `w`.
fn sinkhorn(attrs: &str, n: usize) -> Spec {
    let text = format!(
        "dim n = {n}\ndim B in 1..=4096 default 6\n\
         export fn @loss(%m: f32[B,n,n], %w: f32[B,n,n]) -> (loss: f32[]) {{\n\
         h = sinkhorn(m, {attrs})\n  return loss = sum(h * w, [0,1,2])\n}}\n"
    );
    Spec::parse(Syntax::Ir, "sinkhorn.bir", &text).unwrap_or_else(|error| panic!("{error}")).float(DType::F64)
}

fn built(spec: &Spec) -> Function {
    compile(spec, &Options::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Normal numbers.
fn normal(name: &str, std: f64, shape: &[usize]) -> Vec<f64> {
    random_input(7, name, Domain::Normal { mean: 0.0, std }, DType::F64, shape).expect("a shape").to_f64s()
}

/// Calls with f64 arrays of one shape each.
fn call(function: &Function, arrays: &[(&str, &[f64], &[i64])], output: &str) -> Vec<f64> {
    let inputs =
        arrays.iter().fold(Inputs::new(), |inputs, (name, data, shape)| inputs.slice(name, data, shape));
    let outputs = function.call(&inputs).unwrap_or_else(|error| panic!("{error}"));
    outputs.slice::<f64>(output).expect("an output of f64").to_vec()
}

/// Fourth-order central differences of `value` at `t = 0`.
fn slope(value: impl Fn(f64) -> f64) -> f64 {
    let h = 1e-3;
    (8.0 * (value(h) - value(-h)) - (value(2.0 * h) - value(-2.0 * h))) / (12.0 * h)
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn moved(x: &[f64], v: &[f64], t: f64) -> Vec<f64> {
    x.iter().zip(v).map(|(x, v)| x + t * v).collect()
}

const FORMS: [&str; 4] = [
    "form=exp, first=columns, shift=columns",
    "form=exp, first=rows, shift=rows, eps=1e-6, stop_shift=true",
    "form=softmax, first=columns, eps=1e-6",
    "form=log, first=rows",
];

#[test]
fn gradients_through_sinkhorn_loops_are_those_of_differences() {
    let (b, n) = (6, 4);
    let shape = [b as i64, n as i64, n as i64];
    for form in FORMS {
        for iters in [1, 5, 20] {
            let spec = sinkhorn(&format!("{form}, iters={iters}"), n);
            let loss = built(&spec);
            let gradient = built(&spec.grad(&["m"]).expect("a gradient"));
            for std in [1.0, 2.0, 4.0] {
                let (m, w, v) = (
                    normal("m", std, &[b, n, n]),
                    normal("w", 1.0, &[b, n, n]),
                    normal("v", 1.0, &[b, n, n]),
                );
                let expected =
                    slope(|t| call(&loss, &[("m", &moved(&m, &v, t), &shape), ("w", &w, &shape)], "loss")[0]);
                let found = call(&gradient, &[("m", &m, &shape), ("w", &w, &shape)], "grad.m");
                // The shift with a stopped gradient matters with eps alone, and by eps.
                let tolerance = if form.contains("stop_shift") { 1e-4 } else { 1e-7 };
                let error = (dot(&found, &v) - expected).abs();
                assert!(
                    error <= tolerance * expected.abs().max(1.0),
                    "{form}, {iters} iterations, deviation {std}: {} for {expected}",
                    dot(&found, &v)
                );
            }
        }
    }
}

#[test]
fn gradients_of_a_converged_projection_have_zero_sums() {
    let (b, n) = (6, 4);
    let shape = [b as i64, n as i64, n as i64];
    let gradient = built(&sinkhorn("form=exp, iters=200", n).grad(&["m"]).expect("a gradient"));
    let (m, w) = (normal("m", 1.0, &[b, n, n]), normal("w", 1.0, &[b, n, n]));
    let found = call(&gradient, &[("m", &m, &shape), ("w", &w, &shape)], "grad.m");
    for matrix in found.chunks(n * n) {
        for i in 0..n {
            let row: f64 = (0..n).map(|j| matrix[i * n + j]).sum();
            let column: f64 = (0..n).map(|j| matrix[j * n + i]).sum();
            assert!(row.abs() < 1e-12 && column.abs() < 1e-12, "sums of {row:e} and {column:e}");
        }
    }
    assert!(found.iter().any(|value| value.abs() > 1e-3), "the gradient vanishes");
}

#[test]
fn hessians_times_vectors_are_differences_of_gradients() {
    let (b, n) = (6, 4);
    let shape = [b as i64, n as i64, n as i64];
    for form in ["form=exp, iters=20", "form=softmax, eps=1e-6, iters=10", "form=log, iters=5"] {
        let spec = sinkhorn(form, n);
        let gradient = built(&spec.clone().grad(&["m"]).expect("a gradient"));
        let product = built(&spec.hvp(&["m"]).expect("a product"));
        let (m, w) = (normal("m", 1.0, &[b, n, n]), normal("w", 1.0, &[b, n, n]));
        let (v, u) = (normal("v", 1.0, &[b, n, n]), normal("u", 1.0, &[b, n, n]));
        let expected = slope(|t| {
            let at = moved(&m, &v, t);
            dot(&call(&gradient, &[("m", &at, &shape), ("w", &w, &shape)], "grad.m"), &u)
        });
        let arrays: [(&str, &[f64], &[i64]); 3] =
            [("m", &m, &shape), ("w", &w, &shape), ("dot.m", &v, &shape)];
        let found = dot(&call(&product, &arrays, "dot.grad.m"), &u);
        assert!((found - expected).abs() <= 1e-7 * expected.abs().max(1.0), "{form}: {found} for {expected}");
    }
}

/// The layer of the examples at a width that tests can afford, with gradients of everything.
fn layer(iters: i64) -> Spec {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/mhc_layer.toml");
    let spec = Spec::load(path).unwrap_or_else(|error| panic!("{error}")).dim("C", 32).set("iters", iters);
    let wrt = ["x", "y", "phi", "a_pre", "a_post", "a_res", "b_pre", "b_post", "b_res"];
    spec.vjp(&wrt).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn gradients_are_the_same_bits_on_any_number_of_threads() {
    let mut seen: Vec<Vec<u8>> = vec![];
    for threads in [1, 2, 3, 7] {
        let options = Options { pool: Some(Pool::new(threads).expect("a pool")), ..Options::default() };
        let function = compile(&layer(20).dim("T", 333), &options).unwrap_or_else(|error| panic!("{error}"));
        let random = function.random_inputs(3).expect("inputs");
        let named = function.signature().inputs.iter().zip(&random);
        let inputs =
            named.fold(Inputs::new(), |inputs, ((name, _), buffer)| inputs.view(name, buffer.view()));
        let outputs = function.call(&inputs).unwrap_or_else(|error| panic!("{error}"));
        seen.push(outputs.iter().flat_map(|(_, buffer)| buffer.view().bytes().to_vec()).collect());
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn code_does_not_grow_with_iterations() {
    let plan = |iters: i64| print(built(&layer(iters)).program().expect("a plan"));
    // Of programs that cost nearly the same, other counts may choose others; none is longer by a part of a loop.
    let lengths = [5, 20, 200].map(|iters| plan(iters).lines().count());
    let (least, most) = (lengths.into_iter().min(), lengths.into_iter().max());
    assert!(most.zip(least).is_some_and(|(most, least)| most <= least + 4), "{lengths:?}");
}

/// What a spec's `derivative` gives is what the library gives.
#[test]
fn specs_of_derivatives_are_those_of_the_library() {
    let source = r#"
        [dims]
        n = 4
        B = { run = [1, 64], default = 6 }

        [fn.match]
        inputs = { m = "f64[B,n,n]", w = "f64[B,n,n]" }
        body = """
        h = sinkhorn(m, iters=7)
        loss = sum(square(h) * w, [0,1,2])
        """
        outputs = ["h", "loss"]

        [fn.grad]
        derivative = { of = "match", kind = "grad", wrt = ["m", "w"], loops = "rerun" }

        [fn.value_and_grad]
        derivative = { of = "match", kind = "value_and_grad", wrt = ["m"] }
        outputs = { cost = "loss", step = "grad.m" }

        [fn.vjp]
        derivative = { of = "match", kind = "vjp", wrt = ["m"], cotangents = ["h"] }

        [fn.jvp]
        derivative = { of = "match", kind = "jvp", wrt = ["w"] }

        [fn.hvp]
        derivative = { of = "match", kind = "hvp", wrt = ["m"] }
    "#;
    let spec = Spec::parse(Syntax::Toml, "match.toml", source).unwrap_or_else(|error| panic!("{error}"));
    let named = |name: &str| built(&spec.clone().function(name));
    let own =
        |derived: Result<Spec, birkhoff::Error>| built(&derived.unwrap_or_else(|error| panic!("{error}")));
    let subject = || spec.clone().function("match");
    let pairs = [
        (named("grad"), own(subject().grad(&["m", "w"])), vec![("grad.m", "grad.m"), ("grad.w", "grad.w")]),
        (
            named("value_and_grad"),
            own(subject().value_and_grad(&["m"])),
            vec![("cost", "loss"), ("step", "grad.m")],
        ),
        (named("vjp"), own(subject().vjp(&["m"])), vec![("h", "h"), ("grad.m", "grad.m")]),
        (named("jvp"), own(subject().jvp(&["w"])), vec![("dot.loss", "dot.loss")]),
        (named("hvp"), own(subject().hvp(&["m"])), vec![("dot.grad.m", "dot.grad.m")]),
    ];
    let shape = [6, 4, 4];
    let array = |name: &str| normal(name, 1.0, &[6, 4, 4]);
    let (m, w, ct, dot_m, dot_w) = (array("m"), array("w"), array("ct"), array("dot.m"), array("dot.w"));
    let (one, zero) = ([1.0], [0.0]);
    for (from_spec, from_library, outputs) in pairs {
        let all: [(&str, &[f64], &[i64]); 7] = [
            ("m", &m, &shape),
            ("w", &w, &shape),
            ("ct.h", &ct, &shape),
            ("dot.m", &dot_m, &shape),
            ("dot.w", &dot_w, &shape),
            ("ct.loss", &zero, &[]),
            ("unused", &one, &[]),
        ];
        let taken = |function: &Function| -> Vec<(&str, &[f64], &[i64])> {
            let names = function.signature().input_names();
            all.iter()
                .copied()
                .filter(|(name, ..)| names.iter().any(|other| other.as_str() == *name))
                .collect()
        };
        for (of_spec, of_library) in outputs {
            let found = call(&from_spec, &taken(&from_spec), of_spec);
            let expected = call(&from_library, &taken(&from_library), of_library);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() <= 1e-12 * expected.abs().max(1.0),
                    "{of_spec}: {found} {expected}"
                );
            }
        }
    }
}
