//! The value of a tensor element, as kernel code.
//!
//! In: a graph value and its coordinates. Out: a variable. What is stored is loaded; everything else is written out, down to
//! what is stored. Sums here are short ones (unrolled); long sums have loops of their own (see [`super::nest`]).

use super::emit::Emitter;
use crate::schedule::LaneKind;
use crate::schedule::axes::Class;
use crate::schedule::coords::{Coords, op_axis, operand_coords, summed_extents, unflatten};
use crate::schedule::graph::{N, R, Source, V};
use crate::schedule::walk::Walk;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{Index, Mem, Var};
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use birkhoff_ir::tensor::{Module, OpKind};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// Sums of more terms than this are never written out.
const MAX_SHORT_SUM: i64 = 1024;

/// Where a value is stored.
#[derive(Clone, Debug)]
pub enum Place {
    /// In a parameter, under its own coordinates.
    Param(Mem),
    /// In tile memory, one axis per class.
    Local {
        /// The array.
        mem: Mem,
        /// The classes of its axes.
        classes: Vec<Class>,
        /// The value whose axes those classes are; others of its shape may be kept there too (the state of a loop).
        like: V,
    },
}

/// Lowers one kernel.
pub struct Lowering<'a> {
    /// The graph and its classes.
    pub walk: &'a Walk<'a>,
    /// Which nodes are anchors.
    pub is_anchor: &'a [bool],
    /// Number of users of each value.
    pub n_users: &'a [usize],
    /// The code.
    pub emitter: Emitter,
    /// What a lane is.
    pub lanes: LaneKind,
    /// Batch classes with their first place in the tile, outermost first.
    pub batch: Vec<(Class, Var)>,
    /// The class cut into tiles of more than one place.
    pub tile_class: Option<Class>,
    /// The number of places in the tile.
    pub tile_count: Option<Var>,
    /// The part of the next loop that is to run, if not all of it.
    pub range: Option<(Index, Index)>,
    /// The most places that a tile has.
    pub tile: i64,
    /// The present index of each class that a loop walks.
    pub at: BTreeMap<Class, Index>,
    /// Classes along which a token stage has loops.
    pub rolled: Vec<Class>,
    /// Where values may be loaded from.
    pub readable: BTreeMap<V, Place>,
    /// Where values must be written once computed.
    pub writable: BTreeMap<V, Vec<Place>>,
    /// The present iteration of the on-chip loops around.
    pub iteration: BTreeMap<R, Index>,
    /// What went wrong: a value that should have been stored and was not. A defect of the scheduler.
    pub broken: Option<String>,
    /// Values already written out in open blocks, by block.
    memo: FxHashMap<(V, Coords), (Var, usize)>,
}

impl<'a> Lowering<'a> {
    /// Starts lowering into `emitter`.
    pub fn new(
        walk: &'a Walk<'a>,
        is_anchor: &'a [bool],
        n_users: &'a [usize],
        emitter: Emitter,
        lanes: LaneKind,
    ) -> Self {
        Lowering {
            walk,
            is_anchor,
            n_users,
            emitter,
            lanes,
            batch: vec![],
            tile_class: None,
            tile_count: None,
            range: None,
            tile: 1,
            at: BTreeMap::new(),
            rolled: vec![],
            readable: BTreeMap::new(),
            writable: BTreeMap::new(),
            iteration: BTreeMap::new(),
            broken: None,
            memo: FxHashMap::default(),
        }
    }

    /// Closes the innermost block and forgets what exists only inside.
    pub fn close(&mut self) {
        self.emitter.close();
        let depth = self.emitter.depth();
        self.memo.retain(|_, (_, level)| *level < depth);
    }

    /// Remembers that `var` is the element `coords` of `value`, as long as the innermost block is open.
    pub fn remember(&mut self, value: V, coords: &[Index], var: Var) {
        let level = self.emitter.depth() - 1;
        self.memo.insert((value, coords.to_vec()), (var, level));
    }

    /// The coordinates of `value` at the present index of every class.
    pub fn coords_here(&self, value: V) -> Coords {
        let rank = self.walk.graph.values[value].ty.rank();
        (0..rank).map(|axis| self.axis_here(&self.walk.axes.leaves(value, axis))).collect()
    }

