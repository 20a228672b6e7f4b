//! Functions that are parts of a stack.
//!
//! In: `[fn.NAME]` with `stack`, `part`, `inputs` and `outputs`. Out: an exported function, or errors at the fields that ask
//! for what the stack does not have.

use super::build::{self, Wanted};
use super::gate::{Inputs, Values};
use super::resolve::dynamic;
use super::{BranchKind, Slot, Stack};
use crate::spec::forms::Choice;
use crate::spec::read::Errors;
use crate::spec::scope::{checked_name, one_of};
use crate::spec::syntax::{self, Part, Reduce};
use birkhoff_ir::diag::{Diagnostic, Span};
use birkhoff_ir::dim::Sym;
use birkhoff_ir::tensor::build::Builder;
use birkhoff_ir::tensor::{Domain, Module, TensorType, ValueId};
use std::ops::Range;
use toml::Spanned;

/// What a function of a stack takes and gives.
pub struct Request<'a> {
    /// The function's name.
    pub name: &'a str,
    /// The place of the name.
    pub span: Range<usize>,
    /// Which part.
    pub part: Part,
    /// The place where the part is said.
    pub part_span: Range<usize>,
    /// New names of values that the part takes.
    pub inputs: &'a syntax::Function,
}

/// Values that a part takes besides parameters and streams.
fn taken(part: Part) -> &'static [&'static str] {
    match part {
        Part::Post | Part::Boundary => &["res", "post"],
        _ => &[],
    }
}

/// Values that `outputs` may choose from.
fn offered(stack: &Stack, part: Part) -> Vec<&'static str> {
    let mut names = vec![];
    let raw = stack.gate.weight.is_some() && dynamic(&stack.gate).next().is_some();
    let gates = if raw { vec!["raw", "pre", "post", "res"] } else { vec!["pre", "post", "res"] };
    match part {
        Part::Pre => {
            names.extend(gates);
            names.push("h");
        }
        Part::Post => names.push("out"),
        Part::Boundary => {
            names.push("out");
            names.extend(gates);
            names.push("h");
        }
        Part::Layer => {
            names.extend(gates);
            names.extend(["h", "y", "out"]);
        }
        Part::Expand => names.push("expanded"),
        Part::Reduce => {}
        Part::Stack => {
            names.extend(gates);
            names.extend(["h", "y", "out", "prod", "row_gain", "col_gain"]);
        }
    }
    if matches!(part, Part::Reduce | Part::Stack) && stack.reduce.is_some() {
        names.push("reduced");
        if stack.reduce == Some(Reduce::Head) {
            names.push("mix");
        }
    }
    names
}

/// Checks a request against the stack.
///
/// Errors: a table that the part needs and the stack lacks, an input or output that the part does not have.
pub fn check_part(stack: &Stack, request: &Request<'_>, errors: &mut Errors) -> bool {
    let before = errors.len();
    let part = request.part;
    let has = |name: &str| stack.gate.coefficient(name).is_some();
    let layered = matches!(part, Part::Layer | Part::Pre | Part::Post | Part::Boundary | Part::Stack);
    let needs = [
        ("pre", layered && part != Part::Post, has("pre")),
        ("post", layered, has("post")),
        ("res", layered, has("res")),
        ("branch", layered && part != Part::Pre && part != Part::Boundary, stack.branch.is_some()),
        ("layers", part == Part::Stack, stack.layers.is_some()),
        ("expand", part == Part::Expand, stack.expand.is_some()),
        ("reduce", part == Part::Reduce, stack.reduce.is_some()),
    ];
    for (field, needed, present) in needs {
        if needed && !present {
            let message = format!("this part of the stack needs its `{field}`, which is not given");
            errors.add(request.part_span.clone(), message);
        }
    }
    let function = request.inputs;
    for (_, choice) in &function.inputs.0 {
        let chosen = choice.get_ref().text.as_deref().unwrap_or("");
        if !taken(part).contains(&chosen) {
            errors.add(choice.span(), format!("this part takes no value `{chosen}`")).help =
                one_of("`inputs` may rename", taken(part));
        }
    }
    check_outputs(&offered(stack, part), &function.outputs, errors);
    errors.len() == before
}

