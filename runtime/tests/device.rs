//! The host's half of a call on a device: on one that only writes down what it is asked for, and on the simulated one with PTX
//! written by hand. Nothing here needs a GPU, and the driver's calls are all that is not tested.

use birkhoff_ir::diag::{Diagnostic, Diagnostics, ErrorKind};
use birkhoff_ir::dim::{Dim, SizeEnv, Sym};
use birkhoff_ir::kernel::{Func, abi};
use birkhoff_ir::plan::{BufferKind, Program, Step};
use birkhoff_runtime::device::{
    Device, DeviceArg, DeviceBuffer, DeviceImage, DeviceLaunch, DeviceLimits, DeviceProgram, DeviceReport,
    LaunchShape, LaunchTime,
};
use birkhoff_runtime::ptx_sim::{Module, Options, SimulatedDevice};
use birkhoff_runtime::{Memory, View, ViewMut};
use std::time::Duration;
use support::{STEPS, WIDTH, expected, launch, program, tokens};

mod support;

/// `normalise` and `advance` of `calls.rs`, a thread for each row of a tile; the sums go through the workspace.
const PTX: &str = include_str!("support/rows.ptx");

/// Both kernels with 16 threads; `normalise` has a workspace of 64 bytes a block.
struct Rows {
    threads: u32,
}

impl DeviceImage for Rows {
    fn launch_shape(&self, idx: usize, kernel: &Func, sizes: &SizeEnv) -> Result<LaunchShape, Diagnostic> {
        let blocks = abi::n_tiles(kernel, sizes).expect("all sizes") as u32;
        let workspace_bytes = if idx == 0 { 64 * u64::from(blocks) } else { 0 };
        Ok(LaunchShape { entry: kernel.name.to_string(), blocks, threads: self.threads, workspace_bytes })
    }
}

/// A device that does nothing but write down what it is asked for.
struct Recorder {
    log: Vec<String>,
    n_buffers: usize,
    n_timed: u64,
    max_blocks: u32,
    /// The launch that fails, counted from 0.
    fails_at: Option<usize>,
    n_launches: usize,
}

fn recorder() -> Recorder {
    Recorder { log: vec![], n_buffers: 0, n_timed: 0, max_blocks: 1000, fails_at: None, n_launches: 0 }
}

impl Device for Recorder {
    fn limits(&self) -> DeviceLimits {
        DeviceLimits { blocks: self.max_blocks, threads: 1024 }
    }

    fn alloc(&mut self, name: &str, size_bytes: u64) -> Result<DeviceBuffer, Diagnostic> {
        self.log.push(format!("alloc {}: {name}, {size_bytes} bytes", self.n_buffers));
        self.n_buffers += 1;
        Ok(DeviceBuffer(self.n_buffers - 1))
    }

    fn upload(&mut self, to: DeviceBuffer, bytes: &[u8]) -> Result<(), Diagnostic> {
        self.log.push(format!("upload {} bytes to {}", bytes.len(), to.0));
        Ok(())
    }

    fn download(&mut self, from: DeviceBuffer, bytes: &mut [u8]) -> Result<(), Diagnostic> {
        self.log.push(format!("download {} bytes from {}", bytes.len(), from.0));
        bytes.fill(0);
        Ok(())
    }

    fn discard(&mut self, buffer: DeviceBuffer) -> Result<(), Diagnostic> {
        self.log.push(format!("discard {}", buffer.0));
        Ok(())
    }

