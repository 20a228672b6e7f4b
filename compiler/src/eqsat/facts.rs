//! What is known about the values of a class: its type, whether all elements are one known number, along which axes its
//! elements sum to one, whether it is never negative.
//!
//! Facts follow from terms ([`egg::Analysis::make`]) and from the rules of `rules/doubly_stochastic.rs`, which see a value divided
//! by its own sum. Equal classes have all facts of both; facts that exclude each other stop the run.

use super::term::{Conflict, Graph, Head, Term, TypeId, World, is_tuple};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::{self, Scalar, ScalarOp};
use birkhoff_ir::tensor::{Op, OpKind, TensorType};
use egg::{Analysis, DidMerge, Id};

/// Facts about one value.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Facts {
    /// The one number that all elements are.
    pub uniform: Option<Scalar>,
    /// A bit for every axis along which elements sum to one, over the reals.
    pub unit_sums: u32,
    /// True if no element has its sign bit set (NaN apart).
    pub nonnegative: bool,
    /// True if this is a matrix that was, or is to be, divided by its own sums, or such a matrix scaled or moved. Sums of it
    /// measure that matrix.
    pub normalised: bool,
}

/// Types and facts of the results of a class.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Data {
    /// One per result; a class that is no tuple has one.
    pub results: Vec<(TypeId, Facts)>,
}

impl Facts {
    /// True if sums along `axis` are one.
    pub fn sums_to_one(&self, axis: usize) -> bool {
        axis < 32 && self.unit_sums >> axis & 1 == 1
    }

    fn with_unit(axes: impl Iterator<Item = usize>) -> Facts {
        let unit_sums = axes.filter(|axis| *axis < 32).fold(0, |bits, axis| bits | 1 << axis);
        Facts { unit_sums, ..Facts::default() }
    }
}

impl Analysis<Term> for World {
    type Data = Data;

    fn make(graph: &mut Graph, term: &Term, _id: Id) -> Data {
        match make(graph, term) {
            Ok(data) => data,
            Err(message) => {
                graph.analysis.stop(message);
                Data::default()
            }
        }
    }

    fn merge(&mut self, a: &mut Data, b: Data) -> DidMerge {
        let before = a.clone();
        match self.combine(&before, &b) {
            Ok(both) => *a = both,
            Err(message) => self.stop(message),
        }
        DidMerge(*a != before, *a != b)
    }
}

impl World {
    /// Notes a conflict; the first one counts.
    pub fn stop(&mut self, message: String) {
        self.conflict.get_or_insert(Conflict { message });
    }

    /// Everything that two equal classes know. Errors: what contradicts what.
    pub fn combine(&self, a: &Data, b: &Data) -> Result<Data, String> {
        if a.results.len() != b.results.len() {
            let (left, right) = (a.results.len(), b.results.len());
            return Err(format!("a term of {left} results was found equal to one of {right}"));
        }
        let mut both = a.clone();
        for (left, right) in both.results.iter_mut().zip(&b.results) {
            if left.0 != right.0 {
                let (left, right) = (self.ty(left.0), self.ty(right.0));
                return Err(format!("a value of type {left} was found equal to one of type {right}"));
            }
            let dtype = self.ty(left.0).dtype;
            left.1.uniform = merge_uniform(left.1.uniform, right.1.uniform, dtype)?;
            left.1.unit_sums |= right.1.unit_sums;
            left.1.nonnegative |= right.1.nonnegative;
            left.1.normalised |= right.1.normalised;
        }
        Ok(both)
    }
}

