//! `birkhoff compile`: kernels as files.

use super::Failure;
use super::args::CompileArgs;
use super::progress::Progress;
use birkhoff::files::write_folder;
use birkhoff::ir::diag::Diagnostic;
use birkhoff::{Cotangents, Object, Options, compile_object};
#[cfg(feature = "ptx")]
use birkhoff::{PtxModule, Target, compile_ptx, ptxas};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Writes a folder of objects, headers and a manifest; gives what is to be printed.
pub fn compile(args: &CompileArgs) -> Result<String, Failure> {
    let progress = Progress::start();
    args.target.check()?;
    let spec = args.spec.load()?;
    let options = Options { arch: args.arch.clone(), ..args.spec.options(args.target) };
    // Without a choice, everything that users may call.
    let names = args.spec.func.clone().map_or_else(|| spec.functions(), |name| vec![name]);
    let mut files = BTreeMap::new();
    let mut entries = Vec::new();
    for name in &names {
        let chosen = args.spec.differentiated(spec.clone().function(name), Cotangents::All)?;
        #[cfg(feature = "ptx")]
        if args.target == Target::Ptx {
            let module = compile_ptx(&chosen, &options, &mut |stage| progress.step(stage.doing()))?;
            progress.step("assembling");
            entries.push(ptx_entry(name, &module)?);
            files.insert(format!("{name}.ptx"), module.ptx.into_bytes());
            continue;
        }
        let object = compile_object(&chosen, &options, &mut |stage| progress.step(stage.doing()))?;
        entries.push(entry(name, &object)?);
        files.insert(format!("{name}.o"), object.object);
        files.insert(format!("{name}.h"), object.header.into_bytes());
    }
    let manifest = json!({ "functions": entries });
    files.insert("manifest.json".to_string(), format!("{manifest:#}\n").into_bytes());
    progress.step("writing");
    write_folder(&args.output, &files)?;
    if args.spec.json {
        return Ok(format!("{manifest:#}\n"));
    }
    let lines = files
        .iter()
        .map(|(name, bytes)| format!("{}  {} bytes\n", args.output.join(name).display(), bytes.len()));
    Ok(lines.collect())
}

/// A function's part of the manifest, with the names of its files.
fn entry(name: &str, object: &Object) -> Result<Value, Diagnostic> {
    let mut value = serde_json::to_value(&object.manifest)
        .map_err(|error| Diagnostic::verify(format!("the manifest does not serialise: {error}")))?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("object".to_string(), json!(format!("{name}.o")));
        fields.insert("header".to_string(), json!(format!("{name}.h")));
    }
    Ok(value)
}

/// A function's part of the manifest, with the name of its file, and what `ptxas` says of each kernel where there is one.
#[cfg(feature = "ptx")]
fn ptx_entry(name: &str, module: &PtxModule) -> Result<Value, Diagnostic> {
    let mut value = serde_json::to_value(&module.manifest)
        .map_err(|error| Diagnostic::verify(format!("the manifest does not serialise: {error}")))?;
    let usages = match ptxas::find() {
        Some(ptxas) => ptxas::usage(&ptxas, &module.ptx, &module.manifest.arch)?,
        None => BTreeMap::new(),
    };
    if let Some(kernels) = value.get_mut("kernels").and_then(Value::as_array_mut) {
        for kernel in kernels {
            let usage = kernel.get("entry").and_then(Value::as_str).and_then(|entry| usages.get(entry));
            let usage = json!(usage);
            if let Some(fields) = kernel.as_object_mut() {
                fields.insert("ptxas".to_string(), usage);
            }
        }
    }
    if let Some(fields) = value.as_object_mut() {
        fields.insert("ptx".to_string(), json!(format!("{name}.ptx")));
    }
    Ok(value)
}
