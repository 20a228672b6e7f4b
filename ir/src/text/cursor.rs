//! A position in the tokens of a text, and what parsers ask of it.

use super::Token;
use crate::diag::{Diagnostic, Span};
use crate::dtype::DType;
use logos::Logos;
use std::ops::Range;

/// Blocks and parentheses nest no deeper: parsers and everything after them recurse.
pub const MAX_DEPTH: u32 = 128;

/// Reads tokens from left to right.
pub struct Cursor<'s> {
    source: &'s str,
    tokens: Vec<(Token, Range<usize>)>,
    pos: usize,
    depth: u32,
}

impl<'s> Cursor<'s> {
    /// The tokens of `source`.
    ///
    /// Errors: a character that starts no token.
    pub fn new(source: &'s str) -> Result<Self, Diagnostic> {
        let mut tokens = Vec::new();
        for (token, range) in Token::lexer(source).spanned() {
            match token {
                Ok(token) => tokens.push((token, range)),
                Err(()) => {
                    let found = source.get(range.clone()).unwrap_or_default().escape_debug().to_string();
                    return Err(Diagnostic::input(Span::new(range), format!("`{found}` starts no token"))
                        .label("unexpected character"));
                }
            }
        }
        Ok(Cursor { source, tokens, pos: 0, depth: 0 })
    }

    /// The next token.
    pub fn peek(&self) -> Option<Token> {
        self.tokens.get(self.pos).map(|(token, _)| *token)
    }

    /// The token after the next `ahead` ones.
    pub fn peek_at(&self, ahead: usize) -> Option<Token> {
        self.tokens.get(self.pos + ahead).map(|(token, _)| *token)
    }

