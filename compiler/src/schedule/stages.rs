//! What happens inside one kernel: stages, their loops and vector axes, and the loops around them.
//!
//! In: a cluster. Out: items in order. A *token stage* takes tiles of the innermost batch axis as vector lanes and unrolls
//! everything else, so that a whole Sinkhorn loop stays in registers. A *nest* walks the large axes as loops, one of them (or
//! an axis of its accumulators) as lanes, and unrolls the small ones.

use super::axes::Class;
use super::cluster::{Cluster, anchor_deps};
use super::graph::{N, R, Source, V};
use super::phases::Planned;
use super::walk::Walk;
use super::{LaneKind, Target};
use birkhoff_ir::tensor::OpKind;
use std::collections::{BTreeMap, BTreeSet};

/// An axis of at most this constant extent is unrolled.
pub const MAX_UNROLL: i64 = 8;
/// A token stage unrolls at most this many elements of one value.
const MAX_TOKEN_ELEMS: i64 = 256;
/// It maps so many elements that are in tile memory, on axes of at most this extent.
const MAX_TOKEN_AXIS: i64 = 32;
/// It maps so many elements that are in tile memory.
const MAX_TOKEN_MAP: i64 = 96;

/// Accumulators of all sums that share a nest of threads: operands need registers, too.
const MAX_JOINT_SUMS: i64 = 54;

/// Elements for each place of the tile from which on a token stage of threads has loops.
const MIN_ROLLED_ELEMS: i64 = 32;

/// What a kernel does, in order.
#[derive(Clone, Debug)]
pub enum Item {
    /// One loop nest.
    Stage(Stage),
    /// A loop around stages, its state in tile memory.
    Loop {
        /// The loop node.
        node: N,
        /// The stages of its body.
        items: Vec<Item>,
    },
}

/// One loop nest.
#[derive(Clone, Debug)]
pub struct Stage {
    /// How it runs.
    pub kind: StageKind,
    /// What it computes, in program order.
    pub anchors: Vec<N>,
}

/// How a stage runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StageKind {
    /// Lanes over the tile; everything else unrolled.
    Tokens,
    /// Loops over large axes.
    Nest(Nest),
}

/// The loops of a nest, for each place of the tile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nest {
    /// Large axes, outermost first: those of the results, then those summed over.
    pub loops: Vec<Class>,
    /// How many of the loops are axes of the results.
    pub n_outer: usize,
    /// The vector axis.
    pub lanes: Lanes,
    /// An axis of the accumulators that is kept in registers, and how much of it at a time.
    pub block: Option<(Class, i64)>,
    /// Places of the tile that share what does not depend on them.
    pub n_tokens: i64,
    /// So much of the first loop over results at a time, for all places of the tile: what they share stays in the nearest
    /// cache. Without such loops, so much of the last, which is summed over: the sums so far are in tile memory meanwhile.
    pub chunk: Option<i64>,
}

/// The vector axis of a nest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lanes {
    /// None: scalar code.
    None,
    /// One of the loops, so many at a time.
    Loop(Class, u32),
    /// The block axis of the accumulators.
    Block(u32),
    /// Places of the tile, so many at a time.
    Tile(u32),
}

/// What is being cut into stages.
pub struct Stager<'a> {
    /// The graph and its classes.
    pub walk: &'a Walk<'a>,
    /// Which nodes are anchors.
    pub is_anchor: &'a [bool],
    /// Anchors of the kernel.
    pub inside: &'a [N],
    /// Batch classes of the kernel.
    pub batch: &'a [Class],
    /// The machine.
    pub target: &'a Target,
}

