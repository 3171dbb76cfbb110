//! The feed: looks at what it follows whenever that may have changed, and tells the difference.
//!
//! Between two looks it holds states or rows of the last message, and neither files nor segments of the log.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use lambic_model::{Frontiers, PartitionId};
use lambic_view::{Class, Run, ViewPlan};
use tokio::{sync::watch, time::Instant};

use super::{
    Change, Follow, Followed, Message,
    difference::Difference,
    target::{Kind, Target},
};
use crate::{Database, Error, as_of, pinned::view_error, sqlstate};

/// Not everything that changes a view is a commit: versions, batches, erasures, drops.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Records of one partition in one message of a stream.
const STREAM_RECORDS_MAX: u64 = 20_000;
/// Runs that are held before they are merged.
const RUNS_MAX: usize = 24;

pub struct Feed {
    database: Database,
    followed: Followed,
    follow: Follow,
    sent: Sent,
    commits: watch::Receiver<u64>,
    ready: VecDeque<Message>,
    /// When the last message was made.
    told: Instant,
    /// There is more to be told without waiting.
    is_behind: bool,
    is_ended: bool,
}

/// What the client has.
struct Sent {
    heads: Frontiers,
    mark: String,
    frontier: String,
    schema: SchemaRef,
    held: Held,
}

enum Held {
    /// Records are not changed.
    Stream,
    /// The states at the frontier.
    States(Arc<ViewPlan>, Vec<Arc<Run>>),
    /// The rows at the frontier.
    Rows(Vec<RecordBatch>),
    /// The client came back with a frontier; what stood there can be computed.
    Nothing,
}

impl Feed {
    /// The first message is ready when this returns.
    pub(crate) async fn open(
        database: Database,
        followed: Followed,
        follow: Follow,
    ) -> Result<Feed, Error> {
        let mut commits = database.sources().reader.commits();
        commits.borrow_and_update();
        let target = Target::now(&database, &followed).await?;
        let target = match (target, &followed) {
            (Some(target), _) => target,
            (None, Followed::Named(name) | Followed::Select(_, name)) => {
                return Err(database.no_table(name));
            }
        };
        let start = follow.from.as_deref();
        let snapshot = follow.snapshot;
        let start = start.map(|text| database.resumed(text, &target, snapshot));
        let start = start.transpose()?;
        let mut feed = Feed {
            sent: Sent {
                heads: Frontiers::default(),
                mark: target.mark.clone(),
                frontier: String::new(),
                schema: Arc::clone(&target.schema),
                held: Held::Nothing,
            },
            database,
            followed,
            follow,
            commits,
            ready: VecDeque::new(),
            told: Instant::now(),
            is_behind: false,
            is_ended: false,
        };
        match start {
            None => feed.begin(&target, feed.follow.snapshot).await?,
            Some(Resumed::Other(why)) => feed.reset(&target, why).await?,
            Some(Resumed::At(heads)) => feed.begin_at(&target, heads).await?,
        }
        Ok(feed)
    }

    /// The columns of the rows, as they are at first.
    pub fn schema(&self) -> &SchemaRef {
        &self.sent.schema
    }

