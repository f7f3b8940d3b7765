//! Answers: what the service gives to the engine.

use std::cell::RefCell;
use std::fmt::{Debug, Write as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::open::StreamSocket;
use super::request::Request;
use crate::sync::Wake;
use crate::vm::values::http_date;

/// The content types that are sent.
pub const JSON: &str = "application/json";
/// See [`JSON`].
pub const TEXT: &str = "text/plain";
/// What Prometheus reads.
pub const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Room for a head, and for the fields that an answer adds: what grows takes
/// the heap's lock, for which all threads that answer contend.
const HEAD_BYTES: usize = 384;
/// See [`HEAD_BYTES`].
const FIELDS_BYTES: usize = 192;

/// A body, or what it is made of.
#[derive(Debug)]
pub enum Body {
    /// Its own bytes.
    Bytes(Vec<u8>),
    /// Bytes shared with whoever else sends them.
    Shared(Arc<[u8]>),
    /// Many such.
    Pieces(Box<dyn Pieces>),
}

/// Bytes that lie in many places.
pub trait Pieces: Debug + Send + Sync {
    /// How many.
    fn count(&self) -> usize;

    /// One of them.
    fn piece(&self, at: usize) -> &[u8];
}

impl Body {
    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Shared(bytes) => bytes.len(),
            Self::Pieces(pieces) => {
                (0..pieces.count()).map(|at| pieces.piece(at).len()).sum()
            }
        }
    }

    /// Of how many pieces it is.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Bytes(_) | Self::Shared(_) => 1,
            Self::Pieces(pieces) => pieces.count(),
        }
    }

    /// One of its pieces.
    #[must_use]
    pub fn piece(&self, at: usize) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Shared(bytes) => bytes,
            Self::Pieces(pieces) => pieces.piece(at),
        }
    }

    /// Bytes that are there for it alone, or may be.
    #[must_use]
    pub fn held(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Shared(_) => size_of::<Arc<[u8]>>(),
            Self::Pieces(pieces) => pieces.count() * size_of::<Arc<[u8]>>(),
        }
    }
}

/// What a request is answered with.
pub enum Response {
    /// At once.
    Full(FullResponse),
    /// When there is something to answer.
    Deferred(StartLater),
    /// Lines that never end.
    Stream(StartStream),
}

/// Begins what is answered later; it tells [`Wake`] when there is something
/// to look at.
pub type StartLater = Box<dyn FnOnce(Wake) -> Box<dyn Deferred> + Send>;

/// Takes the connection over, once the head is out, and sends the lines.
pub type StartStream = Box<dyn FnOnce(StreamSocket) + Send>;

/// What answers.
pub trait Handler: Send + Sync {
    /// The answer to a request that came in at this address of ours.
    fn answer(&self, request: &Request, local: Option<IpAddr>) -> Response;

    /// A request was refused with this status, unread.
    fn refused(&self, status: u16);
}

/// A whole answer.
#[derive(Debug)]
pub struct FullResponse {
    /// The status.
    pub status: u16,
    /// The content type.
    pub kind: &'static str,
    /// The body.
    pub body: Body,
    /// Further fields of the head, each with its line's end.
    pub fields: String,
    /// Whether the connection is closed after it.
    pub is_last: bool,
}

impl FullResponse {
    /// An answer.
    #[must_use]
    pub fn new(status: u16, kind: &'static str, body: Body) -> Self {
        Self { status, kind, body, fields: String::new(), is_last: false }
    }

    /// An answer of JSON.
    #[must_use]
    pub fn json(status: u16, body: Vec<u8>) -> Self {
        Self::new(status, JSON, Body::Bytes(body))
    }

    /// An answer of text.
    #[must_use]
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self::new(status, TEXT, Body::Bytes(body.into().into_bytes()))
    }

    /// With one more field in its head.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if self.fields.is_empty() {
            self.fields.reserve(FIELDS_BYTES);
        }
        for part in [name, ": ", value, "\r\n"] {
            self.fields += part;
        }
        self
    }

    /// The same, after which the connection is closed.
    #[must_use]
    pub fn last(mut self) -> Self {
        self.is_last = true;
        self
    }

    /// The head. A connection that stays is the rule of HTTP/1.1, and one
    /// that does not of HTTP/1.0. If it stays, it does for this long without
    /// a request.
    #[must_use]
    pub fn head(&self, is_http11: bool, stays: Option<Duration>) -> String {
        let mut head = head(self.status, self.kind);
        head += &self.fields;
        if self.status != 304 {
            // A String takes all that is written.
            let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
        }
        let Some(idle_time) = stays else {
            head += "Connection: close\r\n\r\n";
            return head;
        };
        if !is_http11 {
            head += "Connection: keep-alive\r\n";
        }
        // A client that asks at the last moment is not to be cut off.
        let seconds = idle_time.mul_f64(0.9).as_secs();
        let _ = write!(head, "Keep-Alive: timeout={seconds}\r\n\r\n");
        head
    }
}

/// An answer that is not there yet.
pub trait Deferred: Send {
    /// The answer, if it is there now.
    fn look(&mut self) -> Option<FullResponse>;

    /// When the client is to be told that it is not.
    fn until(&self) -> Instant;

    /// What it is told then.
    fn late(&mut self) -> FullResponse;
}

/// The head of an answer, without its last fields and its end.
#[must_use]
pub fn head(status: u16, kind: &str) -> String {
    let reason = match status {
        200 => "OK",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Unknown",
    };
    let mut head = String::with_capacity(HEAD_BYTES);
    let _ =
        write!(head, "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\n");
    add_date(&mut head);
    head
}

/// Adds the field that says when an answer was made.
pub fn add_date(head: &mut String) {
    thread_local! {
        /// The second that was written last, and how.
        static LAST: RefCell<(u64, String)> = RefCell::default();
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    LAST.with_borrow_mut(|(second, text)| {
        if *second != now {
            (*second, *text) = (now, http_date(now));
        }
        for part in ["Date: ", text, "\r\n"] {
            *head += part;
        }
    });
}
