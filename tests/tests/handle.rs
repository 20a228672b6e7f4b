//! The backward call against the joint function of values and gradients, which is compiled another way.

use birkhoff::ir::dtype::DType;
use birkhoff::ir::tensor::DimKind;
use birkhoff::ir::tensor::eval::Tensor;
use birkhoff::{
    Backward, Buffer, Content, Cotangents, Differentiable, Function, Gradient, Inputs, Keep, Loops, Options,
    OutputsMut, Pool, Spec, Target, compile, compile_differentiable,
};
use birkhoff_tests::golden::folder;

/// A golden spec, or an example.
fn load(name: &str) -> Spec {
    let path = match name.strip_prefix("examples/") {
        Some(name) => folder("../examples").join(format!("{name}.toml")),
        None => folder("specs").join(format!("{name}.toml")),
    };
    let spec = Spec::load(path).unwrap();
    let Content::Tensor(module) = spec.content() else { return spec };
    let open = module.dims.iter().filter(|dim| matches!(dim.kind, DimKind::Static(None)));
    let small = |name: &str| match name {
        "n" => 4,
        "C" => 12,
        _ => 3,
    };
    open.fold(spec.clone(), |spec, dim| spec.dim(&dim.name, small(&dim.name)))
}

/// All float inputs of the spec's function.
fn floats(spec: &Spec) -> Vec<String> {
    let signature = spec.open_signature().unwrap();
    let floats = signature.inputs.iter().filter(|(_, ty)| ty.dtype.is_float());
    floats.map(|(name, _)| name.to_string()).collect()
}

fn joint(spec: &Spec, wrt: &[String], options: &Options) -> Function {
    let gradient =
        Gradient { wrt: wrt.to_vec(), cotangents: Cotangents::All, values: true, loops: Loops::Stash };
    compile(&spec.clone().differentiated(&gradient).unwrap(), options).unwrap()
}

/// Names and random arrays for the inputs of a joint function, cotangents among them.
fn arrays(function: &Function) -> Vec<(String, Buffer)> {
    let names = function.signature().inputs.iter().map(|(name, _)| name.to_string());
    names.zip(function.random_inputs(7).unwrap()).collect()
}

/// Those for which `pick` holds.
fn inputs<'a>(arrays: &'a [(String, Buffer)], pick: impl Fn(&str) -> bool) -> Inputs<'a> {
    let picked = arrays.iter().filter(|(name, _)| pick(name));
    picked.fold(Inputs::new(), |inputs, (name, buffer)| inputs.view(name, buffer.view()))
}

fn is_cotangent(name: &str) -> bool {
    name.starts_with("ct.")
}

fn numbers(buffer: &Buffer) -> Vec<f64> {
    let shape = buffer.shape().iter().map(|extent| *extent as usize).collect();
    Tensor::from_le_bytes(buffer.dtype(), shape, buffer.view().bytes()).unwrap().to_f64s()
}

/// The largest difference, relative to the largest reference; infinite where one is NaN and the other not.
fn difference(found: &Buffer, reference: &Buffer) -> f64 {
    assert_eq!((found.dtype(), found.shape()), (reference.dtype(), reference.shape()));
    let (found, reference) = (numbers(found), numbers(reference));
    let scale = reference.iter().fold(1e-300f64, |largest, value| largest.max(value.abs()));
    found.iter().zip(&reference).fold(0.0, |largest, (found, reference)| {
        let excess = (found - reference).abs() / scale;
        if excess.is_nan() { f64::INFINITY } else { largest.max(excess) }
    })
}

fn differentiable(spec: &Spec, wrt: &[String], keep: Keep, options: &Options) -> Differentiable {
    compile_differentiable(spec, options, &Backward { wrt: wrt.to_vec(), keep, budget_bytes: None }).unwrap()
}

