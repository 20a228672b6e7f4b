//! Transposition of loops.
//!
//! In: a loop whose state and some of whose operands are tangents, and cotangents of its results. Out: a loop that runs the
//! other way: it carries the cotangents of the state, and sums for the tangents that stay the same; it scans the values that
//! the loop scanned and the cotangents of its stacks, and stacks those of the slices.

use super::transpose::Transposition;
use super::zeros;
use crate::tensor::build::Builder;
use crate::tensor::inline::live;
use crate::tensor::{Attr, Func, FuncId, Node, TensorType, ValueId};

/// The operands of a loop, by what they become.
struct Roles {
    carried: Vec<usize>,
    /// Slices that are values.
    known_slices: Vec<usize>,
    /// Slices that are tangents.
    slices: Vec<usize>,
    /// Values that stay the same.
    known_rest: Vec<usize>,
    /// Tangents that stay the same.
    rest: Vec<usize>,
    /// Stacked results that have a cotangent.
    stacks: Vec<usize>,
}

/// Gives cotangents to the operands of the loop `node`.
pub fn transpose_loop(walk: &mut Transposition, b: &mut Builder<'_>, node: &Node) -> Result<(), String> {
    let (carry, scan) = node.op.loop_counts(b.module)?;
    let body = node.op.body().and_then(|id| b.module.funcs.get(id.0 as usize)).cloned();
    let body = body.ok_or("`loop` needs a body")?;
    let is_linear = |pos: &usize| walk.is_linear(node.args[*pos]);
    let roles = Roles {
        carried: (0..carry).collect(),
        known_slices: (carry..carry + scan).filter(|pos| !is_linear(pos)).collect(),
        slices: (carry..carry + scan).filter(is_linear).collect(),
        known_rest: (carry + scan..node.args.len()).filter(|pos| !is_linear(pos)).collect(),
        rest: (carry + scan..node.args.len()).filter(is_linear).collect(),
        stacks: (carry..node.results.len())
            .filter(|pos| walk.cotangent(node.results[*pos]).is_some())
            .collect(),
    };
    let transposed = transposed_body(b, &body, &roles)?;

    let mut operands = vec![];
    for pos in &roles.carried {
        operands.push(match walk.cotangent(node.results[*pos]) {
            Some(cotangent) => cotangent,
            None => zeros(b, &wide(walk.ty(node.results[*pos])))?,
        });
    }
    for pos in &roles.rest {
        operands.push(zeros(b, &wide(walk.ty(node.args[*pos])))?);
    }
    for pos in &roles.known_slices {
        operands.push(walk.known(node.args[*pos])?);
    }
    operands.extend(roles.stacks.iter().filter_map(|pos| walk.cotangent(node.results[*pos])));
    for pos in &roles.known_rest {
        operands.push(walk.known(node.args[*pos])?);
    }
    let reverse = node.op.flag(b.module, "reverse")?;
    let mut op = node.op.clone();
    op.attrs[0] = Attr::Func(transposed);
    op.attrs[2] = Attr::Int((roles.carried.len() + roles.rest.len()) as i64);
    op.attrs[3] = Attr::Int((roles.known_slices.len() + roles.stacks.len()) as i64);
    op.attrs[4] = Attr::Bool(!reverse);
    let found = b.op(op, &operands)?;
    let targets = roles.carried.iter().chain(&roles.rest).chain(&roles.slices);
    for (pos, cotangent) in targets.zip(found) {
        walk.give(b, node.args[*pos], cotangent)?;
    }
    Ok(())
}

/// The type of a cotangent.
fn wide(ty: &TensorType) -> TensorType {
    TensorType::new(ty.dtype.compute(), ty.shape.clone())
}

/// Arguments: cotangents of the state, sums; slices of values, cotangents of stacks; values that stay the same. Results: the
/// next cotangents and sums, cotangents of slices.
fn transposed_body(b: &mut Builder<'_>, body: &Func, roles: &Roles) -> Result<FuncId, String> {
    let name = format!("{}_transposed", body.name);
    let id = b.nested(&name, |inner| {
        let input_type = |pos: usize| body.values[pos].ty.clone();
        let named = |pos: usize| body.inputs[pos].name.to_string();
        let ct = |pos: usize| format!("ct.{}", body.inputs[pos].name);
        let mut given = vec![];
        for pos in &roles.carried {
            given.push(inner.fresh_input(&ct(*pos), wide(&input_type(*pos)))?);
        }
        let mut sums = vec![];
        for pos in &roles.rest {
            sums.push(inner.fresh_input(&ct(*pos), wide(&input_type(*pos)))?);
        }
        let mut known: Vec<Option<ValueId>> = vec![None; body.values.len()];
        for pos in &roles.known_slices {
            known[*pos] = Some(inner.fresh_input(&named(*pos), input_type(*pos))?);
        }
        let mut stack_slices = vec![];
        for pos in &roles.stacks {
            let out = &body.outputs[*pos];
            stack_slices.push(inner.fresh_input(&format!("ct.{}", out.name), wide(body.ty(out.value)))?);
        }
        for pos in &roles.known_rest {
            known[*pos] = Some(inner.fresh_input(&named(*pos), input_type(*pos))?);
        }
        let value = |pos: &usize| ValueId(*pos as u32);
        let seeds: Vec<ValueId> =
            roles.carried.iter().chain(&roles.slices).chain(&roles.rest).map(value).collect();
        let mut walk = Transposition::new(body.clone(), &seeds, known, 0);
        walk.copy_known(inner)?;
        for (pos, cotangent) in roles.carried.iter().zip(&given) {
            walk.give(inner, body.outputs[*pos].value, *cotangent)?;
        }
        for (pos, cotangent) in roles.stacks.iter().zip(&stack_slices) {
            walk.give(inner, body.outputs[*pos].value, *cotangent)?;
        }
        walk.run(inner, 0)?;
        let or_zero = |inner: &mut Builder<'_>, walk: &Transposition, pos: usize| match walk
            .cotangent(ValueId(pos as u32))
        {
            Some(cotangent) => Ok(cotangent),
            None => zeros(inner, &wide(&body.values[pos].ty)),
        };
        for pos in &roles.carried {
            let cotangent = or_zero(inner, &walk, *pos)?;
            inner.fresh_output(&ct(*pos), cotangent)?;
        }
        for (pos, sum) in roles.rest.iter().zip(sums) {
            let next = match walk.cotangent(ValueId(*pos as u32)) {
                Some(cotangent) => inner.add(sum, cotangent)?,
                None => sum,
            };
            inner.fresh_output(&ct(*pos), next)?;
        }
        for pos in &roles.slices {
            let cotangent = or_zero(inner, &walk, *pos)?;
            inner.fresh_output(&ct(*pos), cotangent)?;
        }
        Ok(())
    })?;
    b.module.funcs[id.0 as usize] = live(b.module.func(id));
    Ok(id)
}
