//! Casts that round, refuse and read as Postgres's do.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, PrimitiveArray, StringArray,
    },
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type},
};
use datafusion::{
    common::{Result, not_impl_err},
    logical_expr::{Cast, ColumnarValue, Expr},
    scalar::ScalarValue,
};

use super::{ValueError, function::Meaning, types};

/// A cast that DataFusion's own would do otherwise; the type is what it casts to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PostgresCast {
    /// From a double or decimal to an integer: to the nearest, where Arrow cuts off.
    Round(DataType),
    /// From `double precision` to `real`: what does not fit is an error, not infinity.
    Real,
    /// From text to `bytea`: `\x…` is hexadecimal, `\\` and `\ooo` are escapes.
    ToBytes,
    /// From `bytea` to text: `\x…`.
    FromBytes,
}

impl PostgresCast {
    pub fn of(from: &DataType, to: &DataType) -> Option<PostgresCast> {
        let integer = matches!(to, DataType::Int16 | DataType::Int32 | DataType::Int64);
        match from {
            DataType::Float32 | DataType::Float64 if integer => {
                Some(PostgresCast::Round(to.clone()))
            }
            DataType::Decimal128(..) if integer => Some(PostgresCast::Round(to.clone())),
            DataType::Float64 if *to == DataType::Float32 => Some(PostgresCast::Real),
            DataType::Utf8 if *to == DataType::Binary => Some(PostgresCast::ToBytes),
            DataType::Binary if *to == DataType::Utf8 => Some(PostgresCast::FromBytes),
            _ => None,
        }
    }

    fn cast(&self, from: &ArrayRef) -> Result<ArrayRef> {
        match (self, from.data_type()) {
            (PostgresCast::Round(to), DataType::Decimal128(precision, _)) => {
                let whole = DataType::Decimal128(*precision, 0);
                let strict = CastOptions {
                    safe: false,
                    ..CastOptions::default()
                };
                let rounded = cast_with_options(from, &whole, &strict)?;
                let integers = cast_with_options(&rounded, to, &strict);
                Ok(integers.map_err(|_| out_of_range(to))?)
            }
            (PostgresCast::Round(to), DataType::Float32) => round::<Float32Type>(from, to),
            (PostgresCast::Round(to), _) => round::<Float64Type>(from, to),
            (PostgresCast::Real, _) => {
                let doubles = from.as_primitive::<Float64Type>();
                let reals = doubles.try_unary::<_, Float32Type, ValueError>(|double| {
                    let real = double as f32;
                    match real.is_finite() || !double.is_finite() {
                        true => Ok(real),
                        false => Err(out_of_range(&DataType::Float32)),
                    }
                })?;
                Ok(Arc::new(reals))
            }
            (PostgresCast::ToBytes, _) => {
                let texts = from.as_string::<i32>();
                let bytes = texts.iter().map(|text| text.map(bytes).transpose());
                let bytes = bytes.collect::<Result<Vec<Option<Vec<u8>>>, ValueError>>()?;
                Ok(Arc::new(BinaryArray::from_iter(bytes)))
            }
            (PostgresCast::FromBytes, _) => {
                let texts = from.as_binary::<i32>().iter();
                let texts = texts.map(|bytes| bytes.map(text));
                Ok(Arc::new(texts.collect::<StringArray>()))
            }
        }
    }

    fn to(&self) -> DataType {
        match self {
            PostgresCast::Round(to) => to.clone(),
            PostgresCast::Real => DataType::Float32,
            PostgresCast::ToBytes => DataType::Binary,
            PostgresCast::FromBytes => DataType::Utf8,
        }
    }
}

