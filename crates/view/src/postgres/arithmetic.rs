//! `+ - * /` that give the value or Postgres's error, never something wrapped around or infinite.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Datum, Decimal128Array, PrimitiveArray},
    compute::kernels::numeric,
    datatypes::{
        DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Float32Type, Float64Type, i256,
    },
    error::ArrowError,
};
use datafusion::{
    common::{DataFusionError, Result, plan_err},
    logical_expr::{BinaryExpr, ColumnarValue, Expr, Operator},
    physical_expr_common::datum::apply,
    scalar::ScalarValue,
};

use super::{
    ValueError, decimal,
    function::{Meaning, called},
};

/// One of the four operators over numbers of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checked(pub Operator);

impl Checked {
    /// If the operator over these types is one that needs checking.
    pub fn of(operator: Operator, left: &DataType, right: &DataType) -> Option<Checked> {
        use Operator::{Divide, Minus, Multiply, Plus};
        let integers = left == right && left.is_integer();
        let floats = left == right && matches!(left, DataType::Float32 | DataType::Float64);
        let decimals = matches!(
            (left, right),
            (DataType::Decimal128(..), DataType::Decimal128(..))
        );
        let checked = match operator {
            Plus | Minus | Multiply => integers || floats || decimals,
            Divide => integers || floats,
            _ => false,
        };
        checked.then_some(Checked(operator))
    }

    /// As the operator is named, in one pass over a chain: names are asked for at each link of it.
    fn write_name(self, arguments: &[Expr], name: &mut String) -> bool {
        let [left, right] = arguments else {
            return false;
        };
        for (before, operand) in [("", left), (" ", right)] {
            name.push_str(before);
            match called::<Checked>(operand) {
                Some((inner, operands)) if inner.write_name(operands, name) => {}
                _ => name.push_str(&operand.schema_name().to_string()),
            }
            if before.is_empty() {
                name.push_str(&format!(" {}", self.0));
            }
        }
        true
    }

    fn kernel(self, left: &dyn Datum, right: &dyn Datum) -> Result<ArrayRef, ArrowError> {
        match self.0 {
            Operator::Plus => numeric::add(left, right),
            Operator::Minus => numeric::sub(left, right),
            Operator::Multiply => numeric::mul(left, right),
            _ => numeric::div(left, right),
        }
    }
}

impl Meaning for Checked {
    fn name(&self) -> &'static str {
        match self.0 {
            Operator::Plus => "checked_add",
            Operator::Minus => "checked_subtract",
            Operator::Multiply => "checked_multiply",
            _ => "checked_divide",
        }
    }

    fn returns(&self, arguments: &[DataType]) -> Result<DataType> {
        let [left, right] = arguments else {
            return plan_err!("{} takes two arguments", self.name());
        };
        if left == right && !left.is_decimal() {
            return Ok(left.clone());
        }
        let empty = |data_type| arrow::array::new_empty_array(data_type);
        let result = self.kernel(&empty(left), &empty(right)).map_err(|error| {
            let message = format!("{error}; cast an operand to fewer digits");
            DataFusionError::from(ValueError::out_of_range(message))
        })?;
        Ok(result.data_type().clone())
    }

    fn compute(&self, arguments: &[ColumnarValue], _rows: usize) -> Result<ColumnarValue> {
        let [left, right] = arguments else {
            return plan_err!("{} takes two arguments", self.name());
        };
        let computed = apply(left, right, |l, r| self.kernel(l, r)).map_err(|error| {
            let overflowed = matches!(
                error.find_root(),
                DataFusionError::ArrowError(arrow, _)
                    if matches!(arrow.as_ref(), ArrowError::ArithmeticOverflow(_))
            );
            let by_zero = matches!(
                error.find_root(),
                DataFusionError::ArrowError(arrow, _)
                    if matches!(arrow.as_ref(), ArrowError::DivideByZero)
            );
            if overflowed {
                let kind = super::types::name(&left.data_type());
                ValueError::out_of_range(format!("{kind} out of range")).into()
            } else if by_zero {
                ValueError::division_by_zero().into()
            } else {
                error
            }
        })?;
        match left.data_type() {
            DataType::Float64 => finite::<Float64Type>(self.0, left, right, &computed)?,
            DataType::Float32 => finite::<Float32Type>(self.0, left, right, &computed)?,
            _ => {}
        }
        Ok(computed)
    }

    fn stands_for(&self, arguments: &[Expr]) -> Option<Expr> {
        binary(arguments, self.0)
    }

    fn named(&self, arguments: &[Expr]) -> Option<String> {
        let mut name = String::new();
        self.write_name(arguments, &mut name).then_some(name)
    }
}

/// The operator that a call stands for.
pub fn binary(arguments: &[Expr], operator: Operator) -> Option<Expr> {
    let [left, right] = arguments else {
        return None;
    };
    let (left, right) = (Box::new(left.clone()), Box::new(right.clone()));
    Some(Expr::BinaryExpr(BinaryExpr::new(left, operator, right)))
}

