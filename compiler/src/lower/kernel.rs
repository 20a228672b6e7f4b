//! One cluster becomes one kernel: what lives where, and its stages in order.

use super::emit::Emitter;
use super::nest::Work;
use super::value::{Lowering, Place};
use crate::schedule::axes::Class;
use crate::schedule::chunks::{N_CHUNKS, cut};
use crate::schedule::cluster::Cluster;
use crate::schedule::graph::{N, Source, V};
use crate::schedule::stages::{Item, Lanes, Nest, Stage, StageKind, Stager};
use crate::schedule::walk::Walk;
use crate::schedule::{LaneKind, Target};
use birkhoff_ir::dim::{Dim, Sym};
use birkhoff_ir::kernel::{Access, ForKind, Func, Index, Mem, Param, ParamId};
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::OpKind;
use std::collections::BTreeSet;

/// A kernel and the values behind its parameters.
pub struct LoweredKernel {
    /// The kernel; its parameters are `reads`, then `writes`.
    pub func: Func,
    /// Values it reads from memory.
    pub reads: Vec<V>,
    /// Values it writes to memory.
    pub writes: Vec<V>,
}

/// What lowering a cluster needs to know of the function around it.
pub struct KernelCx<'a> {
    /// The graph and its classes.
    pub walk: &'a Walk<'a>,
    /// Which nodes are anchors.
    pub is_anchor: &'a [bool],
    /// Number of users of each value.
    pub n_users: &'a [usize],
    /// Run-time sizes.
    pub sizes: &'a [Sym],
    /// The machine.
    pub target: &'a Target,
}

/// Lowers `cluster` to the kernel `name`, which writes `writes` to memory.
///
/// Errors: a defect of the scheduler, described.
pub fn lower(
    cx: &KernelCx<'_>,
    cluster: &Cluster,
    writes: &[V],
    name: &str,
) -> Result<LoweredKernel, String> {
    let reads = memory_reads(cx, cluster);
    let chunks: Vec<N> =
        cluster.anchors.iter().copied().filter(|node| cx.walk.graph.nodes[*node].chunked).collect();
    let mut batch: Vec<Class> =
        chunks.iter().filter_map(|node| cut(cx.walk, *node)).map(|(chunk, _)| chunk).collect();
    batch.extend(&cluster.batch);
    let stager = Stager {
        walk: cx.walk,
        is_anchor: cx.is_anchor,
        inside: &cluster.anchors,
        batch: &batch,
        target: cx.target,
    };
    let items = stager.items(cluster);
    let mut func = Func {
        name: name.into(),
        sizes: cx.sizes.to_vec(),
        params: vec![],
        grid: vec![],
        locals: vec![],
        vars: vec![],
        body: vec![],
    };
    let mut names = BTreeSet::new();
    for (value, access) in
        reads.iter().map(|v| (v, Access::Read)).chain(writes.iter().map(|v| (v, Access::Write)))
    {
        let info = &cx.walk.graph.values[*value];
        let name = unique_name(&mut names, info.name.as_deref().unwrap_or("v"));
        func.params.push(Param { name, dtype: info.ty.dtype, shape: info.memory_shape(), access });
    }
    let mut lowering = Lowering::new(cx.walk, cx.is_anchor, cx.n_users, Emitter::new(func), cx.target.lanes);
    for (idx, value) in reads.iter().enumerate() {
        lowering.readable.insert(*value, Place::Param(Mem::Param(ParamId(idx as u32))));
    }
    for (idx, value) in writes.iter().enumerate() {
        let place = Place::Param(Mem::Param(ParamId((reads.len() + idx) as u32)));
        lowering.writable.entry(*value).or_default().push(place);
    }
    let mut kernel = KernelLowering {
        cx,
        stager: &stager,
        lowering,
        reads: &reads,
        n_stages: 0,
        is_chunked: !chunks.is_empty(),
        tile: 1,
        names,
    };
    kernel.open_grid(cluster, &chunks);
    kernel.plan_locals(&items);
    if chunks.is_empty() {
        kernel.items(&items);
    } else {
        kernel.chunked(cluster, &chunks, &items);
    }
    match kernel.lowering.broken {
        Some(why) => Err(format!("kernel {name}: {why}")),
        None => Ok(LoweredKernel { func: kernel.lowering.emitter.finish(), reads, writes: writes.to_vec() }),
    }
}

/// Values of token stages of at most this many elements are computed for two vectors of places at a time: their chains of
/// small operations are long, and two of them hide each other's latency even where they no longer fit the registers.
const MAX_PAIRED: i64 = 16;

