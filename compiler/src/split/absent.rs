//! A backward function for the case that some cotangents are zero.
//!
//! In: a function that is linear in its cotangents. Out: the same without those arguments. A value that depends on cotangents
//! only through absent ones is zero, because every step on the way is linear; a sum with such a value is the other term.

use super::{depending, without_unread_results};
use crate::expand::expand;
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use birkhoff_ir::tensor::build::Builder;
use birkhoff_ir::tensor::inline::without_inputs;
use birkhoff_ir::tensor::{Func, FuncId, Module, Op, ValueId};

/// The function without the cotangents whose names `is_absent` holds for. Cotangents are the arguments `ct.*`.
///
/// Errors: none that a verified function has.
pub fn without_cotangents(
    module: &Module,
    func: FuncId,
    is_absent: &dyn Fn(&str) -> bool,
) -> Result<(Module, FuncId), String> {
    let mut module = module.clone();
    let source = module.func(func).clone();
    let is_cotangent = |pos: usize| source.inputs[pos].name.starts_with("ct.");
    let goes = |pos: usize| is_cotangent(pos) && is_absent(&source.inputs[pos].name);
    let (absent, present) =
        (depending(&source, goes), depending(&source, |pos| is_cotangent(pos) && !goes(pos)));
    let is_zero = |value: ValueId| absent[value.0 as usize] && !present[value.0 as usize];
    let n_inputs = source.inputs.len();
    let values = source.values[..n_inputs].to_vec();
    let shell = Func { nodes: vec![], outputs: vec![], values, ..source.clone() };
    let mut b = Builder::resume(&mut module, shell);
    let mut map: Vec<Option<ValueId>> = vec![None; source.values.len()];
    for pos in (0..n_inputs).filter(|pos| !goes(*pos)) {
        map[pos] = Some(ValueId(pos as u32));
    }
    let at = |b: &mut Builder<'_>, map: &mut Vec<Option<ValueId>>, value: ValueId| match map[value.0 as usize]
    {
        Some(known) => Ok(known),
        None => {
            let zero = zeros(b, &source, value)?;
            map[value.0 as usize] = Some(zero);
            Ok::<ValueId, String>(zero)
        }
    };
    for node in source.nodes.iter().filter(|node| !node.results.iter().all(|result| is_zero(*result))) {
        b.set_span(node.span);
        let term = (node.op == Op::scalar(ScalarOp::Add))
            .then(|| node.args.iter().find(|arg| is_zero(**arg)))
            .flatten()
            .and_then(|zero| node.args.iter().find(|arg| *arg != zero));
        if let Some(term) = term {
            let term = at(&mut b, &mut map, *term)?;
            map[node.results[0].0 as usize] = Some(term);
            continue;
        }
        let args = node.args.iter().map(|arg| at(&mut b, &mut map, *arg)).collect::<Result<Vec<_>, _>>()?;
        for (old, new) in node.results.iter().zip(b.op(node.op.clone(), &args)?) {
            map[old.0 as usize] = Some(new);
            if let Some(name) = &source.values[old.0 as usize].name {
                b.name(new, name.clone());
            }
        }
    }
    for out in &source.outputs {
        let value = at(&mut b, &mut map, out.value)?;
        b.output(out.name.clone(), value)?;
    }
    let written = b.into_func();
    let slim = without_unread_results(&mut module, &written);
    let keep: Vec<bool> = (0..n_inputs).map(|pos| !goes(pos)).collect();
    module.funcs.push(without_inputs(&slim, &keep));
    let id = FuncId(module.funcs.len() as u32 - 1);
    expand(&module, id)
}

fn zeros(b: &mut Builder<'_>, source: &Func, value: ValueId) -> Result<ValueId, String> {
    let ty = source.ty(value).clone();
    let zero = b.scalar(ty.dtype, Scalar::Float(0.0))?;
    if ty.rank() == 0 { Ok(zero) } else { b.broadcast(zero, ty.shape.clone(), &[]) }
}
