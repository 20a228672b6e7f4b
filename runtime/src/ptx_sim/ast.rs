//! A parsed module, before anything is resolved.
//!
//! Names are slices of the text. What an opcode and its operands mean is decided by [`decode`](super::decode).

use super::lex::At;
use super::types::Ty;

#[derive(Debug, Default)]
pub(super) struct Source<'a> {
    pub(super) functions: Vec<Function<'a>>,
    pub(super) variables: Vec<Variable<'a>>,
}

/// Where a variable lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum VarSpace {
    Reg,
    Param,
    Shared,
    Local,
    Global,
    Const,
}

/// How many elements a declaration gives its variable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extent {
    Scalar,
    Array(u64),
    /// `name[]`: of as many bytes as the launch says (shared memory), or as its initialiser has.
    Open,
}

#[derive(Clone, Debug)]
pub(super) struct Variable<'a> {
    pub(super) at: At,
    pub(super) space: VarSpace,
    pub(super) ty: Ty,
    pub(super) name: &'a str,
    pub(super) extent: Extent,
    /// In bytes; the declared alignment, else that of the type.
    pub(super) align: u64,
    pub(super) external: bool,
    /// Elements of the initialiser; shorter than the array means zeros.
    pub(super) init: Vec<Literal>,
}

/// A number of the text.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Literal {
    /// Two's complement in 64 bits.
    Int {
        bits: u64,
        negative: bool,
    },
    F32(u32),
    F64(u64),
}

#[derive(Debug)]
pub(super) struct Function<'a> {
    pub(super) at: At,
    pub(super) name: &'a str,
    pub(super) is_entry: bool,
    pub(super) returns: Vec<Variable<'a>>,
    pub(super) params: Vec<Variable<'a>>,
    /// Absent for a declaration.
    pub(super) body: Option<Vec<Stmt<'a>>>,
    /// `.reqntid`.
    pub(super) exact_threads: Option<[u32; 3]>,
    /// `.maxntid`, as a product.
    pub(super) max_threads: Option<u64>,
}

#[derive(Debug)]
pub(super) enum Stmt<'a> {
    /// `{`, a scope of names.
    Open,
    Close,
    Label(At, &'a str),
    /// `label: .branchtargets a, b;`
    Targets(At, &'a str, Vec<&'a str>),
    /// `count` names `name0..` where a count is given.
    Regs {
        at: At,
        ty: Ty,
        name: &'a str,
        count: Option<u32>,
    },
    Var(Variable<'a>),
    Inst(Inst<'a>),
}

#[derive(Debug)]
pub(super) struct Inst<'a> {
    pub(super) at: At,
    /// `@p` or `@!p`: the name, and whether it is negated.
    pub(super) guard: Option<(&'a str, bool)>,
    pub(super) opcode: &'a str,
    pub(super) mods: Vec<&'a str>,
    pub(super) operands: Vec<Operand<'a>>,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Operand<'a> {
    Name(&'a str),
    /// `%tid.x`.
    Component(&'a str, &'a str),
    Literal(Literal),
    /// `!p`.
    Not(&'a str),
    /// `p|q`.
    Pair(&'a str, &'a str),
    /// `{a, b}`.
    Vector(Vec<Operand<'a>>),
    /// `[base+offset]`; no base is an absolute address.
    Address(Option<&'a str>, i64),
    /// `name+offset`, the address of a variable.
    Offset(&'a str, i64),
    /// `(a, b)` of a call.
    List(Vec<&'a str>),
}
