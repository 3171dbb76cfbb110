//! Decoded batches of recent frames, bounded by bytes; the oldest leaves first.

use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
};

use arrow::record_batch::RecordBatch;

/// Segment sequence, position of the frame, position of the piece in it.
pub(crate) type Key = (u64, u64, u32);

#[derive(Debug)]
pub(crate) struct Cache {
    bytes_max: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    batches: HashMap<Key, (RecordBatch, usize)>,
    order: VecDeque<Key>,
    bytes: usize,
}

impl Cache {
    pub(crate) fn new(bytes_max: u64) -> Cache {
        Cache {
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            held: Mutex::default(),
        }
    }

    pub(crate) fn get(&self, key: Key) -> Option<RecordBatch> {
        let held = self.held.lock().expect("no panic while the cache is held");
        held.batches.get(&key).map(|(batch, _)| batch.clone())
    }

    pub(crate) fn put(&self, key: Key, batch: RecordBatch) {
        let bytes = batch.get_array_memory_size();
        if bytes > self.bytes_max {
            return;
        }
        let mut held = self.held.lock().expect("no panic while the cache is held");
        if held.batches.insert(key, (batch, bytes)).is_none() {
            held.order.push_back(key);
            held.bytes += bytes;
        }
        while held.bytes > self.bytes_max {
            let Some(oldest) = held.order.pop_front() else {
                break;
            };
            if let Some((_, bytes)) = held.batches.remove(&oldest) {
                held.bytes -= bytes;
            }
        }
    }
}
