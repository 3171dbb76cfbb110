//! Up to where the rows of a view go that is recomputed and served as of its last batch. The rows can be made again
//! at that frontier, so it alone is kept.

use std::sync::Arc;

use lambic_dataset::ManifestStore;
use lambic_model::Frontiers;
use lambic_view::Definition;
use object_store::{ObjectStore, path::Path};
use serde::{Deserialize, Serialize};

use crate::Error;

/// In the view's folder.
pub const FOLDER: &str = "frontier";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct BatchFrontier {
    frontier: Frontiers,
}

fn manifests(store: Arc<dyn ObjectStore>, definition: &Definition) -> ManifestStore<BatchFrontier> {
    ManifestStore::new(store, Path::from(definition.directory()).join(FOLDER), 1)
}

pub async fn keep(
    store: Arc<dyn ObjectStore>,
    definition: &Definition,
    frontier: &Frontiers,
) -> Result<(), Error> {
    let manifests = manifests(store, definition);
    let newest = manifests.numbers().await?.last().copied();
    let frontier = frontier.clone();
    let number = newest.unwrap_or(0) + 1;
    Ok(manifests
        .commit(number, &BatchFrontier { frontier })
        .await?)
}

/// `None` if there is none that can be read: the next batch makes one.
pub async fn load(
    store: Arc<dyn ObjectStore>,
    definition: &Definition,
) -> Result<Option<Frontiers>, Error> {
    match manifests(store, definition).load().await {
        Ok(found) => Ok(found.map(|(_, kept)| kept.frontier)),
        Err(error @ lambic_dataset::Error::ManifestDamaged { .. }) => {
            tracing::warn!(view = %definition.name, %error, "a batch frontier is damaged: the view is served from the head on");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
