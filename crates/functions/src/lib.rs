//! Functions: registry, scheduler, pool, queue of events, triggers of streams.
//!
//! The way of an event is `registry → scheduler → pool → sandbox`, then back to the caller, to the output
//! stream or to the dead letters. What functions did is streams too ([`system_streams`]). This room does not know
//! SQL, HTTP or what a view is; streams are looked up through [`Options::lookup`].

mod append;
mod check;
mod code;
mod deploy;
mod deployment;
mod entry;
mod error;
mod events;
mod inspect;
mod invoke;
mod mapping;
mod options;
mod queue;
mod recorder;
mod records;
mod registry;
mod streams;
#[cfg(test)]
mod tests;
mod triggers;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use deployment::{Code, Deployment, FunctionInfo, Runtime, Start, Trigger};
pub use error::Error;
pub use inspect::{Inspected, inspect};
pub use invoke::InvokeResult;
use lambic_base::supervised;
use lambic_model::{
    Frontier, Frontiers, FunctionName, InvocationKind, Offset, ScalarFunction, Stream, StreamId,
};
use lambic_sandbox::{
    process::{self, Isolation},
    wasm,
};
pub use options::{Decode, Options, StreamLookup};
pub use streams::{SystemStreams, system_streams};
use tokio::sync::{OnceCell, watch};

use crate::{
    entry::{Call, Entry, Program},
    recorder::Recorder,
    registry::{Registry, Stored},
    triggers::{Starting, Triggers},
};

/// The service; clones share it.
#[derive(Clone)]
pub struct Functions(Arc<Inner>);

pub(crate) struct Inner {
    options: Options,
    registry: Registry,
    wasm: wasm::Wasm,
    isolation: OnceCell<Isolation>,
    entries: RwLock<BTreeMap<FunctionName, Arc<Entry>>>,
    triggers: Triggers,
    starting: Starting,
    recorder: Recorder,
    stop: watch::Sender<bool>,
    /// One deployment at a time.
    deploying: tokio::sync::Mutex<()>,
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// All queued events before this offset have ended, and their ends are kept.
    queue_ended: AtomicU64,
}

impl Functions {
    /// Loads what is deployed and goes on where it stopped.
    pub async fn open(options: Options) -> Result<Functions, Error> {
        let registry = Registry::open(&options.dir)?;
        process::remove_left_behind(&registry.codes());
        let wasm = wasm::Wasm::new(registry.compiled_dir())?;
        let stored = registry.load()?;
        let recorder = Recorder::start(options.log.clone(), options.streams.clone());
        let inner = Arc::new(Inner {
            registry: registry.clone(),
            wasm,
            isolation: OnceCell::new(),
            entries: RwLock::default(),
            triggers: Triggers::default(),
            starting: Starting::default(),
            recorder,
            stop: watch::Sender::new(false),
            deploying: tokio::sync::Mutex::new(()),
            tasks: Mutex::default(),
            queue_ended: AtomicU64::new(0),
            options,
        });
        for Stored { mut info, mappings } in stored {
            check::clamp(&mut info);
            // Servers before this one did not.
            if !registry.has_limits(&info.digest) {
                registry.keep_limits(&info)?;
            }
            let program = match inner.program(&info).await {
                Ok(program) => program,
                Err(error) => {
                    tracing::error!(function = %info.name, %error, "a deployed function does not load");
                    Program::Broken(error.to_string())
                }
            };
            let entry = Arc::new(Entry::new(info, mappings, program, &inner.options));
            inner.put(entry).await;
        }
        let tasks = [
            supervised_with("the queue of invocations", &inner, queue::run),
            supervised_with("what stops idle environments", &inner, reap),
        ];
        inner.tasks.lock().expect("held shortly").extend(tasks);
        Ok(Functions(inner))
    }

    /// By name.
    pub fn list(&self) -> Vec<FunctionInfo> {
        let entries = self.0.entries.read().expect("held shortly");
        entries.values().map(|entry| entry.info.clone()).collect()
    }

    pub fn get(&self, name: &str) -> Option<FunctionInfo> {
        self.0.entry(name).map(|entry| entry.info.clone())
    }

