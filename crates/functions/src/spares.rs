//! Interpreters that run already, for whichever function needs one next: most of a cold start is theirs.
//!
//! Spare environments wait, and each becomes one function's. Those of Python are split off a zygote, and so are the
//! function's environments themselves when no spare one is left; the first function that needs the zygote waits for it.
//! None is started before an interpreter is used, and all are given up when nobody used it for a while, so that a server on
//! which nothing happens has no processes. One that was taken is replaced a moment later, when nothing else is starting,
//! one at a time; after a burst that found too few, at once and as many at a time as there are processors, and some more
//! are kept ready for the next one.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lambic_base::retry::Backoff;
use lambic_sandbox::{
    Error,
    process::{Environment, FailedStart, Isolation, Launch, Spare, Spec, Zygote},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

use crate::{Inner, Options};

/// So long a burst is remembered.
const BURST_TIME: Duration = Duration::from_secs(10);
/// Spares beyond the usual ones after a burst, for each processor.
const BURST_SPARES: usize = 8;
/// How often it is looked whether something else starts.
const STARTS_WAIT: Duration = Duration::from_millis(10);
/// Before one that was taken is replaced: what took it has its first event to answer, which is worth more now.
const REPLACED_AFTER: Duration = Duration::from_millis(50);
/// Before one is tried again that did not come up.
const FAILED_WAIT: Duration = Duration::from_secs(1);
const FAILED_WAIT_MAX: Duration = Duration::from_secs(600);
/// So long a function waits for a zygote that starts; then it starts its own interpreter.
const ZYGOTE_WAIT: Duration = Duration::from_secs(2);
/// The line in which spares stand for a processor: the name of no function.
const LINE: &str = " spares";

pub struct Spares {
    /// Few: one for each interpreter that functions use.
    kinds: Mutex<Vec<Kind>>,
    wanted: usize,
    processors: usize,
    idle: Duration,
    codes: PathBuf,
    changed: Notify,
    /// Counts what came up, and what did not.
    arrivals: watch::Sender<u64>,
    taken: AtomicU64,
    missed: AtomicU64,
}

/// What an environment can be made of.
pub enum Ready {
    Spare(Box<Spare>),
    Zygote(Arc<Zygote>),
}

impl Ready {
    /// The function's environment, when it asks for its first event. The inner error is the function's own.
    pub async fn start(self, spec: Arc<Spec>) -> Result<Result<Environment, FailedStart>, Error> {
        match self {
            Ready::Spare(spare) => spare.take(spec).await,
            Ready::Zygote(zygote) => Environment::start_from(&zygote, spec).await,
        }
    }
}

/// Those of one interpreter.
struct Kind {
    launch: Launch,
    isolation: Isolation,
    zygote: Root,
    ready: Vec<Spare>,
    starting: usize,
    used_at: Instant,
    /// When one was looked for and none was there, of late.
    missed: VecDeque<Instant>,
    failed_waits: Backoff,
    /// Not before; `None`: at any time.
    try_at: Option<Instant>,
}

/// What spares are split off from.
enum Root {
    /// Each starts by itself.
    Never,
    None,
    Starting,
    Ready(Arc<Zygote>),
}

/// What is to be started, and how long that can wait.
struct Start {
    what: What,
    after: Duration,
}

enum What {
    Zygote(Launch, Isolation),
    Spare(Launch, Isolation),
    Split(Arc<Zygote>),
}

/// What came up.
enum Started {
    Zygote(Arc<Zygote>),
    Spare(Box<Spare>),
}

impl Kind {
    fn new(spec: &Spec) -> Kind {
        Kind {
            launch: spec.launch.clone(),
            isolation: spec.isolation.clone(),
            zygote: match Zygote::can_be(&spec.launch, &spec.isolation) {
                true => Root::None,
                false => Root::Never,
            },
            ready: Vec::new(),
            starting: 0,
            used_at: Instant::now(),
            missed: VecDeque::new(),
            failed_waits: Backoff::new(FAILED_WAIT, FAILED_WAIT_MAX, 0),
            try_at: None,
        }
    }

    fn is_of(&self, spec: &Spec) -> bool {
        self.launch == spec.launch && self.isolation == spec.isolation
    }

    fn facts(&mut self, wanted: usize, processors: usize, now: Instant) -> Facts {
        while let Some(first) = self.missed.front()
            && now.saturating_duration_since(*first) >= BURST_TIME
        {
            self.missed.pop_front();
        }
        Facts {
            wanted: match Spare::can_be(&self.launch, &self.isolation) {
                true => wanted,
                false => 0,
            },
            processors,
            ready: self.ready.len(),
            starting: self.starting,
            missed: self.missed.len(),
        }
    }

    fn lacks(&mut self, wanted: usize, processors: usize, now: Instant) -> usize {
        let facts = self.facts(wanted, processors, now);
        if self.try_at.is_some_and(|at| now < at) {
            return 0;
        }
        match self.living() {
            Root::None => usize::from(wanted > 0),
            Root::Starting => 0,
            Root::Never | Root::Ready(_) => facts.to_start(),
        }
    }

    /// What spares come from, if it is still there.
    fn living(&mut self) -> &Root {
        if let Root::Ready(zygote) = &self.zygote
            && !zygote.is_alive()
        {
            self.zygote = Root::None;
            // They ended with it; nothing is left to wait for.
            self.ready.clear();
        }
        &self.zygote
    }

    /// What is to be started now; it counts as starting.
    fn start(&mut self, wanted: usize, processors: usize, now: Instant) -> Vec<Start> {
        let lacks = self.lacks(wanted, processors, now);
        let (launch, isolation) = (self.launch.clone(), self.isolation.clone());
        if lacks > 0 && matches!(self.zygote, Root::None) {
            self.zygote = Root::Starting;
            return vec![Start {
                what: What::Zygote(launch, isolation),
                after: Duration::ZERO,
            }];
        }
        self.starting += lacks;
        let after = self.facts(wanted, processors, now).replaced_after();
        let one = || Start {
            what: match &self.zygote {
                Root::Ready(zygote) => What::Split(zygote.clone()),
                _ => What::Spare(launch.clone(), isolation.clone()),
            },
            after,
        };
        std::iter::repeat_with(one).take(lacks).collect()
    }

    fn is_starting(&self) -> bool {
        self.starting > 0 || matches!(self.zygote, Root::Starting)
    }

    fn ready(&self) -> usize {
        self.ready.len() + usize::from(matches!(self.zygote, Root::Ready(_)))
    }
}

/// What is known of the spares of one interpreter.
struct Facts {
    wanted: usize,
    processors: usize,
    ready: usize,
    starting: usize,
    missed: usize,
}

impl Facts {
    /// Beyond the usual ones, after a burst.
    fn more(&self) -> usize {
        // The first one that was missed is no burst: there were none yet.
        let most = BURST_SPARES * self.processors;
        self.missed.saturating_sub(1).min(most)
    }

    /// How many to start now, beside those that are starting.
    fn to_start(&self) -> usize {
        if self.wanted == 0 {
            return 0;
        }
        let at_once = if self.more() > 0 { self.processors } else { 1 };
        let lacks = (self.wanted + self.more()).saturating_sub(self.ready + self.starting);
        lacks.min(at_once.saturating_sub(self.starting))
    }

    /// At once in a burst: the next ones wait for them.
    fn replaced_after(&self) -> Duration {
        match self.more() {
            0 => REPLACED_AFTER,
            _ => Duration::ZERO,
        }
    }

    fn surplus(&self) -> usize {
        self.ready.saturating_sub(self.wanted + self.more())
    }
}

/// What there is of spares, and was since the start.
pub struct Known {
    pub ready: usize,
    pub taken: u64,
    pub missed: u64,
}

impl Spares {
    pub fn new(options: &Options, codes: PathBuf) -> Spares {
        Spares {
            kinds: Mutex::default(),
            wanted: options.spares,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            idle: options.idle,
            codes,
            changed: Notify::new(),
            arrivals: watch::Sender::new(0),
            taken: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        }
    }

    fn kinds(&self) -> MutexGuard<'_, Vec<Kind>> {
        self.kinds.lock().expect("no panic while it is held")
    }

    pub fn counts(&self) -> Known {
        Known {
            ready: self.kinds().iter().map(Kind::ready).sum(),
            taken: self.taken.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
        }
    }

    /// Whether a function can do with one.
    fn are_for(&self, spec: &Spec) -> bool {
        self.wanted > 0 && Spare::may_become(spec)
    }

    /// One for a function that starts.
    pub async fn take(&self, spec: &Spec) -> Option<Ready> {
        if !self.are_for(spec) {
            return None;
        }
        let mut ready = self.spare(spec).map(|spare| Ready::Spare(Box::new(spare)));
        if ready.is_none() && Zygote::can_be(&spec.launch, &spec.isolation) {
            let zygote = tokio::time::timeout(ZYGOTE_WAIT, self.zygote(spec)).await;
            ready = zygote.ok().flatten().map(Ready::Zygote);
        }
        let count = if ready.is_some() {
            &self.taken
        } else {
            &self.missed
        };
        count.fetch_add(1, Ordering::Relaxed);
        ready
    }

    /// Waits until there is one, unless none comes up.
    async fn zygote(&self, spec: &Spec) -> Option<Arc<Zygote>> {
        let mut arrivals = self.arrivals.subscribe();
        loop {
            {
                let mut kinds = self.kinds();
                let kind = of(&mut kinds, spec);
                if let Root::Ready(zygote) = kind.living() {
                    return Some(zygote.clone());
                }
                kind.used_at = Instant::now();
                if kind.try_at.is_some_and(|at| Instant::now() < at) {
                    return None;
                }
            }
            self.changed.notify_one();
            arrivals.changed().await.ok()?;
        }
    }

    fn spare(&self, spec: &Spec) -> Option<Spare> {
        // Those that ended meanwhile are dropped without the lock.
        let mut dead = Vec::new();
        let mut kinds = self.kinds();
        let mut spare = None;
        if let Some(kind) = kinds.iter_mut().find(|kind| kind.is_of(spec)) {
            while spare.is_none()
                && let Some(mut ready) = kind.ready.pop()
            {
                match ready.is_alive() {
                    true => spare = Some(ready),
                    false => dead.push(ready),
                }
            }
            if spare.is_none() {
                // More than this make no difference.
                if kind.missed.len() > BURST_SPARES * self.processors {
                    kind.missed.pop_front();
                }
                kind.missed.push_back(Instant::now());
            }
        }
        drop(kinds);
        spare
    }

    /// A function ran on it, so others are likely to.
    pub fn used(&self, spec: &Spec) {
        if !self.are_for(spec) {
            return;
        }
        let now = Instant::now();
        let mut kinds = self.kinds();
        let kind = of(&mut kinds, spec);
        kind.used_at = now;
        if kind.lacks(self.wanted, self.processors, now) > 0 {
            self.changed.notify_one();
        }
    }

    /// Those of interpreters that nobody used for a while, and what is left of a burst.
    fn take_unneeded(&self, now: Instant) -> Vec<Unneeded> {
        let mut kinds = self.kinds();
        let is_unused = |kind: &mut Kind| {
            !kind.is_starting() && now.saturating_duration_since(kind.used_at) >= self.idle
        };
        let unused = kinds.extract_if(.., is_unused);
        let mut unneeded: Vec<Unneeded> = unused.map(Unneeded::Kind).collect();
        for kind in kinds.iter_mut() {
            let surplus = kind.facts(self.wanted, self.processors, now).surplus();
            unneeded.extend(kind.ready.drain(..surplus).map(Unneeded::Spare));
        }
        unneeded
    }

    fn take_all(&self) -> Vec<Unneeded> {
        let kinds = std::mem::take(&mut *self.kinds());
        kinds.into_iter().map(Unneeded::Kind).collect()
    }

    /// What is to be started now; each counts as starting.
    fn to_start(&self, now: Instant) -> Vec<Start> {
        let mut kinds = self.kinds();
        let starts = kinds
            .iter_mut()
            .map(|kind| kind.start(self.wanted, self.processors, now));
        starts.flatten().collect()
    }

    /// What came of a start; `None`: it did not come up.
    fn put(&self, starting: &Starting, started: Option<Started>) {
        let mut kinds = self.kinds();
        let mut kinds = kinds.iter_mut();
        let kind = kinds
            .find(|kind| kind.launch == starting.launch && kind.isolation == starting.isolation);
        let Some(kind) = kind else { return };
        match starting.is_zygote {
            true => kind.zygote = Root::None,
            false => kind.starting -= 1,
        }
        if started.is_some() {
            kind.failed_waits.reset();
            kind.try_at = None;
        }
        match started {
            Some(Started::Zygote(zygote)) => kind.zygote = Root::Ready(zygote),
            Some(Started::Spare(spare)) => kind.ready.push(*spare),
            None if !starting.was_tried => {}
            None => {
                let wait = kind.failed_waits.next().unwrap_or(FAILED_WAIT_MAX);
                kind.try_at = Some(Instant::now() + wait);
            }
        }
        self.arrivals.send_modify(|count| *count += 1);
    }
}

