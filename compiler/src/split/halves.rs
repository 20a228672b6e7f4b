//! The two functions, once it is known what is saved.
//!
//! In: a joint function and the values to save. Out: a [`Split`]. Order and names stay; what neither half needs is dropped.

use super::{Joint, Keep, Rebuilt, Saved, Split, without_unread_results};
use crate::cost::is_fused;
use crate::expand::expand;
use birkhoff_ir::tensor::inline::{live, read_inputs, without_inputs};
use birkhoff_ir::tensor::{Def, Domain, Func, FuncId, Input, Module, Node, OpKind, Output, ValueId};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn build(joint: &Joint<'_>, saved: &BTreeSet<ValueId>) -> Result<Split, String> {
    let mut kept: Vec<(ValueId, Saved)> = vec![];
    let mut outputs: Vec<Output> = joint.func.outputs[..joint.parts.n_values].to_vec();
    let mut taken: BTreeSet<String> = joint.func.inputs.iter().map(|input| input.name.to_string()).collect();
    taken.extend(joint.func.outputs.iter().map(|out| out.name.to_string()));
    for value in saved {
        let name = fresh(&mut taken, &format!("save.{}", name_of(joint, *value)));
        let known = outputs.iter().position(|out| out.value == *value);
        let output = known.unwrap_or(outputs.len());
        if known.is_none() {
            outputs.push(Output { name: name.as_str().into(), value: *value });
        }
        let ty = joint.func.ty(*value).clone();
        kept.push((*value, Saved { name: name.as_str().into(), ty, output, why: why_saved(joint, *value) }));
    }
    let (rebuilt, n_fused) = rebuilt(joint, saved);
    Ok(Split {
        forward: forward(joint, outputs)?,
        backward: backward(joint, &kept)?,
        saved: kept.into_iter().map(|(_, saved)| saved).collect(),
        rebuilt,
        n_fused,
    })
}

/// A name that nothing has yet.
fn fresh(taken: &mut BTreeSet<String>, base: &str) -> String {
    let mut name = base.to_string();
    let mut number = 1;
    while !taken.insert(name.clone()) {
        name = format!("{base}_{number}");
        number += 1;
    }
    name
}

/// The name of a value, or that of a result that it is converted or moved to, or its number.
fn name_of(joint: &Joint<'_>, value: ValueId) -> String {
    if let Some(name) = &joint.func.values[value.0 as usize].name {
        return name.to_string();
    }
    if let Some(out) = joint.func.outputs.iter().find(|out| out.value == value) {
        return out.name.to_string();
    }
    let node = joint.node_of(value).map(|node| &joint.func.nodes[node]);
    match node.and_then(|node| node.op.body()) {
        Some(body) => joint.module.func(body).name.clone(),
        None => format!("{}{}", node.map_or("v", |node| node.op.kind.name()), value.0),
    }
}

