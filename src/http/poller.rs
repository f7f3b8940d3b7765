//! Waits for many sockets in one thread, so that connections on which nothing
//! happens need no thread of their own.
//!
//! A socket is parked here with a callback, which is called once: when the
//! socket is ready or has failed, when its time limit is over, when
//! [`Poller::fire`] is called, or when its unsent answer is given up.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::os::socket::{Polled, poll_sockets};
use crate::sync::Bell;
use crate::threads::Stop;

/// The longest wait of one poll(2).
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The pause after a poll(2) that failed, for example for lack of memory.
const FAILED_PAUSE: Duration = Duration::from_millis(50);

/// Why a parked socket fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeReason {
    /// Its socket can be read or written.
    Ready,
    /// Its socket has failed, or is closed.
    Broken,
    /// Its time limit is over.
    Late,
    /// [`Poller::fire`] was called for it.
    Woken,
    /// Too many bytes of answers are held, and this answer is given up.
    GivenUp,
}

/// What a socket must be ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
}

/// What is called when a socket fires. It must not block.
pub type Callback = Box<dyn FnOnce(WakeReason) + Send>;

/// A parked socket.
struct Parked {
    socket: Arc<TcpStream>,
    wants: Interest,
    until: Option<Instant>,
    /// Bytes that are held for an answer that the client does not read. Shared
    /// bytes are not counted.
    bytes: usize,
    then: Callback,
}

/// A message to the thread.
enum Message {
    Park(u64, Parked),
    Change(u64, Interest, Option<Instant>),
    Fire(u64),
}

/// The poller: an inbox, and the thread in [`Poller::run`] that reads it.
pub struct Poller {
    bell: Arc<Bell>,
    stop: Stop,
    inbox: Mutex<Vec<Message>>,
    last_key: AtomicU64,
    bytes_max: usize,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

impl Poller {
    /// A poller in which nothing is parked. Parked answers may hold at most
    /// `bytes_max` bytes in all.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn new(bytes_max: usize, stop: Stop) -> io::Result<Self> {
        let bell = Arc::new(Bell::new()?);
        let woken = Arc::clone(&bell);
        stop.on_set(move || woken.ring());
        let (inbox, last_key) = (Mutex::default(), AtomicU64::new(0));
        Ok(Self { bell, stop, inbox, last_key, bytes_max })
    }

    fn send(&self, message: Message) {
        self.inbox.lock().push(message);
        self.bell.ring();
    }

