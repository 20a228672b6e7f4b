//! The machine that code is generated for: this one, with all its features.

use birkhoff_ir::diag::Diagnostic;
use cranelift_codegen::isa::{OwnedTargetIsa, TargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use std::sync::OnceLock;

/// The host, for code that runs in this process (`pic` false) or is linked into another (`pic` true).
///
/// Built once per process and kind: finding out the features takes longer than compiling a small kernel.
///
/// Errors: a host that Cranelift does not know.
pub(super) fn host(pic: bool) -> Result<OwnedTargetIsa, Diagnostic> {
    static JIT: OnceLock<Result<OwnedTargetIsa, Diagnostic>> = OnceLock::new();
    static OBJECT: OnceLock<Result<OwnedTargetIsa, Diagnostic>> = OnceLock::new();
    let slot = if pic { &OBJECT } else { &JIT };
    slot.get_or_init(|| build(pic)).clone()
}

fn build(pic: bool) -> Result<OwnedTargetIsa, Diagnostic> {
    let missing = |why: String| {
        Diagnostic::device(format!("no code can be generated for this machine: {why}"))
            .help("use `--target eval`, or run on x86-64 or aarch64")
    };
    let mut flags = settings::builder();
    let verifier = if cfg!(debug_assertions) { "true" } else { "false" };
    let choices = [
        ("opt_level", "none"),
        ("is_pic", if pic { "true" } else { "false" }),
        ("use_colocated_libcalls", "false"),
        ("unwind_info", "false"),
        // Frames that exceed a page touch each of its pages in order, so that an overflow meets the guard page.
        ("enable_probestack", "true"),
        ("probestack_strategy", "inline"),
        ("enable_verifier", verifier),
    ];
    for (name, value) in choices {
        flags.set(name, value).map_err(|error| missing(error.to_string()))?;
    }
    let builder = cranelift_native::builder().map_err(|error| missing(error.to_string()))?;
    builder.finish(settings::Flags::new(flags)).map_err(|error| missing(error.to_string()))
}

/// The features of the machine that are on, by Cranelift's names, in its order.
pub(super) fn features(isa: &dyn TargetIsa) -> Vec<String> {
    let flags = isa.isa_flags();
    flags.iter().filter(|flag| flag.as_bool() == Some(true)).map(|flag| flag.name.to_string()).collect()
}
