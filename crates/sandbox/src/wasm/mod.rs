//! WASI 0.2 components: compiled once, a fresh instance for every invocation.
//!
//! A component is one of two things. With the export `handle` (see `wit/lambic.wit`) it is invoked with events.
//! Other plain functions that it exports are SQL functions; such a component may import WASI only, and its
//! clocks, randomness and environment are fixed, so that equal arguments give equal answers for ever.
//! Each row has an instance of its own, so that an answer depends on the arguments alone.
//! Nothing is preopened and no network is reachable.

mod cache;
mod host;
mod scalar;
mod slots;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use lambic_model::ScalarFunction;
use sha2::{Digest, Sha256};
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store,
    component::{Component, InstancePre, Linker, types::ComponentItem},
};

use self::{host::Host, slots::Slots};
use crate::{Error, Execution, execution, failure, lines::Lines};

/// How often running code is looked at: a deadline is kept to this.
const TICK: Duration = Duration::from_millis(10);
/// Memories of handlers alive at one time; a component usually has one.
const HANDLERS_MAX: u32 = 100;
/// The same of SQL functions: they run on the threads of queries, of which there are few.
const SCALARS_MAX: u32 = 32;
/// Of one component.
const MEMORIES_MAX: u32 = 8;
const TABLES_MAX: u32 = 8;
const CORE_INSTANCES_MAX: u32 = 20;
/// No component may ask for more, whatever its own limit.
const MEMORY_BYTES_MAX: usize = 4 << 30;

/// The engine; clones share it.
#[derive(Clone)]
pub struct Wasm {
    engine: Engine,
    cache_dir: PathBuf,
    slots: Slots,
}

/// Limits of one invocation, or of one row of a SQL function.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub timeout: Duration,
    pub memory_mb: u32,
    pub log_bytes_max: usize,
}

/// A component that was compiled and fits.
#[derive(Clone)]
pub struct Module {
    digest: String,
    handler: Option<InstancePre<Host>>,
    slots: Slots,
    /// By one instance.
    slots_taken: u32,
    scalars: Vec<Arc<scalar::Scalar>>,
}

