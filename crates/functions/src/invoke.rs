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
    /// The last 4 KB of what was logged, as AWS's `LogType=Tail` gives it; nothing of what ran on an HTTP request.
    pub log_tail: String,
}

impl InvokeResult {
    pub fn is_success(&self) -> bool {
        matches!(self.outcome, Outcome::Success(_))
    }

    /// The answer, or the error object.
    pub fn payload(&self) -> &[u8] {
        match &self.outcome {
            Outcome::Success(payload) | Outcome::Failure { payload, .. } => payload,
        }
    }
}
