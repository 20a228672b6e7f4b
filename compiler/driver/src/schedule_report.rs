//! What a plan's kernels read and write, as `inspect --stage schedule` prints it.
//!
//! In: a plan and its run-time sizes. Out: per kernel and parameter, *edge* bytes (each element once) and *issued* bytes (every
//! load and store), in total and per unit of the run-time size. Arrays without a run-time size (parameters of the model) are
//! summed apart: they do not grow with the batch. Contractions that a library does stand after the kernels, and behind them the
//! groups of steps that run for a block of rows after the other.

use crate::loop_choice::LoopReport;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::{Dim, SizeEnv, Sym};
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::traffic::ParamTraffic;
use birkhoff_ir::kernel::{Access, Func, Stmt, abi};
use birkhoff_ir::plan::rows::{Blocks, blocks};
use birkhoff_ir::plan::traffic::{KernelTraffic, predict, predict_contracts};
use birkhoff_ir::plan::{Program, Step};
use birkhoff_ir::text::array_type;
use serde_json::{Value, json};

/// Bytes moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bytes {
    /// Each element once.
    pub edge: u64,
    /// Every load and store.
    pub issued: u64,
}

impl Bytes {
    fn add(&mut self, other: Bytes, times: u64) {
        self.edge = self.edge.saturating_add(other.edge.saturating_mul(times));
        self.issued = self.issued.saturating_add(other.issued.saturating_mul(times));
    }
}

/// One kernel of a plan, or a contraction that a library does.
#[derive(Clone, PartialEq, Debug)]
pub struct KernelReport {
    /// Its name.
    pub name: String,
    /// How often it is launched.
    pub launches: u64,
    /// Tiles of its grid.
    pub n_tiles: i64,
    /// Its stages, in order.
    pub stages: Vec<String>,
    /// Bytes per launch of each parameter: name, type, whether it is read or written, whether it has a run-time size.
    pub params: Vec<ParamReport>,
    /// Bytes per launch of the arrays with a run-time size.
    pub streams: Bytes,
    /// Bytes per launch of all others.
    pub constants: Bytes,
}

/// One parameter of a kernel.
#[derive(Clone, PartialEq, Debug)]
pub struct ParamReport {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: String,
    /// `read`, `write` or `read write`.
    pub access: &'static str,
    /// Bytes per launch.
    pub bytes: Bytes,
    /// Whether its extents mention a run-time size.
    pub is_stream: bool,
}

/// Steps that run for a block of rows after the other.
#[derive(Clone, PartialEq, Debug)]
pub struct GroupReport {
    /// Its name.
    pub name: String,
    /// Names of its steps, in order.
    pub steps: Vec<String>,
    /// Rows of a block, of how many, and bytes that pass between the steps for all of them; `None` if the steps run one after the
    /// other at these sizes.
    pub blocks: Option<(i64, i64, u64)>,
}

/// All kernels of a plan.
#[derive(Clone, PartialEq, Debug)]
pub struct ScheduleReport {
    /// The plan's function.
    pub name: String,
    /// The run-time sizes it is told for.
    pub sizes: SizeEnv,
    /// The kernels, in order of the plan.
    pub kernels: Vec<KernelReport>,
    /// The groups, in order of the plan.
    pub groups: Vec<GroupReport>,
    /// Bytes of one call, of arrays with a run-time size.
    pub streams: Bytes,
    /// Bytes of one call, of all others.
    pub constants: Bytes,
    /// The loops that are taken back, if the plan was made from a gradient.
    pub loops: LoopReport,
}

