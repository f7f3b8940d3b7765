//! The fan-out: one thread writes /events to every subscriber, without ever
//! waiting for one of them.
//!
//! A subscriber that can't take more is left alone until it can; the hub says
//! when it is too far behind, and then it is cut off. That a client has gone
//! is seen at once, since every socket is polled.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::http::engine::Stream;
use crate::hub::{Cursor, Hub, Line, TooFarBehind};
use crate::os::net::{Polled, poll_sockets};

/// Lines that a subscriber takes from the hub at a time.
const LINES_MAX: usize = 64;

/// How long the thread waits at most before it looks around.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The most bytes that a subscriber may send after its request.
const RECEIVED_MAX: usize = 64 << 10;

/// The end of a chunked body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Who gets events.
#[derive(Debug)]
pub struct Subscriber {
    /// The hub's number of it.
    pub id: u64,
    /// What it calls itself.
    pub agent: Option<String>,
    /// Its place in the list of events.
    pub cursor: Cursor,
}

/// The fan-out.
#[derive(Debug)]
pub struct Fanout {
    hub: Arc<Hub>,
    stall: Duration,
    joining: Mutex<Vec<Out>>,
    ending: AtomicBool,
    has_ended: (Mutex<bool>, Condvar),
}

/// How long the streams may take to end.
const END_TIME: Duration = Duration::from_millis(300);

/// One subscriber's connection.
#[derive(Debug)]
struct Out {
    stream: Stream,
    subscriber: Subscriber,
    /// Lines taken from the hub, of which the first is written up to `sent`.
    lines: VecDeque<Arc<Line>>,
    sent: usize,
    /// Whether it could not take more, since when.
    blocked: Option<Instant>,
    /// Bytes that it has sent, which nobody asked for.
    received: usize,
}

/// Why a subscriber gets no more.
enum Over {
    /// It has gone.
    Gone,
    /// It does not read.
    Behind(String),
}

impl Fanout {
    /// A fan-out of the hub's events; a subscriber that takes nothing for
    /// `stall`, though there is something, is cut off.
    #[must_use]
    pub fn new(hub: Arc<Hub>, stall: Duration) -> Self {
        let (joining, ending) = (Mutex::default(), AtomicBool::new(false));
        let has_ended = (Mutex::new(false), Condvar::new());
        Self { hub, stall, joining, ending, has_ended }
    }

    /// Takes a connection whose first line is out.
    pub fn join(&self, stream: Stream, subscriber: Subscriber) {
        let lines = VecDeque::new();
        let (sent, blocked, received) = (0, None, 0);
        let out = Out { stream, subscriber, lines, sent, blocked, received };
        self.joining.lock().push(out);
        self.hub.wake();
    }

