//! A bound on how much is done in a second: a bucket of tokens that fills at a steady rate.
//!
//! Pure: callers say what time it is, and wait for as long as they are told.

use std::time::{Duration, Instant};

/// Who takes more than there is goes into debt and waits until it is paid, so that one large take is as slow as many
/// small ones.
#[derive(Debug)]
pub struct Bucket {
    per_second: f64,
    /// At most one second's worth; below zero: a debt.
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Full at `now`. At least one token comes in a second.
    pub fn new(per_second: u64, now: Instant) -> Bucket {
        let per_second = per_second.max(1) as f64;
        Bucket {
            per_second,
            tokens: per_second,
            at: now,
        }
    }

    /// Takes so many tokens; returns how long to wait before what they are for is done.
    pub fn take(&mut self, tokens: u64, now: Instant) -> Duration {
        let came = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.at = self.at.max(now);
        self.tokens = (self.tokens + came).min(self.per_second) - tokens as f64;
        let seconds = (-self.tokens / self.per_second).max(0.0);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_comes() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut bucket = Bucket::new(1000, start);
        // What is in it costs no time ...
        assert_eq!(bucket.take(1000, start), Duration::ZERO);
        // ... and what is not waits for its turn.
        assert_eq!(bucket.take(500, start), Duration::from_millis(500));
        assert_eq!(bucket.take(500, start), Duration::from_millis(1000));
        assert_eq!(bucket.take(0, after(1000)), Duration::ZERO);
        // A long pause fills it, and no more than that.
        assert_eq!(
            bucket.take(2000, after(100_000)),
            Duration::from_millis(1000)
        );
        // A clock that seems to go back gives nothing twice.
        assert_eq!(bucket.take(0, after(99_000)), Duration::from_millis(1000));
        assert_eq!(bucket.take(0, after(101_000)), Duration::ZERO);
    }

    #[test]
    fn in_the_long_run_the_rate_is_kept() {
        let start = Instant::now();
        let (mut now, mut bucket) = (start, Bucket::new(1_000_000, start));
        for _ in 0..100 {
            now += bucket.take(300_000, now);
        }
        // 30 MB at 1 MB/s, of which the first was there.
        let took = now.duration_since(start).as_secs_f64();
        assert!((took - 29.0).abs() < 1e-3, "{took}");
    }
}