/// What is dropped where that may take a moment.
#[expect(dead_code, reason = "it is only dropped")]
enum Unneeded {
    Kind(Kind),
    Spare(Spare),
}

/// Those that a function could have; new ones if there are none yet.
fn of<'a>(kinds: &'a mut Vec<Kind>, spec: &Spec) -> &'a mut Kind {
    let at = kinds.iter().position(|kind| kind.is_of(spec));
    let at = at.unwrap_or_else(|| {
        kinds.push(Kind::new(spec));
        kinds.len() - 1
    });
    &mut kinds[at]
}

/// Keeps spares ready, until the service stops.
pub async fn keep(inner: Arc<Inner>) {
    let spares = &inner.spares;
    let mut stop = inner.stop.subscribe();
    let mut looks = tokio::time::interval((spares.idle / 4).max(Duration::from_millis(10)));
    let mut starts = JoinSet::new();
    loop {
        tokio::select! {
            _ = stop.wait_for(|&stopped| stopped) => break,
            () = spares.changed.notified() => {}
            _ = looks.tick() => {}
            Some(_) = starts.join_next() => {}
        }
        let now = Instant::now();
        end_quietly(spares.take_unneeded(now)).await;
        for one in spares.to_start(now) {
            starts.spawn(start(inner.clone(), one));
        }
    }
    starts.shutdown().await;
    end_quietly(spares.take_all()).await;
}

