//! Type rules of the primitive ops that are not elementwise.
//!
//! In: operand types and attributes. Out: result types, or what was expected and found. Assumes the operand count fits the
//! op's row ([`result_types`] checks it); does not look at loop bodies beyond their signature.

use super::{Attr, Module, Op, OpKind, TensorType};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::scalar::Scalar;
use crate::tensor::ops::{Meaning, Operands};

type Types = Result<Vec<TensorType>, String>;

/// Result types of `op` on operands of those types.
///
/// A composite is expanded in a scratch copy of `module` to find its types.
///
/// Errors: expectation and finding.
pub fn result_types(module: &Module, op: &Op, args: &[TensorType]) -> Types {
    check_operand_count(op, args.len())?;
    match op.kind {
        OpKind::Scalar(scalar) => {
            if let Some(other) = args.iter().find(|ty| ty.shape != args[0].shape) {
                return Err(format!(
                    "`{scalar}` expects operands of one shape, found {} and {other}",
                    args[0]
                ));
            }
            let dtypes: Vec<DType> = args.iter().map(|ty| ty.dtype).collect();
            Ok(vec![TensorType::new(scalar.infer(&dtypes)?, args[0].shape.clone())])
        }
        kind => match kind.row().map(|row| row.meaning) {
            Some(Meaning::Primitive(infer) | Meaning::Transform(infer, _)) => infer(module, args, op),
            Some(Meaning::Composite(_)) => super::build::types_by_expansion(module, op, args),
            None => Err(format!("`{}` has no row in the op table", kind.name())),
        },
    }
}

/// Errors if `op` cannot take `n_args` operands.
pub fn check_operand_count(op: &Op, n_args: usize) -> Result<(), String> {
    let name = op.kind.name();
    match op.kind.operands() {
        Operands::Fixed(names) if n_args != names.len() => {
            Err(format!("`{name}` takes {} ({}), found {n_args}", plural(names.len()), names.join(", ")))
        }
        Operands::Variadic(_) if n_args == 0 => {
            Err(format!("`{name}` takes at least one operand, found none"))
        }
        Operands::Optional(must, may) if n_args != must.len() && n_args != must.len() + may.len() => {
            Err(format!(
                "`{name}` takes {} ({}) or {} more ({}), found {n_args}",
                plural(must.len()),
                must.join(", "),
                may.len(),
                may.join(", ")
            ))
        }
        _ => Ok(()),
    }
}

fn plural(count: usize) -> String {
    if count == 1 { "1 operand".into() } else { format!("{count} operands") }
}

fn one(dtype: DType, shape: Vec<Dim>) -> Types {
    Ok(vec![TensorType::new(dtype, shape)])
}

/// `const`: a scalar of the attribute's dtype.
pub fn constant(module: &Module, _args: &[TensorType], op: &Op) -> Types {
    op.number(module, "value")?;
    one(op.dtype().ok_or("`const` needs a dtype")?, vec![])
}

/// `iota`: the attribute's shape; the axis exists and the dtype is a number.
pub fn iota(module: &Module, _args: &[TensorType], op: &Op) -> Types {
    let shape = op.dims("shape").to_vec();
    op.axis(module, shape.len())?;
    let dtype = op.dtype().ok_or("`iota` needs a dtype")?;
    if dtype == DType::Bool {
        return Err("`iota` expects a number type, found bool".into());
    }
    one(dtype, shape)
}

/// `random_bits`: `i32[2]` to `i32[shape]`.
pub fn random_bits(_module: &Module, args: &[TensorType], op: &Op) -> Types {
    if args[0] != TensorType::new(DType::I32, vec![Dim::constant(2)]) {
        return Err(format!("`random_bits` expects a key i32[2], found {}", args[0]));
    }
    one(DType::I32, op.dims("shape").to_vec())
}

/// `convert`: the attribute's dtype.
pub fn convert(_module: &Module, args: &[TensorType], op: &Op) -> Types {
    one(op.dtype().ok_or("`convert` needs a dtype")?, args[0].shape.clone())
}

/// The operand's type.
pub fn same(_module: &Module, args: &[TensorType], _op: &Op) -> Types {
    Ok(vec![args[0].clone()])
}

