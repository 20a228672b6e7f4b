//! Steps around products by a library that run for some rows at a time.
//!
//! In: the steps of a plan, before its memory is planned. Out: the same steps; those between which rows pass stand together in
//! [`Step::Rows`], others behind or before them. A group grows from a product by what can be cut into the same rows
//! ([`birkhoff_ir::plan::rows`]), as long as nothing outside would have to run in the middle of it. Kernels in groups have short
//! tiles, where a block of rows can end.
//! Deliberately absent: kernels without a product among them, which share a kernel where that pays.

use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::{Dim, SizeEnv};
use birkhoff_ir::kernel::{Func, GridAxis};
use birkhoff_ir::plan::rows::{Touched, cut};
use birkhoff_ir::plan::{Program, Step};

/// Run-time sizes at which groups are looked for: large ones, where they matter.
const LARGE: i64 = 1024;
/// Places of a tile, at most, of a kernel in a group.
const MAX_TILE: u32 = 64;

/// Puts the steps of `program` into groups.
///
/// Errors: a step without meaning at the sizes that are tried (our fault).
pub fn group_rows(program: &mut Program) -> Result<(), Diagnostic> {
    if program.contracts().is_empty() {
        return Ok(());
    }
    let points = [LARGE, 2 * LARGE].map(|large| {
        let size = |decl: &birkhoff_ir::plan::SizeDecl| {
            let (lo, hi) = decl.bounds;
            let value = decl.default.unwrap_or(lo).saturating_mul(large / LARGE).max(large).clamp(lo, hi);
            (decl.name.clone(), value)
        };
        program.sizes.iter().map(size).collect::<SizeEnv>()
    });
    let steps = std::mem::take(&mut program.steps);
    program.steps = grouped(program, steps, &points)?;
    drop_idle_kernels(program);
    Ok(())
}

/// Leaves out kernels that nothing launches any more.
fn drop_idle_kernels(program: &mut Program) {
    let mut launched = vec![false; program.kernels.len()];
    for_each_kernel(&mut program.steps, &mut |kernel| launched[*kernel as usize] = true);
    let place_of =
        |kernel: u32| launched[..kernel as usize].iter().filter(|is_launched| **is_launched).count();
    for_each_kernel(&mut program.steps, &mut |kernel| *kernel = place_of(*kernel) as u32);
    let mut is_launched = launched.iter();
    program.kernels.retain(|_| is_launched.next().is_some_and(|is_launched| *is_launched));
}

fn for_each_kernel(steps: &mut [Step], visit: &mut dyn FnMut(&mut u32)) {
    for step in steps {
        match step {
            Step::Launch { kernel, .. } => visit(kernel),
            Step::Contract(_) => {}
            Step::Loop { body, .. } | Step::Unless { body, .. } | Step::Rows { body, .. } => {
                for_each_kernel(body, visit)
            }
        }
    }
}

fn grouped(program: &mut Program, steps: Vec<Step>, points: &[SizeEnv]) -> Result<Vec<Step>, Diagnostic> {
    let mut done = vec![];
    let mut run = vec![];
    for step in steps {
        match step {
            Step::Launch { .. } | Step::Contract(_) => run.push(step),
            Step::Loop { var, trip, body, swaps } => {
                done.extend(group_run(program, std::mem::take(&mut run), points)?);
                done.push(Step::Loop { var, trip, body: grouped(program, body, points)?, swaps });
            }
            Step::Unless { flag, body } => {
                done.extend(group_run(program, std::mem::take(&mut run), points)?);
                done.push(Step::Unless { flag, body: grouped(program, body, points)? });
            }
            Step::Rows { .. } => {
                done.extend(group_run(program, std::mem::take(&mut run), points)?);
                done.push(step);
            }
        }
    }
    done.extend(group_run(program, run, points)?);
    Ok(done)
}

