//! PTX: a module with its manifest, its texts, and its kernels on the simulated device.
//!
//! In: a plan. Out: what `birkhoff compile --target ptx` writes, what `inspect` prints, and a program that can be called.

use crate::elements::scalars;
use crate::engine::Results;
use crate::options::{Options, Stage};
use crate::pipeline::Stages;
use birkhoff_codegen::ptx::{self, Arch, Image, manifest};
use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use birkhoff_ir::dim::{Dim, SizeEnv};
use birkhoff_ir::plan::{self, BufferKind, Program, Step};
use birkhoff_runtime::View;
use birkhoff_runtime::ptx_sim::{Arg, BufferId, Launch, Memory, Module};
use std::collections::BTreeMap;
use std::time::Instant;

/// A compiled function as PTX.
#[derive(Clone, Debug)]
pub struct PtxModule {
    /// The text.
    pub ptx: String,
    /// What it consists of and how it is launched.
    pub manifest: manifest::Manifest,
}

fn emit_options(options: &Options, listings: bool) -> Result<ptx::Options, Diagnostics> {
    let arch = options.arch.as_deref().map_or(Ok(Arch::default()), Arch::new)?;
    Ok(ptx::Options { arch, listings })
}

fn emit(program: &Program, options: &Options, stages: &mut Stages) -> Result<Image, Diagnostics> {
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
    Ok(PtxModule { ptx: image.ptx, manifest })
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

/// A plan whose kernels run on the simulated device.
pub(crate) struct Simulated {
    program: Program,
    image: Image,
    module: Module,
}

impl Simulated {
    /// Compiles the kernels of `program` and loads them.
    pub(crate) fn new(
        program: Program,
        options: &Options,
        stages: &mut Stages,
    ) -> Result<Simulated, Diagnostics> {
        let image = emit(&program, options, stages)?;
        let module = Module::parse(&image.ptx)?;
        Ok(Simulated { program, image, module })
    }

    /// The plan.
    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    /// Runs the plan: the elements of every output, and the number of launches.
    pub(crate) fn run(&self, inputs: &[View<'_>], sizes: &SizeEnv) -> Result<(Results, u64), Diagnostics> {
        let mut machine = Machine {
            simulated: self,
            sizes: sizes.clone(),
            memory: Memory::new(),
            homes: vec![],
            workspaces: BTreeMap::new(),
            n_launches: 0,
        };
        let mut given = inputs.iter();
        for buffer in &self.program.buffers {
            let home = match (buffer.kind, given.as_slice().first()) {
                (BufferKind::Input, Some(view)) => {
                    given.next();
                    machine.memory.add(&buffer.name, view.bytes())?
                }
                _ => {
                    let bytes = machine.dim(&buffer.size_bytes())?.max(0);
                    machine.memory.add_uninitialized(&buffer.name, bytes as usize)?
                }
            };
            machine.homes.push(home);
        }
        machine.steps(&self.program.steps)?;
        let mut results = vec![];
        for (buffer, home) in self.program.buffers.iter().zip(&machine.homes) {
            if buffer.kind != BufferKind::Output {
                continue;
            }
            if let Some(byte) = machine.memory.first_unwritten(*home)? {
                let message = format!(
                    "the kernels of `{}` leave byte {byte} of `{}` unwritten",
                    self.program.name, buffer.name
                );
                return Err(Diagnostic::verify(message).into());
            }
            let bytes = machine.memory.read(*home)?;
            let shape = buffer.shape.iter().map(|dim| machine.dim(dim)).collect::<Result<Vec<_>, _>>()?;
            // Bytes of a vector have no alignment of their own.
            let aligned = birkhoff_runtime::Buffer::from_bytes(&bytes, buffer.dtype, &shape)?;
            results.push(scalars(&aligned.view()).collect());
        }
        Ok((results, machine.n_launches))
    }
}

struct Machine<'s> {
    simulated: &'s Simulated,
    /// Run-time sizes, and the counters of the loops around.
    sizes: SizeEnv,
    memory: Memory,
    /// The memory of each buffer. Swaps change it.
    homes: Vec<BufferId>,
    /// The workspace of a kernel that needs so many bytes.
    workspaces: BTreeMap<(usize, u64), BufferId>,
    n_launches: u64,
}

impl Machine<'_> {
    fn dim(&self, dim: &Dim) -> Result<i64, Diagnostic> {
        dim.eval(&self.sizes).map_err(|error| Diagnostic::input(Default::default(), error.to_string()))
    }

    fn steps(&mut self, steps: &[Step]) -> Result<(), Diagnostic> {
        for step in steps {
            match step {
                Step::Launch { kernel, args } => self.launch(*kernel as usize, args)?,
                Step::Contract(_) => return Err(manifest::no_library()),
                Step::Loop { var, trip, body, swaps } => {
                    for count in 0..self.dim(trip)? {
                        self.sizes.insert(var.clone(), count);
                        self.steps(body)?;
                        swaps.iter().for_each(|(a, b)| self.homes.swap(a.0 as usize, b.0 as usize));
                    }
                    self.sizes.remove(var);
                }
            }
        }
        Ok(())
    }

    fn launch(&mut self, kernel: usize, args: &[plan::Arg]) -> Result<(), Diagnostic> {
        let broken = || Diagnostic::verify("the plan launches a kernel that is not there");
        let func = self.simulated.program.kernels.get(kernel).ok_or_else(broken)?;
        let info = self.simulated.image.kernels.get(kernel).ok_or_else(broken)?;
        self.n_launches += 1;
        let size = info
            .launch_size(func, &self.sizes)
            .map_err(|error| Diagnostic::input(Default::default(), error.to_string()))?;
        if size.blocks == 0 {
            return Ok(());
        }
        let mut packed = vec![];
        for (arg, param) in args.iter().zip(&func.params) {
            let home = self.homes.get(arg.buffer.0 as usize).copied().ok_or_else(broken)?;
            let offset = self.dim(&arg.offset)?.saturating_mul(param.dtype.size_bytes() as i64);
            packed.push(Arg::BufferAt(home, offset));
        }
        for name in &func.sizes {
            packed.push(Arg::U64(self.dim(&Dim::sym(name.clone()))? as u64));
        }
        if !info.workspace.is_empty() {
            let name = format!("workspace of {}", info.entry);
            let key = (kernel, size.workspace_bytes);
            let workspace = match self.workspaces.get(&key) {
                Some(workspace) => *workspace,
                None => self.memory.add_uninitialized(&name, size.workspace_bytes as usize)?,
            };
            self.workspaces.insert(key, workspace);
            packed.push(Arg::Buffer(workspace));
        }
        let launch =
            Launch { grid: [size.blocks, 1, 1], block: [info.threads, 1, 1], dynamic_shared_bytes: 0 };
        self.simulated.module.entry(&info.entry)?.run(&launch, &packed, &mut self.memory)?;
        Ok(())
    }
}
