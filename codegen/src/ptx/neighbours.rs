//! Elements next to each other in memory, of which one instruction moves several.
//!
//! In: the statements of a block. Out: which of its loads and stores go together, each group at an address that is a multiple of
//! its size. The kernel says what a thread takes (see `lower/widen` of the compiler); here it gets the instruction for it. Loads
//! go to the first of a group, from parameters that the kernel never writes; stores to the last, to those that it never reads.

use super::build::Ssa;
use super::emit::{Emitter, Val};
use super::lanes::resolve;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{Access, Index, Inst, Mem, Stmt, Var};
use std::collections::{BTreeMap, BTreeSet};

/// The widest access, in bytes.
const MAX_BYTES: u64 = 16;

/// What becomes of a statement that is part of a group.
pub(super) enum Part<'a> {
    /// The loads of the group happen here.
    Load(Group<'a>),
    /// Its stores happen here.
    Store(Group<'a>),
    /// It has happened before, or is going to.
    Silent,
}

/// Neighbouring elements of one parameter.
pub(super) struct Group<'a> {
    mem: Mem,
    /// Where the first is.
    linear: Index,
    /// Of each element in order: what is loaded from there (by several statements perhaps), or the one value that is stored.
    elems: Vec<Vec<Var>>,
    /// The index of each store.
    indices: Vec<&'a [Index]>,
}

/// One load or store of a block.
struct Place<'a> {
    statement: usize,
    var: Var,
    index: &'a [Index],
}

/// Places with the same varying part of their address, by the constant part.
type Row<'a> = BTreeMap<i64, Vec<Place<'a>>>;

/// The varying part of an address.
type RowKey = (Mem, Vec<(Var, Dim)>, Dim);

