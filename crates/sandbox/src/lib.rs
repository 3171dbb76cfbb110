//! One execution environment: a Wasm instance or a process, its limits and its deadline.
//!
//! Two kinds. [`wasm`] runs WASI components, each invocation in a fresh instance. [`process`] runs a program
//! that speaks AWS's Runtime API, one invocation at a time, kept warm in between. Both end at their deadline
//! whatever the function does, and give the same [`Execution`].
//!
//! This is the only room with `unsafe` code and the only one that knows wasmtime. It does not know what a
//! stream is, and does not decide what runs when: that is `functions`.

mod error;
mod execution;
mod files;
mod lines;
pub mod process;
pub mod wasm;

pub use error::Error;
pub use execution::{Execution, failure};
pub use lines::{LogLine, LogSource, Written};
