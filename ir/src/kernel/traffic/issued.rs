//! Issued loads and stores, by multiplying trip counts and what the machine makes of one.

use crate::diag::Diagnostic;
use crate::dim::{Dim, SizeEnv, Sym, div_ceil};
use crate::kernel::lanes::{AccumKind, LaneScope};
use crate::kernel::{Block, For, ForKind, Func, Index, Inst, Mem, Stmt, Var};
use crate::scalar::{Scalar, eval};
use std::collections::BTreeMap;

/// How many elements one load or store of a kernel's text moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    /// A load of what is the same for all lanes.
    pub uniform_loads: u64,
    /// A load of what each lane has its own of.
    pub lane_loads: u64,
    /// A store, or an update, of what each lane has its own of. One that all lanes do alike happens once.
    pub lane_stores: u64,
}

/// What a machine makes of lanes.
pub trait Mapping {
    /// Outside lane loops.
    fn outside(&self) -> Scale;

    /// How often the body of the lane loop over `var` runs if it has `trips` iterations, and on what scale.
    ///
    /// Errors: a loop that has no one mapping.
    fn lanes(&self, var: Var, width: u32, trips: u64) -> Result<Vec<(u64, Scale)>, Diagnostic>;
}

/// Kernel IR itself: what is the same for all lanes is loaded once a chunk.
pub(super) struct Plain;

const ONCE: Scale = Scale { uniform_loads: 1, lane_loads: 1, lane_stores: 1 };

impl Mapping for Plain {
    fn outside(&self) -> Scale {
        ONCE
    }

    fn lanes(&self, _: Var, width: u32, trips: u64) -> Result<Vec<(u64, Scale)>, Diagnostic> {
        let width = u64::from(width.max(1));
        let full = Scale { uniform_loads: 1, lane_loads: width, lane_stores: width };
        Ok(vec![(trips / width, full), (trips % width, ONCE)])
    }
}

/// Elements loaded and stored, of each parameter and then of each local.
///
/// Errors: a size without a value, a bound that depends on a loaded value.
pub(super) fn count(
    func: &Func,
    sizes: &SizeEnv,
    mapping: &dyn Mapping,
) -> Result<Vec<(u64, u64)>, Diagnostic> {
    let mut counter = Counter {
        func,
        mapping,
        sizes,
        steering: steering(func),
        values: vec![None; func.vars.len()],
        scope: LaneScope::new(func),
        totals: nothing(func),
        stages: BTreeMap::new(),
    };
    counter.tiles(0, 1)?;
    Ok(counter.totals)
}

fn nothing(func: &Func) -> Vec<(u64, u64)> {
    vec![(0, 0); func.params.len() + func.locals.len()]
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

/// The variables that `inst` computes with, those of its indices among them.
fn operands(inst: &Inst) -> Vec<Var> {
    let of_index = |index: &Index| index.terms.iter().map(|(var, _)| *var).collect::<Vec<Var>>();
    match inst {
        Inst::Index(index) => of_index(index),
        Inst::Load(_, index) => index.iter().flat_map(of_index).collect(),
        _ => inst.operands(),
    }
}

struct Counter<'f> {
    func: &'f Func,
    mapping: &'f dyn Mapping,
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
    /// Elements loaded and stored, of each memory, by the values of those variables.
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
            return self.block(&self.func.body, times, self.mapping.outside());
        };
        let (extent, tile) = (self.dim(&axis.extent)?.max(0), i64::from(axis.tile.max(1)));
        if self.steering[axis.base.0 as usize] {
            for idx in 0..div_ceil(extent, tile) {
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

    /// Counts a block that runs `times`, on that scale.
    fn block(&mut self, block: &Block, times: u64, scale: Scale) -> Result<(), Diagnostic> {
        for stmt in block {
            match stmt {
                Stmt::Let(var, inst) => {
                    if let Inst::Load(mem, index) = inst {
                        self.touch(*mem, index, times, scale, (true, false));
                    }
                    self.scope.define(*var, inst);
                    if self.steering[var.0 as usize] {
                        self.values[var.0 as usize] = self.value(*var, inst)?;
                    }
                }
                Stmt::Store { mem, index, .. } => self.touch(*mem, index, times, scale, (false, true)),
                Stmt::Accum { mem, index, .. } => {
                    // Lanes reduce into registers; what becomes of those happens after the loop.
                    if self.scope.accum_kind(*mem, index) != AccumKind::Reduce {
                        self.touch(*mem, index, times, scale, (true, true));
                    }
                }
                Stmt::For(inner) => self.for_loop(inner, times, scale)?,
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
                let before = std::mem::replace(&mut self.totals, nothing(self.func));
                self.block(body, 1, self.mapping.outside())?;
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

    fn touch(&mut self, mem: Mem, index: &[Index], times: u64, scale: Scale, (loads, stores): (bool, bool)) {
        let slot = match mem {
            Mem::Param(id) => id.0 as usize,
            Mem::Local(id) => self.func.params.len() + id.0 as usize,
        };
        let (load, store) = match (self.scope.any_varies(index), stores) {
            (true, false) => (scale.lane_loads, 0),
            (true, true) => (scale.lane_stores, scale.lane_stores),
            (false, false) => (scale.uniform_loads, 0),
            (false, true) => (1, 1),
        };
        let total = &mut self.totals[slot];
        total.0 = total.0.saturating_add(if loads { times.saturating_mul(load) } else { 0 });
        total.1 = total.1.saturating_add(if stores { times.saturating_mul(store) } else { 0 });
    }

    fn for_loop(&mut self, inner: &For, times: u64, scale: Scale) -> Result<(), Diagnostic> {
        let (start, end) = (self.bound(&inner.start)?, self.bound(&inner.end)?);
        let trips = end.saturating_sub(start).max(0) as u64;
        if let ForKind::Lanes { width } = inner.kind {
            self.set(inner.var, None);
            self.scope.enter(inner.var, width);
            for (runs, scale) in self.mapping.lanes(inner.var, width, trips)? {
                if runs > 0 {
                    self.block(&inner.body, times.saturating_mul(runs), scale)?;
                }
            }
            self.scope.leave();
        } else if self.steering[inner.var.0 as usize] {
            for value in start..end {
                self.set(inner.var, Some(value));
                self.block(&inner.body, times, scale)?;
            }
        } else if trips > 0 {
            self.block(&inner.body, times.saturating_mul(trips), scale)?;
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