/// The number that both sides know. Constants that were computed in two orders differ in their last bits: the smaller one is
/// kept, whichever came first. Errors: numbers that differ by more than any order of a few roundings.
fn merge_uniform(a: Option<Scalar>, b: Option<Scalar>, dtype: DType) -> Result<Option<Scalar>, String> {
    let (Some(left), Some(right)) = (a, b) else { return Ok(a.or(b)) };
    let conflict = || format!("the constant {left:?} was found equal to {right:?} in {dtype}");
    let (Scalar::Float(x), Scalar::Float(y)) = (left, right) else {
        return if left == right { Ok(a) } else { Err(conflict()) };
    };
    if x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()) {
        return Ok(a);
    }
    let unit = match dtype {
        DType::F64 => f64::EPSILON,
        DType::F32 => f64::from(f32::EPSILON),
        DType::F16 => 1.0 / 1024.0,
        _ => 1.0 / 128.0,
    };
    // 0 and -0 differ in bits only.
    if (x - y).abs() <= 64.0 * unit * x.abs().max(y.abs()) {
        Ok(Some(Scalar::Float(if x.total_cmp(&y).is_le() { x } else { y })))
    } else {
        Err(conflict())
    }
}

fn make(graph: &mut Graph, term: &Term) -> Result<Data, String> {
    let (kind, id) = match term.head {
        Head::Input(idx) => {
            let ty = graph.analysis.inputs.get(idx as usize).copied();
            let ty = ty.ok_or("the term names an argument that the function lacks")?;
            return Ok(Data { results: vec![(ty, Facts::default())] });
        }
        Head::Outputs => return Ok(Data::default()),
        Head::Get(idx) => {
            let result = graph[term.args[0]].data.results.get(idx as usize).copied();
            let result = result.ok_or("the term picks a result that its operand lacks")?;
            return Ok(Data { results: vec![result] });
        }
        Head::Op(kind, id) => (kind, id),
    };
    let args: Vec<(TypeId, Facts)> = term.args.iter().filter_map(|arg| first(graph, *arg)).collect();
    let types: Vec<TypeId> = args.iter().map(|(ty, _)| *ty).collect();
    let results = graph.analysis.infer(id, types)?;
    let world = &graph.analysis;
    let op = world.op(id);
    if is_tuple(kind) {
        let facts = tuple_facts(world, op, results.len());
        return Ok(Data { results: results.into_iter().zip(facts).collect() });
    }
    let args: Vec<(&TensorType, Facts)> = args.iter().map(|(ty, facts)| (world.ty(*ty), *facts)).collect();
    let facts = transfer(op, &args, world.ty(results[0]), term);
    Ok(Data { results: vec![(results[0], facts)] })
}

fn first(graph: &Graph, id: Id) -> Option<(TypeId, Facts)> {
    graph[id].data.results.first().copied()
}

/// A loop that runs at least once ends with what its body returns.
fn tuple_facts(world: &World, op: &Op, n_results: usize) -> Vec<Facts> {
    let mut facts = vec![Facts::default(); n_results];
    let trip = op.dim(&world.module, "trip");
    let carry = op.int(&world.module, "carry").map_or(0, |carry| carry as usize);
    if op.kind == OpKind::Loop
        && trip.is_ok_and(|trip| world.at_least(&trip, 1))
        && let Some(body) = op.body().and_then(|body| world.bodies.get(&body))
    {
        for (slot, known) in facts.iter_mut().zip(body).take(carry) {
            *slot = *known;
        }
    }
    facts
}

