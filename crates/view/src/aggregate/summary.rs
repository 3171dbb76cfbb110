//! One group's state of one of our aggregates: how records go in, and how states merge.

use std::fmt::Debug;

use arrow::{
    array::{Array, ArrayRef, AsArray},
    datatypes::{Decimal128Type, Decimal256Type, Int64Type, i256},
};
use datafusion::common::Result;
use datasketches::kll::{KllFloat, KllSketch};

use crate::postgres::ValueError;

use super::{
    exact_sum::ExactSum,
    floats::stored,
    input::Input,
    pairs::Pairs,
    sketch::{self, Common, Hll, Kll, Theta},
};

/// The state of one group.
#[derive(Debug)]
pub enum Summary {
    Integer {
        sum: i128,
        count: i64,
    },
    Float {
        sum: ExactSum,
        count: i64,
    },
    /// The sum is `high + low`: 256 bits cannot overflow before 2^128 records, 128 bits are faster.
    Decimal {
        high: i256,
        low: i128,
        count: i64,
    },
    /// Boxed, because most groups are of other aggregates and take as much room as the largest.
    Spread {
        sum: Box<ExactSum>,
        squares: Box<ExactSum>,
        count: i64,
    },
    /// The sum of the squares is `high + low`, as above.
    IntegerSpread {
        sum: i128,
        high: i256,
        low: i128,
        count: i64,
    },
    Pairs(Box<Pairs>),
    Distinct(Option<Hll>),
    Percentile(Option<Kll>),
    Theta(Box<Theta>),
    Common(Box<Common>),
}

impl Summary {
    pub fn count(&self) -> i64 {
        match self {
            Summary::Integer { count, .. }
            | Summary::Float { count, .. }
            | Summary::Decimal { count, .. }
            | Summary::Spread { count, .. }
            | Summary::IntegerSpread { count, .. } => *count,
            Summary::Pairs(pairs) => pairs.count(),
            _ => 0,
        }
    }

    /// Takes a row in (`times` is 1), or out again (-1).
    #[inline]
    pub fn update(&mut self, input: &Input, row: usize, times: i64) -> Result<()> {
        match (self, input) {
            (Summary::Integer { sum, count }, Input::Integers(values)) => {
                *sum += i128::from(values.value(row)) * i128::from(times);
                *count += times;
            }
            (Summary::Float { sum, count }, Input::Floats(values)) => {
                let value = values.value(row);
                match times {
                    1 => sum.add(value),
                    _ => sum.subtract(value),
                }
                *count += times;
            }
            (Summary::Decimal { high, low, count }, Input::Decimals(values)) => {
                // Decimals have at most 38 digits: turning the sign cannot overflow.
                add_wide(high, low, values.value(row) * i128::from(times));
                *count += times;
            }
            (
                Summary::Spread {
                    sum,
                    squares,
                    count,
                },
                Input::Floats(values),
            ) => {
                let value = values.value(row);
                match times {
                    1 => {
                        sum.add(value);
                        squares.add_product(value, value);
                    }
                    _ => {
                        sum.subtract(value);
                        squares.subtract_product(value, value);
                    }
                }
                *count += times;
            }
            (
                Summary::IntegerSpread {
                    sum,
                    high,
                    low,
                    count,
                },
                Input::Integers(values),
            ) => {
                let value = i128::from(values.value(row));
                *sum += value * i128::from(times);
                add_wide(high, low, value * value * i128::from(times));
                *count += times;
            }
            (Summary::Pairs(pairs), Input::Pairs(y, x)) => {
                let (y, x) = (y.value(row), x.value(row));
                match times {
                    1 => pairs.add(y, x),
                    _ => pairs.subtract(y, x),
                }
            }
            (Summary::Distinct(held), Input::Any(values)) => {
                sketch::update_hll(held, values, row)?;
            }
            (Summary::Theta(theta), Input::Any(values)) => theta.update(values, row)?,
            (Summary::Percentile(held), Input::Floats(values)) => {
                sketch::update_kll(held, values.value(row));
            }
            (summary, Input::Sketches(values)) => summary.add_sketch(values.value(row))?,
            _ => unreachable!("the arguments are those of the summary's kind"),
        }
        Ok(())
    }

