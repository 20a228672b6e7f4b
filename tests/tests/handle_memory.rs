//! The memory of a backward call, counted by the allocator, against what its plan says.
//!
//! One test and no other in this process, so that nobody else allocates.

use birkhoff::{
    Backward, BackwardMemory, Differentiable, Inputs, Keep, Options, Pool, compile_differentiable,
};
use birkhoff::{Buffer, Cotangents, Gradient, Loops, Spec, compile};
use birkhoff_tests::golden::folder;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, which counts bytes.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn gained(size: usize) {
    let live = LIVE.fetch_add(size, Ordering::SeqCst) + size;
    PEAK.fetch_max(live, Ordering::SeqCst);
}

// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        gained(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        gained(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Lists, names and alignment: what a call allocates beside arrays.
const OVERHEAD_BYTES: usize = 64 * 1024;

fn assert_near(what: &str, found: usize, told: u64) {
    let told = told as usize;
    assert!(found >= told && found <= told + OVERHEAD_BYTES, "{what}: {found} bytes, the plan says {told}");
}

/// Calls back and forth, and compares what was allocated with what the plan says.
fn check(function: &Differentiable, arrays: &[(String, Buffer)]) -> BackwardMemory {
    let pick = |cotangents: bool| {
        let picked = arrays.iter().filter(|(name, _)| name.starts_with("ct.") == cotangents);
        picked.fold(Inputs::new(), |inputs, (name, buffer)| inputs.view(name, buffer.view()))
    };
    // The workspace of the forward function stays; it is no part of the backward call.
    drop(function.call(&pick(false)).unwrap());
    let before = LIVE.load(Ordering::SeqCst);
    let (outputs, tape) = function.call(&pick(false)).unwrap();
    drop(outputs);
    let told = tape.memory().unwrap();
    assert_near("saved", LIVE.load(Ordering::SeqCst) - before, told.saved_bytes);
    let live = LIVE.load(Ordering::SeqCst);
    PEAK.store(live, Ordering::SeqCst);
    let gradients = tape.backward(&pick(true)).unwrap();
    let taken = PEAK.load(Ordering::SeqCst) - live;
    assert_near("the call", taken, told.temp_bytes + told.scratch_bytes + told.gradient_bytes);
    let report = gradients.report().memory;
    assert_eq!((report.temp_bytes, report.scratch_bytes), (told.temp_bytes, told.scratch_bytes));
    assert_eq!((report.output_bytes, tape.saved_bytes()), (told.gradient_bytes, told.saved_bytes));
    told
}

/// Two threads, and random inputs and cotangents.
fn options_and_arrays(spec: &Spec, wrt: &[String]) -> (Options, Vec<(String, Buffer)>) {
    let options = Options { pool: Some(Pool::new(2).unwrap()), ..Options::default() };
    let gradient =
        Gradient { wrt: wrt.to_vec(), cotangents: Cotangents::All, values: true, loops: Loops::Auto };
    let joint = compile(&spec.clone().differentiated(&gradient).unwrap(), &options).unwrap();
    let names = joint.signature().inputs.iter().map(|(name, _)| name.to_string());
    let arrays = names.zip(joint.random_inputs(3).unwrap()).collect();
    (options, arrays)
}

/// The way back through a stack of layers is told as it runs, rotated or not. Of its states, those at the beginnings of blocks and
/// those of one block are fewer than all.
fn rebuilt_states_take_less_memory() {
    let spec = Spec::load(folder("../examples/mhc_stack.toml")).unwrap();
    let spec = spec.dim("C", 64).dim("hidden", 64).dim("layers", 12).dim("T", 512);
    let wrt: Vec<String> = ["phi", "a_pre", "b_res"].map(String::from).to_vec();
    let (options, arrays) = options_and_arrays(&spec, &wrt);
    let told = [Keep::Stash, Keep::Rebuild].map(|keep| {
        let ask = Backward { wrt: wrt.clone(), keep, budget_bytes: None };
        let function = compile_differentiable(&spec, &options, &ask).unwrap();
        let told = check(&function, &arrays);
        assert_eq!(function.plan().candidate().memory, told, "{}", function.plan().text());
        told
    });
    let states = 4 * 512 * 4 * 64;
    // Of twelve states three are saved, the first of every block, and four are there at a time.
    assert!(told[0].saved_bytes >= told[1].saved_bytes + 8 * states, "{told:?}");
    assert!(told[0].peak_bytes() >= told[1].peak_bytes() + 3 * states, "{told:?}");
    // Within a budget that nothing else meets, this is what is done.
    let ask = Backward { wrt, keep: Keep::Auto, budget_bytes: Some(told[1].peak_bytes()) };
    let function = compile_differentiable(&spec, &options, &ask).unwrap();
    assert!(function.plan().candidate().memory.peak_bytes() <= told[1].peak_bytes());
}

#[test]
fn a_backward_call_takes_the_memory_that_its_plan_says() {
    rebuilt_states_take_less_memory();
    let spec = Spec::load(folder("../examples/mhc_layer.toml")).unwrap().dim("C", 32).dim("T", 4096);
    let wrt: Vec<String> =
        spec.open_signature().unwrap().inputs.iter().map(|(name, _)| name.to_string()).collect();
    let (options, arrays) = options_and_arrays(&spec, &wrt);
    let mut saved = vec![];
    for keep in [Keep::Stash, Keep::Rerun, Keep::Nothing] {
        let ask = Backward { wrt: wrt.clone(), keep, budget_bytes: None };
        let function = compile_differentiable(&spec, &options, &ask).unwrap();
        let told = check(&function, &arrays);
        // At the sizes of the plan, so its own numbers hold too.
        assert_eq!(function.plan().candidate().memory, told, "{}", function.plan().text());
        saved.push(told.saved_bytes);
    }
    // The iterates of the Sinkhorn loop are most of what is kept; without them it is a few numbers per token.
    assert!(saved[0] > 4 * saved[1] && saved[1] > 0 && saved[2] == 0, "{saved:?}");
}
