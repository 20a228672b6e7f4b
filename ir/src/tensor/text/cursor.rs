//! A place in the tokens of a source, and the small parsers that both declarations and expressions use.
//!
//! In: tokens. Out: pieces of syntax, or one [`Diagnostic`] for the first thing that does not fit. Nesting is bounded by
//! [`MAX_DEPTH`], so no source can exhaust the stack.

use super::ast::DimAst;
use super::lexer::{Name, Tok, Token, describe};
use crate::diag::{Diagnostic, Span};
use crate::dim::{Dim, Sym};

/// How deep expressions, calls and sizes may nest.
pub const MAX_DEPTH: usize = 200;
/// How many terms a written size may have when multiplied out.
const MAX_TERMS: usize = 64;

/// A syntax error ends the piece in which it occurs.
pub type Parsed<T> = Result<T, Diagnostic>;

/// A place in the tokens.
pub struct Cursor<'s> {
    source: &'s str,
    tokens: &'s [Token],
    offset_bytes: usize,
    pos: usize,
    depth: usize,
}

impl<'s> Cursor<'s> {
    /// The beginning of `tokens`; `offset_bytes` is where their source begins in the text that spans speak of.
    pub fn new(source: &'s str, tokens: &'s [Token], offset_bytes: usize) -> Self {
        Cursor { source, tokens, offset_bytes, pos: 0, depth: 0 }
    }

