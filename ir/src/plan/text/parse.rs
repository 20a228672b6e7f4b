//! Text to plan. Resolves names; everything else is the verifier's. The first error ends the parse.

use super::Spans;
use crate::diag::{Diagnostic, Span};
use crate::dim::{Dim, Sym};
use crate::kernel;
use crate::plan::{
    Arg, Buffer, BufferId, BufferKind, Contract, Matrix, Program, SizeDecl, Step, for_each_launched,
};
use crate::text::{Cursor, Token, parse_dim};

/// A plan and where its parts stand.
#[derive(Clone, PartialEq, Debug)]
pub struct Parsed {
    /// The plan, not verified.
    pub program: Program,
    /// Places for the verifier's errors.
    pub spans: Spans,
}

/// Reads one plan with its kernels, and nothing else.
///
/// Errors: the first thing that is not as the grammar says, with its place.
pub fn parse(source: &str) -> Result<Parsed, Diagnostic> {
    let mut cursor = Cursor::new(source)?;
    cursor.expect_word("plan")?;
    let spans = Spans { name: cursor.span(), ..Spans::default() };
    let name = Sym::from(&cursor.expect(Token::Global)?[1..]);
    let program =
        Program { name, sizes: vec![], buffers: vec![], slots: vec![], kernels: vec![], steps: vec![] };
    let mut parser = Parser { cursor, program, spans, names: vec![], launched: vec![] };
    parser.cursor.expect(Token::BraceOpen)?;
    parser.declarations()?;
    parser.program.steps = parser.steps()?;
    while !parser.cursor.at_end() {
        let parsed = kernel::text::parse_from(&mut parser.cursor)?;
        parser.program.kernels.push(parsed.func);
        parser.spans.kernels.push(parsed.spans);
    }
    parser.resolve()
}

struct Parser<'s> {
    cursor: Cursor<'s>,
    program: Program,
    spans: Spans,
    /// Sizes and the counters of the loops around.
    names: Vec<Sym>,
    /// Kernels by name, in order of their first launch: a launch holds a position here until the kernels are read.
    launched: Vec<(Sym, Span)>,
}

