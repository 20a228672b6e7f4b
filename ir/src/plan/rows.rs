//! Steps that can run for some rows at a time, one after the other, before they go on to further rows.
//!
//! In: steps of a plan and the number of rows that arrays which pass between them have. Out: how each step is cut, if what a
//! step reads of a row that another writes is of that row alone. Running all steps for a block of rows, then for the next, in any
//! order of blocks or at the same time, is then the same as running step after step; what passes between them is still in
//! a cache. Asked twice: by whoever makes the plan, at likely sizes, and by whoever runs it, at those of the call.
//! The number of rows of a block depends on sizes alone, because a library's sums may depend on it.

use super::{Arg, BufferId, BufferKind, Contract, Program, Step};
use crate::diag::Diagnostic;
use crate::dim::{Dim, SizeEnv, div_ceil};
use crate::kernel::abi::axis_tiles;
use crate::kernel::spans::{self, Place};
use crate::kernel::{Access, Func};

/// What passes between the steps of a block should stay in the second cache of a core, beside what else they read.
const BLOCK_BYTES: u64 = 1 << 20;
/// The number of blocks is a multiple of this, if rows allow, so that the threads of a small machine end together.
const MIN_BLOCKS: i64 = 4;
/// More are no use, not even to a large machine.
const MAX_BLOCKS: i64 = 64;
/// Rows of a block of a product that are enough for a library.
const PRODUCT_ROWS: i64 = 128;
/// With fewer rows a library spends its time on arranging the other factor of a product.
const MIN_PRODUCT_ROWS: i64 = 48;

/// How the steps of a group are cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rows {
    /// Blocks begin at multiples of this many rows.
    pub align: i64,
    /// One per step.
    pub cuts: Vec<Cut>,
    /// Bytes of a row of all arrays that a step of the group writes and another touches.
    pub row_bytes: u64,
}

/// How one step is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// A kernel: so many tiles for so many rows.
    Tiles {
        /// Rows of that many tiles.
        rows: i64,
        /// Tiles, which follow each other.
        tiles: i64,
    },
    /// A contraction: the axis of its results that are rows.
    Product(Side),
}

/// An axis of the results of a contraction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The stack of matrices.
    Batch,
    /// Rows.
    Rows,
    /// Columns.
    Cols,
}

/// One step as its cuts need it: what it touches at given sizes.
pub struct Touched {
    uses: Vec<Use>,
    kind: Kind,
}

/// One operand.
struct Use {
    buffer: BufferId,
    /// Elements to skip; still a polynomial of the counters of loops around.
    offset: Dim,
    elem_bytes: u64,
    /// Elements from the first to the last that may be touched.
    len: i64,
    writes: bool,
    /// Of a kernel's parameter, its extents and the places of its accesses.
    places: Option<(Vec<i64>, Vec<Place>)>,
}

enum Kind {
    /// Number of tiles along each grid axis.
    Kernel(Vec<i64>),
    /// Extents (batch, rows, columns, terms) and strides of `a`, `b`, `c`.
    Product { extents: [i64; 4], strides: [[i64; 3]; 3] },
}

/// Where a row of an operand lies: rows are `len` elements apart and an access of it touches `lo ..= hi` of those.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Frame {
    len: i64,
    lo: i64,
    hi: i64,
}

impl Rows {
    /// Rows of a block, of `n_rows` in all: a multiple of [`Rows::align`]. `None` if blocks would be too few, too large for a
    /// cache, or too small for a library.
    pub fn block(&self, n_rows: i64) -> Option<i64> {
        let is_sliced = |cut: &Cut| matches!(cut, Cut::Product(Side::Rows | Side::Cols));
        let (least, enough) =
            if self.cuts.iter().any(is_sliced) { (MIN_PRODUCT_ROWS, PRODUCT_ROWS) } else { (1, 1) };
        let fitting = i64::try_from(BLOCK_BYTES / self.row_bytes.max(1)).ok()?;
        let wanted = fitting.min(enough.max(n_rows / MAX_BLOCKS)).max(1);
        let n_blocks = div_ceil(div_ceil(n_rows, wanted), MIN_BLOCKS).checked_mul(MIN_BLOCKS)?;
        let rows = div_ceil(n_rows, n_blocks.max(1));
        let block = div_ceil(rows, self.align).checked_mul(self.align)?;
        // A few rows more than fit may stand in a block for the sake of its multiple, but not many.
        let most = fitting.min(n_rows / MIN_BLOCKS);
        (block >= least && block <= most.saturating_add(most / 4)).then_some(block)
    }
}

