//! Matrix products through the `gemm` crate, over the threads of a pool.
//!
//! In: the numbers of a contraction and pointers to its matrices. Out: the products written. The results are cut into blocks
//! by their sizes alone; a block is one call of the library on one thread, and no sum is ever cut. So the bits do not depend
//! on the number of threads. They do depend on the vectors that the processor has.

use crate::pool::Pool;
use birkhoff_ir::dim::div_ceil;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::plan::contract::ContractSizes;
use birkhoff_ir::plan::rows::Side;
use gemm::Parallelism;

/// Products of a block beyond which it is cut, as long as threads of a small machine would wait for it.
const MIN_BLOCK: i64 = 1 << 20;
/// Blocks that keep the threads of a small machine busy.
const MIN_BLOCKS: i64 = 4;
/// Products of a block beyond which it is always cut.
const MAX_BLOCK: i64 = 1 << 24;
/// The sides of blocks are multiples of this, but for the last ones.
const BLOCK_STEP: i64 = 16;
/// Shorter sides are not cut: every block packs its factors again.
const MIN_SIDE: i64 = 64;

/// How the results of one product are cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Blocks {
    rows: i64,
    cols: i64,
    n_rows: i64,
    n_cols: i64,
}

impl Blocks {
    /// Blocks for the results of `sizes`.
    pub(crate) fn new(sizes: &ContractSizes) -> Blocks {
        let (mut rows, mut cols) = (sizes.m.max(1), sizes.n.max(1));
        loop {
            let (n_rows, n_cols) = (div_ceil(sizes.m, rows), div_ceil(sizes.n, cols));
            let products = rows.saturating_mul(cols).saturating_mul(sizes.k);
            let n_blocks = n_rows.saturating_mul(n_cols).saturating_mul(sizes.batch);
            let is_large = products > MAX_BLOCK || (products > MIN_BLOCK && n_blocks < MIN_BLOCKS);
            if !is_large || rows.max(cols) < 2 * MIN_SIDE {
                return Blocks { rows, cols, n_rows, n_cols };
            }
            let side = if rows >= cols { &mut rows } else { &mut cols };
            *side = div_ceil(div_ceil(*side, 2), BLOCK_STEP) * BLOCK_STEP;
        }
    }

    /// The places of a block.
    fn part(&self, block: i64, sizes: &ContractSizes) -> Part {
        let row = block / self.n_cols * self.rows;
        let col = block % self.n_cols * self.cols;
        Part { row, rows: self.rows.min(sizes.m - row), col, cols: self.cols.min(sizes.n - col) }
    }

    /// Number of blocks of one product.
    fn per_product(&self) -> i64 {
        self.n_rows.saturating_mul(self.n_cols)
    }
}

/// Pointers that several threads use for disjoint blocks.
#[derive(Clone, Copy)]
struct Factors([*mut u8; 3]);

// SAFETY: blocks write disjoint places of the result, and nobody writes the factors.
unsafe impl Sync for Factors {}

/// Computes every product of the stack.
///
/// # Safety
///
/// `starts` point to `a`, `b` and `c`: arrays of `dtype`, aligned, of as many elements as `sizes.spans` say. Nobody writes the
/// first two meanwhile or touches the third, which overlaps neither.
pub(crate) unsafe fn run(pool: &Pool, dtype: DType, sizes: &ContractSizes, starts: [*mut u8; 3]) {
    if sizes.batch == 0 || sizes.m == 0 || sizes.n == 0 {
        return;
    }
    let blocks = Blocks::new(sizes);
    let factors = Factors(starts);
    let body = |_: usize, first: i64, last: i64| {
        let factors = &factors;
        for idx in first..last {
            let (product, block) = (idx / blocks.per_product(), idx % blocks.per_product());
            // SAFETY: passed on; every block is within the result.
            unsafe { one(dtype, sizes, factors.0, product, blocks.part(block, sizes)) }
        }
    };
    pool.run(blocks.per_product().saturating_mul(sizes.batch), &body);
}

/// Computes what lies between `first` and `last` along one axis of the results, on this thread.
///
/// # Safety
///
/// As [`run`], where others may write the rest of the results; the range is within that axis.
pub(crate) unsafe fn run_part(
    dtype: DType,
    sizes: &ContractSizes,
    starts: [*mut u8; 3],
    side: Side,
    (first, last): (i64, i64),
) {
    let mut part = Part { row: 0, rows: sizes.m, col: 0, cols: sizes.n };
    let mut products = 0..sizes.batch;
    match side {
        Side::Batch => products = first..last,
        Side::Rows => (part.row, part.rows) = (first, last - first),
        Side::Cols => (part.col, part.cols) = (first, last - first),
    }
    for product in products {
        // SAFETY: passed on.
        unsafe { one(dtype, sizes, starts, product, part) };
    }
}

/// Places of the results of one product.
#[derive(Clone, Copy)]
struct Part {
    row: i64,
    rows: i64,
    col: i64,
    cols: i64,
}

/// Computes a part of one product.
///
/// # Safety
///
/// As [`of_type`].
unsafe fn one(dtype: DType, sizes: &ContractSizes, starts: [*mut u8; 3], product: i64, part: Part) {
    // SAFETY: passed on; the arrays are of that type.
    unsafe {
        match dtype {
            DType::F64 => of_type::<f64>(sizes, starts.map(<*mut u8>::cast), product, part),
            _ => of_type::<f32>(sizes, starts.map(<*mut u8>::cast), product, part),
        }
    }
}

