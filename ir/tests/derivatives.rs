//! Derivatives of every op of the table against finite differences in f64: forward, reverse, and of the reverse again.

use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::autodiff::Derivative;
use birkhoff_ir::tensor::autodiff::functions::{Of, Reverse, forward, reverse};
use birkhoff_ir::tensor::bind::{Bindings, bind};
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_ir::tensor::inline::{live, write_out};
use birkhoff_ir::tensor::random::random_input;
use birkhoff_ir::tensor::samples::sample;
use birkhoff_ir::tensor::text::{parse, print};
use birkhoff_ir::tensor::{Domain, Func, FuncId, Module, OpKind, verify};

fn sizes() -> SizeEnv {
    SizeEnv::from([("T".into(), 5)])
}

/// Random values for all arguments, from their domains.
fn inputs(module: &Module, func: FuncId, seed: u64) -> Vec<Tensor> {
    let func = module.func(func);
    let arguments = func.inputs.iter().zip(func.input_values());
    arguments.map(|(input, value)| draw(module, func.ty(value), &input.name, input.domain, seed)).collect()
}

fn draw(
    _module: &Module,
    ty: &birkhoff_ir::tensor::TensorType,
    name: &str,
    domain: Domain,
    seed: u64,
) -> Tensor {
    let shape: Vec<usize> = ty.shape.iter().map(|dim| dim.eval(&sizes()).unwrap() as usize).collect();
    random_input(seed, name, domain, ty.dtype, &shape).unwrap()
}

fn run(module: &Module, func: FuncId, inputs: &[Tensor]) -> Vec<Tensor> {
    eval(module, func, &sizes(), inputs).unwrap_or_else(|error| panic!("{}", error.message))
}

/// Positions of float arguments and of float results.
fn floats(module: &Module, func: FuncId) -> (Vec<usize>, Vec<usize>) {
    let func = module.func(func);
    let inputs = func.input_values().enumerate();
    let inputs = inputs.filter(|(_, value)| func.ty(*value).dtype.is_float()).map(|(pos, _)| pos).collect();
    let outputs = func.outputs.iter().enumerate();
    let outputs =
        outputs.filter(|(_, out)| func.ty(out.value).dtype.is_float()).map(|(pos, _)| pos).collect();
    (inputs, outputs)
}

/// `x + step * direction`, at the float arguments.
fn moved(inputs: &[Tensor], wrt: &[usize], directions: &[Tensor], step: f64) -> Vec<Tensor> {
    let mut moved = inputs.to_vec();
    for (pos, direction) in wrt.iter().zip(directions) {
        let values: Vec<f64> =
            inputs[*pos].to_f64s().iter().zip(direction.to_f64s()).map(|(x, d)| x + step * d).collect();
        moved[*pos] = Tensor::from_f64s(DType::F64, inputs[*pos].shape().to_vec(), &values).unwrap();
    }
    moved
}

fn dot(x: &[Tensor], y: &[Tensor]) -> f64 {
    let pair =
        |(x, y): (&Tensor, &Tensor)| -> f64 { x.to_f64s().iter().zip(y.to_f64s()).map(|(x, y)| x * y).sum() };
    x.iter().zip(y).map(pair).sum()
}

/// The fourth-order central difference of `<ct, f(x + t v)>` at `t = 0`.
fn difference(
    module: &Module,
    func: FuncId,
    at: &[Tensor],
    wrt: &[usize],
    v: &[Tensor],
    of: &[usize],
    ct: &[Tensor],
) -> f64 {
    let value = |step: f64| {
        let outputs = run(module, func, &moved(at, wrt, v, step));
        let chosen: Vec<Tensor> = of.iter().map(|pos| outputs[*pos].clone()).collect();
        dot(&chosen, ct)
    };
    let h = 1e-4;
    (8.0 * (value(h) - value(-h)) - (value(2.0 * h) - value(-2.0 * h))) / (12.0 * h)
}

fn names(module: &Module, func: FuncId, inputs: &[usize], outputs: &[usize]) -> (Vec<String>, Vec<String>) {
    let func = module.func(func);
    let inputs = inputs.iter().map(|pos| func.inputs[*pos].name.to_string()).collect();
    let outputs = outputs.iter().map(|pos| func.outputs[*pos].name.to_string()).collect();
    (inputs, outputs)
}

