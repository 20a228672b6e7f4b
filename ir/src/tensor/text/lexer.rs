//! Words of tensor IR text.
//!
//! In: a source. Out: tokens with their byte ranges and whether each is the first of its line (where the parser takes up
//! again after an error). Comments (`//` to the end of the line) and white space are dropped.

use crate::diag::{Diagnostic, Span};
use logos::Logos;
use std::ops::Range;

/// One word.
#[derive(Logos, Clone, PartialEq, Debug)]
#[logos(skip r"[ \t\r\n\f]+")]
#[logos(skip(r"//[^\n]*", allow_greedy = true))]
pub enum Tok {
    /// `name`: a letter or `_`, then letters, digits, `_`, and dots between them.
    #[regex(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*", |lex| lex.slice().to_string())]
    Ident(String),
    /// `%name`, `%3` or `%"any text"`.
    #[regex(r#"%([A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*|"([^"\\\n]|\\[^\n])*")"#, |lex| name_text(lex.slice()))]
    Value(Name),
    /// `@name` or `@"any text"`.
    #[regex(r#"@([A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*|"([^"\\\n]|\\[^\n])*")"#, |lex| name_text(lex.slice()))]
    Func(Name),
    /// `$name`.
    #[regex(r"\$[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*", |lex| lex.slice()[1..].to_string())]
    Param(String),
    /// An integer; one that does not fit is told by the parser.
    #[regex(r"[0-9]+", |lex| lex.slice().parse::<u64>().ok())]
    Int(Option<u64>),
    /// A decimal with a point or an exponent.
    #[regex(r"[0-9]+\.[0-9]+([eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+", |lex| lex.slice().parse::<f64>().ok())]
    Float(f64),
    /// `"text"`.
    #[regex(r#""([^"\\\n]|\\[^\n])*""#, |lex| unquoted(lex.slice()))]
    Str(String),
    /// `(`.
    #[token("(")]
    LParen,
    /// `)`.
    #[token(")")]
    RParen,
    /// `[`.
    #[token("[")]
    LBracket,
    /// `]`.
    #[token("]")]
    RBracket,
    /// `{`.
    #[token("{")]
    LBrace,
    /// `}`.
    #[token("}")]
    RBrace,
    /// `,`.
    #[token(",")]
    Comma,
    /// `:`.
    #[token(":")]
    Colon,
    /// `=`.
    #[token("=")]
    Equals,
    /// `->`.
    #[token("->")]
    Arrow,
    /// `~`.
    #[token("~")]
    Tilde,
    /// `+`.
    #[token("+")]
    Plus,
    /// `-`.
    #[token("-")]
    Minus,
    /// `*`.
    #[token("*")]
    Star,
    /// `/`.
    #[token("/")]
    Slash,
    /// `..=`.
    #[token("..=")]
    ThroughTo,
    /// `..`.
    #[token("..")]
    To,
}

/// The text behind a sigil.
#[derive(Clone, PartialEq, Debug)]
pub struct Name {
    /// The name, without sigil and quotes.
    pub text: String,
    /// Whether it is a bare number, which stands for a value without a name.
    pub is_number: bool,
}

/// A word and its place.
#[derive(Clone, PartialEq, Debug)]
pub struct Token {
    /// The word.
    pub tok: Tok,
    /// Its bytes.
    pub range: Range<usize>,
    /// Whether only white space and comments stand before it on its line.
    pub first_on_line: bool,
}

/// Cuts `source` into tokens; every character that begins none is an error.
pub fn tokens(source: &str) -> (Vec<Token>, Vec<Diagnostic>) {
    let (mut tokens, mut errors) = (Vec::new(), Vec::new());
    let mut end = 0;
    for (result, range) in Tok::lexer(source).spanned() {
        let first_on_line = end == 0 || source.get(end..range.start).is_some_and(|gap| gap.contains('\n'));
        end = range.end;
        match result {
            Ok(tok) => tokens.push(Token { tok, range, first_on_line }),
            Err(()) => errors.push(unknown(source, range)),
        }
    }
    (tokens, errors)
}

fn unknown(source: &str, range: Range<usize>) -> Diagnostic {
    let found = source.get(range.clone()).unwrap_or("?");
    let span = Span::new(range);
    match found.chars().next() {
        Some('"') => Diagnostic::input(span, "this text has no closing `\"` on its line"),
        _ => Diagnostic::input(span, format!("`{}` begins no word of the language", found.escape_debug())),
    }
}

/// Splits off the sigil, and the quotes if there are any.
fn name_text(slice: &str) -> Name {
    let text = &slice[1..];
    if text.starts_with('"') {
        return Name { text: unquoted(text), is_number: false };
    }
    Name { text: text.to_string(), is_number: text.bytes().all(|byte| byte.is_ascii_digit()) }
}

/// The text between quotes: `\n`, `\t`, `\r` are line feed, tab and return, any other escaped character is itself.
fn unquoted(slice: &str) -> String {
    let mut text = String::new();
    let mut chars = slice[1..slice.len() - 1].chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some('n') => text.push('\n'),
                Some('t') => text.push('\t'),
                Some('r') => text.push('\r'),
                Some(other) => text.push(other),
                None => {}
            },
            other => text.push(other),
        }
    }
    text
}

/// `text` in quotes, such that [`tokens`] gives it back.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            '"' | '\\' => quoted.extend(['\\', char]),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// Whether `text` can stand behind a sigil without quotes and is not taken for a number.
pub fn is_plain_name(text: &str) -> bool {
    let starts = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let part_ok =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    starts && text.split('.').all(part_ok)
}

/// The token as an error message shows it.
pub fn describe(tok: &Tok, source: &str, range: &Range<usize>) -> String {
    let text = source.get(range.clone()).unwrap_or("");
    match tok {
        Tok::Str(_) => "a text".into(),
        _ => format!("`{text}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toks(source: &str) -> Vec<Tok> {
        tokens(source).0.into_iter().map(|token| token.tok).collect()
    }

    #[test]
    fn a_range_is_not_a_decimal() {
        assert_eq!(toks("1..=2"), vec![Tok::Int(Some(1)), Tok::ThroughTo, Tok::Int(Some(2))]);
        assert_eq!(toks("n..C"), vec![Tok::Ident("n".into()), Tok::To, Tok::Ident("C".into())]);
        assert_eq!(toks("1.5e-3 2e5"), vec![Tok::Float(1.5e-3), Tok::Float(2e5)]);
        assert_eq!(toks("a.b c"), vec![Tok::Ident("a.b".into()), Tok::Ident("c".into())]);
    }

    #[test]
    fn names_survive_quoting() {
        for text in ["", "a b", "0", "q\"\\\n\tx", "é", "%"] {
            let source = format!("%{}", quoted(text));
            assert_eq!(toks(&source), vec![Tok::Value(Name { text: text.into(), is_number: false })]);
        }
    }

    #[test]
    fn strange_characters_are_errors_with_a_place() {
        let (tokens, errors) = tokens("a # b \"open");
        assert_eq!(tokens.len(), 2);
        assert_eq!(errors.len(), 2);
        assert_eq!(errors[0].span, Span::new(2..3));
    }
}
