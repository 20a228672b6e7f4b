//! Lane loops whose lanes take several neighbouring elements, so that a thread loads and stores 16 bytes at a time.
//!
//! In: a kernel whose lanes are threads. Out: the kernel with `lanes i in 0..E` become `lanes i in 0..E/v`, where lane `i` does
//! what the lanes `v*i .. v*i+v` did, one after the other; lane reductions take their terms in that order. A loop is changed if
//! it walks memory at the kernel's edge element by element, if rows there start at multiples of `v` elements, if at least a warp
//! of lanes remains, and if no lane meets another. Register arrays that lanes index get an axis for the neighbours.
//!
//! Deliberately absent: the accesses themselves. They stay one per element, next to each other in memory and in the kernel, and
//! the back end makes one of them where the address of the first is aligned.

use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::lanes::{AccumKind, LaneScope};
use birkhoff_ir::kernel::{
    Access, Block, For, ForKind, Func, Index, Inst, LocalId, Mem, Space, Stmt, Var, VarInfo,
};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that one instruction moves for a thread.
const ACCESS_BYTES: i64 = 16;
/// Lanes that remain at least: a warp.
const MIN_LANES: i64 = 32;
/// Statements that the body of a widened loop may have: code is compiled, and has to be fetched.
const MAX_STATEMENTS: usize = 2048;

/// Registers that the partial results of a widened loop and what it walks may take, of the 255 that a thread has.
const MAX_REGISTERS: i64 = 144;

/// How a loop is changed: by its lane variable.
type Choices = BTreeMap<Var, Choice>;

/// Neighbours that a lane takes, and the lanes of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Choice {
    neighbours: i64,
    width: u32,
}

/// Widens what lane loops of `func` can be.
pub fn widen(func: &mut Func) {
    let mut survey =
        Survey { func, scope: LaneScope::new(func), found: BTreeMap::new(), pinned: BTreeSet::new() };
    survey.block(&func.body);
    let Survey { mut found, pinned, .. } = survey;
    agree(func, &mut found, &pinned);
    let choices: Choices = found.into_iter().filter_map(|(var, seen)| Some((var, seen.choice?))).collect();
    if choices.is_empty() {
        return;
    }
    let mut rewriter = Rewriter { choices, arrays: BTreeMap::new() };
    let body = std::mem::take(&mut func.body);
    func.body = rewriter.outside(func, body);
}

/// What was seen of a lane loop.
struct Seen {
    /// What would suit it; `None` if it must stay.
    choice: Option<Choice>,
    extent: i64,
    reduces: bool,
    /// Register arrays that it indexes by its lanes, or that every lane has a copy of.
    arrays: BTreeSet<LocalId>,
}