impl Meaning for PostgresCast {
    fn name(&self) -> &'static str {
        "postgres_cast"
    }

    fn returns(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to())
    }

    fn compute(&self, arguments: &[ColumnarValue], _rows: usize) -> Result<ColumnarValue> {
        Ok(match &arguments[0] {
            ColumnarValue::Array(array) => ColumnarValue::Array(self.cast(array)?),
            ColumnarValue::Scalar(scalar) => {
                let cast = self.cast(&scalar.to_array()?)?;
                ColumnarValue::Scalar(ScalarValue::try_from_array(&cast, 0)?)
            }
        })
    }

    fn stands_for(&self, arguments: &[Expr]) -> Option<Expr> {
        let from = Box::new(arguments.first()?.clone());
        Some(Expr::Cast(Cast::new(from, self.to())))
    }
}

fn out_of_range(to: &DataType) -> ValueError {
    ValueError::out_of_range(format!("{} out of range", types::name(to)))
}

fn round<F>(from: &ArrayRef, to: &DataType) -> Result<ArrayRef>
where
    F: ArrowPrimitiveType,
    F::Native: Into<f64>,
{
    fn integers<F, I>(from: &PrimitiveArray<F>, to: &DataType) -> Result<ArrayRef>
    where
        F: ArrowPrimitiveType,
        F::Native: Into<f64>,
        I: ArrowPrimitiveType,
        I::Native: TryFrom<i64>,
    {
        let rounded = from.try_unary::<_, I, ValueError>(|value| {
            let value: f64 = value.into();
            // Halves go to the even neighbour, as everywhere in floating point.
            let whole = value.round_ties_even();
            // 2^63 is the first double that is too large; -2^63 fits.
            let fits = (-(2f64.powi(63))..2f64.powi(63)).contains(&whole);
            fits.then_some(whole as i64)
                .and_then(|whole| I::Native::try_from(whole).ok())
                .ok_or_else(|| out_of_range(to))
        })?;
        Ok(Arc::new(rounded))
    }
    let from = from.as_primitive::<F>();
    match to {
        DataType::Int16 => integers::<F, Int16Type>(from, to),
        DataType::Int32 => integers::<F, Int32Type>(from, to),
        DataType::Int64 => integers::<F, Int64Type>(from, to),
        other => not_impl_err!("casts to {other}"),
    }
}

/// Reads `bytea` as Postgres writes it (documentation, chapter 8.4).
pub fn bytes(text: &str) -> Result<Vec<u8>, ValueError> {
    let wrong = |what: &str| {
        ValueError::new(
            "22P02",
            format!("invalid input syntax for type bytea: {what}"),
        )
    };
    if let Some(hex) = text.strip_prefix("\\x") {
        let digits: Vec<u8> = hex
            .chars()
            .filter(|c| !c.is_ascii_whitespace())
            .map(|c| c.to_digit(16).map(|digit| digit as u8))
            .collect::<Option<_>>()
            .ok_or_else(|| wrong("after \\x only hexadecimal digits are expected"))?;
        let (pairs, []) = digits.as_chunks::<2>() else {
            return Err(wrong("an odd number of hexadecimal digits"));
        };
        return Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'\\', [b'\\', after @ ..]) => {
                bytes.push(b'\\');
                after
            }
            (
                b'\\',
                [
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                after
            }
            (b'\\', _) => {
                return Err(wrong(
                    "after a backslash \\\\ or three octal digits are expected",
                ));
            }
            (byte, after) => {
                bytes.push(*byte);
                after
            }
        };
    }
    Ok(bytes)
}

fn text(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("\\x");
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytea_is_read_in_both_forms() {
        for (text, expected) in [
            ("\\x00fF", &[0, 255][..]),
            ("\\x", &[]),
            ("\\x 00 01", &[0, 1]),
            ("abc", b"abc"),
            ("a\\\\b\\000\\377", b"a\\b\0\xff"),
        ] {
            assert_eq!(bytes(text).unwrap(), expected, "{text}");
        }
        for wrong in ["\\x0", "\\xzz", "\\9", "a\\"] {
            assert_eq!(bytes(wrong).unwrap_err().sqlstate, "22P02", "{wrong}");
        }
        assert_eq!(text(&[0, 255]), "\\x00ff");
    }
}
