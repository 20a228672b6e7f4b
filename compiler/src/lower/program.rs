//! A whole function becomes a plan: kernels in order, loops of the plan, buffers and the memory they share.

use super::kernel::{KernelCx, LoweredKernel, is_unsupported, lower};
use super::memory;
use super::rows::group_rows;
use super::stage_loads::load_in_stages;
use super::turned::walk_in_blocks;
use super::widen::widen;
use crate::schedule::anchors;
use crate::schedule::assembled::{self, behind_reshapes};
use crate::schedule::axes::Axes;
use crate::schedule::chunks::split_batch_sums;
use crate::schedule::cluster::{Cluster, is_small, loop_batch, partition};
use crate::schedule::copies::{copy_transposed, turn_factors};
use crate::schedule::graph::{Graph, LoopPath, LoopShape, N, Source, V};
use crate::schedule::padding::pad_rows;
use crate::schedule::products::{Product, large_product};
use crate::schedule::stages::Stager;
use crate::schedule::walk::Walk;
use crate::schedule::{LaneKind, Target};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::{Dim, Sym};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::build::Builder;
use birkhoff_ir::kernel::{Access, ForKind, Func, Index};
use birkhoff_ir::plan::{Arg, Buffer, BufferId, BufferKind, Contract, Matrix, Program, SizeDecl, Step};
use birkhoff_ir::tensor::{Attr, DimKind, FuncId, Module, OpKind, TensorType, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Builds the plan of `func`, a function of primitives in a bound module.
///
/// Errors: an op that no back end has; a defect of the scheduler, described.
pub fn build(module: &Module, func: FuncId, target: &Target) -> Result<Program, Diagnostic> {
    let source = module.func(func);
    let mut sizes = vec![];
    for decl in &module.dims {
        if let DimKind::RunTime { lo, hi, default } = decl.kind {
            sizes.push(SizeDecl { name: decl.name.clone(), bounds: (lo, hi), default });
        }
    }
    let program = Program {
        name: source.name.as_str().into(),
        sizes,
        buffers: vec![],
        slots: vec![],
        kernels: vec![],
        steps: vec![],
    };
    let mut builder = ProgramBuilder { module, target, program, n_loops: 0 };
    let mut inputs = vec![];
    for (idx, input) in source.inputs.iter().enumerate() {
        inputs.push(builder.buffer(&input.name, &source.values[idx].ty, BufferKind::Input));
    }
    let mut outputs = vec![];
    for out in &source.outputs {
        outputs.push(Some(builder.buffer(&out.name, source.ty(out.value), BufferKind::Output)));
    }
    let steps = builder.func(func, &inputs, &outputs)?;
    let mut program = builder.program;
    program.steps = steps;
    if target.lanes == LaneKind::Threads {
        for kernel in &mut program.kernels {
            load_in_stages(kernel);
            widen(kernel);
        }
    }
    if target.lanes == LaneKind::Vector {
        program.kernels.iter_mut().for_each(walk_in_blocks);
    }
    group_rows(&mut program)?;
    memory::assign_slots(&mut program);
    Ok(program)
}

struct ProgramBuilder<'a> {
    module: &'a Module,
    target: &'a Target,
    program: Program,
    n_loops: usize,
}

fn whole(buffer: BufferId) -> Arg {
    Arg { buffer, offset: Dim::default() }
}

/// The slot of a temporary before memory is planned.
const UNPLANNED: BufferKind = BufferKind::Temp(0);

