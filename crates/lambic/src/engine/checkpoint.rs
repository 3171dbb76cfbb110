//! When the states of the speed layer are kept: often enough that a start, after a kill too, computes few of them again,
//! and seldom enough that writing them costs little beside computing them.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use lambic_model::Frontiers;
use lambic_serving::ServedView;
use lambic_view::definition::NEVER;
use tracing::warn;

use super::layers::Layers;

/// At the end, a hundredth of what makes one due is as quickly computed again.
const AT_END_PART: u64 = 100;
/// For each state that is written so many records have been taken in.
const RECORDS_PER_STATE_MIN: u64 = 2;
/// So long the log waits for a view without batches whose stream has few records.
const ALONE_AFTER: Duration = Duration::from_secs(3600);
/// So long it waits for one that takes nothing in, such as a record that it cannot compute.
const STUCK_AFTER: Duration = Duration::from_secs(2 * 3600);

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

/// How a view stands to what is kept of it.
#[derive(Debug, Clone, Copy)]
struct Standing {
    /// Records that were taken in since.
    records: u64,
    /// States that a checkpoint would write.
    states: u64,
    /// How long ago it was kept, or tried to be.
    waited: Duration,
    /// It has no batches: nothing but checkpoints lets go of the log.
    is_alone: bool,
}

impl Standing {
    fn is_due(self, records: u64, because: Because) -> bool {
        let few = RECORDS_PER_STATE_MIN.saturating_mul(self.states);
        match because {
            Because::Due if self.is_alone && self.waited >= ALONE_AFTER => self.records > 0,
            Because::Due => self.records >= records.max(few),
            Because::Stopping => self.records >= (records / AT_END_PART).max(1),
        }
    }

    /// `is_behind`: there are records that it has not taken in.
    fn is_stuck(self, is_behind: bool) -> bool {
        self.is_alone && is_behind && self.records == 0 && self.waited >= STUCK_AFTER
    }
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
            if !self.standing(&view).is_due(self.records, because) {
                continue;
            }
            let covered = view.runs().covered.clone();
            if let Err(error) = layers.checkpoint(&view).await {
                warn!(view = %view.definition().name, %error, "the states of the speed layer cannot be kept; the log keeps the records");
            }
            // One that fails is not tried again until as much has come anew.
            self.tried(&view, covered);
        }
    }

    /// True if only a batch can show whether the view can be computed at all. It is said once in a while.
    pub fn is_stuck(&mut self, view: &ServedView, is_behind: bool) -> bool {
        let is_stuck = self.standing(view).is_stuck(is_behind);
        if is_stuck {
            self.tried(view, view.runs().covered.clone());
        }
        is_stuck
    }

    fn tried(&mut self, view: &ServedView, covered: Frontiers) {
        let folder = view.definition().directory();
        self.kept.insert(folder, (covered, Instant::now()));
    }

    fn standing(&mut self, view: &ServedView) -> Standing {
        let runs = view.runs();
        let last = self.kept.entry(view.definition().directory());
        let (last, at) = last.or_insert_with(|| (view.began_at().clone(), Instant::now()));
        let is_alone = view.definition().batch_every == NEVER;
        let states = match is_alone {
            true => runs.state_rows(),
            false => runs.speed.iter().map(|run| run.rows()).sum(),
        };
        let records = view.ahead(&runs.covered, last);
        Standing {
            records: records.min(view.ahead(&runs.covered, &runs.batch_frontier())),
            states: states as u64,
            waited: at.elapsed(),
            is_alone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDING: Standing = Standing {
        records: 0,
        states: 0,
        waited: Duration::ZERO,
        is_alone: false,
    };

    #[test]
    fn a_checkpoint_is_due_after_enough_records_for_what_it_writes() {
        let due = |records, states| {
            let standing = Standing {
                records,
                states,
                ..STANDING
            };
            standing.is_due(1_000, Because::Due)
        };
        assert!(!due(999, 0));
        assert!(due(1_000, 500));
        assert!(!due(1_000, 501));
        assert!(due(1_002, 501));
    }

    #[test]
    fn an_end_keeps_what_would_take_a_while() {
        let due = |records| {
            Standing {
                records,
                ..STANDING
            }
            .is_due(1_000, Because::Stopping)
        };
        assert!(!due(9));
        assert!(due(10));
        // However small the setting is, without a record there is nothing to keep.
        assert!(!STANDING.is_due(1, Because::Stopping));
    }

    #[test]
    fn the_log_waits_for_no_view_for_ever() {
        let waiting = |records, waited| Standing {
            records,
            waited,
            is_alone: true,
            ..STANDING
        };
        assert!(waiting(1, ALONE_AFTER).is_due(1_000, Because::Due));
        assert!(!waiting(1, ALONE_AFTER / 2).is_due(1_000, Because::Due));
        assert!(!waiting(0, ALONE_AFTER).is_due(1_000, Because::Due));
        // Batches move on the others.
        let other = Standing {
            is_alone: false,
            ..waiting(1, ALONE_AFTER)
        };
        assert!(!other.is_due(1_000, Because::Due));
        assert!(waiting(0, STUCK_AFTER).is_stuck(true));
        assert!(!waiting(0, STUCK_AFTER).is_stuck(false));
        assert!(!waiting(1, STUCK_AFTER).is_stuck(true));
        assert!(
            !Standing {
                is_alone: false,
                ..waiting(0, STUCK_AFTER)
            }
            .is_stuck(true)
        );
    }
}
