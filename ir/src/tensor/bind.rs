//! Binding: from a module with parameters and compile-time dims to one whose only symbols are run-time sizes.
//!
//! In: a module and values by name. Out: the bound module. Shapes are bound from those of the inputs with [`solve_sizes`].

use super::{Attr, Func, Module, TensorType};
use crate::diag::{Diagnostic, Span};
use crate::dim::{Dim, SizeEnv, Sym};
use crate::dtype::DType;
use crate::scalar::Scalar;
use crate::tensor::DimKind;
use std::collections::BTreeMap;

/// What is known at compile time beyond the module's own text.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Bindings {
    /// Values of compile-time dims.
    pub dims: SizeEnv,
    /// Values of parameters, over their defaults.
    pub params: BTreeMap<Sym, Scalar>,
    /// If given, every float type becomes this one.
    pub float: Option<DType>,
}

/// Replaces parameters and compile-time dims by their values.
///
/// Errors: a name that the module does not declare, a dim without a value, a dim that is not positive, a parameter of
/// another kind.
pub fn bind(module: &Module, bindings: &Bindings) -> Result<Module, Diagnostic> {
    let env = static_sizes(module, bindings)?;
    let params = param_values(module, bindings)?;
    let retype = |dtype: DType| match bindings.float {
        Some(float) if dtype.is_float() => float,
        _ => dtype,
    };
    let mut bound = module.clone();
    bound.params.clear();
    bound.dims.retain(|decl| matches!(decl.kind, DimKind::RunTime { .. }));
    for func in &mut bound.funcs {
        bind_func(func, &env, &params, &retype);
    }
    Ok(bound)
}

fn bind_func(
    func: &mut Func,
    env: &SizeEnv,
    params: &BTreeMap<Sym, Scalar>,
    retype: &dyn Fn(DType) -> DType,
) {
    for value in &mut func.values {
        value.ty.dtype = retype(value.ty.dtype);
        value.ty.shape.iter_mut().for_each(|dim| *dim = dim.subst(env));
    }
    for attr in func.nodes.iter_mut().flat_map(|node| &mut node.op.attrs) {
        *attr = match attr.clone() {
            Attr::Dim(dim) => Attr::Dim(dim.subst(env)),
            Attr::Dims(dims) => Attr::Dims(dims.iter().map(|dim| dim.subst(env)).collect()),
            Attr::DType(dtype) => Attr::DType(retype(dtype)),
            Attr::Param(name) => match params.get(&name) {
                Some(Scalar::Int(value)) => Attr::Int(*value),
                Some(Scalar::Float(value)) => Attr::Float(super::F64(*value)),
                Some(Scalar::Bool(value)) => Attr::Bool(*value),
                None => Attr::Param(name),
            },
            other => other,
        };
    }
    // A parameter in the place of a size became an integer.
    for node in &mut func.nodes {
        for (spec, attr) in node.op.kind.attrs().iter().zip(&mut node.op.attrs) {
            if spec.kind == super::attr::AttrKind::Dim
                && let Attr::Int(value) = attr
            {
                *attr = Attr::Dim(Dim::constant(*value));
            }
        }
    }
}

/// The values of all compile-time dims under `bindings`.
///
/// Errors: as [`bind`].
pub fn static_sizes(module: &Module, bindings: &Bindings) -> Result<SizeEnv, Diagnostic> {
    if let Some(name) = bindings.dims.keys().find(|name| module.dim(name).is_none()) {
        let known: Vec<&str> = module.dims.iter().map(|decl| decl.name.as_str()).collect();
        return Err(Diagnostic::input(Span::NONE, format!("there is no dim `{name}`"))
            .help(format!("the dims are: {}", known.join(", "))));
    }
    let mut env = SizeEnv::new();
    for decl in &module.dims {
        let DimKind::Static(default) = &decl.kind else { continue };
        let Some(value) = bindings.dims.get(&decl.name).copied().or(*default) else {
            return Err(Diagnostic::input(decl.span, format!("the dim `{}` has no value", decl.name)).help(
                format!("give it with --dim {}=VALUE, or an input file whose shapes say it", decl.name),
            ));
        };
        if value < 1 {
            let message = format!("the dim `{}` must be at least 1, found {value}", decl.name);
            return Err(Diagnostic::input(decl.span, message));
        }
        env.insert(decl.name.clone(), value);
    }
    Ok(env)
}

