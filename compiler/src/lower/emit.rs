//! Writing kernel code: open blocks, common subexpressions, and loop-invariant code placed outside its loop.
//!
//! Every instruction goes to the outermost open block in which its operands exist, and is written once there.

use crate::schedule::coords::IndexCx;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{
    AccumOp, Block, For, ForKind, Func, Index, Inst, Local, LocalId, Mem, Space, Stmt, Var, VarInfo,
};
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use birkhoff_ir::tensor::F64;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// Chunks of an axis are multiples of this many places: the longest vectors that lanes have.
const CHUNK_UNIT: i64 = 64;

/// What makes two instructions the same.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Float(DType, F64),
    Int(DType, i64),
    Bool(bool),
    Index(Index),
    Scalar(DType, ScalarOp, Vec<Var>),
    Fma(Var, Var, Var),
    Convert(DType, Var),
    Round(DType, Var),
}

/// How an open block ends.
enum Head {
    Body,
    Stage(String),
    For { var: Var, start: Index, end: Index, kind: ForKind },
}

struct Level {
    head: Head,
    stmts: Block,
    insts: FxHashMap<Key, Var>,
    /// Elements that were read here, by memory: forgotten when that memory is written.
    loads: FxHashMap<Mem, FxHashMap<Vec<Index>, Var>>,
}

impl Level {
    fn new(head: Head) -> Level {
        Level { head, stmts: vec![], insts: FxHashMap::default(), loads: FxHashMap::default() }
    }
}

/// Writes one kernel.
pub struct Emitter {
    /// The kernel so far; its body is in the open blocks.
    pub func: Func,
    levels: Vec<Level>,
    var_level: Vec<usize>,
    extents: BTreeMap<Var, Dim>,
    /// First places of the tile, with the extent of their axis.
    bases: BTreeMap<Var, Dim>,
    /// The block below which tile memory may be read: it may change outside.
    read_level: usize,
    /// What stands for names of places; see [`Emitter::place_name`].
    names: Vec<Index>,
}

/// Variables from here on are names of places.
const FIRST_NAME: u32 = 1 << 31;

impl Emitter {
    /// An emitter for the empty kernel `func`.
    pub fn new(func: Func) -> Emitter {
        Emitter {
            func,
            levels: vec![Level::new(Head::Body)],
            var_level: vec![],
            extents: BTreeMap::new(),
            bases: BTreeMap::new(),
            read_level: 0,
            names: vec![],
        }
    }

    /// A variable that stands for `index` in coordinates: the place in the tile, which together with the first place of the
    /// tile is below the extent of the axis, as the sum of its terms is not known to be. The code has `index` in its place.
    pub fn place_name(&mut self, index: Index) -> Var {
        let known = self.names.iter().position(|other| *other == index);
        let number = known.unwrap_or_else(|| {
            self.names.push(index);
            self.names.len() - 1
        });
        Var(FIRST_NAME + number as u32)
    }

    /// `index` without names of places.
    fn resolved(&self, index: &Index) -> Index {
        let mut plain = Index::constant(index.offset.clone());
        for (var, coeff) in &index.terms {
            let term = match var.0.checked_sub(FIRST_NAME).and_then(|name| self.names.get(name as usize)) {
                Some(meaning) => meaning.scale(coeff),
                None => Index::var(*var).scale(coeff),
            };
            plain = plain.add(&term);
        }
        plain
    }

    fn all_resolved(&self, index: Vec<Index>) -> Vec<Index> {
        let has_name = |index: &Index| index.terms.iter().any(|(var, _)| var.0 >= FIRST_NAME);
        if index.iter().any(has_name) {
            index.iter().map(|index| self.resolved(index)).collect()
        } else {
            index
        }
    }

    /// The finished kernel.
    pub fn finish(mut self) -> Func {
        while self.levels.len() > 1 {
            self.close();
        }
        self.func.body = self.levels.pop().map(|level| level.stmts).unwrap_or_default();
        self.func
    }

    /// Number of open blocks.
    pub fn depth(&self) -> usize {
        self.levels.len()
    }

    fn fresh(&mut self, dtype: DType, name: Option<&str>, level: usize) -> Var {
        self.func.vars.push(VarInfo { dtype, name: name.map(Into::into) });
        self.var_level.push(level);
        Var(self.func.vars.len() as u32 - 1)
    }

    /// Adds a batch axis; returns its base and count.
    pub fn grid_axis(&mut self, name: &str, extent: Dim, tile: u32) -> (Var, Var) {
        let base = self.fresh(DType::I64, Some(&format!("{name}0")), 0);
        let count = self.fresh(DType::I64, Some(&format!("{name}_count")), 0);
        if tile == 1 {
            self.extents.insert(base, extent.clone());
        } else {
            self.bases.insert(base, extent.clone());
        }
        self.func.grid.push(birkhoff_ir::kernel::GridAxis { name: name.into(), extent, tile, base, count });
        (base, count)
    }

