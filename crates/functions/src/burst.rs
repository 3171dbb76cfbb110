//! How fast the environments of one function may become more: usually AWS's 1,000 at once, then 1,000 more every 10 seconds.
//!
//! A bucket of time, of which each start takes its part.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Burst {
    full: Duration,
    start: Duration,
    left: Duration,
    at: Instant,
}

impl Burst {
    /// A full bucket, of `at_once` starts; `every` so often there is one more.
    pub fn new(at_once: u32, every: Duration, now: Instant) -> Burst {
        let full = every.saturating_mul(at_once.max(1));
        Burst {
            full,
            start: every,
            left: full,
            at: now,
        }
    }

    /// One more may start, or how long that takes.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let elapsed = now.saturating_duration_since(self.at);
        self.at = now;
        self.left = self.left.saturating_add(elapsed).min(self.full);
        match self.left.checked_sub(self.start) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.start.saturating_sub(self.left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_at_once_and_a_thousand_every_ten_seconds() {
        let start = Instant::now();
        let mut burst = Burst::new(1_000, Duration::from_millis(10), start);
        let mut taken = |at: Instant| {
            let taken = std::iter::from_fn(|| burst.take(at).ok());
            taken.count()
        };
        assert_eq!(taken(start), 1_000);
        assert_eq!(taken(start + Duration::from_millis(105)), 10);
        assert_eq!(taken(start + Duration::from_secs(10)), 990);
        assert_eq!(taken(start + Duration::from_secs(100_000)), 1_000);
        let wait = burst.take(start + Duration::from_secs(100_000));
        assert_eq!(wait, Err(Duration::from_millis(10)));
    }
}