impl Touched {
    /// What `step` touches at `sizes`; `None` for steps that have steps inside, and where sizes give no answer.
    pub fn new(program: &Program, step: &Step, sizes: &SizeEnv) -> Option<Touched> {
        match step {
            Step::Launch { kernel, args } => {
                Touched::of_kernel(program.kernels.get(*kernel as usize)?, args, sizes)
            }
            Step::Contract(contract) => product_uses(program, contract, sizes).ok(),
            Step::Loop { .. } | Step::Unless { .. } | Step::Rows { .. } => None,
        }
    }

    /// What a launch of `func` touches; `None` as for [`Touched::new`].
    pub fn of_kernel(func: &Func, args: &[Arg], sizes: &SizeEnv) -> Option<Touched> {
        kernel_uses(func, args, sizes).ok()
    }

    /// The ways to cut the step such that every operand in `wanted` is cut into `n_rows` rows, finest first, with the frames of
    /// those operands.
    fn cuts(&self, n_rows: i64, wanted: &[usize]) -> Vec<(Cut, Vec<Frame>)> {
        match &self.kind {
            Kind::Kernel(tiles) => {
                let depths = (0..=tiles.len()).rev();
                depths.filter_map(|depth| self.tile_cut(n_rows, tiles, depth, wanted)).collect()
            }
            Kind::Product { extents, strides } => {
                let sides = [(Side::Rows, 1), (Side::Batch, 0), (Side::Cols, 2)];
                let fitting = sides.into_iter().filter(|(_, axis)| extents[*axis] == n_rows);
                let cut = |(side, _): (Side, usize)| {
                    let frame = |operand: &usize| product_frame(extents, strides, side, *operand);
                    let frames: Option<Vec<Frame>> = wanted.iter().map(frame).collect();
                    Some((Cut::Product(side), frames?))
                };
                fitting.filter_map(cut).collect()
            }
        }
    }

    /// A cut of a kernel between tiles that differ along the first `depth` grid axes.
    fn tile_cut(
        &self,
        n_rows: i64,
        tiles: &[i64],
        depth: usize,
        wanted: &[usize],
    ) -> Option<(Cut, Vec<Frame>)> {
        if n_rows <= 0 || tiles.iter().any(|n| *n <= 0) {
            return None;
        }
        let mut rows_per_tile = None;
        let mut frames = vec![];
        for place in wanted {
            let one = &self.uses[*place];
            if one.len % n_rows != 0 {
                return None;
            }
            let row = one.len / n_rows;
            let (shape, places) = one.places.as_ref()?;
            for place in places {
                let per_tile = elems_per_tile(place, shape, tiles, depth)?;
                if row == 0
                    || per_tile % row != 0
                    || *rows_per_tile.get_or_insert(per_tile / row) != per_tile / row
                {
                    return None;
                }
            }
            frames.push(Frame { len: row, lo: 0, hi: row - 1 });
        }
        let tiles = tiles[depth..].iter().try_fold(1i64, |product, n| product.checked_mul(*n))?;
        Some((Cut::Tiles { rows: rows_per_tile.filter(|rows| *rows > 0)?, tiles }, frames))
    }
}

