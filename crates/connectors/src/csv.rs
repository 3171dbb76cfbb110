//! CSV by RFC 4180: a header line, commas, double quotes; strict about quotes and the number of fields.

use lambic_model::Stream;

use crate::{
    Decoded, Error, OnError,
    column::{self, Columns},
    decode::{Budget, record_bytes, reject},
    error::{Mismatch, Place, escaped, shown},
    json::{newlines, without_mark},
};

pub(crate) fn decode(
    stream: &Stream,
    body: &[u8],
    on_error: OnError,
    mut budget: Budget,
) -> Result<Decoded, Error> {
    let mut columns = Columns::new(stream)?;
    let record_bytes = record_bytes(stream);
    let mut decoded = Decoded::default();
    let mut records = Records::new(without_mark(body));
    let mut fields = Fields::default();

    let header = header(&mut records, &mut fields, &mut columns)
        .map_err(|mismatch| Error::record(mismatch.at(Place::Line, records.line, records.raw())))?;
    check_not_null(stream, &header)?;

    while let Some(read) = records.next(&mut fields) {
        let result = read
            .and_then(|()| record(&fields, &header, &mut columns))
            .and_then(|()| columns.finish_record());
        match result {
            Ok(batch) => {
                budget.take(record_bytes)?;
                decoded.batches.extend(batch);
            }
            Err(mismatch) => {
                columns.abandon_record();
                let bad = mismatch.at(Place::Line, records.line, records.raw());
                reject(bad, on_error, &mut decoded, &mut budget)?;
            }
        }
    }
    decoded.batches.extend(columns.finish());
    Ok(decoded)
}

/// For every field of a line, the place of its value.
fn header(
    records: &mut Records<'_>,
    fields: &mut Fields,
    columns: &mut Columns,
) -> Result<Vec<column::Place>, Mismatch> {
    match records.next(fields) {
        None => {
            return Err(Mismatch::new(
                "a header line that names the columns",
                "nothing",
            ));
        }
        Some(read) => read?,
    }
    let mut header = Vec::new();
    for field in fields.iter() {
        let name = utf8(field.bytes)?;
        let place = columns.place(name).map_err(|mismatch| {
            let is_near = matches!(&mismatch.hint, Some(hint) if hint.starts_with("did you mean"));
            if name.contains([';', '\t']) {
                mismatch.hint("fields are separated by commas")
            } else if header.is_empty() && !is_near {
                mismatch.hint("the first line must name the columns; is the header line missing?")
            } else {
                mismatch
            }
        })?;
        if header.contains(&place) && place != column::Place::Dropped {
            return Err(Mismatch::new("each column once", "it twice in the header").column(name));
        }
        header.push(place);
    }
    Ok(header)
}

/// A column that is NOT NULL and not in the header would make every line bad: say it once.
fn check_not_null(stream: &Stream, header: &[column::Place]) -> Result<(), Error> {
    let fields = stream.schema.fields().iter().zip(stream.defaults());
    for (index, (field, default)) in fields.enumerate() {
        let is_named = header.contains(&column::Place::Column(index));
        if !field.is_nullable() && !is_named && default.is_none() {
            let mismatch = Mismatch::new(
                "this column in the header (it is NOT NULL)",
                "a header without it",
            );
            return Err(Error::record(mismatch.column(field.name()).at(
                Place::Line,
                1,
                "",
            )));
        }
    }
    Ok(())
}

fn record(
    fields: &Fields,
    header: &[column::Place],
    columns: &mut Columns,
) -> Result<(), Mismatch> {
    if fields.len() != header.len() {
        return Err(Mismatch::new(
            format!("{} fields, as in the header", header.len()),
            fields.len().to_string(),
        ));
    }
    for (field, &place) in fields.iter().zip(header) {
        let column::Place::Column(index) = place else {
            continue;
        };
        let text = match field.bytes {
            b"" if !field.quoted => None,
            bytes => Some(utf8(bytes).map_err(|mismatch| mismatch.column(columns.name(index)))?),
        };
        columns.set_text(index, text)?;
    }
    Ok(())
}

fn utf8(bytes: &[u8]) -> Result<&str, Mismatch> {
    std::str::from_utf8(bytes)
        .map_err(|_| Mismatch::new("UTF-8 text", shown(&String::from_utf8_lossy(bytes))))
}

/// The fields of one record, unquoted, end to end.
#[derive(Default)]
struct Fields {
    bytes: Vec<u8>,
    /// Where each field ends, and whether it was quoted.
    ends: Vec<(usize, bool)>,
}

