//! The fields of a spec, as they are written; `docs/SPECS.md` explains them.
//!
//! In: TOML values, through serde. Out: these structs, in which names, sizes and parameters are still text with their places.

use super::forms::{Choice, Inputs, Number, Size, Tensor, Text};
use serde::Deserialize;
use toml::Spanned;

/// `[dtypes]`.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dtypes {
    /// Of streams and of what enters and leaves branches, in memory.
    pub storage: Option<Text>,
    /// Of parameters, in memory.
    pub weights: Option<Text>,
    /// Of all arithmetic and accumulation.
    pub compute: Option<Text>,
}

/// The order of a weight's axes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// `[inputs, outputs]`.
    #[default]
    InOut,
    /// `[outputs, inputs]`.
    OutIn,
}

/// Whether something happens for a token's streams together or for each alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// For the `n*C` elements of all streams of a token.
    #[default]
    Token,
    /// For the `C` elements of each stream.
    Stream,
}

/// `[stack.NAME]`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// The residual streams `[tokens, n, width]`.
    pub streams: Spanned<Tensor>,
    /// Number of tokens.
    pub tokens: Spanned<Size>,
    /// Number of streams.
    pub n: Spanned<Size>,
    /// Width of a stream.
    pub width: Spanned<Size>,
    /// Number of layers; their parameters are stacked along a leading axis.
    pub layers: Option<Spanned<Size>>,
    /// The input `[tokens, width]` from which the first streams are copied.
    pub expand: Option<Spanned<Tensor>>,
    /// How the last streams become one.
    pub reduce: Option<Spanned<Reduce>>,
    /// Normalisation before the projection.
    pub norm: Option<Spanned<Norm>>,
    /// The projection that coefficients share.
    pub projection: Option<Spanned<Projection>>,
    /// Weights of the streams in the branch's input.
    pub pre: Option<Spanned<Coefficient>>,
    /// Weights of the branch's output in the streams.
    pub post: Option<Spanned<Coefficient>>,
    /// The matrix that mixes the streams.
    pub res: Option<Spanned<Mixing>>,
    /// What stands between `h` and `y`.
    pub branch: Option<Spanned<Branch>>,
    /// For `reduce = "head"`.
    pub head: Option<Spanned<Head>>,
}

/// How streams become one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduce {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
    /// Weights of their own, as in `[stack.NAME.head]`.
    Head,
}

/// Normalisation by the root of the mean square.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Norm {
    /// Over which elements the mean goes.
    #[serde(default)]
    pub per: Per,
    /// Added to the mean square.
    pub eps: Spanned<Number>,
    /// A factor for each element.
    pub weight: Option<Spanned<Tensor>>,
}

/// A projection for several coefficients at once.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Projection {
    /// From all streams of a token, or from each stream alone.
    #[serde(default)]
    pub per: Per,
    /// The order of the axes of weights.
    pub layout: Layout,
    /// The weight of all coefficients side by side; absent where each has its own.
    pub weight: Option<Spanned<Tensor>>,
    /// The order of coefficients in it.
    pub columns: Option<Spanned<Vec<Text>>>,
    /// One factor per coefficient.
    pub scale: Option<Spanned<Tensor>>,
    /// Offsets, side by side as the columns are.
    pub bias: Option<Spanned<Tensor>>,
}

/// `[stack.NAME.pre]`, `[stack.NAME.post]`, `[stack.NAME.head.mix]`: `multiplier activation(scale raw + bias) + eps`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coefficient {
    /// Its own projection weight.
    pub weight: Option<Spanned<Tensor>>,
    /// Its own factor.
    pub scale: Option<Spanned<Tensor>>,
    /// Its own offset.
    pub bias: Option<Spanned<Tensor>>,
    /// The same for all tokens: nothing is projected, the bias is all there is.
    #[serde(default, rename = "static")]
    pub fixed: bool,
    /// The function applied.
    pub activation: Activation,
    /// A factor behind the function.
    pub multiplier: Option<Spanned<Number>>,
    /// Added at the end.
    pub eps: Option<Spanned<Number>>,
}

