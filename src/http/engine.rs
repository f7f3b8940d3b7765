//! The HTTP engine: a few threads that answer requests, and one thread, the
//! poller, that waits for all other connections. The engine handles requests
//! and answers without knowing their content.
//!
//! * Accepting never ends because of an error: the error is logged, and
//!   accepting is tried again.
//! * The head of a request has a size limit and a deadline. A connection has a
//!   limit on its idle time. An answer that the client does not read has a
//!   limit, too.
//! * A thread stays with a connection as long as there is something to do, and
//!   for a moment longer. Then the connection is parked with the rest of its
//!   answer, and needs no thread.
//! * A panic costs one connection.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::answer::{Handler, add_date};
use super::connection::{Connection, Serving};
use super::open::{LINGER_TIME, OpenConnections};
use super::poller::{Poller, WakeReason};
use super::pool::Pool;
use crate::os;
use crate::os::net::Listener;
use crate::settings::HttpLimits;
use crate::sync::Bell;
use crate::threads::Stop;

/// The pause after an accept that failed, for example because no descriptors
/// were left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The most refused connections that are kept open for [`LINGER_TIME`].
const REFUSED_MAX: usize = 32;

/// The shortest time between two log records about refused connections.
const REFUSED_LOG_PAUSE: Duration = Duration::from_secs(10);

/// The longest wait for a connection, if no refused connection has to be closed
/// earlier. A [`Stop`] ends the wait at once.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The numbers that /metrics shows about the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineStatus {
    /// Connections that are open.
    pub connections: usize,
    /// Threads that answer requests.
    pub threads: usize,
    /// Connections refused since the start, because too many were open.
    pub refused: u64,
    /// Bytes held for answers that clients have not read yet.
    pub unsent: usize,
}

/// Accepts connections, and closes all of them at the end.
pub struct Engine {
    serving: Arc<Serving>,
    open: Arc<OpenConnections>,
    refused: Refused,
    /// Rung once, when the daemon ends. It stays readable, so that it wakes
    /// every accepting thread.
    bell: Arc<Bell>,
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
        stop: &Stop,
    ) -> io::Result<Self> {
        let bell = Arc::new(Bell::new()?);
        let woken = Arc::clone(&bell);
        stop.on_set(move || woken.ring());
        let pool = Pool::new(limits.threads, stop);
        let unsent = Arc::default();
        let serving = Serving { limits, handler, poller, unsent, pool };
        Ok(Self {
            serving: Arc::new(serving),
            open: Arc::default(),
            refused: Refused::default(),
            bell,
        })
    }

    /// The engine's present numbers.
    pub fn status(&self) -> EngineStatus {
        EngineStatus {
            connections: self.open.count(),
            threads: self.serving.pool.threads(),
            refused: self.refused.count.load(Ordering::Relaxed),
            unsent: self.serving.unsent.load(Ordering::Relaxed),
        }
    }

    /// Closes every connection.
    pub fn close_all(&self) {
        self.open.shut_down();
    }

    /// Accepts connections until it is stopped.
    pub fn accept_all(&self, listener: &Listener) {
        let mut last_error = None;
        if let Err(e) = listener.set_nonblocking(true) {
            log::error!(
                "{}: can't make the listening socket non-blocking: {e}",
                listener.address()
            );
        }
        while !self.serving.pool.is_ending() {
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
                    // For example, the client has reset the connection, or no
                    // descriptors are left. No such error is final.
                    if last_error != Some(e.kind()) {
                        log::warn!(
                            "{}: can't accept a connection: {e}; trying again",
                            listener.address()
                        );
                    }
                    last_error = Some(e.kind());
                    std::thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }

    fn welcome(&self, socket: TcpStream) {
        if let Err(e) = socket.set_nonblocking(true) {
            log::warn!(
                "a new connection is dropped: can't make it non-blocking: {e}"
            );
            return;
        }
        let socket = Arc::new(socket);
        let most = self.serving.limits.connections;
        match self.open.slot(&socket, most) {
            Some(slot) => {
                let serving = Arc::clone(&self.serving);
                Connection::new(serving, socket, slot).serve(WakeReason::Ready);
            }
            None => self.refused.refuse(socket, most),
        }
    }
}

/// Connections over the limit that have been answered with 503. Closing one at
/// once, with its request unread, would reset it, and the client might never
/// read the answer.
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
            log::warn!(
                "{most} connections are open (setting connections); new ones \
                 are refused with 503"
            );
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

    /// Closes the connections that were refused [`LINGER_TIME`] ago. Returns
    /// how long until the next one must be closed, if there is one.
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

/// The answer to a connection over the limit, after its status line and date.
const BUSY: &str =
    "Retry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
