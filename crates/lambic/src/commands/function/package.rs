//! Code as the server takes it: a zip, made of a folder or a file where it is none yet.
//!
//! The same folder gives the same bytes, whenever and wherever it is packed, so that unchanged code is known by its
//! digest. Links are refused: what they lead to may lie outside, and is another thing on another machine.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io::{self, Cursor, IsTerminal, Read, Seek, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use zip::{ZipArchive, ZipWriter, write::SimpleFileOptions};

use super::patterns::Patterns;

/// AWS's bound of a zip that is sent.
const ZIP_BYTES_MAX: u64 = 52_428_800;
/// AWS's bound of unpacked code, and the server's of files.
const CODE_BYTES_MAX: u64 = 262_144_000;
const FILES_MAX: usize = 20_000;
/// A file that is looked into for a handler.
const TEXT_BYTES_MAX: u64 = 1 << 20;
/// Less is packed in a blink.
const SHOWN_FROM_BYTES: u64 = 8 << 20;
/// How many of the largest files an error names.
const LARGEST: usize = 5;
const IGNORE_FILE: &str = ".lambicignore";

/// What no function needs. A project's own file of patterns can take it back with `!`.
const LEFT_OUT: [&str; 14] = [
    ".git",
    ".hg",
    ".svn",
    ".DS_Store",
    "__pycache__",
    "*.pyc",
    ".venv",
    IGNORE_FILE,
    ".lambic",
    ".aws-sam",
    ".serverless",
    // Links for whoever works on the project.
    "**/node_modules/.bin",
    "**/node_modules/.cache",
    "*.sock",
];

pub struct Package {
    /// As messages call it.
    pub shown: String,
    pub zip: Vec<u8>,
    pub files: BTreeMap<String, Size>,
}

/// Of one file.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub bytes: u64,
    packed: u64,
}

impl Package {
    /// Of a zip, a folder, a component or a source file.
    pub fn open(path: &Path) -> anyhow::Result<Package> {
        let shown = path.display().to_string();
        let about = fs::metadata(path).with_context(|| format!("cannot read {shown}"))?;
        if about.is_dir() {
            return Package::folder(path, &[]);
        }
        if !about.is_file() {
            bail!("{shown} is neither a file nor a folder");
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // A zip may be refused by its size alone.
        if about.len() > CODE_BYTES_MAX {
            bail!(
                "{shown} has {}, more than code may have",
                megabytes(about.len())
            );
        }
        let bytes = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
        match kind(&name, &bytes) {
            Kind::Zip => Package::zipped(shown, bytes),
            Kind::Single(executable) => Package::single(shown, &name, &bytes, executable),
            Kind::NoZip => bail!("{shown} is no zip, whatever its name says"),
            Kind::Module => bail!(
                "{shown} is a core module and no component; build it for wasm32-wasip2, or make it one with `wasm-tools component new`"
            ),
            Kind::Other => bail!(
                "{shown} is neither a zip, nor a folder, nor a component (.wasm), nor a source file in Python or JavaScript"
            ),
        }
    }

    /// A zip as it is.
    pub fn zipped(shown: String, zip: Vec<u8>) -> anyhow::Result<Package> {
        let mut archive = ZipArchive::new(Cursor::new(&zip))
            .with_context(|| format!("{shown} is no zip that can be read"))?;
        let mut files = BTreeMap::new();
        for index in 0..archive.len() {
            let file = archive
                .by_index_raw(index)
                .with_context(|| format!("{shown} is damaged"))?;
            let name = file.name().with_context(|| format!("{shown} is damaged"))?;
            if !file.is_dir() {
                let size = Size {
                    bytes: file.size(),
                    packed: file.compressed_size(),
                };
                files.insert(name.trim_start_matches("./").to_owned(), size);
            }
        }
        drop(archive);
        if files.is_empty() {
            bail!("{shown} holds no files");
        }
        let package = Package { shown, zip, files };
        package.check()?;
        Ok(package)
    }

    /// One file, under this name.
    pub fn single(
        shown: String,
        name: &str,
        bytes: &[u8],
        executable: bool,
    ) -> anyhow::Result<Package> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        writer.start_file(name, options(executable))?;
        writer.write_all(bytes)?;
        Package::zipped(shown, writer.finish()?.into_inner())
    }

