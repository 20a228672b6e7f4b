//! What a check found, as values, as text and as JSON.
//!
//! In: comparisons. Out: a row per input or output and test, with its worst element. Rows are in the order of the signature.

use super::sizes::Size;
use crate::target::Target;
use serde_json::{Value, json};
use std::fmt::Write;

/// How a comparison went.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// Equal within the tolerance.
    Ok,
    /// Not to be had here: a target lacks an op.
    Skipped,
    /// Nothing can be said: a kink, or differences too coarse.
    Inconclusive,
    /// Unequal.
    Failed,
}

impl Verdict {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Skipped => "skipped",
            Verdict::Inconclusive => "inconclusive",
            Verdict::Failed => "FAILED",
        }
    }
}

/// What was compared with what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Test {
    /// The gradient of an input with differences.
    Reverse,
    /// The tangent of an output with differences.
    Forward,
    /// `<ct, J v>` with `<J^T ct, v>`.
    Adjoint,
    /// A target's outputs and gradients with the evaluator in f64.
    Target {
        /// The target.
        target: Target,
        /// Whether every float was made f64; otherwise the types are the spec's.
        in_f64: bool,
    },
}

impl Test {
    /// Its name in reports.
    pub fn name(&self) -> String {
        match self {
            Test::Reverse => "gradient".to_string(),
            Test::Forward => "tangent".to_string(),
            Test::Adjoint => "adjoint".to_string(),
            Test::Target { target, in_f64: true } => format!("{target} in f64"),
            Test::Target { target, in_f64: false } => target.to_string(),
        }
    }
}

/// The comparison that came nearest to its tolerance, or went farthest beyond.
#[derive(Clone, PartialEq, Debug)]
pub struct Worst {
    /// Where: `x[1,0,3]`, or a direction.
    pub place: String,
    /// What it should be.
    pub expected: f64,
    /// What it is.
    pub found: f64,
    /// How far apart they may be.
    pub tolerance: f64,
    /// The estimated error of what is expected, where differences gave it.
    pub estimate: Option<f64>,
}

impl Worst {
    /// How far apart they are.
    pub fn error(&self) -> f64 {
        if self.expected == self.found { 0.0 } else { (self.expected - self.found).abs() }
    }

    /// The error in units of the tolerance; infinite for what is no number.
    pub fn excess(&self) -> f64 {
        match self.error() {
            0.0 => 0.0,
            error if error.is_nan() => f64::INFINITY,
            error => error / self.tolerance.max(f64::MIN_POSITIVE),
        }
    }
}

/// All comparisons of one input or output in one test.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// What was compared with what.
    pub test: Test,
    /// The input or output.
    pub name: String,
    /// The worst verdict of all.
    pub verdict: Verdict,
    /// How many numbers were compared.
    pub n_compared: usize,
    /// How many comparisons said nothing.
    pub n_inconclusive: usize,
    /// The worst of them.
    pub worst: Option<Worst>,
    /// Why it is inconclusive or skipped, or failed without numbers; empty otherwise.
    pub why: String,
}

impl Row {
    /// Nothing compared yet.
    pub fn new(test: Test, name: impl Into<String>) -> Row {
        let verdict = Verdict::Ok;
        Row {
            test,
            name: name.into(),
            verdict,
            n_compared: 0,
            n_inconclusive: 0,
            worst: None,
            why: String::new(),
        }
    }

    /// A test that cannot be made.
    pub fn skipped(test: Test, name: impl Into<String>, why: impl Into<String>) -> Row {
        Row { verdict: Verdict::Skipped, why: why.into(), ..Row::new(test, name) }
    }

    /// A test that ended in an error of ours.
    pub fn failed(test: Test, name: impl Into<String>, why: impl Into<String>) -> Row {
        Row { verdict: Verdict::Failed, why: why.into(), ..Row::new(test, name) }
    }

    /// Takes a comparison in.
    pub fn compare(&mut self, worst: Worst) {
        self.n_compared += 1;
        let excess = worst.excess();
        if excess > 1.0 {
            self.verdict = Verdict::Failed;
        }
        if self.worst.as_ref().is_none_or(|known| excess > known.excess()) {
            self.worst = Some(worst);
        }
    }

    /// Takes in that a comparison could not be made.
    pub fn inconclusive(&mut self, why: &str) {
        self.n_inconclusive += 1;
        self.verdict = self.verdict.max(Verdict::Inconclusive);
        if self.why.is_empty() {
            self.why = why.to_string();
        }
    }
}

/// What a check of one function found.
#[derive(Clone, PartialEq, Debug)]
pub struct FunctionReport {
    /// Its name.
    pub name: String,
    /// Its sizes.
    pub sizes: Vec<Size>,
    /// All comparisons.
    pub rows: Vec<Row>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// What a check found.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// The seed of the inputs and directions.
    pub seed: u64,
    /// One per function.
    pub functions: Vec<FunctionReport>,
}

impl Report {
    /// Whether nothing failed. Inconclusive comparisons are no failures; [`Report::text`] says so.
    pub fn passes(&self) -> bool {
        self.count(Verdict::Failed) == 0
    }

