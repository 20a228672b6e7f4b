//! Writing the loops that were chosen.
//!
//! In: a kernel and choices. Out: the kernel with those loops changed. Statements that are the same for all lanes stay as they
//! are; the others are there once for each neighbour. Where there are sums, the order is one that keeps few values alive.

use super::{Choice, MANY_SUMS, sum_uses};
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::lanes::{AccumKind, LaneScope};
use birkhoff_ir::kernel::{Access, Block, For, ForKind, Func, Index, Inst, LocalId, Mem, Stmt, Var, VarInfo};
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use std::collections::{BTreeMap, BTreeSet};

/// Writes the changed loops.
pub(super) struct Rewriter {
    choices: BTreeMap<Var, Choice>,
    /// Register arrays with a new first axis.
    arrays: BTreeMap<LocalId, i64>,
}

/// One lane loop that is being written.
struct Lanes {
    var: Var,
    neighbours: i64,
    scope: LaneScope,
    /// Loaded values that stay in registers for many sums.
    kept: BTreeSet<Var>,
    /// Each statement for all neighbours before the next one, where most loads are of neighbours.
    by_statement: bool,
    /// For every neighbour, what stands for each variable that differs between lanes.
    names: Vec<BTreeMap<Var, Var>>,
}

/// A statement, and whether it comes before all others.
type Placed = (Stmt, bool);

impl Rewriter {
    pub(super) fn new(choices: BTreeMap<Var, Choice>) -> Rewriter {
        Rewriter { choices, arrays: BTreeMap::new() }
    }

    /// What is outside the changed loops, with those in it.
    pub(super) fn outside(&mut self, func: &mut Func, block: Block) -> Block {
        let mut written = vec![];
        for stmt in block {
            let stmt = match stmt {
                Stmt::Stage(name, body) => Stmt::Stage(name, self.outside(func, body)),
                Stmt::For(mut inner) => {
                    match self.choices.get(&inner.var).copied() {
                        Some(choice) => {
                            inner.end = self.end(func, &inner.end, choice.neighbours, &mut written);
                            self.lane_loop(func, &mut inner, choice);
                        }
                        None => inner.body = self.outside(func, std::mem::take(&mut inner.body)),
                    }
                    Stmt::For(inner)
                }
                other => other,
            };
            written.push(stmt);
        }
        written
    }

    /// `end / neighbours`, which divides.
    fn end(&self, func: &mut Func, end: &Index, neighbours: i64, written: &mut Block) -> Index {
        let full = func.grid.iter().find(|axis| *end == Index::var(axis.count)).and_then(|axis| {
            let tile = i64::from(axis.tile);
            axis.extent.as_const().filter(|extent| extent % tile == 0).map(|_| tile)
        });
        match (end.terms.as_slice(), full.or(end.offset.as_const())) {
            ([(count, _)], _) if full.is_none() => {
                let (by, quotient) = (fresh(func, DType::I64), fresh(func, DType::I64));
                written.push(Stmt::Let(by, Inst::Const(Scalar::Int(neighbours))));
                written.push(Stmt::Let(quotient, Inst::Scalar(ScalarOp::Div, vec![*count, by])));
                Index::var(quotient)
            }
            (_, constant) => Index::constant(constant.unwrap_or(0) / neighbours),
        }
    }

    fn lane_loop(&mut self, func: &mut Func, inner: &mut For, choice: Choice) {
        let Choice { neighbours, width } = choice;
        let mut scope = LaneScope::new(func);
        scope.enter(inner.var, width);
        let names = vec![BTreeMap::new(); neighbours as usize];
        let uses = sum_uses(&inner.body);
        let kept: BTreeSet<Var> =
            uses.into_iter().filter(|(_, uses)| *uses > MANY_SUMS).map(|(var, _)| var).collect();
        let by_statement = loads_neighbours(&inner.body, inner.var, &kept);
        let mut lanes = Lanes { var: inner.var, neighbours, scope, kept, by_statement, names };
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
        let mut copies: Vec<Placed> = vec![];
        let numbers = 0..lanes.neighbours;
        if lanes.by_statement {
            for piece in &run {
                for number in numbers.clone() {
                    copies.extend(self.copy(func, lanes, number, piece));
                }
            }
        } else {
            for number in numbers {
                for piece in &run {
                    copies.extend(self.copy(func, lanes, number, piece));
                }
            }
        }
        written.extend(sums_early(lanes, copies));
    }

    /// A statement for one neighbour; what is the same for all lanes is there for the first alone.
    fn copy(
        &mut self,
        func: &mut Func,
        lanes: &mut Lanes,
        number: i64,
        (stmt, is_uniform): &(Stmt, bool),
    ) -> Option<Placed> {
        if *is_uniform {
            return (number == 0).then(|| (stmt.clone(), false));
        }
        let mut comes_first = false;
        let stmt = match stmt {
            Stmt::Let(var, inst) => {
                if let Inst::Load(Mem::Param(id), _) = inst {
                    let constant = func.params[id.0 as usize].access == Access::Read;
                    comes_first = constant && lanes.kept.contains(var);
                }
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
        Some((stmt, comes_first))
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

/// A run of plain statements in an order that keeps few values alive: what many sums need is loaded first, and terms are added
/// as soon as they are there.
fn sums_early(lanes: &Lanes, run: Vec<Placed>) -> Block {
    let is_sum = |stmt: &Stmt| match stmt {
        Stmt::Accum { mem, index, .. } => lanes.scope.accum_kind(*mem, index) == AccumKind::Reduce,
        _ => false,
    };
    if !run.iter().any(|(stmt, _)| is_sum(stmt)) {
        return run.into_iter().map(|(stmt, _)| stmt).collect();
    }
    let let_var = |stmt: &Stmt| if let Stmt::Let(var, _) = stmt { Some(*var) } else { None };
    let defined: BTreeSet<Var> = run.iter().filter_map(|(stmt, _)| let_var(stmt)).collect();
    // Where it loads from may have to be computed before.
    let is_free = |stmt: &Stmt| match stmt {
        Stmt::Let(_, Inst::Load(_, index)) => {
            index.iter().flat_map(|index| &index.terms).all(|(var, _)| !defined.contains(var))
        }
        _ => false,
    };
    let (first, rest): (Vec<Placed>, Vec<Placed>) =
        run.into_iter().partition(|(stmt, comes_first)| *comes_first && is_free(stmt));
    let plain = |placed: Vec<Placed>| -> Block { placed.into_iter().map(|(stmt, _)| stmt).collect() };
    let (mut ordered, rest) = (plain(first), plain(rest));
    let (sums, rest): (Block, Block) = rest.into_iter().partition(is_sum);
    // After which statement of `rest` the last operand is there.
    let position: BTreeMap<Var, usize> =
        rest.iter().enumerate().filter_map(|(at, stmt)| Some((let_var(stmt)?, at + 1))).collect();
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

/// True if of what is loaded and not kept, most is loaded element by element.
fn loads_neighbours(block: &Block, lane: Var, kept: &BTreeSet<Var>) -> bool {
    fn visit(block: &Block, lane: Var, kept: &BTreeSet<Var>, count: &mut i64) {
        for stmt in block {
            match stmt {
                Stmt::Let(var, Inst::Load(Mem::Param(_), index)) if !kept.contains(var) => {
                    let in_order = index.last().is_some_and(|index| index.coeff(lane).is_const(1));
                    *count += if in_order { 1 } else { -1 };
                }
                Stmt::For(inner) => visit(&inner.body, lane, kept, count),
                _ => {}
            }
        }
    }
    let mut count = 0;
    visit(block, lane, kept, &mut count);
    count > 0
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
