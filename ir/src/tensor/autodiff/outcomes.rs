//! What is kept of a loop body in place of what it was made from.
//!
//! In: a body, and values of it that a reverse loop would keep. Out: values to keep instead. The derivative of `y = tanh(x + b)`
//! is written in terms of `y`; where nothing else reads `x`, who has `y` needs `x` no more. Both are as large, and `y` is not
//! computed a second time. Says nothing of ops whose derivatives read their operands.

use crate::scalar::ScalarOp;
use crate::tensor::{Func, Node, OpKind, ValueId};

/// What comes of those of `kept` that are read only to compute something else that is no larger, and from which derivatives go on.
pub fn outcomes(body: &Func, kept: &[ValueId]) -> Vec<ValueId> {
    kept.iter().filter_map(|value| outcome(body, *value)).collect()
}

fn outcome(body: &Func, kept: ValueId) -> Option<ValueId> {
    let mut value = kept;
    loop {
        let mut readers = body.nodes.iter().filter(|node| node.args.contains(&value));
        let (reader, None) = (readers.next()?, readers.next()) else { return None };
        let result = *reader.results.first()?;
        if body.ty(result) != body.ty(kept) {
            return None;
        }
        match reach(reader) {
            Reach::Sum => value = result,
            Reach::Outcome => return Some(result),
            Reach::End => return None,
        }
    }
}

/// What the tangent of a node reads besides tangents.
enum Reach {
    /// Nothing.
    Sum,
    /// The result.
    Outcome,
    /// Operands.
    End,
}

fn reach(node: &Node) -> Reach {
    use ScalarOp as S;
    match node.op.kind {
        OpKind::Scalar(S::Add | S::Sub | S::Neg) => Reach::Sum,
        OpKind::Sigmoid => Reach::Outcome,
        OpKind::Scalar(S::Exp | S::Expm1 | S::Sqrt | S::Rsqrt | S::Recip | S::Tan | S::Tanh) => {
            Reach::Outcome
        }
        _ => Reach::End,
    }
}
