//! Which lane loops can be widened, and how much.
//!
//! In: a kernel. Out: a choice for the variable of each loop that is to be changed. Nothing is changed here.

use super::{
    ACCESS_BYTES, Choice, MANY_SUMS, MAX_REGISTERS, MAX_STATEMENTS, MIN_LANES, REGISTER_BYTES, sum_uses,
};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::lanes::{AccumKind, LaneScope};
use birkhoff_ir::kernel::{Block, For, ForKind, Func, Index, Inst, LocalId, Mem, Space, Stmt, Var};
use std::collections::{BTreeMap, BTreeSet};

/// How loops are changed: by their lane variables.
pub(super) fn choices(func: &Func) -> BTreeMap<Var, Choice> {
    let mut survey =
        Survey { func, scope: LaneScope::new(func), found: BTreeMap::new(), pinned: BTreeSet::new() };
    survey.block(&func.body);
    let Survey { mut found, pinned, .. } = survey;
    agree(func, &mut found, &pinned);
    found.into_iter().filter_map(|(var, seen)| Some((var, seen.choice?))).collect()
}

/// What was seen of a lane loop.
struct Seen {
    /// What would suit it; `None` if it must stay.
    choice: Option<Choice>,
    /// It has no wish of its own: what suits the loops that it shares registers with, suits it.
    is_open: bool,
    extent: Extent,
    reduces: bool,
    /// Register arrays that it indexes by its lanes, or that every lane has a copy of.
    arrays: BTreeSet<LocalId>,
}

/// The iterations of a loop that starts at 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Extent {
    /// How many there are, at most.
    most: i64,
    /// A power of two that divides their number.
    granule: i64,
    /// The number is a constant.
    is_constant: bool,
}

/// Loops that share register arrays are changed alike, or not at all.
fn agree(func: &Func, found: &mut BTreeMap<Var, Seen>, pinned: &BTreeSet<LocalId>) {
    let mut changed = true;
    while changed {
        let mut by_array: BTreeMap<LocalId, Option<Choice>> = pinned.iter().map(|id| (*id, None)).collect();
        for seen in found.values().filter(|seen| !seen.is_open) {
            for id in &seen.arrays {
                let known = by_array.entry(*id).or_insert(seen.choice);
                *known = (*known).min(seen.choice);
            }
        }
        changed = false;
        for seen in found.values_mut() {
            let wanted =
                seen.arrays.iter().filter_map(|id| Some((*id, *by_array.get(id)?))).map(|(id, choice)| {
                    choice
                        .filter(|choice| fills(func, id, *choice) && fits(seen.extent, seen.reduces, *choice))
                });
            let Some(wanted) = wanted.min() else { continue };
            let least = if seen.is_open { wanted } else { wanted.min(seen.choice) };
            changed |= seen.is_open || least != seen.choice;
            seen.is_open = false;
            seen.choice = least;
        }
    }
}

/// True if the lanes of a register array can be shared out like this.
fn fills(func: &Func, id: LocalId, choice: Choice) -> bool {
    let local = &func.locals[id.0 as usize];
    let Some((axis, _)) = local.lane_axis else { return true };
    let extent = local.shape.get(axis as usize).and_then(Dim::as_const);
    extent.is_some_and(|extent| extent % (choice.neighbours * i64::from(choice.width)) == 0)
}

/// True if `extent` elements can be shared out like this; of a reduction nothing may remain.
fn fits(extent: Extent, reduces: bool, choice: Choice) -> bool {
    let lanes = extent.most / choice.neighbours;
    let fills_chunks = extent.is_constant && lanes % i64::from(choice.width) == 0;
    extent.granule % choice.neighbours == 0 && (!reduces || fills_chunks) && lanes >= MIN_LANES
}

/// Looks at all lane loops.
struct Survey<'f> {
    func: &'f Func,
    scope: LaneScope,
    found: BTreeMap<Var, Seen>,
    /// Register arrays that are also used as they are.
    pinned: BTreeSet<LocalId>,
}