    fn launch(&mut self, launch: &DeviceLaunch<'_>) -> Result<(), Diagnostic> {
        if self.fails_at == Some(self.n_launches) {
            return Err(Diagnostic::device("it is broken"));
        }
        self.n_launches += 1;
        self.n_timed += u64::from(launch.is_timed);
        let arg = |arg: &DeviceArg| match arg {
            DeviceArg::Pointer { buffer, offset_bytes } => format!("{}+{offset_bytes}", buffer.0),
            DeviceArg::Size(size) => format!("={size}"),
        };
        let args: Vec<String> = launch.args.iter().map(arg).collect();
        let (entry, blocks, threads) = (launch.entry, launch.blocks, launch.threads);
        self.log.push(format!("{entry}<<<{blocks}, {threads}>>>({})", args.join(" ")));
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<LaunchTime>, Diagnostic> {
        self.log.push("finish".to_string());
        let time =
            |idx| LaunchTime { start: Duration::from_micros(idx), end: Duration::from_micros(idx + 1) };
        Ok((0..self.n_timed).map(time).collect())
    }
}

/// Calls a plan on a device with `n_tokens` rows; gives the output and the report.
fn call(
    program: Program,
    device: &mut dyn Device,
    n_tokens: i64,
    is_timed: bool,
) -> Result<(Vec<f32>, DeviceReport), Diagnostics> {
    let program = DeviceProgram::new(program, Box::new(Rows { threads: 16 }))?;
    let x = tokens(n_tokens);
    let mut y = vec![-1.0f32; x.len()];
    let inputs = [View::of(&x, &[n_tokens, WIDTH])?, View::of(&STEPS, &[5])?];
    let sizes = SizeEnv::from([(Sym::from("T"), n_tokens)]);
    let mut outputs = [ViewMut::of(&mut y, &[n_tokens, WIDTH])?];
    let report = program.call_into(device, &inputs, &mut outputs, &sizes, is_timed)?;
    Ok((y, report))
}

#[test]
fn a_device_is_asked_for_what_the_plan_says() {
    let mut device = recorder();
    let (_, report) = call(program(), &mut device, 37, false).unwrap();
    // Rows of 256 bytes; three tiles of 16 rows. The two temporaries swap their slots after every iteration.
    let expected = "\
        alloc 0: slot 0 of temporaries, 9472 bytes
        alloc 1: slot 1 of temporaries, 9472 bytes
        alloc 2: x, 9472 bytes
        upload 9472 bytes to 2
        alloc 3: steps, 20 bytes
        upload 20 bytes to 3
        alloc 4: y, 9472 bytes
        alloc 5: workspace of normalise, 192 bytes
        normalise<<<3, 16>>>(2+0 0+0 =37 5+0)
        advance<<<3, 16>>>(3+0 0+0 1+0 =37)
        advance<<<3, 16>>>(3+4 1+0 0+0 =37)
        advance<<<3, 16>>>(3+8 0+0 1+0 =37)
        advance<<<3, 16>>>(3+12 1+0 0+0 =37)
        advance<<<3, 16>>>(3+16 0+0 1+0 =37)
        discard 5
        normalise<<<3, 16>>>(1+0 4+0 =37 5+0)
        finish
        download 9472 bytes from 4";
    let expected: Vec<&str> = expected.lines().map(str::trim).collect();
    assert_eq!(device.log, expected);
    let memory =
        Memory { input_bytes: 9472 + 20, output_bytes: 9472, temp_bytes: 2 * 9472, scratch_bytes: 192 };
    assert_eq!((report.memory, report.n_launches, report.times), (memory, 7, vec![]));
}

#[test]
fn launches_are_timed_where_that_is_asked_for() {
    let (_, report) = call(program(), &mut recorder(), 5, true).unwrap();
    let kernels: Vec<usize> = report.times.iter().map(|time| time.kernel).collect();
    assert_eq!(kernels, [0, 1, 1, 1, 1, 1, 0]);
    let last = report.times[6].time;
    assert_eq!((last.start, last.end), (Duration::from_micros(6), Duration::from_micros(7)));
}

#[test]
fn a_grid_that_a_device_does_not_launch_is_cut() {
    let mut device = Recorder { max_blocks: 2, ..recorder() };
    call(program(), &mut device, 37, false).unwrap();
    assert_eq!(device.log.iter().filter(|line| line.contains("<<<2, 16>>>")).count(), 7);
}

#[test]
fn nothing_is_launched_for_no_rows() {
    let mut program = program();
    program.sizes[0].bounds = (0, 10);
    let mut device = recorder();
    let (y, report) = call(program, &mut device, 0, false).unwrap();
    assert!(y.is_empty() && device.n_launches == 0 && report.n_launches == 7);
}

#[test]
fn a_failing_launch_leaves_outputs_as_they_were() {
    for fails_at in 0..7 {
        let mut device = Recorder { fails_at: Some(fails_at), ..recorder() };
        let program = DeviceProgram::new(program(), Box::new(Rows { threads: 16 })).unwrap();
        let (x, mut y) = (tokens(3), vec![-1.0f32; 3 * WIDTH as usize]);
        let inputs = [View::of(&x, &[3, WIDTH]).unwrap(), View::of(&STEPS, &[5]).unwrap()];
        let sizes = SizeEnv::from([(Sym::from("T"), 3)]);
        let mut outputs = [ViewMut::of(&mut y, &[3, WIDTH]).unwrap()];
        let errors = program.call_into(&mut device, &inputs, &mut outputs, &sizes, false).unwrap_err();
        assert_eq!(errors.0[0].message, "it is broken");
        assert!(
            y.iter().all(|value| *value == -1.0)
                && !device.log.iter().any(|line| line.starts_with("download"))
        );
    }
}

#[test]
fn what_cannot_be_called_is_refused() {
    let wide = DeviceProgram::new(program(), Box::new(Rows { threads: 2048 })).unwrap();
    let (x, mut y) = (tokens(3), vec![0.0f32; 3 * WIDTH as usize]);
    let inputs = [View::of(&x, &[3, WIDTH]).unwrap(), View::of(&STEPS, &[5]).unwrap()];
    let sizes = |n: i64| SizeEnv::from([(Sym::from("T"), n)]);
    let mut outputs = [ViewMut::of(&mut y, &[3, WIDTH]).unwrap()];
    let mut refusal = |program: &DeviceProgram, n_inputs: usize, n: i64| {
        let mut device = recorder();
        let called = program.call_into(&mut device, &inputs[..n_inputs], &mut outputs, &sizes(n), false);
        assert!(device.log.is_empty(), "{:?}", device.log);
        let error = called.unwrap_err().0.remove(0);
        (error.kind, error.message)
    };
    let message = "a block of the kernel `normalise` has 2048 threads; this device launches at most 1024";
    assert_eq!(refusal(&wide, 2, 3), (ErrorKind::Device, message.to_string()));
    let good = DeviceProgram::new(program(), Box::new(Rows { threads: 16 })).unwrap();
    let (kind, message) = refusal(&good, 1, 3);
    assert_eq!(kind, ErrorKind::Input);
    assert_eq!(
        message,
        "the inputs and outputs of `f` are `x` f32[3, 64], `steps` f32[5], `y` f32[3, 64]; found f32[3, 64], f32[3, 64]"
    );
    assert_eq!(refusal(&good, 2, 4).0, ErrorKind::Input);
    assert_eq!(refusal(&good, 2, 0).1, "the size `T` must be in 1..=2147483648, found 0");
    let mut broken = program();
    broken.steps.push(launch(7, &[]));
    assert!(DeviceProgram::new(broken, Box::new(Rows { threads: 16 })).is_err());
}

fn simulated(program: Program, n_tokens: i64) -> Result<Vec<f32>, Diagnostics> {
    let module = Module::parse(PTX)?;
    let mut device = SimulatedDevice::new(&module, Options::default());
    Ok(call(program, &mut device, n_tokens, true)?.0)
}

#[test]
fn the_simulated_device_computes_the_function() {
    for n_tokens in [1, 16, 37, 100] {
        assert_eq!(simulated(program(), n_tokens).unwrap(), expected(&tokens(n_tokens)), "{n_tokens}");
    }
}

#[test]
fn temporaries_that_meet_in_a_slot_are_found() {
    let mut program = program();
    let zero = Dim::default;
    program.buffers[4].kind = BufferKind::Temp(0);
    // `b` takes the place of `a`, which is still read.
    program.steps = vec![
        launch(0, &[(0, zero()), (3, zero())]),
        launch(0, &[(0, zero()), (4, zero())]),
        launch(0, &[(3, zero()), (2, zero())]),
    ];
    let error = simulated(program.clone(), 5).unwrap_err().0.remove(0);
    assert!(
        error.message.ends_with("loads byte 0 of `slot 0 of temporaries`, which nothing has written"),
        "{}",
        error.message
    );
    // One after the other they may share it.
    program.steps[1] = launch(0, &[(3, zero()), (2, zero())]);
    program.steps[2] = launch(0, &[(0, zero()), (4, zero())]);
    simulated(program, 5).unwrap();
}

#[test]
fn outputs_that_nothing_writes_are_found() {
    let mut program = program();
    program.steps.retain(|step| matches!(step, Step::Loop { .. }) || *step == program_start());
    let error = simulated(program, 5).unwrap_err().0.remove(0);
    assert_eq!(error.message, "no kernel has written byte 0 of `y`");
    assert_eq!(error.kind, ErrorKind::Verify);
}

fn program_start() -> Step {
    program().steps.remove(0)
}
