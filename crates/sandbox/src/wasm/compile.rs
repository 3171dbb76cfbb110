//! Compiling a component, in a child process with limits where one is configured.
//!
//! What compiling takes is up to whoever wrote the component: a few megabytes can ask for many gigabytes, and for hours.
//! A child takes its limits upon itself before it reads the first byte; the parent looks at the time, and at how much
//! comes back. What comes back is trusted like what is compiled here: the child is the same program.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use nix::sys::{
    resource::{Resource, setrlimit},
    signal::Signal,
};
use wasmtime::Engine;

use super::engine;
use crate::Error;

/// The processor time may be spread over this many threads.
const THREADS: &str = "4";
/// What is compiled is some times as large as what it is made of.
const COMPILED_BYTES_MAX: u64 = 1 << 30;
const MESSAGE_BYTES_MAX: u64 = 16 << 10;
/// The code is at fault, and the message says why.
const REFUSED: u8 = 2;
const FAILED: u8 = 1;
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// As the allocator, mappings and new threads say it.
const OUT_OF_MEMORY: [&str; 3] = [
    "memory allocation of",
    "Cannot allocate memory",
    "Resource temporarily unavailable",
];
/// Between the signal that can be caught and the one that cannot.
const CPU_GRACE_S: u64 = 5;

/// A program that compiles components, and what one compilation may take.
#[derive(Debug, Clone)]
pub struct Compiler {
    pub program: PathBuf,
    /// Behind them come two more: bytes of memory, seconds of processor time. It does what [`compile_stdin`] does.
    pub args: Vec<OsString>,
    /// Beyond what the program itself takes.
    pub memory_bytes_max: u64,
    pub cpu_s_max: u64,
    pub time_max: Duration,
}

impl Compiler {
    pub fn new(program: impl Into<PathBuf>, args: impl IntoIterator<Item = OsString>) -> Compiler {
        Compiler {
            program: program.into(),
            args: args.into_iter().collect(),
            memory_bytes_max: 2 << 30,
            cpu_s_max: 60,
            time_max: Duration::from_secs(120),
        }
    }
}

/// For the engine, and for no other one. Waits while another component is compiled.
pub fn compile(
    engine: &Engine,
    compiler: Option<&Compiler>,
    code: &[u8],
) -> Result<Vec<u8>, Error> {
    // One at a time: the limits are of one.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    match compiler {
        Some(compiler) => compiler.compile(code),
        None => engine.precompile_component(code).map_err(not_a_component),
    }
}

fn not_a_component(error: wasmtime::Error) -> Error {
    Error::NotAComponent {
        reason: format!("{error:#}"),
    }
}