    /// Ends every stream, and the thread: waits until each stream has got its
    /// last chunk, since who comes next closes all connections.
    pub fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        self.hub.wake();
        let until = Instant::now() + END_TIME;
        let mut has_ended = self.has_ended.0.lock();
        while !*has_ended {
            let waited = self.has_ended.1.wait_until(&mut has_ended, until);
            if waited.timed_out() {
                break;
            }
        }
    }

    /// Writes events until it is ended.
    pub fn run(&self) {
        let mut outs: Vec<Out> = Vec::new();
        let wakeup = self.hub.wakeup().as_raw_fd();
        while !self.ending.load(Ordering::SeqCst) {
            let mut polled = vec![polled_for(wakeup, false)];
            polled.extend(outs.iter().map(|out| {
                let fd = out.stream.socket.as_raw_fd();
                polled_for(fd, out.blocked.is_some())
            }));
            if let Err(e) = poll_sockets(&mut polled, WAIT_MAX) {
                log::error!("poll of {} subscribers: {e}", outs.len());
                std::thread::sleep(Duration::from_millis(50));
            }
            self.hub.rest();
            let mut states = polled.iter().skip(1);
            outs.retain_mut(|out| {
                let state = states.next().copied();
                let over = self.attend(out, state);
                over.map_err(|over| self.leave(out, &over)).is_ok()
            });
            for mut out in std::mem::take(&mut *self.joining.lock()) {
                match self.attend(&mut out, None) {
                    Ok(()) => outs.push(out),
                    Err(over) => self.leave(&out, &over),
                }
            }
        }
        let joining = std::mem::take(&mut *self.joining.lock());
        for out in outs.into_iter().chain(joining) {
            out.end();
        }
        *self.has_ended.0.lock() = true;
        self.has_ended.1.notify_all();
    }

    /// Does what there is to do for one subscriber.
    fn attend(&self, out: &mut Out, state: Option<Polled>) -> Result<(), Over> {
        if state.is_some_and(|s| s.readable) {
            out.read()?;
        }
        if let Some(since) = out.blocked {
            if state.is_some_and(|s| s.writable) {
                out.blocked = None;
            } else if since.elapsed() > self.stall {
                let stall = self.stall;
                return Err(Over::Behind(format!(
                    "reads nothing for {stall:?}"
                )));
            }
        }
        loop {
            if out.lines.is_empty() {
                let lines =
                    self.hub.next(&mut out.subscriber.cursor, LINES_MAX);
                out.lines = lines.map_err(too_far_behind)?.into();
            } else if out.blocked.is_some() {
                // Only to see how far behind it is.
                let mut cursor = out.subscriber.cursor;
                self.hub.next(&mut cursor, 0).map_err(too_far_behind)?;
            }
            if out.lines.is_empty() || out.blocked.is_some() {
                return Ok(());
            }
            out.write()?;
        }
    }

    fn leave(&self, out: &Out, over: &Over) {
        self.hub.unsubscribe(out.subscriber.id);
        let agent = out.subscriber.agent.as_deref().unwrap_or("-");
        match over {
            Over::Gone => log::debug!("subscriber has gone: {agent}"),
            Over::Behind(why) => {
                self.hub.count_cut_off();
                log::warn!("subscriber is cut off: {agent}: {why}");
            }
        }
        let _ = out.stream.socket.shutdown(Shutdown::Both);
    }
}

fn too_far_behind(TooFarBehind { events, bytes }: TooFarBehind) -> Over {
    Over::Behind(format!("{events} events, {bytes} bytes behind"))
}

impl Out {
    /// Reads what a subscriber sends: nothing that matters, but its end.
    fn read(&mut self) -> Result<(), Over> {
        let mut bytes = [0; 4096];
        match (&*self.stream.socket).read(&mut bytes) {
            Ok(0) => Err(Over::Gone),
            Ok(n) if self.received + n > RECEIVED_MAX => {
                Err(Over::Behind("it sends without end".to_string()))
            }
            Ok(n) => {
                self.received += n;
                Ok(())
            }
            Err(e) if is_later(&e) => Ok(()),
            Err(_) => Err(Over::Gone),
        }
    }

    /// Writes as much of its lines as it takes.
    fn write(&mut self) -> Result<(), Over> {
        while let Some(line) = self.lines.front() {
            let bytes =
                if self.stream.chunked { line.chunk() } else { line.text() };
            match (&*self.stream.socket).write(&bytes[self.sent..]) {
                Ok(n) if self.sent + n == bytes.len() => {
                    self.sent = 0;
                    self.lines.pop_front();
                }
                Ok(n) => self.sent += n,
                Err(e) if is_later(&e) => {
                    self.blocked = Some(Instant::now());
                    return Ok(());
                }
                Err(_) => return Err(Over::Gone),
            }
        }
        Ok(())
    }

    /// Ends the stream as HTTP wants it, unless in the middle of a line.
    fn end(&self) {
        if self.stream.chunked && self.sent == 0 {
            let _ = (&*self.stream.socket).write(LAST_CHUNK);
        }
        let _ = self.stream.socket.shutdown(Shutdown::Write);
    }
}

fn polled_for(fd: RawFd, want_write: bool) -> Polled {
    Polled { fd, want_write, readable: false, writable: false }
}

fn is_later(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
