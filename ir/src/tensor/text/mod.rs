//! The text of tensor IR: it prints, parses, and prints the same again.
//!
//! ```text
//! dim n = 4                                    // a size known at compile time
//! dim C                                        // given by --dim or the shapes of the inputs
//! dim T in 1..=2147483648 default 1024         // known at every call only
//! param iters = 20                             // a number that attributes refer to as $iters
//!
//! fn @step(%a: f32[T,n,n] ~ uniform(0.1, 1)) -> (a: f32[T,n,n]) {
//!   %s = reduce_sum(%a) {axes=[2]} : f32[T,n]
//!   %t = broadcast(%s) {shape=[T,n,n], axes=[0,1]} : f32[T,n,n]
//!   %q = div(%a, %t) : f32[T,n,n]
//!   return a = %q
//! }
//! export fn @main(%m: f32[T,n,n]) -> (h: f32[T,n,n]) {
//!   %0 = exp(%m) : f32[T,n,n]
//!   %1 = loop(%0) {body=@step, trip=$iters, carry=1} : f32[T,n,n]
//!   return h = %1
//! }
//! ```
//! That is the canonical form: one op per line, every type written, attributes at their default left out, values without a
//! name numbered. The parser reads more, which the printer never prints:
//! - names without `%`; statements without types; attributes between the parentheses (`softmax(x, axis=1)`);
//! - nested calls, and `+ - * /`, unary minus and slices `x[axis: a..b]` of values: `sigmoid($a * x + b)`;
//! - numbers and `$param` as operands: constants of the other operand's dtype (`f32` where there is none);
//! - operands of elementwise ops that broadcast like NumPy's;
//! - a list, text or function given by position: `reshape(x, [T,n*C])`;
//! - the calls of [`surface::ROWS`].
//!
//! Values are defined before they are used, functions before loops refer to them; dims and parameters may stand anywhere.

mod ast;
mod attrs;
mod cursor;
mod elaborate;
mod expr;
mod grammar;
mod lexer;
mod print;
mod suggest;
pub mod surface;

pub use attrs::{default_attr, kind_text};
pub use print::{print, print_func, print_node};

use crate::diag::{Diagnostic, Diagnostics};
use crate::dim::Sym;
use crate::tensor::build::Builder;
use crate::tensor::{Module, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// More errors than this of one source help nobody.
const MAX_ERRORS: usize = 20;

/// Values by name, for statements that are embedded in another text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scope {
    names: BTreeMap<Sym, ValueId>,
}

impl Scope {
    /// The value of that name (without `%`).
    pub fn get(&self, name: &str) -> Option<ValueId> {
        self.names.get(name).copied()
    }

    /// Makes `value` known as `name`, over what had that name before.
    pub fn insert(&mut self, name: impl Into<Sym>, value: ValueId) {
        self.names.insert(name.into(), value);
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(Sym::as_str)
    }
}

/// Parses a module.
///
/// What parses has types that hold; [`super::verify()`] checks the rest.
///
/// Errors: those of the first of these steps that has any: words, syntax (all that can be told apart), names and types (at
/// most one per statement).
pub fn parse(source: &str) -> Result<Module, Diagnostics> {
    let (tokens, mut errors) = lexer::tokens(source);
    if !errors.is_empty() {
        return Err(bounded(errors));
    }
    let parsed = grammar::parse_source(source, &tokens, &mut errors);
    if !errors.is_empty() {
        return Err(bounded(errors));
    }
    let module = elaborate::module(parsed, &mut errors);
    bounded(errors).into_result(module)
}

/// Parses statements and appends them to the function that `builder` builds. Their names join `scope`.
///
/// `offset_bytes` is where `source` begins in the text that holds it: spans of nodes and errors speak of that text.
///
/// Errors: as [`parse`]; the function is then incomplete.
pub fn parse_body(
    builder: &mut Builder<'_>,
    scope: &mut Scope,
    source: &str,
    offset_bytes: usize,
) -> Result<(), Diagnostics> {
    let (tokens, mut errors) = lexer::tokens(source);
    errors.iter_mut().for_each(|error| error.span = error.span.shifted(offset_bytes));
    let statements = match errors.is_empty() {
        true => grammar::parse_statements(source, &tokens, offset_bytes, &mut errors),
        false => vec![],
    };
    if errors.is_empty() {
        let failed_funcs = BTreeSet::new();
        elaborate::Elaborator::new(builder, scope, &failed_funcs).statements(&statements, &mut errors);
    }
    bounded(errors).into_result(())
}

/// The errors in the order of the text, at most [`MAX_ERRORS`].
fn bounded(mut errors: Vec<Diagnostic>) -> Diagnostics {
    errors.sort_by_key(|error| error.span.0);
    errors.truncate(MAX_ERRORS);
    Diagnostics(errors)
}
