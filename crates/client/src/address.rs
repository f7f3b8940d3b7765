//! Where the daemon listens and where clients connect: a TCP address, or the
//! path of a Unix socket.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::sync::Shared;

/// An address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP address.
    Inet(SocketAddr),
    /// A socket in the file system. Any process that may open it may send
    /// requests.
    Unix(PathBuf),
}

/// A text that is not an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAnAddress(String);

impl fmt::Display for NotAnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: neither ADDR:PORT nor a path with a /", self.0)
    }
}

impl std::error::Error for NotAnAddress {}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

impl FromStr for Address {
    type Err = NotAnAddress;

    /// A text with a `/` in it is a path.
    fn from_str(text: &str) -> Result<Self, NotAnAddress> {
        if text.contains('/') {
            return Ok(Self::Unix(text.into()));
        }
        let address = text.parse::<SocketAddr>();
        address.map(Self::Inet).map_err(|_| NotAnAddress(text.to_string()))
    }
}

impl Address {
    /// The environment variable that says where to connect to.
    pub const VARIABLE: &str = "VMINFOD_SERVER";

    /// The address at which the daemon listens by default: 127.0.0.1:9090.
    pub const DEFAULT: Self = Self::Inet(SocketAddr::V4(SocketAddrV4::new(
        Ipv4Addr::LOCALHOST,
        9090,
    )));

    /// The address in [`Address::VARIABLE`] or, if there is none,
    /// [`Address::DEFAULT`].
    ///
    /// # Errors
    /// If what the variable has is not an address.
    pub fn from_env() -> Result<Self, NotAnAddress> {
        let Some(value) = std::env::var_os(Self::VARIABLE) else {
            return Ok(Self::DEFAULT);
        };
        match value.to_string_lossy() {
            value if value.is_empty() => Ok(Self::DEFAULT),
            value => value.parse().map_err(|NotAnAddress(value)| {
                NotAnAddress(format!("{}={value}", Self::VARIABLE))
            }),
        }
    }

    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Inet(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// The host that a request to this address names.
    #[must_use]
    pub fn host(&self) -> String {
        match self {
            // A daemon that listens on all addresses can be reached as
            // localhost.
            Self::Inet(address) if !address.ip().is_unspecified() => {
                address.to_string()
            }
            Self::Inet(_) | Self::Unix(_) => "localhost".to_string(),
        }
    }

    /// Connects, within `time`. A connection to a Unix socket is returned as a
    /// `TcpStream` as well: it can be read, written and shut down like one, but
    /// has no address.
    ///
    /// # Errors
    /// Those of connect(3SOCKET): `ConnectionRefused` if no process listens;
    /// `TimedOut`.
    pub fn connect(&self, time: Duration) -> io::Result<TcpStream> {
        match self {
            Self::Inet(address) => {
                let stream = TcpStream::connect_timeout(address, time)?;
                stream.set_nodelay(true)?;
                Ok(stream)
            }
            Self::Unix(path) => connect_to_path(path, time),
        }
    }
}

/// The most threads that connect to the socket at one path.
const CONNECTING_MAX: usize = 4;

/// How many threads connect to the socket at each path now.
static CONNECTING: Shared<BTreeMap<PathBuf, usize>> =
    Shared::new(BTreeMap::new());

/// Connects to a Unix socket. std has no time limit for that, and the system
/// lets it wait if the socket's queue is full; so a thread of its own connects.
/// If the time is over, that thread is left to itself. While too many threads
/// are left so, no other one is started.
fn connect_to_path(path: &Path, time: Duration) -> io::Result<TcpStream> {
    let until = Instant::now() + time;
    let mut connecting = CONNECTING.lock();
    while connecting.get(path).is_some_and(|n| *n >= CONNECTING_MAX) {
        if Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        connecting = CONNECTING.wait(connecting, until);
    }
    *connecting.entry(path.to_path_buf()).or_default() += 1;
    drop(connecting);
    let place = Place(path.to_path_buf());
    let (sender, connected) = channel();
    let connect = move || {
        let stream = loop {
            match UnixStream::connect(&place.0) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        drop(place);
        // The caller may not wait any more.
        let _ = sender.send(stream);
    };
    thread::Builder::new().name("connect-unix".to_string()).spawn(connect)?;
    let left = until.saturating_duration_since(Instant::now());
    match connected.recv_timeout(left) {
        Ok(Ok(stream)) => Ok(OwnedFd::from(stream).into()),
        // If there is no socket at the path, no daemon listens there.
        Ok(Err(e)) if e.kind() == io::ErrorKind::NotFound => {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
        Ok(Err(e)) => Err(e),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}

/// Counts a thread that connects to the socket at this path, until it is
/// dropped.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let mut connecting = CONNECTING.lock();
        if let Some(count) = connecting.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                connecting.remove(&self.0);
            }
        }
        drop(connecting);
        CONNECTING.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in [
            "127.0.0.1:9090",
            "[::1]:1",
            "/run/vminfod.sock",
            "./a.sock",
            "a/b",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert!(address.is_local());
        }
        assert!(!"192.0.2.1:9090".parse::<Address>().unwrap().is_local());
        for text in ["", "localhost", "9090", "127.0.0.1"] {
            assert!(
                text.parse::<Address>().unwrap_err().to_string().contains(text)
            );
        }
    }
}
