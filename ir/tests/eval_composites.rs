//! Composites against their formulas written as plain loops.

mod common;

use birkhoff_ir::tensor::eval::Tensor;
use common::{assert_close, compute, f64s};

/// Numbers without pattern in `lo .. hi`.
fn numbers(count: usize, seed: u64, lo: f64, hi: f64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        lo + (hi - lo) * (state >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..count).map(|_| next()).collect()
}

/// `body` on one tensor `x`.
fn on(shape: &[usize], x: &[f64], result: &str, body: &str) -> Vec<f64> {
    let extents: Vec<String> = shape.iter().map(usize::to_string).collect();
    let signature = format!("x: f64[{}]", extents.join(","));
    compute(&signature, result, body, &[f64s(shape, x)]).to_f64s()
}

#[test]
fn activations() {
    let x = [-40.0, -3.0, -0.5, -1e-3, 0.0, 1e-3, 0.7, 4.0, 800.0];
    let check = |body: &str, formula: &dyn Fn(f64) -> f64| {
        assert_close(&on(&[9], &x, "f64[9]", body), &x.map(formula), 1e-14);
    };
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    check("o = sigmoid(x)", &sigmoid);
    check("o = silu(x)", &|x| x * sigmoid(x));
    check("o = relu(x)", &|x| x.max(0.0));
    check("o = softplus(x)", &|x| if x > 500.0 { x } else { x.exp().ln_1p() });
    let root = (2.0 / std::f64::consts::PI).sqrt();
    check("o = gelu_tanh(x)", &|x| 0.5 * x * (1.0 + (root * (x + 0.044715 * x.powi(3))).tanh()));
    check("o = sinc(x)", &|x| if x == 0.0 { 1.0 } else { x.sin() / x });
    // x/2 (1 + erf(x/sqrt 2)): the normal distribution function at 1 and -2 (Abramowitz and Stegun, table 26.1).
    let gelu = on(&[3], &[1.0, -2.0, 0.0], "f64[3]", "o = gelu(x)");
    assert_close(&gelu, &[0.841_344_746_068_543, -2.0 * 0.022_750_131_948_179, 0.0], 1e-14);
}

#[test]
fn reductions_and_norms() {
    let x = numbers(10, 1, -2.0, 2.0);
    let rows: Vec<&[f64]> = x.chunks(5).collect();
    let mean = |row: &[f64]| row.iter().sum::<f64>() / row.len() as f64;
    let per_row = |formula: &dyn Fn(&[f64]) -> f64| rows.iter().map(|row| formula(row)).collect::<Vec<_>>();
    let per_element = |formula: &dyn Fn(&[f64], f64) -> f64| -> Vec<f64> {
        rows.iter().flat_map(|row| row.iter().map(|value| formula(row, *value))).collect()
    };
    let run = |result: &str, body: &str| on(&[2, 5], &x, result, body);
    assert_close(&run("f64[2]", "o = mean(x, [1])"), &per_row(&mean), 1e-15);
    let lse = |row: &[f64]| row.iter().map(|value| value.exp()).sum::<f64>().ln();
    assert_close(&run("f64[2]", "o = log_sum_exp(x, axis=1)"), &per_row(&lse), 1e-14);
    let norm = |row: &[f64]| row.iter().map(|value| value * value).sum::<f64>().sqrt();
    assert_close(&run("f64[2]", "o = norm(x)"), &per_row(&norm), 1e-15);
    let softmax = |row: &[f64], value: f64| (value - lse(row)).exp();
    assert_close(&run("f64[2,5]", "o = softmax(x, axis=1)"), &per_element(&softmax), 1e-14);
    let rms = |row: &[f64], value: f64| value / (norm(row).powi(2) / 5.0 + 0.25).sqrt();
    assert_close(&run("f64[2,5]", "o = rms_norm(x, eps=0.25)"), &per_element(&rms), 1e-15);
    let layer = |row: &[f64], value: f64| {
        let var = row.iter().map(|other| (other - mean(row)).powi(2)).sum::<f64>() / 5.0;
        (value - mean(row)) / (var + 1e-5).sqrt()
    };
    assert_close(&run("f64[2,5]", "o = layer_norm(x)"), &per_element(&layer), 1e-14);
}

