//! Intervals times numbers, and divided by them: a fraction of a month becomes days, of 30 a month, and a fraction of
//! a day becomes time.
//!
//! The steps and their roundings are those of Postgres's `interval_mul` and `interval_div`, so that the same comes out.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, IntervalMonthDayNanoArray},
    datatypes::{
        DataType, Field, Float64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit,
    },
};
use datafusion::{
    common::{DFSchema, Result, plan_err},
    logical_expr::{
        ColumnarValue, Expr, ExprSchemable, Operator,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr},
    },
    scalar::ScalarValue,
    sql::sqlparser::ast::BinaryOperator,
};

use super::{
    ValueError,
    arithmetic::binary,
    function::{self, Meaning},
    interval::is_interval,
};

const DAYS_OF_A_MONTH: f64 = 30.0;
const SECONDS_OF_A_DAY: f64 = 86_400.0;

/// Takes `*` and `/` of an interval and a number before DataFusion does, which makes two intervals of them.
#[derive(Debug)]
pub struct Scaling;

impl ExprPlanner for Scaling {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let operator = match expr.op {
            BinaryOperator::Multiply => Operator::Multiply,
            BinaryOperator::Divide => Operator::Divide,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let (left, right) = (&expr.left, &expr.right);
        let interval_first = gives_interval(left, schema);
        let is_scaled = match interval_first {
            true => gives_number(right, schema),
            false => {
                operator == Operator::Multiply
                    && gives_interval(right, schema)
                    && gives_number(left, schema)
            }
        };
        if !is_scaled {
            return Ok(PlannerResult::Original(expr));
        }
        let scaled = Scaled {
            operator,
            interval_first,
        };
        let operands = vec![as_number(expr.left), as_number(expr.right)];
        Ok(PlannerResult::Planned(function::call(scaled, operands)))
    }
}

/// Differences of times are durations to DataFusion.
fn gives_interval(expr: &Expr, schema: &DFSchema) -> bool {
    if function::called::<Scaled>(expr).is_some() {
        return true;
    }
    match expr {
        // Any other operator over an interval was taken already; not to ask keeps long chains cheap.
        Expr::BinaryExpr(binary) if !matches!(binary.op, Operator::Plus | Operator::Minus) => false,
        expr => expr.get_type(schema).is_ok_and(|data_type| {
            is_interval(&data_type) || matches!(data_type, DataType::Duration(_))
        }),
    }
}

/// Also NULL, and parameters of which no type is known yet.
fn gives_number(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema)
        .is_ok_and(|data_type| data_type.is_numeric() || data_type.is_null())
}

/// A parameter without a type is a double precision here, as in Postgres.
fn as_number(expr: Expr) -> Expr {
    match expr {
        Expr::Placeholder(mut placeholder) if placeholder.field.is_none() => {
            let field = Field::new("", DataType::Float64, true);
            placeholder.field = Some(Arc::new(field));
            Expr::Placeholder(placeholder)
        }
        other => other,
    }
}

/// An interval and a number, in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Scaled {
    operator: Operator,
    interval_first: bool,
}

impl Scaled {
    fn of(
        self,
        interval: IntervalMonthDayNano,
        number: f64,
    ) -> Result<IntervalMonthDayNano, ValueError> {
        let scaled = match self.operator {
            Operator::Divide if number == 0.0 => return Err(ValueError::division_by_zero()),
            Operator::Divide => cascaded(interval, |part| part / number),
            _ => cascaded(interval, |part| part * number),
        };
        scaled.ok_or_else(|| ValueError::new("22008", "interval out of range"))
    }
}

/// The interval of which each part is scaled; `None` if it does not fit.
fn cascaded(
    interval: IntervalMonthDayNano,
    scale: impl Fn(f64) -> f64,
) -> Option<IntervalMonthDayNano> {
    let scaled_months = scale(f64::from(interval.months));
    let scaled_days = scale(f64::from(interval.days));
    // What is not finite ends here, since all parts are scaled by the same.
    let (months, days) = (whole(scaled_months)?, whole(scaled_days)?);
    let days_of_months = to_micros((scaled_months - f64::from(months)) * DAYS_OF_A_MONTH);
    let days_left =
        scaled_days - f64::from(days) + days_of_months - f64::from(whole(days_of_months)?);
    let seconds = to_micros(days_left * SECONDS_OF_A_DAY);
    let days_of_seconds = whole(seconds / SECONDS_OF_A_DAY)?;
    let seconds = seconds - f64::from(days_of_seconds) * SECONDS_OF_A_DAY;
    let days = days
        .checked_add(days_of_seconds)?
        .checked_add(whole(days_of_months)?)?;
    // Not by way of nanoseconds, of which a double does not hold every one.
    let time = (interval.nanoseconds / 1_000) as f64 + (interval.nanoseconds % 1_000) as f64 / 1e3;
    let micros = scale(time) + seconds * 1e6;
    // What is too large for it becomes the largest, which does not fit as nanoseconds.
    let nanoseconds = (micros.round_ties_even() as i64).checked_mul(1_000)?;
    Some(IntervalMonthDayNano::new(months, days, nanoseconds))
}

