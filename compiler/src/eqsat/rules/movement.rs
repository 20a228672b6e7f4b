//! Movement ops: cancelled, merged, and moved to where work is done on the smaller tensor.

use super::Class::Exact;
use super::Rule;
use crate::eqsat::pattern::Match;
use crate::eqsat::rewriter::Rewriter;
use crate::eqsat::term::Term;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::{Op, OpKind};
use egg::Id;
use std::ops::Range;

/// The rows.
pub const RULES: &[Rule] = &[
    Rule::term("drop-broadcast", "(broadcast@b ?x)", "?x", Exact, "Nothing is repeated.")
        .when("the type stays", same_type),
    Rule::term("drop-reshape", "(reshape@r ?x)", "?x", Exact, "The shape stays.")
        .when("the type stays", same_type),
    Rule::term("drop-slice", "(slice@s ?x)", "?x", Exact, "All of it is taken.")
        .when("the type stays", same_type),
    Rule::term("drop-concat", "(concat@c ?x)", "?x", Exact, "There is only one operand."),
    Rule::term("drop-pad", "(pad@p ?x ?v)", "?x", Exact, "Nothing is added.")
        .when("the type stays", same_type),
    Rule::term("drop-convert", "(convert@c ?x)", "?x", Exact, "It has that dtype.")
        .when("the type stays", same_type),
    Rule::term("drop-transpose", "(transpose@t ?x)", "?x", Exact, "No axis moves.")
        .when("axes stay", axes_stay),
    Rule::term(
        "drop-stop-gradient",
        "(stop_gradient ?x)",
        "?x",
        Exact,
        "Derivatives were taken before; from here on it is the identity.",
    ),
    Rule::built(
        "broadcast-of-broadcast",
        "(broadcast@b (broadcast@a ?x))",
        ("one broadcast", broadcast_of_broadcast),
        Exact,
        "Repeated once along all new axes.",
    ),
    Rule::built(
        "transpose-of-transpose",
        "(transpose@b (transpose@a ?x))",
        ("one transpose", transpose_of_transpose),
        Exact,
        "Permutations compose.",
    ),
    Rule::built(
        "reshape-of-reshape",
        "(reshape@b (reshape@a ?x))",
        ("the outer reshape", reshape_of_reshape),
        Exact,
        "The shape in between does not matter.",
    ),
    Rule::built(
        "convert-there-and-back",
        "(convert@b (convert@a ?x))",
        ("the outer conversion", convert_of_convert),
        Exact,
        "A conversion to a wider float loses nothing.",
    ),
    Rule::built(
        "broadcast-of-unit-axes",
        "(broadcast@b ?x)",
        ("a reshape", broadcast_as_reshape),
        Exact,
        "Axes of extent 1 repeat nothing; a reshape merges with its neighbours.",
    ),
    Rule::built(
        "transpose-of-broadcast",
        "(transpose@t (broadcast@b ?x))",
        ("a broadcast of the smaller transpose", transpose_of_broadcast),
        Exact,
        "A broadcast can repeat along any axes, so that nothing large is transposed.",
    ),
    Rule::built(
        "reshape-of-broadcast",
        "(reshape@r (broadcast@b ?x))",
        ("a broadcast of a smaller reshape", reshape_of_broadcast),
        Exact,
        "Axes along which values repeat need not be formed before they are reshaped.",
    ),
    Rule::built(
        "slice-of-broadcast",
        "(slice@s (broadcast@b ?x))",
        ("a broadcast of less", slice_of_broadcast),
        Exact,
        "Only what is taken is repeated.",
    ),
    Rule::built(
        "slice-of-slice",
        "(slice@s (slice@r ?x))",
        ("one slice", slice_of_slice),
        Exact,
        "Ranges of one axis nest.",
    ),
    Rule::built(
        "slice-of-concat",
        "(slice@s (concat@c ..))",
        ("a slice of one operand", slice_of_concat),
        Exact,
        "What lies within one operand is taken from it.",
    ),
    Rule::built(
        "slice-of-transpose",
        "(slice@s (transpose@t ?x))",
        ("a transpose of a slice", slice_of_transpose),
        Exact,
        "Less is transposed.",
    ),
    Rule::built(
        "concat-of-slices",
        "(concat@c ..)",
        ("the whole", concat_of_slices),
        Exact,
        "Adjacent slices of one value, put together again.",
    ),
    Rule::term(
        "slice-of-unary",
        "(slice@s (unary@f ?x))",
        "(@f (@s ?x))",
        Exact,
        "Work is done on what is taken.",
    ),
    Rule::term(
        "slice-of-binary",
        "(slice@s (binary@f ?x ?y))",
        "(@f (@s ?x) (@s ?y))",
        Exact,
        "Work is done on what is taken.",
    )
    .when("the operands are in place", in_place),
    Rule::term(
        "unary-of-broadcast",
        "(unary@f (broadcast@b ?x))",
        "(@b (@f ?x))",
        Exact,
        "Work is done before it is repeated.",
    ),
    Rule::term(
        "convert-of-broadcast",
        "(convert@f (broadcast@b ?x))",
        "(@b (@f ?x))",
        Exact,
        "Work is done before it is repeated.",
    ),
    Rule::built(
        "binary-of-broadcasts",
        "(binary@f (broadcast@b ?x) (broadcast@d ?y))",
        ("a broadcast of the op on the axes that either has", binary_of_broadcasts),
        Exact,
        "Work is done before it is repeated.",
    ),
    Rule::built(
        "ternary-of-broadcasts",
        "(ternary@f (broadcast@b ?x) (broadcast@d ?y) (broadcast@e ?z))",
        ("a broadcast of the op on the axes that any has", ternary_of_broadcasts),
        Exact,
        "Work is done before it is repeated.",
    ),
    Rule::term(
        "unary-of-reshape",
        "(unary@f (reshape@r ?x))",
        "(@r (@f ?x))",
        Exact,
        "Elements are the same in any shape.",
    ),
    Rule::term(
        "reshape-of-unary",
        "(reshape@r (unary@f ?x))",
        "(@f (@r ?x))",
        Exact,
        "Elements are the same in any shape.",
    ),
    Rule::term(
        "binary-of-reshapes",
        "(binary@f (reshape@r ?x) (reshape@q ?y))",
        "(@r (@f ?x ?y))",
        Exact,
        "Elements are the same in any shape.",
    )
    .when("the operands are in place and of one shape", |cx, m| in_place(cx, m) && same_shape(cx, m)),
    Rule::term(
        "reshape-of-binary",
        "(reshape@r (binary@f ?x ?y))",
        "(@f (@r ?x) (@r ?y))",
        Exact,
        "Factors that repeat become visible to the contraction that reads the reshape.",
    )
    .when("the operands are in place", in_place),
    Rule::term(
        "unary-of-transpose",
        "(unary@f (transpose@t ?x))",
        "(@t (@f ?x))",
        Exact,
        "Elements are the same in any order.",
    ),
    Rule::term(
        "transpose-of-unary",
        "(transpose@t (unary@f ?x))",
        "(@f (@t ?x))",
        Exact,
        "Elements are the same in any order.",
    ),
    Rule::term(
        "binary-of-transposes",
        "(binary@f (transpose@t ?x) (transpose@u ?y))",
        "(@t (@f ?x ?y))",
        Exact,
        "One transpose instead of two.",
    )
    .when("both move axes alike", |cx, m| in_place(cx, m) && cx.op(m, 't') == cx.op(m, 'u')),
    Rule::term(
        "transpose-of-binary",
        "(transpose@t (binary@f ?x ?y))",
        "(@f (@t ?x) (@t ?y))",
        Exact,
        "Transposes move to the operands, where contractions absorb them.",
    )
    .when("the operands are in place", in_place),
];

