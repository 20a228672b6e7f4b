//! What was launched in the runs of a bench, put beside what it moves and computes.
//!
//! In: a plan, its sizes, and when what ran in each run. Out: one row for every kernel, contraction and group of steps that ran, in
//! the order in which they first did. Bytes and arithmetic are the plan's predictions.

use super::{Measured, Times, TraceEvent};
use birkhoff_compiler::lower::price::flops;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::plan::traffic::{predict, predict_contracts};
use birkhoff_ir::plan::{Program, Step};
use birkhoff_runtime::Ran;
use std::collections::BTreeMap;
use std::time::Duration;

/// A launch: what, its begin and its end since the call's begin.
pub(super) type Event = (Ran, Duration, Duration);

/// Rows for what ran, and the launches of the last run with the position of their row.
///
/// Errors: a size without a value.
pub(super) fn reports(
    program: &Program,
    sizes: &SizeEnv,
    runs: &[Vec<Event>],
) -> Result<(Vec<Measured>, Vec<TraceEvent>), Diagnostic> {
    let known = Known::new(program, sizes)?;
    let mut order: Vec<Ran> = vec![];
    let mut sums: BTreeMap<Ran, Vec<f64>> = BTreeMap::new();
    for (number, run) in runs.iter().enumerate() {
        for (what, start, end) in run {
            if !order.contains(what) {
                order.push(*what);
            }
            let times = sums.entry(*what).or_default();
            times.resize(number + 1, 0.0);
            times[number] += end.saturating_sub(*start).as_secs_f64();
        }
    }
    let last = runs.last().map(Vec::as_slice).unwrap_or_default();
    let mut rows = vec![];
    for what in &order {
        let launches = last.iter().filter(|(other, ..)| other == what).count() as u64;
        let one = known.of(*what);
        rows.push(Measured {
            name: one.name,
            steps: one.steps,
            launches,
            times: Times::new(sums.remove(what).unwrap_or_default()),
            edge_bytes: one.edge_bytes * launches as f64,
            flops: one.flops * launches as f64,
        });
    }
    let place = |what: &Ran| order.iter().position(|other| other == what).unwrap_or(0);
    let trace = last.iter().map(|(what, start, end)| (place(what), *start, *end)).collect();
    Ok((rows, trace))
}

/// What one launch of something moves and computes.
#[derive(Clone, Default)]
struct One {
    name: String,
    steps: Vec<String>,
    edge_bytes: f64,
    flops: f64,
}

/// Everything that can run, by position.
struct Known {
    kernels: Vec<One>,
    contracts: Vec<One>,
    groups: Vec<One>,
}

impl Known {
    fn new(program: &Program, sizes: &SizeEnv) -> Result<Known, Diagnostic> {
        let mut known = Known { kernels: vec![], contracts: vec![], groups: vec![] };
        for (kernel, moved) in program.kernels.iter().zip(predict(program, sizes)?) {
            known.kernels.push(One {
                name: kernel.name.to_string(),
                edge_bytes: moved.per_launch.edge_bytes() as f64,
                flops: flops(kernel, sizes),
                ..One::default()
            });
        }
        for (contract, moved) in program.contracts().iter().zip(predict_contracts(program, sizes)?) {
            known.contracts.push(One {
                name: format!("contract_{}", known.contracts.len()),
                edge_bytes: moved.per_launch.edge_bytes() as f64,
                flops: 2.0 * contract.sizes(sizes)?.products(),
                ..One::default()
            });
        }
        for (group, n_contracts) in program.groups() {
            let steps = program.names_in_group(group.body(), n_contracts);
            let mut sum = One { name: format!("rows_{}", known.groups.len()), steps, ..One::default() };
            let mut contract = n_contracts..;
            for step in group.body() {
                let what = match step {
                    Step::Launch { kernel, .. } => Ran::Kernel(*kernel as usize),
                    _ => Ran::Contract(contract.next().unwrap_or_default()),
                };
                let one = known.of(what);
                sum.edge_bytes += one.edge_bytes;
                sum.flops += one.flops;
            }
            known.groups.push(sum);
        }
        Ok(known)
    }

    fn of(&self, what: Ran) -> One {
        let found = match what {
            Ran::Kernel(place) => self.kernels.get(place),
            Ran::Contract(place) => self.contracts.get(place),
            Ran::Rows(place) => self.groups.get(place),
        };
        found.cloned().unwrap_or_default()
    }
}
