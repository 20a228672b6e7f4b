//! From functions to terms.
//!
//! In: a function, its composites written out with [`flatten`], its loop bodies already optimised and part of the world's
//! module. Out: classes for its values; the class of a composite also holds the composite itself, so that rules of its level
//! apply.

use super::facts::Facts;
use super::rewriter::Rewriter;
use super::term::{Graph, Head, Term, is_tuple};
use birkhoff_ir::tensor::build::Builder;
use birkhoff_ir::tensor::{Domain, Func, FuncId, Module, Op, OpKind, ValueId};
use egg::Id;
use std::collections::BTreeMap;

/// A composite and the values of its expansion.
#[derive(Clone, Debug)]
pub struct Written {
    /// The composite.
    pub op: Op,
    /// Its operands.
    pub args: Vec<ValueId>,
    /// What it was written out as.
    pub results: Vec<ValueId>,
}

/// A function over primitives that remembers its composites.
#[derive(Clone, Debug)]
pub struct Flat {
    /// The function.
    pub func: Func,
    /// Its composites, inner ones after those that they are part of.
    pub written: Vec<Written>,
}

/// Writes out all composites of `func`; bodies of new loops are appended to `module`.
///
/// Errors: an expansion that refuses its operands (a verified module has none).
pub fn flatten(module: &mut Module, func: &Func) -> Result<Flat, String> {
    let mut flat = Flat { func: func.clone(), written: vec![] };
    while flat.func.nodes.iter().any(|node| node.op.kind.is_composite()) {
        flat = flatten_once(module, &flat)?;
    }
    Ok(flat)
}

fn flatten_once(module: &mut Module, flat: &Flat) -> Result<Flat, String> {
    let func = &flat.func;
    let values = func.values[..func.inputs.len()].to_vec();
    let shell = Func { nodes: vec![], outputs: vec![], values, ..func.clone() };
    let mut builder = Builder::resume(module, shell);
    let mut map: BTreeMap<ValueId, ValueId> = func.input_values().map(|value| (value, value)).collect();
    let mut fresh = vec![];
    for node in &func.nodes {
        let args: Vec<ValueId> = node.args.iter().map(|arg| map[arg]).collect();
        builder.set_span(node.span);
        let results = builder.expand(&node.op, &args)?;
        for (old, new) in node.results.iter().zip(&results) {
            map.insert(*old, *new);
            if let Some(name) = &func.values[old.0 as usize].name {
                builder.name(*new, name.clone());
            }
        }
        if node.op.kind.is_composite() {
            fresh.push(Written { op: node.op.clone(), args, results });
        }
    }
    for out in &func.outputs {
        builder.output(out.name.clone(), map[&out.value])?;
    }
    let moved = |values: &[ValueId]| values.iter().map(|value| map[value]).collect();
    let mut written: Vec<Written> = flat
        .written
        .iter()
        .map(|written| Written {
            op: written.op.clone(),
            args: moved(&written.args),
            results: moved(&written.results),
        })
        .collect();
    written.extend(fresh);
    Ok(Flat { func: builder.into_func(), written })
}

/// Adds a function of primitives on the classes `args`. Returns the classes of its outputs.
pub fn insert(cx: &mut Rewriter<'_>, func: &Func, args: &[Id]) -> Option<Vec<Id>> {
    let classes = insert_values(cx, func, args)?;
    Some(func.outputs.iter().map(|out| classes[out.value.0 as usize]).collect())
}

/// Adds a function of primitives on the classes `args`. Returns the class of each value.
pub fn insert_values(cx: &mut Rewriter<'_>, func: &Func, args: &[Id]) -> Option<Vec<Id>> {
    let mut classes: Vec<Id> = Vec::with_capacity(func.values.len());
    classes.extend(args.iter().take(func.inputs.len()));
    for node in &func.nodes {
        let operands: Vec<Id> = node.args.iter().map(|arg| classes[arg.0 as usize]).collect();
        let term = cx.add(&node.op, &operands)?;
        if is_tuple(node.op.kind) {
            classes.extend((0..node.results.len()).map(|idx| cx.get(term, idx)));
        } else {
            classes.push(term);
        }
    }
    Some(classes)
}

