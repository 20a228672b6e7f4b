//! NVIDIA's assembler, where it is found: what a kernel takes of a GPU.
//!
//! In: PTX and an architecture. Out: registers, spills and shared memory of every entry; or what `ptxas` complains about. It is
//! looked for in `PTXAS`, in `PATH`, and in the wheel `nvidia-cuda-nvcc-cu12` of the Python in use.

use birkhoff_ir::diag::Diagnostic;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What one entry takes, as `ptxas -v` tells it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: u64,
    /// Bytes of spills that are stored.
    pub spill_store_bytes: u64,
    /// Bytes of spills that are loaded.
    pub spill_load_bytes: u64,
    /// Bytes of a thread's stack.
    pub stack_bytes: u64,
    /// Bytes of static shared memory.
    pub shared_bytes: u64,
}

/// Where `ptxas` is, if it is anywhere.
pub fn find() -> Option<PathBuf> {
    let named = std::env::var_os("PTXAS").map(PathBuf::from);
    let in_path = std::env::var_os("PATH");
    let in_path = in_path.iter().flat_map(std::env::split_paths).map(|folder| folder.join("ptxas"));
    if let Some(found) = named.into_iter().chain(in_path).find(|path| path.is_file()) {
        return Some(found);
    }
    let script = "import sysconfig; print(sysconfig.get_paths()['purelib'])";
    let output = Command::new("python3").args(["-c", script]).output().ok()?;
    let packages = String::from_utf8(output.stdout).ok()?;
    let wheel = Path::new(packages.trim()).join("nvidia/cuda_nvcc/bin/ptxas");
    wheel.is_file().then_some(wheel)
}

/// Assembles `ptx` for `arch` and tells what each entry takes.
///
/// Errors: a `ptxas` that does not run, or that does not take the text.
pub fn usage(ptxas: &Path, ptx: &str, arch: &str) -> Result<BTreeMap<String, Usage>, Diagnostic> {
    let failed =
        |error: std::io::Error| Diagnostic::device(format!("`{}` does not run: {error}", ptxas.display()));
    let folder = tempfile::tempdir().map_err(failed)?;
    let (input, output) = (folder.path().join("module.ptx"), folder.path().join("module.cubin"));
    std::fs::write(&input, ptx).map_err(failed)?;
    let mut command = Command::new(ptxas);
    command.arg("-v").arg(format!("-arch={arch}")).arg(&input).arg("-o").arg(&output);
    let ran = command.output().map_err(failed)?;
    let report = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    if !ran.status.success() {
        return Err(Diagnostic::verify(format!(
            "`ptxas` does not take the PTX for {arch}: {}",
            report.trim()
        )));
    }
    Ok(parse(&report))
}

/// Reads the report of `ptxas -v`.
fn parse(report: &str) -> BTreeMap<String, Usage> {
    let mut found: BTreeMap<String, Usage> = BTreeMap::new();
    let mut entry = String::new();
    for line in report.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            entry = rest.split('\'').next().unwrap_or_default().to_string();
            found.entry(entry.clone()).or_default();
        }
        let Some(usage) = found.get_mut(&entry) else { continue };
        for part in line.split([',', ':']) {
            let part = part.trim().trim_start_matches("Used ");
            let Some((number, what)) = part.split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "registers" => usage.registers = number,
                "bytes spill stores" => usage.spill_store_bytes = number,
                "bytes spill loads" => usage.spill_load_bytes = number,
                "bytes stack frame" => usage.stack_bytes = number,
                "bytes smem" => usage.shared_bytes = number,
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Usage, parse};

    #[test]
    fn a_report_is_read() {
        let report = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'k' for 'sm_80'\n\
            ptxas info    : Function properties for k\n    \
            8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n\
            ptxas info    : Used 32 registers, used 1 barriers, 4128 bytes smem, 384 bytes cmem[0]\n";
        let expected = Usage {
            registers: 32,
            spill_store_bytes: 12,
            spill_load_bytes: 16,
            stack_bytes: 8,
            shared_bytes: 4128,
        };
        assert_eq!(parse(report).get("k"), Some(&expected));
    }
}
