//! How long a spec takes to PTX in a process that has done it before, as an engine that compiles for shapes as they come would
//! see it.
//!
//! `cargo run --release --features ptx --example ptx_time [SPEC [RUNS]]`: for the first function of the spec (the mHC layer
//! without one), its values, and its values with gradients, the first compilation, the median of the others and the least of them,
//! in milliseconds; and the medians of their steps. Those below the plan are sums over kernels, which compile at the same time.

use birkhoff::ir::plan::BufferKind;
use birkhoff::{Cotangents, Error, Gradient, Loops, Options, Spec, Stage, Target, compile_ptx, lower};
use std::time::Instant;

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or_else(|| "examples/mhc_layer.toml".to_string());
    let n_runs = args.next().and_then(|runs| runs.parse().ok()).unwrap_or(15usize).max(1);
    let spec = Spec::load(&path)?;
    report("values", &spec, n_runs)?;
    report("values and gradients", &differentiated(&spec)?, n_runs)
}

/// The function with gradients with respect to all inputs that are floats.
fn differentiated(spec: &Spec) -> Result<Spec, Error> {
    let options = Options { target: Target::Ptx, ..Options::default() };
    let program = lower(spec, &options, Stage::Plan, &mut |_| ())?.program;
    let buffers = program.map(|program| program.buffers).unwrap_or_default();
    let inputs = buffers.iter().filter(|buffer| buffer.kind == BufferKind::Input && buffer.dtype.is_float());
    let wrt = inputs.map(|buffer| buffer.name.to_string()).collect();
    spec.clone().differentiated(&Gradient {
        wrt,
        cotangents: Cotangents::All,
        values: true,
        loops: Loops::Auto,
    })
}

fn report(what: &str, spec: &Spec, n_runs: usize) -> Result<(), Error> {
    let options = Options { target: Target::Ptx, ..Options::default() };
    let mut times = vec![];
    let mut stages: Vec<(String, Vec<f64>)> = vec![];
    let mut n_bytes = 0;
    for _ in 0..=n_runs {
        let start = Instant::now();
        let module = compile_ptx(spec, &options, &mut |_| ())?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        n_bytes = module.ptx.len();
        let before = lower(spec, &options, Stage::Plan, &mut |_| ())?.timings.into_iter();
        let before = before.map(|(name, took)| (name.to_string(), took));
        let emitted = module.timings.into_iter().map(|(name, took)| (format!("  {name}"), took));
        for (name, took) in before.chain(emitted) {
            let took = took.as_secs_f64() * 1e3;
            match stages.iter_mut().find(|(known, _)| *known == name) {
                Some((_, all)) => all.push(took),
                None => stages.push((name, vec![took])),
            }
        }
    }
    let first = times.remove(0);
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    let warm = median(times);
    println!(
        "{what}: first {first:.0} ms, then {warm:.0} ms, at least {least:.0} ms; {n_bytes} bytes of PTX"
    );
    for (name, all) in stages {
        println!("  {name} {:.1} ms", median(all));
    }
    Ok(())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}
