//! `to_char(timestamp, pattern)` with Postgres's patterns (documentation, chapter 9.8).
//!
//! A pattern that this does not know is an error, never text. A format with `%` is one of `strftime`, as
//! DataFusion has them.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, StringArray},
    datatypes::{DataType, TimestampMicrosecondType},
};
use datafusion::{
    common::{Result, exec_err, plan_err},
    functions::datetime,
    logical_expr::{
        ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
    scalar::ScalarValue,
};

use super::{ValueError, calendar, time};

pub fn function() -> ScalarUDF {
    ScalarUDF::from(ToChar {
        signature: Signature::user_defined(Volatility::Immutable),
        strftime: datetime::to_char(),
    })
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ToChar {
    signature: Signature,
    strftime: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for ToChar {
    fn name(&self) -> &str {
        "to_char"
    }

    fn aliases(&self) -> &[String] {
        self.strftime.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        match arguments {
            [value, pattern] if pattern.is_string() || pattern.is_null() => match value {
                DataType::Timestamp(..) | DataType::Date32 | DataType::Null => {
                    let zoned = matches!(value, DataType::Timestamp(_, Some(_)));
                    Ok(vec![time::timestamp(zoned), DataType::Utf8])
                }
                value if value.is_numeric() => plan_err!(
                    "No function matches: to_char takes timestamps and dates, not numbers; \
                     cast the number to text, or round it first"
                ),
                _ => plan_err!(
                    "No function matches: to_char is called as (timestamp, pattern), \
                     for example to_char(ts, 'YYYY-MM-DD')"
                ),
            },
            _ => plan_err!(
                "No function matches: to_char is called as (timestamp, pattern), \
                 for example to_char(ts, 'YYYY-MM-DD')"
            ),
        }
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let pattern = match &arguments.args[1] {
            ColumnarValue::Scalar(pattern) => match pattern.try_as_str() {
                Some(Some(pattern)) => pattern.to_owned(),
                _ => return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(None))),
            },
            ColumnarValue::Array(_) => {
                return exec_err!("the pattern of to_char must be a constant");
            }
        };
        if pattern.contains('%') {
            return self.strftime.invoke_with_args(arguments);
        }
        let parts = parsed(&pattern)?;
        let scalar = matches!(arguments.args[0], ColumnarValue::Scalar(_));
        let rows = if scalar { 1 } else { arguments.number_rows };
        let times = time::in_micros(&arguments.args[0].to_array(rows)?)?;
        let zoned = matches!(times.data_type(), DataType::Timestamp(_, Some(_)));
        let texts = times
            .as_primitive::<TimestampMicrosecondType>()
            .iter()
            .map(|time| time.map(|time| written(time, zoned, &parts)))
            .collect::<StringArray>();
        let texts: ArrayRef = Arc::new(texts);
        Ok(match scalar {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&texts, 0)?),
            false => ColumnarValue::Array(texts),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A pattern in upper case, as it was written, and whether zeros and blanks are left out (`FM`).
    Pattern(&'static str, String, bool),
}

/// Longer ones first: the first that fits is meant.
const PATTERNS: [&str; 36] = [
    "Y,YYY", "HH24", "HH12", "YYYY", "IYYY", "MONTH", "SSSS", "IDDD", "A.M.", "P.M.", "YYY", "DAY",
    "DDD", "MON", "HH", "YY", "MM", "DD", "MI", "SS", "MS", "US", "AM", "PM", "DY", "ID", "IW",
    "WW", "CC", "TZH", "TZM", "TZ", "OF", "Q", "D", "W",
];
const UNKNOWN: [&str; 8] = ["J", "RM", "BC", "AD", "FF", "TH", "SP", "TM"];

fn parsed(pattern: &str) -> Result<Vec<Part>, ValueError> {
    let mut parts: Vec<Part> = Vec::new();
    let mut text = String::new();
    let mut rest = pattern;
    let mut bare = false;
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let inner = &rest[1..];
            let end = inner.find('"').unwrap_or(inner.len());
            text.push_str(&inner[..end]);
            rest = inner.get(end + 1..).unwrap_or_default();
            continue;
        }
        if !first.is_ascii_alphabetic() {
            text.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let upper = rest.to_ascii_uppercase();
        if upper.starts_with("FM") {
            bare = true;
            rest = &rest[2..];
            continue;
        }
        let found = PATTERNS.iter().find(|pattern| upper.starts_with(**pattern));
        let Some(found) = found.filter(|_| !UNKNOWN.iter().any(|other| upper.starts_with(other)))
        else {
            let word: String = rest.chars().take_while(char::is_ascii_alphabetic).collect();
            return Err(ValueError::new(
                "0A000",
                format!(
                    "to_char does not know the pattern \"{word}\"; it knows {}; put other text in double quotes",
                    PATTERNS.join(", ")
                ),
            ));
        };
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text)));
        }
        parts.push(Part::Pattern(
            found,
            rest[..found.len()].to_owned(),
            std::mem::take(&mut bare),
        ));
        rest = &rest[found.len()..];
        let ordinal = rest
            .get(..2)
            .is_some_and(|th| th.eq_ignore_ascii_case("th"));
        if ordinal {
            let message = "to_char does not know the suffix TH";
            return Err(ValueError::new("0A000", message));
        }
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