impl Stager<'_> {
    /// The items of a cluster.
    pub fn items(&self, cluster: &Cluster) -> Vec<Item> {
        self.items_of(&cluster.anchors)
    }

    /// Cuts anchors of one region, in program order, into items.
    fn items_of(&self, anchors: &[N]) -> Vec<Item> {
        let mut items: Vec<Item> = vec![];
        let mut place: BTreeMap<N, usize> = BTreeMap::new();
        for Planned { node, deps, nest } in self.in_phases(anchors) {
            let min = deps.iter().filter_map(|dep| place.get(dep).copied()).max();
            let idx = match self.walk.graph.nodes[node].body {
                Some(body) if !self.is_token_work(node) => {
                    let inner = self.items_of(&self.region_anchors(body));
                    items.push(Item::Loop { node, items: inner });
                    items.len() - 1
                }
                _ if self.is_token_work(node) => {
                    place_in(&mut items, min, node, StageKind::Tokens, &|_| true)
                }
                _ => {
                    let nest = nest.unwrap_or_else(|| self.nest(node));
                    let fits = |stage: &Stage| self.same_place(stage, &nest, node, &deps);
                    place_in(&mut items, min, node, StageKind::Nest(nest.clone()), &fits)
                }
            };
            place.insert(node, idx);
        }
        items
    }

    /// Anchors that stand directly in a body, in order.
    pub(super) fn region_anchors(&self, body: R) -> Vec<N> {
        (0..self.walk.graph.nodes.len())
            .filter(|node| self.is_anchor[*node] && self.walk.graph.nodes[*node].region == body)
            .collect()
    }

    /// Anchors of any region whose values `node` reads.
    pub(super) fn deps(&self, node: N) -> BTreeSet<N> {
        if self.walk.graph.nodes[node].region == 0 {
            return anchor_deps(self.walk, self.is_anchor, node);
        }
        let graph = self.walk.graph;
        let mut deps = BTreeSet::new();
        let mut open: Vec<V> = graph.nodes[node].args.clone();
        for inner in self.walk.body_nodes(node) {
            open.extend(graph.nodes[inner].args.iter().copied());
        }
        while let Some(value) = open.pop() {
            let Source::Node(def, _) = graph.values[value].source else { continue };
            if self.is_anchor[def] {
                deps.insert(def);
            } else {
                open.extend(graph.nodes[def].args.iter().copied());
            }
        }
        deps
    }

    pub(super) fn extent(&self, class: Class) -> Option<i64> {
        self.walk.axes.extent(class).as_const()
    }

    pub(super) fn is_small_class(&self, class: Class) -> bool {
        self.extent(class).is_some_and(|extent| extent <= MAX_UNROLL)
    }

    /// The classes of `node` beside the batch.
    pub(super) fn own_classes(&self, node: N) -> Vec<Class> {
        self.walk.iterates(node).into_iter().filter(|class| !self.batch.contains(class)).collect()
    }

    /// True if `node` (and its body) is a handful of elements for each place of the tile. A loop with a loop inside is not:
    /// it goes around the stage of the inner one.
    pub fn is_token_work(&self, node: N) -> bool {
        let tiny = |node: N| {
            let classes = self.own_classes(node);
            let elems: i64 = classes.iter().filter_map(|class| self.extent(*class)).product();
            classes.iter().all(|class| self.is_small_class(*class)) && elems <= MAX_TOKEN_ELEMS
        };
        let is_factorisation = matches!(self.walk.graph.nodes[node].op.kind, OpKind::Solve | OpKind::Qr);
        let is_chunked = self.walk.graph.nodes[node].chunked;
        let is_innermost = |node: N| self.walk.graph.nodes[node].body.is_none();
        let in_registers =
            tiny(node) && self.walk.body_nodes(node).into_iter().all(|node| tiny(node) && is_innermost(node));
        !is_factorisation && !is_chunked && (in_registers || self.is_token_map(node))
    }

    /// True if `node` computes a few dozen elements for each place of the tile from what the kernel itself has computed
    /// there: that is at hand for vectors of places, and slices, padding and joins of it are known when it is unrolled. What a
    /// nest maps along rows is at hand along those rows: turning it costs more than what is done with it.
    fn is_token_map(&self, node: N) -> bool {
        let graph = self.walk.graph;
        let classes = self.own_classes(node);
        let elems: Option<i64> = classes.iter().map(|class| self.extent(*class)).product();
        if graph.nodes[node].region != 0
            || graph.nodes[node].body.is_some()
            || elems.is_none_or(|elems| elems > MAX_TOKEN_MAP)
            || classes.iter().any(|class| self.extent(*class).is_none_or(|extent| extent > MAX_TOKEN_AXIS))
        {
            return false;
        }
        let mut open: Vec<V> = graph.nodes[node].args.clone();
        let mut seen = BTreeSet::new();
        while let Some(value) = open.pop() {
            if !seen.insert(value) {
                continue;
            }
            match graph.values[value].source {
                Source::Node(def, _) if self.is_row_map(def, &classes) => return false,
                Source::Node(def, _) if self.inside.contains(&def) => {}
                Source::Node(def, _) if !self.is_anchor[def] => open.extend(&graph.nodes[def].args),
                _ if self.walk.axes.of_value(value).iter().any(|class| self.batch.contains(class)) => {
                    return false;
                }
                _ => {}
            }
        }
        true
    }

    /// True if this kernel maps the elements of `node` along a row that is one of `classes`, in a nest.
    fn is_row_map(&self, node: N, classes: &[Class]) -> bool {
        let own = self.own_classes(node);
        self.inside.contains(&node)
            && self.walk.graph.nodes[node].body.is_none()
            && self.walk.axes.of_sums(node).is_empty()
            && own.iter().any(|class| classes.contains(class) && !self.is_small_class(*class))
            && !self.is_token_work(node)
    }

    /// True if `node` can be computed in the loops of `stage`, given that it reads `deps`.
    fn same_place(&self, stage: &Stage, nest: &Nest, node: N, deps: &BTreeSet<N>) -> bool {
        let StageKind::Nest(other) = &stage.kind else { return false };
        let same_loops = other.loops == nest.loops
            || (nest.loops.len() == 1 && other.loops.len() == 1 && other.loops[0] == nest.loops[0]);
        let same_split = other.loops.len() == 1 || other.n_outer == nest.n_outer;
        let one_block = match (&other.block, &nest.block) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        let lanes_agree = match (other.lanes, nest.lanes) {
            // What has lanes of its own along a loop would be scalar code in a nest whose lanes are a block.
            (Lanes::Loop(a, _), Lanes::Loop(b, _)) => a == b,
            (Lanes::Block(_), Lanes::Loop(..)) | (Lanes::Loop(..), Lanes::Block(_)) => false,
            (Lanes::Tile(_), Lanes::Tile(_)) => true,
            (Lanes::Tile(_), _) | (_, Lanes::Tile(_)) => false,
            (Lanes::Block(_), _) | (_, Lanes::Block(_)) => true,
            (a, b) => a == b,
        };
        // What the node reads from the stage itself must be there already, at this very place.
        let inside = deps.iter().filter(|dep| stage.anchors.contains(dep));
        let in_place = inside.into_iter().all(|dep| {
            let summed = self.walk.axes.of_sums(*dep);
            nest.loops.iter().all(|class| !summed.contains(class) && self.reads_aligned(node, *dep, *class))
        });
        same_loops
            && same_split
            && one_block
            && lanes_agree
            && in_place
            && self.has_registers(stage, other, nest, node)
    }

    /// True if a thread has registers for all sums of a nest together. What several nests read is in the cache.
    fn has_registers(&self, stage: &Stage, own: &Nest, new: &Nest, node: N) -> bool {
        if self.target.lanes == LaneKind::Vector {
            return true;
        }
        let mut both = own.clone();
        merge(&mut both, new);
        let per_place = |node: N| -> i64 {
            if self.walk.axes.of_sums(node).is_empty() {
                return 0;
            }
            let kept = self
                .own_classes(node)
                .into_iter()
                .filter(|class| !both.loops.contains(class) && !self.walk.axes.of_sums(node).contains(class));
            kept.map(|class| match both.block {
                Some((block, size)) if block == class => size,
                _ => self.extent(class).unwrap_or(1),
            })
            .product()
        };
        let before: i64 = stage.anchors.iter().map(|node| per_place(*node)).sum();
        let more = per_place(node);
        before == 0 || more == 0 || (before + more) * both.n_tokens <= MAX_JOINT_SUMS
    }

    /// Classes along which the work of a token stage of threads is done one place after the other, in a loop: it never looks at another
    /// place there. Threads have no use for the same code several times, and too few registers for all places at once.
    pub fn rolled_classes(&self, anchors: &[N]) -> Vec<Class> {
        let graph = self.walk.graph;
        let elems = |node: &N| -> i64 {
            self.own_classes(*node).iter().filter_map(|class| self.extent(*class)).product()
        };
        let is_little = anchors.iter().map(elems).sum::<i64>() < MIN_ROLLED_ELEMS;
        if self.target.lanes != LaneKind::Threads
            || is_little
            || anchors.iter().any(|node| graph.nodes[*node].body.is_some())
        {
            return vec![];
        }
        let is_apart = |class: &Class| {
            self.extent(*class).is_some_and(|extent| extent > 1)
                && anchors.iter().all(|node| {
                    let has = |value: &V| self.walk.axes.of_value(*value).contains(class);
                    graph.nodes[*node].results.iter().all(has)
                        && !self.walk.axes.of_sums(*node).contains(class)
                        && self
                            .deps(*node)
                            .iter()
                            .filter(|dep| anchors.contains(dep))
                            .all(|dep| self.reads_aligned(*node, *dep, *class))
                })
        };
        let candidates = anchors.first().map(|node| self.own_classes(*node)).unwrap_or_default();
        candidates.into_iter().filter(is_apart).collect()
    }

    /// True if every path from `node` to `dep` is aligned on `class`.
    fn reads_aligned(&self, node: N, dep: N, class: Class) -> bool {
        let graph = self.walk.graph;
        let mut open: Vec<(N, bool)> = vec![(node, true)];
        let mut seen = BTreeSet::new();
        while let Some((reader, aligned)) = open.pop() {
            for (pos, arg) in graph.nodes[reader].args.iter().enumerate() {
                let Source::Node(def, _) = graph.values[*arg].source else { continue };
                let aligned = aligned && self.walk.aligned(reader, pos, class);
                if def == dep {
                    if !aligned {
                        return false;
                    }
                } else if !self.is_anchor[def] && seen.insert((def, aligned)) {
                    open.push((def, aligned));
                }
            }
        }
        true
    }
}

