//! Writes a loop body again, with weights in the place of states that are matrices.
//!
//! In: a body over primitives, and what was found in it. Out: the body of a [`Written`]. What stands on no matrix is written
//! as it was.

use super::super::Saving;
use super::super::body::{inputs_for, outputs_of};
use super::super::forms::axes_of;
use super::super::sum::Sum;
use super::super::watch::{Kind, Watch};
use super::super::written::{Copied, Written, label, spread, unused};
use super::Matrix;
use super::find::Found;
use super::forms::{Atom, Forms, Power, Product, is_scaled};
use super::range::{Range, weight_bound};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use birkhoff_ir::tensor::build::{Builder, Built};
use birkhoff_ir::tensor::{Attr, Einsum, Func, Module, OpKind, TensorType, ValueId};
use std::collections::BTreeMap;

/// Writes `body` for a loop of so many states; `inner` are the functions that its nodes refer to, where those are new.
///
/// Errors: an op that refuses its operands.
pub fn write(
    module: &mut Module,
    body: &Func,
    carry: usize,
    found: Option<Found<'_>>,
    inner: &BTreeMap<usize, Written>,
) -> Result<Written, String> {
    let Found { forms, matrices, next } = found.unwrap_or_else(|| Found {
        forms: Forms::of(body, &BTreeMap::new()),
        matrices: vec![],
        next: vec![],
    });
    let (needed, sites) = used(body, &forms, &matrices, &next);
    let watched = watched(&forms, &matrices, &next, &sites);
    let mut watches = vec![];
    for group in &watched {
        let bound = weight_bound(group.dtype, n_weights(&forms, &matrices, &sites));
        let ty = TensorType::new(group.dtype, group.shape.clone());
        watches.push(Watch { ty: ty.clone(), kind: Kind::Least(bound.recip()) });
        watches.push(Watch { ty, kind: Kind::Greatest(bound) });
    }
    let n_groups = watches.len();
    watches.extend(inner.values().map(|_| Watch::all()));

    let names = ["scale", "in_range"].map(|name| unused(body, name));
    let b = Builder::new(module, format!("{}_scaled", body.name));
    let mut writer = Writer {
        copied: Copied { body, inner, values: vec![None; body.values.len()], flags: vec![] },
        forms: &forms,
        kernels: BTreeMap::new(),
        weights: BTreeMap::new(),
        sums: vec![None; forms.sites.len()],
        groups: vec![],
        b,
    };
    let states = writer.inputs(carry, &matrices, &watches, &names)?;
    // In order, so that what a value is made of is there: bodies may be deep.
    for value in (0..body.values.len()).filter(|value| needed[*value]) {
        writer.value(ValueId(value as u32))?;
    }
    let mut weights = vec![];
    for (matrix, products) in matrices.iter().zip(&next) {
        for (product, axes) in products.iter().zip(&matrix.weights) {
            weights.push(writer.group(&Group::of(
                product.terms(),
                axes,
                &matrix.ty.shape,
                matrix.ty.dtype,
            ))?);
        }
    }
    let mut seen = vec![];
    for (place, watch) in watches[..n_groups].iter().enumerate() {
        let value = writer.group(&watched[place / 2])?;
        let size = writer.b.unary(ScalarOp::Abs, value)?;
        seen.push(watch.next(&mut writer.b, states[place], size)?);
    }
    seen.extend(writer.copied.watched(&mut writer.b, &states[n_groups..])?);
    writer.outputs(carry, &matrices, &weights, &seen, &names)?;
    Ok(Written { body: writer.b.finish_at(body.span), watches, matrices, saving: Saving::default() })
}

/// The values to write, and the sums that these and the weights stand on.
fn used(
    body: &Func,
    forms: &Forms<'_>,
    matrices: &[Matrix],
    next: &[Vec<Product>],
) -> (Vec<bool>, Vec<usize>) {
    let (mut seen, mut sites) = (vec![false; body.values.len()], vec![]);
    let mut read = vec![];
    let mut atoms: Vec<Atom> = next.iter().flatten().flat_map(atoms_of).collect();
    let is_matrix = |place: usize| matrices.iter().any(|matrix| matrix.slot == place);
    let others = body.outputs.iter().enumerate().filter(|(place, _)| !is_matrix(*place));
    read.extend(others.map(|(_, out)| out.value));
    loop {
        while let Some(atom) = atoms.pop() {
            match atom {
                Atom::Value(value) => read.push(value),
                Atom::Sum(site) if !sites.contains(&site) => {
                    sites.push(site);
                    atoms.extend(atoms_of(&forms.sites[site].others));
                }
                Atom::Sum(_) | Atom::Matrix(_) | Atom::Weight(..) => {}
            }
        }
        let Some(value) = read.pop() else { break };
        if std::mem::replace(&mut seen[value.0 as usize], true) {
            continue;
        }
        match forms.form(value) {
            form if is_scaled(form) => atoms.extend(atoms_of(form)),
            _ => read.extend(body.def(value).into_iter().flat_map(|(node, _)| node.args.iter().copied())),
        }
    }
    sites.sort_unstable();
    (seen, sites)
}

