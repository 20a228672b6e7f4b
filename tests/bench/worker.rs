//! A worker that runs one workload for a benchmark that measures several programs side by side.
//!
//! In: `--workload W --inputs FILE --outputs FILE --threads N --warmup K`, and lines `run K` on standard input. Out: the
//! outputs in a safetensors file, and one line of JSON when ready and per `run`. A workload is a spec of this folder and the
//! function in it that has its name. Nothing that depends on inputs is kept between calls; outputs are allocated by every call.

use birkhoff::file_inputs::{FileInputs, bind_sizes};
use birkhoff::ir::diag::{Diagnostic, Span};
use birkhoff::tensor_file::{TensorFile, write_tensors};
use birkhoff::{Error, Function, Inputs, Options, Pool, Spec, Target, View, compile};
use clap::Parser;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The arguments that the benchmark gives.
#[derive(Parser)]
struct Args {
    /// The name of a spec in this folder
    #[arg(long)]
    workload: String,
    /// The sizes; the shapes of the inputs say them
    #[arg(long)]
    preset: Option<String>,
    /// A safetensors file
    #[arg(long)]
    inputs: PathBuf,
    /// Where the outputs of the first call go
    #[arg(long)]
    outputs: PathBuf,
    /// Who runs it: cpu or cpu-llvm
    #[arg(long, default_value = "cpu")]
    target: String,
    /// Threads to run on
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Calls before the first timed one
    #[arg(long, default_value_t = 1)]
    warmup: usize,
}

fn main() {
    let args = Args::parse();
    if let Err(error) = work(&args) {
        println!("{}", json!({ "error": error.to_string() }));
        std::process::exit(1);
    }
}

fn work(args: &Args) -> Result<(), Error> {
    let start = Instant::now();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench").join(format!("{}.toml", args.workload));
    let file = TensorFile::open(&args.inputs)?;
    let spec = bind_sizes(&Spec::load(path)?.function(&args.workload), &file)?;
    let target = Target::from_name(&args.target).filter(|target| target.is_native());
    let target = target.ok_or_else(|| {
        Diagnostic::input(Span::NONE, format!("expected the target cpu or cpu-llvm, found `{}`", args.target))
    })?;
    let pool = Some(Pool::new(args.threads)?);
    let options = Options { target, pool, verify: false, ..Options::default() };
    let function = compile(&spec, &options)?;
    let arrays = FileInputs::read(&spec, &function, &file)?;
    let inputs = arrays.inputs();
    let outputs = function.call(&inputs)?;
    let first_call = start.elapsed();
    let named: BTreeMap<String, View<'_>> =
        outputs.iter().map(|(name, buffer)| (name.to_string(), buffer.view())).collect();
    write_tensors(&args.outputs, &named)?;
    drop(outputs);
    for _ in 0..args.warmup {
        function.call(&inputs)?;
    }
    tell(&json!({ "ready": true, "first_call_s": first_call.as_secs_f64() }));
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if let Some(count) = line.strip_prefix("run ").and_then(|count| count.trim().parse().ok()) {
            let times = timed(&function, &inputs, count)?;
            tell(&json!({ "times_s": times, "peak_rss_mb": peak_rss_mb() }));
        }
    }
    Ok(())
}

/// Seconds of `count` calls, after one that is not timed. Releasing outputs is not part of a call.
fn timed(function: &Function, inputs: &Inputs<'_>, count: usize) -> Result<Vec<f64>, Error> {
    function.call(inputs)?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        let outputs = function.call(inputs)?;
        times.push(start.elapsed().as_secs_f64());
        drop(outputs);
    }
    Ok(times)
}

fn tell(line: &serde_json::Value) {
    println!("{line}");
    // A benchmark that is gone needs no answer.
    let _ = std::io::stdout().flush();
}

/// The most memory this process has held, if the system tells.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}
