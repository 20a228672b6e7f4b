//! Sizes small enough that a check ends in seconds.
//!
//! In: a spec, some of whose sizes are given. Out: the spec with all sizes given, and which of them are smaller than the spec
//! says. Run-time sizes and open ones become a few units, as do fixed ones above `KEPT`, where the spec is consistent then;
//! sizes differ where they can, so that exchanged axes are seen. Assumes nothing about what a size means: proposals are
//! tried, the first that verifies and evaluates is taken.

use crate::error::Error;
use crate::spec::{Content, Spec};
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::tensor::{DimDecl, DimKind};
use serde::Serialize;
use std::collections::BTreeSet;

/// Fixed sizes up to this stay as they are.
const KEPT: i64 = 8;

/// What open and large sizes become, in the order of declaration. Different ones first, then such as divide each other, then
/// equal ones.
const PROPOSALS: [[i64; 6]; 5] =
    [[3, 5, 7, 2, 6, 4], [7, 6, 5, 3, 2, 2], [8, 4, 2, 6, 4, 2], [2, 4, 8, 4, 8, 2], [4, 4, 4, 4, 4, 4]];

/// How many of them are of different ones.
const N_DIFFERENT: usize = 2;

/// A size of a check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Size {
    /// Its name.
    pub name: String,
    /// The value checked with.
    pub value: i64,
    /// What the spec says, where that is another: its value, or the default of a run-time size.
    pub instead_of: Option<i64>,
}

/// Picks sizes for the function that `spec` picks. Sizes in `given` stay.
///
/// `accepts` tells whether a spec, all of whose sizes are given, can be evaluated.
///
/// Errors: those of the spec, where no proposal is accepted.
pub fn shrink(
    spec: &Spec,
    given: &SizeEnv,
    accepts: &dyn Fn(&Spec) -> Result<(), Error>,
) -> Result<(Spec, Vec<Size>), Error> {
    let Content::Tensor(module) = spec.content() else { return Ok((spec.clone(), vec![])) };
    let free: Vec<&DimDecl> = module.dims.iter().filter(|decl| !given.contains_key(&decl.name)).collect();
    let is_large = |decl: &&DimDecl| matches!(decl.kind, DimKind::Static(Some(value)) if value > KEPT);
    // First everything small, then the fixed sizes as they are, then all as the spec says.
    let mut first_error = None;
    for keeps_fixed in [false, true] {
        let small: Vec<&DimDecl> = free
            .iter()
            .copied()
            .filter(|decl| is_large(decl) && !keeps_fixed || !matches!(decl.kind, DimKind::Static(Some(_))))
            .collect();
        let stays = |decl: &&DimDecl| !small.iter().any(|other| other.name == decl.name);
        let fixed = free.iter().copied().filter(stays).filter_map(|decl| match decl.kind {
            DimKind::Static(value) => value,
            DimKind::RunTime { .. } => None,
        });
        let fixed: BTreeSet<i64> = fixed.chain(given.values().copied()).collect();
        for number in 0..PROPOSALS.len() {
            let candidate = propose(spec, &fixed, &small, number);
            match accepts(&candidate) {
                Ok(()) => return Ok((candidate.clone(), told(&candidate))),
                Err(error) => first_error = first_error.or(Some(error)),
            }
            if small.is_empty() {
                break;
            }
        }
    }
    match accepts(spec) {
        Ok(()) => Ok((spec.clone(), told(spec))),
        // What is wrong at small sizes says more than what is wrong at large ones.
        Err(error) => Err(first_error.unwrap_or(error)),
    }
}

/// The spec with the sizes `small` from the proposal of that number.
fn propose(spec: &Spec, fixed: &BTreeSet<i64>, small: &[&DimDecl], number: usize) -> Spec {
    let proposal = PROPOSALS[number];
    // Different from those that stay, too.
    let is_new = |value: &&i64| number >= N_DIFFERENT || !fixed.contains(value);
    let sizes = small.iter().zip(proposal.iter().filter(is_new).cycle());
    sizes.fold(spec.clone(), |spec, (decl, value)| {
        let value = match decl.kind {
            DimKind::RunTime { lo, hi, .. } => (*value).min(hi).max(lo),
            DimKind::Static(_) => *value,
        };
        spec.dim(&decl.name, value)
    })
}

/// All sizes of a spec.
fn told(spec: &Spec) -> Vec<Size> {
    let Content::Tensor(module) = spec.content() else { return vec![] };
    let given = spec.all_dims();
    let told = module.dims.iter().filter_map(|decl| {
        let declared = match decl.kind {
            DimKind::Static(value) => value,
            DimKind::RunTime { default, .. } => default,
        };
        let value = given.get(&decl.name).copied().or(declared)?;
        let instead_of = declared.filter(|declared| *declared != value);
        Some(Size { name: decl.name.to_string(), value, instead_of })
    });
    told.collect()
}
