//! What a run prints: one line per output, or the same as JSON.

use birkhoff::elements::{Summary, summarise};
use birkhoff::{Outputs, Signature, Target};
use serde_json::{Value, json};
use std::time::Duration;

/// What is told about a run beside its outputs.
pub struct RunFacts<'a> {
    /// The function.
    pub signature: &'a Signature,
    /// Who ran it.
    pub target: Target,
    /// Threads it ran on.
    pub n_threads: usize,
    /// What took how long.
    pub timings: &'a [(&'static str, Duration)],
    /// Whether the text tells the memory that the call took; JSON always does.
    pub tells_memory: bool,
}

/// The report as text.
pub fn text(facts: &RunFacts<'_>, outputs: &Outputs) -> String {
    let sizes: Vec<String> =
        outputs.report().sizes.iter().map(|(name, size)| format!("{name} = {size}")).collect();
    let mut lines = vec![format!("{} on {}", facts.signature.name, facts.target)];
    if !sizes.is_empty() {
        lines[0] += &format!(" with {}", sizes.join(", "));
    }
    let rows: Vec<(String, String, Summary)> = outputs
        .iter()
        .map(|(name, array)| (name.to_string(), type_text(array), summarise(&array.view())))
        .collect();
    let width = |pick: &dyn Fn(&(String, String, Summary)) -> usize| rows.iter().map(pick).max().unwrap_or(0);
    let (names, types) = (width(&|row| row.0.len()), width(&|row| row.1.len()));
    for (name, ty, summary) in &rows {
        lines.push(format!("  {name:names$}  {ty:types$}  {}", summary_text(summary)));
    }
    if facts.tells_memory {
        let memory = &outputs.report().memory;
        lines.push(format!(
            "  memory: peak {} B: inputs {} B, outputs {} B, temporaries {} B, scratch {} B",
            memory.peak_bytes(),
            memory.input_bytes,
            memory.output_bytes,
            memory.temp_bytes,
            memory.scratch_bytes
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn type_text(array: &birkhoff::Buffer) -> String {
    let extents: Vec<String> = array.shape().iter().map(i64::to_string).collect();
    format!("{}[{}]", array.dtype(), extents.join(","))
}

fn summary_text(summary: &Summary) -> String {
    let number = |value: Option<f64>| value.map_or("-".to_string(), short);
    let first: Vec<String> = summary.first.iter().map(|value| short(*value)).collect();
    let nan = if summary.n_nan == 0 { String::new() } else { format!("  nan {}", summary.n_nan) };
    format!(
        "min {}  max {}  mean {}{nan}  [{}, ..]",
        number(summary.min),
        number(summary.max),
        number(summary.mean),
        first.join(", ")
    )
}

/// Six significant digits.
fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let magnitude = value.abs().log10().floor();
    if (-4.0..6.0).contains(&magnitude) {
        let decimals = (5.0 - magnitude).max(0.0) as usize;
        return format!("{value:.decimals$}");
    }
    format!("{value:.5e}")
}

/// The report as JSON.
pub fn json(facts: &RunFacts<'_>, outputs: &Outputs) -> String {
    let report = outputs.report();
    let mut arrays = Vec::new();
    for (name, array) in outputs.iter() {
        let summary = summarise(&array.view());
        arrays.push(json!({
            "name": name,
            "dtype": array.dtype().name(),
            "shape": array.shape(),
            "min": float(summary.min),
            "max": float(summary.max),
            "mean": float(summary.mean),
            "nan_count": summary.n_nan,
            "first": summary.first.iter().map(|value| float(Some(*value))).collect::<Vec<_>>(),
        }));
    }
    let sizes: serde_json::Map<String, Value> =
        report.sizes.iter().map(|(name, size)| (name.to_string(), json!(size))).collect();
    let timings: serde_json::Map<String, Value> = facts
        .timings
        .iter()
        .map(|(what, took)| (what.to_string(), json!(took.as_secs_f64() * 1e3)))
        .collect();
    let value = json!({
        "function": facts.signature.name,
        "target": facts.target.name(),
        "threads": facts.n_threads,
        "sizes": sizes,
        "outputs": arrays,
        "memory": {
            "input_bytes": report.memory.input_bytes,
            "output_bytes": report.memory.output_bytes,
            "temp_bytes": report.memory.temp_bytes,
            "scratch_bytes": report.memory.scratch_bytes,
            "peak_bytes": report.memory.peak_bytes(),
        },
        "launches": report.n_launches,
        "timings_ms": timings,
    });
    format!("{value:#}\n")
}

/// A float as JSON; what JSON has no number for is its name.
fn float(value: Option<f64>) -> Value {
    match value {
        None => Value::Null,
        Some(value) if value.is_finite() => json!(value),
        Some(value) => json!(value.to_string()),
    }
}
