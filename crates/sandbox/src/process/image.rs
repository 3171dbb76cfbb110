//! A container image: its root, and its files as the host sees them.
//!
//! What stands at the top of the image is mounted into the same skeleton that other roots have, so that `/dev`, `/proc`
//! and `/tmp` are ours. Links of an image mean its own root: followed by the host they would lead anywhere. So they are
//! resolved here, step by step, and nothing in an image leads out of it.

use std::{
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::root::{Access, Base, RESOLV_CONF, Step, kernel, path, tmp};

/// The kernel's, of links in one path.
const LINKS_MAX: usize = 40;

/// Folders that a container image may have and does not get.
const NOT_OF_IMAGE: [&str; 4] = ["dev", "proc", "sys", "tmp"];
/// What stands at the top of an image. Each is a mount of its own.
const TOP_MAX: usize = 256;

impl Base {
    /// All steps for an environment of a container image, whose files are in the folder `image`.
    pub fn image_steps(
        &self,
        image: &Path,
        tmp_mb: u32,
        user: Option<u32>,
    ) -> io::Result<Vec<Step>> {
        let mut steps: Vec<Step> = NOT_OF_IMAGE
            .iter()
            .map(|name| Step::Folder(path(name)))
            .collect();
        let mut entries: Vec<_> = fs::read_dir(image)?.collect::<io::Result<_>>()?;
        if entries.len() > TOP_MAX {
            return Err(io::Error::other(format!(
                "the image has more than {TOP_MAX} files and folders at its top"
            )));
        }
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (name, kind) = (entry.file_name(), entry.file_type()?);
            if NOT_OF_IMAGE.iter().any(|taken| name == *taken) {
                continue;
            }
            if kind.is_symlink() {
                steps.push(Step::Link {
                    at: path(&name),
                    to: path(fs::read_link(entry.path())?),
                });
            } else if kind.is_dir() || kind.is_file() {
                steps.push(Step::Bind {
                    from: path(entry.path()),
                    at: path(&name),
                    is_folder: kind.is_dir(),
                    access: Access::Read,
                });
            }
        }
        let real = |at: &str| fs::symlink_metadata(image.join(at));
        // Never through a link, which would be followed on the host's side.
        if self.has(Path::new(RESOLV_CONF))
            && real("etc").is_ok_and(|found| found.is_dir())
            && real("etc/resolv.conf").is_ok_and(|found| found.is_file())
        {
            self.bind(&mut steps, Path::new(RESOLV_CONF), Path::new(RESOLV_CONF));
        }
        steps.extend(kernel());
        steps.push(tmp(tmp_mb, user));
        Ok(steps)
    }
}

/// Where on the host that is which a program of the image finds at `path`; it is no link.
pub fn found(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut at = PathBuf::new();
    let mut left = steps(path);
    left.reverse();
    let mut links = 0;
    while let Some(step) = left.pop() {
        if step == ".." {
            at.pop();
            continue;
        }
        let host = root.join(&at).join(&step);
        if !fs::symlink_metadata(&host).ok()?.is_symlink() {
            at.push(step);
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return None;
        }
        let to = fs::read_link(&host).ok()?;
        if to.is_absolute() {
            at.clear();
        }
        left.extend(steps(&to).into_iter().rev());
    }
    // What is no folder has nothing below it, whatever `..` made of that.
    Some(root.join(at)).filter(|host| fs::symlink_metadata(host).is_ok())
}

