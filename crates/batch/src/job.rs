//! One batch, from its records to the run that is published.
//!
//! What fits into its memory is computed in memory, in one piece. What does not goes to disk as sorted runs, which are
//! merged at the end. A long one is computed in slices of records, each of which is kept when it is finished.

use std::{sync::Arc, time::Instant};

use datafusion::{
    catalog::TableProvider,
    error::DataFusionError,
    execution::{
        SessionState, TaskContext,
        memory_pool::{FairSpillPool, MemoryPool, TrackConsumersPool, UnboundedMemoryPool},
        runtime_env::RuntimeEnvBuilder,
    },
    physical_plan::{collect, execute_stream},
};
use lambic_dataset::Pin;
use lambic_model::{Erasures, Frontiers};
use lambic_view::{Class, Definition, Run, Source as TableSource, ViewPlan, join::Join};
use tracing::{debug, info, warn};

use crate::{
    Batch, Error, Limits, PinnedHistory,
    fair::FairSorts,
    gather::{Gather, Piece},
    limits::{self, FAN_IN},
    made_by::MadeBy,
    merge::{self, Merge, Source},
    progress::{BatchState, Running},
    size::bytes_of,
    slices,
    spill::Spills,
    store::{self, Covers, Kept, Next},
    streamed,
    unfinished::{self, Manifests, Unfinished},
};

/// How many of the largest memory users an error names.
const CONSUMERS_NAMED: std::num::NonZeroUsize = std::num::NonZeroUsize::new(3).expect("not zero");

/// So many runs may wait for the end of a batch: what is merged early is merged again.
const RUNS_MAX: usize = FAN_IN * FAN_IN;

pub(crate) struct Job<'a> {
    pub batch: &'a Batch,
    pub definition: &'a Definition,
    pub plan: &'a ViewPlan,
    pub pin: Pin,
    pub base: Option<Arc<Run>>,
    /// Where the base ends, or the first record.
    pub from: Frontiers,
    pub to: Frontiers,
    pub erasures: Erasures,
    pub limits: Limits,
    pub running: &'a Running,
}

/// What was computed of the records after the base.
struct Computed {
    /// All of it, if it could be held.
    held: Option<Vec<Arc<Run>>>,
    done: Unfinished,
    /// A manifest lists what is done.
    is_sliced: bool,
}

