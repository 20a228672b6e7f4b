//! Distinct elements that a kernel touches.
//!
//! Every index is written as a sum over *generators*: a loop counts `0 .. n`, a grid axis steps by its tile, and a loop over
//! the positions of a tile joins its grid axis to one run over the whole extent. Where the strides of an axis's generators
//! fit together, the touched positions are known exactly; where axes share no generator, the touched set is their product.
//! Everything else (indices through division or memory, triangular loops) is bounded by an interval, clipped to the array.
//! Several accesses to one parameter add up unless one covers the other, and never exceed the array.

use crate::diag::Diagnostic;
use crate::dim::{Dim, SizeEnv};
use crate::kernel::{Block, For, Func, Index, Inst, Mem, ParamId, Stmt};
use crate::scalar::{Scalar, ScalarOp};
use std::collections::{BTreeMap, BTreeSet};

/// Elements read and written, per parameter: exact or an upper bound.
///
/// Errors: a size without a value.
pub(super) fn bound(func: &Func, sizes: &SizeEnv) -> Result<Vec<(u64, u64)>, Diagnostic> {
    let mut walk = Walk {
        func,
        sizes,
        exprs: vec![None; func.vars.len()],
        generators: vec![],
        axes: vec![],
        regions: vec![],
    };
    for axis in &func.grid {
        let (extent, tile) = (walk.dim(&axis.extent)?.max(0), i64::from(axis.tile.max(1)));
        walk.axes.push((extent, tile));
        let axis_idx = walk.axes.len() - 1;
        let base = walk.generator(Generator::Base(axis_idx));
        let count = walk.generator(Generator::Count(axis_idx));
        walk.exprs[axis.base.0 as usize] = Some(base);
        walk.exprs[axis.count.0 as usize] = Some(count);
    }
    if walk.axes.iter().all(|(extent, _)| *extent > 0) {
        walk.block(&func.body)?;
    }
    (0..func.params.len()).map(|param| Ok((walk.total(param, false)?, walk.total(param, true)?))).collect()
}

/// Where the values of an index come from.
#[derive(Clone, Copy, Debug)]
enum Generator {
    /// `0 .. n`.
    Run(i64),
    /// The positions of a tile of that grid axis.
    Within(usize),
    /// The first position of a tile of that grid axis.
    Base(usize),
    /// The number of positions in a tile of that grid axis.
    Count(usize),
    /// Some values from the first to the last, both included.
    Between(i64, i64),
}

/// A sum of generators, by position in [`Walk::generators`], and an offset.
#[derive(Clone, PartialEq, Debug, Default)]
struct Expr {
    terms: BTreeMap<usize, i64>,
    offset: i64,
}

impl Expr {
    fn constant(offset: i64) -> Expr {
        Expr { terms: BTreeMap::new(), offset }
    }

    fn add_scaled(&mut self, other: &Expr, factor: i64) {
        self.offset = self.offset.saturating_add(other.offset.saturating_mul(factor));
        for (key, coeff) in &other.terms {
            let slot = self.terms.entry(*key).or_insert(0);
            *slot = slot.saturating_add(coeff.saturating_mul(factor));
        }
        self.terms.retain(|_, coeff| *coeff != 0);
    }
}

/// The positions that one axis of an access takes.
#[derive(Clone, Debug)]
struct Positions {
    lo: i64,
    hi: i64,
    count: u64,
    /// All of `lo ..= hi`.
    dense: bool,
}

/// What one access touches.
#[derive(Clone, Debug)]
struct Region {
    param: usize,
    reads: bool,
    writes: bool,
    axes: Vec<Positions>,
}

impl Region {
    fn count(&self) -> u64 {
        self.axes.iter().fold(1, |product: u64, axis| product.saturating_mul(axis.count))
    }

    fn covers(&self, other: &Region) -> bool {
        let inside = |(a, b): (&Positions, &Positions)| a.dense && a.lo <= b.lo && b.hi <= a.hi;
        self.axes.iter().zip(&other.axes).all(inside)
    }
}

