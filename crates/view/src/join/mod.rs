//! Inner joins of streams under an aggregation whose states merge: a sum of products.
//!
//! A run of `A ⋈ B` over the records in `from..to` has the pairs of which at least one record is new and none is newer:
//! `ΔA ⋈ B(from)` and `A(to) ⋈ ΔB`. With more sides it goes on like this: side i is new, those before it stand at
//! `to` and those after it at `from`, so that each row of the join is in exactly one of the products. This is the usual
//! delta rule of incremental view maintenance (Griffin and Libkin, *Incremental Maintenance of Views with
//! Duplicates*, 1995), for inserts alone: what is erased cannot be taken out of states.
//!
//! Of the sides that are not new, only the rows with a key of the new ones are needed. An index in memory finds them:
//! one for each side, built when it is first asked for and extended by the records that came since. What it finds and
//! the new rows are put into the view's own plan in place of the sides, so that there is no second way to join. Where
//! an index would hold too much, and where there is more that is new than old, the product is computed from the
//! streams instead.

mod apart;
mod history;
mod index;
mod memory;
mod side;
mod stand_in;

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    sync::Arc,
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    common::Column,
    error::DataFusionError,
    execution::{SessionState, TaskContext},
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
    physical_plan::{ExecutionPlan, collect},
};
use futures::TryStreamExt;
use lambic_model::{Frontier, Frontiers, StreamId};

use crate::{
    Error, Run, ViewPlan,
    plan::with_schema,
    slot::{self, TableOf},
};
pub(crate) use apart::{Apart, joins, take_apart};
pub use history::History;
pub use memory::IndexMemory;
pub use side::{IndexStanding, Standing};
use side::{Lookup, Side, hashes};

/// New rows are joined in portions of about this many bytes.
const PORTION_BYTES: usize = 4 << 20;
/// So few new records are worth no scan of the other sides.
const SCAN_RECORDS_MIN: u64 = 50_000;
/// Otherwise they are if they are more than this part of what would be scanned.
const SCAN_PART: u64 = 4;
/// Runs are merged when they are so many.
const RUNS_MAX: usize = 16;

/// The join below a view's aggregation.
#[derive(Debug)]
pub struct Join {
    sides: Vec<Side>,
    /// With place.
    schemas: Vec<SchemaRef>,
    /// By side whose rows are new: the others in the order in which they are looked up, each by which lookup of it.
    ways: Vec<Vec<(usize, usize)>>,
    core: LogicalPlan,
    template: Arc<dyn ExecutionPlan>,
}

impl Join {
    pub(crate) async fn new(apart: Apart, state: &SessionState) -> Result<Join, Error> {
        let mut sides = Vec::with_capacity(apart.sides.len());
        for side in apart.sides {
            sides.push(Side::new(side, state).await?);
        }
        for tie in &apart.ties {
            let (a, b) = tie.sides;
            let (a_keys, b_keys): (Vec<Expr>, Vec<Expr>) = tie.keys.iter().cloned().unzip();
            let a_keys = sides[a].physical(a_keys, state)?;
            let b_keys = sides[b].physical(b_keys, state)?;
            sides[a].lookups.push(Lookup {
                by: b,
                by_keys: b_keys.clone(),
                keys: a_keys.clone(),
            });
            sides[b].lookups.push(Lookup {
                by: a,
                by_keys: a_keys,
                keys: b_keys,
            });
        }
        Ok(Join {
            schemas: sides.iter().map(|side| Arc::clone(&side.schema)).collect(),
            ways: (0..sides.len()).map(|new| way(&sides, new)).collect(),
            template: state.create_physical_plan(&apart.core).await?,
            core: apart.core,
            sides,
        })
    }

    /// From the rows of the sides to what is aggregated.
    pub(crate) fn template(&self) -> &Arc<dyn ExecutionPlan> {
        &self.template
    }

    /// How the indexes of its sides stand.
    pub fn standings(&self) -> Vec<Standing> {
        self.sides.iter().map(Side::standing).collect()
    }

    /// True if new states are computed by reading a stream from its beginning.
    pub fn scans(&self) -> bool {
        let standings = self.standings();
        standings
            .iter()
            .any(|side| side.index == IndexStanding::TooLarge)
    }

