//! One environment from its start to its end.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    process::ExitStatus,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lambic_base::{Clock, SystemClock};
use lambic_model::Outcome;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::{
    Invocation, Launch, Network, Spec, Zygote,
    capture::Capture,
    cgroup::{Controller, Group, Share},
    child::Child,
    egress::Egress,
    endpoint::{About, Endpoint, Event, Said, StreamSink},
    exited::exited,
    layout::Layout,
    members::{self, Members},
    network,
    place::{self, Kind},
    telemetry::{self, Telemetry},
    tree::{Alone, Process},
    variables::{self, Facts},
};
use crate::{Error, Execution, LogLine, execution, failure, lines::Lines};

/// How often memory and processes are counted: while an invocation runs, and at the ends of those that follow each other.
const WATCH: Duration = Duration::from_millis(20);
/// AWS's, for extensions.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(2);
/// AWS's, for a runtime.
const TERMINATE_TIME_MAX: Duration = Duration::from_millis(300);
/// The kernel takes a killed namespace down in milliseconds, one of a thousand processes in a few hundred, if others leave
/// it the processors.
const KILL_TIME: Duration = Duration::from_millis(500);
const KILL_TIME_MAX: Duration = Duration::from_secs(2);
/// Processes of one environment, the first included.
const PROCESSES_MAX: usize = 64;

pub struct Environment {
    pub(super) spec: Arc<Spec>,
    pub(super) child: Child,
    /// The program itself; `child` may be a parent in between.
    pub(super) process: Process,
    /// What stands still below it until the next event.
    pub(super) stopped: Vec<Process>,
    /// Known of the process if nothing was below it when it stood still.
    pub(super) alone: Option<Alone>,
    pub(super) endpoint: Endpoint,
    /// Until it is known where the function may connect to.
    pub(super) way_out: Option<TcpListener>,
    pub(super) egress: Option<Egress>,
    pub(super) captures: Vec<Capture>,
    pub(super) telemetry: Arc<Telemetry>,
    /// The start was reported with an invocation.
    pub(super) is_init_told: bool,
    pub(super) lines: Arc<Mutex<Lines>>,
    pub(super) init: Duration,
    pub(super) kind: Kind,
    /// Of the processors, when others want them too.
    pub(super) share: Share,
    /// The most memory that it was seen to use, bytes.
    pub(super) memory_seen: AtomicU64,
    /// When memory was counted last, with what the process itself had at most until then.
    pub(super) counted: Option<(Instant, u64)>,
    pub(super) has_ended: bool,
    /// Ends after the process, before the folder.
    pub(super) group: Option<Group>,
    pub(super) dir: TempDir,
}

/// An environment that did not come up.
#[derive(Debug)]
pub struct FailedStart {
    pub outcome: Outcome,
    pub lines: Vec<LogLine>,
    pub init: Duration,
    /// The most that it held; 0 if there was no process.
    pub memory_peak_bytes: u64,
}

impl Environment {
    /// Starts the process and waits until it asks for its first event. The inner error is the function's own.
    pub async fn start(spec: Arc<Spec>) -> Result<Result<Environment, FailedStart>, Error> {
        let start = Instant::now();
        match Environment::begin(spec, Kind::Whole).await? {
            Ok(environment) => Ok(environment.ready(start).await),
            Err(failed) => Ok(Err(failed)),
        }
    }

    /// As [`Environment::start`], from a Python that runs already. If the machine does not let it, the function gets an
    /// environment from the beginning.
    pub async fn start_from(
        zygote: &Arc<Zygote>,
        spec: Arc<Spec>,
    ) -> Result<Result<Environment, FailedStart>, Error> {
        let start = Instant::now();
        match Environment::split(zygote, spec.clone()).await {
            Ok(environment) => Ok(environment.ready(start).await),
            Err(error) => {
                tracing::warn!(%error, "an environment could not be split off");
                Environment::start(spec).await
            }
        }
    }

