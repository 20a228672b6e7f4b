//! Tensors in memory, as the evaluator holds them.
//!
//! In: numbers or bytes. Out: [`Tensor`], whose elements are exact values of its dtype. Row-major, without strides.

use crate::dtype::DType;
use crate::scalar::Scalar;

/// The evaluator holds no tensor of more elements: 8 GiB of f64.
pub const MAX_ELEMS: usize = 1 << 30;

/// Elements in row-major order.
#[derive(Clone, PartialEq, Debug)]
pub enum Data {
    /// Of a float dtype, rounded to it.
    Float(Vec<f64>),
    /// Of an integer dtype, within its range.
    Int(Vec<i64>),
    /// Of bool.
    Bool(Vec<bool>),
}

/// Elements with their type and extents.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Data,
}

/// The number of elements of a shape.
///
/// Errors: more than [`MAX_ELEMS`].
pub fn n_elems(shape: &[usize]) -> Result<usize, String> {
    if shape.contains(&0) {
        return Ok(0);
    }
    let count = shape.iter().try_fold(1usize, |product, extent| product.checked_mul(*extent));
    count.filter(|count| *count <= MAX_ELEMS).ok_or_else(|| {
        format!("a tensor of shape {shape:?} has more than {MAX_ELEMS} elements, which the evaluator does not hold")
    })
}

impl Tensor {
    /// A tensor of those elements.
    ///
    /// Errors: elements of another kind than `dtype`, or not as many as `shape` has; values that `dtype` cannot hold
    /// exactly are rounded (floats) or wrapped (integers).
    pub fn new(dtype: DType, shape: Vec<usize>, data: Data) -> Result<Tensor, String> {
        let fits = match &data {
            Data::Float(_) => dtype.is_float(),
            Data::Int(_) => dtype.is_int(),
            Data::Bool(_) => dtype == DType::Bool,
        };
        let count = n_elems(&shape)?;
        if !fits || data.len() != count {
            return Err(format!(
                "expected {count} elements of {dtype}, found {} of another kind or count",
                data.len()
            ));
        }
        let data = match data {
            Data::Float(values) if dtype != DType::F64 => {
                Data::Float(values.into_iter().map(|value| dtype.round(value)).collect())
            }
            Data::Int(values) if dtype == DType::I32 => {
                Data::Int(values.into_iter().map(|value| i64::from(value as i32)).collect())
            }
            other => other,
        };
        Ok(Tensor { dtype, shape, data })
    }

    /// A tensor of numbers converted to `dtype`.
    ///
    /// Errors: as [`Tensor::new`].
    pub fn from_f64s(dtype: DType, shape: Vec<usize>, values: &[f64]) -> Result<Tensor, String> {
        Tensor::from_scalars(dtype, shape, values.iter().map(|value| Scalar::Float(*value)))
    }

    /// A tensor of scalars converted to `dtype`.
    ///
    /// Errors: as [`Tensor::new`].
    pub fn from_scalars(
        dtype: DType,
        shape: Vec<usize>,
        values: impl Iterator<Item = Scalar>,
    ) -> Result<Tensor, String> {
        let values = values.map(|value| value.convert(dtype));
        let data = match dtype {
            DType::Bool => Data::Bool(values.map(Scalar::as_bool).collect()),
            DType::I64 | DType::I32 => Data::Int(values.map(Scalar::as_i64).collect()),
            _ => Data::Float(values.map(Scalar::as_f64).collect()),
        };
        Tensor::new(dtype, shape, data)
    }

    /// A scalar.
    pub fn scalar(dtype: DType, value: Scalar) -> Tensor {
        let data = match value.convert(dtype) {
            Scalar::Float(value) => Data::Float(vec![value]),
            Scalar::Int(value) => Data::Int(vec![value]),
            Scalar::Bool(value) => Data::Bool(vec![value]),
        };
        Tensor { dtype, shape: vec![], data }
    }

    /// A tensor from little-endian bytes.
    ///
    /// Errors: a number of bytes that does not fit, a bool that is neither 0 nor 1.
    pub fn from_le_bytes(dtype: DType, shape: Vec<usize>, bytes: &[u8]) -> Result<Tensor, String> {
        let count = n_elems(&shape)?;
        let size = dtype.size_bytes() as usize;
        if count.checked_mul(size) != Some(bytes.len()) {
            let message = format!("{dtype} of shape {shape:?} has {count} elements of {size} bytes");
            return Err(format!("{message}, found {} bytes", bytes.len()));
        }
        let data = match dtype {
            DType::F64 => Data::Float(chunks(bytes).map(f64::from_le_bytes).collect()),
            DType::F32 => {
                Data::Float(chunks(bytes).map(|word| f64::from(f32::from_le_bytes(word))).collect())
            }
            DType::Bf16 => {
                Data::Float(chunks(bytes).map(|word| half::bf16::from_le_bytes(word).to_f64()).collect())
            }
            DType::F16 => {
                Data::Float(chunks(bytes).map(|word| half::f16::from_le_bytes(word).to_f64()).collect())
            }
            DType::I64 => Data::Int(chunks(bytes).map(i64::from_le_bytes).collect()),
            DType::I32 => Data::Int(chunks(bytes).map(|word| i64::from(i32::from_le_bytes(word))).collect()),
            DType::Bool => {
                if let Some(bad) = bytes.iter().find(|byte| **byte > 1) {
                    return Err(format!("expected 0 or 1 for a bool, found the byte {bad}"));
                }
                Data::Bool(bytes.iter().map(|byte| *byte == 1).collect())
            }
        };
        Ok(Tensor { dtype, shape, data })
    }

