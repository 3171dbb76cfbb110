//! The environments of a version of a function: those that wait for the next event, and how others come to be.
//!
//! An invocation takes the environment that was used last. If there is none it gets a new one as soon as the machine
//! has memory for it ([`crate::admission`]), or one that becomes free before. A new one comes from an interpreter that
//! runs already ([`crate::spares`]) or starts from the beginning.

use std::{
    collections::VecDeque,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lambic_model::InvocationKind;
use lambic_sandbox::process::{Environment, FailedStart, Spec};
use tokio::{sync::oneshot, task::JoinSet};
use tracing::{Instrument, info_span};

use crate::{
    Error, Inner,
    admission::{Count, Counted},
    entry::{Call, Entry},
    fair::{Next, Share},
    provisioned::Provisioning,
};

/// A start has its processor for so long; then it is likely to wait for something else.
const START_TIME: Duration = Duration::from_millis(500);
/// How often those who wait look again, although they are told.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Pool {
    state: Mutex<State>,
    /// Environments that are kept whether they are used or not: how many there shall be, and are.
    pub wanted: AtomicUsize,
    pub kept: Count,
    pub provisioning: Provisioning,
    /// Of environments that wait to be restored ([`crate::snap_start`]).
    pub snap_start: Provisioning,
}

#[derive(Default)]
struct State {
    /// First those that wait to be restored; the one used last is the last.
    idle: Vec<Idle>,
    /// When an event asked for one last.
    used_at: Option<Instant>,
    /// Invocations that take the next one.
    waiting: VecDeque<oneshot::Sender<Tenant>>,
}

struct Idle {
    tenant: Tenant,
    since: Instant,
}

impl State {
    /// Nobody waits while one is idle: those who come find that somebody waits and stand behind them, and nobody would take
    /// it.
    fn serve(&mut self) {
        while let Some(waiting) = self.waiting.pop_front() {
            let Some(Idle { tenant, since }) = self.idle.pop() else {
                self.waiting.push_front(waiting);
                return;
            };
            if let Err(tenant) = waiting.send(tenant) {
                self.idle.push(Idle { tenant, since });
            }
        }
    }
}

/// An environment with what it takes of the machine.
pub struct Tenant {
    environment: Environment,
    memory: Share,
    _alive: Counted,
    /// Of the pool, and of the machine, if it is kept whether it is used or not.
    kept: Option<(Counted, Counted)>,
    /// No event has used it yet, and before the first one it is to be restored.
    unrestored: bool,
}

impl Deref for Tenant {
    type Target = Environment;

    fn deref(&self) -> &Environment {
        &self.environment
    }
}

impl DerefMut for Tenant {
    fn deref_mut(&mut self) -> &mut Environment {
        &mut self.environment
    }
}

impl Tenant {
    pub fn keep(&mut self, inner: &Inner, entry: &Entry) {
        let kept_mb = inner.machine.kept_mb.add(self.memory.amount());
        self.kept = Some((entry.pool.kept.add(1), kept_mb));
    }

