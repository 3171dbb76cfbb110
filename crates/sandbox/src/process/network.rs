//! A network of an environment's own: loopback and nothing else, with the host's listeners in it.
//!
//! Sockets belong to the network that they were made in, whoever holds them. The child between fork and exec opens
//! the listeners in its new network and hands them to the host, which serves the Runtime API on the one and the way
//! out on the other: nobody else can reach them, and the environment can reach nothing else. With them come sockets by
//! which the host can connect to listeners inside. System calls only.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use nix::libc;

use super::host_link::SOCKETS_MAX;

/// Where the Runtime API is, as in AWS.
pub const RUNTIME_API: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9_001);
/// Where the way out is.
pub const EGRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9_002);
const BACKLOG: libc::c_int = 128;

/// The listeners of the Runtime API and of the way out, and sockets that are to be connected to listeners inside.
pub struct Sockets([Option<OwnedFd>; SOCKETS_MAX]);

impl Sockets {
    /// Their numbers, and how many there are.
    pub fn numbers(&self) -> ([RawFd; SOCKETS_MAX], usize) {
        let mut numbers = [-1; SOCKETS_MAX];
        let mut count = 0;
        for (number, socket) in numbers.iter_mut().zip(self.0.iter().flatten()) {
            *number = socket.as_raw_fd();
            count += 1;
        }
        (numbers, count)
    }
}

/// Brings loopback up and opens both listeners and so many connectors in the network of this process.
pub fn open(connectors: usize) -> io::Result<Sockets> {
    loopback_up()?;
    let mut sockets = [const { None }; SOCKETS_MAX];
    sockets[0] = Some(listen(RUNTIME_API)?);
    sockets[1] = Some(listen(EGRESS)?);
    for connector in sockets.iter_mut().skip(2).take(connectors) {
        *connector = Some(connector_here()?);
    }
    Ok(Sockets(sockets))
}

/// A socket of this network, for whoever connects it.
pub fn connector_here() -> io::Result<OwnedFd> {
    socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK)
}

#[allow(unsafe_code)]
fn socket(kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: integers only; what it returns is new and nobody else's. The standard library cannot make a socket
    // without connecting it, and tokio must not be used between fork and exec.
    unsafe {
        let socket = check(libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, 0))?;
        Ok(OwnedFd::from_raw_fd(socket))
    }
}

#[allow(unsafe_code)]
fn loopback_up() -> io::Result<()> {
    let socket = socket(libc::SOCK_DGRAM)?;
    // SAFETY: all-zero bytes are a valid request; the name is shorter than its field; the pointer is to a local that
    // lives through the call.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        ))?;
    }
    Ok(())
}

#[allow(unsafe_code)]
fn listen(address: SocketAddrV4) -> io::Result<OwnedFd> {
    let socket = socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK)?;
    // SAFETY: the address is a local that lives through the call, and its length is given.
    unsafe {
        let mut name: libc::sockaddr_in = std::mem::zeroed();
        name.sin_family = libc::AF_INET as libc::sa_family_t;
        name.sin_port = address.port().to_be();
        name.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
        check(libc::bind(
            socket.as_raw_fd(),
            (&raw const name).cast(),
            size_of::<libc::sockaddr_in>() as libc::socklen_t,
        ))?;
        check(libc::listen(socket.as_raw_fd(), BACKLOG))?;
    }
    Ok(socket)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
