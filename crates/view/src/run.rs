//! A run: states of one view over one stretch of records, sorted by key, with an index.

use std::{ops::Range, sync::Arc};

use arrow::{
    array::{ArrayRef, UInt32Array},
    compute::{concat_batches, take_record_batch},
    datatypes::SchemaRef,
    record_batch::RecordBatch,
    row::{RowConverter, Rows, SortField},
};
use lambic_model::Frontiers;

use crate::Error;

/// States of the records in `from..to`; at most one row for a key.
#[derive(Debug)]
pub struct Run {
    pub states: RecordBatch,
    /// The key columns of `states`, encoded so that bytes compare as values do; `None` without keys.
    keys: Option<Rows>,
    pub from: Frontiers,
    pub to: Frontiers,
}

/// Encodes keys for a view's runs.
#[derive(Debug, Clone)]
pub struct KeyCodec {
    converter: Option<Arc<RowConverter>>,
    columns: usize,
}

impl KeyCodec {
    /// `key_columns`: how many of the first columns are the key; none for rows without a key.
    pub fn new(schema: &SchemaRef, key_columns: usize) -> Result<KeyCodec, Error> {
        let fields = schema.fields()[..key_columns]
            .iter()
            .map(|f| SortField::new(f.data_type().clone()));
        let converter = match key_columns {
            0 => None,
            _ => Some(Arc::new(RowConverter::new(fields.collect())?)),
        };
        Ok(KeyCodec {
            converter,
            columns: key_columns,
        })
    }

    pub fn encode(&self, columns: &[ArrayRef]) -> Result<Option<Rows>, Error> {
        Ok(match &self.converter {
            Some(converter) => Some(converter.convert_columns(&columns[..self.columns])?),
            None => None,
        })
    }
}

impl Run {
    /// Sorts states that came in any order.
    pub fn sorted(
        codec: &KeyCodec,
        schema: &SchemaRef,
        states: &[RecordBatch],
        from: Frontiers,
        to: Frontiers,
    ) -> Result<Run, Error> {
        let states = concat_batches(schema, states)?;
        let Some(rows) = codec.encode(states.columns())? else {
            return Ok(Run {
                states,
                keys: None,
                from,
                to,
            });
        };
        let in_order = (1..rows.num_rows()).all(|row| rows.row(row - 1) < rows.row(row));
        if in_order {
            return Ok(Run {
                states,
                keys: Some(rows),
                from,
                to,
            });
        }
        let mut order: Vec<u32> = (0..states.num_rows() as u32).collect();
        order.sort_unstable_by(|a, b| rows.row(*a as usize).cmp(&rows.row(*b as usize)));
        let states = take_record_batch(&states, &UInt32Array::from(order))?;
        let keys = codec.encode(states.columns())?;
        Ok(Run {
            states,
            keys,
            from,
            to,
        })
    }

    pub fn rows(&self) -> usize {
        self.states.num_rows()
    }

    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// Memory held, in bytes.
    pub fn bytes(&self) -> usize {
        self.states.get_array_memory_size() + self.keys.as_ref().map_or(0, Rows::size)
    }

    /// The states whose key is `key`, an encoding of one row by the same codec.
    pub fn find(&self, key: &Rows) -> Option<RecordBatch> {
        let keys = self.keys.as_ref()?;
        let wanted = key.row(0);
        let first = partition_point(0..keys.num_rows(), |row| keys.row(row) < wanted);
        (first < keys.num_rows() && keys.row(first) == wanted).then(|| self.states.slice(first, 1))
    }
}

fn partition_point(range: Range<usize>, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
