//! The left sides of rules: patterns as text, and the search for them in the e-graph.
//!
//! A pattern is `?v` (any value; the same letter means the same class), a number (a value all of whose elements are it), or
//! `(head@b pattern..)`. A head is the name of an op, or a family: `unary`, `binary`, `ternary` (elementwise ops of so many
//! operands), `reduce`, `any`. `@b` names the op, so that the right side can ask for its attributes. `(contract@c .. p ..)`
//! matches if any one operand matches `p`; `(concat@c ..)` takes any operands. `(get@g p)` is a result of a tuple. Operands of
//! commutative ops match in either order: that takes the place of commutativity rules.

use super::term::{Graph, Head, Term, data};
use birkhoff_ir::scalar::{Scalar, ScalarOp};
use birkhoff_ir::tensor::OpKind;
use egg::Id;

/// A parsed pattern.
#[derive(Clone, PartialEq, Debug)]
pub enum Pattern {
    /// Any class, the same at every occurrence.
    Var(char),
    /// A class of which all elements are this number.
    Number(f64),
    /// A term.
    Apply {
        /// Which ops.
        head: Family,
        /// The letter after `@`.
        name: Option<char>,
        /// Operands.
        args: Operands,
    },
}

/// The operands that a pattern asks for.
#[derive(Clone, PartialEq, Debug)]
pub enum Operands {
    /// These, and no others.
    All(Vec<Pattern>),
    /// One of the operands is this.
    Some(Box<Pattern>),
    /// Any operands.
    Any,
}

/// A set of heads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// This op.
    Op(OpKind),
    /// Elementwise ops of that many operands.
    Elementwise(usize),
    /// The four reductions.
    Reduce,
    /// A result of a tuple.
    Get,
    /// Every op.
    Any,
    /// On right sides: the op of the term that the left side called so.
    Same(char),
}

impl Family {
    /// True if terms of `head` belong to it.
    pub fn holds(self, head: Head) -> bool {
        match (self, head) {
            (Family::Op(kind), Head::Op(other, _)) => kind == other,
            (Family::Elementwise(arity), Head::Op(OpKind::Scalar(op), _)) => op.arity() == arity,
            (Family::Reduce, Head::Op(kind, _)) => {
                matches!(kind, OpKind::ReduceSum | OpKind::ReduceProd | OpKind::ReduceMax | OpKind::ReduceMin)
            }
            (Family::Get, Head::Get(_)) | (Family::Any, Head::Op(..)) => true,
            _ => false,
        }
    }

    fn parse(name: &str) -> Result<Family, String> {
        Ok(match name {
            "unary" => Family::Elementwise(1),
            "binary" => Family::Elementwise(2),
            "ternary" => Family::Elementwise(3),
            "reduce" => Family::Reduce,
            "get" => Family::Get,
            "any" => Family::Any,
            other => {
                Family::Op(OpKind::from_name(other).ok_or_else(|| format!("no op is called `{other}`"))?)
            }
        })
    }
}

/// True if the order of the two operands does not matter.
pub fn is_commutative(kind: OpKind) -> bool {
    use ScalarOp as S;
    matches!(
        kind,
        OpKind::Scalar(
            S::Add
                | S::Mul
                | S::Max
                | S::Min
                | S::BitAnd
                | S::BitOr
                | S::BitXor
                | S::Eq
                | S::Ne
                | S::And
                | S::Or
        )
    )
}

/// The name under which the class of a number is kept.
pub const NUMBER: char = '#';

/// What a pattern was found to be.
#[derive(Clone, PartialEq, Debug)]
pub struct Match {
    /// The class that it was found in.
    pub root: Id,
    vars: Vec<(char, Id)>,
    terms: Vec<(char, Term, usize)>,
}

impl Match {
    /// The class of `?name`. Rules only ask for what their pattern names; the table's test sees to it.
    pub fn var(&self, name: char) -> Id {
        self.vars.iter().find(|(other, _)| *other == name).map_or(self.root, |(_, id)| *id)
    }

    /// The term called `@name`.
    pub fn term(&self, name: char) -> Option<&Term> {
        self.terms.iter().find(|(other, ..)| *other == name).map(|(_, term, _)| term)
    }

    /// The position of the operand that matched in `(.. p ..)`, for the term called `@name`.
    pub fn place(&self, name: char) -> usize {
        self.terms.iter().find(|(other, ..)| *other == name).map_or(0, |(.., place)| *place)
    }
}

