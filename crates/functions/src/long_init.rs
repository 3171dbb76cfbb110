//! Starts that take longer than they may: as in AWS, the function is started once more, as a part of the invocation.
//!
//! A start has ten seconds of its own ([`crate::Options::init_timeout`]), beside the function's timeout. If it is not done
//! by then it is ended, and another one begins that counts under the timeout, like the function itself; what that leaves
//! is for the event. Whatever else goes wrong with a start is not mended by another one, and is told at once.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lambic_model::Outcome;
use lambic_sandbox::{
    LogLine, LogSource, failure,
    process::{FailedStart, Spec},
};

use crate::{
    Error, Inner,
    entry::{Call, Entry},
    platform::Format,
    pool::Tenant,
    records::error_message,
    said::Said,
};

const TIMED_OUT: &str = "Sandbox.Timedout";

/// How an invocation came to its environment.
pub struct Started {
    /// The error is the function's own. It names the request, and what the start said has the line about it.
    pub found: Result<Tenant, FailedStart>,
    /// A start that the invocation waited for, beside its own time.
    pub init: Option<Duration>,
    /// What a second start took of the function's timeout.
    pub spent: Duration,
}

impl Inner {
    /// An environment for one invocation, by a second start if the first one takes too long. What the one that was given
    /// up has said is told, whatever becomes of the second one.
    pub(crate) async fn started(
        &self,
        entry: &Entry,
        spec: &Arc<Spec>,
        call: Call<'_>,
        said: &mut Said<'_>,
    ) -> Result<Started, Error> {
        let format = said.format();
        let first = match self.environment(entry, spec, call).await? {
            Ok((tenant, init)) => {
                return Ok(Started {
                    found: Ok(tenant),
                    init,
                    spent: Duration::ZERO,
                });
            }
            Err(failed) => failed,
        };
        if !is_timeout(&first, spec.init_timeout) {
            return Ok(Started {
                init: Some(first.init),
                found: Err(reported(first, format, "init", call.request_id)),
                spent: Duration::ZERO,
            });
        }
        said.add(first.lines);
        said.notes(report(format, "init", first.init, &first.outcome));
        let timeout = entry.timeout();
        let longer = Arc::new(Spec {
            init_timeout: timeout,
            ..Spec::clone(spec)
        });
        // Room for the second one is another thing to wait for.
        let again = Call {
            arrived: Instant::now(),
            ..call
        };
        let (found, spent) = match self.environment(entry, &longer, again).await? {
            // None: another one became free meanwhile.
            Ok((tenant, init)) => (Ok(tenant), init.unwrap_or_default()),
            Err(failed) => {
                let is_timeout = is_timeout(&failed, timeout);
                let mut failed = reported(failed, format, "invoke", call.request_id);
                if is_timeout {
                    failed.outcome = timed_out(call.request_id, timeout);
                }
                let spent = failed.init;
                (Err(failed), spent)
            }
        };
        Ok(Started {
            found,
            init: Some(first.init),
            spent,
        })
    }
}

/// A start that failed, with the line about it behind what it said, and the request that waited for it.
fn reported(mut failed: FailedStart, format: Format, phase: &str, request_id: &str) -> FailedStart {
    let line = report(format, phase, failed.init, &failed.outcome);
    let line = line.map(|line| LogLine::now(LogSource::Platform, line));
    failed.lines.extend(line);
    failed.outcome = of_request(failed.outcome, request_id);
    failed
}

/// A start does not know for whom it is made: what the house tells of it names the request here, as AWS does.
fn of_request(outcome: Outcome, request_id: &str) -> Outcome {
    let Outcome::Failure {
        error_type,
        payload,
    } = outcome
    else {
        return outcome;
    };
    let told = error_message(&payload);
    match told.strip_prefix("RequestId: init Error: ") {
        Some(reason) => failure(
            &error_type,
            &format!("RequestId: {request_id} Error: {reason}"),
        ),
        None => Outcome::Failure {
            error_type,
            payload,
        },
    }
}