/// `broadcast`: axes are increasing, and extents there equal the operand's.
pub fn broadcast(_module: &Module, args: &[TensorType], op: &Op) -> Types {
    let (shape, axes) = (op.dims("shape"), op.axes("axes"));
    if axes.len() != args[0].rank() {
        return Err(format!("`broadcast` needs one axis per axis of {}, found {}", args[0], axes.len()));
    }
    if axes.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err("`broadcast` expects increasing axes".into());
    }
    for (dim, axis) in args[0].shape.iter().zip(axes) {
        match shape.get(*axis as usize) {
            Some(extent) if extent == dim => {}
            Some(extent) => {
                return Err(format!("`broadcast`: axis {axis} has extent {extent}, the operand {dim}"));
            }
            None => return Err(format!("`broadcast`: axis {axis} is not one of {} axes", shape.len())),
        }
    }
    one(args[0].dtype, shape.to_vec())
}

/// `reshape`: as many elements.
pub fn reshape(_module: &Module, args: &[TensorType], op: &Op) -> Types {
    let result = TensorType::new(args[0].dtype, op.dims("shape").to_vec());
    if result.n_elems() != args[0].n_elems() {
        return Err(format!(
            "`reshape` keeps the number of elements: {} has {}, {result} has {}",
            args[0],
            args[0].n_elems(),
            result.n_elems()
        ));
    }
    Ok(vec![result])
}

/// `transpose`: a permutation.
pub fn transpose(_module: &Module, args: &[TensorType], op: &Op) -> Types {
    let axes = op.axes("axes");
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    if sorted.iter().copied().ne(0..args[0].rank() as u32) {
        return Err(format!("`transpose` expects a permutation of the axes of {}, found {axes:?}", args[0]));
    }
    one(args[0].dtype, axes.iter().map(|axis| args[0].shape[*axis as usize].clone()).collect())
}

/// `slice`: `0 <= start <= end <= extent` where the sizes are known.
pub fn slice(module: &Module, args: &[TensorType], op: &Op) -> Types {
    let axis = op.axis(module, args[0].rank())?;
    let (start, end) = (op.dim(module, "start")?, op.dim(module, "end")?);
    let mut shape = args[0].shape.clone();
    let negative = |dim: &Dim| dim.as_const().is_some_and(|value| value < 0);
    if negative(&start) || negative(&end.sub(&start)) || negative(&shape[axis].sub(&end)) {
        return Err(format!("`slice`: {start}..{end} is not within axis {axis} of {}", args[0]));
    }
    shape[axis] = end.sub(&start);
    one(args[0].dtype, shape)
}

/// `pad`: adds `low + high` to the axis.
pub fn pad(module: &Module, args: &[TensorType], op: &Op) -> Types {
    let axis = op.axis(module, args[0].rank())?;
    if args[1] != TensorType::new(args[0].dtype, vec![]) {
        return Err(format!("`pad` expects a scalar {} as its value, found {}", args[0].dtype, args[1]));
    }
    let (low, high) = (op.dim(module, "low")?, op.dim(module, "high")?);
    if [&low, &high].iter().any(|dim| dim.as_const().is_some_and(|value| value < 0)) {
        return Err(format!("`pad` expects counts that are not negative, found {low} and {high}"));
    }
    let mut shape = args[0].shape.clone();
    shape[axis] = shape[axis].add(&low).add(&high);
    one(args[0].dtype, shape)
}

/// `concat`: equal but for the axis, whose extents add up.
pub fn concat(module: &Module, args: &[TensorType], op: &Op) -> Types {
    let axis = op.axis(module, args[0].rank())?;
    let mut shape = args[0].shape.clone();
    for other in &args[1..] {
        let mut expected = args[0].clone();
        if other.rank() == expected.rank() {
            expected.shape[axis] = other.shape[axis].clone();
        }
        if *other != expected {
            return Err(format!(
                "`concat` along axis {axis} expects equal types elsewhere, found {} and {other}",
                args[0]
            ));
        }
        shape[axis] = shape[axis].add(&other.shape[axis]);
    }
    one(args[0].dtype, shape)
}

