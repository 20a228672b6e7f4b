//! Equality saturation: from a bound function to an equal one that is cheaper to run.
//!
//! In: a bound module, one of its functions, a cost model. Out: a module with that function over primitives and the loop
//! bodies it uses, and a report. Bodies are optimised first, each once, as functions of their own; then the function. The
//! original program is always among the candidates, so the result is never dearer by the given model.
//!
//! Assumes the module verifies. Deliberately absent: rules of associativity and commutativity, rules over several patterns,
//! wall clocks, schedules (the cost model is asked).

pub mod emit;
pub mod explain;
pub mod extract;
pub mod facts;
pub mod import;
pub mod pattern;
pub mod rewriter;
pub mod rules;
pub mod saturate;
pub mod term;

pub use rules::{Class, Math, Theme};
pub use saturate::{Limits, StopReason};

use crate::cost::{Cost, CostModel, default_sizes};
use crate::expand;
use crate::simplify::merge_equal_nodes;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::tensor::{Attr, Func, FuncId, Module, OpKind};
use emit::{Origins, emit};
use extract::{Terms, WEIGHTINGS};
use facts::Facts;
use import::{Flat, append_body, flatten};
use rewriter::Rewriter;
use saturate::{Allowed, Run, saturate};
use std::collections::BTreeMap;
use term::{Graph, Head, Term, World};

/// What to do.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which classes of rules.
    pub math: Math,
    /// How far to go, in every function.
    pub limits: Limits,
    /// Themes that are switched off.
    pub without: Vec<Theme>,
    /// Single rules that are switched off, by name.
    pub without_rules: Vec<String>,
    /// Find the chain of rules from the original to the result; costs a second run with explanations.
    pub explain: bool,
    /// For tests: instead of the cheapest program, one drawn with this seed from all that were found equal.
    pub sample: Option<u64>,
}

/// The result.
#[derive(Clone, PartialEq, Debug)]
pub struct Optimized {
    /// The function and its loop bodies, over primitives.
    pub module: Module,
    /// The function in it.
    pub func: FuncId,
    /// How it went.
    pub report: Report,
}

/// How it went.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// Of the program with its composites written out.
    pub cost_before: Cost,
    /// Of the result.
    pub cost_after: Cost,
    /// Iterations for the function itself.
    pub iterations: usize,
    /// Terms in its e-graph.
    pub n_nodes: usize,
    /// Classes in its e-graph.
    pub n_classes: usize,
    /// Why its run ended.
    pub stop_reason: StopReason,
    /// Rules that lead from the original to the result, in order and each once per use; empty unless asked for.
    pub chain: Vec<String>,
    /// How often each rule found something new, bodies included.
    pub applied: BTreeMap<&'static str, usize>,
}

/// State while the functions of one call are optimised.
struct Session<'a> {
    /// The input, and bodies of loops that composites are written out as.
    source: Module,
    /// Optimised bodies.
    target: Module,
    done: BTreeMap<FuncId, FuncId>,
    facts: BTreeMap<FuncId, Vec<Facts>>,
    applied: BTreeMap<&'static str, usize>,
    options: &'a Options,
    cost: &'a dyn CostModel,
}

struct Done {
    func: Func,
    outputs: Vec<Facts>,
    run: Run,
    n_nodes: usize,
    n_classes: usize,
    chain: Vec<String>,
}

/// Replaces `func` by an equal function that costs less, if one is found.
///
/// Errors: facts that contradict each other or a term without a type, with the rule and the terms (our fault).
pub fn optimize(
    module: &Module,
    func: FuncId,
    options: &Options,
    cost: &dyn CostModel,
) -> Result<Optimized, Diagnostic> {
    let refused = |message: String| Diagnostic::verify(format!("eqsat: {message}"));
    let (expanded, place) = expand::expand(module, func).map_err(refused)?;
    let cost_before = cost.price(&expanded, place);
    let mut session = Session {
        source: module.clone(),
        target: Module { dims: module.dims.clone(), params: module.params.clone(), funcs: vec![] },
        done: BTreeMap::new(),
        facts: BTreeMap::new(),
        applied: BTreeMap::new(),
        options,
        cost,
    };
    let done = session.optimize(func).map_err(refused)?;
    let mut all = session.target;
    all.funcs.push(done.func);
    let (result, id) = expand::expand(&all, FuncId(all.funcs.len() as u32 - 1)).map_err(refused)?;
    let mut report = Report {
        cost_before,
        cost_after: cost.price(&result, id),
        iterations: done.run.iterations,
        n_nodes: done.n_nodes,
        n_classes: done.n_classes,
        stop_reason: done.run.stop_reason,
        chain: done.chain,
        applied: session.applied,
    };
    if report.cost_after.total > cost_before.total && options.sample.is_none() {
        // Bodies that are cheaper alone were dearer in their place.
        report.cost_after = cost_before;
        report.chain.clear();
        return Ok(Optimized { module: expanded, func: place, report });
    }
    Ok(Optimized { module: result, func: id, report })
}

