//! Coefficients: from streams to `pre`, `post`, `res` and `mix`, in the order of the formulas: normalise, project, scale,
//! shift, apply the function (docs/MATHEMATICS.md 2, 4, 5).

use super::resolve::{columns, dynamic};
use super::{Coefficient, Gate, Matrix, MatrixKind, Norm, Stack};
use crate::spec::scope::Slot;
use crate::spec::syntax::{Activation, Layout, Per};
use birkhoff_ir::diag::Span;
use birkhoff_ir::dim::{Dim, Sym};
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::build::{Builder, Built};
use birkhoff_ir::tensor::{Attr, Op, OpKind, ValueId};
use std::collections::BTreeMap;

/// Values by the names that `outputs` may choose.
pub type Values = BTreeMap<&'static str, ValueId>;

/// Inputs by name.
pub type Inputs = BTreeMap<Sym, ValueId>;

/// The value of an input, in the dtype of arithmetic.
pub fn read(b: &mut Builder<'_>, stack: &Stack, slot: &Slot, inputs: &Inputs) -> Built {
    let value = inputs.get(&slot.name).copied();
    let value = value.ok_or_else(|| format!("the input `{}` is not one of this function", slot.name))?;
    b.convert(value, stack.compute)
}

/// All coefficients of `gate` for the streams `x: [T,n,C]`, and `raw`, the result of a projection that they share.
pub fn coefficients(
    b: &mut Builder<'_>,
    stack: &Stack,
    gate: &Gate,
    x: ValueId,
    inputs: &Inputs,
) -> Result<Values, String> {
    let mut values = Values::new();
    b.set_span(Span::new(gate.span.clone()));
    let mut maker = Maker { stack, gate, inputs, source: None, raw: None, offset: Dim::default(), place: 0 };
    if dynamic(gate).next().is_some() {
        let source = normalised(b, stack, gate, x, inputs)?;
        maker.source = Some(source);
        if let Some(weight) = &gate.weight {
            let weight = read(b, stack, weight, inputs)?;
            let raw = project(b, gate, source, weight)?;
            b.name(raw, "raw");
            values.insert("raw", raw);
            maker.raw = Some(raw);
        }
    }
    for coefficient in &gate.coefficients {
        b.set_span(Span::new(coefficient.span.clone()));
        let bias = coefficient.bias.as_ref();
        let value = if coefficient.fixed {
            let bias = bias.ok_or_else(|| format!("`{}` has no bias", coefficient.name))?;
            read(b, stack, bias, inputs)?
        } else {
            maker.logits(b, coefficient)?
        };
        let value = activate(b, coefficient, value)?;
        let value = match &stack.matrix {
            Some(matrix) if coefficient.name == "res" => mixing_matrix(b, stack, matrix, value, inputs)?,
            _ => value,
        };
        b.name(value, coefficient.name);
        values.insert(coefficient.name, value);
    }
    Ok(values)
}

/// The streams as the projection reads them: `[T,n*C]` for a token's streams together, `[T,n,C]` for each alone.
fn normalised(b: &mut Builder<'_>, stack: &Stack, gate: &Gate, x: ValueId, inputs: &Inputs) -> Built {
    let flat = vec![stack.tokens.clone(), stack.n.mul(&stack.width)];
    let apart = vec![stack.tokens.clone(), stack.n.clone(), stack.width.clone()];
    let shape_of = |per: Per| if per == Per::Token { flat.clone() } else { apart.clone() };
    let value = match &gate.norm {
        None => x,
        Some(Norm { per, eps, weight }) => {
            let value = b.reshape(x, shape_of(*per))?;
            let value = b.apply(OpKind::RmsNorm, vec![eps.clone()], &[value])?;
            match weight {
                None => value,
                Some(weight) => {
                    let weight = read(b, stack, weight, inputs)?;
                    b.mul(value, weight)?
                }
            }
        }
    };
    b.reshape(value, shape_of(gate.per))
}

/// `source` times a weight.
fn project(b: &mut Builder<'_>, gate: &Gate, source: ValueId, weight: ValueId) -> Built {
    let lead = if gate.per == Per::Token { "t" } else { "ti" };
    let (labels, result) = match (b.ty(weight).rank(), gate.layout) {
        (1, _) => ("k", ""),
        (_, Layout::InOut) => ("ko", "o"),
        (_, Layout::OutIn) => ("ok", "o"),
    };
    b.contract(&format!("{lead}k,{labels}->{lead}{result}"), &[source, weight])
}

