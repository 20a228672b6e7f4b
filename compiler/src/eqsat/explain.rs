//! The rules that lead from the original program to the chosen one.
//!
//! In: a graph saturated with explanations, and the choice made in the graph without. Out: names of rules. Proofs are shared,
//! so each is visited once: written out flat they grow exponentially.

use super::extract::Choice;
use super::term::{Graph, Head, Term};
use egg::{Id, RecExpr, TreeTerm};
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

/// Names of the rules in the proof that the original root equals the chosen one, in the order of the proof.
pub fn chain(graph: &mut Graph, root: Id, first: &Graph, first_root: Id, choice: &Choice) -> Vec<String> {
    let mut expr = RecExpr::default();
    let mut place = BTreeMap::new();
    if copy(graph, first, first.find(first_root), choice, &mut expr, &mut place).is_none() {
        return vec![];
    }
    if graph.lookup_expr(&expr).map(|id| graph.find(id)) != Some(graph.find(root)) {
        return vec![];
    }
    let original = graph.id_to_expr(root);
    let explanation = graph.explain_equivalence(&original, &expr);
    let mut names = vec![];
    let mut seen = HashSet::new();
    for term in &explanation.explanation_trees {
        visit(term, &mut seen, &mut names);
    }
    names.retain(|name| name != "expansion");
    names
}

/// The chosen term, its ops renumbered for the other graph.
fn copy(
    graph: &mut Graph,
    first: &Graph,
    id: Id,
    choice: &Choice,
    expr: &mut RecExpr<Term>,
    place: &mut BTreeMap<Id, Id>,
) -> Option<Id> {
    if let Some(known) = place.get(&id) {
        return Some(*known);
    }
    let term = choice.get(&id)?;
    let mut args = vec![];
    for arg in &term.args {
        args.push(copy(graph, first, first.find(*arg), choice, expr, place)?);
    }
    let head = match term.head {
        Head::Op(kind, op) => Head::Op(kind, graph.analysis.intern_op(first.analysis.op(op))),
        other => other,
    };
    let added = expr.add(Term { head, args });
    place.insert(id, added);
    Some(added)
}

fn visit(term: &Rc<TreeTerm<Term>>, seen: &mut HashSet<*const TreeTerm<Term>>, names: &mut Vec<String>) {
    if !seen.insert(Rc::as_ptr(term)) {
        return;
    }
    for proof in &term.child_proofs {
        for step in proof {
            visit(step, seen, names);
        }
    }
    names.extend(term.forward_rule.iter().chain(&term.backward_rule).map(|rule| rule.to_string()));
}