    /// The next word.
    pub fn peek(&self) -> Option<&'s Tok> {
        self.tokens.get(self.pos).map(|token| &token.tok)
    }

    /// The word `ahead` places after the next.
    pub fn peek_at(&self, ahead: usize) -> Option<&'s Tok> {
        self.tokens.get(self.pos + ahead).map(|token| &token.tok)
    }

    /// Whether the next word is the first of its line.
    pub fn at_line_start(&self) -> bool {
        self.tokens.get(self.pos).is_some_and(|token| token.first_on_line)
    }

    /// The next word's position; grows with every word taken.
    pub fn pos(&self) -> usize {
        self.pos
    }

    /// Takes the next word, whatever it is.
    pub fn advance(&mut self) {
        self.pos += 1;
    }

    /// The place of the next word.
    pub fn span(&self) -> Span {
        let end = self.source.len();
        let range = self.tokens.get(self.pos).map_or(end..end, |token| token.range.clone());
        Span::new(range).shifted(self.offset_bytes)
    }

    /// From `start` to the end of the last word taken.
    pub fn span_from(&self, start: Span) -> Span {
        let last = self.pos.checked_sub(1).and_then(|last| self.tokens.get(last));
        let end = last.map(|token| Span::new(token.range.clone()).shifted(self.offset_bytes));
        match (start.0, end) {
            (Some((start, _)), Some(Span(Some((_, end))))) => Span(Some((start, end.max(start)))),
            _ => start,
        }
    }

    /// The error that something else stands here.
    pub fn expected(&self, what: &str) -> Diagnostic {
        let found = match self.tokens.get(self.pos) {
            Some(token) => describe(&token.tok, self.source, &token.range),
            None => "the end of the text".to_string(),
        };
        Diagnostic::input(self.span(), format!("expected {what}, found {found}"))
    }

    /// Takes the next word if it is `tok`.
    pub fn eat(&mut self, tok: &Tok) -> bool {
        let hit = self.peek() == Some(tok);
        self.pos += usize::from(hit);
        hit
    }

    /// Takes the next word, which must be `tok`.
    pub fn expect(&mut self, tok: &Tok, what: &str) -> Parsed<()> {
        if self.eat(tok) { Ok(()) } else { Err(self.expected(what)) }
    }

    /// Whether the next word is the bare word `word`.
    pub fn at_word(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Tok::Ident(text)) if text == word)
    }

    /// Takes the next word if it is the bare word `word`.
    pub fn eat_word(&mut self, word: &str) -> bool {
        let hit = self.at_word(word);
        self.pos += usize::from(hit);
        hit
    }

    /// A bare name.
    pub fn ident(&mut self, what: &str) -> Parsed<(String, Span)> {
        let span = self.span();
        match self.peek() {
            Some(Tok::Ident(text)) => {
                self.pos += 1;
                Ok((text.clone(), span))
            }
            _ => Err(self.expected(what)),
        }
    }

    /// A value's name, with or without its `%`.
    pub fn value_name(&mut self) -> Parsed<(Name, Span)> {
        let span = self.span();
        let name = match self.peek() {
            Some(Tok::Value(name)) => name.clone(),
            Some(Tok::Ident(text)) => Name { text: text.clone(), is_number: false },
            _ => return Err(self.expected("the name of a value")),
        };
        self.pos += 1;
        Ok((name, span))
    }

    /// A name that may also stand in quotes, as outputs have.
    pub fn output_name(&mut self) -> Parsed<(Sym, Span)> {
        let span = self.span();
        let name = match self.peek() {
            Some(Tok::Ident(text) | Tok::Str(text)) => Sym::from(text.as_str()),
            _ => return Err(self.expected("the name of an output")),
        };
        self.pos += 1;
        Ok((name, span))
    }

    /// An integer, with its sign.
    pub fn int(&mut self) -> Parsed<i64> {
        let span = self.span();
        let negative = self.eat(&Tok::Minus);
        let Some(Tok::Int(value)) = self.peek() else { return Err(self.expected("an integer")) };
        self.pos += 1;
        let magnitude = value.map(i128::from);
        let signed = magnitude.map(|value| if negative { -value } else { value });
        signed.and_then(|value| i64::try_from(value).ok()).ok_or_else(|| {
            Diagnostic::input(self.span_from(span), "this integer does not fit 64 bits with a sign")
        })
    }

    /// A float or an integer, with its sign; also `inf` and `nan`.
    pub fn number(&mut self) -> Parsed<f64> {
        let sign = if self.eat(&Tok::Minus) { -1.0 } else { 1.0 };
        let value = match self.peek() {
            Some(Tok::Float(value)) => *value,
            Some(Tok::Int(Some(value))) => *value as f64,
            Some(Tok::Ident(text)) => special_float(text).ok_or_else(|| self.expected("a number"))?,
            _ => return Err(self.expected("a number")),
        };
        self.pos += 1;
        Ok(sign * value)
    }

    /// Runs `parse` one level deeper. Errors: too deep.
    pub fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= MAX_DEPTH {
            let message = format!("this is nested more than {MAX_DEPTH} levels deep");
            return Err(Diagnostic::input(self.span(), message)
                .help("write the inner parts as statements of their own"));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// `item, item, ..` up to `close`, which is taken too; a comma may follow the last item.
    pub fn list<T>(
        &mut self,
        close: &Tok,
        close_text: &str,
        mut item: impl FnMut(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        let mut items = Vec::new();
        while !self.eat(close) {
            items.push(item(self)?);
            if !self.eat(&Tok::Comma) {
                self.expect(close, &format!("`,` or {close_text}"))?;
                break;
            }
        }
        Ok(items)
    }

    /// A size: `n*C + 2*(n + 1)`.
    pub fn dim(&mut self) -> Parsed<DimAst> {
        let start = self.span();
        let mut sum = self.dim_product()?;
        loop {
            let minus = match self.peek() {
                Some(Tok::Plus) => false,
                Some(Tok::Minus) => true,
                _ => return Ok(sum),
            };
            self.pos += 1;
            let other = self.dim_product()?;
            sum.dim = if minus { sum.dim.sub(&other.dim) } else { sum.dim.add(&other.dim) };
            sum.names.extend(other.names);
            self.check_terms(&sum.dim, 1, start)?;
        }
    }

    fn dim_product(&mut self) -> Parsed<DimAst> {
        let start = self.span();
        let mut product = self.nested(Self::dim_factor)?;
        while self.eat(&Tok::Star) {
            let other = self.nested(Self::dim_factor)?;
            self.check_terms(&product.dim, other.dim.terms().count().max(1), start)?;
            product.dim = product.dim.mul(&other.dim);
            product.names.extend(other.names);
        }
        Ok(product)
    }

    fn dim_factor(&mut self) -> Parsed<DimAst> {
        let span = self.span();
        match self.peek() {
            Some(Tok::Int(_)) => Ok(DimAst { dim: Dim::constant(self.int()?), names: vec![] }),
            Some(Tok::Minus) if matches!(self.peek_at(1), Some(Tok::Int(_))) => {
                Ok(DimAst { dim: Dim::constant(self.int()?), names: vec![] })
            }
            Some(Tok::Minus) => {
                self.pos += 1;
                let inner = self.nested(Self::dim_factor)?;
                Ok(DimAst { dim: Dim::default().sub(&inner.dim), names: inner.names })
            }
            Some(Tok::LParen) => {
                self.pos += 1;
                let inner = self.nested(Self::dim)?;
                self.expect(&Tok::RParen, "`)`")?;
                Ok(inner)
            }
            Some(Tok::Ident(text)) => {
                self.pos += 1;
                let name = Sym::from(text.as_str());
                Ok(DimAst { dim: Dim::sym(name.clone()), names: vec![(name, span)] })
            }
            _ => Err(self.expected("a size (an integer, a dim, or a polynomial of them)")),
        }
    }

    /// Multiplying out must not explode: `(a+b)*(a+b)*..` doubles with every factor.
    fn check_terms(&self, dim: &Dim, factor: usize, start: Span) -> Parsed<()> {
        let degree = dim.terms().map(|(names, _)| names.len()).max().unwrap_or(0);
        if dim.terms().count() * factor <= MAX_TERMS && degree < MAX_TERMS {
            return Ok(());
        }
        Err(Diagnostic::input(self.span_from(start), format!("this size has more than {MAX_TERMS} terms")))
    }
}

/// `inf` and `nan` in the spellings that the printer and people use.
pub fn special_float(text: &str) -> Option<f64> {
    match text {
        "inf" => Some(f64::INFINITY),
        "nan" | "NaN" => Some(f64::NAN),
        _ => None,
    }
}
