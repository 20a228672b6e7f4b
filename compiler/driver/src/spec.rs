//! What is to be compiled: a model spec or a text of any level, with values for its sizes and parameters.
//!
//! In: a file, a text or a module, and overrides by name. Out: a bound, verified module and the function in it. Reads files
//! and nothing else; overrides are checked when the spec is compiled.

use crate::error::{Error, Source};
use crate::signature::Signature;
use birkhoff_compiler::spec as model_spec;
use birkhoff_ir::diag::{Diagnostic, Diagnostics, Span};
use birkhoff_ir::dim::{SizeEnv, Sym};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{self, Access};
use birkhoff_ir::plan::{self, BufferKind, Program};
use birkhoff_ir::scalar::Scalar;
use birkhoff_ir::tensor::bind::{Bindings, bind, solve_sizes};
use birkhoff_ir::tensor::{self, DimKind, FuncId, Module};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// The largest text that is read; a spec is a few kilobytes.
const MAX_TEXT_BYTES: u64 = 64 << 20;

/// A program to compile, with values for its named sizes and parameters.
#[derive(Clone, Debug)]
pub struct Spec {
    content: Content,
    source: Option<Arc<Source>>,
    dims: SizeEnv,
    params: BTreeMap<Sym, Scalar>,
    float: Option<DType>,
    func: Option<String>,
}

/// The level at which a program came.
#[derive(Clone, Debug)]
pub enum Content {
    /// A module of tensor IR: from a model spec, a text, or code.
    Tensor(Module),
    /// A plan with its kernels, or a single kernel.
    Plan(Program),
}

/// How a text is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Syntax {
    /// A model spec in TOML.
    Toml,
    /// IR text: of tensor IR, of a kernel, or of a plan; its first word tells which.
    Ir,
}

