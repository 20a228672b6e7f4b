//! Writing functions by code: typed ops, and the broadcasting that the IR itself does not have.
//!
//! In: calls in program order. Out: a [`Func`] appended to its [`Module`]. Every call checks its types and answers with
//! what was expected and found. Arithmetic helpers broadcast like NumPy: shapes align at their last axes, and an axis of
//! extent 1 stretches.

use super::{
    Attr, Def, Domain, Einsum, F64, Func, FuncId, Input, Module, Node, Op, OpKind, Output, TensorType, Value,
};
use super::{ValueId, infer};
use crate::diag::Span;
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::scalar::{Scalar, ScalarOp};

/// A value, or what was expected and found.
pub type Built = Result<ValueId, String>;

/// Builds one function of a module.
pub struct Builder<'m> {
    /// The module that holds the functions built so far, and the dims and parameters.
    pub module: &'m mut Module,
    func: Func,
    span: Span,
}

impl<'m> Builder<'m> {
    /// An empty function, not yet part of `module`.
    pub fn new(module: &'m mut Module, name: impl Into<String>) -> Self {
        Builder { module, func: Func { name: name.into(), ..Func::default() }, span: Span::NONE }
    }

    /// A builder that appends to `func`.
    pub fn resume(module: &'m mut Module, func: Func) -> Self {
        Builder { module, func, span: Span::NONE }
    }

    /// Sets the place that the next nodes come from.
    pub fn set_span(&mut self, span: Span) {
        self.span = span;
    }

    /// The function so far.
    pub fn func(&self) -> &Func {
        &self.func
    }

    /// Appends the function to the module.
    pub fn finish(self) -> FuncId {
        self.module.funcs.push(self.func);
        FuncId(self.module.funcs.len() as u32 - 1)
    }

    /// [`Builder::finish`] for a function that was declared at `span`; its name is made unique.
    pub fn finish_at(self, span: Span) -> FuncId {
        let name = free_name(&self.func.name, |name| self.module.find(name).is_some());
        self.module.funcs.push(Func { name, span, ..self.func });
        FuncId(self.module.funcs.len() as u32 - 1)
    }

    /// The function, without appending it.
    pub fn into_func(self) -> Func {
        self.func
    }

    /// Builds a function of its own beside this one (a loop body). Its name is made unique.
    ///
    /// Errors: those of `fill`; nothing is appended then.
    pub fn nested(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut Builder<'_>) -> Result<(), String>,
    ) -> Result<FuncId, String> {
        self.nested_from(name, Func::default(), fill)
    }

    /// [`Builder::nested`], going on from `func` under a new name.
    ///
    /// Errors: those of `fill`; nothing is appended then.
    pub fn nested_from(
        &mut self,
        name: &str,
        func: Func,
        fill: impl FnOnce(&mut Builder<'_>) -> Result<(), String>,
    ) -> Result<FuncId, String> {
        let name = self.unique_func_name(name);
        let mut inner = Builder::resume(self.module, Func { name, ..func });
        inner.span = self.span;
        fill(&mut inner)?;
        Ok(inner.finish())
    }

    fn unique_func_name(&self, name: &str) -> String {
        free_name(name, |name| self.module.find(name).is_some() || self.func.name == name)
    }

    /// Marks the function as one that users may call.
    pub fn export(&mut self) {
        self.func.exported = true;
    }

    /// Adds an argument. Arguments come before all nodes.
    ///
    /// Errors: the name is taken, or a node was already added.
    pub fn input(&mut self, name: impl Into<Sym>, ty: TensorType, domain: Domain) -> Built {
        let name = name.into();
        if !self.func.nodes.is_empty() {
            return Err(format!("the argument `{name}` comes after the first node"));
        }
        if self.func.inputs.iter().any(|input| input.name == name) {
            return Err(format!("the argument `{name}` is declared twice"));
        }
        let def = Def::Input(self.func.inputs.len() as u32);
        self.func.inputs.push(Input { name: name.clone(), domain, span: self.span });
        Ok(self.push_value(ty, def, Some(name)))
    }

    /// Adds a named result.
    ///
    /// Errors: the name is taken.
    pub fn output(&mut self, name: impl Into<Sym>, value: ValueId) -> Result<(), String> {
        let name = name.into();
        if self.func.outputs.iter().any(|out| out.name == name) {
            return Err(format!("the output `{name}` is declared twice"));
        }
        self.func.outputs.push(Output { name, value });
        Ok(())
    }

    /// [`Builder::input`] of any domain, under `name` or, if that is taken, `name_1` and so on.
    ///
    /// Errors: a node was already added.
    pub fn fresh_input(&mut self, name: &str, ty: TensorType) -> Built {
        let name = free_name(name, |name| self.func.inputs.iter().any(|input| input.name.as_str() == name));
        self.input(name, ty, Domain::default())
    }

    /// [`Builder::output`] under `name` or, if that is taken, `name_1` and so on.
    pub fn fresh_output(&mut self, name: &str, value: ValueId) -> Result<(), String> {
        let name = free_name(name, |name| self.func.outputs.iter().any(|out| out.name.as_str() == name));
        self.output(name, value)
    }

    fn push_value(&mut self, ty: TensorType, def: Def, name: Option<Sym>) -> ValueId {
        self.func.values.push(Value { ty, def, name });
        ValueId(self.func.values.len() as u32 - 1)
    }

    /// Names a value for printing.
    pub fn name(&mut self, value: ValueId, name: impl Into<Sym>) {
        self.func.values[value.0 as usize].name = Some(name.into());
    }

    /// The type of `value`.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        self.func.ty(value)
    }

