//! From PTX text to [`Source`]: directives, variables and functions.
//!
//! In: the text. Out: the parsed module, or the first syntax errors, one per directive or statement. Assumed of the text:
//! nothing. What debuggers and linkers read (`.file`, `.loc`, `.section`, `.pragma`, linkage) is skipped. Instructions are
//! parsed in [`parse_stmt`](super::parse_stmt).

use super::ast::{Extent, Function, Literal, Source, VarSpace, Variable};
use super::lex::{At, Tok, Token, lex};
use super::types::Ty;
use birkhoff_ir::diag::{Diagnostic, Diagnostics};

pub(super) type Parsed<T> = Result<T, Diagnostic>;

pub(super) struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    pos: usize,
    pub(super) errors: Vec<Diagnostic>,
}

/// Arrays of more bytes than this are refused: no GPU of these architectures could hold them beside anything else.
const MAX_ARRAY_BYTES: u64 = 1 << 30;

/// Parses a module.
pub(super) fn parse(text: &str) -> Result<Source<'_>, Diagnostics> {
    let tokens = lex(text)?;
    let mut parser = Parser { tokens, pos: 0, errors: Vec::new() };
    let mut source = Source::default();
    let mut has_version = false;
    while parser.peek() != Tok::End {
        let start = parser.pos;
        has_version |= parser.peek() == Tok::Dot("version");
        if let Err(error) = parser.module_item(&mut source) {
            parser.errors.push(error);
            parser.recover(start);
        }
    }
    if !has_version && parser.errors.is_empty() {
        let error =
            parser.at().error("a module of PTX begins with `.version` and `.target`; there is no `.version`");
        parser.errors.push(error);
    }
    Diagnostics(parser.errors).into_result(source)
}

