//! The calls of the CUDA driver, on a stand-in for its library that is written in C: `support/libcuda.c`.
//!
//! Each test compiles it into a folder and runs its other half in a process of its own, which finds that library before any
//! other. So what a real driver makes of the calls is open, and what the calls are is not.
#![cfg(feature = "cuda")]

use birkhoff_ir::diag::{Diagnostic, Diagnostics, ErrorKind};
use birkhoff_ir::dim::{SizeEnv, Sym};
use birkhoff_ir::kernel::{Func, abi};
use birkhoff_runtime::device::cuda::Gpu;
use birkhoff_runtime::device::{Device, DeviceImage, DeviceProgram, DeviceReport, LaunchShape};
use birkhoff_runtime::{View, ViewMut};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::{STEPS, WIDTH, expected, program, tokens};

mod support;

const PTX: &str = include_str!("support/rows.ptx");

/// Set in the process that finds the stand-in.
const INSIDE: &str = "BIRKHOFF_TEST_STAND_IN";

/// Runs `test` with the stand-in: in this process if it finds it, else in one that does.
fn with_stand_in(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/libcuda.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-ffp-contract=off", "-o"]);
    compiler.arg(folder.join("libcuda.so")).arg(source);
    assert!(compiler.status().expect("a C compiler").success());
    let mut process = Command::new(std::env::current_exe().expect("this program"));
    process.args([name, "--exact", "--nocapture"]).env(INSIDE, "1").env("LD_LIBRARY_PATH", &folder);
    let output = process.output().expect("it starts");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

struct Rows;

impl DeviceImage for Rows {
    fn launch_shape(&self, idx: usize, kernel: &Func, sizes: &SizeEnv) -> Result<LaunchShape, Diagnostic> {
        let blocks = abi::n_tiles(kernel, sizes).expect("all sizes") as u32;
        let workspace_bytes = if idx == 0 { 64 * u64::from(blocks) } else { 0 };
        Ok(LaunchShape { entry: kernel.name.to_string(), blocks, threads: 16, workspace_bytes })
    }
}

fn call(
    device: &mut dyn Device,
    n_tokens: i64,
    is_timed: bool,
) -> Result<(Vec<f32>, DeviceReport), Diagnostics> {
    let program = DeviceProgram::new(program(), Box::new(Rows))?;
    let x = tokens(n_tokens);
    let mut y = vec![-1.0f32; x.len()];
    let inputs = [View::of(&x, &[n_tokens, WIDTH])?, View::of(&STEPS, &[5])?];
    let sizes = SizeEnv::from([(Sym::from("T"), n_tokens)]);
    let mut outputs = [ViewMut::of(&mut y, &[n_tokens, WIDTH])?];
    let report = program.call_into(device, &inputs, &mut outputs, &sizes, is_timed)?;
    Ok((y, report))
}

/// What the stand-in has not got back: memory, streams, modules, events; and the launches so far.
fn live() -> [i32; 5] {
    ask(b"shimLive")
}

/// How often it was asked for memory.
fn n_allocations() -> i32 {
    let [found] = ask(b"shimAllocations");
    found
}

fn ask<const N: usize>(name: &[u8]) -> [i32; N] {
    let mut found = [0; N];
    // SAFETY: the library is the one that the driver's calls go to, and its function of that name takes room for so many numbers.
    unsafe {
        let library = cudarc::driver::sys::culib();
        let ask = library.get::<unsafe extern "C" fn(*mut i32) -> i32>(name).expect("the stand-in");
        ask(found.as_mut_ptr());
    }
    found
}

#[test]
fn a_plan_runs_through_the_calls_of_the_driver() {
    with_stand_in("a_plan_runs_through_the_calls_of_the_driver", || {
        let gpu = Gpu::open(0).unwrap();
        assert_eq!(gpu.capability(), (8, 7));
        let module = gpu.load(PTX).unwrap();
        // More tiles than the four blocks that it launches, and from several host threads.
        std::thread::scope(|scope| {
            for n_tokens in [1, 16, 37, 1000] {
                let module = &module;
                scope.spawn(move || {
                    let (y, report) = call(&mut module.session().unwrap(), n_tokens, false).unwrap();
                    assert!(y == expected(&tokens(n_tokens)), "{n_tokens}");
                    assert_eq!((report.n_launches, report.times.len()), (7, 0));
                });
            }
        });
        drop((module, gpu));
        assert_eq!(live(), [0, 0, 0, 0, 28]);
    });
}

#[test]
fn events_tell_when_kernels_ran() {
    with_stand_in("events_tell_when_kernels_ran", || {
        let module = Gpu::open(0).unwrap().load(PTX).unwrap();
        let (_, report) = call(&mut module.session().unwrap(), 20, true).unwrap();
        let ms: Vec<(usize, Duration, Duration)> =
            report.times.iter().map(|it| (it.kernel, it.time.start, it.time.end)).collect();
        let at = Duration::from_millis;
        let kernels = [0, 1, 1, 1, 1, 1, 0];
        let expected: Vec<_> =
            (0..).zip(kernels).map(|(idx, kernel)| (kernel, at(idx), at(idx + 1))).collect();
        assert_eq!(ms, expected);
        drop(module);
        assert_eq!(live()[..4], [0; 4]);
    });
}

#[test]
fn memory_is_kept_from_call_to_call() {
    with_stand_in("memory_is_kept_from_call_to_call", || {
        let module = Gpu::open(0).unwrap().load(PTX).unwrap();
        let taken = |n_tokens: i64| {
            let before = n_allocations();
            let (y, _) = call(&mut module.session().unwrap(), n_tokens, false).unwrap();
            assert!(y == expected(&tokens(n_tokens)), "{n_tokens}");
            n_allocations() - before
        };
        let first = taken(37);
        let (memory, streams) = (live()[0], live()[1]);
        assert!(first > 0 && memory == first && streams > 0);
        // The same sizes and somewhat smaller ones take what is there.
        assert_eq!([37, 30, 37].map(taken), [0; 3]);
        // What is much too large is not taken, and not kept: no more memory is there than the last call used.
        assert!(taken(1) > 0);
        assert_eq!((live()[0], live()[1]), (memory, streams));
        drop(module);
        assert_eq!(live()[..4], [0; 4]);
    });
}

#[test]
fn what_the_driver_refuses_is_told() {
    with_stand_in("what_the_driver_refuses_is_told", || {
        let error = Gpu::open(3).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Device);
        let gpu = Gpu::open(0).unwrap();
        let error = gpu.load("nonsense").err().unwrap();
        assert!(error.message.starts_with("the CUDA driver cannot load the kernels: "), "{}", error.message);
        assert!(error.message.contains("CUDA_ERROR_INVALID_PTX"), "{}", error.message);
        assert!(gpu.load("no\0text").is_err());
        let module = gpu.load(PTX).unwrap();
        // The stand-in gives at most a mebibyte at once.
        let error = call(&mut module.session().unwrap(), 5000, false).unwrap_err().0.remove(0);
        assert_eq!(error.kind, ErrorKind::Device);
        let start = "the CUDA driver cannot give 1280000 bytes for `slot 0 of temporaries`: ";
        assert!(error.message.starts_with(start), "{}", error.message);
        let mut session = module.session().unwrap();
        let buffer = session.alloc("small", 8).unwrap();
        assert!(session.upload(buffer, &[0; 9]).is_err() && session.download(buffer, &mut [0; 9]).is_err());
        drop(session);
        drop((module, gpu));
        assert_eq!(live()[..4], [0; 4]);
    });
}
