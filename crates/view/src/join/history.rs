//! What there was before, for plans whose new states depend on it.

use std::sync::Arc;

use datafusion::{catalog::TableProvider, execution::SessionState};
use lambic_model::{Erasures, Frontier, Stream};

use crate::Error;

/// The records of all streams from the first on, as they stood at one moment.
pub trait History: Send + Sync {
    /// The records of `stream` in `from..to` that were not erased, with system columns. `to` is not past that moment.
    fn records(
        &self,
        stream: &Arc<Stream>,
        from: &Frontier,
        to: &Frontier,
    ) -> Result<Arc<dyn TableProvider>, Error>;

    /// The erasures that it knows of.
    fn erasures(&self) -> Erasures;

    /// What its tables are scanned with.
    fn state(&self) -> &SessionState;
}
