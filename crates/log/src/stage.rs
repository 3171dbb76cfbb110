//! Decides what becomes of the appends of one group: offsets, repetitions, known records; builds their frames.
//!
//! Nothing here is visible before the group is synced: a group that fails is dropped whole.

use std::collections::{HashMap, HashSet};

use arrow::{array::BooleanArray, compute::filter_record_batch, record_batch::RecordBatch};
use lambic_model::{Appended, Frontier, Frontiers, PartitionId, Producer, StreamId, Written};

use crate::{
    Error,
    frame::{self, FRAME_HEADER_BYTES, Kind},
    ids::{Ids, Key},
    payload::{self, AppendHeader, PieceHeader, WriteHeader},
    prepare::{Piece, Prepared, PreparedWrite},
    producers::{Remembered, Seen},
    segment::Entry,
    state::{State, widen},
};

/// One group, as it will be written at `position` of the active segment.
#[derive(Debug)]
pub(crate) struct Stage {
    position: u64,
    salt: u64,
    appended_at_us: i64,
    pub chain: u32,
    pub commit: u64,
    group: u64,
    heads: Frontiers,
    producers: HashMap<String, Remembered>,
    pub frames: Vec<u8>,
    pub headers: Vec<(u64, AppendHeader)>,
    pub entries: Vec<(StreamId, PartitionId, Entry)>,
    pub batches: Vec<RecordBatch>,
    pub ids: HashSet<Key>,
}

impl Stage {
    pub(crate) fn new(
        state: &State,
        position: u64,
        chain: u32,
        salt: u64,
        appended_at_us: i64,
    ) -> Stage {
        Stage {
            position,
            salt,
            appended_at_us,
            chain,
            commit: state.commit,
            group: state.commit + 1,
            heads: Frontiers::default(),
            producers: HashMap::new(),
            frames: Vec::new(),
            headers: Vec::new(),
            entries: Vec::new(),
            batches: Vec::new(),
            ids: HashSet::new(),
        }
    }

    pub(crate) fn first_commit(&self) -> u64 {
        self.group
    }

    /// Takes one append in and says what its acknowledgement will be. On an error nothing of it is taken in.
    pub(crate) fn take(
        &mut self,
        prepared: Prepared,
        state: &State,
        ids: &Ids,
    ) -> Result<Appended, Error> {
        if let Some(appended) = self.repeated(&prepared, state)? {
            return Ok(appended);
        }
        let mut ids_new = HashSet::new();
        let mut heads = Frontiers::default();
        let mut writes = Vec::with_capacity(prepared.writes.len());
        let mut pieces = Vec::new();
        for mut write in prepared.writes {
            let stream = write.stream.id;
            let known = self.leave_out_known(&mut write, &mut ids_new, ids)?;
            let head = heads.0.entry(stream).or_insert_with(|| {
                let staged = self.heads.0.get(&stream);
                staged.cloned().unwrap_or_else(|| state.heads.of(stream))
            });
            let partitions = Frontier::zero(write.stream.partitions);
            widen(head, &partitions);
            let mut placed = Vec::with_capacity(write.pieces.len());
            for piece in write.pieces {
                let first = head.offset(piece.partition);
                let header = PieceHeader {
                    partition: piece.partition,
                    first: first.0,
                    records: piece.batch.num_rows() as u64,
                    bytes: piece.encoded.len() as u64,
                };
                head.set(piece.partition, header.range().end);
                placed.push(header);
                pieces.push((stream, header, piece));
            }
            writes.push(WriteHeader {
                stream,
                record_id: write.stream.record_id.clone(),
                schema: write.stream.schema_version(),
                records_known: known,
                frontier: Default::default(),
                pieces: placed,
            });
        }
        for write in &mut writes {
            write.frontier = heads.of(write.stream);
        }
        let header = AppendHeader {
            appended_at_us: self.appended_at_us,
            producer: prepared.producer,
            cursors: prepared.cursors,
            cursors_dropped: prepared.cursors_dropped,
            writes,
        };
        let appended = header.appended();
        let changes = header.producer.is_some()
            || !header.cursors.is_empty()
            || !header.cursors_dropped.is_empty();
        if pieces.is_empty() && !changes {
            return Ok(appended);
        }
        self.commit += 1;
        if let Some(producer) = &header.producer {
            let remembered = match self.remembered(producer, state) {
                Some(known) => {
                    let mut known = known.clone();
                    known.add(producer.sequence, self.commit);
                    known
                }
                None => Remembered::new(producer.clone(), self.commit),
            };
            self.producers.insert(producer.id.clone(), remembered);
        }
        self.heads.0.extend(heads.0);
        self.ids.extend(ids_new);
        self.write(header, pieces);
        Ok(appended)
    }