impl ProgramBuilder<'_> {
    /// A new array; its name is made unique.
    fn buffer(&mut self, name: &str, ty: &TensorType, kind: BufferKind) -> Arg {
        self.array(name, ty.dtype, ty.shape.clone(), kind)
    }

    fn array(&mut self, name: &str, dtype: DType, shape: Vec<Dim>, kind: BufferKind) -> Arg {
        let taken = |name: &str| self.program.buffers.iter().any(|buffer| buffer.name.as_str() == name);
        let mut unique = name.to_string();
        let mut number = 1;
        while taken(&unique) {
            unique = format!("{name}_{number}");
            number += 1;
        }
        let buffer = Buffer { name: unique.into(), dtype, shape, kind };
        self.program.buffers.push(buffer);
        whole(BufferId(self.program.buffers.len() as u32 - 1))
    }

    fn size_names(&self) -> Vec<Sym> {
        self.program.sizes.iter().map(|size| size.name.clone()).collect()
    }

    /// The steps of one function on given memory; results without memory are there already.
    fn func(
        &mut self,
        func: FuncId,
        inputs: &[Arg],
        outputs: &[Option<Arg>],
    ) -> Result<Vec<Step>, Diagnostic> {
        let module = self.module;
        let (graph, axes) = open_graph(module, func, self.target, &|idx| outputs[idx].is_some());
        let walk = Walk { graph: &graph, axes: &axes };
        if let Some(node) = graph.nodes.iter().find(|node| is_unsupported(node.op.kind)) {
            let name = node.op.kind.name();
            return Err(Diagnostic::unsupported(format!("no kernel can compute `{name}` yet"))
                .help("run it with --target eval"));
        }
        let Cut { products, is_anchor, clusters } = cut(&walk, self.target);
        let mut places: BTreeMap<V, Arg> = graph.inputs.iter().copied().zip(inputs.iter().cloned()).collect();
        places.extend(graph.outputs.iter().map(|(_, value)| *value).zip(outputs.iter().flatten().cloned()));
        self.place_parts(&graph, &mut places);
        let n_users = count_users(&graph);
        let mut steps = vec![];
        for (idx, cluster) in clusters.iter().enumerate() {
            if let Some(product) = cluster.anchors.first().and_then(|node| products.get(node)) {
                let step = self.contract(&graph, cluster.anchors[0], product, &mut places)?;
                steps.push(step);
                continue;
            }
            if cluster.is_opaque {
                if graph.nodes[cluster.anchors[0]].op.kind == OpKind::Loop {
                    self.plan_loop(&walk, cluster.anchors[0], &mut places, &mut steps)?;
                }
                continue;
            }
            let writes = values_for_memory(&walk, &is_anchor, &clusters, idx);
            for value in &writes {
                self.place(&graph, *value, &mut places);
            }
            let sizes = self.size_names();
            let cx = KernelCx {
                walk: &walk,
                is_anchor: &is_anchor,
                n_users: &n_users,
                sizes: &sizes,
                target: self.target,
            };
            let name = format!("{}_{}", module.func(func).name, self.program.kernels.len());
            let kernel = lower(&cx, cluster, &writes, &name)
                .map_err(|why| Diagnostic::verify(format!("the scheduler lost a value: {why}")))?;
            steps.push(self.launch(kernel, &places)?);
        }
        Ok(steps)
    }

    /// The parts of arrays that are put together lie where they belong.
    fn place_parts(&mut self, graph: &Graph, places: &mut BTreeMap<V, Arg>) {
        for node in 0..graph.nodes.len() {
            let Some(parts) = assembled::parts(graph, node) else { continue };
            let whole = self.place(graph, graph.nodes[node].results[0], places);
            for (part, offset) in parts {
                places.insert(part, Arg { buffer: whole.buffer, offset: whole.offset.add(&offset) });
            }
        }
    }

    /// The memory of a value that something is about to write.
    fn place(&mut self, graph: &Graph, value: V, places: &mut BTreeMap<V, Arg>) -> Arg {
        if let Some(place) = places.get(&value) {
            return place.clone();
        }
        let info = &graph.values[value];
        let name = info.name.as_deref().unwrap_or("tmp");
        let arg = self.array(name, info.ty.dtype, info.memory_shape(), UNPLANNED);
        places.insert(value, arg.clone());
        arg
    }

    /// A contraction by the library.
    fn contract(
        &mut self,
        graph: &Graph,
        node: N,
        product: &Product,
        places: &mut BTreeMap<V, Arg>,
    ) -> Result<Step, Diagnostic> {
        let matrix = |place: Arg, offset: &Dim, strides: &[Dim; 3]| {
            let [batch, row, col] = strides.clone();
            Matrix { arg: Arg { buffer: place.buffer, offset: place.offset.add(offset) }, batch, row, col }
        };
        let mut factors = vec![];
        for part in &product.factors {
            let place = places.get(&part.value).cloned();
            let place =
                place.ok_or_else(|| Diagnostic::verify("a contraction reads a value that has no memory"))?;
            factors.push(matrix(place, &part.offset, &part.strides));
        }
        let result = self.place(graph, graph.nodes[node].results[0], places);
        let c = matrix(result, &Dim::default(), &product.result);
        let ([batch, m, n, k], [a, b]) = (
            product.extents.clone(),
            <[Matrix; 2]>::try_from(factors)
                .map_err(|_| Diagnostic::verify("a contraction has two factors"))?,
        );
        Ok(Step::Contract(Contract { batch, m, n, k, a, b, c }))
    }

    fn launch(&mut self, kernel: LoweredKernel, places: &BTreeMap<V, Arg>) -> Result<Step, Diagnostic> {
        let mut args = vec![];
        for value in kernel.reads.iter().chain(&kernel.writes) {
            let arg = places.get(value).cloned();
            args.push(arg.ok_or_else(|| Diagnostic::verify("a kernel reads a value that has no memory"))?);
        }
        Ok(Step::Launch { kernel: self.intern(kernel.func), args })
    }

    /// The position of a kernel, which is kept once however often it is built.
    fn intern(&mut self, func: Func) -> u32 {
        if let Some(known) = self.program.kernels.iter().position(|known| known.is_same_code(&func)) {
            return known as u32;
        }
        self.program.kernels.push(func);
        self.program.kernels.len() as u32 - 1
    }

    /// A loop over kernels: state in two buffers that swap after each iteration.
    fn plan_loop(
        &mut self,
        walk: &Walk<'_>,
        node: N,
        places: &mut BTreeMap<V, Arg>,
        steps: &mut Vec<Step>,
    ) -> Result<(), Diagnostic> {
        let gnode = &walk.graph.nodes[node];
        let shape = LoopShape::of(&gnode.op);
        let body = gnode.op.body().ok_or_else(|| Diagnostic::verify("a loop has no body"))?;
        let var: Sym = format!("iter{}", self.n_loops).into();
        self.n_loops += 1;
        let (mut inputs, mut outputs, mut swaps) = (vec![], vec![], vec![]);
        let stacked = self.stacked_states(walk.graph, node, body, places);
        for (idx, (arg, result)) in gnode.args.iter().zip(&gnode.results).take(shape.n_carry).enumerate() {
            let ty = walk.graph.values[*result].ty.clone();
            if let Some((_, stack)) = stacked.get(&idx) {
                let row =
                    |at: &Dim| Arg { buffer: stack.buffer, offset: stack.offset.add(&at.mul(&ty.n_elems())) };
                let count = Dim::sym(var.clone());
                steps.push(self.copy(&ty, place_of(places, *arg)?, stack.clone()));
                inputs.push(row(&count));
                outputs.push(Some(row(&count.add(&Dim::constant(1)))));
                places.insert(*result, row(&shape.trip));
                continue;
            }
            let name = walk.graph.values[*result].name.as_deref().unwrap_or("state").to_string();
            let now = self.buffer(&name, &ty, UNPLANNED);
            let next = self.buffer(&format!("{name}_next"), &ty, UNPLANNED);
            steps.push(self.copy(&ty, place_of(places, *arg)?, now.clone()));
            swaps.push((now.buffer, next.buffer));
            inputs.push(now);
            outputs.push(Some(next));
        }
        let iteration = if shape.reverse {
            shape.trip.sub(&Dim::constant(1)).sub(&Dim::sym(var.clone()))
        } else {
            Dim::sym(var.clone())
        };
        let slice = |arg: &Arg, ty: &TensorType| {
            let elems = ty.shape[1..].iter().fold(Dim::constant(1), |n, dim| n.mul(dim));
            Arg { buffer: arg.buffer, offset: arg.offset.add(&iteration.mul(&elems)) }
        };
        for (idx, arg) in gnode.args.iter().enumerate().skip(shape.n_carry) {
            let arg_place = operand_place(walk.graph, places, *arg)?;
            let is_scanned = idx < shape.n_carry + shape.n_scan;
            let ty = &walk.graph.values[*arg].ty;
            inputs.push(if is_scanned { slice(&arg_place, ty) } else { arg_place });
        }
        for (idx, result) in gnode.results.iter().enumerate().skip(shape.n_carry) {
            if let Some((_, stack)) = stacked.values().find(|(of, _)| *of == idx) {
                places.insert(*result, stack.clone());
                outputs.push(None);
                continue;
            }
            let info = &walk.graph.values[*result];
            let stack = match places.get(result) {
                Some(place) => place.clone(),
                None => self.buffer(info.name.as_deref().unwrap_or("stack"), &info.ty.clone(), UNPLANNED),
            };
            outputs.push(Some(slice(&stack, &info.ty)));
            places.insert(*result, stack);
        }
        let body_steps = self.func(body, &inputs, &outputs)?;
        steps.push(Step::Loop { var, trip: shape.trip, body: body_steps, swaps });
        for (idx, (result, state)) in gnode.results.iter().zip(&inputs).take(shape.n_carry).enumerate() {
            if stacked.contains_key(&idx) {
                continue;
            }
            match places.get(result).cloned() {
                Some(wanted) => {
                    let ty = walk.graph.values[*result].ty.clone();
                    steps.push(self.copy(&ty, state.clone(), wanted));
                }
                None => {
                    places.insert(*result, state.clone());
                }
            }
        }
        Ok(())
    }

    /// States of which a loop stacks what they are at the beginning of iterations: each with the position of that result, and
    /// memory for the stack with the last state behind it. There an iteration finds its state, and behind it leaves the next.
    fn stacked_states(
        &mut self,
        graph: &Graph,
        node: N,
        body: FuncId,
        places: &BTreeMap<V, Arg>,
    ) -> BTreeMap<usize, (usize, Arg)> {
        let gnode = &graph.nodes[node];
        let shape = LoopShape::of(&gnode.op);
        let body_outputs = &self.module.func(body).outputs;
        let mut found = BTreeMap::new();
        for state in (0..shape.n_carry).filter(|_| !shape.reverse) {
            let is_stack = |idx: &usize| body_outputs[*idx].value == ValueId(state as u32);
            let Some(stack) = (shape.n_carry..gnode.results.len()).find(is_stack) else { continue };
            let (value, last) = (gnode.results[stack], gnode.results[state]);
            let info = &graph.values[value];
            let n_elems = info.ty.n_elems();
            let memory = match (places.get(&value), places.get(&last)) {
                (Some(rows), Some(last)) => {
                    let is_behind = last.buffer == rows.buffer && last.offset == rows.offset.add(&n_elems);
                    is_behind.then(|| rows.clone())
                }
                (None, None) => {
                    let mut ty = info.ty.clone();
                    ty.shape[0] = ty.shape[0].add(&Dim::constant(1));
                    Some(self.buffer(info.name.as_deref().unwrap_or("stack"), &ty, UNPLANNED))
                }
                _ => None,
            };
            found.extend(memory.map(|memory| (state, (stack, memory))));
        }
        found
    }

    /// A launch that copies a dense array.
    fn copy(&mut self, ty: &TensorType, from: Arg, to: Arg) -> Step {
        const TILE: u32 = 4096;
        let n_elems = ty.n_elems();
        let mut b = Builder::new(format!("copy_{}", ty.dtype), self.size_names());
        let source = b.param("source", ty.dtype, vec![n_elems.clone()], Access::Read);
        let target = b.param("target", ty.dtype, vec![n_elems.clone()], Access::Write);
        let (base, count) = b.grid_axis("e", n_elems, TILE);
        let kind = match ty.dtype {
            DType::Bool => ForKind::Seq,
            _ => ForKind::Lanes { width: self.target.native_lanes },
        };
        b.stage("copy", |b| {
            b.for_range("i", 0, Index::var(count), kind, |b, i| {
                let place = vec![Index::var(base).add(&Index::var(i))];
                let element = b.load(source, place.clone());
                b.store(target, place, element);
            });
        });
        let mut func = b.finish();
        func.name = format!("copy_{}_{}", ty.dtype, self.program.kernels.len()).into();
        Step::Launch { kernel: self.intern(func), args: vec![from, to] }
    }
}

