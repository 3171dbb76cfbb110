//! A view that is run when it is read, as it is served: its parts, and the rows of the last run.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::record_batch::RecordBatch;
use lambic_model::{Erasures, Frontiers};
use lambic_view::{Definition, RecomputePlan};

use crate::ServedView;

/// Rows of at most this size are kept until an input changes.
pub const KEPT_BYTES_MAX: usize = 64 << 20;

pub struct RecomputedView {
    definition: Definition,
    plan: Arc<RecomputePlan>,
    parts: Vec<Arc<ServedView>>,
    /// Up to where its rows go, if it is served as of its last batch.
    batch_frontier: Option<Frontiers>,
    kept: Mutex<Option<(Standing, Arc<Vec<RecordBatch>>)>>,
}

/// What rows stand for: the records and the definitions that they were made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub frontier: Frontiers,
    /// Those that took records of its streams.
    pub erasures: Erasures,
    pub views: Vec<ViewRead>,
}

/// A view that was read: its folder, which is unique among all versions, and the frontier that it showed if that was
/// not the reader's.
pub type ViewRead = (String, Option<Frontiers>);

impl std::fmt::Debug for RecomputedView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecomputedView")
            .field("definition", &self.definition)
            .finish_non_exhaustive()
    }
}

impl RecomputedView {
    /// `parts` are in the order of the plan's; `batch_frontier` is that of a view that is served as of its last batch.
    pub fn new(
        definition: Definition,
        plan: Arc<RecomputePlan>,
        parts: Vec<Arc<ServedView>>,
        batch_frontier: Option<Frontiers>,
    ) -> RecomputedView {
        assert_eq!(parts.len(), plan.parts.len(), "every part is served");
        RecomputedView {
            definition,
            plan,
            parts,
            batch_frontier,
            kept: Mutex::new(None),
        }
    }

    /// The same view after another batch, with its rows if they are few enough to be kept.
    pub fn after_batch(&self, at: Standing, rows: Option<Arc<Vec<RecordBatch>>>) -> RecomputedView {
        RecomputedView {
            definition: self.definition.clone(),
            plan: Arc::clone(&self.plan),
            parts: self.parts.clone(),
            batch_frontier: Some(at.frontier.clone()),
            kept: Mutex::new(rows.map(|rows| (at, rows))),
        }
    }

    pub fn batch_frontier(&self) -> Option<&Frontiers> {
        self.batch_frontier.as_ref()
    }

    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    pub fn plan(&self) -> &Arc<RecomputePlan> {
        &self.plan
    }

    pub fn parts(&self) -> &[Arc<ServedView>] {
        &self.parts
    }

    /// The rows of an earlier run, if nothing that they were made from has changed.
    pub fn rows_at(&self, standing: &Standing) -> Option<Arc<Vec<RecordBatch>>> {
        match &*self.kept.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((of, rows)) if of == standing => Some(Arc::clone(rows)),
            _ => None,
        }
    }

    pub fn keep(&self, standing: Standing, rows: Arc<Vec<RecordBatch>>) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((standing, rows));
    }

    /// Rows and bytes that are kept.
    pub fn kept(&self) -> (usize, usize) {
        match &*self.kept.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((_, rows)) => (
                rows.iter().map(RecordBatch::num_rows).sum(),
                rows.iter().map(RecordBatch::get_array_memory_size).sum(),
            ),
            None => (0, 0),
        }
    }
}
