//! The serving layer: holds every view's published runs, merges them, and answers at one frontier.
//!
//! A view's runs are one batch run (states up to the batch frontier) and the real-time runs after it,
//! each following the one before. Readers take the set as it stands and never wait for writers;
//! what a reader's frontier is ahead of the set is computed for that reader. This room knows neither log nor dataset:
//! new states come through [`TailSource`].

mod error;
mod recomputed;
mod runs;
mod value;
mod view;

pub use error::Error;
pub use recomputed::{KEPT_BYTES_MAX, RecomputedView, Standing, ViewRead};
pub use runs::RunSet;
pub use value::value_of_text;
pub use view::{Answer, ServedView};

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use lambic_model::Stream;
use lambic_view::{Class, Definition, Planned, ViewSource};

/// A view as readers find it.
#[derive(Debug, Clone)]
pub enum Served {
    /// Its states are kept by batch and speed.
    Kept(Arc<ServedView>),
    /// Its `SELECT` is run when it is read.
    Recomputed(Arc<RecomputedView>),
}

impl Served {
    pub fn definition(&self) -> &Definition {
        match self {
            Served::Kept(view) => view.definition(),
            Served::Recomputed(view) => view.definition(),
        }
    }

    pub fn class(&self) -> Class {
        match self {
            Served::Kept(view) => view.plan().class,
            Served::Recomputed(_) => Class::Recompute,
        }
    }

    /// Its `SELECT`.
    pub fn planned(&self) -> Planned {
        match self {
            Served::Kept(view) => Planned::Kept(Arc::clone(view.plan())),
            Served::Recomputed(view) => Planned::Recomputed(Arc::clone(view.plan())),
        }
    }

    /// All streams that its rows are made from.
    pub fn streams(&self) -> &[Arc<Stream>] {
        match self {
            Served::Kept(view) => &view.plan().inputs,
            Served::Recomputed(view) => &view.plan().streams,
        }
    }

    /// What batch and speed keep of it: itself, or its parts.
    pub fn kept(&self) -> Vec<Arc<ServedView>> {
        match self {
            Served::Kept(view) => vec![Arc::clone(view)],
            Served::Recomputed(view) => view.parts().to_vec(),
        }
    }

    /// True if what was appended after its last batch is served approximately.
    pub fn is_approximate(&self) -> bool {
        self.definition().speed_as.is_some()
    }

    /// The views that it selects from.
    pub fn views_read(&self) -> &[String] {
        match self {
            Served::Kept(_) => &[],
            Served::Recomputed(view) => &view.plan().views,
        }
    }

    /// As other views may select from it.
    pub fn as_source(&self) -> ViewSource {
        let (schema, exactness) = match self {
            Served::Kept(view) => (&view.plan().schema, &view.plan().exactness),
            Served::Recomputed(view) => (&view.plan().schema, &view.plan().exactness),
        };
        ViewSource {
            name: self.definition().name.to_string(),
            schema: Arc::clone(schema),
            streams: self.streams().to_vec(),
            exactness: exactness.clone(),
        }
    }
}

/// All views at one moment, by name.
pub type Views = Arc<BTreeMap<String, Served>>;

/// All views that are served.
#[derive(Debug, Default, Clone)]
pub struct Serving(Arc<RwLock<Views>>);

impl Serving {
    pub fn views(&self) -> Views {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn view(&self, name: &str) -> Option<Served> {
        self.views().get(name).cloned()
    }

    /// Everything that batch and speed keep: views, and parts of views.
    pub fn kept(&self) -> Vec<Arc<ServedView>> {
        self.views().values().flat_map(Served::kept).collect()
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Served>) -> T) -> T {
        let mut views = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Who holds the former set goes on with it.
        change(Arc::make_mut(&mut views))
    }

    /// Serves `view` from now on; a former version under the same name is replaced at once.
    pub fn put(&self, view: Served) -> Option<Served> {
        self.change(|views| views.insert(view.definition().name.to_string(), view))
    }

    /// Serves `renewed` in place of the same version of the view; false if another version took over meanwhile.
    pub fn renew(&self, renewed: RecomputedView) -> bool {
        let directory = renewed.definition().directory();
        self.change(|views| {
            let served = views.get_mut(renewed.definition().name.as_str());
            match served.filter(|served| served.definition().directory() == directory) {
                Some(served) => {
                    *served = Served::Recomputed(Arc::new(renewed));
                    true
                }
                None => false,
            }
        })
    }

    pub fn remove(&self, name: &str) -> Option<Served> {
        self.change(|views| views.remove(name))
    }
}