/// Puts `node` into the first stage of its kind at or after `min` that `fits`, or into a new one at the end.
fn place_in(
    items: &mut Vec<Item>,
    min: Option<usize>,
    node: N,
    kind: StageKind,
    fits: &dyn Fn(&Stage) -> bool,
) -> usize {
    for (idx, item) in items.iter_mut().enumerate().skip(min.unwrap_or(0)) {
        let Item::Stage(stage) = item else { continue };
        let same_kind = std::mem::discriminant(&stage.kind) == std::mem::discriminant(&kind);
        if same_kind && fits(stage) {
            stage.anchors.push(node);
            if let (StageKind::Nest(own), StageKind::Nest(new)) = (&mut stage.kind, &kind) {
                merge(own, new);
            }
            return idx;
        }
    }
    items.push(Item::Stage(Stage { kind, anchors: vec![node] }));
    items.len() - 1
}

/// The nest that serves both: the one with a register block keeps its lanes.
fn merge(own: &mut Nest, new: &Nest) {
    let own_leads = own.block.is_some() || new.block.is_none();
    let n_tokens = if own.block.is_some() == new.block.is_some() {
        own.n_tokens.min(new.n_tokens)
    } else if own_leads {
        own.n_tokens
    } else {
        new.n_tokens
    };
    if !own_leads {
        own.block = new.block;
        own.lanes = new.lanes;
    }
    own.n_tokens = n_tokens;
    own.chunk = own.chunk.zip(new.chunk).map(|(own, new)| own.min(new));
    own.lanes = match (own.lanes, new.lanes) {
        (Lanes::Loop(class, own), Lanes::Loop(_, new)) => Lanes::Loop(class, own.min(new)),
        (Lanes::Tile(own), Lanes::Tile(new)) => Lanes::Tile(own.min(new)),
        (own, _) => own,
    };
}
