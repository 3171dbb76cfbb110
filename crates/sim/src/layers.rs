//! What statements do to the layers, as in the binary, without functions and without anything that runs by itself: here
//! the history says when.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::execution::TaskContext;
use lambic_batch::{Batch, Kept};
use lambic_dataset::{Dataset, Expiring, Keep};
use lambic_log::Log;
use lambic_model::{Frontier, Frontiers, ScalarFunction, Stream, StreamId};
use lambic_query::{
    AppendsHeld, BackupInfo, BatchInfo, BuiltView, Compacted, Erasing, ErasureInfo, Error,
    Lifecycle, ToErase, sqlstate,
};
use lambic_serving::{RecomputedView, Served, ServedView, Serving};
use lambic_speed::Speed;
use lambic_view::{Definition, Planned, Run, ViewPlan};

pub struct LayersParts {
    pub log: Log,
    pub dataset: Dataset,
    pub serving: Serving,
    pub batch: Batch,
    pub speed: Arc<Speed>,
    pub task: Arc<TaskContext>,
}

pub struct Layers(pub LayersParts);

/// A view that is not served yet.
struct Built {
    view: Served,
    serving: Serving,
}

impl BuiltView for Built {
    fn serve(self: Box<Self>) {
        self.serving.put(self.view);
    }
}

struct Held {
    held: lambic_log::AppendsHeld,
    dataset: Dataset,
    log: Log,
}

impl AppendsHeld for Held {
    fn change_stream(&self, stream: Arc<Stream>) {
        self.dataset.change_stream(Arc::clone(&stream));
        self.log.change_stream(stream, &self.held);
    }
}

impl Layers {
    pub async fn open_view(&self, definition: &Definition, planned: Planned) -> Result<(), Error> {
        let view = self.made(definition, planned, true).await?;
        self.0.serving.put(view);
        Ok(())
    }

    async fn made(
        &self,
        definition: &Definition,
        planned: Planned,
        is_kept: bool,
    ) -> Result<Served, Error> {
        match planned {
            Planned::Kept(plan) => {
                let view = self.made_one(definition, plan, is_kept).await?;
                Ok(Served::Kept(view))
            }
            Planned::Recomputed(plan) => {
                let mut parts = Vec::new();
                for (index, part) in plan.parts.iter().enumerate() {
                    let definition = definition.for_part(index);
                    let part = self.made_one(&definition, Arc::clone(part), is_kept);
                    parts.push(part.await?);
                }
                let view = RecomputedView::new(definition.clone(), plan, parts, None);
                Ok(Served::Recomputed(Arc::new(view)))
            }
        }
    }

    async fn made_one(
        &self,
        definition: &Definition,
        plan: Arc<ViewPlan>,
        is_kept: bool,
    ) -> Result<Arc<ServedView>, Error> {
        let loaded = match is_kept {
            true => self.0.batch.load(Kept::Batch, definition, &plan).await,
            false => Ok(None),
        };
        let log = self.0.log.snapshot();
        let reaches = |run: &Run| {
            let covers = |input: &Arc<Stream>| run.to.of(input.id).covers(&log.start(input.id));
            plan.inputs.iter().all(covers)
        };
        let batch = match loaded.map_err(Error::internal)? {
            Some((run, number)) if reaches(&run) => (run, number),
            Some((run, number)) => {
                let base = Arc::new(run);
                match self.computed(definition, &plan, Some(&base)).await? {
                    Some(newer) => newer,
                    None => (Arc::into_inner(base).expect("nobody else has it"), number),
                }
            }
            None => {
                let computed = self.computed(definition, &plan, None).await?;
                computed.expect("without a base there is always a run")
            }
        };
        let checkpoint = match is_kept {
            true => self.checkpointed(definition, &plan, &batch.0).await?,
            false => None,
        };
        let (task, speed) = (Arc::clone(&self.0.task), Arc::clone(&self.0.speed));
        Ok(Arc::new(ServedView::new(
            definition.clone(),
            plan,
            task,
            speed,
            Some(batch),
            checkpoint,
        )))
    }

    /// What was kept of the states after `batch`; what does not follow it is deleted.
    async fn checkpointed(
        &self,
        definition: &Definition,
        plan: &ViewPlan,
        batch: &Run,
    ) -> Result<Option<Run>, Error> {
        let loaded = self.0.batch.load(Kept::Checkpoint, definition, plan).await;
        let loaded = loaded.map_err(Error::internal)?;
        let heads = self.0.log.snapshot().heads();
        let fits = |run: &Run| run.from == batch.to && heads.covers(&run.to);
        let checkpoint = loaded.map(|(run, _)| run).filter(fits);
        if checkpoint.is_none() {
            let forgotten = self.0.batch.forget_checkpoint(definition).await;
            forgotten.map_err(Error::internal)?;
        }
        Ok(checkpoint)
    }

    pub async fn checkpoint(&self) -> Result<(), Error> {
        for view in self.0.serving.kept() {
            let (definition, plan) = (view.definition(), view.plan());
            let run = view.checkpoint(&view.runs()).await;
            if let Some(run) = run.map_err(Error::internal)? {
                let kept = self.0.batch.keep(Kept::Checkpoint, definition, plan, &run);
                kept.await.map_err(Error::internal)?;
            }
        }
        Ok(())
    }

    async fn computed(
        &self,
        definition: &Definition,
        plan: &ViewPlan,
        base: Option<&Arc<Run>>,
    ) -> Result<Option<(Run, u64)>, Error> {
        for input in &plan.inputs {
            self.seal(input.id).await?;
        }
        let published = self.0.batch.publish(definition, plan, base).await;
        published.map_err(Error::internal)
    }

