//! One function in two: a forward one that saves tensors, and a backward one that reads them.
//!
//! In: a *joint* function over primitives, as reverse differentiation makes it: arguments, then cotangents; values, then
//! gradients. Out: forward (arguments -> values and saved tensors) and backward (those arguments that it reads, saved
//! tensors, cotangents -> gradients).
//!
//! What the backward needs and does not depend on cotangents is saved, or computed again from arguments and saved tensors.
//! Arguments cost nothing, because the caller keeps them; of all sets of tensors that suffice, the one with the fewest bytes
//! is taken (a minimum cut, as in Chen et al. 2016 and in the partitioner of PyTorch's functorch), and of several such sets
//! the one that leaves the least to compute again. A [`Keep`] says which ops may be computed again at all.
//!
//! Assumes a bound module that verifies, and that gradients are linear in the cotangents. Deliberately absent: the choice
//! between candidates, which takes prices and budgets (the driver has both).

mod absent;
mod cut;
mod halves;
mod prune;

pub use absent::without_cotangents;
pub use prune::without_unread_results;

use crate::cost::{bytes_of, default_sizes, is_fused};
use birkhoff_ir::dim::{SizeEnv, Sym};
use birkhoff_ir::tensor::{Def, Func, FuncId, Module, Node, OpKind, TensorType, ValueId};
use std::collections::BTreeSet;

/// Which values a backward function may compute again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Keep {
    /// Cheap ones: elementwise work, movement, reductions to not much less than they read.
    Dear,
    /// Those, and loops that stay on chip.
    DearButLoops,
    /// All, so that nothing is saved.
    Nothing,
}

impl Keep {
    /// All of them.
    pub const ALL: [Keep; 3] = [Keep::Dear, Keep::DearButLoops, Keep::Nothing];
}

/// What the parts of a joint function are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parts {
    /// How many of its first arguments are those of the function; the others are cotangents.
    pub n_inputs: usize,
    /// How many of its first results are those of the function; the others are gradients.
    pub n_values: usize,
}

/// A tensor that goes from the forward to the backward function.
#[derive(Clone, PartialEq, Debug)]
pub struct Saved {
    /// Its name as an input of the backward function.
    pub name: Sym,
    /// Its type.
    pub ty: TensorType,
    /// Its place among the results of the forward function.
    pub output: usize,
    /// Why it is not computed again.
    pub why: &'static str,
}

/// Work that the backward function does again.
#[derive(Clone, PartialEq, Debug)]
pub struct Rebuilt {
    /// Of the value, or of the body of a loop.
    pub name: String,
    /// The op.
    pub op: &'static str,
    /// Bytes of its results, at default sizes.
    pub bytes: u64,
    /// Why it is not saved.
    pub why: String,
}

/// A function in two.
#[derive(Clone, Debug)]
pub struct Split {
    /// Arguments -> values, then saved tensors that are no values.
    pub forward: (Module, FuncId),
    /// Arguments that it reads, saved tensors, cotangents -> gradients.
    pub backward: (Module, FuncId),
    /// In the order of the backward function's inputs.
    pub saved: Vec<Saved>,
    /// Loops, contractions, reductions, factorisations that are done again.
    pub rebuilt: Vec<Rebuilt>,
    /// How many elementwise and movement ops are done again, in the kernels that read them.
    pub n_fused: usize,
}

/// A reduction whose result has at most this part of what it reads is saved, not repeated.
const SHRINKS: f64 = 8.0;

/// What is known about the values of a joint function.
struct Joint<'a> {
    module: &'a Module,
    func: &'a Func,
    parts: Parts,
    sizes: SizeEnv,
    keep: Keep,
    /// Per node, whether it is a loop that stays on chip.
    on_chip: &'a [bool],
    /// Which values depend on a cotangent.
    linear: Vec<bool>,
}

/// Splits `func`. `on_chip` says per node whether it is a loop that stays on chip.
///
/// Errors: a result that depends on a cotangent, or a body that is not there (a verified joint function has neither).
pub fn split(
    module: &Module,
    func: FuncId,
    parts: Parts,
    keep: Keep,
    on_chip: &[bool],
) -> Result<Split, String> {
    let body = module.func(func);
    let linear = depending(body, |pos| pos >= parts.n_inputs);
    let joint = Joint { module, func: body, parts, sizes: default_sizes(module), keep, on_chip, linear };
    if let Some(out) = body.outputs.iter().take(parts.n_values).find(|out| joint.is_linear(out.value)) {
        return Err(format!("the result `{}` of @{} depends on a cotangent", out.name, body.name));
    }
    let saved = cut::cheapest(&joint);
    halves::build(&joint, &saved)
}

/// Which values depend on arguments for which `is_seed` holds.
fn depending(func: &Func, is_seed: impl Fn(usize) -> bool) -> Vec<bool> {
    let mut depends = vec![false; func.values.len()];
    for (pos, depends) in depends.iter_mut().enumerate().take(func.inputs.len()) {
        *depends = is_seed(pos);
    }
    for node in &func.nodes {
        if node.args.iter().any(|arg| depends[arg.0 as usize]) {
            node.results.iter().for_each(|result| depends[result.0 as usize] = true);
        }
    }
    depends
}

impl Joint<'_> {
    fn is_linear(&self, value: ValueId) -> bool {
        self.linear[value.0 as usize]
    }

    fn bytes(&self, value: ValueId) -> u64 {
        bytes_of(self.func.ty(value), &self.sizes) as u64
    }

    /// Whether the backward function may do the node again.
    fn repeats(&self, node_idx: usize) -> bool {
        let node = &self.func.nodes[node_idx];
        match (self.keep, node.op.kind) {
            (Keep::Nothing, _) => true,
            (_, kind) if is_fused(kind) => true,
            (Keep::DearButLoops, OpKind::Loop) => self.on_chip.get(node_idx).copied().unwrap_or(false),
            (_, OpKind::ReduceSum | OpKind::ReduceProd | OpKind::ReduceMax | OpKind::ReduceMin) => {
                let sum =
                    |values: &[ValueId]| values.iter().map(|value| self.bytes(*value) as f64).sum::<f64>();
                sum(&node.results) * SHRINKS > sum(&node.args)
            }
            (_, OpKind::Gather | OpKind::RandomBits) => true,
            _ => false,
        }
    }

    /// Values that the backward needs as they are: operands of what depends on cotangents, and gradients that do not.
    fn needed(&self) -> BTreeSet<ValueId> {
        let is_linear = |node: &&Node| node.results.iter().any(|result| self.is_linear(*result));
        let args = self.func.nodes.iter().filter(is_linear).flat_map(|node| node.args.iter().copied());
        let gradients = self.func.outputs[self.parts.n_values..].iter().map(|out| out.value);
        args.chain(gradients).filter(|value| !self.is_linear(*value)).collect()
    }

    fn is_value(&self, value: ValueId) -> bool {
        self.func.outputs[..self.parts.n_values].iter().any(|out| out.value == value)
    }

    fn node_of(&self, value: ValueId) -> Option<usize> {
        match self.func.values[value.0 as usize].def {
            Def::Input(_) => None,
            Def::Node { node, .. } => Some(node as usize),
        }
    }
}
