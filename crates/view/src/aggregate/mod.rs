//! The aggregates whose states Lambic defines itself: exact sums and DataSketches.
//!
//! DataFusion's own sums of doubles depend on the order of the rows, and the bytes of its sketches are
//! internal to one version of it. Both would break the merge law: what was merged from batch and speed
//! must equal what is recomputed from scratch, bit for bit, and states must stay readable. Its sums of
//! decimals wrap around, and its grouped `min` and `max` of doubles invent values where there are infinities
//! and NaN. All other aggregates (count, `min` and `max` of other types, …) are DataFusion's.

mod distinct;
pub mod exact_sum;
mod extreme;
pub mod summary;

use std::{hash::Hash, sync::Arc};

use arrow::{
    datatypes::{DECIMAL128_MAX_PRECISION, DataType, FieldRef, Schema},
    record_batch::RecordBatch,
};
use datafusion::{
    common::{Result, exec_err, plan_err},
    functions_aggregate,
    logical_expr::ColumnarValue,
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, Signature,
        Volatility,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::AggregateOrderSensitivity,
    },
    scalar::ScalarValue,
};

use distinct::{DistinctValues, distinct_state};
use extreme::Extreme;
use summary::{Grouped, Kind, Single};

/// The states written by these aggregates; raise it when their bytes change, so that views recompute.
pub const STATE_ENCODING: u32 = 2;

/// Digits after the point of an average of decimals.
const AVERAGE_SCALE: i8 = 16;

