//! Between records (Arrow) and the events and answers of functions (JSON).

use std::{collections::BTreeMap, fmt::Display};

use arrow::{
    array::AsArray,
    datatypes::{Int64Type, TimestampMicrosecondType},
    json::writer::JsonArray,
    record_batch::RecordBatch,
};
use lambic_model::{Offset, OffsetRange, Stream, SystemColumn, json};
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use crate::Decode;

/// Records that become JSON at one time.
const ROWS_AT_ONCE: usize = 64;

/// An element of an event's `Records`, JSON.
#[derive(Debug, PartialEq)]
pub struct Event {
    pub offset: Offset,
    pub json: String,
}

/// The events of the first records of `range`, as many as fit into `bytes_max` and at least one, and how far they
/// reach: to the end of the range unless more follow. `batches` have the system columns, and are read as far as they
/// are needed; records that were erased are not among them.
pub fn to_events(
    stream: &Stream,
    range: OffsetRange,
    batches: impl IntoIterator<Item = Result<RecordBatch, String>>,
    bytes_max: usize,
) -> Result<(Vec<Event>, Offset), String> {
    let mut events: Vec<Event> = Vec::new();
    let mut bytes = 0;
    for batch in batches {
        let batch = batch?;
        for first in (0..batch.num_rows()).step_by(ROWS_AT_ONCE) {
            let some = batch.slice(first, ROWS_AT_ONCE.min(batch.num_rows() - first));
            for event in events_of(stream, range, &some)? {
                bytes += event.json.len() + 1;
                if bytes > bytes_max && !events.is_empty() {
                    return Ok((events, event.offset));
                }
                events.push(event);
            }
        }
    }
    Ok((events, range.end))
}

