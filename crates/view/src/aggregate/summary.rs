//! One group's state of one of our aggregates, and how states are stored, merged and answered.

use std::{fmt::Debug, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, Decimal256Array,
        Float64Array, Int64Array,
    },
    compute::cast,
    datatypes::{
        DECIMAL128_MAX_PRECISION, DECIMAL256_MAX_PRECISION, DataType, Decimal128Type,
        Decimal256Type, Field, FieldRef, Float64Type, Int64Type, i256,
    },
};
use datafusion::{
    common::{Result, exec_err},
    logical_expr::{Accumulator, EmitTo, GroupsAccumulator},
    scalar::ScalarValue,
};
use datasketches::{
    common::SearchCriteria,
    hash::value::raw_bytes,
    hll::{HllSketch, HllType, HllUnion},
    kll::{KllFloat, KllSketch},
};

use super::exact_sum::{ExactSum, squared_distances};
use crate::postgres::{ValueError, decimal};

/// HyperLogLog with 2^12 registers: relative standard error 1.6 %.
const HLL_LG_K: u8 = 12;
/// KLL with k = 400: a rank is off by less than 0.7 % of the values, with 99 % confidence.
const KLL_K: u16 = 400;
/// Sums of 64-bit integers in 128 bits: cannot overflow before 2^63 records.
const INTEGER_SUM: DataType = DataType::Decimal128(38, 0);

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
    DistinctCount,
    /// The share of values below the answer, 0 to 1, and the type of the answer.
    Percentile(f64, DataType),
}

/// The state of one group.
#[derive(Debug, Clone)]
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
    Spread {
        sum: ExactSum,
        squares: ExactSum,
        count: i64,
    },
    Distinct(Option<Box<HllSketch>>),
    Percentile(Option<Box<KllSketch<KllFloat<f64>>>>),
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
                sum: ExactSum::default(),
                squares: ExactSum::default(),
                count: 0,
            },
            Kind::DistinctCount => Summary::Distinct(None),
            Kind::Percentile(..) => Summary::Percentile(None),
        }
    }

    pub fn answer_type(&self) -> DataType {
        match self {
            Kind::SumInteger | Kind::DistinctCount => DataType::Int64,
            Kind::SumDecimal { precision, scale } => DataType::Decimal128(*precision, *scale),
            Kind::AverageDecimal { answer_scale, .. } => {
                DataType::Decimal128(DECIMAL128_MAX_PRECISION, *answer_scale)
            }
            Kind::Percentile(_, data_type) => data_type.clone(),
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
            Kind::DistinctCount => vec![field("hll", DataType::Binary)],
            Kind::Percentile(..) => vec![field("kll", DataType::Binary)],
        }
    }

    fn state_columns(&self, groups: &[Summary]) -> Vec<ArrayRef> {
        let counts = || -> ArrayRef {
            Arc::new(
                groups
                    .iter()
                    .map(|g| Some(g.count()))
                    .collect::<Int64Array>(),
            )
        };
        let bytes = |of: &dyn Fn(&Summary) -> Option<Vec<u8>>| -> ArrayRef {
            Arc::new(BinaryArray::from_iter(groups.iter().map(of)))
        };
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
            Kind::DistinctCount => vec![bytes(&|g| match g {
                Summary::Distinct(sketch) => sketch.as_ref().map(|sketch| sketch.serialize()),
                _ => None,
            })],
            Kind::Percentile(..) => vec![bytes(&|g| match g {
                Summary::Percentile(sketch) => sketch.as_ref().map(|sketch| sketch.serialize()),
                _ => None,
            })],
        }
    }

    fn answer(&self, groups: &[Summary]) -> Result<ArrayRef> {
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
                } => {
                    let freedom = count - i64::from(*sample);
                    (freedom > 0).then(|| {
                        let variance =
                            squared_distances(*count as u64, sum, squares) / freedom as f64;
                        if *root { variance.sqrt() } else { variance }
                    })
                }
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

/// The argument column, in the type that the summary takes.
enum Input {
    Integers(Int64Array),
    Floats(Float64Array),
    Decimals(Decimal128Array),
    Any(ArrayRef),
}

