//! From the syntax tree to IR: names, types, and the constants and broadcasts that the surface leaves out.
//!
//! In: a tree without syntax errors. Out: nodes appended to a [`Builder`], or one error per statement; what follows from an
//! error already told (a use of the value that failed) is not told again.

use super::Scope;
use super::ast::{Arg, Call, DimAst, Expr, ExprKind, FuncAst, Source, Stmt, TypeAst};
use super::lexer::Name;
use super::{attrs, suggest, surface};
use crate::diag::{Diagnostic, Span};
use crate::dtype::DType;
use crate::scalar::{Scalar, ScalarOp};
use crate::tensor::build::Builder;
use crate::tensor::{Attr, F64, FuncId, Module, Op, OpKind, TensorType, ValueId, infer};
use std::collections::BTreeSet;

/// Why something has no value: an error, or one that was told before.
pub struct Stop(Option<Diagnostic>);

impl From<Diagnostic> for Stop {
    fn from(diag: Diagnostic) -> Self {
        Stop(Some(diag))
    }
}

type Elaborated<T> = Result<T, Stop>;

/// Writes statements at a builder.
pub struct Elaborator<'e, 'm> {
    /// Where nodes go.
    pub builder: &'e mut Builder<'m>,
    scope: &'e mut Scope,
    failed: BTreeSet<String>,
    failed_funcs: &'e BTreeSet<String>,
}

/// The module that a source means.
pub fn module(source: Source, errors: &mut Vec<Diagnostic>) -> Module {
    let mut module = Module::default();
    for decl in source.dims {
        if module.dim(&decl.name).is_some() {
            errors.push(Diagnostic::input(decl.span, format!("the dim `{}` is declared twice", decl.name)));
        }
        module.dims.push(decl);
    }
    for decl in source.params {
        if module.param(&decl.name).is_some() {
            let message = format!("the parameter `{}` is declared twice", decl.name);
            errors.push(Diagnostic::input(decl.span, message));
        }
        module.params.push(decl);
    }
    let mut failed_funcs = BTreeSet::new();
    for func in &source.funcs {
        if module.find(&func.name).is_some() {
            errors.push(Diagnostic::input(
                func.span,
                format!("the function `@{}` is declared twice", func.name),
            ));
        }
        let before = errors.len();
        function(&mut module, func, &failed_funcs, errors);
        if errors.len() > before {
            failed_funcs.insert(func.name.clone());
        }
    }
    module
}

fn function(
    module: &mut Module,
    ast: &FuncAst,
    failed_funcs: &BTreeSet<String>,
    errors: &mut Vec<Diagnostic>,
) {
    let mut builder = Builder::new(module, ast.name.as_str());
    let mut scope = Scope::default();
    for input in &ast.inputs {
        builder.set_span(input.span);
        let ty = tensor_type(builder.module, &input.ty);
        let added = ty.and_then(|ty| {
            let added = builder.input(input.name.as_str(), ty, input.domain);
            added.map_err(|why| Diagnostic::input(input.span, why))
        });
        match added {
            Ok(value) => scope.insert(input.name.as_str(), value),
            Err(error) => errors.push(error),
        }
    }
    let mut elaborator = Elaborator::new(&mut builder, &mut scope, failed_funcs);
    elaborator.failed.extend(ast.inputs.iter().map(|input| input.name.clone()));
    elaborator.statements(&ast.body, errors);
    elaborator.returns(ast, errors);
    if ast.exported {
        builder.export();
    }
    let mut func = builder.into_func();
    func.span = ast.span;
    module.funcs.push(func);
}

/// The type that was written. Errors: a dim that is not declared, a negative extent.
fn tensor_type(module: &Module, ast: &TypeAst) -> Result<TensorType, Diagnostic> {
    Ok(TensorType::new(ast.dtype, attrs::extents(module, &ast.dims, ast.span)?))
}

impl<'e, 'm> Elaborator<'e, 'm> {
    /// Writes at `builder`, with the names of `scope`. Functions in `failed_funcs` have errors of their own.
    pub fn new(
        builder: &'e mut Builder<'m>,
        scope: &'e mut Scope,
        failed_funcs: &'e BTreeSet<String>,
    ) -> Self {
        Elaborator { builder, scope, failed: BTreeSet::new(), failed_funcs }
    }

