//! Roots, exponentials and logarithms.

use super::Class::{Approximate, Reassociates};
use super::Rule;

/// The rows.
pub const RULES: &[Rule] = &[
    Rule::term(
        "recip-sqrt",
        "(recip (sqrt ?x))",
        "(rsqrt ?x)",
        Reassociates,
        "One op with one rounding; processors have it.",
    ),
    Rule::term(
        "div-sqrt",
        "(div ?x (sqrt ?y))",
        "(mul ?x (rsqrt ?y))",
        Reassociates,
        "A product and an inverse root instead of a division and a root.",
    ),
    Rule::term("sqrt-square", "(sqrt (mul ?x ?x))", "(abs ?x)", Reassociates, "The root of a square."),
    Rule::term(
        "square-sqrt",
        "(mul (sqrt ?x) (sqrt ?x))",
        "?x",
        Reassociates,
        "The square of a root; both are NaN or not finite where x is negative.",
    ),
    Rule::term(
        "exp-product",
        "(mul (exp ?x) (exp ?y))",
        "(exp (add ?x ?y))",
        Approximate,
        "One exponential instead of two; the left one overflows or underflows earlier.",
    ),
    Rule::term(
        "exp-quotient",
        "(div (exp ?x) (exp ?y))",
        "(exp (sub ?x ?y))",
        Approximate,
        "One exponential instead of two; the left one is NaN where both saturate.",
    ),
    Rule::term(
        "log-exp",
        "(log (exp ?x))",
        "?x",
        Approximate,
        "They are inverse, but where exp saturates the left one is infinite and its derivative is not 1.",
    ),
    Rule::term(
        "exp-log",
        "(exp (log ?x))",
        "?x",
        Approximate,
        "They are inverse where x is positive; else the left one is NaN.",
    ),
    Rule::term(
        "log-quotient",
        "(log (div ?x ?y))",
        "(sub (log ?x) (log ?y))",
        Approximate,
        "The log of a softmax then needs no exponential of the numerator; differs where both operands are negative.",
    ),
    Rule::term(
        "log-one-plus",
        "(log (add ?x 1))",
        "(log1p ?x)",
        Approximate,
        "More accurate near 0, hence another number there.",
    ),
    Rule::term(
        "exp-minus-one",
        "(sub (exp ?x) 1)",
        "(expm1 ?x)",
        Approximate,
        "More accurate near 0, hence another number there.",
    ),
    Rule::term(
        "logistic-quotient",
        "(div (exp ?x) (add (exp ?x) 1))",
        "(recip (add (exp (neg ?x)) 1))",
        Approximate,
        "The logistic function as it is written elsewhere; the left one is NaN where exp overflows.",
    ),
    Rule::term(
        "log-rows-quotient",
        "(log (div ?x (broadcast@b ?r)))",
        "(sub (log ?x) (broadcast@b (log ?r)))",
        Approximate,
        "One logarithm for every row, and log-exp can follow; differs where both operands are negative.",
    ),
];
