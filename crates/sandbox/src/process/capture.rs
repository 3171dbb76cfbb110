//! Reads what a process writes, as it comes, and completely when asked.
//!
//! What is read here is read at the server's own cost. A process that has said all that it may is read now and then from
//! there on: its pipe is full, and it waits instead of keeping a thread of ours busy with what is thrown away. Nor is that
//! thread told of each write meanwhile, as it is of what comes into a pipe that it waits for.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::io::unix::AsyncFd;

use crate::lines::{Lines, LogSource};

/// Reads of one turn. Bounded: a process that writes faster than we read must not hold this thread.
const READS_MAX: usize = 64;
const READ_BYTES: usize = 16 << 10;
/// Once the rest is thrown away, a pause, and then as much as the pipe holds: 25 MB a second at most.
const PAUSE_FULL: Duration = Duration::from_millis(10);
const PIPE_BYTES: usize = 64 << 10;
const PIPE_FULL_BYTES: usize = 256 << 10;
const READS_FULL_MAX: usize = PIPE_FULL_BYTES / READ_BYTES;

pub struct Capture {
    pipe: Arc<OwnedFd>,
    source: LogSource,
    lines: Arc<Mutex<Lines>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Capture {
    pub fn start(
        pipe: OwnedFd,
        source: LogSource,
        lines: Arc<Mutex<Lines>>,
    ) -> io::Result<Capture> {
        set_nonblocking(&pipe)?;
        let pipe = Arc::new(pipe);
        let watched = watch(&pipe)?;
        let reader = tokio::spawn({
            let (pipe, lines) = (pipe.clone(), lines.clone());
            async move {
                // It ends when nobody will write any more.
                let _ = follow(&pipe, watched, source, &lines).await;
            }
        });
        Ok(Capture {
            pipe,
            source,
            lines,
            reader,
        })
    }

    /// Takes what is in the pipe now.
    pub fn drain(&self) {
        read(&self.pipe, self.source, &self.lines, READS_MAX);
    }
}

/// To be told when something is in it.
#[allow(unsafe_code)]
fn watch(pipe: &Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the descriptor must stay open and the same while it is registered. An `OwnedFd` is, the `Arc` keeps it, and
    // nothing takes it out again. Tokio's own pipe type is safe, but cannot be read to its end at a chosen moment.
    Ok(unsafe { AsyncFd::register(pipe.clone()) }?)
}

/// Takes what comes until nobody will write any more.
async fn follow(
    pipe: &Arc<OwnedFd>,
    mut watched: AsyncFd<Arc<OwnedFd>>,
    source: LogSource,
    lines: &Mutex<Lines>,
) -> io::Result<()> {
    loop {
        let mut ready = watched.readable().await?;
        let turn = read(pipe, source, lines, READS_FULL_MAX);
        match turn.left {
            // Only then is anybody told when there is more.
            Left::Nothing => ready.clear_ready(),
            Left::More => ready.retain_ready(),
            Left::Ended => return Ok(()),
        }
        drop(ready);
        if !turn.is_full {
            tokio::task::yield_now().await;
            continue;
        }
        drop(watched);
        watched = loop {
            if let Left::Ended = throw_away(pipe, source, lines).await {
                return Ok(());
            }
            match watch(pipe) {
                Ok(watched) => break watched,
                // Then it is read without being told: whoever writes must not wait for ever.
                Err(error) => tracing::debug!(%error, "a pipe is read now and then"),
            }
        };
    }
}

/// Reads now and then until there is nothing, or what comes is kept again.
async fn throw_away(pipe: &OwnedFd, source: LogSource, lines: &Mutex<Lines>) -> Left {
    set_room(pipe, PIPE_FULL_BYTES);
    loop {
        tokio::time::sleep(PAUSE_FULL).await;
        let turn = read(pipe, source, lines, READS_FULL_MAX);
        if !turn.is_full || !matches!(turn.left, Left::More) {
            // What all pipes of a user hold together has a bound.
            set_room(pipe, PIPE_BYTES);
            return turn.left;
        }
    }
}

/// Where it is refused, a pipe that holds less makes its writer wait longer, and one that is full stays large.
fn set_room(pipe: &OwnedFd, bytes: usize) {
    let _ = nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(bytes as i32));
}

