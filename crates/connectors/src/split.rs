//! Cuts files into pieces of request size at record boundaries, holding one piece at a time in memory.
//!
//! The same file with the same size is always cut in the same places, so that an interrupted upload can be repeated
//! with the same producer and sequences.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufReader, Read, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use arrow::{
    array::RecordBatch,
    error::ArrowError,
    ipc::{
        reader::{FileReader, StreamReader},
        writer::StreamWriter,
    },
};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::{
    Error, Format,
    columnar::{STREAM_END, no_stream_end},
    json::newlines,
};

/// A single record, or a JSON file, larger than this is refused: it would not fit into a request.
const RECORD_BYTES_MAX: usize = 64 << 20;
const READ_BYTES: usize = 256 << 10;

/// A piece of a file, a valid body of its format.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The format of `body`: Parquet files are cut into Arrow IPC streams.
    pub format: Format,
    pub body: Bytes,
    /// As far as can be told without decoding: for JSON it is 0.
    pub records: u64,
    /// The line (or row) of the file at which the first record stands, from 1.
    pub first_line: u64,
    /// Lines that the body begins with and that stand elsewhere in the file: CSV's header.
    pub header_lines: u64,
    /// How much of the file is read once this piece is sent; of [`Chunks::bytes_total`].
    pub bytes_read: u64,
}

impl Chunk {
    /// The line (or row) of the file for one that an error names in this piece's body.
    pub fn file_line(&self, line: u64) -> u64 {
        line_in_file(line, self.first_line, self.header_lines)
    }
}

/// The line of a file for one of a piece that begins with so many lines of the file's head, and whose first record
/// stands at `first_line`.
pub fn line_in_file(line: u64, first_line: u64, header_lines: u64) -> u64 {
    match line.checked_sub(header_lines.saturating_add(1)) {
        None => line,
        Some(before) => first_line.saturating_add(before),
    }
}

/// The pieces of one file, in order. After an error there are no more.
pub struct Chunks {
    source: Source,
    bytes_total: Option<u64>,
    failed: bool,
}

enum Source {
    Lines(Lines),
    Whole(Option<Whole>),
    Batches(Box<Batches>),
}

struct Whole {
    reader: Box<dyn Read + Send>,
    name: PathBuf,
}

impl Chunks {
    /// Pieces of about `chunk_bytes`, of the file at `path`.
    pub fn open(
        path: impl AsRef<Path>,
        format: Format,
        chunk_bytes: usize,
    ) -> Result<Chunks, Error> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| failed(path, source))?;
        let bytes_total = file
            .metadata()
            .map_err(|source| failed(path, source))?
            .len();
        let source = match format {
            Format::Ndjson | Format::Json | Format::Csv => {
                let mut chunks = Chunks::read(file, format, chunk_bytes)?;
                chunks.rename(path);
                chunks.source
            }
            Format::Parquet => {
                Source::Batches(Box::new(Batches::parquet(file, bytes_total, chunk_bytes)?))
            }
            Format::Arrow => Source::Batches(Box::new(Batches::arrow(
                file,
                path,
                bytes_total,
                chunk_bytes,
            )?)),
        };
        Ok(Chunks {
            source,
            bytes_total: Some(bytes_total),
            failed: false,
        })
    }

    /// Pieces of what `reader` gives, such as standard input; for the formats that are text.
    pub fn read(
        reader: impl Read + Send + 'static,
        format: Format,
        chunk_bytes: usize,
    ) -> Result<Chunks, Error> {
        let reader: Box<dyn Read + Send> = Box::new(reader);
        let name = PathBuf::from("-");
        let source = match format {
            Format::Ndjson | Format::Csv => {
                Source::Lines(Lines::new(reader, name, format, chunk_bytes.max(1)))
            }
            Format::Json => Source::Whole(Some(Whole { reader, name })),
            Format::Parquet | Format::Arrow => {
                return Err(Error::Input {
                    format: format.name(),
                    reason: "it cannot be read from a pipe; write it to a file first".to_owned(),
                });
            }
        };
        Ok(Chunks {
            source,
            bytes_total: None,
            failed: false,
        })
    }

    /// The file's size; `None` if it is read from a pipe.
    pub fn bytes_total(&self) -> Option<u64> {
        self.bytes_total
    }

    fn rename(&mut self, path: &Path) {
        match &mut self.source {
            Source::Lines(lines) => lines.name = path.to_owned(),
            Source::Whole(Some(whole)) => whole.name = path.to_owned(),
            _ => {}
        }
    }
}

