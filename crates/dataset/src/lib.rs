//! The master dataset: every record ever appended, as immutable Parquet files with a manifest.
//!
//! Sealing reads what the log holds above the dataset's frontier, writes it as Parquet files named by stream,
//! partition and offsets, and makes all of them part of the dataset at once by putting one numbered manifest
//! (compare-and-swap). A file that no manifest lists does not exist for readers.
//!
//! The room does not know views, SQL or DataFusion: readers take the file list of a [`Manifest`] and read the
//! files with the engine of their choice, together with the log's tail from the manifest's frontier on.

mod dataset;
pub mod error;
pub mod local;
pub mod manifest;
pub mod parquet_file;
mod seal;

pub use dataset::{Dataset, Options};
pub use error::Error;
pub use local::LocalStore;
pub use manifest::{DataFile, Manifest, ManifestStore};
pub use seal::Tail;