    /// Runs the function on one event, JSON (nothing counts as `{}`), and waits. The function's own failure is an
    /// `Ok` with a failed outcome. It runs to its end also if the caller goes away.
    pub async fn invoke(
        &self,
        name: &FunctionName,
        payload: Vec<u8>,
    ) -> Result<InvokeResult, Error> {
        let inner = self.0.clone();
        let entry = inner.invocable(name)?;
        let payload = check_payload(payload, inner.options.payload_bytes_max)?;
        let run = tokio::spawn(async move {
            let request_id = uuid::Uuid::new_v4().to_string();
            let call = Call {
                request_id: &request_id,
                kind: InvocationKind::Sync,
                attempt: 1,
            };
            let turn = entry.turn(call.kind).await?;
            turn.run(call, payload.as_bytes(), &inner.recorder).await
        });
        run.await.unwrap_or(Err(Error::Closed))
    }

    /// Queues one event and returns its request id as soon as it is on disk. It ends in a success or, after its
    /// retries, in a dead letter, also across a crash.
    pub async fn invoke_async(
        &self,
        name: &FunctionName,
        payload: Vec<u8>,
    ) -> Result<String, Error> {
        self.0.invocable(name)?;
        let payload = check_payload(payload, self.0.options.payload_async_bytes_max)?;
        queue::enqueue(&self.0, name, payload).await
    }

    /// The SQL function `name` of the code with this digest, whether it is deployed now or was before.
    pub fn scalar_of(&self, name: &str, digest: &str) -> Option<Arc<dyn ScalarFunction>> {
        let is_it =
            |scalar: &Arc<dyn ScalarFunction>| scalar.name() == name && scalar.digest() == digest;
        self.scalars().into_iter().find(is_it).or_else(|| {
            self.module_of(digest)?
                .scalars()
                .find(|scalar| scalar.name() == name)
        })
    }

    /// All SQL functions that are deployed now.
    pub fn scalars(&self) -> Vec<Arc<dyn ScalarFunction>> {
        let entries = self.0.entries.read().expect("held shortly");
        entries
            .values()
            .filter_map(|entry| match &entry.program {
                Program::Wasm { module, .. } => Some(module.scalars()),
                _ => None,
            })
            .flatten()
            .collect()
    }

    /// Code that was deployed, with the limits that it had.
    fn module_of(&self, digest: &str) -> Option<wasm::Module> {
        if digest.len() != 64 || !digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let inner = &self.0;
        let limits = inner.registry.limits(digest);
        let limits = wasm_limits(
            limits.timeout_ms,
            limits.memory_mb,
            inner.options.log_bytes_max,
        );
        let dir = inner.registry.code_dir(digest);
        if !dir.exists() {
            return None;
        }
        code::read_component(&dir, digest)
            .and_then(|code| Ok(inner.wasm.load(&code, limits)?))
            .inspect_err(|error| tracing::error!(digest, %error, "former code does not load"))
            .ok()
    }

    /// What the log must keep: of each stream the earliest position that a trigger or the queue has still to read.
    pub fn cursors(&self) -> Frontiers {
        let log = &self.0.options.log;
        let queue = self.0.options.streams.queue.id;
        let mut kept = Frontiers::default();
        let position = log
            .cursor(queue::CURSOR)
            .filter(|cursor| cursor.stream == queue)
            .map_or_else(|| log.snapshot().start(queue), |cursor| cursor.frontier);
        // The cursor moves when events end, and then stands before the record that says so.
        let ended = Frontier(vec![Offset(self.0.queue_ended.load(Ordering::Relaxed))]);
        let position = position.max(&ended);
        kept.set(queue, position);
        let mut keep = |stream: StreamId, frontier: Frontier| {
            let earliest = match kept.0.get(&stream) {
                Some(other) => other.min(&frontier),
                None => frontier,
            };
            kept.set(stream, earliest);
        };
        // Before the entries: a trigger that has just taken over is then seen there.
        for stream in self.0.starting.streams() {
            keep(stream, log.snapshot().start(stream));
        }
        let entries = self.0.entries.read().expect("held shortly");
        for mapping in entries.values().flat_map(|entry| &entry.mappings) {
            if let Some(cursor) = log.cursor(&mapping.cursor) {
                keep(cursor.stream, cursor.frontier);
            }
        }
        drop(entries);
        kept
    }

    /// Waits until everything that was recorded so far is in the system streams.
    pub async fn flush(&self) {
        self.0.recorder.flush().await;
    }

