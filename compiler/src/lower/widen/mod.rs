//! Lane loops whose lanes take several neighbouring elements, so that a thread loads and stores 16 bytes at a time.
//!
//! In: a kernel whose lanes are threads. Out: the kernel with `lanes i in 0..E` become `lanes i in 0..E/v`, where lane `i` does
//! what the lanes `v*i .. v*i+v` did, one after the other; lane reductions take their terms in that order. A loop is changed if
//! it walks memory at the kernel's edge element by element, if rows there start at multiples of `v` elements, if at least a warp
//! of lanes remains, and if no lane meets another. Register arrays that lanes index get an axis for the neighbours.
//!
//! Deliberately absent: the accesses themselves. They stay one per element, next to each other in memory and in the kernel, and
//! the back end makes one of them where the address of the first is aligned.

mod rewrite;
mod survey;

use birkhoff_ir::kernel::{Block, Func, Stmt, Var};
use rewrite::Rewriter;
use std::collections::BTreeMap;

/// Bytes that one instruction moves for a thread.
const ACCESS_BYTES: i64 = 16;
/// Lanes that remain at least: a warp.
const MIN_LANES: i64 = 32;
/// Statements that the body of a widened loop may have: code is compiled, and has to be fetched.
const MAX_STATEMENTS: usize = 3072;
/// Registers that the partial results of a widened loop and what it keeps for them may take, of the 255 that a thread has.
const MAX_REGISTERS: i64 = 116;
/// Bytes of a register.
const REGISTER_BYTES: i64 = 4;
/// What is a term of more sums than this stays in a register for all of them.
const MANY_SUMS: usize = 4;

/// Neighbours that a lane takes, and the lanes of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Choice {
    neighbours: i64,
    width: u32,
}

/// Widens what lane loops of `func` can be.
pub fn widen(func: &mut Func) {
    let choices = survey::choices(func);
    if choices.is_empty() {
        return;
    }
    let body = std::mem::take(&mut func.body);
    func.body = Rewriter::new(choices).outside(func, body);
}

/// In how many accumulations of `block` each variable occurs.
fn sum_uses(block: &Block) -> BTreeMap<Var, usize> {
    fn visit(block: &Block, uses: &mut BTreeMap<Var, usize>) {
        for stmt in block {
            match stmt {
                Stmt::Accum { args, .. } => args.iter().for_each(|arg| *uses.entry(*arg).or_insert(0) += 1),
                Stmt::For(inner) => visit(&inner.body, uses),
                Stmt::Stage(_, body) => visit(body, uses),
                Stmt::Let(..) | Stmt::Store { .. } | Stmt::Decl(_) => {}
            }
        }
    }
    let mut uses = BTreeMap::new();
    visit(block, &mut uses);
    uses
}
