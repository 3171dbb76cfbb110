//! A Python that runs already, from which environments are split off: a fork costs less than a start.
//!
//! The zygote has the root of an environment without code, and no code of a function ever runs in it. What it splits off
//! (`zygote.py`) goes into namespaces of its own, before the function's code is there: its processes, a copy of the
//! mounts with its own `/proc` and `/tmp`, a network. It gives up its rights as a program that is started does
//! ([`super::shut_in`]), and belongs to one function until its end. What is decided is decided here; the other side
//! carries it out. The idea is Android's.
//!
//! Nothing of a function may ever be in the zygote's memory, which all that come later inherit: variables go to what was
//! split off only, and go there last, when its process is held here. One that nobody holds runs no code of a function.
//! What is split off before its function is known ([`super::spare`]) waits for them.
//!
//! All that come from one zygote have the same layout of memory and the same seed of hashes. It ends when nobody keeps it
//! and the last environment of it has ended.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Read},
    net::Shutdown,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::process::ExitStatusExt,
    },
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::{libc, sched::CloneFlags};
use serde::Serialize;
use tempfile::TempDir;
use tokio::{io::Interest, net::UnixDatagram, sync::watch, task::AbortHandle};

use super::{
    Isolation, Launch, Spec, assign,
    child::Child,
    environment::variables_of,
    host_link::{self, Word},
    layout::{self, Layout},
    network,
    place::{self, Kind},
    root::{self, Own, Step},
    seccomp, shut_in,
    shut_in::Stage,
    spare,
    spawn::{Program, Spawned, limits},
    tree::Process,
};
use crate::Error;

/// Until it waits for orders.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// For one environment: a busy machine may take long, a zygote that hangs for ever.
const SPLIT_TIME_MAX: Duration = Duration::from_secs(10);
/// Of the listeners that the host wants in each network.
const PORTS: [u16; 2] = [network::RUNTIME_API.port(), network::EGRESS.port()];
/// Where the code goes, and a layer.
const TREES: [&str; 2] = ["/var/task", "/opt"];
/// To one that waits for its function: until it hears this it does not wait long.
const HELD: &[u8] = b"H";
/// Of what it has to say when it ends.
const LAST_WORDS_BYTES: usize = 4_096;
/// `E`, the order's number, how it ended.
const END_BYTES: usize = 13;

type Ends = HashMap<u64, watch::Sender<Option<ExitStatus>>>;

pub struct Zygote {
    launch: Launch,
    isolation: Isolation,
    control: Arc<UnixDatagram>,
    /// What each of its own must mount for itself.
    own_steps: Vec<Step>,
    number: AtomicU64,
    /// Who waits for the end of what; `None` once the zygote has ended.
    ends: Arc<Mutex<Option<Ends>>>,
    process: Process,
    /// Who waits for its own end, and who hears of the others'.
    tasks: Vec<AbortHandle>,
    _dir: TempDir,
}

/// What holds for all that it splits off.
#[derive(Serialize)]
struct Settings {
    namespaces: i32,
    ports: &'static [u16],
    user: Option<u32>,
    /// The instructions as the kernel wants them, in hexadecimal digits.
    filter: String,
}

#[derive(Serialize)]
struct Order<'a> {
    number: u64,
    connectors: usize,
    mounts: Vec<(&'a str, String, u64, &'a str)>,
    /// Where the folders that come with the order belong.
    trees: &'a [&'a str],
    /// Whose it is will be known later.
    waits: bool,
    #[serde(flatten)]
    settling: Settling,
}

/// What one has that is a function's: at once, or when it gets one.
#[derive(Serialize)]
struct Settling {
    folder: PathBuf,
    /// -1: none.
    limits: Vec<(u32, i64)>,
}

/// What it is told last.
#[derive(Serialize)]
struct Assignment<'a> {
    variables: &'a BTreeMap<String, String>,
    #[serde(flatten)]
    settling: Settling,
}

