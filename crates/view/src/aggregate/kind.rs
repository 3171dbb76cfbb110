//! Which of our aggregates one is: the columns of its states, and its answer.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BinaryArray, Decimal128Array, Decimal256Array, Float64Array, Int64Array},
    compute::cast,
    datatypes::{
        DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Field, FieldRef, i256,
    },
};
use datafusion::common::Result;
use datasketches::{common::SearchCriteria, kll::KllFloat};

use super::{
    exact_sum::{ExactSum, squared_distances},
    integer::squared_distances_of_integers,
    pairs::{Pairs, Statistic},
    sketching::Sketch,
    summary::{Summary, total},
};
use crate::postgres::{ValueError, decimal};

/// Sums of 64-bit integers in 128 bits: cannot overflow before 2^63 records.
pub const INTEGER_SUM: DataType = DataType::Decimal128(38, 0);

/// Which of our aggregates, with what its arguments fix.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    SumInteger,
    SumFloat,
    /// Precision of the answer, scale of argument and answer.
    SumDecimal {
        precision: u8,
        scale: i8,
    },
    AverageInteger,
    AverageFloat,
    AverageDecimal {
        scale: i8,
        answer_scale: i8,
    },
    Spread {
        sample: bool,
        root: bool,
    },
    IntegerSpread {
        sample: bool,
        root: bool,
    },
    /// Of two columns.
    Pairs(Statistic),
    DistinctCount,
    Sketch(Sketch),
    /// The share of values below the answer, 0 to 1, and the type of the answer.
    Percentile(f64, DataType),
}

impl Kind {
    pub fn empty(&self) -> Summary {
        match self {
            Kind::SumInteger | Kind::AverageInteger => Summary::Integer { sum: 0, count: 0 },
            Kind::SumFloat | Kind::AverageFloat => Summary::Float {
                sum: ExactSum::default(),
                count: 0,
            },
            Kind::SumDecimal { .. } | Kind::AverageDecimal { .. } => Summary::Decimal {
                high: i256::ZERO,
                low: 0,
                count: 0,
            },
            Kind::Spread { .. } => Summary::Spread {
                sum: Box::default(),
                squares: Box::default(),
                count: 0,
            },
            Kind::IntegerSpread { .. } => Summary::IntegerSpread {
                sum: 0,
                high: i256::ZERO,
                low: 0,
                count: 0,
            },
            Kind::Pairs(_) => Summary::Pairs(Box::default()),
            Kind::DistinctCount | Kind::Sketch(Sketch::Hll(_)) => Summary::Distinct(None),
            Kind::Percentile(..) | Kind::Sketch(Sketch::Kll(_)) => Summary::Percentile(None),
            Kind::Sketch(Sketch::Theta(_)) => Summary::Theta(Box::default()),
            Kind::Sketch(Sketch::ThetaCommon) => Summary::Common(Box::default()),
        }
    }

    pub fn answer_type(&self) -> DataType {
        match self {
            Kind::SumInteger | Kind::DistinctCount | Kind::Pairs(Statistic::Count) => {
                DataType::Int64
            }
            Kind::SumDecimal { precision, scale } => DataType::Decimal128(*precision, *scale),
            Kind::AverageDecimal { answer_scale, .. } => {
                DataType::Decimal128(DECIMAL128_MAX_PRECISION, *answer_scale)
            }
            Kind::Percentile(_, data_type) => data_type.clone(),
            Kind::Sketch(_) => DataType::Binary,
            _ => DataType::Float64,
        }
    }

    /// The columns of a state at rest.
    pub fn state_fields(&self, name: &str) -> Vec<FieldRef> {
        let field = |part: &str, data_type: DataType| {
            Arc::new(Field::new(format!("{name}[{part}]"), data_type, true))
        };
        match self {
            Kind::SumInteger | Kind::AverageInteger => {
                vec![field("sum", INTEGER_SUM), field("count", DataType::Int64)]
            }
            Kind::SumFloat | Kind::AverageFloat => {
                vec![
                    field("exact_sum", DataType::Binary),
                    field("count", DataType::Int64),
                ]
            }
            Kind::SumDecimal { scale, .. } | Kind::AverageDecimal { scale, .. } => vec![
                field("sum", decimal_sum(*scale)),
                field("count", DataType::Int64),
            ],
            Kind::Spread { .. } => vec![
                field("exact_sum", DataType::Binary),
                field("exact_squares", DataType::Binary),
                field("count", DataType::Int64),
            ],
            Kind::IntegerSpread { .. } => vec![
                field("sum", INTEGER_SUM),
                field("squares", decimal_sum(0)),
                field("count", DataType::Int64),
            ],
            Kind::Pairs(_) => {
                let sums =
                    Pairs::SUMS.map(|name| field(&format!("exact_{name}"), DataType::Binary));
                let count = field("count", DataType::Int64);
                sums.into_iter().chain([count]).collect()
            }
            Kind::DistinctCount | Kind::Sketch(Sketch::Hll(_)) => {
                vec![field("hll", DataType::Binary)]
            }
            Kind::Percentile(..) | Kind::Sketch(Sketch::Kll(_)) => {
                vec![field("kll", DataType::Binary)]
            }
            Kind::Sketch(Sketch::Theta(_) | Sketch::ThetaCommon) => {
                vec![field("theta", DataType::Binary)]
            }
        }
    }