/// Values and gradients of the handle, for everything that can be kept, against the joint function in f64.
fn agrees(spec: &Spec, target: Target) {
    let options = Options { target, ..Options::default() };
    let spec = spec.clone().float(DType::F64);
    let wrt = floats(&spec);
    let joint = joint(&spec, &wrt, &options);
    let arrays = arrays(&joint);
    let reference = joint.call(&inputs(&arrays, |_| true)).unwrap();
    for keep in [Keep::Stash, Keep::Rerun, Keep::Rebuild, Keep::Nothing, Keep::Auto] {
        let function = differentiable(&spec, &wrt, keep, &options);
        let (values, tape) = function.call(&inputs(&arrays, |name| !is_cotangent(name))).unwrap();
        let gradients = tape.backward(&inputs(&arrays, is_cotangent)).unwrap();
        let n_arrays = values.iter().count() + gradients.iter().count();
        assert_eq!(n_arrays, reference.iter().count());
        for (name, found) in values.iter().chain(gradients.iter()) {
            let wrong = difference(found, reference.get(name).unwrap());
            assert!(wrong < 1e-9, "{:?} {keep:?}: `{name}` differs by {wrong:e}", function.signature().name);
        }
        if keep == Keep::Nothing {
            assert_eq!(tape.saved_bytes(), 0);
        }
    }
}

#[test]
fn gradients_are_those_of_the_joint_function() {
    let paper = load("mhc_paper").dim("T", 5);
    for spec in
        [paper, load("sinkhorn_log"), load("sinkhorn_paper"), load("sinkhorn_rowmax"), load("sinkhorn_tile")]
    {
        agrees(&spec, Target::Cpu);
        if Target::CpuLlvm.check().is_ok() {
            agrees(&spec, Target::CpuLlvm);
        }
    }
}

/// A loop of launches around products, in blocks of two layers and as one block.
#[test]
fn gradients_of_a_stack_of_layers_too() {
    let stack =
        Spec::load(folder("../examples").join("mhc_stack.toml")).unwrap().dim("C", 32).dim("hidden", 64);
    for layers in [3, 6] {
        agrees(&stack.clone().dim("layers", layers).dim("T", 5), Target::Cpu);
    }
}

#[test]
fn gradients_of_other_programs_too() {
    for name in ["ot_t", "realnvp", "geo_softmax", "geo_attention", "mmd2"] {
        agrees(&load(name), Target::Cpu);
    }
}

#[test]
fn evaluators_have_the_handle_too() {
    agrees(&load("sinkhorn_paper"), Target::Eval);
    agrees(&load("sinkhorn_paper"), Target::KernelEval);
    // No kernel computes `solve`.
    agrees(&load("cayley"), Target::Eval);
}

/// The layer as one function; and `pre`, somebody's branch, and `post`, chained by hand.
#[test]
fn chained_functions_give_the_gradients_of_the_whole() {
    let layer = load("examples/mhc_layer").dim("C", 24).dim("T", 37).float(DType::F64);
    let options = Options::default();
    let whole = differentiable(&layer.clone().function("layer"), &floats(&layer), Keep::Auto, &options);
    let joint = joint(&layer, &floats(&layer), &options);
    let arrays = arrays(&joint);
    let array = |name: &str| &arrays.iter().find(|(other, _)| other == name).unwrap().1;
    // The branch: y = 3 h.
    let h =
        whole.call(&inputs(&arrays, |name| !is_cotangent(name))).unwrap().0.get("h").map(numbers).unwrap();
    let y: Vec<f64> = h.iter().map(|h| 3.0 * h).collect();
    let shape = [37, 24];
    let is_given = |name: &str| !is_cotangent(name) && name != "y";
    let (_, tape) = whole.call(&inputs(&arrays, is_given).slice("y", &y, &shape)).unwrap();
    let first = tape.backward(&Inputs::new().view("ct.out", array("ct.out").view())).unwrap();
    let ct_h: Vec<f64> = first.slice::<f64>("grad.y").unwrap().iter().map(|ct| 3.0 * ct).collect();
    let both = Inputs::new().view("ct.out", array("ct.out").view()).slice("ct.h", &ct_h, &shape);
    let reference = tape.backward(&both).unwrap();

    let (pre, post) = (layer.clone().function("pre"), layer.clone().function("post"));
    let pre = differentiable(&pre, &floats(&pre), Keep::Auto, &options);
    let post = differentiable(&post, &floats(&post), Keep::Auto, &options);
    let takes = |function: &Differentiable, name: &str| {
        function.signature().inputs.iter().any(|(input, _)| input.as_str() == name)
    };
    let (before, pre_tape) = pre.call(&inputs(&arrays, |name| takes(&pre, name))).unwrap();
    let to_post = Inputs::new()
        .view("x", array("x").view())
        .view("post", before.get("post").unwrap().view())
        .view("res", before.get("res").unwrap().view())
        .slice("y", &y, &shape);
    let (after, post_tape) = post.call(&to_post).unwrap();
    let out = whole.call(&inputs(&arrays, is_given).slice("y", &y, &shape)).unwrap().0;
    assert!(difference(after.get("out").unwrap(), out.get("out").unwrap()) < 1e-12);
    let of_post = post_tape.backward(&Inputs::new().view("ct.out", array("ct.out").view())).unwrap();
    let ct_h: Vec<f64> = of_post.slice::<f64>("grad.y").unwrap().iter().map(|ct| 3.0 * ct).collect();
    let to_pre = Inputs::new()
        .slice("ct.h", &ct_h, &shape)
        .view("ct.post", of_post.get("grad.post").unwrap().view())
        .view("ct.res", of_post.get("grad.res").unwrap().view());
    // x feeds both: its gradient is added to that of `post`.
    let mut dx = Buffer::from_slice(of_post.slice::<f64>("grad.x").unwrap(), &[37, 4, 24]).unwrap();
    let of_pre = pre_tape.backward(&to_pre).unwrap();
    let mut others: Vec<(String, Buffer)> = vec![];
    for (name, gradient) in of_pre.iter().filter(|(name, _)| *name != "grad.x") {
        others.push((name.to_string(), Buffer::zeros(gradient.dtype(), gradient.shape()).unwrap()));
    }
    let mut targets = OutputsMut::new().view("grad.x", dx.view_mut());
    for (name, buffer) in &mut others {
        targets = targets.view(name, buffer.view_mut());
    }
    pre_tape.backward_into(&to_pre, targets).unwrap();
    others.push(("grad.x".to_string(), dx));
    assert_eq!(others.len() + 1, reference.iter().count(), "all but grad.y");
    for (name, found) in &others {
        let wrong = difference(found, reference.get(name).unwrap());
        assert!(wrong < 1e-10, "`{name}` differs by {wrong:e}");
    }
}

