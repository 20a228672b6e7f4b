//! One kernel to an object file: LLVM IR, LLVM's passes, LLVM's code generator.
//!
//! In: a verified kernel. Out: an object with its entry, and texts if they are asked for. What LLVM complains about is our
//! error, with its words. Every kernel has an LLVM context of its own, so that kernels compile on many threads.

use super::function::module;
use super::host::Host;
use crate::listing::Listing;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::kernel::Func;
use inkwell::context::Context;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{FileType, TargetMachine};

/// What is invariant moves out of loops, what is equal is computed once, registers become values. Nothing unrolls or
/// vectorizes: the kernel says both.
const PASSES: &str = "function(sroa,early-cse<memssa>,instcombine<no-verify-fixpoint>,loop-mssa(licm),early-cse<memssa>,\
                      dse,adce,simplifycfg)";

/// A compiled kernel.
pub(super) struct Compiled {
    /// The object file.
    pub(super) object: Vec<u8>,
    /// Its texts, if they were asked for.
    pub(super) listing: Option<Listing>,
}

/// Compiles the kernel at that position of a program; `machine` is a code generator for `host`.
///
/// Errors: what this back end cannot do, or a kernel that does not verify.
pub(super) fn compile(
    func: &Func,
    kernel_idx: usize,
    host: &Host,
    machine: &TargetMachine,
    listings: bool,
) -> Result<Compiled, Diagnostic> {
    let broken =
        |what: &str, error: String| Diagnostic::verify(format!("kernel `{}`: {what}: {error}", func.name));
    let context = Context::create();
    let module = module(&context, func, kernel_idx, host)?;
    module.set_triple(&machine.get_triple());
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    module.verify().map_err(|error| broken("the LLVM IR does not verify", error.to_string()))?;
    module
        .run_passes(PASSES, machine, PassBuilderOptions::create())
        .map_err(|error| broken("LLVM's passes fail", error.to_string()))?;
    let code = |machine: &TargetMachine, file: FileType| {
        let buffer = machine.write_to_memory_buffer(&module, file);
        buffer
            .map(|buffer| buffer.as_slice().to_vec())
            .map_err(|error| broken("LLVM generates no code", error.to_string()))
    };
    let mut listing = None;
    if listings {
        let ir = module.print_to_string().to_string();
        // Generating code changes the module a little, so the text comes from one of its own.
        let asm = code(&host.machine()?, FileType::Assembly)?;
        let asm = String::from_utf8_lossy(asm.strip_suffix(&[0]).unwrap_or(&asm)).into_owned();
        listing = Some(Listing { name: func.name.to_string(), ir, asm });
    }
    Ok(Compiled { object: code(machine, FileType::Object)?, listing })
}