    /// The extent of `axis`; 0 if there is no such axis.
    pub fn dim(&self, value: ValueId, axis: usize) -> Dim {
        self.ty(value).shape.get(axis).cloned().unwrap_or_default()
    }

    /// Applies any op.
    ///
    /// Errors: a type rule that is not met, an attribute that is not of its kind.
    pub fn op(&mut self, op: Op, args: &[ValueId]) -> Result<Vec<ValueId>, String> {
        if op.attrs.len() != op.kind.attrs().len() {
            return Err(format!("`{}` has {} attributes", op.kind.name(), op.kind.attrs().len()));
        }
        for pos in 0..op.attrs.len() {
            infer::check_attr(self.module, &op, pos)?;
        }
        let types: Vec<TensorType> = args.iter().map(|arg| self.ty(*arg).clone()).collect();
        let result_types = infer::result_types(self.module, &op, &types)?;
        let node = self.func.nodes.len() as u32;
        let results: Vec<ValueId> = result_types
            .into_iter()
            .enumerate()
            .map(|(idx, ty)| self.push_value(ty, Def::Node { node, result: idx as u32 }, None))
            .collect();
        self.func.nodes.push(Node { op, args: args.to_vec(), results: results.clone(), span: self.span });
        Ok(results)
    }

    /// Applies an op of one result.
    ///
    /// Errors: as [`Builder::op`].
    pub fn op1(&mut self, op: Op, args: &[ValueId]) -> Built {
        self.op(op, args).map(|results| results[0])
    }

    /// Applies the op `kind` with those attributes.
    ///
    /// Errors: as [`Builder::op`].
    pub fn apply(&mut self, kind: OpKind, attrs: Vec<Attr>, args: &[ValueId]) -> Built {
        self.op1(Op::new(kind, attrs), args)
    }

    /// Writes `op` in smaller ops here, if it is a composite; applies it otherwise.
    ///
    /// Errors: as [`Builder::op`].
    pub fn expand(&mut self, op: &Op, args: &[ValueId]) -> Result<Vec<ValueId>, String> {
        match op.kind.expansion() {
            Some(expand) => {
                infer::check_operand_count(op, args.len())?;
                expand(self, args, op)
            }
            None => self.op(op.clone(), args),
        }
    }

    // ---- constants and elementwise ops ------------------------------------------------------------------------------

    /// A scalar constant.
    pub fn scalar(&mut self, dtype: DType, value: Scalar) -> Built {
        let value = match value {
            Scalar::Float(value) => Attr::Float(F64(value)),
            Scalar::Int(value) => Attr::Int(value),
            Scalar::Bool(value) => Attr::Bool(value),
        };
        self.apply(OpKind::Const, vec![value, Attr::DType(dtype)], &[])
    }

