//! Functions: registry, scheduler, pool, queue of events, triggers of streams.
//!
//! The way of an event is `registry → scheduler → pool → sandbox`, then back to the caller, to the output
//! stream or to the dead letters. What functions did is streams too ([`system_streams`]). This room does not know
//! SQL, what is in a request over HTTP, or what a view is; streams are looked up through [`Options::lookup`].

mod admission;
mod answers;
mod append;
mod arn;
mod backup;
mod burst;
mod check;
mod chosen;
mod code;
mod columnar;
mod counts;
mod deploy;
mod deployment;
mod destination;
mod drain;
mod endpoint;
mod entry;
mod error;
mod events;
mod fair;
mod filter;
mod function;
mod image;
mod inspect;
mod interpreters;
mod invoke;
mod layers;
mod loading;
mod long_init;
mod mapping;
mod notices;
mod options;
mod outliving;
mod platform;
pub mod policy;
mod pool;
mod program;
mod provisioned;
mod queue;
mod recorder;
mod records;
mod registry;
mod rules;
mod said;
mod scalars;
mod services;
mod slots;
mod snap_start;
mod sources;
mod spares;
mod streamed;
mod streams;
mod sweep;
#[cfg(test)]
mod tests;
mod traces;
mod triggers;
mod turns;
mod unzip;
mod values;
mod version;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use arn::{ACCOUNT, REGION, function_arn};
pub use backup::{DeploymentsHeld, restored};
pub use chosen::{Chosen, Served};
pub use counts::Counts;
pub use deployment::{
    Changes, Code, Deployment, FunctionInfo, HOSTS_VARIABLE, LayerUse, Runtime, Settings, Start,
    TMP_MB_DEFAULT, Takes, Trigger, Upload,
};
pub use destination::Destination;
pub use endpoint::Endpoint;
pub use error::Error;
pub use function::{
    Alias, AsyncSettings, Function, Policy, Provisioned, Url, check_description, check_revision,
    check_tags, new_revision,
};
pub use image::{
    ImageConfig, ImageSource, ImageTrouble, ImageUse, Pulled, local_path as image_path,
    seen_from as image_seen_from,
};
pub use inspect::{Inspected, inspect, inspect_beside, inspect_kept};
pub use interpreters::Runtimes;
pub use invoke::{CODE_BROKEN, Event, Form, InvokeResult, RUNTIME_GONE};
use lambic_base::supervised;
use lambic_model::{Frontier, Frontiers, FunctionName, Offset, Stream, StreamId};
/// Of components.
pub use lambic_sandbox::wasm::{
    BodyCut, Compiler, HttpRequest, HttpResponse, RequestBody, compile_stdin,
};
use lambic_sandbox::{
    process::{self, Isolation},
    wasm,
};
pub use layers::{Layer, LayerSettings, LayerVersion};
pub use loading::{Loading, TellLoading};
pub use mapping::StatesHeld;
pub use options::{Decode, Options, StreamLookup};
pub use provisioned::ProvisionedStatus;
pub use rules::Rules;
pub use sources::{EventSource, NewSource};
pub use streamed::{Chunk, Streamed};
pub use streams::{SystemStreams, system_streams};
use tokio::sync::{Notify, OnceCell, watch};
pub use traces::TraceFile;
pub use values::{Saved as SavedValues, inspect as inspect_values};
pub use version::{FunctionVersion, Qualifier};

use crate::{
    admission::Machine,
    drain::Drain,
    entry::Entry,
    image::Images,
    interpreters::Interpreters,
    invoke::check_payload,
    notices::Notices,
    program::Program,
    recorder::Recorder,
    registry::Registry,
    slots::Slots,
    spares::Spares,
    traces::Traces,
    triggers::{Starting, Triggers},
    values::Values,
};

/// The service; clones share it.
#[derive(Clone)]
pub struct Functions(Arc<Inner>);

pub(crate) struct Inner {
    options: Options,
    registry: Registry,
    images: Images,
    wasm: wasm::Wasm,
    values: Values,
    /// For what outlives a call.
    this: Weak<Inner>,
    isolation: OnceCell<Isolation>,
    interpreters: Interpreters,
    machine: Machine,
    spares: Spares,
    /// Something may have changed of what is provisioned; of what is named.
    provisioned_changed: Notify,
    code_changed: Notify,
    /// An event asked for an environment of a version with SnapStart.
    snap_start_used: Notify,
    drain: Drain,
    slots: RwLock<Slots>,
    layers: RwLock<BTreeMap<String, Arc<Layer>>>,
    triggers: Triggers,
    starting: Starting,
    /// Of states of windows.
    forgetting: Arc<mapping::Forgetting>,
    /// How the batches of each event source mapping went, by its cursor.
    processed: Mutex<BTreeMap<String, mapping::Processed>>,
    recorder: Recorder,
    notices: Notices,
    traces: Traces,
    stop: watch::Sender<bool>,
    /// One deployment at a time.
    deploying: tokio::sync::Mutex<()>,
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// All queued events before this offset have ended, and their ends are kept.
    queue_ended: AtomicU64,
    /// Every attempt and append of the queue holds a receiver, so that a queue that begins anew can wait for their end.
    queue_busy: watch::Sender<()>,
}