/// Elements from one tile along the first `depth` axes to the next, if every access of a tile stays within its own.
fn elems_per_tile(place: &Place, shape: &[i64], tiles: &[i64], depth: usize) -> Option<i64> {
    let (mut lo, mut hi, mut steps) = (0i64, 0i64, vec![0i64; depth]);
    for (span, extent) in place.iter().zip(shape) {
        // Tiles along the inner axes belong together.
        let (mut least, mut most) = (span.lo, span.hi);
        for (step, n) in span.steps[depth..].iter().zip(&tiles[depth..]) {
            let reach = step.checked_mul(n - 1)?;
            least = least.and_then(|least| least.checked_add(reach.min(0)));
            most = most.and_then(|most| most.checked_add(reach.max(0)));
        }
        // The last of them may be cut off by the end of the axis.
        if span.steps[..depth].iter().all(|step| *step == 0) {
            least = Some(least.map_or(0, |least| least.max(0)));
            most = Some(most.map_or(extent - 1, |most| most.min(extent - 1)));
        }
        lo = lo.checked_mul(*extent)?.checked_add(least?)?;
        hi = hi.checked_mul(*extent)?.checked_add(most?)?;
        for (sum, step) in steps.iter_mut().zip(&span.steps) {
            *sum = sum.checked_mul(*extent)?.checked_add(*step)?;
        }
    }
    // Along the outer ones, numbered row by row, each is as far from the one before.
    let (mut per_tile, mut inner) = (None, 1i64);
    for (step, n) in steps.iter().zip(&tiles[..depth]).rev() {
        if *n == 1 {
            continue;
        }
        let expected = *per_tile.get_or_insert(*step);
        if expected.checked_mul(inner)? != *step {
            return None;
        }
        inner = inner.checked_mul(*n)?;
    }
    let per_tile = per_tile?;
    (lo >= 0 && hi < per_tile).then_some(per_tile)
}

/// The rows of operand `a`, `b` or `c` along an axis of the results; `None` if it has none, or rows that interlock.
fn product_frame(extents: &[i64; 4], strides: &[[i64; 3]; 3], side: Side, operand: usize) -> Option<Frame> {
    let [batch, m, n, k] = *extents;
    let shape = [[batch, m, k], [batch, k, n], [batch, m, n]][operand];
    let axis = match (side, operand) {
        (Side::Batch, _) => 0,
        (Side::Rows, 0 | 2) => 1,
        (Side::Cols, 1 | 2) => 2,
        _ => return None,
    };
    let mut hi = 0i64;
    for (place, (extent, stride)) in shape.iter().zip(&strides[operand]).enumerate() {
        if place != axis {
            hi = hi.checked_add((extent - 1).max(0).checked_mul(*stride)?)?;
        }
    }
    let len = strides[operand][axis];
    (hi < len).then_some(Frame { len, lo: 0, hi })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Conflict {
    /// None writes, or they lie apart.
    None,
    /// The second begins so many elements behind the first.
    At(i64),
    /// They may meet anywhere.
    Unknown,
}

fn conflict(one: &Use, two: &Use) -> Conflict {
    if one.buffer != two.buffer || !(one.writes || two.writes) {
        return Conflict::None;
    }
    match two.offset.sub(&one.offset).as_const() {
        Some(distance) if distance >= one.len || distance <= two.len.saturating_neg() => Conflict::None,
        Some(distance) => Conflict::At(distance),
        None => Conflict::Unknown,
    }
}

/// How to cut `steps`, in the order in which they run, into blocks of `n_rows` rows in all; `None` if they cannot be, or nothing
/// passes between them. Of several ways to cut a step only the finest is tried.
pub fn cut(steps: &[&Touched], n_rows: i64) -> Option<Rows> {
    let mut wanted: Vec<Vec<usize>> = vec![vec![]; steps.len()];
    let mut pairs = vec![];
    for (later, two) in steps.iter().enumerate() {
        for (earlier, one) in steps[..later].iter().enumerate() {
            for (i, first) in one.uses.iter().enumerate() {
                for (j, second) in two.uses.iter().enumerate() {
                    match conflict(first, second) {
                        Conflict::None => {}
                        Conflict::Unknown => return None,
                        Conflict::At(distance) => pairs.push(((earlier, i), (later, j), distance)),
                    }
                }
            }
        }
    }
    if pairs.is_empty() {
        return None;
    }
    for (place, operand) in pairs.iter().flat_map(|(one, two, _)| [*one, *two]) {
        if !wanted[place].contains(&operand) {
            wanted[place].push(operand);
        }
    }
    let (mut cuts, mut frames) = (vec![], vec![]);
    let mut align = 1;
    for (step, wanted) in steps.iter().zip(&wanted) {
        if wanted.is_empty() {
            return None;
        }
        let (cut, own) = step.cuts(n_rows, wanted).into_iter().next()?;
        if let Cut::Tiles { rows, .. } = cut {
            align = lcm(align, rows)?;
        }
        cuts.push(cut);
        frames.push(own);
    }
    let frame = |(step, operand): (usize, usize)| {
        let place = wanted[step].iter().position(|other| *other == operand)?;
        frames[step].get(place).copied()
    };
    for (one, two, distance) in &pairs {
        let (first, second) = (frame(*one)?, frame(*two)?);
        let lo = first.lo.min(second.lo.checked_add(*distance)?);
        let hi = first.hi.max(second.hi.checked_add(*distance)?);
        if first.len != second.len || hi.checked_sub(lo)? >= first.len {
            return None;
        }
    }
    let mut passed: Vec<(BufferId, &Dim, u64)> = vec![];
    for (one, ..) in &pairs {
        let used = &steps[one.0].uses[one.1];
        let bytes = (frame(*one)?.len as u64).checked_mul(used.elem_bytes)?;
        if !passed.iter().any(|(buffer, offset, _)| *buffer == used.buffer && **offset == used.offset) {
            passed.push((used.buffer, &used.offset, bytes));
        }
    }
    let row_bytes = passed.iter().try_fold(0u64, |sum, (.., bytes)| sum.checked_add(*bytes))?;
    Some(Rows { align, cuts, row_bytes })
}

fn lcm(a: i64, b: i64) -> Option<i64> {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1)).checked_mul(b)
}

