//! Movement ops: every result element is an element of the operands, so each op is a list of positions in them.

use super::tensor::{Data, Tensor, n_elems};

/// Row-major strides of a shape.
pub fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

/// A walk over an index space in row-major order that keeps, for each of several tensors, the position that belongs to the
/// present index.
pub struct Walk {
    extents: Vec<usize>,
    /// Per axis, the stride in every tensor.
    steps: Vec<Vec<usize>>,
    index: Vec<usize>,
    /// The present position in every tensor.
    pub positions: Vec<usize>,
}

impl Walk {
    /// A walk over `extents`; `strides[k][axis]` is the stride of tensor `k`, 0 where it does not move.
    pub fn new(extents: &[usize], strides: &[Vec<usize>]) -> Walk {
        let steps =
            (0..extents.len()).map(|axis| strides.iter().map(|tensor| tensor[axis]).collect()).collect();
        Walk {
            extents: extents.to_vec(),
            steps,
            index: vec![0; extents.len()],
            positions: vec![0; strides.len()],
        }
    }

    /// Goes to the next index; after the last one, back to the first.
    pub fn advance(&mut self) {
        for axis in (0..self.extents.len()).rev() {
            self.index[axis] += 1;
            if self.index[axis] < self.extents[axis] {
                for (pos, step) in self.positions.iter_mut().zip(&self.steps[axis]) {
                    *pos += step;
                }
                return;
            }
            self.index[axis] = 0;
            for (pos, step) in self.positions.iter_mut().zip(&self.steps[axis]) {
                *pos -= step * (self.extents[axis] - 1);
            }
        }
    }
}

/// The tensor of `shape` whose element at an index is that of `x` at `start + sum index * strides`.
fn strided(x: &Tensor, shape: Vec<usize>, strides: Vec<usize>, start: usize) -> Result<Tensor, String> {
    let count = n_elems(&shape)?;
    let mut walk = Walk::new(&shape, &[strides]);
    let mut positions = Vec::with_capacity(count);
    for _ in 0..count {
        positions.push(start + walk.positions[0]);
        walk.advance();
    }
    Tensor::new(x.dtype(), shape, x.data().pick(&positions))
}

/// See the op `broadcast`.
pub fn broadcast(x: &Tensor, shape: Vec<usize>, axes: &[u32]) -> Result<Tensor, String> {
    let mut steps = vec![0; shape.len()];
    for (stride, axis) in strides(x.shape()).into_iter().zip(axes) {
        steps[*axis as usize] = stride;
    }
    strided(x, shape, steps, 0)
}

/// See the op `transpose`.
pub fn transpose(x: &Tensor, shape: Vec<usize>, axes: &[u32]) -> Result<Tensor, String> {
    let own = strides(x.shape());
    strided(x, shape, axes.iter().map(|axis| own[*axis as usize]).collect(), 0)
}

/// See the op `slice`; `shape` is the result's.
pub fn slice(x: &Tensor, shape: Vec<usize>, axis: usize, start: usize) -> Result<Tensor, String> {
    if start + shape[axis] > x.shape()[axis] {
        return Err(format!("{start}..{} is not within {} elements", start + shape[axis], x.shape()[axis]));
    }
    let own = strides(x.shape());
    let offset = start * own[axis];
    strided(x, shape, own, offset)
}

/// See the op `concat`. Blocks of everything from `axis` on are contiguous in every operand.
pub fn concat(args: &[&Tensor], shape: Vec<usize>, axis: usize) -> Result<Tensor, String> {
    let blocks: Vec<usize> =
        args.iter().map(|arg| n_elems(&arg.shape()[axis..])).collect::<Result<_, _>>()?;
    let mut joined = args[0].data().clone();
    args[1..].iter().for_each(|arg| joined.append(arg.data()));
    let mut positions = Vec::with_capacity(n_elems(&shape)?);
    for outer in 0..n_elems(&shape[..axis])? {
        let mut base = 0;
        for (arg, block) in args.iter().zip(&blocks) {
            positions.extend(base + outer * block..base + (outer + 1) * block);
            base += arg.len();
        }
    }
    Tensor::new(args[0].dtype(), shape, joined.pick(&positions))
}

/// See the op `pad`: a `concat` with blocks of the value.
pub fn pad(x: &Tensor, value: &Tensor, shape: Vec<usize>, axis: usize, low: usize) -> Result<Tensor, String> {
    let high = shape[axis].checked_sub(low + x.shape()[axis]).ok_or("the padding is negative")?;
    let block = |extent: usize| {
        let mut shape = shape.clone();
        shape[axis] = extent;
        broadcast(value, shape, &[])
    };
    concat(&[&block(low)?, x, &block(high)?], shape.clone(), axis)
}

/// See the op `gather`.
pub fn gather(x: &Tensor, index: &Tensor, shape: Vec<usize>, axis: usize) -> Result<Tensor, String> {
    let extent = x.shape()[axis];
    let count = n_elems(&shape)?;
    if extent == 0 && count > 0 {
        return Err("there is nothing to gather from an axis of extent 0".into());
    }
    let inner = n_elems(&x.shape()[axis + 1..])?;
    let last = extent.saturating_sub(1) as i64;
    let mut positions = Vec::with_capacity(count);
    for outer in 0..n_elems(&x.shape()[..axis])? {
        for idx in 0..index.len() {
            let chosen = index.get(idx).as_i64().clamp(0, last) as usize;
            let start = (outer * extent + chosen) * inner;
            positions.extend(start..start + inner);
        }
    }
    Tensor::new(x.dtype(), shape, x.data().pick(&positions))
}

/// See the op `reshape`.
pub fn reshape(x: &Tensor, shape: Vec<usize>) -> Result<Tensor, String> {
    x.with_shape(shape)
}

/// Slice `idx` of the leading axis.
pub fn leading(x: &Tensor, idx: usize) -> Result<Tensor, String> {
    let shape = x.shape().get(1..).ok_or("a scalar has no slices")?.to_vec();
    let count = n_elems(&shape)?;
    let positions: Vec<usize> = (idx * count..(idx + 1) * count).collect();
    Tensor::new(x.dtype(), shape, x.data().pick(&positions))
}

/// Slices put together along a new leading axis; `shape` is the result's.
pub fn stack(
    slices: &[std::rc::Rc<Tensor>],
    dtype: crate::dtype::DType,
    shape: Vec<usize>,
) -> Result<Tensor, String> {
    let mut data = match dtype {
        dtype if dtype.is_float() => Data::Float(vec![]),
        dtype if dtype.is_int() => Data::Int(vec![]),
        _ => Data::Bool(vec![]),
    };
    slices.iter().for_each(|slice| data.append(slice.data()));
    Tensor::new(dtype, shape, data)
}
