//! Arrays of the wire: of one dimension, as text or binary.

use arrow::datatypes::DataType;
use datafusion::scalar::ScalarValue;
use pgwire::api::Type;

use super::{arrow_type, binary, fit, numeric::list};

pub fn element_type(wire: &Type) -> Option<Type> {
    Some(match *wire {
        Type::BOOL_ARRAY => Type::BOOL,
        Type::INT2_ARRAY => Type::INT2,
        Type::INT4_ARRAY => Type::INT4,
        Type::INT8_ARRAY => Type::INT8,
        Type::OID_ARRAY => Type::OID,
        Type::FLOAT4_ARRAY => Type::FLOAT4,
        Type::FLOAT8_ARRAY => Type::FLOAT8,
        Type::TEXT_ARRAY | Type::VARCHAR_ARRAY | Type::NAME_ARRAY | Type::BPCHAR_ARRAY => {
            Type::TEXT
        }
        Type::DATE_ARRAY => Type::DATE,
        Type::TIMESTAMP_ARRAY => Type::TIMESTAMP,
        Type::TIMESTAMPTZ_ARRAY => Type::TIMESTAMPTZ,
        Type::NUMERIC_ARRAY => Type::NUMERIC,
        Type::BYTEA_ARRAY => Type::BYTEA,
        Type::UUID_ARRAY => Type::UUID,
        _ => return None,
    })
}

pub fn binary_array(element: &Type, bytes: &[u8]) -> Result<ScalarValue, String> {
    let word = |at: usize| -> Result<i32, String> {
        let four = bytes.get(at..at + 4).ok_or("it is cut short")?;
        Ok(i32::from_be_bytes([four[0], four[1], four[2], four[3]]))
    };
    let data_type = arrow_type(element).unwrap_or(DataType::Utf8);
    let mut values = Vec::new();
    match word(0)? {
        0 => {}
        1 => {
            let count = word(12)?;
            let mut at = 20;
            for _ in 0..count {
                let length = word(at)?;
                at += 4;
                let Ok(length) = usize::try_from(length) else {
                    values.push(
                        ScalarValue::try_from(&data_type).map_err(|error| error.to_string())?,
                    );
                    continue;
                };
                let value = bytes.get(at..at + length).ok_or("it is cut short")?;
                values.push(match binary(element, value)? {
                    value @ ScalarValue::Decimal128(..) => value,
                    value => fit(value, Some(&data_type))?,
                });
                at += length;
            }
        }
        _ => return Err("only arrays of one dimension are taken".to_owned()),
    }
    list(&values, &data_type)
}

/// The plan may know an array only by its elements (`c = ANY($1)`): then the array stays what it is.
pub fn fit_array(value: ScalarValue, planned: Option<&DataType>) -> Result<ScalarValue, String> {
    let element = |data_type: &DataType| match data_type {
        DataType::List(field) => Some(field.data_type().clone()),
        _ => None,
    };
    match planned {
        Some(planned) if planned.is_list() && element(planned) != element(&value.data_type()) => {
            fit(value, Some(planned))
        }
        _ => Ok(value),
    }
}

/// `{1,NULL,"a \"b\""}`
pub fn array_elements(text: &str) -> Result<Vec<Option<String>>, String> {
    let wrong = || format!("\"{text}\"");
    let inner = text
        .trim()
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'))
        .ok_or_else(wrong)?;
    let mut elements = Vec::new();
    if inner.trim().is_empty() {
        return Ok(elements);
    }
    let mut chars = inner.chars().peekable();
    loop {
        let mut value = String::new();
        let mut was_quoted = false;
        while let Some(c) = chars.peek().copied() {
            match c {
                ',' => break,
                '{' | '}' => return Err("only arrays of one dimension are taken".to_owned()),
                '"' => {
                    was_quoted = true;
                    chars.next();
                    loop {
                        match chars.next().ok_or_else(wrong)? {
                            '"' => break,
                            '\\' => value.push(chars.next().ok_or_else(wrong)?),
                            c => value.push(c),
                        }
                    }
                }
                '\\' => {
                    chars.next();
                    value.push(chars.next().ok_or_else(wrong)?);
                }
                c => {
                    value.push(c);
                    chars.next();
                }
            }
        }
        let value = if was_quoted {
            value
        } else {
            value.trim().to_owned()
        };
        let is_null = !was_quoted && value.eq_ignore_ascii_case("null");
        elements.push((!is_null).then_some(value));
        if chars.next().is_none() {
            return Ok(elements);
        }
    }
}
