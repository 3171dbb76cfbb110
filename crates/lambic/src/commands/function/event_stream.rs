//! Reads `application/vnd.amazon.eventstream`, in which answers come bit by bit.
//!
//! A message is: its length, its headers' length and the CRC-32 of both, all in 4 bytes; the headers; the payload; the
//! CRC-32 of everything before. The format is that of AWS's Smithy specification ("Amazon Event Stream").

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use anyhow::{Context, bail};

/// AWS's bound of a message, and a little for the frame.
const MESSAGE_BYTES_MAX: usize = (24 << 20) + 1_024;
const HEADERS_BYTES_MAX: usize = 128 << 10;
const PRELUDE_BYTES: usize = 12;
const CRC_BYTES: usize = 4;

#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// Those whose values are texts: all that say what a message is.
    pub headers: BTreeMap<String, String>,
    pub payload: Vec<u8>,
}

impl Message {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// The next message; `None` at the end.
pub fn next(from: &mut impl Read) -> anyhow::Result<Option<Message>> {
    let mut prelude = [0; PRELUDE_BYTES];
    if !fill(from, &mut prelude).context("the answer broke off")? {
        return Ok(None);
    }
    let number = |at: usize| {
        u32::from_be_bytes([
            prelude[at],
            prelude[at + 1],
            prelude[at + 2],
            prelude[at + 3],
        ])
    };
    let (total, headers) = (number(0) as usize, number(4) as usize);
    if crc32fast::hash(&prelude[..8]) != number(8) {
        bail!("the answer is no event stream, or damaged");
    }
    let around = PRELUDE_BYTES + CRC_BYTES;
    if total > MESSAGE_BYTES_MAX || headers > HEADERS_BYTES_MAX || total < around + headers {
        bail!(
            "the answer has a message of {total} bytes with {headers} bytes of headers, which cannot be"
        );
    }
    let mut rest = vec![0; total - PRELUDE_BYTES];
    from.read_exact(&mut rest).context("the answer broke off")?;
    let (body, crc) = rest.split_at(rest.len() - CRC_BYTES);
    let mut sum = crc32fast::Hasher::new();
    sum.update(&prelude);
    sum.update(body);
    if sum.finalize().to_be_bytes() != crc {
        bail!("a message of the answer is damaged");
    }
    let (headers, payload) = body.split_at(headers);
    Ok(Some(Message {
        headers: texts(headers)
            .context("a message of the answer has headers that cannot be read")?,
        payload: payload.to_vec(),
    }))
}

/// False if there is nothing at all.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Headers: a name with its length in a byte, a type, a value.
fn texts(mut bytes: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    while !bytes.is_empty() {
        let length = usize::from(take(&mut bytes, 1)?[0]);
        let name = str::from_utf8(take(&mut bytes, length)?).ok()?.to_owned();
        let kind = take(&mut bytes, 1)?[0];
        match kind {
            0 | 1 => {}
            2 => drop(take(&mut bytes, 1)?),
            3 => drop(take(&mut bytes, 2)?),
            4 => drop(take(&mut bytes, 4)?),
            5 | 8 => drop(take(&mut bytes, 8)?),
            6 | 7 => {
                let length = take(&mut bytes, 2)?;
                let length = u16::from_be_bytes([length[0], length[1]]);
                let value = take(&mut bytes, usize::from(length))?;
                if kind == 7 {
                    found.insert(name, str::from_utf8(value).ok()?.to_owned());
                }
            }
            9 => drop(take(&mut bytes, 16)?),
            _ => return None,
        }
    }
    Some(found)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A message as a server writes it.
    pub fn message(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
        let mut named = Vec::new();
        for (name, value) in headers {
            named.push(name.len() as u8);
            named.extend(name.as_bytes());
            named.push(7);
            named.extend((value.len() as u16).to_be_bytes());
            named.extend(value.as_bytes());
        }
        let total = (PRELUDE_BYTES + named.len() + payload.len() + CRC_BYTES) as u32;
        let mut bytes = total.to_be_bytes().to_vec();
        bytes.extend((named.len() as u32).to_be_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        bytes.extend(named);
        bytes.extend(payload);
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        bytes
    }

    fn all(mut bytes: &[u8]) -> anyhow::Result<Vec<Message>> {
        std::iter::from_fn(|| next(&mut bytes).transpose()).collect()
    }

    #[test]
    fn messages_are_read_one_by_one() {
        let bytes = [
            message(&[(":event-type", "PayloadChunk")], b"hello "),
            message(&[], b""),
        ];
        let read = all(&bytes.concat()).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].header(":event-type"), "PayloadChunk");
        assert_eq!(read[0].header(":none"), "");
        assert_eq!(read[0].payload, b"hello ");
        assert!(read[1].payload.is_empty());
    }

    /// The empty message of the specification's examples.
    #[test]
    fn the_checksums_are_those_of_the_specification() {
        let bytes = [
            0, 0, 0, 0x10, 0, 0, 0, 0, 0x05, 0xc2, 0x48, 0xeb, 0x7d, 0x98, 0xc8, 0xff,
        ];
        assert_eq!(message(&[], b""), bytes);
        assert_eq!(all(&bytes).unwrap().len(), 1);
    }

    #[test]
    fn headers_of_all_types_are_passed_over() {
        let mut bytes = Vec::new();
        for (kind, value) in [
            (0, vec![]),
            (1, vec![]),
            (2, vec![1]),
            (3, vec![0; 2]),
            (4, vec![0; 4]),
            (5, vec![0; 8]),
            (6, vec![0, 1, 9]),
            (7, vec![0, 1, b'x']),
            (8, vec![0; 8]),
            (9, vec![0; 16]),
        ] {
            bytes.extend([1, b'a' + kind, kind]);
            bytes.extend(value);
        }
        let found = texts(&bytes).unwrap();
        assert_eq!(found, [("h".to_owned(), "x".to_owned())].into());
        for cut in 1..bytes.len() {
            // Cut between two headers it is whole; cut within one it is not.
            let _ = texts(&bytes[..cut]);
        }
        assert_eq!(texts(&[1, b'a', 10]), None);
        assert_eq!(texts(&[1, b'a', 7, 0, 5, b'x']), None);
    }

    #[test]
    fn what_is_cut_or_damaged_is_an_error() {
        let whole = message(&[(":event-type", "PayloadChunk")], b"hello");
        for cut in 1..whole.len() {
            assert!(all(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            assert!(all(&damaged).is_err(), "damaged at {at}");
        }
        assert!(all(b"{\"Message\":\"no\"}").is_err());
    }
}
