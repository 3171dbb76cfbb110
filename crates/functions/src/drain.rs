//! The end of the service: what runs may end, within a bound, and nothing new begins.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, watch};

use crate::{
    Error, Functions, Inner, InvokeResult,
    entry::{Call, Entry, Input},
};

#[derive(Default)]
pub struct Drain {
    running: AtomicUsize,
    /// There may be none.
    none_runs: Notify,
    is_over: watch::Sender<bool>,
}

/// An invocation that the end waits for.
pub struct Running(Arc<Inner>);

impl Drain {
    /// Ends when nothing may go on any more.
    pub async fn over(&self) {
        let mut is_over = self.is_over.subscribe();
        // The sender lives as long as `self`.
        let _ = is_over.wait_for(|is_over| *is_over).await;
    }

    async fn ended(&self) {
        loop {
            let mut none_runs = std::pin::pin!(self.none_runs.notified());
            // Before it is looked at, so that no end goes by in between.
            none_runs.as_mut().enable();
            if self.running() == 0 {
                return;
            }
            none_runs.await;
        }
    }

    fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let drain = &self.0.drain;
        if drain.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            drain.none_runs.notify_waiters();
        }
    }
}

impl Inner {
    pub(crate) fn running(self: &Arc<Self>) -> Running {
        self.drain.running.fetch_add(1, Ordering::SeqCst);
        Running(self.clone())
    }

    /// Runs an event or a request whose caller waits, unless the end comes before.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        call: Call<'_>,
        input: Input<'_>,
    ) -> Result<InvokeResult, Error> {
        let _running = self.running();
        let answer = async {
            let turn = entry.turn(call.kind).await?;
            turn.run(call, input, self).await
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            () = self.drain.over() => Err(Error::Closed),
        }
    }
}

impl Functions {
    /// Takes nothing new, and waits until what runs has ended: invocations whose callers wait, and queued events that
    /// are being tried. What has not ended within the bound is given up, so that callers have an answer; queued events
    /// run again at the next start.
    pub async fn drain(&self) {
        let (inner, bound) = (&self.0, self.0.options.drain_max);
        inner.stop.send_replace(true);
        if tokio::time::timeout(bound, inner.drain.ended())
            .await
            .is_err()
        {
            let running = inner.drain.running();
            tracing::warn!(running, ?bound, "invocations did not end and are given up");
        }
        inner.drain.is_over.send_replace(true);
        inner.drain.ended().await;
    }
}
