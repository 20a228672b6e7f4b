//! The memory plan: temporaries whose lives do not overlap share a slot.
//!
//! In: a plan whose temporaries have no slots yet. Out: the same with slots, each as large as the largest temporary in it.
//! Sizes are symbolic, so no order by size: a temporary prefers a free slot that already has its size, then any free one.

use birkhoff_ir::dim::Dim;
use birkhoff_ir::plan::{BufferId, BufferKind, Program, Step};
use std::collections::{BTreeMap, BTreeSet};

/// First and last position in the order of steps at which a temporary is in use.
type Lives = BTreeMap<BufferId, (usize, usize)>;

/// Gives every temporary a slot.
pub fn assign_slots(program: &mut Program) {
    let mut lives = Lives::new();
    let mut loops = vec![];
    live_ranges(&program.steps, &mut 0, &mut lives, &mut loops);
    // What an iteration writes and others than itself read (a stack of slices) is there from the first iteration on.
    for (start, end) in loops {
        for life in lives.values_mut().filter(|life| (start..=end).contains(&life.0) && life.1 > end) {
            life.0 = start;
        }
    }
    let mut order: Vec<(BufferId, (usize, usize))> = lives.into_iter().collect();
    order.sort_by_key(|(id, (first, _))| (*first, *id));
    let mut swapped = BTreeSet::new();
    swapping(&program.steps, &mut swapped);
    let mut slots: Vec<(Vec<Dim>, usize)> = vec![];
    for (id, (first, last)) in order {
        let buffer = &program.buffers[id.0 as usize];
        if !matches!(buffer.kind, BufferKind::Temp(_)) {
            continue;
        }
        let bytes = buffer.size_bytes();
        let free = |(_, busy_until): &(Vec<Dim>, usize)| *busy_until < first;
        // Memory that swaps changes hands for good, so nobody else may count on it.
        let shares = !swapped.contains(&id);
        let same = slots.iter().position(|slot| shares && free(slot) && slot.0.contains(&bytes));
        let slot = same.or_else(|| slots.iter().position(|slot| shares && free(slot))).unwrap_or_else(|| {
            slots.push((vec![], 0));
            slots.len() - 1
        });
        slots[slot].1 = if shares { last } else { usize::MAX };
        add_size(&mut slots[slot].0, bytes);
        program.buffers[id.0 as usize].kind = BufferKind::Temp(slot as u32);
    }
    program.slots = slots.into_iter().map(|(sizes, _)| sizes).collect();
}

/// Adds a size to those of a slot; of two constants the larger is enough.
fn add_size(sizes: &mut Vec<Dim>, bytes: Dim) {
    let known = sizes.iter().position(|size| size.as_const().is_some());
    match (bytes.as_const(), known) {
        (Some(new), Some(pos)) => {
            if sizes[pos].as_const().is_some_and(|old| old < new) {
                sizes[pos] = bytes;
            }
        }
        _ if sizes.contains(&bytes) => {}
        _ => sizes.push(bytes),
    }
}

/// Numbers the steps from `clock` on and notes when each buffer is in use. What a loop uses and did not first write itself
/// lives through all of its iterations, and so do the buffers that swap. Notes the first and last position of every loop,
/// inner ones first.
fn live_ranges(steps: &[Step], clock: &mut usize, lives: &mut Lives, loops: &mut Vec<(usize, usize)>) {
    for step in steps {
        match step {
            // What runs block by block runs at once.
            Step::Launch { .. } | Step::Contract(_) | Step::Rows { .. } => {
                *clock += 1;
                let mut used = BTreeSet::new();
                buffers_of(std::slice::from_ref(step), &mut used);
                for id in used {
                    let life = lives.entry(id).or_insert((*clock, *clock));
                    life.1 = *clock;
                }
            }
            Step::Unless { flag, body } => {
                *clock += 1;
                let life = lives.entry(*flag).or_insert((*clock, *clock));
                life.1 = *clock;
                live_ranges(body, clock, lives, loops);
            }
            Step::Loop { body, swaps, .. } => {
                *clock += 1;
                let start = *clock;
                let before: BTreeSet<BufferId> = lives.keys().copied().collect();
                live_ranges(body, clock, lives, loops);
                *clock += 1;
                let end = *clock;
                loops.push((start, end));
                let mut used = BTreeSet::new();
                buffers_of(body, &mut used);
                for id in used {
                    if before.contains(&id)
                        && let Some(life) = lives.get_mut(&id)
                    {
                        life.1 = end;
                    }
                }
                for id in swaps.iter().flat_map(|(now, next)| [now, next]) {
                    let life = lives.entry(*id).or_insert((start, end));
                    *life = (life.0.min(start), end);
                }
            }
        }
    }
}

/// The buffers that exchange their memory.
fn swapping(steps: &[Step], swapped: &mut BTreeSet<BufferId>) {
    for step in steps {
        match step {
            Step::Loop { body, swaps, .. } => {
                swapped.extend(swaps.iter().flat_map(|(now, next)| [*now, *next]));
                swapping(body, swapped);
            }
            Step::Unless { body, .. } => swapping(body, swapped),
            Step::Launch { .. } | Step::Contract(_) | Step::Rows { .. } => {}
        }
    }
}

fn buffers_of(steps: &[Step], used: &mut BTreeSet<BufferId>) {
    for step in steps {
        match step {
            Step::Launch { args, .. } => used.extend(args.iter().map(|arg| arg.buffer)),
            Step::Contract(contract) => used.extend(contract.buffers()),
            Step::Rows { body, .. } => buffers_of(body, used),
            Step::Unless { flag, body } => {
                used.insert(*flag);
                buffers_of(body, used);
            }
            Step::Loop { body, swaps, .. } => {
                used.extend(swaps.iter().flat_map(|(now, next)| [*now, *next]));
                buffers_of(body, used);
            }
        }
    }
}
