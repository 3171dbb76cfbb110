//! The frontier that a statement is pinned to, and how its views are read there.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use datafusion::{
    catalog::TableProvider,
    common::{Result, plan_datafusion_err},
    error::DataFusionError,
    execution::SessionState,
};
use lambic_dataset::{Manifest, Pin};
use lambic_model::{Erasures, Frontier, Frontiers, Stream, StreamId};
use lambic_serving::{
    Answer, RecomputedView, RunSet, Served, ServedView, Standing, ViewRead, Views,
};
use lambic_view::{Freshness, KeyRange, Run, Source, TableOf, ViewPlan, tail::TailSource};

use crate::{
    as_of,
    counted::{Count, Counted},
    pending::{Own, OwnTail, Pending},
    provider::{Sources, view_table},
};

/// Views as they stood, then the log's head after that: no view's runs lie past the head, so each can
/// be brought up to it exactly, and the head includes every append acknowledged before.
pub struct Pinned {
    pub views: Views,
    /// By the address of the view, which `views` keeps alive.
    runs: Arc<HashMap<usize, Arc<RunSet>>>,
    streams: Pin,
    /// The log's newest records.
    tail: Arc<dyn TailSource>,
    /// What the statement's own transaction has inserted.
    own: Option<Arc<Own>>,
    /// True if it stands before the head, where only those streams are known that the statement was said to read.
    looks_back: bool,
    /// Where it begins, if not with the first records.
    begin: Option<Frontiers>,
    /// Counts the records of streams that are read.
    count: Option<Count>,
}

fn address(view: &Arc<ServedView>) -> usize {
    Arc::as_ptr(view) as usize
}

impl Pinned {
    /// For a statement that may read any view.
    pub fn take(sources: &Sources) -> Pinned {
        loop {
            let altered = sources.altered.load(Ordering::SeqCst);
            let views = sources.serving.views();
            let kept = views.values().flat_map(Served::kept);
            let runs = kept.map(|view| (address(&view), view.runs())).collect();
            let pinned = Pinned::with_runs(sources, views, runs);
            // Views from before a column was changed could not read records from after it.
            if sources.altered.load(Ordering::SeqCst) == altered {
                return pinned;
            }
        }
    }

    /// For a read of `view` alone, which must be among those that are served.
    pub fn of_view(sources: &Sources, view: &Arc<ServedView>) -> Pinned {
        let runs = HashMap::from([(address(view), view.runs())]);
        Pinned::with_runs(sources, sources.serving.views(), runs)
    }

    fn with_runs(sources: &Sources, views: Views, runs: HashMap<usize, Arc<RunSet>>) -> Pinned {
        let streams = sources.reader.pin();
        Pinned {
            views,
            runs: Arc::new(runs),
            tail: (sources.tail_of)(&streams),
            streams,
            own: None,
            looks_back: false,
            begin: None,
            count: None,
        }
    }

    /// The same frontier with what a transaction has inserted, for its own statements.
    pub fn with_own(&self, pending: Pending, now_us: i64) -> Pinned {
        let own = Arc::new(Own::new(pending, self.streams.heads().clone(), now_us));
        Pinned {
            views: Arc::clone(&self.views),
            runs: Arc::clone(&self.runs),
            streams: self.streams.clone(),
            tail: Arc::clone(&self.tail),
            own: Some(own),
            looks_back: self.looks_back,
            begin: self.begin.clone(),
            count: self.count.clone(),
        }
    }

    /// The stream's files as this pin reads them.
    pub fn manifest(&self, stream: StreamId) -> Arc<Manifest> {
        self.streams.manifest(stream)
    }

    /// Where a stream ended at a time.
    pub async fn head_at(
        &self,
        stream: StreamId,
        at_us: i64,
    ) -> std::result::Result<Frontier, lambic_dataset::Error> {
        self.streams.head_at(stream, at_us).await
    }

    /// The records that the runs do not cover.
    fn tail(&self) -> Arc<dyn TailSource> {
        let log = Arc::clone(&self.tail);
        match &self.own {
            Some(own) => Arc::new(OwnTail {
                log,
                own: Arc::clone(own),
            }),
            None => log,
        }
    }

