//! The files of an image while they are put together: a folder that no name of an image leads out of.
//!
//! Every step goes from an open folder to one name in it and never follows a link by itself: links are read and resolved
//! here, as a program whose root this is would see them. So nothing outside is reached, whatever a layer says.

use std::{
    cell::Cell,
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, Timespec, Timestamps, chmodat, fchmod, futimens,
        linkat, mkdirat, openat, readlinkat, statat, symlinkat, syncfs, unlinkat,
    },
    io::Errno,
};

use super::Problem;
use crate::Error;

/// Folders within each other.
const DEPTH_MAX: usize = 128;
/// Of a path. The kernel takes twice that, with all that stands before it.
const PATH_BYTES_MAX: usize = 2_048;
const NAME_BYTES_MAX: usize = 255;
/// The kernel's, of links in one path.
const LINKS_MAX: usize = 40;

const FOLDER: u32 = 0o755;

pub struct Tree {
    root: OwnedFd,
    files_left: Cell<u64>,
    files_max: u64,
}

/// A folder of it.
pub struct Folder {
    fd: OwnedFd,
    /// Without links, from the top.
    pub at: PathBuf,
}

/// Names one after the other, from the top: an absolute path counts from there too. The error says what is wrong.
pub fn names(path: &[u8]) -> Result<Vec<&OsStr>, Problem> {
    let refuse = |why: &str| {
        let path = String::from_utf8_lossy(&path[..path.len().min(PATH_BYTES_MAX)]);
        Err(Problem::Bad(format!("`{path}` in it {why}")))
    };
    if path.len() > PATH_BYTES_MAX {
        return refuse("has too long a path");
    }
    if path.contains(&0) {
        return refuse("has a zero byte in its name");
    }
    let parts = path.split(|&b| b == b'/');
    let names: Vec<&[u8]> = parts.filter(|part| !matches!(*part, b"" | b".")).collect();
    if names.contains(&b"..".as_slice()) {
        return refuse("leads out of it");
    }
    if names.iter().any(|name| name.len() > NAME_BYTES_MAX) {
        return refuse("has too long a name");
    }
    Ok(names.into_iter().map(OsStr::from_bytes).collect())
}

fn shown(path: &Path) -> String {
    format!("`/{}`", path.display())
}

/// What only a name can be guilty of is the image's fault.
fn failed(action: &'static str, at: &Path, errno: Errno) -> Problem {
    match errno {
        Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ | Errno::MLINK | Errno::LOOP => {
            let reason = io::Error::from(errno);
            Problem::Bad(format!("{} in it cannot be made: {reason}", shown(at)))
        }
        errno => Problem::Ours(Error::io(action, at)(errno.into())),
    }
}

