//! States that a loop only multiplies, row by row or column by column, as weights around a matrix that stays.
//!
//! A Sinkhorn loop writes n x n numbers in every half-step, `S <- S / (S 1 + eps)`. But `S = diag(u) K diag(v)` all along, where
//! `K` is `S` before the loop: the step is `u <- u / (u (K v) + eps)`, the same in real arithmetic, with n numbers of state per
//! direction, and a reverse loop keeps those of each iteration instead of matrices.
//!
//! In: the body of a loop. Out: the body with weights in the place of such states, for any number of axes and of directions. A
//! state qualifies if it comes out as itself times or over values that lack some of its axes, and all else that reads it, or
//! such a product of it, is a sum over some of its axes (`find.rs`; products in `forms.rs`). Why that is accurate, and where
//! not, is in `range.rs`.
//!
//! Deliberately absent: states that are transposed, sums that only add up other axes, and whether it pays.

mod find;
mod forms;
mod range;
mod write;

pub use range::most;

use super::watch;
use super::work::work;
use super::written::{Written, spread};
use super::{Saving, Walk};
use crate::cost::default_sizes;
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use birkhoff_ir::tensor::build::{Builder, Built};
use birkhoff_ir::tensor::{Func, Module, OpKind, TensorType, ValueId};
use range::Range;

/// A loop.
pub struct Loop<'m, 'f> {
    /// Where its sizes are declared.
    pub module: &'m Module,
    /// Its body, over primitives.
    pub body: &'f Func,
    /// Its number of states.
    pub carry: usize,
    /// How often it runs at most, if that is known.
    pub trip: Option<i64>,
}

/// A state that is a matrix times weights.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Which state.
    pub slot: usize,
    /// Its type.
    pub ty: TensorType,
    /// The axes that each weight has.
    pub weights: Vec<Vec<usize>>,
    range: Range,
}

/// Writes `body` again for a loop of so many states. `None` if nothing in it is changed.
///
/// Errors: an op that refuses its operands (a verified module has none).
pub fn write(
    walk: &mut Walk,
    body: &Func,
    carry: usize,
    trip: Option<i64>,
) -> Result<Option<Written>, String> {
    let inner = walk.inner(body)?;
    let found = find::find(&Loop { module: &walk.module, body, carry, trip });
    if found.is_none() && inner.is_empty() {
        return Ok(None);
    }
    let mut written = write::write(&mut walk.module, body, carry, found, &inner)?;
    let sizes = default_sizes(&walk.module);
    let work = |body: &Func| work(&walk.module, body, &sizes);
    written.saving = Saving { before: work(body), after: work(walk.module.func(written.body)) };
    Ok(Some(written))
}

impl Matrix {
    /// Whether the matrix alone allows it.
    pub(super) fn holds(&self, b: &mut Builder<'_>, kernel: ValueId) -> Built {
        let kernel = b.apply(OpKind::StopGradient, vec![], &[kernel])?;
        if self.range == Range::Kernel {
            let (least, greatest) = range::kernel_bounds(self.ty.dtype);
            let above = watch::at_least(b, kernel, least)?;
            let below = watch::at_most(b, kernel, greatest)?;
            return watch::and(b, Some(above), below);
        }
        let (least, greatest) = range::watched_bounds(self.ty.dtype);
        let size = b.unary(ScalarOp::Abs, kernel)?;
        let below = watch::at_most(b, size, greatest)?;
        // Zeros stay zeros.
        let zero = b.float_like(size, 0.0)?;
        let is_zero = b.elementwise(ScalarOp::Eq, &[size, zero])?;
        let one = b.float_like(size, 1.0)?;
        let size = b.select(is_zero, one, size)?;
        let above = watch::at_least(b, size, least)?;
        watch::and(b, Some(above), below)
    }

    fn weight_type(&self, axes: &[usize]) -> TensorType {
        TensorType::new(self.ty.dtype, axes.iter().map(|axis| self.ty.shape[*axis].clone()).collect())
    }

    /// A weight before the first iteration.
    pub(super) fn first_weight(&self, b: &mut Builder<'_>, axes: &[usize]) -> Built {
        let one = b.scalar(self.ty.dtype, Scalar::Float(1.0))?;
        b.broadcast(one, self.weight_type(axes).shape, &[])
    }

    /// The state, of the matrix and its weights.
    pub(super) fn value(&self, b: &mut Builder<'_>, kernel: ValueId, weights: &[ValueId]) -> Built {
        let mut value = kernel;
        for (weight, axes) in weights.iter().zip(&self.weights) {
            let wide = spread(b, *weight, &self.ty.shape, axes)?;
            value = b.mul(value, wide)?;
        }
        Ok(value)
    }
}
