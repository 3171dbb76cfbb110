//! One layer: unpacked, checked, and read entry by entry.
//!
//! A tar comes from anybody. Its headers are read one by one, without the tar crate's own handling of long names and
//! extensions, which takes as much memory as a header says: here each of those has a bound. Entries are what a folder of a
//! program is made of; what needs more than a name and a content (devices, sparse files) is told apart.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::{Problem, manifest::Digest};

/// Of a long name, or of what is said about one entry.
const ABOUT_BYTES_MAX: u64 = 1 << 20;
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What an entry is, besides its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Folder,
    File,
    /// Where it leads, as it stands there.
    Symlink(Vec<u8>),
    /// Another entry of the image.
    Hardlink(Vec<u8>),
    /// A device or a pipe.
    Special,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it stands there.
    pub path: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    /// Seconds since 1970.
    pub modified: i64,
    pub bytes: u64,
}

/// What a whole layer was.
pub struct Sums {
    /// Of its file.
    pub packed: Digest,
    pub packed_bytes: u64,
    /// Of the tar in it.
    pub unpacked: Digest,
}

/// Gives each entry with its content to `visit`; no more than `left` bytes are unpacked, which are taken from it.
pub fn read(
    file: File,
    left: &mut u64,
    visit: &mut dyn FnMut(Entry, &mut dyn Read) -> Result<(), Problem>,
) -> Result<Sums, Problem> {
    let broken =
        |error: io::Error| Problem::Bad(format!("a layer of it cannot be unpacked: {error}"));
    let mut packed = BufReader::with_capacity(1 << 16, Hashed::new(file));
    let magic = packed.fill_buf().map_err(broken)?;
    let plain: Box<dyn Read + '_> = if magic.starts_with(&GZIP) {
        Box::new(MultiGzDecoder::new(&mut packed))
    } else if magic.starts_with(&ZSTD) {
        Box::new(zstd::stream::read::Decoder::with_buffer(&mut packed).map_err(broken)?)
    } else {
        Box::new(&mut packed)
    };
    let limit = *left;
    let mut unpacked = Hashed::new(Bounded {
        from: plain,
        left,
        limit,
    });
    entries(&mut unpacked, visit)?;
    // What is behind the end of the tar belongs to its digest.
    io::copy(&mut unpacked, &mut io::sink()).map_err(broken)?;
    let (unpacked, _) = unpacked.sum();
    io::copy(&mut packed, &mut io::sink()).map_err(broken)?;
    let (packed, packed_bytes) = packed.into_inner().sum();
    Ok(Sums {
        packed,
        packed_bytes,
        unpacked,
    })
}

struct Hashed<R> {
    from: R,
    hash: Sha256,
    bytes: u64,
}

