//! Writes composites in primitives, and drops what no output needs.
//!
//! In: a bound module. Out: the same functions over primitives only; loop bodies that nothing uses any more are gone.
//! Assumes the module verifies; changes no meaning, reorders nothing.

use birkhoff_ir::tensor::{Attr, Def, Func, FuncId, Module, Node, Op, OpKind, ValueId, build::Builder};
use std::collections::BTreeMap;

/// Expands every composite of `func` and of the loop bodies it uses, into a module that holds just these.
///
/// Returns the module and the function's place in it.
///
/// Errors: an expansion that refuses its operands (a verified module has none).
pub fn expand(module: &Module, func: FuncId) -> Result<(Module, FuncId), String> {
    let mut target = Module { dims: module.dims.clone(), params: module.params.clone(), funcs: vec![] };
    let mut scratch = module.clone();
    let id = expand_func(&mut scratch, func, &mut target, &mut BTreeMap::new())?;
    Ok((target, id))
}

fn expand_func(
    source: &mut Module,
    id: FuncId,
    target: &mut Module,
    done: &mut BTreeMap<FuncId, FuncId>,
) -> Result<FuncId, String> {
    if let Some(known) = done.get(&id) {
        return Ok(*known);
    }
    let flat = flatten(source, id)?;
    let mut flat = live(&flat);
    for node in &mut flat.nodes {
        if node.op.kind == OpKind::Loop
            && let Some(body) = node.op.body()
        {
            let body = expand_func(source, body, target, done)?;
            node.op.attrs[0] = Attr::Func(body);
        }
    }
    target.funcs.push(flat);
    let new_id = FuncId(target.funcs.len() as u32 - 1);
    done.insert(id, new_id);
    Ok(new_id)
}

/// `id` with its composites written out, until none is left.
fn flatten(module: &mut Module, id: FuncId) -> Result<Func, String> {
    let mut func = module.func(id).clone();
    while func.nodes.iter().any(|node| node.op.kind.is_composite()) {
        let shell = Func {
            nodes: vec![],
            outputs: vec![],
            values: func.values[..func.inputs.len()].to_vec(),
            ..func.clone()
        };
        let mut builder = Builder::resume(module, shell);
        let mut map: BTreeMap<ValueId, ValueId> = func.input_values().map(|value| (value, value)).collect();
        for node in &func.nodes {
            let args: Vec<ValueId> = node.args.iter().map(|arg| map[arg]).collect();
            builder.set_span(node.span);
            let results = builder.expand(&node.op, &args)?;
            for (old, new) in node.results.iter().zip(results) {
                map.insert(*old, new);
                if let Some(name) = &func.values[old.0 as usize].name {
                    builder.name(new, name.clone());
                }
            }
        }
        for out in &func.outputs {
            builder.output(out.name.clone(), map[&out.value])?;
        }
        func = builder.into_func();
    }
    Ok(func)
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