impl Functions {
    /// Loads what is deployed and goes on where it stopped.
    pub async fn open(options: Options) -> Result<Functions, Error> {
        let registry = Registry::open(&options.dir)?;
        process::remove_left_behind(&registry.codes());
        let mut wasm = wasm::Wasm::new(registry.compiled_dir())?;
        if let Some(compiler) = options.compiler.clone() {
            wasm = wasm.with_compiler(compiler);
        }
        let stored = registry.load()?;
        let images = Images::open(&options)?;
        let used = stored.clone();
        let kept = images.clone();
        let removed = blocking(move || kept.keep_only(&images_of(&used))).await;
        if let Err(error) = removed {
            tracing::warn!(%error, "images that no function uses stay");
        }
        let layers = registry.load_layers()?.into_iter();
        let layers = layers.map(|layer| (layer.name.clone(), Arc::new(layer)));
        let recorder = Recorder::start(options.log.clone(), options.streams.clone());
        let traces = Traces::open(options.traces.as_ref())?;
        let values = Values::new(registry.values_dir(), options.values_bytes_max);
        let is_there = |name: &str| {
            stored
                .iter()
                .any(|function| function.info.name.as_str() == name)
        };
        if let Err(error) = values.forget_all_but(is_there) {
            // Components that ask for them are told, and nobody else needs them.
            tracing::error!(%error, "values of functions");
        }
        let inner = Arc::new_cyclic(|this| Inner {
            registry: registry.clone(),
            images,
            wasm,
            values,
            this: this.clone(),
            isolation: OnceCell::new(),
            interpreters: Interpreters::new(&options),
            machine: Machine::new(&options),
            spares: Spares::new(&options, registry.codes()),
            provisioned_changed: Notify::new(),
            code_changed: Notify::new(),
            snap_start_used: Notify::new(),
            drain: Drain::default(),
            slots: RwLock::new(Slots::new(&options)),
            layers: RwLock::new(layers.collect()),
            triggers: Triggers::default(),
            starting: Starting::default(),
            forgetting: Arc::default(),
            processed: Mutex::default(),
            recorder,
            notices: Notices::default(),
            traces,
            stop: watch::Sender::new(false),
            deploying: tokio::sync::Mutex::new(()),
            tasks: Mutex::default(),
            queue_ended: AtomicU64::new(0),
            queue_busy: watch::Sender::new(()),
            options,
        });
        let mut teller = loading::Teller::new(inner.options.loading.clone(), stored.len());
        for (ready, mut function) in stored.into_iter().enumerate() {
            for info in function.versions.values_mut().chain([&mut function.info]) {
                check::clamp(info, inner.options.timeout_max);
                let name = &info.settings.runtime_name;
                inner.interpreters.know(info.runtime, name).await;
                // Servers before this one did not.
                if !registry.has_limits(&info.digest) {
                    registry.keep_limits(info)?;
                }
            }
            let name = function.info.name.to_string();
            let is_component = function.info.runtime == Runtime::Wasm;
            let program = inner.program_or_broken(&function.info);
            let program = teller.during(ready, &name, is_component, program).await?;
            inner.put(function, program, None).await;
        }
        teller.done();
        let tasks = [
            supervised_with("the queue of invocations", &inner, queue::run),
            supervised_with("what stops idle environments", &inner, pool::reap),
            supervised_with("what keeps spare environments", &inner, spares::keep),
            supervised_with(
                "what keeps provisioned environments",
                &inner,
                provisioned::keep,
            ),
            supervised_with(
                "what keeps environments that wait to be restored",
                &inner,
                snap_start::keep,
            ),
            supervised_with("what removes code", &inner, sweep::run),
        ];
        inner.tasks.lock().expect("held shortly").extend(tasks);
        Ok(Functions(inner))
    }

    /// What is deployed now, by name.
    pub fn list(&self) -> Vec<FunctionInfo> {
        let slots = self.0.slots.read().expect("held shortly");
        let functions = slots.functions();
        functions.map(|function| function.info.clone()).collect()
    }

