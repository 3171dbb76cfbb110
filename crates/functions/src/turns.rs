//! How many invocations of one function run at one time: its turns, shared by all its versions.

use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::check::CONCURRENCY_MAX;

pub struct Turns {
    semaphore: Arc<Semaphore>,
    limit: Mutex<usize>,
}

/// One invocation's right to run.
pub type Permit = OwnedSemaphorePermit;

impl Turns {
    pub fn new(limit: usize) -> Turns {
        let limit = limit.min(CONCURRENCY_MAX);
        Turns {
            semaphore: Arc::new(Semaphore::new(limit)),
            limit: Mutex::new(limit),
        }
    }

    pub fn limit(&self) -> usize {
        *self.limit.lock().expect("held shortly")
    }

    /// What runs already goes on; from then on no more than `limit` run.
    pub fn set_limit(&self, limit: usize) {
        let limit = limit.min(CONCURRENCY_MAX);
        let mut former = self.limit.lock().expect("held shortly");
        if limit > *former {
            self.semaphore.add_permits(limit - *former);
        }
        let surplus = former.saturating_sub(limit);
        *former = limit;
        let taken = self.semaphore.forget_permits(surplus);
        if let Some(running) = u32::try_from(surplus - taken).ok().filter(|&left| left > 0) {
            // Taken back as invocations end.
            let semaphore = self.semaphore.clone();
            tokio::spawn(async move {
                for _ in 0..running {
                    if let Ok(permit) = semaphore.acquire().await {
                        permit.forget();
                    }
                }
            });
        }
    }

    pub fn is_free(&self) -> bool {
        self.semaphore.available_permits() > 0
    }

    /// `None` only if nothing is to run any more.
    pub async fn next(&self) -> Option<Permit> {
        self.semaphore.clone().acquire_owned().await.ok()
    }

    pub fn now(&self) -> Option<Permit> {
        self.semaphore.clone().try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_limit_goes_up_and_down_while_invocations_run() {
        let turns = Turns::new(3);
        let mut running: Vec<Permit> = std::iter::from_fn(|| turns.now()).collect();
        assert_eq!(running.len(), 3);
        turns.set_limit(1);
        for _ in 0..2 {
            running.pop();
            tokio::task::yield_now().await;
            assert!(turns.now().is_none(), "{} run", running.len());
        }
        running.pop();
        tokio::task::yield_now().await;
        let one = turns.now();
        assert!(one.is_some() && turns.now().is_none());
        turns.set_limit(2);
        assert!(turns.now().is_some());
        assert_eq!(turns.limit(), 2);
    }
}
