//! Bytes that a plan moves, predicted: the traffic of each kernel times its launches.

use super::{Program, Step};
use crate::diag::Diagnostic;
use crate::dim::SizeEnv;
use crate::kernel::traffic::{Traffic, predict as predict_kernel};

/// One kernel of a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelTraffic {
    /// How often it is launched.
    pub launches: u64,
    /// What one launch moves.
    pub per_launch: Traffic,
}

/// The traffic of each kernel, in the order of [`Program::kernels`].
///
/// Errors: those of [`crate::kernel::traffic::predict`], or a trip count without a value.
pub fn predict(program: &Program, sizes: &SizeEnv) -> Result<Vec<KernelTraffic>, Diagnostic> {
    let mut launches = vec![0u64; program.kernels.len()];
    count(&program.steps, sizes, 1, &mut launches)?;
    let of_kernel =
        |(kernel, launches)| Ok(KernelTraffic { launches, per_launch: predict_kernel(kernel, sizes)? });
    program.kernels.iter().zip(launches).map(of_kernel).collect()
}

fn count(steps: &[Step], sizes: &SizeEnv, times: u64, launches: &mut [u64]) -> Result<(), Diagnostic> {
    for step in steps {
        match step {
            Step::Launch { kernel, .. } => {
                if let Some(count) = launches.get_mut(*kernel as usize) {
                    *count = count.saturating_add(times);
                }
            }
            Step::Loop { trip, body, .. } => {
                let trip = trip.eval(sizes).map_err(|error| {
                    Diagnostic::input(Default::default(), format!("a trip count: {error}"))
                })?;
                count(body, sizes, times.saturating_mul(trip.max(0) as u64), launches)?;
            }
        }
    }
    Ok(())
}
