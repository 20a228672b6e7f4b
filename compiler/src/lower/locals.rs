//! What a kernel keeps in tile memory, and how many places a tile has.
//!
//! In: a cluster and its items. Out: an array for every value that is read in another item than the one that computes it; a tile
//! for which what is read and kept fits the target.

use super::kernel::{KernelLowering, unique_name};
use super::value::Place;
use crate::schedule::LaneKind;
use crate::schedule::axes::Class;
use crate::schedule::chunks::N_CHUNKS;
use crate::schedule::cluster::Cluster;
use crate::schedule::graph::{N, Source, V};
use crate::schedule::stages::{Item, Lanes, StageKind};
use crate::schedule::walk::Walk;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::kernel::{Local, Space};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a row that are read before those of another row: as few lose what a processor fetches ahead of its reads.
const ROW_RUN_BYTES: i64 = 1024;
/// Never fewer tiles than this for the sake of longer runs.
const MIN_TILES: i64 = 8;

impl KernelLowering<'_, '_> {
    /// Places in a tile: what they read and keep fits the cache budget, in powers of two, at least a vector.
    pub(super) fn tile_size(&self, cluster: &Cluster, class: Class) -> i64 {
        let graph = self.cx.walk.graph;
        let axes = self.cx.walk.axes;
        let mut values: BTreeSet<V> = self.reads.iter().copied().collect();
        values.extend(cluster.anchors.iter().flat_map(|node| graph.nodes[*node].results.iter().copied()));
        let mut bytes = 0i64;
        for value in values {
            let classes = axes.of_value(value);
            if classes.contains(&class) {
                let rest = classes.iter().filter(|other| !cluster.batch.contains(other));
                let elems: i64 = rest.map(|other| axes.extent(*other).as_const().unwrap_or(256)).product();
                bytes = bytes
                    .saturating_add(elems.saturating_mul(graph.values[value].ty.dtype.size_bytes() as i64));
            }
        }
        let fits = (self.cx.target.tile_bytes / bytes.max(1)).clamp(8, 512);
        let extent = axes.extent(class).as_const().unwrap_or(i64::MAX);
        // Of known extents, tiles enough to keep the cores of a large machine busy; rather fewer than parts of rows so short
        // that memory is read in jumps.
        let n_places: Option<i64> =
            cluster.batch.iter().map(|class| axes.extent(*class).as_const()).product();
        let run = self.row_run(class);
        let fits = n_places
            .map_or(fits, |places| fits.min((places / N_CHUNKS).max(8).max(run.min(places / MIN_TILES))));
        // What is too much for tile memory goes to a workspace: rather that than tokens one by one.
        let fits = match self.cx.target.kept_bytes {
            i64::MAX => fits,
            limit => fits.min(limit / self.kept_bytes(cluster).max(1)).max(8),
        };
        let mut tile = 1;
        while tile * 2 <= fits && tile < extent {
            tile *= 2;
        }
        tile
    }

    /// How many places of a tile along `class` are neighbours in rows that are read from memory, so that a row is read in runs
    /// that hide where it starts; 1 if no rows lie along it.
    fn row_run(&self, class: Class) -> i64 {
        let (graph, axes) = (self.cx.walk.graph, self.cx.walk.axes);
        let is_row = |value: &&V| {
            let classes = axes.of_value(**value);
            classes.len() > 1 && classes.last() == Some(&class)
        };
        let sizes = self.reads.iter().filter(is_row).map(|value| graph.values[*value].ty.dtype.size_bytes());
        match (self.cx.target.lanes, sizes.max()) {
            (LaneKind::Vector, Some(size)) => ROW_RUN_BYTES / size as i64,
            _ => 1,
        }
    }

    /// At most what one place of the tile keeps in tile memory: what other nodes of the kernel read, and states of its loops.
    fn kept_bytes(&self, cluster: &Cluster) -> i64 {
        let graph = self.cx.walk.graph;
        let mut nodes: BTreeSet<N> = cluster.anchors.iter().copied().collect();
        for anchor in &cluster.anchors {
            nodes.extend(self.cx.walk.body_nodes(*anchor));
        }
        let read: BTreeSet<V> = nodes.iter().flat_map(|node| self.kept_operands(*node)).collect();
        let states = cluster.anchors.iter().filter_map(|node| graph.nodes[*node].body);
        let states = states.flat_map(|body| {
            let region = &graph.regions[body];
            region.inputs[..region.n_carry].iter().chain(&region.outputs).copied()
        });
        let kept: BTreeSet<V> = read.into_iter().chain(states).collect();
        let bytes = kept.into_iter().map(|value| {
            let own = self.cx.walk.axes.of_value(value);
            let own = own.into_iter().filter(|class| !cluster.batch.contains(class));
            let elems = own.map(|class| self.cx.walk.axes.extent(class).as_const().unwrap_or(1));
            elems.product::<i64>().saturating_mul(graph.values[value].ty.dtype.compute().size_bytes() as i64)
        });
        bytes.fold(0, i64::saturating_add)
    }

