//! The form in which equal texts are equal kernels: variables numbered in print order, loop names unique in scope.

use crate::dim::Sym;
use crate::dtype::DType;
use crate::kernel::{Block, For, Func, Index, Inst, Stmt, Var, VarInfo};
use crate::text::is_ident;

/// `func` with its variables renumbered in the order in which its text defines them.
///
/// Grid variables come first. Values lose their names, unused variables disappear, and a loop variable whose name is taken
/// by a size or a variable around it gets a number appended. Total: a variable that is used but never defined is kept.
pub fn canonical(func: &Func) -> Func {
    let mut renumber = Renumber { func, map: vec![None; func.vars.len()], vars: vec![], scope: vec![] };
    let mut grid = func.grid.clone();
    for axis in &mut grid {
        axis.base = renumber.define_named(axis.base);
        axis.count = renumber.define_named(axis.count);
    }
    let body = renumber.block(&func.body);
    Func { grid, body, vars: renumber.vars, ..func.clone() }
}

struct Renumber<'f> {
    func: &'f Func,
    map: Vec<Option<Var>>,
    vars: Vec<VarInfo>,
    scope: Vec<Sym>,
}

impl Renumber<'_> {
    fn define(&mut self, var: Var, name: Option<Sym>) -> Var {
        let fresh = Var(self.vars.len() as u32);
        let dtype = self.func.vars.get(var.0 as usize).map_or(DType::I64, |info| info.dtype);
        self.vars.push(VarInfo { dtype, name });
        if let Some(slot) = self.map.get_mut(var.0 as usize) {
            *slot = Some(fresh);
        }
        fresh
    }

    fn define_named(&mut self, var: Var) -> Var {
        let wish = self.func.vars.get(var.0 as usize).and_then(|info| info.name.clone());
        let wish = wish.filter(|name| is_ident(name)).unwrap_or_else(|| Sym::from("i"));
        let mut name = wish.clone();
        let mut suffix = 1;
        while self.scope.contains(&name) || self.func.sizes.contains(&name) {
            name = Sym::from(format!("{wish}_{suffix}"));
            suffix += 1;
        }
        self.scope.push(name.clone());
        self.define(var, Some(name))
    }

    fn var(&mut self, var: Var) -> Var {
        match self.map.get(var.0 as usize).copied().flatten() {
            Some(fresh) => fresh,
            None => self.define(var, None),
        }
    }

    fn vars(&mut self, vars: &[Var]) -> Vec<Var> {
        vars.iter().map(|var| self.var(*var)).collect()
    }

    fn index(&mut self, index: &Index) -> Index {
        let start = Index { terms: vec![], offset: index.offset.clone() };
        index.terms.iter().fold(start, |sum, (var, coeff)| sum.add(&Index::var(self.var(*var)).scale(coeff)))
    }

    fn indices(&mut self, indices: &[Index]) -> Vec<Index> {
        indices.iter().map(|index| self.index(index)).collect()
    }

    fn block(&mut self, block: &[Stmt]) -> Block {
        block.iter().map(|stmt| self.stmt(stmt)).collect()
    }

    fn stmt(&mut self, stmt: &Stmt) -> Stmt {
        match stmt {
            Stmt::Let(var, inst) => {
                let inst = self.inst(inst);
                Stmt::Let(self.define(*var, None), inst)
            }
            Stmt::Store { mem, index, value } => {
                Stmt::Store { mem: *mem, index: self.indices(index), value: self.var(*value) }
            }
            Stmt::Accum { op, mem, index, args } => {
                Stmt::Accum { op: *op, mem: *mem, index: self.indices(index), args: self.vars(args) }
            }
            Stmt::For(inner) => {
                let (start, end) = (self.index(&inner.start), self.index(&inner.end));
                let var = self.define_named(inner.var);
                let body = self.block(&inner.body);
                self.scope.pop();
                Stmt::For(Box::new(For { var, start, end, kind: inner.kind, body }))
            }
            Stmt::Stage(name, body) => Stmt::Stage(name.clone(), self.block(body)),
            Stmt::Decl(id) => Stmt::Decl(*id),
        }
    }

    fn inst(&mut self, inst: &Inst) -> Inst {
        match inst {
            Inst::Const(value) => Inst::Const(*value),
            Inst::Index(index) => Inst::Index(self.index(index)),
            Inst::Scalar(op, args) => Inst::Scalar(*op, self.vars(args)),
            Inst::Fma(a, b, c) => Inst::Fma(self.var(*a), self.var(*b), self.var(*c)),
            Inst::Convert(arg) => Inst::Convert(self.var(*arg)),
            Inst::Bitcast(arg) => Inst::Bitcast(self.var(*arg)),
            Inst::Round(dtype, arg) => Inst::Round(*dtype, self.var(*arg)),
            Inst::Load(mem, index) => Inst::Load(*mem, self.indices(index)),
        }
    }
}
