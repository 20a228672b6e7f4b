//! Chooses one term per class, so that what the outputs need is cheap.
//!
//! In: a saturated graph and weights. Out: a [`Choice`]. Shared values count once (greedy DAG extraction, then swaps of single
//! terms as long as they pay). The cost of a term is local; the real price of a choice is asked from the cost model by the
//! caller. Ties go to terms of the original program, then to the smaller structural hash, so that class numbers decide nothing.

use super::hash::FastHasher;
use super::needs::Needs;
use super::term::{Graph, Head, Term, type_of};
use crate::cost;
use birkhoff_ir::tensor::OpKind;
use egg::Id;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};

/// What terms cost.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Weights {
    /// Of one addition.
    pub flops: f64,
    /// Of one byte read or written by an op that does not fuse.
    pub bytes: f64,
    /// Of an op that does not fuse.
    pub launches: f64,
    /// Of a term.
    pub terms: f64,
    /// By how much a term that is not of the original program is dearer.
    pub novelty: f64,
}

/// Different views of what is dear, in the order in which their choices are tried: a machine, the same one shy of changes,
/// arithmetic, memory, size of the program.
pub const WEIGHTINGS: [Weights; 5] = [
    Weights { flops: 1.0, bytes: 2.0, launches: 4e4, terms: 16.0, novelty: 1.001 },
    Weights { flops: 1.0, bytes: 2.0, launches: 4e4, terms: 16.0, novelty: 1.3 },
    Weights { flops: 1.0, bytes: 0.0, launches: 0.0, terms: 16.0, novelty: 1.001 },
    Weights { flops: 0.05, bytes: 1.0, launches: 1.0, terms: 16.0, novelty: 1.001 },
    Weights { flops: 1e-9, bytes: 1e-9, launches: 0.0, terms: 1.0, novelty: 1.001 },
];

/// The chosen term of every class that has one, by class number.
pub type Choice = BTreeMap<Id, Term>;

pub(super) struct Candidate {
    term: Term,
    pub(super) children: Vec<usize>,
    flops: f64,
    bytes: f64,
    /// True unless it is a kernel of its own.
    fuses: bool,
    /// True for terms of the original program.
    original: bool,
    /// Hash of op and attributes, independent of numbers given on the way.
    hash: u64,
}

/// The terms that may be chosen, prepared once for all weightings.
pub struct Terms {
    ids: Vec<Id>,
    pub(super) classes: Vec<Vec<Candidate>>,
    pub(super) root: usize,
}

impl Terms {
    /// The primitive terms of all classes below `root`. `original` holds the terms of the original program.
    pub fn of(graph: &Graph, root: Id, original: &HashSet<Term>) -> Terms {
        let mut ids: Vec<Id> = graph.classes().map(|class| class.id).collect();
        ids.sort_unstable();
        let place: HashMap<Id, usize> = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        let mut flops = BTreeMap::new();
        let classes = ids
            .iter()
            .map(|id| {
                let mut candidates = vec![];
                for term in graph[*id].iter() {
                    let mut term = term.clone();
                    term.args.iter_mut().for_each(|arg| *arg = graph.find(*arg));
                    if term.kind().is_some_and(OpKind::is_composite) || term.args.contains(id) {
                        continue;
                    }
                    let children = term.args.iter().map(|arg| place[arg]).collect();
                    let (work, bytes) = local_cost(graph, *id, &term, &mut flops);
                    let mut hasher = FastHasher::default();
                    match term.head {
                        Head::Op(_, op) => graph.analysis.op(op).hash(&mut hasher),
                        other => other.hash(&mut hasher),
                    }
                    let original = original.contains(&term);
                    let fuses = term.kind().is_none_or(cost::is_fused);
                    let hash = hasher.finish();
                    candidates.push(Candidate { term, children, flops: work, bytes, fuses, original, hash });
                }
                candidates
            })
            .collect();
        Terms { root: place[&graph.find(root)], ids, classes }
    }

    /// The cheapest choice under `weights` that was found; `None` if some output has no primitive term.
    pub fn choose(&self, weights: &Weights) -> Option<Choice> {
        self.cheapest(&self.costs(weights))
    }

    /// A choice that is cheapest when terms cost random amounts.
    pub fn sample(&self, seed: u64) -> Option<Choice> {
        let cost = |term: &Candidate| {
            let mut hasher = FastHasher::default();
            (seed, term.hash, &term.children).hash(&mut hasher);
            1.0 + (hasher.finish() % 1024) as f64
        };
        let cost: Vec<Vec<f64>> = self.classes.iter().map(|terms| terms.iter().map(cost).collect()).collect();
        self.cheapest(&cost)
    }

