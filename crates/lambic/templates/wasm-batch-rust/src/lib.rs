//! Writes the texts of a stream's records in capitals; all else stays as it is.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, RecordBatch, StringArray},
    datatypes::DataType,
    error::ArrowError,
    ipc::{reader::StreamReader, writer::StreamWriter},
};

wit_bindgen::generate!({ world: "batch", path: "wit" });

struct Function;

export!(Function);

impl Guest for Function {
    fn handle_batch(batch: Vec<u8>) -> Result<Vec<u8>, String> {
        answer(&batch).map_err(|error| error.to_string())
    }
}

/// One Arrow IPC stream of another: a schema and its record batches.
fn answer(batch: &[u8]) -> Result<Vec<u8>, ArrowError> {
    let reader = StreamReader::try_new(batch, None)?;
    let mut writer = StreamWriter::try_new(Vec::new(), &reader.schema())?;
    let mut count = 0;
    for records in reader {
        let records = in_capitals(&records?)?;
        count += records.num_rows();
        writer.write(&records)?;
    }
    // A line of `lambic function logs {{name}}`.
    log(&format!("{count} records"));
    writer.into_inner()
}

fn in_capitals(records: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = records.columns().iter().map(|column| -> ArrayRef {
        match column.data_type() {
            DataType::Utf8 => {
                let texts = column.as_string::<i32>().iter();
                let texts = texts.map(|text| text.map(str::to_uppercase));
                Arc::new(texts.collect::<StringArray>())
            }
            _ => column.clone(),
        }
    });
    RecordBatch::try_new(records.schema(), columns.collect())
}