struct Field<'a> {
    bytes: &'a [u8],
    quoted: bool,
}

impl Fields {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        let mut start = 0;
        self.ends.iter().map(move |&(end, quoted)| {
            let bytes = &self.bytes[start..end];
            start = end;
            Field { bytes, quoted }
        })
    }
}

/// Cuts a body into records.
struct Records<'a> {
    body: &'a [u8],
    /// Where the next record begins.
    at: usize,
    at_line: u64,
    /// Where the last record began, and its line.
    start: usize,
    line: u64,
}

impl<'a> Records<'a> {
    fn new(body: &'a [u8]) -> Records<'a> {
        Records {
            body,
            at: 0,
            at_line: 1,
            start: 0,
            line: 1,
        }
    }

    /// The last record as it came.
    fn raw(&self) -> String {
        let raw = escaped(&self.body[self.start..self.at]);
        raw.trim_end_matches(['\r', '\n']).to_owned()
    }

    /// Reads the next record; empty lines are passed over. After an error reading goes on in the line behind the one
    /// in which the bad record began.
    fn next(&mut self, fields: &mut Fields) -> Option<Result<(), Mismatch>> {
        loop {
            let rest = &self.body[self.at..];
            let empty = match rest {
                [] => return None,
                [b'\n', ..] => 1,
                [b'\r', b'\n', ..] => 2,
                _ => break,
            };
            self.at += empty;
            self.at_line += 1;
        }
        self.start = self.at;
        self.line = self.at_line;
        let result = self.read(fields);
        if result.is_err() {
            let line_end = self.body[self.start..]
                .iter()
                .position(|&byte| byte == b'\n');
            self.at = line_end.map_or(self.body.len(), |end| self.start + end + 1);
        }
        self.at_line += newlines(&self.body[self.start..self.at]);
        Some(result)
    }

    fn read(&mut self, fields: &mut Fields) -> Result<(), Mismatch> {
        fields.bytes.clear();
        fields.ends.clear();
        loop {
            let quoted = self.body.get(self.at) == Some(&b'"');
            if quoted {
                self.read_quoted(fields)?;
            } else {
                self.read_plain(fields)?;
            }
            fields.ends.push((fields.bytes.len(), quoted));
            match self.body[self.at..] {
                [b',', ..] => self.at += 1,
                [b'\n', ..] => {
                    self.at += 1;
                    return Ok(());
                }
                [b'\r', b'\n', ..] => {
                    self.at += 2;
                    return Ok(());
                }
                [] | [b'\r'] => {
                    self.at = self.body.len();
                    return Ok(());
                }
                _ => {
                    let after = &self.body[self.at..];
                    let end = after.iter().position(|&byte| byte == b'\n');
                    let after = &after[..end.unwrap_or(after.len()).min(20)];
                    return Err(Mismatch::new(
                        "`,` or the end of the line after a closing `\"`",
                        shown(&String::from_utf8_lossy(after)),
                    )
                    .hint("write a `\"` within a quoted field twice"));
                }
            }
        }
    }

    fn read_plain(&mut self, fields: &mut Fields) -> Result<(), Mismatch> {
        let start = self.at;
        let rest = &self.body[start..];
        let length = rest
            .iter()
            .position(|byte| matches!(byte, b',' | b'\n' | b'"'))
            .unwrap_or(rest.len());
        if rest.get(length) == Some(&b'"') {
            return Err(Mismatch::new(
                "`\"` only around a whole field",
                shown(&String::from_utf8_lossy(&rest[..length + 1])),
            )
            .hint("put the field in quotes and write a `\"` within it twice"));
        }
        let mut field = &rest[..length];
        if rest.get(length) != Some(&b',') {
            field = field.strip_suffix(b"\r").unwrap_or(field);
        }
        fields.bytes.extend_from_slice(field);
        self.at = start + field.len();
        Ok(())
    }

    fn read_quoted(&mut self, fields: &mut Fields) -> Result<(), Mismatch> {
        self.at += 1;
        loop {
            let rest = &self.body[self.at..];
            let Some(length) = rest.iter().position(|&byte| byte == b'"') else {
                return Err(Mismatch::new(
                    "a closing `\"`",
                    "the end of the input within a quoted field",
                ));
            };
            fields.bytes.extend_from_slice(&rest[..length]);
            self.at += length + 1;
            if rest.get(length + 1) != Some(&b'"') {
                return Ok(());
            }
            fields.bytes.push(b'"');
            self.at += 1;
        }
    }
}
