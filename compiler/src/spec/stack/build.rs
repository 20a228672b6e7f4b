//! Layers and loops of layers, at a builder.

use super::gate::{Inputs, Values, activation, coefficients, read};
use super::{Branch, BranchKind, BranchNorm, Gate, Stack};
use crate::spec::syntax::{Layout, NormKind, Orientation, Reduce};
use birkhoff_ir::diag::Span;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::build::{Builder, Built};
use birkhoff_ir::tensor::ops::word;
use birkhoff_ir::tensor::{Attr, Domain, Op, OpKind, TensorType, ValueId};

fn value(values: &Values, name: &str) -> Built {
    values.get(name).copied().ok_or_else(|| format!("there is no `{name}` here"))
}

/// `pre`, `post`, `res`, and the branch's input `h: [T,C]`; `x: [T,n,C]` in the dtype of arithmetic.
pub fn pre(b: &mut Builder<'_>, stack: &Stack, x: ValueId, inputs: &Inputs) -> Result<Values, String> {
    let mut values = coefficients(b, stack, &stack.gate, x, inputs)?;
    b.set_span(Span::new(stack.span.clone()));
    let h = b.apply(OpKind::StreamPre, vec![], &[value(&values, "pre")?, x])?;
    b.name(h, "h");
    values.insert("h", h);
    Ok(values)
}

/// `y`, from the branch's input `h`.
pub fn branch(b: &mut Builder<'_>, stack: &Stack, branch: &Branch, h: ValueId, inputs: &Inputs) -> Built {
    let mut value = match &branch.norm {
        Some(norm) => normalised(b, stack, norm, h, inputs)?,
        None => h,
    };
    match &branch.kind {
        BranchKind::Input(y) => return read(b, stack, y, inputs),
        BranchKind::Maps(maps) => {
            for map in maps {
                let weight = read(b, stack, &map.weight, inputs)?;
                let spec = if map.layout == Layout::InOut { "tk,ko->to" } else { "tk,ok->to" };
                value = b.contract(spec, &[value, weight])?;
                if let Some(bias) = &map.bias {
                    let bias = read(b, stack, bias, inputs)?;
                    value = b.add(value, bias)?;
                }
                value = activation(b, map.activation, value)?;
            }
        }
    }
    b.name(value, "y");
    Ok(value)
}

fn normalised(b: &mut Builder<'_>, stack: &Stack, norm: &BranchNorm, h: ValueId, inputs: &Inputs) -> Built {
    let kind = match norm.kind {
        NormKind::Rms => OpKind::RmsNorm,
        NormKind::Layer => OpKind::LayerNorm,
    };
    let mut value = b.apply(kind, vec![norm.eps.clone()], &[h])?;
    if let Some(weight) = &norm.weight {
        let weight = read(b, stack, weight, inputs)?;
        value = b.mul(value, weight)?;
    }
    if let Some(bias) = &norm.bias {
        let bias = read(b, stack, bias, inputs)?;
        value = b.add(value, bias)?;
    }
    Ok(value)
}

/// The next streams `[T,n,C]`, in their dtype in memory.
pub fn post(b: &mut Builder<'_>, stack: &Stack, x: ValueId, values: &Values) -> Built {
    let orientation = match orientation(stack) {
        Orientation::TargetRows => "target_rows",
        Orientation::SourceRows => "source_rows",
    };
    let operands = [value(values, "res")?, x, value(values, "post")?, value(values, "y")?];
    let out = b.apply(OpKind::StreamMix, vec![word(orientation)], &operands)?;
    let out = b.convert(out, stack.storage)?;
    b.name(out, "out");
    Ok(out)
}

fn orientation(stack: &Stack) -> Orientation {
    stack.matrix.as_ref().map_or(Orientation::TargetRows, |matrix| matrix.orientation)
}