/// Our aggregates, under the names of those that they stand in for.
pub fn all() -> Vec<AggregateUDF> {
    let names: [(&'static str, &[&str], Which, Arc<AggregateUDF>); 8] = [
        ("sum", &[], Which::Sum, functions_aggregate::sum::sum_udaf()),
        (
            "avg",
            &["mean"],
            Which::Average,
            functions_aggregate::average::avg_udaf(),
        ),
        (
            "stddev",
            &["stddev_samp"],
            Which::Spread {
                sample: true,
                root: true,
            },
            functions_aggregate::stddev::stddev_udaf(),
        ),
        (
            "stddev_pop",
            &[],
            Which::Spread {
                sample: false,
                root: true,
            },
            functions_aggregate::stddev::stddev_pop_udaf(),
        ),
        (
            "var",
            &["var_samp", "var_sample", "variance"],
            Which::Spread {
                sample: true,
                root: false,
            },
            functions_aggregate::variance::var_samp_udaf(),
        ),
        (
            "var_pop",
            &["var_population", "variance_pop"],
            Which::Spread {
                sample: false,
                root: false,
            },
            functions_aggregate::variance::var_pop_udaf(),
        ),
        (
            "approx_distinct",
            &[],
            Which::DistinctCount,
            functions_aggregate::approx_distinct::approx_distinct_udaf(),
        ),
        (
            "approx_percentile_cont",
            &[],
            Which::Percentile,
            functions_aggregate::approx_percentile_cont::approx_percentile_cont_udaf(),
        ),
    ];
    let extremes = [
        Extreme::least(functions_aggregate::min_max::min_udaf()),
        Extreme::greatest(functions_aggregate::min_max::max_udaf()),
    ];
    names
        .into_iter()
        .map(|(name, aliases, which, stand_in)| {
            let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
            let signature = Signature::user_defined(Volatility::Immutable);
            AggregateUDF::from(Exact {
                name,
                aliases,
                which,
                stand_in,
                signature,
            })
        })
        .chain(extremes.map(AggregateUDF::from))
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Which {
    Sum,
    Average,
    Spread { sample: bool, root: bool },
    DistinctCount,
    Percentile,
}

/// One of our aggregates. Types that are no numbers (intervals) stay with DataFusion's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Exact {
    name: &'static str,
    aliases: Vec<String>,
    which: Which,
    stand_in: Arc<AggregateUDF>,
    signature: Signature,
}

impl Exact {
    /// `None`: DataFusion's own does it.
    fn kind(&self, argument: &DataType, percentile: f64) -> Option<Kind> {
        let integer = argument.is_signed_integer()
            || matches!(
                argument,
                DataType::UInt8 | DataType::UInt16 | DataType::UInt32
            );
        let float = argument.is_floating();
        match (self.which, argument) {
            (Which::Sum, DataType::Decimal128(precision, scale)) => {
                return Some(Kind::SumDecimal {
                    precision: (precision + 10).min(DECIMAL128_MAX_PRECISION),
                    scale: *scale,
                });
            }
            (Which::Average, DataType::Decimal128(precision, scale)) => {
                return Some(Kind::AverageDecimal {
                    scale: *scale,
                    answer_scale: average_scale(*precision, *scale),
                });
            }
            _ => {}
        }
        match self.which {
            Which::Sum if integer => Some(Kind::SumInteger),
            Which::Sum if float => Some(Kind::SumFloat),
            Which::Average if integer => Some(Kind::AverageInteger),
            Which::Average if float => Some(Kind::AverageFloat),
            Which::Sum | Which::Average => None,
            Which::Spread { sample, root } => Some(Kind::Spread { sample, root }),
            Which::DistinctCount => Some(Kind::DistinctCount),
            Which::Percentile => Some(Kind::Percentile(percentile, argument.clone())),
        }
    }

    fn kind_of(&self, args: &AccumulatorArgs) -> Result<Option<Kind>> {
        let percentile = match self.which {
            Which::Percentile => percentile_argument(args)?,
            _ => 0.0,
        };
        Ok(self.kind(args.expr_fields[0].data_type(), percentile))
    }

    /// Whether only one of several equal values counts; for these, all that is kept are the values.
    fn of_distinct(&self, distinct: bool) -> bool {
        distinct && self.which != Which::DistinctCount
    }
}

/// Averages of decimals have at least 16 digits after the point, as in Postgres, if there is room for them.
fn average_scale(precision: u8, scale: i8) -> i8 {
    let digits_before = precision as i8 - scale;
    let room = DECIMAL128_MAX_PRECISION as i8 - digits_before;
    scale.max(AVERAGE_SCALE).min(room).max(scale)
}

fn percentile_argument(args: &AccumulatorArgs) -> Result<f64> {
    let nothing = RecordBatch::new_empty(Arc::new(Schema::empty()));
    // A literal, perhaps in a cast: it is the same without any row.
    let literal = args
        .exprs
        .get(1)
        .and_then(|expr| expr.evaluate(&nothing).ok());
    let share = match literal {
        Some(ColumnarValue::Scalar(share)) => match share.cast_to(&DataType::Float64)? {
            ScalarValue::Float64(Some(share)) => share,
            _ => return exec_err!("the percentile must be a number from 0 to 1"),
        },
        _ => return exec_err!("the percentile must be a literal number from 0 to 1"),
    };
    if !(0.0..=1.0).contains(&share) {
        return exec_err!("the percentile must be from 0 to 1, not {share}");
    }
    let descending = args
        .order_bys
        .first()
        .is_some_and(|order| order.options.descending);
    Ok(if descending { 1.0 - share } else { share })
}

impl AggregateUDFImpl for Exact {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let Some(argument) = arguments.first() else {
            return plan_err!("{} takes an argument", self.name);
        };
        match self.kind(argument, 0.0) {
            Some(kind) => Ok(kind.answer_type()),
            None => self.stand_in.return_type(arguments),
        }
    }

    fn is_nullable(&self) -> bool {
        self.which != Which::DistinctCount
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let expected = if self.which == Which::Percentile {
            2
        } else {
            1
        };
        if arguments.len() != expected {
            return plan_err!(
                "{} takes {expected} argument(s), not {}",
                self.name,
                arguments.len()
            );
        }
        let argument = &arguments[0];
        let coerced = match self.which {
            Which::Sum | Which::Average => match argument {
                _ if argument.is_signed_integer() => DataType::Int64,
                DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => DataType::Int64,
                DataType::UInt64 => DataType::Decimal128(20, 0),
                _ if argument.is_floating() => DataType::Float64,
                DataType::Null => DataType::Int64,
                DataType::Dictionary(_, value) => {
                    return self.coerce_types(&[value.as_ref().clone()]);
                }
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Boolean => {
                    return plan_err!(
                        "No function matches: {} takes numbers, not {argument}; cast it first",
                        self.name
                    );
                }
                other => other.clone(),
            },
            Which::Spread { .. } if argument.is_numeric() || argument.is_null() => {
                DataType::Float64
            }
            Which::Percentile if argument.is_numeric() => argument.clone(),
            Which::Spread { .. } | Which::Percentile => {
                return plan_err!(
                    "No function matches: {} takes numbers, not {argument}; cast it first",
                    self.name
                );
            }
            Which::DistinctCount => argument.clone(),
        };
        Ok(match self.which {
            Which::Percentile => vec![coerced, DataType::Float64],
            _ => vec![coerced],
        })
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match self.kind_of(&args)? {
            Some(kind) if self.of_distinct(args.is_distinct) => {
                let data_type = args.expr_fields[0].data_type();
                Ok(Box::new(DistinctValues::new(kind, data_type)))
            }
            Some(kind) => {
                let summary = kind.empty();
                Ok(Box::new(Single { kind, summary }))
            }
            None => self.stand_in.accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let argument = args.input_fields[0].data_type();
        match self.kind(argument, 0.0) {
            Some(_) if self.of_distinct(args.is_distinct) => {
                Ok(vec![distinct_state(args.name, argument)])
            }
            Some(kind) => Ok(kind.state_fields(args.name)),
            None => self.stand_in.state_fields(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        match self.kind_of(&args) {
            Ok(Some(_)) => !self.of_distinct(args.is_distinct),
            Ok(None) => self.stand_in.groups_accumulator_supported(args),
            Err(_) => false,
        }
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        match self.kind_of(&args)? {
            Some(kind) => Ok(Box::new(Grouped {
                kind,
                groups: Vec::new(),
            })),
            None => self.stand_in.create_groups_accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        match self.kind_of(&args)? {
            Some(_) => self.accumulator(args),
            None => self.stand_in.create_sliding_accumulator(args),
        }
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        match self.which {
            Which::DistinctCount => Ok(ScalarValue::Int64(Some(0))),
            _ => ScalarValue::try_from(data_type),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.which {
            Which::Percentile => ReversedUDAF::NotSupported,
            _ => ReversedUDAF::Identical,
        }
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn supports_within_group_clause(&self) -> bool {
        self.which == Which::Percentile
    }
}
