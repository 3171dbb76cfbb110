//! The root folder of an environment: a read-only skeleton with only what a program needs, mounted as a list of small
//! steps.
//!
//! The list is made beforehand, on the host's side, from what the machine has; the child between fork and exec only
//! carries it out ([`build()`]), with paths relative to the new root. Nothing of the server is in it: no data, no other
//! function's code, no folder for temporary files, no `/sys`. Of a container image, its own folders stand in the place of
//! the machine's.

mod build;

use std::{
    ffi::{CStr, CString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use nix::mount::MsFlags;

pub use self::build::build;
use super::layout::{self, Layout};

/// Folders of the system, of which some are links to others on most machines.
const SYSTEM: [&str; 8] = [
    "usr",
    "bin",
    "sbin",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "nix/store",
];
/// What of `/etc` says nothing about this machine but what programs are linked with, and whom they trust.
const ETC: [&str; 8] = [
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "ld.so.cache",
    "pki",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
];
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// Where an interpreter goes whose own place is taken; AWS has its interpreters there.
const LANG: &str = "/var/lang";
/// Folders that are ours to fill.
const TAKEN: [&str; 8] = [
    "/dev",
    "/etc",
    "/opt",
    "/proc",
    "/sys",
    "/tmp",
    "/var/runtime",
    "/var/task",
];

/// Mounts that show what is an environment's own.
const OWN: [&CStr; 2] = [c"proc", c"tmp"];

pub const RESOLV_CONF: &str = "/etc/resolv.conf";

const HOSTS: &str = "127.0.0.1 localhost sandbox.localdomain sandbox\n::1 localhost\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

/// One step. Paths are relative to the new root, what is bound is named by the host's absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Folder(CString),
    File {
        at: CString,
        content: Vec<u8>,
    },
    Link {
        at: CString,
        to: CString,
    },
    Bind {
        from: CString,
        at: CString,
        is_folder: bool,
        access: Access,
    },
    Mount {
        kind: CString,
        at: CString,
        flags: MsFlags,
        options: CString,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Devices: written to, not executed.
    Device,
}

/// What is the same for all environments: found out once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    steps: Vec<Step>,
    /// Folders that are bound, as the host and the program know them.
    bound: Vec<PathBuf>,
    covered: PathBuf,
}

/// What is an environment's own.
pub struct Own<'a> {
    /// `None`: comes later, as the layers do.
    pub code: Option<&'a Path>,
    /// In order: later ones hide earlier ones.
    pub layers: &'a [PathBuf],
    pub interpreter: &'a [PathBuf],
    pub tmp_mb: u32,
    /// Whose `/tmp` it is; `None`: the server's own user.
    pub user: Option<u32>,
}

impl Base {
    /// Reads what this machine has. `covered` is hidden wherever it would come in with something else; `user` and
    /// `group` are those that programs run as. With `own_network`, there is nobody to ask for names.
    pub fn read(covered: &Path, user: u32, group: u32, own_network: bool) -> Base {
        let mut base = Base {
            steps: Vec::new(),
            bound: Vec::new(),
            covered: covered.to_owned(),
        };
        for folder in [
            "dev",
            "etc",
            "etc/ssl",
            "opt",
            "proc",
            "tmp",
            "var",
            "var/runtime",
            "var/task",
        ] {
            base.steps.push(Step::Folder(path(folder)));
        }
        for name in SYSTEM {
            base.take(&Path::new("/").join(name));
        }
        for name in ETC {
            base.take(&Path::new("/etc").join(name));
        }
        if !own_network {
            base.take(Path::new(RESOLV_CONF));
        }
        let (passwd, group) = users(user, group);
        for (at, content) in [
            ("etc/passwd", passwd.as_str()),
            ("etc/group", &group),
            ("etc/hosts", HOSTS),
            ("etc/nsswitch.conf", NSSWITCH),
            ("var/runtime/client.py", layout::PYTHON_CLIENT),
            ("var/runtime/snapshot_restore_py.py", layout::PYTHON_HOOKS),
            ("var/runtime/client.mjs", layout::NODE_CLIENT),
        ] {
            base.steps.push(Step::File {
                at: path(at),
                content: content.as_bytes().to_vec(),
            });
        }
        base.steps.extend(kernel());
        base
    }

    /// Where the program finds a file of the host that one of `needs` holds.
    pub fn place(&self, needs: &[PathBuf], file: &Path) -> PathBuf {
        for need in needs.iter().filter(|need| self.is_moved(need)) {
            if let Ok(rest) = file.strip_prefix(need) {
                return Path::new(LANG).join(rest);
            }
        }
        file.to_owned()
    }

    pub(super) fn has(&self, path: &Path) -> bool {
        self.bound.iter().any(|bound| path.starts_with(bound))
    }

    fn is_moved(&self, need: &Path) -> bool {
        !self.has(need)
            && TAKEN
                .iter()
                .any(|taken| need.starts_with(taken) || Path::new(taken).starts_with(need))
    }

