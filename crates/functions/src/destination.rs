//! Destinations: where the result of an event goes on that nobody waits for, as AWS's record of it.
//!
//! The record is appended together with the end of the event: either both are kept or neither. A function gets it as
//! an event of the same queue, a stream as a row of the columns that it has of the record's members ([`row`]).

use arrow::datatypes::DataType;
use lambic_model::{FunctionName, Stream, StreamName, Write};
use serde_json::{Map, Value, json};

use crate::{
    Error, FunctionVersion, Functions, Inner, Qualifier, check::SYSTEM_PREFIX, function_arn,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// `f` or `f:live`.
    Function(String),
    Stream(StreamName),
}

impl Destination {
    /// From an ARN: `arn:aws:lambda:…:function:f:live`, or a stream's, `arn:aws:lambic:…:stream/name`.
    pub fn parse(arn: &str) -> Option<Destination> {
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let ["arn", _, service, _, _, resource] = parts.as_slice() else {
            return None;
        };
        match *service {
            "lambda" => {
                let target = resource.strip_prefix("function:")?;
                let (name, qualifier) = match target.split_once(':') {
                    Some((name, qualifier)) => (name, Some(qualifier)),
                    None => (target, None),
                };
                FunctionName::new(name).ok()?;
                if let Some(qualifier) = qualifier {
                    qualifier.parse::<Qualifier>().ok()?;
                }
                Some(Destination::Function(target.to_owned()))
            }
            "lambic" => {
                let name = resource.strip_prefix("stream/")?;
                Some(Destination::Stream(StreamName::new(name).ok()?))
            }
            _ => None,
        }
    }

    /// A stream that the server alone writes: rows of others, with none of its columns, would stand among what it says.
    pub(crate) fn is_of_system(&self) -> bool {
        matches!(self, Destination::Stream(name) if name.as_str().starts_with(SYSTEM_PREFIX))
    }
}

impl Functions {
    /// Refuses a destination that is not there now: what is sent there would be lost. So it does with one that is the
    /// server's.
    pub fn check_destination(&self, to: &Destination) -> Result<(), Error> {
        let refuse = |reason: String| Err(Error::BadValue { reason });
        match to {
            Destination::Stream(name) if to.is_of_system() => refuse(format!(
                "The destination is not available: stream {name} is written by the system only; CREATE STREAM makes one for results."
            )),
            Destination::Function(target) => {
                let (name, qualifier) = match target.split_once(':') {
                    Some((name, qualifier)) => (name, Some(qualifier.parse::<Qualifier>()?)),
                    None => (target.as_str(), None),
                };
                let Ok(function) = self.function(name) else {
                    return refuse(format!(
                        "The destination does not exist: there is no function {name} on this server."
                    ));
                };
                match function.at(qualifier.as_ref()) {
                    Ok(_) => Ok(()),
                    Err(_) => refuse(format!(
                        "The destination does not exist: function {name} has no version or alias of the name in {target}."
                    )),
                }
            }
            Destination::Stream(name) if (self.0.options.lookup)(name.as_str()).is_none() => {
                refuse(format!(
                    "The destination does not exist: there is no stream {name} on this server; CREATE STREAM makes one."
                ))
            }
            Destination::Stream(_) => Ok(()),
        }
    }
}

/// How an event ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Success,
    RetriesExhausted,
    EventAgeExceeded,
}

impl Condition {
    fn as_str(self) -> &'static str {
        match self {
            Condition::Success => "Success",
            Condition::RetriesExhausted => "RetriesExhausted",
            Condition::EventAgeExceeded => "EventAgeExceeded",
        }
    }
}

/// What is known of the last attempt.
#[derive(Debug, Clone)]
pub struct Last {
    pub version: FunctionVersion,
    /// `None`: it succeeded.
    pub is_failure: bool,
    /// JSON.
    pub request: String,
    pub response: Vec<u8>,
}

/// AWS's: so often an event goes on from one function to the next before it is taken for a loop.
const HOPS_MAX: usize = 16;

/// How many records of destinations stand in one another.
fn hops(record: &Value) -> usize {
    fn within<'a>(record: &&'a Value) -> Option<&'a Value> {
        let payload = record.get("requestPayload")?;
        payload.get("requestContext").map(|_| payload)
    }
    std::iter::successors(Some(record), within).count()
}

/// The record, JSON; `None` if the event has come by too many functions already.
pub fn record(
    at_us: i64,
    request_id: &str,
    function: &str,
    condition: Condition,
    attempts: u32,
    last: &Last,
) -> Option<String> {
    let parsed = |bytes: &[u8]| {
        serde_json::from_slice(bytes)
            .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(bytes).into_owned()))
    };
    let qualified = match function.contains(':') {
        true => function_arn(function),
        false => format!("{}:{}", function_arn(function), FunctionVersion::Latest),
    };
    let mut response = json!({
        "statusCode": 200,
        "executedVersion": last.version.to_string(),
    });
    if last.is_failure {
        response["functionError"] = Value::from("Unhandled");
    }
    let record = json!({
        "version": "1.0",
        "timestamp": timestamp(at_us),
        "requestContext": {
            "requestId": request_id,
            "functionArn": qualified,
            "condition": condition.as_str(),
            "approximateInvokeCount": attempts,
        },
        "requestPayload": parsed(last.request.as_bytes()),
        "responseContext": response,
        "responsePayload": parsed(&last.response),
    });
    (hops(&record) <= HOPS_MAX).then(|| record.to_string())
}

