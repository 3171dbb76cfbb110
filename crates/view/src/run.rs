//! A run: states of one view over one stretch of records, sorted by key, with an index.

use std::{
    ops::{Bound, Range},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, UInt64Array, new_empty_array},
    compute::{concat_batches, interleave, take_record_batch},
    datatypes::SchemaRef,
    record_batch::RecordBatch,
    row::{RowConverter, Rows, SortField},
};
use lambic_base::parallel;
use lambic_model::{Erasures, Frontiers};

use crate::{
    Error,
    order::{self, Place},
};

/// Fewer rows are not worth a second thread.
const PARALLEL_ROWS_MIN: usize = 1 << 15;

/// States of the records in `from..to`; at most one row for a key.
#[derive(Debug)]
pub struct Run {
    pub states: RecordBatch,
    /// The key columns of `states`, encoded so that bytes compare as values do; `None` without keys.
    keys: Option<Rows>,
    pub from: Frontiers,
    pub to: Frontiers,
    /// The erasures that are known to its states: records that they took are not in them.
    pub erasures: Erasures,
}

/// Encodes keys for a view's runs.
#[derive(Debug, Clone)]
pub struct KeyCodec {
    converter: Option<Arc<RowConverter>>,
    fields: Vec<SortField>,
}

/// A stretch of keys: what equals in the first columns and lies between two ends in the next one.
///
/// The encoding of a key is that of its columns, one after the other, and none is the beginning of another; so keys
/// that begin alike lie side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key that belongs to it, encoded.
    from: Vec<u8>,
    /// The first key after it that does not; `None`: it goes to the end.
    to: Option<Vec<u8>>,
}

impl KeyCodec {
    /// `key_columns`: how many of the first columns are the key; none for rows without a key.
    pub fn new(schema: &SchemaRef, key_columns: usize) -> Result<KeyCodec, Error> {
        let fields: Vec<SortField> = schema.fields()[..key_columns]
            .iter()
            .map(|f| SortField::new(f.data_type().clone()))
            .collect();
        let converter = match key_columns {
            0 => None,
            _ => Some(Arc::new(RowConverter::new(fields.clone())?)),
        };
        Ok(KeyCodec { converter, fields })
    }

    pub fn encode(&self, columns: &[ArrayRef]) -> Result<Option<Rows>, Error> {
        Ok(match &self.converter {
            Some(converter) => Some(converter.convert_columns(&columns[..self.fields.len()])?),
            None => None,
        })
    }

    /// The keys whose first columns are `equal` (arrays of one row) and whose next one lies between `lower` and `upper`.
    ///
    /// NULL comes before every value: it is in the range unless there is a lower end.
    pub fn range(
        &self,
        equal: &[ArrayRef],
        lower: Bound<&ArrayRef>,
        upper: Bound<&ArrayRef>,
    ) -> Result<KeyRange, Error> {
        let all = self.begins(equal, None)?;
        let from = match lower {
            Bound::Unbounded => Some(all.clone()),
            Bound::Included(value) => Some(self.begins(equal, Some(value))?),
            Bound::Excluded(value) => after(self.begins(equal, Some(value))?),
        };
        let to = match upper {
            Bound::Unbounded => after(all),
            Bound::Excluded(value) => Some(self.begins(equal, Some(value))?),
            Bound::Included(value) => after(self.begins(equal, Some(value))?),
        };
        Ok(match from {
            Some(from) => KeyRange { from, to },
            // Nothing comes after: an empty stretch.
            None => KeyRange {
                from: Vec::new(),
                to: Some(Vec::new()),
            },
        })
    }

    /// What the encodings of all keys with these first columns begin with.
    fn begins(&self, equal: &[ArrayRef], next: Option<&ArrayRef>) -> Result<Vec<u8>, Error> {
        let columns: Vec<ArrayRef> = equal.iter().chain(next).cloned().collect();
        if columns.is_empty() {
            return Ok(Vec::new());
        }
        let converter = RowConverter::new(self.fields[..columns.len()].to_vec())?;
        Ok(converter
            .convert_columns(&columns)?
            .row(0)
            .as_ref()
            .to_vec())
    }
}