/// Reports on a plan at given sizes.
///
/// Errors: a size without a value, or bytes that cannot be predicted.
pub fn report(program: &Program, sizes: &SizeEnv) -> Result<ScheduleReport, Diagnostic> {
    let mut kernels = vec![];
    for (func, traffic) in program.kernels.iter().zip(predict(program, sizes)?) {
        let params = func.params.iter().zip(&traffic.per_launch.per_param);
        let params = params.map(|(param, moved)| {
            param_report(param.name.as_str(), param.dtype, &param.shape, moved, program)
        });
        let n_tiles = abi::n_tiles(func, sizes)
            .map_err(|error| Diagnostic::input(Default::default(), error.to_string()))?;
        kernels.push(kernel_report(
            func.name.to_string(),
            &traffic,
            n_tiles,
            stage_names(func),
            params.collect(),
        ));
    }
    let contracts = program.contracts().into_iter().zip(predict_contracts(program, sizes)?);
    for (idx, (contract, traffic)) in contracts.enumerate() {
        let operands = contract.operands().into_iter().zip(&traffic.per_launch.per_param);
        let params = operands.filter_map(|(operand, moved)| {
            let dtype = program.buffer(operand.matrix.arg.buffer)?.dtype;
            let shape = operand.extents.map(Dim::clone);
            Some(param_report(moved.name.as_str(), dtype, &shape, moved, program))
        });
        let params = params.collect();
        kernels.push(kernel_report(
            format!("contract_{idx}"),
            &traffic,
            1,
            vec!["library".to_string()],
            params,
        ));
    }
    let (mut streams, mut constants) = (Bytes::default(), Bytes::default());
    for kernel in &kernels {
        streams.add(kernel.streams, kernel.launches);
        constants.add(kernel.constants, kernel.launches);
    }
    let groups = group_reports(program, sizes);
    let (name, sizes, loops) = (program.name.to_string(), sizes.clone(), LoopReport::default());
    Ok(ScheduleReport { name, sizes, kernels, groups, streams, constants, loops })
}

fn group_reports(program: &Program, sizes: &SizeEnv) -> Vec<GroupReport> {
    let mut reports = vec![];
    for (number, (group, n_contracts)) in program.groups().into_iter().enumerate() {
        let Step::Rows { rows, body } = group else { continue };
        let found = blocks(program, rows, body, sizes);
        let told = |it: Blocks| (it.block, it.n_rows, it.rows.row_bytes.saturating_mul(it.n_rows as u64));
        reports.push(GroupReport {
            name: format!("rows_{number}"),
            steps: program.names_in_group(body, n_contracts),
            blocks: found.map(told),
        });
    }
    reports
}

fn kernel_report(
    name: String,
    traffic: &KernelTraffic,
    n_tiles: i64,
    stages: Vec<String>,
    params: Vec<ParamReport>,
) -> KernelReport {
    let sum = |is_stream: bool| {
        let mut bytes = Bytes::default();
        params
            .iter()
            .filter(|param| param.is_stream == is_stream)
            .for_each(|param| bytes.add(param.bytes, 1));
        bytes
    };
    let (streams, constants) = (sum(true), sum(false));
    KernelReport { name, launches: traffic.launches, n_tiles, stages, streams, constants, params }
}

fn param_report(
    name: &str,
    dtype: DType,
    shape: &[Dim],
    traffic: &ParamTraffic,
    program: &Program,
) -> ParamReport {
    let is_open = |name: &Sym| program.sizes.iter().any(|size| size.name == *name);
    ParamReport {
        name: name.to_string(),
        ty: array_type(dtype, shape),
        access: match traffic.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::ReadWrite => "read write",
        },
        bytes: Bytes {
            edge: traffic.edge_read.saturating_add(traffic.edge_written),
            issued: traffic.issued_read.saturating_add(traffic.issued_written),
        },
        is_stream: shape.iter().any(|dim| dim.syms().iter().any(is_open)),
    }
}

fn stage_names(func: &Func) -> Vec<String> {
    let names = func.body.iter().filter_map(|stmt| match stmt {
        Stmt::Stage(name, _) => Some(name.to_string()),
        _ => None,
    });
    names.collect()
}

impl ScheduleReport {
    /// The report with what is known of the loops that are taken back.
    pub fn with_loops(self, loops: &LoopReport) -> ScheduleReport {
        ScheduleReport { loops: loops.clone(), ..self }
    }