    /// Binds what is at `from` to the same place, or repeats the link that it is.
    fn take(&mut self, from: &Path) {
        let Ok(metadata) = fs::symlink_metadata(from) else {
            return;
        };
        // Links of `/etc` may point anywhere: what they stand for is bound.
        if metadata.is_symlink()
            && !from.starts_with("/etc")
            && let Ok(to) = fs::read_link(from)
        {
            self.steps.push(Step::Link {
                at: inside(from),
                to: path(to),
            });
            return;
        }
        let mut steps = Vec::new();
        self.bind(&mut steps, from, from);
        self.steps.append(&mut steps);
        self.bound.push(from.to_owned());
    }

    pub(super) fn bind(&self, steps: &mut Vec<Step>, from: &Path, at: &Path) {
        let Ok(real) = from.canonicalize() else {
            return;
        };
        let parents: Vec<&Path> = at.ancestors().skip(1).collect();
        for parent in parents
            .into_iter()
            .rev()
            .filter(|path| path.parent().is_some())
        {
            let step = Step::Folder(inside(parent));
            if !self.steps.contains(&step) && !steps.contains(&step) {
                steps.push(step);
            }
        }
        steps.push(Step::Bind {
            from: path(&real),
            at: inside(at),
            is_folder: real.is_dir(),
            access: Access::Read,
        });
        // Comes in with what holds it.
        if let Ok(rest) = self.covered.strip_prefix(&real)
            && self.covered.is_dir()
        {
            steps.push(Step::Mount {
                kind: path("tmpfs"),
                at: inside(&at.join(rest)),
                flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_RDONLY,
                options: path("size=4k,mode=755"),
            });
        }
    }

    /// All steps for one environment. `opt` stands for the layers if the machine cannot lay them over each other.
    pub fn steps(&self, own: &Own<'_>, opt: Option<&Path>) -> Vec<Step> {
        let mut steps = self.steps.clone();
        for need in own.interpreter {
            if self.is_moved(need) {
                let at = if need.is_dir() {
                    PathBuf::from(LANG)
                } else {
                    Path::new(LANG).join(need.file_name().unwrap_or_default())
                };
                self.bind(&mut steps, need, &at);
            } else if !self.has(need) {
                self.bind(&mut steps, need, need);
            }
        }
        let Layout {
            task, opt: opt_at, ..
        } = Layout::own_root();
        match own.code {
            Some(code) => self.bind(&mut steps, code, &task),
            // The dynamic linker remembers which of its folders were not there.
            None => {
                for folder in ["var/task/lib", "opt/lib"] {
                    steps.push(Step::Folder(path(folder)));
                }
            }
        }
        // Twice the same folder is refused by the kernel; the later one hides the earlier one anyway.
        let mut layers = Vec::new();
        for layer in own.layers {
            layers.retain(|other| other != layer);
            layers.push(layer.clone());
        }
        match (opt, layers.as_slice()) {
            (Some(merged), _) => self.bind(&mut steps, merged, &opt_at),
            (None, []) => {}
            (None, [one]) => self.bind(&mut steps, one, &opt_at),
            (None, several) => steps.push(Step::Mount {
                kind: path("overlay"),
                at: inside(&opt_at),
                flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_RDONLY,
                options: overlay_options(several),
            }),
        }
        steps.push(tmp(own.tmp_mb, own.user));
        steps
    }
}

/// What every root has of the kernel's.
pub fn kernel() -> Vec<Step> {
    let mut steps = Vec::new();
    for name in DEVICES {
        steps.push(Step::Bind {
            from: path(format!("/dev/{name}")),
            at: path(format!("dev/{name}")),
            is_folder: false,
            access: Access::Device,
        });
    }
    for (at, to) in [
        ("dev/fd", "/proc/self/fd"),
        ("dev/stdin", "/proc/self/fd/0"),
        ("dev/stdout", "/proc/self/fd/1"),
        ("dev/stderr", "/proc/self/fd/2"),
    ] {
        steps.push(Step::Link {
            at: path(at),
            to: path(to),
        });
    }
    steps.push(Step::Mount {
        kind: path("proc"),
        at: path("proc"),
        flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY,
        options: path(""),
    });
    steps
}

/// What of a root several environments can share, and what each must have for itself: that is of the kernel's making.
pub fn split(steps: Vec<Step>) -> (Vec<Step>, Vec<Step>) {
    let is_own = |step: &Step| matches!(step, Step::Mount { .. }) && OWN.contains(&at(step));
    steps.into_iter().partition(|step| !is_own(step))
}

/// The one folder that can be written to.
pub fn tmp(tmp_mb: u32, user: Option<u32>) -> Step {
    let owner = user
        .map(|user| format!(",uid={user},gid={user}"))
        .unwrap_or_default();
    Step::Mount {
        kind: path("tmpfs"),
        at: path("tmp"),
        flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        options: path(format!("{},mode=700{owner}", tmp_size(tmp_mb))),
    }
}

/// Each file takes memory of the kernel besides its content.
pub fn tmp_size(tmp_mb: u32) -> String {
    format!("size={tmp_mb}m,nr_inodes={}", tmp_mb.max(64) * 64)
}

