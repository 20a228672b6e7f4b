//! One case per file of `tests/kernels`.

use super::formulas::{self, PreParams};
use super::{Random, assert_close, load, load_plan, run_kernel, run_plan};

/// Runs the case of `name`.
pub fn run(name: &str, source: &str) {
    match name {
        "mhc_pre.kir" => mhc_pre(name, source),
        "mhc_post_pre.kir" => mhc_post_pre(name, source),
        "sinkhorn_reverse.kir" => sinkhorn_reverse(name, source),
        "online_softmax.kir" => online_softmax(name, source),
        "phi_gradient.plan" => phi_gradient(name, source),
        "log_sinkhorn.plan" => log_sinkhorn(name, source),
        "stack.plan" => stack(name, source),
        "guarded.plan" => guarded(name, source),
        "products.plan" => products(name, source),
        _ => panic!("{name} has no case in tests/support/cases.rs"),
    }
}

fn pre_params(random: &mut Random, width: usize) -> PreParams {
    PreParams {
        phi: random.values(4 * width * 24, 1.0 / (width as f64).sqrt()),
        alpha: random.values(3, 2.0),
        bias: random.values(24, 1.0),
    }
}

fn mhc_pre(name: &str, source: &str) {
    let func = load(name, source);
    for (n_tokens, width) in [(16, 2560), (37, 100), (1, 1), (21, 5)] {
        let mut random = Random::new(7);
        let x = random.values(n_tokens * 4 * width, 2.0);
        let params = pre_params(&mut random, width);
        let inputs: [(&str, &[f64]); 4] =
            [("x", &x), ("phi", &params.phi), ("alpha", &params.alpha), ("bias", &params.bias)];
        let out = run_kernel(&func, &[("T", n_tokens as i64), ("C", width as i64)], &inputs);
        let expected = formulas::mhc_pre(&x, &params, n_tokens, width);
        assert_close("h", &out["h"], &expected.h, 2e-5);
        assert_close("post", &out["post"], &expected.post, 2e-5);
        assert_close("res", &out["res"], &expected.res, 2e-5);
    }
}

fn mhc_post_pre(name: &str, source: &str) {
    let func = load(name, source);
    for (n_tokens, width) in [(5, 64), (9, 13), (1, 1)] {
        let mut random = Random::new(11);
        let x = random.values(n_tokens * 4 * width, 2.0);
        let f = random.values(n_tokens * width, 1.0);
        let post = random.values(n_tokens * 4, 1.0);
        let res = random.values(n_tokens * 16, 1.0);
        let params = pre_params(&mut random, width);
        let inputs: [(&str, &[f64]); 7] = [
            ("x", &x),
            ("f", &f),
            ("post", &post),
            ("res", &res),
            ("phi", &params.phi),
            ("alpha", &params.alpha),
            ("bias", &params.bias),
        ];
        let out = run_kernel(&func, &[("T", n_tokens as i64), ("C", width as i64)], &inputs);
        let x_next = formulas::mhc_post(&x, &f, &post, &res, n_tokens, width);
        let expected = formulas::mhc_pre(&x_next, &params, n_tokens, width);
        assert_close("x_next", &out["x_next"], &x_next, 1e-6);
        assert_close("h", &out["h"], &expected.h, 2e-5);
        assert_close("post_next", &out["post_next"], &expected.post, 2e-5);
        assert_close("res_next", &out["res_next"], &expected.res, 2e-5);
    }
}

fn sinkhorn_reverse(name: &str, source: &str) {
    let func = load(name, source);
    for n_tokens in [1, 8, 37] {
        let mut random = Random::new(3);
        let (m, g) = (random.values(n_tokens * 16, 2.0), random.values(n_tokens * 16, 1.0));
        let out = run_kernel(&func, &[("T", n_tokens as i64)], &[("m", &m), ("g", &g)]);
        let expected: Vec<f64> =
            m.chunks(16).zip(g.chunks(16)).flat_map(|(m, g)| formulas::sinkhorn_gradient(m, g)).collect();
        assert_close("dm", &out["dm"], &expected, 1e-5);
    }
}

