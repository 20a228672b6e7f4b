//! Texts that must be rejected: each file of `tests/invalid` starts with one line `// error LINE:COLUMN: MESSAGE` for every
//! error that parser and verifier report, in order, and exactly these.

use birkhoff_ir::diag::{Diagnostic, Diagnostics, ErrorKind};
use birkhoff_ir::{kernel, plan};
use std::path::Path;

const MARK: &str = "// error ";

fn errors(name: &str, source: &str) -> Vec<Diagnostic> {
    let errors = if name.ends_with(".plan") {
        plan::text::parse(source)
            .map_err(Diagnostics::from)
            .and_then(|parsed| plan::verify::verify_parsed(&parsed))
    } else {
        kernel::text::parse(source)
            .map_err(Diagnostics::from)
            .and_then(|parsed| kernel::verify::verify_parsed(&parsed))
    };
    errors.err().unwrap_or_default().0
}

fn place(source: &str, diag: &Diagnostic) -> String {
    let Some((start, _)) = diag.span.0 else { return "nowhere".to_string() };
    let before = &source[..start as usize];
    let line = before.matches('\n').count() + 1;
    let column = before.len() - before.rfind('\n').map_or(0, |pos| pos + 1) + 1;
    format!("{line}:{column}")
}

#[test]
fn every_invalid_text_gets_its_errors() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/invalid");
    let mut wrong = vec![];
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() > 60, "found only {} files", paths.len());
    for path in paths {
        let source = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let found = errors(&name, &source);
        assert!(found.iter().all(|diag| diag.kind == ErrorKind::Input), "{name}");
        let found: Vec<String> =
            found.iter().map(|diag| format!("{MARK}{}: {}", place(&source, diag), diag.message)).collect();
        let expected: Vec<&str> = source.lines().take_while(|line| line.starts_with(MARK)).collect();
        if expected.is_empty() || found != expected {
            wrong.push(format!("{name}: found\n{}", found.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