    /// True once, if it is to be restored.
    pub fn take_unrestored(&mut self) -> bool {
        std::mem::take(&mut self.unrestored)
    }
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while it is held")
    }

    /// For the invocation that waits longest, or else for the next one.
    pub fn put(&self, tenant: Tenant) {
        let mut state = self.state();
        // What runs already goes before, and what nobody used yet goes first when there is no room.
        let at = match tenant.unrestored {
            true => 0,
            false => state.idle.len(),
        };
        let since = Instant::now();
        state.idle.insert(at, Idle { tenant, since });
        state.serve();
    }

    /// Whether an event asked for one within this time.
    pub fn is_used(&self, within: Duration) -> bool {
        let used_at = self.state().used_at;
        used_at.is_some_and(|at| at.elapsed() < within)
    }

    /// How many wait to be restored.
    pub fn unrestored(&self) -> usize {
        let state = self.state();
        let first = state.idle.iter();
        first.take_while(|idle| idle.tenant.unrestored).count()
    }

    /// One that can be used at once, unless somebody waits for it.
    fn warm(&self) -> Option<Tenant> {
        loop {
            let mut state = self.state();
            state.used_at = Some(Instant::now());
            if !state.waiting.is_empty() {
                return None;
            }
            // The one used last is the likeliest to be in memory.
            let mut tenant = state.idle.pop()?.tenant;
            drop(state);
            if tenant.is_alive() {
                return Some(tenant);
            }
        }
    }

    /// Of the one that is ended first, of those that may be ended: whether an event has used it, and since when it is idle.
    fn oldest(&self) -> Option<(bool, Instant)> {
        let state = self.state();
        let mut idle = state.idle.iter();
        let oldest = idle.find(|idle| idle.tenant.kept.is_none())?;
        Some((!oldest.tenant.unrestored, oldest.since))
    }

    fn take_oldest(&self) -> Option<Tenant> {
        let mut state = self.state();
        let at = state
            .idle
            .iter()
            .position(|idle| idle.tenant.kept.is_none())?;
        Some(state.idle.remove(at).tenant)
    }

    fn take(&self, is_taken: impl Fn(&Idle) -> bool) -> Vec<Tenant> {
        let mut state = self.state();
        let taken = state.idle.extract_if(.., |idle| is_taken(idle));
        taken.map(|idle| idle.tenant).collect()
    }

    /// Ends environments that nobody used for `idle`, in peace; those that nobody used at all, when none was used.
    pub async fn reap(&self, idle: Duration) {
        let is_used = self.is_used(idle);
        let is_old = |one: &Idle| match one.tenant.unrestored {
            true => !is_used,
            false => one.tenant.kept.is_none() && one.since.elapsed() >= idle,
        };
        end_all(self.take(is_old)).await;
    }

    pub async fn end(&self) {
        end_all(self.take(|_| true)).await;
    }

    /// Those of the kept ones, and of those that wait to be restored, that ended on their own.
    pub fn forget_dead(&self) {
        let mut state = self.state();
        let is_dead = |idle: &mut Idle| {
            let tenant = &mut idle.tenant;
            (tenant.kept.is_some() || tenant.unrestored) && !tenant.environment.is_alive()
        };
        let dead: Vec<Idle> = state.idle.extract_if(.., is_dead).collect();
        drop(state);
        drop(dead);
    }

    /// Kept ones that are more than there shall be, and idle.
    pub fn take_surplus(&self) -> Vec<Tenant> {
        let wanted = self.wanted.load(Ordering::Relaxed) as u64;
        let surplus = self.kept.now().saturating_sub(wanted) as usize;
        let mut state = self.state();
        let taken = state
            .idle
            .extract_if(.., |idle| idle.tenant.kept.is_some())
            .take(surplus);
        taken.map(|idle| idle.tenant).collect()
    }

    fn line_up(&self) -> oneshot::Receiver<Tenant> {
        let (give, given) = oneshot::channel();
        let mut state = self.state();
        state.waiting.retain(|waiting| !waiting.is_closed());
        state.waiting.push_back(give);
        // One may have been given back since it was looked for.
        state.serve();
        given
    }

    /// Gives it to the invocation that waits longest; back comes what nobody waits for.
    fn hand_over(&self, mut tenant: Tenant) -> Option<Tenant> {
        loop {
            let Some(waiting) = self.state().waiting.pop_front() else {
                return Some(tenant);
            };
            tenant = waiting.send(tenant).err()?;
        }
    }
}

/// Ends environments that nobody uses, until the service stops.
pub async fn reap(inner: Arc<Inner>) {
    let mut stop = inner.stop.subscribe();
    let idle = inner.options.idle;
    let mut turns = tokio::time::interval((idle / 4).max(Duration::from_millis(10)));
    loop {
        tokio::select! {
            _ = stop.wait_for(|&stopped| stopped) => return,
            _ = turns.tick() => {}
        }
        for entry in inner.entries() {
            entry.pool.reap(idle).await;
        }
    }
}

pub async fn end_all(tenants: Vec<Tenant>) {
    let mut ends = JoinSet::new();
    for mut tenant in tenants {
        ends.spawn(async move { tenant.end().await });
    }
    ends.join_all().await;
}

/// What an invocation waited for.
enum Room {
    Warm(Box<Tenant>),
    New(Part),
}

/// What a new environment has of the machine: memory, and a processor to start on.
pub struct Part {
    memory: Share,
    processor: Share,
}

