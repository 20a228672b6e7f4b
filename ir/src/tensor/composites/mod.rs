//! Expansions of the composite ops, by theme. Each writes its op in smaller ones at a builder, in numerically safe form.
//!
//! Where a formula has a removable singularity (a norm at 0, a curvature at 0) the singular branch is computed on a harmless
//! stand-in and selected away, so that derivatives of the expansion stay finite.

pub mod elementwise;
pub mod norms;
pub mod riemann;
pub mod sinkhorn;
pub mod streams;
pub mod transport;

use super::build::Built;
use super::{Op, ValueId, build::Builder};

/// What an expansion answers with.
type Expanded = Result<Vec<ValueId>, String>;

/// The single result of an expansion.
fn single(value: Built) -> Expanded {
    value.map(|value| vec![value])
}

/// Applies another composite at this level, so that rules at its own level still see it.
fn call(b: &mut Builder<'_>, op: Op, args: &[ValueId]) -> Built {
    b.op1(op, args)
}

/// A contraction that delivers the dtype of its operands (and accumulates in its compute type), so that every composite has
/// the dtype of its operands.
fn contract(b: &mut Builder<'_>, spec: &str, args: &[ValueId]) -> Built {
    let dtype = b.ty(args[0]).dtype;
    b.contract_as(spec, dtype, args)
}
