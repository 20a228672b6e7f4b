//! The values of a loop body as products of powers, as far as they are.
//!
//! In: a body over primitives, and which of its states are products already. Out: the product that every value is, and the
//! [`Site`]s: sums of products in which a matrix occurs once. Factors that lack the summed axes stand in front of the sum.
//! Deliberately absent: writing any of it.

use super::super::forms::{axes_of, squeezed};
use super::super::sum::{Sum, Term};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::{Func, Node, OpKind, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Higher powers are values of their own.
const MAX_POWER: i64 = 4;

/// A factor.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Atom {
    /// A value of the body.
    Value(ValueId),
    /// The state of that slot, as it was before the first iteration; as it is now, where it has no weights yet.
    Matrix(usize),
    /// A weight of the state of that slot.
    Weight(usize, usize),
    /// The sum of that number.
    Sum(usize),
}

/// A product of powers: the sum of their exponents.
pub type Product = Sum<Atom>;
/// A power of a factor.
pub type Power = Term<Atom>;

/// A sum of products in which a matrix occurs once. Axes are those of the matrix, then what else is summed along.
#[derive(Clone, PartialEq, Debug)]
pub struct Site {
    /// Extents of what is summed.
    pub shape: Vec<Dim>,
    /// Its type.
    pub dtype: DType,
    /// Which state the matrix is.
    pub slot: usize,
    /// How many axes the matrix has.
    pub rank: usize,
    /// The other factors.
    pub others: Product,
    /// The axes that are summed.
    pub summed: Vec<usize>,
}

impl Site {
    /// The axes of the sum, in order.
    pub fn kept_axes(&self) -> Vec<usize> {
        let all: BTreeSet<usize> = (0..self.rank).chain(axes_of(self.others.terms())).collect();
        all.into_iter().filter(|axis| !self.summed.contains(axis)).collect()
    }
}

/// What is known of the values of a body.
pub struct Forms<'f> {
    body: &'f Func,
    forms: Vec<Product>,
    /// The sums that were found.
    pub sites: Vec<Site>,
    /// States that something reads as no factor of a product, or of a sum of one.
    pub barred: BTreeSet<usize>,
}

