//! Transposition: from nodes that are linear in some values to the cotangents of those.
//!
//! In: nodes, which of their values are linear in the seeds, and cotangents of some results. Out: the seeds' cotangents.
//! Nodes are visited backwards; each gives its cotangent to its linear operands, and contributions add up. Assumes that
//! every node is linear in its linear operands together, as the tangents of rules are.

use super::Tangents;
use super::transpose_loop::transpose_loop;
use crate::dim::Dim;
use crate::scalar::ScalarOp;
use crate::tensor::build::{Builder, Built};
use crate::tensor::{Einsum, Func, Node, Op, OpKind, TensorType, ValueId};

/// Transposes the nodes of `b`'s function from `first_node` on, which are linear in `seeds`. `cotangents` are pairs of a
/// value and its cotangent.
///
/// Errors: an op that is not linear.
pub fn transpose_tail(
    b: &mut Builder<'_>,
    first_node: usize,
    seeds: &[ValueId],
    cotangents: &[(ValueId, ValueId)],
) -> Result<Tangents, String> {
    let source = b.func().clone();
    let known = (0..source.values.len() as u32).map(|value| Some(ValueId(value))).collect();
    let mut walk = Transposition::new(source, seeds, known, first_node);
    for (value, cotangent) in cotangents {
        walk.give(b, *value, *cotangent)?;
    }
    walk.run(b, first_node)?;
    Ok(seeds.iter().map(|seed| walk.cotangent(*seed)).collect())
}

/// A walk over the nodes of a function, backwards.
pub struct Transposition {
    source: Func,
    /// Which values are linear in the seeds.
    linear: Vec<bool>,
    /// The others, where they are known at the builder.
    known: Vec<Option<ValueId>>,
    /// What the linear ones were given so far.
    cotangents: Tangents,
}

impl Transposition {
    /// The walk over the nodes of `source` from `first_node` on. `known` holds, at the builder, what does not depend on the
    /// seeds.
    pub fn new(
        source: Func,
        seeds: &[ValueId],
        known: Vec<Option<ValueId>>,
        first_node: usize,
    ) -> Transposition {
        let mut linear = vec![false; source.values.len()];
        seeds.iter().for_each(|seed| linear[seed.0 as usize] = true);
        for node in &source.nodes[first_node..] {
            if node.args.iter().any(|arg| linear[arg.0 as usize]) {
                node.results.iter().for_each(|result| linear[result.0 as usize] = true);
            }
        }
        let cotangents = vec![None; source.values.len()];
        Transposition { source, linear, known, cotangents }
    }

    /// Whether `value` depends on the seeds.
    pub fn is_linear(&self, value: ValueId) -> bool {
        self.linear[value.0 as usize]
    }

    /// Writes the nodes that do not depend on the seeds at the builder.
    pub fn copy_known(&mut self, b: &mut Builder<'_>) -> Result<(), String> {
        for node in self.source.nodes.clone() {
            if node.results.iter().any(|result| self.is_linear(*result)) {
                continue;
            }
            let args = node.args.iter().map(|arg| self.known(*arg)).collect::<Result<Vec<_>, _>>()?;
            b.set_span(node.span);
            let results = b.op(node.op.clone(), &args)?;
            for (old, new) in node.results.iter().zip(results) {
                self.known[old.0 as usize] = Some(new);
            }
        }
        Ok(())
    }

    /// What `value` was given; `None` is zero.
    pub fn cotangent(&self, value: ValueId) -> Option<ValueId> {
        self.cotangents[value.0 as usize]
    }

