//! What lanes may do to memory, and how registers are indexed.

use super::body::Checker;
use crate::diag::Span;
use crate::dim::Dim;
use crate::kernel::lanes::AccumKind;
use crate::kernel::{AccumOp, Index, LocalId, Mem, Var};

impl<'f> Checker<'_, 'f> {
    /// Register arrays need no memory: every index is known once loops are unrolled, or is the lane.
    pub(super) fn register_index(&mut self, id: LocalId, index: &'f [Index]) {
        let local = &self.report.func.locals[id.0 as usize];
        let lane = self.lanes.as_ref().map(|lanes| (lanes.var, lanes.width, lanes.aligned));
        for (axis, index) in index.iter().enumerate() {
            let name = &local.name;
            if let Some((var, width, aligned)) = lane.filter(|(var, ..)| !index.coeff(*var).is_const(0)) {
                let fits = local.lane_axis == Some((axis as u32, width));
                self.require(fits, || {
                    format!(
                        "axis {axis} of `{name}` is indexed by lanes of width {width} but is not declared so"
                    )
                });
                self.require(*index == Index::var(var), || {
                    format!("the lane axis of `{name}` is indexed by the lane variable and nothing else")
                });
                self.require(aligned, || {
                    format!("a lane loop that indexes `{name}` starts at a constant multiple of its width")
                });
                let private = self.scope.is_private(Mem::Local(id));
                self.require(!private, || {
                    format!("`{name}` is declared inside the lane loop whose variable indexes it")
                });
                continue;
            }
            let unrolled = |var: &Var| self.vars.get(var.0 as usize).is_some_and(|known| known.unrolled);
            let constant = |dim: &Dim| dim.as_const().is_some();
            let known = index.terms.iter().all(|(var, coeff)| unrolled(var) && constant(coeff));
            self.require(known && constant(&index.offset), || {
                format!("`{name}` is `reg`: axis {axis} is indexed by constants and `unroll` variables only")
            });
        }
    }

    fn note_touched(&mut self, mem: Mem) {
        let span = self.span;
        if let Some(lanes) = &mut self.lanes {
            lanes.touched.entry(mem).or_insert(span);
        }
    }

    /// A load inside a lane loop.
    pub(super) fn lane_load(&mut self, mem: Mem) {
        self.note_touched(mem);
    }

    /// A store inside a lane loop.
    pub(super) fn lane_store(&mut self, mem: Mem, index: &'f [Index], value: Var) {
        self.note_touched(mem);
        if self.lanes.is_none() || self.scope.is_private(mem) {
            return;
        }
        let name = self.report.func.mem_name(mem);
        if self.scope.any_varies(index) {
            self.indexed_by_lane(mem, index);
        } else {
            let per_lane = self.scope.is_per_lane(value);
            self.require(!per_lane, || format!("lanes store different values to one element of `{name}`"));
        }
    }

    /// An accumulation inside a lane loop.
    pub(super) fn lane_accum(&mut self, op: AccumOp, mem: Mem, index: &'f [Index]) {
        let name = self.report.func.mem_name(mem);
        match self.scope.accum_kind(mem, index) {
            AccumKind::Scalar => {}
            AccumKind::PerLane => {
                self.note_touched(mem);
                if !self.scope.is_private(mem) {
                    self.indexed_by_lane(mem, index);
                }
            }
            AccumKind::Reduce => {
                let local = matches!(mem, Mem::Local(_));
                self.require(local, || {
                    format!("`{name}` is the target of a lane reduction, expected a local")
                });
                let moves = |var: &Var| {
                    self.vars.get(var.0 as usize).is_some_and(|known| known.in_lanes && !known.unrolled)
                };
                let fixed = !index.iter().flat_map(|index| &index.terms).any(|(var, _)| moves(var));
                self.require(fixed, || {
                    format!("the element of `{name}` that lanes reduce into changes while the loop runs")
                });
                let combine = op.combine();
                let Some(lanes) = &mut self.lanes else { return };
                let first = *lanes.reduced.entry(mem).or_insert(combine);
                self.require(first == combine, || {
                    format!("lanes reduce into `{name}` both with `{first}` and `{combine}`")
                });
            }
        }
    }

    /// Lanes that write must not meet: the lane variable itself is part of the index.
    fn indexed_by_lane(&mut self, mem: Mem, index: &'f [Index]) {
        let Some(lanes) = &self.lanes else { return };
        let var = lanes.var;
        let direct = index.iter().any(|index| !index.coeff(var).is_const(0));
        let name = self.report.func.mem_name(mem);
        self.require(direct, || {
            format!("`{name}` is written per lane, but its index does not contain the lane variable")
        });
    }

    /// The end of a lane loop whose head stands at `span`.
    pub(super) fn lanes_done(&mut self, span: Span) {
        let Some(lanes) = self.lanes.take() else { return };
        for mem in lanes.reduced.keys() {
            if let Some(touched) = lanes.touched.get(mem) {
                self.span = if *touched == Span::NONE { span } else { *touched };
                let name = self.report.func.mem_name(*mem);
                self.fail(format!(
                    "`{name}` is the target of a lane reduction and is touched otherwise in the same loop"
                ));
            }
        }
    }
}
