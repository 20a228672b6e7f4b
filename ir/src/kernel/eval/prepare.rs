//! A kernel made ready to run at given sizes: every polynomial a number, every value a place, per-lane or uniform decided.

use super::memory::to_bits;
use crate::diag::Diagnostic;
use crate::dim::{Dim, SizeEnv, Sym};
use crate::dtype::DType;
use crate::kernel::lanes::{AccumKind, LaneScope};
use crate::kernel::math::{self, Expansion};
use crate::kernel::{AccumOp, Block, For, ForKind, Func, Index, Inst, LocalId, Mem, Space, Stmt, Var};
use crate::scalar::ScalarOp;

/// A value's place: lane `l` is at `slot + l * stride`, with stride 0 for uniform values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arg {
    pub slot: usize,
    pub stride: usize,
}

/// An affine function with numbers for coefficients.
#[derive(Clone, Debug)]
pub(super) struct Affine {
    pub terms: Vec<(Arg, i64)>,
    pub offset: i64,
}

#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub index: Affine,
    pub extent: i64,
    pub stride: i64,
}

/// An element of memory, or one per lane.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub mem: Mem,
    pub axes: Vec<Axis>,
    /// Lanes address different elements, or have their own copies of the array.
    pub per_lane: bool,
    /// Lanes have their own copies.
    pub private: bool,
    pub dtype: DType,
}

#[derive(Clone, Debug)]
pub(super) enum Calc {
    Const(u64),
    Index(Affine),
    Scalar(ScalarOp, DType, Vec<Arg>),
    Expanded(&'static Expansion, Vec<Arg>),
    Fma(DType, [Arg; 3]),
    Convert(DType, DType, Arg),
    Bitcast(DType, Arg),
    Round(DType, Arg),
    Load(Access),
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Let {
        slot: usize,
        per_lane: bool,
        calc: Calc,
    },
    Store {
        access: Access,
        value: Arg,
    },
    /// `reduction`: position among the reductions of the lane loop around, for [`AccumKind::Reduce`].
    Accum {
        op: AccumOp,
        access: Access,
        args: [Arg; 2],
        kind: AccumKind,
        reduction: usize,
    },
    Loop {
        slot: usize,
        start: Affine,
        end: Affine,
        body: Vec<Op>,
    },
    Lanes {
        slot: usize,
        start: Affine,
        end: Affine,
        width: usize,
        body: Vec<Op>,
        reductions: Vec<(Mem, AccumOp)>,
    },
    Stage(Sym, Vec<Op>),
    Decl(LocalId),
}

#[derive(Clone, Debug)]
pub(super) struct Grid {
    pub extent: i64,
    pub tile: i64,
    pub base: usize,
    pub count: usize,
}

/// A kernel at given sizes.
pub(super) struct Prepared<'f> {
    pub func: &'f Func,
    /// Places per value, and copies of each register array: the widest lane loop.
    pub width: usize,
    pub n_slots: usize,
    pub params: Vec<Vec<i64>>,
    pub locals: Vec<Vec<i64>>,
    pub grid: Vec<Grid>,
    pub body: Vec<Op>,
}

/// Makes `func` ready.
///
/// Errors: a size without a value, a size that does not fit.
pub(super) fn prepare<'f>(func: &'f Func, sizes: &SizeEnv) -> Result<Prepared<'f>, Diagnostic> {
    let width = widest(&func.body).max(1);
    let mut preparer = Preparer { func, sizes, width, scope: LaneScope::new(func), reductions: vec![] };
    let shapes = |shape: &[Dim]| shape.iter().map(|dim| preparer.dim(dim)).collect::<Result<Vec<i64>, _>>();
    let params = func.params.iter().map(|param| shapes(&param.shape)).collect::<Result<_, _>>()?;
    let mut locals = Vec::with_capacity(func.locals.len());
    for local in &func.locals {
        let mut shape = shapes(&local.shape)?;
        if local.space == Space::Reg {
            shape.push(width as i64);
        }
        locals.push(shape);
    }
    let mut grid = vec![];
    for axis in &func.grid {
        let extent = preparer.dim(&axis.extent)?;
        let slot = |var: Var| var.0 as usize * width;
        grid.push(Grid {
            extent,
            tile: i64::from(axis.tile.max(1)),
            base: slot(axis.base),
            count: slot(axis.count),
        });
    }
    let body = preparer.block(&func.body)?;
    Ok(Prepared { func, width, n_slots: func.vars.len() * width, params, locals, grid, body })
}

/// The width of the widest lane loop; 0 without one.
fn widest(block: &Block) -> usize {
    let of = |stmt: &Stmt| match stmt {
        Stmt::For(inner) => match inner.kind {
            ForKind::Lanes { width } => width as usize,
            ForKind::Seq | ForKind::Unroll => widest(&inner.body),
        },
        Stmt::Stage(_, body) => widest(body),
        _ => 0,
    };
    block.iter().map(of).max().unwrap_or(0)
}

struct Preparer<'f> {
    func: &'f Func,
    sizes: &'f SizeEnv,
    width: usize,
    scope: LaneScope,
    reductions: Vec<(Mem, AccumOp)>,
}

