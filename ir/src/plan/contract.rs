//! A matrix product of plan buffers, for a library: what it means, and its numbers at given sizes.
//!
//! In: two buffers that hold stacks of matrices, at any strides. Out: `c[p, i, j] = sum over r of a[p, i, r] b[p, r, j]`.
//! The evaluator adds in order of `r`, in the element type, with every product rounded; a library adds in an order of its
//! own, so results are compared within a tolerance. Element types are f32 and f64.

use super::{Arg, BufferId};
use crate::diag::Diagnostic;
use crate::dim::{Dim, SizeEnv};
use crate::dtype::DType;
use crate::kernel::Access;

/// `c = a b` for every matrix of a stack.
#[derive(Clone, PartialEq, Debug)]
pub struct Contract {
    /// Number of products.
    pub batch: Dim,
    /// Rows of `a` and `c`.
    pub m: Dim,
    /// Columns of `b` and `c`.
    pub n: Dim,
    /// Columns of `a` and rows of `b`.
    pub k: Dim,
    /// The left factors, `m` by `k`.
    pub a: Matrix,
    /// The right factors, `k` by `n`.
    pub b: Matrix,
    /// The products, `m` by `n`, each element in a place of its own and without gaps.
    pub c: Matrix,
}

/// A stack of matrices in a buffer: element `(p, i, j)` is `offset + p * batch + i * row + j * col`.
#[derive(Clone, PartialEq, Debug)]
pub struct Matrix {
    /// The buffer and the first element.
    pub arg: Arg,
    /// Elements from one matrix to the next.
    pub batch: Dim,
    /// Elements from one row to the next.
    pub row: Dim,
    /// Elements from one column to the next.
    pub col: Dim,
}

/// One operand of a contraction with the extents of its axes.
#[derive(Clone, Copy)]
pub struct Operand<'c> {
    /// Its name: `a`, `b` or `c`.
    pub name: &'static str,
    /// The matrices.
    pub matrix: &'c Matrix,
    /// Extents: of the stack, rows, columns.
    pub extents: [&'c Dim; 3],
    /// Whether it is read or written.
    pub access: Access,
}

/// A contraction in numbers, offsets aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContractSizes {
    /// Number of products.
    pub batch: i64,
    /// Rows of the result.
    pub m: i64,
    /// Columns of the result.
    pub n: i64,
    /// Terms of each sum.
    pub k: i64,
    /// Strides of `a`, `b`, `c`: of the stack, rows, columns.
    pub strides: [[i64; 3]; 3],
    /// Elements of `a`, `b`, `c` from the first to the last that is touched.
    pub spans: [i64; 3],
}

/// Element types that a contraction may have.
pub fn has_library(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64)
}

impl Contract {
    /// The operands in the order `a`, `b`, `c`.
    pub fn operands(&self) -> [Operand<'_>; 3] {
        let Contract { batch, m, n, k, a, b, c } = self;
        [
            Operand { name: "a", matrix: a, extents: [batch, m, k], access: Access::Read },
            Operand { name: "b", matrix: b, extents: [batch, k, n], access: Access::Read },
            Operand { name: "c", matrix: c, extents: [batch, m, n], access: Access::Write },
        ]
    }

    /// The buffers in use.
    pub fn buffers(&self) -> [BufferId; 3] {
        self.operands().map(|operand| operand.matrix.arg.buffer)
    }

    /// The numbers of the contraction at `sizes`.
    ///
    /// Errors: a size without a value, negative extents or strides, numbers beyond 64 bits, a result with gaps or with
    /// places for two elements, a sum that walks neither factor.
    pub fn sizes(&self, sizes: &SizeEnv) -> Result<ContractSizes, Diagnostic> {
        let eval = |dim: &Dim| {
            let value = dim.eval(sizes).map_err(|error| input(format!("a contraction: {error}")))?;
            if value < 0 {
                return Err(input(format!("a contraction has the extent or stride {dim} = {value}")));
            }
            Ok(value)
        };
        let (batch, m, n, k) = (eval(&self.batch)?, eval(&self.m)?, eval(&self.n)?, eval(&self.k)?);
        let mut strides = [[0; 3]; 3];
        let mut spans = [0; 3];
        for (idx, operand) in self.operands().into_iter().enumerate() {
            let Matrix { batch, row, col, .. } = operand.matrix;
            strides[idx] = [eval(batch)?, eval(row)?, eval(col)?];
            let mut extents = [0; 3];
            for (extent, dim) in extents.iter_mut().zip(operand.extents) {
                *extent = eval(dim)?;
            }
            let name = operand.name;
            spans[idx] = span(&extents, &strides[idx]).ok_or_else(|| {
                input(format!("`{name}` of a contraction has more elements than fit 64 bits"))
            })?;
            if operand.access == Access::Write && !is_dense(&extents, &strides[idx]) {
                return Err(input(format!("`{name}` of a contraction has gaps or overlaps itself")));
            }
        }
        if k > 1 && strides[0][2] == 0 && strides[1][1] == 0 {
            return Err(input(format!("a contraction sums one element {k} times")));
        }
        Ok(ContractSizes { batch, m, n, k, strides, spans })
    }
}