struct Walk<'f> {
    func: &'f Func,
    sizes: &'f SizeEnv,
    exprs: Vec<Option<Expr>>,
    generators: Vec<Generator>,
    /// Extent and tile of each grid axis.
    axes: Vec<(i64, i64)>,
    regions: Vec<Region>,
}

impl Walk<'_> {
    fn dim(&self, dim: &Dim) -> Result<i64, Diagnostic> {
        let in_kernel = |error| format!("kernel @{}: {error}", self.func.name);
        dim.eval(self.sizes).map_err(|error| Diagnostic::input(Default::default(), in_kernel(error)))
    }

    fn generator(&mut self, generator: Generator) -> Expr {
        self.generators.push(generator);
        Expr { terms: BTreeMap::from([(self.generators.len() - 1, 1)]), offset: 0 }
    }

    /// `None` if a variable in it has no known range.
    fn expr(&self, index: &Index) -> Result<Option<Expr>, Diagnostic> {
        let mut sum = Expr::constant(self.dim(&index.offset)?);
        for (var, coeff) in &index.terms {
            let coeff = self.dim(coeff)?;
            match &self.exprs[var.0 as usize] {
                Some(expr) => sum.add_scaled(expr, coeff),
                None => return Ok(None),
            }
        }
        Ok(Some(sum))
    }

    /// The smallest and largest value of `generator`.
    fn generator_range(&self, generator: Generator) -> (i64, i64) {
        match generator {
            Generator::Run(n) => (0, n - 1),
            Generator::Within(axis) => (0, self.axes[axis].0.min(self.axes[axis].1) - 1),
            Generator::Base(axis) => (0, (self.axes[axis].0 - 1) / self.axes[axis].1 * self.axes[axis].1),
            Generator::Count(axis) => (1, self.axes[axis].1.min(self.axes[axis].0)),
            Generator::Between(lo, hi) => (lo, hi),
        }
    }

    fn range(&self, expr: &Expr) -> (i64, i64) {
        let (mut lo, mut hi) = (expr.offset, expr.offset);
        for (key, coeff) in &expr.terms {
            let (a, b) = self.generator_range(self.generators[*key]);
            let (a, b) = (a.saturating_mul(*coeff), b.saturating_mul(*coeff));
            lo = lo.saturating_add(a.min(b));
            hi = hi.saturating_add(a.max(b));
        }
        (lo, hi)
    }

    fn block(&mut self, block: &Block) -> Result<(), Diagnostic> {
        for stmt in block {
            match stmt {
                Stmt::Let(var, inst) => {
                    if let Inst::Load(mem, index) = inst {
                        self.touch(*mem, index, true, false)?;
                    }
                    self.exprs[var.0 as usize] = self.define(inst)?;
                }
                Stmt::Store { mem, index, .. } => self.touch(*mem, index, false, true)?,
                Stmt::Accum { mem, index, .. } => self.touch(*mem, index, true, true)?,
                Stmt::For(inner) => self.for_loop(inner)?,
                Stmt::Stage(_, body) => self.block(body)?,
                Stmt::Decl(_) => {}
            }
        }
        Ok(())
    }

    fn define(&mut self, inst: &Inst) -> Result<Option<Expr>, Diagnostic> {
        match inst {
            Inst::Const(Scalar::Int(value)) => Ok(Some(Expr::constant(*value))),
            Inst::Index(index) => self.expr(index),
            Inst::Scalar(op, args) => {
                let exprs: Option<Vec<Expr>> =
                    args.iter().map(|arg| self.exprs[arg.0 as usize].clone()).collect();
                Ok(exprs.and_then(|exprs| self.scalar(*op, &exprs)))
            }
            _ => Ok(None),
        }
    }

    /// Integer arithmetic on ranges; sums stay exact.
    fn scalar(&mut self, op: ScalarOp, args: &[Expr]) -> Option<Expr> {
        let [a, b] = args else { return None };
        let (range_a, range_b) = (self.range(a), self.range(b));
        let constant = (range_b.0 == range_b.1).then_some(range_b.0);
        let mut sum = a.clone();
        let range = match (op, constant) {
            (ScalarOp::Add, _) => {
                sum.add_scaled(b, 1);
                return Some(sum);
            }
            (ScalarOp::Sub, _) => {
                sum.add_scaled(b, -1);
                return Some(sum);
            }
            (ScalarOp::Mul, Some(factor)) => {
                let mut product = Expr::default();
                product.add_scaled(a, factor);
                return Some(product);
            }
            (ScalarOp::Mul, None) if range_a.0 == range_a.1 => {
                let mut product = Expr::default();
                product.add_scaled(b, range_a.0);
                return Some(product);
            }
            (ScalarOp::Min, _) => (range_a.0.min(range_b.0), range_a.1.min(range_b.1)),
            (ScalarOp::Max, _) => (range_a.0.max(range_b.0), range_a.1.max(range_b.1)),
            (ScalarOp::Div, Some(divisor)) if divisor > 0 => (range_a.0 / divisor, range_a.1 / divisor),
            (ScalarOp::Rem, Some(divisor)) if divisor > 0 && range_a.0 >= 0 => {
                (0, range_a.1.min(divisor - 1))
            }
            _ => return None,
        };
        Some(if range.0 == range.1 {
            Expr::constant(range.0)
        } else {
            self.generator(Generator::Between(range.0, range.1))
        })
    }

    fn for_loop(&mut self, inner: &For) -> Result<(), Diagnostic> {
        let (start, end) = (self.expr(&inner.start)?, self.expr(&inner.end)?);
        let (Some(start), Some(end)) = (start, end) else {
            self.exprs[inner.var.0 as usize] = None;
            return self.block(&inner.body);
        };
        let mut length = end.clone();
        length.add_scaled(&start, -1);
        let single = length.terms.iter().next().filter(|_| length.terms.len() == 1 && length.offset == 0);
        let counter = match single.map(|(key, coeff)| (self.generators[*key], *coeff)) {
            _ if length.terms.is_empty() && length.offset <= 0 => return Ok(()),
            _ if length.terms.is_empty() => Generator::Run(length.offset),
            Some((Generator::Count(axis), 1)) => Generator::Within(axis),
            _ => {
                let (lo, hi) = (self.range(&start).0, self.range(&end).1.saturating_sub(1));
                if hi < lo {
                    return Ok(());
                }
                let values = self.generator(Generator::Between(lo, hi));
                self.exprs[inner.var.0 as usize] = Some(values);
                return self.block(&inner.body);
            }
        };
        let mut value = self.generator(counter);
        value.add_scaled(&start, 1);
        self.exprs[inner.var.0 as usize] = Some(value);
        self.block(&inner.body)
    }

    fn touch(&mut self, mem: Mem, index: &[Index], reads: bool, writes: bool) -> Result<(), Diagnostic> {
        let Mem::Param(ParamId(param)) = mem else { return Ok(()) };
        let shape = self.func.mem_shape(mem);
        let mut axes = Vec::with_capacity(index.len());
        let mut used = BTreeSet::new();
        let mut independent = true;
        for (index, extent) in index.iter().zip(shape) {
            let last = self.dim(extent)? - 1;
            let Some(expr) = self.expr(index)? else {
                axes.push(Positions { lo: 0, hi: last, count: (last + 1).max(0) as u64, dense: false });
                continue;
            };
            let owners: BTreeSet<(bool, usize)> = expr.terms.keys().map(|key| self.owner(*key)).collect();
            independent &= owners.len() == expr.terms.len() - self.joined(&expr).len();
            for owner in owners {
                independent &= used.insert(owner);
            }
            axes.push(self.positions(&expr, last));
        }
        if !independent {
            axes.iter_mut().for_each(|axis| axis.dense = false);
        }
        self.regions.push(Region { param: param as usize, reads, writes, axes });
        Ok(())
    }

    /// What makes two generators dependent: a grid axis, or the generator itself.
    fn owner(&self, key: usize) -> (bool, usize) {
        match self.generators[key] {
            Generator::Within(axis) | Generator::Base(axis) | Generator::Count(axis) => (true, axis),
            Generator::Run(_) | Generator::Between(..) => (false, key),
        }
    }

    /// The positions within a tile that stand beside the tile's base with the same coefficient: together they run over
    /// the whole grid axis. At most one per axis.
    fn joined(&self, expr: &Expr) -> BTreeSet<usize> {
        let mut joined = BTreeSet::new();
        for (key, coeff) in &expr.terms {
            if let Generator::Base(axis) = self.generators[*key] {
                let within = expr.terms.iter().find(|(other, other_coeff)| {
                    matches!(self.generators[**other], Generator::Within(of) if of == axis)
                        && *other_coeff == coeff
                });
                joined.extend(within.map(|(other, _)| *other));
            }
        }
        joined
    }

    fn positions(&self, expr: &Expr, last: i64) -> Positions {
        let (lo, hi) = self.range_joined(expr);
        let (lo, hi) = (lo.max(0), hi.min(last));
        let all = hi.saturating_sub(lo).saturating_add(1).max(0) as u64;
        match self.distinct(expr) {
            Some((count, dense)) => Positions { lo, hi, count: count.min(all), dense },
            None => Positions { lo, hi, count: all, dense: false },
        }
    }

    /// Strides and counts of the sum, with tiles joined to whole axes; `None` if a generator is only bounded.
    fn strides(&self, expr: &Expr) -> Option<Vec<(i64, i64)>> {
        let joined = self.joined(expr);
        let of_axis =
            |key: usize, axis: usize| matches!(self.generators[key], Generator::Within(of) if of == axis);
        let mut strides = vec![];
        for (key, coeff) in &expr.terms {
            strides.push(match self.generators[*key] {
                Generator::Run(n) => (*coeff, n),
                Generator::Within(_) if joined.contains(key) => continue,
                Generator::Within(axis) => (*coeff, self.axes[axis].0.min(self.axes[axis].1)),
                Generator::Base(axis) if joined.iter().any(|other| of_axis(*other, axis)) => {
                    (*coeff, self.axes[axis].0)
                }
                Generator::Base(axis) => {
                    let (extent, tile) = self.axes[axis];
                    (coeff.checked_mul(tile)?, (extent - 1) / tile + 1)
                }
                Generator::Count(_) | Generator::Between(..) => return None,
            });
        }
        Some(strides)
    }

    /// The range of `expr`, with tiles joined so that the last tile's overhang does not count.
    fn range_joined(&self, expr: &Expr) -> (i64, i64) {
        let Some(strides) = self.strides(expr) else { return self.range(expr) };
        let (mut lo, mut hi) = (expr.offset, expr.offset);
        for (stride, n) in strides {
            let reach = stride.saturating_mul(n - 1);
            lo = lo.saturating_add(reach.min(0));
            hi = hi.saturating_add(reach.max(0));
        }
        (lo, hi)
    }

    /// Number of distinct values and whether they have no gaps; `None` if not known.
    fn distinct(&self, expr: &Expr) -> Option<(u64, bool)> {
        let mut strides: Vec<(i64, i64)> =
            self.strides(expr)?.into_iter().map(|(stride, n)| (stride.saturating_abs(), n)).collect();
        strides.sort_unstable();
        let (mut reach, mut count, mut dense) = (0i64, 1u64, true);
        for (stride, n) in strides {
            if n <= 1 {
                continue;
            }
            if dense && stride <= reach + 1 {
                reach = reach.checked_add(stride.checked_mul(n - 1)?)?;
                count = reach as u64 + 1;
            } else if stride > reach {
                dense = false;
                count = count.checked_mul(n as u64)?;
                reach = reach.checked_add(stride.checked_mul(n - 1)?)?;
            } else {
                return None;
            }
        }
        Some((count, dense))
    }

    fn total(&self, param: usize, written: bool) -> Result<u64, Diagnostic> {
        let mut kept: Vec<&Region> = vec![];
        let touched =
            |region: &&Region| region.param == param && if written { region.writes } else { region.reads };
        for region in self.regions.iter().filter(touched) {
            if !kept.iter().any(|other| other.covers(region)) {
                kept.retain(|other| !region.covers(other));
                kept.push(region);
            }
        }
        let mut len = 1u64;
        for extent in &self.func.params[param].shape {
            len = len.saturating_mul(self.dim(extent)?.max(0) as u64);
        }
        let sum = kept.iter().fold(0u64, |sum, region| sum.saturating_add(region.count()));
        Ok(sum.min(len))
    }
}
