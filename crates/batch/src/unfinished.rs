//! What a batch in slices has finished, so that a kill does not undo it.
//!
//! After every slice a numbered manifest lists the runs of all of them and where they end. The next batch of the view goes
//! on from there if its states would be the same: same plan, same begin, same erasures.

use std::sync::Arc;

use futures::TryStreamExt;
use lambic_dataset::ManifestStore;
use lambic_model::{Erasures, Frontiers};
use lambic_view::{Definition, ViewPlan};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{Error, made_by::MadeBy, spill::SpilledRun};

/// In the view's folder.
pub const FOLDER: &str = "slices";
const MANIFESTS_KEPT: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    #[serde(flatten)]
    pub made_by: MadeBy,
    pub from: Frontiers,
    /// Where the last finished slice ends.
    pub to: Frontiers,
    #[serde(default, skip_serializing_if = "Erasures::is_empty")]
    pub erasures: Erasures,
    /// How many are finished.
    pub slices: u64,
    /// Their states, in any number of runs.
    pub runs: Vec<SpilledRun>,
}

impl Unfinished {
    pub fn nothing(made_by: MadeBy, from: &Frontiers, erasures: &Erasures) -> Unfinished {
        Unfinished {
            made_by,
            from: from.clone(),
            to: from.clone(),
            erasures: erasures.clone(),
            slices: 0,
            runs: Vec::new(),
        }
    }

    pub fn records(&self) -> u64 {
        self.to.since(&self.from)
    }

    /// True if a batch from `from` to `to` goes on from here.
    pub fn leads_to(
        &self,
        definition: &Definition,
        plan: &ViewPlan,
        (from, to): (&Frontiers, &Frontiers),
        erasures: &Erasures,
    ) -> bool {
        self.made_by.fits(definition, plan, &self.to)
            && self.from == *from
            && to.covers(&self.to)
            && self.erasures == *erasures
    }
}

pub fn folder(definition: &Definition) -> Path {
    Path::from(definition.directory()).join(FOLDER)
}

/// The manifests of one view's folder.
pub struct Manifests {
    store: Arc<dyn ObjectStore>,
    folder: Path,
    manifests: ManifestStore<Unfinished>,
}

impl Manifests {
    pub fn of(store: Arc<dyn ObjectStore>, folder: Path) -> Manifests {
        Manifests {
            manifests: ManifestStore::new(Arc::clone(&store), folder.clone(), MANIFESTS_KEPT),
            store,
            folder,
        }
    }

    /// `None` as well if the newest cannot be read: it only saves work.
    pub async fn load(&self) -> Result<Option<Unfinished>, Error> {
        match self.manifests.load().await {
            Ok(found) => Ok(found.map(|(_, unfinished)| unfinished)),
            Err(error @ lambic_dataset::Error::ManifestDamaged { .. }) => {
                warn!(%error, "finished slices of a batch are damaged and computed again");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub async fn commit(&self, unfinished: &Unfinished) -> Result<(), Error> {
        loop {
            let newest = self.manifests.numbers().await?.last().copied();
            let number = newest.unwrap_or(0) + 1;
            match self.manifests.commit(number, unfinished).await {
                // A batch that was cancelled was still writing: this one goes past it.
                Err(lambic_dataset::Error::Conflict { .. }) => {}
                committed => return Ok(committed?),
            }
        }
    }

    /// Deletes the manifests, and after them everything else in the folder.
    pub async fn clear(&self) -> Result<(), Error> {
        let mut numbers = self.manifests.numbers().await?;
        // The newest goes last: an older one would count again.
        numbers.sort_unstable();
        for number in numbers {
            delete(&self.store, &self.manifests.path(number)).await?;
        }
        let objects = self.store.list(Some(&self.folder));
        let left: Vec<_> = objects.try_collect().await?;
        for object in left {
            delete(&self.store, &object.location).await?;
        }
        Ok(())
    }
}

async fn delete(store: &Arc<dyn ObjectStore>, path: &Path) -> Result<(), Error> {
    match store.delete(path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
