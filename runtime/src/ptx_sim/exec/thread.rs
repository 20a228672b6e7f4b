//! One instruction of one thread: those that [`wide`](super::wide) does not do for many at once.

use super::super::address::{FIRST_BYTE, LOCAL_WINDOW, SHARED_WINDOW, in_window};
use super::super::code::{Access, Combine, Inst, Op, Program, Slot, Space, Test, TestTy, Transfer};
use super::super::num::float::{FloatTy, compare, order, testp};
use super::super::num::int::{bfi, divide, sign_extend};
use super::file::{DEFINED, Registers};
use super::traffic::{BlockMemory, Trouble};

/// What a thread is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Ready,
    AtBarrier,
    /// At an instruction of the warp.
    AtWarp,
    Exited,
}

#[derive(Clone, Debug)]
pub(super) struct Thread {
    pub(super) pc: u32,
    pub(super) state: State,
    /// The calls it is in, and where each came from.
    pub(super) calls: Vec<(u32, u32)>,
    pub(super) executed: u64,
}

impl Thread {
    pub(super) fn new() -> Thread {
        Thread { pc: 0, state: State::Ready, calls: Vec::new(), executed: 0 }
    }
}

pub(super) type Step = Result<(), Box<Trouble>>;

pub(super) fn undefined(program: &Program, slot: Slot) -> Box<Trouble> {
    let name = program.slots.get(slot as usize).map_or("", |slot| slot.name.as_str());
    Trouble::undefined(format!("reads register `{name}`, which holds nothing defined"))
}

/// Executes the instruction at which the thread stands; its guard and its sources have been looked at.
///
/// Errors: the fault; the thread stays at the instruction.
pub(super) fn step(
    inst: &Inst,
    thread: &mut Thread,
    regs: Registers<'_>,
    memory: &mut BlockMemory<'_>,
) -> Step {
    let [a, b, c, d, _] = inst.src;
    let [a, b, c, d] = [regs.get(a), regs.get(b), regs.get(c), regs.get(d)];
    match inst.op {
        Op::Bfi(ty) => regs.set(inst.dst[0], bfi(ty, a, b, c, d)),
        Op::Testp(property, ty) => regs.set(inst.dst[0], u64::from(testp(property, ty, a))),
        Op::Set(test, as_float) => {
            let holds = combined(test, holds(test, a, b), c);
            let yes = if as_float { u64::from(1.0_f32.to_bits()) } else { 0xffff_ffff };
            regs.set(inst.dst[0], if holds { yes } else { 0 });
        }
        Op::Copy => copy(regs, inst.src[0], inst.dst[0]),
        Op::Select => copy(regs, inst.src[if a != 0 { 1 } else { 2 }], inst.dst[0]),
        Op::Pack { n, bytes } => pack(inst, regs, usize::from(n), u32::from(bytes)),
        Op::Unpack { n, bytes } => unpack(inst, regs, usize::from(n), u32::from(bytes)),
        Op::Divide { ty, remainder } => {
            let value = divide(ty, remainder, a, b);
            let value = value.ok_or_else(|| Trouble::other("divides an integer by zero"))?;
            regs.set(inst.dst[0], value);
        }
        Op::Load(access) if access.space == Space::Frame => load_formal(inst, &access, regs, memory),
        Op::Store(access) if access.space == Space::Frame => {
            store_formal(inst, &access, regs, memory);
        }
        Op::Atomic(access, op) => {
            let old = memory.atomic(inst, &access, op, regs.thread, [a, b, c])?;
            regs.set(inst.dst[0], old);
        }
        Op::Cvta { space, to_space } => {
            let value = cvta(space, to_space, a)?;
            regs.set(inst.dst[0], value);
        }
        _ => return transfer(inst, thread, regs, memory),
    }
    thread.pc += 1;
    Ok(())
}

