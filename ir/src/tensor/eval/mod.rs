//! The evaluator: what every op means, in numbers.
//!
//! In: a bound module, a function, sizes of run-time dims, input tensors. Out: its outputs. Slow and obvious: elementwise ops
//! are [`crate::scalar::eval`] at every element, rounded to the dtype (bf16 and f16 at every op); sums have one order and are
//! rounded at every step (`reduce.rs`); composites are their expansions; loops run.
//! Assumes that the module verifies; sizes are checked here, because run-time sizes are known only here.

mod linalg;
mod movement;
mod reduce;
mod tensor;

pub use tensor::{Data, MAX_ELEMS, Tensor, n_elems};

use super::build::Builder;
use super::random::{counter, threefry};
use super::{Domain, Func, FuncId, Module, Node, Op, OpKind, TensorType, ValueId};
use crate::diag::{Diagnostic, Span};
use crate::dim::{Dim, SizeEnv};
use crate::dtype::DType;
use crate::scalar::{self, Scalar, ScalarOp};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Runs `func` of `module` on `inputs`, one per argument and in their order.
///
/// Errors: inputs that do not fit the signature under `sizes`, a dim without a size, a tensor that is too large, a slice or
/// gather that its run-time sizes make impossible.
pub fn eval(
    module: &Module,
    func: FuncId,
    sizes: &SizeEnv,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>, Diagnostic> {
    let Some(func) = module.funcs.get(func.0 as usize) else {
        return Err(Diagnostic::input(Span::NONE, format!("there is no function number {}", func.0)));
    };
    if inputs.len() != func.inputs.len() {
        let message = format!("@{} takes {} inputs, found {}", func.name, func.inputs.len(), inputs.len());
        return Err(Diagnostic::input(func.span, message));
    }
    let mut evaluator = Evaluator { sizes, expansions: BTreeMap::new() };
    for ((input, value), tensor) in func.inputs.iter().zip(func.input_values()).zip(inputs) {
        let ty = func.ty(value);
        let shape = evaluator.shape(&ty.shape).map_err(|why| Diagnostic::input(input.span, why))?;
        if tensor.dtype() != ty.dtype || tensor.shape() != shape {
            let message = format!(
                "the input `{}` must be {ty} of shape {shape:?}, found {} of shape {:?}",
                input.name,
                tensor.dtype(),
                tensor.shape()
            );
            return Err(Diagnostic::input(input.span, message));
        }
    }
    let outputs = evaluator.func(module, func, inputs.iter().cloned().map(Rc::new).collect())?;
    Ok(outputs.into_iter().map(Rc::unwrap_or_clone).collect())
}

/// A composite's expansion as a function of its operands, in a module of its own.
type Expansion = Rc<(Module, FuncId)>;

struct Evaluator<'s> {
    sizes: &'s SizeEnv,
    /// A loop meets the same composite at every iteration.
    expansions: BTreeMap<(Op, Vec<TensorType>), Expansion>,
}