    /// The index of an axis made of `leaves`, at the present index of each.
    pub fn axis_here(&self, leaves: &[Class]) -> Index {
        let mut flat = Index::default();
        for class in leaves {
            let index = self.at.get(class).cloned().unwrap_or_default();
            flat = flat.scale(self.walk.axes.extent(*class)).add(&index);
        }
        flat
    }

    /// The array index of `coords` of `value` in `place`.
    pub fn place_index(&mut self, place: &Place, value: V, coords: &[Index]) -> (Mem, Vec<Index>) {
        match place {
            Place::Param(mem) => (*mem, coords.to_vec()),
            Place::Local { mem, classes, like } => {
                let mut by_class: BTreeMap<Class, Index> = BTreeMap::new();
                for (axis, index) in coords.iter().enumerate() {
                    let leaves = self.walk.axes.leaves(*like, axis);
                    if let [leaf] = leaves.as_slice() {
                        by_class.insert(*leaf, index.clone());
                        continue;
                    }
                    let extents: Vec<Dim> =
                        leaves.iter().map(|leaf| self.walk.axes.extent(*leaf).clone()).collect();
                    let parts = unflatten(&mut self.emitter, index.clone(), &extents);
                    by_class.extend(leaves.into_iter().zip(parts));
                }
                if classes.iter().any(|class| !by_class.contains_key(class)) {
                    self.missing(value, "is stored along other axes");
                }
                let index = classes.iter().map(|class| {
                    let index = by_class.get(class).cloned().unwrap_or_default();
                    match self.batch.iter().find(|(batch, _)| batch == class) {
                        Some((_, base)) => index.add(&Index::var(*base).scale(&Dim::constant(-1))),
                        None => index,
                    }
                });
                (*mem, index.collect())
            }
        }
    }

    /// Writes the element `coords` of `value` wherever it is wanted.
    pub fn store_all(&mut self, value: V, coords: &[Index], var: Var) {
        for place in self.writable.get(&value).cloned().unwrap_or_default() {
            self.store_to(&place, value, coords, var);
        }
    }

    /// From here on `value` is loaded from its tile memory, if it has some.
    pub fn make_readable(&mut self, value: V) {
        let places = self.writable.get(&value).cloned().unwrap_or_default();
        if let Some(place) = places.into_iter().find(|place| matches!(place, Place::Local { .. })) {
            self.readable.insert(value, place);
        }
    }

    /// Writes an element of `value` to one place.
    pub fn store_to(&mut self, place: &Place, value: V, coords: &[Index], var: Var) {
        let (mem, index) = self.place_index(place, value, coords);
        self.emitter.store(mem, index, var);
    }

    /// The element `coords` of `value`, of its compute type.
    pub fn value(&mut self, value: V, coords: &[Index]) -> Var {
        let key = (value, coords.to_vec());
        if let Some((var, _)) = self.memo.get(&key) {
            return *var;
        }
        let var = self.write_value(value, coords);
        let level = self.emitter.var_level(var).max(self.emitter.index_level(coords));
        self.memo.insert(key, (var, level));
        var
    }

    fn write_value(&mut self, value: V, coords: &[Index]) -> Var {
        if let Some(place) = self.readable.get(&value).cloned() {
            let (mem, index) = self.place_index(&place, value, coords);
            return self.emitter.load(mem, index);
        }
        match self.walk.graph.values[value].source {
            Source::Node(node, result) => self.node_value(node, result, coords),
            Source::Body(region, idx) => self.slice_value(region, idx, coords),
            // Arguments are parameters, which are readable.
            Source::Input(_) => self.missing(value, "is no parameter"),
        }
    }

    /// Records that `value` should have been stored, and why it cannot be had.
    fn missing(&mut self, value: V, why: &str) -> Var {
        let info = &self.walk.graph.values[value];
        let name = info.name.as_ref().map_or_else(|| format!("#{value}"), |name| name.to_string());
        self.broken.get_or_insert_with(|| {
            format!("the value {name}: {} is not there where it is read: it {why}", info.ty)
        });
        let dtype = info.ty.dtype.compute();
        self.emitter.constant(dtype, Scalar::Int(0))
    }

