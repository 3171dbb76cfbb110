//! What there is to tell: AWS's events of an environment.
//!
//! Pure, but for the time.

use lambic_base::{Clock, SystemClock};
use serde_json::{Value, json};

use super::subscription::Type;

/// One event. How it is shown depends on who asked for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `2022-10-12T00:00:15.064Z`.
    pub time: String,
    pub kind: Kind,
    pub record: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    InitStart,
    InitRuntimeDone,
    InitReport,
    RestoreStart,
    RestoreRuntimeDone,
    RestoreReport,
    Start,
    RuntimeDone,
    Report,
    /// Of the Logs API only, as the next one.
    End,
    Fault,
    Extension,
    Subscribed,
    LogsDropped,
    Line(Type),
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::InitStart => "platform.initStart",
            Kind::InitRuntimeDone => "platform.initRuntimeDone",
            Kind::InitReport => "platform.initReport",
            Kind::RestoreStart => "platform.restoreStart",
            Kind::RestoreRuntimeDone => "platform.restoreRuntimeDone",
            Kind::RestoreReport => "platform.restoreReport",
            Kind::Start => "platform.start",
            Kind::RuntimeDone => "platform.runtimeDone",
            Kind::Report => "platform.report",
            Kind::End => "platform.end",
            Kind::Fault => "platform.fault",
            Kind::Extension => "platform.extension",
            Kind::Subscribed => "platform.telemetrySubscription",
            Kind::LogsDropped => "platform.logsDropped",
            Kind::Line(of) => of.as_str(),
        }
    }

    pub fn class(self) -> Type {
        match self {
            Kind::Line(of) => of,
            _ => Type::Platform,
        }
    }
}

/// How something ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Success,
    /// The function's own, with its type.
    Error(String),
    /// Of the runtime or the environment.
    Failure(String),
    Timeout,
}

impl Status {
    fn put_into(&self, record: &mut Value) {
        let (status, error_type) = match self {
            Status::Success => ("success", None),
            Status::Error(kind) => ("error", Some(kind)),
            Status::Failure(kind) => ("failure", Some(kind)),
            Status::Timeout => ("timeout", None),
        };
        record["status"] = Value::from(status);
        if let Some(kind) = error_type {
            record["errorType"] = Value::from(kind.as_str());
        }
    }
}

/// What an invocation took.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    pub duration_ms: f64,
    /// If it came with the start.
    pub init_ms: Option<f64>,
    pub memory_mb: u32,
    pub memory_used_mb: u64,
}

impl Event {
    fn at(at_us: i64, kind: Kind, record: Value) -> Event {
        let time = arrow::temporal_conversions::timestamp_us_to_datetime(at_us);
        let time = time.map(|time| time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string());
        Event {
            time: time.unwrap_or_default(),
            kind,
            record,
        }
    }

    fn now(kind: Kind, record: Value) -> Event {
        Event::at(SystemClock.now_us(), kind, record)
    }

    pub fn init_start(function: &str, version: &str) -> Event {
        let record = json!({
            "initializationType": "on-demand",
            "phase": "init",
            "functionName": function,
            "functionVersion": version,
        });
        Event::now(Kind::InitStart, record)
    }

    /// The runtime asked for its first event, or cannot.
    pub fn init_runtime_done(status: &Status) -> Event {
        let mut record = json!({ "initializationType": "on-demand", "phase": "init" });
        status.put_into(&mut record);
        Event::now(Kind::InitRuntimeDone, record)
    }

    pub fn init_report(status: &Status, duration_ms: f64) -> Event {
        let mut record = json!({
            "initializationType": "on-demand",
            "phase": "init",
            "metrics": { "durationMs": rounded(duration_ms) },
        });
        status.put_into(&mut record);
        Event::now(Kind::InitReport, record)
    }

    pub fn restore_start(function: &str, version: &str) -> Event {
        let record = json!({ "functionName": function, "functionVersion": version });
        Event::now(Kind::RestoreStart, record)
    }

    pub fn restore_runtime_done(status: &Status) -> Event {
        let mut record = json!({});
        status.put_into(&mut record);
        Event::now(Kind::RestoreRuntimeDone, record)
    }

