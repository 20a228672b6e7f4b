//! Bytes that a plan moves, predicted: the traffic of each kernel times its launches, and that of each contraction. What only runs
//! where a flag is false is predicted not to run.

use super::{Contract, Program, Step};
use crate::diag::Diagnostic;
use crate::dim::SizeEnv;
use crate::kernel::Access;
use crate::kernel::traffic::{ParamTraffic, Traffic, predict as predict_kernel};

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
    count(&program.steps, sizes, 1, &mut launches, &mut vec![])?;
    let of_kernel =
        |(kernel, launches)| Ok(KernelTraffic { launches, per_launch: predict_kernel(kernel, sizes)? });
    program.kernels.iter().zip(launches).map(of_kernel).collect()
}

/// The traffic of each contraction, in the order of [`Program::contracts`]. Every operand crosses memory once: what a library
/// reads again it reads from its own copies in the cache.
///
/// Errors: those of [`Contract::sizes`], or a trip count without a value.
pub fn predict_contracts(program: &Program, sizes: &SizeEnv) -> Result<Vec<KernelTraffic>, Diagnostic> {
    let mut runs = vec![];
    count(&program.steps, sizes, 1, &mut [], &mut runs)?;
    let contracts = program.contracts().into_iter().zip(runs);
    contracts
        .map(|(contract, launches)| {
            Ok(KernelTraffic { launches, per_launch: of_contract(program, contract, sizes)? })
        })
        .collect()
}

/// The traffic of one run of `contract`.
fn of_contract(program: &Program, contract: &Contract, sizes: &SizeEnv) -> Result<Traffic, Diagnostic> {
    let counts = contract.sizes(sizes)?.n_elems();
    Ok(contract_traffic(program, contract, counts))
}

/// The traffic of a contraction that touches so many elements of `a`, `b` and `c`.
pub(super) fn contract_traffic(program: &Program, contract: &Contract, counts: [u64; 3]) -> Traffic {
    let mut traffic = Traffic::default();
    for (operand, count) in contract.operands().into_iter().zip(counts) {
        let Some(buffer) = program.buffer(operand.matrix.arg.buffer) else { continue };
        let bytes = count.saturating_mul(buffer.dtype.size_bytes());
        let (read, written) = if operand.access == Access::Read { (bytes, 0) } else { (0, bytes) };
        traffic.per_param.push(ParamTraffic {
            name: buffer.name.clone(),
            access: operand.access,
            edge_read: read,
            edge_written: written,
            issued_read: read,
            issued_written: written,
        });
    }
    traffic
}

fn count(
    steps: &[Step],
    sizes: &SizeEnv,
    times: u64,
    launches: &mut [u64],
    contracts: &mut Vec<u64>,
) -> Result<(), Diagnostic> {
    for step in steps {
        match step {
            Step::Launch { kernel, .. } => {
                if let Some(count) = launches.get_mut(*kernel as usize) {
                    *count = count.saturating_add(times);
                }
            }
            Step::Contract(_) => contracts.push(times),
            Step::Loop { trip, body, .. } => {
                let trip = trip.eval(sizes).map_err(|error| {
                    Diagnostic::input(Default::default(), format!("a trip count: {error}"))
                })?;
                count(body, sizes, times.saturating_mul(trip.max(0) as u64), launches, contracts)?;
            }
            Step::Rows { body, .. } => count(body, sizes, times, launches, contracts)?,
            // What runs in the ordinary case is counted.
            Step::Unless { body, .. } => count(body, sizes, 0, launches, contracts)?,
        }
    }
    Ok(())
}
