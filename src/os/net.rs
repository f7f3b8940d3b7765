//! Sockets: what std's listener does not let one choose.

use std::fs::{self, File};
use std::io;
use std::mem::size_of;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use crate::address::Address;

/// What the lock of a Unix socket is named after it.
const LOCK_SUFFIX: &str = ".lock";

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// An address that is taken, and not listened on yet: who connects is
/// refused, until [`Bound::listen`].
#[derive(Debug)]
pub struct Bound {
    fd: OwnedFd,
    address: Address,
    /// Of a Unix socket: held as long as the daemon lives.
    lock: Option<File>,
}

/// What accepts connections.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: Address,
    _lock: Option<File>,
}

#[derive(Debug)]
enum Socket {
    Inet(TcpListener),
    Unix(UnixListener),
}

/// Takes `address` without listening on it.
///
/// # Errors
/// Those of socket(2) and bind(2): `AddrInUse` if it is taken.
pub fn bind(address: &Address, send_buffer: usize) -> io::Result<Bound> {
    match address {
        Address::Inet(inet) => {
            let fd = bind_inet(*inet, send_buffer)?;
            Ok(Bound { fd, address: address.clone(), lock: None })
        }
        Address::Unix(path) => {
            let (fd, lock) = bind_unix(path)?;
            Ok(Bound { fd, address: address.clone(), lock: Some(lock) })
        }
    }
}

fn socket(family: libc::c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: socket has no memory preconditions.
    let fd = unsafe { libc::socket(family, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is open and owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bind_inet(address: SocketAddr, send_buffer: usize) -> io::Result<OwnedFd> {
    let fd = socket(match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    })?;
    let raw = fd.as_raw_fd();
    // Both are inherited by what is accepted.
    set_option(raw, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    let send_buffer = i32::try_from(send_buffer).unwrap_or(i32::MAX);
    set_option(raw, libc::SOL_SOCKET, libc::SO_SNDBUF, send_buffer)?;
    match bind_to(raw, address) {
        // It may be the connections of the one before, for which a restart
        // must not wait. With this option from the start, two could take the
        // address, and the second to listen on it would lose it.
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            set_option(raw, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
            bind_to(raw, address)?;
        }
        other => other?,
    }
    Ok(fd)
}

/// Takes the path of a Unix socket, which its owner alone may open. Who holds
/// the lock beside it has the path: a socket that is there was left behind.
fn bind_unix(path: &Path) -> io::Result<(OwnedFd, File)> {
    let mut name = path.as_os_str().to_owned();
    name.push(LOCK_SUFFIX);
    let lock = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(name)?;
    lock_whole(&lock)?;
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::other("it is there, and no socket")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    // SAFETY: all-zero bytes are a valid sockaddr_un.
    let mut sun: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    #[allow(clippy::cast_possible_truncation)]
    let family = libc::AF_UNIX as libc::sa_family_t;
    sun.sun_family = family;
    let bytes = path.as_os_str().as_bytes();
    // A NUL has to follow.
    if bytes.len() >= sun.sun_path.len() || bytes.contains(&0) {
        return Err(io::Error::other("the path is too long"));
    }
    for (to, from) in sun.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    let fd = socket(libc::AF_UNIX)?;
    // From the start: who opens it in between stays connected.
    // SAFETY: umask has no preconditions; it is put back. Until the daemon
    // has bound its addresses, no other thread makes files.
    let result = unsafe {
        let before = libc::umask(0o177);
        let address = (&raw const sun).cast();
        let result = libc::bind(fd.as_raw_fd(), address, socklen(&sun));
        libc::umask(before);
        result
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok((fd, lock)) }
}

/// Locks a file as long as it is open: `AddrInUse` if another process has.
fn lock_whole(file: &File) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid flock: the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    #[allow(clippy::cast_possible_truncation)]
    let kind = libc::F_WRLCK as libc::c_short;
    lock.l_type = kind;
    // SAFETY: the descriptor is open, and `lock` is valid for the call.
    let result = unsafe {
        libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock)
    };
    match (result, io::Error::last_os_error()) {
        (0.., _) => Ok(()),
        (_, e) => match e.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => {
                Err(io::ErrorKind::AddrInUse.into())
            }
            _ => Err(e),
        },
    }
}

