//! Names of a spec: dims, parameters, dtypes, and what refers to them.
//!
//! In: the declarations and references as written. Out: IR declarations, sizes, attributes and inputs, or errors at their
//! places.

use super::forms::{DimForm, Number, RunDim, Size, Tensor, Text};
use super::read::{self, Entry, Errors};
use super::shape;
use super::syntax::Dtypes;
use birkhoff_ir::diag::Span;
use birkhoff_ir::dim::{Dim, SizeEnv, Sym};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::Scalar;
use birkhoff_ir::tensor::{Attr, DimDecl, DimKind, Domain, F64, Module, ParamDecl, TensorType};
use std::collections::BTreeSet;
use std::ops::Range;
use toml::Spanned;

/// The largest size of one axis: what a 32-bit index still reaches.
const MAX_SIZE: i64 = 1 << 31;

/// Standard deviation of random weights whose number of terms is not known from the spec.
const WEIGHT_STD: f64 = 0.02;

/// What a spec declares.
pub struct Scope {
    /// Dims and parameters; functions are appended.
    pub module: Module,
    /// Element type of streams, and of what enters and leaves branches, in memory.
    pub storage: DType,
    /// Element type of parameters in memory.
    pub weights: DType,
    /// Element type of arithmetic and accumulation.
    pub compute: DType,
    /// Parameters whose declarations are at fault: what refers to them is not at fault again.
    broken_params: BTreeSet<String>,
}

/// One input of a function.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The tensor's name.
    pub name: Sym,
    /// Its type, for one layer.
    pub ty: TensorType,
    /// What random values are drawn from.
    pub domain: Domain,
    /// Its place.
    pub span: Range<usize>,
}

/// What a number must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// An integer of 0 or more.
    Count,
    /// A finite number.
    Real,
    /// A finite number of 0 or more.
    NotNegative,
    /// A finite number above 0.
    Positive,
    /// True or false.
    Flag,
}

impl Expect {
    fn text(self) -> &'static str {
        match self {
            Expect::Count => "an integer of 0 or more",
            Expect::Real => "a finite number",
            Expect::NotNegative => "a finite number of 0 or more",
            Expect::Positive => "a finite number above 0",
            Expect::Flag => "true or false",
        }
    }

    fn accepts(self, value: Scalar) -> bool {
        let number = value.as_f64();
        match (self, value) {
            (Expect::Flag, Scalar::Bool(_)) => true,
            (Expect::Flag, _) | (_, Scalar::Bool(_)) => false,
            (Expect::Count, Scalar::Int(value)) => value >= 0,
            (Expect::Count, _) => false,
            (Expect::Real, _) => number.is_finite(),
            (Expect::NotNegative, _) => number.is_finite() && number >= 0.0,
            (Expect::Positive, _) => number.is_finite() && number > 0.0,
        }
    }
}

