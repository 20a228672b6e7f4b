//! Functions that are derivatives of others.
//!
//! In: `[fn.NAME]` with `derivative`. Out: a function with the subject's arguments, and cotangents or tangents where its kind
//! takes some; its results are those of the derivative, or the chosen ones.

use super::forms::{Choice, Text};
use super::read::Errors;
use super::scope::{checked_name, one_of};
use super::syntax::{DerivativeOf, Derived, Kind};
use birkhoff_ir::diag::{Diagnostic, Span};
use birkhoff_ir::tensor::autodiff::functions::{Of, Reverse, forward, reverse};
use birkhoff_ir::tensor::{FuncId, Module, Output};
use std::ops::Range;
use toml::Spanned;

/// Appends the function to the module.
///
/// Errors: a function that is not declared before, names that are none of its arguments or results, or no floats, a kind that
/// does not take what is given.
pub fn add(module: &mut Module, name: &str, span: Range<usize>, derived: &Derived, errors: &mut Errors) {
    let before = errors.len();
    let ask = &derived.derivative;
    let Some(subject) = module.find(ask.of.get_ref()) else {
        let known: Vec<&str> = module.funcs.iter().map(|func| func.name.as_str()).collect();
        errors.add(ask.of.span(), format!("there is no function `{}` before this", ask.of.get_ref())).help =
            one_of("the functions are", &known);
        return;
    };
    if let Some(list) = ask.cotangents.as_ref().filter(|_| ask.kind != Kind::Vjp) {
        errors.add(list.span(), "only a `vjp` takes cotangents").help = "leave `cotangents` out".into();
        return;
    }
    let id = match differentiate(module, subject, ask) {
        Ok(id) => id,
        Err(why) => {
            errors.push(Diagnostic::input(Span::new(ask.of.span()), why));
            return;
        }
    };
    let func = &mut module.funcs[id.0 as usize];
    func.name = name.to_string();
    func.span = Span::new(span);
    func.exported = derived.export != Some(false);
    if let Some(chosen) = &derived.outputs {
        func.outputs = choose(&func.outputs, chosen, errors);
    }
    if errors.len() > before {
        module.funcs.truncate(id.0 as usize);
    }
}

fn differentiate(module: &mut Module, subject: FuncId, ask: &DerivativeOf) -> Result<FuncId, String> {
    let owned = |names: &[Text]| names.iter().map(|name| name.get_ref().clone()).collect::<Vec<String>>();
    let wrt = owned(&ask.wrt);
    let loops = ask.loops.map_or("auto", |loops| loops.name()).to_string();
    let gradient = |of: Of, values: bool| Reverse { wrt: wrt.clone(), of, values, loops: loops.clone() };
    match ask.kind {
        Kind::Grad => reverse(module, subject, &gradient(Of::OnlyScalar, false)),
        Kind::ValueAndGrad => reverse(module, subject, &gradient(Of::OnlyScalar, true)),
        Kind::Vjp => {
            let of = ask.cotangents.as_ref().map_or(Of::AllFloats, |list| Of::Named(owned(list.get_ref())));
            reverse(module, subject, &gradient(of, true))
        }
        Kind::Jvp => forward(module, subject, &wrt, true),
        Kind::Hvp => {
            let inner = reverse(module, subject, &gradient(Of::OnlyScalar, false))?;
            module.funcs[inner.0 as usize].exported = false;
            forward(module, inner, &wrt, false)
        }
    }
}

/// The results that are chosen, under the names that are chosen.
fn choose(results: &[Output], chosen: &Spanned<Choice>, errors: &mut Errors) -> Vec<Output> {
    let mut outputs: Vec<Output> = vec![];
    if chosen.get_ref().0.is_empty() {
        errors.add(chosen.span(), "a function has at least one output");
    }
    for (name, source) in &chosen.get_ref().0 {
        let Some(result) = results.iter().find(|out| out.name.as_str() == source.get_ref()) else {
            let known: Vec<&str> = results.iter().map(|out| out.name.as_str()).collect();
            errors.add(source.span(), format!("the derivative has no result `{}`", source.get_ref())).help =
                one_of("its results are", &known);
            continue;
        };
        if name.get_ref() != source.get_ref() {
            checked_name(name.get_ref(), name.span(), "an output", errors);
        }
        if outputs.iter().any(|out| out.name.as_str() == name.get_ref()) {
            errors.add(name.span(), format!("the output `{}` is named twice", name.get_ref()));
        }
        outputs.push(Output { name: name.get_ref().as_str().into(), value: result.value });
    }
    outputs
}
