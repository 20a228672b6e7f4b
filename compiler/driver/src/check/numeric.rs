//! Derivatives along a line, from values alone.
//!
//! In: a function of the step `t`, in f64. Out: its derivative at `t = 0` with an estimate of the error, or that there is none.
//! Central differences on a ladder of steps are extrapolated to step 0 (Ridders 1982, "Accurate computation of F'(x) and
//! F'(x)F''(x)"): the table holds every order from every run of the ladder, and the entry is taken whose neighbours of lower
//! order, plus what rounding does at its smallest step, say that it is best. So no step is chosen beforehand, and a kink
//! within the larger steps costs accuracy but no truth.
//!
//! A kink at the point itself is invisible to central differences. It shows in the difference of the one-sided slopes, which
//! for a smooth function vanishes with the step and at a kink does not.

/// Steps in falling order: each a quarter of the one before.
pub const STEPS: [f64; 6] = [1.0 / 32.0, 1.0 / 128.0, 1.0 / 512.0, 1.0 / 2048.0, 1.0 / 8192.0, 1.0 / 32768.0];

/// Differences of squares of steps: `(h / h')^2`.
const RATIO: f64 = 16.0;
/// Rounding of a function value, in units of f64 rounding.
const VALUE_ROUNDING: f64 = 4.0;

/// Values of a vector function along a line.
pub struct Samples {
    /// At 0.
    pub origin: Vec<f64>,
    /// Step, values at `+step`, values at `-step`; in the order of [`STEPS`].
    pub levels: Vec<(f64, Vec<f64>, Vec<f64>)>,
    /// The size of numbers that the values are computed from: their rounding is in the values, however small these are.
    pub background: f64,
}

/// A derivative along a line.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Slope {
    /// The derivative.
    pub value: f64,
    /// The estimate of its error.
    pub error: f64,
    /// The size of the derivatives that it is a sum of, which may cancel.
    pub size: f64,
    /// The size of the values that it was computed from.
    pub values: f64,
    /// Whether the slopes to both sides agree.
    pub is_smooth: bool,
}

impl Samples {
    /// The derivative of one element; `None` where fewer than two steps have numbers.
    pub fn slope_at(&self, idx: usize) -> Option<Slope> {
        let levels = self.levels.iter().map(|(step, plus, minus)| (*step, plus[idx], minus[idx]));
        slope(self.origin[idx], levels, self.origin[idx].abs().max(self.background))
    }

    /// The derivative of the elements' sum with `weights`; `None` where fewer than two steps have numbers.
    pub fn slope_of(&self, weights: &[f64]) -> Option<Slope> {
        let dot = |values: &[f64]| weighted(weights, values).sum::<f64>();
        let levels = self.levels.iter().map(|(step, plus, minus)| (*step, dot(plus), dot(minus)));
        let size: f64 = weighted(weights, &self.origin).map(f64::abs).sum();
        let largest = weights.iter().fold(0.0, |largest: f64, weight| largest.max(weight.abs()));
        let mut found = slope(dot(&self.origin), levels, size.max(largest * self.background))?;
        // The middle of the ladder is good enough for a size.
        if let Some((step, plus, minus)) = self.levels.get(self.levels.len() / 2) {
            let parts = weights.iter().zip(plus).zip(minus).filter(|((weight, _), _)| **weight != 0.0);
            let parts: f64 = parts.map(|((weight, plus), minus)| (weight * (plus - minus)).abs()).sum();
            if parts.is_finite() {
                found.size = found.size.max(parts / (2.0 * step));
            }
        }
        Some(found)
    }
}

/// Products with weights that are not zero: what no weight asks for may be no number.
fn weighted<'a>(weights: &'a [f64], values: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
    weights.iter().zip(values).filter(|(weight, _)| **weight != 0.0).map(|(weight, value)| weight * value)
}

/// The derivative at 0 of a function with the value `origin`, made of parts of `size`.
fn slope(origin: f64, levels: impl Iterator<Item = (f64, f64, f64)>, size: f64) -> Option<Slope> {
    // Steps that leave the function's domain come first on the ladder.
    let levels: Vec<(f64, f64, f64)> =
        levels.skip_while(|(_, plus, minus)| !plus.is_finite() || !minus.is_finite()).collect();
    let is_finite = |level: &(f64, f64, f64)| level.1.is_finite() && level.2.is_finite();
    if levels.len() < 2 || !origin.is_finite() || !levels.iter().all(is_finite) {
        return None;
    }
    let size_at = |level: &(f64, f64, f64)| size.max(level.1.abs()).max(level.2.abs());
    let noise = |level: &(f64, f64, f64)| VALUE_ROUNDING * f64::EPSILON * size_at(level) / level.0;
    let mut best: Option<(f64, f64)> = None;
    let mut above: Vec<f64> = vec![];
    for level in &levels {
        let (step, plus, minus) = *level;
        let mut row = vec![(plus - minus) / (2.0 * step)];
        let mut factor = 1.0;
        for (order, previous) in above.iter().enumerate() {
            factor *= RATIO;
            let lower = row[order];
            let next = (factor * lower - previous) / (factor - 1.0);
            let error = (next - lower).abs().max((next - previous).abs()) + noise(level);
            if best.is_none_or(|(_, smallest)| error < smallest) {
                best = Some((next, error));
            }
            row.push(next);
        }
        above = row;
    }
    let (value, error) = best?;
    let is_smooth = is_smooth(origin, &levels, &noise, value);
    Some(Slope { value, error, size: value.abs(), values: size, is_smooth })
}