impl Iterator for Chunks {
    type Item = Result<Chunk, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = match &mut self.source {
            Source::Lines(lines) => lines.next().transpose(),
            Source::Whole(whole) => whole.take().map(Whole::read),
            Source::Batches(batches) => batches.next().transpose(),
        };
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

fn failed(path: &Path, source: std::io::Error) -> Error {
    Error::Read {
        path: path.display().to_string(),
        source,
    }
}

impl Whole {
    fn read(self) -> Result<Chunk, Error> {
        let mut body = Vec::new();
        self.reader
            .take(RECORD_BYTES_MAX as u64 + 1)
            .read_to_end(&mut body)
            .map_err(|source| failed(&self.name, source))?;
        if body.len() > RECORD_BYTES_MAX {
            return Err(Error::Input {
                format: Format::Json.name(),
                reason: "an array of more than 64 MiB cannot be cut; write one record per line (NDJSON), for \
                         instance with `jq -c '.[]'`"
                    .to_owned(),
            });
        }
        Ok(Chunk {
            format: Format::Json,
            records: 0,
            first_line: 1,
            header_lines: 0,
            bytes_read: body.len() as u64,
            body: body.into(),
        })
    }
}

/// Text in which a newline, outside of quotes if it is CSV, ends a record.
struct Lines {
    reader: Box<dyn Read + Send>,
    name: PathBuf,
    format: Format,
    chunk_bytes: usize,
    /// Read and not yet given out.
    buffer: Vec<u8>,
    /// How far `buffer` was looked at, and whether that is within quotes.
    seen: usize,
    in_quotes: bool,
    /// Behind the last record that `buffer` holds wholly, and how many these are.
    boundary: usize,
    records: u64,
    record_is_blank: bool,
    header: Option<Vec<u8>>,
    /// A piece was given, and the header with it.
    given: bool,
    line: u64,
    bytes_read: u64,
    at_end: bool,
}

impl Lines {
    fn new(
        reader: Box<dyn Read + Send>,
        name: PathBuf,
        format: Format,
        chunk_bytes: usize,
    ) -> Lines {
        Lines {
            reader,
            name,
            format,
            chunk_bytes,
            buffer: Vec::new(),
            seen: 0,
            in_quotes: false,
            boundary: 0,
            records: 0,
            record_is_blank: true,
            header: (format != Format::Csv).then(Vec::new),
            given: false,
            line: 1,
            bytes_read: 0,
            at_end: false,
        }
    }

    fn next(&mut self) -> Result<Option<Chunk>, Error> {
        if self.header.is_none() {
            let mut header = Vec::new();
            loop {
                // Up to the first boundary, and not a byte further.
                self.fill(1)?;
                let (piece, records) = self.take();
                header.extend_from_slice(&piece);
                if records > 0 || (self.at_end && self.buffer.is_empty()) {
                    break;
                }
            }
            self.header = Some(header);
        }
        loop {
            self.fill(self.chunk_bytes)?;
            let is_end = self.buffer.is_empty();
            let header = self.header.as_deref().unwrap_or_default();
            // A header alone is given too: it may be wrong.
            if is_end && (self.given || header.trim_ascii().is_empty()) {
                return Ok(None);
            }
            let first_line = self.line;
            let (piece, records) = self.take();
            if records == 0 && !is_end {
                continue;
            }
            self.given = true;
            let header = self.header.as_deref().unwrap_or_default();
            let mut body = header.to_vec();
            if !body.is_empty() && !body.ends_with(b"\n") {
                body.push(b'\n');
            }
            body.extend_from_slice(&piece);
            return Ok(Some(Chunk {
                format: self.format,
                body: body.into(),
                records,
                first_line,
                header_lines: newlines(header),
                bytes_read: self.bytes_read,
            }));
        }
    }