    /// Waits until it asks for its first event, with all that its function may have from then on.
    pub(super) async fn ready(mut self, start: Instant) -> Result<Environment, FailedStart> {
        if self.spec.isolation.own_network
            && self.spec.network != Network::None
            && let Some(listener) = self.way_out.take()
        {
            self.egress = Some(Egress::start(listener, self.spec.network.clone()));
        }
        self.way_out = None;
        let outcome = match self.next_word("init", self.spec.init_timeout).await {
            Word::Said(Said::Ready) => {
                self.init = start.elapsed();
                self.tell_init_report().await;
                match self.stand_still("init", true).await {
                    Ok(()) => match self.slow_down() {
                        Ok(()) => return Ok(self),
                        Err(outcome) => outcome,
                    },
                    Err(outcome) => outcome,
                }
            }
            Word::Said(Said::InitError(error)) => error.outcome("Runtime.InitError"),
            Word::Said(Said::ExtensionError(error)) => error.outcome("Extension.InitError"),
            Word::Said(_) => failure("Runtime.Unknown", "the runtime broke the protocol"),
            Word::Failed(outcome) => outcome,
        };
        // Its own figures go with it.
        let memory_peak_bytes = self.memory_peak(true);
        self.tell_init_failed(&outcome).await;
        self.kill().await;
        Err(FailedStart {
            outcome,
            lines: self.take_lines(),
            init: start.elapsed(),
            memory_peak_bytes,
        })
    }

    /// Processors in proportion to memory from here on: as in AWS, the start has what it can get.
    fn slow_down(&self) -> Result<(), Outcome> {
        let Some(group) = &self.group else {
            return Ok(());
        };
        group
            .set(Controller::Cpu, place::bounds(&self.spec))
            .map_err(|error| failure("Runtime.Unknown", &format!("its control group: {error}")))
    }

    /// Where it cannot be set, it has what it had: that is no reason to fail.
    fn share_as(&mut self, share: Share) {
        if self.share == share {
            return;
        }
        if let Some(group) = &self.group {
            let _ = group.set_share(place::bounds(&self.spec), share);
        }
        self.share = share;
    }

    /// True if its interpreter ran already when it was wanted.
    pub fn had_interpreter(&self) -> bool {
        self.kind != Kind::Whole
    }

    /// How long the start took.
    pub fn init(&self) -> Duration {
        self.init
    }

    /// False if the process ended on its own while nobody looked.
    pub fn is_alive(&mut self) -> bool {
        if !self.has_ended && !matches!(self.child.try_wait(), Ok(None)) {
            self.set_ended();
        }
        !self.has_ended
    }

    /// Where the environment lives; gone when it ends.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What was said since the last time it was asked; an [`Execution`] has what was said until its end.
    pub fn lines(&self) -> Vec<LogLine> {
        self.take_lines()
    }

    pub async fn invoke(&mut self, invocation: Invocation) -> Execution {
        self.run(invocation, None).await
    }

    /// As [`Environment::invoke`], but a response that the function streams goes into `stream` as it comes, and the
    /// outcome of that is empty. A function that does not stream puts nothing there.
    pub async fn invoke_streamed(
        &mut self,
        invocation: Invocation,
        stream: StreamSink,
    ) -> Execution {
        self.run(invocation, Some(stream)).await
    }

    async fn run(&mut self, invocation: Invocation, stream: Option<StreamSink>) -> Execution {
        let start = Instant::now();
        let (request_id, timeout) = (invocation.request_id.clone(), invocation.timeout);
        let request_id = request_id.as_str();
        let trace_id = invocation.trace_id.clone();
        let version = &self.spec.qualifier;
        self.telemetry
            .tell(|| telemetry::Event::start(request_id, version, &trace_id));
        self.share_as(Share::Fresh);
        self.endpoint.set_event(Event {
            stream,
            deadline_ms: SystemClock.now_us() / 1_000 + timeout.as_millis() as i64,
            invocation: Invocation {
                function_arn: Some(invocation.function_arn)
                    .filter(|arn| !arn.is_empty())
                    .unwrap_or_else(|| self.spec.function_arn.clone()),
                ..invocation
            },
        });
        self.go_on();
        let (outcome, answered) = match self.next_word(request_id, timeout).await {
            Word::Said(Said::Response(answer)) => (answer_of(&answer), true),
            Word::Said(Said::Raw(answer)) => (Outcome::Success(answer.to_vec()), true),
            Word::Said(Said::Streamed) => (Outcome::Success(Vec::new()), true),
            Word::Said(Said::Error(error)) => (error.outcome("Runtime.Error"), true),
            Word::Said(Said::TooLarge) => (execution::response_too_large(), true),
            // It is in the middle of its response: what it does with the next event is not known.
            Word::Said(Said::StreamTooLarge { bytes_max }) => {
                (execution::too_large(bytes_max), false)
            }
            Word::Said(Said::ExtensionError(error)) => {
                (error.outcome("Extension.ExitError"), false)
            }
            Word::Said(
                Said::Spare
                | Said::Ready
                | Said::InitError(_)
                | Said::Restored
                | Said::RestoreError(_),
            ) => (
                failure("Runtime.Unknown", "the runtime broke the protocol"),
                false,
            ),
            Word::Failed(outcome) => (outcome, false),
        };
        self.endpoint.forget_event();
        let duration = start.elapsed();
        // While it ran it was counted as often.
        let is_due = !answered
            || self
                .counted
                .is_none_or(|(counted_at, _)| counted_at.elapsed() >= WATCH);
        let memory_peak_bytes = self.memory_peak(is_due);
        let told = self.tell_done(request_id, &trace_id, &outcome, duration);
        // An answer that was given stands, whatever is found in the environment afterwards. Extensions may finish
        // what they do with the event, as long as the function might have taken.
        let left = timeout.saturating_sub(duration);
        let reusable =
            answered && !self.endpoint.is_ending() && self.extensions_idle_within(left).await;
        self.tell_report(request_id, &trace_id, told, duration, memory_peak_bytes)
            .await;
        let reusable = reusable && self.stand_still(request_id, is_due).await.is_ok();
        if !reusable {
            self.kill().await;
        }
        Execution {
            outcome,
            duration,
            memory_peak_bytes,
            lines: self.take_lines(),
            reusable,
        }
    }

