//! Writes ops out: derivatives, which come first, or all composites; and drops what no output needs.
//!
//! In: a bound module. Out: one of its functions with the loop bodies it uses, and nothing else. Assumes the module verifies;
//! changes no meaning, reorders nothing.

use birkhoff_ir::tensor::inline::{live, write_out};
use birkhoff_ir::tensor::{Attr, FuncId, Module, OpKind};
use std::collections::BTreeMap;

/// Expands every composite of `func` and of the loop bodies it uses, into a module that holds just these.
///
/// Returns the module and the function's place in it.
///
/// Errors: an expansion that refuses its operands (a verified module has none).
pub fn expand(module: &Module, func: FuncId) -> Result<(Module, FuncId), String> {
    write(module, func, &|_| true)
}

/// Writes out the ops `jvp` and `vjp` of `func` and of the loop bodies it uses; other composites stay. `stop_gradient` has
/// done its work in what this returns.
///
/// Returns the module and the function's place in it.
///
/// Errors: as [`expand`].
pub fn differentiate(module: &Module, func: FuncId) -> Result<(Module, FuncId), String> {
    write(module, func, &|kind| matches!(kind, OpKind::Jvp | OpKind::Vjp))
}

fn write(module: &Module, func: FuncId, opens: &dyn Fn(OpKind) -> bool) -> Result<(Module, FuncId), String> {
    let mut target = Module { dims: module.dims.clone(), params: module.params.clone(), funcs: vec![] };
    let mut scratch = module.clone();
    let id = write_func(&mut scratch, func, opens, &mut target, &mut BTreeMap::new())?;
    Ok((target, id))
}

fn write_func(
    source: &mut Module,
    id: FuncId,
    opens: &dyn Fn(OpKind) -> bool,
    target: &mut Module,
    done: &mut BTreeMap<FuncId, FuncId>,
) -> Result<FuncId, String> {
    if let Some(known) = done.get(&id) {
        return Ok(*known);
    }
    let func = source.func(id).clone();
    let mut written = live(&write_out(source, &func, opens)?);
    for node in &mut written.nodes {
        if node.op.kind == OpKind::Loop
            && let Some(body) = node.op.body()
        {
            let body = write_func(source, body, opens, target, done)?;
            node.op.attrs[0] = Attr::Func(body);
        }
    }
    target.funcs.push(written);
    let new_id = FuncId(target.funcs.len() as u32 - 1);
    done.insert(id, new_id);
    Ok(new_id)
}
