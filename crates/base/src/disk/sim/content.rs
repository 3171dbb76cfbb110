//! The bytes of one simulated file: as programs see them, and as the disk has them.

use rand::{RngExt, rngs::StdRng};

/// What the disk writes whole or not at all.
const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    /// Tells files apart, in the order in which they came to be.
    pub id: u64,
    /// As programs see it.
    pub now: Vec<u8>,
    /// On the disk for certain.
    durable: Vec<u8>,
    /// In order; each may have reached the disk or not.
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    /// Within one sector.
    Write {
        at: usize,
        bytes: Vec<u8>,
    },
    Len(usize),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Change::Len(length) => to.resize(*length, 0),
            Change::Write { at, bytes } => {
                let end = at + bytes.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*at..end].copy_from_slice(bytes);
            }
        }
    }
}

impl Content {
    pub(super) fn new(id: u64) -> Content {
        Content {
            id,
            ..Content::default()
        }
    }

    /// Whole and durable.
    pub(super) fn durable(id: u64, bytes: Vec<u8>) -> Content {
        Content {
            id,
            now: bytes.clone(),
            durable: bytes,
            pending: Vec::new(),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8], position: u64) {
        let mut at = position as usize;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
            self.change(Change::Write {
                at,
                bytes: piece.to_vec(),
            });
            at += piece.len();
            rest = after;
        }
    }

    pub(super) fn set_len(&mut self, bytes: u64) {
        self.change(Change::Len(bytes as usize));
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// Whatever part reached the disk, the system holds all of it for written and never tries again; some file
    /// systems go on showing what was written, others what is there (Rebello et al., "Can Applications Recover from
    /// fsync Failures?", ATC '20).
    pub(super) fn fail_sync(&mut self, chance: &mut StdRng) {
        self.settle(chance);
        if chance.random() {
            self.now.clone_from(&self.durable);
        }
    }

    /// As the disk has it when the power comes back.
    pub(super) fn after_power_cut(&self, chance: &mut StdRng) -> Content {
        let mut after = self.clone();
        after.settle(chance);
        after.now.clone_from(&after.durable);
        after
    }

    fn settle(&mut self, chance: &mut StdRng) {
        // All, nothing, or any mixture: the first two are as likely as all the others.
        let share = match chance.random_range(0..4) {
            0 => 0.0,
            1 => 1.0,
            _ => chance.random(),
        };
        for change in self.pending.drain(..) {
            if chance.random_bool(share) {
                change.apply(&mut self.durable);
            }
        }
    }
}
