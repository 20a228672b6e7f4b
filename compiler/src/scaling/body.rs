//! Writes a loop body again, with its sums of exponentials as products of a kept kernel and weights.
//!
//! In: a body over primitives, its [`Forms`]. Out: the body with further state: the least that each scaled sum has been, and
//! whether loops inside stayed in range. What is not changed by a scaled sum is written as it was. Derivatives see the greatest
//! exponents as constants: the sums do not depend on them.

use super::forms::{Form, Forms, Site};
use super::sum::{Atom, Sum, Term};
use super::watch::{Kind, Watch};
use super::written::{Copied, Written, label, spread, unused};
use super::{Saving, Walk};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use birkhoff_ir::tensor::build::{Builder, Built};
use birkhoff_ir::tensor::{Attr, Einsum, Func, OpKind, TensorType, ValueId};
use std::collections::BTreeMap;

/// Writes `body` again for a loop with so many states. `None` if nothing in it is changed.
///
/// Errors: an op that refuses its operands (a verified module has none).
pub fn write(
    walk: &mut Walk,
    body: &Func,
    carry: usize,
    first_kept: usize,
) -> Result<Option<Written>, String> {
    let forms = Forms::of(body, first_kept);
    let (used, needed) = used_sites(body, &forms);
    let inner = walk.inner(body)?;
    if used.is_empty() && inner.is_empty() {
        return Ok(None);
    }
    let mut watches: Vec<Watch> = used
        .iter()
        .map(|site| {
            let site = &forms.sites[*site];
            let shape = site.kept_axes().into_iter().map(|axis| site.shape[axis].clone()).collect();
            Watch { ty: TensorType::new(site.dtype, shape), kind: Kind::Least(bound(site.dtype)) }
        })
        .collect();
    let n_sums = watches.len();
    watches.extend(inner.values().map(|_| Watch::all()));

    let name = unused(body, "in_range");
    let Walk { module, .. } = walk;
    let mut b = Builder::new(module, format!("{}_scaled", body.name));
    let mut written = vec![None; body.values.len()];
    let mut states = vec![];
    for (slot, (input, value)) in body.inputs.iter().zip(body.input_values()).enumerate() {
        if slot == carry {
            states = inputs_for(&mut b, &name, &watches)?;
        }
        written[slot] = Some(b.input(input.name.clone(), body.ty(value).clone(), input.domain)?);
    }
    if states.is_empty() {
        states = inputs_for(&mut b, &name, &watches)?;
    }
    let copied = Copied { body, inner: &inner, values: written, flags: vec![] };
    let mut writer = Writer { copied, forms: &forms, sums: BTreeMap::new(), b };
    // In order, so that what a value is made of is there: bodies may be deep.
    for value in (0..body.values.len()).filter(|value| needed[*value]) {
        writer.value(ValueId(value as u32))?;
    }
    let outputs: Result<Vec<ValueId>, String> =
        body.outputs.iter().map(|out| writer.value(out.value)).collect();
    let outputs = outputs?;
    let mut next = vec![];
    for ((site, state), watch) in used.iter().zip(&states).zip(&watches) {
        let sum = writer.sum(*site)?.sum;
        next.push(watch.next(&mut writer.b, *state, sum)?);
    }
    next.extend(writer.copied.watched(&mut writer.b, &states[n_sums..])?);
    let mut b = writer.b;
    for (place, out) in body.outputs.iter().enumerate() {
        if place == carry {
            outputs_of(&mut b, &name, &next)?;
        }
        b.output(out.name.clone(), outputs[place])?;
    }
    if body.outputs.len() == carry {
        outputs_of(&mut b, &name, &next)?;
    }
    Ok(Some(Written { body: b.finish_at(body.span), watches, matrices: vec![], saving: Saving::default() }))
}

/// The least that a scaled sum may be. Its terms are products of two exponentials of at most 1, so what underflow takes away is at
/// most the number of terms times the least positive number: 2^-149 in f32, 2^-1074 in f64. Against this bound that is
/// nothing, even for 2^60 terms.
fn bound(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 2f64.powi(-512),
        _ => 2f64.powi(-64),
    }
}

/// The arguments that watch.
pub(super) fn inputs_for(b: &mut Builder<'_>, name: &str, watches: &[Watch]) -> Result<Vec<ValueId>, String> {
    watches.iter().map(|watch| b.fresh_input(name, watch.ty.clone())).collect()
}

/// The results that watch.
pub(super) fn outputs_of(b: &mut Builder<'_>, name: &str, next: &[ValueId]) -> Result<(), String> {
    next.iter().try_for_each(|value| b.fresh_output(name, *value))
}

