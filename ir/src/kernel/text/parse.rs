//! Text to kernel.
//!
//! Resolves names and infers the dtype of every value; everything else is the verifier's. The first error ends the parse.

use super::Spans;
use super::print::access_name;
use crate::diag::{Diagnostic, Span};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::kernel::{
    Access, AccumOp, Block, For, ForKind, Func, GridAxis, Index, Inst, Local, LocalId, Mem, Param, ParamId,
    Space, Stmt, Var, VarInfo,
};
use crate::scalar::{Scalar, ScalarOp};
use crate::text::{Cursor, Token, parse_dim};

/// A kernel and where its parts stand.
#[derive(Clone, PartialEq, Debug)]
pub struct Parsed {
    /// The kernel, in canonical form but not verified.
    pub func: Func,
    /// Places for the verifier's errors.
    pub spans: Spans,
}

/// Reads one kernel and nothing else.
///
/// Errors: the first thing that is not as the grammar says, with its place.
pub fn parse(source: &str) -> Result<Parsed, Diagnostic> {
    let mut cursor = Cursor::new(source)?;
    let parsed = parse_from(&mut cursor)?;
    if cursor.at_end() { Ok(parsed) } else { Err(cursor.unexpected("the end")) }
}

/// Reads one kernel; leaves `cursor` after it.
///
/// Errors: as [`parse`].
pub fn parse_from(cursor: &mut Cursor<'_>) -> Result<Parsed, Diagnostic> {
    cursor.expect_word("kernel")?;
    let name_span = cursor.span();
    let name = Sym::from(&cursor.expect(Token::Global)?[1..]);
    let func = Func {
        name,
        sizes: vec![],
        params: vec![],
        grid: vec![],
        locals: vec![],
        vars: vec![],
        body: vec![],
    };
    let spans = Spans { name: name_span, ..Spans::default() };
    let mut parser = Parser { cursor, func, spans, scope: vec![] };
    parser.header()?;
    parser.cursor.expect(Token::BraceOpen)?;
    parser.declarations()?;
    parser.func.body = parser.statements()?;
    let func = super::canonical(&parser.func);
    Ok(Parsed { func, spans: parser.spans })
}

struct Parser<'c, 's> {
    cursor: &'c mut Cursor<'s>,
    func: Func,
    spans: Spans,
    /// Visible variables: `t` for loop variables, `%0` for values.
    scope: Vec<(Sym, Var)>,
}

impl Parser<'_, '_> {
    fn header(&mut self) -> Result<(), Diagnostic> {
        // Shapes may mention sizes, which stand after the parameters: they are checked once both are read.
        let mut size_uses: Vec<(Sym, Span)> = vec![];
        self.cursor.expect(Token::ParenOpen)?;
        while !self.cursor.at(Token::ParenClose) {
            let start = self.cursor.mark();
            let name = self.new_mem_name()?;
            self.cursor.expect(Token::Colon)?;
            let access = [Access::Read, Access::Write, Access::ReadWrite];
            let Some(access) = access.into_iter().find(|access| self.cursor.at_word(access_name(*access)))
            else {
                return Err(self.cursor.unexpected("`read`, `write` or `read_write`"));
            };
            self.cursor.advance();
            let (dtype, shape) = self.array_type(&mut size_uses)?;
            self.func.params.push(Param { name, dtype, shape, access });
            self.spans.params.push(self.cursor.span_from(start));
            if !self.cursor.eat(Token::Comma) {
                break;
            }
        }
        self.cursor.expect(Token::ParenClose)?;
        if self.cursor.eat_word("sizes") {
            loop {
                let size = Sym::from(self.cursor.ident("the name of a size")?);
                self.func.sizes.push(size);
                if !self.cursor.eat(Token::Comma) {
                    break;
                }
            }
        }
        for (size, span) in size_uses {
            self.check_size(&size, span)?;
        }
        Ok(())
    }

    fn declarations(&mut self) -> Result<(), Diagnostic> {
        loop {
            let start = self.cursor.mark();
            if self.cursor.eat_word("grid") {
                let axis = self.grid_axis()?;
                self.func.grid.push(axis);
                self.spans.grid.push(self.cursor.span_from(start));
            } else if self.cursor.at_word("local") || self.cursor.at_word("reg") {
                let space = if self.cursor.advance() == "reg" { Space::Reg } else { Space::Tile };
                let local = self.local(space)?;
                self.func.locals.push(local);
                self.spans.locals.push(self.cursor.span_from(start));
            } else {
                return Ok(());
            }
        }
    }

