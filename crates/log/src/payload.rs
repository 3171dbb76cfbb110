//! What a frame carries: an append (positions as JSON, then Arrow IPC streams), or a checkpoint (JSON).
//!
//! JSON for the small part keeps the format readable and extensible; the records, nearly all of the bytes,
//! are Arrow IPC streams that any Arrow implementation reads.

use std::io::Cursor as Bytes;

use arrow::{
    error::ArrowError,
    ipc::{reader::StreamReader, writer::StreamWriter},
    record_batch::RecordBatch,
};
use lambic_model::{
    Appended, Cursor, Frontier, OffsetRange, PartitionId, Producer, SchemaVersion, StreamId,
    Written,
};
use serde::{Deserialize, Serialize};

use crate::{frame::u32_at, producers::Remembered};

/// The small part of an append.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AppendHeader {
    pub appended_at_us: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub producer: Option<Producer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cursors: Vec<Cursor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cursors_dropped: Vec<String>,
    pub writes: Vec<WriteHeader>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WriteHeader {
    pub stream: StreamId,
    /// Named here so that the index of record ids can be built from the segments alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_id: Option<String>,
    /// The version of the stream's schema that the pieces have.
    #[serde(default, skip_serializing_if = "SchemaVersion::is_first")]
    pub schema: SchemaVersion,
    pub records_known: u64,
    pub frontier: Frontier,
    pub pieces: Vec<PieceHeader>,
}

/// The records of one write that went to one partition.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct PieceHeader {
    pub partition: PartitionId,
    pub first: u64,
    pub records: u64,
    /// Of the Arrow IPC stream.
    pub bytes: u64,
}

impl PieceHeader {
    pub(crate) fn range(&self) -> OffsetRange {
        let first = lambic_model::Offset(self.first);
        OffsetRange {
            partition: self.partition,
            first,
            end: first.plus(self.records),
        }
    }
}

impl AppendHeader {
    pub(crate) fn appended(&self) -> Appended {
        let written = |write: &WriteHeader| Written {
            stream: write.stream,
            ranges: write.pieces.iter().map(PieceHeader::range).collect(),
            records_known: write.records_known,
            frontier: write.frontier.clone(),
        };
        Appended {
            writes: self.writes.iter().map(written).collect(),
            duplicate: false,
        }
    }

    /// The first bytes of the payload; the pieces' IPC streams follow in order.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("plain data with string keys serialises");
        let length = u32::try_from(json.len()).expect("positions are small");
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend_from_slice(&json);
        bytes
    }

    /// The header, and where in the payload the first IPC stream starts.
    pub(crate) fn decode(payload: &[u8]) -> Result<(AppendHeader, usize), String> {
        if payload.len() < 4 {
            return Err("the append has no header".to_owned());
        }
        let end = 4 + u32_at(payload, 0) as usize;
        let json = payload
            .get(4..end)
            .ok_or("the append's header is cut off")?;
        let header: AppendHeader = serde_json::from_slice(json)
            .map_err(|error| format!("the append's header: {error}"))?;
        Ok((header, end))
    }
}

/// All that must outlive the segments before this one.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub commit: u64,
    pub heads: Vec<(StreamId, Frontier)>,
    /// Least recently used first.
    pub producers: Vec<Remembered>,
    pub cursors: Vec<Cursor>,
    /// Records with a record id ever committed: tells whether the index may be missing.
    pub record_ids: u64,
    /// When the last append was taken; older files do not say it.
    #[serde(default)]
    pub appended_at_us: i64,
}

pub(crate) fn encode_batch(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref())?;
    writer.write(batch)?;
    writer.finish()?;
    writer.into_inner()
}

pub(crate) fn decode_batch(bytes: &[u8]) -> Result<RecordBatch, ArrowError> {
    StreamReader::try_new(Bytes::new(bytes), None)?
        .next()
        .ok_or_else(|| ArrowError::IpcError("the stream holds no batch".to_owned()))?
}
