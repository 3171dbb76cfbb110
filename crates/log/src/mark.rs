//! How far appends were acknowledged: written after the sync of the segment, before the acknowledgement.
//!
//! It tells a torn tail (never acknowledged, to be cut off) from damage to the last acknowledged frames (an
//! error). It is not synced itself: a killed process leaves it exact; after a power cut it may be behind, never
//! ahead, because what it speaks of was synced before. Two slots in different sectors are written in turns, so
//! one is always whole.

use std::path::{Path, PathBuf};

use lambic_base::{Disk, DiskFile};

use crate::{
    Error,
    frame::{u32_at, u64_at},
};

const NAME: &str = "acknowledged";
const MAGIC: [u8; 8] = *b"LAMBICAK";
const SLOT_BYTES: usize = 40;
const SLOT_STRIDE: usize = 512;

/// Everything before `position` of segment `sequence` was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub sequence: u64,
    pub position: u64,
    pub commit: u64,
    /// The checksum of the last frame before `position`.
    pub chain: u32,
}

#[derive(Debug)]
pub(crate) struct MarkFile {
    file: Box<dyn DiskFile>,
    turn: usize,
}

pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

impl MarkFile {
    /// The file and the newest mark in it; `None` if there is no file or no slot is whole.
    pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<Mark>, Error> {
        let path = path(dir);
        let failed = |error| Error::io("read", &path, &error);
        if !disk.exists(&path).map_err(failed)? {
            return Ok(None);
        }
        let file = disk.open(&path).map_err(failed)?;
        let length = file.len().map_err(failed)?.min(2 * SLOT_STRIDE as u64);
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        let slots = [0, SLOT_STRIDE].map(|at| bytes.get(at..at + SLOT_BYTES).and_then(decode));
        if slots.iter().all(Option::is_none) {
            tracing::warn!(path = %path.display(), "the mark of what was acknowledged is unreadable; going by the segments alone");
        }
        Ok(slots.into_iter().flatten().max_by_key(|mark| mark.commit))
    }

    /// Opens the file, or makes it, with `mark` in both slots.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, mark: Mark) -> Result<MarkFile, Error> {
        let path = path(dir);
        let made = (|| {
            let file = match disk.exists(&path)? {
                true => disk.open(&path)?,
                false => disk.create(&path)?,
            };
            let mut bytes = vec![0; 2 * SLOT_STRIDE];
            for at in [0, SLOT_STRIDE] {
                bytes[at..at + SLOT_BYTES].copy_from_slice(&encode(mark));
            }
            file.write_all_at(&bytes, 0)?;
            file.sync()?;
            disk.sync_dir(dir)?;
            Ok(file)
        })();
        match made {
            Ok(file) => Ok(MarkFile { file, turn: 0 }),
            Err(error) => Err(Error::io("write", path, &error)),
        }
    }

    pub(crate) fn write(&mut self, mark: Mark) -> std::io::Result<()> {
        self.turn = 1 - self.turn;
        let position = (self.turn * SLOT_STRIDE) as u64;
        self.file.write_all_at(&encode(mark), position)
    }

    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.file.sync()
    }
}

fn encode(mark: Mark) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[0..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&mark.sequence.to_le_bytes());
    bytes[16..24].copy_from_slice(&mark.position.to_le_bytes());
    bytes[24..32].copy_from_slice(&mark.commit.to_le_bytes());
    bytes[32..36].copy_from_slice(&mark.chain.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..36]);
    bytes[36..40].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Mark> {
    let whole = bytes[0..8] == MAGIC && crc32c::crc32c(&bytes[..36]) == u32_at(bytes, 36);
    whole.then(|| Mark {
        sequence: u64_at(bytes, 8),
        position: u64_at(bytes, 16),
        commit: u64_at(bytes, 24),
        chain: u32_at(bytes, 32),
    })
}
