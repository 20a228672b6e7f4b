//! What every plan promises, checked.
//!
//! In: a plan, and where its parts stand if it came from a text. Out: nothing, or all that is wrong with it.
//!
//! - Its kernels verify. Names are unique; polynomials mention only sizes, offsets also the counters of the loops around.
//! - Buffers stand in the order inputs, outputs, temporaries; a temporary fits its slot.
//! - A contraction has matrices of one dtype that a library has, within their buffers; its result has no gaps.
//! - A launch passes one buffer per parameter, of its dtype, with room for its elements. Inputs are never written. Nothing
//!   is read before it is written, or after its slot went to another. Two parameters of a launch, or matrices of a contraction, overlap
//!   only if neither is written.
//! - What decides whether steps run is one bool that was written; what those steps write may not have been written.
//! - Swaps are between temporaries of one type that share their slots with nobody.
//!
//! Sizes are compared as polynomials over sizes that are not negative: what cannot be decided is left to the run.

use super::contract::has_library;
use super::text::{Parsed, Spans};
use super::{Arg, BufferId, BufferKind, Contract, Program, Step};
use crate::diag::{Diagnostic, Diagnostics, ErrorKind, Span};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::kernel::{self, Access};
use crate::text::{array_type, is_ident};
use std::collections::{BTreeMap, BTreeSet};

const MAX_ERRORS: usize = 32;

/// Loops nest no deeper: each level is walked twice, so the work doubles with it.
const MAX_LOOP_DEPTH: usize = 8;

/// Checks a plan built by code.
///
/// Errors: everything that is wrong, as our own fault.
pub fn verify(program: &Program) -> Result<(), Diagnostics> {
    verify_with(program, &Spans::default(), ErrorKind::Verify)
}

/// Checks a plan from a text.
///
/// Errors: everything that is wrong, as the text's fault, with its place.
pub fn verify_parsed(parsed: &Parsed) -> Result<(), Diagnostics> {
    verify_with(&parsed.program, &parsed.spans, ErrorKind::Input)
}

/// Checks a plan whose parts stand at `spans`.
///
/// Errors: everything that is wrong, as errors of `kind`.
pub fn verify_with(program: &Program, spans: &Spans, kind: ErrorKind) -> Result<(), Diagnostics> {
    let mut errors = vec![];
    for (idx, func) in program.kernels.iter().enumerate() {
        let none = kernel::text::Spans::default();
        let spans = spans.kernels.get(idx).unwrap_or(&none);
        if let Err(found) = kernel::verify::verify_with(func, spans, kind) {
            errors.extend(found.0);
        }
    }
    let mut checker = Checker {
        program,
        spans,
        kind,
        errors,
        ordinal: 0,
        names: program.sizes.iter().map(|size| (size.name.clone(), None)).collect(),
        holds: vec![None; program.slots.len()],
        written: vec![false; program.buffers.len()],
        home: vec![],
    };
    checker.header();
    checker.buffers();
    if checker.errors.is_empty() {
        checker.steps(&program.steps);
    }
    Diagnostics(checker.errors).into_result(())
}

/// What a step does to a part of a buffer.
struct Use<'p> {
    arg: &'p Arg,
    /// What the part is called.
    name: String,
    dtype: DType,
    access: Access,
    /// Elements of the part.
    len: Dim,
}

struct Checker<'p> {
    program: &'p Program,
    spans: &'p Spans,
    kind: ErrorKind,
    errors: Vec<Diagnostic>,
    ordinal: usize,
    /// Sizes, and the counters of the loops around with their trip counts.
    names: Vec<(Sym, Option<Dim>)>,
    /// For each slot: the temporary whose elements it holds.
    holds: Vec<Option<BufferId>>,
    /// For each of the caller's buffers: whether it has elements.
    written: Vec<bool>,
    /// For each temporary: its slot by now. Empty until all slots are known to exist.
    home: Vec<usize>,
}

impl<'p> Checker<'p> {
    fn fail(&mut self, span: Span, message: impl Into<String>) {
        let message = format!("plan @{}: {}", self.program.name, message.into());
        let known = self.errors.iter().any(|error| error.message == message && error.span == span);
        if self.errors.len() < MAX_ERRORS && !known {
            self.errors.push(Diagnostic { kind: self.kind, ..Diagnostic::input(span, message) });
        }
    }