    /// Takes the whole records out of the buffer, and says how many they are.
    fn take(&mut self) -> (Vec<u8>, u64) {
        let rest = self.buffer.split_off(self.boundary);
        let piece = std::mem::replace(&mut self.buffer, rest);
        self.line += newlines(&piece);
        self.bytes_read += piece.len() as u64;
        // What is left was not looked at, or is a part of a record: look again from its beginning.
        self.seen = 0;
        self.in_quotes = false;
        self.record_is_blank = true;
        self.boundary = 0;
        (piece, std::mem::take(&mut self.records))
    }

    /// Reads until the buffer's whole records have at least `bytes`, or everything is read.
    fn fill(&mut self, bytes: usize) -> Result<(), Error> {
        loop {
            if self.scan(bytes) {
                return Ok(());
            }
            if self.at_end {
                self.records += u64::from(!self.record_is_blank);
                self.boundary = self.buffer.len();
                return Ok(());
            }
            if self.buffer.len() - self.boundary > RECORD_BYTES_MAX {
                let line = self.line + newlines(&self.buffer[..self.boundary]);
                let quote = if self.in_quotes {
                    ": a quoted field in it is not closed"
                } else {
                    ""
                };
                return Err(Error::Input {
                    format: self.format.name(),
                    reason: format!(
                        "the record that begins in line {line} is longer than 64 MiB{quote}"
                    ),
                });
            }
            let length = self.buffer.len();
            self.buffer.resize(length + READ_BYTES, 0);
            let read = self.reader.read(&mut self.buffer[length..]);
            let read = match read {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {
                    self.buffer.truncate(length);
                    continue;
                }
                read => read.map_err(|source| failed(&self.name, source))?,
            };
            self.buffer.truncate(length + read);
            self.at_end = read == 0;
        }
    }

    /// Looks for boundaries in what was read; true once the whole records have at least `bytes`.
    fn scan(&mut self, bytes: usize) -> bool {
        let quotes = self.format == Format::Csv;
        while self.seen < self.buffer.len() {
            let byte = self.buffer[self.seen];
            self.seen += 1;
            match byte {
                b'"' if quotes => {
                    self.in_quotes = !self.in_quotes;
                    self.record_is_blank = false;
                }
                b'\n' if !self.in_quotes => {
                    self.boundary = self.seen;
                    self.records += u64::from(!self.record_is_blank);
                    self.record_is_blank = true;
                    if self.boundary >= bytes {
                        return true;
                    }
                }
                byte => self.record_is_blank &= byte.is_ascii_whitespace(),
            }
        }
        false
    }
}

/// Columnar files, given out as Arrow IPC streams.
struct Batches {
    reader: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>,
    format: Format,
    chunk_bytes: usize,
    waiting: VecDeque<RecordBatch>,
    rows_given: u64,
    /// In the file, if it says so.
    rows_total: Option<u64>,
    bytes_total: u64,
}

impl Batches {
    fn parquet(file: File, bytes_total: u64, chunk_bytes: usize) -> Result<Batches, Error> {
        let unreadable = |error: parquet::errors::ParquetError| Error::Input {
            format: Format::Parquet.name(),
            reason: format!("it is damaged, cut or of another format: {error}"),
        };
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(unreadable)?;
        let metadata = builder.metadata().clone();
        let rows = metadata.file_metadata().num_rows().max(0) as u64;
        let bytes: i64 = metadata
            .row_groups()
            .iter()
            .map(|group| group.total_byte_size())
            .sum();
        let row_bytes = (bytes.max(0) as u64 / rows.max(1)).max(1);
        let batch_rows = (chunk_bytes as u64 / row_bytes).clamp(1, 65_536) as usize;
        let reader = builder
            .with_batch_size(batch_rows)
            .build()
            .map_err(unreadable)?;
        Ok(Batches {
            reader: Box::new(reader),
            format: Format::Parquet,
            chunk_bytes,
            waiting: VecDeque::new(),
            rows_given: 0,
            rows_total: Some(rows),
            bytes_total,
        })
    }

