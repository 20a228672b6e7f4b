//! Which anchors become one kernel.
//!
//! In: a graph, its classes and anchors. Out: clusters in launch order. The anchors of a cluster share *batch* classes, along
//! which the kernel's tiles are cut: every value that passes between them inside is read at the very batch place where it
//! was written. Greedy, in the order of `order.rs`: an anchor joins the kernel of what it reads if it can, else one that
//! reads the same memory, else it starts a kernel.

use super::axes::Class;
use super::chunks::cut;
use super::graph::{N, Source, V};
use super::order::{Order, Turn};
use super::walk::Walk;
use birkhoff_ir::dim::Dim;
use std::collections::BTreeSet;

/// A kernel to be: anchors in program order.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Anchors of the function itself (bodies of on-chip loops belong to their loop).
    pub anchors: Vec<N>,
    /// The batch classes, outermost first.
    pub batch: Vec<Class>,
    /// True if everything in it is small enough for one tile.
    pub is_small: bool,
    /// An opaque step (a loop of the plan, a factorisation), alone in its cluster.
    pub is_opaque: bool,
}

/// Work of at most this many elements, all of known size, may run as a single tile.
pub const MAX_TILE_ELEMS: i64 = 16 * 1024;

/// How an on-chip loop can be cut into tiles.
#[derive(Clone, Debug)]
pub struct LoopBatch {
    /// Classes along which iterations of different places never meet.
    pub classes: Vec<Class>,
}

/// The classes along which the on-chip loop `node` can be cut: those of every result that anybody reads, the axis along which
/// slices are stacked aside, if the body never mixes places along them, and no loop inside is the same for all of them.
pub fn loop_batch(walk: &Walk<'_>, node: N) -> LoopBatch {
    let graph = walk.graph;
    let gnode = &graph.nodes[node];
    let users = graph.users();
    let is_read = |value: &V| {
        !users[*value].is_empty()
            || graph.outputs.iter().any(|(_, out)| out == value)
            || graph.regions.iter().any(|region| region.outputs.contains(value))
    };
    let read: Vec<Vec<Class>> = gnode
        .results
        .iter()
        .enumerate()
        .filter(|(_, value)| is_read(value))
        .map(|(idx, _)| walk.of_result(node, idx))
        .collect();
    let mut classes = vec![];
    for class in read.first().into_iter().flatten() {
        let everywhere = read.iter().all(|other| other.contains(class));
        if everywhere && !classes.contains(class) && body_is_parallel(walk, node, *class) {
            classes.push(*class);
        }
    }
    LoopBatch { classes }
}

/// True if no iteration of the body mixes different places along `class`.
fn body_is_parallel(walk: &Walk<'_>, node: N, class: Class) -> bool {
    let graph = walk.graph;
    let Some(body) = graph.nodes[node].body else { return false };
    let has = |value: V| walk.axes.of_value(value).contains(&class);
    let mut inside: BTreeSet<V> = graph.regions[body].inputs.iter().copied().collect();
    let region = &graph.regions[body];
    // A state that starts without the class must not acquire it.
    let consistent =
        region.inputs.iter().zip(&region.outputs).take(region.n_carry).all(|(i, o)| has(*i) == has(*o));
    if !consistent {
        return false;
    }
    for inner in walk.body_nodes(node) {
        let gnode = &graph.nodes[inner];
        if let Some(nested) = gnode.body {
            // Tiles along the class would each run it.
            if !gnode.results.iter().any(|result| has(*result)) {
                return false;
            }
            inside.extend(graph.regions[nested].inputs.iter().copied());
        }
        for (pos, arg) in gnode.args.iter().enumerate() {
            if inside.contains(arg) && has(*arg) && !walk.aligned(inner, pos, class) {
                return false;
            }
        }
        let sums_it = walk.axes.of_sums(inner).contains(&class);
        if sums_it && gnode.args.iter().any(|arg| inside.contains(arg)) {
            return false;
        }
        inside.extend(gnode.results.iter().copied());
    }
    true
}

/// The classes along which `node` can be cut.
fn parallel_classes(walk: &Walk<'_>, node: N) -> Vec<Class> {
    let gnode = &walk.graph.nodes[node];
    if let Some((_, class)) = cut(walk, node) {
        return vec![class];
    }
    match gnode.body {
        Some(_) => loop_batch(walk, node).classes,
        None => gnode.results.first().map_or(vec![], |result| walk.axes.of_value(*result)),
    }
}

/// True if the node's work is of known, small size: results, operands and everything in a body.
pub fn is_small(walk: &Walk<'_>, node: N) -> bool {
    let small = |value: V| {
        walk.graph.values[value].ty.n_elems().as_const().is_some_and(|elems| elems <= MAX_TILE_ELEMS)
    };
    let iterations =
        walk.iterates(node).iter().fold(Dim::constant(1), |n, class| n.mul(walk.axes.extent(*class)));
    iterations.as_const().is_some_and(|n| n <= 4 * MAX_TILE_ELEMS)
        && walk.graph.nodes[node].results.iter().all(|result| small(*result))
        && walk
            .body_nodes(node)
            .iter()
            .all(|inner| walk.graph.nodes[*inner].results.iter().all(|result| small(*result)))
}

