//! Which axes of which values are the same loop.
//!
//! In: a graph. Out: for every axis of every value, and for everything a node sums over, a list of *classes*, outermost
//! first. Two axes share a class if each op between them walks them together. A reshape that merges `n` and `C` makes the
//! merged axis the list `[n, C]`. Two axes of one node are never one class: `x x^T` walks `x` twice, in two loops.

use super::coords::{op_axis, summed_extents};
use super::graph::{Graph, N, V};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::tensor::OpKind;
use std::collections::BTreeSet;

/// A loop shared by axes of many values; see [`Axes::extent`].
pub type Class = usize;

/// The classes of a graph.
pub struct Axes {
    parent: Vec<Class>,
    /// What a class was split into, outer and inner.
    split: Vec<Option<(Class, Class)>>,
    extent: Vec<Dim>,
    /// Nodes that walk the class.
    members: Vec<BTreeSet<N>>,
    value_axes: Vec<Vec<Class>>,
    summed: Vec<Vec<Class>>,
}

impl Axes {
    /// Analyses `graph`.
    pub fn new(graph: &Graph) -> Axes {
        let mut axes = Axes {
            parent: vec![],
            split: vec![],
            extent: vec![],
            members: vec![],
            value_axes: vec![],
            summed: vec![],
        };
        for (value, info) in graph.values.iter().enumerate() {
            // The results of a loop are several values side by side, which may well walk together.
            let is_walk = |node: &N| graph.nodes[*node].op.kind != OpKind::Loop;
            let member = graph.def(value).map(|(node, _)| node).filter(is_walk);
            let classes = info.ty.shape.iter().map(|dim| axes.fresh(dim.clone(), member)).collect();
            axes.value_axes.push(classes);
        }
        for node in 0..graph.nodes.len() {
            let summed =
                summed_extents(graph, node).into_iter().map(|dim| axes.fresh(dim, Some(node))).collect();
            axes.summed.push(summed);
        }
        for node in 0..graph.nodes.len() {
            axes.relate(graph, node);
        }
        axes
    }

    fn fresh(&mut self, extent: Dim, member: Option<N>) -> Class {
        self.parent.push(self.parent.len());
        self.split.push(None);
        self.extent.push(extent);
        self.members.push(member.into_iter().collect());
        self.parent.len() - 1
    }

    fn root(&self, class: Class) -> Class {
        let mut class = class;
        while self.parent[class] != class {
            class = self.parent[class];
        }
        class
    }

    fn push_leaves(&self, class: Class, leaves: &mut Vec<Class>) {
        let root = self.root(class);
        match self.split[root] {
            Some((outer, inner)) => {
                self.push_leaves(outer, leaves);
                self.push_leaves(inner, leaves);
            }
            None => leaves.push(root),
        }
    }

    /// The classes of one axis of `value`, outermost first.
    pub fn leaves(&self, value: V, axis: usize) -> Vec<Class> {
        let mut leaves = vec![];
        self.push_leaves(self.value_axes[value][axis], &mut leaves);
        leaves
    }

    /// The classes of all axes of `value`, outermost first.
    pub fn of_value(&self, value: V) -> Vec<Class> {
        (0..self.value_axes[value].len()).flat_map(|axis| self.leaves(value, axis)).collect()
    }

    /// The classes of each thing that `node` sums over.
    pub fn summed_leaves(&self, node: N) -> Vec<Vec<Class>> {
        let leaves = |class: &Class| {
            let mut leaves = vec![];
            self.push_leaves(*class, &mut leaves);
            leaves
        };
        self.summed[node].iter().map(leaves).collect()
    }

    /// All classes that `node` sums over, outermost first.
    pub fn of_sums(&self, node: N) -> Vec<Class> {
        self.summed_leaves(node).concat()
    }

    /// The number of iterations of a class.
    pub fn extent(&self, class: Class) -> &Dim {
        &self.extent[self.root(class)]
    }

    fn union(&mut self, a: Class, b: Class) -> bool {
        let (a, b) = (self.root(a), self.root(b));
        if a == b {
            return true;
        }
        match (self.split[a], self.split[b]) {
            (None, None) => {
                if !self.members[a].is_disjoint(&self.members[b]) {
                    return false;
                }
                let (low, high) = (a.min(b), a.max(b));
                let moved = std::mem::take(&mut self.members[high]);
                self.members[low].extend(moved);
                self.parent[high] = low;
                true
            }
            _ => self.union_lists(&[a], &[b]),
        }
    }

    /// Relates two lists of axes that are one flat row-major range: equal extents pair up from the inside, and an extent that
    /// another divides is split. Stops where neither divides the other; the rest stays unrelated.
    fn union_lists(&mut self, a: &[Class], b: &[Class]) -> bool {
        let leaves = |axes: &Axes, list: &[Class]| {
            let mut leaves = vec![];
            list.iter().for_each(|class| axes.push_leaves(*class, &mut leaves));
            leaves.retain(|leaf| !axes.extent(*leaf).is_const(1));
            leaves
        };
        let (mut left, mut right) = (leaves(self, a), leaves(self, b));
        let mut all = true;
        while let (Some(x), Some(y)) = (left.pop(), right.pop()) {
            let (dim_x, dim_y) = (self.extent(x).clone(), self.extent(y).clone());
            if dim_x == dim_y {
                all &= self.union(x, y);
            } else if let Some(outer) = dim_x.exact_div(&dim_y) {
                let (high, low) = self.split_class(x, outer, dim_y);
                all &= self.union(low, y);
                left.push(high);
            } else if let Some(outer) = dim_y.exact_div(&dim_x) {
                let (high, low) = self.split_class(y, outer, dim_x);
                all &= self.union(low, x);
                right.push(high);
            } else {
                return false;
            }
        }
        all
    }

