//! Dense factorisations. Both compute in f64 and round their results to the dtype once.

use super::tensor::{Data, Tensor};

/// `x` with `a x = b` per matrix: LU factorisation with partial pivoting (the first of the largest pivots), then the two
/// triangular solves. A singular matrix gives infinities and NaN.
pub fn solve(a: &Tensor, b: &Tensor) -> Result<Tensor, String> {
    let rank = a.shape().len();
    let (m, k) = (a.shape()[rank - 1], b.shape()[rank - 1]);
    let (matrices, mut solutions) = (a.to_f64s(), b.to_f64s());
    if m > 0 && k > 0 {
        for (matrix, sides) in matrices.chunks(m * m).zip(solutions.chunks_mut(m * k)) {
            solve_one(&mut matrix.to_vec(), sides, m, k);
        }
    }
    Tensor::new(b.dtype(), b.shape().to_vec(), Data::Float(solutions))
}

fn solve_one(a: &mut [f64], x: &mut [f64], m: usize, k: usize) {
    for col in 0..m {
        let mut pivot = col;
        for row in col + 1..m {
            if a[row * m + col].abs() > a[pivot * m + col].abs() {
                pivot = row;
            }
        }
        swap_rows(a, m, col, pivot);
        swap_rows(x, k, col, pivot);
        for row in col + 1..m {
            let factor = a[row * m + col] / a[col * m + col];
            for idx in col..m {
                a[row * m + idx] -= factor * a[col * m + idx];
            }
            for idx in 0..k {
                x[row * k + idx] -= factor * x[col * k + idx];
            }
        }
    }
    for row in (0..m).rev() {
        for idx in 0..k {
            let known: f64 = (row + 1..m).map(|col| a[row * m + col] * x[col * k + idx]).sum();
            x[row * k + idx] = (x[row * k + idx] - known) / a[row * m + row];
        }
    }
}

fn swap_rows(matrix: &mut [f64], width: usize, a: usize, b: usize) {
    if a != b {
        for col in 0..width {
            matrix.swap(a * width + col, b * width + col);
        }
    }
}

/// `(q, r)` per matrix `[m,k]`, by Householder reflections; columns of `q` whose diagonal element in `r` would be negative
/// change their sign.
pub fn qr(a: &Tensor) -> Result<(Tensor, Tensor), String> {
    let rank = a.shape().len();
    let (m, k) = (a.shape()[rank - 2], a.shape()[rank - 1]);
    if m < k {
        return Err(format!("expected at least as many rows as columns, found {m} and {k}"));
    }
    let (mut q_all, mut r_all) = (Vec::new(), Vec::new());
    if k > 0 {
        for matrix in a.to_f64s().chunks(m * k) {
            let (q, r) = qr_one(matrix.to_vec(), m, k);
            q_all.extend(q);
            r_all.extend(r);
        }
    }
    let mut r_shape = a.shape().to_vec();
    r_shape[rank - 2] = k;
    let q = Tensor::new(a.dtype(), a.shape().to_vec(), Data::Float(q_all))?;
    Ok((q, Tensor::new(a.dtype(), r_shape, Data::Float(r_all))?))
}

fn qr_one(mut a: Vec<f64>, m: usize, k: usize) -> (Vec<f64>, Vec<f64>) {
    let mut vectors: Vec<Vec<f64>> = Vec::with_capacity(k);
    for col in 0..k {
        let mut v: Vec<f64> = (0..m).map(|row| if row < col { 0.0 } else { a[row * k + col] }).collect();
        let norm = v.iter().map(|value| value * value).sum::<f64>().sqrt();
        // Away from the column's own direction, so that nothing cancels.
        v[col] += if v[col] < 0.0 { -norm } else { norm };
        reflect(&mut a, &v, k);
        vectors.push(v);
    }
    let mut q = vec![0.0; m * k];
    (0..k).for_each(|col| q[col * k + col] = 1.0);
    vectors.iter().rev().for_each(|v| reflect(&mut q, v, k));
    let mut r = vec![0.0; k * k];
    for row in 0..k {
        let sign = if a[row * k + row] < 0.0 { -1.0 } else { 1.0 };
        (row..k).for_each(|col| r[row * k + col] = sign * a[row * k + col]);
        (0..m).for_each(|idx| q[idx * k + row] *= sign);
    }
    (q, r)
}

/// `a <- (I - 2 v v^T / |v|^2) a` for `a: [m,k]`; nothing where `v` is 0.
fn reflect(a: &mut [f64], v: &[f64], k: usize) {
    let square: f64 = v.iter().map(|value| value * value).sum();
    if square == 0.0 {
        return;
    }
    for col in 0..k {
        let dot: f64 = v.iter().enumerate().map(|(row, value)| value * a[row * k + col]).sum();
        for (row, value) in v.iter().enumerate() {
            a[row * k + col] -= 2.0 * dot / square * value;
        }
    }
}
