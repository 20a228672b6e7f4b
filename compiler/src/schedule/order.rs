//! The order in which anchors look for a kernel.
//!
//! In: a graph and its anchors. Out: the anchors of the function, each after what it reads, and what each reads. It is the order
//! of the program, but what only later work reads waits for that, so that it can share a kernel with it:
//!
//! - a loop that only stacks slices, all for one other loop, comes right before that one. Then the stack stays on chip: this
//!   is what a second run of a loop is for;
//! - what nobody reads before a library's product (or a loop of the plan) is done comes behind that. In front of it, it could
//!   share kernels only with what is in front of it, too, and would cross memory to its reader.

use super::cluster::anchor_deps;
use super::graph::N;
use super::walk::Walk;
use std::collections::{BTreeMap, BTreeSet};

/// An anchor that looks for a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// The anchor.
    pub node: N,
    /// The one that it was waiting for: both should be in one kernel.
    pub reader: Option<N>,
}

/// The anchors in order.
pub struct Order {
    /// One turn each.
    pub turns: Vec<Turn>,
    /// What each reads.
    pub deps: BTreeMap<N, BTreeSet<N>>,
}

impl Order {
    /// The order of the anchors of the function; steps that are no kernels are `opaque`.
    pub fn new(walk: &Walk<'_>, is_anchor: &[bool], opaque: &dyn Fn(N) -> bool) -> Order {
        let graph = walk.graph;
        let anchors: Vec<N> = (0..graph.nodes.len())
            .filter(|node| is_anchor[*node] && graph.nodes[*node].region == 0)
            .collect();
        let deps: BTreeMap<N, BTreeSet<N>> =
            anchors.iter().map(|node| (*node, anchor_deps(walk, is_anchor, *node))).collect();
        let mut readers: BTreeMap<N, Vec<N>> = BTreeMap::new();
        for node in &anchors {
            deps[node].iter().for_each(|dep| readers.entry(*dep).or_default().push(*node));
        }
        let is_opaque: BTreeSet<N> = anchors.iter().copied().filter(|node| opaque(*node)).collect();
        let mut waiting = waiting_for_steps(&anchors, &deps, &readers, &is_opaque);
        // A copy is a kernel of its own, so between its readers and what they read it would keep them apart.
        waiting.retain(|node| !graph.nodes[*node].copy);
        let one_loop = |node: &N| match readers.get(node).map(Vec::as_slice) {
            Some([reader]) => graph.nodes[*reader].body.is_some() && only_stacks(walk, *node),
            _ => false,
        };
        waiting.extend(anchors.iter().copied().filter(one_loop));
        let mut order = Order { turns: vec![], deps };
        let mut done = BTreeSet::new();
        for node in anchors.into_iter().filter(|node| !waiting.contains(node)) {
            order.call(node, None, &waiting, &mut done);
        }
        order
    }

    /// Gives `node` its turn, after those that waited for it.
    fn call(&mut self, node: N, reader: Option<N>, waiting: &BTreeSet<N>, done: &mut BTreeSet<N>) {
        // On a stack of its own: chains of anchors may be long. The flag says whether what the anchor reads had its turn.
        let mut open = vec![(node, reader, false)];
        while let Some((node, reader, is_ready)) = open.pop() {
            if done.contains(&node) {
                continue;
            }
            if is_ready {
                done.insert(node);
                self.turns.push(Turn { node, reader });
                continue;
            }
            open.push((node, reader, true));
            let first = self.deps[&node].iter().rev().filter(|dep| waiting.contains(dep));
            open.extend(first.map(|dep| (*dep, Some(reader.unwrap_or(node)), false)));
        }
    }
}

/// Whether `node` is a loop that nobody wants the last state of, and whose slices stay in the function.
fn only_stacks(walk: &Walk<'_>, node: N) -> bool {
    let graph = walk.graph;
    let gnode = &graph.nodes[node];
    let Some(body) = gnode.body else { return false };
    let users = graph.users();
    let is_kept = |value| graph.outputs.iter().any(|(_, out)| *out == value);
    gnode.results[..graph.regions[body].n_carry].iter().all(|state| users[*state].is_empty())
        && !gnode.results.iter().any(|result| is_kept(*result))
}

/// Anchors that could come behind an opaque step that stands behind them: all that read them do.
fn waiting_for_steps(
    anchors: &[N],
    deps: &BTreeMap<N, BTreeSet<N>>,
    readers: &BTreeMap<N, Vec<N>>,
    is_opaque: &BTreeSet<N>,
) -> BTreeSet<N> {
    // How many opaque steps at least come before, and how many can, at most, before the first reader.
    let mut earliest: BTreeMap<N, usize> = BTreeMap::new();
    for node in anchors {
        let before = deps[node].iter().map(|dep| earliest[dep]).max().unwrap_or(0);
        earliest.insert(*node, before + usize::from(is_opaque.contains(node)));
    }
    let mut latest = earliest.clone();
    for node in anchors.iter().rev().filter(|node| !is_opaque.contains(node)) {
        let before = |reader: &N| latest[reader] - usize::from(is_opaque.contains(reader));
        if let Some(first) = readers.get(node).and_then(|readers| readers.iter().map(before).min()) {
            latest.insert(*node, first);
        }
    }
    anchors.iter().copied().filter(|node| latest[node] > earliest[node]).collect()
}
