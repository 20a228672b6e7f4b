//! Prints tensor IR in its canonical form.
//!
//! In: a module or part of one, verified or not: what does not hold together prints as `?` and never panics, so that errors
//! can show it. Out: text that parses to an equal module, spans and the numbering of values apart.

use super::attrs::default_attr;
use super::lexer::{is_plain_name, quoted};
use crate::scalar::Scalar;
use crate::tensor::{Attr, DimDecl, DimKind, Domain, F64, Func, Module, Node, Op, ParamDecl, ValueId};
use std::collections::BTreeSet;

/// Longer signatures have one argument per line.
const MAX_WIDTH: usize = 110;

/// The module's canonical text.
pub fn print(module: &Module) -> String {
    let mut blocks: Vec<String> = Vec::new();
    if !module.dims.is_empty() {
        blocks.push(module.dims.iter().map(dim_decl).collect());
    }
    if !module.params.is_empty() {
        blocks.push(module.params.iter().map(param_decl).collect());
    }
    blocks.extend(module.funcs.iter().map(|func| print_func(module, func)));
    blocks.join("\n")
}

/// The text of one function of `module`.
pub fn print_func(module: &Module, func: &Func) -> String {
    let names = value_names(func);
    let mut text = signature(func, &names);
    for node in &func.nodes {
        text.push_str("  ");
        text.push_str(&node_line(module, func, node, &names));
        text.push('\n');
    }
    let outputs: Vec<String> = func
        .outputs
        .iter()
        .map(|out| format!("{} = {}", output_name(&out.name), name_of(&names, out.value)))
        .collect();
    text.push_str("  return");
    if !outputs.is_empty() {
        text.push(' ');
        text.push_str(&outputs.join(", "));
    }
    text.push_str("\n}\n");
    text
}

/// The line of one node, as [`print_func`] prints it.
pub fn print_node(module: &Module, func: &Func, node: &Node) -> String {
    node_line(module, func, node, &value_names(func))
}

fn dim_decl(decl: &DimDecl) -> String {
    let name = &decl.name;
    match &decl.kind {
        DimKind::Static(None) => format!("dim {name}\n"),
        DimKind::Static(Some(value)) => format!("dim {name} = {value}\n"),
        DimKind::RunTime { lo, hi, default: None } => format!("dim {name} in {lo}..={hi}\n"),
        DimKind::RunTime { lo, hi, default: Some(value) } => {
            format!("dim {name} in {lo}..={hi} default {value}\n")
        }
    }
}

fn param_decl(decl: &ParamDecl) -> String {
    let value = match decl.value {
        Scalar::Float(value) => F64(value).to_string(),
        Scalar::Int(value) => value.to_string(),
        Scalar::Bool(value) => value.to_string(),
    };
    format!("param {} = {value}\n", decl.name)
}

fn signature(func: &Func, names: &[String]) -> String {
    let export = if func.exported { "export " } else { "" };
    let type_of = |value: ValueId| {
        func.values.get(value.0 as usize).map_or("?".to_string(), |value| value.ty.to_string())
    };
    let inputs: Vec<String> = func
        .inputs
        .iter()
        .zip(func.input_values())
        .map(|(input, value)| {
            format!("{}: {}{}", name_of(names, value), type_of(value), domain(&input.domain))
        })
        .collect();
    let outputs: Vec<String> = func
        .outputs
        .iter()
        .map(|out| format!("{}: {}", output_name(&out.name), type_of(out.value)))
        .collect();
    let head = format!("{export}fn @{}", bare_or_quoted(&func.name));
    let line = format!("{head}({}) -> ({}) {{\n", inputs.join(", "), outputs.join(", "));
    if line.len() <= MAX_WIDTH {
        return line;
    }
    let one_per_line =
        |items: &[String]| -> String { items.iter().map(|item| format!("    {item},\n")).collect() };
    format!("{head}(\n{}) -> (\n{}) {{\n", one_per_line(&inputs), one_per_line(&outputs))
}