/// What one turn of reading came to.
struct Turn {
    left: Left,
    /// What comes now is thrown away.
    is_full: bool,
}

enum Left {
    Nothing,
    More,
    /// Nobody will write to it again.
    Ended,
}

/// Reads until the pipe is empty, but not more often than [`READS_MAX`], and than `reads_full_max` once the rest is
/// thrown away.
fn read(pipe: &OwnedFd, source: LogSource, lines: &Mutex<Lines>, reads_full_max: usize) -> Turn {
    let mut buffer = [0; READ_BYTES];
    // Held over the read, so that what is read first is kept first.
    let mut lines = lines.lock().expect("no panic while lines are held");
    let mut left = Left::More;
    let mut reads = 0;
    while reads < READS_MAX && !(lines.is_full() && reads >= reads_full_max) {
        reads += 1;
        match nix::unistd::read(pipe, &mut buffer) {
            Ok(0) => left = Left::Ended,
            Ok(bytes) => {
                lines.push(source, &buffer[..bytes]);
                continue;
            }
            Err(nix::errno::Errno::EINTR) => continue,
            Err(nix::errno::Errno::EAGAIN) => left = Left::Nothing,
            Err(_) => left = Left::Ended,
        }
        break;
    }
    Turn {
        left,
        is_full: lines.is_full(),
    }
}

/// Makes reads of `fd` return at once.
fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    nix::fcntl::fcntl(
        fd,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const BYTES_MAX: usize = 1_000;

    fn capture() -> (std::io::PipeWriter, Capture) {
        let (reader, writer) = std::io::pipe().unwrap();
        let lines = Arc::new(Mutex::new(Lines::new(BYTES_MAX)));
        let capture = Capture::start(OwnedFd::from(reader), LogSource::Stdout, lines).unwrap();
        (writer, capture)
    }

    #[tokio::test]
    async fn a_flood_is_read_to_its_end_and_thrown_away() {
        let (mut writer, capture) = capture();
        let flood = std::thread::spawn(move || {
            for _ in 0..100 {
                writer.write_all(&[b'x'; 64 << 10]).unwrap();
            }
        });
        // A writer that nobody reads waits for ever.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !flood.is_finished() {
            assert!(std::time::Instant::now() < until, "nobody reads on");
            tokio::time::sleep(PAUSE_FULL).await;
        }
        flood.join().unwrap();
        capture.drain();
        let lines = capture.lines.lock().unwrap().take();
        assert_eq!(lines[0].line.len(), BYTES_MAX);
        let dropped = (100 << 16) - BYTES_MAX;
        assert!(
            lines[1].line.starts_with(&format!("{dropped} bytes")),
            "{}",
            lines[1].line
        );
    }

    #[tokio::test]
    async fn what_comes_after_a_flood_is_kept_again() {
        let (mut writer, capture) = capture();
        writer.write_all(&[b'x'; 2 * BYTES_MAX]).unwrap();
        capture.drain();
        assert_eq!(capture.lines.lock().unwrap().take().len(), 2);
        writer.write_all(b"more\n").unwrap();
        capture.drain();
        let lines = capture.lines.lock().unwrap().take();
        assert_eq!(lines[0].line, "more");
        assert_eq!(lines.len(), 1);
    }

    /// Nobody was told of it while a flood was thrown away.
    #[tokio::test]
    async fn what_comes_after_a_flood_is_read_by_itself() {
        let (mut writer, capture) = capture();
        let taken = || capture.lines.lock().unwrap().take();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        for round in 0..3 {
            writer.write_all(&[b'x'; 2 * BYTES_MAX]).unwrap();
            while taken().is_empty() {
                assert!(std::time::Instant::now() < until, "nobody reads on");
                tokio::time::sleep(PAUSE_FULL).await;
            }
            writer.write_all(format!("\n{round}\n").as_bytes()).unwrap();
            while !taken().iter().any(|line| line.line == round.to_string()) {
                assert!(std::time::Instant::now() < until, "it was not read");
                tokio::time::sleep(PAUSE_FULL).await;
            }
        }
    }
}
