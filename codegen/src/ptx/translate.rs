//! From an MLIR module to PTX: MLIR's passes, LLVM IR, LLVM's optimiser, LLVM's code generator.
//!
//! In: a module that holds one GPU module with one kernel. Out: texts. What MLIR and LLVM complain about is our error, with their
//! words. MLIR contexts are kept: making one takes longer than compiling. Kernels are modules of their own and need nothing of
//! each other, so that they go this way on many threads.

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
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// MLIR's passes: structured control flow, then everything, to the LLVM dialect.
const PIPELINE: &str =
    "builtin.module(gpu.module(convert-scf-to-cf,convert-to-llvm,reconcile-unrealized-casts))";
const TRIPLE: &str = "nvptx64-nvidia-cuda";
/// The version of PTX: every driver since CUDA 12.0 knows it.
const PTX_VERSION: &str = "+ptx80";

/// An MLIR context with what this back end uses.
pub(super) struct Session {
    context: Context,
    /// What MLIR has complained about.
    complaints: Rc<RefCell<Vec<String>>>,
}

// SAFETY: MLIR ties a context to no thread, it only has to be used by one at a time; the list of complaints belongs to the context's
// handler and to the session alone, and goes with them.
unsafe impl Send for Session {}

/// Sessions that nobody uses.
static IDLE: Mutex<Vec<Session>> = Mutex::new(vec![]);

/// What a thread needs to translate kernels, lent while it does so.
pub(super) struct Worker {
    session: Option<Session>,
    machine: Result<TargetMachine, Diagnostic>,
}

impl Worker {
    /// Takes a session that is idle, or makes one.
    pub(super) fn new(options: &Options) -> Worker {
        // Nothing panics while the list is locked.
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let session = idle.unwrap_or_else(Session::new);
        Worker { session: Some(session), machine: machine(options) }
    }

    /// Runs `work` with the session and the code generator.
    ///
    /// Errors: those of `work`; an LLVM without a code generator for GPUs.
    pub(super) fn run<T>(
        &self,
        work: impl FnOnce(&Session, &TargetMachine) -> Result<T, Diagnostics>,
    ) -> Result<T, Diagnostics> {
        match (&self.session, &self.machine) {
            (Some(session), Ok(machine)) => work(session, machine),
            (_, Err(error)) => Err(error.clone().into()),
            (None, _) => Err(Diagnostic::verify("a thread lost its MLIR context").into()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        IDLE.lock().unwrap_or_else(PoisonError::into_inner).extend(self.session.take());
    }
}

/// The texts of a module.
#[derive(Default)]
pub(super) struct Texts {
    pub(super) mlir: String,
    pub(super) llvm: String,
    pub(super) ptx: String,
    /// What each step took.
    pub(super) timings: Vec<(&'static str, Duration)>,
}

/// Measures the steps of the way.
pub(super) struct Clock {
    last: Instant,
    timings: Vec<(&'static str, Duration)>,
}

impl Clock {
    pub(super) fn new() -> Clock {
        Clock { last: Instant::now(), timings: vec![] }
    }

    /// What has happened since the last of these was this step.
    fn lap(&mut self, step: &'static str) {
        let now = Instant::now();
        self.timings.push((step, now - self.last));
        self.last = now;
    }
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

    /// Takes a module all the way; `clock` has been running since it was begun.
    pub(super) fn translate(
        &self,
        mut module: Module<'_>,
        machine: &TargetMachine,
        listings: bool,
        mut clock: Clock,
    ) -> Result<Texts, Diagnostics> {
        clock.lap("to MLIR");
        self.complaints.take();
        // As for all passes: what was built is checked where that is being worked on, and LLVM IR is verified in any case.
        if cfg!(debug_assertions) && !module.as_operation().verify() {
            return Err(self.broken("the emitted MLIR does not verify").into());
        }
        let mlir = if listings { module.as_operation().to_string() } else { String::new() };
        clock.lap("MLIR verified");
        let passes = PassManager::new(&self.context);
        passes.enable_verifier(cfg!(debug_assertions));
        parse_pass_pipeline(passes.as_operation_pass_manager(), PIPELINE)
            .map_err(|error| Diagnostic::verify(format!("MLIR does not know its passes: {error}")))?;
        passes.run(&mut module).map_err(|_| self.broken("MLIR's passes fail"))?;
        clock.lap("MLIR's passes");
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
        clock.lap("to LLVM IR");
        let (llvm, ptx) = generate(&module, machine, listings, &mut clock)?;
        Ok(Texts { mlir, llvm, ptx, timings: clock.timings })
    }
}

/// What LLVM does to a module before it generates code: registers become values, blocks without purpose go. Kernels come with their
/// loops cut, unrolled and in order and with equal values shared, and `ptxas` moves what is invariant out of loops and combines
/// instructions: the rest of `default<O3>` takes most of its time, and `ptxas` makes the same number of instructions without it.
const PASSES: &str = "function(mem2reg,simplifycfg)";

/// Optimises a module and generates its code: LLVM IR if it is asked for, and PTX.
fn generate(
    module: &inkwell::module::Module<'_>,
    machine: &TargetMachine,
    listings: bool,
    clock: &mut Clock,
) -> Result<(String, String), Diagnostic> {
    module.set_triple(&TargetTriple::create(TRIPLE));
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    let broken = |what: &str, error: String| Diagnostic::verify(format!("{what}: {error}"));
    module.verify().map_err(|error| broken("the LLVM IR does not verify", error.to_string()))?;
    module
        .run_passes(PASSES, machine, PassBuilderOptions::create())
        .map_err(|error| broken("LLVM's passes fail", error.to_string()))?;
    clock.lap("LLVM's passes");
    let llvm = if listings { module.print_to_string().to_string() } else { String::new() };
    let code = machine
        .write_to_memory_buffer(module, FileType::Assembly)
        .map_err(|error| broken("LLVM generates no code", error.to_string()))?;
    let bytes = code.as_slice();
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let ptx =
        String::from_utf8(bytes.to_vec()).map_err(|error| broken("PTX is no text", error.to_string()))?;
    clock.lap("LLVM's code generator");
    Ok((llvm, ptx))
}

/// A code generator. It only names instructions: `ptxas` allocates registers, orders and optimises all again, and makes the same of
/// what LLVM's own optimisations for the machine would take most of the time for.
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
        OptimizationLevel::None,
        RelocMode::Default,
        CodeModel::Default,
    );
    machine.ok_or_else(|| missing(format!("it does not know {}", options.arch.name())))
}
