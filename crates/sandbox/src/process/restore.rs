//! Between a start that nobody waited for and the first event: what AWS calls restoring a snapshot.
//!
//! Nothing is copied here. An environment stands still since its own start, and a program that was started with `snap-start`
//! may do something before its first event, which it asks for by `GET /restore/next`.

use std::time::{Duration, Instant};

use lambic_model::Outcome;

use super::{
    endpoint::Said,
    environment::{Environment, Word},
};
use crate::failure;

/// How it went.
#[derive(Debug)]
pub struct Restored {
    /// Nothing if the program did not want to know.
    pub duration: Duration,
    /// The error is the function's own: the environment has ended.
    pub outcome: Result<(), Outcome>,
    /// The most that it held until then; 0 where nothing failed, since that is told with the event.
    pub memory_peak_bytes: u64,
}

impl Environment {
    /// Lets a program do what it wants to do before its first event, which must follow.
    pub async fn restore(&mut self, request_id: &str, limit: Duration) -> Restored {
        self.tell_restore_start();
        let start = Instant::now();
        let mut restored = Restored {
            duration: Duration::ZERO,
            outcome: Ok(()),
            memory_peak_bytes: 0,
        };
        if self.endpoint.restore() {
            self.go_on();
            let word = self.next_word(request_id, limit).await;
            restored.duration = start.elapsed();
            restored.outcome = outcome_of(word, restored.duration >= limit);
        }
        self.tell_restored(&restored);
        if restored.outcome.is_err() {
            restored.memory_peak_bytes = self.memory_peak(true);
            self.flush_telemetry().await;
            self.kill().await;
        }
        restored
    }
}

fn outcome_of(word: Word, is_over_limit: bool) -> Result<(), Outcome> {
    Err(match word {
        Word::Said(Said::Restored) => return Ok(()),
        Word::Said(Said::RestoreError(error)) => error.outcome("Runtime.AfterRestoreError"),
        Word::Said(Said::ExtensionError(error)) => error.outcome("Extension.ExitError"),
        Word::Said(_) => failure("Runtime.Unknown", "the runtime broke the protocol"),
        Word::Failed(Outcome::Failure { error_type, .. })
            if is_over_limit && error_type == "Sandbox.Timedout" =>
        {
            too_slow()
        }
        Word::Failed(outcome) => outcome,
    })
}

/// AWS's name of it.
fn too_slow() -> Outcome {
    failure(
        "SnapStartTimeoutException",
        "what the runtime does after a restore took too long",
    )
}
