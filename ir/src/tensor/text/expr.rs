//! Expressions and attribute values of tensor IR text.
//!
//! In: a [`Cursor`]. Out: one [`Expr`]. `*` and `/` bind tighter than `+` and `-`; all four associate to the left; a minus
//! sign binds tighter than they do, a slice tighter still.

use super::ast::{Arg, AttrAst, AttrAstKind, Call, Expr, ExprKind, NamedAttr};
use super::cursor::{Cursor, MAX_DEPTH, Parsed};
use super::lexer::Tok;
use crate::diag::{Diagnostic, Span};
use crate::dim::Sym;
use crate::scalar::{Scalar, ScalarOp};

/// An expression.
pub fn expr(cursor: &mut Cursor<'_>) -> Parsed<Expr> {
    let sum = |tok: &Tok| match tok {
        Tok::Plus => Some(ScalarOp::Add),
        Tok::Minus => Some(ScalarOp::Sub),
        _ => None,
    };
    cursor.nested(|cursor| chain(cursor, &sum, &product))
}

fn product(cursor: &mut Cursor<'_>) -> Parsed<Expr> {
    let times = |tok: &Tok| match tok {
        Tok::Star => Some(ScalarOp::Mul),
        Tok::Slash => Some(ScalarOp::Div),
        _ => None,
    };
    chain(cursor, &times, &unary)
}

