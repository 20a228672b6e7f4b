//! Symbolic sizes: integer polynomials over named dims, in a canonical form.
//!
//! In: names and integers. Out: [`Dim`], for which structural equality is equality as a polynomial.
//! Assumes nothing about the values of the names; does not know their bounds (see [`crate::tensor::DimDecl`]).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A name of a dim, parameter, input or value. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sym(Arc<str>);

impl Sym {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Sym {
    fn from(name: &str) -> Self {
        Sym(Arc::from(name))
    }
}

impl From<String> for Sym {
    fn from(name: String) -> Self {
        Sym(Arc::from(name))
    }
}

impl std::ops::Deref for Sym {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Sym {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Sym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Values of named dims.
pub type SizeEnv = BTreeMap<Sym, i64>;

/// An integer polynomial over named dims, such as `n*C` or `n*n+2*n`.
///
/// Canonical: terms sorted by their names, no zero coefficients, each product of names sorted. Coefficients
/// saturate instead of wrapping; a size that does not fit `i64` is reported by [`Dim::eval`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim(Repr);

/// A product of names and its coefficient.
type Term = (Vec<Sym>, i64);

/// Constants, by far the most common, need no memory of their own.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Const(i64),
    /// At least one term has a name.
    Poly(Arc<[Term]>),
}

impl Default for Dim {
    fn default() -> Self {
        Dim::constant(0)
    }
}

impl Dim {
    /// The constant `value`.
    pub fn constant(value: i64) -> Self {
        Dim(Repr::Const(value))
    }

    /// The named dim `name`.
    pub fn sym(name: impl Into<Sym>) -> Self {
        Dim(Repr::Poly(Arc::from([(vec![name.into()], 1)])))
    }

    /// The value, if the polynomial has no names in it.
    pub fn as_const(&self) -> Option<i64> {
        match &self.0 {
            Repr::Const(value) => Some(*value),
            Repr::Poly(_) => None,
        }
    }

    /// The name, if the polynomial is exactly one name.
    pub fn as_sym(&self) -> Option<&Sym> {
        match self.poly() {
            [(names, 1)] if names.len() == 1 => Some(&names[0]),
            _ => None,
        }
    }

    /// True if this is the constant `value`.
    pub fn is_const(&self, value: i64) -> bool {
        self.as_const() == Some(value)
    }

    /// The terms of a polynomial that is no constant.
    fn poly(&self) -> &[Term] {
        match &self.0 {
            Repr::Const(_) => &[],
            Repr::Poly(terms) => terms,
        }
    }

    /// The terms: sorted names and their coefficient; none for the constant 0.
    pub fn terms(&self) -> impl Iterator<Item = (&[Sym], i64)> {
        let constant = self.as_const().filter(|value| *value != 0).map(|value| (&[] as &[Sym], value));
        constant.into_iter().chain(self.poly().iter().map(|(names, coeff)| (names.as_slice(), *coeff)))
    }

