//! The one error type of the library: diagnostics, with the text they are about.

use birkhoff_ir::diag::{Diagnostic, Diagnostics, ErrorKind};
use std::fmt;
use std::sync::Arc;

/// A text that diagnostics point into.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Source {
    /// The file's name, or what stands for it.
    pub path: String,
    /// The whole text; empty where there is none (a file of numbers).
    pub text: String,
}

/// What went wrong: one or more diagnostics. [`fmt::Display`] renders them with file, line, column and caret.
#[derive(Clone, PartialEq, Eq)]
pub struct Error {
    diagnostics: Diagnostics,
    source: Option<Arc<Source>>,
}

impl Error {
    /// Errors about `source`.
    pub fn new(diagnostics: impl Into<Diagnostics>, source: Option<Arc<Source>>) -> Error {
        Error { diagnostics: diagnostics.into(), source }
    }

    /// Errors about the file at `path`, which has no lines.
    pub fn in_file(diagnostics: impl Into<Diagnostics>, path: impl fmt::Display) -> Error {
        let source = Source { path: path.to_string(), text: String::new() };
        Error::new(diagnostics, Some(Arc::new(source)))
    }

    /// The same errors, said of the file at `path`, which has no lines.
    pub fn about_file(self, path: impl fmt::Display) -> Error {
        Error::in_file(self.diagnostics, path)
    }

    /// The single errors.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics.0
    }

    /// True if a device or target is missing, rather than anything being wrong with the input.
    pub fn is_missing_device(&self) -> bool {
        self.diagnostics.0.iter().any(|diag| diag.kind == ErrorKind::Device)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => f.write_str(&self.diagnostics.render(&source.path, &source.text)),
            None => f.write_str(&self.diagnostics.render("", "")),
        }
    }
}

/// The same as [`fmt::Display`], so that `unwrap` in an example shows a readable message.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

impl From<Diagnostics> for Error {
    fn from(diagnostics: Diagnostics) -> Error {
        Error { diagnostics, source: None }
    }
}

impl From<Diagnostic> for Error {
    fn from(diagnostic: Diagnostic) -> Error {
        Error { diagnostics: diagnostic.into(), source: None }
    }
}