impl Spec {
    /// Reads a `.toml` model spec or a `.bir` text.
    ///
    /// Errors: a file that cannot be read, is not UTF-8, has another extension, or does not parse; with file, line, column
    /// and caret.
    pub fn load(path: impl AsRef<Path>) -> Result<Spec, Error> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let syntax = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Syntax::Toml,
            Some("bir") => Syntax::Ir,
            _ => {
                let error = Diagnostic::input(Span::NONE, "a spec is a `.toml` model spec or a `.bir` text");
                return Err(Error::in_file(error, name));
            }
        };
        Spec::parse(syntax, &name, &read_text(path)?)
    }

    /// Reads a text; `name` stands for the file in errors.
    ///
    /// Errors: as [`Spec::load`].
    pub fn parse(syntax: Syntax, name: &str, text: &str) -> Result<Spec, Error> {
        let source = Arc::new(Source { path: name.to_string(), text: text.to_string() });
        let content = match syntax {
            Syntax::Toml => model_spec::parse(text).map(Content::Tensor),
            Syntax::Ir => parse_ir(text),
        };
        let content = content.map_err(|errors| Error::new(errors, Some(source.clone())))?;
        Ok(Spec { source: Some(source), ..Spec::new(content) })
    }

    /// A module built by code.
    pub fn from_module(module: Module) -> Spec {
        Spec::new(Content::Tensor(module))
    }

    /// A plan built by code.
    pub fn from_program(program: Program) -> Spec {
        Spec::new(Content::Plan(program))
    }

    fn new(content: Content) -> Spec {
        let (dims, params) = (SizeEnv::new(), BTreeMap::new());
        Spec { content, source: None, dims, params, float: None, func: None }
    }

    /// Gives a named size its value: a compile-time one, or a run-time one where no input's shape says it.
    pub fn dim(mut self, name: &str, value: i64) -> Spec {
        self.dims.insert(Sym::from(name), value);
        self
    }

    /// Gives a parameter (an iteration count, an eps, a flag) its value; a name that is a size's sets that size.
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Spec {
        self.params.insert(Sym::from(name), value.into().0);
        self
    }

    /// Makes every float type `dtype`.
    pub fn float(mut self, dtype: DType) -> Spec {
        self.float = Some(dtype);
        self
    }

    /// Picks an exported function; without this, the first one.
    pub fn function(mut self, name: &str) -> Spec {
        self.func = Some(name.to_string());
        self
    }

    /// The program as it came.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The text it came from.
    pub fn source(&self) -> Option<&Arc<Source>> {
        self.source.as_ref()
    }

    /// The type every float was made, if any.
    pub fn float_type(&self) -> Option<DType> {
        self.float
    }

    /// Names of the exported functions, in order.
    pub fn functions(&self) -> Vec<String> {
        match &self.content {
            Content::Tensor(module) => module.exported().map(|(_, func)| func.name.clone()).collect(),
            Content::Plan(program) => vec![program.name.to_string()],
        }
    }

    /// The signature before sizes are known: compile-time sizes stand in it by name.
    ///
    /// Errors: a function that is not exported.
    pub fn open_signature(&self) -> Result<Signature, Error> {
        match &self.content {
            Content::Tensor(module) => {
                let id = self.func_id(module).map_err(|error| self.error(error))?;
                Ok(Signature::of_func(module, id))
            }
            Content::Plan(program) => Ok(Signature::of_program(program)),
        }
    }

    /// Whether any exported function has an input of that name.
    pub fn has_input(&self, name: &str) -> bool {
        match &self.content {
            Content::Tensor(module) => {
                module.exported().any(|(_, func)| func.inputs.iter().any(|input| input.name.as_str() == name))
            }
            Content::Plan(program) => program.buffers.iter().any(|buffer| buffer.name.as_str() == name),
        }
    }

    /// The sizes that were given and stay open until a call.
    pub fn given_sizes(&self) -> SizeEnv {
        let open = |name: &Sym| match &self.content {
            Content::Tensor(module) => {
                module.dim(name).is_some_and(|decl| matches!(decl.kind, DimKind::RunTime { .. }))
            }
            Content::Plan(program) => program.sizes.iter().any(|decl| decl.name == *name),
        };
        self.all_dims().into_iter().filter(|(name, _)| open(name)).collect()
    }

    /// Takes the compile-time sizes from the shapes of the inputs, as far as those say them.
    ///
    /// `shape_of` gives an input's extents by its name, `None` for inputs that do not say.
    ///
    /// Errors: shapes that contradict each other, the spec, or a size that was given; both are named.
    pub fn for_shapes(&self, shape_of: &dyn Fn(&str) -> Option<Vec<i64>>) -> Result<Spec, Error> {
        let Content::Tensor(module) = &self.content else { return Ok(self.clone()) };
        let func = module.func(self.func_id(module).map_err(|error| self.error(error))?);
        let mut known = SizeEnv::new();
        for decl in &module.dims {
            if let DimKind::Static(Some(value)) = decl.kind {
                known.insert(decl.name.clone(), value);
            }
        }
        known.extend(self.all_dims());
        let (mut types, mut shapes) = (Vec::new(), Vec::new());
        for (input, value) in func.inputs.iter().zip(func.input_values()) {
            if let Some(shape) = shape_of(&input.name) {
                types.push((input.name.clone(), func.ty(value).clone()));
                shapes.push(shape);
            }
        }
        let solved = solve_sizes(&types, &shapes, &known)?;
        let is_static =
            |name: &Sym| module.dim(name).is_some_and(|decl| matches!(decl.kind, DimKind::Static(_)));
        let mut bound = self.clone();
        bound.dims.extend(solved.into_iter().filter(|(name, _)| is_static(name)));
        Ok(bound)
    }

    /// The values of all compile-time sizes that are known: what tells one specialisation from another.
    pub fn static_sizes(&self) -> SizeEnv {
        let given = self.given_sizes();
        self.all_dims().into_iter().filter(|(name, _)| !given.contains_key(name)).collect()
    }

    /// The module with parameters and compile-time sizes replaced by their values, and the function in it.
    ///
    /// Errors: an unknown name, a size without a value, a function that is not exported.
    pub(crate) fn bind(&self, module: &Module) -> Result<(Module, FuncId), Error> {
        let id = self.func_id(module).map_err(|error| self.error(error))?;
        let params = self.params.iter().filter(|(name, _)| !self.sets_dim(name));
        let bindings = Bindings {
            dims: self.all_dims(),
            params: params.map(|(name, value)| (name.clone(), *value)).collect(),
            float: self.float,
        };
        let bound = bind(module, &bindings).map_err(|error| self.error(error))?;
        Ok((bound, id))
    }

    /// Checks the overrides of a spec that came as a plan, in which everything else is fixed.
    pub(crate) fn check_plan(&self, program: &Program) -> Result<(), Error> {
        let mut errors = Vec::new();
        let mut refuse = |message: String| errors.push(Diagnostic::input(Span::NONE, message));
        for name in self.dims.keys().chain(self.params.keys()) {
            if !program.sizes.iter().any(|decl| decl.name == *name) {
                refuse(format!("the plan has no run-time size `{name}`, and no parameters"));
            }
        }
        if let Some(name) = self.func.as_ref().filter(|name| name.as_str() != program.name.as_str()) {
            refuse(format!("the plan is of the function `{}`, `{name}` was asked for", program.name));
        }
        if self.float.is_some() {
            refuse("the element types of a plan are fixed".to_string());
        }
        Diagnostics(errors).into_result(()).map_err(|errors| self.error(errors))
    }

    /// `errors` with the text they are about.
    pub(crate) fn error(&self, errors: impl Into<Diagnostics>) -> Error {
        Error::new(errors, self.source.clone())
    }

    /// Sizes that were given, by whatever name.
    pub(crate) fn all_dims(&self) -> SizeEnv {
        let mut dims = self.dims.clone();
        for (name, value) in self.params.iter().filter(|(name, _)| self.sets_dim(name)) {
            dims.entry(name.clone()).or_insert(value.as_i64());
        }
        dims
    }

    /// Whether the override `name` speaks of a size: no parameter is called so, and a size is.
    fn sets_dim(&self, name: &Sym) -> bool {
        let is_integer = matches!(self.params.get(name), Some(Scalar::Int(_)));
        is_integer
            && match &self.content {
                Content::Tensor(module) => module.param(name).is_none() && module.dim(name).is_some(),
                Content::Plan(program) => program.sizes.iter().any(|decl| decl.name == *name),
            }
    }

    /// Puts a module and the name of one of its functions in the place of what the spec holds.
    pub(crate) fn replace(&mut self, module: Module, func: String) {
        self.content = Content::Tensor(module);
        self.func = Some(func);
    }

    pub(crate) fn func_id(&self, module: &Module) -> Result<FuncId, Diagnostic> {
        let found = match &self.func {
            None => module.exported().next(),
            Some(name) => module.exported().find(|(_, func)| func.name == *name),
        };
        found.map(|(id, _)| id).ok_or_else(|| {
            let names = self.functions().join(", ");
            match &self.func {
                None => Diagnostic::input(Span::NONE, "the spec exports no function"),
                Some(name) => {
                    let message = format!("the spec exports no function `{name}`");
                    Diagnostic::input(Span::NONE, message).help(format!("the functions are: {names}"))
                }
            }
        })
    }
}