/// True if the node's work is not worth a launch of its own.
fn is_handful(walk: &Walk<'_>, node: N) -> bool {
    const MAX_HANDFUL: i64 = 16 * 1024;
    let iterations =
        walk.iterates(node).iter().fold(Dim::constant(1), |n, class| n.mul(walk.axes.extent(*class)));
    walk.graph.nodes[node].body.is_none() && iterations.as_const().is_some_and(|n| n <= MAX_HANDFUL)
}

/// Cuts the anchors into clusters.
pub fn partition(walk: &Walk<'_>, is_anchor: &[bool], opaque: &dyn Fn(N) -> bool) -> Vec<Cluster> {
    let graph = walk.graph;
    let mut clusters: Vec<Cluster> = vec![];
    let mut cluster_of: Vec<Option<usize>> = vec![None; graph.nodes.len()];
    let Order { turns, deps: deps_of } = Order::new(walk, is_anchor, opaque);
    for Turn { node, reader } in turns {
        let mut deps = deps_of[&node].clone();
        deps.extend(reader.into_iter().flat_map(|reader| &deps_of[&reader]));
        let earliest = deps.iter().filter_map(|dep| cluster_of[*dep]).max();
        if opaque(node) {
            cluster_of[node] = Some(clusters.len());
            clusters.push(Cluster { anchors: vec![node], is_opaque: true, ..Cluster::default() });
            continue;
        }
        let place = candidates(walk, is_anchor, &clusters, &cluster_of, node, &deps, earliest.unwrap_or(0))
            .into_iter()
            .find_map(|idx| join(walk, is_anchor, &clusters[idx], node).map(|batch| (idx, batch)));
        match place {
            Some((idx, batch)) => {
                clusters[idx].is_small &= is_small(walk, node);
                clusters[idx].batch = batch;
                clusters[idx].anchors.push(node);
                cluster_of[node] = Some(idx);
            }
            None => {
                cluster_of[node] = Some(clusters.len());
                clusters.push(Cluster {
                    anchors: vec![node],
                    batch: first_batch(walk, node),
                    is_small: is_small(walk, node),
                    is_opaque: false,
                });
            }
        }
    }
    clusters
}

/// Clusters that `node` might join, best first: those of what it reads, then those that read the same memory, then those that are
/// cut along the same axes.
fn candidates(
    walk: &Walk<'_>,
    is_anchor: &[bool],
    clusters: &[Cluster],
    cluster_of: &[Option<usize>],
    node: N,
    deps: &BTreeSet<N>,
    earliest: usize,
) -> Vec<usize> {
    // A copy waits for nothing, and what it joined would make its readers wait.
    if walk.graph.nodes[node].copy {
        return vec![];
    }
    let mut order: Vec<usize> = vec![];
    let mut producers: Vec<usize> = deps.iter().filter_map(|dep| cluster_of[*dep]).collect();
    producers.sort_unstable();
    producers.reverse();
    let own = memory_reads(walk, is_anchor, node);
    let shares = |idx: &usize| {
        let reads = |other: &N| memory_reads(walk, is_anchor, *other);
        clusters[*idx].anchors.iter().any(|other| reads(other).intersection(&own).next().is_some())
    };
    let others = (earliest..clusters.len()).filter(shares);
    // Handfuls of work have nothing to lose but launches.
    let is_handful = is_handful(walk, node);
    let small = (earliest..clusters.len()).filter(|idx| {
        is_handful && clusters[*idx].anchors.iter().all(|other| self::is_handful(walk, *other))
    });
    // Work along the same axes costs a launch less together.
    let batch = first_batch(walk, node);
    let alike = (earliest..clusters.len()).filter(|idx| !batch.is_empty() && clusters[*idx].batch == batch);
    for idx in producers.into_iter().chain(others).chain(small).chain(alike) {
        // A copy in another order is read across its own tiles.
        let is_copy = clusters[idx].anchors.iter().any(|other| walk.graph.nodes[*other].copy);
        if idx >= earliest && !clusters[idx].is_opaque && !is_copy && !order.contains(&idx) {
            order.push(idx);
        }
    }
    order
}