    /// The files of a folder, but for what no function needs, what its `.lambicignore` names, and what `patterns`
    /// (of the same kind) say of its files.
    pub fn folder(folder: &Path, patterns: &[String]) -> anyhow::Result<Package> {
        let shown = folder.display().to_string();
        let files = list(folder, patterns)?;
        let total: u64 = files.iter().map(|file| file.bytes).sum();
        if files.is_empty() {
            bail!("there is no file in {shown} to deploy");
        }
        if total > CODE_BYTES_MAX || files.len() > FILES_MAX {
            let sizes = files.iter().map(|file| (file.name.as_str(), file.bytes));
            bail!(
                "the code in {shown} has {} in {} files; at most {} in {FILES_MAX} files can be deployed. {}",
                megabytes(total),
                files.len(),
                megabytes(CODE_BYTES_MAX),
                largest(sizes)
            );
        }
        let bar = progress(total);
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for file in &files {
            writer.start_file(&file.name, options(file.is_executable))?;
            let mut content = File::open(&file.path)
                .with_context(|| format!("cannot read {}", file.path.display()))?;
            copy(&mut content, &mut writer, &bar)
                .with_context(|| format!("cannot read {}", file.path.display()))?;
        }
        let zip = writer.finish()?.into_inner();
        bar.finish_and_clear();
        Package::zipped(shown, zip)
    }

    fn check(&self) -> anyhow::Result<()> {
        let bytes = self.zip.len() as u64;
        if bytes > ZIP_BYTES_MAX {
            let sizes = self.files.iter();
            let sizes = sizes.map(|(name, size)| (name.as_str(), size.packed));
            bail!(
                "{} has {} when packed; at most {} can be sent. {}",
                self.shown,
                megabytes(bytes),
                megabytes(ZIP_BYTES_MAX),
                largest(sizes)
            );
        }
        Ok(())
    }

    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The files that stand at the top.
    pub fn top(&self) -> impl Iterator<Item = &str> {
        let names = self.files.keys().map(String::as_str);
        names.filter(|name| !name.contains('/'))
    }