    /// The slice that an on-chip loop sees in the present iteration.
    fn slice_value(&mut self, region: R, idx: usize, coords: &[Index]) -> Var {
        let Some(node) = self.walk.graph.loop_of(region) else {
            return self.missing(self.walk.graph.regions[region].inputs[idx], "belongs to no loop");
        };
        if idx < self.walk.graph.regions[region].n_carry {
            return self.missing(
                self.walk.graph.regions[region].inputs[idx],
                "is the state of a loop that is not open",
            );
        }
        let source = self.walk.graph.nodes[node].args[idx];
        let mut full = vec![self.slice_index(region)];
        full.extend(coords.iter().cloned());
        self.value(source, &full)
    }

    /// Which slice of scanned values the present iteration of `region` uses.
    pub fn slice_index(&self, region: R) -> Index {
        let info = &self.walk.graph.regions[region];
        let iteration = self.iteration.get(&region).cloned().unwrap_or_default();
        if info.reverse {
            let last = Index::constant(info.trip.sub(&Dim::constant(1)));
            last.add(&iteration.scale(&Dim::constant(-1)))
        } else {
            iteration
        }
    }

    fn node_value(&mut self, node: N, result: usize, coords: &[Index]) -> Var {
        let gnode = &self.walk.graph.nodes[node];
        let out = self.walk.graph.values[gnode.results[result]].ty.dtype;
        let compute = out.compute();
        match gnode.op.kind {
            OpKind::Scalar(op) => {
                let var = self.scalar_value(node, op, coords);
                self.emitter.round(out, var)
            }
            OpKind::Const => {
                let value = gnode.op.number(&Module::default(), "value").unwrap_or(Scalar::Float(f64::NAN));
                self.emitter.constant(compute, value.convert(out))
            }
            OpKind::Iota => {
                let axis = op_axis(&gnode.op, coords.len()).unwrap_or(0);
                let index = self.emitter.index(coords[axis].clone());
                let var = self.emitter.convert(compute, index);
                self.emitter.round(out, var)
            }
            OpKind::Convert => {
                let var = self.operand(node, 0, coords, &[]);
                let var = self.emitter.convert(compute, var);
                self.emitter.round(out, var)
            }
            OpKind::StopGradient
            | OpKind::Broadcast
            | OpKind::Reshape
            | OpKind::Transpose
            | OpKind::Slice => self.operand(node, 0, coords, &[]),
            OpKind::Pad => self.pad_value(node, coords),
            OpKind::Concat => self.concat_value(node, coords),
            OpKind::Gather => self.gather_value(node, coords),
            OpKind::RandomBits => self.random_value(node, coords),
            _ => {
                let var = self.short_sum(node, coords);
                self.emitter.round(out, var)
            }
        }
    }

    /// Operand `pos` of `node` for its result element `coords`.
    pub fn operand(&mut self, node: N, pos: usize, coords: &[Index], sums: &[Index]) -> Var {
        let read = operand_coords(&mut self.emitter, self.walk.graph, node, pos, coords, sums);
        let arg = self.walk.graph.nodes[node].args[pos];
        self.value(arg, &read.unwrap_or_else(|| coords.to_vec()))
    }

    fn scalar_value(&mut self, node: N, op: ScalarOp, coords: &[Index]) -> Var {
        if op == ScalarOp::Add
            && let Some(fused) = self.fused_mul_add(node, coords)
        {
            return fused;
        }
        let n_args = self.walk.graph.nodes[node].args.len();
        let args: Vec<Var> = (0..n_args).map(|pos| self.operand(node, pos, coords, &[])).collect();
        self.emitter.scalar(op, &args)
    }

