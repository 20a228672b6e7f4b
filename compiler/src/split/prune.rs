//! Loops without what nobody reads.
//!
//! In: a function. Out: the same, in which every loop has only the stacks that are read, the state that those and the read
//! results depend on, and the operands that its body reads. New bodies are appended to the module.

use crate::schedule::graph::LoopShape;
use birkhoff_ir::tensor::inline::{live, read_inputs, without_inputs};
use birkhoff_ir::tensor::{Attr, Def, Func, FuncId, Module, Node, OpKind, ValueId};

/// `func` without unread results of loops, and without what only those need.
pub fn without_unread_results(module: &mut Module, func: &Func) -> Func {
    let mut func = live(func);
    // Operands of a loop that goes are results of earlier ones: from the last to the first.
    for idx in (0..func.nodes.len()).rev() {
        if func.nodes[idx].op.kind != OpKind::Loop {
            continue;
        }
        let uses = func.n_uses();
        let read: Vec<bool> =
            func.nodes[idx].results.iter().map(|result| uses[result.0 as usize] > 0).collect();
        if let Some(pruned) = pruned(module, &func.nodes[idx], &read) {
            // The results that are left keep their ids; the others stay as values that nothing defines until `live`.
            for (pos, result) in pruned.results.iter().enumerate() {
                func.values[result.0 as usize].def = Def::Node { node: idx as u32, result: pos as u32 };
            }
            func.nodes[idx] = pruned;
        }
    }
    live(&func)
}

/// The loop with what is read; `None` if that is all of it.
fn pruned(module: &mut Module, node: &Node, read: &[bool]) -> Option<Node> {
    let shape = LoopShape::of(&node.op);
    let body = module.funcs.get(node.op.body()?.0 as usize)?.clone();
    let body = without_unread_results(module, &body);
    let mut wanted = read.to_vec();
    let mut slim;
    let inputs = loop {
        slim = body.clone();
        slim.outputs = body
            .outputs
            .iter()
            .zip(&wanted)
            .filter(|(_, wanted)| **wanted)
            .map(|(out, _)| out.clone())
            .collect();
        slim = live(&slim);
        let inputs = read_inputs(&slim);
        // State that the body reads must be computed, whoever else reads it.
        let missing = (0..shape.n_carry).find(|pos| inputs[*pos] && !wanted[*pos]);
        match missing {
            Some(pos) => wanted[pos] = true,
            None => break inputs,
        }
    };
    let keep: Vec<bool> =
        inputs.iter().enumerate().map(|(pos, read)| *read || (pos < shape.n_carry && wanted[pos])).collect();
    if keep.iter().chain(&wanted).all(|keep| *keep) {
        return None;
    }
    let slim = without_inputs(&slim, &keep);
    let count = |range: std::ops::Range<usize>| range.filter(|pos| keep[*pos]).count() as i64;
    let mut op = node.op.clone();
    op.attrs[0] = Attr::Func(append(module, slim));
    op.attrs[2] = Attr::Int(count(0..shape.n_carry));
    op.attrs[3] = Attr::Int(count(shape.n_carry..shape.n_carry + shape.n_scan));
    let of = |values: &[ValueId], keep: &[bool]| -> Vec<ValueId> {
        values.iter().zip(keep).filter(|(_, keep)| **keep).map(|(value, _)| *value).collect()
    };
    Some(Node { op, args: of(&node.args, &keep), results: of(&node.results, &wanted), span: node.span })
}

/// Adds a body under a name of its own.
fn append(module: &mut Module, mut body: Func) -> FuncId {
    let base = body.name.clone();
    let mut number = 1;
    while module.find(&body.name).is_some() {
        body.name = format!("{base}_{number}");
        number += 1;
    }
    module.funcs.push(body);
    FuncId(module.funcs.len() as u32 - 1)
}
