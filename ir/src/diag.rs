//! Errors that name their place.
//!
//! In: what was expected and found, and a byte range of the source. Out: a [`Diagnostic`], rendered with line, column and
//! caret. Collect several in [`Diagnostics`]; the driver prints them and exits with 1.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;

/// A byte range of a source text; `None` where IR was built by code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span(pub Option<(u32, u32)>);

impl Span {
    /// No place in a text.
    pub const NONE: Span = Span(None);

    /// The bytes `range` of the source.
    pub fn new(range: Range<usize>) -> Span {
        let clamp = |pos: usize| u32::try_from(pos).unwrap_or(u32::MAX);
        Span(Some((clamp(range.start), clamp(range.end))))
    }

    /// The same range, shifted by `offset_bytes` (a text embedded in another).
    pub fn shifted(self, offset_bytes: usize) -> Span {
        Span(self.0.map(|(start, end)| {
            let offset = u32::try_from(offset_bytes).unwrap_or(u32::MAX);
            (start.saturating_add(offset), end.saturating_add(offset))
        }))
    }
}

/// Whose fault an error is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The user's input: a text, a spec, a file, a size.
    Input,
    /// Ours: a pass left IR that does not verify.
    Verify,
    /// A back end lacks an op or dtype.
    Unsupported,
    /// A device or target is missing.
    Device,
}

/// One error: what is wrong, where, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// Whose fault it is.
    pub kind: ErrorKind,
    /// What is wrong, in one sentence: expectation and finding.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What stands at that place, next to the caret.
    pub label: String,
    /// What to do about it; empty if that is plain.
    pub help: String,
}

impl Diagnostic {
    /// An error of the user's input.
    pub fn input(span: Span, message: impl Into<String>) -> Self {
        Diagnostic {
            kind: ErrorKind::Input,
            message: message.into(),
            span,
            label: String::new(),
            help: String::new(),
        }
    }

    /// An error of ours, found by a verifier.
    pub fn verify(message: impl Into<String>) -> Self {
        Diagnostic { kind: ErrorKind::Verify, ..Diagnostic::input(Span::NONE, message) }
    }

    /// Something a back end cannot do.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Diagnostic { kind: ErrorKind::Unsupported, ..Diagnostic::input(Span::NONE, message) }
    }

    /// A target or device that is not there.
    pub fn device(message: impl Into<String>) -> Self {
        Diagnostic { kind: ErrorKind::Device, ..Diagnostic::input(Span::NONE, message) }
    }

    /// Adds the words next to the caret.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Adds the remedy.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

/// One or more errors about one source.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Renders all errors against their source, named `path`: line, column, caret, remedy.
    pub fn render(&self, path: &str, source: &str) -> String {
        let rendered: Vec<String> = self.0.iter().map(|diag| render_one(diag, path, source)).collect();
        rendered.join("\n\n")
    }

    /// `Ok(value)` if there is no error.
    pub fn into_result<T>(self, value: T) -> Result<T, Diagnostics> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

fn render_one(diag: &Diagnostic, path: &str, source: &str) -> String {
    let title = match diag.kind {
        ErrorKind::Verify => Level::ERROR.primary_title(format!("internal: {}", diag.message)),
        _ => Level::ERROR.primary_title(diag.message.clone()),
    };
    let mut group = Group::with_title(title);
    if let Some((start, end)) = diag.span.0 {
        let range = char_range(source, start as usize, end as usize);
        let mark = AnnotationKind::Primary.span(range);
        let mark = if diag.label.is_empty() { mark } else { mark.label(diag.label.clone()) };
        group = group.element(Snippet::source(source).path(path.to_string()).annotation(mark));
    } else if !path.is_empty() {
        group = group.element(Level::NOTE.message(format!("in {path}")));
    }
    if !diag.help.is_empty() {
        group = group.element(Level::HELP.message(diag.help.clone()));
    }
    Renderer::plain().render(&[group])
}

/// The range clamped to the source and to character boundaries.
fn char_range(source: &str, start: usize, end: usize) -> Range<usize> {
    let mut start = start.min(source.len());
    let mut end = end.clamp(start, source.len());
    while !source.is_char_boundary(start) {
        start -= 1;
    }
    while !source.is_char_boundary(end) {
        end += 1;
    }
    start..end
}

impl From<Diagnostic> for Diagnostics {
    fn from(diag: Diagnostic) -> Self {
        Diagnostics(vec![diag])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.0.iter().map(|diag| diag.message.as_str()).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Diagnostics {}
