//! AWS's event streams (`application/vnd.amazon.eventstream`): messages with headers and a payload, one behind the other.
//!
//! A message is its length and that of its headers, each four bytes, a checksum of both, the headers, the payload, and
//! a checksum of everything before; numbers are big-endian, checksums CRC-32. AWS's own crate for it brings
//! types, times and base64 of its own along for these few lines, which are held against the bytes that AWS publishes, and
//! by its clients in `tests/aws/streaming.py`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

pub const CONTENT_TYPE: &str = "application/vnd.amazon.eventstream";

/// Lengths and their checksum.
const PRELUDE_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;
/// Of a message that is read; AWS's.
const MESSAGE_BYTES_MAX: usize = 24 << 20;
const HEADERS_BYTES_MAX: usize = 128 << 10;
/// A header's value that is text.
const TEXT: u8 = 7;

/// One message. Its header `:event-type` says what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Those that are text.
    pub headers: Vec<(String, String)>,
    pub payload: Bytes,
}

/// The bytes are not an event stream, or not as they were sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event stream is damaged: {0}")]
pub struct Malformed(&'static str);

impl Message {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(known, _)| known == name)?;
        Some(value)
    }
}

/// The bytes of an event; its payload must be below 4 GiB, which all responses of functions are.
pub fn event(kind: &str, content_type: &str, payload: &[u8]) -> Bytes {
    let headers = [
        (":message-type", "event"),
        (":event-type", kind),
        (":content-type", content_type),
    ];
    encode(&headers, payload)
}

fn encode(headers: &[(&str, &str)], payload: &[u8]) -> Bytes {
    let headers_bytes: usize = headers
        .iter()
        .map(|(name, value)| 1 + name.len() + 1 + 2 + value.len())
        .sum();
    let bytes = PRELUDE_BYTES + headers_bytes + payload.len() + CHECKSUM_BYTES;
    let number = |length: usize| u32::try_from(length).expect("events are below 4 GiB");
    let mut message = BytesMut::with_capacity(bytes);
    message.put_u32(number(bytes));
    message.put_u32(number(headers_bytes));
    message.put_u32(crc32fast::hash(&message));
    for (name, value) in headers {
        message.put_u8(u8::try_from(name.len()).expect("names of headers are short"));
        message.put_slice(name.as_bytes());
        message.put_u8(TEXT);
        message.put_u16(u16::try_from(value.len()).expect("values of headers are short"));
        message.put_slice(value.as_bytes());
    }
    message.put_slice(payload);
    message.put_u32(crc32fast::hash(&message));
    message.freeze()
}

/// Takes messages out of bytes that come in pieces.
#[derive(Debug, Default)]
pub struct Decoder(BytesMut);

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// True if nothing is left of a message that is not whole.
    pub fn is_at_an_end(&self) -> bool {
        self.0.is_empty()
    }

    /// The next one; `None`: it is not whole yet.
    pub fn message(&mut self) -> Result<Option<Message>, Malformed> {
        let Some(mut prelude) = self.0.get(..PRELUDE_BYTES) else {
            return Ok(None);
        };
        let checked = crc32fast::hash(&prelude[..PRELUDE_BYTES - CHECKSUM_BYTES]);
        let (bytes, headers_bytes) = (prelude.get_u32() as usize, prelude.get_u32() as usize);
        if prelude.get_u32() != checked {
            return Err(Malformed(
                "the lengths of a message do not match their checksum",
            ));
        }
        if bytes > MESSAGE_BYTES_MAX || headers_bytes > HEADERS_BYTES_MAX {
            return Err(Malformed("a message is too long"));
        }
        if bytes < PRELUDE_BYTES + headers_bytes + CHECKSUM_BYTES {
            return Err(Malformed("a message is shorter than its headers"));
        }
        if self.0.len() < bytes {
            return Ok(None);
        }
        let mut message = self.0.split_to(bytes).freeze();
        let mut checksum = message.split_off(bytes - CHECKSUM_BYTES);
        if checksum.get_u32() != crc32fast::hash(&message) {
            return Err(Malformed("a message does not match its checksum"));
        }
        message.advance(PRELUDE_BYTES);
        let headers = headers(message.split_to(headers_bytes));
        let headers = headers.ok_or(Malformed("a header is cut off, or of an unknown type"))?;
        Ok(Some(Message {
            headers,
            payload: message,
        }))
    }
}