impl Tree {
    /// Of the empty folder `root`, for so many files and folders.
    pub fn new(root: &Path, files_max: u64) -> Result<Tree, Problem> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, root, flags, Mode::empty())
            .map_err(|errno| Error::io("open", root)(errno.into()))?;
        Ok(Tree {
            root: fd,
            files_left: Cell::new(files_max),
            files_max,
        })
    }

    fn take(&self) -> Result<(), Problem> {
        let left = self.files_left.get().checked_sub(1).ok_or_else(|| {
            Problem::Bad(format!(
                "it has more than {} files and folders",
                self.files_max
            ))
        })?;
        self.files_left.set(left);
        Ok(())
    }

    /// The folder at `path`, wherever links in it lead; with `make`, what lacks of it is made. `None`: it is not there.
    pub fn folder(&self, path: &[&OsStr], make: bool) -> Result<Option<Folder>, Problem> {
        let mut above: Vec<OwnedFd> = Vec::new();
        let mut at = PathBuf::new();
        let mut left: Vec<OsString> = path.iter().rev().map(|name| (*name).to_owned()).collect();
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == ".." {
                above.pop();
                at.pop();
                continue;
            }
            let here = above.last().unwrap_or(&self.root).as_fd();
            let inner = at.join(&name);
            if above.len() >= DEPTH_MAX || inner.as_os_str().len() > PATH_BYTES_MAX {
                return Err(Problem::Bad(format!(
                    "{} in it is too deep within folders",
                    shown(&inner)
                )));
            }
            match open_folder(here, &name) {
                Ok(fd) => {
                    above.push(fd);
                    at = inner;
                }
                Err(Errno::NOENT) if !make => return Ok(None),
                Err(Errno::NOENT) => {
                    self.take()?;
                    make_folder(here, &name).map_err(|errno| failed("create", &inner, errno))?;
                    // It is opened the next time around.
                    left.push(name);
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let to = match readlinkat(here, &name, Vec::new()) {
                        Ok(to) => to.into_bytes(),
                        Err(Errno::INVAL) if !make => return Ok(None),
                        Err(Errno::INVAL) => {
                            return Err(Problem::Bad(format!(
                                "{} in it is a file and a folder",
                                shown(&inner)
                            )));
                        }
                        Err(errno) => return Err(failed("read", &inner, errno)),
                    };
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Problem::Bad(format!(
                            "the link {} in it leads to links for ever",
                            shown(&inner)
                        )));
                    }
                    if to.starts_with(b"/") {
                        above.clear();
                        at = PathBuf::new();
                    }
                    let parts = to.rsplit(|&b| b == b'/');
                    let parts = parts.filter(|part| !matches!(*part, b"" | b"."));
                    left.extend(parts.map(|part| OsString::from_vec(part.to_owned())));
                }
                Err(errno) => return Err(failed("open", &inner, errno)),
            }
        }
        let fd = match above.pop() {
            Some(fd) => fd,
            None => self.root.try_clone().map_err(Error::io("open", &at))?,
        };
        Ok(Some(Folder { fd, at }))
    }

    /// A folder in `parent`, in the place of what else is there.
    pub fn put_folder(&self, parent: &Folder, name: &OsStr) -> Result<(), Problem> {
        if parent.kind(name)? == Some(FileType::Directory) {
            return Ok(());
        }
        self.clear(parent, name)?;
        self.take()?;
        make_folder(parent.fd.as_fd(), name)
            .map_err(|errno| failed("create", &parent.at.join(name), errno))
    }

    pub fn put_file(&self, parent: &Folder, name: &OsStr) -> Result<File, Problem> {
        self.clear(parent, name)?;
        self.take()?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&parent.fd, name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed("create", &parent.at.join(name), errno))?;
        Ok(File::from(fd))
    }

    pub fn put_symlink(&self, parent: &Folder, name: &OsStr, to: &[u8]) -> Result<(), Problem> {
        let at = parent.at.join(name);
        if to.is_empty() || to.contains(&0) || to.len() > PATH_BYTES_MAX {
            return Err(Problem::Bad(format!(
                "the link {} in it leads nowhere",
                shown(&at)
            )));
        }
        self.clear(parent, name)?;
        self.take()?;
        symlinkat(to, &parent.fd, name).map_err(|errno| failed("create", &at, errno))
    }

    /// Another name for the file at `to`.
    pub fn put_hardlink(
        &self,
        parent: &Folder,
        name: &OsStr,
        to: &[&OsStr],
    ) -> Result<(), Problem> {
        let at = parent.at.join(name);
        let nothing = || {
            let to: PathBuf = to.iter().collect();
            Problem::Bad(format!(
                "{} in it is another name for {}, which is no file of it",
                shown(&at),
                shown(&to)
            ))
        };
        let (file, folders) = to.split_last().ok_or_else(nothing)?;
        let folder = self.folder(folders, false)?.ok_or_else(nothing)?;
        if folder.at.join(file) == at {
            return Ok(());
        }
        match folder.kind(file)? {
            None | Some(FileType::Directory) => return Err(nothing()),
            Some(_) => {}
        }
        self.clear(parent, name)?;
        self.take()?;
        linkat(&folder.fd, *file, &parent.fd, name, AtFlags::empty()).map_err(|errno| match errno {
            // It was in what had to give way.
            Errno::NOENT => nothing(),
            errno => failed("create", &at, errno),
        })
    }

    /// A later entry of the same name stands in the place of what was there.
    fn clear(&self, parent: &Folder, name: &OsStr) -> Result<(), Problem> {
        self.remove(parent, name, &HashSet::new())
    }

    /// Removes what is at `name` but for what is in `kept`, which are paths from the top.
    pub fn remove(
        &self,
        parent: &Folder,
        name: &OsStr,
        kept: &HashSet<PathBuf>,
    ) -> Result<(), Problem> {
        remove(parent.fd.as_fd(), name, &parent.at.join(name), kept).map(drop)
    }

    /// The same of all that is in a folder.
    pub fn remove_all(&self, folder: &Folder, kept: &HashSet<PathBuf>) -> Result<(), Problem> {
        for name in listed(folder.fd.as_fd(), &folder.at)? {
            remove(folder.fd.as_fd(), &name, &folder.at.join(&name), kept)?;
        }
        Ok(())
    }

    /// Waits until all of it is on disk, with whatever else is on that.
    pub fn sync(&self) -> Result<(), Problem> {
        syncfs(&self.root).map_err(|errno| failed("sync", Path::new(""), errno))
    }
}