/// Loops that share register arrays are changed alike, or not at all.
fn agree(func: &Func, found: &mut BTreeMap<Var, Seen>, pinned: &BTreeSet<LocalId>) {
    loop {
        let mut by_array: BTreeMap<LocalId, Option<Choice>> = pinned.iter().map(|id| (*id, None)).collect();
        for seen in found.values() {
            for id in &seen.arrays {
                let known = by_array.entry(*id).or_insert(seen.choice);
                *known = (*known).min(seen.choice);
            }
        }
        let mut changed = false;
        for seen in found.values_mut() {
            let wanted = seen.arrays.iter().map(|id| {
                let choice = by_array.get(id).copied().flatten();
                choice.filter(|choice| fills(func, *id, *choice) && fits(seen.extent, seen.reduces, *choice))
            });
            let least = wanted.min().map_or(seen.choice, |wanted| wanted.min(seen.choice));
            changed |= least != seen.choice;
            seen.choice = least;
        }
        if !changed {
            return;
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
fn fits(extent: i64, reduces: bool, choice: Choice) -> bool {
    extent % choice.neighbours == 0
        && (!reduces || extent / choice.neighbours % i64::from(choice.width) == 0)
        && extent / choice.neighbours >= MIN_LANES
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
    /// Bytes of the elements that a lane walks for each neighbour, which stay in registers for all of them.
    walked_bytes: i64,
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
        let bounds = (inner.start.terms.is_empty() && inner.end.terms.is_empty())
            .then(|| inner.start.offset.as_const().zip(inner.end.offset.as_const()))
            .flatten();
        let extent = bounds.filter(|(start, _)| *start == 0).map_or(0, |(_, end)| end);
        let choice = (!facts.stuck && !self.lanes_meet(&facts, inner.var))
            .then(|| suitable(&facts, extent, i64::from(width)))
            .flatten();
        let seen = Seen { choice, extent, reduces: facts.reduces, arrays: facts.arrays };
        self.found.insert(inner.var, seen);
    }

    fn lane_block(&mut self, block: &'f Block, lane: Var, facts: &mut Facts<'f>) {
        for stmt in block {
            facts.n_statements += 1;
            match stmt {
                Stmt::Let(var, inst) => {
                    if let Inst::Load(mem, index) = inst {
                        self.touch(*mem, index, lane, false, facts);
                    }
                    facts.defined.insert(*var);
                    self.scope.define(*var, inst);
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
            let neighbours = self.neighbours(mem, index, lane);
            facts.neighbours = facts.neighbours.max(neighbours);
            if neighbours > 1 && !writes {
                facts.walked_bytes += self.func.mem_dtype(mem).size_bytes() as i64;
            }
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
        let others = linear.terms.iter().filter(|(var, _)| *var != lane).map(|(_, coeff)| coeff);
        let aligned = |by: i64| {
            let is_multiple = |dim: &Dim| dim.terms().all(|(_, coeff)| coeff % by == 0);
            others.clone().all(is_multiple) && is_multiple(&linear.offset)
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

/// The most neighbours that suit a loop of `extent` elements, and how many lanes then make a chunk.
fn suitable(facts: &Facts<'_>, extent: i64, width: i64) -> Option<Choice> {
    let counts = halves(facts.neighbours).take_while(|neighbours| *neighbours > 1);
    counts
        .filter(|neighbours| facts.n_statements.saturating_mul(*neighbours as usize) <= MAX_STATEMENTS)
        .filter(|neighbours| {
            facts.sums.is_empty()
                || facts.sums.len() as i64 + neighbours * facts.walked_bytes / 4 <= MAX_REGISTERS
        })
        .flat_map(|neighbours| {
            let widths = halves(width).take_while(|width| *width >= MIN_LANES);
            widths.map(move |width| Choice { neighbours, width: width as u32 })
        })
        .find(|choice| fits(extent, facts.reduces, *choice))
}

/// Writes the changed loops.
struct Rewriter {
    choices: Choices,
    /// Register arrays with a new first axis.
    arrays: BTreeMap<LocalId, i64>,
}

/// One lane loop that is being written.
struct Lanes {
    var: Var,
    neighbours: i64,
    scope: LaneScope,
    /// For every neighbour, what stands for each variable that differs between lanes.
    names: Vec<BTreeMap<Var, Var>>,
}

impl Rewriter {
    fn outside(&mut self, func: &mut Func, block: Block) -> Block {
        let rewrite = |stmt| match stmt {
            Stmt::Stage(name, body) => Stmt::Stage(name, self.outside(func, body)),
            Stmt::For(inner) => {
                let mut inner = *inner;
                match self.choices.get(&inner.var).copied() {
                    Some(choice) => self.lane_loop(func, &mut inner, choice),
                    None => inner.body = self.outside(func, std::mem::take(&mut inner.body)),
                }
                Stmt::For(Box::new(inner))
            }
            other => other,
        };
        block.into_iter().map(rewrite).collect()
    }

    fn lane_loop(&mut self, func: &mut Func, inner: &mut For, choice: Choice) {
        let Choice { neighbours, width } = choice;
        let mut scope = LaneScope::new(func);
        scope.enter(inner.var, width);
        let names = vec![BTreeMap::new(); neighbours as usize];
        let mut lanes = Lanes { var: inner.var, neighbours, scope, names };
        let mut body = vec![];
        if uses_as_value(&inner.body, inner.var) {
            for number in 0..neighbours {
                let name = fresh(func, DType::I64);
                let place = element(&lanes, number);
                body.push(Stmt::Let(name, Inst::Index(place)));
                lanes.names[number as usize].insert(inner.var, name);
            }
        }
        let old = std::mem::take(&mut inner.body);
        body.extend(self.inside(func, &mut lanes, old));
        inner.body = body;
        inner.end = Index::constant(inner.end.offset.as_const().unwrap_or(0) / neighbours);
        inner.kind = ForKind::Lanes { width };
    }

    /// Every run of plain statements once for each neighbour; loops once, around all of them.
    fn inside(&mut self, func: &mut Func, lanes: &mut Lanes, block: Block) -> Block {
        let mut written = vec![];
        let mut run: Vec<(Stmt, bool)> = vec![];
        for stmt in block {
            match stmt {
                Stmt::For(mut inner) => {
                    self.run(func, lanes, std::mem::take(&mut run), &mut written);
                    inner.body = self.inside(func, lanes, std::mem::take(&mut inner.body));
                    written.push(Stmt::For(inner));
                }
                Stmt::Let(var, inst) => {
                    lanes.scope.define(var, &inst);
                    let is_uniform = !lanes.scope.is_per_lane(var);
                    run.push((Stmt::Let(var, inst), is_uniform));
                }
                Stmt::Decl(id) => {
                    lanes.scope.declare(id);
                    self.add_axis(func, id, lanes.neighbours, None);
                    run.push((Stmt::Decl(id), true));
                }
                other => run.push((other, false)),
            }
        }
        self.run(func, lanes, run, &mut written);
        written
    }

    fn run(&mut self, func: &mut Func, lanes: &mut Lanes, run: Vec<(Stmt, bool)>, written: &mut Block) {
        let start = written.len();
        for number in 0..lanes.neighbours {
            for (stmt, is_uniform) in &run {
                if *is_uniform {
                    if number == 0 {
                        written.push(stmt.clone());
                    }
                    continue;
                }
                let stmt = match stmt {
                    Stmt::Let(var, inst) => {
                        let inst = self.inst(func, lanes, number, inst);
                        let name = if number == 0 { *var } else { fresh(func, func.dtype(*var)) };
                        lanes.names[number as usize].insert(*var, name);
                        Stmt::Let(name, inst)
                    }
                    Stmt::Store { mem, index, value } => {
                        let index = self.place(func, lanes, number, *mem, index);
                        Stmt::Store { mem: *mem, index, value: lanes.name(number, *value) }
                    }
                    Stmt::Accum { op, mem, index, args } => {
                        let index = self.place(func, lanes, number, *mem, index);
                        let args = args.iter().map(|arg| lanes.name(number, *arg)).collect();
                        Stmt::Accum { op: *op, mem: *mem, index, args }
                    }
                    other => other.clone(),
                };
                written.push(stmt);
            }
        }
        let plain = written.split_off(start);
        written.extend(sums_early(func, lanes, plain));
    }

    fn inst(&mut self, func: &mut Func, lanes: &Lanes, number: i64, inst: &Inst) -> Inst {
        let name = |var: &Var| lanes.name(number, *var);
        match inst {
            Inst::Const(value) => Inst::Const(*value),
            Inst::Index(index) => Inst::Index(lanes.index(number, index)),
            Inst::Scalar(op, args) => Inst::Scalar(*op, args.iter().map(name).collect()),
            Inst::Fma(a, b, c) => Inst::Fma(name(a), name(b), name(c)),
            Inst::Convert(arg) => Inst::Convert(name(arg)),
            Inst::Bitcast(arg) => Inst::Bitcast(name(arg)),
            Inst::Round(dtype, arg) => Inst::Round(*dtype, name(arg)),
            Inst::Load(mem, index) => Inst::Load(*mem, self.place(func, lanes, number, *mem, index)),
        }
    }

    /// Where a neighbour finds an element.
    fn place(
        &mut self,
        func: &mut Func,
        lanes: &Lanes,
        number: i64,
        mem: Mem,
        index: &[Index],
    ) -> Vec<Index> {
        let Mem::Local(id) = mem else {
            return index.iter().map(|index| lanes.index(number, index)).collect();
        };
        let lane_axis = func.locals[id.0 as usize].lane_axis.map(|(axis, _)| axis as usize);
        // The axis may have been moved by the new one already.
        let moved = usize::from(self.arrays.contains_key(&id));
        let by_lane = lane_axis.is_some_and(|axis| index.get(axis - moved) == Some(&Index::var(lanes.var)));
        if by_lane {
            self.add_axis(func, id, lanes.neighbours, lane_axis);
            let width = lanes.scope.lane().map_or(1, |(_, width)| width);
            let axis = lane_axis.map_or(0, |axis| axis - moved);
            func.locals[id.0 as usize].lane_axis = Some((axis as u32 + 1, width));
            return std::iter::once(Index::constant(number)).chain(index.iter().cloned()).collect();
        }
        let here = index.iter().map(|index| lanes.index(number, index));
        if lanes.scope.is_private(mem) {
            return std::iter::once(Index::constant(number)).chain(here).collect();
        }
        here.collect()
    }

    /// Gives a register array an axis for the neighbours; along its lanes it then has as many fewer.
    fn add_axis(&mut self, func: &mut Func, id: LocalId, neighbours: i64, lane_axis: Option<usize>) {
        if self.arrays.insert(id, neighbours).is_some() {
            return;
        }
        let shape = &mut func.locals[id.0 as usize].shape;
        if let Some(extent) = lane_axis.and_then(|axis| shape.get_mut(axis)) {
            *extent = Dim::constant(extent.as_const().unwrap_or(0) / neighbours);
        }
        shape.insert(0, Dim::constant(neighbours));
    }
}

impl Lanes {
    fn name(&self, number: i64, var: Var) -> Var {
        self.names[number as usize].get(&var).copied().unwrap_or(var)
    }

    /// `index` for a neighbour of the lane.
    fn index(&self, number: i64, index: &Index) -> Index {
        let mut here = Index::constant(index.offset.clone());
        for (var, coeff) in &index.terms {
            let term =
                if *var == self.var { element(self, number) } else { Index::var(self.name(number, *var)) };
            here = here.add(&term.scale(coeff));
        }
        here
    }
}

/// A run of plain statements in an order that keeps few values alive: what lanes walk element by element is loaded first, and
/// terms of reductions are added as soon as they are there.
fn sums_early(func: &Func, lanes: &Lanes, run: Block) -> Block {
    let is_sum = |stmt: &Stmt| match stmt {
        Stmt::Accum { mem, index, .. } => lanes.scope.accum_kind(*mem, index) == AccumKind::Reduce,
        _ => false,
    };
    if !run.iter().any(is_sum) {
        return run;
    }
    let defined: BTreeSet<Var> =
        run.iter().filter_map(|stmt| if let Stmt::Let(var, _) = stmt { Some(*var) } else { None }).collect();
    let comes_first = |stmt: &Stmt| match stmt {
        Stmt::Let(_, Inst::Load(Mem::Param(id), index)) => {
            let constant = func.params[id.0 as usize].access == Access::Read;
            let free = index.iter().flat_map(|index| &index.terms).all(|(var, _)| !defined.contains(var));
            let by_neighbours =
                index.last().is_some_and(|index| index.coeff(lanes.var).is_const(lanes.neighbours));
            constant && free && by_neighbours
        }
        _ => false,
    };
    let (mut ordered, rest): (Block, Block) = run.into_iter().partition(comes_first);
    let (sums, rest): (Block, Block) = rest.into_iter().partition(is_sum);
    // After which statement of `rest` the last operand is there.
    let position: BTreeMap<Var, usize> = rest
        .iter()
        .enumerate()
        .filter_map(|(at, stmt)| if let Stmt::Let(var, _) = stmt { Some((*var, at + 1)) } else { None })
        .collect();
    let mut after: Vec<Block> = vec![vec![]; rest.len() + 1];
    for stmt in sums {
        let Stmt::Accum { args, .. } = &stmt else { continue };
        let ready = args.iter().filter_map(|arg| position.get(arg).copied()).max().unwrap_or(0);
        after[ready].push(stmt);
    }
    let mut after = after.into_iter();
    ordered.extend(after.next().into_iter().flatten());
    for (stmt, sums) in rest.into_iter().zip(after) {
        ordered.push(stmt);
        ordered.extend(sums);
    }
    ordered
}

/// The element that a neighbour of the lane takes.
fn element(lanes: &Lanes, number: i64) -> Index {
    Index::var(lanes.var).scale(&Dim::constant(lanes.neighbours)).add(&Index::constant(number))
}

fn fresh(func: &mut Func, dtype: DType) -> Var {
    func.vars.push(VarInfo { dtype, name: None });
    Var(func.vars.len() as u32 - 1)
}

/// True if `var` is computed with, and not only part of indices.
fn uses_as_value(block: &Block, var: Var) -> bool {
    block.iter().any(|stmt| match stmt {
        Stmt::Let(_, inst) => match inst {
            Inst::Scalar(_, args) => args.contains(&var),
            Inst::Fma(a, b, c) => [a, b, c].contains(&&var),
            Inst::Convert(arg) | Inst::Bitcast(arg) | Inst::Round(_, arg) => *arg == var,
            Inst::Const(_) | Inst::Index(_) | Inst::Load(..) => false,
        },
        Stmt::Store { value, .. } => *value == var,
        Stmt::Accum { args, .. } => args.contains(&var),
        Stmt::For(inner) => uses_as_value(&inner.body, var),
        Stmt::Stage(_, body) => uses_as_value(body, var),
        Stmt::Decl(_) => false,
    })
}
