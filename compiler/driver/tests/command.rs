//! The command as users meet it: what it prints, what it writes, and how it refuses.

#[path = "support/folder.rs"]
mod folder;
#[path = "support/ratio.rs"]
mod ratio;

use birkhoff::tensor_file::TensorFile;
use folder::Folder;
use ratio::RATIO;
use std::process::Stdio;

/// Runs every line, which must fail and leave nothing behind; gives all of it as one text.
fn refusals(folder: &Folder, lines: &[&str]) -> String {
    let before = folder.files();
    let mut text = String::new();
    for line in lines {
        text += &format!("$ birkhoff {line}\n{}\n", folder.run(line).refusal());
        assert_eq!(folder.files(), before, "{line}");
    }
    text
}

#[test]
fn a_run_writes_what_it_computed() {
    let folder = Folder::new();
    folder.write_f32("in.safetensors", &[("x", &[2, 3, 4]), ("w", &[4]), ("ct.y", &[1]), ("out.y", &[7])]);
    for target in ["eval", "kernel-eval", "cpu"] {
        let line = format!("run ratio.bir --in in.safetensors --target {target} -o out.safetensors");
        let done = folder.run(&line);
        assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (Some(0), "", ""), "{target}");
        let file = TensorFile::open(folder.path("out.safetensors")).unwrap();
        assert_eq!(file.names().collect::<Vec<_>>(), ["out.y"]);
        let y = file.tensor("out.y").unwrap();
        assert_eq!(y.view().shape(), [2, 3, 4]);
        for (row, values) in y.view().as_slice::<f32>().unwrap().chunks(4).enumerate() {
            let x: Vec<f32> = (1..=4).map(|idx| (row * 4 + idx) as f32).collect();
            let sum: f32 = x.iter().zip(1..).map(|(x, w)| x * w as f32).sum();
            for (x, y) in x.iter().zip(values) {
                assert!((y - 2.0 * x / sum).abs() <= 1e-6 * y.abs(), "{target} {row}");
            }
        }
    }
    assert_eq!(folder.files(), ["in.safetensors", "out.safetensors", "ratio.bir"]);
}

#[test]
fn the_result_does_not_depend_on_threads() {
    let folder = Folder::new();
    let mut outputs = Vec::new();
    for n_threads in [1, 2, 5] {
        let line =
            format!("run ratio.bir --random 7 --dim C=65 --dim T=301 --threads {n_threads} -o o.safetensors");
        assert_eq!(folder.run(&line).stderr, "");
        outputs.push(std::fs::read(folder.path("o.safetensors")).unwrap());
    }
    assert!(outputs.iter().all(|output| *output == outputs[0]));
}

#[test]
fn a_run_prints_statistics() {
    let folder = Folder::new();
    let done = folder.run("run ratio.bir --random 3 --dim C=2 --fn twice --set scale=1");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    insta::assert_snapshot!("run_text", done.stdout);
    let done = folder.run("run ratio.bir --random 3 --set C=2 --dtype f64 --json --threads 1");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let mut report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert!(report["timings_ms"]["call"].is_number());
    report.as_object_mut().unwrap().remove("timings_ms");
    insta::assert_snapshot!("run_json", format!("{report:#}"));
}

#[test]
fn nan_and_infinities_go_through() {
    let folder = Folder::new();
    let x = [f32::NAN, f32::INFINITY, -1.0, 1.0, 2.0, 3.0];
    let views =
        std::collections::BTreeMap::from([("x".to_string(), birkhoff::View::of(&x, &[1, 3, 2]).unwrap())]);
    birkhoff::tensor_file::write_tensors(folder.path("in.safetensors"), &views).unwrap();
    let done = folder.run("run ratio.bir --fn twice --in in.safetensors -o out.safetensors");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let file = TensorFile::open(folder.path("out.safetensors")).unwrap();
    let z = file.tensor("out.z").unwrap();
    let z = z.view().as_slice::<f32>().unwrap().to_vec();
    assert!(z[0].is_nan());
    assert_eq!(z[1..], [f32::INFINITY, -2.0, 2.0, 4.0, 6.0]);
}

