//! Faults planted in the PTX of a real kernel: the simulated device reports each, with the line and the thread.
#![cfg(feature = "ptx")]

use birkhoff::Spec;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::plan::Program;
use birkhoff_tests::device::{Device, program};
use birkhoff_tests::golden::folder;

/// A small layer: 9 tokens in tiles of 8, so that the last tile has a rest.
fn layer() -> (Program, SizeEnv) {
    let spec = Spec::load(folder("../examples/mhc_layer.toml")).unwrap_or_else(|error| panic!("{error}"));
    let spec = spec.dim("C", 128).set("iters", 2);
    (program(&spec).expect("a plan"), SizeEnv::from([("T".into(), 9)]))
}

/// What the device says of the layer's PTX with `change` made to its lines.
fn outcome(change: impl FnOnce(&mut Vec<String>)) -> Result<(), String> {
    let (program, sizes) = layer();
    let mut device = Device::new(&program, &sizes);
    let mut lines: Vec<String> = device.image.ptx.lines().map(str::to_string).collect();
    change(&mut lines);
    device.run(&lines.join("\n"))
}

/// The numbers of the lines that contain all of `parts`, from 0.
fn lines_with(lines: &[String], parts: &[&str]) -> Vec<usize> {
    let has_all = |line: &String| parts.iter().all(|part| line.contains(part));
    lines.iter().enumerate().filter(|(_, line)| has_all(line)).map(|(idx, _)| idx).collect()
}

/// Makes `change` to each of these lines in turn, all others as they were; gives what the device says of each.
fn each(parts: &[&str], change: impl Fn(&str) -> String) -> Vec<String> {
    let (program, sizes) = layer();
    let text = Device::new(&program, &sizes).image.ptx;
    let lines: Vec<String> = text.lines().map(str::to_string).collect();
    let chosen = lines_with(&lines, parts);
    assert!(!chosen.is_empty(), "no line has {parts:?}");
    let run = |idx: usize| {
        let mut lines = lines.clone();
        lines[idx] = change(&lines[idx]);
        let mut device = Device::new(&program, &sizes);
        device.run(&lines.join("\n")).err().unwrap_or_default()
    };
    chosen.into_iter().map(run).collect()
}

fn assert_located(error: &str) {
    assert!(error.contains("line"), "no line: {error}");
    assert!(error.contains("thread"), "no thread: {error}");
}

#[test]
fn the_kernel_is_sound_as_it_is() {
    assert_eq!(outcome(|_| ()), Ok(()));
}

#[test]
fn every_barrier_is_needed() {
    for error in each(&["bar.sync"], |_| String::new()) {
        assert!(error.contains("race") || error.contains("nothing has written"), "found {error:?}");
        assert_located(&error);
    }
}

#[test]
fn a_bound_that_is_off_by_one_is_found() {
    // The count of the last tile's tokens: one more reads and writes beyond the arrays.
    let errors = each(&["min.s64"], |line| {
        let count = line.trim().trim_start_matches("min.s64").split(',').next().unwrap_or_default().trim();
        format!("{line}\n\tadd.s64 {count}, {count}, 1;")
    });
    assert!(!errors.is_empty());
    for error in errors {
        assert!(error.contains("out of bounds") || error.contains("outside"), "found {error:?}");
        assert_located(&error);
    }
}

#[test]
fn a_shared_read_without_its_store_is_found() {
    let errors = each(&["st.shared"], |_| String::new());
    // What is stored twice with one value (an operand of a rest that this size lacks) may be missed; most may not.
    let found: Vec<&String> = errors.iter().filter(|error| !error.is_empty()).collect();
    assert!(
        2 * found.len() > errors.len(),
        "{} of {} stores are missed",
        errors.len() - found.len(),
        errors.len()
    );
    for error in found {
        assert!(error.contains("nothing has written"), "found {error:?}");
        assert_located(error);
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
