//! Copies whose elements lie in another order than they are read, in blocks that a near cache keeps.
//!
//! In: a kernel. Out: the same kernel; if it walks rows of what it writes and columns of what it reads, one row at a time, it walks a
//! block of rows at once, rows inside columns. Reading a column brings a line for every element, of which the next rows read
//! the rest; before they come to it after a whole row, it is gone. Blocks are narrow, because columns of a power of two lie
//! on few places of a cache.

use birkhoff_ir::kernel::{Block, For, ForKind, Func, Index, Inst, Mem, Stmt, Var, VarInfo};

/// Rows of a block: a line of a cache has as many f32.
const ROWS: u32 = 16;
/// Columns of a block at most.
const MAX_COLS: u32 = 16;

/// Rewrites `func` if it turns what it reads.
pub fn walk_in_blocks(func: &mut Func) {
    let Some(axis) = (0..func.grid.len()).find(|axis| is_turned_along(func, *axis)) else { return };
    let (base, count) = (func.grid[axis].base, func.grid[axis].count);
    let row = Var(func.vars.len() as u32);
    let Some(columns) = columns_mut(&mut func.body) else { return };
    func.vars.push(VarInfo { name: Some("row".into()), ..func.vars[base.0 as usize].clone() });
    func.grid[axis].tile = ROWS;
    if let ForKind::Lanes { width } = &mut columns.kind {
        *width = (*width).min(MAX_COLS);
    }
    let mut body = std::mem::take(&mut columns.body);
    for index in body.iter_mut().flat_map(indices_mut) {
        *index = index.add(&Index::var(row).scale(&index.coeff(base)));
    }
    let rows = For { var: row, start: 0.into(), end: count.into(), kind: ForKind::Seq, body };
    columns.body = vec![Stmt::For(Box::new(rows))];
}

/// True if the kernel is one loop over the columns of a row, the rows being a grid axis of tiles of one place, and something is read
/// whose neighbours lie along the rows and not along the columns.
fn is_turned_along(func: &Func, axis: usize) -> bool {
    let (axis, base) = (&func.grid[axis], func.grid[axis].base);
    let Some(columns) = columns(&func.body) else { return false };
    let is_next = |index: &[Index], var: Var| index.last().is_some_and(|last| last.coeff(var).is_const(1));
    let moves = |index: &[Index], var: Var| index.iter().any(|index| !index.coeff(var).is_const(0));
    let bounds = [&columns.start, &columns.end];
    if bounds.iter().any(|bound| [base, axis.count].iter().any(|var| !bound.coeff(*var).is_const(0))) {
        return false;
    }
    let mut is_turned = false;
    for stmt in &columns.body {
        match stmt {
            Stmt::Let(_, Inst::Load(Mem::Param(_), index)) => {
                is_turned |=
                    is_next(index, base) && moves(index, columns.var) && !is_next(index, columns.var);
            }
            Stmt::Let(_, Inst::Load(..)) => return false,
            // The first place of a tile is no longer that of a row.
            Stmt::Let(_, inst) if !inst.operands().contains(&base) => {}
            Stmt::Store { mem: Mem::Param(_), index, .. } if is_next(index, columns.var) => {}
            _ => return false,
        }
    }
    is_turned && axis.tile == 1 && axis.extent.as_const().is_none_or(|extent| extent >= i64::from(ROWS))
}

/// The only loop of a kernel, over lanes.
fn columns(body: &Block) -> Option<&For> {
    let mut stages = body.iter().filter(|stmt| !is_constant(stmt));
    let (Some(Stmt::Stage(_, stage)), None) = (stages.next(), stages.next()) else { return None };
    match stage.as_slice() {
        [Stmt::For(columns)] if matches!(columns.kind, ForKind::Lanes { .. }) => Some(columns),
        _ => None,
    }
}

fn columns_mut(body: &mut Block) -> Option<&mut For> {
    body.iter_mut().find_map(|stmt| match stmt {
        Stmt::Stage(_, stage) => match stage.first_mut() {
            Some(Stmt::For(columns)) => Some(&mut **columns),
            _ => None,
        },
        _ => None,
    })
}

fn is_constant(stmt: &Stmt) -> bool {
    matches!(stmt, Stmt::Let(_, Inst::Const(_)))
}

fn indices_mut(stmt: &mut Stmt) -> Vec<&mut Index> {
    match stmt {
        Stmt::Let(_, Inst::Load(_, index)) | Stmt::Store { index, .. } => index.iter_mut().collect(),
        Stmt::Let(_, Inst::Index(index)) => vec![index],
        _ => vec![],
    }
}