/// Instructions that do more to a thread than to go on to the next.
fn transfer(inst: &Inst, thread: &mut Thread, regs: Registers<'_>, memory: &mut BlockMemory<'_>) -> Step {
    let program = memory.machine.program;
    match inst.op {
        Op::Branch(target) => thread.pc = target,
        Op::BranchTable(table) => {
            let targets = program.tables.get(table as usize).map_or(&[][..], Vec::as_slice);
            let index = regs.get(inst.src[0]) as usize;
            let target = targets.get(index).ok_or_else(|| {
                Trouble::other(format!("branches by index {index} into a table of {}", targets.len()))
            })?;
            thread.pc = *target;
        }
        Op::Call(site) => call(program, site, thread, regs, memory)?,
        Op::Return => match thread.calls.pop() {
            None => thread.state = State::Exited,
            Some((site, pc)) => {
                let site = &program.calls[site as usize];
                carry_out(&site.copy_back, regs, memory);
                thread.pc = pc + 1;
            }
        },
        Op::Exit => thread.state = State::Exited,
        Op::Trap => return Err(Trouble::other("reaches a trap")),
        Op::Barrier { .. } => thread.state = State::AtBarrier,
        Op::Warp(_) => thread.state = State::AtWarp,
        Op::Nop => thread.pc += 1,
        // The rest is done for many threads at once.
        _ => return Err(Trouble::other("comes to an instruction that is not simulated")),
    }
    Ok(())
}

fn call(
    program: &Program,
    number: u32,
    thread: &mut Thread,
    regs: Registers<'_>,
    memory: &mut BlockMemory<'_>,
) -> Step {
    let site = &program.calls[number as usize];
    let recursive =
        thread.calls.iter().any(|(other, _)| program.calls[*other as usize].target == site.target);
    if recursive {
        return Err(Trouble::other("calls a function that it is in; recursion is not simulated"));
    }
    let (first, end) = site.callee_slots;
    for slot in first..end {
        if program.slots[slot as usize].init == super::super::code::SlotInit::Undefined {
            regs.forget(slot);
        }
    }
    carry_out(&site.copy_in, regs, memory);
    thread.calls.push((number, thread.pc));
    thread.pc = site.target;
    Ok(())
}

fn carry_out(transfers: &[Transfer], regs: Registers<'_>, memory: &mut BlockMemory<'_>) {
    for transfer in transfers {
        match *transfer {
            Transfer::Slot { from, to } => copy(regs, from, to),
            Transfer::Frame { from, to, size_bytes } => {
                memory.frames.copy(regs.thread, from, to, size_bytes);
            }
        }
    }
}

/// The offset of a parameter of a function; the verifier has checked it.
fn formal(regs: Registers<'_>, inst: &Inst, access: &Access, idx: usize) -> usize {
    let address = regs.get(inst.src[0]).wrapping_add_signed(access.offset);
    (address - FIRST_BYTE) as usize + idx * usize::from(access.bytes)
}

/// Loads parameters of functions with what is undefined in them: a vector that is passed may be defined in part.
fn load_formal(inst: &Inst, access: &Access, regs: Registers<'_>, memory: &BlockMemory<'_>) {
    let bytes = usize::from(access.bytes);
    for idx in 0..usize::from(access.n_elements) {
        let (value, defined) = memory.frames.load(regs.thread, formal(regs, inst, access, idx), bytes);
        let bits = access.signed_to.map_or(64, u32::from);
        let extends = access.signed_to.is_some();
        let value =
            if extends { sign_extend(value, 8 * bytes as u32) & (u64::MAX >> (64 - bits)) } else { value };
        let above = u16::from(DEFINED) << bytes;
        regs.put(inst.dst[idx], value, defined | (above as u8));
    }
}

fn store_formal(inst: &Inst, access: &Access, regs: Registers<'_>, memory: &mut BlockMemory<'_>) {
    let bytes = usize::from(access.bytes);
    for idx in 0..usize::from(access.n_elements) {
        let slot = inst.src[idx + 1];
        let offset = formal(regs, inst, access, idx);
        memory.frames.store(regs.thread, offset, bytes, regs.get(slot), regs.defined(slot));
    }
}