    /// A new key, to park a socket under.
    pub fn key(&self) -> u64 {
        self.last_key.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Parks a socket until it is ready for what is in `wants`, or until that
    /// time.
    pub fn park(
        &self,
        key: u64,
        socket: Arc<TcpStream>,
        wants: Interest,
        until: Option<Instant>,
        then: Callback,
    ) {
        let parked = Parked { socket, wants, until, bytes: 0, then };
        self.send(Message::Park(key, parked));
    }

    /// Parks a connection whose client does not read its answer, until it can
    /// be written again, or until that time. `bytes` are held for the answer.
    /// If more bytes are held for all answers than may be, the largest answers
    /// are given up.
    pub fn park_answer(
        &self,
        key: u64,
        socket: Arc<TcpStream>,
        until: Instant,
        bytes: usize,
        then: Callback,
    ) {
        let wants = Interest { read: false, write: true };
        let until = Some(until);
        let parked = Parked { socket, wants, until, bytes, then };
        self.send(Message::Park(key, parked));
    }

    /// Changes what a parked socket waits for, unless it has fired already.
    pub fn change(&self, key: u64, wants: Interest, until: Option<Instant>) {
        self.send(Message::Change(key, wants, until));
    }

    /// Makes a parked socket fire, unless it has fired already.
    pub fn fire(&self, key: u64) {
        self.send(Message::Fire(key));
    }

    /// Runs until it is stopped; then drops everything that is parked.
    pub fn run(&self) {
        let mut parked: BTreeMap<u64, Parked> = BTreeMap::new();
        while !self.stop.is_set() {
            let messages = std::mem::take(&mut *self.inbox.lock());
            for message in messages {
                match message {
                    Message::Park(key, waiting) => {
                        let bytes = waiting.bytes;
                        parked.insert(key, waiting);
                        if bytes > 0 {
                            self.keep_within_bounds(&mut parked);
                        }
                    }
                    Message::Change(key, wants, until) => {
                        if let Some(waiting) = parked.get_mut(&key) {
                            (waiting.wants, waiting.until) = (wants, until);
                        }
                    }
                    Message::Fire(key) => {
                        if let Some(waiting) = parked.remove(&key) {
                            (waiting.then)(WakeReason::Woken);
                        }
                    }
                }
            }
            let fired = self.wait(&parked);
            for (key, why) in fired {
                if let Some(waiting) = parked.remove(&key) {
                    (waiting.then)(why);
                }
            }
        }
        let late = std::mem::take(&mut *self.inbox.lock());
        drop(late);
    }

    fn keep_within_bounds(&self, parked: &mut BTreeMap<u64, Parked>) {
        let mut held: usize = parked.values().map(|p| p.bytes).sum();
        if held > self.bytes_max {
            log::warn!(
                "{held} bytes of answers wait for clients that do not read \
                 (setting unsent-bytes is {}); the largest answers are given \
                 up",
                self.bytes_max
            );
        }
        while held > self.bytes_max {
            let largest = parked.iter().max_by_key(|(_, p)| p.bytes);
            let key = largest.map(|(key, _)| *key);
            let Some(largest) = key.and_then(|key| parked.remove(&key)) else {
                return;
            };
            held -= largest.bytes;
            (largest.then)(WakeReason::GivenUp);
        }
    }

    /// Waits until at least one socket fires, or for a message. Returns the
    /// keys of those that fire, and why.
    fn wait(&self, parked: &BTreeMap<u64, Parked>) -> Vec<(u64, WakeReason)> {
        let fd = self.bell.fd().as_raw_fd();
        let mut polled =
            vec![polled(fd, Interest { read: true, write: false })];
        polled.extend(
            parked
                .values()
                .map(|p| self::polled(p.socket.as_raw_fd(), p.wants)),
        );
        let first = parked.values().filter_map(|p| p.until).min();
        let time = first.map_or(WAIT_MAX, |first| {
            first.saturating_duration_since(Instant::now()).min(WAIT_MAX)
        });
        if let Err(e) = poll_sockets(&mut polled, time) {
            log::error!(
                "poll(2) of {} connections failed: {e}; trying again",
                parked.len()
            );
            std::thread::sleep(FAILED_PAUSE);
            return Vec::new();
        }
        self.bell.silence();
        let now = Instant::now();
        let states = parked.iter().zip(&polled[1..]);
        states
            .filter_map(|((key, p), state)| {
                if state.failed {
                    Some((*key, WakeReason::Broken))
                } else if state.readable || state.writable {
                    Some((*key, WakeReason::Ready))
                } else if p.until.is_some_and(|until| until <= now) {
                    Some((*key, WakeReason::Late))
                } else {
                    None
                }
            })
            .collect()
    }
}

/// Waits for one socket, at most that long. Returns whether it is ready.
pub fn wait_for(socket: &TcpStream, wants: Interest, time: Duration) -> bool {
    let mut socket = [polled(socket.as_raw_fd(), wants)];
    let waited = poll_sockets(&mut socket, time);
    waited.is_ok() && (socket[0].readable || socket[0].writable)
}

fn polled(fd: RawFd, wants: Interest) -> Polled {
    Polled {
        fd,
        want_read: wants.read,
        want_write: wants.write,
        readable: false,
        writable: false,
        failed: false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    const READ: Interest = Interest { read: true, write: false };
    const DEADLINE: Duration = Duration::from_secs(60);

    fn pair() -> (TcpStream, Arc<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let client = TcpStream::connect(addr).unwrap();
        (client, Arc::new(listener.accept().unwrap().0))
    }

    fn fill(mut socket: &TcpStream) {
        socket.set_nonblocking(true).unwrap();
        while socket.write(&[0; 4096]).is_ok() {}
    }

    fn park(
        poller: &Poller,
        socket: &Arc<TcpStream>,
        wants: Interest,
        until: Option<Instant>,
    ) -> (u64, Receiver<WakeReason>) {
        let (sender, receiver) = channel();
        let key = poller.key();
        let then = Box::new(move |fired| sender.send(fired).unwrap());
        poller.park(key, Arc::clone(socket), wants, until, then);
        (key, receiver)
    }

    #[test]
    fn parked_sockets_fire_once_with_the_right_reason() {
        let stop = Stop::default();
        let poller = Arc::new(Poller::new(1000, stop.clone()).unwrap());
        let thread = std::thread::spawn({
            let poller = Arc::clone(&poller);
            move || poller.run()
        });
        let (mut client, socket) = pair();
        let (_, ready) = park(&poller, &socket, READ, None);
        client.write_all(b"x").unwrap();
        assert_eq!(ready.recv_timeout(DEADLINE), Ok(WakeReason::Ready));
        let (_quiet, socket) = pair();
        let (_, late) = park(&poller, &socket, READ, Some(Instant::now()));
        assert_eq!(late.recv_timeout(DEADLINE), Ok(WakeReason::Late));
        let (key, woken) = park(&poller, &socket, READ, None);
        poller.fire(key);
        assert_eq!(woken.recv_timeout(DEADLINE), Ok(WakeReason::Woken));
        poller.fire(key);
        let (key, ready) = park(&poller, &socket, READ, None);
        poller.change(key, Interest { read: false, write: true }, None);
        assert_eq!(ready.recv_timeout(DEADLINE), Ok(WakeReason::Ready));
        // The largest answer is given up.
        let answers = [400, 700, 300].map(|bytes| {
            let (sender, receiver) = channel();
            let then = Box::new(move |fired| sender.send(fired).unwrap());
            let (quiet, socket) = pair();
            // It can't be written: its buffers are full.
            fill(&socket);
            let until = Instant::now() + DEADLINE * 10;
            poller.park_answer(poller.key(), socket, until, bytes, then);
            (receiver, quiet)
        });
        let given_up = answers[1].0.recv_timeout(DEADLINE);
        assert_eq!(given_up, Ok(WakeReason::GivenUp));
        assert!(answers[0].0.try_recv().is_err());
        // A callback that was not called is dropped when the poller stops.
        let (_, dropped) = park(&poller, &socket, READ, None);
        stop.set();
        thread.join().unwrap();
        assert!(dropped.recv_timeout(DEADLINE).is_err());
    }
}