/// `gather`: the index's shape in the place of the axis.
pub fn gather(module: &Module, args: &[TensorType], op: &Op) -> Types {
    let axis = op.axis(module, args[0].rank())?;
    if !args[1].dtype.is_int() {
        return Err(format!("`gather` expects integer indices, found {}", args[1]));
    }
    let mut shape = args[0].shape[..axis].to_vec();
    shape.extend(args[1].shape.iter().cloned());
    shape.extend(args[0].shape[axis + 1..].iter().cloned());
    one(args[0].dtype, shape)
}

/// Reductions: the axes exist, each once, and vanish.
pub fn reduce(_module: &Module, args: &[TensorType], op: &Op) -> Types {
    let axes = op.axes("axes");
    let name = op.kind.name();
    if args[0].dtype == DType::Bool {
        return Err(format!("`{name}` expects numbers, found bool"));
    }
    if axes.windows(2).any(|pair| pair[0] >= pair[1])
        || axes.iter().any(|axis| *axis as usize >= args[0].rank())
    {
        return Err(format!("`{name}` expects increasing axes of {}, found {axes:?}", args[0]));
    }
    let kept = args[0].shape.iter().enumerate().filter(|(axis, _)| !axes.contains(&(*axis as u32)));
    one(args[0].dtype, kept.map(|(_, dim)| dim.clone()).collect())
}

/// `contract`: one label list per operand, equal extents per label.
pub fn contract(_module: &Module, args: &[TensorType], op: &Op) -> Types {
    let spec = op.einsum().ok_or("`contract` needs a spec")?;
    let dtype = op.dtype().ok_or("`contract` needs a dtype")?;
    if spec.inputs.len() != args.len() {
        return Err(format!("`contract` {spec} names {} operands, found {}", spec.inputs.len(), args.len()));
    }
    if !dtype.is_float() || args.iter().any(|ty| ty.dtype != args[0].dtype || !ty.dtype.is_float()) {
        return Err("`contract` expects floats of one dtype, and delivers floats".into());
    }
    let mut extents: Vec<(char, Dim)> = vec![];
    for (labels, ty) in spec.inputs.iter().zip(args) {
        if labels.len() != ty.rank() {
            let labels: String = labels.iter().collect();
            return Err(format!(
                "`contract` {spec}: `{labels}` names {} axes, the operand is {ty}",
                labels.len()
            ));
        }
        for (label, dim) in labels.iter().zip(&ty.shape) {
            match extents.iter().find(|(other, _)| other == label) {
                Some((_, extent)) if extent != dim => {
                    return Err(format!("`contract` {spec}: label `{label}` has extents {extent} and {dim}"));
                }
                Some(_) => {}
                None => extents.push((*label, dim.clone())),
            }
        }
    }
    let extent = |label: &char| extents.iter().find(|(other, _)| other == label).map(|(_, dim)| dim.clone());
    one(dtype, spec.output.iter().filter_map(extent).collect())
}

/// `loop`: the body's signature fits state, slices and rest.
pub fn loop_op(module: &Module, args: &[TensorType], op: &Op) -> Types {
    let ((carry, scan), trip) = (op.loop_counts(module)?, op.dim(module, "trip")?);
    let body = match op.body().and_then(|id| module.funcs.get(id.0 as usize)) {
        Some(body) => body,
        None => return Err("`loop` needs a body that is declared before it".into()),
    };
    if trip.as_const().is_some_and(|value| value < 0) {
        return Err(format!("`loop`: the trip count must not be negative, found {trip}"));
    }
    if carry + scan > args.len() || body.inputs.len() != args.len() {
        return Err(format!(
            "`loop` has {} operands, {carry} carried and {scan} scanned; the body @{} takes {}",
            args.len(),
            body.name,
            body.inputs.len()
        ));
    }
    for (idx, arg) in args.iter().enumerate() {
        let mut expected = arg.clone();
        if (carry..carry + scan).contains(&idx) {
            if arg.rank() == 0 || arg.shape[0] != trip {
                return Err(format!("`loop`: scanned operand {idx} must have {trip} slices, found {arg}"));
            }
            expected.shape.remove(0);
        }
        let found = &body.values[idx].ty;
        if *found != expected {
            return Err(format!(
                "`loop`: operand {idx} of the body @{} must be {expected}, found {found}",
                body.name
            ));
        }
    }
    if body.outputs.len() < carry {
        return Err(format!("`loop`: the body @{} must return {carry} carried values at least", body.name));
    }
    let mut results = args[..carry].to_vec();
    for (idx, out) in body.outputs.iter().enumerate() {
        let ty = body.ty(out.value).clone();
        match results.get(idx).filter(|_| idx < carry) {
            Some(state) if *state != ty => {
                return Err(format!(
                    "`loop`: state {idx} is {state} and becomes {ty} in the body @{}",
                    body.name
                ));
            }
            Some(_) => {}
            None => {
                let mut shape = vec![trip.clone()];
                shape.extend(ty.shape);
                results.push(TensorType::new(ty.dtype, shape));
            }
        }
    }
    Ok(results)
}