impl<'a, 'c, 'm> Emitter<'a, 'c, 'm> {
    /// The groups of a block: what becomes of each statement that is in one.
    pub(super) fn neighbours(&self, block: &'a [Stmt]) -> BTreeMap<usize, Part<'a>> {
        let mut parts = BTreeMap::new();
        let mut start = 0;
        for (idx, stmt) in block.iter().enumerate() {
            if matches!(stmt, Stmt::For(_) | Stmt::Stage(..)) {
                self.loads(block, start..idx, &mut parts);
                self.stores(block, start..idx, &mut parts);
                start = idx + 1;
            }
        }
        self.loads(block, start..block.len(), &mut parts);
        self.stores(block, start..block.len(), &mut parts);
        parts
    }

    fn loads(&self, block: &'a [Stmt], run: std::ops::Range<usize>, parts: &mut BTreeMap<usize, Part<'a>>) {
        let mut rows: BTreeMap<RowKey, Row<'a>> = BTreeMap::new();
        for statement in run {
            if let Stmt::Let(var, Inst::Load(mem, index)) = &block[statement]
                && let Some((key, position)) = self.row(*mem, index, Access::Read)
            {
                let place = Place { statement, var: *var, index };
                rows.entry(key).or_default().entry(position).or_default().push(place);
            }
        }
        for (key, row) in rows {
            self.cut(key, row, parts, false);
        }
    }

    fn stores(&self, block: &'a [Stmt], run: std::ops::Range<usize>, parts: &mut BTreeMap<usize, Part<'a>>) {
        // A parameter's stores so far that are known not to meet.
        let mut open: BTreeMap<Mem, (RowKey, Row<'a>)> = BTreeMap::new();
        for statement in run {
            match &block[statement] {
                Stmt::Store { mem, index, value } => {
                    let found = self.row(*mem, index, Access::Write);
                    let same = |(key, position): &(RowKey, i64)| {
                        open.get(mem).is_some_and(|(known, row)| known == key && !row.contains_key(position))
                    };
                    if !found.as_ref().is_some_and(same)
                        && let Some((key, row)) = open.remove(mem)
                    {
                        self.cut(key, row, parts, true);
                    }
                    if let Some((key, position)) = found {
                        let place = Place { statement, var: *value, index };
                        let (_, row) = open.entry(*mem).or_insert((key, Row::new()));
                        row.insert(position, vec![place]);
                    }
                }
                Stmt::Accum { mem, .. } => {
                    if let Some((key, row)) = open.remove(mem) {
                        self.cut(key, row, parts, true);
                    }
                }
                _ => {}
            }
        }
        for (key, row) in open.into_values() {
            self.cut(key, row, parts, true);
        }
    }

    /// The row and the position in it of an element of a parameter that the kernel accesses like this and not otherwise.
    fn row(&self, mem: Mem, index: &[Index], access: Access) -> Option<(RowKey, i64)> {
        let Mem::Param(id) = mem else { return None };
        let dtype = self.func.mem_dtype(mem);
        if self.func.params.get(id.0 as usize)?.access != access || dtype == DType::Bool {
            return None;
        }
        let linear = resolve(&self.linear(mem, index), |var| self.known(var));
        let (sizes, position) = super::emit::split_constant(&linear.offset);
        Some(((mem, linear.terms, sizes), position))
    }

    /// Cuts a row into groups, the widest first.
    fn cut(&self, key: RowKey, mut row: Row<'a>, parts: &mut BTreeMap<usize, Part<'a>>, is_store: bool) {
        let (mem, terms, sizes) = key;
        let most = (MAX_BYTES / self.func.mem_dtype(mem).size_bytes()).max(1) as i64;
        let size = self.func.mem_dtype(mem).size_bytes();
        let mut width = most;
        while width > 1 {
            let starts: Vec<i64> = row.keys().copied().collect();
            for start in starts {
                if !(start..start + width).all(|position| row.contains_key(&position)) {
                    continue;
                }
                let linear = Index { terms: terms.clone(), offset: sizes.add(&Dim::constant(start)) };
                if self.align_bytes(mem, &linear) < width as u64 * size {
                    continue;
                }
                let places: Vec<Vec<Place<'a>>> =
                    (start..start + width).filter_map(|position| row.remove(&position)).collect();
                self.add_group(mem, linear, places, parts, is_store);
            }
            width /= 2;
        }
    }

    fn add_group(
        &self,
        mem: Mem,
        linear: Index,
        places: Vec<Vec<Place<'a>>>,
        parts: &mut BTreeMap<usize, Part<'a>>,
        is_store: bool,
    ) {
        let all = || places.iter().flatten();
        let statements: BTreeSet<usize> = all().map(|place| place.statement).collect();
        let at = if is_store { statements.last() } else { statements.first() };
        let group = Group {
            mem,
            linear,
            elems: places.iter().map(|places| places.iter().map(|place| place.var).collect()).collect(),
            indices: if is_store { all().map(|place| place.index).collect() } else { vec![] },
        };
        parts.extend(statements.iter().map(|statement| (*statement, Part::Silent)));
        if let Some(at) = at {
            parts.insert(*at, if is_store { Part::Store(group) } else { Part::Load(group) });
        }
    }

    /// Emits a statement that is part of a group.
    pub(super) fn part(&mut self, stmt: &'a Stmt, part: &Part<'a>) -> Result<(), Diagnostic> {
        match part {
            Part::Load(group) => self.load_group(group)?,
            Part::Store(group) => self.store_group(group)?,
            Part::Silent => {}
        }
        if let Stmt::Let(var, inst) = stmt {
            self.scope.define(*var, inst);
        }
        Ok(())
    }

    fn load_group(&mut self, group: &Group<'a>) -> Result<(), Diagnostic> {
        let dtype = self.func.mem_dtype(group.mem);
        let (pointer, align) = self.address(group.mem, &group.linear)?;
        let ty = self.b.vector_type(dtype, group.elems.len());
        let loaded = self.b.load_constant(ty, pointer, align);
        for (number, vars) in group.elems.iter().enumerate() {
            let elem = self.b.extract(loaded, self.b.storage_type(dtype), number as i64);
            let value = self.widened(dtype, elem);
            for var in vars {
                self.bind(*var, Val::Ssa(value));
            }
        }
        Ok(())
    }

    fn store_group(&mut self, group: &Group<'a>) -> Result<(), Diagnostic> {
        let dtype = self.func.mem_dtype(group.mem);
        let mut values: Vec<Ssa<'c, 'm>> = vec![];
        for var in group.elems.iter().flatten() {
            values.push(self.var(*var)?);
        }
        for index in &group.indices {
            self.meet_at(group.mem, index, &[(true, false)]);
        }
        let guard = group.indices.first().and_then(|index| self.writers(index));
        self.guarded(guard, |this| {
            let (pointer, align) = this.address(group.mem, &group.linear)?;
            let ty = this.b.vector_type(dtype, values.len());
            let mut all = this.b.undefined(ty);
            for (number, value) in values.into_iter().enumerate() {
                let elem = this.narrowed(dtype, value);
                all = this.b.insert(all, elem, number as i64);
            }
            this.b.store(all, pointer, align);
            Ok(())
        })
    }
}