    fn cheapest(&self, cost: &[Vec<f64>]) -> Option<Choice> {
        let tree = self.by_tree(cost);
        tree[self.root]?;
        // Once from the original program: choosing class by class does not see that siblings share what they read.
        let original: Vec<Option<usize>> = (0..self.classes.len())
            .map(|class| self.classes[class].iter().position(|term| term.original).or(tree[class]))
            .collect();
        let shared = self.by_dag(cost, &tree);
        let mut best: Option<(f64, Vec<Option<usize>>)> = None;
        let starts = if shared == tree { vec![original, tree] } else { vec![original, shared, tree] };
        for mut picks in starts {
            let Some(total) = self.swap(cost, &mut picks) else { continue };
            if best.as_ref().is_none_or(|(least, _)| total < *least * (1.0 - 1e-12)) {
                best = Some((total, picks));
            }
        }
        let (_, picks) = best?;
        let order = self.order(&picks)?;
        let chosen = |class: &usize| {
            let pick = picks[*class]?;
            Some((self.ids[*class], self.classes[*class][pick].term.clone()))
        };
        order.iter().map(chosen).collect()
    }

    /// The cost of every term, nonzero, with a small bonus for original ones.
    fn costs(&self, weights: &Weights) -> Vec<Vec<f64>> {
        let cost = |term: &Candidate| {
            let novelty = if term.original { 1.0 } else { weights.novelty };
            let launch = if term.fuses { 0.0 } else { weights.launches };
            (term.flops * weights.flops + term.bytes * weights.bytes + launch + weights.terms) * novelty
        };
        self.classes.iter().map(|terms| terms.iter().map(cost).collect()).collect()
    }