fn events_of(
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
    let offsets = batch
        .column_by_name(SystemColumn::Offset.name())
        .ok_or("records without offsets")?
        .as_primitive::<Int64Type>();
    let appended = batch
        .column_by_name(SystemColumn::AppendedAt.name())
        .ok_or("records without the time of their append")?
        .as_primitive::<TimestampMicrosecondType>();
    let event = |(row, data): (usize, &RawValue)| {
        let offset = offsets.value(row);
        let element = Element {
            approximate_arrival_timestamp: appended.value(row) as f64 / 1e6,
            data,
            event_id: item_identifier(stream, range, offset.cast_unsigned()),
            event_source: "lambic:stream",
            offset,
            partition: range.partition.0,
            stream: stream.name.as_str(),
        };
        let json = serde_json::to_string(&element).map_err(|error| error.to_string());
        let offset = Offset(offset.cast_unsigned());
        json.map(|json| Event { offset, json })
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

/// The event of a batch of records.
pub fn payload(events: &[Event]) -> Vec<u8> {
    let events: Vec<&str> = events.iter().map(|event| event.json.as_str()).collect();
    format!("{{\"Records\":[{}]}}", events.join(",")).into_bytes()
}

fn item_identifier(stream: &Stream, range: OffsetRange, offset: impl Display) -> String {
    format!("{}-{}-{offset}", stream.name, range.partition)
}

/// How much of an answer that is not understood is shown.
const ANSWER_CHARS_SHOWN: usize = 80;

/// What a function made of a batch of records.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Objects as the function wrote them: a number that is read may lose its last digits.
    pub output: Vec<&'a RawValue>,
    /// The first offset of the batch that failed.
    pub failed: Option<u64>,
}

/// Understands `null`, a list of objects, `{"records": […]}` and `{"batchItemFailures": [{"itemIdentifier": …}]}`.
/// If the function has an output stream, anything else is an error: it was meant for that stream and would be lost.
pub fn parse_answer<'a>(
    stream: &Stream,
    range: OffsetRange,
    answer: &'a [u8],
    has_output: bool,
) -> Result<Answer<'a>, String> {
    let answer: &RawValue = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    let (mut output, mut failures) = (Vec::new(), Vec::new());
    let mut is_understood = true;
    match answer.get().as_bytes()[0] {
        b'[' => output = list(answer).ok_or("the answer is not a list")?,
        b'{' => {
            let members: BTreeMap<String, &RawValue> =
                serde_json::from_str(answer.get()).map_err(|error| error.to_string())?;
            let of = |key: &str| match members.get(key).copied() {
                None => Ok(Vec::new()),
                Some(member) if member.get() == "null" => Ok(Vec::new()),
                Some(member) => {
                    list(member).ok_or_else(|| format!("`{key}` of the answer is not a list"))
                }
            };
            let keys = ["records", "batchItemFailures"];
            is_understood = members.is_empty() || keys.iter().any(|key| members.contains_key(*key));
            output = of("records")?;
            failures = of("batchItemFailures")?;
        }
        // AWS ignores what a handler of a stream returns beside failures; a status text is common.
        other => is_understood = other == b'n',
    }
    if has_output && !is_understood {
        return Err(format!(
            "the answer of a function with an output stream is a list of objects, one for each output record, {{\"records\": […]}}, {{\"batchItemFailures\": […]}} or null, not {}",
            shown(answer)
        ));
    }
    if let Some(other) = output.iter().find(|record| !record.get().starts_with('{')) {
        return Err(format!(
            "the answer must be a list of objects, one for each output record; it has {}",
            shown(other)
        ));
    }
    let mut failed = None;
    let before = item_identifier(stream, range, "");
    for failure in failures {
        let failure: Value =
            serde_json::from_str(failure.get()).map_err(|error| error.to_string())?;
        let identifier = match &failure["itemIdentifier"] {
            Value::String(identifier) => identifier.clone(),
            Value::Number(offset) => offset.to_string(),
            _ => return Err("a batch item failure has no `itemIdentifier`".to_owned()),
        };
        let offset = identifier.strip_prefix(&before).unwrap_or(&identifier);
        let offset = offset.parse::<u64>().ok();
        let offset = offset
            .filter(|offset| (range.first.0..range.end.0).contains(offset))
            .ok_or_else(|| format!("`{identifier}` is not an item of the batch"))?;
        failed = Some(failed.map_or(offset, |earlier: u64| earlier.min(offset)));
    }
    Ok(Answer { output, failed })
}

fn list(value: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(value.get()).ok()
}

