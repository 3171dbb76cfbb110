//! The engine: every room opened and wired, without doors.
//!
//! `serve`, `dev`, `demo` and `bench` all run this. What statements do to the layers stands in
//! `layers.rs`, what happens by itself in `upkeep.rs`.

mod batch_threads;
mod checkpoint;
mod compact;
mod erase;
mod errors;
mod holds;
pub(crate) mod layers;
mod loading;
#[cfg(test)]
mod tests;
mod trim;
mod upkeep;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use datafusion::execution::{
    disk_manager::DiskManagerBuilder,
    memory_pool::{FairSpillPool, TrackConsumersPool},
    runtime_env::RuntimeEnvBuilder,
};
use lambic_base::DirLock;
use lambic_batch::{Batch, Limits, PinnedHistory};
use lambic_dataset::{Dataset, ErasureLog, LocalStore, ObjectStore, Pin, Reader};
use lambic_functions::{Functions, SystemStreams, TraceFile, system_streams};
use lambic_log::Log;
use lambic_model::{Frontiers, StreamId};
use lambic_query::{Catalog, Database, Lifecycle, Parts, TransactionLimits};
use lambic_serving::Serving;
use lambic_speed::Speed;
use lambic_view::{Definition, join::IndexMemory, session};
use tokio::sync::watch;
use tracing::{error, warn};

use crate::{
    amount,
    backup::{self, Snapshots},
    commands::compile_component,
    settings::{self, Settings},
    tls::Tls,
};
use batch_threads::BatchThreads;
use erase::Erasures;
use layers::Layers;

/// Ids below 100 are the house's own; these are the first.
pub(crate) const SYSTEM_STREAM_FIRST: StreamId = StreamId(1);
/// How many of the largest memory users an out-of-memory error names.
const CONSUMERS_NAMED: usize = 5;
/// For the answer to those whose function was not waited for any longer.
const ANSWER_TIME: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct Options {
    pub data: PathBuf,
    pub settings: Settings,
}

impl Options {
    pub fn new(data: PathBuf, settings: Settings) -> Options {
        Options { data, settings }
    }
}

/// What the doors need to know.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    pub append_bytes_max: usize,
    pub server: settings::Server,
    pub keys: lambic_api::Keys,
    pub tls: Tls,
    /// How long requests that run may go on when the server stops.
    pub drain_max: Duration,
}

pub struct Engine {
    pub database: Database,
    pub functions: Functions,
    pub log: Log,
    pub serve_options: ServeOptions,
    layers: Arc<Layers>,
    stop: watch::Sender<bool>,
    running: upkeep::Running,
    // Given up last: no other process may open the folder while anything here still writes.
    lock: DirLock,
}

impl Engine {
    /// Opens the data folder, recovering what a crash left, and starts what runs by itself.
    pub async fn open(options: Options) -> anyhow::Result<Engine> {
        let lock = DirLock::acquire(&options.data)?;
        if let Some(unfinished) = backup::unfinished(&options.data) {
            anyhow::bail!(unfinished);
        }
        if lock.was_left() {
            warn!(
                "the last server of this data folder did not end in order: invocations that ran then may lack their end in lambic_logs and lambic_invocations"
            );
        }
        let store = Arc::new(LocalStore::open(&options.data)?);
        Engine::open_on(options, lock, store).await
    }

