//! How loops are taken back where nobody says it: over the iterates that a loop stacks, or over those of a second run.
//!
//! In: a bound module. Out: the same with every `vjp` of `loops = auto` told what to do; a report on the loops of what it
//! became. Stacking shares the run of the values; where the stack would go to memory, a second run next to the reverse is
//! priced too, and the cheaper is taken.

use birkhoff_compiler::cost::default_sizes;
use birkhoff_compiler::lower::loops::{Iterates, ReversedLoop};
use birkhoff_compiler::lower::price::{KernelCost, Rotation, flops};
use birkhoff_compiler::scaling::Saving;
use birkhoff_ir::dim::{Dim, SizeEnv};
use birkhoff_ir::plan::{Program, traffic};
use birkhoff_ir::tensor::{Attr, Module, Op, OpKind};
use serde_json::{Value, json};

/// The loops that are taken back, and how it was decided.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct LoopReport {
    /// The loops, in order.
    pub loops: Vec<ReversedLoop>,
    /// Both prices, if there was something to decide.
    pub choice: Option<LoopChoice>,
    /// Whether loops are rotated, if some can be.
    pub rotation: Option<Rotation>,
    /// Whether a plan that is right within a range is tried first, if there is one.
    pub range: Option<RangeChoice>,
    /// What weights around kept matrices would save, if states of loops are such products.
    pub weights: Option<Weights>,
}

/// A decision between a program that is right everywhere, and one that is right within a range with the first behind it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RangeChoice {
    /// The price of the program that is right everywhere.
    pub everywhere: f64,
    /// The price of the other one, as long as it is right.
    pub in_range: f64,
}

impl RangeChoice {
    /// Whether the other one is tried first: where it saves so much that inputs out of range, which pay for both, and twice the
    /// code are worth it.
    pub fn is_taken(&self) -> bool {
        self.in_range < WORTHWHILE * self.everywhere
    }
}

/// The share of a price that a plan which may be run in vain may cost.
const WORTHWHILE: f64 = 0.75;

/// A decision between two programs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LoopChoice {
    /// The price of keeping what the loop itself stacks, of the order of seconds.
    pub stash_price: f64,
    /// The price of a second run.
    pub rerun_price: f64,
}

impl LoopChoice {
    /// Whether the second run is taken.
    pub fn reruns(&self) -> bool {
        self.rerun_price < self.stash_price
    }
}

fn is_auto(op: &Op) -> bool {
    op.kind == OpKind::Vjp && op.word("loops") == "auto"
}

/// Whether something is left to decide.
pub(crate) fn has_auto(module: &Module) -> bool {
    module.funcs.iter().flat_map(|func| &func.nodes).any(|node| is_auto(&node.op))
}

/// Whether an op takes something back.
pub(crate) fn has_vjp(module: &Module) -> bool {
    module.funcs.iter().flat_map(|func| &func.nodes).any(|node| node.op.kind == OpKind::Vjp)
}

/// The module with a second run for every loop that nothing is said of.
pub(crate) fn with_reruns(module: &Module) -> Module {
    let mut module = module.clone();
    for node in module.funcs.iter_mut().flat_map(|func| &mut func.nodes).filter(|node| is_auto(&node.op)) {
        let place = node.op.kind.attrs().iter().position(|spec| spec.name == "loops");
        if let Some(attr) = place.and_then(|place| node.op.attrs.get_mut(place)) {
            *attr = Attr::Word("rerun".into());
        }
    }
    module
}

/// What a plan costs, by a cost model, at default sizes.
pub(crate) fn price(module: &Module, program: &Program, cost: &KernelCost) -> f64 {
    cost.program(program, &default_sizes(module)).map_or(f64::INFINITY, |cost| cost.total)
}

/// Which shares of the arithmetic weights around kept matrices would leave, by a rough count.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Weights {
    /// Of that of their loops.
    pub of_loops: f64,
    /// Of that of the plan.
    pub of_plan: f64,
}

/// To price a program takes as long as to compile it. With more than this share of the arithmetic of its loops, it will hardly cost
/// less than [`WORTHWHILE`].
const PROMISING_LOOPS: f64 = 0.8;
/// Nor with more than this share of that of the plan.
const PROMISING_PLAN: f64 = 0.9;

impl Weights {
    /// Of a plan whose loops save so much where they are written down.
    pub(crate) fn of(module: &Module, program: &Program, saving: Saving) -> Weights {
        // What is taken back is computed again, and has two cotangents per product.
        let runs = if has_vjp(module) { 3.0 } else { 1.0 };
        let saved = runs * (saving.before - saving.after);
        let all = arithmetic(program, &default_sizes(module)).unwrap_or(f64::INFINITY);
        Weights { of_loops: saving.after / saving.before.max(1.0), of_plan: 1.0 - saved / all.max(1.0) }
    }