/// The memory of a closed loop's operand. Neighbouring slices of what is in memory anyway are read there.
fn operand_place(graph: &Graph, places: &BTreeMap<V, Arg>, value: V) -> Result<Arg, Diagnostic> {
    match slab(graph, value) {
        Some((source, offset)) => {
            let whole = place_of(places, source)?;
            Ok(Arg { buffer: whole.buffer, offset: whole.offset.add(&offset) })
        }
        None => place_of(places, value),
    }
}

/// The array of which `value` is a range along the first axis or another shape, and where it begins; only if that array is in
/// memory whoever reads it.
fn slab(graph: &Graph, value: V) -> Option<(V, Dim)> {
    let is_memory = |value: V| {
        graph.def(value).is_none_or(|(def, _)| {
            graph.nodes[def].op.kind == OpKind::Loop || assembled::parts(graph, def).is_some()
        })
    };
    let dense = behind_reshapes(graph, value);
    if dense != value && is_memory(dense) {
        return Some((dense, Dim::default()));
    }
    let (def, _) = graph.def(dense)?;
    let gnode = &graph.nodes[def];
    let [Attr::Int(0), Attr::Dim(start), _] = gnode.op.attrs.as_slice() else { return None };
    let source = *gnode.args.first().filter(|_| gnode.op.kind == OpKind::Slice)?;
    let slice = graph.values[source].ty.shape.iter().skip(1).fold(Dim::constant(1), |n, dim| n.mul(dim));
    let whole = behind_reshapes(graph, source);
    is_memory(whole).then(|| (whole, start.mul(&slice)))
}

