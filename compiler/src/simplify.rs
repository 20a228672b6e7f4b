//! Makes equal nodes one.
//!
//! In: a function. Out: the same without nodes that compute what an earlier one does, and without nodes that no output needs.
//! Changes no bit of any result; looks into no loop body.

use birkhoff_ir::tensor::inline::live;
use birkhoff_ir::tensor::{Def, Func, Node, Op, ValueId};
use std::collections::HashMap;

/// The function with equal nodes merged and dead ones dropped; the order of what is left stays.
pub fn merge_equal_nodes(func: &Func) -> Func {
    let n_inputs = func.inputs.len();
    let mut kept = Func { values: func.values[..n_inputs].to_vec(), nodes: vec![], ..func.clone() };
    let mut place: Vec<ValueId> = (0..n_inputs as u32).map(ValueId).collect();
    let mut known: HashMap<(Op, Vec<ValueId>), Vec<ValueId>> = HashMap::new();
    for node in &func.nodes {
        let args: Vec<ValueId> = node.args.iter().map(|arg| place[arg.0 as usize]).collect();
        let key = (node.op.clone(), args);
        if let Some(results) = known.get(&key) {
            place.extend(results);
            continue;
        }
        let number = kept.nodes.len() as u32;
        let mut results = vec![];
        for (idx, result) in node.results.iter().enumerate() {
            let mut value = func.values[result.0 as usize].clone();
            value.def = Def::Node { node: number, result: idx as u32 };
            kept.values.push(value);
            results.push(ValueId(kept.values.len() as u32 - 1));
        }
        place.extend(&results);
        kept.nodes.push(Node {
            op: key.0.clone(),
            args: key.1.clone(),
            results: results.clone(),
            span: node.span,
        });
        known.insert(key, results);
    }
    kept.outputs.iter_mut().for_each(|out| out.value = place[out.value.0 as usize]);
    live(&kept)
}
