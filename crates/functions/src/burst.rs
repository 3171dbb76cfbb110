//! How fast the environments of one function may become more: AWS's 1,000 at once, then 1,000 more every 10 seconds.
//!
//! A bucket of time, of which each start takes its part.

use std::time::{Duration, Instant};

/// Of a full bucket, which is AWS's 1,000 starts.
const FULL: Duration = Duration::from_secs(10);
const START: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub struct Burst {
    left: Duration,
    at: Instant,
}

impl Burst {
    pub fn new(now: Instant) -> Burst {
        Burst {
            left: FULL,
            at: now,
        }
    }

    /// One more may start, or how long that takes.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let elapsed = now.saturating_duration_since(self.at);
        self.at = now;
        self.left = self.left.saturating_add(elapsed).min(FULL);
        match self.left.checked_sub(START) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(START.saturating_sub(self.left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_at_once_and_a_thousand_every_ten_seconds() {
        let start = Instant::now();
        let mut burst = Burst::new(start);
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
