//! Loops rotated: which ones can be, that they mean the same, and what it saves.

mod plans;

use birkhoff_compiler::expand::expand;
use birkhoff_compiler::lower::price::{KernelCost, Planner};
use birkhoff_compiler::rotate::rotate;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::plan::{Program, Step, traffic};
use birkhoff_ir::tensor::autodiff::functions::{Of, Reverse, reverse};
use birkhoff_ir::tensor::bind::{Bindings, bind};
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_ir::tensor::random::random_input;
use birkhoff_ir::tensor::verify::verify;
use birkhoff_ir::tensor::{FuncId, Input, Module, OpKind, ValueId, text};
use plans::{check, sizes};

/// Layers around a branch `tanh(h w)`: weights are slices of stacks, the gain is the same in all layers. With `stacked`, what
/// layers begin with, coefficients, and inputs and results of branches are results, too.
fn stack(trip: i64, scan: &str, stacked: bool) -> String {
    let (type_of, returns, results, main, all) = match stacked {
        true => (
            ", was: f32[T,2,64], pre: f32[T,2], h: f32[T,64], y: f32[T,64]",
            ", was = x, pre = pre, h = h, y = y",
            "out, xs, pres, hs, ys".to_string(),
            format!(
                ", xs: f32[{trip},T,2,64], pres: f32[{trip},T,2], hs: f32[{trip},T,64], ys: f32[{trip},T,64]"
            ),
            ", xs = xs, pres = pres, hs = hs, ys = ys",
        ),
        false => ("", "", "out".to_string(), String::new(), ""),
    };
    format!(
        "
dim T in 1..=1000 default 300
fn @layer(%x: f32[T,2,64], %phi: f32[128,4], %w: f32[64,64], %gain: f32[64]) -> (x: f32[T,2,64]{type_of}) {{
  flat = reshape(x, shape=[T,128])
  c = tanh(contract(flat, phi, spec=\"tk,ko->to\", dtype=f32))
  pre = slice(c, axis=1, start=0, end=2)
  post = slice(c, axis=1, start=2, end=4)
  h = contract(pre, x, spec=\"ti,tic->tc\", dtype=f32) * broadcast(gain, shape=[T,64], axes=[1])
  y = tanh(contract(h, w, spec=\"tc,co->to\", dtype=f32))
  add = broadcast(y, shape=[T,2,64], axes=[0,2]) * broadcast(post, shape=[T,2,64], axes=[0,1])
  next = x + add
  return x = next{returns}
}}
export fn @main(%x: f32[T,2,64], %phi: f32[{trip},128,4] ~ normal(0, 0.1), %w: f32[{trip},64,64] ~ normal(0, 0.1), %gain: f32[64]) -> (y: f32[T,2,64]{main}) {{
  {results} = loop(x, phi, w, gain, body=@layer, trip={trip}, carry=1, scan=2{scan})
  return y = out{all}
}}"
    )
}

fn module(source: &str) -> (Module, FuncId) {
    let module = text::parse(source).unwrap_or_else(|why| panic!("{}", why.render("test.bir", source)));
    let bound = bind(&module, &Bindings::default()).expect("binds");
    let (func, _) = bound.exported().next().expect("one function is exported");
    expand(&bound, func).expect("expands")
}

fn rotated(source: &str) -> Option<(Module, FuncId)> {
    let (module, func) = module(source);
    let rotated = rotate(&module, func).unwrap_or_else(|why| panic!("{why}"));
    if let Some((module, _)) = &rotated {
        birkhoff_ir::tensor::verify::verify(module)
            .unwrap_or_else(|why| panic!("{why}\n{}", text::print(module)));
    }
    rotated
}

fn random(module: &Module, func: FuncId, env: &SizeEnv) -> Vec<Tensor> {
    let source = module.func(func);
    let one = |(value, input): (ValueId, &Input)| {
        let ty = source.ty(value);
        let shape: Vec<usize> = ty.shape.iter().map(|dim| dim.eval(env).expect("sized") as usize).collect();
        random_input(3, &input.name, input.domain, ty.dtype, &shape).expect("fits")
    };
    source.input_values().zip(&source.inputs).map(one).collect()
}

/// Rotates, compares every result to the bit, and runs the plan.
fn assert_means_the_same(module: &Module, func: FuncId) {
    let (after, place) = rotate(module, func).expect("rotates").expect("there is a loop to rotate");
    verify(&after).unwrap_or_else(|why| panic!("{why}\n{}", text::print(&after)));
    let env = sizes(&[("T", 5)]);
    let inputs = random(module, func, &env);
    let want = eval(module, func, &env, &inputs).expect("evaluates");
    let got = eval(&after, place, &env, &inputs).expect("evaluates");
    for (out, (want, got)) in module.func(func).outputs.iter().zip(want.iter().zip(&got)) {
        assert_eq!(want.to_f64s(), got.to_f64s(), "{}, to the bit", out.name);
    }
    check(&after, &[], &[("T", 5)], 1e-5);
}

#[test]
fn the_rotated_loop_means_the_same() {
    for trip in [2, 3, 7] {
        for scan in ["", ", reverse=true"] {
            for stacked in [false, true] {
                let (before, func) = module(&stack(trip, scan, stacked));
                assert_means_the_same(&before, func);
            }
        }
    }
}

/// Both loops of a gradient: that of the values, which stacks, and that of the cotangents, which runs backwards, scans the stacks
/// and stacks the gradients of weights.
#[test]
fn the_loops_of_a_gradient_are_rotated() {
    for trip in [2, 5] {
        let (mut before, func) = module(&stack(trip, "", false));
        let ask = Reverse {
            wrt: ["x", "phi", "w"].map(String::from).to_vec(),
            of: Of::AllFloats,
            values: true,
            loops: "stash".into(),
        };
        let joint = reverse(&mut before, func, &ask).expect("has a gradient");
        before.funcs[func.0 as usize].exported = false;
        let (joint, func) = expand(&before, joint).expect("expands");
        let loops = |module: &Module, func: FuncId| {
            let nodes = &module.func(func).nodes;
            nodes.iter().filter(|node| node.op.kind == OpKind::Loop).count()
        };
        assert_eq!(loops(&joint, func), 2);
        assert_means_the_same(&joint, func);
    }
}

/// What a loop stacks and what it reads in every iteration are parts of one array, which nobody copies.
#[test]
fn parts_of_an_array_are_read_and_written_in_their_places() {
    for (order, reverse) in
        [("ys, w", ""), ("w, ys", ", reverse=true"), ("w, ys", ""), ("ys, w", ", reverse=true")]
    {
        let source = format!(
            "fn @step(%x: f32[128,128], %w: f32[1,128,128]) -> (x: f32[128,128], y: f32[128,128]) {{
               m = reshape(w, shape=[128,128])
               n = tanh(contract(x, m, spec=\"ij,jk->ik\", dtype=f32)) + m
               return x = n, y = n
             }}
             export fn @main(%x: f32[128,128], %a: f32[1,128,128]) -> (y: f32[4,128,128]) {{
               w = tanh(a)
               out, ys = loop(x, w, body=@step, trip=3, carry=1, scan=0{reverse})
               z = concat({order}, axis=0)
               return y = z
             }}"
        );
        let (module, _) = module(&source);
        let program = check(&module, &[], &[], 1e-5);
        let copies = program.kernels.iter().filter(|kernel| kernel.name.starts_with("copy_"));
        assert_eq!(copies.count(), 1, "only the first state is copied: {order}{reverse}");
    }
}

#[test]
fn what_cannot_be_rotated_stays() {
    for (why, source) in [
        ("one iteration", stack(1, "", false)),
        ("no large product", stack(3, "", false).replace("64", "8").replace("128", "16")),
    ] {
        assert!(rotated(&source).is_none(), "{why}");
    }
}

/// Bytes per token that the kernels of one iteration move, but for what all tokens share.
fn bytes_per_token(program: &Program) -> u64 {
    let body = program.steps.iter().find_map(|step| match step {
        Step::Loop { body, .. } => Some(body),
        _ => None,
    });
    let moved = |n_tokens: i64| -> u64 {
        let per_kernel = traffic::predict(program, &sizes(&[("T", n_tokens)])).expect("predicts");
        let steps = body.expect("there is a loop").iter();
        let all = steps.flat_map(|step| std::iter::once(step).chain(step.body()));
        let launches = all.filter_map(|step| match step {
            Step::Launch { kernel, .. } => Some(per_kernel[*kernel as usize].per_launch.edge_bytes()),
            _ => None,
        });
        launches.sum()
    };
    moved(101) - moved(100)
}

#[test]
fn the_stream_is_read_once_a_layer() {
    let (before, func) = module(&stack(7, "", false));
    let planned = Planner::new(KernelCost::default()).plan(&before, func).expect("plans");
    let rotation = planned.rotation.expect("there was something to decide");
    assert!(rotation.rotates(), "{rotation:?}");
    // Two streams and the branch are read, two streams and the next input of the branch are written; two scales both.
    assert_eq!(bytes_per_token(&planned.program), 4 * (2 * (2 + 1) * 64 + 2 * 2));
    let as_written =
        birkhoff_compiler::lower::lower(&before, func, &KernelCost::default().target).expect("lowers");
    assert!(bytes_per_token(&as_written) >= 4 * (7 * 64 + 4), "the stream is read twice as it is written");
    // Weights are read where they are.
    let copies = planned.program.kernels.iter().filter(|kernel| kernel.name.starts_with("copy_"));
    assert_eq!(
        copies.count(),
        3,
        "only the first state is copied: streams, scales, and the input of the branch"
    );
}
