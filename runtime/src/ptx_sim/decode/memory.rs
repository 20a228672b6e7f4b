//! Variables, their addresses, and the instructions that use addresses.

use super::super::address::{FIRST_BYTE, GAP_BYTES, MAX_BUFFERS, region_address};
use super::super::ast::{Extent, Operand, Source, VarSpace, Variable};
use super::super::code::{
    Access, AtomicOp, MAX_SOURCES, Op, Place, Slot, SlotInit, Space, Special, StaticArray,
};
use super::super::num::float::{Float2, FloatTy};
use super::super::num::int::Int2;
use super::super::types::Ty;
use super::Decoded;
use super::form::Form;
use super::operands::{int_ty, literal_bits};
use super::scope::{Builder, Name, Var};
use birkhoff_ir::diag::Diagnostic;

/// Shared memory of a block begins here.
pub(super) const SHARED_BASE: u64 = FIRST_BYTE;

const SPACES: [(&str, Space); 5] = [
    ("global", Space::Global),
    ("shared", Space::Shared),
    ("const", Space::Const),
    ("local", Space::Local),
    ("param", Space::Param),
];

/// Types of memory: 16-bit floats are moved as bits.
const STORED: [Ty; 14] = [
    Ty::B8,
    Ty::B16,
    Ty::B32,
    Ty::B64,
    Ty::U8,
    Ty::U16,
    Ty::U32,
    Ty::U64,
    Ty::S8,
    Ty::S16,
    Ty::S32,
    Ty::S64,
    Ty::F32,
    Ty::F64,
];

fn is_static(variable: &Variable<'_>) -> bool {
    matches!(variable.space, VarSpace::Global | VarSpace::Const)
}

/// The bytes of a variable, `None` for open extents.
pub(super) fn size_bytes(variable: &Variable<'_>) -> Option<u64> {
    match variable.extent {
        Extent::Scalar => Some(u64::from(variable.ty.bytes())),
        Extent::Array(n) => Some(n * u64::from(variable.ty.bytes())),
        Extent::Open if is_static(variable) && !variable.init.is_empty() => {
            Some(variable.init.len() as u64 * u64::from(variable.ty.bytes()))
        }
        Extent::Open => None,
    }
}

/// The module's arrays in global and constant memory, in the order of their declarations.
pub(super) fn statics(source: &Source<'_>, errors: &mut Vec<Diagnostic>) -> Vec<StaticArray> {
    let mut arrays = Vec::new();
    for variable in source.variables.iter().filter(|variable| is_static(variable)) {
        match static_array(variable) {
            Ok(array) => arrays.push(array),
            Err(error) => errors.push(error),
        }
    }
    arrays
}

fn static_array(variable: &Variable<'_>) -> Decoded<StaticArray> {
    let size = size_bytes(variable).unwrap_or(0);
    let mut bytes = Vec::new();
    for literal in &variable.init {
        let bits = literal_bits(variable.at, *literal, variable.ty)?;
        bytes.extend_from_slice(&bits.to_le_bytes()[..variable.ty.bytes() as usize]);
    }
    if bytes.len() as u64 > size {
        return Err(variable.at.error(format!("`{}` has more initial values than elements", variable.name)));
    }
    bytes.resize(size as usize, 0);
    let is_const = variable.space == VarSpace::Const;
    Ok(StaticArray { name: variable.name.to_string(), bytes, is_const })
}

impl<'a, 's> Builder<'a, 's> {
    /// The variable `idx` of the module, as this program sees it.
    pub(super) fn module_variable(&mut self, idx: usize) -> Decoded<Var> {
        let source = self.source;
        let variable = &source.variables[idx];
        if !is_static(variable) {
            return self.shared_variable(variable);
        }
        let Some(size) = size_bytes(variable).filter(|_| !variable.external) else {
            let message = format!("`{}` is external, and nothing here defines it", variable.name);
            return Err(variable.at.error(message));
        };
        let number = source.variables[..idx].iter().filter(|other| is_static(other)).count();
        let address = region_address(MAX_BUFFERS + number);
        let slot = self.constant(address);
        let space = if variable.space == VarSpace::Const { Space::Const } else { Space::Global };
        Ok(Var { space, slot, address, size_bytes: Some(size) })
    }

    fn shared_variable(&mut self, variable: &Variable<'a>) -> Decoded<Var> {
        let Some(size) = size_bytes(variable) else {
            if !variable.external {
                return Err(variable
                    .at
                    .error(format!("`{}` has no extent and is not .extern", variable.name)));
            }
            self.has_open_shared = true;
            let slot = self.known(SlotInit::Special(Special::DynamicSharedBase));
            return Ok(Var { space: Space::Shared, slot, address: 0, size_bytes: None });
        };
        let address = self.program.dynamic_shared_base.next_multiple_of(variable.align);
        self.program.dynamic_shared_base = address + size + GAP_BYTES;
        self.program.shared_declared_bytes =
            self.program.shared_declared_bytes.next_multiple_of(variable.align) + size;
        let name = variable.name.to_string();
        self.program.shared.push(Place { name, address, size_bytes: size });
        let slot = self.constant(address);
        Ok(Var { space: Space::Shared, slot, address, size_bytes: Some(size) })
    }

