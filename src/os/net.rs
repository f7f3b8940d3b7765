//! Sockets, with options that std's listener does not let us choose.

use std::io;
use std::mem::size_of;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use vminfod_client::Address;

use super::socket::socket;
use super::unix::{self, Taken};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Keepalive: a client that is silent for a minute is probed every ten seconds,
/// and its connection is closed after six probes without an answer. So a client
/// whose machine is gone keeps its connection for two minutes.
const KEEPALIVE: [(i32, i32); 3] = [
    (libc::TCP_KEEPIDLE, 60),
    (libc::TCP_KEEPINTVL, 10),
    (libc::TCP_KEEPCNT, 6),
];

/// An address that is bound but not listened on yet: connections are refused
/// until [`Bound::listen`].
#[derive(Debug)]
pub struct Bound {
    fd: OwnedFd,
    address: Address,
    /// The path that is taken, if it is a Unix socket.
    taken: Option<Taken>,
}

/// A socket that accepts connections.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: Address,
    _taken: Option<Taken>,
}

#[derive(Debug)]
enum Socket {
    Inet(TcpListener),
    Unix(UnixListener),
}

/// Binds `address` without listening on it.
///
/// # Errors
/// Those of socket(2) and bind(2): `AddrInUse` if it is taken.
pub fn bind(address: &Address, send_buffer: usize) -> io::Result<Bound> {
    match address {
        Address::Inet(inet) => {
            let fd = bind_inet(*inet, send_buffer)?;
            Ok(Bound { fd, address: address.clone(), taken: None })
        }
        Address::Unix(path) => {
            let (fd, taken) = unix::bind(path)?;
            let taken = Some(taken);
            Ok(Bound { fd, address: address.clone(), taken })
        }
    }
}

fn bind_inet(address: SocketAddr, send_buffer: usize) -> io::Result<OwnedFd> {
    let fd = socket(match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    })?;
    let raw = fd.as_raw_fd();
    // Accepted connections inherit all of these options.
    set_option(raw, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set_option(raw, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    for (name, value) in KEEPALIVE {
        set_option(raw, libc::IPPROTO_TCP, name, value)?;
    }
    let send_buffer = i32::try_from(send_buffer).unwrap_or(i32::MAX);
    set_option(raw, libc::SOL_SOCKET, libc::SO_SNDBUF, send_buffer)?;
    match bind_to(raw, address) {
        // The address may be in use only by connections of the daemon that ran
        // before, and a restart must not wait for those. If the option were set
        // from the start, two daemons could bind the address, and the second to
        // listen on it would lose it.
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            set_option(raw, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
            bind_to(raw, address)?;
        }
        other => other?,
    }
    Ok(fd)
}

impl Bound {
    /// Its address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Starts to listen.
    ///
    /// # Errors
    /// Those of listen(3SOCKET): `AddrInUse` if another process was faster.
    pub fn listen(self) -> io::Result<Listener> {
        let Self { fd, mut address, taken } = self;
        let raw = fd.as_raw_fd();
        if let Address::Inet(_) = address {
            // Its connections inherit the option, so that the next daemon can
            // bind the address.
            set_option(raw, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        }
        // SAFETY: the descriptor is an open socket that we own.
        if unsafe { libc::listen(raw, BACKLOG) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = match &address {
            Address::Inet(_) => {
                let listener = TcpListener::from(fd);
                // The caller may have left the choice of the port to the
                // system.
                if let Ok(local) = listener.local_addr() {
                    address = local.into();
                }
                Socket::Inet(listener)
            }
            Address::Unix(_) => Socket::Unix(fd.into()),
        };
        Ok(Listener { socket, address, _taken: taken })
    }
}

impl Listener {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Sets whether [`Listener::accept`] returns at once if no connection
    /// waits.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match &self.socket {
            Socket::Inet(listener) => listener.set_nonblocking(nonblocking),
            Socket::Unix(listener) => listener.set_nonblocking(nonblocking),
        }
    }

    /// Accepts the next connection. A connection to a Unix socket is returned
    /// as a `TcpStream` as well: it can be read, written, polled and shut down
    /// like one, but has no address.
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
