//! `date_part`, which `extract` is: seconds, milliseconds and the epoch with their fraction.
//!
//! DataFusion cuts seconds and milliseconds off to whole numbers, and counts the difference of two timestamps in whole
//! seconds, hours beyond a day included. In Postgres that difference is days and a time of less than a day. All other
//! parts are DataFusion's.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, Float64Array, Int32Array, Int64Array},
    compute::cast,
    datatypes::{
        DataType, DurationMicrosecondType, Field, FieldRef, IntervalMonthDayNanoType, IntervalUnit,
        Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
    },
};
use datafusion::{
    common::{Result, exec_err},
    functions::datetime,
    logical_expr::{
        ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
        Signature, preimage::PreimageResult, simplify::SimplifyContext,
    },
    scalar::ScalarValue,
};

use super::time;

pub fn function() -> ScalarUDF {
    let others = datetime::date_part();
    ScalarUDF::from(DatePart {
        signature: others.signature().clone(),
        others,
    })
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct DatePart {
    signature: Signature,
    others: Arc<ScalarUDF>,
}

/// What is computed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Epoch,
    Second,
    Millisecond,
    /// The following of differences only.
    Microsecond,
    Minute,
    Hour,
    Day,
}

impl Part {
    fn named(name: &str) -> Option<Part> {
        let name = name.trim_matches(['\'', '"']).to_ascii_lowercase();
        Some(match name.as_str() {
            "epoch" => Part::Epoch,
            "s" | "sec" | "secs" | "second" | "seconds" => Part::Second,
            "ms" | "msec" | "msecs" | "msecond" | "mseconds" | "millisecond" | "milliseconds" => {
                Part::Millisecond
            }
            "us" | "usec" | "usecs" | "usecond" | "useconds" | "microsecond" | "microseconds" => {
                Part::Microsecond
            }
            "m" | "min" | "mins" | "minute" | "minutes" => Part::Minute,
            "h" | "hr" | "hrs" | "hour" | "hours" => Part::Hour,
            "d" | "day" | "days" => Part::Day,
            _ => return None,
        })
    }

    fn has_fraction(self) -> bool {
        matches!(self, Part::Epoch | Part::Second | Part::Millisecond)
    }
}

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

impl ScalarUDFImpl for DatePart {
    fn name(&self) -> &str {
        "date_part"
    }

    fn aliases(&self) -> &[String] {
        self.others.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        exec_err!("the part that date_part extracts must be a constant text")
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> Result<FieldRef> {
        let part = match arguments.scalar_arguments.first() {
            Some(Some(part)) => part.try_as_str().flatten().and_then(Part::named),
            _ => None,
        };
        if part.is_some_and(Part::has_fraction) {
            let nullable = arguments.arg_fields.iter().any(|field| field.is_nullable());
            return Ok(Arc::new(Field::new(
                self.name(),
                DataType::Float64,
                nullable,
            )));
        }
        self.others.return_field_from_args(arguments)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [part, value] = arguments.args.as_slice() else {
            return exec_err!("date_part is called as (part, timestamp)");
        };
        let part = match part {
            ColumnarValue::Scalar(part) => part.try_as_str().flatten().and_then(Part::named),
            ColumnarValue::Array(_) => None,
        };
        let scalar = matches!(value, ColumnarValue::Scalar(_));
        let rows = if scalar { 1 } else { arguments.number_rows };
        let computed = match part {
            Some(part) => computed(part, &value.to_array(rows)?)?,
            None => None,
        };
        Ok(match computed {
            None => return self.others.invoke_with_args(arguments),
            Some(parts) if scalar => ColumnarValue::Scalar(ScalarValue::try_from_array(&parts, 0)?),
            Some(parts) => ColumnarValue::Array(parts),
        })
    }

    /// `extract(year FROM ts) = 2024` is a range of `ts`.
    fn preimage(
        &self,
        arguments: &[Expr],
        literal: &Expr,
        context: &SimplifyContext,
    ) -> Result<PreimageResult> {
        self.others.inner().preimage(arguments, literal, context)
    }
}

/// `None` if the part is DataFusion's.
fn computed(part: Part, values: &ArrayRef) -> Result<Option<ArrayRef>> {
    if let DataType::Duration(_) = values.data_type() {
        return of_difference(part, values).map(Some);
    }
    let parts: Float64Array = match (part, values.data_type()) {
        (Part::Epoch, DataType::Interval(IntervalUnit::MonthDayNano)) => values
            .as_primitive::<IntervalMonthDayNanoType>()
            .unary(|value| {
                // A year has 365.25 days, a month 30.
                let days = f64::from(value.months / 12) * 365.25
                    + f64::from(value.months % 12 * 30 + value.days);
                days * 86_400.0 + value.nanoseconds as f64 / 1e9
            }),
        (Part::Second | Part::Millisecond, data_type) => {
            let in_minute: Int64Array = match data_type {
                DataType::Timestamp(..) => time::in_micros(values)?
                    .as_primitive::<TimestampMicrosecondType>()
                    .unary(|time| time.rem_euclid(MINUTE)),
                DataType::Time32(_) | DataType::Time64(_) => {
                    cast(values, &DataType::Time64(TimeUnit::Microsecond))?
                        .as_primitive::<Time64MicrosecondType>()
                        .unary(|time| time % MINUTE)
                }
                DataType::Interval(IntervalUnit::MonthDayNano) => values
                    .as_primitive::<IntervalMonthDayNanoType>()
                    .unary(|value| value.nanoseconds / 1000 % MINUTE),
                DataType::Date32 | DataType::Date64 => cast(values, &DataType::Date64)?
                    .as_primitive::<arrow::datatypes::Date64Type>()
                    .unary(|_| 0),
                other => return exec_err!("date_part takes no {other}"),
            };
            in_minute.unary(|micros| fraction(part, micros))
        }
        _ => return Ok(None),
    };
    Ok(Some(Arc::new(parts)))
}

fn fraction(part: Part, micros: i64) -> f64 {
    match part {
        Part::Millisecond => micros as f64 / 1e3,
        _ => micros as f64 / 1e6,
    }
}

/// Of what lies between two timestamps.
fn of_difference(part: Part, values: &ArrayRef) -> Result<ArrayRef> {
    let micros = cast(values, &DataType::Duration(TimeUnit::Microsecond))?;
    let micros = micros.as_primitive::<DurationMicrosecondType>();
    if part.has_fraction() {
        let within = |micros: i64| match part {
            Part::Epoch => micros,
            _ => micros % MINUTE,
        };
        let parts: Float64Array = micros.unary(|micros| fraction(part, within(micros)));
        return Ok(Arc::new(parts));
    }
    let parts: Int32Array = micros.unary(|micros| {
        let whole = match part {
            Part::Day => micros / DAY,
            Part::Hour => micros % DAY / HOUR,
            Part::Minute => micros % HOUR / MINUTE,
            _ => micros % MINUTE,
        };
        // Days between two timestamps fit: there are 2^64 microseconds.
        whole as i32
    });
    Ok(Arc::new(parts))
}
