//! What an invocation gives back.

use lambic_model::Outcome;

use crate::FunctionVersion;

/// What comes in.
#[derive(Debug, Clone, Default)]
pub struct Event {
    /// JSON; nothing counts as `{}`.
    pub payload: Vec<u8>,
    /// JSON about the calling client, of AWS's mobile SDKs.
    pub client_context: Option<String>,
    /// AWS's `X-Amzn-Trace-Id`.
    pub trace_id: Option<String>,
}

#[derive(Debug, Clone)]
pub struct InvokeResult {
    pub request_id: String,
    pub outcome: Outcome,
    /// That ran.
    pub version: FunctionVersion,
    pub digest: String,
    pub duration_ms: f64,
    /// The duration rounded up to whole milliseconds.
    pub billed_ms: u64,
    /// How long the start took, if this invocation had to wait for one.
    pub init_ms: Option<f64>,
    /// What it took beside the start and the function: waiting for a turn, and what is done before and after.
    pub overhead_ms: f64,
    pub memory_peak_mb: u64,
    pub cold: bool,
    /// The last 4 KB of what was logged, as AWS's `LogType=Tail` gives it.
    pub log_tail: String,
}

/// The error type of an invocation that did not run because the code is not on disk any more as it was deployed.
pub const CODE_BROKEN: &str = "Runtime.Broken";
/// The same, because the machine has lost the interpreter.
pub const RUNTIME_GONE: &str = "Runtime.Gone";

impl InvokeResult {
    pub fn is_success(&self) -> bool {
        matches!(self.outcome, Outcome::Success(_))
    }

    /// What the failure is called, if it is one.
    pub fn error_type(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Success(_) => None,
            Outcome::Failure { error_type, .. } => Some(error_type),
        }
    }

    /// The answer, or the error object.
    pub fn payload(&self) -> &[u8] {
        match &self.outcome {
            Outcome::Success(payload) | Outcome::Failure { payload, .. } => payload,
        }
    }
}
