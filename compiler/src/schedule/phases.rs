//! The order in which the work of a kernel is put into stages.
//!
//! In: anchors of one region, in program order. Out: the same, in an order that needs few stages and still computes
//! everything before it is read. Token work waits until all of it can run that does not wait for other token work, and the
//! nests before it are those that it waits for: a loop and the one that reads its stack are one stage, whatever the program
//! computes in between. Nests with the same loops wait for each other, so that they can share them.

use super::axes::Class;
use super::graph::N;
use super::stages::{Nest, Stager};
use std::collections::{BTreeMap, BTreeSet};

/// An anchor in its turn.
pub struct Planned {
    /// The anchor.
    pub node: N,
    /// Anchors of the region that it reads.
    pub deps: BTreeSet<N>,
    /// Its loops, if it is a nest.
    pub nest: Option<Nest>,
}

/// What makes nests share their loops; a loop around stages shares with none.
type Loops = (Vec<Class>, usize);

struct Phases {
    deps: BTreeMap<N, BTreeSet<N>>,
    is_tokens: BTreeSet<N>,
    loops: BTreeMap<N, Loops>,
    done: BTreeSet<N>,
    order: Vec<N>,
}

impl Stager<'_> {
    /// Orders `anchors`.
    pub fn in_phases(&self, anchors: &[N]) -> Vec<Planned> {
        let inside: BTreeSet<N> = anchors.iter().copied().collect();
        let mut deps: BTreeMap<N, BTreeSet<N>> =
            anchors.iter().map(|node| (*node, self.deps(*node))).collect();
        deps.values_mut().for_each(|reads| reads.retain(|dep| inside.contains(dep)));
        let is_tokens: BTreeSet<N> =
            anchors.iter().copied().filter(|node| self.is_token_work(*node)).collect();
        let is_nest = |node: &N| !is_tokens.contains(node) && self.walk.graph.nodes[*node].body.is_none();
        let mut nests: BTreeMap<N, Nest> =
            anchors.iter().copied().filter(is_nest).map(|node| (node, self.nest(node))).collect();
        let loops = nests.iter().map(|(node, nest)| (*node, (nest.loops.clone(), nest.n_outer))).collect();
        let phases = Phases { deps, is_tokens, loops, done: BTreeSet::new(), order: vec![] };
        let (order, mut deps) = phases.run(anchors);
        let planned = |node: N| Planned {
            node,
            deps: deps.remove(&node).unwrap_or_default(),
            nest: nests.remove(&node),
        };
        order.into_iter().map(planned).collect()
    }
}

impl Phases {
    fn run(mut self, anchors: &[N]) -> (Vec<N>, BTreeMap<N, BTreeSet<N>>) {
        // Nests that token work reads, directly or through other nests.
        let mut is_awaited: BTreeSet<N> = BTreeSet::new();
        for node in anchors.iter().rev() {
            if self.is_tokens.contains(node) || is_awaited.contains(node) {
                is_awaited.extend(&self.deps[node]);
            }
        }
        while self.order.len() < anchors.len() {
            let n_before = self.order.len();
            let waits = anchors.iter().any(|node| self.is_tokens.contains(node) && !self.done.contains(node));
            // Nests that can run before the next token work; all that are left once there is none.
            let mut nests: BTreeSet<N> = BTreeSet::new();
            for node in anchors {
                let is_next = !self.is_tokens.contains(node)
                    && !self.done.contains(node)
                    && (!waits || is_awaited.contains(node));
                if is_next && self.deps[node].iter().all(|dep| self.done.contains(dep) || nests.contains(dep))
                {
                    nests.insert(*node);
                }
            }
            while let Some(group) = self.next_group(&nests) {
                for node in group {
                    nests.remove(&node);
                    self.take(node);
                }
            }
            for node in anchors {
                let is_next = self.is_tokens.contains(node) && !self.done.contains(node);
                if is_next && self.deps[node].is_subset(&self.done) {
                    self.take(*node);
                }
            }
            if self.order.len() == n_before {
                // Anchors read only what stands before them, so this is never seen; a value would be missing, and named.
                break;
            }
        }
        (self.order, self.deps)
    }

    fn take(&mut self, node: N) {
        self.done.insert(node);
        self.order.push(node);
    }

    /// Of `nests`, those that share the next loops, in program order: the first set that waits for no nest with other loops,
    /// else what is ready of the first.
    fn next_group(&self, nests: &BTreeSet<N>) -> Option<Vec<N>> {
        let ready = |node: &N| self.deps[node].is_subset(&self.done);
        let mut first: Option<Vec<N>> = None;
        for node in nests.iter().filter(|node| ready(node)) {
            let Some(loops) = self.loops.get(node) else { return Some(vec![*node]) };
            let members: Vec<N> =
                nests.iter().copied().filter(|other| self.loops.get(other) == Some(loops)).collect();
            let waits_for_none =
                |node: &N| self.deps[node].iter().all(|dep| self.done.contains(dep) || members.contains(dep));
            if members.iter().all(waits_for_none) {
                return Some(members);
            }
            let is_first = first.is_none();
            if is_first {
                first = Some(members.iter().copied().filter(ready).collect());
            }
        }
        first
    }
}