/// Groups of launches and contractions that follow each other.
fn group_run(program: &mut Program, steps: Vec<Step>, points: &[SizeEnv]) -> Result<Vec<Step>, Diagnostic> {
    let fine: Vec<Option<Func>> = steps.iter().map(|step| with_short_tiles(program, step)).collect();
    let mut run = Run::new(program, &steps, &fine, points)?;
    let mut rows_of = vec![];
    for (seed, step) in steps.iter().enumerate() {
        let Step::Contract(contract) = step else { continue };
        if run.nodes.iter().any(|node| node.len() > 1 && node.contains(&seed)) {
            continue;
        }
        let mut best: Option<(Dim, Vec<usize>)> = None;
        for rows in [&contract.m, &contract.batch, &contract.n] {
            let members = run.grow(seed, rows)?;
            if members.len() > best.as_ref().map_or(1, |(_, known)| known.len()) {
                best = Some((rows.clone(), members));
            }
        }
        if let Some((rows, members)) = best {
            rows_of.push((members[0], rows));
            run.merge(&members);
        }
    }
    let order = run.order();
    let mut done = vec![];
    let mut steps: Vec<Option<Step>> = steps.into_iter().map(Some).collect();
    for node in order {
        let rows = rows_of.iter().find(|(first, _)| *first == node[0]).map(|(_, rows)| rows.clone());
        let Some(rows) = rows else {
            done.extend(node.iter().filter_map(|member| steps[*member].take()));
            continue;
        };
        let mut body = vec![];
        for member in &node {
            body.extend(steps[*member].take().map(|step| match (step, &fine[*member]) {
                (Step::Launch { args, .. }, Some(func)) => {
                    Step::Launch { kernel: intern(program, func), args }
                }
                (step, _) => step,
            }));
        }
        done.push(Step::Rows { rows, body });
    }
    Ok(done)
}

/// The kernel of a launch with tiles of at most [`MAX_TILE`] places, where they are not all of an axis; if it has longer ones.
fn with_short_tiles(program: &Program, step: &Step) -> Option<Func> {
    let Step::Launch { kernel, .. } = step else { return None };
    let func = program.kernels.get(*kernel as usize)?;
    let mut fine = func.clone();
    let is_whole =
        |axis: &GridAxis| axis.extent.as_const().is_some_and(|extent| extent <= i64::from(axis.tile));
    let cut = fine.grid.iter_mut().filter(|axis| !is_whole(axis));
    cut.for_each(|axis| axis.tile = axis.tile.min(MAX_TILE));
    (fine != *func).then_some(fine)
}

/// The position of `func` in the plan, where it is put under a name of its own unless it is there.
fn intern(program: &mut Program, func: &Func) -> u32 {
    let is_same = |known: &Func| Func { name: func.name.clone(), ..known.clone() } == *func;
    let place = program.kernels.iter().position(is_same).unwrap_or_else(|| {
        let name = format!("{}_rows", func.name).as_str().into();
        program.kernels.push(Func { name, ..func.clone() });
        program.kernels.len() - 1
    });
    place as u32
}

/// Steps in a row, and which of them are together by now.
struct Run<'p> {
    program: &'p Program,
    steps: &'p [Step],
    /// Kernels that launches would have in a group, where they differ.
    fine: &'p [Option<Func>],
    points: &'p [SizeEnv],
    /// Steps that run together, by position, each list increasing, ordered by their first.
    nodes: Vec<Vec<usize>>,
    /// For each pair, whether the later has to wait for the earlier.
    waits: Vec<Vec<bool>>,
}

