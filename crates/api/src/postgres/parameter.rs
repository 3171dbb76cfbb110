//! Bound parameters: bytes of the wire, text or binary, to the values that a plan takes.

mod array;
mod numeric;

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::{
    DECIMAL_DEFAULT_SCALE, DECIMAL128_MAX_PRECISION, DataType, Field, IntervalMonthDayNano,
    IntervalUnit, TimeUnit,
};
use arrow_pg::datatypes::PG_OID_ALIAS_KEY;
use datafusion::{
    scalar::ScalarValue,
    sql::sqlparser::{
        keywords::Keyword,
        tokenizer::{Token, Tokenizer},
    },
};
use lambic_query::{Numeral, Postgres};
use pgwire::{
    api::{Type, portal::Portal},
    error::{PgWireError, PgWireResult},
};

use array::{array_elements, binary_array, element_type, fit_array};
use numeric::{list, numeric_scalar};

pub use numeric::numeric_text;

/// Postgres counts days and microseconds from 2000-01-01, Arrow from 1970-01-01.
pub const DAYS_1970_TO_2000: i32 = 10_957;
pub const MICROSECONDS_1970_TO_2000: i64 = DAYS_1970_TO_2000 as i64 * 86_400_000_000;

/// What a client is told of a parameter that it left open.
pub fn wire_type(planned: Option<&DataType>) -> Type {
    let Some(planned) = planned else {
        return Type::TEXT;
    };
    if let DataType::List(element) = planned
        && element.metadata().contains_key(PG_OID_ALIAS_KEY)
    {
        return Type::OID_ARRAY;
    }
    super::encode::pg_type(&Arc::new(Field::new("", planned.clone(), true)))
}

/// What the text tells of parameters and the plan does not: the type of `$1::bigint[]`, and that `$1`
/// in `c = ANY($1)`, which a plan types like `c`, is an array of that.
pub fn types_of_text(sql: &str, planned: &mut [Option<DataType>]) {
    let Ok(mut tokens) = Tokenizer::new(&Postgres, sql).tokenize() else {
        return;
    };
    tokens.retain(|token| !matches!(token, Token::Whitespace(_)));
    for (at, token) in tokens.iter().enumerate() {
        let Token::Placeholder(name) = token else {
            continue;
        };
        let number: usize = name.trim_start_matches('$').parse().unwrap_or_default();
        let Some(planned) = number
            .checked_sub(1)
            .and_then(|index| planned.get_mut(index))
        else {
            continue;
        };
        // A text, where the plan does not tell either.
        let is_told = |planned: &DataType| !planned.is_list() && *planned != DataType::Utf8;
        if !planned.as_ref().is_some_and(is_told)
            && let [Token::DoubleColon, name @ ..] = &tokens[at + 1..]
            && let Some(cast) = cast_type(name)
        {
            *planned = Some(cast);
        }
        let is_any = matches!(&tokens[..at], [.., Token::Word(word), Token::LParen] if word.keyword == Keyword::ANY);
        if is_any && !planned.as_ref().is_some_and(DataType::is_list) {
            let element = planned.take().unwrap_or(DataType::Utf8);
            *planned = Some(DataType::new_list(element, true));
        }
    }
}

/// The type whose name the tokens begin with.
fn cast_type(tokens: &[Token]) -> Option<DataType> {
    let (Token::Word(name), rest) = tokens.split_first()? else {
        return None;
    };
    let name = name.value.to_ascii_lowercase();
    let is_array = |rest: &[Token]| matches!(rest, [Token::LBracket, Token::RBracket, ..]);
    if name == "oid" && is_array(rest) {
        // Object ids are integers here; the mark tells clients what they are.
        let mark = HashMap::from([(PG_OID_ALIAS_KEY.to_owned(), "oid".to_owned())]);
        let element = Field::new_list_field(DataType::Int32, true).with_metadata(mark);
        return Some(DataType::List(Arc::new(element)));
    }
    let data_type = match name.as_str() {
        "bigint" | "int8" => DataType::Int64,
        "integer" | "int" | "int4" | "oid" => DataType::Int32,
        "smallint" | "int2" => DataType::Int16,
        "real" | "float4" => DataType::Float32,
        "double" | "float8" | "float" => DataType::Float64,
        "boolean" | "bool" => DataType::Boolean,
        "text" | "varchar" | "char" | "name" => DataType::Utf8,
        "bytea" => DataType::Binary,
        "date" => DataType::Date32,
        "timestamptz" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
        _ => return None,
    };
    let rest = match rest {
        [Token::Word(word), rest @ ..] if word.keyword == Keyword::PRECISION => rest,
        rest => rest,
    };
    Some(match is_array(rest) {
        true => DataType::new_list(data_type, true),
        false => data_type,
    })
}