fn why_saved(joint: &Joint<'_>, value: ValueId) -> &'static str {
    let Some(node) = joint.node_of(value) else { return "an argument" };
    let kind = joint.func.nodes[node].op.kind;
    match kind {
        _ if joint.is_value(value) => "a result of the function, which is written anyway",
        OpKind::Loop if !joint.repeats(node) => "of a loop, which is not run again",
        OpKind::Contract => "of a contraction, which is dear to repeat",
        _ if joint.repeats(node) => "fewer bytes than what it is computed from",
        OpKind::ReduceSum | OpKind::ReduceProd | OpKind::ReduceMax | OpKind::ReduceMin => {
            "of a reduction that reads much more"
        }
        _ => "dear to repeat",
    }
}

/// What the backward does again: dear work one by one, the rest as a number.
fn rebuilt(joint: &Joint<'_>, saved: &BTreeSet<ValueId>) -> (Vec<Rebuilt>, usize) {
    let mut wanted: BTreeSet<ValueId> =
        joint.needed().into_iter().filter(|value| !saved.contains(value)).collect();
    let mut nodes = BTreeSet::new();
    for value in (0..joint.func.values.len() as u32).rev().map(ValueId) {
        if wanted.contains(&value)
            && let Some(node) = joint.node_of(value)
        {
            nodes.insert(node);
            wanted.extend(joint.func.nodes[node].args.iter().filter(|arg| !saved.contains(arg)));
        }
    }
    let (fused, dear): (Vec<usize>, Vec<usize>) =
        nodes.into_iter().partition(|node| is_fused(joint.func.nodes[*node].op.kind));
    let of_node = |idx: usize| {
        let node = &joint.func.nodes[idx];
        let sum = |values: &[ValueId]| values.iter().map(|value| joint.bytes(*value)).sum::<u64>();
        let (reads, bytes) = (sum(&node.args), sum(&node.results));
        let on_chip = joint.on_chip.get(idx).copied().unwrap_or(false);
        let why = match node.op.kind {
            OpKind::Loop if on_chip => {
                format!("it runs again on chip from {reads} bytes, instead of {bytes} bytes kept in memory")
            }
            _ if joint.keep == Keep::Nothing => "nothing is saved".to_string(),
            _ => format!("{bytes} bytes from {reads}, cheap to repeat"),
        };
        let name = match node.op.body() {
            Some(body) => joint.module.func(body).name.clone(),
            None => node.results.first().map(|result| name_of(joint, *result)).unwrap_or_default(),
        };
        Rebuilt { name, op: node.op.kind.name(), bytes, why }
    };
    (dear.into_iter().map(of_node).collect(), fused.len())
}

fn forward(joint: &Joint<'_>, outputs: Vec<Output>) -> Result<(Module, FuncId), String> {
    let name = format!("{}_forward", joint.func.name);
    let func = live(&Func { name, outputs, ..joint.func.clone() });
    let keep: Vec<bool> = (0..func.inputs.len()).map(|pos| pos < joint.parts.n_inputs).collect();
    own_module(joint, without_inputs(&func, &keep))
}

/// The gradients of the joint function, with saved values as arguments.
fn backward(joint: &Joint<'_>, saved: &[(ValueId, Saved)]) -> Result<(Module, FuncId), String> {
    let source = joint.func;
    let n_inputs = joint.parts.n_inputs;
    let mut func = Func {
        name: format!("{}_backward", source.name),
        inputs: source.inputs[..n_inputs].to_vec(),
        values: source.values[..n_inputs].to_vec(),
        nodes: vec![],
        outputs: vec![],
        ..source.clone()
    };
    let mut map: BTreeMap<ValueId, ValueId> =
        (0..n_inputs as u32).map(|pos| (ValueId(pos), ValueId(pos))).collect();
    let mut argument = |func: &mut Func, value: ValueId, input: Input| {
        let mut copy = source.values[value.0 as usize].clone();
        copy.def = Def::Input(func.inputs.len() as u32);
        map.insert(value, ValueId(func.values.len() as u32));
        func.values.push(copy);
        func.inputs.push(input);
    };
    for (value, about) in saved {
        let input = Input { name: about.name.clone(), domain: Domain::default(), span: source.span };
        argument(&mut func, *value, input);
    }
    for pos in n_inputs..source.inputs.len() {
        argument(&mut func, ValueId(pos as u32), source.inputs[pos].clone());
    }
    for node in &source.nodes {
        let number = func.nodes.len() as u32;
        let mut results = vec![];
        for (idx, result) in node.results.iter().enumerate() {
            let mut copy = source.values[result.0 as usize].clone();
            copy.def = Def::Node { node: number, result: idx as u32 };
            let id = ValueId(func.values.len() as u32);
            func.values.push(copy);
            // A saved value keeps its place as an argument.
            map.entry(*result).or_insert(id);
            results.push(id);
        }
        let args =
            node.args.iter().map(|arg| map.get(arg).copied().ok_or("a value is used before its definition"));
        let args = args.collect::<Result<Vec<_>, _>>()?;
        func.nodes.push(Node { op: node.op.clone(), args, results, span: node.span });
    }
    for out in &source.outputs[joint.parts.n_values..] {
        let value = map.get(&out.value).copied().ok_or("a gradient has no value")?;
        func.outputs.push(Output { name: out.name.clone(), value });
    }
    let func = live(&func);
    let read = read_inputs(&func);
    let keep: Vec<bool> = read.iter().enumerate().map(|(pos, read)| *read || pos >= n_inputs).collect();
    own_module(joint, without_inputs(&func, &keep))
}

/// The function in a module of its own, with the bodies that it uses and nothing unread in its loops.
fn own_module(joint: &Joint<'_>, func: Func) -> Result<(Module, FuncId), String> {
    let mut module = joint.module.clone();
    let mut func = without_unread_results(&mut module, &func);
    func.exported = true;
    module.funcs.push(func);
    let id = FuncId(module.funcs.len() as u32 - 1);
    expand(&module, id)
}
