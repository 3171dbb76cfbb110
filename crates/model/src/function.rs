//! What several rooms need to know of functions: one invocation, and a function that SQL can call.

use std::fmt::Debug;

use arrow::{array::ArrayRef, datatypes::DataType};
use serde::{Deserialize, Serialize};

use crate::FunctionName;

/// One run of a function on one event.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// A UUID, AWS's `RequestId`.
    pub id: String,
    pub function: FunctionName,
    pub kind: InvocationKind,
    /// The event, JSON.
    pub payload: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvocationKind {
    /// The caller waits for the result.
    Sync,
    /// Queued, retried, then kept as a dead letter.
    Async,
    /// A batch of a stream's records.
    Stream,
}

/// How an invocation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The function's answer: JSON, or an Arrow IPC stream of one that was given such.
    Success(Vec<u8>),
    /// The function failed; the JSON error object has `errorType` and `errorMessage` as AWS Lambda's.
    Failure {
        error_type: String,
        payload: Vec<u8>,
    },
}

/// A function that a view or query calls on columns. It must be deterministic: it is called again
/// whenever history is recomputed, and the answers must be equal.
pub trait ScalarFunction: Debug + Send + Sync {
    /// The SQL name.
    fn name(&self) -> &str;
    /// Identifies the code: two functions with the same digest give the same answers.
    fn digest(&self) -> &str;
    fn arguments(&self) -> &[DataType];
    fn returns(&self) -> &DataType;
    /// Each column has `rows` values; so has the answer. The error is for the user to read.
    fn call(&self, columns: &[ArrayRef], rows: usize) -> Result<ArrayRef, String>;
}
