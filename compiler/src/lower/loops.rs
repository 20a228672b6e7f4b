//! Where loops and their iterates are: on chip, or in memory.
//!
//! In: a function of primitives in a bound module. Out: which of its loops stay on chip, and for every loop that is taken
//! back, where the iterates are that its reverse reads. This is what [`super::lower`] will decide, told without lowering.

use super::program::{Cut, cut, open_graph, values_for_memory};
use crate::cost::is_fused;
use crate::schedule::Target;
use crate::schedule::graph::{Graph, LoopShape};
use crate::schedule::walk::Walk;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::tensor::{Def, Func, FuncId, Module, Node, OpKind, ValueId};
use std::collections::BTreeSet;

/// Where the iterates of a loop are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Iterates {
    /// In the memory of a tile: the loop and its reverse are stages of one kernel.
    OnChip,
    /// In an array in memory.
    Memory,
    /// On chip, made by a second run of the loop next to its reverse.
    RerunOnChip,
    /// In an array in memory, made by a second run.
    RerunMemory,
}

/// A loop that is taken back.
#[derive(Clone, PartialEq, Debug)]
pub struct ReversedLoop {
    /// The name of its body.
    pub name: String,
    /// Number of iterations.
    pub trip: Dim,
    /// Where its iterates are.
    pub iterates: Iterates,
    /// Bytes of all iterates.
    pub stack_bytes: Dim,
    /// Why they are there.
    pub why: String,
}

/// Per node of `func`, whether it is a loop that stays on chip.
pub fn on_chip(module: &Module, func: FuncId, target: &Target) -> Vec<bool> {
    let (graph, _) = open_graph(module, func, target, &|_| true);
    open_loops(&graph, module.func(func).nodes.len())
}

/// Which nodes of the function are open loops of its graph.
fn open_loops(graph: &Graph, n_nodes: usize) -> Vec<bool> {
    let mut found = vec![false; n_nodes];
    for node in graph.nodes.iter().filter(|node| node.body.is_some()) {
        if let [pos] = node.path[..] {
            found[pos as usize] = true;
        }
    }
    found
}

/// Per value of `func`, whether it is a loop's and a kernel writes it to memory; and what [`on_chip`] says.
fn places(module: &Module, func: FuncId, target: &Target) -> (Vec<bool>, Vec<bool>) {
    let source = module.func(func);
    let (graph, axes) = open_graph(module, func, target, &|_| true);
    let walk = Walk { graph: &graph, axes: &axes };
    let Cut { is_anchor, clusters, .. } = cut(&walk, target);
    let mut written = BTreeSet::new();
    for (idx, cluster) in clusters.iter().enumerate() {
        match cluster.is_opaque {
            true => written.extend(graph.nodes[cluster.anchors[0]].results.iter().copied()),
            false => written.extend(values_for_memory(&walk, &is_anchor, &clusters, idx)),
        }
    }
    let mut found = vec![false; source.values.len()];
    for node in graph.nodes.iter().filter(|node| node.op.kind == OpKind::Loop) {
        let [pos] = node.path[..] else { continue };
        for (value, result) in source.nodes[pos as usize].results.iter().zip(&node.results) {
            found[value.0 as usize] = written.contains(result);
        }
    }
    let chip = open_loops(&graph, source.nodes.len());
    (found, chip)
}

/// The loops of `func` whose iterates a loop in the other direction reads, in order.
pub fn reversed_loops(module: &Module, func: FuncId, target: &Target) -> Vec<ReversedLoop> {
    let source = module.func(func);
    let is_loop = |node: &&Node| node.op.kind == OpKind::Loop;
    let mut stacks: Vec<BTreeSet<ValueId>> = vec![BTreeSet::new(); source.nodes.len()];
    for node in source.nodes.iter().filter(is_loop) {
        let shape = LoopShape::of(&node.op);
        for arg in &node.args[shape.n_carry..shape.n_carry + shape.n_scan] {
            let Some((maker, value)) = made_by_loop(source, *arg) else { continue };
            let other = LoopShape::of(&source.nodes[maker].op);
            let is_stack = source.nodes[maker].results[other.n_carry..].contains(&value);
            if is_stack && other.reverse != shape.reverse && other.trip == shape.trip {
                stacks[maker].insert(value);
            }
        }
    }
    if stacks.iter().all(BTreeSet::is_empty) {
        return vec![];
    }
    let (written, chip) = places(module, func, target);
    let of_loop = |(idx, stacks): (usize, &BTreeSet<ValueId>)| {
        let node = &source.nodes[idx];
        let bytes = stacks.iter().map(|value| {
            let ty = source.ty(*value);
            ty.n_elems().mul(&Dim::constant(ty.dtype.size_bytes() as i64))
        });
        let is_written = stacks.iter().any(|value| written[value.0 as usize]);
        let is_second = is_second_run(source, idx);
        let iterates = match (is_second, is_written) {
            (false, false) => Iterates::OnChip,
            (false, true) => Iterates::Memory,
            (true, false) => Iterates::RerunOnChip,
            (true, true) => Iterates::RerunMemory,
        };
        let why = match (is_written, chip[idx]) {
            (false, _) => "the loop and its reverse are in one kernel, and the iterates of a tile fit",
            (true, true) => "the reverse is in another kernel than the loop",
            (true, false) => "the loop is too large for a tile: its iterations are launches",
        };
        ReversedLoop {
            name: node.op.body().map(|body| module.func(body).name.clone()).unwrap_or_default(),
            trip: LoopShape::of(&node.op).trip,
            iterates,
            stack_bytes: bytes.fold(Dim::default(), |sum, bytes| sum.add(&bytes)),
            why: why.to_string(),
        }
    };
    stacks.iter().enumerate().filter(|(_, stacks)| !stacks.is_empty()).map(of_loop).collect()
}

/// The loop that made a value, looking through conversions and movement.
fn made_by_loop(func: &Func, value: ValueId) -> Option<(usize, ValueId)> {
    let mut value = value;
    loop {
        let Def::Node { node, .. } = func.values[value.0 as usize].def else { return None };
        let maker = &func.nodes[node as usize];
        match maker.args[..] {
            _ if maker.op.kind == OpKind::Loop => return Some((node as usize, value)),
            [arg] if is_fused(maker.op.kind) => value = arg,
            _ => return None,
        }
    }
}

/// Whether another loop runs the same way from the same state, and nobody reads the final state of this one.
fn is_second_run(func: &Func, idx: usize) -> bool {
    let node = &func.nodes[idx];
    let shape = LoopShape::of(&node.op);
    let uses = func.n_uses();
    let unread = node.results[..shape.n_carry].iter().all(|result| uses[result.0 as usize] == 0);
    let is_first = |(other_idx, other): (usize, &Node)| {
        other_idx != idx && other.op.kind == OpKind::Loop && {
            let first = LoopShape::of(&other.op);
            first.trip == shape.trip
                && first.reverse == shape.reverse
                && first.n_carry == shape.n_carry
                && other.args[..shape.n_carry] == node.args[..shape.n_carry]
        }
    };
    unread && func.nodes.iter().enumerate().any(is_first)
}
