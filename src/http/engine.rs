//! The HTTP engine: a thread a connection, blocking, bounded in number, bytes
//! and time. It knows requests and answers, and nothing of what they say.
//!
//! * Accepting never ends because of an error: it is logged and tried again.
//! * A request's head has a limit and a deadline; a connection, an idle limit;
//!   an answer that the client does not take, a limit as well.
//! * One request of a connection is in work at a time: who pipelines without
//!   reading holds up himself.
//! * A panic costs one connection.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::config::HttpLimits;
use crate::http::request::{Parsed, Request, parse};
use crate::hub::chunk_of;
use crate::os;

/// The content types that are sent.
pub const JSON: &str = "application/json";
/// See [`JSON`].
pub const TEXT: &str = "text/plain";

/// The pause after an accept that failed for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a refused client may go on sending before it is cut off; without
/// it, it might never read why.
const LINGER_TIME: Duration = Duration::from_millis(500);

/// Refused connections that are kept for as long at the most.
const REFUSED_MAX: usize = 32;

/// The pause between two records about connections too many.
const REFUSED_LOG_PAUSE: Duration = Duration::from_secs(10);

/// How long accepting waits at most before it looks around.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Stack of a connection's thread.
const STACK_BYTES: usize = 256 << 10;

/// Pieces that one writev(2) takes; illumos has an IOV_MAX of 1024.
const PIECES_MAX: usize = 512;

/// A body, or what it is made of.
#[derive(Debug)]
pub enum Body {
    /// One piece.
    Bytes(Vec<u8>),
    /// Many, shared with whoever else sends them.
    Parts(Vec<Arc<[u8]>>),
}

impl Body {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Parts(parts) => parts.iter().map(|part| part.len()).sum(),
        }
    }
}

/// What a request is answered with.
pub enum Answer {
    /// A status, a content type and a body.
    Full {
        /// The status.
        status: u16,
        /// The content type.
        kind: &'static str,
        /// The body.
        body: Body,
        /// Seconds after which to try again.
        retry_after: Option<u32>,
    },
    /// Lines that never end.
    Stream(StreamStart),
}

impl Answer {
    /// A whole answer.
    #[must_use]
    pub fn new(status: u16, kind: &'static str, body: Body) -> Self {
        Self::Full { status, kind, body, retry_after: None }
    }

    /// The same, with the advice to try again in a second.
    #[must_use]
    pub fn retry_after(mut self) -> Self {
        if let Self::Full { retry_after, .. } = &mut self {
            *retry_after = Some(1);
        }
        self
    }
}

/// The beginning of a stream; whoever takes it over sends the rest.
pub struct StreamStart {
    /// The first line, newline included.
    pub first_line: Vec<u8>,
    /// Takes the stream once the first line is out.
    pub take_over: Box<dyn FnOnce(Stream) + Send>,
    /// Is called instead, if the client went away before.
    pub abandon: Box<dyn FnOnce() + Send>,
}

/// A connection on which lines are sent.
#[derive(Debug)]
pub struct Stream {
    /// The connection.
    pub socket: Arc<TcpStream>,
    /// Whether lines are sent in chunks: not to HTTP/1.0.
    pub chunked: bool,
    /// Keeps the connection counted.
    _slot: Slot,
}

/// Connections, and what ends them.
#[derive(Debug)]
pub struct Engine {
    limits: HttpLimits,
    open: Arc<Open>,
    refused: Refused,
    ending: AtomicBool,
    waker: UnixStream,
    wakee: UnixStream,
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Open {
    sockets: Mutex<(u64, HashMap<u64, Arc<TcpStream>>)>,
}

/// One of the connections that there may be, until dropped.
#[derive(Debug)]
struct Slot {
    id: u64,
    open: Arc<Open>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.sockets.lock().1.remove(&self.id);
    }
}

