//! What of the log can go.

use std::collections::HashSet;

use anyhow::Context;
use lambic_model::{Frontier, Frontiers};

use super::layers::Layers;

impl Layers {
    /// Trims the log. It keeps what is not sealed, what no batch view covers, what views being built have yet to read,
    /// what triggers have yet to read, and what views lack that stand until their next batch. Views whose folders are
    /// in `without` do not count: they are read from history then.
    pub async fn trim(&self, without: &HashSet<String>) -> anyhow::Result<()> {
        let keep = self.kept_by_log(without);
        let log = self.log().clone();
        let trimmed = tokio::task::spawn_blocking(move || log.trim(&keep)).await;
        trimmed.context("trimming ended badly")??;
        Ok(())
    }

    fn kept_by_log(&self, without: &HashSet<String>) -> Frontiers {
        let cursors = self.functions().cursors();
        let mut keep = Frontiers::default();
        for (stream, head) in self.log().snapshot().heads().0 {
            let mut from = self.dataset().manifest(stream).frontier.min(&head);
            // Held first: a view that is served in between is then seen among those that are.
            from = self.holds().earliest(stream, from);
            for view in self.serving().kept() {
                let reads = view.plan().inputs.iter().any(|input| input.id == stream);
                if reads && !without.contains(&view.definition().directory()) {
                    from = from.min(&view.runs().batch_frontier().of(stream));
                }
            }
            for view in self.renewed_by_batch() {
                if without.contains(&view.definition().directory()) {
                    continue;
                }
                // So that it can be told how old the view is.
                let covered = view.batch_frontier();
                let covered = covered.and_then(|covered| covered.0.get(&stream));
                from = covered.map_or(from.clone(), |covered| from.min(covered));
            }
            if let Some(cursor) = cursors.0.get(&stream) {
                from = from.min(cursor);
            }
            keep.set(stream, padded(from, &head));
        }
        keep
    }
}

/// With as many partitions as the head has.
fn padded(frontier: Frontier, head: &Frontier) -> Frontier {
    frontier.max(&Frontier::zero(head.0.len() as u32))
}