fn online_softmax(name: &str, source: &str) {
    let func = load(name, source);
    for (n_queries, n_keys) in [(1, 1), (16, 50), (37, 19)] {
        let mut random = Random::new(5);
        let q = random.values(n_queries * 8, 3.0);
        let (k, v) = (random.values(n_keys * 8, 3.0), random.values(n_keys * 4, 1.0));
        let sizes = [("N", n_queries as i64), ("M", n_keys as i64)];
        let out = run_kernel(&func, &sizes, &[("q", &q), ("k", &k), ("v", &v)]);
        assert_close("out", &out["out"], &formulas::distance_attention(&q, &k, &v), 1e-5);
    }
}

fn phi_gradient(name: &str, source: &str) {
    let program = load_plan(name, source);
    for (n_tokens, n_rows) in [(1, 1), (16, 64), (37, 100), (200, 9)] {
        let mut random = Random::new(13);
        let (x, g) = (random.values(n_tokens * n_rows, 1.0), random.values(n_tokens * 24, 1.0));
        let sizes = [("T", n_tokens as i64), ("K", n_rows as i64)];
        let out = run_plan(&program, &sizes, &[&x, &g]);
        assert_close("dphi", &out["dphi"], &formulas::phi_gradient(&x, &g, n_rows), 1e-5);
    }
}

fn log_sinkhorn(name: &str, source: &str) {
    let program = load_plan(name, source);
    for (n_rows, n_cols) in [(1, 1), (20, 20), (33, 70)] {
        let z = Random::new(17).values(n_rows * n_cols, 2.0);
        let out = run_plan(&program, &[("N", n_rows as i64), ("M", n_cols as i64)], &[&z]);
        assert_close("p", &out["p"], &formulas::log_sinkhorn(&z, n_rows, n_cols), 1e-5);
    }
}

fn stack(name: &str, source: &str) {
    let program = load_plan(name, source);
    for n_tokens in [0, 1, 13] {
        let mut random = Random::new(19);
        let (x, w) = (random.values(n_tokens, 1.0), random.values(4, 1.0));
        let out = run_plan(&program, &[("T", n_tokens as i64)], &[&x, &w]);
        let mut expected = x.clone();
        for layer in 0..4 {
            let last = &expected[layer * n_tokens..];
            let next: Vec<f64> = last.iter().map(|x| w[layer] * x + x * x).collect();
            expected.extend(next);
        }
        assert_close("xs", &out["xs"], &expected, 1e-6);
    }
}

fn guarded(name: &str, source: &str) {
    let program = load_plan(name, source);
    for n_tokens in [1, 13] {
        let x = Random::new(29).values(n_tokens, 1.0);
        let out = run_plan(&program, &[("T", n_tokens as i64)], &[&x]);
        assert_close("y", &out["y"], &x.iter().map(|x| x / 8.0).collect::<Vec<f64>>(), 0.0);
    }
}

/// `x w` of row-major matrices with `k` columns in `x` and `n` in the result; `w` may be given transposed.
fn product(x: &[f64], w: &[f64], k: usize, n: usize, is_transposed: bool) -> Vec<f64> {
    let weight = |row: usize, col: usize| if is_transposed { w[col * k + row] } else { w[row * n + col] };
    let rows = x.chunks(k);
    rows.flat_map(|row| (0..n).map(move |col| (0..k).map(|term| row[term] * weight(term, col)).sum()))
        .collect()
}

fn products(name: &str, source: &str) {
    let program = load_plan(name, source);
    for n_tokens in [0, 1, 13] {
        let mut random = Random::new(23);
        let (x, ws, us) = (random.values(n_tokens * 3, 1.0), random.values(36, 1.0), random.values(30, 1.0));
        let out = run_plan(&program, &[("T", n_tokens as i64)], &[&x, &ws, &us]);
        let mut state = product(&x, &ws[..9], 3, 3, false);
        for layer in 1..4 {
            state = product(&state, &ws[9 * layer..], 3, 3, true);
        }
        let last = product(&state, &ws[..9], 3, 3, false);
        let turned: Vec<f64> =
            (0..3).flat_map(|col| last.iter().skip(col).step_by(3)).take(3 * n_tokens).copied().collect();
        assert_close("y", &out["y"], &turned, 1e-12);
        let expected = [product(&x, &us[..15], 3, 5, false), product(&x, &us[15..], 3, 5, false)].concat();
        assert_close("z", &out["z"], &expected, 1e-12);
    }
}