#[test]
fn exponentials_do_not_overflow() {
    let low = f64::NEG_INFINITY;
    let x = [1000.0, 1000.0, low, low];
    let lse = on(&[2, 2], &x, "f64[2]", "o = log_sum_exp(x, axis=1)");
    assert_close(&lse, &[1000.0 + 2f64.ln(), low], 1e-15);
    assert_eq!(on(&[1, 2], &[1000.0, low], "f64[1,2]", "o = softmax(x, axis=1)"), [1.0, 0.0]);
    assert_eq!(on(&[1, 3], &[0.0; 3], "f64[1]", "o = norm(x)"), [0.0]);
    assert!(on(&[1, 2], &[f64::NAN, 1.0], "f64[1]", "o = norm(x)")[0].is_nan());
}

/// `n` by `n`, row-major.
#[derive(Clone)]
struct Square(usize, Vec<f64>);

impl Square {
    /// Divides each row (or column) by its sum plus `eps`.
    fn normalise(&mut self, rows: bool, eps: f64) {
        let n = self.0;
        for line in 0..n {
            let at = |idx: usize| if rows { line * n + idx } else { idx * n + line };
            let sum: f64 = (0..n).map(|idx| self.1[at(idx)]).sum::<f64>() + eps;
            (0..n).for_each(|idx| self.1[at(idx)] /= sum);
        }
    }
}

/// Sinkhorn from the exponential (no shift: these logits are small), `first` being rows or columns.
fn sinkhorn_exp(m: &[f64], n: usize, iters: usize, rows_first: bool, eps: f64, tau: f64) -> Vec<f64> {
    let mut a = Square(n, m.iter().map(|value| (value / tau).exp()).collect());
    for _ in 0..iters {
        a.normalise(rows_first, eps);
        a.normalise(!rows_first, eps);
    }
    a.1
}

#[test]
fn sinkhorn_in_the_exponential_form() {
    let m = numbers(32, 2, -2.0, 2.0);
    for (first, rows_first) in [("rows", true), ("columns", false)] {
        for (iters, tau) in [(0, 1.0), (1, 1.0), (5, 0.5), (20, 2.0)] {
            let expected: Vec<f64> =
                m.chunks(16).flat_map(|m| sinkhorn_exp(m, 4, iters, rows_first, 1e-3, tau)).collect();
            let body =
                format!("o = sinkhorn(x, first={first}, iters={iters}, eps=1e-3, tau={tau}, shift=none)");
            assert_close(&on(&[2, 4, 4], &m, "f64[2,4,4]", &body), &expected, 1e-13);
        }
        // Without eps a shift that the first normalisation cancels changes nothing, once there is one.
        let expected: Vec<f64> =
            m.chunks(16).flat_map(|m| sinkhorn_exp(m, 4, 3, rows_first, 0.0, 1.0)).collect();
        for shift in [first, "matrix", "none"] {
            let body = format!("o = sinkhorn(x, first={first}, iters=3, shift={shift}, stop_shift=true)");
            assert_close(&on(&[2, 4, 4], &m, "f64[2,4,4]", &body), &expected, 1e-13);
        }
    }
    let far: Vec<f64> = m.iter().map(|value| value + 2000.0).collect();
    let body = "o = sinkhorn(x, iters=3)";
    let near = on(&[2, 4, 4], &m, "f64[2,4,4]", body);
    assert_close(&on(&[2, 4, 4], &far, "f64[2,4,4]", body), &near, 1e-12);
}

#[test]
fn sinkhorn_in_the_softmax_form() {
    let m = numbers(9, 3, -2.0, 2.0);
    for (first, soft_rows) in [("columns", true), ("rows", false)] {
        let mut a = Square(3, m.iter().map(|value| value.exp()).collect());
        a.normalise(soft_rows, 0.0);
        a.1.iter_mut().for_each(|value| *value += 1e-6);
        a.normalise(!soft_rows, 1e-6);
        for _ in 1..10 {
            a.normalise(soft_rows, 1e-6);
            a.normalise(!soft_rows, 1e-6);
        }
        let body = format!("o = sinkhorn(x, form=softmax, first={first}, iters=10, eps=1e-6)");
        assert_close(&on(&[3, 3], &m, "f64[3,3]", &body), &a.1, 1e-13);
    }
    // One stream: the matrix is 1 up to eps.
    let one = on(&[1, 1], &[5.0], "f64[1,1]", "o = sinkhorn(x, form=softmax, iters=10, eps=1e-6)");
    assert_close(&one, &[1.0 - 1e-6], 1e-9);
}