/// `part op part op ..`, to the left.
fn chain(
    cursor: &mut Cursor<'_>,
    op_of: &dyn Fn(&Tok) -> Option<ScalarOp>,
    part: &dyn Fn(&mut Cursor<'_>) -> Parsed<Expr>,
) -> Parsed<Expr> {
    let start = cursor.span();
    let mut left = part(cursor)?;
    while let Some(op) = cursor.peek().and_then(op_of) {
        cursor.advance();
        let right = part(cursor)?;
        left = node(cursor, start, ExprKind::Binary(op, Box::new(left), Box::new(right)))?;
    }
    Ok(left)
}

/// The expression `kind`, from `start` to here. Errors: a tree so deep that walking it could exhaust the stack.
fn node(cursor: &Cursor<'_>, start: Span, kind: ExprKind) -> Parsed<Expr> {
    let span = cursor.span_from(start);
    let inner = match &kind {
        ExprKind::Ref(..) | ExprKind::Number(_) | ExprKind::Param(_) => 0,
        ExprKind::Binary(_, left, right) => left.depth.max(right.depth),
        ExprKind::Neg(x) | ExprKind::Slice { x, .. } => x.depth,
        ExprKind::Call(call) => {
            let operands = call.args.iter().filter_map(|arg| match arg {
                Arg::Operand(operand) => Some(operand.depth),
                Arg::Attr(_) => None,
            });
            operands.max().unwrap_or(0)
        }
    };
    if inner >= MAX_DEPTH {
        let message = format!("this expression is more than {MAX_DEPTH} levels deep");
        return Err(Diagnostic::input(span, message).help("write its parts as statements of their own"));
    }
    Ok(Expr { kind, span, depth: inner + 1 })
}

fn unary(cursor: &mut Cursor<'_>) -> Parsed<Expr> {
    let start = cursor.span();
    if !cursor.eat(&Tok::Minus) {
        return postfix(cursor);
    }
    if let Some(Tok::Int(Some(value))) = cursor.peek()
        && let Ok(value) = i64::try_from(-i128::from(*value))
    {
        // So that the smallest integer, whose magnitude is no integer, can be written.
        cursor.advance();
        return node(cursor, start, ExprKind::Number(Scalar::Int(value)));
    }
    let inner = cursor.nested(unary)?;
    node(cursor, start, ExprKind::Neg(Box::new(inner)))
}

/// `x[axis: start..end]`, any number of times.
fn postfix(cursor: &mut Cursor<'_>) -> Parsed<Expr> {
    let start_span = cursor.span();
    let mut expr = primary(cursor)?;
    while cursor.peek() == Some(&Tok::LBracket) {
        cursor.advance();
        let Some(Tok::Int(Some(axis))) = cursor.peek() else { return Err(cursor.expected("an axis")) };
        cursor.advance();
        cursor.expect(&Tok::Colon, "`:` and the range of the slice")?;
        let start = cursor.dim()?;
        cursor.expect(&Tok::To, "`..` and the end of the slice")?;
        let end = cursor.dim()?;
        cursor.expect(&Tok::RBracket, "`]`")?;
        let kind = ExprKind::Slice { x: Box::new(expr), axis: *axis, start, end };
        expr = node(cursor, start_span, kind)?;
    }
    Ok(expr)
}

fn primary(cursor: &mut Cursor<'_>) -> Parsed<Expr> {
    let span = cursor.span();
    let kind = match cursor.peek() {
        Some(Tok::Ident(_)) if cursor.peek_at(1) == Some(&Tok::LParen) => {
            let call = cursor.nested(call)?;
            return node(cursor, span, ExprKind::Call(call));
        }
        Some(Tok::Ident(text)) => ExprKind::Ref(text.clone(), false),
        Some(Tok::Value(name)) => ExprKind::Ref(name.text.clone(), true),
        Some(Tok::Param(name)) => ExprKind::Param(Sym::from(name.as_str())),
        Some(Tok::Float(value)) => ExprKind::Number(Scalar::Float(*value)),
        Some(Tok::Int(_)) => {
            let value = cursor.int()?;
            return node(cursor, span, ExprKind::Number(Scalar::Int(value)));
        }
        Some(Tok::LParen) => {
            cursor.advance();
            let inner = expr(cursor)?;
            cursor.expect(&Tok::RParen, "`)`")?;
            return Ok(inner);
        }
        _ => return Err(cursor.expected("an expression")),
    };
    cursor.advance();
    node(cursor, span, kind)
}

/// `name(operands, attr=value) {attr=value}`.
fn call(cursor: &mut Cursor<'_>) -> Parsed<Call> {
    let (name, name_span) = cursor.ident("the name of an op")?;
    cursor.expect(&Tok::LParen, "`(`")?;
    let mut attrs: Vec<NamedAttr> = Vec::new();
    let mut args = Vec::new();
    cursor.list(&Tok::RParen, "`)`", |cursor| {
        let is_named =
            matches!(cursor.peek(), Some(Tok::Ident(_))) && cursor.peek_at(1) == Some(&Tok::Equals);
        if is_named {
            attrs.push(named_attr(cursor)?);
        } else if !attrs.is_empty() {
            return Err(cursor.expected("an attribute `name=value` (operands come first)"));
        } else if matches!(cursor.peek(), Some(Tok::LBracket | Tok::Str(_) | Tok::Func(_))) {
            args.push(Arg::Attr(attr(cursor)?));
        } else {
            args.push(Arg::Operand(expr(cursor)?));
        }
        Ok(())
    })?;
    if cursor.eat(&Tok::LBrace) {
        attrs.extend(cursor.list(&Tok::RBrace, "`}`", named_attr)?);
    }
    Ok(Call { name, name_span, args, attrs })
}

fn named_attr(cursor: &mut Cursor<'_>) -> Parsed<NamedAttr> {
    let (name, span) = cursor.ident("the name of an attribute")?;
    cursor.expect(&Tok::Equals, "`=` and the attribute's value")?;
    Ok(NamedAttr { name, span, value: attr(cursor)? })
}

/// The value of an attribute. What it means depends on the attribute's kind.
pub fn attr(cursor: &mut Cursor<'_>) -> Parsed<AttrAst> {
    let span = cursor.span();
    let minus = cursor.peek() == Some(&Tok::Minus);
    let kind = match (cursor.peek(), cursor.peek_at(1)) {
        (Some(Tok::Float(_)), _) => AttrAstKind::Float(cursor.number()?),
        (Some(Tok::Minus), Some(Tok::Float(_))) => AttrAstKind::Float(cursor.number()?),
        (Some(Tok::Minus), Some(Tok::Ident(text)))
            if minus && super::cursor::special_float(text).is_some() =>
        {
            AttrAstKind::Float(cursor.number()?)
        }
        (Some(Tok::Param(name)), _) => {
            cursor.advance();
            AttrAstKind::Param(Sym::from(name.as_str()))
        }
        (Some(Tok::LBracket), _) => {
            cursor.advance();
            AttrAstKind::List(cursor.list(&Tok::RBracket, "`]`", Cursor::dim)?)
        }
        (Some(Tok::Str(text)), _) => {
            cursor.advance();
            AttrAstKind::Text(text.clone())
        }
        (Some(Tok::Func(name)), _) => {
            cursor.advance();
            AttrAstKind::Func(name.text.clone())
        }
        _ => AttrAstKind::Dim(cursor.dim()?),
    };
    Ok(AttrAst { kind, span: cursor.span_from(span) })
}
