//! Measures compiled kernels: exp per element, a projection's fused multiply-adds, and compile times.
//!
//! `cargo run --release -p birkhoff-codegen --example throughput`

use birkhoff_codegen::cpu::{Image, Options, jit};
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::kernel::{Func, abi, text};
use std::time::Instant;

fn kernel(source: &str) -> Func {
    text::parse(source).map(|parsed| parsed.func).unwrap_or_else(|error| panic!("{}", error.message))
}

/// Seconds for one run of all tiles, the best of several.
fn time(image: &Image, func: &Func, sizes: &[(&str, i64)], arrays: &mut [Vec<f32>], runs: usize) -> f64 {
    let env: SizeEnv = sizes.iter().map(|(name, value)| ((*name).into(), *value)).collect();
    let values: Vec<i64> = func.sizes.iter().map(|name| env[name]).collect();
    let n_tiles = abi::n_tiles(func, &env).unwrap_or(0);
    let scratch_bytes = abi::scratch_bytes(func, &env).unwrap_or(0) as usize;
    let mut scratch = vec![0u8; scratch_bytes + 64];
    let aligned = scratch.as_mut_ptr().wrapping_add(scratch.as_ptr().align_offset(64));
    let pointers: Vec<*mut u8> = arrays.iter_mut().map(|array| array.as_mut_ptr().cast()).collect();
    let Some(entry) = image.entry(0) else { return f64::NAN };
    let mut best = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        // SAFETY: one array per parameter, of its extent; sizes in order; enough aligned scratch memory.
        unsafe { entry(pointers.as_ptr(), values.as_ptr(), 0, n_tiles, aligned) };
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn compile(func: &Func) -> (Image, f64) {
    let start = Instant::now();
    match jit(std::slice::from_ref(func), Options { listings: std::env::args().nth(1).is_some() }) {
        Ok(image) => (image, start.elapsed().as_secs_f64()),
        Err(errors) => panic!("{errors}"),
    }
}

fn map(op: &str, width: u32) -> Func {
    kernel(&format!(
        "kernel @{op}(x: read f32[N], y: write f32[N]) sizes N {{
  lanes i in 0..N width {width} {{
    %x = load x[i]
    %y = {op} %x
    store y[i] = %y
  }}
}}"
    ))
}

/// `tokens` rows against `outputs` columns of a transposed parameter, all accumulators in registers.
fn project(tokens: u32, outputs: u32, width: u32) -> Func {
    let n_acc = tokens * outputs;
    kernel(&format!(
        "kernel @project(x: read f32[{tokens},K], p: read f32[{outputs},K], y: write f32[{n_acc}]) sizes K {{
  reg acc: f32[{tokens},{outputs}]
  decl acc
  %zero = const f32 0.0
  unroll t in 0..{tokens} {{
    unroll o in 0..{outputs} {{
      store acc[t,o] = %zero
    }}
  }}
  for again in 0..100 {{
    lanes k in 0..K width {width} {{
      unroll o in 0..{outputs} {{
        %p = load p[o,k]
        unroll t in 0..{tokens} {{
          %x = load x[t,k]
          accum mul_add acc[t,o], %x, %p
        }}
      }}
    }}
  }}
  unroll t in 0..{tokens} {{
    unroll o in 0..{outputs} {{
      %a = load acc[t,o]
      store y[{outputs}*t+o] = %a
    }}
  }}
}}"
    ))
}

fn listing(image: &Image) {
    if std::env::args().nth(1).is_some_and(|arg| image.listings().iter().any(|listing| listing.name == arg)) {
        for listing in image.listings() {
            println!("{}\n{}", listing.ir, listing.asm);
        }
    }
}

fn main() {
    let n = 4096;
    for op in ["exp", "log", "tanh", "expm1", "log1p", "recip", "rsqrt", "sin", "erf"] {
        for width in [4, 8, 16] {
            let func = map(op, width);
            let (image, compile_time) = compile(&func);
            let x: Vec<f32> = (0..n).map(|idx| 0.1 + idx as f32 * 1e-3).collect();
            let mut arrays = [x, vec![0.0; n]];
            let seconds = time(&image, &func, &[("N", n as i64)], &mut arrays, 2000);
            println!(
                "{op:6} width {width:2}: {:.3} ns per element, compiled in {:.2} ms, {} bytes",
                seconds * 1e9 / n as f64,
                compile_time * 1e3,
                image.code_bytes()
            );
            listing(&image);
        }
    }
    let k = 512;
    for (tokens, outputs, width) in
        [(1, 8, 4), (1, 12, 4), (2, 6, 4), (3, 4, 4), (4, 3, 4), (2, 3, 8), (1, 6, 8), (1, 25, 8), (4, 4, 4)]
    {
        let func = project(tokens, outputs, width);
        let (image, compile_time) = compile(&func);
        let ones = |len: u32| vec![1.0f32; (len * k) as usize];
        let mut arrays = [ones(tokens), ones(outputs), vec![0.0; (tokens * outputs) as usize]];
        let seconds = time(&image, &func, &[("K", i64::from(k))], &mut arrays, 200);
        let fmas = f64::from(tokens * outputs * k) * 100.0;
        println!(
            "project {tokens} x {outputs:2}, width {width}: {:.2} f32 fma per ns, compiled in {:.2} ms, {} bytes",
            fmas / seconds / 1e9,
            compile_time * 1e3,
            image.code_bytes()
        );
        listing(&image);
    }
    for file in ["mhc_pre", "mhc_post_pre", "sinkhorn_reverse", "online_softmax"] {
        let path = format!("{}/../ir/tests/kernels/{file}.kir", env!("CARGO_MANIFEST_DIR"));
        let Ok(source) = std::fs::read_to_string(path) else { continue };
        let func = kernel(&source);
        let (image, _) = compile(&func);
        let (_, seconds) = compile(&func);
        println!("{file}: compiled in {:.2} ms, {} bytes", seconds * 1e3, image.code_bytes());
        listing(&image);
    }
}
