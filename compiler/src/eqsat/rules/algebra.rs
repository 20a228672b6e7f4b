//! Arithmetic of elements: signs, neutral elements, one division per row instead of one per element.

use super::Class::{Exact, Reassociates};
use super::Rule;
use crate::eqsat::pattern::{Match, is_commutative};
use crate::eqsat::rewriter::Rewriter;
use crate::eqsat::term::{Head, is_tuple};
use birkhoff_ir::scalar::Scalar;
use birkhoff_ir::tensor::OpKind;
use egg::Id;

/// The rows.
pub const RULES: &[Rule] = &[
    Rule::built(
        "fold-constants",
        "(any@f ..)",
        ("the constant", fold),
        Exact,
        "An op on constants is a constant, computed by the op's definition in its own dtype.",
    ),
    Rule::built(
        "sort-operands",
        "(binary@f ..)",
        ("the same, operands sorted", sort),
        Exact,
        "IEEE sums, products, maxima and minima do not depend on the order of two operands; one order makes equal terms meet.",
    ),
    Rule::term("neg-neg", "(neg (neg ?x))", "?x", Exact, "Two changes of sign."),
    Rule::term("abs-neg", "(abs (neg ?x))", "(abs ?x)", Exact, "The sign is dropped anyway."),
    Rule::term("abs-of-nonnegative", "(abs ?x)", "?x", Exact, "There is no sign to drop.")
        .when("x is known to have no sign", |cx, m| cx.facts(m.var('x')).nonnegative),
    Rule::term("mul-one", "(mul ?x 1)", "?x", Exact, "One is neutral."),
    Rule::term("div-one", "(div ?x 1)", "?x", Exact, "One is neutral."),
    Rule::term("one-div", "(div 1 ?x)", "(recip ?x)", Exact, "The definition of `recip`.")
        .when("floats", is_float),
    Rule::term("mul-minus-one", "(mul ?x -1)", "(neg ?x)", Exact, "Only the sign changes."),
    Rule::term("sub-zero", "(sub ?x 0)", "?x", Exact, "x - 0 is x, also for -0."),
    Rule::term("add-zero", "(add ?x 0)", "?x", Reassociates, "Zero is neutral, but -0 + 0 is 0."),
    Rule::term("add-neg", "(add ?x (neg ?y))", "(sub ?x ?y)", Exact, "The definition of subtraction."),
    Rule::term("sub-neg", "(sub ?x (neg ?y))", "(add ?x ?y)", Exact, "The definition of subtraction."),
    Rule::term(
        "neg-sub",
        "(neg (sub ?x ?y))",
        "(sub ?y ?x)",
        Reassociates,
        "One op less; at x = y the zero changes sign.",
    ),
    Rule::term(
        "mul-neg",
        "(mul (neg ?x) ?y)",
        "(neg (mul ?x ?y))",
        Exact,
        "Signs move outwards, where two of them meet and vanish.",
    ),
    Rule::term("div-neg", "(div (neg ?x) ?y)", "(neg (div ?x ?y))", Exact, "Signs move outwards.")
        .when("floats", is_float),
    Rule::term(
        "div-by-power-of-two",
        "(div ?x ?c)",
        "(mul ?x (recip ?c))",
        Exact,
        "Scaling by a power of two rounds equally either way, and a product is cheaper.",
    )
    .when("c is a power of two with a normal reciprocal", is_power_of_two),
    Rule::term(
        "divide-once-per-row",
        "(div ?x (broadcast@b ?r))",
        "(mul ?x (broadcast@b (recip ?r)))",
        Reassociates,
        "One division for every row instead of one for every element.",
    )
    .when("floats", is_float),
    Rule::term(
        "multiply-by-reciprocal-rows",
        "(mul ?x (broadcast@b (recip ?r)))",
        "(div ?x (broadcast@b ?r))",
        Reassociates,
        "The other way round, so that normalisations are recognised however they were written.",
    ),
    Rule::term(
        "multiply-by-reciprocal",
        "(mul ?x (recip ?y))",
        "(div ?x ?y)",
        Reassociates,
        "One rounding instead of two.",
    ),
    Rule::term("recip-recip", "(recip (recip ?x))", "?x", Reassociates, "Two inversions."),
    Rule::term(
        "recip-div",
        "(recip (div ?x ?y))",
        "(div ?y ?x)",
        Reassociates,
        "One division instead of two.",
    ),
    Rule::term(
        "scale-rows-once",
        "(mul (mul ?x (broadcast@b ?r)) (broadcast@d ?s))",
        "(mul ?x (broadcast@b (mul ?r ?s)))",
        Reassociates,
        "The factors of a row are multiplied before they meet the row.",
    )
    .when("both are repeated along the same axes", |cx, m| cx.op(m, 'b') == cx.op(m, 'd')),
    Rule::term(
        "mul-constants",
        "(mul (mul ?x ?c) ?d)",
        "(mul ?x (mul ?c ?d))",
        Reassociates,
        "The product of two constants is computed once.",
    )
    .when("c and d are constants", constants_c_d),
    Rule::term(
        "add-constants",
        "(add (add ?x ?c) ?d)",
        "(add ?x (add ?c ?d))",
        Reassociates,
        "The sum of two constants is computed once.",
    )
    .when("c and d are constants", constants_c_d),
    Rule::term(
        "div-constants",
        "(div (mul ?x ?c) ?d)",
        "(mul ?x (div ?c ?d))",
        Reassociates,
        "A factor and a divisor are one factor, and often cancel.",
    )
    .when("c and d are constant floats", |cx, m| constants_c_d(cx, m) && is_float(cx, m)),
    Rule::term(
        "factor-common",
        "(add (mul ?a ?x) (mul ?a ?y))",
        "(mul ?a (add ?x ?y))",
        Reassociates,
        "One product instead of two.",
    ),
    Rule::term("max-same", "(max ?x ?x)", "?x", Exact, "The larger of equal values."),
    Rule::term("min-same", "(min ?x ?x)", "?x", Exact, "The smaller of equal values."),
    Rule::term(
        "max-again",
        "(max (max ?x ?y) ?y)",
        "(max ?x ?y)",
        Exact,
        "The maximum already is no smaller than y.",
    ),
    Rule::term(
        "min-again",
        "(min (min ?x ?y) ?y)",
        "(min ?x ?y)",
        Exact,
        "The minimum already is no larger than y.",
    ),
    Rule::term("select-same", "(select ?c ?x ?x)", "?x", Exact, "Either way it is x."),
    Rule::term("select-true", "(select 1 ?x ?y)", "?x", Exact, "The condition holds everywhere."),
    Rule::term("select-false", "(select 0 ?x ?y)", "?y", Exact, "The condition holds nowhere."),
    Rule::term(
        "select-not",
        "(select (not ?c) ?x ?y)",
        "(select ?c ?y ?x)",
        Exact,
        "The branches change places.",
    ),
    Rule::term("not-not", "(not (not ?c))", "?c", Exact, "Two negations."),
    Rule::term("pow-one", "(pow ?x 1)", "?x", Exact, "The first power."),
    Rule::term(
        "pow-two",
        "(pow ?x 2)",
        "(mul ?x ?x)",
        Reassociates,
        "A product is far cheaper, and at least as accurate.",
    ),
];