fn place_of(places: &BTreeMap<V, Arg>, value: V) -> Result<Arg, Diagnostic> {
    places.get(&value).cloned().ok_or_else(|| Diagnostic::verify("a loop reads a value that has no memory"))
}

/// The graph of those results of `func` that `is_wanted` names, with those loops inlined that can stay on chip.
pub(super) fn open_graph(
    module: &Module,
    func: FuncId,
    target: &Target,
    is_wanted: &dyn Fn(usize) -> bool,
) -> (Graph, Axes) {
    let mut opaque: BTreeSet<LoopPath> = BTreeSet::new();
    loop {
        let mut graph = Graph::new(module, func, &opaque, is_wanted);
        let axes = Axes::new(&graph);
        let walk = Walk { graph: &graph, axes: &axes };
        let too_large = (0..graph.nodes.len())
            .find(|node| graph.nodes[*node].region == 0 && !stays_on_chip(&walk, *node, target));
        match too_large {
            Some(node) => {
                opaque.insert(graph.nodes[node].path.clone());
            }
            None => {
                let is_whole = |graph: &Graph, node: N| library_product(graph, node, target).is_some();
                split_batch_sums(&mut graph, &is_whole);
                if target.lanes == LaneKind::Vector {
                    pad_rows(&mut graph, target, &is_whole);
                    copy_transposed(&mut graph, target.lanes);
                }
                turn_factors(&mut graph, &|graph, node| library_product(graph, node, target));
                let axes = Axes::new(&graph);
                return (graph, axes);
            }
        }
    }
}

