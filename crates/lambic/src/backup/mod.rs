//! Backups: everything that a data folder holds, at one frontier, in a folder or an object store.
//!
//! ```text
//! <target>/lambic-backup.json          says that this is a target of backups, and in which format
//! <target>/files/<2 digits>/<sha-256>  content, by its hash: what several backups have is there once
//! <target>/backups/<id>.json           one backup: every file with path, size and hash; put last
//! <target>/in-progress/<id>.json       who is writing or removing right now
//! ```
//!
//! A backup is there when its manifest is; what a killed one left is used by the next or removed with the next backup
//! that is deleted. A running server is first linked into a folder of its own, at one moment (`snapshot`); from then on
//! it and a stopped server's folder are the same to what copies them.

mod contents;
mod error;
mod manifest;
mod place;
mod progress;
mod remove;
mod restore;
mod snapshot;
mod target;
mod verify;
mod work;
mod write;

pub use contents::Contents;
pub use error::Error;
pub use manifest::Manifest;
pub use progress::Progress;
pub use remove::remove;
pub use restore::{restore, unfinished};
pub use snapshot::Snapshots;
pub use target::Target;
pub use verify::verify;
pub use write::write;

use sha2::{Digest, Sha256};

fn hex(digest: impl AsRef<[u8]>) -> String {
    let bytes = digest.as_ref().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}