    /// A scalar constant from an attribute of another op: a literal or a parameter, taken as it is.
    ///
    /// Errors: `attr` is not a number.
    pub fn scalar_attr(&mut self, dtype: DType, op: &Op, attr: &str) -> Built {
        let value = op.attr(attr).cloned().ok_or_else(|| format!("`{}` needs `{attr}`", op.kind.name()))?;
        self.apply(OpKind::Const, vec![value, Attr::DType(dtype)], &[])
    }

    /// A float constant of the dtype of `like`.
    pub fn float_like(&mut self, like: ValueId, value: f64) -> Built {
        let dtype = self.ty(like).dtype;
        self.scalar(dtype, Scalar::Float(value))
    }

    /// An elementwise op, its operands broadcast to one shape.
    ///
    /// Errors: shapes that do not broadcast, dtypes that do not fit.
    pub fn elementwise(&mut self, op: ScalarOp, args: &[ValueId]) -> Built {
        let shape = self.common_shape(op.name(), args)?;
        let mut aligned = Vec::with_capacity(args.len());
        for arg in args {
            aligned.push(self.align(*arg, &shape)?);
        }
        self.op1(Op::scalar(op), &aligned)
    }

    fn common_shape(&self, name: &str, args: &[ValueId]) -> Result<Vec<Dim>, String> {
        let mut shape: Vec<Dim> = vec![];
        for arg in args {
            let other = &self.ty(*arg).shape;
            let rank = shape.len().max(other.len());
            let at = |shape: &[Dim], axis: usize| {
                (axis + shape.len()).checked_sub(rank).map(|pos| shape[pos].clone())
            };
            let mut merged = Vec::with_capacity(rank);
            for axis in 0..rank {
                merged.push(match (at(&shape, axis), at(other, axis)) {
                    (Some(a), Some(b)) if a == b || b.is_const(1) => a,
                    (Some(a), Some(b)) if a.is_const(1) => b,
                    (Some(a), None) => a,
                    (None, Some(b)) => b,
                    _ => {
                        let types: Vec<String> = args.iter().map(|arg| self.ty(*arg).to_string()).collect();
                        return Err(format!(
                            "the operands of `{name}` do not broadcast: {}",
                            types.join(", ")
                        ));
                    }
                });
            }
            shape = merged;
        }
        Ok(shape)
    }

    /// `value` broadcast to `shape`, aligned at the last axes; extents of 1 stretch.
    ///
    /// Errors: extents that do not fit.
    pub fn broadcast_to(&mut self, value: ValueId, shape: &[Dim]) -> Built {
        let own = &self.ty(value).shape;
        let fits = own.len() <= shape.len()
            && own.iter().rev().zip(shape.iter().rev()).all(|(own, dim)| own == dim || own.is_const(1));
        if !fits {
            let target = TensorType::new(self.ty(value).dtype, shape.to_vec());
            return Err(format!("{} does not broadcast to {target}", self.ty(value)));
        }
        self.align(value, shape)
    }

    /// `value` broadcast to `shape`, aligned at the last axes.
    fn align(&mut self, value: ValueId, shape: &[Dim]) -> Built {
        let own = self.ty(value).shape.clone();
        if own == shape {
            return Ok(value);
        }
        let lead = shape.len() - own.len();
        let kept: Vec<usize> = (0..own.len()).filter(|axis| own[*axis] == shape[lead + axis]).collect();
        let source = if kept.len() == own.len() {
            value
        } else {
            self.reshape(value, kept.iter().map(|axis| own[*axis].clone()).collect())?
        };
        let axes: Vec<usize> = kept.into_iter().map(|axis| lead + axis).collect();
        self.broadcast(source, shape.to_vec(), &axes)
    }

