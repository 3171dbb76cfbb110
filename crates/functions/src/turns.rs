//! How many invocations of one function run at one time: its turns, shared by all its versions.
//!
//! A function that reserves concurrency has that many, and nobody else has them. The others share what is left of the
//! account's ([`Fair`], a line for each function), and each of them may have all of it.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    burst::Burst,
    check::CONCURRENCY_MAX,
    fair::{Fair, Share},
};

/// What an account leaves to functions that reserve nothing, whatever others reserve: AWS's.
const UNRESERVED_MIN: usize = 100;

pub struct Turns {
    function: String,
    own: Arc<Fair>,
    /// Of all functions that reserve nothing.
    shared: Arc<Fair>,
    /// `None`: it reserves nothing.
    reserved: watch::Sender<Option<usize>>,
    burst: Mutex<Burst>,
}

/// One invocation's right to run.
pub struct Permit {
    _own: Share,
    _shared: Option<Share>,
}

/// What is left of an account's concurrency.
pub fn unreserved(account: usize, reserved: usize) -> usize {
    let least = UNRESERVED_MIN.min(account);
    account.saturating_sub(reserved).max(least)
}

fn own_limit(reserved: Option<usize>) -> u64 {
    reserved.map_or(CONCURRENCY_MAX, |limit| limit.min(CONCURRENCY_MAX)) as u64
}

impl Turns {
    pub fn new(function: &str, reserved: Option<usize>, shared: Arc<Fair>, burst: Burst) -> Turns {
        Turns {
            function: function.to_owned(),
            own: Fair::new(own_limit(reserved)),
            shared,
            reserved: watch::Sender::new(reserved),
            burst: Mutex::new(burst),
        }
    }

    pub fn reserved(&self) -> Option<usize> {
        *self.reserved.borrow()
    }

    /// How many may run, at most.
    pub fn limit(&self) -> usize {
        match self.reserved() {
            Some(reserved) => reserved,
            None => self.shared.limit() as usize,
        }
    }

    /// What runs already goes on; from then on no more than this run.
    pub fn set_reserved(&self, reserved: Option<usize>) {
        self.own.set_limit(own_limit(reserved));
        self.reserved.send_if_modified(|former| {
            let has_changed = *former != reserved;
            *former = reserved;
            has_changed
        });
    }

    pub fn is_free(&self) -> bool {
        self.own.is_free(1) && (self.reserved().is_some() || self.shared.is_free(1))
    }

    /// Waits in the order of arrival.
    pub async fn next(&self) -> Permit {
        let mut reserved = self.reserved.subscribe();
        let own = self.own.next(&self.function, 1).await;
        loop {
            if reserved.borrow_and_update().is_some() {
                return Permit {
                    _own: own,
                    _shared: None,
                };
            }
            tokio::select! {
                shared = self.shared.next(&self.function, 1) => return Permit {
                    _own: own,
                    _shared: Some(shared),
                },
                _ = reserved.changed() => {}
            }
        }
    }

    pub fn now(&self) -> Option<Permit> {
        let own = self.own.now(&self.function, 1)?;
        let shared = match self.reserved() {
            Some(_) => None,
            None => Some(self.shared.now(&self.function, 1)?),
        };
        Some(Permit {
            _own: own,
            _shared: shared,
        })
    }

    /// Ends when nothing of the function may run.
    pub async fn stopped(&self) {
        let mut reserved = self.reserved.subscribe();
        // The sender lives as long as `self`.
        let _ = reserved.wait_for(|reserved| *reserved == Some(0)).await;
    }

    /// One more environment may start, or how long that takes.
    pub fn start(&self) -> Result<(), Duration> {
        let mut burst = self.burst.lock().expect("no panic while it is held");
        burst.take(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn turns(reserved: Option<usize>, shared: u64) -> Turns {
        named("f", reserved, Fair::new(shared))
    }

    fn named(function: &str, reserved: Option<usize>, shared: Arc<Fair>) -> Turns {
        let burst = Burst::new(1, Duration::ZERO, Instant::now());
        Turns::new(function, reserved, shared, burst)
    }

    /// Whether it is ready by now.
    async fn is_ready<T>(future: impl Future<Output = T>) -> bool {
        tokio::time::timeout(Duration::ZERO, future).await.is_ok()
    }

    #[tokio::test]
    async fn a_limit_goes_up_and_down_while_invocations_run() {
        let turns = turns(Some(3), 0);
        let mut running: Vec<Permit> = std::iter::from_fn(|| turns.now()).collect();
        assert_eq!(running.len(), 3);
        turns.set_reserved(Some(1));
        for _ in 0..2 {
            running.pop();
            assert!(turns.now().is_none(), "{} run", running.len());
        }
        running.pop();
        let one = turns.now();
        assert!(one.is_some() && turns.now().is_none());
        turns.set_reserved(Some(2));
        assert!(turns.now().is_some());
        assert_eq!(turns.limit(), 2);
    }

    #[tokio::test]
    async fn who_waits_does_not_run_over_a_limit_that_went_down() {
        let turns = turns(Some(2), 0);
        let mut running = vec![turns.now().unwrap(), turns.now().unwrap()];
        let mut first = pin!(turns.next());
        let mut second = pin!(turns.next());
        assert!(!is_ready(&mut first).await && !is_ready(&mut second).await);
        turns.set_reserved(Some(1));
        running.pop();
        assert!(!is_ready(&mut first).await, "one runs still");
        running.pop();
        assert!(!is_ready(&mut second).await, "it came later");
        assert!(is_ready(&mut first).await);
    }

    #[tokio::test]
    async fn a_function_that_reserves_nothing_runs_within_what_is_shared() {
        let shared = Fair::new(2);
        let one = named("one", None, shared.clone());
        let other = named("other", None, shared.clone());
        let reserved = named("reserved", Some(1), shared.clone());
        let running = (one.now().unwrap(), one.now().unwrap());
        assert!(other.now().is_none() && !other.is_free());
        assert!(reserved.now().is_some(), "it has its own");
        let mut waits = pin!(other.next());
        assert!(!is_ready(&mut waits).await);
        // It need not wait for others any more.
        other.set_reserved(Some(1));
        assert!(is_ready(&mut waits).await);
        drop(running);
        assert_eq!(shared.used(), 0);
        other.set_reserved(None);
        assert!(other.now().is_some());
    }

    #[tokio::test]
    async fn those_who_wait_are_told_when_nothing_may_run() {
        let turns = turns(Some(1), 0);
        let mut stopped = pin!(turns.stopped());
        assert!(!is_ready(&mut stopped).await);
        turns.set_reserved(Some(0));
        assert!(is_ready(&mut stopped).await);
        assert!(!turns.is_free());
    }

    #[test]
    fn something_is_left_for_functions_that_reserve_nothing() {
        for (account, reserved, left) in [
            (1_000, 0, 1_000),
            (1_000, 300, 700),
            (1_000, 5_000, 100),
            (10, 0, 10),
            (10, 9, 10),
        ] {
            assert_eq!(unreserved(account, reserved), left);
        }
    }
}
