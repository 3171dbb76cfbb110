//! Holds a disk still, so that a test decides what waits behind it.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use super::locked;

/// Where a sync waits until it may go on.
#[derive(Debug, Default)]
pub struct Gate {
    /// Whether someone is waiting, whether it is open.
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Gate {
    /// True if a sync is waiting, or comes within `patience`.
    pub fn reached_within(&self, patience: Duration) -> bool {
        let state = locked(&self.state);
        let waited = self
            .changed
            .wait_timeout_while(state, patience, |(reached, _)| !*reached);
        waited.unwrap_or_else(PoisonError::into_inner).0.0
    }

    pub fn open(&self) {
        locked(&self.state).1 = true;
        self.changed.notify_all();
    }

    pub(super) fn pass(&self) {
        let mut state = locked(&self.state);
        state.0 = true;
        self.changed.notify_all();
        let opened = self.changed.wait_while(state, |(_, open)| !*open);
        drop(opened.unwrap_or_else(PoisonError::into_inner));
    }
}
