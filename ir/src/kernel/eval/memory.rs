//! Arrays of the kernel evaluator: elements with their rounding, and which of them were never written.

use crate::diag::Diagnostic;
use crate::dtype::DType;
use crate::scalar::Scalar;

/// The evaluator takes no larger array: it keeps nine bytes an element.
const MAX_ELEMS: u64 = 1 << 31;

/// A dense row-major array. An element is *poison* until it is written.
#[derive(Clone, PartialEq, Debug)]
pub struct Array {
    dtype: DType,
    shape: Vec<i64>,
    pub(super) bits: Vec<u64>,
    pub(super) poison: Vec<bool>,
}

impl Array {
    /// An array of `shape` that nobody wrote to yet.
    ///
    /// Errors: a negative extent, or more elements than the evaluator takes.
    pub fn uninit(dtype: DType, shape: &[i64]) -> Result<Array, Diagnostic> {
        let too_large =
            || Diagnostic::input(Default::default(), format!("{dtype}{shape:?} is too large to evaluate"));
        let mut len = 1u64;
        for extent in shape {
            let extent = u64::try_from(*extent).map_err(|_| too_large())?;
            len = len.checked_mul(extent).filter(|len| *len <= MAX_ELEMS).ok_or_else(too_large)?;
        }
        let len = len as usize;
        Ok(Array { dtype, shape: shape.to_vec(), bits: vec![0; len], poison: vec![true; len] })
    }

    /// An array of these elements, each rounded to `dtype`.
    ///
    /// Errors: as [`Array::uninit`], or another number of values than `shape` has elements.
    pub fn from_scalars(dtype: DType, shape: &[i64], values: &[Scalar]) -> Result<Array, Diagnostic> {
        let mut array = Array::uninit(dtype, shape)?;
        if values.len() != array.len() {
            let message =
                format!("{dtype}{shape:?} has {} elements, found {} values", array.len(), values.len());
            return Err(Diagnostic::input(Default::default(), message));
        }
        for (idx, value) in values.iter().enumerate() {
            array.set(idx, *value);
        }
        Ok(array)
    }

    /// An array of these floats, each converted to `dtype`.
    ///
    /// Errors: as [`Array::from_scalars`].
    pub fn from_f64s(dtype: DType, shape: &[i64], values: &[f64]) -> Result<Array, Diagnostic> {
        let values: Vec<Scalar> = values.iter().map(|value| Scalar::Float(*value)).collect();
        Array::from_scalars(dtype, shape, &values)
    }

    /// The storage type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The extents.
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bits.len()
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.bits.is_empty()
    }

    /// Element `idx` in row-major order; `None` if it was never written or does not exist.
    pub fn get(&self, idx: usize) -> Option<Scalar> {
        if self.poison.get(idx).copied().unwrap_or(true) {
            None
        } else {
            Some(from_bits(self.dtype, self.bits[idx]))
        }
    }

    /// Writes element `idx`, rounded to the storage type; nothing if it does not exist.
    pub fn set(&mut self, idx: usize, value: Scalar) {
        if idx < self.bits.len() {
            self.bits[idx] = round_bits(self.dtype, to_bits(self.dtype.compute(), value.convert(self.dtype)));
            self.poison[idx] = false;
        }
    }

    /// All elements in row-major order; `None` for those never written.
    pub fn scalars(&self) -> impl Iterator<Item = Option<Scalar>> + '_ {
        (0..self.len()).map(|idx| self.get(idx))
    }

    /// All elements as f64; `None` if one was never written.
    pub fn to_f64s(&self) -> Option<Vec<f64>> {
        self.scalars().map(|value| value.map(Scalar::as_f64)).collect()
    }

    /// Forgets all elements.
    pub(super) fn forget(&mut self) {
        self.poison.fill(true);
    }
}

/// The bits of a value of a compute type: those of the f64 or f32, the integer's, or 0 and 1.
pub(super) fn to_bits(dtype: DType, value: Scalar) -> u64 {
    match dtype.compute() {
        DType::F64 => value.as_f64().to_bits(),
        DType::F32 => u64::from((value.as_f64() as f32).to_bits()),
        DType::Bool => u64::from(value.as_bool()),
        _ => value.convert(dtype).as_i64() as u64,
    }
}

/// The value that [`to_bits`] gave.
pub(super) fn from_bits(dtype: DType, bits: u64) -> Scalar {
    match dtype.compute() {
        DType::F64 => Scalar::Float(f64::from_bits(bits)),
        DType::F32 => Scalar::Float(f64::from(f32::from_bits(bits as u32))),
        DType::Bool => Scalar::Bool(bits != 0),
        _ => Scalar::Int(bits as i64),
    }
}

/// What storing in `dtype` and loading again makes of a value of its compute type.
pub(super) fn round_bits(dtype: DType, bits: u64) -> u64 {
    let narrow = f32::from_bits(bits as u32);
    match dtype {
        DType::Bf16 => u64::from(half::bf16::from_f32(narrow).to_f32().to_bits()),
        DType::F16 => u64::from(half::f16::from_f32(narrow).to_f32().to_bits()),
        _ => bits,
    }
}
