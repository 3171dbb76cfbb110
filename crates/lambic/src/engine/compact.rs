//! Compaction of a stream's small files, and which of its records are kept too long.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use lambic_dataset::{Expiring, Keep};
use lambic_model::{Frontier, Frontiers, StreamId};
use lambic_query::{Compacted, Error};
use tracing::warn;

use super::{errors::dataset_error, layers::Layers};

/// What compaction keeps an eye on.
#[derive(Debug, Default)]
pub struct Compaction {
    /// Where the newest batch of each view stands, by its folder, whether it is published by now or not.
    batches: Mutex<HashMap<String, Frontiers>>,
    /// Streams with files that were replaced and that somebody may still read.
    replaced: Mutex<HashSet<StreamId>>,
}

impl Compaction {
    fn known(&self) -> MutexGuard<'_, HashMap<String, Frontiers>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replaced(&self) -> MutexGuard<'_, HashSet<StreamId>> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, folder: String, frontier: Frontiers) {
        self.known().insert(folder, frontier);
    }

    pub fn forget(&self, folder: &str) {
        self.known().remove(folder);
    }
}

impl Layers {
    /// Where files must part, so that the next batch of each view reads only what is new.
    fn batches_stand(&self, stream: StreamId) -> Vec<Frontier> {
        let served = self.serving().kept().into_iter();
        let served = served.map(|view| view.runs().batch_frontier());
        let last: Vec<Frontiers> = self.compaction().known().values().cloned().collect();
        let known = served.chain(last);
        known
            .filter_map(|frontier| frontier.0.get(&stream).cloned())
            .collect()
    }

    /// See [`lambic_dataset::Dataset::compact_next`].
    pub async fn compact_next(
        &self,
        stream: StreamId,
        files_min: Option<usize>,
    ) -> Result<usize, lambic_dataset::Error> {
        let dataset = self.dataset();
        if !dataset.is_compaction_due(stream, files_min, &self.batches_stand(stream)) {
            return Ok(0);
        }
        // No batch comes to stand anywhere else meanwhile.
        let _turn = self.batch_turn().await;
        let parts = self.batches_stand(stream);
        let erased = self.log().snapshot().erased(stream);
        let compacted = dataset
            .compact_next(stream, files_min, &parts, &erased)
            .await?;
        if compacted > 0 {
            self.compaction().replaced().insert(stream);
        }
        Ok(compacted)
    }

    /// Deletes files that were replaced, as soon as nobody reads them any more.
    pub async fn sweep(&self) {
        // Taken out before it is looked: what is replaced meanwhile comes in anew.
        let streams = std::mem::take(&mut *self.compaction().replaced());
        for stream in streams {
            match self.dataset().remove_replaced(stream).await {
                Ok(0) | Err(lambic_dataset::Error::UnknownStream { .. }) => continue,
                Ok(_) => {}
                Err(error) => warn!(%stream, %error, "replaced files cannot be removed yet"),
            }
            self.compaction().replaced().insert(stream);
        }
    }

    pub async fn compact_all(&self, stream: StreamId) -> Result<Compacted, Error> {
        let before = self.dataset().manifest(stream);
        while self
            .compact_next(stream, None)
            .await
            .map_err(dataset_error)?
            > 0
        {}
        self.sweep().await;
        let after = self.dataset().manifest(stream);
        Ok(Compacted {
            files_before: before.files.len() as u64,
            files_after: after.files.len() as u64,
            bytes_before: before.bytes(),
            bytes_after: after.bytes(),
        })
    }

    pub async fn expiring_of(&self, stream: StreamId, keep: Keep) -> Result<Expiring, Error> {
        if self.erasures().is_pending(stream) {
            return Ok(Expiring::default());
        }
        let sealed = self.dataset().manifest(stream).frontier.clone();
        let cursors = self.functions().cursors();
        let upto = match cursors.0.get(&stream) {
            Some(read) => sealed.min(read),
            None => sealed,
        };
        let found = self.dataset().expiring(stream, keep, &upto).await;
        found.map_err(dataset_error)
    }
}