impl Evaluator<'_> {
    /// The outputs of `func`, a function of `module`.
    fn func(
        &mut self,
        module: &Module,
        func: &Func,
        inputs: Vec<Rc<Tensor>>,
    ) -> Result<Vec<Rc<Tensor>>, Diagnostic> {
        let mut values: Vec<Option<Rc<Tensor>>> = inputs.into_iter().map(Some).collect();
        values.resize(func.values.len(), None);
        let mut uses_left = func.n_uses();
        for node in &func.nodes {
            let args: Vec<Rc<Tensor>> =
                node.args.iter().filter_map(|arg| values[arg.0 as usize].clone()).collect();
            let results = self.node(module, func, node, &args)?;
            for arg in &node.args {
                let left = &mut uses_left[arg.0 as usize];
                *left -= 1;
                if *left == 0 {
                    values[arg.0 as usize] = None;
                }
            }
            for (value, result) in node.results.iter().zip(results) {
                values[value.0 as usize] = Some(result);
            }
        }
        let defined = |value: ValueId| values[value.0 as usize].clone();
        let outputs: Option<Vec<_>> = func.outputs.iter().map(|out| defined(out.value)).collect();
        outputs
            .ok_or_else(|| Diagnostic::verify(format!("@{} returns a value that nothing defines", func.name)))
    }

    fn node(
        &mut self,
        module: &Module,
        func: &Func,
        node: &Node,
        args: &[Rc<Tensor>],
    ) -> Result<Vec<Rc<Tensor>>, Diagnostic> {
        let at = |why: String| {
            let name = node.op.kind.name();
            Diagnostic::input(node.span, format!("`{name}` in @{}: {why}", func.name))
        };
        if args.len() != node.args.len() {
            return Err(Diagnostic::verify(format!("@{} uses a value before its definition", func.name)));
        }
        if node.op.kind.is_composite() {
            let types: Vec<TensorType> = node.args.iter().map(|arg| func.ty(*arg).clone()).collect();
            let expansion = self.expansion(module, &node.op, &types).map_err(at)?;
            let (inner, id) = &*expansion;
            return self.func(inner, inner.func(*id), args.to_vec());
        }
        let shapes = node.results.iter().map(|result| self.shape(&func.ty(*result).shape));
        let shapes: Vec<Vec<usize>> = shapes.collect::<Result<_, _>>().map_err(at)?;
        if node.op.kind == OpKind::Loop {
            return self.run_loop(module, func, node, args, &shapes);
        }
        let refs: Vec<&Tensor> = args.iter().map(Rc::as_ref).collect();
        let results = self.primitive(module, func, node, &refs, &shapes).map_err(at)?;
        for ((result, value), shape) in results.iter().zip(&node.results).zip(&shapes) {
            let ty = func.ty(*value);
            if result.dtype() != ty.dtype || result.shape() != shape {
                return Err(at(format!("expected {ty}, found {} {:?}", result.dtype(), result.shape())));
            }
        }
        Ok(results.into_iter().map(Rc::new).collect())
    }

    /// The extents of a shape. Errors: a dim without a size, a negative extent.
    fn shape(&self, shape: &[Dim]) -> Result<Vec<usize>, String> {
        shape.iter().map(|dim| self.extent(dim)).collect()
    }

    fn extent(&self, dim: &Dim) -> Result<usize, String> {
        let value = dim.eval(self.sizes).map_err(|error| error.to_string())?;
        usize::try_from(value).map_err(|_| format!("the size {dim} is {value}, which is negative"))
    }

    fn expansion(&mut self, module: &Module, op: &Op, types: &[TensorType]) -> Result<Expansion, String> {
        let key = (op.clone(), types.to_vec());
        if let Some(known) = self.expansions.get(&key) {
            return Ok(known.clone());
        }
        // Only an op that names a function refers to any but those that its expansion appends.
        let funcs = if op.body().is_some() { module.funcs.clone() } else { vec![] };
        let mut inner = Module { dims: module.dims.clone(), params: module.params.clone(), funcs };
        let mut builder = Builder::new(&mut inner, op.kind.name());
        let mut values = Vec::with_capacity(types.len());
        for (idx, ty) in types.iter().enumerate() {
            values.push(builder.input(format!("arg{idx}"), ty.clone(), Domain::default())?);
        }
        for (idx, result) in builder.expand(op, &values)?.into_iter().enumerate() {
            builder.output(format!("out{idx}"), result)?;
        }
        let id = builder.finish();
        let expansion = Rc::new((inner, id));
        self.expansions.insert(key, expansion.clone());
        Ok(expansion)
    }

    fn run_loop(
        &mut self,
        module: &Module,
        func: &Func,
        node: &Node,
        args: &[Rc<Tensor>],
        shapes: &[Vec<usize>],
    ) -> Result<Vec<Rc<Tensor>>, Diagnostic> {
        let at = |why: String| Diagnostic::input(node.span, format!("`loop` in @{}: {why}", func.name));
        let op = &node.op;
        let (carry, scan) = op.loop_counts(module).map_err(at)?;
        let trip = op.dim(module, "trip").and_then(|dim| self.extent(&dim)).map_err(at)?;
        let reverse = op.flag(module, "reverse").map_err(at)?;
        let body = op.body().and_then(|id| module.funcs.get(id.0 as usize));
        let body = body.ok_or_else(|| at("there is no body".into()))?;
        let mut state = args[..carry].to_vec();
        let mut stacks: Vec<Vec<Rc<Tensor>>> = vec![vec![]; node.results.len() - carry];
        for iteration in 0..trip {
            let place = if reverse { trip - 1 - iteration } else { iteration };
            let mut inputs = state;
            for scanned in &args[carry..carry + scan] {
                inputs.push(Rc::new(movement::leading(scanned, place).map_err(at)?));
            }
            inputs.extend(args[carry + scan..].iter().cloned());
            let mut outputs = self.func(module, body, inputs)?;
            for (stack, slice) in stacks.iter_mut().zip(outputs.drain(carry..)) {
                stack.push(slice);
            }
            state = outputs;
        }
        for (stack, (value, shape)) in stacks.iter_mut().zip(node.results.iter().zip(shapes).skip(carry)) {
            if reverse {
                stack.reverse();
            }
            let stacked = movement::stack(stack, func.ty(*value).dtype, shape.clone()).map_err(at)?;
            state.push(Rc::new(stacked));
        }
        Ok(state)
    }

    fn primitive(
        &self,
        module: &Module,
        func: &Func,
        node: &Node,
        args: &[&Tensor],
        shapes: &[Vec<usize>],
    ) -> Result<Vec<Tensor>, String> {
        let op = &node.op;
        let shape = shapes[0].clone();
        let dtype = func.ty(node.results[0]).dtype;
        let axis = || op.axis(module, args.first().map_or(shape.len(), |arg| arg.shape().len()));
        let result = match op.kind {
            OpKind::Scalar(scalar) => elementwise(scalar, dtype, args, shape),
            OpKind::Const => Ok(Tensor::scalar(dtype, op.number(module, "value")?)),
            OpKind::Iota => iota(dtype, shape.clone(), axis()?),
            OpKind::RandomBits => random_bits(args[0], shape),
            OpKind::Convert => {
                Tensor::from_scalars(dtype, shape, (0..args[0].len()).map(|idx| args[0].get(idx)))
            }
            OpKind::StopGradient => Ok(args[0].clone()),
            OpKind::Broadcast => movement::broadcast(args[0], shape, op.axes("axes")),
            OpKind::Reshape => movement::reshape(args[0], shape),
            OpKind::Transpose => movement::transpose(args[0], shape, op.axes("axes")),
            OpKind::Slice => {
                movement::slice(args[0], shape.clone(), axis()?, self.extent(&op.dim(module, "start")?)?)
            }
            OpKind::Pad => {
                let low = self.extent(&op.dim(module, "low")?)?;
                movement::pad(args[0], args[1], shape.clone(), axis()?, low)
            }
            OpKind::Concat => movement::concat(args, shape.clone(), axis()?),
            OpKind::Gather => movement::gather(args[0], args[1], shape.clone(), axis()?),
            OpKind::ReduceSum | OpKind::ReduceProd | OpKind::ReduceMax | OpKind::ReduceMin => {
                reduce::reduce(op.kind, args[0], shape, op.axes("axes"))
            }
            OpKind::Contract => reduce::contract(op.einsum().ok_or("there is no spec")?, dtype, args, shape),
            OpKind::Solve => linalg::solve(args[0], args[1]),
            OpKind::Qr => return linalg::qr(args[0]).map(|(q, r)| vec![q, r]),
            other => Err(format!("`{}` is no primitive", other.name())),
        };
        result.map(|tensor| vec![tensor])
    }
}

