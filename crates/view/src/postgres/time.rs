//! Timestamps: `date_trunc`, `date_bin` and `timezone` (`AT TIME ZONE`) over all years that microseconds
//! reach. DataFusion's own go by way of nanoseconds, which end in 2262, and let `AT TIME ZONE` change
//! how a time is shown, not which it is.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, PrimitiveArray, timezone::Tz},
    compute::cast,
    datatypes::{
        DataType, IntervalMonthDayNanoType, IntervalUnit, TimeUnit, TimestampMicrosecondType,
    },
    temporal_conversions::as_datetime_with_timezone,
};
use datafusion::{
    common::{Result, exec_err, plan_err},
    logical_expr::{
        ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
    scalar::ScalarValue,
};

use super::{
    ValueError, calendar,
    stride::{DAY, SECOND, Stride},
};

type Timestamps = PrimitiveArray<TimestampMicrosecondType>;

pub const UTC: &str = "UTC";

pub fn functions() -> Vec<ScalarUDF> {
    [
        ("date_trunc", Some("datetrunc"), Which::Truncate),
        ("date_bin", None, Which::Bin),
        ("timezone", None, Which::Zone),
    ]
    .into_iter()
    .map(|(name, other_name, which)| {
        ScalarUDF::from(Time {
            name,
            which,
            signature: Signature::user_defined(Volatility::Immutable),
        })
        .with_aliases(other_name)
    })
    .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Which {
    Truncate,
    Bin,
    Zone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Time {
    name: &'static str,
    which: Which,
    signature: Signature,
}

pub fn timestamp(zoned: bool) -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, zoned.then(|| UTC.into()))
}

impl Time {
    /// What was called with how many and which arguments, for the error.
    fn refused<T>(&self, forms: &str) -> Result<T> {
        plan_err!("No function matches: {} is called as {forms}", self.name)
    }
}

/// The timestamp type in which a value is worked on; texts are timestamps without a zone.
fn time_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Timestamp(_, zone) => Some(timestamp(zone.is_some())),
        DataType::Date32 | DataType::Date64 | DataType::Null => Some(timestamp(false)),
        data_type if data_type.is_string() => Some(timestamp(false)),
        _ => None,
    }
}

