//! The durable structure that holds the streams' newest records: one journal for all streams.

mod error;
mod log;
mod options;
mod snapshot;

pub use error::Error;
pub use log::Log;
pub use options::Options;
pub use snapshot::{Chunks, Snapshot};
