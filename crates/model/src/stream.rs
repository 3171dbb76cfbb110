//! A stream: its name, identity, columns and partitions.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::{StreamName, evolution::Evolution};

/// The identity of a stream for ever: a stream dropped and created again under the same name has a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId(pub u32);

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A stream as its declaration says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    pub id: StreamId,
    pub name: StreamName,
    /// The user's columns. Timestamps are microseconds.
    pub schema: SchemaRef,
    pub partitions: u32,
    /// The column that tells when the recorded thing happened.
    pub event_time: Option<String>,
    /// The column whose value makes a record unique: appending it again has no second effect.
    pub record_id: Option<String>,
    /// The column whose hash chooses the partition; without it appends take turns.
    pub partition_by: Option<String>,
    /// How its columns came to be what they are.
    pub evolution: Evolution,
}

/// The columns that every record has beside the user's; SQL sees them where it names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemColumn {
    /// `_partition`, Int32
    Partition,
    /// `_offset`, Int64
    Offset,
    /// `_appended_at`, Timestamp(µs, UTC): when the log took the record
    AppendedAt,
}

impl SystemColumn {
    pub const ALL: [SystemColumn; 3] = [
        SystemColumn::Partition,
        SystemColumn::Offset,
        SystemColumn::AppendedAt,
    ];

    pub fn name(self) -> &'static str {
        match self {
            SystemColumn::Partition => "_partition",
            SystemColumn::Offset => "_offset",
            SystemColumn::AppendedAt => "_appended_at",
        }
    }

    pub fn field(self) -> Field {
        let data_type = match self {
            SystemColumn::Partition => DataType::Int32,
            SystemColumn::Offset => DataType::Int64,
            SystemColumn::AppendedAt => {
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
            }
        };
        Field::new(self.name(), data_type, false)
    }

    pub fn is_reserved(name: &str) -> bool {
        SystemColumn::ALL.iter().any(|column| column.name() == name)
    }
}

impl Stream {
    /// Names of the user's columns.
    pub fn column_names(&self) -> Vec<String> {
        let fields = self.schema.fields().iter();
        fields.map(|field| field.name().clone()).collect()
    }

    /// The user's columns, then `_partition`, `_offset`, `_appended_at`: the schema of records at rest and in plans.
    pub fn schema_with_system(&self) -> SchemaRef {
        let system = SystemColumn::ALL.map(|column| Arc::new(column.field()));
        Arc::new(Schema::new(
            self.schema
                .fields()
                .iter()
                .cloned()
                .chain(system)
                .collect::<Vec<_>>(),
        ))
    }
}
