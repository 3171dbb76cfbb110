//! One invocation in an instance of its own: its deadline, its memory, its log, and what became of it.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use lambic_model::Outcome;
use tokio::time::error::Elapsed;
use wasmtime::{Engine, Store};

use super::{
    Limits,
    host::{Host, Outside, Stdio},
    reason,
};
use crate::{
    Execution, execution, failure,
    lines::{Lines, LogSource},
};

/// What one call of the guest may hand to its host: a little more than the largest answer.
pub const PASSED_BYTES_MAX: usize = 16 << 20;
/// Things of the host's that a guest may hold: streams, requests, headers.
const HANDLES_MAX: usize = 10_000;

/// What an invocation is given besides its event.
pub struct Call {
    pub request_id: String,
    pub environment: Vec<(String, String)>,
    pub limits: Limits,
    pub outside: Outside,
    pub lines: Arc<Mutex<Lines>>,
}

pub struct Run {
    call: Call,
    store: Store<Host>,
    start: Instant,
}

impl Run {
    /// `stdio`: of a command; all else writes to its log, and reads nothing.
    pub fn new(engine: &Engine, call: Call, stdio: Option<Stdio>) -> Run {
        let start = Instant::now();
        let host = Host::for_handler(
            &call.environment,
            call.lines.clone(),
            call.limits.memory_mb,
            stdio,
            call.outside.clone(),
        );
        let mut store = Store::new(engine, host);
        store.limiter(|host| &mut host.memory);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        store.set_hostcall_fuel(PASSED_BYTES_MAX);
        store.set_max_component_handles(HANDLES_MAX);
        Run { call, store, start }
    }

    pub fn request_id(&self) -> &str {
        &self.call.request_id
    }

    pub fn store(&mut self) -> &mut Store<Host> {
        &mut self.store
    }

    /// Does `work` until the deadline; whatever ends it early is a failure in AWS's shape.
    pub async fn within<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Store<Host>) -> wasmtime::Result<T>,
    ) -> Result<T, Outcome> {
        let timeout = self.call.limits.timeout;
        let worked = tokio::time::timeout(timeout, work(&mut self.store)).await;
        self.ended(worked)
    }

    /// What work was that was done until the deadline at most.
    pub fn ended<T>(&self, worked: Result<wasmtime::Result<T>, Elapsed>) -> Result<T, Outcome> {
        let Limits {
            timeout, memory_mb, ..
        } = self.call.limits;
        let request_id = self.request_id();
        match worked {
            Err(_) => Err(execution::timed_out(request_id, timeout)),
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) if self.store.data().memory.refused => {
                Err(execution::out_of_memory(request_id, memory_mb))
            }
            Ok(Err(error)) => Err(failure(
                "Runtime.Trap",
                &format!("RequestId: {request_id} Error: {}", reason(&error)),
            )),
        }
    }

    /// A line of the house's in the function's log.
    pub fn note(&self, line: &str) {
        let mut lines = self
            .call
            .lines
            .lock()
            .expect("no panic while lines are held");
        lines.push(LogSource::Platform, line.as_bytes());
        lines.push(LogSource::Platform, b"\n");
    }

    pub fn end(self, outcome: Outcome) -> Execution {
        let memory_peak_bytes = self.store.data().memory.peak as u64;
        drop(self.store);
        let mut lines = self
            .call
            .lines
            .lock()
            .expect("no panic while lines are held");
        Execution {
            outcome,
            duration: self.start.elapsed(),
            memory_peak_bytes,
            lines: lines.take(),
            reusable: true,
        }
    }
}
