//! Where the daemon listens and is asked: an address of TCP, or the path of a
//! Unix socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Of TCP.
    Inet(SocketAddr),
    /// A socket in the file system: who may open it may ask.
    Unix(PathBuf),
}

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
    type Err = String;

    /// What has a `/` in it is a path.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return Ok(Self::Unix(text.into()));
        }
        let address = text.parse::<SocketAddr>();
        let address = address.map_err(|_| {
            format!("not ADDR:PORT: {text} (nor a path, which has a /)")
        })?;
        Ok(Self::Inet(address))
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

    /// What a request to it names as its host.
    #[must_use]
    pub fn host(&self) -> String {
        match self {
            // Who listens everywhere is asked nearby.
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
            assert!(text.parse::<Address>().unwrap_err().contains(text));
        }
    }
}