/// Values of other kernels, and arguments, that the cluster reads.
fn memory_reads(cx: &KernelCx<'_>, cluster: &Cluster) -> Vec<V> {
    let graph = cx.walk.graph;
    let mut inside: BTreeSet<N> = cluster.anchors.iter().copied().collect();
    for anchor in &cluster.anchors {
        inside.extend(cx.walk.body_nodes(*anchor));
    }
    let mut reads = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut open: Vec<V> = inside.iter().flat_map(|node| graph.nodes[*node].args.iter().copied()).collect();
    while let Some(value) = open.pop() {
        if !seen.insert(value) {
            continue;
        }
        match graph.values[value].source {
            Source::Input(_) => {
                reads.insert(value);
            }
            Source::Node(def, _) if inside.contains(&def) => {}
            Source::Node(def, _) if cx.is_anchor[def] => {
                reads.insert(value);
            }
            Source::Node(def, _) => open.extend(graph.nodes[def].args.iter().copied()),
            Source::Body(..) => {}
        }
    }
    reads.into_iter().collect()
}

/// `name` as a C identifier that is not taken yet.
pub(super) fn unique_name(taken: &mut BTreeSet<String>, name: &str) -> Sym {
    let mut clean: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if !clean.starts_with(|c: char| c.is_ascii_alphabetic()) {
        clean.insert(0, 'v');
    }
    let mut unique = clean.clone();
    let mut number = 1;
    while !taken.insert(unique.clone()) {
        unique = format!("{clean}_{number}");
        number += 1;
    }
    unique.into()
}

/// A kernel in the making.
pub(super) struct KernelLowering<'a, 'b> {
    pub(super) cx: &'b KernelCx<'a>,
    pub(super) stager: &'b Stager<'a>,
    pub(super) lowering: Lowering<'a>,
    pub(super) reads: &'b [V],
    n_stages: usize,
    /// Whether the kernel has chunked sums.
    is_chunked: bool,
    /// Places in a tile.
    pub(super) tile: i64,
    /// Names that are taken.
    pub(super) names: BTreeSet<String>,
}

impl KernelLowering<'_, '_> {
    fn open_grid(&mut self, cluster: &Cluster, chunks: &[N]) {
        if !chunks.is_empty() {
            return self.open_chunks(cluster, chunks);
        }
        let last = cluster.batch.len().wrapping_sub(1);
        for (pos, class) in cluster.batch.iter().enumerate() {
            let extent = self.cx.walk.axes.extent(*class).clone();
            let tile = if pos == last { self.tile_size(cluster, *class) } else { 1 };
            let name = self.axis_name(&extent);
            let (base, count) = self.lowering.emitter.grid_axis(&name, extent, tile as u32);
            self.lowering.batch.push((*class, base));
            self.lowering.at.insert(*class, Index::var(base));
            if pos == last && tile > 1 {
                self.lowering.tile_class = Some(*class);
                self.lowering.tile_count = Some(count);
                (self.tile, self.lowering.tile) = (tile, tile);
            }
        }
    }

    /// A grid of chunks: the tiles of a chunk are a loop inside, so that the chunk's sums can be kept while it runs.
    fn open_chunks(&mut self, cluster: &Cluster, chunks: &[N]) {
        let name = unique_name(&mut self.names, "chunk").to_string();
        let (chunk, _) = self.lowering.emitter.grid_axis(&name, Dim::constant(N_CHUNKS), 1);
        for (class, _) in chunks.iter().filter_map(|node| cut(self.cx.walk, *node)) {
            self.lowering.batch.push((class, chunk));
            self.lowering.at.insert(class, Index::var(chunk));
        }
        for class in &cluster.batch {
            // The tile's first place is known when the loop over tiles is open.
            self.lowering.batch.push((*class, chunk));
            self.lowering.tile_class = Some(*class);
            self.tile = self.tile_size(cluster, *class);
            self.lowering.tile = self.tile;
        }
    }

    /// The stages of a kernel with chunked sums: those start from nothing, grow with every tile of the chunk, and are
    /// written to memory at the end.
    fn chunked(&mut self, cluster: &Cluster, chunks: &[N], items: &[Item]) {
        let graph = self.cx.walk.graph;
        let Some((&(_, chunk), class)) = self.lowering.batch.first().zip(cluster.batch.first().copied())
        else {
            return;
        };
        let tile_class = self.lowering.tile_class.take();
        let mut wanted = vec![];
        for node in chunks {
            let value = graph.nodes[*node].results[0];
            let place = self.local_for(value, false);
            wanted.push((value, place.clone(), self.lowering.writable.insert(value, vec![place])));
            self.copy("start", Work::Fill(*node));
        }
        let extent = self.cx.walk.axes.extent(class).clone();
        let (base, count) = self.lowering.emitter.open_chunk(chunk, N_CHUNKS, extent, self.tile);
        self.lowering.tile_class = tile_class;
        self.lowering.tile_count = Some(count);
        for (batch, var) in &mut self.lowering.batch {
            if *batch == class {
                *var = base;
            }
        }
        self.lowering.at.insert(class, Index::var(base));
        self.items(items);
        self.lowering.close();
        self.lowering.tile_class = None;
        for (value, place, memory) in wanted {
            self.lowering.readable.insert(value, place);
            self.lowering.writable.insert(value, memory.unwrap_or_default());
            self.copy("parts", Work::Map { from: value, to: value });
        }
    }

