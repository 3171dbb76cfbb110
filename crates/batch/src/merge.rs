//! Merges runs without holding more of them than a piece of each.
//!
//! Every run is in the order of its keys and has each at most once. Of the pieces at hand, the one that ends first says up
//! to which key nothing more can come; states up to there are merged and handed on, which is a stretch of the merged run.

use std::sync::Arc;

use arrow::{record_batch::RecordBatch, row::Rows};
use datafusion::execution::TaskContext;
use lambic_model::Frontiers;
use lambic_view::{Class, Run, ViewPlan};

use crate::{
    Error,
    limits::FAN_IN,
    size::bytes_of,
    spill::{Chunk, SpilledRun, Spills},
};

/// States of one run, in their order.
pub enum Source {
    Held(Arc<Run>),
    Spilled(SpilledRun),
}

pub struct Merge<'a> {
    plan: &'a ViewPlan,
    task: Arc<TaskContext>,
    spills: &'a Spills,
    chunk_bytes: usize,
    memory_bytes: u64,
    open: Vec<Open>,
}

/// One run, as far as it has not been merged.
struct Open {
    rest: Rest,
    states: RecordBatch,
    keys: Option<Rows>,
    /// How many of `states` are merged.
    done: usize,
}

enum Rest {
    Held(RecordBatch),
    Spilled(std::vec::IntoIter<Chunk>),
}

impl<'a> Merge<'a> {
    /// At most [`FAN_IN`] spilled runs; `task` may use as much memory as what is merged at a time needs.
    pub fn new(
        plan: &'a ViewPlan,
        task: Arc<TaskContext>,
        spills: &'a Spills,
        limits: &crate::Limits,
        sources: Vec<Source>,
    ) -> Merge<'a> {
        let none = RecordBatch::new_empty(Arc::clone(&plan.state_schema));
        let open = sources.into_iter().map(|source| Open {
            rest: match source {
                Source::Held(run) => Rest::Held(run.states.clone()),
                Source::Spilled(run) => Rest::Spilled(run.chunks.into_iter()),
            },
            states: none.clone(),
            keys: None,
            done: 0,
        });
        Merge {
            open: open.collect(),
            plan,
            task,
            spills,
            chunk_bytes: limits.chunk_bytes(),
            memory_bytes: limits.memory_bytes,
        }
    }

    /// The next stretch of the merged run; `None` at its end.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        self.fill().await?;
        if self.plan.class == Class::Rows {
            let first = self.open.first_mut();
            return Ok(first.map(Open::take_all));
        }
        if self.plan.key_columns() == 0 {
            return self.whole().await;
        }
        if let [only] = self.open.as_mut_slice() {
            return Ok(Some(only.take_all()));
        }
        let ends = self.open.iter().filter_map(Open::last_key);
        let Some(end) = ends.min().map(<[u8]>::to_vec) else {
            return Ok(None);
        };
        let taken = self.open.iter_mut().map(|run| run.take_to(&end));
        let mut taken: Vec<RecordBatch> = taken.filter(|states| states.num_rows() > 0).collect();
        if let [_] = taken.as_slice() {
            return Ok(taken.pop());
        }
        Ok(Some(self.merged(taken).await?))
    }

    /// States without a key: all of them are of one.
    async fn whole(&mut self) -> Result<Option<RecordBatch>, Error> {
        let mut taken = Vec::new();
        while !self.open.is_empty() {
            taken.extend(self.open.iter_mut().map(Open::take_all));
            self.fill().await?;
        }
        match taken.is_empty() {
            true => Ok(None),
            false => Ok(Some(self.merged(taken).await?)),
        }
    }

    async fn merged(&self, states: Vec<RecordBatch>) -> Result<RecordBatch, Error> {
        let bytes: usize = states.iter().map(bytes_of).sum();
        if bytes as u64 > self.memory_bytes && states.iter().any(|states| states.num_rows() == 1) {
            return Err(Error::OneKey {
                bytes: bytes as u64,
                limit: self.memory_bytes,
            });
        }
        let reduced = self.plan.reduced(states, Arc::clone(&self.task)).await?;
        let nowhere = Frontiers::default;
        let run = self.plan.sorted(reduced, 1, nowhere(), nowhere())?;
        Ok(run.states)
    }

    /// A piece of every run that has more.
    async fn fill(&mut self) -> Result<(), Error> {
        for run in &mut self.open {
            while run.is_done()
                && let Some(states) = run.rest.next(self.spills, self.chunk_bytes).await?
            {
                run.keys = self.plan.encode_key(states.columns())?;
                run.states = states;
                run.done = 0;
            }
        }
        self.open.retain(|run| !run.is_done());
        Ok(())
    }
}

impl Open {
    fn is_done(&self) -> bool {
        self.done == self.states.num_rows()
    }

    fn take_all(&mut self) -> RecordBatch {
        let first = std::mem::replace(&mut self.done, self.states.num_rows());
        self.states.slice(first, self.done - first)
    }

    fn last_key(&self) -> Option<&[u8]> {
        let keys = self.keys.as_ref()?;
        let last = keys.num_rows().checked_sub(1)?;
        Some(keys.row(last).data())
    }

    /// Up to this key and with it.
    fn take_to(&mut self, end: &[u8]) -> RecordBatch {
        let Some(keys) = &self.keys else {
            return self.take_all();
        };
        let (mut low, mut high) = (self.done, keys.num_rows());
        while low < high {
            let middle = low + (high - low) / 2;
            match keys.row(middle).as_ref() <= end {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let first = std::mem::replace(&mut self.done, low);
        self.states.slice(first, low - first)
    }
}

impl Rest {
    async fn next(
        &mut self,
        spills: &Spills,
        chunk_bytes: usize,
    ) -> Result<Option<RecordBatch>, Error> {
        match self {
            Rest::Held(states) => {
                let rows = states.num_rows();
                if rows == 0 {
                    return Ok(None);
                }
                // Rows are about as large as the first ones.
                let sample = rows.min(64);
                let bytes = bytes_of(&states.slice(0, sample)).max(1);
                let take = (sample * chunk_bytes / bytes).clamp(1, rows);
                let first = states.slice(0, take);
                *states = states.slice(take, rows - take);
                Ok(Some(first))
            }
            Rest::Spilled(chunks) => match chunks.next() {
                Some(chunk) => Ok(Some(spills.read(&chunk).await?)),
                None => Ok(None),
            },
        }
    }
}

/// Makes one run of the smallest, of at most [`FAN_IN`] of them. Returns those that it was made of: they are where they
/// were.
pub async fn smallest(
    plan: &ViewPlan,
    task: Arc<TaskContext>,
    spills: &Spills,
    limits: &crate::Limits,
    runs: &mut Vec<SpilledRun>,
) -> Result<Vec<SpilledRun>, Error> {
    let mut rest = runs.clone();
    rest.sort_by_key(SpilledRun::bytes);
    let small: Vec<SpilledRun> = rest.drain(..runs.len().min(FAN_IN)).collect();
    let sources = small.iter().cloned().map(Source::Spilled).collect();
    let mut merge = Merge::new(plan, task, spills, limits, sources);
    let mut writer = spills.writer();
    while let Some(states) = merge.next().await? {
        writer.push(&states).await?;
    }
    rest.push(writer.finish().await?);
    *runs = rest;
    Ok(small)
}