/// The receiving end of [`Pool::hand_over`]: what comes too late is not lost.
struct InLine<'a> {
    inner: &'a Inner,
    entry: &'a Entry,
    given: oneshot::Receiver<Tenant>,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.given.close();
        if let Ok(tenant) = self.given.try_recv() {
            self.inner.give_back(self.entry, tenant);
        }
    }
}

impl Inner {
    /// An environment for one invocation, and how long its start took if it is a new one. The inner error is the
    /// function's own.
    pub(crate) async fn environment(
        &self,
        entry: &Entry,
        spec: &Arc<Spec>,
        call: Call<'_>,
    ) -> Result<Result<(Tenant, Option<Duration>), FailedStart>, Error> {
        let found = match entry.pool.warm() {
            Some(tenant) => Ok((tenant, None)),
            None => {
                let room = self.room(entry, spec);
                match self.within_bounds(entry, call, room).await? {
                    Room::Warm(tenant) => Ok((*tenant, None)),
                    Room::New(part) => self.start(spec, part).await?.map(|tenant| {
                        let init = tenant.init();
                        (tenant, Some(init))
                    }),
                }
            }
        };
        // Only now, so that what is started for later does not compete with what is waited for.
        self.spares.used(spec);
        if spec.is_restored() {
            self.snap_start_used.notify_one();
        }
        Ok(found)
    }

    /// The right to run a component; callers wait for it as for an environment.
    pub(crate) async fn component(&self, entry: &Entry, call: Call<'_>) -> Result<Share, Error> {
        let (name, components) = (entry.info.name.as_str(), &self.machine.components);
        if let Some(share) = components.now(name, 1) {
            return Ok(share);
        }
        let share = async { Ok(components.next(name, 1).await) };
        self.within_bounds(entry, call, share).await
    }

    /// Callers wait in bounded number and time; the queue and triggers, which have bounds of their own, as long as it
    /// takes.
    pub(crate) async fn within_bounds<T>(
        &self,
        entry: &Entry,
        call: Call<'_>,
        room: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if call.kind != InvocationKind::Sync {
            return room.await;
        }
        let waiting = entry.wait();
        if waiting.is_over() {
            return Err(entry.full());
        }
        // Together with what it waited for its turn.
        let until = call.arrived + entry.timeout();
        tokio::time::timeout_at(until.into(), room)
            .await
            .unwrap_or_else(|_| Err(entry.full()))
    }

    /// Room for a new environment, or one that was given back before there was any.
    async fn room(&self, entry: &Entry, spec: &Spec) -> Result<Room, Error> {
        let mut warm = InLine {
            inner: self,
            entry,
            given: entry.pool.line_up(),
        };
        let part = async {
            loop {
                match self.part(spec, Some(entry)).await {
                    // Its own that are kept take all that there is, and one of them will be free.
                    Err(Error::TooMuchMemory { .. }) if entry.pool.kept.now() > 0 => {
                        tokio::time::sleep(LOOK_AGAIN).await;
                    }
                    part => return part,
                }
            }
        };
        tokio::select! {
            biased;
            Ok(tenant) = &mut warm.given => Ok(Room::Warm(Box::new(tenant))),
            part = part => part.map(Room::New),
        }
    }

    /// Waits until the machine has room for an environment, and the function may have one more.
    async fn part(&self, spec: &Spec, entry: Option<&Entry>) -> Result<Part, Error> {
        let (name, machine) = (spec.function.as_str(), &self.machine);
        machine.check(name, spec.memory_mb)?;
        let mut place = machine.memory.line_up(name, u64::from(spec.memory_mb));
        let memory = loop {
            self.make_room();
            tokio::select! {
                biased;
                memory = place.given() => break memory,
                () = tokio::time::sleep(LOOK_AGAIN) => machine.check(name, spec.memory_mb)?,
            }
        };
        while let Some(Err(wait)) = entry.map(Entry::start_turn) {
            tokio::time::sleep(wait).await;
        }
        let processor = machine.starts.next(name, 1).await;
        Ok(Part { memory, processor })
    }

    /// An environment that no invocation waits for.
    pub(crate) async fn fresh(
        &self,
        spec: &Arc<Spec>,
    ) -> Result<Result<Tenant, FailedStart>, Error> {
        let part = self.part(spec, None).await?;
        let started = self.start(spec, part).await?;
        self.spares.used(spec);
        Ok(started)
    }

