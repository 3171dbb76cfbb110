//! What functions answer to a batch of records, and their output as records.

use std::collections::BTreeMap;

use arrow::record_batch::RecordBatch;
use lambic_model::{OffsetRange, Stream};
use serde_json::{Value, value::RawValue};

use crate::{Decode, events::item_identifier};

/// How much of an answer that is not understood is shown.
const ANSWER_CHARS_SHOWN: usize = 80;

/// What a function made of a batch of records.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Objects as the function wrote them: a number that is read may lose its last digits.
    pub output: Vec<&'a RawValue>,
    /// The first offset of the batch that failed.
    pub failed: Option<u64>,
    /// What a tumbling window goes on with.
    pub state: Option<&'a RawValue>,
}

/// Understands `null`, a list of objects, `{"records": […]}`, `{"batchItemFailures": [{"itemIdentifier": …}]}` and
/// `{"state": {…}}`. Failures count only if the mapping asks for them, as in AWS. If the function has an output stream,
/// anything else is an error: it was meant for that stream and would be lost.
pub fn parse_answer<'a>(
    stream: &Stream,
    range: OffsetRange,
    answer: &'a [u8],
    has_output: bool,
    reports_failures: bool,
) -> Result<Answer<'a>, String> {
    let answer: &RawValue = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    let (mut output, mut failures) = (Vec::new(), Vec::new());
    let mut is_understood = true;
    let mut state = None;
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
            let keys = ["records", "batchItemFailures", "state"];
            is_understood = members.is_empty() || keys.iter().any(|key| members.contains_key(*key));
            output = of("records")?;
            if reports_failures {
                failures = of("batchItemFailures")?;
            }
            state = members.get("state").copied();
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
    Ok(Answer {
        output,
        failed,
        state: state.filter(|state| state.get().starts_with('{')),
    })
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
        array::{AsArray, Float64Array},
        datatypes::{DataType, Field, Float64Type, Schema},
    };
    use lambic_model::{Offset, PartitionId};

    use super::*;
    use crate::events::tests::{RANGE, read, stream, to_events};

    fn decode() -> Decode {
        Arc::new(lambic_connectors::json_list)
    }

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
            let found = parse_answer(&stream(), RANGE, answer.as_bytes(), false, true)
                .map(|answer| (answer.output.len(), answer.failed));
            assert_eq!(found, expected.map_err(str::to_owned), "{answer}");
        }
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
        let (events, _) = to_events(&stream, [Ok(batch)], 1 << 20).unwrap();
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
        let answer = parse_answer(&stream, RANGE, answer.as_bytes(), true, true).unwrap();
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
        let parsed = parse_answer(&now, range, answer, true, true).unwrap();
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
        let twice = parse_answer(&now, range, twice, true, true).unwrap();
        assert!(
            from_objects(&decode(), &now, &twice.output)
                .unwrap_err()
                .contains("twice")
        );
    }

    #[test]
    fn what_is_meant_for_an_output_is_not_lost() {
        let parse =
            |answer: &str| parse_answer(&stream(), RANGE, answer.as_bytes(), true, true).map(drop);
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

    #[test]
    fn failures_count_only_where_they_are_asked_for() {
        let answer = br#"{"batchItemFailures":[{"itemIdentifier":"6"}], "state": {"n": 1}}"#;
        for (reports, expected) in [(true, Some(6)), (false, None)] {
            let answer = parse_answer(&stream(), RANGE, answer, false, reports).unwrap();
            assert_eq!(answer.failed, expected);
            assert_eq!(answer.state.unwrap().get(), r#"{"n": 1}"#);
        }
        for whole in ["\"\"", "null", "\"s-1-6\"", "\"x\"", "-1"] {
            let answer = format!(r#"{{"batchItemFailures":[{{"itemIdentifier":{whole}}}]}}"#);
            let parse = |reports| parse_answer(&stream(), RANGE, answer.as_bytes(), false, reports);
            assert!(parse(true).is_err(), "{answer}");
            assert!(parse(false).is_ok(), "{answer}");
        }
        for none in [
            "null",
            "{}",
            r#"{"batchItemFailures": null}"#,
            r#"{"batchItemFailures": []}"#,
        ] {
            let answer = parse_answer(&stream(), RANGE, none.as_bytes(), false, true).unwrap();
            assert_eq!(answer.failed, None, "{none}");
        }
    }
}
