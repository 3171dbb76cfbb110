//! A socket that does not close on what is still being sent to it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{super::settle::IsCutShort, socket::Socket};

/// How much is taken after the last answer, and for how long.
const BYTES_MAX: usize = 64 << 20;
const WAIT_MAX: Duration = Duration::from_secs(2);
const STEP_BYTES: usize = 16 << 10;

/// Closes its half at the end, and where the last request was cut short takes the rest until the other side closes, too.
pub struct Lingering {
    socket: Socket,
    is_cut_short: IsCutShort,
    /// After our half is closed.
    rest: Option<Rest>,
}

struct Rest {
    until: Pin<Box<Sleep>>,
    bytes: usize,
}

impl Lingering {
    pub fn new(socket: Socket, is_cut_short: IsCutShort) -> Lingering {
        Lingering {
            socket,
            is_cut_short,
            rest: None,
        }
    }
}

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.rest.is_none() {
            ready!(Pin::new(&mut this.socket).poll_shutdown(context))?;
            if !this.is_cut_short.get() {
                return Poll::Ready(Ok(()));
            }
        }
        let rest = this.rest.get_or_insert_with(|| Rest {
            until: Box::pin(sleep(WAIT_MAX)),
            bytes: 0,
        });
        let mut scratch = [0; STEP_BYTES];
        loop {
            if rest.bytes > BYTES_MAX || rest.until.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut this.socket).poll_read(context, &mut buffer));
            // It closes, or broke off: either way nothing more comes.
            if read.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            rest.bytes += buffer.filled().len();
        }
    }
}
