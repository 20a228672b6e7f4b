//! How much arithmetic a loop body is, roughly, before anything is optimised.
//!
//! In: a body over primitives. Out: a number of additions, at default sizes. It is for telling early that a rewrite cannot pay,
//! which would else take lowering both; choosing between programs is for a cost model.

use crate::cost::{elements, op_flops, scalar_weight, size_of};
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::scalar::ScalarOp;
use birkhoff_ir::tensor::{Func, Module, Node, OpKind};

/// The arithmetic of one call, loops included.
pub fn work(module: &Module, func: &Func, sizes: &SizeEnv) -> f64 {
    func.nodes.iter().map(|node| of_node(module, func, node, sizes)).sum()
}

fn of_node(module: &Module, func: &Func, node: &Node, sizes: &SizeEnv) -> f64 {
    let args: Vec<f64> = node.args.iter().map(|arg| elements(func.ty(*arg), sizes)).collect();
    let result: f64 = node.results.iter().map(|result| elements(func.ty(*result), sizes)).sum();
    match node.op.kind {
        // What is repeated is inverted once.
        OpKind::Scalar(ScalarOp::Div) => {
            result + scalar_weight(ScalarOp::Recip) * unrepeated(func, node, sizes)
        }
        // A product and a sum are one operation.
        OpKind::Contract => joint(func, node, sizes) * args.len().saturating_sub(1).max(1) as f64,
        _ => match node.op.body() {
            Some(body) => {
                let trip = node.op.dim(module, "trip").map_or(1.0, |trip| size_of(&trip, sizes));
                trip * work(module, module.func(body), sizes)
            }
            None => op_flops(node.op.kind, result, &args, result),
        },
    }
}

/// The number of elements of the last operand before it was repeated.
fn unrepeated(func: &Func, node: &Node, sizes: &SizeEnv) -> f64 {
    let Some(mut value) = node.args.last().copied() else { return 0.0 };
    while let Some((def, _)) = func.def(value)
        && matches!(def.op.kind, OpKind::Broadcast | OpKind::Reshape)
        && let Some(source) = def.args.first()
    {
        value = *source;
    }
    elements(func.ty(value), sizes)
}

/// The product of all extents of a contraction.
fn joint(func: &Func, node: &Node, sizes: &SizeEnv) -> f64 {
    let Some(spec) = node.op.einsum() else { return 0.0 };
    let mut seen: Vec<char> = vec![];
    let mut product = 1.0;
    for (labels, arg) in spec.inputs.iter().zip(&node.args) {
        for (label, dim) in labels.iter().zip(&func.ty(*arg).shape) {
            if !seen.contains(label) {
                seen.push(*label);
                product *= size_of(dim, sizes);
            }
        }
    }
    product
}