    /// `a * b + c` in one rounding, where the product serves nothing else.
    fn fused_mul_add(&mut self, node: N, coords: &[Index]) -> Option<Var> {
        let gnode = &self.walk.graph.nodes[node];
        let ty = &self.walk.graph.values[gnode.results[0]].ty;
        if ty.dtype != ty.dtype.compute() || !ty.dtype.is_float() {
            return None;
        }
        for (product, other) in [(0, 1), (1, 0)] {
            let value = gnode.args[product];
            let Source::Node(def, _) = self.walk.graph.values[value].source else { continue };
            let is_product = self.walk.graph.nodes[def].op.kind == OpKind::Scalar(ScalarOp::Mul);
            if is_product && !self.is_anchor[def] && self.n_users[value] == 1 {
                let a = self.operand(def, 0, coords, &[]);
                let b = self.operand(def, 1, coords, &[]);
                let c = self.operand(node, other, coords, &[]);
                return Some(self.emitter.mul_add(a, b, c));
            }
        }
        None
    }

    /// A reduction or contraction over few places, written out: of four terms and more, both halves in row-major order, and
    /// then their sum, so that half as many additions wait for each other.
    fn short_sum(&mut self, node: N, coords: &[Index]) -> Var {
        let gnode = &self.walk.graph.nodes[node];
        let kind = gnode.op.kind;
        let dtype = self.walk.graph.values[gnode.results[0]].ty.dtype.compute();
        let extents: Option<Vec<i64>> =
            summed_extents(self.walk.graph, node).iter().map(Dim::as_const).collect();
        let Some(extents) = extents.filter(|extents| extents.iter().product::<i64>() <= MAX_SHORT_SUM) else {
            return self.missing(gnode.results[0], "is a long sum");
        };
        if matches!(kind, OpKind::Loop | OpKind::Solve | OpKind::Qr) {
            return self.missing(gnode.results[0], "is the result of a loop");
        }
        let places = places(&extents);
        let half = if places.len() < 4 { places.len() } else { places.len().div_ceil(2) };
        let mut halves: Vec<Var> = vec![];
        for part in places.chunks(half.max(1)) {
            let mut sum: Option<Var> = None;
            for place in part {
                let sums: Vec<Index> = place.iter().copied().map(Index::constant).collect();
                sum = Some(self.sum_term(node, kind, dtype, coords, &sums, sum));
            }
            halves.extend(sum);
        }
        let join = super::nest::accum_op(kind);
        let first = halves.first().copied();
        let sum = first.unwrap_or_else(|| self.emitter.constant(dtype, join.identity(dtype)));
        halves.iter().skip(1).fold(sum, |sum, other| self.emitter.scalar(join.combine(), &[sum, *other]))
    }

    fn sum_term(
        &mut self,
        node: N,
        kind: OpKind,
        dtype: DType,
        coords: &[Index],
        sums: &[Index],
        sum: Option<Var>,
    ) -> Var {
        let (factors, op) = self.terms(node, kind, dtype, coords, sums);
        match (sum, factors.as_slice()) {
            (Some(sum), [a, b]) => self.emitter.mul_add(*a, *b, sum),
            (None, [a, b]) => self.emitter.scalar(ScalarOp::Mul, &[*a, *b]),
            (Some(sum), [a]) => self.emitter.scalar(op, &[sum, *a]),
            (_, factors) => factors[0],
        }
    }

    /// One term of a sum as one factor, or two to be multiplied; and the operation that joins terms.
    pub fn terms(
        &mut self,
        node: N,
        kind: OpKind,
        dtype: DType,
        coords: &[Index],
        sums: &[Index],
    ) -> (Vec<Var>, ScalarOp) {
        let join = super::nest::accum_op(kind).combine();
        if kind != OpKind::Contract {
            if kind == OpKind::ReduceSum
                && let Some(factors) = self.product_operand(node, coords, sums)
            {
                return (factors, join);
            }
            return (vec![self.operand(node, 0, coords, sums)], join);
        }
        let n_args = self.walk.graph.nodes[node].args.len();
        let mut factors: Vec<Var> = vec![];
        for pos in 0..n_args {
            let var = self.operand(node, pos, coords, sums);
            factors.push(self.emitter.convert(dtype, var));
        }
        while factors.len() > 2 {
            let second = factors.remove(1);
            factors[0] = self.emitter.scalar(ScalarOp::Mul, &[factors[0], second]);
        }
        (factors, join)
    }