/// One layer: all its values, `out` the next streams; `x` in its dtype in memory.
pub fn layer(b: &mut Builder<'_>, stack: &Stack, x: ValueId, inputs: &Inputs) -> Result<Values, String> {
    let x = b.convert(x, stack.compute)?;
    let mut values = pre(b, stack, x, inputs)?;
    let between = stack.branch.as_ref().ok_or("the stack has no branch")?;
    let y = branch(b, stack, between, value(&values, "h")?, inputs)?;
    values.insert("y", y);
    let out = post(b, stack, x, &values)?;
    values.insert("out", out);
    Ok(values)
}

/// The streams `[T,n,C]` that are copies of `hidden: [T,C]`.
pub fn expand(b: &mut Builder<'_>, stack: &Stack, hidden: ValueId) -> Built {
    let x = b.apply(OpKind::StreamExpand, vec![Attr::Dim(stack.n.clone())], &[hidden])?;
    b.name(x, "expanded");
    Ok(x)
}

/// One stream `[T,C]` from `x: [T,n,C]`: `reduced`, and what a head has besides.
pub fn reduce(b: &mut Builder<'_>, stack: &Stack, x: ValueId, inputs: &Inputs) -> Result<Values, String> {
    let x = b.convert(x, stack.compute)?;
    let by = |b: &mut Builder<'_>, by: &str| b.apply(OpKind::StreamReduce, vec![word(by)], &[x]);
    let mut values = Values::new();
    let reduced = match stack.reduce {
        None => return Err("the stack says nothing about `reduce`".into()),
        Some(Reduce::Sum) => by(b, "sum")?,
        Some(Reduce::Mean) => by(b, "mean")?,
        Some(Reduce::Head) => {
            let head: &Gate = stack.head.as_ref().ok_or("the stack has no head")?;
            let mix = coefficients(b, stack, head, x, inputs)?;
            values.insert("mix", value(&mix, "mix")?);
            b.apply(OpKind::StreamPre, vec![], &[value(&mix, "mix")?, x])?
        }
    };
    let reduced = b.convert(reduced, stack.storage)?;
    b.name(reduced, "reduced");
    values.insert("reduced", reduced);
    Ok(values)
}

/// Which values of the layers a loop delivers besides the last streams.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The product of the mixing matrices.
    pub product: bool,
    /// Values of every layer, stacked.
    pub stacked: Vec<&'static str>,
}

/// The value as it leaves a function: streams and what enters and leaves branches in their dtype in memory.
pub fn stored(b: &mut Builder<'_>, stack: &Stack, name: &str, value: ValueId) -> Built {
    match name {
        "h" | "y" => b.convert(value, stack.storage),
        _ => Ok(value),
    }
}

/// All layers as a loop over their stacked parameters: `out`, what is wanted of every layer, and the depth product
/// `prod = res_L .. res_1` with its gains (docs/MATHEMATICS.md 6).
pub fn layers(
    b: &mut Builder<'_>,
    stack: &Stack,
    x: ValueId,
    inputs: &Inputs,
    wanted: &Wanted,
) -> Result<Values, String> {
    let trip = stack.layers.clone().ok_or("the stack does not say how many `layers` it has")?;
    let mut carry = vec![x];
    if wanted.product {
        carry.push(identity(b, stack)?);
    }
    let scan_slots: Vec<_> = stack.gate_slots().into_iter().chain(stack.branch_slots()).collect();
    let lookup = |slots: &[&super::Slot]| -> Result<Vec<ValueId>, String> {
        let missing = |slot: &super::Slot| format!("the input `{}` is not one of this function", slot.name);
        slots.iter().map(|slot| inputs.get(&slot.name).copied().ok_or_else(|| missing(slot))).collect()
    };
    let scan = lookup(&scan_slots)?;
    let rest = lookup(&stack.shared_slots())?;
    let state_types: Vec<TensorType> = carry.iter().map(|value| b.ty(*value).clone()).collect();
    let body = b.nested("layer_step", |inner| layer_step(inner, stack, &state_types, wanted))?;
    let results = b.loop_op(body, Attr::Dim(trip), &carry, &scan, &rest)?;
    let mut results = results.into_iter();
    let mut values = Values::new();
    let mut names = vec!["out"];
    if wanted.product {
        names.push("prod");
    }
    names.extend(&wanted.stacked);
    for name in names {
        let result = results.next().ok_or("the loop has too few results")?;
        b.name(result, name);
        values.insert(name, result);
    }
    if let Some(prod) = values.get("prod").copied() {
        let rank = b.ty(prod).rank();
        values.insert("row_gain", gain(b, prod, rank - 1, rank - 2)?);
        values.insert("col_gain", gain(b, prod, rank - 2, rank - 2)?);
    }
    Ok(values)
}

