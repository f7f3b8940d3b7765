//! Answers, which the service makes and the engine sends.

use std::cell::RefCell;
use std::fmt::{Debug, Write as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::open::StreamSocket;
use super::request::Request;
use crate::sync::Wake;
use crate::vm::values::http_date;

/// The content type of JSON.
pub const JSON: &str = "application/json";
/// The content type of plain text.
pub const TEXT: &str = "text/plain";
/// The content type of metrics, as Prometheus reads them.
pub const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The initial capacity of the string of an answer's head. A string that grows
/// takes the heap's lock, and all threads that answer contend for that.
const HEAD_BYTES: usize = 384;
/// The same for the fields that an answer adds: see [`HEAD_BYTES`].
const FIELDS_BYTES: usize = 192;

/// A body, in one or more pieces.
#[derive(Debug)]
pub enum Body {
    /// Its own bytes.
    Bytes(Vec<u8>),
    /// Bytes that may be shared with other answers.
    Shared(Arc<[u8]>),
    /// Many pieces of shared bytes.
    Pieces(Box<dyn Pieces>),
}

/// Bytes in many separate pieces.
pub trait Pieces: Debug + Send + Sync {
    /// How many pieces there are.
    fn count(&self) -> usize;

    /// The piece with index `at`.
    fn piece(&self, at: usize) -> &[u8];
}

impl Body {
    /// The length of the whole body in bytes.
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

    /// The number of its pieces.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Bytes(_) | Self::Shared(_) => 1,
            Self::Pieces(pieces) => pieces.count(),
        }
    }

    /// The piece with index `at`.
    #[must_use]
    pub fn piece(&self, at: usize) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Shared(bytes) => bytes,
            Self::Pieces(pieces) => pieces.piece(at),
        }
    }

    /// How many bytes of memory this body holds for itself, or may hold. Of
    /// shared bytes only the pointers are counted.
    #[must_use]
    pub fn held(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Shared(_) => size_of::<Arc<[u8]>>(),
            Self::Pieces(pieces) => pieces.count() * size_of::<Arc<[u8]>>(),
        }
    }
}

/// How a request is answered.
pub enum Response {
    /// With a whole answer, at once.
    Full(FullResponse),
    /// With a whole answer, later.
    Deferred(StartLater),
    /// With a stream of lines that never ends.
    Stream(StartStream),
}

/// Starts the work for an answer that comes later. That work calls the [`Wake`]
/// whenever the answer may be ready.
pub type StartLater = Box<dyn FnOnce(Wake) -> Box<dyn Deferred> + Send>;

/// Takes the connection over, once the head is sent, and sends the lines.
pub type StartStream = Box<dyn FnOnce(StreamSocket) + Send>;

/// Answers requests.
pub trait Handler: Send + Sync {
    /// The answer to a request. `local` is the address of this host at which it
    /// came in.
    fn answer(&self, request: &Request, local: Option<IpAddr>) -> Response;

    /// Notes that a request was refused with this status, without a call of
    /// [`Handler::answer`].
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
    /// More fields for the head, each with the end of its line.
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

    /// An answer of text. Today's daemon calls its answers with the status 400
    /// or 404 JSON, and so does this one.
    #[must_use]
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        let kind = match status {
            400 | 404 => JSON,
            _ => TEXT,
        };
        Self::new(status, kind, Body::Bytes(body.into().into_bytes()))
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

    /// The same answer, after which the connection is closed.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.is_last = true;
        self
    }

    /// The head of the answer. `stays` is how long the connection stays open
    /// without a request; `None` if it is closed after this answer. HTTP/1.1
    /// keeps a connection open by default, and HTTP/1.0 closes it by default.
    #[must_use]
    pub fn head(&self, is_http11: bool, stays: Option<Duration>) -> String {
        let mut head = head(self.status, self.kind);
        head += &self.fields;
        if self.status != 304 {
            // Writing to a String can't fail.
            let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
        }
        let Some(idle_time) = stays else {
            head += "Connection: close\r\n\r\n";
            return head;
        };
        if !is_http11 {
            head += "Connection: keep-alive\r\n";
        }
        // A client that sends a request at the last moment must not be cut off,
        // so the field promises less than the real time.
        let seconds = idle_time.mul_f64(0.9).as_secs();
        let _ = write!(head, "Keep-Alive: timeout={seconds}\r\n\r\n");
        head
    }
}

/// An answer that is not ready yet.
pub trait Deferred: Send {
    /// The answer, if it is ready now.
    fn look(&mut self) -> Option<FullResponse>;

    /// When to stop waiting and answer with [`Deferred::late`].
    fn until(&self) -> Instant;

    /// The answer if there is still none by [`Deferred::until`].
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
        /// The last second that was formatted, in UNIX time, and its text.
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