/// Facts of an op of one result, from those of its operands.
fn transfer(op: &Op, args: &[(&TensorType, Facts)], result: &TensorType, term: &Term) -> Facts {
    let input = args.first().map(|arg| arg.1).unwrap_or_default();
    match op.kind {
        OpKind::Const => constant(op, result),
        OpKind::Scalar(scalar) => elementwise(scalar, args, term),
        OpKind::StopGradient => input,
        OpKind::Convert => Facts {
            uniform: input.uniform.map(|value| value.convert(result.dtype)),
            nonnegative: input.nonnegative && result.dtype.is_float(),
            normalised: input.normalised,
            unit_sums: if result.dtype.is_float() { input.unit_sums } else { 0 },
        },
        OpKind::Broadcast => {
            let axes = op.axes("axes");
            moved(input, axes.iter().enumerate().map(|(from, to)| (from, *to as usize)))
        }
        OpKind::Transpose => {
            let axes = op.axes("axes");
            moved(input, axes.iter().enumerate().map(|(to, from)| (*from as usize, to)))
        }
        OpKind::Reshape => {
            let kept =
                (0..args[0].0.rank()).filter_map(|axis| Some((axis, kept_axis(args[0].0, result, axis)?)));
            moved(input, kept)
        }
        OpKind::Slice => {
            let axis = match op.attr("axis") {
                Some(birkhoff_ir::tensor::Attr::Int(axis)) => *axis as usize,
                _ => usize::MAX,
            };
            moved(input, (0..result.rank()).filter(|other| *other != axis).map(|axis| (axis, axis)))
        }
        OpKind::ReduceSum | OpKind::ReduceMax | OpKind::ReduceMin | OpKind::ReduceProd => {
            Facts { nonnegative: input.nonnegative && op.kind != OpKind::ReduceProd, ..Facts::default() }
        }
        OpKind::Contract => contract(op, args),
        _ => Facts::default(),
    }
}

/// The facts of an operand whose axis `from` became `to`.
fn moved(input: Facts, axes: impl Iterator<Item = (usize, usize)>) -> Facts {
    let unit = Facts::with_unit(axes.filter(|(from, _)| input.sums_to_one(*from)).map(|(_, to)| to));
    Facts { unit_sums: unit.unit_sums, ..input }
}

/// The axis of the result of a reshape that is `axis` of the operand: as many elements before it, and the same extent.
pub fn kept_axis(from: &TensorType, to: &TensorType, axis: usize) -> Option<usize> {
    let before =
        |ty: &TensorType, axis: usize| TensorType::new(ty.dtype, ty.shape[..axis].to_vec()).n_elems();
    let target = before(from, axis);
    (0..to.rank()).find(|other| to.shape[*other] == from.shape[axis] && before(to, *other) == target)
}

fn constant(op: &Op, ty: &TensorType) -> Facts {
    use birkhoff_ir::tensor::Attr;
    let value = match op.attr("value") {
        Some(Attr::Float(value)) => Scalar::Float(value.0),
        Some(Attr::Int(value)) => Scalar::Int(*value),
        Some(Attr::Bool(value)) => Scalar::Bool(*value),
        _ => return Facts::default(),
    };
    let value = value.convert(ty.dtype);
    Facts { uniform: Some(value), nonnegative: sign_is_clear(value), ..Facts::default() }
}

fn sign_is_clear(value: Scalar) -> bool {
    match value {
        Scalar::Float(value) => value.is_sign_positive(),
        Scalar::Int(value) => value >= 0,
        Scalar::Bool(_) => true,
    }
}

fn elementwise(op: ScalarOp, args: &[(&TensorType, Facts)], term: &Term) -> Facts {
    use ScalarOp as S;
    let dtype = args[args.len() - 1].0.dtype;
    let values: Option<Vec<Scalar>> = args.iter().map(|arg| arg.1.uniform).collect();
    if let Some(values) = values {
        let value = scalar::eval(op, dtype, &values);
        return Facts { uniform: Some(value), nonnegative: sign_is_clear(value), ..Facts::default() };
    }
    let all = args.iter().all(|arg| arg.1.nonnegative);
    let nonnegative = dtype.is_float()
        && match op {
            S::Exp | S::Abs => true,
            S::Mul => all || term.args[0] == term.args[1],
            S::Add | S::Div | S::Max | S::Min => all,
            S::Sqrt | S::Rsqrt | S::Recip | S::Tanh => all,
            S::Select => args[1..].iter().all(|arg| arg.1.nonnegative),
            _ => false,
        };
    // A choice between two such values made slice by slice would keep the fact; element by element it is lost.
    let scaled = matches!(op, S::Mul | S::Div | S::Neg);
    Facts { nonnegative, normalised: scaled && args.iter().any(|arg| arg.1.normalised), ..Facts::default() }
}

