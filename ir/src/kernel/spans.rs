//! Which elements of its parameters one tile of a kernel may touch.
//!
//! In: a verified kernel and sizes. Out: for every access to a parameter and every axis of it, an interval of positions that moves
//! with the tile: how far for each step along each grid axis, and bounds of what is added to that. Exact for the kernels
//! that the compiler makes, an upper bound for all; an index whose values are not known is said to be anywhere.

use super::{Block, For, Func, Index, Inst, Mem, ParamId, Stmt};
use crate::diag::Diagnostic;
use crate::dim::{Dim, SizeEnv};
use crate::scalar::{Scalar, ScalarOp};

/// Values between bounds that move with the tile: `sum over grid axes of step * tile number + lo ..= hi`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Span {
    /// What one tile further along each grid axis adds.
    pub steps: Vec<i64>,
    /// The least that is added.
    pub lo: i64,
    /// The most that is added.
    pub hi: i64,
}

/// Beyond any bound, and far enough from the ends of `i64` for a few additions.
const FAR: i64 = i64::MAX / 4;

/// An access: positions along each axis.
pub type Place = Vec<Span>;

/// The places that accesses of a tile touch, per parameter, equal ones once; `None` if they may be anywhere.
///
/// Errors: a size without a value.
pub fn of_params(func: &Func, sizes: &SizeEnv) -> Result<Vec<Option<Vec<Place>>>, Diagnostic> {
    let mut walk = Walk {
        func,
        sizes,
        vars: vec![None; func.vars.len()],
        params: vec![Some(vec![]); func.params.len()],
    };
    for (place, axis) in func.grid.iter().enumerate() {
        let (extent, tile) = (walk.dim(&axis.extent)?.max(0), i64::from(axis.tile.max(1)));
        let mut base = walk.constant(0);
        base.steps[place] = tile;
        walk.vars[axis.base.0 as usize] = Some(base);
        let count = Span { lo: 1, hi: tile.min(extent), ..walk.constant(0) };
        walk.vars[axis.count.0 as usize] = Some(count);
    }
    walk.block(&func.body)?;
    Ok(walk.params)
}

impl Span {
    fn is_fixed(&self) -> bool {
        self.steps.iter().all(|step| *step == 0)
    }

    fn add_scaled(&mut self, other: &Span, factor: i64) {
        for (step, more) in self.steps.iter_mut().zip(&other.steps) {
            *step = clamp(step.saturating_add(more.saturating_mul(factor)));
        }
        let (lo, hi) = (scaled(other.lo, factor), scaled(other.hi, factor));
        self.lo = clamp(self.lo.saturating_add(lo.min(hi)));
        self.hi = clamp(self.hi.saturating_add(lo.max(hi)));
    }
}

fn clamp(value: i64) -> i64 {
    value.clamp(-FAR, FAR)
}

/// What is beyond any bound stays there.
fn scaled(value: i64, factor: i64) -> i64 {
    if factor == 0 { 0 } else { clamp(value.saturating_mul(factor)) }
}

struct Walk<'f> {
    func: &'f Func,
    sizes: &'f SizeEnv,
    /// Integers whose values are known to lie in a span.
    vars: Vec<Option<Span>>,
    params: Vec<Option<Vec<Place>>>,
}