/// Infinity and NaN come out only of infinity and NaN.
fn finite<T>(
    operator: Operator,
    left: &ColumnarValue,
    right: &ColumnarValue,
    computed: &ColumnarValue,
) -> Result<(), ValueError>
where
    T: ArrowPrimitiveType,
    T::Native: Into<f64>,
{
    let wild = |value: T::Native| !Into::<f64>::into(value).is_finite();
    let rows = match computed {
        ColumnarValue::Array(array) => {
            if !array.as_primitive::<T>().values().iter().any(|v| wild(*v)) {
                return Ok(());
            }
            array.len()
        }
        ColumnarValue::Scalar(_) => 1,
    };
    let array = |value: &ColumnarValue| value.to_array(rows).ok();
    let (Some(left), Some(right), Some(computed)) = (array(left), array(right), array(computed))
    else {
        return Ok(());
    };
    let [left, right, computed]: [&PrimitiveArray<T>; 3] = [
        left.as_primitive(),
        right.as_primitive(),
        computed.as_primitive(),
    ];
    for row in (0..rows).filter(|row| computed.is_valid(*row) && wild(computed.value(*row))) {
        let (l, r): (f64, f64) = (left.value(row).into(), right.value(row).into());
        if operator == Operator::Divide && r == 0.0 && !l.is_nan() {
            return Err(ValueError::division_by_zero());
        }
        if l.is_finite() && r.is_finite() {
            let kind = super::types::name(computed.data_type());
            return Err(ValueError::out_of_range(format!("{kind} out of range")));
        }
    }
    Ok(())
}

/// Division of decimals and integers of which one is a decimal: at least 16 digits after the point,
/// as in Postgres, rounded. (Its scale there grows with the value; columns here have one scale.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecimalDivide;

const QUOTIENT_SCALE: i8 = 16;

impl DecimalDivide {
    /// If these types are divided as decimals.
    pub fn of(left: &DataType, right: &DataType) -> bool {
        let exact = |data_type: &DataType| {
            data_type.is_integer() || matches!(data_type, DataType::Decimal128(..))
        };
        exact(left) && exact(right) && (left.is_decimal() || right.is_decimal())
    }
}

/// Precision and scale; integers have none.
fn digits(data_type: &DataType) -> (u8, i8) {
    match data_type {
        DataType::Decimal128(precision, scale) => (*precision, *scale),
        DataType::UInt64 => (20, 0),
        _ => (19, 0),
    }
}

impl Meaning for DecimalDivide {
    fn name(&self) -> &'static str {
        "decimal_divide"
    }

    fn coerce(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arguments
            .iter()
            .map(|data_type| {
                let (precision, scale) = digits(data_type);
                DataType::Decimal128(precision, scale)
            })
            .collect())
    }

    fn returns(&self, arguments: &[DataType]) -> Result<DataType> {
        let scale = arguments
            .iter()
            .map(|data_type| digits(data_type).1)
            .max()
            .unwrap_or(0);
        Ok(DataType::Decimal128(
            DECIMAL128_MAX_PRECISION,
            scale.max(QUOTIENT_SCALE),
        ))
    }

    fn compute(&self, arguments: &[ColumnarValue], rows: usize) -> Result<ColumnarValue> {
        let types: Vec<DataType> = arguments.iter().map(ColumnarValue::data_type).collect();
        let (left_scale, right_scale) = (digits(&types[0]).1, digits(&types[1]).1);
        let data_type = self.returns(&types)?;
        let (precision, scale) = digits(&data_type);
        let scalars = arguments
            .iter()
            .all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let rows = if scalars { 1 } else { rows };
        let (left, right) = (arguments[0].to_array(rows)?, arguments[1].to_array(rows)?);
        let left = left.as_primitive::<Decimal128Type>();
        let right = right.as_primitive::<Decimal128Type>();
        let values = left.iter().zip(right).map(|pair| {
            let (Some(left), Some(right)) = pair else {
                return Ok(None);
            };
            let quotient = decimal::quotient(
                (i256::from_i128(left), left_scale),
                (i256::from_i128(right), right_scale),
                scale,
            )?;
            decimal::fitting(quotient, precision, scale).map(Some)
        });
        let values = values.collect::<Result<Decimal128Array, ValueError>>()?;
        let values: ArrayRef = Arc::new(values.with_data_type(data_type));
        if scalars {
            let value = ScalarValue::try_from_array(&values, 0)?;
            return Ok(ColumnarValue::Scalar(value));
        }
        Ok(ColumnarValue::Array(values))
    }

    fn stands_for(&self, arguments: &[Expr]) -> Option<Expr> {
        binary(arguments, Operator::Divide)
    }
}
