//! Short sums of a nest as loops, where lanes are threads.
//!
//! In: the sums at the innermost place of a nest. Out: for those that add a few terms for each of many accumulators, a loop over the
//! terms instead of code for each. A thread has no use for the same code several times: it keeps the operands of all terms in
//! registers at once, of which other blocks could have had some, and the code has to be compiled and fetched. On a CPU the
//! counting would cost about as much as a term.

use super::nest::{Accumulator, Block, Tokens, Work};
use super::value::Lowering;
use crate::schedule::LaneKind;
use crate::schedule::axes::Class;
use crate::schedule::stages::Nest;
use birkhoff_ir::kernel::{ForKind, Index};

/// Accumulations from which on the terms of short sums are a loop.
const MIN_ROLLED: i64 = 96;

impl Lowering<'_> {
    /// Classes that a piece of work sums over and that are no loops.
    pub(super) fn short_sums(&self, nest: &Nest, item: &Work) -> Vec<Class> {
        let Work::Sum(node) = item else { return vec![] };
        let leaves = self.walk.axes.summed_leaves(*node).concat();
        leaves.into_iter().filter(|class| !nest.loops.contains(class)).collect()
    }

    /// The classes over which all of `work` sums that are to be loops, if any are.
    pub(super) fn rolled(&self, nest: &Nest, work: &[Work], tokens: &Tokens, block: Block) -> Vec<Class> {
        let Some(first) = work.first() else { return vec![] };
        let short = self.short_sums(nest, first);
        if self.lanes != LaneKind::Threads
            || !work.iter().all(|item| matches!(item, Work::Sum(_)) && self.short_sums(nest, item) == short)
        {
            return vec![];
        }
        let lengths = short.iter().map(|class| self.walk.axes.extent(*class).as_const().unwrap_or(0));
        let n_terms: i64 = lengths.product();
        let n_sums: i64 = work
            .iter()
            .map(|item| {
                let ranges = self.ranges(&self.unrolled(nest, item), block);
                ranges.iter().map(|(_, len)| len).product::<i64>()
            })
            .sum();
        if n_terms * n_sums * tokens.len() as i64 >= MIN_ROLLED { short } else { vec![] }
    }

    /// Accumulates the terms of `work` in loops over `classes`.
    pub(super) fn accumulate_rolled(
        &mut self,
        nest: &Nest,
        work: &[Work],
        classes: &[Class],
        tokens: &Tokens,
        block: Block,
        open: &[Accumulator],
    ) {
        for class in classes {
            let extent = self.walk.axes.extent(*class).clone();
            let end = Index::constant(extent.clone());
            let var = self.emitter.open_for("j", 0.into(), end, ForKind::Seq, Some(extent));
            self.at.insert(*class, Index::var(var));
        }
        for item in work {
            self.body_work(nest, item, tokens, block, open, Terms::Present(None));
        }
        for class in classes {
            self.close();
            self.at.remove(class);
        }
    }
}

/// Which terms of a sum are accumulated.
#[derive(Clone, Debug)]
pub(super) enum Terms {
    /// All of its short sums.
    All,
    /// That at the present place, in a loop over them; with the place in the block's lanes.
    Present(Option<Index>),
}
