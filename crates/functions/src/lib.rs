//! Functions: registry, scheduler, pool, queue of events, triggers of streams.
//!
//! The way of an event is `registry → scheduler → pool → sandbox`, then back to the caller, to the output
//! stream or to the dead letters. What functions did is streams too ([`system_streams`]). This room does not know
//! SQL, HTTP or what a view is; streams are looked up through [`Options::lookup`].

mod append;
mod check;
mod deployment;
mod entry;
mod error;
mod events;
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
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

pub use deployment::{Code, Deployment, FunctionInfo, Runtime, Start, Trigger};
pub use error::Error;
pub use invoke::InvokeResult;
use lambic_model::{Frontiers, FunctionName, InvocationKind, ScalarFunction, Stream};
use lambic_sandbox::{
    process::{Environment, Isolation, Spec},
    wasm,
};
pub use options::{Options, StreamLookup};
pub use streams::{SystemStreams, system_streams};
use tokio::sync::{OnceCell, watch};

use crate::{
    entry::{Call, Entry, Program},
    recorder::Recorder,
    registry::{Registry, Stored},
    triggers::Triggers,
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
    recorder: Recorder,
    stop: watch::Sender<bool>,
    /// One deployment at a time.
    deploying: tokio::sync::Mutex<()>,
    tasks: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

impl Functions {
    /// Loads what is deployed and goes on where it stopped.
    pub async fn open(options: Options) -> Result<Functions, Error> {
        let registry = Registry::open(&options.dir)?;
        let wasm = wasm::Wasm::new(registry.compiled_dir())?;
        let stored = registry.load()?;
        let recorder = Recorder::start(options.log.clone(), options.streams.clone());
        let inner = Arc::new(Inner {
            registry: registry.clone(),
            wasm,
            isolation: OnceCell::new(),
            entries: RwLock::default(),
            triggers: Triggers::default(),
            recorder,
            stop: watch::Sender::new(false),
            deploying: tokio::sync::Mutex::new(()),
            tasks: Mutex::default(),
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
            tokio::spawn(queue::run(inner.clone())),
            tokio::spawn(reap(inner.clone())),
        ];
        inner.tasks.lock().expect("held shortly").extend(tasks);
        Ok(Functions(inner))
    }

    /// Checks, stores and starts the code, then lets it take over. After an error the former deployment serves on.
    pub async fn deploy(&self, deployment: Deployment) -> Result<FunctionInfo, Error> {
        let inner = &self.0;
        let _one = inner.deploying.lock().await;
        check::check(
            &deployment,
            &inner.options.lookup,
            &inner.options.streams.dead_letters,
        )?;
        let former = inner.entry(deployment.name.as_str());
        let (deployment, code) = blocking(move || {
            let code = registry::read_code(&deployment)?;
            Ok((deployment, code))
        })
        .await?;
        let mut info = FunctionInfo {
            name: deployment.name.clone(),
            runtime: deployment.runtime,
            handler: code.handler.clone(),
            timeout_ms: deployment.timeout.as_millis() as u64,
            memory_mb: deployment.memory_mb,
            environment: deployment.environment.clone(),
            triggers: deployment.triggers.clone(),
            output: deployment.output.clone(),
            retries: deployment.retries,
            dead_letter: deployment.dead_letter.clone(),
            concurrency: deployment.concurrency,
            digest: code.digest.clone(),
            code_bytes: code.bytes,
            deployment: former.as_ref().map_or(1, |entry| entry.info.deployment + 1),
            deployed_at_us: inner.options.clock.now_us(),
            invocable: true,
            scalars: Vec::new(),
        };
        let registry = inner.registry.clone();
        blocking(move || registry.store_code(&code)).await?;
        let program = inner.program(&info).await.map_err(|error| match error {
            Error::Sandbox(
                error @ (lambic_sandbox::Error::NotAComponent { .. }
                | lambic_sandbox::Error::WrongWorld { .. }),
            ) => Error::BadDeployment {
                name: info.name.to_string(),
                reason: error.to_string(),
            },
            error => error,
        })?;
        if let Program::Wasm { module, .. } = &program {
            info.invocable = module.is_handler();
            info.scalars = module.signatures();
            inner.check_scalars(&info, module)?;
            if !info.invocable && !info.triggers.is_empty() {
                return Err(Error::BadDeployment {
                    name: info.name.to_string(),
                    reason: "it has triggers but exports no `handle`".to_owned(),
                });
            }
        }
        let warm = inner.trial(&info, &program, deployment.trial).await?;
        let mappings = inner.mappings(&info, former.as_deref()).await?;
        let stored = Stored {
            info: info.clone(),
            mappings: mappings.clone(),
        };
        let registry = inner.registry.clone();
        blocking(move || {
            registry.keep_limits(&stored.info)?;
            registry.save(&stored)
        })
        .await?;
        let entry = Arc::new(Entry::new(info.clone(), mappings, program, &inner.options));
        if let Some(environment) = warm {
            entry.keep_warm(environment);
        }
        inner.put(entry.clone()).await;
        if let Some(former) = former {
            inner.drop_cursors(&former.mappings, &entry.mappings).await;
        }
        Ok(info)
    }

    pub async fn remove(&self, name: &FunctionName) -> Result<(), Error> {
        let inner = &self.0;
        let _one = inner.deploying.lock().await;
        let entry = inner.existing(name)?;
        let registry = inner.registry.clone();
        let removed = name.clone();
        blocking(move || registry.remove(&removed)).await?;
        inner.stop_triggers(name).await;
        inner.entries.write().expect("held shortly").remove(name);
        inner.drop_cursors(&entry.mappings, &[]).await;
        Ok(())
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

    /// A SQL function: by name, what is deployed now; by digest of the code, also what was deployed before.
    pub fn scalar(&self, name_or_digest: &str) -> Option<Arc<dyn ScalarFunction>> {
        let all = self.scalars();
        let found = all
            .iter()
            .find(|scalar| scalar.name() == name_or_digest || scalar.digest() == name_or_digest);
        if let Some(found) = found {
            return Some(found.clone());
        }
        self.module_of(name_or_digest)?.scalars().next()
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
        let path = inner.registry.code_dir(digest).join("function.wasm");
        let code = match std::fs::read(&path) {
            Ok(code) => code,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(digest, %error, "former code cannot be read");
                return None;
            }
        };
        // Before it is compiled, so that damaged code never gets into the cache of compiled code.
        if registry::digest_of(&code) != digest {
            tracing::error!(digest, path = %path.display(),
                "former code is damaged: its content is not what was deployed; put the file back from a backup");
            return None;
        }
        inner
            .wasm
            .load(&code, limits)
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
        kept.set(queue, position);
        let entries = self.0.entries.read().expect("held shortly");
        for mapping in entries.values().flat_map(|entry| &entry.mappings) {
            let Some(cursor) = log.cursor(&mapping.cursor) else {
                continue;
            };
            let frontier = match kept.0.get(&cursor.stream) {
                Some(other) => other.min(&cursor.frontier),
                None => cursor.frontier,
            };
            kept.set(cursor.stream, frontier);
        }
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

    fn invocable(&self, name: &FunctionName) -> Result<Arc<Entry>, Error> {
        let entry = self.existing(name)?;
        if *self.stop.borrow() {
            return Err(Error::Closed);
        }
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

    /// SQL has one function of a name.
    fn check_scalars(&self, info: &FunctionInfo, module: &wasm::Module) -> Result<(), Error> {
        let entries = self.entries.read().expect("held shortly");
        for other in entries
            .values()
            .filter(|other| other.info.name != info.name)
        {
            let Program::Wasm { module: theirs, .. } = &other.program else {
                continue;
            };
            for scalar in module.scalars() {
                if theirs.scalars().any(|their| their.name() == scalar.name()) {
                    return Err(Error::BadDeployment {
                        name: info.name.to_string(),
                        reason: format!(
                            "function `{}` already exports the SQL function `{}`",
                            other.info.name,
                            scalar.name()
                        ),
                    });
                }
            }
        }
        Ok(())
    }

    /// Makes stored code ready to run.
    async fn program(&self, info: &FunctionInfo) -> Result<Program, Error> {
        let code_dir = self.registry.code_dir(&info.digest);
        let environment: Vec<(String, String)> = info.environment.clone().into_iter().collect();
        let log_bytes_max = self.options.log_bytes_max;
        match info.runtime {
            Runtime::Wasm => {
                let limits = wasm_limits(info.timeout_ms, info.memory_mb, log_bytes_max);
                let (wasm, path) = (self.wasm.clone(), code_dir.join("function.wasm"));
                let module = blocking(move || {
                    let code = std::fs::read(&path).map_err(Error::io("read", &path))?;
                    Ok(wasm.load(&code, limits)?)
                })
                .await?;
                if module.digest() != info.digest {
                    return Err(Error::Damaged {
                        path: code_dir,
                        reason: "its content is not what was deployed".to_owned(),
                    });
                }
                Ok(Program::Wasm {
                    module,
                    limits,
                    environment,
                })
            }
            Runtime::Python => {
                let isolation = self
                    .isolation
                    .get_or_try_init(|| Isolation::probe(&self.options.python, &self.options.dir))
                    .await?
                    .clone();
                Ok(Program::Process(Arc::new(Spec {
                    function: info.name.to_string(),
                    qualifier: info.deployment.to_string(),
                    handler: info.handler.clone(),
                    code_dir,
                    environment,
                    memory_mb: info.memory_mb,
                    log_bytes_max,
                    init_timeout: self.options.init_timeout,
                    isolation,
                })))
            }
        }
    }

    /// Starts a process once, so that code that cannot start does not take over.
    async fn trial(
        &self,
        info: &FunctionInfo,
        program: &Program,
        wanted: bool,
    ) -> Result<Option<Environment>, Error> {
        let (Program::Process(spec), true) = (program, wanted) else {
            return Ok(None);
        };
        match Environment::start(spec.clone()).await? {
            Ok(environment) => Ok(Some(environment)),
            Err(failed) => {
                let (error_type, message) = match failed.outcome {
                    lambic_model::Outcome::Failure {
                        error_type,
                        payload,
                    } => (error_type, records::error_message(&payload)),
                    lambic_model::Outcome::Success(_) => Default::default(),
                };
                Err(Error::BadStart {
                    name: info.name.to_string(),
                    error_type,
                    message,
                })
            }
        }
    }
}

/// Ends environments that nobody uses.
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
