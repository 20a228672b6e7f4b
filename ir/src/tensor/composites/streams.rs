//! Residual streams: mixing, reading, expanding, and matrices to mix them with (docs/MATHEMATICS.md 1 to 5).

use super::{Expanded, call, contract, norms, single};
use crate::scalar::ScalarOp;
use crate::tensor::build::Built;
use crate::tensor::{Attr, Domain, Op, OpKind, ValueId, build::Builder};

/// See the op `stream_mix`.
pub fn stream_mix(b: &mut Builder<'_>, args: &[ValueId], op: &Op) -> Expanded {
    let (res, x) = (args[0], args[1]);
    if b.ty(x).rank() != 3 || !(2..=3).contains(&b.ty(res).rank()) {
        return Err(format!(
            "expected res [T,n,n] or [n,n] and x [T,n,C], found {} and {}",
            b.ty(res),
            b.ty(x)
        ));
    }
    let token = if b.ty(res).rank() == 3 { "t" } else { "" };
    let matrix = if op.word("orientation") == "source_rows" { "io" } else { "oi" };
    let mixed = contract(b, &format!("{token}{matrix},tic->toc"), &[res, x])?;
    if args.len() == 2 {
        return Ok(vec![mixed]);
    }
    let (n, width) = (b.dim(x, 1), b.dim(x, 2));
    let post = if b.ty(args[2]).rank() == 1 {
        let tokens = b.dim(x, 0);
        b.insert_axis(args[2], 0, tokens)?
    } else {
        args[2]
    };
    let post = b.insert_axis(post, 2, width)?;
    let branch = b.insert_axis(args[3], 1, n)?;
    let fed = b.mul(post, branch)?;
    single(b.add(mixed, fed))
}

/// See the op `stream_pre`.
pub fn stream_pre(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let token = if b.ty(args[0]).rank() == 2 { "t" } else { "" };
    single(contract(b, &format!("{token}i,tic->tc"), args))
}

/// See the op `stream_expand`.
pub fn stream_expand(b: &mut Builder<'_>, args: &[ValueId], op: &Op) -> Expanded {
    let n = op.dim(b.module, "n")?;
    single(b.insert_axis(args[0], 1, n))
}

/// See the op `stream_reduce`.
pub fn stream_reduce(b: &mut Builder<'_>, args: &[ValueId], op: &Op) -> Expanded {
    if b.ty(args[0]).rank() != 3 {
        return Err(format!("expected streams [T,n,C], found {}", b.ty(args[0])));
    }
    match op.word("by") {
        "mean" => single(norms::mean_of(b, args[0], &[1])),
        _ => single(b.sum(args[0], &[1])),
    }
}

/// See the op `birkhoff_mixture`.
pub fn birkhoff_mixture(b: &mut Builder<'_>, args: &[ValueId], _op: &Op) -> Expanded {
    let rank = b.ty(args[0]).rank();
    if rank == 0 || rank > 10 {
        return Err(format!("expected mixture logits [..,K], found {}", b.ty(args[0])));
    }
    let weights = call(b, Op::new(OpKind::Softmax, vec![Attr::Int(rank as i64 - 1)]), &[args[0]])?;
    let lead: String = "abcdefghij".chars().take(rank - 1).collect();
    single(contract(b, &format!("{lead}k,kyz->{lead}yz"), &[weights, args[1]]))
}

/// See the op `newton_schulz`.
pub fn newton_schulz(b: &mut Builder<'_>, args: &[ValueId], op: &Op) -> Expanded {
    let ty = b.ty(args[0]).clone();
    let rank = ty.rank();
    if !(2..=10).contains(&rank) {
        return Err(format!("expected matrices [..,n,n], found {ty}"));
    }
    let square = b.mul(args[0], args[0])?;
    let sum = b.sum(square, &[rank - 2, rank - 1])?;
    let (_, safe) = norms::positive_or_one(b, sum)?;
    let norm = b.unary(ScalarOp::Sqrt, safe)?;
    let axes: Vec<usize> = (0..rank - 2).collect();
    let norm = b.broadcast(norm, ty.shape.clone(), &axes)?;
    let start = b.div(args[0], norm)?;
    let lead: String = "abcdefgh".chars().take(rank - 2).collect();
    let body = b.nested("newton_schulz_step", |inner| {
        let x = inner.input("x", ty.clone(), Domain::default())?;
        let next = newton_schulz_step(inner, x, &lead)?;
        inner.output("x", next)
    })?;
    let trip = op.attr("iters").cloned().ok_or("`newton_schulz` needs `iters`")?;
    let trip = match trip {
        Attr::Int(value) => Attr::Dim(value.into()),
        other => other,
    };
    Ok(vec![b.loop_op(body, trip, &[start], &[], &[])?[0]])
}

/// `1.5 x - 0.5 (x x^T) x`.
fn newton_schulz_step(b: &mut Builder<'_>, x: ValueId, lead: &str) -> Built {
    let gram = contract(b, &format!("{lead}xz,{lead}yz->{lead}xy"), &[x, x])?;
    let cubic = contract(b, &format!("{lead}xy,{lead}yz->{lead}xz"), &[gram, x])?;
    let linear = b.mul_const(x, 1.5)?;
    let cubic = b.mul_const(cubic, 0.5)?;
    b.sub(linear, cubic)
}