impl Engine {
    /// An engine without connections.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn new(limits: HttpLimits) -> io::Result<Self> {
        let (waker, wakee) = UnixStream::pair()?;
        let ending = AtomicBool::new(false);
        let (open, refused) = (Arc::default(), Refused::default());
        Ok(Self { limits, open, refused, ending, waker, wakee })
    }

    /// Ends accepting, and closes what is open.
    pub fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        let _ = (&self.waker).write(&[1]);
        for socket in self.open.sockets.lock().1.values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Accepts connections until the engine is ended.
    pub fn accept_all(
        self: &Arc<Self>,
        listener: &TcpListener,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) {
        let answer = Arc::new(answer);
        let mut last_error = None;
        if let Err(e) = listener.set_nonblocking(true) {
            log::error!("listener: {e}");
        }
        while !self.ending.load(Ordering::SeqCst) {
            let fds = [listener.as_fd(), self.wakee.as_fd()];
            let time = self.refused.close_old().unwrap_or(WAIT_MAX);
            let waited = os::wait_readable(&fds, time);
            let accepted = waited.and_then(|_| listener.accept());
            match accepted {
                Ok((socket, _)) => {
                    last_error = None;
                    let answer = Arc::clone(&answer);
                    self.serve_in_thread(socket, move |r| answer(r));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => {
                    // A client that has reset, or no descriptors: never final.
                    if last_error != Some(e.kind()) {
                        log::warn!("accept: {e}; trying again");
                    }
                    last_error = Some(e.kind());
                    std::thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }

    fn serve_in_thread(
        self: &Arc<Self>,
        socket: TcpStream,
        answer: impl Fn(&Request) -> Answer + Send + 'static,
    ) {
        // On illumos it has the listener's flag.
        let _ = socket.set_nonblocking(false);
        let socket = Arc::new(socket);
        let Some(slot) = self.slot(&socket) else {
            self.refused.refuse(socket, self.limits.connections);
            return;
        };
        let engine = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("http-connection".to_string())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let work = AssertUnwindSafe(|| {
                    Connection::new(&engine, socket, slot).serve(&answer);
                });
                if catch_unwind(work).is_err() {
                    log::error!("a connection's thread panicked");
                }
            });
        if let Err(e) = thread {
            log::error!("no thread for a connection: {e}");
        }
    }

    fn slot(&self, socket: &Arc<TcpStream>) -> Option<Slot> {
        let mut sockets = self.open.sockets.lock();
        if sockets.1.len() >= self.limits.connections {
            return None;
        }
        sockets.0 += 1;
        let id = sockets.0;
        sockets.1.insert(id, Arc::clone(socket));
        Some(Slot { id, open: Arc::clone(&self.open) })
    }
}

/// Connections too many that have been told so. Closing one with its request
/// unread would reset it, and the client might never read why.
#[derive(Debug, Default)]
struct Refused {
    sockets: Mutex<VecDeque<(Instant, Arc<TcpStream>)>>,
    logged: Mutex<Option<Instant>>,
}

impl Refused {
    fn refuse(&self, socket: Arc<TcpStream>, most: usize) {
        let now = Instant::now();
        let mut logged = self.logged.lock();
        if logged.is_none_or(|last| now - last > REFUSED_LOG_PAUSE) {
            log::warn!("over {most} connections; more are refused");
            *logged = Some(now);
        }
        drop(logged);
        let _ = socket.set_nonblocking(true);
        let _ = (&*socket).write(BUSY);
        let _ = socket.shutdown(Shutdown::Write);
        let mut sockets = self.sockets.lock();
        sockets.push_back((now, socket));
        if sockets.len() > REFUSED_MAX {
            sockets.pop_front();
        }
    }

    /// Closes those that have had their time; how long until the next has.
    fn close_old(&self) -> Option<Duration> {
        let mut sockets = self.sockets.lock();
        while let Some((since, socket)) = sockets.front() {
            let left = LINGER_TIME.saturating_sub(since.elapsed());
            if !left.is_zero() {
                return Some(left);
            }
            let mut request = [0; 4096];
            let _ = (&**socket).read(&mut request);
            sockets.pop_front();
        }
        None
    }
}

/// The whole answer to a connection too many.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Retry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// One connection.
struct Connection<'a> {
    engine: &'a Engine,
    socket: Arc<TcpStream>,
    slot: Option<Slot>,
    /// What was read and not used.
    buffer: Vec<u8>,
}

/// Whether a connection goes on.
enum Next {
    Request,
    Close,
}

impl<'a> Connection<'a> {
    fn new(engine: &'a Engine, socket: Arc<TcpStream>, slot: Slot) -> Self {
        Self { engine, socket, slot: Some(slot), buffer: Vec::new() }
    }

    fn serve(mut self, answer: &impl Fn(&Request) -> Answer) {
        let stall = self.engine.limits.write_stall_time;
        let _ = self.socket.set_write_timeout(Some(stall));
        while !self.engine.ending.load(Ordering::SeqCst) {
            let next = match self.read_request() {
                Ok(Some(Ok(request))) => {
                    let answer = answer(&request);
                    self.write_answer(&request, answer)
                }
                Ok(Some(Err(status))) => {
                    let _ = self.refuse(status);
                    return;
                }
                Ok(None) | Err(_) => return,
            };
            match next {
                Ok(Next::Request) => {}
                Ok(Next::Close) | Err(_) => return,
            }
        }
    }

