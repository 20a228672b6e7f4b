//! Scopes, loops and memory accesses.

use super::{MAX_WIDTH, Report, inst, is_width, known_sizes, width_message};
use crate::diag::Span;
use crate::dtype::DType;
use crate::kernel::lanes::LaneScope;
use crate::kernel::text::{Spans, print_stmt};
use crate::kernel::{Access, AccumOp, Block, For, ForKind, Index, LocalId, Mem, Space, Stmt, Var};
use crate::scalar::ScalarOp;
use crate::text::is_ident;
use std::collections::BTreeMap;

/// What is known of a variable that is in scope.
#[derive(Clone, Copy, Default)]
pub(super) struct Known {
    pub visible: bool,
    pub defined: bool,
    pub unrolled: bool,
    /// Defined inside the lane loop around.
    pub in_lanes: bool,
    /// First and last value, both taken whatever other variables are.
    pub range: Option<(i64, i64)>,
}

/// The lane loop around.
pub(super) struct Lanes {
    pub var: Var,
    pub width: u32,
    /// Starts at a constant multiple of its width.
    pub aligned: bool,
    /// Targets of reductions, and how they combine.
    pub reduced: BTreeMap<Mem, ScalarOp>,
    /// Everything touched otherwise.
    pub touched: BTreeMap<Mem, Span>,
}

/// A walk through a kernel's statements.
pub(super) struct Checker<'r, 'f> {
    pub report: &'r mut Report<'f>,
    spans: &'r Spans,
    ordinal: usize,
    pub span: Span,
    /// The statement at hand, for messages about kernels without a text.
    stmt: Option<&'f Stmt>,
    pub vars: Vec<Known>,
    pub declared: Vec<bool>,
    pub scope: LaneScope,
    pub lanes: Option<Lanes>,
    in_stage: bool,
    stages: Vec<&'f str>,
}

pub(super) fn check<'f>(report: &mut Report<'f>, spans: &Spans) {
    let func = report.func;
    let mut checker = Checker {
        spans,
        ordinal: 0,
        span: spans.name,
        stmt: None,
        vars: vec![Known::default(); func.vars.len()],
        declared: vec![false; func.locals.len()],
        scope: LaneScope::new(func),
        lanes: None,
        in_stage: false,
        stages: vec![],
        report,
    };
    for axis in &func.grid {
        checker.define(axis.base, DType::I64);
        checker.define(axis.count, DType::I64);
    }
    checker.block(&func.body);
}

