//! Columns as one Arrow IPC stream and back, on their way to `handle-batch`.
//!
//! Pure. What a component answers is taken for what a stranger sent: it may be damaged, or claim more than it has.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, RecordBatch, new_empty_array},
    buffer::Buffer,
    compute::{cast, concat},
    datatypes::DataType,
    error::ArrowError,
    ipc::{reader::StreamDecoder, writer::StreamWriter},
};

/// The records as an Arrow IPC stream with its end.
pub fn encode(records: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), records.schema_ref())?;
    writer.write(records)?;
    writer.into_inner()
}

/// The one column of an IPC stream; the error says what is wrong with it.
pub fn decode(
    stream: Vec<u8>,
    data_type: &DataType,
    nullable: bool,
    rows: usize,
) -> Result<ArrayRef, String> {
    // The reader is not proof against every damaged stream; a panic of its is such a stream's error.
    catch_unwind(AssertUnwindSafe(|| read(stream, data_type, nullable, rows)))
        .unwrap_or_else(|_| Err("its answer is a damaged Arrow IPC stream".to_owned()))
}

fn read(
    stream: Vec<u8>,
    data_type: &DataType,
    nullable: bool,
    rows: usize,
) -> Result<ArrayRef, String> {
    let damaged = |error: ArrowError| {
        format!("its answer is not an Arrow IPC stream that can be read: {error}")
    };
    lambic_model::ipc::check_stream(&stream).map_err(damaged)?;
    let wrong_count = |found: usize| format!("its answer has {found} rows for {rows} rows");
    let mut decoder = StreamDecoder::new();
    let mut left = Buffer::from(stream);
    let mut parts = Vec::new();
    let mut found = 0_usize;
    while !left.is_empty() {
        let Some(batch) = decoder.decode(&mut left).map_err(damaged)? else {
            continue;
        };
        let part = only_column(&batch, data_type)?;
        found = found.saturating_add(part.len());
        // Before anything is done with what it claims to have.
        if found > rows {
            return Err(wrong_count(found));
        }
        if !nullable && part.null_count() > 0 {
            return Err("its answer has a NULL, and its result is not an option<>".to_owned());
        }
        parts.push(part);
    }
    decoder.finish().map_err(damaged)?;
    if found != rows {
        return Err(wrong_count(found));
    }
    match parts.as_slice() {
        [] => Ok(new_empty_array(data_type)),
        [one] => Ok(Arc::clone(one)),
        several => {
            let several: Vec<_> = several.iter().map(|part| part.as_ref()).collect();
            concat(&several).map_err(damaged)
        }
    }
}

fn only_column(batch: &RecordBatch, data_type: &DataType) -> Result<ArrayRef, String> {
    let [column] = batch.columns() else {
        return Err(format!(
            "its answer has {} columns instead of one",
            batch.num_columns()
        ));
    };
    match (column.data_type(), data_type) {
        (found, wanted) if found == wanted => Ok(Arc::clone(column)),
        // As some libraries write every text. Types that share values among rows would grow when they are read.
        (DataType::LargeUtf8, DataType::Utf8) => {
            cast(column, data_type).map_err(|error| error.to_string())
        }
        (found, wanted) => Err(format!(
            "its answer is of the Arrow type {found} instead of {wanted}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Int32Array, LargeStringArray, StringArray},
        datatypes::{Field, Schema},
    };

    use super::*;

    fn stream(columns: Vec<ArrayRef>) -> Vec<u8> {
        let fields = columns
            .iter()
            .enumerate()
            .map(|(index, column)| Field::new(index.to_string(), column.data_type().clone(), true));
        let schema = Schema::new(fields.collect::<Vec<_>>());
        encode(&RecordBatch::try_new(Arc::new(schema), columns).unwrap()).unwrap()
    }

    fn numbers(numbers: &[Option<i32>]) -> ArrayRef {
        Arc::new(Int32Array::from(numbers.to_vec()))
    }

    #[test]
    fn a_column_comes_back_as_it_went() {
        let column = numbers(&[Some(1), None, Some(3)]);
        let back = decode(stream(vec![column.clone()]), &DataType::Int32, true, 3);
        assert_eq!(&back.unwrap(), &column);
        // A part of an array is sent alone.
        let part = column.slice(2, 1);
        let back = decode(stream(vec![part.clone()]), &DataType::Int32, false, 1);
        assert_eq!(&back.unwrap(), &part);
        let large: ArrayRef = Arc::new(LargeStringArray::from(vec!["a", "b"]));
        let back = decode(stream(vec![large]), &DataType::Utf8, false, 2).unwrap();
        let expected: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
        assert_eq!(&back, &expected);
    }

    #[test]
    fn answers_that_do_not_fit_are_explained() {
        let two = || numbers(&[Some(1), None]);
        let check = |stream: Vec<u8>, data_type: DataType, expected: &str| {
            let error = decode(stream, &data_type, false, 2).unwrap_err();
            assert!(error.contains(expected), "{error} / {expected}");
        };
        check(stream(vec![two()]), DataType::Int32, "has a NULL");
        check(
            stream(vec![two()]),
            DataType::Int64,
            "Int32 instead of Int64",
        );
        check(stream(vec![two(), two()]), DataType::Int32, "2 columns");
        for wrong in [1, 3] {
            let column = numbers(&vec![Some(1); wrong]);
            let expected = format!("{wrong} rows for 2 rows");
            check(stream(vec![column]), DataType::Int32, &expected);
        }
        check(Vec::new(), DataType::Int32, "0 rows for 2 rows");
        check(
            b"no stream at all".to_vec(),
            DataType::Int32,
            "its answer is",
        );
    }

    /// Neither a panic nor more memory than there are bytes.
    #[test]
    fn damaged_answers_are_errors_or_values() {
        let whole = stream(vec![numbers(&[Some(1), Some(2)])]);
        for at in 0..whole.len() {
            for flipped in [0x01, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= flipped;
                let _ = decode(damaged, &DataType::Int32, true, 2);
            }
        }
        // Without the marker at its end it is taken if its last batch is whole.
        for length in 0..whole.len() - 8 {
            let cut = whole[..length].to_vec();
            assert!(decode(cut, &DataType::Int32, true, 2).is_err(), "{length}");
        }
    }
}
