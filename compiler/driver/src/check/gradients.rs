//! Derivatives against finite differences.
//!
//! In: a function in f64, functions that claim to be its derivatives, and points. Out: a row per input (reverse) and per output
//! (forward), and one for both against each other.
//!
//! Directions are relative: an input moves by steps of its own root mean square. Per input there are a random direction and
//! single elements, those of the largest and the smallest gradient among them; where a random direction disagrees, halving it
//! leads to an element that does. Two numbers agree if they differ by at most `SAFETY` times the estimated error of the
//! differences, plus `ROUNDING` of the size of what is summed. Where the estimate is no better than `COARSE` of that size,
//! or the slopes to both sides differ, the comparison is inconclusive and made again at another point, [`N_POINTS`] in all.

use super::line::{Point, Subject, array, flat, root_mean_square};
use super::numeric::{STEPS, Samples, Slope};
use super::report::{Row, Test, Verdict, Worst, place};
use crate::gradient::Loops;
use birkhoff_compiler::expand::differentiate;
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::SizeEnv;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::tensor::autodiff::functions::{Of, Reverse, forward, reverse};
use birkhoff_ir::tensor::eval::{Tensor, eval};
use birkhoff_ir::tensor::random::random_input;
use birkhoff_ir::tensor::{Domain, FuncId, Module};

/// How many times its estimate an error may be.
const SAFETY: f64 = 10.0;
/// What derivatives and differences may differ by for their own rounding, relative to their size.
const ROUNDING: f64 = 1e-8;
/// An estimate that says nothing, relative to the size.
const COARSE: f64 = 1e-5;
/// The smallest derivative, relative to the values, that is told from zero.
const SMALLEST: f64 = 1e-3;
/// What the two sides of `<ct, J v> = <J^T ct, v>` may differ by, relative to their size.
const ADJOINT: f64 = 1e-9;
/// Points at which a comparison is tried.
pub const N_POINTS: u64 = 4;
/// Single elements per input.
const N_ELEMENTS: usize = 3;
/// How often a function is evaluated for each of its inputs: on both sides of every step of every line.
pub(super) const EVALUATIONS_PER_INPUT: u64 = 2 * STEPS.len() as u64 * (N_ELEMENTS as u64 + 2);

const KINK: &str = "the slopes to both sides differ";
const UNSHARP: &str = "the differences are too coarse";
const UNDEFINED: &str = "the function has no numbers around the point";

/// Functions that claim to be derivatives of a function, each in a module of its own.
#[derive(Clone, Debug, Default)]
pub struct Derivatives {
    /// Arguments of the function, then `ct.NAME` of every float output; results `grad.NAME` of the inputs asked for.
    pub reverse: Vec<(Module, FuncId)>,
    /// Arguments of the function, then `dot.NAME` of the inputs asked for; results `dot.NAME` of every float output.
    pub forward: Option<(Module, FuncId)>,
}

impl Derivatives {
    /// Those that the compiler writes, with respect to the inputs at `wrt`: in reverse once for each way of `loops`, and
    /// forward.
    ///
    /// Errors: an op without a derivative.
    pub fn of(module: &Module, func: FuncId, wrt: &[usize], loops: &[Loops]) -> Result<Derivatives, String> {
        let subject = module.func(func);
        let names: Vec<String> = wrt.iter().map(|pos| subject.inputs[*pos].name.to_string()).collect();
        let mut derivatives = Derivatives::default();
        for way in loops {
            let mut module = module.clone();
            let (of, loops) = (Of::AllFloats, way.name().to_string());
            let ask = Reverse { wrt: names.clone(), of, values: false, loops };
            let id = reverse(&mut module, func, &ask)?;
            derivatives.reverse.push(differentiate(&module, id)?);
        }
        let mut module = module.clone();
        let id = forward(&mut module, func, &names, false)?;
        derivatives.forward = Some(differentiate(&module, id)?);
        Ok(derivatives)
    }
}