/// The value of a parameter.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Value(pub Scalar);

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value(Scalar::Int(value))
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value(Scalar::Float(value))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value(Scalar::Bool(value))
    }
}

/// The text of a file.
fn read_text(path: &Path) -> Result<String, Error> {
    let fail = |message: String| Error::in_file(Diagnostic::input(Span::NONE, message), path.display());
    let read = || -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| fail(format!("the spec cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        return Err(fail(format!("the spec has more than {MAX_TEXT_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        fail(format!("the spec is not UTF-8: the byte at {at}, in line {line}, starts no character"))
    })
}

fn parse_ir(text: &str) -> Result<Content, Diagnostics> {
    match first_word(text) {
        "kernel" => {
            let parsed = kernel::text::parse(text)?;
            kernel::verify::verify_parsed(&parsed)?;
            Ok(Content::Plan(program_of_kernel(parsed.func)?))
        }
        "plan" => {
            let parsed = plan::text::parse(text)?;
            plan::verify::verify_parsed(&parsed)?;
            Ok(Content::Plan(parsed.program))
        }
        _ => tensor::text::parse(text).map(Content::Tensor),
    }
}

/// The first word of an IR text, behind blanks and comments.
fn first_word(text: &str) -> &str {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or("").trim());
    let first = code.into_iter().find(|line| !line.is_empty()).unwrap_or("");
    first.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("")
}

/// A plan of one launch of one kernel; what it reads are inputs, what it writes are outputs.
fn program_of_kernel(func: kernel::Func) -> Result<Program, Diagnostic> {
    if let Some(param) = func.params.iter().find(|param| param.access == Access::ReadWrite) {
        let message = format!("`{}` is read and written, which takes a plan around the kernel", param.name);
        return Err(Diagnostic::input(Span::NONE, message));
    }
    let mut order: Vec<usize> = (0..func.params.len()).collect();
    order.sort_by_key(|idx| func.params[*idx].access != Access::Read);
    let mut args = vec![plan::Arg { buffer: plan::BufferId(0), offset: Default::default() }; order.len()];
    let mut buffers = Vec::with_capacity(order.len());
    for (position, idx) in order.into_iter().enumerate() {
        let param = &func.params[idx];
        let kind = if param.access == Access::Read { BufferKind::Input } else { BufferKind::Output };
        let (name, shape) = (param.name.clone(), param.shape.clone());
        buffers.push(plan::Buffer { name, dtype: param.dtype, shape, kind });
        args[idx].buffer = plan::BufferId(position as u32);
    }
    let open = |name: &Sym| plan::SizeDecl { name: name.clone(), bounds: (0, i64::MAX), default: None };
    Ok(Program {
        name: func.name.clone(),
        sizes: func.sizes.iter().map(open).collect(),
        buffers,
        slots: vec![],
        kernels: vec![func],
        steps: vec![plan::Step::Launch { kernel: 0, args }],
    })
}
