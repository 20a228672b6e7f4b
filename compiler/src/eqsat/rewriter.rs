//! Building terms for the right sides of rules.
//!
//! In: classes and what to apply to them. Out: classes. Identities (a broadcast to the same shape, a transpose that moves
//! nothing) answer with the operand. `None` means that the term cannot be built here, and the rule does not apply; a term that
//! has no type is our fault and stops the run.

use super::facts::Facts;
use super::pattern::{Family, Match, NUMBER, Operands, Pattern, is_commutative};
use super::term::{Graph, Head, Term, data, type_of};
use crate::cost;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use birkhoff_ir::tensor::{Attr, Einsum, F64, Op, OpKind, TensorType};
use egg::Id;
use std::borrow::Cow;

/// Builds terms in an e-graph.
pub struct Rewriter<'g> {
    /// The e-graph.
    pub graph: &'g mut Graph,
}

/// A contraction with its operands, labels in the open.
#[derive(Clone, PartialEq, Debug)]
pub struct Contraction {
    /// Labels and class of each operand.
    pub inputs: Vec<(Vec<char>, Id)>,
    /// Labels of the result.
    pub output: Vec<char>,
    /// In which it is accumulated and delivered.
    pub dtype: DType,
}

impl Contraction {
    /// Labels that the result lacks, in order of first occurrence.
    pub fn summed(&self) -> Vec<char> {
        let inputs = self.inputs.iter().map(|(labels, _)| labels.clone()).collect();
        Einsum { inputs, output: self.output.clone() }.summed()
    }

    /// A letter that is no label yet.
    pub fn fresh(&self, besides: &[char]) -> Option<char> {
        let used = |label: char| {
            besides.contains(&label) || self.inputs.iter().any(|(labels, _)| labels.contains(&label))
        };
        ('a'..='z').chain('A'..='Z').find(|label| !used(*label))
    }
}

