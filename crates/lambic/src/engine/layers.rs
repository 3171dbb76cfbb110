//! What statements do to the layers: streams come and go, views are built, served, refreshed, audited.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::execution::TaskContext;
use lambic_batch::Batch;
use lambic_dataset::{Dataset, Reader};
use lambic_functions::Functions;
use lambic_log::Log;
use lambic_model::{Frontier, Frontiers, ScalarFunction, Stream, StreamId};
use lambic_query::{AuditResult, BuiltView, Error, Lifecycle, sqlstate};
use lambic_serving::{ServedView, Serving};
use lambic_speed::Speed;
use lambic_view::{Definition, Run, ViewPlan, audit};
use tracing::{info, warn};

use super::holds::{Hold, Holds};

pub struct Parts {
    pub log: Log,
    pub dataset: Dataset,
    pub reader: Reader,
    pub serving: Serving,
    pub batch: Batch,
    pub speed: Arc<Speed>,
    pub task: Arc<TaskContext>,
    pub functions: Functions,
}

impl Parts {
    fn served(
        &self,
        definition: Definition,
        plan: Arc<ViewPlan>,
        batch: (Run, u64),
    ) -> Arc<ServedView> {
        let task = Arc::clone(&self.task);
        let speed = Arc::clone(&self.speed);
        Arc::new(ServedView::new(definition, plan, task, speed, Some(batch)))
    }
}

pub struct Layers {
    parts: Arc<Parts>,
    holds: Holds,
    /// Batch runs take turns: each may use the whole machine.
    batching: tokio::sync::Mutex<()>,
}

impl Layers {
    pub fn new(parts: Parts) -> Layers {
        Layers {
            parts: Arc::new(parts),
            holds: Holds::default(),
            batching: tokio::sync::Mutex::new(()),
        }
    }

    pub fn log(&self) -> &Log {
        &self.parts.log
    }

    pub fn dataset(&self) -> &Dataset {
        &self.parts.dataset
    }

    pub fn holds(&self) -> &Holds {
        &self.holds
    }

    pub fn serving(&self) -> &Serving {
        &self.parts.serving
    }

    pub fn functions(&self) -> &Functions {
        &self.parts.functions
    }

    /// The code that a view was created with.
    pub fn functions_of_view(
        &self,
        definition: &Definition,
    ) -> anyhow::Result<Vec<Arc<dyn ScalarFunction>>> {
        let each = definition.functions.iter().map(|(name, digest)| {
            self.parts.functions.scalar_of(name, digest).ok_or_else(|| {
                anyhow::anyhow!(
                    "view {} needs function {name} with code {digest}, which is gone",
                    definition.name
                )
            })
        });
        each.collect()
    }

    /// Serves a view of the catalog after a start; its batch view is recomputed if it is lost.
    pub async fn open_view(
        &self,
        definition: Definition,
        plan: Arc<ViewPlan>,
    ) -> anyhow::Result<()> {
        let loaded = match self.parts.batch.load(&definition, &plan).await {
            Ok(loaded) => loaded,
            Err(error @ lambic_batch::Error::Damaged { .. }) => {
                warn!(view = %definition.name, %error, "batch view is damaged: recomputing it from the dataset");
                None
            }
            Err(error) => return Err(error.into()),
        };
        // The log starts where a batch view ends, unless that batch view is lost.
        let log = self.parts.log.snapshot();
        let covers = |to: &Frontiers| {
            plan.inputs
                .iter()
                .all(|s| to.of(s.id).covers(&log.start(s.id)))
        };
        let batch = match loaded {
            Some((run, number)) if covers(&run.to) => (run, number),
            _ => self.compute(&definition, &plan).await?,
        };
        self.parts
            .serving
            .put(self.parts.served(definition, plan, batch));
        Ok(())
    }

    /// Seals a stream up to the head.
    pub async fn seal(&self, stream: StreamId) -> Result<Frontier, lambic_dataset::Error> {
        let log = self.parts.log.snapshot();
        Ok(self
            .parts
            .dataset
            .seal(stream, &log)
            .await?
            .frontier
            .clone())
    }

    async fn compute(&self, definition: &Definition, plan: &ViewPlan) -> Result<(Run, u64), Error> {
        let _turn = self.batching.lock().await;
        for stream in &plan.inputs {
            self.seal(stream.id).await.map_err(dataset_error)?;
        }
        let started = std::time::Instant::now();
        let run = self.parts.batch.compute(plan).await.map_err(batch_error)?;
        let number = self
            .parts
            .batch
            .keep(definition, &run)
            .await
            .map_err(batch_error)?;
        info!(
            view = %definition.name,
            number,
            state_rows = run.rows(),
            seconds = started.elapsed().as_secs_f64(),
            "batch run published"
        );
        Ok((run, number))
    }

    /// Recomputes a view from the dataset and lets the result take the place of the former batch view.
    pub async fn run_batch(&self, name: &str) -> Result<(), Error> {
        let Some(view) = self.parts.serving.view(name) else {
            return Err(gone(name));
        };
        let (run, number) = self.compute(view.definition(), view.plan()).await?;
        view.publish(run, number).await.map_err(Error::internal)
    }
}

