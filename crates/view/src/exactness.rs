//! How far what is kept of a column may be from what is recomputed.

use arrow::datatypes::DataType;

/// Of one column of a view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exactness {
    /// Not at all: bit for bit the same.
    #[default]
    Exact,
    /// By rounding: it comes from doubles that were summed up in whatever order (`float_sums = 'fast'`).
    Rounded,
    /// By chance: it comes from a randomised sketch.
    Randomised,
}

/// The share of their size by which rounded values may differ.
pub const TOLERANCE: f64 = 1e-9;

impl Exactness {
    /// Of a column that may come from sketches, and from sums of doubles.
    pub fn of(randomised: bool, rounded: bool, data_type: &DataType) -> Exactness {
        match (randomised, rounded) {
            (true, _) => Exactness::Randomised,
            (_, true) if data_type.is_floating() => Exactness::Rounded,
            _ => Exactness::Exact,
        }
    }

    /// Whether two values agree; small ones may differ by as much as 1 may.
    pub fn agree(served: f64, recomputed: f64) -> bool {
        let size = served.abs().max(recomputed.abs()).max(1.0);
        served.total_cmp(&recomputed).is_eq()
            || served.is_nan() && recomputed.is_nan()
            || served.is_finite()
                && recomputed.is_finite()
                && (served - recomputed).abs() <= TOLERANCE * size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_agree_within_the_tolerance() {
        for (served, recomputed, agree) in [
            (1e15, 1e15 + 1.0, true),
            (0.1 + 0.2, 0.3, true),
            (0.0, -0.0, true),
            (f64::NAN, -f64::NAN, true),
            (f64::INFINITY, f64::INFINITY, true),
            (1.0, 1.001, false),
            (f64::INFINITY, f64::NEG_INFINITY, false),
            (f64::INFINITY, 1.0, false),
            (f64::NAN, 1.0, false),
        ] {
            assert_eq!(
                Exactness::agree(served, recomputed),
                agree,
                "{served} {recomputed}"
            );
        }
    }
}
