//! Sizes that no memory has, refused before any pass computes with them.

use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::tensor::{Def, DimKind, FuncId, Module, TensorType};

/// No tensor has more bytes than a processor can address: sizes beyond that are mistakes, and arithmetic on them overflows.
const MAX_TENSOR_BYTES: i64 = 1 << 47;

/// Refuses tensors that are too large at the smallest run-time sizes: the first one of `func` and of each loop body.
pub(crate) fn check_sizes(module: &Module, func: FuncId) -> Result<(), Diagnostics> {
    let smallest = module.dims.iter().filter_map(|decl| match decl.kind {
        DimKind::RunTime { lo, .. } => Some((decl.name.clone(), lo)),
        DimKind::Static(_) => None,
    });
    let smallest: SizeEnv = smallest.collect();
    let is_too_large = |ty: &TensorType| {
        let extents = ty.shape.iter().map(|dim| dim.eval(&smallest));
        let bytes = extents.into_iter().try_fold(ty.dtype.size_bytes() as i64, |bytes, extent| {
            extent.ok().and_then(|extent| bytes.checked_mul(extent))
        });
        bytes.is_none_or(|bytes| bytes > MAX_TENSOR_BYTES)
    };
    let mut errors = Vec::new();
    let others = module.funcs.iter().filter(|func| !func.exported);
    for func in std::iter::once(module.func(func)).chain(others) {
        let Some(value) = func.values.iter().find(|value| is_too_large(&value.ty)) else { continue };
        let span = match value.def {
            Def::Input(idx) => func.inputs.get(idx as usize).map_or(func.span, |input| input.span),
            Def::Node { node, .. } => func.nodes.get(node as usize).map_or(func.span, |node| node.span),
        };
        let message =
            format!("a tensor of `{}` is {}, which has more bytes than memory has", func.name, value.ty);
        errors.push(Diagnostic::input(span, message).help("use smaller sizes"));
    }
    Diagnostics(errors).into_result(())
}