/// The values of `portal`; `planned` are the types that the plan expects, where it tells.
pub fn values<S: Clone>(
    portal: &Portal<S>,
    planned: &[Option<DataType>],
    unused: usize,
) -> PgWireResult<Vec<ScalarValue>> {
    let given = portal.parameters.len();
    let required = planned.len() + unused;
    if given != required {
        return Err(super::error::wire(
            "08P01",
            format!(
                "bind supplies {given} parameters, but the prepared statement requires {required}"
            ),
        ));
    }
    let declared = &portal.statement.parameter_types;
    let mut values = Vec::with_capacity(given);
    for (index, bytes) in portal.parameters.iter().enumerate().take(planned.len()) {
        let planned = planned[index].as_ref();
        let declared = declared
            .get(index)
            .cloned()
            .flatten()
            .filter(|t| *t != Type::UNKNOWN && *t != Type::VOID);
        let wire = declared.unwrap_or_else(|| wire_type(planned));
        let value = match bytes {
            None => null(planned, &wire),
            Some(bytes) if portal.parameter_format.is_binary(index) => binary(&wire, bytes)
                .and_then(|value| match value {
                    ScalarValue::List(_) => fit_array(value, planned),
                    _ => fit(value, planned),
                }),
            Some(bytes) => text(&wire, bytes, planned),
        };
        values.push(value.map_err(|why| invalid(index, &wire, &why))?);
    }
    Ok(values)
}

fn invalid(index: usize, wire: &Type, why: &str) -> PgWireError {
    super::error::wire(
        "22P02",
        format!(
            "parameter ${} is not a valid {}: {why}",
            index + 1,
            wire.name()
        ),
    )
}

fn null(planned: Option<&DataType>, wire: &Type) -> Result<ScalarValue, String> {
    let data_type = planned
        .cloned()
        .or_else(|| arrow_type(wire))
        .unwrap_or(DataType::Utf8);
    ScalarValue::try_from(&data_type).map_err(|error| error.to_string())
}

/// What a client says of its parameters.
pub fn declared(types: &[Option<Type>]) -> Vec<Option<DataType>> {
    let declared = types.iter().map(|wire| {
        let wire = wire.as_ref()?;
        match element_type(wire) {
            Some(element) => Some(DataType::new_list(arrow_type(&element)?, true)),
            None => arrow_type(wire),
        }
    });
    declared.collect()
}

fn arrow_type(wire: &Type) -> Option<DataType> {
    Some(match *wire {
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::Int16,
        Type::INT4 | Type::OID | Type::REGCLASS | Type::REGTYPE => DataType::Int32,
        Type::INT8 => DataType::Int64,
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 => DataType::Float64,
        Type::BYTEA => DataType::Binary,
        Type::DATE => DataType::Date32,
        Type::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Type::TIME => DataType::Time64(TimeUnit::Microsecond),
        Type::INTERVAL => DataType::Interval(IntervalUnit::MonthDayNano),
        // As `$1::numeric` is read.
        Type::NUMERIC => DataType::Decimal128(DECIMAL128_MAX_PRECISION, DECIMAL_DEFAULT_SCALE),
        Type::TEXT
        | Type::VARCHAR
        | Type::BPCHAR
        | Type::NAME
        | Type::CHAR
        | Type::JSON
        | Type::JSONB
        | Type::UUID => DataType::Utf8,
        _ => return None,
    })
}

/// The value in the planned type. A decimal that this could not hold as it is stays as it is; others are refused.
fn fit(value: ScalarValue, planned: Option<&DataType>) -> Result<ScalarValue, String> {
    let Some(planned) = planned.filter(|planned| value.data_type() != **planned) else {
        return Ok(value);
    };
    let are_decimals = is_of_decimals(&value.data_type()) && is_of_decimals(planned);
    let cast = match value.cast_to(planned) {
        Ok(cast) => cast,
        Err(_) if are_decimals => return Ok(value),
        Err(error) => return Err(error.strip_backtrace()),
    };
    // Postgres converts to doubles as well.
    let may_round = element_or_self(planned).is_floating() || !loses(&value);
    if may_round
        || cast
            .cast_to(&value.data_type())
            .is_ok_and(|back| back == value)
    {
        return Ok(cast);
    }
    match are_decimals {
        true => Ok(value),
        false => Err(format!(
            "{value} does not fit into {planned}; cast the parameter in the statement"
        )),
    }
}