/// The sites that outputs stand on, and which values are read on the way.
fn used_sites(body: &Func, forms: &Forms<'_>) -> (Vec<usize>, Vec<bool>) {
    let mut used = vec![];
    let mut seen = vec![false; body.values.len()];
    let mut read: Vec<ValueId> = body.outputs.iter().map(|out| out.value).collect();
    while let Some(value) = read.pop() {
        if std::mem::replace(&mut seen[value.0 as usize], true) {
            continue;
        }
        match forms.form(value) {
            Form::Plain(sum) | Form::Exp(sum) if sum.is_scaled() => {
                sum.terms().iter().for_each(|term| atom_reads(&term.atom, forms, &mut used, &mut read));
            }
            _ => read.extend(body.def(value).into_iter().flat_map(|(node, _)| node.args.iter().copied())),
        }
    }
    used.sort_unstable();
    used.dedup();
    (used, seen)
}

fn atom_reads(atom: &Atom, forms: &Forms<'_>, used: &mut Vec<usize>, read: &mut Vec<ValueId>) {
    match atom {
        Atom::Value(value) => read.push(*value),
        Atom::Times(inner, by) | Atom::Over(inner, by) => {
            read.push(*by);
            atom_reads(inner, forms, used, read);
        }
        Atom::Log(site) | Atom::Shift(site) | Atom::Row(site) => {
            if used.contains(site) {
                return;
            }
            used.push(*site);
            let Site { kernel, weights, .. } = &forms.sites[*site];
            for term in kernel.terms().iter().chain(weights.terms()) {
                atom_reads(&term.atom, forms, used, read);
            }
        }
    }
}

/// The parts of a scaled sum.
#[derive(Clone, Copy)]
struct Scaled {
    row: ValueId,
    shift: ValueId,
    sum: ValueId,
}

struct Writer<'w, 'm> {
    copied: Copied<'w>,
    forms: &'w Forms<'w>,
    sums: BTreeMap<usize, Scaled>,
    b: Builder<'m>,
}

impl Writer<'_, '_> {
    /// A value of the body.
    fn value(&mut self, value: ValueId) -> Built {
        if let Some(known) = self.copied.values[value.0 as usize] {
            return Ok(known);
        }
        let ty = self.copied.body.ty(value).clone();
        let axes: Vec<usize> = (0..ty.rank()).collect();
        let new = match self.forms.form(value) {
            Form::Plain(sum) if sum.is_scaled() => self.terms(sum.clone().terms(), &axes, &ty)?,
            Form::Exp(sum) if sum.is_scaled() => self.exponential(&sum.clone(), &axes, &ty)?,
            _ => return self.node(value),
        };
        self.copied.put(&mut self.b, value, new);
        Ok(new)
    }

    /// The results of the node that makes `value`, as they were.
    fn node(&mut self, value: ValueId) -> Built {
        let (place, node) = self.copied.node_of(value)?;
        let args: Result<Vec<ValueId>, String> = node.args.iter().map(|arg| self.value(*arg)).collect();
        self.copied.node(&mut self.b, place, &args?)?;
        self.copied.values[value.0 as usize].ok_or_else(|| "a node lacks a result".into())
    }

    /// An atom, with the axes that are its own.
    fn atom(&mut self, atom: &Atom) -> Built {
        match atom {
            Atom::Value(value) => self.value(*value),
            Atom::Times(inner, by) => {
                let (inner, by) = (self.atom(inner)?, self.value(*by)?);
                self.b.mul(inner, by)
            }
            Atom::Over(inner, by) => {
                let (inner, by) = (self.atom(inner)?, self.value(*by)?);
                self.b.div(inner, by)
            }
            Atom::Log(site) => {
                let sum = self.sum(*site)?.sum;
                self.b.unary(ScalarOp::Log, sum)
            }
            Atom::Shift(site) => Ok(self.sum(*site)?.shift),
            Atom::Row(site) => Ok(self.sum(*site)?.row),
        }
    }

    /// The sum of `terms` over `axes` of a value of type `ty`, which has the axes `0 ..`.
    fn terms(&mut self, terms: &[Term], axes: &[usize], ty: &TensorType) -> Built {
        let shape: Vec<_> = axes.iter().map(|axis| ty.shape[*axis].clone()).collect();
        let mut total = None;
        // What is added comes first, so that nothing has to be negated.
        let (added, subtracted): (Vec<&Term>, Vec<&Term>) = terms.iter().partition(|term| term.coeff > 0);
        for term in added.into_iter().chain(subtracted) {
            let mut value = self.atom(&term.atom)?;
            let factor = term.coeff.unsigned_abs();
            if factor != 1 {
                value = self.b.mul_const(value, factor as f64)?;
            }
            let places: Option<Vec<usize>> =
                term.axes.iter().map(|axis| axes.iter().position(|known| known == axis)).collect();
            let places = places.ok_or("a term has an axis that its sum lacks")?;
            let wide = spread(&mut self.b, value, &shape, &places)?;
            total = Some(match (total, term.coeff > 0) {
                (None, true) => wide,
                (None, false) => self.b.unary(ScalarOp::Neg, wide)?,
                (Some(sum), true) => self.b.add(sum, wide)?,
                (Some(sum), false) => self.b.sub(sum, wide)?,
            });
        }
        match total {
            Some(total) => Ok(total),
            None => {
                let zero = self.b.scalar(ty.dtype, Scalar::Float(0.0))?;
                self.b.broadcast(zero, shape, &[])
            }
        }
    }

