//! Specs that are shown to users: the examples, the blocks of `docs/SPECS.md`, the specs of the golden files. Each parses, and
//! its module prints as a text that parses to the same text.

use birkhoff_compiler::spec::parse;
use birkhoff_ir::tensor::verify::verify;
use birkhoff_ir::tensor::{Module, text};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn specs_in(folder: &str) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(root().join(folder)).expect("a folder of specs");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    let read = |path: &PathBuf| std::fs::read_to_string(path).expect("a spec");
    paths.iter().map(|path| (path.display().to_string(), read(path))).collect()
}

fn module(name: &str, source: &str) -> Module {
    parse(source).unwrap_or_else(|errors| panic!("{}", errors.render(name, source)))
}

fn check(name: &str, source: &str) {
    verify(&module(name, source)).unwrap_or_else(|errors| panic!("{name}: {errors}"));
    let printed = text::print(&module(name, source));
    let again = text::parse(&printed).unwrap_or_else(|errors| panic!("{}", errors.render(name, &printed)));
    assert_eq!(text::print(&again), printed, "{name}");
}

#[test]
fn examples_parse_and_print() {
    let examples = specs_in("examples");
    assert!(examples.len() >= 4);
    examples.iter().for_each(|(name, source)| check(name, source));
}

#[test]
fn golden_specs_parse_and_print() {
    specs_in("tests/specs").iter().for_each(|(name, source)| check(name, source));
}

#[test]
fn blocks_of_the_documentation_parse_and_print() {
    let page = std::fs::read_to_string(root().join("docs/SPECS.md")).expect("docs/SPECS.md");
    let blocks: Vec<&str> =
        page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 4);
    blocks.iter().for_each(|block| check("docs/SPECS.md", block));
}

/// Field names stand in the rows of `docs/SPECS.md` as code: a field that nobody explains is an error here.
#[test]
fn every_field_is_documented() {
    let page = std::fs::read_to_string(root().join("docs/SPECS.md")).expect("docs/SPECS.md");
    let syntax = std::fs::read_to_string(root().join("compiler/src/spec/syntax.rs")).expect("the fields");
    let prose: String = page.split("```").step_by(2).collect();
    let shown: BTreeSet<&str> = prose
        .split('`')
        .skip(1)
        .step_by(2)
        .flat_map(|code| code.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_'))
        .collect();
    let mut renamed = None;
    for line in syntax.lines().map(str::trim) {
        if let Some(rest) = line.split("rename = \"").nth(1) {
            renamed = rest.split('"').next();
        }
        let Some(field) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")) else { continue };
        let name = renamed.take().unwrap_or(field.0);
        assert!(shown.contains(name), "docs/SPECS.md says nothing of `{name}`");
    }
}

#[test]
fn the_layer_of_the_paper_is_as_the_issue_says() {
    let (name, source) =
        specs_in("examples").into_iter().find(|(name, _)| name.ends_with("mhc_layer.toml")).expect("it");
    let module = module(&name, &source);
    let names: Vec<&str> = module.exported().map(|(_, func)| func.name.as_str()).collect();
    assert_eq!(names, ["layer", "pre", "post"]);
    let (_, layer) = module.exported().next().expect("the default");
    let inputs: Vec<&str> = layer.inputs.iter().map(|input| input.name.as_str()).collect();
    assert_eq!(inputs, ["x", "phi", "a_pre", "a_post", "a_res", "b_pre", "b_post", "b_res", "y"]);
    let outputs: Vec<&str> = layer.outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!(outputs, ["h", "out"]);
}