/// Adds the composites of `flat` to the classes of what they were written out as.
pub fn insert_written(cx: &mut Rewriter<'_>, flat: &Flat, classes: &[Id]) -> Option<()> {
    for written in &flat.written {
        let args: Vec<Id> = written.args.iter().map(|arg| classes[arg.0 as usize]).collect();
        let results: Vec<Id> = written.results.iter().map(|result| classes[result.0 as usize]).collect();
        let world = &mut cx.graph.analysis;
        let op = world.intern_op(&written.op);
        let types = |values: &[ValueId], world: &mut super::term::World| -> Vec<_> {
            values.iter().map(|value| world.intern_type(flat.func.ty(*value))).collect()
        };
        let (arg_types, result_types) = (types(&written.args, world), types(&written.results, world));
        world.declare(op, arg_types, result_types);
        let term = cx.add(&written.op, &args)?;
        if is_tuple(written.op.kind) {
            for (idx, result) in results.iter().enumerate() {
                let part = cx.get(term, idx);
                cx.union(part, *result, "expansion");
            }
        } else {
            cx.union(term, *results.first()?, "expansion");
        }
    }
    Some(())
}

/// Makes `body` a function of the world; the one that is there already if it is equal. What is known of the body `like` (less
/// the results `without`) is known of it.
pub fn adopt_body(graph: &mut Graph, body: Func, like: Option<(FuncId, &[usize])>) -> FuncId {
    let facts: Vec<Facts> =
        match like.and_then(|(id, without)| Some((graph.analysis.bodies.get(&id)?, without))) {
            Some((facts, without)) => facts
                .iter()
                .enumerate()
                .filter(|(idx, _)| !without.contains(idx))
                .map(|(_, facts)| *facts)
                .collect(),
            None => vec![],
        };
    let id = append_body(&mut graph.analysis.module, body);
    graph.analysis.bodies.insert(id, facts);
    id
}

/// The place of an equal function in `module`, where it is put if there is none. Names do not make functions different.
pub fn append_body(module: &mut Module, body: Func) -> FuncId {
    let equal = |other: &Func| {
        other.nodes.len() == body.nodes.len()
            && other.inputs.len() == body.inputs.len()
            && other.outputs.len() == body.outputs.len()
            && other.outputs.iter().zip(&body.outputs).all(|(a, b)| a.value == b.value)
            && other.values.iter().map(|value| &value.ty).eq(body.values.iter().map(|value| &value.ty))
            && other.nodes.iter().zip(&body.nodes).all(|(a, b)| a.op == b.op && a.args == b.args)
    };
    let known = module.funcs.iter().position(equal);
    let place = known.unwrap_or_else(|| {
        let mut body = body;
        let base = body.name.clone();
        let mut number = 1;
        while module.find(&body.name).is_some() {
            body.name = format!("{base}_{number}");
            number += 1;
        }
        module.funcs.push(body);
        module.funcs.len() - 1
    });
    FuncId(place as u32)
}

impl Rewriter<'_> {
    /// The result of that position of a tuple.
    pub fn get(&mut self, tuple: Id, idx: usize) -> Id {
        self.graph.add(Term { head: Head::Get(idx as u32), args: vec![tuple] })
    }

    /// Makes two classes one, because of `why`. True if they were two.
    pub fn union(&mut self, left: Id, right: Id, why: &str) -> bool {
        if self.graph.find(left) == self.graph.find(right) {
            return false;
        }
        let both = self.graph.analysis.combine(&self.graph[left].data, &self.graph[right].data);
        if let Err(message) = both {
            let terms = [left, right].map(|id| self.shown(id, 4));
            let message = format!("{why}: {message}, namely\n  {}\n  {}", terms[0], terms[1]);
            self.graph.analysis.stop(message);
            return false;
        }
        self.graph.union_trusted(left, right, why)
    }

    /// A term of the class as text, so many levels deep.
    fn shown(&self, id: Id, depth: usize) -> String {
        let Some(term) = self.graph[id].nodes.first() else { return "?".into() };
        if term.args.is_empty() || depth == 0 {
            return term.to_string();
        }
        let args: Vec<String> = term.args.iter().map(|arg| self.shown(*arg, depth - 1)).collect();
        format!("({term} {})", args.join(" "))
    }

    /// Applies a composite of one result, in one class with its expansion.
    pub fn composite(&mut self, op: &Op, args: &[Id]) -> Option<Id> {
        let mut scratch = Module { dims: self.graph.analysis.module.dims.clone(), ..Module::default() };
        let mut builder = Builder::new(&mut scratch, "scratch");
        let mut values = vec![];
        for (idx, arg) in args.iter().enumerate() {
            values.push(builder.input(format!("arg{idx}"), self.ty(*arg)?, Domain::default()).ok()?);
        }
        let result = builder.op1(op.clone(), &values).ok()?;
        builder.output("out", result).ok()?;
        let func = builder.into_func();
        let flat = flatten(&mut scratch, &func).ok()?;
        // A body here would belong to no module of ours.
        if flat.func.nodes.iter().any(|node| node.op.kind == OpKind::Loop) {
            return None;
        }
        let classes = insert_values(self, &flat.func, args)?;
        insert_written(self, &flat, &classes)?;
        flat.func.outputs.first().map(|out| classes[out.value.0 as usize])
    }
}