/// What is compared.
pub struct Claim<'a> {
    /// A bound module in which all floats are f64.
    pub module: &'a Module,
    /// The function.
    pub func: FuncId,
    /// Run-time sizes.
    pub sizes: &'a SizeEnv,
    /// Positions of the inputs asked for, increasing; all are floats.
    pub wrt: &'a [usize],
    /// What claims to be its derivatives.
    pub derivatives: &'a Derivatives,
    /// The seed of directions and cotangents.
    pub seed: u64,
}

/// Compares derivatives with differences. `points` gives the inputs to try, by the number of the trial; `None` if there are no
/// more.
///
/// Errors: those of the evaluator.
pub fn compare(
    claim: &Claim<'_>,
    points: &mut dyn FnMut(u64) -> Result<Option<Vec<Tensor>>, Diagnostic>,
) -> Result<(Vec<Row>, Vec<String>), Diagnostic> {
    let subject = Subject::new(claim.module, claim.func, claim.sizes)?;
    let (mut rows, mut notes): (Vec<Row>, Vec<String>) = (vec![], vec![]);
    for trial in 0..N_POINTS {
        let Some(inputs) = points(trial)? else { break };
        let point = subject.at(inputs)?;
        let mut site = Site::new(claim, &point, trial)?;
        let found = site.compare_all()?;
        if trial == 0 {
            (rows, notes) = (found, site.notes(&subject)?);
        } else {
            for (row, again) in rows.iter_mut().zip(found) {
                // A failure counts wherever it was found; what was inconclusive may be decided here.
                let (before, now) = (row.verdict, again.verdict);
                if before != Verdict::Failed && (now == Verdict::Failed || before == Verdict::Inconclusive) {
                    *row = again;
                }
            }
        }
        if rows.iter().all(|row| row.verdict != Verdict::Inconclusive) {
            break;
        }
    }
    Ok((rows, notes))
}

/// A change of one or all inputs, with what differences say of it.
struct Line {
    name: String,
    changes: Vec<(usize, Vec<f64>)>,
    samples: Samples,
}

/// A cotangent of one output, zero for the others.
struct Cotangent {
    name: String,
    flat: Vec<f64>,
    tensors: Vec<Tensor>,
}

/// A claim at a point.
struct Site<'a> {
    claim: &'a Claim<'a>,
    point: &'a Point<'a>,
    trial: u64,
    /// How far inputs move at step 1.
    units: Vec<f64>,
    cotangents: Vec<Cotangent>,
    /// Gradients by cotangent and function in reverse, in the order of `wrt`.
    gradients: Vec<Vec<Vec<Vec<f64>>>>,
}

