//! The tensor IR: SSA over tensors, in which models are written, differentiated and rewritten.
//!
//! A [`Module`] declares named dims and parameters and holds functions. A function is a list of [`Node`]s in order of
//! definition; a node applies an [`Op`] (a row of the op table, [`ops`], with attributes) to values. Loops apply a body that
//! is a function of its own, referred to by id, so no value is ever captured from outside.
//!
//! A module is *bound* when its parameters and compile-time dims have been replaced by numbers ([`bind`]): what is symbolic
//! after that are run-time sizes only. Passes work on bound modules.
//!
//! Deliberately absent: implicit broadcasting (the [`build::Builder`] inserts it), in-place update, side effects, data-dependent
//! shapes, data-dependent trip counts.

pub mod attr;
pub mod autodiff;
pub mod bind;
pub mod build;
pub mod composites;
pub mod docs;
pub mod einsum;
pub mod eval;
pub mod infer;
pub mod inline;
pub mod ops;
pub mod random;
pub mod samples;
pub mod text;
pub mod verify;

pub use attr::{Attr, F64};
pub use einsum::Einsum;
pub use ops::{Op, OpKind};
pub use verify::verify;

use crate::diag::Span;
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::scalar::Scalar;
use std::fmt;

/// Position in [`Module::funcs`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FuncId(pub u32);

/// Position in [`Func::values`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ValueId(pub u32);

/// A program: dims, parameters, functions.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Module {
    /// Named dims, each once.
    pub dims: Vec<DimDecl>,
    /// Named numbers that attributes may refer to, each once.
    pub params: Vec<ParamDecl>,
    /// Functions; a loop body comes before the function that uses it.
    pub funcs: Vec<Func>,
}

/// A named size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DimDecl {
    /// Its name.
    pub name: Sym,
    /// When it gets its value.
    pub kind: DimKind,
    /// Where it was declared.
    pub span: Span,
}

/// When a named size gets its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DimKind {
    /// At compile time: from the declaration, an override, or the shapes of the inputs.
    Static(Option<i64>),
    /// At every call, within `lo ..= hi`; one compiled program serves all values.
    RunTime {
        /// Smallest value.
        lo: i64,
        /// Largest value.
        hi: i64,
        /// Used where nothing else says.
        default: Option<i64>,
    },
}

/// A named number that attributes may refer to.
#[derive(Clone, PartialEq, Debug)]
pub struct ParamDecl {
    /// Its name.
    pub name: Sym,
    /// Its value unless overridden; the kind of number it is.
    pub value: Scalar,
    /// Where it was declared.
    pub span: Span,
}

/// The type of a tensor: `f32[T,n*C]`. A scalar has no extents.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// The type of those elements and extents.
    pub fn new(dtype: DType, shape: Vec<Dim>) -> Self {
        TensorType { dtype, shape }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn n_elems(&self) -> Dim {
        self.shape.iter().fold(Dim::constant(1), |product, dim| product.mul(dim))
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (axis, dim) in self.shape.iter().enumerate() {
            if axis > 0 {
                f.write_str(",")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A function of tensors.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Func {
    /// Its name, without the `@`.
    pub name: String,
    /// Whether users may call it; loop bodies are not exported.
    pub exported: bool,
    /// Arguments; the first `inputs.len()` values are theirs.
    pub inputs: Vec<Input>,
    /// All values: inputs, then results of nodes in order.
    pub values: Vec<Value>,
    /// Operations in order of definition.
    pub nodes: Vec<Node>,
    /// Named results.
    pub outputs: Vec<Output>,
    /// Where it was declared.
    pub span: Span,
}

/// One argument of a function.
#[derive(Clone, PartialEq, Debug)]
pub struct Input {
    /// Its name: the tensor's name in files.
    pub name: Sym,
    /// What random values for it are drawn from.
    pub domain: Domain,
    /// Where it was declared.
    pub span: Span,
}

/// A distribution for random inputs, chosen so that the function is well conditioned on it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Domain {
    /// Independent normal elements.
    Normal {
        /// Mean.
        mean: f64,
        /// Standard deviation.
        std: f64,
    },
    /// Independent uniform elements of `lo .. hi`.
    Uniform {
        /// Lower end.
        lo: f64,
        /// Upper end.
        hi: f64,
    },
    /// Points (rows of the last axis) of uniform direction and of a norm uniform in `lo .. hi`.
    Ball {
        /// Smallest norm.
        lo: f64,
        /// Largest norm.
        hi: f64,
    },
}

impl Default for Domain {
    fn default() -> Self {
        Domain::Normal { mean: 0.0, std: 1.0 }
    }
}

/// One tensor.
#[derive(Clone, PartialEq, Debug)]
pub struct Value {
    /// Its type.
    pub ty: TensorType,
    /// Where it comes from.
    pub def: Def,
    /// A name for reading; printing makes names unique.
    pub name: Option<Sym>,
}

/// Where a value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Def {
    /// The argument of that position.
    Input(u32),
    /// A result of a node.
    Node {
        /// Position in [`Func::nodes`].
        node: u32,
        /// Which of its results.
        result: u32,
    },
}

/// One operation.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// Its operands, all defined earlier.
    pub args: Vec<ValueId>,
    /// Its results.
    pub results: Vec<ValueId>,
    /// Where it was written.
    pub span: Span,
}

/// A named result of a function.
#[derive(Clone, PartialEq, Debug)]
pub struct Output {
    /// Its name.
    pub name: Sym,
    /// The value.
    pub value: ValueId,
}

impl Module {
    /// The function `id`.
    pub fn func(&self, id: FuncId) -> &Func {
        &self.funcs[id.0 as usize]
    }

    /// The function of that name.
    pub fn find(&self, name: &str) -> Option<FuncId> {
        self.funcs.iter().position(|func| func.name == name).map(|idx| FuncId(idx as u32))
    }

    /// Exported functions, in order.
    pub fn exported(&self) -> impl Iterator<Item = (FuncId, &Func)> {
        let numbered = self.funcs.iter().enumerate().map(|(idx, func)| (FuncId(idx as u32), func));
        numbered.filter(|(_, func)| func.exported)
    }

    /// The declaration of that dim.
    pub fn dim(&self, name: &str) -> Option<&DimDecl> {
        self.dims.iter().find(|decl| decl.name.as_str() == name)
    }

    /// The declaration of that parameter.
    pub fn param(&self, name: &str) -> Option<&ParamDecl> {
        self.params.iter().find(|decl| decl.name.as_str() == name)
    }
}

impl Func {
    /// The type of `value`.
    pub fn ty(&self, value: ValueId) -> &TensorType {
        &self.values[value.0 as usize].ty
    }

    /// The argument values, in order.
    pub fn input_values(&self) -> impl Iterator<Item = ValueId> {
        (0..self.inputs.len() as u32).map(ValueId)
    }

    /// The node that defines `value`, and which of its results it is; `None` for arguments.
    pub fn def(&self, value: ValueId) -> Option<(&Node, u32)> {
        match self.values[value.0 as usize].def {
            Def::Input(_) => None,
            Def::Node { node, result } => Some((&self.nodes[node as usize], result)),
        }
    }

    /// Number of uses of every value, by nodes and as outputs.
    pub fn n_uses(&self) -> Vec<u32> {
        let mut counts = vec![0; self.values.len()];
        for value in
            self.nodes.iter().flat_map(|node| &node.args).chain(self.outputs.iter().map(|out| &out.value))
        {
            counts[value.0 as usize] += 1;
        }
        counts
    }
}
