//! Functions copied into others: composites written out, dead nodes and unread arguments dropped.
//!
//! In: functions of one module. Out: functions of equal meaning. Assumes they verify.

use super::{Def, Func, Input, Module, Node, Op, OpKind, Value, ValueId, build::Builder};
use std::collections::BTreeMap;

/// `func` with every composite for which `opens` holds written out, and those in the expansions too. Bodies of new loops are
/// appended to `module`.
///
/// Errors: an expansion that refuses its operands.
pub fn write_out(module: &mut Module, func: &Func, opens: &dyn Fn(OpKind) -> bool) -> Result<Func, String> {
    let is_open = |kind: OpKind| kind.is_composite() && opens(kind);
    let mut func = func.clone();
    while func.nodes.iter().any(|node| is_open(node.op.kind)) {
        let values = func.values[..func.inputs.len()].to_vec();
        let shell = Func { nodes: vec![], outputs: vec![], values, ..func.clone() };
        let mut builder = Builder::resume(module, shell);
        let mut map: Vec<Option<ValueId>> = vec![None; func.values.len()];
        func.input_values().for_each(|value| map[value.0 as usize] = Some(value));
        for node in &func.nodes {
            let args = mapped(&map, &node.args)?;
            builder.set_span(node.span);
            let results = match is_open(node.op.kind) {
                true => builder.expand(&node.op, &args)?,
                false => builder.op(node.op.clone(), &args)?,
            };
            for (old, new) in node.results.iter().zip(results) {
                map[old.0 as usize] = Some(new);
                if let Some(name) = &func.values[old.0 as usize].name {
                    builder.name(new, name.clone());
                }
            }
        }
        for out in &func.outputs {
            let value = mapped(&map, &[out.value])?[0];
            builder.output(out.name.clone(), value)?;
        }
        func = builder.into_func();
    }
    Ok(func)
}

fn mapped(map: &[Option<ValueId>], values: &[ValueId]) -> Result<Vec<ValueId>, String> {
    let known = |value: &ValueId| map.get(value.0 as usize).copied().flatten();
    values
        .iter()
        .map(|value| known(value).ok_or_else(|| "a value is used before its definition".to_string()))
        .collect()
}

/// The function without nodes whose results no output needs. Arguments stay.
pub fn live(func: &Func) -> Func {
    let mut needed = vec![false; func.values.len()];
    for out in &func.outputs {
        needed[out.value.0 as usize] = true;
    }
    for node in func.nodes.iter().rev() {
        if node.results.iter().any(|result| needed[result.0 as usize]) {
            node.args.iter().for_each(|arg| needed[arg.0 as usize] = true);
        }
    }
    let n_inputs = func.inputs.len();
    let mut kept = Func { values: func.values[..n_inputs].to_vec(), nodes: vec![], ..func.clone() };
    let mut map: BTreeMap<ValueId, ValueId> = func.input_values().map(|value| (value, value)).collect();
    for node in &func.nodes {
        if !node.results.iter().any(|result| needed[result.0 as usize]) {
            continue;
        }
        let place = kept.nodes.len() as u32;
        let results: Vec<ValueId> = node
            .results
            .iter()
            .enumerate()
            .map(|(idx, result)| {
                let mut value = func.values[result.0 as usize].clone();
                value.def = Def::Node { node: place, result: idx as u32 };
                kept.values.push(value);
                let id = ValueId(kept.values.len() as u32 - 1);
                map.insert(*result, id);
                id
            })
            .collect();
        let args = node.args.iter().map(|arg| map[arg]).collect();
        kept.nodes.push(Node { op: Op::clone(&node.op), args, results, span: node.span });
    }
    for out in &mut kept.outputs {
        out.value = map[&out.value];
    }
    kept
}

/// Which arguments a node or an output reads.
pub fn read_inputs(func: &Func) -> Vec<bool> {
    let uses = func.n_uses();
    func.input_values().map(|value| uses[value.0 as usize] > 0).collect()
}

/// The function without the arguments for which `keep` is false; nothing may read them.
pub fn without_inputs(func: &Func, keep: &[bool]) -> Func {
    let mut map = vec![ValueId(0); func.values.len()];
    let mut values: Vec<Value> = Vec::with_capacity(func.values.len());
    let mut inputs: Vec<Input> = vec![];
    for (idx, value) in func.values.iter().enumerate() {
        let is_input = idx < func.inputs.len();
        if is_input && !keep[idx] {
            continue;
        }
        map[idx] = ValueId(values.len() as u32);
        let mut value = value.clone();
        if is_input {
            value.def = Def::Input(inputs.len() as u32);
            inputs.push(func.inputs[idx].clone());
        }
        values.push(value);
    }
    let moved = |ids: &[ValueId]| ids.iter().map(|id| map[id.0 as usize]).collect::<Vec<_>>();
    let node = |node: &Node| Node {
        op: node.op.clone(),
        args: moved(&node.args),
        results: moved(&node.results),
        span: node.span,
    };
    let mut kept = Func { inputs, values, nodes: func.nodes.iter().map(node).collect(), ..func.clone() };
    kept.outputs.iter_mut().for_each(|out| out.value = map[out.value.0 as usize]);
    kept
}
