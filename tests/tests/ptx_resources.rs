//! What NVIDIA's assembler says of everything that is emitted: no thread may spill or have a stack, on any architecture; registers
//! and shared memory are kept in a snapshot. All functions of the examples, with gradients and without, and every golden case.
#![cfg(feature = "ptx")]

use birkhoff::file_inputs::bind_sizes;
use birkhoff::ptxas::{self, Usage};
use birkhoff::tensor_file::TensorFile;
use birkhoff::{
    Cotangents, Error, Gradient, Loops, Options, PtxModule, Spec, Stage, Value, compile_ptx, lower,
};
use birkhoff_tests::device::{gradient, options};
use birkhoff_tests::golden::{Golden, files, folder, spec_of, stem};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The architectures of values; gradients have large kernels, which take the assembler long, so these are assembled for the oldest
/// and the newest.
const ARCHS: [&str; 4] = ["sm_80", "sm_86", "sm_89", "sm_90"];
const ARCHS_OF_GRADIENTS: [&str; 2] = ["sm_80", "sm_90"];
/// Architectures that are newer than this back end, where the assembler knows them: they run the PTX of older ones.
const NEWER: [&str; 3] = ["sm_100", "sm_103", "sm_120"];
/// Bytes of PTX that the assembler gets at a time.
const BATCH_BYTES: usize = 100_000;
/// Stands for the name of an entry.
const NAME: &str = "{entry}";

/// A function that is compiled.
struct Case {
    title: String,
    spec: Spec,
    archs: &'static [&'static str],
    /// Each kernel has a line of its own.
    is_detailed: bool,
}

/// A kernel of a case.
struct Kernel {
    entry: String,
    /// Position among the texts.
    text: usize,
    shared_bytes: u64,
    threads: u32,
}

