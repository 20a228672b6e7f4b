//! What the kernel tests share: files, numbers, and running one text.

pub mod cases;
pub mod formulas;

use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::eval::{Array, Memory, run};
use birkhoff_ir::kernel::traffic::predict;
use birkhoff_ir::kernel::{Access, Func, text, verify};
use birkhoff_ir::plan::{self, BufferKind, Program};
use std::collections::BTreeMap;
use std::path::Path;

/// Every file of `tests/kernels`: stem and text.
pub fn kernel_files() -> BTreeMap<String, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels");
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        files.insert(name, std::fs::read_to_string(&path).unwrap());
    }
    files
}

/// The kernel of a text, verified, after its round trip.
pub fn load(name: &str, source: &str) -> Func {
    let parsed = text::parse(source).unwrap_or_else(|diag| panic!("{}", render(diag, name, source)));
    verify::verify_parsed(&parsed).unwrap_or_else(|diags| panic!("{}", diags.render(name, source)));
    let printed = text::print(&parsed.func);
    let again = text::parse(&printed).unwrap_or_else(|diag| panic!("{}", render(diag, name, &printed)));
    assert_eq!(text::print(&again.func), printed, "{name}");
    assert_eq!(again.func, parsed.func, "{name}");
    parsed.func
}

/// The plan of a text, verified, after its round trip.
pub fn load_plan(name: &str, source: &str) -> Program {
    let parsed = plan::text::parse(source).unwrap_or_else(|diag| panic!("{}", render(diag, name, source)));
    plan::verify::verify_parsed(&parsed).unwrap_or_else(|diags| panic!("{}", diags.render(name, source)));
    let printed = plan::text::print(&parsed.program);
    let again = plan::text::parse(&printed).unwrap_or_else(|diag| panic!("{}", render(diag, name, &printed)));
    assert_eq!(plan::text::print(&again.program), printed, "{name}");
    assert_eq!(again.program, parsed.program, "{name}");
    parsed.program
}

fn render(diag: birkhoff_ir::diag::Diagnostic, name: &str, source: &str) -> String {
    birkhoff_ir::diag::Diagnostics::from(diag).render(name, source)
}

/// Runs `func` on the inputs (by parameter name); returns the outputs. The predicted traffic must be what the run counted,
/// and `whole` edge predictions exact.
pub fn run_kernel(
    func: &Func,
    sizes: &[(&str, i64)],
    inputs: &[(&str, &[f64])],
) -> BTreeMap<String, Vec<f64>> {
    let sizes: SizeEnv = sizes.iter().map(|(name, value)| ((*name).into(), *value)).collect();
    let mut arrays = vec![];
    for param in &func.params {
        let shape: Vec<i64> = param.shape.iter().map(|dim| dim.eval(&sizes).unwrap()).collect();
        let given = inputs.iter().find(|(name, _)| *name == param.name.as_str());
        arrays.push(match given {
            Some((_, values)) => Array::from_f64s(param.dtype, &shape, values).unwrap(),
            None => {
                assert_eq!(param.access, Access::Write, "no input {}", param.name);
                Array::uninit(param.dtype, &shape).unwrap()
            }
        });
    }
    let mut memory = Memory::new(arrays);
    let counted = run(func, &sizes, &mut memory).unwrap();
    assert_eq!(predict(func, &sizes).unwrap(), counted);
    let outputs = func.params.iter().zip(&memory.arrays).filter(|(param, _)| param.access != Access::Read);
    outputs.map(|(param, array)| (param.name.to_string(), array.to_f64s().unwrap())).collect()
}

/// Runs `program` on the inputs in order; returns the outputs by name. The predicted traffic of every launch must be what it
/// counted.
pub fn run_plan(program: &Program, sizes: &[(&str, i64)], inputs: &[&[f64]]) -> BTreeMap<String, Vec<f64>> {
    let sizes: SizeEnv = sizes.iter().map(|(name, value)| ((*name).into(), *value)).collect();
    let of_kind = |kind: BufferKind| program.buffers.iter().filter(move |buffer| buffer.kind == kind);
    let arrays: Vec<Array> = of_kind(BufferKind::Input)
        .zip(inputs)
        .map(|(buffer, values)| {
            let shape: Vec<i64> = buffer.shape.iter().map(|dim| dim.eval(&sizes).unwrap()).collect();
            Array::from_f64s(buffer.dtype, &shape, values).unwrap()
        })
        .collect();
    let outcome = plan::eval::run(program, &sizes, &arrays).unwrap();
    let predicted = plan::traffic::predict(program, &sizes).unwrap();
    for (kernel, traffic) in &outcome.launches {
        assert_eq!(predicted[*kernel as usize].per_launch, *traffic);
    }
    let contracts = plan::traffic::predict_contracts(program, &sizes).unwrap();
    for (contract, traffic) in &outcome.contracts {
        assert_eq!(contracts[*contract].per_launch, *traffic);
    }
    let n_contracts: u64 = contracts.iter().map(|contract| contract.launches).sum();
    assert_eq!(n_contracts, outcome.contracts.len() as u64);
    let n_launches: u64 = predicted.iter().map(|kernel| kernel.launches).sum();
    // Of what a flag decides, the prediction has nothing.
    if program.steps.iter().any(|step| matches!(step, plan::Step::Unless { .. })) {
        assert!(n_launches <= outcome.launches.len() as u64);
    } else {
        assert_eq!(n_launches, outcome.launches.len() as u64);
    }
    let outputs = of_kind(BufferKind::Output).zip(&outcome.outputs);
    outputs.map(|(buffer, array)| (buffer.name.to_string(), array.to_f64s().unwrap())).collect()
}

/// Values around 0, the same for every run; rounded to f32 so that kernels and formulas see the same.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `len` values between `-scale` and `scale`.
    pub fn values(&mut self, len: usize, scale: f64) -> Vec<f64> {
        (0..len).map(|_| DType::F32.round((2.0 * self.unit() - 1.0) * scale)).collect()
    }
}

/// Every element of `found` within `tolerance` of `expected`, relative to the largest expected magnitude.
pub fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-30, |scale: f64, value| scale.max(value.abs()));
    for (idx, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs() / scale;
        assert!(error <= tolerance, "{what}[{idx}]: expected {expected}, found {found}");
    }
}
