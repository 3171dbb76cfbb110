//! Streams that are dropped while the log works, and what a restart makes of them.

use std::{
    collections::HashSet,
    future::{Future, poll_fn},
    pin::Pin,
    sync::atomic::AtomicU32,
    task::Poll,
    time::Duration,
};

use lambic_base::disk::Gate;
use lambic_model::{Frontier, Frontiers, Offset};

use super::*;
use crate::{Error, ids::Ids, prepare, recover, stage::Stage};

const PATIENCE: Duration = Duration::from_secs(60);

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
    let disk = SimDisk::new(0);
    let mut options = options_on(&disk, scratch.path());
    // A segment, and with it a checkpoint, for every append.
    options.segment_bytes = 1;
    let open = |streams: &[Arc<Stream>]| Log::open(options.clone(), streams).unwrap();
    let log = open(&streams());
    log.append(write(WITH_ID, &[0])).await.unwrap();

    let gate = Arc::new(Gate::default());
    disk.hold_next_sync(Some(gate.clone()));
    let mut first = Box::pin(log.append(write(PLAIN, &[0])));
    begin(first.as_mut()).await;
    assert!(gate.reached_within(PATIENCE));
    // The writer is busy: these three queue up behind it.
    let mut dropped = Box::pin(log.append(write(WITH_ID, &[1])));
    begin(dropped.as_mut()).await;
    let mut removed = Box::pin(log.remove_stream(WITH_ID));
    begin(removed.as_mut()).await;
    let mut last = Box::pin(log.append(write(PLAIN, &[1])));
    begin(last.as_mut()).await;
    gate.open();
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

#[tokio::test]
async fn a_dropped_stream_does_not_come_back_after_a_restart() {
    let scratch = tempfile::tempdir().unwrap();
    let mut options = options(scratch.path());
    options.segment_bytes = 1;
    let log = open(&options);
    log.append(write(WITH_ID, &[0])).await.unwrap();
    log.append(write(PLAIN, &[0])).await.unwrap();
    log.close().await;

    let log = Log::open(options.clone(), &[Arc::new(stream(PLAIN, 1))]).unwrap();
    let known = |heads: &Frontiers| heads.0.keys().copied().collect::<Vec<_>>();
    assert_eq!(known(&log.snapshot().heads()), [PLAIN]);
    log.append(write(PLAIN, &[1])).await.unwrap();
    let checkpointed = log.snapshot().0.segments.last().unwrap().start.clone();
    assert_eq!(known(&checkpointed), [PLAIN]);
}

/// The first version could checkpoint without the head of a dropped stream and then append to it.
#[tokio::test]
async fn a_log_of_the_first_version_with_such_an_append_opens() {
    let scratch = tempfile::tempdir().unwrap();
    let options = options(scratch.path());
    open(&options).close().await;
    let known = recover::Known {
        declared: HashSet::from([PLAIN]),
        ..recover::Known::default()
    };
    let ids = Ids::new(&options);
    let mut found = recover::recover(&options, &ids, &known).unwrap();
    found.state.heads.set(WITH_ID, Frontier(vec![Offset(7)]));
    let active = found.active;
    let (position, salt) = (active.position, active.segment.salt);
    let mut stage = Stage::new(&found.state, position, active.chain, salt, 0);
    let append = write(WITH_ID, &[7]);
    let to = vec![Arc::new(stream(WITH_ID, 1))];
    let prepared = prepare::prepare(append, to, &AtomicU32::new(0), 1 << 20).unwrap();
    stage.take(prepared, &found.state, &ids).unwrap();
    active
        .segment
        .file
        .write_all_at(&stage.frames, position)
        .unwrap();
    drop(ids);

    let log = Log::open(options, &[Arc::new(stream(PLAIN, 1))]).unwrap();
    assert!(!log.snapshot().heads().0.contains_key(&WITH_ID));
    log.append(write(PLAIN, &[0])).await.unwrap();
    assert_eq!(all(&log.snapshot(), PLAIN), [0]);
}