fn atoms_of(product: &Product) -> impl Iterator<Item = Atom> + '_ {
    product.terms().iter().map(|term| term.atom.clone())
}

/// A product with axes of its own.
#[derive(Clone, PartialEq)]
struct Group {
    /// The powers, in the order in which they are multiplied.
    powers: Vec<Power>,
    shape: Vec<Dim>,
    dtype: DType,
}

impl Group {
    /// The product of `powers`, whose axes are among `axes`, those of a value of that shape.
    fn of(powers: &[Power], axes: &[usize], shape: &[Dim], dtype: DType) -> Group {
        let place = |axis: usize| axes.iter().position(|known| *known == axis);
        let moved = Sum::of(powers.iter().cloned()).moved(place).unwrap_or_default();
        let mut powers = moved.terms().to_vec();
        // What belongs to a sum of the state comes first, and is that sum then; divisors come last.
        powers.sort_by_key(|power| (matches!(power.atom, Atom::Value(_)), power.coeff < 0));
        Group { powers, shape: axes.iter().map(|axis| shape[*axis].clone()).collect(), dtype }
    }

    /// The factors of a sum beside the matrix, those of equal axes together.
    fn of_site(forms: &Forms<'_>, site: usize) -> Vec<(Vec<usize>, Group)> {
        let site = &forms.sites[site];
        let mut groups: BTreeMap<Vec<usize>, Vec<Power>> = BTreeMap::new();
        for term in site.others.terms() {
            groups.entry(axes_of(std::slice::from_ref(term))).or_default().push(term.clone());
        }
        let group = |(axes, powers): (Vec<usize>, Vec<Power>)| {
            let group = Group::of(&powers, &axes, &site.shape, site.dtype);
            (axes, group)
        };
        groups.into_iter().map(group).collect()
    }

    /// The products on the way, this one among them.
    fn prefixes(&self) -> impl Iterator<Item = Group> + '_ {
        (1..=self.powers.len()).map(|n| Group { powers: self.powers[..n].to_vec(), ..self.clone() })
    }
}

/// The greatest number of factors beside a matrix that is watched.
fn n_weights(forms: &Forms<'_>, matrices: &[Matrix], sites: &[usize]) -> usize {
    let of_sites = sites.iter().map(|site| Group::of_site(forms, *site).len());
    matrices.iter().map(|matrix| matrix.weights.len()).chain(of_sites).max().unwrap_or(1)
}

/// The products whose size has to be known: weights, and what else stands beside a matrix in a sum.
fn watched(forms: &Forms<'_>, matrices: &[Matrix], next: &[Vec<Product>], sites: &[usize]) -> Vec<Group> {
    let is_watched =
        |slot: usize| matrices.iter().any(|matrix| matrix.slot == slot && matrix.range == Range::Watched);
    let mut all: Vec<Group> = vec![];
    let mut push = |group: &Group| {
        for prefix in group.prefixes() {
            // The weights of an iteration were watched as the next ones of the iteration before; at first they are 1.
            let is_weight = matches!(&prefix.powers[..], [power]
                if matches!(power.atom, Atom::Weight(slot, _) if is_watched(slot)) && power.coeff == 1);
            if !is_weight && !all.contains(&prefix) {
                all.push(prefix);
            }
        }
    };
    for site in sites.iter().filter(|site| is_watched(forms.sites[**site].slot)) {
        Group::of_site(forms, *site).iter().for_each(|(_, group)| push(group));
    }
    for (matrix, products) in matrices.iter().zip(next).filter(|(matrix, _)| is_watched(matrix.slot)) {
        for (product, axes) in products.iter().zip(&matrix.weights) {
            push(&Group::of(product.terms(), axes, &matrix.ty.shape, matrix.ty.dtype));
        }
    }
    all
}

struct Writer<'w, 'm> {
    copied: Copied<'w>,
    forms: &'w Forms<'w>,
    kernels: BTreeMap<usize, ValueId>,
    weights: BTreeMap<(usize, usize), ValueId>,
    sums: Vec<Option<ValueId>>,
    groups: Vec<(Group, ValueId)>,
    b: Builder<'m>,
}

impl Writer<'_, '_> {
    /// The arguments; returns those that watch.
    fn inputs(
        &mut self,
        carry: usize,
        matrices: &[Matrix],
        watches: &[Watch],
        [scale, in_range]: &[String; 2],
    ) -> Result<Vec<ValueId>, String> {
        let body = self.copied.body;
        let is_matrix = |place: usize| matrices.iter().any(|matrix| matrix.slot == place);
        let input = |writer: &mut Self, place: usize| -> Built {
            let input = &body.inputs[place];
            writer.b.input(input.name.clone(), body.values[place].ty.clone(), input.domain)
        };
        for place in (0..carry).filter(|place| !is_matrix(*place)) {
            self.copied.values[place] = Some(input(self, place)?);
        }
        for matrix in matrices {
            for (number, axes) in matrix.weights.iter().enumerate() {
                let weight = self.b.fresh_input(scale, matrix.weight_type(axes))?;
                self.weights.insert((matrix.slot, number), weight);
            }
        }
        let states = inputs_for(&mut self.b, in_range, watches)?;
        for place in carry..body.inputs.len() {
            self.copied.values[place] = Some(input(self, place)?);
        }
        for matrix in matrices {
            let kernel = input(self, matrix.slot)?;
            self.kernels.insert(matrix.slot, kernel);
        }
        Ok(states)
    }

