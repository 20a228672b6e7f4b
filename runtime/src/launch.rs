//! The steps of one call: loops, swaps, offsets, and kernels over the threads of a pool.
//!
//! In: a resolved plan, entry points, and the memory of every buffer. Out: the kernels have run. Takes no decision: what runs
//! on which thread is left open, and no result depends on it.

use crate::gemm;
use crate::memory::Block;
use crate::pool::Pool;
use crate::resolve::{Arg, Contract, Kernel, Part, Resolved, Step};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::{SizeEnv, div_ceil};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::abi::KernelFn;
use birkhoff_ir::plan::contract::ContractSizes;
use birkhoff_ir::plan::rows::Side;
use std::time::Instant;

/// Kernels whose parameters are smaller than this run on the calling thread: waking others takes longer than they do.
const SMALL_KERNEL_BYTES: u64 = 16 << 10;

/// A call in progress.
pub(crate) struct Call<'a> {
    resolved: &'a Resolved,
    entries: &'a [KernelFn],
    pool: &'a Pool,
    /// Where each buffer is now; swaps exchange entries.
    starts: Vec<*mut u8>,
    scratch: Vec<*mut u8>,
    counters: SizeEnv,
    n_launches: u64,
    /// Told after each launch, if anybody asked.
    trace: Option<&'a mut dyn FnMut(Launched)>,
}

/// What was launched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ran {
    /// The kernel of that position in the plan.
    Kernel(usize),
    /// The contraction of that position in the plan.
    Contract(usize),
    /// All steps of the group of that position in the plan, for one block of rows after the other.
    Rows(usize),
}

/// One launch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Launched {
    /// Of what.
    pub what: Ran,
    /// When it began.
    pub start: Instant,
    /// When the last of it was done.
    pub end: Instant,
}

/// Pointers that several threads use for disjoint tiles.
struct Shared<'a> {
    params: &'a [*mut u8],
    scratch: &'a [*mut u8],
}

// SAFETY: the tiles of a kernel write disjoint parts of its parameters (no two threads run the same tile), and every thread
// has its own scratch.
unsafe impl Sync for Shared<'_> {}

