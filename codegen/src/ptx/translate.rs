//! From an MLIR module to PTX: MLIR's passes, LLVM IR, LLVM's optimiser, LLVM's code generator.
//!
//! In: a module that holds one GPU module. Out: texts. What MLIR and LLVM complain about is our error, with their words.
//! A thread keeps its MLIR context: making one takes longer than compiling.

use super::Options;
use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use inkwell::OptimizationLevel;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple,
};
use melior::Context;
use melior::dialect::DialectRegistry;
use melior::ir::{BlockLike, Module};
use melior::pass::PassManager;
use melior::utility::{
    parse_pass_pipeline, register_all_dialects, register_all_llvm_translations, register_all_passes,
};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Once;

/// MLIR's passes: structured control flow, then everything, to the LLVM dialect.
const PIPELINE: &str = "builtin.module(gpu.module(convert-scf-to-cf,convert-gpu-to-nvvm{index-bitwidth=64},\
     reconcile-unrealized-casts))";
const TRIPLE: &str = "nvptx64-nvidia-cuda";
/// The version of PTX: every driver since CUDA 12.0 knows it.
const PTX_VERSION: &str = "+ptx80";

/// An MLIR context with what this back end uses.
pub(super) struct Session {
    context: Context,
    /// What MLIR has complained about.
    complaints: Rc<RefCell<Vec<String>>>,
}

/// The texts of a module.
pub(super) struct Texts {
    pub(super) mlir: String,
    pub(super) llvm: String,
    pub(super) ptx: String,
}

/// Runs `work` with this thread's session.
pub(super) fn with_session<T>(work: impl FnOnce(&Session) -> T) -> T {
    thread_local! {
        static SESSION: Session = Session::new();
    }
    SESSION.with(work)
}

impl Session {
    fn new() -> Session {
        static PASSES: Once = Once::new();
        PASSES.call_once(|| {
            register_all_passes();
            Target::initialize_nvptx(&InitializationConfig::default());
        });
        let registry = DialectRegistry::new();
        register_all_dialects(&registry);
        let context = Context::new();
        context.enable_multi_threading(false);
        context.append_dialect_registry(&registry);
        for name in ["arith", "cf", "gpu", "llvm", "nvvm", "scf"] {
            context.get_or_load_dialect(name);
        }
        register_all_llvm_translations(&context);
        let complaints = Rc::new(RefCell::new(vec![]));
        let sink = complaints.clone();
        context.attach_diagnostic_handler(move |diagnostic| {
            sink.borrow_mut().push(diagnostic.to_string());
            true
        });
        Session { context, complaints }
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// An error that says what MLIR has complained about.
    fn broken(&self, what: &str) -> Diagnostic {
        let complaints = self.complaints.take();
        Diagnostic::verify(format!("{what}: {}", complaints.join("; ")))
    }

    /// Takes a module all the way.
    pub(super) fn translate(&self, mut module: Module<'_>, options: &Options) -> Result<Texts, Diagnostics> {
        self.complaints.take();
        if !module.as_operation().verify() {
            return Err(self.broken("the emitted MLIR does not verify").into());
        }
        let mlir = if options.listings { module.as_operation().to_string() } else { String::new() };
        let passes = PassManager::new(&self.context);
        parse_pass_pipeline(passes.as_operation_pass_manager(), PIPELINE)
            .map_err(|error| Diagnostic::verify(format!("MLIR does not know its passes: {error}")))?;
        passes.run(&mut module).map_err(|_| self.broken("MLIR's passes fail"))?;
        let inner = module.body().first_operation();
        let inner = inner.ok_or_else(|| Diagnostic::verify("MLIR's passes have dropped the GPU module"))?;
        let context = inkwell::context::Context::create();
        // SAFETY: the operation is a GPU module in the LLVM dialect, and the context lives; both libraries are the same LLVM.
        let raw = unsafe { mlir_sys::mlirTranslateModuleToLLVMIR(inner.to_raw(), context.raw().cast()) };
        if raw.is_null() {
            return Err(self.broken("MLIR does not translate to LLVM IR").into());
        }
        // SAFETY: the module was just made in that context, and nobody else owns it.
        let module = unsafe { inkwell::module::Module::new(raw.cast()) };
        let (llvm, ptx) = generate(&module, options)?;
        Ok(Texts { mlir, llvm, ptx })
    }
}

/// What LLVM does to a module before it generates code. Kernels come with their loops cut, unrolled and in order, so that the
/// rest of `default<O3>` takes most of its time and finds nothing; `ptxas` optimises again.
const PASSES: &str = "function(sroa,early-cse<memssa>,instcombine<no-verify-fixpoint>,loop-mssa(licm),early-cse<memssa>,\
                      dse,adce,simplifycfg)";

/// Optimises a module and generates its code: LLVM IR if it is asked for, and PTX.
fn generate(module: &inkwell::module::Module<'_>, options: &Options) -> Result<(String, String), Diagnostic> {
    let machine = machine(options)?;
    module.set_triple(&TargetTriple::create(TRIPLE));
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    let broken = |what: &str, error: String| Diagnostic::verify(format!("{what}: {error}"));
    module.verify().map_err(|error| broken("the LLVM IR does not verify", error.to_string()))?;
    module
        .run_passes(PASSES, &machine, PassBuilderOptions::create())
        .map_err(|error| broken("LLVM's passes fail", error.to_string()))?;
    let llvm = if options.listings { module.print_to_string().to_string() } else { String::new() };
    let code = machine
        .write_to_memory_buffer(module, FileType::Assembly)
        .map_err(|error| broken("LLVM generates no code", error.to_string()))?;
    let bytes = code.as_slice();
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let ptx =
        String::from_utf8(bytes.to_vec()).map_err(|error| broken("PTX is no text", error.to_string()))?;
    Ok((llvm, ptx))
}

fn machine(options: &Options) -> Result<TargetMachine, Diagnostic> {
    let triple = TargetTriple::create(TRIPLE);
    let missing = |what: String| {
        Diagnostic::device(format!("this LLVM has no code generator for NVIDIA GPUs: {what}"))
            .help("install an LLVM 19 with the target NVPTX")
    };
    let target = Target::from_triple(&triple).map_err(|error| missing(error.to_string()))?;
    let machine = target.create_target_machine(
        &triple,
        options.arch.name(),
        PTX_VERSION,
        OptimizationLevel::Aggressive,
        RelocMode::Default,
        CodeModel::Default,
    );
    machine.ok_or_else(|| missing(format!("it does not know {}", options.arch.name())))
}
