//! Numerics of the wire, which have any number of digits, as decimals of up to 38.

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType};
use datafusion::scalar::ScalarValue;
use lambic_query::Numeral;

/// A decimal just wide enough for the digits of `text`, rounded where there is no room for all of them: numeric has
/// more in Postgres.
pub fn numeric_scalar(text: &str) -> Result<ScalarValue, String> {
    const DIGITS: i64 = DECIMAL128_MAX_PRECISION as i64;
    let out_of_range = || format!("{text} has more than {DIGITS} digits before the point");
    let number = Numeral::read(text).ok_or_else(|| format!("\"{text}\""))?;
    let significant = number.digits.trim_start_matches('0');
    let count = significant.len() as i64;
    // Zero is zero, whatever its exponent.
    let scale = match count {
        0 => number.scale.max(0),
        _ => number.scale,
    };
    if count.saturating_sub(scale) > DIGITS {
        return Err(out_of_range());
    }
    let cut = (count.max(scale) - DIGITS).max(0);
    let (kept, rest) = match usize::try_from(count - cut) {
        Ok(kept) => significant.split_at(kept),
        Err(_) => ("", ""),
    };
    let zeros = "0".repeat(usize::try_from(-scale).unwrap_or(0));
    let up = rest.bytes().next().is_some_and(|digit| digit >= b'5');
    let unscaled: i128 = format!("0{kept}{zeros}")
        .parse()
        .map_err(|_| out_of_range())?;
    let unscaled = unscaled + i128::from(up);
    let scale = (scale - cut).max(0);
    let count = unscaled
        .checked_ilog10()
        .map_or(1, |log| i64::from(log) + 1);
    let precision = u8::try_from(count.max(scale)).ok();
    let precision = precision.filter(|precision| *precision <= DECIMAL128_MAX_PRECISION);
    let unscaled = match number.is_negative {
        true => -unscaled,
        false => unscaled,
    };
    Ok(ScalarValue::Decimal128(
        Some(unscaled),
        precision.ok_or_else(out_of_range)?,
        scale as i8,
    ))
}

/// Postgres's binary numeric as decimal digits.
pub fn numeric_text(bytes: &[u8]) -> Result<String, String> {
    let word = |at: usize| -> Result<u16, String> {
        let pair = bytes.get(at * 2..at * 2 + 2).ok_or("it is cut short")?;
        Ok(u16::from_be_bytes([pair[0], pair[1]]))
    };
    let groups = usize::from(word(0)?);
    let weight = i32::from(word(1)? as i16);
    let sign = match word(2)? {
        0 => "",
        0x4000 => "-",
        0xC000 => return Ok("NaN".to_owned()),
        0xD000 => return Ok("Infinity".to_owned()),
        0xF000 => return Ok("-Infinity".to_owned()),
        _ => return Err("its sign is unknown".to_owned()),
    };
    let scale = usize::from(word(3)?);
    if weight.unsigned_abs() > 64 || scale > 128 {
        return Err("it has more digits than can be kept".to_owned());
    }
    let group = |index: i32| -> Result<u16, String> {
        match usize::try_from(index) {
            Ok(index) if index < groups => word(4 + index),
            _ => Ok(0),
        }
    };
    let mut whole = String::new();
    for index in 0..=weight {
        whole.push_str(&format!("{:04}", group(index)?));
    }
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let mut fraction = String::new();
    let mut index = weight + 1;
    while fraction.len() < scale {
        fraction.push_str(&format!("{:04}", if index < 0 { 0 } else { group(index)? }));
        index += 1;
    }
    // A negative weight means that the first groups of the fraction are zero and not sent.
    fraction.truncate(scale);
    let sign = if whole == "0" && fraction.chars().all(|c| c == '0') {
        ""
    } else {
        sign
    };
    Ok(if scale == 0 {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{fraction}")
    })
}

/// A list of `element`, but of decimals as wide as the values need.
pub fn list(values: &[ScalarValue], element: &DataType) -> Result<ScalarValue, String> {
    let (mut before, mut after): (i8, i8) = (0, 0);
    for value in values {
        if let ScalarValue::Decimal128(Some(_), precision, scale) = value {
            before = before.max(*precision as i8 - scale);
            after = after.max(*scale);
        }
    }
    let precision = (before + after) as u8;
    let element = match precision {
        0 => element.clone(),
        1..=DECIMAL128_MAX_PRECISION => DataType::Decimal128(precision, after),
        _ => {
            return Err(format!(
                "its elements need more than {DECIMAL128_MAX_PRECISION} digits together"
            ));
        }
    };
    let values = values.iter().map(|value| value.cast_to(&element));
    let values = values
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.strip_backtrace())?;
    Ok(ScalarValue::List(ScalarValue::new_list_nullable(
        &values, &element,
    )))
}