/// True if the root's elements are floats.
pub fn is_float(cx: &Rewriter<'_>, m: &Match) -> bool {
    cx.ty(m.root).is_some_and(|ty| ty.dtype.is_float())
}

fn constants_c_d(cx: &Rewriter<'_>, m: &Match) -> bool {
    let constant = |name| cx.facts(m.var(name)).uniform.is_some();
    constant('c') && constant('d') && cx.facts(m.var('x')).uniform.is_none()
}

fn is_power_of_two(cx: &Rewriter<'_>, m: &Match) -> bool {
    let Some(Scalar::Float(value)) = cx.facts(m.var('c')).uniform else { return false };
    let Some(ty) = cx.ty(m.root) else { return false };
    // Small enough that value and reciprocal are normal in every float type but f16's outermost.
    let mantissa = value.to_bits() << 12;
    ty.dtype.is_float() && mantissa == 0 && value.abs() <= 16384.0 && value.abs() >= 1.0 / 16384.0
}

fn fold(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let kind = m.term('f')?.kind()?;
    if is_tuple(kind) || kind == OpKind::Const {
        return None;
    }
    let value = cx.facts(m.root).uniform?;
    let is_known = |head: Head| matches!(head, Head::Op(OpKind::Const | OpKind::Broadcast, _));
    if kind == OpKind::Broadcast && cx.graph[m.term('f')?.args[0]].iter().any(|term| is_known(term.head)) {
        return None;
    }
    let ty = cx.ty(m.root)?;
    cx.constant(value, &ty)
}

fn sort(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let term = m.term('f')?;
    let (left, right) = (cx.graph.find(*term.args.first()?), cx.graph.find(*term.args.get(1)?));
    if left <= right || !is_commutative(term.kind()?) {
        return None;
    }
    let op = cx.op_of(term)?;
    cx.add(&op, &[right, left])
}
