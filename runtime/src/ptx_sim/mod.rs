//! A simulated CUDA device: it executes PTX text on the CPU, and is stricter than a GPU.
//!
//! In: the text of a PTX module, as a compiler or a person wrote it; an entry's name, a [`Launch`], arguments, and buffers
//! in a [`Memory`]. Out: the buffers as the kernel leaves them, and [`Counts`] of what it did; or an error that names the
//! line, the block and the thread. The semantics are those of NVIDIA's PTX ISA manual, not those of any emitter.
//!
//! It refuses every opcode, modifier, type and operand that it does not know. When it runs it stops at
//!
//! - accesses out of bounds, misaligned, or in another state space than they say;
//! - use of registers, shared, local or global memory that nothing has written (copies of registers pass this on);
//! - races in shared memory, and blocks that meet in global memory;
//! - barriers in divergent code, lanes of a member mask that do not arrive, division of integers by zero, endless loops.
//!
//! Every launch runs twice, with the threads of a block in opposite orders, and the results must agree to the bit.
//!
//! Approximate instructions (`.approx`, `.full`) give the exactly rounded value, where a device has the error that the
//! manual allows. Deliberately absent: timing, caches, tensor and texture instructions, asynchronous copies, clusters,
//! directed rounding of arithmetic, barriers of a part of the block, recursion, and whether an architecture has an
//! instruction, which `ptxas` knows.
//!
//! ```
//! use birkhoff_runtime::ptx_sim::{Arg, Launch, Memory, Module};
//!
//! let text = "
//! .version 8.0
//! .target sm_80
//! .address_size 64
//! .visible .entry twice(.param .u64 data)
//! {
//!     .reg .b32 %t; .reg .f32 %x; .reg .b64 %p, %o;
//!     ld.param.u64 %p, [data];
//!     mov.u32 %t, %tid.x;
//!     mul.wide.u32 %o, %t, 4;
//!     add.s64 %p, %p, %o;
//!     ld.global.f32 %x, [%p];
//!     add.rn.f32 %x, %x, %x;
//!     st.global.f32 [%p], %x;
//!     ret;
//! }";
//! let module = Module::parse(text)?;
//! let mut memory = Memory::new();
//! let data = memory.add("data", &1.5_f32.to_le_bytes())?;
//! let launch = Launch { grid: [1, 1, 1], block: [1, 1, 1], dynamic_shared_bytes: 0 };
//! let counts = module.entry("twice")?.run(&launch, &[Arg::Buffer(data)], &mut memory)?;
//! assert_eq!(memory.read(data)?, 3.0_f32.to_le_bytes());
//! assert_eq!(counts.loaded_bytes, 4);
//! # Ok::<(), birkhoff_ir::diag::Diagnostics>(())
//! ```

mod address;
mod ast;
mod code;
mod decode;
mod device;
mod exec;
mod globals;
mod launch;
mod lex;
mod memory;
mod num;
mod parse;
mod parse_stmt;
mod types;

pub use device::SimulatedDevice;
pub use launch::{Arg, Counts, Entry, Launch, Options, Orders};
pub use memory::{BufferId, Memory};

use birkhoff_ir::diag::{Diagnostic, Diagnostics};
use code::{Program, StaticArray};

/// A verified module of PTX.
pub struct Module {
    programs: Vec<Program>,
    statics: Vec<StaticArray>,
}

impl Module {
    /// Parses and verifies the text of a module.
    ///
    /// Errors: all that can be found, each with its line and its place in `text`.
    pub fn parse(text: &str) -> Result<Module, Diagnostics> {
        let source = parse::parse(text)?;
        let verified = decode::decode(&source)?;
        Ok(Module { programs: verified.programs, statics: verified.statics })
    }

    /// The names of the entries, in the order of the text.
    pub fn entries(&self) -> Vec<&str> {
        self.programs.iter().map(|program| program.name.as_str()).collect()
    }

    /// The entry called `name`. Errors: there is none.
    pub fn entry(&self, name: &str) -> Result<Entry<'_>, Diagnostic> {
        let found = self.programs.iter().find(|program| program.name == name);
        let program = found.ok_or_else(|| {
            let known = self.entries().join(", ");
            Diagnostic::device(format!("the module has no entry `{name}`")).help(format!("it has: {known}"))
        })?;
        Ok(Entry { program, statics: &self.statics })
    }
}