fn domain(domain: &Domain) -> String {
    if *domain == Domain::default() {
        return String::new();
    }
    let (name, a, b) = match domain {
        Domain::Normal { mean, std } => ("normal", mean, std),
        Domain::Uniform { lo, hi } => ("uniform", lo, hi),
        Domain::Ball { lo, hi } => ("ball", lo, hi),
    };
    // `{}` prints an f64 such that it parses to the same value, without an exponent: `1`, not `1.0`.
    format!(" ~ {name}({a}, {b})")
}

fn node_line(module: &Module, func: &Func, node: &Node, names: &[String]) -> String {
    let results: Vec<&str> = node.results.iter().map(|value| name_of(names, *value)).collect();
    let args: Vec<&str> = node.args.iter().map(|value| name_of(names, *value)).collect();
    let types: Vec<String> = node
        .results
        .iter()
        .map(|value| func.values.get(value.0 as usize).map_or("?".into(), |value| value.ty.to_string()))
        .collect();
    format!(
        "{} = {}({}){} : {}",
        results.join(", "),
        node.op.kind.name(),
        args.join(", "),
        attributes(module, &node.op),
        types.join(", ")
    )
}

/// ` {name=value, ..}` of the attributes that are not at their default; empty if all are.
pub fn attributes(module: &Module, op: &Op) -> String {
    let shown: Vec<String> = op
        .kind
        .attrs()
        .iter()
        .zip(&op.attrs)
        .filter(|(spec, attr)| default_attr(spec).as_ref() != Some(attr))
        .map(|(spec, attr)| format!("{}={}", spec.name, attribute(module, attr)))
        .collect();
    if shown.is_empty() { String::new() } else { format!(" {{{}}}", shown.join(", ")) }
}

fn attribute(module: &Module, attr: &Attr) -> String {
    match attr {
        Attr::Int(value) => value.to_string(),
        Attr::Float(value) => value.to_string(),
        Attr::Bool(value) => value.to_string(),
        Attr::Word(word) => word.to_string(),
        Attr::Dim(dim) => dim.to_string(),
        Attr::Dims(dims) => format!("[{}]", joined(dims)),
        Attr::Axes(axes) => format!("[{}]", joined(axes)),
        Attr::DType(dtype) => dtype.to_string(),
        Attr::Einsum(spec) => format!("\"{spec}\""),
        Attr::Func(id) => match module.funcs.get(id.0 as usize) {
            Some(func) => format!("@{}", bare_or_quoted(&func.name)),
            None => format!("@?{}", id.0),
        },
        Attr::Param(name) => format!("${name}"),
    }
}

fn joined<T: std::fmt::Display>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(T::to_string).collect();
    texts.join(",")
}

fn bare_or_quoted(name: &str) -> String {
    if is_plain_name(name) { name.to_string() } else { quoted(name) }
}

/// An output stands where no sigil says that it is a name, but any word is one there.
fn output_name(name: &str) -> String {
    bare_or_quoted(name)
}

fn name_of(names: &[String], value: ValueId) -> &str {
    names.get(value.0 as usize).map_or("%?", String::as_str)
}

/// A name for every value, `%` included: inputs have theirs; a name that is taken gets a number behind it; values without a
/// name are counted in order of definition.
fn value_names(func: &Func) -> Vec<String> {
    let mut taken: BTreeSet<String> = func.inputs.iter().map(|input| input.name.to_string()).collect();
    let mut names: Vec<Option<String>> = Vec::with_capacity(func.values.len());
    for (idx, value) in func.values.iter().enumerate() {
        names.push(match (func.inputs.get(idx), &value.name) {
            (Some(input), _) => Some(input.name.to_string()),
            (None, Some(name)) => Some(unique(name, &mut taken)),
            (None, None) => None,
        });
    }
    let mut count = 0;
    let mut printed = Vec::with_capacity(names.len());
    for name in names {
        printed.push(match name {
            Some(name) => format!("%{}", bare_or_quoted(&name)),
            None => {
                // An input may be named by a number.
                while taken.contains(&count.to_string()) {
                    count += 1;
                }
                count += 1;
                format!("%{}", count - 1)
            }
        });
    }
    printed
}

fn unique(name: &str, taken: &mut BTreeSet<String>) -> String {
    let mut candidate = name.to_string();
    let mut number = 1;
    while !taken.insert(candidate.clone()) {
        candidate = format!("{name}_{number}");
        number += 1;
    }
    candidate
}