    /// The type of a value of the source.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        self.source.ty(value)
    }

    /// A value that does not depend on the seeds, at the builder.
    pub fn known(&self, value: ValueId) -> Built {
        self.known[value.0 as usize].ok_or_else(|| "a tangent is used where a value should be".to_string())
    }

    /// [`Transposition::known`], in the dtype of the cotangent `like`.
    fn known_like(&self, b: &mut Builder<'_>, value: ValueId, like: ValueId) -> Built {
        let dtype = b.ty(like).dtype;
        b.convert(self.known(value)?, dtype)
    }

    /// Adds to the cotangent of `value`, if it depends on the seeds.
    pub fn give(&mut self, b: &mut Builder<'_>, value: ValueId, cotangent: ValueId) -> Result<(), String> {
        if !self.is_linear(value) {
            return Ok(());
        }
        let place = value.0 as usize;
        let cotangent = b.convert(cotangent, self.ty(value).dtype.compute())?;
        self.cotangents[place] = Some(match self.cotangents[place] {
            None => cotangent,
            Some(sum) => b.add(sum, cotangent)?,
        });
        Ok(())
    }

    /// Visits the nodes from the last to `first_node`.
    pub fn run(&mut self, b: &mut Builder<'_>, first_node: usize) -> Result<(), String> {
        for idx in (first_node..self.source.nodes.len()).rev() {
            let node = self.source.nodes[idx].clone();
            let is_given = node.results.iter().any(|result| self.cotangent(*result).is_some());
            if !is_given || !node.args.iter().any(|arg| self.is_linear(*arg)) {
                continue;
            }
            b.set_span(node.span);
            self.node(b, &node)?;
        }
        Ok(())
    }

    fn node(&mut self, b: &mut Builder<'_>, node: &Node) -> Result<(), String> {
        if node.op.kind == OpKind::Loop {
            return transpose_loop(self, b, node);
        }
        let Some(g) = self.cotangent(node.results[0]) else { return Ok(()) };
        match node.op.kind {
            OpKind::Scalar(op) => self.scalar(b, op, node, g),
            OpKind::Convert => self.give(b, node.args[0], g),
            OpKind::Broadcast => {
                let rank = b.ty(g).rank();
                let axes = node.op.axes("axes");
                let repeated: Vec<usize> = (0..rank).filter(|axis| !axes.contains(&(*axis as u32))).collect();
                let sum = if repeated.is_empty() { g } else { b.sum(g, &repeated)? };
                self.give(b, node.args[0], sum)
            }
            OpKind::Reshape => {
                let back = b.reshape(g, self.ty(node.args[0]).shape.clone())?;
                self.give(b, node.args[0], back)
            }
            OpKind::Transpose => {
                let axes = node.op.axes("axes");
                let mut back = vec![0; axes.len()];
                axes.iter().enumerate().for_each(|(to, from)| back[*from as usize] = to);
                let turned = b.transpose(g, &back)?;
                self.give(b, node.args[0], turned)
            }
            OpKind::ReduceSum => {
                let shape = self.ty(node.args[0]).shape.clone();
                let axes = node.op.axes("axes");
                let kept: Vec<usize> =
                    (0..shape.len()).filter(|axis| !axes.contains(&(*axis as u32))).collect();
                let repeated = b.broadcast(g, shape, &kept)?;
                self.give(b, node.args[0], repeated)
            }
            OpKind::Slice => self.slice(b, node, g),
            OpKind::Pad => self.pad(b, node, g),
            OpKind::Concat => self.concat(b, node, g),
            OpKind::Gather => self.gather(b, node, g),
            OpKind::Contract => self.contract(b, node, g),
            OpKind::Solve => self.solve(b, node, g),
            other => Err(format!("`{}` of a tangent is not linear in it", other.name())),
        }
    }

    fn scalar(&mut self, b: &mut Builder<'_>, op: ScalarOp, node: &Node, g: ValueId) -> Result<(), String> {
        use ScalarOp as S;
        let args = &node.args;
        match op {
            S::Neg => {
                let minus = b.unary(S::Neg, g)?;
                self.give(b, args[0], minus)
            }
            S::Add => {
                self.give(b, args[0], g)?;
                self.give(b, args[1], g)
            }
            S::Sub => {
                self.give(b, args[0], g)?;
                if !self.is_linear(args[1]) {
                    return Ok(());
                }
                let minus = b.unary(S::Neg, g)?;
                self.give(b, args[1], minus)
            }
            S::Mul => {
                let (tangent, factor) =
                    if self.is_linear(args[0]) { (args[0], args[1]) } else { (args[1], args[0]) };
                let factor = self.known_like(b, factor, g)?;
                let product = b.mul(g, factor)?;
                self.give(b, tangent, product)
            }
            S::Div => {
                let divisor = self.known_like(b, args[1], g)?;
                let quotient = b.div(g, divisor)?;
                self.give(b, args[0], quotient)
            }
            S::Select => {
                let condition = self.known(args[0])?;
                let zero = b.float_like(g, 0.0)?;
                if self.is_linear(args[1]) {
                    let chosen = b.select(condition, g, zero)?;
                    self.give(b, args[1], chosen)?;
                }
                if self.is_linear(args[2]) {
                    let chosen = b.select(condition, zero, g)?;
                    self.give(b, args[2], chosen)?;
                }
                Ok(())
            }
            other => Err(format!("`{}` of a tangent is not linear in it", other.name())),
        }
    }

    fn slice(&mut self, b: &mut Builder<'_>, node: &Node, g: ValueId) -> Result<(), String> {
        let shape = self.ty(node.args[0]).shape.clone();
        let axis = node.op.axis(b.module, shape.len())?;
        let (start, end) = (node.op.dim(b.module, "start")?, node.op.dim(b.module, "end")?);
        let zero = b.float_like(g, 0.0)?;
        let padded = b.pad(g, zero, axis, start, shape[axis].sub(&end))?;
        self.give(b, node.args[0], padded)
    }

    fn pad(&mut self, b: &mut Builder<'_>, node: &Node, g: ValueId) -> Result<(), String> {
        let shape = self.ty(node.args[0]).shape.clone();
        let axis = node.op.axis(b.module, shape.len())?;
        let low = node.op.dim(b.module, "low")?;
        let end = low.add(&shape[axis]);
        let middle = b.slice(g, axis, low, end)?;
        self.give(b, node.args[0], middle)?;
        if !self.is_linear(node.args[1]) {
            return Ok(());
        }
        let all = |b: &Builder<'_>, x: ValueId| (0..b.ty(x).rank()).collect::<Vec<usize>>();
        let axes = all(b, g);
        let (total, inside) = (b.sum(g, &axes)?, b.sum(middle, &axes)?);
        let rest = b.sub(total, inside)?;
        self.give(b, node.args[1], rest)
    }

    fn concat(&mut self, b: &mut Builder<'_>, node: &Node, g: ValueId) -> Result<(), String> {
        let axis = node.op.axis(b.module, b.ty(g).rank())?;
        let mut start = Dim::constant(0);
        for arg in &node.args {
            let end = start.add(&self.ty(*arg).shape[axis]);
            if self.is_linear(*arg) {
                let part = b.slice(g, axis, start, end.clone())?;
                self.give(b, *arg, part)?;
            }
            start = end;
        }
        Ok(())
    }

    /// The scatter of a gather, as a contraction with "index = place".
    fn gather(&mut self, b: &mut Builder<'_>, node: &Node, g: ValueId) -> Result<(), String> {
        let shape = self.ty(node.args[0]).shape.clone();
        let axis = node.op.axis(b.module, shape.len())?;
        let index = self.known(node.args[1])?;
        let index_type = b.ty(index).clone();
        let extent = shape[axis].clone();
        // Indices are clamped to the axis, as the op does.
        let mut hot_shape = index_type.shape.clone();
        hot_shape.push(extent.clone());
        let place = b.iota(hot_shape.clone(), hot_shape.len() - 1)?;
        let index =
            b.apply(OpKind::Convert, vec![crate::tensor::Attr::DType(crate::dtype::DType::I64)], &[index])?;
        let index = clamp(b, index, &extent)?;
        let leading: Vec<usize> = (0..index_type.rank()).collect();
        let index = b.broadcast(index, hot_shape, &leading)?;
        let is_hot = b.elementwise(ScalarOp::Eq, &[index, place])?;
        let dtype = b.ty(g).dtype;
        let hot = b.convert(is_hot, dtype)?;
        let mut labels = ('a'..='z').chain('A'..='Z');
        let mut take = |count: usize| labels.by_ref().take(count).collect::<Vec<char>>();
        let (before, inner, after) = (take(axis), take(index_type.rank()), take(shape.len() - axis - 1));
        let at = take(1);
        let spec = Einsum {
            inputs: vec![[&before[..], &inner, &after].concat(), [&inner[..], &at].concat()],
            output: [&before[..], &at, &after].concat(),
        };
        let scattered = b.contract_as(&spec.to_string(), dtype, &[g, hot])?;
        self.give(b, node.args[0], scattered)
    }

    fn contract(&mut self, b: &mut Builder<'_>, node: &Node, g: ValueId) -> Result<(), String> {
        let spec = node.op.einsum().ok_or("`contract` needs a spec")?.clone();
        let dtype = b.ty(g).dtype;
        let Some(place) = node.args.iter().position(|arg| self.is_linear(*arg)) else { return Ok(()) };
        let target = node.args[place];
        let wanted = &spec.inputs[place];
        let (mut inputs, mut args) = (vec![spec.output.clone()], vec![g]);
        for (other, arg) in node.args.iter().enumerate().filter(|(other, _)| *other != place) {
            args.push(self.known_like(b, *arg, g)?);
            inputs.push(spec.inputs[other].clone());
        }
        let is_there = |label: &char| inputs.iter().any(|labels| labels.contains(label));
        let output: Vec<char> = wanted.iter().copied().filter(is_there).collect();
        let summed = if args.len() == 1 {
            // Labels of the result all come from the only operand.
            let order: Vec<usize> = output
                .iter()
                .filter_map(|label| spec.output.iter().position(|other| other == label))
                .collect();
            b.transpose(g, &order)?
        } else {
            b.contract_as(&Einsum { inputs, output: output.clone() }.to_string(), dtype, &args)?
        };
        // A label that only this operand had was summed over: its cotangent is the same along it.
        let shape = self.ty(target).shape.clone();
        let kept: Vec<usize> = (0..wanted.len()).filter(|axis| output.contains(&wanted[*axis])).collect();
        let full = if kept.len() == wanted.len() { summed } else { b.broadcast(summed, shape, &kept)? };
        self.give(b, target, full)
    }

    fn solve(&mut self, b: &mut Builder<'_>, node: &Node, g: ValueId) -> Result<(), String> {
        let a = self.known_like(b, node.args[0], g)?;
        let turned = b.transpose_last(a)?;
        let solved = b.op1(Op::plain(OpKind::Solve), &[turned, g])?;
        self.give(b, node.args[1], solved)
    }
}

/// Integers brought into `0 .. extent`.
fn clamp(b: &mut Builder<'_>, index: ValueId, extent: &Dim) -> Built {
    use crate::dtype::DType;
    use crate::scalar::Scalar;
    let zero = b.scalar(DType::I64, Scalar::Int(0))?;
    let index = b.max(index, zero)?;
    let last = match extent.as_const() {
        Some(extent) => b.scalar(DType::I64, Scalar::Int(extent - 1))?,
        None => {
            // The largest place, where the extent is known only at run time.
            let places = b.iota(vec![extent.clone()], 0)?;
            b.reduce(OpKind::ReduceMax, places, &[0])?
        }
    };
    b.min(index, last)
}
