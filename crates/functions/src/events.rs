//! Records (Arrow) as the events of functions (JSON).

use std::{fmt::Display, sync::Arc};

use arrow::{
    array::{AsArray, BooleanArray, Int64Array, TimestampMicrosecondArray},
    compute::filter_record_batch,
    datatypes::{Int64Type, TimestampMicrosecondType},
    json::writer::JsonArray,
    record_batch::RecordBatch,
};
use lambic_model::{Offset, OffsetRange, Stream, SystemColumn, json};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{Form, columnar, filter::Filters};

/// Records that become JSON at one time.
const ROWS_AT_ONCE: usize = 64;

/// An element of an event's `Records`, JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub offset: Offset,
    /// When it was appended, microseconds since 1970.
    pub at_us: i64,
    /// Empty where the batch has columns.
    pub json: String,
}

/// Which records make a batch, and how many.
#[derive(Debug, Clone)]
pub struct Wants {
    pub filters: Arc<Filters>,
    /// Those of one lane only.
    pub lane: Option<LaneOf>,
    pub records_max: usize,
    pub bytes_max: usize,
    /// All of a batch were appended in one and the same window of this length.
    pub window_us: Option<i64>,
    pub form: Form,
}

/// The records whose key falls on this lane.
#[derive(Debug, Clone)]
pub struct LaneOf {
    pub number: u32,
    pub of: u32,
    /// The column of the keys.
    pub key: String,
}

impl LaneOf {
    /// The log puts a key into a partition by the same number, so it is mixed before it is used again.
    fn has(&self, hash: u32) -> bool {
        (hash.wrapping_mul(0x9e37_79b1) >> 16) % self.of == self.number
    }

    fn choose(&self, batch: &RecordBatch) -> Result<RecordBatch, String> {
        let keys = batch
            .column_by_name(&self.key)
            .ok_or_else(|| format!("the stream has no column `{}`", self.key))?;
        let hashes = lambic_log::key_hashes(keys)?;
        let mask: BooleanArray = hashes
            .into_iter()
            .map(|hash| Some(self.has(hash)))
            .collect();
        filter_record_batch(batch, &mask).map_err(|error| error.to_string())
    }
}

/// The first records of a range that are wanted, as events: as many as fit, and at least one.
#[derive(Debug, Default)]
pub struct Batch {
    pub events: Vec<Event>,
    /// Where those that follow begin, once no more fit.
    pub full_at: Option<Offset>,
    /// Records that no filter let through.
    pub filtered: u64,
    bytes: usize,
    parts: Vec<RecordBatch>,
}