/// Of a decimal, or of a list of them.
fn is_of_decimals(data_type: &DataType) -> bool {
    matches!(element_or_self(data_type), DataType::Decimal128(..))
}

fn element_or_self(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::List(element) => element.data_type(),
        data_type => data_type,
    }
}

/// Whether another type may hold less of such a value.
fn loses(value: &ScalarValue) -> bool {
    is_of_decimals(&value.data_type())
        || matches!(
            value,
            ScalarValue::Float32(_)
                | ScalarValue::Float64(_)
                | ScalarValue::TimestampMicrosecond(..)
        )
}

fn text(wire: &Type, bytes: &[u8], planned: Option<&DataType>) -> Result<ScalarValue, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    if let Some(element) = element_type(wire) {
        let elements = array_elements(text)?;
        let data_type = arrow_type(&element).unwrap_or(DataType::Utf8);
        let values = elements
            .into_iter()
            .map(|value| match value {
                Some(value) if element == Type::NUMERIC => numeric_scalar(value.trim()),
                Some(value) => self::text(&element, value.as_bytes(), Some(&data_type)),
                None => ScalarValue::try_from(&data_type).map_err(|error| error.to_string()),
            })
            .collect::<Result<Vec<_>, _>>()?;
        return fit_array(list(&values, &data_type)?, planned);
    }
    let target = planned
        .cloned()
        .or_else(|| arrow_type(wire))
        .unwrap_or(DataType::Utf8);
    if let DataType::Decimal128(..) = target
        && let text = text.trim()
        && Numeral::read(text).is_some()
    {
        return fit(numeric_scalar(text)?, Some(&target));
    }
    let value = match (&target, wire) {
        (DataType::Boolean, _) => ScalarValue::Boolean(Some(boolean(text)?)),
        (DataType::Binary | DataType::LargeBinary | DataType::BinaryView, _) => {
            ScalarValue::Binary(Some(bytea(text)?))
        }
        // Postgres ignores blanks around numbers.
        (target, _) if target.is_numeric() => ScalarValue::Utf8(Some(text.trim().to_owned())),
        (_, _) => ScalarValue::Utf8(Some(text.to_owned())),
    };
    fit(value, Some(&target)).map_err(|_| format!("\"{text}\""))
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "t" | "true" | "y" | "yes" | "on" | "1" => Ok(true),
        "f" | "false" | "n" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("\"{text}\"")),
    }
}

