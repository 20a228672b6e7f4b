//! The command: arguments in, reports out.
//!
//! Results go to standard output, everything else to standard error. A command's whole output is made first and written
//! last, so that a command that fails has printed nothing and written nothing.

mod args;
mod bench;
mod check;
mod compile;
mod inspect;
mod progress;
mod report;
mod run;

use args::{Cli, Command};
use birkhoff::Error;
use clap::{CommandFactory, Parser};
use std::io::Write;
use std::process::ExitCode;

/// Something is wrong with the input.
const EXIT_INPUT: u8 = 1;
/// A target or device is missing.
const EXIT_MISSING: u8 = 3;

/// Why a command did not do what it was asked.
enum Failure {
    /// Diagnostics.
    Error(Error),
    /// Arguments that do not go together.
    Usage(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

impl From<birkhoff::ir::diag::Diagnostics> for Failure {
    fn from(errors: birkhoff::ir::diag::Diagnostics) -> Failure {
        Failure::Error(errors.into())
    }
}

impl From<birkhoff::ir::diag::Diagnostic> for Failure {
    fn from(error: birkhoff::ir::diag::Diagnostic) -> Failure {
        Failure::Error(error.into())
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // A check that finds something has a result to print, and fails all the same.
    let result = match &cli.command {
        Command::Run(args) => run::run(args).map(|output| (output, true)),
        Command::Compile(args) => compile::compile(args).map(|output| (output, true)),
        Command::Inspect(args) => inspect::inspect(args).map(|output| (output, true)),
        Command::Check(args) => check::run(args),
        Command::Bench(args) => bench::run(args).map(|output| (output, true)),
    };
    match result {
        Ok((output, true)) => print(&output),
        Ok((output, false)) => {
            print(&output);
            ExitCode::from(EXIT_INPUT)
        }
        Err(Failure::Usage(message)) => {
            Cli::command().error(clap::error::ErrorKind::MissingRequiredArgument, message).exit()
        }
        Err(Failure::Error(error)) => {
            // Nothing is left to say if standard error is gone.
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::from(if error.is_missing_device() { EXIT_MISSING } else { EXIT_INPUT })
        }
    }
}

/// Writes a command's output. A reader that has seen enough (`| head`) is no error.
fn print(output: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: standard output cannot be written: {error}");
            ExitCode::from(EXIT_INPUT)
        }
    }
}
