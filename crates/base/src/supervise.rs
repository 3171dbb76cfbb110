//! Tasks that go on as long as the process does.

use std::{future::Future, time::Duration};

/// Before what panicked begins anew.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs what `make` makes until it ends by itself; after a panic, anew. `what` names it in the log.
pub async fn supervised<T>(what: &'static str, make: impl Fn() -> T)
where
    T: Future<Output = ()> + Send + 'static,
{
    while let Err(error) = tokio::spawn(make()).await {
        if error.is_cancelled() {
            return;
        }
        tracing::error!(%error, "{what} ended badly and begins anew");
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn a_panic_is_not_the_end() {
        let begun = Arc::new(AtomicUsize::new(0));
        supervised("the test", || {
            let begun = Arc::clone(&begun);
            async move {
                assert!(
                    begun.fetch_add(1, Ordering::SeqCst) > 0,
                    "only the second ends well"
                );
            }
        })
        .await;
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }
}
