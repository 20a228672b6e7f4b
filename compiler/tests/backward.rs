//! Lowering of what reverse-mode differentiation produces: loops that stack their iterates and loops that read the stack
//! backwards, whole backward passes of layers, and sums over the batch. Every program is compared with the tensor
//! evaluator, and the plan must have the shape that makes it fast: how many kernels, what touches memory.

mod plans;

use birkhoff_ir::kernel::{Space, Stmt};
use birkhoff_ir::plan::{BufferKind, Program};
use plans::{check_kernels, check_text};

/// A Sinkhorn iteration that returns its input as well, and its transpose, which computes both normalisations again.
const SINKHORN: &str = "
fn @step(%a: f32[T,n,n] ~ uniform(0.1, 1)) -> (a: f32[T,n,n], saved: f32[T,n,n]) {
  s = reduce_sum(a, axes=[1])
  c = a / broadcast(s, shape=[T,n,n], axes=[0,2])
  r = reduce_sum(c, axes=[2])
  b = c / broadcast(r, shape=[T,n,n], axes=[0,1])
  return a = b, saved = a
}
fn @back(%g: f32[T,n,n], %a: f32[T,n,n] ~ uniform(0.1, 1)) -> (g: f32[T,n,n]) {
  s = reduce_sum(a, axes=[1])
  c = a / broadcast(s, shape=[T,n,n], axes=[0,2])
  r = reduce_sum(c, axes=[2])
  b = c / broadcast(r, shape=[T,n,n], axes=[0,1])
  d = reduce_sum(g * b, axes=[2])
  gc = (g - broadcast(d, shape=[T,n,n], axes=[0,1])) / broadcast(r, shape=[T,n,n], axes=[0,1])
  e = reduce_sum(gc * c, axes=[1])
  ga = (gc - broadcast(e, shape=[T,n,n], axes=[0,2])) / broadcast(s, shape=[T,n,n], axes=[0,2])
  return g = ga
}";

fn sinkhorn_backward(trip: i64, outputs: &str, returns: &str) -> String {
    format!(
        "
dim T in 1..=100000 default 5
dim n = 4
{SINKHORN}
export fn @main(%m: f32[T,n,n], %g: f32[T,n,n]) -> ({outputs}) {{
  shift = reduce_max(m, axes=[1])
  x = exp(m - broadcast(shift, shape=[T,n,n], axes=[0,2]))
  h, stack = loop(x, body=@step, trip={trip}, carry=1)
  dx = loop(g, stack, body=@back, trip={trip}, carry=1, scan=1, reverse=true)
  dm = dx * x
  return {returns}
}}"
    )
}

fn n_temporaries(program: &Program) -> usize {
    program.buffers.iter().filter(|buffer| matches!(buffer.kind, BufferKind::Temp(_))).count()
}

/// Stage names of a kernel, in order.
fn stages(program: &Program, kernel: usize) -> Vec<String> {
    fn walk(block: &[Stmt], names: &mut Vec<String>) {
        for stmt in block {
            match stmt {
                Stmt::Stage(name, _) => names.push(name.to_string()),
                Stmt::For(inner) => walk(&inner.body, names),
                _ => {}
            }
        }
    }
    let mut names = vec![];
    walk(&program.kernels[kernel].body, &mut names);
    names
}

#[test]
fn sinkhorn_and_its_reverse_are_one_stage() {
    let mut n_statements = vec![];
    for trip in [1, 5, 20, 200] {
        for n in [1, 2, 3, 4, 8] {
            let source = sinkhorn_backward(trip, "dm: f32[T,n,n]", "dm = dm");
            let program = check_text(&source, &[("n", n)], &[("T", 7)]);
            assert_eq!((program.kernels.len(), n_temporaries(&program)), (1, 0), "n = {n}, trip = {trip}");
            assert_eq!(stages(&program, 0), ["tokens0"], "n = {n}, trip = {trip}");
            let tile = program.kernels[0].locals.iter().filter(|local| local.space == Space::Tile);
            assert_eq!(tile.count(), 1, "the stack is all that needs tile memory");
            if n == 4 {
                n_statements.push(program.kernels[0].vars.len());
            }
        }
    }
    assert!(n_statements.iter().all(|n| *n == n_statements[0]), "the code does not grow with the trip count");
}

