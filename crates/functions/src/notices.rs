//! Reasons that belong into a function's log although nothing of it ran: changes of it that were refused, and events that
//! it did not get.
//!
//! Whoever repeats a refused request must not fill the log's stream: each function has so many of these lines a minute,
//! and all together have so many; the next line says how many were left out. Invocations are rows of
//! `lambic_invocations` all the same, one for each that was asked for.

use std::{collections::BTreeMap, sync::Mutex};

use lambic_model::FunctionName;
use lambic_sandbox::{LogLine, LogSource};

use crate::{
    Error, FunctionInfo, Functions, Inner,
    entry::{Call, kind_name},
    records::{InvocationRow, shortened},
    traces::trace_root,
};

/// Lines a minute, of one function and of all.
const LINES_EACH_MAX: usize = 10;
const LINES_MAX: usize = 100;
const MINUTE_US: i64 = 60_000_000;
/// Functions of which it is known how much was left out.
const FUNCTIONS_MAX: usize = 1_000;
const REASON_BYTES_MAX: usize = 4 << 10;

/// AWS's name for what is not the function's fault.
pub const SERVICE_ERROR: &str = "ServiceException";

#[derive(Default)]
pub struct Notices(Mutex<Rate>);

/// How much was written in this minute.
#[derive(Debug, Default)]
struct Rate {
    since_us: i64,
    lines: usize,
    of: BTreeMap<String, Written>,
}

#[derive(Debug, Default)]
struct Written {
    lines: usize,
    left_out: u64,
}

impl Rate {
    /// Whether one more line may be written now: then, how many of the function were left out before it.
    fn take(&mut self, function: &str, now_us: i64) -> Option<u64> {
        // Also when the clock was set back.
        let minute = self.since_us..self.since_us.saturating_add(MINUTE_US);
        if !minute.contains(&now_us) {
            self.since_us = now_us;
            self.lines = 0;
            self.of.retain(|_, written| written.left_out > 0);
            if self.of.len() >= FUNCTIONS_MAX {
                self.of.clear();
            }
            for written in self.of.values_mut() {
                written.lines = 0;
            }
        }
        let is_over = self.lines >= LINES_MAX;
        if let Some(written) = self.of.get_mut(function)
            && (is_over || written.lines >= LINES_EACH_MAX)
        {
            written.left_out += 1;
            return None;
        }
        if is_over {
            return None;
        }
        self.lines += 1;
        let written = self.of.entry(function.to_owned()).or_default();
        written.lines += 1;
        Some(std::mem::take(&mut written.left_out))
    }
}

impl Functions {
    /// Tells in the function's log why a change of it was refused that did not come as far as here.
    pub async fn note_refusal(&self, name: &FunctionName, reason: &str) {
        self.0.note(name.as_str(), reason).await;
    }
}

impl Inner {
    /// Does what may be refused, and tells in the function's log why it was.
    pub(crate) async fn noting<T>(
        &self,
        name: &FunctionName,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let done = work.await;
        let refused = done.as_ref().err();
        let refused = refused.filter(|error| is_of_deployment(error));
        if let Some(reason) = refused.map(Error::to_string) {
            self.note(name.as_str(), &reason).await;
        }
        done
    }

    async fn note(&self, function: &str, reason: &str) {
        if let Some(line) = self.notice(function, reason) {
            self.recorder.note(function, line).await;
        }
    }

    /// An event that its function did not get, for a reason that is not the function's.
    pub(crate) async fn note_not_run(
        &self,
        info: &FunctionInfo,
        call: Call<'_>,
        at_us: i64,
        reason: String,
    ) {
        let function = info.name.as_str();
        let told = format!("RequestId: {} Error: {reason}", call.request_id);
        let lines = self.notice(function, &told).into_iter().collect();
        let row = InvocationRow {
            at_us,
            request_id: call.request_id.to_owned(),
            function: function.to_owned(),
            digest: info.digest.clone(),
            kind: kind_name(call.kind),
            error: Some((
                SERVICE_ERROR.to_owned(),
                shortened(reason, REASON_BYTES_MAX),
            )),
            duration_ms: 0.0,
            billed_ms: 0,
            init_ms: None,
            memory_mb: 0,
            cold: false,
            attempt: i32::try_from(call.attempt).unwrap_or(i32::MAX),
            overhead_ms: call.arrived.elapsed().as_secs_f64() * 1e3,
            trace_id: trace_root(call.trace_id.unwrap_or_default()).to_owned(),
        };
        self.recorder.record(row, lines).await;
    }

    /// The line to write, if there may be one more.
    fn notice(&self, function: &str, reason: &str) -> Option<LogLine> {
        let now_us = self.options.clock.now_us();
        let mut rate = self.notices.0.lock().expect("no panic while it is held");
        let left_out = rate.take(function, now_us)?;
        drop(rate);
        let mut line = shortened(reason.to_owned(), REASON_BYTES_MAX);
        if left_out > 0 {
            line.push_str(&format!(
                " ({left_out} more were left out: at most {LINES_EACH_MAX} of these lines are written in a minute)"
            ));
        }
        Some(LogLine {
            at_us: now_us,
            source: LogSource::Platform,
            line,
        })
    }
}

/// False of what says nothing of the code or the settings that were brought.
fn is_of_deployment(error: &Error) -> bool {
    !matches!(
        error,
        Error::NotFound { .. }
            | Error::Missing { .. }
            | Error::Conflict { .. }
            | Error::WrongRevision
            | Error::Closed
    )
}

/// Why an event was not run, unless its caller has only come at the wrong time: as in AWS, who is throttled is not in the
/// function's log.
pub fn reason_not_run(error: &Error) -> Option<String> {
    let is_passing = matches!(
        error,
        Error::Throttled { .. } | Error::Full { .. } | Error::Closed
    );
    (!is_passing).then(|| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_has_so_many_lines_a_minute() {
        let mut rate = Rate::default();
        let start = 1_700_000_000_000_000;
        for _ in 0..LINES_EACH_MAX {
            assert_eq!(rate.take("f", start), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(rate.take("f", start + MINUTE_US - 1), None);
        }
        assert_eq!(rate.take("g", start), Some(0), "others have their own");
        assert_eq!(rate.take("f", start + MINUTE_US), Some(7));
        assert_eq!(rate.take("f", start + MINUTE_US), Some(0));
        // A clock that is set back does not silence it.
        assert_eq!(rate.take("f", 5), Some(0));
    }

    #[test]
    fn all_together_have_a_bound_in_lines_and_in_memory() {
        let mut rate = Rate::default();
        for minute in 1..100 {
            let now_us = minute * MINUTE_US;
            let written = (0..1_000)
                .filter(|n| rate.take(&format!("f{minute}-{n}"), now_us).is_some())
                .count();
            assert_eq!(written, LINES_MAX);
            // Each of them once more, so that all of them have something to tell.
            for n in 0..1_000 {
                assert_eq!(rate.take(&format!("f{minute}-{n}"), now_us), None);
            }
            assert!(rate.of.len() <= FUNCTIONS_MAX + LINES_MAX);
        }
    }
}
