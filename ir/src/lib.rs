//! What Birkhoff's programs mean.
//!
//! Three levels, each with its types, its text (which prints, parses and round-trips) and its verifier: the *tensor IR*
//! ([`tensor`]), in which models are written and transformed; the *kernel IR* ([`kernel`]), which back ends consume; and the
//! *plan* ([`plan`]), which the runtime follows. The evaluators define what an op and a kernel compute.
//!
//! Deliberately absent: passes (crate `birkhoff-compiler`), instructions (`birkhoff-codegen`), memory and devices
//! (`birkhoff-runtime`), files and terminals (`birkhoff`).

pub mod diag;
pub mod dim;
pub mod dtype;
pub mod kernel;
pub mod plan;
pub mod scalar;
pub mod tensor;
pub mod text;