/// Most elements that one place of the batch may keep in tile memory, for each value: the streams of a token are as many. Threads
/// share a smaller memory.
fn max_state_elems(lanes: LaneKind) -> i64 {
    match lanes {
        LaneKind::Vector => 16 * 1024,
        LaneKind::Threads => 4096,
    }
}

/// What of a function is computed together.
pub(super) struct Cut {
    /// Contractions that a library does.
    pub(super) products: BTreeMap<N, Product>,
    /// Which nodes are computed once and kept.
    pub(super) is_anchor: Vec<bool>,
    /// Kernels, and nodes that are none: closed loops, contractions of a library.
    pub(super) clusters: Vec<Cluster>,
}

/// Cuts a function into kernels.
pub(super) fn cut(walk: &Walk<'_>, target: &Target) -> Cut {
    let graph = walk.graph;
    let products = library_products(graph, target);
    let is_anchor = anchors::find(walk, &kept_values(graph, &products), target.lanes);
    let is_opaque = |node: N| {
        let is_closed = graph.nodes[node].op.kind == OpKind::Loop && graph.nodes[node].body.is_none();
        is_closed || products.contains_key(&node) || assembled::parts(graph, node).is_some()
    };
    let clusters = partition(walk, &is_anchor, &is_opaque);
    Cut { products, is_anchor, clusters }
}

fn library_products(graph: &Graph, target: &Target) -> BTreeMap<N, Product> {
    let one = |node: N| Some((node, library_product(graph, node, target)?));
    (0..graph.nodes.len()).filter_map(one).collect()
}

