//! Outside data into records: bytes of a known format, checked against a stream's columns.
//!
//! [`decode`] is strict: what it accepts is exactly what was sent, nothing is rounded, guessed or left out. What it
//! refuses it names: line or row, column, what was expected, what was found. [`split`] cuts files into pieces of
//! request size at record boundaries; [`several`] takes bodies apart that hold records of several streams.
//!
//! The room does not append; it knows neither HTTP nor the log's files.

mod calendar;
mod column;
mod columnar;
mod csv;
pub mod dead_letter;
mod decode;
pub mod error;
pub mod format;
mod json;
pub mod several;
pub mod split;
mod text;

pub use dead_letter::{dead_letter_schema, dead_letters};
pub use decode::{
    Decoded, OnError, arrow_answer, decode, decode_within, decoded_bytes_max, json_list,
};
pub use error::{BadRecord, Error, Place};
pub use format::Format;
pub use split::{Chunk, Chunks, line_in_file};