    /// Bottom up, counting shared values as often as they are used.
    fn by_tree(&self, cost: &[Vec<f64>]) -> Vec<Option<usize>> {
        let n = self.classes.len();
        let mut best: Vec<Option<(f64, u64, usize)>> = vec![None; n];
        // Enough passes for any graph whose classes are nearly in order; ties may go on exchanging hashes for ever.
        for _ in 0..n.min(200) {
            let mut changed = false;
            for class in 0..n {
                for (pick, term) in self.classes[class].iter().enumerate() {
                    let mut total = cost[class][pick];
                    let mut hasher = FastHasher::default();
                    term.hash.hash(&mut hasher);
                    let mut keys: Vec<u64> = Vec::with_capacity(term.children.len());
                    let complete = term.children.iter().all(|child| match best[*child] {
                        Some((below, key, _)) => {
                            total += below;
                            keys.push(key);
                            true
                        }
                        None => false,
                    });
                    if !complete {
                        continue;
                    }
                    keys.sort_unstable();
                    keys.hash(&mut hasher);
                    let found = (total, hasher.finish(), pick);
                    if is_better(found, best[class]) {
                        best[class] = Some(found);
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        best.into_iter().map(|best| best.map(|(.., pick)| pick)).collect()
    }

    /// From the choice `start`, counting what a class needs once (greedy DAG).
    fn by_dag(&self, cost: &[Vec<f64>], start: &[Option<usize>]) -> Vec<Option<usize>> {
        let n = self.classes.len();
        let words = n.div_ceil(64);
        let mut picks = start.to_vec();
        let mut sets: Vec<Vec<u64>> = vec![vec![]; n];
        let all: Vec<usize> = (0..n).filter(|class| start[*class].is_some()).collect();
        for class in self.order_of(start, &all).unwrap_or_default() {
            let Some(pick) = start[class] else { continue };
            sets[class] = self.union(&sets, class, pick, words);
        }
        for _ in 0..3 {
            let mut changed = false;
            for class in 0..n {
                let Some(now) = picks[class] else { continue };
                let children = &self.classes[class][now].children;
                if !sets[class].is_empty() && !children.iter().any(|child| holds(&sets[*child], class)) {
                    // What lies below may have changed since.
                    sets[class] = self.union(&sets, class, now, words);
                }
                for (pick, term) in self.classes[class].iter().enumerate() {
                    if picks[class] == Some(pick) || term.children.iter().any(|child| sets[*child].is_empty())
                    {
                        continue;
                    }
                    if term.children.iter().any(|child| holds(&sets[*child], class)) {
                        continue;
                    }
                    let set = self.union(&sets, class, pick, words);
                    if sets[class].is_empty() || self.saves(cost, &picks, class, pick, (&sets[class], &set)) {
                        (picks[class], sets[class]) = (Some(pick), set);
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        picks
    }

    /// True if `class` with all it needs becomes cheaper by the term `pick`; `sets` are what it needs now and then. Only
    /// what differs is summed, so that this takes little more than the time to compare the sets.
    fn saves(
        &self,
        cost: &[Vec<f64>],
        picks: &[Option<usize>],
        class: usize,
        pick: usize,
        (now, then): (&[u64], &[u64]),
    ) -> bool {
        let own = |class: usize| picks[class].map_or(0.0, |pick| cost[class][pick]);
        let (mut lost, mut gained) = (own(class), cost[class][pick]);
        for (place, (now, then)) in now.iter().zip(then).enumerate() {
            lost += bits(now & !then).map(|bit| own(place * 64 + bit)).sum::<f64>();
            gained += bits(then & !now).map(|bit| own(place * 64 + bit)).sum::<f64>();
        }
        gained < lost * (1.0 - 1e-12)
    }

    fn union(&self, sets: &[Vec<u64>], class: usize, pick: usize, words: usize) -> Vec<u64> {
        let mut set = vec![0u64; words];
        set[class / 64] |= 1 << (class % 64);
        for child in &self.classes[class][pick].children {
            for (word, other) in set.iter_mut().zip(&sets[*child]) {
                *word |= other;
            }
        }
        set
    }

    /// Swaps single terms as long as the cost of everything that the root needs falls. Returns that cost.
    fn swap(&self, cost: &[Vec<f64>], picks: &mut [Option<usize>]) -> Option<f64> {
        let mut needs = Needs::of(self, cost, picks)?;
        for _ in 0..8 {
            let mut changed = false;
            for class in self.order(picks).unwrap_or_default() {
                for (pick, price) in cost[class].iter().enumerate() {
                    // A dearer term can only pay by making what lies below it unnecessary, never by more than it costs.
                    let tried = picks[class] != Some(pick) && *price < needs.total && needs.uses[class] > 0;
                    if tried && needs.try_swap(picks, class, pick) {
                        needs = Needs::of(self, cost, picks)?;
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        Some(needs.total)
    }

    /// Classes that the root needs, operands first; `None` if they need each other, or one has no term.
    pub(super) fn order(&self, picks: &[Option<usize>]) -> Option<Vec<usize>> {
        self.order_of(picks, &[self.root])
    }

    fn order_of(&self, picks: &[Option<usize>], roots: &[usize]) -> Option<Vec<usize>> {
        let mut state = vec![0u8; self.classes.len()];
        let mut order = vec![];
        for root in roots {
            let mut stack = vec![(*root, 0)];
            while let Some((class, next)) = stack.pop() {
                if next == 0 {
                    match state[class] {
                        2 => continue,
                        1 => return None,
                        _ => state[class] = 1,
                    }
                }
                match self.classes[class][picks[class]?].children.get(next) {
                    Some(child) => {
                        stack.push((class, next + 1));
                        if state[*child] == 1 {
                            return None;
                        }
                        if state[*child] == 0 {
                            stack.push((*child, 0));
                        }
                    }
                    None => {
                        state[class] = 2;
                        order.push(class);
                    }
                }
            }
        }
        Some(order)
    }
}

/// Cheaper by more than rounding, or as cheap with a smaller hash.
fn is_better(found: (f64, u64, usize), best: Option<(f64, u64, usize)>) -> bool {
    let Some(best) = best else { return true };
    let slack = best.0 * 1e-12;
    found.0 < best.0 - slack || (found.0 <= best.0 + slack && found.1 < best.1)
}

fn bits(word: u64) -> impl Iterator<Item = usize> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let bit = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (bit < 64).then_some(bit as usize)
    })
}

fn holds(set: &[u64], member: usize) -> bool {
    set.get(member / 64).is_some_and(|word| word >> (member % 64) & 1 == 1)
}

/// Additions, and bytes of ops that do not fuse.
fn local_cost(
    graph: &Graph,
    id: Id,
    term: &Term,
    known: &mut BTreeMap<birkhoff_ir::tensor::FuncId, f64>,
) -> (f64, f64) {
    let Head::Op(kind, op) = term.head else { return (0.0, 0.0) };
    let world = &graph.analysis;
    let op = world.op(op);
    let sizes = &world.sizes;
    let types: Vec<_> = term.args.iter().filter_map(|arg| type_of(graph, *arg)).collect();
    let mut distinct = term.args.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let args: Vec<f64> = types.iter().map(|ty| cost::elements(ty, sizes)).collect();
    let results = &graph[id].data.results;
    let result: f64 = results.iter().map(|(ty, _)| cost::elements(world.ty(*ty), sizes)).sum();
    let mut spec_size = 0.0;
    if let Some(spec) = op.einsum() {
        let mut extents: BTreeMap<char, f64> = BTreeMap::new();
        for (labels, ty) in spec.inputs.iter().zip(&types) {
            extents.extend(labels.iter().copied().zip(ty.shape.iter().map(|dim| cost::size_of(dim, sizes))));
        }
        spec_size = extents.values().product();
    }
    let flops = match (kind, op.body()) {
        (OpKind::Loop, Some(body)) => {
            let trip = op.dim(&world.module, "trip").map_or(1.0, |dim| cost::size_of(&dim, sizes));
            trip * cost::func_flops(&world.module, body, sizes, known)
        }
        _ => cost::op_flops(kind, spec_size, &args, result),
    };
    if cost::is_fused(kind) {
        return (flops, 0.0);
    }
    let read = distinct
        .iter()
        .filter_map(|arg| type_of(graph, *arg))
        .map(|ty| cost::bytes_of(ty, sizes))
        .sum::<f64>();
    let written: f64 = results.iter().map(|(ty, _)| cost::bytes_of(world.ty(*ty), sizes)).sum();
    (flops, read + written)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random classes, a few terms each, whose operands mostly have smaller numbers; some choices are cycles.
    fn random_terms(seed: u64) -> (Terms, Vec<Vec<f64>>) {
        let mut state = seed;
        let mut next = |bound: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % bound
        };
        let n = 30;
        let (mut classes, mut costs) = (vec![], vec![]);
        for class in 0..n {
            let (mut candidates, mut prices) = (vec![], vec![]);
            for pick in 0..1 + next(3) {
                let below = if pick == 0 { class } else { n };
                let n_children = if below == 0 { 0 } else { next(4) };
                let mut children: Vec<usize> = (0..n_children).map(|_| next(below)).collect();
                children.retain(|child| *child != class);
                let term = Term { head: Head::Input(0), args: vec![] };
                let (flops, bytes, fuses, original, hash) = (0.0, 0.0, true, false, 0);
                candidates.push(Candidate { term, children, flops, bytes, fuses, original, hash });
                prices.push(1.0 + next(100) as f64);
            }
            classes.push(candidates);
            costs.push(prices);
        }
        (Terms { ids: (0..n).map(Id::from).collect(), classes, root: n - 1 }, costs)
    }

    /// What [`Terms::swap`] does, said plainly: every swap is judged by the cost of the whole.
    fn plain_swap(terms: &Terms, cost: &[Vec<f64>], picks: &mut [Option<usize>]) -> Option<f64> {
        let total = |picks: &[Option<usize>]| -> Option<f64> {
            Some(terms.order(picks)?.iter().filter_map(|class| Some(cost[*class][picks[*class]?])).sum())
        };
        let mut now = total(picks)?;
        for _ in 0..8 {
            for class in terms.order(picks)? {
                for pick in 0..cost[class].len() {
                    let before = picks[class].replace(pick);
                    match total(picks) {
                        Some(then) if then < now * (1.0 - 1e-12) => now = then,
                        _ => picks[class] = before,
                    }
                }
            }
        }
        Some(now)
    }

    #[test]
    fn a_swap_is_judged_by_the_cost_of_the_whole() {
        let mut n_swapped = 0;
        for seed in 0..300 {
            let (terms, cost) = random_terms(seed);
            let start = vec![Some(0); cost.len()];
            let (mut fast, mut plain) = (start.clone(), start.clone());
            assert_eq!(terms.swap(&cost, &mut fast), plain_swap(&terms, &cost, &mut plain), "seed {seed}");
            assert_eq!(terms.order(&fast), terms.order(&plain), "seed {seed}");
            n_swapped += usize::from(fast != start);
        }
        assert!(n_swapped > 100, "{n_swapped} of 300 graphs have a swap that pays");
    }
}