impl<'a> Call<'a> {
    /// A call with each buffer's memory and each thread's scratch.
    pub(crate) fn new(
        resolved: &'a Resolved,
        entries: &'a [KernelFn],
        pool: &'a Pool,
        starts: Vec<*mut u8>,
        scratch: &[Block],
        trace: Option<&'a mut dyn FnMut(Launched)>,
    ) -> Call<'a> {
        let scratch = scratch.iter().map(|block| block.start().as_ptr()).collect();
        Call { resolved, entries, pool, starts, scratch, counters: SizeEnv::new(), n_launches: 0, trace }
    }

    /// Runs all steps; returns how many kernels and contractions ran.
    ///
    /// # Safety
    ///
    /// `starts` holds one pointer per buffer, in the plan's order, to as many bytes as `resolved` says, aligned to the
    /// element type; all but the inputs may be written, by nobody else meanwhile. `scratch` holds a block of
    /// `resolved.scratch_bytes` for every thread of the pool. `entries` are the plan's kernels.
    pub(crate) unsafe fn run(mut self) -> Result<u64, Diagnostic> {
        // SAFETY: passed on.
        unsafe { self.run_steps(&self.resolved.steps)? };
        Ok(self.n_launches)
    }

    /// # Safety
    ///
    /// As [`Call::run`].
    unsafe fn run_steps(&mut self, steps: &[Step]) -> Result<(), Diagnostic> {
        for step in steps {
            match step {
                // SAFETY: passed on.
                Step::Launch { kernel, args } => unsafe { self.launch(*kernel, args)? },
                // SAFETY: passed on.
                Step::Contract(contract) => unsafe { self.contract(contract)? },
                Step::Rows { group, n_rows, block, parts } => {
                    let parts = self.prepared(parts)?;
                    let start = self.clock();
                    // SAFETY: passed on; `resolve` found that the parts can be cut so.
                    unsafe { self.rows(*n_rows, *block, &parts) };
                    self.tell(Ran::Rows(*group), start);
                }
                Step::Loop { var, trip, body, swaps } => {
                    for iteration in 0..trip.eval(&self.counters)? {
                        self.counters.insert(var.clone(), iteration);
                        // SAFETY: passed on; swaps exchange memory of equal size.
                        unsafe { self.run_steps(body)? };
                        swaps.iter().for_each(|(a, b)| self.starts.swap(*a, *b));
                    }
                    self.counters.remove(var);
                }
                Step::Unless { flag, body } => {
                    // SAFETY: the buffer has one byte (`resolve::check`), which the steps before wrote.
                    if unsafe { *self.starts[*flag] } == 0 {
                        // SAFETY: passed on.
                        unsafe { self.run_steps(body)? };
                    }
                }
            }
        }
        Ok(())
    }

    /// # Safety
    ///
    /// As [`Call::run`].
    unsafe fn launch(&mut self, kernel_idx: usize, args: &[Arg]) -> Result<(), Diagnostic> {
        let params = self.params(args)?;
        let kernel: &Kernel = &self.resolved.kernels[kernel_idx];
        let entry = self.entries[kernel_idx];
        self.n_launches += 1;
        let shared = Shared { params: &params, scratch: &self.scratch };
        let run = |thread: usize, first: i64, last: i64| {
            let shared = &shared;
            // SAFETY: every parameter points to as many bytes as its shape has at these sizes (`Arg::offset_bytes`), aligned
            // to its element type; sizes are in call order; the scratch of this thread is large enough, aligned, and used by
            // nobody else meanwhile; tiles are within the grid. Inputs are only read (`resolve::check`).
            unsafe {
                entry(shared.params.as_ptr(), kernel.sizes.as_ptr(), first, last, shared.scratch[thread])
            }
        };
        if kernel.n_tiles <= 0 {
            return Ok(());
        }
        let start = self.clock();
        if kernel.n_tiles == 1 || kernel.param_bytes < SMALL_KERNEL_BYTES {
            run(0, 0, kernel.n_tiles);
        } else {
            self.pool.run(kernel.n_tiles, &run);
        }
        self.tell(Ran::Kernel(kernel_idx), start);
        Ok(())
    }

    /// Where the parameters of a launch are now.
    fn params(&self, args: &[Arg]) -> Result<Vec<*mut u8>, Diagnostic> {
        let mut params = Vec::with_capacity(args.len());
        for arg in args {
            let offset = arg.offset_bytes(&self.counters, self.resolved.buffer_bytes[arg.buffer])?;
            // The offset was just checked to lie within the buffer.
            params.push(self.starts[arg.buffer].wrapping_add(offset as usize));
        }
        Ok(params)
    }

    /// The time, if anybody wants to know.
    fn clock(&self) -> Option<Instant> {
        self.trace.as_ref().map(|_| Instant::now())
    }

    /// Tells who asked what ran since `start`.
    fn tell(&mut self, what: Ran, start: Option<Instant>) {
        if let (Some(start), Some(trace)) = (start, &mut self.trace) {
            trace(Launched { what, start, end: Instant::now() });
        }
    }

    /// The parts of a group with the memory that they use now.
    fn prepared(&mut self, parts: &[Part]) -> Result<Vec<Prepared<'a>>, Diagnostic> {
        let mut prepared = Vec::with_capacity(parts.len());
        for part in parts {
            self.n_launches += 1;
            prepared.push(match part {
                Part::Launch { kernel, args, rows, tiles } => Prepared::Tiles {
                    entry: self.entries[*kernel],
                    kernel: &self.resolved.kernels[*kernel],
                    params: self.params(args)?,
                    rows: *rows,
                    tiles: *tiles,
                },
                Part::Contract(contract, side) => Prepared::Product {
                    dtype: contract.dtype,
                    sizes: contract.sizes,
                    starts: self.factors(contract)?,
                    side: *side,
                },
            });
        }
        Ok(prepared)
    }

    /// Runs all parts for a block of rows before those of the next, blocks on all threads.
    ///
    /// # Safety
    ///
    /// As [`Call::run`]; a block begins at a row where every part can be cut, and no part touches what another writes of other
    /// rows.
    unsafe fn rows(&self, n_rows: i64, block: i64, parts: &[Prepared<'_>]) {
        let group = Group { parts, scratch: &self.scratch };
        let n_blocks = div_ceil(n_rows, block);
        self.pool.run(n_blocks, &|thread, first, last| {
            let group = &group;
            for number in first..last {
                let rows = (number * block, n_rows.min((number + 1) * block));
                for part in group.parts {
                    // SAFETY: the memory is as for whole steps; parts of other blocks touch other rows of what this one writes,
                    // and every thread has its own scratch.
                    unsafe { part.run(rows, number + 1 == n_blocks, group.scratch[thread]) };
                }
            }
        });
    }

    /// # Safety
    ///
    /// As [`Call::run`].
    unsafe fn contract(&mut self, contract: &Contract) -> Result<(), Diagnostic> {
        let starts = self.factors(contract)?;
        self.n_launches += 1;
        let start = self.clock();
        // SAFETY: each pointer is to as many bytes as the matrices span (`Arg::offset_bytes`), aligned to the element type; the
        // result overlaps neither factor, and nobody else runs while this step does.
        unsafe { gemm::run(self.pool, contract.dtype, &contract.sizes, starts) };
        self.tell(Ran::Contract(contract.contract), start);
        Ok(())
    }

    /// Where both factors and the result of a contraction are now.
    ///
    /// Errors: the result overlaps a factor.
    fn factors(&self, contract: &Contract) -> Result<[*mut u8; 3], Diagnostic> {
        let mut starts = [std::ptr::null_mut(); 3];
        let mut ranges = [(0, 0); 3];
        for (idx, arg) in contract.args.iter().enumerate() {
            let offset = arg.offset_bytes(&self.counters, self.resolved.buffer_bytes[arg.buffer])?;
            // The offset was just checked to lie within the buffer.
            starts[idx] = self.starts[arg.buffer].wrapping_add(offset as usize);
            let first = starts[idx] as usize;
            ranges[idx] = (first, first + arg.needed_bytes as usize);
        }
        let result = ranges[2];
        if ranges[..2].iter().any(|factor| factor.0 < result.1 && result.0 < factor.1) {
            return Err(Diagnostic::verify("the result of a contraction overlaps one of its factors"));
        }
        Ok(starts)
    }
}