    fn unique(&mut self, what: &str, names: impl Iterator<Item = (&'p Sym, Span)>) {
        let mut seen = BTreeSet::new();
        for (name, span) in names {
            if !name.split('.').all(is_ident) {
                self.fail(span, format!("the {what} `{name}` is not a name, or names joined by dots"));
            }
            if !seen.insert(name) {
                self.fail(span, format!("the {what} `{name}` exists twice"));
            }
        }
    }

    fn known_names(&mut self, span: Span, dim: &Dim) {
        for name in dim.syms() {
            if !self.names.iter().any(|(known, _)| *known == name) {
                self.fail(span, format!("`{name}` is not a size or counter here"));
            }
        }
    }

    /// Extents and strides know no counters.
    fn known_size(&mut self, span: Span, dim: &Dim) {
        for name in dim.syms() {
            if !self.names.iter().any(|(known, trip)| *known == name && trip.is_none()) {
                self.fail(span, format!("`{name}` is not a size"));
            }
        }
    }

    fn header(&mut self) {
        let (program, spans) = (self.program, self.spans);
        let at = |spans: &[Span], idx: usize| spans.get(idx).copied().unwrap_or_default();
        self.unique(
            "size",
            program.sizes.iter().enumerate().map(|(idx, size)| (&size.name, at(&spans.sizes, idx))),
        );
        let buffers = program.buffers.iter().enumerate();
        self.unique("buffer", buffers.map(|(idx, buffer)| (&buffer.name, at(&spans.buffers, idx))));
        let kernels = program.kernels.iter().enumerate().map(|(idx, kernel)| {
            (&kernel.name, spans.kernels.get(idx).map(|spans| spans.name).unwrap_or_default())
        });
        self.unique("kernel", kernels);
        for (idx, size) in program.sizes.iter().enumerate() {
            let (first, last) = size.bounds;
            let inside = |value: i64| (first..=last).contains(&value);
            if first < 0 || last < first || !size.default.is_none_or(inside) {
                let message =
                    format!("the bounds of `{}` are empty, negative or without its default", size.name);
                self.fail(at(&spans.sizes, idx), message);
            }
        }
        for (idx, sizes) in program.slots.iter().enumerate() {
            sizes.iter().for_each(|size| self.known_names(at(&spans.slots, idx), size));
        }
        for kernel in &program.kernels {
            for size in &kernel.sizes {
                if !program.sizes.iter().any(|known| known.name == *size) {
                    self.fail(
                        spans.name,
                        format!("the kernel @{} takes `{size}`, which is no size here", kernel.name),
                    );
                }
            }
        }
    }

    fn buffers(&mut self) {
        let mut last = 0;
        for (idx, buffer) in self.program.buffers.iter().enumerate() {
            let span = self.spans.buffers.get(idx).copied().unwrap_or_default();
            buffer.shape.iter().for_each(|dim| self.known_names(span, dim));
            let (rank, slot) = match buffer.kind {
                BufferKind::Input => (0, 0),
                BufferKind::Output => (1, 0),
                BufferKind::Temp(slot) => (2, slot as usize),
            };
            if rank < last {
                self.fail(
                    span,
                    format!("`{}` stands after an output or temporary, expected before", buffer.name),
                );
            }
            last = rank;
            self.written[idx] = rank == 0;
            self.home.push(slot);
            if rank < 2 {
                continue;
            }
            let bytes = buffer.size_bytes();
            match self.program.slots.get(slot) {
                None => self.fail(span, format!("`{}` is in slot {slot}, which does not exist", buffer.name)),
                Some(sizes) if !sizes.iter().any(|size| not_negative(&size.sub(&bytes))) => {
                    self.fail(
                        span,
                        format!("`{}` takes {bytes} bytes, more than its slot is known to have", buffer.name),
                    );
                }
                Some(_) => {}
            }
        }
    }

    fn steps(&mut self, steps: &'p [Step]) {
        for step in steps {
            let span = self.spans.steps.get(self.ordinal).copied().unwrap_or_default();
            self.ordinal += 1;
            match step {
                Step::Launch { kernel, args } => self.launch(span, *kernel, args),
                Step::Contract(contract) => self.contract(span, contract),
                Step::Loop { var, trip, body, swaps } => {
                    self.known_names(span, trip);
                    if self.names.iter().any(|(known, _)| known == var) {
                        self.fail(
                            span,
                            format!("the counter `{var}` has the name of a size or another counter"),
                        );
                    }
                    self.names.push((var.clone(), Some(trip.clone())));
                    if self.names.len() - self.program.sizes.len() > MAX_LOOP_DEPTH {
                        return self.fail(span, format!("loops nest deeper than {MAX_LOOP_DEPTH}"));
                    }
                    let first = self.ordinal;
                    self.steps(body);
                    let after = self.ordinal;
                    self.swaps(span, swaps);
                    if trip.as_const().is_none_or(|trip| trip > 1) {
                        // The second iteration reads what the first left: walk the body once more.
                        self.ordinal = first;
                        self.steps(body);
                        self.ordinal = after;
                        self.swaps(span, swaps);
                    }
                    self.names.pop();
                }
                Step::Rows { rows, body } => {
                    self.known_size(span, rows);
                    if body.is_empty() {
                        self.fail(span, "there are rows, but no steps");
                    }
                    let is_single = |step: &Step| matches!(step, Step::Launch { .. } | Step::Contract(_));
                    if !body.iter().all(is_single) {
                        self.fail(span, "only launches and contractions run row by row");
                    }
                    self.steps(body);
                    self.all_at_once(span, body);
                }
                Step::Unless { flag, body } => self.unless(span, *flag, body),
            }
        }
    }

    /// Steps that may run at once keep temporaries in slots of their own.
    fn all_at_once(&mut self, span: Span, body: &'p [Step]) {
        let mut users: BTreeMap<usize, BufferId> = BTreeMap::new();
        for id in body.iter().flat_map(Step::buffers) {
            let Some(buffer) = self.program.buffer(id) else { continue };
            if !matches!(buffer.kind, BufferKind::Temp(_)) {
                continue;
            }
            let other = *users.entry(self.home[id.0 as usize]).or_insert(id);
            if other != id {
                let names =
                    format!("`{}` and `{}`", self.program.buffers[other.0 as usize].name, buffer.name);
                self.fail(span, format!("{names} share a slot, and steps run at once use both"));
            }
        }
    }

    /// What is written inside may not have been written afterwards, and slots may have gone to others.
    fn unless(&mut self, span: Span, flag: BufferId, body: &'p [Step]) {
        let Some(buffer) = self.program.buffer(flag) else {
            return self.fail(span, "asks a buffer that does not exist");
        };
        if buffer.dtype != DType::Bool || buffer.n_elems() != Dim::constant(1) {
            let found = array_type(buffer.dtype, &buffer.shape);
            self.fail(span, format!("`{}` decides what runs; expected one bool, found {found}", buffer.name));
        }
        if !self.has_elements(flag) {
            self.fail(span, format!("`{}` decides what runs before it was written", buffer.name));
        }
        let (written, home, held) = (self.written.clone(), self.home.clone(), self.holds.clone());
        self.steps(body);
        self.written = written;
        for (now, held) in self.holds.iter_mut().zip(held) {
            if *now != held {
                *now = None;
            }
        }
        // Buffers that swapped, or not, hold nothing that can be named.
        let moved = home.iter().zip(&self.home).filter(|(before, now)| before != now);
        for (before, now) in moved {
            for slot in [*before, *now] {
                if let Some(holds) = self.holds.get_mut(slot) {
                    *holds = None;
                }
            }
        }
        self.home = home;
    }

    /// Whether a buffer holds what was written to it.
    fn has_elements(&self, id: BufferId) -> bool {
        match self.program.buffers[id.0 as usize].kind {
            BufferKind::Temp(_) => self.holds[self.home[id.0 as usize]] == Some(id),
            _ => self.written[id.0 as usize],
        }
    }

    fn swaps(&mut self, span: Span, swaps: &[(BufferId, BufferId)]) {
        let mut seen = BTreeSet::new();
        for (a, b) in swaps {
            let (Some(first), Some(second)) = (self.program.buffer(*a), self.program.buffer(*b)) else {
                self.fail(span, "swaps a buffer that does not exist");
                continue;
            };
            let names = format!("`{}` and `{}`", first.name, second.name);
            let (BufferKind::Temp(slot_a), BufferKind::Temp(slot_b)) = (first.kind, second.kind) else {
                self.fail(span, format!("swaps {names}, expected temporaries"));
                continue;
            };
            if first.dtype != second.dtype || first.shape != second.shape {
                self.fail(span, format!("swaps {names}, which differ in type"));
            }
            if !seen.insert(*a) || !seen.insert(*b) {
                self.fail(span, format!("swaps {names}, one of them twice"));
            }
            let users = self
                .program
                .buffers_where(|kind| kind == BufferKind::Temp(slot_a) || kind == BufferKind::Temp(slot_b));
            if users.len() != 2 {
                self.fail(span, format!("swaps {names}, whose slots are not theirs alone"));
            }
            self.home.swap(a.0 as usize, b.0 as usize);
            for slot in [self.home[a.0 as usize], self.home[b.0 as usize]] {
                let swapped = |owner: BufferId| {
                    if owner == *a {
                        *b
                    } else if owner == *b {
                        *a
                    } else {
                        owner
                    }
                };
                self.holds[slot] = self.holds[slot].map(swapped);
            }
        }
    }

    fn launch(&mut self, span: Span, kernel_idx: u32, args: &'p [Arg]) {
        let Some(kernel) = self.program.kernels.get(kernel_idx as usize) else {
            return self.fail(span, "launches a kernel that does not exist");
        };
        if args.len() != kernel.params.len() {
            let message =
                format!("@{} takes {} buffers, found {}", kernel.name, kernel.params.len(), args.len());
            return self.fail(span, message);
        }
        if args.iter().any(|arg| self.program.buffer(arg.buffer).is_none()) {
            return self.fail(span, format!("@{} gets a buffer that does not exist", kernel.name));
        }
        let uses = args.iter().zip(&kernel.params).map(|(arg, param)| Use {
            arg,
            name: param.name.to_string(),
            dtype: param.dtype,
            access: param.access,
            len: param.shape.iter().fold(Dim::constant(1), |product, dim| product.mul(dim)),
        });
        self.uses(span, &format!("@{}", kernel.name), &uses.collect::<Vec<_>>());
    }

    fn contract(&mut self, span: Span, contract: &'p Contract) {
        if contract.buffers().iter().any(|id| self.program.buffer(*id).is_none()) {
            return self.fail(span, "a contraction gets a buffer that does not exist");
        }
        let dtype = self.program.buffers[contract.c.arg.buffer.0 as usize].dtype;
        if !has_library(dtype) {
            self.fail(span, format!("a contraction is f32 or f64, found {dtype}"));
        }
        let mut uses = vec![];
        for operand in contract.operands() {
            let matrix = operand.matrix;
            let strides = [&matrix.batch, &matrix.row, &matrix.col];
            let mut last = Dim::default();
            for (extent, stride) in operand.extents.into_iter().zip(strides) {
                for dim in [extent, stride] {
                    self.known_size(span, dim);
                    if is_negative(dim) {
                        self.fail(
                            span,
                            format!("`{}` has the negative extent or stride {dim}", operand.name),
                        );
                    }
                }
                last = last.add(&extent.sub(&Dim::constant(1)).mul(stride));
            }
            if operand.access == Access::Write && !is_dense(operand.extents, strides) {
                self.fail(span, format!("`{}` has gaps or overlaps itself", operand.name));
            }
            uses.push(Use {
                arg: &matrix.arg,
                name: operand.name.to_string(),
                dtype,
                access: operand.access,
                len: last.add(&Dim::constant(1)),
            });
        }
        if contract.a.col.is_const(0) && contract.b.row.is_const(0) && !contract.k.is_const(1) {
            self.fail(span, "a contraction sums one element again and again");
        }
        self.uses(span, "a contraction", &uses);
    }

    /// Checks what one step reads and writes, and notes what it wrote.
    fn uses(&mut self, span: Span, step: &str, uses: &[Use<'p>]) {
        for one in uses {
            self.fits(span, one);
        }
        for (idx, one) in uses.iter().enumerate() {
            for other in &uses[..idx] {
                self.apart(span, one, other);
            }
        }
        for one in uses.iter().filter(|one| one.access != Access::Write) {
            let id = one.arg.buffer;
            if !self.has_elements(id) {
                let name = &self.program.buffers[id.0 as usize].name;
                let message = format!("{step} reads `{name}` as `{}`", one.name);
                self.fail(span, format!("{message}, which was not written or whose slot went to another"));
            }
        }
        for one in uses.iter().filter(|one| one.access != Access::Read) {
            let id = one.arg.buffer;
            match self.program.buffers[id.0 as usize].kind {
                BufferKind::Temp(_) => self.holds[self.home[id.0 as usize]] = Some(id),
                _ => self.written[id.0 as usize] = true,
            }
        }
    }

    fn fits(&mut self, span: Span, part: &Use<'p>) {
        let Use { arg, name: what, .. } = part;
        let buffer = &self.program.buffers[arg.buffer.0 as usize];
        let name = &buffer.name;
        if buffer.dtype != part.dtype {
            self.fail(span, format!("`{what}` is {}, but `{name}` is {}", part.dtype, buffer.dtype));
        }
        if buffer.kind == BufferKind::Input && part.access != Access::Read {
            self.fail(span, format!("the input `{name}` is written as `{what}`"));
        }
        self.known_names(span, &arg.offset);
        if is_negative(&self.at_last(&arg.offset, false)) {
            self.fail(span, format!("`{name}` is passed from a negative element on"));
        }
        let end = self.at_last(&arg.offset, true).add(&part.len);
        if is_negative(&buffer.n_elems().sub(&end)) {
            let message =
                format!("`{what}` ends after element {end} of `{name}`, which has {}", buffer.n_elems());
            self.fail(span, message);
        }
    }

    /// `offset` with the counters of the loops around at their first or last value.
    fn at_last(&self, offset: &Dim, last: bool) -> Dim {
        offset.subst_with(&|name| {
            let (_, trip) = self.names.iter().find(|(known, trip)| known == name && trip.is_some())?;
            let trip = trip.as_ref()?;
            Some(if last { trip.sub(&Dim::constant(1)) } else { Dim::default() })
        })
    }

    /// What `dim` is at least, whatever the counters of the loops around are: each term where they make it least.
    fn lowest(&self, dim: &Dim) -> Dim {
        let is_counter = |name: &Sym| self.names.iter().any(|(known, trip)| known == name && trip.is_some());
        dim.terms().fold(Dim::default(), |sum, (names, coeff)| {
            let term =
                names.iter().fold(Dim::constant(coeff), |term, name| term.mul(&Dim::sym(name.clone())));
            match names.iter().any(is_counter) {
                true if coeff >= 0 => sum,
                true => sum.add(&self.at_last(&term, true)),
                false => sum.add(&term),
            }
        })
    }

    /// Two parts in one step, of which one is written, do not overlap.
    fn apart(&mut self, span: Span, one: &Use<'p>, other: &Use<'p>) {
        if one.access == Access::Read && other.access == Access::Read {
            return;
        }
        let name = |arg: &Arg| self.program.buffers[arg.buffer.0 as usize].name.clone();
        let kind = |arg: &Arg| self.program.buffers[arg.buffer.0 as usize].kind;
        if one.arg.buffer != other.arg.buffer {
            let home = |arg: &Arg| self.home[arg.buffer.0 as usize];
            let temps =
                matches!((kind(one.arg), kind(other.arg)), (BufferKind::Temp(_), BufferKind::Temp(_)));
            if temps && home(one.arg) == home(other.arg) {
                let message = format!(
                    "`{}` and `{}` share a slot but are used at once",
                    name(one.arg),
                    name(other.arg)
                );
                self.fail(span, message);
            }
            return;
        }
        let before = other.arg.offset.sub(&one.arg.offset).sub(&one.len);
        let after = one.arg.offset.sub(&other.arg.offset).sub(&other.len);
        if !not_negative(&self.lowest(&before)) && !not_negative(&self.lowest(&after)) {
            let message = format!("`{}` and `{}` may overlap in `{}`", one.name, other.name, name(one.arg));
            self.fail(span, format!("{message}, and one of them is written"));
        }
    }
}

/// True if the strides are those of a dense array with its axes in some order.
fn is_dense(extents: [&Dim; 3], strides: [&Dim; 3]) -> bool {
    let mut axes: Vec<(&Dim, &Dim)> =
        extents.into_iter().zip(strides).filter(|(extent, _)| !extent.is_const(1)).collect();
    let mut expected = Dim::constant(1);
    while !axes.is_empty() {
        let Some(next) = axes.iter().position(|(_, stride)| **stride == expected) else { return false };
        expected = expected.mul(axes.swap_remove(next).0);
    }
    true
}

/// True if no sizes (which are not negative) make `dim` negative.
fn not_negative(dim: &Dim) -> bool {
    dim.terms().all(|(_, coeff)| coeff >= 0)
}

/// True if all positive sizes make `dim` negative.
fn is_negative(dim: &Dim) -> bool {
    !dim.is_const(0) && dim.terms().all(|(_, coeff)| coeff < 0)
}
