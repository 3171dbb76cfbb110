//! Our aggregates as DataFusion sees them.

use std::{hash::Hash, sync::Arc};

use arrow::{
    datatypes::{DECIMAL128_MAX_PRECISION, DataType, FieldRef, Schema},
    record_batch::RecordBatch,
};
use datafusion::{
    common::{Result, exec_err, not_impl_err, plan_err},
    logical_expr::{
        Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, GroupsAccumulator,
        ReversedUDAF, Signature,
        function::{AccumulatorArgs, StateFieldsArgs},
        utils::AggregateOrderSensitivity,
    },
    scalar::ScalarValue,
};

use super::{
    FloatSums,
    accumulate::{Grouped, Single},
    distinct::{DistinctValues, distinct_state},
    floats::Floats,
    integers,
    kind::Kind,
    pairs::Statistic,
};

/// Digits after the point of an average of decimals.
const AVERAGE_SCALE: i8 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Which {
    Sum,
    Average,
    Spread { sample: bool, root: bool },
    Pairs(Statistic),
    DistinctCount,
    Percentile,
}

/// One of our aggregates. Types that are no numbers (intervals) stay with DataFusion's own, and so do sums of
/// doubles where they are to be fast.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Exact {
    pub name: &'static str,
    pub aliases: Vec<String>,
    pub which: Which,
    pub stand_in: Arc<AggregateUDF>,
    pub float_sums: FloatSums,
    pub signature: Signature,
}

impl Exact {
    pub fn rounds_in_order(&self) -> bool {
        // Its states for doubles are DataFusion's.
        self.kind(&DataType::Float64, 0.0).is_none()
    }

    /// See [`super::state_columns`].
    pub fn state_columns(&self, argument: &DataType) -> Option<(Vec<FieldRef>, usize)> {
        let columns = self.kind(argument, 0.0)?.state_fields("");
        // The share that a percentile is of counts when it is read off.
        let arguments = match self.which {
            Which::Percentile => 1,
            _ => self.arguments(),
        };
        Some((columns, arguments))
    }

    fn is_spread(&self) -> bool {
        matches!(self.which, Which::Spread { .. })
    }

    /// How many arguments it takes.
    fn arguments(&self) -> usize {
        match self.which {
            Which::Percentile | Which::Pairs(_) => 2,
            _ => 1,
        }
    }

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
        let fast = self.float_sums == FloatSums::Fast;
        match self.which {
            Which::Sum if integer => Some(Kind::SumInteger),
            Which::Sum | Which::Average if float && fast => None,
            Which::Sum if float => Some(Kind::SumFloat),
            Which::Average if integer => Some(Kind::AverageInteger),
            Which::Average if float => Some(Kind::AverageFloat),
            Which::Sum | Which::Average => None,
            Which::Pairs(Statistic::Count) => Some(Kind::Pairs(Statistic::Count)),
            Which::Spread { .. } | Which::Pairs(_) if fast && !(integer && self.is_spread()) => {
                None
            }
            Which::Spread { sample, root } if integer => Some(Kind::IntegerSpread { sample, root }),
            Which::Spread { sample, root } => Some(Kind::Spread { sample, root }),
            Which::Pairs(statistic) => Some(Kind::Pairs(statistic)),
            Which::DistinctCount => Some(Kind::DistinctCount),
            Which::Percentile => Some(Kind::Percentile(percentile, argument.clone())),
        }
    }

    fn kind_of(&self, args: &AccumulatorArgs) -> Result<Option<Kind>> {
        if args.is_distinct && matches!(self.which, Which::Pairs(_)) {
            return not_impl_err!("{}(DISTINCT …) is not supported", self.name);
        }
        let percentile = match self.which {
            Which::Percentile => percentile_argument(args)?,
            _ => 0.0,
        };
        Ok(self.kind(args.expr_fields[0].data_type(), percentile))
    }

    fn takes(&self, argument: &DataType) -> bool {
        match self.which {
            Which::Sum | Which::Average => !argument.is_string() && *argument != DataType::Boolean,
            Which::Spread { .. } | Which::Pairs(_) => argument.is_numeric() || argument.is_null(),
            Which::Percentile => argument.is_numeric(),
            Which::DistinctCount => true,
        }
    }

    /// Whether only one of several equal values counts; for these, all that is kept are the values.
    fn of_distinct(&self, distinct: bool) -> bool {
        distinct && self.which != Which::DistinctCount
    }
}

/// `None` if each group has a summary of its own.
pub fn for_groups(kind: &Kind) -> Option<Box<dyn GroupsAccumulator>> {
    integers::of(kind).or_else(|| Floats::of(kind).map(|groups| Box::new(groups) as _))
}

/// Averages of decimals have at least 16 digits after the point, as in Postgres, if there is room for them.
fn average_scale(precision: u8, scale: i8) -> i8 {
    let digits_before = precision as i8 - scale;
    let room = DECIMAL128_MAX_PRECISION as i8 - digits_before;
    scale.max(AVERAGE_SCALE).min(room).max(scale)
}

fn percentile_argument(args: &AccumulatorArgs) -> Result<f64> {
    let share = share_argument(args)?;
    Ok(if is_descending(args) {
        1.0 - share
    } else {
        share
    })
}

/// The share that a percentile is of, from 0 to 1.
pub fn share_argument(args: &AccumulatorArgs) -> Result<f64> {
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
    Ok(share)
}

/// Whether the values of a percentile are counted from the greatest.
pub fn is_descending(args: &AccumulatorArgs) -> bool {
    args.order_bys
        .first()
        .is_some_and(|order| order.options.descending)
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
        !matches!(
            self.which,
            Which::DistinctCount | Which::Pairs(Statistic::Count)
        )
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let expected = self.arguments();
        if arguments.len() != expected {
            return plan_err!(
                "{} takes {expected} argument(s), not {}",
                self.name,
                arguments.len()
            );
        }
        if let Some(other) = arguments.iter().find(|argument| !self.takes(argument)) {
            return plan_err!(
                "No function matches: {} takes numbers, not {other}; cast it first",
                self.name
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
                other => other.clone(),
            },
            Which::Spread { .. } if argument.is_signed_integer() => DataType::Int64,
            Which::Spread { .. } | Which::Pairs(_) => DataType::Float64,
            Which::Percentile | Which::DistinctCount => argument.clone(),
        };
        Ok(match self.which {
            Which::Percentile | Which::Pairs(_) => vec![coerced, DataType::Float64],
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
            Some(kind) => Ok(for_groups(&kind).unwrap_or_else(|| {
                Box::new(Grouped {
                    kind,
                    groups: Vec::new(),
                })
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
            Which::DistinctCount | Which::Pairs(Statistic::Count) => {
                Ok(ScalarValue::Int64(Some(0)))
            }
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
