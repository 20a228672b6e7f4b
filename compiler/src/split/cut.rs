//! The cheapest set of values from which the backward can compute what it needs.
//!
//! In: a joint function. Out: values to save. Every value is an edge whose capacity is its bytes; a value that cannot be
//! computed again hangs on the source, one that is needed on the sink. A minimum cut separates what the forward function has
//! from what the backward needs.

use super::Joint;
use birkhoff_ir::tensor::ValueId;
use petgraph::algo::dinics;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use std::collections::BTreeSet;

/// More than all tensors together.
const UNBOUNDED: u64 = 1 << 60;

/// The values that cross from the forward to the backward function, arguments left out.
pub(super) fn cheapest(joint: &Joint<'_>) -> BTreeSet<ValueId> {
    let needed = joint.needed();
    let behind = behind(joint, &needed);
    let mut network: DiGraph<(), u64> = DiGraph::new();
    let (source, sink) = (network.add_node(()), network.add_node(()));
    let mut ends: Vec<Option<(NodeIndex, NodeIndex)>> = vec![None; joint.func.values.len()];
    for value in behind {
        let (before, after) = (network.add_node(()), network.add_node(()));
        network.add_edge(before, after, capacity(joint, value));
        ends[value.0 as usize] = Some((before, after));
        if needed.contains(&value) {
            network.add_edge(after, sink, UNBOUNDED);
        }
        match joint.node_of(value) {
            Some(node) if joint.repeats(node) => {
                for arg in &joint.func.nodes[node].args {
                    if let Some((_, known)) = ends[arg.0 as usize] {
                        network.add_edge(known, before, UNBOUNDED);
                    }
                }
            }
            _ => {
                network.add_edge(source, before, UNBOUNDED);
            }
        }
    }
    let (_, flows) = dinics(&network, source, sink);
    let computed = reaching(&network, &flows, sink);
    let crosses = |value: &ValueId| {
        let ends = ends[value.0 as usize];
        ends.is_some_and(|(before, after)| computed[after.index()] && !computed[before.index()])
    };
    let values = (0..joint.func.values.len() as u32).map(ValueId);
    values.filter(|value| joint.node_of(*value).is_some() && crosses(value)).collect()
}

/// What it costs to save a value: its bytes, written and read. A result of the function is written anyway, and arguments are
/// the caller's, both written and kept.
fn capacity(joint: &Joint<'_>, value: ValueId) -> u64 {
    let bytes = joint.bytes(value).clamp(1, UNBOUNDED >> 20);
    match joint.node_of(value) {
        None => 0,
        Some(_) if joint.is_value(value) => bytes,
        Some(_) => 2 * bytes,
    }
}

/// The needed values and all that they are computed from, in order of definition.
fn behind(joint: &Joint<'_>, needed: &BTreeSet<ValueId>) -> BTreeSet<ValueId> {
    let mut found = needed.clone();
    for value in (0..joint.func.values.len() as u32).rev().map(ValueId) {
        if found.contains(&value)
            && let Some(node) = joint.node_of(value)
        {
            found.extend(joint.func.nodes[node].args.iter().copied());
        }
    }
    found
}

/// Which nodes reach the sink through what the flow leaves open: of all minimum cuts, the last.
fn reaching(network: &DiGraph<(), u64>, flows: &[u64], sink: NodeIndex) -> Vec<bool> {
    let mut reaches = vec![false; network.node_count()];
    let mut open = vec![sink];
    reaches[sink.index()] = true;
    while let Some(node) = open.pop() {
        let mut visit = |other: NodeIndex| {
            if !reaches[other.index()] {
                reaches[other.index()] = true;
                open.push(other);
            }
        };
        for edge in network.edges_directed(node, petgraph::Direction::Incoming) {
            if flows[edge.id().index()] < *edge.weight() {
                visit(edge.source());
            }
        }
        for edge in network.edges_directed(node, petgraph::Direction::Outgoing) {
            if flows[edge.id().index()] > 0 {
                visit(edge.target());
            }
        }
    }
    reaches
}
