//! What the house writes into a function's log about its invocations: AWS's lines, or AWS's events in JSON where the
//! function's `LoggingConfig` asks for them.
//!
//! Pure but for the time of an event.

use lambic_base::{Clock, SystemClock};
use serde_json::{Map, Value, json};

use crate::{FunctionInfo, FunctionVersion};

const TIMED_OUT: &str = "Sandbox.Timedout";

/// Errors with these names are the house's own word: no line of the function's tells of them.
const OURS: [&str; 4] = ["Runtime.", "Sandbox.", "Extension.", "Function."];

const NAME_CHARS_MAX: usize = 256;

/// How a function wants these lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    /// Those of this level and above.
    Json(Level),
}

/// AWS's `SystemLogLevel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
}

/// What an invocation took.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    pub request_id: &'a str,
    pub duration_ms: f64,
    pub billed_ms: u64,
    pub memory_mb: u32,
    /// `None`: it was not measured.
    pub memory_used_mb: Option<u64>,
    pub init_ms: Option<f64>,
    pub restore_ms: Option<f64>,
    /// Type and message.
    pub error: Option<(&'a str, &'a str)>,
    pub timeout_ms: u64,
}

impl Report<'_> {
    fn restore_billed_ms(&self) -> u64 {
        self.restore_ms.unwrap_or_default().ceil() as u64
    }

    /// In the words of AWS's events.
    fn status(&self) -> &'static str {
        self.error.map_or("success", |(kind, _)| status_of(kind))
    }

    fn level(&self, of_success: Level) -> Level {
        match self.error {
            None => of_success,
            Some(_) => Level::Warn,
        }
    }
}

fn status_of(error_type: &str) -> &'static str {
    match error_type {
        TIMED_OUT => "timeout",
        crate::notices::SERVICE_ERROR => "failure",
        kind if is_ours(kind) => "failure",
        _ => "error",
    }
}

/// A function may call its error whatever it wants, and must not begin another line of the platform's with it.
fn in_a_line(error_type: &str) -> String {
    let shown = |c: char| if c.is_control() { '?' } else { c };
    error_type.chars().map(shown).take(NAME_CHARS_MAX).collect()
}

/// The lines of a message as one, in which one still sees where they ended.
fn joined(message: &str) -> String {
    let lines = message.split(['\n', '\r']).map(str::trim_end);
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    lines.join(" | ")
}

fn is_ours(error_type: &str) -> bool {
    OURS.iter().any(|ours| error_type.starts_with(ours))
}

impl Format {
    pub fn of(info: &FunctionInfo) -> Format {
        let Some(logging) = info.settings.kept.get("LoggingConfig") else {
            return Format::Text;
        };
        if logging["LogFormat"] != "JSON" {
            return Format::Text;
        }
        Format::Json(match logging["SystemLogLevel"].as_str() {
            Some("DEBUG") => Level::Debug,
            Some("WARN") => Level::Warn,
            _ => Level::Info,
        })
    }