impl Batch {
    /// Takes more of `range`, until no more fit. `batches` have the system columns, and are read as far as they are
    /// needed; records that were erased are not among them.
    pub fn add(
        &mut self,
        stream: &Stream,
        range: OffsetRange,
        batches: impl IntoIterator<Item = Result<RecordBatch, String>>,
        wants: &Wants,
    ) -> Result<(), String> {
        for batch in batches {
            let mut batch = batch?;
            if let Some(lane) = &wants.lane {
                batch = lane.choose(&batch)?;
            }
            for first in (0..batch.num_rows()).step_by(ROWS_AT_ONCE) {
                let some = batch.slice(first, ROWS_AT_ONCE.min(batch.num_rows() - first));
                self.take(stream, range, &some, wants)?;
                if self.full_at.is_some() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        stream: &Stream,
        range: OffsetRange,
        some: &RecordBatch,
        wants: &Wants,
    ) -> Result<(), String> {
        let window = |at_us: i64| wants.window_us.map(|length| at_us.div_euclid(length));
        let is_columnar = wants.form == Form::Arrow;
        // Patterns are of JSON.
        let events = match is_columnar && wants.filters.is_empty() {
            true => places_of(some)?,
            false => events_of(stream, range, some)?,
        };
        let sizes = match is_columnar {
            true => columnar::record_bytes(some),
            false => events.iter().map(|event| event.json.len() + 1).collect(),
        };
        let mut is_wanted = Vec::with_capacity(events.len());
        for (mut event, bytes) in events.into_iter().zip(sizes) {
            is_wanted.push(false);
            if !wants.filters.matches(&event.json) {
                self.filtered += 1;
                continue;
            }
            if is_columnar {
                event.json = String::new();
                if self.events.is_empty() {
                    self.bytes = columnar::frame_bytes(stream);
                }
            }
            self.bytes += bytes;
            if let Some(before) = self.events.first()
                && (self.bytes > wants.bytes_max || window(before.at_us) != window(event.at_us))
            {
                self.full_at = Some(event.offset);
                break;
            }
            let next = event.offset.plus(1);
            self.events.push(event);
            if let Some(last) = is_wanted.last_mut() {
                *last = true;
            }
            if self.events.len() >= wants.records_max {
                self.full_at = Some(next);
                break;
            }
        }
        if is_columnar && is_wanted.contains(&true) {
            let part = columnar::wanted(stream, range.partition, some, is_wanted)?;
            self.parts.push(part);
        }
        Ok(())
    }

    /// The records of the events as columns, if that is how they are wanted.
    pub fn columns(&self, stream: &Stream, wants: &Wants) -> Result<Option<RecordBatch>, String> {
        match wants.form {
            Form::Json => Ok(None),
            Form::Arrow => columnar::joined(stream, &self.parts).map(Some),
        }
    }
}

/// Where and when records were appended, and no more.
fn places_of(batch: &RecordBatch) -> Result<Vec<Event>, String> {
    let (offsets, appended) = places(batch)?;
    let events = offsets.values().iter().zip(appended.values());
    Ok(events
        .map(|(offset, at_us)| Event {
            offset: Offset(offset.cast_unsigned()),
            at_us: *at_us,
            json: String::new(),
        })
        .collect())
}

fn places(batch: &RecordBatch) -> Result<(&Int64Array, &TimestampMicrosecondArray), String> {
    let offsets = batch
        .column_by_name(SystemColumn::Offset.name())
        .ok_or("records without offsets")?
        .as_primitive::<Int64Type>();
    let appended = batch
        .column_by_name(SystemColumn::AppendedAt.name())
        .ok_or("records without the time of their append")?
        .as_primitive::<TimestampMicrosecondType>();
    Ok((offsets, appended))
}

pub fn events_of(
    stream: &Stream,
    range: OffsetRange,
    batch: &RecordBatch,
) -> Result<Vec<Event>, String> {
    let columns = stream.schema.fields().len();
    let user = batch
        .project(&(0..columns).collect::<Vec<_>>())
        .map_err(|error| error.to_string())?;
    let mut writer = json::writer().build::<_, JsonArray>(Vec::new());
    writer.write(&user).map_err(|error| error.to_string())?;
    writer.finish().map_err(|error| error.to_string())?;
    let written = writer.into_inner();
    // As text: a number that is read may lose its last digits.
    let rows: Vec<&RawValue> =
        serde_json::from_slice(&written).map_err(|error| error.to_string())?;
    let (offsets, appended) = places(batch)?;
    let event = |(row, data): (usize, &RawValue)| {
        let offset = offsets.value(row);
        let at_us = appended.value(row);
        let element = Element {
            approximate_arrival_timestamp: at_us as f64 / 1e6,
            data,
            event_id: item_identifier(stream, range, offset.cast_unsigned()),
            event_source: "lambic:stream",
            offset,
            partition: range.partition.0,
            stream: stream.name.as_str(),
        };
        let json = serde_json::to_string(&element).map_err(|error| error.to_string());
        let offset = Offset(offset.cast_unsigned());
        json.map(|json| Event {
            offset,
            at_us,
            json,
        })
    };
    rows.into_iter().enumerate().map(event).collect()
}

/// What an [`Event`] says.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Element<'a> {
    approximate_arrival_timestamp: f64,
    data: &'a RawValue,
    #[serde(rename = "eventID")]
    event_id: String,
    event_source: &'static str,
    offset: i64,
    partition: u32,
    stream: &'a str,
}

/// The event of a batch of records; `more`: further members, JSON with a comma before each.
pub fn payload(events: &[Event], more: &str) -> Vec<u8> {
    let events: Vec<&str> = events.iter().map(|event| event.json.as_str()).collect();
    format!("{{\"Records\":[{}]{more}}}", events.join(",")).into_bytes()
}

pub fn item_identifier(stream: &Stream, range: OffsetRange, offset: impl Display) -> String {
    format!("{}-{}-{offset}", stream.name, range.partition)
}

#[cfg(test)]
pub mod tests {
    use arrow::{
        array::{Array, ArrayRef, StringArray},
        datatypes::{DataType, Field, Schema},
    };
    use lambic_model::{PartitionId, StreamId, StreamName};

    use super::*;

    pub fn stream() -> Stream {
        Stream {
            id: StreamId(1),
            name: StreamName::new("s").unwrap(),
            schema: Arc::new(Schema::new(vec![
                Field::new("a", DataType::Int64, false),
                Field::new("b", DataType::Utf8, true),
            ])),
            partitions: 1,
            event_time: None,
            record_id: None,
            partition_by: None,
            evolution: Default::default(),
        }
    }

    pub const RANGE: OffsetRange = OffsetRange {
        partition: PartitionId(0),
        first: Offset(5),
        end: Offset(8),
    };

    /// As the log gives it: a column `b` and the system's.
    pub fn read(first: u64, column: ArrayRef) -> RecordBatch {
        let fields = [
            Field::new("b", column.data_type().clone(), true),
            SystemColumn::Offset.field(),
            SystemColumn::AppendedAt.field(),
        ];
        let offsets = (first as i64..).take(column.len());
        let appended = TimestampMicrosecondArray::from_value(1_500_000, column.len());
        RecordBatch::try_new(
            Arc::new(Schema::new(fields.to_vec())),
            vec![
                column,
                Arc::new(Int64Array::from_iter_values(offsets)),
                Arc::new(appended.with_timezone("UTC")),
            ],
        )
        .unwrap()
    }

    fn wants(bytes_max: usize) -> Wants {
        Wants {
            filters: Arc::default(),
            lane: None,
            records_max: usize::MAX,
            bytes_max,
            window_us: None,
            form: Form::Json,
        }
    }

