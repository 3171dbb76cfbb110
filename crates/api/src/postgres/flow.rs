//! Answers that come while the client reads: what is ready goes out before more is waited for.

use std::sync::Mutex;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use lambic_query::tokens;
use pgwire::{
    api::results::{QueryResponse, Tag},
    error::{PgWireError, PgWireResult},
    messages::{
        PgWireBackendMessage,
        copy::{CopyData, CopyDone, CopyOutResponse},
        data::{DataRow, RowDescription},
    },
};
use tokio::{io::Interest, net::TcpStream, time::Duration};

use super::command::Command;

/// Sends `rows` and that they have ended.
pub async fn send_rows<C>(
    client: &mut C,
    mut rows: QueryResponse,
    describe: bool,
) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    if describe {
        let fields = rows.row_schema.iter().map(Into::into).collect();
        let description = RowDescription::new(fields);
        client
            .feed(PgWireBackendMessage::RowDescription(description))
            .await?;
    }
    let messages = (&mut rows.data_rows).map(|row| row.map(PgWireBackendMessage::DataRow));
    let count = send(client, messages).await?;
    let tag = Tag::new(&rows.command_tag).with_rows(count);
    client
        .feed(PgWireBackendMessage::CommandComplete(tag.into()))
        .await?;
    Ok(())
}

/// The same as `COPY … TO STDOUT` sends it.
pub async fn send_copy<C>(client: &mut C, copy: Copied) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let Copied { rows, format } = copy;
    let columns = rows.row_schema.len();
    let response = CopyOutResponse::new(0, columns as i16, vec![0; columns]);
    client
        .feed(PgWireBackendMessage::CopyOutResponse(response))
        .await?;
    if format == CopyFormat::CsvWithHeader {
        let names = rows.row_schema.iter();
        let names: Vec<_> = names.map(|field| Some(field.name().as_bytes())).collect();
        let data = CopyData::new(format.line(&names));
        client.feed(PgWireBackendMessage::CopyData(data)).await?;
    }
    let lines = rows.data_rows.map(move |row| {
        let row = row?;
        let data = CopyData::new(format.line(&values(&row)));
        Ok(PgWireBackendMessage::CopyData(data))
    });
    let count = send(client, lines).await?;
    client
        .feed(PgWireBackendMessage::CopyDone(CopyDone::new()))
        .await?;
    let tag = Tag::new("COPY").with_rows(count);
    client
        .feed(PgWireBackendMessage::CommandComplete(tag.into()))
        .await?;
    Ok(())
}

/// Sends all and returns how many there were.
async fn send<C>(
    client: &mut C,
    mut messages: impl Stream<Item = PgWireResult<PgWireBackendMessage>> + Unpin,
) -> PgWireResult<usize>
where
    C: Sink<PgWireBackendMessage> + Unpin,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let mut count = 0;
    loop {
        let next = match messages.next().now_or_never() {
            Some(next) => next,
            None => {
                client.flush().await?;
                messages.next().await
            }
        };
        let Some(message) = next else {
            return Ok(count);
        };
        client.feed(message?).await?;
        count += 1;
    }
}

/// The values of a row, as they stand in its message.
fn values(row: &DataRow) -> Vec<Option<&[u8]>> {
    let mut rest = &row.data[..];
    let mut values = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).ok();
        let (value, after) = after.split_at(length.unwrap_or(0).min(after.len()));
        values.push(length.map(|_| value));
        rest = after;
    }
    values
}

/// Rows in text, and the form that they are copied in.
pub struct Copied {
    pub rows: QueryResponse,
    pub format: CopyFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    Text,
    Csv,
    CsvWithHeader,
}

impl CopyFormat {
    fn line(self, values: &[Option<&[u8]>]) -> Bytes {
        let mut line = BytesMut::new();
        for (index, value) in values.iter().enumerate() {
            match (self, value) {
                (CopyFormat::Text, value) => {
                    if index > 0 {
                        line.put_u8(b'\t');
                    }
                    match value {
                        Some(value) => escape(value, &mut line),
                        None => line.put_slice(b"\\N"),
                    }
                }
                (_, value) => {
                    if index > 0 {
                        line.put_u8(b',');
                    }
                    if let Some(value) = value {
                        quote(value, values.len() == 1, &mut line);
                    }
                }
            }
        }
        line.put_u8(b'\n');
        line.freeze()
    }
}

fn escape(value: &[u8], line: &mut BytesMut) {
    for &byte in value {
        let letter = match byte {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0b => b'v',
            0x0c => b'f',
            _ => {
                line.put_u8(byte);
                continue;
            }
        };
        line.put_slice(&[b'\\', letter]);
    }
}

/// An empty text is quoted, because NULL is nothing; so is `\.` alone, which would end the data.
fn quote(value: &[u8], is_alone: bool, line: &mut BytesMut) {
    let is_special = |byte: &u8| matches!(byte, b',' | b'"' | b'\n' | b'\r');
    let ends_data = is_alone && value == b"\\.";
    if !(value.is_empty() || ends_data || value.iter().any(is_special)) {
        line.put_slice(value);
        return;
    }
    line.put_u8(b'"');
    for &byte in value {
        if byte == b'"' {
            line.put_u8(byte);
        }
        line.put_u8(byte);
    }
    line.put_u8(b'"');
}