impl Wasm {
    /// Compiled code is kept in `cache_dir`, a folder of its own.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Result<Wasm, Error> {
        Wasm::with_slots(cache_dir.into(), HANDLERS_MAX, SCALARS_MAX)
    }

    fn with_slots(cache_dir: PathBuf, handlers: u32, scalars: u32) -> Result<Wasm, Error> {
        cache::open(&cache_dir)?;
        let engine = match Engine::new(&config(Some(handlers + scalars))) {
            Ok(engine) => engine,
            Err(error) => {
                // A machine with little address space (ulimit -v, small containers) cannot reserve the pool.
                tracing::warn!(%error, "no pool of instances; each is allocated on demand");
                Engine::new(&config(None)).map_err(|error| Error::Engine {
                    reason: format!("{error:#}"),
                })?
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
        Ok(Wasm {
            engine,
            cache_dir,
            slots: Slots::new(handlers, scalars),
        })
    }

    /// Compiles `code` (a component, binary or text) or takes it from the cache, and checks that it fits.
    /// `limits` hold for each row of its SQL functions.
    pub fn load(&self, code: &[u8], limits: Limits) -> Result<Module, Error> {
        let digest = hex(&Sha256::digest(code));
        let component = cache::component(&self.engine, &self.cache_dir, &digest, code)?;
        self.fit(&component, digest, limits)
    }

    fn fit(&self, component: &Component, digest: String, limits: Limits) -> Result<Module, Error> {
        let world = component.component_type();
        let imports: Vec<String> = world
            .imports(&self.engine)
            .map(|(name, _)| name.to_owned())
            .collect();
        let mut is_handler = false;
        let mut signatures = Vec::new();
        for (name, export) in world.exports(&self.engine) {
            match export.ty {
                ComponentItem::ComponentFunc(function) if name == "handle" => {
                    host::check_handle(&function)?;
                    is_handler = true;
                }
                ComponentItem::ComponentFunc(function) => {
                    signatures.push(scalar::Signature::of(name, &function)?);
                }
                // Types and interfaces that it exports beside its functions are of no use to us.
                _ => {}
            }
        }
        let foreign = imports
            .iter()
            .find(|name| !name.starts_with("wasi:") && (name.as_str() != "log" || !is_handler));
        if let Some(name) = foreign {
            return Err(Error::WrongWorld {
                reason: if is_handler {
                    format!("it imports `{name}`; a handler may import `log` and WASI 0.2")
                } else {
                    format!("it imports `{name}`; a SQL function may import WASI only")
                },
            });
        }
        if !is_handler && signatures.is_empty() {
            return Err(Error::WrongWorld {
                reason: "it exports no function; export `handle: func(event: string) -> result<string, string>`, \
                         or plain functions for SQL"
                    .to_owned(),
            });
        }
        let memories = component
            .resources_required()
            .map_or(1, |required| required.num_memories);
        if memories > MEMORIES_MAX {
            return Err(Error::WrongWorld {
                reason: format!("it has {memories} memories, over the limit of {MEMORIES_MAX}"),
            });
        }
        let slots_taken = memories.max(1);
        let mut linker = Linker::<Host>::new(&self.engine);
        host::link(&mut linker).map_err(wrong_world)?;
        let instance = linker.instantiate_pre(component).map_err(wrong_world)?;
        let scalars = signatures
            .into_iter()
            .map(|signature| {
                Arc::new(scalar::Scalar::new(
                    signature,
                    digest.clone(),
                    instance.clone(),
                    imports.is_empty(),
                    limits,
                    self.slots.clone(),
                    slots_taken,
                ))
            })
            .collect();
        Ok(Module {
            digest,
            handler: is_handler.then_some(instance),
            slots: self.slots.clone(),
            slots_taken,
            scalars,
        })
    }
}

impl Module {
    /// SHA-256 of the code, hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// True if it can be invoked with an event.
    pub fn is_handler(&self) -> bool {
        self.handler.is_some()
    }

    /// Its SQL functions.
    pub fn scalars(&self) -> impl Iterator<Item = Arc<dyn ScalarFunction>> + '_ {
        self.scalars
            .iter()
            .map(|scalar| scalar.clone() as Arc<dyn ScalarFunction>)
    }

    /// The SQL functions as people read them: `geohash(double precision, integer) -> text`.
    pub fn signatures(&self) -> Vec<String> {
        self.scalars
            .iter()
            .map(|scalar| scalar.signature().to_string())
            .collect()
    }

    /// Runs `handle` on one event in an instance of its own; waits while too many are alive, which does not count
    /// as its time.
    pub async fn invoke(
        &self,
        request_id: &str,
        payload: &[u8],
        environment: &[(String, String)],
        limits: Limits,
    ) -> Execution {
        let Some(handler) = self.handler.clone() else {
            return ended(failure(
                "Runtime.HandlerNotFound",
                "the component does not export `handle`",
            ));
        };
        let event = match std::str::from_utf8(payload) {
            Ok(event) => event.to_owned(),
            Err(_) => {
                return ended(failure(
                    "Runtime.UnmarshalError",
                    "the event is not UTF-8 text",
                ));
            }
        };
        let (request_id, environment) = (request_id.to_owned(), environment.to_vec());
        let slots = self.slots.for_handler(self.slots_taken).await;
        let runtime = tokio::runtime::Handle::current();
        // On a thread of its own: the code yields at each tick only, and ten milliseconds are long for
        // whoever else waits on this runtime.
        let run = tokio::task::spawn_blocking(move || {
            // Given back when the instance is gone, also if the caller went away before.
            let _slots = slots;
            runtime.block_on(run(&handler, &request_id, event, &environment, limits))
        });
        match run.await {
            Ok(execution) => execution,
            Err(error) => ended(failure("Runtime.Crash", &error.to_string())),
        }
    }
}

