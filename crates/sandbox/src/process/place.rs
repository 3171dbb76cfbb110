//! What an environment has on the host before its program starts: a folder, a list of mounts, control groups, and the
//! program itself.

use std::{
    ffi::OsString,
    io::Read,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use lambic_model::Outcome;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::{
    Image, Interpreter, Launch, Network, Spec,
    cgroup::{Bounds, Controller, Group},
    image,
    landlock::{self, Reach},
    layout::{self, Layout},
    root::{Own, Step},
    spec::BootstrapOf,
};
use crate::{Error, failure};

/// AWS's.
const TMP_MB_MAX: u32 = 10_240;
const SHELL: &str = "/bin/sh";

/// Whether a function is there from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Whole,
    Spare,
    /// A zygote makes its mounts.
    Split,
    /// Both.
    SplitSpare,
}

impl Kind {
    pub fn is_spare(self) -> bool {
        matches!(self, Kind::Spare | Kind::SplitSpare)
    }
}

/// What an environment has on the host before its program starts.
pub struct Place {
    pub dir: TempDir,
    pub layout: Layout,
    pub root: Option<(PathBuf, Vec<Step>)>,
    pub group: Option<Group>,
    pub group_entries: Vec<OwnedFd>,
    pub has_own_process_limit: bool,
}

impl Place {
    pub fn make(spec: &Spec, kind: Kind) -> Result<Place, Error> {
        let dir = layout::make_dir(spec)?;
        let isolation = &spec.isolation;
        let mut place = Place {
            layout: Layout::within(dir.path()),
            dir,
            root: None,
            group: None,
            group_entries: Vec::new(),
            has_own_process_limit: false,
        };
        match (isolation.no_own_root(), spec.launch.image()) {
            _ if matches!(kind, Kind::Split | Kind::SplitSpare) => {
                place.layout = Layout::own_root()
            }
            (None, None) => place.make_root(spec, kind)?,
            (None, Some(image)) => place.make_image_root(spec, image)?,
            (Some(_), None) => layout::copy_parts(spec, place.dir.path())?,
            (Some(reason), Some(_)) => {
                return Err(Error::NoRoot {
                    reason: reason.to_owned(),
                });
            }
        }
        if let (Some(parents), Some(name)) = (isolation.groups(), place.dir.path().file_name()) {
            let (group, entries) = parents
                .make(&name.to_string_lossy(), bounds(spec))
                .map_err(Error::io("make the control groups of", place.dir.path()))?;
            place.group = Some(group);
            place.group_entries = entries;
            place.has_own_process_limit = parents.has(Controller::Pids);
        }
        Ok(place)
    }

    /// The folder that the root is put together at.
    fn staging(&self) -> Result<PathBuf, Error> {
        let staging = self.dir.path().join("root");
        std::fs::create_dir(&staging).map_err(Error::io("create", &staging))?;
        Ok(staging)
    }

    fn make_image_root(&mut self, spec: &Spec, image: &Image) -> Result<(), Error> {
        let staging = self.staging()?;
        let steps = spec.isolation.image_steps(&image.root, spec.tmp_mb);
        let steps = steps.transpose().map_err(Error::io("read", &image.root))?;
        self.root = steps.map(|steps| (staging, steps));
        self.layout = Layout::own_root();
        Ok(())
    }

    fn make_root(&mut self, spec: &Spec, kind: Kind) -> Result<(), Error> {
        let isolation = &spec.isolation;
        let staging = self.staging()?;
        if kind == Kind::Whole {
            spec.let_read()?;
        }
        let merged = self.dir.path().join("opt");
        let must_merge = isolation.must_merge(spec.layers.len());
        if must_merge {
            layout::copy_layers(&spec.layers, &merged)?;
        }
        let own = Own {
            code: (kind == Kind::Whole).then_some(spec.code_dir.as_path()),
            layers: &spec.layers,
            interpreter: spec.launch.interpreter().map_or(&[], |found| &found.needs),
            tmp_mb: spec.tmp_mb,
            user: isolation.user,
        };
        let steps = isolation.root_steps(&own, must_merge.then_some(merged.as_path()));
        self.root = steps.map(|steps| (staging, steps));
        self.layout = Layout::own_root();
        Ok(())
    }

