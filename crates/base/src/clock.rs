//! Time as a component: the wall clock that records are stamped with, and the monotonic one that waits are measured by.
//!
//! Rooms never call `SystemTime::now` themselves; a test or a simulation hands in [`ManualClock`].

use std::{
    fmt::Debug,
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub trait Clock: Debug + Send + Sync {
    /// Microseconds since 1970-01-01T00:00:00Z. May jump when the machine's clock is set.
    fn now_us(&self) -> i64;
    /// Never goes back; for measuring durations only.
    fn monotonic(&self) -> Instant;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_us(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            // A machine whose clock stands before 1970.
            Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
        }
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}

/// A clock that stands still until it is told to move.
#[derive(Debug)]
pub struct ManualClock {
    wall_start_us: i64,
    monotonic_start: Instant,
    elapsed_us: AtomicI64,
}

impl ManualClock {
    pub fn new(wall_start_us: i64) -> ManualClock {
        ManualClock {
            wall_start_us,
            monotonic_start: Instant::now(),
            elapsed_us: AtomicI64::new(0),
        }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let by_us = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.elapsed_us.fetch_add(by_us, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_us(&self) -> i64 {
        self.wall_start_us + self.elapsed_us.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Instant {
        let elapsed_us = self.elapsed_us.load(Ordering::SeqCst).unsigned_abs();
        self.monotonic_start + Duration::from_micros(elapsed_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new(1_000);
        let start = clock.monotonic();
        assert_eq!(clock.now_us(), 1_000);
        clock.advance(Duration::from_millis(2));
        assert_eq!(clock.now_us(), 3_000);
        assert_eq!(clock.monotonic() - start, Duration::from_millis(2));
    }

    #[test]
    fn the_system_clock_is_after_2020() {
        assert!(SystemClock.now_us() > 1_577_836_800_000_000);
    }
}
