//! What statements do to the layers, behind a trait: this room knows neither batch nor speed.

use std::sync::Arc;

use async_trait::async_trait;
use lambic_model::{Frontiers, ScalarFunction, Stream};
use lambic_view::{Definition, Planned};

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
        planned: Planned,
    ) -> Result<Box<dyn BuiltView>, Error>;
    /// Builds the view from what is kept of this former version; it is not served yet.
    async fn reopen_view(
        &self,
        definition: &Definition,
        planned: Planned,
    ) -> Result<Box<dyn BuiltView>, Error>;
    /// The code that a view was created with.
    fn functions_of_view(
        &self,
        definition: &Definition,
    ) -> Result<Vec<Arc<dyn ScalarFunction>>, Error>;
    async fn drop_view(&self, definition: &Definition) -> Result<(), Error>;
    /// Runs the view's batch now: over the records sealed since the last one, or `full`, over all.
    async fn refresh_view(&self, name: &str, full: bool) -> Result<(), Error>;
    /// Remembers up to where the rows of a view go that is recomputed and served as of its last batch.
    async fn keep_frontier(
        &self,
        definition: &Definition,
        frontier: &Frontiers,
    ) -> Result<(), Error>;
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
