//! Changes of a stream's manifest: seals add files, erasures replace them. They take turns.
//!
//! Whoever holds a former manifest may go on reading its files; a change keeps track of those, so that none is deleted
//! too early.

use std::sync::{Arc, Weak};

use lambic_model::StreamId;
use tokio::sync::MutexGuard;

use crate::{Dataset, Error, Manifest, dataset::Part};

/// Changes in a row whose end is not known: a store that does not answer is not asked more often.
const UNDECIDED_MAX: usize = 8;

impl Part {
    /// True if somebody who holds a former manifest may still read the file.
    pub(crate) fn is_held(&self, path: &str) -> bool {
        let mut superseded = self.superseded.lock().expect("no one panics while holding");
        superseded.retain(|manifest| manifest.strong_count() > 0);
        let mut held = superseded.iter().filter_map(Weak::upgrade);
        held.any(|manifest| manifest.lists(path))
    }
}

impl Dataset {
    /// The manifest that a change goes on from.
    pub(crate) fn present(&self, stream: StreamId) -> Result<Arc<Manifest>, Error> {
        let present = self.manifests().get(&stream).cloned();
        present.ok_or(Error::UnknownStream { stream })
    }

    /// The right to change the stream's manifest, from what the store has by now.
    pub(crate) async fn turn<'a>(
        &self,
        part: &'a Part,
    ) -> Result<MutexGuard<'a, Vec<Manifest>>, Error> {
        let mut undecided = part.changing.lock().await;
        self.settle(part, &mut undecided).await?;
        Ok(undecided)
    }

    /// Makes `next` the stream's manifest; perhaps it is that of a change of this process that was broken off instead,
    /// which had the same number.
    pub(crate) async fn commit(
        &self,
        part: &Part,
        next: Manifest,
        undecided: &mut Vec<Manifest>,
    ) -> Result<Arc<Manifest>, Error> {
        if undecided.len() == UNDECIDED_MAX {
            undecided.remove(0);
        }
        undecided.push(next.clone());
        if let Err(error) = part.manifests.commit(next.number, &next).await {
            // The store may have kept the manifest although it answered with an error: look.
            let settled = self.settle(part, undecided).await;
            let present = self.manifest(part.stream.id);
            if settled.is_ok() && present.number == next.number {
                return Ok(present);
            }
            if settled.is_ok() {
                undecided.retain(|manifest| *manifest != next);
            }
            return Err(error);
        }
        undecided.clear();
        Ok(self.set_current(part, next))
    }

    /// Makes the store's newest manifest the present one if it is one of `undecided`; true if it was.
    async fn settle(&self, part: &Part, undecided: &mut Vec<Manifest>) -> Result<bool, Error> {
        if undecided.is_empty() {
            return Ok(false);
        }
        let Some((_, newest)) = part.manifests.load().await? else {
            return Ok(false);
        };
        if !undecided.contains(&newest) {
            return Ok(false);
        }
        // Asking for it again makes sure, unlike looking, that what is there stays there.
        match part.manifests.commit(newest.number, &newest).await {
            Ok(()) | Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
        undecided.retain(|manifest| manifest.number > newest.number);
        self.set_current(part, newest);
        Ok(true)
    }

    /// Passes `error` on unless the change can be tried again: it may have met one of this process that was broken off,
    /// and then goes on from there.
    pub(crate) async fn again_after(
        &self,
        part: &Part,
        undecided: &mut Vec<Manifest>,
        error: Error,
    ) -> Result<(), Error> {
        if matches!(error, Error::Conflict { .. }) && self.settle(part, undecided).await? {
            return Ok(());
        }
        Err(error)
    }

    fn set_current(&self, part: &Part, manifest: Manifest) -> Arc<Manifest> {
        let manifest = Arc::new(manifest);
        let mut former = None;
        self.change_current(|current| {
            // A stream that was removed meanwhile stays so.
            if let Some(present) = current.get_mut(&part.stream.id) {
                former = Some(std::mem::replace(present, Arc::clone(&manifest)));
            }
        });
        let mut superseded = part.superseded.lock().expect("no one panics while holding");
        superseded.retain(|manifest| manifest.strong_count() > 0);
        superseded.extend(former.as_ref().map(Arc::downgrade));
        manifest
    }
}
