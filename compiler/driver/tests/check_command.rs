//! `birkhoff check` as users meet it: what it prints, and how it ends.

#[path = "support/folder.rs"]
mod folder;
#[path = "support/ratio.rs"]
mod ratio;

use folder::Folder;

/// A truth value that rounding decides: machine code and evaluator need not agree.
const FRAGILE: &str = "\
dim T in 1..=1000 default 5
export fn @fragile(%x: f32[T,50]) -> (same: bool[T,50], y: f32[T,50]) {
  %back = log(exp(%x))
  return same = eq(%back, %x), y = sin(%x)
}
";

#[test]
fn a_report_is_text_or_json() {
    let folder = Folder::new();
    // The evaluator, compared with itself, is off by nothing: its worst elements are the first ones.
    let done = folder.run("check ratio.bir --seed 3 --targets eval");
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{}", done.stdout);
    insta::assert_snapshot!("check_text", masked(&done.stdout));
    // The same seed gives the same bytes; another one other numbers.
    assert_eq!(folder.run("check ratio.bir --seed 3 --targets eval").stdout, done.stdout);
    assert_ne!(folder.run("check ratio.bir --seed 4 --targets eval").stdout, done.stdout);
    let done = folder
        .run("check ratio.bir --fn ratio --grad w --dim C=2 --set T=3 --targets kernel-eval,cpu --json");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&report["passes"], &report["seed"]), (&true.into(), &0.into()));
    let function = &report["functions"][0];
    assert_eq!(function["sizes"][1], serde_json::json!({"name": "C", "value": 2, "instead_of": null}));
    assert_eq!(function["sizes"][2], serde_json::json!({"name": "T", "value": 3, "instead_of": 5}));
    let rows = function["rows"].as_array().unwrap();
    let told: Vec<(&str, &str)> =
        rows.iter().map(|row| (row["test"].as_str().unwrap(), row["name"].as_str().unwrap())).collect();
    let expected = [
        ("gradient", "w"),
        ("tangent", "y"),
        ("adjoint", "all"),
        ("kernel-eval", "y"),
        ("kernel-eval", "grad.w"),
        ("cpu", "y"),
        ("cpu", "grad.w"),
        ("kernel-eval in f64", "y"),
        ("kernel-eval in f64", "grad.w"),
        ("cpu in f64", "y"),
        ("cpu in f64", "grad.w"),
    ];
    assert_eq!(told, expected);
    assert!(rows.iter().all(|row| row["verdict"] == "ok" && row["worst"]["place"].is_string()));
}

/// The text without its numbers, which differ between processors; columns stay.
fn masked(text: &str) -> String {
    let is_number = |word: &str| word.parse::<f64>().is_ok() && (word.contains('.') || word.contains('e'));
    let line = |line: &str| line.split_inclusive(' ').map(|word| mask(word, &is_number)).collect::<String>();
    let lines: Vec<String> = text.lines().map(line).collect();
    lines.join("\n")
}

fn mask(word: &str, is_number: &dyn Fn(&str) -> bool) -> String {
    match is_number(word.trim_end()) {
        true => word.chars().map(|letter| if letter == ' ' { ' ' } else { '#' }).collect(),
        false => word.to_string(),
    }
}

#[test]
fn a_file_gives_inputs_and_sizes() {
    let folder = Folder::new();
    folder.write_f32("in.safetensors", &[("x", &[2, 3, 4]), ("w", &[4]), ("ct.y", &[1]), ("out.y", &[7])]);
    let done = folder.run("check ratio.bir --in in.safetensors");
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{}", done.stdout);
    assert!(done.stdout.starts_with("ratio with n = 3, C = 4, T = 2 (not 5)\n"), "{}", done.stdout);
    assert!(!done.stdout.contains("twice"));
}

#[test]
fn a_failure_is_printed_and_ends_with_one() {
    let folder = Folder::new();
    folder.write("fragile.bir", FRAGILE.as_bytes());
    let done = folder.run("check fragile.bir");
    assert_eq!((done.code, done.stderr.as_str()), (Some(1), ""), "{}", done.stdout);
    let failed: Vec<&str> = done.stdout.lines().filter(|line| line.contains("FAILED")).collect();
    assert!(
        !failed.is_empty() && failed.iter().all(|line| line.trim_start().starts_with("same")),
        "{failed:?}"
    );
    let last = done.stdout.lines().last().unwrap();
    assert!(last.ends_with(&format!("comparisons: {} failed", failed.len())), "{last}");
    // Without targets that compute otherwise there is nothing to fail.
    assert_eq!(folder.run("check fragile.bir --targets eval --grad x").code, Some(0));
}

#[test]
fn a_function_without_derivatives_is_checked_all_the_same() {
    let folder = Folder::new();
    folder.write(
        "whole.bir",
        b"export fn @whole(%a: i32[5] ~ uniform(0, 9)) -> (b: i32[5]) { return b = %a * %a }",
    );
    let done = folder.run("check whole.bir");
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("note: no float depends on a float"), "{}", done.stdout);
}

#[test]
fn bad_requests_are_refused() {
    let folder = Folder::new();
    folder.write("in.safetensors", b"not tensors");
    folder.write("plan.bir", folder.run("inspect ratio.bir --stage plan --dim C=4").stdout.as_bytes());
    folder.write("cut.bir", &ratio::RATIO.as_bytes()[..ratio::RATIO.len() / 2]);
    folder.write("qr.bir", b"export fn @f(%a: f64[2,3]) -> (q: f64[2,3]) { %q, %r = qr(%a) return q = %q }");
    folder.write("long.bir", LONG.as_bytes());
    let lines = [
        "check absent.bir",
        "check cut.bir",
        "check qr.bir",
        "check long.bir",
        "check plan.bir",
        "check ratio.bir --fn none",
        "check ratio.bir --grad none",
        "check ratio.bir --dim none=3",
        "check ratio.bir --dim T=0",
        "check ratio.bir --dim T=1000000 --dim C=1000000",
        "check ratio.bir --set scale=true",
        "check ratio.bir --in in.safetensors",
        "check ratio.bir --targets ptx",
        "check ratio.bir --seed -1",
    ];
    let before = folder.files();
    let mut text = String::new();
    for line in lines {
        text += &format!("$ birkhoff {line}\n{}\n", folder.run(line).refusal());
    }
    assert_eq!(folder.files(), before);
    insta::assert_snapshot!("check_refusals", text);
}

/// A loop that no evaluator finishes.
const LONG: &str = "\
fn @step(%x: f32[4]) -> (x: f32[4]) { return x = sin(%x) }
export fn @f(%x: f32[4]) -> (y: f32[4]) { return y = loop(%x) {body=@step, trip=1000000000000, carry=1} }
";