impl<'a> Parser<'a> {
    pub(super) fn peek(&self) -> Tok<'a> {
        self.tokens.get(self.pos).map_or(Tok::End, |token| token.tok)
    }

    pub(super) fn peek_at(&self, ahead: usize) -> Tok<'a> {
        self.tokens.get(self.pos + ahead).map_or(Tok::End, |token| token.tok)
    }

    pub(super) fn at(&self) -> At {
        let last = self.tokens.len().saturating_sub(1);
        self.tokens.get(self.pos.min(last)).map_or_else(At::default, |token| token.at)
    }

    /// The place of the token just taken.
    pub(super) fn last_at(&self) -> At {
        self.tokens.get(self.pos.saturating_sub(1)).map_or_else(At::default, |token| token.at)
    }

    pub(super) fn advance(&mut self) -> Tok<'a> {
        let tok = self.peek();
        if tok != Tok::End {
            self.pos += 1;
        }
        tok
    }

    pub(super) fn eat(&mut self, punct: char) -> bool {
        let found = self.peek() == Tok::Punct(punct);
        self.pos += usize::from(found);
        found
    }

    pub(super) fn eat_dot(&mut self, name: &str) -> bool {
        let found = matches!(self.peek(), Tok::Dot(dot) if dot == name);
        self.pos += usize::from(found);
        found
    }

    pub(super) fn expected<T>(&self, what: &str) -> Parsed<T> {
        Err(self.at().error(format!("expected {what}, found {}", describe(self.peek()))))
    }

    pub(super) fn expect(&mut self, punct: char) -> Parsed<()> {
        if self.eat(punct) { Ok(()) } else { self.expected(&format!("`{punct}`")) }
    }

    pub(super) fn word(&mut self, what: &str) -> Parsed<&'a str> {
        match self.peek() {
            Tok::Word(word) => {
                self.pos += 1;
                Ok(word)
            }
            _ => self.expected(what),
        }
    }

    pub(super) fn int(&mut self, what: &str) -> Parsed<u64> {
        match self.peek() {
            Tok::Int(value) => {
                self.pos += 1;
                Ok(value)
            }
            _ => self.expected(what),
        }
    }

    /// Skips to behind the next `;`, or to a `}`, past `start` at least, so that parsing goes on after an error.
    pub(super) fn recover(&mut self, start: usize) {
        self.pos = self.pos.max(start + 1).min(self.tokens.len() - 1);
        while !matches!(self.peek(), Tok::End | Tok::Punct('}')) {
            if self.advance() == Tok::Punct(';') {
                return;
            }
        }
        if self.peek() == Tok::Punct('}') {
            self.pos += 1;
        }
    }

    /// Whether the token just taken ended a statement.
    pub(super) fn after_semicolon(&self) -> bool {
        self.pos > 0 && self.tokens.get(self.pos - 1).is_some_and(|token| token.tok == Tok::Punct(';'))
    }

    pub(super) fn position(&self) -> usize {
        self.pos
    }

    fn module_item(&mut self, source: &mut Source<'a>) -> Parsed<()> {
        let mut external = false;
        while let Tok::Dot(linkage @ ("visible" | "extern" | "weak" | "common")) = self.peek() {
            external |= linkage == "extern";
            self.pos += 1;
        }
        let Tok::Dot(directive) = self.peek() else {
            if self.eat(';') {
                return Ok(());
            }
            return self.expected("a directive of the module");
        };
        match directive {
            "version" => self.skip(2),
            "target" => self.target(),
            "address_size" => self.address_size(),
            "file" => self.skip_line(),
            "pragma" => self.pragma(),
            "section" => self.skip_section(),
            "entry" | "func" => {
                let function = self.function()?;
                source.functions.push(function);
                Ok(())
            }
            "global" | "const" | "shared" => {
                let variables = self.variables(external)?;
                source.variables.extend(variables);
                Ok(())
            }
            _ => Err(self.at().error(format!("`.{directive}` is no directive that the simulator knows"))),
        }
    }

    fn skip(&mut self, n_tokens: usize) -> Parsed<()> {
        for _ in 0..n_tokens {
            self.advance();
        }
        Ok(())
    }

    fn target(&mut self) -> Parsed<()> {
        self.pos += 1;
        loop {
            let at = self.at();
            let name = self.word("an architecture such as sm_80")?;
            if !name.starts_with("sm_") && !matches!(name, "debug" | "texmode_independent") {
                return Err(at.error(format!("`{name}` is no architecture")).help("write sm_80 or newer"));
            }
            if !self.eat(',') {
                return Ok(());
            }
        }
    }

    fn address_size(&mut self) -> Parsed<()> {
        self.pos += 1;
        let at = self.at();
        match self.int("64")? {
            64 => Ok(()),
            other => Err(at.error(format!("addresses of {other} bits are not simulated; expected 64"))),
        }
    }

    /// `.file` and `.loc` have no semicolon: they end with their line.
    pub(super) fn skip_line(&mut self) -> Parsed<()> {
        let line = self.at().line;
        while self.peek() != Tok::End && self.at().line == line {
            self.pos += 1;
        }
        Ok(())
    }

    pub(super) fn pragma(&mut self) -> Parsed<()> {
        self.pos += 1;
        while matches!(self.peek(), Tok::Text(_) | Tok::Punct(',')) {
            self.pos += 1;
        }
        self.expect(';')
    }

    fn skip_section(&mut self) -> Parsed<()> {
        while !matches!(self.peek(), Tok::End | Tok::Punct('}')) {
            self.pos += 1;
        }
        self.expect('}')
    }

    fn function(&mut self) -> Parsed<Function<'a>> {
        let is_entry = self.advance() == Tok::Dot("entry");
        self.eat_dot("noreturn");
        let returns = if !is_entry && self.peek() == Tok::Punct('(') { self.formals()? } else { Vec::new() };
        let at = self.at();
        let name = self.word("the name of a function")?;
        let params = if self.peek() == Tok::Punct('(') { self.formals()? } else { Vec::new() };
        let mut function = Function {
            at,
            name,
            is_entry,
            returns,
            params,
            body: None,
            exact_threads: None,
            max_threads: None,
        };
        self.tuning(&mut function)?;
        if !self.eat(';') {
            function.body = Some(self.body()?);
        }
        Ok(function)
    }

    /// Directives between the parameters and the body.
    fn tuning(&mut self, function: &mut Function<'a>) -> Parsed<()> {
        while let Tok::Dot(directive) = self.peek() {
            match directive {
                "reqntid" => function.exact_threads = Some(self.extents()?),
                "maxntid" => {
                    let extents = self.extents()?;
                    function.max_threads = Some(extents.iter().map(|extent| u64::from(*extent)).product());
                }
                "minnctapersm" | "maxnctapersm" | "maxnreg" => {
                    self.pos += 1;
                    self.int("a number")?;
                }
                "pragma" => self.pragma()?,
                "noreturn" => self.pos += 1,
                _ => return Err(self.at().error(format!("`.{directive}` is no directive of a function"))),
            }
        }
        Ok(())
    }

    fn extents(&mut self) -> Parsed<[u32; 3]> {
        self.pos += 1;
        let mut extents = [1; 3];
        for (axis_idx, extent) in extents.iter_mut().enumerate() {
            if axis_idx > 0 && !self.eat(',') {
                break;
            }
            let at = self.at();
            let value = self.int("a number of threads")?;
            *extent = u32::try_from(value).map_err(|_| at.error("too many threads"))?;
        }
        Ok(extents)
    }

    fn formals(&mut self) -> Parsed<Vec<Variable<'a>>> {
        self.expect('(')?;
        let mut formals = Vec::new();
        while !self.eat(')') {
            if !formals.is_empty() {
                self.expect(',')?;
            }
            let space = match self.advance() {
                Tok::Dot("param") => VarSpace::Param,
                Tok::Dot("reg") => VarSpace::Reg,
                _ => return self.expected("`.param` or `.reg`"),
            };
            let prefix = self.declared_type()?;
            formals.push(self.declarator(space, prefix, false)?);
        }
        Ok(formals)
    }

    /// `.align N`, the type, and `.ptr` with what it says of the pointer, in the orders in which they occur.
    fn declared_type(&mut self) -> Parsed<(Ty, u64)> {
        let mut align = 0;
        let mut ty = None;
        while let Tok::Dot(name) = self.peek() {
            let at = self.at();
            self.pos += 1;
            match name {
                "align" => {
                    let value = self.int("an alignment in bytes")?;
                    if !value.is_power_of_two() || value > 1 << 20 {
                        return Err(at.error(format!("an alignment is a power of two, not {value}")));
                    }
                    align = if ty.is_none() { value } else { align };
                }
                "ptr" | "global" | "const" | "shared" | "local" if ty.is_some() => {}
                _ => match Ty::from_name(name) {
                    Some(found) if ty.is_none() => ty = Some(found),
                    _ => return Err(at.error(format!("`.{name}` is no type that the simulator knows"))),
                },
            }
        }
        match ty {
            Some(ty) => Ok((ty, align)),
            None => self.expected("a type such as `.f32`"),
        }
    }

    /// `.space .align N .type name[n] = {...}, ...;`, from the space on.
    pub(super) fn variables(&mut self, external: bool) -> Parsed<Vec<Variable<'a>>> {
        let space = match self.advance() {
            Tok::Dot("param") => VarSpace::Param,
            Tok::Dot("shared") => VarSpace::Shared,
            Tok::Dot("local") => VarSpace::Local,
            Tok::Dot("global") => VarSpace::Global,
            Tok::Dot("const") => VarSpace::Const,
            _ => return self.expected("a state space"),
        };
        let prefix = self.declared_type()?;
        let mut variables = Vec::new();
        loop {
            variables.push(self.declarator(space, prefix, external)?);
            if !self.eat(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(variables)
    }

    fn declarator(&mut self, space: VarSpace, prefix: (Ty, u64), external: bool) -> Parsed<Variable<'a>> {
        let (ty, align) = prefix;
        let at = self.at();
        let name = self.word("a name")?;
        let mut extent = Extent::Scalar;
        while self.eat('[') {
            let count = if let Tok::Int(count) = self.peek() {
                self.pos += 1;
                Some(count)
            } else {
                None
            };
            self.expect(']')?;
            extent = match (extent, count) {
                (Extent::Scalar, None) => Extent::Open,
                (Extent::Scalar, Some(count)) => Extent::Array(count),
                (Extent::Array(outer), Some(count)) => Extent::Array(outer.saturating_mul(count)),
                _ => return Err(at.error("only a single open extent is possible, and no other beside it")),
            };
        }
        if matches!(extent, Extent::Array(n) if n.saturating_mul(u64::from(ty.bytes())) > MAX_ARRAY_BYTES) {
            return Err(at.error(format!("`{name}` has more than {MAX_ARRAY_BYTES} bytes")));
        }
        let init = if self.eat('=') { self.initialiser()? } else { Vec::new() };
        let align = align.max(u64::from(ty.bytes().max(1)));
        Ok(Variable { at, space, ty, name, extent, align, external, init })
    }

    fn initialiser(&mut self) -> Parsed<Vec<Literal>> {
        if !self.eat('{') {
            return Ok(vec![self.literal()?]);
        }
        let mut elements = Vec::new();
        // Rows of a matrix may have braces of their own; the elements follow each other in any case.
        let mut depth = 1;
        while depth > 0 {
            if self.eat('{') {
                depth += 1;
            } else if self.eat('}') {
                depth -= 1;
            } else if !self.eat(',') {
                elements.push(self.literal()?);
            }
        }
        Ok(elements)
    }

    pub(super) fn literal(&mut self) -> Parsed<Literal> {
        let negative = self.eat('-');
        let literal = match self.peek() {
            Tok::Int(value) => {
                Literal::Int { bits: if negative { value.wrapping_neg() } else { value }, negative }
            }
            Tok::F32(bits) => Literal::F32(bits ^ (u32::from(negative) << 31)),
            Tok::F64(bits) => Literal::F64(bits ^ (u64::from(negative) << 63)),
            _ => return self.expected("a number"),
        };
        self.pos += 1;
        Ok(literal)
    }
}

fn describe(tok: Tok<'_>) -> String {
    match tok {
        Tok::Word(word) => format!("`{word}`"),
        Tok::Dot(name) => format!("`.{name}`"),
        Tok::Int(value) => format!("`{value}`"),
        Tok::F32(_) | Tok::F64(_) => "a floating-point number".to_string(),
        Tok::Text(_) => "a string".to_string(),
        Tok::Punct(punct) => format!("`{punct}`"),
        Tok::End => "the end of the text".to_string(),
    }
}
