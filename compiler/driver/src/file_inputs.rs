//! The inputs of a function, from a file of tensors.
//!
//! In: a spec and a file whose tensors have the names of its inputs. Out: the spec with the sizes that the file's shapes say,
//! and the inputs of a call, mapped where nothing must be converted. A file may hold results and cotangents of the same
//! system, which are ignored; any other name that the spec does not know is an error.

use crate::arrays::Inputs;
use crate::elements::{convert, widens};
use crate::error::Error;
use crate::function::Function;
use crate::spec::Spec;
use crate::tensor_file::{FileTensor, TensorFile};
use birkhoff_ir::diag::{Diagnostic, Diagnostics, Span};
use birkhoff_ir::dim::Sym;
use birkhoff_ir::tensor::TensorType;
use birkhoff_runtime::View;

/// Beginnings of names that an input file may hold for other purposes.
pub const IGNORED_PREFIXES: [&str; 4] = ["out.", "grad.", "f64.", "ct."];

/// The inputs of a call, in the order of the signature.
pub struct FileInputs<'a>(Vec<(Sym, FileTensor<'a>)>);

impl<'a> FileInputs<'a> {
    /// Reads the inputs of `function`, which was compiled from `spec`.
    ///
    /// Errors: a tensor that is missing or has other elements than the signature says. Where the spec was given another float
    /// type than its own, narrower floats are widened to it.
    pub fn read(spec: &Spec, function: &Function, file: &'a TensorFile) -> Result<FileInputs<'a>, Error> {
        let mut errors = Vec::new();
        let mut arrays = Vec::new();
        for (name, ty) in &function.signature().inputs {
            match read_one(name, ty, spec, file) {
                Ok(array) => arrays.push((name.clone(), array)),
                Err(error) => errors.push(error),
            }
        }
        let result = Diagnostics(errors).into_result(FileInputs(arrays));
        result.map_err(|errors| Error::in_file(errors, file.path().display()))
    }

    /// Views of all of them, in the order of the signature.
    pub fn views(&self) -> Vec<View<'_>> {
        self.0.iter().map(|(_, tensor)| tensor.view()).collect()
    }

    /// Views of all of them by name.
    pub fn inputs(&self) -> Inputs<'_> {
        self.0.iter().fold(Inputs::new(), |inputs, (name, tensor)| inputs.view(name, tensor.view()))
    }
}

fn read_one<'a>(
    name: &Sym,
    ty: &TensorType,
    spec: &Spec,
    file: &'a TensorFile,
) -> Result<FileTensor<'a>, Diagnostic> {
    let tensor = file.tensor(name)?;
    let found = tensor.view().dtype();
    if found == ty.dtype {
        return Ok(tensor);
    }
    // Only where the user asked for another type than the spec's is the file allowed to lag behind.
    if spec.float_type().is_some() && widens(found, ty.dtype) {
        return convert(&tensor.view(), ty.dtype).map(FileTensor::Copied);
    }
    Err(Diagnostic::input(Span::NONE, format!("the input `{name}` must be {ty}, found elements of {found}")))
}

/// The spec with compile-time sizes from the file's shapes.
///
/// Errors: names that the spec does not know, inputs that the file lacks, shapes that contradict each other or the spec. Names
/// come first: a missing input explains more than a size without a value.
pub fn bind_sizes(spec: &Spec, file: &TensorFile) -> Result<Spec, Error> {
    let signature = spec.open_signature()?;
    let mut errors = Vec::new();
    for name in file.names() {
        let ignored = IGNORED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if !ignored && !spec.has_input(name) {
            let list: Vec<&str> = signature.inputs.iter().map(|(name, _)| name.as_str()).collect();
            let message = format!("the file has a tensor `{name}`, which is no input of the spec");
            let help = format!("the inputs of `{}` are: {}", signature.name, list.join(", "));
            errors.push(Diagnostic::input(Span::NONE, message).help(help));
        }
    }
    for (name, ty) in &signature.inputs {
        if file.info(name).is_none() {
            let message = format!("the input `{name}`: {ty} is missing in the file");
            errors.push(Diagnostic::input(Span::NONE, message));
        }
    }
    Diagnostics(errors).into_result(()).map_err(|errors| Error::in_file(errors, file.path().display()))?;
    let shape_of = |name: &str| file.info(name).map(|(_, shape)| shape.to_vec());
    spec.for_shapes(&shape_of).map_err(|error| error.about_file(file.path().display()))
}
