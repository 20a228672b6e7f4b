//! Bytes that a kernel moves across its edge, predicted without running it.
//!
//! In: a verified kernel and its sizes. Out: per parameter, *edge* bytes (distinct elements, read and written apart) and
//! *issued* bytes (every load and store; a uniform one inside a lane loop counts once a chunk, a per-lane one once a lane).
//! The kernel evaluator counts the same numbers from what ran. A [`Mapping`] says how often a machine issues each instead.
//!
//! Issued bytes are exact. Loops whose body bounds no other loop by their variable are multiplied, the others are walked;
//! full tiles and the tail tile are told apart. Edge bytes are exact where the touched elements are provably a box of
//! positions, with or without gaps, and no two accesses overlap in part; else they are an upper bound, never more than the
//! parameter or than what is issued.
//!
//! Deliberately absent: bounds that depend on loaded values. They are an error.

mod edge;
mod issued;

pub use issued::{Mapping, Scale};

use super::{Access, Func};
use crate::diag::Diagnostic;
use crate::dim::{SizeEnv, Sym};

/// Bytes per parameter, in the order of [`Func::params`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// One per parameter.
    pub per_param: Vec<ParamTraffic>,
}

/// Bytes of one parameter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParamTraffic {
    /// The parameter's name.
    pub name: Sym,
    /// Whether it is read or written.
    pub access: Access,
    /// Distinct elements read, in bytes.
    pub edge_read: u64,
    /// Distinct elements written, in bytes.
    pub edge_written: u64,
    /// All loads, in bytes.
    pub issued_read: u64,
    /// All stores, in bytes.
    pub issued_written: u64,
}

impl Traffic {
    /// Edge bytes of all parameters, read and written.
    pub fn edge_bytes(&self) -> u64 {
        self.per_param.iter().map(|param| param.edge_read.saturating_add(param.edge_written)).sum()
    }

    /// Issued bytes of all parameters, read and written.
    pub fn issued_bytes(&self) -> u64 {
        self.per_param.iter().map(|param| param.issued_read.saturating_add(param.issued_written)).sum()
    }

    /// The traffic of the parameter `name`.
    pub fn param(&self, name: &str) -> Option<&ParamTraffic> {
        self.per_param.iter().find(|param| param.name.as_str() == name)
    }
}

/// The traffic of one launch of `func` at `sizes`.
///
/// Errors: a size without a value or too large, a loop bound that depends on a loaded value.
pub fn predict(func: &Func, sizes: &SizeEnv) -> Result<Traffic, Diagnostic> {
    Ok(predict_on(func, sizes, &issued::Plain)?.0)
}

/// The traffic of one launch of `func` at `sizes` on a machine: its issued bytes are those of `mapping`. Beside it the bytes
/// that are loaded from and stored to each local, which may be memory too; targets of lane reductions do not count.
///
/// Errors: as those of [`predict`].
pub fn predict_on(
    func: &Func,
    sizes: &SizeEnv,
    mapping: &dyn Mapping,
) -> Result<(Traffic, Vec<(u64, u64)>), Diagnostic> {
    let issued = issued::count(func, sizes, mapping)?;
    let edges = edge::bound(func, sizes)?;
    let mut traffic = Traffic::default();
    for (idx, param) in func.params.iter().enumerate() {
        let size_bytes = param.dtype.size_bytes();
        let bytes = |elems: u64| elems.saturating_mul(size_bytes);
        let (read, written) = issued[idx];
        traffic.per_param.push(ParamTraffic {
            name: param.name.clone(),
            access: param.access,
            // No more elements than accesses: this makes the bound exact for parameters that are never touched.
            edge_read: bytes(edges[idx].0.min(read)),
            edge_written: bytes(edges[idx].1.min(written)),
            issued_read: bytes(read),
            issued_written: bytes(written),
        });
    }
    let of_locals = issued.iter().skip(func.params.len()).zip(&func.locals);
    let locals = of_locals.map(|((read, written), local)| {
        let bytes = |elems: &u64| elems.saturating_mul(local.dtype.size_bytes());
        (bytes(read), bytes(written))
    });
    Ok((traffic, locals.collect()))
}