/// What the coefficients of a gate are made from, column by column.
struct Maker<'a> {
    stack: &'a Stack,
    gate: &'a Gate,
    inputs: &'a Inputs,
    /// The streams as the projection reads them.
    source: Option<ValueId>,
    /// The projection that coefficients share.
    raw: Option<ValueId>,
    /// First column of the next coefficient.
    offset: Dim,
    /// Number of coefficients so far.
    place: i64,
}

impl Maker<'_> {
    /// `scale raw + bias` of the next coefficient, `[T,..]`.
    fn logits(&mut self, b: &mut Builder<'_>, coefficient: &Coefficient) -> Built {
        let (stack, gate) = (self.stack, self.gate);
        let start = self.offset.clone();
        let end = start.add(&columns(coefficient, gate.per));
        let mut shape = vec![stack.tokens.clone()];
        shape.extend(coefficient.shape.iter().cloned());
        let projected = match (&coefficient.weight, self.source, self.raw) {
            (Some(weight), Some(source), _) => {
                let weight = read(b, stack, weight, self.inputs)?;
                project(b, gate, source, weight)?
            }
            (None, _, Some(raw)) => {
                let axis = b.ty(raw).rank() - 1;
                b.slice(raw, axis, start.clone(), end.clone())?
            }
            _ => return Err(format!("`{}` has no projection weight", coefficient.name)),
        };
        let mut value = b.reshape(projected, shape)?;
        if let Some(scale) = &coefficient.scale {
            let scale = read(b, stack, scale, self.inputs)?;
            value = b.mul(value, scale)?;
        } else if let Some(scales) = &gate.scale {
            let scales = read(b, stack, scales, self.inputs)?;
            let scale = b.slice(scales, 0, self.place.into(), (self.place + 1).into())?;
            let scale = b.reshape(scale, vec![])?;
            value = b.mul(value, scale)?;
        }
        if let Some(bias) = &coefficient.bias {
            let bias = read(b, stack, bias, self.inputs)?;
            value = b.add(value, bias)?;
        } else if let Some(biases) = &gate.bias {
            let biases = read(b, stack, biases, self.inputs)?;
            let axis = b.ty(biases).rank() - 1;
            let bias = b.slice(biases, axis, start, end.clone())?;
            let bias = b.reshape(bias, coefficient.shape.clone())?;
            value = b.add(value, bias)?;
        }
        self.offset = end;
        self.place += 1;
        Ok(value)
    }
}

/// `multiplier activation(x) + eps`.
fn activate(b: &mut Builder<'_>, coefficient: &Coefficient, x: ValueId) -> Built {
    let mut value = activation(b, coefficient.activation, x)?;
    if let Some(multiplier) = &coefficient.multiplier {
        let multiplier = constant(b, value, multiplier)?;
        value = b.mul(value, multiplier)?;
    }
    if let Some(eps) = &coefficient.eps {
        let eps = constant(b, value, eps)?;
        value = b.add(value, eps)?;
    }
    Ok(value)
}

/// An attribute as a scalar of the dtype of `like`.
fn constant(b: &mut Builder<'_>, like: ValueId, attr: &Attr) -> Built {
    let dtype = b.ty(like).dtype;
    b.apply(OpKind::Const, vec![attr.clone(), Attr::DType(dtype)], &[])
}

/// A function of one element.
pub fn activation(b: &mut Builder<'_>, function: Activation, x: ValueId) -> Built {
    let kind = match function {
        Activation::None => return Ok(x),
        Activation::Sigmoid => OpKind::Sigmoid,
        Activation::Tanh => OpKind::Scalar(ScalarOp::Tanh),
        Activation::Silu => OpKind::Silu,
        Activation::Relu => OpKind::Relu,
        Activation::Softplus => OpKind::Softplus,
        Activation::Gelu => OpKind::Gelu,
        Activation::GeluTanh => OpKind::GeluTanh,
    };
    b.apply(kind, vec![], &[x])
}

/// The matrix that the raw numbers become, `[T,n,n]` or `[n,n]`.
fn mixing_matrix(
    b: &mut Builder<'_>,
    stack: &Stack,
    matrix: &Matrix,
    raw: ValueId,
    inputs: &Inputs,
) -> Built {
    match &matrix.kind {
        MatrixKind::Unconstrained => Ok(raw),
        MatrixKind::Sinkhorn(op) => b.op1(Op::clone(op), &[raw]),
        MatrixKind::Birkhoff(permutations) => {
            let permutations = read(b, stack, permutations, inputs)?;
            b.apply(OpKind::BirkhoffMixture, vec![], &[raw, permutations])
        }
        MatrixKind::Orthostochastic(op) => {
            let orthogonal = b.op1(Op::clone(op), &[raw])?;
            b.mul(orthogonal, orthogonal)
        }
    }
}
