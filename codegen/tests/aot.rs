//! Objects linked into a C program, against the plan evaluator, bit for bit; headers through C and C++ compilers.

mod support;

use birkhoff_codegen::cpu::{Object, object};
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::kernel::eval;
use birkhoff_ir::plan::{self, BufferKind, Program};
use birkhoff_ir::scalar::Scalar;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Array, Rng};

fn load(path: &Path) -> Program {
    let source = std::fs::read_to_string(path).unwrap();
    let parsed =
        plan::text::parse(&source).unwrap_or_else(|error| panic!("{}: {}", path.display(), error.message));
    if let Err(errors) = plan::verify::verify_parsed(&parsed) {
        panic!("{}", errors.render(&path.display().to_string(), &source));
    }
    parsed.program
}

fn plans() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![];
    for dir in ["../ir/tests/kernels", "tests/kernels"] {
        paths.extend(std::fs::read_dir(root.join(dir)).unwrap().map(|entry| entry.unwrap().path()));
    }
    paths.retain(|path| path.extension().is_some_and(|ext| ext == "plan") && !needs_library(path));
    paths.sort();
    paths
}

/// True if contractions of the plan are a library's, which objects do not have.
fn needs_library(path: &Path) -> bool {
    let source = std::fs::read_to_string(path).unwrap();
    !birkhoff_ir::plan::text::parse(&source).unwrap().program.contracts().is_empty()
}

#[test]
fn contractions_of_a_library_are_refused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ir/tests/kernels/products.plan");
    assert!(needs_library(&path));
    let source = std::fs::read_to_string(path).unwrap();
    let errors = object(&birkhoff_ir::plan::text::parse(&source).unwrap().program).unwrap_err();
    assert!(errors.to_string().contains("no library"), "{errors}");
}

fn compile(program: &Program) -> Object {
    object(program).unwrap_or_else(|errors| panic!("{errors}"))
}

