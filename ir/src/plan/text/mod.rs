//! The text of plans: prints, parses and round-trips.
//!
//! ```text
//! plan @layer {
//!   size T in 1..=2147483648 default 1024
//!   input x: f32[T,10240]
//!   output h: f32[T,2560]
//!   temp state: f32[T,4] in slot 0
//!   temp next: f32[T,4] in slot 1
//!   slot 0: T*16
//!   slot 1: T*16                                    // bytes; the largest, if there are several
//!   launch @pre(x, state, h)
//!   contract(1, T, 64, 2560): h(0, 64, 1) = x[T*2560..](0, 2560, 1) * w(0, 1, 2560)
//!   loop l in 0..24 swap (state, next) {
//!     launch @step(x[l*T..], state, next)           // from element l*T on
//!   }
//!   rows T {                                        // for some rows at a time, if somebody likes
//!     contract(1, T, 64, 64): next(0, 64, 1) = h(0, 64, 1) * w(0, 64, 1)
//!     launch @act(next, h)
//!   }
//! }
//! kernel @pre( .. ) { .. }
//! ```
//! A contraction names how many products it does, their rows, columns and the terms of each sum; of every matrix the
//! strides of the stack, of rows and of columns.
//!
//! The kernels stand after the plan, in the text of [`crate::kernel::text`].
//!
//! Round trip: `parse(print(p)) == canonical(p)` for every `p` that verifies, where only kernels have more than one form.

mod parse;
mod print;

pub use parse::{Parsed, parse};
pub use print::print;

use super::Program;
use crate::diag::Span;
use crate::kernel;

/// Where the parts of a parsed plan stand in its text; empty for plans built by code.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Spans {
    /// The name after `plan`.
    pub name: Span,
    /// Of each size.
    pub sizes: Vec<Span>,
    /// Of each buffer.
    pub buffers: Vec<Span>,
    /// Of each slot.
    pub slots: Vec<Span>,
    /// Of each step, in the order in which they print. Of a loop: its head.
    pub steps: Vec<Span>,
    /// Of each kernel's parts.
    pub kernels: Vec<kernel::text::Spans>,
}

/// `program` with its kernels in canonical form.
pub fn canonical(program: &Program) -> Program {
    Program { kernels: program.kernels.iter().map(kernel::text::canonical).collect(), ..program.clone() }
}
