//! What a backward function saves, what it computes again, and what that takes.
//!
//! In: a joint function of values and gradients, a budget. Out: the cheapest way to split it within the budget, with all
//! candidates and their prices. Decides by the cost model and the plan, never by running anything.

use crate::gradient::Loops;
use crate::options::Options;
use crate::pipeline::cost_of;
use crate::signature::Signature;
use crate::target::Target;
use birkhoff_compiler::cost::{bytes_of, default_sizes};
use birkhoff_compiler::lower::loops::on_chip;
use birkhoff_compiler::lower::price::Planner;
use birkhoff_compiler::split::{self, Parts, Split, split};
use birkhoff_ir::diag::{Diagnostic, Diagnostics, Span};
use birkhoff_ir::dim::{SizeEnv, Sym};
use birkhoff_ir::plan::{Program, memory};
use birkhoff_ir::tensor::{FuncId, Module};
use serde_json::{Value, json};
use std::fmt;

/// What a function with a backward call is compiled for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Backward {
    /// Names of the inputs whose gradients are wanted.
    pub wrt: Vec<String>,
    /// What is kept from the forward to the backward call.
    pub keep: Keep,
    /// The most that the backward call may take, in bytes, at the sizes given with the spec or their defaults:
    /// [`BackwardMemory::peak_bytes`].
    pub budget_bytes: Option<u64>,
}

/// What is kept from the forward to the backward call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Keep {
    /// What is cheapest by the cost model, within the budget.
    #[default]
    Auto,
    /// The results of dear work: contractions, large reductions, iterates of loops.
    Stash,
    /// The same but for loops that stay on chip: they run again from their input, in the kernel that takes them back.
    Rerun,
    /// The results of dear work, and the states of long loops every so many iterations: the others are made again from those, a
    /// block of them at a time.
    Rebuild,
    /// Nothing: all is computed again from the inputs.
    Nothing,
}

impl Keep {
    /// Those that are priced; [`Keep::Rebuild`], for which everything is differentiated again, where it is asked for, or
    /// the cheapest of these is over the budget.
    const CANDIDATES: [Keep; 3] = [Keep::Stash, Keep::Rerun, Keep::Nothing];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Keep::Auto => "auto",
            Keep::Stash => "stash",
            Keep::Rerun => "rerun",
            Keep::Rebuild => "rebuild",
            Keep::Nothing => "nothing",
        }
    }

    fn policy(self) -> split::Keep {
        match self {
            Keep::Auto | Keep::Stash => split::Keep::Dear,
            Keep::Rerun | Keep::Rebuild => split::Keep::DearButLoops,
            Keep::Nothing => split::Keep::Nothing,
        }
    }
}

impl From<Loops> for Keep {
    fn from(loops: Loops) -> Keep {
        match loops {
            Loops::Auto => Keep::Auto,
            Loops::Stash => Keep::Stash,
            Loops::Rerun => Keep::Rerun,
            Loops::Rebuild => Keep::Rebuild,
        }
    }
}

/// The memory of a backward call, beyond inputs and cotangents, which are the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackwardMemory {
    /// Tensors that the tape keeps from the forward call, results of the function among them.
    pub saved_bytes: u64,
    /// Slots that temporaries share.
    pub temp_bytes: u64,
    /// Tile-local memory, of all threads together.
    pub scratch_bytes: u64,
    /// The gradients, which the caller wants: not part of the peak.
    pub gradient_bytes: u64,
}

impl BackwardMemory {
    /// Saved tensors, temporaries and scratch together.
    pub fn peak_bytes(&self) -> u64 {
        self.saved_bytes.saturating_add(self.temp_bytes).saturating_add(self.scratch_bytes)
    }
}

impl fmt::Display for BackwardMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "peak {} B: saved {} B, temporaries {} B, scratch {} B; gradients {} B",
            self.peak_bytes(),
            self.saved_bytes,
            self.temp_bytes,
            self.scratch_bytes,
            self.gradient_bytes
        )
    }
}

/// One way to split a function.
#[derive(Clone, PartialEq, Debug)]
pub struct Candidate {
    /// What it keeps.
    pub keep: Keep,
    /// Forward and backward together by the cost model, of the order of seconds; infinite where there are no kernels for it.
    pub price: f64,
    /// Of the backward call, at the sizes of the plan.
    pub memory: BackwardMemory,
}

/// How a function was split, and why.
#[derive(Clone, Debug)]
pub struct BackwardPlan {
    /// The function.
    pub name: String,
    /// The sizes that prices and bytes are told for.
    pub sizes: SizeEnv,
    /// All ways that were priced; ways that save the same are one.
    pub candidates: Vec<Candidate>,
    /// The place of the one that was taken.
    pub taken: usize,
    /// Saved tensors and what is done again.
    pub split: Split,
}

/// A function of values and gradients.
pub(crate) type Joint = (Module, FuncId);

