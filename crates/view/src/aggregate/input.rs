//! The arguments of our aggregates, in the types that summaries take.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, Decimal128Array, Float64Array, Int64Array},
    compute::cast,
    datatypes::{DataType, Decimal128Type, Float64Type, Int64Type},
};
use datafusion::common::Result;

use super::{
    kind::Kind,
    sketching::{Of, Sketch},
};

/// The argument column, in the type that the summary takes.
pub enum Input {
    Integers(Int64Array),
    Floats(Float64Array),
    /// Of aggregates of two columns, as SQL writes them: `y`, then `x`.
    Pairs(Float64Array, Float64Array),
    Decimals(Decimal128Array),
    Sketches(BinaryArray),
    Any(ArrayRef),
}

impl Input {
    pub fn new(kind: &Kind, arguments: &[ArrayRef]) -> Result<Input> {
        let values = &arguments[0];
        Ok(match kind {
            Kind::Pairs(_) => Input::Pairs(floats(values)?, floats(&arguments[1])?),
            Kind::SumInteger | Kind::AverageInteger | Kind::IntegerSpread { .. } => {
                Input::Integers(
                    cast(values, &DataType::Int64)?
                        .as_primitive::<Int64Type>()
                        .clone(),
                )
            }
            Kind::SumDecimal { .. } | Kind::AverageDecimal { .. } => {
                Input::Decimals(values.as_primitive::<Decimal128Type>().clone())
            }
            Kind::Sketch(
                Sketch::Hll(Of::Sketches)
                | Sketch::Theta(Of::Sketches)
                | Sketch::Kll(Of::Sketches)
                | Sketch::ThetaCommon,
            ) => Input::Sketches(cast(values, &DataType::Binary)?.as_binary::<i32>().clone()),
            Kind::DistinctCount
            | Kind::Sketch(Sketch::Hll(Of::Values) | Sketch::Theta(Of::Values)) => {
                Input::Any(comparable(values)?)
            }
            _ => Input::Floats(floats(values)?),
        })
    }

    pub fn is_null(&self, row: usize) -> bool {
        match self {
            Input::Integers(values) => values.is_null(row),
            Input::Floats(values) => values.is_null(row),
            Input::Pairs(y, x) => y.is_null(row) || x.is_null(row),
            Input::Decimals(values) => values.is_null(row),
            Input::Sketches(values) => values.is_null(row),
            Input::Any(values) => values.is_null(row),
        }
    }
}

/// Values that are equal in one form: texts of every layout, integers of every width, times.
fn comparable(values: &ArrayRef) -> Result<ArrayRef> {
    Ok(match values.data_type() {
        DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => {
            cast(values, &DataType::Utf8)?
        }
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::Timestamp(..)
        | DataType::Date32 => cast(&cast_date(values)?, &DataType::Int64)?,
        DataType::Float32 => cast(values, &DataType::Float64)?,
        _ => Arc::clone(values),
    })
}

fn floats(values: &ArrayRef) -> Result<Float64Array> {
    let floats = cast(values, &DataType::Float64)?;
    Ok(floats.as_primitive::<Float64Type>().clone())
}

/// Dates cast to 64-bit integers only by way of 32 bits.
fn cast_date(values: &ArrayRef) -> Result<ArrayRef> {
    Ok(match values.data_type() {
        DataType::Date32 => cast(values, &DataType::Int32)?,
        _ => Arc::clone(values),
    })
}