impl Scope {
    /// Declares `[dims]`, `[params]` and `[dtypes]`.
    ///
    /// Errors: names that are none or are taken, sizes and numbers out of range, types that do not exist.
    pub fn new<'i>(
        dims: Vec<Entry<'i>>,
        params: Vec<Entry<'i>>,
        dtypes: &Dtypes,
        errors: &mut Errors,
    ) -> Scope {
        let mut module = Module::default();
        for (key, value) in dims {
            let (name, span) = checked_name(key.get_ref(), key.span(), "a dim", errors);
            let value_span = value.span();
            let form = read::decode::<DimForm>(value, errors);
            let kind = form.and_then(|form| dim_kind(&form, value_span, errors));
            // A dim whose declaration is at fault is still declared: what refers to it is not at fault again.
            let kind = kind.unwrap_or(DimKind::Static(None));
            module.dims.push(DimDecl { name, kind, span });
        }
        let mut broken_params = BTreeSet::new();
        for (key, value) in params {
            let (name, span) = checked_name(key.get_ref(), key.span(), "a parameter", errors);
            if module.dim(&name).is_some() {
                errors.add(key.span(), format!("`{name}` is already a dim"));
            }
            let value_span = value.span();
            let scalar = match read::decode::<Number>(value, errors) {
                Some(Number::Int(value)) => Some(Scalar::Int(value)),
                Some(Number::Float(value)) if value.is_finite() => Some(Scalar::Float(value)),
                Some(Number::Bool(value)) => Some(Scalar::Bool(value)),
                Some(Number::Float(_) | Number::Text(_)) => {
                    errors
                        .add(value_span, "the default of a parameter must be a finite number, true or false");
                    None
                }
                None => None,
            };
            match scalar {
                Some(value) => module.params.push(ParamDecl { name, value, span }),
                None => {
                    broken_params.insert(name.to_string());
                }
            }
        }
        let storage = dtype(dtypes.storage.as_ref(), errors).unwrap_or(DType::F32);
        let compute = dtype(dtypes.compute.as_ref(), errors).unwrap_or(storage.compute());
        if compute.compute() != compute
            && let Some(text) = &dtypes.compute
        {
            errors.add(text.span(), format!("arithmetic is done in f32 or f64, found {compute}")).help =
                format!("store in {compute} with `storage` or `weights`");
        }
        let weights = dtype(dtypes.weights.as_ref(), errors).unwrap_or(compute);
        Scope { module, storage, weights, compute, broken_params }
    }

    /// The size that `text` says.
    ///
    /// Errors: no size, or a dim that is not declared.
    pub fn dim(&self, size: &Spanned<Size>, errors: &mut Errors) -> Option<Dim> {
        match shape::parse_dim(&size.get_ref().0) {
            Ok(dim) => self.declared(&dim, size.span(), errors).then_some(dim),
            Err(why) => {
                errors.add(size.span(), why);
                None
            }
        }
    }

    /// The size that `text` says, of an axis that must be known when the kernels are made.
    ///
    /// Errors: as [`Scope::dim`], or a run-time dim in it.
    pub fn static_dim(&self, size: &Spanned<Size>, what: &str, errors: &mut Errors) -> Option<Dim> {
        let dim = self.dim(size, errors)?;
        let Some(run_time) = dim.syms().into_iter().find(|sym| self.is_run_time(sym)) else {
            return Some(dim);
        };
        errors
            .add(
                size.span(),
                format!("{what} must be known at compile time, `{run_time}` is known at run time"),
            )
            .help = format!("declare {run_time} = \"input\", or a number, in [dims]");
        None
    }

    fn is_run_time(&self, sym: &Sym) -> bool {
        self.module.dim(sym).is_some_and(|decl| matches!(decl.kind, DimKind::RunTime { .. }))
    }

    fn declared(&self, dim: &Dim, span: Range<usize>, errors: &mut Errors) -> bool {
        let unknown: Vec<Sym> = dim.syms().into_iter().filter(|sym| self.module.dim(sym).is_none()).collect();
        for sym in &unknown {
            let known: Vec<&str> = self.module.dims.iter().map(|decl| decl.name.as_str()).collect();
            errors.add(span.clone(), format!("there is no dim `{sym}`")).help =
                one_of("declare it in [dims]; the dims are", &known);
        }
        unknown.is_empty()
    }

    /// The type that `text` says.
    ///
    /// Errors: no type, or a dim that is not declared.
    pub fn tensor_type(&self, text: &str, span: Range<usize>, errors: &mut Errors) -> Option<TensorType> {
        match shape::parse_type(text) {
            Ok(ty) => {
                let declared = ty.shape.iter().all(|dim| self.declared(dim, span.clone(), errors));
                declared.then_some(ty)
            }
            Err(why) => {
                errors.add(span, why);
                None
            }
        }
    }

    /// The number, or the parameter that `$name` says, as an attribute.
    ///
    /// Errors: a number that is not what is expected, a parameter that is not declared or whose default is not.
    pub fn number(&self, number: &Spanned<Number>, expect: Expect, errors: &mut Errors) -> Option<Attr> {
        let (attr, value, of) = match number.get_ref() {
            Number::Int(value) if expect == Expect::Count => {
                (Attr::Int(*value), Scalar::Int(*value), String::new())
            }
            Number::Int(value) => (Attr::Float(F64(*value as f64)), Scalar::Int(*value), String::new()),
            Number::Float(value) => (Attr::Float(F64(*value)), Scalar::Float(*value), String::new()),
            Number::Bool(value) => (Attr::Bool(*value), Scalar::Bool(*value), String::new()),
            Number::Text(text) => {
                let decl = self.param(text, number.span(), errors)?;
                (Attr::Param(decl.name.clone()), decl.value, format!(", the default of `{}`", decl.name))
            }
        };
        if expect.accepts(value) {
            return Some(attr);
        }
        errors.add(number.span(), format!("expected {}, found {}{of}", expect.text(), plain(value)));
        None
    }

    fn param(&self, text: &str, span: Range<usize>, errors: &mut Errors) -> Option<&ParamDecl> {
        let Some(name) = text.strip_prefix('$') else {
            errors.add(span, format!("expected a number, or a parameter such as \"$iters\", found `{text}`"));
            return None;
        };
        let found = self.module.param(name);
        if found.is_none() && !self.broken_params.contains(name) {
            let known: Vec<&str> = self.module.params.iter().map(|decl| decl.name.as_str()).collect();
            errors.add(span, format!("there is no parameter `{name}`")).help =
                one_of("declare it in [params]; the parameters are", &known);
        }
        found
    }

    /// The input that `tensor` names, of a type that its place in the spec gives.
    ///
    /// Errors: no name, a name that is none, a type that does not belong here, a bad distribution.
    pub fn slot(
        &self,
        tensor: &Spanned<Tensor>,
        ty: TensorType,
        default: Domain,
        errors: &mut Errors,
    ) -> Option<Slot> {
        let written = tensor.get_ref();
        if let Some(ty) = &written.ty {
            errors.add(ty.span(), "the type of this input follows from its place in the spec").help =
                "leave `type` out".into();
        }
        let (name, span) = match (&written.text, &written.name) {
            (Some(text), _) => (text.as_str(), tensor.span()),
            (None, Some(name)) => (name.get_ref().as_str(), name.span()),
            (None, None) => {
                errors.add(tensor.span(), "expected the input's name").help =
                    "write \"x\", or { name = \"x\", random = .. }".into();
                return None;
            }
        };
        let (name, _) = checked_name(name, span.clone(), "an input", errors);
        let domain = domain(written, errors).unwrap_or(default);
        Some(Slot { name, ty, domain, span })
    }

    /// Random values for weights of sums of `n_terms` terms: sums of unit terms come out of unit size.
    pub fn weight_domain(&self, n_terms: &Dim) -> Domain {
        let mut sizes = SizeEnv::new();
        for decl in &self.module.dims {
            if let DimKind::Static(Some(value)) = decl.kind {
                sizes.insert(decl.name.clone(), value);
            }
        }
        let std = match n_terms.eval(&sizes) {
            Ok(count) if count > 0 => (count as f64).sqrt().recip(),
            _ => WEIGHT_STD,
        };
        Domain::Normal { mean: 0.0, std }
    }
}