    /// Writes all statements; those that fail are told and skipped.
    pub fn statements(&mut self, statements: &[Stmt], errors: &mut Vec<Diagnostic>) {
        for stmt in statements {
            if let Err(Stop(error)) = self.statement(stmt) {
                errors.extend(error);
                let names = stmt.names.iter().map(|(name, _)| name.text.clone());
                self.failed.extend(names);
            }
        }
    }

    fn returns(&mut self, ast: &FuncAst, errors: &mut Vec<Diagnostic>) {
        for ret in &ast.returns {
            if let Err(Stop(error)) = self.one_return(ast, ret) {
                errors.extend(error);
            }
        }
        let declared: Vec<&str> = ast.results.iter().map(|(name, _)| name.as_str()).collect();
        let returned: Vec<&str> = ast.returns.iter().map(|ret| ret.name.as_str()).collect();
        if declared != returned {
            let message = format!(
                "`@{}` declares the results ({}), found ({}) returned",
                ast.name,
                declared.join(", "),
                returned.join(", ")
            );
            errors.push(
                Diagnostic::input(ast.return_span, message)
                    .help("write `return name = value, ..` with the declared names in their order"),
            );
        }
    }

    fn one_return(&mut self, ast: &FuncAst, ret: &super::ast::Return) -> Elaborated<()> {
        let declared = ast.results.iter().find(|(name, _)| *name == ret.name);
        let want = declared.map(|(_, ty)| ty.dtype);
        let value = self.expr(&ret.expr, want)?;
        if let Some((_, ty)) = declared {
            self.check_type(ty, value)?;
        }
        self.builder.output(ret.name.clone(), value).map_err(|why| Diagnostic::input(ret.span, why))?;
        Ok(())
    }

    fn statement(&mut self, stmt: &Stmt) -> Elaborated<()> {
        let n_before = self.builder.func().values.len();
        let want = stmt.types.as_ref().and_then(|types| types.first()).map(|ty| ty.dtype);
        let results = match &stmt.expr.kind {
            ExprKind::Call(call) => self.call(call, want)?,
            _ => vec![self.expr(&stmt.expr, want)?],
        };
        if results.len() != stmt.names.len() {
            let message = format!("this has {} results, found {} names", results.len(), stmt.names.len());
            return Err(Diagnostic::input(stmt.expr.span, message).into());
        }
        if let Some(types) = &stmt.types {
            if types.len() != results.len() {
                let message = format!("this has {} results, found {} types", results.len(), types.len());
                return Err(Diagnostic::input(stmt.span, message).into());
            }
            for (ty, value) in types.iter().zip(&results) {
                self.check_type(ty, *value)?;
            }
        }
        for ((name, span), value) in stmt.names.iter().zip(results) {
            self.bind(name, *span, value, n_before)?;
        }
        Ok(())
    }

    /// Errors: `value` is not of the written type.
    fn check_type(&self, written: &TypeAst, value: ValueId) -> Elaborated<()> {
        let expected = tensor_type(self.builder.module, written)?;
        let found = self.builder.ty(value);
        if *found == expected {
            return Ok(());
        }
        let message = format!("this is declared as {expected}, found {found}");
        Err(Diagnostic::input(written.span, message).into())
    }

    fn bind(&mut self, name: &Name, span: Span, value: ValueId, n_before: usize) -> Elaborated<()> {
        if self.scope.get(&name.text).is_some() {
            let message = format!("the name `{}` is given twice", name.text);
            return Err(Diagnostic::input(span, message)
                .help("every value has one name; choose another")
                .into());
        }
        self.scope.insert(name.text.as_str(), value);
        // `y = x` is another word for x, which keeps its name.
        if !name.is_number && value.0 as usize >= n_before {
            self.builder.name(value, name.text.as_str());
        }
        Ok(())
    }