    /// Where it has no root of its own: what it may reach of the host's.
    pub fn landlock(&self, spec: &Spec, port: u16) -> std::io::Result<Option<OwnedFd>> {
        if !spec.isolation.landlock {
            return Ok(None);
        }
        let system = [
            "/usr",
            "/bin",
            "/sbin",
            "/lib",
            "/lib32",
            "/lib64",
            "/nix/store",
            "/etc",
            "/proc",
            "/dev/zero",
            "/dev/full",
            "/dev/random",
            "/dev/urandom",
        ];
        let Layout {
            task, opt, runtime, ..
        } = &self.layout;
        let mut read: Vec<PathBuf> = system.iter().map(PathBuf::from).collect();
        read.extend([task.clone(), opt.clone(), runtime.clone()]);
        read.extend(
            spec.launch
                .interpreter()
                .into_iter()
                .flat_map(|found| found.needs.clone()),
        );
        let reach = Reach {
            read,
            write: vec![self.layout.tmp.clone(), "/dev/null".into()],
            ports: (spec.network == Network::None && !spec.isolation.own_network)
                .then(|| vec![port]),
        };
        landlock::ruleset(&reach).map(Some)
    }
}

pub fn bounds(spec: &Spec) -> Bounds {
    Bounds {
        memory_mb: spec.memory_mb,
        tmp_mb: spec.tmp_mb,
    }
}

/// How long one file may be: `/tmp` is full before.
pub fn file_bytes(spec: &Spec, kind: Kind) -> u64 {
    let tmp_mb = match kind {
        Kind::Whole | Kind::Split => spec.tmp_mb,
        Kind::Spare | Kind::SplitSpare => TMP_MB_MAX,
    };
    u64::from(tmp_mb + 1) << 20
}

pub fn listening(socket: OwnedFd) -> std::io::Result<TcpListener> {
    TcpListener::from_std(std::net::TcpListener::from(socket))
}

/// The program and its arguments, as they are found from inside; the error is the function's own.
pub fn program(spec: &Spec, layout: &Layout) -> Result<(PathBuf, Vec<OsString>), Outcome> {
    let placed = |found: &Interpreter| spec.isolation.place(&found.needs, &found.program);
    match &spec.launch {
        Launch::Python(python) => Ok((
            placed(python),
            vec!["-B".into(), "-S".into(), layout.python_client().into()],
        )),
        Launch::Node(node) => Ok((placed(node), vec![layout.node_client().into()])),
        Launch::Bootstrap => match spec.bootstrap() {
            Some((BootstrapOf::Code, _)) => Ok((layout.task.join("bootstrap"), Vec::new())),
            Some((BootstrapOf::Layers, _)) => Ok((layout.opt.join("bootstrap"), Vec::new())),
            None => Err(failure(
                "Runtime.InvalidEntrypoint",
                "RequestId: init Error: Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]",
            )),
        },
        Launch::Image(image) => of_image(image),
    }
}

fn of_image(image: &Image) -> Result<(PathBuf, Vec<OsString>), Outcome> {
    let refuse = |kind: &str, reason: String| {
        Err(failure(kind, &format!("RequestId: init Error: {reason}")))
    };
    let [program, arguments @ ..] = image.entry_point.as_slice() else {
        return refuse(
            "Runtime.InvalidEntrypoint",
            "the image has no entry point; set ENTRYPOINT or CMD in it, or ImageConfig".to_owned(),
        );
    };
    if image.entry_point.iter().any(|part| part.contains('\0')) {
        return refuse(
            "Runtime.InvalidEntrypoint",
            format!("the entry point of the image, {program:?} and so on, has a zero byte"),
        );
    }
    let folder = Path::new(&image.working_dir);
    // Whatever the image has at `/tmp`, this is there.
    let is_there = folder == Path::new("/tmp")
        || image::found(&image.root, folder).is_some_and(|host| host.is_dir());
    if !is_there || !folder.is_absolute() || image.working_dir.contains('\0') {
        return refuse(
            "Runtime.InvalidWorkingDir",
            format!("`{}` is no folder of the image", image.working_dir),
        );
    }
    let host = image::found(&image.root, &folder.join(program));
    if host.is_some_and(|host| is_of_another_machine(&host)) {
        // The kernel says so too, but the C library would then take it for a script.
        let error = std::io::Error::from_raw_os_error(nix::libc::ENOEXEC);
        return Err(not_executable(Path::new(program), &error));
    }
    Ok((
        program.into(),
        arguments.iter().map(OsString::from).collect(),
    ))
}