    /// A file's text; `None` if there is none, or it is no text of a source.
    pub fn text(&self, name: &str) -> Option<String> {
        if self.files.get(name)?.bytes > TEXT_BYTES_MAX {
            return None;
        }
        let mut archive = ZipArchive::new(Cursor::new(&self.zip)).ok()?;
        let mut text = String::new();
        let file = archive.by_name(name).ok()?;
        file.take(TEXT_BYTES_MAX).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// As a request carries it.
    pub fn base64(&self) -> String {
        BASE64_STANDARD.encode(&self.zip)
    }

    /// As AWS's API shows it.
    pub fn sha256(&self) -> String {
        BASE64_STANDARD.encode(Sha256::digest(&self.zip))
    }

    /// `3 files, 1.2 KB packed`
    pub fn size_shown(&self) -> String {
        let count = crate::output::counted(self.files.len() as u64, "file");
        format!("{count}, {} packed", megabytes(self.zip.len() as u64))
    }
}

enum Kind {
    Zip,
    /// Packed alone; true if it is a program.
    Single(bool),
    NoZip,
    Module,
    Other,
}

/// What a file is, by its first bytes and its name.
fn kind(name: &str, bytes: &[u8]) -> Kind {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    match bytes {
        [b'P', b'K', 3 | 5, 4 | 6, ..] => Kind::Zip,
        // The layer: 0 for modules, 1 for components.
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => Kind::Single(false),
        [0, b'a', b's', b'm', ..] => Kind::Module,
        _ if name == "bootstrap" => Kind::Single(true),
        _ => match extension {
            Some("py" | "js" | "mjs" | "cjs") => Kind::Single(false),
            Some("zip") => Kind::NoZip,
            _ => Kind::Other,
        },
    }
}

struct Listed {
    name: String,
    path: PathBuf,
    bytes: u64,
    is_executable: bool,
}

/// The files of a folder in the order of their names.
fn list(folder: &Path, patterns: &[String]) -> anyhow::Result<Vec<Listed>> {
    let own = folder.join(IGNORE_FILE);
    let own = match fs::read_to_string(&own) {
        Ok(text) => text.lines().map(str::to_owned).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", own.display()));
        }
    };
    let left_out = LEFT_OUT.iter().map(|line| (*line).to_owned()).chain(own);
    let wrong = |shown: &str| format!("{shown} of {}", folder.display());
    let left_out = Patterns::new(left_out).with_context(|| wrong(IGNORE_FILE))?;
    let patterns =
        Patterns::new(patterns.iter().cloned()).with_context(|| wrong("the patterns"))?;
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(dir) = folders.pop() {
        let entries =
            fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
        for entry in entries {
            let path = entry
                .with_context(|| format!("cannot read {}", dir.display()))?
                .path();
            let about = fs::symlink_metadata(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.strip_prefix(folder)?.to_string_lossy().into_owned();
            if left_out.matches(&name, about.is_dir()) {
                continue;
            }
            if about.is_dir() {
                folders.push(path);
            } else if !patterns.matches(&name, false) {
                files.push(listed(folder, path, &about)?);
            }
        }
        if files.len() > 2 * FILES_MAX {
            bail!(
                "{} has more than {} files; name those that are not needed in {IGNORE_FILE}",
                folder.display(),
                2 * FILES_MAX
            );
        }
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

fn listed(folder: &Path, path: PathBuf, about: &Metadata) -> anyhow::Result<Listed> {
    use std::os::unix::fs::PermissionsExt;

    if about.is_symlink() {
        let target = fs::read_link(&path).unwrap_or_default();
        bail!(
            "{} is a symbolic link to {}: put a copy in its place, or name it in {IGNORE_FILE}",
            path.display(),
            target.display()
        );
    }
    if !about.is_file() {
        bail!(
            "{} is neither a file nor a folder; name it in {IGNORE_FILE}",
            path.display()
        );
    }
    let name = path.strip_prefix(folder)?.to_str();
    let name = name.with_context(|| format!("the name {} is not UTF-8", path.display()))?;
    Ok(Listed {
        name: name.to_owned(),
        bytes: about.len(),
        is_executable: about.permissions().mode() & 0o111 != 0,
        path,
    })
}

/// Without a time, so that the same files are the same bytes.
fn options(executable: bool) -> SimpleFileOptions {
    let mode = if executable { 0o755 } else { 0o644 };
    SimpleFileOptions::default()
        .last_modified_time(zip::DateTime::default())
        .unix_permissions(mode)
}

fn copy(
    from: &mut impl Read,
    to: &mut ZipWriter<impl Write + Seek>,
    bar: &ProgressBar,
) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            bytes => {
                to.write_all(&buffer[..bytes])?;
                bar.inc(bytes as u64);
            }
        }
    }
}

