//! A server as a process of its own: started, asked for its processor time and memory, ended.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::TcpStream,
    os::unix::fs::FileExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// How long a server may take until it answers.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// What is told of a server that fails.
const LAST_BYTES: u64 = 4_096;
const LAST_LINES: usize = 10;

pub struct Server {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    /// What it writes, where that is not read.
    said: Option<File>,
}

/// What a server of ours says when it can be asked.
const READY: &str = "ready http=";

impl Server {
    /// One that says on standard error where it listens, as Lambic does.
    pub fn start_and_hear(mut command: Command) -> anyhow::Result<Server> {
        command.stderr(Stdio::piped());
        let mut child = spawn(&mut command)?;
        let said = child.stderr.take().context("its standard error is piped")?;
        let (found, address) = mpsc::channel();
        // It goes on to the end, so that the server never waits for who reads.
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                if let Some(rest) = line.strip_prefix(READY) {
                    let _ = found.send(rest.split(' ').next().unwrap_or_default().to_owned());
                } else if line.contains("ERROR") {
                    eprintln!("{line}");
                }
            }
        });
        let mut server = Server {
            child,
            address: String::new(),
            said: None,
        };
        server.address = address
            .recv_timeout(START_TIME_MAX)
            .context("the server did not start")?;
        Ok(server)
    }

    /// One that was told where to listen.
    pub fn start_at(mut command: Command, address: String) -> anyhow::Result<Server> {
        let said = tempfile::tempfile().context("cannot keep what a server says")?;
        command.stdout(said.try_clone()?).stderr(said.try_clone()?);
        let child = spawn(&mut command)?;
        let mut server = Server {
            child,
            address,
            said: Some(said),
        };
        let start = Instant::now();
        while TcpStream::connect(&server.address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                let program = command.get_program().display();
                bail!("{program} ended: {status}{}", server.last_words());
            }
            if start.elapsed() > START_TIME_MAX {
                let program = command.get_program().display();
                let seconds = START_TIME_MAX.as_secs();
                bail!(
                    "{program} does not listen at {} after {seconds} seconds{}",
                    server.address,
                    server.last_words()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(server)
    }

    /// An error of talking to it, with the end of what it wrote.
    pub fn explained(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow::anyhow!("{error:#}{}", self.last_words())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The end of what it wrote, as lines below a message; nothing if it wrote nothing.
    pub fn last_words(&self) -> String {
        let end = || -> std::io::Result<Vec<u8>> {
            let Some(said) = &self.said else {
                return Ok(Vec::new());
            };
            let length = said.metadata()?.len();
            let mut bytes = vec![0; length.min(LAST_BYTES) as usize];
            // The server shares the file's position.
            let start = length - bytes.len() as u64;
            said.read_exact_at(&mut bytes, start)?;
            Ok(bytes)
        };
        let bytes = end().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines = last_lines(&text);
        lines.iter().map(|line| format!("\n  {line}")).collect()
    }

    /// Processor time of the server itself, without the processes that it started.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        // The name before it may hold anything but is in brackets.
        let (_, fields) = stat.rsplit_once(") ").context("its form is known")?;
        let ticks: u64 = fields
            .split(' ')
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Ok(Duration::from_secs_f64(
            ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        ))
    }

    /// Resident memory, bytes.
    pub fn memory_bytes(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        Ok(kib.context("Linux says how much memory a process has")? << 10)
    }

    /// Processes that the server has started and that are alive.
    pub fn children(&self) -> anyhow::Result<usize> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()))?;
        let mut count = 0;
        for task in tasks {
            let children = std::fs::read_to_string(task?.path().join("children"));
            count += children.unwrap_or_default().split_whitespace().count();
        }
        Ok(count)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // With all that it started: peers do not look after their own.
        if let Some(group) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process_group(group, Signal::TERM);
            let end = Instant::now() + Duration::from_secs(5);
            while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

fn last_lines(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].to_vec()
}

fn spawn(command: &mut Command) -> anyhow::Result<Child> {
    use std::os::unix::process::CommandExt;

    command.stdin(Stdio::null()).process_group(0);
    command
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// An address of the loopback that nobody listens at.
pub fn free_address() -> anyhow::Result<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.to_string())
}

/// `lambic serve` on free ports over `data`.
pub fn lambic(data: &Path) -> anyhow::Result<Server> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args([
            "serve",
            "--http",
            "127.0.0.1:0",
            "--pg",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(data)
        .env_remove("LAMBIC_URL")
        .env_remove("LAMBIC_LOG")
        .stdout(Stdio::null());
    Server::start_and_hear(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of this machine, where nobody listens: a free address may be another test's meanwhile.
    const NOBODY: &str = "127.9.9.9:9";

    #[test]
    fn a_server_that_does_not_start_is_told_with_its_last_lines() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "for i in 1 2 3 4 5 6 7 8 9 10 11; do echo line $i; done; echo no module named flask >&2; exit 3",
        ]);
        let started = Server::start_at(command, NOBODY.to_owned());
        let error = started.err().unwrap().to_string();
        assert!(
            error.starts_with("sh ended: exit status: 3\n  line 3\n"),
            "{error}"
        );
        assert!(
            error.ends_with("\n  line 11\n  no module named flask"),
            "{error}"
        );
    }

    #[test]
    fn a_server_that_says_nothing_has_no_last_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "exit 1"]);
        let started = Server::start_at(command, NOBODY.to_owned());
        let error = started.err().unwrap().to_string();
        assert_eq!(error, "sh ended: exit status: 1");
        let missing = Server::start_at(Command::new("/no/such"), NOBODY.to_owned());
        let error = missing.err().unwrap().to_string();
        assert!(error.contains("cannot start /no/such"), "{error}");
    }
}
