//! From affine indices to addresses.
//!
//! In: a memory, one index per axis, and what the variables are bound to. Out: a [`Place`]: a base of terms in the order of
//! the loops that bind them (so that all but the innermost are loop invariants), a constant that goes into the offset of the
//! access, and the distance between lanes. Assumes verified kernels: indices in bounds, so nothing here checks.

use super::cache::Key;
use super::emit::Emitter;
use super::value::Val;
use crate::size::{Linear, Size, flatten, split_constant};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{Index, Mem, Var};
use birkhoff_ir::scalar::Scalar;
use cranelift_codegen::cursor::{Cursor, FuncCursor};
use cranelift_codegen::ir::{InstBuilder, Value, types};
use std::rc::Rc;

/// Where an access goes: `base of mem + sum value * size + symbolic + constant`, plus `lane * lane_stride` for each lane.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Place {
    /// The memory.
    pub(super) mem: Mem,
    /// Uniform terms with the number of loops around them, those of outer loops first.
    pub(super) terms: Vec<(Value, Size, u32)>,
    /// The part of the constant that depends on run-time sizes, in bytes.
    pub(super) symbolic: Option<Dim>,
    /// The rest of the constant, in bytes.
    pub(super) constant: i64,
    /// Bytes between lanes.
    pub(super) lane_stride: Size,
    /// Indices that differ between lanes by data, with their strides in bytes.
    pub(super) lane_terms: Vec<(Vec<Value>, Size)>,
}

impl Place {
    /// True if all lanes access one element.
    pub(super) fn uniform(&self) -> bool {
        self.lane_stride == Size::Known(0) && self.lane_terms.is_empty()
    }
}

impl Emitter<'_, '_> {
    /// The place that `index` names in `mem`.
    pub(super) fn place(&mut self, mem: Mem, index: &[Index]) -> Result<Place, Diagnostic> {
        let key = index.as_ptr() as usize;
        let linear = match self.linears.get(&(key, mem)) {
            Some(linear) => linear.clone(),
            None => {
                let linear = Rc::new(flatten(self.func, mem, index));
                self.linears.insert((key, mem), linear.clone());
                linear
            }
        };
        self.resolve(mem, &linear)
    }

    fn resolve(&mut self, mem: Mem, linear: &Linear) -> Result<Place, Diagnostic> {
        let mut constant = linear.constant.clone();
        let mut terms: Vec<(u32, Var, Value, Size)> = vec![];
        let mut lane_stride = Size::Known(0);
        let mut lane_terms = vec![];
        for (var, step) in &linear.terms {
            if self.lanes.as_ref().is_some_and(|lanes| lanes.var == *var) {
                lane_stride = step.clone();
            }
            let (val, depth) = self.lookup_index(*var)?;
            match val {
                Val::Const(value) => constant = constant.add(&step.mul(&Size::Known(value.as_i64()))),
                Val::Uniform(value) => terms.push((depth, *var, value, step.clone())),
                lanes => lane_terms.push((self.split(&lanes, DType::I64)?, step.clone())),
            }
        }
        terms.sort_by_key(|(depth, var, ..)| (*depth, *var));
        let (symbolic, constant) = split_constant(&constant);
        let terms = terms.into_iter().map(|(depth, _, value, step)| (value, step, depth)).collect();
        Ok(Place { mem, terms, symbolic, constant, lane_stride, lane_terms })
    }

    /// What an index variable is bound to (a lane variable: to its value in the first lane), and the loop depth of that.
    fn lookup_index(&self, var: Var) -> Result<(Val, u32), Diagnostic> {
        match &self.lanes {
            Some(lanes) if lanes.var == var => Ok((lanes.base.clone(), lanes.depth)),
            _ => self.lookup(var).map(|bound| (bound.val.clone(), bound.depth)),
        }
    }

