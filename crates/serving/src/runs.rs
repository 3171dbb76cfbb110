//! The runs of one view and how they are kept few.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use lambic_model::{Erasures, Frontiers, Stream};
use lambic_view::Run;

/// A set of runs that cover all records up to `covered`, each exactly once.
#[derive(Debug, Clone, Default)]
pub struct RunSet {
    /// States of all records up to the batch frontier; `None` before the first batch.
    pub batch: Option<Arc<Run>>,
    /// States of the records after it, oldest first, without gaps.
    pub speed: Vec<Arc<Run>>,
    pub covered: Frontiers,
    /// The erasures that all runs know.
    pub erasures: Erasures,
    /// Batch runs published so far.
    pub batches: u64,
}

impl RunSet {
    pub fn batch_frontier(&self) -> Frontiers {
        self.batch
            .as_ref()
            .map(|run| run.to.clone())
            .unwrap_or_default()
    }

    /// Of these runs those that hold nothing past `heads`, in the streams that the view reads.
    pub fn upto(self: &Arc<Self>, heads: &Frontiers, inputs: &[Arc<Stream>]) -> Arc<RunSet> {
        let within = |run: &&Arc<Run>| {
            let mut ends = inputs.iter().map(|stream| stream.id);
            ends.all(|stream| heads.of(stream).covers(&run.to.of(stream)))
        };
        if self.batch.as_ref().is_some_and(|batch| !within(&batch)) {
            // The real-time runs follow it.
            return Arc::new(RunSet {
                erasures: self.erasures.clone(),
                ..RunSet::default()
            });
        }
        let speed: Vec<_> = self.speed.iter().take_while(within).cloned().collect();
        if speed.len() == self.speed.len() {
            // Readers know their finished rows by the set.
            return Arc::clone(self);
        }
        let last = speed.last().or(self.batch.as_ref());
        Arc::new(RunSet {
            covered: last.map(|run| run.to.clone()).unwrap_or_default(),
            batch: self.batch.clone(),
            speed,
            erasures: self.erasures.clone(),
            batches: self.batches,
        })
    }

    pub fn runs(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.batch.iter().chain(&self.speed)
    }

    pub fn states(&self) -> Vec<RecordBatch> {
        self.runs()
            .filter(|run| !run.is_empty())
            .map(|run| run.states.clone())
            .collect()
    }

    pub fn state_rows(&self) -> usize {
        self.runs().map(|run| run.rows()).sum()
    }

    pub fn bytes(&self) -> usize {
        self.runs().map(|run| run.bytes()).sum()
    }

    /// How many of the newest real-time runs to merge into one now; fewer than two: none.
    ///
    /// Runs grow geometrically from new to old, so a state is merged O(log n) times and a reader
    /// meets O(log n) runs (the log-structured merge-tree, O'Neil et al. 1996).
    pub fn merge_due(&self) -> usize {
        let mut due = 1;
        let mut rows = self.speed.last().map_or(0, |run| run.rows());
        for run in self.speed.iter().rev().skip(1) {
            if run.rows() > rows * 2 {
                break;
            }
            rows += run.rows();
            due += 1;
        }
        due
    }
}
