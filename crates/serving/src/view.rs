//! One view as it is served.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use arrow::{
    array::{ArrayRef, StringArray},
    compute::{CastOptions, cast_with_options},
    record_batch::RecordBatch,
};
use datafusion::execution::TaskContext;
use lambic_model::Frontiers;
use lambic_view::{Definition, Run, ViewPlan, tail::TailSource};

use crate::{Error, RunSet};

/// A planned view, its runs, and the way to new states.
pub struct ServedView {
    definition: Definition,
    plan: Arc<ViewPlan>,
    task: Arc<TaskContext>,
    tail: Arc<dyn TailSource>,
    runs: RwLock<Arc<RunSet>>,
    /// Held by whoever changes the runs; readers never take it.
    change: tokio::sync::Mutex<()>,
    /// The finished rows of the set they were made from.
    finished: Mutex<Option<Finished>>,
}

/// Finished rows, and the runs that they were made from.
type Finished = (Arc<RunSet>, Arc<Vec<RecordBatch>>);

/// Rows of a view, and the frontier that they stand for.
#[derive(Debug, Clone)]
pub struct Answer {
    pub batches: Arc<Vec<RecordBatch>>,
    pub frontier: Frontiers,
}

impl std::fmt::Debug for ServedView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServedView")
            .field("definition", &self.definition)
            .finish_non_exhaustive()
    }
}

impl ServedView {
    pub fn new(
        definition: Definition,
        plan: Arc<ViewPlan>,
        task: Arc<TaskContext>,
        tail: Arc<dyn TailSource>,
        batch: Option<(Run, u64)>,
    ) -> ServedView {
        let runs = match batch {
            None => RunSet::default(),
            Some((run, batches)) => RunSet {
                covered: run.to.clone(),
                batch: Some(Arc::new(run)),
                speed: Vec::new(),
                batches,
            },
        };
        ServedView {
            definition,
            plan,
            task,
            tail,
            runs: RwLock::new(Arc::new(runs)),
            change: tokio::sync::Mutex::new(()),
            finished: Mutex::new(None),
        }
    }

    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    pub fn plan(&self) -> &Arc<ViewPlan> {
        &self.plan
    }

