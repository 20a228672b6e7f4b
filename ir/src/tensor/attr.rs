//! Attributes: the compile-time arguments of ops.

use super::{Einsum, FuncId};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use std::fmt;

/// An f64 that compares, hashes and orders by its bits (IEEE total order), so that it can be part of a key.
#[derive(Clone, Copy, Debug)]
pub struct F64(pub f64);

impl PartialEq for F64 {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for F64 {}

impl std::hash::Hash for F64 {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl PartialOrd for F64 {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for F64 {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl fmt::Display for F64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_finite() { write!(f, "{:?}", self.0) } else { write!(f, "{}", self.0) }
    }
}

/// The value of an attribute.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Attr {
    /// An integer.
    Int(i64),
    /// A float, the decimal as written in f64.
    Float(F64),
    /// A truth value.
    Bool(bool),
    /// One of a closed set of words.
    Word(Sym),
    /// A size.
    Dim(Dim),
    /// A list of sizes, such as a shape.
    Dims(Vec<Dim>),
    /// A list of axes.
    Axes(Vec<u32>),
    /// An element type.
    DType(DType),
    /// A contraction in einsum notation.
    Einsum(Einsum),
    /// The body of a loop.
    Func(FuncId),
    /// A parameter of the module, in the place of a number or truth value; gone once the module is bound.
    Param(Sym),
}

/// What an attribute may be; the type rule of a table row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttrKind {
    /// [`Attr::Int`] or a parameter.
    Int,
    /// [`Attr::Float`], [`Attr::Int`] or a parameter.
    Float,
    /// [`Attr::Float`], [`Attr::Int`], [`Attr::Bool`] or a parameter.
    Number,
    /// [`Attr::Bool`] or a parameter.
    Bool,
    /// One of these words.
    Word(&'static [&'static str]),
    /// [`Attr::Dim`]; an integer or a parameter may stand for a constant one.
    Dim,
    /// [`Attr::Dims`].
    Dims,
    /// [`Attr::Axes`].
    Axes,
    /// [`Attr::DType`].
    DType,
    /// [`Attr::Einsum`].
    Einsum,
    /// [`Attr::Func`].
    Func,
}
