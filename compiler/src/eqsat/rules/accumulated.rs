//! A state that only gathers products of vectors: one contraction over the iterations.
//!
//! In: a loop with a state `s <- s + sum of E * a * b ..`, where the matrices `E` stay the same and the others have fewer axes than
//! `s`. Out: a loop that stacks the vectors, and `s + sum of E * (contraction of the stacks)` behind it. The cotangent of what
//! a loop multiplies with vectors is gathered so: each iteration then writes vectors instead of a matrix.

use super::loops::{Loop, gathered_terms, picked, the_loop};
use crate::eqsat::import;
use crate::eqsat::pattern::Match;
use crate::eqsat::rewriter::{Contraction, Rewriter};
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::build::{Builder, Built};
use birkhoff_ir::tensor::inline::{live, without_inputs};
use birkhoff_ir::tensor::{Attr, Func, OpKind, ValueId};
use egg::Id;

/// More products than this are no gain.
const MAX_PRODUCTS: usize = 4;

/// Nor are longer ones. A body may multiply a value with itself again and again: this ends the search.
const MAX_FACTORS: usize = 16;

/// The label of the iterations; axes of the state have the letters before it.
const ITERATIONS: char = 'z';

/// `+-` a product.
#[derive(Clone, Default)]
struct Product {
    is_negative: bool,
    /// Arguments of the body that stay the same, with all axes.
    same: Vec<ValueId>,
    /// Values with fewer axes, the axes of the state that theirs are, and whether they divide.
    vectors: Vec<(ValueId, Vec<usize>, bool)>,
}

/// Replaces the first such state of the loop; the term that picks a result picks it from the new loop.
pub fn contract_iterations(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (l, idx) = (the_loop(cx, m)?, picked(m)?);
    if l.trip.as_const().is_some_and(|trip| trip < 2) {
        return None;
    }
    let (state, products) = (0..l.carry).find_map(|state| Some((state, gathered(&l, state)?)))?;
    let (body, stacked) = body_without(cx, &l, state, &products)?;
    let body = import::adopt_body(cx.graph, body, Some((l.body_id, &[state])));
    let mut op = l.op.clone();
    op.attrs[0] = Attr::Func(body);
    op.attrs[2] = Attr::Int(l.carry as i64 - 1);
    let mut args = l.args.clone();
    let start = args.remove(state);
    let tuple = cx.add(&op, &args)?;
    if idx != state {
        return Some(cx.get(tuple, if idx < state { idx } else { idx - 1 }));
    }
    let ty = cx.ty(start)?;
    let labels: Vec<char> = (0..ty.rank()).map(label).collect();
    let mut sum = start;
    let mut place = l.body.outputs.len() - 1;
    for (product, stacks) in products.iter().zip(stacked) {
        let mut inputs = vec![];
        for axes in stacks {
            let of_stack = [ITERATIONS].into_iter().chain(axes.iter().map(|axis| labels[*axis])).collect();
            inputs.push((of_stack, cx.get(tuple, place)));
            place += 1;
        }
        let mut term = cx.contract(&Contraction { inputs, output: labels.clone(), dtype: ty.dtype })?;
        for same in &product.same {
            term = cx.scalar(ScalarOp::Mul, &[l.args[same.0 as usize], term])?;
        }
        let op = if product.is_negative { ScalarOp::Sub } else { ScalarOp::Add };
        sum = cx.scalar(op, &[sum, term])?;
    }
    Some(sum)
}

fn label(axis: usize) -> char {
    (b'a' + axis as u8) as char
}

/// What the state gathers, if it is products of vectors.
fn gathered(l: &Loop, state: usize) -> Option<Vec<Product>> {
    let rank = l.body.ty(ValueId(state as u32)).rank();
    if !(2..=20).contains(&rank) {
        return None;
    }
    let mut products = vec![];
    for (term, is_negative) in gathered_terms(&l.body, state)? {
        for product in products_of(l, term)? {
            products.push(Product { is_negative: product.is_negative != is_negative, ..product });
        }
    }
    let is_whole = |product: &Product| {
        let groups = groups(product);
        groups.len() >= 2 && (0..rank).all(|axis| groups.iter().any(|axes| axes.contains(&axis)))
    };
    (products.len() <= MAX_PRODUCTS && !products.is_empty() && products.iter().all(is_whole))
        .then_some(products)
}