/// The distribution that an input's table says, if it does.
pub fn domain(tensor: &Tensor, errors: &mut Errors) -> Option<Domain> {
    let random = tensor.random.as_ref()?;
    random.get_ref().domain().map_err(|why| errors.add(random.span(), why).span).ok()
}

/// `name` as a symbol; an error if it cannot be written in IR text.
pub fn checked_name(name: &str, span: Range<usize>, what: &str, errors: &mut Errors) -> (Sym, Span) {
    if !shape::is_name(name) {
        errors.add(
            span.clone(),
            format!("the name of {what} has letters, digits and `_` only, found `{name}`"),
        );
    }
    (Sym::from(name), Span::new(span))
}

/// `intro: a, b`, or what to say when there is none.
pub fn one_of(intro: &str, names: &[&str]) -> String {
    if names.is_empty() { format!("{intro}: none") } else { format!("{intro}: {}", names.join(", ")) }
}

fn plain(value: Scalar) -> String {
    match value {
        Scalar::Int(value) => value.to_string(),
        Scalar::Float(value) => F64(value).to_string(),
        Scalar::Bool(value) => value.to_string(),
    }
}

fn dim_kind(form: &DimForm, span: Range<usize>, errors: &mut Errors) -> Option<DimKind> {
    let in_range = |value: i64| (1..=MAX_SIZE).contains(&value);
    match form {
        DimForm::Input => Some(DimKind::Static(None)),
        DimForm::Fixed(value) if in_range(*value) => Some(DimKind::Static(Some(*value))),
        DimForm::Fixed(value) => {
            errors.add(span, format!("a size is 1 to {MAX_SIZE}, found {value}"));
            None
        }
        DimForm::Run(RunDim { run: [lo, hi], default }) => {
            if !in_range(*lo) || !in_range(*hi) || lo > hi {
                errors.add(
                    span,
                    format!("expected run = [smallest, largest] within 1 to {MAX_SIZE}, found [{lo}, {hi}]"),
                );
                return None;
            }
            if let Some(default) = default.filter(|default| !(lo..=hi).contains(&default)) {
                errors.add(span, format!("the default {default} is not within {lo} to {hi}"));
            }
            Some(DimKind::RunTime { lo: *lo, hi: *hi, default: *default })
        }
    }
}

fn dtype(text: Option<&Text>, errors: &mut Errors) -> Option<DType> {
    let text = text?;
    let found = DType::from_name(text.get_ref()).filter(|dtype| dtype.is_float());
    if found.is_none() {
        let floats: Vec<&str> =
            DType::ALL.iter().filter(|dtype| dtype.is_float()).map(|dtype| dtype.name()).collect();
        errors.add(text.span(), format!("expected one of {}, found `{}`", floats.join(", "), text.get_ref()));
    }
    found
}
