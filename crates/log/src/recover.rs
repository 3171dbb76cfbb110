//! Opens the journal: recovers exactly what was acknowledged, or says what is damaged and where.
//!
//! What follows the last whole frame of the last segment is a torn tail, and is cut off, only if nothing of it
//! can have been acknowledged: it lies behind the mark (see [`crate::mark`]) and no frame of a later group follows.
//! Everything else that is not as it was written is an error; nothing is skipped and nothing is changed then.
//! A whole frame behind the mark is kept: its append was never answered, so both outcomes are right.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher, Hasher, RandomState},
    path::{Path, PathBuf},
    sync::Arc,
};

use lambic_base::Disk;
use lambic_model::{Frontiers, Offset, StreamId};

use crate::{
    Error, Options,
    frame::{self, FRAME_HEADER_BYTES, Frame, Kind, SEGMENT_HEADER_BYTES, SegmentHeader},
    ids::Ids,
    mark::{self, Mark, MarkFile},
    payload::{self, AppendHeader, Checkpoint},
    segment::{self, RESTORE, Segment},
    stage,
    state::State,
    value,
};

/// Where the next frame goes.
#[derive(Debug, Clone)]
pub(crate) struct Active {
    pub segment: Arc<Segment>,
    pub position: u64,
    pub chain: u32,
}

impl Active {
    pub(crate) fn mark(&self, commit: u64) -> Mark {
        Mark {
            sequence: self.segment.sequence,
            position: self.position,
            commit,
            chain: self.chain,
        }
    }
}

pub(crate) struct Recovered {
    pub state: State,
    pub segments: Vec<Arc<Segment>>,
    pub active: Active,
    pub mark: MarkFile,
}

/// What the rest of the data folder says.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// All streams that there are: others were dropped, and nothing of them is kept in the state.
    pub declared: HashSet<StreamId>,
    /// What the dataset holds.
    pub sealed: Frontiers,
}

/// What the segments say.
pub(crate) struct Read {
    pub state: State,
    pub segments: Vec<Arc<Segment>>,
    pub active: Active,
    /// Behind the last whole frame, of an append that was never acknowledged.
    pub torn_bytes: u64,
    /// False if it is not known how far appends were acknowledged.
    pub mark_known: bool,
}

pub(crate) fn recover(options: &Options, ids: &Ids, known: &Known) -> Result<Recovered, Error> {
    let (disk, dir) = (&*options.disk, &options.dir);
    // Each time: a killed process may have made the folder without coming to the sync.
    disk.create_dir(dir)
        .and_then(|()| disk.sync_dir(dir.parent().unwrap_or(dir)))
        .map_err(|error| Error::io("create", dir, &error))?;
    for path in disk.list(dir).map_err(|e| Error::io("list", dir, &e))? {
        // What a crash left of a segment being begun.
        if path.extension().is_some_and(|extension| extension == "tmp") {
            disk.remove(&path)
                .map_err(|e| Error::io("remove", &path, &e))?;
        }
    }
    // A killed process may have begun a segment without coming to the sync; the mark below tells of it as of one there.
    disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, &e))?;
    let Some(mut read) = read(options, Some((ids, &known.declared)))? else {
        return create(options, ids, &known.sealed);
    };
    let heads = &mut read.state.heads;
    heads.0.retain(|stream, _| known.declared.contains(stream));
    for (&stream, sealed) in &known.sealed.0 {
        let head = heads.of(stream);
        if !head.covers(sealed) {
            return Err(Error::BehindDataset {
                dir: dir.clone(),
                stream,
                head,
                sealed: sealed.clone(),
            });
        }
    }
    let mark = MarkFile::create(disk, dir, read.active.mark(read.state.commit))?;
    Ok(Recovered {
        state: read.state,
        segments: read.segments,
        active: read.active,
        mark,
    })
}

