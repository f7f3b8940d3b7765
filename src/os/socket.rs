//! Sockets of any family: making one, and waiting for several.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// A socket that children do not inherit.
///
/// # Errors
/// Those of socket(2).
pub fn socket(family: libc::c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: socket has no memory preconditions.
    let fd = unsafe { libc::socket(family, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One socket of a [`poll_sockets`] call.
#[derive(Clone, Copy, Debug)]
pub struct Polled {
    /// The socket.
    pub fd: RawFd,
    /// Whether to wait until it can be read.
    pub want_read: bool,
    /// Whether to wait until it can be written.
    pub want_write: bool,
    /// Afterwards: it can be read, is at its end, or has failed.
    pub readable: bool,
    /// Afterwards: it can be written.
    pub writable: bool,
    /// After the wait: it has failed, or both directions are closed. This is
    /// reported whatever was asked for.
    pub failed: bool,
}

/// Waits until one of `sockets` can be read or written, whichever it asks for,
/// but at most `time`.
///
/// # Errors
/// Those of poll(2).
pub fn poll_sockets(sockets: &mut [Polled], time: Duration) -> io::Result<()> {
    let flag = |wanted, flag| if wanted { flag } else { 0 };
    let mut polled: Vec<_> = sockets
        .iter()
        .map(|s| libc::pollfd {
            fd: s.fd,
            events: flag(s.want_read, libc::POLLIN)
                | flag(s.want_write, libc::POLLOUT),
            revents: 0,
        })
        .collect();
    super::poll(&mut polled, time)?;
    for (socket, entry) in sockets.iter_mut().zip(&polled) {
        socket.writable = entry.revents & libc::POLLOUT != 0;
        socket.readable = entry.revents & !libc::POLLOUT != 0;
        let failures = libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
        socket.failed = entry.revents & failures != 0;
    }
    Ok(())
}
