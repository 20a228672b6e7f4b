//! The op table: one row per op. Everything else (parser, printer, verifier, e-graph, reference page, tests) reads it.
//!
//! Elementwise ops are the rows of [`ScalarOp`]'s own table; the rows here add what is not elementwise, and composites.

use super::attr::{Attr, AttrKind};
use super::autodiff::{self, Derivative, rules};
use super::build::Builder;
use super::{Einsum, FuncId, Module, TensorType, ValueId, composites, infer};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::scalar::{Scalar, ScalarOp};

/// An op with its attributes, one per [`OpRow::attrs`], in that order.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Op {
    /// Which op.
    pub kind: OpKind,
    /// Its attributes, in the order of its row.
    pub attrs: Vec<Attr>,
}

/// The number and names of operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operands {
    /// Exactly these.
    Fixed(&'static [&'static str]),
    /// Any number, at least one, of this name.
    Variadic(&'static str),
    /// The first list, then optionally the second (all of it or nothing).
    Optional(&'static [&'static str], &'static [&'static str]),
}

/// One attribute of an op.
#[derive(Clone, Copy, Debug)]
pub struct AttrSpec {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub kind: AttrKind,
    /// Its value where the text does not say, in text form; `None` if it must be given.
    pub default: Option<&'static str>,
}

/// Types of the results, from those of the operands. Errors: expectation and finding.
pub type InferFn = fn(&Module, &[TensorType], &Op) -> Result<Vec<TensorType>, String>;

