//! Snapshots of every stage of the way of a spec, for the mHC layer in both variants and the Sinkhorn loop alone.
//!
//! `clif` and `asm` depend on the processor and are compared with the kernel evaluator elsewhere instead.

use birkhoff::{Options, Spec, Stage, stage_text};
use birkhoff_tests::golden::folder;

/// The compile-time sizes of a snapshot are small and do not divide: text shows the tails.
fn spec(name: &str) -> Spec {
    let spec = Spec::load(folder("specs").join(name)).expect("the spec is there");
    if name.starts_with("mhc") { spec.dim("n", 4).dim("C", 100) } else { spec.dim("n", 4) }
}

fn snapshot(name: &str, stage: Stage) {
    let text = stage_text(&spec(name), &Options::default(), stage, &mut |_| ());
    let text = text.unwrap_or_else(|error| panic!("{error}"));
    let stem = name.trim_end_matches(".toml");
    insta::with_settings!({ description => format!("tests/specs/{name}, stage {}", stage.name()), omit_expression => true }, {
        insta::assert_snapshot!(format!("{stem}__{}", stage.name()), text);
    });
}

const STAGES: [Stage; 5] = [Stage::Tensor, Stage::Eqsat, Stage::Schedule, Stage::Kernel, Stage::Plan];

#[test]
fn paper_layer() {
    STAGES.into_iter().for_each(|stage| snapshot("mhc_paper.toml", stage));
}

#[test]
fn tile_layer() {
    STAGES.into_iter().for_each(|stage| snapshot("mhc_tile.toml", stage));
}

#[test]
fn sinkhorn_loop() {
    STAGES.into_iter().for_each(|stage| snapshot("sinkhorn_paper.toml", stage));
}

#[test]
fn log_sinkhorn_loop() {
    STAGES.into_iter().for_each(|stage| snapshot("sinkhorn_log.toml", stage));
}

/// Every level that prints also parses, and a plan's text compiles to the same plan.
#[test]
fn texts_parse_again() {
    for name in ["mhc_paper.toml", "mhc_tile.toml", "sinkhorn_paper.toml", "sinkhorn_log.toml"] {
        for stage in [Stage::Tensor, Stage::Eqsat, Stage::Plan] {
            let print = |spec: &Spec| {
                stage_text(spec, &Options::default(), stage, &mut |_| ())
                    .unwrap_or_else(|error| panic!("{error}"))
            };
            let text = print(&spec(name));
            if stage == Stage::Eqsat {
                // Saturating again may find more; that the text is a module is what counts.
                birkhoff_ir::tensor::text::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
                continue;
            }
            let again = Spec::parse(birkhoff::Syntax::Ir, "again.bir", &text)
                .unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(print(&again), text, "{name}, {}", stage.name());
        }
    }
}
