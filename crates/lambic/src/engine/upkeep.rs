//! What happens by itself: views follow the log, the log is sealed, batches run when due, the log is
//! trimmed of what nothing needs any more.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use lambic_model::{Frontier, Frontiers, StreamId};
use lambic_serving::ServedView;
use lambic_speed::RealTime;
use tokio::{sync::watch, task::JoinHandle};
use tracing::{error, warn};

use super::layers::Layers;
use crate::settings::Settings;

/// How long the speed layer lets records gather before it takes them in.
const SPEED_PAUSE: Duration = Duration::from_millis(20);
const TICK: Duration = Duration::from_secs(1);
/// A batch runs early when this many records wait for it: real-time states live in memory.
const RECORDS_WITHOUT_BATCH_MAX: u64 = 20_000_000;

pub fn start(
    layers: &Arc<Layers>,
    settings: &Settings,
    stopping: watch::Receiver<bool>,
) -> Vec<JoinHandle<()>> {
    let views = Arc::new(FollowingViews(Arc::clone(layers)));
    let speed =
        lambic_speed::keep_current(layers.log().clone(), views, SPEED_PAUSE, stopping.clone());
    let upkeep = Upkeep {
        layers: Arc::clone(layers),
        seal_records: settings.dataset.seal_records,
        seal_after: settings.dataset.seal_after(),
        waiting_since: HashMap::new(),
        batched_at: HashMap::new(),
    };
    vec![tokio::spawn(speed), tokio::spawn(upkeep.run(stopping))]
}

struct FollowingViews(Arc<Layers>);

#[async_trait]
impl RealTime for FollowingViews {
    async fn advance(&self, heads: &Frontiers) {
        for view in self.0.serving().views() {
            if let Err(error) = view.advance(heads).await {
                // Reads compute what is missing, or fail with the same error themselves.
                error!(view = %view.definition().name, %error, "speed layer cannot follow");
            }
        }
    }
}

struct Upkeep {
    layers: Arc<Layers>,
    seal_records: u64,
    seal_after: Duration,
    waiting_since: HashMap<StreamId, Instant>,
    batched_at: HashMap<String, Instant>,
}

impl Upkeep {
    async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                _ = stopping.changed() => return,
            }
            // A batch can take long: stopping does not wait for it, an unfinished one leaves nothing.
            tokio::select! {
                () = self.tick() => {}
                _ = stopping.changed() => return,
            }
        }
    }

    async fn tick(&mut self) {
        self.seal().await;
        self.batch().await;
        self.trim().await;
    }

    async fn seal(&mut self) {
        let log = self.layers.log().snapshot();
        for (stream, head) in log.heads().0 {
            let waiting = head.since(&self.layers.dataset().manifest(stream).frontier);
            if waiting == 0 {
                self.waiting_since.remove(&stream);
                continue;
            }
            let since = *self
                .waiting_since
                .entry(stream)
                .or_insert_with(Instant::now);
            if waiting < self.seal_records && since.elapsed() < self.seal_after {
                continue;
            }
            self.waiting_since.remove(&stream);
            if let Err(error) = self.layers.seal(stream).await {
                error!(%stream, %error, "records cannot be sealed; the log keeps them");
            }
        }
    }

    async fn batch(&mut self) {
        let heads = self.layers.log().snapshot().heads();
        for view in self.layers.serving().views() {
            let name = view.definition().name.to_string();
            let last = *self
                .batched_at
                .entry(name.clone())
                .or_insert_with(Instant::now);
            let behind = behind_batch(&view, &heads);
            if behind == 0 {
                continue;
            }
            if last.elapsed() < view.definition().batch_every && behind < RECORDS_WITHOUT_BATCH_MAX
            {
                continue;
            }
            self.batched_at.insert(name.clone(), Instant::now());
            if let Err(error) = self.layers.run_batch(&name).await {
                error!(view = %name, %error, "batch run failed; the former batch view is still served");
            }
        }
    }

    /// The log keeps what is not sealed, what no batch view covers, what views being built have yet to read, and what triggers have yet to read.
    async fn trim(&self) {
        let cursors = self.layers.functions().cursors();
        let mut keep = Frontiers::default();
        for (stream, head) in self.layers.log().snapshot().heads().0 {
            let mut from = self.layers.dataset().manifest(stream).frontier.min(&head);
            for view in self.layers.serving().views() {
                if view.plan().inputs.iter().any(|input| input.id == stream) {
                    from = from.min(&view.runs().batch_frontier().of(stream));
                }
            }
            from = self.layers.holds().earliest(stream, from);
            if let Some(cursor) = cursors.0.get(&stream) {
                from = from.min(cursor);
            }
            keep.set(stream, padded(from, &head));
        }
        let log = self.layers.log().clone();
        match tokio::task::spawn_blocking(move || log.trim(&keep)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => warn!(%error, "the log cannot be trimmed"),
            Err(error) => error!(%error, "trimming the log ended badly"),
        }
    }
}

fn behind_batch(view: &ServedView, heads: &Frontiers) -> u64 {
    let covered = view.runs().batch_frontier();
    view.plan()
        .inputs
        .iter()
        .map(|stream| heads.of(stream.id).since(&covered.of(stream.id)))
        .sum()
}

/// With as many partitions as the head has.
fn padded(frontier: Frontier, head: &Frontier) -> Frontier {
    frontier.max(&Frontier::zero(head.0.len() as u32))
}