    fn grid_axis(&mut self) -> Result<GridAxis, Diagnostic> {
        let name = Sym::from(self.cursor.ident("the name of a grid axis")?);
        self.cursor.expect_word("over")?;
        let extent = self.dim()?;
        self.cursor.expect_word("tile")?;
        let tile = self.cursor.count()?;
        self.cursor.expect_word("as")?;
        let base = self.define_named()?;
        self.cursor.expect(Token::Comma)?;
        let count = self.define_named()?;
        Ok(GridAxis { name, extent, tile, base, count })
    }

    fn local(&mut self, space: Space) -> Result<Local, Diagnostic> {
        let name = self.new_mem_name()?;
        self.cursor.expect(Token::Colon)?;
        let mut size_uses = vec![];
        let (dtype, shape) = self.array_type(&mut size_uses)?;
        for (size, span) in size_uses {
            self.check_size(&size, span)?;
        }
        let mut lane_axis = None;
        if self.cursor.at_word("lanes") && self.cursor.peek_at(1) == Some(Token::Int) {
            self.cursor.advance();
            let axis = self.cursor.count()?;
            self.cursor.expect_word("width")?;
            lane_axis = Some((axis, self.cursor.count()?));
        }
        Ok(Local { name, dtype, shape, space, lane_axis })
    }

    fn new_mem_name(&mut self) -> Result<Sym, Diagnostic> {
        let span = self.cursor.span();
        let name = self.cursor.ident("the name of a parameter or local")?;
        if self.mem_named(name).is_some() {
            return Err(Diagnostic::input(span, format!("`{name}` is declared twice")));
        }
        Ok(Sym::from(name))
    }

    fn mem_named(&self, name: &str) -> Option<Mem> {
        let param = self.func.params.iter().position(|param| param.name.as_str() == name);
        let local = self.func.locals.iter().position(|local| local.name.as_str() == name);
        let param = param.map(|idx| Mem::Param(ParamId(idx as u32)));
        param.or(local.map(|idx| Mem::Local(LocalId(idx as u32))))
    }

    fn array_type(&mut self, size_uses: &mut Vec<(Sym, Span)>) -> Result<(DType, Vec<Dim>), Diagnostic> {
        let dtype = self.cursor.dtype()?;
        self.cursor.expect(Token::BracketOpen)?;
        let uses = std::cell::RefCell::new(size_uses);
        let mut shape = vec![];
        while !self.cursor.at(Token::BracketClose) {
            shape.push(parse_dim(self.cursor, &|name, span| {
                uses.borrow_mut().push((Sym::from(name), span));
                Ok(())
            })?);
            if !self.cursor.eat(Token::Comma) {
                break;
            }
        }
        self.cursor.expect(Token::BracketClose)?;
        Ok((dtype, shape))
    }

    fn check_size(&self, name: &str, span: Span) -> Result<(), Diagnostic> {
        if self.func.sizes.iter().any(|size| size.as_str() == name) {
            return Ok(());
        }
        let help = "add it after `sizes` in the kernel's header, or write a number";
        Err(Diagnostic::input(span, format!("`{name}` is not a size of this kernel")).help(help))
    }

    fn dim(&mut self) -> Result<Dim, Diagnostic> {
        let func = &self.func;
        parse_dim(self.cursor, &|name, span| {
            if func.sizes.iter().any(|size| size.as_str() == name) {
                Ok(())
            } else {
                Err(Diagnostic::input(span, format!("`{name}` is not a size of this kernel")))
            }
        })
    }

    fn lookup(&self, name: &str) -> Option<Var> {
        self.scope.iter().rev().find(|(other, _)| other.as_str() == name).map(|(_, var)| *var)
    }

    /// An affine expression over visible variables, with coefficients over sizes.
    fn index(&mut self) -> Result<Index, Diagnostic> {
        let start = self.cursor.mark();
        let (func, scope) = (&self.func, &self.scope);
        let poly = parse_dim(self.cursor, &|name, span| {
            let var = scope.iter().any(|(other, _)| other.as_str() == name);
            if var || func.sizes.iter().any(|size| size.as_str() == name) {
                Ok(())
            } else {
                Err(Diagnostic::input(
                    span,
                    format!("`{name}` is not a variable or size that is visible here"),
                ))
            }
        })?;
        let mut index = Index::default();
        for (names, coeff) in poly.terms() {
            let mut factor = Dim::constant(coeff);
            let mut var = None;
            for name in names {
                match (self.lookup(name), var) {
                    (None, _) => factor = factor.mul(&Dim::sym(name.clone())),
                    (Some(found), None) => var = Some(found),
                    (Some(_), Some(_)) => {
                        let span = self.cursor.span_from(start);
                        return Err(Diagnostic::input(span, "an index is a sum of variables times sizes")
                            .label("this multiplies two variables")
                            .help("compute the product with `mul` first"));
                    }
                }
            }
            let term = var.map_or_else(|| Index::constant(1), Index::var);
            index = index.add(&term.scale(&factor));
        }
        Ok(index)
    }

