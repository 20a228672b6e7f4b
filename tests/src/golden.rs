//! Golden files: tensors that other systems computed, and how near to them a result must come.
//!
//! In: the files of `tests/golden` and the specs of `tests/specs`. Out: tensors, attributes, tolerances, and which spec belongs
//! to which file: the one whose stem is the longest prefix of the file's name.

use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::Scalar;
use birkhoff_ir::tensor::eval::Tensor;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One golden file.
pub struct Golden {
    /// Its stem.
    pub name: String,
    /// Inputs under their names, `out.*`, `f64.*`, `grad.*`, `ct.*`.
    pub tensors: BTreeMap<String, Tensor>,
    /// Attributes that are single numbers.
    pub attrs: BTreeMap<String, Scalar>,
    /// The rest of `tol`: numbers by name, and those of single tensors in f32.
    tolerances: BTreeMap<String, f64>,
    own_f32: BTreeMap<String, f64>,
}

/// The folder `name` of this crate.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// Files of a folder with that ending, sorted.
///
/// Errors: the folder cannot be read.
pub fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == ending));
    paths.sort();
    Ok(paths)
}

/// The stem of a path; empty if it has none.
pub fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The spec whose stem is the longest prefix of `name`.
pub fn spec_of<'a>(name: &str, specs: &'a [PathBuf]) -> Option<&'a PathBuf> {
    specs.iter().filter(|path| name.starts_with(&stem(path))).max_by_key(|path| stem(path).len())
}

fn dtype(dtype: Dtype) -> Result<DType, String> {
    match dtype {
        Dtype::F64 => Ok(DType::F64),
        Dtype::F32 => Ok(DType::F32),
        Dtype::BF16 => Ok(DType::Bf16),
        Dtype::I64 => Ok(DType::I64),
        Dtype::I32 => Ok(DType::I32),
        other => Err(format!("golden files hold no {other:?}")),
    }
}

/// Numbers of a JSON object, each under its key.
fn numbers(object: &Value) -> BTreeMap<String, f64> {
    let entries = object.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_f64()?))).collect()
}

impl Golden {
    /// Reads a golden file.
    ///
    /// Errors: not a safetensors file, or without the metadata `golden`.
    pub fn read(path: &Path) -> Result<Golden, String> {
        let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let bytes = std::fs::read(path).map_err(|error| fail(&error))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| fail(&error))?;
        let text = header.metadata().as_ref().and_then(|metadata| metadata.get("golden"));
        let text = text.ok_or_else(|| fail(&"no metadata `golden`"))?;
        let about: Value = serde_json::from_str(text).map_err(|error| fail(&error))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| fail(&error))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let dtype = dtype(view.dtype())?;
            let tensor = Tensor::from_le_bytes(dtype, view.shape().to_vec(), view.data())?;
            tensors.insert(name.to_string(), tensor);
        }
        let mut attrs = BTreeMap::new();
        for (key, value) in about["attrs"].as_object().into_iter().flatten() {
            if let Some(value) = value.as_i64() {
                attrs.insert(key.clone(), Scalar::Int(value));
            } else if let Some(value) = value.as_f64() {
                attrs.insert(key.clone(), Scalar::Float(value));
            }
        }
        let (tolerances, own_f32) = (numbers(&about["tol"]), numbers(&about["tol"]["f32"]));
        Ok(Golden { name: stem(path), tensors, attrs, tolerances, own_f32 })
    }

    /// Names of the outputs, without `out.`.
    pub fn outputs(&self) -> Vec<&str> {
        self.tensors.keys().filter_map(|name| name.strip_prefix("out.")).collect()
    }

    /// Names of the inputs that have a gradient, and of the outputs that have a cotangent.
    pub fn gradients(&self) -> (Vec<&str>, Vec<&str>) {
        let with =
            |prefix: &'static str| self.tensors.keys().filter_map(move |name| name.strip_prefix(prefix));
        (with("grad.").collect(), with("ct.").collect())
    }

    /// What `got`, the output or gradient `name` computed in `float`, is wrong by; `None` if it is near enough.
    ///
    /// The rule is that of the golden files: `max|got - ref| <= tol max|ref|`, absolute where `max|ref| < 1e-12`; a bf16
    /// output also may be off by a rounding of each element.
    pub fn difference(&self, name: &str, got: &Tensor, float: DType) -> Option<String> {
        let is_gradient = name.starts_with("grad.");
        let stored = if is_gradient { name.to_string() } else { format!("out.{name}") };
        let exact = self.tensors.get(&format!("f64.{name}")).or_else(|| self.tensors.get(&stored));
        let Some(reference) = exact else { return Some(format!("there is no {stored}")) };
        if got.shape() != reference.shape() {
            return Some(format!("{stored} has the shape {:?}, found {:?}", reference.shape(), got.shape()));
        }
        let tolerance = |name: &str| self.tolerances.get(name).copied().unwrap_or(0.0);
        // The bf16 file stores its coefficients as f32 computed them.
        let in_f64 = float == DType::F64 && reference.dtype() == DType::F64;
        let relative = match self.own_f32.get(&stored) {
            _ if in_f64 => tolerance("f64"),
            Some(own) => *own,
            None if is_gradient => tolerance("f32_grad"),
            None => tolerance("f32_out"),
        };
        let per_element = if got.dtype() == DType::Bf16 { tolerance("bf16") } else { 0.0 };
        let (got, reference) = (got.to_f64s(), reference.to_f64s());
        let largest = reference.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let bound = if largest < 1e-12 { relative } else { relative * largest };
        let excess =
            |(got, reference): (&f64, &f64)| (got - reference).abs() - bound - per_element * reference.abs();
        // NaN is no number at all: it must not pass as a small difference.
        let wrong = got.iter().zip(&reference).position(|pair| {
            let excess = excess(pair);
            excess.is_nan() || excess > 0.0
        })?;
        Some(format!(
            "{stored}[{wrong}] is {:e}, expected {:e} to within {:e}",
            got[wrong], reference[wrong], bound
        ))
    }
}