impl Compiler {
    fn compile(&self, code: &[u8]) -> Result<Vec<u8>, Error> {
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .arg(self.memory_bytes_max.to_string())
            .arg(self.cpu_s_max.to_string())
            // What the server knows is nothing for whoever may get at the child.
            .env_clear()
            .envs(std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)))
            .env("RAYON_NUM_THREADS", THREADS)
            // Each arena of the allocator takes address space, which is what is limited.
            .env("MALLOC_ARENA_MAX", "2")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Spawn {
                program: self.program.display().to_string(),
                source,
            })?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (status, compiled, message) = std::thread::scope(|scope| {
            scope.spawn(move || {
                // Who ends before it has read all says why.
                let _ = stdin.map(|mut stdin| stdin.write_all(code));
            });
            let compiled = scope.spawn(move || read(stdout, COMPILED_BYTES_MAX));
            let message = scope.spawn(move || read(stderr, MESSAGE_BYTES_MAX));
            // Its ends of the pipes close with it, so that the threads end as well.
            let status = self.wait(&mut child);
            let joined = |read: std::thread::ScopedJoinHandle<'_, io::Result<Vec<u8>>>| {
                read.join()
                    .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
            };
            (status, joined(compiled), joined(message))
        });
        let message = String::from_utf8_lossy(&message.unwrap_or_default()).into_owned();
        let broken = |source: io::Error| Error::TooCostly {
            reason: format!("its compiler broke off: {source}"),
        };
        match status.map_err(broken)? {
            Some(status) if status.success() => {
                let compiled = compiled.map_err(broken)?;
                match compiled.len() as u64 <= COMPILED_BYTES_MAX {
                    true => Ok(compiled),
                    false => Err(Error::TooCostly {
                        reason: format!("it becomes larger than {COMPILED_BYTES_MAX} bytes"),
                    }),
                }
            }
            ended => Err(self.explain(ended, message.trim())),
        }
    }

    /// `None`: it took too long, and was ended.
    fn wait(&self, child: &mut Child) -> io::Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if start.elapsed() > self.time_max {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn explain(&self, ended: Option<ExitStatus>, message: &str) -> Error {
        let Some(status) = ended else {
            return Error::TooCostly {
                reason: format!(
                    "it takes longer than {} seconds to compile",
                    self.time_max.as_secs_f64()
                ),
            };
        };
        if status.code() == Some(REFUSED.into()) {
            return Error::NotAComponent {
                reason: message.to_owned(),
            };
        }
        let signal = status
            .signal()
            .and_then(|signal| Signal::try_from(signal).ok());
        let is_out_of_memory = OUT_OF_MEMORY.iter().any(|sign| message.contains(sign));
        Error::TooCostly {
            reason: match signal {
                Some(Signal::SIGXCPU) => format!(
                    "it takes more than {} seconds of processor time to compile",
                    self.cpu_s_max
                ),
                _ if is_out_of_memory => format!(
                    "it takes more than {} MB of memory to compile",
                    self.memory_bytes_max >> 20
                ),
                _ => format!("its compiler ended with {status}: {message}"),
            },
        }
    }
}

/// Up to one byte more than the limit; the rest is read and dropped, so that the writer comes to its end.
fn read(from: Option<impl Read>, limit: u64) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    if let Some(mut from) = from {
        from.by_ref().take(limit + 1).read_to_end(&mut kept)?;
        io::copy(&mut from, &mut io::sink())?;
    }
    Ok(kept)
}

/// What a [`Compiler`]'s program does: a component from standard input, compiled to standard output, within limits that
/// the process cannot get rid of afterwards. Returns its exit code.
pub fn compile_stdin(memory_bytes_max: u64, cpu_s_max: u64) -> u8 {
    let memory = memory_bytes_max.saturating_add(mapped_bytes());
    let limits = [
        (Resource::RLIMIT_AS, memory, memory),
        (Resource::RLIMIT_CPU, cpu_s_max, cpu_s_max + CPU_GRACE_S),
        // Pipes are no files: it writes none.
        (Resource::RLIMIT_FSIZE, 0, 0),
        (Resource::RLIMIT_CORE, 0, 0),
    ];
    for (resource, soft, hard) in limits {
        if let Err(error) = setrlimit(resource, soft, hard) {
            eprintln!("{resource:?} cannot be limited: {error}");
            return FAILED;
        }
    }
    let compiled = || -> Result<Vec<u8>, Error> {
        let engine = engine::unpooled()?;
        let mut code = Vec::new();
        io::stdin()
            .read_to_end(&mut code)
            .map_err(Error::io("read", "standard input"))?;
        engine.precompile_component(&code).map_err(not_a_component)
    };
    match compiled() {
        Ok(compiled) => {
            let mut stdout = io::stdout().lock();
            match stdout.write_all(&compiled).and_then(|()| stdout.flush()) {
                Ok(()) => 0,
                Err(_) => FAILED,
            }
        }
        Err(Error::NotAComponent { reason }) => {
            eprintln!("{reason}");
            REFUSED
        }
        Err(error) => {
            eprintln!("{error}");
            FAILED
        }
    }
}

/// What this process has of its address space: a large program maps itself.
fn mapped_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kilobytes = size.and_then(|size| size.trim().trim_end_matches("kB").trim().parse().ok());
    kilobytes.map_or(0, |kilobytes: u64| kilobytes << 10)
}