fn check_outputs(offered: &[&'static str], outputs: &Spanned<Choice>, errors: &mut Errors) {
    let chosen = &outputs.get_ref().0;
    if chosen.is_empty() {
        errors.add(outputs.span(), "a function has at least one output");
    }
    for (idx, (name, value)) in chosen.iter().enumerate() {
        checked_name(name.get_ref(), name.span(), "an output", errors);
        if chosen[..idx].iter().any(|(other, _)| other.get_ref() == name.get_ref()) {
            errors.add(name.span(), format!("the output `{}` is named twice", name.get_ref()));
        }
        if !offered.contains(&value.get_ref().as_str()) {
            errors.add(value.span(), format!("this part has no value `{}`", value.get_ref())).help =
                one_of("it has", offered);
        }
    }
}

/// Builds the function and appends it to the module. Assumes [`check_part`] found nothing.
///
/// Errors: two inputs of one name; types that do not fit.
pub fn export_part(module: &mut Module, stack: &Stack, request: &Request<'_>, errors: &mut Errors) {
    let signature = signature(stack, request);
    for (idx, slot) in signature.iter().enumerate() {
        if let Some(first) = signature[..idx].iter().find(|other| other.name == slot.name) {
            errors.add(slot.span.clone(), format!("the input `{}` is named twice", slot.name)).help =
                format!("the other one is {}", first.ty);
        }
    }
    if !errors.is_empty() {
        return;
    }
    let mut b = Builder::new(module, request.name);
    b.set_span(Span::new(request.part_span.clone()));
    b.export();
    match fill(&mut b, stack, request, &signature) {
        Ok(()) => {
            b.finish();
        }
        Err(why) => {
            let message = format!("cannot build this part: {why}");
            errors.push(Diagnostic::input(Span::new(request.part_span.clone()), message));
        }
    }
}

/// The inputs of a part, in order.
fn signature(stack: &Stack, request: &Request<'_>) -> Vec<Slot> {
    let stacked = |slot: &Slot| match &stack.layers {
        Some(layers) if request.part == Part::Stack => {
            let mut slot = slot.clone();
            slot.ty.shape.insert(0, layers.clone());
            slot
        }
        _ => slot.clone(),
    };
    let start = match (&stack.expand, request.part) {
        (Some(hidden), Part::Stack | Part::Expand) => hidden.clone(),
        _ => stack.streams.clone(),
    };
    let mut slots = vec![start];
    let renamed = |value: &'static str| {
        let found = request
            .inputs
            .inputs
            .0
            .iter()
            .find(|(_, choice)| choice.get_ref().text.as_deref() == Some(value));
        found.map_or((Sym::from(value), request.span.clone()), |(name, _)| {
            (Sym::from(name.get_ref().as_str()), name.span())
        })
    };
    for value in taken(request.part) {
        let (name, span) = renamed(value);
        slots.push(taken_slot(stack, value, name, span));
    }
    let parameters = |slots: &mut Vec<Slot>| {
        slots.extend(stack.gate_slots().into_iter().map(stacked));
        slots.extend(stack.shared_slots().into_iter().cloned());
    };
    let y = taken_y(stack);
    match request.part {
        Part::Pre => parameters(&mut slots),
        Part::Post => slots.push(y),
        Part::Boundary => {
            slots.push(y);
            parameters(&mut slots);
        }
        Part::Layer | Part::Stack => {
            parameters(&mut slots);
            slots.extend(stack.branch_slots().into_iter().map(stacked));
        }
        Part::Expand | Part::Reduce => {}
    }
    if matches!(request.part, Part::Reduce | Part::Stack) {
        slots.extend(stack.head_slots().into_iter().cloned());
    }
    slots
}

