//! Nests whose long loop is cut into parts, each of which is done for all places of the tile.
//!
//! In: a nest of sums and the size of a part. Out: loops over parts, places, blocks and terms; between parts the sums so far
//! are in tile memory. And the parts of a loop over lanes: full chunks, and what is left of a row.

use super::nest::Work;
use super::value::Lowering;
use crate::schedule::LaneKind;
use crate::schedule::axes::Class;
use crate::schedule::stages::{Lanes, Nest};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::kernel::{ForKind, Index, Local, Mem, Space};
use birkhoff_ir::scalar::ScalarOp;

impl Lowering<'_> {
    /// Emits a nest of sums over one long loop, the last, `size` terms of it at a time for all places of the tile.
    pub(super) fn chunked_nest(&mut self, nest: &Nest, work: &[Work], size: i64) {
        let Some((&class, around)) = nest.loops.split_last() else { return };
        let sums: Vec<(Work, Mem)> = work.iter().map(|item| (*item, self.sums_so_far(nest, item))).collect();
        let mem_of = |work: &Work| sums.iter().find(|(item, _)| item == work).map(|(_, mem)| *mem);
        self.for_places(nest, 1, &mut |this, tokens| {
            this.each_block(nest, work, &mut |this, work, block| {
                for item in work {
                    let Some(mem) = mem_of(item) else { continue };
                    this.each_sum(nest, item, tokens, block, &mut |this, index, _| {
                        let zero = this.identity(item);
                        this.emitter.store(mem, index, zero);
                    });
                }
            });
        });
        let extent = self.walk.axes.extent(class).clone();
        let (start, end) = self.open_part(class, size);
        self.for_places(nest, nest.n_tokens, &mut |this, tokens| {
            this.each_block(nest, work, &mut |this, work, block| {
                let mut open = vec![];
                for item in work {
                    let (Work::Sum(node), Some(mem)) = (item, mem_of(item)) else { continue };
                    open.push(this.declare_accumulator(nest, *node, tokens.len(), block));
                    let accumulator = open[open.len() - 1].mem;
                    this.each_sum(nest, item, tokens, block, &mut |this, from, to| {
                        let var = this.emitter.load_now(mem, from);
                        this.emitter.store(accumulator, to, var);
                    });
                }
                for short in around {
                    let extent = this.walk.axes.extent(*short).clone();
                    let end = Index::constant(extent.clone());
                    let var = this.emitter.open_for("s", 0.into(), end, ForKind::Seq, Some(extent));
                    this.at.insert(*short, Index::var(var));
                }
                let extent = Some(extent.clone());
                let var = this.emitter.open_for("i0", start.clone(), end.clone(), ForKind::Seq, extent);
                this.at.insert(class, Index::var(var));
                this.nest_body(nest, work, tokens, block, &open);
                for class in nest.loops.iter().rev() {
                    this.at.remove(class);
                    this.close();
                }
                for (item, accumulator) in work.iter().zip(&open) {
                    let Some(mem) = mem_of(item) else { continue };
                    this.each_sum(nest, item, tokens, block, &mut |this, to, from| {
                        let var = this.emitter.load_now(accumulator.mem, from);
                        this.emitter.store(mem, to, var);
                    });
                }
            });
        });
        self.close();
        self.for_places(nest, 1, &mut |this, tokens| {
            this.each_block(nest, work, &mut |this, work, block| {
                for item in work {
                    let (Work::Sum(node), Some(mem)) = (item, mem_of(item)) else { continue };
                    this.each_sum(nest, item, tokens, block, &mut |this, index, _| {
                        let var = this.emitter.load_now(mem, index);
                        this.finish_sum(*node, var);
                    });
                }
            });
        });
    }

    /// Opens a loop over the parts of `class` of `size`; returns the range of the present one.
    pub(super) fn open_part(&mut self, class: Class, size: i64) -> (Index, Index) {
        let extent = self.walk.axes.extent(class).clone();
        let n_chunks = match extent.as_const() {
            Some(extent) => Index::constant((extent + size - 1) / size),
            None => {
                let reach = self.emitter.index(Index::constant(extent.add(&Dim::constant(size - 1))));
                let by = self.emitter.index(Index::constant(size));
                Index::var(self.emitter.scalar(ScalarOp::Div, &[reach, by]))
            }
        };
        let chunk = self.emitter.open_for("part", 0.into(), n_chunks, ForKind::Seq, None);
        let start = Index::var(chunk).scale(&Dim::constant(size));
        let mut end = start.add(&Index::constant(size));
        if extent.as_const().is_none_or(|extent| extent % size != 0) {
            let reach = self.emitter.index(end);
            let last = self.emitter.index(Index::constant(extent.clone()));
            end = Index::var(self.emitter.scalar(ScalarOp::Min, &[reach, last]));
        }
        (start, end)
    }

    /// The loops that one over a range is: lanes whose last chunk is not full leave a rest, of which a loop of narrower lanes does
    /// most.
    pub(super) fn segments(
        &self,
        start: Index,
        end: Index,
        width: Option<u32>,
    ) -> Vec<(Index, Index, ForKind)> {
        const LEAST: i64 = 4;
        let Some(width) = width else { return vec![(start, end, ForKind::Seq)] };
        let kind = ForKind::Lanes { width };
        let constant = |index: &Index| index.offset.as_const().filter(|_| index.terms.is_empty());
        let rest = match (constant(&start), constant(&end)) {
            (Some(first), Some(last)) if self.lanes == LaneKind::Vector => (last - first) % i64::from(width),
            _ => 0,
        };
        if rest < LEAST {
            return vec![(start, end, kind)];
        }
        let middle = end.add(&Index::constant(-rest));
        let narrower = ForKind::Lanes { width: 1 << rest.ilog2() };
        let is_empty = middle == start;
        let rest = (middle.clone(), end, narrower);
        if is_empty { vec![rest] } else { vec![(start, middle, kind), rest] }
    }

    /// Tile memory for the sums of `item` so far: places of the tile, unrolled elements, elements of the block axis; where
    /// lanes are places, those come last.
    fn sums_so_far(&mut self, nest: &Nest, item: &Work) -> Mem {
        let value = self.work_value(item);
        let dtype = self.walk.graph.values[value].ty.dtype.compute();
        let ranges = self.ranges(&self.unrolled(nest, item), None);
        let n_elems: i64 = ranges.iter().map(|(_, len)| len).product();
        let mut shape = vec![Dim::constant(self.tile), Dim::constant(n_elems)];
        if matches!(nest.lanes, Lanes::Tile(_)) {
            // Vectors of places.
            shape.reverse();
        }
        if let (Some(_), Some((class, _))) = (self.block_lanes(nest, item), nest.block) {
            shape.push(self.walk.axes.extent(class).clone());
        }
        let name = format!("sum{}", self.emitter.func.locals.len()).into();
        self.emitter.local(Local { name, dtype, shape, space: Space::Tile, lane_axis: None })
    }
}
