//! How a process is shut in, and what this machine allows of that.
//!
//! | what | boundary | where this machine does not allow it |
//! |---|---|---|
//! | processes, IPC, host name | own namespaces: all processes end with the first | own session; found through `/proc` and killed (`tree`) |
//! | files | own read-only root (`root`) | Landlock; else the server's folder of code is covered, the rest is the host's |
//! | network | own, with the Runtime API and the way out in it (`network`, `egress`) | the host's |
//! | system calls | seccomp (`seccomp`) | all |
//! | user | `nobody` if started as root, else the server's in a user namespace | the server's |
//! | memory, processors, tasks | control groups (`cgroup`) | counted every 20 ms |
//! | files, core dumps, data, open files | rlimits | rlimits |
//!
//! What a machine does not allow is said in [`Isolation::lacks`]; whether code may run nevertheless is the
//! caller's decision.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use nix::unistd::{Gid, Uid};

use super::{
    cgroup::Parents,
    landlock,
    root::{Base, Own, Step},
    seccomp,
    spawn::{Program, Spawned, spawn},
};
use crate::Error;

/// What every machine has, to try things with.
const SHELL: &str = "/bin/sh";
/// The user that root becomes: `nobody`.
const NOBODY: u32 = 65_534;

/// What this machine allows, found out once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// Of processes, IPC, host name and mounts.
    pub namespaces: bool,
    pub own_network: bool,
    pub seccomp: bool,
    /// Stands in for a root of its own.
    pub landlock: bool,
    pub user: Option<u32>,
    own_root: Option<Arc<Base>>,
    /// Layers can be laid over each other by the kernel.
    overlay: bool,
    groups: Option<Arc<Parents>>,
    /// The folder that programs do not see.
    covered: PathBuf,
    lacks: Vec<Lack>,
}

/// Something that this machine does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    pub of: Part,
    /// What that means, and the system's reason.
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    User,
    Namespaces,
    Root,
    Network,
    SystemCalls,
    /// A limit rather than a boundary: what is over it is ended a moment later.
    ControlGroups,
}

impl Part {
    /// False for what only makes limits less exact.
    pub fn is_boundary(self) -> bool {
        self != Part::ControlGroups
    }
}

impl Isolation {
    /// Nothing of it.
    pub(super) fn none(covered: PathBuf) -> Isolation {
        Isolation {
            namespaces: false,
            own_network: false,
            seccomp: false,
            landlock: false,
            user: None,
            own_root: None,
            overlay: false,
            groups: None,
            covered,
            lacks: Vec::new(),
        }
    }

    /// Tries what can be done with a tiny program. Programs are not to see what is in `covered`.
    pub async fn probe(covered: &Path) -> Result<Isolation, Error> {
        let spawn_error = |source| Error::Spawn {
            program: SHELL.to_owned(),
            source,
        };
        // Programs start in folders of their own.
        let covered = std::path::absolute(covered).map_err(spawn_error)?;
        let mut isolation = Isolation::strongest(covered.clone());
        if isolation.works().await.is_err() {
            isolation = Isolation::none(covered)
                .grown()
                .await
                .map_err(spawn_error)?;
        }
        match Parents::find() {
            Ok(parents) => {
                let lacks = parents.lacks();
                if !lacks.is_empty() {
                    let names: Vec<&str> = lacks.iter().map(|one| one.name()).collect();
                    isolation.lack(
                        Part::ControlGroups,
                        format!("no control groups for {}", names.join(", ")),
                    );
                }
                isolation.groups = Some(Arc::new(parents));
            }
            Err(error) => isolation.lack(
                Part::ControlGroups,
                format!("memory and processes are counted now and then only: {error}"),
            ),
        }
        for lack in &isolation.lacks {
            tracing::warn!(of = ?lack.of, reason = lack.reason, "processes are less isolated than they could be");
        }
        Ok(isolation)
    }

    /// What this machine does not allow; empty if programs are shut in on all sides.
    pub fn lacks(&self) -> &[Lack] {
        &self.lacks
    }

    pub fn has_own_root(&self) -> bool {
        self.own_root.is_some()
    }

    /// Why there is no root of their own, if so: a container image cannot do without.
    pub fn no_own_root(&self) -> Option<&str> {
        if self.has_own_root() {
            return None;
        }
        let lack = self.lacks.iter().find(|lack| lack.of == Part::Root);
        Some(
            lack.map_or("programs see the files of this machine", |lack| {
                &lack.reason
            }),
        )
    }

    fn lack(&mut self, of: Part, reason: String) {
        self.lacks.push(Lack { of, reason });
    }

    fn strongest(covered: PathBuf) -> Isolation {
        let mut isolation = Isolation {
            namespaces: true,
            own_network: true,
            seccomp: seccomp::filter().is_some(),
            user: Uid::effective().is_root().then_some(NOBODY),
            overlay: true,
            ..Isolation::none(covered)
        };
        isolation.take_root();
        if !isolation.seccomp {
            isolation.lack_seccomp("the calls of this architecture are not known here");
        }
        isolation
    }