fn shown(value: &RawValue) -> String {
    let text = value.get();
    match text.char_indices().nth(ANSWER_CHARS_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Objects as records of `stream`; the error says which object does not fit and why.
pub fn from_objects(
    decode: &Decode,
    stream: &Stream,
    objects: &[&RawValue],
) -> Result<RecordBatch, String> {
    let bytes: usize = objects.iter().map(|object| object.get().len() + 1).sum();
    let mut list = Vec::with_capacity(bytes + 1);
    for (index, object) in objects.iter().enumerate() {
        list.push(if index == 0 { b'[' } else { b',' });
        list.extend_from_slice(object.get().as_bytes());
    }
    list.push(b']');
    let decoded = decode(stream, list);
    decoded.map_err(|reason| format!("the output does not fit stream `{}`: {reason}", stream.name))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{
            Array, ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
        },
        datatypes::{DataType, Field, Float64Type, Schema},
    };
    use lambic_model::{PartitionId, StreamId, StreamName};

    use super::*;

    fn decode() -> Decode {
        Arc::new(lambic_connectors::json_list)
    }

    fn stream() -> Stream {
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

    const RANGE: OffsetRange = OffsetRange {
        partition: PartitionId(0),
        first: Offset(5),
        end: Offset(8),
    };

    #[test]
    fn answers_are_understood() {
        for (answer, expected) in [
            ("null", Ok((0, None))),
            ("\"ok\"", Ok((0, None))),
            ("{}", Ok((0, None))),
            (r#"[{"a":1}]"#, Ok((1, None))),
            (r#"{"records":[{"a":1},{"a":2}]}"#, Ok((2, None))),
            (r#"{"batchItemFailures":[]}"#, Ok((0, None))),
            (
                r#"{"batchItemFailures":[{"itemIdentifier":"s-0-7"},{"itemIdentifier":6}]}"#,
                Ok((0, Some(6))),
            ),
            (
                r#"{"batchItemFailures":[{"itemIdentifier":"8"}]}"#,
                Err("`8` is not an item of the batch"),
            ),
            (
                r#"{"batchItemFailures":[{}]}"#,
                Err("a batch item failure has no `itemIdentifier`"),
            ),
            (
                r#"{"records":1}"#,
                Err("`records` of the answer is not a list"),
            ),
            (
                "[1]",
                Err("the answer must be a list of objects, one for each output record; it has 1"),
            ),
        ] {
            let found = parse_answer(&stream(), RANGE, answer.as_bytes(), false)
                .map(|answer| (answer.output.len(), answer.failed));
            assert_eq!(found, expected.map_err(str::to_owned), "{answer}");
        }
    }

    /// As the log gives it: a column `b` and the system's.
    fn read(first: u64, column: ArrayRef) -> RecordBatch {
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

    /// What a function is given and what it answers are the very values.
    #[test]
    fn floats_pass_in_both_directions() {
        let values = [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            -0.0,
            0.1 + 0.2,
            1.0 / 3.0,
            f64::MAX,
            f64::MIN_POSITIVE,
            5e-324,
            // A reader that is not exact gives the neighbour of each of these.
            31.245_270_191_439_438,
            2.225_073_858_507_201e-308,
        ];
        let mut stream = stream();
        stream.schema = Arc::new(Schema::new(vec![Field::new("b", DataType::Float64, true)]));
        let batch = read(5, Arc::new(Float64Array::from(values.to_vec())));
        let (events, _) = to_events(&stream, RANGE, [Ok(batch)], 1 << 20).unwrap();
        let events: Vec<String> = events.into_iter().map(|event| event.json).collect();
        assert!(events[0].contains(r#""data":{"b":"NaN"}"#), "{}", events[0]);
        assert!(events[1].contains(r#""data":{"b":"Infinity"}"#));
        assert!(events[2].contains(r#""data":{"b":"-Infinity"}"#));
        let data = events.iter().map(|event| {
            let start = event.find(r#""data":"#).unwrap() + 7;
            let end = event.find(r#","eventID""#).unwrap();
            &event[start..end]
        });
        let answer = format!("[{}]", data.collect::<Vec<_>>().join(", "));
        let answer = parse_answer(&stream, RANGE, answer.as_bytes(), true).unwrap();
        let batch = from_objects(&decode(), &stream, &answer.output).unwrap();
        let column = batch.column(0).as_primitive::<Float64Type>();
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(column.values()), bits(&values));
    }

    #[test]
    fn output_in_former_columns_is_brought_into_those_of_today() {
        let declared = Stream {
            schema: Arc::new(Schema::new(vec![
                Field::new("n", DataType::Int64, true),
                Field::new("old", DataType::Utf8, true),
            ])),
            ..stream()
        };
        let mut columns = declared.columns();
        columns.remove(1);
        columns[0].name = "count".to_owned();
        for (id, name, data_type, default) in [
            (2, "note", DataType::Utf8, "it's \"new\""),
            (3, "ok", DataType::Boolean, "true"),
            (4, "share", DataType::Float64, "0.5"),
        ] {
            let default = lambic_model::Constant::of_text(&data_type, default);
            columns.push(lambic_model::Column {
                id: lambic_model::ColumnId(id),
                name: name.to_owned(),
                data_type,
                nullable: false,
                missing: None,
                default,
            });
        }
        let now = declared.evolved(columns);
        let answer = br#"[{"n": 9007199254740993, "old": "x"}, {"count": 2, "note": "own", "ok": false, "share": 1.5}]"#;
        let range = OffsetRange {
            partition: PartitionId(0),
            first: Offset(0),
            end: Offset(2),
        };
        let parsed = parse_answer(&now, range, answer, true).unwrap();
        let batch = from_objects(&decode(), &now, &parsed.output).unwrap();
        let shown = arrow::util::pretty::pretty_format_batches(&[batch])
            .unwrap()
            .to_string();
        for line in [
            "| 9007199254740993 | it's \"new\" | true  | 0.5   |",
            "| 2                | own        | false | 1.5   |",
        ] {
            assert!(shown.contains(line), "{shown}");
        }
        let twice = br#"[{"n": 1, "count": 2}]"#;
        let twice = parse_answer(&now, range, twice, true).unwrap();
        assert!(
            from_objects(&decode(), &now, &twice.output)
                .unwrap_err()
                .contains("twice")
        );
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
        let events = |bytes_max| to_events(&stream, RANGE, batches(), bytes_max);
        let whole = batches().into_iter().take(2);
        let (all, end) = to_events(&stream, RANGE, whole, 1 << 20).unwrap();
        assert_eq!((all.len(), end), (3, RANGE.end));
        let second = concat!(
            r#"{"approximateArrivalTimestamp":1.5,"data":{"b":"y"},"eventID":"s-0-6","#,
            r#""eventSource":"lambic:stream","offset":6,"partition":0,"stream":"s"}"#
        );
        assert_eq!(all[1].json, second);
        assert_eq!(
            payload(&all[1..2]),
            format!(r#"{{"Records":[{second}]}}"#).as_bytes()
        );
        for (bytes_max, expected) in [(0, 1), (1_200, 1), (1_500, 2), (2_000, 2)] {
            let (some, end) = events(bytes_max).unwrap();
            assert_eq!(some, all[..expected], "{bytes_max}");
            assert_eq!(end, all[expected].offset);
        }
        // The record at offset 6 was erased, and what follows it.
        let (some, end) = to_events(&stream, RANGE, [Ok(batch(5, &["x"]))], 1 << 20).unwrap();
        assert_eq!((some.len(), end), (1, RANGE.end));
        assert_eq!(events(1 << 20), Err("not needed".to_owned()));
    }

    #[test]
    fn what_is_meant_for_an_output_is_not_lost() {
        let parse =
            |answer: &str| parse_answer(&stream(), RANGE, answer.as_bytes(), true).map(drop);
        for lost in [r#"{"id":1}"#, "\"ok\"", "7"] {
            let error = parse(lost).unwrap_err();
            assert!(error.ends_with(&format!("not {lost}")), "{error}");
        }
        for fine in [
            "null",
            "{}",
            "[]",
            r#"[{"a":1}]"#,
            r#"{"records":[]}"#,
            r#"{"batchItemFailures":[]}"#,
        ] {
            assert!(parse(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn objects_that_do_not_fit_are_named() {
        let from = |texts: [&str; 2]| {
            let objects = texts.map(|text| RawValue::from_string(text.to_owned()).unwrap());
            from_objects(&decode(), &stream(), &[&objects[0], &objects[1]])
        };
        let fits = r#"{"a": 1, "b": "x"}"#;
        assert_eq!(from([fits, r#"{"a": 2}"#]).unwrap().num_rows(), 2);
        for (object, reason) in [
            (r#"{"a": 1, "c": 2}"#, "`c`"),
            (r#"{"b": "x"}"#, "`a`"),
            (r#"{"a": "x"}"#, "`a`"),
            (r#"{"a": 1.9}"#, "`a`"),
            (r#"{"a": "1"}"#, "`a`"),
        ] {
            let error = from([fits, object]).unwrap_err();
            assert!(
                error
                    .starts_with("the output does not fit stream `s`: record 2 on line 1, column ")
                    && error.contains(reason),
                "{error}"
            );
        }
    }
}