/// Directional derivatives of `func` forward and in reverse against differences, within `tolerance` of their size. Returns
/// the reverse function.
fn check(module: &mut Module, func: FuncId, what: &str, tolerance: f64) -> FuncId {
    let (wrt, of) = floats(module, func);
    let (wrt_names, of_names) = names(module, func, &wrt, &of);
    let ask = Reverse { wrt: wrt_names.clone(), of: Of::Named(of_names), ..Reverse::default() };
    let backward = reverse(module, func, &ask).unwrap_or_else(|why| panic!("{what}: {why}"));
    let onward = forward(module, func, &wrt_names, true).unwrap_or_else(|why| panic!("{what}: {why}"));
    verify(module).unwrap_or_else(|errors| panic!("{what}: {}", errors.render(what, "")));
    let printed = print(module);
    assert_eq!(print(&parse(&printed).unwrap()), printed);
    for seed in 1..=3 {
        let at = inputs(module, func, seed);
        let random = |pos: &usize, prefix: &str, ty: &Tensor| {
            let shape = ty.shape().to_vec();
            random_input(seed, &format!("{prefix}{pos}"), Domain::default(), DType::F64, &shape).unwrap()
        };
        let v: Vec<Tensor> = wrt.iter().map(|pos| random(pos, "v", &at[*pos])).collect();
        let outputs = run(module, func, &at);
        let ct: Vec<Tensor> = of.iter().map(|pos| random(pos, "ct", &outputs[*pos])).collect();
        let expected = difference(module, func, &at, &wrt, &v, &of, &ct);
        let size = expected.abs().max(1.0);
        let with_ct: Vec<Tensor> = at.iter().chain(&ct).cloned().collect();
        let gradients = run(module, backward, &with_ct);
        let found = dot(&gradients, &v);
        assert!(
            (found - expected).abs() <= tolerance * size,
            "{what} in reverse: {found}, differences {expected}"
        );
        let with_v: Vec<Tensor> = at.iter().chain(&v).cloned().collect();
        let results = run(module, onward, &with_v);
        assert_eq!(
            results[..outputs.len()].iter().map(Tensor::to_le_bytes).collect::<Vec<_>>(),
            outputs.iter().map(Tensor::to_le_bytes).collect::<Vec<_>>(),
            "{what}: values beside tangents"
        );
        let found = dot(&results[outputs.len()..], &ct);
        assert!(
            (found - expected).abs() <= tolerance * size,
            "{what} forward: {found}, differences {expected}"
        );
    }
    backward
}

/// The sample in f64.
fn exact_sample(kind: OpKind) -> (Module, FuncId) {
    let (module, func) = sample(kind).unwrap_or_else(|errors| panic!("{}: {errors}", kind.name()));
    (bind(&module, &Bindings { float: Some(DType::F64), ..Bindings::default() }).unwrap(), func)
}

#[test]
fn every_op_has_the_derivative_that_differences_have() {
    for kind in OpKind::all() {
        let (mut module, func) = exact_sample(kind);
        let (wrt, of) = floats(&module, func);
        if wrt.is_empty() || of.is_empty() {
            assert!(
                matches!(kind.derivative(), Derivative::Zero(_)),
                "{} needs a sample of floats",
                kind.name()
            );
            continue;
        }
        if kind == OpKind::StopGradient {
            continue;
        }
        // A sample converted to bf16 is bound to f64 here, so nothing is rounded.
        let backward = check(&mut module, func, kind.name(), 1e-7);
        // Once more: the derivative of the gradient, by the same rules and the transposed loops.
        check(&mut module, backward, &format!("gradient of {}", kind.name()), 1e-6);
    }
}

