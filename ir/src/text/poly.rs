//! Integer polynomials in text: `n*C+2`, `-(k-19)*4`.

use super::{Cursor, Token};
use crate::diag::{Diagnostic, Span};
use crate::dim::{Dim, Sym};

/// A product of sums multiplies out; beyond this many terms the text is rejected.
const MAX_TERMS: usize = 256;

/// The most names in one product.
const MAX_DEGREE: usize = 32;

/// Reads a polynomial over integers, names and values (`%3`, under that name).
///
/// `check` is asked about every name at its place. A name is read as such only where an operand stands, so words that
/// follow a polynomial in a text need not be reserved.
///
/// Errors: those of `check`, a token that starts no operand, too many terms or levels.
pub fn parse_dim(
    cursor: &mut Cursor<'_>,
    check: &dyn Fn(&str, Span) -> Result<(), Diagnostic>,
) -> Result<Dim, Diagnostic> {
    let start = cursor.mark();
    let mut sum = Dim::default();
    let mut negative = cursor.eat(Token::Minus);
    loop {
        let product = parse_product(cursor, check, negative)?;
        sum = sum.add(&product);
        if sum.terms().count() > MAX_TERMS {
            return Err(Diagnostic::input(cursor.span_from(start), "this polynomial has too many terms"));
        }
        negative = match cursor.peek() {
            Some(Token::Plus) => false,
            Some(Token::Minus) => true,
            _ => return Ok(sum),
        };
        cursor.advance();
    }
}

fn parse_product(
    cursor: &mut Cursor<'_>,
    check: &dyn Fn(&str, Span) -> Result<(), Diagnostic>,
    negative: bool,
) -> Result<Dim, Diagnostic> {
    let start = cursor.mark();
    // The sign goes to the first factor, so that the smallest integer has a text.
    let mut product = parse_factor(cursor, check, negative)?;
    while cursor.eat(Token::Star) {
        let factor = parse_factor(cursor, check, false)?;
        if product.terms().count() * factor.terms().count() > MAX_TERMS {
            return Err(Diagnostic::input(cursor.span_from(start), "this polynomial has too many terms"));
        }
        product = product.mul(&factor);
        if product.terms().any(|(names, _)| names.len() > MAX_DEGREE) {
            return Err(Diagnostic::input(cursor.span_from(start), "this product has too many factors"));
        }
    }
    Ok(product)
}

fn parse_factor(
    cursor: &mut Cursor<'_>,
    check: &dyn Fn(&str, Span) -> Result<(), Diagnostic>,
    negative: bool,
) -> Result<Dim, Diagnostic> {
    let span = cursor.span();
    let minus_one = Dim::constant(-1);
    match cursor.peek() {
        Some(Token::Int) => {
            let digits = cursor.advance();
            let signed = if negative { format!("-{digits}") } else { digits.to_string() };
            let value = signed.parse::<i64>().map_err(|_| {
                Diagnostic::input(span, format!("`{signed}` does not fit a signed 64-bit integer"))
            })?;
            Ok(Dim::constant(value))
        }
        Some(Token::Ident | Token::Value) => {
            let name = cursor.advance();
            check(name, span)?;
            let dim = Dim::sym(Sym::from(name));
            Ok(if negative { dim.mul(&minus_one) } else { dim })
        }
        Some(Token::ParenOpen) => {
            cursor.advance();
            let dim = cursor.nested(|cursor| parse_dim(cursor, check))?;
            cursor.expect(Token::ParenClose)?;
            Ok(if negative { dim.mul(&minus_one) } else { dim })
        }
        _ => Err(cursor.unexpected("an integer or a name")),
    }
}
