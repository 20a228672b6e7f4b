//! Launches: a grid of blocks over memory, in two orders of the threads.
//!
//! In: an entry of a module, the extents of the grid and of a block, arguments, memory. Out: memory as the kernel left it,
//! and what was counted; or the first fault, with memory as it was. Blocks run in parallel on the current rayon pool, and
//! nothing depends on that: blocks that meet in memory are refused, and with global atomics blocks run in turn.

use super::code::{Program, StaticArray};
use super::exec::block::Block;
use super::exec::{Fault, Machine, Order, has_vectors};
use super::globals::{Globals, MAX_BLOCKS};
use super::memory::{BufferId, Memory, Snapshot};
use birkhoff_ir::diag::{Diagnostic, Span};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use std::ops::AddAssign;

/// The most threads of a block (CUDA programming guide, "Technical Specifications per Compute Capability").
const MAX_THREADS: u64 = 1024;
/// The most shared memory of a block, declared and dynamic: that of sm_90.
const MAX_SHARED_BYTES: u64 = 227 * 1024;

/// The most local memory of a thread (same table).
const MAX_LOCAL_BYTES: u64 = 512 * 1024;

/// The extents of a launch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Launch {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Bytes of the open `.extern .shared` array.
    pub dynamic_shared_bytes: u32,
}

/// A parameter of a kernel.
#[derive(Clone, PartialEq, Debug)]
pub enum Arg {
    /// The address of a buffer.
    Buffer(BufferId),
    /// The address of a byte of a buffer.
    BufferAt(BufferId, i64),
    /// An integer of 32 bits.
    U32(u32),
    /// An integer of 64 bits.
    U64(u64),
    /// A float of 32 bits.
    F32(f32),
    /// A float of 64 bits.
    F64(f64),
    /// The bytes of a parameter of any size.
    Bytes(Vec<u8>),
}

/// Which orders of threads run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Orders {
    /// Forward, then in reverse on the same input; the results must agree to the bit.
    Both,
    /// Forward only.
    Forward,
}

/// How a launch is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Which orders of threads run.
    pub orders: Orders,
    /// A thread that executes more instructions is stopped: its loop may never end.
    pub max_instructions: u64,
    /// Count what blocks load: [`Counts::block_loaded_bytes`].
    pub block_loads: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { orders: Orders::Both, max_instructions: 1 << 32, block_loads: false }
    }
}

/// What a launch did, counted in the forward order.
///
/// Bytes of global memory count each access of each thread; those of constant memory and of parameters do not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Bytes of all loads from global memory.
    pub loaded_bytes: u64,
    /// Bytes that blocks load from global memory: what several threads of a block load from one place, by one instruction that
    /// they run together, counts once. 0 unless [`Options::block_loads`] asks for it.
    pub block_loaded_bytes: u64,
    /// Bytes of all stores to global memory.
    pub stored_bytes: u64,
    /// Different bytes of the buffers that were loaded.
    pub distinct_loaded_bytes: u64,
    /// Different bytes of the buffers that were stored to.
    pub distinct_stored_bytes: u64,
    /// Load instructions on global memory.
    pub global_loads: u64,
    /// Store instructions on global memory.
    pub global_stores: u64,
    /// Bytes of all loads from shared memory.
    pub shared_loaded_bytes: u64,
    /// Bytes of all stores to shared memory.
    pub shared_stored_bytes: u64,
    /// Bytes of loads and stores of `.local` memory.
    pub local_bytes: u64,
    /// Atomics and reductions on memory; their bytes count nowhere else.
    pub atomics: u64,
    /// Instructions that threads executed, those whose guard was false among them.
    pub instructions: u64,
    /// Barriers that blocks passed.
    pub barriers: u64,
    /// Threads that ran.
    pub threads: u64,
    /// Blocks that ran.
    pub blocks: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.loaded_bytes += other.loaded_bytes;
        self.block_loaded_bytes += other.block_loaded_bytes;
        self.stored_bytes += other.stored_bytes;
        self.distinct_loaded_bytes += other.distinct_loaded_bytes;
        self.distinct_stored_bytes += other.distinct_stored_bytes;
        self.global_loads += other.global_loads;
        self.global_stores += other.global_stores;
        self.shared_loaded_bytes += other.shared_loaded_bytes;
        self.shared_stored_bytes += other.shared_stored_bytes;
        self.local_bytes += other.local_bytes;
        self.atomics += other.atomics;
        self.instructions += other.instructions;
        self.barriers += other.barriers;
        self.threads += other.threads;
        self.blocks += other.blocks;
    }
}

