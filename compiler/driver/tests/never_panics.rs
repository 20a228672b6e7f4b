//! Damaged files and texts: whatever the bytes are, the library answers with a value or an error.
//!
//! The damage is drawn from a counter, so that a failure can be repeated: its message names the case.

#[path = "support/ratio.rs"]
mod ratio;

use birkhoff::check::{Check, check};
use birkhoff::file_inputs::{FileInputs, bind_sizes};
use birkhoff::tensor_file::{TensorFile, write_tensors};
use birkhoff::{Options, Spec, Stage, Syntax, Target, View, compile, lower};
use ratio::RATIO;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Bytes that mean something in headers, specs or numbers.
const SPICE: &[u8] = b"\0\"\\{}[]():,;.=-+*/$%@#0123456789eEfFnNuU\n \x7f\x80\xff";

/// A random number generator (Steele et al. 2014, splitmix64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }

    /// `bytes` with up to four changes: a byte replaced, a stretch cut out, doubled, or filled.
    fn damage(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let end = (at + 1 + self.below(12)).min(bytes.len());
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let stretch = bytes[at..end].to_vec();
                    bytes.splice(at..at, stretch);
                }
                3 => bytes.insert(at, SPICE[self.below(SPICE.len())]),
                _ if bytes.is_empty() => {}
                4 => bytes[at] ^= 1 << self.below(8),
                _ => bytes[at] = SPICE[self.below(SPICE.len())],
            }
        }
        bytes
    }
}

/// Runs `body` on damaged versions of `original`; `body` tells whether it accepted its input. Returns how many it accepted.
fn survive(original: &[u8], n_cases: u64, body: impl Fn(&[u8]) -> bool) -> usize {
    let mut n_accepted = 0;
    for case in 0..n_cases {
        let bytes = Draw(case << 20).damage(original);
        let accepted = catch_unwind(AssertUnwindSafe(|| body(&bytes)));
        let shown = String::from_utf8_lossy(&bytes);
        n_accepted += usize::from(accepted.unwrap_or_else(|_| panic!("case {case} panicked on:\n{shown}")));
    }
    n_accepted
}

#[test]
fn tensor_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.safetensors");
    let (x, w, flags) = ([1.0f32; 24], [2.0f32; 4], [true, false, true]);
    let tensors = BTreeMap::from([
        ("x".to_string(), View::of(&x, &[2, 3, 4]).unwrap()),
        ("w".to_string(), View::of(&w, &[4]).unwrap()),
        ("out.flags".to_string(), View::of(&flags, &[3]).unwrap()),
    ]);
    write_tensors(&path, &tensors).unwrap();
    let original = std::fs::read(&path).unwrap();
    let spec = Spec::parse(Syntax::Ir, "ratio.bir", RATIO).unwrap();
    let options = Options { target: Target::Eval, ..Options::default() };
    let call = |bytes: &[u8]| -> Result<(), birkhoff::Error> {
        let file = TensorFile::from_bytes("in.safetensors", bytes.to_vec())?;
        for name in file.names() {
            let _ = file.tensor(name);
        }
        let spec = bind_sizes(&spec, &file)?;
        let function = compile(&spec, &options)?;
        let inputs = FileInputs::read(&spec, &function, &file)?;
        function.call(&inputs.inputs()).map(|_| ())
    };
    // The damage is mostly to the header, where the meaning is.
    let n_accepted = survive(&original, 4000, |bytes| call(bytes).is_ok());
    assert!(n_accepted > 100, "the undamaged part must work: {n_accepted}");
}

fn texts(syntax: Syntax, name: &str, text: &str, n_cases: u64) {
    let options = Options::default();
    let n_accepted = survive(text.as_bytes(), n_cases, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        match Spec::parse(syntax, name, text) {
            Ok(spec) => {
                let _ = lower(&spec.dim("C", 3), &options, Stage::Tensor, &mut |_| ());
                true
            }
            Err(error) => {
                // Rendering is part of it: places must lie in the text.
                assert!(!error.to_string().is_empty());
                false
            }
        }
    });
    assert!(n_accepted > n_cases as usize / 100, "{name}: {n_accepted}");
}

#[test]
fn texts_of_tensor_ir() {
    texts(Syntax::Ir, "ratio.bir", RATIO, 4000);
}

#[test]
fn model_specs() {
    texts(Syntax::Toml, "layer.toml", include_str!("../../../examples/mhc_layer.toml"), 3000);
}

#[test]
fn texts_of_plans() {
    let spec = Spec::parse(Syntax::Ir, "ratio.bir", RATIO).unwrap().dim("C", 8);
    let stages = lower(&spec, &Options::default(), Stage::Plan, &mut |_| ()).unwrap();
    let text = birkhoff::ir::plan::text::print(&stages.program.unwrap());
    texts(Syntax::Ir, "plan.bir", &text, 1500);
}

#[test]
fn checks_of_damaged_specs() {
    let ask = Check::default();
    let n_accepted = survive(RATIO.as_bytes(), 400, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let Ok(spec) = Spec::parse(Syntax::Ir, "ratio.bir", text) else { return false };
        check(&spec, &spec.functions(), None, &ask, &mut |_| ()).is_ok()
    });
    assert!(n_accepted > 4, "{n_accepted}");
}