impl Bound {
    /// Its address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Listens.
    ///
    /// # Errors
    /// Those of listen(3SOCKET): `AddrInUse` if another was quicker.
    pub fn listen(self) -> io::Result<Listener> {
        let Self { fd, mut address, lock } = self;
        let raw = fd.as_raw_fd();
        if let Address::Inet(_) = address {
            // For its connections, which inherit it, and the one after.
            set_option(raw, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        }
        // SAFETY: the descriptor is an open socket that we own.
        if unsafe { libc::listen(raw, BACKLOG) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = match &address {
            Address::Inet(_) => {
                let listener = TcpListener::from(fd);
                // The port may have been left to the system.
                if let Ok(local) = listener.local_addr() {
                    address = local.into();
                }
                Socket::Inet(listener)
            }
            Address::Unix(_) => Socket::Unix(fd.into()),
        };
        Ok(Listener { socket, address, _lock: lock })
    }
}

impl Listener {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether [`Listener::accept`] waits.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match &self.socket {
            Socket::Inet(listener) => listener.set_nonblocking(nonblocking),
            Socket::Unix(listener) => listener.set_nonblocking(nonblocking),
        }
    }

    /// The next connection. That of a Unix socket is a `TcpStream` as well:
    /// it is read, written, polled and shut down as one, and has no address.
    ///
    /// # Errors
    /// Those of accept(3SOCKET).
    pub fn accept(&self) -> io::Result<TcpStream> {
        match &self.socket {
            Socket::Inet(listener) => Ok(listener.accept()?.0),
            Socket::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                Ok(OwnedFd::from(stream).into())
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Inet(listener) => listener.as_fd(),
            Socket::Unix(listener) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            // The lock is held: it is ours, whatever became of it.
            let _ = fs::remove_file(path);
        }
    }
}

/// Connects to `address`, in so much time if it is of TCP.
///
/// # Errors
/// Those of connect(3SOCKET): `ConnectionRefused` if nobody listens.
pub fn connect(address: &Address, time: Duration) -> io::Result<TcpStream> {
    match address {
        Address::Inet(inet) => {
            let stream = TcpStream::connect_timeout(inet, time)?;
            stream.set_nodelay(true)?;
            Ok(stream)
        }
        Address::Unix(path) => match UnixStream::connect(path) {
            Ok(stream) => Ok(OwnedFd::from(stream).into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
            Err(e) => Err(e),
        },
    }
}

fn bind_to(fd: RawFd, address: SocketAddr) -> io::Result<()> {
    let result = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: all-zero bytes are a valid sockaddr_in.
            let mut sin: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            #[allow(clippy::cast_possible_truncation)]
            let family = libc::AF_INET as libc::sa_family_t;
            sin.sin_family = family;
            sin.sin_port = v4.port().to_be();
            sin.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            // SAFETY: `sin` is valid and its true size is given.
            unsafe { libc::bind(fd, (&raw const sin).cast(), socklen(&sin)) }
        }
        SocketAddr::V6(v6) => {
            // SAFETY: all-zero bytes are a valid sockaddr_in6.
            let mut sin: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            #[allow(clippy::cast_possible_truncation)]
            let family = libc::AF_INET6 as libc::sa_family_t;
            sin.sin6_family = family;
            sin.sin6_port = v6.port().to_be();
            sin.sin6_addr.s6_addr = v6.ip().octets();
            sin.sin6_scope_id = v6.scope_id();
            // SAFETY: `sin` is valid and its true size is given.
            unsafe { libc::bind(fd, (&raw const sin).cast(), socklen(&sin)) }
        }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: `value` is valid for the call and its true size is given.
    let result = unsafe {
        libc::setsockopt(
            fd,
            level,
            name,
            (&raw const value).cast(),
            socklen(&value),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn socklen<T>(_: &T) -> libc::socklen_t {
    #[allow(clippy::cast_possible_truncation)]
    let size = size_of::<T>() as libc::socklen_t;
    size
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
    /// Afterwards: it has failed, or both ways are closed. This is told
    /// whatever is waited for.
    pub failed: bool,
}

/// Waits until one of `sockets` can be read, or written where that is asked
/// for, at most `time`.
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
