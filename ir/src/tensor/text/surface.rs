//! Calls that exist only in text: each row writes a few ops. The printer never prints them.
//!
//! In: a call and its operands. Out: the value. Attributes given by position to *any* op need no row here: a list, text or
//! function between the parentheses is the op's first attribute of that kind, as in `reshape(x, [T,n*C])`.

use super::ast::{Arg, AttrAst, AttrAstKind, Call};
use super::attrs;
use crate::diag::Diagnostic;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::scalar::ScalarOp;
use crate::tensor::attr::AttrKind;
use crate::tensor::build::Builder;
use crate::tensor::ops::AttrSpec;
use crate::tensor::{Attr, OpKind, ValueId};

/// Writes a call.
pub type BuildFn = fn(&mut Builder<'_>, &Call, &[ValueId]) -> Result<ValueId, Diagnostic>;

/// One convenience.
#[derive(Clone, Copy)]
pub struct SurfaceRow {
    /// Its name in text.
    pub name: &'static str,
    /// How it is called.
    pub usage: &'static str,
    /// What it writes.
    pub doc: &'static str,
    /// How it is written.
    pub build: BuildFn,
}

/// All of them.
pub static ROWS: &[SurfaceRow] = &[
    SurfaceRow { name: "sum", usage: "sum(x, [axes])", doc: "`reduce_sum` over the axes.", build: sum },
    SurfaceRow {
        name: "einsum",
        usage: "einsum(\"tk,ko->to\", x, w)",
        doc: "`contract`, accumulated and delivered in the compute type of the operands.",
        build: einsum,
    },
    SurfaceRow {
        name: "vec",
        usage: "vec(x)",
        doc: "`reshape` of `[T,..]` to `[T,k]`, row-major.",
        build: vec,
    },
    SurfaceRow { name: "t", usage: "t(x)", doc: "`transpose` of the last two axes.", build: t },
    SurfaceRow {
        name: "broadcast_to",
        usage: "broadcast_to(x, [shape])",
        doc: "`broadcast` with the shapes aligned at their last axes; extents of 1 stretch.",
        build: broadcast_to,
    },
    SurfaceRow {
        name: "eye",
        usage: "eye(n=C, dtype=f32)",
        doc: "The identity matrix `[n,n]`; `f32` unless `dtype` says otherwise.",
        build: eye,
    },
    SurfaceRow { name: "square", usage: "square(x)", doc: "`mul(x, x)`.", build: square },
];

/// The row of that name.
pub fn find(name: &str) -> Option<&'static SurfaceRow> {
    ROWS.iter().find(|row| row.name == name)
}

/// The call does not look like its usage.
fn misused(call: &Call) -> Diagnostic {
    let usage = find(&call.name).map_or("", |row| row.usage);
    Diagnostic::input(call.name_span, format!("expected `{usage}`"))
}

/// The only operand.
fn only(call: &Call, args: &[ValueId]) -> Result<ValueId, Diagnostic> {
    match args {
        [x] => Ok(*x),
        _ => Err(misused(call)),
    }
}

/// The attribute `name`, of that kind, by name or (for lists and texts) by position.
fn attr(
    b: &Builder<'_>,
    call: &Call,
    name: &'static str,
    kind: AttrKind,
) -> Result<Option<Attr>, Diagnostic> {
    let by_name = call.attrs.iter().find(|attr| attr.name == name).map(|attr| &attr.value);
    let by_place = call.args.iter().find_map(|arg| match arg {
        Arg::Attr(attr @ AttrAst { kind: AttrAstKind::List(_) | AttrAstKind::Text(_), .. }) => Some(attr),
        _ => None,
    });
    let spec = AttrSpec { name, kind, default: None };
    let place_fits = matches!(kind, AttrKind::Dims | AttrKind::Axes | AttrKind::Einsum);
    let written = by_name.or(by_place.filter(|_| place_fits));
    written.map(|written| attrs::value(b.module, &spec, written)).transpose()
}

