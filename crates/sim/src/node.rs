//! One server without doors: the rooms, wired over a simulated disk as the binary wires them over the real one.

use std::{path::Path, sync::Arc};

use arrow::{
    array::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::TryStreamExt as _;
use lambic_base::{Clock, Disk as _, ManualClock, disk::SimDisk};
use lambic_batch::{Batch, Limits, PinnedHistory};
use lambic_dataset::{Dataset, LocalStore, Pin, Reader};
use lambic_log::Log;
use lambic_model::{Frontiers, Stream, StreamId};
use lambic_query::{Catalog, Database, Lifecycle, Outcome, Parts, Session, TransactionLimits};
use lambic_serving::Serving;
use lambic_speed::Speed;
use lambic_view::session;

use crate::{
    keys::SimKeys,
    layers::{Layers, LayersParts},
    reads::Reads,
};

/// The data folder.
pub const DATA: &str = "/data";

/// The machine that a server runs on.
#[derive(Debug, Clone)]
pub struct Machine {
    pub disk: SimDisk,
    pub keys: SimKeys,
    pub clock: Arc<dyn Clock>,
}

impl Machine {
    /// With a new key store and a clock that stands still.
    pub fn on(disk: SimDisk) -> Machine {
        Machine {
            keys: SimKeys::new(disk.clone()),
            clock: Arc::new(ManualClock::new(1_700_000_000_000_000)),
            disk,
        }
    }
}

/// Small, so that a few appends meet every boundary.
const SEGMENT_BYTES: u64 = 4 << 10;
const FILE_ROWS_MAX: u64 = 12;
const MANIFESTS_KEPT: usize = 3;

pub struct Node {
    pub log: Log,
    pub database: Database,
    layers: Arc<Layers>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Node {
    /// Recovers what a crash left, and serves the views of the catalog.
    pub async fn open(machine: &Machine) -> Result<Node, String> {
        let data = Path::new(DATA);
        let Machine { disk, keys, clock } = machine;
        disk.create_dir(data).map_err(text)?;
        let shared = Arc::new(disk.clone());
        let catalog = Catalog::open_on(shared.clone(), data.join("catalog.json"), &[]);
        let catalog = catalog.map_err(text)?;
        let streams: Vec<Arc<Stream>> = catalog.streams().cloned().collect();
        let views: Vec<_> = catalog.views().cloned().collect();

        let reads = Arc::new(Reads::new(disk.clone(), data.to_owned()));
        let store = LocalStore::open_on(shared.clone(), reads, data.to_owned()).map_err(text)?;
        let options = lambic_dataset::Options {
            file_rows_max: FILE_ROWS_MAX,
            manifests_kept: MANIFESTS_KEPT,
            ..lambic_dataset::Options::default()
        };
        let dataset = Dataset::open(Arc::new(store), options)
            .await
            .map_err(text)?;
        let mut sealed = Frontiers::default();
        for stream in &streams {
            dataset.add_stream(stream.clone()).await.map_err(text)?;
            sealed.set(stream.id, dataset.manifest(stream.id).frontier.clone());
        }
        let options = lambic_log::Options {
            segment_bytes: SEGMENT_BYTES,
            // Reads meet the disk.
            cache_bytes_max: 1 << 10,
            clock: clock.clone(),
            disk: shared,
            keys: Arc::new(keys.clone()),
            ..lambic_log::Options::new(data.join("log"))
        };
        let log = Log::open_after(options, &streams, sealed).map_err(text)?;
        for stream in &streams {
            let start = log.snapshot().start(stream.id);
            dataset.tidy(stream.id, &start).await.map_err(text)?;
        }

        let runtime = Arc::new(RuntimeEnv::default());
        let reader = Reader::new(dataset.clone(), log.clone(), &runtime).map_err(text)?;
        let state = session::state(session::config(1), runtime);
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
            transactions: TransactionLimits::default(),
        });
        let layers = Arc::new(Layers(LayersParts {
            log: log.clone(),
            dataset,
            serving,
            batch: Batch::new(reader.clone(), state.clone(), Limits::default()).map_err(text)?,
            speed: Arc::new(Speed::new(move || tail_of(&reader.pin()))),
            task: state.task_ctx(),
        }));
        let node = Node {
            log,
            database,
            layers,
        };
        let mut opened = Ok(());
        for view in views {
            if opened.is_ok() {
                opened = node.open_view(&view).await;
            }
        }
        if let Err(error) = opened {
            node.close().await;
            return Err(error);
        }
        let lifecycle = Arc::clone(&node.layers) as Arc<dyn Lifecycle>;
        node.database.attach(lifecycle);
        Ok(node)
    }

    async fn open_view(&self, view: &lambic_view::Definition) -> Result<(), String> {
        let planned = self.database.plan_definition(view, &[]).await;
        let opened = self.layers.open_view(view, planned.map_err(text)?).await;
        opened.map_err(|error| format!("view {}: {error}", view.name))
    }

    /// Ends what runs. On a disk that is off, nothing of it is kept.
    pub async fn close(self) {
        self.database.detach();
        self.log.close().await;
    }

    pub fn stream(&self, name: &str) -> Option<StreamId> {
        Some(self.database.stream(name)?.id)
    }

    /// The `SELECT` of a view, if there is such a view.
    pub fn definition(&self, view: &str) -> Option<String> {
        let definitions = self.database.definitions();
        let found = definitions
            .into_iter()
            .find(|definition| definition.name.as_str() == view);
        found.map(|definition| definition.sql)
    }

    /// Moves what the log holds of a stream into the dataset.
    pub async fn seal(&self, stream: StreamId) -> Result<(), String> {
        self.layers.seal(stream).await.map_err(text)
    }

    /// Brings all real-time views up to the head.
    pub async fn advance(&self) -> Result<(), String> {
        self.layers.advance().await.map_err(text)
    }

    /// Keeps what the real-time views have computed, so that a start goes on from there.
    pub async fn checkpoint(&self) -> Result<(), String> {
        self.layers.checkpoint().await.map_err(text)
    }

    /// Deletes the segments that nothing needs any more.
    pub fn trim(&self) -> Result<u64, String> {
        self.layers.trim().map_err(text)
    }

    /// What is wrong with the sealed files.
    pub async fn damaged_files(&self) -> Vec<String> {
        let mut damaged = Vec::new();
        for stream in self.database.streams() {
            let found = self.layers.0.dataset.verify_stream(stream.id).await;
            damaged.extend(found.iter().map(text));
        }
        damaged
    }

    /// Runs statements; the rows of the last as text, in their order.
    pub async fn sql(&self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        let outcomes = self.database.execute(&Session::default(), sql).await;
        let mut found = Vec::new();
        for outcome in outcomes.map_err(text)? {
            if let Outcome::Rows { rows, .. } = outcome {
                let batches: Vec<RecordBatch> = rows.try_collect().await.map_err(text)?;
                found = as_text(&batches)?;
            }
        }
        Ok(found)
    }
}

fn as_text(batches: &[RecordBatch]) -> Result<Vec<Vec<String>>, String> {
    let options = FormatOptions::new().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter();
        let columns: Vec<_> = columns
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect::<Result<_, _>>()
            .map_err(text)?;
        for row in 0..batch.num_rows() {
            let values = columns.iter();
            rows.push(values.map(|column| column.value(row).to_string()).collect());
        }
    }
    Ok(rows)
}
