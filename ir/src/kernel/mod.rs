//! The kernel IR: what both back ends consume.
//!
//! A kernel is a grid of tiles over *batch axes* and, inside one tile, a sequence of *stages*: structured loop nests over
//! memory (`param`, at the kernel's edge, and `local`, tile-local) with SSA scalars in between. Every decision that is the
//! same for all back ends has been taken: loop order, what is unrolled, which axis runs over vector lanes and how wide,
//! where values live, in which order reductions add. A back end only names instructions.
//!
//! **Meaning.** Statements run in order. Within `lanes`, one trip of the body stands for `width` consecutive values of the
//! loop variable; a value is per-lane if it depends on the lane variable or on a register declared inside the loop, else
//! uniform. The iterations `0 .. len - len % width` run in chunks of `width`; those that remain run one by one.
//! An [`Stmt::Accum`] inside a lane loop whose target is declared outside it and not indexed by the lane variable is a
//! *lane reduction*: `width` partials start at the operation's identity, partial `l` takes iterations `l mod width`, and
//! after the last chunk the partials are combined by halves (`p[i] = p[i] op p[i + w/2]`, then `w/2`, ..) and the result
//! goes into the target (`target op p[0]`); the remaining iterations then accumulate one by one. For [`AccumOp::MulAdd`] the
//! combining operation is addition. Lane loops do not nest. That order is all there is: results do not depend on threads.
//!
//! A chunk runs statement by statement over all its lanes: what a statement stores, the next one loads, whichever lane it
//! was. Partials belong to an element of the target, for the time of the loop: all accumulations of the loop into that
//! element share them and combine in one way, and the loop touches the target in no other way. The target is a local, its
//! index changes inside the loop only with `unroll` variables, so that partials can be registers. Per-lane values go only to
//! elements whose index contains the lane variable, or to registers declared inside the loop. [`verify`] lists and checks
//! all rules; [`eval`] is the definition in running form; [`lanes`] decides what is per-lane.
//!
//! Loads widen bf16 and f16 to f32, stores round to nearest even. Registers (`Space::Reg`) are only ever indexed by
//! constants once `unroll` loops are unrolled (and, on their lane axis, by the lane variable), so that they need no memory.
//!
//! Deliberately absent: goto, recursion, calls, pointers, atomics, aliasing (no two params overlap unless they are one).

pub mod abi;
pub mod build;
pub mod eval;
pub mod lanes;
pub mod math;
pub mod spans;
pub mod text;
pub mod traffic;
pub mod verify;

use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::scalar::{Scalar, ScalarOp};

/// An SSA value or a loop variable of a kernel; loop variables are i64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Var(pub u32);

/// Position in [`Func::params`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ParamId(pub u32);

/// Position in [`Func::locals`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LocalId(pub u32);

/// One kernel.
#[derive(Clone, PartialEq, Debug)]
pub struct Func {
    /// Unique in its program; a C identifier.
    pub name: Sym,
    /// Run-time sizes the kernel takes, in call order.
    pub sizes: Vec<Sym>,
    /// Memory at the kernel's edge, in call order.
    pub params: Vec<Param>,
    /// Batch axes, outermost first; empty for a kernel of one tile.
    pub grid: Vec<GridAxis>,
    /// Tile-local memory and registers.
    pub locals: Vec<Local>,
    /// The dtype and print name of every [`Var`].
    pub vars: Vec<VarInfo>,
    /// What one tile does.
    pub body: Block,
}

/// A dense row-major array in memory, given by the caller.
#[derive(Clone, PartialEq, Debug)]
pub struct Param {
    /// Its name in text, headers and manifests.
    pub name: Sym,
    /// Storage type.
    pub dtype: DType,
    /// Extents; may mention run-time sizes.
    pub shape: Vec<Dim>,
    /// Whether the kernel reads or writes it.
    pub access: Access,
}

/// How a kernel touches a parameter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// Only read.
    Read,
    /// Only written.
    Write,
    /// Read and written (accumulating into a buffer).
    ReadWrite,
}

/// One batch axis, cut into tiles. Tiles are numbered row-major over the axes, the last one fastest.
#[derive(Clone, PartialEq, Debug)]
pub struct GridAxis {
    /// Print name.
    pub name: Sym,
    /// Number of positions along the axis.
    pub extent: Dim,
    /// Positions in a tile.
    pub tile: u32,
    /// First position of this tile: a multiple of `tile`.
    pub base: Var,
    /// Positions in this tile: `min(tile, extent - base)`.
    pub count: Var,
}

/// Where a local lives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Space {
    /// Registers: uninitialised at each [`Stmt::Decl`], private to each iteration of the loops around it.
    Reg,
    /// Memory of the tile (scratch on a CPU, shared memory on a GPU): one array, uninitialised when a tile starts.
    Tile,
}