    /// The run-time size that bytes are told per unit of: the only one, if there is one.
    fn unit(&self) -> Option<(&Sym, u64)> {
        let mut sizes = self.sizes.iter();
        match (sizes.next(), sizes.next()) {
            (Some((name, size)), None) => {
                u64::try_from(*size).ok().filter(|size| *size > 0).map(|size| (name, size))
            }
            _ => None,
        }
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let sizes: Vec<String> = self.sizes.iter().map(|(name, size)| format!("{name} = {size}")).collect();
        let at = if sizes.is_empty() { String::new() } else { format!(" at {}", sizes.join(", ")) };
        let mut lines = vec![format!("plan @{}{at}: kernels {}", self.name, self.kernels.len())];
        lines.extend(self.loops.lines(&self.sizes));
        for kernel in &self.kernels {
            lines.push(format!(
                "kernel @{}: launches {}, tiles {}",
                kernel.name, kernel.launches, kernel.n_tiles
            ));
            if !kernel.stages.is_empty() {
                lines.push(format!("  stages {}", kernel.stages.join(", ")));
            }
            let width =
                |pick: &dyn Fn(&ParamReport) -> usize| kernel.params.iter().map(pick).max().unwrap_or(0);
            let (names, types) = (width(&|param| param.name.len()), width(&|param| param.ty.len()));
            for param in &kernel.params {
                lines.push(format!(
                    "  {:10} {:names$} {:types$}  {}",
                    param.access,
                    param.name,
                    param.ty,
                    self.bytes_text(param.bytes, param.is_stream)
                ));
            }
            lines.push(format!("  streams    {}", self.bytes_text(kernel.streams, true)));
            lines.push(format!("  parameters {}", self.bytes_text(kernel.constants, false)));
        }
        for GroupReport { name, steps, blocks } in &self.groups {
            let how = match blocks {
                Some((block, rows, bytes)) => {
                    format!("{rows} rows in blocks of {block}, {bytes} B pass between")
                }
                None => "one after the other at these sizes".to_string(),
            };
            lines.push(format!("group {name}: {how} {}", steps.join(", ")));
        }
        lines.push(format!("total streams    {}", self.bytes_text(self.streams, true)));
        lines.push(format!("total parameters {}", self.bytes_text(self.constants, false)));
        lines.push(String::new());
        lines.join("\n")
    }

    fn bytes_text(&self, bytes: Bytes, is_stream: bool) -> String {
        let text = format!("edge {} B, issued {} B", bytes.edge, bytes.issued);
        match self.unit().filter(|_| is_stream) {
            Some((name, size)) => {
                let per = |bytes: u64| bytes as f64 / size as f64;
                format!("{text}; per {name}: edge {} B, issued {} B", per(bytes.edge), per(bytes.issued))
            }
            None => text,
        }
    }

    /// The report as JSON.
    pub fn json(&self) -> Value {
        let bytes = |bytes: Bytes| json!({ "edge_bytes": bytes.edge, "issued_bytes": bytes.issued });
        let streams = |bytes: Bytes| {
            let per = self.unit().map(|(name, size)| {
                let per = |bytes: u64| bytes as f64 / size as f64;
                json!({ "size": name.as_str(), "edge_bytes": per(bytes.edge), "issued_bytes": per(bytes.issued) })
            });
            json!({ "edge_bytes": bytes.edge, "issued_bytes": bytes.issued, "per_unit": per })
        };
        let param = |param: &ParamReport| {
            json!({
                "name": param.name,
                "type": param.ty,
                "access": param.access,
                "has_run_time_size": param.is_stream,
                "edge_bytes": param.bytes.edge,
                "issued_bytes": param.bytes.issued,
            })
        };
        let kernel = |kernel: &KernelReport| {
            json!({
                "name": kernel.name,
                "launches": kernel.launches,
                "tiles": kernel.n_tiles,
                "stages": kernel.stages,
                "params": kernel.params.iter().map(param).collect::<Vec<_>>(),
                "streams": streams(kernel.streams),
                "parameters": bytes(kernel.constants),
            })
        };
        let group = |group: &GroupReport| {
            let blocks = group
                .blocks
                .map(|(block, rows, bytes)| json!({ "rows": rows, "block": block, "passed_bytes": bytes }));
            json!({ "name": group.name, "steps": group.steps, "blocks": blocks })
        };
        let sizes: serde_json::Map<String, Value> =
            self.sizes.iter().map(|(name, size)| (name.to_string(), json!(size))).collect();
        json!({
            "function": self.name,
            "sizes": sizes,
            "loops": self.loops.json(&self.sizes),
            "kernels": self.kernels.iter().map(kernel).collect::<Vec<_>>(),
            "groups": self.groups.iter().map(group).collect::<Vec<_>>(),
            "streams": streams(self.streams),
            "parameters": bytes(self.constants),
        })
    }
}
