//! One view as it is served.

use std::{
    collections::HashMap,
    ops::Bound,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use arrow::{
    array::{ArrayRef, AsArray},
    datatypes::{DataType, Float32Type, Float64Type},
    record_batch::RecordBatch,
};
use datafusion::execution::TaskContext;
use lambic_model::{Erasures, Frontiers};
use lambic_view::{Definition, KeyRange, Run, ViewPlan, tail::TailSource};

use crate::{Error, KEPT_BYTES_MAX, RunSet, value_of_text};

/// A range of at most so many states is worth finishing alone.
const RANGE_ROWS_MIN: usize = 64;
/// So is one that is not more than this part of all states.
const RANGE_SHARE_MAX: usize = 4;

/// A planned view, its runs, and the way to new states.
pub struct ServedView {
    definition: Definition,
    plan: Arc<ViewPlan>,
    task: Arc<TaskContext>,
    tail: Arc<dyn TailSource>,
    runs: RwLock<Arc<RunSet>>,
    /// Up to where its runs went when it came to be served.
    began_at: Frontiers,
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

/// Keys have no -0: it equals 0 (`lambic_view::postgres`).
fn canonical(value: ArrayRef) -> ArrayRef {
    match value.data_type() {
        DataType::Float64 => Arc::new(
            value
                .as_primitive::<Float64Type>()
                .unary::<_, Float64Type>(|v| v + 0.0),
        ),
        DataType::Float32 => Arc::new(
            value
                .as_primitive::<Float32Type>()
                .unary::<_, Float32Type>(|v| v + 0.0),
        ),
        _ => value,
    }
}

/// Of every stream the further of two frontiers.
fn furthest(a: &Frontiers, b: &Frontiers) -> Frontiers {
    let mut furthest = a.clone();
    for (stream, frontier) in &b.0 {
        let further = furthest.of(*stream).max(frontier);
        furthest.set(*stream, further);
    }
    furthest
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
        speed: Option<Run>,
    ) -> ServedView {
        let mut runs = match batch {
            None => RunSet::default(),
            Some((run, batches)) => RunSet {
                covered: run.to.clone(),
                erasures: run.erasures.clone(),
                batch: Some(Arc::new(run)),
                speed: Vec::new(),
                batches,
            },
        };
        if let Some(speed) = speed {
            assert_eq!(speed.from, runs.covered, "the states follow one another");
            runs.covered = speed.to.clone();
            runs.speed.push(Arc::new(speed));
        }
        ServedView {
            definition,
            plan,
            task,
            tail,
            began_at: runs.covered.clone(),
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

    /// Up to where its runs went when it came to be served: all of them were kept.
    pub fn began_at(&self) -> &Frontiers {
        &self.began_at
    }

    /// The runs as they stand.
    pub fn runs(&self) -> Arc<RunSet> {
        Arc::clone(&self.runs.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_runs(&self, runs: RunSet) {
        *self.runs.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(runs);
        // Rows of the former ones, which may hold what is erased now.
        *self.finished.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// True if records that are in its runs were erased since: they cannot be taken out of states, so until a batch
    /// from the first record on is published, readers compute the rows from the records.
    pub fn is_outdated(&self, runs: &RunSet, erasures: &Erasures) -> bool {
        runs.erasures != self.plan.erasures_of(erasures)
    }

    /// Brings the real-time runs up to `heads`; returns the records taken in. An outdated set is left as it is.
    pub async fn advance(&self, heads: &Frontiers) -> Result<u64, Error> {
        let _change = self.change.lock().await;
        let mut runs = self.runs().as_ref().clone();
        let records = self.ahead(heads, &runs.covered);
        if records == 0 {
            return Ok(0);
        }
        // A batch may have reached further in one of the streams since `heads` was looked at.
        let to = furthest(&runs.covered, heads);
        let run = self
            .tail
            .run_between(&self.plan, &runs.covered, &to, Arc::clone(&self.task))
            .await?;
        if run.erasures != runs.erasures {
            return Ok(0);
        }
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
    /// speed has reached are computed anew, so that no record is in both or in neither. False, and nothing changes, if
    /// records were erased since the batch was computed.
    pub async fn publish(&self, batch: Run, batches: u64) -> Result<bool, Error> {
        let _change = self.change.lock().await;
        let runs = self.runs();
        let covered = furthest(&runs.covered, &batch.to);
        let tail = self
            .tail
            .run_between(&self.plan, &batch.to, &covered, Arc::clone(&self.task))
            .await?;
        if tail.erasures != batch.erasures {
            return Ok(false);
        }
        let speed = if tail.is_empty() {
            Vec::new()
        } else {
            vec![Arc::new(tail)]
        };
        self.set_runs(RunSet {
            erasures: batch.erasures.clone(),
            batch: Some(Arc::new(batch)),
            speed,
            covered,
            batches,
        });
        Ok(true)
    }

    /// Of `runs`, those of the speed layer as one; `None` if there are none.
    pub async fn checkpoint(&self, runs: &RunSet) -> Result<Option<Run>, Error> {
        if runs.speed.is_empty() {
            return Ok(None);
        }
        let merged = self.plan.merge(&runs.speed, Arc::clone(&self.task)).await?;
        // Where nothing was to be computed there is no run, so that they need not begin at the batch frontier.
        let from = runs.batch_frontier();
        Ok(Some(merged.between(from, self.of_inputs(&runs.covered))))
    }

    /// All of `runs` as one.
    pub async fn folded(&self, runs: &RunSet) -> Result<Run, Error> {
        let all: Vec<Arc<Run>> = runs.runs().cloned().collect();
        let folded = self.plan.merge(&all, Arc::clone(&self.task)).await?;
        Ok(folded.between(Frontiers::default(), self.of_inputs(&runs.covered)))
    }

    /// Of `frontiers` those of the streams that it reads.
    fn of_inputs(&self, frontiers: &Frontiers) -> Frontiers {
        let mut own = Frontiers::default();
        for stream in &self.plan.inputs {
            own.set(stream.id, frontiers.of(stream.id));
        }
        own
    }

    /// Records of this view's streams between two frontiers.
    pub fn ahead(&self, heads: &Frontiers, covered: &Frontiers) -> u64 {
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

    /// The finished rows of `runs`, if they are at hand.
    pub fn rows_of(&self, runs: &Arc<RunSet>) -> Option<Arc<Vec<RecordBatch>>> {
        match &*self.finished.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((of, rows)) if Arc::ptr_eq(of, runs) => Some(Arc::clone(rows)),
            _ => None,
        }
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
            && let Some(batches) = self.rows_of(runs)
        {
            return Ok(Answer {
                batches,
                frontier: heads.clone(),
            });
        }
        let mut states = runs.states();
        // Rows of the past, or of runs that were replaced meanwhile, are not those that the next reader wants.
        let unchanged = missing.is_none() && Arc::ptr_eq(runs, &self.runs());
        states.extend(missing.map(|run| run.states));
        let batches = Arc::new(self.plan.finish(states, Arc::clone(&self.task)).await?);
        let bytes = batches.iter().map(RecordBatch::get_array_memory_size);
        if unchanged && bytes.sum::<usize>() <= KEPT_BYTES_MAX {
            let kept = (Arc::clone(runs), Arc::clone(&batches));
            *self.finished.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        }
        Ok(Answer {
            batches,
            frontier: heads.clone(),
        })
    }

    /// All states at `heads`, in runs that follow one another.
    pub async fn runs_to(
        &self,
        runs: &Arc<RunSet>,
        heads: &Frontiers,
        tail: &dyn TailSource,
    ) -> Result<Vec<Arc<Run>>, Error> {
        let missing = self.missing(runs, heads, tail).await?.map(Arc::new);
        Ok(runs.runs().cloned().chain(missing).collect())
    }

    /// The same as one run; what an audit compares.
    pub async fn merged(
        &self,
        runs: &Arc<RunSet>,
        heads: &Frontiers,
        tail: &dyn TailSource,
    ) -> Result<Run, Error> {
        let all = self.runs_to(runs, heads, tail).await?;
        Ok(self.plan.merge(&all, Arc::clone(&self.task)).await?)
    }

    /// The rows whose keys lie in `range`.
    ///
    /// Where that is much of the view, all of its rows: they may be at hand already.
    pub async fn read_range(
        &self,
        range: &KeyRange,
        runs: &Arc<RunSet>,
        heads: &Frontiers,
        tail: &dyn TailSource,
    ) -> Result<Answer, Error> {
        let found: Vec<RecordBatch> = runs.runs().map(|run| run.within(range)).collect();
        let found_rows: usize = found.iter().map(RecordBatch::num_rows).sum();
        if found_rows > RANGE_ROWS_MIN && found_rows > runs.state_rows() / RANGE_SHARE_MAX {
            return self.read(runs, heads, tail).await;
        }
        let missing = self.missing(runs, heads, tail).await?;
        let missing = missing.iter().map(|run| run.within(range));
        let states: Vec<RecordBatch> = found
            .into_iter()
            .chain(missing)
            .filter(|states| states.num_rows() > 0)
            .collect();
        let batches = match states.is_empty() {
            true => Vec::new(),
            false => self.plan.finish(states, Arc::clone(&self.task)).await?,
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

    /// The range of one key, from texts by column name.
    pub fn key_from_text(&self, values: &[(String, String)]) -> Result<KeyRange, Error> {
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
            key.push(canonical(value_of_text(name, text, data_type)?));
        }
        let codec = &self.plan.key_codec;
        Ok(codec.range(&key, Bound::Unbounded, Bound::Unbounded)?)
    }
}