    fn arrow(
        mut file: File,
        path: &Path,
        bytes_total: u64,
        chunk_bytes: usize,
    ) -> Result<Batches, Error> {
        let unreadable = |error: ArrowError| Error::Input {
            format: Format::Arrow.name(),
            reason: format!("it is damaged, cut or of another format: {error}"),
        };
        let mut magic = [0; 6];
        let is_file = file.read_exact(&mut magic).is_ok() && &magic == b"ARROW1";
        if !is_file {
            let mut end = [0; STREAM_END.len()];
            let is_whole = file.seek(SeekFrom::End(-(end.len() as i64))).is_ok()
                && file.read_exact(&mut end).is_ok()
                && end == STREAM_END;
            if !is_whole {
                return Err(no_stream_end());
            }
        }
        file.rewind().map_err(|source| failed(path, source))?;
        let file = BufReader::new(file);
        let reader: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send> = if is_file {
            Box::new(FileReader::try_new(file, None).map_err(unreadable)?)
        } else {
            Box::new(StreamReader::try_new(file, None).map_err(unreadable)?)
        };
        Ok(Batches {
            reader,
            format: Format::Arrow,
            chunk_bytes,
            waiting: VecDeque::new(),
            rows_given: 0,
            rows_total: None,
            bytes_total,
        })
    }

