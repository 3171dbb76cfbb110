//! The serving layer: holds every view's published runs, merges them, and answers at one frontier.
//!
//! A view's runs are one batch run (states up to the batch frontier) and the real-time runs after it,
//! each following the one before. Readers take the set as it stands and never wait for writers;
//! what a reader's frontier is ahead of the set is computed for it and handed on to the set. This room
//! knows neither log nor dataset: new states come through [`TailSource`].

mod error;
mod runs;
mod view;

pub use error::Error;
pub use runs::RunSet;
pub use view::{Answer, ServedView};

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

/// All views that are served.
#[derive(Debug, Default, Clone)]
pub struct Serving(Arc<RwLock<BTreeMap<String, Arc<ServedView>>>>);

impl Serving {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Arc<ServedView>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<String, Arc<ServedView>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn view(&self, name: &str) -> Option<Arc<ServedView>> {
        self.read().get(name).cloned()
    }

    pub fn views(&self) -> Vec<Arc<ServedView>> {
        self.read().values().cloned().collect()
    }

    /// Serves `view` from now on; a former version under the same name is replaced at once.
    pub fn put(&self, view: Arc<ServedView>) -> Option<Arc<ServedView>> {
        self.write()
            .insert(view.definition().name.to_string(), view)
    }

    pub fn remove(&self, name: &str) -> Option<Arc<ServedView>> {
        self.write().remove(name)
    }
}