impl ScalarUDFImpl for Time {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(match (self.which, arguments) {
            (Which::Zone, [_, DataType::Timestamp(_, zone)]) => timestamp(zone.is_none()),
            (_, [_, time, ..]) => match time_type(time) {
                Some(data_type) => data_type,
                None => return self.refused("(…, timestamp)"),
            },
            _ => return self.refused("(…, timestamp)"),
        })
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let text = |data_type: &DataType| data_type.is_string() || data_type.is_null();
        let stride = DataType::Interval(IntervalUnit::MonthDayNano);
        match (self.which, arguments) {
            (Which::Truncate, [unit, time]) if text(unit) => match time_type(time) {
                Some(time) => Ok(vec![DataType::Utf8, time]),
                None => self.refused("(unit, timestamp)"),
            },
            (Which::Truncate, [unit, _, zone]) if text(unit) && text(zone) => {
                Ok(vec![DataType::Utf8, timestamp(true), DataType::Utf8])
            }
            (Which::Truncate, _) => self.refused(
                "(unit, timestamp) or (unit, timestamptz, time zone), for example date_trunc('day', ts)",
            ),
            (Which::Bin, [_, time]) if time_type(time).is_some() => {
                Ok(vec![stride, time_type(time).expect("checked")])
            }
            (Which::Bin, [_, time, _]) if time_type(time).is_some() => {
                let time = time_type(time).expect("checked");
                Ok(vec![stride, time.clone(), time])
            }
            (Which::Bin, _) => self.refused(
                "(interval, timestamp) or (interval, timestamp, origin), for example date_bin('15 minutes', ts)",
            ),
            (Which::Zone, [zone, time]) if text(zone) => match time_type(time) {
                Some(time) => Ok(vec![DataType::Utf8, time]),
                None => self.refused("timestamp AT TIME ZONE zone"),
            },
            (Which::Zone, _) => self.refused("timestamp AT TIME ZONE zone"),
        }
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalars = arguments
            .args
            .iter()
            .all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if scalars { 1 } else { arguments.number_rows };
        let times = arguments.args[1].to_array(rows)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let computed = match self.which {
            Which::Truncate => {
                let unit = Unit::named(&constant(&arguments.args[0], "the unit")?)?;
                match arguments.args.get(2) {
                    None => each(times, |time| unit.truncate(time)),
                    Some(zone) => {
                        let zone = zone_named(&constant(zone, "the time zone")?)?;
                        each(times, |time| {
                            from_local(unit.truncate(to_local(time, zone)?)?, zone)
                        })
                    }
                }
            }
            Which::Bin => {
                let stride = width(&arguments.args[0])?;
                let origin = match arguments.args.get(2) {
                    Some(ColumnarValue::Scalar(origin)) => match origin {
                        ScalarValue::TimestampMicrosecond(Some(origin), _) => *origin,
                        _ => return exec_err!("the origin must not be NULL"),
                    },
                    Some(_) => return exec_err!("the origin must be a constant"),
                    None => 0,
                };
                each(times, |time| stride.bin(time, origin))
            }
            Which::Zone => {
                let zone = zone_named(&constant(&arguments.args[0], "the time zone")?)?;
                match times.timezone() {
                    Some(_) => each(times, |time| to_local(time, zone)),
                    None => each(times, |time| from_local(time, zone)),
                }
            }
        }?;
        let computed: ArrayRef =
            Arc::new(computed.with_data_type(arguments.return_field.data_type().clone()));
        Ok(match scalars {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&computed, 0)?),
            false => ColumnarValue::Array(computed),
        })
    }
}

/// The width of `date_bin`'s bins.
fn width(value: &ColumnarValue) -> Result<Stride> {
    let array = value.to_array(1)?;
    if !matches!(value, ColumnarValue::Scalar(_)) && array.len() != 1 {
        return exec_err!("the width of the bins must be a constant");
    }
    if array.is_null(0) {
        return exec_err!("the width of the bins must not be NULL");
    }
    let interval = array.as_primitive::<IntervalMonthDayNanoType>().value(0);
    Ok(Stride::new(interval, "the width of the bins")?)
}

fn constant(value: &ColumnarValue, what: &str) -> Result<String> {
    let scalar = match value {
        ColumnarValue::Scalar(scalar) => scalar.clone(),
        ColumnarValue::Array(array) if array.len() == 1 => ScalarValue::try_from_array(array, 0)?,
        ColumnarValue::Array(_) => return exec_err!("{what} must be a constant text"),
    };
    match scalar.try_as_str() {
        Some(Some(text)) => Ok(text.trim().to_ascii_lowercase()),
        _ => exec_err!("{what} must be a text, not NULL"),
    }
}

/// The times that `compute` gives; an error where there is none.
pub fn each(
    times: &Timestamps,
    compute: impl Fn(i64) -> Option<i64>,
) -> Result<Timestamps, ValueError> {
    times.try_unary(|time| {
        compute(time).ok_or_else(|| ValueError::new("22008", "timestamp out of range"))
    })
}

/// What `date_trunc` cuts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// As many microseconds.
    Fixed(i64),
    Week,
    /// As many months, counted from year 0.
    Months(i64),
    /// As many years; centuries and millennia begin with year 1.
    Years(i64),
}