    pub fn restore_report(status: &Status, duration_ms: f64) -> Event {
        let mut record = json!({ "metrics": { "durationMs": rounded(duration_ms) } });
        status.put_into(&mut record);
        Event::now(Kind::RestoreReport, record)
    }

    pub fn start(request_id: &str, version: &str, trace_id: &str) -> Event {
        let mut record = json!({ "requestId": request_id, "version": version });
        put_tracing(&mut record, trace_id);
        Event::now(Kind::Start, record)
    }

    /// The runtime has answered, or will not any more.
    pub fn runtime_done(
        request_id: &str,
        status: &Status,
        trace_id: &str,
        duration_ms: f64,
        bytes: usize,
    ) -> Event {
        let mut record = json!({
            "requestId": request_id,
            "metrics": { "durationMs": rounded(duration_ms), "producedBytes": bytes },
        });
        status.put_into(&mut record);
        put_tracing(&mut record, trace_id);
        Event::now(Kind::RuntimeDone, record)
    }

    pub fn report(request_id: &str, status: &Status, trace_id: &str, report: Report) -> Event {
        let mut metrics = json!({
            "durationMs": rounded(report.duration_ms),
            "billedDurationMs": report.duration_ms.ceil() as u64,
            "memorySizeMB": report.memory_mb,
            "maxMemoryUsedMB": report.memory_used_mb,
        });
        if let Some(init_ms) = report.init_ms {
            metrics["initDurationMs"] = Value::from(rounded(init_ms));
        }
        let mut record = json!({ "requestId": request_id, "metrics": metrics });
        status.put_into(&mut record);
        put_tracing(&mut record, trace_id);
        Event::now(Kind::Report, record)
    }

    pub fn end(request_id: &str) -> Event {
        Event::now(Kind::End, json!({ "requestId": request_id }))
    }

    pub fn fault(text: &str) -> Event {
        Event::now(Kind::Fault, Value::from(text))
    }

    /// An extension asked for its first event.
    pub fn extension(name: &str, events: &[&str]) -> Event {
        let record = json!({ "name": name, "state": "Ready", "events": events });
        Event::now(Kind::Extension, record)
    }

    pub fn subscribed(name: &str, types: &[Type]) -> Event {
        let types: Vec<&str> = types.iter().map(|of| of.as_str()).collect();
        let record = json!({ "name": name, "state": "Subscribed", "types": types });
        Event::now(Kind::Subscribed, record)
    }

    pub fn logs_dropped(records: u64, bytes: u64) -> Event {
        let record = json!({
            "droppedRecords": records,
            "droppedBytes": bytes,
            "reason": "the subscriber did not take its telemetry fast enough",
        });
        Event::now(Kind::LogsDropped, record)
    }

    pub fn line(of: Type, at_us: i64, text: &str) -> Event {
        Event::at(at_us, Kind::Line(of), Value::from(text))
    }
}

fn put_tracing(record: &mut Value, trace_id: &str) {
    if !trace_id.is_empty() {
        record["tracing"] = json!({ "type": "X-Amzn-Trace-Id", "value": trace_id });
    }
}

/// Hundredths of a millisecond, as AWS has them.
fn rounded(ms: f64) -> f64 {
    (ms * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_what_aws_s_has() {
        let report = Report {
            duration_ms: 693.916,
            init_ms: Some(397.68),
            memory_mb: 128,
            memory_used_mb: 84,
        };
        let status = Status::Error("E".to_owned());
        let event = Event::report("id", &status, "Root=1", report);
        assert_eq!(
            event.record,
            json!({
                "requestId": "id",
                "status": "error",
                "errorType": "E",
                "metrics": {
                    "durationMs": 693.92,
                    "billedDurationMs": 694,
                    "initDurationMs": 397.68,
                    "memorySizeMB": 128,
                    "maxMemoryUsedMB": 84,
                },
                "tracing": { "type": "X-Amzn-Trace-Id", "value": "Root=1" },
            })
        );
        let line = Event::line(Type::Function, 1_500_000, "hello");
        assert_eq!(line.time, "1970-01-01T00:00:01.500Z");
        assert_eq!(line.record, "hello");
    }
}
