//! Where the daemon listens and where clients connect: a TCP address, or the
//! path of a Unix socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
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