/// Writes a composite in smaller ops. Errors: expectation and finding.
pub type ExpandFn = fn(&mut Builder<'_>, &[ValueId], &Op) -> Result<Vec<ValueId>, String>;

/// How an op's types and meaning are given.
#[derive(Clone, Copy, Debug)]
pub enum Meaning {
    /// By a type rule here, and by the evaluator.
    Primitive(InferFn),
    /// By its expansion into smaller ops.
    Composite(ExpandFn),
    /// By its expansion; a type rule spares writing that out to know the types.
    Transform(InferFn, ExpandFn),
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct OpRow {
    /// Which op.
    pub kind: OpKind,
    /// Its name in text.
    pub name: &'static str,
    /// What it computes: shapes, formula, source.
    pub doc: &'static str,
    /// Its operands.
    pub operands: Operands,
    /// Its attributes.
    pub attrs: &'static [AttrSpec],
    /// Its types and meaning.
    pub meaning: Meaning,
    /// Its derivative.
    pub derivative: Derivative,
}

macro_rules! op_table {
    ($($(#[doc = $doc:literal])+ $variant:ident $name:literal $operands:expr,
       [$($attr:ident: $attr_kind:expr $(, = $default:literal)?;)*], $meaning:expr, $derivative:expr;)+) => {
        /// Every op. Variants are the rows' names in camel case.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum OpKind {
            /// An elementwise op: the operands and the result have one shape.
            Scalar(ScalarOp),
            $($(#[doc = $doc])+ $variant,)+
        }

        /// The rows of all ops that are not elementwise.
        pub static ROWS: &[OpRow] = &[$(OpRow {
            kind: OpKind::$variant,
            name: $name,
            doc: concat!($($doc, "\n"),+),
            operands: $operands,
            attrs: &[$(AttrSpec { name: stringify!($attr), kind: $attr_kind, default: op_table!(@default $($default)?) },)*],
            meaning: $meaning,
            derivative: $derivative,
        },)+];
    };
    (@default) => { None };
    (@default $default:literal) => { Some($default) };
}

use AttrKind::{Axes, Bool, Dims, Float, Func, Int, Number, Word};
use Derivative::{Expansion, Rule, ThroughBody, Zero};
use Meaning::{Composite, Primitive, Transform};
use Operands::{Fixed, Optional, Variadic};

op_table! {
    // ---- primitives -------------------------------------------------------------------------------------------------
    /// A scalar constant: `dtype[]`. The value is rounded to the dtype.
    Const "const" Fixed(&[]), [value: Number; dtype: AttrKind::DType;], Primitive(infer::constant), Zero("it has no operand");
    /// `out[.., i, ..] = i` along `axis` of `shape`.
    Iota "iota" Fixed(&[]), [shape: Dims; axis: Int; dtype: AttrKind::DType;], Primitive(infer::iota), Zero("it has no operand");
    /// Random bits: element `i` (row-major) is the first word of Threefry-2x32 with 20 rounds (Salmon et al. 2011) of key
    /// `key: i32[2]` at counter `(i mod 2^32, i / 2^32)`. `-> i32[shape]`.
    RandomBits "random_bits" Fixed(&["key"]), [shape: Dims;], Primitive(infer::random_bits), Zero("it takes and gives integers");
    /// The operand, converted elementwise: floats round to nearest even, floats to integers truncate and saturate.
    Convert "convert" Fixed(&["x"]), [dtype: AttrKind::DType;], Primitive(infer::convert), Rule(rules::convert);
    /// The operand; its derivative is zero.
    StopGradient "stop_gradient" Fixed(&["x"]), [], Primitive(infer::same), Zero("that is what it is for");
    /// Repeats along new axes: axis `i` of `x` becomes axis `axes[i]` of the result, which has `shape`; extents there are
    /// equal. `axes` is increasing.
    Broadcast "broadcast" Fixed(&["x"]), [shape: Dims; axes: Axes;], Primitive(infer::broadcast), Rule(rules::linear);
    /// The same elements in row-major order under another shape of as many elements.
    Reshape "reshape" Fixed(&["x"]), [shape: Dims;], Primitive(infer::reshape), Rule(rules::linear);
    /// Axis `i` of the result is axis `axes[i]` of `x`.
    Transpose "transpose" Fixed(&["x"]), [axes: Axes;], Primitive(infer::transpose), Rule(rules::linear);
    /// Elements `start .. end` along `axis`.
    Slice "slice" Fixed(&["x"]), [axis: Int; start: AttrKind::Dim; end: AttrKind::Dim;], Primitive(infer::slice), Rule(rules::linear);
    /// `low` copies of `value` (a scalar of the same dtype) before and `high` after, along `axis`.
    Pad "pad" Fixed(&["x", "value"]), [axis: Int; low: AttrKind::Dim; high: AttrKind::Dim;], Primitive(infer::pad), Rule(rules::linear_in_all);
    /// Operands one after the other along `axis`.
    Concat "concat" Variadic("x"), [axis: Int;], Primitive(infer::concat), Rule(rules::linear_in_all);
    /// `out[a.., i.., b..] = x[a.., index[i..], b..]` with `index` in the place of `axis`; indices are clamped to the axis.
    Gather "gather" Fixed(&["x", "index"]), [axis: Int;], Primitive(infer::gather), Rule(rules::linear);
    /// Sum over `axes`, which vanish; in row-major order, accumulated in the compute dtype.
    ReduceSum "reduce_sum" Fixed(&["x"]), [axes: Axes;], Primitive(infer::reduce), Rule(rules::linear);
    /// Product over `axes`, which vanish.
    ReduceProd "reduce_prod" Fixed(&["x"]), [axes: Axes;], Primitive(infer::reduce), Rule(rules::product);
    /// Largest over `axes`, which vanish; NaN if any is; -inf over no elements.
    ReduceMax "reduce_max" Fixed(&["x"]), [axes: Axes;], Primitive(infer::reduce), Rule(rules::extremum);
    /// Smallest over `axes`, which vanish; NaN if any is; +inf over no elements.
    ReduceMin "reduce_min" Fixed(&["x"]), [axes: Axes;], Primitive(infer::reduce), Rule(rules::extremum);
    /// Sum of products in einsum notation (`tk,ko->to`), two operands of one dtype or more; accumulated and delivered in
    /// `dtype`, summed over the absent labels in row-major order of their first occurrence.
    Contract "contract" Variadic("x"), [spec: AttrKind::Einsum; dtype: AttrKind::DType;], Primitive(infer::contract), Rule(rules::contract);
    /// Applies `body` `trip` times. Operands: `carry` values of state, `scan` tensors whose leading axis has extent `trip`
    /// (iteration `i` sees slice `i`, or `trip-1-i` if `reverse`), and the rest, which stays the same. The body takes
    /// state, slices, rest and returns the next state and then slices to be stacked (in the order of `scan`, reversed
    /// likewise). Results: the last state, then the stacks `[trip, ..]`.
    Loop "loop" Variadic("x"), [body: Func; trip: AttrKind::Dim; carry: Int; scan: Int, = "0"; reverse: Bool, = "false";],
        Primitive(infer::loop_op), ThroughBody;
    /// `x` with `a x = b`: `a: [.., m, m]`, `b: [.., m, k]`, by LU factorisation with partial pivoting.
    Solve "solve" Fixed(&["a", "b"]), [], Primitive(infer::solve), Rule(rules::solve);
    /// `(q, r)` with `q r = a`, `q^T q = I`, `r` upper triangular with a diagonal >= 0: `a: [.., m, k]`, `m >= k`, by
    /// Householder reflections. `-> [.., m, k], [.., k, k]`.
    Qr "qr" Fixed(&["a"]), [], Primitive(infer::qr), Rule(rules::qr);

    // ---- derivatives ------------------------------------------------------------------------------------------------
    /// A function and its derivative along tangents (forward mode): operands are those of `body`, then tangents of its
    /// arguments at the positions `wrt`, of the arguments' types. Results: those of `body`, then a tangent of each of its
    /// float results.
    Jvp "jvp" Variadic("x"), [body: Func; wrt: Axes;], Transform(autodiff::jvp_types, autodiff::jvp), Expansion;
    /// A function and the cotangents of its arguments (reverse mode): operands are those of `body`, then cotangents of its
    /// results at the positions `of`, of the results' types; the others' are 0. Results: those of `body`, then the cotangents
    /// of its arguments at the positions `wrt`. `loops` says how its loops are taken back: over iterates that they `stash`, or
    /// that a second run (`rerun`) stacks, for which nothing of the first is kept; `rebuild` keeps what was dear to compute and the
    /// state of every so many iterations, from which it makes the others again; `auto` leaves it to the compiler.
    Vjp "vjp" Variadic("x"),
        [body: Func; wrt: Axes; of: Axes; loops: Word(&["auto", "stash", "rerun", "rebuild"]), = "auto";],
        Transform(autodiff::vjp_types, autodiff::vjp), Expansion;

    // ---- composites: elementwise ------------------------------------------------------------------------------------
    /// `1 / (1 + e^-x)`.
    Sigmoid "sigmoid" Fixed(&["x"]), [], Composite(composites::elementwise::sigmoid), Rule(rules::sigmoid);
    /// `x sigmoid(x)`.
    Silu "silu" Fixed(&["x"]), [], Composite(composites::elementwise::silu), Rule(rules::silu);
    /// `max(x, 0)`.
    Relu "relu" Fixed(&["x"]), [], Composite(composites::elementwise::relu), Rule(rules::relu);
    /// `log(1 + e^x)`, as `max(x, 0) + log1p(e^-|x|)`.
    Softplus "softplus" Fixed(&["x"]), [], Composite(composites::elementwise::softplus), Rule(rules::softplus);
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel 2016).
    GeluTanh "gelu_tanh" Fixed(&["x"]), [], Composite(composites::elementwise::gelu_tanh), Expansion;
    /// `x/2 (1 + erf(x / sqrt(2)))` (Hendrycks and Gimpel 2016).
    Gelu "gelu" Fixed(&["x"]), [], Composite(composites::elementwise::gelu), Expansion;
    /// `sin(x)/x`, 1 at 0.
    Sinc "sinc" Fixed(&["x"]), [], Composite(composites::elementwise::sinc), Expansion;

    // ---- composites: reductions and norms ---------------------------------------------------------------------------
    /// Mean over `axes`, which vanish.
    Mean "mean" Fixed(&["x"]), [axes: Axes;], Composite(composites::norms::mean), Expansion;
    /// `log sum e^x` over `axis`, which vanishes, shifted by the maximum.
    LogSumExp "log_sum_exp" Fixed(&["x"]), [axis: Int;], Composite(composites::norms::log_sum_exp), Expansion;
    /// `e^x / sum e^x` along `axis`, shifted by the maximum.
    Softmax "softmax" Fixed(&["x"]), [axis: Int;], Composite(composites::norms::softmax), Rule(rules::softmax);
    /// `x / sqrt(mean(x^2) + eps)` along the last axis.
    RmsNorm "rms_norm" Fixed(&["x"]), [eps: Float, = "1e-6";], Composite(composites::norms::rms_norm), Expansion;
    /// `(x - mean) / sqrt(var + eps)` along the last axis, with the biased variance.
    LayerNorm "layer_norm" Fixed(&["x"]), [eps: Float, = "1e-5";], Composite(composites::norms::layer_norm), Expansion;
    /// Euclidean norm along the last axis, which vanishes: `sqrt(sum x^2)`.
    Norm "norm" Fixed(&["x"]), [], Composite(composites::norms::norm), Expansion;

    // ---- composites: doubly stochastic matrices ---------------------------------------------------------------------
    /// Sinkhorn normalisation of `m: [.., n, n]` towards a doubly stochastic matrix (docs/MATHEMATICS.md 3). *rows* divides each row by
    /// its sum (over the last axis) plus `eps`, *columns* each column.
    /// `form = exp`: `e^(m/tau - shift)`, then `iters` times `first` and then the other; `shift` is the maximum of each
    /// `columns` or `rows`, of the `matrix`, or `none`; with `stop_shift` no gradient flows through it (nor where the first
    /// division undoes it, which makes no difference).
    /// `form = softmax`: softmax of each row of `m/tau`, plus `eps`; columns; then `iters - 1` times rows, columns
    /// (TileKernels). `form = log`: `z = m/tau`, `v = 0`; `iters` times `u = -lse_rows(z + v)`, `v = -lse_columns(z + u)`
    /// (columns before rows if `first = columns`); `e^(z + u + v)`; here `eps` has no place.
    Sinkhorn "sinkhorn" Fixed(&["m"]), [
        form: Word(&["exp", "softmax", "log"]), = "exp";
        first: Word(&["rows", "columns"]), = "columns";
        iters: Int;
        eps: Float, = "0.0";
        tau: Float, = "1.0";
        shift: Word(&["columns", "rows", "matrix", "none"]), = "columns";
        stop_shift: Bool, = "false";
    ], Composite(composites::sinkhorn::sinkhorn), Expansion;
    /// Streams mixed by a matrix and fed by a branch: `out[t,o,c] = sum_i res[t,o,i] x[t,i,c] + post[t,o] y[t,c]`, with
    /// `res[t,i,o]` if `orientation = source_rows`. `res: [T,n,n]`, `x: [T,n,C]`, and optionally `post: [T,n]`, `y: [T,C]`.
    /// `res: [n,n]` is the same for all tokens.
    StreamMix "stream_mix" Optional(&["res", "x"], &["post", "y"]),
        [orientation: Word(&["target_rows", "source_rows"]), = "target_rows";], Composite(composites::streams::stream_mix), Expansion;
    /// The branch input: `h[t,c] = sum_i pre[t,i] x[t,i,c]`; `pre: [T,n]` or `[n]`, `x: [T,n,C]`.
    StreamPre "stream_pre" Fixed(&["pre", "x"]), [], Composite(composites::streams::stream_pre), Expansion;
    /// `x[t,i,c] = h[t,c]` for `n` streams (docs/MATHEMATICS.md 4).
    StreamExpand "stream_expand" Fixed(&["h"]), [n: AttrKind::Dim;], Composite(composites::streams::stream_expand), Expansion;
    /// Streams summed or averaged: `[T,n,C] -> [T,C]` (docs/MATHEMATICS.md 5).
    StreamReduce "stream_reduce" Fixed(&["x"]), [by: Word(&["sum", "mean"]), = "sum";],
        Composite(composites::streams::stream_reduce), Expansion;
    /// `sum_k softmax(a)_k P_k` over permutation matrices `p: [K,n,n]`; `a: [.., K]` (docs/MATHEMATICS.md 5).
    BirkhoffMixture "birkhoff_mixture" Fixed(&["a", "p"]), [], Composite(composites::streams::birkhoff_mixture), Expansion;
    /// The orthogonal factor of `w: [.., n, n]` by `iters` cubic Newton-Schulz steps `x <- 1.5 x - 0.5 x x^T x` from
    /// `w/|w|_F` (docs/MATHEMATICS.md 5 and 14).
    NewtonSchulz "newton_schulz" Fixed(&["w"]), [iters: Int;], Composite(composites::streams::newton_schulz), Expansion;

    // ---- composites: Riemannian maps of curvature k (docs/MATHEMATICS.md 20 to 22) -----------------------------------------------
    /// `tanh(sqrt(-k) x)/sqrt(-k)`, `x` or `tan(sqrt(k) x)/sqrt(k)` for `k` below, at or above 0, smooth in `k` through 0 by
    /// a series in `k x^2`. `x`, `k` of one shape.
    TanK "tan_k" Fixed(&["x", "k"]), [], Composite(composites::riemann::tan_k), Expansion;
    /// The inverse of `tan_k` in `x`.
    AtanK "atan_k" Fixed(&["x", "k"]), [], Composite(composites::riemann::atan_k), Expansion;
    /// `lambda_x = 2 / (1 + k |x|^2)`: `x: [.., d]`, `k: [..] -> [..]`.
    ConformalFactor "conformal_factor" Fixed(&["x", "k"]), [], Composite(composites::riemann::conformal_factor), Expansion;
    /// Mobius addition `x (+) y` of points `[.., d]` with curvature `k: [..]`.
    MobiusAdd "mobius_add" Fixed(&["x", "y", "k"]), [], Composite(composites::riemann::mobius_add), Expansion;
    /// The point reached from `x` along the tangent `v`: `x (+) tan_k(lambda_x |v|/2) v/|v|`; `x` at `v = 0`.
    ExpMap "exp_map" Fixed(&["x", "v", "k"]), [], Composite(composites::riemann::exp_map), Expansion;
    /// The tangent at `x` that leads to `y`: `(2/lambda_x) atan_k(|w|) w/|w|`, `w = -x (+) y`; 0 at `y = x`.
    LogMap "log_map" Fixed(&["x", "y", "k"]), [], Composite(composites::riemann::log_map), Expansion;
    /// Geodesic distance of points `[.., d]` at curvature `k: [..]`: `2 atan_k(|-x (+) y|)`.
    Dist "dist" Fixed(&["x", "y", "k"]), [], Composite(composites::riemann::dist), Expansion;
    /// Parallel transport of `v` from `x` to `y`: `gyr[y,-x] v lambda_x/lambda_y`.
    Transport "transport" Fixed(&["x", "y", "v", "k"]), [], Composite(composites::riemann::transport), Expansion;

    // ---- composites: transport (docs/MATHEMATICS.md 15, 16) ------------------------------------------------------------------------
    /// `c[i,j] = max(|x_i|^2 + |y_j|^2 - 2 x_i.y_j, 0)` for `metric = sq_euclidean`, `2 - 2 cos(x_i, y_j)` for `cosine`:
    /// `[N,d], [M,d] -> [N,M]`.
    PairwiseCost "pairwise_cost" Fixed(&["x", "y"]), [metric: Word(&["sq_euclidean", "cosine"]), = "sq_euclidean";],
        Composite(composites::transport::pairwise_cost), Expansion;
    /// Potentials `(f: [N], g: [M])` of entropic optimal transport for `cost: [N,M]` and log marginals `log_a: [N]`,
    /// `log_b: [M]` (uniform if absent): `g = 0`, then `iters` times `f = eps log a - eps lse_j((g - c)/eps)`, `g` likewise.
    OtPotentials "ot_potentials" Optional(&["cost"], &["log_a", "log_b"]), [iters: Int; eps: Float;],
        Composite(composites::transport::ot_potentials), Expansion;
    /// `xhat_i = sum_j p_ij y_j / sum_j p_ij`: `[N,M], [M,d] -> [N,d]`.
    BarycentricMap "barycentric_map" Fixed(&["p", "y"]), [], Composite(composites::transport::barycentric_map), Expansion;
}

impl OpKind {
    /// The op of that name.
    pub fn from_name(name: &str) -> Option<OpKind> {
        let scalar = ScalarOp::from_name(name).map(OpKind::Scalar);
        scalar.or_else(|| ROWS.iter().find(|row| row.name == name).map(|row| row.kind))
    }

    /// Every op: elementwise ones first, then the table's.
    pub fn all() -> impl Iterator<Item = OpKind> {
        ScalarOp::ALL.iter().map(|op| OpKind::Scalar(*op)).chain(ROWS.iter().map(|row| row.kind))
    }

    /// The table row; `None` for elementwise ops.
    pub fn row(self) -> Option<&'static OpRow> {
        ROWS.iter().find(|row| row.kind == self)
    }

    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            OpKind::Scalar(op) => op.name(),
            other => other.row().map_or("?", |row| row.name),
        }
    }

    /// What it computes.
    pub fn doc(self) -> &'static str {
        match self {
            OpKind::Scalar(op) => op.doc(),
            other => other.row().map_or("", |row| row.doc),
        }
    }

    /// Its operands.
    pub fn operands(self) -> Operands {
        match self {
            OpKind::Scalar(op) => Fixed([&[], &["a"][..], &["a", "b"], &["condition", "a", "b"]][op.arity()]),
            other => other.row().map_or(Fixed(&[]), |row| row.operands),
        }
    }

    /// Its attributes.
    pub fn attrs(self) -> &'static [AttrSpec] {
        self.row().map_or(&[], |row| row.attrs)
    }

    /// The expansion, for composites.
    pub fn expansion(self) -> Option<ExpandFn> {
        match self.row()?.meaning {
            Composite(expand) | Transform(_, expand) => Some(expand),
            Primitive(_) => None,
        }
    }

    /// True for composites.
    pub fn is_composite(self) -> bool {
        self.expansion().is_some()
    }
}