fn param_values(module: &Module, bindings: &Bindings) -> Result<BTreeMap<Sym, Scalar>, Diagnostic> {
    if let Some(name) = bindings.params.keys().find(|name| module.param(name).is_none()) {
        let known: Vec<&str> = module.params.iter().map(|decl| decl.name.as_str()).collect();
        return Err(Diagnostic::input(Span::NONE, format!("there is no parameter `{name}`"))
            .help(format!("the parameters are: {}", known.join(", "))));
    }
    let mut values = BTreeMap::new();
    for decl in &module.params {
        let value = match (decl.value, bindings.params.get(&decl.name)) {
            (default, None) => default,
            (Scalar::Float(_), Some(Scalar::Int(value))) => Scalar::Float(*value as f64),
            (Scalar::Int(_), Some(Scalar::Int(value))) => Scalar::Int(*value),
            (Scalar::Float(_), Some(Scalar::Float(value))) => Scalar::Float(*value),
            (Scalar::Bool(_), Some(Scalar::Bool(value))) => Scalar::Bool(*value),
            (Scalar::Int(_), Some(Scalar::Float(value))) if value.fract() == 0.0 && value.abs() < 9e15 => {
                Scalar::Int(*value as i64)
            }
            (default, Some(found)) => {
                let kind = match default {
                    Scalar::Int(_) => "an integer",
                    Scalar::Float(_) => "a number",
                    Scalar::Bool(_) => "true or false",
                };
                let found = match found {
                    Scalar::Int(value) => value.to_string(),
                    Scalar::Float(value) => format!("{value:?}"),
                    Scalar::Bool(value) => value.to_string(),
                };
                let message = format!("the parameter `{}` must be {kind}, found {found}", decl.name);
                return Err(Diagnostic::input(decl.span, message));
            }
        };
        values.insert(decl.name.clone(), value);
    }
    Ok(values)
}

/// Sizes of named dims from the shapes of a function's inputs: names alone first, then what follows from polynomials with
/// one unknown name, and everything else is checked.
///
/// `known` are sizes that are already fixed (by the text, or an option). Returns all sizes that could be found, `known`
/// included.
///
/// Errors: a rank that differs, two shapes (or a shape and a fixed size) that contradict each other; both are named.
pub fn solve_sizes(
    inputs: &[(Sym, TensorType)],
    shapes: &[Vec<i64>],
    known: &SizeEnv,
) -> Result<SizeEnv, Diagnostic> {
    let mut env = known.clone();
    let mut origin: BTreeMap<Sym, String> = BTreeMap::new();
    for ((name, ty), shape) in inputs.iter().zip(shapes) {
        if ty.rank() != shape.len() {
            let message = format!("the input `{name}` must be {ty}, found the shape {shape:?}");
            return Err(Diagnostic::input(Span::NONE, message));
        }
    }
    loop {
        let before = env.len();
        for ((name, ty), shape) in inputs.iter().zip(shapes) {
            for (axis, (dim, extent)) in ty.shape.iter().zip(shape).enumerate() {
                let dim = dim.subst(&env);
                if let Some((sym, value)) = solve_linear(&dim, *extent) {
                    env.insert(sym.clone(), value);
                    origin.insert(sym, format!("axis {axis} of `{name}`"));
                }
            }
        }
        if env.len() == before {
            break;
        }
    }
    for ((name, ty), shape) in inputs.iter().zip(shapes) {
        for (axis, (dim, extent)) in ty.shape.iter().zip(shape).enumerate() {
            let expected = match dim.subst(&env).as_const() {
                Some(value) => value,
                None => continue,
            };
            if expected != *extent {
                let given = |sym: &Sym| {
                    origin.get(sym).map_or("the spec or an option".to_string(), |from| from.clone())
                };
                let names: Vec<String> = dim
                    .syms()
                    .iter()
                    .filter_map(|sym| {
                        env.get(sym).map(|value| format!("{sym} = {value} from {}", given(sym)))
                    })
                    .collect();
                let because =
                    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
                let wanted = match dim.as_const() {
                    Some(value) => value.to_string(),
                    None => format!("{dim} = {expected}{because}"),
                };
                let message = format!("axis {axis} of the input `{name}` must be {wanted}, found {extent}");
                return Err(Diagnostic::input(Span::NONE, message)
                    .help(format!("`{name}` is declared {ty} and has the shape {shape:?}")));
            }
        }
    }
    Ok(env)
}

/// Solves `dim = value` for its only name, if it is linear in it with an integer answer.
fn solve_linear(dim: &Dim, value: i64) -> Option<(Sym, i64)> {
    let syms = dim.syms();
    let [sym] = syms.as_slice() else { return None };
    let mut coeff = 0i64;
    let mut offset = 0i64;
    for (names, factor) in dim.terms() {
        match names.len() {
            0 => offset = factor,
            1 => coeff = factor,
            _ => return None,
        }
    }
    let rest = value.checked_sub(offset)?;
    (coeff != 0 && rest % coeff == 0).then(|| (sym.clone(), rest / coeff))
}
