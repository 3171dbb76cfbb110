//! The batch of a view that is recomputed and served as of its last batch: its rows are made at the head and stand
//! until the next time. What is kept of other views, the batch layer makes.

use std::sync::Arc;

use lambic_serving::Served;

use super::Database;
use crate::{Error, pinned::Pinned, provider::recomputed_rows};

impl Database {
    /// Does nothing for other views, and where nothing was appended since.
    pub async fn renew_view(&self, name: &str) -> Result<(), Error> {
        self.renewed(name, false).await
    }

    /// The same, but rows that nobody made yet are made although nothing was appended: whoever asks for a batch is
    /// told whether it can be made.
    pub async fn renew_view_now(&self, name: &str) -> Result<(), Error> {
        self.renewed(name, true).await
    }

    async fn renewed(&self, name: &str, is_wanted: bool) -> Result<(), Error> {
        let _turn = self.0.renewing.lock().await;
        let pinned = Pinned::take(&self.0.sources);
        let Some(Served::Recomputed(view)) = pinned.views.get(name).cloned() else {
            return Ok(());
        };
        let Some(standing) = pinned.standing(&view) else {
            return Ok(());
        };
        let is_made = !is_wanted || view.rows_at(&standing).is_some();
        let frontier = standing.frontier;
        let Some(served) = view.batch_frontier() else {
            return Ok(());
        };
        if *served == frontier && is_made {
            return Ok(());
        }
        let pinned = Arc::new(pinned.back_to(frontier));
        let state = self.pinned_to(Arc::clone(&pinned), false);
        let rows = recomputed_rows(&view, &pinned, &state).await;
        let rows = rows.map_err(|error| Error::from_datafusion(error, "", &[]))?;
        let Some(standing) = pinned.standing(&view) else {
            return Ok(());
        };
        // A view that was dropped meanwhile must leave nothing behind.
        let _one = self.0.changing.lock().await;
        let served = self.0.sources.serving.view(name);
        let directory = view.definition().directory();
        if served.is_none_or(|served| served.definition().directory() != directory) {
            return Ok(());
        }
        let kept = self.lifecycle()?;
        kept.keep_frontier(view.definition(), &standing.frontier)
            .await?;
        let renewed = view.after_batch(standing, rows.map(Arc::new));
        self.0.sources.serving.renew(renewed);
        Ok(())
    }
}