impl Op {
    /// An op without attributes.
    pub fn plain(kind: OpKind) -> Op {
        Op { kind, attrs: vec![] }
    }

    /// An elementwise op.
    pub fn scalar(op: ScalarOp) -> Op {
        Op::plain(OpKind::Scalar(op))
    }

    /// An op with attributes in the order of its row.
    pub fn new(kind: OpKind, attrs: Vec<Attr>) -> Op {
        Op { kind, attrs }
    }

    /// The attribute of that name; `None` if the op has none of that name.
    pub fn attr(&self, name: &str) -> Option<&Attr> {
        let pos = self.kind.attrs().iter().position(|spec| spec.name == name)?;
        self.attrs.get(pos)
    }

    /// The word `name`; empty if absent.
    pub fn word(&self, name: &str) -> &str {
        match self.attr(name) {
            Some(Attr::Word(word)) => word,
            _ => "",
        }
    }

    /// The list of axes `name`; empty if absent.
    pub fn axes(&self, name: &str) -> &[u32] {
        match self.attr(name) {
            Some(Attr::Axes(axes)) => axes,
            _ => &[],
        }
    }

    /// The list of sizes `name`; empty if absent.
    pub fn dims(&self, name: &str) -> &[Dim] {
        match self.attr(name) {
            Some(Attr::Dims(dims)) => dims,
            _ => &[],
        }
    }

