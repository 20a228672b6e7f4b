//! Tokens, the same for all texts.

use logos::Logos;

/// What a piece of text is. The piece itself is found by its span.
#[derive(Logos, Clone, Copy, PartialEq, Eq, Debug)]
#[logos(skip r"[ \t\r\n]+")]
#[logos(skip(r"//[^\n]*", allow_greedy = true))]
pub enum Token {
    /// A name; parts may be joined by dots (`ct.h`).
    #[regex(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")]
    Ident,
    /// An SSA value: `%12`, `%norm`.
    #[regex(r"%[A-Za-z0-9_]+")]
    Value,
    /// A function or kernel: `@pre`.
    #[regex(r"@[A-Za-z_][A-Za-z0-9_]*")]
    Global,
    /// A decimal integer without sign.
    #[regex(r"[0-9]+")]
    Int,
    /// A decimal fraction without sign.
    #[regex(r"[0-9]+\.[0-9]+([eE][+-]?[0-9]+)?")]
    #[regex(r"[0-9]+[eE][+-]?[0-9]+")]
    Float,
    /// A text in double quotes, without escapes.
    #[regex(r#""[^"\n]*""#)]
    Str,
    /// `(`
    #[token("(")]
    ParenOpen,
    /// `)`
    #[token(")")]
    ParenClose,
    /// `[`
    #[token("[")]
    BracketOpen,
    /// `]`
    #[token("]")]
    BracketClose,
    /// `{`
    #[token("{")]
    BraceOpen,
    /// `}`
    #[token("}")]
    BraceClose,
    /// `,`
    #[token(",")]
    Comma,
    /// `:`
    #[token(":")]
    Colon,
    /// `;`
    #[token(";")]
    Semicolon,
    /// `=`
    #[token("=")]
    Equals,
    /// `+`
    #[token("+")]
    Plus,
    /// `-`
    #[token("-")]
    Minus,
    /// `*`
    #[token("*")]
    Star,
    /// `/`
    #[token("/")]
    Slash,
    /// `->`
    #[token("->")]
    Arrow,
    /// `..`
    #[token("..")]
    DotDot,
    /// `..=`
    #[token("..=")]
    DotDotEquals,
    /// `<`
    #[token("<")]
    AngleOpen,
    /// `>`
    #[token(">")]
    AngleClose,
}

impl Token {
    /// How an error calls it.
    pub fn describe(self) -> &'static str {
        match self {
            Token::Ident => "a name",
            Token::Value => "a value such as `%0`",
            Token::Global => "a name such as `@main`",
            Token::Int => "an integer",
            Token::Float => "a number",
            Token::Str => "a text in quotes",
            Token::ParenOpen => "`(`",
            Token::ParenClose => "`)`",
            Token::BracketOpen => "`[`",
            Token::BracketClose => "`]`",
            Token::BraceOpen => "`{`",
            Token::BraceClose => "`}`",
            Token::Comma => "`,`",
            Token::Colon => "`:`",
            Token::Semicolon => "`;`",
            Token::Equals => "`=`",
            Token::Plus => "`+`",
            Token::Minus => "`-`",
            Token::Star => "`*`",
            Token::Slash => "`/`",
            Token::Arrow => "`->`",
            Token::DotDot => "`..`",
            Token::DotDotEquals => "`..=`",
            Token::AngleOpen => "`<`",
            Token::AngleClose => "`>`",
        }
    }
}

/// True if `text` is a name as [`Token::Ident`] reads it, without dots: a C identifier.
pub fn is_ident(text: &str) -> bool {
    let mut chars = text.chars();
    let first = chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    first && chars.all(|other| other.is_ascii_alphanumeric() || other == '_')
}