/// What is wanted of one environment.
pub struct Wanted {
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub groups: Vec<OwnedFd>,
    pub has_own_process_limit: bool,
    /// `None`: it waits for its function.
    pub variables: Option<BTreeMap<String, String>>,
    pub connectors: usize,
}

impl Settling {
    fn of(spec: &Spec, has_own_process_limit: bool) -> Settling {
        let limits = limits(
            place::file_bytes(spec, Kind::Whole),
            place::data_bytes(spec, Kind::Whole),
            spec.isolation.user.is_some() && !has_own_process_limit,
        );
        Settling {
            folder: place::folder(spec, &Layout::own_root()),
            limits: limits
                .into_iter()
                .map(|(resource, limit)| (resource as u32, i64::try_from(limit).unwrap_or(-1)))
                .collect(),
        }
    }
}

/// What one that waits for its function is told then.
pub fn assignment(
    spec: &Spec,
    variables: &BTreeMap<String, String>,
    has_own_process_limit: bool,
) -> io::Result<Vec<u8>> {
    let settling = Settling::of(spec, has_own_process_limit);
    let assignment = Assignment {
        variables,
        settling,
    };
    Ok(serde_json::to_vec(&assignment)?)
}

impl Zygote {
    /// Starts one; `codes` is where its functions will have their code. `None` where none can be: other interpreters than
    /// Python, without root, and where processes have no root or network of their own.
    pub async fn start(
        launch: Launch,
        isolation: Isolation,
        codes: &Path,
    ) -> Result<Option<Arc<Zygote>>, Error> {
        if !Zygote::can_be(&launch, &isolation) {
            return Ok(None);
        }
        let spec = spare::spec(launch, isolation, codes);
        let dir = layout::make_dir(&spec)?;
        let layout = Layout::own_root();
        let Ok((program, arguments)) = place::program(&spec, &layout) else {
            return Ok(None);
        };
        let spawn_error = |source| Error::Spawn {
            program: program.display().to_string(),
            source,
        };
        let (steps, own_steps) = steps(&spec);
        let staging = dir.path().join("root");
        std::fs::create_dir(&staging).map_err(Error::io("create", &staging))?;
        let (control, theirs) = UnixDatagram::pair().map_err(spawn_error)?;
        let theirs = theirs.into_std().map_err(spawn_error)?;
        theirs.set_nonblocking(false).map_err(spawn_error)?;
        let (said, says) = io::pipe().map_err(spawn_error)?;
        let mut command = std::process::Command::new(&program);
        command
            .args(zygote_arguments(arguments, &layout))
            .env_clear()
            .envs(variables_of(
                &spec,
                &layout,
                &program,
                network::RUNTIME_API.into(),
            ))
            .stdin(OwnedFd::from(theirs))
            // A pipe as that of a function: what it is, is found out once.
            .stdout(says.try_clone().map_err(spawn_error)?)
            .stderr(says);
        let spawned = spec.isolation.spawn(Program {
            command,
            folder: "/".into(),
            root: Some((staging, steps)),
            data_bytes: place::data_bytes(&spec, Kind::Spare),
            file_bytes: place::file_bytes(&spec, Kind::Spare),
            groups: Vec::new(),
            has_own_process_limit: true,
            landlock: None,
            connectors: 0,
            is_zygote: true,
        });
        let spawned = spawned.await.map_err(spawn_error)?;
        let Spawned {
            mut child, process, ..
        } = spawned;
        let ends = Arc::new(Mutex::new(Some(Ends::new())));
        let mut zygote = Zygote {
            launch: spec.launch,
            isolation: spec.isolation,
            control: Arc::new(control),
            own_steps,
            number: AtomicU64::new(0),
            ends: ends.clone(),
            process,
            tasks: Vec::new(),
            _dir: dir,
        };
        let settings = Settings::of(&zygote.isolation);
        let greeted = tokio::time::timeout(START_TIME_MAX, zygote.greet(&settings));
        let is_ready = tokio::select! {
            greeted = greeted => matches!(greeted, Ok(Ok(()))),
            _ = child.wait() => false,
        };
        if !is_ready {
            zygote.process.kill_all();
            wait_for_end(child, ends, said).await;
            return Ok(None);
        }
        let watcher = tokio::spawn(wait_for_end(child, ends.clone(), said));
        let hearing = tokio::spawn(hear_ends(zygote.control.clone(), ends));
        zygote.tasks = vec![watcher.abort_handle(), hearing.abort_handle()];
        Ok(Some(Arc::new(zygote)))
    }