/// On a terminal only.
fn progress(bytes: u64) -> ProgressBar {
    if bytes < SHOWN_FROM_BYTES || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(bytes);
    match ProgressStyle::with_template("packing {bar:30} {bytes}/{total_bytes} {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn largest<'a>(sizes: impl Iterator<Item = (&'a str, u64)>) -> String {
    let mut sizes: Vec<_> = sizes.collect();
    sizes.sort_by_key(|(name, bytes)| (std::cmp::Reverse(*bytes), *name));
    let named: Vec<String> = sizes
        .iter()
        .take(LARGEST)
        .map(|(name, bytes)| format!("{name} ({})", megabytes(*bytes)))
        .collect();
    format!(
        "The largest are {}; name what the function does not need in {IGNORE_FILE}, or put it into a layer",
        named.join(", ")
    )
}

/// In AWS's megabytes, which are 1,048,576 bytes.
pub fn megabytes(bytes: u64) -> String {
    match bytes {
        0..1_024 => crate::output::counted(bytes, "byte"),
        1_024..1_048_576 => format!("{:.1} KB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn write(folder: &Path, name: &str, content: &str) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn names(folder: &Path, patterns: &[&str]) -> Vec<String> {
        let patterns: Vec<String> = patterns.iter().map(|line| (*line).to_owned()).collect();
        let package = Package::folder(folder, &patterns).unwrap();
        package.files.into_keys().collect()
    }

    #[test]
    fn what_no_function_needs_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "handler.py",
            ".git/HEAD",
            "lib/__pycache__/a.pyc",
            "lib/a.py",
            "node_modules/.bin/tool",
            "node_modules/a/node_modules/.cache/x",
            "node_modules/a/index.js",
            "notes/plan.md",
            "notes/keep.md",
            ".config",
        ] {
            write(dir.path(), name, "x");
        }
        write(
            dir.path(),
            IGNORE_FILE,
            "# notes\nnotes/*\n!notes/keep.md\n",
        );
        assert_eq!(
            names(dir.path(), &[]),
            [
                ".config",
                "handler.py",
                "lib/a.py",
                "node_modules/a/index.js",
                "notes/keep.md"
            ]
        );
        // Patterns from elsewhere speak of files and can take back what an earlier one left out.
        assert_eq!(
            names(
                dir.path(),
                &["/lib/**", "/node_modules/**", "!/node_modules/a/**"]
            ),
            [
                ".config",
                "handler.py",
                "node_modules/a/index.js",
                "notes/keep.md"
            ]
        );
    }

    #[test]
    fn the_same_files_are_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "b/handler.py", "b = 1");
        write(dir.path(), "bootstrap", "#!/bin/bash");
        fs::set_permissions(
            dir.path().join("bootstrap"),
            fs::Permissions::from_mode(0o700),
        )
        .unwrap();
        let one = Package::folder(dir.path(), &[]).unwrap();
        let later = File::open(dir.path().join("bootstrap")).unwrap();
        later
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        let other = Package::folder(dir.path(), &[]).unwrap();
        assert_eq!(one.zip, other.zip);
        assert_eq!(one.sha256(), other.sha256());
        assert_eq!(one.text("b/handler.py").as_deref(), Some("b = 1"));
        let mut archive = ZipArchive::new(Cursor::new(&one.zip)).unwrap();
        let mut mode = |name: &str| archive.by_name(name).unwrap().unix_mode().unwrap() & 0o777;
        assert_eq!((mode("bootstrap"), mode("b/handler.py")), (0o755, 0o644));
    }

    #[test]
    fn links_and_what_is_no_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "handler.py", "x");
        symlink("/etc/passwd", dir.path().join("users")).unwrap();
        let error = Package::folder(dir.path(), &[]).err().unwrap().to_string();
        assert!(
            error.contains("users is a symbolic link to /etc/passwd"),
            "{error}"
        );
        write(dir.path(), IGNORE_FILE, "users\n");
        assert_eq!(names(dir.path(), &[]), ["handler.py"]);
        write(dir.path(), IGNORE_FILE, "users\n[z-a]\n");
        assert!(Package::folder(dir.path(), &[]).is_err());
    }

    #[test]
    fn files_are_known_by_what_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let check = |name: &str, bytes: &[u8], expected: &str| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            let found = match Package::open(&path) {
                Ok(package) => package.files.into_keys().collect::<Vec<_>>().join(" "),
                Err(error) => format!("{error:#}"),
            };
            assert!(found.contains(expected), "{name}: {found}");
        };
        check("a.wasm", b"\0asm\x0d\0\x01\0rest", "a.wasm");
        check("b.wasm", b"\0asm\x01\0\0\0rest", "core module");
        check("c.py", b"def handler(e, c): pass", "c.py");
        check("d.zip", b"hello", "is no zip");
        check("e.zip", b"PK\x03\x04hello", "is no zip that can be read");
        check("f.txt", b"hello", "neither a zip, nor a folder");
        let empty = ZipWriter::new(Cursor::new(Vec::new())).finish().unwrap();
        check("g.zip", empty.get_ref(), "holds no files");
        assert!(Package::open(&dir.path().join("none")).is_err());
    }

    #[test]
    fn what_is_too_large_names_the_largest() {
        let sizes = [("a", 1), ("b", 3 << 20), ("c", 2 << 10)];
        let text = largest(sizes.into_iter());
        assert!(
            text.starts_with("The largest are b (3.0 MB), c (2.0 KB), a (1 byte)"),
            "{text}"
        );
        let package = Package {
            shown: "x.zip".to_owned(),
            zip: vec![0; ZIP_BYTES_MAX as usize + 1],
            files: BTreeMap::new(),
        };
        let error = package.check().unwrap_err().to_string();
        assert!(error.contains("at most 50.0 MB can be sent"), "{error}");
    }
}
