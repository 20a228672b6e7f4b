//! Where a matrix times weights is as accurate as the state that it stands for.
//!
//! Entries `S = K prod_A w_A`. Rounding is no concern: products add a few relative errors per iteration, and sums of terms
//! `K w` cancel no more than those of terms `S`, from which they differ by a factor that lacks the summed axes. What is lost can
//! only be lost to overflow and underflow, because `w` and `1/w` may grow where `S` does not. There are two ways to know.
//!
//! **[`Range::Kernel`]: of the matrix alone.** The loop divides in turn by sums along rows and along columns, plus the same
//! constant `0 <= e <= 1/2`, and rows have as many elements as columns: n. In real arithmetic, with `u = v = 1` at first,
//!
//! ```text
//! 1/u <- K v + e/u        1/v <- K' u + e/v        k <= K <= h,  r = h/k.
//! ```
//!
//! Both steps keep the order of the pairs `(log u, -log v)`, element by element: with a greater `u` and a smaller `v`, the next
//! `u` is greater, and the next `v` smaller. Both commute with `(u, v) -> (c u, v/c)`. So they are nonexpansive in the maximum
//! norm of such pairs, and a multiple of a fixed point stays below, or above, what began so. There is a fixed point: `(u*, v*)` with
//! sums `1 - e` along rows and columns (Sinkhorn 1967; this needs n by n, and K > 0). There
//!
//! ```text
//! u*_i = (1-e) / (K v*)_i   in  (1-e)/V  [1/h, 1/k],   V = sum v*,
//! v*_j = (1-e) / (K' u*)_j,   v*_j / v*_l in [1/r, r],   so  v*_j in V/n [1/r, r].
//! ```
//!
//! The pair `(0, 0)` lies between the fixed point plus `a` and plus `b`, the least and the greatest element of `(-log u*, log v*)`,
//! and so every later pair does. Elements of `-log u*` differ by at most `log r`, and so do those of `log v*`; one of the first less one
//! of the second is in `[-log(r/(n k)), log(n r h/(1-e))]`. Therefore, in every iteration,
//!
//! ```text
//! min(1/r, (1-e)/(n r h))  <=  u, v  <=  max(r, r/(n k)),
//! S  >=  k u* v* exp(a-b)  >=  (1-e) k^2/(n h^2) min(1/r, (1-e)/(n r h), n k/r).
//! ```
//!
//! None of it depends on the number of iterations. A half-step that is computed is off by a relative error of less than
//! `(n + 8) 2^-24` (2^-53) per element; as steps do not expand, those add up, to a factor of at most 2 if the number of half-steps
//! times `n + 8` is at most 2^23 (2^52). With `k = 2^-20`, `h = 2^8` and `n <= 2^12` in f32: `2^-50 < u, v < 2^50` and `S > 2^-121`; the terms
//! `K v` are above 2^-72 and their sums below 2^60; in f64, with `k = 2^-160` and `h = 2^40`: `2^-300 < u, v < 2^362` and
//! `S > 2^-770`. So nothing leaves the normal numbers. Whether `k <= K <= h` is asked once, before the loop; it is false for NaN.
//!
//! **[`Range::Watched`]: of the weights.** Any other loop carries the least and the greatest that each weight was, and each
//! product of powers on the way to one, in absolute value. `K` is 0 or between 2^-40 and 2^24 (2^-300 and 2^200), and up to p weights of
//! a sum are between 2^-40/p and 2^40/p (2^-320/p and 2^320/p). So a term `K w w'` is 0 or above 2^-80 (2^-620), and a sum of N such terms
//! below 2^64 N; what is lost where they cancel is less than the rounding of the terms. The sum times the weights in front of
//! it, which is the sum of the state, is 0 or above 2^-120 where terms have one sign. Values that are computed from sums are then those of
//! the loop as it was. An element that overflows, or vanishes, or is NaN is out of range in that iteration, and the least and the greatest keep it.
//!
//! Cotangents of weights are those of the state times `K` and weights: they have a range that is narrower by these factors, which
//! are near 1 unless a matrix is near the bounds.

use super::super::sum::Sum;
use super::Loop;
use super::forms::{Atom, Forms, Power, Product};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::{Func, Module, OpKind, ValueId};

/// How it is known that weights stay in range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Range {
    /// By the matrix, before the loop.
    Kernel,
    /// By watching them in every iteration.
    Watched,
}

/// Longer rows are watched.
const MAX_ROW: i64 = 1 << 12;
/// The constant beside the sums.
const MAX_EPS: f64 = 0.5;

/// The least and the greatest entries of a matrix; between them, weights need no watch.
pub fn kernel_bounds(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F64 => (2f64.powi(-160), 2f64.powi(40)),
        _ => (2f64.powi(-20), 2f64.powi(8)),
    }
}

/// The least and the greatest entries of a matrix whose weights are watched.
pub fn watched_bounds(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F64 => (2f64.powi(-300), 2f64.powi(200)),
        _ => (2f64.powi(-40), 2f64.powi(24)),
    }
}

/// The greatest that one of so many weights may be; the least is its reciprocal.
pub fn weight_bound(dtype: DType, n_weights: usize) -> f64 {
    let bits = if dtype == DType::F64 { 320 } else { 40 };
    2f64.powi(bits / n_weights.max(1) as i32)
}

