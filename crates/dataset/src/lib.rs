//! The master dataset: every record ever appended, as immutable Parquet files with a manifest.
//!
//! Sealing reads what the log holds above the dataset's frontier, writes it as Parquet files named by stream,
//! partition and offsets, and makes all of them part of the dataset at once by putting one numbered manifest
//! (compare-and-swap). A file that no manifest lists does not exist for readers.
//!
//! `ERASE` is the only way in which records go away: [`erasures`] records it and [`Dataset::rewrite_next`] carries it
//! out.
//!
//! The room does not know views or SQL. [`Reader`] gives a stream as a DataFusion table, files and log tail
//! together; other engines take the file list of a [`Manifest`].

mod change;
mod compact;
mod dataset;
mod erase;
pub mod erasures;
pub mod error;
mod expire;
mod fit;
pub mod local;
pub mod manifest;
mod moment;
pub mod mortal;
pub mod parquet_file;
pub mod reader;
mod rewrite;
mod seal;

pub use dataset::{Dataset, Options};
pub use erasures::ErasureLog;
pub use error::Error;
pub use expire::{Expiring, Keep};
pub use local::LocalStore;
pub use manifest::{DataFile, FileErased, Manifest, ManifestStore, manifest_number};
pub use mortal::Mortal;
pub use object_store::ObjectStore;
pub use reader::{Pin, Reader, StreamTable};
pub use seal::Tail;