/// Reads all segments, and checks all that can be checked; `None` if there is none. Without `changing` nothing at
/// all is changed; with the index of record ids and the streams that there are, the ids of records are fed to the
/// index, and a torn tail is cut off.
pub(crate) fn read(
    options: &Options,
    changing: Option<(&Ids, &HashSet<StreamId>)>,
) -> Result<Option<Read>, Error> {
    let (disk, dir) = (&*options.disk, &options.dir);
    let paths = list(disk, dir)?;
    let mark = MarkFile::read(disk, dir)?;
    let Some(&oldest) = paths.keys().next() else {
        return match mark {
            Some(mark) => Err(missing(segment::path(dir, mark.sequence))),
            None if disk.exists(&mark::path(dir)).unwrap_or(true) => {
                Err(missing(segment::path(dir, 1)))
            }
            None => Ok(None),
        };
    };
    for (&sequence, expected) in paths.keys().zip(oldest..) {
        if sequence != expected {
            return Err(missing(segment::path(dir, expected)));
        }
    }
    let newest = oldest + paths.len() as u64 - 1;
    if let Some(mark) = mark.filter(|mark| mark.sequence > newest) {
        return Err(missing(segment::path(dir, mark.sequence)));
    }
    let mut reading = Reading {
        options,
        ids: changing.map(|(ids, _)| ids),
        declared: changing.map(|(_, declared)| declared),
        mark,
        watermark: None,
        state: None,
        chain: None,
        torn_bytes: 0,
    };
    // First: what is wrong with it is not to be told as damage of a segment.
    if let Some(ids) = reading.ids.filter(|ids| ids.exists()) {
        reading.watermark(ids)?;
    }
    let mut segments = Vec::with_capacity(paths.len());
    let mut position = 0;
    for (sequence, path) in paths {
        let (segment, end) = reading.segment(sequence, path, sequence == newest)?;
        segments.push(Arc::new(segment));
        position = end;
    }
    let active = Active {
        segment: segments.last().expect("there is an oldest segment").clone(),
        position,
        chain: reading.chain.expect("every segment has a chain"),
    };
    Ok(Some(Read {
        state: reading
            .state
            .expect("every segment starts with a checkpoint"),
        segments,
        active,
        torn_bytes: reading.torn_bytes,
        mark_known: mark.is_some(),
    }))
}

/// The segments by sequence.
fn list(disk: &dyn Disk, dir: &Path) -> Result<BTreeMap<u64, PathBuf>, Error> {
    let mut segments = BTreeMap::new();
    for path in disk.list(dir).map_err(|e| Error::io("list", dir, &e))? {
        if let Some(sequence) = segment::sequence(&path) {
            segments.insert(sequence, path);
        }
    }
    Ok(segments)
}

fn missing(path: PathBuf) -> Error {
    Error::Damaged {
        path,
        position: 0,
        reason: "the segment is missing".to_owned(),
        advice: RESTORE,
    }
}

fn create(options: &Options, ids: &Ids, sealed: &Frontiers) -> Result<Recovered, Error> {
    if ids.exists() {
        return Err(missing(segment::path(&options.dir, 1)));
    }
    let mut state = State::from_checkpoint(Checkpoint::default(), options.producers_max);
    if sealed.0.values().any(|frontier| frontier.records() > 0) {
        tracing::warn!(dir = %options.dir.display(), "the log is new, the dataset is not: going on where the dataset ends");
        state.heads = sealed.clone();
    }
    let active = begin(options, 1, 0, &state.checkpoint(&state.heads))?;
    let mark = MarkFile::create(&*options.disk, &options.dir, active.mark(0))?;
    Ok(Recovered {
        state,
        segments: vec![active.segment.clone()],
        active,
        mark,
    })
}

/// Begins a segment with a checkpoint. It appears under its name only when it is whole and durable.
///
/// [`Error::Unavailable`] if it is not known whether it is there; after other errors it is not.
pub(crate) fn begin(
    options: &Options,
    sequence: u64,
    previous: u32,
    checkpoint: &Checkpoint,
) -> Result<Active, Error> {
    let header = SegmentHeader {
        sequence,
        previous,
        salt: RandomState::new().build_hasher().finish(),
        created_at_us: options.clock.now_us(),
    };
    let (header_bytes, header_crc) = header.encode();
    let json = serde_json::to_vec(checkpoint).expect("plain data with string keys serialises");
    let mut bytes = header_bytes.to_vec();
    let salt = header.salt;
    let commit = checkpoint.commit;
    let chain = frame::encode(
        &mut bytes,
        salt,
        Kind::Checkpoint,
        commit,
        commit,
        header_crc,
        &[&json],
    );
    let disk = &options.disk;
    let path = segment::path(&options.dir, sequence);
    let temporary = path.with_extension("tmp");
    let written = disk.create(&temporary).and_then(|file| {
        file.write_all_at(&bytes, 0)?;
        file.sync()?;
        Ok(file)
    });
    let file = written.map_err(|error| {
        // It is overwritten or removed later in any case; the first error is the one to tell.
        let _ = disk.remove(&temporary);
        match error.kind() {
            std::io::ErrorKind::StorageFull => Error::DiskFull {
                path: temporary.clone(),
            },
            _ => Error::io("begin", &temporary, &error),
        }
    })?;
    disk.rename(&temporary, &path)
        .and_then(|()| disk.sync_dir(&options.dir))
        .map_err(|error| Error::Unavailable {
            reason: format!("segment `{}` could not be begun: {error}", path.display()),
        })?;
    let position = bytes.len() as u64;
    let start = Frontiers(checkpoint.heads.iter().cloned().collect());
    Ok(Active {
        segment: Arc::new(Segment::new(sequence, salt, path, file, start, position)),
        position,
        chain,
    })
}