#[test]
fn sinkhorn_in_the_log_form() {
    let m = numbers(16, 4, -2.0, 2.0);
    // In exact arithmetic the log form is the exponential form that normalises rows first.
    for (first, rows_first) in [("rows", true), ("columns", false)] {
        let expected = sinkhorn_exp(&m, 4, 7, rows_first, 0.0, 0.5);
        let body = format!("o = sinkhorn(x, form=log, first={first}, iters=7, tau=0.5)");
        assert_close(&on(&[4, 4], &m, "f64[4,4]", &body), &expected, 1e-13);
    }
    let far: Vec<f64> = m.iter().map(|value| value + 200.0).collect();
    let result = on(&[4, 4], &far, "f64[4,4]", "o = sinkhorn(x, form=log, first=rows, iters=50)");
    for line in 0..4 {
        let row: f64 = (0..4).map(|idx| result[line * 4 + idx]).sum();
        let column: f64 = (0..4).map(|idx| result[idx * 4 + line]).sum();
        assert_close(&[row, column], &[1.0, 1.0], 1e-9);
    }
    assert_eq!(on(&[1, 1], &[-3.0], "f64[1,1]", "o = sinkhorn(x, form=log, first=rows, iters=2)"), [1.0]);
}

#[test]
fn streams_are_mixed_in_both_orientations() {
    let (tokens, n, width) = (2, 3, 4);
    let inputs = [
        f64s(&[2, 3, 3], &numbers(18, 5, 0.0, 1.0)),
        f64s(&[2, 3, 4], &numbers(24, 6, -1.0, 1.0)),
        f64s(&[2, 3], &numbers(6, 7, 0.0, 2.0)),
        f64s(&[2, 4], &numbers(8, 8, -1.0, 1.0)),
    ];
    let [res, x, post, y] = inputs.each_ref().map(Tensor::to_f64s);
    for (orientation, target_rows) in [("target_rows", true), ("source_rows", false)] {
        let (mut mixed, mut fed) = (vec![], vec![]);
        for (t, o, c) in (0..tokens * n * width).map(|idx| (idx / 12, idx / 4 % 3, idx % 4)) {
            let weight = |i: usize| if target_rows { res[t * 9 + o * 3 + i] } else { res[t * 9 + i * 3 + o] };
            let sum: f64 = (0..n).map(|i| weight(i) * x[t * 12 + i * 4 + c]).sum();
            mixed.push(sum);
            fed.push(sum + post[t * 3 + o] * y[t * 4 + c]);
        }
        let signature = "r: f64[2,3,3], x: f64[2,3,4], p: f64[2,3], y: f64[2,4]";
        let run = |args: &str| {
            let body = format!("o = stream_mix({args}, orientation={orientation})");
            compute(signature, "f64[2,3,4]", &body, &inputs).to_f64s()
        };
        assert_close(&run("r, x"), &mixed, 1e-15);
        assert_close(&run("r, x, p, y"), &fed, 1e-15);
        // A matrix for all tokens is the first token's.
        let shared = run("reshape(r[0: 0..1], [3,3]), x");
        assert_close(&shared[..12], &mixed[..12], 1e-15);
    }
    let signature = "p: f64[2,3], x: f64[2,3,4]";
    let pre = compute(signature, "f64[2,4]", "o = stream_pre(p, x)", &[inputs[2].clone(), inputs[1].clone()]);
    let expected: Vec<f64> = (0..8)
        .map(|idx| (0..3).map(|i| post[idx / 4 * 3 + i] * x[idx / 4 * 12 + i * 4 + idx % 4]).sum())
        .collect();
    assert_close(&pre.to_f64s(), &expected, 1e-15);
    let run = |body: &str| compute("x: f64[2,3,4]", "f64[2,4]", body, &inputs[1..2]).to_f64s();
    let sums: Vec<f64> = (0..8).map(|idx| (0..3).map(|i| x[idx / 4 * 12 + i * 4 + idx % 4]).sum()).collect();
    assert_close(&run("o = stream_reduce(x)"), &sums, 1e-15);
    let means: Vec<f64> = sums.iter().map(|sum| sum / 3.0).collect();
    assert_close(&run("o = stream_reduce(x, by=mean)"), &means, 1e-15);
    assert_close(&run("o = stream_reduce(stream_expand(stream_reduce(x), n=3), by=mean)"), &sums, 1e-15);
}

