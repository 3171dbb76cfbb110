//! The rule `numeric`: comparisons by value, however a number is written.

use std::cmp::Ordering;

use serde_json::value::RawValue;

use super::json::{Kind, elements, kind, text};

/// All of these have to hold: one, or the two ends of a range.
#[derive(Debug)]
pub struct Numeric(Vec<(Comparison, Number)>);

impl Numeric {
    /// `["=", 5]`, `[">", 0]`, `[">=", 0, "<", 5]`: a lower bound stands before an upper one.
    pub fn read(value: &RawValue) -> Result<Numeric, String> {
        let terms = elements(value).unwrap_or_default();
        let mut comparisons = Vec::new();
        for pair in terms.chunks(2) {
            let [operator, number] = pair else {
                return Err("`numeric` lacks a number".to_owned());
            };
            let comparison = match text(operator).as_deref() {
                Some("=") => Comparison::Equal,
                Some("<") => Comparison::Below,
                Some("<=") => Comparison::AtMost,
                Some(">") => Comparison::Above,
                Some(">=") => Comparison::AtLeast,
                _ => return Err(format!("`numeric` has no operator {operator}")),
            };
            let number = Some(number)
                .filter(|number| kind(number) == Kind::Number)
                .and_then(|number| Number::read(number.get()))
                .ok_or_else(|| format!("`numeric` compares with numbers, not {number}"))?;
            comparisons.push((comparison, number));
        }
        let is_range = |low: Comparison, high: Comparison| {
            matches!(low, Comparison::Above | Comparison::AtLeast)
                && matches!(high, Comparison::Below | Comparison::AtMost)
        };
        match comparisons.as_slice() {
            [_] => {}
            [(low, bottom), (high, top)] if is_range(*low, *high) => {
                if bottom.compare(*top) != Some(Ordering::Less) {
                    return Err("the bottom of `numeric` must be below its top".to_owned());
                }
            }
            _ => return Err(format!("`numeric` has no range {value}")),
        }
        Ok(Numeric(comparisons))
    }

    /// `is`: a number of a record, as it is written there.
    pub fn holds(&self, is: &str) -> bool {
        let Some(is) = Number::read(is) else {
            return false;
        };
        let holds = |(comparison, number): &(Comparison, Number)| {
            let order = is.compare(*number);
            match comparison {
                Comparison::Equal => order == Some(Ordering::Equal),
                Comparison::Below => order == Some(Ordering::Less),
                Comparison::AtMost => order.is_some_and(Ordering::is_le),
                Comparison::Above => order == Some(Ordering::Greater),
                Comparison::AtLeast => order.is_some_and(Ordering::is_ge),
            }
        };
        self.0.iter().all(holds)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Below,
    AtMost,
    Above,
    AtLeast,
}

/// What is compared by value: whole numbers exactly, however large.
#[derive(Debug, Clone, Copy)]
enum Number {
    Whole(i128),
    Other(f64),
}

impl Number {
    fn read(text: &str) -> Option<Number> {
        let whole = text.parse().ok().map(Number::Whole);
        whole.or_else(|| text.parse().ok().map(Number::Other))
    }

    fn compare(self, other: Number) -> Option<Ordering> {
        let float = |number| match number {
            Number::Whole(whole) => whole as f64,
            Number::Other(other) => other,
        };
        match (self, other) {
            (Number::Whole(one), Number::Whole(other)) => Some(one.cmp(&other)),
            (one, other) => float(one).partial_cmp(&float(other)),
        }
    }
}
