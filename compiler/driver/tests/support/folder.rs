//! Runs the command in a folder of its own.

use crate::ratio::RATIO;
use birkhoff::View;
use birkhoff::tensor_file::write_tensors;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A folder in which the command runs; it goes away with this.
pub struct Folder(tempfile::TempDir);

/// What a command did.
pub struct Done {
    /// Its exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Folder {
    /// An empty folder, but for `ratio.bir`.
    pub fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.write("ratio.bir", RATIO.as_bytes());
        folder
    }

    /// Where a file of that name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Writes a file of f32 tensors whose elements count up from 1.
    pub fn write_f32(&self, name: &str, tensors: &[(&str, &[i64])]) {
        let data: Vec<(String, Vec<f32>, &[i64])> = tensors
            .iter()
            .map(|(name, shape)| {
                let n_elems = shape.iter().product::<i64>();
                (name.to_string(), (1..=n_elems).map(|idx| idx as f32).collect(), *shape)
            })
            .collect();
        let views: BTreeMap<String, View<'_>> =
            data.iter().map(|(name, data, shape)| (name.clone(), View::of(data, shape).unwrap())).collect();
        write_tensors(self.path(name), &views).unwrap();
    }

    /// The names of all files, sorted.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Runs `birkhoff` with these arguments, cut at blanks.
    pub fn run(&self, args: &str) -> Done {
        let output = self.command(args).output().unwrap();
        Done {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The command, not started.
    pub fn command(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_birkhoff"));
        command.args(args.split_whitespace()).current_dir(self.0.path()).stdin(Stdio::null());
        command.env_remove("RUST_BACKTRACE").env("COLUMNS", "100");
        command
    }
}

impl Done {
    /// Exit code and standard error, for a snapshot.
    pub fn refusal(&self) -> String {
        assert_eq!(self.stdout, "", "a command that fails prints no result");
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        let code = self.code.map_or("killed".to_string(), |code| code.to_string());
        format!("exit code {code}\n{}", self.stderr)
    }
}