impl Session<'_> {
    fn optimize(&mut self, id: FuncId) -> Result<Done, String> {
        let func = self.source.func(id).clone();
        let mut flat = flatten(&mut self.source, &func)?;
        for node in &mut flat.func.nodes {
            if node.op.kind == OpKind::Loop
                && let Some(body) = node.op.body()
            {
                node.op.attrs[0] = Attr::Func(self.body(body)?);
            }
        }
        // A loop among composites would be a loop of the source; its expansion is there anyway.
        flat.written.retain(|written| written.op.kind != OpKind::Loop);
        self.saturated(&flat)
    }

    /// The optimised body, put into the target once.
    fn body(&mut self, id: FuncId) -> Result<FuncId, String> {
        if let Some(known) = self.done.get(&id) {
            return Ok(*known);
        }
        let done = self.optimize(id)?;
        let place = append_body(&mut self.target, done.func);
        self.facts.entry(place).or_insert(done.outputs);
        self.done.insert(id, place);
        Ok(place)
    }

    fn saturated(&mut self, flat: &Flat) -> Result<Done, String> {
        let mut loaded = self.load(flat, false)?;
        let options = self.options;
        let without_rules: Vec<&str> = options.without_rules.iter().map(String::as_str).collect();
        let allowed =
            Allowed { math: options.math, without: &options.without, without_rules: &without_rules };
        let run = saturate(&mut loaded.graph, &self.options.limits, allowed);
        if let Some(conflict) = &loaded.graph.analysis.conflict {
            return Err(conflict.message.clone());
        }
        for (rule, count) in &run.applied {
            *self.applied.entry(rule).or_insert(0) += count;
        }
        let graph = &loaded.graph;
        let (n_nodes, n_classes) = (graph.total_size(), graph.number_of_classes());
        let outputs = flat.func.outputs.iter().map(|out| {
            let id = loaded.classes[out.value.0 as usize];
            graph[id].data.results.first().map(|result| result.1).unwrap_or_default()
        });
        let outputs = outputs.collect();
        let origins = Origins::of(graph, flat, &loaded.classes);
        let terms = Terms::of(graph, loaded.root, &origins.terms());
        let mut candidates = vec![(merge_equal_nodes(&flat.func), None)];
        let choices = match self.options.sample {
            Some(seed) => {
                candidates.clear();
                vec![terms.sample(seed)]
            }
            None => WEIGHTINGS.iter().map(|weights| terms.choose(weights)).collect(),
        };
        for choice in choices.into_iter().flatten() {
            let Some(func) = emit(graph, &choice, loaded.root, flat, &origins) else { continue };
            if !candidates.iter().any(|(other, _)| *other == func) {
                candidates.push((func, Some(choice)));
            }
        }
        let mut module = loaded.graph.analysis.take_module();
        let (func, choice) = self.cheapest(&mut module, candidates);
        self.target = module;
        self.facts = std::mem::take(&mut loaded.graph.analysis.bodies);
        let chain = match choice {
            Some(choice) if self.options.explain => {
                self.chain(flat, &loaded.graph, loaded.root, &choice, allowed)?
            }
            _ => vec![],
        };
        Ok(Done { func, outputs, run, n_nodes, n_classes, chain })
    }

    /// The first of the cheapest candidates.
    fn cheapest(
        &self,
        module: &mut Module,
        candidates: Vec<(Func, Option<extract::Choice>)>,
    ) -> (Func, Option<extract::Choice>) {
        let mut best: Option<(f64, (Func, Option<extract::Choice>))> = None;
        for (func, choice) in candidates {
            module.funcs.push(func);
            let price = self.cost.price(module, FuncId(module.funcs.len() as u32 - 1)).total;
            let Some(func) = module.funcs.pop() else { continue };
            if best.as_ref().is_none_or(|(least, _)| price < *least) {
                best = Some((price, (func, choice)));
            }
        }
        best.map(|(_, candidate)| candidate).unwrap_or_default()
    }

    /// The e-graph of a function.
    fn load(&mut self, flat: &Flat, explanations: bool) -> Result<Loaded, String> {
        let module = std::mem::take(&mut self.target);
        let sizes = default_sizes(&module);
        let world = World::new(module, sizes, std::mem::take(&mut self.facts));
        let mut graph = Graph::new(world);
        if explanations {
            graph = graph.with_explanations_enabled();
        }
        for value in flat.func.input_values() {
            let ty = graph.analysis.intern_type(flat.func.ty(value));
            graph.analysis.inputs.push(ty);
        }
        let inputs: Vec<egg::Id> = flat
            .func
            .input_values()
            .map(|value| graph.add(Term { head: Head::Input(value.0), args: vec![] }))
            .collect();
        let mut cx = Rewriter { graph: &mut graph };
        let classes = import::insert_values(&mut cx, &flat.func, &inputs);
        let classes = classes.ok_or("the function does not type");
        let classes = classes
            .map_err(|why| cx.graph.analysis.conflict.as_ref().map_or(why.into(), |c| c.message.clone()))?;
        let outputs = flat.func.outputs.iter().map(|out| classes[out.value.0 as usize]).collect();
        let root = graph.add(Term { head: Head::Outputs, args: outputs });
        import::insert_written(&mut Rewriter { graph: &mut graph }, flat, &classes);
        graph.rebuild();
        Ok(Loaded { graph, classes, root })
    }

    /// Saturates again with explanations, and asks how the chosen term follows.
    fn chain(
        &mut self,
        flat: &Flat,
        first: &Graph,
        root: egg::Id,
        choice: &extract::Choice,
        allowed: Allowed<'_>,
    ) -> Result<Vec<String>, String> {
        let mut again = self.load(flat, true)?;
        saturate(&mut again.graph, &self.options.limits, allowed);
        let chain = explain::chain(&mut again.graph, again.root, first, root, choice);
        self.target = again.graph.analysis.take_module();
        self.facts = std::mem::take(&mut again.graph.analysis.bodies);
        Ok(chain)
    }
}

struct Loaded {
    graph: Graph,
    classes: Vec<egg::Id>,
    root: egg::Id,
}
