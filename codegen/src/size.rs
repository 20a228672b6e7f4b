//! Sizes and places of elements as polynomials of run-time sizes, shared by the back ends for processors.
//!
//! In: shapes and affine indices. Out: a [`Size`], or the [`Linear`] form of an element's place, before variables are looked
//! up. Knows no code generator.

use birkhoff_ir::dim::Dim;
use birkhoff_ir::kernel::{Func, Index, Local, Mem, Var};

/// A size in elements or bytes: known, or a polynomial of run-time sizes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Size {
    /// Known while emitting.
    Known(i64),
    /// Known when the kernel is called.
    Symbolic(Dim),
}

impl Size {
    /// The size of that value.
    pub(crate) fn of(dim: &Dim) -> Size {
        dim.as_const().map_or_else(|| Size::Symbolic(dim.clone()), Size::Known)
    }

    /// It as a polynomial.
    pub(crate) fn dim(&self) -> Dim {
        match self {
            Size::Known(value) => Dim::constant(*value),
            Size::Symbolic(dim) => dim.clone(),
        }
    }

    /// The product.
    pub(crate) fn mul(&self, other: &Size) -> Size {
        match (self, other) {
            (Size::Known(a), Size::Known(b)) => Size::Known(a.wrapping_mul(*b)),
            _ => Size::of(&self.dim().mul(&other.dim())),
        }
    }

    /// The sum.
    pub(crate) fn add(&self, other: &Size) -> Size {
        match (self, other) {
            (Size::Known(a), Size::Known(b)) => Size::Known(a.wrapping_add(*b)),
            _ => Size::of(&self.dim().add(&other.dim())),
        }
    }
}

/// A linear form before the variables are looked up; in bytes for a memory, in elements for an index.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// Variables with the distance of a step, none twice.
    pub(crate) terms: Vec<(Var, Size)>,
    /// The rest.
    pub(crate) constant: Size,
}

/// The linear form, in bytes, of an element's place in its memory.
pub(crate) fn flatten(func: &Func, mem: Mem, index: &[Index]) -> Linear {
    let size_bytes = func.mem_dtype(mem).size_bytes() as i64;
    let mut stride = Size::Known(size_bytes);
    let mut linear = Linear { terms: vec![], constant: Size::Known(0) };
    for (index, extent) in index.iter().zip(func.mem_shape(mem)).rev() {
        for (var, coeff) in &index.terms {
            let step = Size::of(coeff).mul(&stride);
            match linear.terms.iter_mut().find(|(other, _)| other == var) {
                Some((_, sum)) => *sum = sum.add(&step),
                None => linear.terms.push((*var, step)),
            }
        }
        linear.constant = linear.constant.add(&Size::of(&index.offset).mul(&stride));
        stride = stride.mul(&Size::of(extent));
    }
    linear
}

/// Splits a constant into its symbolic part and an integer.
pub(crate) fn split_constant(constant: &Size) -> (Option<Dim>, i64) {
    match constant {
        Size::Known(value) => (None, *value),
        Size::Symbolic(dim) => {
            let integer = dim.terms().find(|(names, _)| names.is_empty()).map_or(0, |(_, value)| value);
            (Some(dim.sub(&Dim::constant(integer))), integer)
        }
    }
}

/// Bytes of a local.
pub(crate) fn local_bytes(local: &Local) -> Size {
    let size = Size::Known(local.dtype.size_bytes() as i64);
    local.shape.iter().fold(size, |product, dim| product.mul(&Size::of(dim)))
}
