//! The rows that one result has and another has not, each as often as it does.
//!
//! Pure. Values are compared bit for bit.

use std::collections::HashMap;

use arrow::{
    array::{RecordBatch, UInt64Array},
    compute::take_record_batch,
    datatypes::SchemaRef,
    error::ArrowError,
    row::{RowConverter, Rows, SortField},
};

#[derive(Debug, Default)]
pub struct Difference {
    pub added: Vec<RecordBatch>,
    pub removed: Vec<RecordBatch>,
}

impl Difference {
    /// Both results have the columns of `schema`.
    pub fn between(
        schema: &SchemaRef,
        before: &[RecordBatch],
        after: &[RecordBatch],
    ) -> Result<Difference, ArrowError> {
        let fields = schema.fields().iter();
        let fields = fields.map(|field| SortField::new(field.data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        let (olds, news) = (rows(&converter, before)?, rows(&converter, after)?);
        // How often more a row stands in the first than in the second.
        let mut more: HashMap<&[u8], usize> = HashMap::new();
        for row in olds.iter().flatten() {
            *more.entry(row.data()).or_default() += 1;
        }
        let added = chosen(after, &news, |row| match more.get_mut(row) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        })?;
        let removed = chosen(before, &olds, |row| match more.get_mut(row) {
            Some(count) if *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        })?;
        Ok(Difference { added, removed })
    }

    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

fn rows(converter: &RowConverter, batches: &[RecordBatch]) -> Result<Vec<Rows>, ArrowError> {
    let each = batches.iter();
    each.map(|batch| converter.convert_columns(batch.columns()))
        .collect()
}

/// The rows whose encoding `is` says yes to; no batch is empty.
fn chosen(
    batches: &[RecordBatch],
    rows: &[Rows],
    mut is: impl FnMut(&[u8]) -> bool,
) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut found = Vec::new();
    for (batch, rows) in batches.iter().zip(rows) {
        let places = (0u64..).zip(rows).filter(|(_, row)| is(row.data()));
        let places: UInt64Array = places.map(|(place, _)| place).collect::<Vec<_>>().into();
        if !places.is_empty() {
            found.push(take_record_batch(batch, &places)?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{AsArray, Float64Array},
        datatypes::{DataType, Field, Float64Type, Schema},
    };
    use proptest::prelude::*;

    use super::*;

    fn batches(parts: &[Vec<Option<f64>>]) -> (SchemaRef, Vec<RecordBatch>) {
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Float64, true)]));
        let batch = |part: &Vec<Option<f64>>| {
            let values = Arc::new(Float64Array::from(part.clone()));
            RecordBatch::try_new(Arc::clone(&schema), vec![values]).unwrap()
        };
        let all = parts.iter().map(batch).collect();
        (schema, all)
    }

    fn sorted(batches: &[RecordBatch]) -> Vec<Option<u64>> {
        let each = batches.iter();
        let values = each.flat_map(|batch| batch.column(0).as_primitive::<Float64Type>().iter());
        let mut values: Vec<_> = values.map(|value| value.map(f64::to_bits)).collect();
        values.sort();
        values
    }

    fn values() -> impl Strategy<Value = Vec<Vec<Option<f64>>>> {
        let value = prop_oneof![
            Just(None),
            Just(Some(0.0)),
            Just(Some(-0.0)),
            Just(Some(f64::NAN)),
            (0..4i32).prop_map(|value| Some(value.into())),
        ];
        proptest::collection::vec(proptest::collection::vec(value, 0..6), 0..4)
    }

    proptest! {
        /// What is added and what is removed lead from one result to the other, and have no row in common.
        #[test]
        fn it_leads_from_one_to_the_other(before in values(), after in values()) {
            let (schema, before) = batches(&before);
            let (_, after) = batches(&after);
            let found = Difference::between(&schema, &before, &after).unwrap();
            let forth = [before.clone(), found.added.clone()].concat();
            let back = [after, found.removed.clone()].concat();
            prop_assert_eq!(sorted(&forth), sorted(&back));
            let removed = sorted(&found.removed);
            prop_assert!(sorted(&found.added).iter().all(|row| !removed.contains(row)));
            let none = Difference::between(&schema, &before, &before).unwrap();
            prop_assert!(none.is_empty());
        }
    }
}