impl Pattern {
    /// Parses a pattern. Errors: what is wrong with it.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let tokens: Vec<&str> = spaced.split_whitespace().collect();
        let mut pos = 0;
        let pattern = parse(&tokens, &mut pos).map_err(|why| format!("{why} in `{text}`"))?;
        if pos == tokens.len() { Ok(pattern) } else { Err(format!("text after the end of `{text}`")) }
    }

    /// The heads that the root may have.
    pub fn family(&self) -> Option<Family> {
        match self {
            Pattern::Apply { head, .. } => Some(*head),
            _ => None,
        }
    }

    /// Number of nested terms.
    pub fn depth(&self) -> usize {
        match self {
            Pattern::Apply { args: Operands::All(args), .. } => {
                1 + args.iter().map(Pattern::depth).max().unwrap_or(0)
            }
            Pattern::Apply { args: Operands::Some(arg), .. } => 1 + arg.depth(),
            Pattern::Apply { args: Operands::Any, .. } => 1,
            _ => 0,
        }
    }

    /// Letters of variables and names of terms.
    pub fn letters(&self) -> Vec<char> {
        match self {
            Pattern::Var(name) => vec![*name],
            Pattern::Number(_) => vec![],
            Pattern::Apply { name, args, .. } => {
                let mut letters: Vec<char> = name.iter().copied().collect();
                match args {
                    Operands::All(args) => letters.extend(args.iter().flat_map(Pattern::letters)),
                    Operands::Some(arg) => letters.extend(arg.letters()),
                    Operands::Any => {}
                }
                letters
            }
        }
    }

    /// Appends all matches whose root is the term `term` of the class `root`.
    pub fn matches(&self, graph: &Graph, root: Id, term: &Term, found: &mut Vec<Match>) {
        let start = Match { root, vars: vec![], terms: vec![] };
        enter(graph, self, term, start, &[], found);
    }
}

fn parse(tokens: &[&str], pos: &mut usize) -> Result<Pattern, String> {
    let token = *tokens.get(*pos).ok_or("the text ends early")?;
    *pos += 1;
    if let Some(name) = token.strip_prefix('?') {
        return name.chars().next().map(Pattern::Var).ok_or_else(|| "a variable needs a letter".into());
    }
    if token != "(" {
        return token.parse().map(Pattern::Number).map_err(|_| format!("`{token}` is not a number"));
    }
    let head = *tokens.get(*pos).ok_or("the text ends early")?;
    *pos += 1;
    let (head, name) = match head.split_once('@') {
        Some((head, name)) => (head, name.chars().next()),
        None => (head, None),
    };
    let head = match name {
        Some(name) if head.is_empty() => Family::Same(name),
        _ => Family::parse(head)?,
    };
    let mut args = vec![];
    let mut dots = 0;
    loop {
        match tokens.get(*pos) {
            None => return Err("`(` is not closed".into()),
            Some(&")") => break,
            Some(&"..") => {
                dots += 1;
                *pos += 1;
            }
            Some(_) => args.push(parse(tokens, pos)?),
        }
    }
    *pos += 1;
    let args = match (dots, args.len()) {
        (0, _) => Operands::All(args),
        (1, 0) => Operands::Any,
        (2, 1) => Operands::Some(Box::new(args.remove(0))),
        _ => return Err("`..` stands on both sides of one operand, or alone".into()),
    };
    Ok(Pattern::Apply { head, name, args })
}

type Goal<'p> = (&'p Pattern, Id);

/// Matches `pattern` against one term, then the goals that are left.
fn enter(
    graph: &Graph,
    pattern: &Pattern,
    term: &Term,
    m: Match,
    goals: &[Goal<'_>],
    found: &mut Vec<Match>,
) {
    let Pattern::Apply { head, name, args } = pattern else { return };
    if !head.holds(term.head) {
        return;
    }
    let named = |place: usize| {
        let mut m = m.clone();
        if let Some(name) = name {
            m.terms.push((*name, term.clone(), place));
        }
        m
    };
    match args {
        Operands::Any => solve(graph, named(0), goals, found),
        Operands::Some(arg) => {
            for (place, id) in term.args.iter().enumerate() {
                let mut rest = goals.to_vec();
                rest.push((arg, *id));
                solve(graph, named(place), &rest, found);
            }
        }
        Operands::All(patterns) if patterns.len() == term.args.len() => {
            let mut rest = goals.to_vec();
            rest.extend(patterns.iter().zip(&term.args).map(|(pattern, id)| (pattern, *id)));
            solve(graph, named(0), &rest, found);
            if term.kind().is_some_and(is_commutative)
                && patterns[0] != patterns[1]
                && graph.find(term.args[0]) != graph.find(term.args[1])
            {
                let mut swapped = goals.to_vec();
                swapped.extend([(&patterns[0], term.args[1]), (&patterns[1], term.args[0])]);
                solve(graph, named(1), &swapped, found);
            }
        }
        Operands::All(_) => {}
    }
}

fn solve(graph: &Graph, mut m: Match, goals: &[Goal<'_>], found: &mut Vec<Match>) {
    let Some(((pattern, id), rest)) = goals.split_last() else {
        found.push(m);
        return;
    };
    let id = graph.find(*id);
    match pattern {
        Pattern::Var(name) => match m.vars.iter().find(|(other, _)| other == name) {
            Some((_, bound)) if graph.find(*bound) != id => {}
            Some(_) => solve(graph, m, rest, found),
            None => {
                m.vars.push((*name, id));
                solve(graph, m, rest, found);
            }
        },
        Pattern::Number(value) => {
            let uniform = data(graph, id).results.first().and_then(|result| result.1.uniform);
            let equal = match uniform {
                Some(Scalar::Float(found)) => found.to_bits() == value.to_bits(),
                Some(Scalar::Int(found)) => found as f64 == *value,
                Some(Scalar::Bool(found)) => f64::from(u8::from(found)) == *value,
                None => false,
            };
            if equal {
                m.vars.push((NUMBER, id));
                solve(graph, m, rest, found);
            }
        }
        Pattern::Apply { head, .. } => {
            for term in graph[id].iter().filter(|term| head.holds(term.head)) {
                enter(graph, pattern, term, m.clone(), rest, found);
            }
        }
    }
}
