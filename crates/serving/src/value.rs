//! Reads the value that a client wrote as text, in the type of the column that it is compared with.
//!
//! Arrow's casts round: decimals to their scale, times to their unit or their date. A value that is rounded finds the
//! row of another, so what the type cannot hold exactly is refused. Floats are those nearest to the text, as in SQL.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Float32Type, Float64Type, TimeUnit},
};
use lambic_view::postgres::{type_name, without_exponent};

use crate::Error;

/// The one value of `text`; [`Error::Key`] if a column of type `data_type` cannot hold it exactly.
pub fn value_of_text(column: &str, text: &str, data_type: &DataType) -> Result<ArrayRef, Error> {
    exactly(text, data_type).ok_or_else(|| {
        let name = sql_name(data_type);
        Error::Key(format!(
            "`{text}` is not a value of column {column} ({name})"
        ))
    })
}

fn exactly(text: &str, data_type: &DataType) -> Option<ArrayRef> {
    // A number that became infinite was too large.
    let is_number = text.bytes().any(|byte| byte.is_ascii_digit());
    match data_type {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => {
            let text = without_exponent(text);
            cast(within_scale(&text, *scale)?, data_type)
        }
        DataType::Timestamp(unit, _) | DataType::Time32(unit) | DataType::Time64(unit)
            if !is_as_coarse(text, *unit) =>
        {
            None
        }
        DataType::Date32 if is_time(text) => date_at_midnight(text),
        DataType::Float32 => cast(text, data_type).filter(|float| {
            let float = float.as_primitive::<Float32Type>().value(0);
            float.is_finite() || !is_number
        }),
        DataType::Float64 => cast(text, data_type).filter(|float| {
            let float = float.as_primitive::<Float64Type>().value(0);
            float.is_finite() || !is_number
        }),
        _ => cast(text, data_type),
    }
}

fn cast(text: &str, data_type: &DataType) -> Option<ArrayRef> {
    let text: ArrayRef = Arc::new(StringArray::from(vec![text]));
    strictly(&text, data_type)
}

fn strictly(value: &ArrayRef, data_type: &DataType) -> Option<ArrayRef> {
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(value, data_type, &strict).ok()
}

/// A decimal number without zeros behind its last place; `None` if other digits stand there.
fn within_scale(text: &str, scale: i8) -> Option<&str> {
    let text = text.trim();
    let Some(point) = text.find('.') else {
        return Some(text);
    };
    let places = usize::try_from(scale).unwrap_or(0);
    let finer = text.as_bytes().get(point + 1 + places..);
    if finer.unwrap_or_default().iter().any(|&byte| byte != b'0') {
        return None;
    }
    // One digit stays: without any, `.0` would be no number.
    Some(text.get(..point + 1 + places.max(1)).unwrap_or(text))
}

/// True if the fraction of the seconds has nothing but zeros below the unit.
fn is_as_coarse(text: &str, unit: TimeUnit) -> bool {
    let places = match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    };
    let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
    let digits = fraction.bytes().take_while(u8::is_ascii_digit);
    digits.skip(places).all(|digit| digit == b'0')
}

/// True if a text for a date goes on behind it. Years of more than four digits have a sign, and no time.
fn is_time(text: &str) -> bool {
    text.len() > "2026-01-31".len() && !text.starts_with(['+', '-'])
}

/// The date that a time begins with, if the time is its midnight.
fn date_at_midnight(text: &str) -> Option<ArrayRef> {
    let date = cast(text.get(.."2026-01-31".len())?, &DataType::Date32)?;
    let time_type = DataType::Timestamp(TimeUnit::Microsecond, None);
    let midnight = strictly(&date, &time_type)?;
    let time = exactly(text, &time_type)?;
    (time.to_data() == midnight.to_data()).then_some(date)
}

