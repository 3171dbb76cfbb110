//! How far a backup, a verification or a restore is, for whoever shows it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lambic_query::BackupInfo;

/// Clones are handles to the same.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<BackupInfo>>);

impl Progress {
    pub fn new(info: BackupInfo) -> Progress {
        Progress(Arc::new(Mutex::new(info)))
    }

    fn locked(&self) -> MutexGuard<'_, BackupInfo> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn info(&self) -> BackupInfo {
        self.locked().clone()
    }

    pub fn change(&self, change: impl FnOnce(&mut BackupInfo)) {
        change(&mut self.locked());
    }

    pub fn state(&self, state: &str) {
        state.clone_into(&mut self.locked().state);
    }

    /// What is to be done, from here on.
    pub fn begin(&self, state: &str, files_total: u64, bytes_total: u64) {
        self.change(|info| {
            state.clone_into(&mut info.state);
            (info.files, info.bytes) = (0, 0);
            (info.files_total, info.bytes_total) = (files_total, bytes_total);
        });
    }

    pub fn file_done(&self, bytes: u64, copied: bool) {
        self.change(|info| {
            info.files += 1;
            info.bytes += bytes;
            info.bytes_copied += if copied { bytes } else { 0 };
        });
    }
}
