//! What holds for every row of the op table: it has a sample, which prints, parses, verifies and runs; and what does not fit
//! it is refused without a panic.

use birkhoff_ir::dim::{Dim, SizeEnv};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::bind::{Bindings, bind};
use birkhoff_ir::tensor::build::Builder;
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_ir::tensor::random::random_input;
use birkhoff_ir::tensor::samples::sample;
use birkhoff_ir::tensor::text::{default_attr, parse, print};
use birkhoff_ir::tensor::{Attr, DimKind, Domain, FuncId, Module, Op, OpKind, TensorType, verify};

fn samples() -> Vec<(OpKind, Module, FuncId)> {
    OpKind::all()
        .map(|kind| {
            let (module, id) = sample(kind).unwrap_or_else(|errors| panic!("{}: {errors}", kind.name()));
            (kind, module, id)
        })
        .collect()
}

/// The outputs of a sample for random inputs, all floats of `float`.
fn outputs(module: &Module, id: FuncId, float: DType) -> Vec<Tensor> {
    let bound = bind(module, &Bindings { float: Some(float), ..Bindings::default() }).unwrap();
    let sizes = SizeEnv::from([("T".into(), 5)]);
    let func = bound.func(id);
    let inputs: Vec<Tensor> = func
        .inputs
        .iter()
        .zip(func.input_values())
        .map(|(input, value)| {
            let ty = func.ty(value);
            let shape: Vec<usize> = ty.shape.iter().map(|dim| dim.eval(&sizes).unwrap() as usize).collect();
            random_input(3, &input.name, input.domain, ty.dtype, &shape).unwrap()
        })
        .collect();
    eval(&bound, id, &sizes, &inputs).unwrap_or_else(|error| panic!("{}", error.message))
}

#[test]
fn names_are_unique_and_defaults_are_of_their_kind() {
    let mut names: Vec<&str> = OpKind::all().map(OpKind::name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    for kind in OpKind::all() {
        assert_eq!(OpKind::from_name(kind.name()), Some(kind));
        for spec in kind.attrs() {
            assert_eq!(default_attr(spec).is_some(), spec.default.is_some(), "{} {}", kind.name(), spec.name);
        }
    }
}

#[test]
fn every_op_prints_and_parses() {
    for (kind, module, _) in samples() {
        let printed = print(&module);
        let parsed =
            parse(&printed).unwrap_or_else(|errors| panic!("{}", errors.render(kind.name(), &printed)));
        assert_eq!(print(&parsed), printed);
        verify(&parsed).unwrap_or_else(|errors| panic!("{}", errors.render(kind.name(), &printed)));
        let ops = |module: &Module| -> Vec<_> {
            module.funcs.iter().flat_map(|func| func.nodes.iter().map(|node| node.op.clone())).collect()
        };
        assert_eq!(ops(&parsed), ops(&module));
        assert_eq!(ops(&parsed).last().map(|op| op.kind), Some(kind));
    }
}

#[test]
fn every_op_runs_in_every_float() {
    for (kind, module, id) in samples() {
        let exact = outputs(&module, id, DType::F64);
        for float in [DType::F32, DType::Bf16, DType::F16] {
            let tolerance = match float {
                DType::F32 => 1e-4,
                DType::F16 => 0.05,
                _ => 0.3,
            };
            for (out, exact) in outputs(&module, id, float).iter().zip(&exact) {
                assert_eq!(out.shape(), exact.shape());
                // What depends on the bits of its operands has no limit as they become exact.
                if matches!(
                    kind.name(),
                    "floor" | "sign" | "eq" | "ne" | "lt" | "le" | "solve" | "qr" | "newton_schulz"
                ) {
                    continue;
                }
                for (found, expected) in out.to_f64s().iter().zip(exact.to_f64s()) {
                    let close = (found - expected).abs() <= tolerance * expected.abs().max(1.0);
                    assert!(close, "{} in {float}: {found} instead of {expected}", kind.name());
                }
            }
        }
    }
}

/// The expansion written out as a function of its own gives bit for bit what the op gives.
#[test]
fn composites_are_their_expansions() {
    for (kind, module, id) in samples().into_iter().filter(|(kind, _, _)| kind.is_composite()) {
        let func = module.func(id).clone();
        let node = func.nodes.last().cloned().unwrap();
        // Functions that the op names stand before the sample.
        let funcs = module.funcs[..id.0 as usize].to_vec();
        let mut expanded = Module { funcs, ..module.clone() };
        let mut shell = func.clone();
        shell.nodes.clear();
        shell.outputs.clear();
        shell.values.truncate(shell.inputs.len());
        let mut builder = Builder::resume(&mut expanded, shell);
        let results = builder.expand(&node.op, &node.args).unwrap();
        for (out, result) in func.outputs.iter().zip(results) {
            assert_eq!(builder.ty(result), func.ty(out.value), "{}", kind.name());
            builder.output(out.name.clone(), result).unwrap();
        }
        let expanded_id = builder.finish();
        verify(&expanded).unwrap_or_else(|errors| panic!("{}", errors.render(kind.name(), "")));
        let printed = print(&expanded);
        let parsed =
            parse(&printed).unwrap_or_else(|errors| panic!("{}", errors.render(kind.name(), &printed)));
        let (direct, written) = (outputs(&module, id, DType::F32), outputs(&parsed, expanded_id, DType::F32));
        let bits = |outs: &[Tensor]| outs.iter().map(Tensor::to_le_bytes).collect::<Vec<_>>();
        assert_eq!(bits(&direct), bits(&written), "{}", kind.name());
    }
}

/// A pseudo-random number below `bound`.
fn below(state: &mut u64, bound: usize) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize % bound
}

