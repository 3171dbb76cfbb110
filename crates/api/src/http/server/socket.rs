//! A connection's bytes, encrypted or not.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Duration, timeout},
};
use tokio_rustls::server::TlsStream;

use super::prompt::Prompt;
use crate::tls::{self, Identity};

pub enum Socket {
    Plain(Prompt<TcpStream>),
    Secured(Box<TlsStream<Prompt<TcpStream>>>),
}

impl Socket {
    /// As the client begins it, within `silence_max`; where there is no identity, it is not asked. The same holds for how
    /// long it may leave what it is sent untouched.
    pub async fn begin(
        socket: TcpStream,
        identity: Option<&Identity>,
        silence_max: Duration,
    ) -> io::Result<Socket> {
        let Some(identity) = identity else {
            return Ok(Socket::Plain(Prompt::new(socket, silence_max)));
        };
        let begins_with_tls = timeout(silence_max, tls::begins_with_tls(&socket)).await;
        if !begins_with_tls?? {
            return Ok(Socket::Plain(Prompt::new(socket, silence_max)));
        }
        let prompt = Prompt::new(socket, silence_max);
        let secured = identity.secure_http(prompt).await?;
        Ok(Socket::Secured(Box::new(secured)))
    }

    pub fn is_secured(&self) -> bool {
        matches!(self, Socket::Secured(_))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Socket::Secured(socket) => Pin::new(socket).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Socket::Secured(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_write_vectored(context, slices),
            Socket::Secured(socket) => Pin::new(socket).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Socket::Plain(socket) => socket.is_write_vectored(),
            Socket::Secured(socket) => socket.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_flush(context),
            Socket::Secured(socket) => Pin::new(socket).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Socket::Secured(socket) => Pin::new(socket).poll_shutdown(context),
        }
    }
}
