//! What every kernel promises, checked: after this no back end checks, guesses or falls back.
//!
//! In: a kernel, and where its parts stand if it came from a text. Out: nothing, or all that is wrong with it.
//!
//! - Names are C identifiers and unique: sizes, parameters with locals, grid axes, stages. Polynomials mention only sizes.
//! - A variable is defined once and used in its block after that. Dtypes fit everywhere. Indices are i64, one per axis.
//! - Register arrays have a compute type and constant extents, are used where a `decl` before them is in scope, and are
//!   indexed by constants and variables of `unroll` loops, or on their lane axis by exactly the lane variable of a loop of
//!   that width which starts at a multiple of it.
//! - `unroll` has constant bounds. `lanes` has a width that is a power of two from 2 on, or, if it reduces nothing, all of a
//!   constant range; it does not nest, and everything that steers a loop inside it is uniform.
//! - `read` parameters are not written, `write` parameters not read.
//! - Inside `lanes`, a per-lane value goes only to per-lane elements. A per-lane element that is written is indexed by the
//!   lane variable itself, so that lanes do not meet. The target of a lane reduction is a local that the loop touches in no
//!   other way, at indices that do not change while the loop runs except with `unroll` variables.
//! - An index whose range is known from constants is inside a constant extent.

mod body;
mod inst;
mod lane_rules;

use super::text::{Parsed, Spans};
use super::{Func, Space, Var};
use crate::diag::{Diagnostic, Diagnostics, ErrorKind, Span};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::text::is_ident;
use std::collections::BTreeSet;

/// More errors than this are not collected.
const MAX_ERRORS: usize = 32;

/// The widest lane loop: the threads that a GPU has in a block.
pub const MAX_WIDTH: u32 = 1024;

/// Checks a kernel built by code.
///
/// Errors: everything that is wrong, as our own fault, with the statement's text.
pub fn verify(func: &Func) -> Result<(), Diagnostics> {
    verify_with(func, &Spans::default(), ErrorKind::Verify)
}

/// Checks a kernel from a text.
///
/// Errors: everything that is wrong, as the text's fault, with its place.
pub fn verify_parsed(parsed: &Parsed) -> Result<(), Diagnostics> {
    verify_with(&parsed.func, &parsed.spans, ErrorKind::Input)
}

/// Checks a kernel whose parts stand at `spans`.
///
/// Errors: everything that is wrong, as errors of `kind`.
pub fn verify_with(func: &Func, spans: &Spans, kind: ErrorKind) -> Result<(), Diagnostics> {
    let mut report = Report { func, kind, errors: vec![] };
    header(&mut report, spans);
    let grid_vars: Vec<Var> = func.grid.iter().flat_map(|axis| [axis.base, axis.count]).collect();
    if grid_vars.iter().any(|var| var.0 as usize >= func.vars.len()) {
        report.add(spans.name, "a grid axis has variables that do not exist");
    } else {
        body::check(&mut report, spans);
    }
    Diagnostics(report.errors).into_result(())
}

/// Collects errors.
struct Report<'f> {
    func: &'f Func,
    kind: ErrorKind,
    errors: Vec<Diagnostic>,
}

impl Report<'_> {
    fn add(&mut self, span: Span, message: impl Into<String>) {
        if self.errors.len() < MAX_ERRORS {
            let message = format!("kernel @{}: {}", self.func.name, message.into());
            self.errors.push(Diagnostic { kind: self.kind, ..Diagnostic::input(span, message) });
        }
    }

    fn check(&mut self, ok: bool, span: Span, message: impl FnOnce() -> String) {
        if !ok {
            self.add(span, message());
        }
    }
}