impl Preparer<'_> {
    fn dim(&self, dim: &Dim) -> Result<i64, Diagnostic> {
        let in_kernel = |error| format!("kernel @{}: {error}", self.func.name);
        dim.eval(self.sizes).map_err(|error| Diagnostic::input(Default::default(), in_kernel(error)))
    }

    fn slot(&self, var: Var) -> usize {
        var.0 as usize * self.width
    }

    fn arg(&self, var: Var) -> Arg {
        Arg { slot: self.slot(var), stride: usize::from(self.scope.is_per_lane(var)) }
    }

    fn args(&self, vars: &[Var]) -> Vec<Arg> {
        vars.iter().map(|var| self.arg(*var)).collect()
    }

    fn affine(&self, index: &Index) -> Result<Affine, Diagnostic> {
        let mut terms = Vec::with_capacity(index.terms.len());
        for (var, coeff) in &index.terms {
            terms.push((self.arg(*var), self.dim(coeff)?));
        }
        Ok(Affine { terms, offset: self.dim(&index.offset)? })
    }

    fn access(&self, mem: Mem, index: &[Index]) -> Result<Access, Diagnostic> {
        let shape = self.func.mem_shape(mem);
        let mut axes = Vec::with_capacity(index.len());
        let mut stride = 1i64;
        for (index, extent) in index.iter().zip(shape).rev() {
            let extent = self.dim(extent)?;
            axes.push(Axis { index: self.affine(index)?, extent, stride });
            stride = stride.saturating_mul(extent.max(1));
        }
        axes.reverse();
        let private = self.scope.is_private(mem);
        let per_lane = private || self.scope.any_varies(index);
        Ok(Access { mem, axes, per_lane, private, dtype: self.func.mem_dtype(mem) })
    }

    fn block(&mut self, block: &Block) -> Result<Vec<Op>, Diagnostic> {
        block.iter().map(|stmt| self.stmt(stmt)).collect()
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<Op, Diagnostic> {
        Ok(match stmt {
            Stmt::Let(var, inst) => {
                let calc = self.calc(*var, inst)?;
                self.scope.define(*var, inst);
                Op::Let { slot: self.slot(*var), per_lane: self.scope.is_per_lane(*var), calc }
            }
            Stmt::Store { mem, index, value } => {
                Op::Store { access: self.access(*mem, index)?, value: self.arg(*value) }
            }
            Stmt::Accum { op, mem, index, args } => {
                let kind = self.scope.accum_kind(*mem, index);
                let reduction = if kind == AccumKind::Reduce { self.reduction(*mem, *op) } else { 0 };
                let first = self.arg(args[0]);
                let second = args.get(1).map_or(first, |arg| self.arg(*arg));
                Op::Accum {
                    op: *op,
                    access: self.access(*mem, index)?,
                    args: [first, second],
                    kind,
                    reduction,
                }
            }
            Stmt::For(inner) => self.for_loop(inner)?,
            Stmt::Stage(name, body) => Op::Stage(name.clone(), self.block(body)?),
            Stmt::Decl(id) => {
                self.scope.declare(*id);
                Op::Decl(*id)
            }
        })
    }

    fn reduction(&mut self, mem: Mem, op: AccumOp) -> usize {
        let known = self.reductions.iter().position(|(other, _)| *other == mem);
        known.unwrap_or_else(|| {
            self.reductions.push((mem, op));
            self.reductions.len() - 1
        })
    }

    fn for_loop(&mut self, inner: &For) -> Result<Op, Diagnostic> {
        let (start, end) = (self.affine(&inner.start)?, self.affine(&inner.end)?);
        let slot = self.slot(inner.var);
        let ForKind::Lanes { width } = inner.kind else {
            return Ok(Op::Loop { slot, start, end, body: self.block(&inner.body)? });
        };
        self.scope.enter(inner.var, width);
        let body = self.block(&inner.body)?;
        self.scope.leave();
        let reductions = std::mem::take(&mut self.reductions);
        Ok(Op::Lanes { slot, start, end, width: width as usize, body, reductions })
    }

    fn calc(&self, result: Var, inst: &Inst) -> Result<Calc, Diagnostic> {
        let dtype = self.func.dtype(result);
        Ok(match inst {
            Inst::Const(value) => Calc::Const(to_bits(dtype, *value)),
            Inst::Index(index) => Calc::Index(self.affine(index)?),
            Inst::Scalar(op, args) => {
                let operand = args.last().map_or(dtype, |arg| self.func.dtype(*arg));
                match math::expand(*op, operand) {
                    Some(expansion) => Calc::Expanded(expansion, self.args(args)),
                    None => Calc::Scalar(*op, operand, self.args(args)),
                }
            }
            Inst::Fma(a, b, c) => Calc::Fma(dtype, [self.arg(*a), self.arg(*b), self.arg(*c)]),
            Inst::Convert(arg) => Calc::Convert(self.func.dtype(*arg), dtype, self.arg(*arg)),
            Inst::Bitcast(arg) => Calc::Bitcast(dtype, self.arg(*arg)),
            Inst::Round(to, arg) => Calc::Round(*to, self.arg(*arg)),
            Inst::Load(mem, index) => Calc::Load(self.access(*mem, index)?),
        })
    }
}