/// A coefficient as an input: what `pre` delivers.
fn taken_slot(stack: &Stack, value: &str, name: Sym, span: Range<usize>) -> Slot {
    let fixed = stack.gate.coefficient(value).is_some_and(|coefficient| coefficient.fixed);
    let mut shape = if fixed { vec![] } else { vec![stack.tokens.clone()] };
    shape.push(stack.n.clone());
    let hi = if value == "res" { 0.5 } else { 2.0 };
    if value == "res" {
        shape.push(stack.n.clone());
    }
    Slot { name, ty: TensorType::new(stack.compute, shape), domain: Domain::Uniform { lo: 0.0, hi }, span }
}

/// The branch's output as an input, whatever the branch is.
fn taken_y(stack: &Stack) -> Slot {
    if let Some(BranchKind::Input(y)) = stack.branch.as_ref().map(|branch| &branch.kind) {
        return y.clone();
    }
    let ty = TensorType::new(stack.storage, vec![stack.tokens.clone(), stack.width.clone()]);
    Slot { name: "y".into(), ty, domain: Domain::default(), span: stack.span.clone() }
}

fn fill(b: &mut Builder<'_>, stack: &Stack, request: &Request<'_>, signature: &[Slot]) -> Result<(), String> {
    let mut inputs = Inputs::new();
    let mut order = vec![];
    for slot in signature {
        let value = b.input(slot.name.clone(), slot.ty.clone(), slot.domain)?;
        inputs.insert(slot.name.clone(), value);
        order.push(value);
    }
    let chosen = &request.inputs.outputs.get_ref().0;
    let values = part_values(b, stack, request.part, &order, &inputs, chosen)?;
    for (name, source) in chosen {
        let source = source.get_ref().as_str();
        let value = values.get(source).copied().ok_or_else(|| format!("there is no `{source}` here"))?;
        let value = if request.part == Part::Stack { value } else { build::stored(b, stack, source, value)? };
        b.output(name.get_ref().as_str(), value)?;
    }
    Ok(())
}

/// All values of the part; `order` are its arguments.
fn part_values(
    b: &mut Builder<'_>,
    stack: &Stack,
    part: Part,
    order: &[ValueId],
    inputs: &Inputs,
    chosen: &[(crate::spec::forms::Text, crate::spec::forms::Text)],
) -> Result<Values, String> {
    let x = order[0];
    let mut values = Values::new();
    match part {
        Part::Layer => values = build::layer(b, stack, x, inputs)?,
        Part::Pre => {
            let x = b.convert(x, stack.compute)?;
            values = build::pre(b, stack, x, inputs)?;
        }
        Part::Post | Part::Boundary => {
            values.insert("res", order[1]);
            values.insert("post", order[2]);
            values.insert("y", b.convert(order[3], stack.compute)?);
            let x = b.convert(x, stack.compute)?;
            let out = build::post(b, stack, x, &values)?;
            if part == Part::Boundary {
                let next = b.convert(out, stack.compute)?;
                values = build::pre(b, stack, next, inputs)?;
            }
            values.insert("out", out);
        }
        Part::Expand => {
            values.insert("expanded", build::expand(b, stack, x)?);
        }
        Part::Reduce => values = build::reduce(b, stack, x, inputs)?,
        Part::Stack => {
            let x = if stack.expand.is_some() { build::expand(b, stack, x)? } else { x };
            values = build::layers(b, stack, x, inputs, &wanted(chosen))?;
            if stack.reduce.is_some() {
                let out = values.get("out").copied().ok_or("the layers give no streams")?;
                values.append(&mut build::reduce(b, stack, out, inputs)?);
            }
        }
    }
    Ok(values)
}

/// What the chosen outputs need of the loop over layers.
fn wanted(chosen: &[(crate::spec::forms::Text, crate::spec::forms::Text)]) -> Wanted {
    let asks = |name: &str| chosen.iter().any(|(_, value)| value.get_ref() == name);
    let stacked = ["raw", "pre", "post", "res", "h", "y"].into_iter().filter(|name| asks(name)).collect();
    Wanted { product: ["prod", "row_gain", "col_gain"].into_iter().any(asks), stacked }
}