#[test]
fn narrower_inputs_are_widened_only_on_request() {
    let folder = Folder::new();
    folder.write_f32("in.safetensors", &[("x", &[2, 3, 4]), ("w", &[4])]);
    let done = folder.run("run ratio.bir --in in.safetensors --dtype f64 -o out.safetensors");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let file = TensorFile::open(folder.path("out.safetensors")).unwrap();
    let y = file.tensor("out.y").unwrap();
    assert_eq!(y.view().as_slice::<f64>().unwrap()[0], 2.0 / 30.0);
    // A spec of f64 itself does not take f32.
    folder.write("wide.bir", RATIO.replace("f32", "f64").as_bytes());
    let text = refusals(&folder, &["run wide.bir --in in.safetensors"]);
    insta::assert_snapshot!("wide_spec_narrow_inputs", text);
}

#[test]
fn bad_specs_are_refused_at_their_place() {
    let folder = Folder::new();
    folder.write("empty.bir", b"");
    folder.write("empty.toml", b"");
    folder.write("binary.bir", &[b'd', b'i', b'm', b'\n', 0xff, 0xfe]);
    folder.write("binary.toml", &[0xff, 0xfe]);
    folder.write("spec.txt", RATIO.as_bytes());
    folder.write("unknown_op.bir", RATIO.replace("contract", "contrct").as_bytes());
    folder.write("wrong_type.bir", RATIO.replace("shape=[T,n,C]", "shape=[T,C,n]").as_bytes());
    folder.write("not_toml.toml", b"[dims\nn = 4\n");
    folder.write("unknown_table.toml", b"[dims]\nn = 4\n[what]\nx = 1\n");
    let lines = [
        "run absent.bir --random 0",
        "run . --random 0",
        "run spec.txt --random 0",
        "run empty.bir --random 0",
        "run empty.toml --random 0",
        "run binary.bir --random 0",
        "run binary.toml --random 0",
        "run unknown_op.bir --random 0",
        "run wrong_type.bir --random 0",
        "run not_toml.toml --random 0",
        "run unknown_table.toml --random 0",
    ];
    insta::assert_snapshot!("bad_specs", refusals(&folder, &lines));
}

#[test]
fn deep_nesting_is_refused() {
    let folder = Folder::new();
    let depth = 10_000;
    let nested = |open: &str, close: &str| format!("{}{}", open.repeat(depth), close.repeat(depth));
    let header = "export fn @f(%x: f32[4]) -> (y: f32[4]) {\n  return y = ";
    let texts = [
        ("array.toml", format!("dims = {}", nested("[", "]"))),
        ("table.toml", format!("dims = {}", nested("{a=", "}"))),
        ("calls.bir", format!("{header}{}\n}}\n", nested("exp(", ")"))),
        ("minus.bir", format!("{header}{}%x\n}}\n", "-".repeat(depth))),
        ("loops.bir", format!("kernel @k() {{ {} }}", nested("for i in 0..1 { ", "}"))),
        ("steps.bir", format!("plan @p {{ {} }}", nested("loop i in 0..1 { ", "}"))),
    ];
    for (name, text) in &texts {
        folder.write(name, text.as_bytes());
        let done = folder.run(&format!("run {name} --random 0"));
        assert_eq!(done.code, Some(1), "{name}: {}", done.stderr);
        assert!(done.stderr.starts_with("error: "), "{name}: {}", done.stderr);
    }
}

#[test]
fn bad_values_are_refused() {
    let folder = Folder::new();
    let lines = [
        "run ratio.bir --random 0",
        "run ratio.bir --random 0 --dim C=0",
        "run ratio.bir --random 0 --dim C=-4",
        "run ratio.bir --random 0 --dim C=2 --dim T=0",
        "run ratio.bir --random 0 --dim C=2 --dim T=1000001",
        "run ratio.bir --random 0 --dim C=2 --dim D=1",
        "run ratio.bir --random 0 --dim C=2 --set scole=1",
        "run ratio.bir --random 0 --dim C=2 --set scale=true",
        "run ratio.bir --random 0 --dim C=2 --fn pre",
        "run ratio.bir --random 0 --dim C=9223372036854775807",
        "run ratio.bir --random 0 --dim C=9223372036854775807 --target eval",
        "run ratio.bir --random 0 --dim C=4611686018427387904 --dim T=7 --target kernel-eval",
    ];
    insta::assert_snapshot!("bad_values", refusals(&folder, &lines));
}