impl<R> Hashed<R> {
    fn new(from: R) -> Hashed<R> {
        Hashed {
            from,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    fn sum(self) -> (Digest, u64) {
        (Digest::of_hash(self.hash), self.bytes)
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(bytes)?;
        self.hash.update(&bytes[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

struct Bounded<'a, R> {
    from: R,
    left: &'a mut u64,
    limit: u64,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(bytes)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => *self.left = left,
            None => return Err(io::Error::other(too_large(self.limit))),
        }
        Ok(read)
    }
}

pub fn too_large(limit: u64) -> String {
    format!("it has more than the {limit} bytes that are left of what an image may unpack to")
}

/// What is said of the next entry before its own header.
#[derive(Default)]
struct About {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    bytes: Option<u64>,
}

fn entries(
    from: &mut dyn Read,
    visit: &mut dyn FnMut(Entry, &mut dyn Read) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let broken = |error: io::Error| {
        Problem::Bad(format!("a layer of it is not a tar that is whole: {error}"))
    };
    let mut archive = tar::Archive::new(from);
    let mut about = About::default();
    for found in archive.entries().map_err(broken)?.raw(true) {
        let mut found = found.map_err(broken)?;
        let kind = found.header().entry_type();
        match kind {
            EntryType::GNULongName => about.path = Some(name(&mut found)?),
            EntryType::GNULongLink => about.link = Some(name(&mut found)?),
            EntryType::XHeader => about.read(&said(&mut found)?)?,
            // Of all entries: nothing that we would use.
            EntryType::XGlobalHeader => {}
            _ => {
                let entry = entry(&found, std::mem::take(&mut about))?;
                visit(entry, &mut found)?;
            }
        }
    }
    Ok(())
}

fn said<R: Read>(found: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    found
        .take(ABOUT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Problem::Bad(format!("a layer of it ends too early: {error}")))?;
    match bytes.len() as u64 > ABOUT_BYTES_MAX {
        true => Err(Problem::Bad(format!(
            "more than {ABOUT_BYTES_MAX} bytes are said about one file of it"
        ))),
        false => Ok(bytes),
    }
}

/// Ends with a zero byte.
fn name<R: Read>(found: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, Problem> {
    let mut name = said(found)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

impl About {
    /// Records of `<length> <key>=<value>\n`. A value may have any bytes.
    fn read(&mut self, mut bytes: &[u8]) -> Result<(), Problem> {
        let broken = || Problem::Bad("what is said about a file of it cannot be read".to_owned());
        while !bytes.is_empty() {
            let space = bytes.iter().position(|&b| b == b' ').ok_or_else(broken)?;
            let length = std::str::from_utf8(&bytes[..space]).ok();
            let length: usize = length
                .and_then(|text| text.parse().ok())
                .ok_or_else(broken)?;
            let record = bytes.get(space + 1..length).ok_or_else(broken)?;
            let record = record.strip_suffix(b"\n").ok_or_else(broken)?;
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(broken)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_owned()),
                b"linkpath" => self.link = Some(value.to_owned()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok();
                    self.bytes = Some(size.and_then(|text| text.parse().ok()).ok_or_else(broken)?);
                }
                key if key.starts_with(b"GNU.sparse.") => return Err(sparse()),
                _ => {}
            }
            bytes = &bytes[length..];
        }
        Ok(())
    }
}

fn sparse() -> Problem {
    Problem::Bad("a file of it is sparse; build the image without that".to_owned())
}

fn entry<R: Read>(found: &tar::Entry<'_, R>, about: About) -> Result<Entry, Problem> {
    let header = found.header();
    let broken = |error: io::Error| {
        Problem::Bad(format!(
            "the header of a file of it cannot be read: {error}"
        ))
    };
    let path = match about.path {
        Some(path) => path,
        None => found.path_bytes().into_owned(),
    };
    let link = || match about.link {
        Some(link) => link,
        None => header.link_name_bytes().unwrap_or_default().into_owned(),
    };
    let kind = match header.entry_type() {
        EntryType::Directory => Kind::Folder,
        // As the oldest tars have it.
        EntryType::Regular if path.ends_with(b"/") => Kind::Folder,
        EntryType::Regular | EntryType::Continuous => Kind::File,
        EntryType::Symlink => Kind::Symlink(link()),
        EntryType::Link => Kind::Hardlink(link()),
        EntryType::Char | EntryType::Block | EntryType::Fifo => Kind::Special,
        EntryType::GNUSparse => return Err(sparse()),
        other => {
            return Err(Problem::Bad(format!(
                "`{}` in it is of the kind {:?}, which no image has",
                String::from_utf8_lossy(&path),
                char::from(other.as_byte()),
            )));
        }
    };
    let bytes = header.entry_size().map_err(broken)?;
    // The rest would be read from the wrong place.
    if about.bytes.is_some_and(|said| said != bytes) {
        return Err(Problem::Bad(format!(
            "`{}` in it is too large for a layer",
            String::from_utf8_lossy(&path)
        )));
    }
    Ok(Entry {
        path,
        kind,
        mode: header.mode().map_err(broken)?,
        modified: i64::try_from(header.mtime().map_err(broken)?).unwrap_or(0),
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    fn header(kind: EntryType, path: &str, bytes: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_cksum();
        header
    }

    fn tarred(entries: &[(tar::Header, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (header, content) in entries {
            builder.append(header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    type Read = Vec<(Entry, Vec<u8>)>;

    fn all(bytes: &[u8], mut left: u64) -> Result<(Read, Sums), Problem> {
        let mut found = Vec::new();
        let sums = read(file(bytes), &mut left, &mut |entry, content| {
            let mut read = Vec::new();
            content.read_to_end(&mut read).unwrap();
            found.push((entry, read));
            Ok(())
        })?;
        Ok((found, sums))
    }

    fn refusal(bytes: &[u8], left: u64) -> String {
        match all(bytes, left) {
            Err(Problem::Bad(told)) => told,
            Err(other) => panic!("{other:?}"),
            Ok((found, _)) => panic!("{found:?}"),
        }
    }

    #[test]
    fn all_packings_are_the_same_tar() {
        let plain = tarred(&[
            (header(EntryType::Regular, "a", 1), b"x"),
            (header(EntryType::Directory, "b/", 0), b""),
        ]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let gzip = gzip.finish().unwrap();
        // In two parts, as some builders write it.
        let parts = plain.split_at(700);
        let mut two = Vec::new();
        for part in [parts.0, parts.1] {
            let mut one = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            one.write_all(part).unwrap();
            two.extend(one.finish().unwrap());
        }
        let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
        for packed in [&plain, &gzip, &two, &zstd] {
            let (found, sums) = all(packed, 1 << 20).unwrap();
            assert_eq!(found.len(), 2);
            assert_eq!(found[0].1, b"x");
            assert_eq!(found[1].0.kind, Kind::Folder);
            assert_eq!(sums.unpacked, Digest::of(&plain));
            assert_eq!(sums.packed, Digest::of(packed));
            assert_eq!(sums.packed_bytes, packed.len() as u64);
            for cut in [packed.len() / 2, 520] {
                let cut = &packed[..cut.min(packed.len() - 1)];
                // A plain tar may end where a header would begin.
                if cut.len() % 512 != 0 {
                    assert!(all(cut, 1 << 20).is_err(), "{}", cut.len());
                }
            }
        }
        assert!(
            all(
                b"no tar at all, and as long as a header is"
                    .repeat(20)
                    .as_slice(),
                1 << 20
            )
            .is_err()
        );
    }

    #[test]
    fn long_names_and_what_is_said_of_files_are_read() {
        let long = "n".repeat(300);
        let record = |key: &str, value: &[u8]| {
            let mut length = key.len() + value.len() + 3;
            length += length.to_string().len();
            let mut record = format!("{length} {key}=").into_bytes();
            record.extend(value);
            record.push(b'\n');
            record
        };
        let mut pax = record("SCHILY.xattr.security.capability", b"\x01\n\xff=\n");
        pax.extend(record("path", b"from/pax"));
        let bytes = |text: &[u8]| text.len() as u64;
        let found = all(
            &tarred(&[
                (
                    header(EntryType::GNULongName, "././@LongLink", 301),
                    format!("{long}\0").as_bytes(),
                ),
                (header(EntryType::GNULongLink, "././@LongLink", 4), b"far\0"),
                (header(EntryType::Symlink, "short", 0), b""),
                (header(EntryType::XGlobalHeader, "g", 4), b"junk"),
                (header(EntryType::XHeader, "x", bytes(&pax)), &pax),
                (header(EntryType::Regular, "other", 1), b"y"),
                (header(EntryType::Regular, "plain", 1), b"z"),
            ]),
            1 << 20,
        );
        let (found, _) = found.unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|(entry, _)| entry.path.as_slice())
            .collect();
        assert_eq!(names, [long.as_bytes(), b"from/pax", b"plain"]);
        assert_eq!(found[0].0.kind, Kind::Symlink(b"far".to_vec()));
        for (pax, part) in [
            (record("GNU.sparse.major", b"1"), "sparse"),
            (record("size", b"9999999999"), "too large"),
            (record("size", b"x"), "cannot be read"),
            (b"99 path=short\n".to_vec(), "cannot be read"),
            (b"junk".to_vec(), "cannot be read"),
            (b"5 a=b\n".to_vec(), "cannot be read"),
            (b"0 ".to_vec(), "cannot be read"),
        ] {
            let tar = tarred(&[
                (header(EntryType::XHeader, "x", bytes(&pax)), pax.as_slice()),
                (header(EntryType::Regular, "a", 1), b"y"),
            ]);
            let told = refusal(&tar, 1 << 20);
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn bombs_are_not_unpacked() {
        let zeros = vec![0; 3 << 20];
        let tar = tarred(&[(header(EntryType::Regular, "zeros", 3 << 20), &zeros)]);
        let packed = zstd::encode_all(tar.as_slice(), 1).unwrap();
        assert!(packed.len() < 64 << 10);
        let mut left = 1 << 20;
        let mut seen = 0;
        let ended = read(file(&packed), &mut left, &mut |_, content| {
            seen = io::copy(content, &mut io::sink()).unwrap_or(0);
            Ok(())
        });
        let Err(Problem::Bad(told)) = ended.map(drop) else {
            panic!("it was unpacked")
        };
        assert!(told.contains("1048576 bytes that are left"), "{told}");
        // A name that takes all memory.
        let name = tarred(&[(
            header(EntryType::GNULongName, "l", 2 << 20),
            &zeros[..2 << 20],
        )]);
        assert!(refusal(&name, 1 << 30).contains("said about one file"));
        // Behind the end of the tar.
        let mut behind = tarred(&[]);
        behind.extend(zeros);
        assert!(refusal(&behind, 1 << 20).contains("that are left"));
    }

    #[test]
    fn what_no_image_has_is_refused() {
        let sparse = tarred(&[(header(EntryType::GNUSparse, "a", 0), b"")]);
        assert!(refusal(&sparse, 1 << 20).contains("sparse"));
        let odd = tarred(&[(header(EntryType::new(b'Z'), "a", 0), b"")]);
        assert!(refusal(&odd, 1 << 20).contains("'Z'"));
        for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo] {
            let (found, _) = all(&tarred(&[(header(kind, "a", 0), b"")]), 1 << 20).unwrap();
            assert_eq!(found[0].0.kind, Kind::Special);
        }
        let mut damaged = tarred(&[(header(EntryType::Regular, "a", 1), b"x")]);
        damaged[0] = b'b';
        assert!(refusal(&damaged, 1 << 20).contains("not a tar that is whole"));
    }
}
