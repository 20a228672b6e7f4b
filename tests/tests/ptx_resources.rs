//! What NVIDIA's assembler says of every kernel that can be made here: of all examples, and of the spec of every golden file at
//! its sizes; values and gradients. No thread may spill or have memory of its own; registers and shared memory are kept in
//! snapshots.
#![cfg(feature = "ptx")]

use birkhoff::file_inputs::bind_sizes;
use birkhoff::tensor_file::TensorFile;
use birkhoff::{Spec, Value, compile_ptx, ptxas};
use birkhoff_tests::device::{gradient, options, program};
use birkhoff_tests::golden::{Golden, files, folder, spec_of, stem};
use std::fmt::Write;
use std::path::Path;

const ARCHS: [&str; 4] = ["sm_80", "sm_86", "sm_89", "sm_90"];
/// Those of large kernels, which take the assembler seconds: the oldest and the newest.
const ARCHS_OF_GRADIENTS: [&str; 2] = ["sm_80", "sm_90"];

/// A line per kernel of the function: registers of a thread on each architecture (one number if they are the same), bytes of
/// shared memory, threads.
fn figures(assembler: &Path, archs: &[&str], what: &str, spec: &Spec, failures: &mut Vec<String>) -> String {
    let module = match compile_ptx(spec, &options(), &mut |_| ()) {
        Ok(module) => module,
        Err(error) => {
            failures.push(format!("{what}: {error}"));
            return String::new();
        }
    };
    let usages: Vec<_> = std::thread::scope(|scope| {
        let ptx = &module.ptx;
        let run = |arch| scope.spawn(move || ptxas::usage(assembler, ptx, arch));
        let running: Vec<_> = archs.iter().copied().map(run).collect();
        running.into_iter().map(|thread| thread.join().expect("ptxas was run")).collect()
    });
    let mut text = String::new();
    let mut registers: Vec<Vec<u64>> = vec![vec![]; module.manifest.kernels.len()];
    for (arch, usage) in archs.iter().zip(usages) {
        let usage = match usage {
            Ok(usage) => usage,
            Err(error) => {
                failures.push(format!("{what}: {error:?}"));
                return String::new();
            }
        };
        for (kernel, registers) in module.manifest.kernels.iter().zip(&mut registers) {
            let usage = usage.get(&kernel.entry).cloned().unwrap_or_default();
            if usage.spill_store_bytes + usage.spill_load_bytes + usage.stack_bytes > 0 {
                failures.push(format!("{what}: {} on {arch}: {usage:?}", kernel.entry));
            }
            // Every array is rounded up; the last one's rest is none of the block's.
            assert!(usage.shared_bytes <= kernel.shared_bytes, "{what}: {}", kernel.entry);
            registers.push(usage.registers);
        }
    }
    for (kernel, mut registers) in module.manifest.kernels.iter().zip(registers) {
        if registers.iter().all(|count| *count == registers[0]) {
            registers.truncate(1);
        }
        let registers: Vec<String> = registers.iter().map(u64::to_string).collect();
        let (registers, shared, threads) = (registers.join("/"), kernel.shared_bytes, kernel.block[0]);
        let entry = &kernel.entry;
        writeln!(text, "  {entry}: {registers} registers, {shared} B shared, {threads} threads")
            .expect("text grows");
    }
    text
}

/// The figures of these functions, of which some have no kernels for any target.
fn all(chosen: Vec<(String, Spec)>) {
    // Without it there is nothing to check; `tests/run` installs it.
    let Some(assembler) = ptxas::find() else { return };
    let (mut text, mut failures) = (String::new(), vec![]);
    for (title, spec) in chosen.into_iter().filter(|(_, spec)| program(spec).is_some()) {
        let values = figures(&assembler, &ARCHS, &title, &spec, &mut failures);
        write!(text, "{title}\n{values}").expect("text grows");
        if let Some(gradient) = gradient(&spec) {
            let title = format!("{title}, gradients");
            let figures = figures(&assembler, &ARCHS_OF_GRADIENTS, &title, &gradient, &mut failures);
            write!(text, "{title}\n{figures}").expect("text grows");
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    insta::assert_snapshot!(std::thread::current().name().unwrap_or_default(), text);
}

#[test]
fn examples_take_so_much_of_a_gpu() {
    let mut chosen = vec![];
    for path in files(&folder("../examples"), "toml").expect("examples") {
        let spec = Spec::load(&path).unwrap_or_else(|error| panic!("{error}"));
        for function in spec.functions() {
            chosen.push((format!("{}: {function}", stem(&path)), spec.clone().function(&function)));
        }
    }
    all(chosen);
}

#[test]
fn golden_specs_take_so_much_of_a_gpu() {
    let specs = files(&folder("specs"), "toml").expect("tests/specs");
    let mut chosen = vec![];
    for path in files(&folder("golden"), "safetensors").expect("tests/golden") {
        let name = stem(&path);
        let Some(spec) = spec_of(&name, &specs) else { continue };
        let golden = Golden::read(&path).unwrap_or_else(|error| panic!("{error}"));
        let file = TensorFile::open(&path).unwrap_or_else(|error| panic!("{error}"));
        let spec = Spec::load(spec).unwrap_or_else(|error| panic!("{error}"));
        let spec = golden.attrs.iter().fold(spec, |spec, (name, value)| spec.set(name, Value(*value)));
        chosen.push((name, bind_sizes(&spec, &file).unwrap_or_else(|error| panic!("{error}"))));
    }
    all(chosen);
}