/// Arguments of the function of more than a handful of elements that `node` reads, and values that are kept, directly or through
/// nodes that are not.
fn memory_reads(walk: &Walk<'_>, is_anchor: &[bool], node: N) -> BTreeSet<V> {
    let mut reads = BTreeSet::new();
    let mut open: Vec<V> = walk.graph.nodes[node].args.clone();
    for inner in walk.body_nodes(node) {
        open.extend(walk.graph.nodes[inner].args.iter().copied());
    }
    let mut seen = BTreeSet::new();
    while let Some(value) = open.pop() {
        if !seen.insert(value) {
            continue;
        }
        let is_large = walk.graph.values[value].ty.n_elems().as_const().is_none_or(|n| n > 64);
        match walk.graph.values[value].source {
            Source::Input(_) if is_large => {
                reads.insert(value);
            }
            Source::Node(def, _) if is_anchor[def] && walk.graph.nodes[def].region == 0 && is_large => {
                reads.insert(value);
            }
            Source::Node(def, _) if is_anchor[def] && walk.graph.nodes[def].region == 0 => {}
            Source::Node(def, _) if walk.graph.nodes[def].body.is_none() => {
                open.extend(walk.graph.nodes[def].args.iter().copied());
            }
            _ => {}
        }
    }
    reads
}

/// Anchors of the function whose values `node` reads, through inlined nodes and from inside its body.
pub fn anchor_deps(walk: &Walk<'_>, is_anchor: &[bool], node: N) -> BTreeSet<N> {
    let graph = walk.graph;
    let mut deps = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut open: Vec<V> = graph.nodes[node].args.clone();
    for inner in walk.body_nodes(node) {
        open.extend(graph.nodes[inner].args.iter().copied());
    }
    while let Some(value) = open.pop() {
        let Source::Node(def, _) = graph.values[value].source else { continue };
        if !seen.insert(value) {
            continue;
        }
        if is_anchor[def] && graph.nodes[def].region == 0 {
            deps.insert(def);
        } else if graph.nodes[def].region == 0 {
            open.extend(graph.nodes[def].args.iter().copied());
        }
    }
    deps
}

/// The batch classes that remain if `node` joins `cluster`; `None` if it cannot.
fn join(walk: &Walk<'_>, is_anchor: &[bool], cluster: &Cluster, node: N) -> Option<Vec<Class>> {
    let own = parallel_classes(walk, node);
    let inside: BTreeSet<N> = cluster.anchors.iter().copied().collect();
    let batch: Vec<Class> = cluster
        .batch
        .iter()
        .copied()
        .filter(|class| own.contains(class) && reads_in_place(walk, is_anchor, &inside, node, *class))
        .collect();
    let is_small = cluster.is_small && is_small(walk, node);
    // Work for many cores is not worth a launch less.
    let before = n_places(walk, &cluster.batch);
    let after = n_places(walk, &batch);
    let stays_parallel = after.is_none_or(|after| after >= MIN_PLACES || before == Some(after));
    (is_small || (!batch.is_empty() && stays_parallel)).then_some(batch)
}

/// Places of a grid that keep the cores of a large machine busy.
const MIN_PLACES: i64 = 64;

/// The number of places along `classes`; `None` if it is known only when the kernel runs.
fn n_places(walk: &Walk<'_>, classes: &[Class]) -> Option<i64> {
    classes.iter().map(|class| walk.axes.extent(*class).as_const()).product()
}

/// The batch classes of a kernel that `node` starts: its own, but for inner axes that a long sum can keep in registers, as
/// long as the others are places enough.
fn first_batch(walk: &Walk<'_>, node: N) -> Vec<Class> {
    const MAX_BLOCK: i64 = 64;
    const MANY_PLACES: i64 = 16 * MIN_PLACES;
    let mut batch = parallel_classes(walk, node);
    let is_long = walk
        .axes
        .of_sums(node)
        .iter()
        .any(|class| walk.axes.extent(*class).as_const().is_none_or(|extent| extent > MAX_BLOCK));
    while let Some((last, rest)) = batch.split_last() {
        let is_block = walk.axes.extent(*last).as_const().is_some_and(|extent| extent <= MAX_BLOCK);
        if !is_long || !is_block || rest.is_empty() || n_places(walk, rest).is_some_and(|n| n < MANY_PLACES) {
            break;
        }
        batch.pop();
    }
    batch
}

/// True if `node` reads every value of the anchors `inside` at its own place along `class`.
fn reads_in_place(walk: &Walk<'_>, is_anchor: &[bool], inside: &BTreeSet<N>, node: N, class: Class) -> bool {
    let graph = walk.graph;
    let mut open: Vec<(V, bool)> = vec![];
    let mut seen = BTreeSet::new();
    let body = walk.body_nodes(node);
    for reader in body.iter().copied().chain([node]) {
        for (pos, arg) in graph.nodes[reader].args.iter().enumerate() {
            open.push((*arg, walk.aligned(reader, pos, class)));
        }
    }
    while let Some((value, aligned)) = open.pop() {
        let Source::Node(def, _) = graph.values[value].source else { continue };
        if !seen.insert((value, aligned)) || graph.nodes[def].region != 0 {
            continue;
        }
        if is_anchor[def] {
            if inside.contains(&def) && !aligned {
                return false;
            }
            continue;
        }
        for (pos, arg) in graph.nodes[def].args.iter().enumerate() {
            open.push((*arg, aligned && walk.aligned(def, pos, class)));
        }
    }
    true
}