    fn next(&mut self) -> Result<Option<Chunk>, Error> {
        let unreadable = |format: Format, rows: u64, error: ArrowError| Error::Input {
            format: format.name(),
            reason: format!("it is damaged or cut after row {rows}: {error}"),
        };
        let (batch, body) = loop {
            let batch = match self.waiting.pop_front() {
                Some(batch) => batch,
                None => match self.reader.next() {
                    None => return Ok(None),
                    Some(batch) => {
                        batch.map_err(|error| unreadable(self.format, self.rows_given, error))?
                    }
                },
            };
            let rows = batch.num_rows();
            if rows == 0 {
                continue;
            }
            let body = ipc_stream(&batch)
                .map_err(|error| unreadable(self.format, self.rows_given, error))?;
            // What a row takes was only estimated: a batch that came out much too large goes in halves.
            if body.len() > self.chunk_bytes.saturating_mul(2) && rows > 1 {
                self.waiting
                    .push_front(batch.slice(rows / 2, rows - rows / 2));
                self.waiting.push_front(batch.slice(0, rows / 2));
                continue;
            }
            break (batch, body);
        };
        let first_line = self.rows_given + 1;
        let records = batch.num_rows() as u64;
        self.rows_given += records;
        let bytes_read = match self.rows_total {
            Some(rows) => {
                (u128::from(self.bytes_total) * u128::from(self.rows_given)
                    / u128::from(rows.max(1))) as u64
            }
            None => 0,
        };
        Ok(Some(Chunk {
            format: Format::Arrow,
            body: body.into(),
            records,
            first_line,
            header_lines: 0,
            bytes_read,
        }))
    }
}

fn ipc_stream(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(batch)?;
    writer.into_inner()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn check(format: Format, text: &'static str, chunk_bytes: usize, expected: Expect) {
        let chunks = Chunks::read(Cursor::new(text), format, chunk_bytes).unwrap();
        let shown: Vec<String> = chunks
            .map(|chunk| {
                let chunk = chunk.unwrap();
                format!(
                    "{} records from line {}, {} bytes read: {:?}\n",
                    chunk.records,
                    chunk.first_line,
                    chunk.bytes_read,
                    String::from_utf8_lossy(&chunk.body)
                )
            })
            .collect();
        expected.assert_eq(&shown.concat());
    }

    #[test]
    fn lines_are_cut_at_newlines() {
        check(
            Format::Ndjson,
            "{\"a\":1}\n\n{\"a\":2}\n{\"a\":3}\n\n{\"a\":4}",
            9,
            expect![[r#"
                1 records from line 1, 9 bytes read: "{\"a\":1}\n\n"
                2 records from line 3, 25 bytes read: "{\"a\":2}\n{\"a\":3}\n"
                1 records from line 5, 33 bytes read: "\n{\"a\":4}"
            "#]],
        );
        check(Format::Ndjson, "", 9, expect![""]);
        check(Format::Ndjson, "\n\n", 1, expect![""]);
    }

    #[test]
    fn csv_keeps_quoted_newlines_together_and_repeats_the_header() {
        check(
            Format::Csv,
            "a,b\n1,\"x\ny\"\n2,\"say \"\"hi\"\"\n\"\n3,z",
            8,
            expect![[r#"
                1 records from line 2, 12 bytes read: "a,b\n1,\"x\ny\"\n"
                1 records from line 4, 28 bytes read: "a,b\n2,\"say \"\"hi\"\"\n\"\n"
                1 records from line 6, 31 bytes read: "a,b\n3,z"
            "#]],
        );
        check(
            Format::Csv,
            "a,b",
            8,
            expect![[r#"
                0 records from line 1, 3 bytes read: "a,b\n"
            "#]],
        );
        check(Format::Csv, "\n\n", 8, expect![""]);
        check(
            Format::Csv,
            "\n\na\n1\n",
            8,
            expect![[r#"
                1 records from line 4, 6 bytes read: "\n\na\n1\n"
            "#]],
        );
    }

    #[test]
    fn an_error_in_a_piece_is_found_in_the_file() {
        let chunk = Chunks::read(Cursor::new("\"a\nb\",c\n1,2\n3,4\n"), Format::Csv, 4)
            .unwrap()
            .nth(1)
            .unwrap()
            .unwrap();
        assert_eq!(&chunk.body[..], b"\"a\nb\",c\n3,4\n");
        assert_eq!(chunk.first_line, 4);
        assert_eq!(chunk.file_line(3), 4);
        assert_eq!(chunk.file_line(1), 1);
        assert_eq!(line_in_file(3, u64::MAX, 1), u64::MAX);
        assert_eq!(line_in_file(3, 7, u64::MAX), 3);
    }

    proptest! {
        #[test]
        fn the_pieces_are_the_whole(
            lines in prop::collection::vec("[a-z ]{0,12}|\"[a-z,\n]{0,5}\"", 0..40),
            chunk_bytes in 1usize..64,
            last_newline: bool,
        ) {
            let mut text = lines.join("\n");
            if last_newline {
                text.push('\n');
            }
            let csv = format!("h1\n{text}");
            let chunks = Chunks::read(Cursor::new(csv.clone()), Format::Csv, chunk_bytes).unwrap();
            let chunks: Vec<_> = chunks.map(Result::unwrap).collect();
            let data: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.body[3..].to_vec()).collect();
            // Only blank lines may be left out, between pieces or at the end.
            let solid = |bytes: &[u8]| -> Vec<u8> {
                bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect()
            };
            prop_assert_eq!(solid(&data), solid(text.as_bytes()));
            for chunk in &chunks {
                // The header alone, where nothing follows.
                prop_assert!(chunk.records > 0 || chunks.len() == 1);
                let lines_before = csv.lines().take(chunk.first_line as usize - 1).count() as u64;
                prop_assert_eq!(lines_before, chunk.first_line - 1);
            }
        }
    }
}
