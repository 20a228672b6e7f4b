//! Derivatives: the meaning of the ops `jvp` and `vjp`.
//!
//! Forward: every op has a rule that writes the tangents of its results as linear ops of those of its operands
//! (`linearize.rs`). Reverse: the function is linearised, then the linear part is transposed, node by node backwards
//! (`transpose.rs`), after which the tangents are dead. Both write ordinary tensor IR, so any order of derivative composes,
//! and what was written is optimised like anything else. The scheme is that of Radul et al. 2022 ("You only linearize
//! once").
//!
//! Loops stay loops, so the size of a derivative does not depend on trip counts. Forward, state and tangents go through one
//! loop. Reverse, the loop also stacks the state at the beginning of every iteration (its *iterates*); a second loop runs the
//! other way over them, computes what it needs of an iteration again, and takes the cotangents back.
//!
//! Conventions: a tangent has the type of its value. A cotangent has the compute dtype of its value, so that sums of
//! contributions to a bf16 value are rounded once. Derivatives at points where there is none are some subgradient: at ties
//! `max` of two takes the first, reductions share evenly.
//!
//! Deliberately absent: decisions. What is kept and what is computed again between a forward and a backward *function* is
//! decided by the compiler.

mod activity;
pub mod functions;
mod linearize;
mod loops;
mod outcomes;
mod rebuild;
pub mod rules;
mod scalar;
mod transpose;
mod transpose_loop;

pub use activity::active_values;

use super::build::Builder;
use super::inline::write_out;
use super::{Func, Module, Op, OpKind, TensorType, ValueId};
use crate::scalar::Scalar;
use linearize::linearize;

/// Where an op is linearised.
pub struct Site<'s> {
    /// The op.
    pub op: &'s Op,
    /// Its operands.
    pub args: &'s [ValueId],
    /// Its results.
    pub results: &'s [ValueId],
    /// The tangents of the operands; `None` is zero. At least one is not.
    pub tangents: &'s [Option<ValueId>],
}

/// Tangents, one per value; `None` is zero.
pub type Tangents = Vec<Option<ValueId>>;

/// Writes the tangents of an op's results. Errors: expectation and finding.
pub type LinearizeFn = fn(&mut Builder<'_>, &Site<'_>) -> Result<Tangents, String>;

/// The derivative of an op.
#[derive(Clone, Copy, Debug)]
pub enum Derivative {
    /// By a rule.
    Rule(LinearizeFn),
    /// That of its expansion.
    Expansion,
    /// That of a loop, which goes through its body.
    ThroughBody,
    /// Zero, for this reason.
    Zero(&'static str),
}

/// How a loop's derivative in reverse gets at the iterates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LoopMode {
    /// Forward: state and tangents go through one loop.
    Joint,
    /// Reverse: the loop itself stacks them.
    Stash,
    /// Reverse: the loop stays as it is, and a second run stacks them.
    Rerun,
    /// Reverse: the loop stacks what was dear to compute, and of its states every so many; the others are made again from those.
    Rebuild,
}

/// A scalar zero of a type, repeated.
pub(crate) fn zeros(b: &mut Builder<'_>, ty: &TensorType) -> Result<ValueId, String> {
    let zero = b.scalar(ty.dtype, Scalar::Float(0.0))?;
    if ty.rank() == 0 { Ok(zero) } else { b.broadcast(zero, ty.shape.clone(), &[]) }
}

/// Whether the op is written out before it is differentiated.
fn opens(kind: OpKind) -> bool {
    matches!(kind.derivative(), Derivative::Expansion)
}

/// The function that `op` differentiates, in ops that have rules.
fn subject(b: &mut Builder<'_>, op: &Op) -> Result<Func, String> {
    let func = op.body().and_then(|id| b.module.funcs.get(id.0 as usize)).cloned();
    let func = func.ok_or_else(|| format!("`{}` needs a function", op.kind.name()))?;
    write_out(b.module, &func, &opens)
}

fn positions(op: &Op, attr: &str) -> Vec<usize> {
    op.axes(attr).iter().map(|pos| *pos as usize).collect()
}

/// See the op `jvp`.
pub fn jvp(b: &mut Builder<'_>, args: &[ValueId], op: &Op) -> Result<Vec<ValueId>, String> {
    let func = subject(b, op)?;
    let n_inputs = func.inputs.len();
    let mut tangents: Tangents = vec![None; n_inputs];
    for (pos, tangent) in positions(op, "wrt").into_iter().zip(&args[n_inputs..]) {
        tangents[pos] = Some(*tangent);
    }
    let pushed = linearize(b, &func, &args[..n_inputs], &tangents, LoopMode::Joint)?;
    let mut results = pushed.outputs.clone();
    for (output, tangent) in pushed.outputs.iter().zip(pushed.tangents) {
        let ty = b.ty(*output).clone();
        if ty.dtype.is_float() {
            results.push(match tangent {
                Some(tangent) => tangent,
                None => zeros(b, &ty)?,
            });
        }
    }
    Ok(results)
}

