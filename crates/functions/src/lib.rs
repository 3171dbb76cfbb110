//! Functions: registry, scheduler, pool, queue of events, triggers of streams.
//!
//! The way of an event is `registry → scheduler → pool → sandbox`, then back to the caller, to the output
//! stream or to the dead letters. This room does not know SQL, HTTP or what a view is.

mod deployment;
mod error;
mod invoke;
mod options;
mod streams;

use std::sync::Arc;

pub use deployment::{Code, Deployment, FunctionInfo, Runtime, Start, Trigger};
pub use error::Error;
pub use invoke::InvokeResult;
use lambic_model::{Frontiers, FunctionName, ScalarFunction};
pub use options::{Options, StreamLookup};
pub use streams::{SystemStreams, system_streams};

/// The service; clones share it.
#[derive(Clone)]
pub struct Functions(Arc<Inner>);

struct Inner {
    _options: Options,
}

impl Functions {
    pub async fn open(options: Options) -> Result<Functions, Error> {
        Ok(Functions(Arc::new(Inner { _options: options })))
    }
    pub async fn deploy(&self, _deployment: Deployment) -> Result<FunctionInfo, Error> {
        Err(Error::Closed)
    }
    pub async fn remove(&self, _name: &FunctionName) -> Result<(), Error> {
        Err(Error::Closed)
    }
    pub fn list(&self) -> Vec<FunctionInfo> {
        Vec::new()
    }
    pub fn get(&self, _name: &str) -> Option<FunctionInfo> {
        None
    }
    pub async fn invoke(
        &self,
        _name: &FunctionName,
        _payload: Vec<u8>,
    ) -> Result<InvokeResult, Error> {
        Err(Error::Closed)
    }
    pub async fn invoke_async(
        &self,
        _name: &FunctionName,
        _payload: Vec<u8>,
    ) -> Result<String, Error> {
        Err(Error::Closed)
    }
    /// By SQL name, or by the digest of any code that was ever deployed and not removed.
    pub fn scalar(&self, _name_or_digest: &str) -> Option<Arc<dyn ScalarFunction>> {
        None
    }
    pub fn scalars(&self) -> Vec<Arc<dyn ScalarFunction>> {
        Vec::new()
    }
    /// What the log must keep: the earliest position that a trigger or the queue has still to read.
    pub fn cursors(&self) -> Frontiers {
        Frontiers::default()
    }
    /// Waits until everything recorded so far is in the system streams.
    pub async fn flush(&self) {}
    /// Stops triggers and the queue, ends all environments, flushes.
    pub async fn close(&self) {}
}