    /// The text of the next token; empty at the end.
    pub fn text(&self) -> &'s str {
        self.tokens.get(self.pos).and_then(|(_, range)| self.source.get(range.clone())).unwrap_or_default()
    }

    /// The place of the next token; the end of the text after the last.
    pub fn span(&self) -> Span {
        match self.tokens.get(self.pos) {
            Some((_, range)) => Span::new(range.clone()),
            None => Span::new(self.source.len()..self.source.len()),
        }
    }

    /// The first byte of the next token, to give to [`Cursor::span_from`] later.
    pub fn mark(&self) -> usize {
        self.tokens.get(self.pos).map_or(self.source.len(), |(_, range)| range.start)
    }

    /// From `start` to the end of the token read last.
    pub fn span_from(&self, start: usize) -> Span {
        let end = self
            .pos
            .checked_sub(1)
            .and_then(|last| self.tokens.get(last))
            .map_or(start, |(_, range)| range.end);
        Span::new(start..end.max(start))
    }

    /// True if all tokens are read.
    pub fn at_end(&self) -> bool {
        self.pos >= self.tokens.len()
    }

    /// True if `token` is next.
    pub fn at(&self, token: Token) -> bool {
        self.peek() == Some(token)
    }

    /// True if the name `word` is next.
    pub fn at_word(&self, word: &str) -> bool {
        self.at(Token::Ident) && self.text() == word
    }

    /// Reads the next token, whatever it is; returns its text.
    pub fn advance(&mut self) -> &'s str {
        let text = self.text();
        self.pos = (self.pos + 1).min(self.tokens.len());
        text
    }

    /// Reads `token` if it is next.
    pub fn eat(&mut self, token: Token) -> bool {
        let found = self.at(token);
        if found {
            self.advance();
        }
        found
    }

    /// Reads the name `word` if it is next.
    pub fn eat_word(&mut self, word: &str) -> bool {
        let found = self.at_word(word);
        if found {
            self.advance();
        }
        found
    }

    /// The error that `expected` is not what comes next.
    pub fn unexpected(&self, expected: &str) -> Diagnostic {
        let found = if self.at_end() { "the end".to_string() } else { format!("`{}`", self.text()) };
        Diagnostic::input(self.span(), format!("expected {expected}, found {found}"))
            .label(format!("expected {expected}"))
    }

    /// Reads `token`; returns its text.
    ///
    /// Errors: another token is next.
    pub fn expect(&mut self, token: Token) -> Result<&'s str, Diagnostic> {
        if self.at(token) { Ok(self.advance()) } else { Err(self.unexpected(token.describe())) }
    }

    /// Reads the name `word`.
    ///
    /// Errors: something else is next.
    pub fn expect_word(&mut self, word: &str) -> Result<(), Diagnostic> {
        if self.eat_word(word) { Ok(()) } else { Err(self.unexpected(&format!("`{word}`"))) }
    }

    /// Reads a name; `what` says of what, for the error.
    ///
    /// Errors: something else is next.
    pub fn ident(&mut self, what: &str) -> Result<&'s str, Diagnostic> {
        if self.at(Token::Ident) { Ok(self.advance()) } else { Err(self.unexpected(what)) }
    }

    /// Reads an integer with an optional minus.
    ///
    /// Errors: something else is next, or it does not fit a signed 64-bit integer.
    pub fn int(&mut self) -> Result<i64, Diagnostic> {
        let start = self.mark();
        let negative = self.eat(Token::Minus);
        let digits = self.expect(Token::Int)?;
        let signed = if negative { format!("-{digits}") } else { digits.to_string() };
        signed.parse().map_err(|_| {
            Diagnostic::input(
                self.span_from(start),
                format!("`{signed}` does not fit a signed 64-bit integer"),
            )
        })
    }

    /// Reads an integer of 32 bits without sign.
    ///
    /// Errors: something else is next, or it does not fit.
    pub fn count(&mut self) -> Result<u32, Diagnostic> {
        let span = self.span();
        let digits = self.expect(Token::Int)?;
        digits.parse().map_err(|_| Diagnostic::input(span, format!("`{digits}` does not fit 32 bits")))
    }

    /// Reads a float of `dtype` as [`super::float_text`] writes it.
    ///
    /// Errors: something else is next.
    pub fn float(&mut self, dtype: DType) -> Result<f64, Diagnostic> {
        let negative = self.eat(Token::Minus);
        let text = match self.peek() {
            Some(Token::Float | Token::Int) => self.advance(),
            Some(Token::Ident) if matches!(self.text(), "inf" | "nan") => self.advance(),
            _ => return Err(self.unexpected("a number, `inf` or `nan`")),
        };
        // A decimal is rounded once, straight to the element type, so that the shortest text of an f32 reads back as it.
        let value =
            if dtype == DType::F32 { text.parse::<f32>().map(f64::from) } else { text.parse::<f64>() };
        let value = value.map_err(|_| self.unexpected("a number"))?;
        Ok(if negative { -value } else { value })
    }

    /// Reads the name of a dtype.
    ///
    /// Errors: no dtype has that name.
    pub fn dtype(&mut self) -> Result<DType, Diagnostic> {
        match DType::from_name(self.text()) {
            Some(dtype) => {
                self.advance();
                Ok(dtype)
            }
            None => {
                let names: Vec<&str> = DType::ALL.iter().map(|dtype| dtype.name()).collect();
                Err(self.unexpected("a dtype").help(format!("the dtypes are {}", names.join(", "))))
            }
        }
    }

    /// Runs `parse` one level deeper.
    ///
    /// Errors: those of `parse`, or deeper than [`MAX_DEPTH`].
    pub fn nested<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, Diagnostic>,
    ) -> Result<T, Diagnostic> {
        if self.depth >= MAX_DEPTH {
            return Err(Diagnostic::input(self.span(), format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// Enters a nested block by hand; pairs with [`Cursor::leave`].
    ///
    /// Errors: deeper than [`MAX_DEPTH`].
    pub fn enter(&mut self) -> Result<(), Diagnostic> {
        self.nested(|_| Ok(()))?;
        self.depth += 1;
        Ok(())
    }

    /// Leaves a block that [`Cursor::enter`] entered.
    pub fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }
}