    /// `exp` of a sum; its scaled sum, if it has one, is a factor or a divisor.
    fn exponential(&mut self, sum: &Sum, axes: &[usize], ty: &TensorType) -> Built {
        let is_factor = |term: &&Term| matches!(term.atom, Atom::Log(_)) && term.coeff.abs() == 1;
        let Some(factor) = sum.terms().iter().find(is_factor).cloned() else {
            let exponent = self.terms(sum.terms(), axes, ty)?;
            return self.b.unary(ScalarOp::Exp, exponent);
        };
        let Atom::Log(site) = factor.atom else { return Err("a factor is no scaled sum".into()) };
        let rest: Vec<Term> = sum.terms().iter().filter(|term| **term != factor).cloned().collect();
        let scaled = self.sum(site)?.sum;
        let shape: Vec<_> = ty.shape.clone();
        let scaled = spread(&mut self.b, scaled, &shape, &factor.axes)?;
        if rest.is_empty() {
            return if factor.coeff > 0 { Ok(scaled) } else { self.b.unary(ScalarOp::Recip, scaled) };
        }
        let exponent = self.terms(&rest, axes, ty)?;
        let exponential = self.b.unary(ScalarOp::Exp, exponent)?;
        if factor.coeff > 0 { self.b.mul(exponential, scaled) } else { self.b.div(exponential, scaled) }
    }

    /// The scaled sum of that number with its shifts.
    fn sum(&mut self, number: usize) -> Result<Scaled, String> {
        if let Some(known) = self.sums.get(&number) {
            return Ok(*known);
        }
        let forms = self.forms;
        let site = &forms.sites[number];
        let ty = TensorType::new(site.dtype, site.shape.clone());
        let exponents = self.terms(site.kernel.terms(), &site.kernel_axes, &ty)?;
        let last = site.kernel_axes.len().checked_sub(1).ok_or("a kernel has no axis")?;
        let row = self.greatest(exponents, &[last])?;
        // Weights may count the rows in, which are written by now.
        self.sums.insert(number, Scaled { row, shift: row, sum: row });
        let kernel = self.shifted_exp(exponents, row, &[last])?;
        let weights = self.terms(site.weights.terms(), &site.weight_axes, &ty)?;
        let summed: Vec<usize> = (0..site.weight_axes.len())
            .filter(|place| site.summed.contains(&site.weight_axes[*place]))
            .collect();
        let shift = self.greatest(weights, &summed)?;
        let weights = self.shifted_exp(weights, shift, &summed)?;
        let labels =
            |axes: &[usize]| -> Result<Vec<char>, String> { axes.iter().map(|axis| label(*axis)).collect() };
        let spec = Einsum {
            inputs: vec![labels(&site.kernel_axes)?, labels(&site.weight_axes)?],
            output: labels(&site.kept_axes())?,
        };
        let attrs = vec![Attr::Einsum(spec), Attr::DType(site.dtype)];
        let sum = self.b.apply(OpKind::Contract, attrs, &[kernel, weights])?;
        let scaled = Scaled { row, shift, sum };
        self.sums.insert(number, scaled);
        Ok(scaled)
    }

    fn greatest(&mut self, x: ValueId, axes: &[usize]) -> Built {
        let max = self.b.reduce(OpKind::ReduceMax, x, axes)?;
        self.b.apply(OpKind::StopGradient, vec![], &[max])
    }

    /// `exp(x - shift)`, where `shift` lacks the axes `axes` of `x`.
    fn shifted_exp(&mut self, x: ValueId, shift: ValueId, axes: &[usize]) -> Built {
        let shape = self.b.ty(x).shape.clone();
        let kept: Vec<usize> = (0..shape.len()).filter(|axis| !axes.contains(axis)).collect();
        let shift = self.b.broadcast(shift, shape, &kept)?;
        let exponent = self.b.sub(x, shift)?;
        self.b.unary(ScalarOp::Exp, exponent)
    }
}