fn same_type(cx: &Rewriter<'_>, m: &Match) -> bool {
    cx.ty(m.root) == cx.ty(m.var('x'))
}

fn same_shape(cx: &Rewriter<'_>, m: &Match) -> bool {
    cx.ty(m.var('x')).map(|ty| ty.shape) == cx.ty(m.var('y')).map(|ty| ty.shape)
}

/// The operands were not exchanged: a family of ops has some that must not be.
fn in_place(_cx: &Rewriter<'_>, m: &Match) -> bool {
    m.place('f') == 0
}

fn axes_stay(cx: &Rewriter<'_>, m: &Match) -> bool {
    cx.op(m, 't').is_some_and(|op| op.axes("axes").iter().enumerate().all(|(to, from)| to == *from as usize))
}

fn broadcast_of_broadcast(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (outer, inner) = (cx.op(m, 'b')?, cx.op(m, 'a')?);
    let axes = inner.axes("axes").iter().map(|axis| outer.axes("axes").get(*axis as usize).copied());
    let axes: Option<Vec<u32>> = axes.collect();
    cx.broadcast(m.var('x'), outer.dims("shape").to_vec(), axes?)
}

fn transpose_of_transpose(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (outer, inner) = (cx.op(m, 'b')?, cx.op(m, 'a')?);
    let axes = outer.axes("axes").iter().map(|axis| inner.axes("axes").get(*axis as usize).copied());
    let axes: Option<Vec<u32>> = axes.collect();
    cx.transpose(m.var('x'), axes?)
}