    fn axis_name(&mut self, extent: &Dim) -> String {
        let name = extent.as_sym().map_or("b".to_string(), |sym| sym.to_lowercase());
        unique_name(&mut self.names, &name).to_string()
    }

    fn items(&mut self, items: &[Item]) {
        for item in items {
            match item {
                Item::Stage(stage) => self.stage(stage),
                Item::Loop { node, items } => self.staged_loop(*node, items),
            }
        }
    }

    fn open_stage(&mut self, what: &str) {
        let name = format!("{what}{}", self.n_stages);
        self.n_stages += 1;
        self.lowering.emitter.open_stage(name);
    }

    fn stage(&mut self, stage: &Stage) {
        let graph = self.cx.walk.graph;
        match &stage.kind {
            StageKind::Tokens => {
                self.open_stage("tokens");
                let loops: Vec<N> =
                    stage.anchors.iter().copied().filter(|node| graph.nodes[*node].body.is_some()).collect();
                let work: Vec<Work> = stage.anchors.iter().map(|node| Work::Sum(*node)).collect();
                let (width, end) = self.token_lanes(stage);
                let rolled = self.stager.rolled_classes(&stage.anchors);
                self.lowering.tokens(&work, &loops, width, end, &rolled);
            }
            StageKind::Nest(nest) => {
                self.open_stage("nest");
                let mut work = vec![];
                for node in &stage.anchors {
                    let summed = self.cx.walk.axes.of_sums(*node);
                    if nest.loops.iter().any(|class| summed.contains(class)) {
                        work.push(Work::Sum(*node));
                    } else {
                        let maps = graph.nodes[*node]
                            .results
                            .iter()
                            .map(|value| Work::Map { from: *value, to: *value });
                        work.extend(maps);
                    }
                }
                self.lowering.nest(nest, &work);
            }
        }
        self.lowering.close();
        for node in &stage.anchors {
            for value in graph.nodes[*node].results.clone() {
                self.lowering.make_readable(value);
            }
        }
    }

    /// The lanes of a token stage, and where it ends: behind the last place, or with a whole vector if it touches tile memory
    /// alone.
    fn token_lanes(&mut self, stage: &Stage) -> (u32, Index) {
        let (Some(tile_class), Some(count)) = (self.lowering.tile_class, self.lowering.tile_count) else {
            return (1, Index::default());
        };
        let graph = self.cx.walk.graph;
        let classes = |value: V| self.cx.walk.axes.of_value(value);
        let elems = |value: &V| {
            let own = classes(*value).into_iter().filter(|class| !self.stager.batch.contains(class));
            own.filter_map(|class| self.cx.walk.axes.extent(class).as_const()).product::<i64>()
        };
        let values = stage.anchors.iter().flat_map(|node| &graph.nodes[*node].results);
        let widest = values.clone().map(elems).max().unwrap_or(1);
        let bytes =
            values.clone().map(|v| graph.values[*v].ty.dtype.compute().size_bytes()).max().unwrap_or(4);
        let native = i64::from(self.cx.target.lanes_of(bytes));
        // A value of few elements leaves the pipeline idle: take two vectors of each.
        let is_full = widest > MAX_PAIRED || self.cx.target.lanes == LaneKind::Threads;
        let width = if is_full { native } else { 2 * native };
        let width = width.min(self.tile).max(1);
        let writes_memory = values.clone().any(|value| {
            let places = self.lowering.writable.get(value);
            places.is_some_and(|places| places.iter().any(|place| matches!(place, Place::Param(_))))
        });
        let reads_memory = stage.anchors.iter().any(|node| {
            let reads = tile_reads(self.cx, *node);
            reads.iter().any(|value| self.reads.contains(value) && classes(*value).contains(&tile_class))
        });
        // Threads beyond the last place stand idle, and may not read what nothing has written.
        let is_vector = self.cx.target.lanes == LaneKind::Vector;
        let end = match is_vector && !writes_memory && !reads_memory && self.tile % width == 0 {
            true if self.is_chunked => {
                // A chunk may be much shorter than a tile.
                let by = self.lowering.emitter.index(Index::constant(width));
                let reach = self.lowering.emitter.index(Index::var(count).add(&Index::constant(width - 1)));
                let n_vectors = self.lowering.emitter.scalar(ScalarOp::Div, &[reach, by]);
                Index::var(n_vectors).scale(&Dim::constant(width))
            }
            true => Index::constant(self.tile),
            false => Index::var(count),
        };
        (width as u32, end)
    }

