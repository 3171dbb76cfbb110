//! Zips of functions and layers, unpacked in memory within AWS's bounds.
//!
//! A zip comes from anybody: what it claims of itself is not believed. Every path stays inside, nothing but files is
//! taken, and no more bytes are unpacked than code may have. The error says why, for the user.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read},
    path::{Component, Path, PathBuf},
};

use zip::{ZipArchive, read::ZipFile};

use crate::code::{CODE_BYTES_MAX, FILES_MAX, is_within};

/// AWS's file system takes no longer ones either.
const NAME_BYTES_MAX: usize = 1_024;
const FOLDERS_MAX: usize = 64;
/// A link's target.
const LINK_BYTES_MAX: u64 = 4_096;
/// Links that lead to links.
const LINKS_MAX: usize = 8;

enum Found {
    File(Vec<u8>),
    /// Where it leads, from the top.
    Link(PathBuf),
}

/// The files by their paths. Links inside of the zip become copies of what they lead to.
pub fn read(bytes: &[u8]) -> Result<BTreeMap<PathBuf, Vec<u8>>, String> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| error.to_string())?;
    if archive.len() > FILES_MAX {
        return Err(format!("it has more than {FILES_MAX} files"));
    }
    let mut left = CODE_BYTES_MAX;
    let mut found = BTreeMap::new();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index).map_err(|error| error.to_string())?;
        let name = name(&file)?;
        if name.len() > NAME_BYTES_MAX || name.split('/').count() > FOLDERS_MAX {
            return Err(format!(
                "the name of a file has more than {NAME_BYTES_MAX} bytes or {FOLDERS_MAX} folders"
            ));
        }
        let path = inside(Path::new(&name)).ok_or_else(|| format!("`{name}` leads out of it"))?;
        if file.is_dir() || path.as_os_str().is_empty() {
            continue;
        }
        let one = match kind(&file) {
            Kind::File => Found::File(unpack(&mut file, &mut left)?),
            Kind::Link => Found::Link(target(&mut file, &path, &name)?),
            Kind::Other => return Err(format!("`{name}` is neither a file nor a folder")),
        };
        found.insert(path, one);
    }
    let files: BTreeMap<PathBuf, Vec<u8>> = resolved(&found, &mut left)?;
    if files.is_empty() {
        return Err("Uploaded file must be a non-empty zip".to_owned());
    }
    check_folders(&files)?;
    Ok(files)
}

fn name<R: Read>(file: &ZipFile<'_, R>) -> Result<String, String> {
    let name = file.name().map_err(|error| error.to_string())?;
    Ok(name.into_owned())
}

enum Kind {
    File,
    Link,
    Other,
}

fn kind<R: Read>(file: &ZipFile<'_, R>) -> Kind {
    // Of Unix, if the zip was made there: S_IFMT and its values.
    match file.unix_mode().map(|mode| mode & 0o170_000) {
        None | Some(0 | 0o100_000) => Kind::File,
        Some(0o120_000) => Kind::Link,
        Some(_) => Kind::Other,
    }
}

/// The content, if all of it has room.
fn unpack<R: Read>(file: &mut ZipFile<'_, R>, left: &mut u64) -> Result<Vec<u8>, String> {
    let name = name(file)?;
    let mut content = Vec::new();
    file.take(*left + 1)
        .read_to_end(&mut content)
        .map_err(|error| format!("`{name}` cannot be unpacked: {error}"))?;
    take(left, content.len() as u64)?;
    Ok(content)
}

fn take(left: &mut u64, bytes: u64) -> Result<(), String> {
    *left = left
        .checked_sub(bytes)
        .ok_or_else(|| format!("Unzipped size must be smaller than {CODE_BYTES_MAX} bytes"))?;
    Ok(())
}

fn target<R: Read>(file: &mut ZipFile<'_, R>, link: &Path, name: &str) -> Result<PathBuf, String> {
    let mut text = String::new();
    file.take(LINK_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| format!("the link `{name}` cannot be read: {error}"))?;
    let from = link.parent().unwrap_or(Path::new(""));
    inside(&from.join(&text))
        .ok_or_else(|| format!("the link `{name}` leads out of it, to `{text}`"))
}

/// The path without `.` and `..`, if it stays inside.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !inside.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    is_within(&inside).then_some(inside)
}

fn resolved(
    found: &BTreeMap<PathBuf, Found>,
    left: &mut u64,
) -> Result<BTreeMap<PathBuf, Vec<u8>>, String> {
    let mut files = BTreeMap::new();
    for (path, one) in found {
        match one {
            Found::File(content) => {
                files.insert(path.clone(), content.clone());
            }
            Found::Link(target) => {
                for (below, content) in led_to(found, path, target)? {
                    take(left, content.len() as u64)?;
                    files.insert(path.join(below), content.clone());
                    if files.len() > FILES_MAX {
                        return Err(format!("it has more than {FILES_MAX} files"));
                    }
                }
            }
        }
    }
    // A link to a file is that file's content at the link's own path.
    Ok(files
        .into_iter()
        .map(|(path, content)| (path.components().collect(), content))
        .collect())
}