    pub fn heads(&self) -> Frontiers {
        match &self.own {
            Some(own) => own.heads(),
            None => self.streams.heads().clone(),
        }
    }

    /// The same views at an earlier frontier, over the streams in `heads` alone; what is not committed came later.
    pub fn back_to(&self, heads: Frontiers) -> Pinned {
        let kept = self.views.values().flat_map(Served::kept);
        let runs = kept.filter_map(|view| {
            let runs = self.runs.get(&address(&view))?;
            let earlier = runs.upto(&heads, &view.plan().inputs);
            Some((address(&view), earlier))
        });
        Pinned {
            views: Arc::clone(&self.views),
            runs: Arc::new(runs.collect()),
            streams: self.streams.at(heads),
            tail: Arc::clone(&self.tail),
            own: None,
            looks_back: true,
            begin: self.begin.clone(),
            count: self.count.clone(),
        }
    }

    /// The same as if there had been no records before `from`.
    pub fn since(&self, from: Frontiers) -> Pinned {
        Pinned {
            views: Arc::clone(&self.views),
            runs: Arc::clone(&self.runs),
            streams: self.streams.clone(),
            tail: Arc::clone(&self.tail),
            own: self.own.clone(),
            looks_back: self.looks_back,
            begin: Some(from),
            count: self.count.clone(),
        }
    }

    /// True if there are records that the last batch of `view` does not cover.
    pub fn is_past_batch(&self, view: &RecomputedView) -> bool {
        let heads = self.heads();
        let streams = view.plan().streams.iter();
        let mut streams = streams.map(|stream| stream.id);
        view.batch_frontier()
            .is_some_and(|batch| streams.any(|id| heads.of(id).since(&batch.of(id)) > 0))
    }

    /// The same as if there had been no records before `from`, and none after `to`. What is read is counted.
    pub fn stretch(&self, from: Frontiers, to: Frontiers, count: Count) -> Pinned {
        Pinned {
            begin: Some(from),
            count: Some(count),
            ..self.back_to(to)
        }
    }

    /// The frontier at which `served` shows its rows: this one, or that of its last batch if it was declared so
    /// and the statement asks for no other.
    pub fn seen_by(self: &Arc<Self>, served: &Served) -> Arc<Pinned> {
        match self.batch_frontier(served) {
            Some(frontier) => Arc::new(self.back_to(frontier)),
            None => Arc::clone(self),
        }
    }

    /// The same for a pin of one kept view.
    pub fn seen_by_view(self, view: &Arc<ServedView>) -> Pinned {
        match self.batch_frontier(&Served::Kept(Arc::clone(view))) {
            Some(frontier) => self.back_to(frontier),
            None => self,
        }
    }

    fn batch_frontier(&self, served: &Served) -> Option<Frontiers> {
        if self.looks_back || served.definition().freshness == Freshness::Now {
            return None;
        }
        match served {
            Served::Kept(view) => Some(self.runs.get(&address(view))?.batch_frontier()),
            Served::Recomputed(view) => view.batch_frontier().cloned(),
        }
    }

    pub fn looks_back(&self) -> bool {
        self.looks_back
    }

