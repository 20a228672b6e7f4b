//! Which values differ between the lanes of a chunk, and what an accumulation there means.
//!
//! In: a walk over a kernel in program order, told to [`LaneScope`] step by step. Out: per-lane or uniform, by the rule of the
//! module's text. Shared by the verifier, the evaluator and the traffic count, so that they cannot disagree.

use super::{Func, Index, Inst, LocalId, Mem, Var};

/// What is known at one point of a walk.
#[derive(Clone, Debug)]
pub struct LaneScope {
    per_lane: Vec<bool>,
    private: Vec<bool>,
    lane: Option<(Var, u32)>,
}

/// What an [`super::Stmt::Accum`] does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccumKind {
    /// Outside lane loops: updates one element.
    Scalar,
    /// Inside one, on an element of each lane's own.
    PerLane,
    /// Inside one, on an element that all lanes share: a lane reduction.
    Reduce,
}

impl LaneScope {
    /// Before the first statement.
    pub fn new(func: &Func) -> Self {
        LaneScope {
            per_lane: vec![false; func.vars.len()],
            private: vec![false; func.locals.len()],
            lane: None,
        }
    }

    /// The lane variable and width of the lane loop around, if there is one.
    pub fn lane(&self) -> Option<(Var, u32)> {
        self.lane
    }

    /// Enters the body of a lane loop.
    pub fn enter(&mut self, var: Var, width: u32) {
        self.lane = Some((var, width));
        self.mark(var, true);
    }

    /// Leaves the lane loop; its registers end with it.
    pub fn leave(&mut self) {
        self.lane = None;
        self.private.fill(false);
    }

    /// A register array is declared here.
    pub fn declare(&mut self, id: LocalId) {
        if let Some(private) = self.private.get_mut(id.0 as usize) {
            *private = self.lane.is_some();
        }
    }

    /// `var` is defined here as `inst`.
    pub fn define(&mut self, var: Var, inst: &Inst) {
        let per_lane = match inst {
            Inst::Const(_) => false,
            Inst::Index(index) => self.varies(index),
            Inst::Scalar(_, args) => args.iter().any(|arg| self.is_per_lane(*arg)),
            Inst::Fma(a, b, c) => [a, b, c].into_iter().any(|arg| self.is_per_lane(*arg)),
            Inst::Convert(arg) | Inst::Bitcast(arg) | Inst::Round(_, arg) => self.is_per_lane(*arg),
            Inst::Load(mem, index) => self.is_private(*mem) || self.any_varies(index),
        };
        self.mark(var, per_lane);
    }

    fn mark(&mut self, var: Var, per_lane: bool) {
        if let Some(slot) = self.per_lane.get_mut(var.0 as usize) {
            *slot = per_lane;
        }
    }

    /// True if lanes may have different values of `var`.
    pub fn is_per_lane(&self, var: Var) -> bool {
        self.per_lane.get(var.0 as usize).copied().unwrap_or(false)
    }

    /// True if lanes may have different values of `index`.
    pub fn varies(&self, index: &Index) -> bool {
        index.terms.iter().any(|(var, _)| self.is_per_lane(*var))
    }

    /// True if lanes may address different elements.
    pub fn any_varies(&self, index: &[Index]) -> bool {
        index.iter().any(|index| self.varies(index))
    }

    /// True for a register array that every lane has its own copy of.
    pub fn is_private(&self, mem: Mem) -> bool {
        match mem {
            Mem::Local(id) => self.private.get(id.0 as usize).copied().unwrap_or(false),
            Mem::Param(_) => false,
        }
    }

    /// What an accumulation into that element means here.
    pub fn accum_kind(&self, mem: Mem, index: &[Index]) -> AccumKind {
        match self.lane {
            None => AccumKind::Scalar,
            Some(_) if self.is_private(mem) || self.any_varies(index) => AccumKind::PerLane,
            Some(_) => AccumKind::Reduce,
        }
    }
}
