//! Appends that functions repeat until they are known to be kept or refused.

use std::time::Duration;

use lambic_base::retry::Backoff;
use lambic_log::Log;
use lambic_model::{Append, AppendError};
use tracing::warn;

/// Why an append is not in the log.
#[derive(Debug)]
pub enum NotKept {
    /// The same append would be refused again.
    Refused(lambic_log::Error),
    /// Its sequence is older than what the log remembers of its producer: whether it was kept by an attempt before is
    /// not known. There is nothing wrong with what it holds.
    Forgotten(lambic_log::Error),
    /// It failed, and nobody tries it again.
    GivenUp(lambic_log::Error),
}

/// Repeats an append that has a producer until it is kept, refused or forgotten, or failed `attempts_max` times, or failed
/// after `stopped`.
///
/// A stop never cancels an attempt: one that was cancelled may be kept all the same, and whoever reads its cursor
/// before that would do its work again.
pub async fn append_patiently(
    log: &Log,
    append: &Append,
    attempts_max: usize,
    stopped: impl Future<Output = ()>,
) -> Result<(), NotKept> {
    let wait_max = Duration::from_secs(2);
    let mut waits = Backoff::new(Duration::from_millis(20), wait_max, 1);
    let mut attempts = 0;
    tokio::pin!(stopped);
    loop {
        let error = match log.append(append.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        match AppendError::from(error.clone()) {
            AppendError::Refused(_) => return Err(NotKept::Refused(error)),
            AppendError::SequenceForgotten(_) => return Err(NotKept::Forgotten(error)),
            AppendError::Busy(_) | AppendError::Unavailable(_) => {}
        }
        attempts += 1;
        if attempts >= attempts_max {
            return Err(NotKept::GivenUp(error));
        }
        warn!(%error, "an append of functions is repeated");
        tokio::select! {
            biased;
            () = &mut stopped => return Err(NotKept::GivenUp(error)),
            () = tokio::time::sleep(waits.next().unwrap_or(wait_max)) => {}
        }
    }
}