    fn split_class(&mut self, class: Class, outer: Dim, inner: Dim) -> (Class, Class) {
        let members = self.members[class].clone();
        let high = self.fresh(outer, None);
        let low = self.fresh(inner, None);
        self.members[high] = members.clone();
        self.members[low] = members;
        self.split[class] = Some((high, low));
        (high, low)
    }

    fn union_axes(&mut self, a: V, axis_a: usize, b: V, axis_b: usize) {
        let (x, y) = (self.value_axes[a][axis_a], self.value_axes[b][axis_b]);
        self.union(x, y);
    }

    fn relate(&mut self, graph: &Graph, node: N) {
        let gnode = &graph.nodes[node];
        if gnode.op.kind == OpKind::Loop {
            return self.relate_loop(graph, node);
        }
        let Some(&result) = gnode.results.first() else { return };
        let rank = graph.values[result].ty.rank();
        match gnode.op.kind {
            OpKind::Scalar(_) | OpKind::Convert | OpKind::StopGradient => {
                for arg in &gnode.args {
                    (0..rank).for_each(|axis| self.union_axes(result, axis, *arg, axis));
                }
            }
            OpKind::Broadcast => {
                for (axis, to) in gnode.op.axes("axes").iter().enumerate() {
                    self.union_axes(result, *to as usize, gnode.args[0], axis);
                }
            }
            OpKind::Transpose => {
                for (axis, from) in gnode.op.axes("axes").iter().enumerate() {
                    self.union_axes(result, axis, gnode.args[0], *from as usize);
                }
            }
            OpKind::Reshape => {
                let (a, b) = (self.value_axes[result].clone(), self.value_axes[gnode.args[0]].clone());
                self.union_lists(&a, &b);
            }
            OpKind::Slice | OpKind::Pad | OpKind::Concat => {
                let along = op_axis(&gnode.op, rank);
                let n_tensors = if gnode.op.kind == OpKind::Concat { gnode.args.len() } else { 1 };
                for arg in &gnode.args[..n_tensors] {
                    for axis in (0..rank).filter(|axis| Some(*axis) != along) {
                        self.union_axes(result, axis, *arg, axis);
                    }
                }
            }
            OpKind::Gather => self.relate_gather(graph, node, result),
            OpKind::ReduceSum | OpKind::ReduceProd | OpKind::ReduceMax | OpKind::ReduceMin => {
                let (mut kept, mut summed) = (usize::from(gnode.chunked), 0);
                for axis in 0..graph.values[gnode.args[0]].ty.rank() {
                    if gnode.op.axes("axes").contains(&(axis as u32)) {
                        let (x, y) = (self.summed[node][summed], self.value_axes[gnode.args[0]][axis]);
                        self.union(x, y);
                        summed += 1;
                    } else {
                        self.union_axes(result, kept, gnode.args[0], axis);
                        kept += 1;
                    }
                }
            }
            OpKind::Contract => self.relate_contract(graph, node, result),
            // Factorisations are opaque, but for their leading axes.
            _ => {
                for arg in &gnode.args {
                    let lead = graph.values[*arg].ty.rank().min(rank).saturating_sub(2);
                    (0..lead).for_each(|axis| self.union_axes(result, axis, *arg, axis));
                }
            }
        }
    }

    fn relate_gather(&mut self, graph: &Graph, node: N, result: V) {
        let gnode = &graph.nodes[node];
        let (source, index) = (gnode.args[0], gnode.args[1]);
        let (rank, index_rank) = (graph.values[source].ty.rank(), graph.values[index].ty.rank());
        let Some(along) = op_axis(&gnode.op, rank) else { return };
        for axis in 0..index_rank {
            self.union_axes(result, along + axis, index, axis);
        }
        for axis in 0..rank {
            match axis.cmp(&along) {
                std::cmp::Ordering::Less => self.union_axes(result, axis, source, axis),
                std::cmp::Ordering::Greater => self.union_axes(result, axis - 1 + index_rank, source, axis),
                std::cmp::Ordering::Equal => {}
            }
        }
    }

    fn relate_contract(&mut self, graph: &Graph, node: N, result: V) {
        let gnode = &graph.nodes[node];
        let Some(spec) = gnode.op.einsum().cloned() else { return };
        let summed = spec.summed();
        for (labels, arg) in spec.inputs.iter().zip(&gnode.args) {
            for (axis, label) in labels.iter().enumerate() {
                if let Some(out) = spec.output.iter().position(|other| other == label) {
                    self.union_axes(result, out + usize::from(gnode.chunked), *arg, axis);
                } else if let Some(sum) = summed.iter().position(|other| other == label) {
                    let (x, y) = (self.summed[node][sum], self.value_axes[*arg][axis]);
                    self.union(x, y);
                }
            }
        }
    }

    /// State walks with its initial value, its next value and the result; a slice with the rest of the axes of its stack.
    fn relate_loop(&mut self, graph: &Graph, node: N) {
        let gnode = &graph.nodes[node];
        let Some(region) = gnode.body.map(|body| &graph.regions[body]) else { return };
        for (idx, result) in gnode.results.iter().enumerate() {
            let (inner, skip) = (region.outputs[idx], usize::from(idx >= region.n_carry));
            for axis in 0..graph.values[inner].ty.rank() {
                self.union_axes(*result, axis + skip, inner, axis);
            }
        }
        for (idx, arg) in gnode.args.iter().enumerate() {
            let (inner, skip) = (region.inputs[idx], usize::from(idx >= region.n_carry));
            for axis in 0..graph.values[inner].ty.rank() {
                self.union_axes(inner, axis, *arg, axis + skip);
                if skip == 0 {
                    self.union_axes(inner, axis, gnode.results[idx], axis);
                }
            }
        }
    }
}
