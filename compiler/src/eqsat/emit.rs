//! From chosen terms to a function.
//!
//! In: a choice of terms and the function that the graph was made from. Out: a function with the same arguments and outputs.
//! Nodes keep the order, names, places and notation of the original where they come from it; new ones follow their operands.

use super::extract::Choice;
use super::import::Flat;
use super::term::{Graph, Head, Term};
use birkhoff_ir::diag::Span;
use birkhoff_ir::dim::Sym;
use birkhoff_ir::tensor::{Def, Func, Node, Op, Output, Value, ValueId};
use egg::Id;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

/// Where the terms of the original program are.
pub struct Origins {
    /// The original node of a term, and its operands in their original order.
    terms: HashMap<Term, (usize, Vec<Id>)>,
    /// The first original node of a class.
    first: HashMap<Id, usize>,
    /// A name for the value of a class.
    names: HashMap<Id, Sym>,
}

impl Origins {
    /// Finds the values of `flat` again; `classes` are those that they were given when they were added.
    pub fn of(graph: &Graph, flat: &Flat, classes: &[Id]) -> Origins {
        let mut origins = Origins { terms: HashMap::new(), first: HashMap::new(), names: HashMap::new() };
        let class = |value: &ValueId| graph.find(classes[value.0 as usize]);
        for (number, node) in flat.func.nodes.iter().enumerate() {
            let args: Vec<Id> = node.args.iter().map(class).collect();
            for result in &node.results {
                origins.first.entry(class(result)).or_insert(number);
                if let Some(name) = &flat.func.values[result.0 as usize].name {
                    origins.names.entry(class(result)).or_insert_with(|| name.clone());
                }
            }
            let op = super::rewriter::canonical(&node.op);
            let Some(op) = graph.analysis.number_of(&op) else { continue };
            let mut sorted = args.clone();
            if super::pattern::is_commutative(node.op.kind) {
                sorted.sort_unstable();
            }
            let term = Term { head: Head::Op(node.op.kind, op), args: args.clone() };
            let in_order = Term { args: sorted, ..term.clone() };
            origins.terms.entry(term).or_insert_with(|| (number, args.clone()));
            origins.terms.entry(in_order).or_insert((number, args));
        }
        origins
    }

    /// All original terms.
    pub fn terms(&self) -> HashSet<Term> {
        self.terms.keys().cloned().collect()
    }
}

/// The function that computes `root` by the chosen terms.
pub fn emit(graph: &Graph, choice: &Choice, root: Id, flat: &Flat, origins: &Origins) -> Option<Func> {
    let root = graph.find(root);
    let order = order(graph, choice, root, origins)?;
    let source = &flat.func;
    let values = source.values[..source.inputs.len()].to_vec();
    let mut func = Func { values, nodes: vec![], outputs: vec![], ..source.clone() };
    // A class has one value, a tuple's results are found by position.
    let mut place: BTreeMap<Id, ValueId> = BTreeMap::new();
    let mut tuples: BTreeMap<Id, Vec<ValueId>> = BTreeMap::new();
    for id in order {
        let term = choice.get(&id)?;
        match term.head {
            Head::Input(idx) => {
                place.insert(id, ValueId(idx));
            }
            Head::Get(idx) => {
                place.insert(id, *tuples.get(&term.args[0])?.get(idx as usize)?);
            }
            Head::Outputs => {
                for (out, arg) in source.outputs.iter().zip(&term.args) {
                    func.outputs.push(Output { name: out.name.clone(), value: *place.get(arg)? });
                }
            }
            Head::Op(_, op) => {
                let origin = origins.terms.get(term);
                let (op, args, span) = match origin {
                    Some((number, args)) => {
                        (source.nodes[*number].op.clone(), args, source.nodes[*number].span)
                    }
                    None => (graph.analysis.op(op).clone(), &term.args, span_of(&id, origins, source)),
                };
                let args: Option<Vec<ValueId>> = args.iter().map(|arg| place.get(arg).copied()).collect();
                let results = push(&mut func, graph, id, op, args?, span);
                if super::term::is_tuple(term.kind()?) {
                    tuples.insert(id, results);
                } else {
                    place.insert(id, *results.first()?);
                }
            }
        }
    }
    name_values(&mut func, &place, origins);
    Some(func)
}

fn push(func: &mut Func, graph: &Graph, id: Id, op: Op, args: Vec<ValueId>, span: Span) -> Vec<ValueId> {
    let node = func.nodes.len() as u32;
    let mut results = vec![];
    for (idx, (ty, _)) in graph[id].data.results.iter().enumerate() {
        let def = Def::Node { node, result: idx as u32 };
        func.values.push(Value { ty: graph.analysis.ty(*ty).clone(), def, name: None });
        results.push(ValueId(func.values.len() as u32 - 1));
    }
    func.nodes.push(Node { op, args, results: results.clone(), span });
    results
}

fn span_of(id: &Id, origins: &Origins, source: &Func) -> Span {
    origins.first.get(id).map_or(Span::NONE, |number| source.nodes[*number].span)
}

fn name_values(func: &mut Func, place: &BTreeMap<Id, ValueId>, origins: &Origins) {
    let n_inputs = func.inputs.len();
    for (id, value) in place {
        if value.0 as usize >= n_inputs {
            func.values[value.0 as usize].name = origins.names.get(id).cloned();
        }
    }
}

/// Chosen classes, operands first; among those that are ready, the one that came first in the original.
fn order(graph: &Graph, choice: &Choice, root: Id, origins: &Origins) -> Option<Vec<Id>> {
    // Depth first from the root: every class with its position and its rank among equals.
    let mut rank: BTreeMap<Id, (usize, usize)> = BTreeMap::new();
    let mut users: BTreeMap<Id, Vec<Id>> = BTreeMap::new();
    let mut waiting: BTreeMap<Id, usize> = BTreeMap::new();
    let mut stack = vec![(root, 0)];
    while let Some((id, next)) = stack.pop() {
        if rank.contains_key(&id) {
            continue;
        }
        let term = choice.get(&id)?;
        if next < term.args.len() {
            stack.push((id, next + 1));
            stack.push((graph.find(term.args[next]), 0));
            continue;
        }
        let below = term.args.iter().filter_map(|arg| rank.get(arg)).map(|(position, _)| *position).max();
        let own = origins.first.get(&id).copied();
        let position = match (own, term.head) {
            (Some(own), _) => own,
            (None, Head::Outputs) => usize::MAX,
            _ => below.unwrap_or(0),
        };
        rank.insert(id, (position, rank.len()));
        let mut distinct = term.args.clone();
        distinct.sort_unstable();
        distinct.dedup();
        waiting.insert(id, distinct.len());
        for arg in distinct {
            users.entry(arg).or_default().push(id);
        }
    }
    let mut ready: BinaryHeap<Reverse<((usize, usize), Id)>> = BinaryHeap::new();
    for (id, count) in &waiting {
        if *count == 0 {
            ready.push(Reverse((rank[id], *id)));
        }
    }
    let mut order = vec![];
    while let Some(Reverse((_, id))) = ready.pop() {
        order.push(id);
        for user in users.get(&id).into_iter().flatten() {
            let count = waiting.get_mut(user)?;
            *count -= 1;
            if *count == 0 {
                ready.push(Reverse((rank[user], *user)));
            }
        }
    }
    Some(order)
}
