//! Attributes between text and IR: which row of the op table a written attribute belongs to, and its value as that kind.
//!
//! In: attributes as written. Out: one [`Attr`] per attribute of the op, defaults filled in. Ranges that depend on the
//! operands (does the axis exist?) are the type rules' business.

use super::ast::{Arg, AttrAst, AttrAstKind, Call, DimAst, NamedAttr};
use super::cursor::special_float;
use super::suggest;
use crate::diag::{Diagnostic, Span};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::tensor::attr::AttrKind;
use crate::tensor::ops::AttrSpec;
use crate::tensor::{Attr, Einsum, F64, Module, OpKind};

/// The default of an attribute; `None` if it must be given.
pub fn default_attr(spec: &AttrSpec) -> Option<Attr> {
    let text = spec.default?;
    match spec.kind {
        AttrKind::Int => text.parse().ok().map(Attr::Int),
        AttrKind::Float | AttrKind::Number => text.parse().ok().map(|value| Attr::Float(F64(value))),
        AttrKind::Bool => text.parse().ok().map(Attr::Bool),
        AttrKind::Word(_) => Some(Attr::Word(Sym::from(text))),
        AttrKind::Dim => text.parse().ok().map(|value: i64| Attr::Dim(Dim::constant(value))),
        _ => None,
    }
}

/// The attributes of `kind` in the order of its row, from those of `call`.
///
/// Errors: an attribute that the op does not have, has twice, or lacks; a value of another kind.
pub fn resolve(module: &Module, kind: OpKind, call: &Call) -> Result<Vec<Attr>, Diagnostic> {
    let specs = kind.attrs();
    let mut found: Vec<Option<Attr>> = vec![None; specs.len()];
    for named in &call.attrs {
        let pos = position(specs, named, &call.name)?;
        if found[pos].is_some() {
            return Err(Diagnostic::input(named.span, format!("`{}` is given twice", named.name)));
        }
        found[pos] = Some(value(module, &specs[pos], &named.value)?);
    }
    for arg in &call.args {
        let Arg::Attr(attr) = arg else { continue };
        let free = (0..specs.len()).find(|pos| found[*pos].is_none() && takes(specs[*pos].kind, attr));
        let Some(pos) = free else {
            let message = format!("`{}` has no attribute that this could be", call.name);
            return Err(Diagnostic::input(attr.span, message).help(attr_help(specs, &call.name)));
        };
        found[pos] = Some(value(module, &specs[pos], attr)?);
    }
    let filled = specs.iter().zip(found).map(|(spec, attr)| {
        attr.or_else(|| default_attr(spec)).ok_or_else(|| {
            let message = format!("`{}` needs the attribute `{}`", call.name, spec.name);
            Diagnostic::input(call.name_span, message).help(attr_help(specs, &call.name))
        })
    });
    filled.collect()
}

fn position(specs: &[AttrSpec], named: &NamedAttr, op: &str) -> Result<usize, Diagnostic> {
    specs.iter().position(|spec| spec.name == named.name).ok_or_else(|| {
        let message = format!("`{op}` has no attribute `{}`", named.name);
        let near = suggest::nearest(&named.name, specs.iter().map(|spec| spec.name));
        let help = near.map_or_else(|| attr_help(specs, op), |near| format!("did you mean `{near}`?"));
        Diagnostic::input(named.span, message).help(help)
    })
}

fn attr_help(specs: &[AttrSpec], op: &str) -> String {
    if specs.is_empty() {
        return format!("`{op}` has no attributes");
    }
    let names: Vec<&str> = specs.iter().map(|spec| spec.name).collect();
    format!("the attributes of `{op}` are: {}", names.join(", "))
}

/// Whether an attribute given by position can be of that kind.
fn takes(kind: AttrKind, attr: &AttrAst) -> bool {
    match attr.kind {
        AttrAstKind::List(_) => matches!(kind, AttrKind::Dims | AttrKind::Axes),
        AttrAstKind::Text(_) => kind == AttrKind::Einsum,
        AttrAstKind::Func(_) => kind == AttrKind::Func,
        _ => false,
    }
}

/// What a kind of attribute looks like in text.
pub fn kind_text(kind: AttrKind) -> String {
    match kind {
        AttrKind::Int => "an integer or a parameter `$name`".into(),
        AttrKind::Float => "a number or a parameter `$name`".into(),
        AttrKind::Number => "a number, `true`, `false` or a parameter `$name`".into(),
        AttrKind::Bool => "`true`, `false` or a parameter `$name`".into(),
        AttrKind::Word(words) => format!("one of {}", words.join(", ")),
        AttrKind::Dim => "a size or a parameter `$name`".into(),
        AttrKind::Dims => "a list of sizes such as [T,n*C]".into(),
        AttrKind::Axes => "a list of axes such as [0,2]".into(),
        AttrKind::DType => "an element type such as f32".into(),
        AttrKind::Einsum => "a contraction such as \"tk,ko->to\"".into(),
        AttrKind::Func => "a function `@name`".into(),
    }
}