/// Every text once, with the architectures it is for.
#[derive(Default)]
struct Texts {
    head: String,
    known: BTreeMap<String, usize>,
    all: Vec<(String, Vec<&'static str>)>,
}

/// What the assembler says of a text on an architecture.
type Usages = BTreeMap<(usize, &'static str), Usage>;

/// Does `work` for every number below `n`, on all cores.
fn each(n: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= n {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
}

/// All functions of the examples.
fn examples() -> Vec<Case> {
    let mut cases = vec![];
    for path in files(&folder("../examples"), "toml").expect("examples") {
        let spec = Spec::load(&path).unwrap_or_else(|error| panic!("{error}"));
        for name in spec.functions() {
            let chosen = spec.clone().function(&name);
            let title = format!("{} {name}", stem(&path));
            if let Some(gradient) = gradient(&chosen) {
                let title = format!("{title}, gradients");
                let archs = &ARCHS_OF_GRADIENTS;
                cases.push(Case { title, spec: gradient, archs, is_detailed: true });
            }
            cases.push(Case { title, spec: chosen, archs: &ARCHS, is_detailed: true });
        }
    }
    cases
}

/// The first function of each golden file's spec, with gradients where the file has some.
fn golden() -> Vec<Case> {
    let specs = files(&folder("specs"), "toml").expect("tests/specs");
    let files = files(&folder("golden"), "safetensors").expect("tests/golden");
    let case = |path: &Path| -> Result<Case, Error> {
        let golden = Golden::read(path).expect("a golden file");
        let mut spec = Spec::load(spec_of(&golden.name, &specs).expect("a spec for every golden file"))?;
        for (name, value) in &golden.attrs {
            spec = spec.set(name, Value(*value));
        }
        let (wrt, of) = golden.gradients();
        let archs: &[&str] = if wrt.is_empty() { &ARCHS } else { &ARCHS_OF_GRADIENTS };
        if !wrt.is_empty() {
            let owned = |names: Vec<&str>| names.into_iter().map(str::to_string).collect();
            let cotangents = Cotangents::Named(owned(of));
            let gradient = Gradient { wrt: owned(wrt), cotangents, values: true, loops: Loops::Auto };
            spec = spec.differentiated(&gradient)?;
        }
        let spec = bind_sizes(&spec, &TensorFile::open(path)?)?;
        Ok(Case { title: golden.name, spec, archs, is_detailed: false })
    };
    files
        .iter()
        .map(|path| case(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .collect()
}

impl Texts {
    /// Takes the kernels of a module; those that are equal up to their name are one text.
    fn add(&mut self, module: &PtxModule, archs: &[&'static str]) -> Vec<Kernel> {
        const ENTRY: &str = ".visible .entry ";
        let mut parts = module.ptx.split(ENTRY);
        self.head = parts.next().unwrap_or_default().to_string();
        let mut kernels = vec![];
        for (part, info) in parts.zip(&module.manifest.kernels) {
            assert!(part.starts_with(&format!("{}(", info.entry)), "entries come in the order of the plan");
            let text = format!("{ENTRY}{part}").replace(&info.entry, NAME);
            let text = *self.known.entry(text.clone()).or_insert_with(|| {
                self.all.push((text, vec![]));
                self.all.len() - 1
            });
            for arch in archs {
                if !self.all[text].1.contains(arch) {
                    self.all[text].1.push(arch);
                }
            }
            let (entry, shared_bytes) = (info.entry.clone(), info.shared_bytes);
            kernels.push(Kernel { entry, text, shared_bytes, threads: info.block[0] });
        }
        assert_eq!(kernels.len(), module.manifest.kernels.len());
        kernels
    }

    /// Assembles all texts, some at a time.
    fn assemble(&self, assembler: &Path) -> Result<Usages, String> {
        let mut batches: Vec<(&'static str, Vec<usize>)> = vec![];
        for arch in ARCHS.into_iter().chain(NEWER) {
            let mut left = 0;
            for (text, (ptx, _)) in
                self.all.iter().enumerate().filter(|(_, (_, archs))| archs.contains(&arch))
            {
                match batches.last_mut().filter(|_| left >= ptx.len()) {
                    Some((_, batch)) => batch.push(text),
                    None => {
                        batches.push((arch, vec![text]));
                        left = BATCH_BYTES.max(ptx.len());
                    }
                }
                left -= ptx.len();
            }
        }
        // The longest first, lest one thread ends up with them.
        let length = |batch: &[usize]| batch.iter().map(|text| self.all[*text].0.len()).sum::<usize>();
        batches.sort_by_key(|(_, batch)| std::cmp::Reverse(length(batch)));
        let (found, failures) = (Mutex::new(Usages::new()), Mutex::new(vec![]));
        each(batches.len(), |number| {
            let (arch, batch) = &batches[number];
            let parts = batch.iter().map(|text| self.all[*text].0.replace(NAME, &format!("k{text}")));
            let ptx = self.head.clone() + &parts.collect::<String>();
            match ptxas::usage(assembler, &ptx, arch) {
                Ok(usages) => {
                    let mut found = found.lock().expect("no thread panics");
                    for text in batch {
                        let usage =
                            usages.get(&format!("k{text}")).cloned().expect("a report for each entry");
                        found.insert((*text, arch), usage);
                    }
                }
                Err(error) => failures.lock().expect("no thread panics").push(format!("{error:?}")),
            }
        });
        let failures = failures.into_inner().expect("no thread panics");
        if failures.is_empty() {
            Ok(found.into_inner().expect("no thread panics"))
        } else {
            Err(failures.join("\n"))
        }
    }
}

/// Registers on each architecture; one number if they are the same.
fn list(mut registers: Vec<u64>) -> String {
    if registers.iter().all(|count| *count == registers[0]) {
        registers.truncate(1);
    }
    registers.iter().map(u64::to_string).collect::<Vec<_>>().join("/")
}

/// The lines of a case, and what is wrong with it.
fn report(case: &Case, kernels: &[Kernel], usages: &Usages, failures: &mut Vec<String>) -> String {
    let mut text = String::new();
    let mut most = vec![0; case.archs.len()];
    for kernel in kernels {
        let mut registers = vec![];
        for (arch, most) in case.archs.iter().zip(&mut most) {
            let usage = &usages[&(kernel.text, *arch)];
            if usage.spill_store_bytes + usage.spill_load_bytes + usage.stack_bytes > 0 {
                failures.push(format!("{}: {} on {arch}: {usage:?}", case.title, kernel.entry));
            }
            // Every array is rounded up; the last one's rest is none of the block's.
            assert!(usage.shared_bytes <= kernel.shared_bytes, "{}: {}", case.title, kernel.entry);
            registers.push(usage.registers);
            *most = usage.registers.max(*most);
        }
        if case.is_detailed {
            let (entry, shared, threads) = (&kernel.entry, kernel.shared_bytes, kernel.threads);
            let registers = list(registers);
            writeln!(text, "  {entry}: {registers} registers, {shared} B shared, {threads} threads").unwrap();
        }
    }
    if case.is_detailed {
        return format!("{}\n{text}", case.title);
    }
    let shared = kernels.iter().map(|kernel| kernel.shared_bytes).max().unwrap_or(0);
    let n_kernels = kernels.len();
    format!("{}: {n_kernels} kernels, at most {} registers, {shared} B shared\n", case.title, list(most))
}

/// Compiles and assembles all cases; gives their lines in order, and what the PTX back end refuses.
fn figures(assembler: &Path, cases: &[Case]) -> String {
    let modules = Mutex::new(BTreeMap::new());
    each(cases.len(), |number| {
        let spec = &cases[number].spec;
        let module = compile_ptx(spec, &options(), &mut |_| ());
        // What no target has kernels for is no affair of this back end.
        if module.is_ok() || lower(spec, &Options::default(), Stage::Plan, &mut |_| ()).is_ok() {
            modules.lock().expect("no thread panics").insert(number, module);
        }
    });
    let (mut texts, mut compiled, mut failures) = (Texts::default(), BTreeMap::new(), vec![]);
    for (number, module) in modules.into_inner().expect("no thread panics") {
        match module {
            Ok(module) => {
                compiled.insert(number, texts.add(&module, cases[number].archs));
            }
            Err(error) => failures.push(format!("{}: {error}", cases[number].title)),
        }
    }
    let usages = texts.assemble(assembler).unwrap_or_else(|error| panic!("{error}"));
    let mut lines: Vec<String> = compiled
        .into_iter()
        .map(|(number, kernels)| report(&cases[number], &kernels, &usages, &mut failures))
        .collect();
    lines.sort();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    lines.concat()
}

#[test]
fn nothing_that_is_emitted_spills() {
    // Without it there is nothing to check; `tests/run` installs it.
    let Some(assembler) = ptxas::find() else { return };
    let cases: Vec<Case> = examples().into_iter().chain(golden()).collect();
    insta::assert_snapshot!("resources", figures(&assembler, &cases));
}

#[test]
fn newer_architectures_run_the_ptx_of_older_ones() {
    let Some(assembler) = ptxas::find() else { return };
    let spec = Spec::load(folder("../examples/mhc_layer.toml")).unwrap_or_else(|error| panic!("{error}"));
    let case = Case { title: "mhc_layer".to_string(), spec, archs: &NEWER, is_detailed: false };
    insta::assert_snapshot!("newer", figures(&assembler, &[case]));
}
