//! Memory for plans with several sorts, each of which gets a part.
//!
//! A sort that merges what it has on disk takes all the memory that there is, to merge as much as it can at one time, and
//! the next one finds none. Where both must go on for the plan to go on, as under a join of what is sorted, none may
//! take more than its part.

use std::fmt;

use datafusion::{
    error::{DataFusionError, Result},
    execution::memory_pool::{
        FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
    },
};

/// As DataFusion names what merges for a sort.
const MERGES: &str = "ExternalSorterMerge";

#[derive(Debug)]
pub struct FairSorts {
    pool: FairSpillPool,
    /// Of one merge.
    part: usize,
}

impl FairSorts {
    /// `bytes` in all, for a plan with so many sorts.
    pub fn new(bytes: usize, sorts: usize) -> FairSorts {
        FairSorts {
            pool: FairSpillPool::new(bytes),
            part: FairSorts::part(bytes, sorts),
        }
    }

    /// What one of them may take to merge: half of all is left for what is not merged.
    pub fn part(bytes: usize, sorts: usize) -> usize {
        bytes / (2 * sorts.max(1))
    }
}

impl fmt::Display for FairSorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes for each sort)", self.pool, self.part)
    }
}

impl MemoryPool for FairSorts {
    fn name(&self) -> &str {
        "fair sorts"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.pool.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.pool.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.pool.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.pool.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let consumer = reservation.consumer();
        let wanted = reservation.size() + additional;
        if consumer.name().starts_with(MERGES) && wanted > self.part {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{} would hold {wanted} bytes, and its part is {}",
                consumer.name(),
                self.part
            )));
        }
        self.pool.try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.pool.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.pool.memory_limit()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn one_sort_leaves_the_others_theirs() {
        let pool: Arc<dyn MemoryPool> = Arc::new(FairSorts::new(800, 4));
        let sort = |name: &str| MemoryConsumer::new(name).register(&pool);
        let first = sort("ExternalSorterMerge[0]");
        assert!(first.try_grow(100).is_ok());
        assert!(first.try_grow(1).is_err());
        let others: Vec<_> = (1..4)
            .map(|n| sort(&format!("ExternalSorterMerge[{n}]")))
            .collect();
        assert!(others.iter().all(|other| other.try_grow(100).is_ok()));
        let join = sort("SMJStream[0]");
        assert!(join.try_grow(400).is_ok());
        assert!(join.try_grow(1).is_err(), "the bound of all is the pool's");
        drop(first);
        assert!(join.try_grow(100).is_ok());
    }
}