    /// Gives tile memory to every value that is read in another item than the one that computes it.
    pub(super) fn plan_locals(&mut self, items: &[Item]) {
        let mut homes = BTreeMap::new();
        let mut n_homes = 0;
        find_homes(self.cx.walk, items, self.lowering.tile_class, &mut n_homes, &mut homes);
        let mut wanted: BTreeSet<V> = BTreeSet::new();
        let mut in_tokens: BTreeSet<V> = BTreeSet::new();
        let graph = self.cx.walk.graph;
        for (&node, &(home, is_tokens)) in &homes {
            let is_staged = graph.nodes[node].body.is_some() && !self.stager.is_token_work(node);
            for value in self.kept_operands(node) {
                let Source::Node(def, _) = graph.values[value].source else { continue };
                let Some(&(def_home, def_tokens)) = homes.get(&def) else { continue };
                // Registers hold no stack: an iteration reads a slice by its number.
                if def_home != home || is_staged || self.is_stack(value) {
                    wanted.insert(value);
                }
                if is_tokens || def_tokens {
                    in_tokens.insert(value);
                }
            }
            if is_staged && let Some(body) = graph.nodes[node].body {
                wanted.extend(graph.regions[body].outputs.iter().copied());
            }
        }
        for value in wanted {
            let (Source::Node(def, _), false) = (graph.values[value].source, self.is_staged_result(value))
            else {
                continue;
            };
            let result_of_loop = graph.nodes[def].body.is_some();
            let token_minor = in_tokens.contains(&value) || result_of_loop;
            let place = self.local_for(value, token_minor);
            self.lowering.writable.entry(value).or_default().push(place);
        }
    }

    fn is_staged_result(&self, value: V) -> bool {
        let graph = self.cx.walk.graph;
        match graph.values[value].source {
            Source::Node(def, idx) => match graph.nodes[def].body {
                Some(body) => idx < graph.regions[body].n_carry && !self.stager.is_token_work(def),
                None => false,
            },
            _ => false,
        }
    }

    /// True if a loop on chip puts `value` together from slices.
    fn is_stack(&self, value: V) -> bool {
        let graph = self.cx.walk.graph;
        let Source::Node(def, idx) = graph.values[value].source else { return false };
        graph.nodes[def].body.is_some_and(|body| idx >= graph.regions[body].n_carry)
    }

    /// Anchors' values that `node` (with its body, if that stays in registers) reads through inlined nodes.
    fn kept_operands(&self, node: N) -> BTreeSet<V> {
        let graph = self.cx.walk.graph;
        let mut kept = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open: Vec<V> = graph.nodes[node].args.clone();
        for inner in self.cx.walk.body_nodes(node) {
            open.extend(graph.nodes[inner].args.iter().copied());
        }
        while let Some(value) = open.pop() {
            if !seen.insert(value) {
                continue;
            }
            let Source::Node(def, _) = graph.values[value].source else { continue };
            if self.cx.is_anchor[def] {
                kept.insert(value);
            } else {
                open.extend(graph.nodes[def].args.iter().copied());
            }
        }
        kept
    }

    /// New tile memory for `value`: one axis per class, and one for the places of the tile, last where vectors of places use it.
    pub(super) fn local_for(&mut self, value: V, token_minor: bool) -> Place {
        let info = &self.cx.walk.graph.values[value];
        let batch: Vec<Class> = self.lowering.batch.iter().map(|(class, _)| *class).collect();
        let all = self.cx.walk.axes.of_value(value);
        let mut classes: Vec<Class> = all.iter().copied().filter(|class| !batch.contains(class)).collect();
        let tile_class = self.lowering.tile_class.filter(|class| all.contains(class));
        if let Some(class) = tile_class {
            classes.insert(if token_minor { classes.len() } else { 0 }, class);
        }
        let extent = |class: &Class| {
            if Some(*class) == tile_class {
                Dim::constant(self.tile)
            } else {
                self.cx.walk.axes.extent(*class).clone()
            }
        };
        let shape: Vec<Dim> = classes.iter().map(extent).collect();
        let dtype = info.ty.dtype.compute();
        let name = unique_name(&mut self.names, info.name.as_deref().unwrap_or("tmp"));
        let mem =
            self.lowering.emitter.local(Local { name, dtype, shape, space: Space::Tile, lane_axis: None });
        Place::Local { mem, classes, like: value }
    }
}

/// The item in which each node is computed (a number of its own), and whether its lanes are
/// places of the tile. The body of a loop in
/// registers is part of its stage; a loop around stages is an item of its own, in which its operands are read.
fn find_homes(
    walk: &Walk<'_>,
    items: &[Item],
    tile: Option<Class>,
    n_homes: &mut usize,
    homes: &mut BTreeMap<N, (usize, bool)>,
) {
    for item in items {
        *n_homes += 1;
        match item {
            Item::Stage(stage) => {
                for node in &stage.anchors {
                    let is_tokens = match &stage.kind {
                        StageKind::Tokens => true,
                        StageKind::Nest(nest) => match nest.lanes {
                            Lanes::Tile(_) => true,
                            Lanes::Loop(class, _) => tile == Some(class),
                            Lanes::Block(_) | Lanes::None => false,
                        },
                    };
                    homes.insert(*node, (*n_homes, is_tokens));
                    for inner in walk.body_nodes(*node) {
                        homes.insert(inner, (*n_homes, is_tokens));
                    }
                }
            }
            Item::Loop { node, items } => {
                homes.insert(*node, (*n_homes, false));
                find_homes(walk, items, tile, n_homes, homes);
            }
        }
    }
}