    pub(super) fn declare_shared(&mut self, variable: &Variable<'a>) -> Decoded<()> {
        let var = self.shared_variable(variable)?;
        self.declare(variable.at, variable.name, Name::Var(var))
    }

    /// A `.local` array or a `.param` of a call: memory of the thread.
    pub(super) fn declare_private(&mut self, variable: &Variable<'a>) -> Decoded<()> {
        let var = self.private_variable(variable)?;
        self.declare(variable.at, variable.name, Name::Var(var))
    }

    pub(super) fn private_variable(&mut self, variable: &Variable<'a>) -> Decoded<Var> {
        let Some(size) = size_bytes(variable) else {
            return Err(variable.at.error(format!("`{}` needs an extent", variable.name)));
        };
        let address = self.program.private_bytes.max(FIRST_BYTE).next_multiple_of(variable.align);
        self.program.private_bytes = address + size + GAP_BYTES;
        let name = variable.name.to_string();
        self.program.private.push(Place { name, address, size_bytes: size });
        let slot = self.constant(address);
        let space = if variable.space == VarSpace::Param { Space::Frame } else { Space::Local };
        Ok(Var { space, slot, address, size_bytes: Some(size) })
    }

    /// The slot of an address, its offset, and the space that a named variable has.
    fn address(&mut self, form: &Form<'a, 's>, operand: &Operand<'a>, access: &mut Access) -> Decoded<Slot> {
        let Operand::Address(base, offset) = operand else {
            return Err(form.error("expected an address in brackets"));
        };
        access.offset = *offset;
        let Some(name) = base else {
            return Ok(self.constant(0));
        };
        match self.find(form.inst.at, name)? {
            Name::Reg { slot, ty } => {
                let windowed = matches!(access.space, Space::Shared | Space::Local | Space::Const);
                let fits = !ty.is_float() && (ty.bits() == 64 || (ty.bits() == 32 && windowed));
                if !fits || access.space == Space::Param {
                    let found = ty.name();
                    return Err(form.error(format!("`{name}` of type .{found} is no address of this space")));
                }
                Ok(slot)
            }
            Name::Var(var) => {
                let same =
                    var.space == access.space || (var.space == Space::Frame && access.space == Space::Param);
                if !same {
                    return Err(form.error(format!("`{name}` is not in the state space of this access")));
                }
                access.space = var.space;
                let end = offset.checked_add(access.total_bytes() as i64).filter(|_| *offset >= 0);
                let inside = |size: u64| end.is_some_and(|end| end as u64 <= size);
                if !var.size_bytes.is_none_or(inside) {
                    return Err(
                        form.error(format!("`{name}` has no {} bytes at +{offset}", access.total_bytes()))
                    );
                }
                Ok(var.slot)
            }
        }
    }

    fn note_granule(&mut self, access: &Access) {
        let bytes = u32::from(access.bytes);
        if matches!(access.space, Space::Generic | Space::Global | Space::Const) {
            self.program.global_granule = self.program.global_granule.min(bytes);
        }
        if matches!(access.space, Space::Generic | Space::Shared) {
            self.program.shared_granule = self.program.shared_granule.min(bytes);
        }
    }

    pub(super) fn load_or_store(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let is_store = form.inst.opcode == "st";
        let is_uniform = form.inst.opcode == "ldu";
        form.one_of(&[("weak", ()), ("volatile", ())]);
        let space = form.one_of(&SPACES).unwrap_or(Space::Generic);
        let operators: &[&str] =
            if is_store { &["wb", "cg", "cs", "wt"] } else { &["ca", "cg", "cs", "lu", "cv"] };
        form.skip_hints(operators);
        let read_only = !is_store && space == Space::Global && (form.flag("nc") || is_uniform);
        form.skip_hints(operators);
        let n_elements = form.one_of(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
        let ty = form.ty(&STORED)?;
        if is_store && space == Space::Const {
            return Err(form.error("constant memory cannot be stored to"));
        }
        let mut access =
            Access { space, bytes: ty.bytes() as u8, n_elements, signed_to: None, read_only, offset: 0 };
        if access.total_bytes() > 16 {
            return Err(form.error(format!("`{}` moves more than 16 bytes", form.full_name())));
        }
        let [first, second] = form.operands()?;
        let (address, value) = if is_store { (first, second) } else { (second, first) };
        let values: Vec<&Operand<'a>> = match (value, n_elements) {
            (Operand::Vector(parts), n) if parts.len() == usize::from(n) && n > 1 => parts.iter().collect(),
            (Operand::Vector(_), _) => {
                return Err(form.error(format!("`{}` has {n_elements} elements", form.full_name())));
            }
            (_, 1) => vec![value],
            _ => return Err(form.error("expected a vector in braces")),
        };
        let address = self.address(form, address, &mut access)?;
        self.note_granule(&access);
        if is_store {
            if access.space == Space::Param {
                return Err(form.error("parameters of an entry cannot be stored to"));
            }
            let mut src = vec![address];
            for value in values {
                src.push(self.src_wider(form, value, ty)?);
            }
            debug_assert!(src.len() <= MAX_SOURCES);
            return self.push(form, Op::Store(access), &[], &src);
        }
        let mut dst = Vec::new();
        for value in values {
            let (slot, bits) = self.dst_wider(form, value, ty)?;
            let extends = ty.is_signed() && bits > ty.bits();
            access.signed_to = if extends { Some(bits as u8) } else { access.signed_to };
            dst.push(slot);
        }
        self.push(form, Op::Load(access), &dst, &[address])
    }

