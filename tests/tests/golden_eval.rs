//! Every golden file against its spec, in the evaluator: in f64, and in the dtypes that the spec says.

use birkhoff_compiler::spec;
use birkhoff_ir::dim::{SizeEnv, Sym};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::Scalar;
use birkhoff_ir::tensor::autodiff::functions::{Of, Reverse, reverse};
use birkhoff_ir::tensor::bind::{Bindings, bind, solve_sizes};
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_ir::tensor::{DimKind, FuncId, Module, TensorType};
use birkhoff_tests::golden::{Golden, files, folder, spec_of, stem};
use std::path::Path;

/// The spec's text as a module.
fn module(path: &Path) -> Module {
    let source = std::fs::read_to_string(path).expect("a spec that was listed");
    let name = path.display().to_string();
    spec::parse(&source).unwrap_or_else(|errors| panic!("{}", errors.render(&name, &source)))
}

/// The attributes as parameters, or as dims where no parameter has the name.
fn bindings(module: &Module, golden: &Golden) -> Result<Bindings, String> {
    let mut bindings = Bindings::default();
    for (name, value) in &golden.attrs {
        let sym = Sym::from(name.as_str());
        match value {
            value if module.param(name).is_some() => {
                bindings.params.insert(sym, *value);
            }
            Scalar::Int(value) if module.dim(name).is_some() => {
                bindings.dims.insert(sym, *value);
            }
            _ => return Err(format!("the spec has no parameter or dim `{name}`")),
        }
    }
    Ok(bindings)
}

/// Sizes that the spec or an attribute fixes.
fn fixed(module: &Module, bindings: &Bindings) -> SizeEnv {
    let mut sizes = bindings.dims.clone();
    for decl in &module.dims {
        if let DimKind::Static(Some(value)) = decl.kind {
            sizes.entry(decl.name.clone()).or_insert(value);
        }
    }
    sizes
}

/// The first function, or the one that gives its results and gradients.
fn subject(golden: &Golden, module: &mut Module) -> Result<FuncId, String> {
    let (id, _) = module.exported().next().ok_or("no function is exported")?;
    let (wrt, of) = golden.gradients();
    if wrt.is_empty() {
        return Ok(id);
    }
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_string).collect();
    reverse(
        module,
        id,
        &Reverse { wrt: owned(wrt), of: Of::Named(owned(of)), values: true, ..Reverse::default() },
    )
}

/// Runs the spec's first function on the golden inputs and compares all golden outputs and gradients.
fn check(golden: &Golden, module: &Module, float: Option<DType>) -> Result<(), String> {
    let mut module = module.clone();
    let id = subject(golden, &mut module)?;
    let (module, func) = (&module, module.func(id));
    let mut bindings = Bindings { float, ..bindings(module, golden)? };
    let mut inputs = vec![];
    let mut signature: Vec<(Sym, TensorType)> = vec![];
    for (input, value) in func.inputs.iter().zip(func.input_values()) {
        let tensor = golden.tensors.get(input.name.as_str());
        inputs.push(tensor.ok_or_else(|| format!("the file has no tensor `{}`", input.name))?);
        signature.push((input.name.clone(), func.ty(value).clone()));
    }
    let shapes: Vec<Vec<i64>> =
        inputs.iter().map(|tensor| tensor.shape().iter().map(|extent| *extent as i64).collect()).collect();
    let sizes = solve_sizes(&signature, &shapes, &fixed(module, &bindings)).map_err(|error| error.message)?;
    for decl in &module.dims {
        if let (DimKind::Static(_), Some(value)) = (&decl.kind, sizes.get(&decl.name)) {
            bindings.dims.insert(decl.name.clone(), *value);
        }
    }
    let bound = bind(module, &bindings).map_err(|error| error.message)?;
    let mut arguments = vec![];
    for (tensor, value) in inputs.into_iter().zip(func.input_values()) {
        let dtype = bound.func(id).ty(value).dtype;
        if float.is_none() && tensor.dtype() != dtype {
            return Err(format!("an input is {dtype} in the spec and {} in the file", tensor.dtype()));
        }
        arguments.push(Tensor::from_f64s(dtype, tensor.shape().to_vec(), &tensor.to_f64s())?);
    }
    let outputs = eval(&bound, id, &sizes, &arguments).map_err(|error| error.message)?;
    let mut wrong: Vec<String> = golden
        .outputs()
        .into_iter()
        .filter(|name| !func.outputs.iter().any(|out| out.name.as_str() == *name))
        .map(|name| format!("the spec has no output `{name}`"))
        .collect();
    for (output, tensor) in func.outputs.iter().zip(&outputs) {
        wrong.extend(golden.difference(&output.name, tensor, float.unwrap_or(DType::F32)));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// All files in one of the two ways; every spec has a file and every file a spec.
fn check_all(float: Option<DType>) {
    let specs = files(&folder("specs"), "toml").expect("tests/specs");
    let mut used = vec![false; specs.len()];
    let mut failures = vec![];
    for path in files(&folder("golden"), "safetensors").expect("tests/golden") {
        let golden = Golden::read(&path).expect("a golden file");
        let Some(spec) = spec_of(&golden.name, &specs) else {
            failures.push(format!("{}: no spec in tests/specs is a prefix of this name", golden.name));
            continue;
        };
        used[specs.iter().position(|other| other == spec).expect("one of them")] = true;
        if let Err(why) = check(&golden, &module(spec), float) {
            failures.push(format!("{}: {why}", golden.name));
        }
    }
    let orphans = specs.iter().zip(used).filter(|(_, used)| !used);
    failures.extend(orphans.map(|(spec, _)| format!("{}.toml: no golden file tests it", stem(spec))));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn golden_outputs_in_f64() {
    check_all(Some(DType::F64));
}

#[test]
fn golden_outputs_in_the_dtypes_of_the_spec() {
    check_all(None);
}