/// The topmost comes first.
pub fn overlay_options(layers: &[PathBuf]) -> CString {
    let mut options = b"lowerdir=".to_vec();
    for (number, layer) in layers.iter().rev().enumerate() {
        if number > 0 {
            options.push(b':');
        }
        for &byte in layer.as_os_str().as_bytes() {
            if matches!(byte, b':' | b'\\' | b',') {
                options.push(b'\\');
            }
            options.push(byte);
        }
    }
    CString::new(options).unwrap_or_default()
}

fn users(user: u32, group: u32) -> (String, String) {
    let mut passwd = "root:x:0:0:root:/root:/sbin/nologin\n".to_owned();
    let mut groups = "root:x:0:\n".to_owned();
    if user != 0 {
        passwd.push_str(&format!("function:x:{user}:{group}::/tmp:/sbin/nologin\n"));
    }
    if group != 0 {
        groups.push_str(&format!("function:x:{group}:\n"));
    }
    (passwd, groups)
}

/// Paths of the system have no NUL.
pub fn path(text: impl AsRef<Path>) -> CString {
    CString::new(text.as_ref().as_os_str().as_bytes()).unwrap_or_default()
}

/// Without what makes it absolute.
fn inside(at: &Path) -> CString {
    let relative: PathBuf = at
        .components()
        .filter(|component| matches!(component, Component::Normal(_)))
        .collect();
    path(relative)
}

/// Where a step makes something.
pub fn at(step: &Step) -> &CStr {
    match step {
        Step::Folder(at)
        | Step::File { at, .. }
        | Step::Link { at, .. }
        | Step::Bind { at, .. }
        | Step::Mount { at, .. } => at,
    }
}

/// What a step does, for the message when it fails.
pub fn describe(step: &Step) -> String {
    let shown = |path: &CStr| path.to_string_lossy().into_owned();
    match step {
        Step::Folder(at) => format!("make the folder `/{}`", shown(at)),
        Step::File { at, .. } => format!("write `/{}`", shown(at)),
        Step::Link { at, .. } => format!("link `/{}`", shown(at)),
        Step::Bind { from, at, .. } => format!("mount `{}` as `/{}`", shown(from), shown(at)),
        Step::Mount { kind, at, .. } => format!("mount a {} as `/{}`", shown(kind), shown(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(steps: &[Step], name: &str) -> Option<Step> {
        let name = CString::new(name).unwrap();
        let mut steps = steps.iter().rev();
        steps.find(|step| at(step) == name.as_c_str()).cloned()
    }

    fn base() -> Base {
        Base {
            steps: Vec::new(),
            bound: vec!["/usr".into()],
            covered: "/nowhere".into(),
        }
    }

    #[test]
    fn an_interpreter_stays_where_it_is_unless_the_place_is_taken() {
        let base = base();
        for (need, file, place) in [
            ("/usr/lib/python", "/usr/bin/python3", "/usr/bin/python3"),
            (
                "/srv/pythons/3",
                "/srv/pythons/3/bin/python3",
                "/srv/pythons/3/bin/python3",
            ),
            (
                "/opt/python/3",
                "/opt/python/3/bin/python3",
                "/var/lang/bin/python3",
            ),
            (
                "/tmp/venv",
                "/tmp/venv/bin/python3",
                "/var/lang/bin/python3",
            ),
            // It would lie under everything else.
            ("/", "/bin/python3", "/var/lang/bin/python3"),
        ] {
            assert_eq!(
                base.place(&[need.into()], file.as_ref()),
                Path::new(place),
                "{need}"
            );
        }
    }

    #[test]
    fn layers_are_laid_over_each_other() {
        let own = |layers| Own {
            code: Some(Path::new("/")),
            layers,
            interpreter: &[],
            tmp_mb: 512,
            user: Some(5),
        };
        let layers = ["/l/t,w:o", "/l/one", "/l/t,w:o"].map(PathBuf::from);
        let steps = base().steps(&own(&layers), None);
        let Some(Step::Mount { options, .. }) = found(&steps, "opt") else {
            panic!("{steps:?}")
        };
        assert_eq!(options.as_c_str(), c"lowerdir=/l/t\\,w\\:o:/l/one");
        assert_eq!(found(&base().steps(&own(&[]), None), "opt"), None);
        let Some(Step::Mount { options, .. }) = found(&steps, "tmp") else {
            panic!("{steps:?}")
        };
        assert_eq!(
            options.as_c_str(),
            c"size=512m,nr_inodes=32768,mode=700,uid=5,gid=5"
        );
    }

    #[test]
    fn what_is_covered_does_not_come_in_with_what_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let covered = dir.join("data");
        std::fs::create_dir(&covered).unwrap();
        let base = Base { covered, ..base() };
        let mut steps = Vec::new();
        base.bind(&mut steps, &dir, Path::new("/x"));
        assert!(
            matches!(found(&steps, "x/data"), Some(Step::Mount { .. })),
            "{steps:?}"
        );
    }
}