impl Unit {
    fn named(name: &str) -> Result<Unit, ValueError> {
        Ok(match name {
            "microsecond" | "microseconds" => Unit::Fixed(1),
            "millisecond" | "milliseconds" => Unit::Fixed(1000),
            "second" | "seconds" => Unit::Fixed(SECOND),
            "minute" | "minutes" => Unit::Fixed(60 * SECOND),
            "hour" | "hours" => Unit::Fixed(3600 * SECOND),
            "day" | "days" => Unit::Fixed(DAY),
            "week" | "weeks" => Unit::Week,
            "month" | "months" => Unit::Months(1),
            "quarter" | "quarters" => Unit::Months(3),
            "year" | "years" => Unit::Months(12),
            "decade" | "decades" => Unit::Months(120),
            "century" | "centuries" => Unit::Years(100),
            "millennium" | "millennia" | "millenniums" => Unit::Years(1000),
            other => {
                return Err(ValueError::new(
                    "22023",
                    format!(
                        "unit \"{other}\" is not known to date_trunc; there are microsecond, millisecond, second, \
                         minute, hour, day, week, month, quarter, year, decade, century and millennium"
                    ),
                ));
            }
        })
    }

    fn truncate(self, time: i64) -> Option<i64> {
        let day_of = |year: i64, month: i64| calendar::days_from_civil(year, month, 1);
        match self {
            Unit::Fixed(micros) => time.checked_sub(time.rem_euclid(micros)),
            Unit::Week => {
                let day = time.div_euclid(DAY);
                // Day 0 was a Thursday; weeks begin on Monday.
                (day - (day + 3).rem_euclid(7)).checked_mul(DAY)
            }
            Unit::Months(months) => {
                let (year, month, _) = calendar::civil_from_days(time.div_euclid(DAY));
                let month = year * 12 + month - 1;
                let month = month - month.rem_euclid(months);
                day_of(month.div_euclid(12), month.rem_euclid(12) + 1).checked_mul(DAY)
            }
            Unit::Years(years) => {
                let (year, _, _) = calendar::civil_from_days(time.div_euclid(DAY));
                let year = year - 1;
                day_of(year - year.rem_euclid(years) + 1, 1).checked_mul(DAY)
            }
        }
    }
}

/// `Europe/Berlin`, `+02:00`, `UTC`, whatever the case.
pub fn zone_named(name: &str) -> Result<Tz, ValueError> {
    let known = match name.to_ascii_lowercase().as_str() {
        "z" | "utc" | "gmt" | "zulu" | "etc/utc" => UTC.to_owned(),
        lower => zone_case(lower),
    };
    known.parse().map_err(|_| {
        ValueError::new(
            "22023",
            format!("time zone \"{name}\" not recognized; names are like Europe/Berlin, offsets like +02:00"),
        )
    })
}

/// The names of the time zone database are capitalised word by word, but for a few short words.
fn zone_case(lower: &str) -> String {
    let mut name = String::with_capacity(lower.len());
    for (index, word) in lower.split_inclusive(['/', '_', '-']).enumerate() {
        let bare = word.trim_end_matches(['/', '_', '-']);
        let small = index > 0 && matches!(bare, "of" | "es" | "au" | "de");
        let all = matches!(bare, "est" | "mst" | "hst" | "cet" | "eet" | "met" | "wet")
            || (matches!(bare, "us" | "gb") && index == 0);
        match word.chars().next() {
            Some(first) if !small && !all => {
                name.extend(first.to_uppercase());
                name.push_str(&word[first.len_utf8()..]);
            }
            _ if all => name.push_str(&word.to_ascii_uppercase()),
            _ => name.push_str(word),
        }
    }
    name
}

/// The wall clock's time in `zone`, as if it were UTC.
pub fn to_local(time: i64, zone: Tz) -> Option<i64> {
    let local = as_datetime_with_timezone::<TimestampMicrosecondType>(time, zone)?;
    Some(local.naive_local().and_utc().timestamp_micros())
}