/// What the body of one lane loop does.
#[derive(Default)]
struct Facts<'f> {
    /// Neighbours that suit the widest access, if any suits.
    neighbours: i64,
    n_statements: usize,
    /// Elements that lanes reduce into: each is a register.
    sums: BTreeSet<(Mem, &'f [Index])>,
    /// What lanes walk element by element, with the bytes of one.
    walked: Vec<(Var, i64)>,
    /// Variables that differ between lanes, and those that others are computed from.
    per_lane: BTreeSet<Var>,
    operands: BTreeSet<Var>,
    /// Bytes of what stays in registers for each neighbour: what many sums need, and what that is computed from.
    kept_bytes: i64,
    reduces: bool,
    /// Something that holds for a chunk as it is.
    stuck: bool,
    arrays: BTreeSet<LocalId>,
    /// Every place in memory that the loop touches, and whether it is written.
    touched: Vec<(Mem, &'f [Index], bool)>,
    /// Variables that change while the loop runs.
    defined: BTreeSet<Var>,
}

impl<'f> Survey<'f> {
    fn block(&mut self, block: &'f Block) {
        for stmt in block {
            match stmt {
                Stmt::Let(var, inst) => {
                    if let Inst::Load(mem, _) = inst {
                        self.pin(*mem);
                    }
                    self.scope.define(*var, inst);
                }
                Stmt::Store { mem, .. } | Stmt::Accum { mem, .. } => self.pin(*mem),
                Stmt::Decl(id) => self.scope.declare(*id),
                Stmt::Stage(_, body) => self.block(body),
                Stmt::For(inner) => match inner.kind {
                    ForKind::Lanes { width } => self.lane_loop(inner, width),
                    ForKind::Seq | ForKind::Unroll => self.block(&inner.body),
                },
            }
        }
    }

    /// Outside lane loops single lanes are meant.
    fn pin(&mut self, mem: Mem) {
        if let Mem::Local(id) = mem {
            self.pinned.insert(id);
        }
    }

    fn lane_loop(&mut self, inner: &'f For, width: u32) {
        let mut facts = Facts { neighbours: 1, ..Facts::default() };
        self.scope.enter(inner.var, width);
        self.lane_block(&inner.body, inner.var, &mut facts);
        self.scope.leave();
        let uses = sum_uses(&inner.body);
        let is_kept = |var: &Var| uses.get(var).is_some_and(|uses| *uses > MANY_SUMS);
        let many = facts.per_lane.iter().filter(|var| is_kept(var)).count() as i64;
        let sources = facts.walked.iter().filter(|(var, _)| facts.operands.contains(var) && !is_kept(var));
        facts.kept_bytes = REGISTER_BYTES * many + sources.map(|(_, bytes)| bytes).sum::<i64>();
        let extent = self.extent(inner).filter(|_| !facts.stuck && !self.lanes_meet(&facts, inner.var));
        let choice = extent.and_then(|extent| suitable(&facts, extent, i64::from(width)));
        let is_open = extent.is_some() && facts.neighbours == 1;
        let extent = extent.unwrap_or(Extent { most: 0, granule: 1, is_constant: true });
        let seen = Seen { choice, is_open, extent, reduces: facts.reduces, arrays: facts.arrays };
        self.found.insert(inner.var, seen);
    }

    /// The iterations of a loop over a constant range or the places of a tile, from 0.
    fn extent(&self, inner: &For) -> Option<Extent> {
        let granule =
            |divides: &dyn Fn(i64) -> bool| halves(ACCESS_BYTES).find(|by| divides(*by)).unwrap_or(1);
        if inner.start != Index::constant(0) {
            return None;
        }
        if inner.end.terms.is_empty() {
            let most = inner.end.offset.as_const().filter(|most| *most > 0)?;
            return Some(Extent { most, granule: granule(&|by| most % by == 0), is_constant: true });
        }
        let axis = self.func.grid.iter().find(|axis| inner.end == Index::var(axis.count))?;
        let tile = i64::from(axis.tile);
        if axis.extent.as_const().is_some_and(|extent| extent % tile == 0) {
            // Every tile is full.
            return Some(Extent { most: tile, granule: granule(&|by| tile % by == 0), is_constant: true });
        }
        let divides = |by: i64| tile % by == 0 && axis.extent.terms().all(|(_, coeff)| coeff % by == 0);
        Some(Extent { most: tile, granule: granule(&divides), is_constant: false })
    }

    fn lane_block(&mut self, block: &'f Block, lane: Var, facts: &mut Facts<'f>) {
        for stmt in block {
            facts.n_statements += 1;
            match stmt {
                Stmt::Let(var, inst) => {
                    if let Inst::Load(mem, index) = inst {
                        self.touch(*mem, index, lane, false, facts);
                        if matches!(mem, Mem::Param(_)) && self.neighbours(*mem, index, lane) > 1 {
                            facts.walked.push((*var, self.func.mem_dtype(*mem).size_bytes() as i64));
                        }
                    }
                    facts.defined.insert(*var);
                    facts.operands.extend(inst.operands());
                    self.scope.define(*var, inst);
                    if self.scope.is_per_lane(*var) {
                        facts.per_lane.insert(*var);
                    }
                }
                Stmt::Store { mem, index, .. } => {
                    facts.stuck |= !self.scope.is_private(*mem) && !self.scope.any_varies(index);
                    self.touch(*mem, index, lane, true, facts);
                }
                Stmt::Accum { mem, index, .. } => {
                    if self.scope.accum_kind(*mem, index) == AccumKind::Reduce {
                        facts.reduces = true;
                        facts.sums.insert((*mem, index));
                    } else {
                        self.touch(*mem, index, lane, true, facts);
                    }
                }
                Stmt::For(inner) => {
                    facts.defined.insert(inner.var);
                    self.lane_block(&inner.body, lane, facts);
                }
                Stmt::Stage(_, body) => self.lane_block(body, lane, facts),
                Stmt::Decl(id) => self.scope.declare(*id),
            }
        }
    }

    fn touch(&mut self, mem: Mem, index: &'f [Index], lane: Var, writes: bool, facts: &mut Facts<'f>) {
        if let Mem::Local(id) = mem
            && self.func.locals[id.0 as usize].space == Space::Reg
        {
            match self.func.locals[id.0 as usize].lane_axis {
                Some((axis, _)) if index.get(axis as usize) == Some(&Index::var(lane)) => {
                    facts.arrays.insert(id);
                }
                // A single lane of all.
                Some(_) => facts.stuck = true,
                None if self.scope.is_private(mem) => {
                    facts.arrays.insert(id);
                }
                None => self.pin(mem),
            }
            return;
        }
        facts.touched.push((mem, index, writes));
        if matches!(mem, Mem::Param(_)) {
            facts.neighbours = facts.neighbours.max(self.neighbours(mem, index, lane));
        }
    }

    /// Neighbouring elements that one access can take, if the lane variable walks them in order.
    fn neighbours(&self, mem: Mem, index: &[Index], lane: Var) -> i64 {
        let most = ACCESS_BYTES / self.func.mem_dtype(mem).size_bytes().max(1) as i64;
        let mut linear = Index::default();
        let mut stride = Dim::constant(1);
        for (index, extent) in index.iter().zip(self.func.mem_shape(mem)).rev() {
            linear = linear.add(&index.scale(&stride));
            stride = stride.mul(extent);
        }
        if self.func.mem_dtype(mem) == DType::Bool || !linear.coeff(lane).is_const(1) {
            return 1;
        }
        // Tiles start at multiples of their size.
        let step = |var: &Var| {
            let axis = self.func.grid.iter().find(|axis| axis.base == *var);
            axis.map_or(1, |axis| i64::from(axis.tile))
        };
        let aligned = |by: i64| {
            let is_multiple =
                |dim: &Dim, step: i64| dim.terms().all(|(_, coeff)| coeff.wrapping_mul(step) % by == 0);
            let others = linear.terms.iter().filter(|(var, _)| *var != lane);
            others.into_iter().all(|(var, coeff)| is_multiple(coeff, step(var)))
                && is_multiple(&linear.offset, 1)
        };
        halves(most).find(|by| aligned(*by)).unwrap_or(1)
    }

    /// True if a lane may touch what another writes: its order then depends on what a chunk is. They do not meet where the
    /// index along one axis tells the lane.
    fn lanes_meet(&self, facts: &Facts<'f>, lane: Var) -> bool {
        let written: BTreeSet<Mem> =
            facts.touched.iter().filter(|(_, _, writes)| *writes).map(|(mem, ..)| *mem).collect();
        let tells = |index: &Index| {
            let fixed = |var: &Var| *var == lane || !facts.defined.contains(var);
            !index.coeff(lane).is_const(0) && index.terms.iter().all(|(var, _)| fixed(var))
        };
        written.into_iter().any(|mem| {
            let places =
                || facts.touched.iter().filter(|(other, ..)| *other == mem).map(|(_, index, _)| *index);
            let Some(first) = places().next() else { return false };
            let same = |axis: usize| places().all(|index| index.get(axis) == first.get(axis));
            !(0..first.len()).any(|axis| tells(&first[axis]) && same(axis))
        })
    }
}

/// `most`, and half of it, down to 1.
fn halves(most: i64) -> impl Iterator<Item = i64> + Clone {
    std::iter::successors(Some(most), |value| Some(value / 2)).take_while(|value| *value >= 1)
}

/// The most neighbours that suit a loop of so many elements, and how many lanes then make a chunk.
fn suitable(facts: &Facts<'_>, extent: Extent, width: i64) -> Option<Choice> {
    let counts = halves(facts.neighbours).take_while(|neighbours| *neighbours > 1);
    counts
        .filter(|neighbours| facts.n_statements.saturating_mul(*neighbours as usize) <= MAX_STATEMENTS)
        .filter(|neighbours| {
            facts.sums.is_empty()
                || facts.sums.len() as i64 + neighbours * facts.kept_bytes / REGISTER_BYTES <= MAX_REGISTERS
        })
        .flat_map(|neighbours| {
            let widths = halves(width).take_while(|width| *width >= MIN_LANES);
            widths.map(move |width| Choice { neighbours, width: width as u32 })
        })
        .find(|choice| fits(extent, facts.reduces, *choice))
}
