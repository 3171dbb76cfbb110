//! Batches for functions that take columns (Arrow): no JSON on their way to the function, nor on the way to its output.
//!
//! The function has no partial batch response: a batch succeeds or fails as a whole, and is cut in halves where the
//! mapping's rules say so. Without an output stream its answer is ignored.

use std::borrow::Cow;

use arrow::record_batch::RecordBatch;
use lambic_model::{OffsetRange, Write};
use tracing::error;

use super::{
    Stopped,
    batch::{Accepted, Batches, Delivery},
};
use crate::{
    Form, FunctionInfo, Takes, columnar, entry::Entry, events::Event, records::InvocationRow,
};

impl Batches {
    /// How a function gets its batches.
    pub(super) fn form_of(&self, function: &FunctionInfo) -> Form {
        let is_windowed = self.worker.rules.window_s > 0;
        match function.takes {
            Takes::Json => Form::Json,
            // The state of a window is JSON.
            _ if is_windowed => Form::Json,
            Takes::Arrow | Takes::Both => Form::Arrow,
        }
    }

    /// How the next batch is read. Whoever runs it may be another version by then, and it is read again.
    pub(super) fn form(&self) -> Form {
        let entry = self.worker.inner.chosen(&self.worker.target);
        entry.map_or(Form::Json, |entry| self.form_of(&entry.info))
    }

    /// The records as JSON, for people.
    pub(super) fn told<'a>(
        &self,
        range: OffsetRange,
        events: &'a [Event],
        columns: Option<&RecordBatch>,
    ) -> Cow<'a, [Event]> {
        let Some(columns) = columns else {
            return Cow::Borrowed(events);
        };
        // What was read further than that has no event.
        let columns = columns.slice(0, events.len().min(columns.num_rows()));
        match columnar::in_json(&self.worker.stream, range, &columns) {
            Ok(events) => Cow::Owned(events),
            Err(reason) => {
                error!(function = %self.worker.function, reason, %range.partition, first = %range.first,
                    "records cannot be told as JSON; their dead letters are without them");
                Cow::Borrowed(events)
            }
        }
    }

    /// Commits what the function answered to columns, and with it the record of the invocation.
    pub(super) async fn accept_columns(
        &self,
        entry: &Entry,
        range: OffsetRange,
        answer: Vec<u8>,
        row: &mut Option<InvocationRow>,
    ) -> Result<Accepted, Stopped> {
        let writes = match self.column_writes(entry, answer) {
            Ok(writes) => writes,
            Err(reason) => return Ok(Accepted::bad_output(reason)),
        };
        Ok(
            match self.commit_with(writes, range.end, None, row).await? {
                Ok(()) => Accepted::Delivery(Delivery::Done),
                Err(reason) => Accepted::bad_output(reason),
            },
        )
    }

    /// What is appended to the output stream.
    fn column_writes(&self, entry: &Entry, answer: Vec<u8>) -> Result<Vec<Write>, String> {
        let options = &self.worker.inner.options;
        let Some(name) = entry.info.output.as_ref().filter(|_| !answer.is_empty()) else {
            return Ok(Vec::new());
        };
        let stream = (options.lookup)(name.as_str())
            .ok_or_else(|| format!("the output stream `{name}` does not exist any more"))?;
        let batch = (options.decode_arrow)(&stream, answer)
            .map_err(|reason| format!("the output does not fit stream `{name}`: {reason}"))?;
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        Ok(vec![Write {
            stream: stream.id,
            partition: None,
            batch,
            schema: Some(stream.schema_version()),
        }])
    }
}
