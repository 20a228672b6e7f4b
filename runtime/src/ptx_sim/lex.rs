//! Words of PTX text.
//!
//! In: the text of a module. Out: tokens with their line and byte range. A name that begins with a dot is one token without
//! the dot, so an opcode is a word followed by such names. Comments are dropped.

use birkhoff_ir::diag::{Diagnostic, Span};

/// Where something stands in the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct At {
    /// From one.
    pub(super) line: u32,
    pub(super) start: u32,
    pub(super) end: u32,
}

impl At {
    /// The stretch from here to the end of `last`.
    pub(super) fn to(self, last: At) -> At {
        At { end: last.end.max(self.end), ..self }
    }

    /// An error at this place; the message names the line, for those who print it without the source.
    pub(super) fn error(self, message: impl AsRef<str>) -> Diagnostic {
        let span = Span(Some((self.start, self.end)));
        Diagnostic::input(span, format!("line {}: {}", self.line, message.as_ref()))
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Tok<'a> {
    /// An identifier; registers keep their `%`.
    Word(&'a str),
    /// A name after a dot, without it.
    Dot(&'a str),
    Int(u64),
    /// `0f3F800000`.
    F32(u32),
    /// `0d3FF0000000000000`, and decimal numbers with a point.
    F64(u64),
    Text(&'a str),
    Punct(char),
    End,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub(super) tok: Tok<'a>,
    pub(super) at: At,
}

struct Lexer<'a> {
    text: &'a str,
    pos: usize,
    line: u32,
}

/// All tokens of `text`, with [`Tok::End`] last. Errors: a character or number that PTX does not have.
pub(super) fn lex(text: &str) -> Result<Vec<Token<'_>>, Diagnostic> {
    let mut lexer = Lexer { text, pos: 0, line: 1 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks()?;
        let (start, line) = (lexer.pos, lexer.line);
        let tok = lexer.next()?;
        tokens.push(Token { tok, at: lexer.at(start, line) });
        if tok == Tok::End {
            return Ok(tokens);
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

impl<'a> Lexer<'a> {
    fn at(&self, start: usize, line: u32) -> At {
        let clamp = |pos: usize| u32::try_from(pos).unwrap_or(u32::MAX);
        At { line, start: clamp(start), end: clamp(self.pos) }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.pos + ahead).copied().unwrap_or(0)
    }

    fn skip_blanks(&mut self) -> Result<(), Diagnostic> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'\n', _) => {
                    self.line += 1;
                    self.pos += 1;
                }
                (b' ' | b'\t' | b'\r', _) => self.pos += 1,
                (b'/', b'/') => {
                    let rest = &self.text[self.pos..];
                    self.pos += rest.find('\n').unwrap_or(rest.len());
                }
                (b'/', b'*') => self.skip_block_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_block_comment(&mut self) -> Result<(), Diagnostic> {
        let (start, line) = (self.pos, self.line);
        let rest = &self.text[start..];
        let Some(length) = rest.find("*/") else {
            self.pos += 2;
            return Err(self.at(start, line).error("this comment has no end").help("close it with `*/`"));
        };
        let lines = rest[..length].bytes().filter(|byte| *byte == b'\n').count();
        self.line += u32::try_from(lines).unwrap_or(0);
        self.pos += length + 2;
        Ok(())
    }

    fn take_while(&mut self, keep: impl Fn(u8) -> bool) -> &'a str {
        let start = self.pos;
        while self.pos < self.text.len() && keep(self.peek(0)) {
            self.pos += 1;
        }
        &self.text[start..self.pos]
    }

    fn next(&mut self) -> Result<Tok<'a>, Diagnostic> {
        let first = self.peek(0);
        if self.pos >= self.text.len() {
            return Ok(Tok::End);
        }
        if first.is_ascii_digit() {
            return self.number();
        }
        if is_word(first) || (first == b'%' && is_word(self.peek(1))) {
            let start = self.pos;
            self.pos += 1;
            self.take_while(is_word);
            return Ok(Tok::Word(&self.text[start..self.pos]));
        }
        if first == b'.' && is_word(self.peek(1)) {
            return Ok(self.dotted());
        }
        if first == b'"' {
            return self.string();
        }
        if b",;:{}[]()+-<>=|@!~*/&^?%".contains(&first) {
            self.pos += 1;
            return Ok(Tok::Punct(char::from(first)));
        }
        let found = self.text[self.pos..].chars().next().unwrap_or(' ');
        let (start, line) = (self.pos, self.line);
        self.pos += found.len_utf8();
        Err(self.at(start, line).error(format!("PTX has no character {found:?}")))
    }

    /// `.name`, with parts joined by `::` as in `.L1::evict_last`.
    fn dotted(&mut self) -> Tok<'a> {
        self.pos += 1;
        let start = self.pos;
        self.take_while(is_word);
        while self.peek(0) == b':' && self.peek(1) == b':' {
            self.pos += 2;
            self.take_while(is_word);
        }
        Tok::Dot(&self.text[start..self.pos])
    }

    fn string(&mut self) -> Result<Tok<'a>, Diagnostic> {
        let (start, line) = (self.pos, self.line);
        self.pos += 1;
        let body = self.take_while(|byte| byte != b'"' && byte != b'\n');
        if self.peek(0) != b'"' {
            return Err(self.at(start, line).error("this string has no end on its line"));
        }
        self.pos += 1;
        Ok(Tok::Text(body))
    }

    fn number(&mut self) -> Result<Tok<'a>, Diagnostic> {
        let (start, line) = (self.pos, self.line);
        let digits = self.take_while(|byte| byte.is_ascii_alphanumeric());
        if self.peek(0) == b'.' && self.peek(1).is_ascii_digit() {
            self.pos += 1;
            self.take_while(|byte| byte.is_ascii_digit());
            let value: Result<f64, _> = self.text[start..self.pos].parse();
            return value
                .map(|value| Tok::F64(value.to_bits()))
                .map_err(|_| self.at(start, line).error("this is no decimal number"));
        }
        integer_or_bits(digits).ok_or_else(|| {
            self.at(start, line).error(format!("`{digits}` is no number of PTX")).help(
                "integers are decimal, 0x, 0b or octal; floats are 0f or 0d followed by all their hex digits",
            )
        })
    }
}

fn integer_or_bits(digits: &str) -> Option<Tok<'static>> {
    let lower = digits.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0f") {
        return (hex.len() == 8).then(|| u32::from_str_radix(hex, 16).ok().map(Tok::F32))?;
    }
    if let Some(hex) = lower.strip_prefix("0d") {
        return (hex.len() == 16).then(|| u64::from_str_radix(hex, 16).ok().map(Tok::F64))?;
    }
    let plain = lower.strip_suffix('u').unwrap_or(&lower);
    let value = if let Some(hex) = plain.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(binary) = plain.strip_prefix("0b") {
        u64::from_str_radix(binary, 2)
    } else if plain.len() > 1 && plain.starts_with('0') {
        u64::from_str_radix(plain, 8)
    } else {
        plain.parse()
    };
    value.ok().map(Tok::Int)
}
