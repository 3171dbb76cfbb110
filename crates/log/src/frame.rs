//! The bytes of a segment: its header and its frames, each checksummed and chained to the one before.
//!
//! A frame is one atomic commit. Its CRC32C covers the segment's salt, the checksum of the frame before it
//! and its own content, so a frame that was moved, repeated, taken from another segment or cut out is as
//! noticeable as a flipped bit. The chain starts at the segment header's checksum, and the header holds the
//! final checksum of the segment before. All numbers are little-endian.
//!
//! ```text
//! header (64)  magic 8 | format 4 | previous segment's last checksum 4 | sequence 8 | salt 8 | created_at_us 8 | 0 × 20 | crc 4
//! frame (40+n) magic 8 | commit 8 | group 8 | payload bytes 4 | previous checksum 4 | kind 4 | crc 4 | payload
//! ```

pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;
pub(crate) const FRAME_HEADER_BYTES: usize = 40;
/// The header without its checksum.
const CHECKED_HEADER_BYTES: usize = FRAME_HEADER_BYTES - 4;
const SEGMENT_MAGIC: [u8; 8] = *b"LAMBICLG";
/// Rare in data, so that the search for a later frame is quick.
const FRAME_MAGIC: [u8; 8] = *b"\xF7LmbFrm\n";
const FORMAT: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub sequence: u64,
    /// The last checksum of the segment before; 0 for the very first.
    pub previous: u32,
    /// Random: a frame of another segment or log does not pass for one of this segment.
    pub salt: u64,
    pub created_at_us: i64,
}

impl SegmentHeader {
    /// The bytes, and the checksum at which the segment's chain starts.
    pub(crate) fn encode(&self) -> ([u8; SEGMENT_HEADER_BYTES], u32) {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.previous.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.created_at_us.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<(SegmentHeader, u32), &'static str> {
        let Some(bytes) = bytes.get(..SEGMENT_HEADER_BYTES) else {
            return Err("the segment's header is cut off");
        };
        if bytes[0..8] != SEGMENT_MAGIC {
            return Err("this is not a segment of a Lambic log");
        }
        let crc = u32_at(bytes, 60);
        if crc32c::crc32c(&bytes[..60]) != crc {
            return Err("the checksum of the segment's header does not match");
        }
        if u32_at(bytes, 8) != FORMAT {
            return Err("the segment has a format that this version does not know");
        }
        let header = SegmentHeader {
            previous: u32_at(bytes, 12),
            sequence: u64_at(bytes, 16),
            salt: u64_at(bytes, 24),
            created_at_us: u64_at(bytes, 32).cast_signed(),
        };
        Ok((header, crc))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Append = 1,
    Checkpoint = 2,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub kind: Kind,
    /// Counts the log's appends; a checkpoint has the number of the last append before it.
    pub commit: u64,
    /// The first commit of those that were written and synced together.
    pub group: u64,
    pub previous: u32,
    pub crc: u32,
    pub payload: &'a [u8],
}

impl Frame<'_> {
    pub(crate) fn bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.payload.len()
    }
}

/// Appends a frame to `out` and returns its checksum. The payload is the concatenation of `parts`.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    salt: u64,
    kind: Kind,
    commit: u64,
    group: u64,
    previous: u32,
    parts: &[&[u8]],
) -> u32 {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let length = u32::try_from(length).expect("appends are bounded far below 4 GiB");
    let start = out.len();
    out.extend_from_slice(&FRAME_MAGIC);
    out.extend_from_slice(&commit.to_le_bytes());
    out.extend_from_slice(&group.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&previous.to_le_bytes());
    out.extend_from_slice(&(kind as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for part in parts {
        out.extend_from_slice(part);
    }
    let crc = checksum(&out[start..], salt);
    out[start + CHECKED_HEADER_BYTES..start + FRAME_HEADER_BYTES]
        .copy_from_slice(&crc.to_le_bytes());
    crc
}

/// The frame that starts at the first byte.
pub(crate) fn decode(bytes: &[u8], salt: u64) -> Result<Frame<'_>, &'static str> {
    let Some(header) = bytes.get(..FRAME_HEADER_BYTES) else {
        return Err("the frame's header is cut off");
    };
    if header[0..8] != FRAME_MAGIC {
        return Err("no frame starts here");
    }
    let end = FRAME_HEADER_BYTES + u32_at(header, 24) as usize;
    let Some(whole) = bytes.get(..end) else {
        return Err("the frame is cut off");
    };
    let crc = u32_at(header, CHECKED_HEADER_BYTES);
    if checksum(whole, salt) != crc {
        return Err("the frame's checksum does not match");
    }
    let kind = match u32_at(header, 32) {
        1 => Kind::Append,
        2 => Kind::Checkpoint,
        _ => return Err("the frame has a kind that this version does not know"),
    };
    Ok(Frame {
        kind,
        commit: u64_at(header, 8),
        group: u64_at(header, 16),
        previous: u32_at(header, 28),
        crc,
        payload: &whole[FRAME_HEADER_BYTES..],
    })
}

/// The place of a whole frame of a later group than that of commit `broken`, wherever it starts: proof that
/// `broken` was synced, because a group is written only after the one before it was. A later frame of the same
/// group proves nothing: a power cut keeps any part of what was not synced.
pub(crate) fn find_later(bytes: &[u8], salt: u64, broken: u64) -> Option<usize> {
    bytes
        .windows(FRAME_MAGIC.len())
        .enumerate()
        .filter(|(_, window)| *window == FRAME_MAGIC)
        .map(|(position, _)| position)
        .find(|&position| decode(&bytes[position..], salt).is_ok_and(|frame| frame.group > broken))
}

fn checksum(frame: &[u8], salt: u64) -> u32 {
    let crc = crc32c::crc32c(&salt.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &frame[..CHECKED_HEADER_BYTES]);
    crc32c::crc32c_append(crc, &frame[FRAME_HEADER_BYTES..])
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        let first = encode(
            &mut bytes,
            7,
            Kind::Append,
            1,
            1,
            99,
            &[b"hello ", b"world"],
        );
        encode(&mut bytes, 7, Kind::Checkpoint, 2, 2, first, &[b""]);
        bytes
    }

    #[test]
    fn frames_come_back_chained() {
        let bytes = sample();
        let first = decode(&bytes, 7).unwrap();
        assert_eq!(
            (first.kind, first.commit, first.previous, first.payload),
            (Kind::Append, 1, 99, b"hello world".as_slice())
        );
        let second = decode(&bytes[first.bytes()..], 7).unwrap();
        assert_eq!((second.previous, second.commit), (first.crc, 2));
        assert!(decode(&bytes, 8).is_err(), "another segment's salt");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = sample();
        let end = decode(&bytes, 7).unwrap().bytes();
        for bit in 0..end * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged, 7).is_err(), "bit {bit}");
            assert_eq!(find_later(&damaged, 7, 1), Some(end), "bit {bit}");
            assert_eq!(
                find_later(&damaged, 7, 2),
                None,
                "the same group, bit {bit}"
            );
        }
        let header = SegmentHeader {
            sequence: 3,
            previous: 4,
            salt: 5,
            created_at_us: -6,
        };
        let (bytes, crc) = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok((header, crc)));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&damaged).is_err(), "bit {bit}");
        }
    }
}