/// Without its fraction.
fn whole(value: f64) -> Option<i32> {
    let value = value.trunc();
    let fits = (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&value);
    fits.then_some(value as i32)
}

/// To six places: what should have been whole becomes it.
fn to_micros(value: f64) -> f64 {
    (value * 1e6).round_ties_even() / 1e6
}

impl Meaning for Scaled {
    fn name(&self) -> &'static str {
        match self.operator {
            Operator::Divide => "interval_divide",
            _ => "interval_multiply",
        }
    }

    fn returns(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Interval(IntervalUnit::MonthDayNano))
    }

    /// The number is a double, as in Postgres, whatever it was.
    fn coerce(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let interval = DataType::Interval(IntervalUnit::MonthDayNano);
        match (arguments.len(), self.interval_first) {
            (2, true) => Ok(vec![interval, DataType::Float64]),
            (2, false) => Ok(vec![DataType::Float64, interval]),
            _ => plan_err!("{} takes two arguments", self.name()),
        }
    }

    fn compute(&self, arguments: &[ColumnarValue], rows: usize) -> Result<ColumnarValue> {
        let (intervals, numbers) = match (arguments, self.interval_first) {
            ([intervals, numbers], true) | ([numbers, intervals], false) => (intervals, numbers),
            _ => return plan_err!("{} takes two arguments", self.name()),
        };
        let are_scalars = arguments
            .iter()
            .all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if are_scalars { 1 } else { rows };
        let (intervals, numbers) = (intervals.to_array(rows)?, numbers.to_array(rows)?);
        let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
        let numbers = numbers.as_primitive::<Float64Type>();
        let scaled = intervals.iter().zip(numbers).map(|pair| match pair {
            (Some(interval), Some(number)) => self.of(interval, number).map(Some),
            _ => Ok(None),
        });
        let scaled = scaled.collect::<Result<IntervalMonthDayNanoArray, ValueError>>()?;
        let scaled: ArrayRef = Arc::new(scaled);
        Ok(match are_scalars {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&scaled, 0)?),
            false => ColumnarValue::Array(scaled),
        })
    }

    fn stands_for(&self, arguments: &[Expr]) -> Option<Expr> {
        binary(arguments, self.operator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parts = (i32, i32, i64);

    fn scaled(operator: Operator, (months, days, micros): Parts, number: f64) -> Option<Parts> {
        let scaled = Scaled {
            operator,
            interval_first: true,
        };
        let interval = IntervalMonthDayNano::new(months, days, micros * 1_000);
        let found = scaled.of(interval, number).ok()?;
        Some((found.months, found.days, found.nanoseconds / 1_000))
    }

    const SECOND: i64 = 1_000_000;
    const HOUR: i64 = 3_600 * SECOND;

    /// The spans of Postgres's regression tests, `interval.sql`.
    #[test]
    fn fractions_go_down_as_in_postgres() {
        let spans: [(Parts, Parts, Parts); 8] = [
            // The span, times 0.3, divided by 10.
            (
                (41, 12, 360 * HOUR),
                (12, 12, 440_640 * SECOND),
                (4, 4, 146_880 * SECOND),
            ),
            (
                (-41, -12, 360 * HOUR),
                (-12, -12, 336_960 * SECOND),
                (-4, -4, 112_320 * SECOND),
            ),
            (
                (0, -12, 0),
                (0, -3, -51_840 * SECOND),
                (0, -1, -17_280 * SECOND),
            ),
            (
                (9, -27, 45_296 * SECOND),
                (2, 13, 4_948_800_000),
                (0, 25, -55_950_400_000),
            ),
            (
                (-36, 482, 276_872_189_000),
                (-10, 120, 134_901_656_700),
                (-3, 30, 44_967_218_900),
            ),
            ((4, 0, 0), (1, 6, 0), (0, 12, 0)),
            ((14, 0, 0), (4, 6, 0), (1, 12, 0)),
            (
                (999, 999, 0),
                (299, 320, 60_480 * SECOND),
                (99, 126, 77_760 * SECOND),
            ),
        ];
        for (span, product, quotient) in spans {
            let found = (
                scaled(Operator::Multiply, span, 0.3),
                scaled(Operator::Divide, span, 10.0),
            );
            assert_eq!(found, (Some(product), Some(quotient)), "{span:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_out_of_range() {
        use Operator::{Divide, Multiply};
        let span = (1, 1, HOUR);
        for number in [f64::INFINITY, f64::NAN, 3e9, -1e300] {
            assert_eq!(scaled(Multiply, span, number), None, "{number}");
        }
        assert_eq!(scaled(Multiply, (0, 0, HOUR), 1e7), None);
        assert_eq!(scaled(Multiply, (0, 0, HOUR), f64::NAN), None);
        assert_eq!(scaled(Multiply, (0, i32::MAX, 0), 1.5), None);
        assert_eq!(scaled(Divide, span, f64::NAN), None);
        assert_eq!(scaled(Divide, span, 0.0), None);
        assert_eq!(scaled(Divide, span, f64::INFINITY), Some((0, 0, 0)));
        assert_eq!(
            scaled(Multiply, (i32::MIN, i32::MIN, 0), 1.0),
            Some((i32::MIN, i32::MIN, 0))
        );
    }
}