    /// The factors of a sum's operand, if it is a product that serves nothing else.
    fn product_operand(&mut self, node: N, coords: &[Index], sums: &[Index]) -> Option<Vec<Var>> {
        let arg = self.walk.graph.nodes[node].args[0];
        let dtype = self.walk.graph.values[arg].ty.dtype;
        let Source::Node(def, _) = self.walk.graph.values[arg].source else { return None };
        let is_product = self.walk.graph.nodes[def].op.kind == OpKind::Scalar(ScalarOp::Mul);
        let is_stored = self.is_anchor[def] || self.readable.contains_key(&arg);
        if !is_product || is_stored || dtype != dtype.compute() || !dtype.is_float() {
            return None;
        }
        let read = operand_coords(&mut self.emitter, self.walk.graph, node, 0, coords, sums)?;
        Some(vec![self.operand(def, 0, &read, &[]), self.operand(def, 1, &read, &[])])
    }

    /// `low <= index < high` and the index less `low`, clamped into the range; `None` if the answer is known to be no.
    fn window(&mut self, index: &Index, low: &Dim, extent: &Dim) -> Window {
        let shifted = index.add(&Index::constant(low.clone()).scale(&Dim::constant(-1)));
        if shifted.terms.is_empty()
            && let (Some(place), Some(extent)) = (shifted.offset.as_const(), extent.as_const())
        {
            return if (0..extent).contains(&place) { Window::Inside(shifted) } else { Window::Outside };
        }
        let place = self.emitter.index(shifted);
        let zero = self.emitter.constant(DType::I64, Scalar::Int(0));
        let last = self.emitter.index(Index::constant(extent.sub(&Dim::constant(1))));
        let above = self.emitter.scalar(ScalarOp::Le, &[zero, place]);
        let below = self.emitter.scalar(ScalarOp::Le, &[place, last]);
        let inside = self.emitter.scalar(ScalarOp::And, &[above, below]);
        let clamped = self.emitter.scalar(ScalarOp::Max, &[place, zero]);
        let clamped = self.emitter.scalar(ScalarOp::Min, &[clamped, last]);
        Window::Maybe(inside, Index::var(clamped))
    }

    fn pad_value(&mut self, node: N, coords: &[Index]) -> Var {
        let gnode = &self.walk.graph.nodes[node];
        let axis = op_axis(&gnode.op, coords.len()).unwrap_or(0);
        let low = gnode.op.dim(&Module::default(), "low").unwrap_or_default();
        let extent = self.walk.graph.values[gnode.args[0]].ty.shape[axis].clone();
        let (source, fill) = (gnode.args[0], gnode.args[1]);
        let mut read = coords.to_vec();
        match self.window(&coords[axis], &low, &extent) {
            Window::Outside => self.value(fill, &[]),
            Window::Inside(index) => {
                read[axis] = index;
                self.value(source, &read)
            }
            Window::Maybe(inside, index) => {
                read[axis] = index;
                let element = self.value(source, &read);
                let fill = self.value(fill, &[]);
                self.emitter.scalar(ScalarOp::Select, &[inside, element, fill])
            }
        }
    }

    fn concat_value(&mut self, node: N, coords: &[Index]) -> Var {
        let gnode = &self.walk.graph.nodes[node];
        let axis = op_axis(&gnode.op, coords.len()).unwrap_or(0);
        let mut start = Dim::default();
        let mut result: Option<Var> = None;
        for arg in gnode.args.clone() {
            let extent = self.walk.graph.values[arg].ty.shape[axis].clone();
            let mut read = coords.to_vec();
            match self.window(&coords[axis], &start, &extent) {
                Window::Outside => {}
                Window::Inside(index) => {
                    read[axis] = index;
                    return self.value(arg, &read);
                }
                Window::Maybe(inside, index) => {
                    read[axis] = index;
                    let element = self.value(arg, &read);
                    result = Some(match result {
                        Some(before) => self.emitter.scalar(ScalarOp::Select, &[inside, element, before]),
                        None => element,
                    });
                }
            }
            start = start.add(&extent);
        }
        let dtype = self.walk.graph.values[gnode.results[0]].ty.dtype.compute();
        result.unwrap_or_else(|| self.emitter.constant(dtype, Scalar::Float(f64::NAN)))
    }

