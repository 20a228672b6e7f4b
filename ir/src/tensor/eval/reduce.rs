//! Reductions and contractions.
//!
//! One order, element after element, in the compute dtype, each step rounded: this is the definition that faster orders are
//! measured against.

use super::movement::{Walk, strides};
use super::tensor::{Data, Tensor, n_elems};
use crate::dtype::DType;
use crate::scalar::{self, Scalar, ScalarOp};
use crate::tensor::{Einsum, OpKind};

/// A reduction of `x` over `axes` to `shape`.
///
/// It starts from the neutral element (0, 1, or the end of the range) and takes the elements in row-major order, so a sum of
/// f32 is rounded to f32 at every addition; the total is then rounded to the dtype.
pub fn reduce(kind: OpKind, x: &Tensor, shape: Vec<usize>, axes: &[u32]) -> Result<Tensor, String> {
    let dtype = x.dtype();
    let (op, start) = match kind {
        OpKind::ReduceSum => (ScalarOp::Add, Scalar::Int(0)),
        OpKind::ReduceProd => (ScalarOp::Mul, Scalar::Int(1)),
        OpKind::ReduceMax => (ScalarOp::Max, Scalar::Float(f64::NEG_INFINITY)),
        _ => (ScalarOp::Min, Scalar::Float(f64::INFINITY)),
    };
    let compute = dtype.compute();
    // An infinity becomes the smallest or largest integer.
    let start = start.convert(compute);
    let mut totals = vec![start; n_elems(&shape)?];
    let own = strides(&shape);
    let mut kept = own.into_iter();
    let steps: Vec<usize> = (0..x.shape().len())
        .map(|axis| if axes.contains(&(axis as u32)) { 0 } else { kept.next().unwrap_or(0) })
        .collect();
    let mut walk = Walk::new(x.shape(), &[steps]);
    for idx in 0..x.len() {
        let total = &mut totals[walk.positions[0]];
        *total = scalar::eval(op, compute, &[*total, x.get(idx)]);
        walk.advance();
    }
    Tensor::from_scalars(dtype, shape, totals.into_iter())
}

/// The contraction `spec` of `args` to `shape`, accumulated and delivered in `dtype`.
///
/// Elements are converted to the compute dtype of `dtype`. Each result starts from 0 and adds one product after the other,
/// the last summed label fastest; a product takes its factors from left to right. Every product and every sum is rounded.
pub fn contract(spec: &Einsum, dtype: DType, args: &[&Tensor], shape: Vec<usize>) -> Result<Tensor, String> {
    let compute = dtype.compute();
    let factors: Vec<Vec<f64>> = args
        .iter()
        .map(|arg| arg.to_f64s().into_iter().map(|value| compute.round(value)).collect())
        .collect();
    let summed = spec.summed();
    let extent_of = |label: &char| {
        let found = spec.inputs.iter().zip(args).find_map(|(labels, arg)| {
            labels.iter().position(|other| other == label).map(|axis| arg.shape()[axis])
        });
        found.unwrap_or(1)
    };
    let steps_of = |labels: &[char]| -> Vec<Vec<usize>> {
        let steps = spec.inputs.iter().zip(args).map(|(own, arg)| {
            let strides = strides(arg.shape());
            let step =
                |label: &char| own.iter().position(|other| other == label).map_or(0, |axis| strides[axis]);
            labels.iter().map(step).collect()
        });
        steps.collect()
    };
    let inner_extents: Vec<usize> = summed.iter().map(extent_of).collect();
    let n_terms = n_elems(&inner_extents)?;
    let count = n_elems(&shape)?;
    let mut outer = Walk::new(&shape, &steps_of(&spec.output));
    let mut inner = Walk::new(&inner_extents, &steps_of(&summed));
    let mut totals = Vec::with_capacity(count);
    for _ in 0..count {
        let mut total = 0.0;
        for _ in 0..n_terms {
            let at = |operand: usize| factors[operand][outer.positions[operand] + inner.positions[operand]];
            let product =
                (1..factors.len()).fold(at(0), |product, operand| compute.round(product * at(operand)));
            total = compute.round(total + product);
            inner.advance();
        }
        totals.push(total);
        outer.advance();
    }
    Tensor::new(dtype, shape, Data::Float(totals))
}
