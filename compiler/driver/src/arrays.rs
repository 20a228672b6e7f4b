//! Arrays by name: what a function is called with, and what it gives.

use crate::error::Error;
use birkhoff_ir::diag::{Diagnostic, Diagnostics, Span};
use birkhoff_ir::dim::Sym;
use birkhoff_runtime::{Buffer, CallReport, Element, View, ViewMut};
use std::sync::Arc;

/// The inputs of a call, by name; nothing is copied.
///
/// Mistakes (a shape that does not fit its slice) are kept and reported by the call, so that inputs can be listed in one
/// expression.
#[derive(Clone, Default)]
pub struct Inputs<'a> {
    views: Vec<(String, View<'a>)>,
    errors: Vec<Diagnostic>,
}

impl<'a> Inputs<'a> {
    /// No inputs yet.
    pub fn new() -> Inputs<'a> {
        Inputs::default()
    }

    /// The elements of `data` as the input `name`, row-major under `shape`.
    pub fn slice<E: Element>(self, name: &str, data: &'a [E], shape: &[i64]) -> Inputs<'a> {
        self.result(name, View::of(data, shape))
    }

    /// A view as the input `name`.
    pub fn view(self, name: &str, view: View<'a>) -> Inputs<'a> {
        self.result(name, Ok(view))
    }

    fn result(mut self, name: &str, view: Result<View<'a>, Diagnostic>) -> Inputs<'a> {
        match view {
            Ok(_) if self.views.iter().any(|(other, _)| other == name) => {
                self.errors.push(Diagnostic::input(Span::NONE, format!("the input `{name}` is given twice")));
            }
            Ok(view) => self.views.push((name.to_string(), view)),
            Err(error) => self.errors.push(of_array("input", name, error)),
        }
        self
    }

    /// Names and shapes, in the order given.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[i64])> {
        self.views.iter().map(|(name, view)| (name.as_str(), view.shape()))
    }

    /// The views given, with their places in `names`.
    ///
    /// Errors: mistakes kept so far, every view whose name is not there.
    pub(crate) fn given(&self, names: &[Sym]) -> Result<Vec<(usize, View<'a>)>, Diagnostics> {
        let mut errors = self.errors.clone();
        let mut found = vec![];
        for (name, view) in &self.views {
            match names.iter().position(|known| known.as_str() == name) {
                Some(place) => found.push((place, view.clone())),
                None => {
                    let list = names.iter().map(Sym::as_str).collect::<Vec<_>>().join(", ");
                    let error = Diagnostic::input(Span::NONE, format!("there is no input `{name}`"));
                    errors.push(error.help(format!("the inputs are: {list}")));
                }
            }
        }
        Diagnostics(errors).into_result(found)
    }

    /// The views in the order of `names`.
    ///
    /// Errors: mistakes kept so far, every name without a view, every view without a name.
    pub(crate) fn in_order(&self, names: &[Sym]) -> Result<Vec<View<'a>>, Diagnostics> {
        in_order("input", names, &self.views, &self.errors, View::clone)
    }
}

/// The caller's memory for the outputs of a call, by name.
#[derive(Default)]
pub struct OutputsMut<'a> {
    views: Vec<(String, ViewMut<'a>)>,
    errors: Vec<Diagnostic>,
}

impl<'a> OutputsMut<'a> {
    /// No outputs yet.
    pub fn new() -> OutputsMut<'a> {
        OutputsMut::default()
    }

    /// Writes the output `name` into `data`, row-major under `shape`.
    pub fn slice<E: Element>(self, name: &str, data: &'a mut [E], shape: &[i64]) -> OutputsMut<'a> {
        self.result(name, ViewMut::of(data, shape))
    }

    /// Writes the output `name` into a view.
    pub fn view(self, name: &str, view: ViewMut<'a>) -> OutputsMut<'a> {
        self.result(name, Ok(view))
    }

    fn result(mut self, name: &str, view: Result<ViewMut<'a>, Diagnostic>) -> OutputsMut<'a> {
        match view {
            Ok(_) if self.views.iter().any(|(other, _)| other == name) => {
                self.errors
                    .push(Diagnostic::input(Span::NONE, format!("the output `{name}` is given twice")));
            }
            Ok(view) => self.views.push((name.to_string(), view)),
            Err(error) => self.errors.push(of_array("output", name, error)),
        }
        self
    }

    /// The views in the order of `names`.
    pub(crate) fn in_order(mut self, names: &[Sym]) -> Result<Vec<ViewMut<'a>>, Diagnostics> {
        in_order("output", names, &self.views, &self.errors, |_| ())?;
        self.views.sort_by_key(|(name, _)| names.iter().position(|other| other.as_str() == name));
        Ok(self.views.into_iter().map(|(_, view)| view).collect())
    }
}

fn of_array(what: &str, name: &str, error: Diagnostic) -> Diagnostic {
    Diagnostic { message: format!("the {what} `{name}`: {}", error.message), ..error }
}

fn in_order<V, T>(
    what: &str,
    names: &[Sym],
    views: &[(String, V)],
    errors: &[Diagnostic],
    take: impl Fn(&V) -> T,
) -> Result<Vec<T>, Diagnostics> {
    let mut errors = errors.to_vec();
    let list = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    for (name, _) in views {
        if !names.iter().any(|known| known.as_str() == name) {
            let error = Diagnostic::input(Span::NONE, format!("there is no {what} `{name}`"));
            errors.push(error.help(format!("the {what}s are: {list}")));
        }
    }
    let mut taken = Vec::with_capacity(names.len());
    for name in names {
        match views.iter().find(|(given, _)| given == name.as_str()) {
            Some((_, view)) => taken.push(take(view)),
            None => {
                errors.push(Diagnostic::input(Span::NONE, format!("the {what} `{name}` is missing")));
            }
        }
    }
    Diagnostics(errors).into_result(taken)
}

/// The results of a call, by name.
#[derive(Debug)]
pub struct Outputs {
    /// Shared with the tapes that saved them.
    pub(crate) arrays: Vec<(Sym, Arc<Buffer>)>,
    pub(crate) report: CallReport,
}

impl Outputs {
    /// The output of that name.
    pub fn get(&self, name: &str) -> Option<&Buffer> {
        self.arrays.iter().find(|(other, _)| other.as_str() == name).map(|(_, buffer)| &**buffer)
    }

    /// The elements of the output of that name, row-major.
    ///
    /// Errors: a name that is not there, another element type.
    pub fn slice<E: Element>(&self, name: &str) -> Result<&[E], Error> {
        let Some(buffer) = self.get(name) else {
            let list = self.arrays.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
            let error = Diagnostic::input(Span::NONE, format!("there is no output `{name}`"));
            return Err(error.help(format!("the outputs are: {list}")).into());
        };
        buffer.as_slice().map_err(|error| of_array("output", name, error).into())
    }

    /// All outputs, in the order of the signature.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Buffer)> {
        self.arrays.iter().map(|(name, buffer)| (name.as_str(), &**buffer))
    }

    /// What the call did: sizes, memory, launches.
    pub fn report(&self) -> &CallReport {
        &self.report
    }
}
