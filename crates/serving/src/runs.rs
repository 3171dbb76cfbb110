//! The runs of one view and how they are kept few.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use lambic_model::Frontiers;
use lambic_view::Run;

/// A set of runs that cover all records up to `covered`, each exactly once.
#[derive(Debug, Clone, Default)]
pub struct RunSet {
    /// States of all records up to the batch frontier; `None` before the first batch.
    pub batch: Option<Arc<Run>>,
    /// States of the records after it, oldest first, without gaps.
    pub speed: Vec<Arc<Run>>,
    pub covered: Frontiers,
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
