//! Loops rotated, so that the end of an iteration and the beginning of the next can be one kernel.
//!
//! In: a function over primitives, with its loop bodies. Out: the same function, where a loop whose body does something
//! before large matrix products (a stack of layers, each around a branch) begins with the products: what came before them
//! stands at the end of the iteration before, and once in front of the loop; what comes after them in the last iteration
//! stands behind it. A stream that one layer writes and the next one reads is then read while it is on chip.
//!
//! A loop that stacks slices gives what it stacks in both places: rows of the loop, and of the iteration outside of it a row
//! that is put in front of them or behind (`schedule/assembled.rs` has it written there).
//!
//! Assumes that the module verifies. Whether it pays is for a cost model to say. Loops of an unknown trip count or fewer than
//! two iterations stay as they are.

mod cut;

use crate::expand::expand;
use crate::schedule::graph::LoopShape;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::tensor::build::Builder;
use birkhoff_ir::tensor::inline::live;
use birkhoff_ir::tensor::{Attr, Def, Func, FuncId, Module, Node, Op, OpKind, ValueId};
use cut::{Cut, ancestors, is_free};
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
        .map(|value| known(value).ok_or_else(|| format!("value {} is used before its definition", value.0)))
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
    /// Positions of stacked results that the beginning of an iteration gives; the end gives the others.
    early_rows: BTreeSet<usize>,
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
        let Cut { is_late, waits, values: cut } = Cut::new(module, id, &shape);
        let late: Vec<usize> = (0..body.nodes.len()).filter(|place| is_late[*place]).collect();
        let is_early = |idx: &usize| {
            let value = body.outputs[*idx].value;
            let at_end = match body.values[value.0 as usize].def {
                Def::Input(slot) => slot as usize >= shape.n_carry,
                Def::Node { node, .. } => is_late[node as usize],
            };
            !at_end && !cut.contains(&value)
        };
        let early_rows: BTreeSet<usize> = (shape.n_carry..body.outputs.len()).filter(is_early).collect();
        let early_values = early_rows.iter().map(|idx| body.outputs[*idx].value);
        let early = ancestors(&body, cut.iter().copied().chain(early_values));
        let is_work = |place: &usize| !is_free(body.nodes[*place].op.kind);
        let is_cut_by_products = waits.iter().any(|waits| *waits);
        (is_cut_by_products && reads_state_in_sums(&body, &shape, &early) && late.iter().any(is_work))
            .then(|| Halves { body, shape, trip, early, late, cut: cut.into_iter().collect(), early_rows })
    }

    /// Emits the rotated loop with what is before and behind it; returns what the loop returned.
    fn rotated(
        &self,
        builder: &mut Builder<'_>,
        node: &Node,
        args: &[ValueId],
    ) -> Result<Vec<ValueId>, String> {
        let (n_carry, n_scan) = (self.shape.n_carry, self.shape.n_scan);
        let (scanned, rest) = (&args[n_carry..n_carry + n_scan], &args[n_carry + n_scan..]);
        let (first_slice, last_slice) =
            if self.shape.reverse { (self.trip - 1, 0) } else { (0, self.trip - 1) };
        // Before the loop: the beginning of the first iteration.
        let mut first: ValueMap = self.inputs(0..n_carry).zip(args.iter().copied()).collect();
        first.extend(self.inputs(n_carry + n_scan..args.len()).zip(rest.iter().copied()));
        self.slices(builder, scanned, first_slice, &mut first)?;
        self.copy(builder, &self.early, &mut first)?;
        let state = mapped(&first, &self.cut)?;

        let body = self.new_body(builder)?;
        // The end is that of all iterations but the last, the beginning that of all but the first.
        let starts = if self.shape.reverse { [1, 0] } else { [0, 1] };
        let mut operands = vec![];
        for (start, inputs) in starts.into_iter().zip([self.late_scans(), self.early_scans()]) {
            for slot in inputs {
                let end = Dim::constant(start + self.trip - 1);
                operands.push(builder.slice(args[slot], 0, Dim::constant(start), end)?);
            }
        }
        builder.set_span(node.span);
        let attrs = vec![
            Attr::Func(body),
            Attr::Dim(Dim::constant(self.trip - 1)),
            Attr::Int(state.len() as i64),
            Attr::Int(operands.len() as i64),
            Attr::Bool(self.shape.reverse),
        ];
        let all: Vec<ValueId> = state.iter().chain(&operands).chain(rest).copied().collect();
        let mut found = builder.op(Op::new(OpKind::Loop, attrs), &all)?;
        let rows = found.split_off(state.len());

        // Behind it: the end of the last iteration.
        let mut last: ValueMap =
            self.inputs(n_carry + n_scan..args.len()).zip(rest.iter().copied()).collect();
        last.extend(self.cut.iter().copied().zip(found));
        self.slices(builder, scanned, last_slice, &mut last)?;
        self.copy(builder, &self.late, &mut last)?;
        let outputs: Vec<ValueId> = self.body.outputs.iter().map(|out| out.value).collect();
        let mut results = mapped(&last, &outputs[..n_carry])?;
        for ((idx, value), rows) in outputs.iter().enumerate().skip(n_carry).zip(rows) {
            let is_early = self.early_rows.contains(&idx);
            let row = mapped(if is_early { &first } else { &last }, &[*value])?[0];
            let mut shape = builder.ty(row).shape.clone();
            shape.insert(0, Dim::constant(1));
            let row = builder.reshape(row, shape)?;
            // The first iteration has the first slice, or the last one if slices are taken backwards.
            let parts = if is_early != self.shape.reverse { [row, rows] } else { [rows, row] };
            results.push(builder.op(Op::new(OpKind::Concat, vec![Attr::Int(0)]), &parts)?[0]);
        }
        Ok(results)
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
            for (scans, map) in [(self.late_scans(), &mut now), (self.early_scans(), &mut next)] {
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
            let states: Vec<ValueId> = self.body.outputs[..n_carry].iter().map(|out| out.value).collect();
            next.extend(self.inputs(0..n_carry).zip(mapped(&now, &states)?));
            self.copy(inner, &self.early, &mut next)?;
            for value in mapped(&next, &self.cut)? {
                inner.fresh_output("next", value)?;
            }
            for (idx, out) in self.body.outputs.iter().enumerate().skip(n_carry) {
                let map = if self.early_rows.contains(&idx) { &next } else { &now };
                inner.fresh_output(&out.name, mapped(map, &[out.value])?[0])?;
            }
            Ok(())
        })
    }

    fn inputs(&self, slots: std::ops::Range<usize>) -> impl Iterator<Item = ValueId> {
        slots.map(|slot| ValueId(slot as u32))
    }

    /// Positions of the scanned operands that the end reads or returns.
    fn late_scans(&self) -> Vec<usize> {
        let returned = |slot: usize| self.body.outputs.iter().any(|out| out.value == ValueId(slot as u32));
        self.scans(|slot| returned(slot) || self.is_read(slot, &self.late))
    }

    /// Positions of the scanned operands that the beginning reads.
    fn early_scans(&self) -> Vec<usize> {
        self.scans(|slot| self.is_read(slot, &self.early))
    }

    fn scans(&self, is_wanted: impl Fn(usize) -> bool) -> Vec<usize> {
        let first = self.shape.n_carry;
        (first..first + self.shape.n_scan).filter(|slot| is_wanted(*slot)).collect()
    }

    fn is_read(&self, slot: usize, nodes: &[usize]) -> bool {
        nodes.iter().any(|node| self.body.nodes[*node].args.contains(&ValueId(slot as u32)))
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