    /// Whether it can pay.
    pub fn are_promising(&self) -> bool {
        self.of_loops <= PROMISING_LOOPS && self.of_plan <= PROMISING_PLAN
    }
}

/// The operations of a call.
fn arithmetic(program: &Program, sizes: &SizeEnv) -> Option<f64> {
    let kernels = program.kernels.iter().zip(traffic::predict(program, sizes).ok()?);
    let of_kernels: f64 = kernels.map(|(kernel, moved)| moved.launches as f64 * flops(kernel, sizes)).sum();
    let contracts = program.contracts().into_iter().zip(traffic::predict_contracts(program, sizes).ok()?);
    let of_contracts: f64 = contracts
        .map(|(contract, moved)| {
            moved.launches as f64 * contract.sizes(sizes).map_or(0.0, |sizes| 2.0 * sizes.products())
        })
        .sum();
    Some(of_kernels + of_contracts)
}

impl LoopReport {
    /// Whether iterates go to memory.
    pub(crate) fn spills(&self) -> bool {
        self.loops.iter().any(|found| matches!(found.iterates, Iterates::Memory | Iterates::RerunMemory))
    }

    /// One line per loop, and one on the decision.
    pub(crate) fn lines(&self, sizes: &SizeEnv) -> Vec<String> {
        let mut lines: Vec<String> = self
            .loops
            .iter()
            .map(|found| {
                let bytes = number(&found.stack_bytes, sizes);
                let (where_to, why) = (place(found.iterates), &found.why);
                format!(
                    "loop @{}: {} iterations, {bytes} B of iterates {where_to}: {why}",
                    found.name, found.trip
                )
            })
            .collect();
        lines.extend(self.choice.map(|choice| {
            let taken = if choice.reruns() { "run again" } else { "kept" };
            format!(
                "loops: {taken}; price {:.3e} if kept, {:.3e} if run again",
                choice.stash_price, choice.rerun_price
            )
        }));
        lines.extend(self.rotation.map(|rotation| {
            let taken = if rotation.rotates() { "rotated" } else { "as written" };
            format!(
                "loops: {taken}; price {:.3e} as written, {:.3e} if the end of an iteration shares kernels with the \
                 beginning of the next",
                rotation.as_written, rotation.rotated
            )
        }));
        lines.extend(self.range.map(|range| {
            let taken = if range.is_taken() { "scaled where that is in range" } else { "as written" };
            format!(
                "loops: {taken}; price {:.3e} as written, {:.3e} as products with a kept kernel",
                range.everywhere, range.in_range
            )
        }));
        lines.extend(self.weights.filter(|weights| !weights.are_promising()).map(|weights| {
            format!(
                "loops: states stay matrices; weights around kept ones would leave {:.2} of the arithmetic of loops, {:.2} \
                 of all",
                weights.of_loops, weights.of_plan
            )
        }));
        lines
    }

    pub(crate) fn json(&self, sizes: &SizeEnv) -> Value {
        let row = |found: &ReversedLoop| {
            json!({
                "body": found.name,
                "iterations": found.trip.to_string(),
                "iterates": key(found.iterates),
                "bytes": found.stack_bytes.eval(sizes).ok(),
                "why": found.why,
            })
        };
        let choice = self.choice.map(|choice| {
            json!({
                "taken": if choice.reruns() { "rerun" } else { "stash" },
                "stash_price": choice.stash_price,
                "rerun_price": choice.rerun_price,
            })
        });
        let rotation = self.rotation.map(|rotation| {
            json!({
                "taken": rotation.rotates(),
                "price_as_written": rotation.as_written,
                "price_rotated": rotation.rotated,
            })
        });
        let range = self.range.map(|range| {
            json!({
                "taken": range.is_taken(),
                "price_everywhere": range.everywhere,
                "price_in_range": range.in_range,
            })
        });
        let weights = self.weights.map(|weights| {
            json!({
                "promising": weights.are_promising(),
                "share_of_loops": weights.of_loops,
                "share_of_plan": weights.of_plan,
            })
        });
        let reversed: Vec<Value> = self.loops.iter().map(row).collect();
        json!({
            "reversed": reversed,
            "choice": choice,
            "rotation": rotation,
            "range": range,
            "weights": weights,
        })
    }
}

fn number(dim: &Dim, sizes: &SizeEnv) -> String {
    dim.eval(sizes).map_or_else(|_| dim.to_string(), |value| value.to_string())
}

fn place(iterates: Iterates) -> &'static str {
    match iterates {
        Iterates::OnChip => "kept on chip",
        Iterates::Memory => "kept in memory",
        Iterates::RerunOnChip => "made on chip by a second run",
        Iterates::RerunMemory => "made in memory by a second run",
    }
}

fn key(iterates: Iterates) -> &'static str {
    match iterates {
        Iterates::OnChip => "on_chip",
        Iterates::Memory => "memory",
        Iterates::RerunOnChip => "rerun_on_chip",
        Iterates::RerunMemory => "rerun_memory",
    }
}
