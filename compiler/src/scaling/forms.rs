//! The values of a loop body as exponentials and logarithms of sums, as far as they are.
//!
//! In: a body over primitives, and which of its values stay the same in every iteration. Out: a [`Form`] for every value, and
//! the [`Site`]s: sums of exponentials `sum_a exp(K + W + rest)` in which the matrix `K` stays the same, the weights `W` have
//! fewer axes, and the rest has nothing to do with the summed axes `a`. Such a sum is
//! `exp(rest + row + shift) * sum_a E w` with a kept kernel `E = exp(K - row) <= 1` and weights `w = exp(W - shift) <= 1`.
//! Deliberately absent: writing any of it; whether it pays.

use super::sum::{Atom, Sum, Term};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::{Func, Node, OpKind, TensorType, ValueId};
use std::collections::BTreeSet;

/// What a value is, of a sum.
#[derive(Clone, PartialEq, Debug)]
pub enum Form {
    /// The sum itself.
    Plain(Sum),
    /// Its exponential.
    Exp(Sum),
}

/// A sum of exponentials that a kept kernel and weights can compute. Axes are those of the value that is summed.
#[derive(Clone, PartialEq, Debug)]
pub struct Site {
    /// Extents of the value that is summed.
    pub shape: Vec<Dim>,
    /// Its type.
    pub dtype: DType,
    /// Exponents of the kernel: the same in every iteration.
    pub kernel: Sum,
    /// The axes of the kernel, in order. Its rows lie along the last one.
    pub kernel_axes: Vec<usize>,
    /// Exponents of the weights.
    pub weights: Sum,
    /// The axes of the weights, in order.
    pub weight_axes: Vec<usize>,
    /// The axes that are summed.
    pub summed: Vec<usize>,
}

impl Site {
    /// The axes of the scaled sum: those of both operands that are not summed.
    pub fn kept_axes(&self) -> Vec<usize> {
        let all: BTreeSet<usize> = self.kernel_axes.iter().chain(&self.weight_axes).copied().collect();
        all.into_iter().filter(|axis| !self.summed.contains(axis)).collect()
    }

    /// The axes of the greatest exponents of the weights.
    pub fn shift_axes(&self) -> Vec<usize> {
        self.weight_axes.iter().copied().filter(|axis| !self.summed.contains(axis)).collect()
    }
}

/// What is known of the values of a body.
pub struct Forms<'f> {
    body: &'f Func,
    invariant: Vec<bool>,
    forms: Vec<Form>,
    /// The sums that were found.
    pub sites: Vec<Site>,
}