impl Input {
    fn new(kind: &Kind, values: &ArrayRef) -> Result<Input> {
        Ok(match kind {
            Kind::SumInteger | Kind::AverageInteger => Input::Integers(
                cast(values, &DataType::Int64)?
                    .as_primitive::<Int64Type>()
                    .clone(),
            ),
            Kind::SumDecimal { .. } | Kind::AverageDecimal { .. } => {
                Input::Decimals(values.as_primitive::<Decimal128Type>().clone())
            }
            Kind::DistinctCount => Input::Any(match values.data_type() {
                // Strings of every layout and integers of every width count as equal when their values are.
                DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => {
                    cast(values, &DataType::Utf8)?
                }
                DataType::Int8
                | DataType::Int16
                | DataType::Int32
                | DataType::UInt8
                | DataType::UInt16
                | DataType::UInt32
                | DataType::Timestamp(..)
                | DataType::Date32 => cast(&cast_date(values)?, &DataType::Int64)?,
                DataType::Float32 => cast(values, &DataType::Float64)?,
                _ => Arc::clone(values),
            }),
            _ => Input::Floats(
                cast(values, &DataType::Float64)?
                    .as_primitive::<Float64Type>()
                    .clone(),
            ),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Input::Integers(values) => values.is_null(row),
            Input::Floats(values) => values.is_null(row),
            Input::Decimals(values) => values.is_null(row),
            Input::Any(values) => values.is_null(row),
        }
    }
}

/// Dates cast to 64-bit integers only by way of 32 bits.
fn cast_date(values: &ArrayRef) -> Result<ArrayRef> {
    Ok(match values.data_type() {
        DataType::Date32 => cast(values, &DataType::Int32)?,
        _ => Arc::clone(values),
    })
}

impl Summary {
    fn count(&self) -> i64 {
        match self {
            Summary::Integer { count, .. }
            | Summary::Float { count, .. }
            | Summary::Decimal { count, .. }
            | Summary::Spread { count, .. } => *count,
            _ => 0,
        }
    }

    #[inline]
    fn update(&mut self, input: &Input, row: usize, times: i64) -> Result<()> {
        match (self, input) {
            (Summary::Integer { sum, count }, Input::Integers(values)) => {
                *sum += i128::from(values.value(row)) * i128::from(times);
                *count += times;
            }
            (Summary::Float { sum, count }, Input::Floats(values)) => {
                if times > 0 {
                    sum.add(values.value(row));
                } else {
                    sum.subtract(values.value(row));
                }
                *count += times;
            }
            (Summary::Decimal { high, low, count }, Input::Decimals(values)) => {
                // Decimals have at most 38 digits: turning the sign cannot overflow.
                add_decimal(high, low, values.value(row) * i128::from(times));
                *count += times;
            }
            (
                Summary::Spread {
                    sum,
                    squares,
                    count,
                },
                Input::Floats(values),
            ) if times > 0 => {
                sum.add(values.value(row));
                squares.add_square(values.value(row));
                *count += 1;
            }
            (Summary::Distinct(sketch), Input::Any(values)) => {
                let sketch = match sketch {
                    Some(sketch) => sketch,
                    None => sketch.insert(Box::new(new_hll())),
                };
                update_distinct(sketch, values, row)?;
            }
            (Summary::Percentile(sketch), Input::Floats(values)) => {
                // A NaN has no rank; like NULL it is left out.
                if let Ok(value) = KllFloat::<f64>::new(values.value(row)) {
                    match sketch {
                        Some(sketch) => sketch.update(value),
                        None => sketch.insert(Box::new(new_kll())).update(value),
                    }
                }
            }
            _ => return exec_err!("this aggregate cannot be computed over a sliding window"),
        }
        Ok(())
    }

    fn merge(&mut self, states: &[ArrayRef], row: usize) -> Result<()> {
        let damaged = || {
            datafusion::error::DataFusionError::Execution("a stored state is damaged".to_owned())
        };
        let counted = |column: &ArrayRef| column.as_primitive::<Int64Type>().value(row);
        let exact = |column: &ArrayRef| {
            ExactSum::from_bytes(column.as_binary::<i32>().value(row)).ok_or_else(damaged)
        };
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
            Summary::Distinct(held) => {
                let bytes = states[0].as_binary::<i32>().value(row);
                let other = HllSketch::deserialize(bytes).map_err(|_| damaged())?;
                *held = match held.take() {
                    None => Some(Box::new(other)),
                    Some(sketch) => {
                        let mut union = HllUnion::new(HLL_LG_K).expect("a valid lg k");
                        union.update(&sketch);
                        union.update(&other);
                        Some(Box::new(union.to_sketch(HllType::Hll8)))
                    }
                };
            }
            Summary::Percentile(held) => {
                let bytes = states[0].as_binary::<i32>().value(row);
                let other =
                    KllSketch::<KllFloat<f64>>::deserialize(bytes).map_err(|_| damaged())?;
                match held {
                    None => *held = Some(Box::new(other)),
                    Some(sketch) => sketch.merge(&other).map_err(|_| damaged())?,
                }
            }
        }
        Ok(())
    }

    fn bytes_held(&self) -> usize {
        let apart = match self {
            Summary::Integer { .. } | Summary::Decimal { .. } => 0,
            Summary::Float { sum, .. } => sum.bytes_held(),
            Summary::Spread { sum, squares, .. } => sum.bytes_held() + squares.bytes_held(),
            Summary::Distinct(sketch) => {
                sketch.as_ref().map_or(0, |sketch| sketch.estimated_size())
            }
            Summary::Percentile(sketch) => sketch
                .as_ref()
                .map_or(0, |sketch| sketch.num_retained() * 8 + 64),
        };
        size_of::<Summary>() + apart
    }
}

