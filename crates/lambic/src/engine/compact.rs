//! Compaction of a stream's small files, and which of its records are kept too long.

use std::collections::HashMap;

use lambic_dataset::{Expiring, Keep};
use lambic_model::{Frontier, Frontiers, StreamId};
use lambic_query::{Compacted, Error};

use super::layers::{Layers, dataset_error};

/// Where the newest batch of each view stands, by its folder, whether it is published by now or not.
#[derive(Debug, Default)]
pub struct LastBatches(std::sync::Mutex<HashMap<String, Frontiers>>);

impl LastBatches {
    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Frontiers>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
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
        let last: Vec<Frontiers> = self.last_batches().known().values().cloned().collect();
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
        dataset
            .compact_next(stream, files_min, &parts, &erased)
            .await
    }

    pub async fn compact_all(&self, stream: StreamId) -> Result<Compacted, Error> {
        let before = self.dataset().manifest(stream);
        while self
            .compact_next(stream, None)
            .await
            .map_err(dataset_error)?
            > 0
        {}
        // Those that are still read go later.
        let left = self.dataset().remove_replaced(stream).await;
        left.map_err(dataset_error)?;
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
