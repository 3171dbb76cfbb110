//! What is done about records that keep failing or became too old: they are kept as dead letters, AWS's record of their
//! batch goes to the mapping's destination, and the cursor moves on, all in one append.
//!
//! Records that were too old before they were ever tried are no dead letters: nothing failed, and they are in their
//! stream. Their batch is told to the destination all the same.

use lambic_model::{InvocationKind, Offset, OffsetRange, Write};
use serde_json::{Value, json};
use tracing::error;

use super::{Stopped, batch::Batches};
use crate::{
    Destination, FunctionVersion,
    arn::stream_arn,
    destination::{self, timestamp},
    entry::kind_name,
    events::Event,
    function_arn, queue,
    records::{self, DeadLetter, QueueRow},
    traces::new_trace_id,
};

/// How the last attempt ended.
#[derive(Debug, Clone)]
pub struct Failure {
    pub error_type: String,
    pub message: String,
    pub request_id: String,
    pub version: FunctionVersion,
    /// As AWS tells it: 200 if the function ran, whatever came of it.
    pub status: u16,
    /// It failed itself, and did not only name records that did.
    pub function_error: bool,
}

impl Failure {
    /// The status of an invocation that was not run, which the function could not help.
    pub const OURS: u16 = 500;

    pub fn is_ours(&self) -> bool {
        self.status == Failure::OURS
    }
}

/// Why records are given up.
#[derive(Debug)]
pub enum Reason {
    Failed(Failure),
    /// With the last failure, if they were tried.
    TooOld(Option<Failure>),
}

impl Reason {
    fn condition(&self) -> &'static str {
        match self {
            Reason::Failed(_) => "RetryAttemptsExhausted",
            Reason::TooOld(_) => "RecordAgeExceeded",
        }
    }

    fn failure(&self) -> Option<&Failure> {
        match self {
            Reason::Failed(failure) => Some(failure),
            Reason::TooOld(failure) => failure.as_ref(),
        }
    }
}

/// AWS's record of a batch of Kinesis: where the records stand, not what they are.
fn record(
    at_us: i64,
    target: &str,
    stream: &str,
    events: &[Event],
    range: OffsetRange,
    reason: &Reason,
    attempts: u32,
) -> Value {
    let failure = reason.failure();
    let request_id = failure.map(|failure| failure.request_id.clone());
    let offset = |event: Option<&Event>, other: Offset| event.map_or(other, |event| event.offset);
    let at = |event: Option<&Event>| event.map(|event| timestamp(event.at_us));
    let (first, last) = (events.first(), events.last());
    let mut record = json!({
        "requestContext": {
            "requestId": request_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
            "functionArn": function_arn(target),
            "condition": reason.condition(),
            "approximateInvokeCount": attempts,
        },
        "version": "1.0",
        "timestamp": timestamp(at_us),
        "KinesisBatchInfo": {
            "shardId": super::window::shard_id(range.partition),
            "startSequenceNumber": offset(first, range.first).to_string(),
            "endSequenceNumber": offset(last, range.first).to_string(),
            "approximateArrivalOfFirstRecord": at(first),
            "approximateArrivalOfLastRecord": at(last),
            "batchSize": events.len(),
            "streamArn": stream_arn(stream),
        },
    });
    if let Some(failure) = failure {
        record["responseContext"] = json!({
            "statusCode": failure.status,
            "executedVersion": failure.version.to_string(),
        });
        if failure.function_error {
            record["responseContext"]["functionError"] = Value::from("Unhandled");
        }
    }
    record
}

impl Batches {
    /// Appends what is to be kept of the records and moves the cursor behind them.
    pub(super) async fn give_up(
        &self,
        range: OffsetRange,
        events: &[Event],
        reason: Reason,
        attempts: u32,
    ) -> Result<(), Stopped> {
        let worker = &self.worker;
        let at_us = worker.inner.options.clock.now_us();
        let letter = |failure: &Failure, event: &Event| DeadLetter {
            at_us,
            function: worker.function.to_string(),
            request_id: failure.request_id.clone(),
            kind: kind_name(InvocationKind::Stream),
            source: Some(format!(
                "{}:{}:{}",
                worker.stream.name, range.partition, event.offset
            )),
            error_type: failure.error_type.clone(),
            error_message: failure.message.clone(),
            attempts: i32::try_from(attempts).unwrap_or(i32::MAX),
            event: event.json.clone(),
        };
        let letters = match reason.failure() {
            Some(failure) => events.iter().map(|event| letter(failure, event)).collect(),
            None => Vec::new(),
        };
        let to = worker.rules.on_failure.as_deref();
        let follow = to.and_then(Destination::parse).map(|to| {
            let stream = worker.stream.name.as_str();
            let record = record(
                at_us,
                &worker.target,
                stream,
                events,
                range,
                &reason,
                attempts,
            );
            (to, record.to_string())
        });
        self.keep(letters, follow, range).await
    }