    pub fn state_columns(&self, groups: &[Summary]) -> Vec<ArrayRef> {
        let counts = || -> ArrayRef {
            Arc::new(
                groups
                    .iter()
                    .map(|g| Some(g.count()))
                    .collect::<Int64Array>(),
            )
        };
        let bytes = |of: &dyn Fn(&Summary) -> Option<Vec<u8>>| bytes_of(groups, of);
        match self {
            Kind::SumInteger | Kind::AverageInteger => {
                let sums = groups.iter().map(|g| match g {
                    Summary::Integer { sum, .. } => Some(*sum),
                    _ => None,
                });
                let sums = sums
                    .collect::<Decimal128Array>()
                    .with_data_type(INTEGER_SUM);
                vec![Arc::new(sums), counts()]
            }
            Kind::SumFloat | Kind::AverageFloat => vec![
                bytes(&|g| match g {
                    Summary::Float { sum, .. } => Some(sum.to_bytes()),
                    _ => None,
                }),
                counts(),
            ],
            Kind::SumDecimal { scale, .. } | Kind::AverageDecimal { scale, .. } => {
                let sums = groups.iter().map(|g| match g {
                    Summary::Decimal { high, low, .. } => Some(total(*high, *low)),
                    _ => None,
                });
                let sums = sums
                    .collect::<Decimal256Array>()
                    .with_data_type(decimal_sum(*scale));
                vec![Arc::new(sums), counts()]
            }
            Kind::Spread { .. } => vec![
                bytes(&|g| match g {
                    Summary::Spread { sum, .. } => Some(sum.to_bytes()),
                    _ => None,
                }),
                bytes(&|g| match g {
                    Summary::Spread { squares, .. } => Some(squares.to_bytes()),
                    _ => None,
                }),
                counts(),
            ],
            Kind::IntegerSpread { .. } => {
                let sums = groups.iter().map(|g| match g {
                    Summary::IntegerSpread { sum, .. } => Some(*sum),
                    _ => None,
                });
                let squares = groups.iter().map(|g| match g {
                    Summary::IntegerSpread { high, low, .. } => Some(total(*high, *low)),
                    _ => None,
                });
                let sums = sums.collect::<Decimal128Array>();
                let squares = squares.collect::<Decimal256Array>();
                vec![
                    Arc::new(sums.with_data_type(INTEGER_SUM)),
                    Arc::new(squares.with_data_type(decimal_sum(0))),
                    counts(),
                ]
            }
            Kind::Pairs(_) => {
                let sums = (0..Pairs::SUMS.len()).map(|index| {
                    bytes(&|g| match g {
                        Summary::Pairs(pairs) => Some(pairs.sums()[index].to_bytes()),
                        _ => None,
                    })
                });
                sums.chain([counts()]).collect()
            }
            Kind::DistinctCount | Kind::Percentile(..) | Kind::Sketch(_) => {
                vec![bytes(&Summary::sketch)]
            }
        }
    }

