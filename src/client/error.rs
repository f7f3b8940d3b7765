//! What can go wrong between a client and the daemon.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::address::Address;
use crate::vm::json::Json;

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug)]
pub enum Error {
    /// Nobody listens there.
    Away {
        /// Where.
        server: Address,
    },
    /// It took longer than it may.
    Slow {
        /// What was asked: address and path.
        asked: String,
        /// How long it may take.
        time: Duration,
    },
    /// The connection could not be made, or broke.
    Broken {
        /// What was asked: address and path.
        asked: String,
        /// What the system says.
        error: io::Error,
    },
    /// The answer can't be understood: that is no vminfod.
    Nonsense {
        /// What was asked: address and path.
        asked: String,
        /// What is wrong.
        what: String,
    },
    /// The daemon said no.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The daemon's own words.
        said: String,
    },
    /// What was waited for did not come in time. The VM as it is instead;
    /// `None` if there is none.
    TimeIsOver(Option<Json>),
    /// Somebody has stopped it.
    Stopped,
    /// It has ended before, or was not tried again any more; this is why.
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
                write!(f, "{asked}: no answer of vminfod: {what}")
            }
            Self::Refused { status: 414, .. } => {
                f.write_str("the question is longer than the daemon takes")
            }
            Self::Refused { status, said } if said.is_empty() => {
                write!(f, "refused with status {status}")
            }
            Self::Refused { said, .. } => f.write_str(said),
            Self::TimeIsOver(_) => f.write_str("not within the time limit"),
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
    /// What an error of the system means, after this was asked.
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

    /// Whether asking again may help.
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
