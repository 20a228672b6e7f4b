//! Steps around products by a library that run for some rows at a time.
//!
//! In: the steps of a plan, before its memory is planned. Out: the same steps; those between which rows pass stand together in
//! [`Step::Rows`], others behind or before them. A group grows from a product by what can be cut into the same rows
//! ([`birkhoff_ir::plan::rows`]), as long as nothing outside would have to run in the middle of it. Kernels in groups have short
//! tiles, where a block of rows can end.
//! Deliberately absent: kernels without a product among them, which share a kernel where that pays.

use birkhoff_ir::diag::Diagnostic;
use birkhoff_ir::dim::{Dim, SizeEnv};
use birkhoff_ir::kernel::{Access, Block, Func, GridAxis, Stmt};
use birkhoff_ir::plan::rows::{Touched, cut};
use birkhoff_ir::plan::{BufferId, Program, Step, for_each_launched};

/// Run-time sizes at which groups are looked for: large ones, where they matter.
const LARGE: i64 = 1024;
/// Places of a tile, at most, of a kernel in a group.
const MAX_TILE: u32 = 64;
/// Longer tiles are of elements and not of rows: a copy, which runs by itself.
const MAX_CUT_TILE: u32 = 1024;

/// Puts the steps of `program` into groups.
///
/// Errors: steps that wait for each other in a circle (our fault).
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
    for_each_launched(&mut program.steps, &mut |kernel| launched[*kernel as usize] = true);
    let place_of =
        |kernel: u32| launched[..kernel as usize].iter().filter(|is_launched| **is_launched).count();
    for_each_launched(&mut program.steps, &mut |kernel| *kernel = place_of(*kernel) as u32);
    let mut is_launched = launched.iter();
    program.kernels.retain(|_| is_launched.next().is_some_and(|is_launched| *is_launched));
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
    let mut run = Run::new(program, &steps, &fine, points);
    let mut rows_of = vec![];
    for (seed, step) in steps.iter().enumerate() {
        let Step::Contract(contract) = step else { continue };
        if run.nodes.iter().any(|node| node.len() > 1 && node.contains(&seed)) {
            continue;
        }
        let mut best: Option<(Dim, Vec<usize>)> = None;
        for rows in [&contract.m, &contract.batch, &contract.n] {
            let members = run.grow(seed, rows);
            if members.len() > best.as_ref().map_or(1, |(_, known)| known.len()) {
                best = Some((rows.clone(), members));
            }
        }
        if let Some((rows, members)) = best {
            rows_of.push((members[0], rows));
            run.merge(&members);
        }
    }
    let order = run.order()?;
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

/// The buffers of a launch or a contraction, and whether it writes them.
fn uses_of(program: &Program, step: &Step) -> Vec<(BufferId, bool)> {
    match step {
        Step::Launch { kernel, args } => {
            let params = program.kernels.get(*kernel as usize).map_or(&[][..], |func| &func.params);
            let both = args.iter().zip(params);
            both.map(|(arg, param)| (arg.buffer, param.access != Access::Read)).collect()
        }
        Step::Contract(contract) => {
            let operands = contract.operands().into_iter();
            operands.map(|operand| (operand.matrix.arg.buffer, operand.access != Access::Read)).collect()
        }
        Step::Loop { .. } | Step::Unless { .. } | Step::Rows { .. } => vec![],
    }
}

/// The kernel of a launch with tiles of at most [`MAX_TILE`] places, where they are not all of an axis; if it has longer ones that
/// can be cut.
fn with_short_tiles(program: &Program, step: &Step) -> Option<Func> {
    let Step::Launch { kernel, .. } = step else { return None };
    let func = program.kernels.get(*kernel as usize)?;
    let mut fine = func.clone();
    let is_whole =
        |axis: &GridAxis| axis.extent.as_const().is_some_and(|extent| extent <= i64::from(axis.tile));
    for axis in fine.grid.iter_mut().filter(|axis| axis.tile > MAX_TILE && !is_whole(axis)) {
        // A loop over whole tiles would not get shorter.
        if axis.tile > MAX_CUT_TILE || walks(&func.body, i64::from(axis.tile)) {
            return None;
        }
        axis.tile = MAX_TILE;
    }
    (fine != *func).then_some(fine)
}