/// Whatever set of cotangents is given, the others count as zeros; none at all, or unknown ones, are refused.
#[test]
fn absent_cotangents_are_zero() {
    let spec = load("ot_t").float(DType::F64);
    for keep in [Keep::Stash, Keep::Nothing] {
        let function = differentiable(&spec, &floats(&spec), keep, &Options::default());
        let joint = joint(&spec, &floats(&spec), &Options::default());
        let arrays = arrays(&joint);
        let (_, tape) = function.call(&inputs(&arrays, |name| !is_cotangent(name))).unwrap();
        let all: Vec<String> = function.cotangents().map(str::to_string).collect();
        assert_eq!(all, ["ct.f", "ct.g", "ct.p", "ct.loss", "ct.xhat"]);
        for given in [&all[..1], &all[2..4], &all[4..]] {
            let is_given = |name: &str| given.iter().any(|other| other == name);
            let found = tape.backward(&inputs(&arrays, is_given)).unwrap();
            let mut filled: Vec<(String, Buffer)> = vec![];
            for (name, buffer) in arrays.iter().filter(|(name, _)| is_cotangent(name)) {
                filled.push(match is_given(name) {
                    true => (
                        name.clone(),
                        Buffer::from_slice(buffer.as_slice::<f64>().unwrap(), buffer.shape()).unwrap(),
                    ),
                    false => (name.clone(), Buffer::zeros(DType::F64, buffer.shape()).unwrap()),
                });
            }
            let reference = tape.backward(&inputs(&filled, |_| true)).unwrap();
            for (name, found) in found.iter() {
                let wrong = difference(found, reference.get(name).unwrap());
                assert!(wrong < 1e-12, "{given:?}: `{name}` differs by {wrong:e}");
            }
        }
        let none = tape.backward(&Inputs::new()).unwrap_err().to_string();
        assert!(
            none.contains("needs a cotangent") && none.contains("ct.f, ct.g, ct.p, ct.loss, ct.xhat"),
            "{none}"
        );
        let unknown = tape.backward(&Inputs::new().slice("ct.x", &[1.0f64], &[])).unwrap_err().to_string();
        assert!(unknown.contains("there is no input `ct.x`"), "{unknown}");
    }
}

