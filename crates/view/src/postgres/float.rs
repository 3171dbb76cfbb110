//! Doubles as Postgres orders them: NaN equal to itself and above everything, -0 equal to 0.
//!
//! Arrow compares by IEEE 754's total order, where a NaN that was computed (x86 sets its sign) lies below
//! everything, and statistics of Parquet files leave NaN out. So whatever compares doubles compares
//! their canonical form instead, which no statistics know.

use std::{cmp::Ordering, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray},
    datatypes::{DataType, Float32Type, Float64Type},
};
use datafusion::{
    common::Result,
    logical_expr::{ColumnarValue, Expr},
    scalar::ScalarValue,
};

use super::function::{self, Meaning};

/// A floating-point number.
pub trait Float: Copy {
    /// One form for all values that are equal: 0 for -0, one NaN.
    fn canonical(self) -> Self;

    /// The order of canonical values.
    fn order(self, other: Self) -> Ordering;
}

impl Float for f64 {
    #[inline]
    fn canonical(self) -> f64 {
        if self.is_nan() { f64::NAN } else { self + 0.0 }
    }

    #[inline]
    fn order(self, other: f64) -> Ordering {
        self.total_cmp(&other)
    }
}

impl Float for f32 {
    #[inline]
    fn canonical(self) -> f32 {
        if self.is_nan() { f32::NAN } else { self + 0.0 }
    }

    #[inline]
    fn order(self, other: f32) -> Ordering {
        self.total_cmp(&other)
    }
}

/// The canonical form of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Canonical;

impl Canonical {
    /// `expr`, which is a float, in canonical form.
    pub fn of(expr: Expr) -> Expr {
        match expr {
            Expr::Literal(ScalarValue::Float64(Some(value)), metadata) => {
                Expr::Literal(ScalarValue::Float64(Some(value.canonical())), metadata)
            }
            Expr::Literal(ScalarValue::Float32(Some(value)), metadata) => {
                Expr::Literal(ScalarValue::Float32(Some(value.canonical())), metadata)
            }
            Expr::Literal(..) => expr,
            expr if Canonical::is(&expr) => expr,
            expr => function::call(Canonical, vec![expr]),
        }
    }

    pub fn is(expr: &Expr) -> bool {
        match expr {
            Expr::Alias(alias) => Canonical::is(&alias.expr),
            expr => function::called::<Canonical>(expr).is_some(),
        }
    }
}

/// Types that have a canonical form.
pub fn is_float(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Float32 | DataType::Float64)
}

fn canonical(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float64 => Arc::new(
            array
                .as_primitive::<Float64Type>()
                .unary::<_, Float64Type>(Float::canonical),
        ),
        DataType::Float32 => Arc::new(
            array
                .as_primitive::<Float32Type>()
                .unary::<_, Float32Type>(Float::canonical),
        ),
        _ => Arc::clone(array),
    }
}

impl Meaning for Canonical {
    fn name(&self) -> &'static str {
        "canonical"
    }

    fn returns(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn compute(&self, arguments: &[ColumnarValue], _rows: usize) -> Result<ColumnarValue> {
        Ok(match &arguments[0] {
            ColumnarValue::Array(array) => ColumnarValue::Array(canonical(array)),
            ColumnarValue::Scalar(scalar) => {
                let value = canonical(&scalar.to_array()?);
                ColumnarValue::Scalar(ScalarValue::try_from_array(&value, 0)?)
            }
        })
    }

    fn stands_for(&self, _: &[Expr]) -> Option<Expr> {
        // Beside the column itself, in the projection under a join, it needs a name of its own.
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_one_form() {
        assert_eq!((-0.0f64).canonical().to_bits(), 0);
        assert_eq!((-0.0f32).canonical().to_bits(), 0);
        let computed = f64::INFINITY - f64::INFINITY;
        assert_eq!(computed.canonical().to_bits(), f64::NAN.to_bits());
        assert_eq!((-f64::NAN).canonical().to_bits(), f64::NAN.to_bits());
        assert!(f64::NAN.order(f64::INFINITY).is_gt());
        assert_eq!((-1.5f64).canonical(), -1.5);
    }
}