impl Walk<'_> {
    fn dim(&self, dim: &Dim) -> Result<i64, Diagnostic> {
        let in_kernel = |error| format!("kernel @{}: {error}", self.func.name);
        dim.eval(self.sizes).map_err(|error| Diagnostic::input(Default::default(), in_kernel(error)))
    }

    fn constant(&self, value: i64) -> Span {
        Span { steps: vec![0; self.func.grid.len()], lo: clamp(value), hi: clamp(value) }
    }

    fn index(&self, index: &Index) -> Result<Option<Span>, Diagnostic> {
        let mut sum = self.constant(self.dim(&index.offset)?);
        for (var, coeff) in &index.terms {
            let Some(span) = &self.vars[var.0 as usize] else { return Ok(None) };
            sum.add_scaled(span, self.dim(coeff)?);
        }
        Ok(Some(sum))
    }

    fn block(&mut self, block: &Block) -> Result<(), Diagnostic> {
        for stmt in block {
            match stmt {
                Stmt::Let(var, inst) => {
                    if let Inst::Load(mem, index) = inst {
                        self.touch(*mem, index)?;
                    }
                    self.vars[var.0 as usize] = self.value(inst)?;
                }
                Stmt::Store { mem, index, .. } | Stmt::Accum { mem, index, .. } => self.touch(*mem, index)?,
                Stmt::For(inner) => self.counter(inner)?,
                Stmt::Stage(_, body) => self.block(body)?,
                Stmt::Decl(_) => {}
            }
        }
        Ok(())
    }

    fn value(&self, inst: &Inst) -> Result<Option<Span>, Diagnostic> {
        Ok(match inst {
            Inst::Const(Scalar::Int(value)) => Some(self.constant(*value)),
            Inst::Index(index) => self.index(index)?,
            Inst::Scalar(op, args) => {
                let spans: Option<Vec<&Span>> =
                    args.iter().map(|arg| self.vars[arg.0 as usize].as_ref()).collect();
                match spans.as_deref() {
                    Some([a, b]) => self.scalar(*op, a, b),
                    _ => None,
                }
            }
            _ => None,
        })
    }

    /// Integer arithmetic on spans; of what moves with the tile only sums and bounds are known.
    fn scalar(&self, op: ScalarOp, a: &Span, b: &Span) -> Option<Span> {
        let number = |span: &Span| (span.is_fixed() && span.lo == span.hi).then_some(span.lo);
        let mut sum = a.clone();
        match op {
            ScalarOp::Add => sum.add_scaled(b, 1),
            ScalarOp::Sub => sum.add_scaled(b, -1),
            ScalarOp::Mul => {
                let (span, factor) = match (number(a), number(b)) {
                    (_, Some(factor)) => (a, factor),
                    (Some(factor), _) => (b, factor),
                    _ => return None,
                };
                sum = self.constant(0);
                sum.add_scaled(span, factor);
            }
            ScalarOp::Min if a.steps == b.steps => (sum.lo, sum.hi) = (a.lo.min(b.lo), a.hi.min(b.hi)),
            ScalarOp::Max if a.steps == b.steps => (sum.lo, sum.hi) = (a.lo.max(b.lo), a.hi.max(b.hi)),
            // No more than either; of the two, what does not move says more.
            ScalarOp::Min => sum = Span { lo: -FAR, ..(if b.is_fixed() { b } else { a }).clone() },
            ScalarOp::Max => sum = Span { hi: FAR, ..(if b.is_fixed() { b } else { a }).clone() },
            ScalarOp::Div if a.is_fixed() => {
                let divisor = number(b).filter(|divisor| *divisor > 0)?;
                let part = |bound: i64| if bound.abs() > FAR / 2 { bound } else { bound / divisor };
                (sum.lo, sum.hi) = (part(a.lo), part(a.hi));
            }
            ScalarOp::Rem if a.is_fixed() && a.lo >= 0 => {
                let divisor = number(b).filter(|divisor| *divisor > 0)?;
                (sum.lo, sum.hi) = (0, a.hi.min(divisor - 1));
            }
            _ => return None,
        }
        Some(sum)
    }

    fn counter(&mut self, inner: &For) -> Result<(), Diagnostic> {
        let range = match (self.index(&inner.start)?, self.index(&inner.end)?) {
            (Some(start), Some(end)) => {
                let hi = if start.steps == end.steps { clamp(end.hi - 1) } else { FAR };
                Some(Span { hi, ..start })
            }
            _ => None,
        };
        self.vars[inner.var.0 as usize] = range;
        self.block(&inner.body)
    }

    fn touch(&mut self, mem: Mem, index: &[Index]) -> Result<(), Diagnostic> {
        let Mem::Param(ParamId(param)) = mem else { return Ok(()) };
        let mut place = Some(vec![]);
        for index in index {
            place = match (place, self.index(index)?) {
                (Some(mut outer), Some(own)) => {
                    outer.push(own);
                    Some(outer)
                }
                _ => None,
            };
        }
        let known = &mut self.params[param as usize];
        match (known.as_mut(), place) {
            (Some(places), Some(place)) if !places.contains(&place) => places.push(place),
            (Some(_), Some(_)) | (None, _) => {}
            (Some(_), None) => *known = None,
        }
        Ok(())
    }
}
