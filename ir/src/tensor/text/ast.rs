//! The syntax tree of tensor IR text: what was written, with its places, before names and types are looked at.

use crate::diag::Span;
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::scalar::{Scalar, ScalarOp};
use crate::tensor::text::lexer::Name;
use crate::tensor::{DimDecl, Domain, ParamDecl};

/// A whole source.
#[derive(Default)]
pub struct Source {
    /// Dim declarations.
    pub dims: Vec<DimDecl>,
    /// Parameter declarations.
    pub params: Vec<ParamDecl>,
    /// Functions.
    pub funcs: Vec<FuncAst>,
}

/// A function.
pub struct FuncAst {
    /// Its name.
    pub name: String,
    /// Whether it begins with `export`.
    pub exported: bool,
    /// The place of its name.
    pub span: Span,
    /// Arguments.
    pub inputs: Vec<InputAst>,
    /// Declared results.
    pub results: Vec<(Sym, TypeAst)>,
    /// Statements.
    pub body: Vec<Stmt>,
    /// `return name = expr, ..`.
    pub returns: Vec<Return>,
    /// The place of `return`, or of the closing brace where there is none.
    pub return_span: Span,
}

/// An argument.
pub struct InputAst {
    /// Its name.
    pub name: String,
    /// The place of the name.
    pub span: Span,
    /// Its type.
    pub ty: TypeAst,
    /// What random values are drawn from.
    pub domain: Domain,
}

/// One returned value.
pub struct Return {
    /// The output's name.
    pub name: Sym,
    /// The place of the name.
    pub span: Span,
    /// Its value.
    pub expr: Expr,
}

/// A type.
pub struct TypeAst {
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub dims: Vec<DimAst>,
    /// Its place.
    pub span: Span,
}

/// A size, with the places of the names in it.
#[derive(Clone)]
pub struct DimAst {
    /// The polynomial.
    pub dim: Dim,
    /// Names and their places.
    pub names: Vec<(Sym, Span)>,
}

/// `%a, %b = expr : types`.
pub struct Stmt {
    /// Names of the results.
    pub names: Vec<(Name, Span)>,
    /// The right-hand side.
    pub expr: Expr,
    /// The types, where they are given.
    pub types: Option<Vec<TypeAst>>,
    /// From the first name to the last type.
    pub span: Span,
}

/// An expression.
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Its place.
    pub span: Span,
    /// Levels of the tree, 1 for a leaf.
    pub depth: usize,
}

/// What an expression is.
pub enum ExprKind {
    /// A value by name; the flag says that it had a `%`.
    Ref(String, bool),
    /// A number.
    Number(Scalar),
    /// `$name`.
    Param(Sym),
    /// `name(args, attr=value) {attr=value}`.
    Call(Call),
    /// `a + b` and the like.
    Binary(ScalarOp, Box<Expr>, Box<Expr>),
    /// `-a`.
    Neg(Box<Expr>),
    /// `x[axis: start..end]`.
    Slice {
        /// What is cut.
        x: Box<Expr>,
        /// Along which axis.
        axis: u64,
        /// First element.
        start: DimAst,
        /// One past the last element.
        end: DimAst,
    },
}

/// A call of an op, or of a convenience of the surface.
pub struct Call {
    /// The op.
    pub name: String,
    /// The place of the name.
    pub name_span: Span,
    /// Operands, and attributes given by position.
    pub args: Vec<Arg>,
    /// Attributes given by name.
    pub attrs: Vec<NamedAttr>,
}

/// One thing between the parentheses of a call.
pub enum Arg {
    /// An operand.
    Operand(Expr),
    /// A list, text or function, which can only be an attribute.
    Attr(AttrAst),
}

/// `name=value`.
pub struct NamedAttr {
    /// The attribute.
    pub name: String,
    /// The place of the name.
    pub span: Span,
    /// Its value.
    pub value: AttrAst,
}

/// The value of an attribute.
pub struct AttrAst {
    /// What it is.
    pub kind: AttrAstKind,
    /// Its place.
    pub span: Span,
}

/// What an attribute's value is as written; the op's row says what it means.
pub enum AttrAstKind {
    /// A decimal with a point or an exponent.
    Float(f64),
    /// An integer, a name, or a polynomial of them.
    Dim(DimAst),
    /// `$name`.
    Param(Sym),
    /// `[a, b]`.
    List(Vec<DimAst>),
    /// `"text"`.
    Text(String),
    /// `@name`.
    Func(String),
}