    async fn open_on(
        options: Options,
        lock: DirLock,
        store: Arc<dyn ObjectStore>,
    ) -> anyhow::Result<Engine> {
        let Options { data, settings } = options;
        let system: SystemStreams = system_streams(SYSTEM_STREAM_FIRST);
        let mut catalog = Catalog::open(data.join("catalog.json"), &system.all())?;
        let streams: Vec<_> = catalog.streams().cloned().collect();
        let views: Vec<_> = catalog.views().cloned().collect();

        let erasures = Erasures::open(ErasureLog::open(store.clone()).await?).await?;
        let dataset = Dataset::open(store, dataset_options(&settings)).await?;
        for stream in &streams {
            dataset.add_stream(Arc::clone(stream)).await?;
        }
        // A log that was moved away, or an older one, must not give offsets again that sealed records have.
        let mut sealed = Frontiers::default();
        for stream in &streams {
            sealed.set(stream.id, dataset.manifest(stream.id).frontier.clone());
        }
        let log = Log::open_after(log_options(&data, &settings), &streams, sealed)?;
        for stream in &streams {
            dataset
                .tidy(stream.id, &log.snapshot().start(stream.id))
                .await?;
        }
        for (stream, name) in catalog.dropped().clone() {
            log.remove_stream(stream).await?;
            dataset.erase_stream(stream, &name).await?;
            catalog.forget_dropped(stream)?;
        }
        // Before anything reads.
        erasures.leave_out(&log);

        let runtime = runtime(&data, &settings)?;
        let reader = Reader::new(dataset.clone(), log.clone(), &runtime)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let index_memory = Arc::new(IndexMemory::new(settings.memory.join_index_bytes_max));
        let config = session::config(cores).with_extension(index_memory);
        let state = session::state(config, runtime);
        let serving = Serving::default();
        let reading = Arc::new(state.clone());
        let tail_of = move |pin: &Pin| lambic_speed::At {
            log: pin.log().clone(),
            history: Box::new(PinnedHistory::new(pin.clone(), Arc::clone(&reading))),
        };
        let database = Database::new(Parts {
            catalog,
            serving: serving.clone(),
            reader: reader.clone(),
            tail_of: {
                let tail_of = tail_of.clone();
                Arc::new(move |pin: &Pin| Arc::new(tail_of(pin)) as _)
            },
            appender: Arc::new(log.clone()),
            state: state.clone(),
            transactions: transaction_limits(&settings),
        });
        // From here on functions run.
        lock.begin()
            .context("cannot write the data folder's LOCK")?;
        let functions = open_functions(&data, &log, system, &database, &settings).await;
        let functions = functions.inspect_err(|_| lock.end_unless_left())?;
        database.set_functions(functions.scalars());

        let threads = match settings.batch.threads {
            0 => cores,
            threads => threads,
        };
        let mut batch_state = state.clone();
        batch_state
            .config_mut()
            .options_mut()
            .execution
            .target_partitions = threads;
        let batch = Batch::new(reader.clone(), batch_state, batch_limits(&settings))?;
        batch.tidy().await?;

        let layers = Arc::new(Layers::new(layers::Parts {
            log: log.clone(),
            dataset,
            serving,
            batch,
            batch_threads: BatchThreads::new(threads, settings.batch.nice)?,
            speed: Arc::new(Speed::new(move || tail_of(&reader.pin()))),
            task: state.task_ctx(),
            functions: functions.clone(),
            erasures,
            snapshots: Snapshots::new(data),
        }));
        open_views(&layers, &database, views).await;
        database.attach(Arc::clone(&layers) as Arc<dyn Lifecycle>);

        let (stop, stopping) = watch::channel(false);
        let running = upkeep::start(&layers, &database, &settings, stopping)?;
        // Who waits for a function is answered as long as the function may run, and told when it may not any longer.
        let drain_max = Duration::from_secs(settings.functions.drain_s_max) + ANSWER_TIME;
        let drain_max = drain_max.max(lambic_api::Options::default().drain_max);
        let serve_options = ServeOptions {
            append_bytes_max: settings.log.append_bytes_max as usize,
            server: settings.server,
            keys: settings.auth.keys(),
            tls: settings.tls,
            drain_max,
        };
        Ok(Engine {
            database,
            functions,
            log,
            serve_options,
            layers,
            stop,
            running,
            lock,
        })
    }

    /// Moves everything that the log holds into the dataset.
    pub async fn seal_all(&self) -> anyhow::Result<()> {
        for stream in self.database.streams() {
            self.layers.seal(stream.id).await?;
        }
        Ok(())
    }

    /// Runs a view's batch from the first record on.
    pub async fn recompute(&self, view: &str) -> anyhow::Result<()> {
        Ok(self.layers.refresh_view(view, true).await?)
    }

    /// Ends what runs, in the order in which it depends on one another.
    pub async fn close(self) {
        self.stop.send_replace(true);
        self.running.ended().await;
        self.functions.close().await;
        self.database.detach();
        self.log.close().await;
        self.lock.end();
    }
}

/// Serves the views of the catalog, those that others select from first. One that cannot be served is
/// named with the reason and does not keep the others, or the streams, from being served.
async fn open_views(layers: &Layers, database: &Database, views: Vec<Definition>) {
    let mut waiting = views;
    while !waiting.is_empty() {
        let mut failed = Vec::new();
        let count = waiting.len();
        for definition in waiting {
            if let Err(error) = open_view(layers, database, &definition).await {
                failed.push((definition, error));
            }
        }
        if failed.len() == count {
            for (definition, error) in failed {
                error!(view = %definition.name, error = format!("{error:#}"), "view cannot be served");
                database.set_broken(definition.name.as_str(), format!("{error:#}"));
            }
            return;
        }
        waiting = failed
            .into_iter()
            .map(|(definition, _)| definition)
            .collect();
    }
}