    /// All names in the polynomial, each once.
    pub fn syms(&self) -> Vec<Sym> {
        let mut names: Vec<Sym> = self.poly().iter().flat_map(|(names, _)| names.iter().cloned()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn to_map(&self) -> BTreeMap<Vec<Sym>, i64> {
        self.terms().map(|(names, coeff)| (names.to_vec(), coeff)).collect()
    }

    fn from_map(map: BTreeMap<Vec<Sym>, i64>) -> Self {
        let terms: Vec<Term> = map.into_iter().filter(|(_, coeff)| *coeff != 0).collect();
        match terms.as_slice() {
            [] => Dim::constant(0),
            [(names, value)] if names.is_empty() => Dim::constant(*value),
            _ => Dim(Repr::Poly(terms.into())),
        }
    }

    /// `self + other`.
    pub fn add(&self, other: &Dim) -> Dim {
        match (self.as_const(), other.as_const()) {
            (Some(a), Some(b)) => return Dim::constant(a.saturating_add(b)),
            (Some(0), _) => return other.clone(),
            (_, Some(0)) => return self.clone(),
            _ => {}
        }
        let mut map = self.to_map();
        for (names, coeff) in other.terms() {
            let slot = map.entry(names.to_vec()).or_insert(0);
            *slot = slot.saturating_add(coeff);
        }
        Dim::from_map(map)
    }

    /// `self - other`.
    pub fn sub(&self, other: &Dim) -> Dim {
        self.add(&other.mul(&Dim::constant(-1)))
    }

    /// `self * other`.
    pub fn mul(&self, other: &Dim) -> Dim {
        match (self.as_const(), other.as_const()) {
            (Some(a), Some(b)) => return Dim::constant(a.saturating_mul(b)),
            (Some(1), _) => return other.clone(),
            (_, Some(1)) => return self.clone(),
            _ => {}
        }
        let mut map: BTreeMap<Vec<Sym>, i64> = BTreeMap::new();
        for (names_a, coeff_a) in self.terms() {
            for (names_b, coeff_b) in other.terms() {
                let mut names: Vec<Sym> = names_a.iter().chain(names_b).cloned().collect();
                names.sort();
                let slot = map.entry(names).or_insert(0);
                *slot = slot.saturating_add(coeff_a.saturating_mul(coeff_b));
            }
        }
        Dim::from_map(map)
    }

    /// Exact quotient by `other`, if `other` divides `self` as a single-term polynomial.
    pub fn exact_div(&self, other: &Dim) -> Option<Dim> {
        if let (Some(a), Some(b)) = (self.as_const(), other.as_const()) {
            return (b != 0 && a % b == 0).then(|| Dim::constant(a / b));
        }
        let mut divisor = other.terms();
        let (Some((names_d, coeff_d)), None) = (divisor.next(), divisor.next()) else { return None };
        let mut map = BTreeMap::new();
        for (names, coeff) in self.terms() {
            if coeff % coeff_d != 0 {
                return None;
            }
            let mut rest = names.to_vec();
            for name in names_d {
                rest.remove(rest.iter().position(|other| other == name)?);
            }
            map.insert(rest, coeff / coeff_d);
        }
        Some(Dim::from_map(map))
    }

    /// Replaces every name that `env` binds by its value.
    pub fn subst(&self, env: &SizeEnv) -> Dim {
        self.subst_with(&|name| env.get(name).map(|value| Dim::constant(*value)))
    }

    /// Replaces every name for which `lookup` answers by that polynomial.
    pub fn subst_with(&self, lookup: &dyn Fn(&Sym) -> Option<Dim>) -> Dim {
        let mut sum = Dim::default();
        for (names, coeff) in self.terms() {
            let mut product = Dim::constant(coeff);
            for name in names {
                product = product.mul(&lookup(name).unwrap_or_else(|| Dim::sym(name.clone())));
            }
            sum = sum.add(&product);
        }
        sum
    }

    /// The value under `env`.
    ///
    /// Errors: a name that `env` lacks, or a value that does not fit `i64`.
    pub fn eval(&self, env: &SizeEnv) -> Result<i64, DimError> {
        let mut sum: i64 = 0;
        for (names, coeff) in self.terms() {
            let mut product = coeff;
            for name in names {
                let value = env.get(name).ok_or_else(|| DimError::Unbound(name.clone()))?;
                product = product.checked_mul(*value).ok_or_else(|| DimError::Overflow(self.clone()))?;
            }
            sum = sum.checked_add(product).ok_or_else(|| DimError::Overflow(self.clone()))?;
        }
        Ok(sum)
    }
}

/// Why a size has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DimError {
    /// The named dim has no value.
    #[error("the dim `{0}` has no value")]
    Unbound(Sym),
    /// The value does not fit a signed 64-bit integer.
    #[error("the size `{0}` does not fit a signed 64-bit integer")]
    Overflow(Dim),
}

/// Parts of `size`, which is positive, that make up `whole`.
pub fn div_ceil(whole: i64, size: i64) -> i64 {
    whole / size + i64::from(whole % size != 0)
}

impl From<i64> for Dim {
    fn from(value: i64) -> Self {
        Dim::constant(value)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(value) = self.as_const() {
            return write!(f, "{value}");
        }
        // Highest degree first, constants last, as one writes a polynomial.
        let mut order: Vec<&Term> = self.poly().iter().collect();
        order.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.0.cmp(&b.0)));
        for (idx, (names, coeff)) in order.into_iter().enumerate() {
            match (idx, *coeff < 0) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str("-")?,
                (_, false) => f.write_str("+")?,
            }
            let magnitude = coeff.unsigned_abs();
            if names.is_empty() {
                write!(f, "{magnitude}")?;
                continue;
            }
            if magnitude != 1 {
                write!(f, "{magnitude}*")?;
            }
            for (pos, name) in names.iter().enumerate() {
                if pos > 0 {
                    f.write_str("*")?;
                }
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_polynomials_are_equal() {
        let (n, c) = (Dim::sym("n"), Dim::sym("C"));
        let left = n.add(&Dim::constant(2)).mul(&n);
        let right = n.mul(&n).add(&n.mul(&Dim::constant(2)));
        assert_eq!(left, right);
        assert_eq!(left.to_string(), "n*n+2*n");
        assert_eq!(n.mul(&c), c.mul(&n));
        assert_eq!(n.sub(&n).to_string(), "0");
        assert_eq!(n.mul(&c).exact_div(&n), Some(c));
    }

    #[test]
    fn overflow_is_an_error() {
        let n = Dim::sym("n");
        let env = SizeEnv::from([(Sym::from("n"), i64::MAX)]);
        assert!(matches!(n.mul(&n).eval(&env), Err(DimError::Overflow(_))));
        assert!(matches!(Dim::sym("m").eval(&env), Err(DimError::Unbound(_))));
    }
}
