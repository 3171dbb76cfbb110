//! How often an environment may be refused what it asks of the server.
//!
//! An answer costs the server as much as the question costs the environment, whose processors are counted; ours are not.
//! Who is told no has no reason to ask again at once, so that refusals of one environment follow each other at a
//! distance, however many connections it asks on.

use std::time::Duration;

use tokio::sync::Mutex;

/// Between two refusals.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
pub struct Refusals {
    turn: Mutex<()>,
}

impl Refusals {
    /// Waits until it may be refused.
    pub async fn turn(&self) {
        let _turn = self.turn.lock().await;
        tokio::time::sleep(PAUSE).await;
    }
}
