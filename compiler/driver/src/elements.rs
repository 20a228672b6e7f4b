//! Elements of any type as numbers: conversion to another type, and short statistics.

use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::Scalar;
use birkhoff_runtime::{Buffer, Element, View, ViewMut};
use half::{bf16, f16};

/// The element at `idx` in row-major order; `None` behind the end.
pub fn get(view: &View<'_>, idx: usize) -> Option<Scalar> {
    let float = |value: f64| Scalar::Float(value);
    match view.dtype() {
        DType::F64 => view.as_slice::<f64>().ok()?.get(idx).map(|value| float(*value)),
        DType::F32 => view.as_slice::<f32>().ok()?.get(idx).map(|value| float(f64::from(*value))),
        DType::Bf16 => view.as_slice::<bf16>().ok()?.get(idx).map(|value| float(value.to_f64())),
        DType::F16 => view.as_slice::<f16>().ok()?.get(idx).map(|value| float(value.to_f64())),
        DType::I64 => view.as_slice::<i64>().ok()?.get(idx).map(|value| Scalar::Int(*value)),
        DType::I32 => view.as_slice::<i32>().ok()?.get(idx).map(|value| Scalar::Int(i64::from(*value))),
        DType::Bool => view.as_slice::<bool>().ok()?.get(idx).map(|value| Scalar::Bool(*value)),
    }
}

/// All elements, in row-major order.
pub fn scalars<'a>(view: &'a View<'_>) -> impl Iterator<Item = Scalar> + 'a {
    (0..view.n_elems() as usize).map_while(|idx| get(view, idx))
}

/// Writes all elements, in row-major order, each converted to the array's type. Where `values` ends early, the rest stays.
///
/// Errors: none that a view which was made can cause.
pub fn fill(view: &mut ViewMut<'_>, values: impl Iterator<Item = Scalar>) -> Result<(), Diagnostic> {
    fn each<E: Element>(
        view: &mut ViewMut<'_>,
        values: impl Iterator<Item = Scalar>,
        convert: impl Fn(Scalar) -> E,
    ) -> Result<(), Diagnostic> {
        view.as_mut_slice::<E>()?.iter_mut().zip(values).for_each(|(slot, value)| *slot = convert(value));
        Ok(())
    }
    match view.dtype() {
        DType::F64 => each(view, values, Scalar::as_f64),
        DType::F32 => each(view, values, |value| value.as_f64() as f32),
        // Rounded by our own rule first: `half` rounds an f64 twice.
        dtype @ DType::Bf16 => {
            each(view, values, move |value| bf16::from_f32(value.convert(dtype).as_f64() as f32))
        }
        dtype @ DType::F16 => {
            each(view, values, move |value| f16::from_f32(value.convert(dtype).as_f64() as f32))
        }
        DType::I64 => each(view, values, Scalar::as_i64),
        DType::I32 => each(view, values, |value| value.convert(DType::I32).as_i64() as i32),
        DType::Bool => each(view, values, Scalar::as_bool),
    }
}

/// A copy in which every element is converted to `dtype`.
///
/// Errors: as [`Buffer::zeros`].
pub fn convert(view: &View<'_>, dtype: DType) -> Result<Buffer, Diagnostic> {
    let mut buffer = Buffer::zeros(dtype, view.shape())?;
    fill(&mut buffer.view_mut(), scalars(view))?;
    Ok(buffer)
}