/// A program in the usual form, and not one for this processor.
fn is_of_another_machine(program: &Path) -> bool {
    const MACHINES: &[u16] = match cfg!(target_arch = "aarch64") {
        true => &[183],
        // The kernel may run those of 32 bits, too.
        false => &[62, 3],
    };
    let mut head = Vec::new();
    let read = std::fs::File::open(program).and_then(|file| file.take(20).read_to_end(&mut head));
    let machine = head
        .get(18..20)
        .map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    read.is_ok()
        && head.starts_with(b"\x7fELF")
        && !machine.is_some_and(|machine| MACHINES.contains(&machine))
}

/// Where the program starts.
pub fn folder(spec: &Spec, layout: &Layout) -> PathBuf {
    match spec.launch.image() {
        Some(image) => PathBuf::from(&image.working_dir),
        None => layout.task.clone(),
    }
}

/// Starts its other arguments in the background, as many as the first one says, and becomes the rest. What those in the
/// background say goes where the input would come from, so that it is not taken for the function's; a shell takes that
/// away from them before it looks at where their output is to go.
const WITH_EXTENSIONS: &str = r#"left=$1; shift
exec 3>&0 </dev/null
while [ "$left" -gt 0 ]; do "$1" >&3 2>&3 3>&- & shift; left=$((left - 1)); done
exec "$@" 3>&-"#;

/// The program and its arguments if extensions run beside it: a shell that starts them and becomes the program.
pub fn with_extensions(
    program: &Path,
    arguments: Vec<OsString>,
    extensions: &[String],
    layout: &Layout,
) -> (PathBuf, Vec<OsString>) {
    if extensions.is_empty() {
        return (program.to_owned(), arguments);
    }
    let mut all: Vec<OsString> = vec![
        "-c".into(),
        WITH_EXTENSIONS.into(),
        "sh".into(),
        extensions.len().to_string().into(),
    ];
    let folder = layout.opt.join("extensions");
    all.extend(extensions.iter().map(|name| folder.join(name).into()));
    all.push(program.into());
    all.extend(arguments);
    (SHELL.into(), all)
}

/// True if the file is there and is not what this machine can run.
pub fn is_no_program(error: &std::io::Error) -> bool {
    use nix::libc::{EACCES, EISDIR, ENOENT, ENOEXEC};
    // Not found: its interpreter.
    matches!(
        error.raw_os_error(),
        Some(EACCES | EISDIR | ENOENT | ENOEXEC)
    )
}

pub fn not_executable(program: &Path, error: &std::io::Error) -> Outcome {
    failure(
        "Runtime.InvalidEntrypoint",
        &format!(
            "RequestId: init Error: fork/exec {}: {error}; is it executable, and built for this machine?",
            program.display()
        ),
    )
}

/// How much of its own data one process may have.
pub fn data_bytes(spec: &Spec, kind: Kind) -> u64 {
    // Whose it will be, and how much that may have, is not known; the control group holds.
    if kind.is_spare() {
        return nix::libc::RLIM_INFINITY;
    }
    let groups = spec.isolation.groups();
    let is_counted = groups.is_some_and(|groups| groups.has(Controller::Memory));
    let extra_mb = match spec.launch {
        // Nothing else bounds it; at the bound Python itself says so.
        Launch::Python(_) if !is_counted => 32,
        // V8 sets space aside for code and for each of its threads, and each thread of any program 8 MB for its stack, and
        // use little of it.
        _ => 512,
    };
    (u64::from(spec.memory_mb) + extra_mb) << 20
}