    /// Stops triggers and the queue, ends warm environments, flushes. What was running is repeated at the next
    /// start, unless a caller waits for it.
    pub async fn close(&self) {
        let inner = &self.0;
        inner.stop.send_replace(true);
        // A deployment that is under way ends before; the next one is refused.
        let _none = inner.deploying.lock().await;
        let names: Vec<FunctionName> = {
            let entries = inner.entries.read().expect("held shortly");
            entries.keys().cloned().collect()
        };
        for name in names {
            inner.stop_triggers(&name).await;
        }
        let tasks: Vec<_> = inner
            .tasks
            .lock()
            .expect("held shortly")
            .drain(..)
            .collect();
        for task in tasks {
            let _ = task.await;
        }
        inner.recorder.flush().await;
        let entries: Vec<Arc<Entry>> = {
            let entries = inner.entries.read().expect("held shortly");
            entries.values().cloned().collect()
        };
        for entry in entries {
            entry.reap(Duration::ZERO);
        }
    }
}

impl Inner {
    pub(crate) fn entry(&self, name: &str) -> Option<Arc<Entry>> {
        self.entries
            .read()
            .expect("held shortly")
            .get(name)
            .cloned()
    }

    fn existing(&self, name: &FunctionName) -> Result<Arc<Entry>, Error> {
        self.entry(name.as_str()).ok_or_else(|| Error::NotFound {
            name: name.to_string(),
        })
    }

    fn check_open(&self) -> Result<(), Error> {
        if *self.stop.borrow() {
            return Err(Error::Closed);
        }
        Ok(())
    }

    fn invocable(&self, name: &FunctionName) -> Result<Arc<Entry>, Error> {
        let entry = self.existing(name)?;
        self.check_open()?;
        if !entry.info.invocable {
            return Err(Error::NotInvocable {
                name: name.to_string(),
                exports: entry.info.scalars.join(", "),
            });
        }
        Ok(entry)
    }

    /// Where dead letters of a function go: its own stream if that exists and fits, or the house's.
    pub(crate) fn dead_letter_stream(&self, function: &str) -> Arc<Stream> {
        let house = &self.options.streams.dead_letters;
        self.entry(function)
            .and_then(|entry| (self.options.lookup)(entry.info.dead_letter.as_ref()?.as_str()))
            .filter(|stream| stream.schema.fields() == house.schema.fields())
            .unwrap_or_else(|| house.clone())
    }
}

/// Ends environments that nobody uses.
fn supervised_with<T>(
    what: &'static str,
    inner: &Arc<Inner>,
    make: impl Fn(Arc<Inner>) -> T + Send + Sync + 'static,
) -> tokio::task::JoinHandle<()>
where
    T: Future<Output = ()> + Send + 'static,
{
    let inner = Arc::clone(inner);
    tokio::spawn(async move { supervised(what, || make(Arc::clone(&inner))).await })
}

async fn reap(inner: Arc<Inner>) {
    let mut stop = inner.stop.subscribe();
    let idle = inner.options.idle;
    let mut turns = tokio::time::interval((idle / 4).max(Duration::from_millis(10)));
    loop {
        tokio::select! {
            _ = stop.wait_for(|&stopped| stopped) => return,
            _ = turns.tick() => {}
        }
        let entries: Vec<Arc<Entry>> = {
            let entries = inner.entries.read().expect("held shortly");
            entries.values().cloned().collect()
        };
        for entry in entries {
            entry.reap(idle);
        }
    }
}

fn wasm_limits(timeout_ms: u64, memory_mb: u32, log_bytes_max: usize) -> wasm::Limits {
    wasm::Limits {
        timeout: Duration::from_millis(timeout_ms),
        memory_mb,
        log_bytes_max,
    }
}

fn check_payload(payload: Vec<u8>, limit: usize) -> Result<String, Error> {
    if payload.len() > limit {
        return Err(Error::PayloadTooLarge {
            bytes: payload.len(),
            limit,
        });
    }
    if payload.is_empty() {
        return Ok("{}".to_owned());
    }
    let not_json = |error: &dyn std::fmt::Display| Error::PayloadNotJson {
        reason: error.to_string(),
    };
    // First, because text that nobody looks at is not checked to be UTF-8.
    let text = String::from_utf8(payload).map_err(|error| not_json(&error))?;
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(not_json(&error)),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Error::Closed))
}
