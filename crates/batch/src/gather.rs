//! Makes sorted runs of states that come in any order and are too many to be held.
//!
//! States gather until there are enough of them; then those of one key become one, and if that has not made them few, they
//! go to disk, sorted by key. What comes out are runs to be merged.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use futures::StreamExt;
use lambic_model::Frontiers;
use lambic_view::{Class, Run, ViewPlan};

use crate::{
    Error, Limits,
    size::bytes_of,
    spill::{SpilledRun, Spills, Writer},
};

/// The states of a stretch of records.
pub enum Piece {
    Held(Run),
    Spilled(Vec<SpilledRun>),
}

pub struct Gather<'a> {
    pub plan: &'a ViewPlan,
    pub spills: &'a Spills,
    pub limits: &'a Limits,
    pub threads: usize,
    /// For merging what was gathered.
    pub task: Arc<TaskContext>,
}

impl<'a> Gather<'a> {
    pub async fn all(
        &self,
        mut states: SendableRecordBatchStream,
        from: &Frontiers,
        to: &Frontiers,
    ) -> Result<Piece, Error> {
        let mut runs = Vec::new();
        let mut rows: Option<Writer<'a>> = None;
        let (mut pending, mut bytes) = (Vec::new(), 0);
        while let Some(states) = states.next().await {
            let states = self.plan.as_states(states?)?;
            bytes += bytes_of(&states);
            pending.push(states);
            if bytes < self.limits.pending_bytes() {
                continue;
            }
            let gathered = std::mem::take(&mut pending);
            bytes = 0;
            if self.plan.class == Class::Rows {
                let writer = rows.get_or_insert_with(|| self.spills.writer());
                for states in gathered {
                    writer.push(&states).await?;
                }
                continue;
            }
            let reduced = self.plan.reduced(gathered, Arc::clone(&self.task)).await?;
            let left: usize = reduced.iter().map(bytes_of).sum();
            if left < self.limits.pending_bytes() / 2 {
                (pending, bytes) = (reduced, left);
            } else if self.plan.key_columns() == 0 {
                return Err(Error::OneKey {
                    bytes: left as u64,
                    limit: self.limits.memory_bytes,
                });
            } else {
                runs.push(self.spilled(reduced).await?);
            }
        }
        drop(states);
        if let Some(mut writer) = rows {
            for states in pending {
                writer.push(&states).await?;
            }
            return Ok(Piece::Spilled(vec![writer.finish().await?]));
        }
        let reduced = self.plan.reduced(pending, Arc::clone(&self.task)).await?;
        if runs.is_empty() {
            let run = self
                .plan
                .sorted(reduced, self.threads, from.clone(), to.clone())?;
            return Ok(Piece::Held(run));
        }
        runs.push(self.spilled(reduced).await?);
        Ok(Piece::Spilled(runs))
    }

    async fn spilled(&self, states: Vec<RecordBatch>) -> Result<SpilledRun, Error> {
        let nowhere = Frontiers::default;
        let run = self
            .plan
            .sorted(states, self.threads, nowhere(), nowhere())?;
        self.spills.write(&run.states).await
    }
}
