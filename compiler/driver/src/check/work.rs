//! How much a check would compute, before it does.
//!
//! In: a bound function and its sizes. Out: the number of elements that one evaluation computes, terms of contractions and
//! iterations of loops counted; `u64::MAX` where it cannot be told. Composites count as their results, which is a lower bound.

use birkhoff_ir::dim::{Dim, SizeEnv};
use birkhoff_ir::tensor::{Func, FuncId, Module, Node, OpKind};
use std::collections::{BTreeMap, BTreeSet};

/// Elements that one evaluation of `func` computes.
pub fn elements(module: &Module, func: FuncId, sizes: &SizeEnv) -> u64 {
    module.funcs.get(func.0 as usize).map_or(0, |func| of_func(module, func, sizes))
}

fn of_func(module: &Module, func: &Func, sizes: &SizeEnv) -> u64 {
    func.nodes.iter().fold(0u64, |sum, node| sum.saturating_add(of_node(module, func, node, sizes)))
}

fn of_node(module: &Module, func: &Func, node: &Node, sizes: &SizeEnv) -> u64 {
    let results = node.results.iter().map(|result| product(&func.ty(*result).shape, sizes));
    let results = results.fold(1u64, u64::saturating_add);
    match node.op.kind {
        OpKind::Loop => {
            let trip = node.op.dim(module, "trip").ok().and_then(|trip| trip.eval(sizes).ok());
            let trip = trip.and_then(|trip| u64::try_from(trip).ok()).unwrap_or(u64::MAX);
            let body = node.op.body().and_then(|id| module.funcs.get(id.0 as usize));
            let body = body.map_or(0, |body| of_func(module, body, sizes));
            body.max(1).saturating_mul(trip).saturating_add(results)
        }
        OpKind::Contract => {
            let mut extents: BTreeMap<char, Dim> = BTreeMap::new();
            let labels = node.op.einsum().map(|spec| spec.inputs.clone()).unwrap_or_default();
            for (labels, arg) in labels.iter().zip(&node.args) {
                extents.extend(labels.iter().copied().zip(func.ty(*arg).shape.iter().cloned()));
            }
            product(&extents.into_values().collect::<Vec<_>>(), sizes).max(results)
        }
        // Factorisations take a row per row and column.
        OpKind::Solve | OpKind::Qr => {
            let shape = &func.ty(node.args[0]).shape;
            let rows = shape.last().map_or(1, |extent| product(std::slice::from_ref(extent), sizes));
            product(shape, sizes).saturating_mul(rows)
        }
        _ => {
            let args: BTreeSet<_> = node.args.iter().collect();
            let args = args.into_iter().map(|arg| product(&func.ty(*arg).shape, sizes));
            // Reductions compute with what they read.
            args.max().unwrap_or(0).max(results)
        }
    }
}

fn product(shape: &[Dim], sizes: &SizeEnv) -> u64 {
    let extents = shape.iter().map(|dim| dim.eval(sizes).ok().and_then(|extent| u64::try_from(extent).ok()));
    extents.fold(1, |product: u64, extent| product.saturating_mul(extent.unwrap_or(u64::MAX)))
}
