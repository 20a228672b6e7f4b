//! Equality saturation on whole programs: what it finds, what it must not touch, that it is deterministic and sound.

mod common;

use birkhoff_compiler::cost::{CostModel, Edges};
use birkhoff_compiler::eqsat::{Limits, Math, Optimized, Options, StopReason, Theme, optimize};
use birkhoff_compiler::expand::expand;
use birkhoff_ir::tensor::bind::{Bindings, bind};
use birkhoff_ir::tensor::text::{print, print_func};
use birkhoff_ir::tensor::{Def, Func, FuncId, Module, Node, OpKind, Value, ValueId};
use common::{Contents, Example, compare, inputs_of, parse};

/// Sizes of the layer.
const LAYER_DIMS: &[(&str, i64)] = &[("n", 4), ("C", 64)];

/// One mHC layer in composites.
const LAYER: (&str, &str) = (
    "x: f32[T,n,C], phi: f32[n*C,n*n+2*n], a: f32[3], b: f32[n*n+2*n], y: f32[T,C]",
    "raw = einsum(\"tk,ko->to\", rms_norm(vec(x)), phi)
     pre = sigmoid(slice(raw, axis=1, start=0, end=n) * reshape(slice(a, axis=0, start=0, end=1), []) + slice(b, axis=0, start=0, end=n))
     post = sigmoid(slice(raw, axis=1, start=n, end=2*n) * reshape(slice(a, axis=0, start=1, end=2), []) + slice(b, axis=0, start=n, end=2*n)) * 2.0
     m = reshape(slice(raw, axis=1, start=2*n, end=n*n+2*n) * reshape(slice(a, axis=0, start=2, end=3), []) + slice(b, axis=0, start=2*n, end=n*n+2*n), [T,n,n])
     res = sinkhorn(m, iters=20)
     o = stream_pre(pre, x)
     p = stream_mix(res, x, post, y)",
);