    /// How many rows have that verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.functions.iter().flat_map(|function| &function.rows).filter(|row| row.verdict == verdict).count()
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for function in &self.functions {
            function.write(&mut text);
            text.push('\n');
        }
        let n_rows: usize = self.functions.iter().map(|function| function.rows.len()).sum();
        let told = [Verdict::Failed, Verdict::Inconclusive, Verdict::Skipped];
        let counts = told.map(|verdict| (verdict.name().to_lowercase(), self.count(verdict)));
        let counts: Vec<String> = counts
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        let verdict = if counts.is_empty() { "all ok".to_string() } else { counts.join(", ") };
        let _ = writeln!(text, "{n_rows} comparisons: {verdict}");
        text
    }

    /// The report as JSON.
    pub fn json(&self) -> Value {
        let functions: Vec<Value> = self.functions.iter().map(FunctionReport::json).collect();
        json!({ "passes": self.passes(), "seed": self.seed, "functions": functions })
    }
}

/// What stands before the rows of a test.
fn heading(test: &Test) -> String {
    match test {
        Test::Reverse => "gradients in f64, against differences".to_string(),
        Test::Forward => "tangents in f64, against differences".to_string(),
        Test::Adjoint => "<ct, J v> against <J^T ct, v>".to_string(),
        Test::Target { target, in_f64: true } => format!("{target} in f64, against the evaluator in f64"),
        Test::Target { target, in_f64: false } => format!("{target}, against the evaluator in f64"),
    }
}

impl FunctionReport {
    fn write(&self, text: &mut String) {
        let size = |size: &Size| match size.instead_of {
            Some(declared) => format!("{} = {} (not {declared})", size.name, size.value),
            None => format!("{} = {}", size.name, size.value),
        };
        let sizes: Vec<String> = self.sizes.iter().map(size).collect();
        let with = if sizes.is_empty() { String::new() } else { format!(" with {}", sizes.join(", ")) };
        let _ = writeln!(text, "{}{with}", self.name);
        let names = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
        let place = |row: &Row| row.worst.as_ref().map_or(0, |worst| worst.place.len());
        let places = self.rows.iter().map(place).max().unwrap_or(0).max("worst at".len());
        let mut previous = None;
        for row in &self.rows {
            if previous != Some(&row.test) {
                let _ = writeln!(text, "  {}", heading(&row.test));
                if previous.is_none() {
                    let line = format!(
                        "    {:names$}  {:12}  {:places$}  {:>13}  {:>13}  {:>8}  {:>8}",
                        "", "", "worst at", "expected", "found", "off by", "allowed"
                    );
                    let _ = writeln!(text, "{line}");
                }
                previous = Some(&row.test);
            }
            let verdict = row.verdict.name();
            let mut line = format!("    {:names$}  {verdict:12}", row.name);
            if let Some(worst) = &row.worst {
                let (expected, found) = (number(worst.expected), number(worst.found));
                let (error, tolerance) = (worst.error(), worst.tolerance);
                let _ = write!(
                    line,
                    "  {:places$}  {expected:>13}  {found:>13}  {error:>8.1e}  {tolerance:>8.1e}",
                    worst.place
                );
            }
            if !row.why.is_empty() {
                let _ = write!(line, "  {}", row.why);
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        for note in &self.notes {
            let _ = writeln!(text, "  note: {note}");
        }
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(row_json).collect();
        json!({ "name": self.name, "sizes": self.sizes, "rows": rows, "notes": self.notes })
    }
}

fn row_json(row: &Row) -> Value {
    let worst = row.worst.as_ref().map(|worst| {
        json!({
            "place": worst.place,
            "expected": float(worst.expected),
            "found": float(worst.found),
            "error": float(worst.error()),
            "tolerance": float(worst.tolerance),
            "estimate": worst.estimate.map(float),
        })
    });
    json!({
        "test": row.test.name(),
        "name": row.name,
        "verdict": row.verdict.name().to_lowercase(),
        "n_compared": row.n_compared,
        "n_inconclusive": row.n_inconclusive,
        "worst": worst,
        "why": row.why,
    })
}

/// Seven significant digits.
fn number(value: f64) -> String {
    let magnitude = if value == 0.0 { 0.0 } else { value.abs().log10().floor() };
    if value.is_finite() && (-4.0..6.0).contains(&magnitude) {
        let decimals = (6.0 - magnitude).max(0.0) as usize;
        return format!("{value:.decimals$}");
    }
    format!("{value:.6e}")
}

/// A float as JSON; what JSON has no number for is its name.
fn float(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

/// `name[1,0,3]`, the element at `idx` in row-major order; a scalar is its name.
pub(crate) fn place(name: &str, shape: &[usize], idx: usize) -> String {
    let mut rest = idx;
    let mut axes = vec![];
    for extent in shape.iter().rev() {
        axes.push((rest % (*extent).max(1)).to_string());
        rest /= (*extent).max(1);
    }
    axes.reverse();
    if axes.is_empty() { name.to_string() } else { format!("{name}[{}]", axes.join(",")) }
}