    pub async fn seal(&self, stream: StreamId) -> Result<(), Error> {
        let sealed = self.0.dataset.seal(stream, &self.0.log.snapshot()).await;
        sealed.map(|_| ()).map_err(Error::internal)
    }

    pub async fn advance(&self) -> Result<(), Error> {
        let heads = self.0.log.snapshot().heads();
        for view in self.0.serving.kept() {
            view.advance(&heads).await.map_err(Error::internal)?;
        }
        Ok(())
    }

    /// The log keeps what is not sealed and what no batch view covers.
    pub fn trim(&self) -> Result<u64, lambic_log::Error> {
        let mut keep = Frontiers::default();
        for (stream, head) in self.0.log.snapshot().heads().0 {
            let mut from = self.0.dataset.manifest(stream).frontier.min(&head);
            for view in self.0.serving.kept() {
                if view.plan().inputs.iter().any(|input| input.id == stream) {
                    from = from.min(&view.runs().batch_frontier().of(stream));
                }
            }
            keep.set(stream, from);
        }
        self.0.log.trim(&keep)
    }
}

#[async_trait]
impl Lifecycle for Layers {
    async fn add_stream(&self, stream: Arc<Stream>) -> Result<(), Error> {
        let added = self.0.dataset.add_stream(Arc::clone(&stream)).await;
        added.map_err(Error::internal)?;
        self.0.log.add_stream(stream);
        Ok(())
    }

    async fn remove_stream(&self, stream: Arc<Stream>) -> Result<(), Error> {
        let removed = self.0.log.remove_stream(stream.id).await;
        removed.map_err(Error::internal)?;
        let erased = self.0.dataset.erase_stream(stream.id, &stream.name).await;
        erased.map_err(Error::internal)
    }

    async fn hold_appends(&self) -> Box<dyn AppendsHeld> {
        Box::new(Held {
            held: self.0.log.hold_appends().await,
            dataset: self.0.dataset.clone(),
            log: self.0.log.clone(),
        })
    }

    async fn build_view(
        &self,
        definition: &Definition,
        planned: Planned,
    ) -> Result<Box<dyn BuiltView>, Error> {
        self.drop_view(definition).await?;
        let view = self.made(definition, planned, false).await?;
        let serving = self.0.serving.clone();
        Ok(Box::new(Built { view, serving }))
    }

    async fn reopen_view(
        &self,
        definition: &Definition,
        planned: Planned,
    ) -> Result<Box<dyn BuiltView>, Error> {
        let view = self.made(definition, planned, true).await?;
        let serving = self.0.serving.clone();
        Ok(Box::new(Built { view, serving }))
    }

    fn functions_of_view(&self, _: &Definition) -> Result<Vec<Arc<dyn ScalarFunction>>, Error> {
        Ok(Vec::new())
    }

    async fn drop_view(&self, definition: &Definition) -> Result<(), Error> {
        let forgotten = self.0.batch.forget(definition).await;
        forgotten.map_err(Error::internal)
    }

    async fn refresh_view(&self, name: &str, full: bool) -> Result<(), Error> {
        let served = self.0.serving.view(name);
        let served = served.ok_or_else(|| Error::internal(format!("no view {name}")))?;
        for view in served.kept() {
            let base = view.runs().batch.clone().filter(|_| !full);
            let computed = self.computed(view.definition(), view.plan(), base.as_ref());
            if let Some((run, number)) = computed.await? {
                view.publish(run, number).await.map_err(Error::internal)?;
            }
        }
        Ok(())
    }

    async fn keep_frontier(
        &self,
        definition: &Definition,
        frontier: &Frontiers,
    ) -> Result<(), Error> {
        let kept = self.0.batch.keep_frontier(definition, frontier).await;
        kept.map_err(Error::internal)
    }

    /// Histories have none: what erasures leave after a kill, the tests of the dataset and of the engine look at.
    async fn erase(&self, _: ToErase) -> Result<Box<dyn Erasing>, Error> {
        let message = "the simulated server erases nothing";
        Err(Error::new(sqlstate::FEATURE_NOT_SUPPORTED, message))
    }

    fn erasures(&self) -> Vec<ErasureInfo> {
        Vec::new()
    }

    async fn backup(&self, _: &str) -> Result<BackupInfo, Error> {
        let message = "the simulated server makes no backups";
        Err(Error::new(sqlstate::FEATURE_NOT_SUPPORTED, message))
    }

    fn batches(&self) -> Vec<BatchInfo> {
        Vec::new()
    }

    fn backups(&self) -> Vec<BackupInfo> {
        Vec::new()
    }

    async fn compact(&self, stream: StreamId) -> Result<Compacted, Error> {
        let dataset = &self.0.dataset;
        let kept = self.0.serving.kept().into_iter();
        let stands = kept.map(|view| view.runs().batch_frontier().of(stream));
        let parts: Vec<_> = stands.collect();
        let erased = self.0.log.snapshot().erased(stream);
        let compacted = async {
            while dataset.compact_next(stream, None, &parts, &erased).await? > 0 {}
            dataset.remove_replaced(stream).await
        };
        compacted.await.map_err(Error::internal)?;
        Ok(Compacted::default())
    }

    async fn expiring(&self, _: StreamId, _: Keep) -> Result<Expiring, Error> {
        Ok(Expiring::default())
    }

    fn start_of(&self, _: StreamId) -> Frontier {
        Frontier::default()
    }

    fn expired_until(&self, _: StreamId) -> Option<i64> {
        None
    }

    fn functions_of(&self, _: &str) -> Vec<String> {
        Vec::new()
    }
}
