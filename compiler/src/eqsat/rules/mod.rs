//! The rewrite rules, as rows of theme files. How to write one: `../README.md`.

mod accumulated;
pub mod algebra;
mod batched;
pub mod contractions;
pub mod doubly_stochastic;
pub mod loops;
pub mod manifold;
pub mod movement;
pub mod reductions;
pub mod transcendental;

use super::facts::Facts;
use super::pattern::Match;
use super::rewriter::Rewriter;
use egg::Id;

/// What a rewrite may change in the numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Class {
    /// Nothing: the results have the same bits.
    Exact,
    /// Rounding: the sides are equal over the reals wherever the left one is finite.
    Reassociates,
    /// More: the sides differ where one of them saturates, or outside a stated domain, or in their derivatives.
    Approximate,
}

/// Which classes of rules may be used: `--math`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Math {
    /// Exact ones.
    Strict,
    /// And those that round differently.
    #[default]
    Default,
    /// All.
    Fast,
}

impl Math {
    /// True if rules of `class` may be used.
    pub fn allows(self, class: Class) -> bool {
        match self {
            Math::Strict => class == Class::Exact,
            Math::Default => class <= Class::Reassociates,
            Math::Fast => true,
        }
    }
}

/// A group of rules that can be switched off.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Theme {
    /// Arithmetic.
    Algebra,
    /// Broadcasts, reshapes, transposes, slices.
    Movement,
    /// Sums, maxima.
    Reductions,
    /// Contractions.
    Contractions,
    /// Loops.
    Loops,
    /// Matrices of unit sums.
    DoublyStochastic,
    /// Exponential and logarithmic maps.
    Manifold,
    /// Roots, exponentials, logarithms.
    Transcendental,
}

/// Builds the right side; `None` where the rule does not apply.
pub type Build = fn(&mut Rewriter<'_>, &Match) -> Option<Id>;

/// Finds facts about classes of a match.
pub type Note = fn(&mut Rewriter<'_>, &Match) -> Vec<(Id, Facts)>;

/// Decides whether a match counts.
pub type When = fn(&Rewriter<'_>, &Match) -> bool;

/// The right side of a rule.
#[derive(Clone, Copy, Debug)]
pub enum Right {
    /// A pattern over what the left side names.
    Term(&'static str),
    /// A function, where attributes must be computed; the text says what it builds.
    Built(&'static str, Build),
    /// No term: facts about the left side.
    Fact(&'static str, Note),
}

/// A condition and its words.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// What must hold.
    pub text: &'static str,
    /// Whether it does.
    pub holds: When,
}

/// One rewrite.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name, in kebab case.
    pub name: &'static str,
    /// The pattern to find.
    pub left: &'static str,
    /// What it equals.
    pub right: Right,
    /// When.
    pub when: Option<Condition>,
    /// What it may change.
    pub class: Class,
    /// Why it is true, and what it is good for.
    pub why: &'static str,
}

impl Rule {
    /// A rule whose right side is a pattern.
    pub const fn term(
        name: &'static str,
        left: &'static str,
        right: &'static str,
        class: Class,
        why: &'static str,
    ) -> Rule {
        Rule { name, left, right: Right::Term(right), when: None, class, why }
    }

    /// A rule whose right side is computed.
    pub const fn built(
        name: &'static str,
        left: &'static str,
        right: (&'static str, Build),
        class: Class,
        why: &'static str,
    ) -> Rule {
        Rule { name, left, right: Right::Built(right.0, right.1), when: None, class, why }
    }

    /// The same under a condition.
    pub const fn when(self, text: &'static str, holds: When) -> Rule {
        Rule { when: Some(Condition { text, holds }), ..self }
    }
}

/// Every rule, theme by theme.
pub fn all() -> impl Iterator<Item = (Theme, &'static Rule)> {
    let themes: [(Theme, &'static [Rule]); 8] = [
        (Theme::Algebra, algebra::RULES),
        (Theme::Movement, movement::RULES),
        (Theme::Reductions, reductions::RULES),
        (Theme::Contractions, contractions::RULES),
        (Theme::Loops, loops::RULES),
        (Theme::DoublyStochastic, doubly_stochastic::RULES),
        (Theme::Manifold, manifold::RULES),
        (Theme::Transcendental, transcendental::RULES),
    ];
    themes.into_iter().flat_map(|(theme, rules)| rules.iter().map(move |rule| (theme, rule)))
}
