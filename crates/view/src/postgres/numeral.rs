//! Texts that say numbers, as Postgres reads a numeric: `[sign] digits [. digits] [e [sign] digits]`.
//!
//! Arrow's casts from text to decimals take no exponents.

use std::borrow::Cow;

use arrow::datatypes::DECIMAL256_MAX_PRECISION;

/// Numbers with more places after the point are not written out: no decimal holds them.
const PLACES_MAX: usize = DECIMAL256_MAX_PRECISION as usize;
/// Nor are those with more zeros behind their digits.
const ZEROS_MAX: u64 = 400;

/// `digits` with the point before the last `scale` of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numeral {
    pub is_negative: bool,
    /// One or more; zeros may lead.
    pub digits: String,
    /// Any number, below zero where zeros follow the digits.
    pub scale: i64,
}

impl Numeral {
    /// `None` if `text` is written otherwise.
    pub fn read(text: &str) -> Option<Numeral> {
        let text = text.trim();
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, read_exponent(exponent)?),
            None => (text, 0),
        };
        let (is_negative, number) = signed(number);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        let places = i64::try_from(fraction.len()).ok()?;
        are_digits(&digits).then_some(Numeral {
            is_negative,
            digits,
            scale: places.saturating_sub(exponent),
        })
    }

    /// Without an exponent; `None` if that would be long.
    fn written_out(&self) -> Option<String> {
        let sign = if self.is_negative { "-" } else { "" };
        let digits = self.digits.as_str();
        match usize::try_from(self.scale) {
            Ok(0) => Some(format!("{sign}{digits}")),
            Ok(places) if places <= PLACES_MAX => {
                let width = places + 1;
                let padded = format!("{digits:0>width$}");
                let (whole, fraction) = padded.split_at(padded.len() - places);
                Some(format!("{sign}{whole}.{fraction}"))
            }
            Err(_) if self.scale.unsigned_abs() <= ZEROS_MAX => {
                let zeros = "0".repeat(self.scale.unsigned_abs() as usize);
                Some(format!("{sign}{digits}{zeros}"))
            }
            _ => None,
        }
    }
}

/// A number that has an exponent written without; whatever else comes back as it is, and what would be long.
pub fn without_exponent(text: &str) -> Cow<'_, str> {
    if !text.contains(['e', 'E']) {
        return Cow::Borrowed(text);
    }
    let plain = Numeral::read(text).and_then(|number| number.written_out());
    plain.map_or(Cow::Borrowed(text), Cow::Owned)
}

fn signed(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// The largest one stands for all that are larger.
fn read_exponent(text: &str) -> Option<i64> {
    let (is_negative, digits) = signed(text);
    if !are_digits(digits) {
        return None;
    }
    let size = digits.parse().unwrap_or(i64::MAX);
    Some(if is_negative { -size } else { size })
}

fn are_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_out() {
        let zeros = format!("1{}", "0".repeat(400));
        let cases = [
            ("1E-7", "0.0000001"),
            (" -1.50e+3 ", "-1500"),
            ("+.5e1", "5"),
            ("12.34e1", "123.4"),
            ("12.34e-1", "1.234"),
            ("5.e0", "5"),
            ("1e400", zeros.as_str()),
            ("1e401", "1e401"),
            ("1e-77", "1e-77"),
            ("1e99999999999999999999", "1e99999999999999999999"),
            ("1e-99999999999999999999", "1e-99999999999999999999"),
            ("1e", "1e"),
            ("e1", "e1"),
            (".e1", ".e1"),
            ("1e1.5", "1e1.5"),
            ("1.2.3e1", "1.2.3e1"),
            ("--1e1", "--1e1"),
            ("élève", "élève"),
            (" 1.5 ", " 1.5 "),
        ];
        for (text, expected) in cases {
            assert_eq!(without_exponent(text), expected, "{text:?}");
        }
    }
}
