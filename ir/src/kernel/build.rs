//! Writing kernels by code: fresh variables, nested blocks, indices.
//!
//! In: calls in program order. Out: a [`Func`] that still has to be verified. Folds nothing and checks nothing.

use super::{
    Access, AccumOp, Block, For, ForKind, Func, GridAxis, Index, Inst, Local, LocalId, Mem, Param, ParamId,
    Space, Stmt, Var, VarInfo,
};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::scalar::{Scalar, ScalarOp};

/// Builds one kernel.
pub struct Builder {
    func: Func,
    open: Vec<Block>,
}

impl Builder {
    /// An empty kernel that takes the run-time `sizes`.
    pub fn new(name: impl Into<Sym>, sizes: Vec<Sym>) -> Self {
        let func = Func {
            name: name.into(),
            sizes,
            params: vec![],
            grid: vec![],
            locals: vec![],
            vars: vec![],
            body: vec![],
        };
        Builder { func, open: vec![vec![]] }
    }

    /// The finished kernel. Panics if a block is still open.
    pub fn finish(mut self) -> Func {
        assert_eq!(self.open.len(), 1, "a block is still open");
        self.func.body = self.open.pop().unwrap_or_default();
        self.func
    }

    /// The kernel so far, without the open blocks.
    pub fn func(&self) -> &Func {
        &self.func
    }

    /// A fresh variable.
    pub fn fresh(&mut self, dtype: DType, name: Option<&str>) -> Var {
        self.func.vars.push(VarInfo { dtype, name: name.map(Sym::from) });
        Var(self.func.vars.len() as u32 - 1)
    }

    /// Adds a parameter.
    pub fn param(&mut self, name: impl Into<Sym>, dtype: DType, shape: Vec<Dim>, access: Access) -> Mem {
        self.func.params.push(Param { name: name.into(), dtype, shape, access });
        Mem::Param(ParamId(self.func.params.len() as u32 - 1))
    }

    /// Adds a batch axis; returns its base and count variables.
    pub fn grid_axis(&mut self, name: &str, extent: Dim, tile: u32) -> (Var, Var) {
        let base = self.fresh(DType::I64, Some(&format!("{name}0")));
        let count = self.fresh(DType::I64, Some(&format!("{name}_count")));
        self.func.grid.push(GridAxis { name: name.into(), extent, tile, base, count });
        (base, count)
    }

    /// Adds tile memory.
    pub fn tile_local(&mut self, name: impl Into<Sym>, dtype: DType, shape: Vec<Dim>) -> Mem {
        self.local(Local { name: name.into(), dtype, shape, space: Space::Tile, lane_axis: None })
    }

    /// Adds a register array and declares it here.
    pub fn reg(
        &mut self,
        name: impl Into<Sym>,
        dtype: DType,
        shape: Vec<Dim>,
        lane_axis: Option<(u32, u32)>,
    ) -> Mem {
        let mem = self.local(Local { name: name.into(), dtype, shape, space: Space::Reg, lane_axis });
        if let Mem::Local(id) = mem {
            self.push(Stmt::Decl(id));
        }
        mem
    }

    fn local(&mut self, local: Local) -> Mem {
        self.func.locals.push(local);
        Mem::Local(LocalId(self.func.locals.len() as u32 - 1))
    }

    /// Appends a statement to the innermost open block.
    pub fn push(&mut self, stmt: Stmt) {
        if let Some(block) = self.open.last_mut() {
            block.push(stmt);
        }
    }

    /// Defines a value.
    pub fn inst(&mut self, dtype: DType, inst: Inst) -> Var {
        let var = self.fresh(dtype, None);
        self.push(Stmt::Let(var, inst));
        var
    }

    /// A constant.
    pub fn constant(&mut self, dtype: DType, value: Scalar) -> Var {
        self.inst(dtype, Inst::Const(value))
    }

    /// A scalar operation; the result has the operation's dtype.
    pub fn scalar(&mut self, op: ScalarOp, args: &[Var]) -> Var {
        let dtypes: Vec<DType> = args.iter().map(|arg| self.func.dtype(*arg)).collect();
        let dtype = op.infer(&dtypes).unwrap_or(dtypes[dtypes.len() - 1]);
        self.inst(dtype, Inst::Scalar(op, args.to_vec()))
    }

    /// `a * b + c`.
    pub fn fma(&mut self, a: Var, b: Var, c: Var) -> Var {
        let dtype = self.func.dtype(a);
        self.inst(dtype, Inst::Fma(a, b, c))
    }

    /// A load.
    pub fn load(&mut self, mem: Mem, index: Vec<Index>) -> Var {
        let dtype = self.func.mem_dtype(mem).compute();
        self.inst(dtype, Inst::Load(mem, index))
    }

    /// A store.
    pub fn store(&mut self, mem: Mem, index: Vec<Index>, value: Var) {
        self.push(Stmt::Store { mem, index, value });
    }

    /// An accumulation.
    pub fn accum(&mut self, op: AccumOp, mem: Mem, index: Vec<Index>, args: &[Var]) {
        self.push(Stmt::Accum { op, mem, index, args: args.to_vec() });
    }

    /// A loop over `start .. end` whose body `fill` writes.
    pub fn for_range(
        &mut self,
        name: &str,
        start: impl Into<Index>,
        end: impl Into<Index>,
        kind: ForKind,
        fill: impl FnOnce(&mut Self, Var),
    ) {
        let var = self.fresh(DType::I64, Some(name));
        self.open.push(vec![]);
        fill(self, var);
        let body = self.open.pop().unwrap_or_default();
        self.push(Stmt::For(Box::new(For { var, start: start.into(), end: end.into(), kind, body })));
    }

    /// A stage whose body `fill` writes.
    pub fn stage(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        self.open.push(vec![]);
        fill(self);
        let body = self.open.pop().unwrap_or_default();
        self.push(Stmt::Stage(name.into(), body));
    }
}

impl From<i64> for Index {
    fn from(value: i64) -> Self {
        Index::constant(value)
    }
}

impl From<Dim> for Index {
    fn from(value: Dim) -> Self {
        Index::constant(value)
    }
}