impl Job<'_> {
    /// Publishes the batch run and returns it with its number.
    pub async fn run(&self) -> Result<(Run, u64), Error> {
        let store = &self.batch.store;
        let folder = unfinished::folder(self.definition);
        let manifests = Manifests::of(Arc::clone(store), folder.clone());
        let unfinished = self.resumed(&manifests).await?;
        let spills = Spills::open(
            Arc::clone(store),
            folder,
            unfinished.as_ref().map_or(&[], |found| &found.runs),
            self.limits,
            self.running.spilled(),
        )
        .await?;
        let was_sliced = unfinished.is_some();
        let published = self.published(unfinished, &manifests, &spills).await;
        let published = published.map_err(|error| match error.is_exhausted() {
            true => Error::Memory {
                limit: self.limits.memory_bytes,
                what: error.to_string(),
            },
            false => error,
        });
        match &published {
            // Nothing of it is of use any more. Its slices stay where it failed for another reason.
            Ok(_) if was_sliced || spills.is_used() => manifests.clear().await?,
            Err(error) if error.is_over_budget() => manifests.clear().await?,
            _ => {}
        }
        published
    }

    async fn published(
        &self,
        unfinished: Option<Unfinished>,
        manifests: &Manifests,
        spills: &Spills,
    ) -> Result<(Run, u64), Error> {
        let computed = self.computed(unfinished, manifests, spills).await?;
        self.running.is(BatchState::Merging);
        let sources = match computed.held {
            Some(held) => {
                let runs: Vec<Arc<Run>> = self.base.iter().cloned().chain(held).collect();
                match self.merged_in_memory(runs).await? {
                    Ok(run) => return self.kept(run).await,
                    Err(runs) => runs.into_iter().map(Source::Held).collect(),
                }
            }
            None => {
                let mut done = computed.done;
                let kept = computed.is_sliced.then_some(manifests);
                self.few(&mut done, FAN_IN - 1, kept, spills).await?;
                let spilled = done.runs.into_iter().map(Source::Spilled);
                let base = self.base.iter().cloned().map(Source::Held);
                base.chain(spilled).collect()
            }
        };
        self.streamed(sources, spills).await
    }

    /// The runs themselves if there is not enough memory for that.
    async fn merged_in_memory(
        &self,
        mut runs: Vec<Arc<Run>>,
    ) -> Result<Result<Run, Vec<Arc<Run>>>, Error> {
        let whole = |run: Run| {
            let run = run.between(Frontiers::default(), self.to.clone());
            run.knowing(self.erasures.clone())
        };
        if runs.len() == 1 {
            match Arc::try_unwrap(runs.remove(0)) {
                Ok(run) => return Ok(Ok(whole(run))),
                Err(run) => runs.push(run),
            }
        }
        let bytes: usize = runs.iter().map(|run| run.bytes()).sum();
        if bytes > self.limits.held_bytes() {
            return Ok(Err(runs));
        }
        let task = self.task(pool(self.limits.held_bytes()))?;
        match self.plan.merge(&runs, task).await.map_err(Error::from) {
            Err(error) if error.is_exhausted() => Ok(Err(runs)),
            merged => Ok(Ok(whole(merged?))),
        }
    }

    async fn kept(&self, run: Run) -> Result<(Run, u64), Error> {
        if bytes_of(&run.states) as u64 > self.limits.view_bytes {
            return Err(Error::ViewTooLarge {
                limit: self.limits.view_bytes,
            });
        }
        self.running.is(BatchState::Publishing);
        let kept = self
            .batch
            .keep(Kept::Batch, self.definition, self.plan, &run);
        let number = kept.await?;
        Ok((run, number))
    }

    async fn streamed(&self, sources: Vec<Source>, spills: &Spills) -> Result<(Run, u64), Error> {
        let task = self.task(Arc::new(UnboundedMemoryPool::default()))?;
        let merge = Merge::new(self.plan, task, spills, &self.limits, sources);
        let store = Arc::clone(&self.batch.store);
        let next = Next::of(store, Kept::Batch, self.definition).await?;
        let file = streamed::write(&next, self.plan, &self.limits, merge).await?;
        self.running.is(BatchState::Publishing);
        let covers = Covers {
            from: None,
            frontier: self.to.clone(),
            erasures: self.erasures.clone(),
        };
        let made_by = MadeBy::new(self.definition, self.plan);
        next.commit(made_by, covers, file).await?;
        let loaded = self.batch.load(Kept::Batch, self.definition, self.plan);
        Ok(loaded.await?.expect("it was made by this very plan"))
    }

    /// Makes the runs at most so many. `manifests`, if the runs are listed there.
    async fn few(
        &self,
        done: &mut Unfinished,
        most: usize,
        manifests: Option<&Manifests>,
        spills: &Spills,
    ) -> Result<(), Error> {
        while done.runs.len() > most {
            let task = self.task(Arc::new(UnboundedMemoryPool::default()))?;
            let (plan, limits) = (self.plan, &self.limits);
            let gone = merge::smallest(plan, task, spills, limits, &mut done.runs).await?;
            if let Some(manifests) = manifests {
                manifests.commit(done).await?;
            }
            // Only now nothing needs those any more that became one.
            spills.remove(&gone).await?;
        }
        Ok(())
    }

    /// Slices of a batch like this one that a kill has left, and that can be read.
    async fn resumed(&self, manifests: &Manifests) -> Result<Option<Unfinished>, Error> {
        let Some(found) = manifests.load().await? else {
            return Ok(None);
        };
        let way = (&self.from, &self.to);
        if !found.leads_to(self.definition, self.plan, way, &self.erasures) {
            info!(view = %self.definition.name, slices = found.slices, "slices of an unfinished batch are of no use any more");
            manifests.clear().await?;
            return Ok(None);
        }
        info!(view = %self.definition.name, slices = found.slices, "an unfinished batch goes on");
        Ok(Some(found))
    }

    async fn computed(
        &self,
        unfinished: Option<Unfinished>,
        manifests: &Manifests,
        spills: &Spills,
    ) -> Result<Computed, Error> {
        let mut done = match unfinished {
            Some(found) => match self.intact(&found, spills).await? {
                true => found,
                false => self.nothing(),
            },
            None => self.nothing(),
        };
        // A join from the first record on is one piece: records of one slice meet those of others. One with a base joins
        // what is new with all that was before.
        let slice_records = match (self.plan.join(), &self.base) {
            (Some(_), None) => u64::MAX,
            _ => self.limits.slice_records,
        };
        let mut ends = slices::ends(&self.files(), &done.to, &self.to, slice_records);
        if ends.is_empty() && done.slices == 0 {
            ends.push(self.to.clone());
        }
        // Small batches are one piece, which leaves nothing behind.
        let is_sliced = done.slices + ends.len() as u64 > 1;
        if is_sliced {
            self.running.is_sliced(done.slices + ends.len() as u64);
            self.running.resumes(done.records(), done.slices);
        }
        let mut held = done.runs.is_empty().then(Vec::new);
        let (mut held_bytes, mut fits) = (0, self.plan.class != Class::Rows);
        for end in ends {
            let piece = self.piece(&done.to, &end, &mut fits, spills).await?;
            let added = match &piece {
                Piece::Held(run) if is_sliced => vec![spills.write(&run.states).await?],
                Piece::Held(_) => Vec::new(),
                Piece::Spilled(runs) => runs.clone(),
            };
            done.runs.extend(added);
            done.to = end;
            if is_sliced {
                done.slices += 1;
                manifests.commit(&done).await?;
                self.few(&mut done, RUNS_MAX, Some(manifests), spills)
                    .await?;
            }
            self.running.has_read(done.records(), done.slices);
            held = match (held, piece) {
                (Some(mut runs), Piece::Held(run)) => {
                    held_bytes += run.bytes();
                    let fits = !is_sliced || held_bytes <= self.limits.pending_bytes();
                    runs.push(Arc::new(run));
                    fits.then_some(runs)
                }
                _ => None,
            };
        }
        Ok(Computed {
            held,
            done,
            is_sliced,
        })
    }

    fn nothing(&self) -> Unfinished {
        let made_by = MadeBy::new(self.definition, self.plan);
        Unfinished::nothing(made_by, &self.from, &self.erasures)
    }

    async fn intact(&self, found: &Unfinished, spills: &Spills) -> Result<bool, Error> {
        for chunk in found.runs.iter().flat_map(|run| &run.chunks) {
            match spills.read(chunk).await {
                Err(error @ (Error::SpillDamaged { .. } | Error::Arrow(_))) => {
                    warn!(view = %self.definition.name, %error, "finished slices of a batch are damaged and computed again");
                    return Ok(false);
                }
                read => read?,
            };
        }
        Ok(true)
    }

    /// The states of the records between two frontiers. `fits` is false from the first on that did not fit.
    async fn piece(
        &self,
        from: &Frontiers,
        to: &Frontiers,
        fits: &mut bool,
        spills: &Spills,
    ) -> Result<Piece, Error> {
        if let (Some(join), Some(_)) = (self.plan.join(), &self.base) {
            let memory = self.limits.working_bytes();
            let run = match self
                .joined(join, from, to, &self.batch.state, pool(memory))
                .await
            {
                Err(error) if error.is_exhausted() => {
                    info!(view = %self.definition.name, "what is new of the join needs more memory than it may use and goes on by way of the disk");
                    let (state, pool) = self.sorting(memory);
                    self.joined(join, from, to, &state, pool).await?
                }
                run => run?,
            };
            return Ok(Piece::Held(run));
        }
        let started = Instant::now();
        let mut piece = None;
        if *fits {
            match self.in_memory(from, to).await {
                Ok(run) => piece = Some(Piece::Held(run)),
                Err(error) if error.is_exhausted() => {
                    info!(view = %self.definition.name, "the batch needs more memory than it may use and goes on by way of the disk");
                    *fits = false;
                }
                Err(error) => return Err(error),
            }
        }
        let piece = match piece {
            Some(piece) => piece,
            None => self.gathered(from, to, spills).await?,
        };
        let from_records: u64 = from.0.values().map(|frontier| frontier.records()).sum();
        debug!(
            from_records,
            seconds = started.elapsed().as_secs_f64(),
            is_held = matches!(piece, Piece::Held(_)),
            "states of a batch run"
        );
        Ok(piece)
    }

    /// What came to the join with the records between two frontiers.
    async fn joined(
        &self,
        join: &Join,
        from: &Frontiers,
        to: &Frontiers,
        state: &SessionState,
        pool: Arc<dyn MemoryPool>,
    ) -> Result<Run, Error> {
        let history = PinnedHistory::new(self.pin.clone(), Arc::new(state.clone()));
        let task = self.task_of(state, pool)?;
        let run = self.plan.run_between(join, from, to, &history, task);
        Ok(run.await?)
    }

    async fn in_memory(&self, from: &Frontiers, to: &Frontiers) -> Result<Run, Error> {
        let table = self.tables(from, to);
        let states = self.plan.states_from(&self.batch.state, &table).await?;
        self.running.reads(&states);
        let states = collect(states, self.task(pool(self.limits.held_bytes()))?).await?;
        let run = self
            .plan
            .sorted(states, self.batch.threads(), from.clone(), to.clone())?;
        Ok(run)
    }

    async fn gathered(
        &self,
        from: &Frontiers,
        to: &Frontiers,
        spills: &Spills,
    ) -> Result<Piece, Error> {
        let table = self.tables(from, to);
        let (state, pool) = self.sorting(self.limits.working_bytes());
        let states = self.plan.partial_states_from(&state, &table).await?;
        self.running.reads(&states);
        let task = self.task_of(&state, pool)?;
        let states = execute_stream(states, task)?;
        let gather = Gather {
            plan: self.plan,
            spills,
            limits: &self.limits,
            threads: self.batch.threads(),
            task: self.task(Arc::new(UnboundedMemoryPool::default()))?,
        };
        gather.all(states, from, to).await
    }

    fn tables(
        &self,
        from: &Frontiers,
        to: &Frontiers,
    ) -> impl Fn(TableSource) -> Result<Arc<dyn TableProvider>, DataFusionError> + Sync {
        let (pin, from, to) = (self.pin.clone(), from.clone(), to.clone());
        let texts = self.plan.texts_only_grouped_by.clone();
        move |source| match source {
            TableSource::Stream(stream) => {
                let (from, to) = (from.of(stream.id), to.of(stream.id));
                let table = pin.sealed_between(stream, from, to);
                Ok(Arc::new(table.with_text_views(&texts)))
            }
            other => Err(DataFusionError::Plan(format!("{other:?} is not a stream"))),
        }
    }

    fn files(&self) -> Vec<(lambic_model::StreamId, lambic_model::OffsetRange)> {
        let inputs = self.plan.inputs.iter();
        let files = inputs.flat_map(|stream| {
            let manifest = self.pin.manifest(stream.id);
            let ranges: Vec<_> = manifest.files.iter().map(|file| file.range).collect();
            ranges.into_iter().map(|range| (stream.id, range))
        });
        files.collect()
    }

    /// For plans without memory for the table of a join: its sides are sorted, which can go by way of the disk.
    fn sorting(&self, memory: usize) -> (SessionState, Arc<dyn MemoryPool>) {
        let Some(join) = self.plan.join() else {
            return (self.batch.state.clone(), pool(memory));
        };
        let sides = join.standings().len();
        let partitions = self.limits.sorting_partitions(sides, self.batch.threads());
        // Both inputs of each join of two.
        let sorts = 2 * sides.saturating_sub(1) * partitions;
        let part = FairSorts::part(memory, sorts);
        let mut state = self.batch.state.clone();
        let config = state.config_mut();
        *config = config
            .clone()
            .with_target_partitions(partitions)
            .with_batch_size(limits::sorted_rows(part));
        let options = config.options_mut();
        options.optimizer.prefer_hash_join = false;
        options.execution.sort_spill_reservation_bytes = part / 2;
        let pool = TrackConsumersPool::new(FairSorts::new(memory, sorts), CONSUMERS_NAMED);
        (state, Arc::new(pool))
    }

    fn task(&self, pool: Arc<dyn MemoryPool>) -> Result<Arc<TaskContext>, Error> {
        self.task_of(&self.batch.state, pool)
    }

    fn task_of(
        &self,
        state: &SessionState,
        pool: Arc<dyn MemoryPool>,
    ) -> Result<Arc<TaskContext>, Error> {
        let runtime = RuntimeEnvBuilder::from_runtime_env(&self.batch.runtime);
        let runtime = runtime.with_memory_pool(pool).build_arc()?;
        let task = TaskContext::from(state);
        Ok(Arc::new(task.with_runtime(runtime)))
    }
}

fn pool(bytes: usize) -> Arc<dyn MemoryPool> {
    Arc::new(TrackConsumersPool::new(
        FairSpillPool::new(bytes),
        CONSUMERS_NAMED,
    ))
}

/// Deletes the files of runs in folders of views that no manifest lists: batches that were killed left them.
pub async fn tidy(store: Arc<dyn object_store::ObjectStore>) -> Result<(), Error> {
    for folder in store::folders_of_slices(&store).await? {
        let manifests = Manifests::of(Arc::clone(&store), folder.clone());
        let kept = manifests.load().await?;
        let runs = kept.as_ref().map_or(&[][..], |found| &found.runs);
        let limits = Limits::default();
        Spills::open(Arc::clone(&store), folder, runs, limits, Arc::default()).await?;
    }
    Ok(())
}