async fn start(inner: Arc<Inner>, Start { what, after }: Start) {
    let (launch, isolation) = match &what {
        What::Zygote(launch, isolation) | What::Spare(launch, isolation) => {
            (launch.clone(), isolation.clone())
        }
        What::Split(zygote) => (zygote.launch().clone(), zygote.isolation().clone()),
    };
    // Counts as starting until the end, however that comes.
    let mut starting = Starting {
        inner,
        launch,
        isolation,
        is_zygote: matches!(what, What::Zygote(..)),
        was_tried: false,
        started: None,
    };
    tokio::time::sleep(after).await;
    if let What::Split(zygote) = &what
        && !zygote.is_alive()
    {
        let inner = starting.inner.clone();
        drop(starting);
        // For another zygote.
        inner.spares.changed.notify_one();
        return;
    }
    starting.was_tried = true;
    let started = starting.run(what).await;
    starting.started = started.unwrap_or_else(|error| {
        tracing::warn!(%error, "a spare interpreter did not start");
        None
    });
    let inner = starting.inner.clone();
    let is_zygote = starting.is_zygote;
    drop(starting);
    if is_zygote {
        // Now others can be split off.
        inner.spares.changed.notify_one();
    }
}

struct Starting {
    inner: Arc<Inner>,
    launch: Launch,
    isolation: Isolation,
    is_zygote: bool,
    /// False as long as nothing can have failed.
    was_tried: bool,
    started: Option<Started>,
}

