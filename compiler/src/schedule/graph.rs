//! A function and the loops that stay on chip, as one flat graph.
//!
//! In: a bound module of primitives and a function. Out: values and nodes in order of definition, where the body of an
//! on-chip loop is a *region* of its own and refers to the values around it directly (what stays the same in every iteration
//! needs no copy). A loop that is not on chip is one opaque node.

use crate::cost::default_sizes;
use birkhoff_ir::dim::{Dim, SizeEnv, Sym};
use birkhoff_ir::scalar::Scalar;
use birkhoff_ir::tensor::{Attr, FuncId, Module, Op, OpKind, TensorType, ValueId};
use std::collections::BTreeSet;

/// Position in [`Graph::values`].
pub type V = usize;
/// Position in [`Graph::nodes`].
pub type N = usize;
/// Position in [`Graph::regions`].
pub type R = usize;

/// Where a graph value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// An argument of the function.
    Input(usize),
    /// A result of a node.
    Node(N, usize),
    /// The state or slice of that position in a region.
    Body(R, usize),
}

/// One value.
#[derive(Clone, Debug)]
pub struct GValue {
    /// Its type.
    pub ty: TensorType,
    /// Where it comes from.
    pub source: Source,
    /// A name for reading.
    pub name: Option<Sym>,
    /// Elements between the end of one row and the next in memory; see [`super::copies`].
    pub gap: i64,
}

impl GValue {
    /// The array that it lies in, of which it is the first elements of every row.
    pub fn memory_shape(&self) -> Vec<Dim> {
        let mut shape = self.ty.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = last.add(&Dim::constant(self.gap));
        }
        shape
    }
}

/// One operation.
#[derive(Clone, Debug)]
pub struct GNode {
    /// What is computed.
    pub op: Op,
    /// Operands; of an on-chip loop: the initial state, then scanned values.
    pub args: Vec<V>,
    /// Results.
    pub results: Vec<V>,
    /// The region it stands in; 0 is the function itself.
    pub region: R,
    /// The body, for a loop that stays on chip.
    pub body: Option<R>,
    /// A reduction or contraction with one result per chunk of what it sums over, along a first axis; see
    /// [`super::chunks`].
    pub chunked: bool,
    /// A copy in another order, kept for what reads it; see [`super::copies`].
    pub copy: bool,
    /// Positions in the functions around that lead to the node.
    pub path: LoopPath,
}

/// The body of an on-chip loop.
#[derive(Clone, Debug, Default)]
pub struct Region {
    /// Number of iterations.
    pub trip: Dim,
    /// Number of state values.
    pub n_carry: usize,
    /// State and slices at the start of an iteration.
    pub inputs: Vec<V>,
    /// Next state, and slices to be stacked.
    pub outputs: Vec<V>,
    /// Whether slices are taken from the last to the first.
    pub reverse: bool,
}

impl GNode {
    /// A node of the function itself.
    pub fn plain(op: Op, args: Vec<V>, results: Vec<V>) -> GNode {
        GNode { op, args, results, region: 0, body: None, chunked: false, copy: false, path: vec![] }
    }
}

/// A function as one graph.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// All values.
    pub values: Vec<GValue>,
    /// All nodes in order of definition; the nodes of a body come before its loop.
    pub nodes: Vec<GNode>,
    /// Bodies; region 0 is the function itself.
    pub regions: Vec<Region>,
    /// Arguments.
    pub inputs: Vec<V>,
    /// Results by name.
    pub outputs: Vec<(Sym, V)>,
    /// What the sizes that are not known yet will probably be.
    pub likely: SizeEnv,
}

/// Which loops are opaque: the path of node positions that leads to them.
pub type LoopPath = Vec<u32>;

impl Graph {
    /// The graph of `func`, with the loops at `opaque` paths left closed, and those of its results that `is_wanted` names.
    pub fn new(
        module: &Module,
        func: FuncId,
        opaque: &BTreeSet<LoopPath>,
        is_wanted: &dyn Fn(usize) -> bool,
    ) -> Graph {
        let likely = default_sizes(module);
        let mut graph = Graph { regions: vec![Region::default()], likely, ..Graph::default() };
        let source = module.func(func);
        let mut args = vec![];
        for (idx, input) in source.inputs.iter().enumerate() {
            let ty = source.values[idx].ty.clone();
            args.push(graph.add_value(ty, Source::Input(idx), Some(input.name.clone())));
        }
        graph.inputs = args.clone();
        let outputs = graph.add_func(module, func, args, 0, &mut vec![], opaque);
        let wanted =
            |(idx, value): (usize, V)| is_wanted(idx).then_some((source.outputs[idx].name.clone(), value));
        let (names, outputs): (Vec<Sym>, Vec<V>) = outputs.into_iter().enumerate().filter_map(wanted).unzip();
        let outputs = graph.own_outputs(outputs, 0);
        graph.outputs = names.into_iter().zip(outputs).collect();
        graph
    }

    /// Adds a value.
    pub fn add_value(&mut self, ty: TensorType, source: Source, name: Option<Sym>) -> V {
        self.values.push(GValue { ty, source, name, gap: 0 });
        self.values.len() - 1
    }

    /// Puts `node` at position `at`, and those from there on behind it. Its results come from it now, whatever they came from.
    pub fn insert(&mut self, at: N, node: GNode) {
        for value in &mut self.values {
            if let Source::Node(def, _) = &mut value.source
                && *def >= at
            {
                *def += 1;
            }
        }
        for (idx, result) in node.results.iter().enumerate() {
            self.values[*result].source = Source::Node(at, idx);
        }
        self.nodes.insert(at, node);
    }