    /// `a + b`, broadcasting.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Built {
        self.elementwise(ScalarOp::Add, &[a, b])
    }

    /// `a - b`, broadcasting.
    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Built {
        self.elementwise(ScalarOp::Sub, &[a, b])
    }

    /// `a * b`, broadcasting.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Built {
        self.elementwise(ScalarOp::Mul, &[a, b])
    }

    /// `a / b`, broadcasting.
    pub fn div(&mut self, a: ValueId, b: ValueId) -> Built {
        self.elementwise(ScalarOp::Div, &[a, b])
    }

    /// The larger one, broadcasting.
    pub fn max(&mut self, a: ValueId, b: ValueId) -> Built {
        self.elementwise(ScalarOp::Max, &[a, b])
    }

    /// The smaller one, broadcasting.
    pub fn min(&mut self, a: ValueId, b: ValueId) -> Built {
        self.elementwise(ScalarOp::Min, &[a, b])
    }

    /// `a < b`, broadcasting.
    pub fn lt(&mut self, a: ValueId, b: ValueId) -> Built {
        self.elementwise(ScalarOp::Lt, &[a, b])
    }

    /// `a` where `condition`, else `b`, broadcasting.
    pub fn select(&mut self, condition: ValueId, a: ValueId, b: ValueId) -> Built {
        self.elementwise(ScalarOp::Select, &[condition, a, b])
    }

    /// A unary elementwise op.
    pub fn unary(&mut self, op: ScalarOp, x: ValueId) -> Built {
        self.op1(Op::scalar(op), &[x])
    }

    /// `x + c`.
    pub fn add_const(&mut self, x: ValueId, value: f64) -> Built {
        let constant = self.float_like(x, value)?;
        self.add(x, constant)
    }

    /// `x * c`.
    pub fn mul_const(&mut self, x: ValueId, value: f64) -> Built {
        let constant = self.float_like(x, value)?;
        self.mul(x, constant)
    }

    /// `x` converted to `dtype`, if it is of another.
    pub fn convert(&mut self, x: ValueId, dtype: DType) -> Built {
        if self.ty(x).dtype == dtype {
            return Ok(x);
        }
        self.apply(OpKind::Convert, vec![Attr::DType(dtype)], &[x])
    }

    // ---- movement ---------------------------------------------------------------------------------------------------

    /// See the op `broadcast`.
    pub fn broadcast(&mut self, x: ValueId, shape: Vec<Dim>, axes: &[usize]) -> Built {
        let axes = axes.iter().map(|axis| *axis as u32).collect();
        self.apply(OpKind::Broadcast, vec![Attr::Dims(shape), Attr::Axes(axes)], &[x])
    }

    /// `x` repeated along a new axis at `axis`.
    pub fn insert_axis(&mut self, x: ValueId, axis: usize, extent: Dim) -> Built {
        let mut shape = self.ty(x).shape.clone();
        if axis > shape.len() {
            return Err(format!("there is no place {axis} among {} axes", shape.len()));
        }
        shape.insert(axis, extent);
        let axes: Vec<usize> = (0..shape.len()).filter(|other| *other != axis).collect();
        self.broadcast(x, shape, &axes)
    }

    /// See the op `reshape`; `x` itself if it has that shape.
    pub fn reshape(&mut self, x: ValueId, shape: Vec<Dim>) -> Built {
        if self.ty(x).shape == shape {
            return Ok(x);
        }
        self.apply(OpKind::Reshape, vec![Attr::Dims(shape)], &[x])
    }

    /// See the op `transpose`.
    pub fn transpose(&mut self, x: ValueId, axes: &[usize]) -> Built {
        self.apply(OpKind::Transpose, vec![Attr::Axes(axes.iter().map(|axis| *axis as u32).collect())], &[x])
    }

    /// `x` with its last two axes exchanged.
    ///
    /// Errors: fewer than two axes.
    pub fn transpose_last(&mut self, x: ValueId) -> Built {
        let rank = self.ty(x).rank();
        if rank < 2 {
            return Err(format!("expected a matrix, found {}", self.ty(x)));
        }
        let mut axes: Vec<usize> = (0..rank).collect();
        axes.swap(rank - 1, rank - 2);
        self.transpose(x, &axes)
    }

    /// See the op `slice`.
    pub fn slice(&mut self, x: ValueId, axis: usize, start: Dim, end: Dim) -> Built {
        self.apply(OpKind::Slice, vec![Attr::Int(axis as i64), Attr::Dim(start), Attr::Dim(end)], &[x])
    }

    /// See the op `pad`.
    pub fn pad(&mut self, x: ValueId, value: ValueId, axis: usize, low: Dim, high: Dim) -> Built {
        self.apply(OpKind::Pad, vec![Attr::Int(axis as i64), Attr::Dim(low), Attr::Dim(high)], &[x, value])
    }

    /// See the op `iota`, in i64.
    pub fn iota(&mut self, shape: Vec<Dim>, axis: usize) -> Built {
        let attrs = vec![Attr::Dims(shape), Attr::Int(axis as i64), Attr::DType(DType::I64)];
        self.apply(OpKind::Iota, attrs, &[])
    }

    // ---- reductions and contractions --------------------------------------------------------------------------------

    /// A reduction (`kind` is one of the reduce ops) over `axes`.
    pub fn reduce(&mut self, kind: OpKind, x: ValueId, axes: &[usize]) -> Built {
        self.apply(kind, vec![Attr::Axes(axes.iter().map(|axis| *axis as u32).collect())], &[x])
    }

    /// Sum over `axes`.
    pub fn sum(&mut self, x: ValueId, axes: &[usize]) -> Built {
        self.reduce(OpKind::ReduceSum, x, axes)
    }

    /// A reduction over `axis`, repeated along it again.
    pub fn reduce_keep(&mut self, kind: OpKind, x: ValueId, axis: usize) -> Built {
        let extent = self.dim(x, axis);
        let reduced = self.reduce(kind, x, &[axis])?;
        self.insert_axis(reduced, axis, extent)
    }

    /// A contraction in einsum notation; accumulated and delivered in the compute type of the operands' dtype.
    pub fn contract(&mut self, spec: &str, args: &[ValueId]) -> Built {
        let dtype = args.first().map_or(DType::F32, |arg| self.ty(*arg).dtype.compute());
        self.contract_as(spec, dtype, args)
    }

    /// A contraction accumulated and delivered in `dtype`.
    pub fn contract_as(&mut self, spec: &str, dtype: DType, args: &[ValueId]) -> Built {
        let spec = Einsum::parse(spec)?;
        self.apply(OpKind::Contract, vec![Attr::Einsum(spec), Attr::DType(dtype)], args)
    }

    /// A loop; see the op. `rest` are the operands that stay the same.
    pub fn loop_op(
        &mut self,
        body: FuncId,
        trip: Attr,
        carry: &[ValueId],
        scan: &[ValueId],
        rest: &[ValueId],
    ) -> Result<Vec<ValueId>, String> {
        let attrs = vec![
            Attr::Func(body),
            trip,
            Attr::Int(carry.len() as i64),
            Attr::Int(scan.len() as i64),
            Attr::Bool(false),
        ];
        let args: Vec<ValueId> = carry.iter().chain(scan).chain(rest).copied().collect();
        self.op(Op::new(OpKind::Loop, attrs), &args)
    }
}

/// `name`, or the first of `name_1`, `name_2`, .. that is not taken.
fn free_name(name: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(name) {
        return name.to_string();
    }
    let mut number = 1;
    while taken(&format!("{name}_{number}")) {
        number += 1;
    }
    format!("{name}_{number}")
}

/// The types of a composite's results: those of its expansion, written in a scratch module.
///
/// Errors: those of the expansion.
pub fn types_by_expansion(module: &Module, op: &Op, args: &[TensorType]) -> Result<Vec<TensorType>, String> {
    // But for ops with a type rule of their own, an expansion refers to no function but those it appends.
    let mut scratch = Module { dims: module.dims.clone(), params: module.params.clone(), funcs: vec![] };
    let mut builder = Builder::new(&mut scratch, "");
    let mut values = Vec::with_capacity(args.len());
    for (idx, ty) in args.iter().enumerate() {
        values.push(builder.input(format!("arg{idx}"), ty.clone(), Domain::default())?);
    }
    let prefix = format!("`{}`", op.kind.name());
    let named = |why: String| if why.starts_with(&prefix) { why } else { format!("{prefix}: {why}") };
    let results = builder.expand(op, &values).map_err(named)?;
    Ok(results.iter().map(|result| builder.ty(*result).clone()).collect())
}
