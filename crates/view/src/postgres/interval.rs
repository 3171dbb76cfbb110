//! Intervals as Postgres compares them: by their length, a month being 30 days and a day 24 hours.

use std::sync::Arc;

use arrow::{
    array::{AsArray, Decimal128Array},
    compute::cast,
    datatypes::{
        DECIMAL128_MAX_PRECISION, DataType, IntervalMonthDayNano, IntervalMonthDayNanoType,
        IntervalUnit,
    },
};
use datafusion::{
    common::{Result, plan_err},
    logical_expr::{ColumnarValue, Expr},
    scalar::ScalarValue,
};

use super::function::{self, Meaning};

const DAYS_OF_A_MONTH: i128 = 30;
const NANOSECONDS_OF_A_DAY: i128 = 86_400_000_000_000;

/// The length of an interval in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Length;

impl Length {
    pub fn of(interval: Expr) -> Expr {
        function::call(Length, vec![interval])
    }
}

pub fn is_interval(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Interval(_))
}

fn length(interval: IntervalMonthDayNano) -> i128 {
    let days = i128::from(interval.months) * DAYS_OF_A_MONTH + i128::from(interval.days);
    days * NANOSECONDS_OF_A_DAY + i128::from(interval.nanoseconds)
}

impl Meaning for Length {
    fn name(&self) -> &'static str {
        "interval_length"
    }

    fn returns(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0))
    }

    fn compute(&self, arguments: &[ColumnarValue], rows: usize) -> Result<ColumnarValue> {
        let [intervals] = arguments else {
            return plan_err!("{} takes one argument", self.name());
        };
        let is_scalar = matches!(intervals, ColumnarValue::Scalar(_));
        let intervals = intervals.to_array(if is_scalar { 1 } else { rows })?;
        let intervals = cast(&intervals, &DataType::Interval(IntervalUnit::MonthDayNano))?;
        let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
        let lengths: Decimal128Array = intervals.iter().map(|one| one.map(length)).collect();
        let lengths = lengths.with_precision_and_scale(DECIMAL128_MAX_PRECISION, 0)?;
        Ok(match is_scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&lengths, 0)?),
            false => ColumnarValue::Array(Arc::new(lengths)),
        })
    }

    fn stands_for(&self, arguments: &[Expr]) -> Option<Expr> {
        arguments.first().cloned()
    }
}
