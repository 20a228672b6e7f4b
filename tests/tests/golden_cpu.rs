//! Every golden file against its spec as a user runs it: through the library, as machine code, in the dtypes that the spec
//! says and in f64.

use birkhoff::file_inputs::{FileInputs, bind_sizes};
use birkhoff::tensor_file::TensorFile;
use birkhoff::{Cotangents, Gradient, Loops, Options, Spec, Target, Value, compile};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::eval::Tensor;
use birkhoff_tests::golden::{Golden, files, folder, spec_of, stem};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Runs the spec's first function on the golden inputs and compares all golden outputs and gradients.
fn check(path: &Path, spec: &Path, target: Target, float: Option<DType>, loops: Loops) -> Result<(), String> {
    let golden = Golden::read(path)?;
    let run = || -> Result<Vec<(String, Tensor)>, birkhoff::Error> {
        let mut spec = Spec::load(spec)?;
        for (name, value) in &golden.attrs {
            spec = spec.set(name, Value(*value));
        }
        if let Some(float) = float {
            spec = spec.float(float);
        }
        let (wrt, of) = golden.gradients();
        if !wrt.is_empty() {
            let owned = |names: Vec<&str>| names.into_iter().map(str::to_string).collect();
            let cotangents = Cotangents::Named(owned(of));
            spec = spec.differentiated(&Gradient { wrt: owned(wrt), cotangents, values: true, loops })?;
        }
        let file = TensorFile::open(path)?;
        let spec = bind_sizes(&spec, &file)?;
        let function = compile(&spec, &Options { target, ..Options::default() })?;
        let inputs = FileInputs::read(&spec, &function, &file)?;
        let outputs = function.call(&inputs.inputs())?;
        let tensor = |(name, buffer): (&str, &birkhoff::Buffer)| {
            let shape = buffer.shape().iter().map(|extent| *extent as usize).collect();
            let tensor = Tensor::from_le_bytes(buffer.dtype(), shape, buffer.view().bytes());
            (name.to_string(), tensor.expect("a buffer has the bytes of its shape"))
        };
        Ok(outputs.iter().map(tensor).collect())
    };
    let outputs = run().map_err(|error| error.to_string())?;
    let mut wrong: Vec<String> = outputs
        .iter()
        .filter_map(|(name, tensor)| golden.difference(name, tensor, float.unwrap_or(DType::F32)))
        .collect();
    for name in golden.outputs() {
        if !outputs.iter().any(|(found, _)| found == name) {
            wrong.push(format!("there is no output `{name}`"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// Files whose spec needs an op that no kernel computes yet: it must be refused as that.
const REFUSED: [(&str, &str); 2] = [("cayley", "solve"), ("hutchpp", "qr")];

fn check_all(target: Target, float: Option<DType>, loops: Loops) {
    check_some(target, float, loops, &|_| true);
}

fn check_some(target: Target, float: Option<DType>, loops: Loops, is_chosen: &dyn Fn(&str) -> bool) {
    let specs = files(&folder("specs"), "toml").expect("tests/specs");
    let chosen: Vec<(String, PathBuf, &PathBuf)> = files(&folder("golden"), "safetensors")
        .expect("tests/golden")
        .into_iter()
        .filter_map(|path| {
            let name = stem(&path);
            let spec = spec_of(&name, &specs).filter(|_| is_chosen(&name))?;
            Some((name, path, spec))
        })
        .collect();
    let check_one = |(name, path, spec): &(String, PathBuf, &PathBuf)| -> Option<String> {
        let start = Instant::now();
        let result = check(path, spec, target, float, loops);
        println!("{target} {name}: {:.1} s", start.elapsed().as_secs_f64());
        match (result, REFUSED.iter().find(|(file, _)| file == name)) {
            (Ok(()), None) => None,
            (Err(why), Some((_, op))) if why.contains(&format!("no kernel can compute `{op}`")) => None,
            (Err(why), _) => Some(format!("{name}: {why}")),
            (Ok(()), Some(_)) => Some(format!("{name}: it runs; take it off the list of refused ones")),
        }
    };
    // Most of the time goes into compiling, one file on one thread.
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(file) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(failure) = check_one(file) {
                        failures.lock().expect("no file panics").insert(file.0.clone(), failure);
                    }
                }
            });
        }
    });
    let failures: Vec<String> = failures.into_inner().expect("no file panics").into_values().collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn golden_outputs_on_the_cpu() {
    check_all(Target::Cpu, None, Loops::Auto);
}

#[test]
fn golden_outputs_on_the_cpu_in_f64() {
    check_all(Target::Cpu, Some(DType::F64), Loops::Auto);
}

#[test]
fn golden_gradients_with_loops_run_again() {
    check_all(Target::Cpu, None, Loops::Rerun);
}

#[cfg(feature = "ptx")]
#[test]
fn golden_outputs_on_the_cpu_through_llvm() {
    check_all(Target::CpuLlvm, None, Loops::Auto);
}

#[cfg(feature = "ptx")]
#[test]
fn golden_outputs_on_the_cpu_through_llvm_in_f64() {
    check_all(Target::CpuLlvm, Some(DType::F64), Loops::Auto);
}

/// All files; with `SIMULATED=a,b` those whose names begin so. To see how long each takes:
/// `cargo test --release -p birkhoff-tests --features ptx --test golden_cpu simulated -- --nocapture`.
#[cfg(feature = "ptx")]
#[test]
fn golden_outputs_on_the_simulated_gpu() {
    let asked = std::env::var("SIMULATED").unwrap_or_default();
    check_some(Target::PtxSim, None, Loops::Auto, &|name| {
        asked.split(',').any(|prefix| name.starts_with(prefix))
    });
}