#[test]
fn bad_input_files_are_refused() {
    let folder = Folder::new();
    folder.write_f32("good.safetensors", &[("x", &[2, 3, 4]), ("w", &[4])]);
    let good = std::fs::read(folder.path("good.safetensors")).unwrap();
    folder.write("empty.safetensors", b"");
    folder.write("cut.safetensors", &good[..good.len() - 5]);
    folder.write("long.safetensors", &[&good[..], &[0; 3]].concat());
    folder.write("text.safetensors", b"this is no such file at all");
    folder.write_f32("missing.safetensors", &[("out.y", &[2])]);
    folder.write_f32("extra.safetensors", &[("x", &[2, 3, 4]), ("w", &[4]), ("v", &[4]), ("u", &[4])]);
    folder.write_f32("rank.safetensors", &[("x", &[2, 12]), ("w", &[4])]);
    folder.write_f32("contradiction.safetensors", &[("x", &[2, 3, 4]), ("w", &[5])]);
    folder.write_f32("spec.safetensors", &[("x", &[2, 4, 4]), ("w", &[4])]);
    folder.write_f32("none.safetensors", &[("x", &[0, 3, 4]), ("w", &[4])]);
    let mut ints = good.clone();
    let at = ints.windows(3).position(|window| window == b"F32").unwrap();
    ints[at] = b'I';
    folder.write("ints.safetensors", &ints);
    ints[at] = b'U';
    folder.write("unsigned.safetensors", &ints);
    let names = [
        "absent",
        "empty",
        "cut",
        "long",
        "text",
        "missing",
        "extra",
        "rank",
        "contradiction",
        "spec",
        "none",
        "ints",
        "unsigned",
    ];
    let mut lines: Vec<String> = names
        .iter()
        .map(|name| format!("run ratio.bir --in {name}.safetensors -o out.safetensors"))
        .collect();
    lines.push("run ratio.bir --in . -o out.safetensors".to_string());
    lines.push("run ratio.bir --in good.safetensors --dim C=5 -o out.safetensors".to_string());
    lines.push("run ratio.bir --in good.safetensors --dim T=5 -o out.safetensors".to_string());
    lines.push("run ratio.bir --in good.safetensors -o no/such/folder/out.safetensors".to_string());
    lines.push("run ratio.bir --in good.safetensors -o .".to_string());
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    insta::assert_snapshot!("bad_input_files", refusals(&folder, &lines));
}

#[test]
fn tensors_of_other_functions_of_the_spec_are_no_error() {
    let folder = Folder::new();
    folder.write_f32("in.safetensors", &[("x", &[2, 3, 4]), ("w", &[4])]);
    let done = folder.run("run ratio.bir --fn twice --in in.safetensors -o out.safetensors");
    assert_eq!(done.code, Some(0), "{}", done.stderr);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let folder = Folder::new();
    let lines = [
        "",
        "fly ratio.bir",
        "run",
        "run ratio.bir",
        "run ratio.bir --random 0 --dim C",
        "run ratio.bir --random 0 --dim C=many",
        "run ratio.bir --random 0 --set scale=fast",
        "run ratio.bir --random 0 --in f.safetensors",
        "run ratio.bir --random -1",
        "run ratio.bir --random 0 --target tpu",
        "run ratio.bir --random 0 --threads 0",
        "inspect ratio.bir",
        "inspect ratio.bir --stage thought",
        "compile ratio.bir",
    ];
    for line in lines {
        let done = folder.run(line);
        assert_eq!((done.code, done.stdout.as_str()), (Some(2), ""), "{line}");
        assert!(
            done.stderr.contains("Usage: birkhoff") || done.stderr.contains("try '--help'"),
            "{line}: {}",
            done.stderr
        );
    }
}