    fn gather_value(&mut self, node: N, coords: &[Index]) -> Var {
        let gnode = &self.walk.graph.nodes[node];
        let (source, index) = (gnode.args[0], gnode.args[1]);
        let shape = self.walk.graph.values[source].ty.shape.clone();
        let axis = op_axis(&gnode.op, shape.len()).unwrap_or(0);
        let index_rank = self.walk.graph.values[index].ty.rank();
        let place = self.value(index, &coords[axis..axis + index_rank]);
        let place = self.emitter.convert(DType::I64, place);
        let zero = self.emitter.constant(DType::I64, Scalar::Int(0));
        let last = self.emitter.index(Index::constant(shape[axis].sub(&Dim::constant(1))));
        let place = self.emitter.scalar(ScalarOp::Max, &[place, zero]);
        let place = self.emitter.scalar(ScalarOp::Min, &[place, last]);
        let mut read = coords[..axis].to_vec();
        read.push(Index::var(place));
        read.extend(coords[axis + index_rank..].iter().cloned());
        self.value(source, &read)
    }

    /// Threefry-2x32 with 20 rounds; see the op `random_bits`.
    fn random_value(&mut self, node: N, coords: &[Index]) -> Var {
        const ROTATIONS: [[i64; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
        let gnode = &self.walk.graph.nodes[node];
        let key_value = gnode.args[0];
        let shape = self.walk.graph.values[gnode.results[0]].ty.shape.clone();
        let flat = self.emitter.index(crate::schedule::coords::flatten(coords, &shape));
        let half = self.emitter.constant(DType::I64, Scalar::Int(32));
        let high = self.emitter.scalar(ScalarOp::Shr, &[flat, half]);
        let low = self.emitter.convert(DType::I32, flat);
        let high = self.emitter.convert(DType::I32, high);
        let keys = [0, 1].map(|word| self.value(key_value, &[Index::constant(word)]));
        let parity = self.emitter.constant(DType::I32, Scalar::Int(0x1BD1_1BDA));
        let mixed = self.emitter.scalar(ScalarOp::BitXor, &[keys[0], keys[1]]);
        let keys = [keys[0], keys[1], self.emitter.scalar(ScalarOp::BitXor, &[mixed, parity])];
        let mut x0 = self.emitter.scalar(ScalarOp::Add, &[low, keys[0]]);
        let mut x1 = self.emitter.scalar(ScalarOp::Add, &[high, keys[1]]);
        for round in 0..5 {
            for rotation in ROTATIONS[round % 2] {
                x0 = self.emitter.scalar(ScalarOp::Add, &[x0, x1]);
                let left = self.emitter.constant(DType::I32, Scalar::Int(rotation));
                let right = self.emitter.constant(DType::I32, Scalar::Int(32 - rotation));
                let upper = self.emitter.scalar(ScalarOp::Shl, &[x1, left]);
                let lower = self.emitter.scalar(ScalarOp::Shr, &[x1, right]);
                let rotated = self.emitter.scalar(ScalarOp::BitOr, &[upper, lower]);
                x1 = self.emitter.scalar(ScalarOp::BitXor, &[rotated, x0]);
            }
            let count = self.emitter.constant(DType::I32, Scalar::Int(round as i64 + 1));
            x0 = self.emitter.scalar(ScalarOp::Add, &[x0, keys[(round + 1) % 3]]);
            let next = self.emitter.scalar(ScalarOp::Add, &[keys[(round + 2) % 3], count]);
            x1 = self.emitter.scalar(ScalarOp::Add, &[x1, next]);
        }
        x0
    }
}

/// Whether a place lies in a range.
enum Window {
    /// Certainly not.
    Outside,
    /// Certainly, at this place of the range.
    Inside(Index),
    /// If the condition holds; the place is clamped into the range.
    Maybe(Var, Index),
}

/// All places of a small row-major range.
pub fn places(extents: &[i64]) -> Vec<Vec<i64>> {
    let mut places = vec![vec![]];
    for extent in extents {
        places = places
            .into_iter()
            .flat_map(|place: Vec<i64>| {
                (0..*extent).map(move |idx| place.iter().copied().chain([idx]).collect::<Vec<i64>>())
            })
            .collect();
    }
    places
}