/// Names and `..`.
fn steps(path: &Path) -> Vec<OsString> {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

/// Names of the files in its `/opt/extensions`.
pub fn extensions(root: &Path) -> Vec<String> {
    let folder = Path::new("/opt/extensions");
    let entries = found(root, folder).map(fs::read_dir);
    let names = entries
        .into_iter()
        .flatten()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| found(root, &folder.join(name)).is_some_and(|file| file.is_file()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn at(steps: &[Step], name: &str) -> Option<Step> {
        let name = path(name);
        let is_it = |step: &&Step| match step {
            Step::Folder(at)
            | Step::File { at, .. }
            | Step::Link { at, .. }
            | Step::Bind { at, .. }
            | Step::Mount { at, .. } => *at == name,
        };
        steps.iter().rev().find(is_it).cloned()
    }

    #[test]
    fn an_image_brings_its_own_folders() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path();
        for folder in ["etc", "usr", "proc", "opt"] {
            fs::create_dir(image.join(folder)).unwrap();
        }
        fs::write(image.join("run.sh"), "").unwrap();
        fs::write(image.join("etc/resolv.conf"), "").unwrap();
        for (at, to) in [("bin", "usr/bin"), ("tmp", "/etc"), ("dev", "/host")] {
            symlink(to, image.join(at)).unwrap();
        }
        let base = |own_network| Base::read(Path::new("/nowhere"), 5, 5, own_network);
        let (alone, shared) = (base(true), base(false));
        let steps = |base: &Base| base.image_steps(image, 512, Some(5)).unwrap();
        let of_alone = steps(&alone);
        for (name, is_folder) in [
            ("etc", true),
            ("usr", true),
            ("opt", true),
            ("run.sh", false),
        ] {
            let bound = Step::Bind {
                from: path(image.join(name)),
                at: path(name),
                is_folder,
                access: Access::Read,
            };
            assert_eq!(at(&of_alone, name), Some(bound));
        }
        let link = Step::Link {
            at: path("bin"),
            to: path("usr/bin"),
        };
        assert_eq!(at(&of_alone, "bin"), Some(link));
        assert_eq!(at(&of_alone, "dev"), Some(Step::Folder(path("dev"))));
        for name in ["proc", "tmp"] {
            let step = at(&of_alone, name);
            assert!(matches!(step, Some(Step::Mount { .. })), "{name}");
        }
        assert_eq!(at(&of_alone, "etc/resolv.conf"), None);
        // Where the network is the machine's, so are its names, unless that leads elsewhere.
        if Path::new(RESOLV_CONF).exists() {
            assert!(at(&steps(&shared), "etc/resolv.conf").is_some());
        }
        fs::rename(image.join("etc"), image.join("real")).unwrap();
        symlink("/etc", image.join("etc")).unwrap();
        assert_eq!(at(&steps(&shared), "etc/resolv.conf"), None);
        for number in 0..TOP_MAX {
            fs::write(image.join(format!("file{number}")), "").unwrap();
        }
        let error = alone.image_steps(image, 512, None).unwrap_err();
        assert!(error.to_string().contains("more than 256"), "{error}");
    }

    #[test]
    fn nothing_in_an_image_leads_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for folder in ["etc", "usr/lib", "opt/extensions"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(dir.path().join("secret"), "").unwrap();
        fs::write(root.join("usr/lib/watch"), "").unwrap();
        for (at, to) in [
            ("lib", "usr/lib"),
            ("absolute", "/etc"),
            ("up", "../../../.."),
            ("out", "../secret"),
            ("loop", "loop"),
            ("opt/extensions/watch", "/lib/watch"),
            ("opt/extensions/gone", "/lib/gone"),
            ("opt/extensions/folder", "/lib"),
        ] {
            symlink(to, root.join(at)).unwrap();
        }
        for (path, expected) in [
            ("/", Some("")),
            ("etc", Some("etc")),
            ("/absolute", Some("etc")),
            ("/lib/watch", Some("usr/lib/watch")),
            ("/usr/lib/..", Some("usr")),
            // Above the root there is the root.
            ("/up", Some("")),
            ("/up/etc", Some("etc")),
            ("/../../etc", Some("etc")),
            ("/out", None),
            ("/secret", None),
            ("/loop", None),
            ("/nothing", None),
        ] {
            let host = found(&root, Path::new(path));
            assert_eq!(host, expected.map(|at| root.join(at)), "{path}");
        }
        assert_eq!(extensions(&root), ["watch"]);
        assert!(extensions(dir.path()).is_empty());
    }
}