impl<'f> Checker<'_, 'f> {
    /// Adds an error at the statement at hand.
    pub fn fail(&mut self, message: impl Into<String>) {
        let mut message = message.into();
        if self.span == Span::NONE
            && let Some(stmt) = self.stmt
        {
            let text = print_stmt(self.report.func, stmt);
            message = format!("{message}\n  in: {}", text.lines().next().unwrap_or_default());
        }
        self.report.add(self.span, message);
    }

    pub fn require(&mut self, ok: bool, message: impl FnOnce() -> String) {
        if !ok {
            self.fail(message());
        }
    }

    fn block(&mut self, block: &'f Block) {
        let mut defined = vec![];
        let mut declared = vec![];
        for stmt in block {
            self.span = self.spans.stmt(self.ordinal);
            self.ordinal += 1;
            self.stmt = Some(stmt);
            match stmt {
                Stmt::Let(var, inst) => {
                    inst::check(self, *var, inst);
                    self.define(*var, self.dtype(*var));
                    self.scope.define(*var, inst);
                    defined.push(*var);
                }
                Stmt::Store { mem, index, value } => self.store(*mem, index, *value),
                Stmt::Accum { op, mem, index, args } => self.accum(*op, *mem, index, args),
                Stmt::For(inner) => self.for_loop(inner),
                Stmt::Stage(name, body) => self.stage(name, body),
                Stmt::Decl(id) => {
                    if self.decl(*id) {
                        declared.push(*id);
                    }
                }
            }
        }
        for var in defined {
            self.hide(var);
        }
        for id in declared {
            self.declared[id.0 as usize] = false;
        }
    }

    fn hide(&mut self, var: Var) {
        if let Some(known) = self.vars.get_mut(var.0 as usize) {
            known.visible = false;
        }
    }

    /// The dtype of a variable; i64 for one that does not exist, which [`Checker::use_var`] reports.
    pub fn dtype(&self, var: Var) -> DType {
        self.report.func.vars.get(var.0 as usize).map_or(DType::I64, |info| info.dtype)
    }

    fn define(&mut self, var: Var, dtype: DType) {
        let in_lanes = self.lanes.is_some();
        let found = self.dtype(var);
        let Some(known) = self.vars.get_mut(var.0 as usize) else {
            return self.fail(format!("defines variable {}, which does not exist", var.0));
        };
        let twice = known.defined;
        *known = Known { visible: true, defined: true, in_lanes, ..Known::default() };
        self.require(!twice, || "defines a variable that is already defined".to_string());
        self.require(found == dtype, || format!("defines a variable of type {found}, expected {dtype}"));
    }

    /// Checks that `var` may be used here; returns its dtype.
    pub fn use_var(&mut self, var: Var) -> DType {
        let visible = self.vars.get(var.0 as usize).is_some_and(|known| known.visible);
        self.require(visible, || {
            "uses a value that is not defined before it in a block around it".to_string()
        });
        self.dtype(var)
    }

    /// Checks that `index` is an affine function of visible integers.
    pub fn index(&mut self, index: &Index) {
        for (var, coeff) in &index.terms {
            let dtype = self.use_var(*var);
            self.require(dtype == DType::I64, || format!("an index is made of i64 values, found {dtype}"));
            known_sizes(self.report, self.span, coeff);
        }
        known_sizes(self.report, self.span, &index.offset);
        let sorted = index.terms.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let nonzero = index.terms.iter().all(|(_, coeff)| !coeff.is_const(0));
        self.require(sorted && nonzero, || "an index is not in its canonical form".to_string());
    }

    /// Checks an element for any kind of access; false if `mem` does not exist.
    pub fn element(&mut self, mem: Mem, index: &'f [Index]) -> bool {
        let func = self.report.func;
        let exists = match mem {
            Mem::Param(id) => (id.0 as usize) < func.params.len(),
            Mem::Local(id) => (id.0 as usize) < func.locals.len(),
        };
        if !exists {
            self.fail("touches memory that does not exist");
            return false;
        }
        index.iter().for_each(|index| self.index(index));
        let (name, shape) = (func.mem_name(mem), func.mem_shape(mem));
        if index.len() != shape.len() {
            self.fail(format!("`{name}` has {} axes, found an index for {}", shape.len(), index.len()));
            return true;
        }
        for (axis, (index, extent)) in index.iter().zip(shape).enumerate() {
            if let (Some((lo, hi)), Some(extent)) = (self.range(index), extent.as_const()) {
                self.require(lo >= 0 && hi < extent, || {
                    format!("the index of axis {axis} of `{name}` takes {lo} to {hi}, expected 0..{extent}")
                });
            }
        }
        if let Mem::Local(id) = mem
            && func.locals[id.0 as usize].space == Space::Reg
        {
            self.require(self.declared[id.0 as usize], || {
                format!("`{name}` is used before its `decl` or out of its scope")
            });
            self.register_index(id, index);
        }
        true
    }

    /// The first and last value of `index`, if all in it is known.
    fn range(&self, index: &Index) -> Option<(i64, i64)> {
        let offset = index.offset.as_const()?;
        let (mut lo, mut hi) = (offset, offset);
        for (var, coeff) in &index.terms {
            let (first, last) = self.vars.get(var.0 as usize)?.range?;
            let coeff = coeff.as_const()?;
            let (a, b) = (first.checked_mul(coeff)?, last.checked_mul(coeff)?);
            lo = lo.checked_add(a.min(b))?;
            hi = hi.checked_add(a.max(b))?;
        }
        Some((lo, hi))
    }

    fn store(&mut self, mem: Mem, index: &'f [Index], value: Var) {
        let dtype = self.use_var(value);
        if !self.element(mem, index) {
            return;
        }
        let func = self.report.func;
        let expected = func.mem_dtype(mem).compute();
        self.require(dtype == expected, || format!("stores a value of type {dtype}, expected {expected}"));
        self.access(mem, &[Access::Write, Access::ReadWrite], "written");
        self.lane_store(mem, index, value);
    }

    fn accum(&mut self, op: AccumOp, mem: Mem, index: &'f [Index], args: &[Var]) {
        let dtypes: Vec<DType> = args.iter().map(|arg| self.use_var(*arg)).collect();
        let expected = op.arity();
        if args.len() != expected {
            self.fail(format!("`accum {}` takes {expected} values, found {}", op.name(), args.len()));
        }
        if !self.element(mem, index) {
            return;
        }
        let compute = self.report.func.mem_dtype(mem).compute();
        self.require(compute != DType::Bool, || "`accum` expects numbers, found bool".to_string());
        for dtype in dtypes {
            self.require(dtype == compute, || {
                format!("accumulates a value of type {dtype}, expected {compute}")
            });
        }
        self.access(mem, &[Access::ReadWrite], "accumulated into");
        self.lane_accum(op, mem, index);
    }

    /// Checks that a parameter may be touched this way.
    pub fn access(&mut self, mem: Mem, allowed: &[Access], done: &str) {
        if let Mem::Param(id) = mem {
            let param = &self.report.func.params[id.0 as usize];
            let declared = match param.access {
                Access::Read => "read",
                Access::Write => "write",
                Access::ReadWrite => "read_write",
            };
            self.require(allowed.contains(&param.access), || {
                format!("`{}` is declared `{declared}` but is {done}", param.name)
            });
        }
    }

    fn decl(&mut self, id: LocalId) -> bool {
        let func = self.report.func;
        let Some(local) = func.locals.get(id.0 as usize) else {
            self.fail("declares a register array that does not exist");
            return false;
        };
        self.require(local.space == Space::Reg, || format!("`{}` is not `reg`", local.name));
        let again = self.declared[id.0 as usize];
        self.require(!again, || format!("`{}` is declared where it is already in scope", local.name));
        self.declared[id.0 as usize] = true;
        self.scope.declare(id);
        !again
    }

    fn stage(&mut self, name: &'f str, body: &'f Block) {
        self.require(is_ident(name), || format!("the stage `{name}` is not a C identifier"));
        self.require(!self.stages.contains(&name), || format!("the stage `{name}` exists twice"));
        let inside = self.in_stage || self.lanes.is_some();
        self.require(!inside, || format!("the stage `{name}` is inside another stage or lane loop"));
        self.stages.push(name);
        let outer = std::mem::replace(&mut self.in_stage, true);
        self.block(body);
        self.in_stage = outer;
    }

    fn for_loop(&mut self, inner: &'f For) {
        self.index(&inner.start);
        self.index(&inner.end);
        if self.lanes.is_some() {
            let steered = self.scope.varies(&inner.start) || self.scope.varies(&inner.end);
            self.require(!steered, || "a loop bound differs between lanes".to_string());
        }
        let bounds = self.range(&inner.start).zip(self.range(&inner.end));
        let constant = inner.start.terms.is_empty() && inner.end.terms.is_empty();
        let range = match bounds {
            Some(((start, _), (end, _))) if constant => Some((start, end - 1)).filter(|_| start < end),
            _ => self.tile_range(inner),
        };
        self.define(inner.var, DType::I64);
        if let Some(known) = self.vars.get_mut(inner.var.0 as usize) {
            known.range = range;
            known.unrolled = inner.kind == ForKind::Unroll;
        }
        match inner.kind {
            ForKind::Seq => self.block(&inner.body),
            ForKind::Unroll => {
                self.require(bounds.is_some() && constant, || "`unroll` expects constant bounds".to_string());
                self.block(&inner.body);
            }
            ForKind::Lanes { width } => self.lane_loop(inner, width),
        }
        self.hide(inner.var);
    }

    /// A loop over the positions of a tile takes all of a full tile's; that one exists, for whatever extent the grid has.
    fn tile_range(&self, inner: &For) -> Option<(i64, i64)> {
        let axis = self.report.func.grid.iter().find(|axis| inner.end == Index::var(axis.count))?;
        let full = axis.extent.as_const().is_none_or(|extent| extent >= i64::from(axis.tile));
        (full && axis.tile > 0 && inner.start == Index::constant(0)).then(|| (0, i64::from(axis.tile) - 1))
    }

    fn lane_loop(&mut self, inner: &'f For, width: u32) {
        let constant = |index: &Index| index.offset.as_const().filter(|_| index.terms.is_empty());
        let len = constant(&inner.start).zip(constant(&inner.end)).map(|(start, end)| end - start);
        let whole = (2..=MAX_WIDTH).contains(&width) && len == Some(i64::from(width));
        self.require(is_width(width) || whole, || width_message(width));
        if self.lanes.is_some() {
            self.fail("lane loops do not nest");
            return self.block(&inner.body);
        }
        let start = inner.start.offset.as_const().filter(|_| inner.start.terms.is_empty());
        let aligned = start.is_some_and(|start| start % i64::from(width.max(1)) == 0);
        let lanes =
            Lanes { var: inner.var, width, aligned, reduced: BTreeMap::new(), touched: BTreeMap::new() };
        self.lanes = Some(lanes);
        self.scope.enter(inner.var, width);
        let span = self.span;
        self.block(&inner.body);
        self.scope.leave();
        let reduces = self.lanes.as_ref().is_some_and(|lanes| !lanes.reduced.is_empty());
        self.require(is_width(width) || !reduces, || {
            format!("the lane width is {width}, expected a power of two where lanes are reduced")
        });
        self.lanes_done(span);
    }
}
