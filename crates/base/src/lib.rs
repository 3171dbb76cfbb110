//! What every room needs of the machine below it: time, chance, durable small files, the lock on the data folder.
//!
//! Nothing here knows records or streams. Time and chance are handed in as values or traits, so that a
//! simulation can own them.

pub mod clock;
pub mod file;
pub mod lock;
pub mod retry;

pub use clock::{Clock, ManualClock, SystemClock};
pub use lock::DirLock;
pub use retry::Backoff;
