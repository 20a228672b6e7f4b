//! Declarations, functions and statements of tensor IR text.
//!
//! In: tokens. Out: a syntax tree and all syntax errors; after an error the parser takes up again at the next line that
//! can begin a statement or a declaration. Names and types are not looked at here.

use super::ast::{FuncAst, InputAst, Return, Source, Stmt, TypeAst};
use super::cursor::{Cursor, Parsed};
use super::expr::expr;
use super::lexer::{Tok, Token};
use crate::diag::Diagnostic;
use crate::dim::Sym;
use crate::dtype::DType;
use crate::scalar::Scalar;
use crate::tensor::{DimDecl, DimKind, Domain, ParamDecl};

/// Parses a whole source.
pub fn parse_source(source: &str, tokens: &[Token], errors: &mut Vec<Diagnostic>) -> Source {
    let mut cursor = Cursor::new(source, tokens, 0);
    let mut parsed = Source::default();
    while cursor.peek().is_some() {
        let before = cursor.pos();
        if let Err(error) = item(&mut cursor, &mut parsed, errors) {
            errors.push(error);
            if cursor.pos() == before {
                cursor.advance();
            }
            let begins_item = |c: &Cursor<'_>| {
                c.at_line_start() && ["dim", "param", "fn", "export"].iter().any(|word| c.at_word(word))
            };
            while cursor.peek().is_some() && !begins_item(&cursor) {
                cursor.advance();
            }
        }
    }
    parsed
}

/// Parses statements up to the end of the text; `return` is not one of them.
pub fn parse_statements(
    source: &str,
    tokens: &[Token],
    offset_bytes: usize,
    errors: &mut Vec<Diagnostic>,
) -> Vec<Stmt> {
    let mut cursor = Cursor::new(source, tokens, offset_bytes);
    let statements = statements(&mut cursor, errors);
    if cursor.peek().is_some() {
        errors.push(cursor.expected("a statement `name = expression`"));
    }
    statements
}

fn item(cursor: &mut Cursor<'_>, parsed: &mut Source, errors: &mut Vec<Diagnostic>) -> Parsed<()> {
    if cursor.eat_word("dim") {
        parsed.dims.push(dim_decl(cursor)?);
    } else if cursor.eat_word("param") {
        parsed.params.push(param_decl(cursor)?);
    } else {
        let exported = cursor.eat_word("export");
        if !cursor.eat_word("fn") {
            return Err(cursor.expected(if exported {
                "`fn`"
            } else {
                "`dim`, `param`, `fn` or `export fn`"
            }));
        }
        parsed.funcs.push(func(cursor, exported, errors)?);
    }
    Ok(())
}

/// `name`, `name = 4` or `name in 1..=100 default 10`.
fn dim_decl(cursor: &mut Cursor<'_>) -> Parsed<DimDecl> {
    let (name, span) = cursor.ident("the name of a dim")?;
    let kind = if cursor.eat(&Tok::Equals) {
        DimKind::Static(Some(cursor.int()?))
    } else if cursor.eat_word("in") {
        let lo = cursor.int()?;
        cursor.expect(&Tok::ThroughTo, "`..=`")?;
        let hi = cursor.int()?;
        let default = if cursor.eat_word("default") { Some(cursor.int()?) } else { None };
        DimKind::RunTime { lo, hi, default }
    } else {
        DimKind::Static(None)
    };
    Ok(DimDecl { name: Sym::from(name), kind, span })
}

/// `name = 1e-6`.
fn param_decl(cursor: &mut Cursor<'_>) -> Parsed<ParamDecl> {
    let (name, span) = cursor.ident("the name of a parameter")?;
    cursor.expect(&Tok::Equals, "`=` and the parameter's default")?;
    let is_int = |tok: Option<&Tok>| matches!(tok, Some(Tok::Int(_)));
    let value = if cursor.eat_word("true") {
        Scalar::Bool(true)
    } else if cursor.eat_word("false") {
        Scalar::Bool(false)
    } else if is_int(cursor.peek()) || (cursor.peek() == Some(&Tok::Minus) && is_int(cursor.peek_at(1))) {
        Scalar::Int(cursor.int()?)
    } else {
        Scalar::Float(cursor.number()?)
    };
    Ok(ParamDecl { name: Sym::from(name), value, span })
}

fn func(cursor: &mut Cursor<'_>, exported: bool, errors: &mut Vec<Diagnostic>) -> Parsed<FuncAst> {
    let span = cursor.span();
    let Some(Tok::Func(name)) = cursor.peek() else {
        return Err(cursor.expected("`@` and the function's name"));
    };
    cursor.advance();
    cursor.expect(&Tok::LParen, "`(` and the arguments")?;
    let inputs = cursor.list(&Tok::RParen, "`)`", input)?;
    cursor.expect(&Tok::Arrow, "`->` and the results")?;
    cursor.expect(&Tok::LParen, "`(` and the results")?;
    let results = cursor.list(&Tok::RParen, "`)`", result)?;
    cursor.expect(&Tok::LBrace, "`{`")?;
    let body = statements(cursor, errors);
    let return_span = cursor.span();
    let returns = if cursor.eat_word("return") { returns(cursor)? } else { vec![] };
    cursor.expect(&Tok::RBrace, "a statement, `return` or `}`")?;
    Ok(FuncAst { name: name.text.clone(), exported, span, inputs, results, body, returns, return_span })
}

