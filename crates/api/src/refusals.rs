//! How fast those may try again who showed a wrong key, signature or password.
//!
//! Some tries are anybody's mistakes and are answered at once. Those that follow within a minute are answered at a
//! distance from each other, at whichever door they come. It keeps what asks in vain from doing so as fast as it can, and
//! is no bound on guessing: who hangs up instead of waiting can try again at once, with a connection for each try. Only
//! who is refused waits: requests that are right pass meanwhile, from the same address too.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use metrics::counter;
use tokio::sync::watch;

/// In one window, without a wait.
const FREE: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Between two answers, after that.
const PAUSE: Duration = Duration::from_millis(250);
/// A refused request holds its connection no longer.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Addresses share a place where there are more of them, which only those notice who are refused as well.
const PLACES: usize = 1_024;

/// The tries of all callers. It has a fixed size.
pub struct Refusals {
    places: Mutex<Vec<Tries>>,
    /// Nobody can choose whom to share a place with.
    hasher: RandomState,
    stopped: watch::Receiver<bool>,
}

impl Refusals {
    /// Nobody waits any more when `stopped` turns true.
    pub fn new(stopped: watch::Receiver<bool>) -> Refusals {
        Refusals {
            places: Mutex::new(vec![Tries::default(); PLACES]),
            hasher: RandomState::new(),
            stopped,
        }
    }

    /// Waits until whoever asked from this address may be told that it is refused.
    pub async fn turn(&self, address: IpAddr) {
        let wait = self.refused(address, Instant::now());
        if wait.is_zero() {
            return;
        }
        counter!("lambic_refusals_slowed_total").increment(1);
        let mut stopped = self.stopped.clone();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }

    fn refused(&self, address: IpAddr, now: Instant) -> Duration {
        let hash = self.hasher.hash_one(network(address));
        let place = (hash % PLACES as u64) as usize;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places[place].refused(now)
    }
}

/// Who is counted as one: of IPv6, a network is one caller's.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = (address.to_bits() >> 64) << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        address => address,
    }
}

/// Those of one caller in its window.
#[derive(Debug, Clone, Default)]
struct Tries {
    /// With the first of them.
    began: Option<Instant>,
    count: u32,
    /// When the last one is, or was, answered.
    answered: Option<Instant>,
}

impl Tries {
    /// How long one more waits for its answer.
    fn refused(&mut self, now: Instant) -> Duration {
        let is_over = |began: Instant| now.saturating_duration_since(began) >= WINDOW;
        if self.began.is_none_or(is_over) {
            *self = Tries {
                began: Some(now),
                ..Tries::default()
            };
        }
        self.count = self.count.saturating_add(1);
        if self.count <= FREE {
            return Duration::ZERO;
        }
        let former = self.answered.map_or(now, |answered| answered.max(now));
        let wait = (former + PAUSE)
            .saturating_duration_since(now)
            .min(WAIT_MAX);
        self.answered = Some(now + wait);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_that_follow_each_other_wait_in_a_row() {
        let now = Instant::now();
        let mut tries = Tries::default();
        for _ in 0..FREE {
            assert_eq!(tries.refused(now), Duration::ZERO);
        }
        assert_eq!(tries.refused(now), PAUSE);
        assert_eq!(tries.refused(now), 2 * PAUSE);
        // Who waits for each answer is at a distance already.
        assert_eq!(tries.refused(now + 2 * PAUSE), PAUSE);
        for _ in 0..100 {
            assert!(tries.refused(now + 2 * PAUSE) <= WAIT_MAX);
        }
        assert_eq!(tries.refused(now + 2 * PAUSE), WAIT_MAX);
        // A minute later it is a mistake again.
        assert_eq!(tries.refused(now + WINDOW), Duration::ZERO);
    }

    #[test]
    fn callers_are_told_apart_by_their_networks() {
        let same = |one: &str, other: &str| {
            network(one.parse().unwrap()) == network(other.parse().unwrap())
        };
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(same("2001:db8::1", "2001:db8::ffff:1"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
    }

    #[tokio::test]
    async fn the_table_does_not_grow_and_a_stop_ends_all_waiting() {
        let (stop, stopped) = watch::channel(false);
        let refusals = Refusals::new(stopped);
        let now = Instant::now();
        for number in 0..10 * PLACES as u32 {
            refusals.refused(IpAddr::V4(number.into()), now);
        }
        assert_eq!(refusals.places.lock().unwrap().len(), PLACES);
        let address = IpAddr::V4(1u32.into());
        let count = WAIT_MAX.as_millis() / PAUSE.as_millis();
        for _ in 0..count as u32 + FREE {
            refusals.refused(address, now);
        }
        stop.send_replace(true);
        let turn = refusals.turn(address);
        assert!(tokio::time::timeout(WAIT_MAX / 2, turn).await.is_ok());
    }
}
