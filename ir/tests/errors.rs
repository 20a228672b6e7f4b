//! Error messages: every file of `errors/` is wrong in the way its name says, and its `.err` file is what the user reads.
//!
//! The first line of a case names the stage that must fail: `// parse` or `// verify`. `BLESS=1 cargo test -p birkhoff-ir
//! --test errors` rewrites the `.err` files; read them before you commit.

use birkhoff_ir::diag::Diagnostics;
use birkhoff_ir::tensor::text::parse;
use birkhoff_ir::tensor::verify;
use std::path::{Path, PathBuf};

fn failing(stage: &str, source: &str) -> Option<Diagnostics> {
    let parsed = parse(source);
    match (stage, parsed) {
        ("// parse", Err(errors)) => Some(errors),
        ("// verify", Ok(module)) => verify(&module).err(),
        _ => None,
    }
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|ext| ext == extension)).collect();
    files.sort();
    files
}

#[test]
fn every_case_says_what_it_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
    let cases = files(&folder, "bir");
    let mut failures = Vec::new();
    for case in &cases {
        let source = std::fs::read_to_string(case).unwrap();
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let Some(errors) = failing(source.lines().next().unwrap_or(""), &source) else {
            failures.push(format!("{name}: the stage of its first line does not fail"));
            continue;
        };
        let rendered = errors.render(&name, &source) + "\n";
        let expected_path = case.with_extension("err");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&expected_path, &rendered).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if rendered != expected {
            failures.push(format!("{name} says\n{rendered}instead of\n{expected}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(files(&folder, "err").len(), cases.len(), "an .err file without a case");
}
