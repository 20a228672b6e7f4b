//! Issued loads and stores, by multiplying trip counts.

use crate::diag::Diagnostic;
use crate::dim::{Dim, SizeEnv, Sym};
use crate::kernel::lanes::LaneScope;
use crate::kernel::{Block, For, ForKind, Func, Index, Inst, Mem, Stmt, Var};
use crate::scalar::{Scalar, eval};
use std::collections::BTreeMap;

/// Elements loaded and stored, per parameter.
///
/// Errors: a size without a value, a bound that depends on a loaded value.
pub(super) fn count(func: &Func, sizes: &SizeEnv) -> Result<Vec<(u64, u64)>, Diagnostic> {
    let mut counter = Counter {
        func,
        sizes,
        steering: steering(func),
        values: vec![None; func.vars.len()],
        scope: LaneScope::new(func),
        totals: vec![(0, 0); func.params.len()],
        stages: BTreeMap::new(),
    };
    counter.tiles(0, 1)?;
    Ok(counter.totals)
}

/// Which variables a loop bound depends on.
fn steering(func: &Func) -> Vec<bool> {
    let mut steering = vec![false; func.vars.len()];
    let mut lets = vec![];
    collect(&func.body, &mut steering, &mut lets);
    // Definitions precede uses: one pass backwards closes the set.
    for (var, inst) in lets.into_iter().rev() {
        if steering[var.0 as usize] {
            operands(inst).into_iter().for_each(|arg| steering[arg.0 as usize] = true);
        }
    }
    steering
}

fn collect<'b>(block: &'b Block, steering: &mut [bool], lets: &mut Vec<(Var, &'b Inst)>) {
    for stmt in block {
        match stmt {
            Stmt::Let(var, inst) => lets.push((*var, inst)),
            Stmt::For(inner) => {
                for (var, _) in inner.start.terms.iter().chain(&inner.end.terms) {
                    steering[var.0 as usize] = true;
                }
                collect(&inner.body, steering, lets);
            }
            Stmt::Stage(_, body) => collect(body, steering, lets),
            Stmt::Store { .. } | Stmt::Accum { .. } | Stmt::Decl(_) => {}
        }
    }
}

/// The variables that `inst` computes with.
fn operands(inst: &Inst) -> Vec<Var> {
    let of_index = |index: &Index| index.terms.iter().map(|(var, _)| *var).collect::<Vec<Var>>();
    match inst {
        Inst::Const(_) => vec![],
        Inst::Index(index) => of_index(index),
        Inst::Scalar(_, args) => args.clone(),
        Inst::Fma(a, b, c) => vec![*a, *b, *c],
        Inst::Convert(arg) | Inst::Bitcast(arg) | Inst::Round(_, arg) => vec![*arg],
        Inst::Load(_, index) => index.iter().flat_map(of_index).collect(),
    }
}

struct Counter<'f> {
    func: &'f Func,
    sizes: &'f SizeEnv,
    steering: Vec<bool>,
    /// Values of steering variables, where they are known.
    values: Vec<Option<Scalar>>,
    scope: LaneScope,
    totals: Vec<(u64, u64)>,
    /// Stages seen before, by name.
    stages: BTreeMap<Sym, KnownStage>,
}

/// What one run of a stage touches.
struct KnownStage {
    /// Variables from outside on which its loop bounds depend.
    steering: Vec<Var>,
    /// Elements loaded and stored, per parameter, by the values of those variables.
    counts: BTreeMap<Vec<Option<i64>>, Vec<(u64, u64)>>,
}

impl KnownStage {
    fn new(func: &Func, body: &Block) -> KnownStage {
        let mut used = vec![false; func.vars.len()];
        let mut lets = vec![];
        collect(body, &mut used, &mut lets);
        for (var, inst) in lets.into_iter().rev() {
            // What is computed inside follows from the others.
            if std::mem::take(&mut used[var.0 as usize]) {
                operands(inst).into_iter().for_each(|arg| used[arg.0 as usize] = true);
            }
        }
        let steering = (0..func.vars.len() as u32).map(Var).filter(|var| used[var.0 as usize]).collect();
        KnownStage { steering, counts: BTreeMap::new() }
    }
}

