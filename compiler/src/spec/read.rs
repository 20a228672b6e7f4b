//! From TOML text to typed tables.
//!
//! In: the text of a spec. Out: the fields of [`super::syntax`], each with its place, or errors with theirs. Knows nothing of
//! what a field means.

use birkhoff_ir::diag::{Diagnostic, Diagnostics, Span};
use serde::Deserialize;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, Error, ValueDeserializer};

/// A spec longer than this is not one: places in it are 32-bit numbers.
const MAX_SPEC_BYTES: usize = 16 << 20;

/// A key and its value, both with their places.
pub type Entry<'i> = (Spanned<DeString<'i>>, Spanned<DeValue<'i>>);

/// The errors found so far.
#[derive(Default)]
pub struct Errors(Vec<Diagnostic>);

impl Errors {
    /// Adds an error and returns it, so that a label or a remedy can follow.
    pub fn add(&mut self, span: Range<usize>, message: impl Into<String>) -> &mut Diagnostic {
        self.push(Diagnostic::input(Span::new(span), message))
    }

    /// Adds a finished error.
    pub fn push(&mut self, diag: Diagnostic) -> &mut Diagnostic {
        self.0.push(diag);
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    /// Adds several finished errors.
    pub fn extend(&mut self, diags: Diagnostics) {
        self.0.extend(diags.0);
    }

    /// Number of errors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True while there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All errors in the order of their places.
    pub fn into_diagnostics(mut self) -> Diagnostics {
        self.0.sort_by_key(|diag| diag.span.0);
        self.0.dedup();
        Diagnostics(self.0)
    }
}

/// The top-level table of a TOML text.
///
/// Errors: all errors of syntax.
pub fn document<'i>(source: &'i str, errors: &mut Errors) -> Option<DeTable<'i>> {
    if source.len() > MAX_SPEC_BYTES {
        errors.add(0..0, format!("a spec has at most {MAX_SPEC_BYTES} bytes, found {}", source.len()));
        return None;
    }
    let (table, syntax_errors) = DeTable::parse_recoverable(source);
    if syntax_errors.is_empty() {
        return Some(table.into_inner());
    }
    for error in syntax_errors {
        errors.push(syntax_error(&error, 0..source.len()));
    }
    None
}

/// The entries of a table.
///
/// Errors: the value is not a table.
pub fn entries<'i>(value: Spanned<DeValue<'i>>, what: &str, errors: &mut Errors) -> Vec<Entry<'i>> {
    let span = value.span();
    match value.into_inner() {
        DeValue::Table(table) => table.into_iter().collect(),
        other => {
            errors.add(span, format!("`{what}` must be a table, found {}", article(other.type_str())));
            vec![]
        }
    }
}

fn article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}

/// The value as the fields of `T`.
///
/// Errors: an unknown, missing or repeated field, a value of another type.
pub fn decode<'i, T: Deserialize<'i>>(value: Spanned<DeValue<'i>>, errors: &mut Errors) -> Option<T> {
    let span = value.span();
    match T::deserialize(ValueDeserializer::from(value)) {
        Ok(decoded) => Some(decoded),
        Err(error) => {
            errors.push(diagnostic(&error, span));
            None
        }
    }
}

/// The error at its place, or at `place` where it has none, in the words of a spec; the choice that serde offers becomes the
/// remedy.
fn diagnostic(error: &Error, place: Range<usize>) -> Diagnostic {
    let span = Span::new(error.span().unwrap_or(place));
    let message = error.message().trim_end();
    if message.starts_with("wanted string") {
        return Diagnostic::input(span, "expected a word in quotes");
    }
    match message.split_once(", expected ") {
        Some((found, expected)) if message.starts_with("unknown ") => {
            let expected = expected.trim_start_matches("one of ");
            Diagnostic::input(span, found.replace("variant", "word"))
                .help(format!("expected one of {expected}"))
        }
        Some((found, expected)) => {
            let found = found.trim_start_matches("invalid type: ").trim_start_matches("invalid value: ");
            let found = found.trim_end_matches(" as i128").trim_end_matches(" as u128");
            Diagnostic::input(span, format!("expected {expected}, found {found}"))
        }
        None => Diagnostic::input(span, message),
    }
}

/// An error of the TOML parser, at its place.
fn syntax_error(error: &Error, place: Range<usize>) -> Diagnostic {
    let span = Span::new(error.span().unwrap_or(place));
    Diagnostic::input(span, format!("not TOML: {}", error.message().trim_end()))
}
