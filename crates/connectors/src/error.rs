//! What was wrong with the input, and where.

use std::fmt;

use arrow::datatypes::DataType;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One record is wrong; nothing of the input was taken.
    #[error("{0}")]
    Record(Box<BadRecord>),

    /// The input as a whole cannot be read.
    #[error("the {format} input cannot be read: {reason}")]
    Input {
        format: &'static str,
        reason: String,
    },

    /// The input is short enough, but not what it stands for.
    #[error(
        "the {format} input is over the limit of {bytes_max} bytes once it is decoded; send it in several requests, or \
         raise `append_bytes_max`"
    )]
    TooLarge {
        format: &'static str,
        bytes_max: usize,
    },

    /// A file's column does not fit the stream at all, whatever its values are.
    #[error("column `{column}` is {found} in the input and {expected} in the stream; {hint}")]
    ColumnType {
        column: String,
        expected: DataType,
        found: DataType,
        hint: &'static str,
    },

    #[error(
        "column `{column}` of type {data_type} cannot be read from outside yet; append to it with INSERT"
    )]
    UnsupportedColumn { column: String, data_type: DataType },

    #[error("`{what}` is not a known format; use one of {known}")]
    UnknownFormat { what: String, known: &'static str },

    #[error("reading `{path}` failed: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn record(bad: BadRecord) -> Error {
        Error::Record(Box::new(bad))
    }
}

/// What [`BadRecord::line`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Lines of text, from 1; a record may span several, the first counts.
    Line,
    /// Rows of a columnar file, from 1.
    Row,
    /// Records of a JSON list, from 1, of which this one begins on that line.
    Record { line: u64 },
}

/// One record that does not fit its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    pub place: Place,
    /// From 1.
    pub line: u64,
    pub column: Option<String>,
    pub expected: String,
    pub found: String,
    pub hint: Option<String>,
    /// The record as it came, for the dead-letter stream.
    pub raw: String,
}

impl BadRecord {
    /// What was expected and found, without the place.
    pub fn reason(&self) -> String {
        let hint = match &self.hint {
            Some(hint) => format!("; {hint}"),
            None => String::new(),
        };
        format!("expected {}, found {}{hint}", self.expected, self.found)
    }
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line;
        match self.place {
            Place::Line => write!(f, "line {number}")?,
            Place::Row => write!(f, "row {number}")?,
            Place::Record { line } => write!(f, "record {number} on line {line}")?,
        }
        if let Some(column) = &self.column {
            write!(f, ", column `{column}`")?;
        }
        write!(f, ": {}", self.reason())
    }
}

/// Why a record or one of its values does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub column: Option<String>,
    pub expected: String,
    pub found: String,
    pub hint: Option<String>,
}

impl Mismatch {
    pub fn new(expected: impl Into<String>, found: impl Into<String>) -> Mismatch {
        Mismatch {
            column: None,
            expected: expected.into(),
            found: found.into(),
            hint: None,
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Mismatch {
        self.hint = Some(hint.into());
        self
    }

    pub fn column(mut self, column: impl Into<String>) -> Mismatch {
        self.column = Some(column.into());
        self
    }

    pub fn at(self, place: Place, line: u64, raw: impl Into<String>) -> BadRecord {
        BadRecord {
            place,
            line,
            column: self.column,
            expected: self.expected,
            found: self.found,
            hint: self.hint,
            raw: raw.into(),
        }
    }
}

/// Bytes as text, those that are no UTF-8 as `\xff`: a record that was refused can be had back.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text += chunk.valid();
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    text
}

/// A value as an error shows it: quoted, and not longer than a line.
pub(crate) fn shown(value: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut short: String = value.chars().take(CHARS_MAX).collect();
    if short.len() < value.len() {
        short.push('…');
    }
    format!("{short:?}")
}
