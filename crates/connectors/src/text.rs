//! Reads dates, times, decimals, booleans and bytes from text, without rounding.

/// Why a text is not a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeError {
    Malformed,
    /// A month 13, a 30th of February, an hour 25.
    NoSuchTime,
    /// Digits below the microsecond that are not 0.
    TooFine,
}

/// Days since 1970-01-01 of a proleptic Gregorian date: Howard Hinnant, *chrono-Compatible Low-Level Date Algorithms*.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn digits(bytes: &[u8]) -> Result<i64, TimeError> {
    bytes.iter().try_fold(0, |number, byte| {
        if byte.is_ascii_digit() {
            Ok(number * 10 + i64::from(byte - b'0'))
        } else {
            Err(TimeError::Malformed)
        }
    })
}

fn parse_days(bytes: &[u8]) -> Result<i64, TimeError> {
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return Err(TimeError::Malformed);
    }
    let (year, month, day) = (
        digits(&bytes[..4])?,
        digits(&bytes[5..7])?,
        digits(&bytes[8..])?,
    );
    if year == 0 || !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return Err(TimeError::NoSuchTime);
    }
    Ok(days_from_civil(year, month, day))
}

/// `YYYY-MM-DD`, as days since 1970-01-01.
pub(crate) fn parse_date(text: &str) -> Result<i32, TimeError> {
    parse_days(text.as_bytes()).map(|days| days as i32)
}

/// Microseconds since 1970-01-01 UTC of an RFC 3339 time, `YYYY-MM-DD HH:MM[:SS[.f]]`, or a date (its midnight).
/// Without a zone it is UTC.
pub(crate) fn parse_timestamp(text: &str) -> Result<i64, TimeError> {
    let bytes = text.as_bytes();
    let (date, rest) = bytes.split_at_checked(10).ok_or(TimeError::Malformed)?;
    let midnight_us = parse_days(date)? * 86_400_000_000;
    let Some((separator, time)) = rest.split_first() else {
        return Ok(midnight_us);
    };
    if !matches!(separator, b'T' | b't' | b' ') || time.len() < 5 || time[2] != b':' {
        return Err(TimeError::Malformed);
    }
    let (hour, minute) = (digits(&time[..2])?, digits(&time[3..5])?);
    let mut rest = &time[5..];
    let (mut second, mut micros) = (0, 0);
    if let [b':', tens, ones, after @ ..] = rest {
        second = digits(&[*tens, *ones])?;
        rest = after;
        if let [b'.', fraction @ ..] = rest {
            let length = fraction
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            let (fraction, after) = fraction.split_at(length);
            if fraction.is_empty() {
                return Err(TimeError::Malformed);
            }
            let (kept, finer) = fraction.split_at(length.min(6));
            if finer.iter().any(|&digit| digit != b'0') {
                return Err(TimeError::TooFine);
            }
            micros = digits(kept)? * 10_i64.pow(6 - kept.len() as u32);
            rest = after;
        }
    }
    let zone_minutes = match rest {
        [] | [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), zone @ ..] => {
            let (hours, minutes) = match zone {
                [_, _] => (digits(zone)?, 0),
                [_, _, b':', _, _] => (digits(&zone[..2])?, digits(&zone[3..])?),
                [_, _, _, _] => (digits(&zone[..2])?, digits(&zone[2..])?),
                _ => return Err(TimeError::Malformed),
            };
            if hours > 18 || minutes > 59 {
                return Err(TimeError::NoSuchTime);
            }
            let minutes = hours * 60 + minutes;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return Err(TimeError::Malformed),
    };
    if hour > 23 || minute > 59 || second > 59 {
        return Err(TimeError::NoSuchTime);
    }
    let seconds = hour * 3600 + (minute - zone_minutes) * 60 + second;
    Ok(midnight_us + seconds * 1_000_000 + micros)
}