/// Those that are text; the others are passed over.
fn headers(mut bytes: Bytes) -> Option<Vec<(String, String)>> {
    let mut headers = Vec::new();
    while bytes.has_remaining() {
        let length = bytes.try_get_u8().ok()?.into();
        let name = take(&mut bytes, length)?;
        let kind = bytes.try_get_u8().ok()?;
        let length = match kind {
            // The two truth values are types of their own.
            0 | 1 => 0,
            2 => 1,
            3 => 2,
            4 => 4,
            // A time has eight bytes, like a long number.
            5 | 8 => 8,
            // Bytes, and text.
            6 | TEXT => bytes.try_get_u16().ok()?.into(),
            // A UUID.
            9 => 16,
            _ => return None,
        };
        let value = take(&mut bytes, length)?;
        if kind == TEXT {
            let text = |bytes: Bytes| String::from_utf8(bytes.into()).ok();
            headers.push((text(name)?, text(value)?));
        }
    }
    Some(headers)
}

fn take(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (bytes.len() >= length).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn messages_have_the_bytes_that_aws_publishes() {
        assert_eq!(hex(&encode(&[], b"")), "000000100000000005c248eb7d98c8ff");
        assert_eq!(
            hex(&encode(
                &[("content-type", "application/json")],
                b"{'foo':'bar'}"
            )),
            "0000003d0000002007fd83960c636f6e74656e742d747970650700106170706c69636174696f6e2f6a736f6e\
             7b27666f6f273a27626172277d8d9c08b1"
        );
        // As botocore's parser has read it.
        assert_eq!(
            hex(&event("PayloadChunk", "application/octet-stream", b"one")),
            "0000006d0000005a8f3ed47f0d3a6d6573736167652d747970650700056576656e740b3a6576656e742d7479\
             706507000c5061796c6f61644368756e6b0d3a636f6e74656e742d747970650700186170706c69636174696f\
             6e2f6f637465742d73747265616d6f6e65eca9e117"
        );
    }

    #[test]
    fn messages_are_read_however_they_are_cut() {
        let chunk = event("PayloadChunk", "application/octet-stream", b"one");
        let end = event("InvokeComplete", "application/json", b"{}");
        let both = [&chunk[..], &end[..]].concat();
        for at in 0..both.len() {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for part in [&both[..at], &both[at..]] {
                decoder.push(part);
                while let Some(message) = decoder.message().unwrap() {
                    let kind = message.header(":event-type").unwrap().to_owned();
                    found.push((kind, message.payload));
                }
            }
            assert!(decoder.is_at_an_end());
            let wanted = [("PayloadChunk", &b"one"[..]), ("InvokeComplete", b"{}")];
            let wanted = wanted.map(|(kind, payload)| (kind.to_owned(), Bytes::from(payload)));
            assert_eq!(found, wanted, "cut at {at}");
        }
    }

    #[test]
    fn headers_of_all_types_are_passed_over() {
        let mut bytes = Vec::new();
        for (kind, value) in [
            (0, &b""[..]),
            (1, b""),
            (2, b"1"),
            (3, b"12"),
            (4, b"1234"),
            (5, b"12345678"),
            (6, b"\0\x02xy"),
            (8, b"12345678"),
            (9, b"1234567812345678"),
            (7, b"\0\x02xy"),
        ] {
            bytes.extend([1, b'n', kind]);
            bytes.extend(value);
        }
        let found = headers(bytes.into()).unwrap();
        assert_eq!(found, [("n".to_owned(), "xy".to_owned())]);
        for bad in [&b"\x01n\x0a"[..], b"\x01n\x07\0\x02x", b"\x05n", b"\x01n"] {
            assert_eq!(headers(Bytes::from(bad)), None, "{bad:?}");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let message = event("InvokeComplete", "application/json", b"{}");
        for bit in 0..message.len() * 8 {
            let mut flipped = message.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut decoder = Decoder::default();
            decoder.push(&flipped);
            assert!(decoder.message().is_err(), "bit {bit}");
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        for (bytes, headers_bytes) in [(u32::MAX, 0), (1 << 20, 1 << 18), (15, 0), (20, 5)] {
            let mut prelude = Vec::new();
            prelude.put_u32(bytes);
            prelude.put_u32(headers_bytes);
            prelude.put_u32(crc32fast::hash(&prelude));
            let mut decoder = Decoder::default();
            decoder.push(&prelude);
            assert!(decoder.message().is_err(), "{bytes} {headers_bytes}");
        }
    }
}
