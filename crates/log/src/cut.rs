//! The log as it was between two groups of appends, written down as a folder that a log can be opened on.
//!
//! It holds what it needs: the log goes on, and is trimmed, meanwhile. The index of record ids is written as plain
//! files of keys, because its own files change at any time; [`restore_record_ids`] makes an index of them.

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use lambic_base::{RealDisk, file};
use lambic_model::Frontiers;

use crate::{
    Error, Options,
    ids::{Ids, KEY_BYTES, Key},
    keys::{KeyStoreError, Keys},
    mark::{Mark, MarkFile},
    segment::Segment,
    snapshot::View,
};

/// The folder with the keys of record ids, in that of the log.
pub const RECORD_IDS: &str = "record-ids";
/// Says up to which commit the keys go.
const COMMIT: &str = "commit";
/// Of one file of keys: as many follow one another, so that those of a stream without new records are as before.
const FILE_KEYS_MAX: usize = 1 << 20;
const COPY_BYTES: usize = 1 << 20;

pub struct Cut {
    heads: Frontiers,
    mark: Mark,
    /// With how much of each belongs to the cut; the last is the one being written.
    segments: Vec<(Arc<Segment>, u64)>,
    keys: Option<Keys>,
}

impl Cut {
    pub(crate) fn new(view: &View, mark: Mark, keys: Option<Keys>) -> Cut {
        let segments = view.segments.iter().map(|segment| {
            let bytes = match segment.sequence == mark.sequence {
                true => mark.position,
                false => segment.bytes.load(Ordering::Relaxed),
            };
            (Arc::clone(segment), bytes)
        });
        Cut {
            heads: view.heads.clone(),
            mark,
            segments: segments.collect(),
            keys,
        }
    }

    /// Where every stream ends.
    pub fn heads(&self) -> &Frontiers {
        &self.heads
    }

    /// Writes it into `dir`, a new folder on the log's own disk; closed segments are linked. Nothing is synced: it is
    /// there to be copied. Blocks.
    pub fn save(self, dir: &Path) -> Result<(), Error> {
        file::create_dirs(dir).map_err(|error| Error::io("create", dir, &error))?;
        for (segment, bytes) in &self.segments {
            let name = segment.path.file_name().unwrap_or_default();
            let to = dir.join(name);
            let is_closed = segment.sequence != self.mark.sequence;
            // One that was trimmed meanwhile is still open here.
            if !is_closed || fs::hard_link(&segment.path, &to).is_err() {
                copy(segment, *bytes, &to)
                    .map_err(|error| Error::io("copy", &segment.path, &error))?;
            }
        }
        MarkFile::create(&RealDisk, dir, self.mark)?;
        match self.keys {
            Some(keys) => save_keys(keys, self.mark.commit, &dir.join(RECORD_IDS)),
            None => Ok(()),
        }
    }
}

fn copy(segment: &Segment, bytes: u64, to: &Path) -> io::Result<()> {
    let mut file = fs::File::create(to)?;
    let mut position = 0;
    let mut buffer = vec![0; COPY_BYTES];
    while position < bytes {
        let length = (bytes - position).min(COPY_BYTES as u64) as usize;
        let part = &mut buffer[..length];
        segment.file.read_exact_at(part, position)?;
        file.write_all(part)?;
        position += length as u64;
    }
    Ok(())
}

fn save_keys(keys: Keys, commit: u64, dir: &Path) -> Result<(), Error> {
    let failed = |error: io::Error| Error::io("write", dir, &error);
    file::create_dirs(dir).map_err(failed)?;
    fs::write(dir.join(COMMIT), commit.to_string()).map_err(failed)?;
    // Of the stream whose keys are being written, the number of the file, and how many keys are in it.
    let mut open: Option<([u8; 4], u32, usize, BufWriter<fs::File>)> = None;
    for key in keys {
        let key = key.map_err(|error| unreadable(dir, error))?;
        let stream = *key.first_chunk().expect("a key begins with its stream");
        let number = match &open {
            Some((of, _, count, _)) if *of == stream && *count < FILE_KEYS_MAX => None,
            Some((of, number, _, _)) if *of == stream => Some(number + 1),
            _ => Some(0),
        };
        if let Some(number) = number {
            if let Some((_, _, _, mut file)) = open.take() {
                file.flush().map_err(failed)?;
            }
            let name = format!("{}-{number:06}.keys", u32::from_be_bytes(stream));
            let file = fs::File::create(dir.join(name)).map_err(failed)?;
            open = Some((stream, number, 0, BufWriter::new(file)));
        }
        if let Some((_, _, count, file)) = &mut open {
            file.write_all(&key).map_err(failed)?;
            *count += 1;
        }
    }
    match open {
        Some((_, _, _, mut file)) => file.flush().map_err(failed),
        None => Ok(()),
    }
}

pub(crate) fn unreadable(path: &Path, error: KeyStoreError) -> Error {
    let (KeyStoreError::Stopped(reason) | KeyStoreError::Unsure(reason)) = error;
    Error::Ids {
        path: path.to_owned(),
        reason,
    }
}

/// Makes the index of record ids of the log in `dir` from the files that [`Cut::save`] wrote, which go then; without
/// such files nothing is done. Can be repeated after a kill. Blocks.
pub fn restore_record_ids(dir: &Path) -> Result<(), Error> {
    let from = dir.join(RECORD_IDS);
    let failed = |error: io::Error| Error::io("read", &from, &error);
    let commit = match fs::read_to_string(from.join(COMMIT)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    let damaged = |reason: &str| Error::Ids {
        path: from.clone(),
        reason: reason.to_owned(),
    };
    let commit = commit
        .parse()
        .map_err(|_| damaged("it does not say up to which append it goes"))?;
    let ids = Ids::new(&Options::new(dir));
    match fs::remove_dir_all(ids.path()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io("remove", ids.path(), &error));
        }
        _ => {}
    }
    for entry in fs::read_dir(&from).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "keys") {
            continue;
        }
        let bytes = fs::read(&path).map_err(failed)?;
        if bytes.len() % KEY_BYTES != 0 {
            return Err(damaged("a file of it is cut"));
        }
        let keys = bytes.chunks_exact(KEY_BYTES).map(Key::from);
        // Durable with the last call.
        ids.put_all(0, keys)?;
    }
    ids.put_all(commit, [])?;
    drop(ids);
    // The file that says that there is something to do goes last.
    let removed = (|| {
        for entry in fs::read_dir(&from)? {
            let path = entry?.path();
            if path.file_name().is_none_or(|name| name != COMMIT) {
                fs::remove_file(path)?;
            }
        }
        file::sync_dir(&from)?;
        fs::remove_dir_all(&from)?;
        file::sync_dir(dir)
    })();
    removed.map_err(|error| Error::io("remove", &from, &error))
}
