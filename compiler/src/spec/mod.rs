//! Model specs: TOML that says what a `.bir` text says (`docs/SPECS.md`).
//!
//! In: the text of a spec. Out: a module of tensor IR, with places in the text as its spans; or errors at their places.
//! Deliberately absent: reading files, values of dims and parameters (binding), and any choice of how to compute.

mod body;
mod derivative;
mod forms;
mod read;
mod scope;
mod shape;
mod stack;
mod syntax;

use birkhoff_ir::diag::Diagnostics;
use birkhoff_ir::dim::Sym;
use birkhoff_ir::tensor::Module;
use read::{Entry, Errors};
use scope::{Scope, checked_name, one_of};
use stack::Stack;
use std::collections::BTreeMap;
use syntax::{Derived, Function};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The tables of a spec.
const TABLES: [&str; 5] = ["dims", "params", "dtypes", "stack", "fn"];

/// The module that a spec describes. Its first exported function is the default one.
///
/// Errors: the text is not TOML, has fields that do not exist or are of another type, names what is not declared, or asks
/// for what cannot be; as many as can be found at once, in the order of their places.
pub fn parse(source: &str) -> Result<Module, Diagnostics> {
    let mut errors = Errors::default();
    let module = read::document(source, &mut errors).map(|document| modules(source, document, &mut errors));
    match module {
        Some(module) if errors.is_empty() => Ok(module),
        _ => Err(errors.into_diagnostics()),
    }
}

fn modules<'i>(source: &'i str, document: DeTable<'i>, errors: &mut Errors) -> Module {
    let mut tables: BTreeMap<&'static str, Spanned<DeValue<'i>>> = BTreeMap::new();
    for (key, value) in document {
        match TABLES.into_iter().find(|name| *name == key.get_ref().as_ref()) {
            Some(name) => {
                tables.insert(name, value);
            }
            None => {
                errors.add(key.span(), format!("unknown table `{}`", key.get_ref())).help =
                    one_of("the tables of a spec are", &TABLES);
            }
        }
    }
    let mut take = |name: &'static str, errors: &mut Errors| -> Vec<Entry<'i>> {
        tables.remove(name).map_or(vec![], |value| read::entries(value, name, errors))
    };
    let (dims, params) = (take("dims", errors), take("params", errors));
    let (stacks, functions) = (take("stack", errors), take("fn", errors));
    let dtypes = tables.remove("dtypes").and_then(|value| read::decode(value, errors)).unwrap_or_default();
    let mut scope = Scope::new(dims, params, &dtypes, errors);
    let stacks = resolve_stacks(stacks, &scope, errors);
    if functions.is_empty() {
        errors.add(0..0, "a spec has at least one function").help =
            "add a table [fn.NAME] that says what users may call".into();
    }
    for (key, value) in functions {
        let (name, _) = checked_name(key.get_ref(), key.span(), "a function", errors);
        if scope.module.find(&name).is_some() {
            errors.add(key.span(), format!("`{name}` is the name of a loop body made for a stack")).help =
                "choose another name".into();
        }
        let is_derived = value.get_ref().get("derivative").is_some();
        if is_derived {
            if let Some(derived) = read::decode::<Derived>(value, errors) {
                derivative::add(&mut scope.module, &name, key.span(), &derived, errors);
            }
        } else if let Some(function) = read::decode::<Function>(value, errors) {
            add_function(source, &mut scope, &stacks, &name, key.span(), &function, errors);
        }
    }
    if errors.is_empty() && scope.module.exported().next().is_none() {
        errors.add(0..0, "no function is exported").help = "leave export = false out of one [fn.NAME]".into();
    }
    scope.module
}

/// The stacks by name; `None` for those with errors.
fn resolve_stacks(
    stacks: Vec<Entry<'_>>,
    scope: &Scope,
    errors: &mut Errors,
) -> BTreeMap<Sym, Option<Stack>> {
    let mut resolved = BTreeMap::new();
    for (key, value) in stacks {
        let (name, _) = checked_name(key.get_ref(), key.span(), "a stack", errors);
        let fields = read::decode::<Spanned<syntax::Stack>>(value, errors);
        let before = errors.len();
        let stack = fields.and_then(|fields| stack::resolve(&fields, scope, errors));
        resolved.insert(name, stack.filter(|_| errors.len() == before));
    }
    resolved
}

fn add_function(
    source: &str,
    scope: &mut Scope,
    stacks: &BTreeMap<Sym, Option<Stack>>,
    name: &str,
    span: std::ops::Range<usize>,
    function: &Function,
    errors: &mut Errors,
) {
    match (&function.stack, &function.body) {
        (None, Some(text)) => {
            if let Some(part) = &function.part {
                errors.add(part.span(), "a function with a `body` is no part of a stack").help =
                    "leave `part` out".into();
            }
            body::add(source, scope, name, span, function, text, errors);
        }
        (Some(stack), None) => {
            let Some(part) = &function.part else {
                errors
                    .add(span, format!("the function `{name}` does not say which `part` of the stack it is"));
                return;
            };
            if function.export == Some(false) {
                errors.add(span.clone(), "parts of a stack are always exported").help =
                    "leave `export` out".into();
            }
            let request = stack::Request {
                name,
                span,
                part: *part.get_ref(),
                part_span: part.span(),
                inputs: function,
            };
            match stacks.get(stack.get_ref().as_str()) {
                Some(Some(stack)) => {
                    if stack::check_part(stack, &request, errors) {
                        stack::export_part(&mut scope.module, stack, &request, errors);
                    }
                }
                // Its own errors are told already.
                Some(None) => {}
                None => {
                    let known: Vec<&str> = stacks.keys().map(Sym::as_str).collect();
                    errors.add(stack.span(), format!("there is no stack `{}`", stack.get_ref())).help =
                        one_of("the stacks are", &known);
                }
            }
        }
        (Some(stack), Some(_)) => {
            errors.add(stack.span(), "a function has either a `stack` or a `body`, this one has both");
        }
        (None, None) => {
            errors.add(span, format!("the function `{name}` has neither a `stack` nor a `body`")).help =
                "give `stack` and `part`, or `inputs` and `body`".into();
        }
    }
}
