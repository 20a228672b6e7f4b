//! Which values depend on which arguments in a way that has a derivative.
//!
//! In: a function of ops with rules. Out: one flag per value. A flag may be set where the derivative happens to be zero.

use super::Derivative;
use crate::tensor::{Func, Module, Node, OpKind};

/// Values whose derivative with respect to the arguments `inputs` may not be zero.
pub fn active_values(module: &Module, func: &Func, inputs: &[bool]) -> Vec<bool> {
    let carried = |node: &Node| node.op.loop_counts(module).map_or(0, |(carry, _)| carry);
    let mut active = vec![false; func.values.len()];
    active[..inputs.len()].copy_from_slice(inputs);
    for node in &func.nodes {
        let args: Vec<bool> = node.args.iter().map(|arg| active[arg.0 as usize]).collect();
        let is_zero = matches!(node.op.kind.derivative(), Derivative::Zero(_));
        if is_zero || !args.contains(&true) {
            continue;
        }
        let results = match (node.op.kind, node.op.body()) {
            (OpKind::Loop, Some(body)) => match module.funcs.get(body.0 as usize) {
                Some(body) => loop_activity(module, body, carried(node), args).1,
                None => vec![true; node.results.len()],
            },
            _ => vec![true; node.results.len()],
        };
        for (result, is_active) in node.results.iter().zip(results) {
            active[result.0 as usize] = is_active && func.ty(*result).dtype.is_float();
        }
    }
    active
}

/// Activity of a loop body's arguments and results: state that becomes active in some iteration is active.
pub fn loop_activity(
    module: &Module,
    body: &Func,
    carry: usize,
    mut inputs: Vec<bool>,
) -> (Vec<bool>, Vec<bool>) {
    loop {
        let active = active_values(module, body, &inputs);
        let outputs: Vec<bool> = body.outputs.iter().map(|out| active[out.value.0 as usize]).collect();
        let mut changed = false;
        for (input, output) in inputs.iter_mut().zip(&outputs).take(carry) {
            changed |= *output && !*input;
            *input |= *output;
        }
        if !changed {
            let mut results = outputs;
            // Without an iteration, the state is what it was.
            results.iter_mut().zip(&inputs).take(carry).for_each(|(result, input)| *result |= *input);
            return (inputs, results);
        }
    }
}
