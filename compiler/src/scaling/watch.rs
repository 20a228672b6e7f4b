//! What tells whether a loop stayed in range: the least or the greatest that a value was, or a truth value of loops inside.
//!
//! In: values of iterations. Out: the state that gathers them, and what it says in the end. Derivatives see none of it.

use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use birkhoff_ir::tensor::build::{Builder, Built};
use birkhoff_ir::tensor::{OpKind, TensorType, ValueId};

/// One state more of a loop.
#[derive(Clone, PartialEq, Debug)]
pub struct Watch {
    /// Its type: that of what it gathers.
    pub ty: TensorType,
    /// How it gathers.
    pub kind: Kind,
}

/// How a state gathers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    /// All of them must be true.
    All,
    /// None may be less than that.
    Least(f64),
    /// None may be greater than that.
    Greatest(f64),
}

impl Watch {
    /// All truth values.
    pub fn all() -> Watch {
        Watch { ty: TensorType::new(DType::Bool, vec![]), kind: Kind::All }
    }

    /// The state before the first iteration.
    pub fn start(&self, b: &mut Builder<'_>) -> Built {
        let value = match self.kind {
            Kind::All => Scalar::Bool(true),
            Kind::Least(_) => Scalar::Float(f64::INFINITY),
            Kind::Greatest(_) => Scalar::Float(f64::NEG_INFINITY),
        };
        let start = b.scalar(self.ty.dtype, value)?;
        if self.ty.rank() == 0 { Ok(start) } else { b.broadcast(start, self.ty.shape.clone(), &[]) }
    }

    /// The state after one more value.
    pub fn next(&self, b: &mut Builder<'_>, state: ValueId, value: ValueId) -> Built {
        if self.kind == Kind::All {
            return b.elementwise(ScalarOp::And, &[state, value]);
        }
        let value = b.apply(OpKind::StopGradient, vec![], &[value])?;
        match self.kind {
            Kind::Greatest(_) => b.max(state, value),
            _ => b.min(state, value),
        }
    }

    /// Whether the state says that everything stayed in range: false for NaN too.
    pub fn flag(&self, b: &mut Builder<'_>, state: ValueId) -> Built {
        match self.kind {
            Kind::All => Ok(state),
            Kind::Least(bound) => at_least(b, state, bound),
            Kind::Greatest(bound) => at_most(b, state, bound),
        }
    }
}

/// Whether no element of `x` is less than `bound`, or NaN.
pub fn at_least(b: &mut Builder<'_>, x: ValueId, bound: f64) -> Built {
    let least = reduced(b, OpKind::ReduceMin, x)?;
    let bound = b.float_like(x, bound)?;
    b.elementwise(ScalarOp::Le, &[bound, least])
}

/// Whether no element of `x` is greater than `bound`, or NaN.
pub fn at_most(b: &mut Builder<'_>, x: ValueId, bound: f64) -> Built {
    let greatest = reduced(b, OpKind::ReduceMax, x)?;
    let bound = b.float_like(x, bound)?;
    b.elementwise(ScalarOp::Le, &[greatest, bound])
}

/// `a` and `b`, where there is an `a`.
pub fn and(b: &mut Builder<'_>, all: Option<ValueId>, flag: ValueId) -> Built {
    match all {
        None => Ok(flag),
        Some(all) => b.elementwise(ScalarOp::And, &[all, flag]),
    }
}

fn reduced(b: &mut Builder<'_>, kind: OpKind, x: ValueId) -> Built {
    let axes: Vec<usize> = (0..b.ty(x).rank()).collect();
    if axes.is_empty() { Ok(x) } else { b.reduce(kind, x, &axes) }
}