/// Copies a value with what is undefined in it: reading it is no error yet, using it is.
fn copy(regs: Registers<'_>, from: Slot, to: Slot) {
    regs.put(to, regs.get(from), regs.defined(from));
}

fn pack(inst: &Inst, regs: Registers<'_>, n: usize, bytes: u32) {
    let part = (1_u16 << bytes) - 1;
    let (mut value, mut defined) = (0, 0);
    for idx in 0..n {
        let slot = inst.src[idx];
        value |= regs.get(slot) << (8 * bytes * idx as u32);
        defined |= (u16::from(regs.defined(slot)) & part) << (bytes * idx as u32);
    }
    // Bytes above the value are as good as defined.
    let above = u16::from(DEFINED) << (bytes * n as u32);
    regs.put(inst.dst[0], value, (defined | above) as u8);
}

fn unpack(inst: &Inst, regs: Registers<'_>, n: usize, bytes: u32) {
    let (value, defined) = (regs.get(inst.src[0]), regs.defined(inst.src[0]));
    let part = (1_u16 << bytes) - 1;
    let mask = (1_u64 << (8 * bytes)) - 1;
    for idx in 0..n {
        let found = u16::from(defined >> (bytes * idx as u32)) & part;
        regs.put(inst.dst[idx], (value >> (8 * bytes * idx as u32)) & mask, (found | !part) as u8);
    }
}

#[inline(always)]
fn holds(test: Test, a: u64, b: u64) -> bool {
    let ordering = match test.ty {
        TestTy::Int(ty) if ty.is_signed => Some((ty.extend(a) as i64).cmp(&(ty.extend(b) as i64))),
        TestTy::Int(_) => Some(a.cmp(&b)),
        TestTy::Float(ty, ftz) => order(ty, ftz, a, b),
    };
    compare(test.compare, ordering)
}

#[inline(always)]
pub(super) fn combined(test: Test, holds: bool, c: u64) -> bool {
    match test.combine {
        Combine::Nothing => holds,
        Combine::And => holds & (c != 0),
        Combine::Or => holds | (c != 0),
        Combine::Xor => holds ^ (c != 0),
    }
}

/// The two results of a comparison: of a packed type one for each half, else the comparison and its inverse.
#[inline(always)]
pub(super) fn both(test: Test, a: u64, b: u64) -> (bool, bool) {
    match test.ty {
        TestTy::Float(ty @ (FloatTy::F16x2 | FloatTy::Bf16x2), ftz) => {
            let half = if ty == FloatTy::F16x2 { FloatTy::F16 } else { FloatTy::Bf16 };
            let test = Test { ty: TestTy::Float(half, ftz), ..test };
            (holds(test, a & 0xffff, b & 0xffff), holds(test, a >> 16, b >> 16))
        }
        _ => {
            let holds = holds(test, a, b);
            (holds, !holds)
        }
    }
}

fn cvta(space: Space, to_space: bool, address: u64) -> Result<u64, Box<Trouble>> {
    let window = match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        // Global and constant memory have the same addresses in the generic space. A pointer may be off its buffer for a
        // while, so the buffer is not checked; what is in another window is wrong.
        _ => {
            let elsewhere = in_window(SHARED_WINDOW, address).or(in_window(LOCAL_WINDOW, address));
            return match elsewhere {
                Some(_) if to_space => Err(wrong_space(address)),
                _ => Ok(address),
            };
        }
    };
    if to_space {
        in_window(window, address).ok_or_else(|| wrong_space(address))
    } else {
        Ok(window.wrapping_add(address))
    }
}

fn wrong_space(address: u64) -> Box<Trouble> {
    Trouble::other(format!("takes {address:#x} for an address of another space"))
}