/// `%m: f32[n] ~ normal(0, 1)`.
fn input(cursor: &mut Cursor<'_>) -> Parsed<InputAst> {
    let (name, span) = cursor.value_name()?;
    if name.is_number {
        return Err(Diagnostic::input(span, "an argument needs a name, found a number")
            .help("the name is the tensor's name in files"));
    }
    cursor.expect(&Tok::Colon, "`:` and the argument's type")?;
    let ty = tensor_type(cursor)?;
    let domain = if cursor.eat(&Tok::Tilde) { domain(cursor)? } else { Domain::default() };
    Ok(InputAst { name: name.text, span, ty, domain })
}

fn domain(cursor: &mut Cursor<'_>) -> Parsed<Domain> {
    let what = "`normal(mean, std)`, `uniform(lo, hi)` or `ball(lo, hi)`";
    let wrong = cursor.expected(what);
    let (name, _) = cursor.ident(what)?;
    if !matches!(name.as_str(), "normal" | "uniform" | "ball") {
        return Err(wrong);
    }
    cursor.expect(&Tok::LParen, "`(`")?;
    let first = cursor.number()?;
    cursor.expect(&Tok::Comma, "`,`")?;
    let second = cursor.number()?;
    cursor.expect(&Tok::RParen, "`)`")?;
    Ok(match name.as_str() {
        "normal" => Domain::Normal { mean: first, std: second },
        "uniform" => Domain::Uniform { lo: first, hi: second },
        _ => Domain::Ball { lo: first, hi: second },
    })
}

/// `h: f32[T,n]`.
fn result(cursor: &mut Cursor<'_>) -> Parsed<(Sym, TypeAst)> {
    let (name, _) = cursor.output_name()?;
    cursor.expect(&Tok::Colon, "`:` and the result's type")?;
    Ok((name, tensor_type(cursor)?))
}

/// `f32[T,n*C]`.
pub fn tensor_type(cursor: &mut Cursor<'_>) -> Parsed<TypeAst> {
    let start = cursor.span();
    let wrong = cursor.expected("a type such as f32[T,n]");
    let (name, _) = cursor.ident("a type such as f32[T,n]")?;
    let dtype = DType::from_name(&name).ok_or_else(|| {
        let names: Vec<&str> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
        wrong.help(format!("the element types are: {}", names.join(", ")))
    })?;
    cursor.expect(&Tok::LBracket, "`[` and the extents (`[]` for a scalar)")?;
    let dims = cursor.list(&Tok::RBracket, "`]`", Cursor::dim)?;
    Ok(TypeAst { dtype, dims, span: cursor.span_from(start) })
}

fn returns(cursor: &mut Cursor<'_>) -> Parsed<Vec<Return>> {
    let mut returns = Vec::new();
    while cursor.peek() != Some(&Tok::RBrace) {
        let (name, span) = cursor.output_name()?;
        cursor.expect(&Tok::Equals, "`=` and the output's value")?;
        returns.push(Return { name, span, expr: expr(cursor)? });
        if !cursor.eat(&Tok::Comma) {
            break;
        }
    }
    Ok(returns)
}

/// Statements up to `return`, `}` or the end; what does not parse is skipped up to the next line.
fn statements(cursor: &mut Cursor<'_>, errors: &mut Vec<Diagnostic>) -> Vec<Stmt> {
    let mut parsed = Vec::new();
    while cursor.peek().is_some_and(|tok| *tok != Tok::RBrace) && !at_return(cursor) {
        let before = cursor.pos();
        match statement(cursor) {
            Ok(stmt) => parsed.push(stmt),
            Err(error) => {
                errors.push(error);
                if cursor.pos() == before {
                    cursor.advance();
                }
                // A new line begins a statement, a `return` or the end of the body.
                while cursor.peek().is_some() && !cursor.at_line_start() {
                    cursor.advance();
                }
            }
        }
    }
    parsed
}

/// `return` ends a body, unless it is the name of a value: `return = ..`, `return, a = ..`.
fn at_return(cursor: &Cursor<'_>) -> bool {
    cursor.at_word("return") && !matches!(cursor.peek_at(1), Some(Tok::Equals | Tok::Comma))
}

fn statement(cursor: &mut Cursor<'_>) -> Parsed<Stmt> {
    let start = cursor.span();
    let mut names = vec![cursor.value_name()?];
    while cursor.eat(&Tok::Comma) {
        names.push(cursor.value_name()?);
    }
    cursor.expect(&Tok::Equals, "`=` and an expression")?;
    let expr = expr(cursor)?;
    let mut types = None;
    if cursor.eat(&Tok::Colon) {
        let mut given = vec![tensor_type(cursor)?];
        while cursor.eat(&Tok::Comma) {
            given.push(tensor_type(cursor)?);
        }
        types = Some(given);
    }
    Ok(Stmt { names, expr, types, span: cursor.span_from(start) })
}