impl Folder {
    /// What is at `name`, if anything; a link is one.
    pub fn kind(&self, name: &OsStr) -> Result<Option<FileType>, Problem> {
        kind(self.fd.as_fd(), name, &self.at.join(name))
    }

    pub fn bytes(&self, name: &OsStr) -> Result<u64, Problem> {
        let found = statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed("look at", &self.at.join(name), errno))?;
        Ok(found.st_size as u64)
    }
}

/// Gives a file its rights and its time. Nobody but its owner may write; set-user-id and the like are no rights of an
/// image's file here.
pub fn finish(file: &File, at: &Path, mode: u32, modified: i64) -> Result<(), Problem> {
    let executable = if mode & 0o111 == 0 { 0 } else { 0o111 };
    let mode = Mode::from_raw_mode(0o644 | executable);
    fchmod(file, mode).map_err(|errno| failed("change", at, errno))?;
    let time = Timespec {
        tv_sec: modified,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    // Interpreters compare it with what they compiled.
    futimens(file, &times).map_err(|errno| failed("change", at, errno))
}

/// For all to read, whatever the server's own files are.
fn make_folder(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    mkdirat(parent, name, Mode::from_raw_mode(FOLDER))?;
    chmodat(parent, name, Mode::from_raw_mode(FOLDER), AtFlags::empty())
}

fn open_folder(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

fn kind(parent: BorrowedFd<'_>, name: &OsStr, at: &Path) -> Result<Option<FileType>, Problem> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed("look at", at, errno)),
    }
}

fn listed(folder: BorrowedFd<'_>, at: &Path) -> Result<Vec<OsString>, Problem> {
    let entries = Dir::read_from(folder).map_err(|errno| failed("read", at, errno))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|errno| failed("read", at, errno))?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsString::from_vec(name.to_owned()));
        }
    }
    Ok(names)
}

