//! `docs/OPS.md` is what the op table says. `BLESS=1` writes it again.

use birkhoff_ir::tensor::docs::reference_page;
use std::path::Path;

#[test]
fn the_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPS.md");
    let page = reference_page().unwrap_or_else(|errors| panic!("{errors}"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = written.lines().zip(page.lines()).position(|(old, new)| old != new);
    assert!(
        written == page,
        "docs/OPS.md is out of date from line {differs:?} on; see the head of this file"
    );
}
