//! A function copied into another, with the tangents of its values beside them.
//!
//! In: a function of ops that have rules, its arguments and their tangents. Out: its results and theirs.

use super::{Derivative, LoopMode, Site, Tangents, loops};
use crate::tensor::build::Builder;
use crate::tensor::{Func, Node, ValueId};
use std::collections::BTreeMap;

/// Results of a function and their tangents.
pub struct Pushed {
    /// The results.
    pub outputs: Vec<ValueId>,
    /// Their tangents; `None` is zero.
    pub tangents: Tangents,
}

/// Copies `func` to `b`, applied to `args`, with tangents.
///
/// Errors: those of rules.
pub fn linearize(
    b: &mut Builder<'_>,
    func: &Func,
    args: &[ValueId],
    tangents: &[Option<ValueId>],
    mode: LoopMode,
) -> Result<Pushed, String> {
    linearize_with(b, func, args, tangents, mode, &BTreeMap::new())
}

/// The same, where some results of nodes are `known` and need not be computed.
///
/// Errors: those of rules.
pub fn linearize_with(
    b: &mut Builder<'_>,
    func: &Func,
    args: &[ValueId],
    tangents: &[Option<ValueId>],
    mode: LoopMode,
    known: &BTreeMap<ValueId, ValueId>,
) -> Result<Pushed, String> {
    let mut values: Vec<ValueId> = args.to_vec();
    values.resize(func.values.len(), ValueId(0));
    let mut pushed: Tangents = tangents.to_vec();
    pushed.resize(func.values.len(), None);
    for node in &func.nodes {
        let args: Vec<ValueId> = node.args.iter().map(|arg| values[arg.0 as usize]).collect();
        let tangents: Tangents = node.args.iter().map(|arg| pushed[arg.0 as usize]).collect();
        b.set_span(node.span);
        let given: Vec<Option<ValueId>> = node.results.iter().map(|old| known.get(old).copied()).collect();
        let (results, tangents) = node_tangents(b, node, &args, &tangents, mode, given)?;
        for (idx, old) in node.results.iter().enumerate() {
            values[old.0 as usize] = results[idx];
            pushed[old.0 as usize] = tangents[idx];
            if let Some(name) = &func.values[old.0 as usize].name {
                b.name(results[idx], name.clone());
            }
        }
    }
    Ok(Pushed {
        outputs: func.outputs.iter().map(|out| values[out.value.0 as usize]).collect(),
        tangents: func.outputs.iter().map(|out| pushed[out.value.0 as usize]).collect(),
    })
}

fn node_tangents(
    b: &mut Builder<'_>,
    node: &Node,
    args: &[ValueId],
    tangents: &[Option<ValueId>],
    mode: LoopMode,
    given: Vec<Option<ValueId>>,
) -> Result<(Vec<ValueId>, Tangents), String> {
    let derivative = node.op.kind.derivative();
    if matches!(derivative, Derivative::ThroughBody) && tangents.iter().any(Option::is_some) {
        return loops::linearize_loop(b, &node.op, args, tangents, mode, &given);
    }
    let results = match given.into_iter().collect::<Option<Vec<ValueId>>>() {
        Some(results) => results,
        None => b.op(node.op.clone(), args)?,
    };
    let none = vec![None; results.len()];
    if tangents.iter().all(Option::is_none) {
        return Ok((results, none));
    }
    let tangents = match derivative {
        Derivative::Rule(rule) => rule(b, &Site { op: &node.op, args, results: &results, tangents })?,
        Derivative::Zero(_) => none,
        Derivative::Expansion | Derivative::ThroughBody => {
            return Err(format!(
                "`{}` was not written out before it was differentiated",
                node.op.kind.name()
            ));
        }
    };
    let name = node.op.kind.name();
    for (result, tangent) in results.iter().zip(&tangents) {
        if let Some(tangent) = tangent
            && b.ty(*tangent) != b.ty(*result)
        {
            return Err(format!(
                "the tangent of `{name}` is {}, its result {}",
                b.ty(*tangent),
                b.ty(*result)
            ));
        }
    }
    Ok((results, tangents))
}