#[test]
fn ops_whose_derivative_is_zero_give_zeros() {
    for kind in OpKind::all().filter(|kind| matches!(kind.derivative(), Derivative::Zero(_))) {
        let (mut module, func) = exact_sample(kind);
        let (wrt, of) = floats(&module, func);
        let (wrt, of) = names(&module, func, &wrt, &of);
        if wrt.is_empty() || of.is_empty() {
            continue;
        }
        let backward =
            reverse(&mut module, func, &Reverse { wrt, of: Of::Named(of), ..Reverse::default() }).unwrap();
        let gradients = run(&module, backward, &inputs(&module, backward, 1));
        assert!(gradients.iter().all(|gradient| gradient.to_f64s().iter().all(|value| *value == 0.0)));
    }
}

/// Layers `x <- tanh(W x)`, whose activations the reverse loop needs.
const LAYERS: &str = "
fn @layer(%x: f64[5,K], %w: f64[K,K]) -> (x: f64[5,K]) {
  %0 = contract(%x, %w) {spec=\"bk,kj->bj\", dtype=f64} : f64[5,K]
  %1 = tanh(%0) : f64[5,K]
  return x = %1
}

export fn @layers(%x: f64[5,K] ~ uniform(-1, 1), %w: f64[3,K,K] ~ uniform(-0.5, 0.5)) -> (y: f64[5,K]) {
  %0 = loop(%x, %w) {body=@layer, trip=3, carry=1, scan=1} : f64[5,K]
  return y = %0
}
";

/// Contractions in the loop bodies of everything that was derived from `@layers`, for `terms` terms.
fn contractions_of_layers(terms: usize) -> usize {
    let text = LAYERS.replace('K', &terms.to_string());
    let mut module = parse(&text).unwrap_or_else(|errors| panic!("{}", errors.render("layers", &text)));
    let func = module.find("layers").unwrap();
    let backward = check(&mut module, func, "layers", 1e-7);
    check(&mut module, backward, "gradient of layers", 1e-6);
    let backward = module.func(backward).clone();
    let written = live(&write_out(&mut module, &backward, &|_| true).unwrap());
    let loops = written.nodes.iter().filter_map(|node| node.op.body());
    let nodes = loops.flat_map(|body| &module.func(body).nodes);
    nodes.filter(|node| node.op.kind == OpKind::Contract).count()
}

#[test]
fn what_was_dear_to_compute_is_stacked_for_the_reverse_loop() {
    // One forward, and one for the cotangents of each factor; of few terms, one that computes the activations again.
    assert_eq!(contractions_of_layers(16), 3);
    assert_eq!(contractions_of_layers(15), 4);
}

/// Layers around a branch, and what their states are: results of branches and of layers are stacked, too. `@outer` is three times
/// as many layers, by a loop over loops that somebody wrote.
const STACKS: &str = "
fn @layer(%x: f64[2,16], %w: f64[16,16], %phi: f64[32,2], %gain: f64[16]) -> (x: f64[2,16], h: f64[2], y: f64[16]) {
  %0 = reshape(%x) {shape=[32]} : f64[32]
  %raw = contract(%0, %phi) {spec=\"k,ko->o\", dtype=f64} : f64[2]
  %h = tanh(%raw) : f64[2]
  %mixed = contract(%h, %x) {spec=\"i,ic->c\", dtype=f64} : f64[16]
  %1 = mul(%mixed, %gain) : f64[16]
  %y = contract(%1, %w) {spec=\"c,co->o\", dtype=f64} : f64[16]
  %2 = sin(%y) : f64[16]
  %3 = broadcast(%2) {shape=[2,16], axes=[1]} : f64[2,16]
  %next = add(%x, %3) : f64[2,16]
  return x = %next, h = %h, y = %y
}

fn @outer(%x: f64[2,16], %w: f64[N,16,16], %phi: f64[N,32,2], %gain: f64[16]) -> (x: f64[2,16], h: f64[N,2], y: f64[N,16]) {
  %0, %1, %2 = loop(%x, %w, %phi, %gain) {body=@layer, trip=N, carry=1, scan=2 REVERSE} : f64[2,16], f64[N,2], f64[N,16]
  return x = %0, h = %1, y = %2
}

export fn @once(%x: f64[2,16] ~ uniform(-1, 1), %w: f64[N,16,16] ~ uniform(-0.5, 0.5), %phi: f64[N,32,2] ~ uniform(-0.5, 0.5), %gain: f64[16] ~ uniform(0.5, 1.5)) -> (x: f64[2,16], h: f64[N,2], y: f64[N,16]) {
  %0, %1, %2 = loop(%x, %w, %phi, %gain) {body=@layer, trip=N, carry=1, scan=2 REVERSE} : f64[2,16], f64[N,2], f64[N,16]
  return x = %0, h = %1, y = %2
}

export fn @twice(%x: f64[2,16] ~ uniform(-1, 1), %w: f64[3,N,16,16] ~ uniform(-0.5, 0.5), %phi: f64[3,N,32,2] ~ uniform(-0.5, 0.5), %gain: f64[16] ~ uniform(0.5, 1.5)) -> (x: f64[2,16], h: f64[3,N,2], y: f64[3,N,16]) {
  %0, %1, %2 = loop(%x, %w, %phi, %gain) {body=@outer, trip=3, carry=1, scan=2} : f64[2,16], f64[3,N,2], f64[3,N,16]
  return x = %0, h = %1, y = %2
}
";

/// States that are made again are those that were: gradients are the same, of a loop of blocks (of 6 or 12 iterations), of one block
/// (of 5), of loops in loops, in either direction.
#[test]
fn gradients_over_rebuilt_states_are_those_over_kept_ones() {
    for (trip, reverse_flag, name) in [
        (6, "", "once"),
        (12, ", reverse=true", "once"),
        (5, "", "once"),
        (2, ", reverse=true", "twice"),
        (4, "", "twice"),
    ] {
        let text = STACKS.replace('N', &trip.to_string()).replace(" REVERSE", reverse_flag);
        let module = parse(&text).unwrap_or_else(|errors| panic!("{}", errors.render("stacks", &text)));
        let gradients = |loops: &str| {
            let mut module = module.clone();
            let func = module.find(name).unwrap();
            let wrt = ["x", "w", "phi", "gain"].map(String::from).to_vec();
            let ask = Reverse { wrt, of: Of::AllFloats, values: true, loops: loops.into() };
            let gradient = reverse(&mut module, func, &ask).unwrap();
            let source = module.func(gradient).clone();
            let written = live(&write_out(&mut module, &source, &|_| true).unwrap());
            module.funcs[gradient.0 as usize].exported = false;
            module.funcs.push(Func { name: "written".into(), ..written });
            let gradient = FuncId(module.funcs.len() as u32 - 1);
            verify::verify(&module).unwrap_or_else(|errors| panic!("{errors}\n{}", print(&module)));
            let inputs = inputs(&module, gradient, 1);
            (run(&module, gradient, &inputs), module)
        };
        let ((kept, ..), (rebuilt, module)) = (gradients("stash"), gradients("rebuild"));
        for (want, got) in kept.iter().zip(&rebuilt) {
            for (want, got) in want.to_f64s().iter().zip(got.to_f64s()) {
                assert!(
                    (want - got).abs() <= 1e-12 * want.abs().max(1.0),
                    "{name} {trip}: {got}, not {want}"
                );
            }
        }
        // Of the states no more are in memory than those of a block and those at the beginnings of blocks.
        let stacks = |func: FuncId| -> Vec<i64> {
            let func = module.func(func);
            let loops = func.nodes.iter().filter(|node| node.op.kind == OpKind::Loop);
            let results = loops.flat_map(|node| &node.results).map(|value| &func.ty(*value).shape);
            let states =
                results.filter(|shape| shape.len() > 2 && shape[shape.len() - 2..] == [2.into(), 16.into()]);
            states
                .map(|shape| shape.iter().map(|dim| dim.as_const().unwrap()).product::<i64>() / 32)
                .collect()
        };
        let most = (0..module.funcs.len() as u32).flat_map(|id| stacks(FuncId(id))).max();
        let blocks = if name == "twice" {
            trip.max(3)
        } else {
            [0, 0, 0, 0, 0, 5, 3, 0, 0, 0, 0, 0, 4][trip as usize]
        };
        assert_eq!(most, Some(blocks), "{name} {trip}\n{}", print(&module));
    }
}
