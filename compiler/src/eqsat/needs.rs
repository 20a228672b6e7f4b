//! What the root needs under a choice of terms, kept up to date while single terms are swapped.
//!
//! In: terms with their costs, and a choice. Out: the cost of all that is needed, and whether a swap lowers it. A swap is
//! judged by what it makes needed and what it leaves unneeded, not by walking the whole graph again.

use super::extract::Terms;

/// The classes that the root needs.
pub(super) struct Needs<'t> {
    terms: &'t Terms,
    cost: &'t [Vec<f64>],
    /// How often the root or a needed class uses each class.
    pub(super) uses: Vec<u32>,
    /// The cost of all needed classes.
    pub(super) total: f64,
    /// Positions of the needed classes in an order with operands first.
    position: Vec<usize>,
    /// How far a walk has come with each class: `2 * walk` if it is open, one more if it is done.
    marks: Vec<usize>,
    walk: usize,
}

impl<'t> Needs<'t> {
    /// What is needed under `picks`; `None` if classes need each other, or one has no term.
    pub(super) fn of(terms: &'t Terms, cost: &'t [Vec<f64>], picks: &[Option<usize>]) -> Option<Needs<'t>> {
        let n = terms.classes.len();
        let order = terms.order(picks)?;
        let mut needs = Needs {
            terms,
            cost,
            uses: vec![0; n],
            total: 0.0,
            position: vec![0; n],
            marks: vec![0; n],
            walk: 0,
        };
        needs.uses[terms.root] = 1;
        for (place, class) in order.into_iter().enumerate() {
            let pick = picks[class]?;
            needs.position[class] = place;
            needs.total += cost[class][pick];
            for child in &terms.classes[class][pick].children {
                needs.uses[*child] += 1;
            }
        }
        Some(needs)
    }

    /// Swaps the term of the needed class `class` for `pick` if that is possible and pays; then `self` is to be made anew.
    pub(super) fn try_swap(&mut self, picks: &mut [Option<usize>], class: usize, pick: usize) -> bool {
        let Some(before) = picks[class] else { return false };
        if !self.is_possible(picks, class, pick) {
            return false;
        }
        let gained = self.cost[class][pick] + self.take(picks, class, pick);
        let lost = self.cost[class][before] + self.release(picks, class, before);
        if gained < lost - self.total * 1e-12 {
            picks[class] = Some(pick);
            return true;
        }
        self.take(picks, class, before);
        self.release(picks, class, pick);
        false
    }

    /// True if all below the term `pick` has terms, and nothing there needs `class` or itself.
    fn is_possible(&mut self, picks: &[Option<usize>], class: usize, pick: usize) -> bool {
        self.walk += 1;
        let (open, done) = (2 * self.walk, 2 * self.walk + 1);
        self.marks[class] = open;
        let mut stack = vec![(class, pick, 0)];
        while let Some((at, term, next)) = stack.pop() {
            let Some(child) = self.terms.classes[at][term].children.get(next) else {
                self.marks[at] = done;
                continue;
            };
            stack.push((at, term, next + 1));
            if self.marks[*child] == open {
                return false;
            }
            // What is needed and comes before `class` does not need it.
            let is_below = self.uses[*child] > 0 && self.position[*child] < self.position[class];
            if self.marks[*child] == done || is_below {
                continue;
            }
            let Some(of_child) = picks[*child] else { return false };
            self.marks[*child] = open;
            stack.push((*child, of_child, 0));
        }
        true
    }

    /// Counts the operands of a term as used. Returns the cost of what was not needed before.
    fn take(&mut self, picks: &[Option<usize>], class: usize, pick: usize) -> f64 {
        let mut sum = 0.0;
        let mut open = vec![(class, pick)];
        while let Some((at, term)) = open.pop() {
            for child in &self.terms.classes[at][term].children {
                self.uses[*child] += 1;
                if self.uses[*child] == 1
                    && let Some(of_child) = picks[*child]
                {
                    sum += self.cost[*child][of_child];
                    open.push((*child, of_child));
                }
            }
        }
        sum
    }

    /// Counts the operands of a term as used once less. Returns the cost of what is needed no longer.
    fn release(&mut self, picks: &[Option<usize>], class: usize, pick: usize) -> f64 {
        let mut sum = 0.0;
        let mut open = vec![(class, pick)];
        while let Some((at, term)) = open.pop() {
            for child in &self.terms.classes[at][term].children {
                self.uses[*child] -= 1;
                if self.uses[*child] == 0
                    && let Some(of_child) = picks[*child]
                {
                    sum += self.cost[*child][of_child];
                    open.push((*child, of_child));
                }
            }
        }
        sum
    }
}
