//! The functions that statements can call, for the doors that list them.

use std::sync::{Arc, PoisonError};

use lambic_model::ScalarFunction;

use super::Database;

impl Database {
    /// By name.
    pub fn functions(&self) -> Vec<Arc<dyn ScalarFunction>> {
        let functions = self
            .0
            .functions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        functions.values().cloned().collect()
    }
}
