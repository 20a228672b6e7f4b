//! The name that was probably meant, for error messages.

/// The first of `known` that is closest to `name`, if one is close: about a third of its letters differ at most.
pub fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let limit = (name.chars().count().div_ceil(3)).max(1);
    let scored = known.map(|other| (distance(name, other, limit), other));
    scored
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Letters to insert, remove or replace; more than `limit` where lengths alone say so.
fn distance(a: &str, b: &str, limit: usize) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > limit {
        return limit + 1;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (idx, left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = idx + 1;
        for (pos, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[pos + 1];
            row[pos + 1] = replaced.min(row[pos] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_names_are_found_and_others_not() {
        assert_eq!(nearest("sinkhron", ["exp", "sinkhorn"].into_iter()), Some("sinkhorn"));
        assert_eq!(nearest("iter", ["eps", "iters"].into_iter()), Some("iters"));
        assert_eq!(nearest("foo", ["exp", "sinkhorn"].into_iter()), None);
    }
}
