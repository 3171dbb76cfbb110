//! Work on the spot while it is short, and where that holds nobody up while it is not.

use tokio::task::JoinError;

/// Megabytes of JSON or base64 take milliseconds, which are long for whoever else waits on a thread of a runtime.
const BYTES_MAX: usize = 256 << 10;

/// Does what reads or writes so many bytes. The error is a panic of the work on another thread, or the runtime's end.
pub async fn work_on<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    match bytes <= BYTES_MAX {
        true => Ok(work()),
        false => tokio::task::spawn_blocking(work).await,
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{ThreadId, current};

    use super::*;

    #[tokio::test]
    async fn what_is_long_is_done_elsewhere() {
        let place = || -> ThreadId { current().id() };
        assert_eq!(work_on(BYTES_MAX, place).await.unwrap(), current().id());
        assert_ne!(work_on(BYTES_MAX + 1, place).await.unwrap(), current().id());
        assert!(
            work_on(BYTES_MAX + 1, || panic!("a panic for a test"))
                .await
                .is_err()
        );
    }
}