fn bytea(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("\"{text}\"");
    if let Some(hex) = text.strip_prefix("\\x") {
        let digits: Vec<u8> = hex
            .chars()
            .filter(|c| !c.is_whitespace())
            .map(|c| c.to_digit(16).map(|digit| digit as u8).ok_or_else(wrong))
            .collect::<Result<_, _>>()?;
        if !digits.len().is_multiple_of(2) {
            return Err(wrong());
        }
        return Ok(digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if bytes.get(at + 1) == Some(&b'\\') => {
                out.push(b'\\');
                at += 2;
            }
            b'\\' => {
                let octal = text.get(at + 1..at + 4).ok_or_else(wrong)?;
                out.push(u8::from_str_radix(octal, 8).map_err(|_| wrong())?);
                at += 4;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Ok(out)
}

fn binary(wire: &Type, bytes: &[u8]) -> Result<ScalarValue, String> {
    fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], String> {
        bytes
            .try_into()
            .map_err(|_| format!("{} bytes instead of {N}", bytes.len()))
    }
    let utf8 =
        |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| "it is not UTF-8".to_owned());
    if let Some(element) = element_type(wire) {
        return binary_array(&element, bytes);
    }
    Ok(match *wire {
        Type::BOOL => ScalarValue::Boolean(Some(fixed::<1>(bytes)?[0] != 0)),
        Type::INT2 => ScalarValue::Int16(Some(i16::from_be_bytes(fixed(bytes)?))),
        Type::INT4 => ScalarValue::Int32(Some(i32::from_be_bytes(fixed(bytes)?))),
        Type::INT8 => ScalarValue::Int64(Some(i64::from_be_bytes(fixed(bytes)?))),
        // The catalog keeps object ids as signed integers.
        Type::OID | Type::REGCLASS | Type::REGTYPE | Type::REGPROC | Type::REGNAMESPACE => {
            ScalarValue::Int32(Some(i32::from_be_bytes(fixed(bytes)?)))
        }
        Type::FLOAT4 => ScalarValue::Float32(Some(f32::from_be_bytes(fixed(bytes)?))),
        Type::FLOAT8 => ScalarValue::Float64(Some(f64::from_be_bytes(fixed(bytes)?))),
        Type::BYTEA => ScalarValue::Binary(Some(bytes.to_vec())),
        Type::DATE => {
            let days = i32::from_be_bytes(fixed(bytes)?);
            let days = days
                .checked_add(DAYS_1970_TO_2000)
                .ok_or("it is out of range")?;
            ScalarValue::Date32(Some(days))
        }
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            let microseconds = i64::from_be_bytes(fixed(bytes)?);
            let microseconds = microseconds
                .checked_add(MICROSECONDS_1970_TO_2000)
                .ok_or("it is out of range")?;
            let zone = (*wire == Type::TIMESTAMPTZ).then(|| "UTC".into());
            ScalarValue::TimestampMicrosecond(Some(microseconds), zone)
        }
        Type::TIME => ScalarValue::Time64Microsecond(Some(i64::from_be_bytes(fixed(bytes)?))),
        Type::INTERVAL => {
            let bytes = fixed::<16>(bytes)?;
            let microseconds = i64::from_be_bytes(fixed(&bytes[..8])?);
            let days = i32::from_be_bytes(fixed(&bytes[8..12])?);
            let months = i32::from_be_bytes(fixed(&bytes[12..])?);
            let nanoseconds = microseconds
                .checked_mul(1_000)
                .ok_or("it is out of range")?;
            let interval = IntervalMonthDayNano::new(months, days, nanoseconds);
            ScalarValue::IntervalMonthDayNano(Some(interval))
        }
        Type::NUMERIC => {
            let text = numeric_text(bytes)?;
            match text.as_str() {
                "NaN" | "Infinity" | "-Infinity" => ScalarValue::Float64(text.parse().ok()),
                _ => numeric_scalar(&text)?,
            }
        }
        Type::UUID => {
            let hex: String = fixed::<16>(bytes)?
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let parts = [
                &hex[..8],
                &hex[8..12],
                &hex[12..16],
                &hex[16..20],
                &hex[20..],
            ];
            ScalarValue::Utf8(Some(parts.join("-")))
        }
        Type::JSONB => match bytes.split_first() {
            Some((1, json)) => ScalarValue::Utf8(Some(utf8(json)?)),
            _ => return Err("its version is not 1".to_owned()),
        },
        Type::TEXT
        | Type::VARCHAR
        | Type::BPCHAR
        | Type::NAME
        | Type::CHAR
        | Type::JSON
        | Type::UNKNOWN => ScalarValue::Utf8(Some(utf8(bytes)?)),
        _ => return Err("this type has no binary form here; send it as text".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_parameters_take_the_planned_type() {
        let check = |wire: Type, text_: &str, planned: Option<DataType>, expected: &str| {
            let value = text(&wire, text_.as_bytes(), planned.as_ref());
            let shown = value
                .map(|value| format!("{value:?}"))
                .unwrap_or_else(|error| error);
            assert_eq!(shown, expected);
        };
        check(Type::TEXT, " 42 ", Some(DataType::Int64), "Int64(42)");
        check(Type::TEXT, "x", Some(DataType::Int64), "\"x\"");
        check(Type::BOOL, "on", None, "Boolean(true)");
        check(Type::BYTEA, "\\x00ff", None, "Binary(\"0,255\")");
        check(Type::BYTEA, "a\\\\\\001", None, "Binary(\"97,92,1\")");
        check(Type::TEXT, "hello", None, "Utf8(\"hello\")");
        check(Type::INT8, "7", Some(DataType::Int32), "Int32(7)");
    }

    #[test]
    fn arrays_in_both_forms() {
        assert_eq!(
            array_elements("{1, NULL,\"a,\\\"b\"}").unwrap(),
            [Some("1".to_owned()), None, Some("a,\"b".to_owned())]
        );
        assert!(array_elements("{{1},{2}}").is_err());
        let mut wire = Vec::new();
        for word in [1i32, 1, 23, 2, 1, 4, 7, -1] {
            wire.extend(word.to_be_bytes());
        }
        let from_binary = binary(&Type::INT4_ARRAY, &wire).unwrap();
        let from_text = text(&Type::INT4_ARRAY, b"{7,NULL}", None).unwrap();
        assert_eq!(from_binary, from_text);
    }

    #[test]
    fn numerics_may_have_exponents() {
        let check = |text_: &str, planned: Option<DataType>, expected: (i128, u8, i8)| {
            let value = text(&Type::NUMERIC, text_.as_bytes(), planned.as_ref());
            let (unscaled, precision, scale) = expected;
            let expected = ScalarValue::Decimal128(Some(unscaled), precision, scale);
            assert_eq!(value, Ok(expected), "{text_}");
        };
        let money = Some(DataType::Decimal128(8, 2));
        check("1E-7", None, (1_000, 38, 10));
        check("1E-7", money.clone(), (1, 7, 7));
        check("1e+3", money.clone(), (100_000, 8, 2));
        check(" -12.5E1 ", money.clone(), (-12_500, 8, 2));
        check("300e-2", money.clone(), (300, 8, 2));
        check("1e37", money.clone(), (10_i128.pow(37), 38, 0));
        check("6e-39", money.clone(), (1, 38, 38));
        check("6e-40", money.clone(), (0, 8, 2));
        check("0e999999999", money.clone(), (0, 8, 2));
        check("1e-2147483648", money.clone(), (0, 8, 2));
        check("1e-99999999999999999999", money.clone(), (0, 8, 2));
        for wrong in ["1e38", "1e999999999", "1e99999999999999999999"] {
            let error = text(&Type::NUMERIC, wrong.as_bytes(), money.as_ref());
            let expected = format!("{wrong} has more than 38 digits before the point");
            assert_eq!(error, Err(expected));
        }
        for wrong in ["1e", "e1", "1e1.5", "--1", "1e--1", "."] {
            let error = text(&Type::NUMERIC, wrong.as_bytes(), money.as_ref());
            assert_eq!(error, Err(format!("\"{wrong}\"")));
        }
    }

    #[test]
    fn decimals_of_an_array_have_the_digits_of_all() {
        let list = |text_: &str, planned: Option<&DataType>| {
            let value = text(&Type::NUMERIC_ARRAY, text_.as_bytes(), planned);
            value.unwrap_or_else(|error| panic!("{text_}: {error}"))
        };
        let decimals = |values: &[Option<i128>], precision, scale| {
            let values = values.iter();
            let values = values.map(|value| ScalarValue::Decimal128(*value, precision, scale));
            let values: Vec<ScalarValue> = values.collect();
            let element = DataType::Decimal128(precision, scale);
            ScalarValue::List(ScalarValue::new_list_nullable(&values, &element))
        };
        let expected = decimals(&[Some(1), None, Some(20_000_000)], 8, 7);
        assert_eq!(list("{1E-7,NULL,2}", None), expected);
        let money = DataType::new_list(DataType::Decimal128(8, 2), true);
        let expected = decimals(&[Some(300)], 8, 2);
        assert_eq!(list("{3}", Some(&money)), expected);
        let expected = decimals(&[Some(3_001)], 4, 3);
        assert_eq!(list("{3.001}", Some(&money)), expected);
        assert!(text(&Type::NUMERIC_ARRAY, b"{1e30,1e-30}", None).is_err());
        assert!(text(&Type::NUMERIC_ARRAY, b"{NaN}", None).is_err());
    }

    #[test]
    fn the_text_tells_types_too() {
        let mut planned = vec![
            Some(DataType::Int64),
            None,
            Some(DataType::Utf8),
            None,
            None,
        ];
        types_of_text(
            "select $5 :: double precision where a = ANY ( $1 ) and b = any($2::int[]) and c = $3 or d = any($4)",
            &mut planned,
        );
        assert_eq!(
            planned,
            [
                Some(DataType::new_list(DataType::Int64, true)),
                Some(DataType::new_list(DataType::Int32, true)),
                Some(DataType::Utf8),
                Some(DataType::new_list(DataType::Utf8, true)),
                Some(DataType::Float64),
            ]
        );
    }

    #[test]
    fn literals_name_no_parameters() {
        let mut planned = vec![None];
        types_of_text("select '$1::bigint', \"any($1)\" -- $1::date", &mut planned);
        assert_eq!(planned, [None]);
    }

    #[test]
    fn a_cut_value_is_an_error() {
        for wire in [
            Type::INT4,
            Type::NUMERIC,
            Type::INT4_ARRAY,
            Type::UUID,
            Type::TIMESTAMP,
        ] {
            assert!(binary(&wire, &[0, 1]).is_err(), "{wire}");
        }
    }
}
