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

/// As DataFusion names what a sort gathers, and what it merges.
const GATHERS: &str = "ExternalSorter[";
const MERGES: &str = "ExternalSorterMerge[";

#[derive(Debug)]
pub struct FairSorts {
    pool: FairSpillPool,
    /// Of what one sort merges.
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

    /// What one of them may take to merge. It gathers half as much, because what was gathered is merged; a quarter of all is
    /// left for others.
    pub fn part(bytes: usize, sorts: usize) -> usize {
        bytes / (2 * sorts.max(1))
    }

    fn bound(&self, consumer: &str) -> Option<usize> {
        match consumer {
            name if name.starts_with(MERGES) => Some(self.part),
            name if name.starts_with(GATHERS) => Some(self.part / 2),
            _ => None,
        }
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
        match self.bound(consumer.name()) {
            // One batch, however large it is, cannot be taken in parts.
            Some(bound) if wanted > bound && reservation.size() > 0 => {
                Err(DataFusionError::ResourcesExhausted(format!(
                    "{} would hold {wanted} bytes, and its part is {bound}",
                    consumer.name(),
                )))
            }
            _ => self.pool.try_grow(reservation, additional),
        }
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
    use std::sync::{Arc, Mutex};

    use datafusion::{
        execution::runtime_env::RuntimeEnvBuilder,
        prelude::{SessionConfig, SessionContext},
    };

    use super::*;

    #[test]
    fn one_sort_leaves_the_others_theirs() {
        let pool: Arc<dyn MemoryPool> = Arc::new(FairSorts::new(800, 4));
        let sort = |name: &str| MemoryConsumer::new(name).register(&pool);
        let first = sort("ExternalSorterMerge[0]");
        assert!(first.try_grow(100).is_ok());
        assert!(first.try_grow(1).is_err());
        let large = sort("ExternalSorter[0]");
        assert!(large.try_grow(200).is_ok(), "as the only one");
        drop(large);
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

    /// Remembers who asks.
    #[derive(Debug)]
    struct Names {
        pool: FairSorts,
        refused: Mutex<Vec<String>>,
    }

    impl fmt::Display for Names {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.pool.fmt(f)
        }
    }

    impl MemoryPool for Names {
        fn name(&self) -> &str {
            self.pool.name()
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
            let grown = self.pool.try_grow(reservation, additional);
            if let Err(error) = &grown
                && error.to_string().contains("its part is")
            {
                let name = reservation.consumer().name().to_owned();
                self.refused.lock().unwrap().push(name);
            }
            grown
        }

        fn reserved(&self) -> usize {
            self.pool.reserved()
        }
    }

    /// That the part bounds something depends on a name in DataFusion.
    #[tokio::test]
    async fn a_real_sort_meets_its_part() {
        let names = Arc::new(Names {
            pool: FairSorts::new(4 << 20, 8),
            refused: Mutex::default(),
        });
        let runtime =
            RuntimeEnvBuilder::new().with_memory_pool(names.clone() as Arc<dyn MemoryPool>);
        let mut config = SessionConfig::new()
            .with_target_partitions(1)
            .with_batch_size(512);
        config.options_mut().execution.sort_spill_reservation_bytes = 64 << 10;
        let context = SessionContext::new_with_config_rt(config, runtime.build_arc().unwrap());
        let sql = "SELECT value, value * 7 % 1000003 AS k FROM generate_series(1, 1000000) AS t (value) ORDER BY k";
        let sorted = context.sql(sql).await.unwrap().collect().await.unwrap();
        let rows: usize = sorted.iter().map(|batch| batch.num_rows()).sum();
        assert_eq!(rows, 1_000_000);
        assert!(
            !names.refused.lock().unwrap().is_empty(),
            "it merges within its part"
        );
    }
}