/// The least bytes that come after all which begin with `bytes`; `None` if there are none.
fn after(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    while let Some(last) = bytes.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return Some(bytes);
        }
        bytes.pop();
    }
    None
}

impl Run {
    /// Sorts states that came in any order, on at most so many threads.
    pub fn sorted(
        codec: &KeyCodec,
        schema: &SchemaRef,
        states: &[RecordBatch],
        threads: usize,
        from: Frontiers,
        to: Frontiers,
    ) -> Result<Run, Error> {
        let threads = worth(states, threads);
        let keys = parallel::each(threads, states, |batch| codec.encode(batch.columns()));
        let keys: Option<Vec<Rows>> = keys.into_iter().collect::<Result<_, _>>()?;
        let (states, keys) = match (keys, &codec.converter) {
            (Some(unsorted), Some(converter)) => {
                let order = order::by_key(&unsorted, threads);
                in_order(schema, states, (&unsorted, converter), &order, threads)?
            }
            _ => (concat_batches(schema, states)?, None),
        };
        Ok(Run {
            states,
            keys,
            from,
            to,
            erasures: Erasures::default(),
        })
    }

    /// The same run, of records read when these erasures were known.
    pub fn knowing(self, erasures: Erasures) -> Run {
        Run { erasures, ..self }
    }

    /// The same states, as those of all records between two frontiers.
    pub fn between(self, from: Frontiers, to: Frontiers) -> Run {
        Run { from, to, ..self }
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

    /// The states whose keys `other` has too, in their order; all of them if the view has no key.
    pub fn matching(&self, other: &Run) -> Result<RecordBatch, Error> {
        let (Some(keys), Some(wanted)) = (&self.keys, &other.keys) else {
            return Ok(self.states.clone());
        };
        let mut places = Vec::new();
        let mut from = 0;
        for wanted in wanted {
            // Both are sorted, and the keys that are wanted are often few: a search for each, from the last one on.
            let mut step = 1;
            while from + step < keys.num_rows() && keys.row(from + step) < wanted {
                step *= 2;
            }
            let end = keys.num_rows().min(from + step + 1);
            from = partition_point(from..end, |row| keys.row(row) < wanted);
            if from == keys.num_rows() {
                break;
            }
            if keys.row(from) == wanted {
                places.push(from as u64);
            }
        }
        Ok(take_record_batch(&self.states, &UInt64Array::from(places))?)
    }

    /// The states whose keys lie in `range`, in their order; none if the view has no key.
    pub fn within(&self, range: &KeyRange) -> RecordBatch {
        let Some(keys) = &self.keys else {
            return self.states.slice(0, 0);
        };
        let before = |end: &[u8], from| {
            partition_point(from..keys.num_rows(), |row| keys.row(row).as_ref() < end)
        };
        let first = before(&range.from, 0);
        let end = match &range.to {
            Some(to) => before(to, first),
            None => keys.num_rows(),
        };
        self.states.slice(first, end - first)
    }
}

/// How many threads `states` are worth, of so many.
pub(crate) fn worth(states: &[RecordBatch], threads: usize) -> usize {
    let rows: usize = states.iter().map(RecordBatch::num_rows).sum();
    if rows < PARALLEL_ROWS_MIN { 1 } else { threads }
}

enum Part {
    Keys(Rows),
    Column(ArrayRef),
}

/// The states in this order, and their keys.
fn in_order(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    (keys, converter): (&[Rows], &RowConverter),
    order: &[Place],
    threads: usize,
) -> Result<(RecordBatch, Option<Rows>), Error> {
    // Keys take the longest, and so come first.
    let parts = parallel::each(threads, 0..schema.fields().len() + 1, |part| {
        let Some(column) = part.checked_sub(1) else {
            let bytes = keys.iter().map(Rows::size).sum();
            let mut sorted = converter.empty_rows(order.len(), bytes);
            for &(batch, row) in order {
                sorted.push(keys[batch].row(row));
            }
            return Ok(Part::Keys(sorted));
        };
        let batches = batches.iter();
        let parts: Vec<&dyn Array> = batches.map(|b| b.column(column).as_ref()).collect();
        match parts.is_empty() {
            true => Ok(Part::Column(new_empty_array(
                schema.field(column).data_type(),
            ))),
            false => interleave(&parts, order).map(Part::Column),
        }
    });
    let (mut sorted, mut columns) = (None, Vec::with_capacity(schema.fields().len()));
    for part in parts {
        match part? {
            Part::Keys(keys) => sorted = Some(keys),
            Part::Column(column) => columns.push(column),
        }
    }
    Ok((RecordBatch::try_new(Arc::clone(schema), columns)?, sorted))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{AsArray, Int32Array, StringArray},
        datatypes::{DataType, Field, Int32Type, Schema},
    };
    use proptest::prelude::*;

