//! From affine indices to addresses.
//!
//! In: a memory, one index per axis, and what the variables are bound to. Out: a [`Place`]: a base of terms in the order of
//! the loops that bind them (so that all but the innermost are loop invariants, which LLVM hoists), a constant, and the
//! distance between lanes. Assumes verified kernels: indices in bounds, so nothing here checks.

use super::build::Ssa;
use super::emit::Emitter;
use super::value::Val;
use crate::size::{Size, flatten, split_constant};
use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::Dim;
use birkhoff_ir::dtype::DType;
use birkhoff_ir::kernel::{Index, Mem, Var};
use birkhoff_ir::scalar::Scalar;
use std::rc::Rc;

/// Where an access goes: `base of mem + sum value * size + symbolic + constant`, plus `lane * lane_stride` for each lane.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Place<'c> {
    /// The memory.
    pub(super) mem: Mem,
    /// Uniform terms, those of outer loops first.
    pub(super) terms: Vec<(Ssa<'c>, Size)>,
    /// The part of the constant that depends on run-time sizes, in bytes.
    pub(super) symbolic: Option<Dim>,
    /// The rest of the constant, in bytes.
    pub(super) constant: i64,
    /// Bytes between lanes.
    pub(super) lane_stride: Size,
    /// Indices that differ between lanes by data, as vectors, with their strides in bytes.
    pub(super) lane_terms: Vec<(Ssa<'c>, Size)>,
}

impl Place<'_> {
    /// True if all lanes access one element.
    pub(super) fn uniform(&self) -> bool {
        self.lane_stride == Size::Known(0) && self.lane_terms.is_empty()
    }
}

