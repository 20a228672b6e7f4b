//! Every rewrite rule on a small example: it fires, and what it builds has the value that the evaluator gives the original.
//!
//! Only the rule under test (and helpers, where a row names them) is switched on, and programs are drawn at random from all
//! that were found equal, so that the rewritten form itself is evaluated. Exact rules are compared bit by bit on inputs with
//! zeros of both signs, infinities and NaN; the others on the domains that the rows state, within [`bound`].

mod common;

use birkhoff_compiler::eqsat::rules::{Class, Right, all};
use birkhoff_compiler::eqsat::{Math, Options, optimize};
use common::{Contents, Example, compare, inputs_of, parse};
use std::collections::BTreeSet;

/// Rule, further rules that must be on, arguments, statements; the results are `o` and `p`.
type Row = (&'static str, &'static [&'static str], &'static str, &'static str);

/// Functions that examples loop over.
const STEPS: &str = "
fn @half(a: f32[T,n], b: f32[T,n]) -> (a: f32[T,n], b: f32[T,n]) {
  c = a * 0.5 + b
  return a = c, b = b
}
fn @scaled(a: f32[T,n], w: f32[T,n], x: f32[n]) -> (a: f32[T,n]) {
  c = tanh(w) + exp(x)
  d = a + c
  return a = d
}
fn @gather(acc: f32[T,n], a: f32[T], b: f32[n], e: f32[T,n]) -> (acc: f32[T,n], a: f32[T], b: f32[n]) {
  outer = broadcast(a, shape=[T,n], axes=[0]) * broadcast(b, shape=[T,n], axes=[1])
  c = acc + (contract(sin(a), b, spec=\"i,j->ij\", dtype=f32) - outer) * e
  return acc = c, a = tanh(a), b = b * 0.5
}
fn @probe(acc: f32[n,n], v: f32[T,n], w: f32[n,n], m: f32[n]) -> (acc: f32[n,n], s: f32[n]) {
  y = tanh(contract(v, w, spec=\"tn,nm->tm\", dtype=f32)) * exp(m)
  c = acc - contract(y, v, spec=\"tm,tn->mn\", dtype=f32) + broadcast(reduce_max(y, axes=[0]), shape=[n,n], axes=[1])
  d = slice(concat(y, v, axis=1), axis=1, start=1, end=n+1)
  return acc = c, s = reduce_sum(transpose(d, axes=[1,0]), axes=[1])
}
fn @scan(a: f32[n], x: f32[n]) -> (a: f32[n], s: f32[n]) {
  c = a + x
  return a = c, s = c
}
";

static ROWS: &[Row] = &[
    // algebra
    ("fold-constants", &[], "x: f32[T,n]", "o = x * broadcast_to(exp(const(value=2.0, dtype=f32)), [T,n])"),
    ("sort-operands", &["neg-neg"], "x: f32[T,n], w: f32[T,n]", "o = neg(neg(x)) * w\n p = exp(x) - sqrt(x)"),
    ("neg-neg", &[], "x: f32[T,n]", "o = neg(neg(x))"),
    ("abs-neg", &[], "x: f32[T,n]", "o = abs(neg(x))"),
    ("abs-of-nonnegative", &[], "x: f32[T,n]", "o = abs(exp(x))"),
    ("mul-one", &[], "x: f32[T,n]", "o = x * 1.0"),
    ("div-one", &[], "x: f32[T,n]", "o = x / 1.0"),
    ("one-div", &[], "x: f32[T,n]", "o = 1.0 / x"),
    ("mul-minus-one", &[], "x: f32[T,n]", "o = x * (-1.0)"),
    ("sub-zero", &[], "x: f32[T,n]", "o = x - 0.0"),
    ("add-zero", &[], "x: f32[T,n]", "o = x + 0.0"),
    ("add-neg", &[], "x: f32[T,n], y: f32[T,n]", "o = neg(y) + x"),
    ("sub-neg", &[], "x: f32[T,n], y: f32[T,n]", "o = x - neg(y)"),
    ("neg-sub", &[], "x: f32[T,n], y: f32[T,n]", "o = neg(x - y)"),
    ("mul-neg", &[], "x: f32[T,n], y: f32[T,n]", "o = neg(x) * y"),
    ("div-neg", &[], "x: f32[T,n], y: f32[T,n]", "o = neg(x) / y"),
    ("div-by-power-of-two", &[], "x: f32[T,n]", "o = x / 8.0"),
    ("divide-once-per-row", &[], "x: f32[T,n], r: f32[n] ~ uniform(0.5, 2)", "o = x / r"),
    (
        "multiply-by-reciprocal-rows",
        &[],
        "x: f32[T,n], r: f32[n] ~ uniform(0.5, 2)",
        "o = x * broadcast_to(recip(r), [T,n])",
    ),
    ("multiply-by-reciprocal", &[], "x: f32[T,n], y: f32[T,n] ~ uniform(0.5, 2)", "o = x * recip(y)"),
    ("recip-recip", &[], "x: f32[T,n] ~ uniform(0.5, 2)", "o = recip(recip(x))"),
    ("recip-div", &[], "x: f32[T,n] ~ uniform(0.5, 2), y: f32[T,n]", "o = recip(x / y)"),
    ("scale-rows-once", &[], "x: f32[T,n], r: f32[n], s: f32[n]", "o = x * r * s"),
    ("mul-constants", &[], "x: f32[T,n]", "o = x * 3.0 * 0.7"),
    ("add-constants", &[], "x: f32[T,n]", "o = x + 3.0 + 0.7"),
    ("div-constants", &[], "x: f32[T,n]", "o = x * 3.0 / 0.7"),
    ("factor-common", &[], "x: f32[T,n], y: f32[T,n], a: f32[T,n]", "o = x * a + a * y"),
    ("max-same", &[], "x: f32[T,n]", "o = max(x, x)"),
    ("min-same", &[], "x: f32[T,n]", "o = min(x, x)"),
    ("max-again", &[], "x: f32[T,n], y: f32[T,n]", "o = max(y, max(y, x))"),
    ("min-again", &[], "x: f32[T,n], y: f32[T,n]", "o = min(min(x, y), y)"),
    ("select-same", &[], "c: bool[T,n], x: f32[T,n]", "o = select(c, x, x)"),
    (
        "select-true",
        &[],
        "x: f32[T,n], y: f32[T,n]",
        "o = select(broadcast_to(const(value=true, dtype=bool), [T,n]), x, y)",
    ),
    (
        "select-false",
        &[],
        "x: f32[T,n], y: f32[T,n]",
        "o = select(broadcast_to(const(value=false, dtype=bool), [T,n]), x, y)",
    ),
    ("select-not", &[], "c: bool[T,n], x: f32[T,n], y: f32[T,n]", "o = select(not(c), x, y)"),
    ("not-not", &[], "c: bool[T,n]", "o = not(not(c))"),
    ("pow-one", &[], "x: f32[T,n]", "o = pow(x, 1.0)"),
    ("pow-two", &[], "x: f32[T,n]", "o = pow(x, 2.0)"),
    // movement
    ("drop-broadcast", &[], "x: f32[T,n]", "o = broadcast(x, shape=[T,n], axes=[0,1]) * 2.0"),
    ("drop-reshape", &[], "x: f32[T,n]", "o = reshape(x, [T,n])"),
    ("drop-slice", &[], "x: f32[T,n]", "o = slice(x, axis=1, start=0, end=n)"),
    ("drop-concat", &[], "x: f32[T,n]", "o = concat(x, axis=1)"),
    ("drop-pad", &[], "x: f32[T,n], v: f32[]", "o = pad(x, v, axis=1, low=0, high=0)"),
    ("drop-convert", &[], "x: f32[T,n]", "o = convert(x, dtype=f32)"),
    ("drop-transpose", &[], "x: f32[T,n]", "o = transpose(x, axes=[0,1])"),
    ("drop-stop-gradient", &[], "x: f32[T,n]", "o = stop_gradient(x)"),
    (
        "broadcast-of-broadcast",
        &[],
        "x: f32[n]",
        "y = broadcast(x, shape=[n,C], axes=[0])\n o = broadcast(y, shape=[n,T,C], axes=[0,2])",
    ),
    (
        "transpose-of-transpose",
        &[],
        "x: f32[T,n,C]",
        "o = transpose(transpose(x, axes=[1,2,0]), axes=[0,2,1])",
    ),
    ("reshape-of-reshape", &[], "x: f32[T,n,C]", "o = reshape(reshape(x, [T,n*C]), [T*n,C])"),
    (
        "convert-there-and-back",
        &[],
        "x: f32[T,n], y: bf16[T,n]",
        "o = convert(convert(x, dtype=f64), dtype=f32)\n p = convert(convert(y, dtype=f32), dtype=f64)",
    ),
    ("broadcast-of-unit-axes", &[], "x: f32[T,n]", "o = broadcast(x, shape=[T,1,n], axes=[0,2])"),
    (
        "transpose-of-broadcast",
        &[],
        "x: f32[n,C]",
        "o = transpose(broadcast(x, shape=[n,T,C], axes=[0,2]), axes=[2,1,0])",
    ),
    (
        "reshape-of-broadcast",
        &[],
        "x: f32[C], y: f32[T]",
        "o = reshape(broadcast(x, shape=[T,n,C], axes=[2]), [T,n*C])\n p = reshape(broadcast(y, shape=[T,n,C], axes=[0]), [T,n*C])",
    ),
    (
        "slice-of-broadcast",
        &[],
        "x: f32[C], y: f32[T]",
        "o = slice(broadcast(x, shape=[T,C], axes=[1]), axis=1, start=0, end=C-0)\n p = slice(broadcast(y, shape=[T,n+1], axes=[0]), axis=1, start=1, end=n+1)",
    ),
    (
        "slice-of-slice",
        &[],
        "x: f32[T,2*n+C]",
        "o = slice(slice(x, axis=1, start=n, end=2*n+C), axis=1, start=1, end=n)",
    ),
    (
        "slice-of-concat",
        &[],
        "x: f32[T,n], y: f32[T,C]",
        "o = slice(concat(x, y, axis=1), axis=1, start=n, end=n+C)",
    ),
    (
        "slice-of-transpose",
        &[],
        "x: f32[T,n+2]",
        "o = slice(transpose(x, axes=[1,0]), axis=0, start=1, end=n+1)",
    ),
    (
        "concat-of-slices",
        &[],
        "x: f32[T,n+C]",
        "o = concat(slice(x, axis=1, start=0, end=n), slice(x, axis=1, start=n, end=n+C), axis=1)",
    ),
    ("slice-of-unary", &[], "x: f32[T,n+1]", "o = slice(neg(x), axis=1, start=1, end=n+1)"),
    ("slice-of-binary", &[], "x: f32[T,n+1], y: f32[T,n+1]", "o = slice(x - y, axis=1, start=1, end=n+1)"),
    ("unary-of-broadcast", &[], "x: f32[n]", "o = exp(broadcast_to(x, [T,n]))"),
    ("convert-of-broadcast", &[], "x: f32[n]", "o = convert(broadcast_to(x, [T,n]), dtype=f64)"),
    (
        "binary-of-broadcasts",
        &[],
        "x: f32[n], y: f32[]",
        "o = broadcast_to(y, [T,n]) / broadcast_to(x, [T,n])",
    ),
    (
        "ternary-of-broadcasts",
        &[],
        "c: bool[n], x: f32[], y: f32[n]",
        "o = select(broadcast_to(c, [T,n]), broadcast_to(x, [T,n]), broadcast_to(y, [T,n]))",
    ),
    ("unary-of-reshape", &[], "x: f32[T,n,C]", "o = exp(reshape(x, [T,n*C]))"),
    ("reshape-of-unary", &[], "x: f32[T,n,C]", "o = reshape(exp(x), [T,n*C])"),
    (
        "binary-of-reshapes",
        &[],
        "x: f32[T,n,C], y: f32[T,n,C]",
        "o = reshape(x, [T,n*C]) - reshape(y, [T,n*C])",
    ),
    ("reshape-of-binary", &[], "x: f32[T,n,C], y: f32[T,n,C]", "o = reshape(x - y, [T,n*C])"),
    ("unary-of-transpose", &[], "x: f32[T,n]", "o = exp(transpose(x, axes=[1,0]))"),
    ("transpose-of-unary", &[], "x: f32[T,n]", "o = transpose(exp(x), axes=[1,0])"),
    (
        "binary-of-transposes",
        &[],
        "x: f32[T,n], y: f32[T,n]",
        "o = transpose(x, axes=[1,0]) / transpose(y, axes=[1,0])",
    ),
    ("transpose-of-binary", &[], "x: f32[T,n], y: f32[T,n]", "o = transpose(x / y, axes=[1,0])"),
    // reductions
    (
        "reduce-past-broadcast",
        &[],
        "x: f32[T,n]",
        "o = reduce_sum(broadcast(x, shape=[T,C,n], axes=[0,2]), axes=[2])",
    ),
    (
        "extremum-of-broadcast",
        &[],
        "x: f32[T,n]",
        "o = reduce_max(broadcast(x, shape=[T,C,n], axes=[0,2]), axes=[1,2])",
    ),
    (
        "sum-of-broadcast",
        &[],
        "x: f32[T,n]",
        "o = reduce_sum(broadcast(x, shape=[T,C,n], axes=[0,2]), axes=[1,2])",
    ),
    ("extremum-of-extremum", &[], "x: f32[T,n,C]", "o = reduce_min(reduce_min(x, axes=[1]), axes=[1])"),
    ("sum-of-sum", &[], "x: f32[T,n,C]", "o = reduce_sum(reduce_sum(x, axes=[2]), axes=[0])"),
    ("reduce-of-reshape", &[], "x: f32[T,n,C]", "o = reduce_sum(reshape(x, [T,n*C]), axes=[1])"),
    ("extremum-of-transpose", &[], "x: f32[T,n,C]", "o = reduce_max(transpose(x, axes=[2,0,1]), axes=[1])"),
    ("sum-of-transpose", &[], "x: f32[T,n,C]", "o = reduce_sum(transpose(x, axes=[2,0,1]), axes=[0,1])"),
    ("reduce-of-one", &[], "x: f32[T,1]", "o = reduce_sum(x, axes=[1])"),
    (
        "sum-of-scaled",
        &[],
        "x: f32[T,n], r: f32[T]",
        "o = reduce_sum(x * broadcast(r, shape=[T,n], axes=[0]), axes=[1])",
    ),
    (
        "sum-of-divided",
        &[],
        "x: f32[T,n], r: f32[T] ~ uniform(0.5, 2)",
        "o = reduce_sum(x / broadcast(r, shape=[T,n], axes=[0]), axes=[1])",
    ),
    ("sum-of-negated", &[], "x: f32[T,n]", "o = reduce_sum(neg(x), axes=[0])"),
    ("sum-of-product", &[], "x: f32[T,n], y: f32[T,n]", "o = reduce_sum(x * y, axes=[0])"),
    // contractions
    ("sort-product", &[], "x: f32[n,C], w: f32[T,n]", "o = einsum(\"kc,tk->tc\", x, w)"),
    ("sort-contraction", &[], "x: f32[n,C], w: f32[T,n,C]", "o = einsum(\"kc,tkc->t\", x, w)"),
    (
        "norm-behind-projection",
        &[],
        "x: f32[T,C], r: f32[T] ~ uniform(0.5, 2), w: f32[C,n]",
        "o = einsum(\"tk,ko->to\", x / broadcast(r, shape=[T,C], axes=[0]), w)",
    ),
    (
        "scale-behind-projection",
        &[],
        "x: f32[T,C], r: f32[T], w: f32[C,n]",
        "o = einsum(\"tk,ko->to\", x * broadcast(r, shape=[T,C], axes=[0]), w)",
    ),
    (
        "scale-past-weight",
        &[],
        "x: f32[T,C], r: f32[T], g: f32[C], w: f32[C,n]",
        "o = einsum(\"tk,ko->to\", x * broadcast(r, shape=[T,C], axes=[0]) * broadcast(g, shape=[T,C], axes=[1]), w)",
    ),
    (
        "weight-into-operand",
        &[],
        "x: f32[64,C], g: f32[C], w: f32[C,n]",
        "o = einsum(\"tk,ko->to\", x * g, w)",
    ),
    ("negated-operand", &[], "x: f32[T,C], w: f32[C,n]", "o = einsum(\"tk,ko->to\", neg(x), w)"),
    (
        "contract-of-broadcast",
        &[],
        "x: f32[C], w: f32[C,n], y: f32[T]",
        "o = einsum(\"tk,ko->to\", broadcast_to(x, [T,C]), w)\n p = einsum(\"tk,k->t\", broadcast(y, shape=[T,C], axes=[0]), x)",
    ),
    (
        "contract-of-transpose",
        &[],
        "x: f32[C,T], w: f32[C,n]",
        "o = einsum(\"tk,ko->to\", transpose(x, axes=[1,0]), w)",
    ),
    (
        "contract-of-reshape",
        &[],
        "x: f32[T,n,C], w: f32[n*C,n]",
        "o = einsum(\"tk,ko->to\", reshape(x, [T,n*C]), w)",
    ),
    (
        "reassociate",
        &[],
        "x: f32[T,C], w: f32[C,C], v: f32[C]",
        "o = einsum(\"tk,k->t\", einsum(\"tk,ko->to\", x, w), v)",
    ),
    ("contract-alone", &[], "x: f32[T,n,C]", "o = einsum(\"tkc->ct\", x)"),
    ("contract-without-sum", &[], "x: f32[T,n], y: f32[n]", "o = einsum(\"tk,k->kt\", x, y)"),
    ("contract-scalar", &[], "x: f32[T,C], w: f32[C,n], s: f32[]", "o = einsum(\",tk,ko->to\", s, x, w)"),
    // loops
    (
        "loop-without-iterations",
        &[],
        "a: f32[T,n], w: f32[T,n], x: f32[n]",
        "o = loop(a, w, x) {body=@scaled, trip=0, carry=1}",
    ),
    (
        "loop-of-one-iteration",
        &[],
        "a: f32[n], x: f32[1,n]",
        "o, p = loop(a, x) {body=@scan, trip=1, carry=1, scan=1}",
    ),
    (
        "loop-constant-state",
        &[],
        "a: f32[T,n], b: f32[T,n]",
        "o, p = loop(a, b) {body=@half, trip=3, carry=2}",
    ),
    (
        "loop-state-to-operand",
        &[],
        "a: f32[T,n], b: f32[T,n]",
        "o, q = loop(a, b) {body=@half, trip=3, carry=2}",
    ),
    (
        "loop-invariant-work",
        &[],
        "a: f32[T,n], w: f32[T,n], x: f32[n]",
        "o = loop(a, w, x) {body=@scaled, trip=4, carry=1}",
    ),
    (
        "loop-sum-of-products",
        &[],
        "acc: f32[T,n], a: f32[T], b: f32[n], e: f32[T,n]",
        "o, q, r = loop(acc, a, b, e) {body=@gather, trip=4, carry=3}",
    ),
    (
        "loop-to-axis",
        &[],
        "acc: f32[n,n], v: f32[3,T,n], w: f32[n,n], m: f32[n]",
        "o, p = loop(acc, v, w, m) {body=@probe, trip=3, carry=1, scan=1}",
    ),
    // doubly stochastic
    ("note-unit-sums", &[], "x: f32[T,n] ~ uniform(0.1, 1)", "o = softmax(x, axis=1)"),
    (
        "unit-normaliser",
        &["note-unit-sums"],
        "x: f32[T,n], y: f32[n,C]",
        "o = barycentric_map(softmax(x, axis=1), y)",
    ),
    (
        "sum-of-mixed",
        &["note-unit-sums"],
        "m: f32[T,n,n], x: f32[T,n,C]",
        "o = stream_reduce(stream_mix(softmax(m, axis=1), x))",
    ),
    (
        "sum-of-mixed-and-fed",
        &["note-unit-sums"],
        "m: f32[T,n,n], x: f32[T,n,C], post: f32[T,n], y: f32[T,C]",
        "o = stream_reduce(stream_mix(softmax(m, axis=1), x, post, y), by=mean)",
    ),
    // manifold
    (
        "log-of-exp-map",
        &["fold-constants"],
        "x: f32[T,C] ~ ball(0.1, 0.4), v: f32[T,C] ~ ball(0.1, 0.4)",
        "k = broadcast_to(const(value=-1.0, dtype=f32), [T])\n o = log_map(x, exp_map(x, v, k), k)",
    ),
    (
        "exp-of-log-map",
        &["fold-constants"],
        "x: f32[T,C] ~ ball(0.1, 0.4), y: f32[T,C] ~ ball(0.5, 0.7)",
        "k = broadcast_to(const(value=-1.0, dtype=f32), [T])\n o = exp_map(x, log_map(x, y, k), k)",
    ),
    (
        "dist-of-exp-map",
        &["fold-constants"],
        "x: f32[T,C] ~ ball(0.1, 0.4), v: f32[T,C] ~ ball(0.1, 0.4)",
        "k = broadcast_to(const(value=-1.0, dtype=f32), [T])\n o = dist(x, exp_map(x, v, k), k)",
    ),
    (
        "length-of-log-map",
        &[],
        "x: f32[T,C] ~ ball(0.1, 0.4), y: f32[T,C] ~ ball(0.5, 0.7), k: f32[T] ~ uniform(-1, -0.1)",
        "o = conformal_factor(x, k) * norm(log_map(x, y, k))",
    ),
    (
        "exp-map-of-zero",
        &[],
        "x: f32[T,C] ~ ball(0.1, 0.4), k: f32[T] ~ uniform(-1, 1)",
        "o = exp_map(x, broadcast_to(const(value=0.0, dtype=f32), [T,C]), k)",
    ),
    (
        "mobius-add-zero",
        &[],
        "x: f32[T,C] ~ ball(0.1, 0.4), k: f32[T] ~ uniform(-1, 1)",
        "o = mobius_add(x, broadcast_to(const(value=0.0, dtype=f32), [T,C]), k)",
    ),
    (
        "mobius-add-to-zero",
        &[],
        "x: f32[T,C] ~ ball(0.1, 0.4), k: f32[T] ~ uniform(-1, 1)",
        "o = mobius_add(broadcast_to(const(value=0.0, dtype=f32), [T,C]), x, k)",
    ),
    (
        "transport-to-itself",
        &[],
        "x: f32[T,C] ~ ball(0.1, 0.4), v: f32[T,C], k: f32[T] ~ uniform(-1, 1)",
        "o = transport(x, x, v, k)",
    ),
    // transcendental
    ("recip-sqrt", &[], "x: f32[T,n] ~ uniform(0.1, 2)", "o = recip(sqrt(x))"),
    ("div-sqrt", &[], "x: f32[T,n], y: f32[T,n] ~ uniform(0.1, 2)", "o = x / sqrt(y)"),
    ("sqrt-square", &[], "x: f32[T,n]", "o = sqrt(x * x)"),
    ("square-sqrt", &[], "x: f32[T,n] ~ uniform(0.1, 2)", "o = sqrt(x) * sqrt(x)"),
    ("exp-product", &[], "x: f32[T,n], y: f32[T,n]", "o = exp(x) * exp(y)"),
    ("exp-quotient", &[], "x: f32[T,n], y: f32[T,n]", "o = exp(x) / exp(y)"),
    ("log-exp", &[], "x: f32[T,n]", "o = log(exp(x))"),
    ("exp-log", &[], "x: f32[T,n] ~ uniform(0.1, 2)", "o = exp(log(x))"),
    ("log-quotient", &[], "x: f32[T,n] ~ uniform(0.1, 2), y: f32[T,n] ~ uniform(0.1, 2)", "o = log(x / y)"),
    ("log-one-plus", &[], "x: f32[T,n] ~ uniform(0.1, 2)", "o = log(x + 1.0)"),
    ("exp-minus-one", &[], "x: f32[T,n]", "o = exp(x) - 1.0"),
    ("logistic-quotient", &[], "x: f32[T,n]", "o = exp(x) / (exp(x) + 1.0)"),
    (
        "log-rows-quotient",
        &[],
        "x: f32[T,n] ~ uniform(0.1, 2), r: f32[n] ~ uniform(0.1, 2)",
        "o = log(x / r)",
    ),
];

/// Largest difference, relative to the largest magnitude of the result: sums of a few hundred f32 terms, and for
/// approximate rules chains of transcendentals whose condition is at most about ten on the stated domains.
fn bound(class: Class) -> f64 {
    match class {
        Class::Exact => 0.0,
        Class::Reassociates => 1e-5,
        Class::Approximate => 2e-4,
    }
}

fn only(rule: &str, helpers: &[&str]) -> Vec<String> {
    let off = all().map(|(_, rule)| rule.name).filter(|name| *name != rule && !helpers.contains(name));
    off.map(str::to_string).collect()
}

#[test]
fn every_rule_has_an_example() {
    let named: BTreeSet<&str> = ROWS.iter().map(|row| row.0).collect();
    let rules: BTreeSet<&str> = all().map(|(_, rule)| rule.name).collect();
    assert_eq!(named, rules, "rules and examples must be the same");
    assert_eq!(all().count(), rules.len(), "a rule name occurs twice");
    assert_eq!(ROWS.len(), rules.len(), "an example occurs twice");
}

#[test]
fn every_row_is_well_formed() {
    for (_, rule) in all() {
        let left = birkhoff_compiler::eqsat::pattern::Pattern::parse(rule.left);
        let left = left.unwrap_or_else(|why| panic!("{}: {why}", rule.name));
        assert!(left.family().is_some(), "{}: the left side must be a term", rule.name);
        let kebab = rule.name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-');
        assert!(kebab, "{}: names are in kebab case", rule.name);
        assert!(rule.why.ends_with('.'), "{}: the reason is a sentence", rule.name);
        if let Right::Term(text) = rule.right {
            let right = birkhoff_compiler::eqsat::pattern::Pattern::parse(text);
            let right = right.unwrap_or_else(|why| panic!("{}: {why}", rule.name));
            let known = left.letters();
            let unknown: Vec<char> =
                right.letters().into_iter().filter(|letter| !known.contains(letter)).collect();
            assert!(unknown.is_empty(), "{}: the right side asks for {unknown:?}", rule.name);
        }
    }
}

#[test]
fn every_rule_fires_and_keeps_the_value() {
    let mut failures = vec![];
    for (name, helpers, arguments, statements) in ROWS {
        let (_, rule) = all().find(|(_, rule)| rule.name == *name).expect("the rule exists");
        let example = Example { prelude: STEPS, arguments, statements };
        if let Err(why) = check(rule.name, rule.class, helpers, &example) {
            failures.push(format!("{name}: {why}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

fn check(name: &str, class: Class, helpers: &[&str], example: &Example<'_>) -> Result<(), String> {
    for (n, c) in [(3, 7), (1, 1), (4, 8)] {
        let (module, func) = parse(example, &[("n", n), ("C", c)])?;
        let options = |sample| Options {
            math: Math::Fast,
            without_rules: only(name, helpers),
            sample,
            ..Options::default()
        };
        let cost = birkhoff_compiler::cost::Edges::default();
        let mut changed = false;
        for seed in 0..400 {
            if seed >= 6 && (changed || n != 3) {
                break;
            }
            let out = optimize(&module, func, &options(Some(seed)), &cost).map_err(|why| why.message)?;
            let fires = out.report.applied.contains_key(name);
            if n == 3 && !fires {
                return Err("the rule does not fire".into());
            }
            birkhoff_ir::tensor::verify::verify(&out.module).map_err(|why| why.to_string())?;
            changed |= out.module.func(out.func) != module.func(func);
            for tokens in [1, 5, 37] {
                let contents = if class == Class::Exact { Contents::Special } else { Contents::Domain };
                let inputs = inputs_of(&module, func, tokens, contents, seed)?;
                compare((&module, func), (&out.module, out.func), tokens, &inputs, bound(class))?;
            }
        }
        if n == 3 && !changed {
            return Err("no drawn program differs from the original".into());
        }
    }
    Ok(())
}
