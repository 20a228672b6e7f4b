//! PTX: a module with its manifest, and its texts.
//!
//! In: a plan. Out: what `birkhoff compile --target ptx` writes, what `inspect` prints, and what `device.rs` loads.

use crate::options::{Options, Stage};
use crate::pipeline::Stages;
use birkhoff_codegen::ptx::{self, Arch, Image, manifest};
use birkhoff_ir::diag::Diagnostics;
use birkhoff_ir::plan::Program;
use std::time::{Duration, Instant};

/// A compiled function as PTX.
#[derive(Clone, Debug)]
pub struct PtxModule {
    /// The text.
    pub ptx: String,
    /// What it consists of and how it is launched.
    pub manifest: manifest::Manifest,
    /// What each step from kernels to text took, all kernels together; they compile at the same time.
    pub timings: Vec<(&'static str, Duration)>,
}

fn emit_options(options: &Options, listings: bool) -> Result<ptx::Options, Diagnostics> {
    let arch = options.arch.as_deref().map_or(Ok(Arch::default()), Arch::new)?;
    Ok(ptx::Options { arch, listings })
}

/// Compiles the kernels of `program`, which takes its time.
pub(crate) fn emit(program: &Program, options: &Options, stages: &mut Stages) -> Result<Image, Diagnostics> {
    let start = Instant::now();
    let image = ptx::compile_program(program, &emit_options(options, false)?)?;
    stages.timings.push(("emit", start.elapsed()));
    Ok(image)
}

/// Compiles the kernels of `program`.
pub(crate) fn compile(
    program: &Program,
    options: &Options,
    stages: &mut Stages,
) -> Result<PtxModule, Diagnostics> {
    let image = emit(program, options, stages)?;
    let sizes = program.sizes.iter().map(|size| {
        let (lo, hi) = size.bounds;
        (size.name.clone(), size.default.unwrap_or_else(|| 1024.clamp(lo, hi.max(lo))))
    });
    let manifest = manifest::manifest(program, &image, &emit_options(options, false)?, &sizes.collect())?;
    Ok(PtxModule { ptx: image.ptx, manifest, timings: image.timings })
}

/// The text of a stage on the way to PTX.
pub(crate) fn stage_text(program: &Program, options: &Options, stage: Stage) -> Result<String, Diagnostics> {
    let image = ptx::compile_program(program, &emit_options(options, true)?)?;
    Ok(match stage {
        Stage::Mlir => image.mlir,
        Stage::Llvm => image.llvm,
        _ => image.ptx,
    })
}
