//! Sums of broadcast terms, in which equal terms cancel: the exponents and logarithms of a loop body.
//!
//! In: terms, each an [`Atom`] along some axes of a value with a whole coefficient. Out: the same in one order, without zeros.
//! Cancelling is formal: that a shift drops out of `log sum exp(x - m) + m` is seen whatever `m` is. Products of powers are
//! the same thing, of other atoms (`matrix/forms.rs`). Deliberately absent: products of sums, and values.

use birkhoff_ir::tensor::ValueId;

/// Longer sums are values of their own.
const MAX_TERMS: usize = 32;
/// Scalars around an atom; with more of them it is a value of its own.
const MAX_SCALARS: usize = 8;

/// What a term is made of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Atom {
    /// A value of the body.
    Value(ValueId),
    /// An atom times a scalar of the body.
    Times(Box<Atom>, ValueId),
    /// An atom divided by a scalar of the body.
    Over(Box<Atom>, ValueId),
    /// The logarithm of the scaled sum of that number.
    Log(usize),
    /// The greatest exponent among the weights of that scaled sum.
    Shift(usize),
    /// The greatest exponents along the last axis of that scaled sum's kernel.
    Row(usize),
}

/// `coeff` times an atom, repeated along the axes that are not among `axes`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Term<A = Atom> {
    /// What it is.
    pub atom: A,
    /// The axes of the value that the atom's own axes are, in their order.
    pub axes: Vec<usize>,
    /// How often it is added; not 0.
    pub coeff: i64,
}

/// A sum of terms, in order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Sum<A = Atom>(Vec<Term<A>>);

impl<A> Default for Sum<A> {
    fn default() -> Self {
        Sum(vec![])
    }
}

impl Atom {
    /// Whether the atom stands on a scaled sum.
    pub fn is_scaled(&self) -> bool {
        match self {
            Atom::Value(_) => false,
            Atom::Times(inner, _) | Atom::Over(inner, _) => inner.is_scaled(),
            Atom::Log(_) | Atom::Shift(_) | Atom::Row(_) => true,
        }
    }

    /// How many scalars are around it.
    fn n_scalars(&self) -> usize {
        match self {
            Atom::Times(inner, _) | Atom::Over(inner, _) => 1 + inner.n_scalars(),
            _ => 0,
        }
    }

    /// The atom times a scalar.
    pub fn times(self, scalar: ValueId) -> Atom {
        match self {
            Atom::Over(inner, by) if by == scalar => *inner,
            atom => Atom::Times(Box::new(atom), scalar),
        }
    }

    /// The atom divided by a scalar.
    pub fn over(self, scalar: ValueId) -> Atom {
        match self {
            Atom::Times(inner, by) if by == scalar => *inner,
            atom => Atom::Over(Box::new(atom), scalar),
        }
    }
}

impl<A: Clone + Ord> Sum<A> {
    /// One atom that has every axis of a value of that rank.
    pub fn atom(atom: A, rank: usize) -> Self {
        Sum(vec![Term { atom, axes: (0..rank).collect(), coeff: 1 }])
    }

    /// The sum of `terms`.
    pub fn of(terms: impl IntoIterator<Item = Term<A>>) -> Self {
        let mut sum = Sum::default();
        terms.into_iter().for_each(|term| sum.push(term));
        sum
    }

    /// Its terms, in order.
    pub fn terms(&self) -> &[Term<A>] {
        &self.0
    }

    /// `self + factor * other`; `None` where a coefficient overflows, or of too many terms.
    pub fn plus(&self, other: &Self, factor: i64) -> Option<Self> {
        let mut sum = self.clone();
        for term in &other.0 {
            let coeff = term.coeff.checked_mul(factor)?;
            let same = |known: &&Term<A>| known.atom == term.atom && known.axes == term.axes;
            self.0.iter().find(same).map_or(Some(coeff), |known| known.coeff.checked_add(coeff))?;
            sum.push(Term { coeff, ..term.clone() });
        }
        (sum.0.len() <= MAX_TERMS).then_some(sum)
    }

    /// Every term with its axes mapped by `place`; `None` if an axis has no place.
    pub fn moved(&self, place: impl Fn(usize) -> Option<usize>) -> Option<Self> {
        let term = |term: &Term<A>| -> Option<Term<A>> {
            let axes: Option<Vec<usize>> = term.axes.iter().map(|axis| place(*axis)).collect();
            Some(Term { axes: axes?, ..term.clone() })
        };
        let terms: Option<Vec<Term<A>>> = self.0.iter().map(term).collect();
        terms.map(Sum::of)
    }

    fn push(&mut self, term: Term<A>) {
        match self.0.binary_search_by(|known| (&known.atom, &known.axes).cmp(&(&term.atom, &term.axes))) {
            Ok(place) => {
                self.0[place].coeff += term.coeff;
                if self.0[place].coeff == 0 {
                    self.0.remove(place);
                }
            }
            Err(place) if term.coeff != 0 => self.0.insert(place, term),
            Err(_) => {}
        }
    }
}

impl Sum {
    /// Whether a term stands on a scaled sum.
    pub fn is_scaled(&self) -> bool {
        self.0.iter().any(|term| term.atom.is_scaled())
    }

    /// Every term with a scalar around its atom; `None` if those are too many.
    pub fn wrapped(&self, wrap: impl Fn(Atom) -> Atom) -> Option<Sum> {
        let sum = Sum::of(self.0.iter().map(|term| Term { atom: wrap(term.atom.clone()), ..term.clone() }));
        sum.0.iter().all(|term| term.atom.n_scalars() <= MAX_SCALARS).then_some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_terms_cancel_and_axes_tell_terms_apart() {
        let (x, m) = (Atom::Value(ValueId(0)), Atom::Value(ValueId(1)));
        let shifted =
            Sum::atom(x.clone(), 2).plus(&Sum::of([Term { atom: m.clone(), axes: vec![0], coeff: 1 }]), -1);
        let shifted = shifted.expect("small numbers");
        let along_other = Sum::of([Term { atom: m.clone(), axes: vec![1], coeff: 1 }]);
        let both = shifted.plus(&along_other, 1).expect("small numbers");
        assert_eq!(both.terms().len(), 3);
        let same = Sum::of([Term { atom: m, axes: vec![0], coeff: 1 }]);
        assert_eq!(shifted.plus(&same, 1), Some(Sum::atom(x, 2)));
    }

    #[test]
    fn a_coefficient_that_overflows_is_no_sum() {
        let x = Sum::of([Term { atom: Atom::Value(ValueId(0)), axes: vec![], coeff: i64::MAX }]);
        assert_eq!(x.plus(&x, 1), None);
        assert_eq!(x.plus(&x, 2), None);
    }
}