/// Members that are objects, or whatever the function was given or gave.
const ANY: [&str; 4] = [
    "requestContext",
    "requestPayload",
    "responseContext",
    "responsePayload",
];

/// The record as a row of a stream: the members that it has columns for. What has members of its own is JSON there, as
/// text.
pub fn row(inner: &Inner, name: &StreamName, record: &str) -> Result<Write, String> {
    // It was set when this was not looked at yet.
    if name.as_str().starts_with(SYSTEM_PREFIX) {
        return Err("it is written by the system only".to_owned());
    }
    let stream = (inner.options.lookup)(name.as_str()).ok_or("it does not exist")?;
    Ok(Write {
        stream: stream.id,
        partition: None,
        batch: (inner.options.decode)(&stream, members(&stream, record)?)?,
        schema: Some(stream.schema_version()),
    })
}

fn members(stream: &Stream, record: &str) -> Result<Vec<u8>, String> {
    let mut members: Map<String, Value> =
        serde_json::from_str(record).map_err(|error| error.to_string())?;
    members.retain(|member, _| stream.schema.column_with_name(member).is_some());
    for (member, value) in &mut members {
        let is_text = stream
            .schema
            .field_with_name(member)
            .is_ok_and(|column| *column.data_type() == DataType::Utf8);
        let is_any = ANY.contains(&member.as_str());
        if value.is_object() || value.is_array() || (is_any && is_text) {
            *value = Value::from(value.to_string());
        }
    }
    Ok(Value::from(vec![Value::from(members)])
        .to_string()
        .into_bytes())
}

/// As AWS writes it there: `2026-11-23T21:00:00.000Z`.
pub fn timestamp(us: i64) -> String {
    arrow::temporal_conversions::timestamp_us_to_datetime(us)
        .map(|time| time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn destinations_are_read_from_arns() {
        let function = |target: &str| Some(Destination::Function(target.to_owned()));
        let stream = |name: &str| Some(Destination::Stream(StreamName::new(name).unwrap()));
        for (arn, expected) in [
            (
                "arn:aws:lambda:us-east-1:123456789012:function:f",
                function("f"),
            ),
            (
                "arn:aws:lambda:us-east-1:123456789012:function:f:live",
                function("f:live"),
            ),
            (
                "arn:aws:lambic:us-east-1:000000000000:stream/results",
                stream("results"),
            ),
            ("arn:aws:sqs:us-east-1:123456789012:queue", None),
            ("arn:aws:lambda:us-east-1:123456789012:function:f:a b", None),
            ("arn:aws:lambda:us-east-1:123456789012:layer:f", None),
            ("arn:aws:lambic:us-east-1:000000000000:stream/No", None),
            ("f", None),
        ] {
            assert_eq!(Destination::parse(arn), expected, "{arn}");
        }
    }

    #[test]
    fn streams_of_the_system_are_told_by_their_names() {
        for (arn, expected) in [
            (
                "arn:aws:lambic:us-east-1:000000000000:stream/lambic_logs",
                true,
            ),
            (
                "arn:aws:lambic:us-east-1:000000000000:stream/lambics",
                false,
            ),
            (
                "arn:aws:lambda:us-east-1:000000000000:function:lambic_logs",
                false,
            ),
        ] {
            assert_eq!(
                Destination::parse(arn).unwrap().is_of_system(),
                expected,
                "{arn}"
            );
        }
    }

    #[test]
    fn a_row_has_the_members_that_the_stream_has() {
        let stream = crate::streams::system_streams(lambic_model::StreamId(1)).logs;
        let record = r#"{"function": {"name": "f"}, "line": [1], "stream": "s", "other": {}}"#;
        assert_eq!(
            members(&stream, record).unwrap(),
            br#"[{"function":"{\"name\":\"f\"}","line":"[1]","stream":"s"}]"#
        );
    }

    #[test]
    fn a_circle_ends() {
        let next = |request: &str| {
            let last = Last {
                version: FunctionVersion::Latest,
                is_failure: false,
                request: request.to_owned(),
                response: b"null".to_vec(),
            };
            record(0, "id", "f", Condition::Success, 1, &last)
        };
        let records = std::iter::successors(next("{}"), |record| next(record));
        assert_eq!(records.take(HOPS_MAX + 1).count(), HOPS_MAX);
    }

    #[test]
    fn a_record_says_what_happened() {
        let last = Last {
            version: FunctionVersion::Number(3),
            is_failure: true,
            request: r#"{"a":1}"#.to_owned(),
            response: br#"{"errorType":"E"}"#.to_vec(),
        };
        let text = record(0, "id", "f:live", Condition::RetriesExhausted, 3, &last).unwrap();
        let record: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            record,
            json!({
                "version": "1.0",
                "timestamp": "1970-01-01T00:00:00.000Z",
                "requestContext": {
                    "requestId": "id",
                    "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:f:live",
                    "condition": "RetriesExhausted",
                    "approximateInvokeCount": 3,
                },
                "requestPayload": { "a": 1 },
                "responseContext": { "statusCode": 200, "executedVersion": "3", "functionError": "Unhandled" },
                "responsePayload": { "errorType": "E" },
            })
        );
    }
}