/// A step of a group with its memory.
enum Prepared<'a> {
    Tiles { entry: KernelFn, kernel: &'a Kernel, params: Vec<*mut u8>, rows: i64, tiles: i64 },
    Product { dtype: DType, sizes: ContractSizes, starts: [*mut u8; 3], side: Side },
}

impl Prepared<'_> {
    /// Does what concerns `rows`; behind the last ones also what concerns none.
    ///
    /// # Safety
    ///
    /// As [`Call::run`] for one thread with that scratch; `rows` begin where the part can be cut.
    unsafe fn run(&self, rows: (i64, i64), is_last: bool, scratch: *mut u8) {
        match self {
            Prepared::Tiles { entry, kernel, params, rows: per, tiles } => {
                let tile = |row: i64| (row / per).saturating_mul(*tiles).min(kernel.n_tiles);
                let (first, last) = (tile(rows.0), if is_last { kernel.n_tiles } else { tile(rows.1) });
                if first < last {
                    // SAFETY: as in `Call::launch`, for fewer tiles.
                    unsafe { entry(params.as_ptr(), kernel.sizes.as_ptr(), first, last, scratch) };
                }
            }
            // SAFETY: as in `Call::contract`, for fewer results.
            Prepared::Product { dtype, sizes, starts, side } => unsafe {
                gemm::run_part(*dtype, sizes, *starts, *side, rows)
            },
        }
    }
}

/// What the threads of a group share.
struct Group<'a> {
    parts: &'a [Prepared<'a>],
    scratch: &'a [*mut u8],
}

// SAFETY: blocks write disjoint rows of what the pointers point to, and every thread has its own scratch.
unsafe impl Sync for Group<'_> {}