/// A function of one element.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The identity.
    None,
    /// `1/(1 + e^-x)`.
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// `x sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// `log(1 + e^x)`.
    Softplus,
    /// With the error function.
    Gelu,
    /// With the hyperbolic tangent.
    GeluTanh,
}

/// `[stack.NAME.res]`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixing {
    /// Its own projection weight.
    pub weight: Option<Spanned<Tensor>>,
    /// Its own factor.
    pub scale: Option<Spanned<Tensor>>,
    /// Its own offset.
    pub bias: Option<Spanned<Tensor>>,
    /// The same for all tokens.
    #[serde(default, rename = "static")]
    pub fixed: bool,
    /// Whether a row of the matrix makes an output stream or is spent by an input stream.
    pub orientation: Orientation,
    /// Doubly stochastic by Sinkhorn's iteration.
    pub sinkhorn: Option<Spanned<Sinkhorn>>,
    /// Doubly stochastic as a mixture of permutations.
    pub birkhoff: Option<Spanned<Birkhoff>>,
    /// Doubly stochastic as the squares of an orthogonal matrix.
    pub orthostochastic: Option<Spanned<Orthostochastic>>,
    /// The numbers as they are.
    #[serde(default)]
    pub unconstrained: bool,
}

/// See the op `stream_mix`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orientation {
    /// `out_o = sum_i res[o,i] x_i`.
    TargetRows,
    /// `out_o = sum_i res[i,o] x_i`.
    SourceRows,
}

/// Attributes of the op `sinkhorn`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sinkhorn {
    /// How it begins.
    pub form: SinkhornForm,
    /// What is normalised first.
    pub first: Lines,
    /// Number of iterations.
    pub iters: Spanned<Number>,
    /// Added to every sum.
    pub eps: Option<Spanned<Number>>,
    /// Temperature.
    pub tau: Option<Spanned<Number>>,
    /// Which maximum is subtracted.
    pub shift: Option<Spanned<Shift>>,
    /// Whether the maximum is a constant for derivatives.
    pub stop_shift: Option<Spanned<Number>>,
}

/// See the op `sinkhorn`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkhornForm {
    /// From `e^m`.
    Exp,
    /// From a softmax.
    Softmax,
    /// By scalings of logits.
    Log,
}

/// Lines of a matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lines {
    /// Along the last axis.
    Rows,
    /// Along the axis before it.
    Columns,
}

/// See the op `sinkhorn`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shift {
    /// Of each column.
    Columns,
    /// Of each row.
    Rows,
    /// Of the matrix.
    Matrix,
    /// Nothing.
    None,
}

/// `sum_k softmax(a)_k P_k`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Birkhoff {
    /// The input `[terms, n, n]` that holds the permutation matrices.
    pub permutations: Spanned<Tensor>,
    /// Their number.
    pub terms: Spanned<Size>,
}

/// Squares of the orthogonal factor by Newton-Schulz steps.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orthostochastic {
    /// Number of steps.
    pub iters: Spanned<Number>,
}

/// `[stack.NAME.branch]`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Branch {
    /// Somebody else's branch: `y` is an input.
    pub input: Option<Spanned<Tensor>>,
    /// A normalisation in front, or alone.
    pub norm: Option<Spanned<BranchNorm>>,
    /// A linear map.
    pub linear: Option<Spanned<Linear>>,
    /// Two linear maps and a function between.
    pub mlp: Option<Spanned<Mlp>>,
}

/// Normalisation in a branch.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BranchNorm {
    /// Which.
    pub kind: NormKind,
    /// Added under the root.
    pub eps: Spanned<Number>,
    /// Factors `[width]`.
    pub weight: Option<Spanned<Tensor>>,
    /// Offsets `[width]`.
    pub bias: Option<Spanned<Tensor>>,
}

/// Kinds of normalisation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// By the root of the mean square.
    Rms,
    /// By mean and variance.
    Layer,
}

