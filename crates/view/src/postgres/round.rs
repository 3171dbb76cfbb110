//! `round(numeric, places)`: half away from zero, with as many digits after the point as are asked for.
//!
//! DataFusion's has one type before types are coerced and another one after, so that whatever was planned with the
//! first does not fit.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, Decimal128Array},
    datatypes::{
        DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Float32Type, Float64Type, Int32Type,
        i256,
    },
};
use datafusion::{
    common::{Result, plan_err},
    functions::math,
    logical_expr::{Cast, ColumnarValue, Expr, expr::ScalarFunction, lit},
    scalar::ScalarValue,
};

use super::{
    ValueError, decimal,
    function::{self, Meaning},
};

/// How many digits stay after the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Round {
    Whole,
    Places(i32),
    /// As the second argument says, row by row.
    ByRow,
}

impl Round {
    /// True if `call` is DataFusion's `round` over a decimal.
    pub fn is_for(call: &ScalarFunction, first: Option<&DataType>) -> bool {
        call.func.name() == "round"
            && matches!(call.args.len(), 1 | 2)
            && matches!(first, Some(DataType::Decimal128(..)))
    }

    /// In place of a call that [`Round::is_for`] says is one.
    pub fn of(mut arguments: Vec<Expr>) -> Expr {
        let round = match arguments.get(1).map(constant) {
            None => Round::Whole,
            Some(Some(places)) => Round::Places(places),
            Some(None) => Round::ByRow,
        };
        if round != Round::ByRow {
            arguments.truncate(1);
        }
        function::call(round, arguments)
    }

    /// `given` is what the row says, or what stands for it in the type.
    fn places(self, given: i32) -> i32 {
        match self {
            Round::Whole => 0,
            Round::Places(places) => places,
            Round::ByRow => given.clamp(-LIMIT, LIMIT),
        }
    }
}

/// `round(double precision)`: halves go to the even neighbour, as everywhere in floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HalfEven;

impl Meaning for HalfEven {
    fn name(&self) -> &'static str {
        "round_half_even"
    }

    fn returns(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [argument] => Ok(argument.clone()),
            _ => plan_err!("round takes one double"),
        }
    }

    fn compute(&self, arguments: &[ColumnarValue], _rows: usize) -> Result<ColumnarValue> {
        let rounded = |values: &ArrayRef| -> Result<ArrayRef> {
            Ok(match values.data_type() {
                DataType::Float32 => {
                    let values = values.as_primitive::<Float32Type>();
                    Arc::new(values.unary::<_, Float32Type>(f32::round_ties_even))
                }
                _ => {
                    let values = values.as_primitive::<Float64Type>();
                    Arc::new(values.unary::<_, Float64Type>(f64::round_ties_even))
                }
            })
        };
        Ok(match arguments {
            [ColumnarValue::Array(values)] => ColumnarValue::Array(rounded(values)?),
            [ColumnarValue::Scalar(value)] => {
                let rounded = rounded(&value.to_array()?)?;
                ColumnarValue::Scalar(ScalarValue::try_from_array(&rounded, 0)?)
            }
            _ => return plan_err!("round takes one double"),
        })
    }

    fn stands_for(&self, arguments: &[Expr]) -> Option<Expr> {
        Some(math::expr_fn::round(arguments.to_vec()))
    }
}

/// Beyond what any numeric has, all are alike.
const LIMIT: i32 = DECIMAL128_MAX_PRECISION as i32 + 1;

/// The integer that a constant is, whatever integer type it is cast to.
fn constant(expr: &Expr) -> Option<i32> {
    match expr {
        Expr::Literal(value, _) if value.data_type().is_integer() => {
            match value.cast_to(&DataType::Int64) {
                Ok(ScalarValue::Int64(Some(places))) => {
                    Some(places.clamp(-i64::from(LIMIT), i64::from(LIMIT)) as i32)
                }
                _ => None,
            }
        }
        Expr::Cast(Cast { expr, field }) if field.data_type().is_integer() => constant(expr),
        Expr::Negative(expr) => constant(expr).map(|places| -places),
        _ => None,
    }
}

fn digits(data_type: &DataType) -> Result<(u8, i8)> {
    match data_type {
        DataType::Decimal128(precision, scale) => Ok((*precision, *scale)),
        other => plan_err!("round takes a numeric here, not {other}"),
    }
}

