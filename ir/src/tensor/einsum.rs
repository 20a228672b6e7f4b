//! Einsum notation for `contract`: `tk,ko->to` sums over every label that the output lacks.

use std::fmt;

/// A contraction: one list of labels per operand, and those of the result.
///
/// A label names an axis. A label absent from the output is summed over; one in several operands makes their extents
/// equal. A label occurs at most once in each operand and in the output, and every output label occurs in an operand.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Einsum {
    /// Labels of each operand.
    pub inputs: Vec<Vec<char>>,
    /// Labels of the result.
    pub output: Vec<char>,
}

impl Einsum {
    /// Parses `ab,bc->ac`.
    ///
    /// Errors: the rule that the text breaks.
    pub fn parse(text: &str) -> Result<Einsum, String> {
        let (left, right) = text.split_once("->").ok_or("expected `->` between operands and result")?;
        let labels = |part: &str| -> Result<Vec<char>, String> {
            let labels: Vec<char> = part.trim().chars().collect();
            if let Some(bad) = labels.iter().find(|label| !label.is_ascii_alphabetic()) {
                return Err(format!("labels are letters, found `{bad}`"));
            }
            if let Some(twice) = (1..labels.len()).find(|pos| labels[..*pos].contains(&labels[*pos])) {
                return Err(format!("the label `{}` occurs twice in `{}`", labels[twice], part.trim()));
            }
            Ok(labels)
        };
        let inputs = left.split(',').map(labels).collect::<Result<Vec<_>, _>>()?;
        let output = labels(right)?;
        let spec = Einsum { inputs, output };
        match spec.output.iter().find(|label| !spec.inputs.iter().any(|input| input.contains(label))) {
            Some(label) => Err(format!("the result's label `{label}` occurs in no operand")),
            None => Ok(spec),
        }
    }

    /// Labels that are summed over, in order of first occurrence.
    pub fn summed(&self) -> Vec<char> {
        let mut summed = vec![];
        for label in self.inputs.iter().flatten() {
            if !self.output.contains(label) && !summed.contains(label) {
                summed.push(*label);
            }
        }
        summed
    }
}

impl fmt::Display for Einsum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, input) in self.inputs.iter().enumerate() {
            if idx > 0 {
                f.write_str(",")?;
            }
            f.write_str(&input.iter().collect::<String>())?;
        }
        write!(f, "->{}", self.output.iter().collect::<String>())
    }
}
