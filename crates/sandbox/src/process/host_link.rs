//! What the child between fork and exec tells the host: its number, the sockets that it opened in its network, and at
//! which step it failed.
//!
//! A pair of datagram sockets: messages keep their bounds, and file numbers travel with them (`SCM_RIGHTS`). The
//! child's side makes system calls only. What a zygote splits off says the same (`zygote.py`).

use std::{
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixDatagram,
    },
};

use nix::libc;

use super::telemetry::CONNECTORS_MAX;

/// Sockets of one message.
pub const SOCKETS_MAX: usize = 2 + CONNECTORS_MAX;
/// Files that go the other way, to a zygote.
pub const FILES_MAX: usize = 16;
const MESSAGE_BYTES: usize = 8;
/// Room for the control message, aligned as its header is.
const CONTROL_WORDS: usize = 16;
const _: () = assert!(SOCKETS_MAX <= FILES_MAX);

/// What the host hears.
#[derive(Debug)]
pub enum Word {
    Started {
        pid: i32,
        sockets: Vec<OwnedFd>,
    },
    /// Stage and number within it: what the child was at when a call failed. The system's number of the error comes from
    /// zygotes; between fork and exec it travels by the standard library's own way.
    Failed {
        stage: u8,
        number: u16,
        error: i32,
    },
    /// A zygote has split off this process.
    Split {
        pid: i32,
        pidfd: OwnedFd,
    },
}

pub fn pair() -> io::Result<(UnixDatagram, UnixDatagram)> {
    UnixDatagram::pair()
}

pub fn say_started(link: &UnixDatagram, pid: i32, sockets: &[RawFd]) -> io::Result<()> {
    let mut message = [0; MESSAGE_BYTES];
    message[0] = b'S';
    message[1..5].copy_from_slice(&pid.to_ne_bytes());
    send(link, &message, sockets)
}

pub fn say_failed(link: &UnixDatagram, stage: u8, number: u16) -> io::Result<()> {
    let mut message = [0; MESSAGE_BYTES];
    message[0] = b'F';
    message[1] = stage;
    message[2..4].copy_from_slice(&number.to_ne_bytes());
    send(link, &message, &[])
}

/// What was said so far; does not wait. The child says everything before it is another program.
pub fn heard(link: &impl AsRawFd) -> io::Result<Option<Word>> {
    let mut message = [0u8; MESSAGE_BYTES];
    let mut sockets = Vec::new();
    match receive(link, &mut message, &mut sockets) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        result => result?,
    }
    let [kind, a, b, c, d, e, f, g] = message;
    match kind {
        b'S' => Ok(Some(Word::Started {
            pid: i32::from_ne_bytes([a, b, c, d]),
            sockets,
        })),
        b'F' => Ok(Some(Word::Failed {
            stage: a,
            number: u16::from_ne_bytes([b, c]),
            error: i32::from_ne_bytes([d, e, f, g]),
        })),
        b'P' => match sockets.pop() {
            Some(pidfd) => Ok(Some(Word::Split {
                pid: i32::from_ne_bytes([a, b, c, d]),
                pidfd,
            })),
            // The kernel leaves out what this process has no number for.
            None => Err(io::Error::from_raw_os_error(libc::EMFILE)),
        },
        _ => Ok(None),
    }
}

/// A message with files.
#[allow(unsafe_code)]
pub fn send(link: &impl AsRawFd, message: &[u8], sockets: &[RawFd]) -> io::Result<()> {
    if sockets.len() > FILES_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut part = libc::iovec {
        iov_base: message.as_ptr().cast_mut().cast(),
        iov_len: message.len(),
    };
    let mut control = [0usize; CONTROL_WORDS];
    let bytes = size_of_val(sockets);
    // SAFETY: all-zero bytes are a valid header. The pointers are to locals that live through the call. The control
    // buffer is aligned and larger than `CMSG_SPACE` of `FILES_MAX` file numbers, so the header that the macros
    // find in it and the numbers behind that lie within. The kernel only reads the message. The standard library's
    // ancillary messages are unstable, and nix's allocate, which is not allowed between fork and exec.
    let result = unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        if !sockets.is_empty() {
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(bytes as u32) as _;
            let first = libc::CMSG_FIRSTHDR(&raw const header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(bytes as u32) as _;
            std::ptr::copy_nonoverlapping(
                sockets.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(first),
                bytes,
            );
        }
        libc::sendmsg(link.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[allow(unsafe_code)]
fn receive(link: &impl AsRawFd, message: &mut [u8], sockets: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut part = libc::iovec {
        iov_base: message.as_mut_ptr().cast(),
        iov_len: message.len(),
    };
    let mut control = [0usize; CONTROL_WORDS];
    // SAFETY: as above. What arrives in a control message of this kind are new file numbers of this process, which
    // nobody else owns; their count is what the length says, and the kernel wrote no more than the buffer holds.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control) as _;
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        if libc::recvmsg(link.as_raw_fd(), &raw mut header, flags) < 0 {
            return Err(io::Error::last_os_error());
        }
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        if !first.is_null() && (*first).cmsg_type == libc::SCM_RIGHTS {
            let bytes = (*first).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
            let data = libc::CMSG_DATA(first).cast::<RawFd>();
            for number in 0..bytes / size_of::<RawFd>() {
                sockets.push(OwnedFd::from_raw_fd(data.add(number).read_unaligned()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sockets_and_failures_arrive() {
        let (host, child) = pair().unwrap();
        assert!(heard(&host).unwrap().is_none());
        let (one, mut two) = io::pipe().unwrap();
        say_started(&child, 77, &[one.as_raw_fd(), two.as_raw_fd()]).unwrap();
        say_failed(&child, 3, 500).unwrap();
        drop(one);
        let Some(Word::Started { pid: 77, sockets }) = heard(&host).unwrap() else {
            panic!()
        };
        io::Write::write_all(&mut two, b"x").unwrap();
        let [read_end, _] = sockets.try_into().unwrap();
        let mut read = [0];
        io::Read::read_exact(&mut std::fs::File::from(read_end), &mut read).unwrap();
        assert_eq!(&read, b"x");
        assert!(matches!(
            heard(&host).unwrap(),
            Some(Word::Failed {
                stage: 3,
                number: 500,
                error: 0
            })
        ));
        say_started(&child, 78, &[]).unwrap();
        let Some(Word::Started { pid: 78, sockets }) = heard(&host).unwrap() else {
            panic!()
        };
        assert!(sockets.is_empty());
        // What it would be held by did not come with it.
        send(&child, &[b'P', 1, 0, 0, 0, 0, 0, 0], &[]).unwrap();
        assert!(heard(&host).is_err());
        assert!(send(&child, b"S", &[0; FILES_MAX + 1]).is_err());
    }
}