fn written(time: i64, zoned: bool, parts: &[Part]) -> String {
    let days = time.div_euclid(DAY);
    let micros = time.rem_euclid(DAY);
    let (year, month, day) = calendar::civil_from_days(days);
    let (hour, minute, second) = (
        micros / (3600 * SECOND),
        micros / (60 * SECOND) % 60,
        micros / SECOND % 60,
    );
    let weekday = (days + 4).rem_euclid(7);
    let day_of_year = days - calendar::days_from_civil(year, 1, 1) + 1;
    let (iso_year, iso_week) = iso_week(days);
    // Years before 1 are counted backwards: year 0 is 1 BC.
    let shown_year = if year > 0 { year } else { 1 - year };
    let hour12 = (hour + 11) % 12 + 1;
    let mut text = String::new();
    for part in parts {
        let (pattern, as_written, bare) = match part {
            Part::Text(literal) => {
                text.push_str(literal);
                continue;
            }
            Part::Pattern(pattern, as_written, bare) => (*pattern, as_written.as_str(), *bare),
        };
        let mut number = |value: i64, width: usize| {
            let width = if bare { 0 } else { width };
            text.push_str(&format!("{value:0width$}"));
        };
        match pattern {
            "YYYY" => number(shown_year, 4),
            "Y,YYY" => {
                number(shown_year / 1000, 1);
                text.push_str(&format!(",{:03}", shown_year % 1000));
            }
            "YYY" => number(shown_year % 1000, 3),
            "YY" => number(shown_year % 100, 2),
            "IYYY" => number(iso_year, 4),
            "CC" => number((shown_year + 99) / 100, 2),
            "Q" => number((month - 1) / 3 + 1, 1),
            "MM" => number(month, 2),
            "DD" => number(day, 2),
            "DDD" => number(day_of_year, 3),
            "IDDD" => number((iso_week - 1) * 7 + (weekday + 6) % 7 + 1, 3),
            "D" => number(weekday + 1, 1),
            "ID" => number((weekday + 6) % 7 + 1, 1),
            "W" => number((day - 1) / 7 + 1, 1),
            "WW" => number((day_of_year - 1) / 7 + 1, 2),
            "IW" => number(iso_week, 2),
            "HH24" => number(hour, 2),
            "HH12" | "HH" => number(hour12, 2),
            "MI" => number(minute, 2),
            "SS" => number(second, 2),
            "SSSS" => number(micros / SECOND, 1),
            "MS" => number(micros / 1000 % 1000, 3),
            "US" => number(micros % SECOND, 6),
            "AM" | "PM" => text.push_str(&in_case(if hour < 12 { "AM" } else { "PM" }, as_written)),
            "A.M." | "P.M." => {
                text.push_str(&in_case(
                    if hour < 12 { "A.M." } else { "P.M." },
                    as_written,
                ));
            }
            "MONTH" => name(&mut text, MONTHS[month as usize - 1], as_written, bare),
            "DAY" => name(&mut text, DAYS[weekday as usize], as_written, bare),
            "MON" => text.push_str(&in_case(&MONTHS[month as usize - 1][..3], as_written)),
            "DY" => text.push_str(&in_case(&DAYS[weekday as usize][..3], as_written)),
            // Timestamps with a zone are in UTC here; the others have none.
            "TZ" if zoned => text.push_str(&in_case("UTC", as_written)),
            "TZH" | "OF" => text.push_str("+00"),
            "TZM" => text.push_str("00"),
            _ => {}
        }
    }
    text
}

/// `MONTH`, `Month` or `month`.
fn in_case(value: &str, as_written: &str) -> String {
    let mut chars = as_written.chars().filter(char::is_ascii_alphabetic);
    let first = chars.next().is_some_and(|c| c.is_ascii_uppercase());
    let second = chars.next().is_some_and(|c| c.is_ascii_uppercase());
    match (first, second) {
        (true, true) => value.to_ascii_uppercase(),
        (false, _) => value.to_ascii_lowercase(),
        (true, false) => value.to_owned(),
    }
}

/// Full names are padded to nine characters.
fn name(text: &mut String, value: &str, as_written: &str, bare: bool) {
    let width = if bare { 0 } else { 9 };
    text.push_str(&format!("{:width$}", in_case(value, as_written)));
}

/// Year and week by ISO 8601: week 1 has the year's first Thursday.
fn iso_week(days: i64) -> (i64, i64) {
    let thursday = days - (days + 3).rem_euclid(7) + 3;
    let (year, _, _) = calendar::civil_from_days(thursday);
    let first = calendar::days_from_civil(year, 1, 1);
    (year, (thursday - first) / 7 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_written() {
        let time = calendar::days_from_civil(2024, 3, 5) * DAY
            + (13 * 3600 + 4 * 60 + 9) * SECOND
            + 12_345;
        for (pattern, expected) in [
            ("YYYY-MM-DD", "2024-03-05"),
            ("YYYY-MM-DD HH24:MI:SS.US", "2024-03-05 13:04:09.012345"),
            ("yyyy-mm-dd\"T\"hh24:mi:ss.ms", "2024-03-05T13:04:09.012"),
            ("HH12:MI AM, hh am", "01:04 PM, 01 pm"),
            ("FMDD. FMMonth YY", "5. March 24"),
            ("Month|MON|mon|Day|Dy", "March    |MAR|mar|Tuesday  |Tue"),
            ("IYYY-IW-ID Q DDD D WW W CC", "2024-10-2 1 065 3 10 1 21"),
            ("SSSS TZ OF", "47049 UTC +00"),
            ("", ""),
        ] {
            let parts = parsed(pattern).unwrap();
            assert_eq!(written(time, true, &parts), expected, "{pattern}");
        }
        for wrong in ["RM", "J", "YYYY BC", "xyz", "DDth"] {
            assert_eq!(parsed(wrong).unwrap_err().sqlstate, "0A000", "{wrong}");
        }
        assert_eq!(iso_week(calendar::days_from_civil(2021, 1, 3)), (2020, 53));
    }
}