    /// Whether there can be one for an interpreter.
    pub fn can_be(launch: &Launch, isolation: &Isolation) -> bool {
        matches!(launch, Launch::Python(_))
            && isolation.has_own_root()
            && isolation.own_network
            && isolation.user.is_some()
    }

    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    pub fn isolation(&self) -> &Isolation {
        &self.isolation
    }

    /// False if it has ended.
    pub fn is_alive(&self) -> bool {
        self.ends().is_some()
    }

    fn ends(&self) -> MutexGuard<'_, Option<Ends>> {
        self.ends.lock().expect("no panic while it is held")
    }

    async fn greet(&self, settings: &Settings) -> io::Result<()> {
        self.control.send(&serde_json::to_vec(settings)?).await?;
        let mut ready = [0; END_BYTES];
        let read = self.control.recv(&mut ready).await?;
        match &ready[..read] {
            b"R" => Ok(()),
            _ => Err(io::Error::other(
                "it says something else than that it is ready",
            )),
        }
    }

    /// Splits off a process for a function: shut in, with the code mounted. One that waits for its function is told by
    /// what comes with it.
    pub(super) async fn split(
        self: &Arc<Zygote>,
        spec: &Arc<Spec>,
        wanted: Wanted,
    ) -> io::Result<(Spawned, Arc<UnixDatagram>)> {
        let trees = match wanted.variables {
            Some(_) => {
                let spec = spec.clone();
                let trees = tokio::task::spawn_blocking(move || trees(&spec));
                trees.await.map_err(io::Error::other)??
            }
            None => Vec::new(),
        };
        let (link, theirs) = std::os::unix::net::UnixDatagram::pair()?;
        link.set_nonblocking(true)?;
        let link = Arc::new(UnixDatagram::from_std(link)?);
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (ended, end) = watch::channel(None);
        match &mut *self.ends() {
            Some(ends) => ends.insert(number, ended),
            None => return Err(io::Error::other("the zygote has ended")),
        };
        let mut sprout = Sprout {
            zygote: self,
            number,
            link,
            process: None,
            is_taken: false,
        };
        let tmp = root::tmp(spec.tmp_mb, spec.isolation.user);
        let mounts = self
            .own_steps
            .iter()
            .filter(|step| root::at(step) != c"tmp");
        let order = Order {
            number,
            connectors: wanted.connectors,
            mounts: mounts.chain([&tmp]).filter_map(mount_of).collect(),
            trees: &TREES[..trees.len()],
            waits: wanted.variables.is_none(),
            settling: Settling::of(spec, wanted.has_own_process_limit),
        };
        let mut files: Vec<RawFd> = vec![
            theirs.as_raw_fd(),
            wanted.stdout.as_raw_fd(),
            wanted.stderr.as_raw_fd(),
        ];
        files.extend(trees.iter().chain(&wanted.groups).map(AsRawFd::as_raw_fd));
        let order = serde_json::to_vec(&order)?;
        let assignment = wanted
            .variables
            .map(|variables| assignment(spec, &variables, wanted.has_own_process_limit))
            .transpose()?;
        let mut early_end = end.clone();
        let split = async {
            let send = || host_link::send(&self.control, &order, &files);
            self.control.async_io(Interest::WRITABLE, send).await?;
            let sockets = sprout.answer(PORTS.len() + wanted.connectors).await?;
            // It is held: what it does from here on can be ended.
            let told = assignment.as_deref().unwrap_or(HELD);
            sprout.link.send(told).await?;
            io::Result::Ok(sockets)
        };
        let split = async {
            tokio::select! {
                // What it said before it ended says why.
                biased;
                sockets = split => sockets,
                _ = early_end.changed() => Err(io::Error::other("it ended at once")),
            }
        };
        let sockets = tokio::time::timeout(SPLIT_TIME_MAX, split).await;
        let sockets = sockets.map_err(|_| io::Error::other("the zygote does not answer"))??;
        let link = sprout.link.clone();
        let spawned = Spawned {
            child: Child::Split(Twig {
                end,
                _zygote: self.clone(),
            }),
            process: sprout.take_process(),
            sockets,
        };
        Ok((spawned, link))
    }
}

