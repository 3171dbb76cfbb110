//! The threads that compute batches: so many and no more, and each behind everything that serves a client.

use std::sync::Arc;

use lambic_query::{Error, STACK_BYTES};
use rustix::process;
use tokio::{runtime::Runtime, task::JoinHandle};
use tracing::warn;

const PRIORITY_LOWEST: i32 = 19;

/// Clones share the threads.
#[derive(Clone)]
pub struct BatchThreads(Arc<Threads>);

struct Threads(Option<Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        // Waiting for threads is not allowed where this may be dropped.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Ends the work when nobody waits for it any more.
struct Aborting<T>(JoinHandle<T>);

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl BatchThreads {
    /// `nice`: by how much other threads go before them, 0 to 19. On Linux that is also how the disk's turns are given
    /// where its scheduler gives any.
    pub fn new(threads: usize, nice: u8) -> std::io::Result<BatchThreads> {
        // Of these threads, absolute: those that they start inherit it, and would add to it.
        let priority = process::getpriority_process(None).unwrap_or(0) + i32::from(nice);
        let priority = priority.min(PRIORITY_LOWEST);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("batch")
            .thread_stack_size(STACK_BYTES)
            .on_thread_start(move || {
                if nice > 0
                    && let Err(error) = process::setpriority_process(None, priority)
                {
                    warn!(%error, "batches run with the priority of everything else");
                }
            })
            .enable_all()
            .build()?;
        Ok(BatchThreads(Arc::new(Threads(Some(runtime)))))
    }

    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Error> {
        let runtime = self.0.0.as_ref();
        let task = runtime
            .expect("it is there until it is dropped")
            .spawn(work);
        let mut task = Aborting(task);
        (&mut task.0).await.map_err(|error| match error.is_panic() {
            true => std::panic::resume_unwind(error.into_panic()),
            false => Error::internal("the server stops"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The nice value of this thread, as the kernel says it.
    fn niceness() -> i64 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let after_name = stat.rsplit_once(')').unwrap().1;
        after_name
            .split_whitespace()
            .nth(16)
            .unwrap()
            .parse()
            .unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn batches_run_on_threads_of_their_own_behind_all_others() {
        let here = niceness();
        let threads = BatchThreads::new(2, 5).unwrap();
        let mut seen = HashSet::new();
        for _ in 0..50 {
            let work = async {
                let spawned = tokio::spawn(async { (niceness(), std::thread::current().id()) });
                let blocking = tokio::task::spawn_blocking(niceness);
                (spawned.await.unwrap(), blocking.await.unwrap())
            };
            let ((nice, id), blocking) = threads.run(work).await.unwrap();
            assert_eq!((nice, blocking), (19.min(here + 5), 19.min(here + 5)));
            seen.insert(id);
        }
        assert!(seen.len() <= 2, "{seen:?}");
        assert_eq!(niceness(), here);
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_ends() {
        let threads = BatchThreads::new(1, 0).unwrap();
        let (held, gone) = tokio::sync::oneshot::channel::<()>();
        let mut waiting = Box::pin(threads.run(async move {
            let _held = held;
            std::future::pending::<()>().await;
        }));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(waiting);
        assert!(gone.await.is_err());
    }
}
