//! What the machine has for environments: memory, and processors to start them on.
//!
//! An environment counts with all the memory that its function may use, so that what runs fits whatever it does. What
//! does not fit waits, functions in rotation, while environments that nobody uses are ended to make room.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{Error, Options, fair::Fair};

/// As many as Wasmtime's pool has room for.
const COMPONENTS_MAX: u64 = 100;

pub struct Machine {
    /// Megabytes of environments that are alive.
    pub memory: Arc<Fair>,
    /// Environments that are starting.
    pub starts: Arc<Fair>,
    /// Components that run.
    pub components: Arc<Fair>,
    /// Environments that are alive.
    pub alive: Count,
    /// Megabytes of those that are kept whether they are used or not.
    pub kept_mb: Count,
    /// Megabytes of those that are being ended to make room.
    pub leaving_mb: Count,
}

/// How many there are of something.
#[derive(Clone, Default)]
pub struct Count(Arc<AtomicU64>);

/// Counts as long as it lives.
pub struct Counted {
    count: Count,
    amount: u64,
}

impl Count {
    pub fn add(&self, amount: u64) -> Counted {
        self.0.fetch_add(amount, Ordering::Relaxed);
        Counted {
            count: self.clone(),
            amount,
        }
    }

    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count.0.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

impl Machine {
    pub fn new(options: &Options) -> Machine {
        Machine {
            memory: Fair::new(options.memory_mb_max),
            starts: Fair::new(options.starts_max.max(1) as u64),
            components: Fair::new(COMPONENTS_MAX),
            alive: Count::default(),
            kept_mb: Count::default(),
            leaving_mb: Count::default(),
        }
    }

    /// What can never fit is not to wait.
    pub fn check(&self, function: &str, memory_mb: u32) -> Result<(), Error> {
        check(function, memory_mb, self.memory.limit(), self.kept_mb.now())
    }

    /// How much is still to be ended so that all who wait have room.
    pub fn lacking_mb(&self) -> u64 {
        self.memory.lacking().saturating_sub(self.leaving_mb.now())
    }
}

fn check(function: &str, memory_mb: u32, limit_mb: u64, kept_mb: u64) -> Result<(), Error> {
    if u64::from(memory_mb) <= limit_mb.saturating_sub(kept_mb) {
        return Ok(());
    }
    Err(Error::TooMuchMemory {
        name: function.to_owned(),
        memory_mb,
        limit_mb,
        kept_mb,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_fits_is_refused() {
        assert!(check("f", 128, 128, 0).is_ok());
        for (memory_mb, limit_mb, kept_mb) in [(129, 128, 0), (128, 128, 1), (1, 10, 11)] {
            let error = check("f", memory_mb, limit_mb, kept_mb).unwrap_err();
            assert!(error.to_string().contains("memory_mb_max"), "{error}");
        }
    }

    #[test]
    fn what_is_counted_is_counted_as_long_as_it_lives() {
        let count = Count::default();
        let some = (count.add(3), count.add(4));
        assert_eq!(count.now(), 7);
        drop(some.0);
        assert_eq!(count.now(), 4);
        drop(some.1);
        assert_eq!(count.now(), 0);
    }
}
