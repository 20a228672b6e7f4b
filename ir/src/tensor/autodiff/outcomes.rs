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

/// What comes of one value so.
pub fn outcome(body: &Func, kept: ValueId) -> Option<ValueId> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::text::parse;

    /// The names of what is kept in place of the contraction.
    fn kept_instead(statements: &str) -> Vec<String> {
        let source = format!(
            "export fn @f(%x: f32[4,3], %w: f32[3,5], %b: f32[4,5]) -> (y: f32[4,5]) {{
               a = contract(x, w, spec=\"ij,jk->ik\", dtype=f32)
               {statements}
               return y = y
             }}"
        );
        let module = parse(&source).unwrap_or_else(|why| panic!("{}", why.render("test.bir", &source)));
        let func = &module.funcs[0];
        let is_contraction = |node: &&Node| node.op.kind == OpKind::Contract;
        let kept: Vec<ValueId> =
            func.nodes.iter().filter(is_contraction).map(|node| node.results[0]).collect();
        let name = |value: ValueId| func.values[value.0 as usize].name.as_ref().map(ToString::to_string);
        outcomes(func, &kept).into_iter().map(|value| name(value).unwrap_or_default()).collect()
    }

    #[test]
    fn what_derivatives_read_is_kept_in_place_of_what_it_comes_of() {
        assert_eq!(kept_instead("z = a + b\n y = tanh(z)"), ["y"]);
        assert_eq!(kept_instead("h = exp(neg(b - a))\n y = h * b"), ["h"]);
    }

    #[test]
    fn what_derivatives_read_itself_stays() {
        // Read twice, read by a derivative, and of another size.
        assert!(kept_instead("z = a + b\n h = tanh(z)\n y = h * z").is_empty());
        assert!(kept_instead("y = sin(a + b)").is_empty());
        assert!(kept_instead("y = tanh(a * b)").is_empty());
        assert!(
            kept_instead("s = reduce_sum(a, axes=[0])\n y = broadcast(exp(s), shape=[4,5], axes=[1])")
                .is_empty()
        );
    }
}
