//! One small program per op: for the reference page, and for tests that go over the whole op table.
//!
//! In: an op. Out: a module whose function `@sample` applies the op once to arguments, with domains on which it is smooth and
//! well conditioned. An op without a row here fails the tests.

use super::build::Builder;
use super::text::{Scope, parse, parse_body};
use super::{FuncId, Module, OpKind};
use crate::diag::{Diagnostic, Diagnostics, Span};
use crate::scalar::{ScalarClass, ScalarOp};

/// Sizes of the samples, none of which divides a vector width.
const DIMS: &str = "dim T in 1..=4096 default 5\ndim n = 3\ndim C = 7\n";

/// An op, the arguments of its sample, and the call.
type Row = (&'static str, &'static str, &'static str);

/// The function that the sample of `loop` repeats, and that those of `jvp` and `vjp` differentiate.
const STEP: &str = "fn @step(a: f32[T,n], x: f32[C], w: f32[T,n]) -> (a: f32[T,n], s: f32[]) {\n\
    b = tanh(a * w)\n  return a = b, s = sum(x, [0])\n}\n";

static ROWS: &[Row] = &[
    ("const", "", "const() {value=0.5, dtype=f32}"),
    ("iota", "", "iota() {shape=[T,n], axis=1, dtype=f32}"),
    ("random_bits", "key: i32[2]", "random_bits(key) {shape=[T,n]}"),
    ("convert", "x: f32[T,n]", "convert(x) {dtype=bf16}"),
    ("stop_gradient", "x: f32[T,n]", "stop_gradient(x)"),
    ("broadcast", "x: f32[T,C]", "broadcast(x) {shape=[T,n,C], axes=[0,2]}"),
    ("reshape", "x: f32[T,n,C]", "reshape(x) {shape=[T,n*C]}"),
    ("transpose", "x: f32[T,n,C]", "transpose(x) {axes=[2,0,1]}"),
    ("slice", "x: f32[T,C]", "slice(x) {axis=1, start=2, end=C}"),
    ("pad", "x: f32[T,C], value: f32[]", "pad(x, value) {axis=1, low=2, high=n}"),
    ("concat", "x: f32[T,C], y: f32[T,n]", "concat(x, y, x) {axis=1}"),
    ("gather", "x: f32[T,C], index: i64[n] ~ uniform(0, 6)", "gather(x, index) {axis=1}"),
    ("reduce_sum", "x: f32[T,n,C]", "reduce_sum(x) {axes=[0,2]}"),
    ("reduce_prod", "x: f32[T,n]", "reduce_prod(x) {axes=[1]}"),
    ("reduce_max", "x: f32[T,n,C]", "reduce_max(x) {axes=[1]}"),
    ("reduce_min", "x: f32[T,n,C]", "reduce_min(x) {axes=[1,2]}"),
    ("contract", "x: f32[T,n,C], w: f32[n,C,n]", "contract(x, w) {spec=\"tic,ico->to\", dtype=f32}"),
    (
        "loop",
        "a: f32[T,n], x: f32[4,C], w: f32[T,n]",
        "loop(a, x, w) {body=@step, trip=4, carry=1, scan=1, reverse=true}",
    ),
    (
        "jvp",
        "a: f32[T,n], x: f32[C], w: f32[T,n], dot_a: f32[T,n], dot_x: f32[C]",
        "jvp(a, x, w, dot_a, dot_x) {body=@step, wrt=[0,1]}",
    ),
    (
        "vjp",
        "a: f32[T,n], x: f32[C], w: f32[T,n], ct_a: f32[T,n]",
        "vjp(a, x, w, ct_a) {body=@step, wrt=[0,2], of=[0]}",
    ),
    ("solve", "a: f32[T,n,n], b: f32[T,n,C]", "solve(a, b)"),
    ("qr", "a: f32[T,C,n]", "qr(a)"),
    ("sigmoid", "x: f32[T,C]", "sigmoid(x)"),
    ("silu", "x: f32[T,C]", "silu(x)"),
    ("relu", "x: f32[T,C]", "relu(x)"),
    ("softplus", "x: f32[T,C]", "softplus(x)"),
    ("gelu_tanh", "x: f32[T,C]", "gelu_tanh(x)"),
    ("gelu", "x: f32[T,C]", "gelu(x)"),
    ("sinc", "x: f32[T,C]", "sinc(x)"),
    ("mean", "x: f32[T,n,C]", "mean(x) {axes=[1,2]}"),
    ("log_sum_exp", "x: f32[T,C]", "log_sum_exp(x) {axis=1}"),
    ("softmax", "x: f32[T,C]", "softmax(x) {axis=1}"),
    ("rms_norm", "x: f32[T,C]", "rms_norm(x)"),
    ("layer_norm", "x: f32[T,C]", "layer_norm(x)"),
    ("norm", "x: f32[T,C]", "norm(x)"),
    ("sinkhorn", "m: f32[T,n,n]", "sinkhorn(m) {iters=20}"),
    (
        "stream_mix",
        "res: f32[T,n,n] ~ uniform(0, 0.5), x: f32[T,n,C], post: f32[T,n], y: f32[T,C]",
        "stream_mix(res, x, post, y)",
    ),
    ("stream_pre", "pre: f32[T,n], x: f32[T,n,C]", "stream_pre(pre, x)"),
    ("stream_expand", "h: f32[T,C]", "stream_expand(h) {n=n}"),
    ("stream_reduce", "x: f32[T,n,C]", "stream_reduce(x)"),
    ("birkhoff_mixture", "a: f32[T,6], p: f32[6,n,n] ~ uniform(0, 1)", "birkhoff_mixture(a, p)"),
    ("newton_schulz", "w: f32[T,n,n]", "newton_schulz(w) {iters=5}"),
    ("tan_k", "x: f32[T] ~ uniform(-0.9, 0.9), k: f32[T] ~ uniform(-1, 1)", "tan_k(x, k)"),
    ("atan_k", "x: f32[T] ~ uniform(-0.9, 0.9), k: f32[T] ~ uniform(-1, 1)", "atan_k(x, k)"),
    (
        "conformal_factor",
        "x: f32[T,C] ~ ball(0.1, 0.7), k: f32[T] ~ uniform(-1, 1)",
        "conformal_factor(x, k)",
    ),
    (
        "mobius_add",
        "x: f32[T,C] ~ ball(0.1, 0.5), y: f32[T,C] ~ ball(0.1, 0.5), k: f32[T] ~ uniform(-1, 1)",
        "mobius_add(x, y, k)",
    ),
    (
        "exp_map",
        "x: f32[T,C] ~ ball(0.1, 0.5), v: f32[T,C] ~ ball(0.1, 0.5), k: f32[T] ~ uniform(-1, 1)",
        "exp_map(x, v, k)",
    ),
    (
        "log_map",
        "x: f32[T,C] ~ ball(0.1, 0.4), y: f32[T,C] ~ ball(0.5, 0.7), k: f32[T] ~ uniform(-1, 1)",
        "log_map(x, y, k)",
    ),
    (
        "dist",
        "x: f32[T,C] ~ ball(0.1, 0.4), y: f32[T,C] ~ ball(0.5, 0.7), k: f32[T] ~ uniform(-1, 1)",
        "dist(x, y, k)",
    ),
    (
        "transport",
        "x: f32[T,C] ~ ball(0.1, 0.5), y: f32[T,C] ~ ball(0.1, 0.5), v: f32[T,C], k: f32[T] ~ uniform(-1, 1)",
        "transport(x, y, v, k)",
    ),
    ("pairwise_cost", "x: f32[T,C], y: f32[n,C]", "pairwise_cost(x, y)"),
    ("ot_potentials", "cost: f32[T,n] ~ uniform(0, 2)", "ot_potentials(cost) {iters=10, eps=0.5}"),
    ("barycentric_map", "p: f32[T,n] ~ uniform(0.1, 1), y: f32[n,C]", "barycentric_map(p, y)"),
];

/// The sample of `kind` and its function.
///
/// Errors: the op has no sample, or one that is wrong.
pub fn sample(kind: OpKind) -> Result<(Module, FuncId), Diagnostics> {
    let (inputs, call) = match kind {
        OpKind::Scalar(op) => scalar_row(op),
        other => match ROWS.iter().find(|(name, _, _)| *name == other.name()) {
            Some((_, inputs, call)) => (inputs.to_string(), call.to_string()),
            None => return Err(failed(format!("`{}` has no sample", kind.name()))),
        },
    };
    let step = if matches!(kind, OpKind::Loop | OpKind::Jvp | OpKind::Vjp) { STEP } else { "" };
    let mut module = parse(&format!("{DIMS}{step}fn @sample({inputs}) -> () {{ return }}\n"))?;
    let Some(shell) = module.funcs.pop() else { return Err(failed("the sample has no function".into())) };
    let mut scope = Scope::default();
    for (input, value) in shell.inputs.iter().zip(shell.input_values()) {
        scope.insert(input.name.clone(), value);
    }
    let mut builder = Builder::resume(&mut module, shell);
    let results = match kind {
        OpKind::Loop | OpKind::Qr | OpKind::OtPotentials => 2,
        OpKind::Jvp | OpKind::Vjp => 4,
        _ => 1,
    };
    let names: Vec<String> = (0..results).map(|idx| format!("out{idx}")).collect();
    parse_body(&mut builder, &mut scope, &format!("{} = {call}", names.join(", ")), 0)?;
    for name in &names {
        if let Some(value) = scope.get(name) {
            builder.output(name.as_str(), value).map_err(failed)?;
        }
    }
    builder.export();
    let id = builder.finish();
    Ok((module, id))
}

fn failed(why: String) -> Diagnostics {
    Diagnostic::input(Span::NONE, why).into()
}

/// Arguments and call of an elementwise op.
fn scalar_row(op: ScalarOp) -> (String, String) {
    let domain = match op {
        ScalarOp::Log | ScalarOp::Sqrt | ScalarOp::Rsqrt | ScalarOp::Recip | ScalarOp::Pow => {
            " ~ uniform(0.2, 2)"
        }
        ScalarOp::Log1p | ScalarOp::Atanh => " ~ uniform(-0.9, 0.9)",
        ScalarOp::Tan => " ~ uniform(-1.2, 1.2)",
        ScalarOp::Div => " ~ uniform(0.5, 2)",
        _ if op.class() == ScalarClass::Int => " ~ uniform(-40, 40)",
        _ => "",
    };
    let dtypes: &[&str] = match op.class() {
        ScalarClass::Int => &["i32", "i32"],
        ScalarClass::Logic => &["bool", "bool"],
        ScalarClass::Select => &["bool", "f32", "f32"],
        _ => &["f32", "f32"],
    };
    let names: Vec<&str> = ["a", "b", "c"].into_iter().take(op.arity()).collect();
    let inputs = names.iter().zip(dtypes).map(|(name, dtype)| format!("{name}: {dtype}[T,C]{domain}"));
    let inputs: Vec<String> = inputs.collect();
    (inputs.join(", "), format!("{}({})", op.name(), names.join(", ")))
}