/// `y = activation(h w + b)`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Linear {
    /// `[width, width]`.
    pub weight: Spanned<Tensor>,
    /// The order of its axes.
    pub layout: Layout,
    /// `[width]`.
    pub bias: Option<Spanned<Tensor>>,
    /// The function behind.
    #[serde(default = "no_activation")]
    pub activation: Activation,
}

fn no_activation() -> Activation {
    Activation::None
}

/// `y = activation(h up + up_bias) down + down_bias`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mlp {
    /// Width between the maps.
    pub hidden: Spanned<Size>,
    /// `[width, hidden]`.
    pub up: Spanned<Tensor>,
    /// `[hidden, width]`.
    pub down: Spanned<Tensor>,
    /// The order of the axes of both.
    pub layout: Layout,
    /// `[hidden]`.
    pub up_bias: Option<Spanned<Tensor>>,
    /// `[width]`.
    pub down_bias: Option<Spanned<Tensor>>,
    /// The function between.
    pub activation: Activation,
}

/// `[stack.NAME.head]`: weights of the streams in their sum, made as `pre` is.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Normalisation before the projection.
    pub norm: Option<Spanned<Norm>>,
    /// The projection.
    pub projection: Option<Spanned<Projection>>,
    /// The weights.
    pub mix: Spanned<Coefficient>,
}

/// `[fn.NAME]`: a part of a stack, or statements.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Function {
    /// The stack that it is a part of.
    pub stack: Option<Text>,
    /// Which part.
    pub part: Option<Spanned<Part>>,
    /// Arguments: types for statements; names for values for a part that takes some.
    #[serde(default)]
    pub inputs: Inputs,
    /// Statements of the tensor IR.
    pub body: Option<Text>,
    /// Results.
    pub outputs: Spanned<Choice>,
    /// Whether users may call it; a loop body is not exported.
    pub export: Option<bool>,
}

/// `[fn.NAME]` with `derivative`: the derivative of another function.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Derived {
    /// Which.
    pub derivative: DerivativeOf,
    /// Results; all unless given.
    pub outputs: Option<Spanned<Choice>>,
    /// Whether users may call it.
    pub export: Option<bool>,
}

/// What is differentiated, and how.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DerivativeOf {
    /// The function, which is declared before.
    pub of: Text,
    /// What of it.
    pub kind: Kind,
    /// Its arguments with respect to which.
    pub wrt: Vec<Text>,
    /// Its results that have a cotangent, for a `vjp`; all floats unless given.
    pub cotangents: Option<Spanned<Vec<Text>>>,
    /// How loops are taken back.
    pub loops: Option<LoopsChoice>,
}

/// Kinds of derivatives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Gradients of the only scalar result.
    Grad,
    /// The results and those gradients.
    ValueAndGrad,
    /// The results and the cotangents of arguments, from those of results.
    Vjp,
    /// The results and their tangents, from those of arguments.
    Jvp,
    /// The Hessian of the only scalar result times a vector.
    Hvp,
}

/// How loops are taken back; see the op `vjp`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoopsChoice {
    /// As the cost model says.
    Auto,
    /// Over iterates that the loop keeps.
    Stash,
    /// Over those of a second run.
    Rerun,
    /// Over those made again from some that were kept, and from what was dear to compute.
    Rebuild,
}

impl LoopsChoice {
    /// The word of the op's attribute.
    pub fn name(self) -> &'static str {
        match self {
            LoopsChoice::Auto => "auto",
            LoopsChoice::Stash => "stash",
            LoopsChoice::Rerun => "rerun",
            LoopsChoice::Rebuild => "rebuild",
        }
    }
}

/// Parts of a stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// One layer, with its branch.
    Layer,
    /// From streams to the branch's input and the coefficients.
    Pre,
    /// From the branch's output to the next streams.
    Post,
    /// `post` of one layer and `pre` of the next.
    Boundary,
    /// From one stream to `n`.
    Expand,
    /// From `n` streams to one.
    Reduce,
    /// Everything.
    Stack,
}
