//! `birkhoff compile`: kernels as files.

use super::Failure;
use super::args::CompileArgs;
use super::progress::Progress;

/// Writes a folder of kernels; gives what is to be printed.
pub fn compile(args: &CompileArgs) -> Result<String, Failure> {
    let _progress = Progress::start();
    args.target.check()?;
    Ok(String::new())
}
