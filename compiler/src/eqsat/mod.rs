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
mod hash;
pub mod import;
mod needs;
pub mod pattern;
pub mod rewriter;
pub mod rules;
pub mod saturate;
pub mod term;

pub use rules::{Class, Math, Theme};
pub use saturate::{Limits, StopReason};

use crate::cost::{Cost, CostModel, Edges, default_sizes};
use crate::desk::{Desk, Pending, with_desk};
use crate::expand;
use crate::simplify::merge_equal_nodes;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::tensor::{Attr, Func, FuncId, Module, OpKind};
use emit::{Origins, emit};
use extract::{Terms, WEIGHTINGS};
use facts::Facts;
use import::{Flat, append_body, flatten};
use quanta::Clock;
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
}

struct Done {
    func: Func,
    /// True if this is the function as it was given.
    is_original: bool,
    cost_before: Cost,
    cost: Cost,
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
    // egg times its rebuilds, for a log that nobody reads, and the first look at its clock calibrates it against the
    // system's for up to 200 ms. A clock that stands still needs no calibration.
    let (clock, _) = Clock::mock();
    quanta::with_clock(&clock, || optimize_untimed(module, func, options, cost))
}

fn optimize_untimed(
    module: &Module,
    func: FuncId,
    options: &Options,
    cost: &dyn CostModel,
) -> Result<Optimized, Diagnostic> {
    let refused = |message: String| Diagnostic::verify(format!("eqsat: {message}"));
    let (expanded, place) = expand::expand(module, func).map_err(refused)?;
    let mut session = Session {
        source: module.clone(),
        target: Module { dims: module.dims.clone(), params: module.params.clone(), funcs: vec![] },
        done: BTreeMap::new(),
        facts: BTreeMap::new(),
        applied: BTreeMap::new(),
        options,
    };
    let done = with_desk(|desk| {
        let price = desk.put(|| cost.price(&expanded, place));
        session.optimize(func, Some(Original { func: expanded.func(place), price, cost, desk }))
    });
    let done = done.map_err(refused)?;
    let report = Report {
        cost_before: done.cost_before,
        cost_after: done.cost,
        iterations: done.run.iterations,
        n_nodes: done.n_nodes,
        n_classes: done.n_classes,
        stop_reason: done.run.stop_reason,
        chain: done.chain,
        applied: session.applied,
    };
    if done.is_original {
        return Ok(Optimized { module: expanded, func: place, report });
    }
    let mut all = session.target;
    all.funcs.push(done.func);
    let last = FuncId(all.funcs.len() as u32 - 1);
    // Only the bodies that are used, before the functions that use them.
    let (module, func) = expand::expand(&all, last).map_err(refused)?;
    Ok(Optimized { module, func, report })
}

