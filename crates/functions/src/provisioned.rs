//! Provisioned concurrency: environments that are kept ready for a version, or for those that an alias points to.
//!
//! They are started in the background, stay when nobody uses them, and are replaced when they end. What is wanted is read
//! anew at each look, so they follow an alias that moves, and are there again after a restart.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use lambic_base::retry::Backoff;
use lambic_model::Outcome;
use lambic_sandbox::process::{INITIALIZATION_TYPE, Spec};
use tokio::task::JoinSet;

use crate::{
    Error, Function, FunctionVersion, Functions, Inner, Qualifier,
    admission::{Count, Counted},
    entry::Entry,
    pool::end_all,
    program::Program,
    records::error_message,
};

/// How often it is looked whether some have ended, while there are any.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Of one version, that start at one time.
const STARTING_MAX: usize = 4;
/// Before a function is started again that did not come up.
const FAILED_WAIT: Duration = Duration::from_secs(1);
const FAILED_WAIT_MAX: Duration = Duration::from_secs(60);

/// How far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvisionedStatus {
    /// Environments that are there or starting.
    pub allocated: usize,
    /// Those that are there.
    pub available: usize,
    /// Why there are not more.
    pub trouble: Option<String>,
}

/// How starts go that nobody waits for, of one version.
#[derive(Default)]
pub struct Provisioning {
    pub starting: Count,
    trouble: Mutex<Option<Trouble>>,
}

struct Trouble {
    reason: String,
    waits: Backoff,
    try_at: Instant,
}

impl Provisioning {
    fn reason(&self) -> Option<String> {
        let trouble = self.trouble.lock().expect("no panic while it is held");
        trouble.as_ref().map(|trouble| trouble.reason.clone())
    }

    pub fn may_try(&self, now: Instant) -> bool {
        let trouble = self.trouble.lock().expect("no panic while it is held");
        trouble.as_ref().is_none_or(|trouble| trouble.try_at <= now)
    }

    pub fn set(&self, result: Result<(), String>) {
        let mut trouble = self.trouble.lock().expect("no panic while it is held");
        let Err(reason) = result else {
            *trouble = None;
            return;
        };
        let trouble = trouble.get_or_insert_with(|| Trouble {
            reason: String::new(),
            waits: Backoff::new(FAILED_WAIT, FAILED_WAIT_MAX, 0),
            try_at: Instant::now(),
        });
        trouble.reason = reason;
        trouble.try_at = Instant::now() + trouble.waits.next().unwrap_or(FAILED_WAIT_MAX);
    }
}

impl Functions {
    /// Of a version or alias that environments are kept for.
    pub fn provisioned(&self, function: &Function, qualifier: &Qualifier) -> ProvisionedStatus {
        let mut status = ProvisionedStatus {
            allocated: 0,
            available: 0,
            trouble: None,
        };
        for (version, wanted) in shares(function, qualifier) {
            let slots = self.0.slots.read().expect("held shortly");
            let Some(entry) = slots.present(function.info.name.as_str(), version) else {
                continue;
            };
            let (available, starting) = entry.provisioned(wanted);
            status.available += available;
            status.allocated += (available + starting).min(wanted);
            status.trouble = status.trouble.or_else(|| entry.pool.provisioning.reason());
        }
        status
    }
}

impl Entry {
    /// Environments that are there, and starting.
    fn provisioned(&self, wanted: usize) -> (usize, usize) {
        match self.program() {
            // Each event has an instance of its own, which takes no time.
            Some(Program::Wasm { .. }) => (wanted, 0),
            _ => (
                (self.pool.kept.now() as usize).min(wanted),
                self.pool.provisioning.starting.now() as usize,
            ),
        }
    }
}

/// The versions that a qualifier means, with their parts of its environments.
fn shares(function: &Function, qualifier: &Qualifier) -> Vec<(FunctionVersion, usize)> {
    let Some(provisioned) = function.provisioned.get(qualifier) else {
        return Vec::new();
    };
    let all = provisioned.environments;
    match qualifier {
        Qualifier::Version(version) => vec![(*version, all)],
        Qualifier::Alias(name) => match function.alias(name) {
            Err(_) => Vec::new(),
            Ok(alias) => match alias.shifted {
                None => vec![(alias.version, all)],
                Some((other, weight)) => {
                    let theirs = ((all as f64 * weight).ceil() as usize).min(all);
                    vec![(alias.version, all - theirs), (other, theirs)]
                }
            },
        },
    }
}

/// Of all that is set for a function.
fn wanted(function: &Function) -> BTreeMap<FunctionVersion, usize> {
    let mut wanted = BTreeMap::new();
    for qualifier in function.provisioned.keys() {
        for (version, environments) in shares(function, qualifier) {
            *wanted.entry(version).or_default() += environments;
        }
    }
    wanted
}