    /// The runs as they stand.
    pub fn runs(&self) -> Arc<RunSet> {
        Arc::clone(&self.runs.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_runs(&self, runs: RunSet) {
        *self.runs.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(runs);
    }

    /// Brings the real-time runs up to `heads`; returns the records taken in.
    pub async fn advance(&self, heads: &Frontiers) -> Result<u64, Error> {
        let _change = self.change.lock().await;
        let mut runs = self.runs().as_ref().clone();
        let records = self.ahead(heads, &runs.covered);
        if records == 0 {
            return Ok(0);
        }
        let run = self
            .tail
            .run_between(&self.plan, &runs.covered, heads, Arc::clone(&self.task))
            .await?;
        runs.covered = run.to.clone();
        runs.speed.push(Arc::new(run));
        let due = runs.merge_due();
        if due > 1 {
            let newest = runs.speed.split_off(runs.speed.len() - due);
            let merged = self.plan.merge(&newest, Arc::clone(&self.task)).await?;
            runs.speed.push(Arc::new(merged));
        }
        self.set_runs(runs);
        Ok(records)
    }

    /// Makes `batch` the batch run: the real-time runs keep only what it does not cover.
    ///
    /// Batch and speed meet at the batch frontier exactly: the states from there to the point that
    /// speed has reached are computed anew, so that no record is in both or in neither.
    pub async fn publish(&self, batch: Run, batches: u64) -> Result<(), Error> {
        let _change = self.change.lock().await;
        let runs = self.runs();
        let mut covered = runs.covered.clone();
        for (stream, frontier) in &batch.to.0 {
            let further = covered.of(*stream).max(frontier);
            covered.set(*stream, further);
        }
        let tail = self
            .tail
            .run_between(&self.plan, &batch.to, &covered, Arc::clone(&self.task))
            .await?;
        let speed = if tail.is_empty() {
            Vec::new()
        } else {
            vec![Arc::new(tail)]
        };
        self.set_runs(RunSet {
            batch: Some(Arc::new(batch)),
            speed,
            covered,
            batches,
        });
        Ok(())
    }

    /// Records of this view's streams between two frontiers.
    fn ahead(&self, heads: &Frontiers, covered: &Frontiers) -> u64 {
        self.plan
            .inputs
            .iter()
            .map(|s| heads.of(s.id).since(&covered.of(s.id)))
            .sum()
    }

    /// Records up to `heads` that the runs do not cover.
    pub fn lag(&self, heads: &Frontiers) -> u64 {
        self.ahead(heads, &self.runs().covered)
    }

    /// The states of the records between `runs` and `heads`, for one reader. `tail` is the reader's own:
    /// it still has what the log has let go since the reader began.
    async fn missing(
        &self,
        runs: &RunSet,
        heads: &Frontiers,
        tail: &dyn TailSource,
    ) -> Result<Option<Run>, Error> {
        if self.ahead(heads, &runs.covered) == 0 {
            return Ok(None);
        }
        let run = tail
            .run_between(&self.plan, &runs.covered, heads, Arc::clone(&self.task))
            .await?;
        Ok(Some(run))
    }

    /// All rows at `heads`. `runs` was taken before `heads`, so it does not lie past it.
    pub async fn read(
        &self,
        runs: &Arc<RunSet>,
        heads: &Frontiers,
        tail: &dyn TailSource,
    ) -> Result<Answer, Error> {
        let missing = self.missing(runs, heads, tail).await?;
        if missing.is_none()
            && let Some((of, batches)) =
                &*self.finished.lock().unwrap_or_else(PoisonError::into_inner)
            && Arc::ptr_eq(of, runs)
        {
            return Ok(Answer {
                batches: Arc::clone(batches),
                frontier: heads.clone(),
            });
        }
        let mut states = runs.states();
        let unchanged = missing.is_none();
        states.extend(missing.map(|run| run.states));
        let batches = Arc::new(self.plan.finish(states, Arc::clone(&self.task)).await?);
        if unchanged {
            let kept = (Arc::clone(runs), Arc::clone(&batches));
            *self.finished.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        }
        Ok(Answer {
            batches,
            frontier: heads.clone(),
        })
    }

    /// All states at `heads` as one run; what an audit compares.
    pub async fn merged(
        &self,
        runs: &Arc<RunSet>,
        heads: &Frontiers,
        tail: &dyn TailSource,
    ) -> Result<Run, Error> {
        let missing = self.missing(runs, heads, tail).await?.map(Arc::new);
        let all: Vec<Arc<Run>> = runs.runs().cloned().chain(missing).collect();
        Ok(self.plan.merge(&all, Arc::clone(&self.task)).await?)
    }

    /// The rows of one key, values in the order of the key columns (one-row arrays of their types).
    pub async fn lookup(
        &self,
        key: &[ArrayRef],
        runs: &Arc<RunSet>,
        heads: &Frontiers,
        tail: &dyn TailSource,
    ) -> Result<Answer, Error> {
        let Some(key) = self.plan.encode_key(key)? else {
            return Err(self.no_key("it is not grouped"));
        };
        let missing = self.missing(runs, heads, tail).await?;
        let found: Vec<RecordBatch> = runs
            .runs()
            .map(AsRef::as_ref)
            .chain(missing.as_ref())
            .filter_map(|run| run.find(&key))
            .collect();
        let batches = match found.is_empty() {
            true => Vec::new(),
            false => self.plan.finish(found, Arc::clone(&self.task)).await?,
        };
        Ok(Answer {
            batches: Arc::new(batches),
            frontier: heads.clone(),
        })
    }

    fn no_key(&self, reason: &str) -> Error {
        Error::NoKey {
            view: self.definition.name.to_string(),
            reason: reason.to_owned(),
        }
    }

    /// Names of the output columns that together are the key.
    pub fn key_names(&self) -> Option<Vec<String>> {
        let outputs = self.plan.key_outputs()?;
        Some(
            outputs
                .into_iter()
                .map(|index| self.plan.schema.field(index).name().clone())
                .collect(),
        )
    }

    /// Turns texts by column name into the arrays that [`ServedView::lookup`] takes.
    pub fn key_from_text(&self, values: &[(String, String)]) -> Result<Vec<ArrayRef>, Error> {
        let names = self
            .key_names()
            .ok_or_else(|| self.no_key("not all of its key is among its columns"))?;
        let given: HashMap<&str, &str> = values
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        if given.len() != names.len() || names.iter().any(|name| !given.contains_key(name.as_str()))
        {
            let view = &self.definition.name;
            return Err(Error::Key(format!(
                "the key of view \"{view}\" is ({}): give each once",
                names.join(", ")
            )));
        }
        let mut key = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            let text = given[name.as_str()];
            let data_type = self.plan.state_schema.field(index).data_type();
            let array: ArrayRef = Arc::new(StringArray::from(vec![text]));
            let strict = CastOptions {
                safe: false,
                ..CastOptions::default()
            };
            let value = cast_with_options(&array, data_type, &strict).map_err(|_| {
                Error::Key(format!(
                    "`{text}` is not a value of column {name} ({data_type})"
                ))
            })?;
            key.push(value);
        }
        Ok(key)
    }
}
