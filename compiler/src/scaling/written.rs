//! A function that was written again, in the place of the one before.
//!
//! In: a node that refers to the old function. Out: one that refers to the new one, the results that the old one had, and
//! whether they hold.

use super::Saving;
use super::matrix::Matrix;
use super::watch::{self, Watch};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::tensor::build::{Builder, Built};
use birkhoff_ir::tensor::{Attr, Func, FuncId, Node, OpKind, ValueId};
use std::collections::BTreeMap;

/// A function that was written again.
///
/// As the body of a loop it has these arguments: states that are no [`Matrix`], the weights of all matrices, the watches,
/// what is scanned, what stays the same, the matrices as they were at first. Results likewise.
#[derive(Clone)]
pub struct Written {
    /// The new function.
    pub body: FuncId,
    /// The states that it has more to tell whether it stayed in range. A function that is no body has a result for that.
    pub watches: Vec<Watch>,
    /// The states that became weights.
    pub matrices: Vec<Matrix>,
    /// What one run of it saves, where matrices are written again.
    pub saving: Saving,
}

impl Written {
    /// The results of `node`, which refers to the function as it was, and whether they hold.
    pub fn apply(
        &self,
        b: &mut Builder<'_>,
        node: &Node,
        args: &[ValueId],
    ) -> Result<(Vec<ValueId>, ValueId), String> {
        let mut op = node.op.clone();
        op.attrs[0] = Attr::Func(self.body);
        if node.op.kind != OpKind::Loop {
            let n_results = b.module.func(node.op.body().unwrap_or(FuncId(0))).outputs.len();
            let mut results = b.op(op, args)?;
            let flag = results.remove(n_results);
            return Ok((results, flag));
        }
        let (carry, _) = node.op.loop_counts(b.module)?;
        let mut flag = None;
        let mut all: Vec<ValueId> =
            (0..carry).filter(|slot| self.is_kept(*slot)).map(|slot| args[slot]).collect();
        let n_kept = all.len();
        for matrix in &self.matrices {
            let holds = matrix.holds(b, args[matrix.slot])?;
            flag = Some(watch::and(b, flag, holds)?);
            for axes in &matrix.weights {
                all.push(matrix.first_weight(b, axes)?);
            }
        }
        let n_weights = all.len() - n_kept;
        for watch in &self.watches {
            all.push(watch.start(b)?);
        }
        op.attrs[2] = Attr::Int(all.len() as i64);
        all.extend(&args[carry..]);
        all.extend(self.matrices.iter().map(|matrix| args[matrix.slot]));
        let mut results = b.op(op, &all)?;
        let states: Vec<ValueId> =
            results.splice(n_kept + n_weights..n_kept + n_weights + self.watches.len(), []).collect();
        for (watch, state) in self.watches.iter().zip(states) {
            let holds = watch.flag(b, state)?;
            flag = Some(watch::and(b, flag, holds)?);
        }
        let mut weights = results.splice(n_kept..n_kept + n_weights, []).collect::<Vec<_>>().into_iter();
        for matrix in &self.matrices {
            let own: Vec<ValueId> = weights.by_ref().take(matrix.weights.len()).collect();
            // In the order of their places, so every place is there.
            results.insert(matrix.slot, matrix.value(b, args[matrix.slot], &own)?);
        }
        Ok((results, flag.ok_or("a loop without checks was written again")?))
    }

    fn is_kept(&self, slot: usize) -> bool {
        self.matrices.iter().all(|matrix| matrix.slot != slot)
    }
}

/// What a body that is written again has of the old one so far.
pub struct Copied<'w> {
    /// The old body.
    pub body: &'w Func,
    /// Functions that its nodes refer to, by the place of the node, where those were written again.
    pub inner: &'w BTreeMap<usize, Written>,
    /// What became of its values.
    pub values: Vec<Option<ValueId>>,
    /// Whether what is inside stayed in range.
    pub flags: Vec<ValueId>,
}

impl<'w> Copied<'w> {
    /// The node that makes `value`, and its place.
    pub fn node_of(&self, value: ValueId) -> Result<(usize, &'w Node), String> {
        let mut nodes = self.body.nodes.iter().enumerate();
        let found = nodes.find(|(_, node)| node.results.contains(&value));
        found.ok_or_else(|| "a value is used before its definition".into())
    }

    /// Writes the node at `place` as it was, on the new `args`.
    pub fn node(&mut self, b: &mut Builder<'_>, place: usize, args: &[ValueId]) -> Result<(), String> {
        let node = &self.body.nodes[place];
        b.set_span(node.span);
        let results = match self.inner.get(&place) {
            Some(written) => {
                let (results, flag) = written.apply(b, node, args)?;
                self.flags.push(flag);
                results
            }
            None => b.op(node.op.clone(), args)?,
        };
        for (old, new) in node.results.iter().zip(results) {
            self.put(b, *old, new);
        }
        Ok(())
    }

    /// What the states that watch loops inside are next.
    pub fn watched(&self, b: &mut Builder<'_>, states: &[ValueId]) -> Result<Vec<ValueId>, String> {
        let next = |(place, state): (usize, &ValueId)| match self.flags.get(place) {
            Some(flag) => Watch::all().next(b, *state, *flag),
            // What nobody needs any more was not written.
            None => Ok(*state),
        };
        states.iter().enumerate().map(next).collect()
    }

    /// Notes what became of a value, which keeps its name.
    pub fn put(&mut self, b: &mut Builder<'_>, old: ValueId, new: ValueId) {
        if let Some(name) = &self.body.values[old.0 as usize].name {
            b.name(new, name.clone());
        }
        self.values[old.0 as usize] = Some(new);
    }
}

/// `name` with as many `_` as it takes that no argument or result of `func` begins with it.
pub fn unused(func: &Func, name: &str) -> String {
    let mut name = name.to_string();
    let is_used = |name: &str| {
        func.inputs.iter().any(|input| input.name.starts_with(name))
            || func.outputs.iter().any(|output| output.name.starts_with(name))
    };
    while is_used(&name) {
        name.push('_');
    }
    name
}

/// The label of an axis in einsum notation.
pub fn label(axis: usize) -> Result<char, String> {
    let letters = ('a'..='z').chain('A'..='Z');
    letters.clone().nth(axis).ok_or_else(|| format!("a sum has more than {} axes", letters.count()))
}

/// A value repeated to `shape`, its axes at `places`, which need not be in order.
pub fn spread(b: &mut Builder<'_>, value: ValueId, shape: &[Dim], places: &[usize]) -> Built {
    if places.len() == shape.len() && places.is_sorted() {
        return Ok(value);
    }
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by_key(|axis| places[*axis]);
    let value = if order.is_sorted() { value } else { b.transpose(value, &order)? };
    let sorted: Vec<usize> = order.iter().map(|axis| places[*axis]).collect();
    if sorted.len() == shape.len() { Ok(value) } else { b.broadcast(value, shape.to_vec(), &sorted) }
}