    /// One value. `want` is the dtype of numbers that stand alone.
    pub fn expr(&mut self, expr: &Expr, want: Option<DType>) -> Elaborated<ValueId> {
        match &expr.kind {
            ExprKind::Ref(name, sigil) => self.reference(name, *sigil, expr.span, want),
            ExprKind::Number(value) => self.constant(*value, want, expr.span),
            ExprKind::Param(name) => {
                let attr = attrs::param(self.builder.module, name, expr.span)?;
                self.const_node(attr, want.unwrap_or(DType::F32), expr.span)
            }
            ExprKind::Call(call) => match self.call(call, want)?.as_slice() {
                [value] => Ok(*value),
                several => {
                    let message =
                        format!("`{}` has {} results where one is needed", call.name, several.len());
                    let help = format!("name them in a statement of their own: `a, b = {}(..)`", call.name);
                    Err(Diagnostic::input(call.name_span, message).help(help).into())
                }
            },
            ExprKind::Binary(op, left, right) => {
                let args = self.operands(&[left, right], 0, want)?;
                self.builder.set_span(expr.span);
                let value = self.builder.elementwise(*op, &args);
                value.map_err(|why| Diagnostic::input(expr.span, why).into())
            }
            ExprKind::Neg(inner) => self.negated(inner, expr.span, want),
            ExprKind::Slice { x, axis, start, end } => {
                let x = self.expr(x, want)?;
                self.slice(x, *axis, start, end, expr.span)
            }
        }
    }

    fn reference(&mut self, name: &str, sigil: bool, span: Span, want: Option<DType>) -> Elaborated<ValueId> {
        if let Some(value) = self.scope.get(name) {
            return Ok(value);
        }
        if self.failed.contains(name) {
            return Err(Stop(None));
        }
        if !sigil && let Some(value) = super::cursor::special_float(name) {
            return self.constant(Scalar::Float(value), want, span);
        }
        let near = suggest::nearest(name, self.scope.names());
        let help = near.map_or_else(
            || "values are defined before they are used, in the same function".to_string(),
            |near| format!("did you mean `{near}`?"),
        );
        let error = Diagnostic::input(span, format!("there is no value `{name}` here"));
        Err(error.help(help).into())
    }

    fn negated(&mut self, inner: &Expr, span: Span, want: Option<DType>) -> Elaborated<ValueId> {
        match inner.kind {
            ExprKind::Number(Scalar::Float(value)) => self.constant(Scalar::Float(-value), want, span),
            _ => {
                let value = self.expr(inner, want)?;
                self.builder.set_span(span);
                let negated = self.builder.unary(ScalarOp::Neg, value);
                negated.map_err(|why| Diagnostic::input(span, why).into())
            }
        }
    }

    fn constant(&mut self, value: Scalar, want: Option<DType>, span: Span) -> Elaborated<ValueId> {
        let dtype = want.unwrap_or(DType::F32);
        let attr = match value {
            Scalar::Float(_) if !dtype.is_float() => {
                let message = format!("expected a number of type {dtype}, found {}", value.as_f64());
                return Err(Diagnostic::input(span, message).into());
            }
            Scalar::Int(value) if dtype.is_int() => Attr::Int(value),
            Scalar::Bool(value) => Attr::Bool(value),
            other => Attr::Float(F64(other.as_f64())),
        };
        self.const_node(attr, dtype, span)
    }

    fn const_node(&mut self, attr: Attr, dtype: DType, span: Span) -> Elaborated<ValueId> {
        self.builder.set_span(span);
        let value = self.builder.apply(OpKind::Const, vec![attr, Attr::DType(dtype)], &[]);
        value.map_err(|why| Diagnostic::input(span, why).into())
    }

    fn slice(
        &mut self,
        x: ValueId,
        axis: u64,
        start: &DimAst,
        end: &DimAst,
        span: Span,
    ) -> Elaborated<ValueId> {
        for dim in [start, end] {
            attrs::declared(self.builder.module, dim)?;
        }
        let axis = usize::try_from(axis).unwrap_or(usize::MAX).min(i64::MAX as usize);
        self.builder.set_span(span);
        let sliced = self.builder.slice(x, axis, start.dim.clone(), end.dim.clone());
        sliced.map_err(|why| Diagnostic::input(span, why).into())
    }

