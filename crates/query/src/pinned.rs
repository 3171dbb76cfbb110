//! The frontier that a statement is pinned to.

use std::{collections::HashMap, sync::Arc};

use lambic_dataset::Pin;
use lambic_serving::{RunSet, ServedView, Serving};

/// Views as they stood, then the log's head after that: no view's runs lie past the head, so each can
/// be brought up to it exactly, and the head includes every append acknowledged before.
pub struct Pinned {
    pub views: HashMap<String, (Arc<ServedView>, Arc<RunSet>)>,
    pub streams: Pin,
}

impl Pinned {
    pub fn take(serving: &Serving, reader: &lambic_dataset::Reader) -> Pinned {
        let views = serving.views().into_iter().map(|view| {
            let runs = view.runs();
            (view.definition().name.to_string(), (view, runs))
        });
        let views = views.collect();
        Pinned {
            views,
            streams: reader.pin(),
        }
    }
}
