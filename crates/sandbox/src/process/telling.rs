//! What an environment tells the extensions that have subscribed to its telemetry, and when.

use std::time::Duration;

use lambic_model::Outcome;

use super::{
    Restored, Spec,
    environment::Environment,
    telemetry::{Event, Report, Status, Telemetry, Type},
};
use crate::lines::{LogLine, LogSource, Written};

/// How long the environment waits for its telemetry before it stands still or ends.
const TIME_MAX: Duration = Duration::from_millis(500);

impl Environment {
    pub(super) fn tell_init_start(&self, spec: &Spec) {
        self.telemetry
            .tell(|| Event::init_start(&spec.function, &spec.qualifier));
    }

    pub(super) async fn tell_init_report(&self) {
        let init_ms = self.init.as_secs_f64() * 1e3;
        self.telemetry
            .tell(|| Event::init_report(&Status::Success, init_ms));
        self.telemetry.flush(TIME_MAX).await;
    }

    pub(super) async fn tell_init_failed(&self, outcome: &Outcome) {
        self.telemetry
            .tell(|| Event::init_runtime_done(&status_of(outcome)));
        self.telemetry.flush(TIME_MAX).await;
    }

    pub(super) fn tell_restore_start(&self) {
        let spec = &self.spec;
        self.telemetry
            .tell(|| Event::restore_start(&spec.function, &spec.qualifier));
    }

    pub(super) fn tell_restored(&self, restored: &Restored) {
        let status = match &restored.outcome {
            Ok(()) => Status::Success,
            Err(outcome) => status_of(outcome),
        };
        let ms = restored.duration.as_secs_f64() * 1e3;
        self.telemetry.tell(|| Event::restore_runtime_done(&status));
        self.telemetry.tell(|| Event::restore_report(&status, ms));
    }

    /// The environment is about to end.
    pub(super) async fn flush_telemetry(&self) {
        self.telemetry.flush(TIME_MAX).await;
    }

    /// Tells that the runtime has answered, behind all that it said before.
    pub(super) fn tell_done(
        &self,
        request_id: &str,
        trace_id: &str,
        outcome: &Outcome,
        duration: Duration,
    ) -> Option<Status> {
        if !self.telemetry.has_subscribers() {
            return None;
        }
        self.finish_lines();
        let status = status_of(outcome);
        if let Status::Failure(kind) = &status {
            self.telemetry
                .tell(|| Event::fault(&format!("RequestId: {request_id} Error: {kind}")));
        }
        let ms = duration.as_secs_f64() * 1e3;
        let bytes = match outcome {
            Outcome::Success(payload) => payload.len(),
            Outcome::Failure { .. } => 0,
        };
        self.telemetry
            .tell(|| Event::runtime_done(request_id, &status, trace_id, ms, bytes));
        self.telemetry.hurry();
        Some(status)
    }

    /// Tells what the invocation took, before everything stands still or ends.
    pub(super) async fn tell_report(
        &mut self,
        request_id: &str,
        trace_id: &str,
        status: Option<Status>,
        duration: Duration,
        memory_peak_bytes: u64,
    ) {
        let init = (!std::mem::replace(&mut self.is_init_told, true)).then_some(self.init);
        let Some(status) = status else { return };
        self.finish_lines();
        let report = Report {
            duration_ms: duration.as_secs_f64() * 1e3,
            init_ms: init.map(|init| init.as_secs_f64() * 1e3),
            memory_mb: self.spec.memory_mb,
            memory_used_mb: memory_peak_bytes.div_ceil(1 << 20),
        };
        self.telemetry.tell(|| Event::end(request_id));
        self.telemetry
            .tell(|| Event::report(request_id, &status, trace_id, report));
        self.telemetry.flush(TIME_MAX).await;
    }

    /// What it writes, also while an invocation runs.
    pub fn written(&self) -> Written {
        Written::of(self.lines.clone())
    }

    /// All that was written so far is told, also a line that has no end.
    fn finish_lines(&self) {
        for capture in &self.captures {
            capture.drain();
        }
        let mut lines = self.lines.lock().expect("no panic while lines are held");
        lines.finish();
    }
}

/// A line as it comes.
pub fn tell_line(telemetry: &Telemetry, line: &LogLine) {
    let of = match line.source {
        LogSource::Extension => Type::Extension,
        LogSource::Stdout | LogSource::Stderr => Type::Function,
        LogSource::Platform => return,
    };
    telemetry.tell(|| Event::line(of, line.at_us, &line.line));
}

/// As telemetry has it: an error is the function's own.
fn status_of(outcome: &Outcome) -> Status {
    let Outcome::Failure { error_type, .. } = outcome else {
        return Status::Success;
    };
    let is_ours = |prefix: &&str| error_type.starts_with(*prefix);
    if error_type == "Sandbox.Timedout" {
        Status::Timeout
    } else if ["Runtime.", "Sandbox.", "Extension."].iter().any(is_ours) {
        Status::Failure(error_type.clone())
    } else {
        Status::Error(error_type.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure;

    #[test]
    fn what_failed_is_told_apart() {
        for (error_type, expected) in [
            ("Sandbox.Timedout", Status::Timeout),
            (
                "Runtime.ExitError",
                Status::Failure("Runtime.ExitError".to_owned()),
            ),
            ("ValueError", Status::Error("ValueError".to_owned())),
        ] {
            assert_eq!(status_of(&failure(error_type, "")), expected);
        }
        assert_eq!(status_of(&Outcome::Success(Vec::new())), Status::Success);
    }
}
