//! `birkhoff bench` as users meet it: the numbers fit together, whatever they are on this machine.

#[allow(dead_code, reason = "every file of tests uses its part")]
#[path = "support/folder.rs"]
mod folder;
#[path = "support/ratio.rs"]
mod ratio;

use folder::Folder;
use serde_json::Value;

/// Two kernels, because a transposed sum cannot be computed with the sum it needs.
const SPEC: &str = "\
dim N in 1..=100000 default 300
dim M = 256
export fn @main(%x: f32[N,M]) -> (rows: f32[N], columns: f32[M]) {
  %s = reduce_sum(%x * %x) {axes=[1]}
  return rows = sqrt(s), columns = einsum(\"nm,n->m\", %x, %s)
}
";

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key} of {value}"))
}

#[test]
fn the_numbers_fit_together() {
    let folder = Folder::new();
    folder.write("sums.bir", SPEC.as_bytes());
    let done =
        folder.run("bench sums.bir --dim N=1000 --runs 5 --warmup 1 --threads 2 --json --trace trace.json");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let report: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&report["threads"], &report["sizes"]["N"]), (&2.into(), &1000.into()));
    let kernels = report["kernels"].as_array().unwrap();
    let total = &report["total"];
    let sum = |key: &str| kernels.iter().map(|kernel| number(kernel, key)).sum::<f64>();
    for key in ["edge_bytes", "flops", "launches"] {
        assert_eq!(number(total, key), sum(key), "{key}");
    }
    // x is read at least once and the results are written; a product and a sum per element, twice.
    assert!(number(total, "edge_bytes") >= 4.0 * (1000.0 * 256.0 + 1000.0 + 256.0));
    let flops = number(total, "flops");
    assert!((4.0 * 256_000.0..6.0 * 256_000.0).contains(&flops), "{flops}");
    for measured in kernels.iter().chain([total]) {
        let times: Vec<f64> =
            measured["times_s"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
        assert_eq!(times.len(), 5);
        assert!(times.is_sorted() && times[0] > 0.0);
        assert_eq!(number(measured, "median_s"), times[2]);
        let rate = number(measured, "edge_bytes") / times[2];
        assert!((number(measured, "bytes_per_s") - rate).abs() <= 1e-9 * rate);
        let share = rate / number(&report["machine"], "bytes_per_s");
        assert!((number(measured, "of_bandwidth") - share).abs() <= 1e-9 * share);
    }
    let trace: Value = serde_json::from_slice(&std::fs::read(folder.path("trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert_eq!(events.len() as f64, number(total, "launches"));
    let ends: Vec<(f64, f64)> = events
        .iter()
        .map(|event| (number(event, "ts"), number(event, "ts") + number(event, "dur")))
        .collect();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].0), "launches follow each other: {ends:?}");
}

#[test]
fn a_table_names_the_kernels_and_bad_requests_are_refused() {
    let folder = Folder::new();
    folder.write("sums.bir", SPEC.as_bytes());
    let done = folder.run("bench sums.bir --runs 1 --warmup 0 --threads 1");
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{}", done.stdout);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines[0], "main at N = 300, 1 thread, 1 runs");
    assert!(lines[2].trim_start().starts_with("main ") && lines[3].trim_start().starts_with("main_0 "));
    for (request, code) in [
        ("bench sums.bir --runs 0", 2),
        ("bench sums.bir --fn other", 1),
        ("bench missing.bir", 1),
        ("bench sums.bir --runs 1 --trace no/such/folder/t.json", 1),
    ] {
        let done = folder.run(request);
        assert_eq!((done.code, done.stdout.as_str()), (Some(code), ""), "{request}");
        assert!(done.stderr.contains("error"), "{request}: {}", done.stderr);
    }
}

/// On a stand-in for the driver's library on which every launch takes a millisecond: what a GPU's events say is what is told.
#[cfg(feature = "ptx")]
#[test]
fn kernels_on_a_gpu_are_measured_by_its_events() {
    let folder = Folder::new();
    folder.write("sums.bir", SPEC.as_bytes());
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../runtime/tests/support/libcuda.c");
    let mut compiler = std::process::Command::new("cc");
    compiler
        .args(["-O1", "-shared", "-fPIC", "-ffp-contract=off", source, "-o"])
        .arg(folder.path("libcuda.so"));
    assert!(compiler.status().expect("a C compiler").success());
    let others = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
    let libraries = format!("{}:{others}", folder.path("").display());
    let run = |args: &str| {
        let output = folder.command(args).env("LD_LIBRARY_PATH", &libraries).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), errors.as_str()), (Some(0), ""), "{args}");
        String::from_utf8(output.stdout).unwrap()
    };
    let request = "bench sums.bir --target cuda --runs 3 --warmup 1 --threads 1";
    let report: Value = serde_json::from_str(&run(&format!("{request} --json --trace trace.json"))).unwrap();
    assert_eq!((&report["target"], &report["threads"]), (&"cuda".into(), &Value::Null));
    let kernels = report["kernels"].as_array().unwrap();
    assert!(kernels.len() > 1);
    for kernel in kernels {
        let times: Vec<f64> =
            kernel["times_s"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
        let expected = number(kernel, "launches") * 1e-3;
        assert_eq!(times.len(), 3);
        assert!(times.iter().all(|time| (time - expected).abs() < 1e-6), "{times:?}, expected {expected}");
        assert_eq!(kernel["of_bandwidth"], Value::Null);
        let rate = number(kernel, "edge_bytes") / times[1];
        assert!((number(kernel, "bytes_per_s") - rate).abs() <= 1e-9 * rate);
    }
    assert_eq!(report["total"]["times_s"].as_array().unwrap().len(), 3);
    let trace: Value = serde_json::from_slice(&std::fs::read(folder.path("trace.json")).unwrap()).unwrap();
    let starts: Vec<f64> =
        trace["traceEvents"].as_array().unwrap().iter().map(|event| number(event, "ts")).collect();
    assert_eq!(starts.len() as f64, number(&report["total"], "launches"));
    assert!(
        starts.iter().zip(0..).all(|(start, idx)| (start - f64::from(idx) * 1e3).abs() < 1.0),
        "{starts:?}"
    );
    let table = run(request);
    assert!(table.starts_with("main at N = 300, a GPU, 3 runs\n"), "{table}");
    assert!(table.contains(" - "), "there are no shares of what is not known: {table}");
}
