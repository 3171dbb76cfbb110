//! How many environments there are, for those who watch.

use crate::Functions;

/// Of this moment, and since the start of the service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Environments of functions.
    pub environments: u64,
    /// What they may use together, in megabytes, and what all may.
    pub memory_mb: u64,
    pub memory_mb_max: u64,
    /// Invocations that wait for memory or for a processor.
    pub waiting: usize,
    /// Interpreters that wait for a function.
    pub spares_ready: usize,
    /// Starts that found one, and that did not.
    pub spares_taken: u64,
    pub spares_missed: u64,
}

impl Functions {
    pub fn counts(&self) -> Counts {
        let (machine, spares) = (&self.0.machine, self.0.spares.counts());
        Counts {
            environments: machine.alive.now(),
            memory_mb: machine.memory.used(),
            memory_mb_max: machine.memory.limit(),
            waiting: machine.memory.waiting()
                + machine.starts.waiting()
                + machine.processors.waiting(),
            spares_ready: spares.ready,
            spares_taken: spares.taken,
            spares_missed: spares.missed,
        }
    }
}