impl<'c> Emitter<'_, 'c> {
    /// The place that `index` names in `mem`.
    pub(super) fn place(&mut self, mem: Mem, index: &[Index]) -> Result<Place<'c>, Diagnostic> {
        let key = (index.as_ptr() as usize, mem);
        let func = self.func;
        let linear = self.linears.entry(key).or_insert_with(|| Rc::new(flatten(func, mem, index))).clone();
        let mut constant = linear.constant.clone();
        let mut terms: Vec<(u32, Var, Ssa<'c>, Size)> = vec![];
        let mut lane_stride = Size::Known(0);
        let mut lane_terms = vec![];
        for (var, step) in &linear.terms {
            if self.is_lane(*var) {
                lane_stride = step.clone();
            }
            let (val, depth) = self.lookup_index(*var)?;
            match val {
                Val::Const(value) => constant = constant.add(&step.mul(&Size::Known(value.as_i64()))),
                Val::Uniform(value) => terms.push((depth, *var, value, step.clone())),
                Val::Lanes(values) => lane_terms.push((values, step.clone())),
            }
        }
        terms.sort_by_key(|(depth, var, ..)| (*depth, *var));
        let (symbolic, constant) = split_constant(&constant);
        let terms = terms.into_iter().map(|(_, _, value, step)| (value, step)).collect();
        Ok(Place { mem, terms, symbolic, constant, lane_stride, lane_terms })
    }

    fn is_lane(&self, var: Var) -> bool {
        self.lanes.as_ref().is_some_and(|lanes| lanes.var == var)
    }

    /// What an index variable is bound to (a lane variable: to its value in the first lane), and the loop depth of that.
    fn lookup_index(&self, var: Var) -> Result<(Val<'c>, u32), Diagnostic> {
        match &self.lanes {
            Some(lanes) if lanes.var == var => Ok((lanes.base, lanes.depth)),
            _ => self.lookup(var).map(|bound| (bound.val, bound.depth)),
        }
    }

    /// The address of a place in lane 0, but for what differs by data.
    pub(super) fn address(&mut self, place: &Place<'c>) -> Result<Ssa<'c>, Diagnostic> {
        let base = Place { constant: 0, lane_stride: Size::Known(0), lane_terms: vec![], ..place.clone() };
        let base = self.base_address(base)?;
        Ok(self.offset(base, place.constant))
    }

    /// The address so many bytes further.
    pub(super) fn offset(&self, address: Ssa<'c>, bytes: i64) -> Ssa<'c> {
        if bytes == 0 { address } else { self.b.advance(address, self.i64_const(bytes)) }
    }

    fn base_address(&mut self, base: Place<'c>) -> Result<Ssa<'c>, Diagnostic> {
        if let Some(found) = self.addresses.iter().rev().find_map(|scope| scope.get(&base)) {
            return Ok(*found);
        }
        let address = match base.terms.split_last() {
            Some(((value, step), outer)) => {
                let outer = self.base_address(Place { terms: outer.to_vec(), ..base.clone() })?;
                let distance = self.scaled(*value, step);
                self.b.advance(outer, distance)
            }
            None => {
                let pointer = self.pointer(base.mem)?;
                match &base.symbolic {
                    Some(symbolic) => {
                        let distance = self.dim(symbolic);
                        self.b.advance(pointer, distance)
                    }
                    None => pointer,
                }
            }
        };
        if let Some(scope) = self.addresses.last_mut() {
            scope.insert(base, address);
        }
        Ok(address)
    }

    /// `value * step`.
    pub(super) fn scaled(&mut self, value: Ssa<'c>, step: &Size) -> Ssa<'c> {
        match step {
            Size::Known(1) => value,
            step => {
                let step = self.size_value(step);
                self.b.mul(value, step)
            }
        }
    }

    /// What the indices that differ by data add to the address of each lane.
    fn data_offsets(&mut self, place: &Place<'c>) -> Option<Ssa<'c>> {
        let width = self.width();
        let mut total = None;
        for (indices, step) in &place.lane_terms {
            let step = self.size_value(step);
            let offset = self.b.mul(*indices, self.b.splat(step, width));
            total = Some(total.map_or(offset, |total| self.b.add(total, offset)));
        }
        total
    }

    /// The addresses of the lanes of such a place, as one vector.
    pub(super) fn scattered_addresses(&mut self, place: &Place<'c>) -> Result<Ssa<'c>, Diagnostic> {
        let width = self.width();
        let base = self.address(place)?;
        let data = self.data_offsets(place);
        let stride = self.size_value(&place.lane_stride);
        let stride = self.b.mul(self.iota(), self.b.splat(stride, width));
        let offsets = data.map_or(stride, |data| self.b.add(data, stride));
        Ok(self.b.advance(base, offsets))
    }

    /// The address of each lane of a place whose lanes are neither one element nor neighbours.
    pub(super) fn lane_addresses(&mut self, place: &Place<'c>) -> Result<Vec<Ssa<'c>>, Diagnostic> {
        let width = self.width();
        let base = self.address(place)?;
        let total = self.data_offsets(place);
        let mut addresses = vec![];
        for lane in 0..width {
            let mut address = match &place.lane_stride {
                Size::Known(step) => self.offset(base, step.wrapping_mul(i64::from(lane))),
                Size::Symbolic(_) if lane == 0 => base,
                Size::Symbolic(dim) => {
                    let distance = self.dim(&dim.mul(&Dim::constant(i64::from(lane))));
                    self.b.advance(base, distance)
                }
            };
            if let Some(total) = total {
                address = self.b.advance(address, self.b.extract(total, lane));
            }
            addresses.push(address);
        }
        Ok(addresses)
    }

    /// The value of a polynomial of run-time sizes, computed once per call.
    pub(super) fn dim(&mut self, dim: &Dim) -> Ssa<'c> {
        if let Some(value) = self.dims.get(dim) {
            return *value;
        }
        let value = self.at_start(|| {
            let mut sum = self.i64_const(0);
            for (names, coeff) in dim.terms() {
                let factors = names.iter().filter_map(|name| self.sizes.get(name).copied());
                let product = factors.fold(self.i64_const(coeff), |product, next| self.b.mul(product, next));
                sum = self.b.add(sum, product);
            }
            sum
        });
        self.dims.insert(dim.clone(), value);
        value
    }

    /// The value of a size.
    pub(super) fn size_value(&mut self, size: &Size) -> Ssa<'c> {
        match size {
            Size::Known(value) => self.i64_const(*value),
            Size::Symbolic(dim) => self.dim(dim),
        }
    }

    /// The value of an index expression: i64, per lane if it depends on the lane.
    pub(super) fn index_value(&mut self, index: &Index) -> Result<Val<'c>, Diagnostic> {
        let mut constant = Size::of(&index.offset);
        let mut sum: Option<Ssa<'c>> = None;
        let mut lanes: Vec<(Ssa<'c>, Size)> = vec![];
        for (var, coeff) in &index.terms {
            let coeff = Size::of(coeff);
            if self.is_lane(*var) {
                lanes.push((self.iota(), coeff.clone()));
            }
            match self.lookup_index(*var)?.0 {
                Val::Const(value) => constant = constant.add(&coeff.mul(&Size::Known(value.as_i64()))),
                Val::Uniform(value) => {
                    let term = self.scaled(value, &coeff);
                    sum = Some(sum.map_or(term, |sum| self.b.add(sum, term)));
                }
                Val::Lanes(values) => lanes.push((values, coeff)),
            }
        }
        if let (None, true, Size::Known(value)) = (sum, lanes.is_empty(), &constant) {
            return Ok(Val::Const(Scalar::Int(*value)));
        }
        if constant != Size::Known(0) {
            let term = self.size_value(&constant);
            sum = Some(sum.map_or(term, |sum| self.b.add(sum, term)));
        }
        let total = sum.map_or(Val::Const(Scalar::Int(0)), Val::Uniform);
        if lanes.is_empty() {
            return Ok(Val::Uniform(self.as_scalar(total, DType::I64)?));
        }
        let width = self.width();
        let mut total = self.as_lanes(total, DType::I64);
        for (values, coeff) in lanes {
            let coeff = self.size_value(&coeff);
            let term = self.b.mul(values, self.b.splat(coeff, width));
            total = self.b.add(total, term);
        }
        Ok(Val::Lanes(total))
    }

    /// The lane numbers 0, 1, .. as i64.
    fn iota(&self) -> Ssa<'c> {
        let lanes: Vec<Ssa<'c>> = (0..self.width()).map(|lane| self.i64_const(i64::from(lane))).collect();
        self.b.const_vector(&lanes)
    }
}
