//! A plan that is right within a range, and the one that is right everywhere, as one plan.
//!
//! In: two plans of one function, the first with a further output that says whether its other outputs hold. Out: a plan that
//! runs the first, and then the second unless they do. Kernels that both have are there once; slots are shared where nothing
//! swaps. Deliberately absent: whether the first is worth it.

use super::{Arg, Buffer, BufferId, BufferKind, Program, Step};
use crate::diag::Diagnostic;
use crate::dim::Sym;
use crate::dtype::DType;
use std::collections::BTreeSet;

/// `fast`, and `otherwise` where the last output of `fast` is false.
///
/// Errors: plans of different functions (our fault).
pub fn guarded(fast: Program, otherwise: Program) -> Result<Program, Diagnostic> {
    let fault = |message: &str| Diagnostic::verify(format!("plan @{}: {message}", otherwise.name));
    let callers =
        |program: &Program| program.buffers_where(|kind| !matches!(kind, BufferKind::Temp(_))).len();
    let n_callers = callers(&otherwise);
    if callers(&fast) != n_callers + 1 {
        return Err(fault("the plan within a range has one more output"));
    }
    let is_same = |(one, other): (&Buffer, &Buffer)| {
        one.dtype == other.dtype && one.shape == other.shape && one.kind == other.kind
    };
    let flag = &fast.buffers[n_callers];
    let is_flag = flag.dtype == DType::Bool && flag.shape.is_empty() && flag.kind == BufferKind::Output;
    if !is_flag || !otherwise.buffers[..n_callers].iter().zip(&fast.buffers).all(is_same) {
        return Err(fault("the plan within a range has other arrays"));
    }
    let mut joint = Program {
        name: otherwise.name.clone(),
        sizes: otherwise.sizes.clone(),
        buffers: otherwise.buffers[..n_callers].to_vec(),
        slots: fast.slots.clone(),
        kernels: vec![],
        steps: vec![],
    };
    for size in &fast.sizes {
        if !joint.sizes.iter().any(|known| known.name == size.name) {
            joint.sizes.push(size.clone());
        }
    }
    // The truth value lives as long as anything, so its slot is its own.
    let flag_slot = joint.slots.len() as u32;
    joint.slots.push(vec![flag.size_bytes()]);
    joint.add(Buffer { kind: BufferKind::Temp(flag_slot), ..flag.clone() });
    let of_fast: Vec<u32> = (0..fast.slots.len() as u32).collect();
    let shared = shared_slots(&fast);
    let mut steps = joint.take(&fast, n_callers + 1, &of_fast);
    let own = shared_slots(&otherwise);
    let mut free = shared.into_iter();
    let mut of_otherwise = vec![];
    for (slot, sizes) in otherwise.slots.iter().enumerate() {
        let place = own.contains(&(slot as u32)).then(|| free.next()).flatten();
        of_otherwise.push(match place {
            Some(place) => {
                let known = &mut joint.slots[place as usize];
                known.extend(sizes.iter().filter(|size| !fast.slots[place as usize].contains(size)).cloned());
                place
            }
            None => {
                joint.slots.push(sizes.clone());
                joint.slots.len() as u32 - 1
            }
        });
    }
    let body = joint.take(&otherwise, n_callers, &of_otherwise);
    steps.push(Step::Unless { flag: BufferId(n_callers as u32), body });
    joint.steps = steps;
    Ok(joint)
}

/// Slots whose temporaries swap with nobody.
fn shared_slots(program: &Program) -> BTreeSet<u32> {
    fn visit(program: &Program, steps: &[Step], own: &mut BTreeSet<u32>) {
        for step in steps {
            match step {
                Step::Loop { body, swaps, .. } => {
                    for id in swaps.iter().flat_map(|(a, b)| [a, b]) {
                        if let Some(BufferKind::Temp(slot)) = program.buffer(*id).map(|buffer| buffer.kind) {
                            own.insert(slot);
                        }
                    }
                    visit(program, body, own);
                }
                Step::Unless { body, .. } | Step::Rows { body, .. } => visit(program, body, own),
                Step::Launch { .. } | Step::Contract(_) => {}
            }
        }
    }
    let mut swapping = BTreeSet::new();
    visit(program, &program.steps, &mut swapping);
    (0..program.slots.len() as u32).filter(|slot| !swapping.contains(slot)).collect()
}

impl Program {
    /// Adds a buffer under a name of its own.
    fn add(&mut self, buffer: Buffer) -> BufferId {
        let name = free_name(&buffer.name, |name| self.buffers.iter().any(|known| known.name == *name));
        self.buffers.push(Buffer { name, ..buffer });
        BufferId(self.buffers.len() as u32 - 1)
    }

    /// Adds the temporaries and kernels of `other`, whose first buffers are those of this plan; returns its steps.
    fn take(&mut self, other: &Program, n_callers: usize, slots: &[u32]) -> Vec<Step> {
        let mut buffers: Vec<BufferId> = (0..n_callers as u32).map(BufferId).collect();
        for buffer in &other.buffers[n_callers..] {
            let kind = match buffer.kind {
                BufferKind::Temp(slot) => BufferKind::Temp(slots[slot as usize]),
                kind => kind,
            };
            buffers.push(self.add(Buffer { kind, ..buffer.clone() }));
        }
        let mut kernels = vec![];
        for kernel in &other.kernels {
            let same = self.kernels.iter().position(|known| known.is_same_code(kernel));
            kernels.push(same.unwrap_or_else(|| {
                let taken = |name: &Sym| self.kernels.iter().any(|known| known.name == *name);
                let name = free_name(&kernel.name, taken);
                self.kernels.push(crate::kernel::Func { name, ..kernel.clone() });
                self.kernels.len() - 1
            }) as u32);
        }
        renamed(&other.steps, &buffers, &kernels)
    }
}

fn free_name(name: &Sym, taken: impl Fn(&Sym) -> bool) -> Sym {
    let mut free = name.clone();
    let mut number = 1;
    while taken(&free) {
        free = Sym::from(format!("{name}_or_{number}").as_str());
        number += 1;
    }
    free
}

fn renamed(steps: &[Step], buffers: &[BufferId], kernels: &[u32]) -> Vec<Step> {
    let id = |id: &BufferId| buffers[id.0 as usize];
    let arg = |arg: &Arg| Arg { buffer: id(&arg.buffer), offset: arg.offset.clone() };
    let step = |step: &Step| match step {
        Step::Launch { kernel, args } => {
            Step::Launch { kernel: kernels[*kernel as usize], args: args.iter().map(arg).collect() }
        }
        Step::Contract(contract) => {
            let mut contract = contract.clone();
            for matrix in [&mut contract.a, &mut contract.b, &mut contract.c] {
                matrix.arg = arg(&matrix.arg);
            }
            Step::Contract(contract)
        }
        Step::Loop { var, trip, body, swaps } => Step::Loop {
            var: var.clone(),
            trip: trip.clone(),
            body: renamed(body, buffers, kernels),
            swaps: swaps.iter().map(|(a, b)| (id(a), id(b))).collect(),
        },
        Step::Rows { rows, body } => Step::Rows { rows: rows.clone(), body: renamed(body, buffers, kernels) },
        Step::Unless { flag, body } => Step::Unless { flag: id(flag), body: renamed(body, buffers, kernels) },
    };
    steps.iter().map(step).collect()
}