    /// The columns of `stream` that it takes.
    pub(crate) fn columns_read(&self, stream: StreamId) -> BTreeSet<String> {
        let sides = self.sides.iter();
        let columns = sides.map(|side| slot::columns_read(side.template(), stream));
        columns.flatten().collect()
    }

    /// States of the rows of the join that came with the records in `from..to`.
    pub(crate) async fn run_between(
        &self,
        plan: &ViewPlan,
        from: &Frontiers,
        to: &Frontiers,
        history: &dyn History,
        task: Arc<TaskContext>,
    ) -> Result<Run, Error> {
        let mut delta = Delta {
            join: self,
            plan,
            from,
            to,
            history,
            task,
            runs: Vec::new(),
        };
        for new in 0..self.sides.len() {
            delta.add_product(new).await?;
        }
        let run = delta.merged().await?;
        Ok(run.knowing(plan.erasures_of(&history.erasures())))
    }
}

/// In which order the sides are found from the rows of side `new`.
fn way(sides: &[Side], new: usize) -> Vec<(usize, usize)> {
    let mut way: Vec<(usize, usize)> = Vec::new();
    let mut open = VecDeque::from([new]);
    let mut known = HashSet::from([new]);
    while let Some(by) = open.pop_front() {
        for (side, found) in sides.iter().enumerate() {
            let lookup = found.lookups.iter().position(|lookup| lookup.by == by);
            if let Some(lookup) = lookup
                && known.insert(side)
            {
                way.push((side, lookup));
                open.push_back(side);
            }
        }
    }
    way
}

struct Delta<'a> {
    join: &'a Join,
    plan: &'a ViewPlan,
    from: &'a Frontiers,
    to: &'a Frontiers,
    history: &'a dyn History,
    task: Arc<TaskContext>,
    runs: Vec<Arc<Run>>,
}

