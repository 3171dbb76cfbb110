//! One moment of the log, over all streams: every read sees the appends acknowledged before it was taken.
//!
//! It holds the segments open, so trimming does not disturb it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arrow::{
    array::{
        ArrayRef, BooleanArray, BooleanBufferBuilder, Int32Array, Int64Array,
        TimestampMicrosecondArray,
    },
    compute::filter_record_batch,
    datatypes::Schema,
    error::ArrowError,
    record_batch::RecordBatch,
};
use lambic_model::{
    Cursor, Erased, Erasures, Fit, Frontier, Frontiers, Offset, OffsetRange, OffsetSet,
    PartitionId, SchemaVersion, Stream, StreamId, SystemColumn,
};

use crate::{
    Error,
    cache::Cache,
    segment::{Entry, RESTORE, Segment},
};

#[derive(Debug, Clone)]
pub(crate) struct View {
    pub commit: u64,
    pub heads: Frontiers,
    pub cursors: Arc<BTreeMap<String, Cursor>>,
    /// Oldest first; never empty.
    pub segments: Arc<Vec<Arc<Segment>>>,
    pub cache: Arc<Cache>,
    pub erased: Arc<BTreeMap<StreamId, Erased>>,
    /// As new as any record that the snapshot has.
    pub streams: Arc<HashMap<StreamId, Arc<Stream>>>,
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Snapshot(pub(crate) Arc<View>);

impl Snapshot {
    /// Counts the log's commits.
    pub fn commit(&self) -> u64 {
        self.0.commit
    }

    /// One past the newest record of every partition. Survives trim and restart.
    pub fn head(&self, stream: StreamId) -> Frontier {
        self.0.heads.of(stream)
    }

    pub fn heads(&self) -> Frontiers {
        self.0.heads.clone()
    }

    /// The oldest records still in the log; the head where there are none.
    pub fn start(&self, stream: StreamId) -> Frontier {
        let mut start = self.head(stream);
        let oldest = &self.0.segments[0].start;
        let known = oldest.of(stream);
        for (offset, partition) in start.0.iter_mut().zip(0..) {
            *offset = known.offset(PartitionId(partition));
        }
        start
    }

    /// The first record of a partition that was appended after `at_us`, among those in the log.
    pub fn first_after(
        &self,
        stream: StreamId,
        partition: PartitionId,
        at_us: i64,
    ) -> Option<Offset> {
        let head = self.head(stream).offset(partition);
        let mut segments = self.0.segments.iter();
        let first = segments.find_map(|segment| segment.first_after(stream, partition, at_us));
        first.map(Offset).filter(|first| *first < head)
    }

    /// When a record was appended; `None` if it is not in the log.
    pub fn appended_at(
        &self,
        stream: StreamId,
        partition: PartitionId,
        offset: Offset,
    ) -> Option<i64> {
        let range = OffsetRange {
            partition,
            first: offset,
            end: offset.plus(1),
        };
        let mut segments = self.0.segments.iter();
        let entry = segments.find_map(|segment| segment.entries(stream, range).first().copied());
        entry.map(|entry| entry.appended_at_us)
    }

    pub fn cursor(&self, name: &str) -> Option<Cursor> {
        self.0.cursors.get(name).cloned()
    }

    /// What reads of the stream leave out.
    pub fn erased(&self, stream: StreamId) -> Erased {
        self.0.erased.get(&stream).cloned().unwrap_or_default()
    }

    /// The newest erasure of every stream that has any.
    pub fn erasures(&self) -> Erasures {
        let each = self.0.erased.iter().filter(|(_, erased)| erased.number > 0);
        Erasures(
            each.map(|(stream, erased)| (*stream, erased.number))
                .collect(),
        )
    }

    /// True if a segment holds a record of `offsets`, as if it were not erased.
    pub fn holds(&self, stream: StreamId, offsets: &OffsetSet) -> bool {
        let mut ranges = offsets.ranges();
        ranges.any(|range| {
            let mut segments = self.0.segments.iter();
            segments.any(|segment| !segment.entries(stream, range).is_empty())
        })
    }

    /// Exactly the records of `range` that were not erased, in offset order: the stream's columns, then the system
    /// columns. No batch is empty.
    pub fn read(&self, stream: StreamId, range: OffsetRange) -> Result<Vec<RecordBatch>, Error> {
        self.read_in(stream, None, range)
    }

