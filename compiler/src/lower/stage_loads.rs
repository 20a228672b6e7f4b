//! What stages load for themselves: small arrays that would stay in registers from one stage to the next.
//!
//! In: a kernel for threads, in which what does not change is loaded once, before all loops. Out: the kernel with the floats that
//! are loaded outside its stages loaded again in each stage that needs them, and nowhere else. A thread has its registers for
//! the sums of a stage then, and the second load is served by a cache.
//!
//! Assumes that parameters do not overlap, so that what a kernel only reads does not change.

use birkhoff_ir::kernel::{Access, Block, ForKind, Func, Inst, Mem, Stmt, Var, VarInfo};
use std::collections::{BTreeMap, BTreeSet};

/// Moves loads into stages.
pub fn load_in_stages(func: &mut Func) {
    let mut loads = BTreeMap::new();
    collect(func, &func.body, &mut loads);
    if loads.is_empty() {
        return;
    }
    let mut body = std::mem::take(&mut func.body);
    let mut needed = BTreeSet::new();
    rewrite(func, &mut body, &loads, &mut needed);
    remove(&mut body, &|var| loads.contains_key(&var) && !needed.contains(&var));
    func.body = body;
}

/// Loads of floats outside stages and lane loops.
fn collect(func: &Func, block: &Block, loads: &mut BTreeMap<Var, Inst>) {
    for stmt in block {
        match stmt {
            Stmt::Let(var, inst @ Inst::Load(Mem::Param(id), _))
                if func.params[id.0 as usize].access == Access::Read && func.dtype(*var).is_float() =>
            {
                loads.insert(*var, inst.clone());
            }
            Stmt::For(inner) if inner.kind == ForKind::Seq => {
                collect(func, &inner.body, loads);
            }
            _ => {}
        }
    }
}

/// Gives every stage its own loads, and notes what is needed outside.
fn rewrite(func: &mut Func, block: &mut Block, loads: &BTreeMap<Var, Inst>, needed: &mut BTreeSet<Var>) {
    for stmt in block {
        match stmt {
            Stmt::Stage(_, body) => {
                let mut used = BTreeSet::new();
                each_use(body, &mut |var| {
                    used.insert(*var);
                });
                let used: Vec<Var> = used.into_iter().filter(|var| loads.contains_key(var)).collect();
                let mut names = BTreeMap::new();
                let mut own = vec![];
                for var in used {
                    func.vars.push(VarInfo { dtype: func.dtype(var), name: None });
                    let name = Var(func.vars.len() as u32 - 1);
                    own.push(Stmt::Let(name, loads[&var].clone()));
                    names.insert(var, name);
                }
                each_use(body, &mut |var| *var = names.get(var).copied().unwrap_or(*var));
                own.append(body);
                *body = own;
            }
            Stmt::For(inner) => rewrite(func, &mut inner.body, loads, needed),
            other => each_use(std::slice::from_mut(other), &mut |var| {
                needed.insert(*var);
            }),
        }
    }
}

fn remove(block: &mut Block, is_gone: &dyn Fn(Var) -> bool) {
    block.retain(|stmt| !matches!(stmt, Stmt::Let(var, _) if is_gone(*var)));
    for stmt in block {
        if let Stmt::For(inner) = stmt {
            remove(&mut inner.body, is_gone);
        }
    }
}

/// Calls `visit` for every variable that is computed with, stored or accumulated. Floats are in no index.
fn each_use(block: &mut [Stmt], visit: &mut dyn FnMut(&mut Var)) {
    for stmt in block {
        match stmt {
            Stmt::Let(_, inst) => match inst {
                Inst::Scalar(_, args) => args.iter_mut().for_each(&mut *visit),
                Inst::Fma(a, b, c) => [a, b, c].into_iter().for_each(&mut *visit),
                Inst::Convert(arg) | Inst::Bitcast(arg) | Inst::Round(_, arg) => visit(arg),
                Inst::Const(_) | Inst::Index(_) | Inst::Load(..) => {}
            },
            Stmt::Store { value, .. } => visit(value),
            Stmt::Accum { args, .. } => args.iter_mut().for_each(&mut *visit),
            Stmt::For(inner) => each_use(&mut inner.body, visit),
            Stmt::Stage(_, body) => each_use(body, visit),
            Stmt::Decl(_) => {}
        }
    }
}