fn tool(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

/// A C program that reads `in0`, `in1`, .., runs the entry with the sizes of its arguments, and writes `out0`, ..
fn c_main(program: &Program, object: &Object) -> String {
    let mut text = format!(
        "#include \"{}.h\"\n#include <stdio.h>\n#include <stdlib.h>\n\n\
         static void *array(const char *name, size_t bytes) {{\n  void *data = malloc(bytes + 1);\n  \
         FILE *file = name ? fopen(name, \"rb\") : NULL;\n  if (!data) exit(101);\n  \
         if (name && (!file || fread(data, 1, bytes, file) != bytes)) exit(102);\n  if (file) fclose(file);\n  \
         return data;\n}}\n\nint main(int argc, char **argv) {{\n  if (argc != {}) return 103;\n",
        program.name,
        program.sizes.len() + 1
    );
    for (idx, size) in program.sizes.iter().enumerate() {
        writeln!(text, "  int64_t {} = strtoll(argv[{}], NULL, 10);", size.name, idx + 1).unwrap();
    }
    let mut args = vec![];
    let mut writes = String::new();
    let (mut n_in, mut n_out) = (0, 0);
    for buffer in &program.buffers {
        let bytes = buffer.size_bytes();
        match buffer.kind {
            BufferKind::Input => {
                writeln!(text, "  void *b{} = array(\"in{n_in}\", (size_t)({bytes}));", args.len()).unwrap();
                n_in += 1;
            }
            BufferKind::Output => {
                writeln!(text, "  void *b{} = array(NULL, (size_t)({bytes}));", args.len()).unwrap();
                writeln!(
                    writes,
                    "  {{ FILE *file = fopen(\"out{n_out}\", \"wb\"); fwrite(b{}, 1, (size_t)({bytes}), file); fclose(file); }}",
                    args.len()
                )
                .unwrap();
                n_out += 1;
            }
            BufferKind::Temp(_) => continue,
        }
        args.push(format!("b{}", args.len()));
    }
    let sizes: Vec<String> = program.sizes.iter().map(|size| size.name.to_string()).collect();
    args.extend(sizes.clone());
    let (run, bytes) = (&object.manifest.entry.symbol, &object.manifest.workspace.symbol);
    write!(
        text,
        "  size_t bytes = {bytes}({});\n  void *workspace = bytes ? aligned_alloc(64, bytes) : NULL;\n  \
         int32_t status = {run}({}, workspace);\n  if (status) return status;\n  \
         if (bytes && {run}({}, NULL) != 2) return 104;\n  if (bytes && {run}({}, (char *)workspace + 8) != 3) return 105;\n\
         {writes}  return 0;\n}}\n",
        sizes.join(", "),
        args.join(", "),
        args.join(", "),
        args.join(", ")
    )
    .unwrap();
    text
}

/// Builds the program in `dir`; its executable.
fn build(dir: &Path, program: &Program) -> PathBuf {
    let object = compile(program);
    std::fs::write(dir.join("program.o"), &object.object).unwrap();
    std::fs::write(dir.join(format!("{}.h", program.name)), &object.header).unwrap();
    std::fs::write(dir.join("main.c"), c_main(program, &object)).unwrap();
    let warnings = ["-Wall", "-Wextra", "-Werror", "-pedantic"];
    let header = format!("{}.h", program.name);
    for (standard, language) in [("-std=c99", "c"), ("-std=c++11", "c++")] {
        let mut check = Command::new("cc");
        check.current_dir(dir).args(warnings).args([standard, "-fsyntax-only", "-x", language, &header]);
        if language == "c++" && !check.output().is_ok_and(|output| output.status.success()) {
            // Without a C++ compiler installed, the driver cannot check C++.
            let missing =
                check.output().map_or(String::new(), |out| String::from_utf8_lossy(&out.stderr).to_string());
            assert!(missing.contains("cc1plus"), "{missing}");
            continue;
        }
        tool(&mut check);
    }
    tool(Command::new("cc").current_dir(dir).args(warnings).args([
        "-std=c11",
        "-O1",
        "main.c",
        "program.o",
        "-o",
        "main",
    ]));
    dir.join("main")
}

fn check(dir: &Path, program: &Program, sizes: &[i64]) {
    let env: SizeEnv =
        program.sizes.iter().zip(sizes).map(|(size, value)| (size.name.clone(), *value)).collect();
    let mut inputs = vec![];
    for buffer in program.buffers.iter().filter(|buffer| buffer.kind == BufferKind::Input) {
        let shape: Vec<i64> = buffer.shape.iter().map(|dim| dim.eval(&env).unwrap()).collect();
        let mut rng = Rng(inputs.len() as u64 + 3);
        let len = shape.iter().product::<i64>() as usize;
        let values: Vec<Scalar> = (0..len).map(|_| Scalar::Float(buffer.dtype.round(rng.unit()))).collect();
        std::fs::write(dir.join(format!("in{}", inputs.len())), Array::new(buffer.dtype, &values).bytes)
            .unwrap();
        inputs.push(eval::Array::from_scalars(buffer.dtype, &shape, &values).unwrap());
    }
    let outcome = plan::eval::run(program, &env, &inputs).unwrap_or_else(|error| panic!("{}", error.message));
    let words: Vec<String> = sizes.iter().map(i64::to_string).collect();
    tool(Command::new(dir.join("main")).current_dir(dir).args(&words));
    for (idx, expected) in outcome.outputs.iter().enumerate() {
        let bytes = std::fs::read(dir.join(format!("out{idx}"))).unwrap();
        let found = Array { dtype: expected.dtype(), bytes }.values();
        let expected: Vec<Scalar> = expected.scalars().map(|value| value.unwrap()).collect();
        support::assert_same(&found, &expected, &format!("{} {sizes:?}, output {idx}", program.name));
    }
}

#[test]
fn c_programs_compute_what_the_plan_evaluator_says() {
    let paths = plans();
    assert!(paths.len() >= 2);
    for path in paths {
        let program = load(&path);
        let dir = tempfile::tempdir().unwrap();
        build(dir.path(), &program);
        for sizes in [[1, 1, 1], [7, 5, 3], [33, 70, 2]] {
            check(dir.path(), &program, &sizes[..program.sizes.len()]);
        }
        // Sizes out of bounds are refused before anything is touched.
        if program.sizes.iter().all(|size| size.bounds.0 <= 0) {
            continue;
        }
        let words = vec!["0".to_string(); program.sizes.len()];
        let output =
            Command::new(dir.path().join("main")).current_dir(dir.path()).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", path.display());
    }
}

#[test]
fn objects_need_no_libraries() {
    for path in plans() {
        let object = compile(&load(&path));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("program.o"), &object.object).unwrap();
        let undefined = tool(Command::new("nm").current_dir(dir.path()).args(["-u", "program.o"]));
        assert_eq!(undefined.trim(), "", "{}", path.display());
        let defined =
            tool(Command::new("nm").current_dir(dir.path()).args(["-g", "--defined-only", "program.o"]));
        for kernel in &object.manifest.kernels {
            assert!(defined.contains(&format!(" T {}\n", kernel.symbol)), "{defined}");
        }
    }
}

#[test]
fn objects_are_the_same_every_time() {
    for path in plans() {
        let program = load(&path);
        let (first, second) = (compile(&program), compile(&program));
        assert_eq!(first.object, second.object);
        assert_eq!(first.header, second.header);
        assert_eq!(first.manifest, second.manifest);
    }
}

#[test]
fn names_that_are_no_identifiers_are_refused() {
    let program = Program {
        name: "a-b".into(),
        sizes: vec![],
        buffers: vec![],
        slots: vec![],
        kernels: vec![],
        steps: vec![],
    };
    let errors = object(&program).unwrap_err();
    assert!(errors.to_string().contains("expected a C identifier"), "{errors}");
}