/// Splits the joint function the cheapest way that the budget allows. `joint_of` gives it for a way to take loops back.
///
/// Returns the names of the joint function's cotangents, too.
///
/// Errors: those of `joint_of`; a budget that nothing meets, with the least that can be done.
pub(crate) fn plan(
    joint_of: &dyn Fn(Loops) -> Result<Joint, Diagnostics>,
    parts: Parts,
    given: &SizeEnv,
    options: &Options,
    ask: &Backward,
) -> Result<(BackwardPlan, Vec<Sym>), Diagnostics> {
    let mut search = Search {
        parts,
        given,
        options,
        name: String::new(),
        cotangents: vec![],
        candidates: vec![],
        splits: vec![],
    };
    let asked = |keep: &Keep| ask.keep == Keep::Auto || ask.keep == *keep;
    let priced: Vec<Keep> = Keep::CANDIDATES.into_iter().filter(asked).collect();
    if !priced.is_empty() {
        search.add(&joint_of(Loops::Stash)?, &priced)?;
    }
    let is_over = search
        .cheapest(None)
        .is_none_or(|cheapest| ask.budget_bytes.is_some_and(|budget| search.peak_bytes(cheapest) > budget));
    if is_over && asked(&Keep::Rebuild) {
        let added = joint_of(Loops::Rebuild).and_then(|joint| search.add(&joint, &[Keep::Rebuild]));
        // Where another way fits, this one was only worth a try.
        if search.cheapest(ask.budget_bytes).is_none() {
            added?;
        }
    }
    let taken = search
        .cheapest(ask.budget_bytes)
        .ok_or_else(|| refusal(&search.candidates, ask.budget_bytes.unwrap_or(0)))?;
    let split = search.splits.swap_remove(taken);
    let sizes = search.sizes(&split.backward.0);
    let plan = BackwardPlan { name: search.name, sizes, candidates: search.candidates, taken, split };
    Ok((plan, search.cotangents))
}

/// The ways to split that were looked at.
struct Search<'a> {
    parts: Parts,
    given: &'a SizeEnv,
    options: &'a Options,
    /// Of the joint function.
    name: String,
    /// The names of its cotangents.
    cotangents: Vec<Sym>,
    candidates: Vec<Candidate>,
    /// One per candidate.
    splits: Vec<Split>,
}

impl Search<'_> {
    /// Looks at those ways to split `joint` that are new.
    fn add(&mut self, (module, func): &Joint, ways: &[Keep]) -> Result<(), Diagnostics> {
        let chip = match self.options.target {
            // Evaluators keep nothing on chip, and run what has no kernels.
            Target::Eval => vec![true; module.func(*func).nodes.len()],
            _ => on_chip(module, *func, &cost_of(self.options).target),
        };
        let source = module.func(*func);
        self.name = source.name.clone();
        self.cotangents =
            source.inputs[self.parts.n_inputs..].iter().map(|input| input.name.clone()).collect();
        let first = self.splits.len();
        for keep in ways {
            let halves = split(module, *func, self.parts, keep.policy(), &chip)
                .map_err(|message| Diagnostic::verify(format!("splitting: {message}")))?;
            let is_same = |other: &Split| other.saved == halves.saved && other.rebuilt == halves.rebuilt;
            if self.splits[first..].iter().any(is_same) {
                continue;
            }
            let (price, memory) = assess(&halves, &self.sizes(module), self.options)?;
            self.candidates.push(Candidate { keep: *keep, price, memory });
            self.splits.push(halves);
        }
        Ok(())
    }

    fn sizes(&self, module: &Module) -> SizeEnv {
        let mut sizes = default_sizes(module);
        sizes.extend(self.given.iter().map(|(name, size)| (name.clone(), *size)));
        sizes
    }

    fn peak_bytes(&self, candidate: usize) -> u64 {
        self.candidates[candidate].memory.peak_bytes()
    }

    /// The place of the cheapest candidate within the budget.
    fn cheapest(&self, budget: Option<u64>) -> Option<usize> {
        let fits = |place: &usize| budget.is_none_or(|budget| self.peak_bytes(*place) <= budget);
        let price = |place: &usize| self.candidates[*place].price;
        (0..self.candidates.len()).filter(fits).min_by(|a, b| price(a).total_cmp(&price(b)))
    }
}