    /// The results.
    fn outputs(
        &mut self,
        carry: usize,
        matrices: &[Matrix],
        weights: &[ValueId],
        seen: &[ValueId],
        [scale, in_range]: &[String; 2],
    ) -> Result<(), String> {
        let is_matrix = |place: usize| matrices.iter().any(|matrix| matrix.slot == place);
        for (place, out) in self.copied.body.outputs.iter().enumerate() {
            if place == carry {
                outputs_of(&mut self.b, scale, weights)?;
                outputs_of(&mut self.b, in_range, seen)?;
            }
            if !is_matrix(place) {
                let value = self.value(out.value)?;
                self.b.output(out.name.clone(), value)?;
            }
        }
        if self.copied.body.outputs.len() == carry {
            outputs_of(&mut self.b, scale, weights)?;
            outputs_of(&mut self.b, in_range, seen)?;
        }
        Ok(())
    }

    /// A value of the body that is no matrix.
    fn value(&mut self, value: ValueId) -> Built {
        if let Some(known) = self.copied.values[value.0 as usize] {
            return Ok(known);
        }
        let form = self.forms.form(value);
        if !is_scaled(form) {
            return self.node(value);
        }
        let ty = self.copied.body.ty(value).clone();
        let axes: Vec<usize> = (0..ty.rank()).collect();
        let new = self.product(&Group::of(form.terms(), &axes, &ty.shape, ty.dtype))?;
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

    /// A product that may be needed again.
    fn group(&mut self, group: &Group) -> Built {
        if let Some((_, known)) = self.groups.iter().find(|(known, _)| known == group) {
            return Ok(*known);
        }
        let value = match group.powers.split_last() {
            Some((last, first)) if !first.is_empty() => {
                let before = self.group(&Group { powers: first.to_vec(), ..group.clone() })?;
                self.times(before, last, &group.shape)?
            }
            _ => self.product(group)?,
        };
        self.groups.push((group.clone(), value));
        Ok(value)
    }

    fn product(&mut self, group: &Group) -> Built {
        let Some((first, rest)) = group.powers.split_first() else {
            let one = self.b.scalar(group.dtype, Scalar::Float(1.0))?;
            return self.b.broadcast(one, group.shape.clone(), &[]);
        };
        let mut value = self.power(first, &group.shape)?;
        for power in rest {
            value = self.times(value, power, &group.shape)?;
        }
        Ok(value)
    }

    fn times(&mut self, value: ValueId, power: &Power, shape: &[Dim]) -> Built {
        let power = self.power(power, shape)?;
        self.b.mul(value, power)
    }

    fn power(&mut self, power: &Power, shape: &[Dim]) -> Built {
        let atom = match power.atom {
            Atom::Value(value) => self.value(value)?,
            Atom::Weight(slot, number) => {
                *self.weights.get(&(slot, number)).ok_or("a state has no such weight")?
            }
            Atom::Sum(site) => self.sum(site)?,
            Atom::Matrix(_) => return Err("a matrix is read as a whole".into()),
        };
        let mut value = atom;
        for _ in 1..power.coeff.unsigned_abs() {
            value = self.b.mul(value, atom)?;
        }
        if power.coeff < 0 {
            value = self.b.unary(ScalarOp::Recip, value)?;
        }
        spread(&mut self.b, value, shape, &power.axes)
    }

    /// The sum of that number, of the matrix as it was at first.
    fn sum(&mut self, number: usize) -> Built {
        if let Some(known) = self.sums[number] {
            return Ok(known);
        }
        let forms = self.forms;
        let site = &forms.sites[number];
        let labels =
            |axes: &[usize]| -> Result<Vec<char>, String> { axes.iter().map(|axis| label(*axis)).collect() };
        let kernel = *self.kernels.get(&site.slot).ok_or("a state has no matrix")?;
        let groups = Group::of_site(forms, number);
        let sum = if groups.is_empty() {
            self.b.sum(kernel, &site.summed)?
        } else {
            let mut spec = Einsum {
                inputs: vec![labels(&(0..site.rank).collect::<Vec<_>>())?],
                output: labels(&site.kept_axes())?,
            };
            let mut operands = vec![kernel];
            for (axes, group) in groups {
                spec.inputs.push(labels(&axes)?);
                operands.push(self.group(&group)?);
            }
            let attrs = vec![Attr::Einsum(spec), Attr::DType(site.dtype)];
            self.b.apply(OpKind::Contract, attrs, &operands)?
        };
        self.sums[number] = Some(sum);
        Ok(sum)
    }
}
