//! What can go wrong between a client and the daemon.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{Address, FormatError, NotAnAddress, Vm};

/// Why a request got no answer, or not the expected one. The text of an error
/// includes that of its source.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A text is not an address.
    Address(NotAnAddress),
    /// No daemon listens there: the connection was refused.
    NotRunning {
        /// The address of the daemon.
        server: Address,
        /// What the system says.
        source: io::Error,
    },
    /// The answer took longer than its time limit.
    Timeout {
        /// The request: address and path.
        request: String,
        /// The time limit.
        time: Duration,
    },
    /// The connection could not be made, or broke.
    Io {
        /// The request: address and path.
        request: String,
        /// What the system says.
        source: io::Error,
    },
    /// The answer can't be understood: the server may not be vminfod.
    BadAnswer {
        /// The request: address and path.
        request: String,
        /// What is wrong with the answer.
        source: Box<FormatError>,
    },
    /// The daemon is today's vminfod. It ignores the parameters of a request,
    /// so that this is the answer to another one.
    Ignored {
        /// The request: address and path.
        request: String,
    },
    /// The daemon refused the request.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The daemon's own error text.
        message: String,
    },
    /// The condition was not met in time.
    NotMet {
        /// The VM as it is; `None` if there is no such VM.
        vm: Option<Arc<Vm>>,
    },
    /// The caller has stopped the stream, or it ended earlier.
    Stopped,
    /// A stream has tried to connect again for as long as it may, or a watcher
    /// has ended earlier.
    Ended {
        /// Why.
        why: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(e) => e.fmt(f),
            Self::NotRunning { server, .. } => write!(
                f,
                "no daemon answers at {server}: it is not running, or has \
                 not loaded every VM yet"
            ),
            Self::Timeout { request, time } => {
                let seconds = (time.as_secs_f64() * 1e3).round() / 1e3;
                write!(f, "{request}: no answer in {seconds} s")
            }
            Self::Io { request, source } => write!(f, "{request}: {source}"),
            Self::BadAnswer { request, source } => write!(
                f,
                "{request}: this is not an answer of vminfod: {source}"
            ),
            Self::Ignored { request } => write!(
                f,
                "{request}: this is today's vminfod, which ignores filters and \
                 conditions"
            ),
            Self::Refused { status: 414, .. } => {
                f.write_str("the request is longer than the daemon accepts")
            }
            Self::Refused { status, message } if message.is_empty() => {
                write!(f, "refused with status {status}")
            }
            Self::Refused { message, .. } => f.write_str(message),
            Self::NotMet { .. } => {
                f.write_str("the condition was not met within the time limit")
            }
            Self::Stopped => f.write_str("stopped"),
            Self::Ended { why } => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Address(e) => Some(e),
            Self::NotRunning { source, .. } | Self::Io { source, .. } => {
                Some(source)
            }
            Self::BadAnswer { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<NotAnAddress> for Error {
    fn from(e: NotAnAddress) -> Self {
        Self::Address(e)
    }
}

impl Error {
    /// Turns an error of the system into one of these, for a request of `path`
    /// that had `time` to be answered.
    pub(crate) fn of_io(
        error: io::Error,
        server: &Address,
        path: &str,
        time: Duration,
    ) -> Self {
        let request = request(server, path);
        match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                Self::NotRunning { server: server.clone(), source: error }
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Self::Timeout { request, time }
            }
            io::ErrorKind::InvalidData => {
                let source = Box::new(FormatError::NotHttp(error));
                Self::BadAnswer { request, source }
            }
            _ => Self::Io { request, source: error },
        }
    }

    /// The error that the answer to a request of `path` can't be understood.
    pub(crate) fn of_answer(
        server: &Address,
        path: &str,
        source: FormatError,
    ) -> Self {
        let (request, source) = (request(server, path), Box::new(source));
        Self::BadAnswer { request, source }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotRunning { .. }
            | Self::Timeout { .. }
            | Self::Io { .. }
            | Self::BadAnswer { .. } => true,
            Self::Refused { status, .. } => *status >= 500,
            Self::Address(_)
            | Self::Ignored { .. }
            | Self::NotMet { .. }
            | Self::Stopped
            | Self::Ended { .. } => false,
        }
    }
}

/// Address and path of a request, without its parameters.
pub(crate) fn request(server: &Address, path: &str) -> String {
    format!("{server}{}", path.split('?').next().unwrap_or(path))
}