    use super::*;

    fn run(rows: &[(Option<String>, Option<i32>)]) -> (KeyCodec, Run) {
        let schema = Arc::new(Schema::new(vec![
            Field::new("k0", DataType::Utf8, true),
            Field::new("k1", DataType::Int32, true),
        ]));
        let texts: StringArray = rows.iter().map(|row| row.0.as_deref()).collect();
        let numbers: Int32Array = rows.iter().map(|row| row.1).collect();
        let states = RecordBatch::try_new(
            Arc::clone(&schema),
            vec![Arc::new(texts), Arc::new(numbers)],
        );
        let codec = KeyCodec::new(&schema, 2).unwrap();
        let run = Run::sorted(
            &codec,
            &schema,
            &[states.unwrap()],
            1,
            Frontiers::default(),
            Frontiers::default(),
        );
        (codec, run.unwrap())
    }

    fn bound(kind: u8, value: &ArrayRef) -> Bound<&ArrayRef> {
        match kind {
            0 => Bound::Unbounded,
            1 => Bound::Included(value),
            _ => Bound::Excluded(value),
        }
    }

    fn reaches(kind: u8, ordering: std::cmp::Ordering) -> bool {
        match kind {
            0 => true,
            1 => ordering.is_ge(),
            _ => ordering.is_gt(),
        }
    }

    proptest! {
        /// What lies in a range is what a look at every key finds.
        #[test]
        fn a_range_is_what_its_conditions_say(
            rows in proptest::collection::hash_set(
                (proptest::option::of("[ab\u{ff}\u{10ffff}]{0,3}"), proptest::option::of(-3..3i32)), 0..60),
            text in "[ab\u{ff}\u{10ffff}]{0,3}",
            ends in (-3..3i32, -3..3i32),
            kinds in (0..3u8, 0..3u8),
        ) {
            let rows: Vec<_> = rows.into_iter().collect();
            let (codec, run) = run(&rows);
            let equal: ArrayRef = Arc::new(StringArray::from(vec![text.as_str()]));
            let number = |value| Arc::new(Int32Array::from(vec![value])) as ArrayRef;
            let (low, high) = (number(ends.0), number(ends.1));
            let range = codec
                .range(std::slice::from_ref(&equal), bound(kinds.0, &low), bound(kinds.1, &high))
                .unwrap();
            let found = run.within(&range);
            let mut found: Vec<Option<i32>> =
                found.column(1).as_primitive::<Int32Type>().iter().collect();
            let mut wanted: Vec<Option<i32>> = rows
                .iter()
                .filter(|row| row.0.as_deref() == Some(&text))
                .map(|row| row.1)
                .filter(|value| match value {
                    None => kinds.0 == 0,
                    Some(value) => {
                        reaches(kinds.0, value.cmp(&ends.0)) && reaches(kinds.1, ends.1.cmp(value))
                    }
                })
                .collect();
            found.sort();
            wanted.sort();
            prop_assert_eq!(found, wanted);

            let only = codec.range(&[equal, low], Bound::Unbounded, Bound::Unbounded).unwrap();
            let is_there = rows.contains(&(Some(text), Some(ends.0)));
            prop_assert_eq!(run.within(&only).num_rows(), usize::from(is_there));
            let (_, half) = self::run(&rows.iter().step_by(2).cloned().collect::<Vec<_>>());
            let both = [run.matching(&half).unwrap(), half.matching(&run).unwrap()];
            prop_assert_eq!(&both, &[half.states.clone(), half.states.clone()]);
            let all = codec.range(&[], Bound::Unbounded, Bound::Unbounded).unwrap();
            prop_assert_eq!(run.within(&all).num_rows(), rows.len());
        }
    }
}