/// A function may say of itself that it timed out: then it did not take the time.
fn is_timeout(failed: &FailedStart, limit: Duration) -> bool {
    failed.init >= limit
        && matches!(&failed.outcome, Outcome::Failure { error_type, .. } if error_type == TIMED_OUT)
}

/// Of an event, by the time that the whole function has.
pub fn timed_out(request_id: &str, timeout: Duration) -> Outcome {
    let seconds = timeout.as_secs_f64();
    failure(
        TIMED_OUT,
        &format!("RequestId: {request_id} Error: Task timed out after {seconds:.2} seconds"),
    )
}

/// What an event's own time has become by `spent`: the outcome tells of the whole.
pub fn of_whole_timeout(outcome: Outcome, request_id: &str, timeout: Duration) -> Outcome {
    match outcome {
        Outcome::Failure { error_type, .. } if error_type == TIMED_OUT => {
            timed_out(request_id, timeout)
        }
        outcome => outcome,
    }
}

/// AWS's line about a start that did not succeed.
fn report(format: Format, phase: &str, init: Duration, outcome: &Outcome) -> Option<String> {
    let error_type = match outcome {
        Outcome::Failure { error_type, .. } if error_type != TIMED_OUT => Some(error_type.as_str()),
        _ => None,
    };
    format.init_report(phase, init.as_secs_f64() * 1e3, error_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error_type: &str, init_ms: u64) -> FailedStart {
        FailedStart {
            outcome: failure(error_type, "no"),
            lines: Vec::new(),
            init: Duration::from_millis(init_ms),
            memory_peak_bytes: 0,
        }
    }

    #[test]
    fn a_start_that_failed_names_the_request_and_is_reported() {
        for (message, told) in [
            (
                "RequestId: init Error: exit status 7",
                "RequestId: id Error: exit status 7",
            ),
            // The function's own words.
            ("no", "no"),
        ] {
            let mut start = failed("Runtime.ExitError", 5);
            start.outcome = failure("Runtime.ExitError", message);
            let start = reported(start, Format::Text, "init", "id");
            let expected = failure("Runtime.ExitError", told);
            assert_eq!(format!("{:?}", start.outcome), format!("{expected:?}"));
            let lines: Vec<&str> = start.lines.iter().map(|line| &*line.line).collect();
            assert_eq!(
                lines,
                [
                    "INIT_REPORT Init Duration: 5.00 ms\tPhase: init\tStatus: error\tError Type: Runtime.ExitError"
                ]
            );
        }
    }

    #[test]
    fn only_the_time_makes_a_second_start() {
        let limit = Duration::from_millis(100);
        for (error_type, init_ms, is) in [
            (TIMED_OUT, 100, true),
            (TIMED_OUT, 101, true),
            // The function's own word.
            (TIMED_OUT, 99, false),
            ("Runtime.ExitError", 200, false),
        ] {
            let found = is_timeout(&failed(error_type, init_ms), limit);
            assert_eq!(found, is, "{error_type} {init_ms}");
        }
    }

    #[test]
    fn a_start_that_timed_out_has_no_error() {
        let report = |error_type| {
            let outcome = failure(error_type, "");
            report(Format::Text, "init", Duration::from_secs(10), &outcome)
        };
        for (error_type, status) in [
            (TIMED_OUT, "timeout"),
            ("Runtime.ExitError", "error\tError Type: Runtime.ExitError"),
        ] {
            let expected =
                format!("INIT_REPORT Init Duration: 10000.00 ms\tPhase: init\tStatus: {status}");
            assert_eq!(report(error_type), Some(expected));
        }
    }

    #[test]
    fn a_timeout_tells_of_the_whole_time() {
        let told = |outcome| match of_whole_timeout(outcome, "id", Duration::from_secs(3)) {
            Outcome::Failure { payload, .. } => String::from_utf8(payload).unwrap(),
            Outcome::Success(_) => String::new(),
        };
        let short = timed_out("id", Duration::from_millis(500));
        assert!(told(short).contains("RequestId: id Error: Task timed out after 3.00 seconds"));
        assert!(told(failure("E", "own")).contains("own"));
    }
}
