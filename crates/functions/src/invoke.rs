//! What an invocation gives back.

use lambic_model::Outcome;

use crate::{Error, FunctionInfo, FunctionVersion, Options};

/// What an event is written in, and its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    #[default]
    Json,
    /// Records: one Arrow IPC stream, for components that export `handle-batch`.
    Arrow,
}

/// What comes in.
#[derive(Debug, Clone, Default)]
pub struct Event {
    /// Of JSON, nothing counts as `{}`.
    pub payload: Vec<u8>,
    pub form: Form,
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
    /// The duration rounded up to whole milliseconds, and that of a restore.
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

    /// The answer, in the form of the event, or the error object, JSON.
    pub fn payload(&self) -> &[u8] {
        match &self.outcome {
            Outcome::Success(payload) | Outcome::Failure { payload, .. } => payload,
        }
    }
}

/// The event as it is run.
pub(crate) fn check_event(
    function: &FunctionInfo,
    payload: Vec<u8>,
    form: Form,
    options: &Options,
) -> Result<Vec<u8>, Error> {
    function.check_form(form)?;
    let limit = options.payload_bytes_max;
    match form {
        Form::Json => check_payload(payload, limit).map(String::into_bytes),
        Form::Arrow if payload.len() > limit => Err(Error::PayloadTooLarge {
            bytes: payload.len(),
            limit,
        }),
        Form::Arrow => Ok(payload),
    }
}

/// Without a form of its own it is JSON.
pub(crate) fn check_payload(payload: Vec<u8>, limit: usize) -> Result<String, Error> {
    if payload.len() > limit {
        return Err(Error::PayloadTooLarge {
            bytes: payload.len(),
            limit,
        });
    }
    if payload.is_empty() {
        return Ok("{}".to_owned());
    }
    let not_json = |error: &dyn std::fmt::Display| Error::PayloadNotJson {
        reason: error.to_string(),
    };
    // First, because text that nobody looks at is not checked to be UTF-8.
    let text = String::from_utf8(payload).map_err(|error| not_json(&error))?;
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(not_json(&error)),
    }
}
