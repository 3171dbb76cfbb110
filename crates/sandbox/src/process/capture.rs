//! Reads what a process writes, as it comes, and completely when asked.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
};

use tokio::io::unix::AsyncFd;

use crate::lines::{Lines, LogSource};

pub struct Capture {
    pipe: Arc<AsyncFd<OwnedFd>>,
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
        #[allow(unsafe_code)]
        // SAFETY: the descriptor must stay open and the same while it is registered. An `OwnedFd` is, and nothing
        // takes it out again. Tokio's own pipe type is safe, but cannot be read to its end at a chosen moment.
        let pipe = Arc::new(unsafe { AsyncFd::register(pipe) }?);
        let reader = tokio::spawn({
            let (pipe, lines) = (pipe.clone(), lines.clone());
            async move {
                while let Ok(mut ready) = pipe.readable().await {
                    ready.clear_ready();
                    if !read(&pipe, source, &lines) {
                        break;
                    }
                }
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
        read(&self.pipe, self.source, &self.lines);
    }
}

/// Reads until the pipe is empty; false if nobody will write to it again.
fn read(pipe: &AsyncFd<OwnedFd>, source: LogSource, lines: &Mutex<Lines>) -> bool {
    let mut buffer = [0; 16 << 10];
    // Held over the read, so that what is read first is kept first.
    let mut lines = lines.lock().expect("no panic while lines are held");
    // Bounded: a process that writes faster than we read must not hold this thread.
    for _ in 0..64 {
        match nix::unistd::read(pipe.get_ref(), &mut buffer) {
            Ok(0) => return false,
            Ok(bytes) => lines.push(source, &buffer[..bytes]),
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => return true,
            Err(_) => return false,
        }
    }
    true
}

/// Makes reads of `fd` return at once.
fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    nix::fcntl::fcntl(
        fd,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
    )?;
    Ok(())
}
