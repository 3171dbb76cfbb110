//! How an environment comes to be: its place on the host, its process, and those who listen to it.

use std::{
    io::{self, PipeReader},
    net::Ipv4Addr,
    os::fd::OwnedFd,
    process::Stdio,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::net::{TcpListener, UnixDatagram};

use super::{
    Spec, Zygote,
    capture::Capture,
    cgroup::{Group, Share},
    endpoint::Endpoint,
    environment::{Environment, FailedStart, about, variables_of},
    network,
    place::{self, Kind, Place},
    spawn::{Program, Spawned},
    telemetry::{Connectors, Telemetry},
    telling::tell_line,
    zygote::Wanted,
};
use crate::{
    Error,
    lines::{Lines, LogSource},
};

/// A process with what it has on the host.
struct Begun {
    spec: Arc<Spec>,
    kind: Kind,
    dir: TempDir,
    group: Option<Group>,
    spawned: Spawned,
    /// On the host's loopback; `None`: in a network of its own.
    listener: Option<TcpListener>,
    said: Vec<(PipeReader, LogSource)>,
    extensions: Vec<String>,
}

impl Environment {
    /// Starts the process. The inner error is the function's own.
    pub(super) async fn begin(
        spec: Arc<Spec>,
        kind: Kind,
    ) -> Result<Result<Environment, FailedStart>, Error> {
        let start = Instant::now();
        let failed = |outcome| FailedStart {
            outcome,
            lines: Vec::new(),
            init: start.elapsed(),
            memory_peak_bytes: 0,
        };
        let place = make_place(&spec, kind).await?;
        let (program, arguments) = match place::program(&spec, &place.layout) {
            Ok(found) => found,
            Err(outcome) => return Ok(Err(failed(outcome))),
        };
        let spawn_error = |source| Error::Spawn {
            program: program.display().to_string(),
            source,
        };
        // On the host's loopback, where environments have no network of their own.
        let listener = if spec.isolation.own_network {
            None
        } else {
            Some(
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                    .await
                    .map_err(spawn_error)?,
            )
        };
        let runtime_api = match &listener {
            None => network::RUNTIME_API.into(),
            Some(listener) => listener.local_addr().map_err(spawn_error)?,
        };
        let variables = variables_of(&spec, &place.layout, &program, runtime_api);
        let extensions = spec.extensions();
        let (command, arguments) =
            place::with_extensions(&program, arguments, &extensions, &place.layout);
        let started = command.clone();
        let mut command = std::process::Command::new(command);
        command.args(arguments).env_clear().envs(variables);
        if kind.is_spare() {
            command.env("LAMBIC_SPARE", "1");
        }
        let (stdout_in, stdout_out) = io::pipe().map_err(spawn_error)?;
        let (stderr_in, stderr_out) = io::pipe().map_err(spawn_error)?;
        command.stdout(stdout_out).stderr(stderr_out);
        let mut said = vec![
            (stdout_in, LogSource::Stdout),
            (stderr_in, LogSource::Stderr),
        ];
        // What extensions say has a pipe of its own: see `place::with_extensions`.
        if extensions.is_empty() {
            command.stdin(Stdio::null());
        } else {
            let (extensions_in, extensions_out) = io::pipe().map_err(spawn_error)?;
            command.stdin(extensions_out);
            said.push((extensions_in, LogSource::Extension));
        }
        let landlock = place
            .landlock(&spec, runtime_api.port())
            .map_err(spawn_error)?;
        let spawned = spec
            .isolation
            .spawn(Program {
                command,
                folder: place::folder(&spec, &place.layout),
                root: place.root,
                data_bytes: place::data_bytes(&spec, kind),
                file_bytes: place::file_bytes(&spec, kind),
                groups: place.group_entries,
                has_own_process_limit: place.has_own_process_limit,
                landlock,
                connectors: connectors(&extensions),
                is_zygote: false,
            })
            .await;
        let spawned = match spawned {
            Ok(spawned) => spawned,
            // The user's own program, which is not one.
            Err(error) if spec.launch.interpreter().is_none() && place::is_no_program(&error) => {
                return Ok(Err(failed(place::not_executable(&started, &error))));
            }
            Err(error) => return Err(spawn_error(error)),
        };
        let begun = Begun {
            spec,
            kind,
            dir: place.dir,
            group: place.group,
            spawned,
            listener,
            said,
            extensions,
        };
        begun.listened_to().map(Ok).map_err(spawn_error)
    }

    /// Splits the process off a zygote.
    pub(super) async fn split(zygote: &Arc<Zygote>, spec: Arc<Spec>) -> io::Result<Environment> {
        let (environment, _) = Environment::split_as(Kind::Split, zygote, spec).await?;
        Ok(environment)
    }

    /// One that waits for its function is told of it by what comes with it.
    pub(super) async fn split_as(
        kind: Kind,
        zygote: &Arc<Zygote>,
        spec: Arc<Spec>,
    ) -> io::Result<(Environment, Arc<UnixDatagram>)> {
        let place = make_place(&spec, kind).await.map_err(io::Error::other)?;
        let (program, _) = place::program(&spec, &place.layout)
            .map_err(|_| io::Error::other("it has no interpreter"))?;
        let variables = variables_of(&spec, &place.layout, &program, network::RUNTIME_API.into());
        let (stdout_in, stdout_out) = io::pipe()?;
        let (stderr_in, stderr_out) = io::pipe()?;
        let (spawned, link) = zygote
            .split(
                &spec,
                Wanted {
                    stdout: stdout_out.into(),
                    stderr: stderr_out.into(),
                    groups: place.group_entries,
                    has_own_process_limit: place.has_own_process_limit,
                    variables: (!kind.is_spare()).then_some(variables),
                    connectors: connectors(&[]),
                },
            )
            .await?;
        let begun = Begun {
            spec,
            kind,
            dir: place.dir,
            group: place.group,
            spawned,
            listener: None,
            said: vec![
                (stdout_in, LogSource::Stdout),
                (stderr_in, LogSource::Stderr),
            ],
            extensions: Vec::new(),
        };
        Ok((begun.listened_to()?, link))
    }
}

async fn make_place(spec: &Arc<Spec>, kind: Kind) -> Result<Place, Error> {
    let spec = spec.clone();
    let place = tokio::task::spawn_blocking(move || Place::make(&spec, kind)).await;
    place.map_err(|error| Error::Engine {
        reason: error.to_string(),
    })?
}

/// Also a part of the runtime's process may subscribe to telemetry.
fn connectors(extensions: &[String]) -> usize {
    extensions.len().max(1)
}

impl Begun {
    /// The environment: its Runtime API is served, and what it says is read. A process that cannot be listened to ends.
    fn listened_to(self) -> io::Result<Environment> {
        let Begun {
            spec,
            kind,
            dir,
            group,
            spawned:
                Spawned {
                    child,
                    process,
                    sockets,
                },
            listener,
            said,
            extensions,
        } = self;
        let ears = Ears::new(&spec, sockets, listener, said, extensions);
        let ears = ears.inspect_err(|_| process.kill_all())?;
        let environment = Environment {
            spec: spec.clone(),
            child,
            process,
            stopped: Vec::new(),
            endpoint: ears.endpoint,
            way_out: ears.way_out,
            egress: None,
            group,
            captures: ears.captures,
            telemetry: ears.telemetry,
            is_init_told: false,
            lines: ears.lines,
            init: Duration::ZERO,
            kind,
            share: Share::Long,
            memory_seen: AtomicU64::new(0),
            counted: None,
            alone: None,
            has_ended: false,
            dir,
        };
        if !kind.is_spare() {
            environment.tell_init_start(&spec);
        }
        Ok(environment)
    }
}

/// Who listens to an environment.
struct Ears {
    endpoint: Endpoint,
    way_out: Option<TcpListener>,
    captures: Vec<Capture>,
    telemetry: Arc<Telemetry>,
    lines: Arc<Mutex<Lines>>,
}

impl Ears {
    fn new(
        spec: &Spec,
        sockets: Vec<OwnedFd>,
        listener: Option<TcpListener>,
        said: Vec<(PipeReader, LogSource)>,
        extensions: Vec<String>,
    ) -> io::Result<Ears> {
        let mut sockets = sockets.into_iter();
        let runtime_listener = match listener {
            Some(listener) => listener,
            None => sockets
                .next()
                .ok_or_else(|| io::Error::other("its network was not handed over"))
                .and_then(place::listening)?,
        };
        let way_out = sockets.next().map(place::listening).transpose()?;
        let telemetry = Telemetry::new(match spec.isolation.own_network {
            true => Connectors::own(sockets.collect()),
            false => Connectors::Host,
        });
        let endpoint =
            Endpoint::serve(runtime_listener, about(spec), extensions, telemetry.clone());
        let mut lines = Lines::new(spec.log_bytes_max);
        lines.listen(Box::new({
            let telemetry = telemetry.clone();
            move |line| tell_line(&telemetry, line)
        }));
        let lines = Arc::new(Mutex::new(lines));
        let capture = |(pipe, source)| Capture::start(OwnedFd::from(pipe), source, lines.clone());
        let captures = said.into_iter().map(capture).collect::<io::Result<_>>()?;
        Ok(Ears {
            endpoint,
            way_out,
            captures,
            telemetry,
            lines,
        })
    }
}