/// See the op `vjp`.
pub fn vjp(b: &mut Builder<'_>, args: &[ValueId], op: &Op) -> Result<Vec<ValueId>, String> {
    let func = subject(b, op)?;
    let n_inputs = func.inputs.len();
    let mode = match op.word("loops") {
        "rerun" => LoopMode::Rerun,
        "rebuild" => LoopMode::Rebuild,
        _ => LoopMode::Stash,
    };
    let wrt = positions(op, "wrt");
    let first_node = b.func().nodes.len();
    // Tangents to linearise with. Transposition leaves nothing that reads them.
    let mut tangents: Tangents = vec![None; n_inputs];
    for pos in &wrt {
        let ty = b.ty(args[*pos]).clone();
        tangents[*pos] = Some(zeros(b, &ty)?);
    }
    let pushed = linearize(b, &func, &args[..n_inputs], &tangents, mode)?;
    let mut cotangents = vec![];
    for (pos, cotangent) in positions(op, "of").into_iter().zip(&args[n_inputs..]) {
        cotangents.extend(pushed.tangents[pos].map(|tangent| (tangent, *cotangent)));
    }
    let seeds: Vec<ValueId> = wrt.iter().filter_map(|pos| tangents[*pos]).collect();
    let found = transpose::transpose_tail(b, first_node, &seeds, &cotangents)?;
    let mut results = pushed.outputs;
    for (pos, cotangent) in wrt.iter().zip(found) {
        let ty = func.values[*pos].ty.clone();
        results.push(match cotangent {
            Some(cotangent) => b.convert(cotangent, ty.dtype)?,
            None => zeros(b, &ty)?,
        });
    }
    Ok(results)
}

type Types = Result<Vec<TensorType>, String>;

/// The type rule of `jvp`.
pub fn jvp_types(module: &Module, args: &[TensorType], op: &Op) -> Types {
    let (inputs, outputs) = signature(module, op)?;
    let mut expected = inputs.clone();
    expected.extend(chosen(op, "wrt", "argument", &inputs)?);
    operands(op, args, &expected)?;
    let mut results = outputs.clone();
    results.extend(outputs.into_iter().filter(|ty| ty.dtype.is_float()));
    Ok(results)
}

/// The type rule of `vjp`.
pub fn vjp_types(module: &Module, args: &[TensorType], op: &Op) -> Types {
    let (inputs, outputs) = signature(module, op)?;
    let mut expected = inputs.clone();
    expected.extend(chosen(op, "of", "result", &outputs)?);
    operands(op, args, &expected)?;
    let mut results = outputs;
    results.extend(chosen(op, "wrt", "argument", &inputs)?);
    Ok(results)
}

fn signature(module: &Module, op: &Op) -> Result<(Vec<TensorType>, Vec<TensorType>), String> {
    let name = op.kind.name();
    let func = op.body().and_then(|id| module.funcs.get(id.0 as usize));
    let func = func.ok_or_else(|| format!("`{name}` needs a function that is declared before it"))?;
    let inputs = func.input_values().map(|value| func.ty(value).clone()).collect();
    let outputs = func.outputs.iter().map(|out| func.ty(out.value).clone()).collect();
    Ok((inputs, outputs))
}

/// The types at the positions that an attribute lists.
fn chosen(op: &Op, attr: &str, what: &str, types: &[TensorType]) -> Types {
    let name = op.kind.name();
    let listed = positions(op, attr);
    if listed.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(format!("`{attr}` of `{name}` must be increasing, found {listed:?}"));
    }
    let one = |pos: &usize| match types.get(*pos) {
        None => Err(format!("`{attr}` of `{name}`: there is no {what} {pos}, there are {}", types.len())),
        Some(ty) if !ty.dtype.is_float() => {
            Err(format!("`{attr}` of `{name}`: {what} {pos} is {ty}, and only floats have derivatives"))
        }
        Some(ty) => Ok(ty.clone()),
    };
    listed.iter().map(one).collect()
}

fn operands(op: &Op, args: &[TensorType], expected: &[TensorType]) -> Result<(), String> {
    let name = op.kind.name();
    if args.len() != expected.len() {
        return Err(format!("`{name}` takes {} operands here, found {}", expected.len(), args.len()));
    }
    match args.iter().zip(expected).position(|(found, expected)| found != expected) {
        Some(idx) => Err(format!("operand {idx} of `{name}` must be {}, found {}", expected[idx], args[idx])),
        None => Ok(()),
    }
}