    /// The element type `dtype`, if it has that attribute.
    pub fn dtype(&self) -> Option<DType> {
        match self.attr("dtype") {
            Some(Attr::DType(dtype)) => Some(*dtype),
            _ => None,
        }
    }

    /// The contraction of a `contract`.
    pub fn einsum(&self) -> Option<&Einsum> {
        match self.attr("spec") {
            Some(Attr::Einsum(spec)) => Some(spec),
            _ => None,
        }
    }

    /// The body of a `loop`.
    pub fn body(&self) -> Option<FuncId> {
        match self.attr("body") {
            Some(Attr::Func(id)) => Some(*id),
            _ => None,
        }
    }

    /// The number `name`, looking up a parameter's present value in `module`.
    ///
    /// Errors: the attribute is absent or not a number.
    pub fn number(&self, module: &Module, name: &str) -> Result<Scalar, String> {
        match self.attr(name) {
            Some(Attr::Int(value)) => Ok(Scalar::Int(*value)),
            Some(Attr::Float(value)) => Ok(Scalar::Float(value.0)),
            Some(Attr::Bool(value)) => Ok(Scalar::Bool(*value)),
            Some(Attr::Dim(dim)) => match dim.as_const() {
                Some(value) => Ok(Scalar::Int(value)),
                None => Err(format!(
                    "`{name}` of `{}` must be a number here, found the size {dim}",
                    self.kind.name()
                )),
            },
            Some(Attr::Param(param)) => match module.param(param) {
                Some(decl) => Ok(decl.value),
                None => Err(format!("no parameter `{param}` is declared")),
            },
            _ => Err(format!("`{}` needs the number `{name}`", self.kind.name())),
        }
    }