    /// The same in the columns of `stream`, which may be those that it had or has by now.
    pub fn read_as(&self, stream: &Stream, range: OffsetRange) -> Result<Vec<RecordBatch>, Error> {
        self.read_in(stream.id, Some(stream), range)
    }

    fn read_in(
        &self,
        stream: StreamId,
        shown: Option<&Stream>,
        range: OffsetRange,
    ) -> Result<Vec<RecordBatch>, Error> {
        let erased = self.erased(stream);
        let places = self.places(stream, shown, range)?;
        let batches = places
            .iter()
            .map(|place| place.read(&self.0.cache, range, &erased, true));
        batches.filter_map(Result::transpose).collect()
    }

    /// As [`Snapshot::read`], in pieces that take about `bytes_max` in memory (at least one batch each),
    /// without pushing newer batches out of the cache.
    pub fn read_chunks(&self, stream: StreamId, range: OffsetRange, bytes_max: u64) -> Chunks {
        self.chunks(stream, None, range, bytes_max)
    }

    /// The same in the columns of `stream`, see [`Snapshot::read_as`].
    pub fn read_chunks_as(&self, stream: &Stream, range: OffsetRange, bytes_max: u64) -> Chunks {
        self.chunks(stream.id, Some(stream), range, bytes_max)
    }