    /// Appends the dead letters and the record for the destination, and moves the cursor to the end of `range`.
    pub(crate) async fn keep(
        &self,
        mut letters: Vec<DeadLetter>,
        follow: Option<(Destination, String)>,
        range: OffsetRange,
    ) -> Result<(), Stopped> {
        let worker = &self.worker;
        let own = worker.inner.dead_letter_stream(worker.function.as_str());
        let house = &worker.inner.options.streams.dead_letters;
        let follow = follow.and_then(|(to, record)| self.write_of(&to, record, range));
        let mut refused = String::new();
        // What a stream of the user's refuses, the house's takes; and the records themselves stay in their stream, so
        // that letters without them lose nothing.
        for (stream, with_events, with_follow) in [
            (&own, true, true),
            (house, true, true),
            (house, false, true),
            (house, false, false),
        ] {
            if !with_events {
                letters = letters.into_iter().map(without_event).collect();
            }
            if !with_follow && follow.is_some() {
                error!(function = %worker.function, %range.partition, first = %range.first, reason = refused,
                    "the record for a destination was refused and is left out");
            }
            let of_letters: Vec<&DeadLetter> = letters.iter().collect();
            let letters = (!of_letters.is_empty()).then(|| Write {
                stream: stream.id,
                partition: None,
                batch: records::dead_letters(stream, &of_letters),
                schema: None,
            });
            let follow = follow.clone().filter(|_| with_follow);
            let writes = letters.into_iter().chain(follow).collect();
            match self.commit(writes, range.end, None).await? {
                Ok(()) => return Ok(()),
                Err(reason) => refused = reason,
            }
        }
        error!(function = %worker.function, reason = refused,
            "a dead letter was refused; the trigger stops here");
        Err(Stopped)
    }

    /// What brings the record to its destination: an event of the queue, or a row.
    fn write_of(&self, to: &Destination, record: String, range: OffsetRange) -> Option<Write> {
        let worker = &self.worker;
        let options = &worker.inner.options;
        match to {
            Destination::Function(function) => {
                let row = QueueRow {
                    at_us: options.clock.now_us(),
                    request_id: uuid::Uuid::new_v4().to_string(),
                    function: function.clone(),
                    state: "queued".to_owned(),
                    event: Some(record),
                    // One for all of its attempts.
                    trace_id: Some(new_trace_id()),
                };
                let queue = &options.streams.queue;
                Some(Write {
                    stream: queue.id,
                    partition: Some(queue::PARTITION),
                    batch: records::queue(queue, &[&row]),
                    schema: None,
                })
            }
            Destination::Stream(name) => {
                let write = destination::row(&worker.inner, name, &record);
                let told = write.inspect_err(|reason| {
                    error!(function = %worker.function, stream = %name, reason, %range.partition, first = %range.first,
                        "its stream does not take the record for a destination, which is left out");
                });
                told.ok()
            }
        }
    }
}

/// A letter without the record, which is found in its stream.
fn without_event(mut letter: DeadLetter) -> DeadLetter {
    let source = letter.source.clone().unwrap_or_default();
    let mut parts = source.rsplitn(3, ':');
    let offset: Option<u64> = parts.next().and_then(|offset| offset.parse().ok());
    let partition: Option<u32> = parts.next().and_then(|partition| partition.parse().ok());
    letter.event = json!({
        "eventSource": "lambic:stream",
        "stream": parts.next(),
        "partition": partition,
        "offset": offset,
        "data": null,
        "leftOut": format!("{} bytes", letter.event.len()),
    })
    .to_string();
    letter
}

#[cfg(test)]
mod tests {
    use lambic_model::PartitionId;

    use super::*;

    fn failure(function_error: bool) -> Failure {
        Failure {
            error_type: "E".to_owned(),
            message: "no".to_owned(),
            request_id: "id".to_owned(),
            version: FunctionVersion::Number(3),
            status: 200,
            function_error,
        }
    }

    #[test]
    fn a_batch_is_told_as_aws_tells_one_of_kinesis() {
        let event = |offset| Event {
            offset: Offset(offset),
            at_us: offset as i64 * 1_000_000,
            json: "{}".to_owned(),
        };
        let events = [event(5), event(7)];
        let range = OffsetRange {
            partition: PartitionId(1),
            first: Offset(4),
            end: Offset(9),
        };
        let record = |reason| super::record(0, "f:live", "s", &events, range, &reason, 2);
        let told = record(Reason::Failed(failure(true)));
        assert_eq!(
            told,
            json!({
                "requestContext": {
                    "requestId": "id",
                    "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:f:live",
                    "condition": "RetryAttemptsExhausted",
                    "approximateInvokeCount": 2,
                },
                "responseContext": { "statusCode": 200, "executedVersion": "3", "functionError": "Unhandled" },
                "version": "1.0",
                "timestamp": "1970-01-01T00:00:00.000Z",
                "KinesisBatchInfo": {
                    "shardId": "shardId-000000000001",
                    "startSequenceNumber": "5",
                    "endSequenceNumber": "7",
                    "approximateArrivalOfFirstRecord": "1970-01-01T00:00:05.000Z",
                    "approximateArrivalOfLastRecord": "1970-01-01T00:00:07.000Z",
                    "batchSize": 2,
                    "streamArn": "arn:aws:lambic:us-east-1:000000000000:stream/s",
                },
            })
        );
        let reported = record(Reason::TooOld(Some(failure(false))));
        assert_eq!(reported["requestContext"]["condition"], "RecordAgeExceeded");
        assert_eq!(
            reported["responseContext"],
            json!({ "statusCode": 200, "executedVersion": "3" })
        );
        let never_tried = record(Reason::TooOld(None));
        assert!(never_tried.get("responseContext").is_none());
    }
}