    pub fn get(&self, name: &str) -> Option<FunctionInfo> {
        Some(self.function(name).ok()?.info.clone())
    }

    /// By name, with everything that is kept of them.
    pub fn functions(&self) -> Vec<Arc<Function>> {
        let slots = self.0.slots.read().expect("held shortly");
        slots.functions().cloned().collect()
    }

    pub fn function(&self, name: &str) -> Result<Arc<Function>, Error> {
        let slots = self.0.slots.read().expect("held shortly");
        slots.function(name).ok_or_else(|| Error::NotFound {
            name: name.to_owned(),
        })
    }

    /// What answers at a function's URL, by the URL's id.
    pub fn endpoint(&self, id: &str) -> Option<Arc<Endpoint>> {
        self.0.slots.read().expect("held shortly").endpoint(id)
    }

    /// Why the code of a version cannot be run, if that was found out.
    pub fn state(&self, info: &FunctionInfo) -> Result<(), String> {
        let slots = self.0.slots.read().expect("held shortly");
        let broken = slots
            .entries()
            .filter(|entry| entry.info.name == info.name && entry.info.version == info.version)
            .find_map(|entry| match entry.program() {
                Some(Program::Broken { reason, .. }) => Some(reason.clone()),
                _ => None,
            });
        broken.map_or(Ok(()), Err)
    }

    /// A zip that was uploaded, by its SHA-256, hex.
    pub fn zip(&self, sha256: &str) -> Option<std::path::PathBuf> {
        self.0.registry.zip(sha256)
    }

    /// How long functions may be allowed to run.
    pub fn timeout_max(&self) -> Duration {
        self.0.options.timeout_max
    }

    /// Of what an invocation that is waited for may be given.
    pub fn payload_bytes_max(&self) -> usize {
        self.0.options.payload_bytes_max
    }

    /// Runs `$LATEST` on one event, JSON (nothing counts as `{}`), and waits. The function's own failure is an
    /// `Ok` with a failed outcome. It runs to its end also if the caller goes away.
    pub async fn invoke(
        &self,
        name: &FunctionName,
        payload: Vec<u8>,
    ) -> Result<InvokeResult, Error> {
        let event = Event {
            payload,
            ..Event::default()
        };
        self.invoke_at(name, None, event).await
    }

    /// The same, of a version or alias.
    pub async fn invoke_at(
        &self,
        name: &FunctionName,
        qualifier: Option<Qualifier>,
        event: Event,
    ) -> Result<InvokeResult, Error> {
        self.choose(name, qualifier)?.invoke(event).await
    }

    /// Queues one event and returns its request id as soon as it is on disk. It ends in a success or, after its
    /// retries, in a dead letter, also across a crash.
    pub async fn invoke_async(
        &self,
        name: &FunctionName,
        payload: Vec<u8>,
    ) -> Result<String, Error> {
        self.invoke_async_at(name, None, payload).await
    }

    /// The same, of a version or alias; what an alias points to is looked up at each attempt.
    pub async fn invoke_async_at(
        &self,
        name: &FunctionName,
        qualifier: Option<Qualifier>,
        payload: Vec<u8>,
    ) -> Result<String, Error> {
        let event = Event {
            payload,
            ..Event::default()
        };
        self.invoke_async_with(name, qualifier, event).await
    }

    /// The same, with the caller's trace, which all attempts have. As on AWS, they have no client context.
    pub async fn invoke_async_with(
        &self,
        name: &FunctionName,
        qualifier: Option<Qualifier>,
        event: Event,
    ) -> Result<String, Error> {
        let entry = self.0.invocable(name, qualifier.as_ref())?;
        entry.info.check_form(event.form)?;
        let payload = check_payload(event.payload, self.0.options.payload_async_bytes_max)?;
        let target = match qualifier {
            None | Some(Qualifier::LATEST) => name.to_string(),
            Some(qualifier) => format!("{name}:{qualifier}"),
        };
        queue::enqueue(&self.0, target, payload, event.trace_id).await
    }

    /// Whether an invocation would be taken.
    pub fn check_invocable(
        &self,
        name: &FunctionName,
        qualifier: Option<&Qualifier>,
    ) -> Result<(), Error> {
        self.0.invocable(name, qualifier).map(drop)
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
        let slots = self.0.slots.read().expect("held shortly");
        for mapping in slots
            .functions()
            .flat_map(|function| function.all_mappings())
        {
            if let Some(position) = mapping::position(log, &mapping.cursor) {
                keep(mapping.stream_id, position);
            }
        }
        drop(slots);
        kept
    }