fn header(report: &mut Report<'_>, spans: &Spans) {
    let func = report.func;
    report.check(is_ident(&func.name), spans.name, || "its name is not a C identifier".to_string());
    unique(report, "size", func.sizes.iter().map(|name| (name, spans.name)));
    let at = |spans: &[Span], idx: usize| spans.get(idx).copied().unwrap_or_default();
    let params = func.params.iter().enumerate().map(|(idx, param)| (&param.name, at(&spans.params, idx)));
    let locals = func.locals.iter().enumerate().map(|(idx, local)| (&local.name, at(&spans.locals, idx)));
    unique(report, "parameter or local", params.chain(locals));
    let axes = func.grid.iter().enumerate().map(|(idx, axis)| (&axis.name, at(&spans.grid, idx)));
    unique(report, "grid axis", axes);
    for (idx, param) in func.params.iter().enumerate() {
        shape(report, at(&spans.params, idx), &param.name, &param.shape);
    }
    for (idx, axis) in func.grid.iter().enumerate() {
        let span = at(&spans.grid, idx);
        shape(report, span, &axis.name, std::slice::from_ref(&axis.extent));
        report.check(axis.tile > 0, span, || format!("the tile of grid axis `{}` is empty", axis.name));
    }
    for idx in 0..func.locals.len() {
        local(report, at(&spans.locals, idx), idx);
    }
    for info in &func.vars {
        let stored = matches!(info.dtype, DType::Bf16 | DType::F16);
        report
            .check(!stored, spans.name, || format!("a variable is {}, expected a compute type", info.dtype));
    }
}

fn unique<'n>(report: &mut Report<'_>, what: &str, names: impl Iterator<Item = (&'n Sym, Span)>) {
    let mut seen = BTreeSet::new();
    for (name, span) in names {
        report.check(is_ident(name), span, || format!("the {what} `{name}` is not a C identifier"));
        report.check(seen.insert(name), span, || format!("the {what} `{name}` exists twice"));
    }
}

fn shape(report: &mut Report<'_>, span: Span, name: &str, dims: &[Dim]) {
    for dim in dims {
        known_sizes(report, span, dim);
        let negative = dim.as_const().is_some_and(|value| value < 0);
        report.check(!negative, span, || format!("`{name}` has the negative extent {dim}"));
    }
}

fn known_sizes(report: &mut Report<'_>, span: Span, dim: &Dim) {
    for name in dim.syms() {
        let known = report.func.sizes.contains(&name);
        report.check(known, span, || format!("`{name}` is not a size of this kernel"));
    }
}

fn local(report: &mut Report<'_>, span: Span, idx: usize) {
    let local = &report.func.locals[idx];
    let name = &local.name;
    shape(report, span, name, &local.shape);
    if local.space == Space::Tile {
        report
            .check(local.lane_axis.is_none(), span, || format!("`{name}` is not `reg` but has a lane axis"));
        return;
    }
    let compute = local.dtype == local.dtype.compute();
    report.check(compute, span, || format!("registers hold compute types, `{name}` is {}", local.dtype));
    let constant = local.shape.iter().all(|dim| dim.as_const().is_some());
    report.check(constant, span, || format!("registers have constant extents, `{name}` has not"));
    let Some((axis, width)) = local.lane_axis else { return };
    report.check((2..=MAX_WIDTH).contains(&width), span, || {
        format!("the lane axis of `{name}` has the width {width}, expected one from 2 to {MAX_WIDTH}")
    });
    let extent = local.shape.get(axis as usize).map(Dim::as_const);
    match extent {
        None => report.add(span, format!("`{name}` has no axis {axis} for lanes")),
        Some(Some(extent)) if extent % i64::from(width.max(1)) != 0 => {
            report.add(
                span,
                format!("the lane axis of `{name}` is {extent} long, expected a multiple of {width}"),
            );
        }
        Some(_) => {}
    }
}

/// Widths of which every loop has chunks and a rest, and lanes can be joined by halves.
fn is_width(width: u32) -> bool {
    width.is_power_of_two() && (2..=MAX_WIDTH).contains(&width)
}

fn width_message(width: u32) -> String {
    format!(
        "the lane width is {width}, expected a power of two from 2 to {MAX_WIDTH} or all of a constant range"
    )
}