/// A tile-local array.
#[derive(Clone, PartialEq, Debug)]
pub struct Local {
    /// Print name.
    pub name: Sym,
    /// Storage type (`Reg`: a compute type, never bf16 or f16).
    pub dtype: DType,
    /// Extents; `Reg` arrays have constant ones.
    pub shape: Vec<Dim>,
    /// Registers or memory.
    pub space: Space,
    /// For `Reg` arrays indexed by a lane variable: that axis and the width of the lane loops that index it.
    pub lane_axis: Option<(u32, u32)>,
}

/// The type of a [`Var`].
#[derive(Clone, PartialEq, Debug)]
pub struct VarInfo {
    /// A compute type: f64, f32, i64, i32 or bool.
    pub dtype: DType,
    /// A name for loop variables; SSA values print as their number.
    pub name: Option<Sym>,
}

/// Statements in order.
pub type Block = Vec<Stmt>;

/// Memory an instruction touches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Mem {
    /// A parameter.
    Param(ParamId),
    /// A local.
    Local(LocalId),
}

/// An affine function of i64 variables: `sum coeff * var + offset`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Index {
    /// Variables, each once and sorted, with their non-zero coefficients.
    pub terms: Vec<(Var, Dim)>,
    /// The constant part; may mention run-time sizes.
    pub offset: Dim,
}

impl Index {
    /// A constant.
    pub fn constant(value: impl Into<Dim>) -> Index {
        Index { terms: vec![], offset: value.into() }
    }

    /// The variable itself.
    pub fn var(var: Var) -> Index {
        Index { terms: vec![(var, Dim::constant(1))], offset: Dim::default() }
    }

    /// `self + other`.
    pub fn add(&self, other: &Index) -> Index {
        let mut sum = Index { terms: self.terms.clone(), offset: self.offset.add(&other.offset) };
        for (var, coeff) in &other.terms {
            sum.add_term(*var, coeff);
        }
        sum
    }

    /// `self * factor`.
    pub fn scale(&self, factor: &Dim) -> Index {
        let mut product = Index { terms: vec![], offset: self.offset.mul(factor) };
        for (var, coeff) in &self.terms {
            product.add_term(*var, &coeff.mul(factor));
        }
        product
    }

    fn add_term(&mut self, var: Var, coeff: &Dim) {
        match self.terms.binary_search_by_key(&var, |(other, _)| *other) {
            Ok(pos) => {
                let sum = self.terms[pos].1.add(coeff);
                if sum.is_const(0) {
                    self.terms.remove(pos);
                } else {
                    self.terms[pos].1 = sum;
                }
            }
            Err(_) if coeff.is_const(0) => {}
            Err(pos) => self.terms.insert(pos, (var, coeff.clone())),
        }
    }

    /// The coefficient of `var`; zero if it does not occur.
    pub fn coeff(&self, var: Var) -> Dim {
        self.terms.iter().find(|(other, _)| *other == var).map_or(Dim::default(), |(_, coeff)| coeff.clone())
    }
}

impl From<Var> for Index {
    fn from(var: Var) -> Self {
        Index::var(var)
    }
}

/// How a value is computed.
#[derive(Clone, PartialEq, Debug)]
pub enum Inst {
    /// A constant of a compute type (the var's dtype).
    Const(Scalar),
    /// The value of an affine index, as i64.
    Index(Index),
    /// A scalar operation on compute types. Transcendentals are defined by `kernel::math`.
    Scalar(ScalarOp, Vec<Var>),
    /// `a * b + c`, rounded once.
    Fma(Var, Var, Var),
    /// Conversion between compute types, as [`Scalar::convert`].
    Convert(Var),
    /// The same bits as another type of equal width (f32 and i32, f64 and i64).
    Bitcast(Var),
    /// An f32 rounded to the values of bf16 or f16, still an f32.
    Round(DType, Var),
    /// An element, widened to its compute type.
    Load(Mem, Vec<Index>),
}

impl Inst {
    /// The variables it computes with; those of indices and elements of memory aside.
    pub fn operands(&self) -> Vec<Var> {
        match self {
            Inst::Const(_) | Inst::Index(_) | Inst::Load(..) => vec![],
            Inst::Scalar(_, args) => args.clone(),
            Inst::Fma(a, b, c) => vec![*a, *b, *c],
            Inst::Convert(arg) | Inst::Bitcast(arg) | Inst::Round(_, arg) => vec![*arg],
        }
    }
}

/// How an accumulator takes a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AccumOp {
    /// `acc + a`.
    Add,
    /// `acc * a`.
    Mul,
    /// The larger; NaN wins.
    Max,
    /// The smaller; NaN wins.
    Min,
    /// `fma(a, b, acc)`.
    MulAdd,
}