    /// `atom` and `red`.
    pub(super) fn atomic(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let is_red = form.inst.opcode == "red";
        form.one_of(&[("relaxed", ()), ("acquire", ()), ("release", ()), ("acq_rel", ())]);
        form.one_of(&[("cta", ()), ("cluster", ()), ("gpu", ()), ("sys", ())]);
        let space =
            form.one_of(&[("global", Space::Global), ("shared", Space::Shared)]).unwrap_or(Space::Generic);
        let name = form.must(&ATOMIC_NAMES)?;
        if is_red && matches!(name, "exch" | "cas") {
            return Err(form.error(format!("red has no .{name}")));
        }
        let ty = form.ty(atomic_types(name))?;
        let op = atomic_op(name, ty);
        let mut access = Access {
            space,
            bytes: ty.bytes() as u8,
            n_elements: 1,
            signed_to: None,
            read_only: false,
            offset: 0,
        };
        let n_values = if name == "cas" { 2 } else { 1 };
        let operands = form.inst.operands.as_slice();
        if form.n_operands() != n_values + 1 + usize::from(!is_red) {
            return Err(form.error(format!("`{}` has another number of operands", form.full_name())));
        }
        let (dst, rest) = match operands.split_first() {
            Some((d, rest)) if !is_red => (vec![self.dst(form, d, ty)?], rest),
            _ => (Vec::new(), operands),
        };
        let mut src = Vec::new();
        for (idx, operand) in rest.iter().enumerate() {
            let slot = if idx == 0 {
                self.address(form, operand, &mut access)?
            } else {
                self.src(form, operand, ty)?
            };
            src.push(slot);
        }
        self.note_granule(&access);
        self.program.has_global_atomics |= access.space != Space::Shared;
        self.push(form, Op::Atomic(access, op), &dst, &src)
    }

    pub(super) fn cvta(&mut self, form: &mut Form<'a, 's>) -> Decoded<()> {
        let to_space = form.flag("to");
        let space = form.must(&SPACES)?;
        let ty = form.ty(&[Ty::U64])?;
        let (dst, src) = self.unary(form, [ty; 2])?;
        self.push(form, Op::Cvta { space, to_space }, &dst, &src)
    }
}

const ATOMIC_NAMES: [(&str, &str); 10] = [
    ("add", "add"),
    ("min", "min"),
    ("max", "max"),
    ("and", "and"),
    ("or", "or"),
    ("xor", "xor"),
    ("exch", "exch"),
    ("cas", "cas"),
    ("inc", "inc"),
    ("dec", "dec"),
];

fn atomic_types(name: &str) -> &'static [Ty] {
    match name {
        "add" => &[Ty::U32, Ty::S32, Ty::U64, Ty::F32, Ty::F64],
        "min" | "max" => &[Ty::U32, Ty::S32, Ty::U64, Ty::S64],
        "inc" | "dec" => &[Ty::U32],
        _ => &[Ty::B32, Ty::B64],
    }
}

fn atomic_op(name: &str, ty: Ty) -> AtomicOp {
    let int = |op: Int2| AtomicOp::Int(op, int_ty(ty));
    match (name, ty) {
        ("add", Ty::F32) => AtomicOp::Float(Float2::Add, FloatTy::F32),
        ("add", Ty::F64) => AtomicOp::Float(Float2::Add, FloatTy::F64),
        ("add", _) => int(Int2::Add),
        ("min", _) => int(Int2::Min),
        ("max", _) => int(Int2::Max),
        ("and", _) => int(Int2::And),
        ("or", _) => int(Int2::Or),
        ("xor", _) => int(Int2::Xor),
        ("exch", _) => AtomicOp::Exchange,
        ("cas", _) => AtomicOp::CompareAndSwap,
        ("inc", _) => AtomicOp::Increment,
        _ => AtomicOp::Decrement,
    }
}