#[test]
fn the_projection_and_its_reverse_leave_together() {
    for trip in [1, 20] {
        let source = sinkhorn_backward(trip, "h: f32[T,n,n], dm: f32[T,n,n]", "h = h, dm = dm");
        for n in [2, 4, 12] {
            let program = check_text(&source, &[("n", n)], &[("T", 37)]);
            assert_eq!((program.kernels.len(), n_temporaries(&program)), (1, 0));
        }
    }
}

#[test]
fn loops_of_many_forms() {
    // Several states, one of them an accumulator of what is not scanned, stacks of several values, slices of an argument.
    let source = |trip: i64| {
        format!(
            "
dim T in 1..=100000 default 5
dim n = 3
fn @step(%a: f32[T,n], %b: f32[T], %d: f32[T,n], %w: f32[n,n]) -> (a: f32[T,n], b: f32[T], p: f32[T,n], q: f32[T]) {{
  z = contract(a, w, spec=\"ti,ij->tj\", dtype=f32) + d
  y = tanh(z)
  c = b + reduce_sum(y, axes=[1])
  return a = y, b = c, p = y, q = b
}}
fn @back(%g: f32[T,n], %acc: f32[T,n], %p: f32[T,n], %q: f32[T], %w: f32[n,n], %v: f32[T,n])
    -> (g: f32[T,n], acc: f32[T,n], dd: f32[T,n]) {{
  dz = g * (1.0 - p * p) + broadcast(q, shape=[T,n], axes=[0])
  da = contract(dz, w, spec=\"tj,ij->ti\", dtype=f32)
  return g = da, acc = acc + dz * v, dd = dz
}}
export fn @main(%a: f32[T,n], %b: f32[T], %d: f32[{trip},T,n], %w: f32[n,n], %g: f32[T,n], %v: f32[T,n])
    -> (ga: f32[T,n], gv: f32[T,n], gd: f32[{trip},T,n], c: f32[T]) {{
  zero = v * 0.0
  e, c, ps, qs = loop(a, b, d, w, body=@step, trip={trip}, carry=2, scan=1)
  ga, gv, gd = loop(g, zero, ps, qs, w, v, body=@back, trip={trip}, carry=2, scan=2, reverse=true)
  return ga = ga + e, gv = gv, gd = gd, c = c
}}"
        )
    };
    for trip in [0, 1, 6, 20] {
        let program = check_text(&source(trip), &[], &[("T", 11)]);
        assert_eq!((program.kernels.len(), n_temporaries(&program)), (1, 0), "trip = {trip}");
    }
}

#[test]
fn nests_around_a_reverse_loop() {
    // The cotangent of the matrix comes from a contraction over C, its logits from a projection of n*C elements.
    let source = format!(
        "
dim T in 1..=100000 default 5
dim n = 4
dim C = 20
{SINKHORN}
export fn @main(%x: f32[T,n,C], %w: f32[n*C,n*n], %dout: f32[T,n,C]) -> (dx: f32[T,n,C], dm: f32[T,n,n]) {{
  m = reshape(contract(reshape(x, [T,n*C]), w, spec=\"tk,ko->to\", dtype=f32), [T,n,n]) * 0.1
  x0 = exp(m)
  h, stack = loop(x0, body=@step, trip=20, carry=1)
  g = contract(dout, x, spec=\"toc,tic->toi\", dtype=f32)
  d0 = loop(g, stack, body=@back, trip=20, carry=1, scan=1, reverse=true)
  dx = contract(h, dout, spec=\"toi,toc->tic\", dtype=f32)
  return dx = dx, dm = d0 * x0
}}"
    );
    for (n, width) in [(2, 32), (4, 20), (8, 33)] {
        // At n = 8 a library would do the projection.
        let program = check_kernels(&source, &[("n", n), ("C", width)], &[("T", 9)]);
        assert_eq!((program.kernels.len(), n_temporaries(&program)), (1, 0));
        let found = stages(&program, 0);
        assert_eq!(found.iter().filter(|name| name.starts_with("tokens")).count(), 1, "{found:?}");
    }
}

/// The backward pass of `examples/mhc_layer.toml` by hand: cotangents `dh`, `dout` to those of all inputs in `wanted`.
fn layer_backward(wanted: &[(&str, &str)]) -> String {
    let types: Vec<String> = wanted.iter().map(|(name, ty)| format!("{name}: {ty}")).collect();
    let names: Vec<String> = wanted.iter().map(|(name, _)| format!("{name} = {name}")).collect();
    let (types, names) = (types.join(", "), names.join(", "));
    format!(
        "
dim T in 1..=100000 default 5
dim n = 4
dim C = 20
{SINKHORN}
export fn @main(
    %x: f32[T,n,C], %phi: f32[n*C,n*n+2*n], %y: f32[T,C], %a_pre: f32[], %a_post: f32[], %a_res: f32[],
    %b_pre: f32[n], %b_post: f32[n], %b_res: f32[n,n], %dh: f32[T,C], %dout: f32[T,n,C],
) -> ({types}) {{
  xf = reshape(x, [T,n*C])
  ms = reduce_sum(xf * xf, axes=[1]) * 0.0125 + 0.000001
  r = 1.0 / sqrt(ms)
  rr = broadcast(r, shape=[T,n*n+2*n], axes=[0])
  proj = contract(xf, phi, spec=\"tk,ko->to\", dtype=f32)
  raw = proj * rr
  raw_pre = slice(raw, axis=1, start=0, end=n)
  raw_post = slice(raw, axis=1, start=n, end=2*n)
  raw_res = slice(raw, axis=1, start=2*n, end=n*n+2*n)
  z_pre = raw_pre * broadcast(a_pre, shape=[T,n], axes=[]) + broadcast(b_pre, shape=[T,n], axes=[1])
  z_post = raw_post * broadcast(a_post, shape=[T,n], axes=[]) + broadcast(b_post, shape=[T,n], axes=[1])
  res = reshape(raw_res, [T,n,n])
  m = res * broadcast(a_res, shape=[T,n,n], axes=[]) + broadcast(b_res, shape=[T,n,n], axes=[1,2])
  pre = 1.0 / (1.0 + exp(-z_pre))
  post = 2.0 / (1.0 + exp(-z_post))
  shift = reduce_max(m, axes=[1])
  e = exp(m - broadcast(shift, shape=[T,n,n], axes=[0,2]))
  mix, stack = loop(e, body=@step, trip=20, carry=1)
  h = contract(pre, x, spec=\"ti,tic->tc\", dtype=f32)
  out = contract(mix, x, spec=\"toi,tic->toc\", dtype=f32)
    + broadcast(post, shape=[T,n,C], axes=[0,1]) * broadcast(y, shape=[T,n,C], axes=[0,2])

  dmix = contract(dout, x, spec=\"toc,tic->toi\", dtype=f32)
  dpost = contract(dout, y, spec=\"toc,tc->to\", dtype=f32)
  dpre = contract(dh, x, spec=\"tc,tic->ti\", dtype=f32)
  dy = contract(post, dout, spec=\"to,toc->tc\", dtype=f32)
  dx1 = contract(mix, dout, spec=\"toi,toc->tic\", dtype=f32)
  dx2 = broadcast(pre, shape=[T,n,C], axes=[0,1]) * broadcast(dh, shape=[T,n,C], axes=[0,2])
  de = loop(dmix, stack, body=@back, trip=20, carry=1, scan=1, reverse=true)
  dm = de * e
  dz_pre = dpre * pre * (1.0 - pre)
  dz_post = dpost * post * (1.0 - post * 0.5)
  draw_pre = dz_pre * broadcast(a_pre, shape=[T,n], axes=[])
  draw_post = dz_post * broadcast(a_post, shape=[T,n], axes=[])
  draw_res = reshape(dm * broadcast(a_res, shape=[T,n,n], axes=[]), [T,n*n])
  zero = 0.0
  draw = pad(draw_pre, zero, axis=1, low=0, high=n*n+n) + pad(draw_post, zero, axis=1, low=n, high=n*n)
    + pad(draw_res, zero, axis=1, low=2*n, high=0)
  dproj = draw * rr
  dr = reduce_sum(draw * proj, axes=[1])
  dms = dr * -0.5 * r * r * r * 0.0125
  dxf = contract(dproj, phi, spec=\"to,ko->tk\", dtype=f32) + xf * 2.0 * broadcast(dms, shape=[T,n*C], axes=[0])
  dx = dx1 + dx2 + reshape(dxf, [T,n,C])

  dphi = contract(xf, dproj, spec=\"tk,to->ko\", dtype=f32)
  db_pre = reduce_sum(dz_pre, axes=[0])
  db_post = reduce_sum(dz_post, axes=[0])
  db_res = reduce_sum(dm, axes=[0])
  da_pre = reduce_sum(dz_pre * raw_pre, axes=[0,1])
  da_post = reduce_sum(dz_post * raw_post, axes=[0,1])
  da_res = reduce_sum(dm * res, axes=[0,1,2])
  return {names}
}}"
    )
}

const TOKEN_GRADS: [(&str, &str); 2] = [("dx", "f32[T,n,C]"), ("dy", "f32[T,C]")];

#[test]
fn the_layer_s_reverse_is_one_kernel() {
    let outputs: Vec<(&str, &str)> =
        [("h", "f32[T,C]"), ("out", "f32[T,n,C]")].into_iter().chain(TOKEN_GRADS).collect();
    for wanted in [&outputs[2..], &outputs] {
        let source = layer_backward(wanted);
        for (n, width) in [(4, 20), (2, 33)] {
            let program = check_text(&source, &[("n", n), ("C", width)], &[("T", 19)]);
            let found = stages(&program, 0);
            assert_eq!((program.kernels.len(), n_temporaries(&program)), (1, 0), "{found:?}");
            assert_eq!(found.iter().filter(|name| name.starts_with("tokens")).count(), 1, "{found:?}");
        }
    }
}

/// Sums over the batch: chunks in parallel, in the kernel that computes what is summed, and a second kernel for all of them.
#[test]
fn sums_over_the_batch_join_the_kernel_of_their_terms() {
    let source = "
dim T in 1..=100000 default 5
dim C = 40
export fn @main(%x: f32[T,C], %b: f32[C], %w: f32[C,3]) -> (
    y: f32[T,3], mean: f32[], per_c: f32[C], per_o: f32[3], largest: f32[], grad: f32[C,3],
) {
  z = tanh(x + broadcast(b, shape=[T,C], axes=[1]))
  y = contract(z, w, spec=\"tc,co->to\", dtype=f32)
  mean = reduce_sum(z * z, axes=[0,1]) * 0.5
  per_c = reduce_sum(z, axes=[0])
  per_o = reduce_sum(y * y, axes=[0])
  largest = reduce_max(y, axes=[0,1])
  grad = contract(x, y, spec=\"tc,to->co\", dtype=f32)
  return y = y, mean = mean, per_c = per_c, per_o = per_o, largest = largest, grad = grad
}";
    for n_tokens in [1, 7, 512, 2000] {
        let program = check_text(source, &[], &[("T", n_tokens)]);
        assert_eq!(program.kernels.len(), 2, "one with the chunks, one that adds them");
    }
}

#[test]
fn parameter_gradients_of_the_layer() {
    let few = [
        ("db_pre", "f32[n]"),
        ("db_post", "f32[n]"),
        ("db_res", "f32[n,n]"),
        ("da_pre", "f32[]"),
        ("da_post", "f32[]"),
        ("da_res", "f32[]"),
    ];
    let wanted: Vec<(&str, &str)> = TOKEN_GRADS.into_iter().chain(few).collect();
    for n_tokens in [3, 700] {
        let program = check_text(&layer_backward(&wanted), &[("C", 20)], &[("T", n_tokens)]);
        assert_eq!(program.kernels.len(), 2);
        let parts = wanted.len() - TOKEN_GRADS.len();
        assert_eq!(n_temporaries(&program), parts, "only partial sums are in memory");
    }
    let wanted: Vec<(&str, &str)> = wanted.into_iter().chain([("dphi", "f32[n*C,n*n+2*n]")]).collect();
    check_text(&layer_backward(&wanted), &[("n", 2), ("C", 12)], &[("T", 300)]);
}

/// Entropic transport: potentials too large for a tile, so that both loops are loops of the plan and the stacks are memory.
#[test]
fn a_loop_of_the_plan_and_its_reverse() {
    let source = |trip: i64| {
        format!(
            "
dim N in 1..=100000 default 5
dim M in 1..=100000 default 5
fn @step(%f: f32[N], %g: f32[M], %c: f32[N,M]) -> (f: f32[N], g: f32[M], fs: f32[N], gs: f32[M]) {{
  u = 0.1 * log_sum_exp(broadcast(g, shape=[N,M], axes=[1]) - c, axis=1)
  v = 0.1 * log_sum_exp(broadcast(u, shape=[N,M], axes=[0]) - c, axis=0)
  return f = u, g = v, fs = u, gs = g
}}
fn @back(%df: f32[N], %dg: f32[M], %dc: f32[N,M], %fs: f32[N], %gs: f32[M], %c: f32[N,M])
    -> (df: f32[N], dg: f32[M], dc: f32[N,M]) {{
  p = softmax(broadcast(fs, shape=[N,M], axes=[0]) - c, axis=0) * broadcast(dg, shape=[N,M], axes=[1])
  du = df + 0.1 * reduce_sum(p, axes=[1])
  q = softmax(broadcast(gs, shape=[N,M], axes=[1]) - c, axis=1) * broadcast(du, shape=[N,M], axes=[0])
  dgs = 0.1 * reduce_sum(q, axes=[0])
  return df = df * 0.0, dg = dgs, dc = dc - 0.1 * p - 0.1 * q
}}
export fn @main(%c: f32[N,M], %a: f32[N], %b: f32[M]) -> (loss: f32[], dc: f32[N,M], f: f32[N]) {{
  f0 = a * 0.0
  g0 = b * 0.0
  f, g, fs, gs = loop(f0, g0, c, body=@step, trip={trip}, carry=2)
  z = c * 0.0
  df, dg, dc = loop(a, b, z, fs, gs, c, body=@back, trip={trip}, carry=3, scan=2, reverse=true)
  loss = reduce_sum(f * a, axes=[0]) + reduce_sum(g * b, axes=[0])
  return loss = loss, dc = dc, f = f
}}"
        )
    };
    for trip in [1, 6] {
        check_text(&source(trip), &[], &[("N", 37), ("M", 64)]);
        let fixed = source(trip).replace("in 1..=100000 default 5", "= 64");
        check_text(&fixed, &[("N", 64), ("M", 96)], &[]);
        check_text(&fixed, &[("N", 300), ("M", 200)], &[]);
    }
}

/// What transposing slices, gathers and broadcasts leaves behind.
#[test]
fn transposed_movement() {
    let source = "
dim T in 1..=1000 default 5
export fn @main(%a: f32[T,3], %b: f32[T,4], %x: f32[T,7], %idx: i64[5] ~ uniform(0, 6), %w: f32[T,5], %s: f32[]) -> (
    whole: f32[T,7], joined: f32[T,14], spread: f32[T,7], back: f32[T], total: f32[7],
) {
  zero = 0.0
  whole = pad(a, zero, axis=1, low=0, high=4) + pad(b, zero, axis=1, low=3, high=0) + pad(a, zero, axis=1, low=2, high=2)
  joined = concat(whole, x * whole, axis=1)
  place = iota(shape=[5,7], axis=1, dtype=i64)
  hot = convert(eq(broadcast(idx, shape=[5,7], axes=[0]), place), dtype=f32)
  spread = contract(w, hot, spec=\"tk,kj->tj\", dtype=f32)
  wide = broadcast(reduce_sum(x * broadcast(s, shape=[T,7], axes=[]), axes=[1]), shape=[T,7,2], axes=[0])
  back = reduce_sum(wide, axes=[1,2])
  total = reduce_sum(concat(a, b, axis=1), axes=[0])
  return whole = whole, joined = joined, spread = spread, back = back, total = total
}";
    for n_tokens in [1, 11, 600] {
        check_text(source, &[], &[("T", n_tokens)]);
    }
}
