//! Nests: large axes as loops, one axis as lanes, accumulators in registers.

use super::rolled::Terms;
use super::value::{Lowering, places};
use crate::schedule::axes::Class;
use crate::schedule::graph::{N, R, V};
use crate::schedule::stages::{Lanes, Nest};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::kernel::{AccumOp, ForKind, Index, Local, Mem, Space, Var};
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::OpKind;

/// How a reduction joins its terms.
pub fn accum_op(kind: OpKind) -> AccumOp {
    match kind {
        OpKind::ReduceProd => AccumOp::Mul,
        OpKind::ReduceMax => AccumOp::Max,
        OpKind::ReduceMin => AccumOp::Min,
        _ => AccumOp::Add,
    }
}

/// Something that a nest computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// The elements of `from`, written wherever `to`, of the same shape, is wanted.
    Map {
        /// What is computed.
        from: V,
        /// Whose elements they are.
        to: V,
    },
    /// The elements of `from`, written as the present slice of `stack`.
    Stack {
        /// What is computed in one iteration.
        from: V,
        /// What it is a slice of.
        stack: V,
        /// The loop's body.
        body: R,
    },
    /// A reduction or contraction.
    Sum(N),
    /// What a chunked reduction starts from.
    Fill(N),
}

/// An open accumulation.
pub(super) struct Accumulator {
    node: N,
    pub(super) mem: Mem,
    /// Classes of the accumulator's unrolled axes.
    classes: Vec<Class>,
    has_lanes: bool,
}

/// The tile places that one pass of the loops computes together, as indices within the tile.
pub(super) type Tokens = Vec<Index>;

/// A part of the accumulators' axis, if there is one: the first element, and the one behind the last.
pub(super) type Block = Option<(Class, i64, i64)>;

/// Where an element of an array is.
pub(super) type Indices = Vec<Index>;