/// The most that a size can be, where that is known.
pub fn most(module: &Module, dim: &Dim) -> Option<i64> {
    let mut sum = 0i64;
    for (names, coeff) in dim.terms() {
        let mut term = coeff.max(0);
        for name in names {
            let birkhoff_ir::tensor::DimKind::RunTime { hi, .. } = module.dim(name)?.kind else {
                return None;
            };
            term = term.checked_mul(hi)?;
        }
        sum = sum.checked_add(term)?;
    }
    Some(sum)
}

/// Whether the loop divides the state of `slot` in turn by its sums along rows and along columns, so that [`Range::Kernel`] holds.
/// `bare` are the products in which the state has no weights.
pub fn is_normalised(of: &Loop<'_, '_>, bare: &Forms<'_>, slot: usize, weights: &[Vec<usize>]) -> bool {
    let ty = &of.body.values[slot].ty;
    let [one, other] = weights else { return false };
    let lacks = |set: &[usize]| -> Vec<usize> { (0..ty.rank()).filter(|axis| !set.contains(axis)).collect() };
    let extent =
        |axes: &[usize]| axes.iter().fold(Dim::constant(1), |product, axis| product.mul(&ty.shape[*axis]));
    let (rows, columns) = (lacks(one), lacks(other));
    if rows.iter().any(|axis| columns.contains(axis)) || extent(&rows) != extent(&columns) {
        return false;
    }
    let Some(n_steps) = half_steps(of.body, bare, slot) else { return false };
    let Some((trip, row)) = of.trip.zip(most(of.module, &extent(&rows))) else { return false };
    let rounding = if ty.dtype == DType::F64 { 1i64 << 52 } else { 1 << 23 };
    let steps = trip.max(0).checked_mul(n_steps);
    row <= MAX_ROW && steps.and_then(|steps| steps.checked_mul(row + 8)).is_some_and(|all| all <= rounding)
}

/// How many divisions by a sum plus a constant make the next state, if nothing else does and the constant is the same.
fn half_steps(body: &Func, bare: &Forms<'_>, slot: usize) -> Option<i64> {
    let is_matrix = |term: &Power| matches!(term.atom, Atom::Matrix(_));
    let (matrix, mut divisors): (Vec<Power>, Vec<Power>) =
        bare.form(body.outputs[slot].value).terms().iter().cloned().partition(is_matrix);
    let (mut current, mut eps, mut n_steps) = (Product::of(matrix), None, 0);
    while !divisors.is_empty() {
        let (place, found) = divisors.iter().enumerate().find_map(|(place, divisor)| {
            divided(body, bare, slot, &current, divisor).map(|found| (place, found))
        })?;
        if *eps.get_or_insert(found) != found {
            return None;
        }
        current = current.plus(&Sum::of([divisors.remove(place)]), 1)?;
        n_steps += 1;
    }
    Some(n_steps)
}

/// The constant, if `divisor` is one over the sum of `current` plus a constant, along the axes that the divisor lacks.
fn divided(body: &Func, bare: &Forms<'_>, slot: usize, current: &Product, divisor: &Power) -> Option<f64> {
    if divisor.coeff != -1 || !divisor.axes.is_sorted() {
        return None;
    }
    let rank = body.values[slot].ty.rank();
    let summed: Vec<usize> = (0..rank).filter(|axis| !divisor.axes.contains(axis)).collect();
    let touches = |term: &Power| term.axes.iter().any(|axis| summed.contains(axis));
    let (inside, outside): (Vec<Power>, Vec<Power>) = current.terms().iter().cloned().partition(touches);
    let is_sum = |number: usize| {
        let site = &bare.sites[number];
        let others = inside.iter().filter(|term| !matches!(term.atom, Atom::Matrix(_))).cloned();
        site.slot == slot
            && site.summed == summed
            && site.rank == rank
            && site.shape.len() == rank
            && site.others == Product::of(others)
    };
    match divisor.atom {
        Atom::Sum(number) if outside.is_empty() && is_sum(number) => Some(0.0),
        Atom::Value(value) => {
            let (node, _) = body.def(value)?;
            if node.op.kind != OpKind::Scalar(ScalarOp::Add) {
                return None;
            }
            let (x, y) = (*node.args.first()?, *node.args.get(1)?);
            let (sum, eps) = match (constant(body, x), constant(body, y)) {
                (None, Some(eps)) => (x, eps),
                (Some(eps), None) => (y, eps),
                _ => return None,
            };
            // Axes of the sum are those of the state that it has.
            let form = bare.form(sum).moved(|axis| divisor.axes.get(axis).copied())?;
            let (sums, rest): (Vec<Power>, Vec<Power>) =
                form.terms().iter().cloned().partition(|term| matches!(term.atom, Atom::Sum(_)));
            let [Power { atom: Atom::Sum(number), coeff: 1, axes }] = &sums[..] else { return None };
            let is_whole =
                *axes == divisor.axes && is_sum(*number) && Product::of(rest) == Product::of(outside);
            (is_whole && (0.0..=MAX_EPS).contains(&eps)).then_some(eps)
        }
        _ => None,
    }
}

/// The number that every element of a value is.
fn constant(body: &Func, value: ValueId) -> Option<f64> {
    let (node, _) = body.def(value)?;
    match (node.op.kind, node.op.attr("value")) {
        (OpKind::Broadcast | OpKind::Reshape, _) => constant(body, *node.args.first()?),
        (OpKind::Const, Some(birkhoff_ir::tensor::Attr::Float(value))) => Some(value.0),
        _ => None,
    }
}
