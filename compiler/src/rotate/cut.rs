//! Where an iteration is cut: in front of its large products.
//!
//! In: the body of a loop. Out: which of its nodes stand at the end of the rotated iteration (the products and what waits for
//! them), and which values the beginning hands on to it.
//!
//! What does not depend on the state stands where it is read. If both halves read it, it is handed on where that is less than
//! to compute it again: a handful of coefficients is, a stream is not. A stream that a product reads has to be in memory, so it is
//! made with the others that are read at the beginning, if those are what it is made of.

use super::LoopShape;
use crate::cost::default_sizes;
use crate::schedule::graph::{Graph, LoopPath, N};
use crate::schedule::products::large_product;
use birkhoff_ir::tensor::{Def, Func, FuncId, Module, OpKind, ValueId};
use std::collections::BTreeSet;

/// So many times as large as a coefficient is a stream.
const STREAM: i64 = 8;

/// A cut through an iteration.
pub struct Cut {
    /// Per node, whether it stands at the end. What both ends need and is computed again is there, too.
    pub is_late: Vec<bool>,
    /// Per node, whether it is a large product, waits for one, or had better stand at the end.
    pub waits: Vec<bool>,
    /// What the end and the next state read of the beginning: state, and results of its nodes.
    pub values: BTreeSet<ValueId>,
}

impl Cut {
    /// The cut through the body `id`.
    pub fn new(module: &Module, id: FuncId, shape: &LoopShape) -> Cut {
        let body = module.func(id);
        let sizes = default_sizes(module);
        let elems = |value: &ValueId| body.ty(*value).n_elems().eval(&sizes).unwrap_or(i64::MAX);
        let mut waits = waiting(module, id);
        let cutter = Cutter {
            body,
            shape,
            elems: (0..body.values.len() as u32).map(|value| elems(&ValueId(value))).collect(),
            depends: depending(body, |slot| slot < shape.n_carry),
            products: read_by_products(module, id, body),
        };
        loop {
            let (is_late, values) = cutter.before(&waits);
            match values.iter().find_map(|value| cutter.sinking(&values, *value)) {
                Some(sinks) => waits[sinks] = true,
                None => return Cut { is_late, waits, values },
            }
        }
    }
}

struct Cutter<'a> {
    body: &'a Func,
    shape: &'a LoopShape,
    /// Elements of every value, at default sizes.
    elems: Vec<i64>,
    /// Per node, whether it depends on the state.
    depends: Vec<bool>,
    /// What large products read.
    products: BTreeSet<ValueId>,
}

impl Cutter<'_> {
    /// Given the nodes that wait for products: all nodes of the end of an iteration, and the values of its beginning that they and
    /// the next state read.
    fn before(&self, waits: &[bool]) -> (Vec<bool>, BTreeSet<ValueId>) {
        let body = self.body;
        // Nodes that can stand nowhere but at the beginning, what they are made of, and what else goes with it.
        let pinned = (0..body.nodes.len()).filter(|node| self.depends[*node] && !waits[*node]);
        let first = needed_for(body, pinned.flat_map(|node| &body.nodes[node].args).copied());
        let streams: BTreeSet<ValueId> = self.scanned().filter(|value| first.contains(value)).collect();
        let mut is_late = waits.to_vec();
        let mut cut: BTreeSet<ValueId> = BTreeSet::new();
        let late_args = (0..body.nodes.len()).filter(|place| waits[*place]).flat_map(|n| &body.nodes[n].args);
        let states = body.outputs[..self.shape.n_carry].iter().map(|out| &out.value);
        let mut open: Vec<ValueId> = late_args.chain(states).copied().collect();
        while let Some(value) = open.pop() {
            let (node, depends) = match body.values[value.0 as usize].def {
                Def::Input(slot) if (slot as usize) < self.shape.n_carry => {
                    cut.insert(value);
                    continue;
                }
                Def::Input(_) => continue,
                Def::Node { node, .. } => (node as usize, self.depends[node as usize]),
            };
            if waits[node] {
                continue;
            }
            let goes_first = match self.products.contains(&value) {
                true => needed_for(body, [value]).intersection(&streams).next().is_some(),
                false => first.contains(&value) && !self.is_stream(value),
            };
            if is_free(body.nodes[node].op.kind) || !(depends || goes_first) {
                is_late[node] = true;
                open.extend(&body.nodes[node].args);
            } else {
                cut.insert(value);
            }
        }
        (is_late, cut)
    }

    fn scanned(&self) -> impl Iterator<Item = ValueId> {
        let first = self.shape.n_carry;
        (first..first + self.shape.n_scan)
            .map(|slot| ValueId(slot as u32))
            .filter(|value| self.is_stream(*value))
    }

    /// Whether a value is no handful of coefficients beside the state.
    fn is_stream(&self, value: ValueId) -> bool {
        let largest = self.elems[..self.shape.n_carry].iter().copied().max().unwrap_or(0);
        self.elems[value.0 as usize].saturating_mul(STREAM) > largest
    }

    /// The node of a value of the cut that had better stand at the end: a stream that is made of the state and a handful of
    /// coefficients. Then the state itself is handed on, which is there anyway, and whoever reads it next finds it computed.
    fn sinking(&self, cut: &BTreeSet<ValueId>, value: ValueId) -> Option<usize> {
        let Def::Node { node, .. } = self.body.values[value.0 as usize].def else { return None };
        let elems = |value: ValueId| self.elems[value.0 as usize];
        let is_state = |arg: ValueId| (arg.0 as usize) < self.shape.n_carry;
        let args = &self.body.nodes[node as usize].args;
        let fits = |arg: &ValueId| {
            is_state(*arg) || cut.contains(arg) || elems(*arg).saturating_mul(STREAM) <= elems(value)
        };
        let is_made_of_state = args.iter().any(|arg| is_state(*arg)) && args.iter().all(fits);
        (is_made_of_state && !self.products.contains(&value)).then_some(node as usize)
    }
}

