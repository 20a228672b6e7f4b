//! The terms of the e-graph, and the tables that their numbers point into.
//!
//! A [`Term`] is one operation on classes. Ops with attributes and types are interned in a [`World`], so that terms are small
//! and compare by number. Ops of several results are one term of tuple type; [`Head::Get`] picks a result. A loop's body is a
//! function of the world's module and never part of the graph.

use super::facts::{Data, Facts};
use birkhoff_ir::dim::{Dim, SizeEnv};
use birkhoff_ir::tensor::{DimKind, FuncId, Module, Op, OpKind, TensorType, infer};
use egg::{Id, Language};
use indexmap::IndexSet;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// The e-graph of one function.
pub type Graph = egg::EGraph<Term, World>;

/// Number of an interned op.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct OpId(u32);

/// Number of an interned type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TypeId(u32);

/// What a term applies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Head {
    /// The argument of that position.
    Input(u32),
    /// An op; the number says which attributes.
    Op(OpKind, OpId),
    /// The result of that position of a term with several.
    Get(u32),
    /// All outputs of the function: the root.
    Outputs,
}

/// One operation on classes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Term {
    /// What is applied.
    pub head: Head,
    /// The operands.
    pub args: Vec<Id>,
}

impl Term {
    /// The op, unless this is an argument, a projection or the root.
    pub fn kind(&self) -> Option<OpKind> {
        match self.head {
            Head::Op(kind, _) => Some(kind),
            _ => None,
        }
    }
}

impl Language for Term {
    type Discriminant = Head;

    fn discriminant(&self) -> Head {
        self.head
    }

    fn matches(&self, other: &Self) -> bool {
        self.head == other.head && self.args.len() == other.args.len()
    }

    fn children(&self) -> &[Id] {
        &self.args
    }

    fn children_mut(&mut self) -> &mut [Id] {
        &mut self.args
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.head {
            Head::Input(idx) => write!(f, "arg{idx}"),
            Head::Op(kind, id) => write!(f, "{}#{}", kind.name(), id.0),
            Head::Get(idx) => write!(f, "get{idx}"),
            Head::Outputs => f.write_str("outputs"),
        }
    }
}

/// True if terms of this op are tuples, even of one value.
pub fn is_tuple(kind: OpKind) -> bool {
    matches!(kind, OpKind::Loop | OpKind::Qr | OpKind::OtPotentials)
}

/// What terms refer to by number, and the state of the analysis.
pub struct World {
    /// Dims, and the loop bodies, already optimised.
    pub module: Module,
    /// Sizes to weigh terms with.
    pub sizes: SizeEnv,
    /// Types of the function's arguments.
    pub inputs: Vec<TypeId>,
    /// What is known of the outputs of loop bodies, whatever their arguments are.
    pub bodies: BTreeMap<FuncId, Vec<Facts>>,
    /// Two facts about one class that cannot both hold, or a term that has no type: our fault, and the end of the run.
    pub conflict: Option<Conflict>,
    ops: IndexSet<Op>,
    types: IndexSet<TensorType>,
    inferred: HashMap<(OpId, Vec<TypeId>), Vec<TypeId>>,
}

/// Why the run must stop.
#[derive(Clone, PartialEq, Debug)]
pub struct Conflict {
    /// What contradicts what.
    pub message: String,
}

impl World {
    /// A world over the dims and bodies of `module`.
    pub fn new(module: Module, sizes: SizeEnv, bodies: BTreeMap<FuncId, Vec<Facts>>) -> World {
        World {
            module,
            sizes,
            inputs: vec![],
            bodies,
            conflict: None,
            ops: IndexSet::new(),
            types: IndexSet::new(),
            inferred: HashMap::new(),
        }
    }

    /// The number of `op`.
    pub fn intern_op(&mut self, op: &Op) -> OpId {
        match self.ops.get_index_of(op) {
            Some(idx) => OpId(idx as u32),
            None => OpId(self.ops.insert_full(op.clone()).0 as u32),
        }
    }

    /// The number of `op`, if it has one.
    pub fn number_of(&self, op: &Op) -> Option<OpId> {
        self.ops.get_index_of(op).map(|idx| OpId(idx as u32))
    }

    /// The module, to be handed on.
    pub fn take_module(&mut self) -> Module {
        std::mem::take(&mut self.module)
    }

    /// The op of that number.
    pub fn op(&self, id: OpId) -> &Op {
        &self.ops[id.0 as usize]
    }

    /// The number of `ty`.
    pub fn intern_type(&mut self, ty: &TensorType) -> TypeId {
        match self.types.get_index_of(ty) {
            Some(idx) => TypeId(idx as u32),
            None => TypeId(self.types.insert_full(ty.clone()).0 as u32),
        }
    }

    /// The type of that number.
    pub fn ty(&self, id: TypeId) -> &TensorType {
        &self.types[id.0 as usize]
    }

    /// States what an op's results are, so that they need not be inferred.
    pub fn declare(&mut self, op: OpId, args: Vec<TypeId>, results: Vec<TypeId>) {
        self.inferred.insert((op, args), results);
    }

    /// Result types of an op. Errors: expectation and finding.
    pub fn infer(&mut self, op: OpId, args: Vec<TypeId>) -> Result<Vec<TypeId>, String> {
        let key = (op, args);
        if let Some(known) = self.inferred.get(&key) {
            return Ok(known.clone());
        }
        let types: Vec<TensorType> = key.1.iter().map(|ty| self.ty(*ty).clone()).collect();
        let results = infer::result_types(&self.module, self.op(op), &types)?;
        let results: Vec<TypeId> = results.iter().map(|ty| self.intern_type(ty)).collect();
        self.inferred.insert(key, results.clone());
        Ok(results)
    }

    /// True if the size is at least `least` whatever the run-time dims are.
    pub fn at_least(&self, dim: &Dim, least: i64) -> bool {
        // A polynomial without negative coefficients is smallest where its names are.
        let mut smallest = SizeEnv::new();
        for decl in &self.module.dims {
            if let DimKind::RunTime { lo, .. } = decl.kind {
                smallest.insert(decl.name.clone(), lo.max(0));
            }
        }
        dim.terms().all(|(names, coeff)| names.is_empty() || coeff >= 0)
            && dim.eval(&smallest).is_ok_and(|size| size >= least)
    }
}

/// The data of the class of `id`.
pub fn data(graph: &Graph, id: Id) -> &Data {
    &graph[id].data
}

/// The type of a class of one value; that of the first result for tuples.
pub fn type_of(graph: &Graph, id: Id) -> Option<&TensorType> {
    let first = data(graph, id).results.first()?;
    Some(graph.analysis.ty(first.0))
}