    pub fn merge(&mut self, states: &[ArrayRef], row: usize) -> Result<()> {
        let damaged = || {
            datafusion::error::DataFusionError::Execution("a stored state is damaged".to_owned())
        };
        let counted = |column: &ArrayRef| column.as_primitive::<Int64Type>().value(row);
        let exact = |column: &ArrayRef| stored(column.as_binary::<i32>(), row);
        if states[0].is_null(row) {
            return Ok(());
        }
        match self {
            Summary::Integer { sum, count } => {
                *sum += states[0].as_primitive::<Decimal128Type>().value(row);
                *count += counted(&states[1]);
            }
            Summary::Float { sum, count } => {
                sum.merge(&exact(&states[0])?);
                *count += counted(&states[1]);
            }
            Summary::Decimal { high, count, .. } => {
                let other = states[0].as_primitive::<Decimal256Type>().value(row);
                *high = high.wrapping_add(other);
                *count += counted(&states[1]);
            }
            Summary::Spread {
                sum,
                squares,
                count,
            } => {
                sum.merge(&exact(&states[0])?);
                squares.merge(&exact(&states[1])?);
                *count += counted(&states[2]);
            }
            Summary::IntegerSpread {
                sum, high, count, ..
            } => {
                *sum += states[0].as_primitive::<Decimal128Type>().value(row);
                let squares = states[1].as_primitive::<Decimal256Type>().value(row);
                *high = high.wrapping_add(squares);
                *count += counted(&states[2]);
            }
            Summary::Pairs(pairs) => {
                let mut sums = <[ExactSum; 5]>::default();
                for (sum, column) in sums.iter_mut().zip(states) {
                    *sum = exact(column)?;
                }
                pairs.merge(counted(&states[5]), &sums);
            }
            sketch => {
                let bytes = states[0].as_binary::<i32>().value(row);
                sketch.add_sketch(bytes).map_err(|_| damaged())?;
            }
        }
        Ok(())
    }

    /// Takes in another sketch of its kind.
    fn add_sketch(&mut self, bytes: &[u8]) -> Result<(), ValueError> {
        match self {
            Summary::Distinct(held) => sketch::merge_hll(held, bytes),
            Summary::Percentile(held) => sketch::merge_kll(held, bytes),
            Summary::Theta(theta) => theta.merge(bytes),
            Summary::Common(common) => common.meet(bytes),
            _ => unreachable!("sums are no sketches"),
        }
    }

    /// The sketch at rest; `None` if there is nothing in it, or it is none.
    pub fn sketch(&self) -> Option<Vec<u8>> {
        match self {
            Summary::Distinct(sketch) => sketch.as_deref().map(sketch::hll_bytes),
            Summary::Percentile(sketch) => sketch.as_ref().map(|sketch| sketch.serialize()),
            Summary::Theta(theta) => theta.bytes(),
            Summary::Common(common) => common.bytes(),
            _ => None,
        }
    }

    pub fn bytes_held(&self) -> usize {
        let apart = match self {
            Summary::Integer { .. } | Summary::Decimal { .. } | Summary::IntegerSpread { .. } => 0,
            Summary::Float { sum, .. } => sum.bytes_held(),
            Summary::Spread { sum, squares, .. } => {
                2 * size_of::<ExactSum>() + sum.bytes_held() + squares.bytes_held()
            }
            Summary::Pairs(pairs) => size_of::<Pairs>() + pairs.bytes_held(),
            Summary::Distinct(sketch) => {
                sketch.as_ref().map_or(0, |sketch| sketch.estimated_size())
            }
            Summary::Percentile(sketch) => sketch
                .as_ref()
                .map_or(0, |sketch| sketch.num_retained() * 8 + 64),
            Summary::Theta(theta) => theta.bytes_held(),
            Summary::Common(common) => common.bytes_held(),
        };
        size_of::<Summary>() + apart
    }
}

pub fn total(high: i256, low: i128) -> i256 {
    high.wrapping_add(i256::from_i128(low))
}

#[inline]
pub fn add_wide(high: &mut i256, low: &mut i128, value: i128) {
    match low.checked_add(value) {
        Some(sum) => *low = sum,
        None => {
            *high = total(*high, *low);
            *low = value;
        }
    }
}

/// Reads back a stored percentile state; audits compare ranks in it.
pub fn percentile_state(bytes: &[u8]) -> Option<KllSketch<KllFloat<f64>>> {
    sketch::kll(bytes).ok()
}
