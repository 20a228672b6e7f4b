//! Loops rotated, so that the end of an iteration and the beginning of the next can be one kernel.
//!
//! In: a function over primitives, with its loop bodies. Out: the same function, where a loop whose body does something
//! before large matrix products (a stack of layers, each around a branch) begins with the products: what came before them
//! stands at the end of the iteration before, and once in front of the loop; what comes after them in the last iteration
//! stands behind it. A stream that one layer writes and the next one reads is then read while it is on chip.
//!
//! Assumes that the module verifies. Whether it pays is for a cost model to say. Loops that stack slices, that run backwards,
//! and those of an unknown trip count or fewer than two iterations stay as they are.

use crate::cost::default_sizes;
use crate::expand::expand;
use crate::schedule::graph::{Graph, LoopPath, LoopShape, N};
use crate::schedule::products::large_product;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::tensor::build::Builder;
use birkhoff_ir::tensor::inline::live;
use birkhoff_ir::tensor::{Attr, Def, Func, FuncId, Module, Node, OpKind, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// The module with the rotated function in place of `func`; `None` if no loop of it can be rotated.
///
/// Errors: an op that refuses its operands (a verified module has none).
pub fn rotate(module: &Module, func: FuncId) -> Result<Option<(Module, FuncId)>, String> {
    let source = module.func(func).clone();
    let halves: BTreeMap<usize, Halves> = source
        .nodes
        .iter()
        .enumerate()
        .filter_map(|(place, node)| Some((place, Halves::of(module, node)?)))
        .collect();
    if halves.is_empty() {
        return Ok(None);
    }
    let mut module = module.clone();
    let shell = Func {
        nodes: vec![],
        outputs: vec![],
        values: source.values[..source.inputs.len()].to_vec(),
        ..source.clone()
    };
    let mut builder = Builder::resume(&mut module, shell);
    let mut map: ValueMap = source.input_values().map(|value| (value, value)).collect();
    for (place, node) in source.nodes.iter().enumerate() {
        builder.set_span(node.span);
        let args = mapped(&map, &node.args)?;
        let results = match halves.get(&place) {
            Some(halves) => halves.rotated(&mut builder, node, &args)?,
            None => builder.op(node.op.clone(), &args)?,
        };
        for (old, new) in node.results.iter().zip(results) {
            map.insert(*old, new);
            if let Some(name) = &source.values[old.0 as usize].name {
                builder.name(new, name.clone());
            }
        }
    }
    for out in &source.outputs {
        let value = mapped(&map, &[out.value])?[0];
        builder.output(out.name.clone(), value)?;
    }
    let rotated = live(&builder.into_func());
    module.funcs.push(rotated);
    let place = FuncId(module.funcs.len() as u32 - 1);
    expand(&module, place).map(Some)
}

type ValueMap = BTreeMap<ValueId, ValueId>;

fn mapped(map: &ValueMap, values: &[ValueId]) -> Result<Vec<ValueId>, String> {
    let known = |value: &ValueId| map.get(value).copied();
    values
        .iter()
        .map(|value| known(value).ok_or_else(|| "a value is used before its definition".to_string()))
        .collect()
}

/// A loop body, cut before its first products.
struct Halves {
    body: Func,
    shape: LoopShape,
    trip: i64,
    /// Nodes before the products.
    early: Vec<usize>,
    /// The products and what waits for them, and what is free to compute again.
    late: Vec<usize>,
    /// What `late` and the next state read of the beginning: state, and results of `early`.
    cut: Vec<ValueId>,
}

impl Halves {
    /// `None` if `node` is no loop that can be rotated, or if nothing would be gained.
    fn of(module: &Module, node: &Node) -> Option<Halves> {
        if node.op.kind != OpKind::Loop {
            return None;
        }
        let shape = LoopShape::of(&node.op);
        let trip = shape.trip.as_const().filter(|trip| *trip >= 2)?;
        let id = node.op.body()?;
        let body = module.func(id).clone();
        if shape.reverse || node.results.len() != shape.n_carry {
            return None;
        }
        let mut waits = waiting(module, id);
        let (mut is_late, mut cut) = cut_before(&body, &shape, &waits);
        let products = read_by_products(module, id, &body);
        while let Some(sinks) =
            cut.iter().find_map(|value| sinking(module, &body, &shape, &cut, &products, *value))
        {
            waits[sinks] = true;
            (is_late, cut) = cut_before(&body, &shape, &waits);
        }
        let late: Vec<usize> = (0..body.nodes.len()).filter(|place| is_late[*place]).collect();
        let early = ancestors(&body, &cut);
        let is_work = |place: &usize| !is_free(body.nodes[*place].op.kind);
        let is_cut_by_products = waits.iter().any(|waits| *waits);
        (is_cut_by_products && reads_state_in_sums(&body, &shape, &early) && late.iter().any(is_work))
            .then(|| Halves { body, shape, trip, early, late, cut: cut.into_iter().collect() })
    }

    /// Emits the rotated loop with what is before and behind it; returns the last state.
    fn rotated(
        &self,
        builder: &mut Builder<'_>,
        node: &Node,
        args: &[ValueId],
    ) -> Result<Vec<ValueId>, String> {
        let (n_carry, n_scan) = (self.shape.n_carry, self.shape.n_scan);
        let (scanned, rest) = (&args[n_carry..n_carry + n_scan], &args[n_carry + n_scan..]);
        // Before the loop: the beginning of the first iteration.
        let mut first: ValueMap = self.inputs(0..n_carry).zip(args.iter().copied()).collect();
        first.extend(self.inputs(n_carry + n_scan..args.len()).zip(rest.iter().copied()));
        self.slices(builder, scanned, 0, &mut first)?;
        self.copy(builder, &self.early, &mut first)?;
        let state = mapped(&first, &self.cut)?;

        let body = self.new_body(builder)?;
        let mut operands = vec![];
        for (start, inputs) in [(0, self.scans_of(&self.late)), (1, self.scans_of(&self.early))] {
            for slot in inputs {
                let end = Dim::constant(start + self.trip - 1);
                operands.push(builder.slice(args[slot], 0, Dim::constant(start), end)?);
            }
        }
        builder.set_span(node.span);
        let trip = Attr::Dim(Dim::constant(self.trip - 1));
        let state = builder.loop_op(body, trip, &state, &operands, rest)?;

        // Behind it: the end of the last iteration.
        let mut last: ValueMap =
            self.inputs(n_carry + n_scan..args.len()).zip(rest.iter().copied()).collect();
        last.extend(self.cut.iter().copied().zip(state));
        self.slices(builder, scanned, self.trip - 1, &mut last)?;
        self.copy(builder, &self.late, &mut last)?;
        mapped(&last, &self.body.outputs.iter().map(|out| out.value).collect::<Vec<_>>())
    }

    /// The end of one iteration and the beginning of the next.
    fn new_body(&self, builder: &mut Builder<'_>) -> Result<FuncId, String> {
        let (n_carry, n_scan) = (self.shape.n_carry, self.shape.n_scan);
        builder.nested(&self.body.name, |inner| {
            let mut add = |value: ValueId| {
                let info = &self.body.values[value.0 as usize];
                inner.fresh_input(info.name.as_deref().unwrap_or("state"), info.ty.clone())
            };
            let mut now = ValueMap::new();
            for value in &self.cut {
                now.insert(*value, add(*value)?);
            }
            let mut next = ValueMap::new();
            for (scans, map) in
                [(self.scans_of(&self.late), &mut now), (self.scans_of(&self.early), &mut next)]
            {
                for slot in scans {
                    let value = ValueId(slot as u32);
                    map.insert(value, add(value)?);
                }
            }
            for value in self.inputs(n_carry + n_scan..self.body.inputs.len()) {
                let same = add(value)?;
                now.insert(value, same);
                next.insert(value, same);
            }
            self.copy(inner, &self.late, &mut now)?;
            let outputs: Vec<ValueId> = self.body.outputs.iter().map(|out| out.value).collect();
            next.extend(self.inputs(0..n_carry).zip(mapped(&now, &outputs)?));
            self.copy(inner, &self.early, &mut next)?;
            for value in mapped(&next, &self.cut)? {
                inner.fresh_output("next", value)?;
            }
            Ok(())
        })
    }

    fn inputs(&self, slots: std::ops::Range<usize>) -> impl Iterator<Item = ValueId> {
        slots.map(|slot| ValueId(slot as u32))
    }

    /// Positions of the scanned operands that some of `nodes` read.
    fn scans_of(&self, nodes: &[usize]) -> Vec<usize> {
        let first = self.shape.n_carry;
        let is_read = |slot: &usize| {
            let reads = |node: &usize| self.body.nodes[*node].args.contains(&ValueId(*slot as u32));
            nodes.iter().any(reads)
        };
        (first..first + self.shape.n_scan).filter(is_read).collect()
    }

    /// Slice `at` of every scanned operand.
    fn slices(
        &self,
        builder: &mut Builder<'_>,
        scanned: &[ValueId],
        at: i64,
        map: &mut ValueMap,
    ) -> Result<(), String> {
        for (slot, whole) in scanned.iter().enumerate() {
            let value = ValueId((self.shape.n_carry + slot) as u32);
            let part = builder.slice(*whole, 0, Dim::constant(at), Dim::constant(at + 1))?;
            let part = builder.reshape(part, self.body.ty(value).shape.clone())?;
            map.insert(value, part);
        }
        Ok(())
    }

    /// Copies nodes of the body.
    fn copy(&self, builder: &mut Builder<'_>, nodes: &[usize], map: &mut ValueMap) -> Result<(), String> {
        for place in nodes {
            let node = &self.body.nodes[*place];
            builder.set_span(node.span);
            let results = builder.op(node.op.clone(), &mapped(map, &node.args)?)?;
            for (old, new) in node.results.iter().zip(results) {
                map.insert(*old, new);
                if let Some(name) = &self.body.values[old.0 as usize].name {
                    builder.name(new, name.clone());
                }
            }
        }
        Ok(())
    }
}

/// Given the nodes that wait for products: all nodes of the end of an iteration, with what is free to compute again, and the
/// values of its beginning that they and the next state read.
fn cut_before(body: &Func, shape: &LoopShape, waits: &[bool]) -> (Vec<bool>, BTreeSet<ValueId>) {
    let mut is_late = waits.to_vec();
    let mut cut: BTreeSet<ValueId> = BTreeSet::new();
    let late_args = (0..body.nodes.len()).filter(|place| waits[*place]).flat_map(|n| &body.nodes[n].args);
    let mut open: Vec<ValueId> =
        late_args.chain(body.outputs.iter().map(|out| &out.value)).copied().collect();
    while let Some(value) = open.pop() {
        match body.values[value.0 as usize].def {
            Def::Input(slot) if (slot as usize) < shape.n_carry => {
                cut.insert(value);
            }
            Def::Input(_) => {}
            Def::Node { node, .. } if waits[node as usize] => {}
            Def::Node { node, .. } if is_free(body.nodes[node as usize].op.kind) => {
                is_late[node as usize] = true;
                open.extend(&body.nodes[node as usize].args);
            }
            Def::Node { .. } => {
                cut.insert(value);
            }
        }
    }
    (is_late, cut)
}

/// The node of a value of the cut that had better stand at the end: a stream that is made of the state and a handful of
/// coefficients. Then the state itself is handed on, which is there anyway, and whoever reads it next finds it computed.
fn sinking(
    module: &Module,
    body: &Func,
    shape: &LoopShape,
    cut: &BTreeSet<ValueId>,
    products: &BTreeSet<ValueId>,
    value: ValueId,
) -> Option<usize> {
    /// So many times as large as a coefficient is a stream.
    const STREAM: i64 = 8;
    let Def::Node { node, .. } = body.values[value.0 as usize].def else { return None };
    let sizes = default_sizes(module);
    let elems = |value: ValueId| body.ty(value).n_elems().eval(&sizes).unwrap_or(i64::MAX);
    let is_state = |arg: ValueId| (arg.0 as usize) < shape.n_carry;
    let args = &body.nodes[node as usize].args;
    let fits = |arg: &ValueId| {
        is_state(*arg) || cut.contains(arg) || elems(*arg).saturating_mul(STREAM) <= elems(value)
    };
    let is_made_of_state = args.iter().any(|arg| is_state(*arg)) && args.iter().all(fits);
    (is_made_of_state && !products.contains(&value)).then_some(node as usize)
}

/// What large products read, through ops that are free.
fn read_by_products(module: &Module, id: FuncId, body: &Func) -> BTreeSet<ValueId> {
    let graph = closed_graph(module, id);
    let mut read = BTreeSet::new();
    let mut open: Vec<ValueId> = vec![];
    for (place, node) in body.nodes.iter().enumerate() {
        if is_product(&graph, place) {
            open.extend(&node.args);
        }
    }
    while let Some(value) = open.pop() {
        read.insert(value);
        if let Some((node, _)) = body.def(value)
            && is_free(node.op.kind)
        {
            open.extend(&node.args);
        }
    }
    read
}

/// The graph of a body with all its loops closed: its nodes are those of the function, in order.
fn closed_graph(module: &Module, body: FuncId) -> Graph {
    let n_nodes = module.func(body).nodes.len() as u32;
    let closed: BTreeSet<LoopPath> = (0..n_nodes).map(|place| vec![place]).collect();
    Graph::new(module, body, &closed)
}

/// For every node of a body, whether it is a large product or waits for one.
fn waiting(module: &Module, body: FuncId) -> Vec<bool> {
    let func = module.func(body);
    let graph = closed_graph(module, body);
    let mut waits = vec![false; func.nodes.len()];
    for (place, node) in func.nodes.iter().enumerate() {
        let waits_for_args = node.args.iter().any(|arg| match func.values[arg.0 as usize].def {
            Def::Node { node, .. } => waits[node as usize],
            Def::Input(_) => false,
        });
        waits[place] = waits_for_args || is_product(&graph, place);
    }
    waits
}

fn is_product(graph: &Graph, node: N) -> bool {
    large_product(graph, node).is_some()
}

/// Nodes that `values` come from, in order.
fn ancestors(body: &Func, values: &BTreeSet<ValueId>) -> Vec<usize> {
    let mut needed = vec![false; body.nodes.len()];
    let mut open: Vec<ValueId> = values.iter().copied().collect();
    while let Some(value) = open.pop() {
        if let Def::Node { node, .. } = body.values[value.0 as usize].def
            && !needed[node as usize]
        {
            needed[node as usize] = true;
            open.extend(&body.nodes[node as usize].args);
        }
    }
    (0..body.nodes.len()).filter(|node| needed[*node]).collect()
}

/// Whether the beginning sums over the state: else it fuses with whatever reads it, and nothing is gained.
fn reads_state_in_sums(body: &Func, shape: &LoopShape, early: &[usize]) -> bool {
    let mut from_state = vec![false; body.values.len()];
    from_state[..shape.n_carry].iter_mut().for_each(|slot| *slot = true);
    let mut sums = false;
    for place in early {
        let node = &body.nodes[*place];
        let reads = node.args.iter().any(|arg| from_state[arg.0 as usize]);
        sums |= reads && matches!(node.op.kind, OpKind::Contract | OpKind::ReduceSum | OpKind::Loop);
        node.results.iter().for_each(|result| from_state[result.0 as usize] = reads);
    }
    sums
}

/// True for ops that are computed again rather than handed on: they cost nothing, and their results are larger.
fn is_free(kind: OpKind) -> bool {
    matches!(kind, OpKind::Const | OpKind::Iota | OpKind::Broadcast | OpKind::Reshape)
}
