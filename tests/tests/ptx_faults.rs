//! Faults planted in the PTX of a real kernel: the simulated device reports each, with the line and the thread.
#![cfg(feature = "ptx")]

use birkhoff::Spec;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::plan::Program;
use birkhoff_tests::device::{image, program, run};
use birkhoff_tests::golden::folder;

/// Lines that are changed at most, one at a time.
const MOST_CHANGES: usize = 16;

/// A small layer: 9 tokens in tiles of 8, so that the last tile has a rest.
fn layer() -> (Program, SizeEnv) {
    let spec = Spec::load(folder("../examples/mhc_layer.toml")).unwrap_or_else(|error| panic!("{error}"));
    let spec = spec.dim("C", 128).set("iters", 2);
    (program(&spec).expect("a plan"), SizeEnv::from([("T".into(), 9)]))
}

/// What the device says of the layer's PTX with `change` made to its lines.
fn outcome(change: impl FnOnce(&mut Vec<String>)) -> Result<(), String> {
    let (program, sizes) = layer();
    let image = image(&program);
    let mut lines: Vec<String> = image.ptx.lines().map(str::to_string).collect();
    change(&mut lines);
    run(&program, &sizes, &image, &lines.join("\n")).map(|_| ())
}

/// The numbers of the lines that contain all of `parts`, from 0.
fn lines_with(lines: &[String], parts: &[&str]) -> Vec<usize> {
    let has_all = |line: &String| parts.iter().all(|part| line.contains(part));
    lines.iter().enumerate().filter(|(_, line)| has_all(line)).map(|(idx, _)| idx).collect()
}

/// Makes `change` to each of these lines in turn, all others as they were; gives what the device says of each.
fn each(parts: &[&str], change: impl Fn(&str) -> String) -> Vec<String> {
    let (program, sizes) = layer();
    let image = image(&program);
    let lines: Vec<String> = image.ptx.lines().map(str::to_string).collect();
    let chosen = lines_with(&lines, parts);
    assert!(!chosen.is_empty(), "no line has {parts:?}");
    // Each change is a run of its own: of many lines, some from everywhere.
    let step = chosen.len().div_ceil(MOST_CHANGES);
    let changed = |idx: usize| {
        let mut lines = lines.clone();
        lines[idx] = change(&lines[idx]);
        run(&program, &sizes, &image, &lines.join("\n")).err().unwrap_or_default()
    };
    chosen.into_iter().step_by(step).map(changed).collect()
}

#[test]
fn the_kernel_is_sound_as_it_is() {
    assert_eq!(outcome(|_| ()), Ok(()));
}

/// Of these errors, those that are some; more than half must be, each with its line and thread.
fn found(errors: Vec<String>) -> Vec<String> {
    let n_changes = errors.len();
    let found: Vec<String> = errors.into_iter().filter(|error| !error.is_empty()).collect();
    // A change to what these sizes never run, or run once where a second time would show it, is none.
    assert!(2 * found.len() > n_changes, "only {} of {n_changes} changes are found", found.len());
    for error in &found {
        assert!(error.contains("line"), "no line: {error}");
        assert!(error.contains("thread"), "no thread: {error}");
    }
    found
}

#[test]
fn a_removed_barrier_is_found() {
    for error in found(each(&["bar.sync"], |_| String::new())) {
        assert!(error.contains("a race") || error.contains("nothing has written"), "found {error:?}");
    }
}

#[test]
fn a_bound_that_is_off_by_one_is_found() {
    // The count of the last tile's tokens: one more reads and writes beyond the arrays.
    let errors = each(&["min.s64"], |line| {
        let count = line.trim().trim_start_matches("min.s64").split(',').next().unwrap_or_default().trim();
        format!("{line}\n\tadd.s64 {count}, {count}, 1;")
    });
    for error in found(errors) {
        // Beyond the array, or what another block writes.
        let is_told = error.contains("which has") || error.contains("another block of the launch");
        assert!(is_told, "found {error:?}");
    }
}

#[test]
fn a_shared_read_without_its_store_is_found() {
    for error in found(each(&["st.shared"], |_| String::new())) {
        assert!(error.contains("nothing has written"), "found {error:?}");
    }
}

#[test]
fn an_unknown_opcode_is_found() {
    let error = outcome(|lines| {
        let at = lines_with(lines, &["fma.rn.f32"])[0];
        lines[at] = lines[at].replacen("fma.rn.f32", "fma.rn.fast.f32", 1);
    });
    let error = error.expect_err("the modifier is not known");
    assert!(error.contains("fast"), "found {error:?}");
    let error = outcome(|lines| {
        let at = lines_with(lines, &["fma.rn.f32"])[0];
        lines[at] = "\tfrobnicate.f32 %f1, %f2;".to_string();
    });
    let error = error.expect_err("the opcode is not known");
    assert!(error.contains("frobnicate"), "found {error:?}");
}
