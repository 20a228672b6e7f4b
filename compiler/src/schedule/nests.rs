//! How a sum or a map of large axes runs: its loops, what its lanes are, blocks of accumulators, parts of its first loop.
//!
//! In: a node of a kernel, and the machine. Out: a [`Nest`]. Decides by how the node reads memory along each axis; what nests are
//! put together is the affair of [`super::stages`].

use super::LaneKind;
use super::axes::Class;
use super::chunks::cut;
use super::graph::{N, Source};
use super::stages::{Lanes, Nest, Stager};
use birkhoff_ir::kernel::{Index, Var};
use std::collections::BTreeSet;

/// An accumulator axis of at most this extent may be kept in registers, in blocks.
const MAX_MEDIUM: i64 = 256;
/// Blocks of such an axis, each with code of its own.
const MAX_PASSES: i64 = 8;
/// The same for threads, whose passes are larger.
const MAX_PASSES_OF_THREADS: i64 = 2;
/// Elements of 4 bytes in half of the nearest cache of a core.
const NEAR_ELEMS: i64 = 6 * 1024;
/// Rows that stay there together wherever they are: about as many as places with the same low address.
const NEAR_ROWS: i64 = 8;
/// Iterations of a loop between visits to the next places of the tile.
const MAX_CHUNK: i64 = 256;
/// The same where vectors are places of the tile: a few dozen rows stay in the second cache, wherever they are.
const TILE_CHUNK: i64 = 16;
/// A chunked sum keeps at most this many accumulators in registers at once.
const MAX_CHUNK_UNROLL: i64 = 32;

