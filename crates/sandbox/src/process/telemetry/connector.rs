//! Connections to a listener inside of an environment.
//!
//! A socket belongs to the network that it was made in, whoever holds it: the child between fork and exec makes some in
//! its new network and hands them over, unconnected. Each subscriber has one of them, which is connected, disconnected
//! and connected again, so that the environment needs neither more of them nor a way back in.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    sync::Mutex,
};

use nix::libc;
use tokio::net::{TcpSocket, TcpStream};

use crate::process::extensions::EXTENSIONS_MAX;

/// One for each that may subscribe.
pub const MAX: usize = EXTENSIONS_MAX;

/// What the subscribers of one environment connect with.
pub enum Connectors {
    /// Environments share the host's network.
    Host,
    /// Of the environment's own.
    Own(Mutex<Vec<OwnedFd>>),
}

pub enum Connector {
    Host,
    Own(OwnedFd),
}

impl Connectors {
    pub fn own(sockets: Vec<OwnedFd>) -> Connectors {
        Connectors::Own(Mutex::new(sockets))
    }

    /// `None`: all of them are taken.
    pub fn take(&self) -> Option<Connector> {
        match self {
            Connectors::Host => Some(Connector::Host),
            Connectors::Own(sockets) => {
                let socket = sockets.lock().expect("held shortly").pop()?;
                Some(Connector::Own(socket))
            }
        }
    }
}

impl Connector {
    /// Connects to a port of the environment's loopback; what was connected before is cut.
    pub async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match self {
            Connector::Host => TcpStream::connect(address).await,
            Connector::Own(socket) => {
                disconnect(socket)?;
                // The copy is closed with the stream; the socket stays.
                let copy = std::net::TcpStream::from(socket.try_clone()?);
                TcpSocket::from_std_stream(copy).connect(address).await
            }
        }
    }
}

/// Makes a TCP socket as new, so that it can be connected again.
#[allow(unsafe_code)]
fn disconnect(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid address; it is a local that lives through the call, and its length is given.
    // Neither the standard library nor nix has an address without a family.
    let result = unsafe {
        let mut none: libc::sockaddr = std::mem::zeroed();
        none.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
        libc::connect(
            socket.as_raw_fd(),
            &raw const none,
            size_of::<libc::sockaddr>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::process::network;

    #[tokio::test]
    async fn a_socket_is_connected_again_and_again() {
        let connectors = Connectors::own(vec![network::connector_here().unwrap()]);
        let connector = connectors.take().unwrap();
        assert!(connectors.take().is_none());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for round in 0..3_u8 {
            let mut stream = connector.connect(port).await.unwrap();
            let (mut other, _) = listener.accept().await.unwrap();
            stream.write_all(&[round]).await.unwrap();
            assert_eq!(other.read_u8().await.unwrap(), round);
            // Who ends it, and whether anything is left to read, does not matter.
            if round == 1 {
                other.write_all(b"rest").await.unwrap();
            }
        }
        drop(listener);
        assert!(connector.connect(port).await.is_err());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        assert!(connector.connect(port).await.is_ok());
        drop(listener);
    }
}