    /// Waits until everything that was recorded so far is in the system streams.
    pub async fn flush(&self) {
        self.0.recorder.flush().await;
    }

    /// Stops triggers and the queue, lets end what may ([`Functions::drain`]), ends environments, flushes. A batch that
    /// was running is repeated at the next start.
    pub async fn close(&self) {
        let inner = &self.0;
        self.drain().await;
        // A deployment that is under way ends before; the next one is refused.
        let _none = inner.deploying.lock().await;
        for function in self.functions() {
            inner.stop_triggers(&function.info.name).await;
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
        inner.traces.flush().await;
        for entry in inner.entries() {
            entry.pool.end().await;
        }
    }
}

impl Inner {
    /// The latest deployment.
    pub(crate) fn entry(&self, name: &str) -> Option<Arc<Entry>> {
        self.slots.read().expect("held shortly").latest(name)
    }

    /// Everything that may have environments.
    fn entries(&self) -> Vec<Arc<Entry>> {
        let slots = self.slots.read().expect("held shortly");
        slots.entries().cloned().collect()
    }

    /// False if another deployment took over.
    pub(crate) fn serves(&self, entry: &Arc<Entry>) -> bool {
        let slots = self.slots.read().expect("held shortly");
        slots.entries().any(|present| Arc::ptr_eq(present, entry))
    }

    /// Whether records of the stream invoke the function.
    pub(crate) fn is_fed_by(&self, name: &FunctionName, stream: &str) -> bool {
        let slots = self.slots.read().expect("held shortly");
        slots.function(name.as_str()).is_some_and(|function| {
            let mut mappings = function.all_mappings();
            mappings.any(|mapping| mapping.stream.as_str() == stream)
        })
    }

    /// How queued events for `name` or `name:qualifier` are tried, if that was set.
    pub(crate) fn async_settings(&self, name: &str) -> Option<AsyncSettings> {
        let (name, qualifier) = version::split(name);
        let slots = self.slots.read().expect("held shortly");
        let function = slots.function(name)?;
        function.async_settings(qualifier.as_ref()).cloned()
    }

    /// What a queued event for `name` or `name:qualifier` runs this time.
    pub(crate) fn chosen(&self, name: &str) -> Result<Arc<Entry>, Error> {
        let (name, qualifier) = version::split(name);
        self.chosen_of(name, qualifier.as_ref())
    }

    fn chosen_of(&self, name: &str, qualifier: Option<&Qualifier>) -> Result<Arc<Entry>, Error> {
        let share = rand::random();
        let present = {
            let slots = self.slots.read().expect("held shortly");
            slots.chosen_present(name, qualifier, share)?
        };
        if let Some(entry) = present {
            return Ok(entry);
        }
        // Nobody else waits for those who come to a version first.
        let mut slots = self.slots.write().expect("held shortly");
        slots.chosen_of(name, qualifier, share, &self.options)
    }

    fn existing(&self, name: &FunctionName) -> Result<Arc<Function>, Error> {
        let slots = self.slots.read().expect("held shortly");
        slots
            .function(name.as_str())
            .ok_or_else(|| Error::NotFound {
                name: name.to_string(),
            })
    }

    /// A function or layer is not what it was.
    fn changed(&self) {
        self.provisioned_changed.notify_one();
        self.code_changed.notify_one();
    }

    fn check_open(&self) -> Result<(), Error> {
        if *self.stop.borrow() {
            return Err(Error::Closed);
        }
        Ok(())
    }

    fn invocable(
        &self,
        name: &FunctionName,
        qualifier: Option<&Qualifier>,
    ) -> Result<Arc<Entry>, Error> {
        let entry = self.chosen_of(name.as_str(), qualifier)?;
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
        self.entry(version::split(function).0)
            .and_then(|entry| (self.options.lookup)(entry.info.dead_letter.as_ref()?.as_str()))
            .filter(|stream| stream.schema.fields() == house.schema.fields())
            .unwrap_or_else(|| house.clone())
    }
}

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

fn wasm_limits(timeout_ms: u64, memory_mb: u32, log_bytes_max: usize) -> wasm::Limits {
    wasm::Limits {
        timeout: Duration::from_millis(timeout_ms),
        memory_mb,
        log_bytes_max,
    }
}

/// The digests of all that functions and their versions run.
fn images_of(functions: &[Function]) -> BTreeSet<String> {
    let infos = functions.iter().flat_map(|function| {
        let versions = function.versions.values();
        versions.chain([&function.info])
    });
    infos
        .filter(|info| info.runtime == Runtime::Image)
        .map(|info| info.digest.clone())
        .collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(Error::Closed))
}
