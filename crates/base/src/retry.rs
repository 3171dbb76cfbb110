//! How long to wait before trying again: exponential, bounded, with jitter so that many do not return at once.
//!
//! Only durations; whoever waits decides when to give up. Idea: "Exponential Backoff And Jitter", AWS
//! Architecture Blog, 2015.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// An endless iterator of waits: `first`, `first * factor`, … up to `max`, each shortened by up to `jitter`.
#[derive(Debug)]
pub struct Backoff {
    pub first: Duration,
    pub max: Duration,
    pub factor: f64,
    /// The share of each wait, 0 to 1, that is left to chance.
    pub jitter: f64,
    next: Duration,
    chance: StdRng,
}

impl Backoff {
    /// Doubles, half of each wait left to chance. Equal seeds give equal waits.
    pub fn new(first: Duration, max: Duration, seed: u64) -> Backoff {
        Backoff {
            first,
            max,
            factor: 2.0,
            jitter: 0.5,
            next: first,
            chance: StdRng::seed_from_u64(seed),
        }
    }

    pub fn with_factor(mut self, factor: f64) -> Backoff {
        self.factor = factor;
        self
    }

    pub fn with_jitter(mut self, jitter: f64) -> Backoff {
        self.jitter = jitter.clamp(0.0, 1.0);
        self
    }

    /// Starts again from `first`, as after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.next.min(self.max);
        let grown = wait.as_secs_f64() * self.factor.max(1.0);
        self.next = Duration::try_from_secs_f64(grown)
            .unwrap_or(self.max)
            .min(self.max);
        let kept = 1.0 - self.jitter * self.chance.random::<f64>();
        Some(wait.mul_f64(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(backoff: Backoff) -> Vec<u128> {
        backoff.take(5).map(|wait| wait.as_millis()).collect()
    }

    #[test]
    fn waits_grow_to_the_bound() {
        let backoff = || {
            Backoff::new(Duration::from_millis(10), Duration::from_millis(50), 7).with_jitter(0.0)
        };
        assert_eq!(millis(backoff()), [10, 20, 40, 50, 50]);
        assert_eq!(millis(backoff().with_factor(1.0)), [10, 10, 10, 10, 10]);
    }

    #[test]
    fn jitter_only_shortens_and_follows_the_seed() {
        let backoff = || Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 42);
        assert_eq!(millis(backoff()), millis(backoff()));
        for (wait, full) in backoff().zip([100u64, 200, 400, 800, 1000]) {
            assert!(wait <= Duration::from_millis(full) && wait >= Duration::from_millis(full / 2));
        }
    }

    #[test]
    fn a_reset_starts_again() {
        let mut backoff =
            Backoff::new(Duration::from_millis(10), Duration::from_secs(1), 1).with_jitter(0.0);
        assert_eq!(backoff.nth(2), Some(Duration::from_millis(40)));
        backoff.reset();
        assert_eq!(backoff.next(), Some(Duration::from_millis(10)));
    }
}
