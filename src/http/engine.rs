//! The HTTP engine: a few threads that answer, and one that waits for all
//! other connections. It knows requests and answers, and nothing of what they
//! say.
//!
//! * Accepting never ends because of an error: it is logged and tried again.
//! * A request's head has a limit and a deadline; a connection, an idle limit;
//!   an answer that the client does not take, a limit as well.
//! * A thread stays with a connection as long as there is something to do, or
//!   for a moment longer; then the connection is parked, with what is left of
//!   its answer, and costs no thread.
//! * A panic costs one connection.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::answer::{Answer, add_date};
use super::connection::Connection;
use super::poller::{Fired, Poller};
use crate::config::HttpLimits;
use crate::http::request::Request;
use crate::os;
use crate::os::net::Listener;
use crate::sync::Bell;

/// The pause after an accept that failed for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a client may go on sending after its last answer before it is cut
/// off; without that time, it might never read the end of the answer.
pub const LINGER_TIME: Duration = Duration::from_millis(500);

/// How much it may send.
pub const LINGER_BYTES: usize = 1 << 20;

/// Refused connections that are kept for as long at the most.
const REFUSED_MAX: usize = 32;

/// The pause between two records about connections too many.
const REFUSED_LOG_PAUSE: Duration = Duration::from_secs(10);

/// How long accepting waits at most before it looks around.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A thread without work ends after this long.
const THREAD_IDLE_TIME: Duration = Duration::from_secs(10);

/// Stack of a thread that answers.
const STACK_BYTES: usize = 512 << 10;

/// What answers.
pub trait Handler: Send + Sync {
    /// The answer to a request that came in at this address of ours.
    fn answer(&self, request: &Request, local: Option<IpAddr>) -> Answer;

    /// A request was refused with this status, unread.
    fn refused(&self, status: u16);
}

/// A connection on which lines are sent.
#[derive(Debug)]
pub struct Stream {
    /// The connection.
    pub socket: Arc<TcpStream>,
    /// Whether lines are sent in chunks: not to HTTP/1.0.
    pub chunked: bool,
    /// Keeps the connection counted.
    pub _slot: Slot,
}

/// What the engine says of itself.
#[derive(Clone, Copy, Debug)]
pub struct EngineStatus {
    /// Connections that are open.
    pub connections: usize,
    /// Threads that answer.
    pub threads: usize,
    /// Connections too many, since the start.
    pub refused: u64,
    /// Bytes of answers that wait to be taken.
    pub unsent: usize,
}

/// Connections, and what serves and ends them.
pub struct Engine {
    pub(super) limits: HttpLimits,
    pub(super) handler: Box<dyn Handler>,
    pub(super) poller: Arc<Poller>,
    pub(super) unsent: Arc<AtomicUsize>,
    ready: Mutex<Ready>,
    work: Condvar,
    open: Arc<Open>,
    refused: Refused,
    ending: AtomicBool,
    bell: Bell,
}

/// Connections on which there is something to do.
#[derive(Default)]
struct Ready {
    queue: VecDeque<(Connection, Fired)>,
    threads: usize,
    idle: usize,
}

/// The connections that are open.
#[derive(Debug, Default)]
struct Open {
    sockets: Mutex<(u64, HashMap<u64, Arc<TcpStream>>)>,
}

/// One of the connections that there may be, until dropped.
#[derive(Debug)]
pub struct Slot {
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
    pub fn new(
        limits: HttpLimits,
        poller: Arc<Poller>,
        handler: Box<dyn Handler>,
    ) -> io::Result<Self> {
        Ok(Self {
            limits,
            handler,
            poller,
            unsent: Arc::default(),
            ready: Mutex::default(),
            work: Condvar::new(),
            open: Arc::default(),
            refused: Refused::default(),
            ending: AtomicBool::new(false),
            bell: Bell::new()?,
        })
    }

    /// What it says of itself.
    pub fn status(&self) -> EngineStatus {
        // One lock after the other, never both.
        let connections = self.open.sockets.lock().1.len();
        let threads = self.ready.lock().threads;
        EngineStatus {
            connections,
            threads,
            refused: self.refused.count.load(Ordering::Relaxed),
            unsent: self.unsent.load(Ordering::Relaxed),
        }
    }

