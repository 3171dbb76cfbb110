//! What is read of the stream: which of its events have not ended, a stretch at a time.
//!
//! It blocks: it waits for the disk.

use std::collections::HashMap;

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{Int64Type, TimestampMicrosecondType},
};
use lambic_log::{Error, Snapshot};
use lambic_model::{Offset, OffsetRange, StreamId, SystemColumn};
use tokio::sync::watch;

use super::{PARTITION, lines::Queued};

/// Records that are looked at in one go.
pub const RECORDS_MAX: u64 = 1_000;
/// Ids of events in memory while it is found out which of them ended: some 10 MB.
pub const IDS_MAX: usize = 100_000;

/// Of the events from `first` to `end`, those that ended before this start: a bit for each record.
#[derive(Debug)]
pub struct EndedBefore {
    first: u64,
    end: u64,
    bits: Vec<u64>,
}

impl EndedBefore {
    /// Reads the stream from `first` to its head, once for every `ids_max` events that had not ended at one time; `None`
    /// if it was stopped.
    pub fn read(
        snapshot: &Snapshot,
        queue: StreamId,
        first: u64,
        ids_max: usize,
        stop: &watch::Receiver<bool>,
    ) -> Result<Option<EndedBefore>, Error> {
        let end = snapshot.head(queue).offset(PARTITION).0.max(first);
        let words = (end - first).div_ceil(64) as usize;
        let mut ended = EndedBefore {
            first,
            end,
            bits: vec![0; words],
        };
        let mut from = first;
        while from < end {
            // Of the events from here on that have not ended so far.
            let mut open: HashMap<String, u64> = HashMap::new();
            // Where the next reading starts: at the first event whose id found no room.
            let mut next = None;
            for batches in snapshot.read_chunks(queue, range(from, end), 1) {
                if *stop.borrow() {
                    return Ok(None);
                }
                for row in batches?.iter().flat_map(rows) {
                    if !row.is_queued {
                        if let Some(offset) = open.remove(row.request_id) {
                            ended.set(offset);
                        }
                    } else if next.is_none() && open.len() < ids_max.max(1) {
                        open.insert(row.request_id.to_owned(), row.offset);
                    } else {
                        next.get_or_insert(row.offset);
                    }
                }
            }
            from = next.unwrap_or(end);
        }
        Ok(Some(ended))
    }

    fn set(&mut self, offset: u64) {
        let at = offset - self.first;
        self.bits[(at / 64) as usize] |= 1 << (at % 64);
    }

    pub fn has(&self, offset: u64) -> bool {
        if !(self.first..self.end).contains(&offset) {
            return false;
        }
        let at = offset - self.first;
        self.bits[(at / 64) as usize] >> (at % 64) & 1 == 1
    }
}

/// The events between two offsets that did not end before this start; of one function, or of all.
pub fn events(
    snapshot: &Snapshot,
    queue: StreamId,
    from: u64,
    to: u64,
    ended: &EndedBefore,
    function: Option<&str>,
) -> Result<Vec<Queued>, Error> {
    let mut events = Vec::new();
    // One batch at a time, since events may be large; mostly it holds one.
    for batches in snapshot.read_chunks(queue, range(from, to), 1) {
        for row in batches?.iter().flat_map(rows) {
            let is_wanted = function.is_none_or(|function| function == row.function);
            if row.is_queued && is_wanted && !ended.has(row.offset) {
                events.push(Queued {
                    offset: row.offset,
                    at_us: row.at_us,
                    request_id: row.request_id.to_owned(),
                    function: row.function.to_owned(),
                    attempts: 0,
                    waits: 0,
                });
            }
        }
    }
    Ok(events)
}

/// What an attempt needs of an event.
#[derive(Debug, Default, PartialEq)]
pub struct Content {
    pub payload: String,
    /// `None` if a server queued it that did not keep them.
    pub trace_id: Option<String>,
}

/// Of the event at `offset`.
pub fn content(snapshot: &Snapshot, queue: StreamId, offset: u64) -> Result<Content, Error> {
    let mut content = Content::default();
    for batches in snapshot.read_chunks(queue, range(offset, offset + 1), 1) {
        for batch in batches? {
            let text = |column: usize| {
                let column = batch.column(column).as_string::<i32>();
                column.iter().flatten().next().map(str::to_owned)
            };
            content = Content {
                payload: text(EVENT).unwrap_or_default(),
                trace_id: text(TRACE_ID),
            };
        }
    }
    Ok(content)
}

fn range(from: u64, to: u64) -> OffsetRange {
    OffsetRange {
        partition: PARTITION,
        first: Offset(from),
        end: Offset(to),
    }
}

/// Columns of `lambic_async`.
const AT: usize = 0;
const REQUEST_ID: usize = 1;
const FUNCTION: usize = 2;
const STATE: usize = 3;
const EVENT: usize = 4;
const TRACE_ID: usize = 5;

/// A row without its payload.
struct Row<'a> {
    offset: u64,
    at_us: i64,
    request_id: &'a str,
    function: &'a str,
    is_queued: bool,
}

fn rows(batch: &RecordBatch) -> impl Iterator<Item = Row<'_>> {
    let text = |column: usize| batch.column(column).as_string::<i32>();
    let (request_ids, functions, states) = (text(REQUEST_ID), text(FUNCTION), text(STATE));
    let times = batch.column(AT).as_primitive::<TimestampMicrosecondType>();
    let offsets = batch
        .column_by_name(SystemColumn::Offset.name())
        .expect("the log gives every record its offset")
        .as_primitive::<Int64Type>();
    (0..offsets.len()).map(move |row| Row {
        offset: offsets.value(row).cast_unsigned(),
        at_us: times.value(row),
        request_id: request_ids.value(row),
        function: functions.value(row),
        is_queued: states.value(row) == "queued",
    })
}
