//! Images in files of this machine: a folder in the OCI's layout, the same as a tar, and what `docker save` writes.
//!
//! Files are opened without following a link at their end, and nothing but plain files is read: a name in an image's
//! folder may have been made to lead elsewhere.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::Deserialize;

use super::{
    Problem,
    blobs::Blobs,
    manifest::{
        CONFIG_OCI, DOCUMENT_BYTES_MAX, Descriptor, Digest, Document, INDEXES_MAX, Index,
        LAYER_TAR, MANIFEST_OCI, Manifest,
    },
    reference::{Kind, Local},
};
use crate::Error;

/// Of an archive.
const MEMBERS_MAX: usize = 10_000;
const STEP_BYTES: usize = 1 << 20;

/// Where files are found by their names within an image.
enum Files {
    Folder(PathBuf),
    Archive {
        file: File,
        members: HashMap<String, Member>,
    },
}

enum Member {
    /// Where it begins, and its bytes.
    File(u64, u64),
    Link(String),
}

/// What `manifest.json` of `docker save` says of one image.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Copies all parts of an image to `blobs`, and says which it is; those that were not there before are added to `new`.
pub fn fetch(
    local: &Local,
    path: &Path,
    blobs: &Blobs,
    bytes_max: u64,
    new: &mut Vec<Digest>,
) -> Result<Digest, Problem> {
    let files = match local.kind {
        Kind::Layout => Files::Folder(path.to_owned()),
        Kind::Archive | Kind::DockerArchive => archive(path)?,
    };
    match local.kind {
        Kind::Layout | Kind::Archive => fetch_oci(&files, local, blobs, bytes_max, new),
        Kind::DockerArchive => fetch_saved(&files, local, blobs, bytes_max, new),
    }
}

fn fetch_oci(
    files: &Files,
    local: &Local,
    blobs: &Blobs,
    bytes_max: u64,
    new: &mut Vec<Digest>,
) -> Result<Digest, Problem> {
    let index = files.document("index.json")?;
    let index: Index = serde_json::from_slice(&index)
        .map_err(|error| Problem::Bad(format!("its `index.json` cannot be read: {error}")))?;
    let mut index = index.named(local.name.as_deref(), local.digest.as_ref())?;
    for _ in 0..INDEXES_MAX {
        let chosen = index.chosen()?.digest.clone();
        let bytes = files.document(&name_of(&chosen))?;
        if Digest::of(&bytes) != chosen {
            return Err(Problem::Bad(format!(
                "its part {chosen} has another content than its digest says"
            )));
        }
        let manifest = match Document::parse(&bytes)? {
            Document::Index(inner) => {
                index = inner;
                continue;
            }
            Document::Manifest(manifest) => manifest,
        };
        manifest.check_bytes(bytes_max)?;
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            if !blobs.has(blob) {
                files.copy(&name_of(&blob.digest), Some(blob), blobs, bytes_max, new)?;
            }
        }
        return blobs.keep(&bytes);
    }
    Err(Problem::Bad(format!(
        "its indexes name indexes more than {INDEXES_MAX} times"
    )))
}

fn name_of(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// It has no manifest with digests: one is made, of what its parts are.
fn fetch_saved(
    files: &Files,
    local: &Local,
    blobs: &Blobs,
    bytes_max: u64,
    new: &mut Vec<Digest>,
) -> Result<Digest, Problem> {
    let bytes = files.document("manifest.json")?;
    let images: Vec<Saved> = serde_json::from_slice(&bytes)
        .map_err(|error| Problem::Bad(format!("its `manifest.json` cannot be read: {error}")))?;
    let saved = saved_as(&images, local.name.as_deref())?;
    let config = files.document(&saved.config)?;
    let described = |kind: &str, digest, size| Descriptor {
        media_type: kind.to_owned(),
        digest,
        size,
        platform: None,
        annotations: BTreeMap::new(),
    };
    let mut left = bytes_max;
    let mut layers = Vec::new();
    for name in &saved.layers {
        let (digest, size) = files.copy(name, None, blobs, left, new)?;
        left -= size;
        layers.push(described(LAYER_TAR, digest, size));
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST_OCI.to_owned(),
        config: described(CONFIG_OCI, blobs.keep(&config)?, config.len() as u64),
        layers,
    };
    let manifest = serde_json::to_vec(&manifest)
        .map_err(|error| Problem::Bad(format!("it cannot be described: {error}")))?;
    let digest = Digest::of(&manifest);
    if local
        .digest
        .as_ref()
        .is_some_and(|wanted| *wanted != digest)
    {
        return Err(Problem::Missing(format!("it has the digest {digest}")));
    }
    Document::parse(&manifest)?;
    blobs.keep(&manifest)
}

fn saved_as<'a>(images: &'a [Saved], name: Option<&str>) -> Result<&'a Saved, Problem> {
    let tags = |image: &'a Saved| image.repo_tags.iter().flatten();
    let mut found = images
        .iter()
        .filter(|image| name.is_none_or(|name| tags(image).any(|tag| tag == name)));
    let all: Vec<&str> = images.iter().flat_map(tags).map(String::as_str).collect();
    match (found.next(), found.next()) {
        (Some(image), None) => Ok(image),
        (None, _) => Err(Problem::Missing(format!(
            "it has no such image; it has [{}]",
            all.join(", ")
        ))),
        (Some(_), Some(_)) => Err(Problem::Bad(format!(
            "it has several images; name one of [{}] behind a colon",
            all.join(", ")
        ))),
    }
}