/// True if nothing is left of it.
fn remove(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    at: &Path,
    kept: &HashSet<PathBuf>,
) -> Result<bool, Problem> {
    let failed = |errno| failed("remove", at, errno);
    match kind(parent, name, at)? {
        None => Ok(true),
        Some(FileType::Directory) => {
            let folder = open_folder(parent, name).map_err(failed)?;
            let mut is_empty = !kept.contains(at);
            for inner in listed(folder.as_fd(), at)? {
                is_empty &= remove(folder.as_fd(), &inner, &at.join(&inner), kept)?;
            }
            if is_empty {
                unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(failed)?;
            }
            Ok(is_empty)
        }
        Some(_) if kept.contains(at) => Ok(false),
        Some(_) => {
            unlinkat(parent, name, AtFlags::empty()).map_err(failed)?;
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::PermissionsExt};

    use super::*;

    fn path(text: &str) -> Vec<&OsStr> {
        names(text.as_bytes()).unwrap()
    }

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        let tree = Tree::new(&dir.path().join("root"), 1_000).unwrap();
        (dir, tree)
    }

    fn write(tree: &Tree, at: &str, content: &str) -> Result<(), Problem> {
        let path = path(at);
        let (name, folders) = path.split_last().unwrap();
        let folder = tree.folder(folders, true)?.unwrap();
        let mut file = tree.put_file(&folder, name)?;
        file.write_all(content.as_bytes()).unwrap();
        finish(&file, &folder.at, 0o6755, 1_000_000_000)
    }

    fn link(tree: &Tree, at: &str, to: &str) {
        let path = path(at);
        let (name, folders) = path.split_last().unwrap();
        let folder = tree.folder(folders, true).unwrap().unwrap();
        tree.put_symlink(&folder, name, to.as_bytes()).unwrap();
    }

    fn told(problem: Problem) -> String {
        match problem {
            Problem::Bad(told) => told,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_stay_inside() {
        assert_eq!(names(b"/a//./b/").unwrap(), ["a", "b"]);
        assert!(names(b"./").unwrap().is_empty());
        for (path, why) in [
            (&b"../a"[..], "leads out of it"),
            (b"a/../../b", "leads out of it"),
            (b"a/..", "leads out of it"),
            (b"a\0b", "zero byte"),
            (&[b'n'; 256], "too long a name"),
            (&b"a/".repeat(2_000), "too long a path"),
        ] {
            let told = told(names(path).unwrap_err());
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn links_mean_the_images_own_root() {
        let (dir, tree) = tree();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        for (at, to) in [
            ("absolute", outside.to_str().unwrap()),
            ("up", "../../../../outside"),
            ("lib", "usr/lib"),
            ("deep/link", "/lib"),
            ("a", "b"),
            ("b", "a"),
        ] {
            link(&tree, at, to);
        }
        for name in ["absolute", "up"] {
            write(&tree, &format!("{name}/file"), "x").unwrap();
        }
        write(&tree, "deep/link/so", "x").unwrap();
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        let root = dir.path().join("root");
        assert!(root.join("outside/file").is_file() && root.join("usr/lib/so").is_file());
        // A link that leads out at the place of the file itself is replaced.
        link(&tree, "file", outside.join("made").to_str().unwrap());
        write(&tree, "file", "x").unwrap();
        assert!(!outside.join("made").exists() && !root.join("file").is_symlink());
        assert!(told(write(&tree, "a/x", "").unwrap_err()).contains("links for ever"));
        assert!(told(write(&tree, "file/x", "").unwrap_err()).contains("a file and a folder"));
        let mode = root.join("file").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "no set-user-id");
    }

    #[test]
    fn another_name_is_one_for_a_file_of_the_image() {
        let (dir, tree) = tree();
        write(&tree, "usr/file", "x").unwrap();
        std::fs::write(dir.path().join("secret"), "").unwrap();
        link(&tree, "out", "..");
        link(&tree, "also", "usr");
        let root = tree.folder(&[], true).unwrap().unwrap();
        let hard = |to: &str| tree.put_hardlink(&root, OsStr::new("hard"), &path(to));
        hard("also/file").unwrap();
        // Of itself.
        hard("hard").unwrap();
        assert!(dir.path().join("root/hard").is_file());
        for to in ["out/secret", "nothing", "usr", "usr/nothing/x", ""] {
            let told = told(hard(to).unwrap_err());
            assert!(told.contains("is no file of it"), "{told}");
        }
    }

    #[test]
    fn what_is_kept_stays() {
        let (dir, tree) = tree();
        for at in ["a/one", "a/two", "a/b/three", "c/four"] {
            write(&tree, at, "x").unwrap();
        }
        link(&tree, "a/out", dir.path().to_str().unwrap());
        let root = tree.folder(&[], true).unwrap().unwrap();
        let kept = HashSet::from([PathBuf::from("a/b/three")]);
        tree.remove(&root, OsStr::new("a"), &kept).unwrap();
        tree.remove(&root, OsStr::new("nothing"), &kept).unwrap();
        let left = |at: &str| dir.path().join("root").join(at).exists();
        assert!(left("a/b/three") && left("c/four"));
        assert!(!left("a/one") && !left("a/two") && !left("a/out"));
        tree.remove_all(&root, &HashSet::new()).unwrap();
        assert!(!left("a") && !left("c") && dir.path().exists());
    }

    #[test]
    fn everything_has_a_bound() {
        let (_dir, tree) = tree();
        assert!(told(write(&tree, &"d/".repeat(200), "").unwrap_err()).contains("too deep"));
        // By links, step by step.
        write(&tree, &format!("{}file", "e/".repeat(100)), "").unwrap();
        link(&tree, "down", &"e/".repeat(100));
        let far = format!("down/{}file", "f/".repeat(100));
        assert!(told(write(&tree, &far, "").unwrap_err()).contains("too deep"));
        let mut made = 0;
        let ended = loop {
            match write(&tree, &format!("file{made}"), "") {
                Ok(()) => made += 1,
                Err(problem) => break problem,
            }
        };
        assert!(told(ended).contains("more than 1000 files") && made < 1_000);
    }
}