impl Stager<'_> {
    /// The loops of a nest that computes `node` alone.
    pub(super) fn nest(&self, node: N) -> Nest {
        let nest = self.nest_with(node, MAX_MEDIUM);
        let n_passes =
            nest.block.map_or(1, |(class, size)| (self.extent(class).unwrap_or(1) + size - 1) / size);
        // Every pass is code of its own: rather a loop than many.
        let most = if self.target.lanes == LaneKind::Threads { MAX_PASSES_OF_THREADS } else { MAX_PASSES };
        if n_passes > most { self.nest_with(node, 0) } else { nest }
    }

    /// The loops of a nest, where an accumulator axis of at most `max_medium` elements may be kept in registers.
    fn nest_with(&self, node: N, max_medium: i64) -> Nest {
        let graph = self.walk.graph;
        let mut outer: Vec<Class> = vec![];
        for class in graph.nodes[node].results.iter().flat_map(|result| self.walk.axes.of_value(*result)) {
            if !self.batch.contains(&class) && !outer.contains(&class) {
                outer.push(class);
            }
        }
        let summed = self.walk.axes.of_sums(node);
        let large = |classes: &[Class]| -> Vec<Class> {
            classes.iter().copied().filter(|class| !self.is_small_class(*class)).collect()
        };
        let (mut large_outer, mut large_summed) = (large(&outer), large(&summed));
        let cut = cut(self.walk, node).map(|(_, class)| class);
        let n_outer: i64 =
            outer.iter().map(|class| self.extent(*class).unwrap_or(i64::MAX)).fold(1, i64::saturating_mul);
        let reads = self.memory_reads(node, cut);
        let cost = |class: Class| reads.iter().map(|read| stride_cost(read, class)).sum::<i64>();
        // A few accumulators side by side, of vectors along what is summed; but not across the rows of what is read.
        let is_across =
            |cut: Class| outer.last().is_some_and(|row| reads.len() > 1 && cost(cut) > cost(*row));
        if cut.is_some_and(|cut| !is_across(cut)) && n_outer <= MAX_CHUNK_UNROLL {
            large_outer.clear();
        }
        if large_outer.is_empty() && large_summed.is_empty() {
            // Many small axes: the widest becomes the loop.
            let widest = |classes: &[Class]| classes.iter().copied().max_by_key(|class| self.extent(*class));
            large_summed.extend(widest(&summed));
            if large_summed.is_empty() {
                large_outer.extend(widest(&outer));
            }
        }
        let width = self.lane_width(node, !large_summed.is_empty());
        // An accumulator axis kept in registers: the innermost result axis of moderate extent, where sums are long.
        let medium = match large_outer.last() {
            Some(class)
                if !large_summed.is_empty() && self.extent(*class).is_some_and(|n| n <= max_medium) =>
            {
                Some(*class)
            }
            _ => None,
        };
        if let Some(class) = medium {
            large_outer.retain(|other| *other != class);
        }
        let loops: Vec<Class> = large_outer.iter().chain(&large_summed).copied().collect();
        let mut choices: Vec<(i64, usize, Lanes)> = vec![];
        for (order, class) in loops.iter().enumerate() {
            // Vectors along a result axis need no reduction at the end; along the innermost loop they need no jumps.
            let summed = order >= large_outer.len();
            let lanes = Lanes::Loop(*class, self.fitting_width(*class, width, summed));
            choices.push((2 * cost(*class) + i64::from(summed), order, lanes));
        }
        if let Some(class) = medium
            && self.block_fits(class)
        {
            let block =
                Lanes::Block(self.block_width(class, width, n_outer / self.extent(class).unwrap_or(1)));
            choices.push((2 * cost(class), loops.len(), block));
        }
        let lanes = choices
            .into_iter()
            .min_by_key(|(cost, order, _)| (*cost, *order))
            .map_or(Lanes::None, |best| best.2);
        let shares =
            cut.is_none() && reads.iter().any(|read| !self.batch.iter().any(|class| read.uses(*class)));
        let small_outer: i64 = outer
            .iter()
            .filter(|class| {
                self.is_small_class(**class) || (!loops.contains(class) && Some(**class) != medium)
            })
            .filter_map(|class| self.extent(*class))
            .product();
        let lanes = match lanes {
            _ if cut.is_none()
                && (large_outer.is_empty() || large_summed.is_empty())
                && self.tile_is_better(lanes, &loops, &reads, large_summed.is_empty()) =>
            {
                let vectors = medium.map_or(small_outer, |_| self.target.n_accumulators);
                let n_vectors = (self.target.n_accumulators / vectors.max(1)).clamp(1, 4) as u32;
                // Widths are powers of two.
                Lanes::Tile(width << n_vectors.ilog2())
            }
            Lanes::Loop(class, width)
                if self.target.lanes == LaneKind::Vector
                    && large_summed.contains(&class)
                    && medium.is_none() =>
            {
                // No more lanes than there are elements: the rest of a row is done one by one.
                let fits = |factor: &u32| {
                    self.extent(class).is_none_or(|extent| i64::from(width * factor) <= extent)
                };
                // Nor longer ones where the rest takes longer than they save.
                let n_steps = |factor: &u32| {
                    let (extent, lanes) = (self.extent(class).unwrap_or(0), i64::from(width * factor));
                    extent / lanes * i64::from(*factor) + extent % lanes
                };
                let factors = [4, 2, 1].into_iter().filter(|factor| *factor <= independent_sums(small_outer));
                let factor = factors.filter(fits).min_by_key(n_steps);
                Lanes::Loop(class, width * factor.unwrap_or(1))
            }
            other => other,
        };
        // Where a few vectors are a whole row, other rows hide its latency.
        let is_short = match lanes {
            Lanes::Loop(class, width) if self.target.lanes == LaneKind::Vector && medium.is_none() => {
                self.extent(class).is_some_and(|extent| extent <= 2 * i64::from(width))
            }
            _ => false,
        };
        let shares_code = (shares || (is_short && cut.is_none())) && !large_summed.is_empty();
        let (block, n_tokens) = self.blocking(medium, lanes, shares_code, small_outer, width);
        let chunk = match (lanes, loops.as_slice(), large_summed.as_slice()) {
            // Threads of a block share a cache in any case.
            _ if self.target.lanes == LaneKind::Threads => None,
            (Lanes::Block(_), [class], [_]) if shares && cut.is_none() => self.shared_chunk(*class, &reads),
            // Blocks of the accumulators' axis, and neighbouring places, read the same rows again.
            (Lanes::Tile(_), [class], [_]) if block.is_some() => {
                self.extent(*class).is_none_or(|extent| extent >= 2 * TILE_CHUNK).then_some(TILE_CHUNK)
            }
            (Lanes::Loop(lane, _), [class, _], [_]) if shares && lane == *class => {
                self.shared_chunk(*class, &reads).filter(|chunk| *chunk >= 2 * i64::from(width))
            }
            _ => None,
        };
        let mut loops = loops;
        if let (Lanes::Block(_), [class]) = (lanes, large_summed.as_slice()) {
            let short: Vec<Class> = summed.iter().copied().filter(|other| other != class).collect();
            let around = self.short_loops(*class, n_tokens, &short, &reads);
            loops.splice(large_outer.len()..large_outer.len(), around);
        }
        Nest { n_outer: large_outer.len(), loops, lanes, block, n_tokens, chunk }
    }

    /// True if vectors of places of the tile use memory better than `lanes`, the best along the loops of a sum or a map: what
    /// is read for each place has its neighbours along the tile, in some operand at least.
    fn tile_is_better(&self, lanes: Lanes, loops: &[Class], reads: &[Read], is_map: bool) -> bool {
        let (Some(tile), LaneKind::Vector) = (self.batch.last(), self.target.lanes) else { return false };
        // The first is the result, which a sum writes once for many terms.
        let operands = reads.get(usize::from(!is_map)..).unwrap_or_default();
        let is_row = |read: &Read| read.uses(*tile) && read.coords.len() > 1;
        let along_tile = operands.iter().all(|read| stride_cost(read, *tile) == 0);
        let jumps = match lanes {
            Lanes::Loop(class, _) => operands.iter().any(|read| stride_cost(read, class) > 0),
            // Rows would be read element by element.
            _ => true,
        };
        !loops.contains(tile) && along_tile && jumps && operands.iter().any(is_row)
    }

    /// At most `width` lanes along `class`. What remains of a reduction over threads is done one after the other, and never are there
    /// more lanes than elements: as many as take the fewest steps. Of a few vectors, too, narrower ones may leave less of a rest.
    fn fitting_width(&self, class: Class, width: u32, is_summed: bool) -> u32 {
        const WARP: i64 = 32;
        const LEAST: u32 = 8;
        const FEW: i64 = 4;
        let Some(extent) = self.extent(class) else { return width };
        if self.target.lanes == LaneKind::Vector {
            let narrower = std::iter::successors(Some(width), |lanes| Some(lanes / 2));
            let narrower = narrower.take_while(|lanes| *lanes == width || *lanes >= LEAST);
            let few = extent < FEW * i64::from(width);
            let best = narrower.filter(|_| few).min_by_key(|lanes| extent % i64::from(*lanes));
            return best.unwrap_or(width);
        }
        let powers =
            || std::iter::successors(Some(i64::from(width)), |lanes| Some(lanes / 2)).take_while(|n| *n > 1);
        if is_summed {
            let steps = |lanes: &i64| extent / lanes + extent % lanes;
            let best = powers().filter(|lanes| *lanes <= extent).min_by_key(steps);
            return best.map_or(2, |lanes| lanes as u32);
        }
        let whole = powers().find(|lanes| extent % lanes == 0).filter(|lanes| *lanes >= WARP);
        let fitting = whole.or_else(|| powers().find(|lanes| *lanes <= extent));
        fitting.map_or(2, |lanes| lanes as u32)
    }

    /// Lanes of a block along `class`: `native`, or a part of it that leaves no rest, which would be done one by one; all of a few
    /// vectors, for each of `n_sums` sums, where vectors may have any length.
    fn block_width(&self, class: Class, native: u32, n_sums: i64) -> u32 {
        const LEAST: u32 = 4;
        let extent = self.extent(class).unwrap_or(0);
        // A longer vector takes registers for the next power of two.
        let whole = u32::try_from(extent).unwrap_or(0).next_power_of_two().max(native);
        let n_registers = i64::from(whole / native);
        if self.target.any_length
            && extent > 1
            && n_registers == (extent + i64::from(native) - 1) / i64::from(native)
            && 2 * n_registers * n_sums.max(1) <= self.target.n_accumulators
        {
            return extent as u32;
        }
        let leaves_rest = |width: &u32| *width > LEAST && extent % i64::from(*width) != 0;
        std::iter::successors(Some(native), |width| Some(width / 2))
            .find(|width| !leaves_rest(width))
            .unwrap_or(native)
    }

    /// True if the elements along `class` can be the lanes: threads have no use for a part of a block.
    fn block_fits(&self, class: Class) -> bool {
        match self.target.lanes {
            LaneKind::Vector => true,
            LaneKind::Threads => {
                self.extent(class).is_some_and(|extent| extent % i64::from(self.target.native_lanes) == 0)
            }
        }
    }

    /// How much of the loop over `class` to do at a time, so that what the places of a tile share fits the nearest cache. Rows of which each place has
    /// one element are far apart, so that only a few of them stay there.
    fn shared_chunk(&self, class: Class, reads: &[Read]) -> Option<i64> {
        let tile = *self.batch.last()?;
        let mut chunk = MAX_CHUNK;
        // The first is the result.
        for read in reads.iter().skip(1).filter(|read| read.uses(class)) {
            if read.uses(tile) && stride_cost(read, tile) == 0 && stride_cost(read, class) > 0 {
                chunk = chunk.min(NEAR_ROWS);
            } else if !self.batch.iter().any(|batch| read.uses(*batch)) {
                let others = read.coords.iter().flat_map(|index| &index.terms).map(|(var, _)| var.0 as Class);
                let others: BTreeSet<Class> = others.filter(|other| *other != class).collect();
                let elems: i64 = others.into_iter().filter_map(|other| self.extent(other)).product();
                chunk = chunk.min(NEAR_ELEMS / elems.max(1));
            }
        }
        while chunk & (chunk - 1) != 0 {
            chunk &= chunk - 1;
        }
        (chunk >= 4 && self.extent(class).is_none_or(|extent| extent >= 2 * chunk)).then_some(chunk)
    }

    /// Register blocking: as many accumulators as the machine has registers for. They hide the latency of multiply-adds, and the
    /// more of them there are, the fewer loads they take.
    fn blocking(
        &self,
        medium: Option<Class>,
        lanes: Lanes,
        shares: bool,
        small_outer: i64,
        native: u32,
    ) -> (Option<(Class, i64)>, i64) {
        let n_accumulators = self.target.n_accumulators;
        let native = i64::from(native);
        // Tiles are powers of two, of which places come in groups without a rest.
        let tokens = |vectors: i64, most: i64| {
            if shares { power_of_two((n_accumulators / vectors.max(1)).clamp(1, most)) } else { 1 }
        };
        let Some(class) = medium else {
            if matches!(lanes, Lanes::Tile(_)) {
                return (None, 1);
            }
            let width = if let Lanes::Loop(_, width) = lanes { i64::from(width) } else { 1 };
            return (None, tokens(small_outer * (width / native).max(1), 4));
        };
        let extent = self.extent(class).unwrap_or(1);
        match lanes {
            // One vector of places for each element of the block.
            Lanes::Tile(_) => (Some((class, (n_accumulators / small_outer.max(1)).clamp(1, extent))), 1),
            Lanes::Block(width) if self.target.lanes == LaneKind::Vector => {
                // Every pass reads the other operand again: as few as leave room for two places, of about the same size.
                let width = i64::from(width);
                let per_lanes = (width + native - 1) / native;
                let n_vectors = (extent + width - 1) / width;
                let most = n_accumulators / (if shares { 2 } else { 1 } * per_lanes * small_outer.max(1));
                let n_passes = (n_vectors + most.max(1) - 1) / most.max(1);
                let per_pass = (n_vectors + n_passes - 1) / n_passes;
                // Of every place, an operand is at hand besides its sums.
                let held = per_pass * per_lanes * small_outer + i64::from(per_pass > 1);
                (Some((class, extent.min(per_pass * width))), tokens(held, NEAR_ROWS))
            }
            Lanes::Block(width) => {
                let width = i64::from(width);
                let block = extent.min(8 * width);
                (Some((class, block)), tokens((block + width - 1) / width * small_outer, 4))
            }
            _ => {
                let width = if let Lanes::Loop(_, width) = lanes { i64::from(width) / native } else { 1 };
                let n_tokens = if shares { 2 } else { 1 };
                let block = (n_accumulators / (n_tokens * width.max(1) * small_outer)).clamp(1, extent);
                (Some((class, block)), n_tokens)
            }
        }
    }

    /// Short axes of a sum that are loops around its long one, `class`: written out, they would make `n_tokens` places read so many rows
    /// at once that these push each other out of the nearest cache.
    fn short_loops(&self, class: Class, n_tokens: i64, short: &[Class], reads: &[Read]) -> Vec<Class> {
        let Some(tile) = self.batch.last() else { return vec![] };
        let is_row = |read: &&Read| read.uses(*tile) && read.uses(class) && stride_cost(read, class) == 0;
        // The first is the result.
        let rows: Vec<&Read> = reads.iter().skip(1).filter(is_row).collect();
        let own = |read: &Read| -> i64 {
            short.iter().filter(|other| read.uses(**other)).filter_map(|other| self.extent(*other)).product()
        };
        let n_rows: i64 = rows.iter().map(|read| n_tokens * own(read)).sum();
        let is_own = |other: &Class| rows.iter().any(|read| read.uses(*other));
        if n_rows > NEAR_ROWS && self.target.lanes == LaneKind::Vector {
            short.iter().copied().filter(is_own).collect()
        } else {
            vec![]
        }
    }

    /// Elements per lane chunk: two native vectors of the widest type involved hide latency, where there are not several
    /// accumulators that do.
    fn lane_width(&self, node: N, has_accumulators: bool) -> u32 {
        let graph = self.walk.graph;
        let bytes =
            graph.nodes[node].results.iter().map(|v| graph.values[*v].ty.dtype.compute().size_bytes()).max();
        let native = self.target.lanes_of(bytes.unwrap_or(4));
        let is_vector = self.target.lanes == LaneKind::Vector;
        if has_accumulators || !is_vector { native } else { 2 * native }
    }

    /// How `node` reads memory, through inlined nodes, in terms of classes. What token work leaves in tile memory has
    /// neighbours along `cut`, if that is the axis of the tile.
    fn memory_reads(&self, node: N, cut: Option<Class>) -> Vec<Read> {
        let graph = self.walk.graph;
        let mut reads = vec![];
        let mut open: Vec<(N, Vec<Index>)> = vec![];
        if let Some(result) = graph.nodes[node].results.first() {
            let own = self.walk.own_coords(*result);
            reads.push(Read { index: own.last().cloned(), coords: own.clone() });
            open.push((node, own));
        }
        let mut n_steps = 0;
        while let Some((reader, coords)) = open.pop() {
            n_steps += 1;
            if n_steps > 256 {
                break;
            }
            for (pos, arg) in graph.nodes[reader].args.iter().enumerate() {
                let read = self.walk.read_coords(reader, pos, &coords);
                let coords: Vec<Index> = read.into_iter().map(Option::unwrap_or_default).collect();
                match graph.values[*arg].source {
                    Source::Node(def, _) if !self.is_anchor[def] => open.push((def, coords)),
                    Source::Node(def, _) if cut.is_some() && self.is_token_work(def) => {
                        let along = cut.map(|class| Index::var(Var(class as u32)));
                        let coords: Vec<Index> = coords
                            .into_iter()
                            .filter(|index| Some(index) != along.as_ref())
                            .chain(along.clone())
                            .collect();
                        reads.push(Read { index: coords.last().cloned(), coords });
                    }
                    _ => reads.push(Read { index: coords.last().cloned(), coords }),
                }
            }
        }
        reads
    }
}

/// The greatest power of two that is not greater than `n`.
fn power_of_two(n: i64) -> i64 {
    1 << n.max(1).ilog2()
}

/// Vectors of partial sums for each accumulator: about eight in all hide the latency of an addition.
fn independent_sums(n_accumulators: i64) -> u32 {
    match n_accumulators {
        ..=2 => 4,
        3..=4 => 2,
        _ => 1,
    }
}

/// One access to memory, in terms of classes.
struct Read {
    /// The index along the last axis; `None` for a scalar.
    index: Option<Index>,
    /// The indices along all axes.
    coords: Vec<Index>,
}

impl Read {
    fn uses(&self, class: Class) -> bool {
        self.coords.iter().any(|index| !index.coeff(Var(class as u32)).is_const(0))
    }
}

/// What vectors along `class` cost this access: nothing if its elements are neighbours or the same.
fn stride_cost(read: &Read, class: Class) -> i64 {
    let var = Var(class as u32);
    let is_contiguous = read.index.as_ref().is_some_and(|index| index.coeff(var).is_const(1))
        && read.coords[..read.coords.len() - 1].iter().all(|index| index.coeff(var).is_const(0));
    if !read.uses(class) || is_contiguous { 0 } else { 4 }
}