    pub fn answer(&self, groups: &[Summary]) -> Result<ArrayRef> {
        let floats =
            |of: &dyn Fn(&Summary) -> Option<f64>| groups.iter().map(of).collect::<Float64Array>();
        Ok(match self {
            Kind::SumInteger => {
                let mut sums = Vec::with_capacity(groups.len());
                for group in groups {
                    sums.push(match group {
                        Summary::Integer { sum, count } if *count > 0 => match i64::try_from(*sum) {
                            Ok(sum) => Some(sum),
                            Err(_) => {
                                return Err(ValueError::out_of_range(format!(
                                    "bigint out of range: the sum is {sum}; sum a numeric instead: sum(x::numeric(38, 0))"
                                ))
                                .into());
                            }
                        },
                        _ => None,
                    });
                }
                Arc::new(Int64Array::from(sums))
            }
            Kind::SumFloat => Arc::new(floats(&|g| match g {
                Summary::Float { sum, count } if *count > 0 => Some(sum.value()),
                _ => None,
            })),
            Kind::SumDecimal { precision, scale } => {
                let sums = groups.iter().map(|group| match group {
                    Summary::Decimal { high, low, count } if *count > 0 => {
                        decimal::fitting(total(*high, *low), *precision, *scale).map(Some)
                    }
                    _ => Ok(None),
                });
                let sums = sums.collect::<Result<Decimal128Array, ValueError>>()?;
                Arc::new(sums.with_data_type(self.answer_type()))
            }
            Kind::AverageDecimal {
                scale,
                answer_scale,
            } => {
                let averages = groups.iter().map(|group| match group {
                    Summary::Decimal { high, low, count } if *count > 0 => {
                        let quotient = decimal::quotient(
                            (total(*high, *low), *scale),
                            (i256::from_i128(i128::from(*count)), 0),
                            *answer_scale,
                        )?;
                        decimal::fitting(quotient, DECIMAL128_MAX_PRECISION, *answer_scale)
                            .map(Some)
                    }
                    _ => Ok(None),
                });
                let averages = averages.collect::<Result<Decimal128Array, ValueError>>()?;
                Arc::new(averages.with_data_type(self.answer_type()))
            }
            Kind::AverageInteger => Arc::new(floats(&|g| match g {
                Summary::Integer { sum, count } if *count > 0 => Some(*sum as f64 / *count as f64),
                _ => None,
            })),
            Kind::AverageFloat => Arc::new(floats(&|g| match g {
                Summary::Float { sum, count } if *count > 0 => Some(sum.value() / *count as f64),
                _ => None,
            })),
            Kind::Spread { sample, root } => Arc::new(floats(&|g| match g {
                Summary::Spread {
                    sum,
                    squares,
                    count,
                } => spread(*count, *sample, *root, || {
                    squared_distances(*count, sum, squares)
                }),
                _ => None,
            })),
            Kind::IntegerSpread { sample, root } => Arc::new(floats(&|g| match g {
                Summary::IntegerSpread {
                    sum,
                    high,
                    low,
                    count,
                } => spread(*count, *sample, *root, || {
                    squared_distances_of_integers(*count, *sum, total(*high, *low))
                }),
                _ => None,
            })),
            Kind::Pairs(Statistic::Count) => {
                let counts = groups.iter().map(|g| Some(g.count()));
                Arc::new(counts.collect::<Int64Array>())
            }
            Kind::Pairs(statistic) => Arc::new(floats(&|g| match g {
                Summary::Pairs(pairs) => pairs.answer(*statistic),
                _ => None,
            })),
            Kind::DistinctCount => Arc::new(
                groups
                    .iter()
                    .map(|g| match g {
                        // Only the composite estimate is the same before and after a merge.
                        Summary::Distinct(Some(sketch)) => {
                            Some(sketch.composite_estimate().round() as i64)
                        }
                        _ => Some(0),
                    })
                    .collect::<Int64Array>(),
            ),
            Kind::Sketch(_) => bytes_of(groups, &Summary::sketch),
            Kind::Percentile(share, data_type) => {
                let values = floats(&|g| match g {
                    Summary::Percentile(Some(sketch)) => sketch
                        .quantile(*share, SearchCriteria::Inclusive)
                        .ok()
                        .flatten()
                        .map(KllFloat::into_inner),
                    _ => None,
                });
                cast(&values, data_type)?
            }
        })
    }
}

/// Variance or deviation from the sum of the squared distances; `None` if there are too few values.
fn spread(count: i64, sample: bool, root: bool, distances: impl FnOnce() -> f64) -> Option<f64> {
    let freedom = count - i64::from(sample);
    (freedom > 0).then(|| {
        let variance = distances() / freedom as f64;
        if root { variance.sqrt() } else { variance }
    })
}

/// Sums of decimals in 256 bits, of which 128 bits are spare.
pub fn decimal_sum(scale: i8) -> DataType {
    DataType::Decimal256(DECIMAL256_MAX_PRECISION, scale)
}

fn bytes_of(groups: &[Summary], of: &dyn Fn(&Summary) -> Option<Vec<u8>>) -> ArrayRef {
    Arc::new(BinaryArray::from_iter(groups.iter().map(of)))
}
