//! Wide integers at rest: a column of sums in 128 or 256 bits of which all fit into 64 is kept in 64.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, Decimal128Array, Decimal256Array, Int64Array, PrimitiveArray,
    },
    datatypes::{
        ArrowPrimitiveType, DataType, Decimal128Type, Decimal256Type, Field, Int64Type, Schema,
        SchemaRef, i256,
    },
    error::ArrowError,
    record_batch::RecordBatch,
};

/// `states` with every column as narrow as its values allow.
pub fn narrowed(states: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = states.schema();
    let columns: Vec<ArrayRef> = states.columns().iter().map(narrow).collect();
    let fields = schema.fields().iter().zip(&columns).map(|(field, column)| {
        Field::new(
            field.name(),
            column.data_type().clone(),
            field.is_nullable(),
        )
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns)
}

/// The states with the columns of `schema` again.
pub fn widened(states: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let each = states.columns().iter().zip(schema.fields());
    let columns = each.map(|(column, field)| widen(column, field.data_type()));
    RecordBatch::try_new(Arc::clone(schema), columns.collect())
}

fn narrow(column: &ArrayRef) -> ArrayRef {
    let narrow = match column.data_type() {
        DataType::Decimal128(..) => {
            narrow_values::<Decimal128Type>(column, |value| i64::try_from(value).ok())
        }
        DataType::Decimal256(..) => narrow_values::<Decimal256Type>(column, |value| {
            value.to_i128().and_then(|value| i64::try_from(value).ok())
        }),
        _ => None,
    };
    narrow.unwrap_or_else(|| Arc::clone(column))
}

fn narrow_values<T: ArrowPrimitiveType>(
    column: &ArrayRef,
    fitting: impl Fn(T::Native) -> Option<i64>,
) -> Option<ArrayRef> {
    let column: &PrimitiveArray<T> = column.as_primitive();
    // What stands where a value is NULL is nothing that could be too wide.
    let values = column.values().iter().enumerate().map(|(row, value)| {
        if column.is_null(row) {
            Some(0)
        } else {
            fitting(*value)
        }
    });
    let values: Option<Vec<i64>> = values.collect();
    Some(Arc::new(Int64Array::new(
        values?.into(),
        column.nulls().cloned(),
    )))
}

/// A column that was narrowed, else the column as it is. Digits stay as they are, whatever the scale.
fn widen(column: &ArrayRef, data_type: &DataType) -> ArrayRef {
    if *column.data_type() != DataType::Int64 {
        return Arc::clone(column);
    }
    let values = column.as_primitive::<Int64Type>();
    match data_type {
        DataType::Decimal128(..) => {
            let wide: Decimal128Array = values.unary(i128::from);
            Arc::new(wide.with_data_type(data_type.clone()))
        }
        DataType::Decimal256(..) => {
            let wide: Decimal256Array = values.unary(|value| i256::from_i128(value.into()));
            Arc::new(wide.with_data_type(data_type.clone()))
        }
        _ => Arc::clone(column),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn states(narrow: Vec<Option<i64>>, wide: Option<i128>) -> RecordBatch {
        let decimal128 = DataType::Decimal128(38, 0);
        let decimal256 = DataType::Decimal256(76, 3);
        let mut first: Vec<Option<i128>> =
            narrow.iter().map(|value| value.map(i128::from)).collect();
        first.push(wide);
        let mut second: Vec<Option<i256>> = first.iter().map(|v| v.map(i256::from_i128)).collect();
        second.rotate_right(1);
        let mut third = narrow.clone();
        third.push(None);
        let fields = vec![
            Field::new("s0", decimal128.clone(), true),
            Field::new("s1", decimal256.clone(), true),
            Field::new("s2", DataType::Int64, true),
        ];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Decimal128Array::from(first).with_data_type(decimal128)),
            Arc::new(Decimal256Array::from(second).with_data_type(decimal256)),
            Arc::new(Int64Array::from(third)),
        ];
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    proptest! {
        /// Widening gives back what was narrowed, and only what fits is narrowed.
        #[test]
        fn nothing_is_lost(
            narrow in proptest::collection::vec(any::<Option<i64>>(), 0..20),
            wide in any::<Option<i128>>(),
        ) {
            let states = states(narrow, wide);
            let narrowed = narrowed(&states).unwrap();
            let fits = wide.is_none_or(|wide| i64::try_from(wide).is_ok());
            for column in 0..2 {
                prop_assert_eq!(*narrowed.column(column).data_type() == DataType::Int64, fits);
            }
            prop_assert_eq!(widened(&narrowed, &states.schema()).unwrap(), states);
        }
    }

    #[test]
    fn the_last_that_fits() {
        for (value, fits) in [
            (i128::from(i64::MAX), true),
            (i128::from(i64::MAX) + 1, false),
            (i128::from(i64::MIN), true),
            (i128::from(i64::MIN) - 1, false),
        ] {
            let narrowed = narrowed(&states(vec![], Some(value))).unwrap();
            assert_eq!(
                *narrowed.column(0).data_type() == DataType::Int64,
                fits,
                "{value}"
            );
        }
    }
}