/// The value, which has all axes, as a sum of products.
fn products_of(l: &Loop, value: ValueId) -> Option<Vec<Product>> {
    let body = &l.body;
    let is_same = |value: ValueId| (l.carry + l.scan..body.inputs.len()).contains(&(value.0 as usize));
    if is_same(value) {
        return Some(vec![Product { same: vec![value], ..Product::default() }]);
    }
    let (node, _) = body.def(value)?;
    let vector = |value: ValueId, axes: Vec<usize>| Product {
        vectors: vec![(value, axes, false)],
        ..Product::default()
    };
    let products = match (node.op.kind, &node.args[..]) {
        (OpKind::Broadcast, &[x]) => {
            let axes = node.op.axes("axes").iter().map(|axis| *axis as usize).collect();
            vec![vector(x, axes)]
        }
        (OpKind::Contract, &[x, y]) => {
            let spec = node.op.einsum().filter(|spec| spec.summed().is_empty())?;
            let axes = |operand: usize| -> Option<Vec<usize>> {
                let place = |label: &char| spec.output.iter().position(|other| other == label);
                let axes: Option<Vec<usize>> = spec.inputs[operand].iter().map(place).collect();
                axes.filter(|axes| axes.len() < spec.output.len() && axes.is_sorted())
            };
            vec![joined(&vector(x, axes(0)?), &vector(y, axes(1)?))]
        }
        (OpKind::Scalar(ScalarOp::Neg), &[x]) => negated(products_of(l, x)?),
        (OpKind::Scalar(ScalarOp::Add), &[x, y]) => [products_of(l, x)?, products_of(l, y)?].concat(),
        (OpKind::Scalar(ScalarOp::Sub), &[x, y]) => {
            [products_of(l, x)?, negated(products_of(l, y)?)].concat()
        }
        (OpKind::Scalar(ScalarOp::Mul), &[x, y]) => {
            let (left, right) = (products_of(l, x)?, products_of(l, y)?);
            left.iter().flat_map(|one| right.iter().map(|other| joined(one, other))).collect()
        }
        (OpKind::Scalar(ScalarOp::Div), &[x, y]) => {
            let divisor = body.def(y).filter(|(node, _)| node.op.kind == OpKind::Broadcast)?.0;
            let axes: Vec<usize> = divisor.op.axes("axes").iter().map(|axis| *axis as usize).collect();
            let mut products = products_of(l, x)?;
            for product in &mut products {
                product.vectors.push((divisor.args[0], axes.clone(), true));
            }
            products
        }
        _ => return None,
    };
    let is_short = |product: &Product| product.same.len() + product.vectors.len() <= MAX_FACTORS;
    (products.len() <= MAX_PRODUCTS && products.iter().all(is_short)).then_some(products)
}

fn joined(one: &Product, other: &Product) -> Product {
    Product {
        is_negative: one.is_negative != other.is_negative,
        same: [&one.same[..], &other.same].concat(),
        vectors: [&one.vectors[..], &other.vectors].concat(),
    }
}

fn negated(products: Vec<Product>) -> Vec<Product> {
    products.into_iter().map(|product| Product { is_negative: !product.is_negative, ..product }).collect()
}

/// The different lists of axes of the product's vectors; scalars go with any.
fn groups(product: &Product) -> Vec<&[usize]> {
    let mut groups: Vec<&[usize]> = vec![];
    for (_, axes, _) in &product.vectors {
        if !axes.is_empty() && !groups.contains(&&axes[..]) {
            groups.push(axes);
        }
    }
    groups
}

/// The body without the state, which stacks the vectors of every product instead; and the axes of those, by product.
fn body_without(
    cx: &mut Rewriter<'_>,
    l: &Loop,
    state: usize,
    products: &[Product],
) -> Option<(Func, Vec<Vec<Vec<usize>>>)> {
    let mut func = l.body.clone();
    func.outputs.remove(state);
    let mut b = Builder::resume(&mut cx.graph.analysis.module, func);
    let mut stacked = vec![];
    for product in products {
        let mut stacks = vec![];
        for (number, axes) in groups(product).into_iter().enumerate() {
            let vector = vector(&mut b, product, axes, number == 0).ok()?;
            b.fresh_output("vector", vector).ok()?;
            stacks.push(axes.to_vec());
        }
        stacked.push(stacks);
    }
    let body = live(&b.into_func());
    let keep: Vec<bool> = (0..body.inputs.len()).map(|slot| slot != state).collect();
    Some((without_inputs(&body, &keep), stacked))
}

/// The product of the vectors along `axes`, and of the scalars if `with_scalars`.
fn vector(b: &mut Builder<'_>, product: &Product, axes: &[usize], with_scalars: bool) -> Built {
    let mut result: Option<ValueId> = None;
    let is_here = |of_vector: &[usize]| of_vector == axes || (with_scalars && of_vector.is_empty());
    // Factors first: what divides has something to divide.
    let (divisors, factors): (Vec<_>, Vec<_>) =
        product.vectors.iter().filter(|(_, axes, _)| is_here(axes)).partition(|(_, _, divides)| *divides);
    for (value, _, divides) in factors.into_iter().chain(divisors) {
        result = Some(match (result, divides) {
            (None, false) => *value,
            (None, true) => b.unary(ScalarOp::Recip, *value)?,
            (Some(result), false) => b.mul(result, *value)?,
            (Some(result), true) => b.div(result, *value)?,
        });
    }
    result.ok_or_else(|| "a group has no vectors".into())
}