/// An entry of a module.
#[derive(Clone, Copy)]
pub struct Entry<'m> {
    pub(super) program: &'m Program,
    pub(super) statics: &'m [StaticArray],
}

impl Entry<'_> {
    /// The name of the entry.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// Names and sizes in bytes of the parameters.
    pub fn params(&self) -> Vec<(&str, u32)> {
        self.program.params.iter().map(|param| (param.name.as_str(), param.size_bytes)).collect()
    }

    /// Bytes of shared memory that the entry declares.
    pub fn static_shared_bytes(&self) -> u64 {
        self.program.shared_declared_bytes
    }

    /// Runs the kernel with the default [`Options`].
    ///
    /// Errors: as those of [`Entry::run_with`].
    pub fn run(&self, launch: &Launch, args: &[Arg], memory: &mut Memory) -> Result<Counts, Diagnostic> {
        self.run_with(&Options::default(), launch, args, memory)
    }

    /// Runs the kernel. The module's own `.global` arrays start with their initial values each time.
    ///
    /// Errors: a launch that no device would take, arguments that are not the parameters, or a fault of a thread; the last
    /// names the line, the entry, the block and the thread. Memory is then as it was.
    pub fn run_with(
        &self,
        options: &Options,
        launch: &Launch,
        args: &[Arg],
        memory: &mut Memory,
    ) -> Result<Counts, Diagnostic> {
        // From here on memory is shared among host threads; its words are atomic.
        let memory: &Memory = memory;
        self.check_launch(launch)?;
        let params = self.pack(args, memory)?;
        let n_blocks: u64 = launch.grid.iter().map(|extent| u64::from(*extent)).product();
        let machine = |order: Order, looks_closely: bool| {
            let is_serial = looks_closely || self.program.has_global_atomics || n_blocks == 1;
            Machine {
                program: self.program,
                launch,
                options,
                globals: Globals::new(memory, self.statics, self.program.global_granule, is_serial),
                params: params.clone(),
                order,
                looks_closely,
                runs_alone: looks_closely || self.program.has_atomics(),
                is_serial,
                has_vectors: has_vectors(),
            }
        };
        let before = memory.snapshot();
        let run = || -> Result<(Counts, Option<Snapshot>), Box<Fault>> {
            let forward = machine(Order::Forward, false);
            let mut counts = pass(&forward)?;
            (counts.distinct_loaded_bytes, counts.distinct_stored_bytes) = forward.globals.distinct_bytes();
            if options.orders == Orders::Forward {
                return Ok((counts, None));
            }
            let after = memory.snapshot();
            memory.restore(&before);
            pass(&machine(Order::Reverse, false))?;
            Ok((counts, Some(after)))
        };
        let fault = match run() {
            Ok((counts, None)) => return Ok(counts),
            Ok((counts, Some(after))) => {
                let difference = memory.difference(&after);
                let error = difference.map(|(buffer, byte)| self.disagreement(buffer, byte));
                memory.restore(if error.is_some() { &before } else { &after });
                return error.map_or(Ok(counts), Err);
            }
            Err(fault) => fault,
        };
        // Which fault came first may have depended on host threads, so blocks run again, one after the other.
        let mut faults = Vec::new();
        for order in [Order::Forward, Order::Reverse] {
            memory.restore(&before);
            if order == Order::Forward || options.orders == Orders::Both {
                faults.extend(pass(&machine(order, true)).err());
            }
        }
        memory.restore(&before);
        let first = faults.iter().rev().max_by_key(|fault| fault.kind).unwrap_or(&fault);
        Err(first.diagnose(self.program, launch))
    }

    fn disagreement(&self, buffer: &str, byte: usize) -> Diagnostic {
        let name = self.name();
        Diagnostic::input(
            Span::NONE,
            format!("byte {byte} of `{buffer}` depends on the order in which the threads of a block of `{name}` run"),
        )
        .help("two threads store to it, or one loads what another stores, with nothing to order them")
    }

    fn check_launch(&self, launch: &Launch) -> Result<(), Diagnostic> {
        let name = self.name();
        let threads: u64 = launch.block.iter().map(|extent| u64::from(*extent)).product();
        let blocks = launch.grid.iter().try_fold(1_u64, |n, extent| n.checked_mul(u64::from(*extent)));
        let shared = self.program.shared_declared_bytes + u64::from(launch.dynamic_shared_bytes);
        if threads == 0 || threads > MAX_THREADS || launch.block[2] > 64 {
            let block = launch.block;
            return Err(Diagnostic::device(format!(
                "a block of {block:?} threads cannot be launched (`{name}`)"
            ))
            .help("a block has 1 to 1024 threads, at most 64 of them along z"));
        }
        if blocks.is_none_or(|blocks| blocks == 0 || blocks > MAX_BLOCKS)
            || launch.grid[1..].iter().any(|n| *n > 65535)
        {
            let grid = launch.grid;
            return Err(Diagnostic::device(format!(
                "a grid of {grid:?} blocks cannot be launched (`{name}`)"
            ))
            .help("a grid has at least one block, and at most 65535 along y and z"));
        }
        if shared > MAX_SHARED_BYTES {
            return Err(Diagnostic::device(format!(
                "`{name}` takes {shared} bytes of shared memory; a block has at most {MAX_SHARED_BYTES}"
            )));
        }
        if self.program.private_bytes > MAX_LOCAL_BYTES {
            return Err(Diagnostic::device(format!(
                "`{name}` takes more than the {MAX_LOCAL_BYTES} bytes of local memory that a thread has"
            )));
        }
        if self.program.exact_threads.is_some_and(|exact| exact != launch.block) {
            let exact = self.program.exact_threads.unwrap_or_default();
            return Err(Diagnostic::device(format!(
                "`{name}` says .reqntid {exact:?}, and the block is {:?}",
                launch.block
            )));
        }
        if self.program.max_threads.is_some_and(|most| threads > most) {
            let most = self.program.max_threads.unwrap_or_default();
            return Err(Diagnostic::device(format!(
                "`{name}` says .maxntid {most}, and the block has {threads}"
            )));
        }
        Ok(())
    }

    /// The bytes of the parameters.
    fn pack(&self, args: &[Arg], memory: &Memory) -> Result<Vec<u8>, Diagnostic> {
        let params = &self.program.params;
        if args.len() != params.len() {
            let (expected, found) = (params.len(), args.len());
            let name = self.name();
            return Err(Diagnostic::device(format!(
                "`{name}` has {expected} parameters, found {found} arguments"
            )));
        }
        let mut packed = vec![0; self.program.param_bytes as usize];
        for (param, arg) in params.iter().zip(args) {
            let bytes = match arg {
                Arg::Buffer(id) => memory.address(*id).to_le_bytes().to_vec(),
                Arg::BufferAt(id, offset) => {
                    memory.address(*id).wrapping_add_signed(*offset).to_le_bytes().to_vec()
                }
                Arg::U32(value) => value.to_le_bytes().to_vec(),
                Arg::U64(value) => value.to_le_bytes().to_vec(),
                Arg::F32(value) => value.to_le_bytes().to_vec(),
                Arg::F64(value) => value.to_le_bytes().to_vec(),
                Arg::Bytes(bytes) => bytes.clone(),
            };
            if bytes.len() != param.size_bytes as usize {
                return Err(Diagnostic::device(format!(
                    "parameter `{}` of `{}` has {} bytes, and its argument {}",
                    param.name,
                    self.name(),
                    param.size_bytes,
                    bytes.len()
                )));
            }
            let start = param.offset as usize;
            packed[start..start + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(packed)
    }
}

/// Runs all blocks; of several faults the one of the first block is given.
fn pass(machine: &Machine<'_>) -> Result<Counts, Box<Fault>> {
    let n_blocks: u64 = machine.launch.grid.iter().map(|extent| u64::from(*extent)).product();
    if machine.is_serial {
        let mut block = Block::new(machine);
        let mut counts = Counts::default();
        for idx in 0..n_blocks {
            let number = if machine.order == Order::Forward { idx } else { n_blocks - 1 - idx };
            counts += block.run(number)?;
        }
        return Ok(counts);
    }
    let merge = |a: Result<Counts, Box<Fault>>, b: Result<Counts, Box<Fault>>| match (a, b) {
        (Ok(mut counts), Ok(other)) => {
            counts += other;
            Ok(counts)
        }
        (Err(a), Err(b)) => Err(if a.block <= b.block { a } else { b }),
        (Err(fault), _) | (_, Err(fault)) => Err(fault),
    };
    (0..n_blocks)
        .into_par_iter()
        .map_init(|| Block::new(machine), |block, idx| block.run(idx))
        .reduce(|| Ok(Counts::default()), merge)
}