impl<'f> Forms<'f> {
    /// Looks at `body`, a function over primitives. The states in `weights` are products of a matrix and weights of these axes.
    pub fn of(body: &'f Func, weights: &BTreeMap<usize, Vec<Vec<usize>>>) -> Forms<'f> {
        let mut forms = Forms { body, forms: vec![], sites: vec![], barred: BTreeSet::new() };
        for (place, value) in body.values.iter().enumerate() {
            let rank = value.ty.rank();
            forms.forms.push(match weights.get(&place) {
                Some(weights) => {
                    let weight = |(number, axes): (usize, &Vec<usize>)| Power {
                        atom: Atom::Weight(place, number),
                        axes: axes.clone(),
                        coeff: 1,
                    };
                    let matrix = Power { atom: Atom::Matrix(place), axes: (0..rank).collect(), coeff: 1 };
                    Product::of(weights.iter().enumerate().map(weight).chain([matrix]))
                }
                None => Product::atom(Atom::Value(ValueId(place as u32)), rank),
            });
        }
        for node in &body.nodes {
            let form = match node.results[..] {
                [result] if matches!(body.ty(result).dtype, DType::F32 | DType::F64) => {
                    forms.form_of(node, result).map(|form| (result, form))
                }
                _ => None,
            };
            match form {
                Some((result, form)) => forms.forms[result.0 as usize] = form,
                None => node.args.iter().for_each(|arg| forms.bar(*arg)),
            }
        }
        forms
    }

    /// The product that a value is.
    pub fn form(&self, value: ValueId) -> &Product {
        &self.forms[value.0 as usize]
    }

    /// Gives up the states that a value is a product of.
    pub fn bar(&mut self, value: ValueId) {
        let slots: Vec<usize> = matrices(self.form(value)).collect();
        self.barred.extend(slots);
    }

    fn form_of(&mut self, node: &Node, result: ValueId) -> Option<Product> {
        let form = self.product_of(node, result)?;
        let is_low = |term: &Power| term.coeff.abs() <= MAX_POWER && !has_twice(&term.axes);
        form.terms().iter().all(is_low).then_some(form)
    }

    fn product_of(&mut self, node: &Node, result: ValueId) -> Option<Product> {
        let form = |place: usize| node.args.get(place).map(|arg| self.form(*arg));
        let one = Product::default();
        match node.op.kind {
            OpKind::Scalar(ScalarOp::Mul) => form(0)?.plus(form(1)?, 1),
            OpKind::Scalar(ScalarOp::Div) => form(0)?.plus(form(1)?, -1),
            OpKind::Scalar(ScalarOp::Recip) => one.plus(form(0)?, -1),
            OpKind::Broadcast => {
                let axes = node.op.axes("axes");
                form(0)?.moved(|axis| axes.get(axis).map(|axis| *axis as usize))
            }
            OpKind::Transpose => {
                let axes = node.op.axes("axes");
                form(0)?.moved(|axis| axes.iter().position(|from| *from as usize == axis))
            }
            OpKind::Reshape => {
                let places = squeezed(self.body.ty(*node.args.first()?), self.body.ty(result))?;
                form(0)?.moved(|axis| places.get(axis).copied().flatten())
            }
            OpKind::ReduceSum => {
                let x = *node.args.first()?;
                let summed: Vec<usize> = node.op.axes("axes").iter().map(|axis| *axis as usize).collect();
                let place = |axis: usize| Some((0..axis).filter(|before| !summed.contains(before)).count());
                let (form, ty) = (self.form(x).clone(), self.body.ty(x).clone());
                self.summed(&form, &ty.shape, ty.dtype, &summed)?.moved(place)
            }
            OpKind::Contract => self.contracted(node, result),
            _ => None,
        }
    }

    /// A sum of a product over labels that the result lacks.
    fn contracted(&mut self, node: &Node, result: ValueId) -> Option<Product> {
        let spec = node.op.einsum()?;
        let dtype = self.body.ty(result).dtype;
        let (mut labels, mut shape, mut joint) = (vec![], vec![], Product::default());
        for (own, arg) in spec.inputs.iter().zip(&node.args) {
            let ty = self.body.ty(*arg);
            if ty.dtype != dtype {
                return None;
            }
            for (label, dim) in own.iter().zip(&ty.shape) {
                if !labels.contains(label) {
                    labels.push(*label);
                    shape.push(dim.clone());
                }
            }
            let place = |axis: usize| labels.iter().position(|label| Some(label) == own.get(axis));
            joint = joint.plus(&self.form(*arg).moved(place)?, 1)?;
        }
        let summed: Vec<usize> =
            (0..labels.len()).filter(|place| !spec.output.contains(&labels[*place])).collect();
        let place = |axis: usize| spec.output.iter().position(|label| Some(label) == labels.get(axis));
        match summed.is_empty() {
            true => joint.moved(place),
            false => self.summed(&joint, &shape, dtype, &summed)?.moved(place),
        }
    }

    /// The sum of a product over axes: a [`Site`] behind what lacks them. Its axes are still those of the product.
    fn summed(&mut self, form: &Product, shape: &[Dim], dtype: DType, summed: &[usize]) -> Option<Product> {
        let touches = |term: &Power| term.axes.iter().any(|axis| summed.contains(axis));
        let (inside, mut outside): (Vec<Power>, Vec<Power>) = form.terms().iter().cloned().partition(touches);
        let is_matrix = |term: &&Power| matches!(term.atom, Atom::Matrix(_));
        let mut found = inside.iter().filter(is_matrix);
        let (Some(matrix), None) = (found.next(), found.next()) else { return None };
        let Atom::Matrix(slot) = matrix.atom else { return None };
        let is_wide = |term: &Power| matrix.axes.iter().all(|axis| term.axes.contains(axis));
        // The axes of the matrix come first, in its order, so that sums of a transposed matrix are the same sums.
        let mut order = matrix.axes.clone();
        order.extend((0..shape.len()).filter(|axis| !matrix.axes.contains(axis)));
        let place = |axis: usize| order.iter().position(|known| *known == axis);
        let others = Product::of(inside.iter().filter(|term| *term != matrix).cloned()).moved(place)?;
        let site = Site {
            shape: order.iter().map(|axis| shape[*axis].clone()).collect(),
            dtype,
            slot,
            rank: matrix.axes.len(),
            others,
            summed: (0..order.len()).filter(|axis| summed.contains(&order[*axis])).collect(),
        };
        let is_covered = |axis: &usize| inside.iter().any(|term| term.axes.contains(axis));
        if matrix.coeff != 1
            || outside.iter().any(|term| is_matrix(&term))
            || inside.iter().any(|term| term != matrix && is_wide(term))
            || !summed.iter().all(is_covered)
        {
            return None;
        }
        let kept = site.kept_axes().into_iter().map(|axis| order[axis]).collect();
        let number = self.sites.iter().position(|known| *known == site).unwrap_or_else(|| {
            self.sites.push(site);
            self.sites.len() - 1
        });
        outside.push(Power { atom: Atom::Sum(number), axes: kept, coeff: 1 });
        Some(Product::of(outside))
    }
}

/// The states that are factors.
pub fn matrices(form: &Product) -> impl Iterator<Item = usize> + '_ {
    form.terms().iter().filter_map(|term| match term.atom {
        Atom::Matrix(slot) => Some(slot),
        _ => None,
    })
}

/// Whether a factor stands on a matrix, so that it has to be written.
pub fn is_scaled(form: &Product) -> bool {
    form.terms().iter().any(|term| !matches!(term.atom, Atom::Value(_)))
}

fn has_twice(axes: &[usize]) -> bool {
    (1..axes.len()).any(|place| axes[..place].contains(&axes[place]))
}
