//! What can go wrong between a client and the daemon.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::address::Address;
use crate::vm::json::Json;

/// Why a request got no answer, or not the expected one.
#[derive(Debug)]
pub enum Error {
    /// No daemon listens there: the connection was refused.
    Away {
        /// The address of the daemon.
        server: Address,
    },
    /// The answer took longer than its time limit.
    Slow {
        /// The request: address and path.
        asked: String,
        /// The time limit.
        time: Duration,
    },
    /// The connection could not be made, or broke.
    Broken {
        /// The request: address and path.
        asked: String,
        /// What the system says.
        error: io::Error,
    },
    /// The answer cannot be understood: the server is not vminfod.
    Nonsense {
        /// The request: address and path.
        asked: String,
        /// What is wrong with the answer.
        what: String,
    },
    /// The daemon refused the request.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The daemon's own error text.
        said: String,
    },
    /// The condition was not met in time. Holds the VM as it is instead, or
    /// `None` if there is no such VM.
    TimeIsOver(Option<Json>),
    /// The caller has stopped the stream.
    Stopped,
    /// The stream or watcher ended earlier, or has given up trying again. The
    /// text says why.
    Ended(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away { server } => write!(
                f,
                "no daemon answers at {server}: it is not running, or has \
                 not loaded every VM yet"
            ),
            Self::Slow { asked, time } => {
                let seconds = (time.as_secs_f64() * 1e3).round() / 1e3;
                write!(f, "{asked}: no answer in {seconds} s")
            }
            Self::Broken { asked, error } => write!(f, "{asked}: {error}"),
            Self::Nonsense { asked, what } => {
                write!(f, "{asked}: this is not an answer of vminfod: {what}")
            }
            Self::Refused { status: 414, .. } => {
                f.write_str("the request is longer than the daemon accepts")
            }
            Self::Refused { status, said } if said.is_empty() => {
                write!(f, "refused with status {status}")
            }
            Self::Refused { said, .. } => f.write_str(said),
            Self::TimeIsOver(_) => {
                f.write_str("the condition was not met within the time limit")
            }
            Self::Stopped => f.write_str("stopped"),
            Self::Ended(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Broken { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl Error {
    /// Turns an error of the system into one of these, for a request of `path`
    /// that had `time` to be answered.
    pub(super) fn of_io(
        error: io::Error,
        server: &Address,
        path: &str,
        time: Duration,
    ) -> Self {
        let path = path.split('?').next().unwrap_or(path);
        let asked = format!("{server}{path}");
        match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                Self::Away { server: server.clone() }
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Self::Slow { asked, time }
            }
            io::ErrorKind::InvalidData => {
                Self::Nonsense { asked, what: error.to_string() }
            }
            _ => Self::Broken { asked, error },
        }
    }

    /// Whether trying again may help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Away { .. }
            | Self::Slow { .. }
            | Self::Broken { .. }
            | Self::Nonsense { .. } => true,
            Self::Refused { status, .. } => *status >= 500,
            Self::TimeIsOver(_) | Self::Stopped | Self::Ended(_) => false,
        }
    }
}