/// Keeps them, until the service stops.
pub async fn keep(inner: Arc<Inner>) {
    let mut stop = inner.stop.subscribe();
    let mut starts = JoinSet::new();
    loop {
        let has_any = look(&inner, &mut starts).await;
        let later = async {
            match has_any {
                true => tokio::time::sleep(LOOK_AGAIN).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = stop.wait_for(|&stopped| stopped) => break,
            () = inner.provisioned_changed.notified() => {}
            Some(_) = starts.join_next() => {}
            () = later => {}
        }
    }
    starts.shutdown().await;
}

/// Starts what is lacking and ends what is too much. False if nothing is to be kept.
async fn look(inner: &Arc<Inner>, starts: &mut JoinSet<()>) -> bool {
    let mut has_any = false;
    for (entry, wanted) in entries(inner) {
        let pool = &entry.pool;
        let former = pool.wanted.swap(wanted, Ordering::Relaxed);
        has_any |= wanted > 0;
        if (former, wanted) == (0, 0) {
            continue;
        }
        pool.forget_dead();
        let surplus = pool.take_surplus();
        if !surplus.is_empty() {
            tokio::spawn(end_all(surplus));
        }
        if matches!(entry.program(), Some(Program::Wasm { .. })) {
            continue;
        }
        let starting = pool.provisioning.starting.now() as usize;
        let lacking = wanted.saturating_sub(pool.kept.now() as usize + starting);
        if lacking == 0 || !pool.provisioning.may_try(Instant::now()) {
            continue;
        }
        for _ in 0..lacking.min(STARTING_MAX.saturating_sub(starting)) {
            let counted = pool.provisioning.starting.add(1);
            starts.spawn(start(inner.clone(), entry.clone(), counted));
        }
    }
    has_any
}

/// Everything that may have environments, and how many are to be kept of it.
fn entries(inner: &Inner) -> Vec<(Arc<Entry>, usize)> {
    let mut slots = inner.slots.write().expect("held shortly");
    let functions: Vec<Arc<Function>> = slots
        .functions()
        .filter(|function| !function.provisioned.is_empty())
        .cloned()
        .collect();
    let mut all = Vec::new();
    for function in functions {
        for (version, wanted) in wanted(&function) {
            let entry = slots.at(function.info.name.as_str(), version, &inner.options);
            all.extend(entry.map(|entry| (entry, wanted)));
        }
    }
    let others = slots
        .entries()
        .filter(|entry| entry.pool.wanted.load(Ordering::Relaxed) > 0)
        .filter(|entry| !all.iter().any(|(known, _)| Arc::ptr_eq(known, entry)))
        .map(|entry| (entry.clone(), 0));
    let others: Vec<_> = others.collect();
    all.extend(others);
    all
}

async fn start(inner: Arc<Inner>, entry: Arc<Entry>, starting: Counted) {
    let result = try_start(&inner, &entry).await;
    if let Err(reason) = &result {
        tracing::warn!(function = %entry.info.name, version = %entry.info.version, reason,
            "an environment of provisioned concurrency does not start");
    }
    entry.pool.provisioning.set(result);
    drop(starting);
}

async fn try_start(inner: &Inner, entry: &Entry) -> Result<(), String> {
    let program = entry.ready(inner).await;
    let spec = match program.map_err(|error| error.to_string())? {
        Program::Wasm { .. } => return Ok(()),
        Program::Broken { reason, .. } => return Err(reason.clone()),
        Program::Process(spec) => Arc::new(provisioned(
            spec,
            entry.timeout().max(inner.options.init_timeout_provisioned),
        )),
    };
    let started = inner.fresh(&spec).await;
    match started.map_err(|error: Error| error.to_string())? {
        Ok(mut tenant) => {
            tenant.keep(inner, entry);
            inner.give_back(entry, tenant);
            Ok(())
        }
        Err(failed) => Err(reason_of(&failed.outcome)),
    }
}

/// Why a start failed.
pub fn reason_of(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Failure {
            error_type,
            payload,
        } => format!("{error_type}: {}", error_message(payload)),
        Outcome::Success(_) => String::new(),
    }
}

/// Nobody waits for it, so that it has more time; and a program may ask why it was started.
fn provisioned(spec: &Spec, init_timeout: Duration) -> Spec {
    let mut spec = Spec {
        init_timeout,
        ..spec.clone()
    };
    spec.environment_reserved.push((
        INITIALIZATION_TYPE.to_owned(),
        "provisioned-concurrency".to_owned(),
    ));
    spec
}