fn sql_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Decimal128(precision, scale) => format!("numeric({precision},{scale})"),
        other => type_name(other).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::display::array_value_to_string;

    use super::*;

    #[track_caller]
    fn check(data_type: DataType, cases: &[(&str, Option<&str>)]) {
        for (text, expected) in cases {
            let found = value_of_text("c", text, &data_type).ok();
            let found = found.map(|value| array_value_to_string(&value, 0).unwrap());
            assert_eq!(found.as_deref(), *expected, "{text:?} as {data_type}");
        }
    }

    #[test]
    fn numbers() {
        check(
            DataType::Decimal128(8, 2),
            &[
                ("3", Some("3.00")),
                ("3.", Some("3.00")),
                ("3.0", Some("3.00")),
                ("3.000", Some("3.00")),
                (" -3.10 ", Some("-3.10")),
                (".5", Some("0.50")),
                (".000", Some("0.00")),
                ("+3.1200000000", Some("3.12")),
                ("3e0", Some("3.00")),
                ("31200E-4", Some("3.12")),
                ("1e-3", None),
                ("1e999999999", None),
                ("3.001", None),
                ("3.0049", None),
                ("2.999", None),
                ("-0.001", None),
                ("3.00x", None),
                ("3.0.0", None),
                ("1000000", None),
                ("größe.00", None),
                ("3.0ö", None),
                (".", None),
                ("", None),
            ],
        );
        check(
            DataType::Decimal128(8, 0),
            &[
                ("3", Some("3")),
                ("3.0", Some("3")),
                (".00", Some("0")),
                ("3.4", None),
            ],
        );
        check(
            DataType::Int32,
            &[("7", Some("7")), ("7.4", None), ("3000000000", None)],
        );
        check(
            DataType::Float32,
            &[
                ("0.1", Some("0.1")),
                ("0.100000000000001", Some("0.1")),
                ("Infinity", Some("inf")),
                ("NaN", Some("NaN")),
                ("1e39", None),
            ],
        );
        check(
            DataType::Float64,
            &[("2.5", Some("2.5")), ("-1e400", None), ("x", None)],
        );
    }

    #[test]
    fn times() {
        check(
            DataType::Timestamp(TimeUnit::Microsecond, None),
            &[
                ("2026-01-01", Some("2026-01-01T00:00:00")),
                ("2026-01-01 00:00:00", Some("2026-01-01T00:00:00")),
                (
                    "2026-01-01T00:00:00.000001",
                    Some("2026-01-01T00:00:00.000001"),
                ),
                (
                    "2026-01-01T00:00:00.000001000000Z",
                    Some("2026-01-01T00:00:00.000001"),
                ),
                ("2026-01-01T00:00:00.0000019", None),
                ("2026-01-01T00:00:00.0000000001", None),
                ("2026-01-01T00:00:00.0000000000001", None),
                ("2026-01-01T00:00:00.0000019Z", None),
                ("soon", None),
            ],
        );
        check(
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            &[
                ("2026-01-01T00:00:00Z", Some("2026-01-01T00:00:00Z")),
                ("2026-01-01T02:00:00+02:00", Some("2026-01-01T00:00:00Z")),
                (
                    "2025-12-31 19:00:00.0000000-05:00",
                    Some("2026-01-01T00:00:00Z"),
                ),
                ("2026-01-01T02:00:00.0000001+02:00", None),
            ],
        );
        check(
            DataType::Time64(TimeUnit::Microsecond),
            &[
                ("00:00:00.0000010", Some("00:00:00.000001")),
                ("00:00:00.0000019", None),
            ],
        );
    }

    #[test]
    fn dates() {
        check(
            DataType::Date32,
            &[
                ("2026-01-01", Some("2026-01-01")),
                ("2026-1-1", Some("2026-01-01")),
                ("20260101", Some("2026-01-01")),
                ("2026-01-01T00:00:00", Some("2026-01-01")),
                ("2026-01-01 00:00:00.0000000Z", Some("2026-01-01")),
                ("2026-01-01T12:00:00", None),
                ("2026-01-01T00:00:00.0000001", None),
                ("2026-01-01T00:00:00+02:00", None),
                ("2025-12-31T22:00:00-02:00", None),
                ("2026-01-01T", None),
                ("2026-02-30", None),
                ("2026-01-0ö1", None),
            ],
        );
    }

    #[test]
    fn what_is_no_value_is_told_with_its_column_and_type() {
        let told = |text: &str, data_type: DataType| {
            let error = value_of_text("price", text, &data_type).unwrap_err();
            error.to_string()
        };
        assert_eq!(
            told("3.001", DataType::Decimal128(8, 2)),
            "`3.001` is not a value of column price (numeric(8,2))"
        );
        assert_eq!(
            told("7.4", DataType::Int32),
            "`7.4` is not a value of column price (integer)"
        );
    }
}