impl Starting {
    /// A zygote at once, because functions wait for it; spares when nobody waits for something else that starts.
    async fn run(&self, what: What) -> Result<Option<Started>, Error> {
        let codes = &self.inner.spares.codes;
        let machine = &self.inner.machine;
        let _processor = match &what {
            What::Zygote(..) => None,
            What::Spare(..) | What::Split(_) => {
                while machine.starts.waiting() > 0 {
                    tokio::time::sleep(STARTS_WAIT).await;
                }
                Some(machine.starts.next(LINE, 1).await)
            }
        };
        let spare = match what {
            What::Zygote(launch, isolation) => {
                let zygote = Zygote::start(launch, isolation, codes).await?;
                return Ok(zygote.map(Started::Zygote));
            }
            What::Spare(launch, isolation) => Spare::start(launch, isolation, codes).await?,
            What::Split(zygote) => Spare::split(&zygote, codes).await?,
        };
        Ok(spare.map(|spare| Started::Spare(Box::new(spare))))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let started = self.started.take();
        self.inner.spares.put(self, started);
    }
}

/// Their processes are killed when they are dropped, and their folders removed, which takes a moment.
async fn end_quietly(spares: Vec<Unneeded>) {
    if !spares.is_empty() {
        let _ = tokio::task::spawn_blocking(move || drop(spares)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spares_come_one_after_the_other_and_faster_after_a_burst() {
        // Wanted, ready, starting, missed, and how many are started.
        for (wanted, ready, starting, missed, started) in [
            (0, 0, 0, 9, 0),
            (2, 0, 0, 0, 1),
            (2, 0, 0, 1, 1),
            (2, 0, 1, 0, 0),
            (2, 1, 0, 0, 1),
            (2, 2, 0, 0, 0),
            (2, 0, 0, 2, 3),
            (2, 0, 3, 98, 1),
            (2, 5, 0, 4, 0),
            (2, 33, 0, 98, 1),
            (2, 34, 0, 98, 0),
        ] {
            let facts = Facts {
                wanted,
                processors: 4,
                ready,
                starting,
                missed,
            };
            let found = facts.to_start();
            assert_eq!(found, started, "{wanted} {ready} {starting} {missed}");
            let is_at_once = facts.replaced_after().is_zero();
            assert_eq!(is_at_once, missed > 1, "{missed}");
        }
    }

    #[test]
    fn what_is_left_of_a_burst_is_given_up() {
        for (ready, missed, surplus) in [(2, 0, 0), (10, 0, 8), (10, 9, 0), (12, 9, 2), (0, 9, 0)] {
            let facts = Facts {
                wanted: 2,
                processors: 4,
                ready,
                starting: 0,
                missed,
            };
            assert_eq!(facts.surplus(), surplus, "{ready} {missed}");
        }
    }
}