/// Whether the one-sided slopes come together as the step falls: at a kink their difference stays what it is.
fn is_smooth(
    origin: f64,
    levels: &[(f64, f64, f64)],
    noise: &dyn Fn(&(f64, f64, f64)) -> f64,
    value: f64,
) -> bool {
    let gap = |level: &(f64, f64, f64)| ((level.1 - origin) - (origin - level.2)).abs() / level.0;
    let [.., third, second, last] = levels else { return true };
    let stays = |small: f64, large: f64| small > 0.5 * large && small < 2.0 * large;
    let counts = gap(last) > 32.0 * noise(last) + 1e-9 * value.abs();
    !(counts && stays(gap(last), gap(second)) && stays(gap(second), gap(third)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(f: impl Fn(f64) -> Vec<f64>) -> Samples {
        let levels = STEPS.map(|step| (step, f(step), f(-step))).to_vec();
        Samples { origin: f(0.0), levels, background: 0.0 }
    }

    fn one(f: impl Fn(f64) -> f64) -> Option<Slope> {
        sampled(|t| vec![f(t)]).slope_at(0)
    }

    #[test]
    fn smooth_functions_have_slopes_within_their_estimates() {
        type Case = (fn(f64) -> f64, f64);
        let cases: [Case; 6] = [
            (|t| (1.0 + t).exp(), 1f64.exp()),
            (|t| (30.0 * t).sin(), 30.0),
            (|t| 1e6 + t, 1.0),
            (|t| (1e-3 + t * 1e-2).ln(), 10.0),
            (|t| 1e-9 * (0.5 + t).tanh(), 1e-9 * (1.0 - 0.5f64.tanh().powi(2))),
            (|_| 3.0, 0.0),
        ];
        for (idx, (f, expected)) in cases.into_iter().enumerate() {
            let found = one(f).unwrap();
            assert!((found.value - expected).abs() <= 4.0 * found.error, "{idx}: {found:?}, {expected}");
            assert!(found.error <= 1e-7 * (found.size + found.values) && found.is_smooth, "{idx}: {found:?}");
        }
    }

    #[test]
    fn kinks_are_seen() {
        assert!(!one(f64::abs).unwrap().is_smooth);
        assert!(!one(|t| t.max(0.0) + t.exp()).unwrap().is_smooth);
        assert!(!one(|t| 1e-3 * t.abs() + t.sin()).unwrap().is_smooth);
        // Near the point, within the smallest step, at the next: no estimate pretends to be sharp.
        for distance in [1e-6, 1e-5, 2.9e-5, 5e-5, 1e-4] {
            let found = one(|t| (t - distance).abs()).unwrap();
            let is_told =
                !found.is_smooth || found.error > 1e-4 || (found.value + 1.0).abs() <= 4.0 * found.error;
            assert!(is_told, "{distance}: {found:?}");
        }
        // Far from it, smaller steps decide.
        let found = one(|t| (t - 2e-3).abs() + t * t).unwrap();
        assert!((found.value + 1.0).abs() < 1e-9 && found.error < 1e-8 && found.is_smooth, "{found:?}");
    }

    #[test]
    fn steps_out_of_the_domain_are_left_out() {
        let found = one(|t| (1e-3 + t).ln()).unwrap();
        assert!((found.value - 1e3).abs() < 1e-3, "{found:?}");
        assert_eq!(one(f64::sqrt), None);
        assert_eq!(one(|_| f64::NAN), None);
    }

    #[test]
    fn parts_without_weight_do_not_matter() {
        let samples = sampled(|t| vec![t.sin(), (t - 1.0).ln(), 2.0 * t]);
        let found = samples.slope_of(&[3.0, 0.0, -1.5]).unwrap();
        assert!(found.value.abs() <= 4.0 * found.error + 1e-12, "{found:?}");
        assert!((found.size - 6.0).abs() < 1e-3, "{found:?}");
        assert_eq!(samples.slope_of(&[0.0, 1.0, 0.0]), None);
    }
}
