//! The text of kernels: prints, parses and round-trips.
//!
//! ```text
//! kernel @scale(
//!   x: read f32[T,64],
//!   y: write f32[T,64],
//! ) sizes T {
//!   grid t over T tile 16 as t0, t_count
//!   local tmp: f32[16,64]                       // tile memory
//!   reg acc: f32[4]                             // registers; `lanes 0 width 8` names a lane axis
//!   stage sum {
//!     for t in 0..t_count {
//!       lanes c in 0..64 width 8 {
//!         %0 = load x[t0+t,c]
//!         %1 = mul %0, %0
//!         store y[t0+t,c] = %1
//!       }
//!     }
//!   }
//! }
//! ```
//! Statements: `%v = INST`, `store M[..] = %v`, `accum OP M[..], %a`, `decl R`, `stage NAME { }`, and the loops `for`,
//! `unroll` and `lanes`. Instructions: `const DTYPE NUMBER`, `index EXPR`, `fma`, `convert DTYPE`, `bitcast DTYPE`,
//! `round DTYPE`, `load M[..]`, and every scalar operation by its name. Values may have names (`%norm`) in a text; printing
//! numbers them in order of definition. A value is visible to the end of its block.
//!
//! Round trip: `parse(print(f)) == canonical(f)` for every `f` that verifies (constants that are NaN aside, which equal
//! nothing), and `print(canonical(f)) == print(f)`.

mod canonical;
mod parse;
mod print;

pub use canonical::canonical;
pub use parse::{Parsed, parse, parse_from};
pub use print::{constant_text, print, print_stmt};

use crate::diag::Span;

/// Where the parts of a parsed kernel stand in its text; empty for kernels built by code.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Spans {
    /// The name after `kernel`.
    pub name: Span,
    /// Of each parameter.
    pub params: Vec<Span>,
    /// Of each grid axis.
    pub grid: Vec<Span>,
    /// Of each local.
    pub locals: Vec<Span>,
    /// Of each statement, in the order in which they print. Of a loop or stage: its head.
    pub stmts: Vec<Span>,
}

impl Spans {
    /// The place of statement number `ordinal`, counted in print order.
    pub fn stmt(&self, ordinal: usize) -> Span {
        self.stmts.get(ordinal).copied().unwrap_or_default()
    }
}