    /// The next message; `None` when there is none to come. To be given up only for good: what it has found out is lost
    /// with it.
    pub async fn next(&mut self) -> Result<Option<Message>, Error> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                self.told = Instant::now();
                return Ok(Some(message));
            }
            if self.is_ended {
                return Ok(None);
            }
            if !std::mem::take(&mut self.is_behind) {
                self.wait().await;
            }
            self.look().await?;
            if self.ready.is_empty() && self.told.elapsed() >= self.follow.progress_every {
                self.tell(Change::Progress);
            }
        }
    }

    async fn wait(&mut self) {
        let earliest = self.told + self.follow.every;
        let commit = tokio::time::timeout(LOOK_EVERY, self.commits.changed()).await;
        if let Ok(Err(_)) = commit {
            // The log is closed.
            tokio::time::sleep(LOOK_EVERY).await;
        }
        tokio::time::sleep_until(earliest).await;
        self.commits.borrow_and_update();
    }

    fn tell(&mut self, change: Change) {
        self.ready.push_back(Message {
            frontier: self.sent.frontier.clone(),
            schema: Arc::clone(&self.sent.schema),
            change,
        });
    }

    /// The client has what stands at `heads` of `target`.
    fn has(&mut self, target: &Target, heads: Frontiers, held: Held) {
        self.sent = Sent {
            frontier: target.text(&heads),
            mark: target.mark.clone(),
            schema: Arc::clone(&target.schema),
            heads,
            held,
        };
    }

    /// Begins with what there is now.
    async fn begin(&mut self, target: &Target, snapshot: bool) -> Result<(), Error> {
        if let (Kind::Stream(_), true) = (&target.kind, snapshot) {
            // History comes as what is new since the beginning.
            let none = Frontiers::default();
            let (heads, rows) = self.new_records(target, &none).await?;
            self.is_behind = heads != target.heads;
            self.has(target, heads, Held::Stream);
            self.tell(Change::Snapshot(rows));
            return Ok(());
        }
        let needs_rows = snapshot || matches!(target.kind, Kind::Rows(_));
        let rows = match needs_rows {
            true => self.rows(target, &target.heads).await?,
            false => Vec::new(),
        };
        let held = match &target.kind {
            Kind::Stream(_) => Held::Stream,
            Kind::Rows(_) => Held::Rows(rows.clone()),
            Kind::States(view) => Held::States(
                Arc::clone(view.plan()),
                self.runs(target, &target.heads).await?,
            ),
        };
        self.has(target, target.heads.clone(), held);
        self.tell(match snapshot {
            true => Change::Snapshot(rows),
            false => Change::Progress,
        });
        Ok(())
    }

    /// Begins with what there was at `heads`.
    async fn begin_at(&mut self, target: &Target, heads: Frontiers) -> Result<(), Error> {
        let (mut held, mut change) = (Held::Nothing, Change::Progress);
        match &target.kind {
            // All that there is comes, and it does not matter for a stream where the first portion ends.
            Kind::Stream(_) if self.follow.snapshot => return self.begin(target, true).await,
            Kind::Stream(_) => held = Held::Stream,
            _ if self.follow.snapshot => {
                let rows = self.rows(target, &heads).await?;
                if let Kind::Rows(_) = target.kind {
                    held = Held::Rows(rows.clone());
                }
                change = Change::Snapshot(rows);
            }
            _ => {}
        }
        self.has(target, heads, held);
        self.tell(change);
        self.is_behind = true;
        Ok(())
    }

    async fn reset(&mut self, target: &Target, why: &str) -> Result<(), Error> {
        self.sent.frontier = target.text(&target.heads);
        self.tell(Change::Reset(why.to_owned()));
        self.begin(target, self.follow.snapshot_after_reset).await
    }

    /// Looks at what is followed and makes messages of what has changed.
    async fn look(&mut self) -> Result<(), Error> {
        let target = match Target::now(&self.database, &self.followed).await {
            Ok(Some(target)) => target,
            Ok(None) => return self.end(),
            Err(error) if error.sqlstate == sqlstate::UNDEFINED_TABLE => return self.end(),
            Err(error) => return Err(error),
        };
        if target.mark != self.sent.mark {
            return self.replaced(&target).await;
        }
        if target.schema != self.sent.schema {
            // Of anything else the mark tells.
            return Err(other_columns(&target));
        }
        let is_still = target.heads == self.sent.heads;
        // As of its last batch, it may not have come to where a client begins.
        if !is_still && !target.heads.covers(&self.sent.heads) {
            return Ok(());
        }
        let held = std::mem::replace(&mut self.sent.held, Held::Nothing);
        let (heads, difference, held) = match &target.kind {
            Kind::Stream(_) if is_still => (target.heads.clone(), Difference::default(), held),
            Kind::Stream(_) => {
                let (heads, added) = self.new_records(&target, &self.sent.heads).await?;
                self.is_behind = heads != target.heads;
                let removed = Vec::new();
                (heads, Difference { added, removed }, Held::Stream)
            }
            Kind::States(view) => {
                let plan = Arc::clone(view.plan());
                let (difference, runs) = self.by_states(&target, &plan, held, is_still).await?;
                (target.heads.clone(), difference, Held::States(plan, runs))
            }
            Kind::Rows(_) => {
                let (difference, rows) = self.by_rows(&target, held, is_still).await?;
                (target.heads.clone(), difference, Held::Rows(rows))
            }
        };
        self.has(&target, heads, held);
        if !is_still || !difference.is_empty() {
            self.tell_difference(difference);
        }
        Ok(())
    }

    fn tell_difference(&mut self, difference: Difference) {
        let is_empty = difference.is_empty();
        let Difference { added, removed } = difference;
        self.tell(match is_empty {
            true => Change::Progress,
            false => Change::Rows { added, removed },
        });
    }

    fn end(&mut self) -> Result<(), Error> {
        self.tell(Change::Dropped);
        self.is_ended = true;
        Ok(())
    }

    /// Other definitions, or records erased from under it: the difference between the rows as they were sent and as
    /// they are now, where both are at hand.
    async fn replaced(&mut self, target: &Target) -> Result<(), Error> {
        let before = match &self.sent.held {
            Held::Rows(rows) => Some(rows.clone()),
            Held::States(plan, runs) => {
                let states = runs.iter().map(|run| run.states.clone()).collect();
                let task = self.database.context().state().task_ctx();
                Some(plan.finish(states, task).await.map_err(view_failed)?)
            }
            Held::Stream | Held::Nothing => None,
        };
        let before = before.filter(|_| target.schema == self.sent.schema);
        let (Some(before), false) = (before, matches!(target.kind, Kind::Stream(_))) else {
            return self.reset(target, REPLACED).await;
        };
        let after = self.rows(target, &target.heads).await?;
        let difference = between(&target.schema, &before, &after)?;
        let held = match &target.kind {
            Kind::States(view) => Held::States(
                Arc::clone(view.plan()),
                self.runs(target, &target.heads).await?,
            ),
            _ => Held::Rows(after),
        };
        self.has(target, target.heads.clone(), held);
        self.tell_difference(difference);
        Ok(())
    }

    /// By the states of the records since: those alone, and of what was before, those of the same keys.
    async fn by_states(
        &self,
        target: &Target,
        plan: &Arc<ViewPlan>,
        held: Held,
        is_still: bool,
    ) -> Result<(Difference, Vec<Arc<Run>>), Error> {
        let failed = |error| Error::from_datafusion(error, "", &[]);
        let state = self.database.context().state();
        let held = match held {
            Held::States(_, runs) => Some(runs),
            _ => None,
        };
        let mut difference = Difference::default();
        let mut new = None;
        if !is_still {
            let since = target.pinned.states_since(plan, &self.sent.heads, &state);
            let since = since.await.map_err(failed)?;
            if !since.is_empty() && plan.class != Class::Rows {
                let before = match &held {
                    Some(runs) => runs.clone(),
                    None => self.runs(target, &self.sent.heads).await?,
                };
                let before = before.iter().map(|run| run.matching(&since));
                let mut states = before.collect::<Result<Vec<_>, _>>().map_err(view_failed)?;
                states.retain(|states| states.num_rows() > 0);
                let before = plan.finish(states.clone(), state.task_ctx()).await;
                states.push(since.states.clone());
                let after = plan.finish(states, state.task_ctx()).await;
                let (before, after) = (before.map_err(view_failed)?, after.map_err(view_failed)?);
                difference = between(&target.schema, &before, &after)?;
            } else if !since.is_empty() {
                let rows = plan.finish(vec![since.states.clone()], state.task_ctx());
                difference.added = rows.await.map_err(view_failed)?;
            }
            new = Some(since);
        }
        // The view's own runs, so that those before may go.
        let Kind::States(view) = &target.kind else {
            return Ok((difference, Vec::new()));
        };
        let runs = match (target.pinned.runs_at(view).await.map_err(failed)?, held) {
            (Some(runs), _) => runs,
            (None, Some(mut runs)) => {
                runs.extend(new.filter(|run| !run.is_empty()).map(Arc::new));
                if runs.len() > RUNS_MAX {
                    let merged = plan.merge(&runs, state.task_ctx()).await;
                    runs = vec![Arc::new(merged.map_err(view_failed)?)];
                }
                runs
            }
            (None, None) => self.runs(target, &target.heads).await?,
        };
        Ok((difference, runs))
    }

    /// By a comparison of all rows.
    async fn by_rows(
        &self,
        target: &Target,
        held: Held,
        is_still: bool,
    ) -> Result<(Difference, Vec<RecordBatch>), Error> {
        let before = match held {
            Held::Rows(rows) => rows,
            _ => self.rows(target, &self.sent.heads).await?,
        };
        if is_still {
            return Ok((Difference::default(), before));
        }
        let after = self.rows(target, &target.heads).await?;
        Ok((between(&target.schema, &before, &after)?, after))
    }

    async fn rows(&self, target: &Target, heads: &Frontiers) -> Result<Vec<RecordBatch>, Error> {
        let pinned = match target.heads == *heads {
            true => Arc::clone(&target.pinned),
            false => Arc::new(target.pinned.back_to(heads.clone())),
        };
        let rows_max = self.follow.rows_max;
        let rows = target.rows(&self.database, &self.followed, &pinned, rows_max);
        let rows = rows.await?;
        let named = rows.into_iter().map(|batch| {
            let (_, columns, count) = batch.into_parts();
            let options =
                arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(count));
            let schema = Arc::clone(&target.schema);
            RecordBatch::try_new_with_options(schema, columns, &options)
        });
        named.collect::<Result<_, _>>().map_err(Error::internal)
    }

    /// All states at `heads`, from runs, or where those do not make them up, from the records.
    async fn runs(&self, target: &Target, heads: &Frontiers) -> Result<Vec<Arc<Run>>, Error> {
        let Kind::States(view) = &target.kind else {
            return Ok(Vec::new());
        };
        let failed = |error| Error::from_datafusion(error, "", &[]);
        let pinned = match target.heads == *heads {
            true => Arc::clone(&target.pinned),
            false => Arc::new(target.pinned.back_to(heads.clone())),
        };
        if let Some(runs) = pinned.runs_at(view).await.map_err(failed)? {
            return Ok(runs);
        }
        let state = self.database.context().state();
        let run = pinned.states_from_scratch(view.plan(), &state).await;
        Ok(vec![Arc::new(run.map_err(failed)?)])
    }

    /// The records of a stream since `from`, as many as go into one message, and where they end.
    async fn new_records(
        &self,
        target: &Target,
        from: &Frontiers,
    ) -> Result<(Frontiers, Vec<RecordBatch>), Error> {
        let Kind::Stream(stream) = &target.kind else {
            return Ok((target.heads.clone(), Vec::new()));
        };
        let mut to = target.heads.of(stream.id);
        let before = from.of(stream.id);
        for (partition, end) in (0..).map(PartitionId).zip(&mut to.0) {
            *end = (*end).min(before.offset(partition).plus(STREAM_RECORDS_MAX));
        }
        let mut heads = Frontiers::default();
        heads.set(stream.id, to);
        let state = self.database.context().state();
        let rows = target.records(stream, from, &heads, &state).await?;
        Ok((heads, rows))
    }
}