    /// The line `text`, or an event of this level, unless less is wanted.
    fn line(
        self,
        level: Level,
        kind: &str,
        record: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> Option<String> {
        match self {
            Format::Text => Some(text()),
            Format::Json(wanted) if level < wanted => None,
            Format::Json(_) => {
                let (time, record) = (now(), record());
                Some(format!(
                    r#"{{"time":"{time}","type":"platform.{kind}","record":{record}}}"#
                ))
            }
        }
    }

    pub fn start(self, request_id: &str, version: FunctionVersion) -> Option<String> {
        let record = || json!({ "requestId": request_id, "version": version.to_string() });
        self.line(Level::Info, "start", record, || {
            format!("START RequestId: {request_id} Version: {version}")
        })
    }

    /// What is said at the end: why it failed, if the function itself did not say so, END and REPORT.
    pub fn end(self, report: &Report<'_>) -> Vec<String> {
        let mut lines = self.reason(report);
        let id = report.request_id;
        let done = || {
            let metrics = json!({ "durationMs": rounded(report.duration_ms) });
            ended(report, metrics)
        };
        let text = || format!("END RequestId: {id}");
        lines.extend(self.line(report.level(Level::Debug), "runtimeDone", done, text));
        let record = || ended(report, metrics(report));
        let level = report.level(Level::Info);
        lines.extend(self.line(level, "report", record, || report_text(report)));
        lines
    }

    /// Why an invocation failed, in AWS's words: a line with its id, and one with the type.
    fn reason(self, report: &Report<'_>) -> Vec<String> {
        let Some((error_type, message)) = report.error else {
            return Vec::new();
        };
        let id = report.request_id;
        let told = match error_type {
            TIMED_OUT => {
                let seconds = report.timeout_ms as f64 / 1e3;
                vec![format!(
                    "{} {id} Task timed out after {seconds:.2} seconds",
                    now()
                )]
            }
            kind if is_ours(kind) || kind == crate::notices::SERVICE_ERROR => {
                // A line of the platform's is one line, whatever the function says.
                let message = joined(message);
                let has_id = message.starts_with("RequestId: ");
                let message = match has_id {
                    true => message,
                    false => format!("RequestId: {id} Error: {message}"),
                };
                vec![message, in_a_line(kind)]
            }
            _ => return Vec::new(),
        };
        match self {
            Format::Text => told,
            Format::Json(_) => {
                let record = || Value::from(told.join("\n"));
                let fault = self.line(Level::Warn, "fault", record, String::new);
                fault.into_iter().collect()
            }
        }
    }

    /// Of a start that did not succeed, as a phase of its own (`init`) or of an invocation (`invoke`).
    pub fn init_report(
        self,
        phase: &str,
        init_ms: f64,
        error_type: Option<&str>,
    ) -> Option<String> {
        let error_type = error_type.map(in_a_line);
        let error_type = error_type.as_deref();
        let status = error_type.map_or("timeout", status_of);
        let record = || {
            let mut record = json!({
                "initializationType": "on-demand",
                "phase": phase,
                "status": status,
                "metrics": { "durationMs": rounded(init_ms) },
            });
            if let Some(kind) = error_type {
                record["errorType"] = Value::from(kind);
            }
            record
        };
        self.line(Level::Warn, "initReport", record, || {
            let status = match error_type {
                Some(kind) => format!("error\tError Type: {kind}"),
                None => "timeout".to_owned(),
            };
            format!("INIT_REPORT Init Duration: {init_ms:.2} ms\tPhase: {phase}\tStatus: {status}")
        })
    }

    pub fn restore_start(self, runtime: &str) -> Option<String> {
        let record = || json!({ "runtimeVersion": runtime });
        self.line(Level::Info, "restoreStart", record, || {
            format!("RESTORE_START Runtime Version: {runtime}")
        })
    }

    pub fn restore_report(self, restore_ms: f64, error_type: Option<&str>) -> Option<String> {
        let error_type = error_type.map(in_a_line);
        let error_type = error_type.as_deref();
        let record = || {
            let mut record = json!({
                "status": error_type.map_or("success", status_of),
                "metrics": { "durationMs": rounded(restore_ms) },
            });
            if let Some(kind) = error_type {
                record["errorType"] = Value::from(kind);
            }
            record
        };
        let level = match error_type {
            None => Level::Info,
            Some(_) => Level::Warn,
        };
        self.line(level, "restoreReport", record, || {
            let status = error_type.map(|kind| format!("\tStatus: error\tError Type: {kind}"));
            let status = status.unwrap_or_default();
            format!("RESTORE_REPORT Restore Duration: {restore_ms:.2} ms{status}")
        })
    }
}

/// What both events of an end have.
fn ended(report: &Report<'_>, metrics: Value) -> Value {
    let mut record = json!({
        "requestId": report.request_id,
        "status": report.status(),
        "metrics": metrics,
    });
    if let Some((kind, _)) = report.error {
        record["errorType"] = Value::from(kind);
    }
    record
}

fn metrics(report: &Report<'_>) -> Value {
    let mut metrics = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        metrics.extend(value.map(|value| (name.to_owned(), value)));
    };
    set("durationMs", Some(rounded(report.duration_ms)));
    set("billedDurationMs", Some(report.billed_ms.into()));
    set("memorySizeMB", Some(report.memory_mb.into()));
    set("maxMemoryUsedMB", report.memory_used_mb.map(Value::from));
    set("initDurationMs", report.init_ms.map(rounded));
    set("restoreDurationMs", report.restore_ms.map(rounded));
    let billed = report.restore_ms.map(|_| report.restore_billed_ms());
    set("billedRestoreDurationMs", billed.map(Value::from));
    Value::Object(metrics)
}

