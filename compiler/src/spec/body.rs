//! Functions written as statements of the tensor IR.
//!
//! In: `[fn.NAME]` with `inputs`, `body` and `outputs`. Out: a function, its places those of the spec's text.

use super::forms::{Tensor, Text};
use super::read::Errors;
use super::scope::{Scope, Slot, checked_name, domain, one_of};
use super::syntax::Function;
use birkhoff_ir::diag::{Diagnostic, Span};
use birkhoff_ir::tensor::build::Builder;
use birkhoff_ir::tensor::text;
use std::ops::Range;
use toml::Spanned;

/// Appends the function to the module.
///
/// Errors: inputs without a type, statements that do not parse or fit, outputs that no statement defines.
pub fn add(
    source: &str,
    scope: &mut Scope,
    name: &str,
    span: Range<usize>,
    function: &Function,
    body: &Text,
    errors: &mut Errors,
) {
    let before = errors.len();
    let slots: Vec<Slot> =
        function.inputs.0.iter().filter_map(|(name, tensor)| input(scope, name, tensor, errors)).collect();
    if errors.len() > before {
        return;
    }
    let mut builder = Builder::new(&mut scope.module, name);
    if function.export != Some(false) {
        builder.export();
    }
    let mut names = text::Scope::default();
    for slot in slots {
        builder.set_span(Span::new(slot.span.clone()));
        match builder.input(slot.name.clone(), slot.ty, slot.domain) {
            Ok(value) => names.insert(slot.name, value),
            Err(why) => {
                errors.add(slot.span, why);
            }
        }
    }
    builder.set_span(Span::new(span));
    let (statements, offset_bytes) = match verbatim(source, body) {
        Some(start) => (body.get_ref().as_str(), start),
        None => (body.get_ref().as_str(), 0),
    };
    if let Err(mut diags) = text::parse_body(&mut builder, &mut names, statements, offset_bytes) {
        if offset_bytes == 0 {
            // Escapes moved the statements: only the text as a whole has a place.
            diags.0.iter_mut().for_each(|diag| diag.span = Span::new(body.span()));
        }
        // Statements alone would declare names with `dim` and `param`; a spec has tables for them.
        for (form, table) in [("declare it with `dim", "[dims]"), ("declare it with `param", "[params]")] {
            for diag in diags.0.iter_mut().filter(|diag| diag.help.starts_with(form)) {
                diag.help = format!("declare it in {table}");
            }
        }
        errors.extend(diags);
        return;
    }
    outputs(&mut builder, &names, function, errors);
    if errors.len() == before {
        builder.finish();
    }
}

/// One argument: its name is the key, its type the text.
fn input(scope: &Scope, key: &Text, tensor: &Spanned<Tensor>, errors: &mut Errors) -> Option<Slot> {
    let (name, _) = checked_name(key.get_ref(), key.span(), "an input", errors);
    let written = tensor.get_ref();
    if let Some(other) = &written.name {
        errors.add(other.span(), format!("this input's name is its key, `{name}`")).help =
            "leave `name` out".into();
    }
    let (text, span) = match (&written.text, &written.ty) {
        (Some(text), _) => (text.as_str(), tensor.span()),
        (None, Some(ty)) => (ty.get_ref().as_str(), ty.span()),
        (None, None) => {
            errors.add(tensor.span(), format!("the input `{name}` has no type")).help =
                "write \"f32[T,n,C]\", or { type = \"f32[T,n,C]\", random = .. }".into();
            return None;
        }
    };
    let ty = scope.tensor_type(text, span, errors)?;
    let domain = domain(written, errors).unwrap_or_default();
    Some(Slot { name, ty, domain, span: key.span() })
}

fn outputs(builder: &mut Builder<'_>, names: &text::Scope, function: &Function, errors: &mut Errors) {
    let chosen = &function.outputs.get_ref().0;
    if chosen.is_empty() {
        errors.add(function.outputs.span(), "a function has at least one output");
    }
    for (name, value) in chosen {
        checked_name(name.get_ref(), name.span(), "an output", errors);
        let Some(id) = names.get(value.get_ref()) else {
            let known: Vec<&str> = names.names().collect();
            errors.add(value.span(), format!("no statement defines `{}`", value.get_ref())).help =
                one_of("the values are", &known);
            continue;
        };
        if let Err(why) = builder.output(name.get_ref().as_str(), id) {
            errors.push(Diagnostic::input(Span::new(name.span()), why));
        }
    }
}

/// Where the text stands in the source byte for byte; `None` if escapes changed it on the way.
fn verbatim(source: &str, text: &Text) -> Option<usize> {
    let span = text.span();
    let raw = source.get(span.clone())?;
    let quote = if raw.starts_with("\"\"\"") || raw.starts_with("'''") { 3 } else { 1 };
    let inner = raw.get(quote..raw.len().checked_sub(quote)?)?;
    let skipped = match inner {
        _ if quote == 1 => 0,
        _ if inner.starts_with("\r\n") => 2,
        _ if inner.starts_with('\n') => 1,
        _ => 0,
    };
    (inner.get(skipped..)? == text.get_ref()).then_some(span.start + quote + skipped)
}