impl Session<'_> {
    /// `original` is given for a function whose original form and bodies may be kept.
    fn optimize(&mut self, id: FuncId, original: Option<Original<'_, '_>>) -> Result<Done, String> {
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
        self.saturated(&flat, original)
    }

    /// The optimised body, put into the target once.
    fn body(&mut self, id: FuncId) -> Result<FuncId, String> {
        if let Some(known) = self.done.get(&id) {
            return Ok(*known);
        }
        let done = self.optimize(id, None)?;
        let place = append_body(&mut self.target, done.func);
        self.facts.entry(place).or_insert(done.outputs);
        self.done.insert(id, place);
        Ok(place)
    }

    fn saturated(&mut self, flat: &Flat, original: Option<Original<'_, '_>>) -> Result<Done, String> {
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
        let mut candidates = self.candidates(&loaded, &terms, flat, &origins);
        let mut module = loaded.graph.analysis.take_module();
        let (first, others) = match original {
            Some(original) => {
                if options.sample.is_none() {
                    prune(&mut module, &mut candidates);
                }
                let others = original.priced(&module, candidates)?;
                let cost = original.desk.wait(&original.price);
                (Priced { cost, func: original.func.clone(), choice: None, is_original: true }, others)
            }
            // A body is part of a kernel, which a precise model of whole kernels cannot know.
            None => {
                let model = Edges::default();
                let first = priced(&model, &mut module, (merge_equal_nodes(&flat.func), None));
                (first, candidates.into_iter().map(|other| priced(&model, &mut module, other)).collect())
            }
        };
        let cost_before = first.cost;
        let Priced { cost, func, choice, is_original } = self.cheapest(first, others);
        self.target = module;
        self.facts = std::mem::take(&mut loaded.graph.analysis.bodies);
        let chain = match choice {
            Some(choice) if self.options.explain => {
                self.chain(flat, &loaded.graph, loaded.root, &choice, allowed)?
            }
            _ => vec![],
        };
        Ok(Done { func, is_original, cost_before, cost, outputs, run, n_nodes, n_classes, chain })
    }

    /// Programs that the outputs may be computed by, each once.
    fn candidates(&self, loaded: &Loaded, terms: &Terms, flat: &Flat, origins: &Origins) -> Vec<Candidate> {
        let choices: Vec<_> = match self.options.sample {
            Some(seed) => vec![terms.sample(seed)],
            None => WEIGHTINGS.iter().map(|weights| terms.choose(weights)).collect(),
        };
        let mut candidates: Vec<Candidate> = vec![];
        let mut seen: Vec<extract::Choice> = vec![];
        for choice in choices.into_iter().flatten() {
            if seen.contains(&choice) {
                continue;
            }
            seen.push(choice.clone());
            let Some(func) = emit(&loaded.graph, &choice, loaded.root, flat, origins) else { continue };
            if !candidates.iter().any(|(other, _)| *other == func) {
                candidates.push((func, Some(choice)));
            }
        }
        candidates
    }

    /// The first of the cheapest; with a seed, the drawn one.
    fn cheapest(&self, first: Priced, others: Vec<Priced>) -> Priced {
        let mut best = first;
        for priced in others {
            if priced.cost.total < best.cost.total || self.options.sample.is_some() {
                best = priced;
            }
        }
        best
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

/// A function over primitives as it was given, its price in the making, and who makes it.
struct Original<'s, 'env> {
    func: &'s Func,
    price: Pending<Cost>,
    cost: &'env dyn CostModel,
    desk: &'s Desk<'env>,
}

impl Original<'_, '_> {
    /// The prices of other functions, which may use the bodies of `module`: each as the module that it would become.
    fn priced(&self, module: &Module, candidates: Vec<Candidate>) -> Result<Vec<Priced>, String> {
        let mut jobs = vec![];
        for (func, choice) in candidates {
            let (mut all, cost) = (module.clone(), self.cost);
            all.funcs.push(func);
            let job = self.desk.put(move || -> Result<(Cost, Func), String> {
                let (module, place) = expand::expand(&all, FuncId(all.funcs.len() as u32 - 1))?;
                Ok((cost.price(&module, place), all.funcs.pop().unwrap_or_default()))
            });
            jobs.push((job, choice));
        }
        let results = jobs.into_iter().map(|(job, choice)| {
            let (cost, func) = self.desk.wait(&job)?;
            Ok(Priced { cost, func, choice, is_original: false })
        });
        results.collect()
    }
}

/// A program, and the choice of terms that it comes from.
type Candidate = (Func, Option<extract::Choice>);

/// A program with its price.
struct Priced {
    cost: Cost,
    func: Func,
    choice: Option<extract::Choice>,
    is_original: bool,
}

/// The price of a function that may use the bodies of `module`.
fn price_in(model: &dyn CostModel, module: &mut Module, func: Func) -> (Cost, Func) {
    module.funcs.push(func);
    let cost = model.price(module, FuncId(module.funcs.len() as u32 - 1));
    (cost, module.funcs.pop().unwrap_or_default())
}

fn priced(model: &dyn CostModel, module: &mut Module, (func, choice): Candidate) -> Priced {
    let (cost, func) = price_in(model, module, func);
    Priced { cost, func, choice, is_original: false }
}

/// Keeps the first candidate and those that [`Edges`] thinks best: a precise model takes its time.
fn prune(module: &mut Module, candidates: &mut Vec<Candidate>) {
    let mut estimated: Vec<(f64, usize, Candidate)> = vec![];
    for (place, (func, choice)) in std::mem::take(candidates).into_iter().enumerate() {
        let (cost, func) = price_in(&Edges::default(), module, func);
        estimated.push((if place == 0 { f64::NEG_INFINITY } else { cost.total }, place, (func, choice)));
    }
    estimated.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    estimated.truncate(N_PRICED);
    estimated.sort_by_key(|(_, place, _)| *place);
    candidates.extend(estimated.into_iter().map(|(.., candidate)| candidate));
}

/// How many candidates, besides the original, the cost model is asked about.
const N_PRICED: usize = 2;

struct Loaded {
    graph: Graph,
    classes: Vec<egg::Id>,
    root: egg::Id,
}