/// What a link leads to: one file, with an empty path, or the files of a folder.
fn led_to<'a>(
    found: &'a BTreeMap<PathBuf, Found>,
    link: &Path,
    target: &Path,
) -> Result<Vec<(PathBuf, &'a Vec<u8>)>, String> {
    let mut target = target.to_owned();
    for _ in 0..LINKS_MAX {
        match found.get(&target) {
            Some(Found::File(content)) => return Ok(vec![(PathBuf::new(), content)]),
            Some(Found::Link(next)) => target = next.clone(),
            None => {
                let below = found.iter().filter_map(|(path, one)| match one {
                    Found::File(content) => {
                        Some((path.strip_prefix(&target).ok()?.to_owned(), content))
                    }
                    Found::Link(_) => None,
                });
                let below: Vec<_> = below.collect();
                if below.is_empty() || link.starts_with(&target) {
                    break;
                }
                return Ok(below);
            }
        }
    }
    Err(format!(
        "the link `{}` leads to nothing that is in it",
        link.display()
    ))
}

/// No file may be where another one needs a folder.
fn check_folders(files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<(), String> {
    let in_the_way = files
        .keys()
        .flat_map(|path| path.ancestors().skip(1))
        .find(|folder| files.contains_key(*folder));
    match in_the_way {
        Some(path) => Err(format!("`{}` is a file and a folder", path.display())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::{ZipWriter, write::SimpleFileOptions};

    use super::*;

    fn zipped(write: impl FnOnce(&mut ZipWriter<Cursor<Vec<u8>>>)) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        write(&mut writer);
        writer.finish().unwrap().into_inner()
    }

    fn one(name: &str, content: &[u8]) -> Vec<u8> {
        zipped(|writer| {
            writer
                .start_file(name, SimpleFileOptions::default())
                .unwrap();
            writer.write_all(content).unwrap();
        })
    }

    #[test]
    fn files_and_links_are_read() {
        let zip = zipped(|writer| {
            let options = SimpleFileOptions::default();
            writer.add_directory("lib", options).unwrap();
            writer.start_file("lib/a.py", options).unwrap();
            writer.write_all(b"a = 1").unwrap();
            writer.add_symlink("b.py", "lib/a.py", options).unwrap();
            writer.add_symlink("also", "./lib", options).unwrap();
        });
        let files = read(&zip).unwrap();
        let names: Vec<_> = files.keys().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(names, ["also/a.py", "b.py", "lib/a.py"]);
        assert!(files.values().all(|content| content == b"a = 1"));
    }

    #[test]
    fn what_leads_out_is_refused() {
        for name in ["../a", "/etc/a", "a/../../b"] {
            let error = read(&one(name, b"x")).unwrap_err();
            assert!(error.contains("leads out of it"), "{name}: {error}");
        }
        for target in ["../../etc/passwd", "/etc/passwd", "nothing", "."] {
            let zip = zipped(|writer| {
                let options = SimpleFileOptions::default();
                writer.start_file("a", options).unwrap();
                writer.add_symlink("folder/link", target, options).unwrap();
            });
            let error = read(&zip).unwrap_err();
            assert!(
                error.contains("the link `folder/link` leads"),
                "{target}: {error}"
            );
        }
    }

    #[test]
    fn long_names_are_refused() {
        for name in ["a/".repeat(64) + "b", "n".repeat(1_025)] {
            assert!(
                read(&one(&name, b"x"))
                    .unwrap_err()
                    .contains("the name of a file")
            );
        }
        assert!(read(&one(&("a/".repeat(63) + "b"), b"x")).is_ok());
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let zip = zipped(|writer| {
            writer
                .start_file(
                    "zeros",
                    SimpleFileOptions::default()
                        .compression_method(zip::CompressionMethod::Deflated),
                )
                .unwrap();
            let zeros = vec![0; 1 << 20];
            for _ in 0..=CODE_BYTES_MAX >> 20 {
                writer.write_all(&zeros).unwrap();
            }
        });
        assert!(zip.len() < 1 << 20);
        let error = read(&zip).unwrap_err();
        assert!(
            error.contains("must be smaller than 262144000 bytes"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_zip_or_damaged_is_refused() {
        assert!(read(b"").is_err());
        assert!(read(b"def handler(event, context): pass").is_err());
        let whole = one("handler.py", &[b'x'; 1000]);
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
        }
        let empty = zipped(|_| {});
        assert_eq!(
            read(&empty).unwrap_err(),
            "Uploaded file must be a non-empty zip"
        );
        let both = zipped(|writer| {
            let options = SimpleFileOptions::default();
            writer.start_file("a", options).unwrap();
            writer.start_file("a/b", options).unwrap();
        });
        assert!(read(&both).unwrap_err().contains("a file and a folder"));
    }
}