    fn chunks(
        &self,
        stream: StreamId,
        shown: Option<&Stream>,
        range: OffsetRange,
        bytes_max: u64,
    ) -> Chunks {
        let (places, failed) = match self.places(stream, shown, range) {
            Ok(places) => (places, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        Chunks {
            cache: self.0.cache.clone(),
            erased: self.erased(stream),
            places: places.into_iter(),
            failed,
            range,
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
        }
    }

    fn places(
        &self,
        stream: StreamId,
        shown: Option<&Stream>,
        range: OffsetRange,
    ) -> Result<Vec<Place>, Error> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let (start, head) = (self.start(stream), self.head(stream));
        let (first, end) = (start.offset(range.partition), head.offset(range.partition));
        if range.first < first || range.end > end {
            return Err(Error::OutOfRange {
                stream,
                range,
                start,
                head,
            });
        }
        let mut places = Vec::new();
        let mut next = range.first.0;
        let mut fits = Fits::default();
        for segment in self.0.segments.iter() {
            for entry in segment.entries(stream, range) {
                assert!(entry.first <= next, "offsets are dense within the log");
                next = entry.first + entry.records;
                let fit = match shown.or(self.0.streams.get(&stream).map(Arc::as_ref)) {
                    None => None,
                    Some(shown) => {
                        let newest = self.0.streams.get(&stream).map_or(shown, Arc::as_ref);
                        let fit = fits.of(entry.schema, newest, shown);
                        fit.map_err(|reason| Error::Damaged {
                            path: segment.path.clone(),
                            position: entry.frame_at,
                            reason,
                            advice: CATALOG_OLDER,
                        })?
                    }
                };
                places.push(Place {
                    segment: segment.clone(),
                    entry,
                    fit,
                });
            }
        }
        assert!(
            next >= range.end.0,
            "every offset below the head is indexed"
        );
        Ok(places)
    }
}

const CATALOG_OLDER: &str =
    "restore `catalog.json` from a copy that is not older than the log; nothing was changed";

/// The ways from the versions that records were written under to the columns asked for.
#[derive(Default)]
struct Fits(BTreeMap<SchemaVersion, Option<Arc<Fit>>>);

impl Fits {
    /// `None` if the records are as asked for.
    fn of(
        &mut self,
        version: SchemaVersion,
        newest: &Stream,
        shown: &Stream,
    ) -> Result<Option<Arc<Fit>>, String> {
        if shown.reads_as_is(version) {
            return Ok(None);
        }
        if let Some(known) = self.0.get(&version) {
            return Ok(known.clone());
        }
        let stored = newest.schema_of(version).ok_or_else(|| {
            format!(
                "its records of stream `{}` were written under version {version} of its columns, of which nothing is known",
                newest.name
            )
        })?;
        let fit = (!shown.shows(&stored)).then(|| {
            let all: Vec<usize> = (0..shown.schema_with_system().fields().len()).collect();
            Arc::new(Fit::read(&stored, shown, &all))
        });
        self.0.insert(version, fit.clone());
        Ok(fit)
    }
}

#[derive(Debug)]
struct Place {
    segment: Arc<Segment>,
    entry: Entry,
    fit: Option<Arc<Fit>>,
}

impl Place {
    /// The part of `range` that stands here; `None` if all of it was erased.
    fn read(
        &self,
        cache: &Cache,
        range: OffsetRange,
        erased: &Erased,
        keep: bool,
    ) -> Result<Option<RecordBatch>, Error> {
        let Place {
            segment,
            entry,
            fit,
        } = self;
        let key = (segment.sequence, entry.frame_at, entry.piece_at);
        let batch = match cache.get(key) {
            Some(batch) => batch,
            None => {
                let batch = segment.load(entry)?;
                if keep {
                    cache.put(key, batch.clone());
                }
                batch
            }
        };
        let first = entry.first.max(range.first.0);
        let end = (entry.first + entry.records).min(range.end.0);
        let part = batch.slice((first - entry.first) as usize, (end - first) as usize);
        let range = OffsetRange {
            partition: range.partition,
            first: Offset(first),
            end: Offset(end),
        };
        with_system(&part, range, entry.appended_at_us)
            .and_then(|part| without(part, range, erased))
            .and_then(|part| match (part, fit) {
                (Some(part), Some(fit)) => fit.apply_to_all(&part).map(Some),
                (part, _) => Ok(part),
            })
            .map_err(|error| Error::Damaged {
                path: segment.path.clone(),
                position: entry.frame_at,
                reason: error.to_string(),
                advice: RESTORE,
            })
    }
}

/// Pieces of a range; see [`Snapshot::read_chunks`].
#[derive(Debug)]
pub struct Chunks {
    cache: Arc<Cache>,
    erased: Erased,
    places: std::vec::IntoIter<Place>,
    failed: Option<Error>,
    range: OffsetRange,
    bytes_max: usize,
}

impl Iterator for Chunks {
    type Item = Result<Vec<RecordBatch>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failed.take() {
            return Some(Err(error));
        }
        let mut chunk = Vec::new();
        let mut bytes = 0;
        while bytes < self.bytes_max || chunk.is_empty() {
            let Some(place) = self.places.next() else {
                break;
            };
            match place.read(&self.cache, self.range, &self.erased, false) {
                Ok(None) => {}
                Ok(Some(batch)) => {
                    bytes += batch.get_array_memory_size();
                    chunk.push(batch);
                }
                Err(error) => {
                    self.places = Vec::new().into_iter();
                    return Some(Err(error));
                }
            }
        }
        (!chunk.is_empty()).then_some(Ok(chunk))
    }
}

/// The records of `range`, one row each, without the erased ones.
fn without(
    batch: RecordBatch,
    range: OffsetRange,
    erased: &Erased,
) -> Result<Option<RecordBatch>, ArrowError> {
    let left_out = erased.count_within(range);
    if left_out == 0 {
        return Ok(Some(batch));
    }
    if left_out == range.records() {
        return Ok(None);
    }
    let mut keep = BooleanBufferBuilder::new(batch.num_rows());
    keep.append_n(batch.num_rows(), true);
    for part in erased.within(range) {
        for offset in part.first.0..part.end.0 {
            keep.set_bit((offset - range.first.0) as usize, false);
        }
    }
    let keep = BooleanArray::new(keep.finish(), None);
    filter_record_batch(&batch, &keep).map(Some)
}

fn with_system(
    batch: &RecordBatch,
    range: OffsetRange,
    appended_at_us: i64,
) -> Result<RecordBatch, ArrowError> {
    let rows = batch.num_rows();
    let offsets = range.first.0.cast_signed()..range.end.0.cast_signed();
    let partition = range.partition.0.cast_signed();
    let system: [ArrayRef; 3] = [
        Arc::new(Int32Array::from_value(partition, rows)),
        Arc::new(Int64Array::from_iter_values(offsets)),
        Arc::new(TimestampMicrosecondArray::from_value(appended_at_us, rows).with_timezone("UTC")),
    ];
    let fields = batch.schema_ref().fields().iter().cloned();
    let fields = fields.chain(SystemColumn::ALL.map(|column| Arc::new(column.field())));
    let schema = Schema::new(fields.collect::<Vec<_>>());
    let columns = batch.columns().iter().cloned().chain(system).collect();
    RecordBatch::try_new(Arc::new(schema), columns)
}
