//! Runs the PTX files of `ptx_cases` on the simulated device.
//!
//! The files are written from the ISA manual, not by a code generator of this project. Their first lines say what to run:
//!
//! - `run: values` has rows `row: inputs -> outputs`, one thread each; every value has eight bytes of the buffers `in` and
//!   `out`. The expected bits come from exact rational arithmetic.
//! - `run: fault` has `launch: grid N block N shared N`, buffers as `buffer: name bytes` or `fresh: name bytes` (one parameter
//!   each, in this order), and `error:` with the whole message. `illegal:` says that no assembler would take the text.
//! - `run: works` is the same without an error; `words: name w0 w1 ...` are the expected words of a buffer, in hexadecimal.
//!
//! Where `ptxas` is installed (`PTXAS`, or in the path) every legal file is assembled too.

use birkhoff_runtime::ptx_sim::{Arg, BufferId, Launch, Memory, Module, Options};
use std::path::{Path, PathBuf};
use std::process::Command;

fn files(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ptx_cases").join(folder);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(root)
        .expect("the folder is there")
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

/// The values of all head lines `// key: value`.
fn heads<'t>(text: &'t str, key: &str) -> Vec<&'t str> {
    let lines = text.lines().take_while(|line| line.starts_with("//"));
    lines.filter_map(|line| line.strip_prefix("// ")?.strip_prefix(key)?.strip_prefix(": ")).collect()
}

fn hex(word: &str) -> u64 {
    u64::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).expect("a hexadecimal number")
}

fn words(text: &str) -> Vec<u64> {
    text.split_whitespace().map(hex).collect()
}

fn check_values(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("readable");
    assert_eq!(heads(&text, "run"), ["values"], "{}", path.display());
    let rows: Vec<(Vec<u64>, Vec<u64>)> = heads(&text, "row")
        .iter()
        .map(|row| row.split_once(" -> ").expect("inputs -> outputs"))
        .map(|(inputs, outputs)| (words(inputs), words(outputs)))
        .collect();
    let bytes = |value: &u64| value.to_le_bytes();
    let input: Vec<u8> = rows.iter().flat_map(|(inputs, _)| inputs.iter().flat_map(bytes)).collect();
    let expected: Vec<u64> = rows.iter().flat_map(|(_, outputs)| outputs.clone()).collect();
    let module = Module::parse(&text).unwrap_or_else(|errors| panic!("{}:\n{errors}", path.display()));
    let mut memory = Memory::new();
    let input = memory.add("in", &input).expect("fits");
    let output = memory.add("out", &vec![0; 8 * expected.len()]).expect("fits");
    let launch = Launch { grid: [1, 1, 1], block: [rows.len() as u32, 1, 1], dynamic_shared_bytes: 0 };
    let args = [Arg::Buffer(input), Arg::Buffer(output)];
    let entry = module.entry("values").expect("the entry is there");
    entry
        .run(&launch, &args, &mut memory)
        .unwrap_or_else(|error| panic!("{}: {}", path.display(), error.message));
    let found = memory.read(output).expect("ours");
    let mut wrong = Vec::new();
    for (idx, (expected, found)) in expected.iter().zip(found.chunks(8)).enumerate() {
        let found = u64::from_le_bytes(found.try_into().expect("eight bytes"));
        let n_outputs = rows[0].1.len();
        if found != *expected {
            let (row, column) = (idx / n_outputs, idx % n_outputs);
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            wrong.push(format!(
                "{name} {:#x?}, output {column}: expected {expected:#x}, found {found:#x}",
                rows[row].0
            ));
        }
    }
    wrong
}