    /// Ends accepting, and closes what is open.
    pub fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        self.bell.ring();
        for socket in self.open.sockets.lock().1.values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Dropped when it is not locked: each gives its slot back.
        let waiting = std::mem::take(&mut self.ready.lock().queue);
        drop(waiting);
        self.work.notify_all();
    }

    /// Whether it has been ended.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// Accepts connections until the engine is ended.
    pub fn accept_all(self: &Arc<Self>, listener: &Listener) {
        let mut last_error = None;
        if let Err(e) = listener.set_nonblocking(true) {
            log::error!("listener: {e}");
        }
        while !self.is_ending() {
            let fds = [listener.as_fd(), self.bell.fd()];
            let time = self.refused.close_old().unwrap_or(WAIT_MAX);
            let waited = os::wait_readable(&fds, time);
            let accepted = waited.and_then(|_| listener.accept());
            match accepted {
                Ok(socket) => {
                    last_error = None;
                    self.welcome(socket);
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

    fn welcome(self: &Arc<Self>, socket: TcpStream) {
        if let Err(e) = socket.set_nonblocking(true) {
            log::warn!("a connection: {e}");
            return;
        }
        let socket = Arc::new(socket);
        match self.slot(&socket) {
            Some(slot) => {
                let connection = Connection::new(self, socket, slot);
                self.serve(connection, Fired::Ready);
            }
            None => self.refused.refuse(socket, self.limits.connections),
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

    /// Has one of the threads see to a connection.
    pub(super) fn serve(self: &Arc<Self>, connection: Connection, why: Fired) {
        let mut ready = self.ready.lock();
        if self.is_ending() {
            return;
        }
        ready.queue.push_back((connection, why));
        let is_short = ready.queue.len() > ready.idle;
        if is_short && ready.threads < self.limits.threads {
            ready.threads += 1;
            drop(ready);
            let engine = Arc::clone(self);
            let thread = std::thread::Builder::new()
                .name("http-answer".to_string())
                .stack_size(STACK_BYTES)
                .spawn(move || engine.answer_all());
            if let Err(e) = thread {
                log::error!("no thread to answer with: {e}");
                let mut ready = self.ready.lock();
                ready.threads -= 1;
                let given_up = match ready.threads {
                    // Nobody would ever come for them.
                    0 => std::mem::take(&mut ready.queue),
                    _ => VecDeque::new(),
                };
                drop(ready);
                drop(given_up);
            }
        } else {
            drop(ready);
            self.work.notify_one();
        }
    }

    /// Whether connections wait for a thread.
    pub(super) fn is_busy(&self) -> bool {
        let ready = self.ready.lock();
        !ready.queue.is_empty() && ready.threads >= self.limits.threads
    }

    /// One of the threads that answer.
    fn answer_all(self: &Arc<Self>) {
        loop {
            let mut ready = self.ready.lock();
            let next = loop {
                if let Some(next) = ready.queue.pop_front() {
                    break Some(next);
                }
                if self.is_ending() {
                    break None;
                }
                ready.idle += 1;
                let waited = self.work.wait_for(&mut ready, THREAD_IDLE_TIME);
                ready.idle -= 1;
                if waited.timed_out() && ready.queue.is_empty() {
                    break None;
                }
            };
            let Some((connection, why)) = next else {
                ready.threads -= 1;
                return;
            };
            drop(ready);
            let work = AssertUnwindSafe(|| connection.go_on(why));
            if let Err(panic) = catch_unwind(work) {
                let what = crate::threads::panic_text(panic.as_ref());
                log::error!("a request has panicked: {what}");
            }
        }
    }
}

/// Connections too many that have been told so. Closing one with its request
/// unread would reset it, and the client might never read why.
#[derive(Debug, Default)]
struct Refused {
    sockets: Mutex<VecDeque<(Instant, Arc<TcpStream>)>>,
    logged: Mutex<Option<Instant>>,
    count: AtomicU64,
}

impl Refused {
    fn refuse(&self, socket: Arc<TcpStream>, most: usize) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut logged = self.logged.lock();
        if logged.is_none_or(|last| now - last > REFUSED_LOG_PAUSE) {
            log::warn!("over {most} connections; more are refused");
            *logged = Some(now);
        }
        drop(logged);
        let mut busy = String::from("HTTP/1.1 503 Service Unavailable\r\n");
        add_date(&mut busy);
        busy += BUSY;
        let _ = (&*socket).write(busy.as_bytes());
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

/// The answer to a connection over the limit.
const BUSY: &str =
    "Retry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