    fn remembered<'a>(&'a self, producer: &Producer, state: &'a State) -> Option<&'a Remembered> {
        let staged = self.producers.get(&producer.id);
        staged.or_else(|| state.producers.get(&producer.id))
    }

    /// The acknowledgement of an append that was taken before; an error if that is not known any more.
    fn repeated(&self, prepared: &Prepared, state: &State) -> Result<Option<Appended>, Error> {
        let Some(producer) = &prepared.producer else {
            return Ok(None);
        };
        let sequence = producer.sequence;
        let known = self.remembered(producer, state);
        match known.map_or(Seen::New, |known| known.seen(sequence)) {
            Seen::New => return Ok(None),
            Seen::Duplicate => {}
            Seen::Forgotten(forgotten) => {
                return Err(Error::SequenceForgotten {
                    sequence,
                    forgotten,
                });
            }
        }
        // Where its records went is not kept; they are below the head.
        let written = |write: &PreparedWrite| {
            let stream = write.stream.id;
            let head = self.heads.0.get(&stream).cloned();
            let mut frontier = head.unwrap_or_else(|| state.heads.of(stream));
            widen(&mut frontier, &Frontier::zero(write.stream.partitions));
            Written {
                stream,
                ranges: Vec::new(),
                records_known: write.pieces.iter().map(|p| p.batch.num_rows() as u64).sum(),
                frontier,
            }
        };
        Ok(Some(Appended {
            writes: prepared.writes.iter().map(written).collect(),
            duplicate: true,
        }))
    }

    /// Drops the records whose id is in the log, in this group, or earlier in this append; returns how many.
    fn leave_out_known(
        &self,
        write: &mut PreparedWrite,
        ids_new: &mut HashSet<Key>,
        ids: &Ids,
    ) -> Result<u64, Error> {
        let mut known = 0;
        for piece in &mut write.pieces {
            let Some(keys) = piece.ids.take() else {
                continue;
            };
            let mut keep = Vec::with_capacity(keys.len());
            for key in keys {
                let new =
                    !self.ids.contains(&key) && !ids_new.contains(&key) && !ids.contains(&key)?;
                if new {
                    ids_new.insert(key);
                }
                keep.push(new);
            }
            let left_out = keep.iter().filter(|keep| !**keep).count() as u64;
            if left_out > 0 {
                known += left_out;
                let encoded = filter_record_batch(&piece.batch, &BooleanArray::from(keep))
                    .and_then(|batch| Ok((payload::encode_batch(&batch)?, batch)));
                (piece.encoded, piece.batch) =
                    encoded.map_err(|error| Error::Refused(error.to_string()))?;
            }
        }
        write.pieces.retain(|piece| piece.batch.num_rows() > 0);
        Ok(known)
    }

    fn write(&mut self, header: AppendHeader, pieces: Vec<(StreamId, PieceHeader, Piece)>) {
        let head = header.encode();
        let mut parts = vec![head.as_slice()];
        parts.extend(pieces.iter().map(|(_, _, piece)| piece.encoded.as_slice()));
        let start = self.frames.len();
        let previous = self.chain;
        self.chain = frame::encode(
            &mut self.frames,
            self.salt,
            Kind::Append,
            self.commit,
            self.group,
            previous,
            &parts,
        );
        let frame_at = self.position + start as u64;
        let frame_bytes = (self.frames.len() - start) as u32;
        let entries = entries(
            &header,
            frame_at,
            frame_bytes,
            FRAME_HEADER_BYTES + head.len(),
        );
        self.entries.extend(entries);
        self.batches
            .extend(pieces.into_iter().map(|(_, _, piece)| piece.batch));
        self.headers.push((self.commit, header));
    }
}

/// Where the pieces of a frame stand; the first at `piece_at` from its start.
pub(crate) fn entries(
    header: &AppendHeader,
    frame_at: u64,
    frame_bytes: u32,
    mut piece_at: usize,
) -> Vec<(StreamId, PartitionId, Entry)> {
    let mut entries = Vec::new();
    for write in &header.writes {
        for piece in &write.pieces {
            let entry = Entry {
                first: piece.first,
                records: piece.records,
                appended_at_us: header.appended_at_us,
                frame_at,
                frame_bytes,
                piece_at: piece_at as u32,
                piece_bytes: piece.bytes as u32,
                schema: write.schema,
            };
            piece_at += piece.bytes as usize;
            entries.push((write.stream, piece.partition, entry));
        }
    }
    entries
}
