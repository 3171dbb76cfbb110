//! What one invocation did.

use std::time::Duration;

use lambic_model::Outcome;
use serde_json::json;

use crate::LogLine;

/// AWS's, of one answer.
pub(crate) const RESPONSE_BYTES_MAX: usize = 6_291_556;

#[derive(Debug)]
pub struct Execution {
    pub outcome: Outcome,
    pub duration: Duration,
    pub memory_peak_bytes: u64,
    pub lines: Vec<LogLine>,
    /// False if the environment must not be used again.
    pub reusable: bool,
}

impl Execution {
    /// Of an invocation whose code did not run.
    pub(crate) fn unstarted(outcome: Outcome) -> Execution {
        Execution {
            outcome,
            duration: Duration::ZERO,
            memory_peak_bytes: 0,
            lines: Vec::new(),
            reusable: true,
        }
    }
}

/// A failure in AWS's shape.
pub fn failure(error_type: &str, message: &str) -> Outcome {
    Outcome::Failure {
        error_type: error_type.to_owned(),
        payload: json!({ "errorType": error_type, "errorMessage": message })
            .to_string()
            .into_bytes(),
    }
}

pub(crate) fn timed_out(request_id: &str, timeout: Duration) -> Outcome {
    failure(
        "Sandbox.Timedout",
        &format!(
            "RequestId: {request_id} Error: Task timed out after {:.2} seconds",
            timeout.as_secs_f64()
        ),
    )
}

pub(crate) fn out_of_memory(request_id: &str, memory_mb: u32) -> Outcome {
    failure(
        "Runtime.OutOfMemory",
        &format!("RequestId: {request_id} Error: Memory limit of {memory_mb} MB exceeded"),
    )
}

pub(crate) fn response_too_large() -> Outcome {
    too_large(RESPONSE_BYTES_MAX)
}

/// In AWS's words.
pub(crate) fn too_large(bytes_max: usize) -> Outcome {
    failure(
        "Function.ResponseSizeTooLarge",
        &format!(
            "Response payload size exceeded maximum allowed payload size ({bytes_max} bytes)."
        ),
    )
}

/// An error object that the function itself gave: its `errorType` is kept.
pub(crate) fn reported(payload: Vec<u8>, error_type_default: &str) -> Outcome {
    let error_type = serde_json::from_slice::<serde_json::Value>(&payload)
        .ok()
        .and_then(|error| error.get("errorType")?.as_str().map(str::to_owned));
    match error_type {
        Some(error_type) => Outcome::Failure {
            error_type,
            payload,
        },
        None => failure(error_type_default, &String::from_utf8_lossy(&payload)),
    }
}