/// A group in blocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blocks {
    /// Rows in all.
    pub n_rows: i64,
    /// Rows of a block; the last may have fewer.
    pub block: i64,
    /// How the steps are cut.
    pub rows: Rows,
}

/// The blocks in which the steps of a group can run at `sizes`; `None` if they run one after the other.
pub fn blocks(program: &Program, rows: &Dim, body: &[Step], sizes: &SizeEnv) -> Option<Blocks> {
    let n_rows = rows.eval(sizes).ok()?;
    // Steps of a block run beside those of others: temporaries that share memory would meet.
    let mut users: Vec<(u32, BufferId)> = vec![];
    for id in body.iter().flat_map(Step::buffers) {
        let Some(BufferKind::Temp(slot)) = program.buffer(id).map(|buffer| buffer.kind) else { continue };
        if users.iter().any(|(known, user)| *known == slot && *user != id) {
            return None;
        }
        users.push((slot, id));
    }
    let touched: Option<Vec<Touched>> = body.iter().map(|step| Touched::new(program, step, sizes)).collect();
    let rows = cut(&touched?.iter().collect::<Vec<_>>(), n_rows)?;
    Some(Blocks { n_rows, block: rows.block(n_rows)?, rows })
}

fn kernel_uses(func: &Func, args: &[Arg], sizes: &SizeEnv) -> Result<Touched, Diagnostic> {
    let missing = |error: crate::dim::DimError| {
        Diagnostic::input(Default::default(), format!("kernel @{}: {error}", func.name))
    };
    let places = spans::of_params(func, sizes)?;
    let mut uses = vec![];
    for ((arg, param), places) in args.iter().zip(&func.params).zip(places) {
        let shape: Vec<i64> =
            param.shape.iter().map(|dim| dim.eval(sizes)).collect::<Result<_, _>>().map_err(missing)?;
        uses.push(Use {
            buffer: arg.buffer,
            offset: arg.offset.subst(sizes),
            elem_bytes: param.dtype.size_bytes(),
            len: shape.iter().fold(1, |len: i64, extent| len.saturating_mul(*extent)),
            writes: param.access != Access::Read,
            places: places.map(|places| (shape, places)),
        });
    }
    let mut tiles = vec![];
    for axis in &func.grid {
        tiles.push(axis_tiles(axis, sizes).map_err(missing)?);
    }
    Ok(Touched { uses, kind: Kind::Kernel(tiles) })
}

fn product_uses(program: &Program, contract: &Contract, sizes: &SizeEnv) -> Result<Touched, Diagnostic> {
    let numbers = contract.sizes(sizes)?;
    let mut uses = vec![];
    for (operand, span) in contract.operands().into_iter().zip(numbers.spans) {
        let arg = &operand.matrix.arg;
        uses.push(Use {
            buffer: arg.buffer,
            offset: arg.offset.subst(sizes),
            elem_bytes: program.buffer(arg.buffer).map_or(0, |buffer| buffer.dtype.size_bytes()),
            len: span,
            writes: operand.access != Access::Read,
            places: None,
        });
    }
    let extents = [numbers.batch, numbers.m, numbers.n, numbers.k];
    Ok(Touched { uses, kind: Kind::Product { extents, strides: numbers.strides } })
}