async fn run(
    handler: &InstancePre<Host>,
    request_id: &str,
    event: String,
    environment: &[(String, String)],
    limits: Limits,
) -> Execution {
    let start = Instant::now();
    let lines = Arc::new(Mutex::new(Lines::new(limits.log_bytes_max)));
    let host = Host::for_handler(environment, lines.clone(), limits.memory_mb);
    let mut store = Store::new(handler.engine(), host);
    store.limiter(|host| &mut host.memory);
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
    let call = async {
        let instance = handler.instantiate_async(&mut store).await?;
        let handle = instance
            .get_typed_func::<(String,), (Result<String, String>,)>(&mut store, "handle")?;
        handle.call_async(&mut store, (event,)).await
    };
    let called = tokio::time::timeout(limits.timeout, call).await;
    let memory = &store.data().memory;
    let outcome = match called {
        Err(_) => execution::timed_out(request_id, limits.timeout),
        Ok(Ok((Ok(answer),))) if answer.len() > execution::RESPONSE_BYTES_MAX => {
            execution::response_too_large()
        }
        Ok(Ok((Ok(answer),))) if serde_json::from_str::<serde::de::IgnoredAny>(&answer).is_ok() => {
            lambic_model::Outcome::Success(answer.into_bytes())
        }
        Ok(Ok((Ok(_),))) => failure("Runtime.MarshalError", "the answer is not JSON"),
        Ok(Ok((Err(error),))) => execution::reported(error.into_bytes(), "HandlerError"),
        Ok(Err(_)) if memory.refused => execution::out_of_memory(request_id, limits.memory_mb),
        Ok(Err(error)) => failure(
            "Runtime.Trap",
            &format!("RequestId: {request_id} Error: {}", reason(&error)),
        ),
    };
    let memory_peak_bytes = memory.peak as u64;
    drop(store);
    let lines = lines.lock().expect("no panic while lines are held").take();
    Execution {
        outcome,
        duration: start.elapsed(),
        memory_peak_bytes,
        lines,
        reusable: true,
    }
}

fn ended(outcome: lambic_model::Outcome) -> Execution {
    Execution {
        outcome,
        duration: Duration::ZERO,
        memory_peak_bytes: 0,
        lines: Vec::new(),
        reusable: true,
    }
}

/// With a pool of that many memories, or without.
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
            .max_memory_size(MEMORY_BYTES_MAX);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

fn wrong_world(error: wasmtime::Error) -> Error {
    Error::WrongWorld {
        reason: format!("{error:#}"),
    }
}

/// The innermost cause: the outer ones are a backtrace of addresses.
fn reason(error: &wasmtime::Error) -> String {
    error.root_cause().to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int32Array};

    use super::*;

    const LIMITS: Limits = Limits {
        timeout: Duration::from_millis(100),
        memory_mb: 16,
        log_bytes_max: 1 << 10,
    };

    /// `handle` that never ends.
    const ENDLESS: &str = r#"
(component
  (core module $m
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
    (func (export "handle") (param i32 i32) (result i32) (loop (br 0)) (unreachable)))
  (core instance $i (instantiate $m))
  (func (export "handle") (param "event" string) (result (result string (error string)))
    (canon lift (core func $i "handle") (memory (core memory $i "memory"))
      (realloc (core func $i "realloc")))))
"#;

    /// A SQL function of several thousand steps.
    const BUSY: &str = r#"
(component
  (core module $m
    (memory (export "memory") 1)
    (func (export "f") (param i32) (result i32) (local i32)
      (loop
        (local.set 1 (i32.add (local.get 1) (i32.const 1)))
        (br_if 0 (i32.lt_u (local.get 1) (i32.const 10000))))
      (local.get 0)))
  (core instance $i (instantiate $m))
  (func (export "f") (param "a" s32) (result s32) (canon lift (core func $i "f"))))
"#;

    #[tokio::test(flavor = "multi_thread")]
    async fn who_finds_no_free_instance_waits() {
        let dir = tempfile::tempdir().unwrap();
        let wasm = Wasm::with_slots(dir.path().to_owned(), 2, 1).unwrap();
        let endless = wasm.load(ENDLESS.as_bytes(), LIMITS).unwrap();
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..9 {
            let endless = endless.clone();
            running.spawn(async move { endless.invoke("id", b"{}", &[], LIMITS).await.outcome });
        }
        for outcome in running.join_all().await {
            assert_eq!(outcome, execution::timed_out("id", LIMITS.timeout));
        }
        let limits = Limits {
            timeout: Duration::from_secs(60),
            ..LIMITS
        };
        let busy = wasm.load(BUSY.as_bytes(), limits).unwrap();
        let column: ArrayRef = Arc::new(Int32Array::from_iter_values(0..1_000));
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let busy = busy.scalars().next().unwrap();
                    let answer = busy.call(std::slice::from_ref(&column), 1_000).unwrap();
                    assert_eq!(&answer, &column);
                });
            }
        });
    }
}