impl Lowering<'_> {
    /// Runs `emit` for every place of the tile, `n_tokens` at a time.
    pub fn for_tokens(&mut self, n_tokens: i64, emit: &mut dyn FnMut(&mut Self, &Tokens)) {
        let Some((class, base, count)) = self.tile_axis() else {
            emit(self, &vec![Index::default()]);
            return;
        };
        let name = "t";
        if n_tokens <= 1 {
            let token = self.emitter.open_for(name, 0.into(), Index::var(count), ForKind::Seq, None);
            emit(self, &vec![Index::var(token)]);
            self.close();
        } else {
            let step = self.emitter.index(Index::constant(n_tokens));
            let total = self.emitter.index(Index::var(count));
            let blocks = self.emitter.scalar(ScalarOp::Div, &[total, step]);
            let block = self.emitter.open_for("tb", 0.into(), Index::var(blocks), ForKind::Seq, None);
            let first = Index::var(block).scale(&Dim::constant(n_tokens));
            let tokens = (0..n_tokens)
                .map(|token| Index::var(self.emitter.place_name(first.add(&Index::constant(token)))))
                .collect();
            emit(self, &tokens);
            self.close();
            let done = Index::var(blocks).scale(&Dim::constant(n_tokens));
            let rest = self.emitter.open_for(name, done, Index::var(count), ForKind::Seq, None);
            emit(self, &vec![Index::var(rest)]);
            self.close();
        }
        self.at.insert(class, Index::var(base));
    }

    /// Runs `emit` for every place of the tile as the nest walks them: vectors of them, or `n_tokens` at a time.
    pub(super) fn for_places(
        &mut self,
        nest: &Nest,
        n_tokens: i64,
        emit: &mut dyn FnMut(&mut Self, &Tokens),
    ) {
        let (Lanes::Tile(width), Some((class, base, count))) = (nest.lanes, self.tile_axis()) else {
            return self.for_tokens(n_tokens, emit);
        };
        let kind = ForKind::Lanes { width };
        let place = self.emitter.open_for("t", 0.into(), Index::var(count), kind, None);
        emit(self, &vec![Index::var(place)]);
        self.close();
        self.at.insert(class, Index::var(base));
    }

    /// The batch class that is cut into tiles, its first place and its count.
    pub fn tile_axis(&self) -> Option<(Class, Var, Var)> {
        let class = self.tile_class?;
        let (_, base) = self.batch.iter().find(|(other, _)| *other == class)?;
        Some((class, *base, self.tile_count?))
    }

    /// Makes the place `token` of the tile the present one.
    pub fn set_token(&mut self, token: &Index) {
        if let Some((class, base, _)) = self.tile_axis() {
            self.at.insert(class, Index::var(base).add(token));
        }
    }

    /// Emits a nest that does `work`, in order: for each place of the tile, or walking the tile itself as one of its loops.
    pub fn nest(&mut self, nest: &Nest, work: &[Work]) {
        if let Some(size) = nest.chunk
            && self.tile_axis().is_some()
            && nest.n_outer == 0
            && work.iter().all(|item| matches!(item, Work::Sum(_)))
        {
            return self.chunked_nest(nest, work, size);
        }
        if let (Some(size), Some(_), true) = (nest.chunk, self.tile_axis(), nest.n_outer > 0) {
            let range = self.open_part(nest.loops[0], size);
            self.for_places(nest, nest.n_tokens, &mut |this, tokens| {
                this.each_block(nest, work, &mut |this, work, block| {
                    this.range = Some(range.clone());
                    this.nest_loops(nest, work, tokens, block, 0, &mut vec![]);
                });
            });
            return self.close();
        }
        let mut passes = |this: &mut Self, tokens: &Tokens| {
            this.each_block(nest, work, &mut |this, work, block| {
                this.nest_loops(nest, work, tokens, block, 0, &mut vec![]);
            });
        };
        match self.tile_axis().filter(|(class, ..)| nest.loops.contains(class)) {
            Some((class, base, _)) => {
                passes(self, &vec![Index::default()]);
                self.at.insert(class, Index::var(base));
            }
            None => self.for_places(nest, nest.n_tokens, &mut passes),
        }
    }

    /// Runs `emit` for each block of the accumulators' axis, with the work that has a part in it; or once.
    pub(super) fn each_block(
        &mut self,
        nest: &Nest,
        work: &[Work],
        emit: &mut dyn FnMut(&mut Self, &[Work], Block),
    ) {
        let Some((class, size)) = nest.block else { return emit(self, work, None) };
        let extent = self.walk.axes.extent(class).as_const().unwrap_or(0);
        let mut start = 0;
        while start < extent {
            let end = (start + size).min(extent);
            // What has no block axis is done with the first block.
            let has_class = |item: &&Work| self.classes_of(item).contains(&class);
            let selected: Vec<Work> =
                work.iter().filter(|item| start == 0 || has_class(item)).copied().collect();
            emit(self, &selected, Some((class, start, end)));
            start = end;
        }
    }

    /// Runs `emit` for each element of a sum with its index in tile memory and in the accumulators.
    pub(super) fn each_sum(
        &mut self,
        nest: &Nest,
        item: &Work,
        tokens: &Tokens,
        block: Block,
        emit: &mut dyn FnMut(&mut Self, Indices, Indices),
    ) {
        let has_lanes = self.block_lanes(nest, item).is_some();
        let classes = self.unrolled(nest, item);
        let ranges = self.ranges(&classes, block);
        let n_elems: i64 = ranges.iter().map(|(_, len)| len).product::<i64>().max(1);
        let start = block.map_or(0, |(_, start, _)| start);
        self.each_lane(nest, block, has_lanes, &mut |this, lane| {
            this.each_element(nest, item, tokens, block, &mut |this, number| {
                let token = tokens[(number / n_elems) as usize].clone();
                let mut kept = vec![token, Index::constant(number % n_elems)];
                if matches!(nest.lanes, Lanes::Tile(_)) {
                    kept = vec![this.axis_here(&classes), kept.swap_remove(0)];
                }
                kept.extend(lane.iter().map(|lane| lane.add(&Index::constant(start))));
                let mut index = vec![Index::constant(number)];
                index.extend(lane.clone());
                emit(this, kept, index);
            });
        });
    }

    /// The classes that a piece of work walks, the batch aside.
    fn classes_of(&self, work: &Work) -> Vec<Class> {
        let classes = match work {
            Work::Map { .. } | Work::Stack { .. } | Work::Fill(_) => {
                self.walk.axes.of_value(self.work_value(work))
            }
            Work::Sum(node) => self.walk.iterates(*node),
        };
        classes.into_iter().filter(|class| !self.batch.iter().any(|(batch, _)| batch == class)).collect()
    }

    /// The classes of a piece of work's results, the batch aside.
    fn result_classes(&self, work: &Work) -> Vec<Class> {
        let value = self.work_value(work);
        let classes = self.walk.axes.of_value(value);
        classes.into_iter().filter(|class| !self.batch.iter().any(|(batch, _)| batch == class)).collect()
    }

    /// The value whose elements are computed.
    pub fn work_value(&self, work: &Work) -> V {
        match work {
            Work::Map { to, .. } => *to,
            Work::Stack { from, .. } => *from,
            Work::Sum(node) | Work::Fill(node) => self.walk.graph.nodes[*node].results[0],
        }
    }

    /// The loops from `depth` on: for these places of the tile, and this block of the accumulators' axis.
    fn nest_loops(
        &mut self,
        nest: &Nest,
        work: &[Work],
        tokens: &Tokens,
        block: Block,
        depth: usize,
        open: &mut Vec<Accumulator>,
    ) {
        let Some(&class) = nest.loops.get(depth) else {
            return self.nest_body(nest, work, tokens, block, open);
        };
        // Sums whose first loop this is start here.
        let first_open = open.len();
        for item in work {
            if let Work::Sum(node) = item
                && self.first_sum_loop(nest, *node) == Some(depth)
            {
                let accumulator = self.declare_accumulator(nest, *node, tokens.len(), block);
                let mem = accumulator.mem;
                open.push(accumulator);
                self.each_sum(nest, item, tokens, block, &mut |this, _, index| {
                    let zero = this.identity(item);
                    this.emitter.store(mem, index, zero);
                });
            }
        }
        let extent = self.walk.axes.extent(class).clone();
        let width = match nest.lanes {
            Lanes::Loop(lane, width) if lane == class && extent.as_const() != Some(1) => Some(width),
            _ => None,
        };
        let name = format!("i{depth}");
        let (end, first, extent) = match self.tile_axis().filter(|(tile, ..)| *tile == class) {
            Some((_, base, count)) => (Index::var(count), Index::var(base), None),
            None => (Index::constant(extent.clone()), Index::default(), Some(extent)),
        };
        let (start, end) = match self.range.take() {
            Some(range) => range,
            None => (0.into(), end),
        };
        let before = self.at.remove(&class);
        for (start, end, kind) in self.segments(start, end, width) {
            let var = self.emitter.open_for(&name, start, end, kind, extent.clone());
            self.at.insert(class, first.add(&Index::var(var)));
            self.nest_loops(nest, work, tokens, block, depth + 1, open);
            self.close();
        }
        match before {
            Some(index) => self.at.insert(class, index),
            None => self.at.remove(&class),
        };
        for accumulator in open.split_off(first_open) {
            self.close_accumulator(nest, &accumulator, tokens, block);
        }
    }

    fn first_sum_loop(&self, nest: &Nest, node: N) -> Option<usize> {
        let summed = self.walk.axes.of_sums(node);
        nest.loops.iter().position(|class| summed.contains(class))
    }

    /// Classes of a result that are unrolled here: not loops, not the lanes of a block.
    pub(super) fn unrolled(&self, nest: &Nest, work: &Work) -> Vec<Class> {
        let mut classes = vec![];
        for class in self.result_classes(work) {
            let in_lanes =
                matches!(nest.lanes, Lanes::Block(_)) && nest.block.is_some_and(|(block, _)| block == class);
            if !nest.loops.contains(&class) && !in_lanes && !classes.contains(&class) {
                classes.push(class);
            }
        }
        classes
    }

    /// The ranges of unrolled classes: all of them, or the block's part.
    pub(super) fn ranges(&self, classes: &[Class], block: Block) -> Vec<(i64, i64)> {
        let range = |class: &Class| match block {
            Some((blocked, start, end)) if blocked == *class => (start, end - start),
            _ => (0, self.walk.axes.extent(*class).as_const().unwrap_or(0)),
        };
        classes.iter().map(range).collect()
    }

    pub(super) fn block_lanes(&self, nest: &Nest, work: &Work) -> Option<u32> {
        match (nest.lanes, nest.block) {
            (Lanes::Block(width), Some((class, _))) if self.result_classes(work).contains(&class) => {
                Some(width)
            }
            _ => None,
        }
    }

    pub(super) fn declare_accumulator(
        &mut self,
        nest: &Nest,
        node: N,
        n_tokens: usize,
        block: Block,
    ) -> Accumulator {
        let work = Work::Sum(node);
        let classes = self.unrolled(nest, &work);
        let ranges = self.ranges(&classes, block);
        let n_elems = n_tokens as i64 * ranges.iter().map(|(_, len)| len).product::<i64>();
        let value = self.work_value(&work);
        let dtype = self.walk.graph.values[value].ty.dtype.compute();
        let lanes = self.block_lanes(nest, &work);
        let mut shape = vec![Dim::constant(n_elems)];
        if let (Some(width), Some((_, start, end))) = (lanes, block) {
            let width = i64::from(width);
            shape.push(Dim::constant((end - start + width - 1) / width * width));
        }
        let local = Local {
            name: format!("acc{}", self.emitter.func.locals.len()).into(),
            dtype,
            shape,
            space: Space::Reg,
            lane_axis: lanes.map(|width| (1, width)),
        };
        let mem = self.emitter.local(local);
        Accumulator { node, mem, classes, has_lanes: lanes.is_some() }
    }

    /// What the sum `item` starts from.
    pub(super) fn identity(&mut self, item: &Work) -> Var {
        let (Work::Sum(node) | Work::Fill(node)) = item else { return self.emitter.index(0.into()) };
        let gnode = &self.walk.graph.nodes[*node];
        let dtype = self.walk.graph.values[gnode.results[0]].ty.dtype.compute();
        self.emitter.constant(dtype, accum_op(gnode.op.kind).identity(dtype))
    }

    /// Runs `emit` inside a loop over the block's lanes, with the lane's place in the block; or once.
    fn each_lane(
        &mut self,
        nest: &Nest,
        block: Block,
        has_lanes: bool,
        emit: &mut dyn FnMut(&mut Self, Option<Index>),
    ) {
        let (Lanes::Block(width), Some((class, start, end)), true) = (nest.lanes, block, has_lanes) else {
            return emit(self, None);
        };
        let kind = ForKind::Lanes { width };
        let extent = Some(Dim::constant(end - start));
        let lane = self.emitter.open_for("o", 0.into(), Index::constant(end - start), kind, extent);
        let before = self.at.insert(class, Index::var(lane).add(&Index::constant(start)));
        emit(self, Some(Index::var(lane)));
        self.close();
        match before {
            Some(index) => self.at.insert(class, index),
            None => self.at.remove(&class),
        };
    }

    /// What happens at the innermost place: terms are accumulated, maps are written.
    pub(super) fn nest_body(
        &mut self,
        nest: &Nest,
        work: &[Work],
        tokens: &Tokens,
        block: Block,
        open: &[Accumulator],
    ) {
        let plain: Vec<Work> =
            work.iter().filter(|item| self.block_lanes(nest, item).is_none()).copied().collect();
        let laned: Vec<Work> =
            work.iter().filter(|item| self.block_lanes(nest, item).is_some()).copied().collect();
        let rolled = self.rolled(nest, &plain, tokens, block);
        if rolled.is_empty() {
            for item in &plain {
                self.body_work(nest, item, tokens, block, open, Terms::All);
            }
        } else {
            self.accumulate_rolled(nest, &plain, &rolled, tokens, block, open);
        }
        // Short sums go around the lanes: what one term shares between lanes is used up before the next term.
        let mut groups: Vec<(Vec<Class>, Vec<Work>)> = vec![];
        for item in laned {
            let short = self.short_sums(nest, &item);
            match groups.last_mut() {
                Some((same, group)) if *same == short => group.push(item),
                _ => groups.push((short, vec![item])),
            }
        }
        for (short, group) in groups {
            self.each_place(&short, &mut |this| {
                this.each_lane(nest, block, true, &mut |this, lane| {
                    for item in &group {
                        this.body_work(nest, item, tokens, block, open, Terms::Present(lane.clone()));
                    }
                });
            });
        }
    }

    /// Runs `emit` with the present indices set to every place of `classes`.
    fn each_place(&mut self, classes: &[Class], emit: &mut dyn FnMut(&mut Self)) {
        let lengths: Vec<i64> =
            classes.iter().map(|class| self.walk.axes.extent(*class).as_const().unwrap_or(0)).collect();
        for place in places(&lengths) {
            for (class, idx) in classes.iter().zip(place) {
                self.at.insert(*class, Index::constant(idx));
            }
            emit(self);
        }
        for class in classes {
            self.at.remove(class);
        }
    }

    pub(super) fn body_work(
        &mut self,
        nest: &Nest,
        item: &Work,
        tokens: &Tokens,
        block: Block,
        open: &[Accumulator],
        terms: Terms,
    ) {
        let accumulator = match item {
            Work::Sum(node) => open.iter().find(|accumulator| accumulator.node == *node),
            Work::Map { .. } | Work::Stack { .. } | Work::Fill(_) => None,
        };
        match accumulator {
            Some(accumulator) => self.accumulate(nest, accumulator, tokens, block, terms),
            None => self.each_element(nest, item, tokens, block, &mut |this, _| this.map_element(item)),
        }
    }

    /// Computes the present element of a map and writes it.
    fn map_element(&mut self, item: &Work) {
        let value = self.work_value(item);
        let coords = self.coords_here(value);
        match item {
            Work::Map { from, to } => {
                let var = self.value(*from, &coords);
                self.store_all(*to, &coords, var);
            }
            Work::Stack { from, stack, body } => {
                let var = self.value(*from, &coords);
                let mut full = vec![self.slice_index(*body)];
                full.extend(coords);
                self.store_all(*stack, &full, var);
            }
            Work::Fill(node) => {
                let gnode = &self.walk.graph.nodes[*node];
                let dtype = self.walk.graph.values[value].ty.dtype.compute();
                let var = self.emitter.constant(dtype, accum_op(gnode.op.kind).identity(dtype));
                self.store_all(value, &coords, var);
            }
            Work::Sum(_) => {}
        }
    }

    /// Runs `emit` with the present indices set to each unrolled element of each token, and the element's number.
    fn each_element(
        &mut self,
        nest: &Nest,
        item: &Work,
        tokens: &Tokens,
        block: Block,
        emit: &mut dyn FnMut(&mut Self, i64),
    ) {
        let classes = self.unrolled(nest, item);
        let ranges = self.ranges(&classes, block);
        let lengths: Vec<i64> = ranges.iter().map(|(_, len)| *len).collect();
        let mut number = 0;
        let walks_tile = self.tile_class.is_some_and(|class| nest.loops.contains(&class));
        for token in tokens {
            if !walks_tile {
                self.set_token(token);
            }
            for place in places(&lengths) {
                for ((class, offset), (start, _)) in classes.iter().zip(place).zip(&ranges) {
                    self.at.insert(*class, Index::constant(start + offset));
                }
                emit(self, number);
                number += 1;
            }
        }
        for class in &classes {
            self.at.remove(class);
        }
    }

    fn accumulate(
        &mut self,
        nest: &Nest,
        accumulator: &Accumulator,
        tokens: &Tokens,
        block: Block,
        terms: Terms,
    ) {
        let node = accumulator.node;
        let kind = self.walk.graph.nodes[node].op.kind;
        let result = self.walk.graph.nodes[node].results[0];
        let dtype = self.walk.graph.values[result].ty.dtype.compute();
        let leaves = self.walk.axes.summed_leaves(node);
        let (short, lane) = match terms {
            Terms::All => (self.short_sums(nest, &Work::Sum(node)), None),
            Terms::Present(lane) => (vec![], lane),
        };
        self.each_element(nest, &Work::Sum(node), tokens, block, &mut |this, number| {
            this.each_place(&short, &mut |this| {
                let coords = this.coords_here(result);
                let sums: Vec<Index> = leaves.iter().map(|leaves| this.axis_here(leaves)).collect();
                let (factors, _) = this.terms(node, kind, dtype, &coords, &sums);
                let op =
                    if factors.len() == 2 && dtype.is_float() { AccumOp::MulAdd } else { accum_op(kind) };
                let factors = if factors.len() == 2 && op != AccumOp::MulAdd {
                    vec![this.emitter.scalar(ScalarOp::Mul, &factors)]
                } else {
                    factors
                };
                let mut index = vec![Index::constant(number)];
                index.extend(lane.clone());
                this.emitter.accum(op, accumulator.mem, index, &factors);
            });
        });
    }

    /// Writes what was accumulated wherever it is wanted.
    fn close_accumulator(&mut self, nest: &Nest, accumulator: &Accumulator, tokens: &Tokens, block: Block) {
        let work = Work::Sum(accumulator.node);
        debug_assert_eq!(accumulator.classes, self.unrolled(nest, &work));
        self.each_lane(nest, block, accumulator.has_lanes, &mut |this, lane| {
            this.each_element(nest, &work, tokens, block, &mut |this, number| {
                let mut index = vec![Index::constant(number)];
                index.extend(lane.clone());
                let var = this.emitter.load_now(accumulator.mem, index);
                this.finish_sum(accumulator.node, var);
            });
        });
    }

    /// Writes the present element of a sum, which is `var`, wherever it is wanted.
    pub(super) fn finish_sum(&mut self, node: N, var: Var) {
        let value = self.walk.graph.nodes[node].results[0];
        let dtype = self.walk.graph.values[value].ty.dtype;
        let mut var = self.emitter.round(dtype, var);
        let coords = self.coords_here(value);
        if let Some(before) = self.chunk_so_far(node, &coords) {
            let op = accum_op(self.walk.graph.nodes[node].op.kind).combine();
            var = self.emitter.scalar(op, &[before, var]);
        }
        self.remember(value, &coords, var);
        self.store_all(value, &coords, var);
    }

    /// Of a chunked sum: the element of the chunk's result after the tiles before this one.
    fn chunk_so_far(&mut self, node: N, coords: &[Index]) -> Option<Var> {
        let gnode = &self.walk.graph.nodes[node];
        let value = gnode.chunked.then(|| gnode.results[0])?;
        let place = self.writable.get(&value)?.first()?.clone();
        let (mem, index) = self.place_index(&place, value, coords);
        Some(self.emitter.load_now(mem, index))
    }
}