impl<'a> Site<'a> {
    fn new(claim: &'a Claim<'a>, point: &'a Point<'a>, trial: u64) -> Result<Site<'a>, Diagnostic> {
        let unit = |tensor: &Tensor| {
            let size = root_mean_square(&tensor.to_f64s());
            if size > 0.0 && size.is_finite() { size } else { 1.0 }
        };
        let units = point.inputs.iter().map(unit).collect();
        let mut site = Site { claim, point, trial, units, cotangents: vec![], gradients: vec![] };
        for part in &point.outputs {
            let mut flat = vec![0.0; point.outputs.iter().map(|part| part.len).sum()];
            let random = site.random(&format!("ct.{}", part.name), part.len)?;
            flat[part.start..part.start + part.len].copy_from_slice(&random);
            let tensors = point.outputs.iter().map(|p| array(&p.shape, &flat[p.start..p.start + p.len]));
            let tensors = tensors.collect::<Result<_, _>>()?;
            site.cotangents.push(Cotangent { name: part.name.clone(), flat, tensors });
        }
        for cotangent in &site.cotangents {
            let mut found = vec![];
            for (module, func) in &claim.derivatives.reverse {
                let mut inputs = point.inputs.clone();
                inputs.extend(cotangent.tensors.iter().cloned());
                let results = eval(module, *func, claim.sizes, &inputs)?;
                if results.len() != claim.wrt.len() {
                    let (expected, found) = (claim.wrt.len(), results.len());
                    let message = format!("{expected} gradients are expected, the function gives {found}");
                    return Err(Diagnostic::input(module.func(*func).span, message));
                }
                found.push(results.iter().map(Tensor::to_f64s).collect());
            }
            site.gradients.push(found);
        }
        Ok(site)
    }

    /// Random normal numbers of this trial, by name.
    fn random(&self, name: &str, len: usize) -> Result<Vec<f64>, Diagnostic> {
        let name = format!("{name}#{}", self.trial);
        let tensor = random_input(self.claim.seed, &name, Domain::default(), DType::F64, &[len]);
        tensor.map(|tensor| tensor.to_f64s()).map_err(Diagnostic::verify)
    }

    /// A random direction of the input at `pos`, in its units.
    fn direction(&self, pos: usize, prefix: &str) -> Result<Vec<f64>, Diagnostic> {
        let values =
            self.random(&format!("{prefix}.{}", self.input_name(pos)), self.point.inputs[pos].len())?;
        Ok(values.iter().map(|value| value * self.units[pos]).collect())
    }

    fn input_name(&self, pos: usize) -> String {
        self.claim.module.func(self.claim.func).inputs[pos].name.to_string()
    }

    fn line(&self, name: String, changes: Vec<(usize, Vec<f64>)>) -> Result<Line, Diagnostic> {
        let samples = self.point.sample(&changes, false)?;
        Ok(Line { name, changes, samples })
    }

    fn compare_all(&mut self) -> Result<Vec<Row>, Diagnostic> {
        let mut rows = vec![];
        let mut lines = vec![];
        let all = self.claim.wrt.iter().map(|pos| Ok((*pos, self.direction(*pos, "all")?)));
        let all = all.collect::<Result<Vec<_>, Diagnostic>>()?;
        if all.len() > 1 {
            lines.push(self.line("all inputs".to_string(), all)?);
        }
        for idx in 0..self.claim.wrt.len() {
            let (row, line) = self.reverse_row(idx)?;
            rows.push(row);
            lines.push(line);
        }
        if let Some((module, func)) = &self.claim.derivatives.forward {
            let mut tangents = vec![];
            for line in &lines {
                let mut inputs = self.point.inputs.clone();
                for pos in self.claim.wrt {
                    let shape = self.point.inputs[*pos].shape();
                    let zeros = vec![0.0; self.point.inputs[*pos].len()];
                    let change = line.changes.iter().find(|(other, _)| other == pos);
                    inputs.push(array(shape, change.map_or(&zeros, |(_, change)| change))?);
                }
                tangents.push(flat(eval(module, *func, self.claim.sizes, &inputs)?.iter()));
            }
            rows.extend((0..self.point.outputs.len()).map(|part| self.forward_row(part, &lines, &tangents)));
            rows.extend(self.adjoint_row(&lines, &tangents));
        }
        Ok(rows)
    }

    /// The gradient of the input at `wrt[idx]`, and the line of its random direction.
    fn reverse_row(&self, idx: usize) -> Result<(Row, Line), Diagnostic> {
        let pos = self.claim.wrt[idx];
        let mut row = Row::new(Test::Reverse, self.input_name(pos));
        let name = row.name.clone();
        let along = self.line(format!("along {name}"), vec![(pos, self.direction(pos, "v")?)])?;
        let mut disagrees = None;
        for ct in 0..self.cotangents.len() {
            for way in 0..self.gradients[ct].len() {
                let fails = self.compare_along(&mut row, &along, ct, way, idx, 0.0);
                if fails && disagrees.is_none() {
                    disagrees = Some((ct, way));
                }
            }
        }
        let mut elements = self.elements(idx);
        if let Some((ct, way)) = disagrees {
            elements.insert(0, self.search(&along.changes[0].1, ct, way, idx)?);
        }
        for element in elements {
            let mut change = vec![0.0; self.point.inputs[pos].len()];
            change[element] = self.units[pos];
            let place = place(&name, self.point.inputs[pos].shape(), element);
            let line = self.line(place, vec![(pos, change)])?;
            for ct in 0..self.cotangents.len() {
                let size = along.samples.slope_of(&self.cotangents[ct].flat).map_or(0.0, |slope| slope.size);
                for way in 0..self.gradients[ct].len() {
                    self.compare_along(&mut row, &line, ct, way, idx, size);
                }
            }
        }
        Ok((row, along))
    }

    /// Compares `<J^T ct, v>` with differences along a line of one input; true if they disagree.
    fn compare_along(
        &self,
        row: &mut Row,
        line: &Line,
        ct: usize,
        way: usize,
        idx: usize,
        size: f64,
    ) -> bool {
        let change = &line.changes[0].1;
        let found = dot(&self.gradients[ct][way][idx], change);
        // Numbers of single elements are shown as they are, without the step's unit.
        let unit = if line.name.starts_with("along") { 1.0 } else { self.units[self.claim.wrt[idx]] };
        let slope = line.samples.slope_of(&self.cotangents[ct].flat);
        let place = || match self.cotangents.len() {
            1 => line.name.clone(),
            _ => format!("{} by {}", line.name, self.cotangents[ct].name),
        };
        judge(row, slope, found, size, unit, &place)
    }

    /// Elements to compare one by one: all of few, else those of the largest and smallest gradients and some others.
    fn elements(&self, idx: usize) -> Vec<usize> {
        let len = self.point.inputs[self.claim.wrt[idx]].len();
        if len <= N_ELEMENTS {
            return (0..len).collect();
        }
        let mut picked = vec![];
        if let Some(gradient) = self.gradients.first().and_then(|ways| ways.first()).map(|way| &way[idx]) {
            let by_size = |a: &usize, b: &usize| gradient[*a].abs().total_cmp(&gradient[*b].abs());
            picked.extend((0..gradient.len().min(len)).max_by(by_size));
            picked.extend((0..gradient.len().min(len)).min_by(by_size));
        }
        // Steps of the golden section spread over any length.
        let spread = (0..).map(|n: usize| ((n + 1) as f64 * 0.618_033_988_749_895).fract() * len as f64);
        for element in spread.map(|at| (at as usize).min(len - 1)).take(4 * N_ELEMENTS) {
            if picked.len() < N_ELEMENTS && !picked.contains(&element) {
                picked.push(element);
            }
        }
        picked.dedup();
        picked
    }

    /// An element at which gradient and differences disagree, by halving a direction along which they do.
    fn search(&self, change: &[f64], ct: usize, way: usize, idx: usize) -> Result<usize, Diagnostic> {
        let pos = self.claim.wrt[idx];
        let gradient = &self.gradients[ct][way][idx];
        let (mut start, mut end) = (0, change.len());
        while end - start > 1 {
            let middle = start + (end - start) / 2;
            let mut part = vec![0.0; change.len()];
            part[start..middle].copy_from_slice(&change[start..middle]);
            let off =
                |found: f64, slope: Option<Slope>| slope.map_or(0.0, |slope| (slope.value - found).abs());
            let samples = self.point.sample(&[(pos, part.clone())], false)?;
            let first = off(dot(gradient, &part), samples.slope_of(&self.cotangents[ct].flat));
            part[start..middle].fill(0.0);
            part[middle..end].copy_from_slice(&change[middle..end]);
            let samples = self.point.sample(&[(pos, part.clone())], false)?;
            let second = off(dot(gradient, &part), samples.slope_of(&self.cotangents[ct].flat));
            (start, end) = if first >= second { (start, middle) } else { (middle, end) };
        }
        Ok(start)
    }

    /// The tangent of one output along all lines.
    fn forward_row(&self, part: usize, lines: &[Line], tangents: &[Vec<f64>]) -> Row {
        let part = &self.point.outputs[part];
        let mut row = Row::new(Test::Forward, part.name.clone());
        for (line, tangent) in lines.iter().zip(tangents) {
            let slopes: Vec<Option<Slope>> =
                (part.start..part.start + part.len).map(|idx| line.samples.slope_at(idx)).collect();
            let size = slopes.iter().flatten().map(|slope| slope.size).fold(0.0, f64::max);
            for (idx, slope) in slopes.into_iter().enumerate() {
                let found = tangent.get(part.start + idx).copied().unwrap_or(f64::NAN);
                let place = || format!("{} {}", place(&part.name, &part.shape, idx), line.name);
                judge(&mut row, slope, found, size, 1.0, &place);
            }
        }
        row
    }

    /// `<ct, J v>` against `<J^T ct, v>` along the first line, which moves most.
    fn adjoint_row(&self, lines: &[Line], tangents: &[Vec<f64>]) -> Option<Row> {
        let (line, tangent) = lines.first().zip(tangents.first())?;
        let mut row = Row::new(Test::Adjoint, "all");
        for (cotangent, ways) in self.cotangents.iter().zip(&self.gradients) {
            let expected = dot(&cotangent.flat, tangent);
            let mut size: f64 = cotangent.flat.iter().zip(tangent).map(|(ct, dot)| (ct * dot).abs()).sum();
            // Derivatives that are zero are so up to the rounding of the values.
            let values =
                cotangent.flat.iter().zip(&line.samples.origin).map(|(ct, value)| (ct * value).abs());
            let values = values.filter(|value| value.is_finite()).sum::<f64>();
            size += SMALLEST * values.max(line.samples.background);
            for gradients in ways {
                let mut found = 0.0;
                for (pos, change) in &line.changes {
                    let Some(idx) = self.claim.wrt.iter().position(|other| other == pos) else { continue };
                    found += dot(&gradients[idx], change);
                    size += gradients[idx].iter().zip(change).map(|(g, v)| (g * v).abs()).sum::<f64>();
                }
                let place = format!("{} by {}", line.name, cotangent.name);
                row.compare(Worst { place, expected, found, tolerance: ADJOINT * size, estimate: None });
            }
        }
        Some(row)
    }

    /// Inputs whose derivative `stop_gradient` changes.
    fn notes(&self, subject: &Subject<'_>) -> Result<Vec<String>, Diagnostic> {
        let mut names = vec![];
        for pos in self.claim.wrt.iter().filter(|_| subject.stops()) {
            let change = [(*pos, self.direction(*pos, "v")?)];
            let (still, moving) = (self.point.sample(&change, false)?, self.point.sample(&change, true)?);
            let differs = |cotangent: &Cotangent| {
                let pair = still.slope_of(&cotangent.flat).zip(moving.slope_of(&cotangent.flat));
                pair.is_some_and(|(still, moving)| {
                    let errors = SAFETY * (still.error + moving.error);
                    let size = still.size.max(moving.size).max(SMALLEST * still.values);
                    (still.value - moving.value).abs() > errors + COARSE * size
                })
            };
            if self.cotangents.iter().any(differs) {
                names.push(self.input_name(*pos));
            }
        }
        if names.is_empty() {
            return Ok(vec![]);
        }
        Ok(vec![format!(
            "stop_gradient changes the derivative with respect to {}; differences hold what it gives",
            names.join(", ")
        )])
    }
}

/// Compares a derivative with what differences say; true if they disagree. `size` is that of comparable derivatives.
fn judge(
    row: &mut Row,
    slope: Option<Slope>,
    found: f64,
    size: f64,
    unit: f64,
    place: &dyn Fn() -> String,
) -> bool {
    let Some(slope) = slope else {
        row.inconclusive(UNDEFINED);
        return false;
    };
    let size = slope.size.max(size).max(SMALLEST * slope.values);
    if !slope.is_smooth || slope.error > COARSE * size {
        row.inconclusive(if slope.is_smooth { UNSHARP } else { KINK });
        return false;
    }
    let tolerance = SAFETY * slope.error + ROUNDING * size;
    let worst = Worst {
        place: place(),
        expected: slope.value / unit,
        found: found / unit,
        tolerance: tolerance / unit,
        estimate: Some(slope.error / unit),
    };
    let fails = worst.excess() > 1.0;
    row.compare(worst);
    fails
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}