/// A plain file, without following a link to it.
fn open(path: &Path) -> io::Result<File> {
    // A pipe would be waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no file")),
    }
}

/// Where everything is in it.
fn archive(path: &Path) -> Result<Files, Problem> {
    let unread = |error: io::Error| {
        Problem::Bad(format!(
            "`{}` cannot be read as a tar: {error}",
            path.display()
        ))
    };
    let file = open(path).map_err(unread)?;
    let mut magic = [0; 4];
    let is_packed = file.read_exact_at(&mut magic, 0).is_ok()
        && (magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd]);
    if is_packed {
        return Err(Problem::Bad(
            "it is a packed tar; unpack it with gunzip or zstd first".to_owned(),
        ));
    }
    let mut members = HashMap::new();
    let mut archive = tar::Archive::new(io::BufReader::new(&file));
    for entry in archive.entries_with_seek().map_err(unread)?.raw(true) {
        let entry = entry.map_err(unread)?;
        let plain = |path: &[u8]| {
            let path = String::from_utf8_lossy(path).into_owned();
            path.strip_prefix("./").unwrap_or(&path).to_owned()
        };
        let name = plain(&entry.path_bytes());
        let header = entry.header();
        let member = match header.entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let bytes = header.entry_size().map_err(unread)?;
                Member::File(entry.raw_file_position(), bytes)
            }
            // Docker writes a layer once, and again as a link to it.
            tar::EntryType::Symlink => {
                let to = header.link_name_bytes().unwrap_or_default();
                Member::Link(beside(&name, &String::from_utf8_lossy(&to)))
            }
            tar::EntryType::Link => {
                Member::Link(plain(&header.link_name_bytes().unwrap_or_default()))
            }
            _ => continue,
        };
        members.insert(name, member);
        if members.len() > MEMBERS_MAX {
            return Err(Problem::Bad(format!(
                "it has more than {MEMBERS_MAX} files"
            )));
        }
    }
    drop(archive);
    Ok(Files::Archive { file, members })
}

/// What a link at `name` means.
fn beside(name: &str, to: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in to.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl Files {
    /// Its content, and how long that is.
    fn open(&self, name: &str) -> Result<(Box<dyn Read + '_>, u64), Problem> {
        let missing = || Problem::Bad(format!("its part `{name}` is missing"));
        match self {
            Files::Folder(dir) => {
                let path = dir.join(name);
                let file = open(&path).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => missing(),
                    _ => Problem::Bad(format!("its part `{name}` cannot be read: {error}")),
                })?;
                let bytes = file.metadata().map_err(Error::io("look at", &path))?.len();
                Ok((Box::new(file), bytes))
            }
            Files::Archive { file, members } => {
                let mut found = members.get(name);
                if let Some(Member::Link(to)) = found {
                    found = members.get(to);
                }
                match found {
                    Some(&Member::File(at, bytes)) => Ok((
                        Box::new(Part {
                            file,
                            at,
                            left: bytes,
                        }),
                        bytes,
                    )),
                    Some(Member::Link(_)) | None => Err(missing()),
                }
            }
        }
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, Problem> {
        let (content, bytes) = self.open(name)?;
        if bytes > DOCUMENT_BYTES_MAX {
            return Err(Problem::Bad(format!(
                "its part `{name}` has {bytes} bytes, over the limit of {DOCUMENT_BYTES_MAX}"
            )));
        }
        let mut read = Vec::new();
        content
            .take(DOCUMENT_BYTES_MAX)
            .read_to_end(&mut read)
            .map_err(unread(name))?;
        Ok(read)
    }

    fn copy(
        &self,
        name: &str,
        expected: Option<&Descriptor>,
        blobs: &Blobs,
        bytes_max: u64,
        new: &mut Vec<Digest>,
    ) -> Result<(Digest, u64), Problem> {
        let (mut content, bytes) = self.open(name)?;
        if bytes > bytes_max {
            return Err(Problem::Bad(format!(
                "its part `{name}` has {bytes} bytes, over what is left of the limit"
            )));
        }
        let mut writer = blobs.writer(expected)?;
        let mut step = vec![0; STEP_BYTES];
        let mut left = bytes;
        // No further than what was looked at, however a file grows meanwhile.
        while left > 0 {
            let most = left.min(STEP_BYTES as u64) as usize;
            let read = content.read(&mut step[..most]).map_err(unread(name))?;
            if read == 0 {
                break;
            }
            writer.write(&step[..read])?;
            left -= read as u64;
        }
        let written = writer.finish()?;
        if written.is_new {
            new.push(written.digest.clone());
        }
        Ok((written.digest, written.size))
    }
}

fn unread(name: &str) -> impl Fn(io::Error) -> Problem {
    move |error| Problem::Bad(format!("its part `{name}` cannot be read: {error}"))
}

/// A stretch of a file.
struct Part<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = bytes
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut bytes[..most], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
