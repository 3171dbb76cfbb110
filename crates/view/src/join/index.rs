//! The rows of one side of a join, found by the hash of a key and by the frontier that they stand before.
//!
//! Hashes alone: two keys with one hash are told apart by the join that runs over what is found. So what is found is
//! at least what matches, seldom more.

use std::collections::{HashMap, HashSet};

use arrow::{
    array::{AsArray, UInt32Array},
    compute::{concat_batches, interleave_record_batch, take_record_batch},
    datatypes::{Int32Type, Int64Type, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
};
use datafusion::common::hash_utils::QualityRandomState;
use lambic_model::{Frontier, PartitionId};

/// Batches are merged up to so many rows, and found rows come in batches of so many.
const BATCH_ROWS: usize = 8192;
/// Beside the entry itself, a map has a byte for each.
const ENTRY_BYTES: usize = size_of::<(u64, u32)>() + 1;
const NONE: u32 = u32::MAX;

/// The hash of a row's key, `None` where a part of it is NULL, which equals nothing.
pub type Hashes = Vec<Option<u64>>;

#[derive(Debug)]
pub struct Index {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    /// The number of the first row of each batch. Rows keep their numbers when batches are merged.
    starts: Vec<u32>,
    rows: u32,
    /// One for each key by which rows are looked up.
    maps: Vec<KeyMap>,
    batch_bytes: usize,
}

#[derive(Debug, Default)]
struct KeyMap {
    /// By hash, the newest row.
    newest: HashMap<u64, u32, BuildHash>,
    /// By row, the one before it with the same hash.
    before: Vec<u32>,
}

/// Hashes of keys are hashed once more, so that many in one map do not depend on their lower bits.
#[derive(Debug, Clone)]
struct BuildHash(QualityRandomState);

impl Default for BuildHash {
    fn default() -> BuildHash {
        BuildHash(QualityRandomState::with_seed(0))
    }
}

impl std::hash::BuildHasher for BuildHash {
    type Hasher = <QualityRandomState as std::hash::BuildHasher>::Hasher;

    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}

impl Index {
    /// Of rows whose last two columns are partition and offset.
    pub fn new(schema: SchemaRef, keys: usize) -> Index {
        Index {
            schema,
            batches: Vec::new(),
            starts: Vec::new(),
            rows: 0,
            maps: (0..keys).map(|_| KeyMap::default()).collect(),
            batch_bytes: 0,
        }
    }

    pub fn rows(&self) -> usize {
        self.rows as usize
    }

    pub fn bytes(&self) -> usize {
        let maps = self.maps.iter().map(|map| {
            map.newest.capacity() * ENTRY_BYTES + map.before.capacity() * size_of::<u32>()
        });
        self.batch_bytes + maps.sum::<usize>()
    }

    /// Adds rows, with their hashes by each key. False, and nothing changes, if there would be too many to be numbered.
    pub fn add(&mut self, rows: &RecordBatch, hashes: &[Hashes]) -> Result<bool, ArrowError> {
        let count = rows.num_rows();
        let end = u32::try_from(self.rows as usize + count);
        let Some(end) = end.ok().filter(|end| *end < NONE) else {
            return Ok(false);
        };
        for (map, hashes) in self.maps.iter_mut().zip(hashes) {
            map.before.reserve(count);
            for (number, hash) in (self.rows..).zip(hashes) {
                let before = hash.and_then(|hash| map.newest.insert(hash, number));
                map.before.push(before.unwrap_or(NONE));
            }
        }
        self.starts.push(self.rows);
        self.rows = end;
        let mut last = compact(rows)?;
        // As in an LSM tree, so that each row is copied a few times only.
        while let Some(before) = self.batches.last()
            && before.num_rows() <= last.num_rows() * 2
            && before.num_rows() + last.num_rows() <= BATCH_ROWS
        {
            last = concat_batches(&self.schema, [before, &last])?;
            self.batch_bytes -= before.get_array_memory_size();
            self.batches.pop();
            self.starts.pop();
        }
        self.batch_bytes += last.get_array_memory_size();
        self.batches.push(last);
        Ok(true)
    }

    /// The rows before `end` that have one of these hashes by key `key`, in batches.
    pub fn matching(
        &self,
        key: usize,
        hashes: &HashSet<u64>,
        end: &Frontier,
    ) -> Result<Vec<RecordBatch>, ArrowError> {
        let map = &self.maps[key];
        let mut numbers = Vec::new();
        for hash in hashes {
            let mut next = map.newest.get(hash).copied().unwrap_or(NONE);
            while next != NONE {
                numbers.push(next);
                next = map.before[next as usize];
            }
        }
        numbers.sort_unstable();
        let mut found = Vec::new();
        let mut batch = 0;
        for number in numbers {
            while self
                .starts
                .get(batch + 1)
                .is_some_and(|start| *start <= number)
            {
                batch += 1;
            }
            let row = (number - self.starts[batch]) as usize;
            if stands_before(&self.batches[batch], row, end) {
                found.push((batch, row));
            }
        }
        found
            .chunks(BATCH_ROWS)
            .map(|part| self.taken(part))
            .collect()
    }

    fn taken(&self, found: &[(usize, usize)]) -> Result<RecordBatch, ArrowError> {
        let mut from: Vec<&RecordBatch> = Vec::new();
        let mut last = None;
        // They ascend.
        let places: Vec<(usize, usize)> = found
            .iter()
            .map(|&(batch, row)| {
                if last != Some(batch) {
                    from.push(&self.batches[batch]);
                    last = Some(batch);
                }
                (from.len() - 1, row)
            })
            .collect();
        interleave_record_batch(&from, &places)
    }
}

fn stands_before(batch: &RecordBatch, row: usize, end: &Frontier) -> bool {
    let place = batch.num_columns() - 2;
    let partition = batch.column(place).as_primitive::<Int32Type>().value(row);
    let offset = batch
        .column(place + 1)
        .as_primitive::<Int64Type>()
        .value(row);
    let end = end.offset(PartitionId(partition.cast_unsigned()));
    offset.cast_unsigned() < end.0
}

/// Bytes of the rows alone, without what a slice keeps in memory beside itself.
pub fn bytes_of(rows: &RecordBatch) -> Result<usize, ArrowError> {
    let columns = rows.columns().iter();
    columns
        .map(|column| column.to_data().get_slice_memory_size())
        .sum()
}

/// The rows in memory of their own, if they keep much beside themselves.
fn compact(rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    if rows.get_array_memory_size() <= bytes_of(rows)? * 2 {
        return Ok(rows.clone());
    }
    let all = UInt32Array::from_iter_values(0..rows.num_rows() as u32);
    take_record_batch(rows, &all)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, Int32Array, Int64Array, StringArray},
        datatypes::{DataType, Field, Schema},
    };
    use lambic_model::Offset;
    use proptest::prelude::*;

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("c0", DataType::Utf8, true),
            Field::new("partition", DataType::Int32, false),
            Field::new("offset", DataType::Int64, false),
        ]))
    }

    fn batch(rows: &[(Option<u64>, i32, i64)]) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(
                rows.iter()
                    .map(|row| row.0.map(|k| k.to_string()))
                    .collect::<StringArray>(),
            ),
            Arc::new(rows.iter().map(|row| row.1).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>()),
        ];
        RecordBatch::try_new(schema(), columns).unwrap()
    }

    fn places(batches: &[RecordBatch]) -> Vec<(i32, i64)> {
        let mut places = Vec::new();
        for batch in batches {
            let partitions = batch.column(1).as_primitive::<Int32Type>().values();
            let offsets = batch.column(2).as_primitive::<Int64Type>().values();
            places.extend(partitions.iter().copied().zip(offsets.iter().copied()));
        }
        places.sort_unstable();
        places
    }

    proptest! {
        #[test]
        fn it_finds_what_a_scan_finds(
            batches in prop::collection::vec(
                prop::collection::vec((prop::option::weighted(0.8, 0u64..6), 0i32..3), 0..40), 0..12),
            wanted in prop::collection::hash_set(0u64..8, 0..5),
            ends in prop::collection::vec(0u64..200, 3),
        ) {
            let mut index = Index::new(schema(), 2);
            let (mut all, mut next) = (Vec::new(), [0; 3]);
            for rows in batches {
                let rows: Vec<_> = rows.into_iter().map(|(key, partition)| {
                    let offset = next[partition as usize];
                    next[partition as usize] += 1;
                    (key, partition, offset)
                }).collect();
                let hashes: Hashes = rows.iter().map(|row| row.0).collect();
                let others: Hashes = rows.iter().map(|row| row.0.map(|key| key % 2)).collect();
                prop_assert!(index.add(&batch(&rows), &[hashes, others]).unwrap());
                all.extend(rows);
            }
            prop_assert_eq!(index.rows(), all.len());
            let end = Frontier(ends.into_iter().map(Offset).collect());
            for key in 0..2 {
                let found = index.matching(key, &wanted, &end).unwrap();
                let mut expected: Vec<(i32, i64)> = all.iter()
                    .filter(|(hash, ..)| hash.is_some_and(|hash| {
                        wanted.contains(&if key == 0 { hash } else { hash % 2 })
                    }))
                    .filter(|(_, partition, offset)| {
                        (*offset as u64) < end.0[*partition as usize].0
                    })
                    .map(|(_, partition, offset)| (*partition, *offset))
                    .collect();
                expected.sort_unstable();
                prop_assert_eq!(places(&found), expected);
            }
        }
    }

    #[test]
    fn many_small_batches_become_few() {
        let mut index = Index::new(schema(), 1);
        for offset in 0..20_000 {
            let rows = [(Some(offset as u64 % 7), 0, offset)];
            index.add(&batch(&rows), &[vec![rows[0].0]]).unwrap();
        }
        assert!(index.batches.len() < 24, "{}", index.batches.len());
        let found = index.matching(0, &HashSet::from([3]), &Frontier(vec![Offset(15_000)]));
        assert_eq!(places(&found.unwrap()).len(), 2_143);
    }

    #[test]
    fn a_slice_does_not_keep_the_whole() {
        let rows: Vec<_> = (0..8_000).map(|offset| (Some(1), 0, offset)).collect();
        let whole = batch(&rows);
        let mut index = Index::new(schema(), 1);
        index.add(&whole.slice(5, 3), &[vec![Some(1); 3]]).unwrap();
        assert!(index.bytes() < 4_000, "{}", index.bytes());
        let found = index.matching(0, &HashSet::from([1]), &Frontier(vec![Offset(7)]));
        assert_eq!(places(&found.unwrap()), [(0, 5), (0, 6)]);
    }
}
