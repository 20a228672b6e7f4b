//! Bodies of functions: labels, declarations, instructions and their operands.

use super::ast::{Inst, Literal, Operand, Stmt};
use super::lex::Tok;
use super::parse::{Parsed, Parser};
use super::types::Ty;

/// Registers of one declaration; LLVM declares as many as a function has.
const MAX_REGS: u64 = 1 << 20;

impl<'a> Parser<'a> {
    pub(super) fn body(&mut self) -> Parsed<Vec<Stmt<'a>>> {
        self.expect('{')?;
        let mut stmts = Vec::new();
        let mut depth = 1;
        while depth > 0 {
            match self.peek() {
                Tok::End => return self.expected("`}`"),
                Tok::Punct('{') => {
                    self.advance();
                    depth += 1;
                    stmts.push(Stmt::Open);
                }
                Tok::Punct('}') => {
                    self.advance();
                    depth -= 1;
                    if depth > 0 {
                        stmts.push(Stmt::Close);
                    }
                }
                _ => self.stmt_or_recover(&mut stmts),
            }
        }
        Ok(stmts)
    }

    fn stmt_or_recover(&mut self, stmts: &mut Vec<Stmt<'a>>) {
        let start = self.position();
        if let Err(error) = self.stmt(stmts) {
            self.errors.push(error);
            self.skip_statement(start);
        }
    }

    /// Skips the rest of a wrong statement, but no brace that closes the body.
    fn skip_statement(&mut self, start: usize) {
        if self.position() == start {
            self.advance();
        }
        if self.after_semicolon() {
            return;
        }
        while !matches!(self.peek(), Tok::End | Tok::Punct('}')) {
            if self.advance() == Tok::Punct(';') {
                return;
            }
        }
    }

    fn stmt(&mut self, stmts: &mut Vec<Stmt<'a>>) -> Parsed<()> {
        match self.peek() {
            Tok::Punct(';') => {
                self.advance();
                Ok(())
            }
            Tok::Dot("reg") => self.registers(stmts),
            Tok::Dot("param" | "shared" | "local") => {
                let variables = self.variables(false)?;
                stmts.extend(variables.into_iter().map(Stmt::Var));
                Ok(())
            }
            Tok::Dot("pragma") => self.pragma(),
            Tok::Dot("loc" | "file") => self.skip_line(),
            Tok::Word(name) if self.peek_at(1) == Tok::Punct(':') => {
                let at = self.at();
                self.advance();
                self.advance();
                let stmt = if self.eat_dot("branchtargets") {
                    let targets = self.names(';')?;
                    Stmt::Targets(at, name, targets)
                } else {
                    Stmt::Label(at, name)
                };
                stmts.push(stmt);
                Ok(())
            }
            Tok::Word(_) | Tok::Punct('@') => {
                let inst = self.inst()?;
                stmts.push(Stmt::Inst(inst));
                Ok(())
            }
            _ => self.expected("an instruction, a label or a declaration"),
        }
    }

    /// `.reg .b32 %r<10>, %x;`
    fn registers(&mut self, stmts: &mut Vec<Stmt<'a>>) -> Parsed<()> {
        self.advance();
        let at = self.at();
        let ty = match self.advance() {
            Tok::Dot(name) => Ty::from_name(name)
                .ok_or_else(|| at.error(format!("`.{name}` is no register type that the simulator knows")))?,
            _ => return Err(at.error("expected the type of the registers")),
        };
        loop {
            let at = self.at();
            let name = self.word("the name of a register")?;
            let mut count = None;
            if self.eat('<') {
                let value = self.int("the number of registers")?;
                if value > MAX_REGS {
                    return Err(at.error(format!("{value} registers are more than {MAX_REGS}")));
                }
                count = u32::try_from(value).ok();
                self.expect('>')?;
            }
            stmts.push(Stmt::Regs { at, ty, name, count });
            if !self.eat(',') {
                return self.expect(';');
            }
        }
    }

    fn inst(&mut self) -> Parsed<Inst<'a>> {
        let start = self.at();
        let mut guard = None;
        if self.eat('@') {
            let negated = self.eat('!');
            guard = Some((self.word("a predicate")?, negated));
        }
        let opcode = self.word("an opcode")?;
        let mut mods = Vec::new();
        while let Tok::Dot(name) = self.peek() {
            self.advance();
            mods.push(name);
        }
        let mut operands = Vec::new();
        if self.peek() != Tok::Punct(';') {
            operands.push(self.operand()?);
            while self.eat(',') {
                operands.push(self.operand()?);
            }
        }
        let at = start.to(self.last_at());
        self.expect(';')?;
        Ok(Inst { at, guard, opcode, mods, operands })
    }

    /// `a, b` up to `end`, which is taken.
    fn names(&mut self, end: char) -> Parsed<Vec<&'a str>> {
        let mut names = Vec::new();
        while !self.eat(end) {
            if !names.is_empty() {
                self.expect(',')?;
            }
            names.push(self.word("a name")?);
        }
        Ok(names)
    }

    fn operand(&mut self) -> Parsed<Operand<'a>> {
        match self.peek() {
            Tok::Punct('{') => self.vector(),
            Tok::Punct('[') => self.address(),
            Tok::Punct('(') => {
                self.advance();
                Ok(Operand::List(self.names(')')?))
            }
            Tok::Punct('!') => {
                self.advance();
                Ok(Operand::Not(self.word("a predicate")?))
            }
            Tok::Word(name) => {
                self.advance();
                self.after_name(name)
            }
            _ => Ok(Operand::Literal(self.literal()?)),
        }
    }

    fn after_name(&mut self, name: &'a str) -> Parsed<Operand<'a>> {
        match self.peek() {
            Tok::Dot(component) => {
                self.advance();
                Ok(Operand::Component(name, component))
            }
            Tok::Punct('|') => {
                self.advance();
                Ok(Operand::Pair(name, self.word("the second predicate")?))
            }
            Tok::Punct('+' | '-') => Ok(Operand::Offset(name, self.offset()?)),
            _ => Ok(Operand::Name(name)),
        }
    }

    fn vector(&mut self) -> Parsed<Operand<'a>> {
        self.expect('{')?;
        let mut elements = Vec::new();
        loop {
            if self.peek() == Tok::Punct('{') {
                return self.expected("an element of a vector");
            }
            elements.push(self.operand()?);
            if !self.eat(',') {
                break;
            }
        }
        self.expect('}')?;
        Ok(Operand::Vector(elements))
    }

    fn address(&mut self) -> Parsed<Operand<'a>> {
        self.expect('[')?;
        let base = if let Tok::Word(name) = self.peek() {
            self.advance();
            Some(name)
        } else {
            None
        };
        let offset = if self.peek() == Tok::Punct(']') { 0 } else { self.offset()? };
        self.expect(']')?;
        Ok(Operand::Address(base, offset))
    }

    /// `+8`, `+-8`, `-8`, or a number alone.
    fn offset(&mut self) -> Parsed<i64> {
        self.eat('+');
        let at = self.at();
        match self.literal()? {
            Literal::Int { bits, .. } => Ok(bits as i64),
            _ => Err(at.error("an offset is an integer")),
        }
    }
}