impl Counter<'_> {
    fn dim(&self, dim: &Dim) -> Result<i64, Diagnostic> {
        let in_kernel = |error| format!("kernel @{}: {error}", self.func.name);
        dim.eval(self.sizes).map_err(|error| Diagnostic::input(Default::default(), in_kernel(error)))
    }

    fn set(&mut self, var: Var, value: Option<i64>) {
        self.values[var.0 as usize] = value.map(Scalar::Int);
    }

    fn tiles(&mut self, axis_idx: usize, times: u64) -> Result<(), Diagnostic> {
        let Some(axis) = self.func.grid.get(axis_idx) else {
            return self.block(&self.func.body, times, 1);
        };
        let (extent, tile) = (self.dim(&axis.extent)?.max(0), i64::from(axis.tile.max(1)));
        if self.steering[axis.base.0 as usize] {
            for idx in 0..extent / tile + i64::from(extent % tile != 0) {
                self.set(axis.base, Some(idx * tile));
                self.set(axis.count, Some(tile.min(extent - idx * tile)));
                self.tiles(axis_idx + 1, times)?;
            }
            return Ok(());
        }
        for (count, tiles) in [(tile, extent / tile), (extent % tile, i64::from(extent % tile != 0))] {
            if tiles > 0 {
                self.set(axis.count, Some(count));
                self.tiles(axis_idx + 1, times.saturating_mul(tiles as u64))?;
            }
        }
        Ok(())
    }

    /// Counts a block that runs `times`, in lane loops with `active` lanes.
    fn block(&mut self, block: &Block, times: u64, active: u64) -> Result<(), Diagnostic> {
        for stmt in block {
            match stmt {
                Stmt::Let(var, inst) => {
                    if let Inst::Load(mem, index) = inst {
                        self.touch(*mem, index, times, active, (1, 0));
                    }
                    self.scope.define(*var, inst);
                    if self.steering[var.0 as usize] {
                        self.values[var.0 as usize] = self.value(*var, inst)?;
                    }
                }
                Stmt::Store { mem, index, .. } => self.touch(*mem, index, times, active, (0, 1)),
                Stmt::Accum { mem, index, .. } => self.touch(*mem, index, times, active, (1, 1)),
                Stmt::For(inner) => self.for_loop(inner, times, active)?,
                Stmt::Stage(name, body) => self.stage(name, body, times)?,
                Stmt::Decl(id) => self.scope.declare(*id),
            }
        }
        Ok(())
    }

    /// Counts a stage, once for each set of values that steer it: of the tiles that a loop walks, most are alike.
    fn stage(&mut self, name: &Sym, body: &Block, times: u64) -> Result<(), Diagnostic> {
        let mut known = self.stages.remove(name).unwrap_or_else(|| KnownStage::new(self.func, body));
        let key: Vec<Option<i64>> =
            known.steering.iter().map(|var| self.values[var.0 as usize].map(Scalar::as_i64)).collect();
        let once = match known.counts.get(&key) {
            Some(once) => once.clone(),
            None => {
                let before = std::mem::replace(&mut self.totals, vec![(0, 0); self.func.params.len()]);
                self.block(body, 1, 1)?;
                let once = std::mem::replace(&mut self.totals, before);
                known.counts.insert(key, once.clone());
                once
            }
        };
        self.stages.insert(name.clone(), known);
        for (total, once) in self.totals.iter_mut().zip(once) {
            total.0 = total.0.saturating_add(once.0.saturating_mul(times));
            total.1 = total.1.saturating_add(once.1.saturating_mul(times));
        }
        Ok(())
    }

    fn touch(&mut self, mem: Mem, index: &[Index], times: u64, active: u64, per_access: (u64, u64)) {
        if let Mem::Param(id) = mem {
            let lanes = if self.scope.any_varies(index) { active } else { 1 };
            let elems = times.saturating_mul(lanes);
            let total = &mut self.totals[id.0 as usize];
            total.0 = total.0.saturating_add(elems * per_access.0);
            total.1 = total.1.saturating_add(elems * per_access.1);
        }
    }

    fn for_loop(&mut self, inner: &For, times: u64, active: u64) -> Result<(), Diagnostic> {
        let (start, end) = (self.bound(&inner.start)?, self.bound(&inner.end)?);
        let trips = end.saturating_sub(start).max(0) as u64;
        if let ForKind::Lanes { width } = inner.kind {
            let width = u64::from(width.max(1));
            self.set(inner.var, None);
            self.scope.enter(inner.var, width as u32);
            for (runs, lanes) in [(trips / width, width), (trips % width, 1)] {
                if runs > 0 {
                    self.block(&inner.body, times.saturating_mul(runs), lanes)?;
                }
            }
            self.scope.leave();
        } else if self.steering[inner.var.0 as usize] {
            for value in start..end {
                self.set(inner.var, Some(value));
                self.block(&inner.body, times, active)?;
            }
        } else if trips > 0 {
            self.block(&inner.body, times.saturating_mul(trips), active)?;
        }
        Ok(())
    }

    fn bound(&self, index: &Index) -> Result<i64, Diagnostic> {
        self.index(index)?.ok_or_else(|| {
            let message = "a loop bound depends on a loaded value, so its traffic has no prediction";
            Diagnostic::input(Default::default(), format!("kernel @{}: {message}", self.func.name))
        })
    }

    fn index(&self, index: &Index) -> Result<Option<i64>, Diagnostic> {
        let mut sum = Some(self.dim(&index.offset)?);
        for (var, coeff) in &index.terms {
            let coeff = self.dim(coeff)?;
            let value = self.values[var.0 as usize].map(Scalar::as_i64);
            let term = value.and_then(|value| value.checked_mul(coeff));
            sum = sum.zip(term).and_then(|(sum, term)| sum.checked_add(term));
        }
        Ok(sum)
    }

    fn value(&self, var: Var, inst: &Inst) -> Result<Option<Scalar>, Diagnostic> {
        let known = |arg: &Var| self.values[arg.0 as usize];
        Ok(match inst {
            Inst::Const(value) => Some(*value),
            Inst::Index(index) => self.index(index)?.map(Scalar::Int),
            Inst::Scalar(op, args) => {
                let values: Option<Vec<Scalar>> = args.iter().map(known).collect();
                let dtype = args.last().map_or(self.func.dtype(var), |arg| self.func.dtype(*arg));
                values.filter(|_| !dtype.is_float()).map(|values| eval(*op, dtype, &values))
            }
            Inst::Convert(arg) => known(arg).map(|value| value.convert(self.func.dtype(var))),
            Inst::Fma(..) | Inst::Bitcast(_) | Inst::Round(..) | Inst::Load(..) => None,
        })
    }
}
