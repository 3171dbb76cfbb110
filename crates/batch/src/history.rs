//! All records at one pin, for views whose new states depend on those that were there before.

use std::sync::Arc;

use datafusion::{catalog::TableProvider, execution::SessionState};
use lambic_dataset::Pin;
use lambic_model::{Erasures, Frontier, Stream};
use lambic_view::{Error, History};

/// What `pin` can read, files and log.
pub struct PinnedHistory {
    pin: Pin,
    state: Arc<SessionState>,
}

impl PinnedHistory {
    pub fn new(pin: Pin, state: Arc<SessionState>) -> PinnedHistory {
        PinnedHistory { pin, state }
    }
}

impl History for PinnedHistory {
    fn records(
        &self,
        stream: &Arc<Stream>,
        from: &Frontier,
        to: &Frontier,
    ) -> Result<Arc<dyn TableProvider>, Error> {
        let mut heads = self.pin.heads().clone();
        heads.set(stream.id, to.clone());
        Ok(Arc::new(
            self.pin.at(heads).table_since(stream, from.clone()),
        ))
    }

    fn erasures(&self) -> Erasures {
        self.pin.log().erasures()
    }

    fn state(&self) -> &SessionState {
        &self.state
    }
}
