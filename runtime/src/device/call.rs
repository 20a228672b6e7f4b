//! Calling a plan on a device.
//!
//! In: a plan, its image, a device, arrays, sizes. Out: outputs written, and what was launched. Everything that can be known
//! before the first launch is computed before it: extents, offsets, launches, workspaces. Temporaries share the memory of their
//! slots; one that takes over a slot from another discards what that left there, so a device that knows which bytes were
//! written finds a plan whose temporaries meet.

use super::{Device, DeviceArg, DeviceBuffer, DeviceImage, DeviceLaunch, LaunchShape, LaunchTime};
use crate::executable::Memory;
use crate::resolve::{Arg, Part, Resolved, Step, check, resolve};
use crate::view::{View, ViewMut};
use birkhoff_ir::diag::{Diagnostic, Diagnostics, Span};
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::plan::{self, BufferKind, Program};

/// A plan whose kernels run on a device.
pub struct DeviceProgram {
    program: Program,
    image: Box<dyn DeviceImage>,
}

/// What a call did.
#[derive(Clone, PartialEq, Debug)]
pub struct DeviceReport {
    /// Memory of the device that it took; scratch is the workspaces of kernels.
    pub memory: Memory,
    /// Launches of the plan, those that had nothing to compute among them.
    pub n_launches: u64,
    /// When each ran that computed something; empty if nobody asked, or the device has no clock.
    pub times: Vec<KernelTime>,
}

/// When a launch ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelTime {
    /// Position in the plan's kernels.
    pub kernel: usize,
    /// Since the first launch of the call.
    pub time: LaunchTime,
}

impl DeviceProgram {
    /// Joins a plan and its image.
    ///
    /// Errors: a plan that breaks its own promises (verify), or one that leaves products to a library of the host (unsupported).
    pub fn new(program: Program, image: Box<dyn DeviceImage>) -> Result<DeviceProgram, Diagnostics> {
        let mut errors = check(&program);
        if has_contractions(&program.steps) {
            let message = format!("the plan of `{}` leaves products to a library of the host", program.name);
            errors.push(
                Diagnostic::unsupported(message)
                    .help("schedule the function for a GPU, without library contractions"),
            );
        }
        Diagnostics(errors).into_result(DeviceProgram { program, image })
    }