/// Errors: an attribute by another name than those, or more attributes by position than `by_place`.
fn only_attrs(call: &Call, names: &[&str], by_place: usize) -> Result<(), Diagnostic> {
    let n_placed = call.args.iter().filter(|arg| matches!(arg, Arg::Attr(_))).count();
    let unknown = call.attrs.iter().any(|attr| !names.contains(&attr.name.as_str()));
    let twice = call
        .attrs
        .iter()
        .enumerate()
        .any(|(idx, attr)| call.attrs[..idx].iter().any(|other| other.name == attr.name));
    if unknown || twice || n_placed > by_place { Err(misused(call)) } else { Ok(()) }
}

fn at<T>(call: &Call, result: Result<T, String>) -> Result<T, Diagnostic> {
    result.map_err(|why| Diagnostic::input(call.name_span, why))
}

fn sum(b: &mut Builder<'_>, call: &Call, args: &[ValueId]) -> Result<ValueId, Diagnostic> {
    only_attrs(call, &["axes"], 1)?;
    let x = only(call, args)?;
    let axes = attr(b, call, "axes", AttrKind::Axes)?.ok_or_else(|| misused(call))?;
    at(call, b.apply(OpKind::ReduceSum, vec![axes], &[x]))
}

fn einsum(b: &mut Builder<'_>, call: &Call, args: &[ValueId]) -> Result<ValueId, Diagnostic> {
    only_attrs(call, &["spec", "dtype"], 1)?;
    let spec = attr(b, call, "spec", AttrKind::Einsum)?.ok_or_else(|| misused(call))?;
    let own = args.first().map_or(DType::F32, |arg| b.ty(*arg).dtype.compute());
    let dtype = attr(b, call, "dtype", AttrKind::DType)?.unwrap_or(Attr::DType(own));
    at(call, b.apply(OpKind::Contract, vec![spec, dtype], args))
}

fn vec(b: &mut Builder<'_>, call: &Call, args: &[ValueId]) -> Result<ValueId, Diagnostic> {
    only_attrs(call, &[], 0)?;
    let x = only(call, args)?;
    let shape = b.ty(x).shape.clone();
    let Some((first, rest)) = shape.split_first() else {
        return Err(Diagnostic::input(
            call.name_span,
            format!("expected at least one axis, found {}", b.ty(x)),
        ));
    };
    let width = rest.iter().fold(Dim::constant(1), |product, dim| product.mul(dim));
    at(call, b.reshape(x, vec![first.clone(), width]))
}

fn t(b: &mut Builder<'_>, call: &Call, args: &[ValueId]) -> Result<ValueId, Diagnostic> {
    only_attrs(call, &[], 0)?;
    let x = only(call, args)?;
    at(call, b.transpose_last(x))
}

fn broadcast_to(b: &mut Builder<'_>, call: &Call, args: &[ValueId]) -> Result<ValueId, Diagnostic> {
    only_attrs(call, &["shape"], 1)?;
    let x = only(call, args)?;
    match attr(b, call, "shape", AttrKind::Dims)? {
        Some(Attr::Dims(shape)) => at(call, b.broadcast_to(x, &shape)),
        _ => Err(misused(call)),
    }
}

fn eye(b: &mut Builder<'_>, call: &Call, args: &[ValueId]) -> Result<ValueId, Diagnostic> {
    only_attrs(call, &["n", "dtype"], 0)?;
    let (Some(Attr::Dim(n)), []) = (attr(b, call, "n", AttrKind::Dim)?, args) else {
        return Err(misused(call));
    };
    let dtype = attr(b, call, "dtype", AttrKind::DType)?.unwrap_or(Attr::DType(DType::F32));
    let mut count = |axis: i64| {
        let attrs = vec![Attr::Dims(vec![n.clone(), n.clone()]), Attr::Int(axis), Attr::DType(DType::I64)];
        b.apply(OpKind::Iota, attrs, &[])
    };
    let (rows, columns) = (at(call, count(0))?, at(call, count(1))?);
    let equal = at(call, b.elementwise(ScalarOp::Eq, &[rows, columns]))?;
    at(call, b.apply(OpKind::Convert, vec![dtype], &[equal]))
}

fn square(b: &mut Builder<'_>, call: &Call, args: &[ValueId]) -> Result<ValueId, Diagnostic> {
    only_attrs(call, &[], 0)?;
    let x = only(call, args)?;
    at(call, b.mul(x, x))
}