    fn element(&mut self) -> Result<(Mem, Vec<Index>), Diagnostic> {
        let span = self.cursor.span();
        let name = self.cursor.ident("the name of a parameter or local")?;
        let Some(mem) = self.mem_named(name) else {
            return Err(Diagnostic::input(
                span,
                format!("`{name}` is not a parameter or local of this kernel"),
            ));
        };
        self.cursor.expect(Token::BracketOpen)?;
        let mut index = vec![];
        while !self.cursor.at(Token::BracketClose) {
            index.push(self.index()?);
            if !self.cursor.eat(Token::Comma) {
                break;
            }
        }
        self.cursor.expect(Token::BracketClose)?;
        Ok((mem, index))
    }

    fn operand(&mut self) -> Result<Var, Diagnostic> {
        if !matches!(self.cursor.peek(), Some(Token::Value | Token::Ident)) {
            return Err(self.cursor.unexpected("a value or loop variable"));
        }
        let (span, name) = (self.cursor.span(), self.cursor.advance());
        self.lookup(name)
            .ok_or_else(|| Diagnostic::input(span, format!("`{name}` is not a value that is visible here")))
    }

    fn operands(&mut self, count: usize) -> Result<Vec<Var>, Diagnostic> {
        let mut vars = Vec::with_capacity(count);
        for idx in 0..count {
            if idx > 0 {
                self.cursor.expect(Token::Comma)?;
            }
            vars.push(self.operand()?);
        }
        Ok(vars)
    }

    fn define(&mut self, dtype: DType, name: &str, is_loop: bool) -> Var {
        let var = Var(self.func.vars.len() as u32);
        self.func.vars.push(VarInfo { dtype, name: is_loop.then(|| Sym::from(name)) });
        self.scope.push((Sym::from(name), var));
        var
    }

    fn define_named(&mut self) -> Result<Var, Diagnostic> {
        let span = self.cursor.span();
        let name = self.cursor.ident("the name of a variable")?;
        if self.lookup(name).is_some() || self.func.sizes.iter().any(|size| size.as_str() == name) {
            return Err(Diagnostic::input(span, format!("`{name}` already names a variable or size")));
        }
        Ok(self.define(DType::I64, name, true))
    }

    /// Statements up to the closing brace.
    fn statements(&mut self) -> Result<Block, Diagnostic> {
        self.cursor.enter()?;
        let visible = self.scope.len();
        let mut block = vec![];
        while !self.cursor.eat(Token::BraceClose) {
            block.push(self.stmt()?);
        }
        self.scope.truncate(visible);
        self.cursor.leave();
        Ok(block)
    }

    fn stmt(&mut self) -> Result<Stmt, Diagnostic> {
        let start = self.cursor.mark();
        let ordinal = self.spans.stmts.len();
        self.spans.stmts.push(Span::NONE);
        if self.cursor.at(Token::Value) {
            let stmt = self.let_stmt()?;
            self.spans.stmts[ordinal] = self.cursor.span_from(start);
            return Ok(stmt);
        }
        let word_span = self.cursor.span();
        let word = self.cursor.ident("a statement or `}`")?;
        let stmt = match word {
            "store" => {
                let (mem, index) = self.element()?;
                self.cursor.expect(Token::Equals)?;
                Stmt::Store { mem, index, value: self.operand()? }
            }
            "accum" => self.accum()?,
            "decl" => self.decl()?,
            "stage" => {
                let name = Sym::from(self.cursor.ident("the name of a stage")?);
                self.spans.stmts[ordinal] = self.cursor.span_from(start);
                self.cursor.expect(Token::BraceOpen)?;
                return Ok(Stmt::Stage(name, self.statements()?));
            }
            "for" | "unroll" | "lanes" => return self.loop_stmt(word, start, ordinal),
            _ => {
                return Err(Diagnostic::input(word_span, format!("`{word}` starts no statement"))
                    .help("statements are `%v = ..`, store, accum, decl, stage, for, unroll and lanes"));
            }
        };
        self.spans.stmts[ordinal] = self.cursor.span_from(start);
        Ok(stmt)
    }