/// Zero and one of an element type.
trait Unit {
    const ZERO: Self;
    const ONE: Self;
}

impl Unit for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
}

impl Unit for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
}

/// Computes a part of one product.
///
/// # Safety
///
/// As [`run`], for arrays of `T`; the part is within the results.
unsafe fn of_type<T: Unit + 'static>(
    sizes: &ContractSizes,
    starts: [*mut T; 3],
    product: i64,
    Part { row, rows, col, cols }: Part,
) {
    let [a, b, c] = sizes.strides;
    let at = |start: *mut T, strides: [i64; 3], row: i64, col: i64| {
        // Within the spans that the caller vouches for, so within `isize`.
        start.wrapping_offset((product * strides[0] + row * strides[1] + col * strides[2]) as isize)
    };
    // SAFETY: the places of the part in `c` and the rows and columns of `a` and `b` that it takes are within the arrays; `c`
    // is not read.
    unsafe {
        gemm::gemm(
            rows as usize,
            cols as usize,
            sizes.k as usize,
            at(starts[2], c, row, col),
            c[2] as isize,
            c[1] as isize,
            false,
            at(starts[0], a, row, 0).cast_const(),
            a[2] as isize,
            a[1] as isize,
            at(starts[1], b, 0, col).cast_const(),
            b[2] as isize,
            b[1] as isize,
            T::ZERO,
            T::ONE,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(batch: i64, m: i64, n: i64, k: i64, transposed: [bool; 3]) -> ContractSizes {
        let strides = |rows: i64, cols: i64, transposed: bool| {
            if transposed { [rows * cols, 1, rows] } else { [rows * cols, cols, 1] }
        };
        ContractSizes {
            batch,
            m,
            n,
            k,
            strides: [
                strides(m, k, transposed[0]),
                strides(k, n, transposed[1]),
                strides(m, n, transposed[2]),
            ],
            spans: [batch * m * k, batch * k * n, batch * m * n],
        }
    }

    fn values(count: i64, seed: i64) -> Vec<f64> {
        (0..count).map(|idx| ((idx * 37 + seed * 11) % 101) as f64 / 101.0 - 0.5).collect()
    }

    /// Products at strides, one element after the other.
    fn expected(sizes: &ContractSizes, a: &[f64], b: &[f64]) -> Vec<f64> {
        let place = |strides: [i64; 3], p: i64, i: i64, j: i64| {
            (p * strides[0] + i * strides[1] + j * strides[2]) as usize
        };
        let mut c = vec![0.0; sizes.spans[2] as usize];
        for p in 0..sizes.batch {
            for i in 0..sizes.m {
                for j in 0..sizes.n {
                    let term = |r| a[place(sizes.strides[0], p, i, r)] * b[place(sizes.strides[1], p, r, j)];
                    c[place(sizes.strides[2], p, i, j)] = (0..sizes.k).map(term).sum();
                }
            }
        }
        c
    }

    #[test]
    fn products_of_every_layout_are_right_and_the_same_on_any_number_of_threads() {
        let pools: Vec<Pool> = [1, 2, 3, 7].into_iter().map(|n| Pool::new(n).unwrap()).collect();
        for (batch, m, n, k) in
            [(1, 130, 200, 150), (3, 65, 33, 17), (2, 1, 5, 0), (1, 0, 5, 3), (2, 300, 64, 64)]
        {
            for layout in 0..8 {
                let sizes = dense(batch, m, n, k, [layout & 1 != 0, layout & 2 != 0, layout & 4 != 0]);
                let (a, b) = (values(sizes.spans[0], 1), values(sizes.spans[1], 2));
                let want = expected(&sizes, &a, &b);
                let narrow = |values: &[f64]| values.iter().map(|value| *value as f32).collect::<Vec<f32>>();
                let (mut a, mut b, mut a32, mut b32) = (a.clone(), b.clone(), narrow(&a), narrow(&b));
                let mut first: Option<(Vec<f64>, Vec<f32>)> = None;
                for pool in &pools {
                    let (mut c, mut c32) = (vec![f64::NAN; want.len()], vec![f32::NAN; want.len()]);
                    let starts = [a.as_mut_ptr(), b.as_mut_ptr(), c.as_mut_ptr()].map(<*mut f64>::cast);
                    // SAFETY: the vectors have as many elements as the spans say.
                    unsafe { run(pool, DType::F64, &sizes, starts) };
                    let starts = [a32.as_mut_ptr(), b32.as_mut_ptr(), c32.as_mut_ptr()].map(<*mut f32>::cast);
                    // SAFETY: as above.
                    unsafe { run(pool, DType::F32, &sizes, starts) };
                    for idx in 0..want.len() {
                        assert!((c[idx] - want[idx]).abs() < 1e-12);
                        assert!((f64::from(c32[idx]) - want[idx]).abs() < 1e-4);
                    }
                    let known = first.get_or_insert_with(|| (c.clone(), c32.clone()));
                    assert_eq!(*known, (c, c32));
                }
            }
        }
    }

    #[test]
    fn large_results_are_cut_and_small_ones_are_not() {
        let blocks = |m, n, k| {
            let blocks = Blocks::new(&dense(1, m, n, k, [false; 3]));
            (blocks.rows, blocks.cols, blocks.per_product())
        };
        assert_eq!(blocks(64, 64, 64), (64, 64, 1));
        assert_eq!(blocks(256, 512, 512), (128, 256, 4));
        assert_eq!(blocks(128, 32, 1024), (64, 32, 2));
        assert!(blocks(4096, 4096, 4096).2 >= 1024);
    }
}