/// Per node of a body, whether it depends on an argument for which `is_seed` holds.
fn depending(body: &Func, is_seed: impl Fn(usize) -> bool) -> Vec<bool> {
    let mut found = vec![false; body.nodes.len()];
    for (place, node) in body.nodes.iter().enumerate() {
        found[place] = node.args.iter().any(|arg| match body.values[arg.0 as usize].def {
            Def::Input(slot) => is_seed(slot as usize),
            Def::Node { node, .. } => found[node as usize],
        });
    }
    found
}

/// `values`, and all that they are made of.
fn needed_for(body: &Func, values: impl IntoIterator<Item = ValueId>) -> BTreeSet<ValueId> {
    let mut needed = BTreeSet::new();
    let mut open: Vec<ValueId> = values.into_iter().collect();
    while let Some(value) = open.pop() {
        if needed.insert(value)
            && let Def::Node { node, .. } = body.values[value.0 as usize].def
        {
            open.extend(&body.nodes[node as usize].args);
        }
    }
    needed
}

/// What large products read, through ops that are free.
fn read_by_products(module: &Module, id: FuncId, body: &Func) -> BTreeSet<ValueId> {
    let graph = closed_graph(module, id);
    let mut read = BTreeSet::new();
    let mut open: Vec<ValueId> = vec![];
    for (place, node) in body.nodes.iter().enumerate() {
        if is_product(&graph, place) {
            open.extend(&node.args);
        }
    }
    while let Some(value) = open.pop() {
        read.insert(value);
        if let Some((node, _)) = body.def(value)
            && is_free(node.op.kind)
        {
            open.extend(&node.args);
        }
    }
    read
}

/// The graph of a body with all its loops closed: its nodes are those of the function, in order.
fn closed_graph(module: &Module, body: FuncId) -> Graph {
    let n_nodes = module.func(body).nodes.len() as u32;
    let closed: BTreeSet<LoopPath> = (0..n_nodes).map(|place| vec![place]).collect();
    Graph::new(module, body, &closed, &|_| true)
}

/// For every node of a body, whether it is a large product or waits for one.
fn waiting(module: &Module, body: FuncId) -> Vec<bool> {
    let func = module.func(body);
    let graph = closed_graph(module, body);
    let mut waits = vec![false; func.nodes.len()];
    for (place, node) in func.nodes.iter().enumerate() {
        let waits_for_args = node.args.iter().any(|arg| match func.values[arg.0 as usize].def {
            Def::Node { node, .. } => waits[node as usize],
            Def::Input(_) => false,
        });
        waits[place] = waits_for_args || is_product(&graph, place);
    }
    waits
}

fn is_product(graph: &Graph, node: N) -> bool {
    large_product(graph, node).is_some()
}

/// Nodes that `values` come from, in order.
pub fn ancestors(body: &Func, values: impl IntoIterator<Item = ValueId>) -> Vec<usize> {
    let needed = needed_for(body, values);
    let is_needed = |node: &usize| body.nodes[*node].results.iter().any(|result| needed.contains(result));
    (0..body.nodes.len()).filter(is_needed).collect()
}

/// True for ops that are computed again rather than handed on: they cost nothing, and their results are larger.
pub fn is_free(kind: OpKind) -> bool {
    matches!(kind, OpKind::Const | OpKind::Iota | OpKind::Broadcast | OpKind::Reshape)
}
