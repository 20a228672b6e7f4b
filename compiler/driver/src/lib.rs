//! Birkhoff compiles graphs of manifold-constrained hyper-connections to fused kernels and runs them.
//!
//! Load or build a graph, compile it, call it with arrays by name:
//!
//! ```
//! use birkhoff::{Inputs, Options, Spec, Syntax, compile};
//!
//! let spec = Spec::parse(Syntax::Ir, "softmax.bir", "
//!     dim n = 4
//!     dim T in 1..=2147483648 default 1024
//!     param steepness = 1.0
//!     export fn @main(%m: f32[T,n]) -> (p: f32[T,n]) {
//!       return p = softmax($steepness * m, axis=1)
//!     }
//! ")?;
//! let options = Options { target: birkhoff::Target::Eval, ..Options::default() };
//! let main = compile(&spec.set("steepness", 2.0), &options)?;
//!
//! let m = [0.0f32, 1.0, 2.0, 3.0, -1.0, -1.0, -1.0, -1.0];
//! let outputs = main.call(&Inputs::new().slice("m", &m, &[2, 4]))?;
//! let p = outputs.slice::<f32>("p")?;
//! assert!((p[..4].iter().sum::<f32>() - 1.0).abs() < 1e-6);
//! assert_eq!(p[4..], [0.25; 4]);
//! # Ok::<(), birkhoff::Error>(())
//! ```
//!
//! - A [`Spec`] is a model spec, a text of tensor IR, or a module built by code, with values for its sizes and parameters.
//! - [`compile`] makes a [`Function`] for a [`Target`]. It is called with any run-time sizes, from any number of threads;
//!   results are the same bits for any number of threads in its [`Pool`].
//! - [`Inputs`] and [`OutputsMut`] are views of the caller's memory; nothing is copied. [`Function::call`] allocates its
//!   [`Outputs`], [`Function::call_into`] does not.
//! - A [`Template`] compiles for the compile-time sizes that its inputs turn out to have.
//! - [`lower`] gives what every stage made, [`mod@check`] compares derivatives with differences and targets with the evaluator.
//!
//! Deliberately absent: passes (crate `birkhoff-compiler`), instructions (`birkhoff-codegen`), memory and threads
//! (`birkhoff-runtime`). This crate is the only one that touches files.

mod arrays;
mod backward;
mod backward_plan;
pub mod bench;
pub mod check;
#[cfg(feature = "ptx")]
mod device;
pub mod elements;
mod engine;
mod error;
pub mod file_inputs;
pub mod files;
mod function;
mod gradient;
mod limits;
mod loop_choice;
mod options;
pub mod pipeline;
#[cfg(feature = "ptx")]
mod ptx;
#[cfg(feature = "ptx")]
pub mod ptxas;
pub mod schedule_report;
mod signature;
mod spec;
mod stage_text;
mod target;
mod template;
pub mod tensor_file;

pub use arrays::{Inputs, Outputs, OutputsMut};
pub use backward::{Differentiable, Tape, compile_differentiable};
pub use backward_plan::{Backward, BackwardMemory, BackwardPlan, Candidate, Keep};
pub use birkhoff_codegen::cpu::Object;
pub use birkhoff_compiler::eqsat::Math;
pub use birkhoff_ir as ir;
pub use birkhoff_runtime::{Buffer, CallReport, Element, Memory, Pool, View, ViewMut};
pub use error::{Error, Source};
pub use function::Function;
pub use gradient::{Cotangents, Gradient, Loops};
pub use loop_choice::{LoopChoice, LoopReport, RangeChoice, Weights};
pub use options::{Options, Stage};
#[cfg(feature = "ptx")]
pub use pipeline::compile_ptx;
pub use pipeline::{Stages, compile, compile_object, compile_observed, lower};
#[cfg(feature = "ptx")]
pub use ptx::PtxModule;
pub use signature::Signature;
pub use spec::{Content, Spec, Syntax, Value};
pub use stage_text::{schedule_of, stage_text};
pub use target::Target;
pub use template::Template;

/// The README's example is compiled and run with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct ReadmeExamples;
