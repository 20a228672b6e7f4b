//! Applies rules until nothing new comes, or a limit is met.
//!
//! Limits are iterations and terms, never time. Every iteration first finds all matches and then applies them in the order of
//! the rule table and of class numbers. A class is searched again only if something below it, as deep as the pattern goes, has
//! changed. A rule with very many matches pauses for some iterations, longer each time.

use super::facts::{Data, Facts};
use super::hash::FastHasher;
use super::pattern::{Family, Match, Pattern};
use super::rewriter::Rewriter;
use super::rules::{self, Condition, Math, Right, Rule, Theme};
use super::term::{Graph, Head, Term};
use birkhoff_ir::tensor::OpKind;
use egg::Id;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

/// How far to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Iterations.
    pub iterations: usize,
    /// Terms.
    pub terms: usize,
    /// Matches of one rule in one iteration, before it pauses.
    pub matches: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { iterations: 12, terms: 6000, matches: 400 }
    }
}

/// Why a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// No rule has anything to add.
    Saturated,
    /// [`Limits::iterations`].
    Iterations,
    /// [`Limits::terms`].
    Terms,
}

/// How a run went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// Iterations done.
    pub iterations: usize,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// How often each rule made two classes one, or found a new fact.
    pub applied: BTreeMap<&'static str, usize>,
}

/// A rule with its patterns parsed.
pub struct Compiled {
    /// Its theme.
    pub theme: Theme,
    /// The row.
    pub rule: &'static Rule,
    left: Pattern,
    right: Option<Pattern>,
    family: Family,
    depth: usize,
}

/// All rules, parsed. A row that does not parse is left out; the table's test finds it.
pub fn compiled() -> &'static [Compiled] {
    static TABLE: OnceLock<Vec<Compiled>> = OnceLock::new();
    TABLE.get_or_init(|| {
        rules::all()
            .filter_map(|(theme, rule)| {
                let left = Pattern::parse(rule.left).ok()?;
                let right = match rule.right {
                    Right::Term(text) => Some(Pattern::parse(text).ok()?),
                    _ => None,
                };
                let (family, depth) = (left.family()?, left.depth());
                Some(Compiled { theme, rule, left, right, family, depth })
            })
            .collect()
    })
}

/// What a run may use.
#[derive(Clone, Copy)]
pub struct Allowed<'a> {
    /// Classes of rules.
    pub math: Math,
    /// Themes that are switched off.
    pub without: &'a [Theme],
    /// Single rules that are switched off.
    pub without_rules: &'a [&'a str],
}

impl Allowed<'_> {
    fn allows(&self, compiled: &Compiled) -> bool {
        self.math.allows(compiled.rule.class)
            && !self.without.contains(&compiled.theme)
            && !self.without_rules.contains(&compiled.rule.name)
    }
}

#[derive(Clone, Copy, Default)]
struct Pause {
    until: usize,
    times: u32,
}

/// Saturates `graph`. The world's conflict is set if something is wrong; the run then ends early.
pub fn saturate(graph: &mut Graph, limits: &Limits, allowed: Allowed<'_>) -> Run {
    let rules: Vec<&Compiled> = compiled().iter().filter(|compiled| allowed.allows(compiled)).collect();
    let deepest = rules.iter().map(|compiled| compiled.depth).max().unwrap_or(0);
    let mut run = Run { iterations: 0, stop_reason: StopReason::Iterations, applied: BTreeMap::new() };
    let mut pauses = vec![Pause::default(); rules.len()];
    let mut missed = vec![false; rules.len()];
    let mut stamps = BTreeMap::new();
    graph.rebuild();
    while run.iterations < limits.iterations && graph.analysis.conflict.is_none() {
        let view = View::take(graph, deepest, &mut stamps);
        let mut found: Vec<(usize, Match)> = vec![];
        for (number, compiled) in rules.iter().enumerate() {
            if run.iterations < pauses[number].until {
                missed[number] = true;
                continue;
            }
            let mut matches = vec![];
            view.search(graph, compiled, missed[number], &mut matches);
            missed[number] = false;
            if matches.len() > limits.matches << pauses[number].times {
                pauses[number].until = run.iterations + (2 << pauses[number].times);
                pauses[number].times += 1;
                missed[number] = true;
                continue;
            }
            found.extend(matches.into_iter().map(|m| (number, m)));
        }
        run.iterations += 1;
        let changed = apply(graph, &rules, &found, limits.terms, &mut run);
        graph.rebuild();
        if graph.total_size() >= limits.terms {
            run.stop_reason = StopReason::Terms;
            break;
        }
        if !changed && !missed.contains(&true) {
            run.stop_reason = StopReason::Saturated;
            break;
        }
    }
    run
}