/// Sums of decimals in 256 bits, of which 128 bits are spare.
fn decimal_sum(scale: i8) -> DataType {
    DataType::Decimal256(DECIMAL256_MAX_PRECISION, scale)
}

fn total(high: i256, low: i128) -> i256 {
    high.wrapping_add(i256::from_i128(low))
}

#[inline]
fn add_decimal(high: &mut i256, low: &mut i128, value: i128) {
    match low.checked_add(value) {
        Some(sum) => *low = sum,
        None => {
            *high = total(*high, *low);
            *low = value;
        }
    }
}

fn new_hll() -> HllSketch {
    HllSketch::new(HLL_LG_K, HllType::Hll8).expect("a valid lg k")
}

fn new_kll() -> KllSketch<KllFloat<f64>> {
    KllSketch::new(KLL_K).expect("a valid k")
}

/// Reads back a stored percentile state; audits compare ranks in it.
pub fn percentile_state(bytes: &[u8]) -> Option<KllSketch<KllFloat<f64>>> {
    KllSketch::deserialize(bytes).ok()
}

fn update_distinct(sketch: &mut HllSketch, values: &ArrayRef, row: usize) -> Result<()> {
    match values.data_type() {
        DataType::Utf8 => sketch.update(raw_bytes::from_str(values.as_string::<i32>().value(row))),
        DataType::Binary => {
            sketch.update(raw_bytes::from_slice(values.as_binary::<i32>().value(row)))
        }
        DataType::Int64 => sketch.update(values.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => {
            // -0.0 and 0.0 are one value, and so are all NaNs.
            let value = values.as_primitive::<Float64Type>().value(row);
            let canonical = if value == 0.0 {
                0.0
            } else if value.is_nan() {
                f64::NAN
            } else {
                value
            };
            sketch.update(canonical.to_bits());
        }
        DataType::Boolean => sketch.update(i64::from(values.as_boolean().value(row))),
        _ => {
            let text = ScalarValue::try_from_array(values, row)?.to_string();
            sketch.update(raw_bytes::from_str(&text));
        }
    }
    Ok(())
}

/// One summary, for aggregation without groups and for windows.
#[derive(Debug)]
pub struct Single {
    pub kind: Kind,
    pub summary: Summary,
}

impl Accumulator for Single {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let input = Input::new(&self.kind, &values[0])?;
        for row in (0..values[0].len()).filter(|row| !input.is_null(*row)) {
            self.summary.update(&input, row, 1)?;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let input = Input::new(&self.kind, &values[0])?;
        for row in (0..values[0].len()).filter(|row| !input.is_null(*row)) {
            self.summary.update(&input, row, -1)?;
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        matches!(
            self.summary,
            Summary::Integer { .. } | Summary::Float { .. } | Summary::Decimal { .. }
        )
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        (0..states[0].len()).try_for_each(|row| self.summary.merge(states, row))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let columns = self.kind.state_columns(std::slice::from_ref(&self.summary));
        columns
            .iter()
            .map(|column| ScalarValue::try_from_array(column, 0))
            .collect()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.kind.answer(std::slice::from_ref(&self.summary))?, 0)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.summary.bytes_held()
    }
}

/// A summary for every group.
#[derive(Debug)]
pub struct Grouped {
    pub kind: Kind,
    pub groups: Vec<Summary>,
}

impl Grouped {
    fn grow(&mut self, groups: usize) {
        let kind = &self.kind;
        self.groups
            .resize_with(groups.max(self.groups.len()), || kind.empty());
    }
}

impl GroupsAccumulator for Grouped {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        let input = Input::new(&self.kind, &values[0])?;
        for (row, &group) in group_indices.iter().enumerate() {
            let chosen = opt_filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
            if chosen && !input.is_null(row) {
                self.groups[group].update(&input, row, 1)?;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = emit_to.take_needed(&mut self.groups);
        self.kind.answer(&groups)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = emit_to.take_needed(&mut self.groups);
        Ok(self.kind.state_columns(&groups))
    }

    fn merge_batch(
        &mut self,
        states: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.grow(total_num_groups);
        for (row, &group) in group_indices.iter().enumerate() {
            self.groups[group].merge(states, row)?;
        }
        Ok(())
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let rows = values[0].len();
        let mut each = Grouped {
            kind: self.kind.clone(),
            groups: Vec::new(),
        };
        each.update_batch(values, &(0..rows).collect::<Vec<_>>(), opt_filter, rows)?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        // Asked after every batch: sampling keeps it cheap for many groups.
        const SAMPLE: usize = 64;
        let step = (self.groups.len() / SAMPLE).max(1);
        let sampled: Vec<usize> = self
            .groups
            .iter()
            .step_by(step)
            .map(Summary::bytes_held)
            .collect();
        let mean = sampled.iter().sum::<usize>() / sampled.len().max(1);
        self.groups.capacity() * size_of::<Summary>()
            + self.groups.len() * mean.saturating_sub(size_of::<Summary>())
    }
}