    /// Operands in order. Numbers take the dtype of the first operand from position `from` on that is a value, or `want`.
    pub fn operands(
        &mut self,
        exprs: &[&Expr],
        from: usize,
        want: Option<DType>,
    ) -> Elaborated<Vec<ValueId>> {
        let mut values = vec![None; exprs.len()];
        for (slot, expr) in values.iter_mut().zip(exprs) {
            if !self.is_number(expr) {
                *slot = Some(self.expr(expr, want)?);
            }
        }
        let first = values.iter().skip(from).find_map(|value| *value);
        let dtype = first.map(|value| self.builder.ty(value).dtype).or(want);
        let mut operands = Vec::with_capacity(exprs.len());
        for (value, expr) in values.into_iter().zip(exprs) {
            operands.push(match value {
                Some(value) => value,
                None => self.expr(expr, dtype)?,
            });
        }
        Ok(operands)
    }

    /// Whether an expression is made of numbers and parameters only.
    fn is_number(&self, expr: &Expr) -> bool {
        match &expr.kind {
            ExprKind::Number(_) | ExprKind::Param(_) => true,
            ExprKind::Neg(inner) => self.is_number(inner),
            ExprKind::Binary(_, left, right) => self.is_number(left) && self.is_number(right),
            ExprKind::Ref(name, false) => {
                self.scope.get(name).is_none() && super::cursor::special_float(name).is_some()
            }
            _ => false,
        }
    }

    /// The operands of `call`, in order.
    pub fn call_operands(
        &mut self,
        call: &Call,
        from: usize,
        want: Option<DType>,
    ) -> Elaborated<Vec<ValueId>> {
        let exprs: Vec<&Expr> = call
            .args
            .iter()
            .filter_map(|arg| match arg {
                Arg::Operand(expr) => Some(expr),
                Arg::Attr(_) => None,
            })
            .collect();
        self.operands(&exprs, from, want)
    }

    fn call(&mut self, call: &Call, want: Option<DType>) -> Elaborated<Vec<ValueId>> {
        let at = |why: String| Diagnostic::input(call.name_span, why);
        if let Some(row) = surface::find(&call.name) {
            let args = self.call_operands(call, 0, want)?;
            self.builder.set_span(call.name_span);
            return (row.build)(self.builder, call, &args).map(|value| vec![value]).map_err(Stop::from);
        }
        let kind = OpKind::from_name(&call.name).ok_or_else(|| unknown_op(call))?;
        // The condition of a select says nothing about the numbers beside it, nor does what a convert makes of them.
        let from = usize::from(kind == OpKind::Scalar(ScalarOp::Select));
        let want = if matches!(kind, OpKind::Scalar(_)) || kind.is_composite() { want } else { None };
        let args = self.call_operands(call, from, want)?;
        let attrs = self.attributes(kind, call)?;
        let op = Op::new(kind, attrs);
        infer::check_operand_count(&op, args.len()).map_err(at)?;
        self.builder.set_span(call.name_span);
        let results = match kind {
            OpKind::Scalar(scalar) => self.builder.elementwise(scalar, &args).map(|value| vec![value]),
            _ => self.builder.op(op, &args),
        };
        results.map_err(|why| at(why).into())
    }

    fn attributes(&mut self, kind: OpKind, call: &Call) -> Elaborated<Vec<Attr>> {
        let attrs = attrs::resolve(self.builder.module, kind, call)?;
        let failed = |attr: &Attr| match attr {
            Attr::Func(FuncId(id)) => {
                let name = self.builder.module.funcs.get(*id as usize).map(|func| &func.name);
                name.is_some_and(|name| self.failed_funcs.contains(name))
            }
            _ => false,
        };
        if attrs.iter().any(failed) { Err(Stop(None)) } else { Ok(attrs) }
    }
}

fn unknown_op(call: &Call) -> Diagnostic {
    let known = OpKind::all().map(OpKind::name).chain(surface::ROWS.iter().map(|row| row.name));
    let error = Diagnostic::input(call.name_span, format!("there is no op `{}`", call.name));
    match suggest::nearest(&call.name, known) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None => error.help("docs/OPS.md lists the ops"),
    }
}