/// The same written in primitives, as somebody else would: reciprocals instead of divisions, the norm over streams and width
/// without a reshape, the mix of streams in another order.
const LAYER_IN_PRIMITIVES: (&str, &str, &str) = (
    "fn @sinkhorn_step(a: f32[T,n,n] ~ uniform(0.1, 1)) -> (a: f32[T,n,n]) {
       c = recip(reduce_sum(a, axes=[1]))
       d = a * broadcast(c, shape=[T,n,n], axes=[0,2])
       r = reduce_sum(d, axes=[2])
       e = d / broadcast(r, shape=[T,n,n], axes=[0,1])
       return a = e
     }",
    "x: f32[T,n,C], phi: f32[n*C,n*n+2*n], a: f32[3], b: f32[n*n+2*n], y: f32[T,C]",
    "ms = reduce_sum(reduce_sum(x * x, axes=[2]), axes=[1]) / const(value=256.0, dtype=f32)
     s = recip(sqrt(ms + 1e-6))
     normed = x * broadcast(s, shape=[T,n,C], axes=[0])
     raw = einsum(\"tk,ko->to\", reshape(normed, [T,n*C]), phi)
     pre = recip(1.0 + exp(neg(slice(raw, axis=1, start=0, end=n) * reshape(slice(a, axis=0, start=0, end=1), []) + slice(b, axis=0, start=0, end=n))))
     post = 2.0 / (1.0 + exp(neg(slice(raw, axis=1, start=n, end=2*n) * reshape(slice(a, axis=0, start=1, end=2), []) + slice(b, axis=0, start=n, end=2*n))))
     m = reshape(slice(raw, axis=1, start=2*n, end=n*n+2*n) * reshape(slice(a, axis=0, start=2, end=3), []) + slice(b, axis=0, start=2*n, end=n*n+2*n), [T,n,n])
     e = exp(m - broadcast(reduce_max(m, axes=[1]), shape=[T,n,n], axes=[0,2]))
     res = loop(e) {body=@sinkhorn_step, trip=20, carry=1}
     o = einsum(\"ti,tic->tc\", pre, x)
     p = einsum(\"toi,tic->toc\", res, x) + broadcast(y, shape=[T,n,C], axes=[0,2]) * broadcast(post, shape=[T,n,C], axes=[0,1])",
);

fn example(arguments: &str, statements: &str, dims: &[(&str, i64)]) -> (Module, FuncId) {
    with_prelude("", arguments, statements, dims)
}

fn with_prelude(prelude: &str, arguments: &str, statements: &str, dims: &[(&str, i64)]) -> (Module, FuncId) {
    parse(&Example { prelude, arguments, statements }, dims).unwrap_or_else(|why| panic!("{why}"))
}

fn run(module: &Module, func: FuncId, options: &Options) -> Optimized {
    optimize(module, func, options, &Edges::default()).unwrap_or_else(|why| panic!("{}", why.message))
}

fn count(func: &Func, kind: OpKind) -> usize {
    func.nodes.iter().filter(|node| node.op.kind == kind).count()
}

/// The function with its nodes in depth-first order of the outputs and without names, to compare programs of different order.
fn canonical(module: &Module, func: &Func) -> String {
    let mut place = vec![None; func.values.len()];
    let mut result =
        Func { nodes: vec![], values: func.values[..func.inputs.len()].to_vec(), ..func.clone() };
    (0..func.inputs.len()).for_each(|idx| place[idx] = Some(ValueId(idx as u32)));
    fn visit(func: &Func, value: ValueId, place: &mut [Option<ValueId>], result: &mut Func) {
        let Def::Node { node, .. } = func.values[value.0 as usize].def else { return };
        if place[value.0 as usize].is_some() {
            return;
        }
        let node = &func.nodes[node as usize];
        node.args.iter().for_each(|arg| visit(func, *arg, place, result));
        let number = result.nodes.len() as u32;
        for (idx, old) in node.results.iter().enumerate() {
            let def = Def::Node { node: number, result: idx as u32 };
            result.values.push(Value { def, name: None, ..func.values[old.0 as usize].clone() });
            place[old.0 as usize] = Some(ValueId(result.values.len() as u32 - 1));
        }
        let moved = |values: &[ValueId]| values.iter().filter_map(|value| place[value.0 as usize]).collect();
        result.nodes.push(Node { args: moved(&node.args), results: moved(&node.results), ..node.clone() });
    }
    for out in &func.outputs {
        visit(func, out.value, &mut place, &mut result);
    }
    for (out, old) in result.outputs.iter_mut().zip(&func.outputs) {
        out.value = place[old.value.0 as usize].expect("visited");
    }
    print_func(module, &result)
}

#[test]
fn the_norm_moves_behind_the_projection() {
    let (module, func) = example(LAYER.0, LAYER.1, LAYER_DIMS);
    let out = run(&module, func, &Options::default());
    let result = out.module.func(out.func);
    assert!(out.report.cost_after.total < out.report.cost_before.total);
    assert_eq!(out.report.stop_reason, StopReason::Saturated);
    assert!(result.nodes.iter().all(|node| !node.op.kind.is_composite()));
    // Nothing of the size of x is divided or scaled before the projection.
    let x = result.ty(ValueId(0)).n_elems();
    let projection =
        result.nodes.iter().position(|node| node.args.contains(&ValueId(1))).expect("phi is read");
    for node in &result.nodes[..projection] {
        let large = result.ty(node.results[0]).n_elems() == x;
        assert!(
            !large
                || matches!(
                    node.op.kind,
                    OpKind::Reshape | OpKind::Scalar(birkhoff_ir::scalar::ScalarOp::Mul)
                ),
            "{}",
            print_func(&out.module, result)
        );
    }
    for tokens in [1, 19] {
        let inputs = inputs_of(&module, func, tokens, Contents::Domain, 3).unwrap();
        compare((&module, func), (&out.module, out.func), tokens, &inputs, 2e-5).unwrap();
    }
}

#[test]
fn composites_and_primitives_meet() {
    let (module, func) = example(LAYER.0, LAYER.1, LAYER_DIMS);
    let (flat, flat_func) = expand(&module, func).expect("expands");
    let composites = run(&module, func, &Options::default());
    let primitives = run(&flat, flat_func, &Options::default());
    assert_eq!(print(&composites.module), print(&primitives.module));
    let (prelude, arguments, statements) = LAYER_IN_PRIMITIVES;
    let (other, other_func) = with_prelude(prelude, arguments, statements, LAYER_DIMS);
    let by_hand = run(&other, other_func, &Options::default());
    let (left, right) = (composites.report.cost_after, by_hand.report.cost_after);
    assert!((left.total / right.total - 1.0).abs() < 1e-3, "{left:?} and {right:?}");
    assert_eq!((left.bytes, left.launches), (right.bytes, right.launches));
    let bodies = |out: &Optimized| {
        let bodies = out.module.funcs.iter().filter(|func| !func.exported);
        bodies.map(|func| canonical(&out.module, func)).collect::<Vec<_>>()
    };
    assert_eq!(bodies(&composites), bodies(&by_hand));
}

/// A program that needs each theme: switching it off must cost something.
#[test]
fn every_theme_earns_its_place() {
    let prelude = "fn @step(a: f32[T,C], w: f32[T,C]) -> (a: f32[T,C]) {\n b = a + tanh(w)\n return a = b\n}";
    let programs: [(Theme, Math, &str, &str); 8] = [
        (Theme::Algebra, Math::Default, "m: f32[T,n,n]", "o = sinkhorn(m, iters=20)"),
        (Theme::Movement, Math::Strict, "x: f32[T]", "o = exp(broadcast(x, shape=[T,C], axes=[0])) + 1.0"),
        (
            Theme::Reductions,
            Math::Default,
            "x: f32[T,n,C]",
            "o = reduce_sum(reduce_sum(exp(x), axes=[2]), axes=[1])",
        ),
        (
            Theme::Contractions,
            Math::Default,
            "x: f32[T,n,C], phi: f32[n*C,n]",
            "o = einsum(\"tk,ko->to\", rms_norm(vec(x)), phi)",
        ),
        (
            Theme::Loops,
            Math::Strict,
            "a: f32[T,C], w: f32[T,C]",
            "o = loop(a, w) {body=@step, trip=20, carry=1}",
        ),
        (
            Theme::DoublyStochastic,
            Math::Default,
            "m: f32[T,n,n], x: f32[T,n,C]",
            "o = stream_reduce(stream_mix(softmax(m, axis=1), x))",
        ),
        (
            Theme::Manifold,
            Math::Fast,
            "x: f32[T,C], v: f32[T,C]",
            "k = broadcast_to(const(value=-1.0, dtype=f32), [T])\n o = log_map(x, exp_map(x, v, k), k)",
        ),
        (Theme::Transcendental, Math::Default, "x: f32[T], y: f32[T]", "o = x / sqrt(y)"),
    ];
    for (theme, math, arguments, statements) in programs {
        let (module, func) = with_prelude(prelude, arguments, statements, &[("n", 4), ("C", 2560)]);
        let with = run(&module, func, &Options { math, ..Options::default() });
        let without = run(&module, func, &Options { math, without: vec![theme], ..Options::default() });
        let (with, without) = (with.report.cost_after.total, without.report.cost_after.total);
        assert!(with < without, "{theme:?}: {with} with, {without} without");
    }
}

#[test]
fn two_runs_are_equal() {
    let (module, func) = example(LAYER.0, LAYER.1, LAYER_DIMS);
    let runs: Vec<Optimized> = (0..2).map(|_| run(&module, func, &Options::default())).collect();
    assert_eq!(print(&runs[0].module), print(&runs[1].module));
    assert_eq!(runs[0].report, runs[1].report);
}

/// The same nodes in another order of definition (as late as possible instead of as written).
#[test]
fn the_order_of_nodes_does_not_matter() {
    let (module, func) = example(LAYER.0, LAYER.1, LAYER_DIMS);
    let (flat, id) = expand(&module, func).expect("expands");
    let source = flat.func(id).clone();
    // Depth first from the last output to the first, operands from the last to the first.
    let mut order: Vec<usize> = vec![];
    fn visit(func: &Func, value: ValueId, order: &mut Vec<usize>) {
        let Def::Node { node, .. } = func.values[value.0 as usize].def else { return };
        if order.contains(&(node as usize)) {
            return;
        }
        func.nodes[node as usize].args.iter().rev().for_each(|arg| visit(func, *arg, order));
        order.push(node as usize);
    }
    source.outputs.iter().rev().for_each(|out| visit(&source, out.value, &mut order));
    assert_ne!(order, (0..source.nodes.len()).collect::<Vec<_>>());
    let mut shuffled =
        Func { nodes: vec![], values: source.values[..source.inputs.len()].to_vec(), ..source.clone() };
    let mut place: Vec<ValueId> = (0..source.values.len() as u32).map(ValueId).collect();
    for number in order {
        let node = &source.nodes[number];
        let args = node.args.iter().map(|arg| place[arg.0 as usize]).collect();
        let mut results = vec![];
        for (idx, old) in node.results.iter().enumerate() {
            let def = Def::Node { node: shuffled.nodes.len() as u32, result: idx as u32 };
            shuffled.values.push(Value { def, ..source.values[old.0 as usize].clone() });
            place[old.0 as usize] = ValueId(shuffled.values.len() as u32 - 1);
            results.push(place[old.0 as usize]);
        }
        shuffled.nodes.push(Node { args, results, ..node.clone() });
    }
    shuffled.outputs.iter_mut().for_each(|out| out.value = place[out.value.0 as usize]);
    let mut other = flat.clone();
    other.funcs[id.0 as usize] = shuffled;
    let first = run(&flat, id, &Options::default());
    let second = run(&other, id, &Options::default());
    assert_eq!(first.report.cost_after, second.report.cost_after);
    assert_eq!(
        canonical(&first.module, first.module.func(first.func)),
        canonical(&second.module, second.module.func(second.func))
    );
}

#[test]
fn strict_math_keeps_every_bit() {
    let (module, func) = example(LAYER.0, LAYER.1, LAYER_DIMS);
    for seed in 0..4 {
        let out =
            run(&module, func, &Options { math: Math::Strict, sample: Some(seed), ..Options::default() });
        let inputs = inputs_of(&module, func, 5, Contents::Special, seed).unwrap();
        compare((&module, func), (&out.module, out.func), 5, &inputs, 0.0).unwrap();
    }
}

/// What measures a doubly stochastic matrix is computed, not assumed, in any math mode.
#[test]
fn diagnostics_are_measured() {
    let measured = [
        "h = sinkhorn(m, iters=20)\n o = reduce_max(abs(reduce_sum(h, axes=[2]) - 1.0), axes=[0,1])",
        "h = softmax(m, axis=1)\n o = reduce_sum(einsum(\"tij,tjk->tik\", h, h), axes=[1])",
        "h = softmax(m, axis=1)\n o = reduce_sum(einsum(\"tij,tj->ti\", h, broadcast_to(const(value=1.0, dtype=f32), [T,n])), axes=[1])",
    ];
    for statements in measured {
        let (module, func) = example("m: f32[T,n,n]", statements, &[]);
        let out = run(&module, func, &Options { math: Math::Fast, ..Options::default() });
        let result = out.module.func(out.func);
        let sums =
            count(result, OpKind::ReduceSum) + count(result, OpKind::Contract) + count(result, OpKind::Loop);
        assert!(sums > 0, "{}", print(&out.module));
        // An infinite logit makes the matrix NaN; the measurement says so.
        let mut inputs = inputs_of(&module, func, 3, Contents::Domain, 1).unwrap();
        let mut values = inputs[0].to_f64s();
        values[0] = f64::NAN;
        inputs[0] = birkhoff_ir::tensor::eval::Tensor::from_f64s(
            birkhoff_ir::dtype::DType::F32,
            vec![3, 3, 3],
            &values,
        )
        .unwrap();
        compare((&module, func), (&out.module, out.func), 3, &inputs, 1e-5).unwrap();
    }
}

/// The facts hold for the axis that was normalised last only.
#[test]
fn unit_sums_hold_for_the_last_axis_without_eps() {
    let used = |statements: &str| {
        let (module, func) = example("m: f32[T,n,n], x: f32[T,n,C]", statements, &[]);
        let out = run(&module, func, &Options::default());
        out.report.applied.contains_key("sum-of-mixed")
    };
    // Rows are normalised last: x' sums over o would need columns.
    assert!(!used("o = stream_reduce(stream_mix(sinkhorn(m, iters=20), x))"));
    assert!(used("o = stream_reduce(stream_mix(sinkhorn(m, iters=20), x, orientation=source_rows))"));
    assert!(used("o = stream_reduce(stream_mix(sinkhorn(m, iters=20, first=rows), x))"));
    assert!(!used("o = stream_reduce(stream_mix(sinkhorn(m, iters=20, first=rows, eps=1e-6), x))"));
    assert!(!used("o = stream_reduce(stream_mix(sinkhorn(m, iters=0, first=rows), x))"));
    assert!(used(
        "h = einsum(\"tij,tjk->tik\", softmax(m, axis=1), softmax(m, axis=1))\n o = stream_reduce(stream_mix(h, x))"
    ));
}

/// `x - max(x)` has one operand, whatever else is rewritten.
#[test]
fn the_operand_of_a_shift_stays_one_value() {
    let statements = "z = einsum(\"tk,ko->to\", rms_norm(vec(x)), w) * 3.0 * 0.7\n o = softmax(z, axis=1)";
    let (module, func) = example("x: f32[T,n,C], w: f32[n*C,C]", statements, &[]);
    for sample in [None, Some(1), Some(2), Some(3)] {
        let out = run(&module, func, &Options { math: Math::Fast, sample, ..Options::default() });
        let result = out.module.func(out.func);
        let max =
            result.nodes.iter().find(|node| node.op.kind == OpKind::ReduceMax).expect("there is a maximum");
        let repeated =
            result.nodes.iter().find(|node| node.op.kind == OpKind::Broadcast && node.args == max.results);
        let repeated = repeated.expect("it is repeated");
        let difference = result.nodes.iter().find(|node| {
            node.op.kind == OpKind::Scalar(birkhoff_ir::scalar::ScalarOp::Sub)
                && node.args[1] == repeated.results[0]
        });
        assert_eq!(difference.expect("it is subtracted").args[0], max.args[0], "{}", print(&out.module));
    }
}

#[test]
fn explanations_name_the_rules() {
    let (module, func) = example(LAYER.0, LAYER.1, LAYER_DIMS);
    let out = run(&module, func, &Options { explain: true, ..Options::default() });
    assert!(out.report.chain.iter().any(|rule| rule == "norm-behind-projection"), "{:?}", out.report.chain);
    let plain = run(&module, func, &Options::default());
    assert_eq!(print(&out.module), print(&plain.module));
}

#[test]
fn chains_of_products_are_grouped_by_cost() {
    let statements = "o = einsum(\"tk,k->t\", einsum(\"tk,ko->to\", einsum(\"tk,ko->to\", x, w), u), v)";
    let (module, func) = example("x: f32[T,64], w: f32[64,64], u: f32[64,64], v: f32[64]", statements, &[]);
    let out = run(&module, func, &Options::default());
    // Matrix by vector, twice, then x by vector: about 2 (64 64 + 64 64 + 64 64) additions for T = 64.
    assert!(out.report.cost_after.flops < 30_000.0, "{:?}", out.report.cost_after);
    let inputs = inputs_of(&module, func, 5, Contents::Domain, 1).unwrap();
    compare((&module, func), (&out.module, out.func), 5, &inputs, 1e-5).unwrap();
}

#[test]
fn equal_loop_bodies_are_one_function() {
    let (module, func) =
        example("a: f32[T,n,n], b: f32[T,n,n]", "o = sinkhorn(a, iters=20)\n p = sinkhorn(b, iters=10)", &[]);
    let out = run(&module, func, &Options::default());
    assert_eq!(out.module.funcs.len(), 2, "{}", print(&out.module));
}

#[test]
fn a_run_ends_at_its_limits() {
    let (module, func) = example(LAYER.0, LAYER.1, LAYER_DIMS);
    let limits = Limits { iterations: 1, ..Limits::default() };
    let out = run(&module, func, &Options { limits, ..Options::default() });
    assert_eq!(out.report.stop_reason, StopReason::Iterations);
    let limits = Limits { terms: 60, ..Limits::default() };
    let out = run(&module, func, &Options { limits, ..Options::default() });
    assert_eq!(out.report.stop_reason, StopReason::Terms);
    let inputs = inputs_of(&module, func, 5, Contents::Domain, 1).unwrap();
    compare((&module, func), (&out.module, out.func), 5, &inputs, 2e-5).unwrap();
}

/// Every sample of the op table, in every mode, drawn at random from the equal programs.
#[test]
fn samples_of_all_ops_keep_their_values() {
    for kind in OpKind::all() {
        let (module, func) = birkhoff_ir::tensor::samples::sample(kind).expect("there is a sample");
        let bound = bind(&module, &Bindings::default()).expect("binds");
        for (math, bound_of) in [(Math::Strict, 0.0), (Math::Default, 1e-4), (Math::Fast, 2e-3)] {
            for sample in [None, Some(1), Some(2)] {
                let out = run(&bound, func, &Options { math, sample, ..Options::default() });
                birkhoff_ir::tensor::verify::verify(&out.module).unwrap_or_else(|why| panic!("{why}"));
                let contents = if math == Math::Strict { Contents::Special } else { Contents::Domain };
                let inputs = inputs_of(&bound, func, 5, contents, 11).unwrap();
                compare((&bound, func), (&out.module, out.func), 5, &inputs, bound_of)
                    .unwrap_or_else(|why| panic!("{} {math:?} {sample:?}: {why}", kind.name()));
            }
        }
    }
}

/// The result is never dearer, by the given model, than the program as it was.
#[test]
fn a_contrary_model_keeps_the_original() {
    struct FewDivisionsAreDear;
    impl CostModel for FewDivisionsAreDear {
        fn price(&self, module: &Module, func: FuncId) -> birkhoff_compiler::cost::Cost {
            let divisions = count(module.func(func), OpKind::Scalar(birkhoff_ir::scalar::ScalarOp::Div));
            birkhoff_compiler::cost::Cost { total: -(divisions as f64), ..Default::default() }
        }
    }
    let (module, func) = example(
        "x: f32[T,C], y: f32[T] ~ uniform(0.5, 2)",
        "o = x / broadcast(y, shape=[T,C], axes=[0])",
        &[],
    );
    let out = optimize(&module, func, &Options::default(), &FewDivisionsAreDear).expect("optimises");
    assert_eq!(count(out.module.func(out.func), OpKind::Scalar(birkhoff_ir::scalar::ScalarOp::Div)), 1);
}