/// What is being split off. If it is given up, it ends.
struct Sprout<'a> {
    zygote: &'a Zygote,
    number: u64,
    link: Arc<UnixDatagram>,
    process: Option<Process>,
    is_taken: bool,
}

impl Sprout<'_> {
    /// The sockets of its network, so many, when it is shut in and its process is held.
    async fn answer(&mut self, sockets_wanted: usize) -> io::Result<Vec<OwnedFd>> {
        let mut sockets = None;
        loop {
            if self.process.is_some()
                && let Some(sockets) = sockets.take()
            {
                return Ok(sockets);
            }
            let hear = || match host_link::heard(&*self.link)? {
                Some(word) => Ok(word),
                None => Err(io::ErrorKind::WouldBlock.into()),
            };
            let word = self.link.async_io(Interest::READABLE, hear).await?;
            match word {
                Word::Split { pid, pidfd } => {
                    let score = format!("/proc/{pid}/oom_score_adj");
                    // As in `ShutIn::run`; it cannot do so itself.
                    let _ = std::fs::write(score, shut_in::OOM_SCORE);
                    self.process = Some(Process::held(pid, pidfd));
                }
                Word::Started { sockets: its, .. } if its.len() == sockets_wanted => {
                    sockets = Some(its);
                }
                // The kernel leaves out those that this process has no number for.
                Word::Started { .. } => return Err(io::Error::from_raw_os_error(libc::EMFILE)),
                Word::Failed { stage, error, .. } => {
                    let error = io::Error::from_raw_os_error(error);
                    let what = Stage::describe(stage);
                    return Err(io::Error::other(format!("cannot {what}: {error}")));
                }
            }
        }
    }

    /// Once it has answered.
    fn take_process(mut self) -> Process {
        self.is_taken = true;
        self.process.take().expect("an answer waits for it")
    }
}

impl Drop for Sprout<'_> {
    fn drop(&mut self) {
        if self.is_taken {
            return;
        }
        // From here on nobody can be told of it: the zygote ends what it splits off, and that ends by itself.
        let _ = self.link.shutdown(Shutdown::Both);
        while let Ok(Some(word)) = host_link::heard(&*self.link) {
            if let Word::Split { pid, pidfd } = word {
                self.process = Some(Process::held(pid, pidfd));
            }
        }
        if let Some(process) = &self.process {
            process.kill_all();
        }
        if let Some(ends) = &mut *self.zygote.ends() {
            ends.remove(&self.number);
        }
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // The one that waits for it has nothing to tell; it kills what it lets go, and that is waited for.
        for task in &self.tasks {
            task.abort();
        }
        self.process.kill_all();
    }
}

impl Settings {
    fn of(isolation: &Isolation) -> Settings {
        let filter = isolation.seccomp.then(seccomp::filter).flatten();
        let filter = filter.unwrap_or_default();
        Settings {
            namespaces: (shut_in::OWN | CloneFlags::CLONE_NEWNET).bits(),
            ports: &PORTS,
            user: isolation.user,
            filter: seccomp::bytes(&filter)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        }
    }
}