    /// The integer `name`. Errors: as [`Op::number`], or not an integer.
    pub fn int(&self, module: &Module, name: &str) -> Result<i64, String> {
        match self.number(module, name)? {
            Scalar::Int(value) => Ok(value),
            other => Err(format!(
                "`{name}` of `{}` must be an integer, found {}",
                self.kind.name(),
                scalar_text(other)
            )),
        }
    }

    /// Of a `loop`: how many operands it carries, and how many it scans. Errors: as [`Op::int`], or a negative number.
    pub fn loop_counts(&self, module: &Module) -> Result<(usize, usize), String> {
        let count = |name: &str| -> Result<usize, String> {
            usize::try_from(self.int(module, name)?)
                .map_err(|_| format!("`loop`: `{name}` must not be negative"))
        };
        Ok((count("carry")?, count("scan")?))
    }

    /// The float `name`. Errors: as [`Op::number`].
    pub fn float(&self, module: &Module, name: &str) -> Result<f64, String> {
        Ok(self.number(module, name)?.as_f64())
    }

    /// The truth value `name`. Errors: as [`Op::number`], or not a truth value.
    pub fn flag(&self, module: &Module, name: &str) -> Result<bool, String> {
        match self.number(module, name)? {
            Scalar::Bool(value) => Ok(value),
            other => Err(format!(
                "`{name}` of `{}` must be true or false, found {}",
                self.kind.name(),
                scalar_text(other)
            )),
        }
    }

    /// The size `name`; a parameter stands for its present value. Errors: absent or not a size.
    pub fn dim(&self, module: &Module, name: &str) -> Result<Dim, String> {
        match self.attr(name) {
            Some(Attr::Dim(dim)) => Ok(dim.clone()),
            _ => self.int(module, name).map(Dim::constant),
        }
    }

    /// The axis `axis`, checked against `rank`. Errors: absent, negative or too large.
    pub fn axis(&self, module: &Module, rank: usize) -> Result<usize, String> {
        let axis = self.int(module, "axis")?;
        usize::try_from(axis)
            .ok()
            .filter(|axis| *axis < rank)
            .ok_or_else(|| format!("`{}`: axis {axis} is not one of {rank} axes", self.kind.name()))
    }
}

/// A number as messages show it.
fn scalar_text(value: Scalar) -> String {
    match value {
        Scalar::Float(value) => value.to_string(),
        Scalar::Int(value) => value.to_string(),
        Scalar::Bool(value) => value.to_string(),
    }
}

/// The word `text` as an attribute value.
pub fn word(text: &str) -> Attr {
    Attr::Word(Sym::from(text))
}
