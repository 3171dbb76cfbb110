//! A socket whose client takes what it is sent: where nothing of a write goes out for too long, the write fails.
//!
//! It stands right at the socket, below TLS, so that it sees every part that the system takes. What counts is that anything
//! goes on, not how fast: a client that is slow gets its answer, and one that reads nothing is let go, with what it holds up.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

pub struct Prompt<S> {
    socket: S,
    wait_max: Duration,
    /// Made when a write has to wait for the first time.
    wait: Option<Pin<Box<Sleep>>>,
    /// The last write did not go on, and `wait` runs since then.
    is_waiting: bool,
}

impl<S> Prompt<S> {
    pub fn new(socket: S, wait_max: Duration) -> Prompt<S> {
        Prompt {
            socket,
            wait_max,
            wait: None,
            is_waiting: false,
        }
    }

    /// What came of a write; or that none went on for too long.
    fn within_time(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.is_waiting = false;
            return written;
        }
        let wait_max = self.wait_max;
        let wait = self.wait.get_or_insert_with(|| Box::pin(sleep(wait_max)));
        if !self.is_waiting {
            self.is_waiting = true;
            wait.as_mut().reset(Instant::now() + wait_max);
        }
        ready!(wait.as_mut().poll(context));
        let reason = "the client took nothing of what it was sent for too long";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, reason)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prompt<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prompt<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.within_time(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.within_time(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_write_that_nobody_takes_fails() {
        let (ours, theirs) = duplex(4);
        let mut socket = Prompt::new(ours, Duration::from_millis(10));
        let error = socket.write_all(b"too long").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // It stays so.
        let error = socket.write_all(b"more").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
    }

    #[tokio::test]
    async fn whoever_takes_a_part_at_a_time_gets_all() {
        const PARTS: usize = 20;
        const WAIT_MAX: Duration = Duration::from_secs(1);
        // On a machine that stops for so long the client is one that takes nothing: then it is tried again.
        for _ in 0..10 {
            let (ours, mut theirs) = duplex(1);
            let mut socket = Prompt::new(ours, WAIT_MAX);
            let written = tokio::spawn(async move { socket.write_all(&[b'x'; PARTS]).await });
            let (start, mut longest) = (Instant::now(), Duration::ZERO);
            for _ in 0..PARTS {
                let before = Instant::now();
                // All parts together take longer than what one may.
                tokio::time::sleep(WAIT_MAX.mul_f64(1.2) / PARTS as u32).await;
                let _ = theirs.read_u8().await;
                longest = longest.max(before.elapsed());
            }
            if longest < WAIT_MAX / 2 {
                assert!(start.elapsed() > WAIT_MAX);
                written.await.unwrap().unwrap();
                return;
            }
        }
        panic!("the machine never went on for a second");
    }
}
