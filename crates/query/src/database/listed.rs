//! What doors list beside streams and views: functions, and what relations take.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
};

use lambic_model::ScalarFunction;

use super::Database;

impl Database {
    /// The functions that statements can call, by name.
    pub fn functions(&self) -> Vec<Arc<dyn ScalarFunction>> {
        let functions = &self.0.functions;
        let functions = functions.read().unwrap_or_else(PoisonError::into_inner);
        functions.values().cloned().collect()
    }

    /// By name: of streams the bytes of sealed files, of views the bytes of states and rows in memory.
    pub fn relation_bytes(&self) -> HashMap<String, u64> {
        let dataset = self.0.sources.reader.dataset();
        let streams = self.streams().into_iter().map(|stream| {
            let bytes = dataset.manifest(stream.id).bytes();
            (stream.name.to_string(), bytes)
        });
        let views = self.views().into_iter();
        streams
            .chain(views.map(|view| (view.name, view.state_bytes)))
            .collect()
    }
}