/// What has been read so far.
struct Reading<'a> {
    options: &'a Options,
    /// `None`: only look, and change nothing.
    ids: Option<&'a Ids>,
    /// `None`: all that are named.
    declared: Option<&'a HashSet<StreamId>>,
    mark: Option<Mark>,
    /// Of the index of record ids; read on first need.
    watermark: Option<u64>,
    state: Option<State>,
    chain: Option<u32>,
    torn_bytes: u64,
}

impl Reading<'_> {
    /// Reads one segment; returns it and where its last whole frame ends.
    fn segment(
        &mut self,
        sequence: u64,
        path: PathBuf,
        is_last: bool,
    ) -> Result<(Segment, u64), Error> {
        let failed = |error| Error::io("read", &path, &error);
        let file = self.options.disk.open(&path).map_err(failed)?;
        let mut bytes = vec![0; file.len().map_err(failed)? as usize];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        let damaged = |position: usize, reason: String| Error::Damaged {
            path: path.clone(),
            position: position as u64,
            reason,
            advice: RESTORE,
        };
        let (header, mut chain) =
            SegmentHeader::decode(&bytes).map_err(|reason| damaged(0, reason.to_owned()))?;
        if header.sequence != sequence {
            let reason = format!("it is segment {} under another name", header.sequence);
            return Err(damaged(0, reason));
        }
        if self.chain.is_some_and(|chain| chain != header.previous) {
            let reason = "it does not continue the segment before it: one of the two was cut, swapped or brought back from an older copy";
            return Err(damaged(0, reason.to_owned()));
        }
        let mark = self.mark.filter(|mark| mark.sequence == sequence);
        let mut mark_seen = mark.is_none();
        let mut position = SEGMENT_HEADER_BYTES;
        let mut segment = None;
        let invalid = loop {
            if position == bytes.len() {
                break None;
            }
            let frame = match frame::decode(&bytes[position..], header.salt) {
                Ok(frame) if frame.previous == chain => frame,
                Ok(_) => break Some("the frame does not continue the one before it"),
                Err(reason) => break Some(reason),
            };
            let begun = segment.get_or_insert_with(|| None::<Segment>);
            let taken = match (&mut *begun, frame.kind) {
                (None, Kind::Checkpoint) => self.checkpoint(&frame).map(|start| {
                    let file = self.options.disk.open(&path)?;
                    let checkpoint_end = (position + frame.bytes()) as u64;
                    *begun = Some(Segment::new(
                        sequence,
                        header.salt,
                        path.clone(),
                        file,
                        start,
                        checkpoint_end,
                    ));
                    Ok(())
                }),
                (Some(segment), Kind::Append) => self.append(segment, position, &frame).map(Ok),
                _ => Err("a segment starts with a checkpoint, and appends follow".to_owned()),
            };
            taken
                .map_err(|reason| damaged(position, reason))?
                .map_err(failed)?;
            position += frame.bytes();
            chain = frame.crc;
            mark_seen |= mark.is_some_and(|m| m.position == position as u64 && m.chain == chain);
        };
        let whole = segment.flatten().filter(|_| mark_seen);
        let Some(segment) = whole else {
            let reason = invalid.unwrap_or("the segment ends before what was acknowledged");
            let reason = format!("acknowledged records are damaged: {reason}");
            return Err(damaged(position, reason));
        };
        if let Some(reason) = invalid {
            if !is_last {
                return Err(damaged(position, reason.to_owned()));
            }
            let broken = self.state.as_ref().map_or(0, |state| state.commit) + 1;
            if let Some(at) = frame::find_later(&bytes[position..], header.salt, broken) {
                let reason = format!("{reason}, though a later one is whole at {}", position + at);
                return Err(damaged(position, reason));
            }
            self.torn_bytes = (bytes.len() - position) as u64;
            if self.ids.is_some() {
                tracing::warn!(
                    path = %path.display(), position, dropped_bytes = self.torn_bytes, reason,
                    "cut off what a crash left of an append that was never acknowledged"
                );
                file.set_len(position as u64).map_err(failed)?;
            }
        }
        if is_last && self.ids.is_some() {
            // What a killed process had written but not synced is about to be served. It is written again before
            // the sync: if a sync of it failed, the system takes it for written, and another sync does nothing.
            let from = mark.map_or(0, |mark| mark.position as usize);
            file.write_all_at(&bytes[from..position], from as u64)
                .and_then(|()| file.sync())
                .map_err(failed)?;
        }
        segment.grow_to(position as u64);
        self.chain = Some(chain);
        Ok((segment, position as u64))
    }

    fn checkpoint(&mut self, frame: &Frame) -> Result<Frontiers, String> {
        let checkpoint: Checkpoint =
            serde_json::from_slice(frame.payload).map_err(|e| format!("the checkpoint: {e}"))?;
        if let Some(state) = &self.state {
            if state.commit != checkpoint.commit {
                return Err(format!(
                    "the checkpoint stands after append {}, the segment before it ends with {}",
                    checkpoint.commit, state.commit
                ));
            }
            if let Some(stream) = state.disagrees(&checkpoint) {
                return Err(format!(
                    "the checkpoint has another head of stream {stream}"
                ));
            }
        } else if checkpoint.record_ids > 0
            && let Some(ids) = self.ids
        {
            let watermark = self.watermark(ids).map_err(|error| error.to_string())?;
            if watermark < checkpoint.commit {
                return Err(format!(
                    "ids of records before this segment are missing in `{}`; restore that folder with the segments",
                    ids.path().display()
                ));
            }
        }
        let start = Frontiers(checkpoint.heads.iter().cloned().collect());
        self.state = Some(State::from_checkpoint(
            checkpoint,
            self.options.producers_max,
        ));
        Ok(start)
    }

    fn append(&mut self, segment: &Segment, at: usize, frame: &Frame) -> Result<(), String> {
        let (header, piece_at) = AppendHeader::decode(frame.payload)?;
        let state = self.state.as_mut().expect("a checkpoint comes first");
        for write in &header.writes {
            if (self.declared.as_ref()).is_none_or(|declared| declared.contains(&write.stream)) {
                continue;
            }
            // The first version could leave the head of a dropped stream out of a checkpoint and append to it
            // once more. Nobody reads it, so it may start anywhere.
            let head = state.heads.0.entry(write.stream).or_default();
            for piece in &write.pieces {
                head.set(piece.partition, Offset(piece.first));
            }
        }
        state.apply(frame.commit, &header)?;
        let piece_at = FRAME_HEADER_BYTES + piece_at;
        let entries = stage::entries(&header, at as u64, frame.bytes() as u32, piece_at);
        let end = entries
            .last()
            .map(|(_, _, e)| u64::from(e.piece_at) + u64::from(e.piece_bytes));
        if end.is_some_and(|end| end != frame.bytes() as u64) {
            return Err("the append's pieces do not fill its frame".to_owned());
        }
        self.feed_ids(&header, frame, piece_at - FRAME_HEADER_BYTES)?;
        segment.push(entries);
        Ok(())
    }

    fn feed_ids(
        &mut self,
        header: &AppendHeader,
        frame: &Frame,
        mut piece_at: usize,
    ) -> Result<(), String> {
        let Some(ids) = self.ids else {
            return Ok(());
        };
        for write in &header.writes {
            for piece in &write.pieces {
                let end = piece_at + piece.bytes as usize;
                let bytes = &frame.payload[piece_at..end];
                piece_at = end;
                let Some(name) = &write.record_id else {
                    continue;
                };
                if frame.commit <= self.watermark(ids).map_err(|error| error.to_string())? {
                    continue;
                }
                let batch = payload::decode_batch(bytes).map_err(|error| error.to_string())?;
                let column = batch
                    .column_by_name(name)
                    .ok_or_else(|| format!("no record id `{name}` in the records"))?;
                let mut keys = Vec::with_capacity(batch.num_rows());
                value::visit(column, |_, id| {
                    keys.push(crate::ids::key(write.stream, id.unwrap_or_default()));
                })?;
                ids.insert(frame.commit, keys)
                    .map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    fn watermark(&mut self, ids: &Ids) -> Result<u64, Error> {
        if let Some(watermark) = self.watermark {
            return Ok(watermark);
        }
        let watermark = ids.watermark()?;
        self.watermark = Some(watermark);
        Ok(watermark)
    }
}
