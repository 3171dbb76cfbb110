//! What a batch may take of the machine.

/// How many runs are merged at one time; more are made fewer first.
pub const FAN_IN: usize = 16;
/// What is kept in one piece on disk and read back as one: so large that reading is not all seeking.
const CHUNK_BYTES_MIN: u64 = 1 << 10;
const CHUNK_BYTES_MAX: u64 = 16 << 20;
const FILE_BYTES_MIN: u64 = 256 << 10;
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Row work and partial aggregation need that much whatever the budget says.
const WORKING_BYTES_MIN: u64 = 4 << 20;
/// Rows of a batch between the steps of a plan: DataFusion's own number, where there is memory for it.
const BATCH_ROWS_MIN: u64 = 256;
const BATCH_ROWS_MAX: u64 = 8192;
/// For each row that is on its way: several batches of each side are, and rows may be large.
const ROW_BYTES: u64 = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// About how much a batch holds while it computes; what is more goes to disk.
    pub memory_bytes: u64,
    /// What a batch may have on disk until it is published.
    pub disk_bytes: u64,
    /// What the states of one view may take where they are served, which is in memory.
    pub view_bytes: u64,
    /// A batch over many more records than these is computed in slices; those that are finished survive a kill.
    pub slice_records: u64,
    /// What batches read and write in a second, all together.
    pub io_bytes_per_s: Option<u64>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory_bytes: 4 << 30,
            disk_bytes: u64::MAX,
            view_bytes: u64::MAX,
            slice_records: 10_000_000,
            io_bytes_per_s: None,
        }
    }
}

impl Limits {
    /// For tables of keys that hand on what they have when they are full.
    pub fn working_bytes(&self) -> usize {
        bytes((self.memory_bytes / 2).max(WORKING_BYTES_MIN))
    }

    pub fn batch_rows(&self) -> usize {
        let rows = self.memory_bytes / ROW_BYTES;
        bytes(rows.clamp(BATCH_ROWS_MIN, BATCH_ROWS_MAX))
    }

    /// For states that wait to be merged with others.
    pub fn pending_bytes(&self) -> usize {
        bytes(self.memory_bytes / 4)
    }

    /// For tables of all keys, and for runs that are merged in memory.
    pub fn held_bytes(&self) -> usize {
        bytes(self.memory_bytes / 2)
    }

    /// One piece of each run that is merged is held, and once more as its states are made.
    pub fn chunk_bytes(&self) -> usize {
        let each = self.memory_bytes / (4 * FAN_IN as u64);
        bytes(each.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX))
    }

    pub fn file_bytes(&self) -> usize {
        bytes((self.memory_bytes / 8).clamp(FILE_BYTES_MIN, FILE_BYTES_MAX))
    }
}

fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