/// Whether some loop ends at that number.
fn walks(block: &Block, end: i64) -> bool {
    block.iter().any(|stmt| match stmt {
        Stmt::For(inner) => {
            (inner.end.terms.is_empty() && inner.end.offset.is_const(end)) || walks(&inner.body, end)
        }
        Stmt::Stage(_, body) => walks(body, end),
        _ => false,
    })
}

/// The position of `func` in the plan, where it is put under a name of its own unless it is there.
fn intern(program: &mut Program, func: &Func) -> u32 {
    let known = program.kernels.iter().position(|known| known.is_same_code(func));
    let place = known.unwrap_or_else(|| {
        let name = format!("{}_rows", func.name).as_str().into();
        program.kernels.push(Func { name, ..func.clone() });
        program.kernels.len() - 1
    });
    place as u32
}

/// Steps in a row, and which of them are together by now.
struct Run<'p> {
    points: &'p [SizeEnv],
    /// What each step touches, at each of the points.
    touched: Vec<Vec<Option<Touched>>>,
    /// Steps that run together, by position, each list increasing, ordered by their first.
    nodes: Vec<Vec<usize>>,
    /// For each pair, whether the later has to wait for the earlier.
    waits: Vec<Vec<bool>>,
}

impl<'p> Run<'p> {
    /// `fine` are the kernels that launches would have in a group, where they differ.
    fn new(program: &Program, steps: &[Step], fine: &[Option<Func>], points: &'p [SizeEnv]) -> Run<'p> {
        // Whatever parts of an array they use: what is apart at some sizes may meet at others.
        let uses: Vec<Vec<(BufferId, bool)>> = steps.iter().map(|step| uses_of(program, step)).collect();
        let meets = |one: &[(BufferId, bool)], two: &[(BufferId, bool)]| {
            one.iter().any(|(id, writes)| two.iter().any(|(other, also)| id == other && (*writes || *also)))
        };
        let waits_of = |later: usize| (0..later).map(|earlier| meets(&uses[earlier], &uses[later])).collect();
        let waits = (0..steps.len()).map(waits_of).collect();
        let touch = |sizes: &SizeEnv| {
            let both = steps.iter().zip(fine);
            both.map(|(step, fine)| match (step, fine) {
                (Step::Launch { args, .. }, Some(func)) => Touched::of_kernel(func, args, sizes),
                _ => Touched::new(program, step, sizes),
            })
            .collect()
        };
        let touched = points.iter().map(touch).collect();
        let nodes = (0..steps.len()).map(|step| vec![step]).collect();
        Run { points, nodes, waits, touched }
    }

    /// The steps that can be cut into `rows` together with `seed`, which is one of them.
    fn grow(&self, seed: usize, rows: &Dim) -> Vec<usize> {
        let fits = |members: &[usize]| {
            self.points.iter().zip(&self.touched).all(|(sizes, all)| {
                let steps: Option<Vec<&Touched>> = members.iter().map(|step| all[*step].as_ref()).collect();
                let n_rows = rows.eval(sizes).ok().filter(|n_rows| *n_rows > 1);
                let cut = n_rows.zip(steps).and_then(|(n_rows, steps)| cut(&steps, n_rows)?.block(n_rows));
                cut.is_some()
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
        members
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
    ///
    /// Errors: a circle of waits (our fault).
    fn order(&self) -> Result<Vec<Vec<usize>>, Diagnostic> {
        let mut left = self.nodes.clone();
        let mut order: Vec<Vec<usize>> = vec![];
        while !left.is_empty() {
            let is_ready =
                |node: &Vec<usize>| !left.iter().any(|other| other != node && self.node_waits(node, other));
            let next = left.iter().position(is_ready);
            let next = next.ok_or_else(|| Diagnostic::verify("groups of rows wait for each other"))?;
            order.push(left.remove(next));
        }
        Ok(order)
    }
}