/// The arguments of the client, for the zygote in its place.
fn zygote_arguments(
    mut arguments: Vec<std::ffi::OsString>,
    layout: &Layout,
) -> Vec<std::ffi::OsString> {
    arguments.pop();
    arguments.push(layout.python_zygote().into());
    arguments
}

/// The root of the zygote, and what is not in it because each environment has its own.
fn steps(spec: &Spec) -> (Vec<Step>, Vec<Step>) {
    let own = Own {
        code: None,
        layers: &[],
        interpreter: spec.launch.interpreter().map_or(&[], |found| &found.needs),
        tmp_mb: spec.tmp_mb,
        user: spec.isolation.user,
    };
    let steps = spec.isolation.root_steps(&own, None).unwrap_or_default();
    let (mut shared, own) = root::split(steps);
    shared.push(Step::File {
        at: root::path("var/runtime/zygote.py"),
        content: layout::PYTHON_ZYGOTE.as_bytes().to_vec(),
    });
    (shared, own)
}

/// The code and the layer, as they are mounted.
fn trees(spec: &Spec) -> io::Result<Vec<OwnedFd>> {
    spec.let_read().map_err(io::Error::other)?;
    let folders = [spec.code_dir.as_path()]
        .into_iter()
        .chain(spec.layers.first().map(PathBuf::as_path));
    folders.map(assign::take_hold).collect()
}

fn mount_of(step: &Step) -> Option<(&str, String, u64, &str)> {
    let Step::Mount {
        kind,
        at,
        flags,
        options,
    } = step
    else {
        return None;
    };
    Some((
        kind.to_str().ok()?,
        format!("/{}", at.to_str().ok()?),
        flags.bits(),
        options.to_str().ok()?,
    ))
}

/// Until the zygote has ended: nobody will tell how those that it split off did, and they ended with it.
async fn wait_for_end(mut child: Child, ends: Arc<Mutex<Option<Ends>>>, mut said: io::PipeReader) {
    let status = child.wait().await;
    ends.lock().expect("no panic while it is held").take();
    let last_words = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; LAST_WORDS_BYTES];
        let read = said.read(&mut bytes).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..read]).trim().to_owned()
    });
    let last_words = last_words.await.unwrap_or_default();
    tracing::warn!(
        ?status,
        last_words,
        "the Python that others are split off from has ended; those ended with it"
    );
}

/// Tells those who wait how theirs ended.
async fn hear_ends(control: Arc<UnixDatagram>, ends: Arc<Mutex<Option<Ends>>>) {
    let mut message = [0; END_BYTES];
    while let Ok(END_BYTES) = control.recv(&mut message).await {
        let (head, status) = message.split_at(9);
        let number = u64::from_ne_bytes(head[1..].try_into().expect("eight bytes"));
        let status = i32::from_ne_bytes(status.try_into().expect("four bytes"));
        let mut ends = ends.lock().expect("no panic while it is held");
        if let Some(end) = ends.as_mut().and_then(|ends| ends.remove(&number)) {
            end.send_replace(Some(ExitStatus::from_raw(status)));
        }
    }
}

/// A process that was split off, for whoever waits for it.
pub struct Twig {
    end: watch::Receiver<Option<ExitStatus>>,
    _zygote: Arc<Zygote>,
}

impl Twig {
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let end = self.end.wait_for(Option::is_some).await;
        let status = end.map_err(|_| io::Error::other("its zygote has ended"))?;
        Ok(status.expect("it was waited for"))
    }

    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = *self.end.borrow();
        match status {
            None if self.end.has_changed().is_err() => {
                Err(io::Error::other("its zygote has ended"))
            }
            status => Ok(status),
        }
    }
}
