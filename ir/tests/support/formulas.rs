//! The formulas of mHC, attention over distances and their gradients, in f64 and as plainly as they can be said.

/// What mHC `pre` computes, n = 4.
pub struct Pre {
    pub h: Vec<f64>,
    pub post: Vec<f64>,
    pub res: Vec<f64>,
}

/// The parameters of mHC `pre`.
pub struct PreParams {
    pub phi: Vec<f64>,
    pub alpha: Vec<f64>,
    pub bias: Vec<f64>,
}

fn logistic(value: f64) -> f64 {
    1.0 / (1.0 + (-value).exp())
}

/// Paper form: eps 1e-6, 20 iterations, columns first.
pub fn mhc_pre(x: &[f64], params: &PreParams, n_tokens: usize, width: usize) -> Pre {
    let mut out = Pre { h: vec![0.0; n_tokens * width], post: vec![], res: vec![] };
    for t in 0..n_tokens {
        let xs = &x[t * 4 * width..(t + 1) * 4 * width];
        let r = (xs.iter().map(|v| v * v).sum::<f64>() / xs.len() as f64 + 1e-6).sqrt();
        let raw: Vec<f64> = (0..24)
            .map(|o| xs.iter().enumerate().map(|(k, v)| v * params.phi[k * 24 + o]).sum::<f64>() / r)
            .collect();
        for i in 0..4 {
            let pre = logistic(params.alpha[0] * raw[i] + params.bias[i]);
            for c in 0..width {
                out.h[t * width + c] += pre * xs[i * width + c];
            }
            out.post.push(2.0 * logistic(params.alpha[1] * raw[4 + i] + params.bias[4 + i]));
        }
        let logits: Vec<f64> = (0..16).map(|k| params.alpha[2] * raw[8 + k] + params.bias[8 + k]).collect();
        out.res.extend(sinkhorn(&logits));
    }
    out
}

/// 20 iterations on one 4x4 matrix of logits, columns then rows.
pub fn sinkhorn(logits: &[f64]) -> Vec<f64> {
    let mut m: Vec<f64> = logits.to_vec();
    for j in 0..4 {
        let top = (0..4).fold(f64::NEG_INFINITY, |top, i| top.max(m[i * 4 + j]));
        (0..4).for_each(|i| m[i * 4 + j] = (m[i * 4 + j] - top).exp());
    }
    for _ in 0..20 {
        for j in 0..4 {
            let sum: f64 = (0..4).map(|i| m[i * 4 + j]).sum();
            (0..4).for_each(|i| m[i * 4 + j] /= sum);
        }
        for i in 0..4 {
            let sum: f64 = (0..4).map(|j| m[i * 4 + j]).sum();
            (0..4).for_each(|j| m[i * 4 + j] /= sum);
        }
    }
    m
}

/// `x'_o = sum_i H_oi x_i + post_o f`.
pub fn mhc_post(x: &[f64], f: &[f64], post: &[f64], res: &[f64], n_tokens: usize, width: usize) -> Vec<f64> {
    let mut out = vec![0.0; x.len()];
    for t in 0..n_tokens {
        for o in 0..4 {
            for c in 0..width {
                let mixed: f64 =
                    (0..4).map(|i| res[t * 16 + o * 4 + i] * x[t * 4 * width + i * width + c]).sum();
                out[t * 4 * width + o * width + c] = mixed + post[t * 4 + o] * f[t * width + c];
            }
        }
    }
    out
}

/// The gradient of `sum g * sinkhorn(m)` by central differences.
pub fn sinkhorn_gradient(m: &[f64], g: &[f64]) -> Vec<f64> {
    let step = 1e-5;
    let dot = |m: &[f64]| sinkhorn(m).iter().zip(g).map(|(y, g)| y * g).sum::<f64>();
    let mut gradient = vec![];
    for idx in 0..m.len() {
        let (mut above, mut below) = (m.to_vec(), m.to_vec());
        above[idx] += step;
        below[idx] -= step;
        gradient.push((dot(&above) - dot(&below)) / (2.0 * step));
    }
    gradient
}

/// `softmax_j(-|q_i - k_j|) v_j`; q and k of width 8, v of width 4.
pub fn distance_attention(q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let mut out = vec![];
    for q in q.chunks(8) {
        let weights: Vec<f64> = k
            .chunks(8)
            .map(|k| (-q.iter().zip(k).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()).exp())
            .collect();
        let total: f64 = weights.iter().sum();
        for e in 0..4 {
            out.push(weights.iter().zip(v.chunks(4)).map(|(w, v)| w * v[e]).sum::<f64>() / total);
        }
    }
    out
}

/// `sum_t x[t,k] g[t,o]` with 24 columns in g.
pub fn phi_gradient(x: &[f64], g: &[f64], n_rows: usize) -> Vec<f64> {
    let mut out = vec![0.0; n_rows * 24];
    for (x, g) in x.chunks(n_rows).zip(g.chunks(24)) {
        for (k, x) in x.iter().enumerate() {
            for (o, g) in g.iter().enumerate() {
                out[k * 24 + o] += x * g;
            }
        }
    }
    out
}

/// `exp(z + u + v)` after 15 rounds of `u = -lse_j(z + v)`, `v = -lse_i(z + u)`.
pub fn log_sinkhorn(z: &[f64], n_rows: usize, n_cols: usize) -> Vec<f64> {
    let mut p: Vec<f64> = z.iter().map(|z| z.exp()).collect();
    for _ in 0..15 {
        for row in p.chunks_mut(n_cols) {
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|p| *p /= sum);
        }
        for j in 0..n_cols {
            let sum: f64 = (0..n_rows).map(|i| p[i * n_cols + j]).sum();
            (0..n_rows).for_each(|i| p[i * n_cols + j] /= sum);
        }
    }
    p
}