    /// An error if it is not known where one of `streams` ends.
    pub fn check<'a>(&self, streams: impl IntoIterator<Item = &'a Arc<Stream>>) -> Result<()> {
        let known = &self.streams.heads().0;
        let mut streams = streams.into_iter();
        match streams.find(|stream| self.looks_back && !known.contains_key(&stream.id)) {
            Some(stream) => Err(as_of::end_unknown(&stream.name).into()),
            None => Ok(()),
        }
    }

    fn runs_of(&self, view: &Arc<ServedView>) -> Result<&Arc<RunSet>> {
        let found = self.runs.get(&address(view));
        found.ok_or_else(|| {
            plan_datafusion_err!("view \"{}\" is not pinned", view.definition().name)
        })
    }

    /// The runs that reads of a kept view go through; `None` if they do not make it up, so that the records are read.
    pub fn runs_read(&self, view: &Arc<ServedView>) -> Result<Option<&Arc<RunSet>>> {
        let runs = self.runs_of(view)?;
        Ok(self.are_current(view, runs).then_some(runs))
    }

    /// True if the runs and what follows them in the pinned log make up the view.
    fn are_current(&self, view: &ServedView, runs: &RunSet) -> bool {
        let log = self.streams.log();
        // States do not tell apart the records that they are of.
        self.begin.is_none()
            && !view.is_outdated(runs, &log.erasures())
            && self.tail_is_there(view.plan(), runs)
            && !self.joins_own(view.plan())
    }

    /// True if records of the statement's own transaction are to be joined: nobody's index has them.
    fn joins_own(&self, plan: &ViewPlan) -> bool {
        let has_own = |own: &Arc<Own>| plan.inputs.iter().any(|stream| own.has(stream.id));
        plan.join().is_some() && self.own.as_ref().is_some_and(has_own)
    }

    /// True if the pinned log still has all that the runs do not cover. At the head it had when the runs
    /// were looked at; a batch that was published and a trim right after may have come before the pin.
    fn tail_is_there(&self, plan: &ViewPlan, runs: &RunSet) -> bool {
        let (log, heads) = (self.streams.log(), self.heads());
        let there = |stream: &Arc<Stream>| {
            let covered = runs.covered.of(stream.id);
            covered.covers(&log.start(stream.id)) || covered.covers(&heads.of(stream.id))
        };
        // What a join lacks is computed from files, too.
        plan.join().is_some() || plan.inputs.iter().all(there)
    }

    /// The rows of a kept view; with a range of keys, all of that range and perhaps others.
    pub async fn read(
        &self,
        view: &Arc<ServedView>,
        range: Option<&KeyRange>,
        state: &SessionState,
    ) -> Result<Answer> {
        let Some(runs) = self.runs_read(view)? else {
            return self.read_from_history(view, range, state).await;
        };
        let heads = self.heads();
        let answer = match range {
            Some(range) => {
                view.read_range(range, runs, &heads, self.tail().as_ref())
                    .await
            }
            None => view.read(runs, &heads, self.tail().as_ref()).await,
        };
        answer.map_err(|error| DataFusionError::External(Box::new(error)))
    }

    /// The same rows, computed from the records.
    async fn read_from_history(
        &self,
        view: &Arc<ServedView>,
        range: Option<&KeyRange>,
        state: &SessionState,
    ) -> Result<Answer> {
        let plan = view.plan();
        let run = self.states_from_scratch(plan, state).await?;
        let states = match range {
            Some(range) => run.within(range),
            None => run.states,
        };
        let batches = plan.finish(vec![states], state.task_ctx()).await;
        Ok(Answer {
            batches: Arc::new(batches.map_err(view_error)?),
            frontier: self.heads(),
        })
    }

    /// All states of a kept view at the pin, merged; what audits of sketches compare.
    pub async fn merged_states(&self, view: &Arc<ServedView>, state: &SessionState) -> Result<Run> {
        let Some(runs) = self.runs_read(view)? else {
            return self.states_from_scratch(view.plan(), state).await;
        };
        let merged = view.merged(runs, &self.heads(), self.tail().as_ref()).await;
        merged.map_err(|error| DataFusionError::External(Box::new(error)))
    }

    /// All states of a kept view at the pin, in runs that follow one another; `None` if what is kept does not make
    /// them up, so that only the records tell.
    pub async fn runs_at(&self, view: &Arc<ServedView>) -> Result<Option<Vec<Arc<Run>>>> {
        let Some(runs) = self.runs_read(view)? else {
            return Ok(None);
        };
        let all = view
            .runs_to(runs, &self.heads(), self.tail().as_ref())
            .await;
        let all = all.map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(Some(all))
    }

    /// States of every record up to the pin, computed from the records.
    pub async fn states_from_scratch(&self, plan: &ViewPlan, state: &SessionState) -> Result<Run> {
        self.states_of(plan, Frontiers::default(), state, &|source| {
            self.records(source)
        })
        .await
    }

    /// States of the records from `from` up to the pin: from the log, or from files where it has let them go.
    pub async fn states_since(
        &self,
        plan: &ViewPlan,
        from: &Frontiers,
        state: &SessionState,
    ) -> Result<Run> {
        let (log, heads) = (self.streams.log(), self.heads());
        let in_log = plan.inputs.iter().all(|stream| {
            let from = from.of(stream.id);
            from.covers(&log.start(stream.id)) || from.covers(&heads.of(stream.id))
        });
        if in_log || plan.join().is_some() {
            let tail = self.tail();
            let run = tail.run_between(plan, from, &heads, state.task_ctx()).await;
            return run.map_err(view_error);
        }
        let since = |source: Source<'_>| match source {
            Source::Stream(stream) => Ok(self.records_since(stream, from)),
            other => self.records(other),
        };
        self.states_of(plan, from.clone(), state, &since).await
    }

    /// The records of a stream from `from` up to the pin, with system columns.
    pub fn records_since(&self, stream: &Arc<Stream>, from: &Frontiers) -> Arc<dyn TableProvider> {
        Arc::new(self.streams.table_since(stream, from.of(stream.id)))
    }

    async fn states_of(
        &self,
        plan: &ViewPlan,
        from: Frontiers,
        state: &SessionState,
        table: TableOf<'_>,
    ) -> Result<Run> {
        let states = plan.states_from(state, table).await;
        let states = states.map_err(view_error)?;
        let states = datafusion::physical_plan::collect(states, state.task_ctx()).await?;
        let threads = state.config().target_partitions();
        let run = plan.sorted(states, threads, from, self.heads());
        run.map_err(view_error)
    }

    /// The newest erasure of every stream that has any.
    pub fn erasures(&self) -> Erasures {
        self.streams.log().erasures()
    }

    /// How many committed records the stream has, from the first one on.
    pub fn records_of(&self, stream: &Arc<Stream>) -> u64 {
        self.streams.table(stream).records()
    }

    /// The stream with its system columns.
    pub fn stream(&self, stream: &Arc<Stream>) -> Result<Arc<dyn TableProvider>> {
        let table = match &self.begin {
            Some(begin) => self.streams.table_since(stream, begin.of(stream.id)),
            None => self.streams.table(stream),
        };
        let table: Arc<dyn TableProvider> = match &self.own {
            Some(own) => own.table(table, stream)?,
            None => Arc::new(table),
        };
        Ok(match &self.count {
            Some(count) => Arc::new(Counted {
                table,
                count: Arc::clone(count),
            }),
            None => table,
        })
    }

    /// The table of a stream, for plans that read nothing else.
    pub fn records(&self, source: Source) -> Result<Arc<dyn TableProvider>> {
        match source {
            Source::Stream(stream) => self.stream(stream),
            Source::View(name) => Err(plan_datafusion_err!("view \"{name}\" is not a stream")),
            Source::Part(index) => Err(plan_datafusion_err!("part {index} is not a stream")),
        }
    }

    /// The view called `name` as a table.
    pub fn view(self: &Arc<Self>, name: &str) -> Result<Arc<dyn TableProvider>> {
        let served = self.views.get(name);
        let served = served.ok_or_else(|| plan_datafusion_err!("table '{name}' not found"))?;
        Ok(view_table(served, self))
    }

    /// What the rows of `view` would stand for; `None` if records that are not committed are among them, which are
    /// nobody else's to see.
    pub fn standing(&self, view: &RecomputedView) -> Option<Standing> {
        if self.begin.is_some() {
            return None;
        }
        if let Some(own) = &self.own
            && view.plan().streams.iter().any(|stream| own.has(stream.id))
        {
            return None;
        }
        let heads = self.heads();
        let mut frontier = Frontiers::default();
        for stream in &view.plan().streams {
            frontier.set(stream.id, heads.of(stream.id));
        }
        let mut views = Vec::new();
        self.add_views_read(&view.plan().views, &mut views);
        let streams = view.plan().streams.iter().map(|stream| stream.id);
        Some(Standing {
            frontier,
            erasures: self.streams.log().erasures().of_streams(streams),
            views,
        })
    }

    fn add_views_read(&self, names: &[String], found: &mut Vec<ViewRead>) {
        for served in names.iter().filter_map(|name| self.views.get(name)) {
            found.push((served.definition().directory(), self.batch_frontier(served)));
            self.add_views_read(served.views_read(), found);
        }
    }
}

pub fn view_error(error: lambic_view::Error) -> DataFusionError {
    match error {
        lambic_view::Error::DataFusion(error) => error,
        other => DataFusionError::External(Box::new(other)),
    }
}
