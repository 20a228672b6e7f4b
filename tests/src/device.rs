//! Running a plan as PTX on the simulated device, launch by launch.
//!
//! In: a plan and its sizes. Out: its kernels, and what each launch did, counted.

use birkhoff::{Cotangents, Gradient, Loops, Options, Spec, Stage, Target, lower};
use birkhoff_codegen::ptx::{self, Image};
use birkhoff_ir::dim::{Dim, SizeEnv};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::plan::{self, BufferKind, Program, Step};
use birkhoff_runtime::ptx_sim::{self, Arg, BufferId, Counts, Launch, Memory, Module, Orders};

/// The options of a simulated GPU.
pub fn options() -> Options {
    Options { target: Target::PtxSim, ..Options::default() }
}

/// The plan of the spec's function on a GPU; `None` if no target has kernels for it.
pub fn program(spec: &Spec) -> Option<Program> {
    lower(spec, &options(), Stage::Plan, &mut |_| ()).ok().and_then(|stages| stages.program)
}

/// The function with its values and its gradients with respect to all inputs that have some; `None` if there are none.
pub fn gradient(spec: &Spec) -> Option<Spec> {
    let program = program(spec)?;
    let inputs = program.buffers.iter().filter(|buffer| buffer.kind == BufferKind::Input);
    let wrt: Vec<String> =
        inputs.filter(|buffer| buffer.dtype.is_float()).map(|buffer| buffer.name.to_string()).collect();
    let gradient = Gradient { wrt, cotangents: Cotangents::All, values: true, loops: Loops::Auto };
    if gradient.wrt.is_empty() { None } else { spec.clone().differentiated(&gradient).ok() }
}

/// A plan whose kernels run on the simulated device.
pub struct Device<'p> {
    /// The plan.
    pub program: &'p Program,
    /// Its kernels as PTX.
    pub image: Image,
    sizes: SizeEnv,
    memory: Memory,
    homes: Vec<BufferId>,
    /// Kernel and counts of every launch.
    pub launches: Vec<(usize, Counts)>,
}

impl<'p> Device<'p> {
    /// Compiles the kernels and fills the inputs with small numbers.
    pub fn new(program: &'p Program, sizes: &SizeEnv) -> Device<'p> {
        let image = ptx::compile_program(program, &ptx::Options::default());
        Device::with_image(program, sizes, image.unwrap_or_else(|errors| panic!("{errors}")))
    }

    /// Fills the inputs, for kernels that were compiled before.
    pub fn with_image(program: &'p Program, sizes: &SizeEnv, image: Image) -> Device<'p> {
        let mut memory = Memory::new();
        let mut homes = vec![];
        for buffer in &program.buffers {
            let n_elems = buffer.shape.iter().map(|dim| dim.eval(sizes).expect("a size")).product::<i64>();
            let home = if buffer.kind == BufferKind::Input {
                memory.add(&buffer.name, &elements(buffer.dtype, n_elems))
            } else {
                let bytes = n_elems as usize * buffer.dtype.size_bytes() as usize;
                memory.add_uninitialized(&buffer.name, bytes)
            };
            homes.push(home.expect("a buffer"));
        }
        Device { program, image, sizes: sizes.clone(), memory, homes, launches: vec![] }
    }

    /// Runs all steps on the PTX `text`.
    pub fn run(&mut self, text: &str) -> Result<(), String> {
        let module = Module::parse(text).map_err(|errors| format!("{errors}"))?;
        let program = self.program;
        self.steps(&module, &program.steps)
    }

    fn steps(&mut self, module: &Module, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            match step {
                Step::Launch { kernel, args } => self.launch(module, *kernel as usize, args)?,
                Step::Loop { var, trip, body, swaps } => {
                    for count in 0..self.dim(trip) {
                        self.sizes.insert(var.clone(), count);
                        self.steps(module, body)?;
                        swaps.iter().for_each(|(a, b)| self.homes.swap(a.0 as usize, b.0 as usize));
                    }
                    self.sizes.remove(var);
                }
                Step::Unless { .. } => panic!("this executor reads nothing back"),
                Step::Contract(_) => panic!("a GPU has no library"),
            }
        }
        Ok(())
    }

    fn dim(&self, dim: &Dim) -> i64 {
        dim.eval(&self.sizes).expect("a size")
    }

    fn launch(&mut self, module: &Module, kernel: usize, args: &[plan::Arg]) -> Result<(), String> {
        let (func, info) = (&self.program.kernels[kernel], &self.image.kernels[kernel]);
        let size = info.launch_size(func, &self.sizes).expect("a launch");
        if size.blocks == 0 {
            return Ok(());
        }
        let mut packed = vec![];
        for (arg, param) in args.iter().zip(&func.params) {
            let offset = self.dim(&arg.offset) * param.dtype.size_bytes() as i64;
            packed.push(Arg::BufferAt(self.homes[arg.buffer.0 as usize], offset));
        }
        packed.extend(func.sizes.iter().map(|name| Arg::U64(self.sizes[name] as u64)));
        if !info.workspace.is_empty() {
            let workspace = self.memory.add_uninitialized("workspace", size.workspace_bytes as usize);
            packed.push(Arg::Buffer(workspace.expect("a workspace")));
        }
        let launch =
            Launch { grid: [size.blocks, 1, 1], block: [info.threads, 1, 1], dynamic_shared_bytes: 0 };
        let options = ptx_sim::Options { block_loads: true, orders: Orders::Forward, ..Default::default() };
        let entry = module.entry(&info.entry).map_err(|error| format!("{error:?}"))?;
        let counts = entry.run_with(&options, &launch, &packed, &mut self.memory);
        self.launches.push((kernel, counts.map_err(|error| format!("{error:?}"))?));
        Ok(())
    }
}

/// Small numbers, all of the same few: not so small that sums of them vanish, and no integer beyond the least size.
fn elements(dtype: DType, n_elems: i64) -> Vec<u8> {
    let value = |idx: i64| 0.125 + (idx * 37 % 101) as f64 / 404.0;
    let bytes = |idx: i64| match dtype {
        DType::F64 => value(idx).to_le_bytes().to_vec(),
        DType::F32 => (value(idx) as f32).to_le_bytes().to_vec(),
        // The upper half of an f32 is a bf16.
        DType::Bf16 => (value(idx) as f32).to_le_bytes()[2..].to_vec(),
        DType::F16 => 0x3400_u16.to_le_bytes().to_vec(),
        DType::I64 => 0_i64.to_le_bytes().to_vec(),
        DType::I32 => 0_i32.to_le_bytes().to_vec(),
        DType::Bool => vec![u8::from(idx % 2 == 0)],
    };
    (0..n_elems).flat_map(bytes).collect()
}