fn apply(
    graph: &mut Graph,
    rules: &[&Compiled],
    found: &[(usize, Match)],
    limit: usize,
    run: &mut Run,
) -> bool {
    let mut changed = false;
    for (number, m) in found {
        if graph.total_size() >= limit || graph.analysis.conflict.is_some() {
            break;
        }
        let compiled = rules[*number];
        let sound = graph.analysis.conflict.is_none();
        if apply_one(graph, compiled, m) {
            changed = true;
            *run.applied.entry(compiled.rule.name).or_insert(0) += 1;
        }
        if let Some(conflict) = &mut graph.analysis.conflict
            && sound
        {
            conflict.message = format!("rule {}: {}", compiled.rule.name, conflict.message);
        }
    }
    changed
}

fn apply_one(graph: &mut Graph, compiled: &Compiled, m: &Match) -> bool {
    let mut cx = Rewriter { graph };
    if let Some(Condition { holds, .. }) = compiled.rule.when
        && !holds(&cx, m)
    {
        return false;
    }
    let built = match (compiled.rule.right, &compiled.right) {
        (Right::Term(_), Some(pattern)) => cx.instantiate(pattern, m),
        (Right::Built(_, build), _) => build(&mut cx, m),
        (Right::Fact(_, note), _) => {
            let facts = note(&mut cx, m);
            return facts
                .into_iter()
                .fold(false, |changed, (id, facts)| learn(cx.graph, id, facts) || changed);
        }
        (Right::Term(_), None) => None,
    };
    let Some(right) = built else { return false };
    // A proof needs the very term that matched; the classes alone say less.
    let explained = cx.graph.are_explanations_enabled();
    let left = if explained { cx.matched(&compiled.left, m) } else { None };
    cx.union(left.unwrap_or(m.root), right, compiled.rule.name)
}

/// Adds facts to a class. True if some are new.
fn learn(graph: &mut Graph, id: Id, facts: Facts) -> bool {
    let mut data: Data = graph[id].data.clone();
    let Some((_, known)) = data.results.first_mut() else { return false };
    let before = *known;
    known.unit_sums |= facts.unit_sums;
    known.nonnegative |= facts.nonnegative;
    known.normalised |= facts.normalised;
    let is_new = *known != before;
    if is_new {
        graph.set_analysis_data(id, data);
    }
    is_new
}

/// The graph as it is at the start of an iteration.
struct View {
    /// Classes with their number of levels below which nothing changed, and their terms, by head.
    roots: BTreeMap<OpKind, Vec<(Id, usize)>>,
    gets: Vec<(Id, usize)>,
    changed_within: BTreeMap<Id, usize>,
}

impl View {
    fn take(graph: &Graph, deepest: usize, stamps: &mut BTreeMap<Id, u64>) -> View {
        let mut ids: Vec<Id> = graph.classes().map(|class| class.id).collect();
        ids.sort_unstable();
        let mut view = View { roots: BTreeMap::new(), gets: vec![], changed_within: BTreeMap::new() };
        let mut next = BTreeMap::new();
        for id in &ids {
            let class = &graph[*id];
            let mut hasher = FastHasher::default();
            class.nodes.hash(&mut hasher);
            for (_, facts) in &class.data.results {
                (facts.unit_sums, facts.nonnegative, facts.normalised, facts.uniform.is_some())
                    .hash(&mut hasher);
            }
            let stamp = hasher.finish();
            if stamps.get(id) != Some(&stamp) {
                view.changed_within.insert(*id, 0);
            }
            next.insert(*id, stamp);
            for (place, term) in class.nodes.iter().enumerate() {
                match term.head {
                    Head::Op(kind, _) => view.roots.entry(kind).or_default().push((*id, place)),
                    Head::Get(_) => view.gets.push((*id, place)),
                    _ => {}
                }
            }
        }
        *stamps = next;
        view.spread(graph, &ids, deepest);
        view
    }

    /// For every class, how far below it the nearest change is.
    fn spread(&mut self, graph: &Graph, ids: &[Id], deepest: usize) {
        for distance in 1..deepest {
            let mut reached = vec![];
            for id in ids.iter().filter(|id| !self.changed_within.contains_key(id)) {
                let below = |term: &Term| {
                    term.args.iter().any(|arg| self.changed_within.contains_key(&graph.find(*arg)))
                };
                if graph[*id].iter().any(below) {
                    reached.push(*id);
                }
            }
            self.changed_within.extend(reached.into_iter().map(|id| (id, distance)));
        }
    }

    fn search(&self, graph: &Graph, compiled: &Compiled, everywhere: bool, found: &mut Vec<Match>) {
        let mut visit = |places: &[(Id, usize)]| {
            for (id, place) in places {
                let near = self.changed_within.get(id).is_some_and(|distance| *distance <= compiled.depth);
                if everywhere || near {
                    compiled.left.matches(graph, *id, &graph[*id].nodes[*place], found);
                }
            }
        };
        match compiled.family {
            Family::Op(kind) => visit(self.roots.get(&kind).map_or(&[], Vec::as_slice)),
            Family::Get => visit(&self.gets),
            family => {
                for (kind, places) in &self.roots {
                    let head = places
                        .first()
                        .and_then(|(id, place)| graph[*id].nodes.get(*place))
                        .map(|term| term.head);
                    if head.is_some_and(|head| family.holds(head)) {
                        let _ = kind;
                        visit(places);
                    }
                }
            }
        }
    }
}