/// `COPY (query) TO STDOUT [[WITH] (FORMAT text | csv [, HEADER])]`; `None` for another `COPY`.
pub fn parse_copy(sql: &str) -> Option<Command> {
    const EXPECTED: Command = Command::Malformed {
        expected: "COPY (SELECT …) TO STDOUT [WITH (FORMAT csv, HEADER)]",
    };
    let places = tokens(sql);
    let words: Vec<&str> = places.iter().map(|place| &sql[place.clone()]).collect();
    let upper: Vec<String> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
    let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
    let ["COPY", "(", ..] = upper[..] else {
        return None;
    };
    let mut depth = 0;
    let closing = upper.iter().position(|word| {
        depth += i32::from(*word == "(") - i32::from(*word == ")");
        *word == ")" && depth == 0
    });
    let Some(closing) = closing.filter(|closing| *closing > 2) else {
        return Some(EXPECTED);
    };
    let ["TO", "STDOUT", options @ ..] = &upper[closing + 1..] else {
        return Some(EXPECTED);
    };
    let options = match options {
        ["WITH", rest @ ..] => rest,
        rest => rest,
    };
    let format = match options {
        [] | ["(", "FORMAT", "TEXT" | "'TEXT'", ")"] => CopyFormat::Text,
        ["CSV"] | ["(", "FORMAT", "CSV" | "'CSV'", ")"] => CopyFormat::Csv,
        ["CSV", "HEADER"]
        | ["(", "FORMAT", "CSV" | "'CSV'", ",", "HEADER", ")"]
        | ["(", "FORMAT", "CSV" | "'CSV'", ",", "HEADER", "TRUE", ")"] => CopyFormat::CsvWithHeader,
        _ => {
            return Some(Command::Unsupported {
                what: "these options of COPY",
                hint: "there are FORMAT text, FORMAT csv, and HEADER for csv",
            });
        }
    };
    let (first, end) = (places[2].start, places[closing].start);
    Some(Command::CopyOut {
        query: sql[first..end].trim_end().to_owned(),
        chars_before: sql[..first].chars().count(),
        format,
    })
}

/// Looks at a connection from aside, for whoever writes to it only now and then.
#[derive(Debug, Default)]
pub struct Peer(Mutex<Option<std::sync::Arc<TcpStream>>>);

/// What a client sends before it hangs up.
const TERMINATE: &[u8] = b"X\0\0\0\x04";
const LOOK_EVERY: Duration = Duration::from_millis(250);

impl Peer {
    /// Splits off what looks; the connection itself goes on with what is returned.
    pub fn watch(&self, socket: TcpStream) -> std::io::Result<TcpStream> {
        let socket = socket.into_std()?;
        let other = TcpStream::from_std(socket.try_clone()?)?;
        let mut watched = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *watched = Some(std::sync::Arc::new(other));
        TcpStream::from_std(socket)
    }

    /// Returns when the client has hung up.
    pub async fn gone(&self) {
        let watched = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        let Some(socket) = watched else {
            return std::future::pending().await;
        };
        let mut bytes = [0; 4096];
        loop {
            match socket.ready(Interest::READABLE).await {
                Ok(ready) if ready.is_read_closed() => return,
                Ok(_) => {}
                Err(_) => return,
            }
            match socket.peek(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(length) if bytes[..length].ends_with(TERMINATE) => return,
                // It has sent what comes after this statement.
                Ok(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_as_postgres_writes_them() {
        let values: [Option<&[u8]>; 5] = [
            Some(b"a\tb\\\n"),
            None,
            Some(b""),
            Some(b"x,\"y\""),
            Some(b"plain"),
        ];
        assert_eq!(
            &CopyFormat::Text.line(&values)[..],
            b"a\\tb\\\\\\n\t\\N\t\tx,\"y\"\tplain\n"
        );
        assert_eq!(
            &CopyFormat::Csv.line(&values)[..],
            b"\"a\tb\\\n\",,\"\",\"x,\"\"y\"\"\",plain\n"
        );
        assert_eq!(&CopyFormat::Csv.line(&[Some(b"\\.")])[..], b"\"\\.\"\n");
    }

    #[test]
    fn copies_of_queries_are_told_apart() {
        let copied = |sql: &str| match parse_copy(sql) {
            Some(Command::CopyOut {
                query,
                chars_before,
                format,
            }) => Some((query, chars_before, format)),
            _ => None,
        };
        assert_eq!(
            copied("copy (SUBSCRIBE (select 1) ) to stdout"),
            Some(("SUBSCRIBE (select 1)".to_owned(), 6, CopyFormat::Text))
        );
        assert_eq!(
            copied("COPY /*ä*/ (SELECT ')') TO STDOUT WITH (FORMAT csv, HEADER)"),
            Some(("SELECT ')'".to_owned(), 12, CopyFormat::CsvWithHeader))
        );
        for sql in [
            "COPY (SELECT 1 TO STDOUT",
            "COPY () TO STDOUT",
            "COPY (SELECT 1) TO 'file'",
        ] {
            assert!(
                matches!(parse_copy(sql), Some(Command::Malformed { .. })),
                "{sql}"
            );
        }
        assert!(matches!(
            parse_copy("COPY (SELECT 1) TO STDOUT WITH (FORMAT binary)"),
            Some(Command::Unsupported { .. })
        ));
        assert_eq!(parse_copy("COPY s FROM STDIN"), None);
    }
}
