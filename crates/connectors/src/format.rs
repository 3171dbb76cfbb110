//! The formats that records come in, by file name and by content type.

use std::path::Path;

use crate::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// One JSON object per line.
    Ndjson,
    /// An array of JSON objects, or one object.
    Json,
    /// RFC 4180 with a header line that names the columns in any order. An empty field is NULL, `""` is empty text.
    Csv,
    Parquet,
    /// Arrow IPC, stream or file.
    Arrow,
}

impl Format {
    pub const ALL: [Format; 5] = [
        Format::Ndjson,
        Format::Json,
        Format::Csv,
        Format::Parquet,
        Format::Arrow,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Format::Ndjson => "NDJSON",
            Format::Json => "JSON",
            Format::Csv => "CSV",
            Format::Parquet => "Parquet",
            Format::Arrow => "Arrow IPC",
        }
    }

    /// The content type under which this format is sent.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Ndjson => "application/x-ndjson",
            Format::Json => "application/json",
            Format::Csv => "text/csv",
            Format::Parquet => "application/vnd.apache.parquet",
            Format::Arrow => "application/vnd.apache.arrow.stream",
        }
    }

    /// By the file's extension.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Format, Error> {
        let path = path.as_ref();
        let extension = path
            .extension()
            .map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        Ok(match extension.as_deref() {
            Some("ndjson" | "jsonl") => Format::Ndjson,
            Some("json") => Format::Json,
            Some("csv") => Format::Csv,
            Some("parquet" | "pq") => Format::Parquet,
            Some("arrow" | "arrows" | "ipc" | "feather") => Format::Arrow,
            _ => {
                return Err(Error::UnknownFormat {
                    what: path.display().to_string(),
                    known: "the extensions .ndjson, .jsonl, .json, .csv, .parquet, .arrow (uncompressed)",
                });
            }
        })
    }

    /// By an HTTP `Content-Type`; its parameters, such as the character set, are not looked at: text is UTF-8.
    pub fn from_content_type(content_type: &str) -> Result<Format, Error> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        Ok(match essence.to_ascii_lowercase().as_str() {
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/jsonlines" => Format::Ndjson,
            "application/json" | "text/json" => Format::Json,
            "text/csv" | "application/csv" => Format::Csv,
            "application/vnd.apache.parquet" | "application/parquet" | "application/x-parquet" => {
                Format::Parquet
            }
            "application/vnd.apache.arrow.stream"
            | "application/vnd.apache.arrow.file"
            | "application/x-arrow" => Format::Arrow,
            _ => {
                return Err(Error::UnknownFormat {
                    what: content_type.to_owned(),
                    known: "application/x-ndjson, application/json, text/csv, application/vnd.apache.parquet, \
                            application/vnd.apache.arrow.stream",
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_content_type_names_its_format() {
        for format in Format::ALL {
            assert_eq!(
                Format::from_content_type(format.content_type()).unwrap(),
                format
            );
        }
        assert_eq!(
            Format::from_content_type("Text/CSV; charset=utf-8").unwrap(),
            Format::Csv
        );
        assert!(Format::from_content_type("text/plain").is_err());
    }

    #[test]
    fn extensions_name_formats() {
        for (path, format) in [
            ("a/b.JSONL", Some(Format::Ndjson)),
            ("b.json", Some(Format::Json)),
            ("b.csv", Some(Format::Csv)),
            ("b.parquet", Some(Format::Parquet)),
            ("b.arrow", Some(Format::Arrow)),
            ("b.csv.gz", None),
            ("csv", None),
        ] {
            assert_eq!(Format::from_path(path).ok(), format, "{path}");
        }
    }
}