#[test]
fn mixtures_of_permutations() {
    let logits = numbers(6, 9, -1.0, 1.0);
    let permutations: Vec<f64> = [[0, 1, 2], [1, 2, 0], [2, 1, 0]]
        .iter()
        .flat_map(|p| (0..9).map(|i| f64::from(p[i / 3] == i % 3)))
        .collect();
    let inputs = [f64s(&[2, 3], &logits), f64s(&[3, 3, 3], &permutations)];
    let found =
        compute("a: f64[2,3], p: f64[3,3,3]", "f64[2,3,3]", "o = birkhoff_mixture(a, p)", &inputs).to_f64s();
    let mut expected = vec![0.0; 18];
    for (t, k, i) in (0..2 * 3 * 9).map(|idx| (idx / 27, idx / 9 % 3, idx % 9)) {
        let total: f64 = (0..3).map(|other| logits[t * 3 + other].exp()).sum();
        expected[t * 9 + i] += logits[t * 3 + k].exp() / total * permutations[k * 9 + i];
    }
    assert_close(&found, &expected, 1e-14);
}

#[test]
fn newton_schulz_finds_the_orthogonal_factor() {
    // A rotation times a positive matrix: the rotation is the factor.
    let (c, s) = (0.6, 0.8);
    let w = [2.0 * c - s * 0.5, 0.5 * c - s, 2.0 * s + c * 0.5, 0.5 * s + c];
    let found = on(&[2, 2], &w, "f64[2,2]", "o = newton_schulz(x, iters=30)");
    assert_close(&found, &[c, -s, s, c], 1e-12);
    let one = on(&[2, 2], &[3.0, 0.0, 0.0, 4.0], "f64[2,2]", "o = newton_schulz(x, iters=1)");
    assert_close(&one, &[1.5 * 0.6 - 0.5 * 0.216, 0.0, 0.0, 1.5 * 0.8 - 0.5 * 0.512], 1e-15);
}

const CURVATURES: [f64; 7] = [-1.0, -0.3, -1e-5, 0.0, 1e-5, 0.3, 1.0];

fn tan_k(x: f64, k: f64) -> f64 {
    let root = k.abs().sqrt();
    if k < 0.0 {
        (root * x).tanh() / root
    } else if k > 0.0 {
        (root * x).tan() / root
    } else {
        x
    }
}