/// `sum_o sum_j a[o,j] b[j,i] = sum_j b[j,i] = 1` if `a` sums to one along `o` and `b` along `j`.
fn contract(op: &Op, args: &[(&TensorType, Facts)]) -> Facts {
    let nonnegative = args.iter().all(|arg| arg.1.nonnegative);
    let none = Facts { nonnegative, ..Facts::default() };
    let (Some(spec), [left, right]) = (op.einsum(), args) else { return none };
    let summed = spec.summed();
    let mut bits = 0;
    for ((a, a_facts), (b, b_facts)) in [
        ((&spec.inputs[0], left.1), (&spec.inputs[1], right.1)),
        ((&spec.inputs[1], right.1), (&spec.inputs[0], left.1)),
    ] {
        let [inner] = summed.as_slice() else { continue };
        let Some(inner_axis) = b.iter().position(|label| label == inner) else { continue };
        if !b_facts.sums_to_one(inner_axis) {
            continue;
        }
        for (place, label) in spec.output.iter().enumerate() {
            let outer = a.iter().position(|other| other == label);
            // Every other label of `a` must be one of `b`, or the sum over `b` would not be the whole.
            let covered = a.iter().all(|other| other == label || b.contains(other));
            if let Some(axis) = outer
                && covered
                && !b.contains(label)
                && a_facts.sums_to_one(axis)
                && place < 32
            {
                bits |= 1 << place;
            }
        }
    }
    Facts { unit_sums: bits, normalised: bits != 0, ..none }
}

#[cfg(test)]
mod tests {
    use super::*;
    use birkhoff_ir::dim::{Dim, SizeEnv};
    use birkhoff_ir::tensor::Module;
    use std::collections::BTreeMap;

    fn world() -> (World, TypeId, TypeId) {
        let mut world = World::new(Module::default(), SizeEnv::new(), BTreeMap::new());
        let narrow = world.intern_type(&TensorType::new(DType::F32, vec![Dim::constant(3)]));
        let wide = world.intern_type(&TensorType::new(DType::F64, vec![Dim::constant(3)]));
        (world, narrow, wide)
    }

    fn constant_of(ty: TypeId, value: f64) -> Data {
        let facts = Facts { uniform: Some(Scalar::Float(value)), ..Facts::default() };
        Data { results: vec![(ty, facts)] }
    }

    #[test]
    fn facts_of_both_sides_hold() {
        let (world, ty, _) = world();
        let sums = Facts { unit_sums: 2, ..Facts::default() };
        let sign = Facts { unit_sums: 1, nonnegative: true, ..Facts::default() };
        let both = world.combine(&Data { results: vec![(ty, sums)] }, &Data { results: vec![(ty, sign)] });
        let (_, facts) = both.expect("they agree").results[0];
        assert!(facts.sums_to_one(0) && facts.sums_to_one(1) && facts.nonnegative);
    }

    #[test]
    fn what_cannot_both_hold_is_an_error() {
        let (world, ty, wide) = world();
        let why = world.combine(&constant_of(ty, 1.0), &constant_of(ty, 2.0)).expect_err("1 is not 2");
        assert_eq!(why, "the constant Float(1.0) was found equal to Float(2.0) in f32");
        let why = world.combine(&constant_of(ty, 1.0), &constant_of(wide, 1.0)).expect_err("types differ");
        assert_eq!(why, "a value of type f32[3] was found equal to one of type f64[3]");
    }

    #[test]
    fn the_last_bit_of_a_constant_does_not_depend_on_the_order() {
        let (world, ty, _) = world();
        let (low, high) = (0.1f64, 0.1 + 1e-8);
        for (a, b) in [(low, high), (high, low)] {
            let both = world.combine(&constant_of(ty, a), &constant_of(ty, b)).expect("close enough");
            assert_eq!(both, constant_of(ty, low));
        }
    }
}