    /// A loop around stages: its state in tile memory, the next state beside it until the iteration is done.
    fn staged_loop(&mut self, node: N, items: &[Item]) {
        let graph = self.cx.walk.graph;
        let gnode = graph.nodes[node].clone();
        let Some(body) = gnode.body else { return };
        let region = graph.regions[body].clone();
        let mut state = vec![];
        for (idx, input) in region.inputs[..region.n_carry].iter().enumerate() {
            let place = self.local_for(*input, false);
            self.lowering.writable.insert(*input, vec![place.clone()]);
            self.copy("init", Work::Map { from: gnode.args[idx], to: *input });
            state.push(place);
        }
        let trip = Index::constant(region.trip.clone());
        let extent = Some(region.trip.clone());
        let iteration = self.lowering.emitter.open_for("iter", 0.into(), trip, ForKind::Seq, extent);
        self.lowering.iteration.insert(body, Index::var(iteration));
        for (input, place) in region.inputs.iter().zip(&state) {
            self.lowering.readable.insert(*input, place.clone());
        }
        self.items(items);
        for (result, output) in gnode.results.iter().zip(&region.outputs).skip(region.n_carry) {
            self.copy("stack", Work::Stack { from: *output, stack: *result, body });
        }
        for (input, output) in region.inputs[..region.n_carry].iter().zip(&region.outputs) {
            self.copy("next", Work::Map { from: *output, to: *input });
        }
        self.lowering.iteration.remove(&body);
        self.lowering.close();
        for (result, place) in gnode.results.iter().zip(&state) {
            self.lowering.readable.insert(*result, place.clone());
            if self.lowering.writable.contains_key(result) {
                self.copy("last", Work::Map { from: *result, to: *result });
            }
        }
        for result in &gnode.results[region.n_carry..] {
            self.lowering.make_readable(*result);
        }
    }

    /// A stage that writes one value where it is wanted.
    fn copy(&mut self, what: &str, work: Work) {
        let value = self.lowering.work_value(&work);
        let all = self.cx.walk.axes.of_value(value);
        let own: Vec<Class> = all.into_iter().filter(|class| !self.stager.batch.contains(class)).collect();
        let extent = |class: &Class| self.cx.walk.axes.extent(*class).as_const();
        let is_large = |class: &&Class| extent(class).is_none_or(|extent| extent > 8);
        let mut loops: Vec<Class> = own.iter().filter(is_large).copied().collect();
        if loops.is_empty() {
            loops.extend(own.last());
        }
        let lanes = match (loops.last(), own.last()) {
            (Some(class), Some(last)) if class == last => Lanes::Loop(*class, self.cx.target.native_lanes),
            _ => Lanes::None,
        };
        let nest = Nest { n_outer: loops.len(), loops, lanes, block: None, n_tokens: 1, chunk: None };
        self.open_stage(what);
        self.lowering.nest(&nest, &[work]);
        self.lowering.close();
    }
}

/// Values that `node` and its body read through inlined nodes, wherever they come from.
fn tile_reads(cx: &KernelCx<'_>, node: N) -> BTreeSet<V> {
    let graph = cx.walk.graph;
    let mut reads = BTreeSet::new();
    let mut open: Vec<V> = graph.nodes[node].args.clone();
    for inner in cx.walk.body_nodes(node) {
        open.extend(graph.nodes[inner].args.iter().copied());
    }
    while let Some(value) = open.pop() {
        if !reads.insert(value) {
            continue;
        }
        match graph.values[value].source {
            Source::Node(def, _) if !cx.is_anchor[def] => open.extend(graph.nodes[def].args.iter().copied()),
            // A slice is read where the array lies that it is one of.
            Source::Body(region, slot) if slot >= graph.regions[region].n_carry => {
                open.extend(graph.loop_of(region).map(|node| graph.nodes[node].args[slot]));
            }
            _ => {}
        }
    }
    reads
}

/// True if the back ends have no kernel for this op.
pub fn is_unsupported(kind: OpKind) -> bool {
    matches!(kind, OpKind::Solve | OpKind::Qr)
}
