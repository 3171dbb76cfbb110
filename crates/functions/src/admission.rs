//! What the machine has for environments: memory, and processors to start them and to run them on.
//!
//! An environment counts with all the memory that its function may use, so that what runs fits whatever it does. What
//! does not fit waits, functions in rotation, while environments that nobody uses are ended to make room. An invocation that
//! runs counts with the part of a processor that AWS gives to so much memory; most use less, so that there are several times as
//! many as the machine has.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    Error, Inner, Options,
    entry::{Call, Entry},
    fair::{Fair, Share},
};

/// As many as Wasmtime's pool has room for.
const COMPONENTS_MAX: u64 = 100;
/// A function that may use so much has one processor, AWS says.
const PROCESSOR_MB: u64 = 1_769;

pub struct Machine {
    /// Megabytes of environments that are alive.
    pub memory: Arc<Fair>,
    /// Environments that are starting.
    pub starts: Arc<Fair>,
    /// Components that run.
    pub components: Arc<Fair>,
    /// Thousandths of processors, of invocations that run in environments.
    pub processors: Arc<Fair>,
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
            processors: Fair::new(options.processors_milli_max.max(1)),
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

impl Inner {
    /// The right to run in an environment; callers wait for it as for one.
    pub(crate) async fn processor(
        &self,
        entry: &Entry,
        memory_mb: u32,
        call: Call<'_>,
    ) -> Result<Share, Error> {
        let (name, processors) = (entry.info.name.as_str(), &self.machine.processors);
        let amount = processor_milli(memory_mb, processors.limit());
        if let Some(share) = processors.now(name, amount) {
            return Ok(share);
        }
        let share = async { Ok(processors.next(name, amount).await) };
        self.within_bounds(entry, call, share).await
    }
}

/// What an invocation counts; one that is larger than the machine runs alone.
fn processor_milli(memory_mb: u32, limit: u64) -> u64 {
    let milli = (u64::from(memory_mb) * 1_000).div_ceil(PROCESSOR_MB);
    milli.clamp(1, limit.max(1))
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
    fn an_invocation_counts_in_proportion_to_its_memory() {
        for (memory_mb, limit, milli) in [
            (1_769, 16_000, 1_000),
            (128, 16_000, 73),
            (10_240, 16_000, 5_789),
            (10_240, 2_000, 2_000),
            (0, 16_000, 1),
        ] {
            assert_eq!(processor_milli(memory_mb, limit), milli, "{memory_mb}");
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