    /// The events of one batch of [`RANGE`], and where it ends.
    pub fn to_events(
        stream: &Stream,
        batches: impl IntoIterator<Item = Result<RecordBatch, String>>,
        bytes_max: usize,
    ) -> Result<(Vec<Event>, Offset), String> {
        let mut batch = Batch::default();
        batch.add(stream, RANGE, batches, &wants(bytes_max))?;
        Ok((batch.events, batch.full_at.unwrap_or(RANGE.end)))
    }

    #[test]
    fn a_batch_ends_where_its_bytes_do() {
        let mut stream = stream();
        stream.schema = Arc::new(Schema::new(vec![Field::new("b", DataType::Utf8, true)]));
        let batch =
            |first: u64, texts: &[&str]| read(first, Arc::new(StringArray::from(texts.to_vec())));
        let long = "x".repeat(1_000);
        let batches = || {
            [
                Ok(batch(5, &[&long, "y"])),
                Ok(batch(7, &[&long])),
                Err("not needed".to_owned()),
            ]
        };
        let events = |bytes_max| to_events(&stream, batches(), bytes_max);
        let whole = batches().into_iter().take(2);
        let (all, end) = to_events(&stream, whole, 1 << 20).unwrap();
        assert_eq!((all.len(), end), (3, RANGE.end));
        let second = concat!(
            r#"{"approximateArrivalTimestamp":1.5,"data":{"b":"y"},"eventID":"s-0-6","#,
            r#""eventSource":"lambic:stream","offset":6,"partition":0,"stream":"s"}"#
        );
        assert_eq!(all[1].json, second);
        assert_eq!(
            payload(&all[1..2], ""),
            format!(r#"{{"Records":[{second}]}}"#).as_bytes()
        );
        for (bytes_max, expected) in [(0, 1), (1_200, 1), (1_500, 2), (2_000, 2)] {
            let (some, end) = events(bytes_max).unwrap();
            assert_eq!(some, all[..expected], "{bytes_max}");
            assert_eq!(end, all[expected].offset);
        }
        // The record at offset 6 was erased, and what follows it.
        let (some, end) = to_events(&stream, [Ok(batch(5, &["x"]))], 1 << 20).unwrap();
        assert_eq!((some.len(), end), (1, RANGE.end));
        assert_eq!(events(1 << 20), Err("not needed".to_owned()));
    }

    #[test]
    fn a_batch_has_what_is_wanted_and_no_more() {
        let mut stream = stream();
        stream.schema = Arc::new(Schema::new(vec![Field::new("b", DataType::Utf8, true)]));
        let read = |wants: &Wants| {
            let mut batch = Batch::default();
            let texts = StringArray::from(vec!["x", "y", "x"]);
            let batches = [Ok(read(5, Arc::new(texts)))];
            batch.add(&stream, RANGE, batches, wants).unwrap();
            let offsets: Vec<u64> = batch.events.iter().map(|event| event.offset.0).collect();
            (
                offsets,
                batch.full_at.map(|offset| offset.0),
                batch.filtered,
            )
        };
        let filters = |pattern| Arc::new(Filters::parse(&[pattern]).unwrap());
        let all = wants(1 << 20);
        assert_eq!(read(&all), (vec![5, 6, 7], None, 0));
        let some = Wants {
            filters: filters(r#"{"data": {"b": ["x"]}, "partition": [0]}"#),
            ..all.clone()
        };
        assert_eq!(read(&some), (vec![5, 7], None, 1));
        let first = Wants {
            records_max: 1,
            ..some.clone()
        };
        assert_eq!(read(&first), (vec![5], Some(6), 0));
        for wants in [&all, &some, &first] {
            let wants = Wants {
                form: Form::Arrow,
                ..wants.clone()
            };
            assert_eq!(
                read(&wants),
                read(&Wants {
                    form: Form::Json,
                    ..wants.clone()
                })
            );
            let mut batch = Batch::default();
            let texts = StringArray::from(vec!["x", "y", "x"]);
            let batches = [Ok(super::tests::read(5, Arc::new(texts)))];
            batch.add(&stream, RANGE, batches, &wants).unwrap();
            let columns = batch.columns(&stream, &wants).unwrap().unwrap();
            let (offsets, _) = places(&columns).unwrap();
            let of_events = batch.events.iter().map(|event| event.offset.0 as i64);
            assert!(of_events.eq(offsets.values().iter().copied()));
        }
        // A key is on one lane, and every lane has its keys.
        let lane = |number| {
            let key = "b".to_owned();
            let lane = Some(LaneOf {
                number,
                of: 10,
                key,
            });
            read(&Wants {
                lane,
                ..all.clone()
            })
            .0
        };
        let mut lanes: Vec<Vec<u64>> = (0..10).map(lane).filter(|lane| !lane.is_empty()).collect();
        lanes.sort_unstable();
        assert!(
            lanes == [vec![5, 7], vec![6]] || lanes == [vec![5, 6, 7]],
            "{lanes:?}"
        );
    }
}
