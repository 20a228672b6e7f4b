//! Matrices whose rows or columns sum to one.
//!
//! The fact holds over the reals for the axis that was divided by its own sum last, without an eps. It is used only to drop
//! work on *other* data (mixing before a sum, dividing by the sum); a sum of the matrix itself, or of a product of such
//! matrices, is a measurement of the matrix and stays what it is.

use super::Class::{Exact, Reassociates};
use super::contractions::sum_of;
use super::{Right, Rule};
use crate::eqsat::facts::Facts;
use crate::eqsat::pattern::Match;
use crate::eqsat::rewriter::{Contraction, Rewriter};
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::OpKind;
use egg::Id;

/// The rows.
pub const RULES: &[Rule] = &[
    Rule {
        name: "note-unit-sums",
        left: "(div ?x (broadcast@b (reduce_sum@s ?x)))",
        right: Right::Fact("the elements sum to one along that axis", divided_by_own_sum),
        when: None,
        class: Exact,
        why: "What is divided by its own sum sums to one; the row states a fact and changes no term.",
    },
    Rule::built(
        "unit-normaliser",
        "(div ?y (broadcast@b (reduce_sum@s ?p)))",
        ("y", |cx, m| sums_to_one(cx, m).then(|| m.var('y'))),
        Reassociates,
        "Dividing by the sums of a matrix of unit sums does nothing: normalising twice, or a barycentric map of exact rows.",
    ),
    Rule::built(
        "sum-of-mixed",
        "(reduce_sum@s (contract@c ?h ?x))",
        ("a sum of what was mixed", sum_of_mixed),
        Reassociates,
        "Columns of unit sums only distribute each stream over the streams: their sum stays.",
    ),
    Rule::built(
        "sum-of-mixed-and-fed",
        "(reduce_sum@s (add ?y (contract@c ?h ?x)))",
        ("a sum of what was mixed, and of what was fed", sum_of_mixed_and_fed),
        Reassociates,
        "The same where a branch output was added to the mixed streams.",
    ),
];

fn divided_by_own_sum(cx: &mut Rewriter<'_>, m: &Match) -> Vec<(Id, Facts)> {
    let (Some(sum), Some(broadcast)) = (cx.op(m, 's'), cx.op(m, 'b')) else { return vec![] };
    let [axis] = sum.axes("axes") else { return vec![] };
    let rank = broadcast.dims("shape").len() as u32;
    let others: Vec<u32> = (0..rank).filter(|other| other != axis).collect();
    if broadcast.axes("axes") != others || *axis >= 32 {
        return vec![];
    }
    let unit = Facts { unit_sums: 1 << axis, normalised: true, ..Facts::default() };
    // The numerator is the same matrix before its rows were scaled: sums of it are measurements as well.
    vec![(m.root, unit), (m.var('x'), Facts { normalised: true, ..Facts::default() })]
}

fn sums_to_one(cx: &Rewriter<'_>, m: &Match) -> bool {
    let Some(sum) = cx.op(m, 's') else { return false };
    let facts = cx.facts(m.var('p'));
    // Products of the axes' extents would come in with more than one axis.
    matches!(sum.axes("axes"), [axis] if facts.sums_to_one(*axis as usize))
}

/// The operands of the contraction with the matrix first, and the label of the result's axis along which its sums are one.
fn mixing(cx: &Rewriter<'_>, m: &Match) -> Option<(Contraction, char)> {
    let mut spec = cx.contraction_of(m, 'c')?;
    let reduce = cx.op(m, 's')?;
    for _ in 0..2 {
        spec.inputs.swap(0, 1);
        let [(matrix, h), (data, x)] = spec.inputs.as_slice() else { return None };
        let (facts, other) = (cx.facts(*h), cx.facts(*x));
        let found = matrix.iter().enumerate().find(|(axis, label)| {
            let place = spec.output.iter().position(|other| other == *label);
            facts.sums_to_one(*axis)
                && place.is_some_and(|place| reduce.axes("axes").contains(&(place as u32)))
                && !data.contains(label)
                && matrix.iter().all(|other| other == *label || data.contains(other))
        });
        // A product with another such matrix, or with constants, is a measurement.
        let measured = other.normalised || other.uniform.is_some();
        if let Some((_, label)) = found
            && !measured
        {
            return Some((spec.clone(), *label));
        }
    }
    None
}

/// The sum over the axes called `s` of the contraction, the matrix dropped.
fn sum_without_matrix(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (spec, label) = mixing(cx, m)?;
    let reduce = cx.op(m, 's')?;
    let (labels, x) = spec.inputs[1].clone();
    let output: Vec<char> = spec.output.iter().copied().filter(|other| *other != label).collect();
    let kept: Vec<char> = (0..spec.output.len())
        .filter(|axis| !reduce.axes("axes").contains(&(*axis as u32)))
        .map(|axis| spec.output[axis])
        .collect();
    let sum = sum_of(cx, &labels, x, &output)?;
    let rest: Vec<u32> =
        (0..output.len()).filter(|axis| !kept.contains(&output[*axis])).map(|axis| axis as u32).collect();
    if rest.is_empty() { Some(sum) } else { cx.reduce(OpKind::ReduceSum, sum, rest) }
}

fn sum_of_mixed(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    sum_without_matrix(cx, m)
}

fn sum_of_mixed_and_fed(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let reduce = cx.op(m, 's')?;
    let mixed = sum_without_matrix(cx, m)?;
    let fed = cx.add(&reduce, &[m.var('y')])?;
    cx.scalar(ScalarOp::Add, &[mixed, fed])
}
