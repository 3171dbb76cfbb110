//! Arrow IPC of strangers: what must hold before one of Arrow's readers sees it.
//!
//! For a compressed buffer the readers take as much memory as it says that it will need; where there is not so much, the
//! program ends, which no caller can catch. What is compressed is refused, therefore. All else that may be wrong is left
//! to the readers. Pure.

use arrow::{error::ArrowError, ipc::root_as_message};

/// Before the length of a message.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Of a message.
const LENGTH_BYTES: usize = 4;

/// Checks the messages of an IPC stream, up to its end or where it is cut.
pub fn check_stream(stream: &[u8]) -> Result<(), ArrowError> {
    let mut left = Some(stream);
    while let Some(stream) = left {
        left = check_next(stream)?;
    }
    Ok(())
}

/// Checks a block of an IPC file: a message and its body.
pub fn check_block(block: &[u8]) -> Result<(), ArrowError> {
    let message = block.strip_prefix(&CONTINUATION).unwrap_or(block);
    check_message(message.get(LENGTH_BYTES..).unwrap_or_default()).map(drop)
}

/// What comes after the first message of a stream and its body.
fn check_next(stream: &[u8]) -> Result<Option<&[u8]>, ArrowError> {
    let stream = stream.strip_prefix(&CONTINUATION).unwrap_or(stream);
    let Some((length, rest)) = stream.split_first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length) as usize;
    match rest.split_at_checked(length) {
        // Without a message is the end of the stream.
        Some((message, rest)) if length > 0 => {
            let body_bytes = usize::try_from(check_message(message)?);
            Ok(body_bytes.ok().and_then(|bytes| rest.get(bytes..)))
        }
        _ => Ok(None),
    }
}

/// How many bytes the body of a message has.
fn check_message(message: &[u8]) -> Result<i64, ArrowError> {
    let message =
        root_as_message(message).map_err(|error| ArrowError::ParseError(error.to_string()))?;
    let of_dictionary = || message.header_as_dictionary_batch()?.data();
    let values = message.header_as_record_batch().or_else(of_dictionary);
    if values.is_some_and(|values| values.compression().is_some()) {
        return Err(ArrowError::InvalidArgumentError(
            "its buffers are compressed; write it without compression".to_owned(),
        ));
    }
    Ok(message.bodyLength())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, DictionaryArray, Int32Array, RecordBatch},
        datatypes::Int32Type,
        ipc::writer::{FileWriter, StreamWriter},
    };

    use super::*;

    /// One column of 64 zeros, as pyarrow writes it with LZ4; one of a text as a dictionary, with Zstandard.
    const COMPRESSED: [&[u8]; 2] = [
        include_bytes!("../fixtures/lz4.arrows"),
        include_bytes!("../fixtures/dictionary-zstd.arrows"),
    ];

    #[test]
    fn what_is_compressed_is_refused() {
        for stream in COMPRESSED {
            let error = check_stream(stream).unwrap_err();
            assert!(error.to_string().contains("compressed"), "{error}");
        }
    }

    #[test]
    fn what_is_not_is_left_to_its_reader() {
        let texts: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
        let numbers = Int32Array::from(vec![1, 2, 3]);
        let batch = RecordBatch::try_from_iter([
            ("texts", Arc::new(texts) as ArrayRef),
            ("numbers", Arc::new(numbers) as ArrayRef),
        ])
        .unwrap();
        let mut stream = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        stream.write(&batch).unwrap();
        stream.write(&batch).unwrap();
        let stream = stream.into_inner().unwrap();
        for length in 0..=stream.len() {
            check_stream(&stream[..length]).unwrap();
        }
        assert!(check_stream(b"\x08\0\0\0no flatbuffer at all").is_err());
        let mut file = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        file.write(&batch).unwrap();
        let file = file.into_inner().unwrap();
        // The schema is a message as well.
        let at = file.windows(4).position(|bytes| bytes == CONTINUATION);
        check_block(&file[at.unwrap()..]).unwrap();
        assert!(check_block(b"").is_err());
    }
}
