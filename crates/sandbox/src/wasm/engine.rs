//! The engine: what compiled code depends on, and the pool that instances come from.

use std::time::Duration;

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::Error;

/// How often running code is looked at: a deadline is kept to this.
pub const TICK: Duration = Duration::from_millis(10);
/// Of one component.
pub const MEMORIES_MAX: u32 = 8;
const TABLES_MAX: u32 = 8;
const CORE_INSTANCES_MAX: u32 = 20;
/// Of a memory and of a table, what stays in its slot for the next instance, as that finds it: only pages that were
/// written are made new, and giving them back to the system for each request has a higher cost.
const MEMORY_KEPT_BYTES: usize = 512 << 10;
const TABLE_KEPT_BYTES: usize = 16 << 10;
/// No component may ask for more, whatever its own limit.
const MEMORY_BYTES_MAX: usize = 4 << 30;

/// An engine whose instances have that many memories together, and the thread that ticks for it.
pub fn start(memories: u32) -> Result<Engine, Error> {
    let engine = match Engine::new(&config(Some(memories))) {
        Ok(engine) => engine,
        Err(error) => {
            // A machine with little address space (ulimit -v, small containers) cannot reserve the pool.
            tracing::warn!(%error, "no pool of instances; each is allocated on demand");
            unpooled()?
        }
    };
    let ticked = engine.weak();
    std::thread::Builder::new()
        .name("lambic-epoch".to_owned())
        .spawn(move || {
            while let Some(engine) = ticked.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })
        .map_err(|error| Error::Engine {
            reason: error.to_string(),
        })?;
    Ok(engine)
}

/// The same for code, without room for instances.
pub fn unpooled() -> Result<Engine, Error> {
    Engine::new(&config(None)).map_err(|error| Error::Engine {
        reason: format!("{error:#}"),
    })
}

/// With a pool of that many memories, or without; what is compiled is the same.
fn config(pooled: Option<u32>) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    // The same bits on every machine, so that a view recomputed elsewhere is the same view.
    config.cranelift_nan_canonicalization(true);
    config.relaxed_simd_deterministic(true);
    if let Some(memories) = pooled {
        let mut pool = PoolingAllocationConfig::new();
        // Slots bound the memories, so whatever else an instance may need has to be there for each of them.
        pool.total_component_instances(memories)
            .total_core_instances(memories * CORE_INSTANCES_MAX)
            .total_memories(memories)
            .total_tables(memories * TABLES_MAX)
            .total_stacks(memories)
            .max_core_instances_per_component(CORE_INSTANCES_MAX)
            .max_memories_per_component(MEMORIES_MAX)
            .max_memories_per_module(MEMORIES_MAX)
            .max_tables_per_component(TABLES_MAX)
            .max_tables_per_module(TABLES_MAX)
            .max_memory_size(MEMORY_BYTES_MAX)
            .linear_memory_keep_resident(MEMORY_KEPT_BYTES)
            .table_keep_resident(TABLE_KEPT_BYTES)
            .pagemap_scan(Enabled::Auto);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}
