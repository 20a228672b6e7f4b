//! Stacks of layers in which a hyper-connection wraps a branch (docs/MATHEMATICS.md 2 to 6).
//!
//! In: `[stack.NAME]`. Out: the functions that are parts of it, written in composites and primitives, in the order of the
//! paper's formulas. Deliberately absent: any cleverness; finding the fast form is the optimiser's part.

mod build;
mod gate;
mod part;
mod resolve;

pub use part::{Request, check_part, export_part};
pub use resolve::resolve;

use super::scope::Slot;
use super::syntax::{Activation, Layout, NormKind, Orientation, Per, Reduce};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::{Attr, Op};
use std::ops::Range;

/// A stack whose names, sizes and parameters are known to exist.
#[derive(Clone, Debug)]
pub struct Stack {
    /// Number of layers, if parameters are stacked.
    pub layers: Option<Dim>,
    /// Number of streams.
    pub n: Dim,
    /// Number of tokens.
    pub tokens: Dim,
    /// Width of a stream.
    pub width: Dim,
    /// Element type of streams in memory.
    pub storage: DType,
    /// Element type of arithmetic.
    pub compute: DType,
    /// The streams `[T,n,C]`.
    pub streams: Slot,
    /// The one stream `[T,C]` that they begin as copies of.
    pub expand: Option<Slot>,
    /// How they become one.
    pub reduce: Option<Reduce>,
    /// `pre`, `post` and `res`.
    pub gate: Gate,
    /// What becomes of the raw `res`.
    pub matrix: Option<Matrix>,
    /// Between `h` and `y`.
    pub branch: Option<Branch>,
    /// `mix`, for `reduce = "head"`.
    pub head: Option<Gate>,
    /// Its place.
    pub span: Range<usize>,
}

/// Coefficients made from the streams: normalise, project, scale, shift, apply a function.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// Normalisation before the projection.
    pub norm: Option<Norm>,
    /// Whether a token's streams are projected together or each alone.
    pub per: Per,
    /// The order of the axes of weights.
    pub layout: Layout,
    /// One weight for all coefficients.
    pub weight: Option<Slot>,
    /// Factors of all coefficients, `[number of them]`.
    pub scale: Option<Slot>,
    /// Offsets of all coefficients.
    pub bias: Option<Slot>,
    /// The coefficients, in the order of the columns.
    pub coefficients: Vec<Coefficient>,
    /// The place of the projection.
    pub span: Range<usize>,
}

/// Root-mean-square normalisation of streams.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Over which elements.
    pub per: Per,
    /// Under the root.
    pub eps: Attr,
    /// Factors.
    pub weight: Option<Slot>,
}

/// One of `pre`, `post`, `res` and `mix`.
#[derive(Clone, Debug)]
pub struct Coefficient {
    /// Which.
    pub name: &'static str,
    /// Its extents for one token.
    pub shape: Vec<Dim>,
    /// The same for all tokens.
    pub fixed: bool,
    /// Its own weight, factor and offset.
    pub weight: Option<Slot>,
    /// See `weight`.
    pub scale: Option<Slot>,
    /// See `weight`.
    pub bias: Option<Slot>,
    /// The function.
    pub activation: Activation,
    /// A factor behind it.
    pub multiplier: Option<Attr>,
    /// Added at the end.
    pub eps: Option<Attr>,
    /// Its place.
    pub span: Range<usize>,
}

/// How the mixing matrix is made, and which way it is read.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// From raw numbers to a matrix.
    pub kind: MatrixKind,
    /// Which way.
    pub orientation: Orientation,
}

/// From raw numbers to a matrix.
#[derive(Clone, Debug)]
pub enum MatrixKind {
    /// The op `sinkhorn`.
    Sinkhorn(Op),
    /// The op `birkhoff_mixture` over these permutations.
    Birkhoff(Slot),
    /// The squares of the result of the op `newton_schulz`.
    Orthostochastic(Op),
    /// As they are.
    Unconstrained,
}

/// What stands between `h` and `y`.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Normalisation in front.
    pub norm: Option<BranchNorm>,
    /// The rest.
    pub kind: BranchKind,
}

/// Normalisation in a branch.
#[derive(Clone, Debug)]
pub struct BranchNorm {
    /// Which.
    pub kind: NormKind,
    /// Under the root.
    pub eps: Attr,
    /// Factors `[C]`.
    pub weight: Option<Slot>,
    /// Offsets `[C]`.
    pub bias: Option<Slot>,
}

/// A branch behind its norm.
#[derive(Clone, Debug)]
pub enum BranchKind {
    /// `y` is an input.
    Input(Slot),
    /// Linear maps with a function behind each.
    Maps(Vec<Map>),
}

/// `activation(h w + b)`.
#[derive(Clone, Debug)]
pub struct Map {
    /// `[in, out]` or `[out, in]`.
    pub weight: Slot,
    /// The order of its axes.
    pub layout: Layout,
    /// `[out]`.
    pub bias: Option<Slot>,
    /// The function.
    pub activation: Activation,
}

impl Gate {
    /// Its inputs: weights, norm weight, factors, offsets.
    pub fn slots(&self) -> Vec<&Slot> {
        let each = |field: fn(&Coefficient) -> &Option<Slot>| {
            self.coefficients.iter().filter_map(move |coefficient| field(coefficient).as_ref())
        };
        let norm = self.norm.iter().filter_map(|norm| norm.weight.as_ref());
        let mut slots: Vec<&Slot> =
            self.weight.iter().chain(each(|coefficient| &coefficient.weight)).collect();
        slots.extend(norm);
        slots.extend(self.scale.iter().chain(each(|coefficient| &coefficient.scale)));
        slots.extend(self.bias.iter().chain(each(|coefficient| &coefficient.bias)));
        slots
    }

    /// The coefficient of that name.
    pub fn coefficient(&self, name: &str) -> Option<&Coefficient> {
        self.coefficients.iter().find(|coefficient| coefficient.name == name)
    }
}

impl Branch {
    /// Its inputs; those of the norm first.
    pub fn slots(&self) -> Vec<&Slot> {
        let norm = self.norm.iter().flat_map(|norm| norm.weight.iter().chain(&norm.bias));
        let mut slots: Vec<&Slot> = norm.collect();
        match &self.kind {
            BranchKind::Input(y) => slots.push(y),
            BranchKind::Maps(maps) => {
                slots.extend(maps.iter().flat_map(|map| std::iter::once(&map.weight).chain(&map.bias)));
            }
        }
        slots
    }
}

impl Stack {
    /// Inputs of `pre` that every layer has its own of.
    pub fn gate_slots(&self) -> Vec<&Slot> {
        self.gate.slots()
    }

    /// Inputs that all layers share.
    pub fn shared_slots(&self) -> Vec<&Slot> {
        match &self.matrix {
            Some(Matrix { kind: MatrixKind::Birkhoff(permutations), .. }) => vec![permutations],
            _ => vec![],
        }
    }

    /// Inputs of the branch.
    pub fn branch_slots(&self) -> Vec<&Slot> {
        self.branch.as_ref().map_or(vec![], Branch::slots)
    }

    /// Inputs of the head.
    pub fn head_slots(&self) -> Vec<&Slot> {
        self.head.as_ref().map_or(vec![], Gate::slots)
    }
}