    /// The address of a place without its constant, for lane 0, and the constant.
    pub(super) fn address(&mut self, place: &Place) -> (Value, i32) {
        let mut base =
            Place { constant: 0, lane_stride: Size::Known(0), lane_terms: vec![], ..place.clone() };
        let offset = i32::try_from(place.constant).ok();
        if offset.is_none() {
            base.constant = place.constant;
        }
        (self.base_address(&base), offset.unwrap_or(0))
    }

    fn base_address(&mut self, base: &Place) -> Value {
        let key = Key::Address(base.clone());
        if let Some(found) = self.cache.get(&key) {
            return found[0];
        }
        let (address, depth) = match base.terms.split_last() {
            Some(((value, step, depth), outer)) => {
                let outer = Place { terms: outer.to_vec(), ..base.clone() };
                let outer = self.base_address(&outer);
                let distance = self.scaled(*value, step, *depth);
                (self.cursor_at(*depth).ins().iadd(outer, distance), *depth)
            }
            None => {
                let mut pointer = self.pointer(base.mem);
                if let Some(symbolic) = &base.symbolic {
                    let distance = self.dim(symbolic);
                    pointer = self.cursor_at(0).ins().iadd(pointer, distance);
                }
                if base.constant != 0 {
                    let mut cursor = self.cursor_at(0);
                    let distance = cursor.ins().iconst(types::I64, base.constant);
                    pointer = cursor.ins().iadd(pointer, distance);
                }
                (pointer, 0)
            }
        };
        self.cache.insert_at(depth as usize + 1, key, vec![address]);
        address
    }

    /// `value * step`, written where only `depth` loops are around.
    pub(super) fn scaled(&mut self, value: Value, step: &Size, depth: u32) -> Value {
        match step {
            Size::Known(1) => value,
            Size::Known(step) => {
                let mut cursor = self.cursor_at(depth);
                if *step > 0 && step.count_ones() == 1 {
                    let shift = cursor.ins().iconst(types::I64, i64::from(step.trailing_zeros()));
                    return cursor.ins().ishl(value, shift);
                }
                let step = cursor.ins().iconst(types::I64, *step);
                cursor.ins().imul(value, step)
            }
            Size::Symbolic(dim) => {
                let step = self.dim(dim);
                self.cursor_at(depth).ins().imul(value, step)
            }
        }
    }

    /// The address and offset of each lane of a place whose lanes are neither one element nor neighbours.
    pub(super) fn lane_addresses(&mut self, place: &Place) -> Vec<(Value, i32)> {
        let (base, offset) = self.address(place);
        let mut addresses = vec![];
        for lane in 0..self.width() {
            let mut address = base;
            let mut lane_offset = offset;
            match &place.lane_stride {
                Size::Known(step) => {
                    let distance = step.wrapping_mul(i64::from(lane)).wrapping_add(i64::from(offset));
                    match i32::try_from(distance) {
                        Ok(distance) => lane_offset = distance,
                        Err(_) => {
                            let distance = self.i64_const(distance);
                            address = self.b.ins().iadd(address, distance);
                            lane_offset = 0;
                        }
                    }
                }
                Size::Symbolic(dim) if lane > 0 => {
                    let distance = self.dim(&dim.mul(&Dim::constant(i64::from(lane))));
                    address = self.b.ins().iadd(address, distance);
                }
                Size::Symbolic(_) => {}
            }
            for (indices, step) in &place.lane_terms {
                let distance = self.scaled(indices[lane as usize], step, u32::MAX);
                address = self.b.ins().iadd(address, distance);
            }
            addresses.push((address, lane_offset));
        }
        addresses
    }