/// The unscaled value of a decimal number at `scale`, if that is exact and has at most `precision` digits.
pub(crate) fn parse_decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (mantissa, exponent) = match digits.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (
            &digits[..at],
            std::str::from_utf8(&digits[at + 1..])
                .ok()?
                .parse::<i32>()
                .ok()?,
        ),
        None => (digits, 0),
    };
    let point = mantissa
        .iter()
        .position(|&byte| byte == b'.')
        .unwrap_or(mantissa.len());
    let whole = &mantissa[..point];
    let fraction = mantissa.get(point + 1..).unwrap_or_default();
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value: i128 = 0;
    // The power of ten of the digit being read, once the exponent and the scale are applied.
    let mut power = whole.len() as i64 + i64::from(exponent) + i64::from(scale);
    for byte in whole.iter().chain(fraction) {
        if !byte.is_ascii_digit() {
            return None;
        }
        power -= 1;
        let digit = i128::from(byte - b'0');
        if power >= 0 {
            value = value.checked_mul(10)?.checked_add(digit)?;
        } else if digit != 0 {
            return None;
        }
    }
    // Digits that an exponent put behind the last one written.
    if value != 0 && power > 0 {
        value = value.checked_mul(10_i128.checked_pow(u32::try_from(power).ok()?)?)?;
    }
    if value >= 10_i128.checked_pow(u32::from(precision))? {
        return None;
    }
    Some(if negative { -value } else { value })
}

/// The words that Postgres takes for booleans.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Postgres's hex form of bytes, `\x00ff`.
pub(crate) fn parse_bytes(text: &str) -> Option<Vec<u8>> {
    let hex = text.strip_prefix("\\x")?.as_bytes();
    if !hex.len().is_multiple_of(2) {
        return None;
    }
    let nibble = |byte: u8| (byte as char).to_digit(16).map(|nibble| nibble as u8);
    hex.chunks_exact(2)
        .map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, expected) in [
            ("1970-01-01", Ok(0)),
            ("1970-01-01T00:00:00Z", Ok(0)),
            ("1970-01-01 00:01", Ok(60_000_000)),
            ("1970-01-01 00:00:01.5", Ok(1_500_000)),
            ("1970-01-01 00:00:00.000001", Ok(1)),
            ("1970-01-01T00:00:00.000001000Z", Ok(1)),
            ("1970-01-01T01:00:00+01:00", Ok(0)),
            ("1969-12-31T19:00:00-05", Ok(0)),
            ("1970-01-01T05:30:00+0530", Ok(0)),
            ("2000-02-29t00:00:00z", Ok(951_782_400_000_000)),
            ("1969-12-31 23:59:59.999999", Ok(-1)),
            ("0001-01-01", Ok(-62_135_596_800_000_000)),
            ("9999-12-31T23:59:59.999999Z", Ok(253_402_300_799_999_999)),
            ("1970-01-01T00:00:00.0000001Z", Err(TimeError::TooFine)),
            ("1900-02-29", Err(TimeError::NoSuchTime)),
            ("2001-13-01", Err(TimeError::NoSuchTime)),
            ("0000-12-31", Err(TimeError::NoSuchTime)),
            ("2001-01-01 24:00:00", Err(TimeError::NoSuchTime)),
            ("2001-01-01 00:00:60", Err(TimeError::NoSuchTime)),
            ("2001-01-01T", Err(TimeError::Malformed)),
            ("2001-01-01 00:00:00.", Err(TimeError::Malformed)),
            (
                "2001-01-01 00:00:00 Europe/Paris",
                Err(TimeError::Malformed),
            ),
            ("2001-1-1", Err(TimeError::Malformed)),
            ("01/02/2001", Err(TimeError::Malformed)),
            ("größe", Err(TimeError::Malformed)),
            ("", Err(TimeError::Malformed)),
        ] {
            assert_eq!(parse_timestamp(text), expected, "{text:?}");
        }
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        for (text, expected) in [
            ("0", Some(0)),
            ("-0.00", Some(0)),
            ("12.34", Some(1234)),
            ("-12.3", Some(-1230)),
            ("12.340", Some(1234)),
            ("12.345", None),
            ("1e3", Some(100_000)),
            ("1234E-2", Some(1234)),
            ("1e-3", None),
            ("99999.99", Some(9_999_999)),
            ("100000", None),
            ("1e999999999", None),
            ("0e999999999", Some(0)),
            (".5", Some(50)),
            ("5.", Some(500)),
            (".", None),
            ("", None),
            ("-", None),
            ("1.2.3", None),
            ("abc", None),
            ("NaN", None),
        ] {
            assert_eq!(parse_decimal(text, 7, 2), expected, "{text:?}");
        }
    }

    #[test]
    fn bytes_are_hex() {
        assert_eq!(parse_bytes("\\x"), Some(vec![]));
        assert_eq!(parse_bytes("\\x00fF"), Some(vec![0, 255]));
        for text in ["00ff", "\\x0", "\\x0g", "", "\\xé"] {
            assert_eq!(parse_bytes(text), None, "{text:?}");
        }
    }
}
