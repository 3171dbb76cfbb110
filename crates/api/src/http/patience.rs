//! How long a client is waited for that sends a body: for a time in all, and longer as it sends.
//!
//! A bound on each pause alone lets a client that sends a byte a minute keep what others want, for as long as it likes. Pure.

use std::time::Duration;

/// For how long a client may still be waited for.
pub struct Patience {
    max: Duration,
    left: Duration,
    bytes_per_s: u32,
}

impl Patience {
    /// `max`: how long one is waited for that sends nothing. As many bytes as it must send in a second give one more, up to
    /// `max` again.
    pub fn new(max: Duration, bytes_per_s: u32) -> Patience {
        Patience {
            max,
            left: max,
            bytes_per_s: bytes_per_s.max(1),
        }
    }

    pub fn left(&self) -> Duration {
        self.left
    }

    pub fn waited(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }

    pub fn came(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let earned = Duration::from_secs(bytes.into()) / self.bytes_per_s;
        self.left = self.left.saturating_add(earned).min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_waited_for_as_long_as_it_sends() {
        let second = Duration::from_secs(1);
        let mut patience = Patience::new(3 * second, 1_000);
        patience.waited(2 * second);
        assert_eq!(patience.left(), second);
        patience.came(1);
        assert_eq!(patience.left(), second + Duration::from_millis(1));
        patience.came(999);
        assert_eq!(patience.left(), 2 * second);
        // Who sends much at once may not be silent for long after it.
        patience.came(usize::MAX);
        assert_eq!(patience.left(), 3 * second);
        patience.waited(4 * second);
        assert_eq!(patience.left(), Duration::ZERO);
        patience.came(1_000);
        assert_eq!(patience.left(), second);
    }
}