fn reshape_of_reshape(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let shape = cx.op(m, 'b')?.dims("shape").to_vec();
    cx.reshape(m.var('x'), shape)
}

fn convert_of_convert(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (from, between) = (cx.ty(m.var('x'))?.dtype, cx.op(m, 'a')?.dtype()?);
    let widens = match from {
        DType::F32 => between == DType::F64,
        DType::Bf16 | DType::F16 => matches!(between, DType::F32 | DType::F64),
        _ => false,
    };
    if !widens {
        return None;
    }
    let outer = cx.op(m, 'b')?;
    if outer.dtype()? == from { Some(m.var('x')) } else { cx.add(&outer, &[m.var('x')]) }
}

fn broadcast_as_reshape(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let op = cx.op(m, 'b')?;
    let (shape, axes) = (op.dims("shape"), op.axes("axes"));
    let only_ones = (0..shape.len()).all(|axis| axes.contains(&(axis as u32)) || shape[axis].is_const(1));
    if only_ones { cx.reshape(m.var('x'), shape.to_vec()) } else { None }
}

fn transpose_of_broadcast(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (outer, inner) = (cx.op(m, 't')?, cx.op(m, 'b')?);
    let shape = cx.ty(m.root)?.shape;
    let (mut order, mut axes) = (vec![], vec![]);
    for (place, source) in outer.axes("axes").iter().enumerate() {
        if let Some(axis) = inner.axes("axes").iter().position(|other| other == source) {
            order.push(axis as u32);
            axes.push(place as u32);
        }
    }
    let x = cx.transpose(m.var('x'), order)?;
    cx.broadcast(x, shape, axes)
}

/// Ranges of axes of two shapes of as many elements that hold the same elements, as fine as can be.
pub fn aligned_groups(from: &[Dim], to: &[Dim]) -> Vec<(Range<usize>, Range<usize>)> {
    let prefixes = |shape: &[Dim]| -> Vec<Dim> {
        let mut products = vec![Dim::constant(1)];
        for dim in shape {
            products.push(products[products.len() - 1].mul(dim));
        }
        products
    };
    let (left, right) = (prefixes(from), prefixes(to));
    let mut groups = vec![];
    let (mut row, mut column) = (0, 0);
    while row < from.len() || column < to.len() {
        let mut next = (from.len(), to.len());
        // The nearest pair of ends before which there are as many elements.
        'search: for distance in 1..=(from.len() - row) + (to.len() - column) {
            for step in 0..=distance.min(from.len() - row) {
                let end = (row + step, column + distance - step);
                if end.1 <= to.len() && step > 0 && end.1 > column && left[end.0] == right[end.1] {
                    next = end;
                    break 'search;
                }
            }
        }
        groups.push((row..next.0, column..next.1));
        (row, column) = next;
    }
    groups
}

fn reshape_of_broadcast(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let inner = cx.op(m, 'b')?;
    let (axes, from) = (inner.axes("axes"), inner.dims("shape"));
    let to = cx.ty(m.root)?.shape;
    let groups = aligned_groups(from, &to);
    let touched: Vec<&(Range<usize>, Range<usize>)> =
        groups.iter().filter(|(range, _)| range.clone().any(|axis| axes.contains(&(axis as u32)))).collect();
    if touched.len() == groups.len() {
        return None;
    }
    let kept_from: Vec<usize> = touched.iter().flat_map(|(range, _)| range.clone()).collect();
    let kept_to: Vec<usize> = touched.iter().flat_map(|(_, range)| range.clone()).collect();
    let shape: Vec<Dim> = kept_from.iter().map(|axis| from[*axis].clone()).collect();
    let places: Option<Vec<u32>> = axes
        .iter()
        .map(|axis| Some(kept_from.iter().position(|kept| *kept == *axis as usize)? as u32))
        .collect();
    let small = cx.broadcast(m.var('x'), shape, places?)?;
    let small = cx.reshape(small, kept_to.iter().map(|axis| to[*axis].clone()).collect())?;
    cx.broadcast(small, to, kept_to.iter().map(|axis| *axis as u32).collect())
}

/// Axis, start and end of a slice.
fn slice_parts(cx: &Rewriter<'_>, op: &Op) -> Option<(usize, Dim, Dim)> {
    let module = &cx.graph.analysis.module;
    let axis = usize::try_from(op.int(module, "axis").ok()?).ok()?;
    Some((axis, op.dim(module, "start").ok()?, op.dim(module, "end").ok()?))
}

