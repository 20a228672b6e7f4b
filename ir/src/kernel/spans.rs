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
    /// The least that is added, if that is known.
    pub lo: Option<i64>,
    /// The most that is added, if that is known.
    pub hi: Option<i64>,
}

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
        let count = Span { lo: Some(1), hi: Some(tile.min(extent)), ..walk.constant(0) };
        walk.vars[axis.count.0 as usize] = Some(count);
    }
    walk.block(&func.body)?;
    Ok(walk.params)
}

impl Span {
    fn is_fixed(&self) -> bool {
        self.steps.iter().all(|step| *step == 0)
    }

    /// `self + factor * other`; `None` if that overflows.
    fn plus(&self, other: &Span, factor: i64) -> Option<Span> {
        let mut steps = Vec::with_capacity(self.steps.len());
        for (step, more) in self.steps.iter().zip(&other.steps) {
            steps.push(step.checked_add(more.checked_mul(factor)?)?);
        }
        let bound = |own: Option<i64>, more: Option<i64>| match (own, more) {
            (Some(own), _) if factor == 0 => Some(Some(own)),
            (Some(own), Some(more)) => own.checked_add(more.checked_mul(factor)?).map(Some),
            _ => Some(None),
        };
        let (least, most) = if factor < 0 { (other.hi, other.lo) } else { (other.lo, other.hi) };
        Some(Span { steps, lo: bound(self.lo, least)?, hi: bound(self.hi, most)? })
    }

    /// The only value it has.
    fn number(&self) -> Option<i64> {
        self.lo.filter(|_| self.is_fixed() && self.lo == self.hi)
    }
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
        Span { steps: vec![0; self.func.grid.len()], lo: Some(value), hi: Some(value) }
    }

    fn index(&self, index: &Index) -> Result<Option<Span>, Diagnostic> {
        let mut sum = self.constant(self.dim(&index.offset)?);
        for (var, coeff) in &index.terms {
            let Some(span) = &self.vars[var.0 as usize] else { return Ok(None) };
            let Some(more) = sum.plus(span, self.dim(coeff)?) else { return Ok(None) };
            sum = more;
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
        let both = |pick: fn(i64, i64) -> i64, a: Option<i64>, b: Option<i64>| Some(pick(a?, b?));
        let steps = a.steps.clone();
        Some(match op {
            ScalarOp::Add => a.plus(b, 1)?,
            ScalarOp::Sub => a.plus(b, -1)?,
            ScalarOp::Mul => {
                let (span, factor) = match (a.number(), b.number()) {
                    (_, Some(factor)) => (a, factor),
                    (Some(factor), _) => (b, factor),
                    _ => return None,
                };
                self.constant(0).plus(span, factor)?
            }
            ScalarOp::Min if a.steps == b.steps => {
                let hi = both(i64::min, a.hi, b.hi).or(a.hi).or(b.hi);
                Span { steps, lo: both(i64::min, a.lo, b.lo), hi }
            }
            ScalarOp::Max if a.steps == b.steps => {
                let lo = both(i64::max, a.lo, b.lo).or(a.lo).or(b.lo);
                Span { steps, lo, hi: both(i64::max, a.hi, b.hi) }
            }
            // No more than either; of the two, what does not move says more.
            ScalarOp::Min => Span { lo: None, ..(if b.is_fixed() { b } else { a }).clone() },
            ScalarOp::Max => Span { hi: None, ..(if b.is_fixed() { b } else { a }).clone() },
            ScalarOp::Div if a.is_fixed() => {
                let divisor = b.number().filter(|divisor| *divisor > 0)?;
                Span { steps, lo: a.lo.map(|lo| lo / divisor), hi: a.hi.map(|hi| hi / divisor) }
            }
            ScalarOp::Rem if a.is_fixed() && a.lo.is_some_and(|lo| lo >= 0) => {
                let last = b.number().filter(|divisor| *divisor > 0)? - 1;
                Span { steps, lo: Some(0), hi: Some(a.hi.map_or(last, |hi| hi.min(last))) }
            }
            _ => return None,
        })
    }

    fn counter(&mut self, inner: &For) -> Result<(), Diagnostic> {
        let range = match (self.index(&inner.start)?, self.index(&inner.end)?) {
            (Some(start), Some(end)) => {
                let hi = end.hi.filter(|_| start.steps == end.steps).and_then(|hi| hi.checked_sub(1));
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