impl<'f> Forms<'f> {
    /// Looks at `body`, a function over primitives; arguments from position `first_kept` on are the same in every iteration.
    pub fn of(body: &'f Func, first_kept: usize) -> Forms<'f> {
        let mut forms = Forms { body, invariant: vec![], forms: vec![], sites: vec![] };
        for (place, value) in body.values.iter().enumerate() {
            forms.invariant.push((first_kept..body.inputs.len()).contains(&place));
            forms.forms.push(Form::Plain(Sum::atom(Atom::Value(ValueId(place as u32)), value.ty.rank())));
        }
        for node in &body.nodes {
            let is_same = node.args.iter().all(|arg| forms.invariant[arg.0 as usize]);
            for result in &node.results {
                forms.invariant[result.0 as usize] = is_same;
            }
            if let [result] = node.results[..]
                && matches!(body.ty(result).dtype, DType::F32 | DType::F64)
                && !is_same
                && let Some(form) = forms.form_of(node, result)
            {
                forms.forms[result.0 as usize] = form;
            }
        }
        forms
    }

    /// The form of a value.
    pub fn form(&self, value: ValueId) -> &Form {
        &self.forms[value.0 as usize]
    }

    /// The value as a sum: what is no sum is one atom.
    fn plain(&self, value: ValueId) -> Sum {
        match self.form(value) {
            Form::Plain(sum) => sum.clone(),
            Form::Exp(_) => Sum::atom(Atom::Value(value), self.body.ty(value).rank()),
        }
    }

    fn exponent(&self, value: ValueId) -> Option<&Sum> {
        match self.form(value) {
            Form::Exp(sum) => Some(sum),
            Form::Plain(_) => None,
        }
    }

    fn form_of(&mut self, node: &Node, result: ValueId) -> Option<Form> {
        let x = *node.args.first()?;
        match node.op.kind {
            OpKind::Scalar(op) => self.scalar(op, &node.args),
            OpKind::Broadcast => {
                let axes = node.op.axes("axes");
                self.moved(x, |axis| axes.get(axis).map(|axis| *axis as usize))
            }
            OpKind::Transpose => {
                let axes = node.op.axes("axes");
                self.moved(x, |axis| axes.iter().position(|from| *from as usize == axis))
            }
            OpKind::Reshape => {
                let (from, to) = (self.body.ty(x).clone(), self.body.ty(result).clone());
                let places = squeezed(&from, &to)?;
                self.moved(x, |axis| places.get(axis).copied().flatten())
            }
            OpKind::ReduceSum => self.summed(node, x),
            _ => None,
        }
    }

    fn scalar(&self, op: ScalarOp, args: &[ValueId]) -> Option<Form> {
        let (x, y) = (*args.first()?, args.get(1).copied());
        let both = |factor: i64| self.plain(x).plus(&self.plain(y?), factor).map(Form::Plain);
        let exponents = |factor: i64| self.exponent(x)?.plus(self.exponent(y?)?, factor).map(Form::Exp);
        match op {
            ScalarOp::Add => both(1),
            ScalarOp::Sub => both(-1),
            ScalarOp::Neg => Sum::default().plus(&self.plain(x), -1).map(Form::Plain),
            ScalarOp::Exp => Some(Form::Exp(self.plain(x))),
            ScalarOp::Log => self.exponent(x).cloned().map(Form::Plain),
            ScalarOp::Recip => Sum::default().plus(self.exponent(x)?, -1).map(Form::Exp),
            ScalarOp::Mul => exponents(1).or_else(|| {
                let (sum, by) = match (self.uniform(y?), self.uniform(x)) {
                    (Some(by), _) => (self.plain(x), by),
                    (None, by) => (self.plain(y?), by?),
                };
                sum.wrapped(|atom| atom.times(by)).map(Form::Plain)
            }),
            ScalarOp::Div => exponents(-1).or_else(|| {
                let by = self.uniform(y?)?;
                self.plain(x).wrapped(|atom| atom.over(by)).map(Form::Plain)
            }),
            _ => None,
        }
    }

    /// The scalar that is repeated in `value`.
    fn uniform(&self, value: ValueId) -> Option<ValueId> {
        let (node, _) = self.body.def(value)?;
        let scalar = *node.args.first()?;
        (node.op.kind == OpKind::Broadcast && self.body.ty(scalar).rank() == 0).then_some(scalar)
    }

    fn moved(&self, x: ValueId, place: impl Fn(usize) -> Option<usize>) -> Option<Form> {
        match self.form(x) {
            Form::Plain(sum) => sum.moved(place).map(Form::Plain),
            Form::Exp(sum) => sum.moved(place).map(Form::Exp),
        }
    }

    fn is_invariant(&self, atom: &Atom) -> bool {
        match atom {
            Atom::Value(value) => self.invariant[value.0 as usize],
            Atom::Times(inner, by) | Atom::Over(inner, by) => {
                self.invariant[by.0 as usize] && self.is_invariant(inner)
            }
            Atom::Row(_) => true,
            Atom::Log(_) | Atom::Shift(_) => false,
        }
    }

    /// A sum of exponentials, if it is a [`Site`].
    fn summed(&mut self, node: &Node, x: ValueId) -> Option<Form> {
        let exponent = self.exponent(x)?.clone();
        let ty = self.body.ty(x).clone();
        let summed: Vec<usize> = node.op.axes("axes").iter().map(|axis| *axis as usize).collect();
        let touches = |term: &Term| term.axes.iter().any(|axis| summed.contains(axis));
        let is_kernel = |term: &Term| {
            touches(term)
                && self.is_invariant(&term.atom)
                && term.axes.iter().any(|axis| !summed.contains(axis))
        };
        let (kernel, others): (Vec<Term>, Vec<Term>) = exponent.terms().iter().cloned().partition(is_kernel);
        let (mut weights, mut rest): (Vec<Term>, Vec<Term>) = others.into_iter().partition(touches);
        if kernel.is_empty() || weights.iter().all(|term| self.is_invariant(&term.atom)) {
            return None;
        }
        let kernel_axes = axes_of(&kernel);
        let kernel = Sum::of(kernel);
        let number = self.sites.len();
        // Equal kernels have equal rows, which may cancel.
        let of_rows = self.sites.iter().position(|site| site.kernel == kernel && site.shape == ty.shape);
        let row = Term {
            atom: Atom::Row(of_rows.unwrap_or(number)),
            axes: kernel_axes[..kernel_axes.len() - 1].to_vec(),
            coeff: 1,
        };
        if touches(&row) {
            weights.push(row)
        } else {
            rest.push(row)
        }
        let weight_axes = axes_of(&weights);
        // Nothing would be kept, or not all of it would be summed here.
        if kernel_axes.iter().all(|axis| weight_axes.contains(axis))
            || summed.iter().any(|axis| !kernel_axes.contains(axis))
        {
            return None;
        }
        let site = Site {
            shape: ty.shape.clone(),
            dtype: ty.dtype,
            kernel,
            kernel_axes,
            weights: Sum::of(weights),
            weight_axes,
            summed: summed.clone(),
        };
        rest.push(Term { atom: Atom::Shift(number), axes: site.shift_axes(), coeff: 1 });
        rest.push(Term { atom: Atom::Log(number), axes: site.kept_axes(), coeff: 1 });
        self.sites.push(site);
        let place = |axis: usize| Some((0..axis).filter(|before| !summed.contains(before)).count());
        Sum::of(rest).moved(place).map(Form::Exp)
    }
}

/// The axes that terms have, in order.
pub(super) fn axes_of<A>(terms: &[Term<A>]) -> Vec<usize> {
    let all: BTreeSet<usize> = terms.iter().flat_map(|term| term.axes.iter().copied()).collect();
    all.into_iter().collect()
}

/// Where every axis of `from` is in `to`, if these differ by axes of one element only.
pub(super) fn squeezed(from: &TensorType, to: &TensorType) -> Option<Vec<Option<usize>>> {
    let long = |ty: &TensorType| -> Vec<usize> {
        (0..ty.rank()).filter(|axis| !ty.shape[*axis].is_const(1)).collect()
    };
    let (left, right) = (long(from), long(to));
    let is_same = left.len() == right.len()
        && left.iter().zip(&right).all(|(one, other)| from.shape[*one] == to.shape[*other]);
    is_same.then(|| {
        (0..from.rank())
            .map(|axis| left.iter().position(|known| *known == axis).map(|place| right[place]))
            .collect()
    })
}
