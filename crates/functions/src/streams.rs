//! The streams that functions write about themselves.
//!
//! | stream | one record for each |
//! |---|---|
//! | `lambic_invocations` | finished invocation |
//! | `lambic_logs` | line that a function or the platform wrote |
//! | `lambic_dead_letters` | event or record that kept failing |
//! | `lambic_async` | queued event, and the end of one |
//!
//! Columns are only ever added, and each addition is a version of a stream's columns as `ALTER STREAM` makes them: records
//! say the version that they were written under, so what an older server kept is read as it is, with NULL in the new ones.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use lambic_model::{Column, ColumnId, Stream, StreamId, StreamName};

#[derive(Debug, Clone)]
pub struct SystemStreams {
    pub invocations: Arc<Stream>,
    pub logs: Arc<Stream>,
    pub dead_letters: Arc<Stream>,
    pub queue: Arc<Stream>,
}

impl SystemStreams {
    /// In the order of their ids.
    pub fn all(&self) -> [Arc<Stream>; 4] {
        [
            self.invocations.clone(),
            self.logs.clone(),
            self.dead_letters.clone(),
            self.queue.clone(),
        ]
    }
}

/// The declarations, with the ids `first_id`, `first_id + 1`, …; always the same for the same id.
pub fn system_streams(first_id: StreamId) -> SystemStreams {
    let stream = |index: u32, name: &str, columns: &[(&str, DataType)]| {
        Arc::new(Stream {
            id: StreamId(first_id.0 + index),
            name: StreamName::new(name).expect("system names are valid"),
            schema: Arc::new(Schema::new(
                columns
                    .iter()
                    .map(|(name, data_type)| Field::new(*name, data_type.clone(), true))
                    .collect::<Vec<_>>(),
            )),
            partitions: 1,
            event_time: Some("at".to_owned()),
            record_id: None,
            partition_by: None,
            evolution: Default::default(),
        })
    };
    // The next version of a stream's columns.
    let with = |stream: Arc<Stream>, columns: &[(&str, DataType)]| {
        let ids = (stream.next_column().0..).map(ColumnId);
        let more = ids.zip(columns).map(|(id, (name, data_type))| Column {
            id,
            name: (*name).to_owned(),
            data_type: data_type.clone(),
            nullable: true,
            missing: None,
            default: None,
        });
        Arc::new(stream.evolved(stream.columns().into_iter().chain(more).collect()))
    };
    let at = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let invocations = stream(
        0,
        "lambic_invocations",
        &[
            ("at", at.clone()),
            ("request_id", DataType::Utf8),
            ("function", DataType::Utf8),
            ("digest", DataType::Utf8),
            ("kind", DataType::Utf8),
            ("outcome", DataType::Utf8),
            ("error_type", DataType::Utf8),
            ("error_message", DataType::Utf8),
            ("duration_ms", DataType::Float64),
            ("billed_ms", DataType::Int64),
            ("init_ms", DataType::Float64),
            ("memory_mb", DataType::Int64),
            ("cold", DataType::Boolean),
            ("attempt", DataType::Int32),
        ],
    );
    let invocations = with(
        invocations,
        &[
            // Beside `init_ms` and `duration_ms`: waiting for a turn, and what is done before and after.
            ("overhead_ms", DataType::Float64),
            ("trace_id", DataType::Utf8),
        ],
    );
    let queue = stream(
        3,
        "lambic_async",
        &[
            ("at", at.clone()),
            ("request_id", DataType::Utf8),
            ("function", DataType::Utf8),
            ("state", DataType::Utf8),
            ("event", DataType::Utf8),
        ],
    );
    let queue = with(queue, &[("trace_id", DataType::Utf8)]);
    SystemStreams {
        invocations,
        logs: stream(
            1,
            "lambic_logs",
            &[
                ("at", at.clone()),
                ("request_id", DataType::Utf8),
                ("function", DataType::Utf8),
                ("stream", DataType::Utf8),
                ("line", DataType::Utf8),
            ],
        ),
        dead_letters: stream(
            2,
            "lambic_dead_letters",
            &[
                ("at", at),
                ("function", DataType::Utf8),
                ("request_id", DataType::Utf8),
                ("kind", DataType::Utf8),
                ("source", DataType::Utf8),
                ("error_type", DataType::Utf8),
                ("error_message", DataType::Utf8),
                ("attempts", DataType::Int32),
                ("event", DataType::Utf8),
            ],
        ),
        queue,
    }
}
