//! Exponential and logarithmic maps of the stereographic model (docs/MATHEMATICS.md 20 to 22).
//!
//! At positive curvature they are inverse only within the injectivity radius: those rows ask for a curvature that is known
//! not to be positive. Near the boundary of the ball `tanh` saturates, which is why they are approximate.

use super::Class::{Approximate, Reassociates};
use super::Rule;
use crate::eqsat::pattern::Match;
use crate::eqsat::rewriter::Rewriter;
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use birkhoff_ir::tensor::{Op, OpKind};
use egg::Id;

/// The rows.
pub const RULES: &[Rule] = &[
    Rule::term(
        "log-of-exp-map",
        "(log_map ?x (exp_map ?x ?v ?k) ?k)",
        "?v",
        Approximate,
        "The tangent that led there; only where tanh does not saturate.",
    )
    .when("k is known to be at most 0", flat_or_hyperbolic),
    Rule::term(
        "exp-of-log-map",
        "(exp_map ?x (log_map ?x ?y ?k) ?k)",
        "?y",
        Approximate,
        "The point that the tangent leads to; only inside the ball.",
    )
    .when("k is known to be at most 0", flat_or_hyperbolic),
    Rule::built(
        "dist-of-exp-map",
        "(dist ?x (exp_map ?x ?v ?k) ?k)",
        ("lambda_x |v|", dist_of_exp),
        Approximate,
        "A geodesic is as long as its tangent; only where tanh does not saturate.",
    )
    .when("k is known to be at most 0", flat_or_hyperbolic),
    Rule::term(
        "length-of-log-map",
        "(mul (conformal_factor ?x ?k) (norm (log_map ?x ?y ?k)))",
        "(dist ?x ?y ?k)",
        Approximate,
        "The length of the tangent in the metric is the distance; at x = y the derivative is taken as 0.",
    ),
    Rule::term("exp-map-of-zero", "(exp_map ?x 0 ?k)", "?x", Reassociates, "Without a tangent one stays."),
    Rule::term("mobius-add-zero", "(mobius_add ?x 0 ?k)", "?x", Reassociates, "The origin is neutral."),
    Rule::term("mobius-add-to-zero", "(mobius_add 0 ?y ?k)", "?y", Reassociates, "The origin is neutral."),
    Rule::term(
        "transport-to-itself",
        "(transport ?x ?x ?v ?k)",
        "?v",
        Reassociates,
        "Nothing is transported.",
    ),
];

fn flat_or_hyperbolic(cx: &Rewriter<'_>, m: &Match) -> bool {
    matches!(cx.facts(m.var('k')).uniform, Some(Scalar::Float(k)) if k <= 0.0)
}

fn dist_of_exp(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (x, k) = (m.var('x'), m.var('k'));
    let factor = cx.composite(&Op::plain(OpKind::ConformalFactor), &[x, k])?;
    let norm = cx.composite(&Op::plain(OpKind::Norm), &[m.var('v')])?;
    cx.scalar(ScalarOp::Mul, &[factor, norm])
}
