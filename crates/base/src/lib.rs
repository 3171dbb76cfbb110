//! What every room needs of the machine below it: time, chance, the disk, durable small files, the lock on the data
//! folder.
//!
//! Nothing here knows records or streams. Time, chance and the disk are handed in as values or traits, so that a
//! simulation can own them.

pub mod bytes;
pub mod clock;
pub mod disk;
pub mod eager;
pub mod file;
pub mod lock;
pub mod parallel;
pub mod rate;
pub mod retry;
pub mod spot;
pub mod supervise;

pub use clock::{Clock, ManualClock, SystemClock};
pub use disk::{Disk, DiskFile, RealDisk};
pub use eager::Eager;
pub use lock::DirLock;
pub use retry::Backoff;
pub use supervise::supervised;