    /// Opens a loop over the tiles of a chunk of an axis, which is cut into `n_chunks` of equal length. Returns the tile's base
    /// and count. A short axis has chunks shorter than a tile: all of them have work, be there as few places as there may.
    pub fn open_chunk(&mut self, chunk: Var, n_chunks: i64, extent: Dim, tile: i64) -> (Var, Var) {
        // Chunks of equal length, whole vectors of places.
        let unit = tile.min(CHUNK_UNIT);
        let by = self.index(Index::constant(n_chunks * unit));
        let reach = self.index(Index::constant(extent.add(&Dim::constant(n_chunks * unit - 1))));
        let n_units = self.scalar(ScalarOp::Div, &[reach, by]);
        let first_unit = self.scalar(ScalarOp::Mul, &[chunk, n_units]);
        let start = Index::var(first_unit).scale(&Dim::constant(unit));
        let len = self.index(Index::var(n_units).scale(&Dim::constant(unit)));
        let rest = self.index(Index::constant(extent.clone()).add(&start.scale(&Dim::constant(-1))));
        let zero = self.index(0.into());
        let len = self.scalar(ScalarOp::Min, &[rest, len]);
        let len = self.scalar(ScalarOp::Max, &[len, zero]);
        let size = self.index(Index::constant(tile));
        let reach = self.index(Index::var(len).add(&Index::constant(tile - 1)));
        let trip = self.scalar(ScalarOp::Div, &[reach, size]);
        let round = self.open_for("s", 0.into(), Index::var(trip), ForKind::Seq, None);
        let done = Index::var(round).scale(&Dim::constant(tile));
        let base = self.index(start.add(&done));
        let rest = self.index(Index::var(len).add(&done.scale(&Dim::constant(-1))));
        let count = self.scalar(ScalarOp::Min, &[rest, size]);
        self.bases.insert(base, extent);
        (base, count)
    }

    /// Adds a local array; registers are declared in the innermost open block.
    pub fn local(&mut self, local: Local) -> Mem {
        let is_reg = local.space == Space::Reg;
        self.func.locals.push(local);
        let id = LocalId(self.func.locals.len() as u32 - 1);
        if is_reg {
            self.push(Stmt::Decl(id));
        }
        Mem::Local(id)
    }

    /// Opens a stage: from here on tile memory is read anew.
    pub fn open_stage(&mut self, name: String) {
        self.levels.push(Level::new(Head::Stage(name)));
        self.read_level = self.levels.len() - 1;
    }

    /// Opens a loop over `start .. end`; `extent` is the number of values where it is known.
    pub fn open_for(
        &mut self,
        name: &str,
        start: Index,
        end: Index,
        kind: ForKind,
        extent: Option<Dim>,
    ) -> Var {
        let level = self.levels.len();
        let var = self.fresh(DType::I64, Some(name), level);
        if let Some(extent) = extent {
            self.extents.insert(var, extent);
        }
        let head = Head::For { var, start, end, kind };
        self.levels.push(Level::new(head));
        var
    }

    /// Closes the innermost open block.
    pub fn close(&mut self) {
        let Some(level) = self.levels.pop() else { return };
        let stmt = match level.head {
            Head::Body => return,
            Head::Stage(name) => Stmt::Stage(name.into(), level.stmts),
            Head::For { var, start, end, kind } => {
                Stmt::For(Box::new(For { var, start, end, kind, body: level.stmts }))
            }
        };
        self.read_level = self.read_level.min(self.levels.len().saturating_sub(1));
        self.push(stmt);
    }

    /// Appends a statement to the innermost open block.
    pub fn push(&mut self, stmt: Stmt) {
        if let Some(level) = self.levels.last_mut() {
            level.stmts.push(stmt);
        }
    }

    fn level_of(&self, vars: &[Var]) -> usize {
        vars.iter().map(|var| self.var_level[var.0 as usize]).max().unwrap_or(0)
    }

    /// The block in which `var` exists.
    pub fn var_level(&self, var: Var) -> usize {
        self.var_level[var.0 as usize]
    }

    /// The outermost block in which `indices` exist.
    pub fn index_level(&self, indices: &[Index]) -> usize {
        let plain = self.all_resolved(indices.to_vec());
        let terms = plain.iter().flat_map(|index| &index.terms);
        terms.map(|(var, _)| self.var_level[var.0 as usize]).max().unwrap_or(0)
    }

    fn add(&mut self, key: Key, dtype: DType, inst: Inst, level: usize) -> Var {
        if let Some(var) = self.levels[level].insts.get(&key) {
            return *var;
        }
        let var = self.fresh(dtype, None, level);
        self.levels[level].stmts.push(Stmt::Let(var, inst));
        self.levels[level].insts.insert(key, var);
        var
    }