impl Rewriter<'_> {
    /// The type of a class.
    pub fn ty(&self, id: Id) -> Option<TensorType> {
        type_of(self.graph, id).cloned()
    }

    /// Facts about a class of one value.
    pub fn facts(&self, id: Id) -> Facts {
        data(self.graph, id).results.first().map(|result| result.1).unwrap_or_default()
    }

    /// The op of a term.
    pub fn op_of(&self, term: &Term) -> Option<Op> {
        match term.head {
            Head::Op(_, id) => Some(self.graph.analysis.op(id).clone()),
            _ => None,
        }
    }

    /// The op that the left side called `@name`.
    pub fn op(&self, m: &Match, name: char) -> Option<Op> {
        self.op_of(m.term(name)?)
    }

    /// Number of elements, with run-time dims at their usual sizes.
    pub fn elements(&self, id: Id) -> f64 {
        type_of(self.graph, id).map_or(0.0, |ty| cost::elements(ty, &self.graph.analysis.sizes))
    }

    /// The size with run-time dims at their usual sizes.
    pub fn size(&self, dim: &Dim) -> f64 {
        cost::size_of(dim, &self.graph.analysis.sizes)
    }

    /// Applies an op.
    pub fn add(&mut self, op: &Op, args: &[Id]) -> Option<Id> {
        let id = self.graph.analysis.intern_op(&canonical(op));
        let mut types = Vec::with_capacity(args.len());
        for arg in args {
            types.push(data(self.graph, *arg).results.first()?.0);
        }
        if let Err(message) = self.graph.analysis.infer(id, types) {
            self.graph.analysis.stop(format!("a rule built a term that has no type: {message}"));
            return None;
        }
        let mut args: Vec<Id> = args.iter().map(|arg| self.graph.find(*arg)).collect();
        if is_commutative(op.kind) {
            args.sort_unstable();
        }
        Some(self.graph.add(Term { head: Head::Op(op.kind, id), args }))
    }

    /// An elementwise op on operands of one shape.
    pub fn scalar(&mut self, op: ScalarOp, args: &[Id]) -> Option<Id> {
        self.add(&Op::scalar(op), args)
    }

    /// `value` everywhere.
    pub fn constant(&mut self, value: Scalar, ty: &TensorType) -> Option<Id> {
        let value = match value.convert(ty.dtype) {
            Scalar::Float(value) => Attr::Float(F64(value)),
            Scalar::Int(value) => Attr::Int(value),
            Scalar::Bool(value) => Attr::Bool(value),
        };
        let scalar = self.add(&Op::new(OpKind::Const, vec![value, Attr::DType(ty.dtype)]), &[])?;
        self.broadcast(scalar, ty.shape.clone(), vec![])
    }

    /// See the op `broadcast`.
    pub fn broadcast(&mut self, x: Id, shape: Vec<Dim>, axes: Vec<u32>) -> Option<Id> {
        if type_of(self.graph, x)?.rank() == shape.len() {
            return Some(x);
        }
        self.add(&Op::new(OpKind::Broadcast, vec![Attr::Dims(shape), Attr::Axes(axes)]), &[x])
    }

    /// See the op `reshape`.
    pub fn reshape(&mut self, x: Id, shape: Vec<Dim>) -> Option<Id> {
        if type_of(self.graph, x)?.shape == shape {
            return Some(x);
        }
        self.add(&Op::new(OpKind::Reshape, vec![Attr::Dims(shape)]), &[x])
    }

    /// See the op `transpose`.
    pub fn transpose(&mut self, x: Id, axes: Vec<u32>) -> Option<Id> {
        if axes.iter().enumerate().all(|(to, from)| to == *from as usize) {
            return Some(x);
        }
        self.add(&Op::new(OpKind::Transpose, vec![Attr::Axes(axes)]), &[x])
    }

    /// See the op `slice`.
    pub fn slice(&mut self, x: Id, axis: usize, start: Dim, end: Dim) -> Option<Id> {
        if start.is_const(0) && type_of(self.graph, x)?.shape.get(axis) == Some(&end) {
            return Some(x);
        }
        self.add(
            &Op::new(OpKind::Slice, vec![Attr::Int(axis as i64), Attr::Dim(start), Attr::Dim(end)]),
            &[x],
        )
    }

    /// A reduction over at least one axis.
    pub fn reduce(&mut self, kind: OpKind, x: Id, mut axes: Vec<u32>) -> Option<Id> {
        axes.sort_unstable();
        if axes.is_empty() { None } else { self.add(&Op::new(kind, vec![Attr::Axes(axes)]), &[x]) }
    }

    /// The contraction that a term is.
    pub fn contraction(&self, term: &Term) -> Option<Contraction> {
        let op = self.op_of(term)?;
        let spec = op.einsum()?;
        let inputs = spec.inputs.iter().cloned().zip(term.args.iter().copied()).collect();
        Some(Contraction { inputs, output: spec.output.clone(), dtype: op.dtype()? })
    }

    /// The contraction called `@name`, if it neither widens nor narrows.
    pub fn contraction_of(&self, m: &Match, name: char) -> Option<Contraction> {
        let spec = self.contraction(m.term(name)?)?;
        let same =
            |(_, id): &(Vec<char>, Id)| type_of(self.graph, *id).is_some_and(|ty| ty.dtype == spec.dtype);
        spec.inputs.iter().all(same).then_some(spec)
    }

    /// Applies a contraction, its labels renamed in order of occurrence.
    pub fn contract(&mut self, spec: &Contraction) -> Option<Id> {
        let labels = spec.inputs.iter().map(|(labels, _)| labels.clone()).collect();
        let spec_op = contract_op(&Einsum { inputs: labels, output: spec.output.clone() }, spec.dtype)?;
        let args: Vec<Id> = spec.inputs.iter().map(|(_, id)| *id).collect();
        self.add(&spec_op, &args)
    }

    /// The extent of a label.
    pub fn extent(&self, spec: &Contraction, label: char) -> Option<Dim> {
        for (labels, id) in &spec.inputs {
            if let Some(axis) = labels.iter().position(|other| *other == label) {
                return type_of(self.graph, *id)?.shape.get(axis).cloned();
            }
        }
        None
    }

    /// `x`, whose axes have the labels `from`, brought to the axes `to` of shape `shape`: transposed, then repeated along the
    /// labels that it lacks.
    pub fn spread(&mut self, x: Id, from: &[char], to: &[char], shape: &[Dim]) -> Option<Id> {
        let mut order = vec![];
        let mut axes = vec![];
        for (place, label) in to.iter().enumerate() {
            if let Some(axis) = from.iter().position(|other| other == label) {
                order.push(axis as u32);
                axes.push(place as u32);
            }
        }
        if order.len() != from.len() {
            return None;
        }
        let x = self.transpose(x, order)?;
        self.broadcast(x, shape.to_vec(), axes)
    }

    /// The very term that matched `pattern`, for proofs. `None` if the pattern does not name all ops that have attributes.
    pub fn matched(&mut self, pattern: &Pattern, m: &Match) -> Option<Id> {
        let (head, name, args) = match pattern {
            Pattern::Var(name) => return Some(m.var(*name)),
            Pattern::Number(_) => return Some(m.var(NUMBER)),
            Pattern::Apply { head, name, args } => (head, name, args),
        };
        let mut term = match (name, head) {
            (Some(name), _) => m.term(*name)?.clone(),
            (None, Family::Op(kind)) if kind.attrs().is_empty() => {
                let op = self.graph.analysis.intern_op(&Op::plain(*kind));
                Term { head: Head::Op(*kind, op), args: vec![] }
            }
            _ => return None,
        };
        match args {
            Operands::Any => {}
            Operands::Some(arg) => {
                let place = name.map_or(0, |name| m.place(name));
                *term.args.get_mut(place)? = self.matched(arg, m)?;
            }
            Operands::All(args) => {
                let ids: Option<Vec<Id>> = args.iter().map(|arg| self.matched(arg, m)).collect();
                term.args = ids?;
                let exchanged = name.is_some_and(|name| m.place(name) == 1);
                if is_commutative(term.kind()?) {
                    let sorted = self.graph.find(term.args[0]) <= self.graph.find(term.args[1]);
                    if exchanged || (name.is_none() && !sorted) {
                        term.args.swap(0, 1);
                    }
                }
            }
        }
        Some(self.graph.add_uncanonical(term))
    }

    /// Builds the right side `pattern`: an op with a name is the one that the left side called so, with its attributes;
    /// numbers take the type of the match's root.
    pub fn instantiate(&mut self, pattern: &Pattern, m: &Match) -> Option<Id> {
        match pattern {
            Pattern::Var(name) => Some(m.var(*name)),
            Pattern::Number(value) => {
                let ty = self.ty(m.root)?;
                self.constant(Scalar::Float(*value), &ty)
            }
            Pattern::Apply { head, args, name } => {
                let Operands::All(args) = args else { return None };
                let ids: Option<Vec<Id>> = args.iter().map(|arg| self.instantiate(arg, m)).collect();
                let op = match (name, head) {
                    (Some(name), _) => self.op(m, *name)?,
                    (None, Family::Op(kind)) => Op::plain(*kind),
                    _ => return None,
                };
                self.add(&op, &ids?)
            }
        }
    }
}

