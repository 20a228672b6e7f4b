//! Functions that differentiate functions: what users ask for, as callers of the ops `jvp` and `vjp`.
//!
//! In: a function of a module. Out: an exported function, appended to it. Arguments keep their names; `ct.NAME` is the
//! cotangent of a result, `grad.NAME` that of an argument, `dot.NAME` a tangent.

use crate::dtype::DType;
use crate::scalar::Scalar;
use crate::tensor::build::Builder;
use crate::tensor::{Attr, Func, FuncId, Module, Op, OpKind, ValueId};

/// Results that have a cotangent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Of {
    /// All float results; each cotangent is an argument `ct.NAME`.
    #[default]
    AllFloats,
    /// These.
    Named(Vec<String>),
    /// The only scalar one; its cotangent is the constant 1, and no argument.
    OnlyScalar,
}

/// What to differentiate in reverse.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Reverse {
    /// Names of arguments whose gradients are wanted, in any order.
    pub wrt: Vec<String>,
    /// Which results have a cotangent; the others' are 0.
    pub of: Of,
    /// Whether the function's results are wanted too.
    pub values: bool,
    /// How loops are taken back; see the op `vjp`. Empty is `auto`.
    pub loops: String,
}

/// Appends `func`'s gradient: arguments, then `ct.NAME` of results; results `NAME` of all (with `values`), then `grad.NAME`
/// of each of `wrt`, both in the order of `func`.
///
/// Errors: a name that is no argument or result, an argument or result that is no float; no scalar result, or several, for
/// [`Of::OnlyScalar`].
pub fn reverse(module: &mut Module, func: FuncId, ask: &Reverse) -> Result<FuncId, String> {
    let subject = module.func(func).clone();
    let wrt = argument_positions(&subject, &ask.wrt)?;
    let of = match &ask.of {
        Of::AllFloats => (0..subject.outputs.len()).filter(|pos| is_float(&subject, *pos)).collect(),
        Of::Named(names) => result_positions(&subject, names)?,
        Of::OnlyScalar => vec![only_scalar(&subject)?],
    };
    let suffix = if ask.values { "value_and_grad" } else { "grad" };
    let mut b = Builder::new(module, format!("{}_{suffix}", subject.name));
    let mut operands = arguments(&mut b, &subject)?;
    for pos in &of {
        let out = &subject.outputs[*pos];
        let ty = subject.ty(out.value).clone();
        operands.push(match ask.of {
            Of::OnlyScalar => b.scalar(ty.dtype, Scalar::Float(1.0))?,
            _ => b.fresh_input(&format!("ct.{}", out.name), ty)?,
        });
    }
    let loops = if ask.loops.is_empty() { "auto" } else { &ask.loops };
    let attrs = vec![Attr::Func(func), axes(&wrt), axes(&of), Attr::Word(loops.into())];
    let results = b.op(Op::new(OpKind::Vjp, attrs), &operands)?;
    let n_outputs = subject.outputs.len();
    if ask.values {
        for (out, value) in subject.outputs.iter().zip(&results) {
            b.output(out.name.clone(), *value)?;
        }
    }
    for (pos, gradient) in wrt.iter().zip(&results[n_outputs..]) {
        b.fresh_output(&format!("grad.{}", subject.inputs[*pos].name), *gradient)?;
    }
    b.export();
    Ok(b.finish_at(subject.span))
}

/// Appends `func` with tangents: arguments, then `dot.NAME` of each of `wrt`; results (with `values`), then `dot.NAME` of each
/// float result.
///
/// Errors: a name that is no argument, an argument that is no float.
pub fn forward(module: &mut Module, func: FuncId, wrt: &[String], values: bool) -> Result<FuncId, String> {
    let subject = module.func(func).clone();
    let wrt = argument_positions(&subject, wrt)?;
    let mut b = Builder::new(module, format!("{}_jvp", subject.name));
    let mut operands = arguments(&mut b, &subject)?;
    for pos in &wrt {
        let name = format!("dot.{}", subject.inputs[*pos].name);
        operands.push(b.fresh_input(&name, subject.values[*pos].ty.clone())?);
    }
    let results = b.op(Op::new(OpKind::Jvp, vec![Attr::Func(func), axes(&wrt)]), &operands)?;
    let (plain, tangents) = results.split_at(subject.outputs.len());
    if values {
        for (out, value) in subject.outputs.iter().zip(plain) {
            b.output(out.name.clone(), *value)?;
        }
    }
    let floats = subject.outputs.iter().filter(|out| subject.ty(out.value).dtype.is_float());
    for (out, tangent) in floats.zip(tangents) {
        b.fresh_output(&format!("dot.{}", out.name), *tangent)?;
    }
    b.export();
    Ok(b.finish_at(subject.span))
}

fn arguments(b: &mut Builder<'_>, subject: &Func) -> Result<Vec<ValueId>, String> {
    let mut operands = vec![];
    for (input, value) in subject.inputs.iter().zip(subject.input_values()) {
        b.set_span(input.span);
        operands.push(b.input(input.name.clone(), subject.ty(value).clone(), input.domain)?);
    }
    b.set_span(subject.span);
    Ok(operands)
}

fn axes(positions: &[usize]) -> Attr {
    Attr::Axes(positions.iter().map(|pos| *pos as u32).collect())
}

fn is_float(func: &Func, pos: usize) -> bool {
    func.ty(func.outputs[pos].value).dtype.is_float()
}

fn only_scalar(func: &Func) -> Result<usize, String> {
    let is_scalar = |pos: &usize| is_float(func, *pos) && func.ty(func.outputs[*pos].value).rank() == 0;
    let scalars: Vec<usize> = (0..func.outputs.len()).filter(is_scalar).collect();
    match scalars[..] {
        [pos] => Ok(pos),
        [] => {
            Err(format!("@{} has no scalar result, whose cotangent would be 1: give cotangents", func.name))
        }
        _ => {
            let list: Vec<&str> = scalars.iter().map(|pos| func.outputs[*pos].name.as_str()).collect();
            Err(format!("@{} has several scalar results, {}: give cotangents", func.name, list.join(", ")))
        }
    }
}

fn argument_positions(func: &Func, names: &[String]) -> Result<Vec<usize>, String> {
    let known: Vec<(&str, DType)> = func
        .inputs
        .iter()
        .zip(func.input_values())
        .map(|(input, value)| (input.name.as_str(), func.ty(value).dtype))
        .collect();
    positions(&known, names, "argument", &func.name)
}

fn result_positions(func: &Func, names: &[String]) -> Result<Vec<usize>, String> {
    let known: Vec<(&str, DType)> =
        func.outputs.iter().map(|out| (out.name.as_str(), func.ty(out.value).dtype)).collect();
    positions(&known, names, "result", &func.name)
}

/// Positions of `names`, increasing.
fn positions(
    known: &[(&str, DType)],
    names: &[String],
    what: &str,
    func: &str,
) -> Result<Vec<usize>, String> {
    let mut found = vec![];
    for name in names {
        match known.iter().position(|(other, _)| other == name) {
            None => {
                let all: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                return Err(format!("@{func} has no {what} `{name}`; it has {}", all.join(", ")));
            }
            Some(pos) if !known[pos].1.is_float() => {
                let dtype = known[pos].1;
                return Err(format!(
                    "the {what} `{name}` of @{func} is {dtype}, and only floats have derivatives"
                ));
            }
            Some(pos) => found.push(pos),
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}