#[test]
fn curved_tangent_and_its_inverse() {
    for k in CURVATURES {
        let x = [-0.9, -0.2, -1e-3, 0.0, 0.05, 0.5, 0.95];
        let run = |op: &str, x: &[f64]| on(&[7], x, "f64[7]", &format!("o = {op}(x, x * 0 + {k:?})"));
        let tangent = run("tan_k", &x);
        assert_close(&tangent, &x.map(|x| tan_k(x, k)), 2e-12);
        assert_close(&run("atan_k", &tangent), &x, 2e-11);
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn mobius(x: &[f64], y: &[f64], k: f64) -> Vec<f64> {
    let (xx, xy, yy) = (dot(x, x), dot(x, y), dot(y, y));
    let denominator = 1.0 - 2.0 * k * xy + k * k * xx * yy;
    let mix = |(x, y): (&f64, &f64)| ((1.0 - 2.0 * k * xy - k * yy) * x + (1.0 + k * xx) * y) / denominator;
    x.iter().zip(y).map(mix).collect()
}

/// `body` on points `x`, `y` (or a tangent) and a curvature.
fn curved(x: &[f64], y: &[f64], k: f64, result: &str, body: &str) -> Vec<f64> {
    let inputs = [f64s(&[1, 3], x), f64s(&[1, 3], y), f64s(&[1], &[k])];
    compute("x: f64[1,3], y: f64[1,3], k: f64[1]", result, body, &inputs).to_f64s()
}

#[test]
fn maps_of_the_stereographic_model() {
    let (x, y) = ([0.3, -0.1, 0.2], [-0.2, 0.4, 0.1]);
    for k in CURVATURES {
        let run = |body: &str| curved(&x, &y, k, "f64[1,3]", body);
        assert_close(&run("o = mobius_add(x, y, k)"), &mobius(&x, &y, k), 1e-14);
        let lambda = 2.0 / (1.0 + k * dot(&x, &x));
        let factor = curved(&x, &y, k, "f64[1]", "o = conformal_factor(x, k)");
        assert_close(&factor, &[lambda], 1e-15);
        let norm = dot(&y, &y).sqrt();
        let step: Vec<f64> = y.iter().map(|v| tan_k(lambda * norm / 2.0, k) * v / norm).collect();
        assert_close(&run("o = exp_map(x, y, k)"), &mobius(&x, &step, k), 1e-12);
        assert_close(&run("o = log_map(x, exp_map(x, y, k), k)"), &y, 1e-11);
        assert_close(&run("o = exp_map(x, log_map(x, y, k), k)"), &y, 1e-11);
        // The distance is the length of the logarithm in the metric at x, and symmetric.
        let length = curved(&x, &y, k, "f64[1]", "o = conformal_factor(x, k) * norm(log_map(x, y, k))");
        assert_close(&curved(&x, &y, k, "f64[1]", "o = dist(x, y, k)"), &length, 1e-13);
        assert_close(&curved(&x, &y, k, "f64[1]", "o = dist(y, x, k)"), &length, 1e-13);
        // Nothing moves along no tangent, and nothing is far from itself.
        assert_close(&run("o = exp_map(x, y * 0, k)"), &x, 1e-15);
        assert_close(&run("o = log_map(x, x, k)"), &[0.0; 3], 1e-15);
        assert_eq!(curved(&x, &y, k, "f64[1]", "o = dist(x, x, k)"), [0.0]);
    }
    // The ball: 2 asinh(sqrt(d))/sqrt(c), d = c|x-y|^2/((1-c|x|^2)(1-c|y|^2)) (MATH: distances).
    let difference: Vec<f64> = x.iter().zip(y).map(|(x, y)| x - y).collect();
    let d = dot(&difference, &difference) / ((1.0 - dot(&x, &x)) * (1.0 - dot(&y, &y)));
    assert_close(&curved(&x, &y, -1.0, "f64[1]", "o = dist(x, y, k)"), &[2.0 * d.sqrt().asinh()], 1e-13);
}

#[test]
fn transport_keeps_lengths_and_comes_back() {
    let (x, y) = ([0.3, -0.1, 0.2], [-0.2, 0.4, 0.1]);
    for k in CURVATURES {
        let run = |result: &str, body: &str| curved(&x, &y, k, result, body);
        let there = "v = x * 2 - y\nw = transport(x, y, v, k)\n";
        let before = run("f64[1]", "o = conformal_factor(x, k) * norm(x * 2 - y)");
        let after = run("f64[1]", &format!("{there}o = conformal_factor(y, k) * norm(w)"));
        assert_close(&after, &before, 1e-13);
        let back = run("f64[1,3]", &format!("{there}o = transport(y, x, w, k)"));
        assert_close(&back, &[0.8, -0.6, 0.3], 1e-13);
        // The tangent of a geodesic stays its tangent.
        let geodesic = run("f64[1,3]", "o = transport(x, y, log_map(x, y, k), k) + log_map(y, x, k)");
        assert_close(&geodesic, &[0.0; 3], 1e-12);
    }
}

#[test]
fn costs_between_points() {
    let (x, y) = (numbers(6, 10, -1.0, 1.0), numbers(8, 11, -1.0, 1.0));
    let inputs = [f64s(&[3, 2], &x), f64s(&[4, 2], &y)];
    let run = |body: &str| compute("x: f64[3,2], y: f64[4,2]", "f64[3,4]", body, &inputs).to_f64s();
    let pairs: Vec<(&[f64], &[f64])> = x.chunks(2).flat_map(|x| y.chunks(2).map(move |y| (x, y))).collect();
    let squares: Vec<f64> =
        pairs.iter().map(|(x, y)| (x[0] - y[0]).powi(2) + (x[1] - y[1]).powi(2)).collect();
    assert_close(&run("o = pairwise_cost(x, y)"), &squares, 1e-14);
    let cosine = |(x, y): &(&[f64], &[f64])| 2.0 - 2.0 * dot(x, y) / (dot(x, x) * dot(y, y)).sqrt();
    let cosines: Vec<f64> = pairs.iter().map(cosine).collect();
    assert_close(&run("o = pairwise_cost(x, y, metric=cosine)"), &cosines, 1e-14);
    let same = compute("x: f64[3,2]", "f64[3,3]", "o = pairwise_cost(x, x)", &inputs[..1]).to_f64s();
    assert!(same.iter().all(|cost| *cost >= 0.0));
}

#[test]
fn transport_plans_have_their_marginals() {
    let cost = numbers(12, 12, 0.0, 2.0);
    let signature = "c: f64[3,4], a: f64[3], b: f64[4]";
    let (a, b) = ([0.2, 0.5, 0.3], [0.1, 0.2, 0.3, 0.4]);
    let inputs = [f64s(&[3, 4], &cost), f64s(&[3], &a.map(f64::ln)), f64s(&[4], &b.map(f64::ln))];
    let plan = |call: &str| {
        let potentials = format!("f, g = {call}\n");
        let sum = "broadcast(f, shape=[3,4], axes=[0]) + broadcast(g, shape=[3,4], axes=[1])";
        format!("{potentials}p = exp(({sum} - c) / 0.3)\n")
    };
    let weighted = plan("ot_potentials(c, a, b, iters=200, eps=0.3)");
    let marginal = |body: &str, result: &str, axis: usize| {
        compute(signature, result, &format!("{body}o = sum(p, [{axis}])"), &inputs).to_f64s()
    };
    assert_close(&marginal(&weighted, "f64[3]", 1), &a, 1e-10);
    assert_close(&marginal(&weighted, "f64[4]", 0), &b, 1e-14);
    let uniform = plan("ot_potentials(c, iters=200, eps=0.3)");
    assert_close(&marginal(&uniform, "f64[3]", 1), &[1.0 / 3.0; 3], 1e-10);
    assert_close(&marginal(&uniform, "f64[4]", 0), &[0.25; 4], 1e-14);
    // One iteration by hand: f = eps log a - eps lse_j(-c/eps), then g from f.
    let first =
        compute(signature, "f64[3]", "o, g = ot_potentials(c, a, b, iters=1, eps=0.3)", &inputs).to_f64s();
    let row = |i: usize| (0..4).map(|j| (-cost[i * 4 + j] / 0.3).exp()).sum::<f64>();
    let expected: Vec<f64> = (0..3).map(|i| 0.3 * (a[i].ln() - row(i).ln())).collect();
    assert_close(&first, &expected, 1e-14);
}

#[test]
fn barycentres_are_weighted_means() {
    let (p, y) = (numbers(6, 13, 0.1, 1.0), numbers(6, 14, -1.0, 1.0));
    let inputs = [f64s(&[2, 3], &p), f64s(&[3, 2], &y)];
    let found =
        compute("p: f64[2,3], y: f64[3,2]", "f64[2,2]", "o = barycentric_map(p, y)", &inputs).to_f64s();
    let expected: Vec<f64> = (0..4)
        .map(|idx| {
            let (i, d) = (idx / 2, idx % 2);
            let mass: f64 = (0..3).map(|j| p[i * 3 + j]).sum();
            (0..3).map(|j| p[i * 3 + j] * y[j * 2 + d]).sum::<f64>() / mass
        })
        .collect();
    assert_close(&found, &expected, 1e-14);
}