fn slice_of_broadcast(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (slice, inner) = (cx.op(m, 's')?, cx.op(m, 'b')?);
    let (axis, start, end) = slice_parts(cx, &slice)?;
    let mut shape = inner.dims("shape").to_vec();
    *shape.get_mut(axis)? = end.sub(&start);
    let source = match inner.axes("axes").iter().position(|other| *other as usize == axis) {
        Some(own) => cx.slice(m.var('x'), own, start, end)?,
        None => m.var('x'),
    };
    cx.broadcast(source, shape, inner.axes("axes").to_vec())
}

fn slice_of_slice(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (outer, inner) = (cx.op(m, 's')?, cx.op(m, 'r')?);
    let (axis, start, end) = slice_parts(cx, &outer)?;
    let (inner_axis, offset, _) = slice_parts(cx, &inner)?;
    if axis == inner_axis { cx.slice(m.var('x'), axis, offset.add(&start), offset.add(&end)) } else { None }
}

fn slice_of_concat(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let outer = cx.op(m, 's')?;
    let (axis, start, end) = slice_parts(cx, &outer)?;
    let along = cx.op(m, 'c')?.int(&cx.graph.analysis.module, "axis").ok()?;
    if along != axis as i64 {
        return None;
    }
    let within = |dim: &Dim, lo: &Dim| dim.sub(lo).as_const().is_some_and(|gap| gap >= 0);
    let mut offset = Dim::constant(0);
    for operand in &m.term('c')?.args {
        let next = offset.add(cx.ty(*operand)?.shape.get(axis)?);
        if within(&start, &offset) && within(&next, &end) {
            return cx.slice(*operand, axis, start.sub(&offset), end.sub(&offset));
        }
        offset = next;
    }
    None
}

fn slice_of_transpose(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let (slice, inner) = (cx.op(m, 's')?, cx.op(m, 't')?);
    let (axis, start, end) = slice_parts(cx, &slice)?;
    let own = *inner.axes("axes").get(axis)? as usize;
    let less = cx.slice(m.var('x'), own, start, end)?;
    cx.transpose(less, inner.axes("axes").to_vec())
}

fn concat_of_slices(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    let axis = usize::try_from(cx.op(m, 'c')?.int(&cx.graph.analysis.module, "axis").ok()?).ok()?;
    let operands = &m.term('c')?.args;
    let slices_of = |id: Id| -> Vec<(Id, Dim, Dim)> {
        let is_slice = |term: &&Term| term.kind() == Some(OpKind::Slice);
        let parts = |term: &Term| {
            let (own, start, end) = slice_parts(cx, &cx.op_of(term)?)?;
            (own == axis).then_some((cx.graph.find(term.args[0]), start, end))
        };
        cx.graph[id].iter().filter(is_slice).filter_map(parts).collect()
    };
    for (source, first, end) in slices_of(*operands.first()?) {
        let mut reached = Some(end);
        for operand in &operands[1..] {
            let next = slices_of(*operand)
                .into_iter()
                .find(|(other, start, _)| *other == source && Some(start) == reached.as_ref());
            reached = next.map(|(.., end)| end);
        }
        if let Some(end) = reached
            && operands.len() > 1
        {
            return cx.slice(source, axis, first, end);
        }
    }
    None
}

fn binary_of_broadcasts(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    if m.place('f') != 0 {
        return None;
    }
    over_common_axes(cx, m, &[('x', 'b'), ('y', 'd')])
}

fn ternary_of_broadcasts(cx: &mut Rewriter<'_>, m: &Match) -> Option<Id> {
    over_common_axes(cx, m, &[('x', 'b'), ('y', 'd'), ('z', 'e')])
}

/// The op called `f` on operands that are broadcast only to the axes that one of them has, and the result to all.
fn over_common_axes(cx: &mut Rewriter<'_>, m: &Match, operands: &[(char, char)]) -> Option<Id> {
    let broadcasts: Option<Vec<Op>> = operands.iter().map(|(_, name)| cx.op(m, *name)).collect();
    let broadcasts = broadcasts?;
    let mut common: Vec<u32> = broadcasts.iter().flat_map(|op| op.axes("axes").to_vec()).collect();
    common.sort_unstable();
    common.dedup();
    let shape = broadcasts.first()?.dims("shape").to_vec();
    if common.len() == shape.len() {
        return None;
    }
    let inner: Vec<Dim> = common.iter().map(|axis| shape[*axis as usize].clone()).collect();
    let mut args = vec![];
    for ((var, _), op) in operands.iter().zip(&broadcasts) {
        let places = op.axes("axes").iter().filter_map(|axis| common.binary_search(axis).ok());
        let places = places.map(|place| place as u32).collect();
        args.push(cx.broadcast(m.var(*var), inner.clone(), places)?);
    }
    let op = cx.op(m, 'f')?;
    let result = cx.add(&op, &args)?;
    cx.broadcast(result, shape, common)
}