const REPLACED: &str =
    "the view was replaced or rolled back, or records were erased, since that frontier";

const ESTIMATES: &str = "the view has estimates, or sums that round, which differ from run to run: what was sent at that frontier cannot be computed again";

/// What a client comes back with.
pub enum Resumed {
    At(Frontiers),
    /// No difference leads from there to here, for this reason.
    Other(&'static str),
}

impl Database {
    /// Where a client of `target` is that has `text`.
    fn resumed(&self, text: &str, target: &Target, snapshot: bool) -> Result<Resumed, Error> {
        let named = as_of::frontiers(text)?;
        let mark = as_of::mark(text).filter(|_| !snapshot);
        if mark.is_some_and(|mark| mark != target.mark) {
            return Ok(Resumed::Other(REPLACED));
        }
        let streams = &target.streams;
        if let Some(other) = (named.keys()).find(|name| {
            let mut read = streams.iter();
            read.all(|stream| stream.name.as_str() != name.as_str())
        }) {
            let message = format!("the frontier is of stream \"{other}\", which is not read here");
            let hint = format!("a frontier here is such as {}", target.text(&target.heads));
            return Err(Error::new(sqlstate::INVALID_PARAMETER, message).with_hint(hint));
        }
        if let Some(stream) =
            (streams.iter()).find(|stream| !named.contains_key(stream.name.as_str()))
        {
            return Err(as_of::end_unknown(&stream.name));
        }
        let heads = self.heads_of_text(text, &target.log_heads)?;
        if !(snapshot && matches!(target.kind, Kind::Stream(_))) {
            self.check_not_expired(&heads)?;
        }
        Ok(match target.is_exact || snapshot {
            true => Resumed::At(heads),
            false => Resumed::Other(ESTIMATES),
        })
    }
}

/// What was sent stays as it was: records do not change with the columns of their stream.
fn other_columns(target: &Target) -> Error {
    let names = target.streams.iter().map(|stream| stream.name.as_str());
    let names = names.collect::<Vec<_>>().join(", ");
    let message = format!("stream {names} has other columns now");
    Error::new(sqlstate::NOT_IN_PREREQUISITE_STATE, message).with_hint(
        "subscribe again AS OF OFFSET the last frontier that came, and go on in the new columns",
    )
}

fn between(
    schema: &SchemaRef,
    before: &[RecordBatch],
    after: &[RecordBatch],
) -> Result<Difference, Error> {
    Difference::between(schema, before, after).map_err(|error| match error {
        arrow::error::ArrowError::NotYetImplemented(what) => Error::new(
            sqlstate::FEATURE_NOT_SUPPORTED,
            format!("rows of these columns cannot be compared: {what}"),
        ),
        other => Error::internal(other),
    })
}

fn view_failed(error: lambic_view::Error) -> Error {
    Error::from_datafusion(view_error(error), "", &[])
}
