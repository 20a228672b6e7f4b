//! The `birkhoff` command.

mod cli;

use mimalloc::MiMalloc;
use std::process::ExitCode;

/// Compiling allocates much and briefly; the system's allocator takes a quarter of the time it takes.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
