//! The speed layer: turns what the log took in since the batch frontier into states.
//!
//! It runs a view's own plan over the new records, so there is no second code path. Its runs live in
//! memory: after a restart they go on from the last checkpoint, or are computed again from the log,
//! which keeps every record that no batch run covers yet.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use datafusion::execution::TaskContext;
use lambic_log::{Log, Snapshot};
use lambic_model::Frontiers;
use lambic_view::{Error, History, Run, ViewPlan, plan::Records, tail::TailSource};

/// States are computed over at most about this many bytes of records at a time.
const CHUNK_BYTES_MAX: u64 = 64 << 20;

/// Computes states of what the log has at the moment.
pub struct Speed {
    now: Box<dyn Fn() -> At + Send + Sync>,
}

impl Speed {
    pub fn new(now: impl Fn() -> At + Send + Sync + 'static) -> Speed {
        Speed { now: Box::new(now) }
    }
}

/// Reads the ranges in chunks and folds each into the run, so that memory stays bounded.
async fn run(
    log: &Snapshot,
    plan: &ViewPlan,
    from: &Frontiers,
    to: &Frontiers,
    task: Arc<TaskContext>,
) -> Result<Run, Error> {
    let mut runs: Vec<Arc<Run>> = Vec::new();
    let mut records = Records::new();
    let mut bytes = 0;
    let erasures = plan.erasures_of(&log.erasures());
    for stream in &plan.inputs {
        for range in to.of(stream.id).ranges_since(&from.of(stream.id)) {
            for chunk in log.read_chunks_as(stream, range, CHUNK_BYTES_MAX) {
                let chunk = chunk.map_err(|error| Error::Records(error.to_string()))?;
                for batch in chunk {
                    bytes += batch.get_array_memory_size() as u64;
                    records.entry(stream.id).or_default().push(batch);
                }
                if bytes >= CHUNK_BYTES_MAX {
                    let taken = std::mem::take(&mut records);
                    bytes = 0;
                    let run = plan
                        .run_over(&taken, from.clone(), to.clone(), Arc::clone(&task))
                        .await?;
                    runs.push(Arc::new(run));
                }
            }
        }
    }
    let last = plan
        .run_over(&records, from.clone(), to.clone(), Arc::clone(&task))
        .await?;
    if runs.is_empty() {
        return Ok(last.knowing(erasures));
    }
    runs.push(Arc::new(last));
    Ok(plan.merge(&runs, task).await?.knowing(erasures))
}

/// The log as it stood at one moment: what was trimmed since is still there.
pub struct At {
    pub log: Snapshot,
    /// All records at the same moment, for what new ones are joined with.
    pub history: Box<dyn History>,
}

#[async_trait]
impl TailSource for At {
    async fn run_between(
        &self,
        plan: &ViewPlan,
        from: &Frontiers,
        to: &Frontiers,
        task: Arc<TaskContext>,
    ) -> Result<Run, Error> {
        match plan.join() {
            Some(join) => {
                let history = self.history.as_ref();
                plan.run_between(join, from, to, history, task).await
            }
            None => run(&self.log, plan, from, to, task).await,
        }
    }
}

#[async_trait]
impl TailSource for Speed {
    async fn run_between(
        &self,
        plan: &ViewPlan,
        from: &Frontiers,
        to: &Frontiers,
        task: Arc<TaskContext>,
    ) -> Result<Run, Error> {
        (self.now)().run_between(plan, from, to, task).await
    }
}

/// What the speed layer keeps current.
#[async_trait]
pub trait RealTime: Send + Sync {
    /// Brings every view up to `heads`; errors are the implementor's to report.
    async fn advance(&self, heads: &Frontiers);
}

/// Keeps views current until `stop` says so: after every commit, at most once in `pause`.
pub async fn keep_current(
    log: Log,
    views: Arc<dyn RealTime>,
    pause: Duration,
    mut stop: tokio::sync::watch::Receiver<bool>,
) {
    let mut commits = log.commits();
    loop {
        views.advance(&log.snapshot().heads()).await;
        let pausing = tokio::time::sleep(pause);
        tokio::select! {
            () = pausing => {}
            _ = stop.changed() => return,
        }
        tokio::select! {
            changed = commits.changed() => if changed.is_err() { return },
            _ = stop.changed() => return,
        }
    }
}