impl<'p> Run<'p> {
    fn new(
        program: &'p Program,
        steps: &'p [Step],
        fine: &'p [Option<Func>],
        points: &'p [SizeEnv],
    ) -> Result<Run<'p>, Diagnostic> {
        let mut waits = vec![vec![false; steps.len()]; steps.len()];
        for sizes in points {
            let touched: Option<Vec<Touched>> =
                steps.iter().map(|step| Touched::new(program, step, 1, sizes)).collect::<Result<_, _>>()?;
            for (later, two) in touched.iter().flatten().enumerate() {
                for (earlier, one) in touched.iter().flatten().take(later).enumerate() {
                    waits[later][earlier] |= one.meets(two);
                }
            }
        }
        let nodes = (0..steps.len()).map(|step| vec![step]).collect();
        Ok(Run { program, steps, fine, points, nodes, waits })
    }

    /// The steps that can be cut into `rows` together with `seed`, which is one of them.
    fn grow(&self, seed: usize, rows: &Dim) -> Result<Vec<usize>, Diagnostic> {
        let mut touched: Vec<(i64, Vec<Option<Touched>>)> = vec![];
        for sizes in self.points {
            let Ok(n_rows) = rows.eval(sizes) else { return Ok(vec![seed]) };
            if n_rows <= 1 {
                return Ok(vec![seed]);
            }
            let all = self.steps.iter().zip(self.fine).map(|(step, fine)| match (step, fine) {
                (Step::Launch { args, .. }, Some(func)) => {
                    Touched::of_kernel(func, args, n_rows, sizes).map(Some)
                }
                _ => Touched::new(self.program, step, n_rows, sizes),
            });
            touched.push((n_rows, all.collect::<Result<_, _>>()?));
        }
        let fits = |members: &[usize]| {
            touched.iter().all(|(n_rows, all)| {
                let steps: Option<Vec<&Touched>> = members.iter().map(|step| all[*step].as_ref()).collect();
                let cut = steps.and_then(|steps| cut(&steps));
                cut.is_some_and(|rows| rows.block(*n_rows).is_some())
            })
        };
        let mut members = vec![seed];
        let mut grew = true;
        while grew {
            grew = false;
            for node in self.nodes.iter().filter(|node| node.len() == 1) {
                let step = node[0];
                let is_near = |member: &usize| {
                    let (earlier, later) = (step.min(*member), step.max(*member));
                    self.waits[later][earlier]
                };
                if members.contains(&step) || !members.iter().any(is_near) {
                    continue;
                }
                let mut more = members.clone();
                more.insert(more.partition_point(|member| *member < step), step);
                if !self.is_split(&more) && fits(&more) {
                    members = more;
                    grew = true;
                }
            }
        }
        Ok(members)
    }

    /// Whether one node waits for another.
    fn node_waits(&self, later: &[usize], earlier: &[usize]) -> bool {
        later.iter().any(|two| earlier.iter().any(|one| one < two && self.waits[*two][*one]))
    }

    /// True if something else would have to run between two of `members`.
    fn is_split(&self, members: &[usize]) -> bool {
        let outside: Vec<&Vec<usize>> =
            self.nodes.iter().filter(|node| !node.iter().any(|step| members.contains(step))).collect();
        // What waits for a member, directly or not.
        let mut behind = vec![false; outside.len()];
        let mut grew = true;
        while grew {
            grew = false;
            for place in 0..outside.len() {
                let waits = |earlier: &[usize]| self.node_waits(outside[place], earlier);
                let chained = || (0..outside.len()).any(|other| behind[other] && waits(outside[other]));
                if !behind[place] && (waits(members) || chained()) {
                    behind[place] = true;
                    grew = true;
                }
            }
        }
        outside.iter().zip(&behind).any(|(node, behind)| *behind && self.node_waits(members, node))
    }

    /// Makes one node of `members`.
    fn merge(&mut self, members: &[usize]) {
        self.nodes.retain(|node| !members.contains(&node[0]));
        let place = self.nodes.partition_point(|node| node[0] < members[0]);
        self.nodes.insert(place, members.to_vec());
    }

    /// The nodes such that none stands before what it waits for; else in the order of their first steps.
    fn order(&self) -> Vec<Vec<usize>> {
        let mut left = self.nodes.clone();
        let mut order: Vec<Vec<usize>> = vec![];
        while !left.is_empty() {
            let is_ready =
                |node: &Vec<usize>| !left.iter().any(|other| other != node && self.node_waits(node, other));
            // Groups are never split, so something is ready.
            let next = left.iter().position(is_ready).unwrap_or(0);
            order.push(left.remove(next));
        }
        order
    }
}
