//! The machine that code is generated for: this one, with all its features.

use birkhoff_ir::diag::Diagnostic;
use inkwell::OptimizationLevel;
use inkwell::targets::{CodeModel, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple};
use std::sync::OnceLock;

/// Bits of the widest vector registers that this back end knows.
const WIDEST_BITS: u32 = 512;

/// What LLVM calls this processor, and what it can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Host {
    triple: String,
    name: String,
    features: String,
    /// It has an instruction for maxima that orders zeros.
    pub(super) has_range: bool,
    /// It reads and writes scattered elements about as fast as single ones.
    pub(super) has_scatter: bool,
    /// It has stores around its caches, and an instruction that waits for them.
    pub(super) has_streams: bool,
    /// It converts between f16 and f32.
    pub(super) has_f16: bool,
    /// Bits of its widest vector registers.
    pub(super) vector_bits: u32,
    /// How many of those there are.
    pub(super) n_registers: u32,
}

/// This machine; found out once per process.
///
/// Errors: an LLVM without a code generator for it.
pub(super) fn host() -> Result<&'static Host, Diagnostic> {
    static HOST: OnceLock<Result<Host, Diagnostic>> = OnceLock::new();
    HOST.get_or_init(find).as_ref().map_err(Diagnostic::clone)
}

fn missing(why: &str) -> Diagnostic {
    Diagnostic::device(format!("this LLVM generates no code for this machine: {why}"))
        .help("use `--target cpu`, or install an LLVM 19 that knows this processor")
}

fn find() -> Result<Host, Diagnostic> {
    Target::initialize_native(&InitializationConfig::default()).map_err(|error| missing(&error))?;
    let triple = TargetMachine::get_default_triple().as_str().to_string_lossy().into_owned();
    let name = TargetMachine::get_host_cpu_name().to_string();
    let features = TargetMachine::get_host_cpu_features().to_string();
    let has = |feature: &str| features.split(',').any(|known| known.strip_prefix('+') == Some(feature));
    let (vector_bits, n_registers) = if has("avx512f") && has("avx512vl") {
        (WIDEST_BITS, 32)
    } else if has("avx2") && has("fma") {
        (256, 16)
    } else if cfg!(target_arch = "aarch64") {
        (128, 32)
    } else {
        (128, 16)
    };
    let has_f16 = has("f16c") || cfg!(target_arch = "aarch64");
    let has_scatter = vector_bits == WIDEST_BITS;
    let has_range = has_scatter && has("avx512dq");
    let has_streams = cfg!(target_arch = "x86_64");
    Ok(Host {
        triple,
        name,
        features,
        has_range,
        has_scatter,
        has_streams,
        has_f16,
        vector_bits,
        n_registers,
    })
}

impl Host {
    /// This machine without vector registers of more than `max_bits`.
    pub(super) fn within(&self, max_bits: Option<u32>) -> Host {
        let mut host = self.clone();
        if max_bits.is_some_and(|most| most < WIDEST_BITS) && self.vector_bits == WIDEST_BITS {
            host.features += ",-avx512f";
            (host.vector_bits, host.n_registers) = (WIDEST_BITS / 2, 16);
            (host.has_range, host.has_scatter) = (false, false);
        }
        host
    }

    /// A code generator. They are not shared between threads.
    ///
    /// Errors: LLVM knows no such machine.
    pub(super) fn machine(&self) -> Result<TargetMachine, Diagnostic> {
        let triple = TargetTriple::create(&self.triple);
        let target = Target::from_triple(&triple).map_err(|error| missing(&error.to_string()))?;
        let machine = target.create_target_machine(
            &triple,
            &self.name,
            &self.features,
            OptimizationLevel::Default,
            RelocMode::PIC,
            CodeModel::JITDefault,
        );
        machine.ok_or_else(|| missing(&self.name))
    }
}
