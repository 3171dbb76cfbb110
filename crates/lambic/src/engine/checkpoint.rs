//! When the states of the speed layer are kept: often enough that a start, after a kill too, computes few of them again,
//! and seldom enough that writing them costs little beside computing them.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use lambic_model::Frontiers;
use lambic_serving::{RunSet, ServedView};
use lambic_view::definition::NEVER;
use tracing::warn;

use super::layers::Layers;

/// At the end, fewer are as quickly computed again.
const RECORDS_AT_END_MIN: u64 = 10_000;
/// For each state that is written so many records have been taken in.
const RECORDS_PER_STATE_MIN: u64 = 2;
/// So long the log waits for a view without batches whose stream has few records.
const ALONE_AFTER: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    Due,
    Stopping,
}

#[derive(Debug)]
pub struct Checkpoints {
    /// Of one view at least so many come between two checkpoints.
    records: u64,
    /// Up to where the states of each view are kept, and since when, by its folder.
    kept: HashMap<String, (Frontiers, Instant)>,
}

impl Checkpoints {
    pub fn every(records: u64) -> Checkpoints {
        Checkpoints {
            records,
            kept: HashMap::new(),
        }
    }

    pub async fn keep(&mut self, layers: &Layers, because: Because) {
        let kept = layers.serving().kept();
        let folders: HashSet<String> = kept.iter().map(|v| v.definition().directory()).collect();
        self.kept.retain(|folder, _| folders.contains(folder));
        for view in kept {
            let runs = view.runs();
            if !self.is_due(&view, &runs, because) {
                continue;
            }
            if let Err(error) = layers.checkpoint(&view).await {
                warn!(view = %view.definition().name, %error, "the states of the speed layer cannot be kept; the log keeps the records");
            }
            // One that fails is not tried again until as much has come anew.
            self.kept.insert(
                view.definition().directory(),
                (runs.covered.clone(), Instant::now()),
            );
        }
    }

    fn is_due(&mut self, view: &ServedView, runs: &RunSet, because: Because) -> bool {
        let batch = runs.batch_frontier();
        let last = self.kept.entry(view.definition().directory());
        let (last, at) = last.or_insert_with(|| (view.began_at().clone(), Instant::now()));
        let since = view
            .ahead(&runs.covered, last)
            .min(view.ahead(&runs.covered, &batch));
        // Without batches all of it is written, and nothing else lets go of the log.
        let is_all = view.definition().batch_every == NEVER;
        let written = match is_all {
            true => runs.state_rows(),
            false => runs.speed.iter().map(|run| run.rows()).sum(),
        };
        match because {
            Because::Due if is_all && since > 0 && at.elapsed() >= ALONE_AFTER => true,
            Because::Due => since >= self.records.max(RECORDS_PER_STATE_MIN * written as u64),
            Because::Stopping => since >= self.records.min(RECORDS_AT_END_MIN),
        }
    }
}