/// The price of both halves, and the memory of the backward one.
fn assess(halves: &Split, sizes: &SizeEnv, options: &Options) -> Result<(f64, BackwardMemory), Diagnostics> {
    let saved_bytes = halves.saved.iter().map(|saved| bytes_of(&saved.ty, sizes) as u64).sum();
    if options.target == Target::Eval {
        let signature = Signature::of_func(&halves.backward.0, halves.backward.1);
        let gradient_bytes = signature.outputs.iter().map(|(_, ty)| bytes_of(ty, sizes) as u64).sum();
        return Ok((0.0, BackwardMemory { saved_bytes, gradient_bytes, ..BackwardMemory::default() }));
    }
    let cost = cost_of(options);
    // As they will be compiled, with loops rotated where that is cheaper.
    let planner = Planner::new(cost);
    let forward = planner.plan(&halves.forward.0, halves.forward.1)?.program;
    let backward = planner.plan(&halves.backward.0, halves.backward.1)?.program;
    let price = |program: &Program| cost.program(program, sizes).map_or(f64::INFINITY, |cost| cost.total);
    let n_threads = options.pool.as_ref().map_or(1, |pool| pool.n_threads());
    let memory = memory_of(&backward, saved_bytes, sizes, n_threads)?;
    Ok((price(&forward) + price(&backward), memory))
}

/// The memory of a backward call, told from its plan.
pub(crate) fn memory_of(
    program: &Program,
    saved_bytes: u64,
    sizes: &SizeEnv,
    n_threads: usize,
) -> Result<BackwardMemory, Diagnostic> {
    let told = memory::predict(program, sizes, n_threads);
    let told = told.map_err(|error| Diagnostic::input(Span::NONE, error.to_string()))?;
    Ok(BackwardMemory {
        saved_bytes,
        temp_bytes: told.temp_bytes,
        scratch_bytes: told.scratch_bytes,
        gradient_bytes: told.output_bytes,
    })
}

fn refusal(candidates: &[Candidate], budget: u64) -> Diagnostic {
    let least = candidates.iter().min_by_key(|candidate| candidate.memory.peak_bytes());
    let message = format!("no backward call fits {budget} bytes");
    match least {
        Some(least) => Diagnostic::input(Span::NONE, message).help(format!(
            "the least is {} bytes, with `{}` ({})",
            least.memory.peak_bytes(),
            least.keep.name(),
            least.memory
        )),
        None => Diagnostic::input(Span::NONE, message),
    }
}

impl BackwardPlan {
    /// The candidate that was taken.
    pub fn candidate(&self) -> &Candidate {
        &self.candidates[self.taken]
    }

    /// The plan as text.
    pub fn text(&self) -> String {
        let sizes: Vec<String> = self.sizes.iter().map(|(name, size)| format!("{name} = {size}")).collect();
        let at = if sizes.is_empty() { String::new() } else { format!(" at {}", sizes.join(", ")) };
        let mut lines = vec![format!("backward of @{}{at}", self.name)];
        for (idx, candidate) in self.candidates.iter().enumerate() {
            let mark = if idx == self.taken { "taken" } else { "" };
            lines.push(format!(
                "  {:5} {:8} price {:.3e}  {}",
                mark,
                candidate.keep.name(),
                candidate.price,
                candidate.memory
            ));
        }
        for saved in &self.split.saved {
            let bytes = bytes_of(&saved.ty, &self.sizes) as u64;
            lines.push(format!("  saved {} {}: {bytes} B; {}", saved.name, saved.ty, saved.why));
        }
        for rebuilt in &self.split.rebuilt {
            lines.push(format!("  again {} {}: {}", rebuilt.op, rebuilt.name, rebuilt.why));
        }
        if self.split.n_fused > 0 {
            lines.push(format!(
                "  again {} elementwise ops, in the kernels that read them",
                self.split.n_fused
            ));
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// The plan as JSON.
    pub fn json(&self) -> Value {
        let candidate = |candidate: &Candidate| {
            json!({
                "keep": candidate.keep.name(),
                "price": candidate.price.is_finite().then_some(candidate.price),
                "memory": memory_json(&candidate.memory),
            })
        };
        let saved = self.split.saved.iter().map(|saved| {
            let bytes = bytes_of(&saved.ty, &self.sizes) as u64;
            json!({ "name": saved.name.as_str(), "type": saved.ty.to_string(), "bytes": bytes, "why": saved.why })
        });
        let rebuilt = self.split.rebuilt.iter().map(|rebuilt| {
            json!({ "name": rebuilt.name, "op": rebuilt.op, "bytes": rebuilt.bytes, "why": rebuilt.why })
        });
        let sizes: serde_json::Map<String, Value> =
            self.sizes.iter().map(|(name, size)| (name.to_string(), json!(size))).collect();
        json!({
            "function": self.name,
            "sizes": sizes,
            "candidates": self.candidates.iter().map(candidate).collect::<Vec<_>>(),
            "taken": self.candidate().keep.name(),
            "saved": saved.collect::<Vec<_>>(),
            "again": rebuilt.collect::<Vec<_>>(),
            "again_elementwise": self.split.n_fused,
        })
    }
}

fn memory_json(memory: &BackwardMemory) -> Value {
    json!({
        "peak_bytes": memory.peak_bytes(),
        "saved_bytes": memory.saved_bytes,
        "temp_bytes": memory.temp_bytes,
        "scratch_bytes": memory.scratch_bytes,
        "gradient_bytes": memory.gradient_bytes,
    })
}
