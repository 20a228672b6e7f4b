//! Questions about how nodes walk the values they read, asked in terms of classes.
//!
//! A class stands for its loop variable here: `Var(class)`. What an operand is read at is then an index over classes, and an
//! operand is *aligned* on a class if it is read exactly at the place that the class names.

use super::axes::{Axes, Class};
use super::coords::{Coords, IndexCx, flatten, op_axis, operand_coords};
use super::graph::{Graph, N, V};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::kernel::{Index, Var};
use birkhoff_ir::tensor::OpKind;

/// A graph with its classes.
pub struct Walk<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// Its classes.
    pub axes: &'a Axes,
}

/// Coordinate arithmetic over classes; what cannot be divided becomes a variable that equals nothing.
struct ClassCx<'a> {
    axes: &'a Axes,
    n_opaque: u32,
}

impl IndexCx for ClassCx<'_> {
    fn extent(&self, var: Var) -> Option<Dim> {
        (var.0 < u32::MAX / 2).then(|| self.axes.extent(var.0 as usize).clone())
    }

    fn divide(&mut self, _index: &Index, _divisor: &Dim) -> (Index, Index) {
        self.n_opaque += 2;
        (Index::var(Var(u32::MAX - self.n_opaque)), Index::var(Var(u32::MAX - self.n_opaque - 1)))
    }
}

impl Walk<'_> {
    /// The index of an axis made of `leaves`.
    pub fn leaf_index(&self, leaves: &[Class]) -> Index {
        let coords: Vec<Index> = leaves.iter().map(|class| Index::var(Var(*class as u32))).collect();
        let shape: Vec<Dim> = leaves.iter().map(|class| self.axes.extent(*class).clone()).collect();
        flatten(&coords, &shape)
    }

    /// The place of `value` that its own classes name.
    pub fn own_coords(&self, value: V) -> Coords {
        let rank = self.graph.values[value].ty.rank();
        (0..rank).map(|axis| self.leaf_index(&self.axes.leaves(value, axis))).collect()
    }

    /// Where `node` reads operand `pos` for the result element at `coords`; `None` for an axis with no such place.
    pub fn read_coords(&self, node: N, pos: usize, coords: &[Index]) -> Vec<Option<Index>> {
        let gnode = &self.graph.nodes[node];
        let sums: Vec<Index> =
            self.axes.summed_leaves(node).iter().map(|leaves| self.leaf_index(leaves)).collect();
        let mut cx = ClassCx { axes: self.axes, n_opaque: 0 };
        if let Some(read) = operand_coords(&mut cx, self.graph, node, pos, coords, &sums) {
            return read.into_iter().map(Some).collect();
        }
        let rank = self.graph.values[gnode.args[pos]].ty.rank();
        match gnode.op.kind {
            OpKind::Pad | OpKind::Concat if rank == coords.len() => {
                let along = op_axis(&gnode.op, rank);
                (0..rank).map(|axis| (Some(axis) != along).then(|| coords[axis].clone())).collect()
            }
            OpKind::Gather => {
                let source_rank = self.graph.values[gnode.args[0]].ty.rank();
                let index_rank = self.graph.values[gnode.args[1]].ty.rank();
                let along = op_axis(&gnode.op, source_rank).unwrap_or(0);
                if pos == 1 {
                    return coords[along..along + index_rank].iter().cloned().map(Some).collect();
                }
                let place = |axis: usize| match axis.cmp(&along) {
                    std::cmp::Ordering::Less => Some(coords[axis].clone()),
                    std::cmp::Ordering::Equal => None,
                    std::cmp::Ordering::Greater => Some(coords[axis - 1 + index_rank].clone()),
                };
                (0..source_rank).map(place).collect()
            }
            OpKind::Solve | OpKind::Qr => {
                let lead = rank.saturating_sub(2);
                (0..rank).map(|axis| coords.get(axis).filter(|_| axis < lead).cloned()).collect()
            }
            _ => vec![None; rank],
        }
    }

    /// True if `node`, walking its own classes, reads operand `pos` exactly where the operand's own class `class` says. An
    /// operand without that class is not aligned on it.
    pub fn aligned(&self, node: N, pos: usize, class: Class) -> bool {
        let gnode = &self.graph.nodes[node];
        let arg = gnode.args[pos];
        if let Some(body) = gnode.body {
            // State and slices stand for operands of the same classes.
            let region = &self.graph.regions[body];
            return self.axes.of_value(arg).contains(&class)
                && self.axes.of_value(region.inputs[pos]).contains(&class);
        }
        let Some(&result) = gnode.results.first() else { return false };
        let read = self.read_coords(node, pos, &self.own_coords(result));
        let mut found = false;
        for (axis, index) in read.iter().enumerate() {
            let leaves = self.axes.leaves(arg, axis);
            if leaves.contains(&class) {
                found = true;
                if index.as_ref() != Some(&self.leaf_index(&leaves)) {
                    return false;
                }
            }
        }
        found
    }

    /// The classes of a node's result, without the axis along which a loop on chip stacks its slices: of that axis an
    /// iteration writes one place.
    pub fn of_result(&self, node: N, result: usize) -> Vec<Class> {
        let gnode = &self.graph.nodes[node];
        let n_carry = gnode.body.map_or(usize::MAX, |body| self.graph.regions[body].n_carry);
        let first = usize::from(result >= n_carry);
        let value = gnode.results[result];
        (first..self.graph.values[value].ty.rank()).flat_map(|axis| self.axes.leaves(value, axis)).collect()
    }

    /// The classes that `node` walks: those of its results and those it sums over.
    pub fn iterates(&self, node: N) -> Vec<Class> {
        let mut classes: Vec<Class> = vec![];
        for result in 0..self.graph.nodes[node].results.len() {
            for class in self.of_result(node, result) {
                if !classes.contains(&class) {
                    classes.push(class);
                }
            }
        }
        classes.extend(self.axes.of_sums(node));
        classes
    }

    /// Nodes of the body of an on-chip loop, those of nested ones included, in order.
    pub fn body_nodes(&self, node: N) -> Vec<N> {
        let Some(body) = self.graph.nodes[node].body else { return vec![] };
        let mut regions = vec![body];
        let mut nodes = vec![];
        // A body's nodes come before its loop; nested loops are met when walking backwards.
        for idx in (0..node).rev() {
            let inner = &self.graph.nodes[idx];
            if regions.contains(&inner.region) {
                nodes.push(idx);
                regions.extend(inner.body);
            }
        }
        nodes.reverse();
        nodes
    }
}