    /// What they do with the event after its answer runs long, too.
    async fn extensions_idle_within(&mut self, time: Duration) -> bool {
        let soon = time.min(WATCH);
        if tokio::time::timeout(soon, self.endpoint.extensions_idle())
            .await
            .is_ok()
        {
            return true;
        }
        self.share_as(Share::Long);
        tokio::time::timeout(time - soon, self.endpoint.extensions_idle())
            .await
            .is_ok()
    }

    /// Ends it in peace: extensions that want to know have a moment to say the rest, and the runtime is asked to end.
    /// Then it is killed.
    pub async fn end(&mut self) {
        let deadline_ms = SystemClock.now_us() / 1_000 + SHUTDOWN_TIME_MAX.as_millis() as i64;
        if self.is_alive() && self.endpoint.tell_shutdown("spindown", deadline_ms) {
            self.share_as(Share::Long);
            self.go_on();
            self.telemetry.hurry();
            let start = Instant::now();
            while start.elapsed() < SHUTDOWN_TIME_MAX
                && self.is_alive()
                && self.process.below().iter().any(Process::is_running)
            {
                tokio::time::sleep(WATCH).await;
            }
            // Last, because everything else ends with it.
            self.process.terminate();
            if tokio::time::timeout(TERMINATE_TIME_MAX, self.child.wait())
                .await
                .is_ok()
            {
                self.set_ended();
            }
        }
        self.kill().await;
    }

    pub(super) fn go_on(&mut self) {
        self.telemetry.set_running(true);
        if let Some(alone) = &mut self.alone {
            alone.let_go();
        }
        for process in self.stopped.drain(..) {
            process.go_on();
        }
        self.process.go_on();
    }

    /// Kills the process and everything that it started, and waits until it is gone.
    pub async fn kill(&mut self) {
        if self.has_ended {
            return;
        }
        if let Some(members) = self.tell_to_end() {
            // Waited for below.
            tokio::task::spawn_blocking(move || members.kill());
        }
        // The parent in between ends by itself when its namespace is empty: then nothing is left that could hold a
        // mount or a group.
        let mut has_ended = self.ends_within(KILL_TIME).await;
        if !has_ended {
            if let Some(group) = &self.group {
                group.hasten();
            }
            has_ended = self.ends_within(KILL_TIME_MAX).await;
        }
        if !has_ended {
            let _ = self.child.start_kill();
            let _ = self.child.wait().await;
        }
        self.has_ended = true;
        self.process.forget_number();
    }

    /// Kills the first process, and with it all; those that are many are to be killed besides.
    fn tell_to_end(&self) -> Option<Members> {
        if let Some(group) = &self.group {
            group.lift();
        }
        self.process.kill_all();
        let group = self.group.as_ref()?;
        if group.tasks()? <= members::FEW {
            return None;
        }
        group.give_way();
        self.members()
    }

