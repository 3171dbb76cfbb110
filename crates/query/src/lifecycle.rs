//! What statements do to the layers, behind a trait: this room knows neither batch nor speed.

use std::sync::Arc;

use async_trait::async_trait;
use lambic_model::Stream;
use lambic_view::{Definition, ViewPlan};

use crate::Error;

/// What statements do to the layers; the binary wires it.
#[async_trait]
pub trait Lifecycle: Send + Sync {
    async fn add_stream(&self, stream: Arc<Stream>) -> Result<(), Error>;
    async fn remove_stream(&self, stream: Arc<Stream>) -> Result<(), Error>;
    /// Builds the view from history up to the head; it is not served yet.
    async fn build_view(
        &self,
        definition: &Definition,
        plan: Arc<ViewPlan>,
    ) -> Result<Box<dyn BuiltView>, Error>;
    async fn drop_view(&self, definition: &Definition) -> Result<(), Error>;
    /// Runs the view's batch now.
    async fn refresh_view(&self, name: &str) -> Result<(), Error>;
    /// Recomputes from scratch and compares with what is served.
    async fn audit_view(&self, name: &str) -> Result<AuditResult, Error>;
    /// The functions that trigger on or write to a stream; it cannot be dropped while there are any.
    fn functions_of(&self, stream: &str) -> Vec<String>;
}

/// A view that was built and waits to be served; the log keeps what it has yet to read.
///
/// Dropped unserved, it is as if it had never been built.
pub trait BuiltView: Send {
    /// Serves it, in place of a former version.
    fn serve(self: Box<Self>);
}

/// How an audit ended.
#[derive(Debug, Clone)]
pub struct AuditResult {
    pub view: String,
    pub agrees: bool,
    pub rows: u64,
    pub differences: u64,
    pub detail: String,
    pub frontier: String,
}
