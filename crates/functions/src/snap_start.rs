//! Published versions with AWS's `SnapStart`: while one is in use, a few environments of it wait after their start for the
//! next event that finds no other one free.
//!
//! Nothing is copied: each has had a start of its own, in the background. They take only memory that nobody waits for, are
//! the first to be ended when somebody does, and go when the version was not used for a while. Before its first event an
//! environment of such a version is restored, also one that was started for that event: hooks run then.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use lambic_model::Outcome;
use lambic_sandbox::process::{Restored, Spec};
use tokio::task::JoinSet;

use crate::{
    Inner, admission::Counted, entry::Entry, platform::Format, pool::Tenant, program::Program,
    provisioned::reason_of, said::Said,
};

/// Of each version.
const READY: usize = 2;
/// How often it is looked whether some have ended, while there are any.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Behind an event: what is started for later does not compete with what is waited for.
const PAUSE: Duration = Duration::from_millis(10);
/// AWS's, of hooks.
const RESTORE_TIME_MAX: Duration = Duration::from_secs(10);

/// Keeps them, until the service stops.
pub async fn keep(inner: Arc<Inner>) {
    let mut stop = inner.stop.subscribe();
    let mut starts = JoinSet::new();
    loop {
        let has_any = look(&inner, &mut starts);
        let later = async {
            match has_any {
                true => tokio::time::sleep(LOOK_AGAIN).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = stop.wait_for(|&stopped| stopped) => break,
            () = inner.snap_start_used.notified() => {}
            Some(_) = starts.join_next() => {}
            () = later => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
    starts.shutdown().await;
}

/// Starts what is lacking, one at a time of each version. False if none is in use.
fn look(inner: &Arc<Inner>, starts: &mut JoinSet<()>) -> bool {
    let mut has_any = false;
    for entry in inner.entries() {
        let pool = &entry.pool;
        let is_provisioned = pool.wanted.load(Ordering::Relaxed) > 0;
        if !entry.info.snap_starts() || is_provisioned || !pool.is_used(inner.options.idle) {
            continue;
        }
        has_any = true;
        pool.forget_dead();
        let starting = &pool.snap_start.starting;
        if pool.unrestored() < READY
            && starting.now() == 0
            && pool.snap_start.may_try(Instant::now())
        {
            let counted = starting.add(1);
            starts.spawn(start(inner.clone(), entry.clone(), counted));
        }
    }
    has_any
}

async fn start(inner: Arc<Inner>, entry: Arc<Entry>, starting: Counted) {
    let result = try_start(&inner, &entry).await;
    if let Err(reason) = &result {
        // Whoever invokes it is told.
        tracing::debug!(function = %entry.info.name, version = %entry.info.version, reason,
            "an environment of SnapStart does not start");
    }
    entry.pool.snap_start.set(result);
    drop(starting);
}

async fn try_start(inner: &Inner, entry: &Entry) -> Result<(), String> {
    let Some(Program::Process(spec)) = entry.program() else {
        return Err("it is no program".to_owned());
    };
    // Nobody waits for it, so that it has more time.
    let init_timeout = entry.timeout().max(inner.options.init_timeout_provisioned);
    let spec = Arc::new(Spec {
        init_timeout,
        ..Spec::clone(spec)
    });
    let started = inner.fresh_now(&spec).await;
    match started.map_err(|error| error.to_string())? {
        Some(Ok(tenant)) => {
            inner.give_back(entry, tenant);
            Ok(())
        }
        Some(Err(failed)) => Err(reason_of(&failed.outcome)),
        None => Err("there is no room for it".to_owned()),
    }
}

/// Restores an environment that no event has used; `None`: there is nothing to restore.
pub async fn restore(
    tenant: &mut Tenant,
    spec: &Spec,
    request_id: &str,
    said: &mut Said<'_>,
) -> Option<Restored> {
    if !tenant.take_unrestored() {
        return None;
    }
    // Of its start.
    said.add(tenant.lines());
    let format = said.format();
    said.notes(format.restore_start(&spec.runtime));
    let restored = tenant.restore(request_id, RESTORE_TIME_MAX).await;
    said.add(tenant.lines());
    said.notes(report(format, &restored));
    Some(restored)
}

/// AWS's line.
fn report(format: Format, restored: &Restored) -> Option<String> {
    let error_type = match &restored.outcome {
        Err(Outcome::Failure { error_type, .. }) => Some(error_type.as_str()),
        _ => None,
    };
    format.restore_report(restored.duration.as_secs_f64() * 1e3, error_type)
}