    /// The dtype of a value.
    pub fn dtype(&self, var: Var) -> DType {
        self.func.dtype(var)
    }

    /// A constant of a compute type.
    pub fn constant(&mut self, dtype: DType, value: Scalar) -> Var {
        let value = value.convert(dtype);
        let key = match value {
            Scalar::Float(value) => Key::Float(dtype, F64(value)),
            Scalar::Int(value) => Key::Int(dtype, value),
            Scalar::Bool(value) => Key::Bool(value),
        };
        self.add(key, dtype, Inst::Const(value), 0)
    }

    /// The value of an index.
    pub fn index(&mut self, index: Index) -> Var {
        let index = self.resolved(&index);
        let level = self.index_level(std::slice::from_ref(&index));
        self.add(Key::Index(index.clone()), DType::I64, Inst::Index(index), level)
    }

    /// A scalar operation.
    pub fn scalar(&mut self, op: ScalarOp, args: &[Var]) -> Var {
        let dtypes: Vec<DType> = args.iter().map(|arg| self.dtype(*arg)).collect();
        let dtype = op.infer(&dtypes).unwrap_or(dtypes[0]);
        let level = self.level_of(args);
        self.add(Key::Scalar(dtype, op, args.to_vec()), dtype, Inst::Scalar(op, args.to_vec()), level)
    }

    /// `a * b + c`, rounded once for floats.
    pub fn mul_add(&mut self, a: Var, b: Var, c: Var) -> Var {
        let dtype = self.dtype(a);
        if !dtype.is_float() {
            let product = self.scalar(ScalarOp::Mul, &[a, b]);
            return self.scalar(ScalarOp::Add, &[product, c]);
        }
        let level = self.level_of(&[a, b, c]);
        self.add(Key::Fma(a, b, c), dtype, Inst::Fma(a, b, c), level)
    }

    /// `var` as another compute type.
    pub fn convert(&mut self, dtype: DType, var: Var) -> Var {
        if self.dtype(var) == dtype {
            return var;
        }
        let level = self.level_of(&[var]);
        self.add(Key::Convert(dtype, var), dtype, Inst::Convert(var), level)
    }

    /// `var` rounded to the values of a storage type.
    pub fn round(&mut self, dtype: DType, var: Var) -> Var {
        if dtype == dtype.compute() {
            return var;
        }
        let level = self.level_of(&[var]);
        self.add(Key::Round(dtype, var), DType::F32, Inst::Round(dtype, var), level)
    }

    /// An element of memory.
    pub fn load(&mut self, mem: Mem, index: Vec<Index>) -> Var {
        let dtype = self.func.mem_dtype(mem).compute();
        let index = self.all_resolved(index);
        let mut level = self.index_level(&index);
        if matches!(mem, Mem::Local(_)) {
            level = level.max(self.read_level);
        }
        if let Some(var) = self.levels[level].loads.get(&mem).and_then(|loads| loads.get(&index)) {
            return *var;
        }
        let var = self.fresh(dtype, None, level);
        self.levels[level].stmts.push(Stmt::Let(var, Inst::Load(mem, index.clone())));
        self.levels[level].loads.entry(mem).or_default().insert(index, var);
        var
    }

    /// An element of a register array, read here and now.
    pub fn load_now(&mut self, mem: Mem, index: Vec<Index>) -> Var {
        let dtype = self.func.mem_dtype(mem).compute();
        let level = self.levels.len() - 1;
        let index = self.all_resolved(index);
        let var = self.fresh(dtype, None, level);
        self.push(Stmt::Let(var, Inst::Load(mem, index)));
        var
    }

    /// Writes an element, and forgets what was read from that memory.
    pub fn store(&mut self, mem: Mem, index: Vec<Index>, value: Var) {
        let index = self.all_resolved(index);
        self.push(Stmt::Store { mem, index, value });
        for level in &mut self.levels {
            level.loads.remove(&mem);
        }
    }

    /// Updates an accumulator.
    pub fn accum(&mut self, op: AccumOp, mem: Mem, index: Vec<Index>, args: &[Var]) {
        let index = self.all_resolved(index);
        self.push(Stmt::Accum { op, mem, index, args: args.to_vec() });
    }
}

impl IndexCx for Emitter {
    fn extent(&self, var: Var) -> Option<Dim> {
        self.extents.get(&var).cloned()
    }

    fn tile_extent(&self, base: Var) -> Option<Dim> {
        self.bases.get(&base).cloned()
    }

    fn divide(&mut self, index: &Index, divisor: &Dim) -> (Index, Index) {
        let value = self.index(index.clone());
        let by = self.index(Index::constant(divisor.clone()));
        let quotient = self.scalar(ScalarOp::Div, &[value, by]);
        let remainder = self.scalar(ScalarOp::Rem, &[value, by]);
        self.extents.insert(remainder, divisor.clone());
        (Index::var(quotient), Index::var(remainder))
    }
}
