//! The durable structure that holds the streams' newest records: one journal for all streams.
//!
//! Because all streams share one journal, one `fdatasync` commits many appends, and one append to several
//! streams, its producer's sequence and its cursors become durable together or not at all.
//!
//! ```text
//! <dir>/00000000000000000001.segment   header, checkpoint frame, append frames (`frame`, `payload`)
//! <dir>/acknowledged                   how far appends were acknowledged (`mark`)
//! <dir>/ids/                           index of record ids, rebuilt from the segments (`ids`)
//! ```
//!
//! The way of an append: [`prepare`] checks, partitions and encodes it in the caller's task; [`writer`]
//! takes all that wait, lets [`stage`] decide offsets and repetitions, writes, syncs once, publishes the new
//! [`Snapshot`] and only then acknowledges. [`recover`] reads it all back.
//!
//! The log does not know SQL, Parquet or views, keeps no history (what is sealed is trimmed) and takes no
//! lock on its folder: the binary does.

mod cache;
mod cut;
mod error;
mod frame;
mod ids;
mod inspect;
mod keys;
mod log;
mod mark;
mod options;
mod payload;
mod prepare;
mod producers;
mod recover;
mod segment;
mod snapshot;
mod stage;
mod state;
mod value;
mod writer;

#[cfg(test)]
mod tests;

pub use cut::{Cut, RECORD_IDS, restore_record_ids};
pub use error::Error;
pub use inspect::{Inspected, inspect, inspect_ids};
pub use keys::{KeyStore, KeyStoreError, KeyStores, Keys};
pub use log::{AppendsHeld, Log};
pub use options::Options;
pub use snapshot::{Chunks, Snapshot};
pub use value::hashes as key_hashes;