impl ContractSizes {
    /// Multiplications of all products together.
    pub fn products(&self) -> f64 {
        [self.batch, self.m, self.n, self.k].map(|extent| extent as f64).iter().product()
    }

    /// Distinct elements of `a`, `b` and `c`, taking axes with a stride for apart.
    pub fn n_elems(&self) -> [u64; 3] {
        let ContractSizes { batch, m, n, k, .. } = *self;
        let extents = [[batch, m, k], [batch, k, n], [batch, m, n]];
        let mut counts = [0; 3];
        for (idx, count) in counts.iter_mut().enumerate() {
            let is_empty = extents[idx].contains(&0);
            let walked = extents[idx].iter().zip(&self.strides[idx]).filter(|(_, stride)| **stride != 0);
            let product = walked.fold(1u64, |product, (extent, _)| product.saturating_mul(*extent as u64));
            *count = if is_empty { 0 } else { product.min(self.spans[idx] as u64) };
        }
        counts
    }
}

/// Elements from the first to the last, both included.
fn span(extents: &[i64; 3], strides: &[i64; 3]) -> Option<i64> {
    if extents.contains(&0) {
        return Some(0);
    }
    let mut last = 0i64;
    for (extent, stride) in extents.iter().zip(strides) {
        last = last.checked_add((extent - 1).checked_mul(*stride)?)?;
    }
    last.checked_add(1)
}

/// True if the strides are those of a dense array with its axes in some order.
fn is_dense(extents: &[i64; 3], strides: &[i64; 3]) -> bool {
    let mut axes: Vec<(i64, i64)> =
        strides.iter().copied().zip(extents.iter().copied()).filter(|(_, extent)| *extent != 1).collect();
    axes.sort_unstable();
    let mut expected = Some(1i64);
    extents.contains(&0)
        || axes.into_iter().all(|(stride, extent)| {
            let fits = expected == Some(stride);
            expected = stride.checked_mul(extent);
            fits
        })
}

fn input(message: String) -> Diagnostic {
    Diagnostic::input(Default::default(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(buffer: u32, strides: [i64; 3]) -> Matrix {
        let [batch, row, col] = strides.map(Dim::constant);
        Matrix { arg: Arg { buffer: BufferId(buffer), offset: Dim::default() }, batch, row, col }
    }

    fn contract(strides: [[i64; 3]; 3]) -> Contract {
        let [batch, m, n, k] = [2, 3, 4, 5].map(Dim::constant);
        let [a, b, c] = strides;
        Contract { batch, m, n, k, a: matrix(0, a), b: matrix(1, b), c: matrix(2, c) }
    }

    #[test]
    fn spans_and_elements() {
        let sizes = contract([[15, 5, 1], [0, 1, 5], [4, 8, 1]]).sizes(&SizeEnv::new()).expect("numbers");
        assert_eq!(sizes.spans, [30, 20, 24]);
        assert_eq!(sizes.n_elems(), [30, 20, 24]);
        assert_eq!(sizes.products(), 120.0);
    }

    #[test]
    fn what_has_no_meaning_is_an_error() {
        for strides in [
            [[15, 5, 1], [20, 4, 1], [12, 4, 2]],
            [[15, 5, 1], [20, 4, 1], [0, 4, 1]],
            [[15, 5, 1], [20, 4, 1], [12, 5, 1]],
            [[15, -5, 1], [20, 4, 1], [12, 4, 1]],
            [[15, 5, 0], [20, 0, 1], [12, 4, 1]],
            [[i64::MAX, 5, 1], [i64::MAX, i64::MAX, 1], [12, 4, 1]],
        ] {
            assert!(contract(strides).sizes(&SizeEnv::new()).is_err(), "{strides:?}");
        }
    }
}
