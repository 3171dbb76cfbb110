//! `sum(DISTINCT x)` and its like: the state is the values, each once.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, new_empty_array},
    datatypes::{DataType, Field, FieldRef},
};
use datafusion::{
    common::{Result, utils::SingleRowListArrayBuilder},
    logical_expr::Accumulator,
    scalar::ScalarValue,
};

use super::{accumulate::Single, kind::Kind};

/// Collects values; sums them up in the end.
#[derive(Debug)]
pub struct DistinctValues {
    kind: Kind,
    data_type: DataType,
    values: HashSet<ScalarValue>,
}

/// The column that the values are kept in.
pub fn distinct_state(name: &str, data_type: &DataType) -> FieldRef {
    let item = Field::new_list_field(data_type.clone(), true);
    Arc::new(Field::new_list(format!("{name}[distinct]"), item, true))
}

impl DistinctValues {
    pub fn new(kind: Kind, data_type: &DataType) -> DistinctValues {
        DistinctValues {
            kind,
            data_type: data_type.clone(),
            values: HashSet::new(),
        }
    }

    fn array(&self) -> Result<ArrayRef> {
        if self.values.is_empty() {
            return Ok(new_empty_array(&self.data_type));
        }
        ScalarValue::iter_to_array(self.values.iter().cloned())
    }
}

impl Accumulator for DistinctValues {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for row in (0..values[0].len()).filter(|row| values[0].is_valid(*row)) {
            self.values
                .insert(ScalarValue::try_from_array(&values[0], row)?);
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for values in states[0].as_list::<i32>().iter().flatten() {
            self.update_batch(&[values])?;
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let list = SingleRowListArrayBuilder::new(self.array()?).build_list_scalar();
        Ok(vec![list])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut single = Single {
            kind: self.kind.clone(),
            summary: self.kind.empty(),
        };
        single.update_batch(&[self.array()?])?;
        single.evaluate()
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.values.capacity() * size_of::<ScalarValue>()
    }
}
