//! What NVIDIA's assembler says of the kernels of the mHC layer, values and gradients: no thread may spill; registers and
//! shared memory are kept in a snapshot.
#![cfg(feature = "ptx")]

use birkhoff::{Spec, compile_ptx, ptxas};
use birkhoff_tests::device::{gradient, options, program};
use birkhoff_tests::golden::folder;
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
            if usage.spill_store_bytes + usage.spill_load_bytes > 0 {
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
fn the_layer_takes_so_much_of_a_gpu() {
    let path = folder("../examples/mhc_layer.toml");
    let spec = Spec::load(&path).unwrap_or_else(|error| panic!("{error}"));
    let functions = spec.functions();
    all(functions.into_iter().map(|name| (name.clone(), spec.clone().function(&name))).collect());
}