/// `solve`: `[.., m, m], [.., m, k] -> [.., m, k]`.
pub fn solve(_module: &Module, args: &[TensorType], _op: &Op) -> Types {
    let (a, b) = (&args[0], &args[1]);
    let rank = a.rank();
    let fits = rank >= 2
        && b.rank() == rank
        && a.dtype == b.dtype
        && a.dtype.is_float()
        && a.shape[rank - 1] == a.shape[rank - 2]
        && a.shape[..rank - 1] == b.shape[..rank - 1];
    if fits {
        Ok(vec![b.clone()])
    } else {
        Err(format!("`solve` expects [..,m,m] and [..,m,k], found {a} and {b}"))
    }
}

/// `qr`: `[.., m, k] -> [.., m, k], [.., k, k]`.
pub fn qr(_module: &Module, args: &[TensorType], _op: &Op) -> Types {
    let a = &args[0];
    let rank = a.rank();
    if rank < 2 || !a.dtype.is_float() {
        return Err(format!("`qr` expects floats [..,m,k], found {a}"));
    }
    if a.shape[rank - 2].sub(&a.shape[rank - 1]).as_const().is_some_and(|value| value < 0) {
        return Err(format!("`qr` expects at least as many rows as columns, found {a}"));
    }
    let mut r = a.clone();
    r.shape[rank - 2] = a.shape[rank - 1].clone();
    Ok(vec![a.clone(), r])
}

/// The attribute value as a literal of IR text would give it, checked against its kind.
///
/// Errors: expectation and finding.
pub fn check_attr(module: &Module, op: &Op, pos: usize) -> Result<(), String> {
    use super::attr::AttrKind as Kind;
    let spec = &op.kind.attrs()[pos];
    let name = spec.name;
    let number = |attr: &Attr| matches!(attr, Attr::Int(_) | Attr::Float(_) | Attr::Bool(_) | Attr::Param(_));
    let attr = &op.attrs[pos];
    if let Attr::Param(param) = attr
        && module.param(param).is_none()
    {
        return Err(format!("no parameter `{param}` is declared"));
    }
    let ok = match (spec.kind, attr) {
        (Kind::Int, _) => return op.int(module, name).map(|_| ()),
        (Kind::Bool, _) => return op.flag(module, name).map(|_| ()),
        (Kind::Float, Attr::Param(_)) => match op.number(module, name)? {
            Scalar::Bool(_) => {
                return Err(format!(
                    "`{name}` of `{}` must be a number, found a truth value",
                    op.kind.name()
                ));
            }
            _ => true,
        },
        (Kind::Float, attr) => number(attr) && !matches!(attr, Attr::Bool(_)),
        (Kind::Number, attr) => number(attr),
        (Kind::Word(words), Attr::Word(word)) => {
            if words.contains(&word.as_str()) {
                return Ok(());
            }
            return Err(format!("`{name}` must be one of {}, found `{word}`", words.join(", ")));
        }
        (Kind::Dim, Attr::Dim(_) | Attr::Param(_)) => return op.dim(module, name).map(|_| ()),
        (Kind::Dims, Attr::Dims(_)) | (Kind::Axes, Attr::Axes(_)) | (Kind::DType, Attr::DType(_)) => true,
        (Kind::Einsum, Attr::Einsum(_)) | (Kind::Func, Attr::Func(_)) => true,
        _ => false,
    };
    if ok { Ok(()) } else { Err(format!("`{name}` of `{}` is not of its kind: {attr:?}", op.kind.name())) }
}
