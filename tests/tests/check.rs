//! All specs of the repository pass `birkhoff check`.

use birkhoff::check::{Check, Report, Verdict, check};
use birkhoff::{Options, Spec, Target};
use birkhoff_tests::golden::{files, folder, stem};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Specs whose sizes are set here, to take less time: many layers, many iterations.
const SMALLER: [(&str, &[(&str, i64)]); 2] =
    [("mhc_stack", &[("layers", 2), ("iters", 4)]), ("mhc_paper_stack", &[("layers", 2), ("iters", 4)])];

fn checked(path: &Path) -> Result<Report, birkhoff::Error> {
    let mut spec = Spec::load(path)?;
    let name = stem(path);
    for (name, value) in SMALLER.iter().filter(|(spec, _)| *spec == name).flat_map(|(_, values)| *values) {
        spec = spec.set(name, *value);
    }
    // The simulated device, where this build has it, takes minutes; it runs the golden files.
    let mut targets = vec![Target::KernelEval, Target::Cpu];
    targets.extend(Some(Target::CpuLlvm).filter(|target| target.check().is_ok()));
    // Other tests verify what passes make.
    let options = Options { verify: false, ..Options::default() };
    check(&spec, &spec.functions(), None, &Check { options, targets, ..Check::default() }, &mut |_| ())
}

/// What is wrong about a report.
fn complaints(spec: &str, report: &Report) -> Vec<String> {
    let mut wrong = vec![];
    for function in &report.functions {
        if function.rows.iter().any(|row| row.verdict == Verdict::Failed) {
            wrong.push(format!("{spec} @{}", function.name));
        }
        // Nothing hides behind what could not be told; kernels refuse only factorisations.
        let undecided = |row: &&birkhoff::check::Row| match row.verdict {
            Verdict::Inconclusive => true,
            Verdict::Skipped => !matches!(spec, "cayley" | "hutchpp"),
            _ => false,
        };
        wrong.extend(function.rows.iter().filter(undecided).map(|row| {
            format!(
                "{spec} @{}: {} of {} is {}: {}",
                function.name,
                row.test.name(),
                row.name,
                row.verdict.name(),
                row.why
            )
        }));
        let is_stopped = spec == "spectral_norm_stop";
        if is_stopped == function.notes.is_empty() {
            wrong.push(format!("{spec} @{}: {:?}", function.name, function.notes));
        }
    }
    if wrong.is_empty() { wrong } else { wrong.into_iter().chain([report.text()]).collect() }
}

#[test]
fn all_specs_pass() {
    let mut paths: Vec<PathBuf> = files(&folder("specs"), "toml").expect("tests/specs");
    paths.extend(files(&folder("../examples"), "toml").expect("examples"));
    assert!(paths.len() > 50, "{}", paths.len());
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(vec![]));
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| {
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = match checked(path) {
                        Ok(report) => complaints(&stem(path), &report),
                        Err(error) => vec![format!("{}: {error}", stem(path))],
                    };
                    wrong.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