impl AccumOp {
    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            AccumOp::Add => "add",
            AccumOp::Mul => "mul",
            AccumOp::Max => "max",
            AccumOp::Min => "min",
            AccumOp::MulAdd => "mul_add",
        }
    }

    /// Number of operands beside the accumulator.
    pub fn arity(self) -> usize {
        if self == AccumOp::MulAdd { 2 } else { 1 }
    }

    /// The operation that combines two partial results.
    pub fn combine(self) -> ScalarOp {
        match self {
            AccumOp::Add | AccumOp::MulAdd => ScalarOp::Add,
            AccumOp::Mul => ScalarOp::Mul,
            AccumOp::Max => ScalarOp::Max,
            AccumOp::Min => ScalarOp::Min,
        }
    }

    /// The value that changes nothing, for floats and integers of `dtype`.
    pub fn identity(self, dtype: DType) -> Scalar {
        let float = dtype.is_float();
        let (lowest, highest) = match dtype {
            DType::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
            _ => (i64::MIN, i64::MAX),
        };
        match self {
            // -0 and not 0: adding 0 would turn a sum of negative zeros positive.
            AccumOp::Add | AccumOp::MulAdd if float => Scalar::Float(-0.0),
            AccumOp::Mul if float => Scalar::Float(1.0),
            AccumOp::Max if float => Scalar::Float(f64::NEG_INFINITY),
            AccumOp::Min if float => Scalar::Float(f64::INFINITY),
            AccumOp::Add | AccumOp::MulAdd => Scalar::Int(0),
            AccumOp::Mul => Scalar::Int(1),
            AccumOp::Max => Scalar::Int(lowest),
            AccumOp::Min => Scalar::Int(highest),
        }
    }
}

/// How a loop runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ForKind {
    /// One iteration after the other.
    Seq,
    /// Fully unrolled by the back end; start and end are constants.
    Unroll,
    /// Over vector lanes, `width` at a time: a power of two, at least 2, or all of a constant range.
    Lanes {
        /// Iterations in a chunk; a back end cuts it into its native vectors.
        width: u32,
    },
}

/// A counted loop: `var` runs over `start .. end`, not at all if the range is empty.
#[derive(Clone, PartialEq, Debug)]
pub struct For {
    /// The loop variable.
    pub var: Var,
    /// First value.
    pub start: Index,
    /// One past the last value.
    pub end: Index,
    /// Sequential, unrolled, or over lanes.
    pub kind: ForKind,
    /// The body.
    pub body: Block,
}

/// One statement.
#[derive(Clone, PartialEq, Debug)]
pub enum Stmt {
    /// Defines `Var` (once).
    Let(Var, Inst),
    /// Writes an element.
    Store {
        /// Where.
        mem: Mem,
        /// One index per axis.
        index: Vec<Index>,
        /// A value of the compute type.
        value: Var,
    },
    /// Updates an element, or reduces over lanes; see the module's text.
    Accum {
        /// How.
        op: AccumOp,
        /// Where.
        mem: Mem,
        /// One index per axis.
        index: Vec<Index>,
        /// One or two values.
        args: Vec<Var>,
    },
    /// A loop.
    For(Box<For>),
    /// A named loop nest with its own vector axis; all lanes meet at its end (a barrier on a GPU).
    Stage(Sym, Block),
    /// A register array starts its life, uninitialised.
    Decl(LocalId),
}

impl Func {
    /// True if the kernels differ in their names at most.
    pub fn is_same_code(&self, other: &Func) -> bool {
        let Func { name: _, sizes, params, grid, locals, vars, body } = self;
        *vars == other.vars
            && *sizes == other.sizes
            && *params == other.params
            && *grid == other.grid
            && *locals == other.locals
            && *body == other.body
    }

    /// The dtype of `var`.
    pub fn dtype(&self, var: Var) -> DType {
        self.vars[var.0 as usize].dtype
    }

    /// The storage dtype of `mem`.
    pub fn mem_dtype(&self, mem: Mem) -> DType {
        match mem {
            Mem::Param(id) => self.params[id.0 as usize].dtype,
            Mem::Local(id) => self.locals[id.0 as usize].dtype,
        }
    }

    /// The extents of `mem`.
    pub fn mem_shape(&self, mem: Mem) -> &[Dim] {
        match mem {
            Mem::Param(id) => &self.params[id.0 as usize].shape,
            Mem::Local(id) => &self.locals[id.0 as usize].shape,
        }
    }

    /// The print name of `mem`.
    pub fn mem_name(&self, mem: Mem) -> &Sym {
        match mem {
            Mem::Param(id) => &self.params[id.0 as usize].name,
            Mem::Local(id) => &self.locals[id.0 as usize].name,
        }
    }
}