/// The attribute with its numbers replaced by others, right or wrong.
fn varied(attr: &Attr, state: &mut u64) -> Attr {
    match attr {
        Attr::Int(_) => Attr::Int(below(state, 5) as i64 - 1),
        Attr::Dim(_) => Attr::Dim(Dim::constant(below(state, 5) as i64 - 1)),
        Attr::Axes(_) => Attr::Axes((0..below(state, 3)).map(|_| below(state, 4) as u32).collect()),
        Attr::Dims(_) => {
            Attr::Dims((0..below(state, 4)).map(|_| Dim::constant(below(state, 4) as i64)).collect())
        }
        Attr::DType(_) => Attr::DType(DType::ALL[below(state, 7)]),
        other => other.clone(),
    }
}

fn some_type(state: &mut u64) -> TensorType {
    // Mostly floats, of which most ops consist.
    let dtype = if below(state, 4) > 0 { DType::F32 } else { DType::ALL[below(state, 7)] };
    let shape = (0..below(state, 5)).map(|_| Dim::constant([2, 2, 2, 3, 1, 0][below(state, 6)])).collect();
    TensorType::new(dtype, shape)
}

/// Operands and attributes that mostly do not fit are errors; those that do fit run. Nothing panics.
#[test]
fn no_operand_makes_an_op_panic() {
    let mut state = 1;
    for (kind, mut module, id) in samples() {
        module.dims.iter_mut().for_each(|decl| decl.kind = DimKind::Static(Some(3)));
        let bound = bind(&module, &Bindings::default()).unwrap();
        let node = bound.func(id).nodes.last().cloned().unwrap();
        let own: Vec<TensorType> = node.args.iter().map(|arg| bound.func(id).ty(*arg).clone()).collect();
        let mut fitting = 0;
        for _ in 0..150 {
            let mut target = bound.clone();
            let attrs = node.op.attrs.iter().map(|attr| match below(&mut state, 3) {
                0 => varied(attr, &mut state),
                _ => attr.clone(),
            });
            let op = Op::new(kind, attrs.collect());
            let mut builder = Builder::new(&mut target, "fuzzed");
            // The types that the sample has, none, one or two of them replaced, now and then with one too many.
            let mut inputs = own.clone();
            for _ in 0..below(&mut state, 3).min(inputs.len()) {
                let place = below(&mut state, inputs.len());
                inputs[place] = some_type(&mut state);
            }
            inputs.extend((0..below(&mut state, 8) / 7).map(|_| some_type(&mut state)));
            let args: Vec<_> = inputs
                .iter()
                .enumerate()
                .map(|(idx, ty)| builder.input(format!("x{idx}"), ty.clone(), Domain::default()).unwrap())
                .collect();
            let Ok(results) = builder.op(op, &args) else { continue };
            for (idx, result) in results.into_iter().enumerate() {
                builder.output(format!("o{idx}"), result).unwrap();
            }
            let fuzzed = builder.finish();
            let tensors: Vec<Tensor> = inputs
                .iter()
                .map(|ty| {
                    let shape: Vec<usize> =
                        ty.shape.iter().map(|dim| dim.as_const().unwrap() as usize).collect();
                    random_input(1, "x", Domain::default(), ty.dtype, &shape).unwrap()
                })
                .collect();
            if verify(&target).is_ok() {
                fitting += usize::from(eval(&target, fuzzed, &SizeEnv::new(), &tensors).is_ok());
            }
        }
        assert!(fitting > 0, "{} never fits", kind.name());
    }
}
