//! The memory a call reports against what the allocator saw. A test of its own, because it counts the whole process.

use birkhoff_ir::dim::{Dim, SizeEnv, Sym};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::abi::KernelFn;
use birkhoff_ir::plan::{Buffer, BufferKind, Program, SizeDecl};
use birkhoff_runtime::{Executable, KernelImage, Pool, View};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::SeqCst) + layout.size();
        PEAK.fetch_max(now, Ordering::SeqCst);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: passed on.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct NoKernels;

// SAFETY: there is no kernel.
unsafe impl KernelImage for NoKernels {
    fn entry(&self, _kernel_idx: usize) -> Option<KernelFn> {
        None
    }
}

fn buffer(name: &str, factor: i64, kind: BufferKind) -> Buffer {
    let shape = vec![Dim::sym("T"), Dim::constant(factor)];
    Buffer { name: Sym::from(name), dtype: DType::F32, shape, kind }
}

#[test]
fn a_call_takes_what_the_plan_says() {
    let slot = |factor: i64| vec![Dim::sym("T").mul(&Dim::constant(4 * factor))];
    let program = Program {
        name: Sym::from("f"),
        sizes: vec![SizeDecl { name: Sym::from("T"), bounds: (1, 1 << 31), default: None }],
        buffers: vec![
            buffer("x", 1, BufferKind::Input),
            buffer("y", 100, BufferKind::Output),
            buffer("a", 30, BufferKind::Temp(0)),
            buffer("b", 20, BufferKind::Temp(0)),
            buffer("c", 70, BufferKind::Temp(1)),
        ],
        slots: vec![slot(30), slot(70)],
        kernels: vec![],
        steps: vec![],
    };
    let executable = Executable::new(program, Arc::new(NoKernels), Pool::single()).unwrap();
    let x = vec![0.0f32; 10_000];
    let inputs = [View::of(&x, &[10_000, 1]).unwrap()];
    let before = NOW.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    let (outputs, report) = executable.call(&inputs, &SizeEnv::new()).unwrap();
    let seen = (PEAK.load(Ordering::SeqCst) - before) as u64;
    let told = report.memory.output_bytes + report.memory.temp_bytes + report.memory.scratch_bytes;
    assert_eq!(told, 10_000 * 4 * (100 + 30 + 70));
    assert_eq!(report.memory.peak_bytes(), told + 40_000);
    // Beyond the arrays: padding, and what the call keeps about its sizes.
    assert!(seen >= told && seen < told + 8192, "told {told}, seen {seen}");
    drop(outputs);

    // Called again, the workspace is there already.
    PEAK.store(NOW.load(Ordering::SeqCst), Ordering::SeqCst);
    let before = NOW.load(Ordering::SeqCst);
    drop(executable.call(&inputs, &SizeEnv::new()).unwrap());
    let seen = (PEAK.load(Ordering::SeqCst) - before) as u64;
    assert!(seen < report.memory.output_bytes + 8192, "seen {seen}");
}
