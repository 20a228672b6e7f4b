//! Elements of any type as numbers: conversion to another type, and short statistics.

use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::scalar::Scalar;
use birkhoff_runtime::{Buffer, View};
use half::{bf16, f16};

/// Calls `body` with every element, in row-major order.
pub fn for_each(view: &View<'_>, body: &mut dyn FnMut(Scalar)) -> Result<(), Diagnostic> {
    match view.dtype() {
        DType::F64 => view.as_slice::<f64>()?.iter().for_each(|value| body(Scalar::Float(*value))),
        DType::F32 => view.as_slice::<f32>()?.iter().for_each(|value| body(Scalar::Float(f64::from(*value)))),
        DType::Bf16 => view.as_slice::<bf16>()?.iter().for_each(|value| body(Scalar::Float(value.to_f64()))),
        DType::F16 => view.as_slice::<f16>()?.iter().for_each(|value| body(Scalar::Float(value.to_f64()))),
        DType::I64 => view.as_slice::<i64>()?.iter().for_each(|value| body(Scalar::Int(*value))),
        DType::I32 => view.as_slice::<i32>()?.iter().for_each(|value| body(Scalar::Int(i64::from(*value)))),
        DType::Bool => view.as_slice::<bool>()?.iter().for_each(|value| body(Scalar::Bool(*value))),
    }
    Ok(())
}

/// A new array of elements that `next` gives, in row-major order, each converted to `dtype`.
///
/// Errors: as [`Buffer::zeros`].
pub fn build(dtype: DType, shape: &[i64], next: &mut dyn FnMut() -> Scalar) -> Result<Buffer, Diagnostic> {
    let mut buffer = Buffer::zeros(dtype, shape)?;
    let mut view = buffer.view_mut();
    match dtype {
        DType::F64 => view.as_mut_slice::<f64>()?.iter_mut().for_each(|slot| *slot = next().as_f64()),
        DType::F32 => view.as_mut_slice::<f32>()?.iter_mut().for_each(|slot| *slot = next().as_f64() as f32),
        DType::Bf16 => {
            view.as_mut_slice::<bf16>()?.iter_mut().for_each(|slot| *slot = bf16::from_f64(next().as_f64()))
        }
        DType::F16 => {
            view.as_mut_slice::<f16>()?.iter_mut().for_each(|slot| *slot = f16::from_f64(next().as_f64()))
        }
        DType::I64 => view.as_mut_slice::<i64>()?.iter_mut().for_each(|slot| *slot = next().as_i64()),
        DType::I32 => view
            .as_mut_slice::<i32>()?
            .iter_mut()
            .for_each(|slot| *slot = next().convert(DType::I32).as_i64() as i32),
        DType::Bool => view.as_mut_slice::<bool>()?.iter_mut().for_each(|slot| *slot = next().as_bool()),
    }
    Ok(buffer)
}

/// A copy in which every element is converted to `dtype`.
///
/// Errors: as [`Buffer::zeros`].
pub fn convert(view: &View<'_>, dtype: DType) -> Result<Buffer, Diagnostic> {
    let mut values = Vec::new();
    for_each(view, &mut |value| values.push(value))?;
    let mut values = values.into_iter();
    build(dtype, view.shape(), &mut || values.next().unwrap_or(Scalar::Int(0)))
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
pub fn summarise(view: &View<'_>) -> Result<Summary, Diagnostic> {
    let mut summary = Summary::default();
    let (mut sum, mut n_numbers) = (0.0, 0u64);
    for_each(view, &mut |value| {
        let value = value.as_f64();
        if summary.first.len() < N_SHOWN {
            summary.first.push(value);
        }
        if value.is_nan() {
            summary.n_nan += 1;
            return;
        }
        summary.min = Some(summary.min.map_or(value, |min| min.min(value)));
        summary.max = Some(summary.max.map_or(value, |max| max.max(value)));
        sum += value;
        n_numbers += 1;
    })?;
    summary.mean = (n_numbers > 0).then(|| sum / n_numbers as f64);
    Ok(summary)
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
        let summary = summarise(&View::of(&view_of, &[5]).unwrap()).unwrap();
        assert_eq!((summary.min, summary.max, summary.n_nan), (Some(-3.0), Some(4.0), 2));
        assert_eq!(summary.mean, Some(2.0 / 3.0));
        assert_eq!(summary.first.len(), 4);
        let none = summarise(&View::of(&[f32::NAN], &[1]).unwrap()).unwrap();
        assert_eq!((none.min, none.mean, none.n_nan), (None, None, 1));
    }

    #[test]
    fn only_floats_widen() {
        assert!(widens(DType::F32, DType::F64) && widens(DType::Bf16, DType::F32));
        assert!(!widens(DType::F64, DType::F32) && !widens(DType::Bf16, DType::F16));
        assert!(!widens(DType::I32, DType::F64) && !widens(DType::F32, DType::F32));
    }
}