/// The body of the loop: state, the layer's own inputs, shared inputs; next state, and what is stacked.
fn layer_step(
    b: &mut Builder<'_>,
    stack: &Stack,
    state_types: &[TensorType],
    wanted: &Wanted,
) -> Result<(), String> {
    let mut state = vec![];
    for (name, ty) in ["state_x", "state_prod"].into_iter().zip(state_types) {
        state.push(b.input(name, ty.clone(), Domain::default())?);
    }
    let mut inputs = Inputs::new();
    let slots = stack.gate_slots().into_iter().chain(stack.branch_slots()).chain(stack.shared_slots());
    for slot in slots {
        let value = b.input(slot.name.clone(), slot.ty.clone(), slot.domain)?;
        inputs.insert(slot.name.clone(), value);
    }
    let values = layer(b, stack, state[0], &inputs)?;
    b.output("state_x", value(&values, "out")?)?;
    if let Some(product) = state.get(1) {
        let next = multiplied(b, stack, value(&values, "res")?, *product)?;
        b.output("state_prod", next)?;
    }
    for name in &wanted.stacked {
        let layer_value = value(&values, name)?;
        let layer_value = stored(b, stack, name, layer_value)?;
        b.output(*name, layer_value)?;
    }
    Ok(())
}

/// The identity matrix, for every token if the mixing matrix differs between tokens.
fn identity(b: &mut Builder<'_>, stack: &Stack) -> Built {
    let shape = vec![stack.n.clone(), stack.n.clone()];
    let count = |b: &mut Builder<'_>, axis: i64| {
        let attrs = vec![Attr::Dims(shape.clone()), Attr::Int(axis), Attr::DType(DType::I32)];
        b.apply(OpKind::Iota, attrs, &[])
    };
    let (row, column) = (count(b, 0)?, count(b, 1)?);
    let diagonal = b.elementwise(ScalarOp::Eq, &[row, column])?;
    let identity = b.op1(Op::new(OpKind::Convert, vec![Attr::DType(stack.compute)]), &[diagonal])?;
    if stack.gate.coefficient("res").is_some_and(|res| res.fixed) {
        return Ok(identity);
    }
    b.insert_axis(identity, 0, stack.tokens.clone())
}

/// `res product`, where row `o` of `res` makes output stream `o`.
fn multiplied(b: &mut Builder<'_>, stack: &Stack, res: ValueId, product: ValueId) -> Built {
    let token = if b.ty(res).rank() == 3 { "t" } else { "" };
    let matrix = if orientation(stack) == Orientation::SourceRows { "io" } else { "oi" };
    b.contract(&format!("{token}{matrix},{token}ij->{token}oj"), &[res, product])
}

/// The largest absolute sum along `sum_axis`; `max_axis` is that of what is left.
fn gain(b: &mut Builder<'_>, product: ValueId, sum_axis: usize, max_axis: usize) -> Built {
    let sum = b.sum(product, &[sum_axis])?;
    let size = b.unary(ScalarOp::Abs, sum)?;
    b.reduce(OpKind::ReduceMax, size, &[max_axis])
}