    fn loop_stmt(&mut self, word: &str, start: usize, ordinal: usize) -> Result<Stmt, Diagnostic> {
        // The bounds do not see the variable, so its name is read before them and defined after them.
        let (name_span, name) = (self.cursor.span(), self.cursor.ident("the name of a loop variable")?);
        self.cursor.expect_word("in")?;
        let from = self.index()?;
        self.cursor.expect(Token::DotDot)?;
        let end = self.index()?;
        let kind = match word {
            "for" => ForKind::Seq,
            "unroll" => ForKind::Unroll,
            _ => {
                self.cursor.expect_word("width")?;
                ForKind::Lanes { width: self.cursor.count()? }
            }
        };
        self.spans.stmts[ordinal] = self.cursor.span_from(start);
        if self.lookup(name).is_some() || self.func.sizes.iter().any(|size| size.as_str() == name) {
            return Err(Diagnostic::input(name_span, format!("`{name}` already names a variable or size")));
        }
        self.cursor.expect(Token::BraceOpen)?;
        let var = self.define(DType::I64, name, true);
        let body = self.statements()?;
        self.scope.pop();
        Ok(Stmt::For(Box::new(For { var, start: from, end, kind, body })))
    }

    fn accum(&mut self) -> Result<Stmt, Diagnostic> {
        let ops = [AccumOp::Add, AccumOp::Mul, AccumOp::Max, AccumOp::Min, AccumOp::MulAdd];
        let Some(op) = ops.into_iter().find(|op| self.cursor.at_word(op.name())) else {
            return Err(self.cursor.unexpected("`add`, `mul`, `max`, `min` or `mul_add`"));
        };
        self.cursor.advance();
        let (mem, index) = self.element()?;
        self.cursor.expect(Token::Comma)?;
        Ok(Stmt::Accum { op, mem, index, args: self.operands(op.arity())? })
    }

    fn decl(&mut self) -> Result<Stmt, Diagnostic> {
        let span = self.cursor.span();
        let name = self.cursor.ident("the name of a register array")?;
        match self.mem_named(name) {
            Some(Mem::Local(id)) => Ok(Stmt::Decl(id)),
            _ => Err(Diagnostic::input(span, format!("`{name}` is not a `reg` of this kernel"))),
        }
    }

    fn let_stmt(&mut self) -> Result<Stmt, Diagnostic> {
        let (span, name) = (self.cursor.span(), self.cursor.expect(Token::Value)?);
        if self.lookup(name).is_some() {
            return Err(Diagnostic::input(span, format!("`{name}` is defined twice")));
        }
        self.cursor.expect(Token::Equals)?;
        let start = self.cursor.mark();
        let (dtype, inst) = self.inst(start)?;
        Ok(Stmt::Let(self.define(dtype, name, false), inst))
    }

    fn inst(&mut self, start: usize) -> Result<(DType, Inst), Diagnostic> {
        let span = self.cursor.span();
        let word = self.cursor.ident("an instruction")?;
        match word {
            "const" => {
                let dtype = self.cursor.dtype()?;
                Ok((dtype, Inst::Const(self.constant(dtype)?)))
            }
            "index" => Ok((DType::I64, Inst::Index(self.index()?))),
            "fma" => {
                let args = self.operands(3)?;
                Ok((self.func.dtype(args[0]), Inst::Fma(args[0], args[1], args[2])))
            }
            "convert" => Ok((self.cursor.dtype()?, Inst::Convert(self.operand()?))),
            "bitcast" => Ok((self.cursor.dtype()?, Inst::Bitcast(self.operand()?))),
            "round" => Ok((DType::F32, Inst::Round(self.cursor.dtype()?, self.operand()?))),
            "load" => {
                let (mem, index) = self.element()?;
                Ok((self.func.mem_dtype(mem).compute(), Inst::Load(mem, index)))
            }
            _ => {
                let Some(op) = ScalarOp::from_name(word) else {
                    return Err(Diagnostic::input(span, format!("`{word}` is not an instruction")));
                };
                let args = self.operands(op.arity())?;
                let dtypes: Vec<DType> = args.iter().map(|arg| self.func.dtype(*arg)).collect();
                let dtype = op
                    .infer(&dtypes)
                    .map_err(|message| Diagnostic::input(self.cursor.span_from(start), message))?;
                Ok((dtype, Inst::Scalar(op, args)))
            }
        }
    }

    fn constant(&mut self, dtype: DType) -> Result<Scalar, Diagnostic> {
        if dtype.is_float() {
            return Ok(Scalar::Float(self.cursor.float(dtype)?));
        }
        if dtype.is_int() {
            return Ok(Scalar::Int(self.cursor.int()?));
        }
        if self.cursor.eat_word("true") {
            return Ok(Scalar::Bool(true));
        }
        self.cursor.expect_word("false").map(|()| Scalar::Bool(false))
    }
}
