//! Errors of specs, as users see them: one file per case, the rendered errors after it in lines that begin with `#| `.

use birkhoff_compiler::spec::parse;
use std::path::{Path, PathBuf};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spec_errors");
    let entries = std::fs::read_dir(folder).expect("the folder of cases");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

/// The errors of the case's spec, and what the case expects.
fn rendered_and_expected(path: &Path) -> (String, String) {
    let text = std::fs::read_to_string(path).expect("a case");
    let place = text.find("#| ").unwrap_or(text.len());
    let (source, expected) = text.split_at(place);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let rendered = match parse(source) {
        Ok(_) => "no error".to_string(),
        Err(errors) => errors.render(&name, source),
    };
    let expected: Vec<&str> = expected
        .lines()
        .map(|line| line.strip_prefix("#| ").unwrap_or(line.trim_start_matches("#|")))
        .collect();
    let rendered: Vec<&str> = rendered.lines().map(str::trim_end).collect();
    (rendered.join("\n"), expected.join("\n"))
}

#[test]
fn errors_are_as_the_cases_say() {
    let mut wrong = vec![];
    for path in cases() {
        let (rendered, expected) = rendered_and_expected(&path);
        if rendered != expected {
            wrong.push(format!("{}\n--- found\n{rendered}\n--- expected\n{expected}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