    fn take_root(&mut self) {
        let (user, group) = match self.user {
            Some(user) => (user, user),
            None => (Uid::effective().as_raw(), Gid::effective().as_raw()),
        };
        let base = Base::read(&self.covered, user, group, self.own_network);
        self.own_root = Some(Arc::new(base));
    }

    fn lack_seccomp(&mut self, why: &str) {
        self.lack(
            Part::SystemCalls,
            format!("programs may make all system calls: {why}"),
        );
    }

    /// Adds one part after the other, as far as the machine allows it.
    async fn grown(self) -> io::Result<Isolation> {
        let mut had = self;
        had.works().await?;
        if Uid::effective().is_root() {
            let with = Isolation {
                user: Some(NOBODY),
                ..had.clone()
            };
            had = had
                .or(with, Part::User, "programs run as the server's user")
                .await;
        }
        let with = Isolation {
            namespaces: true,
            ..had.clone()
        };
        had = had
            .or(
                with,
                Part::Namespaces,
                "programs see the processes of this machine",
            )
            .await;
        if had.namespaces {
            let with = Isolation {
                own_network: true,
                ..had.clone()
            };
            had = had
                .or(
                    with,
                    Part::Network,
                    "programs reach what the server reaches",
                )
                .await;
            let mut with = had.clone();
            with.take_root();
            had = had
                .or(with, Part::Root, "programs see the files of this machine")
                .await;
            let with = Isolation {
                overlay: true,
                ..had.clone()
            };
            if had.own_root.is_some() && with.works().await.is_ok() {
                had = with;
            }
        } else {
            for (part, reason) in [
                (Part::Network, "programs reach what the server reaches"),
                (Part::Root, "programs see the files of this machine"),
            ] {
                had.lack(part, format!("{reason}: it takes namespaces"));
            }
        }
        let with = Isolation {
            seccomp: true,
            ..had.clone()
        };
        had = had
            .or(
                with,
                Part::SystemCalls,
                "programs may make all system calls",
            )
            .await;
        had.landlock = had.own_root.is_none() && landlock::version() > 0;
        Ok(had)
    }

    /// `with` if that works, else `self` with the reason.
    async fn or(mut self, with: Isolation, of: Part, means: &str) -> Isolation {
        match with.works().await {
            Ok(()) => with,
            Err(error) => {
                self.lack(of, format!("{means}: {error}"));
                self
            }
        }
    }

    /// Starts a shell that ends at once.
    async fn works(&self) -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut folders = Vec::new();
        for name in ["root", "task", "one", "two"] {
            let folder = dir.path().join(name);
            std::fs::create_dir(&folder)?;
            folders.push(folder);
        }
        let [staging, task, layers @ ..] = folders.as_slice() else {
            unreachable!("four were made");
        };
        let own = Own {
            code: Some(task),
            layers: if self.overlay { layers } else { &[] },
            interpreter: &[],
            tmp_mb: 1,
            user: self.user,
        };
        let mut command = std::process::Command::new(SHELL);
        command
            .args(["-c", ":"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let program = Program {
            command,
            folder: "/".into(),
            root: self
                .root_steps(&own, None)
                .map(|steps| (staging.clone(), steps)),
            data_bytes: 1 << 30,
            file_bytes: 1 << 20,
            groups: Vec::new(),
            has_own_process_limit: false,
            connectors: 0,
            landlock: None,
            is_zygote: false,
        };
        let mut spawned = self.spawn(program).await?;
        let status = spawned.child.wait().await?;
        if !status.success() {
            return Err(io::Error::other(format!("{SHELL} ended with {status}")));
        }
        Ok(())
    }

    /// Of a container image; `None` where there are no roots of their own.
    pub(super) fn image_steps(&self, image: &Path, tmp_mb: u32) -> Option<io::Result<Vec<Step>>> {
        let root = self.own_root.as_ref()?;
        Some(root.image_steps(image, tmp_mb, self.user))
    }

    pub(super) fn root_steps(&self, own: &Own<'_>, opt: Option<&Path>) -> Option<Vec<Step>> {
        Some(self.own_root.as_ref()?.steps(own, opt))
    }

    /// Where a program finds a file of the host that one of `needs` holds.
    pub(super) fn place(&self, needs: &[PathBuf], file: &Path) -> PathBuf {
        match &self.own_root {
            Some(root) => root.place(needs, file),
            None => file.to_owned(),
        }
    }

    /// True if so many layers must be copied together.
    pub(super) fn must_merge(&self, layers: usize) -> bool {
        layers > 1 && !self.overlay
    }

    pub(super) fn covered(&self) -> &Path {
        &self.covered
    }

    pub(super) fn groups(&self) -> Option<&Parents> {
        self.groups.as_deref()
    }

    pub(super) async fn spawn(&self, program: Program) -> io::Result<Spawned> {
        spawn(self, program).await
    }
}

/// Removes the control groups that a killed server left, by the beginning of their names.
pub(super) fn remove_groups_left_behind(prefix: &str) {
    if let Ok(parents) = Parents::find() {
        parents.remove_left_behind(prefix);
    }
}
