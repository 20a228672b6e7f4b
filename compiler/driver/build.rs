//! Tells the `birkhoff` command, and the worker of benchmarks, where the shared library of MLIR is, if they are built with the
//! feature `ptx`: LLVM's own folder is none that the system searches. What `cargo` runs itself finds it anyway.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=LLVM_CONFIG_19");
    if std::env::var_os("CARGO_FEATURE_PTX").is_none() {
        return;
    }
    let config = std::env::var("LLVM_CONFIG_19").unwrap_or_else(|_| "llvm-config-19".to_string());
    // Without it, the build of mlir-sys has said what is missing.
    let Ok(output) = Command::new(config).arg("--libdir").output() else { return };
    let folder = String::from_utf8_lossy(&output.stdout).trim().to_string();
    println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{folder}");
}