impl Parser<'_> {
    fn declarations(&mut self) -> Result<(), Diagnostic> {
        loop {
            let start = self.cursor.mark();
            if self.cursor.eat_word("size") {
                let size = self.size()?;
                self.names.push(size.name.clone());
                self.program.sizes.push(size);
                self.spans.sizes.push(self.cursor.span_from(start));
            } else if self.cursor.at_word("input")
                || self.cursor.at_word("output")
                || self.cursor.at_word("temp")
            {
                let word = self.cursor.advance();
                let buffer = self.buffer(word)?;
                self.program.buffers.push(buffer);
                self.spans.buffers.push(self.cursor.span_from(start));
            } else if self.cursor.eat_word("slot") {
                let slot = self.slot()?;
                self.program.slots.push(slot);
                self.spans.slots.push(self.cursor.span_from(start));
            } else {
                return Ok(());
            }
        }
    }

    fn size(&mut self) -> Result<SizeDecl, Diagnostic> {
        let span = self.cursor.span();
        let name = Sym::from(self.cursor.ident("the name of a size")?);
        if self.names.contains(&name) {
            return Err(Diagnostic::input(span, format!("the size `{name}` exists twice")));
        }
        self.cursor.expect_word("in")?;
        let first = self.cursor.int()?;
        self.cursor.expect(Token::DotDotEquals)?;
        let last = self.cursor.int()?;
        let default = if self.cursor.eat_word("default") { Some(self.cursor.int()?) } else { None };
        Ok(SizeDecl { name, bounds: (first, last), default })
    }

    fn buffer(&mut self, word: &str) -> Result<Buffer, Diagnostic> {
        let span = self.cursor.span();
        let name = Sym::from(self.cursor.ident("the name of a buffer")?);
        if self.buffer_named(&name).is_some() {
            return Err(Diagnostic::input(span, format!("the buffer `{name}` exists twice")));
        }
        self.cursor.expect(Token::Colon)?;
        let dtype = self.cursor.dtype()?;
        self.cursor.expect(Token::BracketOpen)?;
        let mut shape = vec![];
        while !self.cursor.at(Token::BracketClose) {
            shape.push(self.dim()?);
            if !self.cursor.eat(Token::Comma) {
                break;
            }
        }
        self.cursor.expect(Token::BracketClose)?;
        let kind = match word {
            "input" => BufferKind::Input,
            "output" => BufferKind::Output,
            _ => {
                self.cursor.expect_word("in")?;
                self.cursor.expect_word("slot")?;
                BufferKind::Temp(self.cursor.count()?)
            }
        };
        Ok(Buffer { name, dtype, shape, kind })
    }

    fn slot(&mut self) -> Result<Vec<Dim>, Diagnostic> {
        let (span, number) = (self.cursor.span(), self.cursor.count()?);
        let next = self.program.slots.len();
        if number as usize != next {
            return Err(Diagnostic::input(
                span,
                format!("slots are numbered in order: expected {next}, found {number}"),
            ));
        }
        self.cursor.expect(Token::Colon)?;
        let mut sizes = vec![self.dim()?];
        while self.cursor.eat(Token::Comma) {
            sizes.push(self.dim()?);
        }
        Ok(sizes)
    }

    fn dim(&mut self) -> Result<Dim, Diagnostic> {
        let names = &self.names;
        parse_dim(&mut self.cursor, &|name, span| {
            if names.iter().any(|known| known.as_str() == name) {
                Ok(())
            } else {
                Err(Diagnostic::input(span, format!("`{name}` is not a size of this plan")))
            }
        })
    }

    fn buffer_named(&self, name: &str) -> Option<BufferId> {
        let found = self.program.buffers.iter().position(|buffer| buffer.name.as_str() == name);
        found.map(|idx| BufferId(idx as u32))
    }

    fn buffer_ref(&mut self) -> Result<BufferId, Diagnostic> {
        let span = self.cursor.span();
        let name = self.cursor.ident("the name of a buffer")?;
        self.buffer_named(name)
            .ok_or_else(|| Diagnostic::input(span, format!("`{name}` is not a buffer of this plan")))
    }

    /// Steps up to the closing brace.
    fn steps(&mut self) -> Result<Vec<Step>, Diagnostic> {
        self.cursor.enter()?;
        let mut steps = vec![];
        while !self.cursor.eat(Token::BraceClose) {
            steps.push(self.step()?);
        }
        self.cursor.leave();
        Ok(steps)
    }

    fn step(&mut self) -> Result<Step, Diagnostic> {
        let start = self.cursor.mark();
        let ordinal = self.spans.steps.len();
        self.spans.steps.push(Span::NONE);
        if self.cursor.eat_word("loop") {
            return self.loop_step(start, ordinal);
        }
        if self.cursor.eat_word("unless") {
            let flag = self.buffer_ref()?;
            self.spans.steps[ordinal] = self.cursor.span_from(start);
            self.cursor.expect(Token::BraceOpen)?;
            return Ok(Step::Unless { flag, body: self.steps()? });
        }
        if self.cursor.eat_word("rows") {
            let rows = self.dim()?;
            self.spans.steps[ordinal] = self.cursor.span_from(start);
            self.cursor.expect(Token::BraceOpen)?;
            return Ok(Step::Rows { rows, body: self.steps()? });
        }
        if self.cursor.eat_word("contract") {
            let contract = self.contract()?;
            self.spans.steps[ordinal] = self.cursor.span_from(start);
            return Ok(Step::Contract(contract));
        }
        if !self.cursor.eat_word("launch") {
            return Err(self.cursor.unexpected("`launch`, `contract`, `rows`, `loop`, `unless` or `}`"));
        }
        let span = self.cursor.span();
        let name = Sym::from(&self.cursor.expect(Token::Global)?[1..]);
        let known = self.launched.iter().position(|(other, _)| *other == name);
        let kernel = known.unwrap_or_else(|| {
            self.launched.push((name, span));
            self.launched.len() - 1
        });
        self.cursor.expect(Token::ParenOpen)?;
        let mut args = vec![];
        while !self.cursor.at(Token::ParenClose) {
            args.push(self.arg()?);
            if !self.cursor.eat(Token::Comma) {
                break;
            }
        }
        self.cursor.expect(Token::ParenClose)?;
        self.spans.steps[ordinal] = self.cursor.span_from(start);
        Ok(Step::Launch { kernel: kernel as u32, args })
    }

    fn arg(&mut self) -> Result<Arg, Diagnostic> {
        let buffer = self.buffer_ref()?;
        let mut offset = Dim::default();
        if self.cursor.eat(Token::BracketOpen) {
            offset = self.dim()?;
            self.cursor.expect(Token::DotDot)?;
            self.cursor.expect(Token::BracketClose)?;
        }
        Ok(Arg { buffer, offset })
    }

    fn contract(&mut self) -> Result<Contract, Diagnostic> {
        let [batch, m, n, k] = self.dims()?;
        self.cursor.expect(Token::Colon)?;
        let c = self.matrix()?;
        self.cursor.expect(Token::Equals)?;
        let a = self.matrix()?;
        self.cursor.expect(Token::Star)?;
        let b = self.matrix()?;
        Ok(Contract { batch, m, n, k, a, b, c })
    }

    fn matrix(&mut self) -> Result<Matrix, Diagnostic> {
        let arg = self.arg()?;
        let [batch, row, col] = self.dims()?;
        Ok(Matrix { arg, batch, row, col })
    }

    /// So many polynomials in parentheses.
    fn dims<const N: usize>(&mut self) -> Result<[Dim; N], Diagnostic> {
        self.cursor.expect(Token::ParenOpen)?;
        let mut dims = std::array::from_fn(|_| Dim::default());
        for (idx, dim) in dims.iter_mut().enumerate() {
            if idx > 0 {
                self.cursor.expect(Token::Comma)?;
            }
            *dim = self.dim()?;
        }
        self.cursor.expect(Token::ParenClose)?;
        Ok(dims)
    }

    fn loop_step(&mut self, start: usize, ordinal: usize) -> Result<Step, Diagnostic> {
        let span = self.cursor.span();
        let var = Sym::from(self.cursor.ident("the name of a counter")?);
        if self.names.contains(&var) {
            return Err(Diagnostic::input(span, format!("`{var}` already names a size or counter")));
        }
        self.cursor.expect_word("in")?;
        let (zero_span, zero) = (self.cursor.span(), self.cursor.int()?);
        if zero != 0 {
            return Err(Diagnostic::input(zero_span, format!("a counter starts at 0, found {zero}")));
        }
        self.cursor.expect(Token::DotDot)?;
        let trip = self.dim()?;
        let mut swaps = vec![];
        if self.cursor.eat_word("swap") {
            loop {
                self.cursor.expect(Token::ParenOpen)?;
                let first = self.buffer_ref()?;
                self.cursor.expect(Token::Comma)?;
                swaps.push((first, self.buffer_ref()?));
                self.cursor.expect(Token::ParenClose)?;
                if !self.cursor.eat(Token::Comma) {
                    break;
                }
            }
        }
        self.spans.steps[ordinal] = self.cursor.span_from(start);
        self.cursor.expect(Token::BraceOpen)?;
        self.names.push(var.clone());
        let body = self.steps()?;
        self.names.pop();
        Ok(Step::Loop { var, trip, body, swaps })
    }

    /// Turns launches by name into positions of kernels.
    fn resolve(mut self) -> Result<Parsed, Diagnostic> {
        let mut positions = Vec::with_capacity(self.launched.len());
        for (name, span) in &self.launched {
            match self.program.kernels.iter().position(|kernel| kernel.name == *name) {
                Some(position) => positions.push(position as u32),
                None => {
                    return Err(Diagnostic::input(*span, format!("there is no kernel `@{name}`"))
                        .help("kernels stand after the plan"));
                }
            }
        }
        for_each_launched(&mut self.program.steps, &mut |kernel| {
            *kernel = positions.get(*kernel as usize).copied().unwrap_or(*kernel)
        });
        Ok(Parsed { program: self.program, spans: self.spans })
    }
}