    /// The plan.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Calls the function on `device`; inputs and outputs come in the order of the signature. `is_timed` asks for the times of
    /// launches.
    ///
    /// Errors: another number or other types of arrays than the plan has (input), sizes out of bounds, and whatever the device
    /// refuses. Outputs are written only if everything ran.
    pub fn call_into(
        &self,
        device: &mut dyn Device,
        inputs: &[View<'_>],
        outputs: &mut [ViewMut<'_>],
        sizes: &SizeEnv,
        is_timed: bool,
    ) -> Result<DeviceReport, Diagnostics> {
        let resolved = resolve(&self.program, sizes)?;
        self.check_arrays(inputs, outputs, &resolved)?;
        let shapes = self.launch_shapes(device, sizes)?;
        let mut call = Call {
            program: &self.program,
            resolved: &resolved,
            shapes: &shapes,
            device,
            homes: vec![],
            slots: vec![],
            workspaces: vec![None; shapes.len()],
            workspace_bytes: 0,
            counters: SizeEnv::new(),
            n_launches: 0,
            launched: vec![],
            is_timed,
        };
        call.allocate(inputs)?;
        call.steps(&resolved.steps)?;
        let times = call.device.finish()?;
        let results = call.results()?;
        for (output, bytes) in outputs.iter_mut().zip(&results) {
            output.copy_from_bytes(bytes)?;
        }
        let sum_of = |kind: BufferKind| {
            let sized = self.program.buffers.iter().zip(&resolved.buffer_bytes);
            let own = sized.filter(|(buffer, _)| buffer.kind == kind).map(|(_, bytes)| *bytes);
            own.fold(0, u64::saturating_add)
        };
        let memory = Memory {
            input_bytes: sum_of(BufferKind::Input),
            output_bytes: sum_of(BufferKind::Output),
            temp_bytes: resolved.slot_bytes.iter().copied().fold(0, u64::saturating_add),
            scratch_bytes: call.workspace_bytes,
        };
        let pairs = call.launched.iter().zip(times);
        let times = pairs.map(|(kernel, time)| KernelTime { kernel: *kernel, time }).collect();
        Ok(DeviceReport { memory, n_launches: call.n_launches, times })
    }

    fn check_arrays(
        &self,
        inputs: &[View<'_>],
        outputs: &[ViewMut<'_>],
        resolved: &Resolved,
    ) -> Result<(), Diagnostics> {
        let given = inputs.iter().map(|view| (BufferKind::Input, view.dtype(), view.shape()));
        let taken = outputs.iter().map(|view| (BufferKind::Output, view.dtype(), view.shape()));
        let found: Vec<_> = given.chain(taken).collect();
        let buffers = self.program.buffers.iter().zip(&resolved.shapes);
        let arrays = buffers.filter(|(buffer, _)| !matches!(buffer.kind, BufferKind::Temp(_)));
        let expected: Vec<_> =
            arrays.clone().map(|(buffer, shape)| (buffer.kind, buffer.dtype, shape.as_slice())).collect();
        if found == expected {
            return Ok(());
        }
        let list = |texts: Vec<String>| texts.join(", ");
        let message = format!(
            "the inputs and outputs of `{}` are {}; found {}",
            self.program.name,
            list(
                arrays
                    .map(|(buffer, shape)| format!("`{}` {}{shape:?}", buffer.name, buffer.dtype))
                    .collect()
            ),
            list(found.iter().map(|(_, dtype, shape)| format!("{dtype}{shape:?}")).collect())
        );
        Err(Diagnostic::input(Span::NONE, message).into())
    }

    /// How every kernel is launched, within the limits of the device.
    fn launch_shapes(&self, device: &dyn Device, sizes: &SizeEnv) -> Result<Vec<LaunchShape>, Diagnostics> {
        let limits = device.limits();
        let shape = |(idx, func)| {
            let mut shape: LaunchShape = self.image.launch_shape(idx, func, sizes)?;
            if shape.threads > limits.threads {
                let message = format!(
                    "a block of the kernel `{}` has {} threads; this device launches at most {}",
                    func.name, shape.threads, limits.threads
                );
                return Err(Diagnostic::device(message));
            }
            // Blocks take further tiles in turn, so fewer do as well.
            shape.blocks = shape.blocks.min(limits.blocks);
            Ok(shape)
        };
        let shapes: Result<Vec<LaunchShape>, Diagnostic> =
            self.program.kernels.iter().enumerate().map(shape).collect();
        Ok(shapes?)
    }
}

fn has_contractions(steps: &[plan::Step]) -> bool {
    steps.iter().any(|step| matches!(step, plan::Step::Contract(_)) || has_contractions(step.body()))
}

fn no_contraction() -> Diagnostic {
    Diagnostic::verify("a plan for a device has a contraction")
}

/// A slot of temporaries.
struct Slot {
    memory: DeviceBuffer,
    /// The buffer that used it last.
    user: Option<usize>,
}

/// Where a buffer of the plan is now.
#[derive(Clone, Copy)]
enum Home {
    Own(DeviceBuffer),
    Slot(usize),
}

struct Call<'a> {
    program: &'a Program,
    resolved: &'a Resolved,
    shapes: &'a [LaunchShape],
    device: &'a mut dyn Device,
    /// Of each buffer; swaps exchange them.
    homes: Vec<Home>,
    slots: Vec<Slot>,
    /// The workspace of each kernel that was launched and needs one.
    workspaces: Vec<Option<DeviceBuffer>>,
    workspace_bytes: u64,
    /// Counters of the loops around.
    counters: SizeEnv,
    /// Launches of the plan, those that have nothing to compute among them.
    n_launches: u64,
    /// The kernels that were launched, in order.
    launched: Vec<usize>,
    is_timed: bool,
}

impl Call<'_> {
    fn allocate(&mut self, inputs: &[View<'_>]) -> Result<(), Diagnostic> {
        for (idx, bytes) in self.resolved.slot_bytes.iter().enumerate() {
            let memory = self.device.alloc(&format!("slot {idx} of temporaries"), *bytes)?;
            self.slots.push(Slot { memory, user: None });
        }
        let mut inputs = inputs.iter();
        for (buffer, bytes) in self.program.buffers.iter().zip(&self.resolved.buffer_bytes) {
            let home = match buffer.kind {
                BufferKind::Temp(slot) => Home::Slot(slot as usize),
                BufferKind::Output => Home::Own(self.device.alloc(&buffer.name, *bytes)?),
                BufferKind::Input => {
                    let memory = self.device.alloc(&buffer.name, *bytes)?;
                    if let Some(view) = inputs.next() {
                        self.device.upload(memory, view.bytes())?;
                    }
                    Home::Own(memory)
                }
            };
            self.homes.push(home);
        }
        Ok(())
    }

    fn steps(&mut self, steps: &[Step]) -> Result<(), Diagnostic> {
        for step in steps {
            match step {
                Step::Launch { kernel, args } => self.launch(*kernel, args)?,
                Step::Contract(_) => return Err(no_contraction()),
                // A device's kernels follow each other without a wait of the host.
                Step::Rows { parts, .. } => {
                    for part in parts {
                        match part {
                            Part::Launch { kernel, args, .. } => self.launch(*kernel, args)?,
                            Part::Contract(..) => return Err(no_contraction()),
                        }
                    }
                }
                Step::Loop { var, trip, body, swaps } => {
                    for iteration in 0..trip.eval(&self.counters)? {
                        self.counters.insert(var.clone(), iteration);
                        self.steps(body)?;
                        swaps.iter().for_each(|(a, b)| self.swap(*a, *b));
                    }
                    self.counters.remove(var);
                }
                Step::Unless { flag, body } => {
                    let mut truth = [0];
                    let memory = self.memory_of(*flag)?;
                    self.device.download(memory, &mut truth)?;
                    if truth == [0] {
                        self.steps(body)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Lets two buffers exchange their memory, with what is in it.
    fn swap(&mut self, a: usize, b: usize) {
        for slot in &mut self.slots {
            slot.user = match slot.user {
                Some(user) if user == a => Some(b),
                Some(user) if user == b => Some(a),
                user => user,
            };
        }
        self.homes.swap(a, b);
    }

    /// The memory of a buffer that a launch uses.
    fn memory_of(&mut self, buffer: usize) -> Result<DeviceBuffer, Diagnostic> {
        let slot = match self.homes[buffer] {
            Home::Own(memory) => return Ok(memory),
            Home::Slot(slot) => &mut self.slots[slot],
        };
        if slot.user.replace(buffer).is_some_and(|user| user != buffer) {
            self.device.discard(slot.memory)?;
        }
        Ok(slot.memory)
    }

    fn launch(&mut self, kernel: usize, args: &[Arg]) -> Result<(), Diagnostic> {
        let shape = &self.shapes[kernel];
        self.n_launches += 1;
        if shape.blocks == 0 {
            return Ok(());
        }
        let mut packed = Vec::with_capacity(args.len() + 4);
        for arg in args {
            let offset_bytes = arg.offset_bytes(&self.counters, self.resolved.buffer_bytes[arg.buffer])?;
            packed.push(DeviceArg::Pointer { buffer: self.memory_of(arg.buffer)?, offset_bytes });
        }
        packed.extend(self.resolved.kernels[kernel].sizes.iter().map(|size| DeviceArg::Size(*size)));
        if shape.workspace_bytes > 0 {
            let buffer = self.workspace(kernel)?;
            packed.push(DeviceArg::Pointer { buffer, offset_bytes: 0 });
        }
        let (entry, blocks, threads) = (shape.entry.as_str(), shape.blocks, shape.threads);
        let launch = DeviceLaunch { entry, blocks, threads, args: &packed, is_timed: self.is_timed };
        self.device.launch(&launch)?;
        self.launched.push(kernel);
        Ok(())
    }

    /// The workspace of a kernel; what its last launch left there is of no use.
    fn workspace(&mut self, kernel: usize) -> Result<DeviceBuffer, Diagnostic> {
        if let Some(memory) = self.workspaces[kernel] {
            self.device.discard(memory)?;
            return Ok(memory);
        }
        let shape = &self.shapes[kernel];
        let memory = self.device.alloc(&format!("workspace of {}", shape.entry), shape.workspace_bytes)?;
        self.workspace_bytes = self.workspace_bytes.saturating_add(shape.workspace_bytes);
        self.workspaces[kernel] = Some(memory);
        Ok(memory)
    }

    /// The bytes of the outputs.
    fn results(&mut self) -> Result<Vec<Vec<u8>>, Diagnostic> {
        let buffers = self.program.buffers.iter().zip(&self.homes).zip(&self.resolved.buffer_bytes);
        let mut results = vec![];
        for ((buffer, home), size_bytes) in buffers {
            if let (BufferKind::Output, Home::Own(memory)) = (buffer.kind, home) {
                let mut bytes = vec![0; *size_bytes as usize];
                self.device.download(*memory, &mut bytes)?;
                results.push(bytes);
            }
        }
        Ok(results)
    }
}
