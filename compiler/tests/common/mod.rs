//! Small programs from text, inputs for them, and comparison in the evaluator.
#![allow(dead_code, reason = "each test binary uses a part")]

use birkhoff_ir::dim::{SizeEnv, Sym};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::Scalar;
use birkhoff_ir::tensor::bind::{Bindings, bind};
use birkhoff_ir::tensor::build::Builder;
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_ir::tensor::random::random_input;
use birkhoff_ir::tensor::text::{Scope, parse as parse_module, parse_body};
use birkhoff_ir::tensor::{FuncId, Module};

/// A function by its parts; its results are those of `o`, `p` and `r` that the statements define.
pub struct Example<'a> {
    /// Functions before it.
    pub prelude: &'a str,
    /// Its arguments.
    pub arguments: &'a str,
    /// Its statements.
    pub statements: &'a str,
}

/// What inputs hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contents {
    /// What their domains say.
    Domain,
    /// That, mixed with zeros, infinities, NaN, subnormal and huge numbers.
    Special,
}

/// The bound module of an example.
pub fn parse(example: &Example<'_>, dims: &[(&str, i64)]) -> Result<(Module, FuncId), String> {
    let head = "dim T in 1..=4096 default 64\ndim n = 3\ndim C = 7\n";
    let source = format!("{head}{}\nfn @main({}) -> () {{ return }}\n", example.prelude, example.arguments);
    let mut module = parse_module(&source).map_err(|why| why.render("example", &source))?;
    let shell = module.funcs.pop().ok_or("there is no function")?;
    let mut scope = Scope::default();
    for (input, value) in shell.inputs.iter().zip(shell.input_values()) {
        scope.insert(input.name.clone(), value);
    }
    let mut builder = Builder::resume(&mut module, shell);
    parse_body(&mut builder, &mut scope, example.statements, 0)
        .map_err(|why| why.render("example", example.statements))?;
    for name in ["o", "p", "r"] {
        if let Some(value) = scope.get(name).filter(|value| value.0 as usize >= builder.func().inputs.len()) {
            builder.output(name, value)?;
        }
    }
    builder.export();
    let id = builder.finish();
    let dims: SizeEnv = dims.iter().map(|(name, value)| (Sym::from(*name), *value)).collect();
    let bound = bind(&module, &Bindings { dims, ..Bindings::default() }).map_err(|why| why.message)?;
    Ok((bound, id))
}

fn sizes(module: &Module, tokens: i64) -> SizeEnv {
    module.dims.iter().map(|decl| (decl.name.clone(), tokens)).collect()
}

/// Random inputs for `func` with all run-time dims at `tokens`.
pub fn inputs_of(
    module: &Module,
    func: FuncId,
    tokens: i64,
    contents: Contents,
    seed: u64,
) -> Result<Vec<Tensor>, String> {
    let env = sizes(module, tokens);
    let func = module.func(func);
    let mut tensors = vec![];
    for (idx, input) in func.inputs.iter().enumerate() {
        let ty = &func.values[idx].ty;
        let shape: Result<Vec<usize>, String> = ty
            .shape
            .iter()
            .map(|dim| dim.eval(&env).map(|size| size as usize).map_err(|why| why.to_string()))
            .collect();
        let shape = shape?;
        let tensor = random_input(seed, &input.name, input.domain, ty.dtype, &shape)?;
        tensors.push(match contents {
            Contents::Special if ty.dtype.is_float() => with_specials(&tensor, ty.dtype, seed)?,
            _ => tensor,
        });
    }
    Ok(tensors)
}

fn with_specials(tensor: &Tensor, dtype: DType, seed: u64) -> Result<Tensor, String> {
    let specials =
        [0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-42, 3e38, -3e38, 0.5, -2.0];
    let values: Vec<f64> = (0..tensor.len())
        .map(|idx| {
            let mixed = (idx as u64)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .wrapping_add(seed.wrapping_mul(0xbf58_476d_1ce4_e5b9))
                >> 33;
            // A third of the elements, so that most rows keep finite ones.
            match specials.get((mixed % 36) as usize) {
                Some(special) => *special,
                None => tensor.get(idx).as_f64(),
            }
        })
        .collect();
    Tensor::from_f64s(dtype, tensor.shape().to_vec(), &values)
}

/// Errors unless both functions give the same: bit by bit for a bound of 0 (any NaN equals any other), else within the
/// bound relative to the largest magnitude of each result.
pub fn compare(
    before: (&Module, FuncId),
    after: (&Module, FuncId),
    tokens: i64,
    inputs: &[Tensor],
    bound: f64,
) -> Result<(), String> {
    let env = sizes(before.0, tokens);
    let expected = eval(before.0, before.1, &env, inputs).map_err(|why| why.message)?;
    let found = eval(after.0, after.1, &env, inputs).map_err(|why| why.message)?;
    let text = || birkhoff_ir::tensor::text::print(after.0);
    let outputs = &before.0.func(before.1).outputs;
    for ((out, want), got) in outputs.iter().zip(&expected).zip(&found) {
        if want.shape() != got.shape() || want.dtype() != got.dtype() {
            return Err(format!("`{}` has another type\n{}", out.name, text()));
        }
        let scale = want
            .to_f64s()
            .iter()
            .fold(1e-3f64, |max, value| if value.is_finite() { max.max(value.abs()) } else { max });
        for idx in 0..want.len() {
            let same = match (want.get(idx), got.get(idx)) {
                (Scalar::Float(a), Scalar::Float(b)) if a.is_nan() && b.is_nan() => true,
                (Scalar::Float(a), Scalar::Float(b)) if bound == 0.0 => a.to_bits() == b.to_bits(),
                (Scalar::Float(a), Scalar::Float(b)) => a == b || (a - b).abs() <= bound * scale,
                (a, b) => a == b,
            };
            if !same {
                let (a, b) = (want.get(idx), got.get(idx));
                return Err(format!(
                    "{}[{idx}] at T = {tokens}: expected {a:?}, found {b:?}\n{}",
                    out.name,
                    text()
                ));
            }
        }
    }
    Ok(())
}