#[test]
fn missing_targets_are_exit_code_3() {
    let folder = Folder::new();
    let mut lines = vec!["run ratio.bir --random 0 --dim C=2 --target ptx"];
    if cfg!(not(feature = "ptx")) {
        lines.extend([
            "run ratio.bir --random 0 --dim C=2 --target cuda",
            "run ratio.bir --random 0 --dim C=2 --target cpu-llvm",
            "bench ratio.bir --dim C=2 --target cpu,cpu-llvm",
            "inspect ratio.bir --dim C=2 --stage asm --target cpu-llvm",
            "run ratio.bir --random 0 --dim C=2 --target ptx-sim",
            "compile ratio.bir --dim C=2 --target ptx --arch sm_90 -o out",
            "inspect ratio.bir --dim C=2 --stage ptx",
            "inspect ratio.bir --dim C=2 --stage mlir",
        ]);
    }
    let text = refusals(&folder, &lines);
    assert_eq!(text.matches("exit code 3").count(), lines.len());
    let name = if cfg!(feature = "ptx") { "missing_targets_with_ptx" } else { "missing_targets" };
    insta::assert_snapshot!(name, text);
}

/// Where there is a GPU it must compute what the simulated one does; elsewhere the command says what is missing.
#[cfg(feature = "ptx")]
#[test]
fn the_target_cuda_needs_a_driver_and_nothing_else() {
    let folder = Folder::new();
    let line = "run ratio.bir --random 0 --dim C=65 --dim T=37 --target";
    let done = folder.run(&format!("{line} cuda -o cuda.safetensors"));
    if done.code == Some(0) {
        assert_eq!(folder.run(&format!("{line} ptx-sim -o sim.safetensors")).code, Some(0));
        let [cuda, sim] =
            ["cuda", "sim"].map(|name| std::fs::read(folder.path(&format!("{name}.safetensors"))).unwrap());
        assert!(cuda == sim, "the GPU computes other bits than the simulated device");
        return;
    }
    assert_eq!((done.code, done.stdout.as_str()), (Some(3), ""));
    assert!(done.stderr.starts_with("error: ") && done.stderr.contains("driver"), "{}", done.stderr);
    if done.stderr.contains("no CUDA driver is installed") {
        insta::assert_snapshot!("no_cuda_driver", done.stderr);
    }
    assert_eq!(folder.files(), ["ratio.bir"]);
}

#[cfg(feature = "ptx")]
#[test]
fn ptx_is_written_with_its_manifest() {
    let folder = Folder::new();
    let done = folder.run("compile ratio.bir --dim C=2 --target ptx --arch sm_90 -o out --json");
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    let manifest: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    let function = &manifest["functions"][0];
    assert_eq!(function["arch"], "sm_90");
    let ptx = std::fs::read_to_string(folder.path("out").join(function["ptx"].as_str().unwrap())).unwrap();
    assert!(ptx.contains(".target sm_90"));
    let kernel = &function["kernels"][0];
    assert!(ptx.contains(&format!(".visible .entry {}(", kernel["entry"].as_str().unwrap())));
    let n_params = kernel["params"].as_array().unwrap().len();
    assert_eq!(ptx.matches(".param .u64").count(), n_params);
    let refused = folder.run("compile ratio.bir --dim C=2 --target ptx --arch sm_35 -o out");
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("sm_80, sm_86, sm_89, sm_90"), "{}", refused.stderr);
}

#[test]
fn help_shows_examples() {
    let folder = Folder::new();
    for line in ["--help", "run --help", "compile --help", "inspect --help"] {
        let done = folder.run(line);
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{line}");
        assert!(done.stdout.contains("\nExamples:\n  birkhoff "), "{line}");
        // Every option is explained.
        let bare = done.stdout.lines().filter(|line| line.trim_start().starts_with("--"));
        assert_eq!(bare.filter(|line| line.trim().split("  ").count() < 2).count(), 0, "{}", done.stdout);
    }
}