#[test]
fn instructions_compute_what_the_manual_says() {
    let wrong: Vec<String> = files("values").iter().flat_map(|path| check_values(path)).collect();
    assert!(
        wrong.is_empty(),
        "{} wrong values, the first:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
}

/// The launch, and the buffers with their names.
fn setting(text: &str, memory: &mut Memory) -> (Launch, Vec<(String, BufferId)>) {
    let numbers: Vec<u32> = heads(text, "launch")
        .first()
        .map_or("grid 1 block 32 shared 0", |line| line)
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [grid, block, shared] = numbers[..] else { panic!("`launch: grid N block N shared N`") };
    let launch = Launch { grid: [grid, 1, 1], block: [block, 1, 1], dynamic_shared_bytes: shared };
    let mut buffers = Vec::new();
    for line in text.lines().take_while(|line| line.starts_with("//")) {
        let parts: Vec<&str> = line.split_whitespace().collect();
        let [_, kind @ ("buffer:" | "fresh:"), name, size] = parts[..] else { continue };
        let size: usize = size.parse().expect("bytes");
        let bytes: Vec<u8> = (0..size).map(|byte| (byte % 251) as u8).collect();
        let id =
            if kind == "fresh:" { memory.add_uninitialized(name, size) } else { memory.add(name, &bytes) };
        buffers.push((name.to_string(), id.expect("fits")));
    }
    (launch, buffers)
}

fn outcome(text: &str) -> Result<(Memory, Vec<(String, BufferId)>), String> {
    let module = Module::parse(text).map_err(|errors| errors.to_string())?;
    let mut memory = Memory::new();
    let (launch, buffers) = setting(text, &mut memory);
    let args: Vec<Arg> = buffers.iter().map(|(_, id)| Arg::Buffer(*id)).collect();
    let names = module.entries();
    let entry = module.entry(names[0]).map_err(|error| error.message)?;
    entry.run(&launch, &args, &mut memory).map_err(|error| error.message)?;
    Ok((memory, buffers))
}

#[test]
fn faults_are_found_and_named() {
    let mut wrong = Vec::new();
    for path in files("faults") {
        let text = std::fs::read_to_string(&path).expect("readable");
        assert_eq!(heads(&text, "run"), ["fault"], "{}", path.display());
        let expected = heads(&text, "error").join("\n");
        let found = outcome(&text).err().unwrap_or_else(|| "no error".to_string());
        if expected != found {
            wrong.push(format!("{}:\n  expected {expected}\n  found    {found}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn kernels_work() {
    for path in files("works") {
        let text = std::fs::read_to_string(&path).expect("readable");
        assert_eq!(heads(&text, "run"), ["works"], "{}", path.display());
        let (memory, buffers) =
            outcome(&text).unwrap_or_else(|message| panic!("{}: {message}", path.display()));
        let expectations = heads(&text, "words");
        assert!(!expectations.is_empty(), "{}: nothing is expected", path.display());
        for line in expectations {
            let (name, expected) = line.split_once(' ').expect("a name and words");
            let (_, id) = buffers.iter().find(|(known, _)| known == name).expect("a buffer of the file");
            let bytes = memory.read(*id).expect("ours");
            let found: Vec<u64> = bytes
                .chunks(4)
                .map(|word| u64::from(u32::from_le_bytes(word.try_into().expect("four"))))
                .collect();
            assert_eq!(words(expected), found, "{}: {name}", path.display());
        }
    }
}

/// `ptxas`, if it is installed.
fn ptxas() -> Option<PathBuf> {
    let path = std::env::var_os("PTXAS").map_or_else(|| PathBuf::from("ptxas"), PathBuf::from);
    Command::new(&path).arg("--version").output().is_ok_and(|output| output.status.success()).then_some(path)
}

#[test]
fn cases_are_legal_ptx() {
    let Some(ptxas) = ptxas() else { return };
    for path in ["values", "faults", "works"].into_iter().flat_map(files) {
        let text = std::fs::read_to_string(&path).expect("readable");
        let output = Command::new(&ptxas).args(["-arch=sm_90", "-o", "/dev/null"]).arg(&path).output();
        let output = output.expect("ptxas runs");
        let legal = heads(&text, "illegal").is_empty();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), legal, "{}:\n{message}", path.display());
    }
}

/// A generator of the simplest kind (Knuth, MMIX), so that the texts are the same in every run.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

/// The text with one word taken out, doubled, or replaced by another of its words.
fn damaged(text: &str, state: &mut u64) -> String {
    let body = text.find(".version").unwrap_or(0);
    let mut words: Vec<&str> = text[body..].split_inclusive([' ', ',', '.', ';', '\n']).collect();
    let (at, from) = (next(state) % words.len(), next(state) % words.len());
    match next(state) % 3 {
        0 => drop(words.remove(at)),
        1 => words.insert(at, words[at]),
        _ => words[at] = words[from],
    }
    words.concat()
}

#[test]
fn damaged_texts_end_in_errors_and_never_in_panics() {
    let options = Options { max_instructions: 500, ..Options::default() };
    let mut state = 1;
    let (mut refused, mut stopped, mut ran) = (0, 0, 0);
    for path in ["values", "faults", "works"].into_iter().flat_map(files) {
        let text = std::fs::read_to_string(&path).expect("readable");
        for _ in 0..40 {
            let Ok(module) = Module::parse(&damaged(&text, &mut state)) else {
                refused += 1;
                continue;
            };
            let mut memory = Memory::new();
            let launch = Launch { grid: [2, 1, 1], block: [40, 1, 1], dynamic_shared_bytes: 64 };
            for name in module.entries() {
                let entry = module.entry(name).expect("listed");
                let n_params = entry.params().len();
                let add = |_| memory.add("data", &[1; 4096]).expect("fits");
                let args: Vec<Arg> = (0..n_params).map(add).map(Arg::Buffer).collect();
                match entry.run_with(&options, &launch, &args, &mut memory) {
                    Ok(_) => ran += 1,
                    Err(_) => stopped += 1,
                }
            }
        }
    }
    assert!(refused > 100 && stopped > 100 && ran > 10, "{refused} refused, {stopped} stopped, {ran} ran");
}