/// `op` at every element; the operands have one shape.
fn elementwise(op: ScalarOp, dtype: DType, args: &[&Tensor], shape: Vec<usize>) -> Result<Tensor, String> {
    // Comparisons compute in the dtype of what they compare; the others in that of their result.
    let compute = if op.class() == scalar::ScalarClass::Compare { args[0].dtype() } else { dtype };
    let mut operands: Vec<Scalar> = Vec::with_capacity(args.len());
    let values = (0..args[0].len()).map(|idx| {
        operands.clear();
        operands.extend(args.iter().map(|arg| arg.get(idx)));
        scalar::eval(op, compute, &operands)
    });
    Tensor::from_scalars(dtype, shape, values)
}

/// See the op `iota`.
fn iota(dtype: DType, shape: Vec<usize>, axis: usize) -> Result<Tensor, String> {
    let count = n_elems(&shape)?;
    let stride = movement::strides(&shape)[axis];
    let values = (0..count).map(|idx| Scalar::Int((idx / stride % shape[axis]) as i64));
    let values: Vec<Scalar> = values.collect();
    Tensor::from_scalars(dtype, shape, values.into_iter())
}

/// See the op `random_bits`.
fn random_bits(key: &Tensor, shape: Vec<usize>) -> Result<Tensor, String> {
    let words = [key.get(0).as_i64() as u32, key.get(1).as_i64() as u32];
    let bits = (0..n_elems(&shape)?).map(|idx| i64::from(threefry(words, counter(idx as u64))[0] as i32));
    let bits = Data::Int(bits.collect());
    Tensor::new(DType::I32, shape, bits)
}