/// As in text: to hundredths.
fn rounded(ms: f64) -> Value {
    Value::from((ms * 100.0).round() / 100.0)
}

fn report_text(report: &Report<'_>) -> String {
    let Report {
        request_id,
        duration_ms,
        billed_ms,
        memory_mb,
        ..
    } = report;
    let mut text = format!(
        "REPORT RequestId: {request_id}\tDuration: {duration_ms:.2} ms\tBilled Duration: {billed_ms} ms\t\
         Memory Size: {memory_mb} MB"
    );
    if let Some(used_mb) = report.memory_used_mb {
        text.push_str(&format!("\tMax Memory Used: {used_mb} MB"));
    }
    if let Some(init_ms) = report.init_ms {
        text.push_str(&format!("\tInit Duration: {init_ms:.2} ms"));
    }
    if let Some(restore_ms) = report.restore_ms {
        let billed_ms = report.restore_billed_ms();
        text.push_str(&format!(
            "\tRestore Duration: {restore_ms:.2} ms\tBilled Restore Duration: {billed_ms} ms"
        ));
    }
    // As AWS's ends.
    text.push('\t');
    text
}

/// As AWS writes it: `2026-11-27T12:34:56.789Z`.
fn now() -> String {
    let at = arrow::temporal_conversions::timestamp_us_to_datetime(SystemClock.now_us());
    at.map(|at| at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report<'a>(error: Option<(&'a str, &'a str)>) -> Report<'a> {
        Report {
            request_id: "id",
            duration_ms: 12.345,
            billed_ms: 13,
            memory_mb: 128,
            memory_used_mb: Some(9),
            init_ms: None,
            restore_ms: None,
            error,
            timeout_ms: 3_000,
        }
    }

    const REPORT: &str = "REPORT RequestId: id\tDuration: 12.35 ms\tBilled Duration: 13 ms\tMemory Size: 128 MB\tMax Memory Used: 9 MB\t";

    #[test]
    fn a_failure_that_the_function_did_not_tell_has_its_reason_and_the_request() {
        let end = |error| Format::Text.end(&report(error));
        assert_eq!(end(None), ["END RequestId: id", REPORT]);
        // Its client has written it.
        assert_eq!(end(Some(("ValueError", "no"))).len(), 2);
        for (kind, message, told) in [
            (
                "Runtime.ExitError",
                "RequestId: id Error: Runtime exited with error: signal: killed",
                "RequestId: id Error: Runtime exited with error: signal: killed",
            ),
            (
                "Function.ResponseSizeTooLarge",
                "Response payload size exceeded",
                "RequestId: id Error: Response payload size exceeded",
            ),
            (
                "ServiceException",
                "the server was stopped",
                "RequestId: id Error: the server was stopped",
            ),
            (
                "Runtime.ImportModuleError",
                "Error: Cannot find module './nope'\r\nRequire stack:\n- /var/task/index.js\n\n",
                "RequestId: id Error: Error: Cannot find module './nope' | Require stack: | - /var/task/index.js",
            ),
        ] {
            let lines = end(Some((kind, message)));
            assert_eq!(lines, [told, kind, "END RequestId: id", REPORT]);
        }
        let timed_out = end(Some((TIMED_OUT, "RequestId: id Error: no")));
        assert_eq!(timed_out.len(), 3);
        assert!(
            timed_out[0].ends_with("Z id Task timed out after 3.00 seconds"),
            "{timed_out:?}"
        );
    }

    #[test]
    fn what_was_not_measured_is_not_reported() {
        let not_measured = Report {
            memory_used_mb: None,
            init_ms: Some(1.0),
            restore_ms: Some(2.5),
            ..report(None)
        };
        assert_eq!(
            report_text(&not_measured),
            "REPORT RequestId: id\tDuration: 12.35 ms\tBilled Duration: 13 ms\tMemory Size: 128 MB\tInit Duration: 1.00 ms\tRestore Duration: 2.50 ms\tBilled Restore Duration: 3 ms\t"
        );
    }

    fn events(lines: impl IntoIterator<Item = String>) -> Vec<(String, Value)> {
        let parse = |line: String| {
            let event: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(event["time"].as_str().unwrap().len(), 24, "{line}");
            (
                event["type"].as_str().unwrap().to_owned(),
                event["record"].clone(),
            )
        };
        lines.into_iter().map(parse).collect()
    }

    #[test]
    fn in_json_they_are_awss_events() {
        let json = Format::Json(Level::Debug);
        let start = json.start("id", FunctionVersion::Number(3));
        assert_eq!(
            events(start),
            [(
                "platform.start".to_owned(),
                json!({ "requestId": "id", "version": "3" })
            )]
        );
        let killed = Some(("Runtime.ExitError", "RequestId: id Error: killed"));
        let ended = events(json.end(&report(killed)));
        assert_eq!(ended[0].1, "RequestId: id Error: killed\nRuntime.ExitError");
        assert_eq!(
            ended[2],
            (
                "platform.report".to_owned(),
                json!({
                    "requestId": "id",
                    "status": "failure",
                    "errorType": "Runtime.ExitError",
                    "metrics": {
                        "durationMs": 12.35,
                        "billedDurationMs": 13,
                        "memorySizeMB": 128,
                        "maxMemoryUsedMB": 9,
                    },
                })
            )
        );
    }

    #[test]
    fn the_level_says_which_events_are_written() {
        let kinds = |level, error| -> Vec<String> {
            let format = Format::Json(level);
            let start = format.start("id", FunctionVersion::Latest);
            let lines = start.into_iter().chain(format.end(&report(error)));
            let kinds = events(lines).into_iter();
            kinds
                .map(|(kind, _)| kind.trim_start_matches("platform.").to_owned())
                .collect()
        };
        let failed = Some((TIMED_OUT, "no"));
        for (level, error, expected) in [
            (Level::Debug, None, vec!["start", "runtimeDone", "report"]),
            (Level::Info, None, vec!["start", "report"]),
            (Level::Warn, None, vec![]),
            (Level::Warn, failed, vec!["fault", "runtimeDone", "report"]),
            (
                Level::Warn,
                Some(("ValueError", "no")),
                vec!["runtimeDone", "report"],
            ),
        ] {
            assert_eq!(kinds(level, error), expected, "{level:?} {error:?}");
        }
    }

    #[test]
    fn a_start_and_a_restore_are_reported_as_aws_does() {
        let text = Format::Text;
        for (told, expected) in [
            (
                text.init_report("init", 10_000.04, None),
                "INIT_REPORT Init Duration: 10000.04 ms\tPhase: init\tStatus: timeout",
            ),
            (
                text.init_report("invoke", 10_000.04, Some("Runtime.ExitError")),
                "INIT_REPORT Init Duration: 10000.04 ms\tPhase: invoke\tStatus: error\tError Type: Runtime.ExitError",
            ),
            (
                text.init_report("init", 1.0, Some("Mine\nEND RequestId: other")),
                "INIT_REPORT Init Duration: 1.00 ms\tPhase: init\tStatus: error\tError Type: Mine?END RequestId: other",
            ),
            (
                text.restore_report(614.44, None),
                "RESTORE_REPORT Restore Duration: 614.44 ms",
            ),
            (
                text.restore_report(614.44, Some("E")),
                "RESTORE_REPORT Restore Duration: 614.44 ms\tStatus: error\tError Type: E",
            ),
        ] {
            assert_eq!(told.as_deref(), Some(expected));
        }
        let json = Format::Json(Level::Warn);
        assert_eq!(json.restore_report(614.44, None), None);
        let events = events(json.init_report("init", 10_000.04, None));
        assert_eq!(events[0].1["status"], "timeout");
    }
}
