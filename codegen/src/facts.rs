//! What a back end for processors asks of a kernel before it emits it.
//!
//! In: a verified kernel, or a part of one. Out: which register arrays have to be addressed at run time, which variables an
//! emission of a block does not know, the operands of an instruction, the bits of a constant. Knows no code generator.

use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{ForKind, Func, GridAxis, Index, Inst, LocalId, Mem, Stmt, Var};
use birkhoff_ir::scalar::Scalar;
use std::collections::BTreeSet;

/// The bits of `value` as an element of `dtype` in a register.
pub(crate) fn scalar_bits(dtype: DType, value: Scalar) -> u64 {
    match dtype {
        DType::F64 => value.as_f64().to_bits(),
        DType::F32 | DType::Bf16 | DType::F16 => u64::from((value.as_f64() as f32).to_bits()),
        DType::I64 => value.as_i64() as u64,
        DType::I32 => u64::from(value.as_i64() as i32 as u32),
        DType::Bool => u64::from(value.as_bool()),
    }
}

/// The same bits as another type of equal width.
pub(crate) fn cast_const(value: Scalar, from: DType, to: DType) -> Scalar {
    let bits = scalar_bits(from, value);
    match to {
        DType::F64 => Scalar::Float(f64::from_bits(bits)),
        DType::F32 => Scalar::Float(f64::from(f32::from_bits(bits as u32))),
        DType::I32 => Scalar::Int(i64::from(bits as u32 as i32)),
        _ => Scalar::Int(bits as i64),
    }
}

/// Register arrays that a block indexes by `var` on their lane axis.
pub(crate) fn collect_lane_indexed(func: &Func, block: &[Stmt], var: Var, found: &mut BTreeSet<LocalId>) {
    let by_lane = |mem: &Mem, index: &[Index]| {
        let Mem::Local(id) = mem else { return None };
        let (axis, _) = func.locals[id.0 as usize].lane_axis?;
        index.get(axis as usize).is_some_and(|index| !index.coeff(var).is_const(0)).then_some(*id)
    };
    for stmt in block {
        match stmt {
            Stmt::Let(_, Inst::Load(mem, index))
            | Stmt::Store { mem, index, .. }
            | Stmt::Accum { mem, index, .. } => found.extend(by_lane(mem, index)),
            Stmt::For(inner) => collect_lane_indexed(func, &inner.body, var, found),
            Stmt::Stage(_, body) => collect_lane_indexed(func, body, var, found),
            Stmt::Let(..) | Stmt::Decl(_) => {}
        }
    }
}

/// Register arrays that some lane loop with bounds known only at run time indexes: they live in stack memory.
pub(crate) fn needing_memory(func: &Func) -> BTreeSet<LocalId> {
    let whole =
        |axis: &&GridAxis| axis.extent.as_const().is_some_and(|extent| extent % i64::from(axis.tile) == 0);
    let mut constants: BTreeSet<Var> = func.grid.iter().filter(whole).map(|axis| axis.count).collect();
    let mut found = BTreeSet::new();
    collect_needing_memory(func, &func.body, &mut constants, &mut found);
    found
}

fn collect_needing_memory(
    func: &Func,
    block: &[Stmt],
    constants: &mut BTreeSet<Var>,
    found: &mut BTreeSet<LocalId>,
) {
    for stmt in block {
        match stmt {
            Stmt::For(inner) => {
                let known = |index: &Index| {
                    let constant =
                        |(var, coeff): &(Var, Dim)| constants.contains(var) && coeff.as_const().is_some();
                    index.offset.as_const().is_some() && index.terms.iter().all(constant)
                };
                let bounded = known(&inner.start) && known(&inner.end);
                match inner.kind {
                    ForKind::Lanes { .. } if !bounded => {
                        collect_lane_indexed(func, &inner.body, inner.var, found);
                    }
                    ForKind::Unroll => {
                        constants.insert(inner.var);
                    }
                    ForKind::Lanes { .. } | ForKind::Seq => {}
                }
                collect_needing_memory(func, &inner.body, constants, found);
            }
            Stmt::Stage(_, body) => collect_needing_memory(func, body, constants, found),
            Stmt::Let(..) | Stmt::Store { .. } | Stmt::Accum { .. } | Stmt::Decl(_) => {}
        }
    }
}

/// Variables that a block defines and that are not constants in each of its emissions.
pub(crate) fn collect_defined(block: &[Stmt], defined: &mut BTreeSet<Var>) {
    for stmt in block {
        match stmt {
            Stmt::Let(var, _) => {
                defined.insert(*var);
            }
            Stmt::For(inner) => {
                if inner.kind != ForKind::Unroll {
                    defined.insert(inner.var);
                }
                collect_defined(&inner.body, defined);
            }
            Stmt::Stage(_, body) => collect_defined(body, defined),
            Stmt::Store { .. } | Stmt::Accum { .. } | Stmt::Decl(_) => {}
        }
    }
}
