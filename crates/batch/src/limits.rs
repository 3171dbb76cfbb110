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
const SORTED_ROWS_MIN: usize = 64;
const SORTED_ROWS_MAX: usize = 8192;
/// A sort holds several batches at least, and rows may be large.
const SORTED_ROW_BYTES: usize = 8 << 10;
/// With less for each sort, fewer at one time do more.
const SORT_BYTES: u64 = 1 << 20;
/// DataFusion sorts the sides of a join only if it may do so on several threads.
const SORTING_PARTITIONS_MIN: usize = 2;

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

    /// On how many threads a join of so many sides is sorted, of those that there are.
    pub fn sorting_partitions(&self, sides: usize, threads: usize) -> usize {
        let each = 4 * sides as u64 * SORT_BYTES;
        let worth = usize::try_from(self.memory_bytes / 2 / each).unwrap_or(threads);
        worth.min(threads).max(SORTING_PARTITIONS_MIN)
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

/// How many rows a batch has, if a sort may hold so many bytes.
pub fn sorted_rows(sort_bytes: usize) -> usize {
    (sort_bytes / SORTED_ROW_BYTES).clamp(SORTED_ROWS_MIN, SORTED_ROWS_MAX)
}

fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