/// Adds the elements of `terms` to those of `view`, which has the same type and shape: one addition and one rounding each.
///
/// Errors: another type.
pub fn accumulate(view: &mut ViewMut<'_>, terms: &View<'_>) -> Result<(), Diagnostic> {
    fn each<E: Element>(
        view: &mut ViewMut<'_>,
        terms: &View<'_>,
        add: impl Fn(E, E) -> E,
    ) -> Result<(), Diagnostic> {
        let terms = terms.as_slice::<E>()?;
        view.as_mut_slice::<E>()?.iter_mut().zip(terms).for_each(|(sum, term)| *sum = add(*sum, *term));
        Ok(())
    }
    match view.dtype() {
        DType::F64 => each(view, terms, |sum: f64, term: f64| sum + term),
        DType::F32 => each(view, terms, |sum: f32, term: f32| sum + term),
        // The sum of two is exact enough in f32 to be rounded once more: it has more than twice the bits.
        DType::Bf16 => {
            each(view, terms, |sum: bf16, term: bf16| bf16::from_f32(sum.to_f32() + term.to_f32()))
        }
        DType::F16 => each(view, terms, |sum: f16, term: f16| f16::from_f32(sum.to_f32() + term.to_f32())),
        dtype => Err(Diagnostic::verify(format!("a gradient of type {dtype} cannot be added to"))),
    }
}

/// True if every value of `from` is one of `to`: wider floats hold narrower ones.
pub fn widens(from: DType, to: DType) -> bool {
    let rank = |dtype: DType| match dtype {
        DType::F64 => 3,
        DType::F32 => 2,
        _ => 1,
    };
    from.is_float() && to.is_float() && rank(from) < rank(to)
}

/// How many elements [`Summary::first`] holds at most.
const N_SHOWN: usize = 4;

/// A few numbers that say what an array looks like.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Summary {
    /// The smallest number; `None` if there is none.
    pub min: Option<f64>,
    /// The largest number.
    pub max: Option<f64>,
    /// The mean of all elements that are numbers, added in order in f64.
    pub mean: Option<f64>,
    /// Elements that are NaN.
    pub n_nan: u64,
    /// The first few elements.
    pub first: Vec<f64>,
}

/// Summarises an array.
pub fn summarise(view: &View<'_>) -> Summary {
    let mut summary = Summary::default();
    let (mut sum, mut n_numbers) = (0.0, 0u64);
    for value in scalars(view) {
        let value = value.as_f64();
        if summary.first.len() < N_SHOWN {
            summary.first.push(value);
        }
        if value.is_nan() {
            summary.n_nan += 1;
            continue;
        }
        summary.min = Some(summary.min.map_or(value, |min| min.min(value)));
        summary.max = Some(summary.max.map_or(value, |max| max.max(value)));
        sum += value;
        n_numbers += 1;
    }
    summary.mean = (n_numbers > 0).then(|| sum / n_numbers as f64);
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_a_trip_through_numbers() {
        let values = [0.0, 1.0, -2.5, f64::NAN, f64::INFINITY];
        let wide = Buffer::from_slice(&values, &[5]).unwrap();
        for dtype in DType::ALL {
            let there = convert(&wide.view(), dtype).unwrap();
            assert_eq!(there.dtype(), dtype);
            let back = convert(&there.view(), DType::F64).unwrap();
            for (value, found) in values.iter().zip(back.as_slice::<f64>().unwrap()) {
                let expected = Scalar::Float(*value).convert(dtype).as_f64();
                assert!(*found == expected || (found.is_nan() && expected.is_nan()), "{dtype} {value}");
            }
        }
    }

    #[test]
    fn summaries_leave_nan_out() {
        let view_of = [1.0f32, f32::NAN, -3.0, f32::NAN, 4.0];
        let summary = summarise(&View::of(&view_of, &[5]).unwrap());
        assert_eq!((summary.min, summary.max, summary.n_nan), (Some(-3.0), Some(4.0), 2));
        assert_eq!(summary.mean, Some(2.0 / 3.0));
        assert_eq!(summary.first.len(), 4);
        let none = summarise(&View::of(&[f32::NAN], &[1]).unwrap());
        assert_eq!((none.min, none.mean, none.n_nan), (None, None, 1));
    }

    #[test]
    fn only_floats_widen() {
        assert!(widens(DType::F32, DType::F64) && widens(DType::Bf16, DType::F32));
        assert!(!widens(DType::F64, DType::F32) && !widens(DType::Bf16, DType::F16));
        assert!(!widens(DType::I32, DType::F64) && !widens(DType::F32, DType::F32));
    }
}