/// `value` of `from` digits (precision and scale) rounded to `places`, in units of 10^-`scale`.
fn rounded(value: i128, from: (u8, i8), places: i32, to: (u8, i8)) -> Result<i128, ValueError> {
    let ((precision, scale), (to_precision, to_scale)) = (from, to);
    if places < i32::from(scale) - i32::from(precision) {
        return Ok(0);
    }
    let places = places.min(i32::from(to_scale)) as i8;
    let units = decimal::quotient((i256::from_i128(value), scale), (i256::ONE, 0), places)?;
    let units = decimal::quotient((units, places), (i256::ONE, 0), to_scale)?;
    decimal::fitting(units, to_precision, to_scale)
}

impl Meaning for Round {
    fn name(&self) -> &'static str {
        "round_numeric"
    }

    fn coerce(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        let mut types = arguments.to_vec();
        types[1..].fill(DataType::Int32);
        Ok(types)
    }

    fn returns(&self, arguments: &[DataType]) -> Result<DataType> {
        let (precision, scale) = digits(&arguments[0])?;
        let max = i32::from(DECIMAL128_MAX_PRECISION);
        let whole = i32::from(precision) - i32::from(scale);
        let scale = self.places(i32::from(scale)).clamp(0, (max - whole).max(0));
        // 9.9 becomes 10.
        let precision = (whole + 1 + scale).clamp(1, max);
        Ok(DataType::Decimal128(precision as u8, scale as i8))
    }

    fn compute(&self, arguments: &[ColumnarValue], rows: usize) -> Result<ColumnarValue> {
        let types: Vec<DataType> = arguments.iter().map(ColumnarValue::data_type).collect();
        let (from, data_type) = (digits(&types[0])?, self.returns(&types)?);
        let to = digits(&data_type)?;
        let scalars = arguments
            .iter()
            .all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if scalars { 1 } else { rows };
        let values = arguments[0].to_array(rows)?;
        let values = values.as_primitive::<Decimal128Type>().iter();
        let round = |value: i128, given: i32| rounded(value, from, self.places(given), to);
        let values = match arguments.get(1) {
            None => values
                .map(|value| value.map(|value| round(value, 0)).transpose())
                .collect::<Result<Decimal128Array, ValueError>>()?,
            Some(places) => {
                let places = places.to_array(rows)?;
                let places = places.as_primitive::<Int32Type>();
                values
                    .zip(places)
                    .map(|(value, places)| match (value, places) {
                        (Some(value), Some(places)) => round(value, places).map(Some),
                        _ => Ok(None),
                    })
                    .collect::<Result<Decimal128Array, ValueError>>()?
            }
        };
        let values: ArrayRef = Arc::new(values.with_data_type(data_type));
        Ok(match scalars {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?),
            false => ColumnarValue::Array(values),
        })
    }

    fn stands_for(&self, arguments: &[Expr]) -> Option<Expr> {
        let mut arguments = arguments.to_vec();
        if let Round::Places(places) = self {
            arguments.push(lit(i64::from(*places)));
        }
        Some(math::round().call(arguments))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numerics_are_rounded_half_away_from_zero() {
        for (value, places, to, expected) in [
            (7777, 1, (11, 1), 78),
            (-1250, 1, (11, 1), -13),
            (1234, 5, (15, 5), 123_400),
            (9999, 0, (10, 0), 10),
            (1_234_567, -2, (10, 0), 1200),
            (5_000, -1, (10, 0), 10),
            (999_999_999_999, -9, (10, 0), 1_000_000_000),
            (999_999_999_999, -10, (10, 0), 0),
        ] {
            let found = rounded(value, (12, 3), places, to).unwrap();
            assert_eq!(found, expected, "{value} to {places}");
        }
        let nines = 10i128.pow(38) - 1;
        let error = rounded(nines, (38, 1), 0, (38, 0)).map(|value| value.to_string());
        assert_eq!(error.unwrap(), format!("1{}", "0".repeat(37)));
        assert_eq!(
            rounded(nines, (38, 0), -1, (38, 0)).unwrap_err().sqlstate,
            "22003"
        );
    }
}