async fn open_view(
    layers: &Layers,
    database: &Database,
    definition: &Definition,
) -> anyhow::Result<()> {
    let functions = layers.functions_of_view(definition)?;
    let planned = database.plan_definition(definition, &functions).await;
    let planned = planned.context("it can no longer be planned")?;
    layers.open_view(definition.clone(), planned).await
}

fn transaction_limits(settings: &Settings) -> TransactionLimits {
    TransactionLimits {
        bytes_max: usize::try_from(settings.log.append_bytes_max).unwrap_or(usize::MAX),
        bytes_together_max: settings.memory.transactions_bytes_max,
        ..TransactionLimits::default()
    }
}

fn batch_limits(settings: &Settings) -> Limits {
    let (batch, memory) = (&settings.batch, amount::memory_bytes());
    Limits {
        memory_bytes: batch.memory.of(memory),
        disk_bytes: batch.disk_bytes_max,
        view_bytes: batch.view_memory.of(memory),
        slice_records: batch.slice_records,
        io_bytes_per_s: (batch.io_bytes_per_s > 0).then_some(batch.io_bytes_per_s),
    }
}

fn dataset_options(settings: &Settings) -> lambic_dataset::Options {
    lambic_dataset::Options {
        file_bytes_max: settings.dataset.file_bytes_max,
        compact_files: settings.dataset.compact_files,
        ..lambic_dataset::Options::default()
    }
}

fn log_options(data: &Path, settings: &Settings) -> lambic_log::Options {
    lambic_log::Options {
        segment_bytes: settings.log.segment_bytes,
        append_bytes_max: settings.log.append_bytes_max,
        queue_bytes_max: settings.log.queue_bytes_max,
        producers_max: settings.log.producers_max,
        ..lambic_log::Options::new(data.join("log"))
    }
}

fn runtime(
    data: &Path,
    settings: &Settings,
) -> anyhow::Result<Arc<datafusion::execution::runtime_env::RuntimeEnv>> {
    let spill = data.join("tmp");
    // What a killed server had spilled is nobody's.
    match std::fs::remove_dir_all(&spill) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot clear {}", spill.display()));
        }
        _ => {}
    }
    std::fs::create_dir_all(&spill)
        .with_context(|| format!("cannot create {}", spill.display()))?;
    let pool = TrackConsumersPool::new(
        FairSpillPool::new(settings.memory.query_bytes_max),
        std::num::NonZeroUsize::new(CONSUMERS_NAMED).expect("not zero"),
    );
    let disk = DiskManagerBuilder::default()
        .with_max_temp_directory_size(settings.memory.query_disk_bytes_max)
        .with_mode(datafusion::execution::disk_manager::DiskManagerMode::Directories(vec![spill]));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(pool))
        .with_disk_manager_builder(disk);
    Ok(Arc::new(runtime.build()?))
}

async fn open_functions(
    data: &Path,
    log: &Log,
    system: SystemStreams,
    database: &Database,
    settings: &Settings,
) -> anyhow::Result<Functions> {
    let catalog = database.clone();
    let lookup = Arc::new(move |name: &str| catalog.stream(name));
    let mut options = lambic_functions::Options::new(
        data.join("functions"),
        log.clone(),
        system,
        lookup,
        Arc::new(lambic_connectors::json_list),
    );
    options.decode_arrow = Arc::new(lambic_connectors::arrow_answer);
    options.python = settings.functions.python.clone();
    options.node = settings.functions.node.clone();
    options.interpreters = settings.functions.interpreters.clone();
    options.weak_isolation = settings.functions.weak_isolation;
    options.compiler = compile_component::compiler();
    options.loading = Some(loading::teller());
    options.images = settings.functions.images.clone();
    options.registry_accounts = Some(settings.functions.registry_accounts.clone())
        .filter(|file| !file.as_os_str().is_empty());
    options.spares = settings.functions.spares;
    options.traces = (!settings.traces.file.as_os_str().is_empty()).then(|| TraceFile {
        path: settings.traces.file.clone(),
        bytes_max: settings.traces.bytes_max,
    });
    options.memory_mb_max = settings.functions.memory_mb_of(amount::memory_bytes());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    options.processors_milli_max = settings.functions.processors_milli_of(processors);
    options.timeout_max = Duration::from_secs(settings.functions.timeout_s_max);
    options.async_retry_waits = settings.functions.retry_waits();
    options.async_age_max = Duration::from_secs(settings.functions.async_age_s_max);
    options.drain_max = Duration::from_secs(settings.functions.drain_s_max);
    Ok(Functions::open(options).await?)
}