/// The value of the attribute `spec` as written in `attr`.
///
/// Errors: another kind of value, an undeclared name.
pub fn value(module: &Module, spec: &AttrSpec, attr: &AttrAst) -> Result<Attr, Diagnostic> {
    let wrong = || Diagnostic::input(attr.span, format!("`{}` must be {}", spec.name, kind_text(spec.kind)));
    match (&attr.kind, spec.kind) {
        (AttrAstKind::Param(name), AttrKind::Int | AttrKind::Float | AttrKind::Number) => {
            param(module, name, attr.span)
        }
        (AttrAstKind::Param(name), AttrKind::Bool | AttrKind::Dim) => param(module, name, attr.span),
        (AttrAstKind::Float(number), AttrKind::Float | AttrKind::Number) => Ok(Attr::Float(F64(*number))),
        (AttrAstKind::Text(text), AttrKind::Einsum) => {
            let spec = Einsum::parse(text);
            spec.map(Attr::Einsum).map_err(|why| Diagnostic::input(attr.span, why))
        }
        (AttrAstKind::Func(name), AttrKind::Func) => module.find(name).map(Attr::Func).ok_or_else(|| {
            Diagnostic::input(attr.span, format!("no function `@{name}` is declared before this"))
        }),
        (AttrAstKind::List(items), AttrKind::Dims) => extents(module, items, attr.span).map(Attr::Dims),
        (AttrAstKind::List(items), AttrKind::Axes) => {
            let axis = |item: &DimAst| u32::try_from(item.dim.as_const()?).ok();
            items.iter().map(axis).collect::<Option<_>>().map(Attr::Axes).ok_or_else(wrong)
        }
        (AttrAstKind::Dim(dim), kind) => scalar_value(module, kind, dim)?.ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

/// An integer, name or polynomial as an attribute of that kind; `None` if it is of another.
fn scalar_value(module: &Module, kind: AttrKind, written: &DimAst) -> Result<Option<Attr>, Diagnostic> {
    let int = written.dim.as_const();
    let name = written.dim.as_sym().map(Sym::as_str);
    let truth = match name {
        Some("true") => Some(Attr::Bool(true)),
        Some("false") => Some(Attr::Bool(false)),
        _ => None,
    };
    let float = name.and_then(special_float).map(|value| Attr::Float(F64(value)));
    Ok(match kind {
        AttrKind::Int => int.map(Attr::Int),
        AttrKind::Float => int.map(Attr::Int).or(float),
        AttrKind::Number => int.map(Attr::Int).or(float).or(truth),
        AttrKind::Bool => truth,
        AttrKind::Word(words) => {
            name.filter(|name| words.contains(name)).map(|name| Attr::Word(Sym::from(name)))
        }
        AttrKind::DType => name.and_then(DType::from_name).map(Attr::DType),
        AttrKind::Dim => {
            declared(module, written)?;
            Some(Attr::Dim(written.dim.clone()))
        }
        AttrKind::Dims | AttrKind::Axes | AttrKind::Einsum | AttrKind::Func => None,
    })
}

/// A parameter as an attribute. Errors: it is not declared.
pub fn param(module: &Module, name: &Sym, span: Span) -> Result<Attr, Diagnostic> {
    if module.param(name).is_some() {
        return Ok(Attr::Param(name.clone()));
    }
    let near = suggest::nearest(name, module.params.iter().map(|decl| decl.name.as_str()));
    let help = near.map_or_else(
        || format!("declare it with `param {name} = VALUE`"),
        |near| format!("did you mean `${near}`?"),
    );
    Err(Diagnostic::input(span, format!("no parameter `{name}` is declared")).help(help))
}

/// Sizes of a shape. Errors: a name that is not declared, a negative number.
pub fn extents(module: &Module, items: &[DimAst], span: Span) -> Result<Vec<Dim>, Diagnostic> {
    for item in items {
        declared(module, item)?;
        if item.dim.as_const().is_some_and(|value| value < 0) {
            return Err(Diagnostic::input(
                span,
                format!("an extent must not be negative, found {}", item.dim),
            ));
        }
    }
    Ok(items.iter().map(|item| item.dim.clone()).collect())
}

/// Errors: a name in the size that is not declared.
pub fn declared(module: &Module, written: &DimAst) -> Result<(), Diagnostic> {
    let Some((name, span)) = written.names.iter().find(|(name, _)| module.dim(name).is_none()) else {
        return Ok(());
    };
    let near = suggest::nearest(name, module.dims.iter().map(|decl| decl.name.as_str()));
    let help = near.map_or_else(
        || format!("declare it with `dim {name} = VALUE` or `dim {name} in 1..=MAX`"),
        |near| format!("did you mean `{near}`?"),
    );
    Err(Diagnostic::input(*span, format!("no dim `{name}` is declared")).help(help))
}