    /// The value of a polynomial of run-time sizes, computed once per call.
    pub(super) fn dim(&mut self, dim: &Dim) -> Value {
        if let Some(value) = self.dims.get(dim) {
            return *value;
        }
        let factors: Vec<(Vec<Value>, i64)> = dim
            .terms()
            .map(|(names, coeff)| {
                let names = names.iter().filter_map(|name| self.sizes.get(name).copied()).collect();
                (names, coeff)
            })
            .collect();
        let mut sum = None;
        for (names, coeff) in factors {
            let mut cursor = FuncCursor::new(self.b.func).at_last_inst(self.const_block);
            let mut product = cursor.ins().iconst(types::I64, coeff);
            for (idx, name) in names.into_iter().enumerate() {
                product = if idx == 0 && coeff == 1 { name } else { cursor.ins().imul(product, name) };
            }
            sum = Some(match sum {
                Some(sum) => cursor.ins().iadd(sum, product),
                None => product,
            });
        }
        let value = match sum {
            Some(sum) => sum,
            None => FuncCursor::new(self.b.func).at_last_inst(self.const_block).ins().iconst(types::I64, 0),
        };
        self.dims.insert(dim.clone(), value);
        value
    }

    /// The value of an index expression: i64, per lane if it depends on the lane.
    pub(super) fn index_value(&mut self, index: &Index) -> Result<Val, Diagnostic> {
        let mut constant = Size::of(&index.offset);
        let mut sum: Option<Value> = None;
        let mut lanes: Vec<(Vec<Value>, Size)> = vec![];
        for (var, coeff) in &index.terms {
            let coeff = Size::of(coeff);
            if self.lanes.as_ref().is_some_and(|lanes| lanes.var == *var) {
                let iota = self.iota();
                lanes.push((iota, coeff.clone()));
            }
            match self.lookup_index(*var)?.0 {
                Val::Const(value) => constant = constant.add(&coeff.mul(&Size::Known(value.as_i64()))),
                Val::Uniform(value) => {
                    let term = self.scaled(value, &coeff, u32::MAX);
                    sum = Some(sum.map_or(term, |sum| self.b.ins().iadd(sum, term)));
                }
                per_lane => lanes.push((self.as_lanes(&per_lane, DType::I64)?, coeff)),
            }
        }
        let constant_only = sum.is_none() && lanes.is_empty();
        if let (true, Size::Known(value)) = (constant_only, &constant) {
            return Ok(Val::Const(Scalar::Int(*value)));
        }
        if constant != Size::Known(0) {
            let term = self.size_value(&constant);
            sum = Some(sum.map_or(term, |sum| self.b.ins().iadd(sum, term)));
        }
        if lanes.is_empty() {
            let value = match sum {
                Some(sum) => sum,
                None => self.i64_const(0),
            };
            return Ok(Val::Uniform(value));
        }
        self.lane_sum(sum, lanes)
    }

    fn lane_sum(&mut self, sum: Option<Value>, lanes: Vec<(Vec<Value>, Size)>) -> Result<Val, Diagnostic> {
        let mut total = match sum {
            Some(sum) => self.as_lanes(&Val::Uniform(sum), DType::I64)?,
            None => self.as_lanes(&Val::Const(Scalar::Int(0)), DType::I64)?,
        };
        for (values, coeff) in lanes {
            let coeff = self.size_value(&coeff);
            let coeff = self.as_lanes(&Val::Uniform(coeff), DType::I64)?;
            for ((total, value), coeff) in total.iter_mut().zip(values).zip(coeff) {
                let term = self.b.ins().imul(value, coeff);
                *total = self.b.ins().iadd(*total, term);
            }
        }
        Ok(Val::Lanes(total))
    }

    /// The value of a size.
    pub(super) fn size_value(&mut self, size: &Size) -> Value {
        match size {
            Size::Known(value) => self.i64_const(*value),
            Size::Symbolic(dim) => self.dim(dim),
        }
    }

    /// The lane numbers 0, 1, .. as i64.
    fn iota(&mut self) -> Vec<Value> {
        let chunks = self.width() / 2;
        (0..u64::from(chunks))
            .map(|chunk| {
                let mut bytes = [0u8; 16];
                bytes[..8].copy_from_slice(&(2 * chunk).to_le_bytes());
                bytes[8..].copy_from_slice(&(2 * chunk + 1).to_le_bytes());
                self.vector_const(types::I64X2, bytes)
            })
            .collect()
    }
}