    /// The same, if there is room that nobody waits for; else `None`.
    pub(crate) async fn fresh_now(
        &self,
        spec: &Arc<Spec>,
    ) -> Result<Option<Result<Tenant, FailedStart>>, Error> {
        let (name, machine) = (spec.function.as_str(), &self.machine);
        let Some(memory) = machine.memory.now(name, u64::from(spec.memory_mb)) else {
            return Ok(None);
        };
        let Some(processor) = machine.starts.now(name, 1) else {
            return Ok(None);
        };
        let started = self.start(spec, Part { memory, processor }).await?;
        self.spares.used(spec);
        Ok(Some(started))
    }

    /// The inner error is the function's own.
    async fn start(
        &self,
        spec: &Arc<Spec>,
        part: Part,
    ) -> Result<Result<Tenant, FailedStart>, Error> {
        let Part { memory, processor } = part;
        let start = async {
            match self.spares.take(spec).await {
                Some(ready) => ready.start(spec.clone()).await,
                None => Environment::start(spec.clone()).await,
            }
        }
        .instrument(info_span!("init"));
        let mut start = std::pin::pin!(start);
        let started = match tokio::time::timeout(START_TIME, &mut start).await {
            Ok(started) => started,
            Err(_) => {
                drop(processor);
                start.await
            }
        };
        Ok(started?.map(|environment| Tenant {
            environment,
            memory,
            _alive: self.machine.alive.add(1),
            kept: None,
            unrestored: spec.is_restored(),
        }))
    }

    /// An environment that can be used again.
    pub(crate) fn give_back(&self, entry: &Entry, mut tenant: Tenant) {
        let pool = &entry.pool;
        if pool.kept.now() > pool.wanted.load(Ordering::Relaxed) as u64 {
            tenant.kept = None;
        }
        let (name, memory) = (entry.info.name.as_str(), &self.machine.memory);
        let amount = tenant.memory.amount();
        let passes_on = tenant.kept.is_none()
            && memory
                .whose_turn()
                .is_some_and(|next| passes_on(&next, name, memory.held(name), amount));
        if !passes_on {
            match pool.hand_over(tenant) {
                Some(back) => tenant = back,
                None => return memory.set_last(name),
            }
        }
        // Everything else that could be ended for those who wait has been.
        match self.machine.lacking_mb() > 0 && tenant.kept.is_none() {
            true => self.end_for_room(tenant),
            false => pool.put(tenant),
        }
    }

    /// Ends environments that nobody uses as long as somebody lacks memory: first those that wait to be restored, then the
    /// least recently used.
    fn make_room(&self) {
        while self.machine.lacking_mb() > 0 {
            let oldest = {
                let slots = self.slots.read().expect("held shortly");
                let entries = slots.entries();
                let idle = entries.filter_map(|entry| Some((entry.pool.oldest()?, entry)));
                let oldest = idle.min_by_key(|(order, _)| *order);
                oldest.map(|(_, entry)| entry.clone())
            };
            let Some(entry) = oldest else { return };
            if let Some(tenant) = entry.pool.take_oldest() {
                self.end_for_room(tenant);
            }
        }
    }

    fn end_for_room(&self, mut tenant: Tenant) {
        let leaving = self.machine.leaving_mb.add(tenant.memory.amount());
        tokio::spawn(async move {
            tenant.end().await;
            drop(tenant);
            drop(leaving);
        });
    }
}

/// Whether the function `name`, which has `held`, must give an environment of `amount` to whoever is next, rather than to
/// an event of its own. Not if that would have more than is left: both would start environments for ever.
fn passes_on(next: &Next, name: &str, held: u64, amount: u64) -> bool {
    &*next.line != name
        && (next.held == 0 || next.held + next.amount <= held.saturating_sub(amount))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_to_those_who_have_less() {
        let next = |line: &str, held| Next {
            line: line.into(),
            amount: 1,
            held,
        };
        for (line, theirs, ours, passes) in [
            ("other", 0, 1, true),
            ("other", 0, 9, true),
            ("other", 3, 9, true),
            ("other", 8, 10, true),
            ("other", 9, 10, false),
            ("other", 10, 9, false),
            ("ours", 9, 9, false),
        ] {
            let found = passes_on(&next(line, theirs), "ours", ours, 1);
            assert_eq!(found, passes, "{line} {theirs} {ours}");
        }
    }
}