/// The time at which the wall clock in `zone` shows `local`. As in Postgres, what it shows twice is the
/// later one (standard time), and what it skips is read with the clock from before.
fn from_local(local: i64, zone: Tz) -> Option<i64> {
    let with_offset_at = |around: i64| Some(local - (to_local(around, zone)? - around));
    let before = with_offset_at(local.checked_sub(DAY)?)?;
    let after = with_offset_at(local.checked_add(DAY)?)?;
    let shows = |time: i64| to_local(time, zone) == Some(local);
    Some(if shows(after) { after } else { before })
}

/// A column of timestamps or dates in microseconds.
pub fn in_micros(column: &ArrayRef) -> Result<ArrayRef> {
    match time_type(column.data_type()) {
        Some(data_type) => Ok(cast(column, &data_type)?),
        None => exec_err!("a timestamp is expected, not {}", column.data_type()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> i64 {
        let day = |part: &str| part.parse::<i64>().unwrap();
        let (date, clock) = text.split_once(' ').unwrap_or((text, "00:00:00"));
        let mut date = date.split('-').map(day);
        let mut next = || date.next().unwrap();
        let days = calendar::days_from_civil(next(), next(), next());
        let seconds = clock
            .split(':')
            .map(day)
            .fold(0, |sum, part| sum * 60 + part);
        days * DAY + seconds * SECOND
    }

    #[test]
    fn times_are_cut_to_units() {
        let time = micros("2024-08-15 13:47:59") + 123_456;
        for (unit, expected) in [
            ("milliseconds", micros("2024-08-15 13:47:59") + 123_000),
            ("second", micros("2024-08-15 13:47:59")),
            ("hour", micros("2024-08-15 13:00:00")),
            ("week", micros("2024-08-12")),
            ("month", micros("2024-08-01")),
            ("quarter", micros("2024-07-01")),
            ("year", micros("2024-01-01")),
            ("decade", micros("2020-01-01")),
            ("century", micros("2001-01-01")),
            ("millennium", micros("2001-01-01")),
        ] {
            assert_eq!(
                Unit::named(unit).unwrap().truncate(time),
                Some(expected),
                "{unit}"
            );
        }
        let before = micros("1969-12-31 23:59:59");
        assert_eq!(
            Unit::Fixed(DAY).truncate(before),
            Some(micros("1969-12-31"))
        );
        assert_eq!(Unit::Week.truncate(before), Some(micros("1969-12-29")));
        assert_eq!(
            Unit::Months(1).truncate(micros("9999-12-31")),
            Some(micros("9999-12-01"))
        );
        assert_eq!(Unit::Fixed(DAY).truncate(i64::MIN), None);
    }

    #[test]
    fn clocks_are_turned_forward_and_back() {
        let berlin = zone_named("europe/berlin").unwrap();
        for (local, utc) in [
            ("2024-01-01 12:00:00", "2024-01-01 11:00:00"),
            ("2024-07-01 12:00:00", "2024-07-01 10:00:00"),
            // Skipped: 02:30 did not exist.
            ("2024-03-31 02:30:00", "2024-03-31 01:30:00"),
            // Shown twice: standard time.
            ("2024-10-27 02:30:00", "2024-10-27 01:30:00"),
        ] {
            assert_eq!(
                from_local(micros(local), berlin),
                Some(micros(utc)),
                "{local}"
            );
        }
        assert_eq!(
            to_local(micros("2024-03-31 01:30:00"), berlin),
            Some(micros("2024-03-31 03:30:00"))
        );
    }

    #[test]
    fn zones_are_found_in_any_case() {
        for name in [
            "UTC",
            "utc",
            "Europe/Berlin",
            "europe/berlin",
            "AMERICA/NEW_YORK",
            "America/Port-au-Prince",
            "africa/dar_es_salaam",
            "+02:00",
            "-05",
            "Etc/UTC",
            "us/pacific",
            "CET",
        ] {
            assert!(zone_named(name).is_ok(), "{name}");
        }
        assert_eq!(zone_named("Mars/Base").unwrap_err().sqlstate, "22023");
    }
}
