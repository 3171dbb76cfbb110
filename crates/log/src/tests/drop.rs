//! Streams that are dropped while the log works, and what a restart makes of them.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Barrier,
    task::Poll,
};

use super::{sim::*, *};
use crate::Error;

/// One step: what was to be queued is queued then.
async fn begin<F: Future>(mut future: Pin<&mut F>) {
    poll_fn(|context| {
        assert!(future.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn dropping_a_stream_while_its_append_waits_leaves_a_log_that_opens() {
    let scratch = tempfile::tempdir().unwrap();
    let disk = SimDisk::default();
    let mut options = options(scratch.path());
    // A segment, and with it a checkpoint, for every append.
    options.segment_bytes = 1;
    let open = |streams: &[Arc<Stream>]| {
        Log::open_on(Box::new(disk.clone()), options.clone(), streams).unwrap()
    };
    let log = open(&streams());
    log.append(write(WITH_ID, &[0])).await.unwrap();

    let gate = Arc::new(Barrier::new(2));
    disk.set(Faults {
        gate: Some(gate.clone()),
        ..Faults::default()
    });
    let mut first = Box::pin(log.append(write(PLAIN, &[0])));
    begin(first.as_mut()).await;
    gate.wait();
    // The writer is busy: these three queue up behind it.
    let mut dropped = Box::pin(log.append(write(WITH_ID, &[1])));
    begin(dropped.as_mut()).await;
    let mut removed = Box::pin(log.remove_stream(WITH_ID));
    begin(removed.as_mut()).await;
    let mut last = Box::pin(log.append(write(PLAIN, &[1])));
    begin(last.as_mut()).await;
    gate.wait();
    first.await.unwrap();
    let refused = dropped.await;
    assert!(
        matches!(refused, Err(Error::UnknownStream { stream: WITH_ID })),
        "{refused:?}"
    );
    removed.await.unwrap();
    last.await.unwrap();
    assert!(!log.snapshot().heads().0.contains_key(&WITH_ID));
    log.append(write(PLAIN, &[2])).await.unwrap();
    log.close().await;

    let log = open(&[Arc::new(stream(PLAIN, 1))]);
    assert_eq!(all(&log.snapshot(), PLAIN), [0, 1, 2]);
}