/// A view with its batch view, not yet among those that are served.
struct Built {
    view: Arc<ServedView>,
    parts: Arc<Parts>,
    _hold: Hold,
}

impl BuiltView for Built {
    fn serve(self: Box<Self>) {
        self.parts.serving.put(self.view);
    }
}

fn gone(name: &str) -> Error {
    Error::new(
        sqlstate::UNDEFINED_TABLE,
        format!("there is no view \"{name}\""),
    )
}

fn dataset_error(error: lambic_dataset::Error) -> Error {
    Error::new(sqlstate::DATA_CORRUPTED, error.to_string())
}

fn batch_error(error: lambic_batch::Error) -> Error {
    match error {
        lambic_batch::Error::DataFusion(error) => Error::from_datafusion(error, "", &[]),
        lambic_batch::Error::View(lambic_view::Error::DataFusion(error)) => {
            Error::from_datafusion(error, "", &[])
        }
        lambic_batch::Error::Dataset(error) => dataset_error(error),
        error @ lambic_batch::Error::Damaged { .. } => {
            Error::new(sqlstate::DATA_CORRUPTED, error.to_string())
        }
        other => Error::internal(other),
    }
}

#[async_trait]
impl Lifecycle for Layers {
    async fn add_stream(&self, stream: Arc<Stream>) -> Result<(), Error> {
        self.parts
            .dataset
            .add_stream(Arc::clone(&stream))
            .await
            .map_err(dataset_error)?;
        self.parts.log.add_stream(stream);
        Ok(())
    }

    async fn remove_stream(&self, stream: Arc<Stream>) -> Result<(), Error> {
        let removed = self.parts.log.remove_stream(stream.id).await;
        removed.map_err(|error| Error::new(sqlstate::UNAVAILABLE, error.to_string()))?;
        self.parts.dataset.remove_stream(stream.id);
        self.parts
            .dataset
            .erase_stream(&stream)
            .await
            .map_err(dataset_error)
    }

    async fn build_view(
        &self,
        definition: &Definition,
        plan: Arc<ViewPlan>,
    ) -> Result<Box<dyn BuiltView>, Error> {
        let mut sealed = Frontiers::default();
        for stream in &plan.inputs {
            let manifest = self.parts.dataset.manifest(stream.id);
            sealed.set(stream.id, manifest.frontier.clone());
        }
        let hold = self.holds.take(sealed);
        // What a dropped view of the same name may have left is not this one's.
        self.parts
            .batch
            .forget(definition)
            .await
            .map_err(batch_error)?;
        let batch = self.compute(definition, &plan).await?;
        let view = self.parts.served(definition.clone(), plan, batch);
        // Caught up before it takes over, so that the first reader does not pay for it.
        let heads = self.parts.log.snapshot().heads();
        view.advance(&heads).await.map_err(Error::internal)?;
        Ok(Box::new(Built {
            view,
            parts: Arc::clone(&self.parts),
            _hold: hold,
        }))
    }

    async fn drop_view(&self, definition: &Definition) -> Result<(), Error> {
        self.parts
            .batch
            .forget(definition)
            .await
            .map_err(batch_error)
    }

    async fn refresh_view(&self, name: &str) -> Result<(), Error> {
        self.run_batch(name).await
    }

    async fn audit_view(&self, name: &str) -> Result<AuditResult, Error> {
        let Some(view) = self.parts.serving.view(name) else {
            return Err(gone(name));
        };
        // Runs first, head second: the runs do not lie past the head.
        let runs = view.runs();
        let pin = self.parts.reader.pin();
        let heads = pin.heads();
        let plan = view.plan();
        let served = view.merged(&runs, &heads).await.map_err(Error::internal)?;
        let recomputed = self
            .parts
            .batch
            .recompute(plan, &pin)
            .await
            .map_err(batch_error)?;
        let finish =
            |run: &Run| plan.finish(vec![run.states.clone()], Arc::clone(&self.parts.task));
        let served_rows = finish(&served).await.map_err(Error::internal)?;
        let recomputed_rows = finish(&recomputed).await.map_err(Error::internal)?;
        let compared = audit::compare(
            plan,
            (&served_rows, &served),
            (&recomputed_rows, &recomputed),
        );
        let compared = compared.map_err(Error::internal)?;
        let frontier = plan
            .inputs
            .iter()
            .map(|stream| format!("{}@{}", stream.name, heads.of(stream.id)));
        Ok(AuditResult {
            view: name.to_owned(),
            agrees: compared.agrees(),
            rows: compared.rows,
            differences: compared.differences,
            detail: compared.examples.join("; "),
            frontier: frontier.collect::<Vec<_>>().join(" "),
        })
    }

    fn functions_of(&self, stream: &str) -> Vec<String> {
        let functions = self.parts.functions.list().into_iter().filter(|function| {
            function
                .output
                .as_ref()
                .is_some_and(|output| output.as_str() == stream)
                || function
                    .triggers
                    .iter()
                    .any(|trigger| trigger.stream.as_str() == stream)
        });
        functions
            .map(|function| function.name.to_string())
            .collect()
    }
}