/// The op as the graph holds it: contractions with their labels renamed.
pub fn canonical(op: &Op) -> Cow<'_, Op> {
    let renamed = op.einsum().zip(op.dtype()).and_then(|(spec, dtype)| contract_op(spec, dtype));
    renamed.map_or(Cow::Borrowed(op), Cow::Owned)
}

/// The op of a contraction, with labels `a`, `b`, .. in order of occurrence. `None` for more labels than letters.
pub fn contract_op(spec: &Einsum, dtype: DType) -> Option<Op> {
    let mut names: Vec<char> = vec![];
    for label in spec.inputs.iter().flatten() {
        if !names.contains(label) {
            names.push(*label);
        }
    }
    let letters: Vec<char> = ('a'..='z').chain('A'..='Z').collect();
    let rename = |labels: &Vec<char>| -> Option<Vec<char>> {
        let place = |label: &char| names.iter().position(|other| other == label);
        labels.iter().map(|label| letters.get(place(label)?).copied()).collect()
    };
    let inputs: Option<Vec<Vec<char>>> = spec.inputs.iter().map(rename).collect();
    let spec = Einsum { inputs: inputs?, output: rename(&spec.output)? };
    Some(Op::new(OpKind::Contract, vec![Attr::Einsum(spec), Attr::DType(dtype)]))
}