    /// Adds the nodes of `func` on arguments `args`; returns its outputs.
    fn add_func(
        &mut self,
        module: &Module,
        func: FuncId,
        args: Vec<V>,
        region: R,
        path: &mut LoopPath,
        opaque: &BTreeSet<LoopPath>,
    ) -> Vec<V> {
        let source = module.func(func);
        let mut map: Vec<Option<V>> = vec![None; source.values.len()];
        for (idx, arg) in args.into_iter().enumerate() {
            map[idx] = Some(arg);
        }
        let at = |map: &[Option<V>], value: ValueId| map[value.0 as usize].unwrap_or_default();
        for (pos, node) in source.nodes.iter().enumerate() {
            let mut args: Vec<V> = node.args.iter().map(|arg| at(&map, *arg)).collect();
            path.push(pos as u32);
            let mut body = None;
            if node.op.kind == OpKind::Loop
                && !opaque.contains(path)
                && let Some(body_func) = node.op.body()
            {
                let inner = self.add_body(module, body_func, &node.op, &args, path, opaque);
                args.truncate(self.regions[inner].inputs.len());
                body = Some(inner);
            }
            let own_path = path.clone();
            path.pop();
            let number = self.nodes.len();
            let mut results = vec![];
            for (idx, result) in node.results.iter().enumerate() {
                let value = &source.values[result.0 as usize];
                let new = self.add_value(value.ty.clone(), Source::Node(number, idx), value.name.clone());
                map[result.0 as usize] = Some(new);
                results.push(new);
            }
            self.nodes.push(GNode {
                op: node.op.clone(),
                args,
                results,
                region,
                body,
                chunked: false,
                copy: false,
                path: own_path,
            });
        }
        source.outputs.iter().map(|out| at(&map, out.value)).collect()
    }

    /// Results as nodes of `region`, each its own: what is passed through, or returned twice, becomes a copy.
    fn own_outputs(&mut self, outputs: Vec<V>, region: R) -> Vec<V> {
        let mut taken = BTreeSet::new();
        let mut owned = vec![];
        for value in outputs {
            let is_own = self.def(value).is_some_and(|(node, _)| self.nodes[node].region == region);
            if is_own && taken.insert(value) {
                owned.push(value);
                continue;
            }
            let number = self.nodes.len();
            let ty = self.values[value].ty.clone();
            let copy = self.add_value(ty, Source::Node(number, 0), None);
            let op = Op::plain(OpKind::StopGradient);
            self.nodes.push(GNode { region, ..GNode::plain(op, vec![value], vec![copy]) });
            owned.push(copy);
        }
        owned
    }

    fn add_body(
        &mut self,
        module: &Module,
        func: FuncId,
        op: &Op,
        args: &[V],
        path: &mut LoopPath,
        opaque: &BTreeSet<LoopPath>,
    ) -> R {
        let shape = LoopShape::of(op);
        let body = module.func(func);
        let region = self.regions.len();
        self.regions.push(Region::default());
        let mut inner_args = vec![];
        for (idx, arg) in args.iter().enumerate() {
            if idx < shape.n_carry + shape.n_scan {
                let ty = body.values[idx].ty.clone();
                let name = Some(body.inputs[idx].name.clone());
                inner_args.push(self.add_value(ty, Source::Body(region, idx), name));
            } else {
                inner_args.push(*arg);
            }
        }
        let inputs = inner_args[..shape.n_carry + shape.n_scan].to_vec();
        let outputs = self.add_func(module, func, inner_args, region, path, opaque);
        let outputs = self.own_outputs(outputs, region);
        self.regions[region] =
            Region { trip: shape.trip, n_carry: shape.n_carry, inputs, outputs, reverse: shape.reverse };
        region
    }

    /// The node that defines `value`.
    pub fn def(&self, value: V) -> Option<(N, usize)> {
        match self.values[value].source {
            Source::Node(node, result) => Some((node, result)),
            _ => None,
        }
    }

    /// The region that a value belongs to: where its definition stands.
    pub fn region_of(&self, value: V) -> R {
        match self.values[value].source {
            Source::Input(_) => 0,
            Source::Node(node, _) => self.nodes[node].region,
            Source::Body(region, _) => region,
        }
    }

    /// The loop node whose body is `region`.
    pub fn loop_of(&self, region: R) -> Option<N> {
        self.nodes.iter().position(|node| node.body == Some(region))
    }

    /// Users of every value: nodes, in order.
    pub fn users(&self) -> Vec<Vec<N>> {
        let mut users = vec![vec![]; self.values.len()];
        for (idx, node) in self.nodes.iter().enumerate() {
            for arg in &node.args {
                if users[*arg].last() != Some(&idx) {
                    users[*arg].push(idx);
                }
            }
        }
        users
    }
}

/// The attributes of a `loop`, as numbers.
#[derive(Clone, Debug)]
pub struct LoopShape {
    /// Number of iterations.
    pub trip: Dim,
    /// Number of state values.
    pub n_carry: usize,
    /// Number of scanned values.
    pub n_scan: usize,
    /// Whether slices are taken from the last to the first.
    pub reverse: bool,
}

impl LoopShape {
    /// Reads the attributes of a bound, verified `loop`.
    pub fn of(op: &Op) -> LoopShape {
        let module = Module::default();
        let count = |name: &str| op.number(&module, name).map_or(0, Scalar::as_i64).max(0) as usize;
        LoopShape {
            trip: op.dim(&module, "trip").unwrap_or_default(),
            n_carry: count("carry"),
            n_scan: count("scan"),
            reverse: matches!(op.attr("reverse"), Some(Attr::Bool(true))),
        }
    }
}