impl Delta<'_> {
    fn begin(&self, side: usize) -> Frontier {
        self.from.of(self.join.sides[side].stream.id)
    }

    fn head(&self, side: usize) -> Frontier {
        self.to.of(self.join.sides[side].stream.id)
    }

    /// Where side `side` ends while the rows of `new` are the new ones.
    fn end(&self, side: usize, new: usize) -> Frontier {
        match side < new {
            true => self.head(side),
            false => self.begin(side),
        }
    }

    /// Adds the states of the new rows of side `new` joined with the other sides.
    async fn add_product(&mut self, new: usize) -> Result<(), Error> {
        let records = self.head(new).since(&self.begin(new));
        let others = (0..self.join.sides.len()).filter(|side| *side != new);
        let others: Vec<u64> = others.map(|side| self.end(side, new).records()).collect();
        if records == 0 || others.contains(&0) {
            return Ok(());
        }
        let scanned: u64 = others.iter().sum();
        if records >= SCAN_RECORDS_MIN && records > scanned / SCAN_PART {
            return self.add_scanned(new).await;
        }
        let before = self.runs.len();
        if !self.add_looked_up(new).await? {
            self.runs.truncate(before);
            self.add_scanned(new).await?;
        }
        if self.runs.len() > RUNS_MAX {
            self.merge().await?;
        }
        Ok(())
    }

    /// False if an index cannot tell: then what was added is not all.
    async fn add_looked_up(&mut self, new: usize) -> Result<bool, Error> {
        let (from, to) = (self.begin(new), self.head(new));
        let side = &self.join.sides[new];
        let task = Arc::clone(&self.task);
        let mut rows = side.rows(self.history, &from, &to, task).await?;
        let (mut portion, mut bytes) = (Vec::new(), 0);
        let mut states: Vec<Arc<Run>> = Vec::new();
        loop {
            let next = rows.try_next().await?;
            let is_last = next.is_none();
            if let Some(next) = next.filter(|next| next.num_rows() > 0) {
                bytes += index::bytes_of(&next)?;
                portion.push(with_schema(next, &side.schema)?);
            }
            if !portion.is_empty() && (is_last || bytes >= PORTION_BYTES) {
                bytes = 0;
                let joined = self.joined(new, std::mem::take(&mut portion)).await;
                match joined.or_else(if_exhausted)? {
                    Joined::Unknown => return Ok(false),
                    Joined::Nothing => {}
                    Joined::States(run) => states.push(Arc::new(run)),
                }
            }
            if states.len() > RUNS_MAX {
                let merged = self.plan.merge(&states, Arc::clone(&self.task)).await?;
                states = vec![Arc::new(merged)];
            }
            if is_last {
                self.runs.extend(states);
                return Ok(true);
            }
        }
    }

    /// Joins a portion of the new rows with what the indexes find.
    async fn joined(&self, new: usize, portion: Vec<RecordBatch>) -> Result<Joined, Error> {
        let mut rows = vec![Vec::new(); self.join.sides.len()];
        rows[new] = portion;
        for &(side, lookup) in &self.join.ways[new] {
            let end = self.end(side, new);
            let found = &self.join.sides[side];
            let Lookup { by, by_keys, .. } = &found.lookups[lookup];
            let mut wanted = HashSet::new();
            for batch in &rows[*by] {
                wanted.extend(hashes(by_keys, batch)?.into_iter().flatten());
            }
            let matching = found.matching(lookup, &wanted, &end, self.history, &self.task);
            match matching.await? {
                None => return Ok(Joined::Unknown),
                Some(found) if found.is_empty() => return Ok(Joined::Nothing),
                Some(found) => rows[side] = found,
            }
        }
        let input = stand_in::filled(&self.join.template, &rows, &self.join.schemas)?;
        let states = collect(self.plan.aggregated(input)?, Arc::clone(&self.task)).await?;
        Ok(Joined::States(self.run(states)?))
    }

    /// The same product, from the streams.
    async fn add_scanned(&mut self, new: usize) -> Result<(), Error> {
        let state = self.history.state();
        let core = stand_in::replaced(self.join.core.clone(), |side| {
            let stream = &self.join.sides[side].stream;
            let (from, to) = match side == new {
                true => (self.begin(side), self.head(side)),
                false => (Frontier::default(), self.end(side, new)),
            };
            let table = self.history.records(stream, &from, &to);
            let table = table.map_err(|error| DataFusionError::External(Box::new(error)))?;
            self.side_over(side, &|_| Ok(Arc::clone(&table)))
        })?;
        let input = state.create_physical_plan(&core).await?;
        let states = collect(self.plan.aggregated(input)?, Arc::clone(&self.task)).await?;
        let run = self.run(states)?;
        self.runs.push(Arc::new(run));
        Ok(())
    }

    /// The rows of a side of a table, under the names by which the plan above knows its columns.
    fn side_over(
        &self,
        side: usize,
        table: TableOf<'_>,
    ) -> datafusion::common::Result<LogicalPlan> {
        let side_plan = &self.join.sides[side];
        let columns = side_plan.schema.fields().len() - apart::PLACE.len();
        let columns = (0..columns).map(|column| {
            let own = Column::new_unqualified(format!("c{column}"));
            Expr::Column(own)
        });
        let plan = slot::filled(side_plan.plan.clone(), table)?;
        LogicalPlanBuilder::from(plan)
            .project(columns)?
            .alias(stand_in::name(side))?
            .build()
    }

    fn run(&self, states: Vec<RecordBatch>) -> Result<Run, Error> {
        let threads = self.task.session_config().target_partitions();
        self.plan
            .sorted(states, threads, self.from.clone(), self.to.clone())
    }

    async fn merge(&mut self) -> Result<(), Error> {
        let merged = self.plan.merge(&self.runs, Arc::clone(&self.task)).await?;
        self.runs = vec![Arc::new(merged)];
        Ok(())
    }

    async fn merged(mut self) -> Result<Run, Error> {
        match self.runs.len() {
            0 => self.run(Vec::new()),
            1 => Ok(Arc::into_inner(self.runs.remove(0)).expect("nobody else has it")),
            _ => self.plan.merge(&self.runs, Arc::clone(&self.task)).await,
        }
    }
}

enum Joined {
    States(Run),
    /// There is no match.
    Nothing,
    /// An index cannot tell, or too much matches to be joined in memory.
    Unknown,
}

/// From the streams, a join can go by way of the disk.
fn if_exhausted(error: Error) -> Result<Joined, Error> {
    match &error {
        Error::DataFusion(inner)
            if matches!(inner.find_root(), DataFusionError::ResourcesExhausted(_)) =>
        {
            Ok(Joined::Unknown)
        }
        _ => Err(error),
    }
}