    /// The elements as little-endian bytes.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        match (&self.data, self.dtype) {
            (Data::Float(values), DType::F64) => {
                values.iter().flat_map(|value| value.to_le_bytes()).collect()
            }
            (Data::Float(values), DType::Bf16) => {
                values.iter().flat_map(|value| half::bf16::from_f32(*value as f32).to_le_bytes()).collect()
            }
            (Data::Float(values), DType::F16) => {
                values.iter().flat_map(|value| half::f16::from_f32(*value as f32).to_le_bytes()).collect()
            }
            (Data::Float(values), _) => {
                values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect()
            }
            (Data::Int(values), DType::I32) => {
                values.iter().flat_map(|value| (*value as i32).to_le_bytes()).collect()
            }
            (Data::Int(values), _) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            (Data::Bool(values), _) => values.iter().map(|value| u8::from(*value)).collect(),
        }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Elements in row-major order.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// True if there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element `idx` in row-major order. Panics past the end.
    pub fn get(&self, idx: usize) -> Scalar {
        self.data.get(idx)
    }

    /// The elements as f64; truth values are 0 and 1.
    pub fn to_f64s(&self) -> Vec<f64> {
        match &self.data {
            Data::Float(values) => values.clone(),
            other => (0..other.len()).map(|idx| other.get(idx).as_f64()).collect(),
        }
    }

    /// The same elements under another shape of as many.
    pub(super) fn with_shape(&self, shape: Vec<usize>) -> Result<Tensor, String> {
        Tensor::new(self.dtype, shape, self.data.clone())
    }
}

impl Data {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::Float(values) => values.len(),
            Data::Int(values) => values.len(),
            Data::Bool(values) => values.len(),
        }
    }

    /// True if there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element `idx`. Panics past the end.
    pub fn get(&self, idx: usize) -> Scalar {
        match self {
            Data::Float(values) => Scalar::Float(values[idx]),
            Data::Int(values) => Scalar::Int(values[idx]),
            Data::Bool(values) => Scalar::Bool(values[idx]),
        }
    }

    /// The elements at those positions.
    pub(super) fn pick(&self, positions: &[usize]) -> Data {
        match self {
            Data::Float(values) => Data::Float(positions.iter().map(|pos| values[*pos]).collect()),
            Data::Int(values) => Data::Int(positions.iter().map(|pos| values[*pos]).collect()),
            Data::Bool(values) => Data::Bool(positions.iter().map(|pos| values[*pos]).collect()),
        }
    }

    /// These elements and then those of `other`, which is of the same kind.
    pub(super) fn append(&mut self, other: &Data) {
        match (self, other) {
            (Data::Float(values), Data::Float(more)) => values.extend_from_slice(more),
            (Data::Int(values), Data::Int(more)) => values.extend_from_slice(more),
            (Data::Bool(values), Data::Bool(more)) => values.extend_from_slice(more),
            _ => {}
        }
    }
}

/// The bytes in words of `N`.
fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.chunks_exact(N).map(|chunk| {
        let mut word = [0; N];
        word.copy_from_slice(chunk);
        word
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_dtype_come_back() {
        for dtype in DType::ALL {
            let values = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0];
            let signed = if dtype == DType::Bool { values } else { [0.0, -1.0, 3.5, 100.0, -7.25, 1.0] };
            let tensor = Tensor::from_f64s(dtype, vec![2, 3], &signed).unwrap();
            let bytes = tensor.to_le_bytes();
            assert_eq!(bytes.len() as u64, 6 * dtype.size_bytes());
            assert_eq!(Tensor::from_le_bytes(dtype, vec![2, 3], &bytes).unwrap(), tensor);
            assert!(Tensor::from_le_bytes(dtype, vec![2, 2], &bytes).is_err());
        }
        let nan = Tensor::from_f64s(DType::Bf16, vec![1], &[f64::NAN]).unwrap();
        assert!(nan.to_f64s()[0].is_nan());
        assert_eq!(Tensor::from_f64s(DType::Bf16, vec![1], &[-2.0]).unwrap().to_le_bytes(), [0x00, 0xc0]);
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(n_elems(&[0, usize::MAX, usize::MAX]), Ok(0));
        assert!(n_elems(&[usize::MAX, 2]).is_err());
        assert!(n_elems(&[1 << 18, 1 << 18]).is_err());
        assert!(Tensor::from_le_bytes(DType::F32, vec![1 << 20, 1 << 30], &[]).is_err());
        assert!(Tensor::from_le_bytes(DType::Bool, vec![1], &[2]).is_err());
    }
}
