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

#[cfg(test)]
mod tests {
    use super::super::{Joint, Keep, Parts, depending, split};
    use super::*;
    use birkhoff_ir::dim::Dim;
    use birkhoff_ir::dtype::DType;
    use birkhoff_ir::scalar::ScalarOp;
    use birkhoff_ir::tensor::build::Builder;
    use birkhoff_ir::tensor::{Domain, FuncId, Module, TensorType};

    /// Numbers that look random.
    struct Draw(u64);

    impl Draw {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) as usize % n
        }
    }

    fn f32s(shape: &[i64]) -> TensorType {
        TensorType::new(DType::F32, shape.iter().map(|extent| Dim::constant(*extent)).collect())
    }

    /// A function of two arguments and a cotangent: cheap and dear ops on matrices and vectors, and a gradient that reads some
    /// of their results.
    fn drawn(seed: u64) -> (Module, FuncId) {
        let mut draw = Draw(seed);
        let mut module = Module::default();
        let mut b = Builder::new(&mut module, "drawn");
        let x = b.input("x", f32s(&[6, 4]), Domain::default()).unwrap();
        let w = b.input("w", f32s(&[6]), Domain::default()).unwrap();
        let ct = b.input("ct.y", f32s(&[6]), Domain::default()).unwrap();
        let (mut matrices, mut vectors) = (vec![x], vec![w]);
        for _ in 0..9 {
            let m = matrices[draw.below(matrices.len())];
            let v = vectors[draw.below(vectors.len())];
            match draw.below(6) {
                0 => matrices.push(b.unary(ScalarOp::Tanh, m).unwrap()),
                1 => matrices.push(b.mul(m, x).unwrap()),
                2 => vectors.push(b.mul(v, w).unwrap()),
                3 => vectors.push(b.sum(m, &[1]).unwrap()),
                4 => vectors.push(b.contract("ab,ab->a", &[m, x]).unwrap()),
                _ => {
                    let shape = vec![Dim::constant(6), Dim::constant(4)];
                    let wide = b.broadcast(v, shape, &[0]).unwrap();
                    matrices.push(b.add(wide, m).unwrap());
                }
            }
        }
        let y = vectors[vectors.len() - 1];
        b.output("y", y).unwrap();
        let mut gradient = ct;
        for _ in 0..2 {
            gradient = b.mul(gradient, vectors[draw.below(vectors.len())]).unwrap();
            let shape = vec![Dim::constant(6), Dim::constant(4)];
            let wide = b.broadcast(gradient, shape, &[0]).unwrap();
            let scaled = b.mul(wide, matrices[draw.below(matrices.len())]).unwrap();
            gradient = b.sum(scaled, &[1]).unwrap();
        }
        b.output("grad.w", gradient).unwrap();
        b.export();
        let func = b.finish();
        (module, func)
    }

    /// Whether everything needed follows from arguments and `saved`.
    fn suffices(joint: &Joint<'_>, saved: &BTreeSet<ValueId>) -> bool {
        let mut known: BTreeSet<ValueId> = joint.func.input_values().chain(saved.iter().copied()).collect();
        for (idx, node) in joint.func.nodes.iter().enumerate() {
            if joint.repeats(idx) && node.args.iter().all(|arg| known.contains(arg)) {
                known.extend(&node.results);
            }
        }
        joint.needed().iter().all(|value| known.contains(value))
    }

    #[test]
    fn no_set_is_cheaper_than_the_cut() {
        let mut n_saving = 0;
        for seed in 0..60 {
            let (module, id) = drawn(seed);
            let func = module.func(id);
            let parts = Parts { n_inputs: 2, n_values: 1 };
            let linear = depending(func, |pos| pos >= 2);
            let sizes = Default::default();
            let joint = Joint { module: &module, func, parts, sizes, keep: Keep::Dear, on_chip: &[], linear };
            let found = cheapest(&joint);
            assert!(suffices(&joint, &found), "seed {seed}");
            let price =
                |saved: &BTreeSet<ValueId>| saved.iter().map(|value| capacity(&joint, *value)).sum::<u64>();
            let values = (2..func.values.len() as u32).map(ValueId);
            let plain: Vec<ValueId> = values.filter(|value| !joint.is_linear(*value)).collect();
            for subset in 0..1u32 << plain.len() {
                let saved: BTreeSet<ValueId> = plain
                    .iter()
                    .enumerate()
                    .filter(|(idx, _)| subset >> idx & 1 == 1)
                    .map(|(_, v)| *v)
                    .collect();
                assert!(
                    price(&saved) >= price(&found) || !suffices(&joint, &saved),
                    "seed {seed}: {saved:?}"
                );
            }
            n_saving += usize::from(!found.is_empty());
            // Each value that is saved is needed for it: nothing is saved for nothing.
            for value in &found {
                let fewer: BTreeSet<ValueId> = found.iter().copied().filter(|other| other != value).collect();
                assert!(!suffices(&joint, &fewer), "seed {seed}");
            }
            let nothing = split(&module, id, parts, Keep::Nothing, &[]).unwrap();
            assert!(nothing.saved.is_empty(), "seed {seed}");
        }
        assert!(n_saving > 20, "{n_saving} programs save something");
    }
}
