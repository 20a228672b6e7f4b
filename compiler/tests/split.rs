//! Halves of joint functions, evaluated: values and gradients are those of the whole, whatever is saved.

use birkhoff_compiler::cost::default_sizes;
use birkhoff_compiler::expand::{differentiate, expand};
use birkhoff_compiler::split::{Keep, Parts, Split, split, without_cotangents};
use birkhoff_ir::scalar::Scalar;
use birkhoff_ir::tensor::autodiff::functions::{Of, Reverse, reverse};
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_ir::tensor::random::random_input;
use birkhoff_ir::tensor::verify::verify;
use birkhoff_ir::tensor::{FuncId, Module, OpKind, text};
use std::collections::BTreeMap;

/// A layer of everything that matters here: a contraction, a reduction, a loop, two outputs.
const LAYER: &str = "
dim T in 1..=100000 default 7
fn @step(%a: f64[T,3,3]) -> (a: f64[T,3,3]) {
  s = reduce_sum(a, axes=[1])
  c = a / broadcast(s, shape=[T,3,3], axes=[0,2])
  r = reduce_sum(c, axes=[2])
  return a = c / broadcast(r, shape=[T,3,3], axes=[0,1])
}
export fn @layer(%x: f64[T,16], %w: f64[16,9]) -> (h: f64[T,3], size: f64[T]) {
  raw = contract(x, w, spec=\"tk,kj->tj\", dtype=f64)
  size = reduce_sum(x * x, axes=[1])
  m = exp(reshape(raw, shape=[T,3,3]))
  p = loop(m, body=@step, trip=6, carry=1)
  h = reduce_sum(p * m, axes=[1])
  return h = h, size = size * size
}";

fn joint() -> (Module, FuncId, Parts) {
    let mut module = text::parse(LAYER).unwrap();
    let layer = module.find("layer").unwrap();
    let ask = Reverse {
        wrt: vec!["x".into(), "w".into()],
        of: Of::Named(vec!["h".into(), "size".into()]),
        values: true,
        loops: "stash".into(),
    };
    let func = reverse(&mut module, layer, &ask).unwrap();
    let (module, func) = differentiate(&module, func).unwrap();
    let (module, func) = expand(&module, func).unwrap();
    (module, func, Parts { n_inputs: 2, n_values: 2 })
}

type Named = BTreeMap<String, Tensor>;

fn inputs(module: &Module, func: FuncId) -> Named {
    let sizes = default_sizes(module);
    let func = module.func(func);
    let drawn = func.inputs.iter().zip(func.input_values()).map(|(input, value)| {
        let ty = func.ty(value);
        let shape: Vec<usize> = ty.shape.iter().map(|dim| dim.eval(&sizes).unwrap() as usize).collect();
        let tensor = random_input(3, &input.name, input.domain, ty.dtype, &shape).unwrap();
        (input.name.to_string(), tensor)
    });
    drawn.collect()
}

fn run(module: &Module, func: FuncId, known: &Named) -> Named {
    let body = module.func(func);
    let args: Vec<Tensor> = body.inputs.iter().map(|input| known[input.name.as_str()].clone()).collect();
    let results = eval(module, func, &default_sizes(module), &args).unwrap();
    body.outputs.iter().map(|out| out.name.to_string()).zip(results).collect()
}

/// What the backward half gives, after the forward half.
fn back(halves: &Split, known: &Named) -> Named {
    let (module, func) = &halves.forward;
    let results = run(module, *func, known);
    let mut known = known.clone();
    let outputs = &module.func(*func).outputs;
    known.extend(
        halves
            .saved
            .iter()
            .map(|saved| (saved.name.to_string(), results[outputs[saved.output].name.as_str()].clone())),
    );
    run(&halves.backward.0, halves.backward.1, &known)
}

fn count(module: &Module, func: FuncId, kind: OpKind) -> usize {
    module.func(func).nodes.iter().filter(|node| node.op.kind == kind).count()
}

#[test]
fn halves_compute_what_the_whole_computes() {
    let (module, func, parts) = joint();
    let known = inputs(&module, func);
    let whole = run(&module, func, &known);
    let on_chip = vec![true; module.func(func).nodes.len()];
    for keep in Keep::ALL {
        let halves = split(&module, func, parts, keep, &on_chip).unwrap();
        for (module, _) in [&halves.forward, &halves.backward] {
            verify(module).unwrap();
        }
        let forward = run(&halves.forward.0, halves.forward.1, &known);
        let gradients = back(&halves, &known);
        for (name, tensor) in &whole {
            let found = forward.get(name).or_else(|| gradients.get(name)).unwrap();
            // The same ops on the same numbers.
            assert_eq!(found, tensor, "{keep:?} `{name}`");
        }
        assert_eq!(gradients.len(), 2);
        // The forward loop stacks only where somebody reads the stack.
        let stacks = |(module, func): &(Module, FuncId)| {
            let loops = module.func(*func).nodes.iter().filter(|node| node.op.kind == OpKind::Loop);
            loops.map(|node| node.results.len()).collect::<Vec<_>>()
        };
        let contractions = count(&halves.backward.0, halves.backward.1, OpKind::Contract);
        match keep {
            Keep::Dear => {
                assert_eq!((stacks(&halves.forward), stacks(&halves.backward)), (vec![2], vec![1]));
                assert_eq!((halves.saved.len(), contractions), (4, 2));
                assert!(halves.rebuilt.is_empty(), "{:?}", halves.rebuilt);
            }
            Keep::DearButLoops => {
                // The stack is made in the backward half, where the final state is read too.
                assert_eq!(stacks(&halves.forward), [1]);
                assert_eq!(halves.rebuilt.len(), 1);
                assert_eq!((halves.rebuilt[0].op, contractions), ("loop", 2));
            }
            Keep::Nothing => {
                assert!(halves.saved.is_empty());
                assert_eq!(contractions, 3);
            }
        }
    }
}

#[test]
fn absent_cotangents_are_zeros_that_cost_nothing() {
    let (module, func, parts) = joint();
    let mut known = inputs(&module, func);
    let n_elems = known["ct.h"].len();
    let zeros = std::iter::repeat_n(Scalar::Float(0.0), n_elems);
    let h = Tensor::from_scalars(known["ct.h"].dtype(), known["ct.h"].shape().to_vec(), zeros).unwrap();
    known.insert("ct.h".into(), h);
    let halves = split(&module, func, parts, Keep::Nothing, &[]).unwrap();
    let expected = back(&halves, &known);
    let (module, func) =
        without_cotangents(&halves.backward.0, halves.backward.1, &|name| name == "ct.h").unwrap();
    verify(&module).unwrap();
    let found = run(&module, func, &known);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, expected) in &expected {
        assert_eq!(found[name].to_f64s(), expected.to_f64s(), "{name}");
    }
    // Only the norm is left: no contraction, no loop.
    assert_eq!(count(&module, func, OpKind::Loop) + count(&module, func, OpKind::Contract), 0);
    assert!(module.func(func).inputs.iter().all(|input| input.name.as_str() != "ct.h"));
}