    /// The next request; `Err` in it is a status to refuse with, `None` the
    /// end of the connection.
    fn read_request(&mut self) -> io::Result<Option<Result<Request, u16>>> {
        let limits = &self.engine.limits;
        let mut until = Instant::now()
            + if self.buffer.is_empty() {
                limits.idle_time
            } else {
                limits.head_time
            };
        loop {
            match parse(&self.buffer, limits) {
                Parsed::Request(request, len) => {
                    self.buffer.drain(..len);
                    return Ok(Some(Ok(request)));
                }
                Parsed::Refused(status) => return Ok(Some(Err(status))),
                Parsed::Partial => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Who has sent nothing is not told anything.
                let silent = self.buffer.is_empty();
                return Ok((!silent).then_some(Err(408)));
            }
            self.socket.set_read_timeout(Some(left))?;
            let mut piece = [0; 4096];
            match (&*self.socket).read(&mut piece) {
                Ok(0) => return Ok(None),
                Ok(n) => {
                    if self.buffer.is_empty() {
                        until = Instant::now() + limits.head_time;
                    }
                    self.buffer.extend_from_slice(&piece[..n]);
                }
                Err(e) if is_retry(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn write_answer(
        &mut self,
        request: &Request,
        answer: Answer,
    ) -> io::Result<Next> {
        let is_head = request.method == "HEAD";
        match answer {
            Answer::Full { status, kind, body, retry_after } => {
                let mut head = head(status, kind);
                if let Some(seconds) = retry_after {
                    head += &format!("Retry-After: {seconds}\r\n");
                }
                head += &format!("Content-Length: {}\r\n", body.len());
                head += match (request.keep_alive, request.is_http11) {
                    (true, true) => "\r\n",
                    (true, false) => "Connection: keep-alive\r\n\r\n",
                    (false, _) => "Connection: close\r\n\r\n",
                };
                let empty = Body::Bytes(Vec::new());
                let body = if is_head { &empty } else { &body };
                self.write_body(&head, body)?;
                Ok(if request.keep_alive { Next::Request } else { Next::Close })
            }
            Answer::Stream(start) => {
                if is_head {
                    (start.abandon)();
                    let head = head(200, JSON) + "Connection: close\r\n\r\n";
                    self.write_body(&head, &Body::Bytes(Vec::new()))?;
                } else {
                    self.start_stream(request, start)?;
                }
                Ok(Next::Close)
            }
        }
    }

    fn start_stream(
        &mut self,
        request: &Request,
        start: StreamStart,
    ) -> io::Result<()> {
        let mut head = head(200, JSON);
        head += if request.is_http11 {
            "Transfer-Encoding: chunked\r\n\r\n"
        } else {
            "Connection: close\r\n\r\n"
        };
        let chunked = request.is_http11;
        let first = if chunked {
            chunk_of(&start.first_line).0
        } else {
            start.first_line
        };
        let written = self
            .write_body(&head, &Body::Bytes(first))
            .and_then(|()| self.socket.set_nonblocking(true));
        match (written, self.slot.take()) {
            (Ok(()), Some(slot)) => {
                let socket = Arc::clone(&self.socket);
                (start.take_over)(Stream { socket, chunked, _slot: slot });
                Ok(())
            }
            (result, _) => {
                (start.abandon)();
                result
            }
        }
    }

    /// Tells a client why it is not served, and waits a little for it to hear.
    fn refuse(&mut self, status: u16) -> io::Result<()> {
        let head = head(status, TEXT)
            + "Content-Length: 0\r\nConnection: close\r\n\r\n";
        self.write_body(&head, &Body::Bytes(Vec::new()))?;
        // Closing with unread bytes would reset the connection, and the
        // client might lose the answer.
        self.socket.shutdown(Shutdown::Write)?;
        let until = Instant::now() + LINGER_TIME;
        let mut piece = [0; 4096];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.socket.set_read_timeout(Some(left))?;
            if (&*self.socket).read(&mut piece)? == 0 {
                return Ok(());
            }
        }
    }

    /// Writes head and body, together as far as that goes.
    fn write_body(&self, head: &str, body: &Body) -> io::Result<()> {
        let mut pieces = vec![head.as_bytes()];
        match body {
            Body::Bytes(bytes) => pieces.push(bytes),
            Body::Parts(parts) => pieces.extend(parts.iter().map(|p| &**p)),
        }
        pieces.retain(|piece| !piece.is_empty());
        let mut rest = &mut pieces[..];
        while !rest.is_empty() {
            let count = rest.len().min(PIECES_MAX);
            let slices: Vec<_> =
                rest[..count].iter().map(|piece| IoSlice::new(piece)).collect();
            let mut written = match (&*self.socket).write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // Also the end of SO_SNDTIMEO: the client does not read.
                Err(e) => return Err(e),
            };
            let mut done = 0;
            for piece in rest.iter_mut() {
                if written < piece.len() {
                    *piece = &piece[written..];
                    break;
                }
                written -= piece.len();
                done += 1;
            }
            rest = &mut rest[done..];
        }
        Ok(())
    }
}

/// A read that ended at its time limit, or by a signal, may be tried again.
fn is_retry(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::TimedOut
            | io::ErrorKind::Interrupted
    )
}

/// The head of an answer, without its last fields and its end.
fn head(status: u16, kind: &str) -> String {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        408 => "Request Timeout",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Error",
    };
    format!("HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\n")
}