/// The product that `node` is, if it goes to a library.
fn library_product(graph: &Graph, node: N, target: &Target) -> Option<Product> {
    if !target.library_contractions {
        return None;
    }
    large_product(graph, node)
}

/// True unless `node` is an inlined loop with work for a library, or one whose state is too large for a tile.
fn stays_on_chip(walk: &Walk<'_>, node: N, target: &Target) -> bool {
    let graph = walk.graph;
    if graph.nodes[node].body.is_none() {
        return true;
    }
    if walk.body_nodes(node).iter().any(|inner| library_product(graph, *inner, target).is_some()) {
        return false;
    }
    let batch = loop_batch(walk, node).classes;
    let stager = Stager { walk, is_anchor: &[], inside: &[], batch: &batch, target };
    if stager.is_token_work(node) || is_small(walk, node) {
        return true;
    }
    let fits = |value: &V| {
        let own = walk.axes.of_value(*value).into_iter().filter(|class| !batch.contains(class));
        let elems = own.fold(Dim::constant(1), |n, class| n.mul(walk.axes.extent(class)));
        elems.as_const().is_some_and(|elems| elems <= max_state_elems(target.lanes))
    };
    let mut inner = walk.body_nodes(node).into_iter();
    !batch.is_empty() && inner.all(|inner| graph.nodes[inner].results.iter().all(fits))
}

/// Values that must exist as such: outputs, next states, and what loops of the plan and contractions read.
fn kept_values(graph: &Graph, products: &BTreeMap<N, Product>) -> BTreeSet<V> {
    let mut kept: BTreeSet<V> = graph.outputs.iter().map(|(_, value)| *value).collect();
    kept.extend(graph.regions.iter().flat_map(|region| region.outputs.iter().copied()));
    kept.extend(products.values().flat_map(|product| &product.factors).map(|part| part.value));
    for (idx, node) in graph.nodes.iter().enumerate() {
        if let Some(parts) = assembled::parts(graph, idx) {
            kept.extend(node.results.iter().copied().chain(parts.into_iter().map(|(part, _)| part)));
        }
        if node.op.kind == OpKind::Loop && node.body.is_none() {
            let n_carry = LoopShape::of(&node.op).n_carry;
            kept.extend(&node.args[..n_carry]);
            kept.extend(node.args[n_carry..].iter().map(|arg| slab(graph, *arg).map_or(*arg, |slab| slab.0)));
        }
    }
    kept
}

fn count_users(graph: &Graph) -> Vec<usize> {
    let mut counts = vec![0; graph.values.len()];
    let args = graph.nodes.iter().flat_map(|node| &node.args);
    let outputs = graph.outputs.iter().map(|(_, value)| value);
    let states = graph.regions.iter().flat_map(|region| &region.outputs);
    for value in args.chain(outputs).chain(states) {
        counts[*value] += 1;
    }
    counts
}

/// Values of cluster `idx` that other clusters read, and outputs.
pub(super) fn values_for_memory(
    walk: &Walk<'_>,
    is_anchor: &[bool],
    clusters: &[Cluster],
    idx: usize,
) -> Vec<V> {
    let graph = walk.graph;
    let mut read_elsewhere: BTreeSet<V> = graph.outputs.iter().map(|(_, value)| *value).collect();
    for (other, cluster) in clusters.iter().enumerate() {
        if other == idx {
            continue;
        }
        let mut open: Vec<V> = vec![];
        for anchor in &cluster.anchors {
            open.extend(graph.nodes[*anchor].args.iter().copied());
            for inner in walk.body_nodes(*anchor) {
                open.extend(graph.nodes[inner].args.iter().copied());
            }
        }
        let mut seen = BTreeSet::new();
        while let Some(value) = open.pop() {
            if !seen.insert(value) {
                continue;
            }
            let Source::Node(def, _) = graph.values[value].source else { continue };
            if is_anchor[def] {
                read_elsewhere.insert(value);
            } else {
                open.extend(graph.nodes[def].args.iter().copied());
            }
        }
    }
    let own = clusters[idx].anchors.iter().flat_map(|node| graph.nodes[*node].results.iter().copied());
    own.filter(|value| read_elsewhere.contains(value)).collect()
}