#[test]
fn every_stage_prints_and_those_of_ir_parse_again() {
    let folder = Folder::new();
    for stage in ["tensor", "eqsat", "schedule", "kernel", "plan", "clif", "asm"] {
        let done = folder.run(&format!("inspect ratio.bir --dim C=32 --stage {stage}"));
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{stage}");
        assert!(!done.stdout.is_empty(), "{stage}");
        let again = folder.run(&format!("inspect ratio.bir --dim C=32 --stage {stage} --json"));
        let json: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
        match stage {
            "schedule" => assert_eq!(json["function"], "ratio"),
            _ => assert_eq!(json["stage"], stage),
        }
        if !["tensor", "eqsat", "plan"].contains(&stage) {
            continue;
        }
        let name = format!("{stage}.bir");
        folder.write(&name, done.stdout.as_bytes());
        let printed =
            folder.run(&format!("inspect {name} --stage {}", if stage == "plan" { stage } else { "tensor" }));
        assert_eq!(printed.stdout, done.stdout, "{stage}: {}", printed.stderr);
        // The text runs in place of the spec, with the same result.
        let from_spec = folder.run("run ratio.bir --random 1 --dim C=32 -o a.safetensors");
        let from_text = folder.run(&format!("run {name} --random 1 -o b.safetensors"));
        assert_eq!((from_spec.code, from_text.code), (Some(0), Some(0)), "{}", from_text.stderr);
    }
}

#[cfg(feature = "ptx")]
#[test]
fn llvm_has_stages_of_its_own() {
    let folder = Folder::new();
    let print =
        |stage: &str| folder.run(&format!("inspect ratio.bir --dim C=32 --target cpu-llvm --stage {stage}"));
    for (stage, mark) in [("llvm", "define internal void @body("), ("asm", "kernel_0:")] {
        let done = print(stage);
        assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{stage}");
        assert!(done.stdout.contains(mark), "{stage}: {}", done.stdout);
    }
    let refused = print("clif");
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("its IR is the stage `llvm`"), "{}", refused.stderr);
    // On its way to PTX it is another.
    let ptx = folder.run("inspect ratio.bir --dim C=32 --stage llvm");
    assert!(ptx.stdout.contains("nvptx64"), "{}", ptx.stderr);
}

#[test]
fn differences_between_stages() {
    let folder = Folder::new();
    let done = folder.run("inspect ratio.bir --dim C=32 --fn twice --stage eqsat --diff tensor");
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    assert!(done.stdout.is_empty() || done.stdout.starts_with("--- tensor\n+++ eqsat\n"), "{}", done.stdout);
    let same = folder.run("inspect ratio.bir --dim C=32 --stage tensor --diff tensor");
    assert_eq!((same.code, same.stdout.as_str()), (Some(0), ""));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let folder = Folder::new();
    let mut child = folder
        .command("inspect ratio.bir --dim C=32 --stage asm")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn a_folder_of_kernels_is_written_whole() {
    let folder = Folder::new();
    let done = folder.run("compile ratio.bir --dim C=32 -o new/kernels");
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.starts_with("error: the folder cannot be written: "), "{}", done.stderr);
    let done = folder.run("compile ratio.bir --dim C=32 -o ratio.bir");
    assert_eq!(done.code, Some(1));
    assert_eq!(folder.files(), ["ratio.bir"]);
    let done = folder.run("compile ratio.bir --dim C=32 -o kernels");
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    assert_eq!(folder.files(), ["kernels", "ratio.bir"]);
    let mut names: Vec<String> = std::fs::read_dir(folder.path("kernels"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["manifest.json", "ratio.h", "ratio.o", "twice.h", "twice.o"]);
    let manifest = std::fs::read_to_string(folder.path("kernels/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["functions"][0]["program"], "ratio");
    assert_eq!(manifest["functions"][1]["object"], "twice.o");
    // Once more, over what is there, and one function only.
    let done = folder.run("compile ratio.bir --dim C=16 --fn twice --json -o kernels");
    let json: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(json["functions"].as_array().unwrap().len(), 1);
}