#[test]
fn gradients_are_added_to_what_is_there() {
    for float in [DType::F32, DType::F64] {
        let spec = load("sinkhorn_paper").float(float);
        let function = differentiable(&spec, &floats(&spec), Keep::Auto, &Options::default());
        let joint = joint(&spec, &floats(&spec), &Options::default());
        let arrays = arrays(&joint);
        let (_, tape) = function.call(&inputs(&arrays, |name| !is_cotangent(name))).unwrap();
        let once = tape.backward(&inputs(&arrays, is_cotangent)).unwrap();
        let (name, gradient) = once.iter().next().unwrap();
        let mut sum = Buffer::zeros(float, gradient.shape()).unwrap();
        for _ in 0..3 {
            let targets = OutputsMut::new().view(name, sum.view_mut());
            tape.backward_into(&inputs(&arrays, is_cotangent), targets).unwrap();
        }
        // 0 + g, g + g, 2 g + g: rounded in this order.
        let expected: Vec<f64> = numbers(gradient)
            .iter()
            .map(|g| if float == DType::F32 { f64::from((2.0 * *g) as f32 + *g as f32) } else { 2.0 * g + g })
            .collect();
        assert_eq!(numbers(&sum), expected);
        // Memory of another shape is refused, and nothing is written.
        let mut wrong = Buffer::zeros(float, &[1]).unwrap();
        let targets = OutputsMut::new().view(name, wrong.view_mut());
        let refused = tape.backward_into(&inputs(&arrays, is_cotangent), targets).unwrap_err().to_string();
        assert!(refused.contains("the memory given for it"), "{refused}");
        assert_eq!(numbers(&wrong), [0.0]);
    }
}

#[test]
fn a_budget_is_obeyed_or_the_least_is_told() {
    let spec = load("examples/mhc_layer").dim("C", 64).dim("T", 512);
    let wrt = floats(&spec);
    let options = Options { pool: Some(Pool::new(2).unwrap()), ..Options::default() };
    let within = |budget_bytes: Option<u64>, keep: Keep| {
        compile_differentiable(&spec, &options, &Backward { wrt: wrt.clone(), keep, budget_bytes })
    };
    let free = within(None, Keep::Auto).unwrap();
    let peaks: Vec<u64> =
        free.plan().candidates.iter().map(|candidate| candidate.memory.peak_bytes()).collect();
    assert!(peaks.len() >= 2, "{}", free.plan().text());
    for peak in &peaks {
        let function = within(Some(*peak), Keep::Auto).unwrap();
        let taken = function.plan().candidate();
        assert!(taken.memory.peak_bytes() <= *peak);
        let cheaper = function
            .plan()
            .candidates
            .iter()
            .find(|other| other.memory.peak_bytes() <= *peak && other.price < taken.price);
        assert!(cheaper.is_none(), "{}", function.plan().text());
    }
    let least = peaks.iter().min().unwrap();
    let refused = within(Some(least - 1), Keep::Auto).unwrap_err().to_string();
    assert!(refused.contains(&format!("the least is {least} bytes, with `")), "{refused}");
    // What is forced is not left for the budget's sake.
    let stash = within(None, Keep::Stash).unwrap().plan().candidate().memory.peak_bytes();
    let refused = within(Some(stash - 1), Keep::Stash).unwrap_err().to_string();
    assert!(refused.contains(&format!("the least is {stash} bytes, with `stash`")), "{refused}");
}

/// The number of threads changes no bit.
#[test]
fn gradients_have_the_same_bits_on_any_number_of_threads() {
    let spec = load("examples/mhc_layer").dim("C", 12).dim("T", 133);
    let wrt = floats(&spec);
    let arrays = arrays(&joint(&spec, &wrt, &Options::default()));
    for keep in [Keep::Stash, Keep::Rerun, Keep::Nothing] {
        let mut first: Option<Vec<Vec<u8>>> = None;
        for n_threads in [1, 2, 3, 7] {
            let options = Options { pool: Some(Pool::new(n_threads).unwrap()), ..Options::default() };
            let function = differentiable(&spec, &wrt, keep, &options);
            let (_, tape) = function.call(&inputs(&arrays, |name| !is_cotangent(name))).unwrap();
            let gradients = tape.backward(&inputs(&arrays, is_cotangent)).unwrap();
            let bits: Vec<Vec<u8>> =
                gradients.iter().map(|(_, found)| found.view().bytes().to_vec()).collect();
            assert!(first.get_or_insert_with(|| bits.clone()) == &bits, "{keep:?} on {n_threads} threads");
        }
    }
}

/// Tapes and functions go to other threads.
#[test]
fn tapes_are_sent() {
    fn is_send<T: Send + Sync>() {}
    is_send::<Differentiable>();
    is_send::<birkhoff::Tape<'_>>();
}