    async fn ends_within(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.child.wait()).await.is_ok()
    }

    /// The child was waited for.
    fn set_ended(&mut self) {
        self.has_ended = true;
        self.process.forget_number();
        // Only what a pidfd still holds.
        self.process.kill_all();
    }

    /// Stops everything until the next event, so that the limits hold in between; the error says which of them does
    /// not hold. `is_counted`: memory as well, which has a cost.
    pub(super) async fn stand_still(
        &mut self,
        request_id: &str,
        is_counted: bool,
    ) -> Result<(), Outcome> {
        self.telemetry.set_running(false);
        let process = &self.process;
        if !self.alone.as_mut().is_some_and(|alone| alone.stop(process)) {
            self.stopped = process.stop_all(PROCESSES_MAX).await.map_err(|reason| {
                failure(
                    "Runtime.ExitError",
                    &format!(
                        "RequestId: {request_id} Error: Runtime does not stand still: {reason}"
                    ),
                )
            })?;
            // Others may be about to start a program when they have answered: to them it would fail.
            let can_be_alone =
                self.stopped.is_empty() && matches!(self.spec.launch, Launch::Python(_));
            let group = self.group.as_ref().filter(|_| can_be_alone);
            self.alone = group.and_then(|group| Alone::of(process, group.open_tasks()?));
        }
        match is_counted {
            true => self
                .over_limit(self.stopped.len(), &self.stopped, request_id)
                .map_or(Ok(()), Err),
            false => Ok(()),
        }
    }

    /// The most memory that was held, bytes: of the process as it is now, or as it was when that was looked at last, and
    /// of all together as they were seen.
    pub(super) fn memory_peak(&mut self, is_due: bool) -> u64 {
        if is_due || self.counted.is_none() {
            match self.process.memory_bytes("VmHWM") {
                0 => self.count_dead(),
                bytes => self.counted = Some((Instant::now(), bytes)),
            }
        }
        let counted = self.counted.map_or(0, |(_, bytes)| bytes);
        let seen = self.memory_seen.load(Ordering::Relaxed);
        memory_peak(counted, seen, self.spec.memory_mb)
    }

    /// What the environment says next, or how it failed to.
    pub(super) async fn next_word(&mut self, request_id: &str, timeout: Duration) -> Word {
        let deadline = tokio::time::sleep(timeout);
        tokio::pin!(deadline);
        let mut watch = tokio::time::interval_at(tokio::time::Instant::now() + WATCH, WATCH);
        watch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                said = self.endpoint.said() => return Word::Said(said),
                () = &mut deadline => {
                    return Word::Failed(execution::timed_out(request_id, timeout));
                }
                status = self.child.wait() => {
                    self.set_ended();
                    return Word::Failed(self.exited(request_id, status));
                }
                _ = watch.tick() => {
                    self.share_as(Share::Long);
                    let (count, below) = self.to_count();
                    if let Some(outcome) = self.over_limit(count, &below, request_id) {
                        return Word::Failed(outcome);
                    }
                }
            }
        }
    }

    /// How many processes are below it, and those themselves where the kernel does not count for us: looking at each
    /// process and thread costs us, and what attacks has many.
    fn to_count(&self) -> (usize, Vec<Process>) {
        match self.counted_by_group() {
            Some(count) => (count, Vec::new()),
            None => {
                let below = self.process.below_at_most(PROCESSES_MAX);
                (below.len(), below)
            }
        }
    }

    /// `None` where the group does not count both memory and tasks.
    fn counted_by_group(&self) -> Option<usize> {
        let group = self.group.as_ref()?;
        if !group.has(Controller::Memory) {
            return None;
        }
        match group.tasks()? {
            // It does not matter how many threads are among them.
            few if few < PROCESSES_MAX => Some(few.saturating_sub(1)),
            _ => {
                let mut all = self.members()?.processes().ok()?;
                all.retain(|pid| *pid != self.process.pid());
                Some(all.len())
            }
        }
    }

    fn members(&self) -> Option<Members> {
        let except = self.child.id().unwrap_or_default();
        self.group.as_ref()?.members(except)
    }

    /// The limits that hold for all processes of an environment together.
    fn over_limit(&self, count: usize, below: &[Process], request_id: &str) -> Option<Outcome> {
        if count >= PROCESSES_MAX {
            return Some(failure(
                "Runtime.TooManyProcesses",
                &format!("RequestId: {request_id} Error: More than {PROCESSES_MAX} processes"),
            ));
        }
        let counted = self.group.as_ref().and_then(Group::memory_bytes);
        let used = counted.unwrap_or_else(|| {
            let all = below.iter().chain([&self.process]);
            all.map(|process| process.memory_bytes("VmRSS")).sum()
        });
        self.memory_seen.fetch_max(used, Ordering::Relaxed);
        (used > u64::from(self.spec.memory_mb) << 20 || self.out_of_memory_kills() > 0)
            .then(|| execution::out_of_memory(request_id, self.spec.memory_mb))
    }

    /// Of a process that is gone its group knows the most that all of it held at one time.
    fn count_dead(&self) {
        if let Some(bytes) = self.group.as_ref().and_then(Group::memory_peak_bytes) {
            self.memory_seen.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    fn out_of_memory_kills(&self) -> u64 {
        self.group.as_ref().map_or(0, Group::out_of_memory_kills)
    }

    fn exited(&self, request_id: &str, status: std::io::Result<ExitStatus>) -> Outcome {
        if self.out_of_memory_kills() > 0 {
            return execution::out_of_memory(request_id, self.spec.memory_mb);
        }
        exited(request_id, status)
    }

    pub(super) fn take_lines(&self) -> Vec<LogLine> {
        for capture in &self.captures {
            capture.drain();
        }
        self.lines
            .lock()
            .expect("no panic while lines are held")
            .take()
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // The child itself is killed and reaped by `kill_on_drop`.
        if !self.has_ended
            && let Some(members) = self.tell_to_end()
        {
            // Whoever drops it does not wait for that; without a thread the first process ends them in time.
            let thread = std::thread::Builder::new().name("lambic-members".to_owned());
            let _ = thread.spawn(move || members.kill());
        }
    }
}

pub(super) enum Word {
    Said(Said),
    Failed(Outcome),
}

pub(super) fn about(spec: &Spec) -> About {
    About {
        function: spec.function.clone(),
        qualifier: spec.qualifier.clone(),
        handler: spec.handler.clone(),
        is_restored: spec.is_restored(),
    }
}

/// What its program finds in its environment.
pub(super) fn variables_of(
    spec: &Spec,
    layout: &Layout,
    program: &Path,
    runtime_api: SocketAddr,
) -> BTreeMap<String, String> {
    let has_egress = spec.isolation.own_network && spec.network != Network::None;
    let facts = Facts {
        layout,
        program,
        runtime_api: &runtime_api.to_string(),
        egress: has_egress.then_some(network::EGRESS),
        log_stream: &variables::log_stream(
            SystemClock.now_us(),
            &spec.qualifier,
            uuid::Uuid::new_v4().as_u128(),
        ),
    };
    variables::variables(spec, &facts)
}

fn answer_of(answer: &[u8]) -> Outcome {
    if answer.is_empty() {
        return Outcome::Success(b"null".to_vec());
    }
    // As text, because bytes that nobody looks at are not checked to be UTF-8.
    let problem = match std::str::from_utf8(answer) {
        Ok(text) => serde_json::from_str::<serde::de::IgnoredAny>(text)
            .err()
            .map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    match problem {
        None => Outcome::Success(answer.to_vec()),
        Some(problem) => failure(
            "Runtime.MarshalError",
            &format!("the answer is not JSON: {problem}"),
        ),
    }
}

/// What REPORT tells of memory: the most that was seen, of the process itself (`counted`) and of all together (`seen`), and
/// no more than the function may have. That is passed before anybody looks, and files count in some of the figures.
fn memory_peak(counted: u64, seen: u64, memory_mb: u32) -> u64 {
    counted.max(seen).min(u64::from(memory_mb) << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_that_is_told_is_the_most_that_was_seen_and_may_be() {
        const MB: u64 = 1 << 20;
        for (counted, seen, told) in [
            (40, 9, 40),
            // Others hold it.
            (9, 100, 100),
            // More than it may have.
            (150, 131, 128),
            (0, 0, 0),
        ] {
            assert_eq!(memory_peak(counted * MB, seen * MB, 128), told * MB);
        }
    }

    #[test]
    fn an_answer_is_json_in_utf_8() {
        for (answer, is_success) in [
            (&b""[..], true),
            ("{\"a\": \"ä\"}".as_bytes(), true),
            (b"{\"a\": \"\xff\"}", false),
            (b"{", false),
        ] {
            let outcome = answer_of(answer);
            assert_eq!(
                matches!(outcome, Outcome::Success(_)),
                is_success,
                "{outcome:?}"
            );
        }
    }
}
