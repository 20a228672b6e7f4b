//! Which states of a loop are a matrix times weights in every iteration.
//!
//! In: a body over primitives. Out: those states, the axes and next values of their weights, and the products that values of
//! the body are then. Deliberately absent: writing any of it; whether it pays.

use super::forms::{Atom, Forms, Power, Product, matrices};
use super::range::{Range, is_normalised};
use super::{Loop, Matrix};
use birkhoff_ir::dtype::DType;
use std::collections::{BTreeMap, BTreeSet};

/// States of more weights stay as they are.
const MAX_WEIGHTS: usize = 4;

/// What was found.
pub struct Found<'f> {
    /// The products, weights among them.
    pub forms: Forms<'f>,
    /// The states, in order.
    pub matrices: Vec<Matrix>,
    /// The next values of the weights of each; axes are those of the matrix.
    pub next: Vec<Vec<Product>>,
}

/// Looks at the states of a loop; `None` if there is no such state.
pub fn find<'f>(of: &Loop<'_, 'f>) -> Option<Found<'f>> {
    let body = of.body;
    let is_candidate = |slot: &usize| {
        let ty = &body.values[*slot].ty;
        ty.rank() > 0 && matches!(ty.dtype, DType::F32 | DType::F64)
    };
    let mut slots: Vec<usize> = (0..of.carry).filter(is_candidate).collect();
    // Every turn but the last gives up a state.
    loop {
        if slots.is_empty() {
            return None;
        }
        let weightless: BTreeMap<usize, Vec<Vec<usize>>> = slots.iter().map(|slot| (*slot, vec![])).collect();
        let bare = Forms::of(body, &weightless);
        let n_slots = slots.len();
        let barred = barred(of, &bare, &slots);
        slots.retain(|slot| !barred.contains(slot));
        if slots.len() < n_slots {
            continue;
        }
        let weights: BTreeMap<usize, Vec<Vec<usize>>> =
            slots.iter().map(|slot| (*slot, axis_sets(of, &bare, *slot))).collect();
        let forms = Forms::of(body, &weights);
        let mut barred = self::barred(of, &forms, &slots);
        let mut next = vec![];
        for (slot, sets) in &weights {
            match grouped(of, &forms, *slot, sets) {
                Some(products) if sets.len() <= MAX_WEIGHTS => next.push(products),
                _ => drop(barred.insert(*slot)),
            }
        }
        slots.retain(|slot| !barred.contains(slot));
        if slots.len() < n_slots {
            continue;
        }
        let matrix = |(slot, weights): (usize, Vec<Vec<usize>>)| Matrix {
            slot,
            ty: body.values[slot].ty.clone(),
            range: if is_normalised(of, &bare, slot, &weights) { Range::Kernel } else { Range::Watched },
            weights,
        };
        return Some(Found { forms, matrices: weights.into_iter().map(matrix).collect(), next });
    }
}

/// States that are read as something else, or do not come out as a matrix times what lacks some of its axes.
fn barred(of: &Loop<'_, '_>, forms: &Forms<'_>, slots: &[usize]) -> BTreeSet<usize> {
    let mut barred = forms.barred.clone();
    for (place, out) in of.body.outputs.iter().enumerate() {
        let form = forms.form(out.value);
        barred.extend(matrices(form).filter(|slot| *slot != place || !is_own(form, *slot, of)));
    }
    let is_own_output = |slot: &usize| matrices(forms.form(of.body.outputs[*slot].value)).eq([*slot]);
    let is_summed = |slot: &usize| forms.sites.iter().any(|site| site.slot == *slot);
    barred.extend(slots.iter().filter(|slot| !is_own_output(slot) || !is_summed(slot)));
    barred
}

/// Whether a product is the matrix itself, once, times something that lacks some of its axes.
fn is_own(form: &Product, slot: usize, of: &Loop<'_, '_>) -> bool {
    let rank = of.body.values[slot].ty.rank();
    let is_matrix = |term: &Power| term.coeff == 1 && term.axes.iter().copied().eq(0..rank);
    form.terms().len() > 1
        && form.terms().iter().all(|term| match term.atom {
            Atom::Matrix(_) => is_matrix(term),
            _ => term.axes.len() < rank,
        })
}

fn sorted_axes(term: &Power) -> Vec<usize> {
    let mut axes = term.axes.clone();
    axes.sort_unstable();
    axes
}

/// The sets of axes that factors of the next state have.
fn axis_sets(of: &Loop<'_, '_>, forms: &Forms<'_>, slot: usize) -> Vec<Vec<usize>> {
    let factors = forms.form(of.body.outputs[slot].value).terms().iter();
    let sets: BTreeSet<Vec<usize>> =
        factors.filter(|term| !matches!(term.atom, Atom::Matrix(_))).map(sorted_axes).collect();
    sets.into_iter().collect()
}

/// The factors of the next state, each with the weight that has its axes.
fn grouped(of: &Loop<'_, '_>, forms: &Forms<'_>, slot: usize, sets: &[Vec<usize>]) -> Option<Vec<Product>> {
    let mut groups: Vec<Vec<Power>> = vec![vec![]; sets.len()];
    for term in forms.form(of.body.outputs[slot].value).terms() {
        if !matches!(term.atom, Atom::Matrix(_)) {
            let axes = sorted_axes(term);
            groups[sets.iter().position(|set| *set == axes)?].push(term.clone());
        }
    }
    Some(groups.into_iter().map(Product::of).collect())
}
